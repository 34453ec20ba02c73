from __future__ import annotations

import choix
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from percept.errors import InputError
from percept.stats import (
    PairCounts,
    bradley_terry,
    count_pairs,
    preference_share,
    scale_by,
    thurstone_case_v,
)

seeds = st.integers(0, 2**32 - 1)


def test_bradley_terry_published(reference):
    for case in reference("bradley_terry")["cases"]:
        expected, tol, name = case["expected"], case["tolerance"], case["id"]
        counts = PairCounts(case["wins"], items=case["items"])
        scale = bradley_terry(counts)
        for key in ("score", "covariance", "log_likelihood"):
            if key in expected:
                np.testing.assert_allclose(
                    getattr(scale, key), expected[key], atol=tol, err_msg=f"{name} {key}"
                )
        if "score_ref_first" in expected:
            np.testing.assert_allclose(
                scale.score - scale.score[0], expected["score_ref_first"], atol=tol
            )
        for i, se in enumerate(expected.get("se_ref_first", [])):
            first = scale.difference(case["items"][i], case["items"][0])
            assert first.std_error == pytest.approx(se, abs=max(tol, 1e-5)), name
        if "components" in expected:
            np.testing.assert_array_equal(scale.component, expected["components"])
            for part, difference in enumerate(expected["differences"]):
                own = scale.score[scale.component == part]
                assert own[0] - own[1] == pytest.approx(difference, abs=1e-9)
            assert any("unconnected" in text for text in scale.warnings)
            assert not scale.difference(0, 2).estimable
            assert np.isnan(scale.covariance[0, 2])
        if "not_estimable" in expected:
            assert np.isnan(scale.score[expected["not_estimable"]]).all()
            assert not scale.estimable[expected["not_estimable"]].any()
            assert any("never beaten" in text for text in scale.warnings)
            ridge = bradley_terry(counts, penalty=0.01)
            np.testing.assert_allclose(ridge.score, expected["ridge_0_01"], atol=1e-4)
            assert any("penalty" in text for text in ridge.warnings)
        if "with_side_effect" in expected:
            check_home_effect(case, expected["with_side_effect"])


def check_home_effect(case, expected):
    rows = [
        (home, away, side, count)
        for home, away, won, lost in case["games"]
        for side, count in (("left", won), ("right", lost))
    ]
    frame = pd.DataFrame(rows, columns=["left", "right", "choice", "count"])
    scale = bradley_terry(frame, side_effect=True, cluster=None)
    np.testing.assert_allclose(scale.score - scale.score[0], expected["score_ref_first"], atol=1e-5)
    assert scale.side_effect == pytest.approx(expected["side_effect"], abs=1e-5)
    half = scale.side_effect_high - scale.side_effect
    assert half / 1.959964 == pytest.approx(expected["side_effect_se"], abs=1e-5)


def test_thurstone_published(reference):
    for case in reference("thurstone")["cases"]:
        expected, tol = case["expected"], case["tolerance"]
        scale = thurstone_case_v(PairCounts(case["wins"]))
        if "jod" in expected:
            np.testing.assert_allclose(scale.jod, expected["jod"], atol=tol)
        if "score_ref_first" in expected:
            np.testing.assert_allclose(
                scale.score - scale.score[0], expected["score_ref_first"], atol=tol
            )
        if "jod_ref_first" in expected:
            np.testing.assert_allclose(
                scale.jod - scale.jod[0], expected["jod_ref_first"], atol=tol
            )
        for i in expected.get("not_estimable", []):
            assert not scale.estimable[i]


@pytest.mark.parametrize("model", [bradley_terry, thurstone_case_v])
def test_one_jod_is_three_quarters(model):
    scale = model(PairCounts([[0, 75], [25, 0]]))
    assert scale.jod[0] - scale.jod[1] == pytest.approx(1)
    assert scale.probability(0, 1).value == pytest.approx(0.75)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_bradley_terry_is_choix_s(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 9))
    wins = rng.integers(1, 20, size=(k, k)).astype(float)
    np.fill_diagonal(wins, 0)
    data = [(i, j) for i in range(k) for j in range(k) for _ in range(int(wins[i, j]))]
    np.testing.assert_allclose(
        bradley_terry(PairCounts(wins)).score, choix.ilsr_pairwise(k, data, tol=1e-10), atol=1e-6
    )


def davidson_loss(p, frame, items):
    s = dict(zip(items, p[:-2], strict=True))
    total = 0.0
    for row in frame.itertuples():
        d = s[row.left] - s[row.right] + p[-2]
        w = {"left": np.exp(d / 2), "tie": np.exp(p[-1]), "right": np.exp(-d / 2)}
        total -= np.log(w[row.choice] / sum(w.values()))
    return total


def rao_kupper_loss(p, frame, items):
    s, theta = dict(zip(items, p[:-2], strict=True)), np.exp(np.exp(p[-1]))
    total = 0.0
    for row in frame.itertuples():
        e = np.exp(s[row.left] - s[row.right] + p[-2])
        left, right = e / (e + theta), 1 / (1 + theta * e)
        total -= np.log({"left": left, "right": right, "tie": 1 - left - right}[row.choice])
    return total


@pytest.mark.parametrize(
    ("ties", "loss", "back"),
    [
        ("davidson", davidson_loss, np.exp),
        ("rao-kupper", rao_kupper_loss, lambda x: np.exp(np.exp(x))),
    ],
)
def test_ties_and_sides_against_a_plain_optimiser(simulate, ties, loss, back):
    rng = np.random.default_rng(4)
    frame = simulate(np.array([0.0, 0.5, -0.4]), nu=0.7, side=0.4, each=15, observers=12, rng=rng)
    scale = bradley_terry(frame, ties=ties, side_effect=True)
    plain = minimize(loss, np.zeros(5), args=(frame, scale.items), method="BFGS", tol=1e-9)
    found = plain.x[:3] - plain.x[:3].mean()
    np.testing.assert_allclose(scale.score, found, atol=2e-4)
    assert scale.side_effect == pytest.approx(plain.x[3], abs=2e-4)
    assert scale.tie_parameter == pytest.approx(back(plain.x[4]), rel=1e-3)
    assert scale.log_likelihood == pytest.approx(-plain.fun, abs=1e-6)
    assert scale.converged


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(["davidson", "rao-kupper", "half", "drop"]))
def test_invariances(simulate, seed, ties):
    rng = np.random.default_rng(seed)
    frame = simulate(
        np.array([0.3, 0.0, -0.3]), observers=8, contents=6, each=24, nu=0.5, side=0.2, rng=rng
    )
    options = {"ties": ties, "side_effect": True}
    scale = bradley_terry(frame, **options)
    if not scale.estimable.all():
        return
    # Order of rows, names of observers and contents.
    shuffled = frame.sample(frac=1, random_state=0)
    shuffled["observer"] = shuffled["observer"].map(lambda o: f"zz{hash(o) % 7919}{o}")
    other = bradley_terry(shuffled, **options)
    np.testing.assert_allclose(other.score, scale.score, atol=1e-7)
    np.testing.assert_allclose(other.covariance, scale.covariance, atol=1e-7)
    # Names of items.
    new = {"m0": "z", "m1": "y", "m2": "x"}
    renamed = bradley_terry(
        frame.assign(left=frame["left"].map(new), right=frame["right"].map(new)), **options
    )
    np.testing.assert_allclose(renamed.score[::-1], scale.score, atol=1e-7)
    np.testing.assert_array_equal(renamed.rank_low[::-1], scale.rank_low)
    # Swapped sides negate the side effect and change nothing else.
    flip = {"left": "right", "right": "left", "tie": "tie"}
    swapped = bradley_terry(
        frame.assign(left=frame["right"], right=frame["left"], choice=frame["choice"].map(flip)),
        **options,
    )
    np.testing.assert_allclose(swapped.score, scale.score, atol=1e-7)
    assert swapped.side_effect == pytest.approx(-scale.side_effect, abs=1e-7)
    # Twice the data: same scale, half the model's variance.
    one, two = (
        bradley_terry(f, cluster=None, **options) for f in (frame, pd.concat([frame, frame]))
    )
    np.testing.assert_allclose(two.score, one.score, atol=1e-7)
    np.testing.assert_allclose(two.covariance, one.covariance / 2, atol=1e-7)
    counted = bradley_terry(frame.assign(count=2), **options)
    np.testing.assert_allclose(counted.score, scale.score, atol=1e-7)
    np.testing.assert_allclose(counted.covariance, scale.covariance, atol=1e-7)


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_vanishing_ties_lead_to_plain_bradley_terry(ties):
    wins = np.array([[0.0, 8, 5], [4, 0, 9], [6, 3, 0]])
    plain = bradley_terry(PairCounts(wins), ties=ties)
    assert plain.tie_parameter == {"davidson": 0, "rao-kupper": 1}[ties]
    few = bradley_terry(PairCounts(wins, ties=1e-6 * (1 - np.eye(3))), ties=ties)
    np.testing.assert_allclose(few.score, plain.score, atol=1e-5)
    np.testing.assert_allclose(few.covariance, plain.covariance, atol=1e-5)


def test_ties_shrink_when_halved():
    counts = PairCounts([[0, 40], [20, 0]], ties=[[0, 40], [40, 0]])
    davidson, half = bradley_terry(counts), bradley_terry(counts, ties="half")
    assert davidson.score[0] - davidson.score[1] == pytest.approx(np.log(2))
    assert half.score[0] - half.score[1] < np.log(2)
    assert any("shrinks" in text for text in half.warnings)


def test_sandwich_and_bootstrap_agree(simulate):
    rng = np.random.default_rng(5)
    frame = simulate(
        np.array([0.5, 0.0, -0.5]),
        observers=40, contents=30, each=40, observer_sd=0.5, content_sd=0.5, nu=0.4, rng=rng,
    )  # fmt: skip
    for cluster in ("observer", ("observer", "content")):
        sandwich = bradley_terry(frame, cluster=cluster, side_effect=True)
        bootstrap = bradley_terry(frame, cluster=cluster, side_effect=True, n_boot=400, rng=rng)
        a, b = (np.sqrt(np.diagonal(s.covariance)) for s in (sandwich, bootstrap))
        np.testing.assert_allclose(a, b, rtol=0.2)
        ends = [s.side_effect_high - s.side_effect for s in (sandwich, bootstrap)]
        assert ends[0] == pytest.approx(ends[1], rel=0.25)
        np.testing.assert_array_equal(sandwich.score, bootstrap.score)
    assert "bootstrap, 400" in bootstrap.method


def test_intervals_say_what_they_speak_of(simulate):
    frame = simulate(np.array([0.3, -0.3]), rng=np.random.default_rng(6))
    both = bradley_terry(frame)
    assert "new observers and new photographs" in both.method
    one = bradley_terry(frame, cluster="observer")
    assert "these photographs only" in one.method
    missing = bradley_terry(frame.drop(columns="content"))
    assert "these photographs only" in missing.method
    assert any("content" in text for text in missing.warnings)
    assert any("independent" in text for text in bradley_terry(count_pairs(frame)).warnings)


def test_two_way_interval_covers_the_population(simulate):
    # Symmetric effects leave the population difference of two items at 0. The bound is for few
    # simulations; with many, coverage is 93 to 97 %.
    rng = np.random.default_rng(7)
    for observer_sd, content_sd in ((0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.5, 0.5)):
        hits = one_way = 0
        for _ in range(60):
            frame = simulate(
                np.zeros(2), observer_sd=observer_sd, content_sd=content_sd, each=15, rng=rng
            )
            d = bradley_terry(frame).difference("m0", "m1")
            hits += d.low <= 0 <= d.high
            o = bradley_terry(frame, cluster="observer").difference("m0", "m1")
            one_way += o.low <= 0 <= o.high
        assert 52 <= hits <= 60
        if observer_sd == 0 and content_sd > 0:
            assert one_way < 51  # photographs matter, and observers alone cannot tell


def test_ranks():
    clear = bradley_terry(PairCounts([[0, 90, 95], [10, 0, 90], [5, 10, 0]]))
    np.testing.assert_array_equal(clear.rank_low, [1, 2, 3])
    np.testing.assert_array_equal(clear.rank_high, [1, 2, 3])
    unclear = bradley_terry(PairCounts([[0, 6, 9], [5, 0, 8], [1, 2, 0]]))
    assert unclear.rank_low.tolist() == [1, 1, 3]
    assert unclear.rank_high.tolist() == [2, 2, 3]


def frame_of(*votes):
    return pd.DataFrame(votes, columns=["left", "right", "choice"])


def test_a_lone_loser_gets_no_number_but_the_rest_does():
    frame = frame_of(
        *[("a", "gray", "left"), ("b", "gray", "left")] * 4,
        *[("a", "b", "left")] * 3,
        ("a", "b", "right"),
    )
    scale = bradley_terry(frame)
    assert scale.estimable.tolist() == [True, True, False]
    assert scale.score[:2].tolist() == pytest.approx([np.log(3) / 2, -np.log(3) / 2])
    assert any("gray never preferred" in text for text in scale.warnings)
    table = scale.to_frame()
    assert table["item"].tolist() == ["a", "b", "gray"]
    assert table["jod"].iloc[0] - table["jod"].iloc[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (frame_of(), "no decided votes"),
        (frame_of(("a", "b", "tie"), ("b", "a", "tie")), "no decided votes"),
        (frame_of(("a", "b", "skip")), "no decided votes"),
        (frame_of(("a", "b", "left")), "never beaten"),
    ],
)
def test_not_estimable_is_an_answer(frame, text):
    for n_boot in (0, 5):
        scale = bradley_terry(frame, side_effect=True, n_boot=n_boot)
        assert not scale.estimable.any()
        assert np.isnan(scale.score).all()
        assert any(text in warning for warning in scale.warnings)


def test_a_side_that_always_wins_is_no_finite_effect():
    frame = frame_of(("a", "b", "left"), ("b", "a", "left"))
    scale = bradley_terry(frame, side_effect=True)
    assert np.isnan(scale.side_effect)
    assert any("side effect" in text for text in scale.warnings)


def test_only_counted_rows_count():
    frame = frame_of(
        ("a", "b", "left"), ("a", "b", "right"), ("a", "b", "right"), ("a", "b", "left")
    ).assign(
        kind=["test", "test", "gold", "test"], trial=[1, 2, 3, 2], revision=[0, 0, 0, 1],
        attribute="realism",
    )  # fmt: skip
    np.testing.assert_array_equal(count_pairs(frame).wins, [[0, 2], [0, 0]])
    with pytest.raises(InputError, match="several attributes"):
        bradley_terry(frame.assign(attribute=["realism", "period", "realism", "realism"]))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: bradley_terry(pd.DataFrame({"left": ["a"]})), "right"),
        (lambda: bradley_terry(frame_of(("a", "b", "L"))), "choice"),
        (lambda: bradley_terry(frame_of(("a", "a", "left"))), "itself"),
        (lambda: bradley_terry(frame_of(("a", None, "left"))), "no condition"),
        (lambda: bradley_terry(frame_of(("a", "b", None))), "choice"),
        (lambda: bradley_terry(frame_of(("a", "b", "left")).assign(count=-1)), "count"),
        (lambda: bradley_terry(frame_of(("a", "b", "left")), ties="maybe"), "ties"),
        (lambda: thurstone_case_v(frame_of(("a", "b", "left")), ties="davidson"), "ties"),
        (lambda: bradley_terry(PairCounts([[0, 1], [1, 0]]), side_effect=True), "side"),
        (lambda: PairCounts([[0, 1]]), "square"),
        (lambda: PairCounts([[0, -1], [1, 0]]), "negative"),
        (lambda: PairCounts([[0, np.nan], [1, 0]]), "finite"),
        (lambda: PairCounts([[0, 1], [1, 0]], ties=[[0, 1], [0, 0]]), "symmetric"),
        (lambda: PairCounts([[0, 1], [1, 0]], items=["a"]), "items"),
        (lambda: bradley_terry(PairCounts([[0, 1], [1, 0]])).difference(0, 5), "item"),
        (lambda: bradley_terry(PairCounts([[0, 1], [1, 0]]), penalty=-1), "penalty"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(InputError, match=text):
        call()


def test_preference_share(simulate):
    frame = simulate(np.array([1.0, 0.0, -1.0]), nu=0.5, each=60, rng=np.random.default_rng(8))
    direct = frame[frame["left"].isin(["m0", "m2"]) & frame["right"].isin(["m0", "m2"])]
    won = ((direct["left"] == "m0") == (direct["choice"] == "left")) & (direct["choice"] != "tie")
    tied = (direct["choice"] == "tie").sum()
    share = preference_share(frame, "m0", "m2")
    assert share.value == pytest.approx((won.sum() + tied / 2) / len(direct))
    assert 0 <= share.low < share.value < share.high <= 1
    assert preference_share(frame, "m2", "m0").value == pytest.approx(1 - share.value)
    assert preference_share(frame, "m0", "m2", ties="drop").n == len(direct) - tied
    assert not preference_share(frame, "m0", "m9").estimable


def test_a_thousand_resamples_of_fifty_items_spread_as_the_sandwich_says(simulate):
    frame = simulate(np.linspace(-1, 1, 50), observers=100, each=1000, rng=np.random.default_rng(9))
    scale = bradley_terry(
        frame, ties="drop", cluster="observer", n_boot=1000, rng=np.random.default_rng(0)
    )
    assert scale.converged
    sandwich = bradley_terry(frame, ties="drop", cluster="observer")
    resampled, analytic = (np.sqrt(np.diagonal(s.covariance)) for s in (scale, sandwich))
    np.testing.assert_allclose(resampled, analytic, rtol=0.15)


def test_scales_by_stratum(simulate):
    rng = np.random.default_rng(10)
    frame = simulate(np.array([1.0, -1.0]), rng=rng).assign(attribute="realism")
    other = frame.assign(attribute="period", left=frame["right"], right=frame["left"])
    both = pd.concat([frame, other])
    scales = scale_by(both, "attribute", ties="drop")
    assert list(scales) == ["period", "realism"]
    np.testing.assert_allclose(scales["period"].score, -scales["realism"].score, atol=1e-9)
    with pytest.raises(InputError, match="era"):
        scale_by(both, "era")


@pytest.mark.parametrize("kind", ["str", "object", "category", "int"])
def test_labels_of_any_kind(simulate, kind):
    frame = simulate(np.array([0.5, 0.0, -0.5]), rng=np.random.default_rng(11))
    expected = bradley_terry(frame)
    convert = (lambda c: c.str[1:].astype(int)) if kind == "int" else (lambda c: c.astype(kind))
    columns = ["left", "right", "observer", "content"]
    scale = bradley_terry(frame.assign(**{name: convert(frame[name]) for name in columns}))
    np.testing.assert_allclose(scale.score, expected.score, atol=1e-9)
    np.testing.assert_allclose(scale.covariance, expected.covariance, atol=1e-9)
