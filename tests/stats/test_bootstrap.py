from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from percept.errors import InputError
from percept.stats import cluster_mean, proportion_interval


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
