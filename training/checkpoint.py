"""The folder of one training: what is in it, and whether this training may continue it.

``DIR/`` holds the checkpoint that inference reads (``model.safetensors``, ``config.json``), the
best one so far (``best/``), ``run.json`` (settings and provenance), ``log.jsonl``, and
``state/step-N/``, from which the same command resumes. A state directory gets its name only when
it is whole, and the one before is removed only then. Files are written while training goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from percept.distributed import is_main, rank, world_size
from percept.errors import InputError
from percept.files import check_place, read_json

RUN_FORMAT = 1
_OURS = (
    "model.safetensors",
    "config.json",
    "run.json",
    "log.jsonl",
    "state",
    "best",
    "samples",
    "validation.jsonl",
    "tensorboard",
)


def read_run(folder: Path) -> dict[str, Any] | None:
    """``run.json`` of a training begun earlier; None where there is none."""
    file = folder / "run.json"
    return read_json(file) if file.is_file() else None


def check_folder(folder: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """Refuse a folder that holds something else than this very training.

    Raises
    ------
    InputError
        Naming every setting that has changed.
    """
    check_place(folder, folder=True)
    if fresh:
        return
    run = read_run(folder)
    if run is None:
        if (folder / "model.safetensors").exists() or (folder / "config.json").exists():
            raise InputError(
                "holds a checkpoint that was not trained here",
                file=folder,
                key="--out",
                remedy="Name another folder, or add --fresh to replace it",
            )
        return
    before, now = _flat(run["settings"]), _flat(settings)
    changed = [
        f"{key} {before.get(key)!r} → {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise InputError(
            f"was begun with other settings: {'; '.join(changed)}",
            file=folder,
            key="--out",
            remedy="Put the settings back, name another folder, or add --fresh to start over",
        )


def clear(folder: Path) -> None:
    """Remove what a training wrote, and nothing else."""
    for name in _OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def saved_step(folder: Path) -> int:
    """Return the number of steps done in the newest whole state; 0 without one."""
    return max((int(path.name[5:]) for path in (folder / "state").glob("step-*")), default=0)


class Saver:
    """Writes states in the background, one at a time; all processes see the same file system.

    Parameters
    ----------
    folder : Path
        Of the training. What an earlier session left unfinished there is removed.
    """

    def __init__(self, folder: Path) -> None:
        self._states = folder / "state"
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if is_main():
            for left in self._states.glob("part-*"):
                shutil.rmtree(left)

    def start(
        self,
        step: int,
        common: Mapping[str, Any],
        local: Mapping[str, Any],
        before: Callable[[], None] = lambda: None,
        *,
        own: bool = False,
    ) -> None:
        """Save a state: ``common`` by the main process, ``local``, if not empty, by each.

        Tensors are copied before this returns, but for those of ``common`` where they are this
        saver's ``own``; the main process calls ``before`` first, in the background. The one before
        must have been waited for.
        """
        copied = (common if own else _copied(common)) if is_main() else {}, _copied(local)

        def work() -> None:
            try:
                self._write(step, *copied, before)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="percept-saver", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was started is on disk; raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(
        self,
        step: int,
        common: Mapping[str, Any],
        local: Mapping[str, Any],
        before: Callable[[], None],
    ) -> None:
        parts, whole = self._states / f"part-{step}", self._states / f"step-{step}"
        parts.mkdir(parents=True, exist_ok=True)
        if local:
            temporary = parts / f"own-{rank()}.tmp"
            _save(temporary, local)
            temporary.rename(parts / f"rank-{rank()}.pt")
        if not is_main():
            return
        before()
        _save(parts / "common.pt", common)
        # The others' parts are seen to be whole by their names: a collective here would run
        # beside those of the training.
        while local and len(list(parts.glob("rank-*.pt"))) < world_size():
            time.sleep(0.005)
        _sync(parts)
        shutil.rmtree(whole, ignore_errors=True)
        parts.rename(whole)
        _sync(whole.parent)
        for old in whole.parent.glob("step-*"):
            if old != whole:
                shutil.rmtree(old)


def _copied(value: Any) -> Any:
    """Copy of nested mappings and lists, with tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def load_state(
    folder: Path, step: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what a :class:`Saver` wrote: the common part, and this process's own on its device.

    Networks and optimizers take the common part where they are; what compression remembers is
    added to gradients as it is.
    """
    whole = folder / "state" / f"step-{step}"
    own = whole / f"rank-{rank()}.pt"
    common = torch.load(whole / "common.pt", map_location="cpu", weights_only=True, mmap=True)
    local = torch.load(own, map_location=device, weights_only=True) if own.exists() else {}
    return common, local


def trim_logs(folder: Path, step: int) -> None:
    """Drop the lines of the logs after ``step``: those steps are about to be done again."""
    for file in (folder / "log.jsonl", folder / "validation.jsonl"):
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            # A line cut short by the end of a process has no newline.
            kept = [ln for ln in lines if ln.endswith("\n") and json.loads(ln)["step"] <= step]
            file.write_text("".join(kept), encoding="utf-8")


def _save(file: Path, value: Mapping[str, Any]) -> None:
    with file.open("wb") as stream:
        try:
            torch.save(dict(value), stream)
        except RuntimeError as error:  # torch hides that the disk was full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
