"""Metrics held against people: what they predict of votes and scores, and on which photographs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from percept import stats
from percept.report.data import StudyData, anchors, answered, generator
from percept.report.judged import MEASURES, scored
from percept.stats.frames import counted_rows
from percept.types import GRAY, REFERENCE

#: Facts of photographs by which metrics are looked at, and the most values of each.
FACTS = ("stratum", "era", "process", "degradation")
MOST_VALUES = 8

#: Anchors in words.
ANCHORS = {GRAY: "the untouched photograph", REFERENCE: "the true colours"}

Verdict = Literal["better", "chance", "worse", "not estimable"]


@dataclass(frozen=True)
class MetricResult:
    """One metric held against the people of one study."""

    metric: str
    higher_is_better: bool
    choices: stats.ChoicePrediction | None
    """None where no two colorizers were compared: single images, or each beside an anchor."""
    within: stats.Correlation
    """Inside each photograph, averaged."""
    overall: stats.Correlation
    verdict: Verdict
    """Whether the interval of its accuracy lies above, around or below one half; without choices,
    that of its rank correlation within photographs, in its own direction, zero."""

    @property
    def agreement(self) -> stats.Estimate:
        """Spearman's coefficient within photographs; positive where the metric is right."""
        found = self.within.srocc
        if self.higher_is_better:
            return found
        return replace(found, value=-found.value, low=-found.high, high=-found.low)


@dataclass(frozen=True)
class Facet:
    """The metrics on the photographs that share a fact."""

    fact: str
    value: str
    photographs: int
    answers: int
    """Answered trials on them that enter the scores or choices, ties included."""
    found: dict[str, stats.Estimate]
    """By metric: share of choices predicted; without choices, Spearman's coefficient within
    photographs in the metric's own direction."""


@dataclass(frozen=True)
class Metrics:
    """Metrics against people on one question."""

    study: str
    attribute: str
    scores: str
    """What the people's score of an image is."""
    beside: str
    """The anchor that every image was judged beside, in words; else empty."""
    ceiling: stats.Estimate | None
    """The most that any predictor of choices can expect, from people's own disagreement."""
    results: tuple[MetricResult, ...]
    facets: tuple[Facet, ...]
    skipped: dict[str, str]
    problem: str

    @property
    def paired(self) -> bool:
        """Whether there are choices between colorizers to predict."""
        return any(result.choices is not None for result in self.results)


def people_scores(study: StudyData, votes: pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """Score images by people: a frame (images, observers) by (content, condition), and its name.

    Anchors are not scored. Where pairs show no two colorizers together, it is how they fare against
    the anchor that they were shown with; the third value is that condition, of real or fake the
    true colours, else empty.
    """
    left_out = anchors(study.conditions)
    method = study.protocol.method
    if method != "pairwise":
        rows = scored(study, votes)
        rows = rows[~rows["condition"].isin(left_out).to_numpy(bool)]
        found = rows.pivot_table(
            index=["content", "condition"], columns="observer", values="score", aggfunc="mean"
        )
        return found, MEASURES[method].told, REFERENCE if method == "real_or_fake" else ""
    wins = stats.stimulus_wins(votes, exclude=tuple(left_out))
    if len(wins):
        return wins, "share of comparisons won", ""
    rows = counted_rows(votes, ("left", "right"))
    shown = {name: int((rows[["left", "right"]] == name).any(axis=1).sum()) for name in left_out}
    if not any(shown.values()):
        return wins, "share of comparisons won", ""
    beside = max(shown, key=lambda name: shown[name])
    wins = stats.stimulus_wins(votes, exclude=tuple(name for name in left_out if name != beside))
    own = wins.index.get_level_values("condition") != beside
    told = f"share of comparisons won against {ANCHORS[left_out[beside]]}"
    return wins[own], told, beside


def hold_against(study: StudyData, attribute: str, settings: Mapping[str, Any]) -> Metrics:
    """Hold every metric of a study's run against its people."""

    def nothing(problem: str, skipped: dict[str, str] | None = None) -> Metrics:
        return Metrics(study.name, attribute, "", "", None, (), (), skipped or {}, problem)

    if study.run is None:
        return nothing(study.run_problem)
    skipped, table = dict(study.metrics_skipped), study.metrics
    table = table[table["content_id"].isin(study.contents["content_id"])]
    if table.empty:
        none = "No metrics were computed: percept metrics RUN computes them."
        return nothing(study.run_problem or none, skipped)
    votes = study.ratings[(study.ratings["attribute"] == attribute).to_numpy(bool)]
    scores, told, beside = people_scores(study, votes)
    if scores.empty:
        return nothing("There are no answers on colorizers yet.", skipped)
    kinds = anchors(study.conditions)
    left_out = tuple(kinds)
    paired = study.protocol.method == "pairwise" and not beside
    photographs = scores.index.get_level_values("content")
    rises = directions(study)
    columns = {
        str(name): own.set_index(["content_id", "condition"])["value"]
        for name, own in table.groupby("metric", sort=False)
    }
    values = {name: own.reindex(scores.index) for name, own in columns.items()}

    def coefficients(
        part: str, here: npt.NDArray[np.bool_] | None = None
    ) -> dict[str, stats.Correlation]:
        here = np.ones(len(scores), dtype=bool) if here is None else here
        return stats.correlate_many(
            {name: series[here] for name, series in values.items()},
            scores[here].to_numpy(float).T,
            within=None if part == "overall" else photographs[here],
            fit="logistic4" if part == "overall" else None,
            cluster=photographs[here],
            n_boot=settings["n_boot"],
            confidence=settings["confidence"],
            rng=generator(settings["seed"], "metric", study.name, attribute, part),
        )

    def choices(name: str, rows: pd.DataFrame) -> stats.ChoicePrediction:
        return stats.predict_choices(
            columns[name],
            rows,
            higher_is_better=rises.get(name, True),
            exclude=left_out,
            confidence=settings["confidence"],
        )

    # Answered trials that show no anchor, but the one that everything was judged beside.
    rows = answered(votes)
    shown = rows[[name for name in ("left", "right", "condition") if name in rows]]
    used = rows[~shown.isin(set(left_out) - {beside}).any(axis=1).to_numpy(bool)]

    within, overall = coefficients("within"), coefficients("overall")
    results = []
    for name in values:
        result = MetricResult(
            metric=name,
            higher_is_better=rises.get(name, True),
            choices=choices(name, votes) if paired else None,
            within=within[name],
            overall=overall[name],
            verdict="not estimable",
        )
        results.append(replace(result, verdict=_verdict(result)))
    results.sort(key=lambda result: (-np.nan_to_num(_main(result).value, nan=-9), result.metric))

    def facet(fact: str, value: str, contents: set[str]) -> Facet:
        own = votes[votes["content"].isin(contents).to_numpy(bool)]
        here = photographs.isin(contents)
        if paired:
            found = {result.metric: choices(result.metric, own).accuracy for result in results}
        else:
            inside = coefficients(f"{fact} {value}", here)
            found = {r.metric: replace(r, within=inside[r.metric]).agreement for r in results}
        answers = used.loc[used["content"].isin(contents).to_numpy(bool), "trial"].nunique()
        return Facet(fact, value, len(set(photographs[here])), answers, found)

    # Metrics exist for more or fewer photographs; the ceiling is that of the most votes.
    predicted = [result.choices for result in results if result.choices is not None]
    most = max(predicted, key=lambda found: found.n) if predicted else None
    return Metrics(
        study.name,
        attribute,
        told,
        ANCHORS[kinds.get(beside, beside)] if beside else "",
        most.human_accuracy if most is not None and most.human_accuracy.estimable else None,
        tuple(results),
        tuple(facet(*part) for part in _parts(study, set(photographs))),
        skipped,
        study.run_problem,
    )


def directions(study: StudyData) -> dict[str, bool]:
    """Tell of each metric of the study's run whether higher is better."""
    known = study.run.info.get("metrics", {}) if study.run is not None else {}
    return {name: bool(entry.get("higher_is_better", True)) for name, entry in known.items()}


def _parts(study: StudyData, judged: set[str]) -> Iterator[tuple[str, str, set[str]]]:
    """Judged photographs by each fact that tells them apart: the fact, its value, their names.

    A photograph counts for each of its degradations; values of a single photograph are left out.
    """
    contents = study.contents[study.contents["content_id"].isin(judged).to_numpy(bool)]
    for fact in FACTS:
        named = contents[["content_id", fact]].dropna()
        each = named.assign(**{fact: named[fact].astype(str).str.split(";")}).explode(fact)
        groups = {str(value): set(own) for value, own in each.groupby(fact)["content_id"]}
        groups = {value: own for value, own in groups.items() if 1 < len(own) < len(judged)}
        largest = sorted(groups, key=lambda value: (-len(groups[value]), value))[:MOST_VALUES]
        if len(largest) > 1:
            yield from ((fact, value, groups[value]) for value in sorted(largest))


def _main(result: MetricResult) -> stats.Estimate:
    return result.agreement if result.choices is None else result.choices.accuracy


def _verdict(result: MetricResult) -> Verdict:
    found, chance = _main(result), 0.0 if result.choices is None else 0.5
    if not found.estimable or not np.isfinite(found.low):
        return "not estimable"
    if found.low > chance:
        return "better"
    return "worse" if found.high < chance else "chance"
