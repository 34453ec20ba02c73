from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.errors import InputError
from percept.stats import difference_ratings, mos


def test_p910_published(reference):
    data = reference("p910")
    for case in data["cases"]:
        ratings = np.swapaxes(np.array(case["ratings"], float), 0, 1)
        result = mos(ratings, "p910")
        assert result.converged
        for name, expected in case["expected"].items():
            np.testing.assert_allclose(
                getattr(result, name), expected, atol=data["tolerance"], err_msg=name
            )


def test_mean_is_the_mean():
    x = np.array([[1.0, 5], [2, np.nan], [4, np.nan]])
    result = mos(x)
    np.testing.assert_allclose(result.score, [7 / 3, 5])
    assert result.std_error[0] == pytest.approx(np.std([1, 2, 4], ddof=1) / np.sqrt(3))
    assert result.high[0] - result.score[0] == pytest.approx(4.302653 * result.std_error[0])
    assert np.isnan(result.low[1])
    assert result.n.tolist() == [3, 1]
    assert "informal" in result.warnings[0]


def panel(rng, observers=24, units=60):
    quality = rng.uniform(1.5, 4.5, units)
    return quality, quality + rng.normal(0, 0.5, (observers, units))


def test_bt500_rejects_a_coin_and_nobody_else():
    rng = np.random.default_rng(0)
    quality, x = panel(rng)
    x[5] = quality + rng.choice([-1.4, 1.4], 60)
    for method in ("bt500", "bt500_bias_removed"):
        result = mos(x, method)
        assert np.flatnonzero(result.rejected).tolist() == [5]
        assert (result.n == 23).all()
        assert "1 of 24 observers rejected" in result.warnings
    # A strict observer is beyond the limits on one side only, which is no reason.
    _, y = panel(rng)
    y[3] -= 2.5
    assert not mos(y, "bt500").rejected.any()
    assert mos(y).observer_bias[3] == pytest.approx(-2.4, abs=0.2)
    assert np.argmax(mos(x).observer_inconsistency) == 5


def test_p910_weighs_the_careful():
    rng = np.random.default_rng(1)
    errors = {"mean": [], "p910": []}
    for _ in range(20):
        quality, x = panel(rng)
        x[:8] += rng.normal(0, 2, (8, 60))
        for method in errors:
            errors[method].append(np.abs(mos(x, method).score - quality).mean())
    assert np.mean(errors["p910"]) < 0.8 * np.mean(errors["mean"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["mean", "bt500", "p910", "zscore"]))
def test_invariances(seed, method):
    rng = np.random.default_rng(seed)
    _, x = panel(rng, observers=6, units=12)
    x[rng.random(x.shape) < 0.1] = np.nan
    result = mos(x, method)
    o, u = rng.permutation(6), rng.permutation(12)
    moved = mos(x[np.ix_(o, u)], method)
    np.testing.assert_allclose(moved.score, result.score[u], atol=1e-6)
    np.testing.assert_allclose(moved.observer_bias, result.observer_bias[o], atol=1e-6)
    if method == "zscore":  # indifferent to each observer's own scale
        scaled = mos(x * rng.uniform(1, 3, (6, 1)) + rng.normal(size=(6, 1)), method)
        np.testing.assert_allclose(scaled.score, result.score, atol=1e-9)


def test_interval_covers_new_observers():
    rng = np.random.default_rng(2)
    hits = {"mean": 0.0, "p910": 0.0}
    for _ in range(40):
        quality, x = panel(rng, observers=20)
        for method in hits:
            r = mos(x, method)
            hits[method] += ((r.low <= quality) & (quality <= r.high)).mean() / 40
    assert hits["mean"] == pytest.approx(0.95, abs=0.02)
    assert 0.90 <= hits["p910"] <= 0.97


def test_difference_ratings():
    x = np.array([[5.0, 3, 4, 2], [4, 4, 5, np.nan]])
    d = difference_ratings(x, [0, 0, 2, 2])
    np.testing.assert_array_equal(d, [[np.nan, 3, np.nan, 3], [np.nan, 5, np.nan, np.nan]])
    assert mos(d).score[1] == 4
    for bad in ([0, 0, 9, 2], [0, 0, 2], [0.0, 0, 2, 2]):
        with pytest.raises(InputError, match="reference"):
            difference_ratings(x, bad)


@pytest.mark.parametrize("method", ["mean", "bt500", "bt500_bias_removed", "p910", "zscore"])
@pytest.mark.parametrize("x", [np.zeros((0, 0)), np.full((3, 4), np.nan), np.ones((3, 4))])
def test_nothing_to_average(method, x):
    result = mos(x, method)
    assert result.score.shape == (x.shape[1],)


def test_bad_input():
    with pytest.raises(InputError, match="method"):
        mos(np.ones((2, 2)), "median")
    with pytest.raises(InputError, match="infinite"):
        mos([[np.inf]])
