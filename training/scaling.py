"""How training scales here: over processes and sizes of views, and, projected, beyond.

Started by ``percept scaling train``. Every point is a real training of a few steps by the worker
that trains everything else; its own log says where the time went.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept import __version__
from percept.distributed import cores, ended_with_launcher, launch, leave
from percept.errors import InputError, InputErrors, Interrupted, PerceptError
from percept.files import (
    check_place,
    lock_folder,
    read_json,
    sha256_file,
    write_bytes_atomic,
    write_json_atomic,
)
from training.config import Config, apply_override, find_config, load_config, read_table

PARTS = ("data", "forward", "backward", "all_reduce", "optimizer")
_WARM = 4  # steps that are not timed: buckets, caches, the first pages of memory
_SIZES = tuple(4**k for k in range(4, 12))  # bytes of the timed collectives: 256 B … 4 MiB
_PHOTOGRAPHS = 8


@dataclass(frozen=True)
class Point:
    """One setting's measurement; every figure is the median of the rounds.

    Attributes
    ----------
    mode : str
        ``strong``: the global batch stays; ``weak``: the batch of each process does.
    side, world, threads, batch : int
        Side of the views; processes; compute threads of each; global batch.
    step_seconds : float
    images_per_second : float
    speedup : float or None
        Images per second over those of the smallest world with one thread.
    efficiency : float or None
        speedup · N₀ / N, with N₀ the smallest world; only for one thread a process.
    seconds : dict of str to float
        Of a step, in the main process: ``data`` (waiting for views), ``forward``, ``backward``,
        ``all_reduce`` (what the backward pass does not hide), ``optimizer``, and ``other``.
    all_reduce_bytes : int
        That each process gave to all-reduce at each step.
    other_bytes : dict of str to int
        That the main process gave to exchanges of other kinds at each step.
    """

    mode: str
    side: int
    world: int
    threads: int
    batch: int
    step_seconds: float
    images_per_second: float
    speedup: float | None
    efficiency: float | None
    seconds: dict[str, float]
    all_reduce_bytes: int
    other_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """Cost of an all-reduce among N processes: 2(N-1)·latency + 2(N-1)/N·bytes·per_byte.

    The ring algorithm's count of messages and bytes; ``latency`` (α) in seconds and ``per_byte``
    (β) in seconds per byte are fitted to timed collectives (``measured``: bytes, seconds) of
    ``world`` processes on this machine.
    """

    world: int
    latency: float
    per_byte: float
    measured: tuple[tuple[int, float], ...]

    def seconds(self, size: float, world: int) -> float:
        """Time of an all-reduce of ``size`` bytes."""
        return 2 * self.half(size, world)

    def half(self, size: float, world: int) -> float:
        """Time of a reduce-scatter or an all-gather of ``size`` bytes, the halves of a ring's."""
        return (world - 1) * (self.latency + size * self.per_byte / world) if size else 0.0


def fit_link(world: int, measured: Sequence[tuple[int, float]]) -> Link:
    """Fit latency and inverse bandwidth, relative errors counting alike; neither is negative."""
    sizes, seconds = (np.array(column, dtype=float) for column in zip(*measured, strict=True))
    design = np.stack([np.full_like(sizes, 2 * (world - 1)), 2 * (world - 1) / world * sizes], 1)
    from scipy.optimize import nnls

    (latency, per_byte), _ = nnls(design / seconds[:, None], np.ones_like(seconds))
    return Link(world, float(latency), float(per_byte), tuple(measured))


def project(
    points: Sequence[Point],
    link: Link,
    worlds: Sequence[int],
    *,
    group: int | None = None,
    possible: Callable[[str, int, int], bool] = lambda mode, side, world: True,
) -> list[dict[str, Any]]:
    """Step times at worlds that were not measured.

    A step is the smallest world's computation, divided without loss, and the exchanges of the
    largest measured world, which hide behind none of it, over links like those here. What the
    largest measured world took beyond that is taken to be paid at every step of the larger ones,
    too.

    Parameters
    ----------
    points : sequence of Point
    link : Link
    worlds : sequence of int
    group : int, optional
        Processes among which weights, gradients or the optimizer's state are divided, where that
        is not the world.
    possible : callable
        Whether a training takes a mode, a side and a world; what it does not is left out.
    """
    found = []
    for mode, side in sorted({(point.mode, point.side) for point in points}):
        own = [p for p in points if (p.mode, p.side) == (mode, side) and p.threads == 1]
        base = min(own, key=lambda point: point.world)
        most = max(own, key=lambda point: point.world)

        def modelled(world: int, base: Point = base, most: Point = most) -> float:
            share = base.world / world if base.mode == "strong" else 1.0
            compute = base.step_seconds - base.seconds["all_reduce"]
            if base.world > 1:  # what is not all-reduce passes for computation there
                compute -= _gathers(most, link, group, base.world)
            reduce = link.seconds(most.all_reduce_bytes, world // (group or 1))
            return max(0.0, compute) * share + reduce + _gathers(most, link, group, world)

        missed = most.step_seconds - modelled(most.world) if most is not base else 0.0
        for world in worlds:
            if not possible(mode, side, world):
                continue
            seconds = modelled(world) + max(0.0, missed)
            images = base.batch * (1 if mode == "strong" else world / base.world) / seconds
            speedup = images / base.images_per_second
            found.append(
                {
                    "mode": mode,
                    "side": side,
                    "world": world,
                    "step_seconds": seconds,
                    "speedup": speedup,
                    "efficiency": speedup * base.world / world,
                }
            )
    return found


def _gathers(point: Point, link: Link, group: int | None, world: int) -> float:
    """Time of what is gathered or scattered at a step, by the bytes of a measured point."""
    # Each process hands over its part of what is gathered, and the whole of what is scattered.
    parts = {"all_gather": group or point.world, "broadcast": point.world, "reduce_scatter": 1}
    return sum(
        link.half(size * parts[kind], group if group and kind != "broadcast" else world)
        for kind, size in point.other_bytes.items()
    )


class Results:
    """What was measured already, in a file by which the same command goes on when it was stopped.

    Parameters
    ----------
    folder : Path or None
        Where the file lies; None keeps nothing.
    settings : dict
        What the results are of; others are not taken up.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self._file = folder / "scaling-train.part.json" if folder is not None else None
        self._settings = settings
        self._found: list[dict[str, Any]] = []
        if self._file is not None and self._file.exists():
            document = read_json(self._file)
            if document["settings"] == settings:
                self._found = document["results"]
        #: Results that an earlier start left.
        self.before = len(self._found)

    def get(self, key: tuple[str, int, int, int], turn: int) -> dict[str, Any] | None:
        """Look up the result of a setting in a round."""
        wanted = [list(key), turn]
        return next((r["result"] for r in self._found if [r["key"], r["turn"]] == wanted), None)

    def add(self, key: tuple[str, int, int, int], turn: int, result: dict[str, Any]) -> None:
        """Keep the result of a setting in a round."""
        self._found.append({"key": list(key), "turn": turn, "result": result})
        if self._file is not None:
            write_json_atomic(self._file, {"settings": self._settings, "results": self._found})

    def clear(self) -> None:
        """Forget them: all are in the report."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _settings(args: argparse.Namespace) -> list[tuple[str, int, int, int]]:
    """Modes, sides, worlds and threads to measure."""
    worlds = sorted(set(args.world))
    settings = [
        (mode, side, world, 1)
        for side in sorted(set(args.side))
        for mode in args.mode
        for world in worlds
    ]
    return settings + [
        (mode, side, worlds[0], threads)
        for mode, side in {(mode, side): None for mode, side, _, _ in settings}
        for threads in sorted(set(args.threads) - {1})
    ]


def measure(
    folder: Path, args: argparse.Namespace, kept: Results
) -> tuple[list[Point], Link | None]:
    """Time all settings; they take turns, so that a busy moment meets all of them.

    Raises
    ------
    InputError
        If a training fails.
    """
    worlds, settings = sorted(set(args.world)), _settings(args)
    runs: dict[tuple[str, int, int, int], list[dict[str, Any]]] = {key: [] for key in settings}
    for turn in range(args.rounds):
        for key in settings if turn % 2 == 0 else reversed(settings):
            result = kept.get(key, turn)
            if result is None:
                result = _run(folder, key, args)
                kept.add(key, turn, result)
            runs[key].append(result)
            done = sum(map(len, runs.values()))
            total = len(settings) * args.rounds
            print(f"percept scaling: run {done} of {total}", file=sys.stderr, flush=True)
    points: list[Point] = []
    for (mode, side, world, threads), results in runs.items():
        batch = _batch((mode, side, world, threads), args)
        rate = statistics.median(one["samples_per_second"] for one in results)
        base = statistics.median(
            one["samples_per_second"] for one in runs[mode, side, worlds[0], 1]
        )
        step = batch / rate
        seconds = {
            part: statistics.median(one["step_seconds"].get(part, 0.0) for one in results)
            for part in PARTS
        }
        seconds["other"] = max(0.0, step - sum(seconds.values()))
        points.append(
            Point(
                mode,
                side,
                world,
                threads,
                batch,
                round(step, 5),
                round(rate, 3),
                round(rate / base, 3),
                round(rate / base * worlds[0] / world, 3) if threads == 1 else None,
                {part: round(value, 5) for part, value in seconds.items()},
                results[0]["all_reduce_bytes"],
                results[0]["other_bytes"],
            )
        )
    if worlds[-1] == 1:
        return points, None
    target = folder / "collectives.json"
    words = ["-m", "training.scaling", "--collectives", str(target), "--device", args.device]
    if launch(words, worlds[-1]):
        raise InputError("the collectives could not be timed")
    measured = [(int(size), float(s)) for size, s in json.loads(target.read_text())]
    return points, fit_link(worlds[-1], measured)


def _run(folder: Path, key: tuple[str, int, int, int], args: argparse.Namespace) -> dict[str, Any]:
    _, side, world, threads = key
    manifest = _photographs(folder / f"side-{side}", side)
    out = folder / "run"
    words = [args.config, "--out", str(out), "--manifest", str(manifest), "--device", args.device]
    for override in _overrides(key, args):
        words += ["--set", override]
    return timed(try_out([*words, "--fresh"], world, threads), _batch(key, args))


def try_out(words: Sequence[str], world: int, threads: int) -> list[dict[str, Any]]:
    """Train by the worker, which prints nothing; return the lines of its log.

    Raises
    ------
    InputError
        If that fails.
    """
    with _silent():
        code = launch(["-m", "training.train", *words], world, threads=threads)
    if code:
        raise InputError("a training failed; see above", value=" ".join(words))
    log = Path(words[words.index("--out") + 1]) / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def trial(steps: int, communication: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a training of a few steps, whose log tells of the warm-up first."""
    settings = {
        "train.steps": _WARM + steps,
        "train.log_every": _WARM,
        "train.checkpoint_every": _WARM + steps,
        "train.samples": 0,
        "data.validation_split": '"none"',
        "schedule.warmup_steps": 0,
        "train.divergence": 0,  # without warmup some would; how long a step takes is the same
    }
    for name, used in {
        "compression_start": communication.get("compression", "none") != "none",
        "average_start": communication.get("average_every", 1) != 1,
    }.items():
        if used:  # from the first timed step on
            settings[f"communication.{name}"] = _WARM
    return settings


def _batch(key: tuple[str, int, int, int], args: argparse.Namespace) -> int:
    """Return the number of views of a step."""
    mode, _, world, _ = key
    return int(args.batch * (world // min(args.world) if mode == "weak" else 1))


def _overrides(key: tuple[str, int, int, int], args: argparse.Namespace) -> list[str]:
    """Say what makes the config the training of a setting."""
    _, side, _, threads = key
    table = read_table(find_config(args.config))
    for override in args.overrides:
        apply_override(table, override)
    communication = table.get("communication", {})
    if not isinstance(communication, dict):
        raise InputError("must be a table", key="communication", value=communication)
    settings = {
        "data.max_side": max(16, round(1.25 * side)),
        "train.crop": side,
        "train.global_batch": _batch(key, args),
        "train.threads": threads,
        **trial(args.steps, communication),
    }
    return [*args.overrides, *(f"{name}={value}" for name, value in settings.items())]


def _config(key: tuple[str, int, int, int], args: argparse.Namespace) -> Config:
    """Return the configuration of a setting; raises what its training would."""
    from training.trainer import make_network

    _, _, world, _ = key
    config = load_config(args.config, overrides=_overrides(key, args), manifest=".", world=world)
    make_network(config, world=world)
    return config


def timed(lines: Sequence[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Mean over all steps after the first line of a log, which tells of the warm-up.

    Returns
    -------
    dict
        ``steps``, that were averaged over, and, as in a line, ``samples_per_second``,
        ``step_seconds``, ``all_reduce_bytes`` and ``other_bytes``.
    """
    counts = [after["step"] - before["step"] for before, after in pairwise(lines)]
    steps = sum(counts)

    def mean(values: Iterable[float]) -> float:
        return sum(n * value for n, value in zip(counts, values, strict=True)) / steps

    rest = lines[1:]

    def means(name: str) -> dict[str, float]:
        parts = sorted({part for line in rest for part in line[name]})
        return {part: mean(line[name].get(part, 0.0) for line in rest) for part in parts}

    return {
        "steps": steps,
        "samples_per_second": batch / mean(batch / line["samples_per_second"] for line in rest),
        "step_seconds": means("step_seconds"),
        "all_reduce_bytes": round(mean(line["all_reduce_bytes"] for line in rest)),
        "other_bytes": {kind: round(size) for kind, size in means("other_bytes").items()},
    }


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let this process and its children print to nowhere; errors stay."""
    sys.stdout.flush()
    saved = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _photographs(home: Path, side: int) -> Path:
    """Made-up colour photographs, larger than the views by a quarter, and their manifest."""
    manifest = home / "manifest.csv"
    if manifest.exists():
        return manifest
    home.mkdir(parents=True)
    rng = np.random.default_rng(side)
    lines = ["content_id,path,sha256,width,height,reference_path,split"]
    size = round(1.25 * side)
    for index in range(_PHOTOGRAPHS):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        file = home / f"p{index}.png"
        small.resize((size, size), Image.Resampling.BICUBIC).save(file)
        lines.append(f"p{index},{file.name},{sha256_file(file)},{size},{size},{file.name},train")
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def time_collectives(file: Path, device_name: str) -> None:
    """Time all-reduces of several sizes in this world, and write (bytes, seconds) pairs."""
    import torch
    import torch.distributed as dist

    from percept.distributed import barrier, is_main, pick_device, process_group

    device = pick_device(device_name)
    with process_group(device):
        torch.set_num_threads(1)
        found = []
        for size in _SIZES:
            tensor = torch.zeros(size // 4, device=device)
            seconds = []
            for _ in range(13):
                barrier()
                began = time.perf_counter()
                dist.all_reduce(tensor)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
            found.append((size, statistics.median(seconds[3:])))
        if is_main():
            write_json_atomic(file, found)


def write_report(
    folder: Path,
    points: Sequence[Point],
    link: Link | None,
    projection: Sequence[dict[str, Any]],
    facts: dict[str, Any],
) -> None:
    """Write ``scaling-train.json`` and ``scaling-train.png``."""
    from matplotlib.figure import Figure

    write_json_atomic(
        folder / "scaling-train.json",
        {
            "facts": facts,
            "points": [asdict(point) for point in points],
            "link": asdict(link) if link is not None else None,
            "projection": list(projection),
        },
    )
    modes = list(dict.fromkeys(point.mode for point in points))
    figure = Figure(figsize=(4.6 * (len(modes) + 1), 4.2), layout="constrained")
    *curves, bars = figure.subplots(1, len(modes) + 1, squeeze=False)[0]
    for axes, mode in zip(curves, modes, strict=True):
        _curve(axes, mode, points, projection)
    _bars(bars, points)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_bytes_atomic(folder / "scaling-train.png", buffer.getvalue())


def _curve(
    axes: Any, mode: str, points: Sequence[Point], projection: Sequence[dict[str, Any]]
) -> None:
    own = [p for p in points if p.mode == mode and p.threads == 1]
    first = min(p.world for p in own)
    worlds = sorted({p.world for p in own} | {ahead["world"] for ahead in projection})
    axes.plot(worlds, [w / first for w in worlds], color="0.6", linestyle=":", label="ideal")
    for number, side in enumerate(sorted({p.side for p in own})):
        line = sorted((p.world, p.speedup) for p in own if p.side == side)
        color = f"C{number}"
        axes.plot(*zip(*line, strict=True), marker="o", color=color, label=f"{side}×{side}")
        ahead = [line[-1]] + [
            (p["world"], p["speedup"]) for p in projection if (p["mode"], p["side"]) == (mode, side)
        ]
        if len(ahead) > 1:
            label = f"{side}×{side}, projected"
            axes.plot(
                *zip(*ahead, strict=True), marker="o", markerfacecolor="none", linestyle="--",
                color=color, label=label,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(worlds, [str(w) for w in worlds])
    axes.set_yticks(worlds, [str(w) for w in worlds])
    axes.set(title=f"{mode} scaling", xlabel="processes of one thread", ylabel="speedup")
    axes.legend(frameon=False, fontsize="small")


def _bars(axes: Any, points: Sequence[Point]) -> None:
    labels = [f"{p.mode} {p.side}² ×{p.world}" for p in points if p.threads == 1]
    values: NDArray[np.float64] = np.array(
        [[p.seconds[part] for part in (*PARTS, "other")] for p in points if p.threads == 1]
    )
    shares = values / values.sum(axis=1, keepdims=True)
    left = np.zeros(len(labels))
    for column, part in enumerate((*PARTS, "other")):
        name = {"all_reduce": "all-reduce (not hidden)", "data": "data wait"}.get(part, part)
        axes.barh(labels, shares[:, column], left=left, label=name)
        left += shares[:, column]
    axes.invert_yaxis()
    axes.set(title="time of a step", xlabel="share", xlim=(0, 1))
    axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15),
                ncols=3)  # fmt: skip


def print_table(
    points: Sequence[Point], link: Link | None, projection: Sequence[dict[str, Any]]
) -> None:
    """Print what was measured, then what is projected."""
    print(
        "  mode  side world threads batch  images/s speedup efficiency   data forward backward "
        "all-reduce optimizer other"
    )
    for p in points:
        efficiency = f"{p.efficiency:.0%}" if p.efficiency is not None else "–"
        share = {name: f"{value / p.step_seconds:.0%}" for name, value in p.seconds.items()}
        print(
            f"{p.mode:>6} {p.side:>5} {p.world:>5} {p.threads:>7} {p.batch:>5} "
            f"{p.images_per_second:>9.2f} {p.speedup:>7.2f} {efficiency:>10} {share['data']:>6} "
            f"{share['forward']:>7} {share['backward']:>8} {share['all_reduce']:>10} "
            f"{share['optimizer']:>9} {share['other']:>5}"
        )
    for mode, side in sorted({(p.mode, p.side) for p in points}):
        own = [p for p in points if (p.mode, p.side) == (mode, side)]
        alone = [p for p in own if p.world == 1]
        most = max(own, key=lambda point: (point.world, -point.threads))
        if alone and most.world > 1:
            best = max(alone, key=lambda point: point.images_per_second)
            print(
                f"{mode} {side}×{side}: {most.world} processes reach "
                f"{most.images_per_second / best.images_per_second:.2f}× the best single process "
                f"({best.threads} thread{'s' if best.threads > 1 else ''})"
            )
    if link is not None:
        print(
            f"all-reduce of {link.world} processes: latency {1e6 * link.latency:.0f} µs, "
            f"{1e-9 / link.per_byte if link.per_byte else float('inf'):.2f} GB/s (fitted)"
        )
    if projection:
        print("Projection, not measured: computation divided without loss, no exchange hidden,")
        print("every link like the one measured here, and at each step what the largest measured")
        print("world took beyond that. Worlds that a training would refuse are left out.")
        for ahead in projection:
            print(
                f"{ahead['mode']:>6} {ahead['side']:>5} {ahead['world']:>5}  "
                f"speedup {ahead['speedup']:>6.2f}  efficiency {ahead['efficiency']:.0%}"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="training.scaling", description=__doc__)
    parser.add_argument("--config", default="base")
    parser.add_argument("--world", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[])
    parser.add_argument("--side", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--mode", nargs="+", choices=("strong", "weak"), default=["strong", "weak"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--project", type=int, nargs="*", default=[4, 8, 16, 32, 64])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--collectives", type=Path)
    args = parser.parse_args(argv)
    try:
        if args.collectives is not None:
            time_collectives(args.collectives, args.device)
            return 0
        _check(args)
        with ended_with_launcher(), ExitStack() as held:
            if args.out is not None:
                held.enter_context(_folder(args.out))
            points, link, projection, facts = _measured(args)
        if args.json:
            document = {"facts": facts, "points": [asdict(p) for p in points]}
            print(json.dumps({**document, "projection": projection}, indent=2))
            return 0
        print_table(points, link, projection)
        if facts["load_before"] > cores() / 2:
            print(
                f"The machine was busy before this (load {facts['load_before']:.1f}).",
                file=sys.stderr,
            )
        if args.out is not None:
            print(f"{args.out / 'scaling-train.json'}, {args.out / 'scaling-train.png'}")
    except PerceptError as error:
        print(f"percept scaling: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk
        where = error.filename or args.out
        print(f"percept scaling: {where}: {error.strerror}", file=sys.stderr)
        return Interrupted.exit_code
    except Exception:  # a bug: exit code 1 would say that only some items failed
        traceback.print_exc()
        return 70
    return 0


def _measured(
    args: argparse.Namespace,
) -> tuple[list[Point], Link | None, list[dict[str, Any]], dict[str, Any]]:
    """Measure, project, and write the report if there is to be one."""
    load = os.getloadavg()[0]
    args.threads = args.threads or [cores()]
    names = ("world", "threads", "side", "mode", "batch", "steps", "rounds", "overrides", "device")
    settings = {name: getattr(args, name) for name in names}
    settings |= {"config": read_table(find_config(args.config)), "host": platform.node()}
    settings |= {"cores": cores(), "percept_version": __version__}
    kept = Results(args.out, settings)

    def possible(mode: str, side: int, world: int) -> bool:
        try:
            return world % min(args.world) == 0 and bool(_config((mode, side, world, 1), args))
        except (InputError, InputErrors):
            return False

    with tempfile.TemporaryDirectory(prefix="percept-scaling-") as folder:
        points, link = measure(Path(folder), args, kept)
    beyond = [world for world in sorted(set(args.project)) if world > max(args.world)]
    sharding = _config(_settings(args)[0], args).sharding
    projection = []
    if link is not None and sharding.strategy == "pipeline":
        print("percept scaling: no projection, as stages wait for each other", file=sys.stderr)
    elif link is not None:
        group = sharding.size if sharding.strategy == "hybrid" else None
        projection = project(points, link, beyond, group=group, possible=possible)
    facts = {
        "cores": cores(),
        "load_before": round(load, 2),
        "config": args.config,
        "batch": args.batch,
        "steps": args.steps,
        "rounds": args.rounds,
        "results_of_earlier_starts": kept.before,
        "smallest_world": min(args.world),
    }
    if args.out is not None:
        write_report(args.out, points, link, projection, facts)
        kept.clear()
    return points, link, projection, facts


def _folder(out: Path) -> IO[bytes]:
    """Make the folder of the report, and keep others from it."""
    check_place(out, folder=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
        return lock_folder(out, "percept scaling train")
    except OSError as error:
        raise InputError(
            f"cannot be a folder to write to: {error.strerror}", file=out, key="--out"
        ) from None


def _check(args: argparse.Namespace) -> None:
    for name in ("world", "side", "threads", "project"):
        for value in getattr(args, name):
            if value < 1:
                raise InputError("must be at least 1", key=f"--{name}", value=value)
    for name in ("batch", "steps", "rounds"):
        if getattr(args, name) < 1:
            raise InputError("must be at least 1", key=f"--{name}", value=getattr(args, name))
    first = min(args.world)
    for world in args.world:
        if args.batch % world or world % first:
            raise InputError(
                f"worlds are multiples of the smallest ({first}) and divide --batch {args.batch}",
                key="--world",
                value=world,
            )
    for key in _settings(args):
        _config(key, args)


if __name__ == "__main__":
    leave(main())
