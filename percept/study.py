"""Studies: create, run, simulate, export. Joins protocol, stimuli, design and store.

:func:`join`, :func:`window` and :func:`rate` are what a live session does; simulated observers
use the same three.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
from percept.files import sync_folder
from percept.inference.run import Run
from percept.protocol import Protocol, parse_protocol
from percept.simulation import Observer, World, types_of
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
from percept.types import REFERENCE

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
    check_name(name)
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
    new = not folder.exists()
    # Out of the way of others who fill the same folder, until the study is all but saved.
    part = folder / f".{uuid.uuid4().hex}.part"

    def place() -> None:
        for file in part.iterdir():
            file.replace(folder / file.name)  # the same bytes, where another study has them
        sync_folder(folder)

    try:
        rendered = render_stimuli(selection, part, golds=golds_needed(protocol), progress=progress)
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
            place=place,
        )
    except OperationalError as error:
        raise Interrupted(f"the study could not be saved: {error.orig}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if new:
            with suppress(OSError):  # it holds the images of a study
                folder.rmdir()


def check_name(name: str) -> None:
    """Raise :class:`InputError` where a study cannot be called so."""
    if not _NAME.fullmatch(name):
        raise InputError(
            "not a name for a study",
            key="name",
            value=name,
            remedy="Use up to 100 letters, digits, '.', '_' and '-'",
        )


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
    stimuli = store.stimuli(study)
    if protocol.golds:
        shown = set(stimuli.loc[~stimuli["retired"], "id"])
        missed = retire_golds(store.gold_answers(study, first))
        if missed := {gold: reason for gold, reason in missed.items() if gold in shown}:
            store.retire(missed)
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


def may_look(store: Store, study: Study) -> bool:
    """Whether results may be looked at: the study is closed, or its stopping rule is met."""
    rule = protocol_of(study).stopping
    if study.state == "closed":
        return True
    if not (rule.votes or rule.half_width):
        return False
    conditions = store.conditions(study)["condition"].tolist()
    n = len(conditions)
    units = {"pairwise": n * (n - 1) // 2, "real_or_fake": n - 1}.get(study.method, n)
    if protocol_of(study).reference == "true":
        units = n - 1  # the true image is only beside the others
    trials = store.progress(study).by_unit["trials"]
    if len(trials) < units or trials.min() < rule.votes:
        return False
    if not rule.half_width:
        return True
    votes = store.ratings(study)
    votes = votes[(votes["attribute"] == protocol_of(study).attributes[0].name).to_numpy(bool)]
    weights = store.contents(study).set_index("content_id")["weight"].astype(float).fillna(1.0)
    scale = stats.bradley_terry(votes.assign(count=votes["content"].map(weights)))
    widest = (np.asarray(scale.high) - np.asarray(scale.low)).max() / 2 / scale.jod_unit
    # A warning: the interval does not speak of new observers and new photographs, or of all.
    return bool(not scale.warnings and widest <= rule.half_width)


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
    types: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Let simulated observers answer a study; returns how many joined.

    They know nothing of metrics: every condition has a quality of its own, drawn from ``seed``
    (``gray`` low, ``reference`` high), every photograph shifts it, every observer has a taste, a
    side bias and lapses (:mod:`percept.simulation`). They answer through the calls that a real
    session makes, and every row of theirs is marked ``simulated``; what type of observer each is
    stands in its screening facts, as ``simulated_type``. The same study, seed and types give the
    same answers; observers that answered before are left as they are.

    Parameters
    ----------
    store : Store
    study : Study
    observers : int
        How many there shall be in the end.
    seed : int
    types : mapping of str to float, optional
        Share of each type, adding up to 1: ``careful``, ``careless``, ``side`` (leans to one side
        or end of the scale), ``colour_blind``. By default all are careful.
    progress : callable, optional
        Called with (observers done, observers in all).

    Raises
    ------
    InputError
        Real observers have answered this study, or the shares are none.
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
    names = store.conditions(study)["condition"].astype(str).tolist()
    contents = store.contents(study)["content_id"].astype(str).tolist()
    world = World(protocol, names, contents, seed)
    joined = 0
    for number, type_ in enumerate(types_of(types, observers, seed)):
        try:
            with store.batch():
                observer = Observer(world, number, seed, type_)
                joined += _answer_all(store, study, observer, number, seed)
        except OperationalError as error:
            raise Interrupted(f"the answers could not be saved: {error.orig}") from error
        if progress is not None:
            progress(number + 1, observers)
    return joined


def _answer_all(store: Store, study: Study, observer: Observer, number: int, seed: int) -> bool:
    """Let an observer join and answer every trial; False if there was one of that number."""
    protocol, clock = observer.protocol, study.created_at
    joined = join(
        store,
        study,
        f"simulated-observer-{seed}-{number}",
        consent_version=protocol.consent.version,
        group=protocol.groups[number % len(protocol.groups)],
        screening={"simulated_type": observer.type},
        simulated=True,
        name=f"simulated-{seed}-{number + 1:03d}",
        now=clock,
    )
    if not joined.created:
        return False
    session = store.session(joined.token)
    shown = store.shown(session)
    while trials := window(store, session, protocol).trials:
        for trial in trials:
            images = {role: shown[token] for role, token in trial.images.items()}
            for attribute in session.attributes:
                reply = observer.answer(attribute, images)
                text = f"{study.name}/{seed}/{number}/{trial.position}/{attribute}"
                answer = Answer(
                    response_id=hashlib.sha256(text.encode()).hexdigest()[:32],
                    trial=trial.token,
                    attribute=attribute,
                    value=reply.value,
                    reason=reply.reason,
                    reasons=reply.reasons,
                    marks=reply.marks,
                    response_time_ms=round(reply.seconds * 1000, 1),
                    presented_at=clock,
                )
                clock += timedelta(seconds=reply.seconds)
                rate(store, session, protocol, answer, now=clock)
                clock += timedelta(milliseconds=protocol.isi_ms)
    return True


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
        "marks": store.marks(study),
        "observers": store.observers(study),
        "sessions": store.sessions(study),
        "conditions": store.conditions(study),
        "contents": store.contents(study),
        "notes": store.notes(study),
        "events": store.events(study),
        "looks": store.looks(study),
        "stimuli": store.stimuli(study).drop(columns=["id", "content"]),
        "invites": store.invites(study).drop(columns="code"),  # codes would let others in
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
    "choice": "left, right, tie or skip; real or fake: the side that was taken for real",
    "condition": "the condition shown",
    "artifact": "what was marked; empty: the observer saw nothing wrong",
    "severity": "how bad; levels in protocol.toml",
    "x": "left edge of the region, as a fraction of the width",
    "y": "upper edge of the region, as a fraction of the height",
    "width": "ratings: width of the region, as a fraction; contents: pixels of the shown images",
    "height": "ratings: height of the region, as a fraction; contents: pixels of the shown images",
    "shape": "shape of the region: rectangle, or mask inside of one",
    "mask": "COLSxROWS:a,b,c: lengths of runs over the region, row by row, of zeros first",
    "score": "grade; labels in protocol.toml, higher is better",
    "verdict": "accept, fix or reject",
    "comment": "what a reviewer wrote",
    "role": "test; original: the grey photograph on view; gold: made for a control",
    "variant": "how a gold was made",
    "source_sha256": "hash of the run's image that it was made from",
    "retired": "whether a gold is shown no more, because sound observers missed it",
    "invite": "label of the invitation that was used",
    "label": "who an invitation is for",
    "uses": "how many joined by it",
    "screened_out": "whether the checks turned this person away",
    "withdrawn_at": "when the observer withdrew; answers and personal fields are erased",
    "value": "the answer as it was sent",
    "reason": "notes: why a trial was skipped; ratings: why not accepted, joined by ;",
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
        "`study.json`. Controls, skips and answers that were taken back are here too; where "
        "one image is judged at a time, skips are in `notes` alone. In CSV files, a text that a "
        "spreadsheet would run as a formula begins with an apostrophe.",
    ]
    for name, table in tables.items():
        lines += ["", f"## {name}: {len(table)} rows", ""]
        lines += [
            f"- `{column}`" + (f": {_COLUMNS[column]}" if column in _COLUMNS else "")
            for column in table.columns
        ]
    return "\n".join(lines) + "\n"
