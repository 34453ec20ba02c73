"""From sRGB to luminance, and from luminance and chroma back to sRGB, in torch.

The conventions are those of ``percept.color``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percept.color import BISECTIONS, DELTA, FROM_RGB, LINEAR, TO_RGB, TOLERANCE, lightness_curve

# What each 8-bit value of red, green and blue adds to Y.
_TO_Y = (LINEAR[:, None] * FROM_RGB[1]).astype(np.float32)

_GREYS = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)

# From linear light to 8 bits by table, exactly: a bin of 1/4096 holds at most one of the values
# at which the level changes (they are at least 1/3295 apart), and the table says which.
_BINS = 4096
_CHANGES = (np.arange(255) + 0.5) / 255
_CHANGES = np.where(_CHANGES <= 0.04045, _CHANGES / 12.92, ((_CHANGES + 0.055) / 1.055) ** 2.4)
_CHANGES = np.append(_CHANGES, np.inf).astype(np.float32)
_LEVEL = np.searchsorted(_CHANGES, np.arange(_BINS + 1, dtype=np.float32) / _BINS, side="right")
_TABLES = torch.from_numpy(_LEVEL.astype(np.uint8)), torch.from_numpy(_CHANGES[_LEVEL])

# Pixels converted at a time: on the CPU, what is needed in between stays in its cache.
_STRIP = {"cpu": 1 << 17, "cuda": 1 << 22}


def luminance(rgb: NDArray[np.uint8]) -> Tensor:
    """Compute the lightness L* of an sRGB picture.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3), or (H, W) if all three channels are equal

    Returns
    -------
    Tensor of float32, shape (H, W)
        L* in [0, 100].
    """
    if rgb.ndim == 2:
        return luminance(_GREYS).reshape(-1)[torch.from_numpy(rgb).int()]
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
    strip = _STRIP[luminance.device.type]
    for start in range(0, height * width, strip):
        part = slice(start, start + strip)
        levels = _strip_to_srgb(flat_l[part], flat_ab[:, part]).cpu()
        for channel in range(3):  # much faster than a transposition
            picture[part, channel] = levels[channel]
    return picture.reshape(height, width, 3).numpy()


def quantize(srgb: Tensor) -> NDArray[np.uint8]:
    """Round sRGB in [0, 1], shape (3, H, W), to 8 bits, shape (H, W, 3)."""
    levels = (srgb.clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def _strip_to_srgb(luminance: Tensor, chroma: Tensor) -> Tensor:
    linear = _to_linear(luminance, chroma[0], chroma[1])
    outside = torch.nonzero(~_inside(linear)).squeeze(1)
    if outside.numel():
        lum, (a, b) = luminance[outside], chroma[:, outside]
        part = torch.zeros_like(lum)
        for halving in range(1, BISECTIONS + 1):
            more = part + 0.5**halving
            part.add_(_inside(_to_linear(lum, a * more, b * more)), alpha=0.5**halving)
        linear[:, outside] = _to_linear(lum, a * part, b * part)
    level, change = (table.to(linear.device) for table in _TABLES)
    flat = linear.clamp_(0, 1).reshape(-1)
    bins = flat.mul(_BINS).int()
    levels = level.index_select(0, bins).add_(flat >= change.index_select(0, bins))
    return levels.reshape(linear.shape)


def _to_linear(luminance: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Linear sRGB, shape (3, n), unbounded."""
    fy = (luminance + 16) / 116
    x, y, z = (_cube(f) for f in (fy + a / 500, fy, fy - b / 200))
    linear = torch.empty((3, *x.shape), dtype=x.dtype, device=x.device)
    for channel, (from_x, from_y, from_z) in zip(linear, TO_RGB.tolist(), strict=True):
        torch.mul(x, from_x, out=channel).add_(y, alpha=from_y).add_(z, alpha=from_z)
    return linear


def _cube(f: Tensor) -> Tensor:
    """Undo ``percept.color.lightness_curve``: f³ above δ, its tangent there below."""
    above = (f - DELTA).clamp_(min=0)  # f³ is its tangent plus (f - δ)²(f + 2δ); no branch
    return (f - 4 / 29).mul_(3 * DELTA**2).addcmul_(above * above, above + 3 * DELTA)


def _inside(linear: Tensor) -> Tensor:
    red, green, blue = linear
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    return (low >= -TOLERANCE) & (high <= 1 + TOLERANCE)
