from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from percept.errors import InputError
from percept.stats import ScreeningRules, screen_observers


def session(observer, rng, answer, *, trials=40, time=3000.0):
    """A session with golds (left is right), identical pairs, and swapped repeats."""
    rows = []
    for t in range(trials):
        sides = ("a", "b") if rng.random() < 0.5 else ("b", "a")
        rows.append([observer, t, "test", None, None, f"c{t}", *sides, answer(*sides), time])
    for t in range(6):
        first = rows[t]
        rows.append([observer, 100 + t, "repeat", None, t, first[5], first[7], first[6],
                     answer(first[7], first[6]), time])  # fmt: skip
        rows.append(
            [observer, 200 + t, "gold", "left", None, "g", "a", "bad", answer("a", "bad"), time]
        )
        rows.append(
            [observer, 300 + t, "identical", "tie", None, "i", "a", "a", answer("a", "a"), time]
        )
    return rows


def frame_of(*sessions):
    names = ["observer", "trial", "kind", "expected", "repeat_of", "content", "left", "right",
             "choice", "response_time_ms"]  # fmt: skip
    frame = pd.DataFrame([row for rows in sessions for row in rows], columns=names)
    frame["session"] = frame["observer"]
    return frame.astype({"repeat_of": "Int64"})


def likes(best):
    def answer(left, right):
        if left == right:
            return "tie"
        if "bad" in (left, right):
            return "right" if left == "bad" else "left"
        return "left" if left == best else "right"

    return answer


@pytest.fixture
def panel():
    rng = np.random.default_rng(0)
    good = [session(f"good{i}", rng, likes("a")) for i in range(6)]
    coin = session("coin", rng, lambda left, right: rng.choice(["left", "right"]))
    rush = session("rush", rng, likes("a"), time=120.0)
    side = session("side", rng, lambda left, right: "left")
    other = session("minority", rng, likes("b"))
    return screen_observers(frame_of(*good, coin, rush, side, other)).set_index("observer")


def test_good_observers_and_minorities_stay(panel):
    kept = panel[panel["verdict"] == "keep"].index.tolist()
    assert kept == [*(f"good{i}" for i in range(6)), "minority"]
    assert (panel.loc[kept, "reason"] == "").all()
    assert panel.loc["minority", "dissent"]
    assert panel.loc["minority", "agreement"] < 0.1
    assert not panel.loc["good0", "dissent"]


def test_each_exclusion_has_its_reason(panel):
    assert "identical pairs" in panel.loc["coin", "reason"]
    assert "under 500 ms" in panel.loc["rush", "reason"]
    assert panel.loc["rush", "reason"].startswith("100%")
    assert "one side" in panel.loc["side", "reason"]
    assert "in a row" in panel.loc["side", "reason"]
    assert "repeats 0% alike" in panel.loc["side", "reason"]
    assert panel.loc["good0", "gold_share"] == 1
    assert panel.loc["good0", "repeats"] == 6


def test_rules_can_be_switched_off_and_need_enough_controls():
    rng = np.random.default_rng(1)
    frame = frame_of(session("side", rng, lambda left, right: "left"))
    off = ScreeningRules(
        min_gold=None, min_repeat=None, max_identical_choice=None, min_time_ms=None,
        max_run=None, side_p=None,
    )  # fmt: skip
    assert screen_observers(frame, off)["verdict"].tolist() == ["keep"]
    few = ScreeningRules(min_controls=7, max_run=None, side_p=None)
    assert screen_observers(frame, few)["verdict"].tolist() == ["keep"]


def test_golds_missed():
    rng = np.random.default_rng(2)
    wrong = session("wrong", rng, likes("a"))
    for row in wrong:
        if row[2] == "gold":
            row[8] = "right"
    result = screen_observers(frame_of(wrong))
    assert result["reason"].tolist() == ["golds 0% right (limit 70%)"]


def test_bare_frames():
    bare = pd.DataFrame({"observer": ["o"], "left": ["a"], "right": ["b"], "choice": ["left"]})
    assert screen_observers(bare)["verdict"].tolist() == ["keep"]
    assert screen_observers(bare.iloc[:0]).empty
    with pytest.raises(InputError, match="choice"):
        screen_observers(bare.drop(columns="choice"))
    with pytest.raises(InputError, match="expected"):
        screen_observers(bare.assign(kind="gold"))


def rated(observer, rng, score, *, time=3000.0):
    """Ratings of 20 photographs, golds that deserve a 1, and repeats."""
    quality = np.linspace(1.5, 4.5, 20)
    rows = [[observer, t, "test", None, None, f"c{t}", "m", score(q), time]
            for t, q in enumerate(quality)]  # fmt: skip
    for t in range(4):
        rows.append([observer, 100 + t, "gold", "1", None, "g", "bad", score(1.0), time])
        rows.append(
            [
                observer,
                200 + t,
                "repeat",
                None,
                5 * t,
                f"c{5 * t}",
                "m",
                score(quality[5 * t]),
                time,
            ]
        )
    return rows


def test_ratings_are_screened_too():
    rng = np.random.default_rng(1)

    def careful(quality):
        return float(np.clip(np.round(quality + rng.normal(0, 0.4)), 1, 5))

    people = [rated(f"good{i}", rng, careful) for i in range(6)]
    people.append(rated("coin", rng, lambda _: float(rng.integers(1, 6))))
    people.append(rated("flat", rng, lambda _: 3.0))
    people.append(rated("rush", rng, careful, time=100.0))
    people.append(rated("upside", rng, lambda q: careful(6 - q) if q > 1 else 1.0))
    names = ["observer", "trial", "kind", "expected", "repeat_of", "content", "condition",
             "score", "response_time_ms"]  # fmt: skip
    frame = pd.DataFrame([row for rows in people for row in rows], columns=names)
    frame = frame.assign(session=frame["observer"]).astype({"repeat_of": "Int64"})
    table = screen_observers(frame).set_index("observer")
    bad = table.index[table["verdict"] == "exclude"]
    assert set(bad) == {"coin", "flat", "rush"}
    assert "golds" in table.loc["coin", "reason"]
    assert "spread by 0.00" in table.loc["flat", "reason"]
    assert "under 500 ms" in table.loc["rush", "reason"]
    assert table["dissent"].to_dict()["upside"]
    assert table["dissent"].sum() == 1
    assert table.loc["good0", "repeat_share"] == 1
    shuffled = screen_observers(frame.sample(frac=1, random_state=1)).set_index("observer")
    pd.testing.assert_frame_equal(shuffled, table)
    bare = screen_observers(frame[["observer", "content", "condition", "score"]])
    assert len(bare) == len(people)
    with pytest.raises(InputError):
        screen_observers(frame.drop(columns="score"))


@pytest.mark.parametrize("method", ["artifact", "review"])
def test_verdicts_and_artifacts(method):
    rng = np.random.default_rng(5)
    bad = rng.random(60) < 0.1  # most images are good: long honest runs
    rows = []

    def answer(person, spoilt):
        if person == "blind":
            return False
        if person == "coin":
            return bool(rng.random() < 0.5)
        return bool(spoilt) != bool(rng.random() < 0.02)

    people = [f"good{i}" for i in range(8)] + ["blind", "coin", "rush"]
    for person in people:
        time = 90.0 if person == "rush" else 4000.0
        for t, spoilt in enumerate(bad):
            rows.append((person, t, "test", None, None, f"c{t}", answer(person, spoilt), time))
        for t in range(6):
            again = answer(person, bad[t])
            rows.append((person, 200 + t, "gold", True, None, f"g{t}", answer(person, True), time))
            rows.append((person, 100 + t, "repeat", None, t, f"c{t}", again, time))
    names = ["observer", "trial", "kind", "expected", "repeat_of", "content", "seen",
             "response_time_ms"]  # fmt: skip
    frame = pd.DataFrame(rows, columns=names).astype({"repeat_of": "Int64"})
    frame["condition"], frame["session"] = "m", frame["observer"]
    if method == "artifact":
        frame["artifact"] = np.where(frame["seen"], "bleeding", None)
        frame["expected"] = frame["expected"].map({True: "marks"})
        frame = pd.concat([frame, frame[frame["seen"]]])  # two marks are one answer
    else:
        frame["verdict"] = np.where(frame["seen"], "fix", "accept")
        frame["expected"] = frame["expected"].map({True: "reject"})
    table = screen_observers(frame.drop(columns="seen")).set_index("observer")
    assert (table.loc[[f"good{i}" for i in range(8)], "verdict"] == "keep").all()
    assert table.loc["blind", "reason"].startswith("golds 0% right (limit 70%)")
    assert "golds" in table.loc["coin", "reason"]
    assert "under 500 ms" in table.loc["rush", "reason"]
    assert table["n"].eq(72).all()
    assert table.loc["good0", "agreement"] > 0.9 > 0.7 > table.loc["coin", "agreement"]
    # Where others see something every other time, a run of sixty is no chance.
    busy = frame.assign(content=frame["content"] + "x")
    runs = np.where(busy["observer"] == "blind", False, np.arange(len(busy)) % 2 == 0)
    if method == "artifact":
        busy["artifact"] = np.where(runs, "bleeding", None)
    else:
        busy["verdict"] = np.where(runs, "fix", "accept")
    blind = screen_observers(busy[busy["kind"] == "test"]).set_index("observer").loc["blind"]
    assert "same answers in a row" in blind["reason"]
    assert screen_observers(frame.iloc[:0]).empty
