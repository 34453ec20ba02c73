"""From sRGB to luminance, and from luminance and chroma back to sRGB.

CIELAB under D65 with the BT.709 primaries, as in scikit-image, but with the white point that the
primaries add up to: red = green = blue then gives a* = b* = 0 exactly, and every grey survives the
way there and back.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Linear RGB → XYZ [IEC 61966-2-1, the digits of scikit-image], then divided by white.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_FROM_RGB = _XYZ / _XYZ.sum(axis=1, keepdims=True)
_TO_RGB = torch.from_numpy(np.linalg.inv(_FROM_RGB).astype(np.float32))

_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
# What each 8-bit value of red, green and blue adds to Y.
_TO_Y = (_LINEAR[:, None] * _FROM_RGB[1]).astype(np.float32)

_DELTA = 6 / 29
# How far outside [0, 1] a linear value may lie and still round to the edge: a third of a level.
_TOLERANCE = 1e-4
_BISECTIONS = 16
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
    f = np.where(y > _DELTA**3, np.cbrt(y), y / np.float32(3 * _DELTA**2) + np.float32(4 / 29))
    return torch.from_numpy(np.clip(116 * f - 16, 0, 100, dtype=np.float32))


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
        for _ in range(_BISECTIONS):
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
    xyz = torch.where(f > _DELTA, f**3, 3 * _DELTA**2 * (f - 4 / 29))
    return _TO_RGB.to(xyz.device) @ xyz


def _inside(linear: Tensor) -> Tensor:
    return ((linear >= -_TOLERANCE) & (linear <= 1 + _TOLERANCE)).all(dim=0)
