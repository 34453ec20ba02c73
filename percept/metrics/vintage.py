"""No-reference metrics: for photographs whose true colours nobody knows."""

from __future__ import annotations

import math

import numpy as np

from percept.metrics.color import Images


def colorfulness(images: Images) -> float:
    """Colorfulness after Hasler and Süsstrunk.

    ``√(σ²rg + σ²yb) + 0.3 √(μ²rg + μ²yb)`` with rg = R − G, yb = (R + G)/2 − B, on sRGB in
    [0, 255], signed (some published code takes |rg| and |yb|, which reads lower). At least 0
    (grey); the authors call 15 slightly, 33 moderately, 59 quite and 109 extremely colourful.
    Higher counts as better, as in colorization papers.

    Source: Hasler and Süsstrunk 2003, doi:10.1117/12.477378.
    Known failure: it says how much colour there is, not whether it is right: oversaturation
    and colour noise raise it, and so does a sepia tone.
    """
    red, green, blue = (images.output.srgb[..., channel].astype(float) for channel in range(3))
    rg = red - green
    yb = 0.5 * (red + green) - blue
    return math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())


def luminance_fidelity(images: Images) -> float:
    """Mean absolute change of lightness against the photograph.

    Mean over pixels of ``|L*(output) − L*(source)|``. In L* units, in [0, 100], lower is better;
    0 where the photograph's tones were kept exactly.

    Source: defined here, after CIE L*.
    Known failure: near 0 by construction for colorizers that return only a* and b*, since the
    runner keeps the photograph's luminance (what is left is rounding to 8 bits). It tells apart
    colorizers that return whole images, and results made elsewhere.
    """
    return float(np.mean(np.abs(images.output.lab[..., 0] - images.source.lab[..., 0])))
