from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from percept.errors import InputError
from percept.inference.images import BAND_PIXELS, Encoding, Picture, bands, new_picture


def encode(rgb: np.ndarray, cuts: list[int], **settings: object) -> tuple[bytes, Picture]:
    stream = io.BytesIO()
    picture = Picture(stream, rgb.shape[1], rgb.shape[0], Encoding(**settings))
    for start, stop in zip([0, *cuts], [*cuts, len(rgb)], strict=True):
        picture.write(rgb[start:stop])
    picture.finish()
    return stream.getvalue(), picture


def noise(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (200, 1), (37, 41)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_png_holds_the_pixels_wherever_it_is_cut(height, width, level):
    rgb = noise(height, width)
    cuts = [height // 3, height // 3 + 1] if height > 3 else []
    data, picture = encode(rgb, cuts, png_level=level)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
        np.testing.assert_array_equal(np.asarray(image), rgb)
    assert picture.bytes == len(data)
    assert picture.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("settings", "limit"),
    [({"format": "jpeg"}, 6), ({"format": "webp"}, 0)],
)
def test_other_formats_are_close_and_keep_colour_at_full_resolution(settings, limit):
    rgb = np.zeros((64, 64, 3), dtype=np.uint8)
    rgb[:, ::2], rgb[:, 1::2] = (200, 90, 90), (90, 90, 200)  # lost if colour were subsampled
    data, _ = encode(rgb, [20], **settings)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == settings["format"].upper()
        difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - rgb)
    assert difference.mean() <= limit


def test_quality_is_that_of_jpeg():
    small, large = (encode(noise(64, 64), [], format="jpeg", quality=q)[0] for q in (30, 95))
    assert len(small) < len(large)
    assert Encoding("jpeg", quality=30).settings() == {"format": "jpeg", "quality": 30}


def test_a_picture_that_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    file = tmp_path / "a.webp"

    def write() -> None:
        with new_picture(file, 1, 16384, Encoding("webp")) as picture:
            picture.write(noise(16384, 1))
            picture.finish()

    with pytest.raises(InputError, match="1×16384 pixels cannot be written as webp"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"format": "gif"}, "unknown format"),
        ({"png_level": 10}, "from 0 to 9"),
        ({"quality": 0}, "from 1 to 100"),
    ],
)
def test_bad_encodings_are_refused(settings, problem):
    with pytest.raises(InputError, match=problem):
        Encoding(**settings)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5000, 3000), (3, BAND_PIXELS * 2)])
def test_bands_cover_every_row_once(height, width):
    cut = list(bands(height, width))
    assert [row for band in cut for row in range(height)[band]] == list(range(height))
    assert all((band.stop - band.start) * width <= max(BAND_PIXELS, width) for band in cut)
