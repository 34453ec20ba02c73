"""What the command line makes of errors that no command foresees."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from percept import cli, files
from percept.cli import manifest as command
from percept.errors import InputError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"), 3, "the same command"),
        (OSError(errno.EACCES, "Permission denied", "out.csv"), 2, "Check the path"),
        (KeyboardInterrupt(), 3, "interrupted"),
        (ZeroDivisionError("a bug"), cli.CRASHED, "Traceback"),
        (OSError(errno.EBADF, "Bad file descriptor"), cli.CRASHED, "Traceback"),
    ],
)
def test_exit_codes_of_the_unforeseen(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A crash is not exit 1, which says that all is done but some items."""

    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(command, "run", fail)
    assert cli.main(["manifest", "check", str(tmp_path / "x.csv")]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["manifest", "scan", "photos"],
        ["palette", "absent.csv"],
        ["predict", "absent", "--model", "absent.json"],
        ["calibrate", "--run", "absent", "--db", "sqlite:///absent.db", "--study", "s"],
        ["report", "--db", "sqlite:///absent.db", "--study", "s"],
        ["scaling", "infer"],
    ],
    ids=lambda words: words[0],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Before anything is read, even: nothing else of these commands is there."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert cli.main([*words, "--out", "file/new/out.csv"]) == 2
    assert "file is a file, not a folder" in capsys.readouterr().err
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # root may write anywhere
    assert cli.main([*words, "--out", "new/out.csv"]) == 2
    assert f"new/out.csv, key '--out': {tmp_path} may not be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_above_a_file_are_made(tmp_path: Path) -> None:
    file = tmp_path / "new" / "er" / "file.json"
    files.write_json_atomic(file, [1])
    assert file.read_text() == "[\n  1\n]\n"
    with pytest.raises(InputError, match="is a folder"):
        files.check_place(tmp_path)
    with pytest.raises(InputError, match="is a device"):  # which a rename would replace
        files.check_place("/dev/null")


def test_a_worker_whose_main_process_says_what_is_wrong_returns_its_exit_code(monkeypatch) -> None:
    def left(args) -> int:  # what distributed.together does there
        raise SystemExit(2)

    monkeypatch.setattr("percept.cli.metrics.run", left)
    assert cli.main(["metrics", "RUN"]) == 2
