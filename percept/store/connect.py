"""Opening a database: which one, whether it is ours, and its tables brought up to date."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from percept.errors import InputError
from percept.store import schema


@dataclass(frozen=True)
class Database:
    """An engine, and for SQLite its file; ``created`` if opening made that file."""

    engine: sa.Engine
    file: Path | None
    created: bool

    def begin(self) -> AbstractContextManager[sa.Connection]:
        """Begin a transaction that writes; on SQLite it holds the write lock from the start."""
        return self.engine.execution_options(percept_write=True).begin()

    def revive(self) -> None:
        """Make the file again where another process, which made it, has removed it since."""
        if self.file is not None and not self.file.exists():
            self.engine.dispose()
            _migrate(self, str(self.file), create=True)

    def remove(self) -> None:
        """Remove the file; a no-op on a server."""
        if self.file is not None:
            for suffix in ("", "-wal", "-shm", "-journal"):
                self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)

    def discard(self) -> None:
        """Close, and remove the file again if opening made it."""
        self.engine.dispose()
        if self.created:
            self.remove()


def connect(url: str | Path, *, create: bool) -> Database:
    """Open a database; see :func:`percept.store.store.open_store`."""
    text = str(url)
    try:
        is_url = "://" in text
        parsed = sa.make_url(text) if is_url else sa.URL.create("sqlite", database=text)
    except (ArgumentError, ValueError) as error:  # a port that is no number is the latter
        raise InputError(
            "not a database URL",
            key="db",
            value=re.sub(r":[^:/@]*@", ":***@", text),
            remedy="Use sqlite:///FILE, a file name, or postgresql://USER@HOST/NAME",
        ) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername.partition("+")[0] not in ("sqlite", "postgresql"):
        raise InputError(
            "databases of this kind are not supported",
            key="db",
            value=shown,
            remedy="Use sqlite:///FILE or postgresql://USER@HOST/NAME",
        )
    file: Path | None = None
    created = False
    if parsed.get_backend_name() == "sqlite":
        file = _check_sqlite_file(parsed, text, create=create)
        created = not file.exists()
    try:
        if file is not None:
            engine = _sqlite_engine(file)
        else:
            engine = sa.create_engine(parsed, pool_size=16, max_overflow=48, pool_pre_ping=True)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError(
            "the driver for PostgreSQL is not installed",
            key="db",
            value=shown,
            remedy='pip install "percept[postgresql]"',
        ) from error
    database = Database(engine, file, created)
    try:
        _migrate(database, shown, create=create)
    except DBAPIError as error:
        database.discard()
        raise InputError(
            f"the database cannot be opened: {str(error.orig).strip()}",
            key="db",
            value=shown,
            remedy="Check that it exists, runs, and may be written by you",
        ) from error
    except BaseException:
        database.discard()
        raise
    return database


def _check_sqlite_file(parsed: sa.URL, text: str, *, create: bool) -> Path:
    if not parsed.database or parsed.database == ":memory:":
        raise InputError("an SQLite database needs a file", key="db", value=text)
    file = Path(parsed.database).absolute()
    if not file.parent.is_dir():
        raise InputError(
            "the database cannot be opened: its folder does not exist",
            key="db",
            value=text,
            remedy=f"Create {file.parent} or check the path",
        )
    if not file.exists() and not create:
        raise InputError(
            "there is no database",
            key="db",
            value=text,
            remedy="Check the path; `percept study create` makes one",
        )
    if file.exists():
        try:
            with file.open("rb") as stream:
                head = stream.read(16)
        except OSError as error:
            raise InputError(
                f"the database cannot be opened: {error.strerror}", key="db", value=text
            ) from error
        # An empty file is what another process that is creating it has made so far.
        if head not in (b"SQLite format 3\0", b""):
            raise InputError(
                "the file is no SQLite database",
                key="db",
                value=text,
                remedy="Check the path; nothing was changed",
            )
    return file


def _sqlite_engine(file: Path) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(file)),
        connect_args={"timeout": 30},
        pool_size=16,
        max_overflow=48,
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # begin() below says when a transaction starts
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # a saved vote survives a power cut
        connection.execute("PRAGMA secure_delete = ON")  # what a withdrawal erases is overwritten

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later could find the lock taken and fail;
        # writers take it at the start.
        writes = connection.get_execution_options().get("percept_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _migrate(database: Database, shown: str, *, create: bool) -> None:
    """Create or upgrade the tables, or refuse a database that is not ours."""
    with database.engine.connect() as connection:  # one transaction: one state of the database
        tables = sa.inspect(connection).get_table_names()
        version = None
        if "alembic_version" in tables:
            version = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    if version == schema.REVISION:
        return
    # Late, because almost every start finds the tables up to date.
    import alembic.command
    import alembic.config
    import alembic.script

    config = alembic.config.Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    known = {one.revision for one in alembic.script.ScriptDirectory(folder).walk_revisions()}
    if version is not None and version not in known:
        raise InputError(
            f"the database has the unknown version {version!r}: a newer percept made it",
            key="db",
            value=shown,
            remedy="Update percept",
        )
    if version is None:
        if tables:
            raise InputError(
                "the database holds something else", key="db", value=shown, remedy="Use another"
            )
        if not create:
            raise InputError(
                "the database is empty",
                key="db",
                value=shown,
                remedy="`percept study create` fills it",
            )
        if database.file is not None:
            with database.engine.connect() as connection:
                raw = connection.connection.driver_connection
                if raw is not None:
                    raw.execute("PRAGMA journal_mode = WAL")  # stays with the file
    with database.begin() as connection:
        if database.file is None:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x70657263)))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
