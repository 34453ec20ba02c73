"""Trial lists: which images a session shows, in which order, on which side. Pure functions.

A *cell* is one photograph with the conditions that one trial compares. Sessions are filled
greedily with the cells, pairs and photographs that are used least so far, which keeps every
cell within one use of every other over completed sessions, whoever drops out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from percept.protocol import Protocol

Usage = Mapping[tuple[int, ...], int]


@dataclass(frozen=True)
class PlannedTrial:
    """One presentation; ``content`` and the images are keys of the stimulus table."""

    kind: str
    content: int
    images: dict[str, int]
    """Stimulus for each role: left, right or stimulus; reference."""
    expected: str | None = None
    repeat_of: int | None = None
    """Position, from 1, of the trial that this one repeats."""


@dataclass(frozen=True)
class SessionPlan:
    """The trials of one session in order, and the order of its questions."""

    trials: tuple[PlannedTrial, ...]
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class _Cell:
    content: int
    conditions: tuple[str, ...]
    stimuli: tuple[int, ...]


def cells(stimuli: pd.DataFrame, method: str) -> list[_Cell]:
    """List everything that a trial can compare.

    Parameters
    ----------
    stimuli : DataFrame
        ``id, content, condition, role`` with role ``test`` for content × condition.
    method : str
        ``pairwise``: all pairs of conditions of each photograph; else each stimulus.
    """
    size = 2 if method == "pairwise" else 1
    found = []
    tests = stimuli[stimuli["role"] == "test"]
    shown: dict[int, list[tuple[str, int]]] = {}
    for row in tests[["content", "condition", "id"]].to_dict("records"):
        shown.setdefault(int(row["content"]), []).append((str(row["condition"]), int(row["id"])))
    for content in sorted(shown):
        for chosen in combinations(sorted(shown[content]), size):
            names, keys = zip(*chosen, strict=True)
            found.append(_Cell(content, names, keys))
    return found


def plan_session(
    protocol: Protocol, stimuli: pd.DataFrame, usage: Usage, *, rng: np.random.Generator
) -> SessionPlan:
    """Draw the trials of one session.

    Parameters
    ----------
    protocol : Protocol
        Says how many trials of each kind.
    stimuli : DataFrame
        ``id, content, condition, role``; role ``original`` is the grey photograph on view.
    usage : mapping
        How often each (left, right) or (stimulus,) is in use in other sessions, as shown.
    rng : numpy Generator
        The only source of chance: the same arguments give the same plan.
    """
    everything = cells(stimuli, protocol.method)
    chosen = _least_used(everything, protocol.trials, usage, rng)
    oriented = _orient(everything, chosen, usage, rng)
    grey = stimuli[stimuli["role"] == "original"]
    originals = dict(zip(grey["content"].tolist(), grey["id"].tolist(), strict=True))

    def trial(kind: str, content: int, shown: Sequence[int], expected: str | None) -> PlannedTrial:
        roles = ("left", "right") if len(shown) == 2 else ("stimulus",)
        images = dict(zip(roles, shown, strict=True))
        if protocol.display.original:
            images["reference"] = originals[content]
        return PlannedTrial(kind, content, images, expected)

    main = [
        trial("test", cell.content, shown, None)
        for cell, shown in zip(chosen, oriented, strict=True)
    ]
    for index in rng.permutation(len(everything))[: protocol.identical]:
        cell = everything[index]
        twin = cell.stimuli[int(rng.integers(len(cell.stimuli)))]
        expected = "tie" if protocol.tie else None
        main.append(trial("identical", cell.content, (twin, twin), expected))
    main = _spread(main, rng)

    used = set(chosen)
    others = [cell for cell in everything if cell not in used] or everything
    warmups = [others[index] for index in rng.permutation(len(others))[: protocol.practice]]
    practice = _spread(
        [
            trial("practice", cell.content, rng.permutation(cell.stimuli).tolist(), None)
            for cell in warmups
        ],
        rng,
    )
    trials = practice + _with_repeats(main, protocol.repeats, len(practice), rng)
    names = [attribute.name for attribute in protocol.attributes]
    order = tuple(names[index] for index in rng.permutation(len(names)))
    return SessionPlan(tuple(trials), order)


def _least_used(
    everything: list[_Cell], count: int, usage: Usage, rng: np.random.Generator
) -> list[_Cell]:
    """Choose different cells so that cells, then pairs, then photographs stay level."""
    times = Counter[tuple[int, ...]]()
    for shown, used in usage.items():
        times[tuple(sorted(shown))] += used
    by_cell = np.array([times[tuple(sorted(cell.stimuli))] for cell in everything])
    pairs = {names: index for index, names in enumerate({c.conditions: 0 for c in everything})}
    contents = {content: index for index, content in enumerate({c.content: 0 for c in everything})}
    pair_of = np.array([pairs[cell.conditions] for cell in everything])
    content_of = np.array([contents[cell.content] for cell in everything])
    by_pair = np.bincount(pair_of, weights=by_cell)
    by_content = np.bincount(content_of, weights=by_cell)
    in_session = np.zeros(len(contents))
    free = np.ones(len(everything), dtype=bool)
    chosen = []
    for _ in range(min(count, len(everything))):
        best = np.flatnonzero(free)
        for load in (
            by_cell,
            by_pair[pair_of],
            in_session[content_of],
            by_content[content_of],
        ):
            best = best[load[best] == load[best].min()]
        index = int(rng.choice(best))
        free[index] = False
        by_pair[pair_of[index]] += 1
        by_content[content_of[index]] += 1
        in_session[content_of[index]] += 1
        chosen.append(everything[index])
    return chosen


def _orient(
    everything: list[_Cell], chosen: list[_Cell], usage: Usage, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Give each pair its sides: level within pairs, then cells, then conditions."""
    name = {i: c for cell in everything for i, c in zip(cell.stimuli, cell.conditions, strict=True)}
    pairs = Counter[tuple[str, str]]()  # (left, right): uses
    lefts = Counter[str]()  # condition: uses on the left minus uses on the right
    for shown, used in usage.items():
        if len(shown) == 2 and shown[0] in name and shown[1] in name:
            left, right = name[shown[0]], name[shown[1]]
            pairs[left, right] += used
            lefts[left] += used
            lefts[right] -= used
    oriented: list[tuple[int, ...]] = []
    for cell in chosen:
        if len(cell.stimuli) == 1:
            oriented.append(cell.stimuli)
            continue
        (a, b), (first, second) = cell.stimuli, cell.conditions
        surplus = (  # positive: ``first`` has been on the left too often
            pairs[first, second] - pairs[second, first],
            usage.get((a, b), 0) - usage.get((b, a), 0),
            lefts[first] - lefts[second],
        )
        swap = next((value > 0 for value in surplus if value), bool(rng.integers(2)))
        left, right = (second, first) if swap else (first, second)
        pairs[left, right] += 1
        lefts[left] += 1
        lefts[right] -= 1
        oriented.append((b, a) if swap else (a, b))
    return oriented


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
    gap = max(1, min(8, len(main) // 3))
    early = [index for index in tests if index + gap <= len(main)]
    originals = [early[k] for k in rng.permutation(len(early))[:repeats]]
    # (trial, index in ``main`` of the one it repeats)
    sequence: list[tuple[PlannedTrial, int | None]] = [(trial, None) for trial in main]
    for original in originals:
        trial = main[original]
        images = dict(trial.images)
        if "left" in images:
            images |= {"left": trial.images["right"], "right": trial.images["left"]}
        again = PlannedTrial("repeat", trial.content, images, None)
        first = next(k for k, (one, _) in enumerate(sequence) if one is trial)
        slots = range(first + gap, len(sequence) + 1)
        apart = [
            slot
            for slot in slots
            if all(one.content != trial.content for one, _ in sequence[slot - 1 : slot + 1])
        ]
        slot = int(rng.choice(apart or list(slots)))
        sequence.insert(slot, (again, original))
    where = {id(one): offset + k for k, (one, _) in enumerate(sequence, start=1)}
    return [
        one if original is None else replace(one, repeat_of=where[id(main[original])])
        for one, original in sequence
    ]
