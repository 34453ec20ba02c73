from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percept import files
from percept.cli import main
from percept.manifest import read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six small photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcdef":
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def test_scan_check_sample_degrade(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scanned, drawn, aged = tmp_path / "all.csv", tmp_path / "some.parquet", tmp_path / "aged"
    assert main(["manifest", "scan", str(folder), "-o", str(scanned)]) == 0
    assert f"6 photographs in {scanned}" in capsys.readouterr().out

    assert main(["manifest", "check", str(scanned)]) == 0
    assert "6 photographs, all as the manifest says" in capsys.readouterr().out

    assert main(["manifest", "degrade", str(scanned), "--out", str(aged), "--seed", "4"]) == 0
    assert "6 aged photographs" in capsys.readouterr().out
    assert main(["manifest", "check", str(aged / "manifest.csv")]) == 0

    sample = ["manifest", "sample", str(aged / "manifest.csv"), "--n", "4", "--by", "process"]
    assert main([*sample, "--seed", "2", "--out", str(drawn)]) == 0
    assert "4 of 6 photographs" in capsys.readouterr().out
    frame = read_manifest(drawn).frame
    assert frame["weight"].sum() == pytest.approx(6)
    again = tmp_path / "again.parquet"
    assert main([*sample, "--seed", "2", "--out", str(again)]) == 0
    assert read_manifest(again).frame.equals(frame)


def test_scan_lists_what_it_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.jpg").write_bytes(b"not a photograph")
    scan = ["manifest", "scan", str(folder), "-o", str(tmp_path / "m.csv")]
    assert main(scan) == 1
    error = capsys.readouterr().err
    assert "1 left out" in error
    assert "broken.jpg: not an image" in error
    assert len(read_manifest(tmp_path / "m.csv")) == 6

    assert main([*scan, "--force", "--allow-failures"]) == 0
    assert "broken.jpg" in capsys.readouterr().err


def test_check_lists_every_bad_row(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.csv"
    main(["manifest", "scan", str(folder), "-o", str(file)])
    (folder / "b.png").unlink()
    (folder / "e.png").write_bytes((folder / "d.png").read_bytes())
    capsys.readouterr()
    assert main(["manifest", "check", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert f"{file}, row 2, column 'path'" in lines[0]
    assert f"{file}, row 5, column 'sha256'" in lines[1]


def test_package_images_that_changed_only_warn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.csv"
    file.write_text(
        "content_id,path,sha256,width,height\n"
        f"coins,package:skimage/data/coins.png,{'0' * 64},384,303\n"
    )
    assert main(["manifest", "check", str(file)]) == 0
    assert f"warning: {file}, row 1, column 'sha256'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan", "absent", "-o", "m.csv"], "absent: not a directory"),
        (["scan", "photos", "-o", "m.txt"], ".csv or .parquet"),
        (["scan", "photos", "-o", "all.csv/m.csv"], "is a file, not a folder"),
        (["check", "absent.csv"], "cannot read the manifest"),
        (["check", "lacking.csv"], "the manifest lacks sha256, width, height"),
        (["sample", "all.csv", "--n", "9", "-o", "m.csv"], "from 1 to 6"),
        (["sample", "all.csv", "--n", "2", "--by", "hue", "-o", "m.csv"], "no such column"),
        (["sample", "all.csv", "--n", "2", "--seed", "-1", "-o", "m.csv"], "negative"),
        (["sample", "all.csv", "--n", "2", "-o", "all.csv"], "--force replaces it"),
        (["degrade", "all.csv", "--out", "photos"], "holds something else"),
        (["degrade", "all.csv", "--out", "aged", "--split", "train"], "no splits"),
        (["degrade", "all.csv", "--out", "aged", "--seed", "-1"], "negative"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lacking.csv").write_text("content_id,path\na,a.png\n")
    main(["manifest", "scan", "photos", "-o", "all.csv"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert main(["manifest", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_full_disk_is_one_line_and_leaves_nothing(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    assert main(["manifest", "scan", str(folder), "-o", str(tmp_path / "m.csv")]) == 3
    message = capsys.readouterr().err
    assert message.splitlines() == [
        "percept manifest: No space left on device. Make room; the same command resumes"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_a_place_that_may_not_be_written_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def denied(source: Path, target: Path) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(source), None, str(target))

    monkeypatch.setattr(files.os, "replace", denied)
    assert main(["manifest", "scan", str(folder), "-o", str(tmp_path / "m.csv")]) == 2
    assert f"{tmp_path / 'm.csv'}: Permission denied" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]

    monkeypatch.undo()
    (tmp_path / "d.csv").mkdir()
    scan = ["manifest", "scan", str(folder), "-o", str(tmp_path / "d.csv"), "--force"]
    assert main(scan) == 2
    assert "is a folder" in capsys.readouterr().err
