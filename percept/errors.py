"""The error tree.

Every error that a user can cause is a :class:`PerceptError`; the command line prints its
message alone and exits with its ``exit_code``. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


class PerceptError(Exception):
    """Base of all expected errors. ``exit_code`` is the status of the command that meets it."""

    exit_code = 2


class InputError(PerceptError):
    """Bad input or settings: nothing was written.

    Parameters
    ----------
    message : str
        What is wrong, as a sentence without a full stop.
    file : str or Path, optional
        The file that holds it.
    row : int, optional
        Row of a table, counted from 1 without the header.
    column, key : str, optional
        Column of a table, or dotted key of a settings file.
    value : object, optional
        The offending value, shown by ``repr``.
    remedy : str, optional
        What to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        column: str | None = None,
        key: str | None = None,
        value: object = None,
        remedy: str | None = None,
    ) -> None:
        self.message, self.file, self.row, self.column = message, file, row, column
        self.key, self.value, self.remedy = key, value, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = [str(self.file)] if self.file is not None else []
        if self.row is not None:
            where.append(f"row {self.row}")
        if self.column is not None:
            where.append(f"column {self.column!r}")
        if self.key is not None:
            where.append(f"key {self.key!r}")
        text = ", ".join(where) + (": " if where else "") + self.message
        if self.value is not None:
            text += f" (got {self.value!r})"
        return text + (f". {self.remedy}" if self.remedy else "")


class InputErrors(PerceptError):
    """Several :class:`InputError` found in one pass, reported together, one per line.

    Of more than ``shown`` that differ in their rows and values alone, the others are told by
    their rows.
    """

    def __init__(self, errors: Iterable[InputError], *, shown: int = 20) -> None:
        self.errors = tuple(errors)
        alike: dict[tuple[object, ...], list[InputError]] = {}
        for error in self.errors:
            key = (error.message, error.file, error.column, error.key) if error.row else (error,)
            alike.setdefault(key, []).append(error)
        lines = []
        for own in alike.values():
            lines += [str(error) for error in own[:shown]]
            if rest := [error.row for error in own[shown:] if error.row is not None]:
                lines.append(f"… and {len(rest):,} more of these, in rows {_ranges(rest)}")
        super().__init__("\n".join(lines))


def _ranges(rows: Sequence[int], most: int = 30) -> str:
    """Write sorted rows as ``3, 7–12, 20``."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][-1] + 1:
            runs[-1][1:] = [row]
        else:
            runs.append([row])
    told = ["–".join(map(str, run)) for run in runs[:most]]
    return ", ".join(told) + (", …" if len(runs) > most else "")


class ItemsFailed(PerceptError):
    """The work is done, but some items failed; the message lists them."""

    exit_code = 1


class Interrupted(PerceptError):
    """Stopped midway (full disk, killed worker); the same command resumes."""

    exit_code = 3


class RegressionFound(PerceptError):
    """A comparison with a baseline found a regression."""

    exit_code = 4
