"""One server and one browser for all tests of the app."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from percept.protocol import load_protocol
from percept.store import Store, Study, open_store
from percept.study import create_study, simulate
from tests.app.observer import Observer
from tests.tiny_run import CONDITIONS, make_run, tiny_protocol

Arrive = Callable[[str], Observer]

SIZES = [(1400, 900), (1024, 768), (768, 1024)]
PATIENCE_MS = 20_000  # for a busy machine; whatever is waited for, comes at once on a free one
expect.set_options(timeout=PATIENCE_MS)
TOKEN = "token-of-the-tests"
PAIRWISE = {"trials": 5, "practice": 2, "repeats": 1, "break_every": 4}
ARTIFACT = {"trials": 3, "practice": 1, "repeats": 0, "break_every": 0}
TIMING = {"isi_ms": 300, "min_view_ms": 200}
AT_ONCE = {"isi_ms": 0, "min_view_ms": 0}
FEW = {"trials": 2, "practice": 1, "repeats": 0, "break_every": 0, **AT_ONCE}
AIDS = ["zoom", "flicker", "slider", "original"]
TAXONOMY = (
    "[[artifacts]]"
    + load_protocol("artifact").text.partition("[[artifacts]]")[2].partition("[display]")[0]
)
SECOND_QUESTION = """
[[attributes]]
name = "period"
question = "Which fits the time better?"
"""
CHECKS = """
[checks]
color_vision = true
display = true
on_fail = "screen_out"

[[questions]]
name = "colour_work"
text = "Do you work with colour?"
answers = ["Never", "Every day"]
"""
# What the tests of the viewer answer: name, protocol, tables that are added, keys that are changed.
STUDIES = (
    ("why", "pairwise", SECOND_QUESTION + TAXONOMY, {"why": "optional", "aids": AIDS}),
    ("checked", "pairwise", CHECKS, {}),
    ("brush", "artifact", "", {"aids": AIDS, "practice": 0}),
    ("grades", "rating-acr", "", {}),
    ("impairment", "rating-dcr", "", {}),
    ("guess", "real-or-fake", "", {"display_ms": 120, "golds": 0}),
    ("verdict", "review", "", {}),
)
OPEN = len(STUDIES) + 3  # studies that the first page offers


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
        with_true = make_run(
            folder / "true", size=(480, 320), conditions=(*CONDITIONS, "reference")
        )
        for name, method, tables, values in STUDIES:
            protocol = tiny_protocol(method, tables, **{**FEW, **values})
            create_study(with_true if protocol.needs_reference else run, protocol, store, name)
        simulate(store, store.study("copy"), 2, seed=1)
        port = free_port()
        process, output = start(db, port)
        try:
            yield Server(f"http://localhost:{port}", store, output, process)
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    width, height = SIZES[0]
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def arrive(context: BrowserContext, server: Server) -> Arrive:
    def arrive(study: str) -> Observer:
        observer = Observer(context.new_page(), server.base, study)
        observer.arrive()
        return observer

    return arrive


def ratings_of(server: Server, study: str) -> pd.DataFrame:
    """The newest session's answers, oldest first, as the database has them."""
    frame = server.store.ratings(study)
    return frame[frame["session"] == frame["session"].max()].reset_index(drop=True)


def events_of(server: Server, observer: Observer) -> set[str]:
    """Names of what was logged in the newest session."""
    with observer.page.expect_response("**/api/v1/events"):
        observer.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    frame = server.store.events(server.study(observer.study))
    return set(frame.loc[frame["session"] == frame["session"].max(), "name"])


def eventually(page: Page, check: Callable[[], bool]) -> None:
    """Wait for something that happens on the server."""
    for _ in range(200):
        if check():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")
