"""Many observers without browsers, over real HTTP, and servers that die under them.

Used by the tests and by ``benchmarks/``. A voter behaves as bad lines and impatient hands make a
browser behave: it gives up on requests that may have arrived, sends answers again, and answers
twice at once. :func:`judge` then holds the database to what the voters were told.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa

from percept import bundle
from percept.store import Store
from percept.store.schema import session, trial

_T = TypeVar("_T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run in a thread of its own: Playwright's loop may run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Replica:
    """One server process on a database, as ``percept app`` starts it."""

    def __init__(self, db: str, *, log: Path | None = None, **environment: str) -> None:
        self.port = free_port()
        self._log = log
        self._environment = bundle.child_environment(
            {
                "PERCEPT_DB": db,
                "PERCEPT_HOST": "127.0.0.1",
                "PERCEPT_PORT": str(self.port),
                "PERCEPT_ADMIN_TOKEN": "token-of-the-crowd",
                **environment,
            }
        )
        self.start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        log = self._log.open("ab") if self._log else subprocess.DEVNULL
        self.process = subprocess.Popen(
            [bundle.python(), "-m", "app.server"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )

    def wait(self) -> None:
        """Wait until it answers."""
        while self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.base}/healthz", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"the server ended with {self.process.returncode}")

    def kill(self) -> None:
        """End it as a power cut would: nothing is told, nothing is tidied."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()


class Line:
    """One connection that is kept open: little work, so that the server is what is measured."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str = "",
        *,
        abandon: bool = False,
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask; ``abandon`` hangs up before the answer, as a lost connection does.

        Raises
        ------
        OSError
            No answer came; the request may or may not have been carried out.
        """
        content = b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        head += [f"Content-Length: {len(content)}"] if body is not None else []
        head += [f"Authorization: Bearer {token}"] if token else []
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self.host, self.port)
            reader, writer = self._streams
            writer.write("\r\n".join([*head, "", ""]).encode() + content)
            await writer.drain()
            if abandon:
                raise ConnectionAbortedError
            status = int((await reader.readline()).split()[1])
            headers = {}
            while line := (await reader.readline()).strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            answer = await reader.readexactly(int(headers["content-length"]))
        except (OSError, EOFError, IndexError, KeyError, ValueError) as error:
            self.close()
            raise ConnectionError(str(error)) from error
        if headers.get("connection") == "close":
            self.close()
        return status, headers, answer


@dataclass
class Voter:
    """Someone with a bad line, who answers a whole session on whichever server answers."""

    study: str
    ports: Sequence[int]
    rng: random.Random
    told: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Answers that a server said were saved: response_id → trial, attribute, value."""
    sent: set[str] = field(default_factory=set)
    completion: str | None = None
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.client_id = f"voter-{self.rng.getrandbits(96):024x}"
        self._lines = [Line(port) for port in self.ports]
        self.token = ""

    async def ask(
        self, method: str, path: str, body: Any = None, line: Line | None = None
    ) -> tuple[int, Any]:
        """Ask one server after the other until one answers."""
        while True:
            chosen = line or self.rng.choice(self._lines)
            try:
                status, headers, answer = await chosen.send(method, path, body, self.token)
            except OSError:
                self.happened["no answer"] += 1
                assert self.happened["no answer"] < 10_000, "the servers are gone"
                await asyncio.sleep(0.02 + 0.08 * self.rng.random())
                continue
            if status == 429 or status == 503:
                self.happened[str(status)] += 1
                await asyncio.sleep(float(headers.get("retry-after", 1)) * self.rng.random())
                continue
            return status, json.loads(answer)

    async def session(self) -> None:
        """From joining to the completion code."""
        body = {"client_id": self.client_id, "study": self.study, "consent": "1"}
        status, joined = await self.ask("POST", "/api/v1/sessions", body)
        assert status in (200, 201), joined
        self.token = joined["session"]
        while True:
            status, held = await self.ask("GET", "/api/v1/trials")
            assert status == 200, held
            if held["state"] == "done":
                self.completion = held["completion"]["code"]
                break
            for one in held["trials"]:
                for attribute in one["attributes"]:
                    if attribute["name"] not in one["answered"]:
                        await self.vote(one, attribute)
        for line in self._lines:
            line.close()

    def answer(self, one: dict[str, Any], attribute: dict[str, Any]) -> dict[str, Any]:
        answers = [a["value"] for a in attribute["answers"] if a["value"] not in ("skip", "marks")]
        return {
            "response_id": f"{self.rng.getrandbits(96):024x}",
            "trial": one["trial"],
            "attribute": attribute["name"],
            "revision": 1,
            "value": self.rng.choice(answers),
            "response_time_ms": 900.0,
            "presented_at": "2030-01-01T12:00:00.000Z",
        }

    async def vote(self, one: dict[str, Any], attribute: dict[str, Any]) -> None:
        body = self.answer(one, attribute)
        trouble = self.rng.random()
        if trouble < 0.1:  # gives up on a request that may have arrived
            self.sent.add(body["response_id"])
            line = self.rng.choice(self._lines)
            try:
                await line.send("POST", "/api/v1/ratings", body, self.token, abandon=True)
            except OSError:
                self.happened["gave up"] += 1
            await self.save(body)
        elif trouble < 0.2:  # the same answer twice at once
            await asyncio.gather(self.save(body, Line(self._port())), self.save(body))
            self.happened["sent twice"] += 1
        elif trouble < 0.3:  # two answers at once, as two windows give
            other = self.answer(one, attribute)
            await asyncio.gather(self.save(other, Line(self._port())), self.save(body))
            self.happened["answered twice"] += 1
        else:
            await self.save(body)
        if body["response_id"] in self.told and self.rng.random() < 0.2:  # again, much too late
            status, answer = await self.ask("POST", "/api/v1/ratings", body)
            assert status == 200, f"an answer that was saved is new again: {status} {answer}"
            self.happened["sent again"] += 1

    def _port(self) -> int:
        return self.rng.choice(self.ports)

    async def save(self, body: dict[str, Any], line: Line | None = None) -> None:
        """Send an answer until a server has an opinion on it."""
        self.sent.add(body["response_id"])
        status, answer = await self.ask("POST", "/api/v1/ratings", body, line)
        if line is not None:
            line.close()
        if status in (200, 201):
            self.told[body["response_id"]] = (body["trial"], body["attribute"], body["value"])
        else:  # another answer to this question was saved
            assert (status, answer["error"]["code"]) == (409, "revision"), (status, answer)
            self.happened["refused"] += 1


async def survive(
    replicas: Sequence[Replica], study: str, *, voters: int, trials: int, kills: int, seed: int
) -> tuple[list[Voter], int]:
    """Let voters answer whole sessions while a server is killed, again and again.

    Returns
    -------
    The voters, and how often a server was killed before the last of them had finished.
    """
    rng = random.Random(seed)
    ports = [replica.port for replica in replicas]
    for replica in replicas:
        replica.wait()
    crowd = [Voter(study, ports, random.Random(rng.random())) for _ in range(voters)]
    sessions = asyncio.gather(*(voter.session() for voter in crowd))
    done = 0
    for kill in range(1, kills + 1):
        due = kill * voters * trials // (kills + 1)
        while not sessions.done() and sum(len(voter.told) for voter in crowd) < due:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02 * rng.random())
        if sessions.done():
            break
        victim = replicas[kill % len(replicas)]
        victim.kill()
        done += 1
        victim.start()
        await asyncio.to_thread(victim.wait)
    await sessions
    return crowd, done


def judge(store: Store, study: str, crowd: Sequence[Voter]) -> dict[str, int]:
    """Hold the database to what the voters were told.

    Raises
    ------
    AssertionError
        An answer that was told to be saved is not there, or not as it was sent; a question has
        two answers or none; something is there that nobody sent; or somebody could not finish.
    """
    frame = store.ratings(study)
    told = {key: value for voter in crowd for key, value in voter.told.items()}
    sent = set().union(*(voter.sent for voter in crowd))
    saved = set(frame["response_id"])
    assert told.keys() <= saved, f"{len(told.keys() - saved)} saved answers are lost"
    assert saved <= sent, "the database holds what nobody sent"
    assert (frame.groupby(["trial", "attribute"]).size() == 1).all(), "a question has two answers"
    with store.engine.connect() as connection:
        tokens = {
            row.id: row.token for row in connection.execute(sa.select(trial.c.id, trial.c.token))
        }
        codes = set(connection.scalars(sa.select(session.c.completion)))
    value = frame["choice"] if "choice" in frame else frame["artifact"]
    for response_id, trial_id, attribute, choice in zip(
        frame["response_id"], frame["trial"], frame["attribute"], value, strict=True
    ):
        if response_id in told and "choice" in frame:
            assert told[response_id] == (tokens[trial_id], attribute, choice)
    sessions = store.sessions(store.study(study))
    assert len(sessions) == len(crowd), "somebody joined twice, or not at all"
    assert (sessions["rated_trials"] == sessions["trials"]).all()
    assert {voter.completion for voter in crowd} <= codes
    assert None not in {voter.completion for voter in crowd}
    happened = sum((voter.happened for voter in crowd), Counter[str]())
    return {"answers": len(frame), "told_saved": len(told), "lost": 0, "doubled": 0, **happened}


async def throughput(
    port: int,
    study: str,
    *,
    observers: int,
    seconds: float,
    every: float | None,
    seed: int = 0,
) -> np.ndarray:
    """Seconds from each vote to its acknowledgement, of observers who vote at the same time.

    ``every``: seconds from an observer's vote to the next one, whenever the answer comes; None: as
    soon as the last one is acknowledged. Trials are fetched in between, as the viewer does.
    """
    rng = random.Random(seed)
    times: list[float] = []
    clock = asyncio.get_running_loop().time

    async def observer(start: float) -> None:
        voter = Voter(study, [port], random.Random(rng.random()))
        body = {"client_id": voter.client_id, "study": study, "consent": "1"}
        _, joined = await voter.ask("POST", "/api/v1/sessions", body)
        voter.token = joined["session"]
        held: list[dict[str, Any]] = []
        position = 0
        joined_all.release()
        await begin.wait()
        due = clock() + start
        while clock() < end[0]:
            if not held:
                _, window = await voter.ask("GET", f"/api/v1/trials?after={position}")
                held = window["trials"]
                assert held, "the session is too short for this measurement"
            one = held.pop(0)
            position = one["position"]
            if every is not None:
                await asyncio.sleep(max(0.0, due - clock()))
                due += every
            for attribute in one["attributes"]:
                body = voter.answer(one, attribute)
                sent = clock()
                status, answer = await voter.ask("POST", "/api/v1/ratings", body)
                assert status == 201, answer
                times.append(clock() - sent)

    joined_all, begin, end = asyncio.Semaphore(0), asyncio.Event(), [float("inf")]
    tasks = [asyncio.create_task(observer((every or 0) * rng.random())) for _ in range(observers)]
    for _ in range(observers):
        await joined_all.acquire()
    end[0] = clock() + seconds
    begin.set()
    await asyncio.gather(*tasks)
    return np.array(times)
