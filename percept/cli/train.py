"""``percept train``: a colorizer from a TOML config, by workers of ``training``."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a colorizer with DistributedDataParallel. The same command resumes a training "
        "that was stopped; a finished one is left as it is. Under torchrun or srun, start "
        "`-m training.train` with the same arguments. With --experiment: all arms of one claim, "
        "each with several seeds."
    )
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="TOML file, or the name of a bundled experiment such as demo-baseline",
    )
    parser.add_argument(
        "--experiment",
        metavar="FILE",
        help="instead of CONFIG: TOML file of an experiment, or the name of a bundled one",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder of the checkpoint, its state and log"
    )
    parser.add_argument(
        "--manifest", metavar="FILE", help="manifest to train on, instead of data.manifest"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="replace one value of the config; may be repeated",
    )
    parser.add_argument(
        "--nproc", type=int, metavar="N", help="processes (default: 1, or what the experiment says)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: %(default)s: a CUDA device if there is one)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of resuming what DIR holds"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="with --experiment: print what it costs, by a few steps of each arm, and keep nothing",
    )


def run(args: argparse.Namespace) -> int:
    from percept.distributed import launch
    from percept.errors import InputError

    nproc = args.nproc or 1
    if nproc < 1 or args.nproc == 0:
        raise InputError("must be at least 1", key="--nproc", value=args.nproc)
    if (args.config is None) == (args.experiment is None):
        raise InputError(
            "give either CONFIG or --experiment FILE",
            key="CONFIG",
            value=args.config,
            remedy="Bundled are demo-baseline and others; see training/README.md",
        )
    if args.dry_run and args.experiment is None:
        raise InputError("belongs to --experiment", key="--dry-run")
    module, subject = "training.train", args.config
    if args.experiment is not None:
        module, subject = "training.experiment", args.experiment
    command = ["-m", module, subject, "--out", args.out, "--device", args.device]
    if args.manifest is not None:
        command += ["--manifest", args.manifest]
    for override in args.overrides:
        command += ["--set", override]
    if args.fresh:
        command.append("--fresh")
    if args.experiment is not None:
        command += ["--nproc", str(args.nproc)] if args.nproc is not None else []
        return launch(command + (["--dry-run"] if args.dry_run else []), 1)
    # One process meets every mistake by itself; several would first have to be started.
    if nproc > 1 and (code := launch([*command, "--check", str(nproc)], 1)):
        return code
    return launch(command, nproc)
