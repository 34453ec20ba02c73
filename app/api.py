"""The HTTP interface of a rating session: plain Starlette routes, no Streamlit.

Every answer of the server is JSON, except the images. Errors are ``{"error": {"code": WORD,
"message": TEXT}}`` with status 401 (no or unknown token), 404 (unknown, or of another session),
405, 409 (contradicts what is saved; the code is one of ``consent paused closed invite crowd
screened_out revision response_id undo``), 413, 422 (the message names the field), 429 (too many
requests of one token, or joins of one study; ``Retry-After`` in seconds), 500 (a bug) or 503 (the
database is busy, or an image cannot be read; send the same again). ``Authorization: Bearer TOKEN``
is needed where *token* is written. Times are ISO 8601 with a time zone, between 1971 and 2199. No
response names a condition, a photograph, or the kind of a trial beyond practice.

``GET /healthz`` → 200 ``{"status": "ok"}``, 503 if the database does not answer.

``GET /api/v1/studies/{study}`` → what anyone may know::

    {"study": "NAME", "state": "open" | "paused" | "closed",
     "method": "pairwise" | "artifact" | "rating" | "real_or_fake" | "review",
     "title": "…", "instructions": "…", "consent": {"version": "1", "text": "…"},
     "groups": ["public", "expert"], "invite_only": false,
     "questions": [{"name": "screen", "text": "…", "answers": ["…"], "optional": true}],
     "checks": {"color_vision": true, "display": true, "on_fail": "note" | "screen_out"},
     "context": ["era", "process"], "aids": ["zoom", "flicker", "slider", "original"],
     "fit": "fit" | "native", "original": true, "reference_label": "Original" | null,
     "undo": true, "skip_reasons": ["…"], "trials": 36, "practice": 3,
     "practice_feedback": false, "session_minutes": 0,
     "isi_ms": 250, "min_view_ms": 500, "display_ms": 0,
     "why": "off" | "optional" | "required",
     "attributes": [{"name": "realism", "question": "…",
                     "answers": [{"value": "left", "label": "Left"}, …]}],
     "scores": [{"value": 1, "label": "Bad"}],
     "reasons": [{"name": "people", "label": "…", "description": "…"}],
     "artifacts": [{"name": "bleeding", "label": "…", "description": "…"}],
     "severities": [{"value": 1, "label": "Slight"}]}

Texts are plain; an empty line separates paragraphs. ``original``: the grey original is on view.
``reference_label``: what to write beside the image ``reference``: the grey original, or in the
dcr scale the true image; null where there is none. ``trials`` counts all of a session, practice
included, and may be a little less in a small study. ``display_ms``: hide the images after this
long; 0: never.

``POST /api/v1/sessions`` ``{"client_id", "study", "consent", "group"?, "invite"?, "crowd"?,
"screening"?}`` → 201 ``{"session": TOKEN}``; the same client_id again → 200 and the same token.
``client_id``: 16 to 100 of ``A-Za-z0-9_-``, random, made and kept by the client. ``consent``: the
version that was agreed to (another one is 409 ``consent``). ``group``: one of the study's; an
invitation that names a group decides. ``invite``: a code; one that is needed and missing, unknown,
revoked or used up is 409 ``invite``. ``crowd``: a flat object of strings, stored as keyed hashes:
``platform`` and ``worker``, and what else the platform passes (Prolific: ``{"platform":
"prolific", "worker": PROLIFIC_PID, "study": STUDY_ID, "session": SESSION_ID}``; Mechanical Turk:
``{"platform": "mturk", "worker": workerId, "assignment": assignmentId, "hit": hitId}``); a worker
who joined as another client is 409 ``crowd``. ``screening``: an object, at most 8 KB:
``{"questions": {NAME: ANSWER}, "color_vision": {"passed": true}, "display": {"passed": true, …},
…}``; nothing but ``passed`` is taken of ``color_vision``. Checks are needed where a failed one
turns away: 409 ``screened_out``, with ``"completion": {"code", "message"}`` in the error, and the
same again for that client and that worker.

``GET /api/v1/session`` (token) → ``{"study": {as above}, "progress": {"answered": 12,
"total": 36}, "finished": false}``, and ``"seconds_left": 900`` where the study has
``session_minutes``: at 0 offer to stop; the rest stays open. A pause of half an hour begins a new
sitting.

``POST /api/v1/session/withdraw`` (token) ``{"confirm": true}`` → ``{"withdrawn": true}``: answers
and all that is personal are erased, and the token is unknown from then on.

``GET /api/v1/trials?after=K`` (token; K is the last position held, 0 at the start; without it,
from the first unanswered trial)::

    {"state": "open" | "break" | "done",
     "completion": null | {"code": "PAIR-9F2C41D0", "message": "…"},
     "progress": {"answered": 12, "total": 36},
     "trials": [{"trial": ID, "position": 13, "practice": false,
                 "attributes": [{"name", "question", "answers": [{"value", "label"}]}],
                 "images": {"left": IMAGE, "right": IMAGE, "reference": IMAGE},
                 "width": 1024, "height": 768, "isi_ms": 250, "min_view_ms": 500,
                 "display_ms": 0, "context": {"era": "1930s", "process": "gelatin silver"},
                 "answered": {"realism": {"revision": 1, "value": "left"}}}]}

``images`` is ``{"left", "right"}`` in pairwise and real_or_fake, ``{"stimulus"}`` in the other
methods, with ``reference`` unless ``reference_label`` is null. Every IMAGE of a trial has the
pixels ``width`` × ``height``. ``attributes`` are in the order to ask them, ``answers`` in the
order to show them; ``skip`` is among them where the protocol has skip reasons. A practice trial of
a protocol with ``practice_feedback`` has ``"feedback": {"realism": "left"}``, the right answers.
``context`` holds the facts to show (null where unknown). ``break``: offer a rest before these
trials. At most 8 trials; never past a break; the same K gives the same trials. All trials held and
none left: ``trials`` is empty and ``state`` stays ``open`` until the last answer is saved, then
``done`` with the completion code.

``POST /api/v1/ratings`` (token) ``{"response_id", "trial", "attribute", "revision", "value",
"reason"?, "reasons"?, "comment"?, "marks"?, "response_time_ms", "presented_at"}`` → 201
``{"saved": true}`` once durable; exactly the same again → 200. ``response_id``: 8 to 64 of
``A-Za-z0-9_-``, new for each answer. ``revision``: 1, then 2 … for an undo of the last answered
trial. ``reason``: one of the study's, with the value ``skip`` alone. ``value``: one of the
``answers``: left, right, tie (pairwise); none, marks (artifact); 1 to 9 (rating); left, right
(real_or_fake); accept, fix, reject (review); skip. ``reasons``: names, one or more with fix and
reject, none else. ``comment``: of a review, at most 500 characters. ``marks``: ``[{"artifact",
"severity", "shape": "rectangle" | "mask", "x", "y", "width", "height", "mask"?, "image"?,
"note"?}]``, a box in fractions of the image, with the value ``marks``, with any verdict of a
review that has artifacts, or with left or right of the first of the study's attributes where
``why`` is not ``off``; ``image`` is then the losing side (the same request brings vote and marks;
it is also taken without marks, so that no vote is lost). ``note``: free text, needed by the
artifact ``other``. ``mask``, with the shape ``mask`` alone: ``"COLSxROWS:a,b,c,…"``, lengths of
runs over the box row by row, zeros first (may be 0), adding up to COLS × ROWS, at most 256 each,
at least one cell set. ``response_time_ms``: from the paint of the images, 0 to 86,400,000.

``POST /api/v1/events`` (token) ``{"events": [{"name", "at", "trial"?, "data"?}]}`` → 201
``{"saved": N}``; names such as ``focus_lost``, ``early_key``, ``zoom``; at most 100 at once, data
at most 2 KB each.

``GET /api/v1/stimuli/{IMAGE}`` → the PNG, ``Cache-Control: private, immutable``.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from anyio import to_thread
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from percept import study as studies
from percept.errors import InputError
from percept.protocol import Protocol
from percept.store.store import Answer, Conflict, Mark, NotFound, Session, Store, Study, Trial

MAX_BODY = 64 * 1024
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text


def _true(value: bool) -> bool:
    if not value:
        raise ValueError("must be true")
    return value


def _small(size: int) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if len(json.dumps(value, allow_nan=False)) > size:
            raise ValueError(f"must be at most {size} bytes of JSON")
        return value

    return check


def _plausible(time: datetime) -> datetime:
    # Clocks are wrong by years, not by centuries; what lies further off breaks the arithmetic.
    if not 1970 < time.year < 2200:
        raise ValueError("must be a time between 1971 and 2199")
    return time


_Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
_ClientId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16,100}$")]
_Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
_Value = Annotated[str, StringConstraints(pattern=r"^([a-z]{1,20}|[1-9])$")]
_Text = Annotated[str, StringConstraints(max_length=500), AfterValidator(_printable)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Time = Annotated[AwareDatetime, AfterValidator(_plausible)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Join(_Body):
    client_id: _ClientId
    study: _Text
    consent: _Text
    group: _Text | None = None
    invite: Annotated[str, StringConstraints(max_length=100), AfterValidator(_printable)] | None = (
        None
    )
    crowd: Annotated[dict[_Word, _Text], Field(max_length=10)] | None = None
    screening: Annotated[dict[str, Any], AfterValidator(_small(8192))] | None = None


class _Withdrawal(_Body):
    confirm: Annotated[bool, AfterValidator(_true)]


class _Mark(_Body):
    artifact: _Word
    severity: Annotated[int, Field(ge=1, le=9)]
    shape: Literal["rectangle", "mask"]
    mask: Annotated[str, StringConstraints(max_length=MAX_BODY)] | None = None
    image: Literal["left", "right", "stimulus"] = "stimulus"
    x: _Fraction
    y: _Fraction
    width: Annotated[float, Field(gt=0, le=1)]
    height: Annotated[float, Field(gt=0, le=1)]
    note: _Text | None = None


class _Rating(_Body):
    response_id: _Id
    trial: _Id
    attribute: _Word
    revision: Annotated[int, Field(ge=1, le=1000)]
    value: _Value
    reason: _Text | None = None
    reasons: Annotated[list[_Word], Field(max_length=50)] = []
    comment: _Text | None = None
    marks: Annotated[list[_Mark], Field(max_length=100)] = []
    response_time_ms: Annotated[float, Field(ge=0, le=86_400_000)]
    presented_at: _Time


class _Event(_Body):
    name: _Word
    at: _Time
    trial: _Id | None = None
    data: Annotated[Any, AfterValidator(_small(2048))] = None


class _Events(_Body):
    events: Annotated[list[_Event], Field(max_length=100)]


class _Buckets:
    """A token bucket for each key: ``burst`` at once, ``rate`` a second after that."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one; seconds to wait if there is none, else 0."""
        now = time.monotonic()
        level, then = self._levels.pop(key, (float(self.burst), now))
        level = min(self.burst, level + (now - then) * self.rate)
        allowed = level >= 1
        self._levels[key] = (level - 1 if allowed else level, now)
        if len(self._levels) > 10_000:
            self._levels.popitem(last=False)
        return 0.0 if allowed else (1 - level) / self.rate


def api_routes(
    store: Store,
    *,
    requests_per_second: float = 20,
    burst: int = 100,
    joins_per_second: float = 5,
    joins_burst: int = 300,
) -> list[BaseRoute]:
    """Routes of the rating API on an open store, for a Starlette or Streamlit application.

    Parameters
    ----------
    store : Store
        Shared by all requests; the caller closes it.
    requests_per_second, burst : float, int
        What one session token may ask for; more is 429.
    joins_per_second, joins_burst : float, int
        How often a study may be joined, by everyone together: who joins has no token yet, and
        a whole class may share one address. It bounds what a flood of joins can store.
    """
    api = _Api(store, _Buckets(requests_per_second, burst), _Buckets(joins_per_second, joins_burst))
    inner = Starlette(
        routes=[
            Route("/v1/studies/{study}", api.study, methods=["GET"]),
            Route("/v1/sessions", api.join, methods=["POST"]),
            Route("/v1/session", api.session, methods=["GET"]),
            Route("/v1/session/withdraw", api.withdraw, methods=["POST"]),
            Route("/v1/trials", api.trials, methods=["GET"]),
            Route("/v1/ratings", api.rate, methods=["POST"]),
            Route("/v1/events", api.events, methods=["POST"]),
            Route("/v1/stimuli/{image}", api.stimulus, methods=["GET"]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            InputError: _input_error,
            ValidationError: _validation_error,
            NotFound: _not_found,
            Conflict: _conflict,
            OperationalError: _busy,
            ClientDisconnect: _gone,
            Exception: _bug,
        },
    )
    inner.router.redirect_slashes = False  # another path is another path, and not found
    return [
        Route("/healthz", api.health, methods=["GET"]),
        Route("/api", inner),
        Mount("/api", inner),
    ]


class _Api:
    def __init__(self, store: Store, buckets: _Buckets, joins: _Buckets) -> None:
        self.store, self.buckets, self.joins = store, buckets, joins
        self._protocols: dict[int, Protocol] = {}

    async def health(self, request: Request) -> Response:
        try:
            await to_thread.run_sync(self.store.ping)
        except Exception:  # whatever it is, this server should get no traffic
            return _error(503, "unavailable", "the database does not answer")
        return _json({"status": "ok"})

    async def study(self, request: Request) -> Response:
        study = await self._study(request.path_params["study"])
        return _json(_public(study))

    async def join(self, request: Request) -> Response:
        body = _Join.model_validate_json(await _body(request))
        study = await self._study(body.study)
        if wait := self.joins.take(study.name):
            raise HTTPException(
                429,
                "many people are joining; please try again in a moment",
                {"Retry-After": str(int(wait) + 1)},
            )
        joined = await to_thread.run_sync(
            lambda: studies.join(
                self.store,
                study,
                body.client_id,
                consent_version=body.consent,
                group=body.group,
                screening=body.screening,
                invite=body.invite,
                crowd=body.crowd,
            )
        )
        return _json({"session": joined.token}, 201 if joined.created else 200)

    async def session(self, request: Request) -> Response:
        session, protocol = await self._authorized(request)
        study = await to_thread.run_sync(self.store.study_by_id, session.study_id)
        answered = await to_thread.run_sync(self.store.answered_up_to, session)
        left = await to_thread.run_sync(studies.seconds_left, self.store, session, protocol)
        return _json(
            {
                "study": _public(study),
                "progress": {"answered": answered, "total": session.trials},
                "finished": session.finished_at is not None,
                **({} if left is None else {"seconds_left": left}),
            }
        )

    async def withdraw(self, request: Request) -> Response:
        session, _ = await self._authorized(request)
        _Withdrawal.model_validate_json(await _body(request))
        await to_thread.run_sync(self.store.withdraw, session.observer_id)
        return _json({"withdrawn": True})

    async def trials(self, request: Request) -> Response:
        session, protocol = await self._authorized(request)
        after = request.query_params.get("after")
        if after is not None and not re.fullmatch(r"[0-9]{1,6}", after):
            return _error(422, "invalid", "after: a position, 0 at the start")
        window = await to_thread.run_sync(
            studies.window, self.store, session, protocol, None if after is None else int(after)
        )
        completion = None
        if window.state == "done":
            completion = {"code": session.completion, "message": protocol.completion.message}
        return _json(
            {
                "state": window.state,
                "completion": completion,
                "progress": {"answered": window.answered, "total": session.trials},
                "trials": [_trial(trial, session, protocol) for trial in window.trials],
            }
        )

    async def rate(self, request: Request) -> Response:
        token, content = self._token(request), await _body(request)

        def save() -> bool:  # in one go: changing threads costs more than what they do
            session, protocol = self._session(token)
            body = _Rating.model_validate_json(content)
            answer = Answer(
                response_id=body.response_id,
                trial=body.trial,
                attribute=body.attribute,
                revision=body.revision,
                value=body.value,
                reason=body.reason,
                reasons=tuple(body.reasons),
                comment=body.comment,
                response_time_ms=body.response_time_ms,
                presented_at=body.presented_at,
                marks=tuple(_inside(mark) for mark in body.marks),
            )
            return studies.rate(self.store, session, protocol, answer)

        created = await to_thread.run_sync(save)
        return _json({"saved": True}, 201 if created else 200)

    async def events(self, request: Request) -> Response:
        session, _ = await self._authorized(request)
        body = _Events.model_validate_json(await _body(request))
        rows = [(event.name, event.at, event.trial, event.data) for event in body.events]
        await to_thread.run_sync(self.store.log, session, rows)
        return _json({"saved": len(rows)}, 201)

    async def stimulus(self, request: Request) -> Response:
        image = request.path_params["image"]
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", image):
            raise NotFound("no such image")
        file = await to_thread.run_sync(self.store.stimulus_file, image)
        try:
            data = await to_thread.run_sync(Path.read_bytes, file)
        except OSError:
            _log.exception("a display image cannot be read")
            return _error(503, "unavailable", "the image cannot be read")
        # No ETag and no date: equal images of two sessions must not be told as equal.
        headers = {
            "Cache-Control": "private, max-age=86400, immutable",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(data, media_type="image/png", headers=headers)

    async def _study(self, name: str) -> Study:
        try:
            return await to_thread.run_sync(self.store.study, _printable(name))
        except (InputError, ValueError):  # the message names the studies that there are
            raise NotFound("no such study") from None

    def _token(self, request: Request) -> str:
        """Get the session token that a request carries, if it may ask now."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise HTTPException(401, "a session token is needed", {"WWW-Authenticate": "Bearer"})
        if wait := self.buckets.take(token):
            raise HTTPException(429, "too many requests", {"Retry-After": str(int(wait) + 1)})
        return token

    def _session(self, token: str) -> tuple[Session, Protocol]:
        try:
            session = self.store.session(token)
        except NotFound:
            raise HTTPException(
                401, "unknown session token", {"WWW-Authenticate": "Bearer"}
            ) from None
        if session.study_id not in self._protocols:  # frozen, so it can be kept
            study = self.store.study_by_id(session.study_id)
            self._protocols[session.study_id] = studies.protocol_of(study)
        return session, self._protocols[session.study_id]

    async def _authorized(self, request: Request) -> tuple[Session, Protocol]:
        return await to_thread.run_sync(self._session, self._token(request))


def _public(study: Study) -> dict[str, Any]:
    protocol = studies.protocol_of(study)
    return {
        "study": study.name,
        "state": study.state,
        "method": study.method,
        "title": protocol.title,
        "instructions": protocol.instructions,
        "consent": {"version": protocol.consent.version, "text": protocol.consent.text},
        "groups": list(protocol.groups),
        "invite_only": protocol.invite_only,
        "questions": _entries(protocol.questions),
        "checks": dataclasses.asdict(protocol.checks),
        "context": list(protocol.context),
        "aids": list(protocol.aids),
        "fit": protocol.display.fit,
        "original": protocol.display.original and protocol.reference == "original",
        "reference_label": REFERENCE_LABELS[protocol.reference],
        "undo": protocol.undo,
        "skip_reasons": list(protocol.skip),
        "trials": protocol.length,
        "practice": protocol.practice,
        "practice_feedback": protocol.practice_feedback,
        "session_minutes": protocol.session_minutes,
        "isi_ms": protocol.isi_ms,
        "min_view_ms": protocol.min_view_ms,
        "display_ms": protocol.hidden_after_ms,
        "why": protocol.why,
        "attributes": [_attribute(protocol, one.name) for one in protocol.attributes],
        "scores": _entries(protocol.scores),
        "reasons": _entries(protocol.reasons),
        "artifacts": _entries(protocol.artifacts),
        "severities": _entries(protocol.severities),
    }


REFERENCE_LABELS = {"original": "Original", "true": "True colours", None: None}


def _entries(entries: Iterable[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(entry) for entry in entries]


def _attribute(protocol: Protocol, name: str) -> dict[str, Any]:
    question = next(one.question for one in protocol.attributes if one.name == name)
    answers = [{"value": value, "label": label} for value, label in protocol.answers]
    return {"name": name, "question": question, "answers": answers}


def _trial(trial: Trial, session: Session, protocol: Protocol) -> dict[str, Any]:
    feedback = {}
    if protocol.practice_feedback and trial.practice and trial.expected is not None:
        feedback = {"feedback": dict.fromkeys(session.attributes, trial.expected)}
    return {
        "trial": trial.token,
        "position": trial.position,
        "practice": trial.practice,
        "attributes": [_attribute(protocol, name) for name in session.attributes],
        # Sorted: the order in which images were stored must not tell anything.
        "images": dict(sorted(trial.images.items())),
        "width": trial.width,
        "height": trial.height,
        "isi_ms": protocol.isi_ms,
        "min_view_ms": protocol.min_view_ms,
        "display_ms": protocol.hidden_after_ms,
        "context": {fact: trial.facts[fact] for fact in protocol.context},
        "answered": {
            name: {"revision": given.revision, "value": given.value}
            for name, given in sorted(trial.answered.items())
        },
        **feedback,
    }


def _inside(mark: _Mark) -> Mark:
    """Cut what rounding let stick out of the image; more than rounding is an error."""
    if mark.x + mark.width > 1 + 1e-6 or mark.y + mark.height > 1 + 1e-6:
        raise InputError("reaches outside of the image", key="marks")
    width, height = min(mark.width, 1 - mark.x), min(mark.height, 1 - mark.y)
    if width <= 0 or height <= 0:
        raise InputError("is empty", key="marks")
    values = mark.model_dump(exclude={"image"})
    return Mark(**values | {"width": width, "height": height, "role": mark.image})


async def _body(request: Request) -> bytes:
    """Read the body, but never more than the limit."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise HTTPException(413, f"at most {MAX_BODY} bytes")
    return bytes(data)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(content, status, {"Cache-Control": "no-store", **(headers or {})})


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": {"code": code, "message": message}}, status, headers)


_CODES = {401: "token", 404: "not_found", 405: "method", 413: "too_large", 429: "slow_down"}


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - tells the type checker
    code = _CODES.get(error.status_code, "error")
    return _error(error.status_code, code, error.detail, dict(error.headers or {}))


def _input_error(request: Request, error: Exception) -> Response:
    return _error(422, "invalid", str(error))


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)  # noqa: S101
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return _error(422, "invalid", f"{field}: {first['msg']}" if field else first["msg"])


def _not_found(request: Request, error: Exception) -> Response:
    return _error(404, "not_found", str(error))


def _conflict(request: Request, error: Exception) -> Response:
    assert isinstance(error, Conflict)  # noqa: S101
    details = {"code": error.code, "message": str(error), **error.details}
    return _json({"error": details}, 409)


def _busy(request: Request, error: Exception) -> Response:
    return _error(503, "busy", "the database is busy; send the same again", {"Retry-After": "1"})


def _gone(request: Request, error: Exception) -> Response:
    return _error(400, "invalid", "the request ended early")  # to nobody: the line is dead


def _bug(request: Request, error: Exception) -> Response:
    return _error(500, "internal", "this is a bug; the server's log has the details")
