"""Equivalences between the ways to compute a step, by real processes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

import training.parallel
from percept.distributed import launch, process_group
from percept.errors import InputError
from percept.inference.networks import build_network
from tests.training.conftest import make_config_file, make_manifest
from training.clock import Clock
from training.config import Config, NetworkConfig, ShardingConfig, TrainConfig
from training.losses import Objective
from training.parallel import make_parallel
from training.trainer import make_network

# Twenty steps of SGD with momentum. (AdamW divides a gradient by its own size, which blows the
# rounding of sums up where a gradient is nearly zero; the same sums are behind both.)
COMMON = ["train.steps=20", "optimizer.name=sgd", "optimizer.learning_rate=2e-3", "train.ema=0.9"]
COMMON += ["train.checkpoint_every=10", "train.log_every=5", "optimizer.clip_norm=5.0"]
#: Largest difference of any weight; weights are about 0.1, and fp32 has seven digits.
TOLERANCE = 2e-6

# What each world trains: name, settings, and the step that it is stopped before, if any.
Runs = dict[str, tuple[list[str], int | None]]
DEEP = ["network.name=deep", "network.arguments={width=8, blocks=3}", "train.crop=16"]
TERMS = ["loss.smooth_l1=0.5", "loss.l1=2", "optimizer.learning_rate=1e-3"]
GATED = [
    "network.name=gated-unet",
    "network.arguments={width=8, depth=1, threshold=0.03}",
    "communication.find_unused_parameters=true",
]
ADAMW = ["optimizer.name=adamw"]
LOCAL = ["communication.average_every=4", "communication.average_start=4"]
ONE: Runs = {
    "1x8": ([], None),
    "1x1x8": (["train.accumulation=8"], None),
    "deep": (DEEP, None),
    "deep-terms": ([*DEEP, *TERMS], None),
    "gated": (GATED, None),
    "elastic": ([], 15),
    "elastic-zero": (["sharding.strategy=zero"], 15),
    "elastic-fsdp": (["sharding.strategy=fsdp"], 15),
    "adamw": (ADAMW, None),
    "adamw-fsdp": ([*ADAMW, "sharding.strategy=fsdp"], 15),
}
TWO: Runs = {
    "2x4": ([], None),
    "2x2x2": (["train.accumulation=2"], None),
    "zero": (["sharding.strategy=zero"], None),
    "fsdp": (["sharding.strategy=fsdp"], None),
    "fsdp-accumulated": (["sharding.strategy=fsdp", "train.accumulation=2"], None),
    "hybrid-1": (["sharding.strategy=hybrid", "sharding.size=1"], None),
    "pipeline": ([*DEEP, "sharding.strategy=pipeline"], None),
    "pipeline-terms": ([*DEEP, *TERMS, "sharding.strategy=pipeline"], None),
    "pipeline-bf16": ([*DEEP, "sharding.strategy=pipeline", "memory.precision=bf16"], None),
    "gated-2": (GATED, None),
    "buffers": (
        [
            "communication.bucket_mb=0.001",
            "communication.gradient_as_bucket_view=true",
            "communication.static_graph=true",
            "memory.activation_checkpointing=true",
        ],
        None,
    ),
    "bf16": (["memory.precision=bf16"], None),
    "fp16": (["memory.precision=fp16"], None),
    "local": (LOCAL, None),
    "local-2": (LOCAL, 15),
    "pipeline-2": ([*DEEP, "sharding.strategy=pipeline"], 15),
    "contiguous": (["data.sampler=contiguous"], None),
    "elastic": ([], None),
    "elastic-zero": (["sharding.strategy=zero"], None),
    "elastic-fsdp": (["sharding.strategy=fsdp"], None),
    "adamw-zero": ([*ADAMW, "sharding.strategy=zero"], None),
    "adamw-fsdp": ([*ADAMW, "sharding.strategy=fsdp"], None),
}
AGAIN: Runs = {
    "local-2": (LOCAL, None),
    "pipeline-2": ([*DEEP, "sharding.strategy=pipeline"], None),
}
FOUR: Runs = {
    "4x2": ([], None),
    "hybrid-2": (["sharding.strategy=hybrid", "sharding.size=2"], None),
}

WORKER = """
import json, os, sys
from percept.distributed import process_group
from training.train import parse, train
from training.trainer import Trainer

judge = Trainer._judge
with process_group("cpu"):
    for argv, stop in json.loads(sys.argv[1]):
        def stopping(self, outcome):
            if self.step == stop:
                self.saver.wait()
                raise KeyboardInterrupt
            judge(self, outcome)
        Trainer._judge = stopping
        try:
            train(parse(argv), __import__("torch").device("cpu"))
        except KeyboardInterrupt:
            pass
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all trainings, each world having been started once (and two worlds resumed)."""
    home = tmp_path_factory.mktemp("parallel")
    config = make_config_file(home, make_manifest(home))
    script = home / "worker.py"
    script.write_text(WORKER)
    for world, runs in [
        (1, ONE),
        (2, {**TWO, **{f"{n}+": r for n, r in AGAIN.items()}}),
        (4, FOUR),
    ]:
        jobs = []
        for name, (settings, stop) in runs.items():
            argv = [str(config), "--out", str(home / name.removesuffix("+")), "--device", "cpu"]
            for setting in [*COMMON, *settings]:
                argv += ["--set", setting]
            jobs.append((argv, stop))
        assert launch([str(script), json.dumps(jobs)], world) == 0
    return home


def distance(first: Path, second: Path) -> float:
    """Largest difference of any weight of two checkpoints."""
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    return max(float((value - b[name]).abs().max()) for name, value in a.items())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("2x4", "1x8"),
        ("4x2", "1x8"),
        ("1x1x8", "1x8"),
        ("2x2x2", "1x8"),
        ("zero", "1x8"),
        ("fsdp", "1x8"),
        ("fsdp-accumulated", "1x8"),
        ("hybrid-1", "1x8"),
        ("hybrid-2", "1x8"),
        ("buffers", "1x8"),
        ("pipeline", "deep"),
        ("pipeline-terms", "deep-terms"),
        ("gated-2", "gated"),
    ],
)
def test_the_same_weights_however_the_batch_is_computed(
    trained: Path, name: str, like: str
) -> None:
    assert distance(trained / name, trained / like) < TOLERANCE
    for key in ("loss", "losses"):
        one, other = ([line.get(key, {}) for line in lines(trained / n)] for n in (name, like))
        assert one == [pytest.approx(value, rel=1e-5) for value in other]


@pytest.mark.parametrize("name", ["gated", "deep", "local", "contiguous"])
def test_the_comparison_can_tell(trained: Path, name: str) -> None:
    like = "1x8" if name not in {"gated", "deep"} else None
    if like:
        assert distance(trained / name, trained / like) > 10 * TOLERANCE
    else:  # another network: the training did something
        network = make_network(_config(name))
        start = {key: value.detach() for key, value in network.state_dict().items()}
        end = load_file(trained / name / "model.safetensors")
        assert max(float((end[key] - start[key]).abs().max()) for key in start) > 10 * TOLERANCE


def _config(name: str) -> Config:
    arguments: dict[str, Any] = {"width": 8, "blocks": 3}
    if name == "gated":
        arguments = {"width": 8, "depth": 1, "threshold": 0.03}
    network = NetworkConfig(name={"gated": "gated-unet"}.get(name, name), arguments=arguments)
    from training.config import CommunicationConfig

    return Config(
        arm="x",
        seed=3,
        network=network,
        communication=CommunicationConfig(find_unused_parameters=True),
        train=TrainConfig(steps=1, global_batch=1, crop=16),
    )


@pytest.mark.parametrize("name", ["adamw-zero", "adamw-fsdp"])
def test_adamw_is_the_same_in_parts(trained: Path, name: str) -> None:
    losses = [[line["loss"] for line in lines(trained / n)] for n in (name, "adamw")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert distance(trained / name, trained / "adamw") < 1e-4
    assert distance(trained / "1x8", trained / "adamw") > 1e-2
    state = torch.load(trained / name / "state/step-20/common.pt", weights_only=True)
    assert all(group["fused"] for group in state["optimizer"]["param_groups"])


@pytest.mark.parametrize("name", ["elastic", "elastic-zero", "elastic-fsdp"])
def test_another_number_of_processes_goes_on(trained: Path, name: str) -> None:
    run = json.loads((trained / name / "run.json").read_text())
    assert [session["world"] for session in run["sessions"]] == [1, 2]
    assert [session["from_step"] for session in run["sessions"]] == [0, 10]
    assert distance(trained / name, trained / "1x8") < TOLERANCE


@pytest.mark.parametrize("name", ["local", "pipeline"])
def test_states_of_which_each_process_has_a_part_come_back(trained: Path, name: str) -> None:
    run = json.loads((trained / f"{name}-2" / "run.json").read_text())
    assert [session["from_step"] for session in run["sessions"]] == [0, 10]
    assert distance(trained / name, trained / f"{name}-2") == 0.0


@pytest.mark.parametrize(
    ("name", "like", "tolerance"),
    [("bf16", "1x8", 2e-2), ("fp16", "1x8", 1e-2), ("pipeline-bf16", "deep", 2e-2)],
)
def test_lower_precision_is_near_fp32(
    trained: Path, name: str, like: str, tolerance: float
) -> None:
    losses = [[line["loss"] for line in lines(trained / n)] for n in (name, like)]
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert losses[0] != losses[1]


def test_fp16_scales_its_loss(trained: Path) -> None:
    assert lines(trained / "fp16")[-1]["loss_scale"] >= 1.0


def test_what_all_reduce_carries_is_counted(trained: Path) -> None:
    parameters = json.loads((trained / "2x4" / "run.json").read_text())["parameters"]
    assert {line["all_reduce_bytes"] for line in lines(trained / "2x4")} == {4 * parameters}
    # Only the last of two passes communicates.
    assert {line["all_reduce_bytes"] for line in lines(trained / "2x2x2")} == {4 * parameters}
    # From step 4 on every fourth step averages weights: steps 8, 12, 16 and 20.
    sent = [5 * line["all_reduce_bytes"] for line in lines(trained / "local")]
    assert sum(sent) == pytest.approx((4 + 4) * 4 * parameters, abs=20)  # rounded


def test_what_else_travels_is_counted(trained: Path) -> None:
    whole = 4 * json.loads((trained / "2x4" / "run.json").read_text())["parameters"]

    def other(name: str) -> dict[str, int]:
        (found,) = {json.dumps(line["other_bytes"]) for line in lines(trained / name)}
        return dict(json.loads(found))

    assert other("2x4") == other("local") == {}
    assert 0 < other("zero")["broadcast"] < whole  # its part; the other process sends the rest
    fsdp = other("fsdp")
    assert fsdp["reduce_scatter"] == pytest.approx(whole, rel=0.01)  # padded to be divided
    # Weights are gathered for the forward pass, and but for the root's again for the backward.
    assert whole / 2 < fsdp["all_gather"] <= 1.01 * whole
    assert other("fsdp-accumulated")["reduce_scatter"] == fsdp["reduce_scatter"]
    assert other("fsdp-accumulated")["all_gather"] > fsdp["all_gather"]
    # Groups of two, and two of them: gradients are summed in the group, then between groups.
    assert lines(trained / "hybrid-2")[-1]["all_reduce_bytes"] == pytest.approx(whole / 2, rel=0.01)
    # Eight views of 16 × 16 leave the first stage as 8 channels of 4 × 4.
    assert other("pipeline") == {"send": 8 * 8 * 4 * 4 * 4}
    assert other("pipeline-bf16") == {"send": 8 * 8 * 4 * 4 * 2}


def test_sharing_takes_time(trained: Path) -> None:
    kinds = {"zero": {"broadcast"}, "fsdp": {"all_gather", "reduce_scatter"}}
    kinds["local"] = {"all_reduce"}
    for name, own in kinds.items():
        for kind in own:
            seconds = [line["step_seconds"][f"{kind}_in_flight"] for line in lines(trained / name)]
            assert min(seconds) > 0


def test_the_time_of_a_step_is_divided(trained: Path) -> None:
    for line in lines(trained / "2x4"):
        seconds = line["step_seconds"]
        assert {"data", "forward", "backward", "all_reduce", "optimizer"} <= seconds.keys()
        assert all(value >= 0 for value in seconds.values())


def test_processes_with_their_own_photographs_see_unlike_colours(trained: Path) -> None:
    def unlike(name: str) -> float:
        return sum(line["rank_divergence"] for line in lines(trained / name))

    assert unlike("contiguous") > 1.5 * unlike("2x4") > 0
    assert unlike("1x8") == 0


MEAN = """
import torch
from percept.distributed import process_group, rank
from training.clock import Clock
from training.config import CommunicationConfig, Config, LossConfig, TrainConfig
from training.losses import Objective
from training.parallel import make_parallel
from percept.inference.networks import build_network

config = Config(
    arm="x",
    communication=CommunicationConfig(average_every=4),
    loss=LossConfig(smooth_l1=0.0, classification=1.0),
    train=TrainConfig(steps=1, global_batch=3),
)
device = torch.device("cpu")
with process_group(device):
    network = build_network("class-unet", {"width": 8, "depth": 3})
    network.stem.requires_grad_(False)
    network.centers /= 7
    objective = Objective(config, network, device, None)
    parallel = make_parallel(config, network, device, objective, Clock(device))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += rank()
    mean = dict(parallel.weights())
    assert mean.keys() == before.keys()
    for name, value in before.items():
        if name == "centers" or name.startswith("stem."):
            assert torch.equal(mean[name], value), name
        else:
            torch.testing.assert_close(mean[name], value + 1)
    last = network.head.bias.detach() - before["head.bias"]
    torch.testing.assert_close(last, torch.full_like(last, rank()))
"""


def test_processes_that_step_alone_average_what_they_learn_and_nothing_else(
    tmp_path: Path,
) -> None:
    script = tmp_path / "mean.py"
    script.write_text(MEAN)
    assert launch([str(script)], 3) == 0


def test_a_conditional_network_needs_its_flag() -> None:
    """Not a superstition: DDP itself fails at the second step without it."""
    config = NetworkConfig(name="gated-unet", arguments={"width": 8, "depth": 1})
    train = TrainConfig(steps=1, global_batch=1, crop=16)
    with pytest.raises(InputError, match=r"find_unused_parameters.*Set it to true"):
        make_network(Config(arm="x", network=config, train=train))
    with process_group("cpu"):
        model = DistributedDataParallel(build_network(config.name, config.arguments))
        model(torch.zeros(1, 1, 16, 16)).sum().backward()
        with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
            model(torch.zeros(1, 1, 16, 16))


def test_only_the_main_process_keeps_what_was_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(
        arm="x",
        network=NetworkConfig(arguments={"width": 8, "depth": 1}),
        sharding=ShardingConfig(strategy="fsdp"),
        train=TrainConfig(steps=2, global_batch=1, crop=16, ema=0.9),
    )
    cpu = torch.device("cpu")
    with process_group("cpu"):
        network = make_network(config)
        names = set(network.state_dict())
        objective = Objective(config, network, cpu)
        sharded = make_parallel(config, network, cpu, objective, Clock(cpu))
        batch = torch.rand(1, 1, 16, 16), 50 * torch.rand(1, 2, 16, 16)

        def step(number: int) -> dict[str, Any]:
            sharded.step(*batch, number=number, rate=1e-2)
            return sharded.state()[0]

        first = step(0)
        assert first["network"].keys() == first["average"].keys() == names
        saved = {name: value.clone() for name, value in first["network"].items()}
        second = step(1)
        for name, value in first["network"].items():  # written while the training goes on
            assert torch.equal(value, saved[name])
            assert not torch.equal(value, second["network"][name])
        monkeypatch.setattr(training.parallel, "is_main", lambda: False)
        other = sharded.state()[0]
        assert other["network"] == other["average"] == {}
        assert all(own == {} for own in other["optimizer"]["state"].values())


def test_a_pipeline_has_no_more_stages_than_layers() -> None:
    config = Config(
        arm="x",
        network=NetworkConfig(name="deep", arguments={"width": 8, "blocks": 1}),
        sharding=ShardingConfig(strategy="pipeline"),
        train=TrainConfig(steps=1, global_batch=4, crop=16),
    )
    make_network(config, world=3)
    with pytest.raises(InputError, match="3 layers cannot be divided into 4 stages"):
        make_network(config, world=4)


def test_the_clock_takes_exposed_exchange_out_of_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(torch.device("cpu"))
    moments: Sequence[tuple[str, float]] = [("", 10), ("forward", 12), ("backward", 20), ("", 21)]
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock.note_exchange(14.0, 16.0)
    clock.note_exchange(15.0, 17.0)  # overlaps the first
    clock.note_exchange(18.0, 19.5)  # nothing is left to compute after 18
    for name, now[0] in moments:
        clock.lap(name)
    assert clock.take() == {
        "forward": 2.0,
        "backward": 6.0,
        "all_reduce": 2.0,
        "all_reduce_in_flight": 4.5,
    }
    assert clock.take() == {}
