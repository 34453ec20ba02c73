from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import alembic.command
import alembic.config
import alembic.script
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from percept.errors import InputError
from percept.store import open_store, schema
from percept.store.store import Answer
from percept.study import join, protocol_of, rate


def test_migrations_make_exactly_the_schema(database) -> None:
    with open_store(database, create=True) as store, store.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
        checks = {
            check["name"]
            for table in schema.metadata.tables
            for check in sa.inspect(connection).get_check_constraints(table)
        }
    expected = {
        constraint.name
        for table in schema.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, sa.CheckConstraint)
    }
    assert checks == expected


def test_the_schema_names_the_newest_revision() -> None:
    config = alembic.config.Config()
    folder = os.path.join(os.path.dirname(schema.__file__), "migrations")
    config.set_main_option("script_location", folder)
    heads = alembic.script.ScriptDirectory.from_config(config).get_heads()
    assert heads == [schema.REVISION]


RELEASED = sorted((Path(__file__).parent / "schemas").glob("*.json"))


def test_every_released_schema_has_a_database_to_upgrade() -> None:
    assert [file.stem for file in RELEASED] == [
        f"{number:04d}" for number in range(1, int(schema.REVISION))
    ]


def restore(url: str, file: Path) -> None:
    """Make a database as that version of percept left it, rows included."""
    engine = sa.create_engine(sa.make_url(url).set(drivername=DRIVERS[url.partition(":")[0]]))
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, file.stem)
        tables = sa.MetaData()
        tables.reflect(connection)
        for name, rows in json.loads(file.read_text(encoding="utf-8")).items():
            table = tables.tables[name]
            times = {one.name for one in table.c if isinstance(one.type, sa.DateTime)}
            for row in rows:
                values = {
                    key: datetime.fromisoformat(value) if key in times and value else value
                    for key, value in row.items()
                }
                connection.execute(sa.insert(table).values(**values))
            if engine.dialect.name == "postgresql":
                key = f"pg_get_serial_sequence('{name}', 'id')"
                connection.execute(sa.text(f"SELECT setval({key}, max(id)) FROM {name}"))
    engine.dispose()


DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


@pytest.mark.parametrize("file", RELEASED, ids=[file.stem for file in RELEASED])
def test_a_database_of_an_older_percept_is_upgraded_with_all_its_rows(database, file) -> None:
    restore(database, file)
    before = json.loads(file.read_text(encoding="utf-8"))
    with open_store(database) as store:
        with store.engine.connect() as connection:
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, schema.metadata) == []
            for name, rows in before.items():
                count = sa.select(sa.func.count()).select_from(schema.metadata.tables[name])
                assert connection.scalar(count) == len(rows)
        pairs, marks = store.studies()
        assert store.ratings(pairs)["choice"].tolist() == ["left", "left"]
        assert store.ratings(marks)["artifact"].tolist() == ["other", "other"]
        assert store.marks(marks)["x"].tolist() == [0.1, 0.1]
        (observer,) = store.observers(pairs).to_dict("records")
        assert (observer["invite"], observer["screening"]) == ("old-invite", {"gamut": "p3"})
        assert not observer["screened_out"]
        assert store.progress(marks).rated_trials == 2
        # And it goes on: the same people come back, others join and answer.
        client = f"client-of-{pairs.name}-0001"
        assert not join(store, pairs, client, consent_version="1").created
        session = store.session(join(store, pairs, "client-0000000009", consent_version="1").token)
        (trial, *_) = store.trials(session, 0, 1)
        given = Answer("response-new", trial.token, "realism", "right", 1.0, pairs.created_at)
        assert rate(store, session, protocol_of(pairs), given)
        assert len(store.ratings(pairs)) == 3


def test_opening_again_changes_nothing(database) -> None:
    open_store(database, create=True).close()
    with open_store(database) as store:
        assert store.studies() == []


def test_sqlite_is_set_up_for_many_observers(tmp_path) -> None:
    with open_store(tmp_path / "a.db", create=True) as store, store.engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "synchronous": 2,
        "busy_timeout": 30_000,
    }


def test_processes_that_create_it_at_once_all_succeed(tmp_path) -> None:
    program = (
        "import sys; from percept.store import open_store; sys.stdin.read(); "
        "open_store(sys.argv[1], create=True).close()"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "a.db")], stdin=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for worker in workers:
        worker.stdin.close()
    assert [worker.wait() for worker in workers] == [0, 0]
    open_store(tmp_path / "a.db").close()


def test_a_missing_database_is_not_made_by_reading(tmp_path) -> None:
    with pytest.raises(InputError, match="there is no database"):
        open_store(tmp_path / "a.db")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_told(tmp_path) -> None:
    with pytest.raises(InputError, match="folder does not exist"):
        open_store(tmp_path / "no" / "a.db", create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["mongodb://x/y", "sqlite://", "://", "sqlite:///:memory:", "postgresql://me:hunter2@x:port/y"],
)
def test_what_is_no_database_url_is_told(url: str) -> None:
    with pytest.raises(InputError, match="'db'") as caught:
        open_store(url, create=True)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://someone:hunter2@host/x", "oracle://host/x"])
def test_other_kinds_of_databases_are_named_as_such(url: str) -> None:
    with pytest.raises(InputError, match="databases of this kind are not supported") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_a_file_name_may_have_a_question_mark(tmp_path) -> None:
    open_store(tmp_path / "really?.db", create=True).close()
    assert (tmp_path / "really?.db").is_file()


def test_a_server_that_does_not_answer_is_told_without_the_password() -> None:
    with pytest.raises(InputError, match="cannot be opened") as caught:
        open_store("postgresql://someone:hunter2@127.0.0.1:1/x", create=True)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("create", [True, False])
def test_another_kind_of_file_is_left_alone(tmp_path, create: bool) -> None:
    file = tmp_path / "photo.db"
    file.write_bytes(b"GIF89a and so on")
    with pytest.raises(InputError, match="no SQLite database"):
        open_store(file, create=create)
    assert file.read_bytes() == b"GIF89a and so on"


@pytest.mark.parametrize("create", [True, False])
def test_someone_elses_database_is_left_alone(tmp_path, create: bool) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE address (name TEXT)")
    before = file.read_bytes()
    with pytest.raises(InputError, match="holds something else"):
        open_store(file, create=create)
    assert file.read_bytes() == before


def test_a_database_of_a_newer_percept_is_refused(tmp_path) -> None:
    file = tmp_path / "a.db"
    open_store(file, create=True).close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match="newer percept"):
        open_store(file)


def test_a_migration_that_fails_leaves_no_file(tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(alembic.command, "upgrade", fail)
    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path / "a.db", create=True)
    assert list(tmp_path.iterdir()) == []
