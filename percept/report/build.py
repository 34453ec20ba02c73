"""Joins data and statistics into one frozen, JSON-able result: the whole content of a report.

Reading (:func:`percept.report.data.read_study`) and analysis (:func:`analyse`) are separate, so
that the analysis needs frames and no database. Nothing is estimated here: every estimate comes
from :mod:`percept.stats`, each with a generator of its own
(:func:`percept.report.data.generator`), so that a number does not depend on what else is in the
report.
"""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

import percept
from percept import stats
from percept.inference.run import open_run
from percept.report import pictures, words
from percept.report.against import Metrics, hold_against
from percept.report.data import (
    Part,
    StudyData,
    anchors,
    answered,
    flagged_of,
    generator,
    last_revision,
    parts_of,
    read_study,
    weights_of,
)
from percept.report.judged import JUDGED, Comparison, Judged, compare_all, judge
from percept.report.pictures import Example, Parting
from percept.stats.frames import counted_rows
from percept.types import REFERENCE

if TYPE_CHECKING:
    from percept.store import Store

FORMAT = 1
HEAT_MAP = (32, 48)  # rows, columns of the grid that drawn regions are counted on


# --- the result, in the order of the report --------------------------------------------------


@dataclass(frozen=True)
class StudyFacts:
    """What was launched."""

    study: str
    method: str
    title: str
    attributes: dict[str, str]
    """Name and question of each attribute."""
    conditions: tuple[str, ...]
    anchors: dict[str, str]
    """Conditions that are no colorizer: name, and which of ``gray`` and ``reference``."""
    photographs: int
    state: str
    created_at: str
    protocol_sha256: str
    seed: int
    simulated: Literal["all", "some", "none"]
    imported: str
    """File of the votes, where they were made elsewhere."""


@dataclass(frozen=True)
class People:
    """Who answered one study, and which answers count."""

    study: str
    observers: int
    """With at least one counted answer."""
    joined: int
    withdrawn: int
    simulated: int
    groups: dict[str, int]
    sessions: int
    sessions_complete: int
    answers: dict[str, int]
    """Answered trials by kind, skipped ones left out; only ``test`` enters the estimates."""
    skipped: int
    skip_reasons: dict[str, int]
    revised: int
    """Answers that a later one replaced."""
    flagged: dict[str, str]
    """Observers that screening flags, with the reasons. Their votes count all the same."""
    response_s: dict[str, float]
    """Quartiles of response times in seconds, over counted answers."""
    response_counts: tuple[int, ...]
    response_edges_s: tuple[float, ...]
    """Histogram of response times; the edges are equally spaced in log seconds."""
    left_share: stats.Estimate | None
    """Share of decided pairs in which the left image won; sides were balanced."""
    last_answer: str | None
    looks: int
    """How often results were looked at before this report."""


@dataclass(frozen=True)
class Agreement:
    """Whether observers agree with each other and with themselves, on one question."""

    study: str
    attribute: str
    measure: str
    between: stats.Estimate
    """Krippendorff's alpha; interval for new units."""
    between_observers: stats.Estimate
    """The same; interval for new observers."""
    split_half: stats.Estimate
    """Reliability of the means over observers: random halves, stepped up to all of them."""
    means_of: float
    """Ratings behind the mean of a unit (harmonic mean)."""
    repeated: stats.Estimate | None
    """Share of repeated trials that got the same answer."""
    identical: stats.Estimate | None
    """Share of pairs of one image with itself that were called no different."""


@dataclass(frozen=True)
class Pair:
    """Two conditions compared directly."""

    first: str
    second: str
    first_wins: float
    second_wins: float
    ties: float
    share: stats.Estimate
    """Share that prefers ``first``, without a model; a tie counts half."""
    model: stats.Estimate
    """Share of those who choose that prefers ``first``, from the scale."""


@dataclass(frozen=True)
class ArmDifference:
    """Two arms of an experiment, judged against the variance between training seeds."""

    first: str
    second: str
    seeds: tuple[int, int]
    score: stats.TestedEstimate
    """Mean log-strength of the first less that of the second; p by Holm over all pairs of arms."""


@dataclass(frozen=True)
class Preference(Part):
    """Preference on one question among all observers and photographs, or a part of them."""

    ties: int
    scale: stats.Scale | None
    pairs: tuple[Pair, ...]
    problem: str
    """Why there is no scale, where there is none; the doubts of a scale are in its warnings."""
    arms: tuple[ArmDifference, ...] = ()
    """Of all votes together, where conditions are training seeds of arms."""


@dataclass(frozen=True)
class ArtifactPart(Part):
    """Rates of artifacts in a part of the viewings."""

    any: tuple[stats.ArtifactRate, ...]
    severe: tuple[stats.ArtifactRate, ...]


@dataclass(frozen=True)
class Artifacts:
    """What observers marked in single images, and where."""

    study: str
    severity: int
    """Marks from this severity on count as severe."""
    severity_label: str
    labels: dict[str, str]
    """Name and label of each artifact of the taxonomy."""
    viewings: int
    weighted: bool
    any: tuple[stats.ArtifactRate, ...]
    severe: tuple[stats.ArtifactRate, ...]
    by_artifact: tuple[stats.ArtifactRate, ...]
    by_severity: dict[str, tuple[int, ...]]
    """Number of viewings of each condition by worst severity: none first."""
    severities: tuple[str, ...]
    heat: dict[str, tuple[tuple[float, ...], ...]]
    """Share of viewings of each condition in which a place of the frame was marked."""
    parts: tuple[ArtifactPart, ...]
    """Without flagged observers, and by group and stratum, where that makes a difference."""
    problem: str


@dataclass(frozen=True)
class Why:
    """What observers marked on losing images. No rates: winning images were not marked."""

    study: str
    labels: dict[str, str]
    lost: dict[str, int]
    """Decided votes that each condition lost."""
    marked: dict[str, int]
    """Those of them with at least one mark."""
    counts: dict[str, dict[str, int]]
    """Losing images of each condition by artifact; an artifact counts once in an image."""


@dataclass(frozen=True)
class Answer:
    """The answer of one question in plain words; condition names stand between ``**``."""

    study: str
    attribute: str
    question: str
    lead: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """The whole content of a report, in its order."""

    format: int
    title: str
    simulated: Literal["all", "some", "none"]
    banner: str
    settings: dict[str, Any]
    studies: tuple[StudyFacts, ...]
    answer: tuple[Answer, ...]
    people: tuple[People, ...]
    agreement: tuple[Agreement, ...]
    comparison: tuple[Comparison, ...]
    preference: tuple[Preference, ...]
    judged: tuple[Judged, ...]
    artifacts: tuple[Artifacts, ...]
    why: tuple[Why, ...]
    metrics: tuple[Metrics, ...]
    examples: tuple[Example, ...]
    partings: tuple[Parting, ...]
    methods: tuple[str, ...]
    provenance: dict[str, Any]

    @property
    def stamp(self) -> str:
        """Words that mark every figure and table of simulated answers; else empty."""
        return {"all": "Simulated observers", "some": "Partly simulated observers"}.get(
            self.simulated, ""
        )

    @property
    def headlines(self) -> tuple[str, ...]:
        """The leads of the answers, without marks."""
        return tuple(answer.lead.replace("**", "") for answer in self.answer)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON types: NaN and infinity are null, frames are lists."""
        result: dict[str, Any] = jsonable(self)
        for answer in result["answer"]:
            answer["lead"] = answer["lead"].replace("**", "")
            answer["details"] = [text.replace("**", "") for text in answer["details"]]
        return result


def jsonable(value: Any) -> Any:
    """Turn results of any depth into JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, tuple | list):
        return [jsonable(entry) for entry in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.name
    return value


# --- analysis --------------------------------------------------------------------------------


def build_report(
    store: Store,
    studies: Sequence[str],
    *,
    run: str | Path | None = None,
    seed: int = 0,
    n_boot: int = 1000,
    confidence: float = 0.95,
    baseline: str | None = None,
) -> Report:
    """Read studies and analyse them together.

    Parameters
    ----------
    store : Store
        The open database.
    studies : sequence of str
        Names, in the order of the report.
    run : path, optional
        Run directory with the metrics; by default the one that each study was made from.
    seed, n_boot, confidence
        Of every interval; the same inputs give the same report.
    baseline : str, optional
        What conditions are compared with: another study (before a change), or else one condition.

    Raises
    ------
    InputError
        There is no such study, ``run`` is no run, or it is the run of something else; or nothing
        can be compared with ``baseline``.
    """
    opened = open_run(run) if run is not None else None
    data = [read_study(store, name, opened) for name in dict.fromkeys(studies)]
    held: str | StudyData | None = baseline
    if any(study.name == baseline for study in store.studies()):
        held = read_study(store, str(baseline))
    return analyse(data, seed=seed, n_boot=n_boot, confidence=confidence, baseline=held)


def analyse(
    studies: Sequence[StudyData],
    *,
    seed: int = 0,
    n_boot: int = 1000,
    confidence: float = 0.95,
    baseline: str | StudyData | None = None,
) -> Report:
    """Analyse studies that were read already; see :func:`build_report`."""
    settings = {"seed": seed, "n_boot": n_boot, "confidence": confidence}
    facts = tuple(_facts(study) for study in studies)
    marked = {fact.simulated for fact in facts}
    simulated: Literal["all", "some", "none"] = (
        "all" if marked == {"all"} else "none" if marked == {"none"} else "some"
    )
    people = tuple(_people(study, confidence) for study in studies)
    parts = [
        (study, attribute.name) for study in studies for attribute in study.protocol.attributes
    ]
    pairwise = [part for part in parts if part[0].protocol.method == "pairwise"]
    agreement = tuple(_agreement(*part, settings) for part in parts)
    preference = tuple(
        _preference(study, votes, part, settings)
        for study, attribute in pairwise
        for votes, part in parts_of(study, attribute)
    )
    judged = tuple(
        judge(study, votes, part, confidence)
        for study, attribute in parts
        if study.protocol.method in JUDGED
        for votes, part in parts_of(study, attribute)
    )
    comparison = () if baseline is None else compare_all(parts, baseline, confidence)
    artifacts = tuple(
        _artifacts(study, attribute, confidence)
        for study, attribute in parts
        if study.protocol.method == "artifact"
    )
    why = tuple(_why(study) for study in studies if study.protocol.why != "off")
    scored = [part for part in parts if part[0].protocol.method != "artifact"]
    metrics = tuple(hold_against(*part, settings) for part in scored)
    shown = tuple(entry for part in pairwise for entry in pictures.examples(*part))
    parted = tuple(
        entry
        for part, held in zip(scored, metrics, strict=True)
        for entry in pictures.partings(*part, held)
    )
    return Report(
        format=FORMAT,
        title=" and ".join(study.name for study in studies),
        simulated=simulated,
        banner=words.banner(people),
        settings=settings,
        studies=facts,
        answer=words.answers(facts, preference, judged, artifacts, people),
        people=people,
        agreement=agreement,
        comparison=comparison,
        preference=preference,
        judged=judged,
        artifacts=artifacts,
        why=why,
        metrics=metrics,
        examples=shown,
        partings=parted,
        methods=words.methods(
            [study.protocol for study in studies],
            facts,
            people,
            agreement,
            preference,
            judged,
            artifacts,
            metrics,
            comparison,
            settings,
        ),
        provenance=_provenance(studies),
    )


def _facts(study: StudyData) -> StudyFacts:
    return StudyFacts(
        study=study.name,
        method=study.protocol.method,
        title=study.protocol.title,
        attributes={entry.name: entry.question for entry in study.protocol.attributes},
        conditions=tuple(study.conditions["condition"]),
        anchors=anchors(study.conditions),
        photographs=len(study.contents),
        state=study.state,
        created_at=study.created_at,
        protocol_sha256=study.protocol.sha256,
        seed=study.seed,
        simulated=_simulated(study),
        imported=study.imported,
    )


def _simulated(study: StudyData) -> Literal["all", "some", "none"]:
    flags = study.observers["simulated"].astype(bool)
    if not flags.any():
        return "none"
    return "all" if flags.all() else "some"


def _people(study: StudyData, confidence: float) -> People:
    ratings = study.ratings
    last = last_revision(ratings)
    judged = last[last["choice"] != "skip"] if "choice" in last else last
    kinds = judged.drop_duplicates("trial")["kind"].value_counts()
    test = last[last["kind"] == "test"]
    answers = test.drop_duplicates(["trial", "attribute"])
    reasons = study.notes[study.notes["value"] == "skip"]["reason"].dropna().value_counts()
    if "choice" in test:
        answers = answers[answers["choice"] != "skip"]
        skipped = int((last["choice"] == "skip").sum())
    else:  # a skipped trial of single images has no rows; it always has a reason
        skipped = int(reasons.sum())
    seconds = answers["response_time_ms"].to_numpy(float) / 1000
    seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
    logs = np.log10(seconds)
    counts, edges = np.histogram(
        logs, bins=28, range=(logs.min() - 0.05, logs.max() + 0.05) if logs.size else (0, 1)
    )
    left = None
    if "choice" in test:
        decided = test[test["choice"].isin(["left", "right"])]
        if len(decided):
            left = stats.cluster_mean(
                (decided["choice"] == "left").to_numpy(float),
                decided[["observer"]],
                share=True,
                confidence=confidence,
                method="share of decided pairs in which the left image was chosen",
            )
    who = study.observers[study.observers["observer"].isin(answers["observer"])]
    sessions = study.sessions
    return People(
        study=study.name,
        observers=len(who),
        joined=len(study.observers),
        withdrawn=int(study.observers["withdrawn_at"].notna().sum()),
        simulated=int(study.observers["simulated"].sum()),
        groups={str(key): int(n) for key, n in who["group"].value_counts().sort_index().items()},
        sessions=len(sessions),
        sessions_complete=int(sessions["finished_at"].notna().sum()),
        answers={str(kind): int(n) for kind, n in kinds.sort_index().items()},
        skipped=skipped,
        skip_reasons={str(key): int(n) for key, n in sorted(reasons.items())},
        revised=int((ratings.drop_duplicates("response_id")["revision"] > 1).sum()),
        flagged=flagged_of(study),
        response_s={
            name: float(np.quantile(seconds, q)) if seconds.size else math.nan
            for name, q in (("lower_quartile", 0.25), ("median", 0.5), ("upper_quartile", 0.75))
        },
        response_counts=tuple(int(n) for n in counts),
        response_edges_s=tuple(float(10**edge) for edge in edges),
        left_share=left,
        last_answer=_last_answer(study),
        looks=study.looks,
    )


def _last_answer(study: StudyData) -> str | None:
    ratings = study.ratings
    times = ratings["rated_at"]
    if study.imported:  # when they were imported; where no time is known, both are that
        times = ratings["presented_at"][(ratings["presented_at"] != times).to_numpy(bool)]
    return times.max().isoformat(timespec="seconds") if len(times) else None


def _agreement(study: StudyData, attribute: str, settings: dict[str, Any]) -> Agreement:
    votes = study.ratings[(study.ratings["attribute"] == attribute).to_numpy(bool)]
    interval = {"n_boot": settings["n_boot"], "confidence": settings["confidence"]}
    method = study.protocol.method
    ratings = None if method == "pairwise" else _coded(method, votes)
    level: Literal["nominal", "ordinal"] = "nominal" if method == "real_or_fake" else "ordinal"

    def alpha(resample: Literal["units", "observers"]) -> stats.Estimate:
        rng = generator(settings["seed"], "agreement", study.name, attribute, resample)
        if ratings is None:
            return stats.pairwise_alpha(votes, resample=resample, rng=rng, **interval)
        return stats.krippendorff_alpha(ratings, level, resample=resample, rng=rng, **interval)

    reliability = stats.assess_reliability(
        stats.stimulus_wins(votes, exclude=()).to_numpy(float).T if ratings is None else ratings,
        rng=generator(settings["seed"], "reliability", study.name, attribute),
        **interval,
    )
    return Agreement(
        study=study.name,
        attribute=attribute,
        measure=words.AGREED[method],
        between=alpha("units"),
        between_observers=alpha("observers"),
        split_half=reliability.split_half,
        means_of=reliability.per_unit,
        repeated=_repeated(votes, settings["confidence"]),
        identical=_identical(study, votes, settings["confidence"]),
    )


def _coded(method: str, votes: pd.DataFrame) -> np.ndarray:
    """Answers on single images as numbers (observers, units); the worst severity of artifacts."""
    rows = answered(votes)
    if method == "artifact":
        rows = rows.assign(code=rows["severity"].where(rows["artifact"].notna(), 0.0))
    elif method == "rating":
        rows = rows.assign(code=rows["score"].astype(float))
    elif method == "review":
        rows = rows.assign(code=rows["verdict"].map({"reject": 0.0, "fix": 1.0, "accept": 2.0}))
    else:
        true_left = rows["left"] == REFERENCE
        rows = rows.assign(
            condition=rows["right"].where(true_left, rows["left"]),
            code=((rows["choice"] == "left") != true_left).astype(float),
        )
    table = rows.pivot_table(
        index="observer", columns=["content", "condition"], values="code", aggfunc="max"
    )
    return np.asarray(table.to_numpy(float)) if table.size else np.empty((0, 0))


def _repeated(votes: pd.DataFrame, confidence: float) -> stats.Estimate | None:
    if not (votes["kind"] == "repeat").any():
        return None
    if "choice" in votes:
        return stats.repeat_consistency(votes, confidence=confidence)
    votes = last_revision(votes)
    answer = next((votes[name] for name in ("score", "verdict") if name in votes), None)
    if answer is None:  # an artifact trial has a row for each mark: was anything marked?
        answer = votes["artifact"].notna().groupby(votes["trial"]).transform("max")
    trials = (
        votes.assign(answer=answer)
        .groupby("trial")
        .agg(
            observer=("observer", "first"),
            content=("content", "first"),
            repeat_of=("repeat_of", "first"),
            answer=("answer", "first"),
        )
    )
    repeats = trials[trials["repeat_of"].isin(trials.index).to_numpy(bool)]
    same = repeats["answer"].to_numpy() == trials["answer"].reindex(repeats["repeat_of"]).to_numpy()
    return stats.cluster_mean(
        same.astype(float),
        repeats[["observer", "content"]],
        share=True,
        confidence=confidence,
        method="share of repeated images that got the same answer",
    )


def _identical(study: StudyData, votes: pd.DataFrame, confidence: float) -> stats.Estimate | None:
    if not study.protocol.tie:
        return None  # without ties as an answer, a choice between equals means nothing
    votes = last_revision(votes)
    asked = (votes["kind"] == "identical") & (votes["choice"] != "skip")
    rows = votes[asked.to_numpy(bool)]
    if rows.empty:
        return None
    return stats.cluster_mean(
        (rows["choice"] == "tie").to_numpy(float),
        rows[["observer"]],
        share=True,
        confidence=confidence,
        method="share of identical pairs that were called no different",
    )


def _preference(
    study: StudyData, votes: pd.DataFrame, part: Part, settings: dict[str, Any]
) -> Preference:
    rows = answered(votes)
    scale, problem = None, ""
    pairs: tuple[Pair, ...] = ()
    if rows.empty:
        problem = "There are no votes yet."
    else:
        name = part.group or ("sound" if part.without_flagged else "")
        labels = ("preference", study.name, part.attribute, name, part.stratum or "")
        scale = stats.bradley_terry(
            votes,
            n_boot=settings["n_boot"],
            confidence=settings["confidence"],
            rng=generator(settings["seed"], *labels),
        )
        pairs = tuple(_pairs(study, votes, scale, settings["confidence"]))
    return Preference(
        **vars(part),
        ties=int((rows["choice"] == "tie").sum()),
        scale=scale,
        pairs=pairs,
        problem=problem,
        arms=() if part.part or rows.empty else _arms(study, votes, settings["confidence"]),
    )


def _arms(study: StudyData, votes: pd.DataFrame, confidence: float) -> tuple[ArmDifference, ...]:
    own = study.conditions.dropna(subset="arm")
    if own["arm"].nunique() < 2:
        return ()
    found = stats.compare_arms(
        votes, dict(zip(own["condition"], own["arm"], strict=True)), confidence=confidence
    )
    return tuple(
        ArmDifference(a, b, (found.seeds[a], found.seeds[b]), difference)
        for (a, b), difference in found.differences.items()
    )


def _pairs(
    study: StudyData, votes: pd.DataFrame, scale: stats.Scale, confidence: float
) -> Iterator[Pair]:
    counts = stats.count_pairs(votes.drop(columns="count", errors="ignore"))
    items = list(counts.items or ())
    wins, ties = np.asarray(counts.wins), np.asarray(counts.ties)
    order = [name for name in study.conditions["condition"] if name in items]
    rows = counted_rows(votes, ("left", "right", "choice"))  # once for all pairs
    wanted = ("observer", "content", "left", "right", "choice", "count")
    rows = rows[[name for name in wanted if name in rows]]
    swap = rows["left"] > rows["right"]
    ends = rows["left"].where(~swap, rows["right"]), rows["right"].where(~swap, rows["left"])
    met = dict(iter(rows.groupby(list(ends), sort=False)))
    for first, second in combinations(order, 2):
        i, j = items.index(first), items.index(second)
        if wins[i, j] + wins[j, i] + ties[i, j] == 0:
            continue
        yield Pair(
            first,
            second,
            wins[i, j],
            wins[j, i],
            ties[i, j],
            stats.preference_share(
                met[min(first, second), max(first, second)], first, second, confidence=confidence
            ),
            scale.probability(first, second),
        )


def _artifacts(study: StudyData, attribute: str, confidence: float) -> Artifacts:
    protocol = study.protocol
    levels = sorted(protocol.severities, key=lambda level: level.value)
    rows = counted_rows(study.ratings, ("condition", "artifact", "severity", "trial"))
    weights = weights_of(study)
    order = {name: i for i, name in enumerate(study.conditions["condition"])}

    def rates(votes: pd.DataFrame, **settings: Any) -> tuple[stats.ArtifactRate, ...]:
        found = stats.artifact_rates(votes, weights=weights, confidence=confidence, **settings)
        return tuple(sorted(found, key=lambda rate: order[rate.condition]))

    every, worst = rates(study.ratings, by_artifact=True), levels[-1].value
    by_severity, heat = {}, {}
    for condition in order:
        own = rows[(rows["condition"] == condition).to_numpy(bool)]
        if own.empty:
            continue
        found = own["severity"].where(own["artifact"].notna(), 0).groupby(own["trial"]).max()
        by_severity[condition] = tuple(
            int((found == value).sum()) for value in (0, *(level.value for level in levels))
        )
        heat[condition] = _heat(own, weights)
    return Artifacts(
        study=study.name,
        severity=worst,
        severity_label=levels[-1].label,
        labels={entry.name: entry.label for entry in protocol.artifacts},
        viewings=rows["trial"].nunique(),
        weighted=weights is not None,
        any=tuple(rate for rate in every if rate.artifact is None),
        severe=rates(study.ratings, min_severity=worst),
        by_artifact=tuple(rate for rate in every if rate.artifact is not None),
        by_severity=by_severity,
        severities=("No artifact", *(level.label for level in levels)),
        heat=heat,
        parts=tuple(
            ArtifactPart(**vars(part), any=rates(votes), severe=rates(votes, min_severity=worst))
            for votes, part in parts_of(study, attribute)
            if part.part
        ),
        problem="" if len(rows) else "There are no answers yet.",
    )


def _heat(rows: pd.DataFrame, weights: pd.Series | None) -> tuple[tuple[float, ...], ...]:
    """Share of viewings that marked each cell of the frame; a region counts once per viewing."""
    share = stats.region_map(rows, rows, shape=HEAT_MAP, weights=weights)
    return tuple(tuple(round(float(v), 4) for v in line) for line in share)


def _why(study: StudyData) -> Why:
    """Count what was marked on losing images, in the last answers of test trials."""
    first = study.protocol.attributes[0].name
    rows = answered(study.ratings[(study.ratings["attribute"] == first).to_numpy(bool)])
    decided = rows[rows["choice"].isin(("left", "right")).to_numpy(bool)]
    loser = decided["right"].where(decided["choice"] == "left", decided["left"])
    marks = study.marks[study.marks["response_id"].isin(decided["response_id"])]
    marks = marks.drop_duplicates(["trial", "artifact"])
    counts = pd.crosstab(marks["condition"], marks["artifact"])
    marked = marks.drop_duplicates("trial")["condition"].value_counts()
    names = [name for name in study.conditions["condition"] if (loser == name).any()]
    return Why(
        study=study.name,
        labels={entry.name: entry.label for entry in study.protocol.artifacts},
        lost={name: int((loser == name).sum()) for name in names},
        marked={name: int(marked.get(name, 0)) for name in names},
        counts={
            name: {str(kind): int(n) for kind, n in counts.loc[name].items() if n}
            if name in counts.index
            else {}
            for name in names
        },
    )


def _provenance(studies: Sequence[StudyData]) -> dict[str, Any]:
    runs = {str(study.run.root): study.run for study in studies if study.run is not None}
    return {
        "software": {
            "percept": percept.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "scipy", "pandas")},
        },
        "studies": [
            {
                "study": study.name,
                "created_at": study.created_at,
                "protocol_sha256": study.protocol.sha256,
                "seed": study.seed,
                "run": study.run_path,
                "imported": study.imported,
                "conditions": study.conditions.astype(object)
                .where(study.conditions.notna(), None)
                .to_dict("records"),
            }
            for study in studies
        ],
        "runs": [{"path": path, "run": run.info} for path, run in runs.items()],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
