"""The metrics that percept computes, in the order in which they are listed everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from percept.metrics import fidelity, traits, vintage
from percept.metrics.color import Images
from percept.metrics.structure import MS_MIN_SIDE, WINDOW


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
    package: str | None = None
    """Optional package that it cannot do without: ``pip install 'percept[NAME]'``."""
    group: str = ""
    """Metrics of a group are computed only where it, or they, are asked for by name."""
    in_models: bool = False
    """Whether ``percept calibrate`` weighs it, where a run has such metrics: parts, not wholes."""
    needs: Literal["mask", "palette"] | None = None
    """What it cannot do without, beside the images."""
    version: int = 1
    """Of its definition: values of another one are computed again."""
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
        name="ms_ssim",
        compute=fidelity.ms_ssim,
        kind="full-reference",
        higher_is_better=True,
        unit="",
        range=(0.0, 1.0),
        citation="Wang, Simoncelli and Bovik 2003, doi:10.1109/ACSSC.2003.1292216",
        min_side=MS_MIN_SIDE,
    ),
    Metric(
        name="ms_ssim_ab",
        compute=fidelity.ms_ssim_ab,
        kind="full-reference",
        higher_is_better=True,
        unit="",
        range=(0.0, 1.0),
        citation="MS-SSIM of CIE a*, b*; Mullery and Whelan 2022, arXiv:2204.05200",
        min_side=MS_MIN_SIDE,
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
        name="lpips_vgg",
        compute=fidelity.lpips_vgg,
        kind="full-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, math.inf),
        citation="Zhang et al. 2018, arXiv:1801.03924",
        weights="vgg16",
        min_side=31,
    ),
    Metric(
        name="lpips_alex_deep",
        compute=fidelity.lpips_alex_deep,
        kind="full-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, math.inf),
        citation="layers of Zhang et al. 2018, arXiv:1801.03924; 95th percentile by percept",
        weights="alexnet",
        min_side=31,
    ),
    Metric(
        name="lpips_vgg_deep",
        compute=fidelity.lpips_vgg_deep,
        kind="full-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, math.inf),
        citation="layers of Zhang et al. 2018, arXiv:1801.03924; 95th percentile by percept",
        weights="vgg16",
        min_side=31,
    ),
    Metric(
        name="semantic_distance",
        compute=fidelity.semantic_distance,
        kind="full-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, 2.0),
        citation="features of VGG-16, the colour of the light discounted; defined by percept",
        weights="vgg16",
        min_side=31,
        in_models=True,
    ),
    Metric(
        name="lost_contrast",
        compute=fidelity.lost_contrast,
        kind="full-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, math.inf),
        citation="variances of features of VGG-16; defined by percept",
        weights="vgg16",
        min_side=31,
        in_models=True,
    ),
    Metric(
        name="cvvdp",
        compute=fidelity.cvvdp,
        kind="full-reference",
        higher_is_better=True,
        unit="JOD",
        range=(-math.inf, 10.0),
        citation="Mantiuk et al. 2024, ColorVideoVDP, doi:10.1145/3658144",
        package="cvvdp",
        min_side=32,
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
        name="colorfulness_abs",
        compute=vintage.colorfulness_abs,
        kind="no-reference",
        higher_is_better=True,
        unit="",
        range=(0.0, math.inf),
        citation="Kang et al. 2023 (DDColor's code), arXiv:2212.11613",
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
    Metric(
        name="luminance_ssim",
        compute=vintage.luminance_ssim,
        kind="no-reference",
        higher_is_better=True,
        unit="",
        range=(-1.0, 1.0),
        citation="Wang et al. 2004 on CIE L* against the photograph",
        min_side=WINDOW,
    ),
    Metric(
        name="grain_retention",
        compute=vintage.grain_retention,
        kind="no-reference",
        higher_is_better=True,
        unit="",
        range=(-math.inf, 1.0),
        citation="share of the photograph's grain left unchanged; defined by percept",
    ),
    Metric(
        name="chroma_bleeding",
        compute=vintage.chroma_bleeding,
        kind="no-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, 1.0),
        citation="share of colour edges away from the photograph's edges; defined by percept",
    ),
    Metric(
        name="chroma_lag",
        compute=vintage.chroma_lag,
        kind="no-reference",
        higher_is_better=False,
        unit="% of diagonal",
        range=(0.0, 7.1),
        citation="shift of the colours against the photograph; defined by percept",
    ),
    Metric(
        name="patchiness",
        compute=vintage.patchiness,
        kind="no-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, math.inf),
        citation="blotches of colour where lightness has none; defined by percept",
        version=2,
    ),
    Metric(
        name="artifact_chroma",
        compute=vintage.artifact_chroma,
        kind="no-reference",
        higher_is_better=False,
        unit="",
        range=(-math.inf, math.inf),
        citation="colour of damage against its surroundings; defined by percept",
        version=2,
        needs="mask",
    ),
    Metric(
        name="palette_distance",
        compute=vintage.palette_distance,
        kind="no-reference",
        higher_is_better=False,
        unit="a*, b*",
        range=(0.0, math.inf),
        citation="sliced Wasserstein distance, Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3",
        needs="palette",
    ),
)

_TRAITS = tuple(
    Metric(
        name=trait.__name__,
        compute=trait,
        kind="full-reference",
        higher_is_better=False,
        unit="",
        range=(0.0, math.inf),
        citation="a trait of a recolouring; defined by percept",
        group="traits",
        in_models=True,
    )
    for trait in traits.TRAITS
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_ALL, *_TRAITS)}
