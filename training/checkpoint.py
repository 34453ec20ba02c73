"""The folder of one training: what is in it, and whether this training may continue it.

``DIR/`` holds the checkpoint that inference reads (``model.safetensors``, ``config.json``), the
best one so far (``best/``), ``run.json`` (settings and provenance), ``log.jsonl``, and
``state/step-N/``, from which the same command resumes. A state directory gets its name only when
it is whole, and the one before is removed only then. Files are written while training goes on.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from percept.distributed import all_gather_texts, barrier, is_main, rank, world_size
from percept.errors import InputError, Interrupted
from percept.files import check_place, read_json

RUN_FORMAT = 1
# All that a training writes, by path within its folder; nothing else is ever removed.
_OURS = re.compile(
    r"(best/)?(model\.safetensors|config\.json)|run\.json|(log|validation)\.jsonl"
    r"|samples/step-\d{6,}\.png|state/(step|part)-\d+|tensorboard/events\.out\.tfevents\..+"
)
_MOST_CHANGES = 8  # that a message names
_VISIBLE_SECONDS = 10.0  # in which a network's disk shows a new file to all
_PART_SECONDS = 600.0  # in which all processes have written their parts of a state


def read_run(folder: Path) -> dict[str, Any] | None:
    """``run.json`` of a training begun earlier; None where there is none.

    Raises
    ------
    InputError
        If it is not a training's.
    """
    file = folder / "run.json"
    if not file.is_file():
        return None
    run = read_json(file)
    if not _is_run(run):
        raise InputError(
            "is damaged: not the run.json of a training",
            file=file,
            remedy="Add --fresh to start over",
        )
    return dict(run)


def check_folder(folder: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """Refuse a folder that holds something else than this very training.

    Raises
    ------
    InputError
        Naming every setting that has changed; also with ``fresh`` where there are files that
        no training has written under these names.
    """
    check_place(folder, folder=True)
    found = _written(folder)
    if found and not _is_ours(folder):
        raise InputError(
            "holds files that no percept train has written here",
            file=folder,
            key="--out",
            value=found[0].relative_to(folder).as_posix(),
            remedy="Name another folder",
        )
    if fresh:
        return
    run = read_run(folder)
    if run is None:
        if found:
            raise InputError(
                "holds a checkpoint that was not trained here",
                file=folder,
                key="--out",
                remedy="Name another folder, or add --fresh to replace it",
            )
        return
    before, now = _flat(run["settings"]), _flat(settings)
    changed = [
        f"{key} differs" if "sha256" in key else f"{key} {before.get(key)!r} → {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        if (more := len(changed) - _MOST_CHANGES) > 0:
            changed[_MOST_CHANGES:] = [f"and {more} more"]
        raise InputError(
            f"was begun with other settings: {'; '.join(changed)}",
            file=folder,
            key="--out",
            remedy="Put the settings back, name another folder, or add --fresh to start over",
        )


def check_shared(folder: Path) -> None:
    """Refuse a folder that is not the same one for all processes; all of them call this.

    Raises
    ------
    InputError
        In a process that does not see what the main one writes.
    """
    if world_size() == 1:
        return
    mark = folder / f".percept-{uuid.uuid4().hex}.tmp"
    if is_main():
        mark.touch()
    (name,) = all_gather_texts([mark.name] if is_main() else [])
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not (seen := (folder / name).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    barrier()
    mark.unlink(missing_ok=True)
    if not seen:
        raise InputError(
            f"process {rank()} sees another folder of this name than process 0",
            file=folder,
            key="--out",
            remedy="Put it on a disk that all nodes share",
        )


def clear(folder: Path) -> None:
    """Remove what a training wrote, and nothing else."""
    # What says that the rest is a training's goes last.
    for path in sorted(_written(folder), key=lambda path: path in _proofs(folder)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name in ("best", "samples", "state", "tensorboard"):
        with suppress(OSError):  # it holds something else, too, or is not there
            (folder / name).rmdir()


def _written(folder: Path) -> list[Path]:
    """Paths in a folder that a training would have written, in order."""
    paths = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(path for path in paths if _OURS.fullmatch(path.relative_to(folder).as_posix()))


def _proofs(folder: Path) -> tuple[Path, Path]:
    return folder / "config.json", folder / "run.json"


def _is_ours(folder: Path) -> bool:
    """Whether a training, or whoever copied its checkpoint, has written what is in a folder."""
    card, run = map(_read, _proofs(folder))
    is_card = isinstance(card, Mapping) and {"format", "network", "input"} <= card.keys()
    return is_card or _is_run(run)


def _is_run(run: Any) -> bool:
    return isinstance(run, Mapping) and {"settings", "samples_seen", "state"} <= run.keys()


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except InputError:
        return None


def saved_step(folder: Path) -> int:
    """Return the number of steps done in the newest whole state; 0 without one."""
    return max((int(path.name[5:]) for path in _states(folder, "step-")), default=0)


def _states(folder: Path, prefix: str) -> list[Path]:
    paths = (folder / "state").glob(f"{prefix}*")
    return [path for path in paths if _OURS.fullmatch(f"state/{path.name}")]


class Saver:
    """Writes states in the background, one at a time; all processes see the same file system.

    Parameters
    ----------
    folder : Path
        Of the training. What an earlier session left unfinished there is removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if is_main():
            for left in _states(folder, "part-"):
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
        parts, whole = (self._folder / "state" / f"{kind}-{step}" for kind in ("part", "step"))
        if local or is_main():
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
        wanted = {f"rank-{number}.pt" for number in range(world_size())} if local else set()
        deadline = time.monotonic() + _PART_SECONDS
        while missing := wanted - {path.name for path in parts.iterdir()}:
            if time.monotonic() > deadline:
                raise Interrupted(
                    f"{parts}: the other processes have not written {', '.join(sorted(missing))}; "
                    "the same command resumes"
                )
            time.sleep(0.005)
        _sync(parts)
        shutil.rmtree(whole, ignore_errors=True)
        parts.rename(whole)
        _sync(whole.parent)
        for old in _states(self._folder, "step-"):
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


@contextmanager
def readable(folder: Path, step: int) -> Iterator[None]:
    """Name a state that is damaged, where it is read."""
    try:
        yield
    except (OSError, EOFError, LookupError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"is damaged: {reason or type(error).__name__}",
            file=folder / "state" / f"step-{step}",
            remedy="Put it back, or add --fresh to start over",
        ) from None


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
