"""Mean opinion scores, with what observers add: bias, inconsistency, rejection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from percept.errors import InputError
from percept.stats.agreement import rating_array
from percept.stats.bootstrap import FloatArray, check_confidence, critical_value

MosMethod = Literal["mean", "bt500", "bt500_bias_removed", "p910", "zscore"]
_ITERATIONS = 10_000


@dataclass(frozen=True)
class MosResult:
    """Scores of units (stimuli), and what was learnt of the observers.

    Attributes
    ----------
    score, std_error, low, high : array (units,)
        Mean opinion and its interval for new observers; NaN for a unit without ratings.
    n : array (units,) of int
        Ratings that went into each score.
    observer_bias : array (observers,)
        How much higher than the others an observer rates.
    observer_inconsistency : array (observers,)
        Standard deviation of an observer's ratings about score and bias.
    rejected : array (observers,) of bool
        Observers left out (``bt500`` only).
    method : str
        What was computed.
    confidence : float
        Nominal coverage.
    converged : bool
        Whether iterations settled.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    score: FloatArray
    std_error: FloatArray
    low: FloatArray
    high: FloatArray
    n: npt.NDArray[np.int64]
    observer_bias: FloatArray
    observer_inconsistency: FloatArray
    rejected: npt.NDArray[np.bool_]
    method: str
    confidence: float
    converged: bool
    warnings: tuple[str, ...]


def mos(
    ratings: npt.ArrayLike, method: MosMethod = "mean", *, confidence: float = 0.95
) -> MosResult:
    """Mean opinion score of each unit.

    Parameters
    ----------
    ratings : array_like (observers, units) or (observers, units, repetitions)
        NaN is missing.
    method : {"mean", "bt500", "bt500_bias_removed", "p910", "zscore"}
        ``mean``: of the ratings. ``bt500``: after rejecting observers by the rule of ITU-R BT.500
        (kurtosis with ddof 0, limits inclusive). ``bt500_bias_removed``: each observer's bias is
        taken off first, which is no part of that rule. ``p910``: maximum likelihood of score,
        bias and inconsistency (ITU-T P.910 annex E; Li, Bampis, Krasula, Janowski & Katsavounidis
        2020). ``zscore``: mean of each observer's standardised ratings, hence without unit.
    confidence : float
        Of the intervals: Student's t over ratings; for p910 the standard's own, the deviation
        (ddof 0) of ratings less bias over the root of their number, and normal theory.

    Returns
    -------
    MosResult
        Intervals are for new observers and *these* units.
    """
    check_confidence(confidence)
    if method not in ("mean", "bt500", "bt500_bias_removed", "p910", "zscore"):
        raise InputError("Unknown method", key="method", value=method)
    x = rating_array(ratings)
    given = np.isfinite(x)
    warnings: list[str] = []
    observers = x.shape[0]
    if given.any(axis=(1, 2)).sum() < 15:
        warnings.append("fewer than 15 observers: informal by ITU-R BT.500")
    if method == "zscore":
        centre, spread = _observer_moments(x, given)
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.where(spread[:, None, None] > 0, (x - centre[:, None, None]), np.nan)
            x = x / np.where(spread > 0, spread, 1.0)[:, None, None]
        flat = int((given.any(axis=(1, 2)) & ~(spread > 0)).sum())
        if flat:
            warnings.append(f"{flat} observers whose ratings never vary left out")
        given = np.isfinite(x)
    rejected = np.zeros(observers, dtype=bool)
    converged = True
    if method == "p910":
        score, bias, noise, converged = _bias_and_inconsistency(x)
        n = given.sum(axis=(0, 2))
        unbiased = np.where(given, x - bias[:, None, None], 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            centred = np.where(given, unbiased - unbiased.sum(axis=(0, 2))[None, :, None]
                               / n[None, :, None], 0)  # fmt: skip
            se = np.where(n > 1, np.sqrt((centred**2).sum(axis=(0, 2))) / n, np.nan)
        half = float(critical_value(confidence)) * se
        if not converged:
            warnings.append("the maximum-likelihood iterations did not settle")
        if (noise[np.isfinite(noise)] < 1e-3).any():
            warnings.append("an observer fits perfectly: the likelihood is unbounded there")
        return MosResult(
            score, se, score - half, score + half, n, bias, noise, rejected,
            "p910, maximum likelihood; intervals for new observers, these units", confidence,
            converged, tuple(warnings),
        )  # fmt: skip
    if method.startswith("bt500"):
        if method == "bt500_bias_removed":
            x = x - _bias(x, given)[:, None, None]
        rejected = _bt500_rejections(x, given)
        given = given & ~rejected[:, None, None]
        if rejected.any():
            warnings.append(f"{int(rejected.sum())} of {observers} observers rejected")
    n = given.sum(axis=(0, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(given, x, 0).sum(axis=(0, 2)) / n
        squares = np.where(given, (x - score[None, :, None]) ** 2, 0).sum(axis=(0, 2))
        se = np.where(n > 1, np.sqrt(squares / (n - 1) / n), np.nan)
    half = critical_value(confidence, np.maximum(n - 1, 1)) * se
    all_given = np.isfinite(x)
    bias = _bias(x, all_given)
    with np.errstate(invalid="ignore"):
        residual = x - score[None, :, None] - bias[:, None, None]
    _, noise = _observer_moments(residual, np.isfinite(residual))
    return MosResult(
        score, se, score - half, score + half, n, bias, noise, rejected,
        f"{method}; intervals for new observers, these units", confidence, True, tuple(warnings),
    )  # fmt: skip


def _observer_moments(x: FloatArray, given: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation (ddof 0) of each observer; NaN without ratings."""
    n = given.sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(given, x, 0).sum(axis=(1, 2)) / n
        variance = np.where(given, (x - mean[:, None, None]) ** 2, 0).sum(axis=(1, 2)) / n
    return mean, np.sqrt(variance)


def _bias(x: FloatArray, given: npt.NDArray[np.bool_]) -> FloatArray:
    """Mean deviation of each observer from the units' means (observers,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(given, x, 0).sum(axis=(0, 2)) / given.sum(axis=(0, 2))
        return _observer_moments(x - unit[None, :, None], given)[0]


def _bt500_rejections(x: FloatArray, given: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Observers (observers,) beyond the limits of many units on both sides (BT.500, 2.3.1)."""
    n = given.sum(axis=(0, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(given, x, 0).sum(axis=(0, 2)) / n
        centred = np.where(given, x - mean[None, :, None], 0)
        second = (centred**2).sum(axis=(0, 2)) / n
        kurtosis = (centred**4).sum(axis=(0, 2)) / n / second**2
        sd = np.sqrt(second * n / (n - 1))
    width = np.where((kurtosis >= 2) & (kurtosis <= 4), 2.0, np.sqrt(20)) * sd
    usable = given & (sd > 0)[None, :, None]
    with np.errstate(invalid="ignore"):
        above = (usable & (centred >= width[None, :, None])).sum(axis=(1, 2))
        below = (usable & (centred <= -width[None, :, None])).sum(axis=(1, 2))
    both, total = above + below, given.sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        often = both / total > 0.05
        balanced = np.abs(above - below) / both < 0.3
    return np.asarray(often & balanced)


def _bias_and_inconsistency(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, bool]:
    """Alternating projection of P.910: score (units,), bias and inconsistency (observers,)."""
    given = np.isfinite(x)
    tiny = 1e-8
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(given, x, 0).sum(axis=(0, 2)) / given.sum(axis=(0, 2))
        bias = _observer_moments(x - score[None, :, None], given)[0]
        noise = np.full(len(x), np.nan)
        converged = False
        for _ in range(_ITERATIONS):
            before = score
            residual = x - score[None, :, None] - bias[:, None, None]
            noise = _observer_moments(residual, given)[1]
            weight = given / (noise**2 + tiny)[:, None, None]
            weight = np.where(given, weight, 0)
            new = (weight * np.where(given, x - bias[:, None, None], 0)).sum(axis=(0, 2))
            score = (before + new / weight.sum(axis=(0, 2))) / 2  # damped: it may swing
            bias = _observer_moments(x - score[None, :, None], given)[0]
            if np.nansum((score - before) ** 2) < 1e-22:
                converged = True
                break
    shift = np.nanmean(bias) if np.isfinite(bias).any() else 0.0
    return score + shift, bias - shift, noise, converged


def difference_ratings(
    ratings: npt.ArrayLike, reference: npt.ArrayLike, *, top: float = 5.0
) -> FloatArray:
    """Differential ratings against a hidden reference, for DMOS (ITU-T P.910, ACR-HR).

    Parameters
    ----------
    ratings : array_like (observers, units) or (observers, units, repetitions)
        NaN is missing.
    reference : array_like of int (units,)
        Index of each unit's hidden reference among the units; -1: none.
    top : float
        Highest grade: equal ratings give ``top``.

    Returns
    -------
    ndarray, shape of ``ratings``
        rating - rating of the reference by the same observer + top; NaN where either is missing,
        and for the references themselves. Values above ``top`` are kept.
    """
    x = rating_array(ratings)
    index = np.asarray(reference)
    if index.shape != (x.shape[1],) or not np.issubdtype(index.dtype, np.integer):
        raise InputError("reference holds one index for each unit", key="reference")
    if ((index < -1) | (index >= x.shape[1])).any():
        raise InputError("reference points outside the units", key="reference")
    result = x - x[:, index] + top
    result[:, (index < 0) | (index == np.arange(x.shape[1]))] = np.nan
    return result if np.ndim(ratings) == 3 else result[:, :, 0]
