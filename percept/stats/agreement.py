"""Do people agree? Coefficients of agreement and of reliability.

A rating array is (observers, units) or (observers, units, repetitions); NaN is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from percept.errors import InputError
from percept.stats.bootstrap import (
    Estimate,
    FloatArray,
    check_confidence,
    check_magnitude,
    check_resamples,
    cluster_sums,
    critical_value,
    float_array,
    not_estimable,
)
from percept.stats.frames import (
    IntArray,
    codes_of,
    counted_rows,
    distinct_codes,
    same_block,
    sides_of,
    sorted_codes,
)

Level = Literal["nominal", "ordinal", "interval", "ratio"]
_LEVELS = ("nominal", "ordinal", "interval", "ratio")


def rating_array(ratings: npt.ArrayLike) -> FloatArray:
    """Check a rating array and return it as floats (observers, units, repetitions).

    Raises
    ------
    InputError
        If it has neither 2 nor 3 dimensions, or holds an infinite value.
    """
    array = float_array(ratings, "ratings")
    if array.ndim not in (2, 3):
        raise InputError(
            "A rating array is (observers, units) or (observers, units, repetitions)",
            value=array.shape,
        )
    check_magnitude(array, "ratings")
    if not np.isfinite(array).all() and np.isinf(array).any():
        raise InputError("A rating is infinite", remedy="Missing ratings are NaN")
    return array if array.ndim == 3 else array[:, :, None]


def _first_repetition(array: FloatArray) -> tuple[FloatArray, tuple[str, ...]]:
    """One rating per observer and unit (observers, units), since repeats are not independent."""
    if array.shape[2] == 1:
        return array[:, :, 0], ()
    given = np.isfinite(array)
    first = np.take_along_axis(array, given.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    extra = int(np.maximum(given.sum(axis=2) - 1, 0).sum())
    return first, ((f"{extra} repeated ratings left out",) if extra else ())


def krippendorff_alpha(
    ratings: npt.ArrayLike,
    level: Level = "ordinal",
    *,
    n_boot: int = 0,
    resample: Literal["units", "observers"] = "units",
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> Estimate:
    """Krippendorff's alpha (Krippendorff 2011): 1 is perfect agreement, 0 is chance.

    Parameters
    ----------
    ratings : array_like (observers, units) or (observers, units, repetitions)
        NaN is missing. Of repetitions only the first counts: an observer's agreement with
        themselves is no agreement between people.
    level : {"nominal", "ordinal", "interval", "ratio"}
        Level of measurement; ratio needs values of one sign.
    n_boot : int
        Resamples of the units for the interval; 0: no interval.
    resample : {"units", "observers"}
        What the interval generalises to. Units are bootstrapped (percentile interval). Observers
        are jackknifed, whatever ``n_boot``: a resampled observer would agree with themselves.
    confidence, rng
        Of the interval.

    Returns
    -------
    Estimate
        ``n``: units with at least two ratings. Not estimable with none, or without any variation.
    """
    first, warnings = _first_repetition(rating_array(ratings))
    return _alpha_estimate(
        first, level, n_boot, resample, confidence, rng, warnings, mirrored=False
    )


def pairwise_alpha(
    frame: pd.DataFrame,
    level: Level = "nominal",
    *,
    n_boot: int = 0,
    resample: Literal["units", "observers"] = "units",
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> Estimate:
    """Krippendorff's alpha of pair votes, free of any orientation.

    :func:`pairwise_units` codes votes by condition, but which of the two comes first is still
    arbitrary, and expected agreement depends on it. Here expected agreement is that of the units
    with their mirror images, so that naming the conditions otherwise changes nothing.

    Arguments and result are those of :func:`krippendorff_alpha`, for a tidy frame of votes.
    """
    observer, observers, unit, units, vote = _coded_votes(frame)
    given = np.isfinite(vote)
    observer, unit, vote = observer[given], unit[given], vote[given]
    again = pd.Series(observer * units + unit).duplicated().to_numpy()
    first = _scatter(observer[~again], observers, unit[~again], units, vote[~again])
    warnings = (f"{again.sum()} repeated ratings left out",) if again.any() else ()
    return _alpha_estimate(first, level, n_boot, resample, confidence, rng, warnings, mirrored=True)


def pairwise_units(frame: pd.DataFrame) -> FloatArray:
    """Code pair votes by condition, so that agreement does not depend on sides.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame with ``observer, left, right, choice`` and, where present, ``content``.

    Returns
    -------
    ndarray (observers, units) or (observers, units, repetitions)
        A unit is a photograph with a pair of conditions. +1: the condition that sorts first was
        preferred, -1: the other, 0: a tie, NaN: skipped or not asked. Observers and units sorted.
    """
    return _scatter(*_coded_votes(frame))


def _coded_votes(frame: pd.DataFrame) -> tuple[IntArray, int, IntArray, int, FloatArray]:
    """Observer of each vote, and how many; unit, and how many; vote as in pairwise_units."""
    rows = counted_rows(frame, ("observer", "left", "right", "choice"))
    unknown = set(map(str, rows["choice"].unique())) - {"left", "right", "tie", "skip"}
    if unknown:
        raise InputError("Unknown answer", column="choice", value=sorted(unknown)[0])
    observer, observers = codes_of(rows["observer"])
    left, right, conditions = sides_of(rows)
    content = codes_of(rows["content"])[0] if "content" in rows else np.zeros_like(left)
    if min(code.min(initial=0) for code in (observer, left, right, content)) < 0:
        raise InputError("A vote lacks its observer, content or condition")
    k = max(len(conditions), 1)
    unit = (content * k + np.minimum(left, right)) * k + np.maximum(left, right)
    units, unit = distinct_codes(unit, (content.max(initial=-1) + 1) * k * k)
    vote = rows["choice"].map({"left": 1.0, "right": -1.0, "tie": 0.0}).to_numpy(dtype=float)
    vote = np.where(left > right, -vote, vote) + 0.0  # no negative zeros
    return observer, len(observers), unit, len(units), vote


@dataclass(frozen=True)
class RatingUnits:
    """Ratings as an array, with the labels of its axes.

    Attributes
    ----------
    ratings : array (observers, units) or (observers, units, repetitions)
        NaN is missing.
    observers : tuple (observers,)
        Sorted.
    units : MultiIndex (units,)
        Sorted (content, condition) of each stimulus.
    """

    ratings: FloatArray
    observers: tuple[Any, ...]
    units: pd.MultiIndex


def rating_units(frame: pd.DataFrame, value: str = "score") -> RatingUnits:
    """Arrange the ratings of single stimuli as an array.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame with ``observer, content, condition`` and the column of the ratings.
    value : str
        That column; numbers, NaN for a skipped rating.

    Raises
    ------
    InputError
        If a column or a label is missing, or the ratings are no numbers.
    """
    rows = counted_rows(frame, ("observer", "content", "condition", value))
    values = float_array(rows[value], value)
    names = ("observer", "content", "condition")
    size = same_block(*(rows[name] for name in names))
    parts = (rows.iloc[:: size or 1], *[rows.iloc[: size or None]] * 2)
    codes, labels = zip(
        *(sorted_codes(part[name]) for part, name in zip(parts, names, strict=True)), strict=True
    )
    if min(code.min(initial=0) for code in codes) < 0:
        raise InputError("A rating lacks its observer, content or condition")
    width = max(len(labels[2]), 1)
    stimulus = codes[1] if width == 1 else codes[1] * width + codes[2]
    present, unit = distinct_codes(stimulus, len(labels[1]) * width)
    places: Any = np.divmod(present, width)
    index = pd.MultiIndex(  # labels are sorted and distinct: nothing to be found again
        levels=[labels[1], labels[2]],
        codes=places,
        names=["content", "condition"],
        verify_integrity=False,
    )
    observer = codes[0]
    if size and len(labels[0]) == observer.size and len(present) == unit.size:
        # A complete table: each rating of each observer has its place already.
        array = values.reshape(-1, size)[np.argsort(observer)].take(np.argsort(unit), axis=1)
    else:
        if size:
            observer, unit = np.repeat(observer, size), np.tile(unit, observer.size)
        array = _scatter(observer, len(labels[0]), unit, len(present), values)
    return RatingUnits(array, tuple(labels[0].tolist()), index)


def _scatter(
    observer: IntArray, observers: int, unit: IntArray, units: int, values: FloatArray
) -> FloatArray:
    """Array (observers, units) of values, or (observers, units, repetitions) if any repeats."""
    if not observer.size:
        return np.full((observers, units), np.nan)
    cell = observer * units + unit
    seen = np.zeros(observers * units, dtype=bool)
    seen[cell] = True
    if np.count_nonzero(seen) == cell.size:
        array = np.empty(seen.size)
        array[cell] = values
        if cell.size < seen.size:
            array[~seen] = np.nan
        return array.reshape(observers, units)
    # The position of each rating among those of the same observer on the same unit.
    repetition = pd.Series(cell).groupby(cell).cumcount().to_numpy()
    depth = int(repetition.max()) + 1
    array = np.full((observers, units, depth), np.nan)
    array[observer, unit, repetition] = values
    return array


def _alpha_estimate(
    ratings: FloatArray,
    level: str,
    n_boot: int,
    resample: str,
    confidence: float,
    rng: np.random.Generator | None,
    warnings: tuple[str, ...],
    *,
    mirrored: bool,
) -> Estimate:
    check_confidence(confidence)
    generator = check_resamples(n_boot, rng)
    if level not in _LEVELS:
        raise InputError("Unknown level of measurement", key="level", value=level)
    if resample not in ("units", "observers"):
        raise InputError("Unknown resampling", key="resample", value=resample,
                         remedy='Use "units" or "observers"')  # fmt: skip
    if level == "ratio" and (np.nanmin(ratings, initial=0) < 0 < np.nanmax(ratings, initial=0)):
        raise InputError("Ratio data have one sign", key="level", value=level)
    method = f"Krippendorff's alpha, {level}" + (", pair votes with mirror" if mirrored else "")
    units = _Units.of(ratings, level, mirrored)
    n = len(units.size)
    if not n:
        return not_estimable("no unit has two ratings", method=method, confidence=confidence)
    value = float(units.alpha()[0])
    if not np.isfinite(value):
        return not_estimable("the ratings do not vary", n=n, method=method, confidence=confidence)
    low = high = se = np.nan
    if resample == "observers":
        method += "; interval for new observers on these units (jackknife)"
        low, high, se, problem = _jackknife(units, ratings, value, confidence)
        warnings += problem
    elif n_boot:
        method += f"; interval for new units, these observers (bootstrap, {n_boot} resamples)"
        draws = units.bootstrap(n_boot, generator)
        defined = draws[np.isfinite(draws)]
        if defined.size < draws.size:
            warnings += (f"{draws.size - defined.size} resamples without variation left out",)
        if defined.size > 1 and n > 1:
            tail = (1 - confidence) / 2
            low, high = map(float, np.quantile(defined, [tail, 1 - tail]))
            se = float(defined.std(ddof=1))
        if n < 20:
            warnings += (f"only {n} units: the bootstrap interval is rough",)
    return Estimate(value, low, high, n, method, confidence, se, warnings)


def _jackknife(
    units: _Units, ratings: FloatArray, value: float, confidence: float
) -> tuple[float, float, float, tuple[str, ...]]:
    given = np.flatnonzero(np.isfinite(ratings).any(axis=1))
    ratings = ratings[:, _count(ratings, np.isfinite) >= 2]
    without = []
    for observer in given:
        rest = units.without(ratings[observer], ratings)
        if len(rest.size):
            without.append(rest.alpha()[0])
    left = np.array(without)
    left = left[np.isfinite(left)]
    if left.size < max(given.size, 3):
        return np.nan, np.nan, np.nan, ("too few observers for an interval",)
    m = left.size
    se = float(np.sqrt((m - 1) / m * ((left - left.mean()) ** 2).sum()))
    half = float(critical_value(confidence, m - 1)) * se
    return value - half, min(value + half, 1.0), se, ()


@dataclass(frozen=True)
class _Units:
    """Units with at least two ratings each, prepared for alpha under any weights of the units.

    alpha = 1 - (n - 1) * within / between, where ``within`` sums squared distances inside units,
    divided by their ratings less one, and ``between`` those of all values with all. The ordinal
    distance is a difference of mid-ranks, so ordinal and interval data need sums and sums of
    squares alone, never a table of all values by all.
    """

    level: str
    mirrored: bool
    size: FloatArray  # (units,) ratings of each unit
    within: FloatArray  # (units,) except for ordinal data, where ranks depend on the weights
    values: FloatArray  # (values,) distinct, sorted; for interval data the centre alone
    counts: sparse.csr_matrix | None  # (units, values); None for interval data
    sums: FloatArray  # (3, units): ratings, their sum and sum of squares, centred

    @classmethod
    def of(cls, ratings: FloatArray, level: str, mirrored: bool) -> _Units:
        """Prepare the units of ratings (observers, units) that have at least two of them."""
        size = _count(ratings, np.isfinite)
        if (size < 2).any():
            ratings, size = ratings[:, size >= 2], size[size >= 2]
        if level == "interval":
            complete = len(size) and size.min() == len(ratings)
            given: Any = True if complete else np.isfinite(ratings)
            filled = ratings if complete else np.where(given, ratings, 0.0)
            # The mirror images already centre at 0.
            middle = 0.0 if mirrored else filled.sum() / max(size.sum(), 1)
            centred = np.subtract(filled, middle, where=given, out=np.zeros_like(filled))
            squares = np.einsum("ij,ij->j", centred, centred)
            return cls._of_sums(mirrored, middle, np.stack([size, centred.sum(axis=0), squares]))
        # A mirrored domain has to be its own mirror image.
        values = np.array([-1.0, 0.0, 1.0]) if mirrored else _few_values(ratings)
        table = np.stack([_count(ratings, partial(np.equal, v)) for v in values], axis=1)
        counts = sparse.csr_matrix(table)
        if table.sum() < size.sum():  # many values after all
            observer, unit = np.nonzero(np.isfinite(ratings))
            values, code = np.unique(ratings[observer, unit], return_inverse=True)
            counts = cluster_sums(unit, ratings.shape[1], code, len(values))
        apart = np.zeros(len(size))
        if level == "ratio":
            for i in range(1, len(ratings)):
                apart += 2 * np.nansum(_ratio(ratings[i], ratings[:i]), axis=0)
        return cls._of_counts(level, mirrored, size, values, counts, apart)

    @classmethod
    def _of_sums(cls, mirrored: bool, middle: float, sums: FloatArray) -> _Units:
        size = sums[0]
        within = 2 * (size * sums[2] - sums[1] ** 2) / (size - 1)
        return cls("interval", mirrored, size, within, np.array([middle]), None, sums)

    @classmethod
    def _of_counts(
        cls,
        level: str,
        mirrored: bool,
        size: FloatArray,
        values: FloatArray,
        counts: sparse.csr_matrix,
        apart: FloatArray,
    ) -> _Units:
        """``apart``: squared distances of all pairs of ratings of a unit (units,), for ratios."""
        if level == "nominal":
            apart = size**2 - np.asarray(counts.multiply(counts).sum(axis=1)).ravel()
        return cls(level, mirrored, size, apart / (size - 1), values, counts, np.zeros((3, 0)))

    def without(self, own: FloatArray, ratings: FloatArray) -> _Units:
        """Leave one observer's ratings (units,) out of those (observers, units) of all."""
        given = np.isfinite(own)
        size = self.size - given
        keep = size >= 2
        if self.counts is None:
            centred = np.where(given, own - self.values[0], 0.0)
            sums = self.sums - np.stack([given, centred, centred**2])
            return self._of_sums(self.mirrored, float(self.values[0]), sums[:, keep])
        unit, code = np.flatnonzero(given), np.searchsorted(self.values, own[given])
        counts = self.counts - cluster_sums(unit, len(own), code, len(self.values))
        apart = self.within * (self.size - 1)
        if self.level == "ratio":
            apart = apart - 2 * np.nansum(_ratio(own, ratings), axis=0)
        return self._of_counts(
            self.level, self.mirrored, size[keep], self.values, counts[keep], apart[keep]
        )

    def alpha(self, weights: FloatArray | None = None) -> FloatArray:
        """Alpha (b,) for integer weights (b, units); NaN without variation."""
        w = np.ones((1, len(self.size))) if weights is None else weights
        copies = 2 if self.mirrored else 1
        total = copies * (w @ self.size)
        if self.counts is None:
            n, s, ss = (w @ row for row in self.sums)
            between = 2 * copies**2 * (n * ss - (0 if self.mirrored else s**2))
            within = w @ self.within
        else:
            frequency = (self.counts.T @ w.T).T
            if self.mirrored:
                frequency = frequency + frequency[:, ::-1]
            if self.level == "ordinal":
                # Mid-ranks, centred for the sake of precision.
                rank = frequency.cumsum(axis=1) - frequency / 2 - total[:, None] / 2
                s, ss = (self.counts @ rank.T), (self.counts @ (rank**2).T)
                spread = 2 * (self.size[:, None] * ss - s**2) / (self.size[:, None] - 1)
                within = np.einsum("bu,ub->b", w, spread)
                first = (frequency * rank).sum(axis=1)
                between = 2 * (total * (frequency * rank**2).sum(axis=1) - first**2)
            elif self.level == "nominal":
                within = w @ self.within
                between = total**2 - (frequency**2).sum(axis=1)
            else:
                within = w @ self.within
                between = np.zeros(len(w))
                step = max(1, 5_000_000 // len(self.values))
                for start in range(0, len(self.values), step):
                    block = _ratio(self.values[start : start + step, None], self.values)
                    between += ((frequency @ block.T) * frequency[:, start : start + step]).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            alpha = 1 - (total - 1) * copies * within / between
        return np.where(between > 1e-12 * total**2 * self._magnitude(total), alpha, np.nan)

    def _magnitude(self, total: FloatArray) -> FloatArray | float:
        """Size of a squared distance, below which a spread is rounding error."""
        if self.level == "ordinal":
            return total**2
        if self.level == "interval":
            return float(self.sums[2].sum() / self.size.sum())
        return 1.0

    def bootstrap(self, n_boot: int, rng: np.random.Generator) -> FloatArray:
        """Alpha of ``n_boot`` resamples of the units (n_boot,)."""
        n = len(self.size)
        chunk = max(1, 5_000_000 // n)
        parts = []
        for start in range(0, n_boot, chunk):
            drawn = rng.multinomial(n, np.full(n, 1 / n), size=min(chunk, n_boot - start))
            parts.append(self.alpha(drawn.astype(float)))
        return np.concatenate(parts)


def _count(ratings: FloatArray, holds: Callable[[FloatArray], npt.NDArray[np.bool_]]) -> FloatArray:
    """How many observers' ratings of each unit something holds for (units,)."""
    total = np.zeros(ratings.shape[1])
    width = max(1, 200_000 // 255)  # blocks that stay in the cache, and sums that fit a byte
    for first in range(0, ratings.shape[1], width):
        part = ratings[:, first : first + width]
        for top in range(0, len(ratings), 255):
            total[first : first + width] += holds(part[top : top + 255]).sum(axis=0, dtype=np.uint8)
    return total


def _few_values(ratings: FloatArray) -> FloatArray:
    """Distinct values among the first units; the first of them alone if they are many."""
    head = ratings[:, :200]
    values = np.unique(head[np.isfinite(head)])
    return values if 0 < values.size <= 32 else np.append(values, 0.0)[:1]


def _ratio(a: FloatArray, b: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = ((a - b) / (a + b)) ** 2
    return np.where((a == 0) & (b == 0), 0.0, squared)


# -- kappas and AC ------------------------------------------------------------------------------

Weights = Literal[
    "unweighted", "linear", "quadratic", "ordinal", "radical", "ratio", "circular", "bipolar"
]


def agreement_weights(
    values: npt.ArrayLike, weights: Weights | npt.ArrayLike = "unweighted"
) -> FloatArray:
    """Agreement (q, q) between categories, 1 on the diagonal (Gwet 2021).

    Parameters
    ----------
    values : array_like (q,)
        Category values, increasing.
    weights : name or array_like (q, q)
        ``ordinal`` here is Gwet's 1 - C(d+1, 2) / C(q, 2) of rank distance d, which is *not*
        Krippendorff's ordinal metric. ``circular`` is for directions such as hue, the highest
        category being next to the lowest. A matrix is taken as it is.
    """
    v = np.asarray(values, dtype=float)
    q = v.size
    if not isinstance(weights, str):
        matrix = np.asarray(weights, dtype=float)
        if matrix.shape != (q, q) or not np.allclose(np.diagonal(matrix), 1):
            raise InputError("Agreement weights are (q, q) with 1 on the diagonal", key="weights")
        return matrix
    rank = np.abs(np.subtract.outer(np.arange(q), np.arange(q)))
    distance = np.abs(np.subtract.outer(v, v))
    width = np.ptp(v) if q > 1 else 1.0
    if weights == "unweighted":
        return np.eye(q)
    if weights == "ordinal":
        return np.asarray(1 - rank * (rank + 1) / max(q * (q - 1), 1))
    if weights == "linear":
        return np.asarray(1 - distance / width)
    if weights == "quadratic":
        return np.asarray(1 - (distance / width) ** 2)
    if weights == "radical":
        return np.asarray(1 - np.sqrt(distance / width))
    if weights == "ratio":
        ratio = _ratio(v[:, None], v)
        return np.asarray(1 - ratio / max(ratio.max(), 1e-300))
    if weights == "circular":
        sine = np.sin(np.pi * distance / (width + 1)) ** 2
        return np.asarray(1 - sine / max(sine.max(), 1e-300))
    if weights == "bipolar":
        total = np.add.outer(v, v)
        room = (total - 2 * v.min(initial=np.inf)) * (2 * v.max(initial=-np.inf) - total)
        bipolar = distance**2 / np.where(room > 0, room, 1.0)
        return np.asarray(1 - bipolar / max(bipolar.max(), 1e-300))
    raise InputError("Unknown weights", key="weights", value=weights)


def fleiss_kappa(
    counts: npt.ArrayLike,
    weights: Weights | npt.ArrayLike = "unweighted",
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Fleiss' kappa (1971), generalised to weights and unequal numbers of ratings (Gwet 2021).

    Parameters
    ----------
    counts : array_like (units, categories)
        How many observers put each unit into each category.
    weights : name or matrix
        See :func:`agreement_weights`; category values are 1, 2, ....
    confidence : float
        Of the interval for new units (Gwet's linearised variance, Student's t).

    Returns
    -------
    Estimate
        ``n``: rated units. Not estimable without variation or without two ratings of a unit.
    """
    table = float_array(counts, "counts")
    if table.ndim != 2 or not np.isfinite(table).all() or (table < 0).any():
        raise InputError("Counts are (units, categories), finite and not negative", key="counts")
    check_magnitude(table, "counts")
    matrix = agreement_weights(np.arange(1, table.shape[1] + 1), weights)
    return _chance_corrected(table, matrix, "Fleiss' kappa", weights, confidence)


def gwet_ac(
    ratings: npt.ArrayLike,
    weights: Weights | npt.ArrayLike = "unweighted",
    *,
    categories: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Gwet's AC1 (unweighted) or AC2 (Gwet 2008, 2021), with missing ratings.

    Parameters
    ----------
    ratings : array_like (observers, units) or (observers, units, repetitions)
        NaN is missing; only the first repetition counts.
    weights : name or matrix
        See :func:`agreement_weights`.
    categories : array_like, optional
        All values that could have been given; the values seen, if None. AC depends on it.
    confidence : float
        Of the interval for new units.
    """
    first, warnings = _first_repetition(rating_array(ratings))
    given = np.isfinite(first)
    values = np.unique(first[given] if categories is None else np.asarray(categories, float))
    code = np.searchsorted(values, first[given])
    if (code >= values.size).any() or (values[code] != first[given]).any():
        raise InputError("A rating is none of the categories", key="categories")
    counts = cluster_sums(np.nonzero(given)[1], first.shape[1], code, values.size).toarray()
    name = "Gwet's AC1" if isinstance(weights, str) and weights == "unweighted" else "Gwet's AC2"
    estimate = _chance_corrected(
        counts, agreement_weights(values, weights), name, weights, confidence
    )
    return replace(estimate, warnings=warnings + estimate.warnings)


def _chance_corrected(
    counts: FloatArray,
    weights: FloatArray,
    name: str,
    label: object,
    confidence: float,
) -> Estimate:
    """Coefficient and linearised variance of Gwet (2021), chapters 5 and 6."""
    check_confidence(confidence)
    method = f"{name}, {label if isinstance(label, str) else 'given weights'}"
    size = counts.sum(axis=1)
    counts, size = counts[size > 0], size[size > 0]
    n, q = counts.shape
    twice = size >= 2
    if not twice.any():
        return not_estimable("no unit has two ratings", method=method, confidence=confidence)
    agreed = (counts * (counts @ weights.T - 1)).sum(axis=1) / np.maximum(size * (size - 1), 1)
    observed = agreed[twice].mean()
    share = (counts / size[:, None]).mean(axis=0)
    if name.startswith("Gwet"):
        factor = weights.sum() / (q * (q - 1)) if q > 1 else 0.0
        expected = factor * (share * (1 - share)).sum()
        by_unit = factor * (counts @ (1 - share)) / size
    else:
        expected = share @ weights @ share
        by_unit = counts @ ((weights + weights.T) @ share / 2) / size
    if not 1 - expected > 1e-12:
        return not_estimable("the ratings do not vary", n=n, method=method, confidence=confidence)
    value = float((observed - expected) / (1 - expected))
    unit = n / twice.sum() * np.where(twice, agreed - expected, 0) / (1 - expected)
    unit -= 2 * (1 - value) * (by_unit - expected) / (1 - expected)
    se = float(np.sqrt(((unit - value) ** 2).sum() / (n * (n - 1)))) if n > 1 else np.nan
    half = float(critical_value(confidence, max(n - 1, 1))) * se
    return Estimate(
        value, value - half, min(value + half, 1.0), n,
        method + "; interval for new units, these observers", confidence, se,
    )  # fmt: skip


def cohen_kappa(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    weights: Literal["linear", "quadratic"] | npt.ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Cohen's kappa of two observers (Cohen 1960, 1968).

    Parameters
    ----------
    a, b : array_like (units,)
        Categories that each gave, in the same order; missing (NaN or None) pairs are left out.
    weights : {"linear", "quadratic"}, array_like (q, q), or None
        Disagreement between categories in sorted order; a matrix has 0 on its diagonal.
    confidence : float
        Of the interval for new units (Fleiss, Cohen & Everitt 1969).
    """
    check_confidence(confidence)
    first, second = pd.Series(a), pd.Series(b)
    if len(first) != len(second):
        raise InputError("a and b differ in length", value=(len(first), len(second)))
    both = (first.notna() & second.notna()).to_numpy()
    n = int(both.sum())
    codes, labels = codes_of(pd.concat([first[both], second[both]]).to_numpy())
    q = len(labels)
    method = "Cohen's kappa"
    if weights is None:
        disagreement = 1 - np.eye(q)
    elif isinstance(weights, str):
        if weights not in ("linear", "quadratic"):
            raise InputError("Unknown weights", key="weights", value=weights)
        rank = np.abs(np.subtract.outer(np.arange(q), np.arange(q))).astype(float)
        disagreement = rank if weights == "linear" else rank**2
        method += f", {weights} weights"
    else:
        disagreement = np.asarray(weights, dtype=float)
        if disagreement.shape != (q, q) or np.diagonal(disagreement).any():
            raise InputError(
                "Disagreement weights are (q, q) with 0 on the diagonal",
                key="weights", value=disagreement.shape, remedy=f"The categories are {labels}",
            )  # fmt: skip
        method += ", given weights"
    table = np.zeros((q, q))
    np.add.at(table, (codes[:n], codes[n:]), 1 / max(n, 1))
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    expected = rows @ disagreement @ columns
    if n < 2 or not expected > 0:
        return not_estimable("the ratings do not vary", n=n, method=method, confidence=confidence)
    value = float(1 - (table * disagreement).sum() / expected)
    largest = disagreement.max()
    w = 1 - disagreement / largest
    chance = 1 - expected / largest
    spread = w - ((w @ columns)[:, None] + rows @ w) * (1 - value)
    variance = (table * spread**2).sum() - (value - chance * (1 - value)) ** 2
    se = float(np.sqrt(max(variance, 0) / n) / (1 - chance))
    half = float(critical_value(confidence)) * se
    return Estimate(
        value, value - half, min(value + half, 1.0), n,
        method + "; interval for new units, these two observers", confidence, se,
    )  # fmt: skip


# -- artifact tags ----------------------------------------------------------------------------


def tag_agreement(frame: pd.DataFrame, *, confidence: float = 0.95) -> dict[str | None, Estimate]:
    """Agreement on which artifacts a stimulus has.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame of the artifact method with ``observer, content, condition, trial, artifact``.
    confidence : float
        Of the intervals for new observers (jackknife).

    Returns
    -------
    dict
        For each artifact, alpha of "seen" against "not seen"; under None, alpha of the whole
        sets of tags with Jaccard's distance (Passonneau 2006 discusses distances of sets).
    """
    rows = counted_rows(frame, ("observer", "content", "condition", "trial", "artifact"))
    observer, observers = codes_of(rows["observer"])
    content, contents = codes_of(rows["content"])
    condition, conditions = codes_of(rows["condition"])
    if min(code.min(initial=0) for code in (observer, content, condition)) < 0:
        raise InputError("An answer lacks its observer, content or condition")
    width = max(len(conditions), 1)
    units, unit = distinct_codes(content * width + condition, len(contents) * width)
    artifact, artifacts = codes_of(rows["artifact"])
    shape = (len(observers), len(units))
    asked = np.zeros(shape, dtype=bool)
    asked[observer, unit] = True
    seen = np.zeros((*shape, len(artifacts)), dtype=bool)
    tagged = artifact >= 0
    seen[observer[tagged], unit[tagged], artifact[tagged]] = True
    result: dict[str | None, Estimate] = {}
    for i, name in enumerate(artifacts):
        binary = np.where(asked, seen[:, :, i].astype(float), np.nan)
        result[str(name)] = krippendorff_alpha(
            binary, "nominal", resample="observers", confidence=confidence
        )
    result[None] = _set_alpha(asked, seen, confidence)
    return result


def _set_alpha(
    asked: npt.NDArray[np.bool_], seen: npt.NDArray[np.bool_], confidence: float
) -> Estimate:
    method = "Krippendorff's alpha of sets of tags, Jaccard distance"
    if not seen.shape[2]:  # without any tag all sets are empty
        seen = np.zeros((*asked.shape, 1), dtype=bool)
    flat = seen[asked]
    sets, code = np.unique(flat, axis=0, return_inverse=True)
    common = sets.astype(float) @ sets.T.astype(float)
    size = sets.sum(axis=1)
    union = size[:, None] + size - common
    distance = np.where(union > 0, 1 - common / np.maximum(union, 1), 0.0)
    labels = np.full(asked.shape, -1)
    labels[asked] = code.ravel()

    counts = cluster_sums(np.nonzero(asked)[1], asked.shape[1], labels[asked], len(sets)).toarray()

    def alpha(counts: FloatArray) -> float:
        counts = counts[counts.sum(axis=1) >= 2]
        if not counts.size:
            return np.nan
        m, total = counts.sum(axis=1), counts.sum(axis=0)
        within = (((counts @ distance) * counts).sum(axis=1) / (m - 1)).sum()
        between = total @ distance @ total
        return float(1 - (total.sum() - 1) * within / between) if between > 0 else np.nan

    value = alpha(counts)
    n = int((asked.sum(axis=0) >= 2).sum())
    if not np.isfinite(value):
        return not_estimable(
            "no two observers tagged the same stimulus, or no variation",
            n=n, method=method, confidence=confidence,
        )  # fmt: skip
    without = []
    for own, said in zip(asked, labels, strict=True):
        rest = counts.copy()
        rest[np.flatnonzero(own), said[own]] -= 1
        without.append(alpha(rest))
    left = np.array(without)
    left = left[np.isfinite(left)]
    se = half = np.nan
    if left.size == len(asked) and left.size >= 3:
        m = left.size
        se = float(np.sqrt((m - 1) / m * ((left - left.mean()) ** 2).sum()))
        half = float(critical_value(confidence, m - 1)) * se
    return Estimate(
        value, value - half, min(value + half, 1.0), n,
        method + "; interval for new observers (jackknife)", confidence, se,
    )  # fmt: skip
