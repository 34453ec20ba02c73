"""The database: studies, observers, trials and ratings, on SQLite or PostgreSQL.

Every public method is one short transaction. A rating is durable when :meth:`Store.rate`
returns, and a resend of it changes nothing. On SQLite writers take turns (write-ahead log, one
write lock taken at the start of the transaction), ratings that wait at the same time share one
transaction, readers never wait.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from percept.errors import InputError, Interrupted, PerceptError
from percept.store.connect import Database, connect
from percept.store.frames import Frames, Invite, Progress, Study, StudyState
from percept.store.schema import (
    condition,
    content,
    event,
    look,
    mark,
    observer,
    presentation,
    rating,
    session,
    stimulus,
    study,
    trial,
)
from percept.store.schema import invite as invitation
from percept.store.together import Together

__all__ = [
    "Answer",
    "Conflict",
    "Given",
    "Invite",
    "Joined",
    "Mark",
    "NotFound",
    "Progress",
    "Session",
    "Store",
    "Study",
    "Trial",
    "Usage",
    "Vote",
    "open_store",
]

_T = TypeVar("_T")
_INVITE = [column for column in invitation.c if column.name not in ("id", "study_id")]

#: A trial counts as used when it is rated, or while its session began or answered this recently.
RESERVATION = timedelta(hours=1)


class NotFound(PerceptError):
    """What was asked for does not exist, or belongs to someone else."""


class Conflict(PerceptError):
    """The request contradicts what is already saved; ``code`` is a short machine-readable word.

    ``details`` are further facts for the client.
    """

    def __init__(self, code: str, message: str, **details: Any) -> None:
        self.code, self.details = code, details
        super().__init__(message)


@dataclass(frozen=True)
class Session:
    """One sitting of one observer."""

    id: int
    study_id: int
    observer_id: int
    study_state: StudyState
    attributes: tuple[str, ...]
    finished_at: datetime | None
    completion: str | None
    trials: int
    group: str
    started_at: datetime


@dataclass(frozen=True)
class Joined:
    """A session's token; ``created`` is False when the same client had joined before."""

    token: str
    created: bool


@dataclass(frozen=True)
class Mark:
    """One marked place, in fractions of the image, and what is wrong there."""

    artifact: str
    severity: int | None
    x: float
    y: float
    width: float
    height: float
    shape: Literal["rectangle", "mask"] = "rectangle"
    mask: str | None = None
    note: str | None = None
    role: str = "stimulus"


@dataclass(frozen=True)
class Answer:
    """One answer as the client sends it; ``trial`` is the trial's token."""

    response_id: str
    trial: str
    attribute: str
    value: str
    response_time_ms: float
    presented_at: datetime
    revision: int = 1
    reason: str | None = None
    """Of a skip."""
    reasons: tuple[str, ...] = ()
    """Of a review."""
    comment: str | None = None
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Given:
    """The answer that counts so far for one attribute of a trial."""

    revision: int
    value: str


@dataclass(frozen=True)
class Trial:
    """One presentation as its observer may see it: tokens, no conditions, no content."""

    token: str
    position: int
    practice: bool
    images: Mapping[str, str]  # role: token
    width: int
    height: int
    facts: Mapping[str, str | None]  # era, process
    answered: Mapping[str, Given]
    expected: str | None = None
    """The right answer, told of practice alone."""


class PlannedTrial(Protocol):
    """What :meth:`Store.join` needs to know of a trial (``percept.design`` makes them)."""

    @property
    def kind(self) -> str:
        """One of ``KINDS``."""

    @property
    def content(self) -> int:
        """Key of the photograph."""

    @property
    def images(self) -> Mapping[str, int]:
        """Key of the stimulus for each role."""

    @property
    def expected(self) -> str | None:
        """The answer of a control trial."""

    @property
    def repeat_of(self) -> int | None:
        """Position of the trial that this one repeats."""


class SessionPlan(Protocol):
    """The trials of one session in order, and the order of its questions."""

    @property
    def trials(self) -> Sequence[PlannedTrial]:
        """In the order of presentation."""

    @property
    def attributes(self) -> Sequence[str]:
        """Names of the questions, in the order they are asked."""


@dataclass(frozen=True)
class Vote:
    """One answer that was given elsewhere; see :meth:`Store.add_votes`."""

    response_id: str
    observer: str
    group: str
    session: str
    trial: str
    kind: str
    content: str
    shown: Mapping[str, str]
    """Condition by role: left and right, or stimulus."""
    attribute: str
    value: str
    reasons: tuple[str, ...] = ()
    response_time_ms: float | None = None
    presented_at: datetime | None = None


Usage = Mapping[tuple[int, ...], int]
"""How often each (left, right) or (stimulus,) is in use, by stimulus id, as shown."""


# What every vote asks: built once, because building a statement takes longer than running it.

_SESSION = (
    sa.select(
        session,
        observer.c.study_id,
        observer.c.group,
        study.c.state,
        sa.select(sa.func.count())
        .where(trial.c.session_id == session.c.id)
        .correlate(session)
        .scalar_subquery()
        .label("trials"),
    )
    .select_from(session.join(observer).join(study))
    .where(session.c.token_sha256 == sa.bindparam("token_sha256"))
)
_LOCK = (
    sa.select(session.c.finished_at, session.c.token_sha256)
    .where(session.c.id == sa.bindparam("session"))
    .with_for_update()
)
_ANSWERED = (
    sa.select(
        trial.c.id,
        study.c.state,
        sa.select(sa.func.max(rating.c.revision))
        .where(rating.c.trial_id == trial.c.id, rating.c.attribute == sa.bindparam("attribute"))
        .correlate(trial)
        .scalar_subquery(),
        sa.exists().where(rating.c.response_id == sa.bindparam("response_id")),
    )
    .select_from(trial.join(session).join(observer).join(study))
    .where(trial.c.session_id == sa.bindparam("session"), trial.c.token == sa.bindparam("trial"))
)
# The last trial that lacks an answer; searched from the end, where it is found at once.
_UNANSWERED = (
    sa.select(trial.c.id)
    .where(
        trial.c.session_id == sa.bindparam("session"),
        sa.select(sa.func.count(sa.distinct(rating.c.attribute)))
        .where(rating.c.trial_id == trial.c.id)
        .correlate(trial)
        .scalar_subquery()
        < sa.bindparam("attributes"),
    )
    .order_by(trial.c.position.desc())
    .limit(1)
)


class Store(Frames):
    """One open database. Made by :func:`open_store`; safe to share between threads."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.engine)
        self._database = database
        # Waiting in line here is fairer and quicker than polling SQLite's lock.
        self._turn = threading.RLock() if database.file is not None else None
        self._together = Together(database, self._turn) if self._turn is not None else None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def discard(self) -> None:
        """Close, and remove the database again if opening created it and it holds no study."""
        if self._database.created:
            with self._write():  # nobody else writes now
                if not self.studies():
                    self._database.remove()
        self.close()

    def backup(self, file: Path) -> None:
        """Copy an SQLite database while it is in use; the copy is whole or not there.

        The display images are not in it: copy :meth:`stimuli_folder` too.

        Raises
        ------
        InputError
            The database is on a PostgreSQL server, the file exists, or cannot be written.
        Interrupted
            The disk is full.
        """
        if self._database.file is None:
            raise InputError(
                "PostgreSQL makes its own backups",
                key="db",
                remedy="Use pg_dump --format=custom --file=FILE DATABASE",
            )
        if file.exists():
            raise InputError("is there already", file=file, remedy="Name a new file")
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        try:
            with closing(sqlite3.connect(part)) as copy, self.engine.connect() as connection:
                source = connection.connection.driver_connection
                assert source is not None  # noqa: S101 - just connected
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
                (verdict,) = copy.execute("PRAGMA quick_check").fetchone()
                if verdict != "ok":
                    raise Interrupted(f"the copy is damaged: {verdict}")
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.rename(file)
        except (sqlite3.Error, OSError) as error:
            if "full" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
                raise Interrupted(f"the disk is full: {file}; nothing was kept") from error
            raise InputError(f"cannot be written: {error}", file=file) from error
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make all calls of this thread inside the block one transaction."""
        with self._write() as connection:
            self._local.connection = connection
            try:
                yield
            finally:
                self._local.connection = None

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        if (current := getattr(self._local, "connection", None)) is not None:
            yield current
            return
        with self._turn or nullcontext(), self._database.begin() as connection:
            yield connection

    def _write_together(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Write durably, in one transaction with what others write at this moment."""
        if self._together is None or getattr(self._local, "connection", None) is not None:
            with self._write() as connection:
                return work(connection)
        return self._together.run(work)

    def ping(self) -> None:
        """Raise if the database does not answer."""
        with self._read() as connection:
            connection.execute(sa.select(sa.literal(1)))

    # Studies -----------------------------------------------------------------------------

    def add_study(
        self,
        *,
        name: str,
        method: str,
        protocol: str,
        protocol_sha256: str,
        run_path: str,
        seed: int,
        info: Mapping[str, Any],
        stimuli_path: str | None,
        conditions: Sequence[Mapping[str, Any]],
        contents: Sequence[Mapping[str, Any]],
        stimuli: Sequence[Mapping[str, Any]],
        state: StudyState = "open",
        place: Callable[[], None] | None = None,
    ) -> Study:
        """Write a study with all that can be shown in it, in one transaction.

        Parameters
        ----------
        conditions : sequence of mappings
            ``name, spec, arm, seed, sha256``.
        contents : sequence of mappings
            ``name, sha256, width, height`` and the manifest's facts.
        stimuli : sequence of mappings
            ``content`` and ``condition`` (names; condition None for the grey original),
            ``role, variant, sha256``, and ``source_sha256`` of the run's image.
        place : callable, optional
            Puts the images in place; called last in the transaction.

        Raises
        ------
        InputError
            A study of that name exists.
        Interrupted
            The database was removed while the study was written.
        """
        self._database.revive()
        with self._write() as connection:
            taken = connection.scalar(sa.select(study.c.id).where(study.c.name == name))
            if taken is not None:
                raise InputError(
                    "a study of this name exists",
                    key="name",
                    value=name,
                    remedy="Choose another name; studies are never overwritten",
                )
            study_id = _insert(
                connection,
                study,
                name=name,
                method=method,
                protocol=protocol,
                protocol_sha256=protocol_sha256,
                run_path=run_path,
                stimuli_path=stimuli_path,
                state=state,
                seed=seed,
                secret=secrets.token_hex(32),
                info=dict(info),
                created_at=datetime.now(UTC),
            )
            condition_ids: dict[str | None, int | None] = {None: None}
            for row in conditions:
                condition_ids[row["name"]] = _insert(
                    connection, condition, study_id=study_id, **row
                )
            content_ids = {
                row["name"]: _insert(connection, content, study_id=study_id, **row)
                for row in contents
            }
            for row in stimuli:
                _insert(
                    connection,
                    stimulus,
                    content_id=content_ids[row["content"]],
                    condition_id=condition_ids[row["condition"]],
                    role=row["role"],
                    variant=row["variant"],
                    sha256=row["sha256"],
                    source_sha256=row["source_sha256"],
                )
            if place is not None:
                place()
        if self._database.file is not None and not self._database.file.exists():
            raise Interrupted(f"the database was removed: {self._database.file}")
        return self.study(name)

    def study_by_id(self, study_id: int) -> Study:
        """Get the study with that key."""
        with self._read() as connection:
            row = connection.execute(sa.select(study).where(study.c.id == study_id)).first()
        if row is None:
            raise NotFound("no such study")
        return Study(**row._mapping)

    def set_state(self, study_name: str, state: StudyState) -> Study:
        """Open, pause (nobody joins) or close (nobody joins or answers) a study.

        Raises
        ------
        InputError
            There is no such study, or its votes were made elsewhere: it has nothing to show.
        """
        if self.study(study_name).imported:
            raise InputError(
                "the votes of this study were made elsewhere; it cannot be answered here",
                key="study",
                value=study_name,
            )
        closed_at = datetime.now(UTC) if state == "closed" else None
        with self._write() as connection:
            connection.execute(
                sa.update(study)
                .where(study.c.name == study_name)
                .values(state=state, closed_at=closed_at)
            )
        return self.study(study_name)

    def stimuli_folder(self, of: Study | None = None) -> Path:
        """Folder that holds a study's rendered images, named by their hash.

        Beside an SQLite database it is ``<database>-stimuli``; with PostgreSQL it is given when
        the study is created.
        """
        if of is not None and of.stimuli_path is not None:
            return Path(of.stimuli_path)
        if self._database.file is None:
            raise InputError(
                "the folder for rendered images is not known",
                key="stimuli",
                remedy="With PostgreSQL, give --stimuli DIR, a folder that every server can read",
            )
        return self._database.file.with_name(f"{self._database.file.stem}-stimuli")

    def look(self, of: Study, what: str) -> None:
        """Log that an administrator looked at results."""
        with self._write() as connection:
            _insert(connection, look, study_id=of.id, what=what, looked_at=datetime.now(UTC))

    # Sessions ----------------------------------------------------------------------------

    def join(
        self,
        of: Study,
        client_id: str,
        assign: Callable[[int, Usage], SessionPlan],
        *,
        group: str,
        consent_version: str | None = None,
        screening: Mapping[str, Any] | None = None,
        invite: str | None = None,
        invite_only: bool = False,
        crowd: Mapping[str, str] | None = None,
        screened_out: bool = False,
        simulated: bool = False,
        name: str | None = None,
        now: datetime | None = None,
    ) -> Joined:
        """Begin a session, or find the one that this client began before.

        ``assign(ordinal, usage)`` is called inside the transaction and returns the session's
        trials; ``ordinal`` counts the study's sessions from 0, ``usage`` is what is rated or
        reserved. Identifiers of a crowd platform are stored as keyed hashes alone. An invitation
        that names a group decides on it. Whoever is ``screened_out`` is remembered, without a
        session, and gets none later.

        Raises
        ------
        Conflict
            The study is paused or closed (code ``paused``, ``closed``), the invitation is missing,
            unknown, revoked or used up (``invite``), the crowd worker has joined as another client
            (``crowd``), or this person is or was screened out (``screened_out``).
        """
        token = _token(of, client_id)
        client_sha256 = _sha256(client_id)
        now = now or datetime.now(UTC)
        hashed = {key: _keyed(of, value) for key, value in crowd.items()} if crowd else None
        with self._write() as connection:
            # The row's lock makes joins take turns on PostgreSQL too.
            state = connection.scalar(
                sa.select(study.c.state).where(study.c.id == of.id).with_for_update()
            )
            turned_away = connection.scalar(
                sa.select(observer.c.screened_out).where(
                    observer.c.study_id == of.id, observer.c.client_sha256 == client_sha256
                )
            )
            if turned_away is False:
                return Joined(token, created=False)
            if state != "open":
                raise Conflict(state or "closed", f"this study is {state}")
            if turned_away is None and hashed and "worker" in hashed:
                turned_away = self._knows_worker(connection, of.id, hashed)
                if turned_away is False:
                    raise Conflict("crowd", "this participant has joined before, elsewhere")
            if not turned_away:
                if invite is not None or invite_only:
                    used = not screened_out
                    group = self._redeem(connection, of.id, invite, used=used) or group
                observer_id = _insert(
                    connection,
                    observer,
                    study_id=of.id,
                    name=name or f"o-{secrets.token_hex(4)}",
                    client_sha256=client_sha256,
                    group=group,
                    invite=invite,
                    crowd=hashed,
                    consent_version=consent_version,
                    consented_at=now if consent_version is not None else None,
                    screening=dict(screening) if screening is not None else None,
                    simulated=simulated,
                    joined_at=now,
                    screened_out=screened_out,
                )
                if not screened_out:
                    self._begin(connection, of, observer_id, token, assign, now)
                    return Joined(token, created=True)
        raise Conflict("screened_out", "the checks turned this participant away")

    @staticmethod
    def _knows_worker(
        connection: sa.Connection, study_id: int, hashed: Mapping[str, str]
    ) -> bool | None:
        """Whether the observer whom a platform knows by this name was screened out, if any."""
        same = [
            observer.c.crowd[key].as_string() == hashed[key]
            for key in ("platform", "worker")
            if key in hashed
        ]
        query = sa.select(observer.c.screened_out).where(observer.c.study_id == study_id, *same)
        return connection.scalar(query)

    @staticmethod
    def _redeem(
        connection: sa.Connection, study_id: int, code: str | None, *, used: bool
    ) -> str | None:
        """Check and use an invitation; the group that it names. The study is locked."""
        if code is None:
            raise Conflict("invite", "this study is by invitation: open the link that was sent")
        mine = (invitation.c.study_id == study_id) & (invitation.c.code == code)
        row = connection.execute(sa.select(invitation).where(mine)).first()
        if row is None or row.revoked_at is not None:
            raise Conflict("invite", "this invitation is not valid")
        if row.max_uses is not None and row.uses >= row.max_uses:
            raise Conflict("invite", "this invitation has been used already")
        if used:
            more = sa.update(invitation).where(mine).values(uses=invitation.c.uses + 1)
            connection.execute(more)
        return None if row.group is None else str(row.group)

    def _begin(
        self,
        connection: sa.Connection,
        of: Study,
        observer_id: int,
        token: str,
        assign: Callable[[int, Usage], SessionPlan],
        now: datetime,
    ) -> None:
        """Write a session and its trials."""
        ordinal = connection.scalar(
            sa.select(sa.func.count())
            .select_from(session.join(observer))
            .where(observer.c.study_id == of.id)
        )
        plan = assign(ordinal or 0, self._usage(connection, of.id, now))
        session_id = _insert(
            connection,
            session,
            observer_id=observer_id,
            token_sha256=_sha256(token),
            seed=ordinal or 0,
            attributes=list(plan.attributes),
            started_at=now,
        )
        self._add_trials(connection, session_id, plan.trials)

    @staticmethod
    def _add_trials(
        connection: sa.Connection, session_id: int, planned: Sequence[PlannedTrial]
    ) -> dict[int, int]:
        """Write the trials of a session; the key of each position, from 1."""
        rows = [
            {
                "session_id": session_id,
                "content_id": one.content,
                "token": secrets.token_urlsafe(16),
                "position": position,
                "kind": one.kind,
                "expected": one.expected,
            }
            for position, one in enumerate(planned, start=1)
        ]
        connection.execute(sa.insert(trial), rows)
        query = sa.select(trial.c.position, trial.c.id).where(trial.c.session_id == session_id)
        ids: dict[int, int] = _pairs(connection, query)
        for position, one in enumerate(planned, start=1):
            if one.repeat_of is not None:
                connection.execute(
                    sa.update(trial)
                    .where(trial.c.id == ids[position])
                    .values(repeat_of=ids[one.repeat_of])
                )
        presentations = [
            {
                "trial_id": ids[position],
                "stimulus_id": stimulus_id,
                "role": role,
                "token": secrets.token_urlsafe(16),
            }
            for position, one in enumerate(planned, start=1)
            for role, stimulus_id in one.images.items()
        ]
        connection.execute(sa.insert(presentation), presentations)
        return ids

    def withdraw(self, observer_id: int) -> None:
        """Erase an observer's answers and all that is personal; a tombstone stays.

        The observer's and the sessions' rows stay, without the client, invitation, crowd hashes,
        screening, token and completion code, and what was shown. Copies made earlier (backups,
        exports) are not reached.
        """
        with self._write() as connection:
            mine = sa.select(session.c.id).where(session.c.observer_id == observer_id)
            # Locked, so that no answer arrives meanwhile on PostgreSQL.
            connection.execute(mine.with_for_update()).all()
            trials = sa.select(trial.c.id).where(trial.c.session_id.in_(mine))
            answers = sa.select(rating.c.id).where(rating.c.trial_id.in_(trials))
            connection.execute(sa.delete(mark).where(mark.c.rating_id.in_(answers)))
            connection.execute(sa.delete(rating).where(rating.c.trial_id.in_(trials)))
            connection.execute(sa.delete(event).where(event.c.session_id.in_(mine)))
            connection.execute(
                sa.update(session)
                .where(session.c.observer_id == observer_id)
                .values(token_sha256=None, completion=None)
            )
            connection.execute(
                sa.update(observer)
                .where(observer.c.id == observer_id, observer.c.withdrawn_at.is_(None))
                .values(
                    client_sha256=None,
                    invite=None,
                    crowd=sa.null(),
                    screening=sa.null(),
                    withdrawn_at=datetime.now(UTC),
                )
            )
        if self._database.file is not None:
            with self.engine.connect() as connection:  # out of the log, too
                raw = connection.connection.driver_connection
                assert raw is not None  # noqa: S101 - just connected
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def observer_id(self, of: Study, name: str) -> int:
        """Get the key of an observer.

        Raises
        ------
        InputError
            The study has no such observer, or the observer has withdrawn.
        """
        query = sa.select(observer.c.id, observer.c.withdrawn_at).where(
            observer.c.study_id == of.id, observer.c.name == name
        )
        with self._read() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise InputError("no such observer in this study", key="observer", value=name,
                             remedy="The exported table of observers lists the names")  # fmt: skip
        if row.withdrawn_at is not None:
            raise InputError("has withdrawn already", key="observer", value=name)
        return int(row.id)

    # Votes made elsewhere ----------------------------------------------------------------

    def add_votes(self, of: Study, votes: Sequence[Vote]) -> int:
        """Save answers that were given elsewhere; how many were new, all of them or none.

        Observers are stored under keyed hashes of their names. Conditions and photographs that
        an imported study does not have yet are added; any other study must have them.
        """
        now = datetime.now(UTC)
        with self._write() as connection:
            connection.execute(sa.select(study.c.id).where(study.c.id == of.id).with_for_update())
            first = sa.select(rating.c.id).where(rating.c.response_id == votes[0].response_id)
            if connection.scalar(first) is not None:
                return 0
            images = self._images(connection, of, votes)
            named = sa.select(observer.c.name, observer.c.id).where(observer.c.study_id == of.id)
            observers: dict[str, int] = _pairs(connection, named)
            attributes = list(dict.fromkeys(vote.attribute for vote in votes))
            sittings: dict[tuple[str, str], dict[str, list[Vote]]] = {}
            for vote in votes:
                trials = sittings.setdefault((vote.observer, vote.session), {})
                trials.setdefault(vote.trial, []).append(vote)
            for (person, _), trials in sittings.items():
                name = f"i-{_keyed(of, person)[:12]}"
                if name not in observers:
                    observers[name] = _insert(
                        connection,
                        observer,
                        study_id=of.id,
                        name=name,
                        group=next(iter(trials.values()))[0].group,
                        simulated=False,
                        joined_at=now,
                        screened_out=False,
                    )
                session_id = _insert(
                    connection,
                    session,
                    observer_id=observers[name],
                    seed=0,
                    attributes=attributes,
                    started_at=now,
                    finished_at=now,
                )
                planned = []
                for one, *_rest in trials.values():
                    keys = {role: images[one.content, name] for role, name in one.shown.items()}
                    content_id = next(iter(keys.values()))[0]
                    shown = {role: stimulus_id for role, (_, stimulus_id) in keys.items()}
                    planned.append(_Shown(one.kind, content_id, shown))
                ids = self._add_trials(connection, session_id, planned)
                connection.execute(
                    sa.insert(rating),
                    [
                        {
                            "trial_id": ids[position],
                            "attribute": vote.attribute,
                            "revision": 1,
                            "response_id": vote.response_id,
                            "value": vote.value,
                            "reasons": list(vote.reasons) or None,
                            "response_time_ms": vote.response_time_ms or 0.0,
                            "presented_at": vote.presented_at or now,
                            "rated_at": now,
                        }
                        for position, answers in enumerate(trials.values(), start=1)
                        for vote in answers
                    ],
                )
        return len(votes)

    @staticmethod
    def _images(
        connection: sa.Connection, of: Study, votes: Sequence[Vote]
    ) -> dict[tuple[str, str], tuple[int, int]]:
        """(content, stimulus) keys by names of content and condition, made where missing."""
        here: dict[str, dict[str, int]] = {}
        for key, table in (("content", content), ("condition", condition)):
            query = sa.select(table.c.name, table.c.id).where(table.c.study_id == of.id)
            here[key] = _pairs(connection, query)
        shown = (
            sa.select(content.c.name, condition.c.name, content.c.id, stimulus.c.id)
            .select_from(stimulus.join(content).join(condition))
            .where(content.c.study_id == of.id, stimulus.c.role == "test")
        )
        images: dict[tuple[str, str], tuple[int, int]] = {
            (row[0], row[1]): (row[2], row[3]) for row in connection.execute(shown)
        }
        for vote in votes:
            for name in vote.shown.values():
                if (vote.content, name) in images:
                    continue
                if vote.content not in here["content"]:
                    here["content"][vote.content] = _insert(
                        connection, content, study_id=of.id, name=vote.content, sha256="",
                        width=0, height=0,
                    )  # fmt: skip
                if name not in here["condition"]:
                    here["condition"][name] = _insert(
                        connection, condition, study_id=of.id, name=name, spec="elsewhere"
                    )
                content_id = here["content"][vote.content]
                images[vote.content, name] = (
                    content_id,
                    _insert(
                        connection,
                        stimulus,
                        content_id=content_id,
                        condition_id=here["condition"][name],
                        role="test",
                        variant="",
                        sha256="",
                    ),
                )
        return images

    # Invitations -------------------------------------------------------------------------

    def add_invite(
        self, of: Study, label: str, *, group: str | None = None, max_uses: int | None = 1
    ) -> Invite:
        """Make an invitation; ``max_uses`` None: any number of people may use it."""
        code = secrets.token_urlsafe(9)
        with self._write() as connection:
            _insert(
                connection,
                invitation,
                study_id=of.id,
                code=code,
                label=label,
                group=group,
                uses=0,
                max_uses=max_uses,
                created_at=datetime.now(UTC),
            )
        found = self.invite(of, code)
        assert found is not None  # noqa: S101 - it was just written
        return found

    def invite(self, of: Study, code: str) -> Invite | None:
        """Find an invitation by its code."""
        query = sa.select(*_INVITE).where(invitation.c.study_id == of.id, invitation.c.code == code)
        with self._read() as connection:
            row = connection.execute(query).first()
        return None if row is None else Invite(**row._mapping)

    def revoke_invite(self, of: Study, code: str) -> None:
        """Let nobody join by an invitation any more; who did stays.

        Raises
        ------
        NotFound
            There is none with this code.
        """
        with self._write() as connection:
            done = connection.execute(
                sa.update(invitation)
                .where(invitation.c.study_id == of.id, invitation.c.code == code)
                .values(revoked_at=sa.func.coalesce(invitation.c.revoked_at, datetime.now(UTC)))
            )
        if not done.rowcount:
            raise NotFound("no such invitation")

    def retire(self, golds: Mapping[int, str]) -> None:
        """Show golds (stimulus: reason) no more in sessions to come."""
        with self._write() as connection:
            for stimulus_id, reason in golds.items():
                connection.execute(
                    sa.update(stimulus)
                    .where(stimulus.c.id == stimulus_id, stimulus.c.retired_at.is_(None))
                    .values(retired_at=datetime.now(UTC), retired_reason=reason)
                )

    def _usage(self, connection: sa.Connection, study_id: int, now: datetime) -> Usage:
        """Count what is rated, or reserved by sessions that were active within RESERVATION."""
        first = presentation.alias("first")
        second = presentation.alias("second")
        rated = sa.exists().where(rating.c.trial_id == trial.c.id)
        own = trial.alias("own")
        active = (
            sa.select(own.c.session_id)
            .select_from(own.join(rating, rating.c.trial_id == own.c.id))
            .where(rating.c.rated_at > now - RESERVATION)
        )
        query = (
            sa.select(first.c.stimulus_id, second.c.stimulus_id, sa.func.count())
            .select_from(
                trial.join(session)
                .join(observer)
                .join(
                    first,
                    (first.c.trial_id == trial.c.id) & first.c.role.in_(["left", "stimulus"]),
                )
                .outerjoin(second, (second.c.trial_id == trial.c.id) & (second.c.role == "right"))
            )
            .where(
                observer.c.study_id == study_id,
                observer.c.withdrawn_at.is_(None),
                trial.c.kind == "test",
                rated | (session.c.started_at > now - RESERVATION) | session.c.id.in_(active),
            )
            .group_by(first.c.stimulus_id, second.c.stimulus_id)
        )
        return {
            (one,) if other is None else (one, other): count
            for one, other, count in connection.execute(query)
        }

    def session(self, token: str) -> Session:
        """Find the session that a token opens.

        Raises
        ------
        NotFound
            No session has that token.
        """
        with self._read() as connection:
            row = connection.execute(_SESSION, {"token_sha256": _sha256(token)}).first()
        if row is None:
            raise NotFound("no such session")
        return Session(
            id=row.id,
            study_id=row.study_id,
            observer_id=row.observer_id,
            study_state=row.state,
            attributes=tuple(row.attributes),
            finished_at=row.finished_at,
            completion=row.completion,
            trials=row.trials,
            group=row.group,
            started_at=row.started_at,
        )

    def rated_at(self, of: Session) -> list[datetime]:
        """List when the answers of a session were saved, in order."""
        query = (
            sa.select(rating.c.rated_at)
            .select_from(rating.join(trial))
            .where(trial.c.session_id == of.id)
        )
        with self._read() as connection:
            return list(connection.scalars(query.order_by(rating.c.rated_at)))

    def answered_up_to(self, of: Session) -> int:
        """Position of the last trial before the first unanswered one; 0 at the start."""
        answers = (
            sa.select(sa.func.count(sa.distinct(rating.c.attribute)))
            .where(rating.c.trial_id == trial.c.id)
            .correlate(trial)
            .scalar_subquery()
        )
        query = sa.select(sa.func.min(trial.c.position)).where(
            trial.c.session_id == of.id, answers < len(of.attributes)
        )
        with self._read() as connection:
            first_open = connection.scalar(query)
        return of.trials if first_open is None else first_open - 1

    def trials(self, of: Session, after: int, limit: int) -> list[Trial]:
        """Up to ``limit`` trials of a session after position ``after``, in order."""
        with self._read() as connection:
            rows = connection.execute(
                sa.select(
                    trial.c.id,
                    trial.c.token,
                    trial.c.position,
                    trial.c.kind,
                    trial.c.expected,
                    content.c.width,
                    content.c.height,
                    content.c.era,
                    content.c.process,
                )
                .select_from(trial.join(content))
                .where(trial.c.session_id == of.id, trial.c.position > after)
                .order_by(trial.c.position)
                .limit(limit)
            ).all()
            ids = [row.id for row in rows]
            images: dict[int, dict[str, str]] = {id_: {} for id_ in ids}
            for row in connection.execute(
                sa.select(presentation).where(presentation.c.trial_id.in_(ids))
            ):
                images[row.trial_id][row.role] = row.token
            answered: dict[int, dict[str, Given]] = {id_: {} for id_ in ids}
            for row in connection.execute(
                sa.select(rating).where(rating.c.trial_id.in_(ids)).order_by(rating.c.revision)
            ):
                answered[row.trial_id][row.attribute] = Given(row.revision, row.value)
        return [
            Trial(
                token=row.token,
                position=row.position,
                practice=row.kind == "practice",
                images=images[row.id],
                width=row.width,
                height=row.height,
                facts={"era": row.era, "process": row.process},
                answered=answered[row.id],
                expected=row.expected if row.kind == "practice" else None,
            )
            for row in rows
        ]

    def shown(self, of: Session) -> dict[str, tuple[str, str | None, str]]:
        """Tell (content_id, condition, variant) of each image of a session; never for clients."""
        query = (
            sa.select(presentation.c.token, content.c.name, condition.c.name, stimulus.c.variant)
            .select_from(
                presentation.join(trial)
                .join(stimulus, presentation.c.stimulus_id == stimulus.c.id)
                .join(content, stimulus.c.content_id == content.c.id)
                .outerjoin(condition, stimulus.c.condition_id == condition.c.id)
            )
            .where(trial.c.session_id == of.id)
        )
        with self._read() as connection:
            rows = connection.execute(query).all()
        return {row[0]: (row[1], row[2], row[3]) for row in rows}

    def rate(
        self,
        of: Session,
        answer: Answer,
        *,
        undo: bool = False,
        completion_prefix: str = "PERCEPT",
        now: datetime | None = None,
    ) -> bool:
        """Save an answer; it is durable when this returns.

        Parameters
        ----------
        undo : bool
            Whether the protocol lets the last answered trial be answered again.
        completion_prefix : str
            Begins the completion code, which the last missing answer creates.

        Returns
        -------
        bool
            True if it is new, False if exactly this answer was saved before.

        Raises
        ------
        NotFound
            The trial or the attribute is not of this session, or the observer has withdrawn.
        Conflict
            ``response_id`` was used for another answer (code ``response_id``), the revision is
            not the next one (``revision``), it may not be changed any more (``undo``), or the
            study is closed (``closed``).
        """
        now = now or datetime.now(UTC)

        def save(connection: sa.Connection) -> bool:
            # Lock the session, so that two tabs take turns on PostgreSQL too. What they saved is
            # visible to the next statement, not to this one.
            locked = connection.execute(_LOCK, {"session": of.id}).first()
            if locked is None or locked.token_sha256 is None:
                raise NotFound("this session was withdrawn")
            now_there = connection.execute(
                _ANSWERED,
                {
                    "session": of.id,
                    "trial": answer.trial,
                    "attribute": answer.attribute,
                    "response_id": answer.response_id,
                },
            ).first()
            if now_there is None or answer.attribute not in of.attributes:
                raise NotFound("no such trial in this session")
            trial_id, state, last, resent = now_there
            finished_at = locked.finished_at
            if resent and self._is_resend(connection, trial_id, answer):
                return False
            if state == "closed":
                raise Conflict("closed", "this study is closed")
            if answer.revision != (last or 0) + 1:
                raise Conflict(
                    "revision", f"revision {(last or 0) + 1} is next, not {answer.revision}"
                )
            if last is not None:
                newest = connection.scalar(
                    sa.select(rating.c.trial_id)
                    .select_from(rating.join(trial))
                    .where(trial.c.session_id == of.id)
                    .order_by(rating.c.id.desc())
                    .limit(1)
                )
                if not undo or finished_at is not None or newest != trial_id:
                    raise Conflict("undo", "this answer can no longer be changed")
            rating_id = _insert(
                connection,
                rating,
                trial_id=trial_id,
                attribute=answer.attribute,
                revision=answer.revision,
                response_id=answer.response_id,
                value=answer.value,
                reason=answer.reason,
                reasons=list(answer.reasons) or None,
                comment=answer.comment,
                response_time_ms=answer.response_time_ms,
                presented_at=answer.presented_at,
                rated_at=now,
            )
            for one in answer.marks:
                _insert(connection, mark, rating_id=rating_id, **vars(one))
            left = connection.scalar(
                _UNANSWERED, {"session": of.id, "attributes": len(of.attributes)}
            )
            if finished_at is None and left is None:
                code = f"{completion_prefix}-{secrets.token_hex(4).upper()}"
                connection.execute(
                    sa.update(session)
                    .where(session.c.id == of.id)
                    .values(finished_at=now, completion=code)
                )
            return True

        try:
            return self._write_together(save)
        except IntegrityError:  # another session took this response_id meanwhile: it is seen now
            return self._write_together(save)

    @staticmethod
    def _is_resend(connection: sa.Connection, trial_id: int, answer: Answer) -> bool:
        saved = connection.execute(
            sa.select(rating).where(rating.c.response_id == answer.response_id)
        ).first()
        if saved is None:
            return False
        columns = [column for column in mark.c if column.name not in ("id", "rating_id")]
        marks = connection.execute(
            sa.select(*columns).where(mark.c.rating_id == saved.id).order_by(mark.c.id)
        ).all()
        same = (
            saved.trial_id == trial_id
            and saved.attribute == answer.attribute
            and saved.revision == answer.revision
            and saved.value == answer.value
            and saved.reason == answer.reason
            and (saved.reasons or []) == list(answer.reasons)
            and saved.comment == answer.comment
            and [dict(row._mapping) for row in marks] == [vars(one) for one in answer.marks]
        )
        if not same:
            raise Conflict("response_id", "this response_id was used for another answer")
        return True

    def stimulus_file(self, token: str) -> Path:
        """Find the PNG that an image token shows.

        Raises
        ------
        NotFound
            No image has that token.
        """
        query = (
            sa.select(stimulus.c.sha256, study)
            .select_from(
                presentation.join(stimulus, presentation.c.stimulus_id == stimulus.c.id)
                .join(content, stimulus.c.content_id == content.c.id)
                .join(study, content.c.study_id == study.c.id)
            )
            .where(presentation.c.token == token)
        )
        with self._read() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise NotFound("no such image")
        folder = self.stimuli_folder() if row.stimuli_path is None else Path(row.stimuli_path)
        return folder / f"{row[0]}.png"

    def log(self, of: Session, events: Sequence[tuple[str, datetime, str | None, Any]]) -> None:
        """Append (name, time of the client, trial token or None, data) to the event log.

        Raises
        ------
        NotFound
            A trial is not of this session.
        """
        now = datetime.now(UTC)
        with self._write() as connection:
            known = {
                row.token: row.id
                for row in connection.execute(
                    sa.select(trial.c.token, trial.c.id).where(trial.c.session_id == of.id)
                )
            }
            rows = []
            for name, happened_at, token, data in events:
                if token is not None and token not in known:
                    raise NotFound("no such trial in this session")
                rows.append(
                    {
                        "session_id": of.id,
                        "trial_id": known.get(token) if token is not None else None,
                        "name": name,
                        "data": data,
                        "happened_at": happened_at,
                        "received_at": now,
                    }
                )
            if rows:
                connection.execute(sa.insert(event), rows)


def open_store(url: str | Path, *, create: bool = False) -> Store:
    """Open a database, bringing its tables up to date.

    Parameters
    ----------
    url : str or Path
        An SQLAlchemy URL (``sqlite:///study.db``, ``postgresql://user@host/name``) or the path
        of an SQLite file.
    create : bool
        Whether to create the tables (and an SQLite file) where there are none.

    Raises
    ------
    InputError
        It cannot be opened, holds something else, or was made by a newer percept. Nothing is
        written, and no file is left behind.
    """
    return Store(connect(url, create=create))


@dataclass(frozen=True)
class _Shown:
    """A trial that was shown elsewhere, as :class:`PlannedTrial`."""

    kind: str
    content: int
    images: Mapping[str, int]
    expected: str | None = None
    repeat_of: int | None = None


def _insert(connection: sa.Connection, table: sa.Table, **values: Any) -> int:
    key = connection.execute(sa.insert(table), values).inserted_primary_key
    return int(key[0])  # type: ignore[index]  # one row in, one key out


def _pairs(connection: sa.Connection, query: sa.Select[tuple[Any, int]]) -> dict[Any, int]:
    return {row[0]: row[1] for row in connection.execute(query)}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _keyed(of: Study, value: str) -> str:
    return hmac.new(bytes.fromhex(of.secret), value.encode(), hashlib.sha256).hexdigest()


def _token(of: Study, client_id: str) -> str:
    """Derive a client's session token: the same for a resent join, and stored nowhere."""
    return _keyed(of, f"session:{client_id}")
