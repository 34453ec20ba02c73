"""Colorize a manifest under every condition, on any number of processes.

The plan of batches is a function of the manifest's sizes and the settings alone. Ranks draw batch
numbers, largest first, from a counter that they share, so every item (photograph × condition) is
done exactly once, and the results are the same, byte for byte, at any world size. Every output is
whole or not there, and a journal line follows it, so a restart does only what is missing.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import percept
from percept import distributed
from percept.errors import InputError, PerceptError
from percept.files import PACKAGE, sha256_file
from percept.inference import color
from percept.inference.colorizer import Fault, Source, load_colorizer, one_line, parse_conditions
from percept.inference.directory import (
    STAGES,
    Item,
    Journal,
    RunDirectory,
    identity,
    now,
    writing,
)
from percept.inference.heap import keep_memory
from percept.inference.images import PNG_LEVEL, QUALITY, Encoding, Picture, bands, new_picture
from percept.inference.plan import (
    FULL_PIXELS,
    Batch,
    Portion,
    Tiling,
    fit,
    plan_batches,
    share_decoding,
    unfit,
)
from percept.inference.run import RUN_FORMAT
from percept.inference.spread import Spread, alone
from percept.inference.tiling import Grid, colorize_tiles
from percept.manifest import load_rgb, read_manifest

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHARDS = ("photos", "tiles")
# What each worker's time went into; the first two and the last three are its main thread's.
TIMES = ("compute", "wait_decode", "wait_encode", "wait_world", "gather")

# total, done and failed items of the whole world
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Failure:
    """An item that has no image, and why."""

    content_id: str
    condition: str
    error: str


@dataclass(frozen=True)
class Summary:
    """What :func:`infer` did.

    Attributes
    ----------
    root : Path
        The run directory.
    items : int
        Photographs × conditions.
    reused : int
        How many of them an earlier start had done.
    failures : tuple of Failure
        Items without an image, in manifest order, then condition order.
    warnings : tuple of str
    world : int
        Number of processes.
    seconds : float
        Wall time of this start.
    """

    root: Path
    items: int
    reused: int
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    world: int
    seconds: float


def infer(
    manifest: str | Path,
    conditions: Sequence[str],
    out: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    threads: int = 1,
    batch_megapixels: float | None = None,
    tile: int | None = None,
    overlap: int = 64,
    shard: str = "photos",
    compile: bool = False,
    format: str = "png",
    png_level: int = PNG_LEVEL,
    quality: int = QUALITY,
    queue_megapixels: float = FULL_PIXELS / 1e6,
    io_threads: int | None = None,
    split: str | None = None,
    fresh: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Summary:
    """Colorize every photograph of a manifest under every condition into a run directory.

    Every worker of a world calls this with the same arguments. A run that exists is resumed:
    what is there stays, what is missing or failed before is done.

    Parameters
    ----------
    manifest : str or Path
        Manifest file.
    conditions : sequence of str
        ``NAME=SPEC``; see :data:`percept.inference.colorizer.SPECS`.
    out : str or Path
        Run directory; made if needed.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``: what colorizers compute in, by autocast.
    threads : int
        Compute threads of each process. They change results, so they are a setting of the run
        and never follow from the number of processes.
    batch_megapixels : float, optional
        Padded megapixels per batch; 0 is one photograph at a time. By default 0 on the CPU,
        where batching gains nothing, and 8 on CUDA.
    tile : int, optional
        Photographs larger than the colorizer's view are coloured in tiles of this side at
        native resolution; see :mod:`percept.inference.tiling`. By default they are not.
    overlap : int
        Pixels that neighbouring tiles share.
    shard : str
        What processes share: ``photos``, or also the ``tiles`` of each photograph that is cut
        into them (see :mod:`percept.inference.spread`). Changes no result.
    compile : bool
        Compile networks with ``torch.compile``, once for each padded shape.
    format : str
        ``png``, ``jpeg`` or ``webp``.
    png_level : int
        zlib level of PNG, 0 to 9.
    quality : int
        Quality of JPEG, 1 to 100.
    queue_megapixels : float
        Photographs that a process holds at once, decoded but not written yet; bounds its memory.
        One that is larger is held alone. Changes no result.
    io_threads : int, optional
        Threads of each process that decode, and as many that encode. By default 1 on the CPU;
        with CUDA, this process's share of the machine's cores, at most 8. Changes no result.
    split : str, optional
        Only the manifest's rows of this split.
    fresh : bool
        Start over, removing what an earlier start made.
    command : sequence of str
        Recorded in ``run.json``.
    progress : callable, optional
        Called on the main worker with total, done and failed items.

    Raises
    ------
    InputError, InputErrors
        Bad manifest, condition or setting, or a run made with others; nothing is written.
    Interrupted
        The disk is full or the directory cannot be written any more; the same call resumes.
    """
    clock = time.perf_counter()
    started_at = now()
    target = distributed.pick_device(device)
    if batch_megapixels is None:
        batch_megapixels = 0.0 if target.type == "cpu" else 8.0
    _check_settings(precision, threads, batch_megapixels)
    _check_shard(shard, tile)
    encoding = Encoding(format, png_level, quality)
    tiling = None if tile is None else Tiling(tile, overlap)
    if queue_megapixels <= 0:
        raise InputError("must be more than 0", key="queue", value=queue_megapixels)
    if io_threads is None:
        io_threads = 1 if target.type == "cpu" else _share_of_cores()
    if io_threads < 1:
        raise InputError("at least one thread is needed", key="io-threads", value=io_threads)
    torch.set_num_threads(threads)
    if target.type == "cpu":
        keep_memory()
    if target.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False

    with distributed.process_group(target):
        with distributed.together():
            table = read_manifest(manifest)
            chosen = table if split is None else table.split(split)
            if not len(chosen):
                raise InputError("the manifest has no photographs", file=table.file)
            sources = [
                load_colorizer(name, spec, device=target, manifest=chosen, compile=compile)
                for name, spec in parse_conditions(conditions)
            ]
        root = Path(out)
        info = {
            "format": RUN_FORMAT,
            "state": "running",
            "command": list(command),
            "manifest": {
                "file": str(table.file),
                "sha256": table.sha256,
                "root": str(table.root.resolve()),
                "folder": os.path.relpath(table.root.resolve(), root.resolve()),
                "split": split,
            },
            "settings": {
                "device": target.type,
                "precision": precision,
                "threads": threads,
                "batch_megapixels": float(batch_megapixels),
                "tile": tile,
                "overlap": None if tile is None else overlap,
                "compile": compile,
                **encoding.settings(),
            },
            "pipeline": {
                "queue_megapixels": float(queue_megapixels),
                "io_threads": io_threads,
                "shard": shard,
            },
            "conditions": {s.condition.name: s.identity for s in sources},
            "seeds": {s.condition.name: s.condition.seed for s in sources},
            "versions": _versions(target),
            "metrics_skipped": {},
            "sessions": [],
        }
        with distributed.together():
            seen = distributed.all_gather_texts([json.dumps([identity(info), shard])])
            if len(set(seen)) > 1:
                raise InputError(
                    "the workers do not see the same manifest, conditions and settings",
                    remedy="Start all with one command, on a filesystem that they share.",
                )
        directory = RunDirectory(root, chosen, sources, info, suffix=encoding.suffix)
        spread = Spread() if shard == "tiles" and distributed.world_size() > 1 else None
        worker = _Worker(
            directory,
            target,
            PRECISIONS[precision],
            batch_megapixels * 1e6,
            tiling,
            encoding,
            spread,
        )
        pipeline = _Pipeline(worker, queue_megapixels * 1e6, io_threads, progress)
        with closing(directory):
            prior: list[Item] = []
            with distributed.together():
                if distributed.is_main():
                    prior = directory.open(fresh=fresh)
            items, reused, times = _work(pipeline, prior)
            seconds = time.perf_counter() - clock
            if distributed.is_main():
                session = {
                    "started_at": started_at,
                    "finished_at": now(),
                    "world": distributed.world_size(),
                    "items": len(items) - reused,
                    "seconds": round(seconds, 3),
                    "ranks": times,
                }
                with writing(root):
                    directory.finish(items, session)
            return Summary(
                root=root,
                items=len(items),
                reused=reused,
                failures=tuple(
                    Failure(*directory.names(item.index), item.error)
                    for item in items
                    if item.error
                ),
                warnings=tuple(dict.fromkeys(item.warning for item in items if item.warning)),
                world=distributed.world_size(),
                seconds=seconds,
            )


def _work(pipeline: _Pipeline, prior: list[Item]) -> tuple[list[Item], int, list[dict[str, float]]]:
    """Do what is missing, with the others.

    Returns every item of the world, how many of them were done before, and where each worker's
    time went.
    """
    worker, main = pipeline.worker, distributed.is_main()
    directory = worker.directory
    done = torch.zeros(len(directory), dtype=torch.bool)
    known = torch.tensor([item.index for item in prior], dtype=torch.int64)
    done[distributed.all_gather_rows(known)] = True
    frame = directory.manifest.frame
    sizes = [(int(w), int(h)) for w, h in zip(frame["width"], frame["height"], strict=True)]
    missing = [
        batch
        for batch in plan_batches(sizes, directory.sources, worker.batch_pixels, worker.tiling)
        if not all(done[directory.index(row, batch.condition)] for row in batch.rows)
    ]
    plan = share_decoding(missing, sizes)
    if main:
        pipeline.ok.add(len(prior))
    pipeline.report()
    with writing(directory.root), directory.journal(distributed.rank()) as journal:
        items = prior + pipeline.run(plan, sizes, done, journal)
    with pipeline.timed("wait_world"), ThreadPoolExecutor(1, "percept-wait") as waiter:
        # Meeting, unlike counting who has finished, fails where a worker has died.
        meeting = waiter.submit(distributed.barrier)
        while not wait([meeting], timeout=0.05 if main else None).done:
            pipeline.report()
        meeting.result()
    pipeline.report()
    with pipeline.timed("gather"):
        gathered = _gather(items)
    mine = torch.tensor([[pipeline.seconds[name] for name in TIMES]], dtype=torch.float64)
    times = [
        {name: round(value, 3) for name, value in zip(TIMES, row, strict=True)}
        for row in distributed.all_gather_rows(mine).tolist()
    ]
    return gathered, int(done.sum()), times


def _gather(items: Sequence[Item]) -> list[Item]:
    """Every rank's items, by index, on every rank: numbers as tensors, texts as bytes."""
    names = ("index", "bytes", "width", "height", "rank")
    numbers = torch.tensor(
        [[getattr(item, name) for name in names] for item in items], dtype=torch.int64
    ).reshape(-1, len(names))
    hashes = torch.tensor(
        [list(bytes.fromhex(item.sha256 or "00" * 32)) for item in items], dtype=torch.uint8
    ).reshape(-1, 32)
    seconds = torch.tensor(
        [[item.seconds[stage] for stage in STAGES] for item in items], dtype=torch.float64
    ).reshape(-1, len(STAGES))
    columns = zip(
        distributed.all_gather_rows(numbers).tolist(),
        distributed.all_gather_rows(hashes).tolist(),
        distributed.all_gather_rows(seconds).tolist(),
        distributed.all_gather_texts([item.error for item in items]),
        distributed.all_gather_texts([item.warning for item in items]),
        strict=True,
    )
    gathered = [
        Item(
            **dict(zip(names, number, strict=True)),
            sha256=bytes(sha256).hex(),
            seconds=dict(zip(STAGES, times, strict=True)),
            error=error,
            warning=warning,
        )
        for number, sha256, times, error, warning in columns
    ]
    return sorted(gathered, key=lambda item: item.index)


def _check_shard(shard: str, tile: int | None) -> None:
    if shard not in SHARDS:
        raise InputError(
            "unknown unit of work", key="shard", value=shard, remedy=f"Use {' or '.join(SHARDS)}."
        )
    if shard == "tiles" and tile is None:
        raise InputError("there are no tiles", key="shard", value=shard, remedy="Give --tile.")


def _check_settings(precision: str, threads: int, batch_megapixels: float) -> None:
    if precision not in PRECISIONS:
        raise InputError(
            "unknown precision",
            key="precision",
            value=precision,
            remedy=f"Use {', '.join(PRECISIONS)}.",
        )
    if threads < 1:
        raise InputError("at least one thread is needed", key="threads", value=threads)
    if not 0 <= batch_megapixels < float("inf"):
        raise InputError("must be 0 or more", key="batch-megapixels", value=batch_megapixels)


def _versions(device: torch.device) -> dict[str, str]:
    packages = ("torch", "numpy", "pandas", "pillow", "safetensors")
    return {
        "percept": percept.__version__,
        "python": platform.python_version(),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "platform": platform.platform(),
        **{name: version(name) for name in packages},
        **({"cuda": str(torch.version.cuda)} if device.type == "cuda" else {}),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _share_of_cores() -> int:
    share = distributed.cores()
    if "LOCAL_WORLD_SIZE" in os.environ:
        share //= int(os.environ["LOCAL_WORLD_SIZE"])
    elif distributed.in_world():
        # Slurm may have bound this task to cores of its own, or may not.
        share = min(share, int(os.environ.get("SLURM_CPUS_PER_TASK", "1")))
    return max(1, min(8, share))


@dataclass
class _Loaded:
    """A portion that is decoded.

    Attributes
    ----------
    portion : Portion
    items : dict of int to Item
        By number; those that were done before, too.
    photos : dict of int to ndarray
        By row, until the last of its pictures is written.
    fitted : dict of (row, scale) to Tensor
    left : Counter of int
        How many pictures of a row are to be written yet.
    """

    portion: Portion
    items: dict[int, Item] = field(default_factory=dict)
    photos: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    fitted: dict[tuple[int, tuple[int | None, int]], Tensor] = field(default_factory=dict)
    left: Counter[int] = field(default_factory=Counter)


def _turns(
    plan: Sequence[Portion], world: int, *, tiles: bool
) -> tuple[list[Portion], list[Portion]]:
    """Say what all processes do together, one after the other, and what they draw.

    The last portions, which are the smallest, are drawn batch by batch, so that the processes end
    at about the same time. It decides on who does what, not on what comes out.
    """
    shared = [portion for portion in plan if tiles and portion.tiled]
    drawn = [portion for portion in plan if not (tiles and portion.tiled)]
    whole = len(drawn) - world if world > 1 else len(drawn)
    single = [Portion(batch.rows, (batch,)) for p in drawn[max(0, whole) :] for batch in p.batches]
    return shared, drawn[: max(0, whole)] + single


class _Pipeline:
    """Decodes ahead and encodes behind, while this thread computes.

    What is in flight is bounded: by the pixels of the photographs from before they are decoded
    until they are written, by a few batches ahead, and by a few pictures behind.
    """

    def __init__(
        self, worker: _Worker, held_pixels: float, io_threads: int, progress: Progress | None
    ) -> None:
        self.worker, self.held_pixels, self.io_threads = worker, held_pixels, io_threads
        self.ok, self.failed = distributed.SharedCounter("ok"), distributed.SharedCounter("failed")
        self.seconds = dict.fromkeys(TIMES, 0.0)
        self._progress = progress if distributed.is_main() else None

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's time to ``seconds``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def report(self) -> None:
        """Tell how far the world is."""
        if self._progress is not None:
            errors = self.failed.value()
            self._progress(len(self.worker.directory), self.ok.value() + errors, errors)

    def run(
        self,
        plan: Sequence[Portion],
        sizes: Sequence[tuple[int, int]],
        done: Tensor,
        journal: Journal,
    ) -> list[Item]:
        """Draw portions until there are none; every item done, on disk and in the journal."""
        draw, worker = distributed.SharedCounter("portion"), self.worker
        rank, world, conditions = (
            distributed.rank(),
            distributed.world_size(),
            len(worker.directory.conditions),
        )
        shared, plan = _turns(plan, world, tiles=worker.spread is not None)
        together = deque((portion, turn % world) for turn, portion in enumerate(shared))
        items: list[Item] = []
        # Each with the process that does it; those that this one has not begun, and those it has.
        drawn: deque[tuple[Portion, int]] = deque()
        decoding: deque[tuple[Portion, int, Future[_Loaded] | None]] = deque()
        saving: dict[Future[Item], _Loaded] = {}
        held, more, writes = 0, True, threading.Lock()

        def pixels(portion: Portion) -> int:
            return sum(sizes[row][0] * sizes[row][1] for row in portion.rows)

        def look_ahead() -> None:
            nonlocal held, more
            while more and sum(at == rank for _, at, *_ in (*drawn, *decoding)) <= self.io_threads:
                if together:
                    drawn.append(together.popleft())
                    continue
                number = draw.next()
                more = number < len(plan)
                if more:
                    drawn.append((plan[number], rank))
            while drawn:
                portion, at = drawn[0]
                if at == rank:
                    if held and held + pixels(portion) > self.held_pixels:
                        return
                    held += pixels(portion)
                drawn.popleft()
                future = decoders.submit(worker.decode, portion, done) if at == rank else None
                decoding.append((portion, at, future))

        def save(item: Item, picture: Callable[[Item], None]) -> Item:
            picture(item)
            with writes:
                journal.append(item)
            (self.failed if item.error else self.ok).add(1)
            return item

        def let_go(loaded: _Loaded, row: int) -> None:
            nonlocal held
            loaded.photos.pop(row, None)
            held -= sizes[row][0] * sizes[row][1]

        def collect(*, until: int) -> None:
            while len(saving) > until or any(future.done() for future in saving):
                ended, _ = wait(saving, return_when=FIRST_COMPLETED)
                for future in ended:
                    loaded, item = saving.pop(future), future.result()
                    items.append(item)
                    row = item.index // conditions
                    loaded.left[row] -= 1
                    if not loaded.left[row]:
                        let_go(loaded, row)
                self.report()

        with (
            ThreadPoolExecutor(self.io_threads, "percept-decode") as decoders,
            ThreadPoolExecutor(self.io_threads, "percept-encode") as encoders,
        ):
            try:
                while True:
                    look_ahead()
                    if not decoding:
                        if not saving:
                            return items
                        with self.timed("wait_encode"):
                            collect(until=len(saving) - 1)
                        continue
                    portion, at, future = decoding.popleft()
                    if future is None:
                        with self.timed("compute"):
                            worker.help(portion, at, done)
                        self.report()
                        continue
                    with self.timed("wait_decode"):
                        loaded = future.result()
                    for row in portion.rows:
                        if not loaded.left[row]:  # an earlier start had done it
                            let_go(loaded, row)
                    for batch in portion.batches:
                        look_ahead()
                        with self.timed("wait_encode"):
                            collect(until=2 * self.io_threads)
                        with self.timed("compute"):
                            pictures = worker.compute(loaded, batch, done, encoders)
                        for item, picture in pictures:
                            saving[encoders.submit(save, item, picture)] = loaded
                    loaded.fitted.clear()
                    del loaded, future
            finally:
                if worker.spread is not None:
                    self.seconds["compute"] -= worker.spread.waited
                    self.seconds["wait_world"] += worker.spread.waited
                for pool in (decoders, encoders):
                    pool.shutdown(wait=False, cancel_futures=True)


class _Worker:
    """The stages that a batch goes through. Any thread may call them."""

    def __init__(
        self,
        directory: RunDirectory,
        device: torch.device,
        dtype: torch.dtype,
        batch_pixels: float,
        tiling: Tiling | None,
        encoding: Encoding,
        spread: Spread | None,
    ) -> None:
        self.directory, self.device, self.dtype = directory, device, dtype
        self.batch_pixels, self.tiling, self.encoding = batch_pixels, tiling, encoding
        self.spread = spread
        # For a condition and shape that the device's memory was too small for: how many it takes.
        self.most: dict[tuple[str, tuple[int, ...]], int] = {}

    def decode(self, portion: Portion, done: Tensor) -> _Loaded:
        """Read, check, decode and fit a portion's photographs, each once.

        All of a batch's even if only a part is missing: what a batch is made of must not depend
        on where an earlier start stopped.
        """
        loaded = _Loaded(portion)
        for row in portion.rows:
            batches = [batch for batch in portion.batches if row in batch.rows]
            items = [
                Item(self.directory.index(row, batch.condition), rank=distributed.rank())
                for batch in batches
            ]
            loaded.items |= {item.index: item for item in items}
            loaded.left[row] = sum(not done[item.index] for item in items)
            with _timed("decode", items):
                photo = self._decode(row, items)
                if photo is None:
                    continue
                loaded.photos[row] = photo
                for source in map(self._source, batches):
                    key = row, source.scale
                    if source.colorize is not None and not source.flat and key not in loaded.fitted:
                        loaded.fitted[key] = fit(photo, source)
        return loaded

    def compute(
        self, loaded: _Loaded, batch: Batch, done: Tensor, encoders: ThreadPoolExecutor
    ) -> list[tuple[Item, Callable[[Item], None]]]:
        """Colour a batch; each item that is wanted, with what is left to do for it."""
        source, outputs = self._source(batch), dict[int, Tensor]()
        items = {
            row: loaded.items[self.directory.index(row, batch.condition)] for row in batch.rows
        }
        good = {row: item for row, item in items.items() if not item.error}
        wanted = {row: item for row, item in items.items() if not done[item.index]}
        leading = self.spread.leading() if batch.tiled and self.spread else nullcontext()
        with leading:
            if good.keys() & wanted.keys() and source.colorize is not None and not source.flat:
                fitted = [loaded.fitted[row, source.scale] for row in good]
                try:
                    with _timed("compute", list(good.values())):
                        luminance = fitted[0] if len(fitted) == 1 else torch.cat(fitted)
                        output = self._colorize(source, luminance, list(good.values()))
                    outputs = dict(zip(good, output, strict=True))
                    if batch.tiled:
                        ((row, item),) = good.items()
                        self._save_tiles(source, item, loaded.photos[row], output[0], encoders)
                        return [(item, lambda item: None)]
                except Fault as fault:
                    for item in good.values():
                        item.error = f"the colorizer failed: {fault}"

        def finish(item: Item) -> None:
            row = item.index // len(self.directory.conditions)
            if not item.error:
                self._save(source, row, item, loaded.photos[row], outputs.pop(row, None))

        return [(item, finish) for item in wanted.values()]

    def help(self, portion: Portion, leader: int, done: Tensor) -> None:
        """Colour tiles of a portion's photographs that another process leads."""
        for batch in portion.batches:
            if batch.tiled:
                self._follow(self._source(batch), batch, leader)

    def _follow(self, source: Source, batch: Batch, leader: int) -> None:
        (row,) = batch.rows
        entry = self.directory.rows[row]
        item = Item(self.directory.index(row, batch.condition))
        grid = self._grid(source, int(entry["width"]), int(entry["height"]))
        if self.spread is not None:
            self.spread.follow(
                grid,
                leader,
                lambda luminance: self._colorize(source, luminance, [item]),
                lambda: item.warning,
            )

    def _source(self, batch: Batch) -> Source:
        source = self.directory.sources[batch.condition]
        return self.tiling.view(source) if batch.tiled and self.tiling is not None else source

    def _grid(self, source: Source, width: int, height: int) -> Grid:
        if self.tiling is None:
            raise ValueError("tiles without a tiling")
        return Grid.lay(height, width, source, self.tiling, self.batch_pixels)

    def _decode(self, row: int, items: Sequence[Item]) -> NDArray[np.uint8] | None:
        """Read, check and decode a photograph, or nothing and an error in its items."""
        fact = Item(row)
        photo = self._read(row, fact)
        for item in items:
            item.error, item.warning = fact.error, fact.warning
            item.width, item.height = fact.width, fact.height
        return photo

    def _read(self, row: int, item: Item) -> NDArray[np.uint8] | None:
        entry = self.directory.rows[row]
        path = str(entry["path"])
        try:
            file = self.directory.manifest.resolve(path)
            sha256 = sha256_file(file)
            if sha256 != entry["sha256"]:
                if not path.startswith(PACKAGE):
                    item.error = f"{path}: its SHA-256 is {sha256}, not the manifest's"
                    return None
                item.warning = f"{path}: the installed package has another version of it"
            rgb = load_rgb(file)
        except (PerceptError, OSError, MemoryError) as error:
            item.error = f"{path}: {_reason(error)}"
            return None
        item.height, item.width = rgb.shape[:2]
        width, height = entry["width"], entry["height"]
        if (item.width, item.height) != (width, height):
            size = f"{item.width}×{item.height}"
            item.error = f"{path}: it is {size}, the manifest says {width}×{height}"
            return None
        if all(_is_grey(rgb[band]) for band in bands(item.height, item.width)):
            return rgb[..., 0].copy()  # a third of the memory, and L* by table
        return rgb

    def _find(self, source: Source, row: int, item: Item) -> NDArray[np.uint8] | None:
        """Read the picture that was made elsewhere, or nothing and an error."""
        try:
            if source.find is None:
                raise ValueError("nothing to find")
            file = source.find(self.directory.rows[row])
            picture = load_rgb(file)
        except (PerceptError, OSError) as error:
            item.error = _reason(error)
            return None
        height, width = picture.shape[:2]
        if (height, width) != (item.height, item.width):
            item.error = (
                f"{file.name}: it is {width}×{height}, the photograph is {item.width}×{item.height}"
            )
            return None
        return picture

    def _colorize(self, source: Source, luminance: Tensor, items: Sequence[Item]) -> Tensor:
        """Call a colorizer; in parts where the device's memory is too small for the whole."""
        name, count = source.condition.name, len(luminance)
        key = (name, tuple(luminance.shape[1:]))
        most = self.most.get(key, count)
        if most < count:
            return torch.cat(
                [self._colorize(source, part, items) for part in luminance.split(most)]
            )
        if source.colorize is None:
            raise Fault("it colours nothing")
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
            ):
                batch = luminance.to(self.device)
                output = source.colorize(batch)
                problem = _problem(output, batch)
        except torch.cuda.OutOfMemoryError as error:
            if count == 1:
                remedy = "" if self.tiling else "; --tile needs less"
                raise Fault(f"{one_line(error)}{remedy}") from None
        except Exception as error:  # a plugin's fault
            raise Fault(one_line(error)) from None
        else:
            if problem:
                raise Fault(problem)
            return output
        # Out of the handler, whose traceback would keep what the call had allocated.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.most[key] = half = (count + 1) // 2
        size = f"{luminance.shape[3]}×{luminance.shape[2]}"
        for item in items:
            item.warning = (
                f"condition {name!r}: the device's memory was too small for {count} of {size} at "
                f"once; did {half}"
            )
        return self._colorize(source, luminance, items)

    def _save(
        self,
        source: Source,
        row: int,
        item: Item,
        photo: NDArray[np.uint8],
        output: Tensor | None,
    ) -> None:
        """Lay a colorizer's output on the photograph, band by band, and write the picture.

        A picture that was made elsewhere is read only now, so that no more are held than are
        being written.
        """
        if source.find is not None:
            with _timed("decode", [item]):
                made = self._find(source, row, item)
            if made is None:
                return
            photo = made
        with (
            self._picture(item) as picture,
            _timed("encode", [item]),
            torch.inference_mode(),
        ):
            for band in bands(item.height, item.width):
                if source.find is not None:
                    picture.write(photo[band])
                    continue
                luminance = color.luminance(photo[band])
                if source.colorize is not None and source.flat:
                    values = source.colorize(luminance[None, None] / 100)[0]
                elif output is not None:
                    values = unfit(output, source, item.width, item.height, band)
                picture.write(_lay(luminance, values))
            picture.finish()

    def _save_tiles(
        self,
        source: Source,
        item: Item,
        photo: NDArray[np.uint8],
        view: Tensor,
        encoders: ThreadPoolExecutor,
    ) -> None:
        """Colour a photograph tile by tile, and write each band while the next is computed."""
        grid = self._grid(source, item.width, item.height)

        def colorize(luminance: Tensor) -> Tensor:
            return self._colorize(source, luminance, [item])

        def warn(text: str) -> None:
            item.warning = text

        def details(grid: Grid, luminances: Iterator[Tensor]) -> Iterator[Iterable[Tensor]]:
            if self.spread is None:
                return alone(grid, luminances, colorize)
            return self.spread.lead(grid, luminances, colorize, warn)

        parts = colorize_tiles(photo, view, source, grid, details)
        with self._picture(item) as picture, torch.inference_mode():
            before: Future[None] | None = None
            try:
                while True:
                    with self._timed_with_others(item):
                        part = next(parts, None)
                    if before is not None:
                        before.result()
                    if part is None:
                        break
                    band, values = part
                    before = encoders.submit(_write_band, item, picture, photo[band], values)
            finally:
                if before is not None:
                    wait([before])
            picture.finish()

    @contextmanager
    def _timed_with_others(self, item: Item) -> Iterator[None]:
        """Add the block's time as compute: others' work for it, too, not the wait for them."""

        def others() -> float:
            return self.spread.helped - self.spread.waited if self.spread else 0.0

        before = others()
        with _timed("compute", [item]):
            yield
        item.seconds["compute"] += others() - before

    @contextmanager
    def _picture(self, item: Item) -> Iterator[Picture]:
        """Write an item's picture; or, where it cannot be made, note why."""
        file = self.directory.root / self.directory.image(item.index)
        try:
            with new_picture(file, item.width, item.height, self.encoding) as picture:
                yield picture
                start = time.perf_counter()
            item.seconds["write"] += time.perf_counter() - start
            item.sha256, item.bytes = picture.sha256, picture.bytes
        except InputError as error:
            item.error = error.message
        except (RuntimeError, MemoryError) as error:  # out of memory
            item.error = f"cannot be brought to full size: {one_line(error)}"


def _write_band(item: Item, picture: Picture, photo: NDArray[np.uint8], values: Tensor) -> None:
    with _timed("encode", [item]), torch.inference_mode():
        for part in bands(*photo.shape[:2]):
            picture.write(_lay(color.luminance(photo[part]), values[:, part]))


def _is_grey(rgb: NDArray[np.uint8]) -> bool:
    red, green, blue = (rgb[..., channel] for channel in range(3))
    return bool((red == green).all() and (green == blue).all())


def _lay(luminance: Tensor, values: Tensor) -> NDArray[np.uint8]:
    """Lay chroma on a photograph's luminance; sRGB is taken as it is."""
    if values.shape[0] == 3:
        return color.quantize(values)
    return color.to_srgb(luminance.to(values.device), values)


def _problem(output: object, batch: Tensor) -> str:
    expected = [(batch.shape[0], channels, *batch.shape[2:]) for channels in (2, 3)]
    if not isinstance(output, Tensor):
        return f"it returned a {type(output).__name__}, not a tensor"
    if tuple(output.shape) not in expected:
        return f"it returned shape {tuple(output.shape)}, not {expected[0]} or {expected[1]}"
    if not bool(torch.isfinite(output).all()):
        return "it returned values that are not finite"
    return ""


def _reason(error: BaseException) -> str:
    """Say what is wrong without the file's absolute place, which is no part of the result."""
    if isinstance(error, InputError):
        return error.message + (f". {error.remedy}" if error.remedy else "")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)


@contextmanager
def _timed(stage: str, items: Sequence[Item]) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        for item in items:
            item.seconds[stage] += (time.perf_counter() - start) / len(items)
