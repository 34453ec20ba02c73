"""Plain words: numbers with sensible rounding, the answer, the methods text.

Condition names stand between ``**``, which the page turns into bold type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from percept import stats
from percept.types import GRAY, METHOD_COLUMNS, REFERENCE

if TYPE_CHECKING:
    from percept.protocol import Protocol
    from percept.report.against import Metrics
    from percept.report.build import (
        Agreement,
        Answer,
        ArmDifference,
        ArtifactPart,
        Artifacts,
        People,
        Preference,
        StudyFacts,
    )
    from percept.report.judged import Comparison, Judged, Judgement, Scale

#: What agreement is measured on, by method.
AGREED = {
    "pairwise": "which of two versions is preferred",
    "artifact": "worst severity seen in an image (0: no artifact)",
    "rating": "grade given to an image",
    "real_or_fake": "whether a colouring is taken for the true photograph",
    "review": "verdict on an image",
}
#: Column headings of what is found for each condition by itself.
STATISTICS = {
    "mos": "Mean grade",
    "dmos": "Against the reference",
    "fool_rate": "Taken for true",
    "d_prime": "d′",
    "accepted": "Accepted",
    "fixable": "To be fixed",
    "rejected": "Rejected",
}

MOST_NAMED = 24  # in one sentence
MOST_TOLD = 8  # one by one, each in a sentence
GAP = "\u00a0"  # between a number and its unit


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with a real minus sign; "–" if there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def interval(estimate: stats.Estimate | None, digits: int = 2) -> str:
    """Write an estimate as ``0.42 [0.31, 0.53]``."""
    if estimate is None or not estimate.estimable:
        return "not estimable"
    text = number(estimate.value, digits)
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        text += f"{GAP}[{number(estimate.low, digits)},{GAP}{number(estimate.high, digits)}]"
    return text


def percent(estimate: stats.Estimate | None) -> str:
    """Write a share as ``68 % [61, 74]``, with decimals only where the interval carries them."""
    if estimate is None or not estimate.estimable:
        return "not estimable"
    ends = [end for end in (estimate.low, estimate.high) if math.isfinite(end)]
    digits = 1 if len(ends) == 2 and ends[1] - ends[0] < 0.03 else 0
    text = f"{number(100 * estimate.value, digits)}{GAP}%"
    if len(ends) == 2:
        text += f"{GAP}[{number(100 * ends[0], digits)},{GAP}{number(100 * ends[1], digits)}]"
    return text


def count(n: float, word: str, words: str | None = None) -> str:
    """Write ``1 photograph``, ``8 photographs``, ``25,000 votes``."""
    return f"{n:,.0f}{GAP}{word if n == 1 else words or word + 's'}"


def listing(parts: Iterable[str], last: str = "and") -> str:
    """Join with commas and a word before the last part; of very many, the first ones."""
    parts = list(parts)
    if len(parts) > MOST_NAMED:
        parts = [*parts[: MOST_NAMED - 2], f"{len(parts) - MOST_NAMED + 2} others"]
    return (f" {last} ").join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def sentence(text: str) -> str:
    """Begin with a capital, end with a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def ranks(low: int, high: int) -> str:
    """Write a range of ranks as ``1`` or ``1–3``."""
    return f"{low}" if low == high else f"{low}–{high}"


def banner(people: Sequence[People]) -> str:
    """Say which answers are no people's; empty if all are."""
    parts = []
    for entry in people:
        if entry.simulated and entry.simulated == entry.joined:
            parts.append(f"all {count(entry.joined, 'observer')} of study {entry.study}")
        elif entry.simulated:
            parts.append(f"{entry.simulated} of {entry.joined} observers of study {entry.study}")
    if not parts:
        return ""
    return (
        f"Simulated observers. {sentence(listing(parts))[:-1]} were simulated by a program. "
        "Their answers show what a report looks like; they say nothing about what people see."
    )


# --- the answer ------------------------------------------------------------------------------


def answers(
    facts: Sequence[StudyFacts],
    preference: Sequence[Preference],
    judged: Sequence[Judged],
    artifacts: Sequence[Artifacts],
    people: Sequence[People],
) -> tuple[Answer, ...]:
    """Answer each question of each study in plain words."""
    from percept.report.build import Answer

    found = []
    for fact in facts:
        for attribute, question in fact.attributes.items():
            lead, details = "", list[str]()
            if fact.method == "pairwise":
                slices = [
                    entry
                    for entry in preference
                    if (entry.study, entry.attribute) == (fact.study, attribute)
                ]
                lead, details = _preference_answer(fact, slices)
            elif fact.method != "artifact":
                lead, details = _judged_answer(
                    fact, [e for e in judged if (e.study, e.attribute) == (fact.study, attribute)]
                )
            else:
                own = next(entry for entry in artifacts if entry.study == fact.study)
                who = next(entry for entry in people if entry.study == fact.study)
                lead, details = _artifact_answer(fact, own, who)
            found.append(Answer(fact.study, attribute, question, lead, tuple(details)))
    return tuple(found)


def unresolved(scale: stats.Scale, item: str) -> list[str]:
    """Items of the same component that the scale does not tell from ``item``, nearest first."""
    at = _at(scale, item)
    gaps = (
        (scale.difference(item, other), other)
        for other, apart in zip(scale.items, scale.told_apart[at], strict=True)
        if other != item and not apart
    )
    near = ((abs(gap.value) / max(gap.std_error, 1e-12), other) for gap, other in gaps
            if gap.estimable)  # fmt: skip
    return [other for _, other in sorted(near)]


def _preference_answer(fact: StudyFacts, slices: Sequence[Preference]) -> tuple[str, list[str]]:
    overall = slices[0]
    scale = overall.scale
    if scale is None:
        return "There is no answer yet: nobody has voted.", []
    colorizers = [name for name in fact.conditions if name not in fact.anchors]
    voted = [name for name in colorizers if name in scale.items]
    placed = [name for name in voted if scale.estimable[_at(scale, name)]]
    blocks = {int(scale.component[_at(scale, name)]) for name in placed}
    details: list[str] = []
    if len(placed) < len(voted) or len(blocks) > 1:
        lead = _unplaced(overall, voted)
    elif len(placed) == 1:
        lead = ""
    else:
        lead = _ranking(scale, placed)
    arms = arms_told_apart(overall.arms) if overall.arms else ""
    if any(pair.score.estimable for pair in overall.arms):
        details += [f"Of the single checkpoints: {lead}"] if lead else []
        lead, arms = arms, ""
    if text := _over_gray(overall, scale, colorizers, fact.anchors):
        if lead:
            details.append(text)
        else:
            lead = text
    true = [_against(overall, name, fact.anchors, REFERENCE) for name in colorizers]
    shares = sorted((e for e in true if e is not None), key=lambda entry: -entry[1].value)
    beside = [f"**{name}** in {percent(share)}" for name, share in shares]
    if beside:
        details.append(
            f"Shown beside the true colours, observers chose {listing(beside)} of comparisons."
        )
    for part in slices[1:] if len(placed) > 1 else ():
        details.append(_part(fact, part, placed))
    if unseen := [f"**{name}**" for name in colorizers if name not in voted]:
        details.append(f"There are no votes on {listing(unseen)} yet.")
    details += [arms] if arms else []
    details.append(_basis(overall))
    return lead or "The study compares no colorizers.", details


def _at(scale: stats.Scale, name: str) -> int:
    return scale.items.index(name)


def _ranking(scale: stats.Scale, placed: Sequence[str]) -> str:
    order = sorted(placed, key=lambda name: -scale.score[_at(scale, name)])
    best, others = order[0], order[1:]
    close = [name for name in unresolved(scale, best) if name in others]
    sure = [name for name in others if name not in close]
    share = {name: percent(scale.probability(best, name)) for name in others}
    if sure:
        preferred = listing(f"to **{name}** in {share[name]}" for name in sure)
        preferred = f"{preferred} of choices, as the scale of all votes estimates"
    if not close:
        before = "" if len(others) == 1 else "to every other colorizer: "
        return f"Observers preferred **{best}** {before}{preferred}."
    apart = listing((f"**{name}** ({share[name]})" for name in close), "or")
    doubt = f"it cannot be told apart from {apart}"
    if any(scale.probability(best, name).low > 0.5 for name in close):
        doubt += ", single intervals above 50\u00a0% not being enough where many pairs are tested"
    if not sure:
        return (
            f"No winner: **{best}** scored highest, but {doubt}; in brackets, how often the scale "
            "estimates that it is preferred."
        )
    return f"**{best}** scored highest. Observers preferred it {preferred}, but {doubt}."


def arms_told_apart(arms: Sequence[ArmDifference]) -> str:
    """Say which arms differ by more than their training seeds do."""
    judged = [pair for pair in arms if pair.score.estimable]
    if not judged:
        doubts = (doubt for pair in arms for doubt in pair.score.warnings)
        reason = listing(dict.fromkeys(doubt.removeprefix("not estimable: ") for doubt in doubts))
        return sentence(f"whether one arm is preferred to another cannot be said: {reason}")
    sure = [pair for pair in judged if pair.score.p_value < 1 - pair.score.confidence]
    if not sure:
        return (
            "No arm can be told apart from another: they differ by no more than training seeds "
            "and chance among votes explain."
        )
    told = []
    for pair in sure:
        value, low, high = (
            1 / (1 + math.exp(-end)) for end in (pair.score.value, pair.score.low, pair.score.high)
        )
        share: stats.Estimate = replace(pair.score, value=value, low=low, high=high)
        better, worse = pair.first, pair.second
        if value < 0.5:
            better, worse, share = worse, better, complement(share)
        told.append(f"**{better}** to **{worse}** in an estimated {percent(share)}")
    text = f"Beyond what training seeds explain, observers preferred {listing(told)} of comparisons"
    if rest := len(arms) - len(sure):
        text += f"; of {count(rest, 'other pair')} of arms neither can be said to be preferred"
    return f"{text}."


def complement(share: stats.Estimate) -> stats.Estimate:
    """Return the share of those who chose the other."""
    return replace(share, value=1 - share.value, low=1 - share.high, high=1 - share.low)


def _unplaced(overall: Preference, colorizers: Sequence[str]) -> str:
    pairs = [p for p in overall.pairs if {p.first, p.second} <= set(colorizers)]
    if not pairs:
        return "The colorizers cannot be compared: no two of them were shown together."
    decided = sum(p.first_wins + p.second_wins for p in pairs)
    if not decided:
        ties = count(sum(p.ties for p in pairs), "comparison")
        return f"No difference was seen: all {ties} between colorizers were called a tie."
    shares = [
        (p.first, p.second, p.share)
        if p.share.value >= 0.5
        else (p.second, p.first, complement(p.share))
        for p in pairs
    ]
    sure = [f"**{a}** over **{b}** in {percent(s)}" for a, b, s in shares if s.low > 0.5]
    even = [f"**{a}** over **{b}** ({percent(s)})" for a, b, s in shares if not s.low > 0.5]
    parts = [f"observers preferred {listing(sure)} of comparisons"] if sure else []
    parts += [f"it was not shown that they prefer {listing(even, 'or')}"] if even else []
    return (
        "The votes do not place all colorizers on one scale (see the preference section). "
        f"Compared directly, {'; '.join(parts)}."
    )


def _against(
    overall: Preference, name: str, anchors: Mapping[str, str], kind: str
) -> tuple[str, stats.Estimate] | None:
    for pair in overall.pairs:
        for mine, other, share in (
            (pair.first, pair.second, pair.share),
            (pair.second, pair.first, complement(pair.share)),
        ):
            if mine == name and anchors.get(other) == kind:
                return name, share
    return None


def _over_gray(
    overall: Preference, scale: stats.Scale, colorizers: Sequence[str], anchors: Mapping[str, str]
) -> str:
    gray = next((name for name in scale.items if anchors.get(name) == GRAY), None)
    placed: list[tuple[str, stats.Estimate, bool]] = []
    direct: list[tuple[str, stats.Estimate, bool]] = []
    for name in colorizers:
        if gray is not None and name in scale.items:
            share = scale.probability(name, gray)
            if share.estimable:
                placed.append(
                    (name, share, bool(scale.told_apart[_at(scale, name), _at(scale, gray)]))
                )
                continue
        if (found := _against(overall, name, anchors, GRAY)) is not None:
            direct.append((*found, not found[1].low <= 0.5 <= found[1].high))
    texts = []
    for entries, of in (
        (placed, "of choices, as the scale of all votes estimates"),
        (direct, "of direct comparisons"),
    ):
        better = [f"**{n}** in {percent(s)}" for n, s, apart in entries if apart and s.value > 0.5]
        worse = [(n, s) for n, s, apart in entries if apart and s.value < 0.5]
        even = [f"**{n}** ({percent(s)})" for n, s, apart in entries if not apart]
        if better:
            texts.append(
                f"over leaving the photograph grey, observers preferred {listing(better)} {of}"
            )
        if worse:
            names = listing(f"**{name}**" for name, _ in worse)
            shares = listing(percent(share) for _, share in worse)
            texts.append(
                f"observers would rather leave the photograph grey than see {names}, preferred in "
                f"{shares} {of}"
            )
        if even:
            texts.append(f"not told apart from the untouched grey photograph: {listing(even)}")
    return " ".join(map(sentence, texts))


def _part(fact: StudyFacts, part: Preference, placed: Sequence[str]) -> str:
    size = f"{count(part.observers, 'observer')}, {count(part.votes, 'comparison')}"
    scale = part.scale
    here = [n for n in placed if scale is not None and n in scale.items]
    here = [n for n in here if scale is not None and scale.estimable[_at(scale, n)]]
    if scale is None or len(here) < 2 or len({scale.component[_at(scale, n)] for n in here}) > 1:
        return sentence(f"{part.part} ({size}): no ranking can be estimated")
    best = max(here, key=lambda n: scale.score[_at(scale, n)])
    close = [n for n in unresolved(scale, best) if n in here]
    verdict = f"**{best}** first"
    if close:
        verdict = f"**{best}** highest, not told apart from {listing(f'**{n}**' for n in close)}"
    return sentence(f"{part.part} ({size}): {verdict}")


def _basis(overall: Preference) -> str:
    texts = [
        f"Based on {count(overall.votes, 'comparison')} by {count(overall.observers, 'observer')} "
        f"of {count(overall.photographs, 'photograph')}"
    ]
    if overall.ties:
        texts.append(
            f"{count(overall.ties, 'tie')} among them count half in shares of comparisons, and are "
            "no choices"
        )
    text = "; ".join(texts) + f". {reach(overall.pairs[0].share if overall.pairs else None)}"
    return text.strip()


def reach(estimate: stats.Estimate | None) -> str:
    """Say what an interval speaks of, from the words of the estimate itself."""
    if estimate is None or not estimate.estimable:
        return ""
    level = f"{100 * estimate.confidence:g}{GAP}%"
    _, _, population = estimate.method.partition("interval for ")
    if not population:
        return f"Intervals are {level}."
    if "a single observer" in " ".join(estimate.warnings):
        return f"Intervals are {level}, for {population}; one observer says nothing of others."
    return f"Intervals are {level} and speak of {population}."


def statistic(name: str, estimate: stats.Estimate | None) -> str:
    """Write one number of a condition: grades and d′ as such, shares in per cent."""
    if name not in ("mos", "dmos", "d_prime"):
        return percent(estimate)
    if estimate is not None and math.isinf(estimate.value):  # d′ where all or none were fooled
        text = "−∞" if estimate.value < 0 else "∞"
        ends = (
            number(end) if math.isfinite(end) else text for end in (estimate.low, estimate.high)
        )
        return f"{text}{GAP}[{f',{GAP}'.join(ends)}]"
    return interval(estimate)


def _judged_answer(fact: StudyFacts, parts: Sequence[Judged]) -> tuple[str, list[str]]:
    overall = parts[0]
    results = {result.condition: result for result in overall.results}
    rivals = [name for name in results if name not in fact.anchors]
    if not results:
        return "There is no answer yet: nobody has answered.", []
    if not rivals:
        return "The study shows no colorizer.", []

    def told(names: Iterable[str]) -> str:
        return listing(
            f"**{name}** {statistic(overall.measure.name, overall.main(results[name]))}"
            for name in names
        )

    best, others = rivals[0], rivals[1:]
    close = [name for name in others if not overall.gaps[name].low > 0]
    lead = {
        "rating": f"Mean grades {_scale(overall.scale)}: {told(rivals)}.",
        "real_or_fake": f"Taken for the true photograph: {told(rivals)} of the time.",
        "review": f"Accepted as they are: {told(rivals)} of reviews.",
    }[overall.method]
    if close:
        lead += f" **{best}** comes first, but cannot be told apart from "
        lead += f"{listing((f'**{name}**' for name in close), 'or')}."
    elif others:
        lead += f" **{best}** comes before every other colorizer."
    details = {"rating": _graded, "real_or_fake": _fooled, "review": _reviewed}[overall.method](
        fact, overall, [results[name] for name in rivals]
    )
    for part in parts[1:]:
        here = [result for result in part.results if result.condition in rivals]
        size = f"{count(part.observers, 'observer')}, {count(part.votes, 'answer')}"
        shown = listing(
            f"**{result.condition}** {statistic(part.measure.name, part.main(result))}"
            for result in here
        )
        details.append(sentence(f"{part.part} ({size}): {shown or 'no answers'}"))
    details.append(
        f"Based on {count(overall.votes, 'answer')} by {count(overall.observers, 'observer')} on "
        f"{count(overall.photographs, 'photograph')}. {reach(overall.main(results[best]))}".strip()
    )
    return lead, details


def _scale(scale: Scale) -> str:
    low, high = (f"{end:g}" for end in scale.ends)
    if scale.ends[0] == scale.ends[1]:
        return f"(all {low})"
    labels = {low: "lowest given", high: "highest given"} if scale.observed else scale.answers
    ends = (end if labels.get(end, end) == end else f"{end} ({labels[end]})" for end in (low, high))
    return f"from {' to '.join(ends)}"


def grade(value: object, label: str) -> str:
    """Write a grade with its label, if it has one."""
    return label if label == str(value) else f"{value} {label}"


def _graded(fact: StudyFacts, part: Judged, results: Sequence[Judgement]) -> list[str]:
    details = []
    anchored = [r for r in part.results if r.condition in fact.anchors]
    if anchored:
        beside = (f"**{r.condition}** {interval(r.estimates['mos'])}" for r in anchored)
        details.append(f"In the same sessions: {listing(beside)}.")
    top = f"{part.scale.ends[1]:g}"
    against = (
        f"**{r.condition}** {interval(r.estimates['dmos'])}"
        for r in results
        if "dmos" in r.estimates
    )
    if text := listing(against) if any("dmos" in r.estimates for r in results) else "":
        details.append(
            f"Against the true colours, graded unseen by the same observers ({top}: as good as "
            f"they; DMOS): {text}."
        )
    return details


def _fooled(fact: StudyFacts, part: Judged, results: Sequence[Judgement]) -> list[str]:
    told = [f"**{r.condition}**" for r in results if r.estimates["fool_rate"].high < 0.5]
    even = [f"**{r.condition}**" for r in results if r.estimates["fool_rate"].high >= 0.5]
    details = ["At 50 % nobody can tell a colouring from the true photograph."]
    if told:
        details[0] += f" Observers can tell {listing(told)}."
    if even:
        details[0] += f" It was not shown that they can tell {listing(even)}."
    sensitivity = (
        f"**{r.condition}** {statistic('d_prime', r.estimates['d_prime'])}" for r in results
    )
    details.append(f"Sensitivity d′ (0: they cannot tell): {listing(sensitivity)}.")
    return details


def _reviewed(fact: StudyFacts, part: Judged, results: Sequence[Judgement]) -> list[str]:
    bounds = listing(
        f"{number(100 * (r.upper_bound or 0), 0)}{GAP}% for **{r.condition}**"
        for r in results
        if r.upper_bound is not None
    )
    level = f"{100 * part.main(results[0]).confidence:g}{GAP}%"
    rejected = listing(f"**{r.condition}** {percent(r.estimates['rejected'])}" for r in results)
    details = [
        f"Rejected: {rejected}. Upper bound: with {level} confidence, the share of photographs "
        f"that at least one of these observers rejects is at most {bounds}."
    ]
    against = [result for result in results if result.reasons]
    for result in against[:MOST_TOLD]:
        given = sorted(result.reasons.items(), key=lambda item: -item[1])[:3]
        named = listing(f"{part.reasons.get(name, name).lower()} ({n})" for name, n in given)
        details.append(f"Most often held against **{result.condition}**: {named}.")
    if len(against) > MOST_TOLD:
        details.append(
            f"What was held against {count(len(against) - MOST_TOLD, 'other')}, accepted less "
            "often, is in the review section and in tables/answers.csv."
        )
    return details


def change(comparison: Comparison, estimate: stats.Estimate) -> str:
    """Write a change with its sign: in JOD, grades, or percentage points."""
    if not estimate.estimable:
        return "not estimable"
    scale, digits, unit = (100, 1, f"{GAP}points") if comparison.share else (1, 2, "")
    if comparison.measure == "JOD":
        unit = f"{GAP}JOD"
    sign = "+" if estimate.value > 0 else ""
    text = f"{sign}{number(scale * estimate.value, digits)}{unit}"
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        text += f"{GAP}[{number(scale * estimate.low, digits)},{GAP}"
        text += f"{number(scale * estimate.high, digits)}]"
    return text


def compared(comparison: Comparison) -> str:
    """Answer whether anything got worse than the baseline."""
    against = f"{comparison.kind} **{comparison.baseline}**"
    parts = []
    for verdict, text in (
        ("worse", "worse"),
        ("better", "better"),
        ("no change seen", "not told apart"),
        ("not estimable", "not to be compared with these answers"),
        ("missing", f"missing from {comparison.study}"),
    ):
        found = [
            f"**{entry.condition}**"
            + (f" ({change(comparison, entry.change)})" if entry.change.estimable else "")
            for entry in comparison.changes
            if entry.verdict == verdict
        ]
        if found:
            parts.append(f"{text}: {listing(found)}")
    text = "; ".join(parts) or "there is nothing to compare"
    judged = sum(math.isfinite(entry.change.low) for entry in comparison.changes)
    if judged > 1:
        text += f". The intervals of {count(judged, 'change')} hold together (Bonferroni)"
    return sentence(f"against {against}, by {comparison.measure}: {text}")


def _artifact_answer(
    fact: StudyFacts, artifacts: Artifacts, people: People
) -> tuple[str, list[str]]:
    if not artifacts.severe:
        return "There is no answer yet: nobody has marked an image.", []
    label = artifacts.severity_label.lower()
    colorizers = [rate for rate in artifacts.severe if rate.condition not in fact.anchors]
    colorizers = colorizers or list(artifacts.severe)
    names = {rate.condition for rate in colorizers}
    any_ = sorted(
        (rate for rate in artifacts.any if rate.condition in names), key=lambda r: r.rate.value
    )
    order = sorted(colorizers, key=lambda rate: rate.rate.value)
    free = listing(f"**{rate.condition}** {percent(complement(rate.rate))}" for rate in order)
    lead = f"Viewings free of {label} artifacts: {free}."
    level = f"{100 * order[0].rate.confidence:g}{GAP}%"
    bounds = listing(
        f"{number(100 * rate.upper_bound, 0)}{GAP}% for **{rate.condition}**" for rate in order
    )
    details = [
        f"Upper bound: with {level} confidence, the share of photographs in which at least one "
        f"of these observers marks a {label} artifact is at most {bounds}.",
        f"Any artifact at all was marked in {_viewings(any_)}.",
        *(_artifact_part(part, names, label) for part in artifacts.parts),
        f"Based on {count(artifacts.viewings, 'viewing')} of single images by "
        f"{count(people.observers, 'observer')}. {reach(order[0].rate)}".strip(),
    ]
    return lead, details


def _artifact_part(part: ArtifactPart, names: Iterable[str], label: str) -> str:
    size = f"{count(part.observers, 'observer')}, {count(part.votes, 'viewing')}"
    here = sorted((rate for rate in part.severe if rate.condition in names),
                  key=lambda rate: rate.rate.value)  # fmt: skip
    free = listing(f"**{rate.condition}** {percent(complement(rate.rate))}" for rate in here)
    return sentence(f"{part.part} ({size}), free of {label} ones: {free or 'no viewings'}")


def resolved(preference: Sequence[Preference]) -> list[str]:
    """Say, for each question, how many pairs of conditions the scale tells apart."""
    texts = []
    for part in preference:
        scale = part.scale
        if scale is None or part.part:
            continue
        pairs = [
            (a, b) for a, b in combinations(scale.items, 2) if scale.difference(a, b).estimable
        ]
        told = scale.told_apart
        apart = [(a, b) for a, b in pairs if told[_at(scale, a), _at(scale, b)]]
        close = [pair for pair in pairs if pair not in apart]
        if pairs:
            text = (
                f"How well the panel determines the scale: on {part.attribute}, it tells "
                f"{len(apart)} of {count(len(pairs), 'pair')} of conditions apart"
            )
            # The shorter list says it all.
            named, before = (close, "not ") if len(close) <= len(apart) else (apart, "these are ")
            if 0 < len(named) <= 12:
                text += f": {before}{'; '.join(f'**{a}** and **{b}**' for a, b in named)}"
            texts.append(sentence(text))
    return texts


def verdicts(metrics: Metrics) -> list[str]:
    """Say which metrics follow people, which do not, and what people themselves do."""

    def of(verdict: str) -> list[str]:
        return [
            f"**{result.metric}** ("
            + (
                interval(result.agreement)
                if result.choices is None
                else percent(result.choices.accuracy)
            )
            + ")"
            for result in metrics.results
            if result.verdict == verdict
        ]

    texts = []
    if not metrics.paired:
        for verdict, text in (
            ("better", f"Within a photograph, these follow the {metrics.scores} (SROCC, positive "
             "where the metric is right)"),
            ("chance", "Not told apart from no relation"),
            ("worse", "Against people, that is, the image that the metric calls worse fares "
             "better"),
            ("not estimable", "Not estimable"),
        ):  # fmt: skip
            if found := of(verdict):
                texts.append(f"{text}: {listing(found)}.")
        return texts
    if better := of("better"):
        texts.append(f"Better than chance at predicting what people choose: {listing(better)}.")
    if chance := of("chance"):
        texts.append(f"Not told apart from a coin: {listing(chance)}.")
    if worse := of("worse"):
        texts.append(
            "Worse than a coin, that is, people rather chose the image that the metric calls "
            f"worse: {listing(worse)}."
        )
    if metrics.ceiling is not None:
        texts.append(
            "What can be expected at best: the majority of the other observers predicts "
            f"{percent(metrics.ceiling)} of these votes."
        )
    return texts


def left_out(metrics: Metrics) -> str:
    """Say which answers are not used."""
    choices = [result.choices for result in metrics.results if result.choices is not None]
    if not choices:
        used = max(metrics.results, key=lambda result: result.overall.n)
        return (
            f"Used: {count(used.overall.n, 'image')}, each with its {metrics.scores}. "
            + _anchors_told(metrics)
        )
    most = max(choices, key=lambda found: found.n)
    least = min(found.n for found in choices)
    some = "" if least == most.n else f"{least:,} to "
    text = (
        f"Used: {some}{count(most.n, 'decided vote')} between colorizers; left out: "
        f"{count(most.n_ties, 'tie')} and {count(most.n_anchor, 'vote')} that show the "
        "untouched photograph or the true colours."
    )
    if some:
        text += (
            " Metrics that some photographs lack are held against fewer votes, and compare with "
            "the others only so far."
        )
    return text


def _anchors_told(metrics: Metrics) -> str:
    """Say what became of the untouched photograph and the true colours."""
    if metrics.paired:
        return (
            "Images and votes that show the untouched photograph or the true colours are left out "
            "here: they would flatter every metric."
        )
    text = "The untouched photograph and the true colours are themselves not scored"
    if metrics.beside:
        return f"{text}; every vote used here sets an image beside {metrics.beside}."
    return f"{text} here: they would flatter every metric."


def _viewings(rates: Sequence[stats.ArtifactRate]) -> str:
    first, *others = (f"{percent(rate.rate)} of {{}}**{rate.condition}**" for rate in rates)
    return listing([first.format("viewings of "), *(text.format("") for text in others)])


# --- methods ---------------------------------------------------------------------------------

CODED = {
    "pairwise": "on pair votes coded by condition, so that it does not depend on sides (nominal)",
    "artifact": "on the worst severity marked in each image (ordinal; 0 for none)",
    "rating": "on grades (ordinal)",
    "real_or_fake": "on whether each colouring was taken for the true photograph (nominal)",
    "review": "on verdicts (ordinal: reject, fix, accept)",
}
JUDGED = {
    "rating": (
        "Mean grades (MOS) of a condition are over all its answers, with {level} intervals for new "
        "observers and new photographs (two-way clustered variance, Student’s t). Where the true "
        "colours were graded unseen, each grade is also taken less that of the true colours by the "
        "same observer on the same photograph, plus the highest grade (DMOS, ITU-T P.910 ACR-HR). "
        "Mean grades of single images have Student’s t intervals over their answers, for new "
        "observers and these images, cut off at the ends of the scale where those are known; where "
        "all observers agree, or there is one, an image has none. No observer was rejected by "
        "ITU-R BT.500."
    ),
    "real_or_fake": (
        "The fool rate is the share of answers that take the colouring for the true photograph, "
        "with {level} intervals inside [0, 1] (Clopper and Pearson at the effective sample size of "
        "the two-way clustered variance). d′ is √2 z(1 − fool rate), as in two-alternative forced "
        "choice (Green and Swets), its interval that of the fool rate transformed."
    ),
    "review": (
        "Shares of verdicts have {level} intervals inside [0, 1] (Clopper and Pearson at the "
        "effective sample size of the two-way clustered variance). The upper bound is one-sided "
        "(Clopper and Pearson), on the share of photographs that anyone rejects; weighted "
        "photographs count as many as they are worth (Kish). Several reasons may be given in one "
        "review."
    ),
}
_DRAWN = {
    "balanced": "trials were drawn so that pairs, sides and photographs stay balanced over rated "
    "trials",
    "adaptive": "pairs were those expected to tell most as soon as votes connected all conditions, "
    "with sides balanced",
    "real_or_fake": "trials were drawn so that conditions, sides and photographs stay balanced "
    "over rated trials",
    "single": "trials were drawn so that conditions and photographs stay balanced over rated "
    "trials",
}
REFERENCES = {
    "P.910": "ITU-T P.910 (2023), Subjective video quality assessment methods",
    "Green": "Green & Swets (1966), Signal detection theory and psychophysics",
    "Bradley–Terry": "Bradley & Terry (1952), Biometrika 39, 324",
    "Davidson": "Davidson (1970), J. Am. Stat. Assoc. 65, 317",
    "Krippendorff": "Krippendorff (2011), Computing Krippendorff’s alpha-reliability",
    "Holm": "Holm (1979), Scand. J. Stat. 6, 65",
    "rank": "Mogstad, Romano, Shaikh & Wilhelm (2024), Rev. Econ. Stud. 91, 476",
    "two-way": "Cameron, Gelbach & Miller (2011), J. Bus. Econ. Stat. 29, 238",
    "Clopper": "Clopper & Pearson (1934), Biometrika 26, 404",
    "Korn": "Korn & Graubard (1998), Survey Methodology 24, 193",
}


def methods(
    protocols: Sequence[Protocol],
    facts: Sequence[StudyFacts],
    people: Sequence[People],
    agreement: Sequence[Agreement],
    preference: Sequence[Preference],
    judged: Sequence[Judged],
    artifacts: Sequence[Artifacts],
    metrics: Sequence[Metrics],
    comparison: Sequence[Comparison],
    settings: Mapping[str, Any],
) -> tuple[str, ...]:
    """Write the methods section, from the protocols and from what the estimates say they are."""
    import percept

    level = f"{100 * settings['confidence']:g}{GAP}%"
    texts = [
        _task(protocol, fact, who)
        for protocol, fact, who in zip(protocols, facts, people, strict=True)
    ]
    texts.append(_exclusions(people, [fact.method for fact in facts]))
    cited = []
    if agreement:
        of_study = {fact.study: fact.method for fact in facts}
        asked = set(of_study.values())
        means = ["shares of comparisons won"] if "pairwise" in asked else []
        means += ["these codes of images"] if asked - {"pairwise"} else []
        coded = [told for name, told in CODED.items() if name in asked]
        texts.append(
            f"Agreement between observers is Krippendorff’s alpha, {listing(coded)}. Its interval "
            f"for new units is a percentile bootstrap with {settings['n_boot']:,} resamples; the "
            "one for new observers is a jackknife, because a resampled observer would agree with "
            f"themselves. Reliability of the means (of {listing(means)}) is the correlation "
            "between random halves of the observers, stepped up to the whole panel by Spearman "
            "and Brown, with a bootstrap over images."
        )
        again = {of_study[entry.study] for entry in agreement if entry.repeated is not None}
        if again:
            swapped = " (pairs with sides swapped)" if again & {"pairwise", "real_or_fake"} else ""
            marked = "; for artifacts, whether anything was marked" if "artifact" in again else ""
            texts[-1] += (
                f" Consistency within observers is the share of repeated trials{swapped} that got "
                f"the same answer{marked}."
            )
        cited.append("Krippendorff")
    scales = [entry.scale for entry in preference if entry.scale is not None]
    if scales:
        weighted = any(entry.weighted for entry in preference)
        model, _, population = scales[0].method.partition("; ")
        terms = (
            "observers, photographs and their combinations are reweighted in turn, and combined to "
            "the variance over both"
            if "new observers and new photographs" in population
            else "votes that hang together are reweighted together"
        )
        texts.append(
            f"Preference was scaled for each attribute by maximum likelihood ({model}). Ties are "
            "part of the model. Scores are log-strengths with mean zero, reported in "
            "just-objectionable differences (JOD; one JOD: 75 % of those who choose prefer the "
            f"better). They have {level} {population}: {terms}, with Student’s t at "
            "Satterthwaite’s degrees of freedom. The range of a condition’s ranks comes from tests "
            "of its differences from all others, with Holm’s correction; two conditions are told "
            "apart where the tests of both find their difference, which is stricter. Shares of "
            "choices are what the scale estimates, with its intervals. Shares of direct "
            "comparisons use no model, count a tie as half, and have clustered intervals inside "
            "[0, 1] (Clopper and Pearson at the effective sample size)."
            + (
                " Votes are weighted by the photographs’ sampling weights."
                if weighted
                else " All photographs weigh the same."
            )
        )
        if any(pair.score.estimable for entry in preference for pair in entry.arms):
            texts[-1] += (
                " Arms are compared by the mean scores of their training seeds; the variance of a "
                "difference is that of the votes and what seeds of one arm vary beyond it, and p "
                "values are Holm’s over all pairs of arms."
            )
        cited += ["Bradley–Terry", "Davidson", "Holm", "rank", "two-way", "Clopper", "Korn"]
    for method in dict.fromkeys(entry.method for entry in judged if entry.results):
        texts.append(JUDGED[method].format(level=level))
        cited += ["two-way"]
        cited += ["Clopper", "Korn"] if method != "rating" else ["P.910"]
        cited += ["Green"] if method == "real_or_fake" else []
    if any(entry.results for entry in judged):
        texts.append(
            "One condition is called better than another only where the interval of their "
            "difference excludes zero, at a level that all pairs of colorizers share (Bonferroni). "
            "The difference is of means, its variance two-way clustered, so that what observers "
            "and photographs have in common cancels."
            + (
                " Answers are weighted by the photographs’ sampling weights."
                if any(entry.weighted for entry in judged)
                else ""
            )
        )
    if comparison:
        texts.append(
            "Against the baseline, a condition counts as worse only where the whole interval of "
            f"its change lies below zero, at a level at which the intervals of all changes in one "
            f"question hold together with {level} confidence (Bonferroni). The change is of "
            f"{listing(dict.fromkeys(entry.measure for entry in comparison))}."
            + (
                " Pairs of two studies are put on one scale by what is the same in both, the grey "
                "photograph or the true colours."
                if any(e.kind == "study" and e.measure == "JOD" for e in comparison)
                else ""
            )
        )
    if any(entry.viewings for entry in artifacts):
        one = next(entry for entry in artifacts if entry.viewings)
        texts.append(
            "Rates of artifacts are shares of viewings of single images, with intervals clustered "
            "by observer and photograph; an artifact counts once per viewing however often it was "
            f"marked. “{one.severity_label}” means severity {one.severity} or worse. The upper "
            f"bound is the one-sided {level} limit of Clopper and Pearson on the share of "
            "photographs in which anyone marked it. Heat maps give, for each place of the frame, "
            "the share of viewings whose drawn regions cover it, over all photographs."
            + (
                " Rates, bounds and maps are weighted by the photographs’ sampling weights; a "
                "bound counts as many photographs as they are worth (Kish)."
                if any(entry.weighted for entry in artifacts)
                else ""
            )
        )
        cited += ["two-way", "Clopper", "Korn"]
    if held := [entry for entry in metrics if entry.results]:
        texts.append(_held_against(held, level, settings["n_boot"]))
    texts.append(
        f"Analysis: percept {percept.__version__}, seed {settings['seed']}, "
        f"{settings['n_boot']:,} resamples, confidence {level}. The same data, version and seed "
        "give the same numbers."
    )
    if cited:
        texts.append(
            "References: " + "; ".join(REFERENCES[key] for key in dict.fromkeys(cited)) + "."
        )
    return tuple(texts)


def _held_against(metrics: Sequence[Metrics], level: str, n_boot: int) -> str:
    paired = any(entry.paired for entry in metrics)
    scores = listing(dict.fromkeys(entry.scores for entry in metrics))
    text = "Metrics are held against people"
    if paired:
        text += (
            " first by choice prediction: the share of decided votes for the image that the metric "
            "calls better, among images of one photograph, equal values counting half. The human "
            "ceiling is the same share when the majority of the other observers who saw that pair "
            "predicts the vote."
        )
    else:
        text += " by rank and product-moment correlation."
    text += (
        " Within-photograph coefficients (Spearman, Kendall’s tau-b, Pearson) are averaged over "
        "photographs; overall ones pool all images, Pearson’s after a monotone four-parameter "
        "logistic"
    )
    if paired:
        text += (
            ", and since a paired study compares versions of one photograph, they hold differences "
            "between photographs that nobody judged against the metric"
        )
    shares = (
        "of shares of votes with clustered variance, inside [0, 1] (Clopper and Pearson), "
        if paired
        else ""
    )
    told: dict[str, list[str]] = {}
    for entry in metrics:
        told.setdefault(_anchors_told(entry), []).append(entry.study)
    anchors = (
        one if len(told) == 1 else f"In {listing(dict.fromkeys(studies))}: {one}"
        for one, studies in told.items()
    )
    text += (
        f". The human score of an image is its {scores}. {' '.join(anchors)} "
        f"Intervals are {level}, for new observers and new photographs: {shares}of coefficients by "
        f"a two-way bootstrap ({n_boot:,} resamples for each term). Each metric is judged by its "
        "own interval, without correction for their number; sampling weights are not used here."
    )
    if any(entry.facets for entry in metrics):
        text += (
            " By era, process, degradation and stratum the same is shown of the photographs that "
            "share it, two or more; a photograph counts for each of its degradations."
        )
    return text


def _elsewhere(protocol: Protocol, fact: StudyFacts, people: People) -> str:
    """Say what is known of votes that were made elsewhere, and what is not."""
    asked = listing(f"“{entry.question}” ({entry.name})" for entry in protocol.attributes)
    task = {
        "pairwise": "compared two versions of a photograph",
        "real_or_fake": "compared a colouring of a photograph with the true one",
        "rating": "graded versions of a photograph",
        "review": "passed verdicts on versions of a photograph",
    }[protocol.method]
    return (
        f"Study “{fact.study}”, “{fact.title}”: its votes were made elsewhere and imported from "
        f"{fact.imported} on {fact.created_at[:10]} (SHA-256 of the mapping’s protocol "
        f"{fact.protocol_sha256[:16]}…). {count(people.observers, 'observer')} {task}: {asked}. "
        f"Conditions: {listing(fact.conditions)}; {count(fact.photographs, 'photograph')}. How "
        "images were prepared, drawn and shown, for how long, on what screens and to whom is not "
        "known to percept: describe it here. If observers knew what they saw, or if pairs and "
        "sides were not balanced, what follows does not make up for it."
    )


def _task(protocol: Protocol, fact: StudyFacts, people: People) -> str:
    if fact.imported:
        return _elsewhere(protocol, fact, people)
    names = listing(fact.conditions)
    beside = {
        "original": ", with the grey original on view" if protocol.display.original else "",
        "true": ", beside the true colours",
        None: "",
    }[protocol.reference]
    one = f"one version of a photograph at a time, blind to its origin{beside}"
    asked = listing(f"“{entry.question}” ({entry.name})" for entry in protocol.attributes)
    kinds = listing(entry.label.lower() for entry in protocol.artifacts)
    levels = listing(f"{level.label.lower()} ({level.value})" for level in protocol.severities)
    marking = f"regions with one of {len(protocol.artifacts)} artifacts ({kinds})"
    marking += f" and a severity ({levels})"
    if protocol.method == "pairwise":
        task = f"two versions of one photograph side by side, blind to their origin{beside}"
        rule = f"“No difference” was {'an' if protocol.tie else 'not an'} allowed answer."
        if protocol.why != "off":
            able = "could" if protocol.why == "optional" else "had to"
            rule += f" After the first question they {able} mark, on the losing image, {marking}."
    elif protocol.method == "artifact":
        task = one
        rule = f"They marked {marking}, or said that they saw none."
    elif protocol.method == "rating":
        task = one
        grades = listing(grade(entry.value, entry.label) for entry in protocol.scores)
        rule = f"Grades were {grades} ({protocol.scale.upper()} of ITU-T P.910)."
    elif protocol.method == "real_or_fake":
        shown = (
            f"for {protocol.display_ms}{GAP}ms" if protocol.display_ms else "until they answered"
        )
        task = f"the true photograph and a colouring of it side by side {shown}"
        rule = (
            f"They said which one was {'the true one' if protocol.asks == 'real' else 'coloured'}."
        )
    else:
        task = one
        reasons = listing(reason.label.lower() for reason in protocol.reasons)
        rule = (
            "Verdicts were accept, fix and reject; what was not accepted needed a reason "
            f"({reasons})."
        )
        if protocol.artifacts:
            rule += f" They could mark {marking}."
    if fact.simulated == "all":
        who = f"{count(people.observers, 'simulated observer')} (a program, no people)"
    else:
        who = count(people.observers, "observer")
        if fact.simulated == "some":
            who += f", {people.simulated} of {people.joined} who joined simulated by a program,"
    sitting = [f"{protocol.trials} trials" if protocol.trials != 1 else "one trial"]
    if protocol.practice:
        sitting.append(f"{protocol.practice} announced practice trials before them")
    paired = "left" in METHOD_COLUMNS[protocol.method]
    by_method = {"pairwise": protocol.selection, "real_or_fake": "real_or_fake"}
    drawn = _DRAWN[by_method.get(protocol.method, "single")]
    if protocol.repeats:
        swapped = " with sides swapped" if paired else ""
        sitting.append(f"{protocol.repeats} of them repeated{swapped}")
    if protocol.golds:
        sitting.append(f"{count(protocol.golds, 'gold trial')}, whose answer is beyond taste")
    if protocol.identical:
        sitting.append(f"{protocol.identical} pairs of one image with itself")
    skip = "Trials could be skipped with a reason. " if protocol.skip else ""
    context = (
        f"The photograph’s {listing(protocol.context)} were shown, the same for all versions. "
        if protocol.context
        else ""
    )
    aids = f"Viewing aids: {listing(protocol.aids)}. " if protocol.aids else "No viewing aids. "
    return (
        f"Study “{fact.study}”, “{fact.title}” (protocol SHA-256 {fact.protocol_sha256[:16]}…, "
        f"created {fact.created_at[:10]}, seed {fact.seed}): {who} saw {task}, and answered "
        f"{asked}. {rule} Conditions: {names}; {count(fact.photographs, 'photograph')}. All images "
        f"were rendered once, to a largest side of {protocol.display.max_side}{GAP}px, as 8-bit "
        f"PNG with the same sRGB tag, and served unchanged. A session had {listing(sitting)}; "
        f"{drawn}, in random order. Answers were taken from {protocol.min_view_ms}{GAP}ms "
        f"after the {'images were' if paired else 'image was'} on view, with "
        f"{protocol.isi_ms}{GAP}ms of grey between trials. {skip}{context}{aids}"
    ).strip()


def _exclusions(people: Sequence[People], methods: Iterable[str]) -> str:
    parts = []
    for entry in people:
        left_out = [
            f"{count(n, kind + ' trial')}" for kind, n in entry.answers.items() if kind != "test"
        ]
        if entry.skipped:
            left_out.append(count(entry.skipped, "skipped answer"))
        if entry.revised:
            left_out.append(
                f"{count(entry.revised, 'answer')} that the observer took back and gave anew"
            )
        tests = count(entry.answers.get("test", 0), "test trial")
        parts.append(
            f"in {entry.study}, {tests} count and {listing(left_out)} did not enter the estimates"
            if left_out
            else f"in {entry.study}, {tests} count, which are all that there are"
        )
    return f"{sentence('; '.join(parts))} {screening(people, methods)} All votes stay in the data."


def screening(people: Sequence[People], methods: Iterable[str]) -> str:
    """Say by which rules observers were screened, and what became of them."""
    limits, methods = stats.ScreeningRules(), set(methods)

    def share(limit: float | None) -> str:
        return f"{100 * (limit or 0):g}{GAP}%"

    rules = [
        f"fewer than {share(limits.min_gold)} of golds right",
        f"significantly fewer than {share(limits.min_repeat)} of repeats answered alike",
        f"more than {share(limits.max_fast)} of answers under {limits.min_time_ms:g}{GAP}ms",
        f"more than {limits.max_run} same answers in a row"
        + (
            " (of verdicts and artifacts only where others’ answers make that unlikely)"
            if methods & {"artifact", "review"}
            else ""
        ),
    ]
    if "pairwise" in methods:
        rules.append(
            f"a side preferred on more than {share(limits.max_identical_choice)} of identical pairs"
        )
    if methods & {"pairwise", "real_or_fake"}:
        rules.append(f"one side chosen in {share(limits.min_side)} or more (p < {limits.side_p:g})")
    if "rating" in methods:
        rules.append(f"grades that spread by less than {limits.min_spread:g}")
    found = listing(
        f"{len(entry.flagged)} of {count(entry.observers, 'observer')} of {entry.study}"
        for entry in people
    )
    again = ""
    if any(entry.flagged for entry in people):
        again = ", and the estimates are also given without those flagged"
    return (
        f"No observer was excluded. Screening flags {found}, by any of: {'; '.join(rules)} (of "
        f"controls from {limits.min_controls} of a kind on); disagreement with others is no "
        f"reason. The main results hold everybody’s votes{again}."
    )
