from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.errors import InputError
from percept.stats import (
    PairCounts,
    adjust_p_values,
    bradley_terry,
    compare_arms,
    crowd_bradley_terry,
    goodness_of_fit,
    tell_apart,
    thurstone_case_v,
)


def test_adjusted_p_published(reference):
    data = reference("multiple_testing")
    for method, expected in data["expected"].items():
        np.testing.assert_allclose(
            adjust_p_values(data["p"], method), expected, atol=data["tolerance"]
        )


@given(st.lists(st.floats(0, 1), max_size=12), st.sampled_from(["holm", "bh"]))
def test_adjusted_p_are_ordered_and_larger(p, method):
    adjusted = adjust_p_values(p, method)
    assert (adjusted >= np.array(p) - 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()


def test_adjusted_p_limits():
    assert np.isnan(adjust_p_values([0.01, np.nan])[1])
    assert adjust_p_values([0.01, np.nan])[0] == 0.01
    for bad in ([2.0], [[0.1]]):
        with pytest.raises(InputError):
            adjust_p_values(bad)
    with pytest.raises(InputError):
        adjust_p_values([0.1], "none")


def test_goodness_of_fit_published(reference):
    citations = reference("bradley_terry")["cases"][0]
    counts = PairCounts(citations["wins"], items=citations["items"])
    fit = goodness_of_fit(counts, bradley_terry(counts))
    assert (fit.deviance, fit.degrees_of_freedom) == (pytest.approx(4.293384, abs=1e-5), 3)
    taste = next(c for c in reference("thurstone")["cases"] if c["id"] == "david1988_taste")
    counts = PairCounts(taste["wins"])
    fit = goodness_of_fit(counts, thurstone_case_v(counts))
    assert (fit.deviance, fit.degrees_of_freedom) == (pytest.approx(4.5326647, abs=1e-5), 3)


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper", "half", "drop"])
def test_fit_finds_what_the_model_cannot_say(simulate, ties):
    rng = np.random.default_rng(0)
    frame = simulate(np.array([0.5, 0.2, -0.1, -0.6]), nu=0.5, each=80, side=0.3, rng=rng)
    if ties != "rao-kupper":  # whose ties were not simulated
        scale = bradley_terry(frame, ties=ties, side_effect=True)
        good = goodness_of_fit(frame, scale)
        assert good.p_value > 0.001
        assert np.abs(good.residuals["residual"]).max() < 4
    ring = PairCounts(np.array([[0, 90, 10], [10, 0, 90], [90, 10, 0]]))
    bad = goodness_of_fit(ring, bradley_terry(ring, ties=ties))
    assert bad.p_value < 1e-6
    assert bad.triads == bad.max_triads == 1
    assert np.abs(bad.residuals["residual"]).min() > 3


def test_groups_that_cannot_be_told_apart():
    wins = np.array([[0, 52, 95, 97], [48, 0, 94, 96], [5, 6, 0, 51], [3, 4, 49, 0]])
    table, groups = tell_apart(bradley_terry(PairCounts(wins, items=list("abcd"))))
    assert groups == (("a", "b"), ("c", "d"))
    assert len(table) == 6
    assert (table["difference"] >= 0).all()
    same, all_in_one = tell_apart(bradley_terry(PairCounts(np.full((3, 3), 5.0))), "bh")
    assert all_in_one == ((0, 1, 2),)
    assert (same["p_adjusted"] == 1).all()


def arms_frame(simulate, rng, *, seeds, gap, seed_sd):
    scores = np.concatenate([gap + rng.normal(0, seed_sd, seeds), rng.normal(0, seed_sd, seeds)])
    return simulate(scores, observers=15, contents=15, each=60, rng=rng)


def test_arms_are_judged_against_seeds(simulate):
    rng = np.random.default_rng(1)
    arms = {f"m{i}": "new" if i < 3 else "old" for i in range(6)}
    hits = plain = 0
    for _ in range(60):
        frame = arms_frame(simulate, rng, seeds=3, gap=0.0, seed_sd=0.5)
        result = compare_arms(frame, arms)
        d = result.differences["new", "old"]
        hits += d.low <= 0 <= d.high
        s = result.scale.difference("m0", "m3")  # two checkpoints are not two recipes
        plain += s.low <= 0 <= s.high
    assert hits >= 52
    assert plain < 45
    assert result.seeds == {"new": 3, "old": 3}
    clear = compare_arms(arms_frame(simulate, rng, seeds=3, gap=1.5, seed_sd=0.1), arms)
    assert clear.differences["new", "old"].p_value < 0.01


def test_one_seed_is_not_estimable(simulate):
    frame = simulate(np.array([1.0, 0.8, 0.0]), rng=np.random.default_rng(2))
    result = compare_arms(frame, {"m0": "new", "m1": "new", "m2": "old"})
    d = result.differences["new", "old"]
    assert not d.estimable
    assert "single seed" in d.warnings[0]
    alone = compare_arms(frame, {"m0": "a", "m1": "b"})
    assert np.isnan(alone.seed_sd)


def test_careless_observers_are_found_and_forgiven(simulate):
    rng = np.random.default_rng(3)
    truth = np.array([1.5, 0.5, -0.5, -1.5])
    frame = simulate(truth, observers=24, each=80, rng=rng)
    careless = frame["observer"].isin([f"o{i}" for i in range(8)])
    coins = rng.choice(["left", "right"], len(frame))
    frame["choice"] = np.where(careless, coins, frame["choice"])
    plain, crowd = bradley_terry(frame), crowd_bradley_terry(frame)
    assert crowd.converged
    assert np.abs(crowd.score - truth).max() < 0.5 * np.abs(plain.score - truth).max()
    table = crowd.observers.set_index("observer")["careful"]
    bad = table.index.isin([f"o{i}" for i in range(8)])
    assert table[bad].max() < table[~bad].min()
    # With careful observers only, it is the plain scale.
    clean = frame[~careless]
    np.testing.assert_allclose(
        crowd_bradley_terry(clean, prior=(1e6, 1.0)).score, bradley_terry(clean).score, atol=0.01
    )


def test_crowd_limits():
    empty = pd.DataFrame(columns=["observer", "left", "right", "choice"])
    assert "no decided votes" in crowd_bradley_terry(empty).warnings[0]
    with pytest.raises(InputError, match="prior"):
        crowd_bradley_terry(empty, prior=(0.5, 1))
    with pytest.raises(InputError, match="observer"):
        crowd_bradley_terry(empty.drop(columns="observer"))


def test_an_item_that_one_observer_judged_has_no_interval_and_the_others_keep_theirs() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"o{o}", f"c{c}", "x", "y", str(rng.choice(["left", "right"])))
        for o in range(10) for c in range(4)
    ]  # fmt: skip
    without = pd.DataFrame(rows, columns=["observer", "content", "left", "right", "choice"])
    rows += [("o0", f"c{n % 4}", "x", "z", "left" if n < 21 else "right") for n in range(40)]
    votes = pd.DataFrame(rows, columns=without.columns)
    for n_boot in (0, 50):
        scale = bradley_terry(votes, n_boot=n_boot, rng=np.random.default_rng(1))
        assert any("no interval of z: all votes are of one observer" in w for w in scale.warnings)
        assert np.isnan(scale.low[2])
        assert np.isnan(scale.difference("x", "z").low)
        alone = bradley_terry(without, n_boot=n_boot, rng=np.random.default_rng(1))
        one, two = scale.difference("x", "y"), alone.difference("x", "y")
        assert one.std_error == pytest.approx(two.std_error, rel=0.25)
        assert one.high - one.low == pytest.approx(two.high - two.low, rel=0.25)
    rows = [("o0", f"c{n % 4}", "x", "y", "left" if n < 27 else "right") for n in range(40)]
    rows += [(f"o{n}", f"c{n % 4}", "x", "y", "tie") for n in range(1, 30)]
    ties = pd.DataFrame(rows, columns=without.columns)
    scale = bradley_terry(ties, ties="drop")  # the votes that count are all of one observer
    assert np.isnan(scale.low).all()
    assert any("all votes are of one observer" in w for w in scale.warnings)


def test_intervals_hold_where_few_observers_judged_an_item() -> None:
    """Nominal 95 %; by the share of all votes alone, three of twenty observers covered 85 %."""
    rng = np.random.default_rng(3)
    apart = rng.normal(0, np.sqrt(2 * 1.09), 200_000) + 0.5
    share = (1 / (1 + np.exp(apart))).mean()
    truth, held = np.log(share / (1 - share)), []
    for _ in range(150):
        taste, photo = rng.normal(0, 1, (20, 1, 3)), rng.normal(0, 0.3, (1, 12, 3))
        value = taste + photo + [0.0, 0.3, 0.5]
        parts = []
        for item, name, observers in ((1, "y", 20), (2, "z", 3)):
            left = rng.random((observers, 12)) < 1 / (
                1 + np.exp(value[:observers, :, item] - value[:observers, :, 0])
            )
            observer, content = np.indices(left.shape).reshape(2, -1)
            choice = np.where(left.ravel(), "left", "right")
            parts.append(pd.DataFrame({
                "observer": observer, "content": content, "left": "x", "right": name,
                "choice": choice,
            }))  # fmt: skip
        found = bradley_terry(pd.concat(parts)).difference("x", "z")
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) > 0.88
