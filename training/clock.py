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
        self._exchanges: list[tuple[str, Any, Any]] = []

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

    def note_exchange(self, began: Any, ended: Any, kind: str = "all_reduce") -> None:
        """Note when an exchange between processes began and ended; it may overlap anything."""
        self._exchanges.append((kind, began, ended))

    def take(self) -> dict[str, float]:
        """Return the seconds under each name since the last call, and forget them.

        ``all_reduce`` is how long the backward pass waited for the last all-reduce, after which
        nothing is left to compute; it is taken out of ``backward``. ``KIND_in_flight`` is the time
        during which any exchange of a kind was under way, hidden behind computation or not.
        """
        if self._cuda:
            torch.cuda.synchronize()
        if not self._laps:
            self._exchanges = []
            return {}
        origin = self._laps[0][1]
        seconds: defaultdict[str, float] = defaultdict(float)
        flights: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for kind, began, ended in self._exchanges:
            flights[kind].append((self._at(origin, began), self._at(origin, ended)))
        start = 0.0
        for name, moment in self._laps:
            end = self._at(origin, moment)
            if name:
                seconds[name] += end - start
            if name == "backward":
                own = [at for at, _ in flights.get("all_reduce", ()) if start <= at <= end]
                if own:
                    seconds["all_reduce"] += end - max(own)
                    seconds["backward"] -= end - max(own)
            start = end
        for kind, own_flights in flights.items():
            reached = float("-inf")
            for began, ended in sorted(own_flights):
                seconds[f"{kind}_in_flight"] += max(0.0, ended - max(began, reached))
                reached = max(reached, ended)
        self._laps = [("", self._laps[-1][1])]
        self._exchanges = []
        return dict(seconds)

    def _at(self, origin: Any, moment: Any) -> float:
        """Seconds from one moment to another."""
        if self._cuda:
            return float(origin.elapsed_time(moment)) / 1000
        return float(moment - origin)
