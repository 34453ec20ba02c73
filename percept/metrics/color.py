"""Colour differences, and the views of an image that several metrics share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from percept.color import srgb_to_lab
from percept.errors import InputError

if TYPE_CHECKING:
    from percept.metrics.palette import Palette

Array = npt.NDArray[Any]

_BLOCK = 1 << 14


def delta_e_2000(lab1: Array, lab2: Array) -> Array:
    """CIEDE2000 colour difference of each pixel pair (Sharma, Wu and Dalal 2005).

    Parameters
    ----------
    lab1, lab2 : array, shape (..., 3)
        CIE L*a*b*.

    Returns
    -------
    array of float64, shape (...)
        ΔE00, at least 0; about 1 is just noticeable side by side.
    """
    from skimage.color import deltaE_ciede2000

    # In blocks that stay in the processor's cache: skimage makes some twenty temporaries.
    first, second = np.broadcast_arrays(lab1, lab2)
    shape = first.shape[:-1]
    first, second = first.reshape(-1, 3), second.reshape(-1, 3)
    difference = np.empty(len(first))
    for start in range(0, len(first), _BLOCK):
        block = slice(start, start + _BLOCK)
        difference[block] = deltaE_ciede2000(first[block], second[block])
    return difference.reshape(shape)


class Picture:
    """An 8-bit sRGB image and its views, each computed once when first asked for.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3), or callable
        sRGB, or a function that reads it when it is needed.
    """

    def __init__(self, image: Array | Callable[[], Array]) -> None:
        self._image = image
        self._kept: dict[str, Any] = {}

    @cached_property
    def srgb(self) -> Array:
        """The image itself: uint8, shape (H, W, 3).

        Raises
        ------
        InputError
            Another shape or type, or whatever is wrong with the file.
        """
        image = self._image() if callable(self._image) else self._image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(
                "a picture is an array of uint8 with shape (height, width, 3)",
                value=f"{image.dtype} {image.shape}",
            )
        return image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.srgb.shape[0], self.srgb.shape[1]

    @cached_property
    def rgb(self) -> Array:
        """The sRGB image as float64 in [0, 1], shape (H, W, 3)."""
        return self.srgb / 255.0

    @cached_property
    def lab(self) -> Array:
        """CIE L*a*b*, float64, shape (H, W, 3)."""
        return srgb_to_lab(self.srgb)

    def keep(self, name: str, compute: Callable[[Picture], Any]) -> Any:
        """Return a derived quantity, computed by ``compute(self)`` on first use only."""
        if name not in self._kept:
            self._kept[name] = compute(self)
        return self._kept[name]


class Images:
    """What one stimulus is measured on: the output and what it is compared with.

    The conditions of one photograph share its ``source`` and ``reference``, and the metrics of
    one stimulus share all views, so that nothing is converted twice.

    Parameters
    ----------
    output : Picture or array
        The colorized image.
    source : Picture or array, optional
        The photograph it was made from.
    reference : Picture or array, optional
        The true colour image.
    mask : array of bool, shape (H, W), or callable, optional
        Where the photograph is damaged, or a function that reads it when it is needed.
    palette : Palette, optional
        Colours of photographs of its era or process.
    """

    def __init__(
        self,
        output: Picture | Array,
        *,
        source: Picture | Array | None = None,
        reference: Picture | Array | None = None,
        mask: Array | Callable[[], Array] | None = None,
        palette: Palette | None = None,
    ) -> None:
        self.output = _as_picture(output)
        self._mask, self._palette = mask, palette
        self._kept: dict[str, Any] = {}
        self._source = None if source is None else _as_picture(source)
        self._reference = None if reference is None else _as_picture(reference)

    @property
    def source(self) -> Picture:
        """The photograph.

        Raises
        ------
        InputError
            There is none, or it differs from the output in size.
        """
        return self._matching("source photograph", self._source)

    @property
    def reference(self) -> Picture:
        """The true colour image.

        Raises
        ------
        InputError
            There is none, or it differs from the output in size.
        """
        return self._matching("reference", self._reference)

    @property
    def mask(self) -> Array:
        """Where the photograph is damaged: bool, shape (H, W).

        Raises
        ------
        InputError
            There is no mask, or it differs from the output in size.
        """
        mask = self._mask() if callable(self._mask) else self._mask
        if mask is None:
            raise InputError("this metric needs a mask of the damage")
        if mask.shape != self.output.size:
            raise InputError("the mask and the output differ in size", value=mask.shape)
        return mask

    @property
    def palette(self) -> Palette:
        """Colours of photographs of the same era or process.

        Raises
        ------
        InputError
            There is none.
        """
        if self._palette is None:
            raise InputError("this metric needs a palette")
        return self._palette

    @cached_property
    def delta_e(self) -> Array:
        """CIEDE2000 between output and reference, shape (H, W)."""
        return delta_e_2000(self.output.lab, self.reference.lab)

    def keep(self, name: str, compute: Callable[[Images], Any]) -> Any:
        """Return what several metrics share, computed by ``compute(self)`` on first use only."""
        if name not in self._kept:
            self._kept[name] = compute(self)
        return self._kept[name]

    def _matching(self, name: str, picture: Picture | None) -> Picture:
        if picture is None:
            raise InputError(f"this metric needs the {name}")
        if picture.size != self.output.size:
            raise InputError(
                f"the {name} and the output differ in size",
                value=f"{_pixels(picture)} and {_pixels(self.output)}",
            )
        return picture


def _as_picture(image: Picture | Array) -> Picture:
    return image if isinstance(image, Picture) else Picture(image)


def _pixels(picture: Picture) -> str:
    height, width = picture.size
    return f"{width}×{height} pixels"
