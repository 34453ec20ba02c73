from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from metric_samples import photograph

from percept.color import lab_to_srgb_in_gamut
from percept.errors import InputError
from percept.metrics import vintage
from percept.metrics.color import Images, Picture
from percept.metrics.palette import choose, make_palette, read_palettes, write_palettes


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


def test_colorfulness_abs_takes_absolute_values_first() -> None:
    """Complementary halves have |rg| = 100 and yb = 0 everywhere: no deviation, a mean of 100."""
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = (200, 100, 150)
    image[1] = (100, 200, 150)
    assert vintage.colorfulness_abs(Images(image)) == pytest.approx(30.0, rel=1e-12)


def test_luminance_ssim_is_that_of_lightness_alone() -> None:
    from skimage.metrics import structural_similarity

    source = photograph(3, 40, 50)
    output = (source * 0.7 + np.array([50, 10, 0])).astype(np.uint8)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    planes = [Picture(image).lab[..., 0] for image in (output, source)]
    expected = structural_similarity(*planes, data_range=100.0, **settings)
    value = vintage.luminance_ssim(Images(output, source=source))
    assert value == pytest.approx(expected, abs=1e-9)


def squares(shift: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """A grey photograph of bright squares on dark, and the squares in red, moved by ``shift``."""
    lab = np.zeros((200, 300, 3))
    lab[..., 0] = 35
    for y, x in ((30, 40), (110, 60), (60, 180), (120, 230)):
        lab[y : y + 45, x : x + 45, 0] = 65
    red = np.roll(lab[..., 0] > 50, shift, axis=(0, 1))
    source = lab_to_srgb_in_gamut(lab)
    lab[..., 1:] = red[..., None] * np.array([30.0, 15.0])
    return lab_to_srgb_in_gamut(lab), source


@pytest.mark.parametrize("shift", [(0, 0), (4, 0), (0, -7), (5, 12)])
def test_chroma_lag_finds_a_known_shift(shift: tuple[int, int]) -> None:
    output, source = squares(shift)
    expected = 100 * math.hypot(*shift) / math.hypot(200, 300)
    assert vintage.chroma_lag(Images(output, source=source)) == pytest.approx(expected, abs=0.03)


def test_colours_inside_the_lines_do_not_bleed() -> None:
    inside, shifted = (
        vintage.chroma_bleeding(Images(output, source=source))
        for output, source in (squares(), squares((9, 9)))
    )
    assert inside < 0.02
    assert shifted > 0.5


def test_grain_retention_of_known_changes() -> None:
    """All kept: 1. Smoothed away: 0. Other grain in its place: -1."""
    rng = np.random.default_rng(1)
    grain, other = rng.normal(0, 8, (2, 120, 140))
    source, none, fresh = (
        np.repeat((128 + layer)[..., None], 3, axis=2).round().clip(0, 255).astype(np.uint8)
        for layer in (grain, np.zeros_like(grain), other)
    )
    found = [
        vintage.grain_retention(Images(image, source=source)) for image in (source, none, fresh)
    ]
    assert found[0] == 1.0
    assert found[1] == pytest.approx(0.0, abs=1e-9)
    assert found[2] == pytest.approx(-1.0, abs=0.1)
    assert math.isnan(vintage.grain_retention(Images(none, source=none)))


def test_artifact_chroma_is_the_colour_of_a_scratch() -> None:
    lab = np.full((100, 150, 3), [50.0, 10.0, 10.0])
    mask = np.zeros((100, 150), bool)
    mask[20:80, 70:73] = True
    lab[mask, 1:] += (6.0, -8.0)
    output = lab_to_srgb_in_gamut(lab)
    value = vintage.artifact_chroma(Images(output, mask=mask))
    assert value == pytest.approx(10 / math.hypot(10, 10), abs=0.06)
    lab[..., 1:] *= 0.4
    paler = vintage.artifact_chroma(Images(lab_to_srgb_in_gamut(lab), mask=mask))
    assert paler == pytest.approx(value, rel=0.06), "as much of the picture's colour as before"
    lab[..., 1:] = 0
    grey = lab_to_srgb_in_gamut(lab)
    assert math.isnan(vintage.artifact_chroma(Images(grey, mask=mask))), "gray is not the best"
    assert math.isnan(vintage.artifact_chroma(Images(output, mask=np.ones_like(mask))))
    with pytest.raises(InputError, match="mask and the output differ"):
        vintage.artifact_chroma(Images(output, mask=mask[1:]))


def test_palette_distance_of_flat_colours_is_what_they_are_apart() -> None:
    """Moving a point by d costs |d cos| in each direction: 2/π of d on average."""
    palette = make_palette([np.full((5, 5, 2), [21.0, -9.0])], {})
    ab = np.full((8, 9, 2), [51.0, -49.0])
    assert palette.distance(ab) == pytest.approx(50 * 2 / math.pi, rel=0.01)
    assert palette.distance(np.full((3, 3, 2), [21.0, -9.0])) == 0.0


def test_a_palette_survives_its_file_and_is_chosen_by_facts(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    general, era = (
        make_palette([rng.normal(size=(20, 20, 2)) * 20], group) for group in ({}, {"era": "1910s"})
    )
    write_palettes(tmp_path / "p.json", [general, era])
    read = read_palettes(tmp_path / "p.json")
    ab = rng.normal(size=(30, 2)) * 30
    assert read[0].distance(ab) == pytest.approx(general.distance(ab), rel=1e-4)
    assert choose(read, {"era": "1910s"}) is read[1]
    assert choose(read, {"era": "1950s"}) is choose(read, {}) is read[0]
    assert choose(read[1:], {"era": None}) is None


def test_grey_images_have_no_edges_of_colour() -> None:
    gray = np.repeat(photograph(3, 40, 50)[..., :1], 3, axis=2)
    images = Images(gray, source=gray)
    for metric in (vintage.chroma_bleeding, vintage.chroma_lag, vintage.patchiness):
        assert math.isnan(metric(images))


def test_each_metric_answers_to_its_own_edit_and_hardly_to_others() -> None:
    """The page says so, and it is what the metrics do now."""
    tool = dose_response()
    measured = tool.measure()
    page = tool.PAGE.read_text(encoding="utf-8")
    told, found = (re.split(r"(\d+)", text) for text in (page, tool.render(measured)))
    assert told[::2] == found[::2], "run 'make docs' and commit docs/metrics.md"
    numbers = (np.array(parts[1::2], dtype=float) for parts in (told, found))
    np.testing.assert_allclose(*numbers, atol=2, err_msg="run 'make docs'")
    assert (tool.rising(measured) == 1.0).all()
    table = tool.responses(measured)
    for metric, (claimed, also) in tool.CLAIMS.items():
        others = table.loc[metric].drop([claimed, *also])
        if metric.startswith("colorfulness"):  # by its published definition, as the page tells
            assert others.pop("hue") < 40
        assert others.max() < 20, f"{metric}: {others.to_dict()}"


def dose_response() -> ModuleType:
    file = Path(__file__).parents[2] / "docs" / "dose_response.py"
    spec = importlib.util.spec_from_file_location("docs_dose_response", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
