"""Arms of an experiment by a number of every training, such as the mean of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from percept.errors import InputError
from percept.stats.bootstrap import (
    TestedEstimate,
    adjust_p_values,
    check_confidence,
    critical_value,
    p_value,
)


@dataclass(frozen=True)
class ArmMeans:
    """Arms of an experiment by one number of each training.

    Attributes
    ----------
    seeds : dict
        Trainings of each arm.
    mean, sd : dict
        Over the seeds of each arm, in the number's own unit; sd with n - 1 in the denominator, and
        NaN for a single seed.
    seed_sd : float
        The sd of all arms pooled, by which differences are judged; NaN where no arm has two seeds.
    differences : dict
        For every pair of arms (first minus second) the difference of means with its interval, and
        Holm's p over all pairs.
    least : float
        Smallest difference of two arms (of the fewest seeds) that a single test would notice.
    """

    seeds: dict[str, int]
    mean: dict[str, float]
    sd: dict[str, float]
    seed_sd: float
    differences: dict[tuple[str, str], TestedEstimate]
    least: float


def arm_means(
    values: Mapping[str, float], arms: Mapping[str, str], *, confidence: float = 0.95
) -> ArmMeans:
    """Compare arms by one number of each training.

    Student's t test with the variance between seeds pooled over all arms, since three seeds alone
    say little about a variance; it takes the arms to vary alike. What it tells is of other seeds
    on these very photographs, and nothing of what people see.

    Parameters
    ----------
    values : mapping
        The number of each training.
    arms : mapping
        Arm of each training; those without one are left out.
    confidence : float
        Of the intervals, between 0 and 1.

    Raises
    ------
    InputError
        If the number of a training that has an arm is not finite.
    """
    check_confidence(confidence)
    members: dict[str, list[float]] = {}
    for name, value in values.items():
        if name in arms:
            if not np.isfinite(value):
                raise InputError("The number of a training is not finite", key=name, value=value)
            members.setdefault(arms[name], []).append(float(value))
    count = {arm: len(own) for arm, own in members.items()}
    mean = {arm: float(np.mean(own)) for arm, own in members.items()}
    sd = {
        arm: float(np.std(own, ddof=1)) if len(own) > 1 else np.nan for arm, own in members.items()
    }
    freedom = sum(n - 1 for n in count.values())
    squares = sum((n - 1) * sd[arm] ** 2 for arm, n in count.items() if n > 1)
    pooled = float(np.sqrt(squares / freedom)) if freedom else np.nan
    rounding = 1e-12 * max(map(abs, mean.values()), default=0.0)
    pooled = 0.0 if pooled <= rounding else pooled
    critical = float(critical_value(confidence, freedom)) if freedom else np.nan
    fewest = min(count.values(), default=1)
    found: dict[tuple[str, str], TestedEstimate] = {}
    for a, b in combinations(members, 2):
        value, n = mean[a] - mean[b], count[a] + count[b]
        value = 0.0 if abs(value) <= rounding else value
        se = pooled * float(np.sqrt(1 / count[a] + 1 / count[b]))
        # Where seeds do not matter at all, any difference is one of the arms.
        statistic = value / se if se else float(np.copysign(np.inf, value)) if value else 0.0
        found[a, b] = TestedEstimate(
            value, value - critical * se, value + critical * se, n,
            "difference of means over seeds, variance pooled", confidence, se,
            warnings=() if freedom else ("not estimable: no arm has two seeds",),
            statistic=statistic, degrees_of_freedom=freedom or np.nan,
            p_value=float(p_value(statistic, freedom)) if freedom else np.nan,
        )  # fmt: skip
    adjusted = adjust_p_values([one.p_value for one in found.values()])
    return ArmMeans(
        count,
        mean,
        sd,
        pooled,
        {
            key: replace(one, p_value=float(p))
            for (key, one), p in zip(found.items(), adjusted, strict=True)
        },
        critical * pooled * float(np.sqrt(2 / fewest)),
    )
