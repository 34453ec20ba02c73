from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.errors import InputError
from percept.stats import (
    better_worse_auc,
    compare_correlations,
    compare_strata,
    different_similar_auc,
    judged_pairs,
    two_afc_score,
)

TESTS = ("williams", "steiger", "meng", "hotelling", "zou")


def test_dependent_correlations_published(reference):
    for case in reference("correlation_tests")["cases"]:
        result = compare_correlations(*case["r"], case["n"], case["test"])
        tol = case["tolerance"]
        for name in ("statistic", "p_value"):
            if name in case:
                assert getattr(result, name) == pytest.approx(case[name], abs=tol), case
        if "interval" in case:
            assert (result.low, result.high) == pytest.approx(case["interval"], abs=tol)


def test_two_afc_published(reference):
    data = reference("two_afc")
    result = two_afc_score(data["d0"], data["d1"], data["preference"])
    assert result.score.value == pytest.approx(data["expected"]["score"])
    assert result.human_ceiling == pytest.approx(data["expected"]["human_ceiling"])
    assert result.score.low < result.score.value < result.score.high
    with pytest.raises(InputError, match="share"):
        two_afc_score([1.0], [2.0], [1.2])
    with pytest.raises(InputError, match="shape"):
        two_afc_score([1.0], [2.0, 3.0], [0.2])
    assert not two_afc_score([], [], []).score.estimable


@given(
    st.lists(st.floats(-0.9, 0.9), min_size=3, max_size=3),
    st.integers(5, 200),
    st.sampled_from(TESTS),
)
def test_swapped_metrics_negate_the_statistic(r, n, test):
    a, b, c = r
    if 1 - a * a - b * b - c * c + 2 * a * b * c < 1e-3:
        return
    one, two = compare_correlations(a, b, c, n, test), compare_correlations(b, a, c, n, test)
    assert one.statistic == pytest.approx(-two.statistic, abs=1e-6)
    assert one.p_value == pytest.approx(two.p_value, abs=1e-6)
    assert (one.statistic > 0) == (a > b) or abs(a - b) < 1e-9
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low), abs=1e-9)
    assert one.low <= a - b <= one.high


@pytest.mark.parametrize("test", TESTS)
def test_level_and_power(test):
    rng = np.random.default_rng(0)
    rejected = np.zeros(2)
    for _ in range(300):
        people = rng.normal(size=50)
        k = people + rng.normal(size=50)
        for i, noise in enumerate((1.0, 3.0)):
            h = people + noise * rng.normal(size=50)
            r = np.corrcoef([people, k, h])
            result = compare_correlations(r[0, 1], r[0, 2], r[1, 2], 50, test)
            rejected[i] += result.p_value < 0.05
    assert 0.02 <= rejected[0] / 300 <= 0.09
    assert rejected[1] / 300 > 0.7


def test_zou_agrees_with_its_interval():
    result = compare_correlations(0.6, 0.3, 0.4, 60, "zou")
    level = 1 - result.p_value
    edge = compare_correlations(0.6, 0.3, 0.4, 60, "zou", confidence=level)
    assert edge.low == pytest.approx(0, abs=1e-9)


def test_impossible_and_degenerate():
    for call in (
        lambda: compare_correlations(0.9, 0.9, -0.9, 30),
        lambda: compare_correlations(1.2, 0, 0, 30),
        lambda: compare_correlations(0.1, 0.2, 0.3, 3),
        lambda: compare_correlations(0.1, 0.2, 0.3, 30, "fisher"),
    ):
        with pytest.raises(InputError):
            call()
    assert np.isnan(compare_correlations(0.5, 0.5, 1.0, 30).p_value)


def brute_auc(score, positive):
    up, down = score[positive], score[~positive]
    return np.mean((up[:, None] > down) + 0.5 * (up[:, None] == down))


def test_aucs():
    rng = np.random.default_rng(1)
    d = np.round(rng.normal(size=80), 1)
    better = rng.random(80) < 1 / (1 + np.exp(-2 * d))
    different = rng.random(80) < np.abs(d) / 2
    ds, bw = different_similar_auc(d, different), better_worse_auc(d, better)
    assert ds.value == pytest.approx(brute_auc(np.abs(d), different))
    both, truth = np.r_[d, -d], np.r_[better, ~better]
    assert bw.value == pytest.approx(brute_auc(both, truth))
    assert ds.low < ds.value < ds.high
    # Which of a pair is called first means nothing.
    flip = rng.random(80) < 0.5
    flipped = better_worse_auc(np.where(flip, -d, d), better ^ flip)
    assert flipped.value == pytest.approx(bw.value)
    assert flipped.interval == pytest.approx(bw.interval)
    # Copies in a cluster are no new evidence.
    groups = np.arange(80)
    one = different_similar_auc(d, different, cluster=groups)
    copies = different_similar_auc(np.tile(d, 3), np.tile(different, 3), cluster=np.tile(groups, 3))
    assert copies.interval == pytest.approx(one.interval, abs=0.003)
    assert not different_similar_auc(d, np.zeros(80, bool)).estimable
    with pytest.raises(InputError):
        better_worse_auc(d, better[:5])


def test_auc_interval_covers():
    rng = np.random.default_rng(2)
    truth = 0.7602499389  # Phi(1 / sqrt(2))
    hits = 0
    for _ in range(200):
        kind = rng.random(80) < 0.5
        score = np.abs(rng.normal(size=80) + kind + 10)
        e = different_similar_auc(score, kind)
        hits += e.low <= truth <= e.high
    assert 178 <= hits <= 199


def test_pairs_from_votes(simulate):
    rng = np.random.default_rng(3)
    votes = simulate(np.array([1.5, 0.0, 0.0]), observers=40, contents=5, each=60, rng=rng)
    index = pd.MultiIndex.from_product([[f"c{i}" for i in range(5)], ["m0", "m1", "m2"]])
    metric = pd.Series(np.tile([3.0, 1.0, 0.9], 5), index=index)
    pairs = judged_pairs(metric, votes)
    assert len(pairs) == 15
    clear = (pairs["a"] == "m0").to_numpy()
    assert pairs.loc[clear, "different"].all()
    assert pairs.loc[~clear, "different"].mean() < 0.5
    own = votes[(votes["content"] == "c2") & votes["left"].isin(["m0", "m1"])
                & votes["right"].isin(["m0", "m1"])]  # fmt: skip
    row = pairs[(pairs["content"] == "c2") & (pairs["b"] == "m1")].iloc[0]
    won = ((own["left"] == "m0") == (own["choice"] == "left")).mean()
    assert (row["votes"], row["share"]) == (len(own), pytest.approx(won))
    assert different_similar_auc(pairs["difference"], pairs["different"]).value > 0.8
    told = pairs[pairs["different"]]
    assert better_worse_auc(told["difference"], told["better"]).value > 0.8
    assert judged_pairs(metric, votes.iloc[:0]).empty


def test_strata():
    rng = np.random.default_rng(4)
    x = rng.normal(size=300)
    labels = np.repeat(["grain", "dust", "fading"], 100)
    same = x + rng.normal(size=300)
    _, alike = compare_strata(x, same, labels)
    noise = np.where(labels == "dust", 6.0, 1.0)
    estimates, unlike = compare_strata(x, x + noise * rng.normal(size=300), labels)
    assert alike.p_value > 0.01 > unlike.p_value
    assert unlike.degrees_of_freedom == 2
    assert estimates["dust"].value < 0.4 < estimates["grain"].value
    groups = np.arange(300) // 5
    _, clustered = compare_strata(x, same, labels, cluster=groups, n_boot=200, rng=rng)
    assert 0 < clustered.p_value < 1
    _, single = compare_strata(x, same, np.repeat("all", 300))
    assert "fewer than two strata" in single.warnings[0]
