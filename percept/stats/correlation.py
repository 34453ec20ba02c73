"""Metrics against people: choices predicted, coefficients with honest intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

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
    check_resamples,
    cluster_mean,
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
        point = data.coefficients(np.ones((1, n)), y[None])[0]
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
    ones = np.ones((1, n))
    filled = np.where(given, ratings, 0.0)

    def spread(statistic: Callable[[FloatArray], FloatArray], size: int) -> FloatArray:
        draws = _transform(bootstrap_draws(statistic, size, n_boot, rng, max_weights=2_000_000))
        given = np.isfinite(draws)
        count = np.where(given.sum(axis=0) > 1, given.sum(axis=0), np.nan)
        centred = np.where(given, draws - np.where(given, draws, 0).sum(axis=0) / count, 0)
        return np.asarray((centred**2).sum(axis=0) / (count - 1) * inflate(size))

    def over_stimuli(weights: FloatArray) -> FloatArray:
        chosen = weights if clusters is None else weights[:, clusters]
        return data.coefficients(chosen, y[None])

    def over_observers(weights: FloatArray) -> FloatArray:
        scores = (weights @ filled) / (weights @ given)
        return data.coefficients(ones, scores)

    def over_votes(weights: FloatArray) -> FloatArray:
        each = weights.reshape(-1, *given.shape) * given
        return data.coefficients(ones, (each * filled).sum(axis=1) / each.sum(axis=1))

    terms, speaks = [], []
    if observed and len(ratings) > 1:
        terms.append((spread(over_observers, len(ratings)), len(ratings)))
        speaks.append("new observers")
    if clusters is not None or not terms:
        size = n if clusters is None else int(clusters.max()) + 1
        terms.append((spread(over_stimuli, size), size))
        speaks.append("new photographs" if clusters is not None else "new stimuli")
    if len(terms) == 2:
        terms.append((spread(over_votes, given.size), int(given.sum())))
    text = " and ".join(speaks)
    if speaks == ["new observers"]:
        text += ", these photographs only"
    return *combine(terms), f"{text} (bootstrap, {n_boot} resamples)"


@dataclass(frozen=True)
class _Stimuli:
    """Metric values of the stimuli; computes all coefficients for batches of weights and scores.

    Either the weights (b, n) or the scores (b, n) may vary; the other then has one row.
    """

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
        ends, losses = _fit_logistic(z, y[None], np.ones((1, z.size)), starts, iterations=200)
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

    def coefficients(self, w: FloatArray, y: FloatArray) -> FloatArray:
        """Coefficients (b, 6) in the order of ``_COEFFICIENTS``."""
        b = max(len(w), len(y))
        result = np.full((b, len(_COEFFICIENTS)), np.nan)
        mapped = np.broadcast_to(self.x, (1, self.x.size))
        if self.start is not None:
            z = (self.x - self.x.mean()) / self.x.std()
            ends, _ = _fit_logistic(z, y, w, self.start[None], iterations=30)
            mapped = _logistic4(z, ends)
            residual = y - mapped
            total = w.sum(axis=1)
            result[:, 4] = np.sqrt((w * residual**2).sum(axis=1) / total)
            if self.error is not None:
                outside = np.abs(residual) > 2 * self.error
                result[:, 5] = (w * outside).sum(axis=1) / total
        elif not self.fitted:  # residuals of the straight line
            result[:, 4] = _line_rmse(self.x[None], y, w)
        groups = (
            [np.arange(self.x.size)]
            if self.group is None
            else [np.flatnonzero(self.group == g) for g in range(int(self.group.max()) + 1)]
        )
        values, weights = [], []
        for members in groups:
            if members.size < 2:
                continue
            xs, ys, ws = self.x[members], y[:, members], w[:, members]
            # The direction of a decreasing fit belongs to the metric, not to the mapping.
            sign = -1.0 if self.start is not None and self.start[0] > self.start[1] else 1.0
            parts = (
                sign * _pearson(ws, mapped[:, members], ys),
                _pearson(ws, xs[None], ys),
                _spearman(ws, xs, ys),
                _kendall(ws, xs, ys),
            )
            values.append(np.stack(np.broadcast_arrays(*parts, np.zeros(b))[:4], axis=1))
            weights.append(np.broadcast_to(ws.mean(axis=1), b))
        if values:
            each = np.stack(values)  # (groups, b, 4)
            weight = np.where(np.isfinite(each), np.stack(weights)[:, :, None], 0.0)
            with np.errstate(invalid="ignore"):
                result[:, :4] = np.where(weight > 0, each * weight, 0).sum(0) / weight.sum(0)
        return result


def _logistic4(z: FloatArray, p: FloatArray) -> FloatArray:
    """Levels p0 (far left) and p1 (far right), centre p2, log width p3: (b, 4) -> (b, n)."""
    s = special.expit((z - p[:, 2:3]) * np.exp(-p[:, 3:4]))
    return np.asarray(p[:, 0:1] + (p[:, 1:2] - p[:, 0:1]) * s)


def _fit_logistic(
    z: FloatArray, y: FloatArray, w: FloatArray, start: FloatArray, *, iterations: int
) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares by Levenberg–Marquardt, for a batch: parameters (b, 4), loss (b,)."""
    b = max(len(start), len(y), len(w))
    p = np.broadcast_to(start, (b, 4)).copy()
    damping = np.full(b, 1e-2)
    residual = y - _logistic4(z, p)
    loss = (w * residual**2).sum(axis=1)
    for _ in range(iterations):
        scaled = (z - p[:, 2:3]) * np.exp(-p[:, 3:4])
        s = special.expit(scaled)
        bend = (p[:, 1:2] - p[:, 0:1]) * s * (1 - s)
        jacobian = np.stack([1 - s, s, -bend * np.exp(-p[:, 3:4]), -bend * scaled], axis=-1)
        normal = np.einsum("bni,bn,bnj->bij", jacobian, np.broadcast_to(w, s.shape), jacobian)
        slope = np.einsum("bni,bn->bi", jacobian, w * residual)
        diagonal = np.einsum("bii->bi", normal)
        floor = 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-300
        damped = normal + (damping[:, None] * (diagonal + floor))[:, :, None] * np.eye(4)
        step = np.linalg.solve(damped + 1e-300 * np.eye(4), slope[..., None])[..., 0]
        trial = p + step
        trial[:, 3] = np.clip(trial[:, 3], -7, 7)
        trial_residual = y - _logistic4(z, trial)
        trial_loss = (w * trial_residual**2).sum(axis=1)
        better = trial_loss < loss
        settled = np.abs(loss - trial_loss) <= 1e-10 * loss
        p = np.where(better[:, None], trial, p)
        residual = np.where(better[:, None], trial_residual, residual)
        loss = np.where(better, trial_loss, loss)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-10, 1e10)
        if settled.all():
            break
    return p, loss


def _line_rmse(x: FloatArray, y: FloatArray, w: FloatArray) -> FloatArray:
    total = w.sum(axis=1, keepdims=True)
    y_centred = y - (w * y).sum(axis=1, keepdims=True) / total
    r = _pearson(w, x, y)
    variance = (w * y_centred**2).sum(axis=1) / total[:, 0]
    return np.asarray(np.sqrt(variance * np.maximum(1 - r**2, 0)))


def _pearson(w: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Weighted product-moment coefficients (b,); NaN without variation."""
    total = w.sum(axis=1, keepdims=True)
    xc = x - (w * x).sum(axis=1, keepdims=True) / total
    yc = y - (w * y).sum(axis=1, keepdims=True) / total
    xx, yy = (w * xc**2).sum(axis=1), (w * yc**2).sum(axis=1)
    tiny_x = 1e-24 * (w * x**2).sum(axis=1)
    tiny_y = 1e-24 * (w * y**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (w * xc * yc).sum(axis=1) / np.sqrt(xx * yy)
    return np.where((xx > tiny_x) & (yy > tiny_y), np.clip(r, -1, 1), np.nan)


def _mid_ranks(values: FloatArray, w: FloatArray) -> FloatArray:
    """Weighted mid-ranks (b, n) of the values (n,)."""
    order, inverse = np.unique(values, return_inverse=True)
    mass = np.zeros((len(w), order.size))
    np.add.at(mass.T, inverse, w.T)
    return np.asarray((mass.cumsum(axis=1) - mass / 2)[:, inverse])


def _spearman(w: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    if len(y) == 1:
        return _pearson(w, _mid_ranks(x, w), _mid_ranks(y[0], w))
    from scipy.stats import rankdata

    return _pearson(w, rankdata(x)[None], rankdata(y, axis=1))


def _kendall(w: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Weighted tau-b (b,): concordant less discordant pairs over pairs untied in x and in y."""
    n = x.size
    sx = np.sign(x[:, None] - x)
    parts = []
    step = max(1, int(4e7 // n**2))
    for first in range(0, len(y), step):
        block = y[first : first + step]
        sy = np.sign(block[:, :, None] - block[:, None, :])
        if len(y) == 1:
            both, in_x, in_y = (
                np.einsum("bi,bi->b", w @ m, w) for m in (sx * sy[0], np.abs(sx), np.abs(sy[0]))
            )
        else:
            both = np.einsum("ij,bij->b", sx, sy)
            in_y = np.abs(sy).sum(axis=(1, 2))
            in_x = np.full(len(block), np.abs(sx).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(np.clip(both / np.sqrt(in_x * in_y), -1, 1))
    return np.concatenate(parts)
