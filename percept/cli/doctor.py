from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version

from percept.errors import InputError

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pillow", "streamlit", "sqlalchemy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--side",
        type=int,
        default=256,
        metavar="N",
        help="side of the pictures that thread settings are timed with (256)",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="timings of each setting (5)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    if args.side < 16 or args.rounds < 1:
        raise InputError("--side is at least 16 and --rounds at least 1")
    from percept import distributed
    from percept.inference import scaling

    cores, load = distributed.cores(), os.getloadavg()[0]
    packages = {name: _version(name) for name in PACKAGES}
    rates = scaling.thread_rates(args.side, args.rounds, cores)
    best = max(rates, key=lambda threads: rates[threads])
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    devices = scaling.devices()
    findings = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "cores": cores,
        "load": round(load, 2),
        "devices": devices,
        "compiler": compiler,
        "temporary_free_mb": shutil.disk_usage(tempfile.gettempdir()).free >> 20,
        "images_per_second": {str(threads): round(rate, 3) for threads, rate in rates.items()},
        "fastest_threads": best,
    }
    if args.json:
        print(json.dumps(findings, indent=2))
        return 0
    print(f"Python {findings['python']} on {findings['platform']}")
    print(", ".join(f"{name} {text}" for name, text in packages.items()))
    print(f"{cores} cores, load {load:.1f}")
    print(f"CUDA devices: {', '.join(devices) or 'none'}")
    print(f"C++ compiler, for --compile: {compiler or 'none'}")
    print(f"\nOne process, {args.side}×{args.side} pictures, median of {args.rounds} rounds:")
    for threads, rate in rates.items():
        print(f"  --threads {threads}: {rate:.2f} images/s")
    print(f"\nFastest for one process here: --threads {best}.", end=" ")
    if best > 1:
        print(f"--nproc {cores} --threads 1 is often faster still.")
    else:
        print(f"More cores are used by --nproc {cores}.")
    if load > cores / 2:
        print("The machine was busy while this was measured.", file=sys.stderr)
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
