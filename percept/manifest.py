"""Manifests: tables of photographs, and the only way percept reads an image file.

A manifest is a CSV or Parquet table, one row per photograph. ``content_id, path, sha256, width,
height`` are required; ``percept.types.MANIFEST_OPTIONAL`` names the optional columns; any other
column is carried along unread. Paths are relative to the manifest's directory, and
``package:skimage/data/astronaut.png`` names a file inside an installed package. Width and height
are those of the upright picture, after EXIF rotation.

A ``content_id`` becomes part of file names, so it is one to 100 UTF-8 bytes of letters and digits
(of any script), ``_``, ``-`` and ``.``, beginning and ending with a letter, a digit or ``_``, and
no two may differ in case alone.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import heapq
import io
import math
import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from percept.errors import InputError, InputErrors
from percept.files import PACKAGE, atomic_file, package_file, sha256_file
from percept.types import DEGRADATIONS, MANIFEST_OPTIONAL, MANIFEST_REQUIRED

PATH_COLUMNS: Final = ("path", "reference_path", "reference_clean_path", "mask_path")
COLUMNS: Final = (*MANIFEST_REQUIRED, *MANIFEST_OPTIONAL)
MAX_PIXELS: Final = 400_000_000
"""Largest photograph that percept opens, in pixels (a 20,000 × 20,000 scan)."""

MAX_ID_BYTES: Final = 100
_SAFE_ID = re.compile(r"\w(?:[\w.-]*\w)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# What percept decodes; leaving out formats that run interpreters (EPS) or are not photographs.
_FORMATS: Final = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
# What a person would call an image by its name, decodable here or not.
_IMAGE_SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".png", ".apng"),
    *(".tif", ".tiff", ".webp", ".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
    *(".heic", ".heif", ".psd", ".psb", ".exr", ".hdr", ".tga", ".svg", ".eps", ".ico", ".pcx"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".raw"),
)

# Pillow refuses pictures above twice its own limit while opening them, which archives' scans
# exceed. Its limit is process-wide, so it is raised once, here, and never lowered or switched off.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)


class ManifestWarning(UserWarning):
    """Something about a manifest that is worth knowing but does not make it wrong."""


@dataclass(frozen=True)
class Manifest:
    """A table of photographs, and where its relative paths start.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row per photograph, RangeIndex, in file order. Every column of ``COLUMNS`` is present:
        strings (object dtype, missing is None), ``width`` and ``height`` Int64 in pixels,
        ``weight`` Float64. Columns that percept does not know follow, as strings.
    root : Path
        Directory that relative paths start from.
    file : Path or None
        Where it was read from.
    sha256 : str
        Hash of the file's bytes; empty where there is no file.
    """

    frame: pd.DataFrame
    root: Path
    file: Path | None = None
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.frame)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row as a dict, in order."""
        columns = [str(name) for name in self.frame.columns]
        for values in self.frame.itertuples(index=False, name=None):
            yield dict(zip(columns, values, strict=True))

    def resolve(self, path: str) -> Path:
        """File on disk that ``path``, a value of one of the path columns, names.

        Raises
        ------
        InputError
            If it names a package that is not installed, or escapes its package.
        """
        if path.startswith(PACKAGE):
            return package_file(path)
        return self.root / path

    def path_from(self, directory: Path, path: str) -> str:
        """``path``, a value of one of the path columns, for a manifest in ``directory``.

        Absolute paths and ``package:`` names stay as they are.
        """
        if path.startswith(PACKAGE) or os.path.isabs(path):
            return path
        # Real directories: "link/.." is not the directory that holds the link.
        file = os.path.join(os.path.realpath(self.root), path)
        return Path(os.path.relpath(file, os.path.realpath(directory))).as_posix()

    def select(self, keep: Sequence[bool] | NDArray[np.bool_] | pd.Series[bool]) -> Manifest:
        """Only the rows where ``keep`` is true; the file and its hash are no longer its own."""
        frame = self.frame[np.asarray(keep, dtype=bool)].reset_index(drop=True)
        return Manifest(frame, self.root)

    def split(self, name: str) -> Manifest:
        """Only the rows of split ``name``.

        Raises
        ------
        InputError
            If no row belongs to it; the message names the splits there are.
        """
        keep = self.frame["split"] == name
        if not keep.any():
            present = sorted(self.frame["split"].dropna().unique())
            raise InputError(
                "no photograph belongs to this split",
                file=self.file,
                column="split",
                value=name,
                remedy=f"The manifest has {', '.join(present) or 'no splits'}",
            )
        return self.select(keep)

    def write(self, file: str | Path) -> Manifest:
        """Write as CSV or Parquet, by suffix, atomically; return the manifest as it reads back.

        Relative paths are rewritten to start from the new file's directory. Optional columns
        without any value are left out.
        """
        file = Path(file)
        parquet = _is_parquet(file)
        frame = self.frame.copy()
        frame = frame[[c for c in frame if c in MANIFEST_REQUIRED or frame[c].notna().any()]]
        for column in frame.columns.intersection(list(PATH_COLUMNS)):
            moved = [path and self.path_from(file.parent, path) for path in frame[column]]
            frame[column] = pd.Series(moved, dtype=object)
        with atomic_file(file) as stream:
            if parquet:
                frame.to_parquet(stream, index=False)
            else:
                text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(frame.columns)
                for row in frame.itertuples(index=False, name=None):
                    writer.writerow(["" if pd.isna(value) else value for value in row])
                text.flush()
                text.detach()
        return read_manifest(file)


def read_manifest(file: str | Path) -> Manifest:
    """Read a manifest and check all that can be checked without opening a photograph.

    Raises
    ------
    InputError
        If the file cannot be read as a table, lacks a required column, or has no rows.
    InputErrors
        Every bad cell at once: unsafe or repeated content_id, empty path, malformed sha256, width
        or height not a positive integer, weight not a positive number.
    """
    file = Path(file)
    parquet = _is_parquet(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the manifest: {error.strerror}", file=file) from error
    raw = (_parquet_columns if parquet else _csv_columns)(file, data)

    missing = [name for name in MANIFEST_REQUIRED if name not in raw]
    if missing:
        raise InputError(
            f"the manifest lacks {', '.join(missing)}",
            file=file,
            value=", ".join(raw),
            remedy="percept manifest scan FOLDER -o FILE makes a complete one",
        )
    for name in raw:
        close = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.85)
        if name not in COLUMNS and close and close[0] not in raw:
            raise InputError(
                "unknown column", file=file, column=name, remedy=f"Did you mean {close[0]!r}?"
            )

    errors: list[InputError] = []
    n_rows = len(raw["content_id"])
    if n_rows == 0:
        raise InputError("the manifest has no rows", file=file)
    columns: dict[str, Any] = {}
    for name in dict.fromkeys((*COLUMNS, *raw)):
        values = raw.get(name, [None] * n_rows)
        if name in ("width", "height"):
            sizes = [_positive_int(v, errors, file, i, name) for i, v in enumerate(values, 1)]
            columns[name] = pd.array(sizes, dtype="Int64")
        elif name == "weight":
            weights = [_positive_float(v, errors, file, i) for i, v in enumerate(values, 1)]
            columns[name] = pd.array(weights, dtype="Float64")
        else:
            columns[name] = pd.Series(values, dtype=object)
    frame = pd.DataFrame(columns, index=pd.RangeIndex(n_rows))

    seen: dict[str, int] = {}
    for row, (content_id, path, sha256) in enumerate(
        zip(raw["content_id"], raw["path"], raw["sha256"], strict=True), start=1
    ):
        if not is_safe_id(content_id or ""):
            errors.append(
                InputError(
                    "a content_id becomes a file name and this one cannot",
                    file=file,
                    row=row,
                    column="content_id",
                    value=content_id or "",
                    remedy=f"Use up to {MAX_ID_BYTES} bytes of letters, digits, _ - and .",
                )
            )
        else:
            first = seen.setdefault(_id_key(str(content_id)), row)
            if first != row:
                errors.append(
                    InputError(
                        f"the content_id of row {first} again (case does not count)",
                        file=file,
                        row=row,
                        column="content_id",
                        value=content_id,
                        remedy="Every photograph needs its own",
                    )
                )
        if not path or "\0" in path:
            errors.append(
                InputError(
                    "not the path of an image", file=file, row=row, column="path", value=path or ""
                )
            )
        if not _SHA256.fullmatch(sha256 or ""):
            errors.append(
                InputError(
                    "not a SHA-256 in 64 lower-case hexadecimal digits",
                    file=file,
                    row=row,
                    column="sha256",
                    value=sha256 or "",
                    remedy="sha256sum prints it",
                )
            )
    if errors:
        raise InputErrors(sorted(errors, key=lambda error: error.row or 0))
    return Manifest(frame, file.parent, file, hashlib.sha256(data).hexdigest())


def check_manifest(
    manifest: Manifest, *, progress: Callable[[int, int], None] | None = None
) -> list[InputError]:
    """Open every photograph, reference and mask, and return all that is wrong, in row order.

    Checked: hash of the photograph, decodability, size limit, width and height, repeated
    photographs (equal hash), and that references and masks have the photograph's size. A wrong
    hash of a ``package:`` image only warns (:class:`ManifestWarning`), since packages change;
    so does a degradation outside the vocabulary.

    Parameters
    ----------
    manifest : Manifest
    progress : callable, optional
        Called with (rows done, rows in all).
    """
    errors: list[InputError] = []
    first_with: dict[str, int] = {}
    rows = list(manifest.rows())
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for row, (values, found) in enumerate(
            zip(rows, pool.map(lambda values: _check_row(manifest, values), rows), strict=True), 1
        ):
            first = first_with.setdefault(values["sha256"], row)
            if first != row:
                found.append(
                    InputError(
                        f"the photograph of row {first} again",
                        column="sha256",
                        value=values["sha256"],
                        remedy="Remove one of the two rows",
                    )
                )
            for error in found:
                located = InputError(
                    error.message,
                    file=manifest.file,
                    row=row,
                    column=error.column,
                    value=error.value,
                    remedy=error.remedy,
                )
                if isinstance(error, _Doubt):
                    warnings.warn(str(located), ManifestWarning, stacklevel=2)
                else:
                    errors.append(located)
            if progress:
                progress(row, len(rows))
    return errors


@dataclass(frozen=True)
class Scan:
    """What :func:`scan_folder` found.

    Attributes
    ----------
    manifest : Manifest
        The photographs, in the order of their paths; its root is the folder.
    left_out : tuple of InputError
        Every file that looks like an image but is not in the manifest, with the reason, and every
        directory that could not be read.
    ignored : int
        Number of other files: not images by name nor by content, or hidden.
    """

    manifest: Manifest
    left_out: tuple[InputError, ...]
    ignored: int


def scan_folder(
    folder: str | Path,
    *,
    references: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Make a manifest of every photograph below ``folder``, symbolic links followed once.

    A file is taken for an image by its suffix or by its first bytes; it is decoded to make sure.
    Of files with the same bytes the first is kept. Names beginning with a dot are ignored. The
    content_id is the file's stem, with what a content_id may not hold replaced by ``_``, and with
    ``-2``, ``-3`` … added where it is taken.

    Parameters
    ----------
    folder : path
        Where the photographs are.
    references : path, optional
        Where their true colours are, as files of the same names, whatever the suffix; it may be
        the same folder. A photograph may have none.
    progress : callable, optional
        Called with the number of files done and their total.

    Raises
    ------
    InputError
        If a folder is not a directory, holds no image that can be read, or ``references`` has
        nothing, or several files, named like a photograph.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("not a directory", file=folder)
    left_out: list[InputError] = []
    candidates, ignored = _image_files(folder, left_out)
    true = _references(Path(references)) if references is not None else {}

    records: list[dict[str, Any]] = []
    taken: set[str] = set()
    first_with: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for done, (path, found) in enumerate(
            zip(candidates, pool.map(_inspect, candidates), strict=True), start=1
        ):
            name = path.relative_to(folder).as_posix()
            if isinstance(found, InputError):
                left_out.append(found)
            elif found[0] in first_with:
                left_out.append(
                    InputError(f"the same bytes as {first_with[found[0]]!r}", file=path)
                )
            else:
                sha256, height, width = found
                first_with[sha256] = name
                records.append(
                    {
                        "content_id": _make_id(path.stem, taken),
                        "path": name,
                        "sha256": sha256,
                        "width": width,
                        "height": height,
                        "reference_path": _reference(true, Path(name).with_suffix(""), folder),
                    }
                )
            if progress:
                progress(done, len(candidates))
    if not records:
        reasons = [InputError("no photograph found in this folder", file=folder), *left_out]
        raise InputErrors(reasons) if left_out else reasons[0]
    if references is not None and not any(record["reference_path"] for record in records):
        raise InputError("no file is named like a photograph", file=references,
                         key="references")  # fmt: skip
    return Scan(Manifest(make_frame(records), folder), tuple(left_out), ignored)


def _references(folder: Path) -> dict[Path, list[Path]]:
    """Images below a folder, by their path in it without the suffix."""
    if not folder.is_dir():
        raise InputError("not a directory", file=folder)
    found: dict[Path, list[Path]] = {}
    for path in _image_files(folder, [])[0]:
        found.setdefault(path.relative_to(folder).with_suffix(""), []).append(path)
    return found


def _reference(true: dict[Path, list[Path]], name: Path, folder: Path) -> str | None:
    files = true.get(name, [])
    if len(files) > 1:
        raise InputError(
            "several files could be the true colours of this photograph",
            file=files[0].parent,
            value=[file.name for file in files],
        )
    return Path(os.path.relpath(files[0], folder)).as_posix() if files else None


def sample_manifest(
    manifest: Manifest,
    n: int,
    by: Sequence[str] = ("era", "process", "degradation"),
    *,
    rng: np.random.Generator,
) -> Manifest:
    """Draw ``n`` photographs, stratified, with inclusion weights.

    Strata are the combinations of the values of the columns ``by`` (a missing value is a value of
    its own). Each stratum gets at least one draw, the others go in proportion to its size
    (Webster's method), without replacement. Where there are more strata than draws the smallest
    are merged into one called ``other``, so that every photograph can be drawn and the weights
    stay right.

    Parameters
    ----------
    manifest : Manifest
    n : int
        Photographs to draw, 1 to ``len(manifest)``.
    by : sequence of str
        Columns that make the strata; none draws a simple random sample.
    rng : numpy.random.Generator
        The result depends on its state and on the photographs, not on the order of the rows.

    Returns
    -------
    Manifest
        The drawn rows in their old order; ``stratum`` says which, ``weight`` is the number of
        photographs of the stratum for each one drawn (N_h / n_h, times the weight it already
        had). For an unweighted manifest the weights sum to its number of rows.

    Raises
    ------
    InputError
        If ``n`` is out of range or a column does not exist.
    """
    frame = manifest.frame
    if not 1 <= n <= len(frame):
        raise InputError(
            f"the number to draw must be from 1 to {len(frame)}, the number of rows",
            file=manifest.file,
            key="n",
            value=n,
        )
    unknown = [name for name in by if name not in frame]
    if unknown:
        raise InputError(
            "no such column to stratify by",
            file=manifest.file,
            key="by",
            value=", ".join(unknown),
            remedy=f"Columns are {', '.join(frame.columns)}",
        )
    labels = [
        ", ".join(f"{name}={'?' if pd.isna(row[name]) else row[name]}" for name in by) or "all"
        for row in manifest.rows()
    ]
    sizes = pd.Series(labels).value_counts()
    if len(sizes) > n:
        largest_first = sorted(sizes.index, key=lambda label: (-sizes[label], label))
        merged = set(largest_first[n - 1 :])
        labels = ["other" if label in merged else label for label in labels]
    members: dict[str, list[int]] = {}
    for position in sorted(range(len(frame)), key=lambda i: str(frame["content_id"].iloc[i])):
        members.setdefault(labels[position], []).append(position)

    counts = _allocate({label: len(rows) for label, rows in sorted(members.items())}, n)
    weight = np.zeros(len(frame))
    for label, count in counts.items():
        drawn = rng.choice(members[label], size=count, replace=False)
        weight[drawn] = len(members[label]) / count
    prior = frame["weight"].fillna(1.0).to_numpy(dtype=float)
    frame = frame.assign(
        stratum=pd.Series(labels, dtype=object), weight=pd.array(weight * prior, dtype="Float64")
    )
    return Manifest(frame, manifest.root).select(weight > 0)


def make_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows given as mappings, as the frame of a :class:`Manifest`."""
    records = list(records)
    columns: dict[str, Any] = {}
    for name in dict.fromkeys((*COLUMNS, *(name for record in records for name in record))):
        values = [record.get(name) for record in records]
        values = [None if pd.isna(value) else value for value in values]
        if name in ("width", "height"):
            columns[name] = pd.array(values, dtype="Int64")
        elif name == "weight":
            columns[name] = pd.array(values, dtype="Float64")
        else:
            columns[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns, index=pd.RangeIndex(len(records)))


def is_safe_id(content_id: str) -> bool:
    """Whether it may name files: the rule stands at the top of this module."""
    return (
        _SAFE_ID.fullmatch(content_id) is not None
        and len(content_id.encode("utf-8", "replace")) <= MAX_ID_BYTES
        and unicodedata.normalize("NFC", content_id) == content_id
    )


def load_rgb(path: str | Path, *, at_least: int | None = None) -> NDArray[np.uint8]:
    """Read a photograph as upright 8-bit sRGB.

    EXIF orientation is applied, an ICC profile is converted to sRGB (relative colorimetric, with
    black point compensation), transparency is laid over white, integers of more than 8 bits and
    floating point (0–1, 0–255 or 0–65535, whichever the largest value fits) are scaled, CMYK and
    palettes are converted; of an animation or a multi-page file the first picture is taken.

    Parameters
    ----------
    path : str or Path
    at_least : int, optional
        Decode a JPEG at a half, a quarter or an eighth, the smallest at which its larger side is
        still this many pixels. That is faster by as much, and not quite the picture scaled down.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    InputError
        If it is not a regular file, cannot be decoded, or has more than ``MAX_PIXELS`` pixels.
    """
    with _decoded(path, at_least) as image:
        alpha = None
        if image.has_transparency_data:
            image = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
            alpha = image.getchannel("A")
        profile = image.info.get("icc_profile")
        image = _through_profile(image, profile) if profile else image
        if alpha is not None:
            image = image.convert("RGB")
            image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
        rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
        # Band by band: converted at once, a large scan would exist four times over.
        rows = max(1, _BAND_PIXELS // image.width)
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(top + rows, image.height)))
            rgb[top : top + rows] = np.asarray(band.convert("RGB"))
        return rgb


def load_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read a mask: true where the picture is at least half bright.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    InputError
        As :func:`load_rgb`.
    """
    return load_rgb(path)[..., 1] >= 128


# ---------------------------------------------------------------------------------------------

_BAND_PIXELS = 1 << 22
_THREADS = min(8, os.cpu_count() or 1)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Doubt(InputError):
    """A finding that warns only."""


@contextmanager
def _decoded(path: str | Path, at_least: int | None = None) -> Iterator[Image.Image]:
    """Open and decode a file; every failure of the decoders becomes an InputError."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise InputError("not a file", file=path)
        # A stream, not a name: Pillow (13.0 at least) maps uncompressed grey TIFFs into memory by
        # their upright size and scrambles those that EXIF turns.
        with open(path, "rb") as stream, Image.open(stream, formats=_known_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path)
            if at_least is not None and isinstance(image, JpegImageFile):
                scale = at_least / max(image.size)
                image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
            image.load()
            yield _upright(image, _to_eight_bit(image, path))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except UnidentifiedImageError as error:
        raise InputError(
            "not an image that percept can read",
            file=path,
            remedy=f"It reads {', '.join(_known_formats())}, with 8 or 16 bits a channel",
        ) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
    except Exception as error:  # decoders of damaged files raise anything
        raise InputError(f"cannot be decoded: {error}", file=path) from error


def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _too_large(path: Path) -> InputError:
    return InputError(
        f"more than {MAX_PIXELS // 1_000_000} megapixels",
        file=path,
        remedy="Scale it down or cut it into parts",
    )


def _upright(original: Image.Image, image: Image.Image) -> Image.Image:
    try:
        orientation = original.getexif().get(0x0112)
    except Exception:  # a damaged EXIF block does not make the picture unreadable
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else _with_info(image.transpose(method), image.info)


def _to_eight_bit(image: Image.Image, path: str | Path) -> Image.Image:
    """Scale the single-channel modes of more than 8 bits; leave the rest as it is."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))[0]  # BitsPerSample; what else has more than 8 bits has 16
    if 2 in tags.get(339, ()) or (image.mode.startswith("I") and bits > 16):  # SampleFormat
        raise InputError(
            "signed or 32-bit integers, of unknown range",
            file=path,
            remedy="Save it with 8 or 16 bits",
        )
    if not (image.mode == "F" or image.mode.startswith("I")):
        return image
    values = np.asarray(image, dtype=np.float32)
    scale = 2.0**bits - 1
    if image.mode == "F":
        top = float(values.max())
        if not np.isfinite(values).all():
            raise InputError("holds values that are not finite", file=path)
        # A margin for overshoot of resampling; 8-bit data this dark would be black anyway.
        known = [scale for scale in (1.0, 255.0, 65535.0) if top <= 1.5 * scale]
        if not known:
            raise InputError(
                "floating point values of unknown range",
                file=path,
                value=top,
                remedy="Scale them to 0–1",
            )
        scale = known[0]
    levels = np.clip(values / np.float32(scale) * 255 + 0.5, 0, 255).astype(np.uint8)
    info = {key: value for key, value in image.info.items() if key != "transparency"}
    return _with_info(Image.fromarray(levels), info)


def _with_info(image: Image.Image, info: dict[str | tuple[int, int], Any]) -> Image.Image:
    image.info = info
    return image


def _through_profile(image: Image.Image, data: bytes) -> Image.Image:
    """Convert to sRGB; a profile that is damaged or for another kind of picture is ignored."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}[space]
        if mode == "RGB" and _is_srgb(profile):
            return image  # a round trip would only round
        if mode != image.mode:
            if mode != "RGB" and not (mode == "L" and image.mode in ("1", "LA")):
                return image
            image = image.convert(mode)
        return _to_srgb(image, profile)
    except (ImageCms.PyCMSError, OSError, KeyError):
        return image


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Judge by what it does to colours: "Linear sRGB" has the name too."""
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, levels.size, 3)
    converted = np.asarray(_to_srgb(Image.fromarray(lattice), profile), dtype=int)
    return int(np.abs(converted - lattice).max()) <= 2


def _to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return converted or image


def _inspect(path: Path) -> tuple[str, int, int] | InputError:
    """Hash, height and width of a photograph, or why it has none."""
    try:
        height, width, _ = load_rgb(path).shape
        return sha256_file(path), height, width
    except InputError as error:
        return error
    except OSError as error:
        return InputError(f"cannot be read: {error.strerror or error}", file=path)


def _check_row(manifest: Manifest, row: Mapping[str, Any]) -> list[InputError]:
    found: list[InputError] = []
    size = (row["height"], row["width"])
    for column in PATH_COLUMNS:
        path = row[column]
        if pd.isna(path):
            continue
        try:
            file = manifest.resolve(path)
        except InputError as error:
            found.append(InputError(error.message, column=column, value=path, remedy=error.remedy))
            continue
        inspected = _inspect(file)
        if isinstance(inspected, InputError):
            found.append(
                InputError(inspected.message, column=column, value=path, remedy=inspected.remedy)
            )
            continue
        sha256, height, width = inspected
        if column == "path":
            if sha256 != row["sha256"]:
                if path.startswith(PACKAGE):
                    found.append(
                        _Doubt(
                            f"{path} is not the image it was; the installed package has another "
                            "version of it",
                            column="sha256",
                            value=row["sha256"],
                        )
                    )
                else:
                    found.append(
                        InputError(
                            f"the hash of {path} is {sha256}",
                            column="sha256",
                            value=row["sha256"],
                            remedy="Restore the file, or scan again",
                        )
                    )
            for name, actual in (("height", height), ("width", width)):
                if row[name] != actual:
                    found.append(
                        InputError(
                            f"{path} has {actual} px, upright", column=name, value=int(row[name])
                        )
                    )
            size = (height, width)
        elif column != "reference_clean_path" and (height, width) != size:
            found.append(
                InputError(
                    f"{width}×{height} px, but the photograph has {size[1]}×{size[0]}",
                    column=column,
                    value=path,
                )
            )
    degradation = row["degradation"]
    if not pd.isna(degradation):
        unknown = [name for name in str(degradation).split(";") if name not in DEGRADATIONS]
        if unknown:
            found.append(
                _Doubt(
                    "a degradation percept does not know",
                    column="degradation",
                    value=";".join(unknown),
                    remedy=f"It knows {', '.join(DEGRADATIONS)}, separated by ;",
                )
            )
    return found


def _image_files(folder: Path, left_out: list[InputError]) -> tuple[list[Path], int]:
    """Every file that looks like an image, in the order of its path, and how many others."""

    def unreadable(error: OSError) -> None:
        left_out.append(
            InputError(f"cannot be read: {error.strerror or error}", file=error.filename)
        )

    candidates: list[Path] = []
    ignored = 0
    visited = {os.path.realpath(folder)}
    for directory, subdirectories, names in os.walk(folder, onerror=unreadable, followlinks=True):
        subdirectories.sort()
        for name in list(subdirectories):
            real = os.path.realpath(os.path.join(directory, name))
            if name.startswith(".") or real in visited:
                subdirectories.remove(name)
            visited.add(real)
        for name in names:
            path = Path(directory, name)
            if name.startswith(".") or not _looks_like_image(path):
                ignored += 1
            elif not _is_text(str(path.relative_to(folder))):
                left_out.append(InputError("its name is not valid UTF-8", file=repr(str(path))))
            else:
                candidates.append(path)
    return sorted(candidates, key=lambda path: path.relative_to(folder).parts), ignored


def _looks_like_image(path: Path) -> bool:
    if path.suffix.lower() in _IMAGE_SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with Image.open(path, formats=_known_formats()):
            return True
    except Exception:  # not an image by its first bytes, whatever the decoders say about it
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _make_id(stem: str, taken: set[str]) -> str:
    """Turn a file stem into a content_id that is safe and not in ``taken``, which it joins."""
    safe = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", stem)).strip(".-") or "photo"
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        room = MAX_ID_BYTES - len(suffix)
        candidate = safe.encode("utf-8")[:room].decode("utf-8", "ignore").rstrip(".-") + suffix
        if _id_key(candidate) not in taken:
            taken.add(_id_key(candidate))
            return candidate
        number += 1


def _id_key(content_id: str) -> str:
    """Equal for two ids whose files would collide on a file system that ignores case."""
    return unicodedata.normalize("NFC", content_id.casefold())


def _allocate(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """Share ``n`` draws among strata: one each, the rest by Webster's method, none over its size.

    Needs ``len(sizes) <= n <= sum(sizes.values())``.
    """
    counts = dict.fromkeys(sizes, 1)
    queue = [(-size / 3, label) for label, size in sizes.items() if size > 1]
    heapq.heapify(queue)
    for _ in range(n - len(counts)):
        _, label = heapq.heappop(queue)
        counts[label] += 1
        if counts[label] < sizes[label]:
            heapq.heappush(queue, (-sizes[label] / (2 * counts[label] + 1), label))
    return counts


def _is_parquet(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise InputError("a manifest's name ends in .csv or .parquet", file=file)
    return suffix == ".parquet"


def _csv_columns(file: Path, data: bytes) -> dict[str, list[str | None]]:
    # Not pandas: it guesses types, and takes a surplus field for an index.
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", file=file, remedy="Save the table as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"not a CSV table: {error}", file=file) from error
    lines = [line for line in lines if line]
    header = [name.strip() for name in lines[0]] if lines else []
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise InputError("a column appears twice", file=file, column=repeated[0])
    for row, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise InputError(
                f"{len(line)} fields where the header has {len(header)}",
                file=file,
                row=row,
                remedy="Put a value that holds a comma in double quotes",
            )
    return {
        name: [line[i] if line[i] != "" else None for line in lines[1:]]
        for i, name in enumerate(header)
    }


def _parquet_columns(file: Path, data: bytes) -> dict[str, list[str | None]]:
    try:
        table = pd.read_parquet(io.BytesIO(data))
    except Exception as error:  # pyarrow's errors share no narrower base
        raise InputError(f"not a Parquet table: {error}", file=file) from error
    return {
        str(name): [None if pd.isna(value) else str(value) for value in table[name]]
        for name in table
    }


def _positive_int(
    value: str | None, errors: list[InputError], file: Path, row: int, column: str
) -> int | None:
    text = (value or "").removesuffix(".0")  # spreadsheets and nullable columns write 512.0
    if len(text) <= 18 and text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    errors.append(
        InputError("not a size in pixels", file=file, row=row, column=column, value=value or "")
    )
    return None


def _positive_float(
    value: str | None, errors: list[InputError], file: Path, row: int
) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isfinite(number) and number > 0:
        return number
    errors.append(
        InputError("not a positive number", file=file, row=row, column="weight", value=value)
    )
    return None
