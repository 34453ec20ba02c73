from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette

from app.api import MAX_BODY, api_routes
from percept.protocol import load_protocol, parse_protocol
from percept.store import Store, open_store
from percept.store.masks import encode_mask
from percept.study import create_study, invite_observers
from percept.types import MARK_COLUMNS
from tests.tiny_run import CONDITIONS, make_run, tiny_protocol

TAXONOMY = load_protocol("artifact").text
TAXONOMY = TAXONOMY[TAXONOMY.index("[[artifacts]]") : TAXONOMY.index("[display]")]
SECOND = '[[attributes]]\nname = "period"\nquestion = "Which fits its time better?"\n'
SCREENING = """
[checks]
color_vision = true
display = true
on_fail = "screen_out"

[[questions]]
name = "screen"
text = "What do you look at?"
answers = ["A laptop", "A phone"]
"""
STUDIES = {
    "pairs": tiny_protocol(
        trials=10, practice=2, repeats=2, identical=1, break_every=6, context=["era"]
    ),
    "marks": tiny_protocol("artifact", trials=5, practice=1, repeats=1),
    "why": tiny_protocol(tables=TAXONOMY + SECOND, trials=4, practice=0, repeats=0, why="required"),
    "grades": tiny_protocol("rating-acr", trials=4, practice=1, repeats=1),
    "review": tiny_protocol("review", trials=4, practice=1, repeats=1, session_minutes=20),
}
STUDIES |= {
    "closed-circle": tiny_protocol(trials=4, practice=0, repeats=0, invite_only=True),
    "strict": parse_protocol(
        tiny_protocol(tables=SCREENING, trials=4, practice=0, repeats=0).text.replace(
            'prefix = "PAIR"', 'prefix = "PAIR"\nscreen_out_code = "NO-42"'
        )
    ),
    "lessons": tiny_protocol(trials=4, practice=2, repeats=0, golds=1, practice_feedback=True),
}
TRUE = {
    "differences": tiny_protocol("rating-dcr", trials=4, practice=1, repeats=1),
    "glance": tiny_protocol("real-or-fake", trials=4, practice=1, repeats=1),
}


class Client:
    """A browser of our own: plain calls on an application that runs in another thread."""

    def __init__(self, portal: BlockingPortal, store: Store, **options: float) -> None:
        self.portal = portal
        app = Starlette(routes=api_routes(store, **options))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test"
        )
        self.token: str | None = None
        self.received: list[httpx.Response] = []

    def __call__(self, method: str, path: str, **options) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= options.pop("headers", {})
        call = partial(self.http.request, method, path, headers=headers, **options)
        response = self.portal.call(call)
        self.received.append(response)
        return response

    def join(
        self, study: str = "pairs", client_id: str = "client-0000000001", **more: object
    ) -> httpx.Response:
        body = {"client_id": client_id, "study": study, "consent": "1", **more}
        response = self("POST", "/api/v1/sessions", json=body)
        self.token = response.json().get("session")
        return response

    def trials(self, after: int | None = 0) -> dict:
        response = self("GET", "/api/v1/trials", params={} if after is None else {"after": after})
        assert response.status_code == 200, response.text
        return response.json()

    def rate(self, body: dict) -> httpx.Response:
        return self("POST", "/api/v1/ratings", json=body)


def vote(trial: dict, n: int = 0, /, **changes: object) -> dict:
    question = trial["attributes"][0]
    return {
        "response_id": f"response-{trial['trial']}-{n}",
        "trial": trial["trial"],
        "attribute": question["name"],
        "revision": 1,
        "value": question["answers"][0]["value"],
        "response_time_ms": 1500.25,
        "presented_at": "2030-01-01T12:00:00.000+02:00",
        **changes,
    }


MARK = {
    "artifact": "bleeding",
    "severity": 2,
    "shape": "rectangle",
    "x": 0.25,
    "y": 0.5,
    "width": 0.5,
    "height": 0.25,
}


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A database with the studies, to be copied."""
    home = tmp_path_factory.mktemp("template")
    run = make_run(home, conditions=(*CONDITIONS, "reference"))
    with open_store(home / "study.db", create=True) as store:
        for name, protocol in STUDIES.items():
            create_study(
                run, protocol, store, name, stimuli=home / "stimuli", conditions=CONDITIONS
            )
        for name, protocol in TRUE.items():
            create_study(run, protocol, store, name, stimuli=home / "stimuli")
    return home / "study.db"


@pytest.fixture
def store(template, tmp_path) -> Iterator[Store]:
    shutil.copy(template, tmp_path / "study.db")
    with open_store(tmp_path / "study.db") as store:
        yield store


@pytest.fixture
def client(portal, store) -> Client:
    return Client(portal, store, requests_per_second=1e6, burst=10**6)


def error(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["message"]
    assert response.headers["cache-control"] == "no-store"
    return response.status_code, body["error"]["code"]


# The contract ----------------------------------------------------------------------------------


def test_health(client, monkeypatch) -> None:
    assert client("GET", "/healthz").json() == {"status": "ok"}

    def broken(_: Store) -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    monkeypatch.setattr(Store, "ping", broken)
    assert error(client("GET", "/healthz")) == (503, "unavailable")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/nothing", (404, "not_found")),
        ("GET", "/api", (404, "not_found")),
        ("POST", "/api", (404, "not_found")),
        ("GET", "/api/", (404, "not_found")),
        ("GET", "/api/v1/trials/", (404, "not_found")),
        ("POST", "/api/v2/ratings", (404, "not_found")),
        ("GET", "/api/v1/ratings", (405, "method")),
        ("DELETE", "/api/v1/sessions", (405, "method")),
        ("GET", "/api/v1/studies/nobody", (404, "not_found")),
        ("GET", "/api/v1/studies/a%00b", (404, "not_found")),
        ("GET", "/api/v1/stimuli/nothing", (404, "not_found")),
        ("GET", "/api/v1/stimuli/a%00b", (404, "not_found")),
        ("GET", "/api/v1/stimuli/..%2F..%2Fstudy.db", (404, "not_found")),
    ],
)
def test_what_does_not_exist_is_json(client, method: str, path: str, expected) -> None:
    assert error(client(method, path)) == expected


@pytest.mark.parametrize("name", [*STUDIES, *TRUE])
def test_a_study_tells_what_its_page_needs(client, name: str) -> None:
    study = client("GET", f"/api/v1/studies/{name}").json()
    protocol = {**STUDIES, **TRUE}[name]
    assert (study["study"], study["method"], study["state"]) == (name, protocol.method, "open")
    assert study["consent"] == {"version": "1", "text": protocol.consent.text}
    assert study["trials"] == protocol.length
    assert [one["name"] for one in study["artifacts"]] == [a.name for a in protocol.artifacts]
    answers = [one["value"] for one in study["attributes"][0]["answers"]]
    assert answers == [value for value, _ in protocol.answers]
    assert [one["name"] for one in study["reasons"]] == [one.name for one in protocol.reasons]
    assert [one["value"] for one in study["scores"]] == [one.value for one in protocol.scores]
    assert study["display_ms"] == (1000 if name == "glance" else 0)
    assert study["why"] == ("required" if name == "why" else "off")
    labels = {"differences": "True colours", "glance": None}
    assert study["reference_label"] == labels.get(name, "Original")
    assert study["original"] == (name not in labels)
    assert study["checks"]["on_fail"] == ("screen_out" if name == "strict" else "note")
    assert study["session_minutes"] == (20 if name == "review" else 0)
    assert (study["fit"], study["invite_only"]) == ("fit", name == "closed-circle")
    assert [one["name"] for one in study["questions"]] == ["screen"] * (name == "strict")


def test_joining_twice_gives_the_same_token(client) -> None:
    first, again = client.join(), client.join()
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert re.fullmatch(r"[0-9a-f]{64}", first.json()["session"])
    assert client.join(client_id="client-0000000002").json() != first.json()


def test_joining_at_once_from_several_tabs(client) -> None:
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: client.join(), range(12)))
    assert len({response.json()["session"] for response in responses}) == 1
    assert sorted(response.status_code for response in responses) == [200] * 11 + [201]


def test_a_pairwise_session_to_the_completion_code(client, store) -> None:
    client.join()
    after, seen, states = 0, [], []
    while True:
        answer = client.trials(after)
        states.append(answer["state"])
        assert answer == client.trials(after)  # the same position, the same trials
        assert answer["progress"] == {"answered": after, "total": 15}
        if answer["state"] == "done":
            break
        assert answer["completion"] is None
        for trial in answer["trials"]:
            assert set(trial["images"]) == {"left", "right", "reference"}
            assert list(trial["images"]) == ["left", "reference", "right"]
            assert trial["context"].keys() == {"era"}
            assert client.rate(vote(trial)).status_code == 201
            seen.append(trial)
        after = seen[-1]["position"]
    assert [trial["position"] for trial in seen] == list(range(1, 16))
    assert [trial["practice"] for trial in seen] == [True] * 2 + [False] * 13
    assert states == ["open", "break", "open", "done"]  # after 6; 12 of 15 is close to the end
    assert answer["trials"] == []
    assert answer["completion"]["code"].startswith("PAIR-")
    (row,) = store.sessions(store.study("pairs")).to_dict("records")
    assert row["completion"] == answer["completion"]["code"]
    assert client("GET", "/api/v1/session").json()["finished"] is True
    assert len(store.ratings("pairs")) == 15


def test_no_code_before_the_last_answer_is_saved(client) -> None:
    client.join("marks")
    trials = client.trials()["trials"]
    for trial in trials[:-1]:
        client.rate(vote(trial))
    held = client.trials(after=7)
    assert (held["state"], held["trials"], held["completion"]) == ("open", [], None)
    # A reload asks without a position and gets what is open.
    assert [trial["position"] for trial in client.trials(None)["trials"]] == [7]
    client.rate(vote(trials[-1], value="marks", marks=[MARK]))
    assert client.trials(None)["completion"]["code"].startswith("MARK-")


def test_a_reload_knows_the_answers_of_the_trial_it_was_in(client) -> None:
    client.join()
    trial = client.trials()["trials"][0]
    client.rate(vote(trial))
    client.rate(vote(trial, 1, value="tie", revision=2))
    shown = client.trials()["trials"][0]
    assert shown["answered"] == {"realism": {"revision": 2, "value": "tie"}}
    assert {**shown, "answered": {}} == trial


def test_resends_and_conflicts(client, store) -> None:
    client.join()
    one, two = client.trials()["trials"][:2]
    assert client.rate(vote(one)).status_code == 201
    assert client.rate(vote(one)).status_code == 200
    assert error(client.rate(vote(one, value="right"))) == (409, "response_id")
    assert error(client.rate(vote(one, 1))) == (409, "revision")
    assert error(client.rate(vote(two, 1, revision=2))) == (409, "revision")
    assert client.rate(vote(two)).status_code == 201
    assert error(client.rate(vote(one, 1, revision=2))) == (409, "undo")
    assert client.rate(vote(two, 1, revision=2, value="tie")).status_code == 201
    assert len(store.ratings("pairs")) == 3
    store.set_state("pairs", "closed")
    assert client.rate(vote(one)).status_code == 200
    assert error(client.rate(vote(two, 2, revision=3))) == (409, "closed")
    assert error(client("GET", "/api/v1/trials")) == (409, "closed")
    assert error(client.join(client_id="client-0000000002")) == (409, "closed")


def test_two_tabs_voting_at_once_save_one_vote(client, store) -> None:
    client.join()
    trial = client.trials()["trials"][0]
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: client.rate(vote(trial, n)).status_code, range(8)))
    assert sorted(codes) == [201] + [409] * 7
    assert len(store.ratings("pairs")) == 1


def test_marks_arrive_as_they_were_drawn(client, store) -> None:
    client.join("marks")
    trial = client.trials()["trials"][0]
    wide = MARK | {"artifact": "other", "x": 0.7, "width": 0.3000000001, "note": "=HYPERLINK(1)"}
    assert client.rate(vote(trial, value="marks", marks=[MARK, wide])).status_code == 201
    assert client.rate(vote(trial, value="marks", marks=[MARK, wide])).status_code == 200
    frame = store.ratings("marks")
    assert frame["artifact"].tolist() == ["bleeding", "other"]
    assert frame.loc[0, ["x", "y", "width", "height"]].tolist() == [0.25, 0.5, 0.5, 0.25]
    assert frame.loc[1, "x"] + frame.loc[1, "width"] <= 1


def painted(artifact: str = "blotches", **changes: object) -> dict:
    cells = np.zeros((3, 4), bool)
    cells[1, 1:3] = True
    mask = MARK | {"artifact": artifact, "shape": "mask", "mask": encode_mask(cells)}
    return mask | changes


def test_a_painted_mark_arrives_as_it_was_painted(client, store) -> None:
    client.join("marks")
    trial = client.trials()["trials"][0]
    assert painted()["mask"] == "4x3:5,2,5"
    assert client.rate(vote(trial, value="marks", marks=[painted(), MARK])).status_code == 201
    assert client.rate(vote(trial, value="marks", marks=[painted(), MARK])).status_code == 200
    changed = painted(mask="4x3:5,3,4")
    assert error(client.rate(vote(trial, value="marks", marks=[changed, MARK])))[0] == 409
    marks = store.marks("marks")
    assert list(marks.columns) == list(MARK_COLUMNS)
    assert marks["shape"].tolist() == ["mask", "rectangle"]
    assert marks["mask"].fillna("").tolist() == ["4x3:5,2,5", ""]
    assert marks["condition"].isin(CONDITIONS).all()
    assert set(marks["response_id"]) == set(store.ratings("marks")["response_id"])


@pytest.mark.parametrize(
    "change",
    [
        {"mask": None},
        {"mask": "4x3:5,2,6"},
        {"mask": "4x3:12"},
        {"mask": "4x3:5,2"},
        {"mask": "4x3:5,0,7"},
        {"mask": "4x3:5,2,5,0"},
        {"mask": "300x3:0,900"},
        {"mask": "0x3:0"},
        {"mask": "4x3:-5,12,5"},
        {"mask": "٤x3:5,2,5"},
        {"mask": "4x3:5,2,5", "shape": "rectangle"},
        {"artifact": "other"},
        {"artifact": "other", "note": "  "},
        {"image": "left"},
        {"severity": None},
        {"severity": 2**70},
    ],
)
def test_marks_that_are_none(client, store, change) -> None:
    client.join("marks")
    trial = client.trials()["trials"][0]
    body = vote(trial, value="marks", marks=[painted(**change)])
    assert error(client.rate(body)) == (422, "invalid")
    assert store.ratings("marks").empty


def test_why_marks_come_with_the_vote_on_the_losing_side(client, store) -> None:
    client.join("why")
    one, two, three, _ = client.trials()["trials"]
    first = dict.fromkeys(["attribute"], "realism")
    lost = MARK | {"image": "right"}
    for wrong in (
        vote(one, **first, value="right", marks=[lost]),  # the winner's side
        vote(one, **first, value="tie", marks=[lost]),
        vote(one, **first, marks=[MARK]),  # no side
        vote(one, attribute="period", value="left", marks=[lost]),  # only the first asks why
    ):
        assert error(client.rate(wrong)) == (422, "invalid")
    assert client.rate(vote(one, **first, value="left", marks=[lost])).status_code == 201
    assert client.rate(vote(one, 1, attribute="period", value="tie")).status_code == 201
    painted_left = painted(image="left")
    assert client.rate(vote(two, **first, value="right", marks=[painted_left])).status_code == 201
    # Whoever leaves before marking keeps the vote.
    assert client.rate(vote(three, **first, value="left")).status_code == 201
    votes, marks = store.ratings("why"), store.marks("why")
    votes = votes[votes["attribute"] == "realism"]
    assert len(votes) == 3
    assert marks["condition"].tolist() == [votes["right"].iloc[0], votes["left"].iloc[1]]
    assert list(votes.columns)[-3:] == ["left", "right", "choice"]


def test_a_rating_session_gives_scores(client, store) -> None:
    client.join("grades")
    trials = client.trials()["trials"]
    assert set(trials[0]["images"]) == {"stimulus", "reference"}
    for trial, value in zip(trials, ["1", "5", "3", "skip", "2", "4"], strict=True):
        reason = {"reason": "I cannot judge this one"} if value == "skip" else {}
        assert client.rate(vote(trial, value=value, **reason)).status_code == 201
    for value in ("0", "6", "10", "left", "5.0"):
        assert error(client.rate(vote(trials[0], 9, value=value))) == (422, "invalid")
    frame = store.ratings("grades")
    assert frame["score"].tolist() == [1, 5, 3, 2, 4]
    assert list(frame.columns)[-2:] == ["condition", "score"]
    assert client.trials(None)["completion"]["code"].startswith("RATE-")
    assert store.marks("grades").empty


def test_a_review_has_verdicts_with_reasons(client, store) -> None:
    client.join("review")
    trials = client.trials()["trials"]
    given = [
        {"value": "accept", "comment": "lovely"},
        {"value": "fix", "reasons": ["people", "history"], "comment": "=the flag"},
        {"value": "reject", "reasons": ["damaged"], "marks": [painted()]},
    ]
    for trial, answer in zip(trials, given, strict=False):
        assert client.rate(vote(trial, **answer)).status_code == 201
        assert client.rate(vote(trial, **answer)).status_code == 200
        assert error(client.rate(vote(trial, **answer | {"comment": "else"}))) == (
            409,
            "response_id",
        )
    for wrong in (
        {"value": "fix"},
        {"value": "reject", "reasons": []},
        {"value": "fix", "reasons": ["taste"]},
        {"value": "fix", "reasons": ["people", "people"]},
        {"value": "accept", "reasons": ["people"]},
        {"value": "fix", "reasons": ["people"], "comment": "x" * 501},
        {"value": "skip", "reason": "I cannot judge this one", "comment": "why"},
        {"value": "skip", "reason": "I cannot judge this one", "marks": [MARK]},
    ):
        assert error(client.rate(vote(trials[3], 5, **wrong))) == (422, "invalid"), wrong
    frame = store.ratings("review")
    assert frame["verdict"].tolist() == ["accept", "fix", "reject"]
    assert frame["reason"].fillna("").tolist() == ["", "people;history", "damaged"]
    assert store.marks("review")["artifact"].tolist() == ["blotches"]
    assert store.notes(store.study("review"))["comment"].tolist()[:2] == ["lovely", "=the flag"]


def test_events_are_logged(client, store) -> None:
    client.join()
    trial = client.trials()["trials"][0]["trial"]
    at = "2030-01-01T00:00:00Z"
    events = [{"name": "focus_lost", "at": at}, {"name": "zoom", "at": at, "trial": trial}]
    assert client("POST", "/api/v1/events", json={"events": events}).json() == {"saved": 2}
    bad = {"events": [{"name": "zoom", "at": at, "data": "x" * 3000}]}
    assert error(client("POST", "/api/v1/events", json=bad)) == (422, "invalid")
    assert len(store.events(store.study("pairs"))) == 2


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/session"),
        ("GET", "/api/v1/trials"),
        ("POST", "/api/v1/ratings"),
        ("POST", "/api/v1/events"),
        ("POST", "/api/v1/session/withdraw"),
    ],
)
@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer " + "0" * 64, "Basic x"])
def test_without_a_known_token_nothing_answers(client, method, path, authorization) -> None:
    client.join()
    client.token = None
    headers = {} if authorization is None else {"Authorization": authorization}
    response = client(method, path, headers=headers)
    assert error(response) == (401, "token")
    assert response.headers["www-authenticate"] == "Bearer"


def test_foreign_trials_are_not_found(client, store) -> None:
    client.join()
    foreign = client.trials()["trials"][0]
    client.join(client_id="client-0000000002")
    assert error(client.rate(vote(foreign))) == (404, "not_found")
    event = {"name": "zoom", "at": "2030-01-01T00:00:00Z", "trial": foreign["trial"]}
    assert error(client("POST", "/api/v1/events", json={"events": [event]})) == (404, "not_found")
    assert store.ratings("pairs").empty
    assert store.events(store.study("pairs")).empty


@pytest.mark.parametrize(
    "change",
    [
        {"value": "both"},
        {"value": None},
        {"value": "skip"},
        {"value": "skip", "reason": "no reason of this study"},
        {"revision": 0},
        {"revision": "1"},
        {"revision": 1.5},
        {"response_id": "short"},
        {"response_id": "x" * 65},
        {"response_id": "no spaces please"},
        {"response_time_ms": -1},
        {"response_time_ms": 1e9},
        {"response_time_ms": None},
        {"presented_at": "yesterday"},
        {"presented_at": "2030-01-01T00:00:00"},
        {"presented_at": "9999-12-31T23:59:59-12:00"},
        {"presented_at": "0001-01-01T00:00:00+12:00"},
        {"marks": [MARK]},
        {"surprise": 1},
        {"trial": "x' OR 1=1"},
    ],
)
def test_ratings_that_are_not_valid(client, store, change: dict) -> None:
    client.join()
    trial = client.trials()["trials"][0]
    assert error(client.rate(vote(trial, **change))) == (422, "invalid")
    assert store.ratings("pairs").empty


@pytest.mark.parametrize(
    "change",
    [
        {"artifact": "ghost"},
        {"severity": 9},
        {"severity": True},
        {"shape": "star"},
        {"x": -0.1},
        {"x": 0.9},
        {"width": 0},
        {"width": 1e-320, "x": 1},
        {"note": "\0"},
        {"note": "x" * 501},
    ],
)
def test_marks_that_are_not_valid(client, store, change: dict) -> None:
    client.join("marks")
    trial = client.trials()["trials"][0]
    body = vote(trial, value="marks", marks=[MARK | change])
    assert error(client.rate(body)) == (422, "invalid")
    assert error(client.rate(vote(trial, value="marks", marks=[]))) == (422, "invalid")
    assert error(client.rate(vote(trial, value="marks", marks=[MARK] * 101))) == (422, "invalid")
    assert store.ratings("marks").empty


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"trial": "\\ud800"}', b'{"a": NaN}']
)
def test_bodies_that_are_no_request(client, body: bytes) -> None:
    client.join()
    for path in ("/api/v1/sessions", "/api/v1/ratings", "/api/v1/events"):
        assert error(client("POST", path, content=body)) == (422, "invalid")


def test_bodies_that_are_too_large(client) -> None:
    client.join()
    for path in ("/api/v1/sessions", "/api/v1/ratings", "/api/v1/events"):
        assert error(client("POST", path, content=b" " * (MAX_BODY + 1))) == (413, "too_large")


@pytest.mark.parametrize("after", ["-1", "x", "1e3", "99999999", "", "1 "])
def test_positions_that_are_none(client, after: str) -> None:
    client.join()
    assert error(client("GET", f"/api/v1/trials?after={after}")) == (422, "invalid")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"client_id": "short"}, (422, "invalid")),
        ({"study": "nobody"}, (404, "not_found")),
        ({"consent": "0"}, (409, "consent")),
        ({"group": "nobody"}, (422, "invalid")),
        ({"screening": {"x": "y" * 9000}}, (422, "invalid")),
        ({"crowd": {"worker": 1}}, (422, "invalid")),
        ({"admin": True}, (422, "invalid")),
    ],
)
def test_joins_that_are_not_valid(client, store, change: dict, expected) -> None:
    body = {"client_id": "client-0000000001", "study": "pairs", "consent": "1", **change}
    assert error(client("POST", "/api/v1/sessions", json=body)) == expected
    assert store.observers(store.study("pairs")).empty


def test_a_full_join_is_stored(client, store) -> None:
    study = store.study("pairs")
    invite = invite_observers(store, study, "the lab", group="expert")
    screening = {"color_vision": {"passed": False}, "display": {"passed": True, "gamut": "p3"}}
    body = {
        "client_id": "client-0000000001",
        "study": "pairs",
        "consent": "1",
        "group": "public",
        "invite": invite.code,
        "crowd": {"platform": "prolific", "worker": "W123"},
        "screening": screening,
    }
    assert client("POST", "/api/v1/sessions", json=body).status_code == 201
    (row,) = store.observers(study).to_dict("records")
    # The invitation decides on the group; its code would let others in and is not told.
    assert (row["group"], row["invite"], row["screening"]) == ("expert", "the lab", screening)
    assert row["crowd"].keys() == {"platform", "worker"}
    assert "W123" not in json.dumps(row["crowd"])


def test_an_invitation_counts_its_uses_and_can_be_revoked(client, store) -> None:
    study = store.study("closed-circle")

    def enter(n: int, code: str | None) -> httpx.Response:
        return client.join("closed-circle", f"client-{n:010d}", invite=code)

    assert error(enter(1, None)) == (409, "invite")
    assert error(enter(1, "guessed")) == (409, "invite")
    once = invite_observers(store, study, "one").code
    many = invite_observers(store, study, "many", max_uses=None).code
    assert [enter(1, once).status_code, enter(1, once).status_code] == [201, 200]
    assert error(enter(2, once)) == (409, "invite")
    assert [enter(n, many).status_code for n in (2, 3, 4)] == [201] * 3
    store.revoke_invite(study, many)
    assert error(enter(5, many)) == (409, "invite")
    assert enter(4, many).status_code == 200  # who was in stays in
    assert store.invites(study)["uses"].tolist() == [1, 3]
    assert len(store.observers(study)) == 4


def test_an_invitation_for_one_lets_in_one_of_many_at_once(client, store) -> None:
    code = invite_observers(store, store.study("closed-circle"), "one").code
    with ThreadPoolExecutor(8) as pool:
        codes = list(
            pool.map(
                lambda n: client.join("closed-circle", f"client-{n:010d}", invite=code).status_code,
                range(8),
            )
        )
    assert sorted(codes) == [201] + [409] * 7


def test_a_crowd_worker_takes_part_once(client, store) -> None:
    def enter(n: int, **crowd: str) -> httpx.Response:
        return client.join("pairs", f"client-{n:010d}", crowd=crowd)

    assert enter(1, platform="prolific", worker="W1").status_code == 201
    assert enter(1, platform="prolific", worker="W1").status_code == 200
    assert error(enter(2, platform="prolific", worker="W1")) == (409, "crowd")
    assert enter(3, platform="mturk", worker="W1").status_code == 201
    assert enter(4, platform="prolific", worker="W2").status_code == 201


def test_failed_checks_turn_away_for_good(client, store) -> None:
    good = {"color_vision": {"passed": True}, "display": {"passed": True, "zoom": 1}}
    bad = good | {"color_vision": {"passed": False}}
    crowd = {"platform": "prolific", "worker": "W1"}

    def enter(n: int, screening: object, **more: object) -> httpx.Response:
        return client.join("strict", f"client-{n:010d}", screening=screening, **more)

    for wrong in (
        None,
        {"color_vision": {"passed": True}},
        good | {"color_vision": "pass"},
        good | {"color_vision": {"passed": True, "answers": [12, 8]}},
        good | {"questions": {"screen": "none of these"}},
        good | {"questions": {"shoe_size": "44"}},
        good | {"questions": []},
    ):
        assert error(enter(1, wrong)) == (422, "invalid"), wrong
    assert store.observers(store.study("strict")).empty

    refused = enter(1, bad, crowd=crowd)
    told = refused.json()["error"]
    assert (refused.status_code, told["code"]) == (409, "screened_out")
    assert told["completion"] == {"code": "NO-42", "message": told["message"]}
    assert enter(1, good).status_code == 409  # again, and better this time
    assert enter(2, good, crowd=crowd).status_code == 409  # from another browser
    assert enter(3, good | {"questions": {"screen": "A laptop"}}).status_code == 201
    progress = store.progress(store.study("strict"))
    assert (progress.observers, progress.screened_out, progress.sessions) == (1, 1, 1)


def test_who_withdraws_leaves_a_tombstone(client, store) -> None:
    study = store.study("marks")
    crowd = {"platform": "prolific", "worker": "W1"}
    client.join("marks", crowd=crowd, screening={"display": {"passed": True}})
    trial = client.trials()["trials"][0]
    assert client.rate(vote(trial, value="marks", marks=[MARK])).status_code == 201
    at = "2030-01-01T00:00:00Z"
    client("POST", "/api/v1/events", json={"events": [{"name": "zoom", "at": at}]})
    for body in ({}, {"confirm": False}, {"confirm": 1}):
        assert error(client("POST", "/api/v1/session/withdraw", json=body)) == (422, "invalid")
    assert len(store.ratings(study)) == 1
    gone = client("POST", "/api/v1/session/withdraw", json={"confirm": True})
    assert gone.json() == {"withdrawn": True}
    assert error(client("GET", "/api/v1/session")) == (401, "token")
    assert error(client.rate(vote(trial, 1))) == (401, "token")
    tables = (store.ratings, store.marks, store.events, store.notes)
    assert all(table(study).empty for table in tables)
    (row,) = store.observers(study).to_dict("records")
    assert row["withdrawn_at"] is not None
    assert [row[key] for key in ("crowd", "screening")] == [None, None]
    assert pd.isna(row["invite"])
    progress = store.progress(study)
    assert (progress.withdrawn, progress.sessions, progress.ratings) == (1, 0, 0)
    assert client.join("marks", crowd=crowd).status_code == 201  # a new start is allowed


def test_a_sitting_has_its_limit(client, store) -> None:
    client.join("review")
    left = client("GET", "/api/v1/session").json()["seconds_left"]
    assert 1190 <= left <= 1200
    client.join("marks")
    assert "seconds_left" not in client("GET", "/api/v1/session").json()


def test_practice_tells_right_from_wrong_and_nothing_else_does(client, store) -> None:
    client.join("lessons")
    trials = client.trials()["trials"]
    assert [trial["practice"] for trial in trials] == [True, True] + [False] * (len(trials) - 2)
    for trial in trials:
        assert ("feedback" in trial) == trial["practice"]
    assert trials[0]["feedback"].keys() == {"realism"}
    assert trials[0]["feedback"]["realism"] in ("left", "right")


def test_the_true_image_is_beside_or_among_what_is_judged(client, store) -> None:
    for study in ("differences", "glance"):
        client.join(study)
        session = store.session(client.token)
        shown = store.shown(session)
        trials = client.trials()["trials"]
        assert len(trials) == 6
        for trial in trials:
            named = {role: shown[token][1] for role, token in trial["images"].items()}
            if study == "differences":
                assert named.keys() == {"stimulus", "reference"}
                assert named["reference"] == "reference" != named["stimulus"]
            else:
                assert named.keys() == {"left", "right"}
                assert "reference" in named.values()
            assert client.rate(vote(trial)).status_code == 201
    frame = store.ratings("glance")
    # Asked for the fake: the answer is told as what was taken for real, always the right one.
    assert set(frame["choice"]) == {"right"}
    real = frame["left"].where(frame["expected"] == "left", frame["right"])
    assert set(real) == {"reference"}


def test_too_many_requests_of_one_token_and_of_nobody_else(portal, store) -> None:
    client = Client(portal, store, requests_per_second=0.001, burst=3)
    client.join()
    codes = [client("GET", "/api/v1/session").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert int(client.received[-1].headers["retry-after"]) >= 1
    client.join(client_id="client-0000000002")
    assert client("GET", "/api/v1/session").status_code == 200


def test_a_busy_database_asks_to_send_again(client, monkeypatch) -> None:
    client.join()
    trial = client.trials()["trials"][0]

    def locked(*_: object, **__: object) -> None:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(Store, "rate", locked)
        response = client.rate(vote(trial))
    assert error(response) == (503, "busy")
    assert "INSERT" not in response.text
    assert client.rate(vote(trial)).status_code == 201


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    field=st.sampled_from(
        [
            *vote({"trial": "", "attributes": [{"name": "", "answers": [{"value": ""}]}]}),
            *("marks", "reason", "reasons", "comment"),
        ]
    ),
    value=JSON_VALUES,
)
def test_no_field_of_a_rating_breaks_the_server(client, field: str, value: object) -> None:
    if client.token is None:
        client.join("marks")
        client.trial = client.trials()["trials"][0]
    body = vote(client.trial, value="marks", marks=[MARK]) | {field: value}
    response = client("POST", "/api/v1/ratings", content=json.dumps(body).encode())
    assert response.status_code in (200, 201, 404, 409, 422), response.text


# Blindness -------------------------------------------------------------------------------------


def full_session(client: Client, study: str, client_id: str) -> None:
    """All that a browser asks for, images and errors included."""
    client("GET", f"/api/v1/studies/{study}")
    client.join(study, client_id)
    client("GET", "/api/v1/session")
    after = 0
    while (answer := client.trials(after))["state"] != "done":
        for trial in answer["trials"]:
            for image in trial["images"].values():
                assert client("GET", f"/api/v1/stimuli/{image}").status_code == 200
            for index, attribute in enumerate(trial["attributes"]):
                given = vote(trial, index, attribute=attribute["name"])
                client.rate(given)
                client.rate(given | {"value": "right" if study == "pairs" else "nonsense"})
        after = answer["trials"][-1]["position"]


@pytest.mark.parametrize("study", ["pairs", "marks", "why", "grades", "review", *TRUE])
def test_no_response_tells_a_condition_a_photograph_or_a_kind(client, store, study: str) -> None:
    full_session(client, study, "client-0000000001")
    secrets = [*store.conditions(store.study(study))["condition"], "photo0", "photo1", "photo2"]
    secrets = [word for word in secrets if word != "reference"]  # also the role of an image
    secrets += ["spec-of", "repeat", "identical", "gold", "expected", "kind", "sha256", ".png"]
    secrets += store.stimuli(store.study(study))["sha256"].tolist()
    told = {
        word
        for response in client.received
        for word in secrets
        # "gray" in the study's own texts would be a word, not a leak; they are the author's.
        if not response.url.path.startswith(("/api/v1/studies", "/api/v1/session"))
        and word.encode() in _outside_pixels(response)
    }
    assert not told


def _outside_pixels(response: httpx.Response) -> bytes:
    headers = str(sorted(response.headers.items())).encode()
    image = response.headers["content-type"] == "image/png"
    return headers + (b"" if image else response.content)


def test_two_sessions_share_no_identifier(client) -> None:
    """Pixels excepted: the same images are shown, under other names and without validators."""
    seen: list[set[str]] = []
    for client_id in ("client-0000000001", "client-0000000002"):
        client.received.clear()
        full_session(client, "pairs", client_id)
        words: set[str] = set()
        for response in client.received:
            assert not {"etag", "last-modified", "set-cookie", "content-disposition"} & set(
                response.headers
            )
            if response.headers["content-type"] != "image/png":
                words |= set(re.findall(rb"[A-Za-z0-9_-]{16,}", response.content))
        public = client("GET", "/api/v1/studies/pairs").content
        seen.append(words - set(re.findall(rb"[A-Za-z0-9_-]{16,}", public)))
    assert len(seen[0]) > 15 * 4
    assert not seen[0] & seen[1]


def test_images_are_the_rendered_bytes_and_may_be_kept_by_the_browser_alone(client, store) -> None:
    client.join()
    session = store.session(client.token)
    hashes = set(store.stimuli(store.study("pairs"))["sha256"])
    trial = client.trials()["trials"][0]
    for image in trial["images"].values():
        response = client("GET", f"/api/v1/stimuli/{image}", headers={"Authorization": ""})
        assert hashlib.sha256(response.content).hexdigest() in hashes
        assert response.headers["content-type"] == "image/png"
        assert response.headers["cache-control"] == "private, max-age=86400, immutable"
    assert store.shown(session)[trial["images"]["reference"]][1] is None


def test_a_lost_image_and_a_bug_are_json_too(client, monkeypatch, tmp_path) -> None:
    client.join()
    image = client.trials()["trials"][0]["images"]["left"]
    monkeypatch.setattr(Store, "stimulus_file", lambda *_: tmp_path / "gone.png")
    response = client("GET", f"/api/v1/stimuli/{image}")
    assert error(response) == (503, "unavailable")
    assert "gone" not in response.text

    def bug(*_: object) -> None:
        raise ZeroDivisionError("photo0")

    monkeypatch.setattr(Store, "trials", bug)
    response = client("GET", "/api/v1/trials")
    assert error(response) == (500, "internal")
    assert "photo0" not in response.text
