"""Photographic ageing of clean photographs, with exact masks and a fair colour reference.

A photograph is reduced to the luminance that an old process would have recorded, then aged by
global layers (lens, fading, grain, paper) and by local damage (stains, dust, scratches). The mask
is exact: it holds the pixels that the local damage changed. The reference carries the true
chroma of the clean photograph on the aged luminance, so that a colorizer which keeps the
luminance and gets every colour right scores perfectly.

What happens to a photograph depends on the seed and its content_id alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from percept.color import (
    FROM_RGB,
    LINEAR,
    encode,
    lab_to_srgb_in_gamut,
    lightness_curve,
    srgb_to_lab,
)
from percept.errors import InputError, InputErrors, Interrupted
from percept.files import atomic_file, check_place, sha256_file
from percept.manifest import Manifest, check_manifest, load_rgb, make_frame
from percept.types import DEGRADATIONS

Array = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Process:
    """How photographs of an era were made, and what time did to them.

    Attributes
    ----------
    era, process : str
        As written into the manifest.
    strengths : mapping of str to float
        Layer (a name of ``percept.types.DEGRADATIONS``) to strength; 1 is heavy.
    sensitivity : tuple of float
        Weights of linear red, green and blue in the recorded luminance; used by the layer
        ``orthochromatic``.
    """

    era: str
    process: str
    strengths: Mapping[str, float]
    sensitivity: tuple[float, float, float] = field(default=(0.03, 0.42, 0.55))

    @property
    def degradation(self) -> str:
        """The layers, in the manifest's spelling."""
        return ";".join(name for name in DEGRADATIONS if name in self.strengths)


PROCESSES: Final = (
    Process(
        era="1860s",
        process="albumen print",
        strengths={
            "orthochromatic": 1.0,
            "blur": 0.5,
            "fading": 0.9,
            "paper_texture": 0.7,
            "stains": 1.0,
        },
        sensitivity=(0.0, 0.15, 0.85),  # wet collodion sees blue and violet only
    ),
    Process(
        era="1890s",
        process="glass plate negative",
        strengths={"orthochromatic": 1.0, "blur": 0.4, "dust": 1.0, "scratches": 0.5},
    ),
    Process(
        era="1910s",
        process="picture postcard",
        strengths={
            "orthochromatic": 1.0,
            "fading": 0.6,
            "paper_texture": 1.0,
            "stains": 0.6,
            "dust": 0.4,
        },
    ),
    Process(
        era="1930s",
        process="nitrate film",
        strengths={"grain": 0.8, "scratches": 1.0, "dust": 0.7},
    ),
    Process(
        era="1940s",
        process="press print",
        strengths={"grain": 0.6, "blur": 0.3, "paper_texture": 0.4, "scratches": 0.5, "dust": 0.5},
    ),
    Process(
        era="1960s",
        process="35 mm film",
        strengths={"grain": 1.0, "fading": 0.4, "dust": 0.6},
    ),
)


@dataclass(frozen=True)
class Aged:
    """An aged photograph.

    Attributes
    ----------
    photo : ndarray of uint8, shape (H, W)
        sRGB grey levels.
    undamaged : ndarray of uint8, shape (H, W)
        The same without local damage.
    mask : ndarray of bool, shape (H, W)
        Where the two differ.
    """

    photo: Pixels
    undamaged: Pixels

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels that stains, dust and scratches changed."""
        return self.photo != self.undamaged


def content_rng(seed: int, content_id: str) -> np.random.Generator:
    """Random numbers of one photograph, independent of all others."""
    digest = hashlib.sha256(f"{seed}\0{content_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def age(rgb: Pixels, process: Process, *, rng: np.random.Generator) -> Aged:
    """Age a clean photograph.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)
        sRGB. The work needs about 70 bytes per pixel.
    process : Process
        Strengths vary by a quarter from photograph to photograph.
    rng : numpy.random.Generator
        Every layer draws from a stream of its own, so that leaving one out changes no other.
    """
    streams = dict(zip(DEGRADATIONS, rng.spawn(len(DEGRADATIONS)), strict=True))
    size = max(rgb.shape[:2])
    scale = max(size / 800, 0.6)  # features keep their size in the picture, not in pixels
    sensitivity = process.sensitivity if "orthochromatic" in process.strengths else _LUMINANCE
    red, green, blue = (w * _LINEAR[rgb[..., i]] for i, w in enumerate(sensitivity))
    tone = encode(red + green + blue)
    for name, layer in (*_GLOBAL.items(), *_LOCAL.items()):
        if name == next(iter(_LOCAL)):
            undamaged = _quantize(tone)
        if name in process.strengths:
            stream = streams[name]
            strength = process.strengths[name] * stream.uniform(0.75, 1.25)
            tone = np.clip(layer(tone, strength, scale, stream), 0, 1, dtype=np.float32)
    return Aged(_quantize(tone), undamaged)


def reference_colors(rgb: Pixels, photo: Pixels) -> Pixels:
    """Put the true chroma of a clean photograph on the luminance of the aged one.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)
        The clean photograph, sRGB.
    photo : ndarray of uint8, shape (H, W)
        The aged one, sRGB grey levels.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        sRGB. Its L* is that of ``photo`` to within the rounding to 8 bits.
    """
    out = np.empty_like(rgb)
    rows = max(1, (1 << 18) // rgb.shape[1])  # strips: a large photograph needs little memory
    for top in range(0, rgb.shape[0], rows):
        strip = slice(top, top + rows)
        lab = srgb_to_lab(rgb[strip], dtype=np.float32)
        lab[..., 0] = _GREY_LIGHTNESS[photo[strip]]
        out[strip] = lab_to_srgb_in_gamut(lab)
    return out


def is_grey(rgb: Pixels) -> bool:
    """Whether a photograph has no colour to speak of: 99 % of its pixels have chroma below 4."""
    step = max(1, max(rgb.shape[:2]) // 1000)
    lab = srgb_to_lab(rgb[::step, ::step], dtype=np.float32)
    return float(np.quantile(np.hypot(lab[..., 1], lab[..., 2]), 0.99)) < 4


def degrade_manifest(
    manifest: Manifest,
    out: str | Path,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Age every photograph of a manifest into a directory.

    Written are ``images/ID.png`` (the aged photograph, 8-bit grey), ``reference/ID.png`` (the
    true chroma on it; not for greyscale photographs), ``masks/ID.png`` (0 and 255; not where
    there is no local damage), ``degrade.json`` (settings) and, last of all, ``manifest.csv``. Its
    ``era``, ``process`` and ``degradation`` say what was simulated, ``reference_clean_path`` names
    the clean original, all other columns are kept. Each file appears only when it is complete,
    and a repeated call does what is missing.

    Parameters
    ----------
    manifest : Manifest
        Clean photographs.
    out : path
        A directory that does not exist, is empty, or was begun by the same call.
    seed : int
        Not negative.
    progress : callable, optional
        Called with (photographs done, photographs in all).

    Returns
    -------
    Manifest
        As written.

    Raises
    ------
    InputError, InputErrors
        If ``out`` holds something else or photographs fail :func:`check_manifest`; nothing was
        written.
    Interrupted
        If a file cannot be written.
    """
    out = Path(out)
    if seed < 0:
        raise InputError("the seed must not be negative", key="seed", value=seed)
    aged_before = manifest.frame["reference_path"].notna()
    if aged_before.any():
        raise InputError(
            "only clean photographs can be aged, and this one has a reference already",
            file=manifest.file,
            row=int(aged_before.argmax()) + 1,
            column="reference_path",
            value=manifest.frame["reference_path"][int(aged_before.argmax())],
        )
    content = "\n".join(f"{r['content_id']} {r['sha256']}" for r in manifest.rows())
    settings = {
        "format": 1,
        "seed": seed,
        "photographs": hashlib.sha256(content.encode()).hexdigest(),
    }
    _check_destination(out, settings)
    errors = check_manifest(manifest)
    if errors:
        raise InputErrors(errors)
    try:
        for folder in ("images", "reference", "masks"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        with atomic_file(out / "degrade.json") as stream:
            stream.write(json.dumps(settings, indent=1).encode() + b"\n")
        records = []
        for done, row in enumerate(manifest.rows(), start=1):
            records.append(_degrade_row(manifest, row, out, seed))
            if progress:
                progress(done, len(manifest))
        return Manifest(make_frame(records), out).write(out / "manifest.csv")
    except OSError as error:
        raise Interrupted(
            f"{out}: {error.strerror or error}; the same command goes on from there"
        ) from error


# ---------------------------------------------------------------------------------------------


def _check_destination(out: Path, settings: Mapping[str, Any]) -> None:
    check_place(out, folder=True)
    if not out.exists() or not any(out.iterdir()):
        return
    try:
        found = json.loads((out / "degrade.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found is None:
        raise InputError(
            "the directory holds something else", file=out, remedy="Name a new or empty one"
        )
    if found != settings:
        what = "another seed" if found.get("seed") != settings["seed"] else "other photographs"
        raise InputError(
            f"the directory holds photographs aged with {what}",
            file=out,
            value=found.get("seed") if what == "another seed" else None,
            remedy="Name a new directory, or delete this one",
        )


def _degrade_row(
    manifest: Manifest, row: Mapping[str, Any], out: Path, seed: int
) -> dict[str, Any]:
    content_id = row["content_id"]
    photo, reference, mask = (
        Path(folder, f"{content_id}.png") for folder in ("images", "reference", "masks")
    )
    rng = content_rng(seed, content_id)
    process = PROCESSES[rng.integers(len(PROCESSES))]
    if not (out / photo).exists():  # it is written last, so the other two are there as well
        rgb = load_rgb(manifest.resolve(row["path"]))
        aged = age(rgb, process, rng=rng)
        if not is_grey(rgb):
            _save(reference_colors(rgb, aged.photo), out / reference)
        if aged.mask.any():
            _save(aged.mask.astype(np.uint8) * 255, out / mask)
        _save(aged.photo, out / photo)
    with Image.open(out / photo) as image:
        width, height = image.size
    return {
        **row,
        "path": photo.as_posix(),
        "sha256": sha256_file(out / photo),
        "width": width,
        "height": height,
        "reference_path": reference.as_posix() if (out / reference).exists() else None,
        "reference_clean_path": manifest.path_from(out, row["path"]),
        "mask_path": mask.as_posix() if (out / mask).exists() else None,
        "era": process.era,
        "process": process.process,
        "degradation": process.degradation,
    }


def _save(pixels: Pixels, file: Path) -> None:
    with atomic_file(file) as stream:
        Image.fromarray(pixels).save(stream, "PNG")


# The recorded luminance of a film that sees as people do.
_LUMINANCE = (float(FROM_RGB[1, 0]), float(FROM_RGB[1, 1]), float(FROM_RGB[1, 2]))
_LINEAR = LINEAR.astype(np.float32)
_GREY_LIGHTNESS: Final[Array] = 116 * lightness_curve(_LINEAR) - 16


def _quantize(tone: Array) -> Pixels:
    return np.rint(np.clip(tone, 0, 1) * 255).astype(np.uint8)


# Layers. Each takes the tones of the picture (sRGB-encoded grey in [0, 1]), its strength, the
# scale of its features in pixels, and random numbers; and returns new tones.


def _blur(tone: Array, strength: float, scale: float, rng: np.random.Generator) -> Array:
    """Soften as a simple lens does, and darken towards the corners."""
    soft = ndimage.gaussian_filter(tone, (0.5 + 1.2 * strength) * scale, mode="nearest")
    y, x = _coordinates(tone.shape)
    y0, x0 = rng.normal(0, 0.1), rng.normal(0, 0.1)
    return soft * (1 - 0.5 * strength * ((y - y0) ** 2 + (x - x0) ** 2) / 2)


def _fading(tone: Array, strength: float, scale: float, rng: np.random.Generator) -> Array:
    """Blacks rise, whites yellow (that is, sink) and contrast goes, more so at the edges."""
    y, x = _coordinates(tone.shape)
    edge = np.maximum(np.abs(x), np.abs(y)) ** 4
    local = strength * (0.8 + 0.25 * edge + 0.08 * _noise(tone.shape, 120 * scale, rng))
    black, white = 0.34 * local, 1 - 0.14 * local
    return black + (white - black) * tone**0.95


def _grain(tone: Array, strength: float, scale: float, rng: np.random.Generator) -> Array:
    """Silver grain: clumps of two sizes, strongest in the middle tones."""
    clumps = 0.9 * _noise(tone.shape, 0.55 * scale, rng) + 0.35 * _noise(
        tone.shape, 1.5 * scale, rng
    )
    return tone + 0.045 * strength * np.sqrt(0.12 + 3.5 * tone * (1 - tone)) * clumps


def _paper_texture(tone: Array, strength: float, scale: float, rng: np.random.Generator) -> Array:
    """Fibres of the paper in light from one side."""
    height = np.zeros_like(tone)
    for long, short, weight in ((3.0, 0.7, 0.6), (0.7, 3.0, 0.6), (1.1, 1.1, 1.5)):
        white = rng.standard_normal(tone.shape, dtype=np.float32)
        fibres = ndimage.gaussian_filter(white, (long * scale, short * scale), mode="wrap")
        height += weight * fibres / max(float(fibres.std()), 1e-6)
    light = height - np.roll(height, (1, 1), axis=(0, 1))
    light /= max(float(light.std()), 1e-6)
    return tone * (1 + 0.026 * strength * light) + 0.008 * strength * light


def _stains(tone: Array, strength: float, scale: float, rng: np.random.Generator) -> Array:
    """Foxing, in clusters, and tide lines of water that came in from an edge."""
    rows, columns = tone.shape
    keep = np.ones_like(tone)
    spots: list[tuple[float, float, float, float]] = []
    for _ in range(rng.integers(3, 6)):
        center = rng.uniform(0, 1, 2) * tone.shape
        spread = rng.uniform(0.04, 0.16) * min(tone.shape)
        for _ in range(int(rng.integers(6, 16) * strength) + 1):
            y, x = rng.normal(center, spread)
            spots.append((y, x, scale * rng.lognormal(1.0, 0.55), rng.uniform(0.1, 0.38)))
    warp = _noise(tone.shape, 2.5 * scale, rng)
    for y, x, radius, depth in spots:
        window = _window(tone.shape, y, x, 2 * radius + 2)
        distance = _distance(window, y, x) / radius * (1 + 0.18 * warp[window])
        keep[window] *= 1 - depth * np.clip(1.4 - distance, 0, 1) ** 1.5
    broad, fine = _noise(tone.shape, 45 * scale, rng), _noise(tone.shape, 9 * scale, rng)
    for _ in range(rng.integers(1, 3)):
        y, x = rng.uniform(0, 1, 2) * tone.shape
        if rng.random() < 0.5:
            y = rows * round(y / rows)
        else:
            x = columns * round(x / columns)
        radius = rng.uniform(0.25, 0.5) * min(tone.shape)
        window = (slice(None), slice(None))
        inward = 1 - _distance(window, y, x, tone.shape) / radius - 0.12 * broad - 0.02 * fine
        inward *= radius / scale  # from the water's edge, in units of features
        wet = np.clip(inward / 1.5, 0, 1)
        tide = np.exp(-np.clip(inward, 0, None) / 7)
        keep *= 1 - strength * wet * (0.05 + 0.22 * tide * np.clip(1 + 0.35 * fine, 0.2, 2))
    return tone * keep


def _dust(tone: Array, strength: float, scale: float, rng: np.random.Generator) -> Array:
    """Specks and curled hairs, white where they lay on the negative, dark where on the print."""
    cover = {0.95: np.zeros_like(tone), 0.06: np.zeros_like(tone)}
    area = tone.size / scale**2 / 800**2  # pictures of every size are equally dusty
    for _ in range(int(110 * strength * area) + 4):
        target = cover[0.95 if rng.random() < 0.75 else 0.06]
        radius = scale * min(rng.lognormal(-0.35, 0.55), 3.5)
        parts = rng.integers(1, 4)
        points = rng.uniform(0, 1, 2) * tone.shape + rng.normal(0, 0.8 * radius, (parts, 2))
        radii = radius * rng.uniform(0.5, 1, parts)
        _stamp(target, points, radii, np.full(parts, rng.uniform(0.5, 0.95)))
    for _ in range(int(6 * strength * area) + rng.integers(1, 3)):
        target = cover[0.95 if rng.random() < 0.75 else 0.06]
        points = _path(
            start=rng.uniform(0, 1, 2) * tone.shape,
            heading=rng.uniform(0, 2 * np.pi),
            length=scale * rng.uniform(18, 80),
            turn=rng.normal(0, 0.035) / scale,
            wander=0.09 / scale,
            rng=rng,
        )
        width = scale * rng.uniform(0.35, 0.6)
        _stamp(
            target,
            points,
            np.full(len(points), width),
            np.full(len(points), rng.uniform(0.5, 0.85)),
        )
    return _cover(tone, cover)


def _scratches(tone: Array, strength: float, scale: float, rng: np.random.Generator) -> Array:
    """Hairlines: most along the film's way through the camera, some anywhere, broken and curved."""
    cover = {0.96: np.zeros_like(tone), 0.05: np.zeros_like(tone)}
    along = rng.choice([0.0, np.pi / 2])  # the film ran along the columns or the rows
    for _ in range(int(rng.integers(8, 16) * strength) + 2):
        target = cover[0.96 if rng.random() < 0.8 else 0.05]
        transport = rng.random() < 0.65
        length = (
            rng.uniform(0.3, 1.3) * max(tone.shape)
            if transport
            else (rng.uniform(0.05, 0.35) * max(tone.shape))
        )
        points = _path(
            start=rng.uniform(-0.1, 1, 2) * tone.shape,
            heading=along + rng.normal(0, 0.03) if transport else rng.uniform(0, 2 * np.pi),
            length=length,
            turn=rng.normal(0, 0.0003 if transport else 0.003) / scale,
            wander=(0.002 if transport else 0.01) / scale,
            rng=rng,
        )
        n = len(points)
        pressure = _smooth_walk(n, 60 * scale, rng)
        radii = scale * rng.uniform(0.3, 0.75) * (1 + 0.35 * pressure)
        opacity = rng.uniform(0.35, 0.85) * np.clip(0.75 + 0.6 * pressure, 0, 1)
        ends = np.minimum(np.arange(n), np.arange(n)[::-1]) / (20 * scale)
        _stamp(target, points, np.clip(radii, 0.2, None), opacity * np.clip(ends, 0, 1))
    return _cover(tone, cover)


_Layer = Callable[[Array, float, float, np.random.Generator], Array]
_GLOBAL: dict[str, _Layer] = {
    "blur": _blur,
    "fading": _fading,
    "grain": _grain,
    "paper_texture": _paper_texture,
}
_LOCAL: dict[str, _Layer] = {"stains": _stains, "dust": _dust, "scratches": _scratches}


def _coordinates(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Rows and columns from −1 to 1, to be broadcast."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    return y, x


def _noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Array:
    """Gaussian noise of correlation length ``sigma`` pixels, mean 0 and variance 1."""
    step = max(1, int(sigma / 2))  # coarse noise is made coarsely
    small = rng.standard_normal((shape[0] // step + 2, shape[1] // step + 2), dtype=np.float32)
    small = ndimage.gaussian_filter(small, sigma / step, mode="wrap")
    noise = small
    if step > 1:
        size = ((shape[1] // step + 2) * step, (shape[0] // step + 2) * step)
        noise = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def _smooth_walk(n: int, sigma: float, rng: np.random.Generator) -> Array:
    """Values that change smoothly along a line, mean 0 and variance 1."""
    walk = ndimage.gaussian_filter1d(rng.standard_normal(n), sigma, mode="reflect")
    return np.asarray(walk * np.sqrt(2 * np.sqrt(np.pi) * sigma), dtype=np.float32).clip(-2, 2)


def _path(
    *,
    start: NDArray[np.float64],
    heading: float,
    length: float,
    turn: float,
    wander: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Points every half pixel along a curve; ``turn`` and ``wander`` in radians per pixel."""
    step = 0.5
    n = max(2, int(length / step))
    headings = heading + np.cumsum(turn + wander * rng.standard_normal(n)) * step
    return start + step * np.cumsum(np.stack([np.cos(headings), np.sin(headings)], 1), axis=0)


def _stamp(layer: Array, points: NDArray[Any], radii: NDArray[Any], opacity: NDArray[Any]) -> None:
    """Draw soft-edged discs into ``layer``, which keeps the most opaque at each pixel."""
    reach = int(np.ceil(radii.max())) + 1
    offsets = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(1, 2, -1).transpose(0, 2, 1)
    pixels = np.floor(points).astype(int)[:, None, :] + offsets
    distance = np.hypot(*np.moveaxis(pixels + 0.5 - points[:, None, :], -1, 0))
    alpha = opacity[:, None] * np.clip(radii[:, None] + 0.5 - distance, 0, 1)
    alpha *= np.minimum(1, 2 * radii[:, None])  # thinner than a pixel: fainter
    inside = (alpha > 0) & ((pixels >= 0) & (pixels < layer.shape)).all(axis=-1)
    np.maximum.at(layer, tuple(pixels[inside].T), alpha[inside].astype(np.float32))


def _cover(tone: Array, cover: Mapping[float, Array]) -> Array:
    for target, alpha in cover.items():
        tone = tone + alpha * (target - tone)
    return tone


def _window(shape: tuple[int, ...], y: float, x: float, reach: float) -> tuple[slice, slice]:
    """Find the part of a picture within ``reach`` of a point."""
    (top, bottom), (left, right) = (
        np.clip([int(at - reach), int(at + reach) + 1], 0, extent)
        for at, extent in zip((y, x), shape, strict=True)
    )
    return slice(top, bottom), slice(left, right)


def _distance(
    window: tuple[slice, slice], y: float, x: float, shape: tuple[int, ...] | None = None
) -> Array:
    """Distance of a window's pixels from a point."""
    rows, columns = (
        np.arange(*part.indices(extent), dtype=np.float32)
        for part, extent in zip(window, shape or (window[0].stop, window[1].stop), strict=True)
    )
    return np.hypot(rows[:, None] + 0.5 - np.float32(y), columns[None, :] + 0.5 - np.float32(x))
