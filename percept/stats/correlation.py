"""Metrics against people: choices predicted, coefficients with honest intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from percept.errors import InputError
from percept.stats.bootstrap import (
    Estimate,
    FloatArray,
    bootstrap_draws,
    check_confidence,
    check_magnitude,
    check_resamples,
    cluster_mean,
    cluster_sums,
    combine,
    critical_value,
    float_array,
    inflate,
    not_estimable,
)
from percept.stats.frames import IntArray, codes_of, counted_rows, distinct_codes, sides_of
from percept.types import GRAY, REFERENCE

ANCHORS = (GRAY, REFERENCE)


@dataclass(frozen=True)
class ChoicePrediction:
    """How well differences of a metric within a photograph predict what people choose.

    Attributes
    ----------
    accuracy : Estimate
        Share of decided votes for the stimulus that the metric calls better; equal values: half.
    log_loss : Estimate
        Mean negative log-likelihood, in nats, of the votes under a logistic of the metric's
        difference, its slope fitted (never against the metric's direction) on other photographs.
        ``baseline_log_loss`` is that of a coin.
    slope : float
        Log-odds per unit of the metric, on all photographs.
    human_accuracy : Estimate
        The ceiling: the same votes predicted by the majority of the *other* people who saw the
        same pair; an even split counts half.
    human_agreement : Estimate
        One person predicted by one other.
    human_log_loss : Estimate
        As ``log_loss``, from the smoothed share (wins + 1/2) / (votes + 1) of the other people.
    n, n_ties, n_equal : int
        Decided votes used; ties, which take no part; votes between equal metric values.
    n_anchor, n_missing : int
        Votes left out because they show an anchor or reference, or lack a finite metric value.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    accuracy: Estimate
    log_loss: Estimate
    slope: float
    human_accuracy: Estimate
    human_agreement: Estimate
    human_log_loss: Estimate
    n: int
    n_ties: int
    n_equal: int
    n_anchor: int
    n_missing: int
    warnings: tuple[str, ...] = ()
    baseline_log_loss: float = float(np.log(2))


def predict_choices(
    metric: pd.DataFrame | pd.Series,
    comparisons: pd.DataFrame,
    *,
    higher_is_better: bool = True,
    exclude: Sequence[str] = ANCHORS,
    cluster: str | Sequence[str] | None = ("observer", "content"),
    confidence: float = 0.95,
) -> ChoicePrediction:
    """Predict pair votes from a metric; the primary measure of a metric for paired studies.

    Parameters
    ----------
    metric : DataFrame or Series
        ``content`` (or ``content_id``), ``condition``, ``value`` of one metric, one row per
        stimulus; or a Series indexed by (content, condition).
    comparisons : DataFrame
        Tidy frame of pair votes, with ``content``.
    higher_is_better : bool
        Direction of the metric.
    exclude : sequence of str
        Conditions whose votes are left out: anchors and references would flatter every metric.
    cluster, confidence
        Of the intervals, as for :func:`percept.stats.bradley_terry`.

    Raises
    ------
    InputError
        If the metric frame holds several metrics or a stimulus twice, or votes lack a column.
    """
    check_confidence(confidence)
    values = metric_values(metric)
    rows = counted_rows(comparisons, ("content", "left", "right", "choice"))
    rows = rows[rows["choice"].isin(("left", "right", "tie")).to_numpy()]
    anchored = (rows["left"].isin(exclude) | rows["right"].isin(exclude)).to_numpy()
    rows = rows[~anchored]
    lookup = [
        values.reindex(pd.MultiIndex.from_arrays([rows["content"], rows[side]])).to_numpy(float)
        for side in ("left", "right")
    ]
    with np.errstate(invalid="ignore"):
        difference = (lookup[0] - lookup[1]) * (1 if higher_is_better else -1)
    finite = np.isfinite(difference)
    ties = (rows["choice"] == "tie").to_numpy()
    used = finite & ~ties
    rows, d = rows[used], difference[used]
    chose_left = (rows["choice"] == "left").to_numpy(dtype=float)
    warnings: list[str] = []

    def mean(values: FloatArray, method: str, share: bool) -> Estimate:
        result = cluster_mean(
            values, rows, cluster=cluster or (), share=share, confidence=confidence, method=method
        )
        return replace(result, low=max(result.low, 0.0))

    correct = np.where(d == 0, 0.5, (d > 0) == (chose_left == 1))
    content = codes_of(rows["content"])[0]
    loss, slope = _held_out_loss(d, chose_left, content)
    if len(d) and not np.isfinite(loss).any():
        warnings.append("a single photograph: no held-out log-loss")
    others, total = _votes_of_others(rows, chose_left)
    with np.errstate(divide="ignore", invalid="ignore"):
        majority = np.where(total > 0, (1 + np.sign(others - (total - others))) / 2, np.nan)
        fellow = np.where(total > 0, others / total, np.nan)
        smoothed = np.where(total > 0, -np.log((others + 0.5) / (total + 1)), np.nan)
    if len(d) and not (total > 0).any():
        warnings.append("no pair was judged by two people: the human ceiling is unknown")
    if abs(slope) < 1e-12 and len(d):
        warnings.append("the metric predicts no better than chance in its own direction")
    return ChoicePrediction(
        accuracy=mean(correct, "share of votes that the metric predicts", True),
        log_loss=mean(loss, "log-loss on photographs held out", False),
        slope=slope * (1 if higher_is_better else -1),
        human_accuracy=mean(majority, "share of votes that the other people predict", True),
        human_agreement=mean(fellow, "share of votes that one other person predicts", True),
        human_log_loss=mean(smoothed, "log-loss of the other people", False),
        n=len(d),
        n_ties=int((ties & finite).sum()),
        n_equal=int((d == 0).sum()),
        n_anchor=int(anchored.sum()),
        n_missing=int((~finite).sum()),
        warnings=tuple(warnings),
    )


def metric_values(metric: pd.DataFrame | pd.Series) -> pd.Series:
    """Values of one metric indexed by (content, condition); see :func:`predict_choices`."""
    if isinstance(metric, pd.Series):
        values = metric
    else:
        content = "content" if "content" in metric.columns else "content_id"
        for column in (content, "condition", "value"):
            if column not in metric.columns:
                raise InputError("The metric frame lacks a column", column=column)
        names = sorted(map(str, metric["metric"].unique())) if "metric" in metric else []
        if len(names) > 1:
            raise InputError("The frame holds several metrics", column="metric", value=names,
                             remedy="Analyse one at a time")  # fmt: skip
        values = metric.set_index([content, "condition"])["value"]
    if values.index.has_duplicates:
        raise InputError(
            "A stimulus has two values of the metric",
            value=tuple(values.index[values.index.duplicated()][0]),
        )
    return values


def _votes_of_others(rows: pd.DataFrame, chose_left: FloatArray) -> tuple[FloatArray, FloatArray]:
    """For each vote: how many others chose the same stimulus of the same pair, of how many."""
    left, right, conditions = sides_of(rows)
    k = max(len(conditions), 1)
    content = codes_of(rows["content"])[0]
    pair = (content * k + np.minimum(left, right)) * k + np.maximum(left, right)
    _, pair = distinct_codes(pair, (content.max(initial=-1) + 1) * k * k)
    first = np.where(left < right, chose_left, 1 - chose_left)
    # Of an observer's own repeats none counts as another person.
    observer = codes_of(rows["observer"])[0] if "observer" in rows else np.arange(len(rows))
    _, own = np.unique(pair * (observer.max(initial=0) + 1) + observer, return_inverse=True)
    votes = np.bincount(pair)[pair] - np.bincount(own)[own]
    firsts = np.bincount(pair, first)[pair] - np.bincount(own, first)[own]
    return np.where(first == 1, firsts, votes - firsts), votes.astype(float)


def _held_out_loss(
    difference: FloatArray, chose_left: FloatArray, content: IntArray
) -> tuple[FloatArray, float]:
    """Loss of each vote under the slope of the other photographs (n,), and the slope of all."""
    n_contents = int(content.max(initial=-1)) + 1
    scale = float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0
    if not scale:
        return np.full(difference.size, np.log(2) if difference.size else np.nan), 0.0
    signed = np.where(chose_left == 1, difference, -difference) / scale
    folds = min(n_contents, 20)
    fold = content % folds
    loss = np.full(signed.size, np.nan)
    if folds > 1:
        for held in range(folds):
            out = fold == held
            loss[out] = -special.log_expit(_slope(signed[~out]) * signed[out])
    return loss, _slope(signed) / scale


def _slope(signed: FloatArray) -> float:
    """Maximise sum(log_expit(b * signed)) - b²/200 over b >= 0; the prior keeps b finite."""
    b = 0.0
    if signed.sum() <= 0:
        return b
    for _ in range(100):
        p = special.expit(-b * signed)
        step = ((signed * p).sum() - b / 100) / ((signed**2 * p * (1 - p)).sum() + 1 / 100)
        b += float(np.clip(step, -1, 1))
        if abs(step) < 1e-9:
            break
    return max(b, 0.0)


def stimulus_wins(comparisons: pd.DataFrame, *, exclude: Sequence[str] = ANCHORS) -> pd.DataFrame:
    """Share of its comparisons that each stimulus won, by observer.

    Parameters
    ----------
    comparisons : DataFrame
        Tidy frame of pair votes with ``observer`` and ``content``.
    exclude : sequence of str
        Votes that show one of these conditions are left out.

    Returns
    -------
    DataFrame (stimuli, observers)
        Indexed by (content, condition); ties count half; NaN where an observer did not see the
        stimulus. Its transpose is a rating array; ``.mean(axis=1)`` the score of a stimulus.
    """
    rows = counted_rows(comparisons, ("observer", "content", "left", "right", "choice"))
    rows = rows[rows["choice"].isin(("left", "right", "tie")).to_numpy()]
    rows = rows[~(rows["left"].isin(exclude) | rows["right"].isin(exclude)).to_numpy()]
    left = rows["choice"].map({"left": 1.0, "tie": 0.5, "right": 0.0}).astype(float)
    long = pd.concat(
        [
            pd.DataFrame(
                {
                    "content": rows["content"],
                    "condition": rows[side],
                    "observer": rows["observer"],
                    "won": won,
                }
            )
            for side, won in (("left", left), ("right", 1 - left))
        ]
    )
    return long.pivot_table(index=["content", "condition"], columns="observer", values="won")


# -- correlation --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Agreement of a metric with the people's scores.

    Attributes
    ----------
    plcc : Estimate
        Pearson's coefficient after the monotone fit; sign as in the data.
    plcc_raw, srocc, krocc : Estimate
        Pearson, Spearman (mid-ranks), Kendall's tau-b, without a fit.
    rmse : Estimate
        Root of the mean (over N) squared residual of the fit, in units of the human scores.
    outlier_ratio : Estimate
        Share of stimuli more than two standard errors of the human score away from the fit; not
        estimable without ``human_error``.
    n, n_excluded, n_groups : int
        Stimuli used; left out as excluded, missing or infinite; groups averaged (0: pooled).
    fit_parameters : array (4,)
        Lower and upper level, centre and slope scale of the logistic; NaN without a fit.
    warnings : tuple of str
        Doubts that a reader has to know.
    """

    plcc: Estimate
    plcc_raw: Estimate
    srocc: Estimate
    krocc: Estimate
    rmse: Estimate
    outlier_ratio: Estimate
    n: int
    n_excluded: int
    n_groups: int
    fit_parameters: FloatArray
    warnings: tuple[str, ...] = ()


_COEFFICIENTS = ("plcc", "plcc_raw", "srocc", "krocc", "rmse", "outlier_ratio")


def correlate(
    metric: npt.ArrayLike,
    human: npt.ArrayLike,
    *,
    within: npt.ArrayLike | None = None,
    human_error: npt.ArrayLike | None = None,
    fit: Literal["logistic4"] | None = "logistic4",
    exclude: npt.ArrayLike | None = None,
    cluster: npt.ArrayLike | None = None,
    n_boot: int = 0,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> Correlation:
    """Correlate a metric with human scores.

    Parameters
    ----------
    metric : array_like (stimuli,)
        Metric values. Non-finite ones are excluded, and counted.
    human : array_like (stimuli,) or (observers, stimuli)
        Scores; or the ratings that they are means of, NaN missing, so that observers can be
        resampled too.
    within : array_like (stimuli,), optional
        Labels, usually the photograph: coefficients inside each group, averaged over groups with
        variation. The fit and the RMSE stay pooled.
    human_error : array_like (stimuli,), optional
        Standard errors of the scores, for the outlier ratio.
    fit : {"logistic4"} or None
        Monotone four-parameter logistic, by least squares from several starts; None: no fit.
    exclude : array_like of bool (stimuli,), optional
        Stimuli to leave out, such as references and anchors.
    cluster : array_like (stimuli,), optional
        Labels of stimuli that depend on each other, usually the photograph.
    n_boot : int
        Resamples for each term of the interval. 0: Fisher's z for independent stimuli (Bonett &
        Wright 2000), and no interval where stimuli are grouped or clustered.
    confidence, rng
        Of the intervals.

    Notes
    -----
    Ratings and clusters: intervals speak of new observers and new photographs, with the variance
    of cluster resampling plus what observers add to single votes. Ratings alone: of these
    photographs only. Coefficients get their interval on Fisher's z, the RMSE on a log scale.
    """
    return correlate_many(
        {"metric": metric}, human, within=within, human_error=human_error, fit=fit,
        exclude=exclude, cluster=cluster, n_boot=n_boot, confidence=confidence, rng=rng,
    )["metric"]  # fmt: skip


def correlate_many(
    metrics: pd.DataFrame | Mapping[Any, npt.ArrayLike],
    human: npt.ArrayLike,
    *,
    within: npt.ArrayLike | None = None,
    human_error: npt.ArrayLike | None = None,
    fit: Literal["logistic4"] | None = "logistic4",
    exclude: npt.ArrayLike | None = None,
    cluster: npt.ArrayLike | None = None,
    n_boot: int = 0,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> dict[Any, Correlation]:
    """Correlate several metrics with the same human scores.

    Resamples are drawn and ranked once for all metrics, which takes a fraction of the time of one
    call of :func:`correlate` for each, and gives the same numbers as those with the same ``rng``.

    Parameters
    ----------
    metrics : DataFrame (stimuli, metrics) or mapping of array_like (stimuli,)
        Values by the metric's name. Of each metric non-finite ones are excluded, and counted.
    human, within, human_error, fit, exclude, cluster, n_boot, confidence, rng
        As for :func:`correlate`.

    Returns
    -------
    dict of Correlation
        By name, in the given order.
    """
    check_confidence(confidence)
    generator = check_resamples(n_boot, rng)
    if fit not in ("logistic4", None):
        raise InputError("Unknown fit", key="fit", value=fit)
    if isinstance(metrics, pd.DataFrame) and not metrics.columns.is_unique:
        twice = metrics.columns[metrics.columns.duplicated()][0]
        raise InputError("Two metrics have the same name", column=twice)
    ratings = float_array(human, "human")
    table = {name: float_array(values, "metric") for name, values in metrics.items()}
    for x in table.values():
        if x.ndim != 1 or ratings.ndim not in (1, 2) or ratings.shape[-1] != x.size:
            raise InputError(
                "metric is (stimuli,), human (stimuli,) or (observers, stimuli)",
                value=(x.shape, ratings.shape),
            )
        check_magnitude(x, "metric")
    check_magnitude(ratings, "human")
    n = ratings.shape[-1] if ratings.ndim else 0
    usable = np.isfinite(np.atleast_2d(ratings)).any(axis=0)
    usable &= ~np.isinf(np.atleast_2d(ratings)).any(axis=0)
    if exclude is not None:
        usable &= ~_labels(exclude, n, "exclude").astype(bool)
    groups = None if within is None else _labels(within, n, "within")
    clusters = None if cluster is None else _labels(cluster, n, "cluster")
    error = None
    if human_error is not None:
        error = _labels(float_array(human_error, "human_error"), n, "human_error")
    # Metrics of the same stimuli go together.
    alike: dict[bytes, list[Any]] = {}
    for name, x in table.items():
        alike.setdefault((usable & np.isfinite(x)).tobytes(), []).append(name)
    state = generator.bit_generator.state
    found: dict[Any, Correlation] = {}
    for mask, names in alike.items():
        generator.bit_generator.state = state  # whichever metrics there are beside
        keep = np.frombuffer(mask, dtype=bool)
        results = _correlate_alike(
            np.stack([table[name][keep] for name in names]),
            ratings[..., keep],
            None if groups is None else codes_of(groups[keep])[0],
            None if clusters is None else codes_of(clusters[keep])[0],
            None if error is None else error[keep],
            fit is not None,
            n_boot,
            confidence,
            generator,
        )
        excluded = int((~keep).sum())
        for name, result in zip(names, results, strict=True):
            found[name] = replace(result, n_excluded=excluded)
    return {name: found[name] for name in table}


def _correlate_alike(
    x: FloatArray,
    human: FloatArray,
    group: IntArray | None,
    clusters: IntArray | None,
    error: FloatArray | None,
    fit: bool,
    n_boot: int,
    confidence: float,
    rng: np.random.Generator,
) -> list[Correlation]:
    """Correlate metrics (metrics, n), finite everywhere."""
    k, n = x.shape
    observed = human.ndim == 2
    ratings = np.atleast_2d(human)
    given = np.isfinite(ratings)
    y = np.where(given, ratings, 0).sum(axis=0) / np.maximum(given.sum(axis=0), 1)
    warnings: list[list[str]] = [[] for _ in range(k)]
    parameters = np.full((k, 4), np.nan)
    point, se = np.full((2, k, len(_COEFFICIENTS)), np.nan)
    degrees = np.full(point.shape, np.inf)
    varied = (np.ptp(x, axis=1) > 0) & (np.ptp(y) > 0) if n >= 3 else np.zeros(k, dtype=bool)
    for i in np.flatnonzero(~varied).tolist():
        warnings[i].append("not estimable: fewer than 3 stimuli, or no variation")
    data = _Stimuli(x[varied], group, error, np.full((int(varied.sum()), 4), np.nan))
    if fit and varied.any():
        data, parameters[varied], problems = data.with_fits(y)
        for i, texts in zip(np.flatnonzero(varied).tolist(), problems, strict=True):
            warnings[i] += texts
    if varied.any():
        point[varied] = data.of_scores(y[None])[0]
    described = "no interval"
    if n_boot and np.isfinite(point).any():
        spread, degrees[varied], described = _resample(
            data, ratings, given, y, clusters, observed, n_boot, rng
        )
        se[varied] = np.sqrt(spread)
    elif group is None and clusters is None and n > 4:
        described = "independent stimuli (Fisher's z)"
        se[:, :2] = np.sqrt(1 / (n - 3))
        se[:, 2] = np.sqrt((1 + point[:, 2] ** 2 / 2) / (n - 3))
        se[:, 3] = np.sqrt(0.437 / (n - 4))
    half = critical_value(confidence, degrees) * se
    bounded = np.where(np.isfinite(half), point, np.nan)
    lows = np.fmin(_back(_transform(point) - half), bounded)
    highs = np.fmax(_back(_transform(point) + half), bounded)
    results = []
    for i in range(k):
        n_groups = 0 if group is None else _informative_groups(x[i], y, group)
        if group is not None and n_groups < group.max(initial=-1) + 1:
            warnings[i].append(f"{group.max() + 1 - n_groups} groups without variation left out")
        estimates = {}
        for j, name in enumerate(_COEFFICIENTS):
            if not np.isfinite(point[i, j]):
                lacks = name == "outlier_ratio"
                estimates[name] = not_estimable(
                    "no standard errors of the scores" if lacks else "no variation",
                    n=n, method=name, confidence=confidence,
                )  # fmt: skip
            else:
                estimates[name] = Estimate(
                    float(point[i, j]), float(lows[i, j]), float(highs[i, j]), n,
                    f"{name}{' within groups' if group is not None else ''}; "
                    f"interval for {described}",
                    confidence,
                )  # fmt: skip
        results.append(
            Correlation(
                **estimates, n=n, n_excluded=0, n_groups=n_groups, fit_parameters=parameters[i],
                warnings=tuple(warnings[i]),
            )
        )  # fmt: skip
    return results


def _informative_groups(x: FloatArray, y: FloatArray, group: IntArray) -> int:
    """Count groups in which both the metric and the scores vary."""
    vary = np.ones(int(group.max(initial=-1)) + 1, dtype=bool)
    for values in (x, y):
        low, high = np.full(vary.size, np.inf), np.full(vary.size, -np.inf)
        np.minimum.at(low, group, values)
        np.maximum.at(high, group, values)
        vary &= high > low
    return int(vary.sum())


def _labels(values: npt.ArrayLike, n: int, key: str) -> npt.NDArray[np.object_]:
    labels = np.asarray(values)
    if labels.shape != (n,):
        raise InputError("One label for each stimulus is needed", key=key, value=labels.shape)
    return labels


def _transform(values: FloatArray) -> FloatArray:
    """Scales on which the coefficients are nearer to normal: z, z, z, z, log, identity."""
    result = np.array(values, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        result[..., :4] = np.arctanh(np.clip(result[..., :4], -1 + 1e-12, 1 - 1e-12))
        result[..., 4] = np.log(result[..., 4])
    return result


def _back(values: FloatArray) -> FloatArray:
    result = np.array(values, dtype=float)
    result[..., :4] = np.tanh(result[..., :4])
    result[..., 4] = np.exp(result[..., 4])
    result[..., 5] = np.clip(result[..., 5], 0, 1)
    return result


def _resample(
    data: _Stimuli,
    ratings: FloatArray,
    given: npt.NDArray[np.bool_],
    y: FloatArray,
    clusters: IntArray | None,
    observed: bool,
    n_boot: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, str]:
    """Variances and degrees of freedom (metrics, 6), transformed; what they speak of."""
    n = y.size
    filled = np.where(given, ratings, 0.0)

    def spread(draws: FloatArray, size: int) -> FloatArray:
        draws = _transform(draws)
        found = np.isfinite(draws)
        count = np.where(found.sum(axis=0) > 1, found.sum(axis=0), np.nan)
        centred = np.where(found, draws - np.where(found, draws, 0).sum(axis=0) / count, 0)
        return np.asarray((centred**2).sum(axis=0) / (count - 1) * inflate(size))

    def over_stimuli(weights: FloatArray) -> FloatArray:
        return data.of_weights(weights, np.arange(n) if clusters is None else clusters, y)

    def over_observers(weights: FloatArray) -> FloatArray:
        return data.of_scores((weights @ filled) / (weights @ given))

    def over_votes(draws: int) -> FloatArray:
        # Exponential weights of equal ratings of a stimulus add up to a gamma variable.
        stimulus, observer = np.nonzero(given.T)
        cells = pd.DataFrame({"stimulus": stimulus, "value": ratings[observer, stimulus]})
        sizes = cells.value_counts(sort=False)
        stimuli, values = (sizes.index.get_level_values(i).to_numpy() for i in (0, 1))
        first = np.searchsorted(stimuli, np.arange(n))
        parts = []
        step = max(1, 2_000_000 // len(sizes))
        for start in range(0, draws, step):
            weights = rng.standard_gamma(
                sizes.to_numpy(dtype=float), (min(step, draws - start), len(sizes))
            )
            total = np.add.reduceat(weights, first, axis=1)
            parts.append(data.of_scores(np.add.reduceat(weights * values, first, axis=1) / total))
        return np.concatenate(parts)

    terms, speaks = [], []
    if observed and len(ratings) > 1:
        draws = bootstrap_draws(over_observers, len(ratings), n_boot, rng, max_weights=2_000_000)
        terms.append((spread(draws, len(ratings)), len(ratings)))
        speaks.append("new observers")
    if clusters is not None or not terms:
        size = n if clusters is None else int(clusters.max()) + 1
        draws = bootstrap_draws(over_stimuli, size, n_boot, rng, max_weights=2_000_000)
        terms.append((spread(draws, size), size))
        speaks.append("new photographs" if clusters is not None else "new stimuli")
    if len(terms) == 2:
        votes = int(given.sum())
        terms.append((spread(over_votes(n_boot), votes), votes))
    text = " and ".join(speaks)
    if speaks == ["new observers"]:
        text += ", these photographs only"
    return *combine(terms), f"{text} (bootstrap, {n_boot} resamples)"


@dataclass(frozen=True)
class _Stimuli:
    """Values of metrics of the same stimuli; computes all coefficients for batches of resamples."""

    x: FloatArray  # (metrics, n)
    group: IntArray | None  # (n,)
    error: FloatArray | None  # (n,)
    starts: FloatArray  # (metrics, 4) fit to the scores, where fits to resamples start; NaN: a line

    def with_fits(self, y: FloatArray) -> tuple[_Stimuli, FloatArray, list[list[str]]]:
        """Fit from several starts: parameters (metrics, 4) in units of the metrics, and doubts."""
        k, n = self.x.shape
        if n < 6:
            few = "fewer than 6 stimuli: plcc is without a fit"
            return self, self.starts, [[few] for _ in range(k)]
        starts, parameters, doubts = np.empty((k, 4)), np.empty((k, 4)), []
        low, high = np.quantile(y, [0.05, 0.95])
        for i, z in enumerate(self._standard):
            grid = np.array(
                [
                    (a, b, c, np.log(s))
                    for a, b in ((low, high), (high, low))
                    for c in np.quantile(z, [0.1, 0.3, 0.5, 0.7, 0.9])
                    for s in (0.2, 0.7)
                ]
            )
            some: Any = slice(None)
            if n > _MANY:  # every so many of them, in the order of the metric, find the start
                some = np.argsort(z)[:: n // _MANY]
            ends, losses = _fit_logistic(z[some], y[None, some], None, grid)
            best = ends[int(np.argmin(losses))]
            if n > _MANY:
                best = _fit_logistic(z, y[None], None, best[None])[0][0]
            problems = []
            width = np.exp(best[3])
            if width > 5 * np.ptp(z) or not z.min() - 3 * width <= best[2] <= z.max() + 3 * width:
                problems.append("the logistic is degenerate: the data show no bend (near linear)")
            elif width < 1e-2 * np.ptp(z) / z.size:
                problems.append("the logistic is degenerate: a step")
            centre, scale = self.x[i].mean(), self.x[i].std()
            starts[i] = best
            parameters[i] = best[0], best[1], best[2] * scale + centre, width * scale
            doubts.append(problems)
        return replace(self, starts=starts), parameters, doubts

    @cached_property
    def _standard(self) -> FloatArray:
        centred = self.x - self.x.mean(axis=1, keepdims=True)
        return np.asarray(centred / self.x.std(axis=1, keepdims=True))

    @cached_property
    def _groups(self) -> list[tuple[IntArray, _Ranked]]:
        """Members (groups, m) of the groups, those of equal size together (all stimuli in one if
        there are none), with the ranks of the metrics (metrics, groups, m) among them.
        """  # noqa: D205
        if self.group is None:
            members = [np.arange(self.x.shape[1])[None]]
        else:
            order = np.argsort(self.group, kind="stable")
            sizes = np.bincount(self.group)
            starts = np.cumsum(sizes) - sizes
            members = [
                order[starts[sizes == m][:, None] + np.arange(m)] for m in np.unique(sizes) if m > 1
            ]
        return [(own, _Ranked.of(self.x[:, own])) for own in members]

    def of_scores(self, y: FloatArray) -> FloatArray:
        """Coefficients (b, metrics, 6) in the order of ``_COEFFICIENTS`` for scores (b, n)."""
        largest = max((own.shape[1] for own, _ in self._groups), default=1)
        room = _CACHED // (y.shape[1] * (largest if largest <= _SMALL else 1))
        return _by_block(self._of_scores, y, max(1, room))

    def _of_scores(self, y: FloatArray) -> FloatArray:
        result, mapped = self._residuals(None, y)
        parts = []
        for members, ranks in self._groups:
            ys = y[:, members]
            raw = _correlations(self.x[:, members], ys)
            parts.append(
                np.stack([self._of_fits(mapped, members, ys, raw), raw,
                          *_rank_coefficients(ranks, _Ranked.of(ys))], axis=-1)
            )  # fmt: skip
        return _average(result, parts, [np.ones((1, part.shape[2])) for part in parts])

    def of_weights(self, weights: FloatArray, cluster: IntArray, y: FloatArray) -> FloatArray:
        """Coefficients (b, metrics, 6) of scores (n,) for weights (b, clusters), each stimulus in
        one cluster.
        """  # noqa: D205
        prepared: list[Any] = []
        for members, ranks in self._groups:
            inside, xs, ys = cluster[members], self.x[:, members], y[members]
            if len(members) > 1 and (inside == inside[:, :1]).all():
                # Weights that do not vary inside a group leave its coefficients alone.
                scores = ys[None]
                prepared.append(
                    [_correlations(xs, scores), *_rank_coefficients(ranks, _Ranked.of(scores))]
                )
            else:
                prepared.append(
                    [_PairTotals.of(xs[:, g], ys[g], inside[g]) for g in range(len(members))]
                )

        def of_block(weights: FloatArray) -> FloatArray:
            w = weights[:, cluster]
            result, mapped = self._residuals(w, y[None])
            parts, shares = [], []
            for (members, _), own in zip(self._groups, prepared, strict=True):
                xs, ys, ws = self.x[:, members], y[members], w[:, members]
                if isinstance(own[0], _PairTotals):
                    ry = _mid_ranks(ys, ws)
                    raw = np.stack([_pearson(ws, values, ys) for values in xs], axis=1)
                    spearman = [_pearson(ws, _mid_ranks(values, ws), ry) for values in xs]
                    kendall = np.stack([totals.kendall(weights) for totals in own], axis=2)
                    fits = self._of_fits(mapped, members, ys, raw, ws)
                    part = [fits, raw, np.stack(spearman, axis=1), kendall]
                else:
                    raw, *ranked = own
                    part = [self._of_fits(mapped, members, ys, raw), raw, *ranked]
                parts.append(np.stack(np.broadcast_arrays(*part), axis=-1))
                shares.append(ws.mean(axis=2))
            return _average(result, parts, shares)

        return _by_block(of_block, weights, max(1, _CACHED // y.size))

    def _of_fits(
        self,
        mapped: list[FloatArray | None],
        members: IntArray,
        ys: FloatArray,
        raw: FloatArray,
        ws: FloatArray | None = None,
    ) -> FloatArray:
        """Pearson's coefficient (b, metrics, groups) of the fitted scores, where there are fits.

        The direction of a decreasing fit belongs to the metric.
        """
        w = np.ones(1) if ws is None else ws
        each = [
            raw[:, i] if fit is None
            else np.sign(self.starts[i, 1] - self.starts[i, 0]) * _pearson(w, fit[:, members], ys)
            for i, fit in enumerate(mapped)
        ]  # fmt: skip
        return np.stack(np.broadcast_arrays(*each), axis=1)

    def _residuals(
        self, w: FloatArray | None, y: FloatArray
    ) -> tuple[FloatArray, list[FloatArray | None]]:
        """RMSE and outlier ratio in their places of (b, metrics, 6), and the fitted scores."""
        rows = len(y) if w is None else len(w)
        result = np.full((rows, len(self.x), len(_COEFFICIENTS)), np.nan)
        weights = np.ones((1, y.shape[1])) if w is None else w
        total = weights.sum(axis=1)
        mapped: list[FloatArray | None] = []
        for i, start in enumerate(self.starts):
            if np.isnan(start[0]):  # residuals of the straight line
                result[:, i, 4] = _line_rmse(self.x[i][None], y, weights)
                mapped.append(None)
                continue
            z = self._standard[i]
            fit = _logistic4(z, _fit_logistic(z, y, w, start[None], near=True)[0])
            residual = y - fit
            result[:, i, 4] = np.sqrt((weights * residual**2).sum(axis=1) / total)
            if self.error is not None:
                outside = np.abs(residual) > 2 * self.error
                result[:, i, 5] = (weights * outside).sum(axis=1) / total
            mapped.append(fit)
        return result, mapped


def _by_block(
    statistic: Callable[[FloatArray], FloatArray], rows: FloatArray, room: int
) -> FloatArray:
    """Apply to blocks of rows whose intermediate arrays stay in the cache."""
    return np.concatenate(
        [statistic(rows[first : first + room]) for first in range(0, len(rows), room)]
    )


def _average(result: FloatArray, parts: list[FloatArray], shares: list[FloatArray]) -> FloatArray:
    """Fill in the averages over groups of coefficients (b, metrics, groups, 4), by these weights
    (b, groups).
    """  # noqa: D205
    if parts:
        b = len(result)
        each = np.concatenate([np.broadcast_to(p, (b, *p.shape[1:])) for p in parts], axis=2)
        weight = np.concatenate([np.broadcast_to(s, (b, s.shape[1])) for s in shares], axis=1)
        weight = np.where(np.isfinite(each), weight[:, None, :, None], 0.0)
        with np.errstate(invalid="ignore"):
            result[..., :4] = np.where(weight > 0, each * weight, 0).sum(2) / weight.sum(2)
    return result


def _expit(values: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # three times faster than scipy's
        return np.asarray(1 / (1 + np.exp(-values)))


def _logistic4(z: FloatArray, p: FloatArray) -> FloatArray:
    """Levels p0 (far left) and p1 (far right), centre p2, log width p3: (b, 4) -> (b, n)."""
    s = _expit((z - p[:, 2:3]) * np.exp(-p[:, 3:4]))
    return np.asarray(p[:, 0:1] + (p[:, 1:2] - p[:, 0:1]) * s)


def _fit_logistic(
    z: FloatArray, y: FloatArray, w: FloatArray | None, start: FloatArray, *, near: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Least squares with weights (b, n) or none by Levenberg–Marquardt, for a batch of scores
    (b, n): parameters (b, 4), loss (b,).

    From a start ``near`` the optimum of a resample, fewer steps and 4 digits will do.
    """  # noqa: D205
    b = max(len(start), len(y), 1 if w is None else len(w))
    trial = np.broadcast_to(start, (b, 4))
    y = np.broadcast_to(y, (b, z.size))
    ends, loss = trial.copy(), np.full(b, np.inf)
    curvature, slope = np.zeros((b, 4, 4)), np.zeros((b, 4))
    damping, least = np.full(b, 1e-6 if near else 1e-2), 1e-2 if near else 0.0
    tolerance = 1e-6 if near else 1e-12
    active = np.arange(b)
    for _ in range(13 if near else 200):
        everyone = active.size == b
        own_y = y if everyone else y[active]
        own_w = w if w is None or len(w) == 1 or everyone else w[active]
        inverse = np.exp(-trial[:, 3:4])
        scaled = (z - trial[:, 2:3]) * inverse
        height = trial[:, 1:2] - trial[:, 0:1]
        jacobian = np.empty((active.size, 4, z.size))
        s = _expit(scaled)
        jacobian[:, 1] = s
        np.subtract(1, s, out=jacobian[:, 0])
        bend = jacobian[:, 0] * s
        bend *= -height
        np.multiply(bend, inverse, out=jacobian[:, 2])
        np.multiply(bend, scaled, out=jacobian[:, 3])
        residual = own_y - trial[:, 0:1]
        residual -= height * s
        weighted = jacobian if own_w is None else jacobian * own_w[:, None]
        squares = residual * residual if own_w is None else own_w * residual * residual
        new = squares.sum(axis=1)
        better = new < loss[active]
        moved = active[better]
        with np.errstate(invalid="ignore"):
            settled = np.abs(loss[active] - new) <= tolerance * loss[active]
            settled &= np.isfinite(loss[active])
        damping[active] = np.clip(
            np.where(better, damping[active] / 5, np.maximum(damping[active] * 4, least)),
            1e-10,
            1e10,
        )
        ends[moved], loss[moved] = trial[better], new[better]
        slopes = (weighted @ residual[..., None])[..., 0]
        found = weighted @ jacobian.swapaxes(1, 2)
        curvature[moved] = found[better]
        slope[moved] = slopes[better]
        active = active[~settled]
        if not active.size:
            break
        own = curvature[active]
        diagonal = np.einsum("bii->bi", own)
        floor = 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-300
        own = own + (damping[active, None] * (diagonal + floor) + 1e-300)[:, :, None] * np.eye(4)
        trial = ends[active] + np.linalg.solve(own, slope[active][..., None])[..., 0]
        trial[:, 3] = np.clip(trial[:, 3], -7, 7)
    return ends, loss


def _line_rmse(x: FloatArray, y: FloatArray, w: FloatArray) -> FloatArray:
    total = w.sum(axis=1, keepdims=True)
    y_centred = y - (w * y).sum(axis=1, keepdims=True) / total
    r = _pearson(w, x, y)
    variance = (w * y_centred**2).sum(axis=1) / total[:, 0]
    return np.asarray(np.sqrt(variance * np.maximum(1 - r**2, 0)))


def _pearson(w: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Weighted product-moment coefficients over the last axis; NaN without variation."""
    w = np.broadcast_to(w, np.broadcast_shapes(w.shape, x.shape[-1:]))
    total = w.sum(axis=-1, keepdims=True)
    xc = x - (w * x).sum(axis=-1, keepdims=True) / total
    yc = y - (w * y).sum(axis=-1, keepdims=True) / total
    xx, yy = (w * xc**2).sum(axis=-1), (w * yc**2).sum(axis=-1)
    tiny_x = 1e-24 * (w * x**2).sum(axis=-1)
    tiny_y = 1e-24 * (w * y**2).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (w * xc * yc).sum(axis=-1) / np.sqrt(xx * yy)
    return np.where((xx > tiny_x) & (yy > tiny_y), np.clip(r, -1, 1), np.nan)


def _correlations(x: FloatArray, y: FloatArray) -> FloatArray:
    """Pearson's coefficients (b, k, g) of x (k, g, m) with y (b, g, m); NaN without variation."""
    xc, yc = (v - v.mean(axis=-1, keepdims=True) for v in (x, y))
    squares = [np.einsum("...m,...m->...", v, v) for v in (x, y, xc, yc)]
    varied = (squares[2] > 1e-24 * squares[0]) & (squares[3] > 1e-24 * squares[1])[:, None]
    both = np.moveaxis(np.moveaxis(yc, 1, 0) @ np.moveaxis(xc, 0, 2), 0, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = both / np.sqrt(squares[2] * squares[3][:, None])
    return np.where(varied, np.clip(r, -1, 1), np.nan)


_MANY = 20_000  # stimuli that are enough to choose between starts of a fit
_CACHED = 60_000  # numbers of an array that stays in the cache
_SMALL = 24  # stimuli of a group up to which the signs of all pairs are held
_PACKED = 4_096  # and up to which the order of all pairs is held in bits


@dataclass(frozen=True)
class _Ranked:
    """Order of values (rows, groups, m) inside each group."""

    mid: FloatArray  # (rows, groups, m) mid-ranks
    dense: IntArray  # (rows, groups, m) equal values with one rank, without gaps
    tied: FloatArray  # (rows, groups) pairs

    @classmethod
    def of(cls, values: FloatArray) -> _Ranked:
        m = values.shape[-1]
        flat = values.reshape(-1, m)
        order = np.argsort(flat, axis=1)
        mid, dense = np.empty(flat.shape), np.empty(flat.shape, dtype=np.int64)
        by_place, dense_by_place, tied = _ranks(np.take_along_axis(flat, order, axis=1))
        np.put_along_axis(mid, order, by_place, axis=1)
        np.put_along_axis(dense, order, dense_by_place, axis=1)
        shape = values.shape
        return cls(mid.reshape(shape), dense.reshape(shape), tied.reshape(shape[:-1]))

    @cached_property
    def signs(self) -> FloatArray:
        """Of the differences of all pairs (rows, groups, m * m), for few members."""
        signs = np.sign(self.dense[..., :, None] - self.dense[..., None, :])
        return signs.reshape(*signs.shape[:2], -1).astype(float)

    @cached_property
    def bits(self) -> list[list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64] | None]]]:
        """By row and group: which pairs rise and, where values are tied, which fall."""
        return [
            [
                (_rising(own), _rising(-own) if tied else None)
                for own, tied in zip(row, ties, strict=True)
            ]
            for row, ties in zip(self.dense, self.tied, strict=True)
        ]


def _rising(ranks: IntArray) -> npt.NDArray[np.uint64]:
    """Bits (m, words): ranks[i] > ranks[j]."""
    width = -(-ranks.size // 64) * 64
    short = ranks.astype(np.int16)  # of fewer than 2¹⁵ (_PACKED)
    right = np.full(width, np.iinfo(np.int16).max, dtype=np.int16)
    right[: ranks.size] = short
    return np.packbits(short[:, None] > right, axis=1).view(np.uint64)


def _rank_coefficients(x: _Ranked, y: _Ranked) -> tuple[FloatArray, FloatArray]:
    """Spearman's and Kendall's (tau-b) coefficients (b, k, g) of x (k, g, m) with y (b, g, m)."""
    k, groups, m = x.mid.shape
    pairs = m * (m - 1) / 2
    both = np.empty((len(y.mid), k, groups))  # pairs concordant less discordant
    if m <= _SMALL:
        product = np.moveaxis(y.signs, 1, 0) @ np.moveaxis(x.signs, 0, 2)
        both[:] = np.moveaxis(product, 0, 2) / 2
    elif m <= _PACKED:
        for row, column in np.ndindex(len(y.mid), groups):
            rising = _rising(y.dense[row, column])
            untied = pairs - y.tied[row, column]
            for i in range(k):
                up, down = x.bits[i][column]
                alike = _common(up, rising)
                unlike = untied - alike if down is None else _common(down, rising)
                both[row, i, column] = alike - unlike
    else:
        for i, column in np.ndindex(k, groups):
            both[:, i, column] = _concordance(x.dense[i, column], y.dense[:, column])
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = both / np.sqrt((pairs - x.tied) * (pairs - y.tied)[:, None])
    return _correlations(x.mid, y.mid), np.clip(tau, -1, 1)


def _common(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> float:
    return float(np.bitwise_count(a & b).sum(dtype=np.int64))


def _concordance(x: IntArray, y: IntArray) -> FloatArray:
    """Pairs concordant less discordant (b,) of ranks x (n,) with y (b, n), by sorting."""
    n = x.size
    key = x * n + y  # inside ties of x let y rise, so that they count as no inversion
    order = np.argsort(key, axis=1)
    joint = _ranks(np.take_along_axis(key, order, axis=1))[2]
    tied_x = _ranks(np.sort(x)[None])[2]
    tied_y = _ranks(np.sort(y, axis=1))[2]
    pairs = n * (n - 1) / 2
    inversions = _inversions(np.take_along_axis(y, order, axis=1))
    return np.asarray(pairs - tied_x - tied_y + joint - 2 * inversions)


def _ranks(ordered: npt.NDArray[Any]) -> tuple[FloatArray, IntArray, FloatArray]:
    """Mid-ranks and dense ranks (b, n) of sorted rows, and how many pairs of each are tied (b,)."""
    b, n = ordered.shape
    new = np.ones((b, n), dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    dense = new.cumsum(axis=1, dtype=np.int64) - 1
    starts = np.flatnonzero(new)  # of runs of ties, row after row
    if starts.size == b * n:
        return dense.astype(float), dense, np.zeros(b)
    lengths = np.diff(np.append(starts, b * n))
    middle = starts % n + (lengths - 1) / 2
    tied = np.bincount(starts // n, lengths * (lengths - 1) / 2, minlength=b).astype(float)
    return np.repeat(middle, lengths).reshape(b, n), dense, tied


def _inversions(ranks: IntArray) -> FloatArray:
    """Count the pairs i < j with ranks[i] > ranks[j] in each row of (b, n), bit by bit.

    Rows are parted stably by the highest bit, then each part by the next one, and so on: a pair
    is an inversion if, at the first bit in which the two differ, the earlier one has a 1.
    """
    b, n = ranks.shape
    values = ranks.astype(np.int32)
    count = np.zeros(b)
    for bit in range(max(int(n - 1).bit_length() - 1, 0), -1, -1):
        one = (values >> bit) & 1
        part = values >> (bit + 1)  # rows are sorted by this
        ones = np.cumsum(one, axis=1, dtype=np.int32)
        new = np.ones((b, n), dtype=bool)
        new[:, 1:] = part[:, 1:] != part[:, :-1]
        starts = np.flatnonzero(new)
        lengths = np.diff(np.append(starts, b * n))
        before = (ones - one).ravel()[starts]  # ones of the row ahead of each part
        ahead = ones - np.repeat(before, lengths).reshape(b, n)  # ones of the part up to here
        count += np.where(one == 0, ahead, 0).sum(axis=1)
        # Zeros of a part first, then its ones, each in their order.
        ends = starts + lengths - 1
        inside = ones.ravel()[ends] - before  # ones of each part
        place = np.arange(b * n).reshape(b, n) - ahead
        to = np.where(
            one == 0,
            place,
            (np.repeat(ends - inside, lengths).reshape(b, n) + ahead),
        )
        moved = np.empty(b * n, dtype=np.int32)
        moved[to.ravel()] = values.ravel()
        values = moved.reshape(b, n)
    return count


def _mid_ranks(values: FloatArray, w: FloatArray) -> FloatArray:
    """Weighted mid-ranks (b, g, m) of values (g, m) under weights (b, g, m)."""
    ranks = np.empty(w.shape)
    for g, own in enumerate(values):
        distinct, inverse = np.unique(own, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        mass = w[:, g, order]
        if distinct.size < own.size:
            starts = np.searchsorted(inverse[order], np.arange(distinct.size))
            mass = np.add.reduceat(mass, starts, axis=1)
        ranks[:, g] = (mass.cumsum(axis=1) - mass / 2)[:, inverse]
    return ranks


@dataclass(frozen=True)
class _PairTotals:
    """Pairs of stimuli (i before j, and j before i) summed by the clusters of i and of j."""

    used: IntArray  # (c,) clusters
    both: FloatArray  # (metrics, c, c) concordant less discordant
    in_x: FloatArray  # (metrics, c, c) untied
    in_y: FloatArray  # (c, c) untied

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray, cluster: IntArray) -> _PairTotals:
        """Sum up for metrics (metrics, n) and scores (n,) with clusters (n,)."""
        used, local = np.unique(cluster, return_inverse=True)
        members = cluster_sums(np.arange(y.size), y.size, local, used.size)  # (n, c)
        both, in_x = np.zeros((2, len(x), used.size, used.size))
        in_y = np.zeros((used.size, used.size))
        step = max(1, int(2e6 // y.size))
        for first in range(0, y.size, step):
            block = slice(first, first + step)

            def add(total: FloatArray, signs: FloatArray, own: Any = members[block].T) -> None:
                total += own @ (members.T @ signs.T).T

            sy = np.sign(y[block, None] - y)
            add(in_y, np.abs(sy))
            for i, values in enumerate(x):
                sx = np.sign(values[block, None] - values)
                add(both[i], sx * sy)
                add(in_x[i], np.abs(sx))
        return cls(used, both, in_x, in_y)

    def kendall(self, weights: FloatArray) -> FloatArray:
        """Weighted tau-b (b, metrics) for weights (b, clusters): concordant less discordant pairs
        over pairs untied in x and in y.
        """  # noqa: D205
        own = weights[:, self.used]
        in_y = np.einsum("bc,bc->b", own @ self.in_y, own)
        both, in_x = (
            np.stack([np.einsum("bc,bc->b", own @ total, own) for total in totals], axis=1)
            for totals in (self.both, self.in_x)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.clip(both / np.sqrt(in_x * in_y[:, None]), -1, 1)
