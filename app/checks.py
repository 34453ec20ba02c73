"""Checks of eyes and screens before a session: pseudo-isochromatic plates, and what a display told.

A plate is a disc of dots of random size and lightness. The dots of a digit differ from those of
the ground in chromaticity alone, along a line through the copunctal point of one kind of
dichromat, so that this dichromat sees no digit. Plates are drawn anew for every visitor; which
digit a plate shows stays in the server's memory, and only pass or fail is kept. On a screen of
unknown colours such plates screen, they do not diagnose.

Copunctal points: Wyszecki & Stiles (1982), Color Science, 2nd ed., table 1(5.14.2).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Axis = Literal["everyone", "protan", "deutan", "tritan"]

#: The plates of one visitor, in order; the first can be read by everyone and shows how it is done.
AXES: tuple[Axis, ...] = (
    "everyone",
    "protan",
    "deutan",
    "tritan",
    "deutan",
    "protan",
    "tritan",
)
DIGITS = (2, 3, 4, 5, 6, 7, 9)  # 8 is easily taken for others
ALLOWED_MISTAKES = 1  # beside the first plate: attention slips, but both plates of an axis do not
SIZE = 440  # pixels
GAP = 1.2  # pixels between dots
FEWEST_STEPS = 3  # of the six steps in the shadows, and in the highlights, that a display must show

_COPUNCTAL = {"protan": (0.747, 0.253), "deutan": (1.40, -0.40), "tritan": (0.171, 0.0)}
# Distance of digit and ground from the neutral, in x, y along the line; within sRGB at all
# lightnesses that are used.
_OFFSET = {"protan": 0.045, "deutan": 0.045, "tritan": 0.062}
_NEUTRAL = (0.3127, 0.3290)
_LUMINANCE = (0.22, 0.46)  # of a dot, random: lightness tells nothing
_FROM_XYZ = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)
_GROUND = (242, 242, 242)  # the sheet that the page is written on


@dataclass(frozen=True)
class Plate:
    """One plate: the axis it tests, the digit on it, and the seed of its dots."""

    axis: Axis
    digit: int
    seed: int

    def png(self) -> bytes:
        """Draw it, ``SIZE`` pixels square, on the colour of the page."""
        return draw_plate(self.axis, self.digit, rng=np.random.default_rng(self.seed))


def choose_plates(*, rng: np.random.Generator) -> tuple[Plate, ...]:
    """Choose the plates of one visitor; no digit comes twice."""
    return tuple(
        Plate(axis, int(digit), int(seed))
        for axis, digit, seed in zip(
            AXES, rng.permutation(DIGITS), rng.integers(2**32, size=len(AXES)), strict=True
        )
    )


def passed(plates: Sequence[Plate], answers: Sequence[int | None]) -> bool:
    """Whether these answers (None: no digit seen) pass.

    The plate for everyone must be read, and all others but ``ALLOWED_MISTAKES``.
    """
    wrong = [
        plate.axis for plate, answer in zip(plates, answers, strict=True) if plate.digit != answer
    ]
    return "everyone" not in wrong and len(wrong) <= ALLOWED_MISTAKES


def display_passed(facts: Mapping[str, Any]) -> bool:
    """Whether a display shows enough steps near black and white, in true colour, untinted."""
    return (
        min(facts["dark_steps"], facts["light_steps"]) >= FEWEST_STEPS
        and facts["color_depth"] >= 24
        and facts["night_mode"] != "on"
    )


def draw_plate(axis: Axis, digit: int, *, rng: np.random.Generator) -> bytes:
    """Draw a digit along an axis, as PNG."""
    centres, radii = _pack(rng)
    figure = _glyph(digit)[tuple(centres.astype(int).T[::-1])]
    colours = _colours(axis, figure, rng)
    scale = 2  # drawn larger, for smooth edges
    canvas = Image.new("RGB", (SIZE * scale, SIZE * scale), _GROUND)
    draw = ImageDraw.Draw(canvas)
    for (x, y), r, colour in zip(centres * scale, radii * scale, colours, strict=True):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(value) for value in colour))
    file = io.BytesIO()
    canvas.resize((SIZE, SIZE), Image.Resampling.BOX).save(file, "PNG")
    return file.getvalue()


def _glyph(digit: int) -> NDArray[np.bool_]:
    """Where the digit is, (SIZE, SIZE)."""
    image = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(0.9 * SIZE)
    centre = (SIZE / 2, SIZE / 2)
    draw.text(centre, str(digit), 255, font, anchor="mm", stroke_width=round(0.014 * SIZE))
    return np.asarray(image) > 127


def _pack(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dots of falling size that do not touch, in a disc: centres (n, 2) and radii (n,)."""
    centres = np.empty((0, 2))
    radii = np.empty(0)
    for radius, tries in ((8.0, 1500), (6.0, 2500), (4.2, 4000)):
        angle = rng.uniform(0, 2 * np.pi, tries)
        distance = (SIZE / 2 - radius - 2) * np.sqrt(rng.uniform(0, 1, tries))
        points = SIZE / 2 + distance[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        taken = _distances(points, centres) < radii + radius + GAP
        points = points[~taken.any(axis=1)]
        near = _distances(points, points) < 2 * radius + GAP
        free = np.zeros(len(points), bool)
        for index in range(len(points)):  # first come, first served
            free[index] = not (near[index] & free).any()
        centres = np.vstack([centres, points[free]])
        radii = np.append(radii, np.full(free.sum(), radius))
    return centres, radii


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])


def _colours(axis: Axis, figure: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Colours (n, 3) of the dots, 0 to 255."""
    luminance = rng.uniform(*_LUMINANCE, figure.size)
    line = "deutan" if axis == "everyone" else axis
    towards = np.subtract(_COPUNCTAL[line], _NEUTRAL)
    step = _OFFSET[line] * towards / np.hypot(*towards)
    # Neither end of the line always stands for the digit.
    sign = np.where(figure, 1.0, -1.0) * rng.choice((-1.0, 1.0))
    if axis == "everyone":
        luminance = np.where(figure, 0.6 * luminance.min(), luminance)
    x, y = (np.asarray(_NEUTRAL) + sign[:, None] * step).T
    xyz = luminance[:, None] * np.column_stack([x / y, np.ones_like(x), (1 - x - y) / y])
    linear = np.clip(xyz @ _FROM_XYZ.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.int64)
