from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.inference import color


def lab(rgb: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2lab

    return rgb2lab(rgb / 255.0)


def test_luminance_is_that_of_scikit_image():
    rgb = np.random.default_rng(0).integers(0, 256, (64, 65, 3), dtype=np.uint8)
    got = color.luminance(rgb)
    assert got.shape == (64, 65)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), lab(rgb)[..., 0], atol=1e-3)


def test_colours_are_those_of_scikit_image():
    rgb = np.random.default_rng(1).integers(0, 256, (64, 65, 3), dtype=np.uint8)
    values = torch.from_numpy(lab(rgb)).float()
    back = color.to_srgb(values[..., 0], values[..., 1:].permute(2, 0, 1))
    # The two white points differ by less than 0.01 in a* and b*.
    assert np.abs(back.astype(int) - rgb).max() <= 1
    assert np.mean(back != rgb) < 0.02


def test_every_grey_survives_and_has_no_colour():
    rgb = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    back = color.to_srgb(color.luminance(rgb), torch.zeros(2, 1, 256))
    np.testing.assert_array_equal(back, rgb)


def test_white_and_black_are_the_ends_of_lightness():
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    np.testing.assert_allclose(color.luminance(ends).numpy(), [[0, 100]], atol=1e-4)


@pytest.mark.parametrize("pixels", [1, 7, color._STRIP["cpu"] - 1, color._STRIP["cpu"] + 1])
def test_strips_change_nothing(pixels):
    rng = torch.Generator().manual_seed(pixels)
    luminance = torch.rand(1, pixels, generator=rng) * 100
    chroma = torch.rand(2, 1, pixels, generator=rng) * 240 - 120
    whole = color.to_srgb(luminance, chroma)
    last = color.to_srgb(luminance[:, -1:], chroma[..., -1:])
    np.testing.assert_array_equal(whole[:, -1:], last)


angles = st.floats(0, 2 * np.pi)


@settings(max_examples=200, deadline=None)
@given(lightness=st.floats(3, 97), chroma=st.floats(0, 180), hue=angles)
def test_the_gamut_keeps_lightness_and_hue_and_gives_no_more_chroma(lightness, chroma, hue):
    ab = chroma * np.array([np.cos(hue), np.sin(hue)], dtype=np.float32)
    rgb = color.to_srgb(torch.tensor([[lightness]]), torch.from_numpy(ab)[:, None, None])
    got = lab(rgb)[0, 0]
    got_chroma = np.hypot(got[1], got[2])
    # Eight bits are coarsest in the dark, where a level is worth most.
    slack = 1.0 if lightness > 15 else 2.5
    assert got[0] == pytest.approx(lightness, abs=slack)
    assert got_chroma <= chroma + 2 * slack
    across = abs(got[2] * np.cos(hue) - got[1] * np.sin(hue))
    assert across < 2 * slack
    assert got[1] * np.cos(hue) + got[2] * np.sin(hue) > -slack


@settings(max_examples=100, deadline=None)
@given(lightness=st.floats(5, 95), hue=angles)
def test_the_gamut_gives_all_the_chroma_there_is(lightness, hue):
    direction = np.array([np.cos(hue), np.sin(hue)])
    rgb = color.to_srgb(
        torch.tensor([[lightness]]), torch.tensor(direction * 180).float()[:, None, None]
    )
    # sRGB's edge is a colour with a channel at either end; eight bits may be off by one.
    assert rgb.min() <= 1 or rgb.max() >= 254


def test_srgb_is_rounded_and_clipped():
    values = torch.tensor([[[-0.2, 0.0, 0.5]], [[0.0021, 1.0, 1.2]], [[1.0, 0.25, 0.0]]])
    got = color.quantize(values)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, [[[0, 1, 255], [0, 255, 64], [128, 255, 0]]])


def test_eight_bits_by_table_are_those_of_the_formula():
    from percept.color import encode

    grey = np.linspace(0, 1, 400_001, dtype=np.float32)
    exact = encode(grey.astype(np.float64)) * 255
    level, change = (table.numpy() for table in color._TABLES)
    bins = (grey * np.float32(color._BINS)).astype(np.int32)
    got = level[bins] + (grey >= change[bins])
    near = np.abs(exact - np.floor(exact) - 0.5) < 1e-4  # where float32 may fall on either side
    np.testing.assert_array_equal(got[~near], np.rint(exact)[~near])
    assert np.abs(got - exact).max() < 0.501


def test_a_grey_picture_has_the_luminance_of_its_three_channels():
    grey = np.random.default_rng(2).integers(0, 256, (40, 30), dtype=np.uint8)
    whole = color.luminance(np.repeat(grey[..., None], 3, axis=2))
    assert torch.equal(color.luminance(grey), whole)
