"""The plan of batches, and how a photograph is scaled and padded to fit into one.

All of it is a function of the photographs' sizes and the settings alone: what a photograph is
computed with, and how it is padded, changes its colours in the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from percept.inference.colorizer import Source

# Photographs of a batch are held in memory at full resolution, together up to this many pixels.
FULL_PIXELS = 64_000_000


@dataclass(frozen=True)
class Batch:
    """Photographs of equal padded shape that one condition colours in one call.

    Attributes
    ----------
    condition : int
        Index of the condition.
    rows : tuple of int
        Indices of the manifest's rows, ascending.
    shape : tuple of int
        Padded height and width; (0, 0) where nothing is computed.
    """

    condition: int
    rows: tuple[int, ...]
    shape: tuple[int, int]


def plan_batches(
    sizes: Sequence[tuple[int, int]], sources: Sequence[Source], batch_pixels: float
) -> list[Batch]:
    """Cut the work into batches, largest first: a pure function of its arguments.

    Parameters
    ----------
    sizes : sequence of (width, height)
        Of each photograph, in manifest order.
    sources : sequence of Source
        Their ``max_side``, ``divisor`` and whether they ``colorize`` are looked at.
    batch_pixels : float
        Padded pixels that a batch may have; a photograph that has more is a batch of its own.

    Returns
    -------
    list of Batch
        Every row under every condition exactly once.
    """
    batches = []
    for index, source in enumerate(sources):
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (width, height) in enumerate(sizes):
            if source.colorize is None:
                batches.append(Batch(index, (row,), (0, 0)))
            else:
                groups.setdefault(padded_shape(width, height, source), []).append(row)
        for shape, rows in groups.items():
            first, full = 0, 0
            for position, row in enumerate(rows):
                pixels = sizes[row][0] * sizes[row][1]
                count = position - first
                if count and (
                    (count + 1) * shape[0] * shape[1] > batch_pixels or full + pixels > FULL_PIXELS
                ):
                    batches.append(Batch(index, tuple(rows[first:position]), shape))
                    first, full = position, 0
                full += pixels
            batches.append(Batch(index, tuple(rows[first:]), shape))

    def cost(batch: Batch) -> int:
        # A pixel costs about ten times as much to compute as to decode and encode.
        computed = len(batch.rows) * batch.shape[0] * batch.shape[1]
        return 10 * computed + sum(sizes[row][0] * sizes[row][1] for row in batch.rows)

    return sorted(batches, key=lambda batch: (-cost(batch), batch.condition, batch.rows))


def working_size(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """Width and height of a photograph scaled down to a largest side of ``max_side``."""
    if max_side is None or max(width, height) <= max_side:
        return width, height
    scale = max_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def padded_shape(width: int, height: int, source: Source) -> tuple[int, int]:
    """Height and width that a photograph has for a condition; depends on nothing else."""
    width, height = working_size(width, height, source.max_side)
    divisor = source.divisor
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def fit(luminance: Tensor, source: Source) -> Tensor:
    """Scale and pad a photograph's L*, shape (H, W), to what a condition's colorizer takes.

    Returns
    -------
    Tensor of float32, shape (1, 1, height, width)
        L*/100, padded at the right and the bottom by repeating the edge.
    """
    height, width = luminance.shape
    small_width, small_height = working_size(width, height, source.max_side)
    small = luminance[None, None] / 100
    if (small_height, small_width) != (height, width):
        small = torch.nn.functional.interpolate(
            small, (small_height, small_width), mode="bilinear", antialias=True
        ).clamp_(0, 1)
    bottom, right = padded_shape(width, height, source)
    padding = (0, right - small_width, 0, bottom - small_height)
    return torch.nn.functional.pad(small, padding, mode="replicate")


def unfit(values: Tensor, source: Source, width: int, height: int) -> Tensor:
    """Crop and scale a colorizer's output, shape (C, h, w), back to the photograph's size."""
    small_width, small_height = working_size(width, height, source.max_side)
    values = values[:, :small_height, :small_width].float()
    if (small_height, small_width) == (height, width):
        return values
    return torch.nn.functional.interpolate(
        values[None], (height, width), mode="bilinear", align_corners=False
    )[0]
