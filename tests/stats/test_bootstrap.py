from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from percept.errors import InputError
from percept.stats import cluster_mean, mean_difference, proportion_interval


def test_proportion_intervals_published(reference):
    data = reference("proportion_interval")
    for case in data["cases"]:
        for method, expected in case["expected"].items():
            assert proportion_interval(case["k"], case["n"], method) == pytest.approx(
                expected, abs=data["tolerance"]
            ), (case["k"], case["n"], method)


def test_mean_of_independent_values_is_the_t_interval():
    x = np.array([1.0, 2, 4, 7, np.nan])
    estimate = cluster_mean(x)
    assert estimate.value == pytest.approx(3.5)
    assert estimate.std_error == pytest.approx(np.std(x[:4], ddof=1) / 2)
    assert estimate.high - estimate.value == pytest.approx(3.182446 * estimate.std_error)
    assert estimate.n == 4


def test_clusters_of_copies_are_worth_one_value_each():
    x, cluster = np.repeat([1.0, 2, 4, 7], 10), np.repeat(list("abcd"), 10)
    alone = cluster_mean([1.0, 2, 4, 7])
    clustered = cluster_mean(x, pd.DataFrame({"content": cluster}))
    assert clustered.interval == pytest.approx(alone.interval)
    assert cluster_mean(x).std_error < clustered.std_error / 2


def test_weights_are_like_copies():
    x, w = np.array([0.0, 1, 1, 0]), np.array([1, 2, 3, 1])
    labels = pd.DataFrame({"content": list("abcd")})
    copies = cluster_mean(np.repeat(x, w), labels.loc[np.repeat(range(4), w)], share=True)
    weighted = cluster_mean(x, labels, weights=w, share=True)
    assert weighted.value == pytest.approx(copies.value)
    assert weighted.std_error == pytest.approx(copies.std_error)


@pytest.mark.parametrize("sd", [(0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_two_way_mean_covers(sd):
    rng = np.random.default_rng(0)
    o, c = np.divmod(np.arange(20 * 20), 20)
    labels = pd.DataFrame({"observer": o, "content": c})
    hits = 0
    for _ in range(200):
        x = rng.normal(0, sd[0] + 1e-9, 20)[o] + rng.normal(0, sd[1] + 1e-9, 20)[c]
        e = cluster_mean(x + rng.normal(0, sd[2], 400), labels)
        hits += e.low <= 0 <= e.high
    assert 0.91 <= hits / 200 <= 0.99


def test_a_share_of_nothing_has_an_exact_bound_over_photographs():
    labels = pd.DataFrame({"observer": list("abc") * 20, "content": np.repeat(np.arange(20), 3)})
    never = cluster_mean(np.zeros(60), labels, share=True)
    assert (never.value, never.low) == (0, 0)
    assert never.high == pytest.approx(proportion_interval(0, 20, "clopper-pearson")[1])
    always = cluster_mean(np.ones(60), labels, share=True)
    assert always.interval == pytest.approx((1 - never.high, 1))


def test_missing_and_single_clusters_warn():
    estimate = cluster_mean([0.0, 1, 1], pd.DataFrame({"observer": ["a"] * 3}))
    assert any("single observer" in text for text in estimate.warnings)
    assert "independent" in estimate.method


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: proportion_interval(5, 4), "k <= n"),
        (lambda: proportion_interval(0, 0), "k <= n"),
        (lambda: proportion_interval(1, 2, "wald"), "method"),
        (lambda: proportion_interval(1, 2, confidence=0), "confidence"),
        (lambda: cluster_mean([1.0, 2.0], weights=[1.0]), "length"),
        (lambda: cluster_mean([1.0], weights=[-1.0]), "Weights"),
        (lambda: cluster_mean([2.0], share=True), "share"),
        (lambda: cluster_mean([1.0, 0], pd.DataFrame({"observer": ["a", None]})), "observer"),
        (lambda: cluster_mean([1.0], pd.DataFrame({"a": [1], "b": [1], "c": [1]})), "two"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(InputError, match=text):
        call()


def test_no_observations_is_an_answer():
    assert not cluster_mean([np.nan, np.nan]).estimable
    assert np.isnan(cluster_mean([1.0]).low)


@pytest.mark.parametrize("cluster", [("observer",), ("content",), ("observer", "content")])
@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_intervals_cover_what_they_speak_of(cluster, effect):
    """Coarse; ``benchmarks/coverage.py`` shows the shares with their Monte-Carlo error."""
    rng = np.random.default_rng(3)
    observer, content = (part.ravel() for part in np.indices((12, 10)))
    labels = pd.DataFrame({"observer": observer, "content": content})
    hits, runs = 0, 300
    for _ in range(runs):
        taste = rng.normal(0, effect if "observer" in cluster else 0, 12)
        quirk = rng.normal(0, effect if "content" in cluster else 0, 10)
        votes = taste[observer] + quirk[content] + rng.normal(size=observer.size)
        found = cluster_mean(votes, labels, cluster=cluster)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / runs <= 0.985  # 0.95 within three Monte-Carlo errors


def uneven(rng):
    """Answers of 20 people about 25 photographs, half of them by one, who took a fancy to it."""
    observer = np.concatenate(
        [np.arange(20), np.where(rng.random(280) < 0.5, 0, rng.integers(20, size=280))]
    )
    return observer, rng.integers(25, size=observer.size)


def test_who_gives_half_of_all_answers_is_no_crowd():
    rng = np.random.default_rng(4)
    hits, runs = 0, 200
    for _ in range(runs):
        observer, content = uneven(rng)
        x = rng.normal(0, 0.7, 20)[observer] + rng.normal(0, 0.5, 25)[content]
        found = cluster_mean(
            x + rng.normal(size=x.size), pd.DataFrame({"observer": observer, "content": content})
        )
        hits += found.low <= 0 <= found.high
    assert hits / runs >= 0.91  # G / (G - 1) with G - 1 degrees of freedom: 0.75


def answers(one, two, labels=("a", "b")):
    """Frames of two conditions below each other; labels of observers are in the index."""
    return pd.concat([
        pd.DataFrame({"observer": own.index, "condition": name, "score": own.to_numpy()})
        for name, own in zip(labels, (one, two), strict=True)
    ], ignore_index=True)  # fmt: skip


def test_a_difference_is_that_of_paired_answers():
    rng = np.random.default_rng(0)
    cells = pd.MultiIndex.from_product([range(8), range(5)], names=["observer", "content"])
    one = cells.to_frame(index=False).assign(condition="a", score=rng.normal(size=40))
    two = one.assign(condition="b", score=one["score"] - rng.normal(0.3, 0.5, 40))
    found = mean_difference(pd.concat([one, two]), "a", "b")
    paired = cluster_mean(one["score"] - two["score"], one[["observer", "content"]])
    assert found.value == pytest.approx(paired.value)
    assert found.std_error == pytest.approx(paired.std_error)
    assert found.interval == pytest.approx(paired.interval)
    assert found.n == 80
    assert "new observers and new photographs" in found.method


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_a_difference_of_other_people_is_welchs(n, m, seed):
    rng = np.random.default_rng(seed)
    one = pd.Series(rng.normal(size=n), index=[f"x{i}" for i in range(n)])
    two = pd.Series(rng.normal(0, 5, size=m), index=[f"y{i}" for i in range(m)])
    welch = ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
    found = mean_difference(answers(one, two), "a", "b", cluster="observer")
    assert found.interval == pytest.approx((welch.low, welch.high))
    # Order and names of people and conditions do not matter, and sides only change the sign.
    other = answers(two, one, ("b", "a")).sample(frac=1, random_state=1)
    other["observer"] = other["observer"].map(
        {o: i for i, o in enumerate(other["observer"].unique())}
    )
    again = mean_difference(other, "a", "b", cluster="observer")
    assert again.interval == pytest.approx(found.interval)
    back = mean_difference(other, "b", "a", cluster="observer")
    assert (-back.high, -back.low) == pytest.approx(found.interval)


@pytest.mark.parametrize("apart", [False, True])
def test_a_difference_covers_that_of_the_population(apart):
    """The same people judge both, or (two studies of the same photographs) six and forty others."""
    rng = np.random.default_rng(5)
    part, observer, content = (each.ravel() for each in np.indices((2, 46, 20)))
    asked = (observer < 6) == (part == 0) if apart else observer < 12
    part, observer, content = part[asked], observer[asked], content[asked]
    hits, runs = 0, 200
    for _ in range(runs):
        taste, quirk = rng.normal(0, 0.7, (3, 46)), rng.normal(0, 0.5, (3, 20))
        x = taste[2][observer] + taste[part, observer] + quirk[2][content] + quirk[part, content]
        frame = pd.DataFrame({"observer": observer, "content": content, "condition": part,
                              "score": x + rng.normal(size=x.size)})  # fmt: skip
        found = mean_difference(frame, 0, 1)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / runs <= 0.99


def test_a_difference_of_answers_that_never_vary_is_not_certain():
    rows = pd.DataFrame({"observer": [1, 2], "content": [1, 1], "condition": ["a", "b"]})
    rows["score"] = [0.0, 1.0]
    share = mean_difference(rows, "a", "b", share=True)
    assert share.value == -1
    assert share.low < -0.9
    assert share.high > 0
    assert any("single observer" in text for text in share.warnings)
    assert np.isnan(mean_difference(rows, "a", "b").low)
    nothing = mean_difference(rows, "a", "c")
    assert not nothing.estimable
    assert "no answers on c" in nothing.warnings[0]
    with pytest.raises(InputError, match="share"):
        mean_difference(rows.assign(score=2.0), "a", "b", share=True)
    with pytest.raises(InputError, match="score"):
        mean_difference(rows.drop(columns="score"), "a", "b")
    for labels in (None, [1, None]):
        with pytest.raises(InputError, match="observer"):
            mean_difference(rows.assign(observer=labels), "a", "b")


def test_weights_of_photographs_weigh_a_difference():
    rng = np.random.default_rng(6)
    part, observer, content = (each.ravel() for each in np.indices((2, 5, 4)))
    frame = pd.DataFrame({"observer": observer, "content": content, "condition": part,
                          "score": rng.normal(size=part.size)})  # fmt: skip
    weights = pd.Series({0: 3.0, 1: 1.0, 2: 2.0, 3: 1.0})
    copies = frame.loc[np.repeat(frame.index, frame["content"].map(weights).astype(int))]
    one, two = mean_difference(frame, 0, 1, weights=weights), mean_difference(copies, 0, 1)
    assert one.value == pytest.approx(two.value)
    assert one.interval == pytest.approx(two.interval)
