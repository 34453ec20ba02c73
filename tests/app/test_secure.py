"""What a stranger, an impatient hand or a wrong clock can do to a server: nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.api import MAX_BODY
from percept.store import Store, open_store
from percept.study import create_study, export_study, invite_observers
from tests.app.crowd import Replica, run
from tests.app.hostile import attack, judge
from tests.app.test_api import MARK, STUDIES, Client, vote
from tests.tiny_run import make_run, tiny_protocol

TOKEN = "token-of-the-crowd"
FORMULA = "=HYPERLINK(1)<script>alert(1)</script>"
FREE = {"requests_per_second": 1e9, "burst": 10**9, "joins_per_second": 1e9, "joins_burst": 10**9}


class Browser:
    """Plain HTTP to a running server, one connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.token = ""

    def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        content = json.dumps(body) if isinstance(body, dict) else body
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        self.line.request(method, path, content, headers)
        answer = self.line.getresponse()
        given = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, given, answer.read()

    def join(self, study: str = "pairs") -> list[dict[str, Any]]:
        client_id = f"client-{time.monotonic_ns():020d}"
        body = {"client_id": client_id, "study": study, "consent": "1"}
        status, _, answer = self("POST", "/api/v1/sessions", body)
        assert status == 201, answer
        self.token = json.loads(answer)["session"]
        trials: list[dict[str, Any]] = json.loads(self("GET", "/api/v1/trials")[2])["trials"]
        return trials


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Replica]]:
    folder = tmp_path_factory.mktemp("secure")
    photographs = make_run(folder)
    db = f"sqlite:///{folder / 'study.db'}"
    with open_store(db, create=True) as store:
        create_study(photographs, tiny_protocol(trials=6, practice=0, repeats=0), store, "pairs")
        create_study(photographs, tiny_protocol("artifact", trials=4, practice=0), store, "marks")
        replica = Replica(db, log=folder / "log")
        try:
            replica.wait()
            yield store, replica
        finally:
            replica.stop()
        assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture
def browser_of(site: tuple[Store, Replica]) -> Browser:
    return Browser(site[1].port)


# Fuzzing ---------------------------------------------------------------------------------------


def test_nearly_valid_requests_break_nothing_and_leave_nothing_invalid(tmp_path: Path) -> None:
    names = ["pairs", "marks", "grades", "review"]
    photographs = make_run(tmp_path)
    with open_store(tmp_path / "study.db", create=True) as store, start_blocking_portal() as portal:
        for name in names:
            create_study(photographs, STUDIES[name], store, name)
        client = Client(portal, store, **FREE)
        statuses = attack(client, names, 400)
        assert {200, 201, 404, 405, 409, 422} <= set(statuses)
        assert judge(store) > 20


# Bodies ----------------------------------------------------------------------------------------


def test_bodies_without_an_announced_length_are_cut_off_too(browser_of: Browser) -> None:
    browser_of.join()
    with socket.create_connection(("127.0.0.1", browser_of.port), timeout=20) as line:
        head = "POST /api/v1/ratings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        line.sendall(f"{head}Authorization: Bearer {browser_of.token}\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 50 * MAX_BODY:
                line.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
                sent += 4096
        except OSError:
            pass  # the server has hung up, as it should
        assert sent < 50 * MAX_BODY or line.recv(12).endswith(b"413")
    status, _, answer = browser_of("POST", "/api/v1/ratings", " " * (MAX_BODY + 1))
    assert (status, json.loads(answer)["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deeply_nested_bodies_are_refused(browser_of: Browser, opening: str) -> None:
    browser_of.join()
    for path in ("sessions", "ratings", "events"):
        deep = opening * (MAX_BODY // len(opening) - 1)
        assert browser_of("POST", f"/api/v1/{path}", deep)[0] == 422
    nested: Any = 1
    for _ in range(150):
        nested = [nested]
    event = {"name": "zoom", "at": "2030-01-01T00:00:00Z", "data": nested}
    assert browser_of("POST", "/api/v1/events", {"events": [event]})[0] in (201, 422)


# Paths and tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/stimuli/../../study.db",
        "/api/v1/stimuli/..%2f..%2fstudy.db",
        "/api/v1/stimuli/%2e%2e%2f%2e%2e%2fstudy.db",
        "/api/v1/stimuli/....//study.db",
        "/viewer/../server.py",
        "/viewer/..%2fserver.py",
        "/viewer/%2e%2e/server.py",
        "/static/../../../../etc/passwd",
        "/component/percept/..%2f..%2fserver.py",
        "/media/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out(browser_of: Browser, path: str) -> None:
    status, _, answer = browser_of("GET", path)
    assert status in (400, 403, 404) or b"--field: #767676" in answer or b"<title>" in answer
    assert b"SQLite format" not in answer
    assert b"create_app" not in answer
    assert b"root:" not in answer


def test_forged_foreign_and_expired_tokens(site: tuple[Store, Replica]) -> None:
    store, replica = site
    one, other = Browser(replica.port), Browser(replica.port)
    mine, (foreign, *_) = one.join()[0], other.join()
    assert one("POST", "/api/v1/ratings", vote(foreign))[0] == 404
    token = one.token
    for forged in (token[:-1] + ("0" if token[-1] != "0" else "1"), token.upper(), token[:-1], ""):
        one.token = forged
        assert one("POST", "/api/v1/ratings", vote(mine))[0] == 401
        assert one("GET", "/api/v1/session")[0] == 401
    # The name of an image is no token, nor is the trial's.
    one.token = mine["trial"]
    assert one("GET", "/api/v1/trials")[0] == 401
    # Who withdraws has a token no more.
    one.token = token
    before = len(store.ratings("pairs"))
    assert one("POST", "/api/v1/ratings", vote(mine))[0] == 201
    assert one("POST", "/api/v1/session/withdraw", {"confirm": True})[0] == 200
    for method, path in (("GET", "trials"), ("GET", "session"), ("POST", "ratings")):
        body = vote(mine, 1) if method == "POST" else None
        assert one(method, f"/api/v1/{path}", body)[0] == 401
    assert len(store.ratings("pairs")) == before


def test_joins_have_a_limit_that_no_address_evades_or_shares(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db", create=True) as store, start_blocking_portal() as portal:
        create_study(make_run(tmp_path), STUDIES["pairs"], store, "pairs")
        client = Client(portal, store, joins_per_second=0.001, joins_burst=3)
        codes = [
            client.join(client_id=f"client-0000000{number:03d}").status_code for number in range(5)
        ]
        assert codes == [201, 201, 201, 429, 429]
        assert int(client.received[-1].headers["retry-after"]) >= 1
        assert len(store.observers(store.study("pairs"))) == 3


# Impatience and clocks -------------------------------------------------------------------------


def test_a_double_click_is_one_vote_on_the_pair_that_was_seen(site: tuple[Store, Replica]) -> None:
    store, replica = site
    browser = Browser(replica.port)
    first, second = browser.join()[:2]

    def click(n: int) -> int:
        other = Browser(replica.port)
        other.token = browser.token
        return other("POST", "/api/v1/ratings", vote(first, n // 2))[0]

    with ThreadPoolExecutor(8) as pool:  # four clicks, each sent twice
        codes = sorted(pool.map(click, range(8)))
    assert codes[0] in (200, 201)
    assert codes.count(201) == 1
    assert set(codes) <= {200, 201, 409}
    frame = store.ratings("pairs")
    assert len(frame[frame["session"] == frame["session"].max()]) == 1
    held = json.loads(browser("GET", "/api/v1/trials?after=0")[2])["trials"]
    assert held[0]["answered"]
    assert held[1]["trial"] == second["trial"]
    assert not held[1]["answered"]


def test_a_clock_that_jumps_changes_no_answer_and_no_order(site: tuple[Store, Replica]) -> None:
    store, replica = site
    browser = Browser(replica.port)
    trials = browser.join()
    clocks = ["2038-01-19T03:14:08+00:00", "1999-12-31T23:59:59-12:00", "2026-03-29T02:30:00+01:00"]
    for trial, clock in zip(trials, clocks, strict=False):
        assert browser("POST", "/api/v1/ratings", vote(trial, presented_at=clock))[0] == 201
    again = vote(trials[0], presented_at="2001-01-01T00:00:00Z", response_time_ms=1.0)
    assert browser("POST", "/api/v1/ratings", again)[0] == 200  # the same answer, by another clock
    frame = store.ratings("pairs")
    own = frame[frame["session"] == frame["session"].max()]
    assert own["rated_at"].is_monotonic_increasing
    assert [time.isoformat() for time in own["presented_at"]] == [
        "2038-01-19T03:14:08+00:00",
        "2000-01-01T11:59:59+00:00",
        "2026-03-29T01:30:00+00:00",
    ]


# Texts -----------------------------------------------------------------------------------------


def test_formulas_in_exports_are_texts(site: tuple[Store, Replica], tmp_path: Path) -> None:
    store, replica = site
    browser = Browser(replica.port)
    trial = browser.join("marks")[0]
    marks = [{**MARK, "note": text} for text in ("=1+1", "@SUM(A1)", "+1", "-1", "\t=1", FORMULA)]
    assert browser("POST", "/api/v1/ratings", vote(trial, value="marks", marks=marks))[0] == 201
    files = export_study(store, store.study("marks"), tmp_path / "out", "csv")
    texts = "".join(file.read_text() for file in files if file.suffix == ".csv")
    assert "'=1+1" in texts
    for line in texts.splitlines():
        for cell in line.split(","):
            assert not cell.strip('"').startswith(("=", "@", "+", "\t", "\r")), line


def test_pages_and_images_tell_browsers_what_to_refuse(browser_of: Browser) -> None:
    trial = browser_of.join()[0]
    image = next(iter(trial["images"].values()))
    for path in ("/", "/admin", "/api/v1/session", f"/api/v1/stimuli/{image}", "/viewer/viewer.js"):
        _, headers, _ = browser_of("GET", path)
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "same-origin", path
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'self'" in policy
        assert "access-control-allow-origin" not in headers


def test_no_other_site_opens_a_websocket(site: tuple[Store, Replica]) -> None:
    async def knock(origin: str) -> None:
        address = f"ws://127.0.0.1:{site[1].port}/_stcore/stream"
        async with connect(address, subprotocols=["streamlit"], origin=origin):  # type: ignore[list-item,arg-type]
            pass

    run(knock(site[1].base))
    for origin in ("https://evil.example", "http://127.0.0.1", "null", ""):
        with pytest.raises(InvalidStatus, match="403"):
            run(knock(origin))


# The administrator's page ----------------------------------------------------------------------


def ask_page(port: int, *messages: BackMsg) -> list[ForwardMsg]:
    """Send messages as Streamlit's page does; all that comes back until each run ends."""

    async def talk() -> list[ForwardMsg]:
        address = f"ws://127.0.0.1:{port}/_stcore/stream"
        received = []
        async with connect(address, subprotocols=["streamlit"], max_size=None) as line:  # type: ignore[list-item]
            for message in messages:
                await line.send(message.SerializeToString())
                # A fragment that this session has not is not answered.
                while not message.rerun_script.fragment_id:
                    answer = ForwardMsg.FromString(await asyncio.wait_for(line.recv(), 20))  # type: ignore[arg-type]
                    received.append(answer)
                    if answer.WhichOneof("type") == "script_finished":
                        break
        return received

    return run(talk())


def rerun(query: str = "", *, fragment: str = "", widgets: list[str] | None = None) -> BackMsg:
    message = BackMsg()
    message.rerun_script.query_string = query
    message.rerun_script.page_name = "admin"
    message.rerun_script.fragment_id = fragment
    for widget in widgets or []:
        state = message.rerun_script.widget_states.widgets.add()
        state.id, state.trigger_value = widget, True
    return message


def test_nothing_of_the_admin_page_answers_without_the_token(site: tuple[Store, Replica]) -> None:
    store, replica = site
    invite = invite_observers(store, store.study("pairs"), "the secret invitation")
    secrets = [b"Sessions complete", b"secret invitation", invite.code.encode(), b"warm", b"photo0"]

    def told(answers: list[ForwardMsg]) -> set[bytes]:
        received = b"".join(answer.SerializeToString() for answer in answers)
        return {word for word in secrets if word in received}

    inside = ask_page(replica.port, rerun(f"token={TOKEN}&study=pairs"))
    assert {b"Sessions complete", b"secret invitation"} <= told(inside)
    # What an administrator's page is made of does not open another visitor's.
    fragments = {a.delta.fragment_id for a in inside if a.WhichOneof("type") == "delta"} - {""}
    assert fragments
    ids = [
        a.delta.new_element.button.id
        for a in inside
        if a.delta.new_element.WhichOneof("type") == "button"
    ]
    assert ids
    states = store.study("pairs").state
    attempts = [rerun(), rerun("token=wrong"), rerun("token="), rerun(widgets=ids)]
    attempts += [rerun(fragment=str(fragment)) for fragment in fragments]
    attempts += [rerun(f"token={TOKEN[:-1]}"), rerun(f"token={TOKEN}%00"), rerun("token=é")]
    for attempt in attempts:
        assert not told(ask_page(replica.port, attempt, rerun()))
    assert store.study("pairs").state == states
    # The token in the environment is the only one; without it nobody enters.
    assert os.environ.get("PERCEPT_ADMIN_TOKEN") is None
