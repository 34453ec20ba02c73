"""Two metrics, one panel: which follows people better, and what a metric can resolve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
    critical_value,
    float_array,
    not_estimable,
    p_value,
)
from percept.stats.correlation import ANCHORS, correlate, metric_values
from percept.stats.frames import codes_of, counted_rows

CorrelationTest = Literal["williams", "steiger", "meng", "hotelling", "zou"]


@dataclass(frozen=True)
class TestResult:
    """A test of a null hypothesis.

    Attributes
    ----------
    statistic, degrees_of_freedom, p_value : float
        t (or z, with infinite degrees of freedom; or chi-square, see ``method``), p two-sided.
    low, high : float
        Interval of the difference of coefficients; NaN if the test has none.
    n : int
        Stimuli.
    method : str
        Which test.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    __test__ = False  # not a test class of pytest

    statistic: float
    degrees_of_freedom: float
    p_value: float
    low: float
    high: float
    n: int
    method: str
    warnings: tuple[str, ...] = ()


def compare_correlations(
    r_jk: float,
    r_jh: float,
    r_kh: float,
    n: int,
    test: CorrelationTest = "williams",
    *,
    confidence: float = 0.95,
) -> TestResult:
    """Compare two metrics' correlations with the same people on the same stimuli.

    Parameters
    ----------
    r_jk, r_jh : float
        Correlation of the people (j) with metric k, and with metric h.
    r_kh : float
        Correlation of the two metrics.
    n : int
        Stimuli, taken as independent; at least 4.
    test : {"williams", "steiger", "meng", "hotelling", "zou"}
        Williams (1959); Steiger (1980), z with the pooled mean r; Meng, Rosenthal & Rubin (1992);
        Hotelling (1940), which is exact for fixed metrics only; the interval of Zou (2007), its
        p where the interval touches 0.
    confidence : float
        Of the interval (Zou's, for every test).

    Returns
    -------
    TestResult
        ``statistic`` > 0 where r_jk > r_jh. NaN with a warning where a correlation is ±1.

    Raises
    ------
    InputError
        If the three correlations cannot occur together.
    """
    check_confidence(confidence)
    if test not in ("williams", "steiger", "meng", "hotelling", "zou"):
        raise InputError("Unknown test", key="test", value=test)
    r = np.array([r_jk, r_jh, r_kh], dtype=float)
    if not np.isfinite(r).all() or (np.abs(r) > 1).any():
        raise InputError("Correlations lie between -1 and 1", value=(r_jk, r_jh, r_kh))
    determinant = 1 - (r**2).sum() + 2 * r.prod()
    if determinant < -1e-9:
        raise InputError("No data have these three correlations", value=(r_jk, r_jh, r_kh))
    if n < 4:
        raise InputError("At least 4 stimuli are needed", key="n", value=n)
    if (np.abs(r) > 1 - 1e-12).any():
        return TestResult(np.nan, np.nan, np.nan, np.nan, np.nan, n, test,
                          ("not estimable: a correlation is 1",))  # fmt: skip
    a, b, c = (float(v) for v in r)
    gap, mean, determinant = a - b, (a + b) / 2, max(float(determinant), 0.0)
    z_gap, degrees = np.arctanh(a) - np.arctanh(b), np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        if test == "hotelling":
            statistic = gap * np.sqrt(np.divide((n - 3) * (1 + c), 2 * determinant))
            degrees = n - 3.0
        elif test == "williams":
            room = 2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - c) ** 3
            statistic = gap * np.sqrt((n - 1) * (1 + c) / room)
            degrees = n - 3.0
        elif test == "steiger":
            psi = c * (1 - 2 * mean**2) - mean**2 * (1 - 2 * mean**2 - c**2) / 2
            covariance = psi / (1 - mean**2) ** 2
            statistic = z_gap * np.sqrt((n - 3) / (2 - 2 * covariance))
        elif test == "meng":
            square = (a**2 + b**2) / 2
            f = min((1 - c) / (2 * (1 - square)), 1.0)
            h = (1 - f * square) / (1 - square)
            statistic = z_gap * np.sqrt((n - 3) / (2 * (1 - c) * h))
        else:
            statistic = _zou_statistic(a, b, c, n)
    low, high = _zou(a, b, c, n, float(critical_value(confidence)))
    p = float(p_value(statistic, degrees))
    return TestResult(float(statistic), degrees, p, low, high, n, test)


def _zou(a: float, b: float, c: float, n: int, z: float) -> tuple[float, float]:
    """Interval of a - b from Fisher intervals of each and their correlation."""
    half = z / np.sqrt(n - 3)
    (la, ua), (lb, ub) = (
        (np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)) for r in (a, b)
    )
    joint = ((c - a * b / 2) * (1 - a**2 - b**2 - c**2) + c**3) / ((1 - a**2) * (1 - b**2))
    below = (a - la) ** 2 + (ub - b) ** 2 - 2 * joint * (a - la) * (ub - b)
    above = (ua - a) ** 2 + (b - lb) ** 2 - 2 * joint * (ua - a) * (b - lb)
    return a - b - float(np.sqrt(max(below, 0))), a - b + float(np.sqrt(max(above, 0)))


def _zou_statistic(a: float, b: float, c: float, n: int) -> float:
    """Find the normal quantile at which the interval just touches 0, signed."""
    if a == b:
        return 0.0
    end = 0 if a > b else 1
    low, high = 0.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        bound = _zou(a, b, c, n, middle)[end]
        if (bound > 0) == (a > b):
            low = middle
        else:
            high = middle
    return float(np.copysign(low, a - b))


def compare_strata(
    metric: npt.ArrayLike,
    human: npt.ArrayLike,
    strata: npt.ArrayLike,
    *,
    coefficient: Literal["plcc_raw", "srocc"] = "srocc",
    **options: Any,
) -> tuple[dict[Any, Estimate], TestResult]:
    """Test whether a metric follows people equally well in every stratum.

    Parameters
    ----------
    metric, human : array_like
        As for :func:`correlate`.
    strata : array_like (stimuli,)
        Labels: degradation, era, condition.
    coefficient : {"plcc_raw", "srocc"}
        Which one to compare.
    **options
        For :func:`correlate` in each stratum: with ``cluster`` (and ``n_boot``) the standard
        errors respect photographs, strata being taken as independent of each other.

    Returns
    -------
    estimates : dict
        The coefficient in each stratum.
    result : TestResult
        Chi-square of the Fisher-transformed coefficients about their weighted mean.
    """
    x, y, labels = np.asarray(metric, float), np.asarray(human, float), np.asarray(strata)
    if labels.shape != x.shape or coefficient not in ("plcc_raw", "srocc"):
        raise InputError("strata need one label per stimulus; plcc_raw or srocc", value=coefficient)
    estimates: dict[Any, Estimate] = {}
    z, weight, total = [], [], 0
    per_stimulus = ("within", "cluster", "human_error", "exclude")
    for label in np.unique(labels):
        own = labels == label
        chosen = {
            k: np.asarray(v)[own] if k in per_stimulus and v is not None else v
            for k, v in options.items()
        }
        estimate = getattr(correlate(x[own], y[..., own], fit=None, **chosen), coefficient)
        estimates[label.item() if hasattr(label, "item") else label] = estimate
        total += estimate.n
        if np.isfinite(estimate.low) and abs(estimate.value) < 1:
            width = np.arctanh(estimate.high) - np.arctanh(estimate.low)
            se = width / (2 * float(critical_value(estimate.confidence)))
            z.append(np.arctanh(estimate.value))
            weight.append(1 / se**2)
    method = f"homogeneity of {coefficient} over strata, chi-square"
    if len(z) < 2:
        return estimates, TestResult(
            np.nan, np.nan, np.nan, np.nan, np.nan, total, method,
            ("not estimable: fewer than two strata with an interval",),
        )  # fmt: skip
    zs, ws = np.array(z), np.array(weight)
    q = float((ws * (zs - (ws * zs).sum() / ws.sum()) ** 2).sum())
    df = len(z) - 1
    return estimates, TestResult(q, df, float(special.chdtrc(df, q)), np.nan, np.nan, total, method)


# -- what a metric can resolve --------------------------------------------------------------------


def different_similar_auc(
    difference: npt.ArrayLike,
    different: npt.ArrayLike,
    *,
    cluster: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Tell pairs that people see as different from pairs that they do not (Krasula et al. 2016).

    Parameters
    ----------
    difference : array_like (pairs,)
        Metric of the one less metric of the other; its absolute value is used.
    different : array_like of bool (pairs,)
        Whether people significantly prefer one of the two.
    cluster : array_like (pairs,), optional
        Labels of pairs that depend on each other, usually the photograph.
    confidence : float
        Of the interval (DeLong, DeLong & Clarke-Pearson 1988, summed by cluster).

    Returns
    -------
    Estimate
        Area under the ROC curve; 0.5 is chance. Not estimable without both kinds of pairs.
    """
    return _auc(np.abs(np.asarray(difference, float)), different, cluster, confidence,
                "AUC, different against similar")  # fmt: skip


def better_worse_auc(
    difference: npt.ArrayLike,
    better: npt.ArrayLike,
    *,
    cluster: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Tell the better from the worse in pairs that people see as different (Krasula et al. 2016).

    Parameters
    ----------
    difference : array_like (pairs,)
        Metric of the first less metric of the second, higher being better.
    better : array_like of bool (pairs,)
        Whether people prefer the first. Every pair counts in both orders, so that the result
        does not depend on which is called first.
    cluster, confidence
        As for :func:`different_similar_auc`.
    """
    d, first = np.asarray(difference, float), np.asarray(better).astype(bool)
    label = np.arange(d.size) if cluster is None else np.asarray(cluster)
    return _auc(np.concatenate([d, -d]), np.concatenate([first, ~first]),
                np.concatenate([label] * 2), confidence, "AUC, better against worse")  # fmt: skip


def _auc(
    score: FloatArray,
    positive: npt.ArrayLike,
    cluster: npt.ArrayLike | None,
    confidence: float,
    method: str,
) -> Estimate:
    truth = np.asarray(positive).astype(bool)
    if score.shape != truth.shape or score.ndim != 1:
        raise InputError("One label for each pair is needed", value=(score.shape, truth.shape))
    labels = np.arange(score.size) if cluster is None else np.asarray(cluster)
    if labels.shape != score.shape:
        raise InputError("One label for each pair is needed", key="cluster", value=labels.shape)
    keep = np.isfinite(score)
    score, truth, labels = score[keep], truth[keep], labels[keep]
    up, down = np.sort(score[truth]), np.sort(score[~truth])
    if not up.size or not down.size:
        return not_estimable("pairs of one kind only", n=score.size, method=method)
    # Share of the other kind below (ties half): DeLong's placements.
    placed = np.empty(score.size)
    placed[truth] = _share_below(down, score[truth])
    placed[~truth] = 1 - _share_below(up, score[~truth])
    area = placed[truth].mean()
    n = score.size
    influence = np.where(truth, n / up.size, n / down.size) * (placed - area)
    frame = pd.DataFrame({"content": labels}) if cluster is not None else None
    estimate = cluster_mean(influence + area, frame, confidence=confidence, method=method)
    return Estimate(
        float(area), max(estimate.low, 0.0), min(estimate.high, 1.0), n, estimate.method,
        confidence, estimate.std_error, estimate.warnings,
    )  # fmt: skip


def _share_below(ordered: FloatArray, values: FloatArray) -> FloatArray:
    low, high = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray((low + high) / 2 / ordered.size)


def judged_pairs(
    metric: pd.DataFrame | pd.Series,
    comparisons: pd.DataFrame,
    *,
    higher_is_better: bool = True,
    exclude: tuple[str, ...] = ANCHORS,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Pairs within a photograph as people and a metric see them, straight from votes.

    Parameters
    ----------
    metric, comparisons, higher_is_better, exclude
        As for :func:`predict_choices`.
    alpha : float
        Two-sided level of the binomial test of an even split of the decided votes.

    Returns
    -------
    DataFrame
        ``content, a, b, votes, share`` (that prefers a), ``different, better, difference``: for
        :func:`different_similar_auc`, and, where ``different``, :func:`better_worse_auc`.
    """
    values = metric_values(metric)
    rows = counted_rows(comparisons, ("content", "left", "right", "choice"))
    rows = rows[rows["choice"].isin(("left", "right")).to_numpy()]
    rows = rows[~(rows["left"].isin(exclude) | rows["right"].isin(exclude)).to_numpy()]
    swap = (rows["left"].astype(str) > rows["right"].astype(str)).to_numpy()
    a = np.where(swap, rows["right"], rows["left"])
    b = np.where(swap, rows["left"], rows["right"])
    for_a = ((rows["choice"] == "left").to_numpy() != swap).astype(float)
    table = pd.DataFrame({"content": rows["content"].to_numpy(), "a": a, "b": b, "for_a": for_a})
    pairs = table.groupby(["content", "a", "b"])["for_a"].agg(["size", "sum"]).reset_index()
    n, k = pairs["size"].to_numpy(dtype=np.int64), pairs["sum"].to_numpy(dtype=float)
    more = np.maximum(k, n - k)
    p = np.minimum(2 * special.bdtrc(more - 1, n, 0.5), 1.0) if len(pairs) else np.zeros(0)
    sides = [
        values.reindex(pd.MultiIndex.from_frame(pairs[["content", side]])).to_numpy(dtype=float)
        for side in ("a", "b")
    ]
    with np.errstate(invalid="ignore"):
        difference = (sides[0] - sides[1]) * (1 if higher_is_better else -1)
    result = pairs[["content", "a", "b"]].copy()
    result["votes"], result["share"] = n, k / np.maximum(n, 1)
    result["different"], result["better"] = p <= alpha, k > n / 2
    result["difference"] = difference
    return result


@dataclass(frozen=True)
class TwoAfcScore:
    """BAPPS' score of a metric.

    Attributes
    ----------
    score : Estimate
        Mean share of people who agree with the metric's choice.
    human_ceiling : float
        What one person reaches predicting another, mean of h² + (1 - h)².
    """

    score: Estimate
    human_ceiling: float


def two_afc_score(
    d0: npt.ArrayLike,
    d1: npt.ArrayLike,
    preference: npt.ArrayLike,
    *,
    cluster: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> TwoAfcScore:
    """Score a distance by two-alternative choices (Zhang et al. 2018).

    Parameters
    ----------
    d0, d1 : array_like (n,)
        Distance of image 0 and of image 1 from the reference; lower is better, equal is a coin.
    preference : array_like (n,)
        Share of people who chose image 1, in [0, 1].
    cluster : array_like (n,), optional
        Labels of triplets that depend on each other.
    confidence : float
        Of the interval.
    """
    a, b, h = (float_array(v, "d0, d1, preference") for v in (d0, d1, preference))
    if not (a.shape == b.shape == h.shape) or a.ndim != 1:
        raise InputError("d0, d1 and preference differ in shape", value=(a.shape, b.shape, h.shape))
    if ((h < 0) | (h > 1)).any():
        raise InputError("A preference is a share between 0 and 1", key="preference")
    given = np.isfinite(a) & np.isfinite(b) & np.isfinite(h)
    agreed = np.where(a < b, 1 - h, np.where(b < a, h, 0.5))
    labels = None if cluster is None else pd.DataFrame({"content": codes_of(cluster)[0]})[given]
    score = cluster_mean(
        agreed[given], labels, share=True, confidence=confidence, method="2AFC score"
    )
    ceiling = float((h[given] ** 2 + (1 - h[given]) ** 2).mean()) if given.any() else np.nan
    return TwoAfcScore(score, ceiling)
