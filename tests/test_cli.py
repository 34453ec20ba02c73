"""What the command line makes of errors that no command foresees."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from percept import cli
from percept.cli import manifest as command


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


def test_a_worker_whose_main_process_says_what_is_wrong_returns_its_exit_code(monkeypatch) -> None:
    def left(args) -> int:  # what distributed.together does there
        raise SystemExit(2)

    monkeypatch.setattr("percept.cli.metrics.run", left)
    assert cli.main(["metrics", "RUN"]) == 2
