"""What observers say of each image by itself, per condition: rating, real or fake, review.

And how conditions differ: from each other, and from a baseline (:func:`compare`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from percept import stats
from percept.errors import InputError
from percept.report.data import (
    Part,
    StudyData,
    anchors,
    answered,
    votes_of,
    weights_of,
)
from percept.stats.bootstrap import not_estimable
from percept.stats.frames import weights_of as weight_of_rows
from percept.types import REFERENCE


@dataclass(frozen=True)
class Measure:
    """The number of a method by which conditions are put in order; higher is better."""

    name: str
    """As in every export."""
    told: str
    share: bool
    """Whether it is a share of answers."""


MEASURES = {
    "artifact": Measure("free_of_severe", "share of viewings without a severe artifact", True),
    "rating": Measure("mos", "mean grade", False),
    "real_or_fake": Measure("fool_rate", "share taken for the true photograph", True),
    "review": Measure("accepted", "share accepted", True),
}
JUDGED = ("rating", "real_or_fake", "review")

#: Of grades that are not those of the protocol: the most that are told one by one, and the
#: number of equal ranges into which more of them are put.
MOST_GRADES = 12
RANGES = 10


@dataclass(frozen=True)
class Scale:
    """The possible answers to one question, the same for all parts of a study."""

    answers: dict[str, str]
    """Every answer with its label, the worst first; grades, or ranges of them."""
    lows: tuple[float, ...] = ()
    """The lowest grade that each answer holds (rating)."""
    ends: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest grade; of shares, none and all."""
    observed: bool = False
    """Whether the ends are those of the grades given, which are not the protocol's."""

    def count(self, grades: pd.Series) -> dict[str, int]:
        """Count the grades of each answer."""
        found = np.searchsorted(self.lows, grades.to_numpy(float), side="right") - 1
        counts = np.bincount(found, minlength=len(self.lows))
        return dict(zip(self.answers, map(int, counts), strict=True))


@dataclass(frozen=True)
class Judgement:
    """What was said of one condition."""

    condition: str
    answers: dict[str, int]
    """Number of each answer: grades, verdicts, or what was taken for real."""
    estimates: dict[str, stats.Estimate]
    """``mos`` and, with a hidden reference, ``dmos``; ``fool_rate`` and ``d_prime``; or
    ``accepted``, ``fixable`` and ``rejected``."""
    reasons: dict[str, int] = field(default_factory=dict)
    """How often each reason was given (review)."""
    upper_bound: float | None = None
    """Bound on the share of photographs that anyone on such a panel rejects (review)."""


@dataclass(frozen=True)
class ImageScore:
    """Mean opinion of one image (rating); no interval where all observers agree, or of one."""

    content: str
    condition: str
    mos: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Judged(Part):
    """Judgements on one question, by all observers of all photographs, or a part of them."""

    method: str
    scale: Scale
    reasons: dict[str, str]
    results: tuple[Judgement, ...]
    """The best first."""
    gaps: dict[str, stats.Estimate]
    """How far the best colorizer lies above each other one; the confidence of these intervals is
    such that all pairs of colorizers together have the report's (Bonferroni)."""
    images: tuple[ImageScore, ...]
    problem: str

    @property
    def measure(self) -> Measure:
        """What the order is by."""
        return MEASURES[self.method]

    def main(self, result: Judgement) -> stats.Estimate:
        """Get the number that the order is by."""
        return result.estimates[self.measure.name]


def judge(study: StudyData, votes: pd.DataFrame, part: Part, confidence: float) -> Judged:
    """Analyse one part of the answers to one question."""
    protocol = study.protocol
    weights = weights_of(study)
    scale = scale_of(study, part.attribute)
    found = {"rating": _ratings, "real_or_fake": _real_or_fake, "review": _reviews}[
        protocol.method
    ](scale, votes, weights, confidence)
    measure = MEASURES[protocol.method]
    results = sorted(found, key=lambda result: -result.estimates[measure.name].value)
    left_out = anchors(study.conditions)
    rivals = [result.condition for result in results if result.condition not in left_out]
    pairs = len(rivals) * (len(rivals) - 1) // 2
    rows = scored(study, votes)
    return Judged(
        **vars(part),
        method=protocol.method,
        scale=scale,
        reasons={reason.name: reason.label for reason in protocol.reasons},
        results=tuple(results),
        gaps={
            other: difference(
                rows, rivals[0], other, measure, weights, 1 - (1 - confidence) / pairs
            )
            for other in rivals[1:]
        },
        images=()
        if part.part or protocol.method != "rating"
        else _images(scale, votes, confidence),
        problem="" if results else "There are no answers yet.",
    )


def scale_of(study: StudyData, attribute: str) -> Scale:
    """Get the scale of one question.

    Imported grades may not be those of the protocol; they have a scale of their own, from the
    lowest to the highest given by anyone.
    """
    protocol = study.protocol
    if protocol.method == "review":
        return Scale({"reject": "Reject", "fix": "Fix", "accept": "Accept"})
    if protocol.method == "real_or_fake":
        return Scale({"fake": "Told from the true one", "real": "Taken for the true one"})
    grades = {float(grade.value): grade.label for grade in protocol.scores}
    votes = study.ratings[(study.ratings["attribute"] == attribute).to_numpy(bool)]
    given = np.unique(answered(votes)["score"].astype(float))
    if np.isin(given, list(grades)).all():
        answers = {f"{grade:g}": label for grade, label in grades.items()}
        return Scale(answers, tuple(grades), (min(grades), max(grades)))
    ends = (float(given[0]), float(given[-1]))
    if given.size <= MOST_GRADES:
        answers = {name: name for name in _distinct(given)}
        return Scale(answers, tuple(given), ends, observed=True)
    edges = np.linspace(*ends, RANGES + 1)
    ranges = (f"{low} to {high}" for low, high in pairwise(_distinct(edges)))
    return Scale({name: name for name in ranges}, tuple(edges[:-1]), ends, observed=True)


def _distinct(values: np.ndarray) -> list[str]:
    """Write different numbers differently, with six digits where those suffice."""
    written = ([f"{value:.{digits}g}" for value in values] for digits in range(6, 18))
    return next(names for names in written if len(set(names)) == len(values))


def rating_frame(votes: pd.DataFrame) -> pd.DataFrame:
    """Grades (observers × images); the mean where an observer graded an image twice."""
    rows = answered(votes)
    return rows.assign(score=rows["score"].astype(float)).pivot_table(
        index="observer", columns=["content", "condition"], values="score", aggfunc="mean"
    )


def _images(scale: Scale, votes: pd.DataFrame, confidence: float) -> tuple[ImageScore, ...]:
    grades = rating_frame(votes)
    if grades.empty:
        return ()
    found = stats.mos(grades.to_numpy(float), confidence=confidence)
    images = grades.columns.to_frame(index=False).to_dict("records")
    # A few grades that happen to agree do not say that everybody's would.
    spread = np.where(found.std_error > 0, 0.0, np.nan)
    worst, best = (-np.inf, np.inf) if scale.observed else scale.ends
    low, high = (np.clip(end, worst, best) + spread for end in (found.low, found.high))
    ends = zip(found.score, low, high, found.n, strict=True)
    return tuple(
        ImageScore(
            str(image["content"]), str(image["condition"]), float(mos), float(low), float(high),
            int(n),
        )
        for image, (mos, low, high, n) in zip(images, ends, strict=True)
    )  # fmt: skip


def _ratings(
    scale: Scale, votes: pd.DataFrame, weights: pd.Series | None, confidence: float
) -> Iterator[Judgement]:
    rows = answered(votes)
    rows = rows.assign(score=rows["score"].astype(float))
    difference = _difference_grades(votes, scale.ends[1])
    for condition, own in rows.groupby("condition", sort=False):
        estimates = {"mos": _mean(own, weights, confidence, f"mean grade of {condition}")}
        beside = difference[(difference["condition"] == condition).to_numpy(bool)]
        if len(beside):
            estimates["dmos"] = _mean(
                beside, weights, confidence, f"mean differential grade of {condition}"
            )
        yield Judgement(str(condition), scale.count(own["score"]), estimates)


def _difference_grades(votes: pd.DataFrame, top: float) -> pd.DataFrame:
    """Grades against that of the hidden reference by the same observer, one row each."""
    grades = rating_frame(votes)
    true = grades.columns.get_indexer(
        pd.MultiIndex.from_arrays(
            [grades.columns.get_level_values("content"), [REFERENCE] * grades.shape[1]]
        )
    )
    columns = ["observer", "content", "condition", "score"]
    if not (true >= 0).any():
        return pd.DataFrame(columns=columns)
    values = stats.difference_ratings(grades.to_numpy(float), true, top=top)
    found = pd.DataFrame(values, index=grades.index, columns=grades.columns)
    return found.melt(ignore_index=False, value_name="score").reset_index().dropna()[columns]


def _mean(
    rows: pd.DataFrame, weights: pd.Series | None, confidence: float, method: str
) -> stats.Estimate:
    return stats.cluster_mean(
        rows["score"].to_numpy(float),
        rows[["observer", "content"]],
        weights=weight_of_rows(rows, weights),
        confidence=confidence,
        method=method,
    )


def _real_or_fake(
    _: Scale, votes: pd.DataFrame, weights: pd.Series | None, confidence: float
) -> Iterator[Judgement]:
    for found in stats.fool_rates(votes, weights=weights, confidence=confidence):
        own = answered(votes)
        own = own[(own["left"] == found.condition) | (own["right"] == found.condition)]
        fooled = int(((own["choice"] == "left") == (own["left"] == found.condition)).sum())
        yield Judgement(
            str(found.condition),
            {"fake": len(own) - fooled, "real": fooled},
            {"fool_rate": found.rate, "d_prime": found.d_prime},
        )


def _reviews(
    _: Scale, votes: pd.DataFrame, weights: pd.Series | None, confidence: float
) -> Iterator[Judgement]:
    # A rejected image is one in which something was seen: the bound is that of artifacts.
    rejected = votes.assign(artifact=votes["verdict"].where(votes["verdict"] == "reject"))
    bounds = {
        rate.condition: rate.upper_bound
        for rate in stats.artifact_rates(rejected, weights=weights, confidence=confidence)
    }
    rows = answered(votes)
    for found in stats.review_rates(votes, weights=weights, confidence=confidence):
        verdicts = rows[(rows["condition"] == found.condition).to_numpy(bool)]["verdict"]
        yield Judgement(
            str(found.condition),
            {name: int((verdicts == name).sum()) for name in ("reject", "fix", "accept")},
            {"accepted": found.accepted, "fixable": found.fixable, "rejected": found.rejected},
            found.reasons,
            bounds[found.condition],
        )


# --- differences between conditions ----------------------------------------------------------


def scored(study: StudyData, votes: pd.DataFrame) -> pd.DataFrame:
    """Return what each counted answer says of its condition: ``observer, content, condition``.

    ``score`` is what :data:`MEASURES` averages; an artifact trial counts once.
    """
    method = study.protocol.method
    rows = answered(votes)
    if method == "rating":
        score = rows["score"].astype(float)
    elif method == "review":
        score = (rows["verdict"] == "accept").astype(float)
    elif method == "real_or_fake":
        true_left = rows["left"] == REFERENCE
        rows = rows.assign(condition=rows["right"].where(true_left, rows["left"]))
        score = ((rows["choice"] == "left") != true_left).astype(float)
    else:
        worst = max(level.value for level in study.protocol.severities)
        severe = (rows["severity"] >= worst) & rows["artifact"].notna()
        score = 1.0 - severe.fillna(False).groupby(rows["trial"]).transform("max").astype(float)
        rows, score = rows[~rows["trial"].duplicated()], score[~rows["trial"].duplicated()]
    return rows.assign(score=score)[["observer", "content", "condition", "score"]]


def difference(
    rows: pd.DataFrame,
    first: str,
    second: str,
    measure: Measure,
    weights: pd.Series | None,
    confidence: float,
) -> stats.Estimate:
    """How far one condition lies above another in what :func:`scored` says."""
    return stats.mean_difference(
        rows,
        first,
        second,
        weights=weights,
        share=measure.share,
        confidence=confidence,
        method=measure.told,
    )


# --- against a baseline ----------------------------------------------------------------------


Verdict = Literal["better", "no change seen", "worse", "not estimable", "missing"]


@dataclass(frozen=True)
class Change:
    """One condition against the baseline."""

    condition: str
    change: stats.Estimate
    """How far it lies above the baseline; below zero is worse. The confidence of the interval is
    such that all changes of the comparison together have the report's (Bonferroni)."""
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Every condition of one study against a baseline, on one question."""

    study: str
    attribute: str
    baseline: str
    kind: Literal["condition", "study"]
    """Whether the baseline is one condition, or the same conditions in another study."""
    measure: str
    share: bool
    """Whether the changes are of shares, between -1 and 1."""
    changes: tuple[Change, ...]

    @property
    def worse(self) -> tuple[str, ...]:
        """Conditions that got worse: the whole interval lies below no change."""
        return tuple(entry.condition for entry in self.changes if entry.verdict == "worse")


def compare_all(
    parts: Sequence[tuple[StudyData, str]], baseline: str | StudyData, confidence: float
) -> tuple[Comparison, ...]:
    """Compare every study and question; what only the baseline has is missing.

    Raises
    ------
    InputError
        None has it, or a study cannot be compared with the other one.
    """
    names = dict.fromkeys(name for study, _ in parts for name in study.conditions["condition"])
    if isinstance(baseline, str) and baseline not in names:
        raise InputError(
            "no such study, and no such condition in the studies of the report",
            key="--baseline",
            value=baseline,
            remedy=f"Conditions: {', '.join(names)}",
        )
    found = [compare(study, attribute, baseline, confidence) for study, attribute in parts]
    if not isinstance(baseline, str):
        asked = {attribute for _, attribute in parts}
        found += [
            _comparison(parts[0][0], entry.name, baseline, (), _colorizers(baseline))
            for entry in baseline.protocol.attributes
            if entry.name not in asked
        ]
    return tuple(found)


def compare(
    study: StudyData, attribute: str, baseline: str | StudyData, confidence: float
) -> Comparison:
    """Hold the colorizers of a study against one of them, or against themselves in another study.

    Observers of two studies are different people, photographs of the same name the same.

    Raises
    ------
    InputError
        The other study is of another method or question, or shares nothing with this one.
    """
    missing: list[str] = []
    if isinstance(baseline, str):
        changes = _from_condition(study, attribute, baseline)
    else:
        changes = _from_study(study, attribute, baseline)
        missing = [name for name in _colorizers(baseline) if name not in _colorizers(study)]
    # The number of changes that can be judged is known before their intervals are.
    tested = sum(_ends(change) for _, change in changes(confidence)) or 1
    found = changes(1 - (1 - confidence) / tested)
    return _comparison(study, attribute, baseline, found, missing)


def _comparison(
    study: StudyData,
    attribute: str,
    baseline: str | StudyData,
    changes: Sequence[tuple[str, stats.Estimate]],
    missing: Sequence[str],
) -> Comparison:
    paired = study.protocol.method == "pairwise"
    gone = stats.Estimate(np.nan, np.nan, np.nan, 0, f"not in study {study.name}")
    return Comparison(
        study.name,
        attribute,
        baseline if isinstance(baseline, str) else baseline.name,
        "condition" if isinstance(baseline, str) else "study",
        "JOD" if paired else MEASURES[study.protocol.method].told,
        not paired and MEASURES[study.protocol.method].share,
        (
            *(Change(name, change, _verdict(change)) for name, change in changes),
            *(Change(name, gone, "missing") for name in missing),
        ),
    )


def _ends(change: stats.Estimate) -> bool:
    return change.estimable and bool(np.isfinite([change.low, change.high]).all())


def _verdict(change: stats.Estimate) -> Verdict:
    if not _ends(change):
        return "not estimable"
    if change.low > 0:
        return "better"
    return "worse" if change.high < 0 else "no change seen"


#: The condition and its change, of all conditions, at the confidence of each interval.
Changes = Callable[[float], list[tuple[str, stats.Estimate]]]


def _colorizers(study: StudyData) -> list[str]:
    left_out = anchors(study.conditions)
    return [str(name) for name in study.conditions["condition"] if name not in left_out]


def _from_condition(study: StudyData, attribute: str, baseline: str) -> Changes:
    others = [name for name in _colorizers(study) if name != baseline]
    votes = votes_of(study, attribute)
    return _differences(
        study, votes, [(name, name, baseline) for name in others], weights_of(study)
    )


def _from_study(study: StudyData, attribute: str, before: StudyData) -> Changes:
    method = study.protocol.method
    asked = [entry.name for entry in before.protocol.attributes]
    if before.protocol.method != method or attribute not in asked:
        raise InputError(
            f"study {before.name!r} does not ask {attribute!r} by the {method} method",
            key="--baseline",
            value=before.name,
            remedy=f"Compare studies of one protocol with {study.name!r}",
        )
    if method == "rating" and before.protocol.scores != study.protocol.scores:
        raise InputError(
            "the two studies grade on different scales", key="--baseline", value=before.name
        )
    shared = [name for name in _colorizers(study) if name in _colorizers(before)]
    if not shared:
        raise InputError(
            f"the study shares no condition with {study.name!r}",
            key="--baseline",
            value=before.name,
            remedy=f"It has {', '.join(before.conditions['condition'])}",
        )
    links = set(anchors(study.conditions)) & set(anchors(before.conditions))
    if method == "pairwise" and not links:
        raise InputError(
            "pairs of two studies are compared through what is the same in both, and neither the "
            "grey photograph nor the true colours are in both",
            key="--baseline",
            value=before.name,
            remedy="Run both with the condition gray, or compare conditions of one study",
        )
    joined = []
    for when, one in (("after", study), ("before", before)):
        votes = votes_of(one, attribute)
        names = {
            name: f"{name} {when}" for name in one.conditions["condition"] if name not in links
        }
        columns = [name for name in ("left", "right", "condition") if name in votes]
        # Two studies may have trials, sessions and observers of one name; they are others.
        keys = [name for name in ("observer", "session", "trial") if name in votes]
        joined.append(
            votes.assign(
                **{name: votes[name].replace(names) for name in columns},
                **{name: when + " " + votes[name].astype(str) for name in keys},
            )
        )
    weights = [found for found in (weights_of(before), weights_of(study)) if found is not None]
    every = pd.concat(weights) if weights else None
    return _differences(
        study,
        pd.concat(joined, ignore_index=True),
        [(name, f"{name} after", f"{name} before") for name in shared],
        None if every is None else every[~every.index.duplicated(keep="last")],
    )


def _differences(
    study: StudyData,
    votes: pd.DataFrame,
    pairs: Sequence[tuple[str, str, str]],
    weights: pd.Series | None,
) -> Changes:
    """For each (name, first, second) how far the first lies above the second, at a confidence."""
    method = study.protocol.method
    nothing = not_estimable("no votes", method="JOD")
    if method != "pairwise":
        rows = scored(study, votes)
        return lambda confidence: [
            (name, difference(rows, first, second, MEASURES[method], weights, confidence))
            for name, first, second in pairs
        ]
    if answered(votes).empty:
        return lambda _: [(name, nothing) for name, _, _ in pairs]
    scale = stats.bradley_terry(votes.fillna({"count": 1.0}))

    def on_scale(confidence: float) -> list[tuple[str, stats.Estimate]]:
        at = replace(scale, confidence=confidence)  # of differences; nothing else is used
        return [
            (
                name,
                at.difference(first, second, unit="jod")
                if first in scale.items and second in scale.items
                else nothing,
            )
            for name, first, second in pairs
        ]

    return on_scale
