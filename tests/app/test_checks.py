"""The colour-vision plates: dichromats see no digit, others do; and what counts as passed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app import checks
from percept.color import encode, srgb_to_lab

# Dichromats in linear sRGB: Machado, Oliveira & Fernandes (2009), severity 1.
SEEN_BY = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(plate: NDArray[np.uint8], by: str) -> NDArray[np.float64]:
    """Chromaticity a*, b* of each pixel as this dichromat sees it."""
    encoded = plate / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SEEN_BY[by]).T, 0, 1)
    return srgb_to_lab(np.rint(255 * encode(linear)).astype(np.uint8))


@pytest.mark.parametrize("axis", ["protan", "deutan", "tritan"])
def test_only_the_dichromat_of_an_axis_loses_the_digit(axis: checks.Axis) -> None:
    for digit in checks.DIGITS[:2]:
        png = checks.draw_plate(axis, digit, rng=np.random.default_rng(digit))
        plate = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        figure = checks._glyph(digit)
        # The flat middles of dots: no edge, no ground between them.
        same = (plate[1:-1, 1:-1] == plate[:-2, 1:-1]) & (plate[1:-1, 1:-1] == plate[1:-1, 2:])
        dots = np.pad(same.all(axis=2), 1) & (plate != 242).any(axis=2)

        def contrast(lab: NDArray[np.float64], on: NDArray[np.bool_] = dots & figure,
                     off: NDArray[np.bool_] = dots & ~figure) -> float:  # fmt: skip
            return float(np.hypot(*(lab[on][:, 1:].mean(axis=0) - lab[off][:, 1:].mean(axis=0))))

        normal = contrast(srgb_to_lab(plate))
        assert normal > 25
        for other in SEEN_BY:
            share = contrast(seen(plate, other)) / normal
            # Protans and deutans share most of their confusions.
            if other == axis:
                assert share < 0.3
            elif "tritan" in (other, axis):
                assert share > 0.5
        lightness = srgb_to_lab(plate)[..., 0]
        difference = lightness[dots & figure].mean() - lightness[dots & ~figure].mean()
        assert abs(difference) < 0.5 * lightness[dots].std()


def test_every_visitor_gets_other_plates_and_each_is_drawn_alike_again() -> None:
    first, again, other = (checks.choose_plates(rng=np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert first[3].png() == again[3].png()
    assert [plate.axis for plate in first] == list(checks.AXES)
    assert len({plate.digit for plate in first}) == len(checks.AXES)


def test_one_slip_passes_but_no_missed_axis_and_never_the_first_plate() -> None:
    plates = checks.choose_plates(rng=np.random.default_rng(0))
    right: list[int | None] = [plate.digit for plate in plates]
    assert checks.passed(plates, right)
    for missed in range(len(plates)):
        answers = right.copy()
        answers[missed] = None
        assert checks.passed(plates, answers) == (missed > 0)
    for axis in ("protan", "deutan", "tritan"):
        answers = [None if plate.axis == axis else plate.digit for plate in plates]
        assert not checks.passed(plates, answers)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, True),
        ({"dark_steps": 2}, False),
        ({"light_steps": 2}, False),
        ({"night_mode": "on"}, False),
        ({"night_mode": "unknown"}, True),
        ({"color_depth": 16}, False),
    ],
)
def test_a_display_must_show_steps_and_be_untinted(
    facts: dict[str, object], expected: bool
) -> None:
    good = {"dark_steps": 3, "light_steps": 6, "night_mode": "off", "color_depth": 24}
    assert checks.display_passed({**good, **facts}) is expected
