"""Colorize a manifest under every condition, on any number of processes.

The plan of batches is a function of the manifest's sizes and the settings alone. Ranks draw batch
numbers, largest first, from a counter that they share, so every item (photograph × condition) is
done exactly once, and the results are the same, byte for byte, at any world size. Every output is
whole or not there, and a journal line follows it, so a restart does only what is missing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import percept
from percept import distributed
from percept.errors import InputError, Interrupted, PerceptError
from percept.inference import color
from percept.inference.colorizer import Source, load_colorizer, one_line, parse_conditions
from percept.inference.run import (
    RUN_FORMAT,
    read_json,
    write_bytes_atomic,
    write_conditions,
    write_json_atomic,
    write_parquet_atomic,
)
from percept.manifest import PACKAGE, Manifest, load_rgb, read_manifest, sha256_file

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STAGES = ("decode", "compute", "encode", "write")
# Photographs of a batch are held in memory at full resolution, together up to this many pixels.
FULL_PIXELS = 64_000_000
# The lowest level takes a quarter of the default's time for files that are a little larger.
PNG_LEVEL = 1

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
    started_at = _now()
    target = distributed.pick_device(device)
    if batch_megapixels is None:
        batch_megapixels = 0.0 if target.type == "cpu" else 8.0
    _check_settings(precision, threads, batch_megapixels)
    torch.set_num_threads(threads)
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
                load_colorizer(name, spec, device=target, manifest=chosen)
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
            },
            "conditions": {
                s.condition.name: s.condition.sha256 or s.condition.spec for s in sources
            },
            "seeds": {s.condition.name: s.condition.seed for s in sources},
            "versions": _versions(),
            "metrics_skipped": {},
            "sessions": [],
        }
        worker = _Worker(_Directory(root, chosen, sources, info), target, PRECISIONS[precision])
        with closing(worker.directory) as directory:
            prior: list[_Item] = []
            with distributed.together():
                if distributed.is_main():
                    prior = directory.open(fresh=fresh)
            items, reused = _work(worker, prior, batch_megapixels * 1e6, progress)
            summary = Summary(
                root=root,
                items=len(directory),
                reused=reused,
                failures=tuple(
                    Failure(*directory.names(item.index), item.error)
                    for item in items
                    if item.error
                ),
                warnings=tuple(dict.fromkeys(item.warning for item in items if item.warning)),
                world=distributed.world_size(),
                seconds=time.perf_counter() - clock,
            )
            if distributed.is_main():
                with _writing(root):
                    directory.finish(items, summary, started_at)
    return summary


def _work(
    worker: _Worker, prior: list[_Item], batch_pixels: float, progress: Progress | None
) -> tuple[list[_Item], int]:
    """Do what is missing, with the others; every item of the world, and how many were done."""
    directory, main = worker.directory, distributed.is_main()
    done = torch.zeros(len(directory), dtype=torch.bool)
    known = torch.tensor([item.index for item in prior], dtype=torch.int64)
    done[distributed.all_gather_rows(known)] = True

    frame = directory.manifest.frame
    sizes = [(int(w), int(h)) for w, h in zip(frame["width"], frame["height"], strict=True)]
    plan = [
        batch
        for batch in plan_batches(sizes, directory.sources, batch_pixels)
        if not all(done[directory.index(row, batch.condition)] for row in batch.rows)
    ]
    draw, finished = distributed.SharedCounter("batch"), distributed.SharedCounter("finished")
    ok, failed = distributed.SharedCounter("ok"), distributed.SharedCounter("failed")

    def report() -> None:
        if main and progress is not None:
            errors = failed.value()
            progress(len(directory), ok.value() + errors, errors)

    items = list(prior)
    ok.add(len(prior))
    report()
    with _writing(directory.root), directory.journal(distributed.rank()) as journal:
        while (number := draw.next()) < len(plan):
            for item in worker.run(plan[number], done):
                journal.append(item)
                items.append(item)
                (failed if item.error else ok).add(1)
                report()
    finished.add(1)
    while main and finished.value() < distributed.world_size():
        time.sleep(0.1)
        report()
    return _gather(items), int(done.sum())


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


# -- the plan -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Photographs of equal padded shape that one condition colours in one call.

    Attributes
    ----------
    condition : int
        Index of the condition.
    rows : tuple of int
        Indices of the manifest's rows, ascending.
    shape : tuple of int
        Padded height and width; (0, 0) where nothing is computed.
    """

    condition: int
    rows: tuple[int, ...]
    shape: tuple[int, int]


def plan_batches(
    sizes: Sequence[tuple[int, int]], sources: Sequence[Source], batch_pixels: float
) -> list[Batch]:
    """Cut the work into batches, largest first: a pure function of its arguments.

    Parameters
    ----------
    sizes : sequence of (width, height)
        Of each photograph, in manifest order.
    sources : sequence of Source
        Their ``max_side``, ``divisor`` and whether they ``colorize`` are looked at.
    batch_pixels : float
        Padded pixels that a batch may have; a photograph that has more is a batch of its own.

    Returns
    -------
    list of Batch
        Every row under every condition exactly once.
    """
    batches = []
    for index, source in enumerate(sources):
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (width, height) in enumerate(sizes):
            if source.colorize is None:
                batches.append(Batch(index, (row,), (0, 0)))
            else:
                groups.setdefault(padded_shape(width, height, source), []).append(row)
        for shape, rows in groups.items():
            first, full = 0, 0
            for position, row in enumerate(rows):
                pixels = sizes[row][0] * sizes[row][1]
                count = position - first
                if count and (
                    (count + 1) * shape[0] * shape[1] > batch_pixels or full + pixels > FULL_PIXELS
                ):
                    batches.append(Batch(index, tuple(rows[first:position]), shape))
                    first, full = position, 0
                full += pixels
            batches.append(Batch(index, tuple(rows[first:]), shape))

    def cost(batch: Batch) -> int:
        # A pixel costs about ten times as much to compute as to decode and encode.
        computed = len(batch.rows) * batch.shape[0] * batch.shape[1]
        return 10 * computed + sum(sizes[row][0] * sizes[row][1] for row in batch.rows)

    return sorted(batches, key=lambda batch: (-cost(batch), batch.condition, batch.rows))


def working_size(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """Width and height of a photograph scaled down to a largest side of ``max_side``."""
    if max_side is None or max(width, height) <= max_side:
        return width, height
    scale = max_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def padded_shape(width: int, height: int, source: Source) -> tuple[int, int]:
    """Height and width that a photograph has for a condition; depends on nothing else."""
    width, height = working_size(width, height, source.max_side)
    divisor = source.divisor
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


# -- from a photograph to its colours -----------------------------------------------------------


def fit(luminance: Tensor, source: Source) -> Tensor:
    """Scale and pad a photograph's L*, shape (H, W), to what a condition's colorizer takes.

    Returns
    -------
    Tensor of float32, shape (1, 1, height, width)
        L*/100, padded at the right and the bottom by repeating the edge.
    """
    height, width = luminance.shape
    small_width, small_height = working_size(width, height, source.max_side)
    small = luminance[None, None] / 100
    if (small_height, small_width) != (height, width):
        small = torch.nn.functional.interpolate(
            small, (small_height, small_width), mode="bilinear", antialias=True
        ).clamp_(0, 1)
    bottom, right = padded_shape(width, height, source)
    padding = (0, right - small_width, 0, bottom - small_height)
    return torch.nn.functional.pad(small, padding, mode="replicate")


def unfit(values: Tensor, source: Source, width: int, height: int) -> Tensor:
    """Crop and scale a colorizer's output, shape (C, h, w), back to the photograph's size."""
    small_width, small_height = working_size(width, height, source.max_side)
    values = values[:, :small_height, :small_width].float()
    if (small_height, small_width) == (height, width):
        return values
    return torch.nn.functional.interpolate(
        values[None], (height, width), mode="bilinear", align_corners=False
    )[0]


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """Encode 8-bit RGB, shape (H, W, 3), as a PNG without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


@dataclass
class _Item:
    """What became of one photograph under one condition; an empty ``error`` is success."""

    index: int
    error: str = ""
    warning: str = ""
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    rank: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


class _Worker:
    """Does batches: decodes, computes, encodes, writes."""

    def __init__(
        self,
        directory: _Directory,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.directory, self.device, self.dtype = directory, device, dtype

    def run(self, batch: Batch, done: Tensor) -> Iterator[_Item]:
        """Do a batch; yield each item that was not done once it is on disk or has failed.

        The whole batch is computed even if only a part is missing: what a batch is made of must
        not depend on where an earlier start stopped.
        """
        source = self.directory.sources[batch.condition]
        rows = {self.directory.index(row, batch.condition): row for row in batch.rows}
        items = [_Item(index, rank=distributed.rank()) for index in rows]
        luminance = {item.index: self._decode(rows[item.index], item) for item in items}
        outputs: dict[int, Tensor] = {}
        if source.colorize is not None:
            good = [item for item in items if not item.error]
            if not all(done[item.index] for item in good):
                outputs = self._compute(source, good, [luminance[item.index] for item in good])
        for item in items:
            if done[item.index]:
                continue
            picture: NDArray[np.uint8] | None = None
            if source.find is not None:
                picture = self._find(source.find, rows[item.index], item)
            elif not item.error:
                with _timed("encode", [item]), torch.inference_mode():
                    picture = _develop(source, luminance[item.index], outputs.pop(item.index))
            if picture is not None:
                self._save(item, picture)
            yield item

    def _decode(self, row: int, item: _Item) -> Tensor:
        """Read, check and decode a photograph; its L*, or nothing and an error."""
        entry = self.directory.rows[row]
        path = str(entry["path"])
        nothing = torch.empty(0)
        with _timed("decode", [item]):
            try:
                file = self.directory.manifest.resolve(path)
                sha256 = sha256_file(file)
                if sha256 != entry["sha256"]:
                    if not path.startswith(PACKAGE):
                        item.error = f"{path}: its SHA-256 is {sha256}, not the manifest's"
                        return nothing
                    item.warning = f"{path}: the installed package has another version of it"
                rgb = load_rgb(file)
            except (PerceptError, OSError) as error:
                item.error = f"{path}: {_reason(error)}"
                return nothing
            item.height, item.width = rgb.shape[:2]
            width, height = entry["width"], entry["height"]
            if (item.width, item.height) != (width, height):
                item.error = (
                    f"{path}: it is {item.width}×{item.height}, the manifest says {width}×{height}"
                )
                return nothing
            return color.luminance(rgb)

    def _compute(
        self, source: Source, items: Sequence[_Item], luminance: Sequence[Tensor]
    ) -> dict[int, Tensor]:
        """Colour a batch; each item's output, or none and an error in every item."""
        if source.colorize is None:
            return {}
        with (
            _timed("compute", items),
            torch.inference_mode(),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            batch = torch.cat([fit(values, source) for values in luminance]).to(self.device)
            try:
                output = source.colorize(batch)
                problem = _problem(output, batch)
            except Exception as error:  # a plugin's fault costs its items, not the run
                problem = one_line(error)
        if not problem:
            return {item.index: output[i] for i, item in enumerate(items)}
        for item in items:
            item.error = f"the colorizer failed: {problem}"
        return {}

    def _find(
        self, find: Callable[[Mapping[str, Any]], Path], row: int, item: _Item
    ) -> NDArray[np.uint8] | None:
        """Read the picture that was made elsewhere, or nothing and an error."""
        if item.error:
            return None
        with _timed("decode", [item]):
            try:
                file = find(self.directory.rows[row])
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

    def _save(self, item: _Item, picture: NDArray[np.uint8]) -> None:
        with _timed("encode", [item]):
            data = encode_png(picture)
            item.sha256, item.bytes = hashlib.sha256(data).hexdigest(), len(data)
        with _timed("write", [item]):
            write_bytes_atomic(self.directory.root / self.directory.image(item.index), data)


def _develop(source: Source, luminance: Tensor, output: Tensor) -> NDArray[np.uint8]:
    height, width = luminance.shape
    values = unfit(output, source, width, height)
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
def _timed(stage: str, items: Sequence[_Item]) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        for item in items:
            item.seconds[stage] += (time.perf_counter() - start) / len(items)


# -- the run directory --------------------------------------------------------------------------

_SIZES = {"width": "Int64", "height": "Int64"}
# What --fresh takes away, run.json last: without it the directory is nobody's run.
_FILES = (
    "outputs.parquet",
    "timings.parquet",
    "metrics.parquet",
    "manifest.parquet",
    "conditions.json",
    "run.json",
)


class _Directory:
    """The run directory as the runner sees it. Items are numbered by row, then condition."""

    def __init__(
        self, root: Path, manifest: Manifest, sources: Sequence[Source], info: dict[str, Any]
    ) -> None:
        self.root, self.manifest, self.sources, self.info = root, manifest, sources, info
        self.conditions = tuple(source.condition for source in sources)
        self.rows = list(manifest.rows())
        self._lock: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self.rows) * len(self.conditions)

    def index(self, row: int, condition: int) -> int:
        return row * len(self.conditions) + condition

    def names(self, index: int) -> tuple[str, str]:
        """Content id and condition of an item."""
        row, condition = divmod(index, len(self.conditions))
        return self.rows[row]["content_id"], self.conditions[condition].name

    def image(self, index: int) -> str:
        """Where an item's image lies, from the root."""
        content_id, condition = self.names(index)
        return f"images/{condition}/{content_id}.png"

    def open(self, *, fresh: bool) -> list[_Item]:
        """Make or check the directory, and find what is done already. One process does this."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError("is not a directory", file=self.root, remedy="Choose another --out.")
        exists = (self.root / "run.json").is_file()
        if not exists and self.root.is_dir():
            strange = [p.name for p in self.root.iterdir() if not p.name.startswith(".")]
            if strange:
                raise InputError(
                    "the directory is not empty and no run",
                    file=self.root,
                    value=sorted(strange)[0],
                    remedy="Choose another --out.",
                )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if exists and not fresh:
                self._continue(read_json(self.root / "run.json"))
            elif exists:
                self._remove()
            for condition in self.conditions:
                folder = self.root / "images" / condition.name
                folder.mkdir(parents=True, exist_ok=True)
                for leftover in folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
            (self.root / "journal").mkdir(exist_ok=True)
            write_json_atomic(self.root / "run.json", self.info)
            write_conditions(self.root / "conditions.json", self.conditions)
            write_parquet_atomic(self.root / "manifest.parquet", self.manifest.frame)
            return self._done()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise Interrupted(
                    f"{self.root}: {error.strerror}; the same command resumes"
                ) from None
            raise InputError(
                f"cannot be written: {error.strerror}", file=error.filename or self.root
            ) from None

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def journal(self, rank: int) -> _Journal:
        return _Journal(self.root / "journal" / f"rank-{rank:04d}.jsonl", self)

    def finish(self, items: Sequence[_Item], summary: Summary, started_at: str) -> None:
        """Write the tables and close ``run.json``. One process does this."""
        names = [self.names(item.index) for item in items]
        timings = pd.DataFrame(names, columns=["content_id", "condition"]).astype("string")
        outputs = timings.copy()
        outputs["path"] = [self.image(item.index) for item in items]
        outputs["sha256"] = [item.sha256 for item in items]
        outputs["width"] = [item.width for item in items]
        outputs["height"] = [item.height for item in items]
        outputs["status"] = ["error" if item.error else "ok" for item in items]
        outputs["error"] = [item.error for item in items]
        texts = ("path", "sha256", "status", "error")
        outputs = outputs.astype(dict.fromkeys(texts, "string") | _SIZES)
        failed = outputs["status"] == "error"
        outputs.loc[failed, ["path", "sha256", *_SIZES]] = pd.NA
        outputs.loc[~failed, "error"] = pd.NA
        for stage in STAGES:
            timings[f"{stage}_seconds"] = [item.seconds[stage] for item in items]
        timings["rank"] = [item.rank for item in items]
        write_parquet_atomic(self.root / "timings.parquet", timings)
        write_parquet_atomic(self.root / "outputs.parquet", outputs)
        new = summary.items - summary.reused
        session = {
            "started_at": started_at,
            "finished_at": _now(),
            "world": summary.world,
            "items": new,
            "seconds": round(summary.seconds, 3),
        }
        self.info |= {
            "state": "complete",
            "world": summary.world,
            "items": {
                "total": summary.items,
                "ok": summary.items - len(summary.failures),
                "failed": len(summary.failures),
            },
            "stage_seconds": {
                stage: round(float(timings[f"{stage}_seconds"].sum()), 3) for stage in STAGES
            },
            "warnings": list(summary.warnings),
            "sessions": [*self.info["sessions"], *([session] if new else [])],
        }
        write_json_atomic(self.root / "run.json", self.info)

    def _take_lock(self) -> None:
        self._lock = open(self.root / ".lock", "ab")  # noqa: SIM115 - held while the run lasts
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another percept infer is writing to this run",
                file=self.root,
                remedy="Wait for it, or choose another --out.",
            ) from None
        except OSError:
            pass  # a filesystem without locks: two at once would write the same bytes twice

    def _continue(self, old: dict[str, Any]) -> None:
        """Check that an earlier start had the same identity, and keep what it recorded."""
        before, now = _identity(old), _identity(self.info)
        changes = [
            f"{key} was {before.get(key, 'absent')}, is {now.get(key, 'absent')}"
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key)
        ]
        if changes:
            raise InputError(
                f"the run was made differently: {'; '.join(changes)}",
                file=self.root,
                remedy="--fresh starts over; another --out keeps both.",
            )
        kept = ("metrics", "metrics_skipped", "sessions")
        self.info |= {key: old[key] for key in kept if key in old}

    def _remove(self) -> None:
        for name in ("images", "journal"):
            if (self.root / name).is_dir():
                shutil.rmtree(self.root / name)
        for name in _FILES:
            (self.root / name).unlink(missing_ok=True)

    def _done(self) -> list[_Item]:
        """Items that a journal says are done and whose image is there at its full size."""
        numbers = {self.names(index): index for index in range(len(self))}
        found: dict[int, _Item] = {}
        for file in sorted((self.root / "journal").glob("*.jsonl")):
            for line in file.read_bytes().splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a line torn by a crash
                    entry = json.loads(line)
                    index = numbers[entry.pop("content_id"), entry.pop("condition")]
                    item = _Item(index, **entry)
                    found[index] = item
        done = []
        for index, item in sorted(found.items()):
            with suppress(FileNotFoundError):
                size = (self.root / self.image(index)).stat().st_size
                if not item.error and size == item.bytes:
                    done.append(item)
        return done


class _Journal:
    """One rank's record of what it did: a line of JSON per item, on disk before the next."""

    def __init__(self, file: Path, directory: _Directory) -> None:
        self.directory = directory
        with open(file, "a+b") as stream:  # take off a line that a crash has torn
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
        self.stream = open(file, "ab", buffering=0)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stream.close()

    def append(self, item: _Item) -> None:
        content_id, condition = self.directory.names(item.index)
        entry = {"content_id": content_id, "condition": condition, **vars(item)}
        del entry["index"]
        self.stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        os.fsync(self.stream.fileno())


def _identity(info: Mapping[str, Any]) -> dict[str, Any]:
    """List what must be equal for a run to be resumed, under the names that users know."""
    return {
        "the manifest's sha256": info["manifest"]["sha256"],
        **{f"--{key.replace('_', '-')}": value for key, value in info["settings"].items()},
        "--split": info["manifest"]["split"],
        **{f"condition {name!r}": value for name, value in info["conditions"].items()},
    }


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Interrupted(
            f"{root}: cannot write: {error.strerror}; the same command resumes"
        ) from error


def _gather(items: Sequence[_Item]) -> list[_Item]:
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
        _Item(
            **dict(zip(names, number, strict=True)),
            sha256=bytes(sha256).hex(),
            seconds=dict(zip(STAGES, times, strict=True)),
            error=error,
            warning=warning,
        )
        for number, sha256, times, error, warning in columns
    ]
    return sorted(gathered, key=lambda item: item.index)


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "pandas", "pillow", "safetensors")
    return {
        "percept": percept.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in packages},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
