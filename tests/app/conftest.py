"""One server and one browser for all tests of the app."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from percept.store import Store, Study, open_store
from percept.study import create_study, simulate
from tests.tiny_run import make_run, tiny_protocol

TOKEN = "token-of-the-tests"
PAIRWISE = {"trials": 5, "practice": 2, "repeats": 1, "break_every": 4}
ARTIFACT = {"trials": 3, "practice": 1, "repeats": 0, "break_every": 0}
TIMING = {"isi_ms": 300, "min_view_ms": 200}


@dataclass(frozen=True)
class Server:
    """A running `percept app` and its database."""

    base: str
    store: Store
    output: str
    process: subprocess.Popen[str]

    def study(self, name: str) -> Study:
        return self.store.study(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(db: str, port: int) -> tuple[subprocess.Popen[str], str]:
    """Start `percept app` and read what it prints until it serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "percept", "app", "--db", db, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PERCEPT_ADMIN_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "/admin?token=" in line:
            return process, "".join(lines)
    raise AssertionError(f"percept app ended with {process.wait()}: {''.join(lines)}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("app")
    run = make_run(folder, size=(480, 320))
    db = f"sqlite:///{folder / 'study.db'}"
    with open_store(db, create=True) as store:
        for name, method, values in (
            ("pairs", "pairwise", PAIRWISE),
            ("quick", "pairwise", {**PAIRWISE, "practice": 0, "break_every": 0}),
            ("marks", "artifact", ARTIFACT),
        ):
            protocol = tiny_protocol(method, **values, **TIMING, context=["era", "process"])
            create_study(run, protocol, store, name)
        create_study(run, tiny_protocol(**PAIRWISE), store, "copy")
        simulate(store, store.study("copy"), 2, seed=1)
        port = free_port()
        process, output = start(db, port)
        try:
            yield Server(f"http://localhost:{port}", store, output, process)
        finally:
            process.terminate()
            process.wait(timeout=20)
