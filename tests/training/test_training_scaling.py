from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from percept import bundle
from percept.cli import main as percept
from training.scaling import PARTS, Point, Results, fit_link, project, timed


def point(mode: str, world: int, seconds: float, **parts: float) -> Point:
    split = {**dict.fromkeys((*PARTS, "other"), 0.0), "forward": seconds, **parts}
    images = 8 / seconds
    return Point(mode, 64, world, 1, 8, seconds, images, 1.0, 1.0, split, 1_000_000)


def test_the_link_comes_back_from_its_own_times() -> None:
    sizes = [256, 4096, 65536, 1 << 20]
    truth = fit_link(2, [(n, 1.0) for n in sizes])
    for latency, per_byte, world in [(1e-4, 1e-9, 2), (5e-5, 2e-10, 4)]:
        truth = type(truth)(world, latency, per_byte, ())
        link = fit_link(world, [(n, truth.seconds(n, world)) for n in sizes])
        np.testing.assert_allclose([link.latency, link.per_byte], [latency, per_byte], rtol=1e-6)


def test_projection_by_hand() -> None:
    link = fit_link(2, [(n, 2 * 1e-3 + n * 1e-8) for n in (256, 65536, 1 << 22)])
    points = [point("strong", 1, 1.0), point("weak", 1, 1.0)]
    (strong, weak) = project(points, link, [4])
    # 6 messages of latency 1 ms, and 3/2 of a megabyte at 10 ns a byte.
    exchange = 6e-3 + 1.5 * 1e6 * 1e-8
    assert strong["step_seconds"] == pytest.approx(0.25 + exchange, rel=1e-6)
    assert strong["speedup"] == pytest.approx(1 / (0.25 + exchange), rel=1e-6)
    assert weak["step_seconds"] == pytest.approx(1 + exchange, rel=1e-6)
    assert weak["efficiency"] == pytest.approx(1 / (1 + exchange), rel=1e-6)


def test_what_the_model_missed_where_it_was_measured_stays_in_the_projection() -> None:
    link = fit_link(2, [(n, 2 * 1e-3 + n * 1e-8) for n in (256, 65536, 1 << 22)])
    pair = 2e-3 + 1e6 * 1e-8  # the exchange of two
    points = [point("strong", 1, 1.0), point("strong", 2, 0.5 + pair + 0.1)]
    (four,) = project(points, link, [4])
    assert four["step_seconds"] == pytest.approx(0.25 + 6e-3 + 1.5e-2 + 0.1, rel=1e-6)
    (faster,) = project([points[0], point("strong", 2, 0.4)], link, [4])
    assert faster["step_seconds"] == pytest.approx(0.25 + 6e-3 + 1.5e-2, rel=1e-6)


def test_all_steps_count_but_the_first_ones() -> None:
    lines = [
        {"step": 4, "samples_per_second": 1.0, "step_seconds": {"forward": 9.0}},
        {"step": 8, "samples_per_second": 8.0, "step_seconds": {"forward": 0.5, "data": 0.1}},
        {"step": 9, "samples_per_second": 2.0, "step_seconds": {"forward": 3.0}},
    ]
    found = timed([{**line, "all_reduce_bytes": 7} for line in lines], batch=8)
    assert found["steps"] == 5
    assert found["samples_per_second"] == pytest.approx(5 * 8 / (4 * 1.0 + 1 * 4.0))
    assert found["step_seconds"] == pytest.approx({"forward": 1.0, "data": 0.08})
    assert found["all_reduce_bytes"] == 7


def test_the_command_measures_and_draws(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["scaling", "train", "--world", "1", "2", "--side", "16", "--batch", "2", "--steps"]
    words += ["5", "--rounds", "1", "--mode", "strong", "--threads", "1", "--project", "4"]
    words += ["--set", "network.arguments={width=8, depth=1}", "--device", "cpu"]
    assert percept([*words, "--out", str(out)]) == 0
    said = capfd.readouterr().out
    assert "Projection, not measured" in said
    assert "2 processes reach" in said
    document = json.loads((out / "scaling-train.json").read_text())
    one, two = document["points"]
    assert (one["world"], two["world"]) == (1, 2)
    assert one["speedup"] == one["efficiency"] == 1.0
    assert two["efficiency"] == pytest.approx(two["speedup"] / 2, abs=1e-3)
    assert two["all_reduce_bytes"] > 0
    assert sum(two["seconds"].values()) == pytest.approx(two["step_seconds"], rel=0.2)
    assert document["link"]["world"] == 2
    assert [p["world"] for p in document["projection"]] == [4]
    assert (out / "scaling-train.png").stat().st_size > 10_000


def test_bad_worlds_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert percept(["scaling", "train", "--world", "1", "3", "--batch", "8"]) == 2
    assert "divide --batch 8 (got 3)" in capfd.readouterr().err


def test_killed_it_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["scaling", "train", "--world", "1", "--side", "16", "--batch", "2", "--steps", "5"]
    words += ["--rounds", "2", "--mode", "strong", "--threads", "1", "--device", "cpu"]
    words += ["--set", "network.arguments={width=8, depth=1}", "--out", str(out)]
    part = out / "scaling-train.part.json"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "percept", *words], env=bundle.child_environment()
    )
    try:
        process = psutil.Process(launcher.pid)
        while not part.exists() or len(process.children(recursive=True)) < 2:  # it trains again
            assert launcher.poll() is None, "ended before it could be killed"
            time.sleep(0.01)
        left = process.children(recursive=True)
    finally:
        launcher.kill()
        launcher.wait()
    (measured,) = json.loads(part.read_text())["results"]
    assert measured["result"]["steps"] == 5  # all that were asked for
    while not all(has_ended(one) for one in left):
        time.sleep(0.01)

    assert percept(words) == 0
    document = json.loads((out / "scaling-train.json").read_text())
    assert document["facts"]["results_of_earlier_starts"] == 1
    (only,) = document["points"]
    assert only["all_reduce_bytes"] == measured["result"]["all_reduce_bytes"]
    assert not part.exists()


def test_results_of_other_settings_are_measured_anew(tmp_path: Path) -> None:
    key, settings = ("strong", 16, 1, 1), {"world": [1], "steps": 5}
    Results(tmp_path, settings).add(key, 0, {"samples_per_second": 3.0})
    again = Results(tmp_path, settings)
    assert (again.get(key, 0), again.get(key, 1)) == ({"samples_per_second": 3.0}, None)
    assert Results(tmp_path, {**settings, "steps": 6}).get(key, 0) is None


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, though perhaps nobody has asked how yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
