from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    infer = actions.add_parser(
        "infer", help="speedup and efficiency of inference over processes and sizes"
    )
    add = infer.add_argument
    add(
        "--world",
        type=int,
        nargs="+",
        default=[1, 2],
        metavar="N",
        help="numbers of processes, of one compute thread each (1 2)",
    )
    add(
        "--threads",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="time the smallest world with these numbers of threads, too (all cores)",
    )
    add(
        "--side",
        type=int,
        nargs="+",
        default=[256, 512],
        metavar="N",
        help="sides of the photographs, which are made up (256 512)",
    )
    add("--photos", type=int, default=12, metavar="N", help="photographs of each size (12)")
    add("--rounds", type=int, default=3, metavar="N", help="timings of each setting (3)")
    add(
        "--condition",
        metavar="NAME=SPEC",
        help="what colours them (a U-Net of random weights at the photographs' own size)",
    )
    add("--device", default="auto", help="auto, cpu or cuda (auto)")
    add("--out", metavar="DIR", help="write scaling.json and scaling.png here")
    add("--json", action="store_true", help="print the measurements as JSON")
    _add_train(actions)


def _add_train(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = actions.add_parser(
        "train",
        help="speedup and efficiency of training over processes and sizes",
        description="Strong and weak scaling of training by real trainings of a few steps, where "
        "the time of a step goes, and a projection to more processes.",
    )
    add = train.add_argument
    add("--config", metavar="CONFIG", help="TOML file or bundled config (base)")
    add("--world", type=int, nargs="+", metavar="N", help="numbers of processes (1 2)")
    add(
        "--threads",
        type=int,
        nargs="+",
        metavar="N",
        help="time the smallest world with these numbers of threads, too (all cores)",
    )
    add("--side", type=int, nargs="+", metavar="N", help="sides of the views (64 128)")
    add(
        "--mode",
        nargs="+",
        choices=("strong", "weak"),
        help="keep the global batch, or that of each process (both)",
    )
    add("--batch", type=int, metavar="N", help="views per step of the smallest world (8)")
    add("--steps", type=int, metavar="N", help="timed steps (8)")
    add("--rounds", type=int, metavar="N", help="timings of each setting (3)")
    add("--project", type=int, nargs="*", metavar="N", help="worlds to project (4 8 16 32 64)")
    add(
        "--set",
        dest="overrides",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="replace one value of the config; may be repeated",
    )
    add("--device", help="auto, cpu or cuda (auto)")
    add(
        "--out",
        metavar="DIR",
        help="write scaling-train.json and scaling-train.png here; the same command, stopped, goes "
        "on",
    )
    add("--json", action="store_true", help="print the measurements as JSON")


def _train(args: argparse.Namespace) -> int:
    from percept.distributed import launch
    from percept.errors import Interrupted

    words = ["-m", "training.scaling"]
    for name, value in vars(args).items():
        if name in {"command", "action", "run"} or value is None or value is False:
            continue
        if name == "overrides":
            for override in value:
                words += ["--set", override]
        elif value is True:
            words.append(f"--{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    try:
        return launch(words, 1)
    except Interrupted:
        if args.out is not None:
            raise
        raise Interrupted("stopped; with --out DIR the same command would go on") from None


def run(args: argparse.Namespace) -> int:
    if args.action == "train":
        return _train(args)
    from percept import distributed
    from percept.files import check_place
    from percept.inference import scaling

    if args.out:
        check_place(args.out, folder=True)
    load, cores = os.getloadavg()[0], distributed.cores()

    def progress(done: int, total: int) -> None:
        print(f"percept scaling: run {done} of {total}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="percept-scaling-") as folder:
        points = scaling.measure_scaling(
            Path(folder),
            args.world,
            args.side,
            photos=args.photos,
            rounds=args.rounds,
            threads=args.threads or [cores],
            condition=args.condition,
            device=args.device,
            progress=progress,
        )
    spin = scaling.spin_scaling(args.world, args.rounds)
    facts = {
        "cores": cores,
        "load_before": round(load, 2),
        "devices": scaling.devices() if args.device != "cpu" else [],
        "condition": args.condition or "unet of random weights",
        "photos": args.photos,
        "rounds": args.rounds,
        "smallest_world": min(args.world),
        "spin_scaling": spin,
    }
    if args.out:
        scaling.write_scaling(Path(args.out), points, facts)
    if args.json:
        print(json.dumps({"facts": facts, "points": [asdict(p) for p in points]}, indent=2))
        return 0
    print(
        "  side  world threads  images/s  speedup  efficiency  decode compute encode gather  idle"
    )
    for p in points:
        speedup = f"{p.speedup:.2f}" if p.speedup is not None else "–"
        efficiency = f"{p.efficiency:.0%}" if p.efficiency is not None else "–"
        share = [f"{p.shares[name]:.0%}" for name in ("decode", "compute", "encode")]
        print(
            f"{p.side:>6} {p.world:>6} {p.threads:>7} {p.images_per_second:>9.2f} {speedup:>8} "
            f"{efficiency:>11} {share[0]:>7} {share[1]:>7} {share[2]:>6} "
            f"{p.shares['gather']:>6.0%} {p.shares['idle']:>5.0%}"
        )
    for side in sorted({p.side for p in points}):
        best = scaling.best_single(points, side)
        fastest = min((p for p in points if p.side == side), key=lambda p: p.seconds)
        if best is not None:
            print(
                f"{side}×{side}: {fastest.world} processes reach "
                f"{best.seconds / fastest.seconds:.2f}× the best single process "
                f"({best.threads} thread{'s' if best.threads > 1 else ''})"
            )
    bare = ", ".join(f"{speedup:.2f}× at {world}" for world, speedup in spin.items())
    print(f"A bare loop scales here by {bare}.")
    if load > cores / 2:
        print(f"The machine was busy before this was measured (load {load:.1f}).", file=sys.stderr)
    if args.out:
        print(f"{args.out}/scaling.json, {args.out}/scaling.png")
    return 0
