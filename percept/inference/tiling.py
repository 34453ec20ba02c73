"""Photographs that are larger than a colorizer's view of them, tile by tile.

Colour is decided once, from a view of the whole photograph at the colorizer's own scale. Tiles at
native resolution add detail only: of each tile's output, what the view could have shown itself
(the output scaled down to the view's resolution and up again) is taken away, and what is left is
added to the view's colour. So a tile that takes the sky for water cannot change the sky, and
neighbours that disagree leave no seam. Where tiles overlap, they fade into each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from percept.inference import color
from percept.inference.colorizer import Source
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


def colorize_tiles(
    photo: NDArray[np.uint8],
    view: Tensor,
    source: Source,
    tiling: Tiling,
    colorize: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
    per_call: int = 1,
) -> Iterator[tuple[slice, Tensor]]:
    """Colour a photograph from top to bottom, holding one row of tiles at a time.

    Parameters
    ----------
    photo : ndarray of uint8, shape (H, W, 3) or (H, W)
    view : Tensor, shape (C, h, w)
        The colorizer's output for the whole photograph, as ``fit`` scaled and padded it.
    source : Source
        The condition; its ``max_side`` is the view's.
    tiling : Tiling
    colorize : callable
        From L*/100, shape (N, 1, H, W), to chroma or sRGB, shape (N, C, H, W).
    device : torch.device
        Where ``colorize`` wants its input.
    per_call : int
        Tiles for each call.

    Yields
    ------
    band : slice
        Rows of the photograph.
    values : Tensor of float32, shape (C, rows, W)
        Chroma or sRGB of these rows.
    """
    height, width = photo.shape[:2]
    scale = max(width, height) / max(working_size(width, height, source.max_side))
    overlap = tiling.overlap
    # Tiles have the size that the network takes; only a photograph smaller than one is padded.
    side = -(-tiling.tile // source.divisor) * source.divisor
    tile_height, tile_width = (
        min(side, -(-length // source.divisor) * source.divisor) for length in (height, width)
    )
    tops, lefts = (
        tile_starts(length, tile, overlap)
        for length, tile in ((height, tile_height), (width, tile_width))
    )
    down = tile_weights(tops, tile_height, overlap, height).to(device)
    across = tile_weights(lefts, tile_width, overlap, width).to(device)
    padded = max(width, tile_width)
    rows = torch.zeros(view.shape[0], tile_height, padded, device=device)  # from ``first`` on
    first = 0
    for index, top in enumerate(tops):
        luminance = color.luminance(photo[top : top + tile_height]).div_(100)
        padding = (0, padded - width, 0, tile_height - len(luminance))
        luminance = functional.pad(luminance[None, None], padding, mode="replicate")
        for start in range(0, len(lefts), per_call):
            chosen = range(start, min(start + per_call, len(lefts)))
            tiles = [luminance[..., lefts[i] : lefts[i] + tile_width] for i in chosen]
            output = detail(colorize(torch.cat(tiles).to(device)).float(), scale)
            for i, tile in zip(chosen, output, strict=True):
                part = rows[..., lefts[i] : lefts[i] + tile_width]
                part += tile * across[i] * down[index][:, None]
        last = index + 1 == len(tops)
        done = (height if last else tops[index + 1]) - first
        band = slice(first, first + done)
        yield band, unfit(view, source, width, height, band) + rows[:, :done, :width]
        rows = functional.pad(rows[:, done:], (0, 0, 0, done if not last else 0))
        first += done
