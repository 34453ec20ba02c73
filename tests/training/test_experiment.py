from __future__ import annotations

import argparse
import json
import math
import shlex
import tomllib
from pathlib import Path

import pytest
import torch

from percept import bundle
from percept.cli import build_parser
from percept.cli import main as percept
from percept.errors import InputError
from percept.inference.networks import build_network, load_checkpoint
from percept.inference.run import open_run
from training.experiment import load_experiment, main, measure_cost, next_commands
from training.train import main as train_one

FOLDER = bundle.root() / "training" / "experiments"
BUNDLED = [file.stem for file in sorted(FOLDER.glob("*.toml")) if "[arms." in file.read_text()]
# Field's claims, and those of DDP: each has its experiment.
CLAIMS = {
    "warmup",
    "global-batch",
    "compression",
    "compression-start",
    "optimizer",
    "sgd",
    "ema",
    "clipping",
    "precision",
    "accumulation",
    "sharding",
    "pipeline",
    "synchronisation",
    "heterogeneity",
    "buffers",
    "conditional",
    "losses",
    "crops",
    "order",
    "threads",
}


def test_every_claim_has_its_experiment() -> None:
    assert set(BUNDLED) == CLAIMS
    readme = (bundle.root() / "training" / "README.md").read_text(encoding="utf-8")
    for name in BUNDLED:
        table = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
        assert f"| `{name}` | {', '.join(table['arms'])} | {table['claim']} |" in readme, name


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_experiments_are_fair(name: str) -> None:
    experiment = load_experiment(name, manifest="m.csv")
    assert len(experiment.claim) > 40
    assert len(experiment.source) > 20
    arms = {training.arm for training in experiment.trainings}
    assert len(arms) >= 2
    for arm in arms:
        seeds = {training.seed for training in experiment.trainings if training.arm == arm}
        assert len(seeds) >= 3
    configs = [training.config for training in experiment.trainings]
    assert len({config.train.steps * config.train.global_batch for config in configs}) == 1
    assert [config.arm for config in configs] == [t.arm for t in experiment.trainings]
    assert [config.seed for config in configs] == [t.seed for t in experiment.trainings]


EXPERIMENT = """
claim = "A test has arms."
source = "this file"
learning_rate = "sqrt"
seeds = [1, 2, 3]
base = "tiny"
nproc = 1

[arms.plain]

[arms.small]
train.global_batch = 2
train.steps = 24
"""


@pytest.fixture
def experiment_file(config_file: Path) -> Path:
    file = config_file.with_name("exp.toml")
    file.write_text(EXPERIMENT)
    return file


def test_the_learning_rate_follows_the_stated_rule(experiment_file: Path) -> None:
    trainings = load_experiment(str(experiment_file)).trainings
    plain, small = (next(t.config for t in trainings if t.arm == arm) for arm in ("plain", "small"))
    rate = plain.optimizer.learning_rate
    assert small.optimizer.learning_rate == pytest.approx(rate * math.sqrt(2 / 8))
    text = experiment_file.read_text()
    experiment_file.write_text(text.replace('"sqrt"', '"linear"'))
    small = load_experiment(str(experiment_file)).trainings[-1].config
    assert small.optimizer.learning_rate == pytest.approx(rate / 4)
    experiment_file.write_text(text.replace('"sqrt"', '"same"'))
    small = load_experiment(str(experiment_file)).trainings[-1].config
    assert small.optimizer.learning_rate == rate


_PATCHES = 3 * 32 * 16 + 32 * 64 * 16 + 64 * 128 * 16 + 128 * 9 + 225 + 2 * 192


@pytest.mark.parametrize(
    ("setting", "times", "more"),
    [
        ("communication.bucket_mb = 1.0", 4, 0),
        ("communication = { compression = 'bf16', compression_start = 3 }", 2, 0),
        ("communication = { average_every = 16, average_start = 2 }", 4 / 16, 0),
        ("communication = { average_every = 3, average_start = 2 }", 4 / 3, 0),
        ("loss.adversarial = 1.0\ntrain.crop = 32", 4, 4 * _PATCHES),
    ],
)
def test_costs_are_those_of_the_worker(
    experiment_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    times: float,
    more: int,
) -> None:
    text = EXPERIMENT.replace("train.global_batch = 2\ntrain.steps = 24", setting)
    experiment_file.write_text(text)
    experiment = load_experiment(str(experiment_file))
    # In this process, which is faster.
    monkeypatch.setattr("training.scaling.launch", lambda words, *_, **__: train_one(words[2:]))
    args = argparse.Namespace(device="cpu", fresh=False, out=experiment_file.with_name("out"))
    cost = measure_cost(experiment, experiment.trainings[-1], args)
    # A mean over steps was rounded in the log.
    assert cost.step_bytes == pytest.approx(times * cost.parameters + more, abs=4)
    network = experiment.trainings[-1].config.network
    sizes = [p.numel() for p in build_network(network.name, network.arguments).parameters()]
    assert cost.parameters == sum(sizes)
    assert cost.step_seconds > 0
    assert not args.out.exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[1, 2, 3]", "[1, 2, 2]", "key 'seeds': an arm is judged against the variance"),
        ("steps = 24", "steps = 23", "same number of views: plain 48, small 46"),
        ("[arms.plain]", "", "compares two arms at least"),
        ('"sqrt"', '"cubic"', "must be one of 'same', 'linear', 'sqrt', 'own'"),
        ("steps = 24", "stepz = 24", "arm 'small': .*unknown key. Did you mean 'steps'"),
        ("steps = 24", "steps = 24\noptimizer.learning_rate = 1.0", "the rule 'sqrt' decides"),
        ("claim", "claims", "key 'claims': unknown key"),
        ('"tiny"', '"nowhere"', "no such file"),
        ("[arms.plain]", "arms.plain = 3", "an arm is a table of settings"),
        ("[arms.plain]", '[arms."../evil"]', "an arm's name is .*got '../evil'"),
        ("[arms.plain]", '[arms."a=b"]', "an arm's name is .*got 'a=b'"),
        ("[arms.plain]", '[arms.""]', "an arm's name is .*got ''"),
        ("[arms.plain]", "[arms.Small]", "differ in more than capitals"),
        ("nproc = 1", "nproc = 0", "key 'nproc': the value must be at least 1 .got 0"),
    ],
)
def test_bad_experiments_are_refused(experiment_file: Path, old: str, new: str, says: str) -> None:
    text = experiment_file.read_text().replace(old, new, 1)
    if new == "arms.plain = 3":
        text = text.replace("[arms.small]\n", "").replace("train.global", "arms.small.train.global")
        text = text.replace("train.steps", "arms.small.train.steps")
    experiment_file.write_text(text)
    with pytest.raises(Exception, match=says):
        load_experiment(str(experiment_file))


def test_the_manifest_is_relative_to_the_config_that_names_it(experiment_file: Path) -> None:
    folder = experiment_file.parent
    (folder / "deep").mkdir()
    text = experiment_file.read_text().replace('"tiny"', json.dumps(str(folder / "tiny.toml")))
    other = "[arms.plain]\ndata.manifest = 'other.csv'"
    (folder / "deep/exp.toml").write_text(text.replace("[arms.plain]", other))
    configs = {t.arm: t.config for t in load_experiment(str(folder / "deep/exp.toml")).trainings}
    assert configs["small"].data.manifest == str(folder / "manifest.csv")
    assert configs["plain"].data.manifest == str(folder / "deep/other.csv")


def test_configs_and_experiments_are_not_mixed_up(
    experiment_file: Path, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="the config of one training"):
        load_experiment(str(config_file))
    out = str(config_file.with_name("out"))
    assert percept(["train", str(experiment_file), "--out", out]) == 2
    assert "percept train --experiment exp --out DIR" in capfd.readouterr().err
    assert percept(["train", "--out", out]) == 2
    assert "either CONFIG or --experiment" in capfd.readouterr().err
    assert percept(["train", str(config_file), "--out", out, "--dry-run"]) == 2


def test_an_experiment_ends_before_observers(
    experiment_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dry run, training; then the printed commands, up to the conditions of a run."""
    out = experiment_file.parent / "out"
    words = ["train", "--experiment", str(experiment_file), "--out", str(out), "--device", "cpu"]
    assert percept([*words, "--dry-run", "--manifest", "nowhere.csv"]) == 2
    assert "nowhere.csv" in capfd.readouterr().err
    assert percept([*words, "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "A test has arms." in said
    assert "6 trainings, about" in said
    assert not out.exists()

    shorter = ["train.steps=2", "schedule.warmup_steps=1"]
    experiment_file.write_text(
        experiment_file.read_text().replace(
            "train.global_batch = 2\ntrain.steps = 24", "schedule.warmup_steps = 0"
        )
    )
    argv = [str(experiment_file), "--out", str(out), "--device", "cpu"]
    for setting in shorter:
        argv += ["--set", setting]
    experiment = load_experiment(str(experiment_file), overrides=shorter)
    for training in experiment.trainings[:-1]:  # in this process, which is faster
        words = [str(experiment.base), "--out", str(out / training.name), "--device", "cpu"]
        for override in training.overrides:
            words += ["--set", override]
        assert train_one(words) == 0
    capfd.readouterr()
    threads = torch.get_num_threads()
    assert main(argv) == 0
    torch.set_num_threads(threads)
    said = capfd.readouterr().out
    assert "[6/6] small-s3" in said
    record = json.loads((out / "experiment.json").read_text())
    assert [t["state"] for t in record["trainings"]] == ["complete"] * 6
    assert said.count("trained in") == 1  # the others were left as they were
    for command in next_commands(experiment, out, experiment.trainings):
        assert f"  percept {shlex.join(command)}" in said
        build_parser().parse_args(command)
    assert load_checkpoint(out / "small-s2")[1]["arm"] == "small"

    manifest = experiment_file.with_name("manifest.csv")
    conditions = [f"{name}={out / name}" for name in ("plain-s1", "plain-s2", "small-s1")]
    run = experiment_file.with_name("run")
    assert percept(["infer", str(manifest), "--split", "study", "--condition", *conditions,
                    "--out", str(run), "--device", "cpu"]) == 0  # fmt: skip
    found = {c.name: (c.arm, c.seed) for c in open_run(run).conditions}
    assert found == {"plain-s1": ("plain", 1), "plain-s2": ("plain", 2), "small-s1": ("small", 1)}
