"""``percept manifest``: scan, check, sample and age collections of photographs."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    scan = _action(actions, "scan", "make a manifest of every photograph below a folder")
    scan.add_argument("folder", type=Path, metavar="FOLDER", help="where the photographs are")
    _add_out_file(scan)
    scan.add_argument(
        "--references",
        type=Path,
        metavar="FOLDER",
        help="where their true colours are, as files of the same names",
    )
    scan.add_argument(
        "--allow-failures", action="store_true", help="exit 0 even if images were left out"
    )

    check = _action(actions, "check", "open every photograph and report all that is wrong")
    _add_manifest(check)

    sample = _action(actions, "sample", "draw a stratified sample with inclusion weights")
    _add_manifest(sample)
    sample.add_argument("--n", type=int, required=True, metavar="N", help="photographs to draw")
    sample.add_argument(
        "--by",
        default="era,process,degradation",
        metavar="COLUMNS",
        help="columns whose combinations are the strata, separated by commas; empty for a simple "
        "random sample (default: %(default)s)",
    )
    _add_seed(sample)
    _add_out_file(sample)

    degrade = _action(actions, "degrade", "age clean photographs, with exact masks")
    _add_manifest(degrade)
    degrade.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new directory for the aged photographs and their manifest.csv",
    )
    _add_seed(degrade)
    degrade.add_argument("--split", metavar="NAME", help="only photographs of this split")


def run(args: argparse.Namespace) -> int:
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "scan": _scan,
        "check": _check,
        "sample": _sample,
        "degrade": _degrade,
    }
    return actions[args.action](args)


def _scan(args: argparse.Namespace) -> int:
    from percept.errors import ItemsFailed
    from percept.manifest import scan_folder

    _check_out_file(args)
    with _progress("Scanning") as progress:
        scan = scan_folder(args.folder, references=args.references, progress=progress)
    manifest = scan.manifest.write(args.out)
    print(f"{_count(len(manifest), 'photograph')} in {args.out}", end="")
    if args.references is not None:
        paired = sum(row["reference_path"] is not None for row in manifest.rows())
        print(f", {paired} with true colours", end="")
    print(f" ({_count(scan.ignored, 'other file')} ignored)" if scan.ignored else "")
    if scan.left_out:
        reasons = "\n".join(f"  {error}" for error in scan.left_out)
        message = f"{len(scan.left_out)} left out:\n{reasons}"
        if not args.allow_failures:
            raise ItemsFailed(message)
        print(message, file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> int:
    from percept.errors import InputErrors
    from percept.manifest import check_manifest, read_manifest

    manifest = read_manifest(args.manifest)
    with _warnings_printed(), _progress("Checking") as progress:
        errors = check_manifest(manifest, progress=progress)
    if errors:
        raise InputErrors(errors)
    print(f"{args.manifest}: {_count(len(manifest), 'photograph')}, all as the manifest says")
    return 0


def _sample(args: argparse.Namespace) -> int:
    import numpy as np

    from percept.errors import InputError
    from percept.manifest import read_manifest, sample_manifest

    _check_out_file(args)
    if args.seed < 0:
        raise InputError("the seed must not be negative", key="--seed", value=args.seed)
    manifest = read_manifest(args.manifest)
    by = [name.strip() for name in args.by.split(",") if name.strip()]
    sample = sample_manifest(manifest, args.n, by, rng=np.random.default_rng(args.seed))
    sample = sample.write(args.out)
    print(
        f"{len(sample)} of {_count(len(manifest), 'photograph')} in {args.out} (seed {args.seed})"
    )
    for stratum, drawn in sample.frame.groupby("stratum"):
        print(f"  {len(drawn):4} × weight {drawn['weight'].iloc[0]:<8.4g} {stratum}")
    return 0


def _degrade(args: argparse.Namespace) -> int:
    from percept.degrade import degrade_manifest
    from percept.manifest import read_manifest

    manifest = read_manifest(args.manifest)
    if args.split is not None:
        manifest = manifest.split(args.split)
    with _warnings_printed(), _progress("Ageing") as progress:
        aged = degrade_manifest(manifest, args.out, seed=args.seed, progress=progress)
    print(f"{_count(len(aged), 'aged photograph')} in {aged.file} (seed {args.seed})")
    for process, rows in aged.frame.groupby("process"):
        print(f"  {len(rows):4} {process}, {rows['era'].iloc[0]}: {rows['degradation'].iloc[0]}")
    return 0


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    return actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])


def _add_manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", type=Path, metavar="FILE", help="a manifest, .csv or .parquet")


def _add_out_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="manifest to write, .csv or .parquet",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="the same seed gives the same result (default: %(default)s)",
    )


def _check_out_file(args: argparse.Namespace) -> None:
    """Fail before the work rather than after it."""
    from percept.errors import InputError
    from percept.files import check_place

    if args.out.suffix.lower() not in (".csv", ".parquet"):
        raise InputError("a manifest's name ends in .csv or .parquet", file=args.out)
    check_place(args.out)
    if args.out.exists() and not args.force:
        raise InputError("exists already", file=args.out, remedy="--force replaces it")


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _warnings_printed() -> Iterator[None]:
    """Print warnings as one line each, after the work."""
    from percept.manifest import ManifestWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ManifestWarning)
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
