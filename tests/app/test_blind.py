"""Every byte that real Chromium receives in two whole sessions, and what it must not tell."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, CDPSession, Page

from percept.store import Store, open_store
from percept.study import create_study
from tests.app.crowd import Replica
from tests.app.observer import Observer
from tests.tiny_run import make_run, tiny_protocol

# Long enough to be an identifier of something.
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{12,}")
# What every answer of any server has, and what says how long something is.
HARMLESS = {"date", "content-length", "server", "age", "keep-alive", "connection"}


@dataclass
class Tape:
    """All that one browser received, without a page's help: by the DevTools protocol."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    frames: list[bytes] = field(default_factory=list)
    headers: list[tuple[str, str, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def record(self, page: Page) -> None:
        self.devtools: CDPSession = page.context.new_cdp_session(page)
        self.urls: dict[str, str] = {}
        self.ended: list[str] = []
        on = self.devtools.on
        on("Network.responseReceived", self._response)
        on("Network.responseReceivedExtraInfo", self._more_headers)
        on("Network.loadingFinished", lambda event: self.ended.append(event["requestId"]))
        on("Network.webSocketFrameReceived", self._frame)
        on("Network.webSocketHandshakeResponseReceived", self._handshake)
        limits = {"maxTotalBufferSize": 2**28, "maxResourceBufferSize": 2**27}
        self.devtools.send("Network.enable", limits)

    def _response(self, event: dict[str, Any]) -> None:
        self.urls[event["requestId"]] = event["response"]["url"]
        self._headers(event["requestId"], event["response"]["headers"])

    def _more_headers(self, event: dict[str, Any]) -> None:
        self._headers(event["requestId"], event["headers"])

    def _handshake(self, event: dict[str, Any]) -> None:
        self._headers("websocket", event["response"]["headers"])

    def _headers(self, request: str, headers: dict[str, str]) -> None:
        self.headers += [(request, name.lower(), value) for name, value in headers.items()]

    def _frame(self, event: dict[str, Any]) -> None:
        frame = event["response"]
        data = frame["payloadData"]
        self.frames.append(base64.b64decode(data) if frame["opcode"] == 2 else data.encode())

    def collect(self) -> None:
        """Fetch the bodies of what ended so far, before the browser drops them."""
        while self.ended:
            request = self.ended.pop()
            url = self.urls.get(request, "")
            if url.startswith(("data:", "blob:")) or "/static/" in url:
                continue  # made by the page itself; files that Streamlit serves to everyone
            try:
                answer = self.devtools.send("Network.getResponseBody", {"requestId": request})
            except Exception:
                self.lost.append(url)
                continue
            body = answer["body"]
            self.bodies[f"{len(self.bodies)} {url}"] = (
                base64.b64decode(body) if answer["base64Encoded"] else body.encode()
            )

    def images(self) -> dict[str, bytes]:
        """PNG of each image address."""
        return {
            urlsplit(key.split(" ", 1)[1]).path.rpartition("/")[2]: body
            for key, body in self.bodies.items()
            if "/api/v1/stimuli/" in key
        }

    def trials(self) -> list[dict[str, Any]]:
        """Trials as they arrived, in order."""
        answers = [json.loads(body) for key, body in self.bodies.items() if "/v1/trials" in key]
        found = {one["position"]: one for answer in answers for one in answer["trials"]}
        return [found[position] for position in sorted(found)]

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """Everything but pixels: addresses, headers, bodies, frames."""
        for key, body in self.bodies.items():
            yield "address", key.split(" ", 1)[1].encode()
            if "/api/v1/stimuli/" not in key:
                yield key, body
        for _, name, value in self.headers:
            yield f"header {name}", f"{name}: {value}".encode()
        for frame in self.frames:
            yield "frame", frame

    def identifiers(self) -> set[str]:
        found = set()
        for where, text in self.texts():
            if where.removeprefix("header ") not in HARMLESS:
                found |= set(IDENTIFIER.findall(text.decode("latin-1")))
        return found

    def header_values(self) -> set[str]:
        return {value for _, name, value in self.headers if name not in HARMLESS}


class Recorded(NamedTuple):
    store: Store
    one: Tape
    other: Tape
    elsewhere: Tape


@contextmanager
def site(folder: Path, **run: Any) -> Iterator[tuple[Store, str]]:
    """A server of its own: the recording must not hold what other tests do."""
    folder.mkdir()
    db = f"sqlite:///{folder / 'secret-study.db'}"
    timing = {"isi_ms": 0, "min_view_ms": 0, "break_every": 5, "practice": 1}
    controls = {"golds": 2, "identical": 1, "repeats": 1}
    protocol = tiny_protocol(**timing, **controls, trials=6, context=["era"])
    with open_store(db, create=True) as store:
        create_study(make_run(folder, size=(240, 160), **run), protocol, store, "pairs")
        replica = Replica(db)
        try:
            replica.wait()
            yield store, replica.base.replace("127.0.0.1", "localhost")
        finally:
            replica.stop()


def whole_session(browser: Browser, base: str) -> Tape:
    """Join, read, rate, rest, finish."""
    context = browser.new_context(viewport={"width": 1300, "height": 850})
    context.set_default_timeout(30_000)
    page, tape = context.new_page(), Tape()
    tape.record(page)
    observer = Observer(page, base, "pairs")
    observer.join()
    while not observer.done():
        observer.ready()
        tape.collect()
        page.keyboard.press("ArrowLeft")
    tape.collect()
    context.close()
    assert not tape.lost, tape.lost
    return tape


@pytest.fixture(scope="module")
def recorded(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Two sessions of one study, and one of another laboratory's: what is there too is the app."""
    folder = tmp_path_factory.mktemp("blind")
    with site(folder / "there", contents=5) as (_, base):
        elsewhere = whole_session(browser, base)
    with site(folder / "here") as (store, base):
        one, other = (whole_session(browser, base) for _ in range(2))
        yield Recorded(store, one, other, elsewhere)


def test_nothing_received_tells_what_is_shown_or_why(recorded: Recorded) -> None:
    store = recorded.store
    of = store.study("pairs")
    stimuli, runs = store.stimuli(of), str(Path(of.run_path).parent)
    secret = {
        *store.conditions(of)["condition"], *store.conditions(of)["spec"], *stimuli["content_id"],
        *stimuli["sha256"], *store.contents(of)["sha256"], *filter(None, stimuli["variant"]),
        runs, of.secret, "secret-study", "identical", "repeat_of", "gold", "is_gold", "expected",
        "stimulus_id", "condition",
    }  # fmt: skip
    words = re.compile(
        rb"(?<![A-Za-z0-9_-])(?:" + b"|".join(re.escape(w.encode()) for w in secret) + rb")"
        rb"(?![A-Za-z0-9_-])"
    )
    for tape in recorded[1:3]:
        assert any("/v1/trials" in key for key in tape.bodies)
        assert tape.images()
        assert tape.frames
        for where, text in tape.texts():
            if "/viewer/" in where:
                continue  # the viewer's scripts, the same for everyone
            told = words.findall(text)
            assert not told, f"{where} tells {told}"


def test_two_sessions_share_nothing_but_the_app(recorded: Recorded) -> None:
    _, one, other, elsewhere = recorded
    assert len(one.identifiers() - elsewhere.identifiers()) > 30
    assert not (one.identifiers() & other.identifiers()) - elsewhere.identifiers()
    assert not (one.header_values() & other.header_values()) - elsewhere.header_values()


def test_images_carry_the_same_tag_and_nothing_else(recorded: Recorded) -> None:
    for tape in recorded[1:3]:
        images = tape.images()
        shown = {token for trial in tape.trials() for token in trial["images"].values()}
        assert shown == images.keys()
        for trial in tape.trials():
            heads = {png_head(images[token]) for token in trial["images"].values()}
            assert len(heads) == 1, "the images of a trial differ in more than their pixels"
        requests = {r for r, _, _ in tape.headers if "/api/v1/stimuli/" in tape.urls.get(r, "")}
        names = {name for request, name, _ in tape.headers if request in requests}
        assert not names & {"etag", "last-modified", "set-cookie", "content-disposition"}, names


def png_head(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """Chunks of a PNG in order; of the pixels only that they are there."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind = data[at + 4 : at + 8].decode()
        chunks.append((kind, b"" if kind == "IDAT" else data[at + 8 : at + 8 + length]))
        at += length + 12
    assert list(dict.fromkeys(kind for kind, _ in chunks)) == ["IHDR", "sRGB", "IDAT", "IEND"]
    assert dict(chunks)["sRGB"] == b"\0"
    return tuple(dict.fromkeys(chunks))


def test_controls_arrive_as_tests_do(recorded: Recorded) -> None:
    """All trials but the announced practice have one shape; tokens have one length."""
    kinds = set(recorded.store.ratings("pairs")["kind"])
    assert kinds == {"practice", "test", "gold", "identical", "repeat"}
    for tape in recorded[1:3]:
        shapes = {
            shape({**trial, "position": 0, "answered": {}, "context": None})
            for trial in tape.trials()
            if not trial["practice"]
        }
        assert len(shapes) == 1, shapes
        tokens = [t for trial in tape.trials() for t in (trial["trial"], *trial["images"].values())]
        assert len(set(tokens)) == len(tokens)
        assert len({len(token) for token in tokens}) == 1


def shape(value: Any, key: str = "") -> str:
    """Everything about a trial but the values of its tokens."""
    if key in ("trial", "left", "right", "reference", "stimulus"):
        return "token"
    if isinstance(value, dict):
        return json.dumps({name: shape(inner, name) for name, inner in value.items()})
    return json.dumps(value)
