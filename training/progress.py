"""What a person sees of a training: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from percept.distributed import is_main


class Progress:
    """Context that shows the steps of one training; silent except in the main process.

    Parameters
    ----------
    name : str
        Shown in front.
    done, total : int
        Steps done before, and in all.
    """

    def __init__(self, name: str, *, done: int, total: int) -> None:
        self._name, self._done, self._total = name, done, total
        self._began = time.monotonic()
        self._console = Console(quiet=not is_main(), highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (is_main() and self._console.is_terminal),
        )
        self._task = self._bar.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Show that ``step`` steps are done."""
        self._bar.update(self._task, completed=step)

    def report(self, line: dict[str, Any]) -> None:
        """Show one line of the log."""
        note = f"loss {line['loss']:.3f}  {line['samples_per_second']:.1f} samples/s"
        self._bar.update(self._task, note=note)
        if not self._console.is_terminal:
            done = line["step"] - self._done
            left = (time.monotonic() - self._began) / done * (self._total - line["step"])
            self._console.print(
                f"{self._name}  step {line['step']}/{self._total}  {note}  "
                f"{timedelta(seconds=round(left))} left"
            )
