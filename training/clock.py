"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch


class Clock:
    """Books the time between laps under names, and that of exchanges beside it.

    On a CUDA device time is measured on the stream, by events that are read when asked for, so
    that the clock never makes the processor wait for the device.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._laps: list[tuple[str, Any]] = []
        self._exchanges: list[tuple[Any, Any]] = []

    def mark(self) -> Any:
        """Return this moment."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, name: str) -> None:
        """Book the time since the lap before under ``name``; "" books it nowhere."""
        self._laps.append((name, self.mark()))

    def note_exchange(self, began: Any, ended: Any) -> None:
        """Note when an exchange between processes began and ended; it may overlap anything."""
        self._exchanges.append((began, ended))

    def take(self) -> dict[str, float]:
        """Return the seconds under each name since the last call, and forget them.

        ``all_reduce`` is how long the backward pass waited for the last exchange, after which
        nothing is left to compute; it is taken out of ``backward``. ``all_reduce_in_flight`` is
        the time during which any exchange was under way, hidden behind computation or not.
        """
        if self._cuda:
            torch.cuda.synchronize()
        if not self._laps:
            self._exchanges = []
            return {}
        origin = self._laps[0][1]
        seconds: defaultdict[str, float] = defaultdict(float)
        exchanges = sorted((self._at(origin, a), self._at(origin, b)) for a, b in self._exchanges)
        start = 0.0
        for name, moment in self._laps:
            end = self._at(origin, moment)
            if name:
                seconds[name] += end - start
            if name == "backward":
                own = [began for began, _ in exchanges if start <= began <= end]
                if own:
                    seconds["all_reduce"] += end - max(own)
                    seconds["backward"] -= end - max(own)
            start = end
        reached = float("-inf")
        for began, ended in exchanges:
            seconds["all_reduce_in_flight"] += max(0.0, ended - max(began, reached))
            reached = max(reached, ended)
        self._laps = [("", self._laps[-1][1])]
        self._exchanges = []
        return dict(seconds)

    def _at(self, origin: Any, moment: Any) -> float:
        """Seconds from one moment to another."""
        if self._cuda:
            return float(origin.elapsed_time(moment)) / 1000
        return float(moment - origin)
