"""Who paid attention? A verdict with a reason for each observer; nobody is deleted.

Screening looks at controls, times and patterns. That someone disagrees with the rest is shown and
never excludes: a minority taste is an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from percept.errors import InputError
from percept.stats.frames import all_kinds, codes_of
from percept.stats.reliability import repeat_pairs


@dataclass(frozen=True, kw_only=True)
class ScreeningRules:
    """Limits; None switches a rule off.

    Attributes
    ----------
    min_gold : float or None
        Least share of right answers on golds, tested only from ``min_controls`` of them.
    min_repeat : float or None
        Share of repeats answered the same below which an observer answers at random; flagged
        where a one-sided exact binomial test at 5 % says that it is below: of three repeats an
        honest observer often answers two otherwise.
    max_identical_choice : float or None
        Greatest share of identical pairs on which a side is preferred though a tie was offered.
    min_controls : int
        Fewer controls of a kind say nothing.
    min_time_ms : float or None
        Answers faster than this are not looked at...
    max_fast : float or None
        ...and this is the greatest share of them.
    max_run : int or None
        Longest row of the same answer (side or tie) in order of presentation.
    side_p : float or None
        Two-sided binomial p below which one side is preferred...
    min_side : float
        ...if its share is also at least this.
    """

    min_gold: float | None = 0.7
    min_repeat: float | None = 0.5
    max_identical_choice: float | None = 0.5
    min_controls: int = 3
    min_time_ms: float | None = 500.0
    max_fast: float | None = 0.2
    max_run: int | None = 20
    side_p: float | None = 0.001
    min_side: float = 0.8


def screen_observers(frame: pd.DataFrame, rules: ScreeningRules | None = None) -> pd.DataFrame:
    """Judge every observer of a paired study.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame of pair votes, *all kinds*, with ``observer, left, right, choice`` and, as far
        as present, ``kind, expected, repeat_of, trial, response_time_ms, presented_at, content``.
    rules : ScreeningRules, optional
        Limits; the defaults are mild.

    Returns
    -------
    DataFrame
        One row per observer, sorted: ``observer, verdict ("keep" or "exclude"), reason`` (empty,
        or all reasons with their numbers), and the numbers themselves: ``n, golds, gold_share,
        repeats, repeat_share, identicals, identical_choice, median_time_ms, fast_share,
        longest_run, left_share, agreement`` (share of votes with the majority of the others),
        ``dissent`` (whether that is significantly below one half: a flag, not a reason).
    """
    limits = rules or ScreeningRules()
    rows = all_kinds(frame, ("observer", "left", "right", "choice"))
    rows = rows[(rows["kind"] != "practice").to_numpy() & rows["choice"].isin(
        ("left", "right", "tie")).to_numpy()]  # fmt: skip
    order = [c for c in ("session", "presented_at", "trial") if c in rows]
    rows = rows.sort_values(order, kind="stable") if order else rows
    everyone = sorted(frame["observer"].dropna().unique())
    table = pd.DataFrame(index=pd.Index(everyone, name="observer"))
    by = rows.groupby("observer")
    table["n"] = by.size().reindex(everyone, fill_value=0)

    golds = rows[(rows["kind"] == "gold").to_numpy()]
    if len(golds) and "expected" not in golds:
        raise InputError("Golds without their answer", column="expected")
    right = (golds["choice"] == golds["expected"]) if len(golds) else pd.Series(dtype=bool)
    _share(table, "golds", "gold_share", right.astype(float), golds)
    repeats = repeat_pairs(frame) if {"trial", "repeat_of", "kind"} <= set(frame) else rows.iloc[:0]
    _share(table, "repeats", "repeat_share", repeats.get("same", pd.Series(dtype=float)), repeats)
    same = rows[(rows["kind"] == "identical").to_numpy()]
    if "expected" in same:  # a forced choice between equals says nothing
        same = same[(same["expected"] == "tie").to_numpy()]
    _share(table, "identicals", "identical_choice", (same["choice"] != "tie").astype(float), same)

    tests = rows[(rows["kind"] == "test").to_numpy()]
    if "response_time_ms" in rows:
        times = pd.to_numeric(rows["response_time_ms"])
        table["median_time_ms"] = times.groupby(rows["observer"]).median()
        fast = (times < (limits.min_time_ms or 0)).groupby(rows["observer"]).mean()
        table["fast_share"] = fast
    else:
        table["median_time_ms"] = table["fast_share"] = np.nan
    table["longest_run"] = by["choice"].agg(_longest_run).reindex(everyone) if len(rows) else np.nan
    sided = tests[tests["choice"].isin(("left", "right")).to_numpy()]
    on_left = (sided["choice"] == "left").groupby(sided["observer"]).agg(["sum", "count"])
    on_left = on_left.reindex(everyone, fill_value=0)
    table["left_share"] = on_left["sum"] / on_left["count"].replace(0, np.nan)
    count, chose_left = (on_left[name].to_numpy(dtype=np.int64) for name in ("count", "sum"))
    more = np.maximum(chose_left, count - chose_left).astype(float)
    side_p = np.minimum(2 * special.bdtrc(more - 1, count, 0.5), 1.0)
    _dissent(table, sided)

    reasons: list[list[str]] = [[] for _ in everyone]
    left = table["left_share"].to_numpy(dtype=float)
    side = np.fmax(left, 1 - left)

    def flag(broken: object, text: str, numbers: object) -> None:
        for i, (bad, number) in enumerate(
            zip(np.asarray(broken), np.asarray(numbers), strict=True)
        ):
            if bad:
                reasons[i].append(text.format(number))

    enough = limits.min_controls
    if limits.min_gold is not None:
        broken = (table["golds"] >= enough) & (table["gold_share"] < limits.min_gold)
        flag(broken, f"golds {{:.0%}} right (limit {limits.min_gold:.0%})", table["gold_share"])
    if limits.min_repeat is not None:
        alike = np.rint(table["repeat_share"].fillna(0) * table["repeats"])
        broken = (table["repeats"] >= enough) & (
            special.bdtr(alike, table["repeats"], limits.min_repeat) < 0.05
        )
        flag(
            broken, f"repeats {{:.0%}} alike (limit {limits.min_repeat:.0%})", table["repeat_share"]
        )
    if limits.max_identical_choice is not None:
        limit = limits.max_identical_choice
        broken = (table["identicals"] >= enough) & (table["identical_choice"] > limit)
        flag(broken, f"a side chosen on {{:.0%}} of identical pairs (limit {limit:.0%})",
             table["identical_choice"])  # fmt: skip
    if limits.min_time_ms is not None and limits.max_fast is not None:
        broken = table["fast_share"] > limits.max_fast
        flag(broken, f"{{:.0%}} of answers under {limits.min_time_ms:g} ms "
             f"(limit {limits.max_fast:.0%})", table["fast_share"])  # fmt: skip
    if limits.max_run is not None:
        broken = table["longest_run"] > limits.max_run
        flag(
            broken, f"{{:.0f}} same answers in a row (limit {limits.max_run})", table["longest_run"]
        )
    if limits.side_p is not None:
        broken = (side_p < limits.side_p) & (side >= limits.min_side)
        flag(broken, f"one side chosen in {{:.0%}} (limit {limits.min_side:.0%})", side)
    table["reason"] = ["; ".join(own) for own in reasons]
    table["verdict"] = np.where(table["reason"] == "", "keep", "exclude")
    first = ["observer", "verdict", "reason"]
    table = table.reset_index()
    return table[first + [name for name in table.columns if name not in first]]


def _share(
    table: pd.DataFrame, count: str, share: str, values: pd.Series, rows: pd.DataFrame
) -> None:
    if len(rows):
        grouped = values.groupby(rows["observer"]).agg(["count", "mean"]).reindex(table.index)
        table[count] = grouped["count"].fillna(0).astype(int)
        table[share] = grouped["mean"]
    else:
        table[count], table[share] = 0, np.nan


def _longest_run(choices: pd.Series) -> int:
    codes = codes_of(choices.to_numpy())[0]
    breaks = np.flatnonzero(np.diff(codes)) + 1
    return int(np.diff(np.r_[0, breaks, codes.size]).max())


def _dissent(table: pd.DataFrame, votes: pd.DataFrame) -> None:
    """Share of an observer's votes that go with the majority of the others."""
    names = [name for name in ("content",) if name in votes]
    low = np.where(
        votes["left"].astype(str) < votes["right"].astype(str), votes["left"], votes["right"]
    )
    high = np.where(low == votes["left"].to_numpy(), votes["right"], votes["left"])
    chosen_low = (votes["choice"] == "left").to_numpy() == (low == votes["left"].to_numpy())
    work = pd.DataFrame({"low": low, "high": high, "for": chosen_low.astype(float)})
    for name in names:
        work[name] = votes[name].to_numpy()
    work["observer"] = votes["observer"].to_numpy()
    keys = [*names, "low", "high"]
    pair, own = work.groupby(keys)["for"], work.groupby([*keys, "observer"])["for"]
    others = pair.transform("size") - own.transform("size")
    with_low = pair.transform("sum") - own.transform("sum")
    lead = np.sign(2 * with_low - others)
    agreed = np.where(lead == 0, np.nan, (lead > 0) == (work["for"] == 1))
    result = pd.Series(agreed).groupby(work["observer"]).agg(["sum", "count"])
    result = result.reindex(table.index, fill_value=0)
    count, total = result["count"].to_numpy(dtype=np.int64), result["sum"].to_numpy(dtype=float)
    table["agreement"] = np.divide(total, count, out=np.full(count.size, np.nan), where=count > 0)
    with np.errstate(invalid="ignore"):
        table["dissent"] = (count > 0) & (special.bdtr(total, count, 0.5) < 0.025)
