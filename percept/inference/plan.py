"""The plan of batches, and how a photograph is scaled and padded to fit into one.

All of it is a function of the photographs' sizes and the settings alone: what a photograph is
computed with, and how it is padded, changes its colours in the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percept.errors import InputError
from percept.inference import color
from percept.inference.colorizer import Source
from percept.inference.images import bands

# Photographs of a batch are held in memory at full resolution, together up to this many pixels.
FULL_PIXELS = 64_000_000


@dataclass(frozen=True)
class Tiling:
    """How photographs that are larger than a colorizer's view of them are cut into tiles.

    Attributes
    ----------
    tile : int
        Side of a tile, in pixels of the photograph.
    overlap : int
        Pixels that neighbours share at least; over them one fades into the other.

    Raises
    ------
    InputError
        If the sizes are impossible.
    """

    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if self.tile < 16:
            raise InputError("a tile has at least 16 pixels", key="tile", value=self.tile)
        if not 0 < self.overlap <= self.tile // 2:
            raise InputError(
                "must be at least 1 and at most half a tile", key="overlap", value=self.overlap
            )

    def view(self, source: Source) -> Source:
        """Return the condition with the size at which it sees a whole photograph."""
        return replace(source, max_side=source.max_side or self.tile)

    def applies(self, width: int, height: int, source: Source) -> bool:
        """Whether a photograph is larger than the view of it."""
        if source.colorize is None or source.flat:
            return False
        return max(width, height) > (source.max_side or self.tile)


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
    tiled : bool
        Whether it is one photograph that is cut into tiles.
    """

    condition: int
    rows: tuple[int, ...]
    shape: tuple[int, int]
    tiled: bool = False


@dataclass(frozen=True)
class Portion:
    """Photographs that one process decodes, once for all the batches that it draws with them.

    Attributes
    ----------
    rows : tuple of int
        Indices of the manifest's rows, ascending.
    batches : tuple of Batch
        By condition, then rows; each has some of these rows, or all.
    """

    rows: tuple[int, ...]
    batches: tuple[Batch, ...]

    @property
    def tiled(self) -> bool:
        """Whether it has a photograph that is cut into tiles."""
        return any(batch.tiled for batch in self.batches)


def plan_batches(
    sizes: Sequence[tuple[int, int]],
    sources: Sequence[Source],
    batch_pixels: float,
    tiling: Tiling | None = None,
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
    tiling : Tiling, optional
        A photograph that it applies to is a batch of its own, too.

    Returns
    -------
    list of Batch
        Every row under every condition exactly once.
    """
    batches = []
    for index, source in enumerate(sources):
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (width, height) in enumerate(sizes):
            if source.colorize is None or source.flat:
                batches.append(Batch(index, (row,), (0, 0)))
            elif tiling is not None and tiling.applies(width, height, source):
                shape = padded_shape(width, height, tiling.view(source))
                batches.append(Batch(index, (row,), shape, tiled=True))
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

    return sorted(batches, key=lambda b: (-_cost(b, sizes), b.condition, b.rows))


def share_decoding(batches: Sequence[Batch], sizes: Sequence[tuple[int, int]]) -> list[Portion]:
    """Put batches together whose photographs can be decoded once, largest portion first.

    A batch joins another that has all of its rows. So a photograph is decoded once for all
    conditions, unless conditions of different scales put it into batches that cross each other;
    and no portion has more photographs than its largest batch.
    """
    portions: list[list[Batch]] = []
    homes: dict[int, set[int]] = {}  # of a row: the portions that have it
    for batch in sorted(batches, key=lambda b: -len(b.rows)):
        fitting = set.intersection(*(homes.get(row, set()) for row in batch.rows))
        if fitting:
            portions[min(fitting)].append(batch)
            continue
        for row in batch.rows:
            homes.setdefault(row, set()).add(len(portions))
        portions.append([batch])
    shared = [
        Portion(group[0].rows, tuple(sorted(group, key=lambda b: (b.condition, b.rows))))
        for group in portions
    ]
    return sorted(shared, key=lambda p: (-sum(_cost(b, sizes) for b in p.batches), p.rows))


def _cost(batch: Batch, sizes: Sequence[tuple[int, int]]) -> int:
    # A pixel costs about ten times as much to compute as to decode and encode.
    computed = len(batch.rows) * batch.shape[0] * batch.shape[1]
    full = sum(sizes[row][0] * sizes[row][1] for row in batch.rows)
    return 10 * (computed + (full if batch.tiled else 0)) + full


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


def fit(photo: NDArray[np.uint8], source: Source) -> Tensor:
    """Scale and pad a photograph's L* to what a condition's colorizer takes.

    Parameters
    ----------
    photo : ndarray of uint8, shape (H, W, 3) or (H, W)

    Returns
    -------
    Tensor of float32, shape (1, 1, height, width)
        L*/100, padded at the right and the bottom by repeating the edge.
    """
    height, width = photo.shape[:2]
    small_width, small_height = working_size(width, height, source.max_side)
    strips = []
    for band in bands(height, width):  # across first, so that all of L* never exists at once
        strips.append(_resize(color.luminance(photo[band])[None], (None, small_width)))
    small = _resize(torch.cat(strips, dim=1), (small_height, None)).div_(100).clamp_(0, 1)
    bottom, right = padded_shape(width, height, source)
    padding = (0, right - small_width, 0, bottom - small_height)
    return torch.nn.functional.pad(small[None], padding, mode="replicate")


def unfit(values: Tensor, source: Source, width: int, height: int, band: slice) -> Tensor:
    """Crop and scale a colorizer's output, shape (C, h, w), to rows of the photograph's size.

    Returns
    -------
    Tensor of float32, shape (C, rows of the band, width)
    """
    small_width, small_height = working_size(width, height, source.max_side)
    values = values[:, :small_height, :small_width]
    if small_height == height:
        rows = values[:, band].float()
    else:
        at = torch.arange(band.start, band.stop, device=values.device, dtype=torch.float64)
        at = ((at + 0.5) * (small_height / height) - 0.5).clamp_(0, small_height - 1)
        above = at.long()
        share = (at - above).float()[:, None]
        below = (above + 1).clamp_(max=small_height - 1)
        rows = torch.lerp(values[:, above].float(), values[:, below].float(), share)
    return _resize(rows, (None, width))


def _resize(values: Tensor, size: tuple[int | None, int | None]) -> Tensor:
    """Scale (C, H, W) linearly in one direction, averaging where it becomes smaller."""
    height, width = (new or old for new, old in zip(size, values.shape[1:], strict=True))
    if (height, width) == tuple(values.shape[1:]):
        return values
    return torch.nn.functional.interpolate(
        values[None],
        (height, width),
        mode="bilinear",
        antialias=height < values.shape[1] or width < values.shape[2],
    )[0]
