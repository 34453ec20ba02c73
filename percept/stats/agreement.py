"""Do people agree? Coefficients of agreement and of reliability.

A rating array is (observers, units) or (observers, units, repetitions); NaN is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from percept.errors import InputError
from percept.stats.bootstrap import (
    Estimate,
    FloatArray,
    check_confidence,
    check_resamples,
    cluster_sums,
    critical_value,
    not_estimable,
)
from percept.stats.frames import codes_of, counted_rows

Level = Literal["nominal", "ordinal", "interval", "ratio"]
_LEVELS = ("nominal", "ordinal", "interval", "ratio")


def rating_array(ratings: npt.ArrayLike) -> FloatArray:
    """Check a rating array and return it as floats (observers, units, repetitions).

    Raises
    ------
    InputError
        If it has neither 2 nor 3 dimensions, or holds an infinite value.
    """
    array = np.asarray(ratings, dtype=float)
    if array.ndim not in (2, 3):
        raise InputError(
            "A rating array is (observers, units) or (observers, units, repetitions)",
            value=array.shape,
        )
    if np.isinf(array).any():
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
    first, warnings = _first_repetition(rating_array(pairwise_units(frame)))
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
    rows = counted_rows(frame, ("observer", "left", "right", "choice"))
    unknown = set(map(str, rows["choice"].unique())) - {"left", "right", "tie", "skip"}
    if unknown:
        raise InputError("Unknown answer", column="choice", value=sorted(unknown)[0])
    observer, observers = codes_of(rows["observer"].to_numpy())
    sides, conditions = codes_of(
        np.concatenate([rows["left"].to_numpy(), rows["right"].to_numpy()])
    )
    left, right = sides[: len(rows)], sides[len(rows) :]
    content = codes_of(rows["content"].to_numpy())[0] if "content" in rows else np.zeros_like(left)
    if (observer < 0).any() or (sides < 0).any() or (content < 0).any():
        raise InputError("A vote lacks its observer, content or condition")
    k = max(len(conditions), 1)
    unit = (content * k + np.minimum(left, right)) * k + np.maximum(left, right)
    units, unit = np.unique(unit, return_inverse=True)
    vote = rows["choice"].map({"left": 1.0, "right": -1.0, "tie": 0.0}).to_numpy(dtype=float)
    vote = np.where(left > right, -vote, vote) + 0.0  # no negative zeros
    # The position of each vote among those of the same observer on the same unit.
    slot = pd.Series(observer * max(len(units), 1) + unit).groupby(observer * len(units) + unit)
    repetition = slot.cumcount().to_numpy()
    depth = int(repetition.max(initial=0)) + 1
    array = np.full((len(observers), len(units), depth), np.nan)
    array[observer, unit, repetition] = vote
    return array[:, :, 0] if depth == 1 else array


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
    paired = np.isfinite(ratings).sum(axis=0) >= 2
    n = int(paired.sum())
    if not n:
        return not_estimable("no unit has two ratings", method=method, confidence=confidence)
    units = _Units.of(ratings[:, paired], level, mirrored)
    value = float(units.alpha()[0])
    if not np.isfinite(value):
        return not_estimable("the ratings do not vary", n=n, method=method, confidence=confidence)
    low = high = se = np.nan
    if resample == "observers":
        method += "; interval for new observers on these units (jackknife)"
        low, high, se, problem = _jackknife(ratings, level, mirrored, value, confidence)
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
    ratings: FloatArray, level: str, mirrored: bool, value: float, confidence: float
) -> tuple[float, float, float, tuple[str, ...]]:
    given = np.flatnonzero(np.isfinite(ratings).any(axis=1))
    without = []
    for observer in given:
        rest = np.delete(ratings, observer, axis=0)
        paired = np.isfinite(rest).sum(axis=0) >= 2
        if paired.any():
            without.append(_Units.of(rest[:, paired], level, mirrored).alpha()[0])
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
    values: FloatArray  # (values,) distinct, sorted; empty for interval data
    counts: sparse.csr_matrix | None  # (units, values); None for interval data
    sums: FloatArray  # (3, units): ratings, their sum and sum of squares, centred

    @classmethod
    def of(cls, ratings: FloatArray, level: str, mirrored: bool) -> _Units:
        given = np.isfinite(ratings)
        size = given.sum(axis=0).astype(float)
        empty = np.zeros(0)
        if level == "interval":
            centred = np.where(given, ratings, 0.0)
            if not mirrored:  # the mirror images already centre at 0
                centred -= np.where(given, centred.sum() / size.sum(), 0.0)
            sums = np.stack([size, centred.sum(axis=0), (centred**2).sum(axis=0)])
            within = 2 * (size * sums[2] - sums[1] ** 2) / (size - 1)
            return cls(level, mirrored, size, within, empty, None, sums)
        observer, unit = np.nonzero(given)
        x = ratings[observer, unit]
        if mirrored:  # the domain has to be its own mirror image
            values, code = np.array([-1.0, 0.0, 1.0]), (x + 1).astype(np.int64)
        else:
            values, code = np.unique(x, return_inverse=True)
        counts = cluster_sums(unit, ratings.shape[1], code, len(values))
        within = np.zeros(len(size))
        if level == "nominal":
            squares = np.asarray(counts.multiply(counts).sum(axis=1)).ravel()
            within = (size**2 - squares) / (size - 1)
        elif level == "ratio":
            for i in range(1, len(ratings)):
                within += 2 * np.nansum(_ratio(ratings[i], ratings[:i]), axis=0)
            within /= size - 1
        return cls(level, mirrored, size, within, values, counts, np.zeros((3, 0)))

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


def _ratio(a: FloatArray, b: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = ((a - b) / (a + b)) ** 2
    return np.where((a == 0) & (b == 0), 0.0, squared)
