"""Computes metrics of a run, on any number of processes, and takes in those made elsewhere.

The work is shared by photograph: whoever is free draws the next one, largest first, and measures
all its conditions, so that source and reference are read and converted once. A value depends on
its images alone (one compute thread, one image at a time), so ``metrics.parquet`` is the same,
bytes included, at any world size, and also where a command that was stopped is given again: what
it had measured lies in ``journal/`` until all is done.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image

from percept import __version__
from percept.distributed import (
    SharedCounter,
    all_gather_rows,
    all_gather_texts,
    is_main,
    process_group,
    together,
)
from percept.errors import InputError, InputErrors
from percept.files import (
    atomic_file,
    check_place,
    sha256_file,
    write_bytes_atomic,
    write_parquet_atomic,
)
from percept.inference.run import Run
from percept.manifest import load_mask, load_rgb
from percept.metrics.color import Array, Images, Picture
from percept.metrics.palette import Palette, choose, read_palettes
from percept.metrics.registry import METRICS, Metric
from percept.metrics.weights import load_backbone, weights_info
from percept.types import METRIC_COLUMNS

#: Where a run keeps its palettes, and the masks that observers drew.
PALETTES: Final = "palettes.json"
MARKS: Final = "marks"

Progress = Callable[[int, int], None]
"""Called with the number of photographs begun and their total."""


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_run` did.

    Attributes
    ----------
    computed : tuple of str
        Metrics computed now.
    kept : tuple of str
        Metrics that were there already and are still valid.
    skipped : dict of str to str
        Metrics that are missing for all or some images, each with the reason.
    failed : tuple of str
        Images that could not be measured, each with what is wrong.
    resumed : int
        Photographs that the same command, stopped midway, had measured before.
    """

    computed: tuple[str, ...]
    kept: tuple[str, ...]
    skipped: dict[str, str]
    failed: tuple[str, ...]
    resumed: int = 0


def select_metrics(names: Sequence[str] | None) -> list[Metric]:
    """Metrics of these names or groups, in registry order; for None, all that are in no group.

    Raises
    ------
    InputError
        An unknown name.
    """
    groups = {metric.group for metric in METRICS.values()} - {""}
    for name in names or ():
        if name not in METRICS and name not in groups:
            raise InputError(
                "unknown metric",
                value=name,
                remedy=f"There are {', '.join(METRICS)}; others come in by --import",
            )
    if names is None:
        return [metric for metric in METRICS.values() if not metric.group]
    return [m for m in METRICS.values() if m.name in names or (m.group and m.group in names)]


def evaluate_run(
    run: Run,
    metrics: Sequence[str] | None = None,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Compute metrics of a run into its ``metrics.parquet``.

    Metrics that are there already are kept while the run's outputs, its manifest and the weights
    stay as they were; those that went stale are computed again, asked for or not. An image that
    cannot be measured (no reference, failed in inference, too small) has no row, and
    ``run.json["metrics_skipped"]`` says why. ``run.json["metrics"]`` describes each metric.

    Called by every worker of a world (see :mod:`percept.distributed`); by a plain process, it is
    a world of one.

    Parameters
    ----------
    run : Run
        An opened run.
    metrics : sequence of str, optional
        Names from :data:`percept.metrics.registry.METRICS`. Default: all; those whose weights
        are absent are left out then, while asking for one by name is an error.
    fresh : bool
        Compute again what is there.
    progress : callable, optional
        Follows the work; called by the main worker.

    Raises
    ------
    InputError
        An unknown metric, or weights that are absent or damaged.
    """
    with process_group("cpu"), _one_thread():
        with together():
            if fresh and is_main():
                run.drop_damaged_metrics()
        with together():
            plan = _plan(run, metrics, fresh)
            if plan.todo and is_main():
                check_place(run.root, folder=True, key="RUN")
        journal = run.root / "journal" / f"metrics-{_identity(plan, fresh)}"
        with together():
            if is_main() and fresh:
                for file in _parts(journal):
                    file.unlink(missing_ok=True)
        earlier = all_gather_rows(_read_journal(journal))
        done = set(earlier[:, 0].tolist())
        groups = _photographs(run, plan)
        left = [indices for indices in groups if indices[0] not in done]
        resumed = len(groups) - len(left)
        rows, problems = _measure_share(run, plan, left, journal, resumed, progress)
        rows, problems = all_gather_rows(rows), sorted(all_gather_texts(problems))
        measured = np.concatenate([earlier, rows])
        with together():
            if is_main():
                _write(run, plan, measured)
                for file in _parts(journal):
                    file.unlink(missing_ok=True)
        return Evaluation(
            computed=tuple(metric.name for metric in plan.todo),
            kept=plan.kept,
            skipped=_stored_skips(run, plan) | _skipped(plan, measured),
            failed=tuple(problem.split(" ", 1)[1] for problem in problems),
            resumed=resumed,
        )


# -- planning: a pure function of the run's files, the same on every worker ----------------------


@dataclass(frozen=True)
class _Plan:
    todo: list[Metric]
    kept: tuple[str, ...]
    eligible: Array
    """(outputs, todo) bool: which images have what which metric needs."""
    skipped: dict[str, str]
    inputs: tuple[str, ...]
    """Hash of what each metric to do is measured on."""
    palettes: tuple[Palette, ...]


def _plan(run: Run, names: Sequence[str] | None, fresh: bool) -> _Plan:
    tables = hash_inputs(run)
    inputs = {None: tables} | {need: hash_inputs(run, need) for need in ("mask", "palette")}
    known = run.info.get("metrics", {})
    present = run.metrics["metric"].value_counts().to_dict()
    wanted = select_metrics(names)
    todo, kept, skipped = [], [], {}
    for metric in METRICS.values():
        entry = known.get(metric.name)
        asked, there = metric in wanted, present.get(metric.name, 0)
        if not asked and entry is None and not there:
            continue
        lacking = _lacking(metric)
        available = lacking is None
        current = (
            entry is not None
            and entry.get("inputs_sha256") == inputs[metric.needs]
            and entry.get("failed") == 0  # an import of this name has no such entry
            and entry.get("version", 1) == metric.version
            and entry.get("values", there or 1) == there  # none, of what no image can have
            and (not available or entry.get("weights") == _weights(metric))
        )
        if current and not (fresh and asked):
            kept.append(metric.name)
        elif available or (names and asked):
            if lacking and metric.package:
                raise InputError(lacking, value=metric.name)
            if metric.weights:
                load_backbone(metric.weights)  # raises where they are absent or damaged
            todo.append(metric)
        else:
            skipped[metric.name] = str(lacking)
    for name in sorted((present.keys() | known.keys()) - METRICS.keys()):
        if name not in present:
            skipped[name] = "no longer in metrics.parquet: import it, or apply its model, again"
        elif known.get(name, {}).get("inputs_sha256", tables) == tables:
            kept.append(name)
        else:
            skipped[name] = "imported before the run changed: import it again"
    eligible = np.zeros((len(run.outputs), len(todo)), dtype=bool)
    palettes = read_palettes(run.root / PALETTES) if (run.root / PALETTES).exists() else ()
    for column, metric in enumerate(todo):
        eligible[:, column], reason = _eligible(run, metric, palettes)
        if reason:
            skipped[metric.name] = reason
    hashes = tuple(inputs[metric.needs] for metric in todo)
    return _Plan(todo, tuple(kept), eligible, skipped, hashes, palettes)


def _lacking(metric: Metric) -> str | None:
    """Say what a metric needs that this machine has not got, and how to get it."""
    if metric.weights is not None and weights_info(metric.weights) is None:
        return f"no {metric.weights} weights: run `percept weights fetch`"
    if metric.package is not None and find_spec(f"py{metric.package}") is None:
        return f"no {metric.package} package: run `pip install 'percept[{metric.package}]'`"
    return None


def _eligible(run: Run, metric: Metric, palettes: Sequence[Palette]) -> tuple[Array, str]:
    """Which outputs a metric can be computed of, and why not the others."""
    outputs = run.outputs
    ok = (outputs["status"] == "ok").to_numpy(bool)
    reasons = [_count(int((~ok).sum()), "output", "failed in inference")]
    need = "reference" if metric.kind == "full-reference" else metric.needs
    if need is not None:
        having = {
            row["content_id"]
            for row in run.manifest.to_dict("records")
            if _has(run, row, need, palettes)
        }
        has = outputs["content_id"].isin(having).to_numpy(bool)
        reasons.append(_count(outputs["content_id"][~has].nunique(), "photograph", f"no {need}"))
        ok = ok & has
    side = outputs[["width", "height"]].min(axis=1).fillna(0).to_numpy(float)
    small = ok & (side < metric.min_side)
    least = f"smaller than {metric.min_side}×{metric.min_side} pixels"
    reasons.append(_count(int(small.sum()), "output", least))
    return ok & ~small, "; ".join(filter(None, reasons))


def _has(run: Run, row: Mapping[Hashable, Any], need: str, palettes: Sequence[Palette]) -> bool:
    """Whether a photograph has what a metric needs."""
    if need == "palette":
        return choose(palettes, row) is not None
    if need == "mask":
        return _mask_file(run, row) is not None
    return isinstance(row.get("reference_path"), str)


def _mask_file(run: Run, row: Mapping[Hashable, Any]) -> Path | None:
    """Find the mask of a photograph's damage: what observers drew, else the manifest's."""
    drawn = run.root / MARKS / f"{row['content_id']}.png"
    if drawn.exists():
        return drawn
    path = row.get("mask_path")
    return run.resolve(path) if isinstance(path, str) else None


def _count(n: int, noun: str, what: str) -> str:
    return f"{what}: {n} {noun}{'' if n == 1 else 's'}" if n else ""


def hash_inputs(run: Run, need: str | None = None) -> str:
    """Hash the tables that say what is measured, and what the metric needs beside them."""
    files = [run.root / f"{name}.parquet" for name in ("outputs", "manifest")]
    if need == "mask":
        files += sorted((run.root / MARKS).glob("*.png"))
    elif need == "palette" and (run.root / PALETTES).exists():
        files.append(run.root / PALETTES)
    digests = [sha256_file(file) for file in files]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _weights(metric: Metric) -> str | None:
    info = weights_info(metric.weights) if metric.weights else None
    return info["sha256"] if info else None


# -- measuring -----------------------------------------------------------------------------------


def _measure_share(
    run: Run,
    plan: _Plan,
    groups: Sequence[Sequence[int]],
    journal: Path,
    resumed: int,
    progress: Progress | None,
) -> tuple[Any, list[str]]:
    """Measure the photographs that this worker draws.

    Parameters
    ----------
    run, plan, progress
        As in :func:`evaluate_run`.
    groups : sequence of sequence of int
        The outputs of each photograph that is to be measured.
    journal : Path
        Gets the values of each photograph as soon as it is done, in a file of this worker's own.
    resumed : int
        Photographs that were measured before.

    Returns
    -------
    tensor of float64, shape (n, 3)
        Index of the output, index of the metric in ``plan.todo``, value.
    list of str
        Problems; each begins with the output's index so that they sort.
    """
    import torch

    counter, total = SharedCounter("metrics"), resumed + len(groups)
    rows: list[tuple[float, float, float]] = []
    problems: list[str] = []
    while (drawn := counter.next()) < len(groups):
        if progress and is_main():
            progress(resumed + drawn, total)
        own, wrong = [], []
        for output, metric, value in _measure_photograph(run, plan, groups[drawn]):
            if isinstance(value, float):
                own.append((output, metric, value))
            else:
                wrong.append(f"{output:09d} {value}")
        rows += own
        problems += wrong
        if not wrong:  # else it is tried again
            _append(journal, own)
    if progress and is_main():
        progress(total, total)
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3), problems


def _identity(plan: _Plan, fresh: bool) -> str:
    """Name what is measured, on what and by what: values of another plan are no use to this."""
    metrics = [
        (metric.name, metric.version, inputs, _weights(metric))
        for metric, inputs in zip(plan.todo, plan.inputs, strict=True)
    ]
    return hashlib.sha256(json.dumps([__version__, fresh, metrics]).encode()).hexdigest()[:16]


def _parts(journal: Path) -> list[Path]:
    return sorted(journal.parent.glob(f"{journal.name}-*.rows"))


def _append(journal: Path, rows: Sequence[tuple[float, float, float]]) -> None:
    """Write a photograph's rows through to the system: a kill of this process loses none."""
    journal.parent.mkdir(exist_ok=True)
    with open(f"{journal}-{_SESSION}.rows", "a", encoding="utf-8") as stream:
        stream.write(json.dumps(rows) + "\n")


_SESSION: Final = uuid.uuid4().hex


def _read_journal(journal: Path) -> Any:
    """Rows (n, 3) of photographs that are done; the main worker's alone, for all must agree."""
    import torch

    rows: dict[float, list[list[float]]] = {}
    for file in _parts(journal) if is_main() else ():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):  # torn by a crash
                own = json.loads(line)
                rows[own[0][0]] = own
    flat = [row for own in rows.values() for row in own]
    return torch.tensor(flat, dtype=torch.float64).reshape(-1, 3)


def _photographs(run: Run, plan: _Plan) -> list[list[int]]:
    """Group the indices of the outputs to measure by photograph, the largest first."""
    outputs = run.outputs[plan.eligible.any(axis=1)]
    pixels = outputs["width"].to_numpy(float) * outputs["height"].to_numpy(float)
    groups = outputs.groupby("content_id", sort=False).indices
    positions = outputs.index.to_numpy()
    ordered = sorted(groups.values(), key=lambda rows: (-pixels[rows].sum(), rows[0]))
    return [positions[rows].tolist() for rows in ordered]


def _measure_photograph(
    run: Run, plan: _Plan, indices: Sequence[int]
) -> Iterator[tuple[int, int, float | str]]:
    """Yield output index, metric index, and the value or what prevented it."""
    outputs = run.outputs.iloc[list(indices)]
    contents = run.manifest.set_index("content_id")
    content = contents.loc[outputs["content_id"].iloc[0]]
    source = _picture(run, content["path"])
    reference = _picture(run, content.get("reference_path"))
    facts = {"content_id": content.name, **content.to_dict()}
    file = _mask_file(run, facts)
    mask = None if file is None else partial(load_mask, file)
    palette = choose(plan.palettes, facts)
    for index, output in zip(indices, outputs.to_dict("records"), strict=True):
        picture = Picture(partial(_read_output, run, output))
        images = Images(picture, source=source, reference=reference, mask=mask, palette=palette)
        told = set()
        for column in np.flatnonzero(plan.eligible[index]):
            try:
                value = plan.todo[column].compute(images)
            except InputError as error:
                if str(error) not in told:
                    told.add(str(error))
                    where = f"{output['content_id']}, {output['condition']}"
                    yield index, int(column), f"{where}: {error}"
            else:
                yield index, int(column), value


def _picture(run: Run, path: Any) -> Picture | None:
    return Picture(lambda: load_rgb(run.resolve(path))) if isinstance(path, str) else None


def _read_output(run: Run, output: Mapping[Hashable, Any]) -> Array:
    file = run.image(output["path"])
    if not file.is_file() or sha256_file(file) != output["sha256"]:
        raise InputError(
            "not the image that inference wrote",
            file=file,
            remedy="Give the run's percept infer command again",
        )
    return load_rgb(file)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One compute thread, as in every worker: thread counts change results."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- collecting and writing ----------------------------------------------------------------------


def _skipped(plan: _Plan, measured: Array) -> dict[str, str]:
    """Why each metric is missing for all or some images."""
    skipped = dict(plan.skipped)
    for column, metric in enumerate(plan.todo):
        mute = np.isnan(measured[measured[:, 1] == column, 2]).sum()
        reasons = [
            skipped.get(metric.name),
            _count(_failed(plan, measured, column), "output", "cannot be measured"),
            _count(int(mute), "output", _UNDEFINED.get(metric.name, "not defined")),
        ]
        if any(reasons):
            skipped[metric.name] = "; ".join(filter(None, reasons))
    return skipped


_UNDEFINED = {
    "grain_retention": "no grain in the photograph",
    "artifact_chroma": "grey, or no damage with sound surroundings",
    **dict.fromkeys(("chroma_bleeding", "chroma_lag", "patchiness"), "grey"),
}
"""Why a metric answered NaN."""


def _stored_skips(run: Run, plan: _Plan) -> dict[str, str]:
    stored = run.info.get("metrics_skipped", {})
    return {name: stored[name] for name in plan.kept if name in stored}


def _failed(plan: _Plan, measured: Array, column: int) -> int:
    return int(plan.eligible[:, column].sum() - (measured[:, 1] == column).sum())


def _write(run: Run, plan: _Plan, measured: Array) -> None:
    skipped = _skipped(plan, measured)
    failed = [_failed(plan, measured, column) for column in range(len(plan.todo))]
    measured = measured[np.lexsort((measured[:, 1], measured[:, 0]))]
    measured = measured[~np.isnan(measured[:, 2])]
    outputs = run.outputs.iloc[measured[:, 0].astype(int)]
    names = np.array([metric.name for metric in plan.todo], dtype=object)
    frame = pd.DataFrame(
        {
            "content_id": outputs["content_id"].to_numpy(),
            "condition": outputs["condition"].to_numpy(),
            "metric": names[measured[:, 1].astype(int)],
            "value": measured[:, 2],
        }
    )
    old = run.metrics
    known = run.info.get("metrics", {})
    gone = set(old["metric"]) | (known.keys() & METRICS.keys())
    gone -= {*frame["metric"], *plan.kept}
    if (
        not plan.todo
        and not gone
        and (run.root / "metrics.parquet").exists()
        and skipped.items() <= run.info.get("metrics_skipped", {}).items()
    ):
        return
    if gone:
        write_parquet_atomic(run.root / "metrics.parquet", old[~old["metric"].isin(gone)])
    info = {
        metric.name: _describe(metric)
        | {
            "inputs_sha256": plan.inputs[column],
            "values": int((frame["metric"] == metric.name).sum()),
            "failed": failed[column],
        }
        for column, metric in enumerate(plan.todo)
    }
    order = {name: place for place, name in enumerate(METRICS)}  # others follow
    stay = {name: entry for name, entry in known.items() if name not in gone}
    described = sorted((stay | info).items(), key=lambda entry: order.get(entry[0], len(order)))
    run.info["metrics"] = dict(described)
    run.write_metrics(frame, skipped, info)


def _describe(metric: Metric) -> dict[str, Any]:
    """Describe a metric to readers of ``run.json``; null is an end of the range that is open."""
    return {
        "kind": metric.kind,
        "higher_is_better": metric.higher_is_better,
        "unit": metric.unit,
        "range": [end if math.isfinite(end) else None for end in metric.range],
        "citation": metric.citation,
        "group": metric.group,
        "in_models": metric.in_models,
        "version": metric.version,
        "percept": __version__,
        "weights": _weights(metric),
    }


# -- what metrics need beside the images ---------------------------------------------------------


def keep_palettes(run: Run, file: str | Path) -> None:
    """Give a run its palettes: what :func:`percept.metrics.palette.write_palettes` wrote.

    Raises
    ------
    InputError
        The file is none of percept's palettes, or none fits any photograph of the run.
    """
    palettes = read_palettes(file)
    facts = run.manifest.to_dict("records")
    if not any(choose(palettes, row) for row in facts):
        groups = "; ".join(str(palette.group) for palette in palettes)
        raise InputError(
            f"no palette fits a photograph of the run; they are for {groups}",
            file=file,
            remedy="Fill in era and process in the manifest, or make a palette without --by",
        )
    write_bytes_atomic(run.root / PALETTES, Path(file).read_bytes())


def keep_marks(run: Run, marks: pd.DataFrame) -> int:
    """Give a run masks of what observers drew on its photographs.

    Parameters
    ----------
    run : Run
        An opened run.
    marks : DataFrame
        ``content, x, y, width, height`` in fractions of the image: one row a region; ``cells``,
        where it is not null, tells which cells of that rectangle are meant: bool, shape (rows,
        columns). Regions of one photograph are joined, on whichever condition they were drawn.

    Returns
    -------
    int
        Photographs with a mask now. Masks from earlier calls are replaced.

    Raises
    ------
    InputError
        No region lies on a photograph of the run.
    """
    sizes = run.manifest.set_index("content_id")[["height", "width"]]
    marks = marks[marks["content"].isin(sizes.index) & marks["width"].notna().to_numpy()]
    if marks.empty:
        raise InputError("no region was drawn on a photograph of the run")
    folder = run.root / MARKS
    for old in folder.glob("*.png"):
        old.unlink()
    folder.mkdir(exist_ok=True)
    for content, own in marks.groupby("content"):
        height, width = sizes.loc[[content]].to_numpy(int)[0]
        mask = np.zeros((height, width), np.uint8)
        for mark in own.to_dict("records"):
            top, left = (round(mark[k] * side, 6) for k, side in (("y", height), ("x", width)))
            bottom = round((mark["y"] + mark["height"]) * height, 6)
            right = round((mark["x"] + mark["width"]) * width, 6)
            box = mask[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)]
            cells = mark.get("cells")
            if cells is None:
                box[:] = 255
            else:
                rows, columns = (
                    np.arange(n) * cells.shape[axis] // n for axis, n in enumerate(box.shape)
                )
                box[cells[np.ix_(rows, columns)]] = 255
        with atomic_file(folder / f"{content}.png") as stream:
            Image.fromarray(mask).save(stream, "PNG")
    return int(marks["content"].nunique())


# -- metrics made elsewhere ----------------------------------------------------------------------


def import_metrics(run: Run, file: str | Path, *, higher_is_better: bool = True) -> pd.DataFrame:
    """Add metrics computed elsewhere to a run.

    Parameters
    ----------
    run : Run
        An opened run.
    file : str or Path
        CSV with the columns ``content_id, condition, metric, value``. Values are numbers,
        ``inf`` included; a missing value is a missing row. What the run had of the same metrics
        is replaced.
    higher_is_better : bool
        Which way the file's metrics point.

    Returns
    -------
    DataFrame
        The rows taken in.

    Raises
    ------
    InputErrors
        Unreadable file, missing column, unknown photograph or condition, a repeated row, a value
        that is no number, or the name of a metric that percept computes, models of ``percept
        calibrate`` included; all rows at once.
    """
    file = Path(file)
    frame = _read_csv(file)
    contents = set(run.manifest["content_id"])
    conditions = {condition.name for condition in run.conditions}
    errors = []

    def complain(row: int, column: str, message: str, remedy: str) -> None:
        value = frame[column].iloc[row]
        errors.append(
            InputError(message, file=file, row=row + 1, column=column, value=value, remedy=remedy)
        )

    values = pd.to_numeric(frame["value"], errors="coerce")
    repeated = frame.duplicated(["content_id", "condition", "metric"])
    for row, (content, condition, metric, _) in enumerate(frame.itertuples(index=False)):
        if content not in contents:
            complain(row, "content_id", "no such photograph in the run", "Leave the row out")
        if condition not in conditions:
            there = ", ".join(sorted(conditions))
            complain(row, "condition", "no such condition in the run", f"It has {there}")
        if metric in METRICS:
            complain(row, "metric", "percept computes a metric of this name", "Rename it")
        elif metric.startswith("calibrated"):  # which calibrate takes for no metric to learn from
            message = "so begin the names of models of percept calibrate"
            complain(row, "metric", message, "Rename it")
        elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", metric):
            remedy = "Use letters, digits, _, - and ."
            complain(row, "metric", "not a name for a metric", remedy)
        if np.isnan(values.iloc[row]):
            complain(row, "value", "not a number", "Leave the row out if there is no value")
        if repeated.iloc[row]:
            complain(row, "metric", "the same photograph, condition and metric again", "Keep one")
    if errors:
        raise InputErrors(errors)
    frame = frame.assign(value=values.astype("float64"))
    entry = {
        "higher_is_better": higher_is_better,
        "imported_from": file.name,
        "sha256": sha256_file(file),
        "inputs_sha256": hash_inputs(run),
    }
    run.write_metrics(frame, {}, dict.fromkeys(frame["metric"].unique(), entry))
    return frame


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"cannot be read as CSV: {error}", file=file) from None
    for column in METRIC_COLUMNS:
        if column not in frame:
            raise InputError(
                "column missing",
                file=file,
                column=column,
                remedy=f"The columns are {', '.join(METRIC_COLUMNS)}",
            )
    if frame.empty:
        raise InputError("the table has no rows", file=file)
    return frame[list(METRIC_COLUMNS)]
