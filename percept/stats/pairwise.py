"""Scales from paired comparisons: Bradley–Terry and Thurstone, ties, side effect, clusters.

Votes are counted once into cells (left item, right item); every model is then a concave
likelihood in the strengths, the side effect and one tie parameter, maximised by Newton's method,
for one data set or for a whole batch of reweighted ones at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import linalg, sparse, special
from scipy.sparse import csgraph

from percept.errors import InputError
from percept.stats.bootstrap import (
    Estimate,
    FloatArray,
    TestedEstimate,
    adjust_p_values,
    bootstrap_draws,
    check_confidence,
    check_resamples,
    cluster_mean,
    cluster_sums,
    combine,
    critical_value,
    effective_size,
    float_array,
    inflate,
    not_estimable,
    p_value,
)
from percept.stats.frames import (
    Clusters,
    IntArray,
    clusters_of,
    codes_of,
    common_codes,
    counted_rows,
    distinct_codes,
)

Ties = Literal["davidson", "rao-kupper", "half", "drop"]
JOD_LOGISTIC = float(np.log(3))  # log-strength difference at which 75 % prefer the better
JOD_NORMAL = float(special.ndtri(0.75))  # the same in standard deviations of the difference
_OUTCOMES = {"left": 0, "tie": 1, "right": 2}
_ITERATIONS = 100


@dataclass(frozen=True)
class PairCounts:
    """Votes counted by pair.

    Attributes
    ----------
    wins : array (items, items)
        ``wins[i, j]``: how often i was preferred to j. The diagonal is ignored.
    ties : array (items, items), optional
        Symmetric: ``ties[i, j] == ties[j, i]``, the number of ties between i and j.
    items : sequence, optional
        Labels; 0, 1, ... by default.

    Raises
    ------
    InputError
        If a matrix is not square, or holds a negative, missing or infinite count.
    """

    wins: npt.ArrayLike
    ties: npt.ArrayLike | None = None
    items: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        wins = _count_matrix(self.wins, "wins")
        ties = np.zeros_like(wins) if self.ties is None else _count_matrix(self.ties, "ties")
        if ties.shape != wins.shape:
            raise InputError("wins and ties differ in shape", value=(wins.shape, ties.shape))
        if not np.array_equal(ties, ties.T):
            raise InputError("ties must be symmetric", key="ties")
        items = tuple(range(len(wins))) if self.items is None else tuple(self.items)
        if len(items) != len(wins) or len(set(items)) != len(items):
            raise InputError("items must name each row of wins once", value=items)
        for name, value in (("wins", wins), ("ties", ties), ("items", items)):
            object.__setattr__(self, name, value)


def _count_matrix(values: npt.ArrayLike, key: str) -> FloatArray:
    matrix = float_array(values, key).copy()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError("A count matrix must be square", key=key, value=matrix.shape)
    np.fill_diagonal(matrix, 0)
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise InputError("Counts must be finite and not negative", key=key)
    return matrix


@dataclass(frozen=True)
class Scale:
    """Strengths of items on an interval scale.

    Attributes
    ----------
    items : tuple (k,)
        Labels, sorted.
    score : array (k,)
        Bradley–Terry: log-strength; Thurstone: in standard deviations of a difference. Mean 0
        within each component. NaN where not estimable.
    jod : array (k,)
        ``score`` in units of which one means that 75 % (of those who choose) prefer the better.
    covariance : array (k, k)
        Of ``score``; NaN between components.
    low, high : array (k,)
        Interval of ``score``. An item that never lost (never won) has none.
    rank_low, rank_high : array (k,) of int
        Ranks, 1 is best, that the data cannot exclude: pairwise differences tested for each item
        by Holm's procedure (Mogstad, Romano, Shaikh & Wilhelm 2024).
    tie_parameter : float
        Davidson's nu or Rao & Kupper's theta; NaN if the model has none.
    side_effect : float
        Advantage of the left side, in units of ``score``; NaN unless asked for.
    side_effect_low, side_effect_high : float
        Its interval.
    log_likelihood : float
        Of the votes, at the maximum, without combinatorial constants.
    component : array (k,) of int
        Items with the same number can be compared by the model; differences between components
        are infinite or unknown.
    estimable : array (k,) of bool
        False for an item that is alone in its component.
    converged : bool
        Whether Newton's method reached its tolerance.
    warnings : tuple of str
        Doubts that a reader has to know.
    n, n_ties, n_skipped : float
        Votes used, ties among all votes, and skipped answers.
    method : str
        Model and what the intervals speak of.
    confidence : float
        Of the intervals.
    degrees_of_freedom : array (k, k)
        Of each difference; on the diagonal of each score. Infinite: normal theory.
    jod_unit : float
        ``score`` of one JOD.
    ties : str
        How ties were treated.
    """

    items: tuple[Any, ...]
    score: FloatArray
    jod: FloatArray
    covariance: FloatArray
    low: FloatArray
    high: FloatArray
    tie_parameter: float
    side_effect: float
    side_effect_low: float
    side_effect_high: float
    log_likelihood: float
    component: IntArray
    estimable: npt.NDArray[np.bool_]
    converged: bool
    warnings: tuple[str, ...]
    n: float
    n_ties: float
    n_skipped: float
    method: str
    confidence: float
    degrees_of_freedom: FloatArray
    jod_unit: float
    ties: Ties

    @cached_property
    def _distinct(self) -> npt.NDArray[np.bool_]:
        return _distinct(self.score, self.covariance, self.degrees_of_freedom, self.confidence)

    @property
    def rank_low(self) -> IntArray:
        """Best rank of each item that the data cannot exclude (k,)."""
        return 1 + (self._distinct & (self.score > self.score[:, None])).sum(axis=1)

    @property
    def rank_high(self) -> IntArray:
        """Worst rank of each item that the data cannot exclude (k,)."""
        worse = self._distinct & (self.score < self.score[:, None])
        return len(self.items) - worse.sum(axis=1)

    @property
    def told_apart(self) -> npt.NDArray[np.bool_]:
        """Whether two items differ by the tests behind the ranks of both (k, k)."""
        return self._distinct & self._distinct.T

    def _index(self, item: Any) -> int:
        if item not in self.items:
            raise InputError("No such item in the scale", value=item, remedy=f"It has {self.items}")
        return self.items.index(item)

    def difference(self, a: Any, b: Any, *, unit: Literal["score", "jod"] = "score") -> Estimate:
        """How far ``a`` lies above ``b``; not estimable across components."""
        i, j = self._index(a), self._index(b)
        method = f"{a} above {b}; {self.method}"
        if i != j and (self.component[i] != self.component[j] or not self.estimable[i]):
            return not_estimable(
                f"{a} and {b} are in different components",
                n=int(self.n),
                method=method,
                confidence=self.confidence,
            )
        size = self.jod_unit if unit == "jod" else 1.0
        c = self.covariance
        se = float(np.sqrt(max(c[i, i] + c[j, j] - 2 * c[i, j], 0.0))) / size
        value = float(self.score[i] - self.score[j]) / size
        half = float(critical_value(self.confidence, self.degrees_of_freedom[i, j])) * se
        return Estimate(
            value,
            value - half,
            value + half,
            int(self.n),
            method,
            self.confidence,
            se,
            self.warnings,
        )

    def probability(self, a: Any, b: Any) -> Estimate:
        """Share of those who choose that prefers ``a`` to ``b``, sides being balanced."""
        d = self.difference(a, b)
        cdf = special.ndtr if self.jod_unit == JOD_NORMAL else special.expit
        value, low, high = (float(cdf(x)) for x in (d.value, d.low, d.high))
        return Estimate(
            value,
            low,
            high,
            d.n,
            f"share that prefers {d.method}",
            d.confidence,
            warnings=d.warnings,
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per item, best first: score, jod, interval in JOD, ranks, component."""
        frame = pd.DataFrame(
            {
                "item": list(self.items),
                "score": self.score,
                "low": self.low,
                "high": self.high,
                "jod": self.jod,
                "jod_low": self.low / self.jod_unit,
                "jod_high": self.high / self.jod_unit,
                "rank_low": self.rank_low,
                "rank_high": self.rank_high,
                "component": self.component,
                "estimable": self.estimable,
            }
        )
        return frame.sort_values(["component", "score"], ascending=[True, False], ignore_index=True)


# -- votes into cells ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Votes:
    """Votes of k items in p cells (ordered pairs that occur)."""

    items: tuple[Any, ...]
    left: IntArray  # (p,)
    right: IntArray  # (p,)
    counts: FloatArray  # (p, 3): left, tie, right
    codes: tuple[npt.NDArray[np.integer[Any]], ...]  # (n,) of each row: left, right, answer
    means: tuple[IntArray, ...]  # by code: item, item, outcome
    sides: bool  # whether the order in a pair says the side
    weight: FloatArray  # (n,) votes that a row stands for
    clusters: Clusters
    n_ties: float
    n_skipped: float
    warnings: tuple[str, ...]

    @cached_property
    def column(self) -> IntArray:
        """Cell * 3 + outcome of each row (n,)."""
        pair, outcome = _pair_codes(self.codes, self.means, len(self.items), self.sides)
        present = self.left * len(self.items) + self.right
        return np.searchsorted(present, pair) * 3 + outcome


def _pair_codes(
    codes: tuple[npt.NDArray[np.integer[Any]], ...],
    means: tuple[IntArray, ...],
    k: int,
    sides: bool,
) -> tuple[IntArray, IntArray]:
    """One number for each row's pair (n,), left * k + right, and its outcome (n,)."""
    left, right, outcome = (mean[code] for mean, code in zip(means, codes, strict=True))
    if not sides:
        swap = left > right
        left, right = np.where(swap, right, left), np.where(swap, left, right)
        outcome = np.where(swap, 2 - outcome, outcome)
    return left * k + right, outcome


def _votes_of_counts(pairs: PairCounts, cluster: object) -> _Votes:
    wins, ties = np.asarray(pairs.wins), np.asarray(pairs.ties)
    left, right = np.nonzero(np.triu(wins + wins.T + ties, 1))
    counts = np.stack([wins[left, right], ties[left, right], wins[right, left]], axis=1)
    warnings = ("counts hold no observer or content: votes are taken as independent",)
    same, outcomes = np.arange(len(wins)), np.arange(3)
    return _Votes(
        tuple(pairs.items or ()), left.astype(np.int64), right.astype(np.int64), counts,
        (np.repeat(left, 3), np.repeat(right, 3), np.tile(outcomes, left.size)),
        (same, same, outcomes), True, counts.ravel(), Clusters(), float(counts[:, 1].sum()), 0.0,
        warnings if cluster else (),
    )  # fmt: skip


def votes_of_frame(
    frame: pd.DataFrame, cluster: str | Sequence[str] | None, *, sides: bool
) -> _Votes:
    """Count the votes of a tidy frame; without ``sides`` a pair has one order only."""
    rows = counted_rows(frame, ("left", "right", "choice"))
    said, label = _answers(rows["choice"])
    unknown = sorted(set(map(str, label)) - {*_OUTCOMES, "skip"})
    if unknown or said.min(initial=0) < 0:
        raise InputError(
            "Unknown answer",
            column="choice",
            value=unknown[0] if unknown else None,
            remedy="Answers are left, right, tie and skip",
        )
    outcome_of = np.array([_OUTCOMES.get(str(name), -1) for name in label], dtype=np.int64)
    counted = "count" in rows.columns
    weight = float_array(rows["count"], "count") if counted else np.ones(1)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise InputError("Counts must be finite and not negative", column="count")
    n_skipped = 0.0
    if counted or (outcome_of < 0).any():
        skipped = (outcome_of < 0)[said]
        n_skipped = float(np.broadcast_to(weight, said.shape)[skipped].sum())
        used = ~skipped & (weight > 0)
        rows, said = rows[used], said[used]
        weight = weight[used] if counted else weight
    (left, right), places, items = common_codes(rows["left"], rows["right"])
    if min(left.min(initial=0), right.min(initial=0)) < 0:
        raise InputError("A side of a comparison has no condition", column="left, right")
    codes, means = (left, right, said), (*places, outcome_of)
    k, weights = len(items), weight if counted else None
    if 3 * k * k <= 4 * said.size + 1_000_000:
        # A table over all that could be answered beats sorting; labels are sorted on the table.
        shape = tuple(part.size for part in means)
        answer = np.multiply(left, shape[1])
        answer += right
        answer *= shape[2]
        answer += said
        size = shape[0] * shape[1] * shape[2]
        table = np.bincount(answer, weights, minlength=size).reshape(shape)
        by_outcome: list[Any] = [None, None, None]
        for code, outcome in enumerate(outcome_of):
            if outcome >= 0:
                by_outcome[outcome] = np.zeros((k, k))
                by_outcome[outcome][np.ix_(*places)] = table[:, :, code]
        won, tied, lost = by_outcome
        if not sides:
            won = _sum(won, None if lost is None else lost.T)
            tied = _sum(tied, None if tied is None else tied.T)
            lost = None if won is None else won.T
        total = _sum(_sum(won, lost), tied)
        cells = np.flatnonzero(0 if total is None else total if sides else np.triu(total))
        first, second = np.divmod(cells, max(k, 1))
        counts = np.zeros((3, cells.size))
        for row, own in zip(counts, (won, tied, lost), strict=True):
            if own is not None:
                row[:] = own[first, second]
        counts = counts.T
    else:
        pair, outcome = _pair_codes(codes, means, k, sides)
        cells, cell = np.unique(pair, return_inverse=True)
        tally = np.bincount(cell * 3 + outcome, weights, minlength=3 * cells.size)
        counts = tally.reshape(-1, 3).astype(float)
        first, second = np.divmod(cells, max(k, 1))
    if (first == second).any():
        raise InputError(
            "A condition is compared with itself",
            column="left, right",
            value=items[first[first == second][0]],
            remedy="Mark identical pairs with kind = 'identical'",
        )
    groups = clusters_of(rows, cluster)
    return _Votes(
        tuple(items.tolist()), first, second, counts, codes, means, sides,
        np.broadcast_to(weight, said.shape), groups, float(counts[:, 1].sum()), n_skipped,
        groups.warnings,
    )  # fmt: skip


def _sum(a: FloatArray | None, b: FloatArray | None) -> FloatArray | None:
    """Sum of two tables, of which None is empty."""
    return b if a is None else a if b is None else a + b


def _answers(choice: pd.Series) -> tuple[npt.NDArray[np.integer[Any]], Any]:
    """Code of each answer (n,), -1 where it is missing, and the answers of the codes."""
    if isinstance(choice.dtype, pd.StringDtype):  # two comparisons cost less than hashing
        compared = [choice == side for side in ("left", "right")]
        left, right = (
            own.to_numpy() if own.dtype == bool else own.to_numpy(bool, na_value=False)
            for own in compared
        )
        if (left | right).all():
            return right.view(np.int8), ("left", "right")
    return pd.factorize(choice)


# -- likelihoods: counts (..., p, 3), differences (..., p), tie parameter (..., 1) ----------------


@dataclass(frozen=True)
class _Terms:
    """Log-likelihood by cell with its derivatives; second ones with changed sign."""

    value: FloatArray
    g: FloatArray
    h: FloatArray
    g_tie: FloatArray | None = None
    h_tie: FloatArray | None = None
    h_mixed: FloatArray | None = None


def _logistic(n: FloatArray, d: FloatArray, tie: FloatArray | None) -> _Terms:
    up, total = n[..., 0], n[..., 0] + n[..., 2]
    t = np.exp(-np.abs(d))
    lead = 1 / (1 + t)
    p = 0.5 + np.copysign(lead - 0.5, d)
    value = up * d + total * (np.log(lead) - np.maximum(d, 0))
    return _Terms(value, up - total * p, total * lead * (1 - lead))


def _normal(n: FloatArray, d: FloatArray, tie: FloatArray | None) -> _Terms:
    up, down = special.log_ndtr(d), special.log_ndtr(-d)
    log_density = -0.5 * d**2 - 0.5 * np.log(2 * np.pi)
    r_up, r_down = np.exp(log_density - up), np.exp(log_density - down)
    return _Terms(
        n[..., 0] * up + n[..., 2] * down,
        n[..., 0] * r_up - n[..., 2] * r_down,
        n[..., 0] * r_up * (d + r_up) + n[..., 2] * r_down * (r_down - d),
    )


def _davidson(n: FloatArray, d: FloatArray, tie: FloatArray | None) -> _Terms:
    """P(left) : P(tie) : P(right) = exp(d/2) : exp(tie) : exp(-d/2)."""
    log_odds = np.stack(np.broadcast_arrays(d / 2, 0.0 if tie is None else tie, -d / 2), axis=-1)
    log_p = log_odds - special.logsumexp(log_odds, axis=-1, keepdims=True)
    p_left, p_tie, p_right = np.moveaxis(np.exp(log_p), -1, 0)
    total, lead = n.sum(axis=-1), p_left - p_right
    return _Terms(
        (n * log_p).sum(axis=-1),
        (n[..., 0] - n[..., 2] - total * lead) / 2,
        total * (p_left + p_right - lead**2) / 4,
        n[..., 1] - total * p_tie,
        total * p_tie * (1 - p_tie),
        -total * p_tie * lead / 2,
    )


def _rao_kupper(n: FloatArray, d: FloatArray, tie: FloatArray | None) -> _Terms:
    """P(left) = 1/(1+exp(tie-d)), P(right) = 1/(1+exp(tie+d)), the rest ties; tie > 0."""
    eta = np.broadcast_to(0.0 if tie is None else tie, d.shape)
    p_left, p_right = special.expit(d - eta), special.expit(-d - eta)
    a, b = n[..., 0] + n[..., 1], n[..., 2] + n[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.expm1(2 * eta)  # P(tie) = P(left) P(right) gap
        value = a * special.log_expit(d - eta) + b * special.log_expit(-d - eta)
        value = np.where(eta > 0, value + special.xlogy(n[..., 1], gap), -np.inf)
        from_gap = 2 * (1 + 1 / gap)
        bend = 4 * (1 + 1 / gap) / gap
    ga, gb = a * (1 - p_left), b * (1 - p_right)
    ha, hb = ga * p_left, gb * p_right
    return _Terms(
        value,
        ga - gb,
        ha + hb,
        n[..., 1] * from_gap - ga - gb,
        ha + hb + n[..., 1] * bend,
        hb - ha,
    )


def _joined(parts: list[_Terms]) -> _Terms:
    """Terms of consecutive cells as one."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for own in fields(_Terms):
        each = [getattr(part, own.name) for part in parts]
        joined[own.name] = None if each[0] is None else np.concatenate(each, axis=-1)
    return _Terms(**joined)


# -- Newton -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """A likelihood over fixed cells; parameters are (k strengths, side effect?, tie?)."""

    terms: Any
    left: IntArray
    right: IntArray
    k: int
    side: bool
    tie: bool
    block: IntArray  # (k,) component of each item; strengths have mean 0 in each
    penalty: float
    incidence: sparse.csr_matrix = field(init=False)  # (p, k + side)

    def __post_init__(self) -> None:
        p = len(self.left)
        side = [np.full(p, self.k)] if self.side else []
        columns = np.stack([self.left, self.right, *side], axis=1)
        signs = np.tile([1.0, -1.0, 1.0][: columns.shape[1]], p)
        rows = np.arange(0, columns.size + 1, columns.shape[1])
        matrix = sparse.csr_matrix((signs, columns.ravel(), rows), shape=(p, self.k + self.side))
        object.__setattr__(self, "incidence", matrix)

    @cached_property
    def met(self) -> sparse.csr_matrix:
        """1 where an item is in a pair (p, k)."""
        return abs(self.incidence[:, : self.k])

    @cached_property
    def cell(self) -> IntArray:
        """Where each pair stands in a flattened information matrix (p,)."""
        return self.left * self.size + self.right

    @property
    def size(self) -> int:
        return self.k + self.side + self.tie

    def evaluate(self, counts: FloatArray, beta: FloatArray) -> tuple[FloatArray, _Terms]:
        """Penalised log-likelihood (b,) and its terms, for counts (b, p, 3) and beta (b, size)."""
        d = (self.incidence @ beta[:, : self.k + self.side].T).T
        tie = beta[:, -1:] if self.tie else None
        room = max(1, 16_384 // len(beta))  # cells whose terms stay in the cache
        t = _joined(
            [
                self.terms(counts[:, first : first + room], d[:, first : first + room], tie)
                for first in range(0, max(d.shape[1], 1), room)
            ]
        )
        strengths = beta[:, : self.k]
        return t.value.sum(axis=-1) - self.penalty * (strengths**2).sum(axis=-1), t

    def gradient(self, t: _Terms, beta: FloatArray) -> FloatArray:
        g = np.zeros((len(beta), self.size))
        g[:, : self.k + self.side] = (self.incidence.T @ t.g.T).T
        g[:, : self.k] -= 2 * self.penalty * beta[:, : self.k]
        if t.g_tie is not None:
            g[:, -1] = t.g_tie.sum(axis=-1)
        return g

    def information(self, t: _Terms) -> FloatArray:
        """Negative Hessian (b, size, size), made regular along the free origins."""
        b, k = len(t.h), self.k
        info = np.zeros((b, self.size, self.size))
        blocks = np.unique(self.block)
        if len(blocks) == 1:
            info[:, :k, :k] = 0.5 / k
        else:
            for block in blocks:
                members = np.flatnonzero(self.block == block)
                info[:, members[:, None], members] = 0.5 / members.size
        info.reshape(b, -1)[:, self.cell] -= t.h  # an ordered pair is one cell only
        info = info + np.swapaxes(info, 1, 2)
        diagonal = np.arange(k)
        info[:, diagonal, diagonal] += (self.met.T @ t.h.T).T + 2 * self.penalty
        if self.side:
            info[:, k, :k] = info[:, :k, k] = (self.incidence[:, :k].T @ t.h.T).T
            info[:, k, k] = t.h.sum(axis=-1)
        if t.h_mixed is not None and t.h_tie is not None:
            mixed = (self.incidence.T @ t.h_mixed.T).T
            info[:, -1, :-1] = info[:, :-1, -1] = mixed
            info[:, -1, -1] = t.h_tie.sum(axis=-1)
        return info

    def fit(
        self, counts: FloatArray, start: FloatArray
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """Maximise for every data set of the batch: (beta, log-likelihood, converged)."""
        beta = np.broadcast_to(start, (len(counts), self.size)).copy()
        # Each outcome side by side in memory.
        counts = np.moveaxis(np.ascontiguousarray(np.moveaxis(counts, -1, 0)), 0, -1)
        value, terms = self.evaluate(counts, beta)
        active = np.ones(len(counts), dtype=bool)
        solve, strayed = self._solver(terms), 0.0
        for _ in range(_ITERATIONS):
            step = self._limited(solve(self.gradient(terms, beta)))
            size = np.abs(step).max(axis=-1)
            strayed = max(strayed, float(size.max()))
            active = size * strayed > 1e-10  # of which order the next error is
            if not active.any():
                return beta + step, value, ~active
            length = np.ones(len(beta))
            for _ in range(40):
                trial = beta + length[:, None] * step
                new, new_terms = self.evaluate(counts, trial)
                worse = ~(new >= value - 1e-12 * (1 + np.abs(value)))
                if not worse.any():
                    break
                length = np.where(worse, length / 2, length)
            beta, value, terms = trial, new, new_terms
            if strayed > 0.02 or len(beta) > 1:  # near the optimum the old curvature will do
                solve, strayed = self._solver(terms), 0.0
        return beta, value, ~active

    def _solver(self, terms: _Terms) -> Callable[[FloatArray], FloatArray]:
        """Return the function that takes gradients (b, size) to Newton's steps."""
        info = self.information(terms)
        if len(info) > 1:
            return lambda g: _solve(info, g)
        try:  # half the work of a general solution; LAPACK counts by columns
            factor = linalg.cho_factor(info[0].T, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            info = self.information(terms)
            return lambda g: _solve(info, g)
        return lambda g: linalg.cho_solve(factor, g[0], check_finite=False)[None]

    @staticmethod
    def _limited(step: FloatArray) -> FloatArray:
        largest = np.abs(step).max(axis=-1, keepdims=True)
        return np.asarray(step * np.minimum(1, 5 / np.maximum(largest, 1e-300)))

    def centred(self, matrix: FloatArray) -> FloatArray:
        """Rows and columns of strengths less their mean over each component."""
        return _centred(matrix, self.block)


def _centred(matrix: FloatArray, block: IntArray) -> FloatArray:
    result = matrix.copy()
    blocks = np.unique(block)
    for one in blocks:  # where there is one, a slice needs no copy
        members = slice(0, block.size) if len(blocks) == 1 else np.flatnonzero(block == one)
        result[members] -= result[members].mean(axis=0)
        result[:, members] -= result[:, members].mean(axis=1, keepdims=True)
    return result


def _solve(info: FloatArray, g: FloatArray) -> FloatArray:
    try:
        return np.asarray(np.linalg.solve(info, g[..., None])[..., 0])
    except np.linalg.LinAlgError:
        size = info.shape[-1]
        ridge = 1e-8 * np.einsum("bii->b", info)[:, None, None] + 1e-300
        return np.asarray(np.linalg.solve(info + ridge * np.eye(size), g[..., None])[..., 0])


# -- public -------------------------------------------------------------------------------------


def bradley_terry(
    comparisons: pd.DataFrame | PairCounts,
    *,
    ties: Ties = "davidson",
    side_effect: bool = False,
    cluster: str | Sequence[str] | None = ("observer", "content"),
    n_boot: int = 0,
    confidence: float = 0.95,
    penalty: float = 0.0,
    intervals: bool = True,
    rng: np.random.Generator | None = None,
) -> Scale:
    """Scale items by Bradley & Terry's model: P(i over j) = 1 / (1 + exp(score_j - score_i)).

    Parameters
    ----------
    comparisons : DataFrame or PairCounts
        A tidy frame with ``left, right, choice`` (left, right, tie or skip), and, where known,
        ``observer, content, count`` (votes that a row stands for); or votes counted by pair.
    ties : {"davidson", "rao-kupper", "half", "drop"}
        Davidson (1970): P(tie) in proportion to nu * sqrt(pi_i * pi_j). Rao & Kupper (1967): a
        threshold theta. Half a win for each shrinks the scale, with a warning. Or leave ties out.
    side_effect : bool
        Estimate an advantage of the left side, an additive term of the log-odds (Davidson &
        Beaver 1977). Needs a frame.
    cluster : str, sequence of str, or None
        Columns over which votes depend on each other. Both observer and content: intervals speak
        of new observers and new photographs. Observer alone: of these photographs only.
    n_boot : int
        0: sandwich covariance. Else bootstrap of the clusters with this many resamples for each
        term of the two-way formula.
    confidence : float
        Nominal coverage of each interval.
    penalty : float
        Optional ridge: this times the sum of squared scores is taken from the log-likelihood
        (as in choix). It makes never-beaten items and separate components finite, by decree:
        the result says so.
    intervals : bool
        False: scores only, without covariance, intervals and ranks, for speed.
    rng : Generator, keyword-only
        For ``n_boot``.

    Returns
    -------
    Scale
        One scale per *component*. Items of a component are linked by wins in both directions
        (Ford 1957); where the maximum likelihood is infinite or undetermined there is no number
        and a warning instead.

    Raises
    ------
    InputError
        On missing columns, unknown answers, mixed attributes, impossible counts.

    Notes
    -----
    Newton's method on counts (Hunter 2004 discusses existence and uniqueness). Two-way
    covariance: Cameron, Gelbach & Miller (2011), clusters weighed by their share of the votes as
    in :func:`percept.stats.cluster_mean`, Student's t.
    """
    return _scale(comparisons, False, ties, side_effect, cluster, n_boot, confidence, penalty,
                  intervals, rng)  # fmt: skip


def thurstone_case_v(
    comparisons: pd.DataFrame | PairCounts,
    *,
    ties: Literal["half", "drop"] = "drop",
    side_effect: bool = False,
    cluster: str | Sequence[str] | None = ("observer", "content"),
    n_boot: int = 0,
    confidence: float = 0.95,
    penalty: float = 0.0,
    intervals: bool = True,
    rng: np.random.Generator | None = None,
) -> Scale:
    """Scale items by Thurstone's Case V: P(i over j) = Phi(score_i - score_j).

    ``score`` is in standard deviations of a difference; ``jod`` divides it by Phi^-1(0.75), which
    is the scale of Perez-Ortiz & Mantiuk (2017) with sigma = 1.4826. Arguments and result are
    those of :func:`bradley_terry`; ties are left out or counted half.
    """
    if ties not in ("half", "drop"):
        raise InputError("Thurstone's model has no ties", key="ties", value=ties,
                         remedy='Use "half" or "drop"')  # fmt: skip
    return _scale(comparisons, True, ties, side_effect, cluster, n_boot, confidence, penalty,
                  intervals, rng)  # fmt: skip


def scale_by(
    comparisons: pd.DataFrame,
    by: str,
    *,
    model: Callable[..., Scale] = bradley_terry,
    **options: Any,
) -> dict[Any, Scale]:
    """One scale for each attribute, observer group, era or other stratum.

    Parameters
    ----------
    comparisons : DataFrame
        As for :func:`bradley_terry`, with the column ``by``.
    by : str
        Column whose values part the votes; rows without a value are left out.
    model : callable
        :func:`bradley_terry` or :func:`thurstone_case_v`.
    **options
        For the model.

    Returns
    -------
    dict
        By value, sorted. Scores of different strata have each their own mean 0: compare
        differences between items, not scores.
    """
    if by not in comparisons.columns:
        raise InputError("The frame lacks a column", column=by)
    groups = comparisons.groupby(by, sort=True, observed=True)
    return {label: model(rows, **options) for label, rows in groups}


def _scale(
    comparisons: pd.DataFrame | PairCounts,
    normal: bool,
    ties: Ties,
    side_effect: bool,
    cluster: str | Sequence[str] | None,
    n_boot: int,
    confidence: float,
    penalty: float,
    intervals: bool,
    rng: np.random.Generator | None,
) -> Scale:
    check_confidence(confidence)
    generator = check_resamples(n_boot, rng)
    if ties not in ("davidson", "rao-kupper", "half", "drop"):
        raise InputError("Unknown treatment of ties", key="ties", value=ties)
    if not (np.isfinite(penalty) and penalty >= 0):
        raise InputError("The penalty must be finite and not negative", value=penalty)
    if isinstance(comparisons, PairCounts):
        if side_effect:
            raise InputError("Counts by pair do not say which side won", key="side_effect")
        votes = _votes_of_counts(comparisons, cluster)
    else:
        votes = votes_of_frame(comparisons, cluster if intervals else None, sides=side_effect)
    k = len(votes.items)
    warnings = list(votes.warnings)

    # Ties: to the model, half to each side, or away.
    treat = np.eye(3)
    if ties == "half":
        treat[1] = (0.5, 0.0, 0.5)
        if votes.n_ties:
            warnings.append("ties count as half a win for each, which shrinks the scale")
    elif ties == "drop":
        treat[1] = 0.0
    modelled = ties in ("davidson", "rao-kupper")
    counts = votes.counts if modelled else votes.counts @ treat
    tie = modelled and votes.n_ties > 0
    decided = counts[:, 0].sum() + counts[:, 2].sum()

    block = _components(counts, votes, k) if not penalty else np.zeros(k, dtype=np.int64)
    if penalty:
        warnings.append(f"a ridge penalty of {penalty:g} pulls all scores towards 0")
    inside = block[votes.left] == block[votes.right]
    estimable = (np.bincount(block, minlength=k)[block] > 1) & bool(decided)
    if not decided:
        inside[:] = False
        warnings.append("not estimable: no decided votes")
    elif not estimable.all() or len(np.unique(block)) > 1:
        warnings += _component_warnings(counts, votes, block)

    names = {"davidson": "ties by Davidson", "rao-kupper": "ties by Rao & Kupper",
             "half": "ties half", "drop": "ties left out"}  # fmt: skip
    method = f"{'Thurstone Case V' if normal else 'Bradley–Terry'}, {names[ties]}"
    if side_effect:
        method += ", side effect"
    covered = f"bootstrap, {n_boot} resamples" if n_boot and votes.clusters.sizes else "sandwich"
    spoken_of = f"{votes.clusters.speaks_of} ({covered})" if votes.clusters.sizes else None
    method += f"; intervals for {spoken_of or 'independent votes'}" if intervals else ""

    unit = JOD_NORMAL if normal else JOD_LOGISTIC
    score = np.full(k, np.nan)
    covariance = np.full((k, k), np.nan)
    side_value = tie_value = np.nan
    likelihood, converged = 0.0, True
    side_half = np.nan
    degrees = np.broadcast_to(np.inf, (k, k))
    if inside.any():
        used: Any = slice(None) if inside.all() else inside  # a slice needs no copy
        terms = _normal if normal else _logistic
        if tie:
            terms = _davidson if ties == "davidson" else _rao_kupper
        model = _Model(
            terms, votes.left[used], votes.right[used], k, side_effect, tie, block, penalty
        )
        start = np.zeros((1, model.size))
        start[0, :k] = unit / JOD_LOGISTIC * _rough_strengths(model, counts[used])
        if tie:
            share = min(votes.n_ties / votes.counts.sum(), 0.99)
            start[0, -1] = np.log(
                2 * share / (1 - share) if ties == "davidson" else (1 + share) / (1 - share)
            )
        beta, value, done = model.fit(counts[used][None], start)
        likelihood, converged = float(value[0] + penalty * (beta[0, :k] ** 2).sum()), bool(done[0])
        if side_effect and (not converged or abs(beta[0, k]) > 15):
            estimable[:] = False
            warnings.append("not estimable: the side effect explains every vote or is unbounded")
        else:
            if not converged:
                warnings.append("Newton's method did not converge")
            score[estimable] = beta[0, :k][estimable]
            if intervals:
                covariance, side_variance, freedom = _covariance(
                    model, votes, inside, treat, beta, n_boot, generator
                )
                degrees = freedom[:k, :k]
                unknown = ~np.isfinite(np.diagonal(covariance)) & estimable
                if unknown.any():
                    which = ", ".join(str(votes.items[i]) for i in np.flatnonzero(unknown))
                    cluster_names = " or of one ".join(votes.clusters.names)
                    warnings.append(f"no interval of {which}: all votes are of one {cluster_names}")
                if len(np.unique(block)) > 1:
                    covariance[block[:, None] != block] = np.nan
                covariance[~estimable] = np.nan
                side_half = float(
                    critical_value(confidence, freedom[-1, -1]) * np.sqrt(side_variance)
                )
            if side_effect:
                side_value = float(beta[0, k])
            if tie:
                tie_value = float(np.exp(beta[0, -1]))
        if modelled and not tie:
            tie_value = 0.0 if ties == "davidson" else 1.0
    half = critical_value(confidence, np.diagonal(degrees)) * np.sqrt(
        np.maximum(np.diagonal(covariance), 0)
    )
    return Scale(
        items=votes.items,
        score=score,
        jod=score / unit,
        covariance=covariance,
        low=score - half,
        high=score + half,
        tie_parameter=tie_value,
        side_effect=side_value,
        side_effect_low=side_value - side_half,
        side_effect_high=side_value + side_half,
        log_likelihood=likelihood if inside.any() else np.nan,
        component=block,
        estimable=estimable,
        converged=converged,
        warnings=tuple(warnings),
        n=float(counts.sum()),
        n_ties=votes.n_ties,
        n_skipped=votes.n_skipped,
        method=method,
        confidence=confidence,
        degrees_of_freedom=degrees,
        jod_unit=unit,
        ties=ties,
    )


def _components(counts: FloatArray, votes: _Votes, k: int) -> IntArray:
    """Strongly connected components of "i was preferred to, or tied with, j" (Ford 1957)."""
    forward, backward = counts[:, 0] + counts[:, 1] > 0, counts[:, 2] + counts[:, 1] > 0
    if 0 < k * k <= 16 * len(counts):  # a full table: mostly all is connected, and soon seen to be
        beat = np.zeros((k, k), dtype=bool)
        beat[votes.left, votes.right] = forward
        beat[votes.right, votes.left] |= backward
        if _reaches_all(beat) and _reaches_all(beat.T):
            return np.zeros(k, dtype=np.int64)
    rows = np.concatenate([votes.left[forward], votes.right[backward]])
    columns = np.concatenate([votes.right[forward], votes.left[backward]])
    graph = sparse.coo_matrix((np.ones(rows.size), (rows, columns)), shape=(k, k))
    _, labels = csgraph.connected_components(graph, directed=True, connection="strong")
    # Number components by their first item, so that the labels do not depend on the algorithm.
    _, first = np.unique(labels, return_index=True)
    order = np.argsort(np.argsort(first))
    return order[labels].astype(np.int64)


def _reaches_all(follows: npt.NDArray[np.bool_]) -> bool:
    """Whether the first item leads to all others, step by step."""
    reached = np.zeros(len(follows), dtype=bool)
    new = np.arange(len(follows)) == 0
    while new.any():
        reached |= new
        new = follows[new].any(axis=0) & ~reached
    return bool(reached.all())


def _component_warnings(counts: FloatArray, votes: _Votes, block: IntArray) -> list[str]:
    k = len(votes.items)
    won = np.bincount(votes.left, counts[:, 0], minlength=k) + np.bincount(
        votes.right, counts[:, 2], minlength=k
    )
    lost = np.bincount(votes.left, counts[:, 2], minlength=k) + np.bincount(
        votes.right, counts[:, 0], minlength=k
    )
    tied = np.bincount(votes.left, counts[:, 1], minlength=k) + np.bincount(
        votes.right, counts[:, 1], minlength=k
    )
    texts = []
    for verdict, chosen in (
        ("never beaten: strength unbounded", (lost + tied == 0) & (won > 0)),
        ("never preferred: strength unbounded below", (won + tied == 0) & (lost > 0)),
        ("without a usable vote", won + lost + tied == 0),
    ):
        if chosen.any():
            names = ", ".join(str(votes.items[i]) for i in np.flatnonzero(chosen))
            texts.append(f"not estimable: {names} {verdict}")
    if len(np.unique(block)) > 1:
        graph = sparse.coo_matrix((np.ones(votes.left.size), (votes.left, votes.right)), (k, k))
        parts, _ = csgraph.connected_components(graph, directed=False)
        if parts > 1:
            texts.append(f"the comparisons fall into {parts} unconnected parts")
        sizes = np.bincount(block)
        if (sizes > 1).sum() != 1 or sizes.max() == k:
            texts.append("no scale spans all items: scores hold within their component only")
    return texts


def vote_derivatives(votes: _Votes, scale: Scale) -> tuple[FloatArray, FloatArray]:
    """First and negative second derivative (n,) of each vote's likelihood by its difference.

    For a scale with Davidson's ties and without a side effect; a row that stands for several
    votes counts for as many.
    """
    single = np.repeat(np.eye(3)[:, None, :], len(votes.left), axis=1)  # (outcome, cell, 3)
    d = np.broadcast_to(scale.score[votes.left] - scale.score[votes.right], single.shape[:2])
    if scale.tie_parameter > 0:
        t = _davidson(single, d, np.full((3, 1), np.log(scale.tie_parameter)))
    else:
        t = _logistic(single, d, None)
    outcome, cell = votes.column % 3, votes.column // 3
    return votes.weight * t.g[outcome, cell], votes.weight * t.h[outcome, cell]


def _rough_strengths(model: _Model, counts: FloatArray) -> FloatArray:
    """Log-odds of each item's wins, mean 0 in each component: where Newton's method starts."""
    size = model.k
    won, lost = (
        np.bincount(model.left, counts[:, a], size) + np.bincount(model.right, counts[:, b], size)
        for a, b in ((0, 2), (2, 0))
    )
    odds = np.log((won + 0.5) / (lost + 0.5))
    mean = np.bincount(model.block, odds) / np.maximum(np.bincount(model.block), 1)
    odds -= mean[model.block]
    # Opponents differ, which flattens the odds against all of them (logistic-normal integral).
    spread = odds.var()
    return np.asarray(odds * np.sqrt(1 + 0.35 * spread / max(1 - 0.35 * spread, 0.2)))


def _covariance(
    model: _Model,
    votes: _Votes,
    inside: npt.NDArray[np.bool_],
    treat: FloatArray,
    beta: FloatArray,
    n_boot: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, float, FloatArray]:
    """Covariance of the scores (k, k), variance of the side effect (NaN without one), and degrees
    of freedom of differences (k, k), of the side effect at [k, k].
    """  # noqa: D205
    k, width = model.k, model.k + model.side
    cells = np.repeat(inside, 3)  # columns (cell, outcome) that the model uses
    counts = (votes.counts[inside] @ treat)[None]
    inverse = model.centred(_inverse(model.information(model.evaluate(counts, beta)[1])[0]))
    dimensions = votes.clusters.dimensions()
    if not dimensions:
        side = float(inverse[k, k]) if model.side else np.nan
        return inverse[:k, :k], side, np.broadcast_to(np.inf, (width, width))
    sums = [
        cluster_sums(codes, size, votes.column, votes.counts.size, votes.weight)[:, cells]
        for codes, size in dimensions
    ]
    # A cluster with the share p of the votes counts 1 / (1 - p), as in variance_of_means: of all
    # votes at first, and then, for each difference, of those that it hangs on.
    on_item = _votes_on_items(model, treat)
    given = [sparse.csc_matrix(matrix @ on_item) for matrix in sums]
    shares = [np.asarray(own.sum(axis=1)).ravel() / own.sum() for own in given]
    leverage = [_leverage(own, share, width) for own, share in zip(given, shares, strict=True)]
    alone = np.any([own[2] for own in leverage], axis=0)
    for one in np.unique(model.block):
        if (~alone[model.block == one]).sum() < 2:
            alone[model.block == one] = True
    if alone.all():
        return np.full((k, k), np.nan), np.nan, np.full((width, width), np.inf)
    variances = []
    if n_boot:
        for matrix, own, (_, size) in zip(sums, leverage, dimensions, strict=True):

            def refit(weights: FloatArray, matrix: sparse.csr_matrix = matrix) -> FloatArray:
                # Memory: the batch holds (b, size, size) matrices and (b, cells, 3) counts.
                room = max(1, int(2e7 / (model.size**2 + 9 * inside.sum())))
                fits = []
                for first in range(0, len(weights), room):
                    drawn = (matrix.T @ weights[first : first + room].T).T
                    drawn = drawn.reshape(len(drawn), -1, 3) @ treat
                    fits.append(model.fit(drawn, beta)[0][:, :width])
                return np.concatenate(fits)

            draws = bootstrap_draws(refit, size, n_boot, rng)
            spread = np.atleast_2d(np.cov(draws, rowvar=False)) * inflate(size)
            variances.append((own[0] * _difference_variances(spread, k, width), own[1]))
    else:
        # Score of one vote of each (cell, outcome): the gradient for that vote alone.
        single = np.repeat(treat[:, None, :], counts.shape[1], axis=1)
        _, t = model.evaluate(single, np.repeat(beta, 3, axis=0))
        by_column = sparse.diags(t.g.T.ravel()) @ sparse.kron(
            model.incidence, np.ones((3, 1)), format="csr"
        )
        if t.g_tie is not None:
            by_column = sparse.hstack([by_column, sparse.csr_matrix(t.g_tie.T.reshape(-1, 1))])
        influence = sparse.csr_matrix(by_column)
        for matrix, share, own in zip(sums, shares, leverage, strict=True):
            scores = sparse.diags(1 / np.sqrt(1 - share)) @ (matrix @ influence)
            spread = inverse @ (scores.T @ scores).toarray() @ inverse
            variances.append((own[0] * _difference_variances(spread, k, width), own[1]))
    total, degrees = combine(variances)
    known = np.flatnonzero(~alone)
    for i in known:  # a score is a mean of differences
        degrees[i, i] = np.median(degrees[i, known[known != i]])
    # Mean-0 scores whose differences have these variances (Gower 1966).
    side = float(total[k, k]) if model.side else np.nan
    covariance = np.full((k, k), np.nan)
    kept = np.ix_(known, known)
    covariance[kept] = -0.5 * _centred(total[kept], model.block[known])
    return covariance, side, degrees


def _votes_on_items(model: _Model, treat: FloatArray) -> sparse.csr_matrix:
    """Votes that each column (cell, outcome) gives to each item (3 cells, k); half ties are one."""
    counted = np.tile(treat.sum(axis=1), model.left.size)
    rows = np.tile(np.arange(counted.size), 2)
    items = np.concatenate([np.repeat(model.left, 3), np.repeat(model.right, 3)])
    shape = (counted.size, model.k)
    return sparse.csr_matrix((np.tile(counted, 2), (rows, items)), shape=shape)


def _leverage(
    given: sparse.csc_matrix, share: FloatArray, width: int
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Compare the leverage of clusters on single items (clusters, k) with that of their shares.

    Returns
    -------
    factor, size : array (width, width)
        Of each difference, by which its variance changes, and the effective number of clusters: of
        the votes on its item with fewer votes. 1 and that of all votes for the side effect.
    alone : array of bool (k,)
        Items whose votes are all of one cluster.
    """
    k = given.shape[1]
    item = np.repeat(np.arange(k), np.diff(given.indptr))
    total = np.bincount(item, given.data, k)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = given.data / total[item]
        own = np.bincount(item, p**2 / (1 - p), k) / np.bincount(
            item, p**2 / (1 - share[given.indices]), k
        )
        size = 1 + np.bincount(item, p**2, k) ** 2 / np.bincount(item, p**4 / (1 - p), k)
    alone = np.bincount(item, p > 1 - 1e-12, k) > 0
    own[alone | (total == 0)] = 1.0
    whole = effective_size(share)
    size[alone | (total == 0)] = whole
    # A difference hangs on the votes on the item that has fewer of them.
    rank = np.empty(k, dtype=np.int64)
    rank[np.lexsort((-own, total))] = np.arange(k)
    fewer = np.where(rank[:, None] < rank, np.arange(k)[:, None], np.arange(k))
    factors, sizes = np.ones((width, width)), np.full((width, width), whole)
    factors[:k, :k] = own[fewer]
    sizes[:k, :k] = size[fewer]
    return factors, sizes, alone


def _inverse(information: FloatArray) -> FloatArray:
    """Inverse of a positive definite matrix; the pseudo-inverse where it is singular."""
    factor, problem = linalg.lapack.dpotrf(information.T, lower=1)
    pivots = np.diagonal(factor)
    if not problem and pivots.min() > 1e-6 * pivots.max():
        half, problem = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        if not problem:  # the other triangle is zero
            result = half + half.T
            result[np.diag_indices(len(result))] /= 2
            return np.asarray(result)
    return np.asarray(np.linalg.pinv(information, hermitian=True), dtype=float)


def _difference_variances(covariance: FloatArray, k: int, width: int) -> FloatArray:
    """Variance of each difference of strengths; the side effect's own at [k, k]."""
    variance = np.diagonal(covariance)[:k]
    result = np.zeros((width, width))
    result[:k, :k] = variance[:, None] + variance - 2 * covariance[:k, :k]
    if width > k:
        result[k, k] = covariance[k, k]
    return result


def _distinct(
    score: FloatArray, covariance: FloatArray, degrees: FloatArray, confidence: float
) -> npt.NDArray[np.bool_]:
    """Whether each item (row) differs from each other one, by Holm's procedure in each row."""
    k = len(score)
    difference = score - score[:, None]
    variance = np.diagonal(covariance)
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt(np.maximum(variance + variance[:, None] - 2 * covariance, 0))
        p = p_value(difference / se, degrees)
    p[np.diag_indices(k)] = np.nan
    order = np.argsort(p, axis=1, kind="stable")  # NaN last
    tests = np.isfinite(p).sum(axis=1, keepdims=True)
    passed = np.take_along_axis(p, order, axis=1) * (tests - np.arange(k)) <= 1 - confidence
    distinct = np.zeros((k, k), dtype=bool)
    np.put_along_axis(distinct, order, np.logical_and.accumulate(passed, axis=1), axis=1)
    return distinct


def count_pairs(comparisons: pd.DataFrame) -> PairCounts:
    """Count the votes of a tidy frame by pair; skipped answers are left out."""
    votes = votes_of_frame(comparisons, None, sides=False)
    k = len(votes.items)
    wins, ties = np.zeros((k, k)), np.zeros((k, k))
    wins[votes.left, votes.right] = votes.counts[:, 0]
    wins[votes.right, votes.left] = votes.counts[:, 2]
    ties[votes.left, votes.right] = ties[votes.right, votes.left] = votes.counts[:, 1]
    return PairCounts(wins, ties, votes.items)


def preference_share(
    comparisons: pd.DataFrame,
    item: Any,
    against: Any = None,
    *,
    ties: Literal["half", "drop"] = "half",
    cluster: str | Sequence[str] | None = ("observer", "content"),
    confidence: float = 0.95,
) -> Estimate:
    """Share of direct comparisons in which ``item`` was preferred, without a model.

    Parameters
    ----------
    comparisons : DataFrame
        As for :func:`bradley_terry`.
    item, against : label
        Whose share, and against which other (None: all others).
    ties : {"half", "drop"}
        A tie counts half, or not at all.
    cluster, confidence
        As for :func:`cluster_mean`.

    Returns
    -------
    Estimate
        ``n`` is the number of votes. Not estimable if the two never met.
    """
    if ties not in ("half", "drop"):
        raise InputError("Unknown treatment of ties", key="ties", value=ties)
    rows = counted_rows(comparisons, ("left", "right", "choice"))
    left, right = rows["left"].to_numpy(), rows["right"].to_numpy()
    met = (left == item) | (right == item)
    if against is not None:
        met &= (left == against) | (right == against)
    rows = rows[met & rows["choice"].isin(_OUTCOMES).to_numpy()]
    on_left = rows["left"].to_numpy() == item
    choice = rows["choice"].to_numpy()
    share = np.where((choice == "left") == on_left, 1.0, 0.0)
    share[choice == "tie"] = 0.5 if ties == "half" else np.nan
    return cluster_mean(
        share,
        rows,
        cluster=cluster or (),
        weights=float_array(rows["count"], "count") if "count" in rows.columns else None,
        share=True,
        confidence=confidence,
        method=f"share that prefers {item} to {'the others' if against is None else against}",
    )


# -- what a scale can and cannot tell -----------------------------------------------------------


def tell_apart(
    scale: Scale, method: Literal["holm", "bh"] = "holm"
) -> tuple[pd.DataFrame, tuple[tuple[Any, ...], ...]]:
    """Test every difference of a scale, and group items that cannot be told apart.

    Parameters
    ----------
    scale : Scale
        With intervals for the population that the answer is to speak of.
    method : {"holm", "bh"}
        Adjustment of the p values over all pairs.

    Returns
    -------
    table : DataFrame
        ``a, b, difference, low, high, p, p_adjusted``, the better first; ``p`` is NaN for items
        in different components.
    groups : tuple of tuples
        Runs of the ranking, as long as possible, in which no pair differs at the scale's level;
        items may be in several.
    """
    ranked = [i for i in np.argsort(-scale.score, kind="stable") if scale.estimable[i]]
    rows = []
    for first, i in enumerate(ranked):
        for j in ranked[first + 1 :]:
            d = scale.difference(scale.items[i], scale.items[j])
            with np.errstate(divide="ignore", invalid="ignore"):
                statistic = np.divide(d.value, d.std_error)
            p = float(p_value(statistic, scale.degrees_of_freedom[i, j]))
            rows.append((scale.items[i], scale.items[j], d.value, d.low, d.high, p))
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "p"])
    table["p_adjusted"] = adjust_p_values(table["p"].to_numpy(dtype=float), method)
    apart = {
        (a, b)
        for a, b, p in zip(table["a"], table["b"], table["p_adjusted"], strict=True)
        if not p > 1 - scale.confidence
    }
    groups: list[tuple[Any, ...]] = []
    names = [scale.items[i] for i in ranked]
    for start in range(len(names)):
        stop = start + 1
        while stop < len(names) and not any((a, names[stop]) in apart for a in names[start:stop]):
            stop += 1
        if not groups or names[stop - 1] not in groups[-1]:
            groups.append(tuple(names[start:stop]))
    return table, tuple(groups)


@dataclass(frozen=True)
class GoodnessOfFit:
    """Whether one scale describes the votes.

    Attributes
    ----------
    deviance, degrees_of_freedom, p_value : float
        Against shares of its own for every (ordered, with a side effect) pair. The p value takes
        votes as independent: where people or photographs differ it is too small.
    residuals : DataFrame
        ``a, b, n, observed, expected, residual``: share preferring a (ties half), and Pearson's
        residual; beyond about 3 the pair contradicts the scale.
    triads, max_triads : float
        Circular triads of the majorities; NaN if a pair was split evenly or not judged.
    """

    deviance: float
    degrees_of_freedom: int
    p_value: float
    residuals: pd.DataFrame
    triads: float
    max_triads: float


def goodness_of_fit(comparisons: pd.DataFrame | PairCounts, scale: Scale) -> GoodnessOfFit:
    """Hold a scale against the votes that it was fitted to.

    Parameters
    ----------
    comparisons : DataFrame or PairCounts
        The votes.
    scale : Scale
        What :func:`bradley_terry` or :func:`thurstone_case_v` made of them.
    """
    from percept.stats.reliability import paired_consistency

    sides = np.isfinite(scale.side_effect)
    if isinstance(comparisons, PairCounts):
        votes = _votes_of_counts(comparisons, None)
    else:
        votes = votes_of_frame(comparisons, None, sides=bool(sides))
    if votes.items != scale.items:
        raise InputError("The scale is of other items", value=scale.items)
    inside = scale.component[votes.left] == scale.component[votes.right]
    inside &= scale.estimable[votes.left]
    left, right = votes.left[inside], votes.right[inside]
    counts = votes.counts[inside]
    if scale.ties == "half":
        counts = counts @ np.array([[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1.0]])
    elif scale.ties == "drop":
        counts = counts * np.array([1.0, 0, 1.0])
    d = scale.score[left] - scale.score[right] + (scale.side_effect if sides else 0.0)
    shares = _outcome_shares(scale, d)
    total = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = special.xlogy(counts, counts / (total[:, None] * shares))
        deviance = float(2 * np.nansum(terms))
        observed = (counts[:, 0] + counts[:, 1] / 2) / total
        expected = shares[:, 0] + shares[:, 1] / 2
        spread = shares[:, 0] + shares[:, 1] / 4 - expected**2
        residual = (observed - expected) / np.sqrt(spread / total)
    modelled = bool((shares[:, 1] > 0).any())
    free = int(scale.estimable.sum()) - len(np.unique(scale.component[scale.estimable]))
    df = int((total > 0).sum()) * (1 + modelled) - free - int(sides) - modelled
    names = np.array(scale.items, dtype=object)
    table = pd.DataFrame(
        {
            "a": names[left],
            "b": names[right],
            "n": total,
            "observed": observed,
            "expected": expected,
            "residual": residual,
        }
    )
    k = len(votes.items)
    wins = np.zeros((k, k))
    np.add.at(wins, (votes.left, votes.right), votes.counts[:, 0])
    np.add.at(wins, (votes.right, votes.left), votes.counts[:, 2])
    majority = paired_consistency(wins)
    p = float(special.chdtrc(df, deviance)) if df > 0 else np.nan
    return GoodnessOfFit(deviance, df, p, table, majority.triads, majority.max_triads)


def _outcome_shares(scale: Scale, d: FloatArray) -> FloatArray:
    """Model shares (p, 3) of left, tie and right at differences d."""
    up, none = np.asarray(d), np.zeros_like(d)
    if scale.jod_unit == JOD_NORMAL:
        return np.stack([special.ndtr(up), none, special.ndtr(-up)], axis=1)
    if scale.ties == "davidson":
        raw = np.stack([np.exp(up / 2), none + scale.tie_parameter, np.exp(-up / 2)], axis=1)
        return np.asarray(raw / raw.sum(axis=1, keepdims=True))
    eta = np.log(scale.tie_parameter) if scale.ties == "rao-kupper" else 0.0
    left, right = special.expit(up - eta), special.expit(-up - eta)
    return np.stack([left, np.maximum(1 - left - right, 0), right], axis=1)


@dataclass(frozen=True)
class ArmComparison:
    """Arms of an experiment against the variance between training seeds.

    Attributes
    ----------
    arms : tuple
        Labels, sorted.
    seeds : dict
        Number of seeds (items) of each arm.
    mean : dict
        Mean score of the seeds of each arm.
    seed_sd : float
        Standard deviation between seeds of an arm beyond the noise of the votes, pooled.
    differences : dict of TestedEstimate
        By (a, b), a before b: mean score of a less that of b; intervals and p speak of new seeds
        too, and p is adjusted (Holm). Not estimable if an arm has a single seed.
    scale : Scale
        Of the items.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    arms: tuple[Any, ...]
    seeds: dict[Any, int]
    mean: dict[Any, float]
    seed_sd: float
    differences: dict[tuple[Any, Any], TestedEstimate]
    scale: Scale
    warnings: tuple[str, ...]


def compare_arms(
    comparisons: pd.DataFrame | PairCounts,
    arms: Mapping[Any, Any],
    *,
    ties: Ties = "davidson",
    side_effect: bool = False,
    cluster: str | Sequence[str] | None = ("observer", "content"),
    confidence: float = 0.95,
) -> ArmComparison:
    """Compare training recipes whose checkpoints differ by seed.

    A difference between two checkpoints says little about the recipes if other seeds would have
    come out differently. Variance of a difference of arm means: that of the votes, plus the
    variance between seeds of the same arm (pooled over arms, less what the votes explain), with
    Satterthwaite's degrees of freedom.

    Parameters
    ----------
    comparisons : DataFrame or PairCounts
        Votes between items (conditions), as for :func:`bradley_terry`.
    arms : mapping
        Arm of each item; items that it does not name stay in the scale, but are not compared.
    ties, side_effect, cluster, confidence
        As for :func:`bradley_terry`.
    """
    scale = bradley_terry(
        comparisons, ties=ties, side_effect=side_effect, cluster=cluster, confidence=confidence
    )
    names = tuple(sorted({arms[item] for item in scale.items if item in arms}, key=str))
    members = {
        name: np.array([i for i, item in enumerate(scale.items) if arms.get(item) == name])
        for name in names
    }
    warnings = list(scale.warnings)
    # Between seeds: pooled within-arm variance, less the votes' share of it.
    squares = noise = 0.0
    freedom = 0
    for own in members.values():
        if own.size > 1 and np.isfinite(scale.score[own]).all():
            squares += float(((scale.score[own] - scale.score[own].mean()) ** 2).sum())
            c = scale.covariance[np.ix_(own, own)]
            noise += float(np.trace(c) - c.sum() / own.size)
            freedom += own.size - 1
    between = squares / freedom if freedom else np.nan
    excess = max(between - noise / freedom, 0.0) if freedom else np.nan
    if not freedom:
        warnings.append("no arm has two seeds: the variance between seeds is unknown")
    differences: dict[tuple[Any, Any], TestedEstimate] = {}
    for first, a in enumerate(names):
        for b in names[first + 1 :]:
            differences[a, b] = _arm_difference(scale, a, b, members, between, excess, freedom)
    adjusted = adjust_p_values([d.p_value for d in differences.values()])
    differences = {
        key: replace(d, p_value=float(p))
        for (key, d), p in zip(differences.items(), adjusted, strict=True)
    }
    return ArmComparison(
        names,
        {name: int(own.size) for name, own in members.items()},
        {name: float(scale.score[own].mean()) for name, own in members.items()},
        float(np.sqrt(excess)),
        differences,
        scale,
        tuple(warnings),
    )


def _arm_difference(
    scale: Scale,
    a: Any,
    b: Any,
    members: dict[Any, IntArray],
    between: float,
    excess: float,
    freedom: int,
) -> TestedEstimate:
    method = f"{a} above {b}, over training seeds; {scale.method}"
    one = [name for name in (a, b) if members[name].size < 2]
    both = np.concatenate([members[a], members[b]])
    comparable = scale.estimable[both].all() and len(set(scale.component[both])) == 1
    if one or not comparable:
        reason = f"{one[0]} has a single seed" if one else "the arms share no scale"
        return TestedEstimate(
            np.nan, np.nan, np.nan, int(scale.n), method, scale.confidence,
            warnings=(f"not estimable: {reason}",),
        )  # fmt: skip
    weights = np.zeros(len(scale.items))
    weights[members[a]], weights[members[b]] = 1 / members[a].size, -1 / members[b].size
    value = float(weights @ scale.score)
    votes = float(weights @ scale.covariance @ weights)
    size = 1 / members[a].size + 1 / members[b].size
    variance = votes + excess * size
    vote_freedom = scale.degrees_of_freedom[np.ix_(members[a], members[b])].min()
    uncertainty = votes**2 / vote_freedom + excess * between * size**2 / freedom
    degrees = variance**2 / uncertainty if uncertainty > 0 else np.inf
    se = float(np.sqrt(variance))
    half = float(critical_value(scale.confidence, degrees)) * se
    statistic = value / se
    return TestedEstimate(
        value, value - half, value + half, int(scale.n), method, scale.confidence, se,
        statistic=statistic, degrees_of_freedom=float(degrees),
        p_value=float(p_value(statistic, degrees)),
    )  # fmt: skip


@dataclass(frozen=True)
class CrowdScale:
    """Strengths with a carefulness of each observer.

    Attributes
    ----------
    items, score, jod
        As in :class:`Scale`; without intervals.
    observers : DataFrame
        ``observer, n, careful``: votes, and the share of them that is not answered by coin.
    log_likelihood : float
        Of the decided votes, with the prior.
    converged : bool
        Whether the iterations settled.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    items: tuple[Any, ...]
    score: FloatArray
    jod: FloatArray
    observers: pd.DataFrame
    log_likelihood: float
    converged: bool
    warnings: tuple[str, ...]


def crowd_bradley_terry(
    comparisons: pd.DataFrame,
    *,
    prior: tuple[float, float] = (9.0, 1.0),
    penalty: float = 1e-3,
    max_iterations: int = 500,
) -> CrowdScale:
    """Bradley–Terry with observers who answer some trials by coin.

    A vote of observer o follows the model with probability c_o and a fair coin otherwise; c_o has
    a Beta prior, and expectation–maximisation finds strengths and carefulness together. In the
    manner of Chen, Bennett, Collins-Thompson & Horvitz (2013), with coins in place of malice: a
    careless observer then loses weight, while one with a taste of their own keeps it.

    Parameters
    ----------
    comparisons : DataFrame
        As for :func:`bradley_terry`, with ``observer``. Ties are left out.
    prior : tuple of float
        Beta prior of carefulness, both at least 1.
    penalty : float
        Ridge on the scores, which keeps them finite.
    max_iterations : int
        Of expectation–maximisation.
    """
    if min(prior) < 1:
        raise InputError(
            "The Beta prior needs both parameters at least 1", key="prior", value=prior
        )
    rows = counted_rows(comparisons, ("observer", "left", "right", "choice"))
    votes = votes_of_frame(rows, "observer", sides=False)
    rows = rows[rows["choice"].isin(_OUTCOMES).to_numpy()]
    if "count" in rows:
        rows = rows[rows["count"].to_numpy(dtype=float) > 0]
    observer, labels = codes_of(rows["observer"])
    warnings = [f"{votes.n_ties:g} ties left out"] if votes.n_ties else []
    k, m, width = len(votes.items), len(labels), votes.counts.size
    # Equal votes of an observer are one row.
    same, row = distinct_codes(observer * width + votes.column, m * width)
    weight = np.bincount(row, votes.weight)
    observer, column = np.divmod(same, max(width, 1))
    decided = column % 3 != 1
    column, weight, observer = column[decided], weight[decided], observer[decided]
    if not column.size:
        return CrowdScale(
            votes.items, np.full(k, np.nan), np.full(k, np.nan),
            pd.DataFrame({"observer": labels, "n": 0.0, "careful": np.nan}),
            np.nan, False, (*warnings, "not estimable: no decided votes"),
        )  # fmt: skip
    model = _Model(
        _logistic, votes.left, votes.right, k, False, False, np.zeros(k, dtype=np.int64), penalty
    )
    sign = 1.0 - (column % 3)  # left +1, right -1
    total = np.bincount(observer, weight, minlength=m)
    careful = np.full(m, prior[0] / sum(prior))
    beta = np.zeros((1, k))
    before, converged, value = -np.inf, False, -np.inf
    for _ in range(max_iterations):
        d = sign * (beta[0, votes.left] - beta[0, votes.right])[column // 3]
        meant = careful[observer] * special.expit(d)
        likely = meant + (1 - careful[observer]) / 2
        value = float(
            (weight * np.log(likely)).sum()
            + special.xlogy(prior[0] - 1, careful).sum()
            + special.xlogy(prior[1] - 1, 1 - careful).sum()
            - penalty * (beta**2).sum()
        )
        if abs(value - before) < 1e-9 * (1 + abs(value)):
            converged = True
            break
        before = value
        share = weight * meant / likely
        careful = (np.bincount(observer, share, minlength=m) + prior[0] - 1) / (
            total + sum(prior) - 2
        )
        counts = np.bincount(column, share, minlength=votes.counts.size).astype(float)
        beta = model.fit(counts.reshape(1, -1, 3), beta)[0]
    if not converged:
        warnings.append("expectation–maximisation did not settle")
    score = beta[0] - beta[0].mean()
    table = pd.DataFrame({"observer": labels, "n": total, "careful": careful})
    return CrowdScale(
        votes.items, score, score / JOD_LOGISTIC, table, value, converged, tuple(warnings)
    )
