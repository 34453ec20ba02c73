from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from inference_samples import SIZES, write_checkpoint, write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "photos", SIZES[:4])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "net"
    return write_checkpoint(folder, arm="baseline", seed=0, training_sha256=["ab" * 32])


@pytest.fixture
def percept(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a percept command in this process; exit code, standard output, standard error."""
    from percept.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        output = capfd.readouterr()
        return code, output.out, output.err

    return run
