"""The run directory while it is being made: its identity, its journals, its tables."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd

from percept.errors import InputError, Interrupted
from percept.files import lock_folder, read_json, write_json_atomic, write_parquet_atomic
from percept.inference.colorizer import Source
from percept.inference.run import read_info, write_conditions
from percept.manifest import Manifest

STAGES = ("decode", "compute", "encode", "write")


@dataclass
class Item:
    """What became of one photograph under one condition; an empty ``error`` is success."""

    index: int
    error: str = ""
    warning: str = ""
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    rank: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


_SIZES = {"width": "Int64", "height": "Int64"}
# What --fresh takes away, run.json last: without it the directory is nobody's run.
_FILES = (
    "outputs.parquet",
    "timings.parquet",
    "metrics.parquet",
    "manifest.parquet",
    "conditions.json",
    "run.json",
)


class RunDirectory:
    """The run directory as the runner sees it. Items are numbered by row, then condition."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        sources: Sequence[Source],
        info: dict[str, Any],
        *,
        suffix: str,
    ) -> None:
        self.root, self.manifest, self.sources, self.info = root, manifest, sources, info
        self.suffix = suffix
        self.conditions = tuple(source.condition for source in sources)
        self.rows = list(manifest.rows())
        self._lock: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self.rows) * len(self.conditions)

    def index(self, row: int, condition: int) -> int:
        """Return the number of an item."""
        return row * len(self.conditions) + condition

    def names(self, index: int) -> tuple[str, str]:
        """Content id and condition of an item."""
        row, condition = divmod(index, len(self.conditions))
        return self.rows[row]["content_id"], self.conditions[condition].name

    def image(self, index: int) -> str:
        """Where an item's image lies, from the root."""
        content_id, condition = self.names(index)
        return f"images/{condition}/{content_id}{self.suffix}"

    def open(self, *, fresh: bool) -> list[Item]:
        """Make or check the directory, and find what is done already. One process does this."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError("is not a directory", file=self.root, remedy="Choose another --out.")
        self._exists()  # before anything is written
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.root, "percept infer")
            exists = self._exists()  # another run may have ended meanwhile
            if exists and not fresh:
                self._continue(read_info(self.root))
            elif exists:
                self._remove()
            for condition in self.conditions:
                folder = self.root / "images" / condition.name
                folder.mkdir(parents=True, exist_ok=True)
                for leftover in folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
            (self.root / "journal").mkdir(exist_ok=True)
            write_json_atomic(self.root / "run.json", self.info)
            write_conditions(self.root / "conditions.json", self.conditions)
            write_parquet_atomic(self.root / "manifest.parquet", self.manifest.frame)
            return self._done()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise Interrupted(
                    f"{self.root}: {error.strerror}; the same command resumes"
                ) from None
            raise InputError(
                f"cannot be written: {error.strerror}", file=error.filename or self.root
            ) from None

    def _exists(self) -> bool:
        """Whether there is a run; raises InputError where there is something else."""
        if (self.root / "run.json").is_file():
            info = read_json(self.root / "run.json")
            if isinstance(info, dict) and {"conditions", "manifest"} <= info.keys():
                return True
            raise InputError(
                "not the run.json of an inference run",
                file=self.root / "run.json",
                remedy="Choose another --out.",
            )
        strange = [p.name for p in self.root.glob("[!.]*")]
        if strange:
            raise InputError(
                "the directory is not empty and no run",
                file=self.root,
                value=sorted(strange)[0],
                remedy="Choose another --out.",
            )
        return False

    def close(self) -> None:
        """Let others write to the run."""
        if self._lock is not None:
            self._lock.close()

    def journal(self, rank: int) -> Journal:
        """Open the journal of a rank."""
        return Journal(self.root / "journal" / f"rank-{rank:04d}.jsonl", self)

    def finish(self, items: Sequence[Item], session: Mapping[str, Any]) -> None:
        """Write the tables, from all items in order, and close ``run.json``.

        ``session`` tells of this start: when, how many processes, how many new items. One
        process does this.
        """
        names = [self.names(item.index) for item in items]
        timings = pd.DataFrame(names, columns=["content_id", "condition"]).astype("string")
        outputs = timings.copy()
        outputs["path"] = [self.image(item.index) for item in items]
        outputs["sha256"] = [item.sha256 for item in items]
        outputs["width"] = [item.width for item in items]
        outputs["height"] = [item.height for item in items]
        outputs["status"] = ["error" if item.error else "ok" for item in items]
        outputs["error"] = [item.error for item in items]
        texts = ("path", "sha256", "status", "error")
        outputs = outputs.astype(dict.fromkeys(texts, "string") | _SIZES)
        failed = outputs["status"] == "error"
        outputs.loc[failed, ["path", "sha256", *_SIZES]] = pd.NA
        outputs.loc[~failed, "error"] = pd.NA
        for stage in STAGES:
            timings[f"{stage}_seconds"] = [item.seconds[stage] for item in items]
        timings["rank"] = [item.rank for item in items]
        write_parquet_atomic(self.root / "timings.parquet", timings)
        write_parquet_atomic(self.root / "outputs.parquet", outputs)
        self.info |= {
            "state": "complete",
            "world": session["world"],
            "items": {
                "total": len(items),
                "ok": int((~failed).sum()),
                "failed": int(failed.sum()),
            },
            "stage_seconds": {
                stage: round(float(timings[f"{stage}_seconds"].sum()), 3) for stage in STAGES
            },
            "warnings": list(dict.fromkeys(item.warning for item in items if item.warning)),
            "sessions": [*self.info["sessions"], *([dict(session)] if session["items"] else [])],
        }
        write_json_atomic(self.root / "run.json", self.info)

    def _continue(self, old: dict[str, Any]) -> None:
        """Check that an earlier start had the same identity, and keep what it recorded."""
        before, now = identity(old), identity(self.info)
        changes = [
            f"{key} was {before.get(key, 'absent')}, is {now.get(key, 'absent')}"
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key)
        ]
        if changes:
            raise InputError(
                f"the run was made differently: {'; '.join(changes)}",
                file=self.root,
                remedy="--fresh starts over; another --out keeps both.",
            )
        kept = ("metrics", "metrics_skipped", "sessions")
        self.info |= {key: old[key] for key in kept if key in old}

    def _remove(self) -> None:
        for name in ("images", "journal"):
            if (self.root / name).is_dir():
                shutil.rmtree(self.root / name)
        for name in _FILES:
            (self.root / name).unlink(missing_ok=True)

    def _done(self) -> list[Item]:
        """Items that a journal says are done and whose image is there at its full size.

        Items that failed are tried again: their photographs may have been mended.
        """
        numbers = {self.names(index): index for index in range(len(self))}
        done: dict[int, Item] = {}
        for file in sorted((self.root / "journal").glob("*.jsonl")):
            for line in file.read_bytes().splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a line torn by a crash
                    entry = json.loads(line)
                    item = Item(numbers[entry.pop("content_id"), entry.pop("condition")], **entry)
                    if not item.error and self._has_image(item):
                        done[item.index] = item
        return [done[index] for index in sorted(done)]

    def _has_image(self, item: Item) -> bool:
        try:
            return (self.root / self.image(item.index)).stat().st_size == item.bytes
        except FileNotFoundError:
            return False


class Journal:
    """One rank's record of what it did: a line of JSON per item, on disk before the next."""

    def __init__(self, file: Path, directory: RunDirectory) -> None:
        self.directory = directory
        with open(file, "a+b") as stream:  # take off a line that a crash has torn
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
        self.stream = open(file, "ab")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stream.close()

    def append(self, item: Item) -> None:
        """Write an item's line through to the disk."""
        content_id, condition = self.directory.names(item.index)
        entry = {"content_id": content_id, "condition": condition, **vars(item)}
        del entry["index"]
        self.stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self.stream.flush()
        os.fsync(self.stream.fileno())


def identity(info: Mapping[str, Any]) -> dict[str, Any]:
    """List what must be equal for a run to be resumed, under the names that users know."""
    return {
        "the manifest's sha256": info["manifest"]["sha256"],
        **{f"--{key.replace('_', '-')}": value for key, value in info["settings"].items()},
        "--split": info["manifest"]["split"],
        **{f"condition {name!r}": value for name, value in info["conditions"].items()},
    }


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn a failing disk into :class:`~percept.errors.Interrupted`."""
    try:
        yield
    except OSError as error:
        raise Interrupted(
            f"{root}: cannot write: {error.strerror}; the same command resumes"
        ) from error


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
