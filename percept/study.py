"""Studies: create, run, simulate, export. Joins protocol, stimuli, design and store.

:func:`join`, :func:`window` and :func:`rate` are what a live session does; simulated observers
use the same three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from percept.design import SessionPlan, plan_session
from percept.errors import InputError
from percept.protocol import Protocol, parse_protocol
from percept.store.store import (
    Answer,
    Conflict,
    Joined,
    Mark,
    Session,
    Store,
    Study,
    Trial,
    Usage,
)

#: Trials that a client may hold at once.
WINDOW = 8


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
        The protocol has no such group.
    Conflict
        Another version of the consent text was agreed to (code ``consent``), or the study takes
        nobody (``paused``, ``closed``).
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
    stimuli = store.stimuli(study)

    def assign(ordinal: int, usage: Usage) -> SessionPlan:
        rng = np.random.default_rng([study.seed, ordinal])
        return plan_session(protocol, stimuli, usage, rng=rng)

    return store.join(
        study,
        client_id,
        assign,
        group=group,
        consent_version=consent_version,
        screening=screening,
        invite=invite,
        crowd=crowd,
        simulated=simulated,
        name=name,
        now=now,
    )


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
    if answer.value == "marks" and not answer.marks:
        raise InputError(
            "there are no marks", key="marks", remedy='Answer "none" where nothing is wrong'
        )
    if answer.value != "marks" and answer.marks:
        raise InputError("marks belong to the answer 'marks'", key="value", value=answer.value)
    for index, mark in enumerate(answer.marks):
        _check_mark(protocol, mark, f"marks.{index}")


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
