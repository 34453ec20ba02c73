from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from percept.errors import InputError
from percept.stats import (
    bradley_terry,
    correlate,
    correlate_many,
    predict_choices,
    stimulus_wins,
)
from percept.stats.correlation import _rank_coefficients, _Ranked, _Stimuli

seeds = st.integers(0, 2**32 - 1)


def logistic4(x, a, b, c, s):
    return a + (b - a) / (1 + np.exp(-(x - c) / np.abs(s)))


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_coefficients_are_scipy_s(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(7, 40))
    x, y = rng.integers(0, 9, n) * 1.0, rng.integers(0, 6, n) * 1.0
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return
    c = correlate(x, y)
    assert c.plcc_raw.value == pytest.approx(scipy.stats.pearsonr(x, y)[0], abs=1e-10)
    assert c.srocc.value == pytest.approx(scipy.stats.spearmanr(x, y)[0], abs=1e-10)
    assert c.krocc.value == pytest.approx(scipy.stats.kendalltau(x, y)[0], abs=1e-10)
    assert abs(c.plcc.value) >= abs(c.plcc_raw.value) - 1e-4  # a fit cannot be worse than a line


@pytest.mark.parametrize("direction", [1, -1])
def test_logistic_fit_is_curve_fit_s(direction):
    rng = np.random.default_rng(0)
    x = rng.uniform(15, 45, 150)
    y = logistic4(direction * x, 1, 5, direction * 28, 3) + rng.normal(0, 0.2, 150)
    c = correlate(x, y)
    best, _ = curve_fit(logistic4, x, y, p0=[y.min(), y.max(), 28, direction * 3], maxfev=9999)
    if direction < 0:
        best, _ = curve_fit(logistic4, x, y, p0=[5, 1, 28, 3], maxfev=9999)
    fitted = logistic4(x, *best)
    assert c.rmse.value == pytest.approx(np.sqrt(np.mean((y - fitted) ** 2)), rel=1e-5)
    assert c.plcc.value == pytest.approx(direction * np.corrcoef(fitted, y)[0, 1], abs=1e-5)
    assert abs(c.plcc.value) > abs(c.plcc_raw.value)
    np.testing.assert_allclose(c.fit_parameters[2:], [best[2], abs(best[3])], rtol=1e-3)
    assert c.warnings == ()


def test_without_fit_and_outliers():
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    c = correlate(x, y, fit=None)
    line = np.polyval(np.polyfit(x, y, 1), x)
    assert c.rmse.value == pytest.approx(np.sqrt(np.mean((y - line) ** 2)))
    assert c.plcc.value == c.plcc_raw.value
    assert not c.outlier_ratio.estimable
    few, many = (
        correlate(x, y, human_error=np.full(60, e)).outlier_ratio.value for e in (2.0, 0.1)
    )
    assert few < 0.1 < many


def test_non_finite_and_excluded_are_counted():
    x = np.r_[np.inf, np.nan, np.arange(20.0)]
    y = np.r_[1.0, 1.0, np.arange(20.0) ** 2]
    c = correlate(x, y, exclude=np.r_[[False] * 21, True])
    assert (c.n, c.n_excluded) == (19, 3)
    assert c.srocc.value == pytest.approx(1)


def test_within_groups_is_the_mean_of_groups():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(12), 5)
    # Between photographs the metric is right; inside them it is useless.
    x = groups + rng.normal(0, 0.1, 60)
    y = groups + rng.normal(0, 0.1, 60)
    c = correlate(x, y, within=groups, cluster=groups, n_boot=200, rng=rng)
    means = [scipy.stats.spearmanr(x[groups == g], y[groups == g])[0] for g in range(12)]
    assert c.srocc.value == pytest.approx(np.mean(means))
    assert c.n_groups == 12
    assert c.srocc.low < 0 < c.srocc.high
    assert correlate(x, y).srocc.value > 0.9
    flat = correlate(np.where(groups == 0, 1.0, x), y, within=groups)
    assert flat.n_groups == 11
    assert any("without variation" in text for text in flat.warnings)


def population(rng, *, contents=25, conditions=4, observers=25):
    """True correlation of metric and quality is 0.6, in and between photographs."""
    n = contents * conditions
    quality = np.sqrt(0.3) * np.repeat(rng.normal(size=contents), conditions)
    quality = quality + np.sqrt(0.7) * rng.normal(size=n)
    metric = 0.6 * quality + 0.8 * rng.normal(size=n)
    ratings = quality + rng.normal(0, 0.3, (observers, n)) + rng.normal(0, 0.5, (observers, 1))
    return metric, ratings, np.repeat(np.arange(contents), conditions)


def test_two_way_intervals_cover():
    rng = np.random.default_rng(3)
    hits = np.zeros(2)
    for _ in range(60):
        metric, ratings, content = population(rng)
        c = correlate(metric, ratings, cluster=content, fit=None, n_boot=60, rng=rng)
        # Means of 25 ratings of error 0.3 attenuate the correlation by little.
        truth = 0.6 / np.sqrt(1 + 0.09 / 25)
        hits[0] += c.plcc_raw.low <= truth <= c.plcc_raw.high
        hits[1] += c.srocc.low <= 6 / np.pi * np.arcsin(truth / 2) <= c.srocc.high
    assert (hits / 60 >= 0.87).all()
    assert "new observers and new photographs" in c.srocc.method
    alone = correlate(metric, ratings, n_boot=50, rng=rng)
    assert "these photographs only" in alone.srocc.method


def test_degenerate_fits_say_so():
    x = np.linspace(0, 1, 30)
    assert any("near linear" in text for text in correlate(x, 3 * x).warnings)
    few = correlate(x[:5], x[:5] ** 2)
    assert any("without a fit" in text for text in few.warnings)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1.0, 2], [2.0, 1]), ([1.0] * 9, range(9)), (range(9), [2.0] * 9)]
)
def test_no_variation_is_an_answer(x, y):
    for n_boot in (0, 5):
        c = correlate(x, y, n_boot=n_boot)
        assert not c.srocc.estimable
        assert "not estimable" in c.warnings[0]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: correlate([1.0, 2], [1.0]), "stimuli"),
        (lambda: correlate([1.0, 2], [1.0, 2], within=["a"]), "within"),
        (lambda: correlate([1.0, 2], [1.0, 2], fit="cubic"), "fit"),
        (lambda: correlate([1.0, 2], [1.0, 2], n_boot=-1), "n_boot"),
        (lambda: predict_choices(pd.DataFrame({"value": [1]}), pd.DataFrame()), "content"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(InputError, match=text):
        call()


# -- choices ------------------------------------------------------------------------------------


@pytest.fixture
def panel(simulate):
    rng = np.random.default_rng(4)
    votes = simulate(
        np.array([1.0, 0.0, -1.0]), observers=30, contents=10, each=60, content_sd=0.5,
        nu=0.3, rng=rng,
    )  # fmt: skip
    index = pd.MultiIndex.from_product(
        [[f"c{i}" for i in range(10)], ["m0", "m1", "m2"]], names=["content", "condition"]
    )
    return votes, pd.Series(np.tile([1.0, 0.0, -1.0], 10), index=index)


def test_predicted_choices(panel):
    votes, truth = panel
    good = predict_choices(truth, votes)
    decided = votes[votes["choice"] != "tie"]
    rank = {"m0": 0, "m1": 1, "m2": 2}
    right = (decided["left"].map(rank) < decided["right"].map(rank)) == (
        decided["choice"] == "left"
    )
    assert good.accuracy.value == pytest.approx(right.mean())
    assert good.n == len(decided)
    assert good.n_ties == len(votes) - len(decided)
    assert good.log_loss.value < good.baseline_log_loss
    assert good.slope > 0
    # The same metric upside down, declared so, is the same metric.
    down = predict_choices(-truth, votes, higher_is_better=False)
    assert down.accuracy == good.accuracy
    assert down.slope == pytest.approx(-good.slope)
    # Against its direction a metric earns what a coin earns.
    against = predict_choices(-truth, votes)
    assert against.accuracy.value == pytest.approx(1 - good.accuracy.value)
    assert against.log_loss.value == pytest.approx(np.log(2))
    # People predict each other better than a metric blind to photographs does.
    assert good.human_log_loss.value < good.log_loss.value
    assert good.human_agreement.value < good.human_accuracy.value


def test_choices_without_metric_values_are_counted(panel):
    votes, truth = panel
    part = truth.drop([("c0", "m0")])
    part[("c1", "m1")] = np.inf
    result = predict_choices(part, votes)
    gone = (votes["content"] == "c0") & ((votes["left"] == "m0") | (votes["right"] == "m0"))
    gone |= (votes["content"] == "c1") & ((votes["left"] == "m1") | (votes["right"] == "m1"))
    assert result.n_missing == gone.sum()
    gray = votes.replace({"m2": "gray"})
    anchored = predict_choices(truth, gray)
    assert anchored.n_anchor == ((gray["left"] == "gray") | (gray["right"] == "gray")).sum()
    assert predict_choices(truth * 0, votes).accuracy.value == 0.5


def test_metric_frames(panel):
    votes, truth = panel
    frame = truth.rename("value").reset_index().rename(columns={"content": "content_id"})
    assert predict_choices(frame.assign(metric="psnr"), votes).accuracy == (
        predict_choices(truth, votes).accuracy
    )
    with pytest.raises(InputError, match="several metrics"):
        predict_choices(pd.concat([frame.assign(metric=m) for m in ("psnr", "ssim")]), votes)
    with pytest.raises(InputError, match="two values"):
        predict_choices(pd.concat([frame, frame]), votes)


def test_human_agreement_is_of_others():
    votes = pd.DataFrame(
        {
            "observer": ["a", "b", "c", "d"],
            "content": "c",
            "left": ["x", "y", "x", "x"],
            "right": ["y", "x", "y", "y"],
            "choice": ["left", "right", "left", "right"],  # x, x, x, y
        }
    )
    metric = pd.DataFrame({"content": "c", "condition": ["x", "y"], "value": [1.0, 0.0]})
    result = predict_choices(metric, votes)
    assert result.human_agreement.value == pytest.approx((3 * 2 / 3 + 0) / 4)
    assert result.human_accuracy.value == pytest.approx(3 / 4)
    assert result.human_log_loss.value == pytest.approx(
        (3 * -np.log(2.5 / 4) - np.log(0.5 / 4)) / 4
    )
    alone = predict_choices(metric, votes.iloc[:1])
    assert not alone.human_agreement.estimable
    assert not alone.log_loss.estimable


def test_stimulus_wins(panel):
    votes, _ = panel
    wins = stimulus_wins(votes)
    assert wins.shape == (30, 30)
    own = votes[(votes["content"] == "c3") & (votes["observer"] == "o7")]
    as_left, as_right = own[own["left"] == "m1"], own[own["right"] == "m1"]
    score = {"left": 1.0, "tie": 0.5, "right": 0.0}
    expected = [score[c] for c in as_left["choice"]] + [1 - score[c] for c in as_right["choice"]]
    assert wins.loc[("c3", "m1"), "o7"] == pytest.approx(np.mean(expected), nan_ok=True)
    scale = bradley_terry(votes).score
    mean = wins.mean(axis=1).groupby("condition").mean()
    assert np.corrcoef(scale, mean)[0, 1] > 0.99
    assert stimulus_wins(votes.iloc[:0]).empty


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 4)), min_size=25, max_size=70),
    st.integers(0, 2),
)
def test_rank_coefficients_by_sorting_are_scipys(pairs, digits):
    x, y = np.array(pairs, dtype=float).T
    x = np.round(x / 3, digits)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return
    c = correlate(x, y, fit=None)
    assert c.srocc.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert c.krocc.value == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_weight_is_a_number_of_copies(grouped):
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 9, 40).astype(float), rng.integers(0, 5, 40).astype(float)
    cluster, group = rng.integers(0, 8, 40), np.arange(40) % 4 if grouped else None
    weights = rng.integers(1, 4, (3, 8)).astype(float)
    line = np.full((1, 4), np.nan)
    weighted = _Stimuli(x[None], group, None, line).of_weights(weights, cluster, y)[:, 0]
    for row, w in zip(weighted, weights, strict=True):
        copies = np.repeat(np.arange(40), w[cluster].astype(int))
        expected = _Stimuli(x[None, copies], None, None, line).of_scores(y[copies][None])[0, 0]
        if grouped:  # groups count by their weight, not alike
            own = group[copies]
            parts = [(x[copies][own == g], y[copies][own == g]) for g in range(4)]
            each = [_Stimuli(a[None], None, None, line).of_scores(b[None])[0, 0] for a, b in parts]
            expected = np.average(each, axis=0, weights=[len(a) for a, _ in parts])
        np.testing.assert_allclose(row[:4], expected[:4], atol=1e-12)


@pytest.mark.parametrize("m", [8, 60, 5_000])
def test_ranks_by_signs_bits_and_sorting_are_scipys(m):
    rng = np.random.default_rng(m)
    x = np.stack([rng.normal(size=m), rng.integers(0, m // 3, m)]).astype(float)
    y = np.stack([rng.normal(size=m), rng.integers(0, 4, m), x[1]]).astype(float)
    spearman, kendall = _rank_coefficients(_Ranked.of(x[:, None]), _Ranked.of(y[:, None]))
    for i, j in np.ndindex(2, 3):
        expected = scipy.stats.spearmanr(x[i], y[j]), scipy.stats.kendalltau(x[i], y[j])
        found = spearman[j, i, 0], kendall[j, i, 0]
        np.testing.assert_allclose(found, [e.statistic for e in expected], atol=1e-12)


def test_resamples_are_fitted_as_from_scratch():
    rng = np.random.default_rng(7)
    x = rng.normal(0, 2, 80)
    y = logistic4(x, 1, 5, 0, 1) + rng.normal(0, 0.7, 80)
    line = np.full((1, 4), np.nan)
    data = _Stimuli(x[None], None, None, line).with_fits(y)[0]
    weights = rng.standard_exponential((4, 80))
    ours = data.of_weights(weights, np.arange(80), y)[:, 0]
    scores = y + rng.normal(0, 0.5, (4, 80))
    also = data.of_scores(scores)[:, 0]
    for row in range(4):
        best, _ = curve_fit(
            logistic4, x, y, p0=[1, 5, 0, 1], sigma=1 / np.sqrt(weights[row]), maxfev=9999
        )
        mean = np.average((y - logistic4(x, *best)) ** 2, weights=weights[row])
        assert ours[row, 4] == pytest.approx(np.sqrt(mean), rel=1e-5)
        best, _ = curve_fit(logistic4, x, scores[row], p0=[1, 5, 0, 1], maxfev=9999)
        fitted = logistic4(x, *best)
        assert also[row, 4] == pytest.approx(
            np.sqrt(np.mean((scores[row] - fitted) ** 2)), rel=1e-5
        )
        assert also[row, 0] == pytest.approx(np.corrcoef(fitted, scores[row])[0, 1], abs=1e-4)


@pytest.mark.parametrize("inside", [False, True])
def test_many_metrics_are_each_alone(inside):
    rng = np.random.default_rng(6)
    metric, ratings, content = population(rng, contents=12)
    table = pd.DataFrame({"a": metric, "b": -(metric**3), "c": rng.normal(size=48), "d": 1.0})
    table.loc[3, "b"] = np.nan
    options = {"within": content, "fit": None} if inside else {}
    options |= {"cluster": content, "n_boot": 20}
    many = correlate_many(table, ratings, rng=np.random.default_rng(1), **options)
    assert list(many) == list(table)
    for name in table:
        alone = correlate(table[name], ratings, rng=np.random.default_rng(1), **options)
        assert many[name].n_excluded == alone.n_excluded == (name == "b")
        assert many[name].warnings == alone.warnings
        for part in ("plcc", "plcc_raw", "srocc", "krocc", "rmse"):
            one, two = getattr(many[name], part), getattr(alone, part)
            np.testing.assert_allclose((one.value, *one.interval), (two.value, *two.interval))
    with pytest.raises(InputError, match="same name"):
        correlate_many(pd.concat([table, table], axis=1), ratings)
