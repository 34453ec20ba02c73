"""How long a whole report takes: python benchmarks/report.py [--repeats N] [--profile].

Makes photographs, a run of results "made elsewhere", ten metrics and a pairwise study with 25,000
votes, all by percept's own commands, and then times ``percept report`` on them, from the start of
its process to the page on the disk: 1000 resamples of observers, photographs and votes behind every
interval. Votes follow a Bradley–Terry model with tastes of observers and of photographs; metrics
follow the same qualities more or less loosely.
"""

# ruff: noqa: E402  (the path is set before anything is imported)
from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # statistics.py here hides the standard one

import argparse
import os
import platform
import resource
import subprocess
import tempfile
import time

import numpy as np
import pandas as pd
from PIL import Image

METRICS = 10
MAPPING = """method = "pairwise"
[columns]
observer = "observer"
content = "content"
left = "left"
right = "right"
choice = "choice"
attribute = { value = "realism" }
response_time_ms = "milliseconds"
"""


def percept(*words: object) -> tuple[float, float]:
    """Run a command; wall and CPU seconds of its process."""
    command = [sys.executable, "-m", "percept", *map(str, words)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def prepare(home: Path, votes: int, observers: int, contents: int, conditions: int) -> None:
    """Make the run in ``home/run`` and the study ``pairs`` in ``home/study.sqlite``."""
    rng = np.random.default_rng(0)
    names = [f"colorizer{i}" for i in range(conditions)]
    photos = [f"photo{i:03d}" for i in range(contents)]
    (home / "photos").mkdir(parents=True)
    ramp = np.add.outer(np.arange(96.0), np.arange(128.0))
    for i, photo in enumerate(photos):
        grey = 60 + 130 * (ramp / ramp.max()) + rng.normal(0, 6, ramp.shape)
        grey = np.clip(grey + i % 17, 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(home / "photos" / f"{photo}.png")
        for name in names:
            tint = 1 - 0.6 * rng.permutation([0.0, 0.5, 1.0])
            folder = home / "made" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((grey[..., None] * tint).astype(np.uint8)).save(folder / f"{photo}.png")
    percept("manifest", "scan", home / "photos", "-o", home / "photos.csv")
    specs = [f"{name}=folder:{home / 'made' / name}" for name in names]
    percept("infer", home / "photos.csv", "--condition", *specs, "--out", home / "run")

    quality = np.linspace(-1, 1, conditions) + rng.normal(0, 0.6, (contents, conditions))
    table = pd.DataFrame(
        [
            (photo, name, f"metric{k}", value)
            for k, loose in enumerate(np.linspace(0.3, 4, METRICS))
            for photo, own in zip(photos, quality, strict=True)
            for name, value in zip(names, own + rng.normal(0, loose, conditions), strict=True)
        ],
        columns=["content_id", "condition", "metric", "value"],
    )
    table.to_csv(home / "metrics.csv", index=False)
    percept("metrics", home / "run", "--import", home / "metrics.csv")

    url = f"sqlite:///{home / 'study.sqlite'}"
    percept("study", "create", home / "run", "--protocol", "pairwise", "--db", url, "--name",
            "pairs")  # fmt: skip
    who, what = np.arange(votes) % observers, rng.integers(contents, size=votes)
    left = rng.integers(conditions, size=votes)
    right = (left + rng.integers(1, conditions, size=votes)) % conditions
    taste = rng.normal(0, 0.5, (observers, conditions))
    lean = quality[what, left] - quality[what, right] + taste[who, left] - taste[who, right]
    u = rng.random(votes)
    pandas = pd.DataFrame(
        {
            "observer": [f"observer{i}" for i in who],
            "content": np.array(photos)[what],
            "left": np.array(names)[left],
            "right": np.array(names)[right],
            "choice": np.where(u < 0.12, "tie", np.where(
                rng.random(votes) < 1 / (1 + np.exp(-lean)), "left", "right")),
            "milliseconds": np.exp(rng.normal(8, 0.6, votes)).round(),
        }
    )  # fmt: skip
    pandas.to_csv(home / "votes.csv", index=False)
    (home / "mapping.toml").write_text(MAPPING)
    percept("study", "import", "--db", url, "--study", "pairs", "--votes", home / "votes.csv",
            "--mapping", home / "mapping.toml")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--votes", type=int, default=25_000)
    parser.add_argument("--observers", type=int, default=500)
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--conditions", type=int, default=6)
    parser.add_argument("--n-boot", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make it here once and reuse it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = (args.keep or Path(scratch) / "report").resolve()
        if not (home / "mapping.toml").exists():
            prepare(home, args.votes, args.observers, args.photographs, args.conditions)
        words = [
            "report", "--db", f"sqlite:///{home / 'study.sqlite'}", "--study", "pairs",
            "--out", str(home / "out"), "--n-boot", str(args.n_boot),
        ]  # fmt: skip
        if args.profile:
            code = "import cProfile, pstats; from percept.cli import main; p = cProfile.Profile(); "
            code += (
                f"p.runcall(main, {words}); pstats.Stats(p).sort_stats('cumtime').print_stats(60)"
            )
            subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
            )  # fmt: skip
            return
        print(
            f"{platform.machine()}, {os.cpu_count()} CPUs: {args.votes:,} votes by "
            f"{args.observers} observers on {args.photographs} photographs × {args.conditions} "
            f"conditions, {METRICS} metrics, {args.n_boot} resamples"
        )
        times = np.array([percept(*words) for _ in range(args.repeats)])
        for label, own in zip(("wall", "CPU"), times.T, strict=True):
            each = ", ".join(f"{one:.1f}" for one in own)
            print(f"percept report, {label}: median {np.median(own):.1f} s ({each})")


if __name__ == "__main__":
    main()
