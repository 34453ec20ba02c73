"""Simulated observers: what they see, who they are, and what they answer. No metric is involved.

Every condition has a quality of its own, every photograph shifts it, a gold's spoilt image is far
worse than the image that it was made from; that, and nothing of what a study expects, is what an
observer sees, with a taste, noise and lapses. :func:`percept.study.simulate` lets them answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from percept.errors import InputError
from percept.protocol import Protocol
from percept.store.store import Mark
from percept.types import GRAY, REFERENCE


@dataclass(frozen=True)
class Type:
    """A kind of observer."""

    lapses: tuple[float, float] = (1, 30)
    """Parameters of the beta distribution of the share of answers given at random."""
    lean: float = 0.0
    """How far observers lean to one side, or to one end of a scale; which one differs."""
    sight: float = 1.0
    """How strongly differences between colours are seen."""
    pace: float = 1.0
    """Time that an answer takes, relative to a careful observer's."""
    keenness: float = 1.0
    """Share of what is wrong that is noticed, relative to a careful observer's."""


TYPES: Final[dict[str, Type]] = {
    "careful": Type(),
    "careless": Type(lapses=(6, 3), pace=0.35, keenness=0.3),
    "side": Type(lean=3.0),
    "colour_blind": Type(sight=0.35),
}

#: How much worse a gold's spoilt image is, in the unit of all utilities: a log-odds of about 1.2.
_SPOILT: Final = {"hue": 4.5, "shift": 3.5}
_SKIPS: Final = 0.005  # share of trials, where skipping is allowed
_MARKS_WHY: Final = 0.4  # share of votes that are explained where that is optional


@dataclass(frozen=True)
class Reply:
    """One answer."""

    value: str
    seconds: float
    marks: tuple[Mark, ...] = ()
    reason: str | None = None
    """Of a skip."""
    reasons: tuple[str, ...] = ()
    """Of a review."""


#: What an image is, as its observer never knows: content_id, condition, and how it is spoilt.
Seen = tuple[str, str | None, str]


def types_of(shares: Mapping[str, float] | None, observers: int, seed: int) -> list[str]:
    """Give every observer a type, in shares that hold for any number of them.

    Parameters
    ----------
    shares : mapping, optional
        Share of each of ``TYPES``, adding up to 1; by default all are careful.

    Raises
    ------
    InputError
        There is no such type, or the shares do not add up to 1.
    """
    shares = shares or {"careful": 1.0}
    for name, share in shares.items():
        if name not in TYPES or not 0 <= share <= 1:
            raise InputError(
                "not a share of a type of observers",
                key="types",
                value=f"{name}={share:g}",
                remedy=f"Use shares from 0 to 1 of: {', '.join(TYPES)}",
            )
    upto = np.cumsum(list(shares.values()))
    if abs(upto[-1] - 1) > 1e-6:
        raise InputError("shares must add up to 1", key="types", value=f"{upto[-1]:g}")
    # Steps by the golden ratio: even over the shares, and in step with nothing else.
    start = np.random.default_rng([seed, 2]).random()
    places = (start + np.arange(observers) * (5**0.5 - 1) / 2) % 1
    names = list(shares)
    return [names[min(int(k), len(names) - 1)] for k in np.searchsorted(upto, places, "right")]


class World:
    """How good each image of a study is, and what is wrong with it; drawn from a seed."""

    def __init__(
        self, protocol: Protocol, conditions: Sequence[str], contents: Sequence[str], seed: int
    ) -> None:
        rng = np.random.default_rng([seed, 0])
        rivals = [name for name in conditions if name not in (GRAY, REFERENCE)]
        spaced = rng.permutation(np.linspace(-0.7, 0.7, len(rivals))).tolist()
        quality = {GRAY: -1.3, REFERENCE: 1.6, **dict(zip(rivals, spaced, strict=True))}
        self.protocol = protocol
        self.conditions = list(conditions)
        self._utility: dict[tuple[str, str, str], float] = {}
        self._defects: dict[tuple[str, str], list[Mark]] = {}
        self.kinds = [artifact.name for artifact in protocol.artifacts]
        self.levels = sorted(level.value for level in protocol.severities)
        habits = {name: _habit(len(self.kinds), rng) for name in conditions}
        self.reasons = {name: _habit(len(protocol.reasons), rng) for name in conditions}
        for content in contents:
            for name in conditions:
                shift = rng.normal(0, 0.45)
                for attribute in protocol.attributes:
                    own = quality[name] + shift + rng.normal(0, 0.15)
                    self._utility[attribute.name, content, name] = own
                if self.kinds:
                    rate = np.exp(0.2 - 0.8 * (quality[name] + shift))
                    self._defects[content, name] = [
                        self._defect(habits[name], quality[name] + shift, rng)
                        for _ in range(rng.poisson(rate))
                    ]
                    if name == GRAY and "desaturated" in self.kinds:
                        self._defects[content, name] = [self._everywhere("desaturated")]

    def utility(self, attribute: str, seen: Seen) -> float:
        """Tell how good an image is, in log-odds of about 1.2; 0 is middling."""
        content, condition, variant = seen
        return self._utility[attribute, content, str(condition)] - _SPOILT.get(variant, 0.0)

    def defects(self, seen: Seen) -> list[Mark]:
        """List what is wrong with an image, and where."""
        content, condition, variant = seen
        if variant:
            kind = "bleeding" if variant == "shift" else "skin_cast"
            return [self._everywhere(kind if kind in self.kinds else self.kinds[0])]
        return self._defects[content, str(condition)]

    def _everywhere(self, kind: str) -> Mark:
        return Mark(kind, self.levels[-1], x=0.05, y=0.05, width=0.9, height=0.9)

    def _defect(self, habit: list[float], utility: float, rng: np.random.Generator) -> Mark:
        worse = 1 / (1 + np.exp(utility + rng.normal(0, 0.8)))
        width, height = rng.uniform(0.08, 0.4, 2)
        return Mark(
            artifact=self.kinds[int(rng.choice(len(habit), p=habit))],
            severity=self.levels[min(int(worse * len(self.levels)), len(self.levels) - 1)],
            x=float(rng.uniform(0, 1 - width)),
            y=float(rng.uniform(0, 1 - height)),
            width=float(width),
            height=float(height),
        )


def _habit(kinds: int, rng: np.random.Generator) -> list[float]:
    """Draw how often each kind of something occurs."""
    return list(rng.dirichlet(np.full(kinds, 0.6))) if kinds else []


class Observer:
    """One simulated observer of a world."""

    def __init__(self, world: World, number: int, seed: int, type: str = "careful") -> None:
        self.world, self.protocol, self.type = world, world.protocol, type
        self.rng = np.random.default_rng([seed, 1, number])
        of = TYPES[type]
        self.taste = {name: self.rng.normal(0, 0.3) for name in world.conditions}
        self.lean = self.rng.normal(0, 0.1)
        self.lean += of.lean if self.lean > 0 else -of.lean
        self.lapse = self.rng.beta(*of.lapses)
        self.threshold = float(np.exp(self.rng.normal(np.log(0.35), 0.4)))
        self.pace = of.pace * float(np.exp(self.rng.normal(0, 0.3)))
        self.keenness = of.keenness * of.sight * float(self.rng.uniform(0.35, 0.8))
        self.sight = of.sight

    def answer(self, attribute: str, images: Mapping[str, Seen]) -> Reply:
        """Answer one question about the images of a trial, given by their roles."""
        if self.protocol.skip and self.rng.random() < _SKIPS:
            return Reply(
                "skip", self._seconds(1.5), reason=str(self.rng.choice(self.protocol.skip))
            )
        lapses = bool(self.rng.random() < self.lapse)
        if "left" in images:
            return self._pair(attribute, images, lapses)
        if self.protocol.method == "artifact":
            marks = () if lapses else self._marks(images["stimulus"])
            seconds = self._seconds(3 + 5 * len(marks))
            return Reply("marks" if marks else "none", seconds, marks)
        return self._single(attribute, images["stimulus"], lapses)

    def _pair(self, attribute: str, images: Mapping[str, Seen], lapses: bool) -> Reply:
        left, right = (self._felt(attribute, images[side]) for side in ("left", "right"))
        timed = self.protocol.method == "real_or_fake"
        felt = left - right + self.lean + self.rng.logistic(0, 1.2 if timed else 0.8)
        value = "left" if felt > 0 else "right"
        if lapses:
            value = str(self.rng.choice(["left", "right"]))
        elif self.protocol.tie and abs(felt) < self.threshold:
            value = "tie"
        elif timed and self.protocol.asks == "fake":
            value = "right" if felt > 0 else "left"
        marks: tuple[Mark, ...] = ()
        if attribute == self.protocol.attributes[0].name and value in ("left", "right"):
            loser = "right" if value == "left" else "left"
            if self.protocol.why == "required" or (
                self.protocol.why == "optional" and self.rng.random() < _MARKS_WHY
            ):
                marks = self._marks(images[loser], loser, least=self.protocol.why == "required")
        base = np.exp(1.1 - 0.3 * min(abs(left - right), 2)) + 4 * len(marks)
        return Reply(value, self._seconds(float(base)), marks)

    def _single(self, attribute: str, seen: Seen, lapses: bool) -> Reply:
        felt = self._felt(attribute, seen) + self.lean + self.rng.logistic(0, 0.4)
        values = [value for value, _ in self.protocol.answers if value != "skip"]
        if self.protocol.method == "review":  # best first
            place = int(np.searchsorted([-0.9, 0.3], felt))
            value = values[::-1][place]
        else:
            value = values[int(np.searchsorted(np.linspace(-1.8, 1.8, len(values) - 1), felt))]
        if lapses:
            value = str(self.rng.choice(values))
        if self.protocol.method == "rating" or value == "accept":
            return Reply(value, self._seconds(3.0))
        names = [reason.name for reason in self.protocol.reasons]
        habit = np.array(self.world.reasons[str(seen[1])])
        drawn = {int(self.rng.choice(len(names), p=habit)) for _ in range(self.rng.integers(1, 3))}
        marks = self._marks(seen) if self.world.kinds else ()
        reasons = tuple(names[index] for index in sorted(drawn))
        return Reply(value, self._seconds(5.0 + 4 * len(marks)), marks, reasons=reasons)

    def _felt(self, attribute: str, seen: Seen) -> float:
        return self.sight * (self.world.utility(attribute, seen) + self.taste[str(seen[1])])

    def _seconds(self, typical: float) -> float:
        return self.pace * typical * float(np.exp(self.rng.normal(0, 0.35)))

    def _marks(
        self, seen: Seen, role: str = "stimulus", *, least: bool = False
    ) -> tuple[Mark, ...]:
        """Mark what is noticed; with ``least``, something at any rate."""
        defects = self.world.defects(seen)
        chance = 1 - (1 - self.keenness) ** (4 if seen[2] else 1)  # a spoilt image cries out
        noticed = [one for one in defects if self.rng.random() < chance]
        if least and not noticed:
            noticed = defects[:1] or [
                self.world._everywhere(str(self.rng.choice(self.world.kinds)))
            ]
        return tuple(self._mark(defect, role) for defect in noticed)

    def _mark(self, defect: Mark, role: str) -> Mark:
        levels, rng = self.world.levels, self.rng
        x = float(np.clip(defect.x + rng.normal(0, 0.02), 0, 0.9))
        y = float(np.clip(defect.y + rng.normal(0, 0.02), 0, 0.9))
        slip = int(rng.choice([-1, 0, 1], p=[0.15, 0.7, 0.15]))
        level = int(np.clip(levels.index(int(defect.severity or 0)) + slip, 0, len(levels) - 1))
        slips = rng.random() <= self.lapse + 0.05
        artifact = str(rng.choice(self.world.kinds)) if slips else defect.artifact
        return Mark(
            artifact=artifact,
            severity=levels[level],
            note="simulated" if artifact == "other" else None,
            x=x,
            y=y,
            width=min(defect.width, 1 - x),
            height=min(defect.height, 1 - y),
            role=role,
        )
