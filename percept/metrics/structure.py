"""Structural similarity on one scale and on several, for any planes of an image.

One window and one set of constants serve every variant, so that their values differ by what is
compared alone: Gaussian, σ = 1.5 on 11×11 pixels, K1 = 0.01, K2 = 0.03, biased covariances, and
only windows that lie inside the image.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from percept.metrics.color import Array

if TYPE_CHECKING:
    from torch import Tensor

#: Side of the window; no image may be smaller.
WINDOW: Final = 11
#: Exponents of the five scales, the finest first (Wang, Simoncelli and Bovik 2003).
SCALE_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Smallest side on which the coarsest scale still holds a window.
MS_MIN_SIDE: Final = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)

_BLOCK = 16


def ssim(output: Array, reference: Array, data_range: float) -> float:
    """Mean structural similarity of planes.

    Parameters
    ----------
    output, reference : array of float, shape (H, W) or (H, W, C)
        Each plane is compared alone.
    data_range : float
        Span of the values, in their unit.

    Returns
    -------
    float
        Mean over planes and windows, in [-1, 1].
    """
    planes = zip(_planes(output), _planes(reference), strict=True)
    return float(np.mean([_similarity(x, y, data_range)[0] for x, y in planes]))


def ms_ssim(output: Array, reference: Array, data_range: float) -> float:
    """Multi-scale structural similarity of planes, as :func:`ssim`, in [0, 1].

    Each scale halves the one before by the mean of 2×2 pixels (an odd last row or column is
    left out). The product is taken in each plane alone; a scale that is negative counts as 0.
    """
    from torch.nn.functional import avg_pool2d

    values = []
    for x, y in zip(_planes(output), _planes(reference), strict=True):
        value = 1.0
        for scale, weight in enumerate(SCALE_WEIGHTS):
            whole, contrast = _similarity(x, y, data_range)
            last = scale == len(SCALE_WEIGHTS) - 1
            value *= max(whole if last else contrast, 0.0) ** weight
            if not last:
                x, y = (avg_pool2d(plane[None, None], 2)[0, 0] for plane in (x, y))
        values.append(value)
    return float(np.mean(values))


def _planes(image: Array) -> list[Tensor]:
    import torch

    image = image.reshape(*image.shape[:2], -1)
    image = np.ascontiguousarray(np.moveaxis(image, -1, 0), dtype=np.float64)
    return list(torch.from_numpy(image))


def _similarity(x: Tensor, y: Tensor, data_range: float) -> tuple[float, float]:
    """Mean over windows of luminance × contrast × structure, and of the latter two alone."""
    import torch

    mean_x, mean_y, squares, product = _window_means(torch.stack([x, y, x * x + y * y, x * y]))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    of_means, of_squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    contrast = (2 * (product - of_means) + c2) / (squares - of_squares + c2)
    luminance = (2 * of_means + c1) / (of_squares + c1)
    return float((luminance * contrast).mean()), float(contrast.mean())


def _window_means(maps: Tensor) -> Tensor:
    """Gaussian means (n, H - 10, W - 10) of maps (n, H, W).

    Along either axis the products of blocks with a band matrix, by BLAS: half the time of
    ``scipy.ndimage``.
    """
    import torch

    band = _band()
    n, height, width = maps.shape
    height, width = height - WINDOW + 1, width - WINDOW + 1
    rows = torch.empty(n, height, maps.shape[2], dtype=maps.dtype)
    for start in range(0, height, _BLOCK):
        size = min(_BLOCK, height - start)
        own = band[: size + WINDOW - 1, :size]
        rows[:, start : start + size] = own.T @ maps[:, start : start + size + WINDOW - 1]
    flat = rows.view(n * height, -1)
    means = torch.empty(n * height, width, dtype=maps.dtype)
    for start in range(0, width, _BLOCK):
        size = min(_BLOCK, width - start)
        own = band[: size + WINDOW - 1, :size]
        means[:, start : start + size] = flat[:, start : start + size + WINDOW - 1] @ own
    return means.view(n, height, width)


@lru_cache
def _band() -> Tensor:
    """Matrix (block + 10, block) whose columns are the window, each one row further down."""
    import torch

    window = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * 1.5**2))
    band = torch.zeros(_BLOCK + WINDOW - 1, _BLOCK, dtype=torch.float64)
    for column in range(_BLOCK):
        band[column : column + WINDOW, column] = torch.from_numpy(window / window.sum())
    return band
