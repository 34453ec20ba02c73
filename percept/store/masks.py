"""Masks of marks as text: ``COLSxROWS:a,b,c,…``.

The mask covers the mark's bounding box. Its cells are read row by row; the numbers are lengths
of runs, of zeros first (0 if the first cell is set), then of ones, and so on in turn.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Most columns and rows of a mask.
MAX_SIDE = 256

_FORM = re.compile(r"(\d{1,3})x(\d{1,3}):(\d{1,5}(?:,\d{1,5})*)", flags=re.ASCII)


def encode_mask(mask: ArrayLike) -> str:
    """Write a mask (rows, cols), true where marked, as text."""
    cells = np.asarray(mask, dtype=bool)
    rows, columns = cells.shape
    flat = cells.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return f"{columns}x{rows}:{','.join(map(str, runs))}"


def decode_mask(text: str) -> NDArray[np.bool_]:
    """Read a mask (rows, cols).

    Raises
    ------
    ValueError
        It is not of this form, larger than 256 × 256, its runs do not fill it, or nothing in it
        is set.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError("not of the form COLSxROWS:a,b,c")
    columns, rows = int(form[1]), int(form[2])
    if not (1 <= columns <= MAX_SIDE and 1 <= rows <= MAX_SIDE):
        raise ValueError(f"must have 1 to {MAX_SIDE} columns and rows")
    runs = np.array(form[3].split(","), dtype=np.int64)
    if runs.sum() != columns * rows:
        raise ValueError(f"the runs add up to {runs.sum()}, not to {columns} x {rows}")
    if (runs[1:] == 0).any():
        raise ValueError("only the first run may be 0")
    cells = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    if not cells.any():
        raise ValueError("nothing is set")
    return cells.reshape(rows, columns)
