from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.inference import color
from percept.inference.colorizer import Source
from percept.inference.plan import (
    FULL_PIXELS,
    fit,
    padded_shape,
    plan_batches,
    share_decoding,
    unfit,
    working_size,
)
from percept.inference.run import Condition


def source(max_side: int | None = None, divisor: int = 1, *, found: bool = False) -> Source:
    condition = Condition("x", "x")
    if found:
        return Source(condition, find=lambda row: row)
    return Source(condition, colorize=lambda x: x, max_side=max_side, divisor=divisor)


sizes_of = st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), max_size=30)
some_sources = st.lists(
    st.one_of(
        st.just(source(found=True)),
        st.builds(
            source, st.sampled_from([None, 1, 64, 256, 1000]), st.sampled_from([1, 2, 8, 32])
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(sizes=sizes_of, sources=some_sources, megapixels=st.sampled_from([0, 0.05, 1, 40]))
def test_every_item_is_in_one_batch_of_its_own_shape(sizes, sources, megapixels):
    plan = plan_batches(sizes, sources, megapixels * 1e6)
    items = [(row, batch.condition) for batch in plan for row in batch.rows]
    assert sorted(items) == [(r, c) for r in range(len(sizes)) for c in range(len(sources))]
    for batch in plan:
        assert list(batch.rows) == sorted(batch.rows)
        at = sources[batch.condition]
        if at.colorize is None:
            assert (len(batch.rows), batch.shape) == (1, (0, 0))
            continue
        for row in batch.rows:
            assert padded_shape(*sizes[row], at) == batch.shape
        if len(batch.rows) > 1:
            assert len(batch.rows) * batch.shape[0] * batch.shape[1] <= megapixels * 1e6
            assert sum(sizes[row][0] * sizes[row][1] for row in batch.rows) <= FULL_PIXELS


@settings(deadline=None)
@given(sizes=sizes_of, sources=some_sources)
def test_a_condition_is_cut_alike_whatever_stands_beside_it(sizes, sources):
    together = plan_batches(sizes, sources, 1e6)
    for index, alone in enumerate(sources):
        mine = [(b.rows, b.shape) for b in together if b.condition == index]
        assert mine == [(b.rows, b.shape) for b in plan_batches(sizes, [alone], 1e6)]


@settings(deadline=None)
@given(sizes=sizes_of, sources=some_sources, megapixels=st.sampled_from([0, 0.05, 1, 40]))
def test_portions_have_every_batch_once_and_no_more_photographs_than_one(
    sizes, sources, megapixels
):
    plan = plan_batches(sizes, sources, megapixels * 1e6)
    portions = share_decoding(plan, sizes)
    batches = [batch for portion in portions for batch in portion.batches]
    assert sorted(batches, key=plan.index) == plan
    for portion in portions:
        assert {row for b in portion.batches for row in b.rows} == set(portion.rows)
        assert portion.rows in [batch.rows for batch in portion.batches]
    if len({source.scale for source in sources if source.colorize}) <= 1 or not megapixels:
        assert sorted(row for p in portions for row in p.rows) == list(range(len(sizes)))


def test_largest_first():
    plan = plan_batches([(10, 10), (300, 300), (10, 10), (80, 80)], [source(), source()], 0)
    assert [(batch.rows, batch.condition) for batch in plan] == [
        ((1,), 0),
        ((1,), 1),
        ((3,), 0),
        ((3,), 1),
        ((0,), 0),
        ((2,), 0),
        ((0,), 1),
        ((2,), 1),
    ]


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((640, 480), None, (640, 480)),
        ((640, 480), 640, (640, 480)),
        ((640, 480), 320, (320, 240)),
        ((100, 60), 320, (100, 60)),
        ((1, 20000), 256, (1, 256)),
        ((3, 2), 1, (1, 1)),
    ],
)
def test_working_size(size, max_side, expected):
    assert working_size(*size, max_side) == expected


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    max_side=st.sampled_from([None, 1, 20, 64]),
    divisor=st.sampled_from([1, 4, 32]),
)
def test_a_photograph_fits_and_comes_back_at_its_size(width, height, max_side, divisor):
    at = source(max_side, divisor)
    generator = torch.Generator().manual_seed(width * 100 + height)
    photo = torch.randint(0, 256, (height, width), generator=generator).byte().numpy()
    fitted = fit(photo, at)
    assert tuple(fitted.shape[2:]) == padded_shape(width, height, at)
    assert fitted.min() >= 0
    assert fitted.max() <= 1
    values = fitted[0].expand(2, -1, -1)
    back = unfit(values, at, width, height, slice(0, height))
    assert back.shape == (2, height, width)
    if working_size(width, height, max_side) == (width, height):
        torch.testing.assert_close(back[0] * 100, color.luminance(photo), atol=1e-4, rtol=0)
    middle = height // 2
    parts = [
        unfit(values, at, width, height, part)
        for part in (slice(0, middle), slice(middle, height))
        if part.stop > part.start
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), back, atol=1e-5, rtol=0)


def test_a_flat_photograph_stays_flat():
    at = source(20, 8)
    photo = np.full((31, 57), 90, dtype=np.uint8)
    value = float(color.luminance(photo)[0, 0]) / 100
    fitted = fit(photo, at)
    torch.testing.assert_close(fitted, torch.full_like(fitted, value))
    back = unfit(fitted[0], at, 57, 31, slice(3, 9))
    torch.testing.assert_close(back, torch.full((1, 6, 57), value), atol=1e-6, rtol=0)
