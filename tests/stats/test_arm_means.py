from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from percept.errors import InputError
from percept.stats import arm_means


def arms_of(**values: list[float]) -> tuple[dict[str, float], dict[str, str]]:
    named = {f"{arm}-{i}": v for arm, own in values.items() for i, v in enumerate(own)}
    return named, {name: name.split("-")[0] for name in named}


def test_two_arms_are_students_t_test() -> None:
    a, b = [1.0, 2.0, 4.0], [5.0, 7.0, 6.5, 8.0]
    found = arm_means(*arms_of(a=a, b=b))
    peer = scipy_stats.ttest_ind(a, b)
    difference = found.differences["a", "b"]
    assert difference.statistic == pytest.approx(peer.statistic)
    assert difference.p_value == pytest.approx(peer.pvalue)
    assert difference.interval == pytest.approx(tuple(peer.confidence_interval()))
    assert found.sd["b"] == pytest.approx(np.std(b, ddof=1))
    assert found.seeds == {"a": 3, "b": 4}


def test_the_least_difference_is_where_a_test_of_two_begins_to_notice() -> None:
    values, arms = arms_of(a=[0.0, 1.0, 2.0], b=[0.0, 1.0, 2.0])
    least = arm_means(values, arms).least
    for factor, noticed in [(0.99, False), (1.01, True)]:
        moved = {n: v + factor * least * (arms[n] == "b") for n, v in values.items()}
        assert (arm_means(moved, arms).differences["a", "b"].p_value < 0.05) is noticed


def test_arms_share_their_variance_and_their_p_values() -> None:
    values, arms = arms_of(a=[1.0, 2.0, 3.0], b=[1.5, 2.5, 3.5], c=[9.0, 10.0, 11.0])
    found = arm_means({**values, "gray": 0.0}, arms)
    assert found.seed_sd == pytest.approx(1.0)
    assert {d.degrees_of_freedom for d in found.differences.values()} == {6}
    raw = 2 * scipy_stats.t.sf(0.5 / math.sqrt(2 / 3), 6)
    assert found.differences["a", "b"].p_value == pytest.approx(raw)  # the largest of the three
    assert found.differences["a", "c"].p_value == pytest.approx(
        3 * 2 * scipy_stats.t.sf(8 / math.sqrt(2 / 3), 6)
    )


def test_a_single_seed_tells_nothing_of_seeds() -> None:
    found = arm_means(*arms_of(a=[1.0], b=[3.0]))
    difference = found.differences["a", "b"]
    assert difference.value == -2.0
    assert math.isnan(difference.p_value)
    assert "no arm has two seeds" in difference.warnings[0]


def test_seeds_that_agree_entirely() -> None:
    found = arm_means(*arms_of(a=[1.0, 1.0], b=[1.0, 1.0], c=[2.0, 2.0]))
    assert found.differences["a", "b"].p_value == 1.0
    assert found.differences["a", "c"].p_value == 0.0
    rounded = arm_means(*arms_of(a=[0.7] * 3, b=[0.7] * 6))  # whose means differ by 1e-16
    assert rounded.differences["a", "b"].p_value == 1.0


def test_a_training_without_a_number_is_named() -> None:
    with pytest.raises(InputError, match=r"a-1.*nan"):
        arm_means(*arms_of(a=[1.0, math.nan], b=[1.0, 2.0]))


def test_equal_arms_are_told_apart_as_seldom_as_is_said() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(400):
        found = arm_means(*arms_of(**{arm: list(rng.normal(size=3)) for arm in "abc"}))
        hits += min(d.p_value for d in found.differences.values()) < 0.05
    assert hits <= 32  # 5 % of 400, and three of its standard deviations
