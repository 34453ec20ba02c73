"""How often: artifacts, passing for real, acceptance; per condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from percept.errors import InputError
from percept.stats.bootstrap import (
    Estimate,
    FloatArray,
    check_confidence,
    cluster_mean,
    proportion_interval,
)
from percept.stats.frames import counted_rows, weights_of
from percept.types import REFERENCE


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
        each photograph: whether anyone saw it. With nothing seen, ``1 - (1 - confidence)**(1/n)``;
        with sampling weights n is their effective number, (sum w)² / sum w² (Kish 1965).
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
    result = []
    for condition in sorted(trials["condition"].dropna().unique()):
        own = trials[(trials["condition"] == condition).to_numpy()]
        for name in names:
            chosen = marks if name is None else marks[(marks["artifact"] == name).to_numpy()]
            seen = own.index.isin(chosen.set_index(keys).index)
            weight = weights_of(own, weights)
            label = "any artifact" if name is None else f"artifact {name}"
            if min_severity is not None:
                label += f" of severity {min_severity:g} or more"
            rate = cluster_mean(
                seen.astype(float),
                own,
                cluster=cluster or (),
                weights=weight,
                share=True,
                confidence=confidence,
                method=f"share of trials with {label} in {condition}",
            )
            contents, bound = _bound_by_content(own, seen, weight, confidence)
            result.append(
                ArtifactRate(condition, name, rate, int(seen.sum()), len(own), contents, bound)
            )
    return tuple(result)


def _bound_by_content(
    trials: pd.DataFrame, seen: npt.NDArray[np.bool_], weight: FloatArray, confidence: float
) -> tuple[int, float]:
    """Count the photographs, and bound the share of them in which anyone saw it.

    Trials stand in where content is unknown.
    """
    labels = trials["content"] if "content" in trials.columns else pd.Series(np.arange(len(seen)))
    own = pd.DataFrame({"seen": seen, "weight": weight}).groupby(labels.to_numpy())
    bad, w = own["seen"].any().to_numpy(), own["weight"].first().to_numpy()
    effective = w.sum() ** 2 / max((w**2).sum(), 1e-300)
    if confidence <= 0.5 or not effective:
        return len(w), np.nan
    share = min(float(w[bad].sum() / w.sum()), 1.0)
    _, bound = proportion_interval(
        share * effective, effective, "clopper-pearson", confidence=2 * confidence - 1
    )
    return len(w), bound


# -- real or fake -------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoolRate:
    """How often a condition passes for the true image.

    Attributes
    ----------
    condition : label
        The condition shown beside the true image.
    rate : Estimate
        Share of trials in which it was taken for the true one; 0.5 cannot be told from it.
    d_prime : Estimate
        Sensitivity of the observers in two-alternative forced choice, sqrt(2) * z(1 - rate)
        (Green & Swets 1966); 0 where they cannot tell, infinite where nobody was fooled.
    """

    condition: Any
    rate: Estimate
    d_prime: Estimate


def fool_rates(
    frame: pd.DataFrame,
    *,
    true: Any = REFERENCE,
    weights: pd.Series | None = None,
    cluster: str | Sequence[str] | None = ("observer", "content"),
    confidence: float = 0.95,
) -> tuple[FoolRate, ...]:
    """Rate at which each condition passes for the true image.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame of the real_or_fake method: ``left, right, choice`` (the side taken for real);
        ties and skips are left out.
    true : label
        Condition of the true image.
    weights : Series, optional
        Sampling weights by content; 1 where missing.
    cluster, confidence
        Of the intervals.

    Raises
    ------
    InputError
        If a trial does not show the true image once.
    """
    rows = counted_rows(frame, ("left", "right", "choice"))
    rows = rows[rows["choice"].isin(("left", "right")).to_numpy()]
    on_left, on_right = ((rows[side] == true).to_numpy() for side in ("left", "right"))
    if (on_left == on_right).any():
        raise InputError("A real-or-fake trial must show the true image on one side", value=true)
    rows = rows.assign(
        condition=np.where(on_left, rows["right"], rows["left"]),
        fooled=((rows["choice"] == "left").to_numpy() != on_left).astype(float),
    )
    result = []
    for condition, rate in _rates_by_condition(
        rows, "fooled", "share taken for the true image", weights, cluster, confidence
    ):
        z = [float(-np.sqrt(2) * special.ndtri(p)) for p in (rate.value, rate.high, rate.low)]
        method = rate.method.replace("share taken for the true image", "d' of 2AFC")
        d_prime = replace(rate, value=z[0], low=z[1], high=z[2], std_error=np.nan, method=method)
        result.append(FoolRate(condition, rate, d_prime))
    return tuple(result)


# -- review -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReviewRate:
    """Verdicts on a condition.

    Attributes
    ----------
    condition : label
        The condition.
    accepted, fixable, rejected : Estimate
        Shares of reviews.
    reasons : dict
        How often each reason was given against it.
    """

    condition: Any
    accepted: Estimate
    fixable: Estimate
    rejected: Estimate
    reasons: dict[str, int]


def review_rates(
    frame: pd.DataFrame,
    *,
    weights: pd.Series | None = None,
    cluster: str | Sequence[str] | None = ("observer", "content"),
    confidence: float = 0.95,
) -> tuple[ReviewRate, ...]:
    """Shares accepted, to be fixed, and rejected.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame of the review method: ``condition, verdict`` (accept, fix or reject) and, where
        present, ``reason`` (several joined by ``;``).
    weights : Series, optional
        Sampling weights by content, so that shares are of the archive; 1 where missing.
    cluster, confidence
        Of the intervals.
    """
    rows = counted_rows(frame, ("condition", "verdict"))
    keys = [name for name in ("study", "session", "trial") if name in rows.columns]
    single = rows.drop_duplicates(keys) if "trial" in keys else rows
    unknown = sorted(set(map(str, single["verdict"].unique())) - {"accept", "fix", "reject"})
    if unknown:
        raise InputError("Unknown verdict", column="verdict", value=unknown[0],
                         remedy="Verdicts are accept, fix and reject")  # fmt: skip
    shares: dict[Any, dict[str, Estimate]] = {}
    for verdict in ("accept", "fix", "reject"):
        marked = single.assign(hit=(single["verdict"] == verdict).astype(float))
        label = f"share with verdict {verdict}"
        for condition, rate in _rates_by_condition(
            marked, "hit", label, weights, cluster, confidence
        ):
            shares.setdefault(condition, {})[verdict] = rate
    result = []
    for condition, own in shares.items():
        reasons: dict[str, int] = {}
        if "reason" in rows.columns:
            given = rows.loc[(rows["condition"] == condition).to_numpy(), "reason"].dropna()
            each = given.astype(str).str.split(";").explode()
            reasons = {str(k): int(v) for k, v in each.value_counts().items()}
        result.append(ReviewRate(condition, own["accept"], own["fix"], own["reject"], reasons))
    return tuple(result)


def _rates_by_condition(
    rows: pd.DataFrame,
    column: str,
    label: str,
    weights: pd.Series | None,
    cluster: str | Sequence[str] | None,
    confidence: float,
) -> list[tuple[Any, Estimate]]:
    result = []
    for condition in sorted(rows["condition"].dropna().unique()):
        own = rows[(rows["condition"] == condition).to_numpy()]
        rate = cluster_mean(
            own[column],
            own,
            cluster=cluster or (),
            weights=weights_of(own, weights),
            share=True,
            confidence=confidence,
            method=f"{label}, {condition}",
        )
        result.append((condition, rate))
    return result


def defect_bound(
    defects: int, n: int, *, lot: int | None = None, confidence: float = 0.95
) -> float:
    """Bound the share of defective items of a batch from a random sample of it.

    Parameters
    ----------
    defects, n : int
        Defective ones among the ``n`` items looked at.
    lot : int, optional
        Size of the batch (hypergeometric); None: unlimited (Clopper & Pearson 1934).
    confidence : float
        One-sided.
    """
    check_confidence(confidence)
    if not 0 <= defects <= n or n < 1 or (lot is not None and lot < n):
        raise InputError("A sample needs 0 <= defects <= n <= lot", value=(defects, n, lot))
    if lot is None:
        return (
            1.0 if defects == n else float(special.betaincinv(defects + 1, n - defects, confidence))
        )
    low, high = defects, lot - (n - defects) + 1  # the least of bad ones is possible, high is not
    while high - low > 1:
        bad = (low + high) // 2
        possible = _at_most(defects, n, bad, lot) > 1 - confidence
        low, high = (bad, high) if possible else (low, bad)
    return low / lot


def acceptance_sample(
    limit: float, *, allowed: int = 0, lot: int | None = None, confidence: float = 0.95
) -> int:
    """Smallest sample that can show a batch to be good enough.

    With at most ``allowed`` defective items in it, the share of defective items of the batch is
    below ``limit``, at this confidence.

    Parameters
    ----------
    limit : float
        Share of defective items that must not be passed over, in (0, 1).
    allowed : int
        Acceptance number.
    lot : int, optional
        Size of the batch; None: unlimited.
    confidence : float
        Chance that a batch at the limit is refused.
    """
    check_confidence(confidence)
    if not 0 < limit < 1 or allowed < 0:
        raise InputError("limit lies between 0 and 1, allowed is not negative",
                         value=(limit, allowed))  # fmt: skip
    bad = None if lot is None else int(np.ceil(limit * lot))
    low, high = allowed, lot if lot is not None else allowed + 1
    if lot is None:
        while special.bdtr(allowed, high, limit) > 1 - confidence:
            high *= 2
    while high - low > 1:
        n = (low + high) // 2
        risk = (
            special.bdtr(allowed, n, limit)
            if bad is None or lot is None
            else _at_most(allowed, n, bad, lot)
        )
        low, high = (n, high) if risk > 1 - confidence else (low, n)
    return int(high)


def _at_most(k: int, n: int, bad: int, lot: int) -> float:
    """P(at most k bad ones in a sample of n)."""
    x = np.arange(max(0, n - (lot - bad)), min(k, bad, n) + 1)

    def log_choose(a: int, b: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float64]:
        return np.asarray(-np.log(a + 1) - special.betaln(np.subtract(a, b) + 1, np.add(b, 1)))

    terms = log_choose(bad, x) + log_choose(lot - bad, n - x) - log_choose(lot, n)
    return float(np.exp(terms).sum())
