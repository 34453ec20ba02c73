"""How often: artifacts per condition, from single-stimulus trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from percept.errors import InputError
from percept.stats.bootstrap import (
    Estimate,
    check_confidence,
    cluster_mean,
    proportion_interval,
)
from percept.stats.frames import counted_rows


@dataclass(frozen=True)
class ArtifactRate:
    """How often an artifact was seen in a condition.

    Attributes
    ----------
    condition : label
        The condition.
    artifact : label or None
        Which artifact; None: any.
    rate : Estimate
        Share of single-stimulus trials in which it was seen.
    seen, trials, contents : int
        Trials with it, all trials, and different photographs.
    upper_bound : float
        One-sided exact bound (Clopper & Pearson) on the share of photographs, one decision for
        each photograph: whether anyone saw it. With nothing seen, ``1 - (1 - confidence)**(1/n)``.
    """

    condition: Any
    artifact: Any
    rate: Estimate
    seen: int
    trials: int
    contents: int
    upper_bound: float


def artifact_rates(
    frame: pd.DataFrame,
    *,
    min_severity: float | None = None,
    by_artifact: bool = False,
    weights: pd.Series | None = None,
    cluster: str | Sequence[str] | None = ("observer", "content"),
    confidence: float = 0.95,
) -> tuple[ArtifactRate, ...]:
    """Rates at which artifacts are seen, per condition.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame of the artifact method: ``condition, artifact`` (null: none seen), ``trial``
        (one trial may have several rows, one for each mark), and, where present, ``severity,
        observer, content``.
    min_severity : float, optional
        Count marks of at least this severity only.
    by_artifact : bool
        One rate for each artifact of the frame, besides that of any.
    weights : Series, optional
        Sampling weights by content; 1 where missing.
    cluster : str, sequence of str, or None
        As for :func:`percept.stats.bradley_terry`.
    confidence : float
        Of intervals and of the one-sided bound.

    Returns
    -------
    tuple of ArtifactRate
        By condition, then artifact, both sorted; ``artifact=None`` (any) first.
    """
    check_confidence(confidence)
    rows = counted_rows(frame, ("condition", "artifact", "trial"))
    if min_severity is not None and "severity" not in rows.columns:
        raise InputError("The frame lacks a column", column="severity")
    keys = [name for name in ("study", "session", "trial") if name in rows.columns]
    trials = rows.drop_duplicates(keys).set_index(keys)
    counts_here = rows["artifact"].notna()
    if min_severity is not None:
        counts_here &= pd.to_numeric(rows["severity"]) >= min_severity
    marks = rows[counts_here]
    names: list[Any] = [None]
    if by_artifact:
        names += sorted(map(str, rows["artifact"].dropna().unique()))
    wanted = (cluster,) if isinstance(cluster, str) else tuple(cluster or ())
    present = [name for name in wanted if name in trials.columns]
    missing = tuple(
        f"no column {name!r}: the interval ignores that trials share a {name}"
        for name in wanted
        if name not in trials.columns
    )
    result = []
    for condition in sorted(trials["condition"].dropna().unique()):
        own = trials[(trials["condition"] == condition).to_numpy()]
        for name in names:
            chosen = marks if name is None else marks[(marks["artifact"] == name).to_numpy()]
            seen = own.index.isin(chosen.set_index(keys).index)
            weight = None
            if weights is not None and "content" in own.columns:
                weight = own["content"].map(weights).fillna(1.0).to_numpy(dtype=float)
            label = "any artifact" if name is None else f"artifact {name}"
            if min_severity is not None:
                label += f" of severity {min_severity:g} or more"
            rate = cluster_mean(
                seen.astype(float),
                own[present],
                weights=weight,
                share=True,
                confidence=confidence,
                method=f"share of trials with {label} in {condition}",
            )
            rate = replace(rate, warnings=missing + rate.warnings)
            contents, bad = _by_content(own, seen)
            _, bound = proportion_interval(
                bad, contents, "clopper-pearson", confidence=2 * confidence - 1
            ) if confidence > 0.5 else (0.0, np.nan)  # fmt: skip
            result.append(
                ArtifactRate(condition, name, rate, int(seen.sum()), len(own), contents, bound)
            )
    return tuple(result)


def _by_content(trials: pd.DataFrame, seen: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Photographs, and those in which anyone saw it; trials stand in where content is unknown."""
    if "content" not in trials.columns:
        return len(trials), int(seen.sum())
    anyone = pd.Series(seen).groupby(trials["content"].to_numpy()).any()
    return len(anyone), int(anyone.sum())
