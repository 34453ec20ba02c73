"""Traits: what a recolouring did to the true colours, one thing each, for models of preference.

Each is at least 0, and 0 for the true colours; lower is better in so far as the true colours are.
Taken alone most predict little. They are meant to be weighed together by ``percept calibrate``,
so they come in pairs, too little and too much, which people need not mind alike. They are computed
only where asked for: ``percept metrics RUN --metric traits``.

Common failure: as all full-reference metrics they take one truth for the only one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from percept.metrics.color import Array, Images, Picture, delta_e_2000
from percept.metrics.vintage import band, edges_of, reduced

_REGIONS = 150
_PAIRS = 3000


def pale(images: Images) -> float:
    """Mean chroma too low: log ratio, 1 added to either; lower is better. Source: percept."""
    return _less(images, "chroma")


def vivid(images: Images) -> float:
    """Mean chroma too high, as :func:`pale`; lower is better. Source: percept."""
    return _more(images, "chroma")


def uniform(images: Images) -> float:
    """Spread of (a*, b*) too small, log ratio of deviations; lower is better. Source: percept."""
    return _less(images, "spread")


def varied(images: Images) -> float:
    """Spread of (a*, b*) too large, as :func:`uniform`; lower is better. Source: percept."""
    return _more(images, "spread")


def toned(images: Images) -> float:
    """Colour follows lightness more than it should, as a sepia tone does; lower is better.

    Log ratio of the shares of local variance of (a*, b*), in windows of 7 % of the diagonal, that
    a line in L* does not explain. Source: percept.
    """
    return _less(images, "unexplained")


def loose(images: Images) -> float:
    """Colour follows lightness less than it should, as :func:`toned`; lower is better.

    Source: percept.
    """
    return _more(images, "unexplained")


def few_hues(images: Images) -> float:
    """Fewer hues than there are, in nats of the entropy of 12 sectors; lower is better.

    Pixels weigh by chroma, at most 30. Source: percept.
    """
    return _less(images, "entropy")


def many_hues(images: Images) -> float:
    """More hues than there are, as :func:`few_hues`; lower is better. Source: percept."""
    return _more(images, "entropy")


def flat_areas(images: Images) -> float:
    """Large areas differ too little: log ratio of (a*, b*) in a coarse band; lower is better.

    Band of σ from 1/32 to 1/11 of the diagonal. Source: percept.
    """
    return _less(images, "areas")


def strong_areas(images: Images) -> float:
    """Large areas differ too much, as :func:`flat_areas`; lower is better. Source: percept."""
    return _more(images, "areas")


def green_cast(images: Images) -> float:
    """Mean a* too low, in units of a*; lower is better. Source: percept."""
    return _less(images, "a")


def red_cast(images: Images) -> float:
    """Mean a* too high, in units of a*; lower is better. Source: percept."""
    return _more(images, "a")


def blue_cast(images: Images) -> float:
    """Mean b* too low, in units of b*; lower is better. Source: percept."""
    return _less(images, "b")


def yellow_cast(images: Images) -> float:
    """Mean b* too high, in units of b*; lower is better. Source: percept."""
    return _more(images, "b")


def soft_edges(images: Images) -> float:
    """Colour edges too weak: log ratio of the means of ‖∇(a*, b*)‖; lower is better.

    Source: percept.
    """
    return _less(images, "edges")


def hard_edges(images: Images) -> float:
    """Colour edges too strong, as :func:`soft_edges`; lower is better. Source: percept."""
    return _more(images, "edges")


def edge_mismatch(images: Images) -> float:
    """Colour edges elsewhere: 1 less the correlation of ‖∇(a*, b*)‖; lower is better.

    In [0, 2]; 1 for a grey image. Source: percept.
    """
    output, reference = (picture.keep("chroma edges", _edges) for picture in _pair(images))
    if output.std() == 0 or reference.std() == 0:
        return float(output.std() != reference.std())
    return 1 - float(np.corrcoef(output.ravel(), reference.ravel())[0, 1])


def uneven_change(images: Images) -> float:
    """Root mean square change of (a*, b*) about its mean; lower is better. Source: percept.

    A cast of the whole picture leaves it at 0.
    """
    output, reference = (reduced(picture)[..., 1:] for picture in _pair(images))
    change = output - reference
    return math.sqrt(float(((change - change.mean(axis=(0, 1))) ** 2).sum(axis=-1).mean()))


def worst_region(images: Images) -> float:
    """Largest CIEDE2000 between mean colours of regions; lower is better. Source: percept.

    Regions: 150 superpixels (SLIC) of the true image.
    """
    return float(_region_change(images).max())


def merged_regions(images: Images) -> float:
    """Regions of different colour made alike; lower is better. Source: percept.

    Over pairs of regions more than 15 apart in (a*, b*): mean share of the distance lost.
    """
    output, reference = _distances(images)
    far = reference > 15
    lost = np.maximum(1 - output[far] / reference[far], 0)
    return float(lost.mean()) if far.any() else 0.0


def split_regions(images: Images) -> float:
    """Regions of one colour made different; lower is better. Source: percept.

    Over pairs of regions less than 4 apart in (a*, b*): mean distance beyond what it was.
    """
    output, reference = _distances(images)
    near = reference < 4
    gained = np.maximum(output[near] - reference[near], 0)
    return float(gained.mean()) if near.any() else 0.0


def disordered_regions(images: Images) -> float:
    """Regions that differ elsewhere: 1 less the correlation of distances of pairs of regions.

    In [0, 2]; 1 for a grey image; lower is better. Source: percept.
    """
    output, reference = _distances(images)
    if output.std() < 1e-9 or reference.std() < 1e-9:
        return float(abs(output.std() - reference.std()) > 1e-9)
    return 1 - float(np.corrcoef(output, reference)[0, 1])


def uncoloured_regions(images: Images) -> float:
    """Share of the picture in regions left grey that have colour; lower is better.

    Mean chroma below 4 where it is above 10. Source: percept.
    """
    output, reference, sizes = _region_chroma(images)
    return float(np.average((output < 4) & (reference > 10), weights=sizes))


def coloured_greys(images: Images) -> float:
    """Share of the picture in grey regions given colour; lower is better.

    Mean chroma above 12 where it is below 6. Source: percept.
    """
    output, reference, sizes = _region_chroma(images)
    return float(np.average((output > 12) & (reference < 6), weights=sizes))


# -- what they compare ---------------------------------------------------------------------------


def _pair(images: Images) -> tuple[Picture, Picture]:
    return images.output, images.reference


def _change(images: Images, name: str) -> float:
    compute, scale = _STATISTICS[name]
    kept = partial(compute)
    output, reference = (float(picture.keep(f"trait {name}", kept)) for picture in _pair(images))
    if scale is None:
        return output - reference
    return math.log((output + scale) / (reference + scale))


def _less(images: Images, name: str) -> float:
    return max(-_change(images, name), 0.0)


def _more(images: Images, name: str) -> float:
    return max(_change(images, name), 0.0)


def _edges(picture: Picture) -> Array:
    return edges_of(reduced(picture)[..., 1:])


def _chroma(picture: Picture) -> float:
    return float(np.linalg.norm(reduced(picture)[..., 1:], axis=-1).mean())


def _spread(picture: Picture) -> float:
    return math.sqrt(float(reduced(picture)[..., 1:].var(axis=(0, 1)).sum()))


def _unexplained(picture: Picture) -> float:
    from scipy.ndimage import uniform_filter

    lab = reduced(picture)
    width = max(5, round(0.07 * math.hypot(*lab.shape[:2])))
    mean = partial(uniform_filter, size=width)
    lightness = lab[..., 0]
    middle = mean(lightness)
    spread = mean(lightness**2) - middle**2
    left = total = 0.0
    for plane in (lab[..., 1], lab[..., 2]):
        centre = mean(plane)
        variance = mean(plane**2) - centre**2
        shared = mean(plane * lightness) - centre * middle
        left += float(np.maximum(variance - shared**2 / (spread + 4), 0).mean())
        total += float(variance.mean())
    return left / (total + 1e-6)


def _entropy(picture: Picture) -> float:
    ab = reduced(picture)[..., 1:]
    sector = np.floor((np.arctan2(ab[..., 1], ab[..., 0]) / (2 * np.pi) % 1) * 12).astype(int) % 12
    weight = np.minimum(np.linalg.norm(ab, axis=-1), 30)
    mass = np.bincount(sector.ravel(), weight.ravel(), minlength=12)
    share = mass / (mass.sum() + 1e-9)
    return float(-(share * np.log(share + 1e-9)).sum())


def _areas(picture: Picture) -> float:
    return math.sqrt(float((band(reduced(picture)[..., 1:], 1 / 32, 1 / 11) ** 2).sum(-1).mean()))


def _mean_of(plane: int, picture: Picture) -> float:
    return float(reduced(picture)[..., plane].mean())


def _edge_strength(picture: Picture) -> float:
    return float(picture.keep("chroma edges", _edges).mean())


_STATISTICS: dict[str, tuple[Callable[[Picture], float], float | None]] = {
    "chroma": (_chroma, 1.0),
    "spread": (_spread, 1.0),
    "unexplained": (_unexplained, 0.02),
    "entropy": (_entropy, None),
    "areas": (_areas, 0.3),
    "a": (partial(_mean_of, 1), None),
    "b": (partial(_mean_of, 2), None),
    "edges": (_edge_strength, 0.05),
}
"""Statistic, and what is added before the ratio's logarithm; None: the difference."""


def _regions(picture: Picture) -> tuple[Array, Array]:
    """Label the superpixels of a picture: (h, w), and their sizes."""
    from skimage.segmentation import slic

    lab = reduced(picture)
    labels = slic(
        lab, n_segments=_REGIONS, compactness=10, start_label=0, channel_axis=-1, convert2lab=False
    )
    return labels.ravel(), np.bincount(labels.ravel())


def _region_means(images: Images) -> tuple[Array, Array, Array]:
    """Mean L*, a*, b* of the regions: of output and reference (n, 3); their sizes (n,)."""

    def compute(_: Images) -> tuple[Array, Array, Array]:
        labels, sizes = images.reference.keep("regions", _regions)
        planes = [reduced(picture).reshape(-1, 3) for picture in _pair(images)]
        output, reference = (
            np.stack([np.bincount(labels, p[:, i], len(sizes)) / sizes for i in range(3)], axis=-1)
            for p in planes
        )
        return output, reference, sizes

    kept: tuple[Array, Array, Array] = images.keep("region means", compute)
    return kept


def _region_change(images: Images) -> Array:
    output, reference, _ = _region_means(images)
    same = np.concatenate([reference[:, :1], output[:, 1:]], axis=1)
    return delta_e_2000(same, reference)


def _region_chroma(images: Images) -> tuple[Array, Array, Array]:
    output, reference, sizes = _region_means(images)
    chroma = [np.linalg.norm(means[:, 1:], axis=1) for means in (output, reference)]
    return chroma[0], chroma[1], sizes


def _distances(images: Images) -> tuple[Array, Array]:
    """Distances in (a*, b*) of pairs of regions, drawn once and for all: output, reference."""

    def compute(_: Images) -> tuple[Array, Array]:
        output, reference, sizes = _region_means(images)
        pairs: Any = np.random.default_rng(0).integers(0, len(sizes), (2, _PAIRS))
        return tuple(
            np.linalg.norm(means[pairs[0], 1:] - means[pairs[1], 1:], axis=1)
            for means in (output, reference)
        )

    kept: tuple[Array, Array] = images.keep("region distances", compute)
    return kept


TRAITS: tuple[Callable[[Images], float], ...] = (
    pale,
    vivid,
    uniform,
    varied,
    toned,
    loose,
    few_hues,
    many_hues,
    flat_areas,
    strong_areas,
    green_cast,
    red_cast,
    blue_cast,
    yellow_cast,
    soft_edges,
    hard_edges,
    edge_mismatch,
    uneven_change,
    worst_region,
    merged_regions,
    split_regions,
    disordered_regions,
    uncoloured_regions,
    coloured_greys,
)
