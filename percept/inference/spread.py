"""The tiles of one photograph on all processes of the world, a row of tiles at a time.

The process that has decoded the photograph leads: it sends the luminance under a row of tiles to
the others, all draw calls from a shared counter, and the leader gathers what came out and blends
it in the order in which a process alone would, while the others are at the next row. So nobody
else needs the photograph, nobody holds more than two rows of tiles of it, and the bytes are those
of one process. What travels are tensors on the CPU, by gloo, whatever computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from percept import distributed
from percept.inference.colorizer import Fault
from percept.inference.tiling import Grid

# Luminance under tiles, shape (N, 1, H, W), to chroma or sRGB, shape (N, C, H, W).
Colorize = Callable[[Tensor], Tensor]


def alone(
    grid: Grid, luminances: Iterable[Tensor], colorize: Colorize
) -> Iterator[Iterable[Tensor]]:
    """Colour the calls of each row of tiles as they are asked for."""
    for luminance in luminances:
        yield (grid.details(luminance, call, colorize) for call in range(len(grid.calls)))


class Spread:
    """What a process knows of the world while they share photographs.

    Every process leads or follows the same photographs in the same order.

    Attributes
    ----------
    waited : float
        Seconds for which this process waited for others.
    helped : float
        Seconds that others have computed for photographs that this process leads.
    """

    def __init__(self) -> None:
        self.waited = self.helped = 0.0
        self._counter, self._drawn = distributed.SharedCounter("tiles"), 0
        self._begun: tuple[Grid, Tensor] | None = None

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Lead a photograph; at the end, however it comes, the others are let go."""
        try:
            yield
        finally:
            if self._begun is not None:  # they are at it already
                self._row(*self._begun, distributed.rank(), None)
                self._begun = None
            distributed.broadcast(torch.zeros(1, dtype=torch.int64), distributed.rank())

    def lead(
        self,
        grid: Grid,
        luminances: Iterator[Tensor],
        colorize: Colorize,
        warn: Callable[[str], None],
    ) -> Iterator[Iterable[Tensor]]:
        """Have the rows of tiles coloured by all; the details are on the CPU.

        Parameters
        ----------
        grid : Grid
        luminances : iterator of Tensor
            Under each row of tiles.
        colorize : callable
        warn : callable
            Given what another process was warned of.

        Raises
        ------
        Fault
            If a process, whichever, could not colour a tile.
        """
        me = distributed.rank()
        luminance: Tensor | None = self._send(grid, next(luminances))
        while luminance is not None:
            faults, warnings, tiles = self._row(grid, luminance, me, colorize)
            self._begun = None
            for warning in warnings:
                warn(warning)
            if faults:
                raise Fault(faults[0])
            luminance = next(luminances, None)
            if luminance is not None:
                self._send(grid, luminance)
            yield tiles

    def follow(
        self, grid: Grid, leader: int, colorize: Colorize, warning: Callable[[], str]
    ) -> None:
        """Take part in a photograph that another process leads, to its end.

        ``warning`` tells what this process must be warned of, if anything.
        """
        luminance = torch.empty(1, 1, grid.tile_height, grid.padded_width)
        while True:
            with self._waiting():
                more = distributed.broadcast(torch.zeros(1, dtype=torch.int64), leader)
                if not more.item():
                    return
                distributed.broadcast(luminance, leader)
            self._row(grid, luminance, leader, colorize, warning)

    def _send(self, grid: Grid, luminance: Tensor) -> Tensor:
        distributed.broadcast(torch.ones(1, dtype=torch.int64), distributed.rank())
        luminance = luminance.contiguous()
        self._begun = grid, luminance
        return distributed.broadcast(luminance, distributed.rank())

    def _row(
        self,
        grid: Grid,
        luminance: Tensor,
        leader: int,
        colorize: Colorize | None,
        warning: Callable[[], str] = str,
    ) -> tuple[list[str], list[str], list[Tensor]]:
        """Colour what calls of a row this process draws; without ``colorize``, none.

        Returns everyone's faults and warnings and, on the leader, every call's details.
        """
        calls: list[list[float]] = []
        details, fault = [torch.empty(0, grid.tile_height, grid.tile_width)], ""
        # Each process draws one number too many, whereby all know where the next row's begin.
        while (call := self._counter.next() - self._drawn) < len(grid.calls):
            if colorize is None or fault:
                continue
            start = time.perf_counter()
            try:
                output = grid.details(luminance, call, colorize).cpu()
            except Fault as error:
                fault = str(error)
            else:
                details.append(output.flatten(0, 1))
                calls.append([call, output.shape[1], time.perf_counter() - start])
        self._drawn += len(grid.calls) + distributed.world_size()
        with self._waiting():
            texts = distributed.all_gather_texts([fault, warning()])
            numbers = distributed.gather_rows(
                torch.tensor(calls, dtype=torch.float64).reshape(-1, 3), leader
            )
            planes = distributed.gather_rows(torch.cat(details), leader)
        faults, warnings = ([text for text in texts[i::2] if text] for i in (0, 1))
        if distributed.rank() != leader or colorize is None or faults:
            return faults, warnings, []
        self.helped += float(numbers[:, 2].sum()) - sum(seconds for *_, seconds in calls)
        found: dict[int, Tensor] = {}
        for call, channels in numbers[:, :2].int().tolist():
            tiles = len(grid.calls[call])
            part, planes = planes[: tiles * channels], planes[tiles * channels :]
            found[call] = part.unflatten(0, (tiles, channels))
        return faults, warnings, [found[call] for call in range(len(grid.calls))]

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - start
