"""Regions: what a mark covers, agreement on it, and maps with sampling weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from percept.errors import InputError
from percept.stats import region_agreement, region_map
from percept.store.masks import decode_mask, encode_mask

COLUMNS = ["observer", "content", "condition", "trial", "x", "y", "width", "height", "mask"]


def marks(*rows):
    return pd.DataFrame(
        [
            (person, content, "m", f"{person}-{content}", *box, mask)
            for person, content, box, mask in rows
        ],
        columns=COLUMNS,
    )


HALF = (0.0, 0.0, 0.5, 1.0)
FULL = (0.0, 0.0, 1.0, 1.0)


def test_a_mask_counts_by_its_cells_and_not_by_its_box():
    corner = (0.5, 0.0, 0.5, 0.5)
    elsewhere = [("a", "q", corner, None), ("b", "q", (0.0, 0.5, 0.5, 0.5), None)]
    box = marks(("a", "p", HALF, None), ("b", "p", HALF, None), *elsewhere)
    # The left half, drawn as a mask over the whole image: 2 x 1 cells, the first one set.
    drawn = marks(("a", "p", FULL, "2x1:0,1,1"), ("b", "p", HALF, None), *elsewhere)
    loose = marks(("a", "p", FULL, None), ("b", "p", HALF, None), *elsewhere)
    same = region_agreement(box)
    assert region_agreement(drawn).value == pytest.approx(same.value)
    assert region_agreement(loose).value < same.value - 0.1
    # Any grid that the edges lie on, and the frame of the artifact method, agree.
    assert region_agreement(drawn, grid=8).value == pytest.approx(same.value)
    assert region_agreement(box.drop(columns="mask")).value == pytest.approx(same.value)


def test_a_map_counts_viewings_by_their_weights():
    seen = marks(("a", "p", FULL, "2x2:0,1,3"), ("a", "p", (0.0, 0.0, 0.5, 0.5), None))
    viewings = pd.DataFrame({"trial": ["a-p", "a-q"], "content": ["p", "q"]})
    found = region_map(seen, viewings, shape=(4, 4))
    assert found.sum() == pytest.approx(4 * 0.5)  # one quarter of the frame, half of the viewings
    assert (found[:2, :2] == 0.5).all()
    weights = pd.Series({"p": 3.0, "q": 1.0})
    weighted = region_map(seen, viewings, shape=(4, 4), weights=weights)
    np.testing.assert_allclose(weighted, found * 1.5)
    # A rectangle is a mask of one cell.
    boxes = marks(("a", "p", (0.1, 0.2, 0.33, 0.5), None), ("a", "q", (0.5, 0.0, 0.7, 0.9), None))
    drawn = region_map(boxes.assign(mask="1x1:0,1"), viewings, weights=weights)
    np.testing.assert_allclose(region_map(boxes, viewings, weights=weights), drawn)
    assert not region_map(seen.iloc[:0], viewings).any()
    assert not region_map(seen, viewings.iloc[:0]).any()


@pytest.mark.parametrize("mask", ["2x1:1", "2x1:0,3", "half", "0x0:0", "2x1:0,-1,3"])
def test_a_mask_that_does_not_add_up(mask):
    with pytest.raises(InputError, match="mask"):
        region_agreement(marks(("a", "p", FULL, mask)))


def test_half_a_box():
    with pytest.raises(InputError, match="width"):
        region_agreement(marks(("a", "p", (0.1, 0.1, np.nan, 0.2), None)))


def test_drawings_that_do_not_fit_into_memory():
    with pytest.raises(InputError, match="coarser"):
        region_agreement(marks(("a", "p", HALF, None), ("b", "p", HALF, None)), grid=20_000)


@settings(max_examples=30, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)).filter(np.any))
def test_masks_are_read_as_the_store_reads_them(cells):
    text = encode_mask(cells)
    drawn = region_map(
        marks(("a", "p", FULL, text)), pd.DataFrame({"trial": ["a-p"]}), shape=cells.shape
    )
    np.testing.assert_allclose(drawn, decode_mask(text), atol=1e-12)
