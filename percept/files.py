"""Files that are whole or not there, their hashes, and paths inside installed packages."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import json
import os
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from percept.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

#: Begins a path that names a file inside an installed package: ``package:NAME/path/inside/it``.
PACKAGE = "package:"
# The workers of a killed command may need a moment to notice.
LOCK_SECONDS = 10.0
_locks: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _leave_locks() -> None:
    for lock in list(_locks):
        lock.close()


# A lock lasts as long as any process has its file open, and loader processes outlive a killed one.
# (Programs that are started, rather than forked, never get the file.)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def lock_folder(folder: Path, command: str) -> IO[bytes]:
    """Keep a folder from a second command like this one.

    Parameters
    ----------
    folder : Path
        Gets a file ``.lock``; it must exist.
    command : str
        What may write to it once at a time, such as ``percept infer``.

    Returns
    -------
    file
        Lets others in when it is closed, and when this process ends, however it does and
        whatever children it leaves behind.

    Raises
    ------
    InputError
        If another process has it, and keeps it for ten seconds.
    """
    lock = open(folder / ".lock", "ab")  # noqa: SIM115 - held while the work lasts
    _locks.add(lock)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            lock.close()
            raise InputError(
                f"another {command} is writing to this folder",
                file=folder,
                key="--out",
                remedy="Wait for it, or choose another --out",
            ) from None
        except OSError:
            pass  # a filesystem without locks
        return lock


def check_place(path: str | Path, *, folder: bool = False, key: str = "--out") -> None:
    """See that a file, or a folder, can be written here, before the work rather than after it.

    Parameters
    ----------
    path : str or Path
        Need not exist, nor the folders above it.
    folder : bool
        Whether it is to be a folder.
    key : str
        The option that names it.

    Raises
    ------
    InputError
        If something else is there, or may not be written.
    """
    path, wanted = Path(path), "folder" if folder else "file"
    try:
        _check_place(path, wanted, key)
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise InputError(
            f"cannot be written: {error.strerror}", file=path, key=key, remedy="Name another place"
        ) from None


def _check_place(path: Path, wanted: str, key: str) -> None:
    folder = wanted == "folder"
    if path.exists() and not (path.is_dir() if folder else path.is_file()):
        there = "folder" if path.is_dir() else "file" if path.is_file() else "device"
        raise InputError(f"is a {there}", file=path, key=key, remedy=f"Name a {wanted}")
    above = path if folder else path.absolute().parent
    while not above.exists():
        above = above.absolute().parent
    wrong = "is a file, not a folder" if not above.is_dir() else "may not be written"
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        remedy = "Check the path and its owner"
        raise InputError(f"{above} {wrong}", file=path, key=key, remedy=remedy)


@contextmanager
def atomic_file(file: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under its name only when all of it is on disk.

    It is written under a temporary name in the same directory, which is made if it is missing,
    synced and renamed; on an error it is removed and whatever stood there stays.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".percept-{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException as error:
        with suppress(OSError):  # such as that of a place that may not be written
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == os.fspath(temporary):
            error.filename = os.fspath(file)  # the name that a person knows
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk, or a power cut could take a new one back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomic(file: str | Path, data: bytes) -> None:
    """Write a file so that, at any moment, the old or the new bytes are there, never a part."""
    with atomic_file(file) as stream:
        stream.write(data)


def write_json_atomic(file: str | Path, value: Any) -> None:
    """Write indented UTF-8 JSON; see :func:`write_bytes_atomic`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes_atomic(file, text.encode() + b"\n")


def write_parquet_atomic(file: str | Path, frame: pd.DataFrame) -> None:
    """Write a frame without its index as Parquet; see :func:`write_bytes_atomic`."""
    buffer = io.BytesIO()
    frame.reset_index(drop=True).to_parquet(buffer, index=False)
    write_bytes_atomic(file, buffer.getvalue())


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If it cannot be read or is not JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", file=file) from None


def package_file(path: str) -> Path:
    """Find the file inside an installed package that ``package:NAME/path/inside/it`` names.

    The package is not imported, and the file need not exist.

    Raises
    ------
    InputError
        If the path has another form, or the package is not installed.
    """
    parts = PurePosixPath(path.removeprefix(PACKAGE)).parts
    if len(parts) < 2 or parts[0] == "/" or ".." in parts:
        raise InputError(
            "not the path of a file inside a package",
            value=path,
            remedy="Write package:NAME/path/inside/it",
        )
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the package {parts[0]!r} is not installed",
            value=path,
            remedy="Install it, or use another manifest",
        )
    return Path(spec.submodule_search_locations[0], *parts[1:])
