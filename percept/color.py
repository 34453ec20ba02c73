"""Between sRGB and CIE L*a*b*, in numpy; ``percept.inference.color`` does the same in torch.

BT.709 primaries and D65, with scikit-image's digits, but with the white point that the primaries
add up to: red = green = blue then gives a* = b* = 0 exactly, and every grey survives the way
there and back. From scikit-image's values that is at most 0.006 away in b*.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
#: Linear sRGB → XYZ divided by white (IEC 61966-2-1), shape (3, 3); each row adds up to 1.
FROM_RGB: Final[Array] = _XYZ / _XYZ.sum(axis=1, keepdims=True)
#: Its inverse.
TO_RGB: Final[Array] = np.linalg.inv(FROM_RGB)

_LEVELS = np.arange(256) / 255
#: Linear light of each 8-bit sRGB value, shape (256,), in [0, 1].
LINEAR: Final[Array] = np.where(
    _LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4
)

#: CIE 15's δ: below it the lightness curve is a straight line.
DELTA: Final = 6 / 29
#: How far outside [0, 1] a linear value may lie and still round to the edge: a third of a level.
TOLERANCE: Final = 1e-4
#: Halvings of the interval in which the largest chroma that sRGB can show is searched.
BISECTIONS: Final = 16


def lightness_curve(t: Array) -> Array:
    """CIE 15's f(t): the cube root, straight near black; of the dtype of ``t``."""
    curve = np.where(t > DELTA**3, np.cbrt(t), t / (3 * DELTA**2) + 4 / 29)
    return curve.astype(t.dtype, copy=False)


def srgb_to_lab(rgb: Array, *, dtype: DTypeLike = np.float64) -> Array:
    """Convert 8-bit sRGB to CIE L*a*b* (D65, 2°).

    No BLAS is involved, whose thread count could change last bits.

    Parameters
    ----------
    rgb : array of uint8, shape (..., 3)
        sRGB.
    dtype : dtype, optional
        Of the arithmetic and of the result.

    Returns
    -------
    array, shape (..., 3)
        L* in [0, 100]; a* and b* within about ±110.
    """
    table, matrix = LINEAR.astype(dtype), FROM_RGB.astype(dtype)
    red, green, blue = (table[rgb[..., channel]] for channel in range(3))
    x, y, z = (lightness_curve(r * red + g * green + b * blue) for r, g, b in matrix)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_srgb_in_gamut(lab: Array) -> NDArray[np.uint8]:
    """Convert CIE L*a*b* (D65) to 8-bit sRGB; colours outside sRGB lose chroma only.

    A colour that sRGB cannot show keeps its L* and its hue; its chroma is reduced, by bisection,
    to the most that can be shown.

    Parameters
    ----------
    lab : array of float, shape (..., 3)
        L* in [0, 100], a*, b*.

    Returns
    -------
    array of uint8, shape (..., 3)
    """
    lightness, a, b = np.moveaxis(lab, -1, 0)
    linear = _linear(lightness, a, b)
    outside = ~_shown(linear)
    if outside.any():
        lightness, a, b = lightness[outside], a[outside], b[outside]
        low, high = np.zeros_like(a), np.ones_like(a)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            fits = _shown(_linear(lightness, a * middle, b * middle))
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        linear[:, outside] = _linear(lightness, a * low, b * low)
    return np.rint(encode(np.moveaxis(linear, 0, -1)) * 255).astype(np.uint8)


def encode(linear: Array) -> Array:
    """Encode linear light as sRGB, clipped to [0, 1]; of the dtype of ``linear``."""
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return encoded.astype(linear.dtype, copy=False)


def _linear(lightness: Array, a: Array, b: Array) -> Array:
    """L*, a*, b* to linear sRGB, shape (3, ...), unbounded."""
    fy = (lightness + 16) / 116
    x, y, z = (
        np.where(f > DELTA, f**3, 3 * DELTA**2 * (f - 4 / 29)).astype(lightness.dtype, copy=False)
        for f in (fy + a / 500, fy, fy - b / 200)
    )
    matrix = TO_RGB.astype(lightness.dtype)
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix])


def _shown(linear: Array) -> NDArray[np.bool_]:
    return np.asarray(((linear >= -TOLERANCE) & (linear <= 1 + TOLERANCE)).all(axis=0))
