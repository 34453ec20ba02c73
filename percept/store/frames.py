"""Reading a study as tidy frames, and how far it is."""

from __future__ import annotations

import threading
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd
import sqlalchemy as sa

from percept.errors import InputError
from percept.store.schema import (
    UtcDateTime,
    condition,
    content,
    event,
    invite,
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
from percept.types import MARK_COLUMNS, METHOD_COLUMNS, RATING_COLUMNS

StudyState = Literal["open", "paused", "closed"]


@dataclass(frozen=True)
class Study:
    """One launched use of a protocol, with the rule's text and hash frozen into it."""

    id: int
    name: str
    method: str
    protocol: str
    protocol_sha256: str
    run_path: str
    state: StudyState
    seed: int
    info: dict[str, Any]
    created_at: datetime
    closed_at: datetime | None
    stimuli_path: str | None
    secret: str = field(repr=False)

    @property
    def imported(self) -> bool:
        """Whether its votes were made elsewhere: there is nothing to show."""
        return "imported" in self.info


@dataclass(frozen=True)
class Invite:
    """An invitation: a link for one person, or for several."""

    code: str = field(repr=False)
    label: str
    group: str | None
    uses: int
    max_uses: int | None
    """None: any number."""
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class Progress:
    """How far a study is, for its administrator."""

    observers: int
    """Who joined, those who withdrew included."""
    simulated: int
    screened_out: int
    withdrawn: int
    sessions: int
    finished: int
    active: int
    trials: int
    rated_trials: int
    ratings: int
    """All answers, those that were taken back included."""
    skips: int
    repeats: int
    repeats_alike: int
    """Questions of repeated trials that were judged both times, and those judged alike."""
    golds: Mapping[tuple[str, str], int]
    """Judged answers to golds by (expected, given); ``percept.design.passes`` compares."""
    last_rating_at: datetime | None
    median_response_time_ms: float | None
    by_group: Mapping[str, int]
    by_unit: pd.DataFrame
    """Judged test trials, skips left out: left, right, trials (pairs) or condition, trials."""


class Frames:
    """The reading half of :class:`percept.store.store.Store`."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._local = threading.local()

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        if (current := getattr(self._local, "connection", None)) is not None:
            yield current
            return
        with self.engine.connect() as connection:
            yield connection

    def _frame(self, query: sa.Select[Any]) -> pd.DataFrame:
        """Rows of a query; columns have their types even where there are no rows."""
        with self._read() as connection:
            rows = connection.execute(query).all()
        return pd.DataFrame(
            {
                column.name: pd.Series([row[index] for row in rows], dtype=_dtype(column))
                for index, column in enumerate(query.selected_columns)
            }
        )

    def studies(self) -> list[Study]:
        """All studies, oldest first."""
        with self._read() as connection:
            rows = connection.execute(sa.select(study).order_by(study.c.id))
            return [Study(**row._mapping) for row in rows]

    def study(self, name: str) -> Study:
        """Get the study of that name.

        Raises
        ------
        InputError
            There is none; the message names those that exist.
        """
        with self._read() as connection:
            row = connection.execute(sa.select(study).where(study.c.name == name)).first()
        if row is None:
            names = ", ".join(repr(one.name) for one in self.studies()) or "none yet"
            raise InputError("no such study", key="study", value=name, remedy=f"There: {names}")
        return Study(**row._mapping)

    def conditions(self, of: Study) -> pd.DataFrame:
        """Conditions: ``condition, spec, arm, seed, sha256``, in the run's order."""
        query = sa.select(
            condition.c.name.label("condition"),
            condition.c.spec,
            condition.c.arm,
            condition.c.seed,
            condition.c.sha256,
        ).where(condition.c.study_id == of.id)
        return self._frame(query.order_by(condition.c.id))

    def contents(self, of: Study) -> pd.DataFrame:
        """Photographs: ``content_id``, size of the images, and the manifest's facts."""
        query = sa.select(
            content.c.name.label("content_id"),
            content.c.sha256,
            content.c.width,
            content.c.height,
            content.c.era,
            content.c.process,
            content.c.degradation,
            content.c.stratum,
            content.c.weight,
            content.c.source,
            content.c.license,
        ).where(content.c.study_id == of.id)
        return self._frame(query.order_by(content.c.id))

    def stimuli(self, of: Study) -> pd.DataFrame:
        """List the images: ``id, content, content_id, condition, role, variant, sha256, …``.

        ``content`` is the key inside the database, ``content_id`` the manifest's; ``retired``,
        and ``source_sha256`` of the run's image that it was made from, where that is known.
        """
        query = (
            sa.select(
                stimulus.c.id,
                content.c.id.label("content"),
                content.c.name.label("content_id"),
                condition.c.name.label("condition"),
                stimulus.c.role,
                stimulus.c.variant,
                stimulus.c.sha256,
                stimulus.c.retired_at.is_not(None).label("retired"),
                stimulus.c.source_sha256,
            )
            .select_from(stimulus.join(content).outerjoin(condition))
            .where(content.c.study_id == of.id)
        )
        return self._frame(query.order_by(stimulus.c.id))

    def observers(self, of: Study) -> pd.DataFrame:
        """Observers: ``observer, group, invite, consent_version, screening, simulated, …``."""
        query = sa.select(
            observer.c.name.label("observer"),
            observer.c.group,
            # The label: the code would let others in.
            sa.func.coalesce(invite.c.label, observer.c.invite).label("invite"),
            observer.c.crowd,
            observer.c.consent_version,
            observer.c.consented_at,
            observer.c.screening,
            observer.c.simulated,
            observer.c.joined_at,
            observer.c.withdrawn_at,
            observer.c.screened_out,
        ).where(observer.c.study_id == of.id)
        query = query.select_from(
            observer.outerjoin(
                invite,
                (invite.c.study_id == observer.c.study_id) & (invite.c.code == observer.c.invite),
            )
        )
        return self._frame(query.order_by(observer.c.id))

    def invites(self, of: Study) -> pd.DataFrame:
        """Invitations: ``code, label, group, uses, max_uses, created_at, revoked_at``."""
        columns = [column for column in invite.c if column.name not in ("id", "study_id")]
        query = sa.select(*columns).where(invite.c.study_id == of.id)
        return self._frame(query.order_by(invite.c.id))

    def sessions(self, of: Study) -> pd.DataFrame:
        """Sessions: ``session, observer, group, simulated, trials, rated_trials, …``."""
        trials = (
            sa.select(sa.func.count())
            .where(trial.c.session_id == session.c.id)
            .correlate(session)
            .scalar_subquery()
        )
        rated = (
            sa.select(sa.func.count(sa.distinct(rating.c.trial_id)))
            .select_from(rating.join(trial))
            .where(trial.c.session_id == session.c.id)
            .correlate(session)
            .scalar_subquery()
        )
        query = (
            sa.select(
                session.c.id.label("session"),
                observer.c.name.label("observer"),
                observer.c.group,
                observer.c.simulated,
                trials.label("trials"),
                rated.label("rated_trials"),
                session.c.started_at,
                session.c.finished_at,
                session.c.completion,
            )
            .select_from(session.join(observer))
            .where(observer.c.study_id == of.id)
        )
        return self._frame(query.order_by(session.c.id))

    def events(self, of: Study) -> pd.DataFrame:
        """Return the event log: ``session, trial, name, data, happened_at, received_at``."""
        query = (
            sa.select(
                event.c.session_id.label("session"),
                event.c.trial_id.label("trial"),
                event.c.name,
                event.c.data,
                event.c.happened_at,
                event.c.received_at,
            )
            .select_from(event.join(session).join(observer))
            .where(observer.c.study_id == of.id)
        )
        return self._frame(query.order_by(event.c.id))

    def notes(self, of: Study) -> pd.DataFrame:
        """Free text and reasons of skips: ``response_id, attribute, value, reason, comment, …``."""
        query = (
            sa.select(
                rating.c.response_id,
                rating.c.attribute,
                rating.c.revision,
                rating.c.value,
                rating.c.reason,
                rating.c.comment,
                mark.c.artifact,
                mark.c.note,
            )
            .select_from(rating.join(trial).join(session).join(observer).outerjoin(mark))
            .where(
                observer.c.study_id == of.id,
                rating.c.reason.is_not(None)
                | rating.c.comment.is_not(None)
                | mark.c.note.is_not(None),
            )
        )
        return self._frame(query.order_by(rating.c.id, mark.c.id))

    def marks(self, of: Study | str) -> pd.DataFrame:
        """Every mark: ``MARK_COLUMNS``; ``response_id`` leads to the rating that it is of.

        ``condition`` is that of the marked image, in a pair that of the losing one. ``mask`` is
        text; :func:`percept.store.masks.decode_mask` reads it.
        """
        of = self.study(of) if isinstance(of, str) else of
        query = (
            sa.select(
                rating.c.response_id,
                rating.c.revision,
                observer.c.name.label("observer"),
                trial.c.id.label("trial"),
                trial.c.kind,
                rating.c.attribute,
                content.c.name.label("content"),
                condition.c.name.label("condition"),
                mark.c.artifact,
                mark.c.severity,
                mark.c.x,
                mark.c.y,
                mark.c.width,
                mark.c.height,
                mark.c.shape,
                mark.c.mask,
                mark.c.note,
            )
            .select_from(
                mark.join(rating)
                .join(trial)
                .join(session)
                .join(observer)
                .join(content, trial.c.content_id == content.c.id)
                .join(
                    presentation,
                    (presentation.c.trial_id == trial.c.id) & (presentation.c.role == mark.c.role),
                )
                .join(stimulus, presentation.c.stimulus_id == stimulus.c.id)
                .outerjoin(condition, stimulus.c.condition_id == condition.c.id)
            )
            .where(observer.c.study_id == of.id)
        )
        return self._frame(query.order_by(rating.c.id, mark.c.id))[list(MARK_COLUMNS)]

    def ratings(self, of: Study | str) -> pd.DataFrame:
        """Every rating as a tidy frame: ``RATING_COLUMNS``, then ``METHOD_COLUMNS[method]``.

        All revisions are there (the last one counts), and all kinds of trials. For the artifact
        method a rating has one row for each mark, and one with a null ``artifact`` where none
        was seen. Where one image is judged at a time, a trial whose last answer is a skip has no
        rows. Real or fake: ``choice`` (and ``expected``) is the side that was taken for real,
        whichever side the protocol asks for.
        """
        of = self.study(of) if isinstance(of, str) else of
        columns = [*RATING_COLUMNS, *METHOD_COLUMNS[of.method]]
        pairs = "left" in columns
        source: Any = rating.join(trial).join(session).join(observer)
        source = source.join(content, trial.c.content_id == content.c.id)
        names: list[sa.ColumnElement[Any]] = []
        for role in ("left", "right") if pairs else ("stimulus",):
            shown = (
                sa.select(presentation.c.trial_id, condition.c.name)
                .select_from(presentation.join(stimulus).outerjoin(condition))
                .where(presentation.c.role == role)
                .subquery(role)
            )
            source = source.outerjoin(shown, shown.c.trial_id == trial.c.id)
            names.append(shown.c.name.label(role if pairs else "condition"))
        order: list[sa.ColumnElement[Any]] = [rating.c.id]
        if of.method == "artifact":
            names += [mark.c[name] for name in METHOD_COLUMNS["artifact"][1:]]
            source = source.outerjoin(mark, mark.c.rating_id == rating.c.id)
            order.append(mark.c.id)
        query = (
            sa.select(
                observer.c.name.label("observer"),
                observer.c.group.label("group"),
                session.c.id.label("session"),
                trial.c.id.label("trial"),
                rating.c.attribute,
                content.c.name.label("content"),
                trial.c.kind,
                trial.c.expected,
                trial.c.repeat_of,
                rating.c.response_id,
                rating.c.revision,
                rating.c.response_time_ms,
                rating.c.presented_at,
                rating.c.rated_at,
                observer.c.simulated,
                rating.c.value,
                rating.c.reasons,
                *names,
            )
            .select_from(source)
            .where(observer.c.study_id == of.id)
        )
        frame = self._frame(query.order_by(*order))
        frame["study"] = of.name
        frame["method"] = of.method
        if not pairs:
            keys = ["trial", "attribute"]
            newest = frame.groupby(keys)["revision"].transform("max")
            skipped = frame.loc[(frame["revision"] == newest) & (frame["value"] == "skip"), keys]
            gone = pd.MultiIndex.from_frame(frame[keys]).isin(pd.MultiIndex.from_frame(skipped))
            frame = frame[~gone].reset_index(drop=True)
        if of.method == "real_or_fake" and _asks(of) == "fake":
            for column in ("value", "expected"):
                frame[column] = frame[column].replace({"left": "right", "right": "left"})
        if of.method == "artifact":
            frame = frame.astype({"severity": "float64"})
        elif of.method == "rating":
            # A skip that was taken back stays a row, without a score.
            frame["score"] = pd.to_numeric(frame["value"].replace("skip", None)).astype("float64")
        elif of.method == "review":
            frame["reason"] = [";".join(one) if one else None for one in frame["reasons"]]
        if of.imported:  # 0 stands for a time that was not told
            frame["response_time_ms"] = frame["response_time_ms"].replace(0.0, float("nan"))
        answer = {"review": "verdict"}.get(of.method, "choice")
        return frame.rename(columns={"value": answer})[columns]

    def votes(self, of: Study, attribute: str) -> pd.DataFrame:
        """Votes on test pairs that count: ``left, right`` (conditions), ``choice, count``."""
        left, right = (condition.alias(side) for side in ("left", "right"))
        query = (
            sa.select(
                left.c.name.label("left"),
                right.c.name.label("right"),
                rating.c.value.label("choice"),
                sa.func.count().label("count"),
            )
            .select_from(_shown(_ANSWERS, left=left, right=right))
            .where(
                observer.c.study_id == of.id,
                trial.c.kind == "test",
                rating.c.attribute == attribute,
                rating.c.value != "skip",
                _COUNTS,
            )
            .group_by(left.c.name, right.c.name, rating.c.value)
        )
        return self._frame(query.order_by(left.c.name, right.c.name, rating.c.value))

    def gold_answers(self, of: Study, attribute: str) -> pd.DataFrame:
        """Answers to golds that count, practice apart: ``observer, stimulus, expected, value``."""
        query = (
            sa.select(
                observer.c.name.label("observer"),
                stimulus.c.id.label("stimulus"),
                trial.c.expected,
                rating.c.value,
            )
            .select_from(
                _ANSWERS.join(presentation, presentation.c.trial_id == trial.c.id).join(stimulus)
            )
            .where(
                observer.c.study_id == of.id,
                trial.c.kind == "gold",
                stimulus.c.role == "gold",
                rating.c.attribute == attribute,
                _COUNTS,
            )
        )
        return self._frame(query.order_by(rating.c.id))

    def progress(self, of: Study) -> Progress:
        """How far a study is; nothing of it says which condition people prefer."""
        count = sa.func.count()
        here = observer.c.study_id == of.id
        judged = rating.c.value != "skip"

        def total(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
            return sa.func.coalesce(sa.func.sum(sa.case((sa.and_(*conditions), 1), else_=0)), 0)

        joined = ~observer.c.screened_out
        people = sa.select(
            total(joined),
            total(joined, observer.c.simulated),
            total(observer.c.screened_out),
            total(observer.c.withdrawn_at.is_not(None)),
        ).where(here)
        sittings = (
            sa.select(count, sa.func.count(session.c.finished_at))
            .select_from(session.join(observer))
            .where(here, observer.c.withdrawn_at.is_(None))
        )
        assigned = (
            sa.select(count)
            .select_from(trial.join(session).join(observer))
            .where(here, observer.c.withdrawn_at.is_(None))
        )
        since = datetime.now(UTC) - timedelta(minutes=10)
        recent = sa.and_(rating.c.rated_at > since, session.c.finished_at.is_(None))
        answers = (
            sa.select(
                count,
                sa.func.count(sa.distinct(rating.c.trial_id)),
                sa.func.count(sa.distinct(sa.case((recent, session.c.id)))),
                total(~judged, _COUNTS),
                sa.func.max(rating.c.rated_at),
            )
            .select_from(_ANSWERS)
            .where(here)
        )
        controls = (
            sa.select(trial.c.expected, rating.c.value, count)
            .select_from(_ANSWERS)
            .where(here, trial.c.kind == "gold", judged, _COUNTS)
            .group_by(trial.c.expected, rating.c.value)
        )
        groups = sa.select(observer.c.group, count).where(here, joined).group_by(observer.c.group)
        # A repeat is alike where it was answered as the first time, by image, not by side.
        first, first_trial = rating.alias("first"), trial.alias("first_trial")
        paired = of.method in ("pairwise", "real_or_fake")
        mirrored = sa.case(
            {"left": "right", "right": "left"}, value=rating.c.value, else_=rating.c.value
        )
        repeats = (
            sa.select(count, total(first.c.value == (mirrored if paired else rating.c.value)))
            .select_from(
                _ANSWERS.join(first_trial, first_trial.c.id == trial.c.repeat_of).join(
                    first,
                    (first.c.trial_id == first_trial.c.id)
                    & (first.c.attribute == rating.c.attribute),
                )
            )
            .where(here, judged, first.c.value != "skip", _COUNTS, _counts(first))
        )
        sides = {
            side: condition.alias(side) for side in (("left", "right") if paired else ("stimulus",))
        }
        names = [one.c.name for one in sides.values()]
        units = (
            sa.select(*names, sa.func.count(sa.distinct(trial.c.id)))
            .select_from(_shown(_ANSWERS, **sides))
            .where(here, trial.c.kind == "test", judged, _COUNTS)
            .group_by(*names)
        )
        with self._read() as connection:
            observers, simulated, screened_out, withdrawn = connection.execute(people).one()
            sessions, finished = connection.execute(sittings).one()
            trials = connection.scalar(assigned)
            ratings, rated, active, skips, last = connection.execute(answers).one()
            by_group = {str(row[0]): int(row[1]) for row in connection.execute(groups)}
            golds = {(row[0], row[1]): int(row[2]) for row in connection.execute(controls)}
            both, alike = connection.execute(repeats).one()
            median = self._median_time(connection, of)
            by_unit: Counter[tuple[str, ...]] = Counter()
            for *unit, n in connection.execute(units):  # A against B, whichever side they were on
                by_unit[tuple(sorted(unit))] += n
        columns = ["left", "right"] if paired else ["condition"]
        return Progress(
            observers=int(observers),
            simulated=int(simulated),
            screened_out=int(screened_out),
            withdrawn=int(withdrawn),
            sessions=sessions,
            finished=finished,
            active=active,
            trials=trials or 0,
            rated_trials=rated,
            ratings=ratings,
            skips=int(skips),
            repeats=both,
            repeats_alike=int(alike),
            golds=golds,
            last_rating_at=last,
            median_response_time_ms=median,
            by_group=by_group,
            by_unit=pd.DataFrame(
                [(*unit, n) for unit, n in sorted(by_unit.items())], columns=[*columns, "trials"]
            ),
        )

    @staticmethod
    def _median_time(connection: sa.Connection, of: Study) -> float | None:
        told = (observer.c.study_id == of.id, rating.c.response_time_ms > 0)
        n = connection.scalar(sa.select(sa.func.count()).select_from(_ANSWERS).where(*told)) or 0
        if not n:
            return None
        middle = connection.scalars(
            sa.select(rating.c.response_time_ms)
            .select_from(_ANSWERS)
            .where(*told)
            .order_by(rating.c.response_time_ms)
            .offset((n - 1) // 2)
            .limit(2 - n % 2)
        ).all()
        return float(sum(middle) / len(middle))

    def looks(self, of: Study) -> pd.DataFrame:
        """Return the logged looks at results: ``what, looked_at``."""
        query = sa.select(look.c.what, look.c.looked_at).where(look.c.study_id == of.id)
        return self._frame(query.order_by(look.c.id))


def _counts(answer: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether an answer is the last of its trial and attribute."""
    later = rating.alias()
    return ~sa.exists().where(
        later.c.trial_id == answer.c.trial_id,
        later.c.attribute == answer.c.attribute,
        later.c.revision > answer.c.revision,
    )


_ANSWERS = rating.join(trial).join(session).join(observer)
_COUNTS = _counts(rating)


def _shown(source: Any, **conditions: sa.FromClause) -> Any:
    """Join the conditions that a trial shows, by role."""
    for role, named in conditions.items():
        seen, image = presentation.alias(), stimulus.alias()
        source = (
            source.join(seen, (seen.c.trial_id == trial.c.id) & (seen.c.role == role))
            .join(image, image.c.id == seen.c.stimulus_id)
            .join(named, named.c.id == image.c.condition_id)
        )
    return source


def _asks(of: Study) -> str:
    """Which side a real-or-fake study asks for."""
    return str(tomllib.loads(of.protocol).get("asks", "fake"))


def _dtype(column: sa.ColumnElement[Any]) -> str | None:
    """Pandas type of a selected column; None (inferred) for text and JSON."""
    if isinstance(column.type, UtcDateTime):
        return "datetime64[us, UTC]"
    if column.type.python_type is int:
        nullable = getattr(getattr(column, "element", column), "nullable", False)
        return "Int64" if nullable else "int64"
    return {float: "float64", bool: "bool"}.get(column.type.python_type)
