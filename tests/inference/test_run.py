from __future__ import annotations

import json
import os
import shutil

import pandas as pd
import pytest

from percept.errors import InputError
from percept.files import package_file, write_bytes_atomic, write_parquet_atomic
from percept.inference.run import Condition, open_run, read_conditions, write_conditions


@pytest.fixture
def run_folder(manifest, percept, tmp_path):
    """A run beside its photographs."""
    out = tmp_path / "run"
    code, _, _ = percept(
        "infer", manifest, "--condition", "gray=gray", "true=reference", "--out", out
    )
    assert code == 0
    return out


def scores(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["content_id", "condition", "metric", "value"])


def test_a_run_opens_with_its_tables(run_folder):
    run = open_run(run_folder)
    assert run.manifest["content_id"].tolist() == ["p0", "p1", "p2", "p3"]
    assert [condition.name for condition in run.conditions] == ["gray", "true"]
    assert len(run.outputs) == len(run.timings) == 8
    assert list(run.metrics.columns) == ["content_id", "condition", "metric", "value"]
    assert run.metrics.empty
    assert run.image(run.outputs.loc[0, "path"]).is_file()


def test_photographs_are_found_where_they_were_and_where_they_went(run_folder, tmp_path):
    photo = "p1.png"
    assert open_run(run_folder).resolve(photo) == run_folder / "../photos/p1.png"
    alone = tmp_path / "elsewhere" / "run"
    shutil.copytree(run_folder, alone)
    assert open_run(alone).resolve(photo) == tmp_path / "photos" / photo  # left where they were
    both = tmp_path / "moved"
    both.mkdir()
    shutil.move(run_folder, both / "run")
    shutil.move(tmp_path / "photos", both / "photos")
    assert open_run(both / "run").resolve(photo).resolve() == both / "photos" / photo
    assert open_run(both / "run").resolve("package:numpy/__init__.py").is_file()


def test_packages_that_are_not_there_are_named():
    with pytest.raises(InputError, match="'nobody_has_this' is not installed"):
        package_file("package:nobody_has_this/x.png")


def test_metrics_are_merged_by_name_and_ordered_like_the_run(run_folder):
    run = open_run(run_folder)
    run.write_metrics(
        scores(("p1", "gray", "psnr", 20.0), ("p0", "true", "psnr", 30.0)),
        {"lpips_alex": "no weights"},
        {"version": 1},
    )
    run.write_metrics(scores(("p0", "gray", "lpips_alex", 0.5)), info={"threads": 1})
    run.write_metrics(scores(("p0", "gray", "psnr", 10.0), ("p0", "true", "psnr", 31.0)))
    again = open_run(run_folder)
    assert list(again.metrics.itertuples(index=False, name=None)) == [
        ("p0", "gray", "lpips_alex", 0.5),
        ("p0", "gray", "psnr", 10.0),
        ("p0", "true", "psnr", 31.0),
    ]
    assert run.metrics.equals(again.metrics)
    assert again.info["metrics_skipped"] == {}
    assert again.info["metrics"] == {"version": 1, "threads": 1}


def test_what_is_no_finished_run_is_an_input_error(run_folder, tmp_path):
    with pytest.raises(InputError, match="not a run directory"):
        open_run(tmp_path)
    (run_folder / "outputs.parquet").unlink()
    with pytest.raises(InputError, match=r"not finished: outputs.parquet.*same percept infer"):
        open_run(run_folder)
    (run_folder / "run.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format 1"):
        open_run(run_folder)
    (run_folder / "run.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        open_run(run_folder)


def test_conditions_come_back(tmp_path):
    conditions = (
        Condition("a", "x/ckpt", arm="base", seed=3, sha256="ab", training_sha256=("cd", "ef")),
        Condition("gray", "gray"),
    )
    write_conditions(tmp_path / "conditions.json", conditions)
    assert read_conditions(tmp_path / "conditions.json") == conditions


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "x"
    write_bytes_atomic(file, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_bytes_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_parquet_of_equal_frames_is_equal(tmp_path):
    frame = pd.DataFrame({"a": [1, None], "b": ["x", "y"]}).astype({"a": "Int64"})
    write_parquet_atomic(tmp_path / "1", frame)
    write_parquet_atomic(tmp_path / "2", frame.set_axis([7, 8]))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert pd.read_parquet(tmp_path / "1")["a"].dtype == "Int64"
