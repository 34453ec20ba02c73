"""A network of which a part is pretrained and stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import training.trainer
from percept.cli import main as percept
from percept.inference.run import open_run
from training.parallel import Step

SETTINGS = [
    "network.name=hypercolumn",
    "network.arguments={width = 8}",
    "loss.smooth_l1=0.0",
    "loss.classification=1.0",
    "optimizer.weight_decay=1.0",  # would be seen at once where it does not belong
]
OPTIONS = [word for setting in SETTINGS for word in ("--set", setting)]


def test_training_leaves_the_pretrained_part_alone_and_resumes_without_it(
    config_file: Path,
    tmp_path: Path,
    train: Callable[..., int],
    vgg16: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(config_file, whole, *OPTIONS) == 0
    weights = load_file(whole / "model.safetensors")
    for name, value in vgg16.items():
        assert torch.equal(weights[name], value)
    state = torch.load(whole / "state/step-6/common.pt", weights_only=True)
    learnt = weights.keys() - vgg16.keys()
    assert state["network"].keys() == state["average"].keys() == learnt
    start = training.trainer.build_network("hypercolumn", {"width": 8}).state_dict()
    assert {name for name in learnt if torch.equal(weights[name], start[name])} == {"centers"}

    original = training.trainer.Trainer._judge

    def fail(self: training.trainer.Trainer, outcome: Step) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        original(self, outcome)

    monkeypatch.setattr(training.trainer.Trainer, "_judge", fail)
    with pytest.raises(KeyboardInterrupt):
        train(config_file, halves, *OPTIONS)
    monkeypatch.setattr(training.trainer.Trainer, "_judge", original)
    assert train(config_file, halves, *OPTIONS) == 0
    sessions = json.loads((halves / "run.json").read_text())["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 2]
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()

    # A checkpoint holds all that inference needs.
    shutil.rmtree(tmp_path / "cache")
    command = ["infer", str(tmp_path / "manifest.csv"), "--out", str(tmp_path / "run")]
    assert percept([*command, "--condition", f"h={whole}", "--device", "cpu"]) == 0
    outputs = open_run(tmp_path / "run").outputs
    assert (outputs["status"] == "ok").all()


def test_missing_weights_are_one_error_with_its_remedy(
    config_file: Path,
    tmp_path: Path,
    train: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PERCEPT_CACHE", str(tmp_path / "empty"))
    assert train(config_file, tmp_path / "out", *OPTIONS) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the vgg16 weights are not there" in line
    assert "percept weights fetch" in line
    assert not (tmp_path / "out").exists()
