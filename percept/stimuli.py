"""Stimuli: what of a run may be shown, and the images that observers will see.

One display image is rendered per stimulus, and those bytes are served as they are: 8-bit sRGB
PNG with an sRGB tag and no other metadata. All images of a photograph have one size and went
through one kernel and one encoder, so that nothing but the colours tells conditions apart.

*Golds* are controls whose answer is beyond taste: a test image whose colours were spoilt at
constant lightness. ``hue`` turns all hues by a third of the circle, towards where memory colours
never are: skin becomes violet, sky green, foliage pink. ``shift`` displaces the colours against
the luminance by several percent of the image. They are made only where it shows.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from percept.color import lab_to_srgb_in_gamut, srgb_to_lab
from percept.errors import InputError, Interrupted
from percept.files import sha256_file, write_bytes_atomic
from percept.inference.run import Condition, Run
from percept.manifest import load_rgb
from percept.types import GRAY, REFERENCE

#: How a gold is spoilt.
VARIANTS = ("hue", "shift")

_TURN = np.deg2rad(-120)  # blue to green, not to the orange of an evening sky
_DISPLACEMENT = 0.08  # of the longer side, along it; half as much across
_PREVIEW = 256  # pixels of the longer side at which it is seen whether a gold shows


@dataclass(frozen=True)
class Selection:
    """What of a run a study shows.

    Attributes
    ----------
    run : Run
    conditions : tuple of Condition
        In the run's order.
    contents : DataFrame
        Rows of the run's manifest with every condition there, ``width`` and ``height`` being
        those of the display images.
    outputs : DataFrame
        The run's outputs of these contents and conditions.
    left_out : dict of str to str
        Every other content_id of the run, with the reason.
    """

    run: Run
    conditions: tuple[Condition, ...]
    contents: pd.DataFrame
    outputs: pd.DataFrame
    left_out: dict[str, str]


@dataclass(frozen=True)
class Rendered:
    """Display images in a folder, named by their hash.

    Attributes
    ----------
    rows : tuple of dict
        ``content, condition, role, variant, sha256``, and ``source_sha256`` of the run's image;
        role ``test``, ``original`` (condition None) for the grey photograph, or ``gold`` (one of
        ``VARIANTS``).
    created : tuple of Path
        What was not there before: the files, then the folder where it is new.
    """

    rows: tuple[dict[str, str | None], ...]
    created: tuple[Path, ...]

    def remove(self) -> None:
        """Remove again what rendering made, where the study came to nothing."""
        for path in self.created:
            if path.is_dir():
                with suppress(OSError):  # another study has put its images there by now
                    path.rmdir()
            else:
                path.unlink(missing_ok=True)


def select_stimuli(
    run: Run,
    *,
    max_side: int,
    conditions: Sequence[str] | None = None,
    contents: Sequence[str] | None = None,
) -> Selection:
    """Choose the photographs of a run that can be shown in every condition.

    Parameters
    ----------
    run : Run
    max_side : int
        Largest side of the display images, pixels. Photographs are never enlarged.
    conditions, contents : sequence of str, optional
        Names to restrict the study to.

    Raises
    ------
    InputError
        A name is not in the run, a photograph is in the training data of a condition (the aged
        photograph, its reference or the clean original), or nothing is left to show.
    """
    chosen = tuple(one for one in run.conditions if conditions is None or one.name in conditions)
    _known(conditions, [one.name for one in run.conditions], "condition", run)
    _known(contents, run.manifest["content_id"].tolist(), "content", run)
    manifest = run.manifest
    if contents is not None:
        manifest = manifest[manifest["content_id"].isin(list(contents))]
    names = [one.name for one in chosen]
    outputs = run.outputs[run.outputs["condition"].isin(names)]

    left_out: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for row in manifest.to_dict("records"):
        content = str(row["content_id"])
        mine = outputs[outputs["content_id"] == content]
        good = mine[mine["status"] == "ok"]
        missing = [name for name in names if name not in set(good["condition"])]
        size = fit(int(row["width"]), int(row["height"]), max_side)
        odd = [
            str(one["condition"])
            for one in good.to_dict("records")
            if not _same_shape(int(one["width"]), int(one["height"]), size)
        ]
        if missing:
            left_out[content] = f"no output of {', '.join(missing)}"
        elif odd:
            left_out[content] = f"another aspect ratio in {', '.join(odd)}"
        elif not run.resolve(str(row["path"])).is_file():
            left_out[content] = f"the photograph is not there: {row['path']}"
        else:
            sizes[content] = size
    kept = manifest[manifest["content_id"].isin(list(sizes))].reset_index(drop=True)
    if kept.empty:
        reasons = "; ".join(f"{content}: {reason}" for content, reason in left_out.items())
        raise InputError(
            f"no photograph can be shown in every condition: {reasons or 'the run has none'}",
            file=run.root,
        )
    _refuse_leaks(run, kept, chosen)
    kept["width"] = [sizes[content][0] for content in kept["content_id"]]
    kept["height"] = [sizes[content][1] for content in kept["content_id"]]
    outputs = outputs[outputs["content_id"].isin(list(sizes))].reset_index(drop=True)
    return Selection(run, chosen, kept, outputs, left_out)


def render_stimuli(
    selection: Selection,
    folder: Path,
    *,
    golds: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Rendered:
    """Render every display image of a selection into ``folder``.

    The grey original is the photograph's luminance alone. There are as many golds as asked for,
    or fewer where too few images have the colour for it, of photographs all over the selection,
    from the true colours where they are among the conditions. On an error the files that this
    call made are removed again.

    Raises
    ------
    InputError
        An image cannot be read, or is not the one that the run made, or not one gold can be made.
    Interrupted
        The disk is full.
    """
    images = _images(selection)
    new = () if folder.exists() else (folder,)
    created: list[Path] = []
    rows: list[dict[str, str | None]] = []
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        images += _golds(selection, images, golds, pool)
        for image, data in zip(images, pool.map(_render, images), strict=True):
            sha256 = hashlib.sha256(data).hexdigest()
            file = folder / f"{sha256}.png"
            if not file.exists():
                write_bytes_atomic(file, data)
                created.append(file)
            rows.append(
                {
                    "content": image.content,
                    "condition": image.condition,
                    "role": image.role,
                    "variant": image.variant,
                    "sha256": sha256,
                    "source_sha256": image.sha256,
                }
            )
            if progress is not None:
                progress(len(rows), len(images))
    except BaseException as error:
        if folder.is_dir():
            Rendered((), (*created, *new)).remove()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Interrupted(f"the disk is full: {folder}; nothing was kept") from error
        if isinstance(error, OSError):
            raise InputError(
                f"the display images cannot be made: {error.strerror or error}",
                file=error.filename or folder,
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops this does not wait for the rest
    return Rendered(tuple(rows), (*created, *new))


@dataclass(frozen=True)
class _Image:
    """One display image, and the file that it is made from."""

    content: str
    condition: str | None
    """None: the grey photograph."""
    file: Path
    sha256: str | None
    """Of the file, where the run knows it."""
    size: tuple[int, int]
    variant: str = ""
    """How it is spoilt, if it is."""

    @property
    def role(self) -> str:
        return "gold" if self.variant else "original" if self.condition is None else "test"


def _images(selection: Selection) -> list[_Image]:
    """List all but the golds, photograph by photograph."""
    run, images = selection.run, []
    for content in selection.contents.to_dict("records"):
        size = (int(content["width"]), int(content["height"]))
        name = str(content["content_id"])
        images.append(_Image(name, None, run.resolve(str(content["path"])), None, size))
        mine = selection.outputs[selection.outputs["content_id"] == name]
        outputs = {str(one["condition"]): one for one in mine.to_dict("records")}
        for condition in selection.conditions:
            output = outputs[condition.name]
            file, sha256 = run.image(str(output["path"])), str(output["sha256"])
            images.append(_Image(name, condition.name, file, sha256, size))
    return images


def _render(image: _Image) -> bytes:
    if image.sha256 is not None and sha256_file(image.file) != image.sha256:
        raise InputError(
            "the image changed after the run made it",
            file=image.file,
            remedy="Delete it and give the percept infer command again",
        )
    picture = resize(load_rgb(image.file), image.size)
    if image.condition is None:
        picture = Image.fromarray(gray(np.asarray(picture)))
    elif image.variant:
        picture = Image.fromarray(spoil(np.asarray(picture), image.variant))
    return encode(picture)


# Golds ---------------------------------------------------------------------------------------


def spoil(pixels: NDArray[np.uint8], variant: str) -> NDArray[np.uint8]:
    """Spoil the colours of (H, W, 3) sRGB bytes at constant lightness.

    Parameters
    ----------
    pixels : array of uint8, shape (H, W, 3)
        sRGB.
    variant : str
        One of ``VARIANTS``: ``hue`` turns every hue in CIE L*a*b* by -120 degrees, ``shift``
        displaces the colours, by 8 % of the longer side along it and 4 % across.

    Returns
    -------
    array of uint8, shape (H, W, 3)
        Colours that sRGB cannot show have lost chroma.
    """
    lab = srgb_to_lab(pixels, dtype=np.float32)
    if variant == "hue":
        turned = (lab[..., 1] + 1j * lab[..., 2]) * np.exp(1j * _TURN)
        lab[..., 1], lab[..., 2] = turned.real, turned.imag
    else:
        height, width = lab.shape[:2]
        far = max(1, round(_DISPLACEMENT * max(height, width)))
        down, right = (far // 2, far) if width >= height else (far, far // 2)
        rows = (np.arange(height) - down).clip(0)  # the edge goes on
        columns = (np.arange(width) - right).clip(0)
        lab[..., 1:] = lab[rows[:, None], columns, 1:]
    return lab_to_srgb_in_gamut(lab)


def is_beyond_taste(pixels: NDArray[np.uint8], variant: str) -> bool:
    """Tell whether nobody would take the spoilt image for the better one.

    A fifth of the image must change its colour plainly (by a distance of 20 in a*, b* for
    ``hue``, which takes colours that are strong enough; 10 for ``shift``). Colours that are
    displaced must have been in place: the edges of chroma correlate with those of lightness,
    and less so (by 0.1) afterwards.
    """
    before = srgb_to_lab(pixels, dtype=np.float32)
    after = srgb_to_lab(spoil(pixels, variant), dtype=np.float32)
    moved = np.hypot(*np.moveaxis(after[..., 1:] - before[..., 1:], -1, 0))
    if (moved >= (20 if variant == "hue" else 10)).mean() < 0.2:
        return False
    return variant == "hue" or _registration(before) - _registration(after) >= 0.1


def _registration(lab: NDArray[np.floating]) -> float:
    """Correlation of the edges of chroma with those of lightness."""
    if min(lab.shape[:2]) < 2:
        return 0.0
    edges = np.square(np.gradient(lab, axis=(0, 1))).sum(axis=0)  # (H, W, 3)
    lightness, chroma = np.sqrt(edges[..., 0]), np.sqrt(edges[..., 1:].sum(axis=-1))
    spread = float(lightness.std() * chroma.std())
    covariance = ((lightness - lightness.mean()) * (chroma - chroma.mean())).mean()
    return float(covariance) / spread if spread > 0 else 0.0


def _golds(
    selection: Selection, images: Sequence[_Image], count: int, pool: ThreadPoolExecutor
) -> list[_Image]:
    """Choose test images to spoil: of photographs all over the selection, each way in turn."""
    if not count:
        return []
    names = [one.name for one in selection.conditions if one.name not in (GRAY, REFERENCE)]
    true = [one.name for one in selection.conditions if one.name == REFERENCE]
    mine = {(one.content, one.condition): one for one in images}
    contents = [str(name) for name in selection.contents["content_id"]]
    step = max(1, len(contents) // count)
    order = [place for start in range(step) for place in range(start, len(contents), step)]
    tries = []
    for round_ in range(len(VARIANTS)):
        for turn, place in enumerate(order):
            first = turn % max(1, len(names))
            sources = [*true, *names[first:], *names[:first]][:3]
            variant = VARIANTS[(turn + round_) % len(VARIANTS)]
            tries.append(
                [replace(mine[contents[place], name], variant=variant) for name in sources]
            )
    tries = tries[: 6 * count]  # a study without colour is told so soon

    def first_good(candidates: Sequence[_Image]) -> _Image | None:
        for one in candidates:
            preview = resize(load_rgb(one.file), fit(*one.size, _PREVIEW))
            if is_beyond_taste(np.asarray(preview), one.variant):
                return one
        return None

    found: list[_Image] = []
    for start in range(0, len(tries), count):
        found += filter(None, pool.map(first_good, tries[start : start + count]))
        if len(found) >= count:
            break
    if not found:
        raise InputError(
            "no image has enough colour for a gold, a control whose answer is beyond taste",
            file=selection.run.root,
            key="golds",
            value=count,
            remedy="Set golds = 0 and practice_feedback = false, or add a condition with colours",
        )
    return found[:count]


def fit(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Size in pixels with the same shape and no side above ``max_side``; never larger."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """Resample (H, W, 3) sRGB bytes to ``size`` (width, height) by Lanczos."""
    image = Image.fromarray(pixels)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def gray(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luminance of (H, W, 3) sRGB bytes as grey sRGB bytes of the same shape.

    This is L* with a* = b* = 0 (IEC 61966-2-1, white point D65); grey pixels stay as they are.
    """
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    weights = np.array([0.2126, 0.7152, 0.0722])
    luminance = linear[pixels] @ weights
    encoded = np.where(
        luminance <= 0.0031308,
        12.92 * luminance,
        1.055 * np.maximum(luminance, 0) ** (1 / 2.4) - 0.055,
    )
    one = np.clip(np.rint(encoded * 255), 0, 255).astype(np.uint8)
    return np.repeat(one[..., None], 3, axis=-1)


def encode(image: Image.Image) -> bytes:
    """Encode as an RGB PNG with an sRGB chunk (perceptual intent) and no other metadata."""
    tag = PngImagePlugin.PngInfo()
    tag.add(b"sRGB", b"\0")
    image.info.clear()
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", pnginfo=tag, compress_level=6)
    return buffer.getvalue()


def _known(asked: Sequence[str] | None, there: Sequence[str], what: str, run: Run) -> None:
    for name in asked or ():
        if name not in there:
            raise InputError(
                f"the run has no such {what}",
                file=run.root,
                key=what,
                value=name,
                remedy=f"There: {', '.join(map(str, there))}",
            )


def _same_shape(width: int, height: int, size: tuple[int, int]) -> bool:
    """Whether an image scales to ``size`` within one pixel of each side."""
    return abs(width * size[1] / height - size[0]) <= 1 and (
        abs(height * size[0] / width - size[1]) <= 1
    )


def _refuse_leaks(run: Run, contents: pd.DataFrame, conditions: Sequence[Condition]) -> None:
    trained = {one.name: frozenset(one.training_sha256) for one in conditions}
    if not any(trained.values()):
        return
    leaks = []
    for row in contents.to_dict("records"):
        hashes = {str(row["sha256"])}
        for column in ("reference_path", "reference_clean_path"):
            path = row.get(column)
            if isinstance(path, str) and (file := run.resolve(path)).is_file():
                hashes.add(sha256_file(file))
        guilty = [name for name, seen in trained.items() if hashes & seen]
        if guilty:
            leaks.append(f"{row['content_id']} (in {', '.join(guilty)})")
    if leaks:
        raise InputError(
            "conditions were trained on photographs of this study, so people would judge their "
            f"memory: {'; '.join(leaks)}",
            file=run.root,
            remedy="Run inference on photographs that no condition was trained on, or name "
            "others with --contents",
        )
