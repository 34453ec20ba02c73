from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.errors import InputError
from percept.stats import (
    assess_reliability,
    icc,
    kendall_w,
    paired_consistency,
    repeat_consistency,
)

FORMS = ("ICC1", "ICC2", "ICC3", "ICC1k", "ICC2k", "ICC3k")


def test_icc_published(reference):
    for case in reference("icc")["cases"]:
        ratings = np.array(case["ratings"], float).T
        for form in FORMS:
            estimate = icc(ratings, form)
            assert estimate.value == pytest.approx(case["expected"][form], abs=case["tolerance"])
            assert estimate.interval == pytest.approx(case["intervals"][form], abs=2e-6), form


def test_kendall_w_published(reference):
    for case in reference("kendall_w")["cases"]:
        result = kendall_w(np.array(case["ratings"], float).T)
        for name, expected in case["expected"].items():
            assert getattr(result, name) == pytest.approx(expected, abs=case["tolerance"]), name


def test_paired_consistency_published(reference):
    for case in reference("paired_consistency")["cases"]:
        result = paired_consistency(case["wins"])
        for name, expected in case["expected"].items():
            assert getattr(result, name) == pytest.approx(expected, abs=case["tolerance"]), name


def two_way(rng, *, observers=10, units=60, su=1.0, so=0.5, se=1.0, missing=0.0):
    table = rng.normal(0, su, units) + rng.normal(0, so, (observers, 1))
    table = table + rng.normal(0, se, (observers, units))
    return np.where(rng.random(table.shape) < missing, np.nan, table)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(FORMS))
def test_icc_ignores_order_and_units_of_measurement(seed, form):
    rng = np.random.default_rng(seed)
    table = two_way(rng, observers=5, units=9, missing=0.1)
    value = icc(table, form).value
    moved = 7 + 3 * table[rng.permutation(5)][:, rng.permutation(9)]
    assert icc(moved, form).value == pytest.approx(value, abs=1e-8)
    if form.startswith("ICC3"):  # consistency does not see what observers add
        assert icc(table + rng.normal(size=(5, 1)), form).value == pytest.approx(value, abs=1e-8)


def test_icc_with_missing_ratings_finds_the_components():
    rng = np.random.default_rng(0)
    truth = {"ICC1": 1 / 2.25, "ICC2": 1 / 2.25, "ICC3": 0.5}
    draws = {form: [] for form in truth}
    for _ in range(40):
        table = two_way(rng, observers=20, units=80, missing=0.4)
        for form in truth:
            draws[form].append(icc(table, form).value)
    for form, expected in truth.items():
        assert np.mean(draws[form]) == pytest.approx(expected, abs=0.02)
    assert "approximate" in icc(table).warnings[0]


def test_icc_interval_covers():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        e = icc(two_way(rng, units=40), "ICC2k")
        hits += e.low <= 1 / (1 + 1.25 / 10) <= e.high
    assert 180 <= hits <= 199


def test_concordance_limits():
    ranks = np.arange(8.0)
    assert kendall_w(np.tile(ranks, (4, 1))).value == pytest.approx(1)
    assert kendall_w(np.stack([ranks, ranks[::-1]])).value == pytest.approx(0)
    partial = np.tile(ranks, (4, 1))
    partial[0, 0] = np.nan
    assert "1 units" in kendall_w(partial).warnings[0]
    for nothing in (np.ones((3, 5)), np.ones((1, 5)), np.ones((3, 0))):
        assert not kendall_w(nothing).estimable


def test_consistency_limits():
    order = np.triu(np.ones((7, 7)), 1)
    assert paired_consistency(order).zeta == 1
    assert paired_consistency(order * 10).u == 1
    ring = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert paired_consistency(ring).zeta == 0
    even = paired_consistency([[0, 1], [1, 0]])
    assert np.isnan(even.zeta)
    assert even.u == even.u_min == -1
    assert len(paired_consistency(np.zeros((3, 3))).warnings) == 2
    with pytest.raises(InputError):
        paired_consistency([[0, -1], [1, 0]])


def test_low_agreement_with_reliable_means():
    rng = np.random.default_rng(2)
    table = two_way(rng, observers=60, units=100, su=0.6, so=0.0, se=1.5)
    r = assess_reliability(table, rng=rng)
    assert r.alpha.value < 0.25
    truth = 0.36 / (0.36 + 2.25 / 60)
    for estimate in (r.split_half, r.consistency, r.dependability):
        assert estimate.value == pytest.approx(truth, abs=0.04)
        assert estimate.low < estimate.value < estimate.high
    assert "agree hardly" in r.summary or "agree weakly" in r.summary
    assert "highly reliable" in r.summary


@pytest.mark.parametrize("table", [np.ones((3, 4)), np.ones((1, 4)), np.full((3, 4), np.nan)])
def test_reliability_of_nothing(table):
    r = assess_reliability(table)
    assert not r.split_half.estimable
    assert "cannot tell" in r.summary


def test_halves_without_variation():
    table = np.full((2, 5), 0.5)
    table[0, 0] = 1.0  # one observer never varies, so no half of one correlates
    r = assess_reliability(table)
    assert not r.split_half.estimable
    assert "do not vary" in r.split_half.warnings[0]


def test_repeats_with_swapped_sides():
    frame = pd.DataFrame(
        [
            (1, "test", None, "o1", "c1", "a", "b", "left"),
            (2, "repeat", 1, "o1", "c1", "b", "a", "right"),  # a again
            (3, "test", None, "o2", "c1", "a", "b", "left"),
            (4, "repeat", 3, "o2", "c1", "b", "a", "left"),  # the side again
            (5, "test", None, "o2", "c2", "a", "b", "tie"),
            (6, "repeat", 5, "o2", "c2", "b", "a", "tie"),
        ],
        columns=["trial", "kind", "repeat_of", "observer", "content", "left", "right", "choice"],
    ).astype({"repeat_of": "Int64"})
    estimate = repeat_consistency(frame)
    assert (estimate.value, estimate.n) == (pytest.approx(2 / 3), 3)
    assert not repeat_consistency(frame[frame["kind"] == "test"]).estimable


def test_bad_input():
    with pytest.raises(InputError, match="form"):
        icc(np.ones((2, 2)), "ICC4")
    assert not icc(np.ones((3, 4))).estimable
    assert not icc(np.ones((1, 4))).estimable
