"""No-reference metrics: for photographs whose true colours nobody knows.

Each claims to measure one fault and to overlook the others; ``docs/metrics.md`` shows how far
that is so. What a metric cannot say of an image (where no colour bleeds, say, because there is
none) it answers with NaN, and the image has no such value.

Sizes are fractions of the picture's diagonal, so that a scan and its thumbnail read alike.
"""

from __future__ import annotations

import math

import numpy as np

from percept.metrics import structure
from percept.metrics.color import Array, Images, Picture

#: Mean chroma below which an image counts as grey: rounding to 8 bits leaves up to 0.3.
GREY = 0.5
#: Pixels of the longer side to which large images are reduced before edges are looked for.
_SIDE = 768


def colorfulness(images: Images) -> float:
    """Colorfulness after Hasler and Süsstrunk.

    ``√(σ²rg + σ²yb) + 0.3 √(μ²rg + μ²yb)`` with rg = R − G, yb = (R + G)/2 − B, on sRGB in
    [0, 255], signed (:func:`colorfulness_abs` is the other variant). At least 0
    (grey); the authors call 15 slightly, 33 moderately, 59 quite and 109 extremely colourful.
    Higher counts as better, as in colorization papers.

    Source: Hasler and Süsstrunk 2003, doi:10.1117/12.477378.
    Known failure: it says how much colour there is, not whether it is right: oversaturation
    and colour noise raise it, and so does a sepia tone. Hues of equal chroma do not count alike.
    """
    return _colorfulness(*_opponents(images.output))


def colorfulness_abs(images: Images) -> float:
    """Colorfulness with |rg| and |yb|, as the code of DDColor and others has it.

    As :func:`colorfulness`, absolute values taken before means and deviations: it reads lower,
    0.885 times on average over HECD. At least 0, higher counts as better; for comparison with
    papers that used that code.

    Source: the published code of Kang et al. 2023 (DDColor), arXiv:2212.11613.
    Known failure: complementary colours of equal strength cancel: half red and half green has
    no deviation at all.
    """
    rg, yb = _opponents(images.output)
    return _colorfulness(np.abs(rg), np.abs(yb))


def _opponents(picture: Picture) -> tuple[Array, Array]:
    red, green, blue = (picture.srgb[..., channel].astype(float) for channel in range(3))
    return red - green, 0.5 * (red + green) - blue


def _colorfulness(rg: Array, yb: Array) -> float:
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


def luminance_ssim(images: Images) -> float:
    """Structural similarity of lightness to the photograph.

    SSIM (:func:`percept.metrics.fidelity.ssim`) of L* in [0, 100] of output and source. At most
    1 (the structure is kept), higher is better.

    Source: Wang et al. 2004 on CIE L*; defined here.
    Known failure: near 1 by construction for colorizers that return only a* and b*, as
    :func:`luminance_fidelity`. It does not tell restoring (scratches removed) from damaging.
    """
    return structure.ssim(images.output.lab[..., :1], images.source.lab[..., :1], 100.0)


def grain_retention(images: Images) -> float:
    """Share of the photograph's grain that is left unchanged.

    ``1 − Σ(hₒ − hₛ)² / Σ hₛ²`` with h = L* less its Gaussian mean (σ = 1 pixel), of output and
    source, over the half of the pixels where the source's gradient is smallest: there fine detail
    is grain, not drawing. 1 where all is kept, 0 where it is smoothed away, negative where other
    noise took its place; higher is better. Not defined where the source has no such detail.

    Source: defined here.
    Known failure: 1 by construction for colorizers that return only a* and b*. JPEG blocks and
    paper texture count as grain.
    """
    from scipy.ndimage import gaussian_filter

    output, source = images.output.lab[..., 0], images.source.lab[..., 0]
    detail = source - gaussian_filter(source, 1.0)
    gradient = images.source.keep("gradient", _gradient_at_pixels)
    calm = gradient <= np.median(gradient)
    energy = float(np.sum(detail[calm] ** 2))
    if energy < 1e-4 * calm.sum():  # below what rounding to 8 bits leaves
        return math.nan
    change = output - source
    change = change - gaussian_filter(change, 1.0)
    return 1.0 - float(np.sum(change[calm] ** 2)) / energy


def _gradient_at_pixels(picture: Picture) -> Array:
    from scipy.ndimage import gaussian_gradient_magnitude

    return np.asarray(gaussian_gradient_magnitude(picture.lab[..., 0], 2.0))


def chroma_bleeding(images: Images) -> float:
    """Share of colour edges that lie away from the photograph's edges.

    ``Σ ‖∇(a*, b*)‖`` outside a mask over the sum of all, with Gaussian derivatives (σ = 1/400 of
    the diagonal). The mask holds the fifth of the pixels where ``‖∇L*‖`` of the source is
    largest, dilated by σ. In [0, 1], lower is better; true colours reach some 0.3 to 0.5 too, so
    compare within a photograph. Not defined for a grey image.

    Source: defined here. It does not depend on saturation or hue.
    Known failure: true colour edges of equal lightness count, and so does colour noise.
    """
    edges = images.output.keep("edges", _edges)
    if edges is None:
        return math.nan
    outside = ~images.source.keep("drawing", _drawing)
    return float(edges[outside].sum() / edges.sum())


def chroma_lag(images: Images) -> float:
    """How far the colours are shifted against the photograph.

    Length of the shift, at most 5 % of the diagonal each way, that best lays the colour edges
    ``‖∇(a*, b*)‖`` of the output over the edges ``‖∇L*‖`` of the source (peak of their
    cross-correlation, between pixels by parabolas). In percent of the diagonal, at least 0, lower
    is better. Not defined for a grey image.

    Source: defined here.
    Known failure: it sees one shift of the whole picture, not one of a single object; a shift
    beyond its reach is read as some smaller one; where few edges of colour and lightness coincide,
    it may find another pair of edges.
    """
    edges = images.output.keep("edges", _edges)
    if edges is None:
        return math.nan
    drawing = images.source.keep("gradient of drawing", _luminance_edges)
    return 100 * _lag(drawing, edges) / math.hypot(*edges.shape)


def patchiness(images: Images) -> float:
    """Blotches of colour where the photograph has none.

    Root mean square of the middle band of (a*, b*) (difference of Gaussians, σ of 1/150 and
    1/40 of the diagonal), weighted by ``exp(−(d/2)²)`` with d the root of the locally averaged
    square of the same band of the source's L*: where lightness has blobs of this size, colour may
    have them too. Over the root mean square of (a*, b*) about their mean, of the whole picture.
    At least 0, lower is better. Not defined for a grey image.

    Source: defined here. It does not depend on saturation or hue.
    Known failure: true patterns of equal lightness (a flower bed in flat light) count.
    """
    output = images.output.keep("small", _small)
    if output is None:
        return math.nan
    weight = images.source.keep("calm", _calm)
    blobs = band(output[..., 1:])
    centred = output[..., 1:] - np.average(output[..., 1:], axis=(0, 1))
    energy = np.sum(weight[..., None] * blobs**2) / max(float(weight.sum()), 1e-12)
    spread = np.sum(centred**2) / weight.size
    return math.sqrt(energy / spread) if spread > 0 else 0.0


def artifact_chroma(images: Images) -> float:
    """Colour that damage took on: how far it stands out from its surroundings.

    For each pixel the distance of (a*, b*) from the Gaussian mean (σ = 1/100 of the diagonal)
    of the undamaged pixels around it; the mean inside the mask less the mean in a rim of
    2σ around it, over the mean chroma of all undamaged pixels. Lower is better; about 0 where the
    colorizer saw through scratches, dust and stains, 1 where these stand out by as much colour as
    the picture has. The mask is the manifest's ``mask_path`` or, for scans without one, what
    observers drew (``percept metrics --marks``). Not defined without undamaged surroundings, or
    where these are grey.

    Source: defined here. It does not depend on saturation or hue.
    Known failure: it takes a mask for damage as it is: a mask that follows an object measures
    the object's colour. As it is relative, damage of the same colour counts for more in a paler
    picture.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter

    mask, ab = images.mask, images.output.lab[..., 1:]
    sigma = math.hypot(*mask.shape) / 100
    sound = (~mask).astype(float)
    near = gaussian_filter(sound, sigma)
    rim = binary_dilation(mask, iterations=max(1, round(2 * sigma))) & ~mask
    inside = mask & (near > 0.01)
    if not inside.any() or not rim.any():
        return math.nan
    chroma = float(np.hypot(ab[..., 0], ab[..., 1])[~mask].mean())
    if chroma < GREY:
        return math.nan
    around = np.stack(
        [gaussian_filter(ab[..., i] * sound, sigma) / np.maximum(near, 1e-6) for i in (0, 1)], -1
    )
    distance = np.linalg.norm(ab - around, axis=-1)
    return float(distance[inside].mean() - distance[rim].mean()) / chroma


def palette_distance(images: Images) -> float:
    """Distance of the colours from those of reference photographs of the era or process.

    Sliced Wasserstein distance of the distributions of (a*, b*): the mean over 16 directions of
    the mean distance by which one has to be moved to become the other. In units of a* and b*, at
    least 0, lower is better. Palettes are made by ``percept palette``.

    Source: defined here, after Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3.
    Known failure: a palette is of many photographs; a faithful picture of a single red coat lies
    far from it. Compare within a photograph.
    """
    return images.palette.distance(images.output.lab[..., 1:])


# -- edges and bands, on pictures of a size that serves the eye ----------------------------------


def _small(picture: Picture) -> Array | None:
    """L*, a*, b* of the picture, reduced by whole factors; None for a grey one."""
    lab = reduced(picture)
    chroma = float(np.hypot(lab[..., 1], lab[..., 2]).mean())
    return lab if chroma >= GREY else None


def reduced(picture: Picture) -> Array:
    """Return L*, a*, b* (h, w, 3) of a picture, large ones averaged down by a whole factor."""
    lab = picture.lab
    factor = max(1, math.ceil(max(picture.size) / _SIDE))
    if factor == 1:
        return lab
    height, width = (side // factor for side in picture.size)
    cut = lab[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))


def sigma_of(shape: tuple[int, ...], share: float) -> float:
    """Pixels that a share of the diagonal comes to, for a Gaussian."""
    return max(0.7, math.hypot(*shape[:2]) * share)


def _gradient(plane: Array) -> tuple[Array, Array]:
    from scipy.ndimage import gaussian_filter

    sigma = sigma_of(plane.shape, 1 / 400)
    return gaussian_filter(plane, sigma, order=(1, 0)), gaussian_filter(plane, sigma, order=(0, 1))


def _edges(picture: Picture) -> Array | None:
    """Return ‖∇(a*, b*)‖, shape (h, w); None for a grey picture."""
    lab = picture.keep("small", _small)
    if lab is None:
        return None
    return edges_of(lab[..., 1:])


def edges_of(planes: Array) -> Array:
    """Length of the gradient (h, w) of planes (h, w, n) together."""
    parts = [part for i in range(planes.shape[-1]) for part in _gradient(planes[..., i])]
    return np.sqrt(sum(part**2 for part in parts))


def _luminance_edges(picture: Picture) -> Array:
    """Return ‖∇L*‖, shape (h, w)."""
    return np.hypot(*_gradient(reduced(picture)[..., 0]))


def _drawing(picture: Picture) -> Array:
    """Where the photograph has edges: bool, shape (h, w)."""
    from scipy.ndimage import binary_dilation

    edges = picture.keep("gradient of drawing", _luminance_edges)
    width = max(1, round(sigma_of(edges.shape, 1 / 400)))
    return np.asarray(binary_dilation(edges > np.quantile(edges, 0.8), iterations=width))


def band(planes: Array, fine: float = 1 / 150, coarse: float = 1 / 40) -> Array:
    """Band of planes (h, w, n): difference of Gaussians, σ in shares of the diagonal."""
    from scipy.ndimage import gaussian_filter

    fine, coarse = (sigma_of(planes.shape, share) for share in (fine, coarse))
    return np.asarray(
        gaussian_filter(planes, (fine, fine, 0)) - gaussian_filter(planes, (coarse, coarse, 0))
    )


def _calm(picture: Picture) -> Array:
    """Weights (h, w) of places whose lightness has no blobs."""
    from scipy.ndimage import gaussian_filter

    lightness = reduced(picture)[..., :1]
    square = gaussian_filter(band(lightness)[..., 0] ** 2, sigma_of(lightness.shape, 1 / 40))
    return np.exp(-square / 4)


def _lag(fixed: Array, moved: Array) -> float:
    """Pixels by which ``moved`` is shifted against ``fixed``."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    reach = max(1, round(0.05 * math.hypot(*fixed.shape)))
    size = tuple(next_fast_len(side + reach, real=True) for side in fixed.shape)
    spectra = [rfft2(edges - edges.mean(), size) for edges in (fixed, moved)]
    match = irfft2(np.conj(spectra[0]) * spectra[1], size)
    near = np.roll(match, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    peak = np.unravel_index(int(np.argmax(near)), near.shape)
    return math.hypot(*(_refined(near, peak, axis) - reach for axis in (0, 1)))


def _refined(match: Array, peak: tuple[np.intp, ...], axis: int) -> float:
    """Place of the peak along an axis, by the parabola through it and its neighbours."""
    at = int(peak[axis])
    if not 0 < at < match.shape[axis] - 1:
        return float(at)
    before, here, after = np.take(match.take(peak[1 - axis], axis=1 - axis), range(at - 1, at + 2))
    bend = before - 2 * here + after
    return at + (float(0.5 * (before - after) / bend) if bend < 0 else 0.0)
