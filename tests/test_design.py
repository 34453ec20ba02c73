from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise
from math import ceil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2_contingency

from percept.adaptive import Posterior, posterior
from percept.design import (
    MISS_LEVEL,
    MISS_RATE,
    SessionPlan,
    golds_needed,
    passes,
    plan_session,
    retire_golds,
)
from percept.errors import InputError
from percept.protocol import Protocol, parse_protocol
from tests.tiny_run import tiny_protocol

METHODS = ("pairwise", "artifact", "rating-acr", "rating-dcr", "real-or-fake", "review")
PAIRED = ("pairwise", "real-or-fake")
LESSONS = ("pairwise", "artifact", "real-or-fake", "review")  # that tell right from wrong


def table(contents: int, conditions: int, golds: int = 0, truth: bool = False) -> pd.DataFrame:
    """Stimuli as the store lists them; with ``truth`` the first condition is the reference."""
    names = [f"c{k}" for k in range(conditions)]
    names[: int(truth)] = ["reference"] * truth
    rows = []
    for content in range(1, contents + 1):
        rows.append({"content": content, "condition": None, "role": "original"})
        rows += [{"content": content, "condition": name, "role": "test"} for name in names]
    rows += [
        {"content": 1 + k % contents, "condition": names[k % conditions], "role": "gold"}
        for k in range(golds)
    ]
    return pd.DataFrame(rows).assign(id=lambda frame: 100 + frame.index)


def shown(trial) -> tuple[int, ...]:
    images = trial.images
    return (images["left"], images["right"]) if "left" in images else (images["stimulus"],)


def conditions_of(stimuli: pd.DataFrame) -> dict[int, str]:
    return dict(zip(stimuli["id"], stimuli["condition"], strict=True))


def judged(plan: SessionPlan):
    return [trial for trial in plan.trials if trial.kind == "test"]


def use(plans: list[SessionPlan]) -> Counter[tuple[int, ...]]:
    return Counter(shown(trial) for plan in plans for trial in judged(plan))


def cells(stimuli: pd.DataFrame, protocol: Protocol) -> list[tuple[int, ...]]:
    """Everything that a test trial of the protocol can show, by definition."""
    found = []
    for _, own in stimuli[stimuli["role"] == "test"].groupby("content"):
        truth = own["condition"] == "reference"
        rivals = own["id"][~truth] if protocol.needs_reference else own["id"]
        if protocol.method == "pairwise":
            found += list(combinations(sorted(rivals), 2))
        elif protocol.method == "real_or_fake":
            found += [tuple(sorted((*own["id"][truth], key))) for key in rivals]
        else:
            found += [(key,) for key in rivals]
    return found


def spread(counts) -> int:
    counts = list(counts)
    return max(counts) - min(counts)


def levels(stimuli: pd.DataFrame, protocol: Protocol, plans: list[SessionPlan]) -> list[int]:
    """How often each cell was judged."""
    used = Counter(dict.fromkeys(cells(stimuli, protocol), 0))
    for keys, times in use(plans).items():
        used[tuple(sorted(keys))] += times
    return list(used.values())


def is_connected(pairs, size: int) -> bool:
    parts = [{k} for k in range(size)]
    for one, other in pairs:
        joined = [part for part in parts if one in part or other in part]
        parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    return len(parts) == 1


def compared(plan: SessionPlan, stimuli: pd.DataFrame) -> list[tuple[int, int]]:
    name = conditions_of(stimuli)
    return [tuple(int(name[key][1:]) for key in shown(trial)) for trial in judged(plan)]


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


# Every plan ------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data(), method=st.sampled_from(METHODS))
def test_every_plan_is_what_the_protocol_asks_for(data, method: str) -> None:
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    contents, conditions, made = number(1, 9), number(2, 6), number(0, 9)
    trials = number(1, 30)
    wanted = {
        "practice": number(0, 4),
        "repeats": number(0, trials),
        "golds": number(0, 5),
    }
    if method in LESSONS:
        wanted["practice_feedback"] = data.draw(st.booleans())
    if method == "pairwise":
        wanted |= {"identical": number(0, 3), "tie": data.draw(st.booleans())}
    protocol = tiny_protocol(method, trials=trials, **wanted)
    stimuli = table(contents, conditions, golds=made, truth=True)
    if made and data.draw(st.booleans()):
        stimuli["retired"] = stimuli["id"] == stimuli["id"].max()
        made -= 1
    busy = {key: number(0, 2) for key in cells(stimuli, protocol) if data.draw(st.booleans())}
    seed = number(0, 10_000)
    plan = plan_session(protocol, stimuli, busy, rng=np.random.default_rng(seed))
    assert plan == plan_session(protocol, stimuli, busy, rng=np.random.default_rng(seed))

    # As many of each kind as there can be, practice first.
    possible = cells(stimuli, protocol)
    kinds = [trial.kind for trial in plan.trials]
    count = Counter(kinds)
    assert count["test"] == min(trials, len(possible))
    assert count["gold"] == min(wanted["golds"], made)
    assert count["repeat"] == min(wanted["repeats"], count["test"])
    assert count["identical"] == min(wanted.get("identical", 0), len(possible))
    assert kinds[: count["practice"]] == ["practice"] * count["practice"]
    lessons = min(wanted["practice"], made - count["gold"])
    left = wanted["practice"] - lessons * protocol.practice_feedback
    assert count["practice"] == wanted["practice"] - max(0, left - len(possible))

    # Test trials are different cells, and those that are used least.
    tests = [tuple(sorted(shown(trial))) for trial in judged(plan)]
    assert len(set(tests)) == len(tests)
    assert set(tests) <= set(possible)
    assert max(busy.get(key, 0) for key in tests) <= min(
        (busy.get(key, 0) for key in set(possible) - set(tests)), default=2
    )

    facts = stimuli.set_index("id")
    for position, trial in enumerate(plan.trials, start=1):
        images = facts.loc[list(shown(trial))]
        assert set(images["content"]) == {trial.content}
        assert (trial.repeat_of is not None) == (trial.kind == "repeat")
        # What is on view beside them is the same for every kind.
        assert set(trial.images) - {"reference"} == (
            {"left", "right"} if method in PAIRED else {"stimulus"}
        )
        assert ("reference" in trial.images) == (protocol.reference is not None)
        if protocol.reference is not None:
            beside = facts.loc[trial.images["reference"]]
            assert beside["content"] == trial.content
            assert (beside["condition"] == "reference") == (protocol.reference == "true")
        if trial.repeat_of is not None:
            original = plan.trials[trial.repeat_of - 1]
            assert original.kind == "test"
            assert trial.repeat_of < position
            assert shown(trial) == shown(original)[::-1]
        if trial.kind == "gold":
            assert "gold" in set(images["role"])
        if trial.kind == "identical":
            assert len(set(shown(trial))) == 1
            assert trial.expected == ("tie" if protocol.tie else None)
        elif protocol.method == "real_or_fake":
            real = images["condition"] == "reference"
            real &= images["role"] == "test"
            assert real.sum() == 1
            assert trial.expected == (
                "left" if real.iloc[0] == (protocol.asks == "real") else "right"
            )
        elif "gold" in set(images["role"]):
            spoilt = (images["role"] == "gold").tolist()
            right = {
                "pairwise": ("left", "right")[spoilt[0]],
                "artifact": "marks",
                "rating": "1",
                "review": "reject",
            }
            assert trial.expected == right[protocol.method]
            assert not images.get("retired", pd.Series(dtype=bool)).any()
        else:
            assert trial.expected is None
    golds = [
        key for trial in plan.trials for key in shown(trial) if facts.loc[key, "role"] == "gold"
    ]
    assert len(set(golds)) == len(golds)  # no gold twice, in practice and later either
    assert sorted(plan.attributes) == sorted(one.name for one in protocol.attributes)


def test_no_photograph_follows_itself_even_where_that_is_tight() -> None:
    """Two photographs can only alternate; the plan must find that."""
    protocol = tiny_protocol(trials=6, practice=0, repeats=0)
    for seed in range(20):
        plan = plan_session(protocol, table(2, 3), {}, rng=np.random.default_rng(seed))
        assert all(one.content != other.content for one, other in pairwise(plan.trials))


@pytest.mark.parametrize("seed", range(20))
def test_repeats_come_well_after_what_they_repeat(seed: int) -> None:
    protocol = tiny_protocol(trials=18, practice=3, repeats=4, identical=2, golds=2)
    plan = plan_session(protocol, table(6, 4, golds=6), {}, rng=np.random.default_rng(seed))
    main = plan.trials[3:]
    assert all(one.content != other.content for one, other in pairwise(main))
    for position, trial in enumerate(plan.trials, start=1):
        if trial.repeat_of is not None:
            assert position - trial.repeat_of >= 22 // 3  # a third of the main part


def test_another_seed_gives_another_plan() -> None:
    stimuli, protocol = table(6, 3), tiny_protocol(trials=12)
    plans = [plan_session(protocol, stimuli, {}, rng=np.random.default_rng(s)) for s in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_practice_shows_other_cells_than_the_tests() -> None:
    protocol = tiny_protocol(trials=10, practice=3)
    for seed in range(10):
        plan = plan_session(protocol, table(6, 3), {}, rng=np.random.default_rng(seed))
        practice = {frozenset(shown(t)) for t in plan.trials if t.kind == "practice"}
        assert not practice & {frozenset(shown(t)) for t in judged(plan)}


def test_true_colours_are_needed_where_everything_is_compared_with_them() -> None:
    for method in ("rating-dcr", "real-or-fake"):
        with pytest.raises(InputError, match="true colours"):
            plan_session(tiny_protocol(method), table(3, 2), {}, rng=np.random.default_rng(0))


def test_the_order_of_questions_is_drawn_for_each_session() -> None:
    text = '\n[[attributes]]\nname = "period"\nquestion = "Which suits its time?"\n'
    protocol = parse_protocol(tiny_protocol().text + text)
    orders = Counter(
        plan_session(protocol, table(3, 2), {}, rng=np.random.default_rng(seed)).attributes
        for seed in range(60)
    )
    assert set(orders) == {("realism", "period"), ("period", "realism")}
    assert min(orders.values()) >= 15  # p = 1e-4 for a fair coin


# Balance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(9, 4, 20), (5, 3, 7), (30, 3, 12), (3, 14, 20)])
def test_completed_trials_are_balanced_in_every_respect(
    seed: int, shape: tuple[int, int, int]
) -> None:
    contents, conditions, trials = shape
    stimuli = table(contents, conditions)
    protocol = tiny_protocol(trials=trials, practice=2, repeats=0)
    done = run_study(protocol, stimuli, sessions=25, seed=seed, dropout=0.2)
    condition = conditions_of(stimuli)
    content = dict(zip(stimuli["id"], stimuli["content"], strict=True))
    by_pair, by_content, lefts = Counter(), Counter(), Counter()
    for (left, right), times in use(done).items():
        by_pair[tuple(sorted((condition[left], condition[right])))] += times
        by_content[content[left]] += times
        lefts[condition[left], condition[right]] += times
    assert spread(levels(stimuli, protocol, done)) <= 1
    assert spread(by_pair.values()) <= 2
    assert spread(by_content.values()) <= max(3, trials // contents + 2)
    for one, other in by_pair:
        assert abs(lefts[one, other] - lefts[other, one]) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_levels_stay_within_one_for_every_method(method: str) -> None:
    for seed in range(4):
        stimuli = table(7, 4, golds=3, truth=True)
        protocol = tiny_protocol(method, trials=10, practice=1, repeats=1, golds=1)
        done = run_study(protocol, stimuli, sessions=20, seed=seed, dropout=0.2)
        assert spread(levels(stimuli, protocol, done)) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_many_observers_at_once_are_balanced(method: str) -> None:
    """Twelve people are under way at any time; a quarter never comes back."""
    stimuli = table(6, 4, truth=True)
    protocol = tiny_protocol(method, trials=9, practice=0, repeats=0)
    rng = np.random.default_rng(5)
    done: list[SessionPlan] = []
    running: list[SessionPlan] = []
    for ordinal in range(80):
        seen = use(done + running)  # completed, and reserved
        running.append(
            plan_session(protocol, stimuli, seen, rng=np.random.default_rng([5, ordinal]))
        )
        if len(running) == 12:
            plan = running.pop(int(rng.integers(12)))
            if rng.random() < 0.75:
                done.append(plan)
    done += running
    lost = levels(stimuli, protocol, done)
    assert spread(lost) <= 4  # reservations that came to nothing
    for ordinal in range(4):  # and are made up for
        done.append(
            plan_session(protocol, stimuli, use(done), rng=np.random.default_rng([6, ordinal]))
        )
    assert spread(levels(stimuli, protocol, done)) <= 1


@pytest.mark.parametrize("conditions", [2, 3, 5, 8, 12, 13, 20, 35, 60])
def test_the_first_session_connects_all_conditions(conditions: int) -> None:
    stimuli = table(4, conditions)
    protocol = tiny_protocol(trials=conditions - 1, practice=0, repeats=0)
    for seed in range(3):
        plan = plan_session(protocol, stimuli, {}, rng=np.random.default_rng(seed))
        pairs = compared(plan, stimuli)
        assert len(pairs) == conditions - 1
        assert is_connected(pairs, conditions)
        # Nobody is the hub: no condition is in more than a few of the pairs.
        assert max(Counter(k for pair in pairs for k in pair).values()) <= 4


def test_short_sessions_connect_as_early_as_can_be() -> None:
    conditions, trials = 30, 7
    stimuli = table(3, conditions)
    protocol = tiny_protocol(trials=trials, practice=0, repeats=0)
    for seed in range(3):
        done = run_study(protocol, stimuli, ceil((conditions - 1) / trials), seed)
        assert is_connected([p for plan in done for p in compared(plan, stimuli)], conditions)


def test_later_sessions_connect_on_their_own() -> None:
    """The first may be under way, and never be finished."""
    stimuli, protocol = table(5, 16), tiny_protocol(trials=24, practice=0, repeats=0)
    for seed in range(3):
        for plan in run_study(protocol, stimuli, 5, seed):
            assert is_connected(compared(plan, stimuli), 16)


@pytest.mark.parametrize("method", PAIRED)
def test_sides_of_the_right_answer_are_balanced(method: str) -> None:
    stimuli = table(8, 4, golds=16, truth=True)
    protocol = tiny_protocol(
        method, trials=6, practice=4, repeats=0, golds=4, practice_feedback=True
    )
    right = Counter()
    for seed in range(40):
        plan = plan_session(protocol, stimuli, {}, rng=np.random.default_rng(seed))
        for kind in ("gold", "practice"):
            sides = Counter(t.expected for t in plan.trials if t.kind == kind)
            assert sides == {"left": 2, "right": 2}
        right.update((k, t.expected) for k, t in enumerate(plan.trials) if t.kind == "practice")
    # ... in an order that cannot be foreseen: 5 standard errors of a fair coin.
    assert all(abs(right[k, "left"] - 20) <= 16 for k in range(4))


# What order and side tell ----------------------------------------------------------------------


def independence(rows: list[tuple[object, object]]) -> float:
    """p of Pearson's test that two facts of a trial have nothing to do with each other.

    Trials of a session are balanced, so the test rejects more seldom than its level says.
    """
    return chi2_contingency(pd.crosstab(*zip(*rows, strict=True))).pvalue


@pytest.mark.parametrize("method", ["pairwise", "artifact", "rating-dcr", "real-or-fake"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_order_and_side_tell_nothing_of_the_condition(method: str, first: bool) -> None:
    """250 fixed seeds; each p above 1e-4, which one set of seeds in 300 would miss by chance."""
    stimuli = table(7, 4, golds=8, truth=True)
    protocol = tiny_protocol(method, trials=12, practice=0, repeats=2, golds=2)
    busy = use(run_study(protocol, stimuli, 5, seed=77)) if not first else {}
    name = conditions_of(stimuli)
    facts: dict[str, list[tuple[object, object]]] = {}
    for seed in range(250):
        plan = plan_session(protocol, stimuli, busy, rng=np.random.default_rng(seed))
        previous = None
        for position, trial in enumerate(plan.trials):
            keys = shown(trial)
            third = 3 * position // len(plan.trials)
            if trial.kind in ("test", "gold"):
                facts.setdefault("kind by position", []).append((trial.kind, third))
            if trial.kind != "test":
                continue
            for side, key in enumerate(keys):
                facts.setdefault("condition by position", []).append((name[key], third))
                if len(keys) == 2:
                    facts.setdefault("condition by side", []).append((name[key], side))
                if side == 0 and previous is not None:
                    facts.setdefault("condition by the one before", []).append(
                        (name[key], previous[0] if len(keys) == 2 else third)
                    )
            if trial.expected is not None:
                facts.setdefault("answer by position", []).append((trial.expected, third))
            previous = trial.kind, trial.expected
    if method == "real-or-fake":  # one side is always real; which one is the question
        sides = Counter(facts.pop("condition by side"))
        real = sides["reference", 0]
        assert binom.cdf(min(real, 3000 - real), 3000, 0.5) > 1e-4
    for fact, rows in facts.items():
        if len(set(map(str, (second for _, second in rows)))) > 1:
            assert independence(rows) > 1e-4, fact


def test_the_test_would_see_a_leak() -> None:
    rng = np.random.default_rng(0)
    rows = [(f"c{k}", bool(rng.random() < 0.5 + 0.05 * (k == 0))) for k in range(4)
            for _ in range(2400)]  # fmt: skip
    assert independence(rows) < 1e-4


# Golds -----------------------------------------------------------------------------------------


def test_a_protocol_says_how_many_golds_its_study_needs() -> None:
    assert golds_needed(tiny_protocol(golds=0)) == 0
    assert golds_needed(tiny_protocol(golds=2)) == 12
    assert golds_needed(tiny_protocol(golds=9, practice=3)) == 18
    assert golds_needed(tiny_protocol(golds=9, practice=3, practice_feedback=True)) == 24


@pytest.mark.parametrize(
    ("expected", "value", "right"),
    [
        ("left", "left", True),
        ("left", "right", False),
        ("left", "tie", False),
        ("left", "skip", None),
        ("marks", "none", False),
        ("marks", "marks", True),
        ("1", "2", True),
        ("1", "3", False),
        ("reject", "fix", True),
        ("reject", "accept", False),
    ],
)
def test_what_passes(expected: str, value: str, right: bool | None) -> None:
    assert passes(expected, value) is right


def answers(*rows: tuple[str, int, bool]) -> pd.DataFrame:
    return pd.DataFrame(
        [(who, gold, "left", "left" if right else "right") for who, gold, right in rows],
        columns=["observer", "stimulus", "expected", "value"],
    )


def test_a_gold_that_sound_observers_miss_is_retired() -> None:
    good = [(f"o{k}", 1, True) for k in range(5)]
    bad = [(f"o{k}", 2, False) for k in range(4)]
    found = retire_golds(answers(*good, *bad))
    assert set(found) == {2}
    assert found[2] == "missed by 4 of 4 observers who passed all their other golds"
    # One miss is a lapse.
    assert retire_golds(answers(*good, ("o0", 2, False), ("o1", 2, True))) == {}


def test_careless_observers_retire_nothing() -> None:
    rows = [(f"o{k}", gold, False) for k in range(20) for gold in (1, 2, 3)]
    assert retire_golds(answers(*rows)) == {}
    # Nor do those of whom nothing else is known, or who skip.
    assert retire_golds(answers(*[(f"o{k}", 1, False) for k in range(20)])) == {}
    skipped = answers(*[(f"o{k}", gold, True) for k in range(9) for gold in (1, 2)])
    skipped.loc[skipped["stimulus"] == 2, "value"] = "skip"
    assert retire_golds(skipped) == {}
    assert retire_golds(answers()) == {}


@pytest.mark.parametrize(
    ("missed", "asked", "retired"),
    [(1, 1, False), (2, 2, True), (2, 3, False), (3, 4, True), (3, 5, False), (4, 7, True),
     (60, 200, True), (49, 200, False), (900, 3000, True)],
)  # fmt: skip
def test_retiring_is_an_exact_test(missed: int, asked: int, retired: bool) -> None:
    assert bool(binom.sf(missed - 1, asked, MISS_RATE) <= MISS_LEVEL) is retired
    rows = [(f"o{k}", 1, True) for k in range(asked)]
    rows += [(f"o{k}", 2, k >= missed) for k in range(asked)]
    assert (2 in retire_golds(answers(*rows))) is retired


def test_good_golds_live_and_bad_ones_die_soon() -> None:
    """Looking after every answer: how often is a gold ever retired within 60 answers?"""
    rng = np.random.default_rng(1)
    asked = np.arange(1, 61)
    for rate, low, high in ((0.03, 0.0, 0.02), (0.5, 0.97, 1.0)):
        missed = np.cumsum(rng.random((4000, 60)) < rate, axis=1)
        ever = (binom.sf(missed - 1, asked, MISS_RATE) <= MISS_LEVEL).any(axis=1).mean()
        assert low <= ever <= high


# Adaptive --------------------------------------------------------------------------------------


def votes_of(wins: np.ndarray) -> pd.DataFrame:
    rows = [
        (f"c{i}", f"c{j}", "left", int(wins[i, j]))
        for i in range(len(wins))
        for j in range(len(wins))
        if wins[i, j]
    ]
    return pd.DataFrame(rows, columns=["left", "right", "choice", "count"])


def round_robin(scores: np.ndarray, votes: int, rng: np.random.Generator) -> np.ndarray:
    wins = np.zeros((len(scores),) * 2)
    for i, j in combinations(range(len(scores)), 2):
        won = rng.binomial(votes, 1 / (1 + np.exp(scores[j] - scores[i])))
        wins[i, j], wins[j, i] = won, votes - won
    return wins


def test_the_posterior_is_the_penalised_maximum_likelihood() -> None:
    from scipy.optimize import minimize

    wins = round_robin(np.array([1.0, 0.2, 0.0, -1.2]), 12, np.random.default_rng(3))

    def loss(scores: np.ndarray) -> float:
        gap = scores[:, None] - scores[None, :]
        return float((wins * np.log1p(np.exp(-gap))).sum() + (scores**2).sum() / (2 * 1.5**2))

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    known = posterior(wins, prior_sd=1.5)
    assert known.mean == pytest.approx(best.x, abs=1e-5)
    step = 1e-3
    hessian = np.array([[
        (loss(best.x + step * (a + b)) - loss(best.x + step * (a - b))
         - loss(best.x - step * (a - b)) + loss(best.x - step * (a + b))) / (4 * step**2)
        for a in np.eye(4)] for b in np.eye(4)])  # fmt: skip
    assert np.linalg.inv(known.covariance) == pytest.approx(hessian, abs=1e-3)


def test_the_gain_is_the_expected_information() -> None:
    """Against the mutual information by brute force."""
    known = Posterior(np.array([0.8, -0.1]), np.array([[0.5, 0.1], [0.1, 0.3]]))
    mean, sd = 0.9, np.sqrt(0.5 + 0.3 - 0.2)
    x = np.linspace(-9, 9, 20001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    p = 1 / (1 + np.exp(-(mean + sd * x)))
    entropy = lambda q: -q * np.log(q) - (1 - q) * np.log(1 - q)  # noqa: E731
    expected = entropy(density @ p) - density @ entropy(p)
    assert known.gain(np.array([[0, 1], [1, 0]])) == pytest.approx([expected] * 2, rel=1e-4)


def test_votes_narrow_a_pair_and_certainty_tells_nothing() -> None:
    known = posterior(np.zeros((3, 3)))
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    after = known.after(pairs[0], 20)
    assert after.gain(pairs)[0] < after.gain(pairs)[1]
    assert (np.linalg.eigvalsh(after.covariance) > 0).all()
    certain = posterior(np.array([[0, 40, 0], [0, 0, 0], [0, 0, 0.0]]))
    assert certain.gain(pairs)[0] < certain.gain(pairs)[2]


def test_adaptive_is_balanced_until_votes_connect() -> None:
    stimuli = table(4, 5)
    adaptive = tiny_protocol(trials=10, selection="adaptive")
    balanced = tiny_protocol(trials=10)
    wins = np.zeros((5, 5))
    wins[0, 1] = wins[2, 3] = 4
    for votes in (None, votes_of(wins)):
        for seed in range(3):
            plans = [
                plan_session(p, stimuli, {}, rng=np.random.default_rng(seed), votes=votes)
                for p in (adaptive, balanced)
            ]
            assert plans[0] == plans[1]
    # Votes of an older study, on conditions that are gone, connect nothing.
    gone = pd.DataFrame([("x", "y", "left", 3)], columns=["left", "right", "choice", "count"])
    plan_session(adaptive, stimuli, {}, rng=np.random.default_rng(0), votes=gone)


def test_adaptive_asks_about_the_close_and_unknown() -> None:
    scores = np.array([3.0, 0.1, 0.0, -3.0])
    wins = round_robin(scores, 30, np.random.default_rng(0))
    stimuli = table(12, 4)
    protocol = tiny_protocol(trials=24, practice=0, repeats=0, selection="adaptive")
    plan = plan_session(protocol, stimuli, {}, rng=np.random.default_rng(0), votes=votes_of(wins))
    asked = Counter(tuple(sorted(pair)) for pair in compared(plan, stimuli))
    assert asked.most_common(1)[0][0] == (1, 2)
    assert (0, 3) not in asked
    assert len({t.content for t in judged(plan)}) == 12  # photographs stay level


def test_sessions_under_way_count_for_adaptive() -> None:
    """A second observer, before the first has answered, is asked something else as well."""
    wins = round_robin(np.linspace(1, -1, 8), 2, np.random.default_rng(2))
    stimuli, votes = table(10, 8), votes_of(wins)
    done = {(row.left, row.right): 2 for row in votes.itertuples()}
    protocol = tiny_protocol(trials=6, practice=0, repeats=0, selection="adaptive")
    first_key = {name: key for key, name in conditions_of(stimuli[stimuli["content"] == 1]).items()}
    used = {(first_key[a], first_key[b]): n for (a, b), n in done.items()}
    first = plan_session(protocol, stimuli, used, rng=np.random.default_rng(1), votes=votes)
    busy = Counter(used) + use([first] * 5)
    second = plan_session(protocol, stimuli, busy, rng=np.random.default_rng(1), votes=votes)
    pairs = [{tuple(sorted(pair)) for pair in compared(plan, stimuli)} for plan in (first, second)]
    assert not pairs[0] & pairs[1]
