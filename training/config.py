"""Training configuration: TOML → frozen dataclasses, checked once, saved with what it produced.

Importing this module costs nothing, so that a bad value is reported before any process starts.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from percept import bundle
from percept.errors import InputError, InputErrors

Sampler = Literal["shuffle", "repeated", "stratified", "contiguous"]
Optimizer = Literal["adamw", "sgd"]
Precision = Literal["fp32", "bf16", "fp16"]
Compression = Literal["none", "fp16", "bf16", "powersgd"]
Strategy = Literal["none", "zero", "fsdp", "hybrid", "pipeline"]


def _between(low: float, high: float = math.inf, **options: Any) -> Any:
    """Field whose value lies in [low, high]; ``options`` go to :func:`dataclasses.field`."""
    return field(metadata={"low": low, "high": high}, **options)


class Section:
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
class DataConfig(Section):
    """Photographs, and the views that training takes of them."""

    manifest: str | None = None
    """Manifest file, relative to the config; ``--manifest`` replaces it."""
    split: str = "train"
    """Rows whose ``split`` is this are trained on, and no others."""
    validation_split: str = "validation"
    """Rows of this split, if there are any, decide which checkpoint is the best."""
    max_side: int = _between(16, 4096, default=256)
    """Photographs are scaled down to this largest side, in pixels: at training and inference."""
    min_scale: float = _between(0.05, 1.0, default=0.5)
    """Smallest random zoom of a view; views are cut at min_scale…1 of the cached size."""
    flip: bool = True
    """Mirror half of the views."""
    lightness_jitter: float = _between(0.0, 1.0, default=0.2)
    """Strength of random gamma and contrast on the input luminance; 0 is off."""
    ageing: float = _between(0.0, 1.0, default=0.0)
    """Share of views whose luminance is artificially aged."""
    aged_copies: int = _between(1, 64, default=2)
    """Aged versions made of each photograph, where ``ageing`` is on."""
    sampler: Sampler = "shuffle"
    """Order of the photographs, and which process gets which."""
    strata: list[str] = field(default_factory=lambda: ["era", "degradation", "source"])
    """Columns of the manifest that the stratified ``sampler`` mixes evenly."""
    buckets: list[list[int]] = field(default_factory=list)
    """Shapes [height, width] of views; each photograph has that nearest to its own. Empty: all
    views are squares of ``train.crop``."""
    pixel_budget: int = _between(0, default=0)
    """Largest number of pixels in one forward pass of one process; 0 is no limit."""
    cache: bool = True
    """Keep all photographs in the memory of each process; else decode one whenever it is drawn."""
    decode_downscale: bool = False
    """Decode JPEG files at 1/2, 1/4 or 1/8 where that is still as large as ``max_side``."""
    workers: int = _between(0, 256, default=0)
    """Loader processes of each training process; 0 loads in the training process itself."""
    prefetch: int = _between(1, 64, default=2)
    """Steps that each loader process keeps ready."""
    pin_memory: bool = False
    """Load into page-locked memory, from which a CUDA device copies while it computes."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Section):
    """The network, as ``percept.inference.networks.build_network`` builds it."""

    name: str = "unet"
    """Registered network name."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """A weighted sum of losses; a weight of 0 leaves one out."""

    smooth_l1: float = _between(0.0, default=1.0)
    """Weight of smooth L1 on a*, b*."""
    l1: float = _between(0.0, default=0.0)
    """Weight of L1 on a*, b*."""
    classification: float = _between(0.0, default=0.0)
    """Weight of the cross-entropy over quantised a*, b*."""
    perceptual: float = _between(0.0, default=0.0)
    """Weight of LPIPS (AlexNet) between the coloured view and the true one."""
    adversarial: float = _between(0.0, default=0.0)
    """Weight of the PatchGAN loss."""
    beta: float = _between(0.01, 100.0, default=5.0)
    """Error, in units of a*, b*, below which smooth L1 is quadratic."""
    chroma_weight: float = _between(0.0, 100.0, default=1.0)
    """Extra weight of a pixel per 50 units of true chroma, in smooth L1 and L1; 0 leaves greyish
    averages winning."""
    rebalancing: float = _between(0.0, 1.0, default=0.5)
    """Rarity of colours in the training photographs decides this share of their weight in the
    cross-entropy; 0 weighs all alike."""
    discriminator_learning_rate: float = _between(1e-8, 1.0, default=2e-4)
    """Learning rate of the PatchGAN discriminator (Adam)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """The update of the weights."""

    name: Optimizer = "adamw"
    """AdamW, or SGD with Nesterov momentum."""
    learning_rate: float = _between(1e-8, 10.0, default=2e-3)
    """Peak learning rate, reached after warmup."""
    weight_decay: float = _between(0.0, 10.0, default=0.01)
    """Weight decay, decoupled in AdamW."""
    decay_all: bool = True
    """Decay every parameter; else neither biases nor the scales of normalisation, as is common."""
    epsilon: float = _between(1e-16, 1.0, default=1e-8)
    """Term added to the denominator of AdamW's update."""
    momentum: float = _between(0.0, 0.9999, default=0.9)
    """Momentum: of SGD, and beta1 of AdamW."""
    beta2: float = _between(0.0, 0.99999, default=0.999)
    """Decay of AdamW's running mean of squared gradients."""
    clip_norm: float = _between(0.0, default=1.0)
    """Largest norm of the whole gradient; 0 is no clipping."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Section):
    """Linear warmup, then a cosine."""

    warmup_steps: int = _between(0, default=20)
    """Steps in which the learning rate rises to its peak; 0 starts at the peak."""
    final_fraction: float = _between(0.0, 1.0, default=0.02)
    """Learning rate at the end of the cosine, as a fraction of the peak: that of a step after the
    last."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(Section):
    """Memory against time and digits."""

    precision: Precision = "fp32"
    """Arithmetic of forward and backward passes; weights stay fp32. fp16 scales the loss."""
    activation_checkpointing: bool = False
    """Compute the activations of each block again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the network (``torch.compile``)."""


@dataclass(frozen=True, kw_only=True)
class CommunicationConfig(Section):
    """What travels between the processes at each step (DistributedDataParallel)."""

    compression: Compression = "none"
    """How gradients are compressed for the all-reduce (DDP communication hook)."""
    compression_start: int = _between(0, default=10)
    """Steps that run uncompressed first."""
    powersgd_rank: int = _between(1, 64, default=1)
    """Rank of the approximation when ``compression`` is ``powersgd``."""
    average_every: int = _between(1, 10000, default=1)
    """1 averages gradients at every step. More is post-local SGD: processes step alone, and
    average their weights after this many steps."""
    average_start: int = _between(0, default=20)
    """Steps that average gradients first, where ``average_every`` is above 1."""
    bucket_mb: float = _between(0.001, 4096.0, default=25.0)
    """Size of the buckets in which gradients travel, in MiB."""
    gradient_as_bucket_view: bool = False
    """Let gradients live in the buckets: less memory by one copy of them."""
    static_graph: bool = False
    """Promise that every step uses the same parameters."""
    find_unused_parameters: bool = False
    """Search each forward pass for parameters without gradient; conditional networks need it."""


@dataclass(frozen=True, kw_only=True)
class ShardingConfig(Section):
    """What is divided between the processes besides the batch."""

    strategy: Strategy = "none"
    """none: all have everything (DDP). zero: each keeps a part of the optimizer's state. fsdp:
    and of weights and gradients (FSDP2). hybrid: such parts within groups of ``size`` processes,
    copies between groups. pipeline: each computes some of the layers."""
    size: int = _between(1, default=1)
    """Processes in a group of ``hybrid``."""
    microbatches: int = _between(1, default=4)
    """Parts of a batch that are on their way through a ``pipeline`` at once."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """Length of the training and shape of a batch."""

    steps: int = _between(1)
    """Optimizer steps."""
    global_batch: int = _between(1)
    """Views per step, over all processes; every process takes an equal share."""
    accumulation: int = _between(1, default=1)
    """Forward and backward passes into which each process divides its share of a step."""
    crop: int = _between(8, 4096, default=128)
    """Side of a view, in pixels."""
    ema: float = _between(0.0, 0.99999, default=0.0)
    """Decay of the running average of the weights that inference gets; 0 is off."""
    divergence: float = _between(0.0, default=2.0)
    """Stop once the smoothed loss is this many times its lowest value, and at least half of what
    it was at the start; 0 stops only at NaN."""
    threads: int = _between(1, 1024, default=1)
    """Compute threads of each process. Recorded, because it changes low-order bits."""
    checkpoint_every: int = _between(1, default=100)
    """Steps between saved states; the last step is always saved."""
    log_every: int = _between(1, default=10)
    """Steps between lines of ``log.jsonl``."""
    samples: int = _between(0, 64, default=4)
    """Photographs that every saved state colours for ``samples/``."""
    tensorboard: bool = False
    """Write scalars and samples for TensorBoard, too (``pip install 'percept[tensorboard]'``)."""


@dataclass(frozen=True, kw_only=True)
class Config(Section):
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
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """Memory and precision."""
    communication: CommunicationConfig = field(default_factory=CommunicationConfig)
    """Communication."""
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    """Sharding."""
    train: TrainConfig
    """Length and batch."""

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, as it is saved with the checkpoint."""
        return dataclasses.asdict(self)

    @property
    def local_sgd(self) -> bool:
        """Whether processes step alone and average their weights now and then."""
        return self.communication.average_every > 1

    @property
    def views(self) -> list[tuple[int, int]]:
        """Height and width of the views, a shape for each bucket."""
        side = self.train.crop
        return [(height, width) for height, width in self.data.buckets] or [(side, side)]


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
    return make_config(read_table(file), file, overrides=overrides, manifest=manifest, world=world)


def read_table(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        If it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML: {error}", file=file) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None


def make_config(
    table: dict[str, Any],
    file: Path,
    *,
    overrides: Iterable[str] = (),
    manifest: str | None = None,
    world: int = 1,
) -> Config:
    """Check a configuration read from ``file``; see :func:`load_config`."""
    if "arms" in table:
        raise InputError(
            "is an experiment of several trainings",
            file=file,
            key="arms",
            remedy=f"Use percept train --experiment {file.stem} --out DIR",
        )
    for override in overrides:
        apply_override(table, override)
    problems: list[InputError] = []
    config = build_section(Config, table, "", file, problems)
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
    problems = [
        InputError(message, file=file, key=key, value=_value(config, key), remedy=remedy)
        for key, message, remedy in _impossible(config, world)
    ]
    if problems:
        raise problems[0] if len(problems) == 1 else InputErrors(problems)
    return config


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _impossible(config: Config, world: int) -> Iterator[tuple[str, str, str | None]]:
    """Yield key, problem and remedy of combinations of valid values that cannot work."""
    yield from _impossible_batch(config, world)
    yield from _impossible_loss(config)
    yield from _impossible_sharding(config, world)
    if config.schedule.warmup_steps > config.train.steps:
        yield (
            "schedule.warmup_steps",
            f"warmup is longer than the training of {config.train.steps} steps",
            None,
        )
    if 0 < config.train.divergence <= 1:
        yield (
            "train.divergence",
            "would stop every training",
            "Use more than 1, or 0 to stop only at NaN",
        )
    if config.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        yield (
            "train.tensorboard",
            "TensorBoard is not installed",
            "pip install 'percept[tensorboard]', or leave it off",
        )
    communication = config.communication
    if communication.compression == "powersgd" and communication.compression_start < 2:
        yield (
            "communication.compression_start",
            "PowerSGD needs two uncompressed steps first",
            "Use 2 or more",
        )
    if communication.compression == "powersgd" and config.memory.precision == "fp16":
        yield (
            "memory.precision",
            "PowerSGD keeps the errors of scaled gradients, and would keep an overflow for ever",
            "Use bf16 or fp32, or another communication.compression",
        )
    for key, used in {
        "compression_start": communication.compression != "none",
        "average_start": config.local_sgd,
    }.items():
        if used and getattr(communication, key) >= config.train.steps:
            yield (
                f"communication.{key}",
                f"a training of {config.train.steps} steps never gets there",
                "Lower it, or raise train.steps",
            )
    if communication.static_graph and communication.find_unused_parameters:
        yield (
            "communication.static_graph",
            "a graph that never changes has no parameters to search for at each step",
            "Turn one of static_graph and find_unused_parameters off",
        )


def _impossible_batch(config: Config, world: int) -> Iterator[tuple[str, str, str | None]]:
    batch, passes = config.train.global_batch, config.train.accumulation
    parts = world * passes
    if config.sharding.strategy == "pipeline":
        parts = config.sharding.microbatches  # every process computes on the whole batch
        if passes > 1:
            yield (
                "train.accumulation",
                "a pipeline divides the batch by itself",
                "Leave it 1, and set sharding.microbatches",
            )
    if batch % parts:
        fits = [size for size in (batch - batch % parts, batch + parts - batch % parts) if size]
        who = f"{world} process{'es' if world > 1 else ''}"
        if config.sharding.strategy == "pipeline":
            who = f"{parts} microbatches"
        elif passes > 1:
            who += f" of {passes} passes each"
        yield (
            "train.global_batch",
            f"{who} cannot share the batch equally",
            f"Use {' or '.join(map(str, fits))}, or another --nproc",
        )
    side = config.data.max_side
    for bucket in config.data.buckets:
        if len(bucket) != 2 or any(isinstance(n, bool) or n < 8 for n in bucket):
            yield (
                "data.buckets",
                "a bucket is [height, width], of at least 8 pixels each",
                "For example [[96, 160], [128, 128], [160, 96]]",
            )
            return
    for height, width in config.views:
        if max(height, width) > side:
            yield (
                "data.buckets" if config.data.buckets else "train.crop",
                f"views are larger than the photographs, which are scaled to {side}",
                "Lower it or raise data.max_side",
            )
        budget = config.data.pixel_budget
        pixels = max(1, batch // parts) * height * width
        if budget and pixels > budget:
            yield (
                "data.pixel_budget",
                f"one pass of {max(1, batch // parts)} views of {height}×{width} has {pixels} "
                "pixels",
                "Raise it, raise train.accumulation, or use smaller views",
            )


def _impossible_loss(config: Config) -> Iterator[tuple[str, str, str | None]]:
    loss = config.loss
    weights = loss.smooth_l1, loss.l1, loss.classification, loss.perceptual, loss.adversarial
    if not any(weights):
        yield ("loss.smooth_l1", "no loss has a weight above 0", "Give one of them a weight")
    if loss.perceptual and min(min(view) for view in config.views) < 64:
        yield (
            "loss.perceptual",
            "LPIPS needs views of at least 64 pixels a side",
            "Raise train.crop",
        )
    if loss.adversarial and min(min(view) for view in config.views) < 32:
        yield (
            "loss.adversarial",
            "PatchGAN needs views of at least 32 pixels a side",
            "Raise train.crop",
        )
    if loss.adversarial and config.sharding.strategy not in {"none", "zero"}:
        yield (
            "loss.adversarial",
            f"the discriminator cannot be trained beside {config.sharding.strategy}",
            "Use sharding.strategy none or zero",
        )
    if loss.adversarial and (config.local_sgd or config.memory.precision == "fp16"):
        yield (
            "loss.adversarial",
            "the discriminator needs gradients averaged at every step, unscaled",
            "Use communication.average_every = 1, and fp32 or bf16",
        )


def _impossible_sharding(config: Config, world: int) -> Iterator[tuple[str, str, str | None]]:
    strategy, size = config.sharding.strategy, config.sharding.size
    if strategy == "hybrid" and (world < size or world % size):
        few = world < size
        yield (
            "sharding.size",
            f"{world} process{'es' if world > 1 else ''} "
            + (f"cannot fill a group of {size}" if few else f"cannot form groups of {size}"),
            f"Use --nproc {size if few else world - world % size + size}, or a smaller size",
        )
    if strategy != "hybrid" and size != 1:
        yield ("sharding.size", f"strategy {strategy} has no groups", "Use strategy hybrid")
    if strategy in {"fsdp", "hybrid", "pipeline"}:
        default, given = CommunicationConfig(), config.communication
        for item in dataclasses.fields(given):
            if getattr(given, item.name) != getattr(default, item.name):
                yield (
                    f"communication.{item.name}",
                    f"belongs to DDP, which strategy {strategy} replaces",
                    "Leave it out, or use sharding.strategy none or zero",
                )
        if config.memory.precision == "fp16":
            yield (
                "memory.precision",
                f"loss scaling does not go with strategy {strategy}",
                "Use bf16 or fp32",
            )
    if strategy == "pipeline" and config.network.name != "deep":
        yield ("network.name", "only the network deep can be cut into stages", "Use deep")
    if strategy == "pipeline" and len(config.views) > 1:
        yield ("data.buckets", "the stages of a pipeline need one shape", "Leave it out")
    if strategy == "pipeline" and (config.loss.perceptual or config.memory.compile):
        key = "loss.perceptual" if config.loss.perceptual else "memory.compile"
        yield (key, "does not go with strategy pipeline", "Turn it off")
    if config.local_sgd:
        clash = {
            "communication.compression": config.communication.compression != "none",
            "sharding.strategy": strategy == "zero",
            "memory.precision": config.memory.precision == "fp16",
        }
        for key, found in clash.items():
            if found:
                yield (
                    key,
                    "does not go with post-local SGD, in which processes step alone",
                    "Use communication.average_every = 1, or leave this at its default",
                )


def apply_override(table: dict[str, Any], override: str) -> None:
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


def build_section(
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
        section = isinstance(hints[item.name], type) and issubclass(hints[item.name], Section)
        if item.name in table:
            value = table[item.name]
            if section and isinstance(value, Mapping):
                value = build_section(
                    hints[item.name], value, f"{prefix}{item.name}.", file, problems
                )
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
    if get_origin(hint) is list:
        (inner,) = get_args(hint)
        if not isinstance(value, list):
            return "must be a list"
        return next((p for item in value if (p := _type_problem(item, inner))), None)
    expected = get_origin(hint) or hint
    return None if isinstance(value, expected) else f"must be {_NAMES.get(expected, 'a section')}"


_NAMES: dict[Any, str] = {
    bool: "true or false",
    float: "a finite number",
    int: "a whole number",
    str: "text",
    dict: "a table",
}
