"""``percept calibrate``: fit a metric to a panel."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from percept.inference.run import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fit a small linear model of what a panel preferred (a pairwise study) or accepted (a "
        "review study) to the metrics of its run, and tell what it is worth on photographs and "
        "conditions that took no part in the fit, beside every single metric, other people, and "
        "the mere lookup of how a condition does elsewhere. The model is a metric: percept "
        "metrics RUN --metric calibrated:FILE; what it says of unrated photographs: percept "
        "predict."
    )
    parser.add_argument(
        "--run",
        dest="run_directory",
        required=True,
        metavar="RUN",
        help="run directory with metrics, of the photographs that were judged",
    )
    parser.add_argument("--db", required=True, metavar="URL", help="database that holds the study")
    parser.add_argument("--study", required=True, metavar="NAME", help="study to fit to")
    parser.add_argument("--attribute", metavar="NAME", help="which question, if it asks several")
    parser.add_argument(
        "--metric",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="metrics that the model may use (default: where every judged image has them, the "
        "traits, which are measured where there are references, with semantic_distance and "
        "lost_contrast; else all metrics that every judged image has)",
    )
    parser.add_argument(
        "--out", "-o", required=True, type=Path, metavar="FILE", help="JSON file for the model"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    import json
    import sys

    from percept.calibrate import calibrate, judgements, write_model
    from percept.files import check_place
    from percept.inference.run import open_run
    from percept.store import open_store

    check_place(args.out)
    opened = open_run(args.run_directory)
    with open_store(args.db) as store:
        judgements(store, args.study, args.attribute)  # before minutes go into metrics
        if args.metric is None:
            _measure_traits(opened)
        model = calibrate(
            opened,
            store,
            args.study,
            metrics=args.metric,
            attribute=args.attribute,
        )
    write_model(args.out, model)
    if args.json:
        told: dict[str, Any] = {"model": str(args.out), "validation": model.validation}
        print(json.dumps(told | {"warnings": model.warnings}, indent=2, ensure_ascii=False))
        return 0
    fitted = model.fitted_on
    print(
        f"{fitted['votes']} votes on {fitted['photographs']} photographs and "
        f"{len(fitted['conditions'])} conditions\n"
    )
    print(f"{'held out':26} {'share of votes predicted':26} rank correlation in a photograph")
    for row in model.validation:
        share = _told(row, ("accuracy", "low", "high"), "{:.1%}")
        rank = _told(row, ("rank", "rank_low", "rank_high"), "{:.2f}")
        print(f"  {row['predictor']:24} {share:26} {rank}")
    print("\nweights, log-odds per usual difference within a photograph:")
    for feature in sorted(model.features, key=lambda one: -abs(one.weight)):
        print(f"  {feature.metric:24} {feature.weight:+7.3f} ± {feature.std_error:.3f}")
    for warning in model.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"\n{args.out}")
    return 0


def _measure_traits(opened: Run) -> None:
    """Measure what models are made of, where the run has references and lacks it."""
    import sys

    known = opened.info.get("metrics", {}).values()
    references = opened.manifest.get("reference_path")
    if references is None or references.isna().all():
        return
    if any(entry.get("group") == "traits" for entry in known):
        return
    from percept.cli.metrics import progress_bar
    from percept.metrics.evaluate import evaluate_run

    with progress_bar(shown=True) as progress:
        done = evaluate_run(opened, ["traits"], progress=progress)
    told = [f"failed: {problem}" for problem in done.failed]
    told.append(f"measured {len(done.computed)} traits into {opened.root / 'metrics.parquet'}")
    print("\n".join(told), file=sys.stderr)


def _told(row: dict[str, Any], keys: tuple[str, str, str], form: str) -> str:
    """Tell a value and its 95 % interval."""
    value, low, high = (row[key] for key in keys)
    if value is None:
        return "-"
    return form.format(value) + (
        "" if low is None else f" [{form.format(low)}, {form.format(high)}]"
    )
