from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.errors import InputError
from percept.inference.colorizer import Source
from percept.inference.plan import Tiling, fit, plan_batches, unfit
from percept.inference.run import Condition
from percept.inference.spread import alone
from percept.inference.tiling import Grid, colorize_tiles, detail, tile_starts, tile_weights


def source(colorize=lambda x: x, max_side: int | None = 32, divisor: int = 1) -> Source:
    return Source(Condition("x", "x"), colorize=colorize, max_side=max_side, divisor=divisor)


def photograph(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = 110 + 70 * np.sin(x / 17) * np.cos(y / 23) + 30 * np.sin((x + 2 * y) / 3)
    return np.clip(waves, 0, 255).astype(np.uint8)


def tiled(photo: np.ndarray, at: Source, tiling: Tiling, view: torch.Tensor | None = None):
    seen = tiling.view(at)
    if view is None:
        view = at.colorize(fit(photo, seen))[0]
    grid = Grid.lay(*photo.shape, seen, tiling, batch_pixels=3 * 64**2)
    parts = list(colorize_tiles(photo, view, seen, grid, partial(alone, colorize=at.colorize)))
    assert [row for band, _ in parts for row in range(len(photo))[band]] == list(range(len(photo)))
    return torch.cat([values for _, values in parts], dim=1)


@settings(deadline=None)
@given(length=st.integers(1, 3000), tile=st.integers(16, 300), share=st.floats(0.01, 0.5))
def test_tiles_cover_a_side_and_their_weights_add_up_to_one(length, tile, share):
    overlap = max(1, int(tile * share))
    starts = tile_starts(length, tile, overlap)
    weights = tile_weights(starts, tile, overlap, length)
    total = torch.zeros(max(length, tile))
    for start, part in zip(starts, weights, strict=True):
        total[start : start + tile] += part
    torch.testing.assert_close(total, torch.ones_like(total))
    assert (weights >= 0).all()
    if length > tile:
        assert starts[0] == 0
        assert starts[-1] + tile == length
        assert all(b - a <= tile - overlap for a, b in pairwise(starts))
        assert weights[0, -1] <= 0.51 * weights[0, 0]  # fades where a neighbour is
    else:
        assert starts == [0]


def test_detail_is_what_the_view_could_not_show():
    fine = torch.zeros(1, 1, 64, 64)
    fine[..., ::2] = 1
    fine[..., 1::2] = -1
    ramp = torch.linspace(0, 30, 64).expand(1, 1, 64, 64)
    torch.testing.assert_close(detail(fine, 8.0)[..., 8:-8], fine[..., 8:-8], atol=0.02, rtol=0)
    assert detail(ramp, 4.0)[..., 8:-8, 8:-8].abs().max() < 1e-4
    assert detail(torch.full((1, 2, 40, 30), 7.0), 3.3).abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(150, 210), (40, 300), (300, 7), (129, 128)])
@pytest.mark.parametrize("divisor", [1, 8])
def test_colour_comes_from_the_view_whatever_a_tile_takes_the_photograph_for(
    height, width, divisor
):
    photo = photograph(height, width)

    def moody(luminance: torch.Tensor) -> torch.Tensor:  # every tile another colour, all flat
        colour = luminance.mean(dim=(2, 3), keepdim=True) * 300 - 150
        return colour.expand(-1, 2, *luminance.shape[2:])

    at, tiling = source(moody, divisor=divisor), Tiling(64, 16)
    view = torch.linspace(-40, 40, 2 * 32 * 32).reshape(2, 32, 32)
    fitted = fit(photo, tiling.view(at)).shape[2:]
    view = view[:, : fitted[0], : fitted[1]]
    got = tiled(photo, at, tiling, view)
    expected = unfit(view, tiling.view(at), width, height, slice(0, height))
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


def test_tiles_add_the_detail_that_the_view_misses_without_seams():
    photo = photograph(200, 260)

    def edges(luminance: torch.Tensor) -> torch.Tensor:
        return (80 * luminance - 40).expand(-1, 2, -1, -1)

    at, tiling = source(edges), Tiling(64, 24)
    truth = edges(fit(photo, source(max_side=None)))[0]
    plain = unfit(edges(fit(photo, at))[0], at, 260, 200, slice(0, 200))
    got = tiled(photo, at, tiling)
    assert (got - truth).abs().mean() < 0.25 * (plain - truth).abs().mean()
    # What is wrong changes no faster at the tiles' edges than elsewhere.
    jumps = (got - truth).diff(dim=2).abs().mean(dim=(0, 1))
    edges_at = [s - 1 for s in tile_starts(260, 64, 24)[1:]] + [
        s + 63 for s in tile_starts(260, 64, 24)[:-1]
    ]
    assert jumps[edges_at].max() < 2.5 * jumps.median() + 0.05


def test_only_what_is_larger_than_the_view_is_cut():
    tiling = Tiling(64, 16)
    sources = [source(max_side=32), source(max_side=None), Source(Condition("f", "f"), find=id)]
    plan = plan_batches([(32, 30), (33, 5), (64, 64), (65, 64)], sources, 1e6, tiling)
    cut = {(row, batch.condition) for batch in plan if batch.tiled for row in batch.rows}
    assert cut == {(1, 0), (2, 0), (3, 0), (3, 1)}
    assert all(len(batch.rows) == 1 for batch in plan if batch.tiled)
    assert sorted((row, b.condition) for b in plan for row in b.rows) == [
        (row, condition) for row in range(4) for condition in range(3)
    ]
    assert not any(batch.tiled for batch in plan_batches([(99, 99)], sources, 1e6))


@pytest.mark.parametrize(("tile", "overlap"), [(15, 4), (64, 0), (64, 33), (64, -1)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(InputError):
        Tiling(tile, overlap)
