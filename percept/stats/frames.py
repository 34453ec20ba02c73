"""What every estimator does to a tidy frame first: the rows that count, and their clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from percept.errors import InputError

IntArray = npt.NDArray[np.int64]


def counted_rows(frame: pd.DataFrame, required: Sequence[str]) -> pd.DataFrame:
    """Rows that count: test trials, last revision of each answer.

    Columns that are absent (``kind``, ``revision``, ``attribute``, ``method``) ask for nothing.

    Parameters
    ----------
    frame : DataFrame
        A tidy frame of ratings.
    required : sequence of str
        Columns without which there is nothing to compute.

    Raises
    ------
    InputError
        If a required column is missing, one appears twice, or attributes or methods are mixed.
    """
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError("A column appears twice", column=twice)
    for column in required:
        if column not in frame.columns:
            raise InputError(
                "The frame lacks a column",
                column=column,
                remedy=f"It needs {', '.join(required)}; it has {', '.join(map(str, frame))}",
            )
    for column in ("attribute", "method"):
        values = sorted(map(str, frame[column].dropna().unique())) if column in frame else []
        if len(values) > 1:
            raise InputError(
                f"The frame mixes several {column}s",
                column=column,
                value=values,
                remedy=f"Analyse one at a time: frame[frame[{column!r}] == {values[0]!r}]",
            )
    rows = frame
    if "kind" in rows.columns:
        rows = rows[(rows["kind"] == "test").to_numpy(dtype=bool, na_value=False)]
    if "revision" in rows.columns and "trial" in rows.columns:
        keys = [name for name in ("study", "session", "trial") if name in rows.columns]
        last = rows.groupby(keys, sort=False, dropna=False)["revision"].transform("max")
        rows = rows[(rows["revision"] == last).to_numpy(dtype=bool, na_value=False)]
    return rows


def all_kinds(frame: pd.DataFrame, required: Sequence[str]) -> pd.DataFrame:
    """Rows of every kind of trial, last revision of each answer, with a column ``kind``."""
    kinds = frame["kind"].to_numpy() if "kind" in frame.columns else np.full(len(frame), "test")
    rows = counted_rows(
        frame.assign(kind="test", _kind=kinds).rename_axis(index=None),
        [name for name in required if name != "kind"],
    )
    return rows.assign(kind=rows["_kind"]).drop(columns="_kind")


def weights_of(rows: pd.DataFrame, weights: pd.Series | None) -> npt.NDArray[np.float64]:
    """Look up the sampling weight of each row (n,) by its content; 1 where there is none."""
    if weights is None or "content" not in rows.columns:
        return np.ones(len(rows))
    found = rows["content"].map(weights).to_numpy(dtype=float, na_value=np.nan)
    if (found < 0).any() or np.isinf(found).any():
        raise InputError("Weights must be finite and not negative", key="weights")
    return np.where(np.isnan(found), 1.0, found)


def codes_of(values: object) -> tuple[IntArray, npt.NDArray[np.object_]]:
    """Integer codes (n,) and their sorted labels (k,); a missing label is code -1."""
    codes, labels = sorted_codes(values if isinstance(values, pd.Series) else pd.Series(values))
    return codes, np.asarray(labels, dtype=object)


def sorted_codes(column: pd.Series) -> tuple[IntArray, pd.Index]:
    """As :func:`codes_of`, text as it is: Arrow strings cost a tenth of objects."""
    if not isinstance(column.dtype, pd.StringDtype):
        codes, labels = pd.factorize(column, sort=True)
        return codes.astype(np.int64), pd.Index(np.asarray(labels, dtype=object))
    codes, text = pd.factorize(column.array)
    order = text.argsort()
    place = np.full(order.size + 1, -1)
    place[order] = np.arange(order.size)
    return place[codes], pd.Index(text.take(order))


def same_block(over: pd.Series, *columns: pd.Series) -> int:
    """Rows of a table in order: one value of ``over`` after the other, each with the same rows of
    the other columns. 0 where it is not so, or where such blocks are more than they are long.

    Comparing whole blocks costs much less than hashing the labels of all rows.
    """  # noqa: D205
    n, label = len(over), over.array
    size = _first_run(label)
    if size < 2 or n % size or n // size > size:
        return 0
    same = all(own[size:].equals(own[:-size]) for own in (column.array for column in columns))
    starts = range(0, n, size)
    constant = (label[i + 1 : i + size].equals(label[i : i + size - 1]) for i in starts)
    return size if same and all(constant) else 0


def _first_run(labels: Any) -> int:
    """How many labels, from the first, are the same."""
    if not len(labels):
        return 0
    n = 1
    while labels[:n].equals(labels[n : 2 * n]):
        n *= 2
    rest = pd.Series(labels[n : 2 * n])
    other = np.flatnonzero(~rest.eq(labels[0]).to_numpy(bool, na_value=False))
    return n + int(other[0] if other.size else len(rest))


def common_codes(
    *columns: pd.Series,
) -> tuple[tuple[IntArray, ...], tuple[IntArray, ...], npt.NDArray[np.object_]]:
    """Codes (n,) of each column, where each code's label stands among the sorted labels of all
    columns, and those labels (k,); a missing label is code -1.
    """  # noqa: D205
    each = [pd.factorize(column) for column in columns]
    place, labels = codes_of(pd.concat([pd.Series(own) for _, own in each]))
    ends = np.cumsum([len(own) for _, own in each])
    return tuple(codes for codes, _ in each), tuple(np.split(place, ends[:-1])), labels


def sides_of(rows: pd.DataFrame) -> tuple[IntArray, IntArray, npt.NDArray[np.object_]]:
    """Codes (n,) of ``left`` and of ``right`` among their sorted labels (k,); missing: -1."""
    codes, places, labels = common_codes(rows["left"], rows["right"])
    left, right = (np.append(place, -1)[code] for code, place in zip(codes, places, strict=True))
    return left, right, labels


def distinct_codes(codes: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """Sorted distinct codes out of ``range(size)``, and where among them each code (n,) stands."""
    if size > 4 * codes.size + 1_000_000:
        distinct, position = np.unique(codes, return_inverse=True)
        return distinct, position.astype(np.int64)
    seen = np.zeros(size, dtype=bool)  # a table over all that is possible beats sorting
    seen[codes] = True
    if seen.all():
        return np.arange(size), codes
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[codes]


@dataclass(frozen=True)
class Clusters:
    """Dimensions over which observations depend on each other.

    Attributes
    ----------
    names : tuple of str
        For example ``("observer", "content")``; empty if observations are independent.
    codes : tuple of int arrays (n,)
        Cluster of each observation, one array per dimension.
    sizes : tuple of int
        Number of clusters of each dimension.
    warnings : tuple of str
        Which of the wanted dimensions had to be left out.
    """

    names: tuple[str, ...] = ()
    codes: tuple[IntArray, ...] = ()
    sizes: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    def dimensions(self) -> list[tuple[IntArray, int]]:
        """Codes and number of clusters: of each dimension, then of their combinations if two."""
        terms = list(zip(self.codes, self.sizes, strict=True))
        if len(terms) == 2:
            cells = self.codes[0] * self.sizes[1] + self.codes[1]
            distinct, both = distinct_codes(cells, self.sizes[0] * self.sizes[1])
            terms.append((both, len(distinct)))
        return terms

    @property
    def speaks_of(self) -> str:
        """The population that an interval speaks of."""
        if "observer" in self.names and "content" in self.names:
            return "new observers and new photographs"
        if "observer" in self.names:
            return "new observers, these photographs only"
        if "content" in self.names:
            return "new photographs, these observers only"
        if self.names:
            return f"new values of {' and '.join(self.names)}"
        return "independent votes"


def clusters_of(rows: pd.DataFrame, wanted: str | Sequence[str] | None) -> Clusters:
    """Clusters of the rows; a dimension that is missing or constant is left out, with a warning."""
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
    if len(names) > 2:
        raise InputError("At most two dimensions of clusters are supported", value=names)
    kept: list[tuple[str, IntArray, int]] = []
    warnings: list[str] = []
    for name in names:
        if name not in rows.columns:
            warnings.append(f"no column {name!r}: the interval ignores that votes share a {name}")
            continue
        codes, labels = codes_of(rows[name])
        if (codes < 0).any():
            raise InputError("A cluster label is missing", column=name)
        if len(labels) < 2:
            warnings.append(f"a single {name}: the interval cannot speak of other {name}s")
            continue
        kept.append((name, codes, len(labels)))
    return Clusters(
        tuple(item[0] for item in kept),
        tuple(item[1] for item in kept),
        tuple(item[2] for item in kept),
        tuple(warnings),
    )
