from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from percept.inference.run import Run
from percept.store import Store, open_store
from percept.study import create_study
from tests import postgresql
from tests.tiny_run import make_run, tiny_protocol


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path: Path) -> Iterator[str]:
    """URL of a database that does not exist yet (SQLite) or is empty (PostgreSQL)."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
    else:
        with postgresql.database(request.getfixturevalue("postgresql_server")) as url:
            yield url


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def fill(store: Store, run: Run) -> None:
    for name, protocol in {
        "pairs": tiny_protocol(trials=6, practice=1, repeats=1),
        "marks": tiny_protocol("artifact", trials=4, practice=1, repeats=1),
    }.items():
        create_study(run, protocol, store, name, stimuli=run.root.parent / "stimuli")


@pytest.fixture(scope="session")
def template(run: Run) -> Path:
    """An SQLite database with the two studies, to be copied."""
    file = run.root.parent / "template.db"
    with open_store(file, create=True) as store:
        fill(store, run)
    return file


@pytest.fixture(scope="session")
def server_template(postgresql_server: str, run: Run) -> Iterator[str]:
    """The same on PostgreSQL: the name of a database to be copied."""
    with postgresql.database(postgresql_server) as url:
        with open_store(url, create=True) as store:
            fill(store, run)
        yield url.rpartition("/")[2].partition("?")[0]


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(request, tmp_path: Path) -> Iterator[str]:
    """URL of a database with the two studies."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("template"), tmp_path / "study.db")
        yield f"sqlite:///{tmp_path}/study.db"
        return
    server = request.getfixturevalue("postgresql_server")
    name = request.getfixturevalue("server_template")
    with postgresql.database(server, template=name) as url:
        yield url


@pytest.fixture
def store(filled: str) -> Iterator[Store]:
    """A store with a small pairwise study ``pairs`` and an artifact study ``marks``."""
    with open_store(filled) as store:
        yield store
