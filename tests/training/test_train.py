from __future__ import annotations

import errno
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import training.config
import training.losses
import training.train
import training.trainer
from percept import bundle
from percept import files as percept_files
from percept.cli import main as percept
from percept.distributed import launch, process_group
from percept.errors import InputError, Interrupted
from percept.files import lock_folder, sha256_file
from percept.inference.networks import load_checkpoint
from training import checkpoint
from training.clock import Clock
from training.parallel import Step

Train = Callable[..., int]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def log(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def run_json(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run.json").read_text())
    return found


def assert_close(a: Path, b: Path, tolerance: float) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], atol=tolerance, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_checkpoint_log_and_run(
    config_file: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(config_file, out) == 0
    network, config = load_checkpoint(out)
    assert config["arm"] == "tiny"
    assert config["seed"] == 3
    assert config["network"] == {"name": "unet", "arguments": {"width": 8, "depth": 1}}
    assert config["input"] == {"max_side": 32}
    assert config["step"] == config["steps"] == 6
    assert config["training_sha256"] == sorted(
        sha256_file(tmp_path / f"{name}{kind}.png")
        for name in "abc"
        for kind in ("", "-reference", "-clean")
    )
    assert json.loads((out / "config.json").read_text()) == config
    with torch.no_grad():
        assert network(torch.rand(1, 1, 8, 8)).isfinite().all()

    lines = log(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[0]["learning_rate"] < lines[1]["learning_rate"] > lines[5]["learning_rate"]
    run = run_json(out)
    assert run["state"] == "complete"
    assert run["samples_seen"] == 48
    assert not list((out / "state").rglob("*.safetensors"))
    assert [path.name for path in (out / "state").iterdir()] == ["step-6"]

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert train(config_file, out) == 0
    assert "already trained" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_it_learns_the_colours_that_it_is_shown(
    config_file: Path, tmp_path: Path, train: Train
) -> None:
    out = tmp_path / "out"
    options = ["--set", "train.steps=60", "--set", "train.log_every=20"]
    options += ["--set", "optimizer.learning_rate=0.01", "--set", "train.checkpoint_every=60"]
    assert train(config_file, out, *options) == 0
    losses = [line["loss"] for line in log(out)]
    assert losses[-1] < 0.75 * losses[0]


def test_the_running_average_is_what_inference_gets(
    config_file: Path, tmp_path: Path, train: Train
) -> None:
    assert train(config_file, tmp_path / "on") == 0
    assert train(config_file, tmp_path / "off", "--set", "train.ema=0.0") == 0
    state = torch.load(tmp_path / "on/state/step-6/common.pt", weights_only=True)
    for name, value in weights(tmp_path / "on").items():
        assert torch.equal(value, state["average"][name])
        assert torch.equal(weights(tmp_path / "off")[name], state["network"][name])
    assert any(
        not torch.equal(value, state["network"][name]) for name, value in state["average"].items()
    )


@pytest.mark.parametrize("method", ["fp16", "bf16", "powersgd"])
def test_compression_changes_little_and_only_after_its_start(
    config_file: Path, tmp_path: Path, train: Train, method: str
) -> None:
    options = ["--set", f"communication.compression={method}"]
    assert train(config_file, tmp_path / "plain") == 0
    start = "--set=communication.compression_start="
    assert train(config_file, tmp_path / "later", *options, f"{start}5") == 0
    assert train(config_file, tmp_path / "from2", *options, f"{start}2") == 0
    losses = [
        [line["loss"] for line in log(tmp_path / name)] for name in ("plain", "from2", "later")
    ]
    assert losses[0] == losses[2]  # the loss of a step is of the weights before it
    with pytest.raises(AssertionError):  # which the last step changes otherwise
        assert_close(tmp_path / "plain", tmp_path / "later", 0.0)
    assert losses[0][:3] == losses[1][:3]
    assert losses[0][3:] != losses[1][3:]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["loss.adversarial=1.0", "train.crop=32"],
        ["memory.precision=fp16", "data.sampler=stratified", "data.ageing=0.5"],
        ["optimizer.name=sgd", "data.buckets=[[16, 24], [16, 16]]", "data.workers=1"],
    ],
    ids=["plain", "adversary", "fp16", "sgd"],
)
def test_a_training_that_stopped_goes_on_as_if_it_had_not(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    odd = ["--set", "train.log_every=3"]  # a line of the log that spans the interruption
    for setting in settings:
        odd += ["--set", setting]
    assert train(config_file, whole, *odd) == 0

    original = training.trainer.Trainer._judge

    def fail(self: training.trainer.Trainer, outcome: Step) -> None:
        if self.step == 5:
            raise KeyboardInterrupt
        original(self, outcome)

    monkeypatch.setattr(training.trainer.Trainer, "_judge", fail)
    with pytest.raises(KeyboardInterrupt):
        train(config_file, halves, *odd)
    assert run_json(halves)["state"] == "running"
    assert load_checkpoint(halves)[1]["step"] == 4  # usable on the way
    monkeypatch.undo()
    assert train(config_file, halves, *odd) == 0
    assert_close(whole, halves, 0.0)
    assert [(line["step"], line["loss"]) for line in log(whole)] == [
        (line["step"], line["loss"]) for line in log(halves)
    ]
    assert [session["from_step"] for session in run_json(halves)["sessions"]] == [0, 4]  # type: ignore[attr-defined]


def test_a_training_killed_while_it_saves_ends_with_its_last_weights(
    config_file: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert train(config_file, whole) == 0
    original = training.trainer.save_checkpoint

    def fail(folder: Path, network: torch.nn.Module, config: dict[str, object]) -> None:
        if config["step"] == 6:
            raise KeyboardInterrupt
        original(folder, network, config)

    monkeypatch.setattr(training.trainer, "save_checkpoint", fail)
    with pytest.raises(KeyboardInterrupt):
        train(config_file, out)
    monkeypatch.undo()
    assert train(config_file, out) == 0
    assert load_checkpoint(out)[1]["step"] == 6
    assert_close(whole, out, 0.0)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert train(config_file, whole) == 0
    original = os.fsync

    def full(descriptor: int) -> None:
        own = os.fstat(descriptor)
        if any(os.path.samestat(own, file.stat()) for file in out.rglob("*part-4*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    capsys.readouterr()
    monkeypatch.setattr(checkpoint.os, "fsync", full)
    assert train(config_file, out) == 3
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"percept train: {out}: No space left on device; the same command resumes"
    monkeypatch.undo()
    assert train(config_file, out) == 0
    assert_close(whole, out, 0.0)


def test_what_compression_remembers_comes_back_on_the_device_of_the_gradients(
    tmp_path: Path,
) -> None:
    residual = {"iter": 3, "error_dict": {0: torch.ones(2)}}
    with process_group("cpu"):
        saver = checkpoint.Saver(tmp_path)
        saver.start(3, {"world": 1}, residual)
        saver.wait()
        _, local = checkpoint.load_state(tmp_path, 3, torch.device("meta"))
    assert local["iter"] == 3
    assert local["error_dict"][0].device.type == "meta"  # stands for a CUDA device here


def test_a_part_that_another_process_never_writes_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "world_size", lambda: 2)
    monkeypatch.setattr(checkpoint, "_PART_SECONDS", 0.1)
    saver = checkpoint.Saver(tmp_path)
    saver.start(3, {"world": 2}, {"residual": torch.ones(2)})
    with pytest.raises(Interrupted, match=r"have not written rank-1\.pt"):
        saver.wait()
    assert checkpoint.saved_step(tmp_path) == 0


@pytest.mark.parametrize("name", ["run.json", "state/step-6/common.pt"])
def test_a_damaged_file_is_named_and_fresh_starts_over(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    out = tmp_path / "out"
    assert train(config_file, out) == 0
    run = (out / "run.json").read_text()
    (out / "run.json").write_text(run.replace('"complete"', '"running"'))
    file = out / name
    file.write_bytes(b"{}" if name == "run.json" else file.read_bytes()[:5000])
    named = file if name == "run.json" else file.parent
    capsys.readouterr()
    assert train(config_file, out) == 2
    message = capsys.readouterr().err
    assert f"percept train: {named}: is damaged" in message
    assert "--fresh" in message
    assert len(message.splitlines()) == 1
    assert train(config_file, out, "--fresh") == 0


def test_divergence_stops_and_keeps_the_last_good_checkpoint(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    original, calls = training.losses.chroma_loss, iter(range(100))

    def poisoned(*args: object, **options: object) -> torch.Tensor:
        loss = original(*args, **options)  # type: ignore[arg-type]
        return loss * math.nan if next(calls) == 4 else loss  # the first is no step

    monkeypatch.setattr(training.losses, "chroma_loss", poisoned)
    assert train(config_file, out) == 2
    message = capsys.readouterr().err
    assert "diverged at step 4" in message
    assert "step 2 is kept" in message
    assert "Lower optimizer.learning_rate, 0.002" in message
    assert run_json(out)["state"] == "diverged"
    assert load_checkpoint(out)[1]["step"] == 2
    assert all(value.isfinite().all() for value in weights(out).values())
    assert (out / "state" / "step-2").is_dir()


def test_a_loss_far_above_what_it_was_stops_too(
    config_file: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "optimizer.name=sgd", "--set", "optimizer.learning_rate=10"]
    options += ["--set", "optimizer.clip_norm=0", "--set", "schedule.warmup_steps=0"]
    options += ["--set", "train.steps=40", "--set", "train.checkpoint_every=1"]
    assert train(config_file, tmp_path / "out", *options) == 2  # by the default limit
    assert re.search(r"diverged at step \d+: loss \S+, having been", capsys.readouterr().err)
    assert run_json(tmp_path / "out")["state"] == "diverged"


def test_no_state_is_saved_while_the_loss_is_far_above_what_it_was(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original, calls = training.losses.chroma_loss, iter(range(1000))

    def rises(*args: object, **options: object) -> torch.Tensor:
        loss = original(*args, **options)  # type: ignore[arg-type]
        return loss * (3 if next(calls) > 4 else 1)  # the first is no step

    monkeypatch.setattr(training.losses, "chroma_loss", rises)
    options = ["--set", "train.steps=40", "--set", "train.checkpoint_every=1"]
    assert train(config_file, tmp_path / "out", *options) == 2
    stopped = re.search(r"diverged at step (\d+): .* step 4 is kept", capsys.readouterr().err)
    assert stopped is not None
    assert int(stopped[1]) > 9  # the smoothed loss took some steps to get there
    assert load_checkpoint(tmp_path / "out")[1]["step"] == 4


def test_a_few_views_say_nothing_about_divergence(
    config_file: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = training.losses.chroma_loss, iter(range(1000))

    def unequal(*args: object, **options: object) -> torch.Tensor:
        loss = original(*args, **options)  # type: ignore[arg-type]
        return loss * (0.1 if next(calls) == 1 else 1)  # the first photograph is nearly grey

    monkeypatch.setattr(training.losses, "chroma_loss", unequal)
    options = ["--set", "train.global_batch=1", "--set", "train.steps=12"]
    assert train(config_file, tmp_path / "out", *options) == 0


def test_the_best_is_kept_beside_the_last(
    config_file: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 4.0])
    monkeypatch.setattr(training.losses.Objective, "evaluate", lambda *_: next(losses, math.nan))
    assert train(config_file, tmp_path / "out", "--set", "data.validation_split=study") == 0
    lines = (tmp_path / "out" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": step, "loss": loss} for step, loss in [(2, 3.0), (4, 2.0), (6, 4.0)]
    ]
    last, best = (load_checkpoint(tmp_path / "out" / name)[1] for name in ("", "best"))
    assert last["step"] == 6
    assert best["step"] == 4
    # What chose among checkpoints may be in no study either.
    assert sha256_file(tmp_path / "s.png") in last["training_sha256"]


def test_samples_show_grey_coloured_and_true(
    config_file: Path, tmp_path: Path, train: Train
) -> None:
    assert train(config_file, tmp_path / "out", "--set", "train.samples=2") == 0
    pictures = sorted((tmp_path / "out" / "samples").iterdir())
    assert [picture.name for picture in pictures] == [f"step-{n:06d}.png" for n in (2, 4, 6)]
    sheet = np.asarray(Image.open(pictures[-1])).astype(int)
    assert sheet.shape == (3 * 16, 2 * 16, 3)
    chroma = [np.ptp(row, axis=-1).mean() for row in np.split(sheet, 3)]
    assert chroma[0] < 2 < min(chroma[1:])


def test_tensorboard_gets_the_log_and_the_samples(
    config_file: Path, tmp_path: Path, train: Train
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(config_file, tmp_path / "out", "--set", "train.tensorboard=true") == 0
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("loss")
    assert [event.step for event in scalars] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(
        [event.value for event in scalars], [line["loss"] for line in log(tmp_path / "out")], 1e-6
    )
    assert "step_seconds/forward" in events.Tags()["scalars"]
    assert len(events.Images("grey, coloured, true")) == 3


def test_tensorboard_is_asked_for_before_anything_starts(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(training.config.importlib.util, "find_spec", lambda name: None)
    assert train(config_file, tmp_path / "out", "--set", "train.tensorboard=true") == 2
    assert "percept[tensorboard]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_can_be_decayed_alone(config_file: Path) -> None:
    from training.config import load_config
    from training.parallel import parameter_groups

    config = load_config(str(config_file), overrides=["optimizer.decay_all=false"])
    network = training.trainer.make_network(config)
    matrices, vectors = parameter_groups(network, config.optimizer)
    assert vectors["weight_decay"] == 0.0
    assert {p.ndim for p in vectors["params"]} == {1}
    assert {p.ndim for p in matrices["params"]} == {4}


def test_changed_settings_are_named_and_fresh_starts_over(
    config_file: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(config_file, out) == 0
    before = (out / "model.safetensors").read_bytes()
    changes = ["--set", "seed=4", "--set", "train.steps=4"]
    capsys.readouterr()
    assert train(config_file, out, *changes) == 2
    message = capsys.readouterr().err
    assert "seed 3 → 4; train.steps 6 → 4" in message
    assert "--fresh" in message
    assert (out / "model.safetensors").read_bytes() == before
    (out / "mine.txt").write_text("not ours")
    assert train(config_file, out, *changes, "--fresh") == 0
    assert len(log(out)) == 4
    assert load_checkpoint(out)[1]["seed"] == 4
    assert (out / "mine.txt").exists()


def test_other_photographs_are_a_change(
    config_file: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(config_file, tmp_path / "out") == 0
    (tmp_path / "a-reference.png").write_bytes((tmp_path / "b-reference.png").read_bytes())
    assert train(config_file, tmp_path / "out") == 2
    assert "other settings: data_sha256 differs. Put" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "old", "new", "names"),
    [
        (["data.validation_split=study"], "study", "other", "validation_sha256"),
        (["data.sampler=stratified", "data.strata=['license']"], "CC0", "PD", "strata_sha256"),
        (["data.buckets=[[16, 24], [24, 16]]"], "36,30", "30,36", "buckets_sha256"),
        ([], "36,30", "30,36", None),  # which no square view depends on
    ],
)
def test_what_else_a_manifest_decides_is_a_change(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    old: str,
    new: str,
    names: str | None,
) -> None:
    manifest = tmp_path / "manifest.csv"
    head, *rows = manifest.read_text().splitlines()
    text = "\n".join([f"{head},license", *(f"{row},CC0" for row in rows)])
    manifest.write_text(text)
    options = ["--set", "train.steps=2"]
    for setting in settings:
        options += ["--set", setting]
    assert train(config_file, tmp_path / "out", *options) == 0
    manifest.write_text(text.replace(old, new, 1))
    capsys.readouterr()
    assert train(config_file, tmp_path / "out", *options) == (2 if names else 0)
    if names:
        assert f"other settings: {names} differs. Put" in capsys.readouterr().err


def test_a_checkpoint_from_elsewhere_is_not_overwritten(
    config_file: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(config_file, out) == 0
    before = (out / "model.safetensors").read_bytes()
    (out / "run.json").unlink()  # somebody copied the checkpoint alone
    assert train(config_file, out) == 2
    assert "not trained here" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == before
    assert train(config_file, out, "--fresh") == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", "of another program"),
        ("run.json", '{"format": 1, "conditions": {}, "manifest": {}}'),  # percept infer's
        ("config.json", '{"model_type": "bert"}'),
        ("state/step-12", "not a state"),
    ],
)
def test_files_that_no_training_wrote_stay_also_with_fresh(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    for options in ([], ["--fresh"]):
        assert train(config_file, tmp_path / "out", *options) == 2
        message = capsys.readouterr().err
        assert f"no percept train has written here (got {name!r})" in message
        assert file.read_text() == content


def test_fresh_removes_what_a_training_wrote_and_nothing_else(
    config_file: Path, tmp_path: Path, train: Train
) -> None:
    out = tmp_path / "out"
    mine = [out / "samples/thesis.txt", out / "state/step-abc/notes", out / "best/of.txt"]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    assert train(config_file, out) == 0
    options = ["--set", "train.steps=4", "--set", "train.samples=0", "--fresh"]
    assert train(config_file, out, *options) == 0
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        *(file.name for file in mine),
        *("model.safetensors", "config.json", "run.json", "log.jsonl", "common.pt", ".lock"),
    }
    assert [path.name for path in (out / "state").glob("step-?")] == ["step-4"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("network.name=vit", "key 'network.name': unknown network"),
        ("network.arguments.size=3", "the network unet has no such argument"),
        ("network.arguments.width=seven", "toml, key 'network.arguments.width': must be a whole"),
        ("network.arguments.width=1000000000", "tiny.toml, key 'network.arguments': the network "),
        ("train.crop=15", "tiny.toml, key 'train.crop': the network takes views whose sides are "),
        ("train.crop=15", "multiples of 2 (got 15). For example 14 instead of 15"),
        ("data.buckets=[[16, 16], [13, 32]]", "(got [13, 32]). For example 12 instead of 13"),
        ("train.stepz=3", "unknown key"),
        ("data.split=val", "no photograph of this split"),
    ],
)
def test_bad_settings_leave_nothing_behind(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
    override: str,
    says: str,
) -> None:
    assert train(config_file, tmp_path / "out", "--set", override) == 2
    message = capsys.readouterr().err
    assert says in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "out").exists()


FAULTS = """
import resource, sys, torch
from training.train import main

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert main(sys.argv[1:]) == 0
print("faults:", min(faults() for _ in range(6)))  # one may meet other threads' memory
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keep_memory sets glibc, no other")
def test_memory_of_one_step_is_that_of_the_next(config_file: Path, tmp_path: Path) -> None:
    words = [str(config_file), "--out", str(tmp_path / "out"), "--device", "cpu"]
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, *words, "--set", "train.steps=2"],
        env=bundle.child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout.split("faults:")[1]) < 100  # of 4096 pages


def test_compute_threads_are_a_setting(config_file: Path, tmp_path: Path, train: Train) -> None:
    for threads in (2, 1):
        out = tmp_path / str(threads)
        short = ("--set", "train.steps=2", "--set", f"train.threads={threads}")
        assert train(config_file, out, *short) == 0
        run = run_json(out)
        assert run["settings"]["train"]["threads"] == threads  # type: ignore[index]
        assert run["sessions"][0]["threads"] == threads  # type: ignore[index]


def test_learning_rate_rises_and_falls(config_file: Path) -> None:
    from training.config import load_config

    config = load_config(
        str(config_file), overrides=["train.steps=100", "schedule.warmup_steps=10"]
    )
    rates = [training.trainer.learning_rate(step, config) for step in range(100)]
    peak = config.optimizer.learning_rate
    np.testing.assert_allclose(rates[:10], peak * np.arange(1, 11) / 10)
    assert rates[10] == max(rates) == peak
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[99] == pytest.approx(peak * 0.02, rel=0.02)
    assert rates[55] == pytest.approx(peak * 0.51)


# -- several processes --------------------------------------------------------------------------


def test_two_processes_under_torchrun_equal_one(
    config_file: Path, tmp_path: Path, train: Train
) -> None:
    # Five steps of AdamW; sums of gradients are rounded in another order, which the update
    # (a gradient over its own size) can blow up where a gradient is nearly zero.
    options = ["--set", "optimizer.epsilon=1e-3", "--set", "train.ema=0.0"]
    assert train(config_file, tmp_path / "one", *options) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "training.train", str(config_file)]
    command += ["--out", str(tmp_path / "two"), "--device", "cpu", *options]
    done = subprocess.run(
        command, env=bundle.child_environment(), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained in") == 1  # the main process alone prints
    assert_close(tmp_path / "one", tmp_path / "two", 2e-6)
    np.testing.assert_allclose(
        [line["loss"] for line in log(tmp_path / "one")],
        [line["loss"] for line in log(tmp_path / "two")],
        rtol=1e-5,
    )
    # The test can tell: another seed is far away.
    assert train(config_file, tmp_path / "other", *options, "--set", "seed=4") == 0
    with pytest.raises(AssertionError):
        assert_close(tmp_path / "one", tmp_path / "other", 1e-2)


APART = """
import os, sys
import training.checkpoint
from percept.distributed import leave
from training.train import main
training.checkpoint._VISIBLE_SECONDS = 0.2
out = sys.argv[2] + os.environ["RANK"]
os.makedirs(out, exist_ok=True)
leave(main([sys.argv[1], "--out", out, "--device", "cpu", "--fresh"]))
"""


def test_nodes_that_do_not_share_the_folder_are_refused(
    config_file: Path, tmp_path: Path, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(config_file, tmp_path / "out0") == 0  # and process 1 has begun nothing
    capfd.readouterr()
    assert launch(["-c", APART, str(config_file), str(tmp_path / "out")], 2) == 2
    captured = capfd.readouterr()
    assert captured.err == (
        f"percept train: {tmp_path}/out1, key '--out': process 1 sees another folder of this name "
        "than process 0. Put it on a disk that all nodes share\n"
    )
    assert not captured.out
    assert not list((tmp_path / "out1").glob("[!.]*"))
    assert (tmp_path / "out0" / "model.safetensors").exists(), "nor is anything removed"


def test_a_photograph_that_one_process_cannot_read_stops_all_of_them_in_one_line(
    config_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad, manifest = tmp_path / "c.png", tmp_path / "manifest.csv"
    whole, text = sha256_file(bad), manifest.read_text()
    bad.write_bytes(bad.read_bytes()[:-40])
    manifest.write_text(text.replace(whole, sha256_file(bad)))
    command = ["train", str(config_file), "--out", str(tmp_path / "out"), "--nproc", "2"]
    command += ["--device", "cpu", "--set", "data.cache=false", "--set", "data.workers=1"]
    # Only process 1 meets it, and only in a step.
    command += ["--set", "data.sampler=contiguous", "--set", "train.samples=0"]
    assert percept(command) == 2
    message = capfd.readouterr().err
    assert message.startswith(f"percept train: {bad}: ")
    assert len(message.splitlines()) == 1


def test_a_worker_whose_main_process_says_what_is_wrong_returns_its_exit_code(
    config_file: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(*_: object) -> None:  # what distributed.together does there
        raise SystemExit(2)

    monkeypatch.setattr(training.train, "work", left)
    assert train(config_file, tmp_path / "out") == 2


@pytest.fixture
def kill_group() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_killed_worker_then_the_same_command_equals_undisturbed(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    kill_group: list[subprocess.Popen[bytes]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    # PowerSGD keeps most state: what compression left out, by process and bucket (two here).
    settings = ["--set", "network.arguments={width = 16, depth = 3}"]
    settings += ["--set", "communication.compression=powersgd"]
    settings += ["--set", "communication.compression_start=3", "--set", "train.steps=60"]
    settings += ["--set", "train.checkpoint_every=5"]

    def command(out: str) -> list[str]:
        words = ["train", str(config_file), "--out", str(tmp_path / out)]
        return [*words, "--nproc", "2", "--device", "cpu", *settings]

    assert percept(command("whole")) == 0

    halves = tmp_path / "halves"
    process = subprocess.Popen(
        [sys.executable, "-m", "percept", *command("halves")],
        env=bundle.child_environment(),
        stderr=subprocess.PIPE,
    )
    kill_group.append(process)
    deadline = time.monotonic() + 120
    while not list(halves.glob("state/step-*")) or not log(halves):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(worker_of(process.pid, rank=1), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert b"the same command resumes" in errors
    assert run_json(halves)["state"] == "running"
    reached = max(int(path.name[5:]) for path in halves.glob("state/step-*"))
    assert reached < 60

    # What compression remembers cannot be divided among another number of processes.
    capfd.readouterr()
    assert train(config_file, halves, *settings) == 2
    assert "Use --nproc 2" in capfd.readouterr().err

    assert percept(command("halves")) == 0
    sessions = run_json(halves)["sessions"]
    assert [session["from_step"] for session in sessions] == [0, reached]  # type: ignore[attr-defined]
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (
        halves / "model.safetensors"
    ).read_bytes()
    assert [line["loss"] for line in log(tmp_path / "whole")] == [
        line["loss"] for line in log(halves)
    ]


def test_two_at_once_on_one_folder_are_refused(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    kill_group: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = ["train", str(config_file), "--out", str(out), "--device", "cpu"]
    words += ["--nproc", "2", "--set", "train.steps=100000"]
    first = subprocess.Popen(
        [sys.executable, "-m", "percept", *words], env=bundle.child_environment()
    )
    kill_group.append(first)
    while not (out / "log.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.01)
    with monkeypatch.context() as patch:
        patch.setattr(percept_files, "LOCK_SECONDS", 0.2)
        before = (out / "run.json").read_bytes()
        assert train(config_file, out, "--fresh") == 2
    assert "another percept train is writing to this folder" in capsys.readouterr().err
    assert (out / "run.json").read_bytes() == before
    first.kill()  # and its workers end by themselves
    assert train(config_file, out, "--fresh") == 0
    assert run_json(out)["step"] == 6


def test_a_killed_training_lets_go_of_its_folder_before_its_loaders_end(
    config_file: Path,
    tmp_path: Path,
    kill_group: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    words = ["-m", "training.train", str(config_file), "--out", str(out), "--device", "cpu"]
    words += ["--set", "data.workers=1", "--set", "train.steps=100000"]
    training = subprocess.Popen([sys.executable, *words], env=bundle.child_environment())
    kill_group.append(training)
    while not (out / "log.jsonl").exists():
        assert training.poll() is None
        time.sleep(0.01)
    loaders = psutil.Process(training.pid).children(recursive=True)
    assert loaders
    try:
        for loader in loaders:
            loader.suspend()  # so that it does not notice
        training.kill()
        training.wait()
        monkeypatch.setattr(percept_files, "LOCK_SECONDS", 0.0)
        lock_folder(out, "percept train").close()
        assert all(loader.is_running() for loader in loaders)
    finally:
        for loader in loaders:
            loader.kill()


def test_programs_that_it_starts_do_not_hold_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(percept_files, "LOCK_SECONDS", 0.0)
    with lock_folder(tmp_path, "percept train"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        with pytest.raises(InputError, match="another percept train"):
            lock_folder(tmp_path, "percept train")
    assert child.poll() is None
    lock_folder(tmp_path, "percept train").close()
    child.communicate(b"\n")


def test_what_appears_while_it_waits_for_the_folder_is_looked_at(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    assert train(config_file, other) == 0

    def locked(folder: Path, command: str) -> IO[bytes]:
        shutil.copytree(other, folder, dirs_exist_ok=True)  # another training ends meanwhile
        return lock_folder(folder, command)

    monkeypatch.setattr(training.train, "lock_folder", locked)
    assert train(config_file, out, "--set", "optimizer.learning_rate=0.5") == 2
    assert "optimizer.learning_rate" in capsys.readouterr().err
    assert run_json(out) == run_json(other)
    assert train(config_file, out) == 0
    assert "already trained" in capsys.readouterr().out


def test_the_discriminators_gradients_are_counted(
    config_file: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, lap, laps = tmp_path / "out", Clock.lap, set()
    monkeypatch.setattr(Clock, "lap", lambda self, name: (laps.add(name), lap(self, name)))
    options = ["--set=loss.adversarial=1", "--set=train.crop=32", "--set=train.steps=2"]
    assert train(config_file, out, *options) == 0
    # PatchGAN: four convolutions with biases, two normalisations.
    patches = 3 * 32 * 16 + 32 + 32 * 64 * 16 + 64 + 64 * 128 * 16 + 128 + 128 * 9 + 1 + 2 * 192
    for line in log(out):
        assert line["all_reduce_bytes"] == 4 * (run_json(out)["parameters"] + patches)
    assert "all_reduce" in laps  # what waits for the generator's is a part of "backward"


@pytest.mark.parametrize("sampler", ["shuffle", "contiguous"])
def test_another_world_cannot_go_on_with_photographs_of_their_own(
    config_file: Path,
    tmp_path: Path,
    train: Train,
    sampler: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    own = f"--set=data.sampler={sampler}"
    assert train(config_file, out, own) == 0
    state = out / "state" / "step-6" / "common.pt"  # make it one of two processes, not yet done
    torch.save({**torch.load(state, weights_only=True), "world": 2}, state)
    (out / "run.json").write_text(json.dumps({**run_json(out), "state": "running"}))
    assert train(config_file, out, own) == (2 if sampler == "contiguous" else 0)
    said = "keeps to its own stretch of the photographs; 1 cannot go on from there"
    assert (said in capsys.readouterr().err) == (sampler == "contiguous")


def worker_of(launcher: int, *, rank: int) -> int:
    """Process id of one worker of a launcher."""
    for process in psutil.Process(launcher).children():
        if process.environ().get("RANK") == str(rank):
            return process.pid
    raise AssertionError(f"no worker {rank}")


def test_the_command_reports_bad_settings_once(
    config_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["train", str(config_file), "--out", str(out), "--nproc", "3", "--device", "cpu"]
    assert percept(command) == 2
    message = capfd.readouterr().err
    assert message.count("percept train:") == 1
    assert "3 processes cannot share the batch equally (got 8). Use 6 or 9" in message
    assert not out.exists()
