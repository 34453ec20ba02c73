"""Pictures on their way to disk: in bands of rows, so that no more than a band need exist."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.errors import InputError
from percept.files import atomic_file

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
# The lowest level takes a quarter of zlib's default time for files that are a little larger.
PNG_LEVEL = 1
QUALITY = 95
# Rows are handed on in bands of about this many pixels.
BAND_PIXELS = 1 << 20


@dataclass(frozen=True)
class Encoding:
    """How pictures are written.

    Attributes
    ----------
    format : str
        ``png``, ``jpeg`` (its colour at full resolution) or ``webp`` (lossless: the other kind
        halves the resolution of colour).
    png_level : int
        zlib level of PNG, 0 to 9.
    quality : int
        Quality of JPEG, 1 to 100.

    Raises
    ------
    InputError
        If one of them is out of its range.
    """

    format: str = "png"
    png_level: int = PNG_LEVEL
    quality: int = QUALITY

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise InputError(
                "unknown format",
                key="format",
                value=self.format,
                remedy=f"Use {', '.join(SUFFIXES)}.",
            )
        if not 0 <= self.png_level <= 9:
            raise InputError("must be from 0 to 9", key="png-level", value=self.png_level)
        if not 1 <= self.quality <= 100:
            raise InputError("must be from 1 to 100", key="quality", value=self.quality)

    @property
    def suffix(self) -> str:
        """What the files' names end in."""
        return SUFFIXES[self.format]

    def settings(self) -> dict[str, Any]:
        """Return what of it has a say in the files' bytes."""
        own = {"png": {"png_level": self.png_level}, "jpeg": {"quality": self.quality}}
        return {"format": self.format, **own.get(self.format, {})}


def bands(height: int, width: int) -> Iterator[slice]:
    """Cut a picture into bands of rows, of about ``BAND_PIXELS``; a function of its size alone."""
    rows = max(1, BAND_PIXELS // width)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


class Picture:
    """A picture that is being written from top to bottom.

    Attributes
    ----------
    bytes : int
        Written so far.
    """

    def __init__(self, stream: IO[bytes], width: int, height: int, encoding: Encoding) -> None:
        self.bytes = 0
        self._stream, self._hash = stream, hashlib.sha256()
        self._size, self._encoding = (height, width), encoding
        self._rows = 0
        if encoding.format == "png":
            self._deflate = zlib.compressobj(encoding.png_level, wbits=15, memLevel=9)
            self._above: NDArray[np.uint8] = np.zeros(3 * width, dtype=np.uint8)
            self._put(b"\x89PNG\r\n\x1a\n")
            self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        else:  # their encoders want all of it
            self._whole = np.empty((height, width, 3), dtype=np.uint8)

    @property
    def sha256(self) -> str:
        """Hash of what was written so far."""
        return self._hash.hexdigest()

    def write(self, rows: NDArray[np.uint8]) -> None:
        """Add rows, shape (n, W, 3)."""
        start, self._rows = self._rows, self._rows + len(rows)
        if self._encoding.format != "png":
            self._whole[start : self._rows] = rows
            return
        # Each row as its difference from the one above (PNG's filter 2): one subtraction for the
        # whole band. Trying five filters on each row, as libraries do, takes longer than zlib.
        flat = rows.reshape(len(rows), -1)
        data = np.empty((len(rows), 1 + flat.shape[1]), dtype=np.uint8)
        data[:, 0] = 2
        np.subtract(flat[:1], self._above, out=data[:1, 1:])
        np.subtract(flat[1:], flat[:-1], out=data[1:, 1:])
        self._above = flat[-1].copy()
        self._chunk(b"IDAT", self._deflate.compress(data.data))

    def finish(self) -> None:
        """Complete the file.

        Raises
        ------
        InputError
            If the format cannot hold a picture of this size.
        """
        if self._encoding.format == "png":
            self._chunk(b"IDAT", self._deflate.flush())
            self._chunk(b"IEND", b"")
            return
        options: dict[str, Any] = {"lossless": True, "quality": 0, "method": 0}  # fastest
        if self._encoding.format == "jpeg":
            options = {"quality": self._encoding.quality, "subsampling": 0}
        buffer = io.BytesIO()
        try:
            Image.fromarray(self._whole).save(buffer, self._encoding.format.upper(), **options)
        except (OSError, ValueError) as error:
            height, width = self._size
            raise InputError(
                f"{width}×{height} pixels cannot be written as {self._encoding.format}: {error}"
            ) from None
        self._put(buffer.getbuffer())

    def _chunk(self, kind: bytes, data: bytes) -> None:
        if data or kind != b"IDAT":
            check = zlib.crc32(data, zlib.crc32(kind))
            for part in (struct.pack(">I", len(data)), kind, data, struct.pack(">I", check)):
                self._put(part)

    def _put(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self.bytes += len(data)


@contextmanager
def new_picture(file: Path, width: int, height: int, encoding: Encoding) -> Iterator[Picture]:
    """Write a picture that appears under its name when it is whole; see ``percept.files``."""
    with atomic_file(file) as stream:
        yield Picture(stream, width, height, encoding)
