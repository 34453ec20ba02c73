"""``percept train``: a colorizer from a TOML config, by workers of ``training``."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a colorizer with DistributedDataParallel. The same command resumes a training "
        "that was stopped; a finished one is left as it is. Under torchrun or srun, start "
        "`-m training.train` with the same arguments."
    )
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="TOML file, or the name of a bundled experiment such as demo-baseline",
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
        "--nproc", type=int, default=1, metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: %(default)s: a CUDA device if there is one)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of resuming what DIR holds"
    )


def run(args: argparse.Namespace) -> int:
    from percept.distributed import launch
    from percept.errors import InputError

    if args.nproc < 1:
        raise InputError("must be at least 1", key="--nproc", value=args.nproc)
    command = ["-m", "training.train", args.config, "--out", args.out, "--device", args.device]
    if args.manifest is not None:
        command += ["--manifest", args.manifest]
    for override in args.overrides:
        command += ["--set", override]
    if args.fresh:
        command.append("--fresh")
    # One process meets every mistake by itself; several would first have to be started.
    if args.nproc > 1 and (code := launch([*command, "--check", str(args.nproc)], 1)):
        return code
    return launch(command, args.nproc)
