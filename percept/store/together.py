"""Group commit: short writes that wait at the same time share one durable transaction."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from percept.errors import PerceptError
from percept.store.connect import Database

_T = TypeVar("_T")


class _Task(Generic[_T]):
    def __init__(self, work: Callable[[sa.Connection], _T]) -> None:
        self.work = work
        self.outcome: Callable[[], _T] | None = None

    def run(self, connection: sa.Connection) -> None:
        try:
            value = self.work(connection)
        except PerceptError as error:
            self.fail(error)
        else:
            self.outcome = lambda: value

    def fail(self, error: Exception) -> None:
        def outcome() -> _T:
            raise error

        self.outcome = outcome


class Together:
    """Runs writes of many threads: who has the turn does what all that wait have to do.

    Where one writer at a time is allowed, a commit that waits for the disk would otherwise bound
    the writes per second. Each call returns after the commit of what it wrote.
    """

    def __init__(self, database: Database, turn: threading.RLock) -> None:
        self._database, self._turn = database, turn
        self._waiting: deque[_Task[Any]] = deque()

    def run(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Carry out ``work(connection)`` durably; give back or raise what it does.

        ``work`` may be called again, and must write nothing before it raises a PerceptError.
        """
        task = _Task(work)
        self._waiting.append(task)
        with self._turn:
            if task.outcome is None:  # else it was done for us while we waited
                tasks = [self._waiting.popleft() for _ in range(len(self._waiting))]
                self._commit(list(dict.fromkeys([*tasks, task])))
        assert task.outcome is not None  # noqa: S101 - tells the type checker
        return task.outcome()

    def _commit(self, tasks: list[_Task[Any]]) -> None:
        try:
            with self._database.begin() as connection:
                for task in tasks:
                    task.run(connection)
        except Exception as error:
            # A full disk or a lock concerns them all; else one is to blame, and each is for itself.
            if len(tasks) == 1 or isinstance(error, OperationalError):
                for task in tasks:
                    task.fail(error)
            else:
                for task in tasks:
                    self._commit([task])
