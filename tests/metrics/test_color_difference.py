from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from percept.color import srgb_to_lab
from percept.errors import InputError
from percept.metrics.color import Images, Picture, delta_e_2000

DATA = Path(__file__).resolve().parent.parent / "data"


def test_ciede2000_on_the_pairs_of_sharma() -> None:
    pairs = np.array(json.loads((DATA / "ciede2000_sharma.json").read_text())["pairs"])
    assert len(pairs) == 34
    expected = pairs[:, 6]
    np.testing.assert_allclose(delta_e_2000(pairs[:, :3], pairs[:, 3:6]), expected, atol=5.1e-5)
    np.testing.assert_allclose(delta_e_2000(pairs[:, 3:6], pairs[:, :3]), expected, atol=5.1e-5)


def test_ciede2000_of_a_large_image_equals_that_of_its_parts() -> None:
    """It is computed in blocks; the seams must not show."""
    rng = np.random.default_rng(1)
    first, second = (srgb_to_lab(rng.integers(0, 256, (150, 220, 3), dtype=np.uint8)) for _ in "ab")
    whole = delta_e_2000(first, second)
    assert whole.shape == (150, 220)
    for row in (0, 74, 149):
        np.testing.assert_array_equal(whole[row], delta_e_2000(first[row], second[row]))


def test_views_are_computed_once_and_files_read_when_needed() -> None:
    reads = []

    def read() -> np.ndarray:
        reads.append(1)
        return np.zeros((4, 5, 3), np.uint8)

    picture = Picture(read)
    assert not reads
    assert picture.lab is picture.lab
    assert picture.keep("twice", lambda p: p.rgb * 2) is picture.keep("twice", lambda p: None)
    assert len(reads) == 1


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float64)],
)
def test_a_picture_is_eight_bit_rgb(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8"):
        Images(image).output.size  # noqa: B018


def test_images_of_different_size_or_without_reference_are_named() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(InputError, match=r"reference and the output.*'4×4 pixels and 6×4 pixels'"):
        Images(image, reference=image[:, :4]).delta_e  # noqa: B018
    with pytest.raises(InputError, match="needs the reference"):
        Images(image, source=image).reference  # noqa: B018
