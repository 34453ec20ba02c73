from __future__ import annotations

import math

import numpy as np
import pytest
from metric_samples import photograph

from percept.metrics import vintage
from percept.metrics.color import Images


def test_colorfulness_worked_by_hand() -> None:
    """Half pure red, half pure blue.

    rg is 255 and 0, yb 127.5 and -255: means 127.5 and -63.75, deviations 127.5 and 191.25.
    """
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = (255, 0, 0)
    image[1] = (0, 0, 255)
    expected = math.sqrt(127.5**2 + 191.25**2) + 0.3 * math.sqrt(127.5**2 + 63.75**2)
    assert vintage.colorfulness(Images(image)) == pytest.approx(expected, rel=1e-12)


def test_colorfulness_is_the_signed_variant() -> None:
    """Complementary halves: with |rg| the deviation would vanish, and so would this number."""
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = (200, 100, 150)
    image[1] = (100, 200, 150)
    assert vintage.colorfulness(Images(image)) == pytest.approx(100.0, rel=1e-12)


def test_grey_has_no_colorfulness_and_saturation_raises_it() -> None:
    image = photograph(3, 30, 30)
    gray = np.repeat(image[..., :1], 3, axis=2)
    pale = (image * 0.5 + 64).astype(np.uint8)
    values = [vintage.colorfulness(Images(picture)) for picture in (gray, pale, image)]
    assert values[0] == 0.0
    assert values == sorted(values)
    assert values[2] > 1.9 * values[1] > 0


def test_luminance_fidelity_of_a_known_change() -> None:
    """CIE L* of two grey levels, by its definition."""
    dark, light = (np.full((6, 6, 3), value, np.uint8) for value in (119, 145))
    light_y, dark_y = (((value / 255 + 0.055) / 1.055) ** 2.4 for value in (145, 119))
    expected = 116 * (light_y ** (1 / 3) - dark_y ** (1 / 3))
    assert expected == pytest.approx(10.138, abs=1e-3)
    value = vintage.luminance_fidelity(Images(light, source=dark))
    assert value == pytest.approx(expected, rel=1e-9)
    assert vintage.luminance_fidelity(Images(dark, source=dark)) == 0.0


def test_luminance_fidelity_forgives_colour_but_not_tone() -> None:
    gray = np.full((6, 6, 3), 128, np.uint8)
    tinted = np.broadcast_to(np.uint8([164, 115, 107]), (6, 6, 3))  # the same L* 53.6, warm
    darker = np.full((6, 6, 3), 120, np.uint8)
    assert vintage.luminance_fidelity(Images(tinted, source=gray)) < 0.5
    assert vintage.luminance_fidelity(Images(darker, source=gray)) > 2.5
