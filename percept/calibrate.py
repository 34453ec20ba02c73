"""A metric fitted to a panel: a small model of preference from votes and a run's metrics.

The model is linear: a stimulus has the score ``Σ weight · φ``, with φ a metric after a fixed
transform, centred and scaled, and a person prefers one of two with the log-odds of the difference
of their scores (Bradley–Terry on metric differences within a photograph); a condition that is in
every vote has a constant of its own. From a review study, the log-odds of "accept" are that score
plus a constant. Ridge regularised; the penalty is chosen by inner cross-validation. No weight goes
against its metric's direction: metrics that move together otherwise take weights that cancel on the
photographs of the fit, and on no others.

What it is worth is measured on photographs *and* conditions that took no part in the fit. Its
weights say what the panel answered to; its ranges say where it was fitted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize

from percept import stats
from percept.errors import InputError
from percept.files import read_json, write_json_atomic
from percept.inference.run import Run
from percept.stats import Estimate
from percept.stats.frames import counted_rows
from percept.store import Store, Study
from percept.types import GRAY, REFERENCE

FloatArray = npt.NDArray[np.float64]
Kind = Literal["pairwise", "review"]

FORMAT: Final = 3
#: Penalties tried, per row of the table of votes.
PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Groups of photographs and of conditions in cross-validation.
CONTENT_FOLDS, CONDITION_GROUPS = 10, 8
#: How far beyond the range of its fit a metric may lie, in widths of that range.
MARGIN: Final = 0.25
#: Group of the conditions that are in every vote.
_HUB: Final = -1
#: Splits of the observers into halves, for how well a panel repeats itself.
_SPLITS: Final = 20
_ANCHORS = (GRAY, REFERENCE)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One metric inside a model.

    Attributes
    ----------
    metric : str
        Its name in the run's table.
    root : bool
        Whether its square root is taken: where no value of the fit is negative.
    direction : int
        1: higher is better, the weight is at least 0; -1: lower is better; 0: not known.
    centre, scale : float
        Mean, and root mean square of differences within a photograph.
    low, high : float
        Range of the metric in the fit.
    origin : float or None
        φ of the condition that every vote showed, where all its images have the same: of the true
        colours by a full-reference metric, say.
    weight, std_error : float
        Log-odds per scale.
    """

    metric: str
    root: bool
    direction: int
    centre: float
    scale: float
    low: float
    high: float
    origin: float | None = None
    weight: float = 0.0
    std_error: float = math.nan

    def transform(self, values: FloatArray) -> FloatArray:
        """φ of values of the metric; infinite ones (PSNR) count as the end of the range."""
        values = np.where(np.isposinf(values), self.high, values)
        values = np.sqrt(np.maximum(values, 0.0)) if self.root else values
        return np.asarray((values - self.centre) / self.scale)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A fitted model; see the module.

    Attributes
    ----------
    name : str
        Of the metric that it becomes.
    kind : str
        ``pairwise`` or ``review``.
    features : tuple of Feature
        Metrics and weights.
    intercept : float or None
        Of reviews: log-odds of "accept" at the centre. Of pairs with a common condition: log-odds
        that it has ahead of what its metrics say. None otherwise.
    covariance : array, shape (d, d)
        Of the coefficients; as if their signs were free.
    shrink, shift : float
        Held-out log-odds times ``shrink`` are calibrated, with ``shift`` added to those that the
        intercept is in; ``shrink`` 1: not overconfident, 0: worth nothing.
    unexplained : float
        Standard deviation of what people see in a stimulus and the model does not, in log-odds:
        by how much held-out shares of votes vary beyond chance. NaN where no pair (or output)
        was judged twice.
    penalty : float
        Chosen by cross-validation.
    against : str or None
        The one condition that every vote showed, if there is: what scores of pairs are relative to.
    fitted_on : dict
        Study, attribute, run, numbers of votes, photographs, conditions and observers, how many of
        the latter are simulated, and ``contents``, the hash of each photograph.
    validation : list of dict
        One row a predictor; see :func:`cross_validate`.
    warnings : tuple of str
        Doubts that a user has to know.
    """

    name: str
    kind: Kind
    features: tuple[Feature, ...]
    intercept: float | None
    covariance: FloatArray
    shrink: float
    shift: float
    unexplained: float
    penalty: float
    fitted_on: dict[str, Any]
    validation: list[dict[str, Any]]
    held_out: pd.DataFrame
    against: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def coefficients(self) -> FloatArray:
        """Intercept, if there is one, and weights (d,)."""
        weights = [feature.weight for feature in self.features]
        return np.array(weights if self.intercept is None else [self.intercept, *weights])


# -- fitting -------------------------------------------------------------------------------------


def calibrate(
    run: Run,
    store: Store,
    study_name: str,
    *,
    metrics: Sequence[str] | None = None,
    attribute: str | None = None,
) -> Model:
    """Fit a model to the votes of a study and the metrics of its run.

    Parameters
    ----------
    run : Run
        With metrics.
    store : Store
        Holds the study, of the method ``pairwise`` or ``review``.
    study_name : str
        Its name.
    metrics : sequence of str, optional
        Names in the run's table. Default: where every judged stimulus has the traits, these and
        what else is made for models, since metrics such as PSNR lump together again what the
        traits take apart; else all that every judged stimulus has.
    attribute : str, optional
        Which question, where the study asks several.

    Raises
    ------
    InputError
        No votes, another method, several attributes, or no metric that all stimuli have.
    """
    study, frame, several = judgements(store, study_name, attribute)
    table, changed = run.metrics, run.unlike(store.stimuli(study))
    own = pd.MultiIndex.from_frame(table[["content_id", "condition"]])
    judged = own[~own.get_level_values("condition").isin(_ANCHORS)]  # others may be in any run
    if len(judged) and judged.isin(changed).all():
        raise InputError(
            f"the run holds other images than those that study {study_name!r} shows",
            file=run.root,
            remedy=f"The study was made from {study.run_path}",
        )
    known = run.info.get("metrics", {})
    there = [name for name in table["metric"].unique() if name in known]
    traits = any(known[name].get("group") == "traits" for name in there)
    model = fit_model(
        table[~own.isin(changed)],
        frame,
        directions=directions(run),
        kind="review" if study.method == "review" else "pairwise",
        metrics=metrics,
        prefer=[name for name in there if traits and known[name].get("in_models")],
        name=f"calibrated-{study_name}" + (f"-{attribute}" if several else ""),
    )
    hashes = run.manifest.set_index("content_id")["sha256"]
    simulated = int(frame.loc[frame["simulated"].to_numpy(bool), "observer"].nunique())
    source = {
        "study": study_name,
        "attribute": attribute,
        "run": str(run.root),
        "simulated_observers": simulated,
        "contents": {name: hashes[name] for name in model.held_out["content"].unique()},
    }
    warnings = []
    if simulated:
        warnings.append(f"{simulated} of the observers are simulated")
    if len(changed):
        told = _listed(f"{content}/{condition}" for content, condition in changed)
        warnings.append(f"other images than those that the study shows, not counted: {told}")
    used = [known[one.metric]["kind"] for one in model.features if one.metric in known]
    if "full-reference" in used and not (traits or metrics):
        warnings.append(
            "the run has references and no traits, which models are made of: percept metrics RUN "
            "--metric traits"
        )
    return replace(
        model,
        fitted_on={**source, **model.fitted_on},
        warnings=(*warnings, *model.warnings),
    )


def judgements(
    store: Store, study_name: str, attribute: str | None
) -> tuple[Study, pd.DataFrame, bool]:
    """Read the answers to one question of a study that a model can be fitted to.

    Returns
    -------
    study : Study
    frame : DataFrame
        Tidy, of the one question.
    several : bool
        Whether other questions of the study were answered, too.

    Raises
    ------
    InputError
        As of :func:`calibrate`, for whatever the study alone decides.
    """
    study = store.study(study_name)
    if study.method not in ("pairwise", "review"):
        raise InputError(
            "a model is fitted to pairwise or review studies",
            key="study",
            value=f"{study_name} ({study.method})",
        )
    frame = store.ratings(study)
    asked = sorted(frame["attribute"].unique())
    if not asked:
        raise InputError("the study has no votes", key="study", value=study_name)
    if (attribute is None and len(asked) > 1) or attribute not in (None, *asked):
        raise InputError(
            "no answer is to this question" if attribute else "the study asks several questions",
            key="--attribute",
            value=attribute,
            remedy=f"There are answers to {', '.join(asked)}",
        )
    if attribute is not None:
        frame = frame[(frame["attribute"] == attribute).to_numpy()]
    return study, frame, len(asked) > 1


def directions(run: Run) -> dict[str, bool]:
    """Of each metric of a run, whether higher is better."""
    known = run.info.get("metrics", {})
    return {name: entry["higher_is_better"] for name, entry in known.items()}


def fit_model(
    table: pd.DataFrame,
    votes: pd.DataFrame,
    *,
    directions: Mapping[str, bool],
    kind: Kind = "pairwise",
    metrics: Sequence[str] | None = None,
    prefer: Collection[str] = (),
    name: str = "calibrated",
) -> Model:
    """Fit and cross-validate a model; the arithmetic of :func:`calibrate`.

    Parameters
    ----------
    table : DataFrame
        ``content_id, condition, metric, value``.
    votes : DataFrame
        Tidy frame of pair votes (ties count half to either side) or of reviews.
    directions : mapping
        Of each metric, whether higher is better: the sign of its weight.
    kind, metrics, name
        As of :class:`Model` and :func:`calibrate`.
    prefer : collection of str
        Metrics that are used alone if every judged stimulus has them and none are asked for.
    """
    rows, warnings = count_votes(votes, kind)
    model = fit_counts(
        table, rows, directions=directions, kind=kind, metrics=metrics, prefer=prefer, name=name
    )
    observers = int(votes["observer"].nunique()) if "observer" in votes else None
    single, _ = _single_votes(votes, kind)
    ceiling = _entry("other people", _majority(single), len(single), _another_panel(single))
    return replace(
        model,
        fitted_on={**model.fitted_on, "observers": observers},
        validation=[*model.validation, ceiling],
        warnings=(*warnings, *model.warnings),
    )


def fit_counts(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    directions: Mapping[str, bool],
    kind: Kind,
    metrics: Sequence[str] | None = None,
    prefer: Collection[str] = (),
    name: str = "calibrated",
    check: bool = True,
) -> Model:
    """Fit a model to counted votes, ``content, first[, second], wins, n``.

    ``check`` cross-validates it; without, nothing is known of its worth.
    """
    values = _wide(table, metrics)
    sides = [side for side in ("first", "second") if side in rows]
    there = [pd.MultiIndex.from_frame(rows[["content", side]]).isin(values.index) for side in sides]
    there = np.logical_and.reduce(there)
    lost, rows = int(rows["n"][~there].sum()), rows[there].reset_index(drop=True)
    if rows.empty:
        raise InputError("no vote is on stimuli with metrics", remedy="Run percept metrics first")
    values, complete = _complete(values, rows, metrics)
    preferred = [name for name in complete if name in prefer]
    lacking = [name for name in values if name in prefer and values[name].isna().any()]
    used = list(dict.fromkeys(metrics or ())) or (complete if lacking else preferred or complete)
    hubs = _hubs(rows)
    against = hubs[0] if len(hubs) == 1 else None
    features = _features(values, used, directions, against)
    problem = _Problem(rows, _design(values, rows, features, kind, against), features, kind)
    everything = np.ones(len(rows), dtype=bool)
    penalty = problem.choose_penalty(everything)
    coefficients, covariance = problem.fit(everything, penalty)
    own, errors = coefficients[-len(features) :], np.sqrt(np.diag(covariance))[-len(features) :]
    features = tuple(
        replace(feature, weight=float(weight), std_error=float(error))
        for feature, weight, error in zip(features, own, errors, strict=True)
    )
    if check:
        checked = cross_validate(problem, values[complete], directions)
    else:
        checked = Validation([], 1.0, 0.0, math.nan, rows, ("not cross-validated",))
    warnings = checked.warnings
    if lost:
        warnings = (f"{lost} votes on images without metrics are left out", *warnings)
    if lacking and not metrics:
        without = int(values[lacking].isna().any(axis=1).sum())
        warnings = (
            f"{without} of {len(values)} judged stimuli lack {_listed(lacking)}, which models are "
            f"made of: fitted to what all have, {_listed(used)}",
            *warnings,
        )
    fitted_on = {
        "votes": int(rows["n"].sum()),
        "photographs": int(rows["content"].nunique()),
        "conditions": sorted(problem.conditions),
    }
    return Model(
        name=name,
        kind=kind,
        features=features,
        intercept=float(coefficients[0]) if problem.leads else None,
        covariance=covariance,
        shrink=checked.shrink,
        shift=checked.shift,
        unexplained=checked.unexplained,
        penalty=penalty,
        fitted_on=fitted_on,
        validation=checked.rows,
        held_out=checked.held_out,
        against=against,
        warnings=warnings,
    )


def _listed(names: Iterable[object]) -> str:
    """List names, the first few if they are many."""
    told = list(map(str, names))
    return ", ".join(told[:5]) + (f" and {len(told) - 5} more" if len(told) > 5 else "")


def _wide(table: pd.DataFrame, metrics: Sequence[str] | None) -> pd.DataFrame:
    """Values (stimuli, metrics), indexed by (content, condition)."""
    if table.empty:
        raise InputError("the run has no metrics", remedy="Run percept metrics first")
    table = table[~table["metric"].str.startswith("calibrated")]
    table = table.rename(columns={"content_id": "content"})
    wide = table.set_index(["content", "condition", "metric"])["value"].unstack()  # noqa: PD010
    for name in metrics or ():
        if name not in wide:
            raise InputError(
                "the run has no such metric",
                key="--metric",
                value=name,
                remedy=f"It has {', '.join(wide.columns)}",
            )
    return wide


def count_votes(votes: pd.DataFrame, kind: Kind) -> tuple[pd.DataFrame, list[str]]:
    """Count the votes of a tidy frame: ``content, first[, second], wins, n``, and warnings.

    Of pairs, ``wins`` counts for the first, and a tie half; of reviews it counts "accept".
    Votes that show an anchor or the reference are left out, unless all do: what everybody sees
    teaches little.
    """
    single, warnings = _single_votes(votes, kind)
    return _counted(single), warnings


def _counted(single: pd.DataFrame) -> pd.DataFrame:
    keys = [name for name in ("content", "first", "second") if name in single]
    grouped = single.groupby(keys, sort=True)["wins"].agg(["sum", "size"])
    return grouped.reset_index().rename(columns={"sum": "wins", "size": "n"})


def _single_votes(votes: pd.DataFrame, kind: Kind) -> tuple[pd.DataFrame, list[str]]:
    """Votes that count, each a row ``content, first[, second], wins[, observer]``; warnings."""
    if kind == "review":
        rows = counted_rows(votes, ("content", "condition", "verdict"))
        keys = [name for name in ("session", "trial") if name in rows]
        rows = rows.drop_duplicates(keys) if "trial" in keys else rows
        rows = rows[rows["verdict"].isin(("accept", "fix", "reject")).to_numpy()]
        accepted = (rows["verdict"] == "accept").astype(float)
        counted = rows[["content"]].assign(first=rows["condition"], wins=accepted)
    else:
        rows = counted_rows(votes, ("content", "left", "right", "choice"))
        rows = rows[rows["choice"].isin(("left", "right", "tie")).to_numpy()]
        flip = (rows["left"] > rows["right"]).to_numpy()
        won = rows["choice"].map({"left": 1.0, "tie": 0.5, "right": 0.0}).to_numpy(float)
        counted = rows[["content"]].assign(
            first=np.where(flip, rows["right"], rows["left"]),
            second=np.where(flip, rows["left"], rows["right"]),
            wins=np.where(flip, 1 - won, won),
        )
    sides = [side for side in ("first", "second") if side in counted]
    anchored = counted[sides].isin(_ANCHORS).any(axis=1).to_numpy()
    warnings = []
    if counted.empty:
        raise InputError("the study has no votes")
    if anchored.any() and not anchored.all():
        warnings.append(f"{int(anchored.sum())} votes that show gray or the reference are left out")
        counted = counted[~anchored]
    if "observer" in rows:
        counted = counted.assign(observer=rows["observer"])
    return counted, warnings


def _hubs(rows: pd.DataFrame) -> list[str]:
    """Conditions in every vote on pairs, such as a reference that all are compared with."""
    sides = [side for side in ("first", "second") if side in rows]
    ends = rows[sides]
    own = set(ends.iloc[0]) if len(sides) == 2 else set()
    return sorted(c for c in own if (ends == c).any(axis=1).all())


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    """List the stimuli that votes are on: ``content, condition``."""
    sides = [side for side in ("first", "second") if side in rows]
    parts = [rows[["content", side]].set_axis(["content", "condition"], axis=1) for side in sides]
    return pd.concat(parts).drop_duplicates(ignore_index=True)


def _complete(
    values: pd.DataFrame, rows: pd.DataFrame, asked: Sequence[str] | None
) -> tuple[pd.DataFrame, list[str]]:
    """Values of the judged stimuli, of the metrics that all of them have and that vary."""
    own = values.reindex(pd.MultiIndex.from_frame(_judged(rows)))
    finite = own.replace(math.inf, np.nan)
    complete = own.columns[own.notna().all() & (finite.max() > finite.min())]
    lacking = [name for name in asked or () if name not in complete]
    if lacking:
        raise InputError(
            "some judged stimuli have no value of this metric, or all have the same",
            key="--metric",
            value=lacking[0],
        )
    if complete.empty:
        raise InputError("there is no metric that all judged stimuli have")
    return own, list(complete)


def _features(
    values: pd.DataFrame,
    used: Sequence[str],
    directions: Mapping[str, bool],
    against: str | None,
) -> tuple[Feature, ...]:
    """Choose transforms and scales, from metric values alone: no vote is looked at."""
    features = []
    for name in used:
        own = values[name].to_numpy(float)
        finite = own[np.isfinite(own)]
        low, high = float(finite.min()), float(finite.max())
        direction = (1 if directions[name] else -1) if name in directions else 0
        feature = Feature(
            metric=name, root=low >= 0, direction=direction,
            centre=0.0, scale=1.0, low=low, high=high,
        )  # fmt: skip
        series = pd.Series(feature.transform(own), values.index)
        centred = series - series.groupby(level=0).transform("mean")
        scale = float(np.sqrt(2 * np.mean(centred**2))) or 1.0
        feature = replace(feature, centre=float(series.mean()), scale=scale)
        if against is not None:
            common = feature.transform(values.xs(against, level=1)[name].to_numpy(float))
            same = np.ptp(common) < 1e-6  # but for rounding
            feature = replace(feature, origin=float(np.median(common)) if same else None)
        features.append(feature)
    return tuple(features)


def _phi(values: pd.DataFrame, features: Sequence[Feature]) -> FloatArray:
    """Transform metrics: (stimuli, d)."""
    columns = [f.transform(values[f.metric].to_numpy(float)) for f in features]
    return np.stack(columns, axis=1)


def _design(
    values: pd.DataFrame,
    rows: pd.DataFrame,
    features: Sequence[Feature],
    kind: Kind,
    against: str | None,
) -> FloatArray:
    """Rows of the regression (n, d).

    They begin with a 1 for reviews; where all votes show one condition, with 1 if that comes first
    and -1 if second: by how much more it is preferred to all others must not be read as the worth
    of the metrics, in which it may be apart from all others, too.
    """
    phi = pd.DataFrame(_phi(values, features), index=values.index)

    def of(side: str) -> FloatArray:
        index = pd.MultiIndex.from_arrays([rows["content"], rows[side]])
        return phi.reindex(index).to_numpy(float)

    if kind == "review":
        return np.column_stack([np.ones(len(rows)), of("first")])
    difference = of("first") - of("second")
    if against is None:
        return difference
    lead = (rows["first"] == against).astype(float) - (rows["second"] == against).astype(float)
    return np.column_stack([lead, difference])


class _Problem:
    """The regression, and its folds.

    Votes on the same pair share what only these two images have, so that twenty of them say less
    than twenty pairs: a row weighs at most as much as three votes.
    """

    def __init__(
        self, rows: pd.DataFrame, design: FloatArray, features: Sequence[Feature], kind: Kind
    ) -> None:
        self.rows, self.design, self.kind = rows, design, kind
        signs = [feature.direction for feature in features]
        self.leads = design.shape[1] > len(features)
        self.signs = np.array([0, *signs] if self.leads else signs, dtype=float)
        n = rows["n"].to_numpy(float)
        self.share = rows["wins"].to_numpy(float) / n
        self.weight = n * 3 / (n + 2)
        self.sides = [side for side in ("first", "second") if side in rows]
        self.conditions = sorted(set().union(*(rows[side] for side in self.sides)))
        contents = sorted(rows["content"].unique())
        folds = min(len(contents), CONTENT_FOLDS)
        fold = {content: i % folds for i, content in enumerate(contents)}
        self.fold = rows["content"].map(fold).to_numpy(int)
        self.n_folds = folds
        self.hubs = _hubs(rows)  # they cannot be left out
        others = [c for c in self.conditions if c not in self.hubs]
        groups = min(len(others), CONDITION_GROUPS)
        group = {condition: i % groups for i, condition in enumerate(others)}
        group |= dict.fromkeys(self.hubs, _HUB)
        self.group = np.stack([rows[side].map(group).to_numpy(int) for side in self.sides], axis=1)
        self.n_groups = groups

    def fit(self, use: npt.NDArray[np.bool_], penalty: float) -> tuple[FloatArray, FloatArray]:
        """Coefficients (d,) of the right signs and their covariance, by projected Newton steps.

        A weight of 0 stays there while the slope would take it to the wrong side (Bertsekas 1982).
        """
        x, y, w = self.design[use], self.share[use], self.weight[use]
        ridge = np.full(x.shape[1], penalty * w.sum())
        if self.leads:
            ridge[0] = 1e-6 * w.sum()

        def cost(beta: FloatArray) -> float:
            eta = x @ beta
            return float((w * (np.logaddexp(0, eta) - y * eta)).sum() + ridge @ beta**2 / 2)

        beta = np.zeros(x.shape[1])
        reached = cost(beta)
        for _ in range(100):
            p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
            hessian = (x * (w * p * (1 - p))[:, None]).T @ x + np.diag(ridge)
            slope = x.T @ (w * (y - p)) - ridge * beta
            free = (beta != 0) | (self.signs * slope >= 0)
            step = np.zeros(x.shape[1])
            step[free] = np.linalg.solve(hessian[np.ix_(free, free)], slope[free])
            for _ in range(30):
                tried = np.where(self.signs * (beta + step) < 0, 0.0, beta + step)
                if cost(tried) <= reached:
                    break
                step /= 2
            moved = float(np.abs(tried - beta).max())
            beta, reached = tried, cost(tried)
            if moved < 1e-8:
                break
        residual = w * (y - p) ** 2 / np.maximum(p * (1 - p), 1e-3)
        dispersion = max(1.0, float(residual.sum() / max(len(y) - x.shape[1], 1)))
        return beta, dispersion * np.linalg.inv(hessian)

    def loss(self, eta: FloatArray, use: npt.NDArray[np.bool_]) -> float:
        """Mean negative log-likelihood of the votes of these rows."""
        y, n = self.share[use], self.rows["n"].to_numpy(float)[use]
        losses = np.logaddexp(0, -eta) * y + np.logaddexp(0, eta) * (1 - y)
        return float((losses * n).sum() / n.sum())

    def choose_penalty(self, use: npt.NDArray[np.bool_]) -> float:
        """Penalty with the least loss on photographs held out (five folds)."""
        fold = self.fold % 5
        losses = np.zeros(len(PENALTIES))
        for held in np.unique(fold[use]):
            out, rest = use & (fold == held), use & (fold != held)
            if rest.any():
                for i, penalty in enumerate(PENALTIES):
                    beta, _ = self.fit(rest, penalty)
                    losses[i] += self.loss(self.design[out] @ beta, out) * out.sum()
        return PENALTIES[int(np.argmin(losses))]

    def splits(self) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
        """Rows held out, and the rows without their photographs and conditions to fit on."""
        pairs = np.sort(self.group, axis=1)
        for fold in range(self.n_folds):
            for pair in np.unique(pairs[self.fold == fold], axis=0):
                held = (self.fold == fold) & (pairs == pair).all(axis=1)
                rest = self.fold != fold
                if self.leaves_conditions:
                    rest &= ~np.isin(self.group, pair[pair != _HUB]).any(axis=1)
                yield held, rest

    @property
    def leaves_conditions(self) -> bool:
        """Whether enough conditions are left to fit on without those of a vote."""
        return self.n_groups >= len(self.sides) + 2


# -- what it is worth ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Validation:
    """Held-out worth of a model beside other predictors.

    Attributes
    ----------
    rows : list of dict
        ``predictor, accuracy, low, high, votes, rank, rank_low, rank_high``; of the model, each
        metric, and the lookup. ``accuracy`` is the share of votes on its side, ``rank``
        Spearman's coefficient with people inside a photograph; None: not estimable.
    shrink, shift, unexplained : float
        As of :class:`Model`.
    held_out : DataFrame
        ``content, first[, second], wins, n, log_odds, lookup``: what models that saw neither the
        photograph nor the conditions say.
    warnings : tuple of str
    """

    rows: list[dict[str, Any]]
    shrink: float
    shift: float
    unexplained: float
    held_out: pd.DataFrame
    warnings: tuple[str, ...]


def cross_validate(
    problem: _Problem, values: pd.DataFrame, directions: Mapping[str, bool]
) -> Validation:
    """Predict every vote by a model that saw neither its photograph nor its conditions.

    The lookup, "how does this condition do on other photographs", knows the conditions; it is no
    metric and cannot speak of new ones, but a model that recognises conditions looks like it.
    """
    n = len(problem.rows)
    eta, warnings = np.full(n, np.nan), []
    for held, rest in problem.splits():
        if rest.any():
            beta, _ = problem.fit(rest, problem.choose_penalty(rest))
            eta[held] = problem.design[held] @ beta
    if not problem.leaves_conditions:
        warnings.append(
            f"only {len(problem.conditions)} conditions: they could not be left out, so nothing "
            "is known of new ones"
        )
    if problem.n_folds < 10:
        plural = "" if problem.n_folds == 1 else "s"
        warnings.append(f"only {problem.n_folds} photograph{plural}")
    lookup = _lookup(problem)
    held_out = problem.rows.assign(log_odds=eta, lookup=lookup)
    rows = [_worth("model", eta, problem)]
    for name, own in values.items():
        sign = 1.0 if directions.get(str(name), True) else -1.0
        finite = own[np.isfinite(own)]  # PSNR may be infinite: better than all that is not
        own = sign * own.clip(finite.min() - 1, finite.max() + 1)
        sides = [own.reindex(_stimuli(problem.rows, s)).to_numpy(float) for s in problem.sides]
        told = sides[0] - sides[1] if len(sides) == 2 else sides[0]
        rows.append(_worth(str(name), told, problem, decides=len(sides) == 2))
    rows.append(_worth("lookup", lookup, problem))
    lead = problem.design[:, 0] if problem.leads else np.zeros(n)
    if problem.leads and problem.kind == "pairwise":
        ahead = np.average((problem.share - 0.5) * lead, weights=problem.rows["n"])
        rows.append(_worth("the constant alone", lead * ahead, problem))
    known = np.isfinite(eta)
    shrink, shift = _calibration(eta[known], lead[known], problem, known)
    if shrink == 0.0:
        floor = "its constant alone" if problem.leads else "chance"
        warnings.append(f"held out, the model predicts no better than {floor}: do not use it")
    unexplained = _unexplained(shrink * eta[known] + shift * lead[known], problem, known)
    if not known.any():
        warnings.append("nothing could be held out: the model's worth is not known")
    elif math.isnan(unexplained):
        warnings.append("nothing was judged twice: standard errors speak of the weights alone")
    return Validation(rows, shrink, shift, unexplained, held_out, tuple(warnings))


def _calibration(
    eta: FloatArray, lead: FloatArray, problem: _Problem, known: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Slope in [0, 1] and multiple of ``lead`` that make held-out log-odds most likely."""
    if not known.any():
        return 0.0, 0.0
    limit = (-10.0, 10.0) if lead.any() else (0.0, 0.0)
    found = minimize(
        lambda x: problem.loss(x[0] * eta + x[1] * lead, known),
        np.array([0.5, 0.0]), bounds=[(0.0, 1.0), limit], method="L-BFGS-B",
    )  # fmt: skip
    slope, shift = map(float, found.x)
    return (0.0 if slope < 0.01 else slope), shift


def _unexplained(eta: FloatArray, problem: _Problem, known: npt.NDArray[np.bool_]) -> float:
    """Spread of stimuli about the model, by moments.

    A share of n votes varies by ``p(1 − p)/n + (p(1 − p))² τ² (1 − 1/n)``.
    """
    n = problem.rows["n"].to_numpy(float)[known]
    p = 1 / (1 + np.exp(-eta))
    chance = p * (1 - p)
    room = (chance**2 * (1 - 1 / n) * n).sum()
    if not room > 0:
        return math.nan
    excess = (n * (problem.share[known] - p) ** 2 - chance).sum()
    return math.sqrt(max(excess, 0.0) / room / len(problem.sides))


def _lookup(problem: _Problem) -> FloatArray:
    """Log-odds from how the conditions do on other photographs."""
    rows = problem.rows
    result = np.full(len(rows), np.nan)
    for fold in range(problem.n_folds):
        rest, held = rows[problem.fold != fold], problem.fold == fold
        won: dict[str, float] = {}
        for condition in problem.conditions:
            first = rest[rest["first"] == condition]
            wins, n = first["wins"].sum(), first["n"].sum()
            if "second" in rest:
                second = rest[rest["second"] == condition]
                wins, n = wins + (second["n"] - second["wins"]).sum(), n + second["n"].sum()
            share = (wins + 1) / (n + 2)
            won[condition] = math.log(share / (1 - share))
        scores = [rows[side].map(won).to_numpy(float) for side in problem.sides]
        result[held] = (scores[0] - (scores[1] if len(scores) > 1 else 0.0))[held]
    return result


def _stimuli(rows: pd.DataFrame, side: str) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([rows["content"], rows[side]], names=["content", "condition"])


def _worth(
    name: str, eta: FloatArray, problem: _Problem, *, decides: bool = True
) -> dict[str, Any]:
    """Share of votes on the side that the predictor is on, with an interval for new photographs.

    Half of each tie counts to either side; equal values count half. ``decides``: whether the sign
    of ``eta`` says what a vote will be.
    """
    known = np.isfinite(eta) | (not decides)
    rows, share = problem.rows[known], problem.share[known]
    right = np.where(eta[known] == 0, 0.5, np.where(eta[known] > 0, share, 1 - share))
    found = stats.cluster_mean(
        right, rows, cluster=("content",), weights=rows["n"].to_numpy(float), share=True
    )
    people, ours = standing(rows, share - 0.5), standing(rows, eta[known])
    rank = _mean_rank(rank_within(_without(problem.hubs, people), ours))
    return _entry(name, found if decides else None, int(rows["n"].sum()), rank)


def standing(rows: pd.DataFrame, log_odds: npt.ArrayLike) -> pd.Series:
    """Mean over a stimulus's votes of what is said for it, of ``(content, condition)``.

    Parameters
    ----------
    rows : DataFrame
        Counted votes, ``content, first[, second], n``.
    log_odds : array (n,)
        For the first: log-odds, or a share of votes less one half. The second has its negative.
    """
    parts = []
    for side, sign in (("first", 1.0), ("second", -1.0)):
        if side in rows:
            value = sign * np.asarray(log_odds, float)
            parts.append(pd.DataFrame({"sum": value * rows["n"], "n": rows["n"]}))
            parts[-1].index = _stimuli(rows, side)
    total = pd.concat(parts).groupby(level=[0, 1]).sum()
    return total["sum"] / total["n"]


def rank_within(people: pd.Series, values: pd.Series) -> pd.Series:
    """Spearman's coefficient inside each photograph, of ``content``.

    Photographs with fewer than three stimuli, or on which people are all of one mind, have none;
    values that are all the same count as 0.
    """
    both = pd.DataFrame({"people": people, "values": values}).dropna()
    ranks = both.groupby(level=0).rank()
    centred = ranks - ranks.groupby(level=0).transform("mean")
    by_photograph = centred.groupby(level=0)
    squares = (centred**2).groupby(level=0).sum()
    product = (centred["people"] * centred["values"]).groupby(level=0).sum()
    scale = (squares["people"] * squares["values"]) ** 0.5
    told = (by_photograph.size() >= 3) & (squares["people"] > 0)
    return (product / scale.where(scale > 0, 1.0))[told]


def _without(hubs: Sequence[str], people: pd.Series) -> pd.Series:
    """Leave out conditions in every vote: their lead over the others is what all votes are of."""
    return people[~people.index.isin(hubs, level="condition")]


def _mean_rank(by_photograph: pd.Series) -> Estimate:
    frame = pd.DataFrame({"content": by_photograph.index})
    found = stats.cluster_mean(by_photograph.to_numpy(float), frame, cluster=("content",))
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))


def _majority(single: pd.DataFrame) -> Estimate:
    """Share of votes on the side that most other people are on, for the same pair or output.

    Half of each tie counts to either side, and of a vote on which the others are split or silent.
    """
    keys = [name for name in ("content", "first", "second") if name in single]
    votes = single.assign(n=1.0)
    if "observer" not in votes:
        votes["observer"] = np.arange(len(votes))
    everybody = votes.groupby(keys)[["wins", "n"]].transform("sum")
    own = votes.groupby([*keys, "observer"])[["wins", "n"]].transform("sum")
    others = everybody - own
    known = (others["n"] > 0).to_numpy()
    lead = (others["wins"] - others["n"] / 2).to_numpy()[known]
    wins = votes["wins"].to_numpy()[known]
    right = np.where(lead == 0, 0.5, np.where(lead > 0, wins, 1 - wins))
    return stats.cluster_mean(right, votes[known], cluster=("content",), share=True)


def _another_panel(single: pd.DataFrame) -> Estimate | None:
    """Rank correlation inside a photograph that another panel as large would reach.

    Of one half of the observers with the other, mean of splits, stepped up by Spearman & Brown.
    """
    if "observer" not in single or single["observer"].nunique() < 2:
        return None
    observers, rng = single["observer"].unique(), np.random.default_rng(0)
    hubs = _hubs(single)
    splits = []
    for _ in range(_SPLITS):
        drawn = single["observer"].isin(rng.permutation(observers)[: len(observers) // 2])
        halves = [_counted(half) for half in (single[drawn], single[~drawn])]
        one, other = (standing(half, half["wins"] / half["n"] - 0.5) for half in halves)
        splits.append(rank_within(_without(hubs, one), other))
    half = _mean_rank(pd.concat(splits).groupby(level=0).mean())
    # A correlation below 0 is not one of reliability: there is nothing to step up.
    value, low, high = (2 * r / (1 + r) if r > 0 else r for r in (half.value, half.low, half.high))
    return replace(half, value=value, low=low, high=high)


def _entry(name: str, share: Estimate | None, votes: int, rank: Estimate | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"predictor": name}
    for prefix, found in (("", share), ("rank_", rank)):
        for key in ("value", "low", "high"):
            number = math.nan if found is None else getattr(found, key)
            label = ("rank" if prefix else "accuracy") if key == "value" else f"{prefix}{key}"
            entry[label] = None if math.isnan(number) else round(number, 4)
    return entry | {"votes": votes}


# -- using it ------------------------------------------------------------------------------------


def predict(model: Model, table: pd.DataFrame) -> pd.DataFrame:
    """Predict the scores of stimuli.

    Parameters
    ----------
    model : Model
        As fitted.
    table : DataFrame
        ``content_id, condition, metric, value``, with the model's metrics.

    Returns
    -------
    DataFrame
        ``content, condition, score, relative_to, std_error, outside``. ``score`` in log-odds,
        higher is preferred. Of pairwise models it is relative to the same photograph's image of
        ``model.against``; where that is missing, to what it always was in the fit; and where it
        was not always the same, to the mean of the photograph's images. ``relative_to`` tells:
        the condition, or nothing for the mean and for reviews. Only scores that are relative to
        the same compare across photographs.
        ``std_error``: uncertainty of the weights and what the model does not see.
        ``outside``: metrics that lie beyond what it was fitted on; empty if none.
        Stimuli that lack one of the metrics have no row.

    Raises
    ------
    InputError
        The table lacks one of the model's metrics altogether.
    """
    values = _values_for(model, table)
    phi = _phi(values, model.features)
    relative_to = np.full(len(phi), "", dtype=object)
    lead = np.ones(len(phi))
    if model.kind == "pairwise":
        frame = pd.DataFrame(phi, index=values.index)
        origin = frame.groupby(level=0).transform("mean")
        if model.against is not None:
            contents, conditions = (values.index.get_level_values(level) for level in (0, 1))
            common = [f.origin for f in model.features]
            known = frame[conditions == model.against].droplevel(1).reindex(contents)
            known = known.set_axis(values.index)
            if None not in common:
                known = known.fillna(dict(enumerate(common)))
            there = known.notna().all(axis=1).to_numpy()
            relative_to[there] = model.against
            lead = np.where(there & (conditions != model.against), -1.0, 0.0)
            origin = known.fillna(origin)
        phi = (frame - origin).to_numpy()
    if model.intercept is not None:
        phi = np.column_stack([lead, phi])
    spread = np.einsum("nd,de,ne->n", phi, model.covariance, phi)
    noise = 0.0 if math.isnan(model.unexplained) else model.unexplained**2
    outside = [
        ", ".join(f.metric for f in model.features if not _inside(f, float(row[f.metric])))
        for row in values.to_dict("records")
    ]
    return pd.DataFrame(
        {
            "content": values.index.get_level_values(0),
            "condition": values.index.get_level_values(1),
            "score": phi @ model.coefficients,
            "relative_to": relative_to,
            "std_error": np.sqrt(spread + noise),
            "outside": outside,
        }
    )


def _values_for(model: Model, table: pd.DataFrame) -> pd.DataFrame:
    """Values of the model's metrics (stimuli, d), of the stimuli that have all."""
    names = [feature.metric for feature in model.features]
    lacking = sorted(set(names) - set(table["metric"]))
    if lacking:
        raise InputError(
            "the run lacks metrics that the model weighs",
            value=_listed(lacking),
            remedy="percept metrics RUN --metric calibrated:FILE, with the model's file, "
            "computes them",
        )
    return _wide(table, names)[names].dropna()


def doubts(model: Model, found: pd.DataFrame) -> list[str]:
    """Tell what a user of :func:`predict`'s frame has to know; the model's warnings come last."""
    told = []
    outside = found[(found["outside"] != "") & ~found["condition"].isin(_ANCHORS)]
    if len(outside):
        own = outside.drop_duplicates("content")
        names = [f"{row.content} ({row.outside})" for row in own.itertuples()]
        told.append(
            f"outside what the model was fitted on, do not trust it there: {_listed(names)}"
        )
    lost = found.loc[found["relative_to"] == "", "content"].unique()
    if model.against is not None and len(lost):
        told.append(
            f"without an image of {model.against}: {_listed(lost)}; scores are relative to the "
            "photograph's mean there, and compare with no other photograph's"
        )
    return [*told, *model.warnings]


def rated_photographs(model: Model, run: Run) -> set[str]:
    """Photographs of a run that the model was fitted on, whatever either calls them."""
    hashes = set(model.fitted_on.get("contents", {}).values())
    own = run.manifest
    return set(own.loc[own["sha256"].isin(hashes), "content_id"])


def design_of(model: Model, table: pd.DataFrame) -> tuple[Any, FloatArray, FloatArray]:
    """Rows that one vote on each pair (or output) would add.

    Returns contents (n,), rows (n, d), and calibrated log-odds (n,).
    """
    values = _values_for(model, table)
    values = values[~values.index.get_level_values(1).isin(_ANCHORS)]
    stimuli = values.index.to_frame(index=False)
    rows = stimuli.rename(columns={"condition": "first"})
    if model.kind == "pairwise":
        rows = rows.merge(stimuli.rename(columns={"condition": "second"}), on="content")
        rows = rows[rows["first"] < rows["second"]]
    design = _design(values, rows, model.features, model.kind, model.against)
    log_odds = model.shrink * (design @ model.coefficients)
    if model.intercept is not None:
        log_odds += model.shift * design[:, 0]
    return rows["content"].to_numpy(), design, log_odds


def _inside(feature: Feature, value: float) -> bool:
    margin = MARGIN * (feature.high - feature.low)
    if math.isinf(value):
        return True
    return feature.low - margin <= value <= feature.high + margin


def add_to_run(model: Model, run: Run, inputs_sha256: str) -> pd.DataFrame:
    """Write a model's scores into a run's metrics, and return :func:`predict`'s frame.

    Scores that are relative to something else than the others are not written.
    """
    found = predict(model, run.metrics)
    common = found[found["relative_to"] == (model.against or "")]
    lost = found["content"].nunique() - common["content"].nunique()
    skipped = {model.name: f"no image of {model.against}: {lost} photographs"} if lost else {}
    frame = common.rename(columns={"content": "content_id", "score": "value"})
    entry = {
        "kind": "calibrated",
        "higher_is_better": True,
        "unit": "log-odds",
        "fitted_on": model.fitted_on,
        "inputs_sha256": inputs_sha256,
    }
    run.write_metrics(frame.assign(metric=model.name), skipped, {model.name: entry})
    return found


# -- its file ------------------------------------------------------------------------------------


def write_model(file: str | Path, model: Model) -> None:
    """Write a model as JSON."""
    data = {
        "format": FORMAT,
        **asdict(model),
        "unexplained": None if math.isnan(model.unexplained) else model.unexplained,
        "covariance": model.covariance.tolist(),
        "held_out": model.held_out.replace({np.nan: None}).to_dict("list"),
    }
    write_json_atomic(file, data)


def read_model(file: str | Path) -> Model:
    """Read what :func:`write_model` wrote.

    Raises
    ------
    InputError
        The file is no model of this version.
    """
    data = read_json(Path(file))
    try:
        if data.pop("format") != FORMAT:
            raise ValueError
        return Model(
            **{
                **data,
                "features": tuple(Feature(**entry) for entry in data["features"]),
                "unexplained": math.nan if data["unexplained"] is None else data["unexplained"],
                "covariance": np.asarray(data["covariance"], dtype=float),
                "held_out": pd.DataFrame(data["held_out"]),
                "warnings": tuple(data["warnings"]),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            "not a model of percept calibrate", file=file, remedy="Make one with percept calibrate"
        ) from None
