"""Who paid attention? A verdict with a reason for each observer; nobody is deleted.

Screening looks at controls, times and patterns. That someone disagrees with the rest is shown and
never excludes: a minority taste is an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from percept.errors import InputError
from percept.stats.frames import all_kinds, codes_of, sides_of
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
        Longest row of the same answer in order of presentation; of verdicts and artifacts only
        where as long a row has a chance below 0.001, by what the others answer.
    side_p : float or None
        Two-sided binomial p below which one side is preferred...
    min_side : float
        ...if its share is also at least this.
    tolerance : float
        Ratings this near to a gold's answer, or to the first rating of a repeat, are right.
    min_spread : float or None
        Least standard deviation of an observer's ratings (the root of 0.15, as in crowd toolkits
        for ITU-T P.808).
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
    tolerance: float = 1.0
    min_spread: float | None = 0.387


def screen_observers(frame: pd.DataFrame, rules: ScreeningRules | None = None) -> pd.DataFrame:
    """Judge every observer of a study, of whatever method.

    Parameters
    ----------
    frame : DataFrame
        Tidy frame, *all kinds*, with ``observer, left, right, choice`` (pairs, real or fake),
        ``observer, content, condition`` and ``score`` (ratings), ``verdict`` (review) or
        ``artifact, trial`` (artifacts: seen or not); and, as far as present, ``kind, expected,
        repeat_of, trial, response_time_ms, presented_at, content``.
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
        For ratings ``spread`` (standard deviation) instead of sides and identical pairs,
        ``agreement`` is the correlation with the mean of the others, and ``dissent`` whether it
        is significantly negative. For reviews and artifacts ``run_p`` bounds the chance of the
        longest run from the other people's share of that answer: most images may well be good.
        A gold that expects "marks" is right with any artifact; one that expects "reject", with
        "fix" too.
    """
    limits = rules or ScreeningRules()
    everyone = sorted(frame["observer"].dropna().unique()) if "observer" in frame else []
    table = pd.DataFrame(index=pd.Index(everyone, name="observer"))
    if "choice" not in frame and "score" in frame:
        _ratings(table, frame, limits)
    elif "choice" not in frame and ("verdict" in frame or "artifact" in frame):
        _verdicts(table, frame, limits)
    else:
        _pairs(table, frame, limits)
    reasons = _reasons(table, limits)
    table["reason"] = ["; ".join(own) for own in reasons]
    table["verdict"] = np.where(table["reason"] == "", "keep", "exclude")
    first = ["observer", "verdict", "reason"]
    table = table.drop(columns=["side", "side_p"], errors="ignore").reset_index()
    return table[first + [name for name in table.columns if name not in first]]


def _pairs(table: pd.DataFrame, frame: pd.DataFrame, limits: ScreeningRules) -> None:
    """Numbers of the observers of a paired study."""
    rows = all_kinds(frame, ("observer", "left", "right", "choice"))
    rows = _in_order(rows[(rows["kind"] != "practice").to_numpy() & rows["choice"].isin(
        ("left", "right", "tie")).to_numpy()])  # fmt: skip
    table["n"] = rows.groupby("observer").size().reindex(table.index, fill_value=0)
    golds = _golds(rows)
    _share(table, "golds", "gold_share", (golds["choice"] == golds["expected"]).astype(float)
           if len(golds) else pd.Series(dtype=float), golds)  # fmt: skip
    repeats = repeat_pairs(frame) if {"trial", "repeat_of", "kind"} <= set(frame) else rows.iloc[:0]
    _share(table, "repeats", "repeat_share", repeats.get("same", pd.Series(dtype=float)), repeats)
    same = rows[(rows["kind"] == "identical").to_numpy()]
    if "expected" in same:  # a forced choice between equals says nothing
        same = same[(same["expected"] == "tie").to_numpy()]
    _share(table, "identicals", "identical_choice", (same["choice"] != "tie").astype(float), same)
    _times_and_runs(table, rows, "choice", limits)
    sided = rows[(rows["kind"] == "test").to_numpy() & (rows["choice"] != "tie").to_numpy()]
    on_left = (sided["choice"] == "left").groupby(sided["observer"]).agg(["sum", "count"])
    on_left = on_left.reindex(table.index, fill_value=0)
    table["left_share"] = on_left["sum"] / on_left["count"].replace(0, np.nan)
    left = table["left_share"].to_numpy(dtype=float)
    table["side"] = np.fmax(left, 1 - left)
    count, chose_left = (on_left[name].to_numpy(dtype=np.int64) for name in ("count", "sum"))
    more = np.maximum(chose_left, count - chose_left).astype(float)
    table["side_p"] = np.minimum(2 * special.bdtrc(more - 1, count, 0.5), 1.0)
    _dissent(table, sided)


def _ratings(table: pd.DataFrame, frame: pd.DataFrame, limits: ScreeningRules) -> None:
    """Numbers of the observers of single stimuli."""
    rows = all_kinds(frame, ("observer", "content", "condition", "score"))
    rows = _in_order(rows[(rows["kind"] != "practice").to_numpy() & rows["score"].notna()])
    rows = rows.assign(score=rows["score"].astype(float))
    table["n"] = rows.groupby("observer").size().reindex(table.index, fill_value=0)
    golds = _golds(rows)
    near = pd.Series(dtype=float)
    if len(golds):
        near = (golds["score"] - pd.to_numeric(golds["expected"])).abs() <= limits.tolerance
    _share(table, "golds", "gold_share", near.astype(float), golds)
    again = _repeats(rows, "score")
    same = ((again["score"] - again["score_first"]).abs() <= limits.tolerance).astype(float)
    _share(table, "repeats", "repeat_share", same, again)
    _times_and_runs(table, rows, "score", limits)
    tests = rows[(rows["kind"] == "test").to_numpy()]
    table["spread"] = tests.groupby("observer")["score"].std(ddof=0)
    # With the mean of the others, over stimuli; at most one rating of each counts.
    tests = tests.drop_duplicates(["observer", "content", "condition"])
    means = tests.groupby(["content", "condition"])["score"].agg(["sum", "count"])
    stimulus = pd.MultiIndex.from_frame(tests[["content", "condition"]])
    total, count = (means.loc[stimulus, name].to_numpy(float) for name in ("sum", "count"))
    with np.errstate(divide="ignore", invalid="ignore"):
        others = (total - tests["score"].to_numpy()) / (count - 1)
    both = tests.assign(others=others).dropna(subset=["others"])
    values = {person: own["score"].corr(own["others"]) if own["score"].std() > 0 else np.nan
              for person, own in both.groupby("observer")}  # fmt: skip
    table["agreement"] = pd.Series(values, dtype=float).reindex(table.index)
    shared = both.groupby("observer").size().reindex(table.index, fill_value=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.arctanh(table["agreement"].clip(-1, 1)) * np.sqrt(np.maximum(shared - 3, 0))
    table["dissent"] = (z < special.ndtri(0.025)).to_numpy()


def _verdicts(table: pd.DataFrame, frame: pd.DataFrame, limits: ScreeningRules) -> None:
    """Numbers of the observers of a review, or of artifacts that are seen or not."""
    reviewed = "verdict" in frame
    column = ("verdict",) if reviewed else ("artifact", "trial")
    rows = all_kinds(frame, ("observer", "content", "condition", *column))
    rows = rows[(rows["kind"] != "practice").to_numpy()]
    if reviewed:
        rows = rows[rows["verdict"].isin(("accept", "fix", "reject")).to_numpy()]
        rows = rows.assign(said=rows["verdict"])
    else:
        rows = rows.assign(said=np.where(rows["artifact"].notna(), "marks", "none"))
    if "trial" in rows:  # a trial may have a row for each mark or reason
        keys = [key for key in ("study", "session", "trial") if key in rows]
        rows = rows.drop_duplicates(keys)
    rows = _in_order(rows)
    table["n"] = rows.groupby("observer").size().reindex(table.index, fill_value=0)
    golds = _golds(rows)
    right = pd.Series(dtype=float)
    if len(golds):
        mended = (golds["expected"] == "reject") & (golds["said"] == "fix")
        right = ((golds["said"] == golds["expected"]) | mended).astype(float)
    _share(table, "golds", "gold_share", right, golds)
    again = _repeats(rows, "said")
    _share(table, "repeats", "repeat_share", (again["said"] == again["said_first"]).astype(float),
           again)  # fmt: skip
    _times_and_runs(table, rows, "said", limits)
    tests = rows[(rows["kind"] == "test").to_numpy()]
    table["run_p"] = _run_chance(table, tests)
    # With the majority of the others on the same stimulus.
    stimulus = ["content", "condition"]
    counts = pd.crosstab([tests[name] for name in stimulus], tests["said"])
    index = pd.MultiIndex.from_frame(tests[stimulus])
    others = counts.reindex(index).to_numpy(dtype=float, copy=True)
    own = counts.columns.get_indexer(pd.Index(tests["said"]))
    place = np.arange(len(tests))
    others[place, own] -= 1
    most = others.max(axis=1, initial=0)
    clear = (most > 0) & ((others == most[:, None]).sum(axis=1) == 1)
    agreed = pd.Series(np.where(clear, others[place, own] == most, np.nan), index=tests.index)
    _agreement(table, agreed, tests["observer"])


def _run_chance(table: pd.DataFrame, tests: pd.DataFrame) -> pd.Series:
    """Bound the chance of as long a run of one answer somewhere, as often as others give it."""
    counts = pd.crosstab(tests["observer"], tests["said"])
    own = counts.reindex(table.index, fill_value=0)
    others = own.sum() - own
    share = (others + 1).div(others.sum(axis=1) + own.shape[1], axis=0)  # never 0 or 1
    usual = share.max(axis=1) if not own.size else pd.Series(
        share.to_numpy()[np.arange(len(own)), own.to_numpy().argmax(axis=1)], index=own.index
    )  # fmt: skip
    run = table["longest_run"].astype(float)
    return (table["n"] * usual**run).clip(upper=1.0)


def _repeats(rows: pd.DataFrame, answer: str) -> pd.DataFrame:
    """Repeats with the first answer beside the second, as ``<answer>_first``."""
    if not {"trial", "repeat_of"} <= set(rows):
        return rows.iloc[:0].assign(**{f"{answer}_first": rows[answer].iloc[:0]})
    keys = [key for key in ("study", "session") if key in rows]
    again = rows[rows["repeat_of"].notna()].assign(original=lambda r: r["repeat_of"])
    first = rows.assign(original=rows["trial"])[[*keys, "original", answer]]
    return again.merge(first, on=[*keys, "original"], suffixes=("", "_first"))


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    order = [c for c in ("session", "presented_at", "trial") if c in rows]
    return rows.sort_values(order, kind="stable") if order else rows


def _golds(rows: pd.DataFrame) -> pd.DataFrame:
    golds = rows[(rows["kind"] == "gold").to_numpy()]
    if len(golds) and "expected" not in golds:
        raise InputError("Golds without their answer", column="expected")
    return golds


def _times_and_runs(
    table: pd.DataFrame, rows: pd.DataFrame, answer: str, limits: ScreeningRules
) -> None:
    if "response_time_ms" in rows:
        times = pd.to_numeric(rows["response_time_ms"])
        table["median_time_ms"] = times.groupby(rows["observer"]).median()
        table["fast_share"] = (times < (limits.min_time_ms or 0)).groupby(rows["observer"]).mean()
    else:
        table["median_time_ms"] = table["fast_share"] = np.nan
    by = rows.groupby("observer")[answer]
    table["longest_run"] = by.agg(_longest_run).reindex(table.index) if len(rows) else np.nan


def _reasons(table: pd.DataFrame, limits: ScreeningRules) -> list[list[str]]:
    reasons: list[list[str]] = [[] for _ in table.index]

    def flag(column: str, broken: Any, text: str) -> None:
        for own, bad, number in zip(reasons, np.asarray(broken), table[column], strict=True):
            if bad:
                own.append(text.format(number))

    enough = limits.min_controls
    if limits.min_gold is not None:
        flag("gold_share", (table["golds"] >= enough) & (table["gold_share"] < limits.min_gold),
             f"golds {{:.0%}} right (limit {limits.min_gold:.0%})")  # fmt: skip
    if limits.min_repeat is not None:
        alike = np.rint(table["repeat_share"].fillna(0) * table["repeats"])
        unlikely = special.bdtr(alike, table["repeats"], limits.min_repeat) < 0.05
        flag("repeat_share", (table["repeats"] >= enough) & unlikely,
             f"repeats {{:.0%}} alike (limit {limits.min_repeat:.0%})")  # fmt: skip
    if limits.max_identical_choice is not None and "identicals" in table:
        limit = limits.max_identical_choice
        flag("identical_choice",
             (table["identicals"] >= enough) & (table["identical_choice"] > limit),
             f"a side chosen on {{:.0%}} of identical pairs (limit {limit:.0%})")  # fmt: skip
    if limits.min_time_ms is not None and limits.max_fast is not None:
        flag("fast_share", table["fast_share"] > limits.max_fast,
             f"{{:.0%}} of answers under {limits.min_time_ms:g} ms "
             f"(limit {limits.max_fast:.0%})")  # fmt: skip
    if limits.max_run is not None:
        long = table["longest_run"] > limits.max_run
        if "run_p" in table:  # where most images are good, a long run may be honest
            long &= table["run_p"] < 0.001
        flag("longest_run", long,
             f"{{:.0f}} same answers in a row (limit {limits.max_run})")  # fmt: skip
    if limits.min_spread is not None and "spread" in table:
        flag("spread", (table["n"] >= enough) & (table["spread"] < limits.min_spread),
             f"ratings spread by {{:.2f}} (limit {limits.min_spread:g})")  # fmt: skip
    if limits.side_p is not None and "side" in table:
        flag("side", (table["side_p"] < limits.side_p) & (table["side"] >= limits.min_side),
             f"one side chosen in {{:.0%}} (limit {limits.min_side:.0%})")  # fmt: skip
    return reasons


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
    left, right, _ = sides_of(votes)
    chosen_low = (votes["choice"] == "left").to_numpy() == (left < right)
    work = pd.DataFrame(
        {
            "low": np.minimum(left, right),
            "high": np.maximum(left, right),
            "for": chosen_low.astype(float),
            "observer": votes["observer"].to_numpy(),
        }
    )
    names = [name for name in ("content",) if name in votes]
    for name in names:
        work[name] = codes_of(votes[name])[0]
    keys = [*names, "low", "high"]
    pair, own = work.groupby(keys)["for"], work.groupby([*keys, "observer"])["for"]
    others = pair.transform("size") - own.transform("size")
    with_low = pair.transform("sum") - own.transform("sum")
    lead = np.sign(2 * with_low - others)
    agreed = np.where(lead == 0, np.nan, (lead > 0) == (work["for"] == 1))
    _agreement(table, pd.Series(agreed), work["observer"])


def _agreement(table: pd.DataFrame, agreed: pd.Series, observer: pd.Series) -> None:
    """Share of answers that go with the majority of the others, and whether it is below half."""
    result = agreed.groupby(observer).agg(["sum", "count"])
    result = result.reindex(table.index, fill_value=0)
    count, total = result["count"].to_numpy(dtype=np.int64), result["sum"].to_numpy(dtype=float)
    table["agreement"] = np.divide(total, count, out=np.full(count.size, np.nan), where=count > 0)
    with np.errstate(invalid="ignore"):
        table["dissent"] = (count > 0) & (special.bdtr(total, count, 0.5) < 0.025)
