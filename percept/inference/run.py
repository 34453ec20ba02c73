"""The run directory: what inference leaves behind, read and written without torch.

``RUN/`` holds ``run.json``, ``manifest.parquet``, ``conditions.json``, ``outputs.parquet``,
``timings.parquet``, ``metrics.parquet`` (once computed), ``images/`` and ``journal/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from percept.errors import InputError
from percept.files import (
    PACKAGE,
    package_file,
    read_json,
    write_json_atomic,
    write_parquet_atomic,
)
from percept.types import METRIC_COLUMNS, OUTPUT_COLUMNS

RUN_FORMAT = 1


@dataclass(frozen=True)
class Condition:
    """What is compared: a colorizer with its settings, or results made elsewhere.

    Attributes
    ----------
    name : str
        Name in every table, and of the folder of its images.
    spec : str
        What the user asked for, as typed.
    arm : str or None
        Experiment arm that a checkpoint was trained in.
    seed : int or None
        Training seed of a checkpoint.
    sha256 : str or None
        Hash of the checkpoint, program, plugin source or folder listing; None for ``gray`` and
        ``reference``, which have nothing to hash.
    training_sha256 : tuple of str
        Hashes of the photographs that it was trained on.
    """

    name: str
    spec: str
    arm: str | None = None
    seed: int | None = None
    sha256: str | None = None
    training_sha256: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A finished run directory.

    Attributes
    ----------
    root : Path
        The directory.
    info : dict
        ``run.json``.
    conditions : tuple of Condition
        In the order of the command.
    """

    root: Path
    info: dict[str, Any]
    conditions: tuple[Condition, ...]

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """The frozen copy of the manifest's rows that were run."""
        return _read_table(self.root / "manifest.parquet", ("content_id", "path"))

    @cached_property
    def outputs(self) -> pd.DataFrame:
        """One row per content × condition: ``types.OUTPUT_COLUMNS``."""
        return _read_table(self.root / "outputs.parquet", OUTPUT_COLUMNS)

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Seconds by stage for each content × condition, and the rank that did it."""
        return _read_table(self.root / "timings.parquet", ("content_id", "condition"))

    @property
    def metrics(self) -> pd.DataFrame:
        """``types.METRIC_COLUMNS``; no rows if no metric was computed yet."""
        file = self.root / "metrics.parquet"
        if file.exists():
            return _read_table(file, METRIC_COLUMNS)
        empty = pd.DataFrame({name: pd.Series(dtype="str") for name in METRIC_COLUMNS})
        return empty.astype({"value": "float64"})

    def drop_damaged_metrics(self) -> None:
        """Remove ``metrics.parquet`` if it cannot be read, so that it is made again."""
        try:
            self.metrics  # noqa: B018 - read
        except InputError:
            (self.root / "metrics.parquet").unlink()

    def resolve(self, path: str) -> Path:
        """Find the file that a path of the frozen manifest names.

        ``package:NAME/FILE`` lies inside an installed package. Other paths are relative to the
        manifest's folder, found from the run (so both may move together) or, failing that,
        where it was at the time.
        """
        if path.startswith(PACKAGE):
            return package_file(path)
        for base in (self.root / self.info["manifest"]["folder"], self.info["manifest"]["root"]):
            file = Path(base) / path
            if file.exists():
                return file
        return Path(self.info["manifest"]["root"]) / path

    def image(self, output_path: str) -> Path:
        """Find the image that a path of ``outputs.parquet`` names."""
        return self.root / output_path

    def unlike(self, stimuli: pd.DataFrame) -> pd.MultiIndex:
        """Images of the run, by (content, condition), that are not those that a study shows.

        Parameters
        ----------
        stimuli : DataFrame
            :meth:`percept.store.Store.stimuli`; of an image whose source is not known, nothing
            can be said.
        """
        shown = stimuli[(stimuli["role"] == "test") & stimuli["source_sha256"].notna()]
        keys = ["content_id", "condition"]
        made = self.outputs[[*keys, "sha256"]].dropna()
        both = shown[[*keys, "source_sha256"]].merge(made, on=keys)
        return pd.MultiIndex.from_frame(both.loc[both["sha256"] != both["source_sha256"], keys])

    def write_metrics(
        self,
        frame: pd.DataFrame,
        skipped: Mapping[str, str] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Add metrics to the run; what was known of the same metrics is replaced.

        Parameters
        ----------
        frame : DataFrame
            ``content_id, condition, metric, value``.
        skipped : mapping of str to str, optional
            Metrics that could not be computed, each with its reason, into
            ``run.json["metrics_skipped"]``. A metric that is in ``frame`` alone is taken out.
        info : mapping, optional
            How the metrics were computed; merged into ``run.json["metrics"]``.
        """
        frame = frame.loc[:, list(METRIC_COLUMNS)]
        new, skipped = set(frame["metric"]), dict(skipped or {})
        old = self.metrics
        merged = pd.concat([old[~old["metric"].isin(new)], frame]) if len(old) else frame
        contents = {name: i for i, name in enumerate(self.manifest["content_id"])}
        conditions = {condition.name: i for i, condition in enumerate(self.conditions)}
        order = pd.DataFrame(
            {
                "content": merged["content_id"].map(contents).to_numpy(),
                "condition": merged["condition"].map(conditions).to_numpy(),
                "metric": merged["metric"].to_numpy(),
            }
        ).sort_values(["content", "condition", "metric"], kind="stable")
        write_parquet_atomic(self.root / "metrics.parquet", merged.iloc[order.index])
        known = {k: v for k, v in self.info.get("metrics_skipped", {}).items() if k not in new}
        self.info["metrics_skipped"] = known | skipped
        self.info["metrics"] = self.info.get("metrics", {}) | dict(info or {})
        write_json_atomic(self.root / "run.json", self.info)


def open_run(path: str | Path) -> Run:
    """Open a finished run directory.

    Raises
    ------
    InputError
        If there is no run, or it is not finished.
    """
    root = Path(path)
    info = read_info(root)
    needed = ("conditions.json", "manifest.parquet", "outputs.parquet", "timings.parquet")
    missing = [name for name in needed if not (root / name).is_file()]
    if missing:
        raise InputError(
            f"the run is not finished: {', '.join(missing)} not there yet",
            file=root,
            remedy="Give the same percept infer command again; it resumes.",
        )
    return Run(root, info, read_conditions(root / "conditions.json"))


def _read_table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table of a run, which has these columns at least."""
    remedy = "Give the run's percept infer command again"
    if file.name == "metrics.parquet":
        remedy = f"Compute them again: percept metrics {file.parent} --fresh"
    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError):  # what pyarrow says repeats the path and names its own parts
        raise InputError("damaged: no whole Parquet file", file=file, remedy=remedy) from None
    for name in columns:
        if name not in table:
            raise InputError("damaged: column missing", file=file, column=name, remedy=remedy)
    return table


def read_info(root: Path) -> dict[str, Any]:
    """Read ``run.json``, of a run that need not be finished.

    Raises
    ------
    InputError
        If there is none, or it is of an unknown format.
    """
    file = root / "run.json"
    if not file.is_file():
        raise InputError(
            "not a run directory: it has no run.json",
            file=root,
            remedy="Make one with percept infer MANIFEST --condition NAME=SPEC --out RUN.",
        )
    info = read_json(file)
    if not isinstance(info, dict) or info.get("format") != RUN_FORMAT:
        raise InputError(
            "not the run.json of a run that this version reads",
            file=file,
            key="format",
            remedy=f"It reads format {RUN_FORMAT}.",
        )
    return info


def read_conditions(file: Path) -> tuple[Condition, ...]:
    """Read ``conditions.json``."""
    return tuple(
        Condition(**{**entry, "training_sha256": tuple(entry["training_sha256"])})
        for entry in read_json(file)
    )


def write_conditions(file: Path, conditions: tuple[Condition, ...]) -> None:
    """Write ``conditions.json``."""
    write_json_atomic(file, [asdict(condition) for condition in conditions])
