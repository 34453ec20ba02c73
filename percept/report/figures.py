"""The figures: one function each, results in, a standalone SVG out.

SVG is written directly. The text of a figure stays text (in the page's own fonts, searchable,
sharp in print), a figure weighs a few kilobytes, and equal numbers give equal bytes. Colours are
those of Okabe and Ito (2008), which remain distinct under the common colour-vision deficiencies;
every mark is labelled in words as well.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from percept import stats
from percept.report import words
from percept.types import GRAY, REFERENCE

if TYPE_CHECKING:
    from percept.report.against import Metrics
    from percept.report.build import (
        ArtifactPart,
        Artifacts,
        People,
        Preference,
        Report,
        StudyFacts,
        Why,
    )
    from percept.report.judged import Comparison, Judged

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#4D4D4D")
INK, SOFT, RULE, PAPER, WARN = "#1c1c1a", "#5c5c57", "#dcdad3", "#ffffff", "#9c3b00"
FONT = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
WIDTH = 400.0
MOST_COLUMNS = 16  # that a table of coloured cells has room for
LEAST_SIZE = 9.5  # of numbers in such a table
CHARACTER = 0.57  # width of a figure, sign or space in a number, in font sizes


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    ``name`` is its file stem, ``alt`` says in words what it shows, ``caption`` how to read it.
    """

    name: str
    alt: str
    svg: str
    caption: str = ""


def draw(report: Report) -> dict[str, tuple[Figure, ...]]:
    """Draw every figure of a report, by the section (or section/study) that it belongs to."""
    facts = {fact.study: fact for fact in report.studies}
    names = dict.fromkeys(name for fact in report.studies for name in fact.conditions)
    anchors = {name: kind for fact in report.studies for name, kind in fact.anchors.items()}
    colors = condition_colors(list(names), anchors)
    found: dict[str, list[Figure]] = {}
    taken: set[str] = set()

    def add(section: str, figure: Figure | None) -> None:
        if figure is not None:
            name, n = figure.name, 1
            while name in taken:  # of parts that differ in what a file name leaves out
                n += 1
                name = f"{figure.name}-{n}"
            taken.add(name)
            found.setdefault(section, []).append(replace(figure, name=name))

    for people in report.people:
        add("people", response_times(people, _stamp(facts[people.study])))
    add("agreement", agreement(report))
    domains = _domains(report.preference)
    for part in report.preference:
        domain = domains.get((part.study, part.attribute))
        key, stamp = f"{part.study}/{part.attribute}", _stamp(facts[part.study])
        if not part.part:
            add(f"answer/{key}", preference_scale(part, colors, domain, stamp))
            add(f"answer/{key}", over_gray(part, facts[part.study].anchors, colors, stamp))
            add(f"preference/{key}", pair_shares(part, facts[part.study], stamp))
        else:
            add(f"parts/{key}", preference_scale(part, colors, domain, stamp))
    for judged in report.judged:
        key, stamp = f"{judged.study}/{judged.attribute}", _stamp(facts[judged.study])
        if judged.part:
            add(f"parts/{key}", main_numbers(judged, colors, stamp))
            continue
        add(f"answer/{key}", main_numbers(judged, colors, stamp))
        add(f"{judged.method}/{key}", answer_shares(judged, stamp))
        add(f"{judged.method}/{key}", second_numbers(judged, colors, stamp))
        add(f"{judged.method}/{key}", reasons(judged, stamp))
    for comparison in report.comparison:
        add("comparison", changes(comparison, colors, _stamp(facts[comparison.study])))
    for why in report.why:
        add("why", marks_on_losers(why, _stamp(facts[why.study])))
    for one in report.artifacts:
        stamp = _stamp(facts[one.study])
        for attribute in facts[one.study].attributes:
            add(f"answer/{one.study}/{attribute}", free_of_severe(one, colors, stamp))
        for some in one.parts:
            add(f"artifact-parts/{one.study}", free_of_severe(one, colors, stamp, some))
        add(f"artifacts/{one.study}", severity_bars(one, stamp))
        add(f"artifacts/{one.study}", artifact_kinds(one, stamp))
        for figure in heat_maps(one, facts[one.study].anchors, stamp):
            add(f"heat/{one.study}", figure)
    for metrics in report.metrics:
        key, stamp = f"{metrics.study}/{metrics.attribute}", _stamp(facts[metrics.study])
        add(f"metrics/{key}", choice_prediction(metrics, stamp))
        add(f"metrics/{key}", coefficients(metrics, stamp))
        for figure in by_fact(metrics, stamp):
            add(f"facets/{key}", figure)
    return {section: tuple(figures) for section, figures in found.items()}


def _stamp(fact: StudyFacts) -> str:
    return {"all": "Simulated observers", "some": "Partly simulated observers"}.get(
        fact.simulated, ""
    )


def condition_colors(conditions: Sequence[str], anchors: Mapping[str, str]) -> dict[str, str]:
    """Give each condition its colour, the same in every figure; no hue for anchors."""
    fixed = {name: {GRAY: "#808080", REFERENCE: "#000000"}[kind] for name, kind in anchors.items()}
    others = [name for name in conditions if name not in fixed]
    return fixed | {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(others)}


# --- one function per figure -----------------------------------------------------------------


def _domains(parts: Sequence[Preference]) -> dict[tuple[str, str], tuple[float, float]]:
    """One axis for all scales of a question, so that groups and strata can be compared."""
    ends: dict[tuple[str, str], list[float]] = {}
    for part in parts:
        if part.scale is not None:
            frame = part.scale.to_frame()[["jod", "jod_low", "jod_high"]].to_numpy(float)
            found = frame[np.isfinite(frame)].tolist()
            ends.setdefault((part.study, part.attribute), []).extend(found)
    return {key: _span(found) for key, found in ends.items()}


def preference_scale(
    part: Preference,
    colors: Mapping[str, str],
    domain: tuple[float, float] | None,
    stamp: str,
) -> Figure | None:
    """Scores in JOD with intervals and rank ranges, best first; None without a scale."""
    if part.scale is None or not part.scale.estimable.any():
        return None
    frame = part.scale.to_frame()
    several = len(set(frame["component"])) > 1
    rows = [
        _Row(
            f"{row.item} (component {row.component + 1})" if several else row.item,
            row.jod if row.estimable else None,
            row.jod_low,
            row.jod_high,
            text=f"{words.number(row.jod)} [{words.number(row.jod_low)}, "
            f"{words.number(row.jod_high)}]  rank {words.ranks(row.rank_low, row.rank_high)}"
            if row.estimable
            else "not estimable",
            color=colors[row.item],
        )
        for row in frame.itertuples()
    ]
    title = ", ".join(filter(None, [f"Preference: {part.attribute}", part.part]))
    return _dots(
        slug(part.study, part.attribute, part.part, "scale"),
        title,
        rows,
        "Just-objectionable differences (JOD); better to the right",
        domain=domain,
        caption=""
        if part.part
        else "Score of each condition with its interval. Overlapping intervals are no test of a "
        "difference; the ranks are those that the votes cannot exclude.",
        stamp=stamp,
    )


def over_gray(
    part: Preference, anchors: Mapping[str, str], colors: Mapping[str, str], stamp: str
) -> Figure | None:
    """How often each colorizer was preferred to the untouched grey photograph."""
    rows = []
    for pair in part.pairs:
        for name, other, share in (
            (pair.first, pair.second, pair.share),
            (pair.second, pair.first, words.complement(pair.share)),
        ):
            if anchors.get(other) == GRAY and name not in anchors:
                rows.append(_share_row(name, share, colors[name]))
    if not rows:
        return None
    return _dots(
        slug(part.study, part.attribute, "over-gray"),
        f"Preferred to leaving it grey: {part.attribute}",
        sorted(rows, key=lambda row: -(row.value or 0)),
        "Share of comparisons; a tie counts half",
        domain=(0, 1),
        chance=0.5,
        percent=True,
        caption="Direct comparisons with the photograph as it was, without the scale. Left of the "
        "dashed line, people would rather leave it grey.",
        stamp=stamp,
    )


def pair_shares(part: Preference, fact: StudyFacts, stamp: str) -> Figure | None:
    """Every pair: how often the row was preferred to the column, and by how many votes."""
    if not part.pairs or len(fact.conditions) > MOST_COLUMNS:
        return None
    shown = {name for pair in part.pairs for name in (pair.first, pair.second)}
    names = [name for name in fact.conditions if name in shown]
    if part.scale is not None and part.scale.estimable.all():
        names = list(part.scale.to_frame()["item"])
    share = np.full((len(names), len(names)), np.nan)
    text = [["" for _ in names] for _ in names]
    unit = " %" if len(names) <= 8 else ""
    for pair in part.pairs:
        i, j = names.index(pair.first), names.index(pair.second)
        votes = f"{pair.first_wins + pair.second_wins + pair.ties:,.0f}"
        for row, column, value in (
            (i, j, pair.share.value),
            (j, i, 1 - pair.share.value),
        ):
            share[row, column] = value
            text[row][column] = f"{100 * value:.0f}{unit}\n{votes}"
    return _matrix(
        slug(part.study, part.attribute, "pairs"),
        f"Row preferred to column: {part.attribute}",
        names,
        names,
        share,
        text,
        diverging=True,
        note=f"{'' if unit else 'in per cent; '}below: votes; a tie counts half",
        stamp=stamp,
    )


def response_times(people: People, stamp: str) -> Figure | None:
    """Distribution of response times."""
    if not any(people.response_counts):
        return None
    return _histogram(
        slug(people.study, "response-times"),
        f"Response times: {people.study}",
        people.response_counts,
        people.response_edges_s,
        people.response_s["median"],
        "Seconds per answer (logarithmic axis)",
        stamp=stamp,
    )


def agreement(report: Report) -> Figure | None:
    """Agreement of observers, reliability of their means and consistency, by question."""
    rows = []
    for entry in report.agreement:
        own = [other.attribute for other in report.agreement if other.study == entry.study]
        several = f", {entry.study}" if len(report.studies) > 1 else ""
        several += f", {entry.attribute}" if len(own) > 1 else ""
        for label, found, color in (
            ("Alpha", entry.between_observers, PALETTE[0]),
            ("Reliability", entry.split_half, PALETTE[2]),
            ("Repeats", entry.repeated, PALETTE[1]),
        ):
            if found is not None and found.estimable:
                text = words.interval(found)
                rows.append(_Row(label + several, found.value, found.low, found.high, text, color))
    if not rows:
        return None
    ends = [row.low for row in rows if row.low is not None and math.isfinite(row.low)]
    return _dots(
        "agreement",
        "Agreement and reliability",
        rows,
        "1: perfect; alpha 0: chance",
        domain=(min(0.0, *ends) if ends else 0.0, 1.0),
        caption="Alpha with its interval for new observers; reliability of means with its interval "
        "for new images; share of repeats that got the same answer.",
        stamp=report.stamp,
    )


def main_numbers(part: Judged, colors: Mapping[str, str], stamp: str) -> Figure | None:
    """Mean grade, share taken for true or share accepted of each condition, best first."""
    if not part.results:
        return None
    name = part.measure.name
    low, high = part.scale.ends
    title = {"mos": "Mean grade", "fool_rate": "Taken for the true photograph"}.get(
        name, "Accepted"
    )
    return _dots(
        slug(part.study, part.attribute, part.part, name),
        ", ".join(filter(None, [f"{title}: {part.attribute}", part.part])),
        [
            _estimate_row(result.condition, name, part.main(result), colors[result.condition])
            for result in part.results
        ],
        {
            "rating": "Grade; better to the right",
            "real_or_fake": "Share of answers; dashed: nobody can tell",
            "review": "Share of reviews",
        }[part.method],
        domain=(low, high) if low < high else None,
        chance=0.5 if part.method == "real_or_fake" else None,
        percent=part.method != "rating",
        caption=""
        if part.part
        else "Each condition with its interval. Overlapping intervals are no test of a difference.",
        stamp=stamp,
    )


def second_numbers(part: Judged, colors: Mapping[str, str], stamp: str) -> Figure | None:
    """Draw grades against the hidden reference, or d′."""
    name = {"rating": "dmos", "real_or_fake": "d_prime"}.get(part.method, "")
    rows = [
        _estimate_row(r.condition, name, r.estimates[name], colors[r.condition])
        for r in part.results
        if name in r.estimates
    ]
    if not rows:
        return None
    title, axis, zero = (
        ("Against the reference", "DMOS; dashed: as good as the true colours", part.scale.ends[1])
        if name == "dmos"
        else ("Told from the true photograph, d′", "Sensitivity d′; dashed: nobody can tell", 0.0)
    )  # fmt: skip
    return _dots(
        slug(part.study, part.attribute, name),
        f"{title}: {part.attribute}",
        rows,
        axis,
        chance=zero,
        stamp=stamp,
    )


def answer_shares(part: Judged, stamp: str) -> Figure | None:
    """Divide the answers on each condition by grade or verdict, the best first and lightest."""
    counted = any(sum(result.answers.values()) for result in part.results)
    if part.method == "real_or_fake" or not counted:
        return None
    answers = part.scale.answers
    order = list(answers)[::-1]
    labels = [answers[answer] for answer in order]
    if part.method == "rating":
        labels = [words.grade(value, answers[value]) for value in order]
    return _bars(
        slug(part.study, part.attribute, "answers"),
        f"{'Grades' if part.method == 'rating' else 'Verdicts'}: {part.attribute}",
        [result.condition for result in part.results],
        np.array([[result.answers[a] for a in order] for result in part.results], float),
        labels,
        "Share of answers",
        unit="answers",
        stamp=stamp,
    )


def reasons(part: Judged, stamp: str) -> Figure | None:
    """Show which reason was given how often against which condition."""
    names = [name for name in part.reasons if any(name in r.reasons for r in part.results)]
    if not names:
        return None
    given = np.array([[r.reasons.get(name, 0) for r in part.results] for name in names], float)
    reviews = np.array([sum(result.answers.values()) for result in part.results], float)
    return _matrix(
        slug(part.study, part.attribute, "reasons"),
        "Reason given, share of reviews",
        [part.reasons[name] for name in names],
        [result.condition for result in part.results],
        given / reviews,
        [[f"{100 * v / n:.0f} %" for v, n in zip(line, reviews, strict=True)] for line in given],
        diverging=False,
        stamp=stamp,
    )


def changes(comparison: Comparison, colors: Mapping[str, str], stamp: str) -> Figure | None:
    """How far each condition lies from the baseline."""
    if not any(entry.change.estimable for entry in comparison.changes):
        return None
    return _dots(
        slug(comparison.study, comparison.attribute, "against", comparison.baseline),
        f"Against {comparison.baseline}: {comparison.attribute}",
        [
            _Row(
                entry.condition,
                entry.change.value if entry.change.estimable else None,
                entry.change.low,
                entry.change.high,
                words.change(comparison, entry.change),
                colors[entry.condition],
                hollow=entry.verdict == "no change seen",
            )
            for entry in comparison.changes
            if entry.verdict != "missing"
        ],
        "Change; dashed: none; better to the right",
        chance=0.0,
        percent=comparison.share,
        caption=f"Change of {comparison.measure}. Hollow: the interval includes no change.",
        stamp=stamp,
    )


def marks_on_losers(why: Why, stamp: str) -> Figure | None:
    """Show which artifacts were marked on the losing images of each condition, in counts."""
    kinds = [kind for kind in why.labels if any(kind in own for own in why.counts.values())]
    if not kinds:
        return None
    names = list(why.lost)
    counts = np.array([[why.counts[name].get(kind, 0) for name in names] for kind in kinds], float)
    return _matrix(
        slug(why.study, "why"),
        "Marked on losing images (counts, no rates)",
        [why.labels[kind] for kind in kinds],
        names,
        counts / counts.max(),
        [[f"{n:.0f}" for n in line] for line in counts],
        diverging=False,
        stamp=stamp,
    )


def free_of_severe(
    one: Artifacts, colors: Mapping[str, str], stamp: str, part: ArtifactPart | None = None
) -> Figure | None:
    """Share of viewings of each condition without a severe artifact: of all, or of a part."""
    severe, name = (part.severe, part.part) if part else (one.severe, "")
    if not severe:
        return None
    return _dots(
        slug(one.study, name, "free-of-severe"),
        ", ".join(filter(None, [f"Free of {one.severity_label.lower()} artifacts", name])),
        [
            _share_row(rate.condition, words.complement(rate.rate), colors[rate.condition])
            for rate in sorted(severe, key=lambda rate: rate.rate.value)
        ],
        "Share of viewings",
        domain=(0, 1),
        percent=True,
        stamp=stamp,
    )


def severity_bars(one: Artifacts, stamp: str) -> Figure | None:
    """Divide the viewings of each condition by the worst severity that was marked."""
    if not one.viewings:
        return None
    return _bars(
        slug(one.study, "severity"),
        "Worst artifact in a viewing",
        list(one.by_severity),
        np.array(list(one.by_severity.values()), float),
        one.severities,
        "Share of viewings",
        stamp=stamp,
    )


def artifact_kinds(one: Artifacts, stamp: str) -> Figure | None:
    """Which artifact was seen how often in which condition."""
    if not one.by_artifact:
        return None
    conditions = list(one.by_severity)
    kinds = [name for name in one.labels if any(r.artifact == name for r in one.by_artifact)]
    share = np.full((len(kinds), len(conditions)), np.nan)
    for rate in one.by_artifact:
        share[kinds.index(rate.artifact), conditions.index(rate.condition)] = rate.rate.value
    text = [[f"{100 * v:.0f} %" if math.isfinite(v) else "" for v in line] for line in share]
    return _matrix(
        slug(one.study, "kinds"),
        "Artifact seen, share of viewings",
        [one.labels[name] for name in kinds],
        conditions,
        share,
        text,
        diverging=False,
        stamp=stamp,
    )


def heat_maps(one: Artifacts, anchors: Mapping[str, str], stamp: str) -> Iterator[Figure]:
    """Where in the frame observers drew their marks: one map per condition, one colour scale."""
    grids = {name: np.array(grid) for name, grid in one.heat.items()}
    judged = [grid for name, grid in grids.items() if name not in anchors] or list(grids.values())
    peak = max((float(grid.max()) for grid in judged), default=0.0)
    if not peak:
        return
    for name, grid in grids.items():
        note = f"peak {100 * float(grid.max()):.0f} %; darkest: {100 * peak:.0f} % or more"
        yield _heat_map(slug(one.study, "where", name), name, grid, peak, note=note, stamp=stamp)


def choice_prediction(metrics: Metrics, stamp: str) -> Figure | None:
    """Share of people's choices that each metric predicts, beside chance and the human ceiling."""
    if not metrics.paired:
        return None
    ceiling = metrics.ceiling
    return _dots(
        slug(metrics.study, metrics.attribute, "choices"),
        f"Choices predicted: {metrics.attribute}",
        [
            _share_row(
                result.metric,
                result.choices.accuracy,
                {"better": "#0072B2", "worse": "#D55E00"}.get(result.verdict, SOFT),
                hollow=result.verdict == "chance",
            )
            for result in metrics.results
            if result.choices is not None
        ],
        "Share of decided votes; dashed: chance; green: other people",
        domain=(0, 1),
        chance=0.5,
        ceiling=(ceiling.value, ceiling.low, ceiling.high) if ceiling else None,
        percent=True,
        caption="Hollow: the interval includes chance. Orange: people choose against the metric. "
        "Green: what other people predict, with its interval.",
        stamp=stamp,
    )


def coefficients(metrics: Metrics, stamp: str) -> Figure | None:
    """Spearman's coefficient of each metric inside photographs, good direction to the right."""
    if not metrics.results:
        return None
    rows = []
    for result in metrics.results:
        found = result.agreement
        open_ = not (found.low > 0 or found.high < 0)
        rows.append(
            _Row(
                result.metric,
                found.value if found.estimable else None,
                found.low,
                found.high,
                text=words.interval(found),
                color=SOFT if open_ else "#0072B2" if found.low > 0 else "#D55E00",
                hollow=open_,
            )
        )
    return _dots(
        slug(metrics.study, metrics.attribute, "srocc"),
        f"SROCC within photographs: {metrics.attribute}",
        rows,
        "Sign turned where lower is better, so that right is good",
        domain=(-1, 1),
        chance=0.0,
        caption="Rank correlation inside each photograph, averaged. Hollow: the interval has zero.",
        stamp=stamp,
    )


def by_fact(metrics: Metrics, stamp: str) -> Iterator[Figure]:
    """Every metric on the photographs of each era, process, degradation and stratum."""
    names = [result.metric for result in metrics.results]
    title = "Choices predicted" if metrics.paired else "SROCC within photographs"
    for fact in dict.fromkeys(facet.fact for facet in metrics.facets):
        own = [facet for facet in metrics.facets if facet.fact == fact]
        value = np.array([[facet.found[name].value for facet in own] for name in names], float)
        yield _matrix(
            slug(metrics.study, metrics.attribute, "by", fact),
            f"{title} by {fact}: {metrics.attribute}",
            names,
            [f"{facet.value} ({facet.photographs})" for facet in own],
            value if metrics.paired else (value + 1) / 2,
            [
                [
                    ""
                    if not math.isfinite(v)
                    else f"{100 * v:.0f}"
                    if metrics.paired
                    else words.number(v)
                    for v in line
                ]
                for line in value
            ],
            diverging=True,
            note=f"{'in per cent; ' if metrics.paired else ''}in brackets: photographs; blue: the "
            "metric is rather right",
            stamp=stamp,
        )


def planning(plan: stats.Plan) -> Figure:
    """Power and width of the interval against the number of observers that were tried."""
    curve, wanted = plan.curve, plan.assumptions
    power = wanted["goal"] == "power"
    observers = np.log10(curve["observers"].to_numpy(float))
    low, high = observers.min(), max(observers.max(), observers.min() + 0.1)
    left, right = 46.0, WIDTH - 16.0
    body: list[str] = []

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    def panel(
        top: float, bottom: float, values: Sequence[float], label: str, target: float | None,
        ends: tuple[float, float], color: str, percent: bool,
    ) -> None:  # fmt: skip
        def y(value: float) -> float:
            share = (min(max(value, ends[0]), ends[1]) - ends[0]) / (ends[1] - ends[0])
            return bottom - share * (bottom - top)

        body.append(_text(left, top - 8, label, 12, SOFT))
        for tick in _ticks(*ends):
            body.append(_line(left, y(tick), right, y(tick), RULE, 0.7))
            text = f"{100 * tick:.0f} %" if percent else _number(tick)
            body.append(_text(left - 6, y(tick) + 4, text, 11, SOFT, anchor="end"))
        if target is not None:
            body.append(_line(left, y(target), right, y(target), INK, 1.0, dash="5 4"))
        places = [(x(a), y(b)) for a, b in zip(observers, values, strict=True) if math.isfinite(b)]
        for (x1, y1), (x2, y2) in pairwise(places):
            body.append(_line(x1, y1, x2, y2, color, 1.6))
        body.extend(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.4" fill="{color}"/>'
                    for a, b in places)  # fmt: skip

    widths = curve["half_width_jod"].to_numpy(float)
    finite = widths[np.isfinite(widths)]
    top_width = max([*finite[finite <= 4 * np.median(finite)], 0.1]) if finite.size else 1.0
    target = float(wanted["target"])
    panel(56, 176, list(curve["power"]), "Studies that find the effect", target if power else None,
          (0.0, 1.0), PALETTE[0], True)  # fmt: skip
    panel(216, 336, list(widths), "Half-width of the interval, JOD", None if power else target,
          (0.0, max(top_width, 0 if power else 1.1 * target)), PALETTE[1], False)  # fmt: skip
    body.append(_line(left, 336, right, 336, INK, 0.9))
    labelled: list[float] = []
    for count in sorted(curve["observers"], key=lambda tried: tried != plan.observers):
        at = x(math.log10(count))
        if all(abs(at - other) > 26 for other in labelled):
            body.append(_line(at, 336, at, 340, INK, 0.9))
            body.append(_text(at, 353, f"{count}", 11, SOFT, anchor="middle"))
            labelled.append(at)
    axis = f"Observers, {wanted['trials_per_observer']} trials each (logarithmic axis)"
    body.append(_text((left + right) / 2, 371, axis, 12, SOFT, anchor="middle"))
    if plan.observers is not None:
        at = x(math.log10(plan.observers))
        body.append(_line(at, 56, at, 336, INK, 1.0, dash="2 3"))
    title = f"{wanted['conditions']} conditions, {wanted['contents']} photographs, "
    title += f"effect {float(wanted['effect_jod']):g} JOD"
    answer = "no number tried suffices"
    if plan.observers is not None:
        answer = f"{plan.observers} observers suffice"
    alt = f"Simulated studies of {title}: {answer}."
    return _figure("plan", title, alt, 380, body, "")


def _share_row(label: str, share: stats.Estimate, color: str, *, hollow: bool = False) -> _Row:
    value = share.value if share.estimable else None
    return _Row(label, value, share.low, share.high, words.percent(share), color, hollow)


def _estimate_row(label: str, name: str, estimate: stats.Estimate, color: str) -> _Row:
    value = estimate.value if estimate.estimable else None
    return _Row(label, value, estimate.low, estimate.high, words.statistic(name, estimate), color)


def slug(*parts: str) -> str:
    """Join words to a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(parts)).strip("-").lower()


# --- kinds of figures ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """One line of a dot-and-interval figure; ``value=None`` is drawn without a mark."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    text: str = ""
    color: str = INK
    hollow: bool = False


def _dots(
    name: str,
    title: str,
    rows: Sequence[_Row],
    axis: str,
    *,
    domain: tuple[float, float] | None = None,
    chance: float | None = None,
    ceiling: tuple[float, float, float] | None = None,
    percent: bool = False,
    caption: str = "",
    stamp: str = "",
) -> Figure:
    """Estimates with intervals, one per row.

    Parameters
    ----------
    name, title, axis : str
        File stem, heading, and label of the horizontal axis.
    rows : sequence of _Row
        In the order to be drawn.
    domain : (float, float), optional
        Ends of the axis; by default the range of all intervals.
    chance : float, optional
        Where a dashed vertical line marks "no difference".
    ceiling : (value, low, high), optional
        A shaded band with its centre line: the best that can be expected.
    percent : bool
        Write tick labels as per cent of 1.
    stamp : str
        Words that mark the figure, such as "Simulated observers".
    """
    marks = [v for r in rows for v in (r.value, r.low, r.high) if _finite(v)]
    marks += [v for v in (chance, *(ceiling or ())) if _finite(v)]
    low, high = domain or _span([float(v) for v in marks if v is not None])
    ticks = [t for t in _ticks(low, high) if low - 1e-9 <= t <= high + 1e-9]
    left, right, top = 8.0, WIDTH - 8.0, 40.0
    step = 41.0 if len(rows) <= 10 else 32.0  # a long list has to fit on a page
    bottom = top + step * len(rows) + 4

    def x(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    body = []
    if ceiling is not None and all(_finite(v) for v in ceiling):
        centre, c_low, c_high = ceiling
        body.append(
            _rect(x(c_low), top, max(x(c_high) - x(c_low), 1.0), bottom - top, "#e8f1ec")
            + _line(x(centre), top, x(centre), bottom, "#009E73", 1.2)
        )
    for tick in ticks:
        body.append(_line(x(tick), top, x(tick), bottom, RULE, 0.7))
    if chance is not None:
        body.append(_line(x(chance), top, x(chance), bottom, SOFT, 1.2, dash="4 3"))
    for i, row in enumerate(rows):
        y = top + step * i
        shown = _fit(row.label, right - left - 8 - 6.2 * len(row.text), 13)
        body.append(_text(left, y + 13, shown, 13, INK, halo=True))
        body.append(_text(right, y + 13, row.text, 12, SOFT, anchor="end", halo=True))
        if not _finite(row.value) or row.value is None:
            continue
        centre_y = y + (26 if step > 40 else 22)
        if _finite(row.low) and _finite(row.high) and row.low is not None and row.high is not None:
            body.append(_line(x(row.low), centre_y, x(row.high), centre_y, row.color, 2.2))
            for end, inside in ((row.low, row.low >= low), (row.high, row.high <= high)):
                if inside:
                    body.append(_line(x(end), centre_y - 4, x(end), centre_y + 4, row.color, 2.2))
        fill = PAPER if row.hollow else row.color
        body.append(
            f'<circle cx="{x(row.value):.1f}" cy="{centre_y:.1f}" r="4.6" fill="{fill}" '
            f'stroke="{row.color}" stroke-width="2"><title>{escape(row.label)}: '
            f"{escape(row.text)}</title></circle>"
        )
    body.append(_line(left, bottom, right, bottom, INK, 0.9))
    for tick in ticks:
        anchor = "start" if x(tick) < left + 10 else "end" if x(tick) > right - 10 else "middle"
        label = f"{100 * tick:g} %" if percent else _number(tick)
        body.append(_line(x(tick), bottom, x(tick), bottom + 4, INK, 0.9))
        body.append(_text(x(tick), bottom + 17, label, 11, SOFT, anchor=anchor))
    body.append(_text((left + right) / 2, bottom + 35, axis, 12, SOFT, anchor="middle"))
    alt = f"{title}. " + "; ".join(f"{row.label}: {row.text}" for row in rows) + "."
    return _figure(name, title, alt, bottom + 44, body, stamp, caption=caption)


def _matrix(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    share: np.ndarray,
    text: Sequence[Sequence[str]],
    *,
    diverging: bool,
    note: str = "",
    stamp: str = "",
) -> Figure:
    """Shares between 0 and 1 as a table of coloured cells, each with its numbers.

    More columns than there is room for become rows; numbers shrink, and then the figure grows,
    until they fit their cells.

    Parameters
    ----------
    share : array, shape (rows, columns)
        In [0, 1]; NaN leaves the cell empty.
    text : sequence of sequences of str
        What is written in each cell; a line break starts a second, smaller line.
    diverging : bool
        Blue above one half and orange below, white at one half; else white to orange.
    """
    if len(columns) > MOST_COLUMNS:
        rows, columns, share = columns, rows, share.T
        text = list(zip(*text, strict=True))
    label_width = min(max(6.6 * max((len(r) for r in rows), default=1) + 12, 70.0), 186.0)
    lines = (cell.partition("\n")[::2] for row in text for cell in row)
    longest_number = max((max(len(a), len(b) * 10 / 12) for a, b in lines), default=1)
    em = CHARACTER * max(longest_number, 1)
    cell_w = (WIDTH - 8 - label_width) / max(len(columns), 1)
    longest = max((len(c) for c in columns), default=1)
    slanted = 6.9 * longest + 6 > cell_w
    reach = 0.0
    if slanted:  # the last heading reaches beyond its column
        reach = 0.58 * min(6.4 * len(columns[-1]), 120.0)
        cell_w = min(cell_w, (WIDTH - 8 - label_width - reach) / (len(columns) - 0.5))
    cell_w = max(cell_w, LEAST_SIZE * em + 3)
    size = min(12.0, (cell_w - 3) / em)
    right = label_width + max(cell_w * len(columns), cell_w * (len(columns) - 0.5) + reach)
    width = max(WIDTH, right + 8)
    head = 40.0 + (min(6.6 * longest, 120.0) * 0.82 + 12 if slanted else 18.0)
    cell_h = 42.0 if any("\n" in t for line in text for t in line) else 30.0
    body = []
    for j, column in enumerate(columns):
        cx = label_width + cell_w * (j + 0.5)
        if slanted:
            body.append(
                f'<g transform="translate({cx - 4:.1f} {head - 6:.1f}) rotate(-55)">'
                + _text(0, 0, _fit(column, 120, 12), 12, INK)
                + "</g>"
            )
        else:
            body.append(_text(cx, head - 8, column, 12, INK, anchor="middle"))
    peak = float(np.nanmax(share)) if np.isfinite(share).any() else 1.0
    for i, row in enumerate(rows):
        y = head + cell_h * i
        body.append(
            _text(
                label_width - 8,
                y + cell_h / 2 + 4,
                _fit(row, label_width - 10, 12),
                12,
                INK,
                anchor="end",
            )
        )
        for j in range(len(columns)):
            value = float(share[i, j])
            xx = label_width + cell_w * j
            if not math.isfinite(value):
                body.append(_rect(xx + 1, y + 1, cell_w - 2, cell_h - 2, "#f4f3ef"))
                fill, ink = "#f4f3ef", SOFT
            else:
                fill = _diverging(value) if diverging else _sequential(value / max(peak, 1e-9))
                ink = PAPER if _dark(fill) else INK
                body.append(_rect(xx + 1, y + 1, cell_w - 2, cell_h - 2, fill))
            first, _, second = text[i][j].partition("\n")
            middle = y + cell_h / 2 + (4 if not second else -2)
            body.append(_text(xx + cell_w / 2, middle, first, size, ink, anchor="middle"))
            if second:
                below = min(10.0, size)
                body.append(
                    _text(xx + cell_w / 2, middle + 14, second, below, ink, anchor="middle")
                )
    height = head + cell_h * len(rows) + 10
    if note:
        body.append(_text(width - 8, height + 10, note, 11, SOFT, anchor="end"))
        height += 20
    cells = (
        f"{row} / {column}: {' '.join(text[i][j].split())}"
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
        if text[i][j]
    )
    alt = f"{title}. {'; '.join(cells)}."
    return _figure(name, title, alt, height, body, stamp, width=width)


def _heat_map(
    name: str,
    title: str,
    grid: np.ndarray,
    peak: float,
    *,
    note: str = "",
    stamp: str = "",
) -> Figure:
    """Where in the frame observers drew their marks.

    Parameters
    ----------
    grid : array, shape (rows, columns)
        Share of viewings in which this place was marked, in [0, 1]; row 0 is the top.
    peak : float
        The share that gets the darkest colour; give all maps of a study the same one.
    """
    from PIL import Image

    scaled = np.clip(grid / max(peak, 1e-9), 0, 1)
    lookup = np.array([_rgb(_sequential(i / 255)) for i in range(256)], dtype=np.uint8)
    pixels = lookup[(scaled * 255).round().astype(int)]
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((192, 128), Image.Resampling.BICUBIC).save(
        buffer, "PNG", optimize=True
    )
    data = base64.b64encode(buffer.getvalue()).decode()
    width, top = 220.0, 40.0
    height = (width - 2) * 2 / 3
    body = [
        f'<image x="1" y="{top}" width="{width - 2:.0f}" height="{height:.1f}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{data}"/>',
        f'<rect x="1" y="{top}" width="{width - 2:.0f}" height="{height:.1f}" fill="none" '
        f'stroke="{SOFT}"/>',
        _text(1, top + height + 15, note, 11, SOFT),
    ]
    alt = f"Heat map of marked regions over the frame, {title}. {note}."
    return _figure(name, title, alt, top + height + 24, body, stamp, width=width)


def _histogram(
    name: str,
    title: str,
    counts: Sequence[int],
    edges: Sequence[float],
    median: float,
    axis: str,
    *,
    stamp: str = "",
) -> Figure:
    """Bars of equal width over a logarithmic axis, with the median."""
    left, right, top, bottom = 8.0, WIDTH - 8.0, 62.0, 172.0
    logs = np.log10(edges)

    def x(value: float) -> float:
        return left + (value - logs[0]) / (logs[-1] - logs[0]) * (right - left)

    body = [
        _rect(
            x(start) + 0.5,
            bottom - (bottom - top) * count / max(counts),
            x(end) - x(start) - 1,
            (bottom - top) * count / max(counts),
            "#9db8cc",
        )
        for count, start, end in zip(counts, logs[:-1], logs[1:], strict=True)
        if count
    ]
    middle = x(math.log10(median))
    inside = middle < WIDTH * 0.7
    label = f"median {_number(median)} s"
    body += [
        _line(left, bottom, right, bottom, INK, 0.9),
        _line(middle, top - 18, middle, bottom, INK, 1.4),
        _text(
            middle + (6 if inside else -6), top - 8, label, 12, INK,
            anchor="start" if inside else "end",
        ),
    ]  # fmt: skip
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600):
        if logs[0] <= math.log10(tick) <= logs[-1]:
            at = x(math.log10(tick))
            body.append(_line(at, bottom, at, bottom + 4, INK, 0.9))
            body.append(_text(at, bottom + 17, f"{tick:g}", 11, SOFT, anchor="middle"))
    body.append(_text((left + right) / 2, bottom + 35, axis, 12, SOFT, anchor="middle"))
    alt = f"{title}: {sum(counts)} answers, {label}."
    return _figure(name, title, alt, bottom + 44, body, stamp)


def _bars(
    name: str,
    title: str,
    labels: Sequence[str],
    counts: np.ndarray,
    levels: Sequence[str],
    axis: str,
    *,
    unit: str = "viewings",
    stamp: str = "",
) -> Figure:
    """One bar of length 1 per label, divided by level from light to dark."""
    left, right, step = 8.0, WIDTH - 8.0, 44.0
    shades = np.linspace(0.25, 1, len(levels) - 1)
    fills = ["#efeee9", *(_sequential(float(shade)) for shade in shades)]
    body, at, top = [], left, 62.0
    for level, fill in zip(levels, fills, strict=True):
        if at > left and at + 16 + 6.3 * len(level) > right:
            at, top = left, top + 18
        body.append(_rect(at, top - 21, 11, 11, fill))
        body.append(_text(at + 16, top - 11, level, 11.5, INK))
        at += 16 + 6.3 * len(level) + 16
    for i, label in enumerate(labels):
        y = top + step * i
        total = counts[i].sum()
        body.append(_text(left, y + 15, label, 13, INK))
        body.append(_text(right, y + 15, f"{total:,.0f} {unit}", 12, SOFT, anchor="end"))
        start = left
        for count, fill in zip(counts[i], fills, strict=True):
            wide = (right - left) * count / max(total, 1)
            body.append(_rect(start, y + 21, wide, 15, fill))
            if wide > 30:
                ink = PAPER if _dark(fill) else INK
                share = f"{100 * count / total:.0f} %"
                body.append(_text(start + wide / 2, y + 32.5, share, 11, ink, anchor="middle"))
            start += wide
    bottom = top + step * len(labels) + 2
    body.append(_text((left + right) / 2, bottom + 14, axis, 12, SOFT, anchor="middle"))
    told = (
        f"{label}: "
        + ", ".join(f"{level} {n:.0f}" for level, n in zip(levels, counts[i], strict=True))
        for i, label in enumerate(labels)
    )
    return _figure(name, title, f"{title}. {'; '.join(told)}.", bottom + 24, body, stamp)


# --- the small SVG layer ---------------------------------------------------------------------


def _figure(
    name: str,
    title: str,
    alt: str,
    height: float,
    body: Sequence[str],
    stamp: str,
    *,
    width: float = WIDTH,
    caption: str = "",
) -> Figure:
    inner = _text(0 if width < WIDTH else 8, 16, _fit(title, width - 10, 13), 13, INK, weight=600)
    if stamp:
        inner += _text(0 if width < WIDTH else 8, 31, stamp, 10.5, WARN, weight=600)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:.0f}" '
        f'role="img" aria-label="{escape(alt)}" font-family="{FONT}">'
        f'<rect width="100%" height="100%" fill="{PAPER}"/>{inner}{"".join(body)}</svg>'
    )
    return Figure(name, alt, svg, caption)


def _text(
    x: float,
    y: float,
    words: str,
    size: float,
    color: str,
    *,
    anchor: str = "start",
    weight: int = 400,
    halo: bool = False,
) -> str:
    extra = f' text-anchor="{anchor}"' if anchor != "start" else ""
    extra += f' paint-order="stroke" stroke="{PAPER}" stroke-width="4"' if halo else ""
    extra += f' font-weight="{weight}"' if weight != 400 else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{color}"{extra}>'
        f"{escape(words)}</text>"
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, color: str, width: float, *, dash: str = ""
) -> str:
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width:g}"{extra}/>'
    )


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'
    )


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _fit(words: str, room: float, size: float) -> str:
    """Shorten a label to about ``room`` units, at half an em per character."""
    most = max(int(room / (0.52 * size)), 4)
    return words if len(words) <= most else words[: most - 1] + "…"


def _span(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.5
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between ``low`` and ``high``."""
    rough = (high - low) / 5
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _mix(a: str, b: str, t: float) -> str:
    pairs = zip(_rgb(a), _rgb(b), strict=True)
    return "#" + "".join(f"{round(x + (y - x) * t):02x}" for x, y in pairs)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _diverging(share: float) -> str:
    t = min(max(share, 0.0), 1.0)
    return _mix("#ffffff", "#0072B2" if t > 0.5 else "#E69F00", abs(t - 0.5) * 1.7)


def _sequential(share: float) -> str:
    t = min(max(share, 0.0), 1.0)
    return _mix("#fffaf3", "#E69F00", t / 0.5) if t < 0.5 else _mix("#E69F00", "#8a2f00", 2 * t - 1)


def _dark(color: str) -> bool:
    r, g, b = _rgb(color)
    return 0.299 * r + 0.587 * g + 0.114 * b < 125
