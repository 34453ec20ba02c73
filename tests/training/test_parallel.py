"""Equivalences between ways of computing a step, by real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from percept import bundle
from percept.distributed import launch

# Twenty steps of SGD: AdamW divides a gradient by its own size, which blows the rounding of sums
# up where a gradient is nearly zero. There the tolerance below is 1e-3.
STEPS = ["train.steps=20", "train.ema=0.0", "optimizer.name=sgd", "optimizer.learning_rate=1e-3"]
TOLERANCE = 2e-6  # fp32; weights are about 0.1


@pytest.fixture
def trained(config_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Train in a world of real processes, several trainings one after another in each."""
    script = tmp_path / "several.py"
    script.write_text(
        "import json, sys\n"
        "from training.train import main\n"
        "import torch\n"
        "for argv in json.loads(sys.argv[1]):\n"
        "    code = main(argv)\n"
        "    if code: sys.exit(code)\n"
        "    torch.set_num_threads(1)\n"
        "sys.stdout.flush(); sys.stderr.flush()\n"
        "import os; os._exit(0)\n"
    )

    def run(world: int, runs: dict[str, list[str]]) -> dict[str, Path]:
        folders = {name: tmp_path / name for name in runs}
        for name, overrides in runs.items():
            argv = [str(config_file), "--out", str(folders[name]), "--device", "cpu"]
            for override in overrides:
                argv += ["--set", override]
            assert launch([str(script), json.dumps([argv])], world) == 0, capfd.readouterr().err
        return folders

    assert bundle.root()
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def distance(a: Path, b: Path) -> float:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    return max(float((value - second[name]).abs().max()) for name, value in first.items())


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
