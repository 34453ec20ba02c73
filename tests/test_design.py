from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from percept.design import SessionPlan, cells, plan_session
from percept.protocol import parse_protocol
from tests.tiny_run import tiny_protocol


def table(contents: int, conditions: int) -> pd.DataFrame:
    rows = []
    for content in range(1, contents + 1):
        rows.append({"content": content, "condition": None, "role": "original"})
        rows += [
            {"content": content, "condition": f"c{k}", "role": "test"} for k in range(conditions)
        ]
    return pd.DataFrame(rows).assign(id=lambda frame: 100 + frame.index)


def shown(trial) -> tuple[int, ...]:
    images = trial.images
    return (images["left"], images["right"]) if "left" in images else (images["stimulus"],)


def use(plans: list[SessionPlan]) -> Counter[tuple[int, ...]]:
    return Counter(shown(t) for plan in plans for t in plan.trials if t.kind == "test")


def spread(counts) -> int:
    counts = list(counts)
    return max(counts) - min(counts)


def run_study(protocol, stimuli, sessions: int, seed: int, dropout: float = 0.0):
    """Completed plans of a study whose observers sometimes leave without a trace."""
    rng = np.random.default_rng(seed)
    done: list[SessionPlan] = []
    for ordinal in range(sessions):
        plan = plan_session(
            protocol, stimuli, use(done), rng=np.random.default_rng([seed, ordinal])
        )
        if rng.random() >= dropout:
            done.append(plan)
    return done


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(9, 4, 20), (5, 3, 7), (30, 3, 12)])
def test_completed_trials_are_balanced_in_every_respect(
    seed: int, shape: tuple[int, int, int]
) -> None:
    contents, conditions, trials = shape
    stimuli = table(contents, conditions)
    protocol = tiny_protocol(trials=trials, practice=2, repeats=0)
    done = run_study(protocol, stimuli, sessions=25, seed=seed, dropout=0.2)
    condition = dict(zip(stimuli["id"], stimuli["condition"], strict=True))
    content = dict(zip(stimuli["id"], stimuli["content"], strict=True))
    used = use(done)

    by_cell = Counter({tuple(sorted(cell.stimuli)): 0 for cell in cells(stimuli, "pairwise")})
    by_pair, by_content, lefts = Counter(), Counter(), Counter()
    for (left, right), times in used.items():
        by_cell[tuple(sorted((left, right)))] += times
        by_pair[tuple(sorted((condition[left], condition[right])))] += times
        by_content[content[left]] += times
        lefts[condition[left], condition[right]] += times
    assert spread(by_cell.values()) <= 1
    assert spread(by_pair.values()) <= 2
    assert spread(by_content.values()) <= max(3, trials // contents + 2)
    for one, other in by_pair:
        assert abs(lefts[one, other] - lefts[other, one]) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_single_stimuli_are_balanced_too(seed: int) -> None:
    stimuli = table(7, 4)
    protocol = tiny_protocol("artifact", trials=10, practice=1, repeats=1)
    done = run_study(protocol, stimuli, sessions=20, seed=seed, dropout=0.2)
    assert spread(use(done).values()) <= 1
    assert len(use(done)) == 28


def test_a_dropout_is_made_up_for_by_the_next_session() -> None:
    stimuli = table(4, 3)  # 12 cells
    protocol = tiny_protocol(trials=6, practice=0, repeats=0)
    first = plan_session(protocol, stimuli, {}, rng=np.random.default_rng(0))
    after_completion = plan_session(protocol, stimuli, use([first]), rng=np.random.default_rng(1))
    assert not {frozenset(s) for s in use([first])} & {
        frozenset(s) for s in use([after_completion])
    }


def test_a_session_shows_no_cell_twice_and_is_short_where_there_are_few() -> None:
    plan = plan_session(
        tiny_protocol(trials=50, practice=0, repeats=0),
        table(4, 3),
        {},
        rng=np.random.default_rng(0),
    )
    pairs = [frozenset(shown(t)) for t in plan.trials]
    assert len(pairs) == len(set(pairs)) == 12


@pytest.mark.parametrize("seed", range(20))
def test_order_practice_and_repeats(seed: int) -> None:
    stimuli = table(6, 4)
    protocol = tiny_protocol(trials=18, practice=3, repeats=4, identical=2)
    plan = plan_session(protocol, stimuli, {}, rng=np.random.default_rng(seed))
    kinds = [trial.kind for trial in plan.trials]
    assert kinds[:3] == ["practice"] * 3
    assert Counter(kinds) == {"practice": 3, "test": 18, "repeat": 4, "identical": 2}
    tests = {frozenset(shown(t)) for t in plan.trials if t.kind == "test"}
    for trial in plan.trials:
        if trial.kind == "practice":
            assert frozenset(shown(trial)) not in tests
        if trial.kind == "identical":
            assert len(set(shown(trial))) == 1
            assert trial.expected == "tie"
        else:
            assert trial.expected is None
        assert trial.images["reference"] in set(stimuli.query("role == 'original'")["id"])
    for position, trial in enumerate(plan.trials, start=1):
        assert (trial.repeat_of is not None) == (trial.kind == "repeat")
        if trial.repeat_of is not None:
            original = plan.trials[trial.repeat_of - 1]
            assert original.kind == "test"
            assert shown(trial) == shown(original)[::-1]
            assert position - trial.repeat_of >= 20 // 3  # a third of the main part
    main = plan.trials[3:]
    assert all(one.content != other.content for one, other in pairwise(main))


def test_no_photograph_follows_itself_even_where_that_is_tight() -> None:
    """Two photographs can only alternate; the plan must find that."""
    protocol = tiny_protocol(trials=6, practice=0, repeats=0)
    for seed in range(20):
        plan = plan_session(protocol, table(2, 3), {}, rng=np.random.default_rng(seed))
        assert all(one.content != other.content for one, other in pairwise(plan.trials))


def test_one_photograph_still_makes_a_session() -> None:
    protocol = tiny_protocol(trials=6, practice=2, repeats=1)
    plan = plan_session(protocol, table(1, 2), {}, rng=np.random.default_rng(0))
    assert [trial.kind for trial in plan.trials].count("test") == 1


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_a_repeat_never_comes_before_what_it_repeats(trials: int) -> None:
    protocol = tiny_protocol(trials=trials, practice=0, repeats=trials)
    for seed in range(20):
        plan = plan_session(protocol, table(2, 2), {}, rng=np.random.default_rng(seed))
        for position, trial in enumerate(plan.trials, start=1):
            assert trial.repeat_of is None or trial.repeat_of < position


def test_the_same_seed_gives_the_same_plan_and_another_does_not() -> None:
    stimuli, protocol = table(6, 3), tiny_protocol(trials=12)
    plans = [plan_session(protocol, stimuli, {}, rng=np.random.default_rng(s)) for s in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_position_and_side_tell_nothing_of_the_condition() -> None:
    """Over many seeds each condition is as often early, late, left and right as the others."""
    stimuli = table(6, 3)
    condition = dict(zip(stimuli["id"], stimuli["condition"], strict=True))
    protocol = tiny_protocol(trials=12, practice=0, repeats=0)
    left, early, n = Counter(), Counter(), 0
    for seed in range(200):
        plan = plan_session(protocol, stimuli, {}, rng=np.random.default_rng(seed))
        for position, trial in enumerate(plan.trials):
            n += 1
            left[condition[trial.images["left"]]] += 1
            for role in ("left", "right"):
                early[condition[trial.images[role]]] += position < 6
    # Each expected n / 3; five standard errors of a multinomial count.
    for counts, total in ((left, n), (early, sum(early.values()))):
        for name in ("c0", "c1", "c2"):
            assert abs(counts[name] - total / 3) < 5 * (total * 2 / 9) ** 0.5


def test_the_order_of_questions_is_drawn_for_each_session() -> None:
    text = '\n[[attributes]]\nname = "period"\nquestion = "Which suits its time?"\n'
    protocol = parse_protocol(tiny_protocol().text + text)
    orders = {
        plan_session(protocol, table(3, 2), {}, rng=np.random.default_rng(seed)).attributes
        for seed in range(20)
    }
    assert orders == {("realism", "period"), ("period", "realism")}


def test_without_the_original_no_reference_is_shown() -> None:
    text = tiny_protocol(trials=3, practice=0, repeats=0).text
    protocol = parse_protocol(text.replace("original = true", "original = false"))
    plan = plan_session(protocol, table(3, 2), {}, rng=np.random.default_rng(0))
    assert all(set(trial.images) == {"left", "right"} for trial in plan.trials)
