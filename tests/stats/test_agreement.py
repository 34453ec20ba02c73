from __future__ import annotations

import krippendorff
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from percept.errors import InputError
from percept.stats import krippendorff_alpha, pairwise_alpha, pairwise_units, rating_units
from percept.stats.frames import codes_of, same_block

LEVELS = ("nominal", "ordinal", "interval", "ratio")
ratings_arrays = arrays(
    float,
    st.tuples(st.integers(2, 6), st.integers(2, 8)),
    elements=st.sampled_from([np.nan, 1.0, 2.0, 3.0, 5.0]),
)


def test_alpha_published(reference):
    for case in reference("krippendorff_alpha")["cases"]:
        for level in LEVELS:
            estimate = krippendorff_alpha(np.array(case["ratings"], float), level)
            if level in case["expected"]:
                assert estimate.value == pytest.approx(
                    case["expected"][level], abs=case["tolerance"]
                ), (case["id"], level)
                other = case.get("not_expected", {}).get(level, np.inf)
                assert abs(estimate.value - other) > 0.01, case["id"]
            elif not case["expected"]:
                assert not estimate.estimable
                assert "do not vary" in estimate.warnings[0]


@settings(max_examples=60, deadline=None)
@given(ratings_arrays, st.sampled_from(LEVELS))
def test_alpha_is_the_peer_s(ratings, level):
    pairable = ratings[:, np.isfinite(ratings).sum(axis=0) >= 2]
    values = pairable[np.isfinite(pairable)]
    estimate = krippendorff_alpha(ratings, level)
    if len(set(values)) < 2:
        assert not estimate.estimable
    else:
        peer = krippendorff.alpha(pairable, level_of_measurement=level)
        assert estimate.value == pytest.approx(peer, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(ratings_arrays, st.sampled_from(LEVELS), st.randoms(use_true_random=False))
def test_alpha_ignores_order(ratings, level, random):
    observers, units = list(range(ratings.shape[0])), list(range(ratings.shape[1]))
    random.shuffle(observers)
    random.shuffle(units)
    a, b = (
        krippendorff_alpha(r, level).value for r in (ratings, ratings[np.ix_(observers, units)])
    )
    assert a == pytest.approx(b, abs=1e-9, nan_ok=True)


def test_alpha_continuous_interval_needs_no_table():
    rng = np.random.default_rng(0)
    ratings = rng.normal(size=(20, 1)) * 0 + rng.normal(size=5000) + rng.normal(size=(20, 5000))
    small = krippendorff_alpha(ratings[:, :8], "interval").value
    assert small == pytest.approx(
        krippendorff.alpha(ratings[:, :8], level_of_measurement="interval"), abs=1e-9
    )
    assert krippendorff_alpha(ratings, "interval").value == pytest.approx(0.5, abs=0.03)
    shifted = krippendorff_alpha(ratings + 1e6, "interval").value
    assert shifted == pytest.approx(krippendorff_alpha(ratings, "interval").value, abs=1e-7)


def test_alpha_intervals():
    rng = np.random.default_rng(1)
    ratings = np.round(rng.normal(size=60) + rng.normal(size=(12, 60)))
    units = krippendorff_alpha(ratings, "interval", n_boot=400, rng=rng)
    observers = krippendorff_alpha(ratings, "interval", resample="observers")
    for estimate in (units, observers):
        assert estimate.low < estimate.value < estimate.high
        assert estimate.n == 60
    assert "new units, these observers" in units.method
    assert "new observers" in observers.method
    # Duplicated units say nothing new about observers, but look like twice the evidence on units.
    twice = krippendorff_alpha(np.hstack([ratings] * 2), "interval", n_boot=400, rng=rng)
    assert twice.std_error == pytest.approx(units.std_error / np.sqrt(2), rel=0.2)


def _error_of_jackknife(alphas: list[float]) -> float:
    left = np.array(alphas)
    return float(np.sqrt((left.size - 1) / left.size * ((left - left.mean()) ** 2).sum()))


@pytest.mark.parametrize("level", LEVELS)
def test_jackknife_leaves_each_observer_out(level):
    rng = np.random.default_rng(3)
    for missing in (0.1, 0.6):
        ratings = np.clip(np.round(3 + rng.normal(size=25) + rng.normal(size=(7, 25))), 1, 5)
        ratings[rng.random(ratings.shape) < missing] = np.nan
        alphas = [krippendorff_alpha(np.delete(ratings, i, 0), level).value for i in range(7)]
        estimate = krippendorff_alpha(ratings, level, resample="observers")
        assert estimate.std_error == pytest.approx(_error_of_jackknife(alphas), rel=1e-9)


def test_jackknife_of_pair_votes_and_of_continuous_ratings():
    rng = np.random.default_rng(4)
    n = 300
    left = rng.integers(3, size=n)
    votes = pd.DataFrame(
        {
            "observer": rng.integers(8, size=n),
            "content": rng.integers(6, size=n),
            "left": left,
            "right": (left + rng.integers(1, 3, size=n)) % 3,
            "choice": rng.choice(["left", "right", "tie"], p=[0.6, 0.3, 0.1], size=n),
        }
    )
    alphas = [pairwise_alpha(votes[votes["observer"] != who]).value for who in range(8)]
    estimate = pairwise_alpha(votes, resample="observers")
    assert estimate.std_error == pytest.approx(_error_of_jackknife(alphas), rel=1e-9)
    ratings = rng.normal(size=20) + rng.normal(size=(5, 20))
    alphas = [krippendorff_alpha(np.delete(ratings, i, 0), "interval").value for i in range(5)]
    estimate = krippendorff_alpha(ratings, "interval", resample="observers")
    assert estimate.std_error == pytest.approx(_error_of_jackknife(alphas), rel=1e-9)


def test_alpha_interval_covers_new_units():
    # The population value for these ratings is 1 / (1 + 1).
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        ratings = rng.normal(size=80) + rng.normal(size=(6, 80))
        e = krippendorff_alpha(ratings, "interval", n_boot=100, rng=rng)
        hits += e.low <= 0.5 <= e.high
    assert 0.88 <= hits / 100 <= 0.99


def test_repetitions_are_not_agreement():
    ratings = np.array([[1.0, 2, 3, 1], [2, 1, 3, 3]])
    repeated = np.stack([ratings, ratings], axis=2)
    estimate = krippendorff_alpha(repeated, "nominal")
    assert estimate.value == krippendorff_alpha(ratings, "nominal").value
    assert "8 repeated ratings left out" in estimate.warnings


def votes(rows):
    return pd.DataFrame(rows, columns=["observer", "content", "left", "right", "choice"])


def test_pairwise_units_do_not_depend_on_sides():
    frame = votes(
        [
            ("o1", "c1", "a", "b", "left"),
            ("o2", "c1", "b", "a", "right"),
            ("o1", "c2", "b", "a", "left"),
            ("o2", "c2", "a", "b", "tie"),
            ("o3", "c2", "a", "b", "skip"),
        ]
    )
    np.testing.assert_array_equal(pairwise_units(frame), [[1, -1], [1, 0], [np.nan, np.nan]])
    again = pd.concat([frame, frame.iloc[:1]])
    assert pairwise_units(again).shape == (3, 2, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pairwise_alpha_is_free_of_sides_and_names(seed):
    rng = np.random.default_rng(seed)
    n = 60
    a = rng.integers(3, size=n)
    b = (a + rng.integers(1, 3, size=n)) % 3
    frame = votes(
        {
            "observer": rng.integers(6, size=n),
            "content": rng.integers(3, size=n),
            "left": np.array(["x", "y", "z"])[a],
            "right": np.array(["x", "y", "z"])[b],
            "choice": rng.choice(["left", "right", "tie"], size=n),
        }
    ).drop_duplicates(["observer", "content", "left", "right"])
    swap = rng.random(len(frame)) < 0.5
    swapped = frame.assign(
        left=np.where(swap, frame["right"], frame["left"]),
        right=np.where(swap, frame["left"], frame["right"]),
        choice=np.where(
            swap, frame["choice"].map({"left": "right", "right": "left"}).fillna("tie"),
            frame["choice"],
        ),
    )  # fmt: skip
    renamed = frame.replace({"x": "z", "z": "x"})
    for level in ("nominal", "ordinal", "interval"):
        values = [pairwise_alpha(f, level).value for f in (frame, swapped, renamed)]
        assert values == pytest.approx([values[0]] * 3, abs=1e-12, nan_ok=True)


def test_pairwise_alpha_of_unanimous_people_is_one_and_of_coins_nothing():
    rng = np.random.default_rng(3)
    pairs = [(f"o{i}", f"c{j}", "a", "b") for i in range(10) for j in range(40)]
    same = votes([(*p, "left") for p in pairs])
    assert pairwise_alpha(same).value == 1
    coins = votes([(*p, rng.choice(["left", "right"])) for p in pairs])
    assert abs(pairwise_alpha(coins).value) < 0.06


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: krippendorff_alpha([1.0, 2.0]), "observers, units"),
        (lambda: krippendorff_alpha([[1.0, np.inf]]), "infinite"),
        (lambda: krippendorff_alpha([[1.0], [2.0]], "rank"), "level"),
        (lambda: krippendorff_alpha([[1.0], [-2.0]], "ratio"), "sign"),
        (lambda: krippendorff_alpha([[1.0], [2.0]], n_boot=1), "n_boot"),
        (lambda: krippendorff_alpha([[1.0], [2.0]], confidence=95), "confidence"),
        (lambda: krippendorff_alpha([[1.0], [2.0]], resample="both"), "resample"),
        (lambda: pairwise_units(pd.DataFrame({"left": ["a"]})), "observer"),
        (lambda: pairwise_units(votes([("o", "c", "a", "b", "L")])), "choice"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(InputError, match=text):
        call()


@pytest.mark.parametrize("shape", [(0, 0), (1, 5), (5, 0)])
def test_nothing_to_agree_on(shape):
    assert not krippendorff_alpha(np.ones(shape), n_boot=10).estimable


def test_ratings_of_single_stimuli_as_an_array():
    frame = pd.DataFrame(
        [
            ("b", "x", "m", 4.0),
            ("a", "y", "m", 2.0),
            ("a", "x", "n", 1.0),
            ("b", "y", "m", np.nan),
        ],
        columns=["observer", "content", "condition", "score"],
    )
    units = rating_units(frame)
    assert units.observers == ("a", "b")
    assert units.units.tolist() == [("x", "m"), ("x", "n"), ("y", "m")]
    np.testing.assert_array_equal(units.ratings, [[np.nan, 1, 2], [4, np.nan, np.nan]])
    again = pd.concat([frame, pd.DataFrame([("b", "x", "m", 5.0)], columns=frame.columns)])
    three = rating_units(again).ratings
    assert three.shape == (2, 3, 2)
    assert three[1, 0].tolist() == [4, 5]
    for bad in (
        frame.drop(columns="score"),
        frame.assign(score="good"),
        frame.assign(observer=[None, "a", "a", "b"]),
    ):
        with pytest.raises(InputError):
            rating_units(bad)
    assert rating_units(frame.iloc[:0]).ratings.shape == (0, 0)


def test_regular_columns_are_coded_as_any():
    """Long tables in blocks, or with the units in the same order for each observer."""
    observer = [f"o{i}" for i in (2, 0, 1)]
    unit = [f"u{i:04d}" for i in np.random.default_rng(0).permutation(5_000)]
    regular = pd.DataFrame(
        {"observer": np.repeat(observer, 5_000), "unit": np.tile(unit, 3), "same": "x"}
    ).astype("str")
    rough = regular.drop(index=[1, 7_000, 14_999])
    twice = pd.concat([regular, regular.iloc[:3]], ignore_index=True)
    early = regular.iloc[[4_999, *range(15_000)]]
    for frame in (regular, rough, twice, early, regular.iloc[::-1], regular.sample(frac=1)):
        for name in frame:
            codes, labels = codes_of(frame[name])
            assert list(labels) == sorted(frame[name].unique())
            assert (labels[codes] == frame[name].to_numpy(object)).all()
    missing = regular["observer"].where(np.arange(15_000) != 12_000)
    assert (codes_of(missing)[0] == -1).sum() == 1


def test_a_table_in_order_is_arranged_as_any():
    rng = np.random.default_rng(1)
    people, photos, models = (
        ["b", "a", "c"],
        rng.permutation([f"p{i}" for i in range(12)]),
        list("nm"),
    )
    index = pd.MultiIndex.from_product([people, photos, models])
    whole = index.to_frame(index=False, name=["observer", "content", "condition"])
    whole["score"] = rng.normal(size=len(whole))
    other = whole.assign(observer=whole["observer"].replace("c", "b"))  # b rates all twice
    swapped = whole.copy()
    swapped.loc[[1, 2], ["content", "condition"]] = whole.loc[
        [2, 1], ["content", "condition"]
    ].values
    for frame in (
        whole,
        other,
        swapped,
        whole.iloc[:-1],
        whole.iloc[::-1],
        whole.astype(dict.fromkeys(whole.columns[:3], "category")),
    ):
        one, two = rating_units(frame), rating_units(frame.sample(frac=1, random_state=2))
        assert one.observers == two.observers
        assert one.units.equals(two.units)
        table = frame.pivot_table(
            index="observer", columns=["content", "condition"], values="score", observed=True
        )
        ours = one.ratings if one.ratings.ndim == 2 else np.nanmean(one.ratings, axis=2)
        np.testing.assert_allclose(ours, table.to_numpy())


@settings(max_examples=40, deadline=None)
@given(ratings_arrays, st.sampled_from(LEVELS))
def test_the_jackknife_leaves_one_observer_out(ratings, level):
    found = krippendorff_alpha(ratings, level, resample="observers")
    given = np.flatnonzero(np.isfinite(ratings).any(axis=1))
    left = [krippendorff_alpha(np.delete(ratings, i, axis=0), level).value for i in given]
    m = len(left)
    if not found.estimable or m < 3 or not np.isfinite(left).all():
        assert np.isnan(found.std_error)
    else:
        assert found.std_error == pytest.approx(np.sqrt((m - 1) * np.var(left)), abs=1e-9)


@settings(deadline=None)
@given(
    st.integers(1, 6), st.integers(0, 4), st.sampled_from(["str", "object", "category"]), st.data()
)
def test_a_table_in_order_is_recognised_and_nothing_else(
    size: int, blocks: int, dtype: str, data: st.DataObject
) -> None:
    over = [f"o{i}" for i in range(blocks) for _ in range(size)]
    other = [f"p{i}" for _ in range(blocks) for i in range(size)]
    for labels in (over, other):
        if labels and data.draw(st.booleans()):
            labels[data.draw(st.integers(0, len(labels) - 1))] = "o1"
    run = next((i for i, label in enumerate(over) if label != over[0]), len(over))
    blocks_of = [range(i, min(i + run, len(over))) for i in range(0, len(over), run or 1)]
    ordered = all(
        len(rows) == run and len({over[i] for i in rows}) == 1
        and [other[i] for i in rows] == other[:run]
        for rows in blocks_of
    )  # fmt: skip
    expected = run if ordered and run >= max(len(blocks_of), 2) else 0
    columns = (pd.Series(labels, dtype=dtype) for labels in (over, other))
    assert same_block(*columns) == expected
