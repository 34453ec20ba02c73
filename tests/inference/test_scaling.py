from __future__ import annotations

import json

import pytest
from PIL import Image

from percept.cli import main
from percept.inference import scaling
from percept.inference.scaling import Point, best_single, measure_scaling, thread_rates


def test_scaling_is_a_table_a_plot_and_numbers(percept, tmp_path):
    words = ["scaling", "infer", "--world", 1, 2, "--threads", 1, "--side", 24, "--photos", 3]
    code, out, err = percept(*words, "--rounds", 1, "--condition", "g=gray", "--out", tmp_path)
    assert code == 0, err
    assert "run 2 of 2" in err
    assert "the best single process" in out
    assert "A bare loop scales here by 1.00× at 1, " in out
    document = json.loads((tmp_path / "scaling.json").read_text())
    points = [Point(**point) for point in document["points"]]
    assert [(p.side, p.world, p.threads) for p in points] == [(24, 1, 1), (24, 2, 1)]
    one, two = points
    assert (one.speedup, one.efficiency) == (1.0, 1.0)
    assert two.efficiency == pytest.approx(two.speedup / 2, abs=0.002)
    assert two.speedup == pytest.approx(one.seconds / two.seconds, rel=0.05)
    assert set(one.shares) == {"decode", "compute", "encode", "write", "gather", "idle"}
    with Image.open(tmp_path / "scaling.png") as image:
        assert image.width > 500


def point(side: int, world: int, threads: int, seconds: float) -> Point:
    return Point(side, world, threads, seconds, 1 / seconds, 1.0, 1.0, {})


def test_the_best_single_process_may_have_more_threads():
    points = [point(64, 1, 1, 3.0), point(64, 1, 2, 2.0), point(64, 2, 1, 1.0)]
    assert best_single(points, 64) is points[1]
    assert best_single([points[2]], 64) is None


def test_efficiency_is_against_the_smallest_world(tmp_path, monkeypatch):
    seconds = {(2, 1): [8.0, 10.0, 9.0], (4, 1): [6.0, 4.0, 5.0], (2, 3): [3.0, 3.0, 9.0]}

    def run(manifest, condition, out, world, threads, device):
        return {"seconds": seconds[world, threads].pop(), "compute": 0.5}

    monkeypatch.setattr(scaling, "_run", run)
    two, four, threaded = measure_scaling(
        tmp_path, [4, 2], [16], photos=1, rounds=3, threads=[3, 1]
    )
    assert (two.world, two.seconds, two.speedup, two.efficiency) == (2, 9.0, 1.0, 1.0)
    assert (four.world, four.seconds, four.speedup, four.efficiency) == (4, 5.0, 1.8, 0.9)
    assert (threaded.world, threaded.threads, threaded.speedup) == (2, 3, 3.0)
    assert threaded.efficiency is None


def test_scaling_says_why_a_run_failed(tmp_path, percept):
    code, _, err = percept("scaling", "infer", "--side", 16, "--condition", "x=nothing")
    assert code == 2
    assert "no such kind of condition" in err
    assert percept("scaling", "infer", "--world", 0)[0] == 2


def test_the_doctor_measures_threads_and_says_what_is_there(capsys):
    assert main(["doctor", "--side", "32", "--rounds", "1", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert str(findings["fastest_threads"]) in findings["images_per_second"]
    assert findings["packages"]["torch"] != "missing"
    assert main(["doctor", "--side", "32", "--rounds", "1"]) == 0
    assert "Fastest for one process here: --threads" in capsys.readouterr().out
    assert main(["doctor", "--side", "3"]) == 2


def test_threads_are_measured_by_the_median_and_left_as_they_were():
    import torch

    before = torch.get_num_threads()
    rates = thread_rates(32, 2, 2)
    assert set(rates) == {1, 2}
    assert all(rate > 0 for rate in rates.values())
    assert torch.get_num_threads() == before
