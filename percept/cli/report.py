"""``percept report``: the report of one or more studies."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write one self-contained report.html on one or more studies of the same photographs, "
        "with the same results as report.json, tables as CSV and figures as SVG."
    )
    parser.add_argument(
        "--db", required=True, metavar="URL", help="database that holds the studies"
    )
    parser.add_argument(
        "--study",
        required=True,
        nargs="+",
        action="extend",
        metavar="NAME",
        help="study to report on; give several for one report on all of them",
    )
    parser.add_argument(
        "--run",
        dest="run_directory",  # "run" is the command's function
        type=Path,
        metavar="RUN",
        help="run directory with images and metrics (default: where the studies were made from)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="directory that the report goes to"
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="compare every condition with itself in this study, or with this condition",
    )
    parser.add_argument(
        "--fail-on-regression",
        action="store_true",
        help="exit 4 if a condition is worse than the baseline, its whole interval below zero, all "
        "intervals together at 95 %% confidence; else exit 2, writing nothing, if one is missing "
        "or not to be compared",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of every resampling (default: %(default)s)"
    )
    parser.add_argument(
        "--n-boot",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for each bootstrap interval (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from percept.errors import InputError, RegressionFound
    from percept.files import check_place
    from percept.report import words
    from percept.report.build import build_report
    from percept.report.render import write_report
    from percept.store import open_store

    if args.n_boot < 2:
        raise InputError("too few resamples", key="--n-boot", value=args.n_boot, remedy="Use 1000")
    if args.seed < 0:
        raise InputError("must not be negative", key="--seed", value=args.seed)
    check_place(args.out, folder=True)
    if args.fail_on_regression and args.baseline is None:
        raise InputError(
            "needs something to compare with",
            key="--fail-on-regression",
            remedy="Name a study or a condition with --baseline",
        )
    with open_store(args.db) as store:
        report = build_report(
            store,
            args.study,
            run=args.run_directory,
            seed=args.seed,
            n_boot=args.n_boot,
            baseline=args.baseline,
        )
    worse, unjudged = [], []
    for one in report.comparison:
        where = f"{one.study}, {one.attribute}"
        worse += [f"{name} ({where})" for name in one.worse]
        unjudged += [
            f"{entry.condition} ({where}: {entry.verdict})"
            for entry in one.changes
            if entry.verdict in ("missing", "not estimable")
        ]
        unjudged += [] if one.changes else [f"anything ({where}: nothing to compare)"]
    if args.fail_on_regression and unjudged and not worse:
        raise InputError(
            f"a regression cannot be excluded for {words.listing(unjudged)}",
            key="--baseline",
            value=args.baseline,
            remedy="Without --fail-on-regression the report is written, and says why",
        )
    files = write_report(report, args.out)
    if report.banner:
        print(report.banner)
    for line in report.headlines:
        print(line)
    for one in report.comparison:
        where = f"{one.study}, {one.attribute}: " if len(report.comparison) > 1 else ""
        print(where + words.compared(one).replace("**", ""))
    print(f"\nReport: {files[0]}  ({len(files)} files in {args.out})")
    if args.fail_on_regression and worse:
        raise RegressionFound(f"worse than {args.baseline}: {', '.join(worse)}")
    return 0
