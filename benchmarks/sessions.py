"""How fast a rating session is, beside a plain Streamlit page of the same task, in one run.

    python benchmarks/sessions.py
    python benchmarks/sessions.py --skip-browser

Measured are, on this machine, one after the other:

- key press to the next pair painted, in Chromium, with photographs of 1024 × 1024 and no grey
  field between trials: from the key event's own time stamp to the frame that has both images.
  Once on the loopback, once through a proxy with a round trip of 50 ms and 20 Mbit/s;
- votes acknowledged per second by 100 observers at once: paced, each voting every ``--every``
  seconds whether or not the answer has come, and flat out. An acknowledged vote is durable
  (SQLite with ``synchronous=FULL``). The plain page is driven over its websocket, without a
  browser: a vote is acknowledged when the rerun that saved it has ended.

The load comes from this process, on the same cores. Printed is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from playwright.sync_api import Page, sync_playwright  # noqa: E402

from percept.store import Store, open_store  # noqa: E402
from percept.study import create_study  # noqa: E402
from tests.app.crowd import Replica, free_port, throughput  # noqa: E402
from tests.app.observer import Observer  # noqa: E402
from tests.browser import FLAGS, REMEDY, find  # noqa: E402
from tests.tiny_run import make_run, tiny_protocol  # noqa: E402

HERE = Path(__file__).resolve().parent

# Runs in every page. What is on view is the addresses of the images once all have loaded; the time
# is that of its last change after a key press (pages may change one image after the other), taken
# when a message posted from that frame arrives: the frame has been handed over then.
STOPWATCH = """
window.stopwatch = [];
window.onView = () => {
  const viewer = document.querySelector("#percept-viewer")?.shadowRoot;
  const images = viewer
    ? [...viewer.querySelectorAll(".stage.current .frame img")]
    : [...document.querySelectorAll("[data-testid=stImage] img")];
  const loaded = images.length >= 2 && images.every((one) => one.complete && one.naturalWidth);
  return loaded ? images.map((image) => image.src).join() : null;
};
let pressed = 0, last = null, changed = 0;
addEventListener("keydown", (event) => {
  if (event.key.startsWith("Arrow")) [pressed, last, changed] = [event.timeStamp, onView(), 0];
}, true);
const look = () => {
  const now = pressed && onView();
  if (now && now !== last) {
    last = now;
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (changed = performance.now());
    port2.postMessage(0);
  } else if (changed && performance.now() - changed > 300) {
    window.stopwatch.push(changed - pressed);
    pressed = changed = 0;
  }
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""


def photographs(folder: Path, count: int, side: int = 1024) -> None:
    """Colour photographs of installed packages, cropped, enlarged, with grain, in three tones."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_images

    sources = [data.astronaut(), data.chelsea(), data.coffee(), *load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(count):
        source = Image.fromarray(sources[number % len(sources)])
        shortest = min(source.size)
        x, y = (int(rng.integers(0, size - shortest // 2 + 1)) for size in source.size)
        crop = source.crop((x, y, x + shortest // 2, y + shortest // 2))
        pixels = np.asarray(crop.resize((side, side), Image.Resampling.LANCZOS), dtype=float)
        grey = pixels.mean(axis=2, keepdims=True) + rng.normal(0, 5, (side, side, 1))
        for name, strength in (("gray", 0.0), ("a", 0.6), ("b", 1.0), ("c", 1.4)):
            toned = grey + strength * (pixels - pixels.mean(axis=2, keepdims=True))
            file = folder / name / f"photo{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(toned, 0, 255).astype(np.uint8)).save(file, compress_level=6)


def study_of(folder: Path, images: Path, store: Store, name: str, **values: Any) -> None:
    """Write a run on the photographs, and a pairwise study of it."""
    from percept.inference.run import open_run

    count = len(list((images / "gray").iterdir()))
    run = make_run(folder, contents=count, conditions=("a", "b", "c"), size=(1024, 1024))
    import hashlib

    import pandas as pd

    outputs = pd.read_parquet(run.root / "outputs.parquet")
    for index, row in outputs.iterrows():
        file = run.root / row["path"]
        file.write_bytes((images / row["condition"] / f"{row['content_id']}.png").read_bytes())
        outputs.loc[index, "sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    outputs.to_parquet(run.root / "outputs.parquet")
    create_study(open_run(run.root), tiny_protocol(**values), store, name)


# Key press to the next pair painted -------------------------------------------------------------


@contextlib.contextmanager
def browser_page() -> Iterator[Page]:
    path = find()
    if path is None:
        raise SystemExit(REMEDY)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        page.add_init_script(STOPWATCH)
        yield page
        browser.close()


def press(page: Page, presses: int, pace: float, ready: Callable[[], object]) -> list[float]:
    """Vote again and again, ``pace`` seconds after each pair is on view."""
    for count in range(presses):
        ready()
        page.wait_for_timeout(pace * 1000)
        page.keyboard.press(("ArrowLeft", "ArrowRight")[count % 2])
        page.wait_for_function(f"window.stopwatch.length > {count}")
    times: list[float] = page.evaluate("window.stopwatch")
    return times


def press_percept(base: str, study: str, presses: int, pace: float) -> list[float]:
    with browser_page() as page:
        observer = Observer(page, base, study)
        observer.arrive()
        return press(page, presses, pace, observer.ready)


def press_plain(base: str, presses: int, pace: float) -> list[float]:
    with browser_page() as page:
        page.goto(base)
        return press(page, presses, pace, lambda: page.wait_for_function("window.onView()"))


def summary(times_ms: Any) -> dict[str, float]:
    values = np.asarray(times_ms)
    return {
        "n": len(values),
        "median_ms": round(float(np.median(values)), 1),
        "p95_ms": round(float(np.percentile(values, 95)), 1),
        "max_ms": round(float(values.max()), 1),
    }


class Proxy:
    """A TCP proxy with ``delay`` seconds each way and one bucket of bandwidth each way."""

    def __init__(self, port: int, delay: float, bits_per_second: float) -> None:
        self.to, self.delay, self.rate = port, delay, bits_per_second / 8
        self.port = free_port()
        self._free = {"up": 0.0, "down": 0.0}

    async def serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        async with server:
            await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pipe(reader, back, "up"), self._pipe(there, writer, "down"))

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        clock = asyncio.get_running_loop().time
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def receive() -> None:
            with contextlib.suppress(OSError):
                while chunk := await reader.read(4096):
                    # The line is busy until this chunk has gone through.
                    self._free[way] = max(clock(), self._free[way]) + len(chunk) / self.rate
                    await queue.put((self._free[way] + self.delay, chunk))
                    await asyncio.sleep(max(0.0, self._free[way] - clock()))
            await queue.put((clock() + self.delay, b""))

        async def deliver() -> None:
            with contextlib.suppress(OSError):
                while True:
                    due, chunk = await queue.get()
                    await asyncio.sleep(max(0.0, due - clock()))
                    if not chunk:
                        break
                    writer.write(chunk)
                    await writer.drain()
            writer.close()

        await asyncio.gather(receive(), deliver())


@contextlib.contextmanager
def slow_line(port: int, delay: float = 0.025, bits_per_second: float = 20e6) -> Iterator[int]:
    """Run a :class:`Proxy` in a process of its own; yields its port."""
    proxy = Proxy(port, delay, bits_per_second)
    words = f"import sys; sys.path[:0] = [{str(HERE)!r}]; import asyncio, sessions; "
    words += f"p = sessions.Proxy({port}, {delay}, {bits_per_second}); p.port = {proxy.port}; "
    child = subprocess.Popen([sys.executable, "-c", words + "asyncio.run(p.serve())"])
    try:
        wait_for(proxy.port, child)
        yield proxy.port
    finally:
        child.terminate()
        child.wait()


def wait_for(port: int, child: subprocess.Popen[bytes]) -> None:
    import socket

    while child.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("a child process ended early")


@contextlib.contextmanager
def plain_page(images: Path, db: Path) -> Iterator[int]:
    """Run the plain page; yields its port."""
    port = free_port()
    options = {
        "server.port": port,
        "server.address": "127.0.0.1",
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(HERE / "plain_page.py")]
        + [f"--{key}={value}" for key, value in options.items()],
        env={**os.environ, "PLAIN_IMAGES": str(images), "PLAIN_DB": str(db)},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(port, child)
        yield port
    finally:
        child.terminate()
        child.wait()


# Votes per second -------------------------------------------------------------------------------


async def plain_throughput(
    port: int, *, observers: int, seconds: float, every: float | None, seed: int = 0
) -> np.ndarray:
    """The same as :func:`tests.app.crowd.throughput`, on the plain page's websocket."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.asyncio.client import connect

    rng = random.Random(seed)
    clock = asyncio.get_running_loop().time
    times: list[float] = []
    begin, end = asyncio.Event(), [float("inf")]
    there = asyncio.Semaphore(0)

    async def rerun(line: Any, button: str | None) -> str:
        message = BackMsg()
        message.rerun_script.query_string = ""
        if button:
            state = message.rerun_script.widget_states.widgets.add()
            state.id, state.trigger_value = button, True
        await line.send(message.SerializeToString())
        left = ""
        while True:
            answer = ForwardMsg.FromString(await line.recv())
            kind = answer.WhichOneof("type")
            if kind == "delta" and answer.delta.new_element.WhichOneof("type") == "button":
                if answer.delta.new_element.button.label == "Left":
                    left = answer.delta.new_element.button.id
            elif kind == "script_finished":
                assert answer.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY, answer
                return left or (button or "")

    async def observer(start: float) -> None:
        address = f"ws://127.0.0.1:{port}/_stcore/stream"
        async with connect(address, subprotocols=["streamlit"], max_size=None) as line:  # type: ignore[list-item]
            button = await rerun(line, None)
            assert button
            there.release()
            await begin.wait()
            due = clock() + start
            while clock() < end[0]:
                if every is not None:
                    await asyncio.sleep(max(0.0, due - clock()))
                    due += every
                sent = clock()
                button = await rerun(line, button)
                times.append(clock() - sent)

    tasks = [asyncio.create_task(observer((every or 0) * rng.random())) for _ in range(observers)]
    for _ in range(observers):
        await there.acquire()
    end[0] = clock() + seconds
    begin.set()
    await asyncio.gather(*tasks)
    return np.array(times)


def rate_of(measure: Callable[..., Any], port: int, *words: Any, **settings: Any) -> dict[str, Any]:
    times = asyncio.run(measure(port, *words, **settings))
    rate = round(len(times) / settings["seconds"], 1)
    return {"votes_per_second": rate, **summary(1000 * times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presses", type=int, default=40)
    parser.add_argument("--pace", type=float, default=0.6, help="seconds on each pair, loopback")
    parser.add_argument("--slow-pace", type=float, default=3.0, help="the same, slow line")
    parser.add_argument("--observers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--every", type=float, default=0.45)
    parser.add_argument("--skip-browser", action="store_true")
    parser.add_argument("--skip-plain", action="store_true")
    args = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sessions-") as name:
        home = Path(name)
        db = home / "study.db"
        with open_store(db, create=True) as store:
            free = {"isi_ms": 0, "break_every": 0, "practice": 0, "repeats": 0}
            votes = tiny_protocol(trials=180, **free)
            create_study(make_run(home / "tiny", contents=60), votes, store, "votes")
            images = home / "images"
            photographs(images, 2 if args.skip_browser else 14)
            if not args.skip_browser:
                watched = {**free, "trials": args.presses + 2, "min_view_ms": 100}
                study_of(home / "large", images, store, "watched", **watched)
                files = list(store.stimuli_folder().glob("*.png"))
                large = [file.stat().st_size for file in files if file.stat().st_size > 100_000]
                report["image_megabytes"] = round(float(np.mean(large)) / 1e6, 2)

        def measure(kind: str, port: int, key: Callable[[str, float], list[float]]) -> None:
            if args.skip_browser:
                return
            local = f"http://127.0.0.1:{port}"
            report.setdefault("key_to_next_pair", {})[kind] = summary(key(local, args.pace))
            with slow_line(port) as slow:
                kept = report.setdefault("key_to_next_pair_50ms_20mbit", {})
                kept[kind] = summary(key(f"http://127.0.0.1:{slow}", args.slow_pace))

        load = {"observers": args.observers, "seconds": args.seconds}
        replica = Replica(f"sqlite:///{db}", log=home / "server.log")
        try:
            replica.wait()
            measure(
                "percept",
                replica.port,
                lambda base, pace: press_percept(base, "watched", args.presses, pace),
            )
            for label, every in (("paced", args.every), ("flat_out", None)):
                report.setdefault(f"votes_{label}", {})["percept"] = rate_of(
                    throughput, replica.port, "votes", every=every, seed=len(label), **load
                )
        finally:
            replica.stop()
        if not args.skip_plain:
            with plain_page(images, home / "plain.db") as port:
                measure(
                    "plain",
                    port,
                    lambda base, pace: press_plain(base, args.presses, pace),
                )
                report["votes_flat_out"]["plain"] = rate_of(
                    plain_throughput, port, every=None, **load
                )
        if b"Traceback" in (log := (home / "server.log").read_bytes()):
            print(log.decode()[-3000:], file=sys.stderr)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
