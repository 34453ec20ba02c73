"""From sRGB to luminance, and from luminance and chroma back to sRGB, in torch.

The conventions are those of ``percept.color``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percept.color import BISECTIONS, DELTA, FROM_RGB, LINEAR, TO_RGB, TOLERANCE, lightness_curve

_TO_RGB = torch.from_numpy(TO_RGB.astype(np.float32))
# What each 8-bit value of red, green and blue adds to Y.
_TO_Y = (LINEAR[:, None] * FROM_RGB[1]).astype(np.float32)

# Conversions go strip by strip, so that a large photograph needs little more than itself.
_STRIP = 1 << 18


def luminance(rgb: NDArray[np.uint8]) -> Tensor:
    """Compute the lightness L* of an sRGB picture.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)

    Returns
    -------
    Tensor of float32, shape (H, W)
        L* in [0, 100].
    """
    y = np.take(_TO_Y[:, 0], rgb[..., 0])
    y += np.take(_TO_Y[:, 1], rgb[..., 1])
    y += np.take(_TO_Y[:, 2], rgb[..., 2])
    return torch.from_numpy(np.clip(116 * lightness_curve(y) - 16, 0, 100, dtype=np.float32))


def to_srgb(luminance: Tensor, chroma: Tensor) -> NDArray[np.uint8]:
    """Convert L*, a*, b* to 8-bit sRGB, bringing colours outside sRGB in.

    A colour that sRGB cannot show keeps its L* and its hue; its chroma is reduced, by bisection,
    to the most that can be shown.

    Parameters
    ----------
    luminance : Tensor, shape (H, W)
        L* in [0, 100].
    chroma : Tensor, shape (2, H, W)
        a* and b*, finite.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
    """
    height, width = luminance.shape
    flat_l, flat_ab = luminance.reshape(-1), chroma.reshape(2, -1)
    picture = torch.empty((height * width, 3), dtype=torch.uint8)
    for start in range(0, height * width, _STRIP):
        part = slice(start, start + _STRIP)
        picture[part] = _strip_to_srgb(flat_l[part], flat_ab[:, part]).T.cpu()
    return picture.reshape(height, width, 3).numpy()


def quantize(srgb: Tensor) -> NDArray[np.uint8]:
    """Round sRGB in [0, 1], shape (3, H, W), to 8 bits, shape (H, W, 3)."""
    levels = (srgb.clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def _strip_to_srgb(luminance: Tensor, chroma: Tensor) -> Tensor:
    linear = _to_linear(luminance, chroma)
    outside = torch.nonzero(~_inside(linear)).squeeze(1)
    if outside.numel():
        lum, ab = luminance[outside], chroma[:, outside]
        low, high = torch.zeros_like(lum), torch.ones_like(lum)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            fits = _inside(_to_linear(lum, ab * middle))
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        linear[:, outside] = _to_linear(lum, ab * low)
    linear.clamp_(0, 1)
    srgb = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (srgb * 255).round_().to(torch.uint8)


def _to_linear(luminance: Tensor, chroma: Tensor) -> Tensor:
    fy = (luminance + 16) / 116
    f = torch.stack([fy + chroma[0] / 500, fy, fy - chroma[1] / 200])
    xyz = torch.where(f > DELTA, f**3, 3 * DELTA**2 * (f - 4 / 29))
    return _TO_RGB.to(xyz.device) @ xyz


def _inside(linear: Tensor) -> Tensor:
    return ((linear >= -TOLERANCE) & (linear <= 1 + TOLERANCE)).all(dim=0)
