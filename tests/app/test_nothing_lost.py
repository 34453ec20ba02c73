"""Servers are killed under voters with bad lines; the long run is `benchmarks/no_vote_lost.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from percept.store import open_store
from percept.study import create_study, session_length
from tests import postgresql
from tests.app.crowd import Replica, judge, survive
from tests.app.crowd import run as run_in_thread
from tests.tiny_run import make_run, tiny_protocol

VOTERS, KILLS = 12, 2


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A database, and how many servers share it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'study.db'}", 1
    else:
        with postgresql.database(request.getfixturevalue("postgresql_server")) as url:
            yield url, 2


def test_a_killed_server_loses_and_doubles_nothing(
    database: tuple[str, int], tmp_path: Path
) -> None:
    url, servers = database
    with open_store(url, create=True) as store:
        protocol = tiny_protocol(trials=8, practice=1, repeats=1, identical=1, break_every=4)
        run = make_run(tmp_path)
        study = create_study(run, protocol, store, "pairs", stimuli=tmp_path / "stimuli")
        replicas = [Replica(url, log=tmp_path / f"log{n}") for n in range(servers)]
        try:
            length = session_length(store, study)
            crowd, kills = run_in_thread(
                survive(replicas, "pairs", voters=VOTERS, trials=length, kills=KILLS, seed=1)
            )
        finally:
            for replica in replicas:
                replica.stop()
        found = judge(store, "pairs", crowd)
        assert found["answers"] == VOTERS * length
        assert kills == KILLS
        assert found["no answer"] > 0, "the kills were not noticed: this test tests nothing"
        assert found["sent again"] > 0
        for log in tmp_path.glob("log*"):
            assert "Traceback" not in log.read_text()
