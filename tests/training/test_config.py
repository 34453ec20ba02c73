from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from percept import bundle
from percept.errors import InputError, InputErrors
from training.config import Config, load_config

FOLDER = bundle.root() / "training" / "experiments"
EXPERIMENTS = [file for file in sorted(FOLDER.glob("*.toml")) if "[arms." not in file.read_text()]


def keys(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name and default of every setting."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        hint = get_type_hints(kind)[item.name]
        if dataclasses.is_dataclass(hint):
            found |= keys(hint, f"{prefix}{item.name}.")
        else:
            factory = item.default_factory
            default = item.default if factory is dataclasses.MISSING else factory()
            found[prefix + item.name] = default
    return found


def test_readme_documents_every_setting_with_its_default() -> None:
    text = (bundle.root() / "training" / "README.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| (.+?) \|", text, re.MULTILINE))
    settings = keys(Config)
    assert settings.keys() <= documented.keys()
    for key, default in settings.items():
        if default is dataclasses.MISSING:
            assert documented[key] == "required"
        elif default is None:
            assert documented[key] == "none"
        else:
            assert tomllib.loads(f"x = {documented[key]}")["x"] == default, key


def test_every_setting_has_a_docstring() -> None:
    source = Path(bundle.root() / "training" / "config.py").read_text(encoding="utf-8")
    for key in keys(Config):
        name = key.split(".")[-1]
        assert re.search(rf'^    {name}: .+\n    """[^"]+"""$', source, re.MULTILINE), key


@pytest.mark.parametrize("file", EXPERIMENTS, ids=[file.stem for file in EXPERIMENTS])
def test_bundled_experiments_are_found_by_name(file: Path) -> None:
    config = load_config(file.stem, manifest="m.csv", world=2)
    assert config.arm
    assert config.data.manifest == str(Path("m.csv").resolve())


def test_demo_arms_have_equal_budgets_and_differ_as_they_say() -> None:
    arms = {
        name: load_config(f"demo-{name}", manifest="m.csv")
        for name in ("baseline", "no-warmup", "compressed")
    }
    assert {name: config.arm for name, config in arms.items()} == {name: name for name in arms}
    base = arms["baseline"]
    without = dataclasses.replace(arms["no-warmup"], arm=base.arm, schedule=base.schedule)
    assert without == base
    assert arms["no-warmup"].schedule.warmup_steps == 0 < base.schedule.warmup_steps
    compressed = arms["compressed"]
    assert dataclasses.replace(compressed, arm=base.arm, communication=base.communication) == base
    assert compressed.communication.compression != "none"


def test_overrides_are_toml_or_text(config_file: Path) -> None:
    config = load_config(
        str(config_file),
        overrides=["train.steps=9", "arm=other", "network.arguments.width=16", "data.flip=false"],
    )
    assert (config.train.steps, config.arm, config.data.flip) == (9, "other", False)
    assert config.network.arguments == {"width": 16, "depth": 1}


def test_manifest_is_relative_to_the_config(config_file: Path, manifest: Path) -> None:
    assert load_config(str(config_file)).data.manifest == str(manifest)


@pytest.mark.parametrize(
    ("override", "key", "says"),
    [
        ("train.stepz=1", "train.stepz", "unknown key. Did you mean 'steps'?"),
        ("data.x=1", "data.x", "unknown key. Known keys: manifest, split"),
        ("train.steps=many", "train.steps", "must be a whole number (got 'many')"),
        ("train.steps=1.5", "train.steps", "must be a whole number (got 1.5)"),
        ("train.steps=true", "train.steps", "must be a whole number (got True)"),
        ("train.steps=0", "train.steps", "must be at least 1 (got 0)"),
        ("train.ema=1", "train.ema", "must be from 0.0 to 0.99999 (got 1)"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate", "must be a finite number"),
        ("data.flip=1", "data.flip", "must be true or false (got 1)"),
        ("arm=3", "arm", "must be text (got 3)"),
        ("train=3", "train", "must be a section (got 3)"),
        ("network.arguments=3", "network.arguments", "must be a table (got 3)"),
        (
            "communication.compression=zip",
            "communication.compression",
            "must be one of 'none', 'fp16', 'bf16', 'powersgd' (got 'zip')",
        ),
        ("data.strata=[1]", "data.strata", "must be text (got [1])"),
        ("data.strata=era", "data.strata", "must be a list (got 'era')"),
        ("data.buckets=[[16]]", "data.buckets", "[height, width]"),
        ("data.buckets=[[16, 64]]", "data.buckets", "larger than the photographs"),
        ("data.pixel_budget=2000", "data.pixel_budget", "8 views of 16×16 has 2048 pixels"),
        ("train.accumulation=3", "train.global_batch", "1 process of 3 passes each cannot share"),
        ("loss.smooth_l1=0", "loss.smooth_l1", "no loss has a weight above 0"),
        ("loss.perceptual=1", "loss.perceptual", "at least 64 pixels"),
        ("loss.adversarial=1", "loss.adversarial", "at least 32 pixels"),
        ("sharding.strategy=ring", "sharding.strategy", "must be one of 'none', 'zero', 'fsdp'"),
        ("sharding.size=2", "sharding.size", "strategy none has no groups"),
        ("memory.precision=int8", "memory.precision", "must be one of 'fp32', 'bf16', 'fp16'"),
        ("schedule.warmup_steps=7", "schedule.warmup_steps", "warmup is longer"),
        ("train.divergence=0.5", "train.divergence", "would stop every training"),
        ("train.divergence=1", "train.divergence", "Use more than 1, or 0"),
        ("train.crop=64", "train.crop", "larger than the photographs"),
    ],
)
def test_bad_values_name_file_key_value_and_remedy(
    config_file: Path, override: str, key: str, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_config(str(config_file), overrides=[override])
    assert caught.value.key == key
    assert str(config_file) in str(caught.value)
    assert says in str(caught.value)


def test_several_problems_are_reported_together(config_file: Path) -> None:
    with pytest.raises(InputErrors) as caught:
        load_config(str(config_file), overrides=["train.steps=0", "data.flip=1", "seeds=1"])
    assert {error.key for error in caught.value.errors} == {"train.steps", "data.flip", "seeds"}


def test_a_batch_must_divide_by_the_world(config_file: Path) -> None:
    with pytest.raises(InputError, match=r"3 processes.*got 8.*Use 6 or 9") as caught:
        load_config(str(config_file), world=3)
    assert caught.value.key == "train.global_batch"
    with pytest.raises(InputError, match=r"16 processes.*Use 16,"):
        load_config(str(config_file), world=16)


def test_powersgd_needs_two_plain_steps(config_file: Path) -> None:
    overrides = ["communication.compression=powersgd", "communication.compression_start=1"]
    with pytest.raises(InputError, match="PowerSGD") as caught:
        load_config(str(config_file), overrides=overrides)
    assert caught.value.key == "communication.compression_start"


@pytest.mark.parametrize(
    ("overrides", "world", "key", "says"),
    [
        (["sharding.strategy=hybrid", "sharding.size=4"], 2, "sharding.size", "Use --nproc 4"),
        (["sharding.strategy=hybrid", "sharding.size=4"], 1, "sharding.size", "1 process cannot"),
        (
            ["sharding.strategy=hybrid", "sharding.size=3", "train.global_batch=8"],
            4,
            "sharding.size",
            "4 processes cannot form groups of 3 (got 3). Use --nproc 6",
        ),
        (
            ["sharding.strategy=fsdp", "communication.compression=fp16"],
            2,
            "communication.compression",
            "belongs to DDP",
        ),
        (["sharding.strategy=fsdp", "memory.precision=fp16"], 2, "memory.precision", "Use bf16"),
        (["sharding.strategy=pipeline"], 2, "network.name", "only the network deep"),
        (
            ["communication.compression=powersgd", "memory.precision=fp16"],
            2,
            "memory.precision",
            "Use bf16 or fp32",
        ),
        (
            ["communication.compression=bf16", "communication.compression_start=6"],
            2,
            "communication.compression_start",
            "6 steps never gets there",
        ),
        (
            ["communication.average_every=2", "communication.average_start=6"],
            2,
            "communication.average_start",
            "6 steps never gets there",
        ),
        (
            ["communication.static_graph=true", "communication.find_unused_parameters=true"],
            2,
            "communication.static_graph",
            "Turn one of",
        ),
        (
            ["communication.average_every=4", "communication.compression=fp16"],
            2,
            "communication.compression",
            "post-local SGD",
        ),
        (
            ["communication.average_every=4", "sharding.strategy=zero"],
            2,
            "sharding.strategy",
            "post-local SGD",
        ),
    ],
)
def test_impossible_combinations_are_said_before_anything_starts(
    config_file: Path, overrides: list[str], world: int, key: str, says: str
) -> None:
    with pytest.raises((InputError, InputErrors)) as caught:
        load_config(str(config_file), overrides=overrides, world=world)
    errors = getattr(caught.value, "errors", [caught.value])
    (error,) = [error for error in errors if error.key == key]
    assert says in str(error)
    assert str(config_file) in str(error)


@pytest.mark.parametrize("key", ["compression=bf16", "average_every=2"])
def test_what_begins_with_the_last_step_is_possible(config_file: Path, key: str) -> None:
    start = "compression_start" if key.startswith("compression") else "average_start"
    load_config(
        str(config_file),
        overrides=[f"communication.{key}", f"communication.{start}=5"],
        world=2,
    )


def test_a_missing_config_names_the_bundled_ones() -> None:
    with pytest.raises(InputError, match="demo-baseline"):
        load_config("nowhere")


def test_a_missing_key_manifest_and_bad_toml(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('arm = "x"\n[train]\nsteps = 1\n')
    with pytest.raises(InputError, match="missing key") as caught:
        load_config(str(file))
    assert caught.value.key == "train.global_batch"
    with pytest.raises(InputError, match="--manifest FILE"):
        load_config(str(file), overrides=["train.global_batch=4"])
    file.write_text("arm = \n")
    with pytest.raises(InputError, match="not valid TOML"):
        load_config(str(file))
    with pytest.raises(InputError, match=r"section\.key=value"):
        load_config("demo-baseline", overrides=["steps"])
