"""How far the means, the rankings and the single observer can be relied on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from percept.errors import InputError
from percept.stats.agreement import krippendorff_alpha, rating_array
from percept.stats.bootstrap import (
    Estimate,
    FloatArray,
    TestedEstimate,
    check_confidence,
    check_resamples,
    cluster_mean,
    float_array,
    not_estimable,
)
from percept.stats.frames import all_kinds

Form = Literal["ICC1", "ICC2", "ICC3", "ICC1k", "ICC2k", "ICC3k"]
_FORMS = ("ICC1", "ICC2", "ICC3", "ICC1k", "ICC2k", "ICC3k")


@dataclass(frozen=True)
class _Anova:
    """Two-way table without interaction, cells missing at random: sums of squares, components.

    Components by Henderson's method III: with one rating per cell, E SS(units | observers) =
    (N - O) s_u + (U - 1) s_e, and likewise for observers. With complete data it is the usual
    analysis of variance.
    """

    units: int
    observers: int
    n: int
    per_unit: float  # harmonic mean of ratings per unit
    ms_within: float  # one-way
    ms_between: float
    per_unit_one_way: float
    ms_units: float  # adjusted for observers
    ms_observers: float  # adjusted for units
    ms_error: float
    s_units: float
    s_observers: float
    s_error: float

    @classmethod
    def of(cls, table: FloatArray) -> _Anova | None:
        """Analyse ratings (observers, units); None if there is too little of them."""
        given = np.isfinite(table)
        complete = bool(given.all())
        if not complete:
            rows, columns = given.any(axis=1), given.any(axis=0)
            table, given = table[rows][:, columns], given[rows][:, columns]
        o, u = table.shape
        m, c = (
            (np.full(u, o), np.full(o, u)) if complete else (given.sum(axis=0), given.sum(axis=1))
        )
        n = int(c.sum())
        if o < 2 or u < 2 or n - u - o + 1 < 1:
            return None
        y = table if complete else np.where(given, table, 0.0)
        y = y - (y.sum() / n if complete else np.where(given, y.sum() / n, 0.0))
        total = np.einsum("ij,ij->", y, y)
        by_unit, by_observer = y.sum(axis=0), y.sum(axis=1)
        ss_units = (by_unit**2 / m).sum()  # one-way; the grand mean is 0
        ss_observers = ss_observers_after = float((by_observer**2 / c).sum())
        if not complete:  # observers after units: the reduced equations have one row per observer
            g = given.astype(float)
            reduced = np.diag(c.astype(float)) - (g / m) @ g.T
            target = by_observer - g @ (by_unit / m)
            effect = np.linalg.lstsq(reduced, target, rcond=None)[0]
            ss_observers_after = float(effect @ target)
        ss_error = max(total - ss_units - ss_observers_after, 0.0)
        ss_units_after = ss_units + ss_observers_after - ss_observers
        ms_error = ss_error / (n - u - o + 1)
        size = (n - (m.astype(float) ** 2).sum() / n) / (u - 1)
        return cls(
            units=u,
            observers=o,
            n=n,
            per_unit=float(u / (1 / m).sum()),
            ms_within=float((total - ss_units) / (n - u)) if n > u else np.nan,
            ms_between=float(ss_units / (u - 1)),
            per_unit_one_way=float(size),
            ms_units=float(ss_units_after / (u - 1)),
            ms_observers=ss_observers_after / (o - 1),
            ms_error=ms_error,
            s_units=float((ss_units_after - (u - 1) * ms_error) / (n - o)),
            s_observers=(ss_observers_after - (o - 1) * ms_error) / max(n - u, 1),
            s_error=ms_error,
        )


def icc(ratings: npt.ArrayLike, form: Form = "ICC2k", *, confidence: float = 0.95) -> Estimate:
    """Intraclass correlation (Shrout & Fleiss 1979; McGraw & Wong 1996).

    Parameters
    ----------
    ratings : array_like (observers, units) or (observers, units, repetitions)
        NaN is missing: components are then Henderson's, k is the harmonic mean of the ratings
        per unit, and the interval is approximate. Repetitions are averaged.
    form : {"ICC1", "ICC2", "ICC3", "ICC1k", "ICC2k", "ICC3k"}
        One-way; two-way with random observers (absolute agreement); two-way with these
        observers (consistency). With k: of the mean of the observers.
    confidence : float
        Of the F interval. That of ICC2k is Spearman & Brown's of ICC2 (as R's psych).

    Returns
    -------
    Estimate
        ``n``: units. May be negative. Not estimable with fewer than two units or observers, or
        without variation.
    """
    check_confidence(confidence)
    if form not in _FORMS:
        raise InputError("Unknown form", key="form", value=form, remedy=f"One of {_FORMS}")
    array = rating_array(ratings)
    table = array[:, :, 0]
    if array.shape[2] > 1:
        given = np.isfinite(array)
        table = np.where(
            given.any(axis=2),
            np.where(given, array, 0).sum(axis=2) / np.maximum(given.sum(axis=2), 1),
            np.nan,
        )
    a = _Anova.of(table)
    if a is None:
        return not_estimable(
            "fewer than two units or observers", method=form, confidence=confidence
        )
    if not max(a.ms_between, a.ms_within) > 1e-20:
        return not_estimable(
            "the ratings do not vary", n=a.units, method=form, confidence=confidence
        )
    warnings: tuple[str, ...] = ()
    if a.n < a.units * a.observers:
        warnings = ("missing ratings: the interval is approximate",)
    value, low, high = _icc_interval(a, form, confidence)
    return Estimate(
        value, low, high, a.units, f"{form}; interval for new units"
        + (" and new observers" if form.startswith("ICC2") else ""), confidence, warnings=warnings,
    )  # fmt: skip


def _spearman_brown(r: float, k: float) -> float:
    return k * r / (1 + (k - 1) * r)


def _icc_interval(a: _Anova, form: str, confidence: float) -> tuple[float, float, float]:
    n, k, upper = a.units, a.per_unit, (1 + confidence) / 2
    mean = form.endswith("k")
    with np.errstate(divide="ignore", invalid="ignore"):
        if form.startswith("ICC2"):
            single = a.s_units / (a.s_units + a.s_observers + a.s_error)
            msr, msc, mse = a.ms_units, a.ms_observers, a.ms_error
            x = k * single / (n * (1 - single))
            y = 1 + k * single * (n - 1) / (n * (1 - single))
            v = (x * msc + y * mse) ** 2 / (
                (x * msc) ** 2 / (k - 1) + (y * mse) ** 2 / ((n - 1) * (k - 1))
            )
            rest = k * msc + (k * n - k - n) * mse
            f_low, f_high = special.fdtri(n - 1, v, upper), special.fdtri(v, n - 1, upper)
            low = n * (msr - f_low * mse) / (f_low * rest + n * msr)
            high = n * (f_high * msr - mse) / (rest + n * f_high * msr)
        else:
            if form.startswith("ICC1"):
                k0 = a.per_unit_one_way
                s = (a.ms_between - a.ms_within) / k0
                single = s / (s + a.ms_within)
                f, df1, df2 = a.ms_between / a.ms_within, n - 1, a.n - n
            else:
                single = a.s_units / (a.s_units + a.s_error)
                f = a.ms_units / a.ms_error
                df1, df2 = n - 1, a.n - n - a.observers + 1
            f_low = f / special.fdtri(df1, df2, upper)
            f_high = f * special.fdtri(df2, df1, upper)
            low, high = ((x - 1) / (x + k - 1) for x in (f_low, f_high))
        values = np.array([single, low, high], dtype=float)
        if mean:
            values = k * values / (1 + (k - 1) * values)
    return float(values[0]), float(values[1]), float(values[2])


def kendall_w(ratings: npt.ArrayLike) -> TestedEstimate:
    """Kendall's coefficient of concordance W, corrected for ties (Kendall & Smith 1939).

    Parameters
    ----------
    ratings : array_like (observers, units)
        Ratings or ranks. Units that someone did not rate are left out, with a warning.

    Returns
    -------
    TestedEstimate
        ``n``: units; Friedman's chi-square with n - 1 degrees of freedom.
    """
    array = rating_array(ratings)
    if array.shape[2] > 1:
        raise InputError("Kendall's W takes one rating per observer and unit", key="ratings")
    table = array[:, :, 0]
    complete = np.isfinite(table).all(axis=0)
    warnings: tuple[str, ...] = ()
    if not complete.all():
        warnings = (f"{(~complete).sum()} units not rated by everyone left out",)
    table = table[:, complete]
    m, n = table.shape
    from scipy.stats import rankdata

    ranks = rankdata(table, axis=1) if table.size else table
    ties = sum(
        float((count.astype(float) ** 3 - count).sum())
        for count in (np.unique(row, return_counts=True)[1] for row in table)
    )
    room = m**2 * (n**3 - n) - m * ties
    if m < 2 or n < 2 or room <= 0:
        reason = "fewer than two observers or units, or no variation"
        return TestedEstimate(
            np.nan, np.nan, np.nan, n, "Kendall's W",
            warnings=(*warnings, f"not estimable: {reason}"),
        )  # fmt: skip
    totals = ranks.sum(axis=0)
    value = float(12 * ((totals - totals.mean()) ** 2).sum() / room)
    chi2 = m * (n - 1) * value
    return TestedEstimate(
        value, np.nan, np.nan, n, "Kendall's W, corrected for ties", warnings=warnings,
        statistic=chi2, degrees_of_freedom=n - 1, p_value=float(special.chdtrc(n - 1, chi2)),
    )  # fmt: skip


@dataclass(frozen=True)
class PairedConsistency:
    """Consistency and agreement of paired comparisons (Kendall & Babington Smith 1940).

    Attributes
    ----------
    triads, max_triads : float
        Circular triads (a over b over c over a) of the majority, and how many are possible.
    zeta : float
        1 - triads / max_triads; NaN if a pair was split evenly or not judged.
    u : float
        Coefficient of agreement between judges: 1 is unanimity; NaN with one judge.
    u_min : float
        Its smallest value for this number of judges.
    chi2, degrees_of_freedom, p_value : float
        Test of u against votes by coin, with continuity correction; NaN unless every pair was
        judged equally often, more than twice.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    triads: float
    max_triads: float
    zeta: float
    u: float
    u_min: float
    chi2: float
    degrees_of_freedom: float
    p_value: float
    warnings: tuple[str, ...] = ()


def paired_consistency(wins: npt.ArrayLike) -> PairedConsistency:
    """Count circular triads and agreement of a win matrix.

    Parameters
    ----------
    wins : array_like (items, items)
        ``wins[i, j]``: how often i was preferred to j, of one judge or of many.
    """
    a = float_array(wins, "wins").copy()
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not np.isfinite(a).all() or (a < 0).any():
        raise InputError("wins is square, finite and not negative", key="wins", value=a.shape)
    np.fill_diagonal(a, 0)
    n = len(a)
    upper = np.triu_indices(n, 1)
    judged = (a + a.T)[upper]
    warnings = []
    triads = zeta = most = np.nan
    majority = (a > a.T).astype(float)
    if n >= 3 and (majority + majority.T)[upper].all():
        most = n * (n**2 - (1 if n % 2 else 4)) / 24
        triads = n * (n - 1) * (2 * n - 1) / 12 - (majority.sum(axis=1) ** 2).sum() / 2
        zeta = 1 - triads / most
    else:
        warnings.append("no zeta: fewer than 3 items, or a pair split evenly or not judged")
    pairs = (judged * (judged - 1)).sum() / 2
    agreed = ((a * (a - 1))[upper] + (a * (a - 1)).T[upper]).sum() / 2
    u = u_min = chi2 = df = p = np.nan
    if pairs > 0:
        u = 2 * agreed / pairs - 1
        m = judged[0]
        if (judged == m).all():
            u_min = -1 / m if m % 2 else -1 / (m - 1)
            if m > 2:
                cells = n * (n - 1) / 2
                excess = (
                    agreed - 1 - cells * m * (m - 1) / 4 * (m - 3) / (m - 2)
                )  # less 1: continuity
                chi2 = max(4 / (m - 2) * excess, 0.0)
                df = cells * m * (m - 1) / (m - 2) ** 2
                p = float(special.chdtrc(df, chi2))
        else:
            warnings.append("pairs were judged unequally often: no test of u")
    else:
        warnings.append("no u: no pair was judged twice")
    return PairedConsistency(triads, most, zeta, u, u_min, chi2, df, p, tuple(warnings))


def repeat_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Votes on repeats beside the votes that they repeat.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame of pair votes with ``trial, kind, repeat_of, observer, left, right, choice``;
        all kinds.

    Returns
    -------
    DataFrame
        ``observer, content`` (where present), ``same`` (1: the same condition, or both times a
        tie), ``same_side`` (1: the same side was chosen twice although the sides were swapped).
    """
    needed = ("trial", "kind", "repeat_of", "observer", "left", "right", "choice")
    rows = all_kinds(frame, needed)
    rows = rows[rows["choice"].isin(("left", "right", "tie")).to_numpy()]
    keys = [k for k in ("study", "session") if k in rows.columns]
    again = rows[rows["repeat_of"].notna().to_numpy()].assign(original=lambda r: r["repeat_of"])
    both = again.merge(
        rows.assign(original=rows["trial"])[[*keys, "original", "left", "right", "choice"]],
        on=[*keys, "original"],
        suffixes=("", "_first"),
    )

    def chosen(suffix: str) -> npt.NDArray[np.object_]:
        choice = both[f"choice{suffix}"].to_numpy()
        sides = both[f"left{suffix}"].to_numpy(), both[f"right{suffix}"].to_numpy()
        tie = np.full(len(both), None, dtype=object)
        return np.where(choice == "left", sides[0], np.where(choice == "right", sides[1], tie))

    same = chosen("") == chosen("_first")
    swapped = (both["left"] == both["right_first"]).to_numpy()
    side = (both["choice"] == both["choice_first"]).to_numpy() & (
        both["choice"] != "tie"
    ).to_numpy()
    result = both[[name for name in ("observer", "content") if name in both.columns]].copy()
    result["same"] = same.astype(float)
    result["same_side"] = np.where(swapped, side.astype(float), np.nan)
    return result


def repeat_consistency(frame: pd.DataFrame, *, confidence: float = 0.95) -> Estimate:
    """Share of side-swapped repeats on which an observer says the same again.

    Half of it is what a coin reaches (less with ties). ``frame`` as for :func:`repeat_pairs`;
    the interval speaks of new observers and new photographs. ``n``: repeats.
    """
    pairs = repeat_pairs(frame)
    return cluster_mean(
        pairs["same"],
        pairs,
        cluster=("observer", "content"),
        share=True,
        confidence=confidence,
        method="share of repeats answered the same",
    )


@dataclass(frozen=True)
class Reliability:
    """Agreement of people and reliability of their means, which are different questions.

    Attributes
    ----------
    alpha : Estimate
        Interval Krippendorff's alpha: how far one observer can stand for another.
    split_half : Estimate
        Correlation of the means of two random halves of the observers, stepped up to all of them
        by Spearman & Brown; its interval bootstraps the units.
    consistency : Estimate
        ICC(3,k), the generalisability coefficient: how far the *order* of the means would repeat.
    dependability : Estimate
        ICC(2,k), Phi: how far the means themselves would.
    observers, per_unit : float
        Number of observers; harmonic mean of ratings per unit.
    summary : str
        One sentence that says both.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    alpha: Estimate
    split_half: Estimate
    consistency: Estimate
    dependability: Estimate
    observers: int
    per_unit: float
    summary: str
    warnings: tuple[str, ...] = ()


def assess_reliability(
    ratings: npt.ArrayLike,
    *,
    n_splits: int = 100,
    n_boot: int = 200,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> Reliability:
    """Report agreement of single ratings and reliability of mean ratings together.

    Parameters
    ----------
    ratings : array_like (observers, units)
        NaN is missing. For pair votes: ``stimulus_wins(frame).T``.
    n_splits : int
        Random halves of the observers whose correlations are averaged.
    n_boot : int
        Resamples of the units for the interval of ``split_half`` (0: none).
    confidence, rng
        Of all intervals.
    """
    check_confidence(confidence)
    generator = check_resamples(n_boot, rng)
    array = rating_array(ratings)
    table = array[:, :, 0] if array.shape[2] == 1 else np.nanmean(array, axis=2)
    alpha = krippendorff_alpha(table, "interval", resample="observers", confidence=confidence)
    consistency, dependability = (icc(table, f, confidence=confidence) for f in ("ICC3k", "ICC2k"))
    given = np.isfinite(table)
    per_unit = given.sum(axis=0)
    k = float((per_unit > 0).sum() / (1 / per_unit[per_unit > 0]).sum()) if given.any() else np.nan
    split = _split_half(table, n_splits, n_boot, confidence, generator)
    people = int(given.any(axis=1).sum())
    if not (alpha.estimable and consistency.estimable):
        summary = "The data cannot tell agreement or reliability."
    else:
        summary = (
            f"Single observers agree {_word(alpha.value)} (alpha {alpha.value:.2f}); "
            f"the order of the means of about {k:.0f} ratings is "
            f"{_word(consistency.value)} reliable (coefficient {consistency.value:.2f})."
        )
    return Reliability(alpha, split, consistency, dependability, people, k, summary)


def _word(value: float) -> str:
    bounds = ((0.2, "hardly"), (0.5, "weakly"), (0.8, "moderately"), (np.inf, "highly"))
    return next(word for bound, word in bounds if value < bound)


def _split_half(
    table: FloatArray, n_splits: int, n_boot: int, confidence: float, rng: np.random.Generator
) -> Estimate:
    method = f"split-half reliability of the means, Spearman–Brown, {n_splits} splits"
    o, u = table.shape
    given = np.isfinite(table)
    filled = np.where(given, table, 0.0)
    if o < 2 or u < 3:
        return not_estimable("fewer than 2 observers or 3 units", n=u, method=method)
    halves = np.argsort(rng.random((n_splits, o)), axis=1) < o // 2
    means = []
    for half in (halves, ~halves):
        with np.errstate(invalid="ignore"):
            means.append((half @ filled) / (half @ given.astype(float)))
    both = np.isfinite(means[0]) & np.isfinite(means[1])

    def stepped(weights: FloatArray) -> FloatArray:
        """Mean stepped-up correlation (b,) under weights (b, units) of the units."""
        x, y = (np.where(both, m, 0.0) for m in means)
        w = both.astype(float)
        total = weights @ w.T
        sx, sy = weights @ x.T / total, weights @ y.T / total
        xy = weights @ (x * y).T / total - sx * sy
        xx, yy = weights @ (x * x).T / total - sx**2, weights @ (y * y).T / total - sy**2
        r = xy / np.sqrt(xx * yy)
        defined = np.isfinite(r)
        stepped_up = np.where(defined, r, 0).sum(axis=1) / defined.sum(axis=1)
        return np.asarray(2 * stepped_up / (1 + stepped_up))

    with np.errstate(divide="ignore", invalid="ignore"):
        if not (np.ptp(np.where(both, means[0], 0)) > 0 and (both.sum(axis=1) > 2).all()):
            return not_estimable("too few ratings, or no variation", n=u, method=method)
        value = float(stepped(np.ones((1, u)))[0])
        if not np.isfinite(value):
            return not_estimable("the means of a half do not vary", n=u, method=method)
        low = high = np.nan
        if n_boot:
            drawn = stepped(rng.multinomial(u, np.full(u, 1 / u), size=n_boot).astype(float))
            tail = (1 - confidence) / 2
            low, high = map(float, np.nanquantile(drawn, [tail, 1 - tail]))
            method += "; interval for new units, these observers"
    return Estimate(value, low, high, u, method, confidence)
