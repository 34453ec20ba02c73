"""The database: studies, observers, trials and ratings, on SQLite or PostgreSQL.

Every public method is one short transaction. A rating is durable when :meth:`Store.rate`
returns, and a resend of it changes nothing. On SQLite writers take turns (write-ahead log, one
write lock taken at the start of the transaction), ratings that wait at the same time share one
transaction, readers never wait.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from percept.errors import InputError, PerceptError
from percept.store.connect import Database, connect
from percept.store.frames import Frames, Progress, Study, StudyState
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
from percept.store.together import Together

__all__ = [
    "Answer",
    "Conflict",
    "Given",
    "Joined",
    "Mark",
    "NotFound",
    "Progress",
    "Session",
    "Store",
    "Study",
    "Trial",
    "Usage",
    "open_store",
]

_T = TypeVar("_T")

#: A trial counts as used when it is rated, or while its session is younger than this.
RESERVATION = timedelta(hours=1)


class NotFound(PerceptError):
    """What was asked for does not exist, or belongs to someone else."""


class Conflict(PerceptError):
    """The request contradicts what is already saved; ``code`` is a short machine-readable word."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Session:
    """One sitting of one observer."""

    id: int
    study_id: int
    study_state: StudyState
    attributes: tuple[str, ...]
    finished_at: datetime | None
    completion: str | None
    trials: int
    group: str


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
        """Close, and remove the database again if opening created it."""
        self._database.discard()

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
            ``role, variant, sha256``.

        Raises
        ------
        InputError
            A study of that name exists.
        """
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
                state="open",
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
                )
        return self.study(name)

    def study_by_id(self, study_id: int) -> Study:
        """Get the study with that key."""
        with self._read() as connection:
            row = connection.execute(sa.select(study).where(study.c.id == study_id)).first()
        if row is None:
            raise NotFound("no such study")
        return Study(**row._mapping)

    def set_state(self, study_name: str, state: StudyState) -> Study:
        """Open, pause (nobody joins) or close (nobody joins or answers) a study."""
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
        crowd: Mapping[str, str] | None = None,
        simulated: bool = False,
        name: str | None = None,
        now: datetime | None = None,
    ) -> Joined:
        """Begin a session, or find the one that this client began before.

        ``assign(ordinal, usage)`` is called inside the transaction and returns the session's
        trials; ``ordinal`` counts the study's sessions from 0, ``usage`` is what is rated or
        reserved. Identifiers of a crowd platform are stored as keyed hashes alone.

        Raises
        ------
        Conflict
            The study is paused or closed (code ``paused``, ``closed``).
        """
        token = _token(of, client_id)
        client_sha256 = _sha256(client_id)
        now = now or datetime.now(UTC)
        with self._write() as connection:
            # The row's lock makes joins take turns on PostgreSQL too.
            state = connection.scalar(
                sa.select(study.c.state).where(study.c.id == of.id).with_for_update()
            )
            known = connection.scalar(
                sa.select(observer.c.id).where(
                    observer.c.study_id == of.id, observer.c.client_sha256 == client_sha256
                )
            )
            if known is not None:
                return Joined(token, created=False)
            if state != "open":
                raise Conflict(state or "closed", f"this study is {state}")
            ordinal = connection.scalar(
                sa.select(sa.func.count())
                .select_from(session.join(observer))
                .where(observer.c.study_id == of.id)
            )
            plan = assign(ordinal or 0, self._usage(connection, of.id, now))
            observer_id = _insert(
                connection,
                observer,
                study_id=of.id,
                name=name or f"o-{secrets.token_hex(4)}",
                client_sha256=client_sha256,
                group=group,
                invite=invite,
                crowd={key: _keyed(of, value) for key, value in crowd.items()} if crowd else None,
                consent_version=consent_version,
                consented_at=now if consent_version is not None else None,
                screening=dict(screening) if screening is not None else None,
                simulated=simulated,
                joined_at=now,
            )
            session_id = _insert(
                connection,
                session,
                observer_id=observer_id,
                token_sha256=_sha256(token),
                seed=ordinal or 0,
                attributes=list(plan.attributes),
                started_at=now,
            )
            trial_ids: dict[int, int] = {}
            presentations = []
            for position, planned in enumerate(plan.trials, start=1):
                trial_ids[position] = _insert(
                    connection,
                    trial,
                    session_id=session_id,
                    content_id=planned.content,
                    token=secrets.token_urlsafe(16),
                    position=position,
                    kind=planned.kind,
                    expected=planned.expected,
                    repeat_of=trial_ids[planned.repeat_of] if planned.repeat_of else None,
                )
                presentations += [
                    {
                        "trial_id": trial_ids[position],
                        "stimulus_id": stimulus_id,
                        "role": role,
                        "token": secrets.token_urlsafe(16),
                    }
                    for role, stimulus_id in planned.images.items()
                ]
            connection.execute(sa.insert(presentation), presentations)
        return Joined(token, created=True)

    def _usage(self, connection: sa.Connection, study_id: int, now: datetime) -> Usage:
        first = presentation.alias("first")
        second = presentation.alias("second")
        rated = sa.exists().where(rating.c.trial_id == trial.c.id)
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
                trial.c.kind == "test",
                rated | (session.c.started_at > now - RESERVATION),
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
            study_state=row.state,
            attributes=tuple(row.attributes),
            finished_at=row.finished_at,
            completion=row.completion,
            trials=row.trials,
            group=row.group,
        )

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
            )
            for row in rows
        ]

    def shown(self, of: Session) -> dict[str, tuple[str, str | None]]:
        """Tell (content_id, condition) of each image token of a session; never for clients."""
        query = (
            sa.select(presentation.c.token, content.c.name, condition.c.name)
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
        return {row[0]: (row[1], row[2]) for row in rows}

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
            The trial or the attribute is not of this session.
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
                raise NotFound("no such session")
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


def _insert(connection: sa.Connection, table: sa.Table, **values: Any) -> int:
    key = connection.execute(sa.insert(table), values).inserted_primary_key
    return int(key[0])  # type: ignore[index]  # one row in, one key out


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _keyed(of: Study, value: str) -> str:
    return hmac.new(bytes.fromhex(of.secret), value.encode(), hashlib.sha256).hexdigest()


def _token(of: Study, client_id: str) -> str:
    """Derive a client's session token: the same for a resent join, and stored nowhere."""
    return _keyed(of, f"session:{client_id}")
