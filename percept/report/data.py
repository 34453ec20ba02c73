"""What is read of a study, and the parts of its answers that are analysed by themselves."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from percept import stats
from percept.errors import InputError
from percept.inference.run import Run, open_run
from percept.protocol import Protocol, parse_protocol
from percept.stats.frames import counted_rows
from percept.types import GRAY, METRIC_COLUMNS, REFERENCE

if TYPE_CHECKING:
    from percept.store import Store


def generator(seed: int, *labels: str) -> np.random.Generator:
    """Make the generator of one estimate, from the report's seed and the estimate's labels."""
    return np.random.default_rng([seed, zlib.crc32("\n".join(labels).encode())])


@dataclass(frozen=True)
class StudyData:
    """Everything that is read of one study, as frames of :class:`percept.store.Store`.

    ``images`` maps (content, condition), with condition None for the grey original, to the file
    of the image that observers saw; ``run`` is None where the run directory is not at hand, and
    ``run_problem`` then says why. ``metrics`` are the run's of the images that observers saw, and
    ``metrics_skipped`` tells what is not among them.
    """

    name: str
    protocol: Protocol
    state: str
    created_at: str
    seed: int
    run_path: str
    ratings: pd.DataFrame
    observers: pd.DataFrame
    sessions: pd.DataFrame
    conditions: pd.DataFrame
    contents: pd.DataFrame
    notes: pd.DataFrame
    marks: pd.DataFrame
    looks: int
    images: Mapping[tuple[str, str | None], Path]
    run: Run | None
    metrics: pd.DataFrame
    metrics_skipped: Mapping[str, str]
    run_problem: str = ""
    imported: str = ""
    """File of the votes, where they were made elsewhere: how images were shown is not known."""


def read_study(store: Store, name: str, run: Run | None = None) -> StudyData:
    """Read one study; its own run directory is opened if none is given.

    Raises
    ------
    InputError
        There is no such study, or ``run`` holds none of its photographs and conditions.
    """
    study = store.study(name)
    problem, given = "", run is not None
    if run is None:
        try:
            run = open_run(study.run_path)
        except InputError as error:
            problem = f"The run directory is not at hand ({error.message}); name it with --run."
    else:
        known = set(zip(run.outputs["content_id"], run.outputs["condition"], strict=True))
        wanted = {
            (content, condition)
            for content in store.contents(study)["content_id"]
            for condition in store.conditions(study)["condition"]
        }
        if not known & wanted:
            raise InputError(
                f"the run shares no photograph and condition with study {name!r}",
                file=run.root,
                remedy=f"The study was made from {study.run_path}",
            )
    stimuli = store.stimuli(study)
    metrics, skipped = pd.DataFrame(columns=list(METRIC_COLUMNS)), dict[str, str]()
    if run is not None:
        changed = run.unlike(stimuli)
        metrics, skipped = _metrics_of(run, changed)
        if len(changed):
            problem = _changed(study.name, run, stimuli, changed, refuse=given)
    try:
        folder = store.stimuli_folder(study)
    except InputError:
        folder = Path()
    images: dict[tuple[str, str | None], Path] = {
        (row["content_id"], None if row["role"] == "original" else row["condition"]): folder
        / f"{row['sha256']}.png"
        for row in stimuli.to_dict("records")
        if row["role"] in ("test", "original")
    }
    conditions = store.conditions(study)
    if run is not None:
        place = {condition.name: i for i, condition in enumerate(run.conditions)}
        conditions = conditions.sort_values(
            "condition", key=lambda names: names.map(place), kind="stable", ignore_index=True
        )
        if study.imported:
            images = _images_of(run)
    return StudyData(
        name=study.name,
        protocol=parse_protocol(study.protocol),
        state=study.state,
        created_at=study.created_at.isoformat(timespec="seconds"),
        seed=study.seed,
        run_path=study.run_path,
        ratings=store.ratings(study),
        observers=store.observers(study),
        sessions=store.sessions(study),
        conditions=conditions,
        contents=store.contents(study),
        notes=store.notes(study),
        marks=store.marks(study),
        looks=len(store.looks(study)),
        images=images,
        run=run,
        metrics=metrics,
        metrics_skipped=skipped,
        run_problem=problem,
        imported=str(study.info["imported"]["file"]) if study.imported else "",
    )


def _metrics_of(run: Run, changed: pd.MultiIndex) -> tuple[pd.DataFrame, dict[str, str]]:
    """Metrics that can be held against people, and why others cannot.

    Neither of other images than those that were judged, nor fitted to people on the very
    photographs: a model is judged on what it has not seen. Nor traits, of which there are dozens:
    ``percept calibrate`` weighs them, and tells the worth of each.
    """
    table, skipped = run.metrics, dict(run.info.get("metrics_skipped", {}))
    known = run.info.get("metrics", {})
    parts = {name: entry["group"] for name, entry in known.items() if entry.get("group")}
    table = table[~table["metric"].isin(parts)]
    skipped = {name: reason for name, reason in skipped.items() if name not in parts}
    for group in parts.values():
        skipped[group] = "parts of models: percept calibrate weighs them and tells their worth"
    table = table[~pd.MultiIndex.from_frame(table[["content_id", "condition"]]).isin(changed)]
    hashes = table["content_id"].map(run.manifest.set_index("content_id")["sha256"])
    for name, entry in known.items():
        source = entry.get("fitted_on", {})
        taught = hashes.isin(source.get("contents", {}).values()) & (table["metric"] == name)
        if taught.any():
            n = table.loc[taught, "content_id"].nunique()
            skipped[name] = (
                f"not judged on the {n} photographs that it was fitted on; percept calibrate "
                "tells what it is worth held out"
            )
            table, hashes = table[~taught], hashes[~taught]
    return table, skipped


def _changed(
    name: str, run: Run, stimuli: pd.DataFrame, changed: pd.MultiIndex, *, refuse: bool
) -> str:
    """Say which images of a run are not those that were judged; refuse a run that has no other."""
    shown = stimuli.loc[stimuli["role"] == "test", "condition"]
    conditions, n = changed.get_level_values("condition"), len(shown)
    anchored = (GRAY, REFERENCE)  # these may be the same in any run
    left = (~shown.isin(anchored)).sum() - (~conditions.isin(anchored)).sum()
    if refuse and left == 0 and len(changed):
        raise InputError(
            f"the run holds other images than those that study {name!r} shows",
            file=run.root,
            remedy="Name the run that the study was made from, as it was then",
        )
    return (
        f"The run no longer holds {len(changed)} of the {n} images that were judged "
        f"(of {', '.join(conditions.unique())}): metrics of what it holds instead are left out."
    )


def _images_of(run: Run) -> dict[tuple[str, str | None], Path]:
    """Files of a run, for a study that has no images of its own."""
    made = run.outputs[(run.outputs["status"] == "ok").to_numpy(bool)]
    files: dict[tuple[str, str | None], Path] = {
        (content, condition): run.image(path)
        for content, condition, path in zip(
            made["content_id"], made["condition"], made["path"], strict=True
        )
    }
    photographs = zip(run.manifest["content_id"], run.manifest["path"], strict=True)
    return files | {(content, None): run.resolve(path) for content, path in photographs}


def flagged_of(study: StudyData) -> dict[str, str]:
    """Observers that the screening rules would exclude, with their reasons."""
    if study.ratings.empty:
        return {}
    reasons: dict[str, list[str]] = {}
    for attribute in study.protocol.attributes:
        own = study.ratings[(study.ratings["attribute"] == attribute.name).to_numpy(bool)]
        verdicts = stats.screen_observers(own)
        for row in verdicts[verdicts["verdict"] == "exclude"].to_dict("records"):
            reasons.setdefault(str(row["observer"]), []).append(str(row["reason"]))
    return {name: "; ".join(dict.fromkeys(found)) for name, found in sorted(reasons.items())}


def last_revision(ratings: pd.DataFrame) -> pd.DataFrame:
    """Keep the last answer to each question of each trial."""
    newest = ratings.groupby(["trial", "attribute"])["revision"].transform("max")
    return ratings[(ratings["revision"] == newest).to_numpy(bool)]


def weights_of(study: StudyData) -> pd.Series | None:
    """Return sampling weights by content, mean 1; None where all photographs weigh the same."""
    weights = study.contents.set_index("content_id")["weight"]
    if weights.isna().any() or weights.nunique() < 2:
        return None
    return weights / weights.mean()


def votes_of(study: StudyData, attribute: str) -> pd.DataFrame:
    """Votes on one question, all kinds; sampling weights go in as counts."""
    votes = study.ratings[(study.ratings["attribute"] == attribute).to_numpy(bool)]
    weights = weights_of(study)
    return votes if weights is None else votes.assign(count=votes["content"].map(weights))


def anchors(conditions: pd.DataFrame) -> dict[str, str]:
    """Return the conditions that are no colorizer: name and which of ``gray``, ``reference``."""
    return {
        str(name): kind
        for name, spec in zip(conditions["condition"], conditions["spec"], strict=True)
        for kind in (GRAY, REFERENCE)
        if kind in (name, spec)
    }


@dataclass(frozen=True)
class Part:
    """The answers to one question: all that count, or a part of them."""

    study: str
    attribute: str
    group: str | None
    stratum: str | None
    without_flagged: bool
    """Whether the observers that screening flags are left out."""
    observers: int
    photographs: int
    votes: int
    """Counted answers: ties among them, and an image with several marks once."""
    weighted: bool

    @property
    def part(self) -> str:
        """Name of the part of the votes; empty for all of them."""
        if self.without_flagged:
            return "without flagged observers"
        if self.group is not None:
            return f"group {self.group}"
        return f"stratum {self.stratum}" if self.stratum is not None else ""


def parts_of(study: StudyData, attribute: str) -> Iterator[tuple[pd.DataFrame, Part]]:
    """Everybody first; then without flagged observers, and by group and stratum if several."""
    votes = votes_of(study, attribute)

    def part(
        rows: pd.Series | None = None,
        group: str | None = None,
        stratum: str | None = None,
        without_flagged: bool = False,
    ) -> tuple[pd.DataFrame, Part]:
        chosen = votes if rows is None else votes[rows.to_numpy(bool)]
        counted = answered(chosen)
        return chosen, Part(
            study.name,
            attribute,
            group,
            stratum,
            without_flagged,
            observers=counted["observer"].nunique(),
            photographs=counted["content"].nunique(),
            votes=counted["trial"].nunique(),
            weighted="count" in votes,
        )

    yield part()
    test = answered(votes)
    flagged = votes["observer"].isin(flagged_of(study))
    if flagged[test.index].any() and not flagged[test.index].all():
        yield part(~flagged, without_flagged=True)
    groups = sorted(test["group"].dropna().unique())
    for group in groups if len(groups) > 1 else ():
        yield part(votes["group"] == group, group=group)
    strata = votes["content"].map(study.contents.set_index("content_id")["stratum"])
    names = sorted(strata[test.index].dropna().unique())
    for stratum in names if len(names) > 1 else ():
        yield part(strata == stratum, stratum=stratum)


def answered(votes: pd.DataFrame) -> pd.DataFrame:
    """Return the answers to one question that count: of test trials, the last, and no skips."""
    rows = counted_rows(votes, ("observer", "content"))
    return rows[(rows["choice"] != "skip").to_numpy(bool)] if "choice" in rows else rows
