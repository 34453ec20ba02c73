"""``percept predict``: stretch a panel over photographs that nobody rated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from percept.stretch import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write what a model of percept calibrate says of a run, photographs that nobody rated "
        "included: predicted.csv (scores with their uncertainty, and what they are relative to: "
        "only those that are relative to the same condition compare across photographs), next.csv "
        "(the photographs whose votes would teach the model most) and, for a model of a review "
        "study, triage.csv (surely fine, surely bad, ask a person) and check.csv, a random sample "
        "of what was passed, to be reviewed by people."
    )
    parser.add_argument("run_dir", metavar="RUN", help="run directory with the model's metrics")
    parser.add_argument(
        "--model", required=True, type=Path, metavar="FILE", help="model of percept calibrate"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="directory for the tables"
    )
    parser.add_argument(
        "--next",
        type=int,
        default=20,
        metavar="N",
        help="photographs to choose for rating (default: %(default)s)",
    )
    parser.add_argument(
        "--error-rate",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of wrong ones among the surely fine, and the surely bad, that must not be "
        "passed (default: %(default)s)",
    )
    parser.add_argument(
        "--checked",
        type=Path,
        metavar="FILE",
        help="reviews of check.csv (content, condition, verdict): tell what they say of the rest",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the sample to be checked (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    import sys

    import numpy as np

    from percept.calibrate import doubts, predict, rated_photographs, read_model
    from percept.errors import InputError
    from percept.files import check_place, write_bytes_atomic
    from percept.inference.run import open_run
    from percept.stretch import check, check_sample, rate_next, triage

    for name, value in (("--next", args.next), ("--seed", args.seed)):
        if value < 0:
            raise InputError("must not be negative", key=name, value=value)
    check_place(args.out, folder=True)
    model, opened = read_model(args.model), open_run(args.run_dir)
    table, taught = opened.metrics, rated_photographs(model, opened)
    found = predict(model, table)
    tables = {
        "predicted": found,
        "next": rate_next(model, table, args.next, rated=taught),
    }
    if model.kind == "review":
        sorted_out = triage(model, table, error_rate=args.error_rate)
        tables["triage"] = sorted_out.table
        rng = np.random.default_rng(args.seed)
        tables["check"] = check_sample(sorted_out, args.error_rate, rated=taught, rng=rng)
    elif args.checked is not None:
        raise InputError("only a triage, by a model of reviews, is checked", key="--checked")
    checks: tuple[Check, ...] = ()
    if args.checked is not None:
        checks = check(sorted_out, _reviews(args.checked), rated=taught)
    simulated = bool(model.fitted_on.get("simulated_observers"))
    for name, frame in tables.items():
        frame = frame.assign(simulated=simulated)
        text = frame.to_csv(index=False, float_format="%.6g")
        write_bytes_atomic(args.out / f"{name}.csv", text.encode())
    rated = found["content"].isin(taught)
    new = found.loc[~rated, "content"].nunique()
    print(f"{found['content'].nunique()} photographs, {new} of them unrated")
    if model.kind == "review":
        for name, threshold in (("fine", sorted_out.fine), ("bad", sorted_out.bad)):
            n = int((sorted_out.table["verdict"] == name).sum())
            support = (
                f"{threshold.error_rate:.1%} of {threshold.n} held-out reviews say otherwise, at "
                f"most {threshold.bound:.1%} ({sorted_out.confidence:.0%} confidence)"
                if threshold.n
                else "no held-out reviews"
            )
            if np.isinf(threshold.score) and threshold.n:
                support = f"no threshold keeps the error rate; the nearest: {support}"
            print(f"surely {name}: {n} images; {support}")
        print(f"ask a person: {int((sorted_out.table['verdict'] == 'ask').sum())} images")
        for one in checks:
            print(
                f"checked: {one.wrong} of {one.n} surely {one.sorted} images are not, so at most "
                f"{one.bound:.1%} of {one.lot} ({sorted_out.confidence:.0%} confidence)"
            )
        if len(tables["check"]) and not checks:
            print(
                f"to check it, let people review the {len(tables['check'])} images of check.csv "
                "and give their verdicts to --checked: with none wrong, the error rate is kept"
            )
    for doubt in doubts(model, found):
        print(f"warning: {doubt}", file=sys.stderr)
    print("\n".join(str(args.out / f"{name}.csv") for name in tables))
    return 0


def _reviews(file: Path) -> pd.DataFrame:
    import pandas as pd

    from percept.errors import InputError

    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        text = {"content": str, "condition": str, "verdict": str}
        return pd.read_csv(file, dtype=text, encoding="utf-8-sig")
    except (OSError, ValueError, UnicodeError) as error:
        raise InputError(f"the reviews cannot be read: {error}", file=file) from None
