"""The metrics that percept computes, in the order in which they are listed everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from percept.metrics import fidelity, vintage
from percept.metrics.color import Images


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: the function, and what a reader of its numbers must know."""

    name: str
    compute: Callable[[Images], float]
    kind: Literal["full-reference", "no-reference"]
    """Whether it compares with the true colour image."""
    higher_is_better: bool
    unit: str
    """"" for a pure number."""
    range: tuple[float, float]
    citation: str
    weights: str | None = None
    """Name of the network weights that it cannot do without."""
    min_side: int = 1
    """Smallest height and width in pixels on which it is defined."""


_ALL = (
    Metric(
        name="psnr",
        compute=fidelity.psnr,
        kind="full-reference",
        higher_is_better=True,
        unit="dB",
        range=(0.0, math.inf),
        citation="Huynh-Thu and Ghanbari 2008, doi:10.1049/el:20080522",
    ),
    Metric(
        name="psnr_ab",
        compute=fidelity.psnr_ab,
        kind="full-reference",
        higher_is_better=True,
        unit="dB",
        range=(0.0, math.inf),
        citation="PSNR of CIE a*, b* together, data range 255",
    ),
    Metric(
        name="ssim",
        compute=fidelity.ssim,
        kind="full-reference",
        higher_is_better=True,
        unit="",
        range=(-1.0, 1.0),
        citation="Wang et al. 2004, doi:10.1109/TIP.2003.819861",
        min_side=11,
    ),
    Metric(
        name="ciede2000",
        compute=fidelity.ciede2000,
        kind="full-reference",
        higher_is_better=False,
        unit="ΔE00",
        range=(0.0, math.inf),
        citation="Sharma, Wu and Dalal 2005, doi:10.1002/col.20070",
    ),
    Metric(
        name="ciede2000_p95",
        compute=fidelity.ciede2000_p95,
        kind="full-reference",
        higher_is_better=False,
        unit="ΔE00",
        range=(0.0, math.inf),
        citation="Sharma, Wu and Dalal 2005, doi:10.1002/col.20070",
    ),
    Metric(
        name="lpips_alex",
        compute=fidelity.lpips_alex,
        kind="full-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, math.inf),
        citation="Zhang et al. 2018, arXiv:1801.03924",
        weights="alexnet",
        min_side=31,
    ),
    Metric(
        name="colorfulness",
        compute=vintage.colorfulness,
        kind="no-reference",
        higher_is_better=True,
        unit="",
        range=(0.0, math.inf),
        citation="Hasler and Süsstrunk 2003, doi:10.1117/12.477378",
    ),
    Metric(
        name="luminance_fidelity",
        compute=vintage.luminance_fidelity,
        kind="no-reference",
        higher_is_better=False,
        unit="L*",
        range=(0.0, 100.0),
        citation="mean |ΔL*| to the photograph; defined by percept",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
