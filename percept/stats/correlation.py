"""Metrics against people: choices predicted, coefficients with honest intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    inflate,
    not_estimable,
)
from percept.stats.frames import IntArray, codes_of, counted_rows
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
    content = codes_of(rows["content"].to_numpy())[0]
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
    sides, conditions = codes_of(
        np.concatenate([rows["left"].to_numpy(), rows["right"].to_numpy()])
    )
    left, right = sides[: len(rows)], sides[len(rows) :]
    k = max(len(conditions), 1)
    content = codes_of(rows["content"].to_numpy())[0]
    pair = (content * k + np.minimum(left, right)) * k + np.maximum(left, right)
    _, pair = np.unique(pair, return_inverse=True)
    first = np.where(left < right, chose_left, 1 - chose_left)
    # Of an observer's own repeats none counts as another person.
    observer = (
        codes_of(rows["observer"].to_numpy())[0] if "observer" in rows else np.arange(len(rows))
    )
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
    check_confidence(confidence)
    generator = check_resamples(n_boot, rng)
    if fit not in ("logistic4", None):
        raise InputError("Unknown fit", key="fit", value=fit)
    x = np.asarray(metric, dtype=float)
    ratings = np.asarray(human, dtype=float)
    if x.ndim != 1 or ratings.ndim not in (1, 2) or ratings.shape[-1] != x.size:
        raise InputError(
            "metric is (stimuli,), human (stimuli,) or (observers, stimuli)",
            value=(x.shape, ratings.shape),
        )
    check_magnitude(x, "metric")
    check_magnitude(ratings, "human")
    observed = ratings.ndim == 2
    ratings = np.atleast_2d(ratings)
    given = np.isfinite(ratings)
    seen = given.any(axis=0)
    keep = np.isfinite(x) & seen & ~(np.isinf(ratings).any(axis=0))
    if exclude is not None:
        keep &= ~_labels(exclude, x.size, "exclude").astype(bool)
    group = None if within is None else codes_of(_labels(within, x.size, "within")[keep])[0]
    clusters = None if cluster is None else codes_of(_labels(cluster, x.size, "cluster")[keep])[0]
    error = None
    if human_error is not None:
        error = _labels(human_error, x.size, "human_error").astype(float)[keep]
    x, ratings, given = x[keep], ratings[:, keep], given[:, keep]
    data = _Stimuli(x, group, error, fit is not None)
    y = np.nansum(np.where(given, ratings, 0), axis=0) / np.maximum(given.sum(axis=0), 1)
    n, excluded = x.size, int((~keep).sum())
    warnings: list[str] = []
    parameters = np.full(4, np.nan)
    if n >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0:
        data, parameters, problems = data.with_fit(y)
        warnings += problems
        point = data.of_scores(y[None])[0]
    else:
        warnings.append("not estimable: fewer than 3 stimuli, or no variation")
        point = np.full(len(_COEFFICIENTS), np.nan)

    described, se = "no interval", np.full(len(point), np.nan)
    degrees = np.full(len(point), np.inf)
    transformed = _transform(point)
    grouped = group is not None or clusters is not None
    if n_boot and np.isfinite(point).any():
        spread, degrees, described = _resample(
            data, ratings, given, y, clusters, observed, n_boot, generator
        )
        se = np.sqrt(spread)
    elif not grouped and n > 4:
        described = "independent stimuli (Fisher's z)"
        factor = np.array([1, 1, 1 + point[2] ** 2 / 2, np.nan, np.nan, np.nan])
        se = np.sqrt(factor / (n - 3))
        se[3] = np.sqrt(0.437 / (n - 4))
    half = critical_value(confidence, degrees) * se
    lows = np.fmin(_back(transformed - half), np.where(np.isfinite(half), point, np.nan))
    highs = np.fmax(_back(transformed + half), np.where(np.isfinite(half), point, np.nan))
    n_groups = 0 if group is None else data.informative_groups(y)
    if group is not None and n_groups < group.max(initial=-1) + 1:
        warnings.append(f"{group.max() + 1 - n_groups} groups without variation left out")
    estimates = {}
    for i, name in enumerate(_COEFFICIENTS):
        if not np.isfinite(point[i]):
            reason = (
                "no standard errors of the scores" if name == "outlier_ratio" else "no variation"
            )
            estimates[name] = not_estimable(reason, n=n, method=name, confidence=confidence)
        else:
            estimates[name] = Estimate(
                float(point[i]), float(lows[i]), float(highs[i]), n,
                f"{name}{' within groups' if group is not None else ''}; interval for {described}",
                confidence,
            )  # fmt: skip
    return Correlation(
        **estimates, n=n, n_excluded=excluded, n_groups=n_groups, fit_parameters=parameters,
        warnings=tuple(warnings),
    )  # fmt: skip


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
    """Variances and degrees of freedom (6,) on the transformed scale; what they speak of."""
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
    """Metric values of the stimuli; computes all coefficients for batches of resamples."""

    x: FloatArray
    group: IntArray | None
    error: FloatArray | None
    fitted: bool
    start: FloatArray | None = None

    def with_fit(self, y: FloatArray) -> tuple[_Stimuli, FloatArray, list[str]]:
        """Fit from several starts; keeps the best as the start of every resample."""
        if not self.fitted:
            return self, np.full(4, np.nan), []
        if self.x.size < 6:
            return (
                _Stimuli(self.x, self.group, self.error, False),
                np.full(4, np.nan),
                ["fewer than 6 stimuli: plcc is without a fit"],
            )
        centre, scale = self.x.mean(), self.x.std()
        z = (self.x - centre) / scale
        low, high = np.quantile(y, [0.05, 0.95])
        starts = np.array(
            [
                (a, b, c, np.log(s))
                for a, b in ((low, high), (high, low))
                for c in np.quantile(z, [0.1, 0.3, 0.5, 0.7, 0.9])
                for s in (0.2, 0.7)
            ]
        )
        ends, losses = _fit_logistic(z, y[None], np.ones((1, z.size)), starts)
        best = ends[int(np.argmin(losses))]
        problems = []
        width = np.exp(best[3])
        if width > 5 * np.ptp(z) or not z.min() - 3 * width <= best[2] <= z.max() + 3 * width:
            problems.append("the logistic is degenerate: the data show no bend (near linear)")
        elif width < 1e-2 * np.ptp(z) / z.size:
            problems.append("the logistic is degenerate: a step")
        model = _Stimuli(self.x, self.group, self.error, True, best)
        parameters = np.array([best[0], best[1], best[2] * scale + centre, width * scale])
        return model, parameters, problems

    def informative_groups(self, y: FloatArray) -> int:
        """Count groups in which both the metric and the scores vary."""
        if self.group is None:
            return 0
        return sum(
            np.ptp(self.x[self.group == g]) > 0 and np.ptp(y[self.group == g]) > 0
            for g in range(int(self.group.max(initial=-1)) + 1)
        )

    def of_scores(self, y: FloatArray) -> FloatArray:
        """Coefficients (b, 6) in the order of ``_COEFFICIENTS`` for scores (b, n)."""
        ones = np.ones((1, self.x.size))
        result, mapped = self._residuals(ones, y)
        parts = []
        for members in self._groups():
            m = members.shape[1]
            step = max(1, _CACHED // (members.size * (m if m <= _SMALL else 1)))
            rows = []
            for start in range(0, len(y), step):
                block = slice(start, start + step)
                ys, xs = y[block][:, members], self.x[members]
                fit = mapped[block] if len(mapped) == len(y) else mapped
                one = np.ones(1)
                both = _rank_coefficients(xs, ys)
                rows.append(
                    np.stack(
                        [self._sign() * _pearson(one, fit[:, members], ys), _pearson(one, xs, ys),
                         *both], axis=-1
                    )
                )  # fmt: skip
            parts.append(np.concatenate(rows))  # (b, groups, 4)
        return _average(result, parts, [np.ones((1, len(part[0]))) for part in parts])

    def of_weights(self, weights: FloatArray, cluster: IntArray, y: FloatArray) -> FloatArray:
        """Coefficients (b, 6) of scores (n,) for weights (b, clusters), each stimulus in one."""
        w = weights[:, cluster]
        result, mapped = self._residuals(w, y[None])
        parts, shares = [], []
        for members in self._groups():
            xs, ys, ws = self.x[members], y[members], w[:, members]
            fit = mapped[:, members]
            inside = cluster[members]
            if len(members) > 1 and (inside == inside[:, :1]).all() and len(mapped) == 1:
                # Weights that do not vary inside a group leave its coefficients alone.
                ones = np.ones(1)
                rank = _rank_coefficients(xs, ys[None])
                fixed = [self._sign() * _pearson(ones, fit, ys), _pearson(ones, xs, ys), *rank]
                parts.append(np.stack(np.broadcast_arrays(*fixed), axis=-1))
            else:
                kendall = [_kendall(weights, c, a, b)
                           for a, b, c in zip(xs, ys, inside, strict=True)]  # fmt: skip
                ranks = [[_mid_ranks(row, own) for row, own in zip(side, ws.swapaxes(0, 1),
                          strict=True)] for side in (xs, ys)]  # fmt: skip
                rx, ry = (np.stack(side, axis=1) for side in ranks)
                weighted = [self._sign() * _pearson(ws, fit, ys), _pearson(ws, xs, ys),
                            _pearson(ws, rx, ry), np.stack(kendall, axis=1)]  # fmt: skip
                parts.append(np.stack(np.broadcast_arrays(*weighted), axis=-1))
            shares.append(ws.mean(axis=2))
        return _average(result, parts, shares)

    def _residuals(self, w: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """RMSE and outlier ratio in their places of (b, 6), and the fitted scores."""
        result = np.full((max(len(w), len(y)), len(_COEFFICIENTS)), np.nan)
        mapped = np.broadcast_to(self.x, (1, self.x.size))
        if self.start is not None:
            z = (self.x - self.x.mean()) / self.x.std()
            ends, _ = _fit_logistic(z, y, w, self.start[None], near=True)
            mapped = _logistic4(z, ends)
            residual = y - mapped
            total = w.sum(axis=1)
            result[:, 4] = np.sqrt((w * residual**2).sum(axis=1) / total)
            if self.error is not None:
                outside = np.abs(residual) > 2 * self.error
                result[:, 5] = (w * outside).sum(axis=1) / total
        elif not self.fitted:  # residuals of the straight line
            result[:, 4] = _line_rmse(self.x[None], y, w)
        return result, mapped

    def _sign(self) -> float:
        """Sign of the fit: the direction of a decreasing one belongs to the metric."""
        return -1.0 if self.start is not None and self.start[0] > self.start[1] else 1.0

    def _groups(self) -> list[IntArray]:
        """Members (groups, m) of the groups, those of equal size together; all in one if none."""
        if self.group is None:
            return [np.arange(self.x.size)[None]]
        order = np.argsort(self.group, kind="stable")
        sizes = np.bincount(self.group)
        starts = np.cumsum(sizes) - sizes
        return [
            order[starts[sizes == m][:, None] + np.arange(m)] for m in np.unique(sizes) if m > 1
        ]


def _average(result: FloatArray, parts: list[FloatArray], shares: list[FloatArray]) -> FloatArray:
    """Fill in the averages over groups of coefficients (b, groups, 4) with these weights."""
    if parts:
        b = len(result)
        each = np.concatenate([np.broadcast_to(p, (b, *p.shape[1:])) for p in parts], axis=1)
        weight = np.concatenate([np.broadcast_to(s, (b, s.shape[1])) for s in shares], axis=1)
        weight = np.where(np.isfinite(each), weight[:, :, None], 0.0)
        with np.errstate(invalid="ignore"):
            result[:, :4] = np.where(weight > 0, each * weight, 0).sum(1) / weight.sum(1)
    return result


def _logistic4(z: FloatArray, p: FloatArray) -> FloatArray:
    """Levels p0 (far left) and p1 (far right), centre p2, log width p3: (b, 4) -> (b, n)."""
    s = special.expit((z - p[:, 2:3]) * np.exp(-p[:, 3:4]))
    return np.asarray(p[:, 0:1] + (p[:, 1:2] - p[:, 0:1]) * s)


def _fit_logistic(
    z: FloatArray, y: FloatArray, w: FloatArray, start: FloatArray, *, near: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares by Levenberg–Marquardt, for a batch: parameters (b, 4), loss (b,).

    From a start ``near`` the optimum of a resample, fewer steps and 4 digits will do.
    """
    b = max(len(start), len(y), len(w))
    ends, losses = np.empty((b, 4)), np.empty(b)
    step = max(1, _CACHED // z.size)
    for first in range(0, b, step):
        block = slice(first, first + step)
        rows = min(step, b - first)
        p = np.broadcast_to(start if len(start) == 1 else start[block], (rows, 4)).copy()
        own_y = np.broadcast_to(y if len(y) == 1 else y[block], (rows, z.size))
        own_w = np.broadcast_to(w if len(w) == 1 else w[block], (rows, z.size))
        ends[block], losses[block] = _fit_block(z, own_y, own_w, p, near)
    return ends, losses


def _fit_block(
    z: FloatArray, y: FloatArray, w: FloatArray, p: FloatArray, near: bool
) -> tuple[FloatArray, FloatArray]:
    loss = (w * (y - _logistic4(z, p)) ** 2).sum(axis=1)
    damping = np.full(len(p), 1e-6 if near else 1e-2)
    tolerance = 1e-6 if near else 1e-12
    active = np.arange(len(p))
    for _ in range(12 if near else 200):
        own, own_y, own_w = p[active], y[active], w[active]
        inverse = np.exp(-own[:, 3:4])
        scaled = (z - own[:, 2:3]) * inverse
        s = special.expit(scaled)
        height = own[:, 1:2] - own[:, 0:1]
        residual = own_y - own[:, 0:1] - height * s
        bend = -height * s * (1 - s)
        jacobian = np.stack([1 - s, s, bend * inverse, bend * scaled], axis=1)  # (b, 4, n)
        weighted = jacobian * own_w[:, None]
        normal = weighted @ jacobian.swapaxes(1, 2)
        slope = (weighted @ residual[..., None])[..., 0]
        diagonal = np.einsum("bii->bi", normal)
        floor = 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-300
        damped = normal + (damping[active, None] * (diagonal + floor))[:, :, None] * np.eye(4)
        move = np.linalg.solve(damped + 1e-300 * np.eye(4), slope[..., None])[..., 0]
        trial = own + move
        trial[:, 3] = np.clip(trial[:, 3], -7, 7)
        trial_loss = (own_w * (own_y - _logistic4(z, trial)) ** 2).sum(axis=1)
        better = trial_loss < loss[active]
        settled = np.abs(loss[active] - trial_loss) <= tolerance * loss[active]
        p[active] = np.where(better[:, None], trial, own)
        loss[active] = np.where(better, trial_loss, loss[active])
        damping[active] = np.clip(
            np.where(better, damping[active] / 5, damping[active] * 4), 1e-10, 1e10
        )
        active = active[~settled]
        if not active.size:
            break
    return p, loss


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


_CACHED = 60_000  # numbers of an array that stays in the cache
_SMALL = 24  # stimuli of a group up to which all pairs are compared


def _rank_coefficients(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Spearman's and Kendall's (tau-b) coefficients (b, g) of x (g, m) with y (b, g, m)."""
    m = x.shape[1]
    if m <= _SMALL:
        sx = np.sign(x[:, :, None] - x[:, None])
        sy = np.sign(y[..., :, None] - y[..., None, :])
        both = np.einsum("gij,bgij->bg", sx, sy)
        in_x, in_y = np.abs(sx).sum(axis=(1, 2)), np.abs(sy).sum(axis=(2, 3))
        spearman = _pearson(np.ones(1), sx.sum(axis=2), sy.sum(axis=3))
    else:
        found = [_sorted_coefficients(own, y[:, g]) for g, own in enumerate(x)]
        both, in_x, in_y, spearman = (np.stack(part, axis=-1) for part in zip(*found, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return spearman, np.clip(both / np.sqrt(in_x * in_y), -1, 1)


def _sorted_coefficients(
    x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """For x (n,) and y (b, n), by sorting: (b,) each of twice the pairs concordant less
    discordant, untied in x, and untied in y; and Spearman's coefficient.
    """  # noqa: D205
    n = x.size
    first = np.argsort(x, kind="stable")
    rank_x, dense_x, tied_x = _ranks(x[first][None])
    dense_y, rank_y = np.empty(y.shape, dtype=np.int64), np.empty(y.shape)
    order = np.argsort(y, axis=1)
    mid, dense, tied_y = _ranks(np.take_along_axis(y, order, axis=1))
    np.put_along_axis(rank_y, order, mid, axis=1)
    np.put_along_axis(dense_y, order, dense, axis=1)
    rank_y, dense_y = rank_y[:, first], dense_y[:, first]
    joint = np.zeros(len(y))
    if tied_x[0]:  # inside ties of x let y rise, so that they count as no inversion
        key = dense_x * n + dense_y
        within = np.argsort(key, axis=1)
        dense_y = np.take_along_axis(dense_y, within, axis=1)
        rank_y = np.take_along_axis(rank_y, within, axis=1)
        joint = _ranks(np.take_along_axis(key, within, axis=1))[2]
    pairs = n * (n - 1) / 2
    both = pairs - tied_x - tied_y + joint - 2 * _inversions(dense_y)
    spearman = _pearson(np.ones(1), rank_x, rank_y)
    return (
        2 * both,
        np.broadcast_to(2 * (pairs - tied_x), both.shape),
        2 * (pairs - tied_y),
        spearman,
    )


def _ranks(ordered: npt.NDArray[Any]) -> tuple[FloatArray, IntArray, FloatArray]:
    """Mid-ranks and dense ranks (b, n) of sorted rows, and how many pairs of each are tied (b,)."""
    b, n = ordered.shape
    new = np.ones((b, n), dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(new)  # of runs of ties, row after row
    lengths = np.diff(np.append(starts, b * n))
    middle = starts % n + (lengths - 1) / 2
    tied = np.bincount(starts // n, lengths * (lengths - 1) / 2, minlength=b).astype(float)
    dense = new.cumsum(axis=1, dtype=np.int64) - 1
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
    """Weighted mid-ranks (b, n) of the values (n,)."""
    distinct, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    mass = np.add.reduceat(w[:, order], np.searchsorted(inverse[order], np.arange(distinct.size)),
                           axis=1)  # fmt: skip
    return np.asarray((mass.cumsum(axis=1) - mass / 2)[:, inverse])


def _kendall(w: FloatArray, cluster: IntArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Weighted tau-b (b,) for weights (b, clusters): concordant less discordant pairs over pairs
    untied in x and in y.
    """  # noqa: D205
    used, local = np.unique(cluster, return_inverse=True)
    members = cluster_sums(np.arange(x.size), x.size, local, used.size)  # (n, clusters)
    sums = [np.zeros((used.size, used.size)) for _ in range(3)]
    step = max(1, int(2e6 // x.size))
    for first in range(0, x.size, step):
        block = slice(first, first + step)
        sx, sy = (np.sign(v[block, None] - v) for v in (x, y))
        for total, signs in zip(sums, (sx * sy, np.abs(sx), np.abs(sy)), strict=True):
            total += members[block].T @ (members.T @ signs.T).T
    own = w[:, used]
    both, in_x, in_y = (((own @ total) * own).sum(axis=1) for total in sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(both / np.sqrt(in_x * in_y), -1, 1)
