"""Requests that are nearly right, and a judge of what they leave in the database.

The tests send some hundreds, ``benchmarks/fuzz.py`` thousands.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from percept.errors import InputError
from percept.store import Store
from percept.store.schema import event, mark, observer, rating, session, trial
from percept.store.store import Answer, Mark
from percept.study import check_answer, protocol_of

NASTY = [
    *("", "\0", "x" * 600, "../../etc/passwd", "=1+cmd|'/c calc'!A0", "<script>alert(1)</script>"),
    *("' OR 1=1 --", "\u202e", "\ud800", "1e999", "NaN", "1x1:0,1", "256x256:65536"),
    *("9999-12-31T23:59:59-12:00", "2030-01-01T12:00:00", "left", "right", "tie", "skip", "marks"),
    *("none", "5", "reject", "realism", -1, 0, 1.5, 2**31, 2**63, 2**70, 1e308, -1e308, 1e-320),
    *(True, None, [], {}, [[]]),
]
TAILS = [
    *("/", "?after=1", "?after=99", "?after=%00", "?after=-1", "?after=1&after=2"),
    *("/..%2f..%2fx", "%0a", "%ff", "//", ";a"),
]
VALUES = st.sampled_from(NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path]
    if isinstance(value, dict):
        found += [p for key, inner in value.items() for p in places(inner, (*path, key))]
    elif isinstance(value, list):
        found += [p for index, inner in enumerate(value) for p in places(inner, (*path, index))]
    return found


@st.composite
def nearly(draw: st.DrawFn, valid: list[tuple[str, str, Any]]) -> tuple[str, str, bytes]:
    """Draw one of the valid requests and spoil it in a few places, its body's bytes at times."""
    method, path, body = draw(st.sampled_from(valid))
    body = copy.deepcopy(body)
    if body is not None:
        if "response_id" in body and draw(st.booleans()):
            body["response_id"] = draw(st.text("abcdef-", min_size=8, max_size=8))
        for _ in range(draw(st.integers(0, 3))):
            where = draw(st.sampled_from(places(body)))
            if not where:
                continue
            inner: Any = body
            for key in where[:-1]:
                inner = inner[key]
            change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
            if change == "replace":
                inner[where[-1]] = draw(VALUES)
            elif change == "remove":
                del inner[where[-1]]
            elif isinstance(inner, dict):
                inner[draw(st.text(max_size=10))] = draw(VALUES)
        content = json.dumps(body, ensure_ascii=draw(st.booleans()) or True).encode()
        if draw(st.integers(0, 9)) == 0:
            at = draw(st.integers(0, len(content)))
            content = content[:at] + draw(st.binary(max_size=6)) + content[at:]
        return method, path, content
    if draw(st.booleans()):
        path += draw(st.sampled_from(TAILS))
    return draw(st.sampled_from([method, method, method, "PUT", "DELETE", "HEAD"])), path, b""


def attack(client: Any, studies: list[str], requests: int, *, start: int = 0) -> Counter[int]:
    """Send ``requests`` of them, spread over sessions in all ``studies``; counts of each status.

    Raises
    ------
    AssertionError
        An answer was 5xx, or an error was not told in our way.
    """
    statuses: Counter[int] = Counter()
    for number, study in enumerate(studies):
        joined = client.join(study, f"fuzz-{start:06d}-{number:010d}")
        assert joined.status_code in (200, 201), joined.text
        statuses += _attack(client, study, -(-requests // len(studies)), start)
    return statuses


def _attack(client: Any, study: str, requests: int, start: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    token = client.token

    @seed(start)
    @settings(
        max_examples=requests,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(request=nearly(requests_of(client, study)))
    def send(request: tuple[str, str, bytes]) -> None:
        method, path, content = request
        client.token = token
        answer = client(method, path, content=content)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (request, answer.text)
        if answer.status_code >= 400 and method != "HEAD":
            assert set(answer.json()) == {"error"}, (request, answer.text)

    send()
    return statuses


def requests_of(client: Any, study: str) -> list[tuple[str, str, Any]]:
    """Valid requests of a session that has just begun."""
    public = client("GET", f"/api/v1/studies/{study}").json()
    at = "2030-01-01T12:00:00.000Z"
    valid: list[tuple[str, str, Any]] = []
    trials = client.trials()["trials"]
    for one in trials:
        for attribute in one["attributes"]:
            for answer in attribute["answers"]:
                body = {
                    "response_id": f"response-{len(valid)}",
                    "trial": one["trial"],
                    "attribute": attribute["name"],
                    "revision": 1,
                    "value": answer["value"],
                    "response_time_ms": 900.5,
                    "presented_at": at,
                }
                if answer["value"] == "skip":
                    body["reason"] = public["skip_reasons"][0]
                if answer["value"] in ("fix", "reject"):
                    body["reasons"] = [public["reasons"][0]["name"]]
                    body["comment"] = "a comment"
                box = {"x": 0.25, "y": 0.5, "width": 0.5, "height": 0.25, "severity": 1}
                if answer["value"] == "marks":
                    name = public["artifacts"][0]["name"]
                    mask = {"shape": "mask", "mask": "4x2:1,3,0,4"}
                    body["marks"] = [
                        {**box, "artifact": name, "shape": "rectangle", "note": "a note"},
                        {**box, "artifact": name, **mask},
                    ]
                valid.append(("POST", "/api/v1/ratings", body))
    events = [{"name": "zoom", "at": at, "trial": trials[0]["trial"], "data": {"factor": 2}}]
    join = {
        "client_id": "fuzz-another-client-1",
        "study": study,
        "consent": public["consent"]["version"],
        "group": public["groups"][0],
        "crowd": {"platform": "prolific", "worker": "w"},
        "screening": {"window": [1, 2], "questions": {}},
    }
    valid += [
        ("POST", "/api/v1/events", {"events": events}),
        ("POST", "/api/v1/sessions", join),
        ("GET", "/api/v1/session", None),
        ("GET", "/api/v1/trials", None),
        ("GET", f"/api/v1/studies/{study}", None),
        ("GET", f"/api/v1/stimuli/{next(iter(trials[0]['images'].values()))}", None),
    ]
    return valid


def judge(store: Store) -> int:
    """Hold every stored row to the rules; how many there are.

    Raises
    ------
    AssertionError
        Something is stored that is not valid.
    """
    protocols = {study.id: protocol_of(study) for study in store.studies()}
    rows = 0
    with store.engine.connect() as connection:

        def each(query: sa.Select[Any], check: Callable[[Any], None]) -> None:
            nonlocal rows
            for row in connection.execute(query).all():
                rows += 1
                check(row)

        marks: dict[int, list[Mark]] = {}
        columns = [column for column in mark.c if column.name not in ("id", "rating_id")]
        for row in connection.execute(sa.select(mark.c.rating_id, *columns).order_by(mark.c.id)):
            values = {name: value for name, value in row._mapping.items() if name != "rating_id"}
            marks.setdefault(row.rating_id, []).append(Mark(**values))

        def vote(row: Any) -> None:
            answer = Answer(
                response_id=row.response_id,
                trial=row.token,
                attribute=row.attribute,
                value=row.value,
                response_time_ms=row.response_time_ms,
                presented_at=row.presented_at,
                revision=row.revision,
                reason=row.reason,
                reasons=tuple(row.reasons or ()),
                comment=row.comment,
                marks=tuple(marks.get(row.id, ())),
            )
            protocol = protocols[row.study_id]
            try:
                check_answer(protocol, answer)
            except InputError as error:
                raise AssertionError(f"stored, and not valid: {error}") from error
            assert row.attribute in {one.name for one in protocol.attributes}
            assert 0 <= row.response_time_ms <= 86_400_000
            assert 1970 < row.presented_at.year < 2200
            for text in (row.comment, *(m.note for m in answer.marks)):
                assert text is None or (len(text) <= 500 and "\0" not in text)

        source = rating.join(trial).join(session).join(observer)
        each(
            sa.select(rating, trial.c.token, observer.c.study_id).select_from(source),
            vote,
        )

        def happened(row: Any) -> None:
            assert len(json.dumps(row.data)) <= 2048
            assert row.name.isascii()
            assert len(row.name) <= 40

        each(sa.select(event), happened)

        def person(row: Any) -> None:
            assert row.group in protocols[row.study_id].groups
            assert row.consent_version == protocols[row.study_id].consent.version
            assert len(json.dumps(row.screening)) <= 9000
            for value in (row.crowd or {}).values():
                assert len(value) == 64, "an identifier of a crowd worker is stored as it is"

        each(sa.select(observer), person)
    return rows
