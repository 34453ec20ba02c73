"""Palettes: how the colours of reference photographs are distributed, as data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from percept.errors import InputError
from percept.files import read_json, write_json_atomic
from percept.metrics.color import Array

FORMAT = 1
#: Side of a cell of the histogram, and how far it reaches, in units of a* and b*.
STEP, REACH = 2, 128
_CELLS = 2 * REACH // STEP
_DIRECTIONS = 16


@dataclass(frozen=True)
class Palette:
    """Distribution of (a*, b*) over reference photographs.

    Attributes
    ----------
    group : dict of str to str
        What the photographs have in common (``era``, ``process``); empty: nothing is asked.
    photographs : int
        How many there were; each weighs the same.
    cells : array of int, shape (n,)
        Numbers of the cells of the histogram that are not empty, row by row of a*.
    shares : array of float, shape (n,)
        Share of each, adding up to 1.
    """

    group: dict[str, str]
    photographs: int
    cells: Array
    shares: Array

    def distance(self, ab: Array) -> float:
        """Sliced Wasserstein distance of colours (..., 2) from the palette."""
        histogram = histogram_of(ab)
        own = np.flatnonzero(histogram)
        points = np.concatenate([_centres(own), _centres(self.cells)])
        mass = np.concatenate([histogram[own], -self.shares])
        angles = np.arange(_DIRECTIONS) * math.pi / _DIRECTIONS
        total = 0.0
        for angle in angles:
            place = points @ (math.cos(angle), math.sin(angle))
            order = np.argsort(place, kind="stable")
            ahead = np.cumsum(mass[order])[:-1]
            total += float(np.sum(np.abs(ahead) * np.diff(place[order])))
        return total / _DIRECTIONS


def histogram_of(ab: Array) -> Array:
    """Histogram (cells,) of colours (..., 2), adding up to 1."""
    place = ((ab.reshape(-1, 2) + REACH) / STEP).astype(int).clip(0, _CELLS - 1)
    counts = np.bincount(place[:, 0] * _CELLS + place[:, 1], minlength=_CELLS**2)
    return counts / len(place)


def _centres(cells: Array) -> Array:
    return (np.stack(np.divmod(cells, _CELLS), axis=-1) + 0.5) * STEP - REACH


def make_palette(pictures: Iterable[Array], group: Mapping[str, str]) -> Palette:
    """Make the palette of photographs, each an array (..., 2) of a* and b*."""
    total, photographs = np.zeros(_CELLS**2), 0
    for ab in pictures:
        total += histogram_of(ab)
        photographs += 1
    cells = np.flatnonzero(total)
    return Palette(dict(group), photographs, cells, total[cells] / photographs)


def choose(palettes: Sequence[Palette], facts: Mapping[Any, Any]) -> Palette | None:
    """Find the palette of a photograph: the one that asks for most of its facts.

    Parameters
    ----------
    palettes : sequence of Palette
        As read.
    facts : mapping
        The photograph's row of the manifest.
    """
    fitting = [p for p in palettes if all(facts.get(k) == v for k, v in p.group.items())]
    return max(fitting, key=lambda palette: len(palette.group), default=None)


def write_palettes(file: str | Path, palettes: Sequence[Palette]) -> None:
    """Write palettes as JSON."""
    entries = [
        {
            "group": palette.group,
            "photographs": palette.photographs,
            "cells": palette.cells.tolist(),
            "shares": [float(f"{share:.6g}") for share in palette.shares],
        }
        for palette in palettes
    ]
    write_json_atomic(file, {"format": FORMAT, "step": STEP, "palettes": entries})


def read_palettes(file: str | Path) -> tuple[Palette, ...]:
    """Read what :func:`write_palettes` wrote.

    Raises
    ------
    InputError
        The file is none of percept's palettes.
    """
    data = read_json(Path(file))
    try:
        if (data["format"], data["step"]) != (FORMAT, STEP):
            raise ValueError
        palettes = tuple(
            Palette(
                {str(key): str(value) for key, value in entry["group"].items()},
                int(entry["photographs"]),
                np.asarray(entry["cells"], dtype=int),
                np.asarray(entry["shares"], dtype=float),
            )
            for entry in data["palettes"]
        )
        for palette in palettes:
            sound = palette.cells.shape == palette.shares.shape and palette.cells.ndim == 1
            if not sound or not 0 <= palette.cells.min() <= palette.cells.max() < _CELLS**2:
                raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            "not a file of palettes", file=file, remedy="Make one with `percept palette`"
        ) from None
    return palettes
