"""How the runner scales here: over processes and sizes of photographs, and over threads."""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from percept import bundle
from percept.errors import InputError
from percept.files import sha256_file, write_bytes_atomic
from percept.inference.heap import keep_memory
from percept.inference.networks import build_network, save_checkpoint


@dataclass(frozen=True)
class Point:
    """One setting's measurement; every figure is the median of the rounds.

    Attributes
    ----------
    side : int
        Side of the photographs, pixels.
    world, threads : int
        Processes, and compute threads of each.
    seconds : float
        From the plan of batches to the gathered results, without starting the processes.
    images_per_second : float
    speedup : float or None
        Against the smallest world with one thread; None where that was not measured.
    efficiency : float or None
        speedup · N₀ / N, with N₀ the smallest world; only for one thread a process.
    shares : dict of str to float
        Of the processes' time: ``decode``, ``compute``, ``encode`` and ``write``, which overlap,
        and ``gather`` and ``idle``, when the main thread waited for any of them or for others.
    """

    side: int
    world: int
    threads: int
    seconds: float
    images_per_second: float
    speedup: float | None
    efficiency: float | None
    shares: dict[str, float]


def measure_scaling(
    folder: Path,
    worlds: Sequence[int],
    sides: Sequence[int],
    *,
    photos: int,
    rounds: int,
    threads: Sequence[int] = (1,),
    condition: str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[Point]:
    """Time ``percept infer`` on made-up photographs; settings take turns.

    Parameters
    ----------
    folder : Path
        Photographs and runs go here.
    worlds, sides : sequence of int
        Numbers of processes; sides of the square photographs.
    photos, rounds : int
        Photographs of each side; timings of each setting.
    threads : sequence of int
        The smallest world is also timed with these numbers of threads.
    condition : str, optional
        What colours them, as in ``--condition NAME=SPEC``; by default a U-Net of random weights at
        the photographs' own size, which is bound by compute.
    device : str
    progress : callable, optional
        Called with the runs done and in all.

    Raises
    ------
    InputError
        If a run fails.
    """
    worlds, sides = sorted(set(worlds)), sorted(set(sides))
    if not worlds or not sides or min(*worlds, *sides, photos, rounds, *threads) < 1:
        raise InputError("worlds, sides, photos, rounds and threads are at least 1")
    settings = [(world, 1) for world in worlds]
    settings += [(worlds[0], count) for count in sorted(set(threads) - {1})]
    runs: dict[tuple[int, int, int], list[dict[str, float]]] = {}
    total = len(sides) * len(settings) * rounds
    for side in sides:
        home = folder / f"side-{side}"
        manifest = _photographs(home, side, photos)
        spec = condition or f"unet={_checkpoint(home / 'unet', side)}"
        for turn in range(rounds):
            for world, count in settings if turn % 2 == 0 else reversed(settings):
                out = home / f"run-{world}-{count}"
                result = _run(manifest, spec, out, world, count, device)
                runs.setdefault((side, world, count), []).append(result)
                if progress is not None:
                    progress(sum(map(len, runs.values())), total)
    points = []
    for (side, world, count), results in runs.items():
        middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
        seconds = middle.pop("seconds")
        base = statistics.median(result["seconds"] for result in runs[side, worlds[0], 1])
        speedup = base / seconds
        points.append(
            Point(
                side,
                world,
                count,
                round(seconds, 4),
                round(photos / seconds, 3),
                round(speedup, 3),
                round(speedup * worlds[0] / world, 3) if count == 1 else None,
                {key: round(value, 4) for key, value in middle.items()},
            )
        )
    return points


def best_single(points: Sequence[Point], side: int) -> Point | None:
    """Return the fastest measurement with one process, if one was made."""
    alone = [point for point in points if point.side == side and point.world == 1]
    return min(alone, key=lambda point: point.seconds, default=None)


def write_scaling(folder: Path, points: Sequence[Point], facts: dict[str, Any]) -> None:
    """Write ``scaling.json`` and ``scaling.png``."""
    from matplotlib.figure import Figure

    document = {"facts": facts, "points": [asdict(point) for point in points]}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    write_bytes_atomic(folder / "scaling.json", text.encode() + b"\n")
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    worlds = sorted({point.world for point in points})
    axes.plot(worlds, [w / worlds[0] for w in worlds], color="0.6", linestyle=":", label="ideal")
    for side in sorted({point.side for point in points}):
        line = [p for p in points if p.side == side and p.threads == 1]
        line.sort(key=lambda point: point.world)
        axes.plot(
            [p.world for p in line],
            [p.speedup or np.nan for p in line],
            marker="o",
            label=f"{side}×{side}",
        )
    axes.set(
        xlabel="processes of one thread",
        ylabel=f"speedup over {worlds[0]} process{'es' if worlds[0] > 1 else ''}",
        xticks=worlds,
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_bytes_atomic(folder / "scaling.png", buffer.getvalue())


def thread_rates(side: int, rounds: int, cores: int) -> dict[int, float]:
    """Images per second of the default network by number of threads.

    The settings take turns, so that a busy moment of the machine meets all of them.
    """
    keep_memory()
    network = build_network("unet").eval()
    picture = torch.rand(1, 1, side - side % 8, side - side % 8)
    settings = sorted({1, 2, cores // 2, cores} & set(range(1, cores + 1)))
    seconds: dict[int, list[float]] = {threads: [] for threads in settings}
    before = torch.get_num_threads()
    try:
        with torch.inference_mode():
            for turn in range(rounds + 1):
                for threads in settings:
                    torch.set_num_threads(threads)
                    start = time.perf_counter()
                    network(picture)
                    if turn:  # the first warms up
                        seconds[threads].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return {threads: 1 / statistics.median(times) for threads, times in seconds.items()}


_SPIN = """
import sys, time
start, end, turns = float(sys.argv[1]), float(sys.argv[2]), 0
while time.time() < start:
    pass
while time.time() < end:
    for _ in range(1000):
        turns += 1
print(turns)
"""


def spin_scaling(worlds: Sequence[int], rounds: int, seconds: float = 1.0) -> dict[int, float]:
    """Measure the speedup of a bare loop in several processes: what no runner here can exceed.

    Returns
    -------
    dict of int to float
        For each number of processes, turns per second over those of the smallest number; medians.
    """
    worlds = sorted(set(worlds))
    turns: dict[int, list[int]] = {world: [] for world in worlds}
    for turn in range(rounds):
        for world in worlds if turn % 2 == 0 else reversed(worlds):
            start = time.time() + 0.5  # all have started by then
            command = [bundle.python(), "-S", "-c", _SPIN, str(start), str(start + seconds)]
            loops = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(world)]
            turns[world].append(sum(int(loop.communicate()[0]) for loop in loops))
    rates = {world: statistics.median(counts) for world, counts in turns.items()}
    return {world: round(rate / rates[worlds[0]], 3) for world, rate in rates.items()}


def devices() -> list[str]:
    """Return the names of the CUDA devices."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _photographs(home: Path, side: int, photos: int) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(side)
    lines = ["content_id,path,sha256,width,height"]
    for index in range(photos):
        small = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
        smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.integers(-9, 10, (side, side))
        file = home / f"p{index}.png"
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(file)
        lines.append(f"p{index},{file.name},{sha256_file(file)},{side},{side}")
    manifest = home / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def _checkpoint(folder: Path, side: int) -> Path:
    torch.manual_seed(0)
    save_checkpoint(
        folder,
        build_network("unet"),
        {"network": {"name": "unet", "arguments": {}}, "input": {"max_side": side}},
    )
    return folder


def _run(
    manifest: Path, condition: str, out: Path, world: int, threads: int, device: str
) -> dict[str, float]:
    words = ["infer", str(manifest), "--condition", condition, "--out", str(out), "--fresh"]
    words += ["--nproc", str(world), "--threads", str(threads), "--device", device]
    done = subprocess.run(
        [bundle.python(), "-m", "percept", *words],
        env=bundle.child_environment({"OMP_NUM_THREADS": str(threads)}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise InputError(f"percept infer failed: {done.stderr.strip()}")
    info = json.loads((out / "run.json").read_text(encoding="utf-8"))
    ranks = info["sessions"][-1]["ranks"]
    each = [sum(times.values()) for times in ranks]
    whole = sum(each)
    waits = ("wait_decode", "wait_encode", "wait_world")
    return {
        "seconds": max(each),
        **{stage: seconds / whole for stage, seconds in info["stage_seconds"].items()},
        "gather": sum(times["gather"] for times in ranks) / whole,
        "idle": sum(times[name] for times in ranks for name in waits) / whole,
    }
