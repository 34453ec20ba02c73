"""``percept metrics``: compute a run's metrics, or take in metrics made elsewhere."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from percept.calibrate import Model
    from percept.inference.run import Run
    from percept.metrics.evaluate import Evaluation, Progress
    from percept.stats import ArmMeans

_CALIBRATED = "calibrated:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compute metrics of every image of a run into its metrics.parquet. What is there already "
        "and still valid is kept; stopped midway, the same command goes on. A metric that an image "
        "cannot have (no reference, say) is left out, and the reason is told and kept in run.json. "
        "Also under torchrun or srun."
    )
    parser.add_argument("run_dir", metavar="RUN", help="run directory of percept infer")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--metric",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="metrics to compute: psnr, psnr_ab, ssim, ms_ssim, ms_ssim_ab, ciede2000, "
        "ciede2000_p95, lpips_alex, lpips_vgg, lpips_alex_deep, lpips_vgg_deep, semantic_distance, "
        "lost_contrast, cvvdp, colorfulness, colorfulness_abs, luminance_fidelity, luminance_ssim, "
        "grain_retention, chroma_bleeding, chroma_lag, patchiness, artifact_chroma, "
        "palette_distance (default: all these); or "
        "traits, two dozen that compare with the true colours, for percept calibrate; or "
        "calibrated:FILE, a model of percept calibrate, with the metrics that it needs",
    )
    what.add_argument(
        "--import",
        dest="import_file",
        metavar="FILE",
        help="instead, take in metrics made elsewhere: a CSV with the columns content_id, "
        "condition, metric, value",
    )
    parser.add_argument(
        "--lower-is-better",
        action="store_true",
        help="with --import: small values of these metrics are the good ones",
    )
    parser.add_argument(
        "--palette",
        metavar="FILE",
        help="palettes of percept palette for palette_distance; the run keeps them",
    )
    parser.add_argument(
        "--marks",
        metavar="STUDY",
        help="study whose regions, drawn by observers, are the masks of artifact_chroma, in place "
        "of the manifest's; the run keeps them",
    )
    parser.add_argument("--db", metavar="URL", help="with --marks: database that holds the study")
    parser.add_argument(
        "--by",
        choices=("arm",),
        help="print means and standard deviations over the seeds of each arm of an experiment, and "
        "which arms differ by more than seeds do, instead of a line for each condition",
    )
    parser.add_argument(
        "--nproc", type=int, default=1, metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="compute again what is there already")
    parser.add_argument(
        "--allow-failures",
        action="store_true",
        help="exit with 0 even if some images could not be measured",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    from percept.distributed import in_world, is_main, relaunch
    from percept.errors import InputError
    from percept.inference.run import open_run

    if args.nproc < 1:
        raise InputError("must be at least 1", key="--nproc", value=args.nproc)
    opened = open_run(args.run_dir)
    if args.by and not any(condition.arm for condition in opened.conditions):
        raise InputError(
            "no condition of this run was trained as an arm", key="--by", value=args.by
        )
    if args.import_file is not None:
        if args.by:
            raise InputError("does not go with --import: import first", key="--by", value=args.by)
        return _import(opened, args)
    if args.lower_is_better:
        raise InputError("--lower-is-better goes with --import; percept knows its own metrics")
    if args.nproc > 1 and not in_world():
        _keep(opened, args)
        return relaunch(args, args.nproc, positional=("run_dir",))
    from percept.metrics.evaluate import evaluate_run

    if is_main():
        _keep(opened, args)
    models, names = _models(opened, args.metric)
    with progress_bar(shown=is_main()) as progress:
        done = evaluate_run(opened, names, fresh=args.fresh, progress=progress)
    if not is_main():
        return 0
    applied = _apply(opened, models)
    skipped = {name: why for name, why in done.skipped.items() if name not in applied}
    done = replace(done, computed=(*done.computed, *applied), skipped=skipped)
    _tell(opened, done, by=args.by, as_json=args.json)
    return 1 if done.failed and not args.allow_failures else 0


def _models(opened: Run, asked: list[str] | None) -> tuple[list[Model], list[str] | None]:
    """Models among the metrics asked for, and the metrics to compute, theirs included."""
    from percept.calibrate import read_model
    from percept.metrics.registry import METRICS

    files = [name.partition(":")[2] for name in asked or () if name.startswith(_CALIBRATED)]
    models = [read_model(file) for file in files]
    if asked is None or not models:
        return models, asked
    names = [name for name in asked if not name.startswith(_CALIBRATED)]
    there = set(opened.metrics["metric"])
    needed = {feature.metric for model in models for feature in model.features}
    return models, [
        *names,
        *(name for name in METRICS if name in needed),
        *(needed - METRICS.keys() - there),
    ]


def _apply(opened: Run, models: list[Model]) -> list[str]:
    """Write the scores of models into the run; warn where they do not apply."""
    import sys

    from percept.calibrate import add_to_run, doubts
    from percept.metrics.evaluate import hash_inputs

    for model in models:
        found = add_to_run(model, opened, hash_inputs(opened))
        for doubt in doubts(model, found):
            print(f"warning: {model.name}: {doubt}", file=sys.stderr)
    return [model.name for model in models]


def _keep(opened: Run, args: argparse.Namespace) -> None:
    """Give the run its palettes and the regions that observers drew."""
    import sys

    from percept.errors import InputError
    from percept.metrics.evaluate import keep_marks, keep_palettes

    if (args.marks is None) != (args.db is None):
        raise InputError("--marks STUDY and --db URL go together")
    if args.palette is not None:
        keep_palettes(opened, args.palette)
    if args.marks is not None:
        import pandas as pd

        from percept.store import open_store
        from percept.store.masks import decode_mask

        with open_store(args.db) as store:
            ratings, marks = store.ratings(args.marks), store.marks(args.marks)
        newest = ratings.groupby(["trial", "attribute"])["revision"].transform("max")
        valid = ratings.loc[(ratings["revision"] == newest) & (ratings["kind"] == "test")]
        marks = marks[marks["response_id"].isin(valid["response_id"])]
        cells = [decode_mask(mask) if isinstance(mask, str) else None for mask in marks["mask"]]
        n = keep_marks(opened, marks.assign(cells=pd.Series(cells, marks.index, dtype=object)))
        print(f"masks of {n} photographs from {args.marks}", file=sys.stderr)


def _import(opened: Run, args: argparse.Namespace) -> int:
    import json

    from percept.metrics.evaluate import import_metrics

    frame = import_metrics(opened, args.import_file, higher_is_better=not args.lower_is_better)
    names = list(frame["metric"].unique())
    if args.json:
        print(json.dumps({"imported": names, "rows": len(frame)}))
    else:
        print(f"{len(frame)} values of {', '.join(names)} are in {opened.root / 'metrics.parquet'}")
    return 0


def _tell(opened: Run, done: Evaluation, *, by: str | None, as_json: bool) -> None:
    import json
    import sys

    file = opened.root / "metrics.parquet"
    if as_json:
        told = {
            "metrics": str(file),
            "computed": done.computed,
            "kept": done.kept,
            "skipped": done.skipped,
            "failed": done.failed,
        }
        if by:
            told["arms"] = _arms_told(_by_arm(opened, [*done.computed, *done.kept]))
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    frame = opened.metrics
    if len(frame) and by:
        print(_arms_table(opened, _by_arm(opened, [*done.computed, *done.kept])))
    elif len(frame):
        print(_table(opened, frame, [*done.computed, *done.kept]))
    names: dict[str, list[str]] = {}
    for name, reason in done.skipped.items():
        names.setdefault(reason, []).append(name)
    for reason, left_out in names.items():
        print(f"left out: {', '.join(left_out)}: {reason}")
    kept = f" ({', '.join(done.kept)} were there already)" if done.kept else ""
    print(f"{file}{kept}")
    if done.resumed:
        print(f"photographs measured by an earlier start: {done.resumed}", file=sys.stderr)
    for problem in done.failed:
        print(f"failed: {problem}", file=sys.stderr)


def _table(opened: Run, frame: pd.DataFrame, names: list[str]) -> str:
    """Tell medians; conditions are compared over the same photographs, if there are any."""
    import pandas as pd

    from percept.metrics.registry import METRICS

    columns, counts, apart, unequal = {}, [], [], False
    for name in [*METRICS, *sorted(set(names) - METRICS.keys())]:
        own = frame[frame["metric"] == name]
        if name not in names or own.empty:
            continue
        table = own.pivot_table(index="content_id", columns="condition", values="value")
        common = table.dropna()
        unequal |= len(common) < len(table)
        if common.empty:
            apart.append(name)
            continue
        columns[_with_arrow(opened, name)] = common.median()
        counts.append(len(common))
    which = " that all conditions with a value have" if unequal else ""
    lines = []
    if columns:
        told = pd.DataFrame(columns).reindex([c.name for c in opened.conditions])
        told.index.name = None
        noun = "photograph" if max(counts) == 1 else "photographs"
        lines = [
            f"Medians over {_span(sorted(counts))} {noun}{which} "
            "(↑ higher is better, ↓ lower is better):",
            told.to_string(float_format="{:.3f}".format, na_rep="–"),
        ]
    if apart:
        lines.append(f"no photograph of which all conditions with a value have {', '.join(apart)}")
    return "\n".join(lines)


def _with_arrow(opened: Run, metric: str) -> str:
    up = opened.info["metrics"].get(metric, {}).get("higher_is_better")
    return metric + {True: " ↑", False: " ↓", None: ""}[up]


def _by_arm(opened: Run, names: list[str]) -> dict[str, tuple[int, dict[str, float], ArmMeans]]:
    """Of each metric: photographs that all conditions have it of, means of those, and the arms."""
    import numpy as np

    from percept.metrics.registry import METRICS
    from percept.stats import arm_means

    arms = {c.name: c.arm for c in opened.conditions if c.arm}
    order = [c.name for c in opened.conditions]
    found = {}
    for metric in [*METRICS, *sorted(set(names) - METRICS.keys())]:
        own = opened.metrics[opened.metrics["metric"] == metric]
        if metric not in names or own.empty:
            continue
        table = own.pivot_table(index="content_id", columns="condition", values="value")
        trained = [name for name in order if name in table and name in arms]
        # All arms on the same photographs; a perfect score of a few is no number to average.
        table = table[np.isfinite(table[trained].to_numpy()).all(axis=1)]
        if table.empty:
            continue
        # Others beside them only where they are means of the same photographs.
        shown = [name for name in order if name in table and np.isfinite(table[name]).all()]
        means = {name: float(table[name].mean()) for name in shown}
        found[metric] = len(table), means, arm_means({n: means[n] for n in trained}, arms)
    return found


def _arms_told(found: dict[str, tuple[int, dict[str, float], ArmMeans]]) -> dict[str, object]:
    """:func:`_by_arm` for JSON."""
    return {
        metric: {
            "photographs": n,
            "means": means,
            "arms": {
                arm: {"seeds": arms.seeds[arm], "mean": arms.mean[arm], "sd": _number(arms.sd[arm])}
                for arm in arms.mean
            },
            "differences": [
                {"first": a, "second": b, "value": d.value, "low": _number(d.low),
                 "high": _number(d.high), "p_value": _number(d.p_value)}
                for (a, b), d in arms.differences.items()
            ],
        }
        for metric, (n, means, arms) in found.items()
    }  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _span(numbers: list[int]) -> str:
    return "–".join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))


def _arms_table(opened: Run, found: dict[str, tuple[int, dict[str, float], ArmMeans]]) -> str:
    import pandas as pd

    if not found:
        return "no metric of photographs that every arm has"
    others = [c.name for c in opened.conditions if not c.arm]
    rows, apart = {}, []
    for metric, (_, means, arms) in found.items():
        cells = {
            arm: f"{mean:.3f}" + (f" ± {arms.sd[arm]:.3f}" if arms.seeds[arm] > 1 else "")
            for arm, mean in arms.mean.items()
        }
        cells |= {name: f"{means[name]:.3f}" for name in others if name in means}
        rows[_with_arrow(opened, metric)] = cells | {
            "least difference": f"{arms.least:.3f}" if math.isfinite(arms.least) else "–"
        }
        apart += [
            f"  {metric}: {a} {'above' if d.value > 0 else 'below'} {b} by {abs(d.value):.3f} "
            f"[{min(abs(d.low), abs(d.high)):.3f}, {max(abs(d.low), abs(d.high)):.3f}], "
            f"p = {d.p_value:.2g}"
            for (a, b), d in arms.differences.items()
            if d.p_value < 0.05
        ]
    counts = sorted({n for n, _, _ in found.values()})
    seeds = sorted({n for _, _, arms in found.values() for n in arms.seeds.values()})
    trained = [c.name for c in opened.conditions if c.arm]
    lacking = {
        metric: [name for name in trained if name not in means]
        for metric, (_, means, _) in found.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("–")
    return "\n".join(
        [
            f"Means over {_span(counts)} photographs ± standard deviation over {_span(seeds)} "
            "seeds (↑ higher is better, ↓ lower is better):",
            table.to_string(),
            *(
                f"without a value of {metric}: {', '.join(names)}"
                for metric, names in lacking.items()
                if names
            ),
            "Arms that differ by more than their seeds do (t test, variance pooled over arms; Holm "
            "within each metric; p < 0.05):",
            *(apart or ["  none"]),
            f"{len(found)} metrics were tested, and one in twenty would be here by chance. Less "
            "than the least difference is invisible to so few seeds, which is not to say that arms "
            "are equal. What looks better is for observers to say.",
        ]
    )


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[Progress | None]:
    from rich.console import Console

    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        "metrics", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("metrics", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
