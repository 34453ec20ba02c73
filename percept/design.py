"""Trial lists: which images a session shows, in which order, on which side. Pure functions.

A *cell* is one photograph with the one or two conditions that a trial judges (its *unit*).
Sessions are filled greedily with the cells, then the units, then the photographs that are used
least so far, which keeps every cell within one use of every other over completed sessions,
whoever drops out. Pairs between conditions that nothing connects yet come first: a first session
of at least as many trials as conditions less one compares them all, and later sessions do so on
their own as far as balance lets them, because earlier ones may never be finished. With
``selection = "adaptive"`` the pairs are those that are expected to tell most
(:mod:`percept.adaptive`), as soon as votes connect all conditions.

Order and sides are drawn afterwards, without a look at the conditions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from percept.adaptive import Posterior, posterior
from percept.errors import InputError
from percept.protocol import Protocol
from percept.types import REFERENCE

IntArray = NDArray[np.int64]
Usage = Mapping[tuple[int, ...], int]

#: Golds that a study has at least, so that their answers cannot be passed on.
MIN_GOLDS = 12
#: A gold is retired where sound observers miss it significantly more often than this...
MISS_RATE = 0.2
#: ...by a one-sided exact binomial test at this level.
MISS_LEVEL = 0.05

_NEVER = np.iinfo(np.int64).max  # the use of a cell that cannot be chosen


@dataclass(frozen=True)
class PlannedTrial:
    """One presentation; ``content`` and the images are keys of the stimulus table."""

    kind: str
    content: int
    images: dict[str, int]
    """Stimulus for each role: left, right or stimulus; reference."""
    expected: str | None = None
    """The right answer, where there is one; :func:`passes` compares."""
    repeat_of: int | None = None
    """Position, from 1, of the trial that this one repeats."""


@dataclass(frozen=True)
class SessionPlan:
    """The trials of one session in order, and the order of its questions."""

    trials: tuple[PlannedTrial, ...]
    attributes: tuple[str, ...]


def plan_session(
    protocol: Protocol,
    stimuli: pd.DataFrame,
    usage: Usage,
    *,
    rng: np.random.Generator,
    votes: pd.DataFrame | None = None,
) -> SessionPlan:
    """Draw the trials of one session.

    Parameters
    ----------
    protocol : Protocol
        Says how many trials of each kind; there are fewer where a study has fewer different ones.
    stimuli : DataFrame
        ``id, content, condition, role``: role ``test`` for content × condition, ``original`` for
        the grey photograph on view, ``gold`` for a test image that was spoilt beyond taste. A
        column ``retired``, where there is one, marks golds that are shown no more.
    usage : mapping
        How often each (left, right) or (stimulus,) is in use in other sessions, as shown.
    rng : numpy Generator
        The only source of chance: the same arguments give the same plan.
    votes : DataFrame, optional
        Votes on test trials so far, for ``selection = "adaptive"``: ``left, right`` (conditions),
        ``choice, count``. Until they connect all conditions the plan is balanced.

    Raises
    ------
    InputError
        The method compares with the true colours, and the study has none.
    """
    pool = _pool(protocol, stimuli)
    used, sides = _count(pool, usage)
    adaptive = protocol.selection == "adaptive" and protocol.method == "pairwise"
    known = _posterior(pool, votes, used) if adaptive and votes is not None else None
    chosen = _choose(pool, protocol.trials, used, known, rng)
    oriented = _orient(pool, chosen, usage, sides, rng)
    beside = _beside(pool, protocol, stimuli)
    truths = set(pool.truths()) if protocol.method == "real_or_fake" else set()

    def trial(
        kind: str, content: int, shown: Sequence[int], expected: str | None = None
    ) -> PlannedTrial:
        roles = ("left", "right") if len(shown) == 2 else ("stimulus",)
        images = dict(zip(roles, map(int, shown), strict=True))
        if truths:
            expected = (
                "left" if (images["left"] in truths) == (protocol.asks == "real") else "right"
            )
        if beside:
            images["reference"] = beside[content]
        return PlannedTrial(kind, content, images, expected)

    def gold(kind: str, control: _Gold, swap: bool) -> PlannedTrial:
        if control.sound is None:
            return trial(kind, control.content, (control.spoilt,), _spoilt_answer(protocol))
        if swap:
            return trial(kind, control.content, (control.spoilt, control.sound), "right")
        return trial(kind, control.content, (control.sound, control.spoilt), "left")

    golds = _draw_golds(pool, protocol, stimuli, rng)
    main = [
        trial("test", int(pool.contents[row]), shown)
        for (row, _), shown in zip(chosen, oriented, strict=True)
    ]
    checks = golds[: protocol.golds]
    main += map(gold, ["gold"] * len(checks), checks, _halves(len(checks), rng))
    for row, unit in _draw_cells(pool, protocol.identical, (), rng):
        twin = pool.stimuli[row, rng.choice(pool.units[unit])]
        expected = "tie" if protocol.tie else None
        main.append(trial("identical", int(pool.contents[row]), (twin, twin), expected))
    main = _spread(main, rng)

    # Practice that tells right from wrong needs answers that are; the rest is as in the tests.
    lessons = golds[len(checks) :] if protocol.practice_feedback else []
    lessons = lessons[: protocol.practice]
    warmups = list(map(gold, ["practice"] * len(lessons), lessons, _halves(len(lessons), rng)))
    for row, unit in _draw_cells(pool, protocol.practice - len(lessons), chosen, rng):
        shown = rng.permutation(pool.stimuli[row, pool.units[unit]]).tolist()
        warmups.append(trial("practice", int(pool.contents[row]), shown))
    practice = _spread(warmups, rng)
    trials = practice + _with_repeats(main, protocol.repeats, len(practice), rng)
    names = [attribute.name for attribute in protocol.attributes]
    order = tuple(names[index] for index in rng.permutation(len(names)))
    return SessionPlan(tuple(trials), order)


# Cells ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pool:
    """Everything that a test trial can show: N photographs × U units of C conditions."""

    conditions: list[str]
    contents: IntArray
    """Keys, shape (N,)."""
    stimuli: IntArray
    """Keys of the test images, shape (N, C); -1 where there is none."""
    units: IntArray
    """Conditions of each unit, as columns of ``stimuli``: shape (U, 2) for pairs, else (U, 1)."""

    def truths(self) -> list[int]:
        """Keys of the true colours of each photograph."""
        return [int(key) for key in self.stimuli[:, self.conditions.index(REFERENCE)]]

    @property
    def there(self) -> NDArray[np.bool_]:
        """Whether a cell has all its images, shape (N, U)."""
        return np.asarray((self.stimuli[:, self.units] >= 0).all(axis=2))

    def unit_of(self) -> IntArray:
        """Find the unit of each two conditions, in any order: shape (C, C), -1 for none."""
        found = np.full((len(self.conditions),) * 2, -1)
        found[self.units[:, 0], self.units[:, -1]] = np.arange(len(self.units))
        return np.maximum(found, found.T)


def _pool(protocol: Protocol, stimuli: pd.DataFrame) -> _Pool:
    tests = stimuli[stimuli["role"] == "test"]
    rows, contents = pd.factorize(tests["content"], sort=True)
    columns, names = pd.factorize(tests["condition"].astype(str), sort=True)
    keys = np.full((len(contents), len(names)), -1)
    keys[rows, columns] = tests["id"]
    conditions = list(map(str, names))
    if protocol.needs_reference and REFERENCE not in conditions:
        raise InputError(
            "this protocol compares with the true colours, and the study does not have them",
            key="condition",
            value=REFERENCE,
            remedy=f"Run inference with --condition {REFERENCE}={REFERENCE}",
        )
    rivals = np.array(  # the true colours are none where everything is compared with them
        [k for k, name in enumerate(conditions)
         if not (protocol.needs_reference and name == REFERENCE)],
        dtype=np.int64,
    )  # fmt: skip
    if protocol.method == "pairwise":
        units = np.stack(np.triu_indices(len(names), 1), axis=1)
    elif protocol.method == "real_or_fake":
        truth = np.full(len(rivals), conditions.index(REFERENCE))
        units = np.stack([truth, rivals], axis=1)
    else:
        units = rivals[:, None]
    return _Pool(conditions, np.asarray(contents, dtype=np.int64), keys, units)


def _beside(pool: _Pool, protocol: Protocol, stimuli: pd.DataFrame) -> dict[int, int]:
    """Find what is on view beside the judged images of each photograph, if anything is."""
    if protocol.reference is None:
        return {}
    if protocol.reference == "true":
        return dict(zip(pool.contents.tolist(), pool.truths(), strict=True))
    grey = stimuli[stimuli["role"] == "original"]
    return dict(zip(grey["content"].tolist(), grey["id"].tolist(), strict=True))


def _count(pool: _Pool, usage: Usage) -> tuple[IntArray, IntArray]:
    """Count uses of each cell, shape (N, U), and of each (left, right), shape (C, C)."""
    used = np.zeros((len(pool.contents), len(pool.units)), dtype=np.int64)
    sides = np.zeros((len(pool.conditions),) * 2, dtype=np.int64)
    size = pool.units.shape[1]
    entries = [(shown, times) for shown, times in usage.items() if len(shown) == size]
    if not entries:
        return used, sides
    shown = np.array([keys for keys, _ in entries])
    times = np.array([count for _, count in entries])
    order = np.argsort(pool.stimuli, axis=None)
    keys = pool.stimuli.ravel()[order]
    place = np.searchsorted(keys, shown).clip(max=len(keys) - 1)
    known = (keys[place] == shown).all(axis=1)
    row, column = np.divmod(order[place[known]], len(pool.conditions))
    unit = pool.unit_of()[column[:, 0], column[:, -1]]
    np.add.at(used, (row[:, 0], unit), times[known])
    np.add.at(sides, (column[:, 0], column[:, -1]), times[known])
    return used, sides


def _choose(
    pool: _Pool,
    count: int,
    used: IntArray,
    known: Posterior | None,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Choose different cells (row, unit): level in all respects, or by what they would tell."""
    cost = np.where(pool.there, used, _NEVER)
    lowest = cost.min(axis=0, initial=_NEVER)  # of each unit
    by_unit, by_content = used.sum(axis=0), used.sum(axis=1)
    here = np.zeros(len(pool.contents), dtype=np.int64)  # trials of this session
    seen = np.zeros(len(pool.conditions), dtype=np.int64)
    everywhere = _Parts(len(pool.conditions), pool.units[by_unit > 0])
    session = _Parts(len(pool.conditions))
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and (lowest < _NEVER).any():
        if known is not None:
            loads: Iterable[NDArray[np.generic]] = (lowest == _NEVER, -known.gain(pool.units))
        else:
            loads = (
                lowest,
                everywhere.joined(pool.units),
                by_unit,
                session.joined(pool.units),
                seen[pool.units].sum(axis=1),
            )
        unit = int(rng.choice(_least(np.arange(len(pool.units)), loads)))
        rows = np.flatnonzero(cost[:, unit] == lowest[unit])
        row = int(rng.choice(_least(rows, (here, by_content))))
        chosen.append((row, unit))
        cost[row, unit] = _NEVER
        lowest[unit] = cost[:, unit].min()
        by_unit[unit] += 1
        by_content[row] += 1
        here[row] += 1
        seen[pool.units[unit]] += 1
        everywhere.join(*pool.units[unit, [0, -1]])
        session.join(*pool.units[unit, [0, -1]])
        known = known.after(pool.units[unit]) if known is not None else None
    return chosen


def _least(candidates: IntArray, loads: Iterable[NDArray[np.generic]]) -> IntArray:
    """Keep the candidates that carry least, by the first load, then by the next ones."""
    for load in loads:
        mine = load[candidates]
        candidates = candidates[mine == mine.min()]
    return candidates


class _Parts:
    """Connected parts of a graph of conditions."""

    def __init__(self, size: int, pairs: IntArray | tuple[()] = ()) -> None:
        self.label = np.arange(size)
        for pair in pairs:
            self.join(pair[0], pair[-1])

    def join(self, first: int, second: int) -> None:
        self.label[self.label == self.label[second]] = self.label[first]

    def joined(self, pairs: IntArray) -> NDArray[np.bool_]:
        return np.asarray(self.label[pairs[:, 0]] == self.label[pairs[:, -1]])

    @property
    def one(self) -> bool:
        return bool((self.label == self.label[:1]).all())


def _posterior(pool: _Pool, votes: pd.DataFrame, used: IntArray) -> Posterior | None:
    """Scores by the votes, narrowed by trials under way; None while votes connect too little."""
    places = {name: place for place, name in enumerate(pool.conditions)}
    wins = np.zeros((len(places),) * 2)
    for left, right, choice, count in votes[["left", "right", "choice", "count"]].itertuples(
        index=False
    ):
        if left in places and right in places and choice in ("left", "right", "tie"):
            one, other = places[left], places[right]
            wins[one, other] += count * {"left": 1, "right": 0, "tie": 0.5}[choice]
            wins[other, one] += count * {"left": 0, "right": 1, "tie": 0.5}[choice]
    first, second = pool.units.T
    answered = (wins + wins.T)[first, second]
    if not _Parts(len(places), pool.units[answered > 0]).one:
        return None
    known = posterior(wins)
    pending = used.sum(axis=0) - answered
    for unit in np.flatnonzero(pending > 0):
        known = known.after(pool.units[unit], float(pending[unit]))
    return known


def _draw_cells(
    pool: _Pool, count: int, but: Sequence[tuple[int, int]], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw different cells, others than ``but`` as long as there are any others."""
    there = pool.there
    free = there.copy()
    for cell in but:
        free[cell] = False
    picked: list[int] = []
    for places in (np.flatnonzero(free), np.flatnonzero(there & ~free)):
        more = min(count - len(picked), len(places))
        picked += rng.choice(places, more, replace=False).tolist()
    return [divmod(place, len(pool.units)) for place in picked]


def _orient(
    pool: _Pool,
    chosen: Sequence[tuple[int, int]],
    usage: Usage,
    sides: IntArray,
    rng: np.random.Generator,
) -> list[tuple[int, ...]]:
    """Give each pair its sides: level within pairs, then cells, then conditions."""
    sides = sides.copy()
    oriented: list[tuple[int, ...]] = []
    for row, unit in chosen:
        keys = tuple(pool.stimuli[row, pool.units[unit]].tolist())
        if len(keys) == 1:
            oriented.append(keys)
            continue
        first, second = pool.units[unit]
        surplus = (  # positive: ``first`` has been on the left too often
            sides[first, second] - sides[second, first],
            usage.get(keys, 0) - usage.get(keys[::-1], 0),
            (sides[first].sum() - sides[:, first].sum())
            - (sides[second].sum() - sides[:, second].sum()),
        )
        swap = next((value > 0 for value in surplus if value), bool(rng.integers(2)))
        sides[(second, first) if swap else (first, second)] += 1
        oriented.append(keys[::-1] if swap else keys)
    return oriented


# Controls ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gold:
    content: int
    spoilt: int
    sound: int | None
    """What it is shown beside, in a pair."""


def golds_needed(protocol: Protocol) -> int:
    """How many golds a study of this protocol should have; see ``stimuli.render_stimuli``."""
    lessons = protocol.practice if protocol.practice_feedback else 0
    each = protocol.golds + lessons
    return max(MIN_GOLDS, 2 * each) if each else 0


def passes(expected: str, value: str) -> bool | None:
    """Whether an answer to a control is right; None for a skip, which says nothing.

    A score may be one step off, as in crowd toolkits for ITU-T P.808. A spoilt image under
    review may be rejected or sent back to be fixed.
    """
    if value == "skip":
        return None
    if expected.isdigit() and value.isdigit():
        return abs(int(value) - int(expected)) <= 1
    return value == expected or (expected == "reject" and value == "fix")


def retire_golds(answers: pd.DataFrame) -> dict[int, str]:
    """Find golds that are no golds: sound observers miss them.

    An observer is sound, as far as one gold is concerned, who answered others and missed none of
    them. A gold is retired where the share of sound observers who miss it is above
    ``MISS_RATE``, by a one-sided exact binomial test at ``MISS_LEVEL``: two of two, three of
    four, four of seven. Where most golds of a study are bad, nobody is sound, and none is
    retired: the admin page then shows everyone failing.

    Parameters
    ----------
    answers : DataFrame
        ``observer, stimulus, expected, value``: every answer to a gold (not to practice), to the
        first question of the protocol; ``stimulus`` is the key of the spoilt image.

    Returns
    -------
    dict of int to str
        Stimulus, and the reason in words.
    """
    right: dict[tuple[object, int], bool] = {}
    for one in answers[["observer", "stimulus", "expected", "value"]].to_dict("records"):
        passed = passes(str(one["expected"]), str(one["value"]))
        if passed is not None:
            key = one["observer"], int(one["stimulus"])
            right[key] = passed and right.get(key, True)
    answered, missed = Counter[object](), Counter[object]()  # of each observer
    for (observer, _), passed in right.items():
        answered[observer] += 1
        missed[observer] += not passed
    asked, failed = Counter[int](), Counter[int]()  # of each gold, sound observers
    for (observer, stimulus), passed in right.items():
        if answered[observer] > 1 and missed[observer] == (not passed):
            asked[stimulus] += 1
            failed[stimulus] += not passed
    return {
        stimulus: f"missed by {failed[stimulus]} of {asked[stimulus]} observers who passed all "
        "their other golds"
        for stimulus in sorted(asked)
        if _tail(failed[stimulus], asked[stimulus], MISS_RATE) <= MISS_LEVEL
    }


def _tail(k: int, n: int, rate: float) -> float:
    """Chance of ``k`` or more out of ``n``."""
    return math.fsum(
        math.exp(
            math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
            + i * math.log(rate) + (n - i) * math.log1p(-rate)
        )
        for i in range(k, n + 1)
    )  # fmt: skip


def _spoilt_answer(protocol: Protocol) -> str:
    """Tell what to say of one spoilt image."""
    if protocol.method == "rating":
        return str(min(score.value for score in protocol.scores))
    return "marks" if protocol.method == "artifact" else "reject"


def _draw_golds(
    pool: _Pool, protocol: Protocol, stimuli: pd.DataFrame, rng: np.random.Generator
) -> list[_Gold]:
    """Put the golds in a random order, those of photographs not yet drawn first."""
    table = stimuli[stimuli["role"] == "gold"]
    if "retired" in table:
        table = table[~table["retired"].fillna(False).astype(bool)]
    row = {content: row for row, content in enumerate(pool.contents.tolist())}
    rows = table[["content", "condition", "id"]].to_dict("records")
    drawn: list[tuple[int, _Gold]] = []
    times = Counter[int]()
    for index in rng.permutation(len(rows)):
        content, condition = int(rows[index]["content"]), str(rows[index]["condition"])
        sound = None
        if pool.units.shape[1] == 2:
            beside = REFERENCE if protocol.method == "real_or_fake" else condition
            sound = int(pool.stimuli[row[content], pool.conditions.index(beside)])
        drawn.append((times[content], _Gold(content, int(rows[index]["id"]), sound)))
        times[content] += 1
    return [gold for _, gold in sorted(drawn, key=lambda one: one[0])]


def _halves(count: int, rng: np.random.Generator) -> list[bool]:
    """Draw True for half of them, or one more or less, in random order."""
    flags = (np.arange(count) + rng.integers(2)) % 2 == 0
    return [bool(flag) for flag in rng.permutation(flags)]


# Order ---------------------------------------------------------------------------------------


def _spread(trials: list[PlannedTrial], rng: np.random.Generator) -> list[PlannedTrial]:
    """Shuffle so that no photograph follows itself, where that is possible."""
    piles: dict[int, list[PlannedTrial]] = {}
    for index in rng.permutation(len(trials)):
        piles.setdefault(trials[index].content, []).append(trials[index])
    ordered: list[PlannedTrial] = []
    while piles:
        last = ordered[-1].content if ordered else None
        names = [content for content in piles if content != last] or list(piles)
        sizes = np.array([len(piles[content]) for content in names])
        rest = sum(map(len, piles.values()))
        # A pile of more than half of what is left must be drawn from now, or it meets itself.
        if 2 * sizes.max() > rest:
            pick = names[int(sizes.argmax())]
        else:
            pick = names[int(rng.choice(len(names), p=sizes / sizes.sum()))]
        ordered.append(piles[pick].pop())
        if not piles[pick]:
            del piles[pick]
    return ordered


def _with_repeats(
    main: list[PlannedTrial], repeats: int, offset: int, rng: np.random.Generator
) -> list[PlannedTrial]:
    """Insert repeats of test trials, pairs with their sides swapped, well after the first time.

    ``offset`` is how many trials come before ``main`` in the session.
    """
    tests = [index for index, trial in enumerate(main) if trial.kind == "test"]
    wanted = min(repeats, len(tests))
    gap = max(1, min(8, len(main) // 3))
    # Where that leaves too few trials to repeat, they follow sooner.
    while gap > 1 and sum(index + gap <= len(main) for index in tests) < wanted:
        gap -= 1
    early = [index for index in tests if index + gap <= len(main)]
    drawn = [early[k] for k in rng.permutation(len(early))]
    # (trial, index in ``main`` of the one it repeats)
    sequence: list[tuple[PlannedTrial, int | None]] = [(trial, None) for trial in main]
    for may_touch in (False, True):  # beside a trial of the same photograph, where it must
        for original in list(drawn):
            trial = main[original]
            first = next(k for k, (one, _) in enumerate(sequence) if one is trial)
            slots = [
                slot
                for slot in range(first + gap, len(sequence) + 1)
                if may_touch
                or all(one.content != trial.content for one, _ in sequence[slot - 1 : slot + 1])
            ]
            if wanted and slots:
                sequence.insert(int(rng.choice(slots)), (_again(trial), original))
                drawn.remove(original)
                wanted -= 1
    where = {id(one): offset + k for k, (one, _) in enumerate(sequence, start=1)}
    return [
        one if original is None else replace(one, repeat_of=where[id(main[original])])
        for one, original in sequence
    ]


def _again(trial: PlannedTrial) -> PlannedTrial:
    """Make a repeat of a trial, a pair with its sides swapped."""
    if "left" not in trial.images:
        return replace(trial, kind="repeat")
    left, right = trial.images["left"], trial.images["right"]
    expected = {"left": "right", "right": "left", None: None}[trial.expected]
    images = {**trial.images, "left": right, "right": left}
    return replace(trial, kind="repeat", images=images, expected=expected)
