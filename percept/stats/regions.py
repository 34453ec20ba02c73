"""Where people drew: agreement on regions, and maps of them.

A mark is a rectangle ``x, y, width, height`` in fractions of the image, or a mask inside it:
``COLSxROWS:a,b,c,...``, lengths of runs of cells, row by row, of zeros first, then of ones, and so
on in turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from percept.errors import InputError
from percept.stats.bootstrap import Estimate, FloatArray, cluster_mean, not_estimable
from percept.stats.frames import codes_of, counted_rows, weights_of

_BOX = ("x", "y", "width", "height")
_ROOM = 250_000_000  # numbers that drawings may take, 2 GB
_MASK = re.compile(r"(\d{1,4})x(\d{1,4}):(\d+(?:,\d+)*)", flags=re.ASCII)


def region_agreement(
    frame: pd.DataFrame,
    *,
    grid: int = 64,
    weights: pd.Series | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Agreement on where an artifact is: soft IoU of the observers' marks, corrected for chance.

    Each observer's marks on a stimulus are drawn on a grid as shares of covered cells; the soft
    IoU of two observers is the sum of minima over the sum of maxima. Chance is the IoU of the
    same two observers' marks on *different* stimuli, so that a habit of marking the centre earns
    nothing. Rectangles and masks count exactly. Who marked nothing takes no part: whether there
    is anything to mark is the question of :func:`percept.stats.tag_agreement`.

    Parameters
    ----------
    frame : DataFrame
        Marks with ``observer, content, condition, x, y, width, height`` in fractions of the
        image, and, where drawn, ``mask`` (null for a rectangle): those of ``Store.marks``, or the
        tidy frame of the artifact method, whose shapes are all rectangles. Where a frame has
        ``trial`` and ``revision``, only the last revision of each trial that *it holds* counts.
        ``Store.marks`` holds marks alone, those of superseded answers too: an answer that was
        changed to "none" has left no mark there, and the marks before it would count. Keep those
        of answers that count first: ``marks[marks["response_id"].isin(ratings["response_id"])]``,
        ``ratings`` being the last revisions of ``Store.ratings``.
    grid : int
        Cells along each side.
    weights : Series, optional
        Sampling weights by content; 1 where missing.
    confidence : float
        Of the interval, for new observers and new photographs.

    Returns
    -------
    Estimate
        (observed - chance) / (1 - chance); ``n``: pairs of observers on a common stimulus.
    """
    rows = _drawn(frame, ("observer", "content", "condition"))
    drawings = len(rows[["observer", "content", "condition"]].drop_duplicates())
    if drawings * grid**2 > _ROOM:
        raise InputError(f"{drawings} drawings on this grid do not fit into memory", key="grid",
                         value=grid, remedy="Use a coarser grid, or a part of them")  # fmt: skip
    masks: dict[tuple[str, str], dict[str, FloatArray]] = {}
    names = rows[["observer", "content", "condition"]].astype(str).itertuples(index=False)
    for (person, content, condition), drawn in zip(names, _covered(rows, grid, grid), strict=True):
        own = masks.setdefault((content, condition), {})
        own[person] = np.maximum(own.get(person, 0.0), drawn)
    method = "soft IoU of marked regions against chance"
    common = []  # (IoU, chance, observer, content)
    stimuli = sorted(masks)
    for number, stimulus in enumerate(stimuli):
        people = sorted(masks[stimulus])
        others = stimuli[number + 1 :] + stimuli[:number]
        for i, a in enumerate(people):
            for b in people[i + 1 :]:
                elsewhere = [masks[o][b] for o in others if b in masks[o] and o[0] != stimulus[0]]
                if elsewhere:
                    chance = np.mean([_soft_iou(masks[stimulus][a], m) for m in elsewhere[:5]])
                    iou = _soft_iou(masks[stimulus][a], masks[stimulus][b])
                    common.append((iou, chance, a, stimulus[0]))
    if not common:
        return not_estimable(
            "no two observers marked the same stimulus and another one",
            method=method, confidence=confidence,
        )  # fmt: skip
    observed, chance = np.array([(c[0], c[1]) for c in common]).T
    labels = pd.DataFrame({"observer": [c[2] for c in common], "content": [c[3] for c in common]})
    weight = weights_of(labels, weights)
    mean, expected = (float(np.average(values, weights=weight)) for values in (observed, chance))
    if expected > 1 - 1e-9:
        return not_estimable("marks cover everything", n=len(common), method=method)
    value = (mean - expected) / (1 - expected)
    # The ratio's influence of each pair, so that one mean carries both parts.
    influence = value + ((observed - mean) - (1 - value) * (chance - expected)) / (1 - expected)
    return cluster_mean(influence, labels, weights=weight, confidence=confidence, method=method)


def region_map(
    marks: pd.DataFrame,
    viewings: pd.DataFrame,
    *,
    shape: tuple[int, int] = (48, 72),
    weights: pd.Series | None = None,
) -> npt.NDArray[np.float64]:
    """Share of viewings in which each place of the frame was marked.

    Parameters
    ----------
    marks : DataFrame
        Marks with ``trial`` and the columns of :func:`region_agreement`; a place that is marked
        twice in one viewing counts once.
    viewings : DataFrame
        ``trial`` and, for weights, ``content`` of everything that was looked at, marked or not.
        Marks of other trials are left out.
    shape : tuple of int
        Rows and columns of the map.
    weights : Series, optional
        Sampling weights by content; 1 where missing.

    Returns
    -------
    ndarray (rows, columns)
        Row 0 is the top. Zero without viewings.
    """
    shown = counted_rows(viewings, ("trial",)).drop_duplicates("trial")
    weight = weights_of(shown, weights)
    rows = _drawn(marks, ("trial",))
    rows = rows[rows["trial"].isin(shown["trial"]).to_numpy()]
    of = rows["trial"].map(pd.Series(weight, index=shown["trial"])).to_numpy(dtype=float)
    alone = ~rows["trial"].duplicated(keep=False).to_numpy()
    if "mask" in rows:
        alone &= rows["mask"].isna().to_numpy()
    # One rectangle in a viewing is a product of its rows and columns; others are drawn.
    total = np.zeros(shape)
    x, y, width, height = rows.loc[alone, list(_BOX)].to_numpy(dtype=float).T
    for first in range(0, x.size, 100_000):
        part = slice(first, first + 100_000)
        down, across = (
            _covers(y[part], height[part], shape[0]),
            _covers(x[part], width[part], shape[1]),
        )
        total += (of[alone][part, None] * down).T @ across
    rest, own = rows[~alone], of[~alone]
    order = np.argsort(codes_of(rest["trial"])[0], kind="stable")
    rest, own = rest.iloc[order], own[order]
    last, seen, share = None, np.zeros(shape), 0.0
    for trial, drawn, each in zip(rest["trial"], _covered(rest, *shape), own, strict=True):
        if trial != last:
            total += share * seen
            last, seen, share = trial, np.zeros(shape), each
        seen = np.maximum(seen, drawn)
    total += share * seen
    return np.asarray(total / max(weight.sum(), 1e-300))


def _drawn(frame: pd.DataFrame, needed: tuple[str, ...]) -> pd.DataFrame:
    """Rows that hold a region; one that is half given or lies outside is an error."""
    rows = counted_rows(frame, (*needed, *_BOX))
    box = rows[list(_BOX)].to_numpy(dtype=float, na_value=np.nan)
    given = np.isfinite(box)
    rows, box = rows[given.any(axis=1)], box[given.any(axis=1)]
    wrong = ~(given[given.any(axis=1)].all(axis=1) & (box[:, 2:] >= 0).all(axis=1))
    if wrong.any():
        raise InputError("A mark needs x, y, width and height, in fractions of the image",
                         value=tuple(box[wrong][0]))  # fmt: skip
    return rows


def _covered(rows: pd.DataFrame, down: int, across: int) -> Iterable[FloatArray]:
    """Share of each cell (down, across) of the frame that each mark covers."""
    masks = rows["mask"] if "mask" in rows else [None] * len(rows)
    for (x, y, width, height), text in zip(rows[list(_BOX)].to_numpy(float), masks, strict=True):
        cells = np.ones((1, 1)) if not isinstance(text, str) else _mask(text)
        tall = _overlap(y, height, cells.shape[0], down)
        wide = _overlap(x, width, cells.shape[1], across)
        yield tall.T @ cells @ wide


def _overlap(start: float, extent: float, parts: int, cells: int) -> FloatArray:
    """Share of each cell of [0, 1] that each part of an interval covers (parts, cells)."""
    starts = start + extent * np.arange(parts) / parts
    return _covers(starts, np.full(parts, extent / parts), cells)


def _covers(start: FloatArray, extent: FloatArray, cells: int) -> FloatArray:
    """Share of each cell of [0, 1] that intervals (n,) cover (n, cells)."""
    edges = np.arange(cells + 1) / cells
    low, high = (np.clip(end, 0, 1)[:, None] for end in (start, start + extent))
    return np.maximum(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0) * cells


def _mask(text: str) -> FloatArray:
    """Cells (rows, columns) of a mask, 1 where marked.

    The store has a reader of its own, which is to refuse what no viewer of ours draws; this one
    takes masks of any size from anybody's frames.
    """
    form = _MASK.fullmatch(text)
    columns, rows = (int(form[1]), int(form[2])) if form else (0, 0)
    runs = np.array(form[3].split(",") if form else [], dtype=np.int64)
    if not columns * rows or runs.sum() != columns * rows:
        raise InputError("A mask is no COLSxROWS:a,b,c whose runs add up to its cells",
                         column="mask", value=text[:60])  # fmt: skip
    return np.repeat(np.arange(runs.size) % 2.0, runs).reshape(rows, columns)


def _soft_iou(a: FloatArray, b: FloatArray) -> float:
    union = np.maximum(a, b).sum()
    return float(np.minimum(a, b).sum() / union) if union > 0 else 1.0
