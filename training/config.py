"""Training configuration: TOML → frozen dataclasses, checked once, saved with what it produced.

Importing this module costs nothing, so that a bad value is reported before any process starts.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from percept import bundle
from percept.errors import InputError, InputErrors

GradientCompression = Literal["none", "fp16", "bf16", "powersgd"]


def _between(low: float, high: float = math.inf, **options: Any) -> Any:
    """Field whose value lies in [low, high]; ``options`` go to :func:`dataclasses.field`."""
    return field(metadata={"low": low, "high": high}, **options)


class _Section:
    """A table of the file: types and ranges of its fields are checked when it is made."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            problem = _type_problem(value, hints[item.name])
            low, high = item.metadata.get("low", -math.inf), item.metadata.get("high", math.inf)
            if problem is None and isinstance(value, int | float) and not low <= value <= high:
                limit = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                problem = f"must be {limit}"
            if problem is not None:
                raise InputError(f"the value {problem}", key=item.name, value=value)


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Section):
    """Photographs, and the views that training takes of them."""

    manifest: str | None = None
    """Manifest file, relative to the config; ``--manifest`` replaces it."""
    split: str = "train"
    """Rows whose ``split`` is this are read, and no others."""
    max_side: int = _between(16, 4096, default=256)
    """Photographs are scaled down to this largest side, in pixels: at training and inference."""
    min_scale: float = _between(0.05, 1.0, default=0.5)
    """Smallest random zoom of a view; views are cut at min_scale…1 of the cached size."""
    flip: bool = True
    """Mirror half of the views."""
    lightness_jitter: float = _between(0.0, 1.0, default=0.2)
    """Strength of random gamma and contrast on the input luminance; 0 is off."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(_Section):
    """The network, as ``percept.inference.networks.build_network`` builds it."""

    name: str = "unet"
    """Registered network name."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(_Section):
    """Smooth L1 on a*, b*, weighted towards saturated pixels."""

    beta: float = _between(0.01, 100.0, default=5.0)
    """Error, in units of a*, b*, below which the loss is quadratic."""
    chroma_weight: float = _between(0.0, 100.0, default=1.0)
    """Extra weight of a pixel per 50 units of true chroma; 0 leaves greyish averages winning."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(_Section):
    """AdamW."""

    learning_rate: float = _between(1e-8, 10.0, default=2e-3)
    """Peak learning rate, reached after warmup."""
    weight_decay: float = _between(0.0, 10.0, default=0.01)
    """Decoupled weight decay."""
    epsilon: float = _between(1e-16, 1.0, default=1e-8)
    """Term added to the denominator of the update."""
    clip_norm: float = _between(0.0, default=1.0)
    """Largest norm of the whole gradient; 0 is no clipping."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(_Section):
    """Linear warmup, then a cosine."""

    warmup_steps: int = _between(0, default=20)
    """Steps in which the learning rate rises to its peak; 0 starts at the peak."""
    final_fraction: float = _between(0.0, 1.0, default=0.02)
    """Learning rate at the end of the cosine, as a fraction of the peak."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig(_Section):
    """Communication between the processes."""

    gradient_compression: GradientCompression = "none"
    """How gradients are compressed for the all-reduce (DDP communication hook)."""
    compression_start: int = _between(0, default=10)
    """Steps that run uncompressed first."""
    powersgd_rank: int = _between(1, 64, default=1)
    """Rank of the approximation when ``gradient_compression`` is ``powersgd``."""
    threads: int = _between(1, 1024, default=1)
    """Compute threads of each process. Recorded, because it changes low-order bits."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Section):
    """Length of the training and shape of a batch."""

    steps: int = _between(1)
    """Optimizer steps."""
    global_batch: int = _between(1)
    """Views per step, over all processes; every process takes an equal share."""
    crop: int = _between(8, 4096, default=128)
    """Side of a view, in pixels."""
    ema: float = _between(0.0, 0.99999, default=0.0)
    """Decay of the running average of the weights that inference gets; 0 is off."""
    checkpoint_every: int = _between(1, default=100)
    """Steps between saved states; the last step is always saved."""
    log_every: int = _between(1, default=10)
    """Steps between lines of ``log.jsonl``."""


@dataclass(frozen=True, kw_only=True)
class Config(_Section):
    """Everything that decides what is trained."""

    arm: str
    """Name under which the result competes in a study."""
    seed: int = _between(0, 2**32 - 1, default=0)
    """Seed of initial weights, sample order and augmentation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Photographs and views."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over time."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Communication."""
    train: TrainConfig
    """Length and batch."""

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, as it is saved with the checkpoint."""
        return dataclasses.asdict(self)


def find_config(name: str) -> Path:
    """Path of a configuration file, or of the bundled experiment of that name.

    Raises
    ------
    InputError
        If there is neither.
    """
    file = Path(name)
    if file.is_file():
        return file
    folder = bundle.root() / "training" / "experiments"
    experiment = folder / f"{name.removesuffix('.toml')}.toml"
    if experiment.parent == folder and experiment.is_file():
        return experiment
    known = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
    raise InputError(
        "no such file, and no bundled experiment of that name",
        key="CONFIG",
        value=name,
        remedy=f"Give the path of a TOML file, or one of: {known}",
    )


def load_config(
    name: str, *, overrides: Iterable[str] = (), manifest: str | None = None, world: int = 1
) -> Config:
    """Read and check a configuration.

    Parameters
    ----------
    name : str
        TOML file, or name of a bundled experiment.
    overrides : iterable of str
        ``section.key=value``, where value is TOML; what is not TOML is taken as text.
    manifest : str, optional
        Replaces ``data.manifest``; relative to the working directory.
    world : int
        Number of processes that will train.

    Returns
    -------
    Config
        ``data.manifest`` is an absolute path in it.

    Raises
    ------
    InputError, InputErrors
        With file, key, value and remedy of every problem found.
    """
    file = find_config(name)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML: {error}", file=file) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None
    for override in overrides:
        _apply_override(table, override)
    problems: list[InputError] = []
    config = _build(Config, table, "", file, problems)
    if config is None:
        raise problems[0] if len(problems) == 1 else InputErrors(problems)
    if manifest is not None:
        source = Path(manifest).resolve()
    elif config.data.manifest is not None:
        source = (file.parent / config.data.manifest).resolve()
    else:
        raise InputError(
            "no manifest to train on", file=file, key="data.manifest", remedy="Add --manifest FILE"
        )
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, manifest=str(source))
    )
    problems = list(_impossible(config, file, world))
    if problems:
        raise problems[0] if len(problems) == 1 else InputErrors(problems)
    return config


def _impossible(config: Config, file: Path, world: int) -> Iterable[InputError]:
    """Yield combinations of valid values that cannot work."""
    batch = config.train.global_batch
    if batch % world:
        fits = [size for size in (batch - batch % world, batch + world - batch % world) if size]
        yield InputError(
            f"{world} processes cannot share the batch equally",
            file=file,
            key="train.global_batch",
            value=batch,
            remedy=f"Use {' or '.join(map(str, fits))}, or another --nproc",
        )
    if config.schedule.warmup_steps > config.train.steps:
        yield InputError(
            f"warmup is longer than the training of {config.train.steps} steps",
            file=file,
            key="schedule.warmup_steps",
            value=config.schedule.warmup_steps,
        )
    if config.train.crop > config.data.max_side:
        yield InputError(
            f"views are larger than the photographs, which are scaled to {config.data.max_side}",
            file=file,
            key="train.crop",
            value=config.train.crop,
            remedy="Lower train.crop or raise data.max_side",
        )
    distributed = config.distributed
    if distributed.gradient_compression == "powersgd" and distributed.compression_start < 2:
        yield InputError(
            "PowerSGD needs two uncompressed steps first",
            file=file,
            key="distributed.compression_start",
            value=distributed.compression_start,
            remedy="Use 2 or more",
        )


def _apply_override(table: dict[str, Any], override: str) -> None:
    """Set one ``section.key=value`` in a table read from TOML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(
            "not of the form section.key=value",
            key="--set",
            value=override,
            remedy="For example: --set train.steps=100",
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise InputError(f"{key!r} is not a section", key="--set", value=override)
    table[keys[-1]] = value


def _build(
    kind: type[Any], table: Mapping[str, Any], prefix: str, file: Path, problems: list[InputError]
) -> Any:
    """Make one section from its table; adds to ``problems`` and returns None if it cannot."""
    before = len(problems)
    hints = get_type_hints(kind)
    for key in table.keys() - hints.keys():
        close = difflib.get_close_matches(key, hints, n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(hints)}"
        problems.append(InputError("unknown key", file=file, key=prefix + key, remedy=remedy))
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        section = isinstance(hints[item.name], type) and issubclass(hints[item.name], _Section)
        if item.name in table:
            value = table[item.name]
            if section and isinstance(value, Mapping):
                value = _build(hints[item.name], value, f"{prefix}{item.name}.", file, problems)
            values[item.name] = value
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            problems.append(InputError("missing key", file=file, key=prefix + item.name))
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except InputError as error:
        key = prefix + (error.key or "")
        problems.append(InputError(error.message, file=file, key=key, value=error.value))
        return None


def _type_problem(value: Any, hint: Any) -> str | None:
    """Say in words how ``value`` is not of type ``hint``; None if it is."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return None if value in choices else f"must be one of {', '.join(map(repr, choices))}"
    if hint == str | None:
        return None if value is None or isinstance(value, str) else "must be text"
    if hint is bool or isinstance(value, bool):
        return None if hint is bool and isinstance(value, bool) else f"must be {_NAMES[hint]}"
    if hint is float:
        real = isinstance(value, int | float) and math.isfinite(value)
        return None if real else f"must be {_NAMES[hint]}"
    expected = get_origin(hint) or hint
    return None if isinstance(value, expected) else f"must be {_NAMES.get(expected, 'a section')}"


_NAMES: dict[Any, str] = {
    bool: "true or false",
    float: "a finite number",
    int: "a whole number",
    str: "text",
    dict: "a table",
}
