"""Photographs that are larger than a colorizer's view of them, tile by tile.

Colour is decided once, from a view of the whole photograph at the colorizer's own scale. Tiles at
native resolution add detail only: of each tile's output, what the view could have shown itself
(the output scaled down to the view's resolution and up again) is taken away, and what is left is
added to the view's colour. So a tile that takes the sky for water cannot change the sky, and
neighbours that disagree leave no seam. Where tiles overlap, they fade into each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from percept.inference import color
from percept.inference.colorizer import Fault, Source
from percept.inference.plan import Tiling, unfit, working_size


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Place tiles along one side: evenly, the first at 0 and the last at the end.

    Returns
    -------
    list of int
        First pixel of each tile; neighbours share at least ``overlap`` pixels.
    """
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_weights(starts: list[int], tile: int, overlap: int, length: int) -> Tensor:
    """Weigh each tile's pixels along one side; over the tiles, the weights of a pixel add up to 1.

    Returns
    -------
    Tensor of float32, shape (tiles, tile)
        Rising and falling like a squared sine over ``overlap`` pixels where a neighbour is.
    """
    weights = torch.ones(len(starts), tile, dtype=torch.float64)
    if len(starts) == 1:
        return weights.float()
    ramp = torch.sin((torch.arange(overlap, dtype=torch.float64) + 0.5) * (torch.pi / 2 / overlap))
    weights[1:, :overlap] *= ramp**2
    weights[:-1, tile - overlap :] *= ramp.flip(0) ** 2
    total = torch.zeros(max(length, tile), dtype=torch.float64)
    for start, part in zip(starts, weights, strict=True):
        total[start : start + tile] += part
    for start, part in zip(starts, weights, strict=True):
        part /= total[start : start + tile]
    return weights.float()


def detail(values: Tensor, scale: float) -> Tensor:
    """Take away what would survive scaling down by ``scale`` and up again.

    Parameters
    ----------
    values : Tensor of float32, shape (N, C, H, W)
    scale : float
        Pixels of the photograph for one of the view, at least 1.
    """
    height, width = values.shape[2:]
    small = (max(1, round(height / scale)), max(1, round(width / scale)))
    coarse = functional.interpolate(values, small, mode="bilinear", antialias=True)
    return values - functional.interpolate(coarse, (height, width), mode="bilinear")


@dataclass(frozen=True)
class Grid:
    """Where a photograph's tiles lie, and which of them are coloured in one call.

    Attributes
    ----------
    height, width : int
        Of the photograph.
    tile_height, tile_width : int
        Tiles have the size that the colorizer takes; only a photograph smaller than one is padded.
    tops, lefts : list of int
        First row, and first column, of each tile.
    overlap : int
    scale : float
        Pixels of the photograph for one of the view.
    calls : list of range
        For every row of tiles, alike: the tiles of each call.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    tops: list[int]
    lefts: list[int]
    overlap: int
    scale: float
    calls: list[range]

    @classmethod
    def lay(
        cls, height: int, width: int, source: Source, tiling: Tiling, batch_pixels: float
    ) -> Grid:
        """Lay tiles on a photograph; ``source`` is the condition with its view's ``max_side``."""
        side = -(-tiling.tile // source.divisor) * source.divisor
        tile_height, tile_width = (
            min(side, -(-length // source.divisor) * source.divisor) for length in (height, width)
        )
        lefts = tile_starts(width, tile_width, tiling.overlap)
        per_call = max(1, int(batch_pixels // side**2))
        return cls(
            height,
            width,
            tile_height,
            tile_width,
            tile_starts(height, tile_height, tiling.overlap),
            lefts,
            tiling.overlap,
            max(width, height) / max(working_size(width, height, source.max_side)),
            [
                range(start, min(start + per_call, len(lefts)))
                for start in range(0, len(lefts), per_call)
            ],
        )

    @property
    def padded_width(self) -> int:
        """Width of a row of tiles."""
        return max(self.width, self.tile_width)

    def luminance(self, photo: NDArray[np.uint8], index: int) -> Tensor:
        """L*/100 under a row of tiles, shape (1, 1, tile height, padded width), on the CPU."""
        top = self.tops[index]
        luminance = color.luminance(photo[top : top + self.tile_height]).div_(100)
        padding = (0, self.padded_width - self.width, 0, self.tile_height - len(luminance))
        return functional.pad(luminance[None, None], padding, mode="replicate")

    def details(self, luminance: Tensor, call: int, colorize: Callable[[Tensor], Tensor]) -> Tensor:
        """Colour the tiles of one call and keep their detail, shape (tiles, C, height, width)."""
        tiles = [
            luminance[..., self.lefts[i] : self.lefts[i] + self.tile_width]
            for i in self.calls[call]
        ]
        return detail(colorize(torch.cat(tiles)).float(), self.scale)


# From the luminance under each row of tiles: for each row, the calls' details, in order.
Details = Callable[[Grid, Iterator[Tensor]], Iterator[Iterable[Tensor]]]


def colorize_tiles(
    photo: NDArray[np.uint8], view: Tensor, source: Source, grid: Grid, details: Details
) -> Iterator[tuple[slice, Tensor]]:
    """Colour a photograph from top to bottom, holding one row of tiles at a time.

    Parameters
    ----------
    photo : ndarray of uint8, shape (H, W, 3) or (H, W)
    view : Tensor, shape (C, h, w)
        The colorizer's output for the whole photograph, as ``fit`` scaled and padded it.
    source : Source
        The condition; its ``max_side`` is the view's.
    grid : Grid
        The tiles.
    details : callable
        What colours them.

    Yields
    ------
    band : slice
        Rows of the photograph.
    values : Tensor of float32, shape (C, rows, W)
        Chroma or sRGB of these rows.

    Raises
    ------
    Fault
        If the tiles have not as many channels as the view.
    """
    height, width, tops = grid.height, grid.width, grid.tops
    down = tile_weights(tops, grid.tile_height, grid.overlap, height).to(view.device)
    across = tile_weights(grid.lefts, grid.tile_width, grid.overlap, width).to(view.device)
    channels = view.shape[0]
    rows = view.new_zeros(
        (channels, grid.tile_height, grid.padded_width), dtype=torch.float32
    )  # of the photograph, from ``first`` on
    first = 0
    luminances = (grid.luminance(photo, index) for index in range(len(tops)))
    for index, outputs in enumerate(details(grid, luminances)):
        for call, output in zip(grid.calls, outputs, strict=True):
            if output.shape[1] != channels:
                raise Fault(
                    f"it returned {channels} channels for the whole and {output.shape[1]} for a "
                    "tile"
                )
            for i, tile in zip(call, output.to(rows.device), strict=True):
                part = rows[..., grid.lefts[i] : grid.lefts[i] + grid.tile_width]
                part += tile * across[i] * down[index][:, None]
        last = index + 1 == len(tops)
        done = (height if last else tops[index + 1]) - first
        band = slice(first, first + done)
        yield band, unfit(view, source, width, height, band) + rows[:, :done, :width]
        rows = functional.pad(rows[:, done:], (0, 0, 0, done if not last else 0))
        first += done
