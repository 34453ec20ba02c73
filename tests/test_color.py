from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.color import lab_to_srgb_in_gamut, srgb_to_lab
from percept.files import package_file
from percept.manifest import load_rgb


def test_lab_equals_scikit_image_on_every_kind_of_colour() -> None:
    from skimage.color import rgb2lab

    steps = np.arange(0, 256, 15, dtype=np.uint8)
    # its white point differs in the fifth digit, for the sake of exactly neutral greys
    image = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(18, -1, 3)
    np.testing.assert_allclose(srgb_to_lab(image), rgb2lab(image), atol=6e-3)


def test_greys_are_neutral_and_white_is_a_hundred() -> None:
    """A wrong white point shows here: a D50 one gives white b* = -19."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    lab = srgb_to_lab(greys)
    assert np.abs(lab[..., 1:]).max() < 1e-12
    assert np.all(np.diff(lab[0, :, 0]) > 0)
    np.testing.assert_allclose(lab[0, [0, 255], 0], [0, 100], atol=1e-9)


def test_colours_come_back_unchanged() -> None:
    """Colours keep within a level, through single precision, and every grey exactly."""
    coffee = load_rgb(package_file("package:skimage/data/coffee.png"))
    lab = srgb_to_lab(coffee, dtype=np.float32)
    assert np.abs(lab_to_srgb_in_gamut(lab).astype(int) - coffee).max() <= 1
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(lab_to_srgb_in_gamut(srgb_to_lab(levels)), levels)


@settings(deadline=None, max_examples=60)
@given(st.floats(1, 99), st.floats(0, 2 * np.pi), st.floats(0, 150))
def test_colours_outside_srgb_keep_lightness_and_hue(
    light: float, hue: float, chroma: float
) -> None:
    from skimage.color import rgb2lab

    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    shown = lab_to_srgb_in_gamut(np.array([[light, a, b]], dtype=np.float32))
    after = rgb2lab(shown / 255.0)[0]
    assert abs(after[0] - light) < 0.4
    left = np.hypot(*after[1:])
    assert left < chroma + 1.5
    # across the hue there is only what rounding to 8 bits leaves
    across = abs(after[1] * np.sin(hue) - after[2] * np.cos(hue))
    assert across < 1.5


def test_no_more_chroma_is_lost_than_must_be() -> None:
    from skimage.color import rgb2lab

    red = rgb2lab(np.array([[[1.0, 0, 0]]]))[0, 0]
    lab = np.array([[red[0], red[1] * 1.5, red[2] * 1.5]], dtype=np.float32)
    assert np.abs(lab_to_srgb_in_gamut(lab).astype(int) - [255, 0, 0]).max() <= 1
