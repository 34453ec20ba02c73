"""Studies: create, run, simulate, export. Joins protocol, stimuli, design and store.

:func:`join`, :func:`window` and :func:`rate` are what a live session does; simulated observers
use the same three.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from sqlalchemy.exc import OperationalError

from percept import __version__, stats
from percept.design import SessionPlan, golds_needed, plan_session, retire_golds
from percept.errors import InputError, Interrupted
from percept.inference.run import Run
from percept.protocol import Protocol, parse_protocol
from percept.stimuli import render_stimuli, select_stimuli
from percept.store.masks import decode_mask
from percept.store.store import (
    Answer,
    Conflict,
    Invite,
    Joined,
    Mark,
    Session,
    Store,
    Study,
    Trial,
    Usage,
)
from percept.types import GRAY, REFERENCE

if TYPE_CHECKING:
    from percept.stats.planning import Pilot, Plan

#: Trials that a client may hold at once.
WINDOW = 8


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FACTS = ("era", "process", "degradation", "stratum", "weight", "source", "license")


def create_study(
    run: Run,
    protocol: Protocol,
    store: Store,
    name: str,
    *,
    seed: int = 1,
    conditions: Sequence[str] | None = None,
    contents: Sequence[str] | None = None,
    stimuli: Path | None = None,
    exist_ok: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Render the display images of a run and write a study that shows them.

    Parameters
    ----------
    run : Run
        A finished run.
    protocol : Protocol
        The rule; its text and hash are frozen into the study.
    store : Store
    name : str
        Part of the observers' link: letters, digits, ``.``, ``_`` and ``-``.
    seed : int
        Seed of all trial lists.
    conditions, contents : sequence of str, optional
        Names to restrict the study to.
    stimuli : Path, optional
        Folder for the display images; by default beside an SQLite database.
    exist_ok : bool
        Give back a study of that name if it has the same run and protocol.
    progress : callable, optional
        Called with (images done, images in all).

    Returns
    -------
    Study
        ``info["left_out"]`` names the photographs that could not be shown, with reasons.

    Raises
    ------
    InputError
        The name is taken or not allowed, a photograph is in a condition's training data, or
        there is too little to compare. Nothing is written then.
    Interrupted
        The disk is full or the database went away. What was written is removed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            "not a name for a study",
            key="name",
            value=name,
            remedy="Use up to 100 letters, digits, '.', '_' and '-'",
        )
    _check_seed(seed)
    run_path = str(run.root.resolve())
    existing = next((one for one in store.studies() if one.name == name), None)
    if existing is not None:
        same = existing.run_path == run_path and existing.protocol_sha256 == protocol.sha256
        if exist_ok and same:
            return existing
        raise InputError(
            "a study of this name exists" + ("" if same else ", of another run or protocol"),
            key="name",
            value=name,
            remedy="Choose another name; studies are never overwritten",
        )
    selection = select_stimuli(
        run, max_side=protocol.display.max_side, conditions=conditions, contents=contents
    )
    names = [one.name for one in selection.conditions]
    if protocol.method == "pairwise" and len(names) < 2:
        raise InputError(
            "pairs need two conditions",
            file=run.root,
            value=names,
            remedy="Run inference with more --condition NAME=SPEC",
        )
    if protocol.needs_reference and (REFERENCE not in names or len(names) < 2):
        raise InputError(
            "this protocol compares with the true images: it needs the condition "
            f"{REFERENCE!r} and another one",
            file=run.root,
            value=names,
            remedy=f"Run inference with --condition {REFERENCE}={REFERENCE}",
        )
    folder = stimuli.resolve() if stimuli is not None else store.stimuli_folder()
    rendered = render_stimuli(selection, folder, golds=golds_needed(protocol), progress=progress)
    try:
        return store.add_study(
            name=name,
            method=protocol.method,
            protocol=protocol.text,
            protocol_sha256=protocol.sha256,
            run_path=run_path,
            seed=seed,
            stimuli_path=str(folder) if stimuli is not None else None,
            info={
                "percept_version": __version__,
                "run_sha256": hashlib.sha256((run.root / "run.json").read_bytes()).hexdigest(),
                "left_out": selection.left_out,
            },
            conditions=[
                {
                    "name": one.name,
                    "spec": one.spec,
                    "arm": one.arm,
                    "seed": one.seed,
                    "sha256": one.sha256,
                }
                for one in selection.conditions
            ],
            contents=[
                {
                    "name": row["content_id"],
                    "sha256": row["sha256"],
                    "width": int(row["width"]),
                    "height": int(row["height"]),
                    **{fact: None if pd.isna(row.get(fact)) else row[fact] for fact in _FACTS},
                }
                for row in selection.contents.to_dict("records")
            ],
            stimuli=rendered.rows,
        )
    except BaseException as error:
        rendered.remove()
        if isinstance(error, OperationalError):
            raise Interrupted(f"the study could not be saved: {error.orig}") from error
        raise


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise InputError("not a seed", key="seed", value=seed, remedy="Use 0 or a positive number")


def session_length(store: Store, study: Study) -> int:
    """Trials of one session: the protocol's, or fewer in a study with fewer different ones."""
    protocol = protocol_of(study)
    plan = plan_session(protocol, store.stimuli(study), {}, rng=np.random.default_rng(0))
    return len(plan.trials)


@lru_cache(maxsize=64)
def _parse(text: str) -> Protocol:
    return parse_protocol(text)


def protocol_of(study: Study) -> Protocol:
    """Read the protocol that is frozen into a study."""
    return _parse(study.protocol)


def join(
    store: Store,
    study: Study,
    client_id: str,
    *,
    consent_version: str,
    group: str | None = None,
    screening: Mapping[str, Any] | None = None,
    invite: str | None = None,
    crowd: Mapping[str, str] | None = None,
    simulated: bool = False,
    name: str | None = None,
    now: datetime | None = None,
) -> Joined:
    """Begin a session with its trials drawn, or find the one that this client began.

    Raises
    ------
    InputError
        The protocol has no such group, or the screening facts are not what it asks for.
    Conflict
        Another version of the consent text was agreed to (code ``consent``), the checks turn
        this person away (``screened_out``, with ``completion`` in its details), or see
        :meth:`percept.store.store.Store.join`.
    """
    protocol = protocol_of(study)
    if consent_version != protocol.consent.version:
        raise Conflict("consent", "the consent text has changed; read it again")
    group = group if group is not None else protocol.groups[0]
    if group not in protocol.groups:
        raise InputError(
            "no such group",
            key="group",
            value=group,
            remedy=f"Use one of: {', '.join(protocol.groups)}",
        )
    failed = not simulated and not _check_screening(protocol, screening or {})
    first = protocol.attributes[0].name
    if protocol.golds:
        store.retire(retire_golds(store.gold_answers(study, first)))
    stimuli = store.stimuli(study)
    votes = store.votes(study, first) if protocol.selection == "adaptive" else None

    def assign(ordinal: int, usage: Usage) -> SessionPlan:
        rng = np.random.default_rng([study.seed, ordinal])
        return plan_session(protocol, stimuli, usage, rng=rng, votes=votes)

    try:
        return store.join(
            study,
            client_id,
            assign,
            group=group,
            consent_version=consent_version,
            screening=screening,
            invite=invite,
            invite_only=protocol.invite_only and not simulated,
            crowd=crowd,
            screened_out=failed,
            simulated=simulated,
            name=name,
            now=now,
        )
    except Conflict as error:
        if error.code != "screened_out":
            raise
        told = protocol.completion
        completion = {"code": told.screen_out_code, "message": told.screen_out_message}
        raise Conflict(error.code, told.screen_out_message, completion=completion) from None


def _check_screening(protocol: Protocol, screening: Mapping[str, Any]) -> bool:
    """Check the form of the screening facts; False if the observer is to be turned away."""
    strict = protocol.checks.on_fail == "screen_out"
    passed = True
    for check in ("color_vision", "display"):
        facts = screening.get(check)
        if facts is None and not (strict and getattr(protocol.checks, check)):
            continue
        key = f"screening.{check}"
        if not isinstance(facts, dict) or not isinstance(facts.get("passed"), bool):
            raise InputError("must say whether it was passed", key=key,
                             remedy='Send {"passed": true} or {"passed": false}')  # fmt: skip
        if check == "color_vision" and len(facts) > 1:
            raise InputError("nothing but passed is stored of this check", key=key)
        passed &= facts["passed"] or not getattr(protocol.checks, check)
    answers = screening.get("questions", {})
    if not isinstance(answers, dict):
        raise InputError("must be answers by name", key="screening.questions")
    asked = {question.name: question for question in protocol.questions}
    for name in answers:
        if name not in asked:
            raise InputError("is not asked", key=f"screening.questions.{name}")
    for name, question in asked.items():
        given = answers.get(name)
        if given not in (*question.answers, *([None] if question.optional else [])):
            raise InputError("is not one of the answers", key=f"screening.questions.{name}",
                             remedy=f"Use one of: {'; '.join(question.answers)}")  # fmt: skip
    return passed or not strict


def invite_observers(
    store: Store,
    study: Study,
    label: str,
    *,
    group: str | None = None,
    max_uses: int | None = 1,
) -> Invite:
    """Make an invitation.

    Parameters
    ----------
    label : str
        Who it is for; stored, and exported with the observers who use it.
    group : str, optional
        Group of everyone who uses it; by default observers say.
    max_uses : int, optional
        How many may use it; None: any number.

    Raises
    ------
    InputError
        There is no such group, or the label or number is none.
    """
    groups = protocol_of(study).groups
    if group is not None and group not in groups:
        raise InputError("no such group", key="group", value=group,
                         remedy=f"Use one of: {', '.join(groups)}")  # fmt: skip
    if not 1 <= len(label.strip()) <= 200:
        raise InputError("a label has 1 to 200 characters", key="label", value=label)
    if max_uses is not None and max_uses < 1:
        raise InputError("must be at least 1", key="uses", value=max_uses)
    return store.add_invite(study, label.strip(), group=group, max_uses=max_uses)


#: A pause of this length begins a new sitting.
SITTING_GAP = timedelta(minutes=30)


def seconds_left(
    store: Store, session: Session, protocol: Protocol, *, now: datetime | None = None
) -> int | None:
    """Tell when a sitting should offer to stop: seconds, 0 if it should; None: no limit."""
    if not protocol.session_minutes:
        return None
    now = now or datetime.now(UTC)
    begun = now
    for moment in reversed([session.started_at, *store.rated_at(session)]):
        if begun - moment > SITTING_GAP:
            break
        begun = min(begun, moment)
    return max(0, round(60 * protocol.session_minutes - (now - begun).total_seconds()))


def stopping_rule(store: Store, study: Study) -> tuple[bool, str]:
    """Tell whether the protocol's stopping rule is met, and how far it is, in words.

    Without a rule it is never met, and there are no words.
    """
    rule = protocol_of(study).stopping
    if not rule.votes and not rule.half_width:
        return False, ""
    names = store.stimuli(study).query("role == 'test'")["condition"].unique()
    units = {
        "pairwise": math.comb(len(names), 2),
        "real_or_fake": len(set(names) - {REFERENCE}),
    }.get(study.method, len(names))
    counts = store.progress(study).by_unit["trials"]
    fewest = int(counts.min()) if len(counts) >= units else 0
    met, words = fewest >= rule.votes, []
    if rule.votes:
        words.append(f"every comparison has {rule.votes} votes (the fewest now: {fewest})")
    if rule.half_width:
        widest = float("inf")
        if met and fewest:
            ratings = store.ratings(study)
            first = protocol_of(study).attributes[0].name
            scale = stats.bradley_terry(ratings[ratings["attribute"] == first])
            widest = float(np.max((scale.high - scale.low) / (2 * scale.jod_unit)))
            widest = widest if np.isfinite(widest) else float("inf")
        met = met and widest <= rule.half_width
        words.append(f"no interval is wider than ±{rule.half_width:g} JOD (now: ±{widest:.2f})")
    return met, " and ".join(words) + "."


@dataclass(frozen=True)
class Window:
    """What a client may see next."""

    state: Literal["open", "break", "done"]
    """``break``: rest before these trials; ``done``: every answer is saved."""
    trials: tuple[Trial, ...]
    answered: int
    """Position of the last trial before the first unanswered one."""


def window(store: Store, session: Session, protocol: Protocol, after: int | None = None) -> Window:
    """Get the trials after position ``after``; by default, from the first unanswered one.

    The same position gives the same trials. A window never reaches past a break.

    Raises
    ------
    Conflict
        The study is closed and the session unfinished (code ``closed``).
    """
    answered = store.answered_up_to(session)
    if session.finished_at is not None:
        return Window("done", (), answered)
    if session.study_state == "closed":
        raise Conflict("closed", "this study is closed")
    after = answered if after is None else after
    limit = WINDOW
    pause = False
    if every := protocol.break_every:

        def breaks(position: int) -> bool:
            # A break just before the end helps nobody.
            rest = session.trials - position
            return position > 0 and position % every == 0 and rest > every // 2

        pause = breaks(after)
        limit = next((n for n in range(1, WINDOW) if breaks(after + n)), WINDOW)
    trials = tuple(store.trials(session, after, limit))
    return Window("break" if pause and trials else "open", trials, answered)


def rate(
    store: Store,
    session: Session,
    protocol: Protocol,
    answer: Answer,
    *,
    now: datetime | None = None,
) -> bool:
    """Check an answer against the protocol and save it; True if it is new.

    Raises
    ------
    InputError
        The protocol does not allow this answer.
    NotFound, Conflict
        See :meth:`percept.store.store.Store.rate`.
    """
    check_answer(protocol, answer)
    return store.rate(
        session,
        answer,
        undo=protocol.undo,
        completion_prefix=protocol.completion.prefix,
        now=now,
    )


def check_answer(protocol: Protocol, answer: Answer) -> None:
    """Raise :class:`InputError` where the protocol does not allow an answer."""
    values = [value for value, _ in protocol.answers]
    if answer.value not in values:
        raise InputError(
            "not an answer of this protocol",
            key="value",
            value=answer.value,
            remedy=f"Use one of: {', '.join(values)}",
        )
    if answer.reason is not None and answer.value != "skip":
        raise InputError("a reason belongs to a skip", key="reason", value=answer.reason)
    if answer.value == "skip" and answer.reason not in protocol.skip:
        raise InputError(
            "a skip needs one of the protocol's reasons",
            key="reason",
            value=answer.reason,
            remedy=f"Use one of: {'; '.join(protocol.skip)}",
        )
    _check_review(protocol, answer)
    if answer.value == "marks" and not answer.marks:
        raise InputError(
            "there are no marks", key="marks", remedy='Answer "none" where nothing is wrong'
        )
    if answer.marks:
        roles = _marked_roles(protocol, answer)
        if not roles:
            raise InputError("this answer has no marks", key="value", value=answer.value)
        for index, mark in enumerate(answer.marks):
            if mark.role not in roles:
                raise InputError(
                    "marks are not of this image",
                    key=f"marks.{index}.image",
                    value=mark.role,
                    remedy=f"Mark the image {roles[0]!r}",
                )
            _check_mark(protocol, mark, f"marks.{index}")


def _marked_roles(protocol: Protocol, answer: Answer) -> tuple[str, ...]:
    """Images that an answer may mark."""
    if protocol.method == "artifact":
        return ("stimulus",) if answer.value == "marks" else ()
    if protocol.method == "review":
        return ("stimulus",) if protocol.artifacts and answer.value != "skip" else ()
    asked = protocol.why != "off" and answer.attribute == protocol.attributes[0].name
    losing = {"left": ("right",), "right": ("left",)}
    return losing.get(answer.value, ()) if asked else ()


def _check_review(protocol: Protocol, answer: Answer) -> None:
    known = [reason.name for reason in protocol.reasons]
    if answer.value in ("fix", "reject"):
        wrong = [name for name in answer.reasons if name not in known]
        if wrong or not answer.reasons or len(set(answer.reasons)) < len(answer.reasons):
            raise InputError(
                f"{answer.value} needs one or more of the protocol's reasons, each once",
                key="reasons",
                value=list(answer.reasons),
                remedy=f"Use some of: {', '.join(known)}",
            )
    elif answer.reasons:
        raise InputError(
            "reasons belong to the answers fix and reject",
            key="reasons",
            value=list(answer.reasons),
        )
    if answer.comment is not None and (protocol.method != "review" or answer.value == "skip"):
        raise InputError("a comment belongs to a review", key="comment")


def _check_mark(protocol: Protocol, mark: Mark, key: str) -> None:
    artifacts = [artifact.name for artifact in protocol.artifacts]
    if mark.artifact not in artifacts:
        raise InputError(
            "not in this protocol's taxonomy",
            key=f"{key}.artifact",
            value=mark.artifact,
            remedy=f"Use one of: {', '.join(artifacts)}",
        )
    severities = [severity.value for severity in protocol.severities]
    if mark.severity not in severities:
        raise InputError(
            "not a severity of this protocol",
            key=f"{key}.severity",
            value=mark.severity,
            remedy=f"Use one of: {severities}",
        )
    if mark.artifact == "other" and not (mark.note or "").strip():
        raise InputError(
            "says nothing of what it is", key=f"{key}.note", remedy="Write a few words"
        )
    if (mark.mask is not None) != (mark.shape == "mask"):
        raise InputError(f"a {mark.shape} has {'no' if mark.mask else 'a'} mask", key=f"{key}.mask")
    if mark.mask is not None:
        try:
            decode_mask(mark.mask)
        except ValueError as error:
            raise InputError(str(error), key=f"{key}.mask") from None


# Simulated observers -------------------------------------------------------------------------


def simulate(
    store: Store,
    study: Study,
    observers: int,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Let simulated observers answer a study; returns how many joined.

    They know nothing of metrics: every condition has a quality of its own, drawn from ``seed``
    (``gray`` low, ``reference`` high), every photograph shifts it, every observer has a taste, a
    side bias and lapses. They answer through the calls that a real session makes, and every row
    of theirs is marked ``simulated``. The same study and seed give the same answers; observers
    that answered before are left as they are.

    Raises
    ------
    InputError
        Real observers have answered this study.
    Interrupted
        The disk is full or the database went away. Whole observers are kept.
    """
    _check_seed(seed)
    known = store.observers(study)
    if not known["simulated"].all():
        raise InputError(
            "real observers have joined this study",
            key="study",
            value=study.name,
            remedy="Simulate on a copy: percept study create with another name",
        )
    protocol = protocol_of(study)
    world = _World(protocol, store.conditions(study), store.contents(study), seed)
    joined = 0
    for number in range(observers):
        person = _Person(world, number, seed)
        try:
            with store.batch():
                joined += person.answer(store, study, protocol)
        except OperationalError as error:
            raise Interrupted(f"the answers could not be saved: {error.orig}") from error
        if progress is not None:
            progress(number + 1, observers)
    return joined


def plan_study(
    protocol: Protocol,
    effect: float,
    *,
    conditions: int,
    contents: int,
    tie_share: float | None = None,
    **options: Any,
) -> Plan:
    """Find the observers that a pairwise protocol needs, by simulating studies that use it.

    Parameters
    ----------
    protocol : Protocol
        Gives the trials of each observer (no more than there are different pairs) and whether
        ties are answers. Practice, repeats and identical pairs cost time and do not count.
    effect : float
        Difference in JOD between the best two conditions.
    conditions, contents : int
        Conditions and photographs that the study will have.
    tie_share : float, optional
        Share of ties between equals; by default 0.15 where the protocol allows ties, else 0.
    **options
        For :func:`percept.stats.plan`.

    Raises
    ------
    InputError
        If the protocol is not pairwise, has no ties to share, or the settings are impossible.
    """
    if protocol.method != "pairwise":
        raise InputError(
            "only pairwise protocols can be planned",
            key="method",
            value=protocol.method,
            remedy="Use a protocol with method = 'pairwise'",
        )
    if tie_share and not protocol.tie:
        raise InputError("the protocol has no ties", key="ties", value=tie_share,
                         remedy="Set tie = true in it, or plan without ties")  # fmt: skip
    pairs = contents * conditions * (conditions - 1) // 2
    found: Plan = stats.plan(
        conditions,
        contents,
        trials_per_observer=max(min(protocol.trials, pairs), 1),
        effect=effect,
        tie_share=(0.15 if protocol.tie else 0.0) if tie_share is None else tie_share,
        **options,
    )
    return found


def pilot_of(store: Store, study: Study, attribute: str | None = None) -> Pilot:
    """Read what the votes of a pairwise study say about the next one.

    ``attribute`` names the question, where the study asks several.

    Raises
    ------
    InputError
        If the study is not pairwise, or its votes do not tell.
    """
    if study.method != "pairwise":
        raise InputError("only a pairwise study can be a pilot", key="study", value=study.name)
    ratings = store.ratings(study)
    if attribute is not None:
        known = sorted(map(str, ratings["attribute"].unique()))
        if attribute not in known:
            raise InputError("the study does not ask this", key="attribute", value=attribute,
                             remedy=f"It asks {', '.join(known)}")  # fmt: skip
        ratings = ratings[(ratings["attribute"] == attribute).to_numpy()]
    found: Pilot = stats.read_pilot(ratings)
    return found


class _World:
    """What simulated observers see: how good each image is and what is wrong with it."""

    def __init__(
        self, protocol: Protocol, conditions: pd.DataFrame, contents: pd.DataFrame, seed: int
    ) -> None:
        rng = np.random.default_rng([seed, 0])
        names = [str(name) for name in conditions["condition"]]
        rivals = [name for name in names if name not in (GRAY, REFERENCE)]
        spaced = rng.permutation(np.linspace(-0.7, 0.7, len(rivals))).tolist()
        quality = {GRAY: -1.3, REFERENCE: 1.6, **dict(zip(rivals, spaced, strict=True))}
        self.names = names
        self.utility: dict[tuple[str, str, str], float] = {}
        self.defects: dict[tuple[str, str], list[Mark]] = {}
        kinds = [artifact.name for artifact in protocol.artifacts]
        habits = {name: rng.dirichlet(np.full(len(kinds), 0.6)) for name in names if kinds}
        for content in contents["content_id"]:
            for name in names:
                shift = rng.normal(0, 0.45)
                for attribute in protocol.attributes:
                    own = quality[name] + shift + rng.normal(0, 0.15)
                    self.utility[attribute.name, str(content), name] = own
                if protocol.artifacts:
                    rate = np.exp(0.2 - 0.8 * (quality[name] + shift))
                    self.defects[str(content), name] = [
                        self._defect(protocol, habits[name], quality[name] + shift, rng)
                        for _ in range(rng.poisson(rate))
                    ]
                    if name == GRAY and "desaturated" in kinds:
                        worst = max(level.value for level in protocol.severities)
                        self.defects[str(content), name] = [
                            Mark("desaturated", worst, x=0.05, y=0.05, width=0.9, height=0.9)
                        ]

    @staticmethod
    def _defect(
        protocol: Protocol, habit: np.ndarray, utility: float, rng: np.random.Generator
    ) -> Mark:
        levels = sorted(level.value for level in protocol.severities)
        worse = 1 / (1 + np.exp(utility + rng.normal(0, 0.8)))
        width, height = rng.uniform(0.08, 0.4, 2)
        return Mark(
            artifact=protocol.artifacts[int(rng.choice(len(habit), p=habit))].name,
            severity=levels[min(int(worse * len(levels)), len(levels) - 1)],
            x=float(rng.uniform(0, 1 - width)),
            y=float(rng.uniform(0, 1 - height)),
            width=float(width),
            height=float(height),
        )


class _Person:
    """One simulated observer."""

    def __init__(self, world: _World, number: int, seed: int) -> None:
        self.world, self.number, self.seed = world, number, seed
        self.rng = np.random.default_rng([seed, 1, number])
        self.taste = {name: self.rng.normal(0, 0.3) for name in world.names}
        self.side_bias = self.rng.normal(0, 0.1)
        self.lapse = self.rng.beta(1, 30)
        self.threshold = float(np.exp(self.rng.normal(np.log(0.35), 0.4)))
        self.pace = float(np.exp(self.rng.normal(0, 0.3)))
        self.keenness = float(self.rng.uniform(0.35, 0.8))

    def answer(self, store: Store, study: Study, protocol: Protocol) -> bool:
        """Join and answer every trial; False if this observer did so before."""
        clock = study.created_at
        joined = join(
            store,
            study,
            f"simulated-observer-{self.seed}-{self.number}",
            consent_version=protocol.consent.version,
            group=protocol.groups[self.number % len(protocol.groups)],
            simulated=True,
            name=f"simulated-{self.seed}-{self.number + 1:03d}",
            now=clock,
        )
        if not joined.created:
            return False
        session = store.session(joined.token)
        shown = store.shown(session)
        while True:
            trials = window(store, session, protocol).trials
            if not trials:
                return True
            for trial in trials:
                for attribute in session.attributes:
                    seen = {role: shown[token] for role, token in trial.images.items()}
                    value, marks, seconds = self._judge(protocol, attribute, seen)
                    shown_at = clock
                    clock += timedelta(seconds=seconds)
                    answer = Answer(
                        response_id=self._response_id(study, trial.position, attribute),
                        trial=trial.token,
                        attribute=attribute,
                        value=value,
                        marks=marks,
                        response_time_ms=round(seconds * 1000, 1),
                        presented_at=shown_at,
                    )
                    rate(store, session, protocol, answer, now=clock)
                    clock += timedelta(milliseconds=protocol.isi_ms)

    def _response_id(self, study: Study, position: int, attribute: str) -> str:
        text = f"{study.name}/{self.seed}/{self.number}/{position}/{attribute}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _judge(
        self, protocol: Protocol, attribute: str, seen: Mapping[str, tuple[str, str | None]]
    ) -> tuple[str, tuple[Mark, ...], float]:
        if protocol.method == "artifact":
            return self._mark(protocol, *seen["stimulus"])
        left, right = (
            self.world.utility[attribute, content, str(name)] + self.taste[str(name)]
            for content, name in (seen["left"], seen["right"])
        )
        difference = left - right
        felt = difference + self.side_bias + self.rng.logistic(0, 0.8)
        value = "left" if felt > 0 else "right"
        if protocol.tie and abs(felt) < self.threshold:
            value = "tie"
        if self.rng.random() < self.lapse:
            value = str(self.rng.choice(["left", "right"]))
        seconds = self.pace * np.exp(self.rng.normal(1.1 - 0.3 * min(abs(difference), 2), 0.35))
        return value, (), float(seconds)

    def _mark(
        self, protocol: Protocol, content: str, name: str | None
    ) -> tuple[str, tuple[Mark, ...], float]:
        levels = sorted(level.value for level in protocol.severities)
        marks = []
        for defect in self.world.defects[content, str(name)]:
            if defect.severity is None or self.rng.random() > self.keenness:
                continue
            x = float(np.clip(defect.x + self.rng.normal(0, 0.02), 0, 0.9))
            y = float(np.clip(defect.y + self.rng.normal(0, 0.02), 0, 0.9))
            slip = int(self.rng.choice([-1, 0, 1], p=[0.15, 0.7, 0.15]))
            level = int(np.clip(levels.index(defect.severity) + slip, 0, len(levels) - 1))
            artifact = defect.artifact
            if self.rng.random() <= self.lapse + 0.05:
                artifact = str(self.rng.choice([one.name for one in protocol.artifacts]))
            marks.append(
                Mark(
                    artifact=artifact,
                    severity=levels[level],
                    note="simulated" if artifact == "other" else None,
                    x=x,
                    y=y,
                    width=min(defect.width, 1 - x),
                    height=min(defect.height, 1 - y),
                )
            )
        seconds = self.pace * (3 + 5 * len(marks)) * np.exp(self.rng.normal(0, 0.3))
        return ("marks" if marks else "none"), tuple(marks), float(seconds)


# Export --------------------------------------------------------------------------------------

FORMATS = ("csv", "parquet", "json")


def export_study(
    store: Store, study: Study, out: Path, format: Literal["csv", "parquet", "json"] = "csv"
) -> list[Path]:
    """Write all of a study's tables, its protocol and a README of the columns to a folder.

    In CSV, text that a spreadsheet would run as a formula begins with an apostrophe.

    Raises
    ------
    InputError
        ``out`` holds something already, or cannot be written. Nothing is half-written.
    Interrupted
        The disk is full. What was written is removed.
    """
    if format not in FORMATS:
        raise InputError(
            "unknown format", key="format", value=format, remedy=f"Use one of {', '.join(FORMATS)}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("is there already", file=out, remedy="Name a new or empty folder")
    tables = {
        "ratings": store.ratings(study),
        "observers": store.observers(study),
        "sessions": store.sessions(study),
        "conditions": store.conditions(study),
        "contents": store.contents(study),
        "notes": store.notes(study),
        "events": store.events(study),
        "looks": store.looks(study),
    }
    simulated = int(tables["observers"]["simulated"].sum())
    about = {
        "study": study.name,
        "method": study.method,
        "state": study.state,
        "created_at": study.created_at.isoformat(),
        "exported_at": datetime.now(UTC).isoformat(),
        "protocol_sha256": study.protocol_sha256,
        "run": study.run_path,
        "seed": study.seed,
        "observers": len(tables["observers"]),
        "simulated_observers": simulated,
        **study.info,
    }
    # An empty folder that is there stays the same folder: it may be a mount, or where we stand.
    fresh = not out.exists()
    part = out.with_name(f".{out.name}.{os.getpid()}.part") if fresh else out / ".part"
    try:
        part.mkdir(parents=True)
        for name, table in tables.items():
            _write_table(table, part / f"{name}.{format}", format)
        (part / "study.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        (part / "protocol.toml").write_text(study.protocol, encoding="utf-8")
        (part / "README.md").write_text(_export_readme(study, tables, simulated), encoding="utf-8")
        if fresh:
            part.replace(out)
        else:
            for file in part.iterdir():
                file.replace(out / file.name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Interrupted(f"the disk is full: {out}; nothing was kept") from error
        raise InputError(f"cannot be written: {error.strerror or error}", file=out) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(out.iterdir())


def _write_table(table: pd.DataFrame, file: Path, format: str) -> None:
    table = table.copy()
    for column in table.columns.intersection(["crowd", "screening", "data"]):
        table[column] = pd.Series(
            [None if one is None else json.dumps(one, sort_keys=True) for one in table[column]],
            dtype=object,
        )
    if format == "parquet":
        # A column without any text is still one of texts.
        texts = {name: "string" for name in table if pd.api.types.is_object_dtype(table[name])}
        table.astype(texts).to_parquet(file, index=False)
    elif format == "json":
        table.to_json(
            file, orient="records", date_format="iso", date_unit="us", double_precision=15, indent=1
        )
    else:
        safe = table.map(lambda value: _no_formula(value) if isinstance(value, str) else value)
        # Quoted throughout: a lone carriage return inside of a note would end the row otherwise.
        dates = "%Y-%m-%dT%H:%M:%S.%f%z"
        safe.to_csv(file, index=False, date_format=dates, quoting=csv.QUOTE_NONNUMERIC)


# The last four are the wide forms, which some spreadsheets read as the narrow ones.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


_COLUMNS = {
    "study": "name of the study",
    "method": "how observers answered",
    "observer": "one person; the same name in all tables",
    "group": "group of the observer",
    "session": "one sitting",
    "trial": "one presentation",
    "attribute": "the question that was asked",
    "content": "the photograph (content_id of the manifest)",
    "content_id": "the photograph",
    "kind": "test, or a control: practice, gold, repeat, identical",
    "expected": "the answer that a control trial expects",
    "repeat_of": "the trial that this one repeats, pairs with their sides swapped",
    "response_id": "one answer, as named by the browser that sent it",
    "revision": "1, 2 … where an answer was taken back; the last one counts",
    "response_time_ms": "milliseconds from the paint of the images to the answer",
    "presented_at": "when the images were painted, by the observer's clock",
    "rated_at": "when the answer was saved, by the server's clock",
    "simulated": "whether a program answered instead of a person",
    "left": "condition shown on the left",
    "right": "condition shown on the right",
    "choice": "left, right, tie or skip",
    "condition": "the condition shown",
    "artifact": "what was marked; empty: the observer saw nothing wrong",
    "severity": "how bad; levels in protocol.toml",
    "x": "left edge of the region, as a fraction of the width",
    "y": "upper edge of the region, as a fraction of the height",
    "width": "ratings: width of the region, as a fraction; contents: pixels of the shown images",
    "height": "ratings: height of the region, as a fraction; contents: pixels of the shown images",
    "shape": "shape of the region",
    "value": "the answer as it was sent",
    "reason": "why a trial was skipped",
    "note": "what the observer wrote",
    "trials": "trials of the session",
    "rated_trials": "trials with an answer",
    "completion": "completion code, once every answer was saved",
    "screening": "what the checks before the session found, as JSON",
    "crowd": "keyed hashes of what a crowd platform passed, as JSON",
    "weight": "inclusion weight of the photograph in the panel",
    "sha256": "hash of the photograph, or of the checkpoint",
    "spec": "how the condition was given to the run",
    "data": "details of the event, as JSON",
    "happened_at": "by the observer's clock",
    "received_at": "by the server's clock",
    "looked_at": "when an administrator looked at results",
}


def _export_readme(study: Study, tables: Mapping[str, pd.DataFrame], simulated: int) -> str:
    lines = [f"# Study {study.name}", ""]
    if simulated:
        lines += [
            f"**{simulated} of {len(tables['observers'])} observers are simulated** (column "
            "`simulated`): their answers were made by a program and say nothing about people.",
            "",
        ]
    lines += [
        "Times are UTC. The protocol is in `protocol.toml`, where the study came from in "
        "`study.json`. Controls, skips and answers that were taken back are here too; skips of an "
        "artifact study are in `notes` alone. In CSV files, a text that a spreadsheet would run "
        "as a formula begins with an apostrophe.",
    ]
    for name, table in tables.items():
        lines += ["", f"## {name}: {len(table)} rows", ""]
        lines += [
            f"- `{column}`" + (f": {_COLUMNS[column]}" if column in _COLUMNS else "")
            for column in table.columns
        ]
    return "\n".join(lines) + "\n"
