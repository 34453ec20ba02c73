from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from percept import bundle
from percept.cli import main as percept
from training.scaling import PARTS, Point, Results, _overrides, fit_link, project, timed
from training.scaling import main as measure_scaling


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


def test_what_sharding_sends_is_in_the_projection() -> None:
    link = fit_link(2, [(n, 2 * 1e-3 + n * 1e-8) for n in (256, 65536, 1 << 22)])
    # Of two, each hands over half of the weights and its whole gradient.
    handed = {"all_gather": 500_000, "reduce_scatter": 1_000_000}
    pair = replace(point("strong", 2, 0.5), all_reduce_bytes=0, other_bytes=handed)
    points = [replace(point("strong", 1, 1.0), all_reduce_bytes=0), pair]
    # Three messages of latency 1 ms and 3/4 of a megabyte at 10 ns a byte, there and back.
    (four,) = project(points, link, [4])
    assert four["step_seconds"] == pytest.approx(0.25 + 2 * (3e-3 + 0.75 * 1e6 * 1e-8), rel=1e-6)
    # In groups of two it is as before; between the two groups half a megabyte is summed.
    pair = replace(pair, all_reduce_bytes=500_000)
    (four,) = project([points[0], pair], link, [4], group=2)
    inside, between = 2 * (1e-3 + 0.5 * 1e6 * 1e-8), 2 * (1e-3 + 0.25 * 1e6 * 1e-8)
    assert four["step_seconds"] == pytest.approx(0.25 + inside + between, rel=1e-6)
    assert project(points, link, [4], possible=lambda *_: False) == []


def test_compression_begins_with_the_timed_steps() -> None:
    given = ["communication.compression=fp16"]
    args = argparse.Namespace(config="base", overrides=given, world=[1], batch=8, steps=2)
    settings = dict(one.split("=") for one in _overrides(("strong", 16, 1, 1), args))
    assert settings["communication.compression_start"] == settings["train.log_every"] == "4"
    args.overrides = []
    assert not any("compression" in one for one in _overrides(("strong", 16, 1, 1), args))


def test_a_file_is_no_folder_for_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "below"):
        assert measure_scaling(["--world", "1", "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert "is a file" in said
        assert f"{out}, key '--out'" in said


def test_all_steps_after_the_warm_up_are_timed() -> None:
    lines = [
        {
            "step": step,
            "samples_per_second": 8 / seconds,
            "step_seconds": {"forward": seconds, **more},
            "all_reduce_bytes": sent,
            "other_bytes": {"send": sent // 10},
        }
        for step, seconds, more, sent in [
            (4, 9.0, {}, 9),
            (8, 1.0, {}, 400),
            (10, 4.0, {"all_reduce": 3.0}, 100),
        ]
    ]
    found = timed(lines, 8)
    assert found["steps"] == 6
    assert found["samples_per_second"] == pytest.approx(8 / 2.0)  # four steps of 1 s, two of 4
    assert found["step_seconds"] == pytest.approx({"forward": 2.0, "all_reduce": 1.0})
    assert found["all_reduce_bytes"] == 300
    assert found["other_bytes"] == {"send": 30}


def test_the_command_measures_and_draws(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["scaling", "train", "--world", "1", "2", "--side", "16", "--batch", "4", "--steps"]
    words += ["5", "--rounds", "1", "--mode", "strong", "--threads", "1", "--project", "4", "8"]
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
    assert [p["world"] for p in document["projection"]] == [4]  # eight cannot share four views
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
