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
from percept.types import GRAY, REFERENCE

if TYPE_CHECKING:
    from percept.protocol import Protocol
    from percept.report.build import (
        Agreement,
        Answer,
        Artifacts,
        Metrics,
        People,
        Preference,
        StudyFacts,
    )

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
    """Join with commas and a word before the last part."""
    parts = list(parts)
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
            else:
                own = next(entry for entry in artifacts if entry.study == fact.study)
                who = next(entry for entry in people if entry.study == fact.study)
                lead, details = _artifact_answer(fact, own, who)
            found.append(Answer(fact.study, attribute, question, lead, tuple(details)))
    return tuple(found)


def unresolved(scale: stats.Scale, item: str) -> list[str]:
    """Items of the same component that the scale cannot tell from ``item``, nearest first.

    Rank ranges come from pairwise tests under Holm's correction, which rejects the largest
    standardised differences first; so those that remain are the smallest ones.
    """
    at, k = scale.items.index(item), len(scale.items)
    above: list[tuple[float, str]] = []
    below: list[tuple[float, str]] = []
    for other in scale.items:
        gap = scale.difference(item, other)
        if other != item and gap.estimable:
            distance = abs(gap.value) / max(gap.std_error, 1e-12)
            (below if gap.value >= 0 else above).append((distance, other))
    told_above, told_below = int(scale.rank_low[at]) - 1, k - int(scale.rank_high[at])
    near = sorted(above)[: len(above) - told_above] + sorted(below)[: len(below) - told_below]
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
        lead = _ranking(overall, scale, placed)
    gray = [_against(overall, name, fact.anchors, GRAY) for name in colorizers]
    over_gray = [entry for entry in gray if entry is not None]
    if over_gray:
        text = _over_gray(over_gray)
        if lead:
            details.append(text)
        else:
            lead = text
    true = [_against(overall, name, fact.anchors, REFERENCE) for name in colorizers]
    beside = [f"**{e[0]}** in {percent(e[1])}" for e in true if e is not None]
    if beside:
        details.append(
            f"Against the true colours, observers preferred {listing(beside)} of comparisons."
        )
    for part in slices[1:] if len(placed) > 1 else ():
        details.append(_part(fact, part, placed))
    if unseen := [f"**{name}**" for name in colorizers if name not in voted]:
        details.append(f"There are no votes on {listing(unseen)} yet.")
    details.append(_basis(overall))
    return lead or "The study compares no colorizers.", details


def _at(scale: stats.Scale, name: str) -> int:
    return scale.items.index(name)


def _ranking(overall: Preference, scale: stats.Scale, placed: Sequence[str]) -> str:
    order = sorted(placed, key=lambda name: -scale.score[_at(scale, name)])
    best, others = order[0], order[1:]
    close = [name for name in unresolved(scale, best) if name in others]
    sure = [name for name in others if name not in close]

    def shares(names: Sequence[str], word: str = "to ") -> list[str]:
        return [f"{word}**{name}** in {_share(overall, scale, best, name)}" for name in names]

    if not close:
        if len(others) == 1:
            return f"Observers preferred **{best}** {shares(others)[0]} of comparisons."
        return (
            f"Observers preferred **{best}** to every other colorizer: "
            f"{listing(shares(others))} of comparisons."
        )
    apart = listing((f"**{name}** ({_share(overall, scale, best, name)})" for name in close), "or")
    if not sure:
        return (
            f"No winner: **{best}** scored highest, but it cannot be told apart from {apart}; "
            "in brackets, how often it was preferred."
        )
    return (
        f"**{best}** scored highest. Observers preferred it {listing(shares(sure))} of "
        f"comparisons, but it cannot be told apart from {apart}."
    )


def _share(overall: Preference, scale: stats.Scale, first: str, second: str) -> str:
    """Direct share of comparisons that ``first`` won, else what the scale implies."""
    for pair in overall.pairs:
        if {pair.first, pair.second} == {first, second}:
            return percent(pair.share if pair.first == first else complement(pair.share))
    return f"an estimated {percent(scale.probability(first, second))}"


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
    parts = listing(
        f"**{p.first}** over **{p.second}** in {percent(p.share)}"
        if p.share.value >= 0.5
        else f"**{p.second}** over **{p.first}** in {percent(complement(p.share))}"
        for p in pairs
    )
    return (
        "The votes do not place all colorizers on one scale (see the preference section). "
        f"Compared directly, observers preferred {parts} of comparisons."
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


def _over_gray(entries: Sequence[tuple[str, stats.Estimate]]) -> str:
    better = [f"**{name}** in {percent(share)}" for name, share in entries if share.low > 0.5]
    worse = [(name, share) for name, share in entries if share.high < 0.5]
    even = [
        f"**{name}** ({percent(share)})"
        for name, share in entries
        if share.low <= 0.5 <= share.high
    ]
    parts = []
    if better:
        parts.append(
            "over leaving the photograph grey, observers preferred "
            f"{listing(better)} of comparisons"
        )
    if worse:
        names = listing(f"**{name}**" for name, _ in worse)
        shares = listing(percent(share) for _, share in worse)
        parts.append(
            f"observers would rather leave the photograph grey than see {names}, preferred in "
            f"{shares} of comparisons"
        )
    if even:
        parts.append(f"not told apart from the untouched grey photograph: {listing(even)}")
    return " ".join(sentence(part) for part in parts)


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
        texts.append(f"{count(overall.ties, 'tie')} count half in these shares")
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
        f"Based on {count(artifacts.viewings, 'viewing')} of single images by "
        f"{count(people.observers, 'observer')}. {reach(order[0].rate)}".strip(),
    ]
    return lead, details


def resolved(preference: Sequence[Preference]) -> list[str]:
    """Say, for each question, how many pairs of conditions the scale tells apart."""
    texts = []
    for part in preference:
        scale = part.scale
        if scale is None or part.part:
            continue
        near = {item: unresolved(scale, item) for item in scale.items}
        pairs = [
            (a, b) for a, b in combinations(scale.items, 2) if scale.difference(a, b).estimable
        ]
        close = [f"**{a}** and **{b}**" for a, b in pairs if b in near[a] or a in near[b]]
        if pairs:
            text = (
                f"How well the panel determines the scale: on {part.attribute}, it tells "
                f"{len(pairs) - len(close)} of {count(len(pairs), 'pair')} of conditions apart"
            )
            texts.append(sentence(text + (f"; not {listing(close, 'or')}" if close else "")))
    return texts


def verdicts(metrics: Metrics) -> list[str]:
    """Say which metrics predict people's choices, which do not, and what people themselves do."""

    def of(verdict: str) -> list[str]:
        return [
            f"**{result.metric}** ({percent(result.choices.accuracy)})"
            for result in metrics.results
            if result.verdict == verdict
        ]

    texts = []
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
    """Say which votes the choice predictions do not use."""
    choices = [result.choices for result in metrics.results]
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


def _viewings(rates: Sequence[stats.ArtifactRate]) -> str:
    first, *others = (f"{percent(rate.rate)} of {{}}**{rate.condition}**" for rate in rates)
    return listing([first.format("viewings of "), *(text.format("") for text in others)])


# --- methods ---------------------------------------------------------------------------------

REFERENCES = {
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
    artifacts: Sequence[Artifacts],
    metrics: Sequence[Metrics],
    settings: Mapping[str, Any],
) -> tuple[str, ...]:
    """Write the methods section, from the protocols and from what the estimates say they are."""
    import percept

    level = f"{100 * settings['confidence']:g}{GAP}%"
    texts = [
        _task(protocol, fact, who)
        for protocol, fact, who in zip(protocols, facts, people, strict=True)
    ]
    texts.append(_exclusions(people))
    cited = []
    pairwise = [entry for entry in agreement if "prefer" in entry.measure]
    marked = [entry for entry in agreement if "prefer" not in entry.measure]
    if agreement:
        coded = []
        if pairwise:
            coded.append(
                "on pair votes coded by condition, so that it does not depend on sides (nominal)"
            )
        if marked:
            coded.append("on the worst severity marked in each image (ordinal; 0 for none)")
        texts.append(
            f"Agreement between observers is Krippendorff’s alpha, {listing(coded)}. Its interval "
            f"for new units is a percentile bootstrap with {settings['n_boot']:,} resamples; the "
            "one for new observers is a jackknife, because a resampled observer would agree with "
            "themselves. Reliability of the means (of shares of comparisons won, or of worst "
            "severities) is the correlation between random halves of the observers, stepped up to "
            "the whole panel by Spearman and Brown, with a bootstrap over images. Consistency "
            "within observers is the share of repeated trials (pairs with sides swapped) that got "
            "the same answer; for single images, whether anything was marked."
        )
        cited.append("Krippendorff")
    scales = [entry.scale for entry in preference if entry.scale is not None]
    if scales:
        weighted = any(entry.weighted for entry in preference)
        texts.append(
            f"Preference was scaled for each attribute by maximum likelihood ({scales[0].method}). "
            "Ties are part of the model (Davidson). Scores are log-strengths with mean zero, "
            "reported in just-objectionable differences (JOD; one JOD: 75 % of those who choose "
            f"prefer the better). Intervals are {level}, with two-way clustered variance and "
            "Student’s t on the scarcer of observers and photographs. Ranges of ranks come from "
            "pairwise tests with Holm’s correction; two conditions are called told apart only if "
            "that correction leaves their difference. Shares of direct comparisons use no model, "
            "count a tie as half, and have clustered intervals inside [0, 1] (Clopper and Pearson "
            "at the effective sample size)."
            + (
                " Votes are weighted by the photographs’ sampling weights."
                if weighted
                else " All photographs weigh the same."
            )
        )
        cited += ["Bradley–Terry", "Davidson", "Holm", "rank", "two-way", "Clopper", "Korn"]
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
    if any(entry.results for entry in metrics):
        texts.append(
            "Metrics are held against people first by choice prediction: the share of decided "
            "votes for the image that the metric calls better, among images of one photograph, "
            "equal values counting half. The human ceiling is the same share when the majority of "
            "the other observers who saw that pair predicts the vote. Within-photograph "
            "coefficients (Spearman, Kendall’s tau-b, Pearson) are averaged over photographs; "
            "overall ones pool all images, Pearson’s after a monotone four-parameter logistic, and "
            "since a paired study compares versions of one photograph, they hold differences "
            "between photographs that nobody judged against the metric. Human scores are shares of "
            "comparisons won. Votes that show the untouched photograph or the true colours are "
            f"left out here: they would flatter every metric. Intervals are {level}, for new "
            f"observers and new photographs ({settings['n_boot']:,} resamples for each term). Each "
            "metric is judged by its own interval, without correction for their number; sampling "
            "weights are not used here."
        )
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


def _task(protocol: Protocol, fact: StudyFacts, people: People) -> str:
    names = listing(fact.conditions)
    if protocol.method == "pairwise":
        task = (
            f"two versions of one photograph side by side, blind to their origin"
            f"{', with the grey original on view' if protocol.display.original else ''}"
        )
        asked = listing(f"“{entry.question}” ({entry.name})" for entry in protocol.attributes)
        rule = f"“No difference” was {'an' if protocol.tie else 'not an'} allowed answer."
    else:
        task = (
            "one version of a photograph at a time, blind to its origin"
            f"{', with the grey original on view' if protocol.display.original else ''}"
        )
        asked = listing(f"“{entry.question}”" for entry in protocol.attributes)
        kinds = listing(entry.label.lower() for entry in protocol.artifacts)
        levels = listing(f"{level.label.lower()} ({level.value})" for level in protocol.severities)
        rule = (
            f"They marked regions with one of {len(protocol.artifacts)} artifacts ({kinds}) and a "
            f"severity ({levels}), or said that they saw none."
        )
    if fact.simulated == "all":
        who = f"{count(people.observers, 'simulated observer')} (a program, no people)"
    else:
        who = count(people.observers, "observer")
        if fact.simulated == "some":
            who += f", {people.simulated} of {people.joined} who joined simulated by a program,"
    sitting = [f"{protocol.trials} trials" if protocol.trials != 1 else "one trial"]
    if protocol.practice:
        sitting.append(f"{protocol.practice} announced practice trials before them")
    if protocol.repeats:
        swapped = " with sides swapped" if protocol.method == "pairwise" else ""
        sitting.append(f"{protocol.repeats} of them repeated{swapped}")
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
        "trials were drawn so that pairs, sides and photographs stay balanced over rated trials, "
        f"in random order. Answers were taken from {protocol.min_view_ms}{GAP}ms after the images "
        f"were on view, with {protocol.isi_ms}{GAP}ms of grey between trials. {skip}{context}{aids}"
    ).strip()


def _exclusions(people: Sequence[People]) -> str:
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
        out = listing(left_out) if left_out else "nothing"
        parts.append(
            f"in {entry.study}, {count(entry.answers.get('test', 0), 'test trial')} count and "
            f"{out} did not enter the estimates"
        )
    return f"{sentence('; '.join(parts))} {screening(people)} All votes stay in the data."


def screening(people: Sequence[People]) -> str:
    """Say by which rules observers were screened, and what became of them."""
    screened = [entry for entry in people if entry.screened]
    if not screened:
        return "No observer was excluded: no screening rule applies to these studies."
    limits = stats.ScreeningRules()

    def share(limit: float | None) -> str:
        return f"{100 * (limit or 0):g}{GAP}%"

    rules = [
        f"fewer than {share(limits.min_gold)} of golds right",
        f"significantly fewer than {share(limits.min_repeat)} of repeats answered alike",
        f"a side preferred on more than {share(limits.max_identical_choice)} of identical pairs "
        f"(each from {limits.min_controls} such trials on)",
        f"more than {share(limits.max_fast)} of answers under {limits.min_time_ms:g}{GAP}ms",
        f"more than {limits.max_run} same answers in a row",
        f"one side chosen in {share(limits.min_side)} or more (p < {limits.side_p:g})",
    ]
    found = listing(
        f"{len(entry.flagged)} of {count(entry.observers, 'observer')} of {entry.study}"
        for entry in screened
    )
    return (
        f"No observer was excluded. Screening flags {found}, by any of: {'; '.join(rules)}; "
        "disagreement with others is no reason. The main results hold everybody’s votes, and the "
        "scales are also given without those flagged."
    )
