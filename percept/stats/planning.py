"""How many observers, trials and photographs a study needs, by simulating it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from percept.errors import InputError
from percept.stats.bootstrap import FloatArray, check_confidence, cluster_sums
from percept.stats.frames import IntArray
from percept.stats.pairwise import (
    JOD_LOGISTIC,
    bradley_terry,
    vote_derivatives,
    votes_of_frame,
)

# A logistic curve averaged over normal differences of variance v is nearly one that is flatter by
# sqrt(1 + v * this) (Zeger, Liang & Albert 1988).
_ATTENUATION = (16 * np.sqrt(3) / (15 * np.pi)) ** 2


@dataclass(frozen=True)
class Plan:
    """What a wanted precision costs.

    Attributes
    ----------
    observers, trials : int or None
        Fewest observers tried that suffice, and their trials together; None if none did.
    achieved : float
        Power, or half-width in JOD, with them; NaN if none sufficed.
    curve : DataFrame
        ``observers, trials, power, half_width_jod, covered``: per number of observers tried, the
        share of simulated studies that find the effect, the median half-width of its interval,
        and the share of intervals that hold the true effect.
    assumptions : dict
        Everything that was simulated.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    observers: int | None
    trials: int | None
    achieved: float
    curve: pd.DataFrame
    assumptions: dict[str, float | int | str]
    warnings: tuple[str, ...]


def plan(
    conditions: int,
    contents: int,
    *,
    trials_per_observer: int,
    effect: float,
    goal: Literal["power", "half_width"] = "power",
    target: float = 0.8,
    observer_sd: float = 0.3,
    content_sd: float = 0.5,
    tie_share: float = 0.0,
    min_observers: int = 4,
    max_observers: int = 400,
    n_simulations: int = 100,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> Plan:
    """Find the observers needed for a paired study.

    Every simulated study draws new observers and new photographs, and is analysed as the real one
    will be: Bradley–Terry with Davidson's ties and two-way intervals.

    Parameters
    ----------
    conditions, contents : int
        Conditions compared (at least 2) and photographs shown (at least 2).
    trials_per_observer : int
        Pairs that each observer judges, drawn evenly.
    effect : float
        Difference in JOD, not negative, of the best condition from the second, as the scale of
        a large study would show it; the others follow in steps of the same size.
    goal, target
        ``power``: share of studies whose interval of that difference excludes 0. ``half_width``:
        median half-width of the interval, in JOD.
    observer_sd, content_sd : float
        Standard deviation, in JOD, of the tastes of observers and of the quirks of photographs,
        for each condition; from a pilot if there is one.
    tie_share : float
        Share of ties between equals.
    min_observers, max_observers : int
        No fewer (at least 2) and no more are tried.
    n_simulations : int
        Studies simulated per number of observers.
    confidence, rng
        Of the intervals; the source of the simulations.

    Raises
    ------
    InputError
        On impossible settings.
    """
    check_confidence(confidence)
    if conditions < 2 or contents < 2 or trials_per_observer < 1 or min_observers < 2:
        raise InputError(
            "A plan needs 2 conditions, 2 photographs, 1 trial and 2 observers at least",
            value=(conditions, contents, trials_per_observer, min_observers),
        )
    if max_observers < min_observers:
        raise InputError("max_observers is less than min_observers",
                         value=(min_observers, max_observers))  # fmt: skip
    if goal not in ("power", "half_width"):
        raise InputError("Unknown goal", key="goal", value=goal)
    if effect < 0 or target <= 0 or (goal == "power" and (target >= 1 or effect == 0)):
        raise InputError("No number of observers can reach this", key="target", value=target)
    if not 0 <= tie_share < 1 or min(observer_sd, content_sd) < 0 or n_simulations < 2:
        raise InputError("tie_share lies in [0, 1), deviations are not negative, n_simulations "
                         "is at least 2", value=(tie_share, observer_sd, content_sd))  # fmt: skip
    generator = np.random.default_rng() if rng is None else rng
    differing = 2 * (observer_sd**2 + content_sd**2) * JOD_LOGISTIC**2
    # Between people and photographs that differ, shares are nearer to one half than for each.
    scores = -effect * np.arange(conditions) * JOD_LOGISTIC * np.sqrt(1 + _ATTENUATION * differing)
    study = _Study(
        effect * JOD_LOGISTIC,
        scores - scores.mean(),
        contents,
        trials_per_observer,
        observer_sd * JOD_LOGISTIC,
        content_sd * JOD_LOGISTIC,
        2 * tie_share / (1 - tie_share),
        confidence,
    )
    tried: dict[int, tuple[float, float, float]] = {}

    def enough(observers: int) -> bool:
        tried[observers] = study.simulate(observers, n_simulations, generator)
        power, width, _ = tried[observers]
        return power >= target if goal == "power" else width <= target

    low, high = min_observers - 1, min_observers
    while not enough(high) and high < max_observers:
        low, high = high, min(2 * high, max_observers)
    reached = tried[high][0] >= target if goal == "power" else tried[high][1] <= target
    while reached and high - low > max(1, high // 20):
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    curve = pd.DataFrame(
        [(o, o * trials_per_observer, *tried[o]) for o in sorted(tried)],
        columns=["observers", "trials", "power", "half_width_jod", "covered"],
    )
    warnings = []
    if not reached:
        warnings.append(
            f"not reached with {high} observers: with {contents} photographs the quirks of "
            "photographs may set the limit; show more photographs"
        )
    if n_simulations < 200:
        warnings.append(
            f"{n_simulations} simulations: power is known to about "
            f"{100 * 0.98 / np.sqrt(n_simulations):.0f} points"
        )
    achieved = tried[high][0 if goal == "power" else 1] if reached else np.nan
    return Plan(
        high if reached else None,
        high * trials_per_observer if reached else None,
        achieved,
        curve,
        {
            "conditions": conditions, "contents": contents, "effect_jod": effect,
            "trials_per_observer": trials_per_observer, "goal": goal, "target": target,
            "observer_sd_jod": observer_sd, "content_sd_jod": content_sd, "tie_share": tie_share,
            "confidence": confidence, "n_simulations": n_simulations,
        },
        tuple(warnings),
    )  # fmt: skip


@dataclass(frozen=True)
class Pilot:
    """What the votes of a pilot say about the next study.

    Attributes
    ----------
    effect : float
        Difference of the best condition from the second, in JOD. A small pilot exaggerates it.
    observer_sd, content_sd : float
        Standard deviations, in JOD, of tastes and of quirks for each condition, as in
        :func:`plan`; 0 where the votes vary no more than by chance, NaN with one cluster.
    tie_share : float
        Share of ties between equals.
    n : int
        Votes.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    effect: float
    observer_sd: float
    content_sd: float
    tie_share: float
    n: int
    warnings: tuple[str, ...]


def read_pilot(comparisons: pd.DataFrame) -> Pilot:
    """Estimate what :func:`plan` assumes from the votes of a pilot.

    Votes of one observer about different photographs go together only by that observer's tastes,
    and votes of different observers about one photograph only by its quirks. Both variances are
    those that explain how far the scores (derivatives of the likelihood) go together.

    Parameters
    ----------
    comparisons : DataFrame
        Tidy frame of pair votes with ``observer`` and ``content``.

    Raises
    ------
    InputError
        If the best two conditions cannot be compared.
    """
    scale = bradley_terry(comparisons)
    ranked = scale.to_frame()
    if len(ranked) < 2 or not ranked["estimable"].all() or ranked["component"].max() > 0:
        raise InputError(
            "The pilot does not tell how its conditions differ",
            value="; ".join(scale.warnings) or None,
            remedy="Give --effect and deviations yourself, or ask more people",
        )
    votes = votes_of_frame(comparisons, ("observer", "content"), sides=False)
    g, h = vote_derivatives(votes, scale)
    k = len(scale.items)
    left, right = votes.left[votes.column // 3], votes.right[votes.column // 3]

    def together(codes: IntArray, size: int) -> tuple[float, float]:
        """Squared scores and squared information of clusters, summed."""
        both = np.concatenate([codes, codes])
        ends = np.concatenate([left, right])
        scores = cluster_sums(both, size, ends, k, np.concatenate([g, -g]))
        degrees = cluster_sums(both, size, ends, k, np.concatenate([h, h]))
        pairs = cluster_sums(codes, size, votes.column // 3, len(votes.left), h)
        squares = [float((matrix.data**2).sum()) for matrix in (scores, degrees, pairs)]
        return squares[0], squares[1] + 2 * squares[2]

    sizes = dict(zip(votes.clusters.names, votes.clusters.sizes, strict=True))
    spread = {"observer": np.nan, "content": np.nan}
    if len(sizes) == 2:
        (*own, cell) = (together(codes, size) for codes, size in votes.clusters.dimensions())
        for name, (scores, information) in zip(votes.clusters.names, own, strict=True):
            room = information - cell[1]
            excess = max(scores - cell[0], 0.0) / room if room > 0 else np.nan
            spread[name] = float(np.sqrt(excess)) / JOD_LOGISTIC
        differing = 2 * sum(sd**2 for sd in spread.values()) * JOD_LOGISTIC**2
        steeper = 1 / np.sqrt(max(1 - _ATTENUATION * differing, 0.1))
        spread = {name: float(steeper * sd) for name, sd in spread.items()}
    nu = scale.tie_parameter
    return Pilot(
        float(ranked["jod"].iloc[0] - ranked["jod"].iloc[1]),
        spread["observer"],
        spread["content"],
        nu / (2 + nu),
        int(scale.n),
        scale.warnings,
    )


@dataclass(frozen=True)
class _Study:
    effect: float  # of people and photographs at large
    scores: FloatArray
    contents: int
    each: int
    observer_sd: float
    content_sd: float
    nu: float
    confidence: float

    def simulate(
        self, observers: int, n: int, rng: np.random.Generator
    ) -> tuple[float, float, float]:
        """Power, median half-width in JOD, and coverage over ``n`` simulated studies."""
        rows = []
        for _ in range(n):
            scale = bradley_terry(self.draw(observers, rng), confidence=self.confidence)
            if 0 in scale.items and 1 in scale.items:
                d = scale.difference(0, 1)
                if d.estimable and np.isfinite(d.low):
                    rows.append((d.low > 0, d.high - d.low, d.low <= self.effect <= d.high))
                    continue
            rows.append((False, np.inf, False))  # a study that cannot answer finds nothing
        found, width, covered = np.array(rows, dtype=float).T
        return (
            float(found.mean()),
            float(np.median(width)) / 2 / JOD_LOGISTIC,
            float(covered.mean()),
        )

    def draw(self, observers: int, rng: np.random.Generator) -> pd.DataFrame:
        """One study's votes; pairs and photographs as evenly as they go."""
        k, n = len(self.scores), observers * self.each
        observer = np.repeat(np.arange(observers), self.each)
        cells = k * (k - 1) * self.contents  # ordered pairs, so that sides balance too
        cell = np.concatenate([rng.permutation(cells) for _ in range(-(-n // cells))])[:n]
        content, pair = np.divmod(cell, k * (k - 1))
        left, right = np.divmod(pair, k - 1)
        right = right + (right >= left)
        taste = rng.normal(0, self.observer_sd, (observers, k))
        quirk = rng.normal(0, self.content_sd, (self.contents, k))
        total = self.scores + taste[observer] + quirk[content]
        i = np.arange(n)
        d = total[i, left] - total[i, right]
        share = np.stack([np.exp(d / 2), np.full(n, self.nu), np.exp(-d / 2)], axis=1)
        draw = rng.random(n) * share.sum(axis=1)
        answer = (draw[:, None] > share.cumsum(axis=1)).sum(axis=1)
        choice = np.array(["left", "tie", "right"])[np.minimum(answer, 2)]
        return pd.DataFrame(
            {"observer": observer, "content": content, "left": left, "right": right,
             "choice": choice}
        )  # fmt: skip
