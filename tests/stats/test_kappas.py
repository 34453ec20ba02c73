from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.errors import InputError
from percept.stats import (
    agreement_weights,
    cohen_kappa,
    fleiss_kappa,
    gwet_ac,
    region_agreement,
    tag_agreement,
)


def test_fleiss_published(reference):
    for case in reference("fleiss_kappa")["cases"]:
        estimate = fleiss_kappa(case["counts"])
        assert estimate.value == pytest.approx(case["expected"], abs=case["tolerance"]), case["id"]
        assert estimate.low < estimate.value < estimate.high


def test_gwet_published(reference):
    data = reference("gwet")
    ratings = np.array(data["ratings"], float)
    for weights, expected in data["expected"].items():
        counts = np.stack([(ratings == v).sum(axis=1) for v in range(1, 6)], axis=1)
        for estimate, want in (
            (gwet_ac(ratings.T, weights), expected["gwet"]),
            (fleiss_kappa(counts, weights), expected["fleiss"]),
        ):
            assert estimate.value == pytest.approx(want["value"], abs=data["tolerance"]), weights
            assert estimate.std_error == pytest.approx(want["std_error"], abs=data["tolerance"])


def test_cohen_published(reference):
    table, lists = reference("cohen_kappa")["cases"]
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(int(table["table"][i][j]))]
    a, b = np.array(pairs).T
    tol = table["tolerance"]
    assert cohen_kappa(a, b).value == pytest.approx(table["expected"]["kappa_unweighted"], abs=tol)
    weighted = cohen_kappa(a, b, table["disagreement"])
    assert weighted.value == pytest.approx(table["expected"]["kappa_weighted"], abs=tol)
    for name, expected in lists["expected"].items():
        weights = None if name == "unweighted" else name
        estimate = cohen_kappa(lists["a"], lists["b"], weights)
        assert estimate.value == pytest.approx(expected, abs=lists["tolerance"]), name


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_two_observers_without_missing_ratings(seed):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 4, (2, 30)).astype(float)
    # Cohen's kappa does not mind who comes first, or what the categories are called.
    a = cohen_kappa(*ratings).value
    assert cohen_kappa(*ratings[::-1]).value == pytest.approx(a)
    assert cohen_kappa(*(3 - ratings)).value == pytest.approx(a)
    assert gwet_ac(ratings).value == pytest.approx(gwet_ac(4 - ratings).value)
    assert cohen_kappa(ratings[0], ratings[0]).value == 1


def test_intervals_of_kappa_cover():
    rng = np.random.default_rng(0)
    hits = np.zeros(3)
    truth = 0.5  # both copy a fair latent category with probability sqrt(0.5)
    for _ in range(200):
        latent = rng.integers(0, 2, 100)
        copies = [
            np.where(rng.random(100) < np.sqrt(0.5), latent, rng.integers(0, 2, 100))
            for _ in range(2)
        ]
        counts = np.stack([(np.array(copies) == v).sum(axis=0) for v in (0, 1)], axis=1)
        for i, e in enumerate((cohen_kappa(*copies), fleiss_kappa(counts), gwet_ac(copies))):
            hits[i] += e.low <= truth <= e.high
    assert (hits >= 180).all()
    assert (hits <= 199).all()


def test_weights():
    assert agreement_weights([1, 2, 3], "linear")[0].tolist() == [1, 0.5, 0]
    np.testing.assert_allclose(agreement_weights([1, 2, 3], "ordinal")[0], [1, 2 / 3, 0])
    for bad in ("cubic", [[1.0]], np.zeros((3, 3))):
        with pytest.raises(InputError):
            agreement_weights([1, 2, 3], bad)


@pytest.mark.parametrize(
    "estimate",
    [
        lambda: fleiss_kappa(np.zeros((0, 3))),
        lambda: fleiss_kappa([[2, 0], [2, 0]]),
        lambda: fleiss_kappa([[1, 0], [0, 1]]),
        lambda: gwet_ac([[np.nan, 1.0], [1.0, np.nan]]),
        lambda: cohen_kappa([], []),
        lambda: cohen_kappa([1, 1], [1, 1]),
    ],
)
def test_not_estimable_is_an_answer(estimate):
    result = estimate()
    assert not result.estimable
    assert "not estimable" in result.warnings[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: fleiss_kappa([[1, -1]]),
        lambda: fleiss_kappa([1, 2]),
        lambda: gwet_ac([[1.0, 2.0], [1.0, 3.0]], categories=[1, 2]),
        lambda: cohen_kappa([1, 2], [1]),
        lambda: cohen_kappa([1, 2], [1, 2], "cubic"),
        lambda: cohen_kappa([1, 2], [1, 2], [[0, 1, 2]]),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()


def marks(rng, *, jitter, habit=0.0, observers=5, contents=8):
    """Everyone marks the same spot of a photograph, up to jitter; habits pull to the centre."""
    rows = []
    for c in range(contents):
        x, y = (1 - habit) * rng.uniform(0, 0.7, 2) + habit * 0.35
        for o in range(observers):
            dx, dy = rng.normal(0, jitter, 2)
            rows.append((f"o{o}", f"c{c}", "m", 10 * c + o, "halo", x + dx, y + dy, 0.3, 0.3))
    names = ["observer", "content", "condition", "trial", "artifact", "x", "y", "width", "height"]
    return pd.DataFrame(rows, columns=names)


def test_regions_against_chance():
    rng = np.random.default_rng(1)
    near, far = (region_agreement(marks(rng, jitter=j)) for j in (0.01, 0.5))
    assert near.value > 0.7
    assert near.low > far.high
    assert far.value < 0.2
    # All marks in the centre agree, but say nothing about the photograph.
    habit = region_agreement(marks(rng, jitter=0.02, habit=1.0))
    assert abs(habit.value) < 0.1
    exact = region_agreement(marks(np.random.default_rng(2), jitter=0))
    assert exact.value == pytest.approx(1)
    assert not region_agreement(marks(rng, jitter=0).iloc[:1]).estimable


def test_tags():
    rows = []
    for unit in range(12):
        for observer in range(4):
            trial = 10 * unit + observer
            tags = ["halo"] if unit % 2 else []  # everyone sees the halo
            tags += ["bleeding"] if (unit * 7 + observer * 5) % 3 == 0 else []  # nobody agrees
            rows += [(observer, unit, "m", trial, tag) for tag in tags or [None]]
    frame = pd.DataFrame(rows, columns=["observer", "content", "condition", "trial", "artifact"])
    result = tag_agreement(frame)
    assert result["halo"].value == 1
    assert result["bleeding"].value < 0.1
    assert 0 < result[None].value < 1
    assert result[None].low < result[None].value
    # Sets with one tag each at most: Jaccard's distance is the nominal one.
    single = tag_agreement(frame[frame["artifact"] != "bleeding"])
    assert single[None].value == pytest.approx(single["halo"].value)
    assert not tag_agreement(frame.iloc[:0])[None].estimable
