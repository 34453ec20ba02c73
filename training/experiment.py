"""One experiment: several arms of one claim, each trained with several seeds.

Started by ``percept train --experiment``. Every training is a folder of its own, begun and resumed
by the same worker as a single one.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import re
import shlex
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from percept.distributed import ended_with_launcher, launch
from percept.errors import InputError, InputErrors, Interrupted, ItemsFailed, PerceptError
from percept.files import lock_folder, write_json_atomic
from training.checkpoint import read_run
from training.config import Config, Section, build_section, find_config, make_config, read_table

LearningRate = Literal["same", "linear", "sqrt", "own"]
_MIN_SEEDS = 3
_TRIED = 8  # steps of each arm that a cost is estimated from
# With -s and a seed it names a folder, and a condition of percept infer.
_ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")


@dataclass(frozen=True, kw_only=True)
class _Head(Section):
    """Top-level keys of an experiment's file."""

    claim: str
    source: str
    learning_rate: LearningRate
    seeds: list[int]
    base: str
    nproc: int = field(default=2, metadata={"low": 1})
    arms: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One arm with one seed."""

    arm: str
    seed: int
    config: Config
    overrides: tuple[str, ...]
    """What makes the base this training, as ``--set`` takes it."""

    @property
    def name(self) -> str:
        """Name of its folder, and of its condition in a run."""
        return f"{self.arm}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A claim, and the trainings that it stands or falls with."""

    file: Path
    base: Path
    claim: str
    source: str
    learning_rate: LearningRate
    nproc: int
    trainings: tuple[Training, ...]


def load_experiment(
    name: str,
    *,
    manifest: str | None = None,
    nproc: int | None = None,
    overrides: Iterable[str] = (),
) -> Experiment:
    """Read and check an experiment and the configuration of each of its trainings.

    Parameters
    ----------
    name : str
        TOML file, or name of a bundled one.
    manifest : str, optional
        Replaces ``data.manifest`` of all arms.
    nproc : int, optional
        Replaces ``nproc``.
    overrides : iterable of str
        ``section.key=value`` for all arms alike, under what the arms themselves set.

    Raises
    ------
    InputError, InputErrors
        If the file or a configuration is bad, fewer than three seeds are given, an arm sets what
        the rule for learning rates decides, or arms do not see the same number of views.
    """
    file = find_config(name)
    table = read_table(file)
    if "arms" not in table:
        raise InputError(
            "is the config of one training",
            file=file,
            key="arms",
            remedy=f"Use percept train {name} --out DIR, or give a table of arms",
        )
    problems: list[InputError] = []
    head: _Head | None = build_section(_Head, table, "", file, problems)
    if head is None:
        raise problems[0] if len(problems) == 1 else InputErrors(problems)
    if len(set(head.seeds)) < _MIN_SEEDS:
        raise InputError(
            "an arm is judged against the variance between its seeds",
            file=file,
            key="seeds",
            value=head.seeds,
            remedy=f"Give at least {_MIN_SEEDS} different ones",
        )
    if len(head.arms) < 2:
        raise InputError("an experiment compares two arms at least", file=file, key="arms")
    for arm in head.arms:
        if not _ARM.fullmatch(arm):
            raise InputError(
                "an arm's name is 1 to 48 letters, digits, '.', '_' or '-', beginning with a "
                "letter or digit",
                file=file,
                key="arms",
                value=arm,
            )
    if len({arm.casefold() for arm in head.arms}) < len(head.arms):
        raise InputError(
            "names of arms differ in more than capitals",
            file=file,
            key="arms",
            value=list(head.arms),
        )
    base_file = file.parent / f"{head.base}.toml"
    base_file = base_file if base_file.is_file() else find_config(head.base)
    world = nproc or head.nproc
    general = list(overrides)
    base = _config(read_table(base_file), base_file, general, manifest, world, "base")
    trainings = [
        _training(head, base, base_file, file, arm, seed, general, manifest, world)
        for arm in head.arms
        for seed in sorted(set(head.seeds))
    ]
    views = {t.arm: t.config.train.steps * t.config.train.global_batch for t in trainings}
    if len(set(views.values())) > 1:
        raise InputError(
            "arms do not see the same number of views: "
            + ", ".join(f"{arm} {count}" for arm, count in views.items()),
            file=file,
            key="arms",
            remedy="Make train.steps × train.global_batch equal",
        )
    return Experiment(
        file=file,
        base=base_file,
        claim=head.claim,
        source=head.source,
        learning_rate=head.learning_rate,
        nproc=world,
        trainings=tuple(trainings),
    )


def _training(
    head: _Head,
    base: Config,
    base_file: Path,
    file: Path,
    arm: str,
    seed: int,
    general: list[str],
    manifest: str | None,
    world: int,
) -> Training:
    own = head.arms[arm]
    if not isinstance(own, Mapping):
        raise InputError("an arm is a table of settings", file=file, key=f"arms.{arm}", value=own)
    settings = dict(_flat(own))
    if "optimizer.learning_rate" in settings and head.learning_rate != "own":
        raise InputError(
            f"the rule {head.learning_rate!r} decides the learning rate of every arm",
            file=file,
            key=f"arms.{arm}.optimizer.learning_rate",
            value=settings["optimizer.learning_rate"],
            remedy='Leave it out, or use learning_rate = "own" and say in the claim how each was '
            "found",
        )
    ratio = settings.get("train.global_batch", base.train.global_batch) / base.train.global_batch
    scale = {"linear": ratio, "sqrt": math.sqrt(ratio)}.get(head.learning_rate, 1.0)
    if scale != 1.0:
        settings["optimizer.learning_rate"] = base.optimizer.learning_rate * scale
    if manifest is None and "data.manifest" not in settings:
        manifest = base.data.manifest  # it is relative to the base, wherever that lies
    settings |= {"arm": arm, "seed": seed}
    words = [*general, *(f"{key}={_toml(value)}" for key, value in settings.items())]
    config = _config(read_table(base_file), file, words, manifest, world, f"arm {arm!r}")
    return Training(arm=arm, seed=seed, config=config, overrides=tuple(words))


def _config(
    table: dict[str, Any],
    file: Path,
    overrides: list[str],
    manifest: str | None,
    world: int,
    what: str,
) -> Config:
    try:
        return make_config(
            copy.deepcopy(table), file, overrides=overrides, manifest=manifest, world=world
        )
    except (InputError, InputErrors) as error:
        raise InputError(f"{what}: {error}") from None


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and prefix + key != "network.arguments":
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _toml(value: Any) -> str:
    """Spell a value in TOML: as in JSON, but for tables."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


# -- doing it ------------------------------------------------------------------------------------


def print_cost(experiment: Experiment, args: argparse.Namespace) -> None:
    """Print what the experiment costs, by a few steps of each arm, which leave nothing behind.

    Raises
    ------
    InputError
        If an arm cannot be trained.
    """
    print(f"{'arm':<24}{'seeds':>6}{'steps':>7}{'batch':>7}{'views':>8}", end="")
    print(f"{'parameters':>12}{'MB a step':>11}{'minutes':>9}")
    total = 0.0
    arms = {t.arm: t for t in reversed(experiment.trainings)}  # of each, the first
    for arm, training in reversed(arms.items()):
        seeds = sum(t.arm == arm for t in experiment.trainings)
        train = training.config.train
        cost = measure_cost(experiment, training, args)
        minutes = seeds * (cost.start_seconds + train.steps * cost.step_seconds) / 60
        total += minutes
        print(
            f"{arm:<24}{seeds:>6}{train.steps:>7}{train.global_batch:>7}"
            f"{train.steps * train.global_batch:>8}{cost.parameters:>12}"
            f"{cost.step_bytes / 1e6:>11.3f}{minutes:>9.1f}",
            flush=True,
        )
    print(
        f"{len(experiment.trainings)} trainings, about {total:.0f} minutes if this machine is as "
        f"free as during the {_TRIED} steps timed of each arm; all arms see the same number of "
        "views"
    )


@dataclass(frozen=True)
class Cost:
    """What one training costs: seconds of its start and of a step, bytes sent at a step."""

    start_seconds: float
    step_seconds: float
    step_bytes: float
    parameters: int


def measure_cost(experiment: Experiment, training: Training, args: argparse.Namespace) -> Cost:
    """Train a few steps, compressed or apart from the first timed one on where it is to be so."""
    from training.scaling import timed, trial, try_out

    config = training.config
    with tempfile.TemporaryDirectory(prefix="percept-cost-") as folder:
        words = _words(experiment, training, args, Path(folder))
        communication = dataclasses.asdict(config.communication)
        for name, value in trial(_TRIED, communication).items():
            words += ["--set", f"{name}={value}"]
        began = time.monotonic()
        lines = try_out(words, experiment.nproc, config.train.threads)
        took = time.monotonic() - began
        run = read_run(Path(folder) / training.name)
    found = timed(lines, config.train.global_batch)
    step = config.train.global_batch / found["samples_per_second"]
    sent = found["all_reduce_bytes"] + sum(found["other_bytes"].values())
    if config.local_sgd:  # the last of the steps averages, whether it is its turn or not
        every = config.communication.average_every
        sent *= _TRIED / math.ceil(_TRIED / every) / every
    start = max(0.0, took - lines[-1]["step"] * step)
    return Cost(start, step, sent, run["parameters"] if run is not None else 0)


def check_all(experiment: Experiment, args: argparse.Namespace) -> None:
    """Raise the first error that a training would meet at its start, before one costs anything."""
    from training.train import check, parse

    for training in experiment.trainings:
        check(parse(_words(experiment, training, args)), experiment.nproc)


def train(experiment: Experiment, args: argparse.Namespace) -> None:
    """Train what is not trained yet, then say how the arms came out, and what comes next.

    Raises
    ------
    ItemsFailed
        If a training diverged, or its settings turned out to be bad; the others are done.
    """
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out, "percept train"):
        failed = _train_all(experiment, args)
    _summarise(experiment, out)
    print("\nPut them before observers:")
    done = [t for t in experiment.trainings if t.name not in failed]
    for words in next_commands(experiment, out, done):
        print(f"  percept {shlex.join(words)}")
    if failed:
        raise ItemsFailed(
            f"{len(failed)} of {len(experiment.trainings)} trainings failed: {', '.join(failed)}"
        )


def _train_all(experiment: Experiment, args: argparse.Namespace) -> list[str]:
    """Train what is not trained yet; return the names of the trainings that failed."""
    from training.train import check, parse

    out: Path = args.out
    failed = []
    total = len(experiment.trainings)
    for number, training in enumerate(experiment.trainings, start=1):
        print(f"[{number}/{total}] {training.name}", flush=True)
        words = _words(experiment, training, args)
        if outcome(out / training.name)["state"] == "complete" and not args.fresh:
            check(parse(words), experiment.nproc)  # that it was with these very settings
            continue
        threads = training.config.train.threads
        if launch(["-m", "training.train", *words], experiment.nproc, threads=threads):
            failed.append(training.name)
        _describe(experiment, out)
    return failed


def next_commands(
    experiment: Experiment, out: Path, trainings: Sequence[Training]
) -> list[list[str]]:
    """Commands that colorize the study's photographs by every training, and create the study."""
    manifest = str(trainings[0].config.data.manifest) if trainings else ""
    run, name = str(out / "run"), experiment.file.stem
    conditions = [f"{t.name}={out / t.name}" for t in trainings]
    nproc = str(experiment.nproc)
    infer = ["infer", manifest, "--split", "study", "--out", run, "--nproc", nproc]
    create = ["study", "create", run, "--protocol", "pairwise", "--name", name]
    return [
        [*infer, "--condition", *conditions, "gray=gray"],
        ["metrics", run, "--by", "arm", "--nproc", nproc],
        [*create, "--db", f"sqlite:///{out / 'study.sqlite'}"],
    ]


def _words(
    experiment: Experiment, training: Training, args: argparse.Namespace, out: Path | None = None
) -> list[str]:
    """Arguments of the worker that trains one of them."""
    words = [str(experiment.base), "--out", str((out or args.out) / training.name)]
    words += ["--device", args.device, "--manifest", str(training.config.data.manifest)]
    for override in training.overrides:
        words += ["--set", override]
    return [*words, "--fresh"] if args.fresh else words


def _describe(experiment: Experiment, out: Path) -> None:
    """Write ``experiment.json``: the claim, and how every training stands."""
    write_json_atomic(
        out / "experiment.json",
        {
            "experiment": experiment.file.stem,
            "claim": experiment.claim,
            "source": experiment.source,
            "learning_rate": experiment.learning_rate,
            "nproc": experiment.nproc,
            "trainings": [
                {"name": t.name, "arm": t.arm, "seed": t.seed, **outcome(out / t.name)}
                for t in experiment.trainings
            ],
        },
    )


def outcome(folder: Path) -> dict[str, Any]:
    """How a training stands, and what its log says at the end."""
    run = read_run(folder)
    if run is None:
        return {"state": "not begun"}
    found = {key: run[key] for key in ("state", "step", "samples_seen", "seconds")}
    for name, keys in {
        "log.jsonl": ("loss", "all_reduce_bytes", "other_bytes", "rank_divergence"),
        "validation.jsonl": ("loss",),
    }.items():
        file = folder / name
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        if lines:
            last = json.loads(lines[-1])
            prefix = "validation_" if name.startswith("validation") else ""
            found |= {prefix + key: last[key] for key in keys if key in last}
    return found


def _summarise(experiment: Experiment, out: Path) -> None:
    print(f"\n{experiment.claim}\n")
    print(f"{'arm':<24}{'loss':>18}{'validation loss':>18}{'MB a step':>11}{'seconds':>9}")
    for arm in dict.fromkeys(t.arm for t in experiment.trainings):
        found = [outcome(out / t.name) for t in experiment.trainings if t.arm == arm]
        done = [one for one in found if one["state"] == "complete"]
        cells = [_spread([one["loss"] for one in done if "loss" in one])]
        cells.append(_spread([o["validation_loss"] for o in done if "validation_loss" in o]))
        bytes_of = [
            one["all_reduce_bytes"] + sum(one.get("other_bytes", {}).values()) for one in done
        ]
        sent = statistics.mean(bytes_of or [0]) / 1e6
        seconds = statistics.mean([one["seconds"] for one in done] or [0])
        print(f"{arm:<24}{cells[0]:>18}{cells[1]:>18}{sent:>11.3f}{seconds:>9.0f}")
    print("mean ± standard deviation over seeds. The loss does not see what people see.")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run an experiment; returns the exit code."""
    parser = argparse.ArgumentParser(prog="training.experiment", description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--manifest")
    parser.add_argument("--nproc", type=int)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args(argv)
    try:
        experiment = load_experiment(
            args.experiment,
            manifest=args.manifest,
            nproc=args.nproc,
            overrides=args.overrides,
        )
        check_all(experiment, args)
        print(f"{experiment.claim}\n{experiment.source}\n")
        with ended_with_launcher():
            (print_cost if args.dry_run else train)(experiment, args)
    except PerceptError as error:
        print(f"percept train: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, or a folder that may not be written
        print(f"percept train: {error.filename or args.out}: {error.strerror}", file=sys.stderr)
        return Interrupted.exit_code
    except Exception:  # a bug: exit code 1 would say that only some items failed
        traceback.print_exc()
        return 70
    return 0


if __name__ == "__main__":
    sys.exit(main())
