"""The tables. ``migrations/`` creates them; a test holds the two together.

Labels that people chose (a study's, a condition's, a photograph's) are columns called ``name``;
``id`` is a key inside this database and means nothing elsewhere. Times are UTC. Ratings are
only ever added: an undo is a new revision, and the last one counts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)

#: The revision of ``migrations/`` that this module describes.
REVISION = "0003"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, kept as UTC (SQLite has no time zones of its own)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times, turn the rest into UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a time zone: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _key() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _to(target: str, *, optional: bool = False, **options: Any) -> Column[int]:
    return Column(f"{target}_id", Integer, ForeignKey(f"{target}.id"), nullable=optional, **options)


study = Table(
    "study",
    metadata,
    _key(),
    Column("name", String(200), nullable=False, unique=True),
    Column("method", String(20), nullable=False),
    Column("protocol", Text, nullable=False),
    Column("protocol_sha256", String(64), nullable=False),
    Column("run_path", Text, nullable=False),
    Column("stimuli_path", Text),  # null: the folder beside the database
    Column("state", String(10), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("secret", String(64), nullable=False),  # keys the tokens and the crowd hashes
    Column("info", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    CheckConstraint("state IN ('open', 'paused', 'closed')", name="state"),
)

condition = Table(
    "condition",
    metadata,
    _key(),
    _to("study"),
    Column("name", String(200), nullable=False),
    Column("spec", Text, nullable=False),
    Column("arm", String(200)),
    Column("seed", BigInteger),
    Column("sha256", String(64)),
    UniqueConstraint("study_id", "name"),
)

content = Table(
    "content",
    metadata,
    _key(),
    _to("study"),
    Column("name", String(200), nullable=False),
    Column("sha256", String(64), nullable=False),  # of the photograph's file
    Column("width", Integer, nullable=False),  # of all its rendered images
    Column("height", Integer, nullable=False),
    Column("era", Text),
    Column("process", Text),
    Column("degradation", Text),
    Column("stratum", Text),
    Column("weight", Float),
    Column("source", Text),
    Column("license", Text),
    UniqueConstraint("study_id", "name"),
)

# role: "test" (content × condition), "original" (the grey photograph on view), "gold" (made
# from a test stimulus so that the answer is beyond taste; ``variant`` says how).
stimulus = Table(
    "stimulus",
    metadata,
    _key(),
    _to("content"),
    _to("condition", optional=True),
    Column("role", String(10), nullable=False),
    Column("variant", String(100), nullable=False, server_default=""),
    Column("sha256", String(64), nullable=False),  # of the PNG, and its file name
    Column("retired_at", UtcDateTime),  # a gold that sound observers miss
    Column("retired_reason", Text),
    Column("source_sha256", String(64)),  # of the run's image; null before revision 0003
    UniqueConstraint("content_id", "condition_id", "role", "variant"),
    CheckConstraint("role IN ('test', 'original', 'gold')", name="role"),
)

# A link for one person or several; ``observer.invite`` holds the code.
invite = Table(
    "invite",
    metadata,
    _key(),
    _to("study"),
    Column("code", String(100), nullable=False),
    Column("label", String(200), nullable=False),
    Column("group", String(40)),  # null: the observer says
    Column("uses", Integer, nullable=False),
    Column("max_uses", Integer),  # null: any number
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    UniqueConstraint("study_id", "code"),
)

observer = Table(
    "observer",
    metadata,
    _key(),
    _to("study"),
    Column("name", String(60), nullable=False),
    Column("client_sha256", String(64)),  # null once withdrawn
    Column("group", String(40), nullable=False),
    Column("invite", String(100)),
    Column("crowd", JSON),  # keyed hashes of what a crowd platform passed
    Column("consent_version", String(300)),
    Column("consented_at", UtcDateTime),
    Column("screening", JSON),
    Column("simulated", Boolean, nullable=False),
    Column("joined_at", UtcDateTime, nullable=False),
    Column("withdrawn_at", UtcDateTime),  # all that was personal is gone then
    Column("screened_out", Boolean, nullable=False, server_default=false()),  # without a session
    UniqueConstraint("study_id", "name"),
    UniqueConstraint("study_id", "client_sha256"),
)

session = Table(
    "session",
    metadata,
    _key(),
    _to("observer", index=True),
    Column("token_sha256", String(64), unique=True),
    Column("seed", Integer, nullable=False),
    Column("attributes", JSON, nullable=False),  # names, in the order they are asked
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("completion", String(40)),
)

trial = Table(
    "trial",
    metadata,
    _key(),
    _to("session"),
    _to("content", index=True),
    Column("token", String(32), nullable=False, unique=True),
    Column("position", Integer, nullable=False),  # from 1
    Column("kind", String(10), nullable=False),
    Column("expected", String(20)),
    Column("repeat_of", Integer, ForeignKey("trial.id")),
    UniqueConstraint("session_id", "position"),
    CheckConstraint("kind IN ('test', 'practice', 'gold', 'repeat', 'identical')", name="kind"),
)

# What was on the screen: one row for each image of a trial.
presentation = Table(
    "presentation",
    metadata,
    _key(),
    _to("trial"),
    _to("stimulus", index=True),
    Column("role", String(10), nullable=False),
    Column("token", String(32), nullable=False, unique=True),
    UniqueConstraint("trial_id", "role"),
    CheckConstraint("role IN ('left', 'right', 'stimulus', 'reference')", name="role"),
)

rating = Table(
    "rating",
    metadata,
    _key(),
    _to("trial"),
    Column("attribute", String(40), nullable=False),
    Column("revision", Integer, nullable=False),  # from 1
    Column("response_id", String(64), nullable=False, unique=True),
    Column("value", String(20), nullable=False),
    Column("reason", Text),  # of a skip
    Column("reasons", JSON),  # of a review: names
    Column("comment", Text),
    Column("response_time_ms", Float, nullable=False),
    Column("presented_at", UtcDateTime, nullable=False),  # the client's clock
    Column("rated_at", UtcDateTime, nullable=False),  # the server's clock
    UniqueConstraint("trial_id", "attribute", "revision"),
    CheckConstraint("revision >= 1", name="revision"),
    CheckConstraint("response_time_ms >= 0", name="response_time_ms"),
)

mark = Table(
    "mark",
    metadata,
    _key(),
    _to("rating", index=True),
    Column("role", String(10), nullable=False),  # which image of the trial
    Column("artifact", String(40), nullable=False),
    Column("severity", Integer),
    Column("shape", String(10), nullable=False),
    Column("x", Float, nullable=False),  # fractions of the image; of a mask, its bounding box
    Column("y", Float, nullable=False),
    Column("width", Float, nullable=False),
    Column("height", Float, nullable=False),
    Column("mask", Text),  # run lengths
    Column("note", Text),  # free text
    CheckConstraint("shape IN ('rectangle', 'mask')", name="shape"),
    CheckConstraint(
        "x >= 0 AND y >= 0 AND width > 0 AND height > 0 AND x + width <= 1.000001 "
        "AND y + height <= 1.000001",
        name="inside",
    ),
)

event = Table(
    "event",
    metadata,
    _key(),
    _to("session", index=True),
    _to("trial", optional=True),
    Column("name", String(40), nullable=False),
    Column("data", JSON),
    Column("happened_at", UtcDateTime, nullable=False),  # the client's clock
    Column("received_at", UtcDateTime, nullable=False),
)

# Every look at results before closing, so that a report can say how often people peeked.
look = Table(
    "look",
    metadata,
    _key(),
    _to("study", index=True),
    Column("what", String(100), nullable=False),
    Column("looked_at", UtcDateTime, nullable=False),
)
