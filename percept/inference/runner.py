"""Colorize a manifest under every condition, on any number of processes.

The plan of batches is a function of the manifest's sizes and the settings alone. Ranks draw batch
numbers, largest first, from a counter that they share, so every item (photograph × condition) is
done exactly once, and the results are the same, byte for byte, at any world size. Every output is
whole or not there, and a journal line follows it, so a restart does only what is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import percept
from percept import distributed
from percept.errors import InputError, PerceptError
from percept.files import PACKAGE, sha256_file, write_bytes_atomic
from percept.inference import color
from percept.inference.colorizer import Source, load_colorizer, one_line, parse_conditions
from percept.inference.directory import STAGES, Item, RunDirectory, identity, now, writing
from percept.inference.plan import Batch, fit, plan_batches, unfit
from percept.inference.run import RUN_FORMAT
from percept.manifest import load_rgb, read_manifest

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
    started_at = now()
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
            "versions": _versions(target),
            "metrics_skipped": {},
            "sessions": [],
        }
        with distributed.together():
            seen = distributed.all_gather_texts([json.dumps(identity(info))])
            if len(set(seen)) > 1:
                raise InputError(
                    "the workers do not see the same manifest, conditions and settings",
                    remedy="Start all with one command, on a filesystem that they share.",
                )
        worker = _Worker(RunDirectory(root, chosen, sources, info), target, PRECISIONS[precision])
        with closing(worker.directory) as directory:
            prior: list[Item] = []
            with distributed.together():
                if distributed.is_main():
                    prior = directory.open(fresh=fresh)
            items, reused = _work(worker, prior, batch_megapixels * 1e6, progress)
            seconds = time.perf_counter() - clock
            if distributed.is_main():
                session = {
                    "started_at": started_at,
                    "finished_at": now(),
                    "world": distributed.world_size(),
                    "items": len(items) - reused,
                    "seconds": round(seconds, 3),
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


def _work(
    worker: _Worker, prior: list[Item], batch_pixels: float, progress: Progress | None
) -> tuple[list[Item], int]:
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
    with writing(directory.root), directory.journal(distributed.rank()) as journal:
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
        "platform": platform.platform(),
        **{name: version(name) for name in packages},
        **({"cuda": str(torch.version.cuda)} if device.type == "cuda" else {}),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


class _Worker:
    """Does batches: decodes, computes, encodes, writes."""

    def __init__(
        self,
        directory: RunDirectory,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.directory, self.device, self.dtype = directory, device, dtype

    def run(self, batch: Batch, done: Tensor) -> Iterator[Item]:
        """Do a batch; yield each item that was not done once it is on disk or has failed.

        The whole batch is computed even if only a part is missing: what a batch is made of must
        not depend on where an earlier start stopped.
        """
        source = self.directory.sources[batch.condition]
        rows = {self.directory.index(row, batch.condition): row for row in batch.rows}
        items = [Item(index, rank=distributed.rank()) for index in rows]
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
                picture = self._develop(source, item, luminance[item.index], outputs[item.index])
            if picture is not None:
                self._save(item, picture)
            yield item

    def _decode(self, row: int, item: Item) -> Tensor:
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
                item.height, item.width = rgb.shape[:2]
                width, height = entry["width"], entry["height"]
                if (item.width, item.height) != (width, height):
                    size = f"{item.width}×{item.height}"
                    item.error = f"{path}: it is {size}, the manifest says {width}×{height}"
                    return nothing
                return color.luminance(rgb)
            except (PerceptError, OSError, MemoryError) as error:
                item.error = f"{path}: {_reason(error)}"
                return nothing

    def _compute(
        self, source: Source, items: Sequence[Item], luminance: Sequence[Tensor]
    ) -> dict[int, Tensor]:
        """Colour a batch; each item's output, or none and an error in every item."""
        if source.colorize is None:
            return {}
        with (
            _timed("compute", items),
            torch.inference_mode(),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            try:
                batch = torch.cat([fit(values, source) for values in luminance]).to(self.device)
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
        self, find: Callable[[Mapping[str, Any]], Path], row: int, item: Item
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

    def _develop(
        self, source: Source, item: Item, luminance: Tensor, output: Tensor
    ) -> NDArray[np.uint8] | None:
        """Lay a colorizer's output on the photograph, or nothing and an error."""
        try:
            with _timed("encode", [item]), torch.inference_mode():
                values = unfit(output, source, item.width, item.height)
                if values.shape[0] == 3:
                    return color.quantize(values)
                return color.to_srgb(luminance.to(values.device), values)
        except (RuntimeError, MemoryError) as error:  # out of memory
            item.error = f"cannot be brought to full size: {one_line(error)}"
            return None

    def _save(self, item: Item, picture: NDArray[np.uint8]) -> None:
        with _timed("encode", [item]):
            data = encode_png(picture)
            item.sha256, item.bytes = hashlib.sha256(data).hexdigest(), len(data)
        with _timed("write", [item]):
            write_bytes_atomic(self.directory.root / self.directory.image(item.index), data)


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


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """Encode 8-bit RGB, shape (H, W, 3), as a PNG without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()
