"""Pictures that a report shows: where people agree, where they do not, and where metrics fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from percept.report.against import Metrics, directions, people_scores
from percept.report.data import StudyData, anchors
from percept.report.judged import MEASURES
from percept.stats.frames import counted_rows

MOST_EXAMPLES = 3
LEAST_ANSWERS = 3
"""Answers that an image, or a pair of images, needs to be shown as an example."""
CLEAR = 0.4
"""Share of the votes, or of the scale, by which people have to prefer one to be held against
metrics."""


@dataclass(frozen=True)
class Example:
    """A pair of images on which observers agreed most, or least."""

    study: str
    attribute: str
    kind: Literal["most agreed", "least agreed"]
    content: str
    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    images: dict[str, Path]
    """Files of ``original``, ``first`` and ``second``, named by the hash of their bytes."""


@dataclass(frozen=True)
class Parting:
    """Two images of one photograph of which people prefer the one and metrics the other."""

    study: str
    attribute: str
    content: str
    first: str
    """What people prefer."""
    second: str
    people: str
    """By how much."""
    metrics: tuple[str, ...]
    """Those that prefer the other."""
    of: int
    """Metrics that there are of both images, of those that follow people on the whole."""
    images: dict[str, Path]
    """As of :class:`Example`."""


def examples(study: StudyData, attribute: str) -> Iterator[Example]:
    """Pairs of colorizations with the most and the least one-sided votes, three or more each."""
    table = _pairs(study, attribute)
    shown = min(MOST_EXAMPLES, len(table) // 2)
    kinds: dict[Literal["most agreed", "least agreed"], bool] = {
        "most agreed": False,
        "least agreed": True,
    }
    for kind, ascending in kinds.items():
        order = table.sort_values(
            ["lead", "n", "content"], ascending=[ascending, False, True], kind="stable"
        )
        for row in order.drop_duplicates("content").head(shown).to_dict("records"):
            yield Example(
                study=study.name,
                attribute=attribute,
                kind=kind,
                content=row["content"],
                first=row["first"],
                second=row["second"],
                first_wins=int(row["one"]),
                second_wins=int(row["two"]),
                ties=int(row["tie"]),
                images=_images(study, row["content"], row["first"], row["second"]),
            )


def partings(study: StudyData, attribute: str, held: Metrics) -> Iterator[Parting]:
    """Pairs on which people are clearest and most metrics hold the opposite, most of them first.

    Metrics count that follow people on the whole: of others, luminance that is the same in all
    images but for rounding among them, an opposite says nothing.
    """
    following = [result.metric for result in held.results if result.verdict == "better"]
    if not following:
        return
    table = _pairs(study, attribute) if study.protocol.method == "pairwise" else pd.DataFrame()
    if len(table):
        swap = table["two"] > table["one"]
        table = table.assign(
            first=table["first"].where(~swap, table["second"]),
            second=table["second"].where(~swap, table["first"]),
            people=[
                f"{max(one, two):.0f} of {n:.0f} votes"
                for one, two, n in zip(table["one"], table["two"], table["n"], strict=True)
            ],
        )
    else:
        table = _scored_pairs(study, attribute)
    table = table[table["lead"].to_numpy(float) >= CLEAR]
    rises = directions(study)
    values = study.metrics[study.metrics["metric"].isin(following).to_numpy(bool)].pivot_table(
        index=["content_id", "condition"], columns="metric", values="value"
    )
    sign = np.array([1.0 if rises.get(str(name), True) else -1.0 for name in values.columns])
    one, two = (
        values.reindex(pd.MultiIndex.from_frame(table[["content", side]])).to_numpy(float) * sign
        for side in ("first", "second")
    )
    both = np.isfinite(one) & np.isfinite(two)
    against = both & (two > one)
    table = table.assign(
        wrong=list(against),
        of=both.sum(axis=1),
        weight=table["lead"].to_numpy() * against.sum(axis=1) / np.maximum(both.sum(axis=1), 1),
    )
    table = table[against.sum(axis=1) * 2 > both.sum(axis=1)]
    order = table.sort_values(["weight", "n", "content"], ascending=[False, False, True])
    for row in order.drop_duplicates("content").head(MOST_EXAMPLES).to_dict("records"):
        yield Parting(
            study=study.name,
            attribute=attribute,
            content=row["content"],
            first=row["first"],
            second=row["second"],
            people=row["people"],
            metrics=tuple(str(name) for name in values.columns[row["wrong"]]),
            of=int(row["of"]),
            images=_images(study, row["content"], row["first"], row["second"]),
        )


def _pairs(study: StudyData, attribute: str) -> pd.DataFrame:
    """Count the votes of each pair of colorizations that has enough of them.

    Columns ``content, first, second, one, two, tie, n, lead``; the lead is a share of the votes.
    """
    votes = study.ratings[(study.ratings["attribute"] == attribute).to_numpy(bool)]
    rows = counted_rows(votes, ("left", "right", "choice", "content"))
    left_out = tuple(anchors(study.conditions))
    judged = ~rows[["left", "right"]].isin(left_out).any(axis=1) & (rows["choice"] != "skip")
    rows = rows[judged.to_numpy(bool)]
    rank = {name: i for i, name in enumerate(study.conditions["condition"])}
    swap = rows["left"].map(rank) > rows["right"].map(rank)
    pairs = pd.DataFrame(
        {
            "content": rows["content"],
            "first": rows["left"].where(~swap, rows["right"]),
            "second": rows["right"].where(~swap, rows["left"]),
            "one": (rows["choice"] == "left").where(~swap, rows["choice"] == "right"),
            "two": (rows["choice"] == "right").where(~swap, rows["choice"] == "left"),
            "tie": rows["choice"] == "tie",
        }
    )
    table = pairs.groupby(["content", "first", "second"], as_index=False).sum()
    table["n"] = table[["one", "two", "tie"]].sum(axis=1)
    table = table[table["n"] >= LEAST_ANSWERS]
    return table.assign(lead=(table["one"] - table["two"]).abs() / table["n"])


def _scored_pairs(study: StudyData, attribute: str) -> pd.DataFrame:
    """All pairs of colorizations of a photograph that people scored, the better one first.

    Columns ``content, first, second, people, n, lead``; the lead is a share of the scale.
    """
    votes = study.ratings[(study.ratings["attribute"] == attribute).to_numpy(bool)]
    scores, told, _ = people_scores(study, votes)
    own = pd.DataFrame({"mean": scores.mean(axis=1), "n": scores.notna().sum(axis=1)})
    own = own[own["n"] >= LEAST_ANSWERS].reset_index()
    if own.empty:
        return pd.DataFrame(columns=["content", "first", "second", "people", "n", "lead"])
    table = own.merge(own, on="content", suffixes=("", "_two"))
    table = table[table["mean"] > table["mean_two"]]
    given = scores.to_numpy()
    scale = float(np.nanmax(given) - np.nanmin(given)) or 1.0
    share = study.protocol.method == "pairwise" or MEASURES[study.protocol.method].share
    ends = zip(table["mean"], table["mean_two"], strict=True)
    return pd.DataFrame(
        {
            "content": table["content"],
            "first": table["condition"],
            "second": table["condition_two"],
            "people": [
                f"{told}: {100 * one:.0f} % against {100 * two:.0f} %"
                if share
                else f"{told}: {one:.1f} against {two:.1f}"
                for one, two in ends
            ],
            "n": table[["n", "n_two"]].min(axis=1),
            "lead": (table["mean"] - table["mean_two"]) / scale,
        }
    )


def _images(study: StudyData, content: str, first: str, second: str) -> dict[str, Path]:
    roles = {"original": None, "first": first, "second": second}
    return {
        role: study.images[content, condition]
        for role, condition in roles.items()
        if (content, condition) in study.images
    }
