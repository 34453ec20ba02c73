from __future__ import annotations

import numpy as np
import pytest
from metric_samples import photograph

from percept.color import lab_to_srgb_in_gamut
from percept.metrics import traits
from percept.metrics.color import Images, Picture

SCENE = np.zeros((96, 128, 3))
SCENE[..., 0] = 50 + 8 * np.sin(np.arange(128) / 9)
SCENE[:48, :64, 1:] = (24, 10)
SCENE[:48, 64:, 1:] = (-20, 18)
SCENE[48:, :64, 1:] = (2, -26)
TRUE = lab_to_srgb_in_gamut(SCENE)


def measured(trait, ab: np.ndarray) -> float:
    output = lab_to_srgb_in_gamut(np.concatenate([SCENE[..., :1], ab], axis=-1))
    return trait(Images(output, reference=TRUE))


def moved(a: float, b: float) -> np.ndarray:
    return SCENE[..., 1:] + np.array([a, b])


def only(rows: slice, columns: slice, colour: tuple[float, float]) -> np.ndarray:
    ab = SCENE[..., 1:].copy()
    ab[rows, columns] = colour
    return ab


EDITS = {
    "pale": SCENE[..., 1:] * 0.5,
    "vivid": SCENE[..., 1:] * 1.3,
    "uniform": SCENE[..., 1:] * 0.5,
    "varied": SCENE[..., 1:] * 1.3,
    "toned": np.repeat(SCENE[..., :1] - 50, 2, axis=-1),
    "few_hues": only(slice(None), slice(None), (20, 10)),
    "many_hues": only(slice(48, 96), slice(64, 128), (0, 30)),
    "flat_areas": SCENE[..., 1:] * 0.5,
    "strong_areas": SCENE[..., 1:] * 1.3,
    "green_cast": moved(-8, 0),
    "red_cast": moved(8, 0),
    "blue_cast": moved(0, -8),
    "yellow_cast": moved(0, 8),
    "soft_edges": SCENE[..., 1:] * 0.5,
    "hard_edges": SCENE[..., 1:] * 1.3,
    "edge_mismatch": np.roll(SCENE[..., 1:], 9, axis=(0, 1)),
    "uneven_change": SCENE[..., 1:] * 0.5,
    "worst_region": only(slice(0, 48), slice(0, 64), (-20, -20)),
    "merged_regions": only(slice(0, 48), slice(0, 128), (24, 10)),
    "split_regions": only(slice(0, 24), slice(0, 64), (-20, -20)),
    "disordered_regions": only(slice(48, 96), slice(0, 64), (24, 10)),
    "uncoloured_regions": only(slice(0, 48), slice(0, 64), (0, 0)),
    "coloured_greys": only(slice(48, 96), slice(64, 128), (20, 20)),
}


@pytest.mark.parametrize("trait", traits.TRAITS, ids=lambda trait: trait.__name__)
def test_true_colours_have_no_trait_and_each_edit_has_its_own(trait) -> None:
    assert measured(trait, SCENE[..., 1:]) == pytest.approx(0, abs=1e-9)
    if trait is traits.loose:  # colours that follow lightness exactly, loosened by noise
        gray = photograph(2, 80, 90)[..., :1]
        tone = np.concatenate([gray, gray * 0.9, gray * 0.7], axis=-1).astype(np.uint8)
        noisy = np.clip(tone + np.random.default_rng(1).normal(0, 20, tone.shape), 0, 255)
        assert trait(Images(noisy.astype(np.uint8), reference=tone)) > 0.5
        return
    assert measured(trait, EDITS[trait.__name__]) > 0.02


def test_casts_are_in_units_of_a_and_b() -> None:
    assert measured(traits.red_cast, moved(5, 0)) == pytest.approx(5, abs=0.3)
    assert measured(traits.red_cast, moved(-5, 0)) == 0
    assert measured(traits.blue_cast, moved(0, -5)) == pytest.approx(5, abs=0.3)
    assert measured(traits.uneven_change, moved(5, 0)) < 0.7


@pytest.mark.parametrize("name", ["edge_mismatch", "disordered_regions"])
def test_a_grey_output_has_nothing_in_the_right_place(name: str) -> None:
    trait = getattr(traits, name)
    gray = np.full((96, 128, 3), 90, np.uint8)
    assert trait(Images(gray, reference=TRUE)) == pytest.approx(1, abs=1e-6)
    assert trait(Images(gray, reference=gray)) == 0


def test_all_traits_share_what_they_need() -> None:
    """Regions of the reference are found once for all outputs."""
    reference = Picture(TRUE)
    for _ in range(2):
        traits.split_regions(Images(TRUE, reference=reference))
    assert reference.keep("regions", lambda _: pytest.fail("computed again"))
