from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from percept import distributed
from percept.errors import ItemsFailed, PerceptError

if TYPE_CHECKING:
    from rich.progress import Progress

LISTED_FAILURES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", help="manifest of the photographs (CSV or Parquet)")
    add(
        "--condition",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=SPEC",
        help="what to compare, once or more; SPEC is a checkpoint folder or .safetensors file, an "
        "exported program (.pt2), folder:DIR (results made elsewhere), plugin:NAME or "
        "plugin:MODULE:CALLABLE (with settings: ?width=32&mode=warm), gray or reference",
    )
    add("--out", required=True, metavar="RUN", help="run directory; an unfinished one is resumed")
    add(
        "--nproc",
        type=int,
        default=1,
        metavar="N",
        help="worker processes to start here (1); ignored under torchrun and srun",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="what colorizers compute in (fp32)",
    )
    add(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="compute threads of each process (1); part of the run's settings, as they change "
        "results",
    )
    add(
        "--batch-megapixels",
        type=float,
        metavar="X",
        help="megapixels per batch at working size; 0 is one photograph at a time (0 on the CPU, "
        "8 on CUDA)",
    )
    add(
        "--tile",
        type=int,
        metavar="N",
        help="colour photographs that are larger than a colorizer's view of them in tiles of N "
        "pixels at native resolution, too; the view of the whole decides on colour, tiles add "
        "detail (not done by default)",
    )
    add("--overlap", type=int, default=64, metavar="N", help="pixels that tiles share (64)")
    add(
        "--shard",
        choices=("photos", "tiles"),
        default="photos",
        help="what processes share: photographs (photos), or also the tiles of each that is cut "
        "into them; changes no result",
    )
    add(
        "--compile",
        action="store_true",
        help="compile checkpoints by torch.compile, once for each padded shape; pays off where "
        "shapes repeat",
    )
    add(
        "--format",
        choices=("png", "jpeg", "webp"),
        default="png",
        help="of the images (png); webp is lossless",
    )
    add(
        "--png-level",
        type=int,
        default=1,
        metavar="N",
        help="compression of PNG, 0 to 9 (1: throughput)",
    )
    add(
        "--quality",
        type=int,
        default=95,
        metavar="N",
        help="quality of JPEG, 1 to 100 (95)",
    )
    add(
        "--queue",
        type=float,
        default=64.0,
        metavar="X",
        help="megapixels of photographs that a process holds at once (64); bounds its memory",
    )
    add(
        "--io-threads",
        type=int,
        metavar="N",
        help="threads of each process that decode, and as many that encode (1 on the CPU; with "
        "CUDA its share of the cores, at most 8)",
    )
    add("--split", metavar="NAME", help="only the manifest's rows of this split")
    add("--fresh", action="store_true", help="start over instead of resuming")
    add("--allow-failures", action="store_true", help="exit with 0 even if some items failed")
    add("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    if args.nproc != 1 and not distributed.in_world():
        return distributed.relaunch(args, args.nproc, positional=("manifest",))
    from percept.inference.runner import infer

    progress = _Progress()
    try:
        with progress:
            summary = infer(
                args.manifest,
                args.condition,
                args.out,
                device=args.device,
                precision=args.precision,
                threads=args.threads,
                batch_megapixels=args.batch_megapixels,
                tile=args.tile,
                overlap=args.overlap,
                shard=args.shard,
                compile=args.compile,
                format=args.format,
                png_level=args.png_level,
                quality=args.quality,
                queue_megapixels=args.queue,
                io_threads=args.io_threads,
                split=args.split,
                fresh=args.fresh,
                command=distributed.command_words(args, positional=("manifest",)),
                progress=progress,
            )
    except KeyboardInterrupt:
        if distributed.is_main():
            raise
        return 3
    except PerceptError as error:
        # What every worker finds wrong is said once; what only one meets midway, by that one.
        if error.exit_code == 2 and not distributed.is_main():
            return error.exit_code
        raise
    if not distributed.is_main():
        return 0
    failures = summary.failures
    if args.json:
        report = {
            "run": str(summary.root),
            "items": summary.items,
            "ok": summary.items - len(failures),
            "reused": summary.reused,
            "failed": [vars(failure) for failure in failures],
            "warnings": list(summary.warnings),
            "world": summary.world,
            "seconds": round(summary.seconds, 3),
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        done = f"{summary.items - len(failures)} of {summary.items} images"
        reused = f", {summary.reused} of them from an earlier start" if summary.reused else ""
        print(
            f"{summary.root}: {done}{reused}, {summary.seconds:.1f} s on {summary.world} process"
            f"{'es' if summary.world > 1 else ''}"
        )
    for warning in summary.warnings:
        print(f"percept infer: warning: {warning}", file=sys.stderr)
    if failures:
        listed = [f"  {f.content_id} · {f.condition}: {f.error}" for f in failures]
        if len(listed) > LISTED_FAILURES:
            rest = len(listed) - LISTED_FAILURES
            listed = [*listed[:LISTED_FAILURES], f"  … and {rest} more, in outputs.parquet"]
        text = "\n".join([f"{len(failures)} of {summary.items} items failed:", *listed])
        if not args.allow_failures:
            raise ItemsFailed(text)
        print(f"percept infer: {text}", file=sys.stderr)
    return 0


class _Progress:
    """One bar on a terminal, a plain line now and then elsewhere; on stderr."""

    INTERVAL_SECONDS = 10.0

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.reused: int | None = None
        self.started = self.printed = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, total: int, done: int, failed: int) -> None:
        now = time.monotonic()
        if self.reused is None:
            self.reused, self.started = done, now
            if sys.stderr.isatty():
                self.bar = _bar(total)
        rate = (done - self.reused) / max(now - self.started, 1e-9)
        errors = f", {failed} failed" if failed else ""
        if self.bar is not None:
            self.bar.update(
                self.bar.task_ids[0], completed=done, speed=f"{rate:.1f} images/s{errors}"
            )
        elif done > self.reused and (done == total or now - self.printed > self.INTERVAL_SECONDS):
            self.printed = now
            left = (
                f", {timedelta(seconds=round((total - done) / rate))} left" if done < total else ""
            )
            print(
                f"percept infer: {done} of {total} images, {rate:.1f} images/s{left}{errors}",
                file=sys.stderr,
                flush=True,
            )


def _bar(total: int) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("colorizing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task("", total=total, speed="")
    bar.start()
    return bar
