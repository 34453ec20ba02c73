from __future__ import annotations

import numpy as np
import pytest

from percept.errors import InputError
from percept.stats import plan, read_pilot

SMALL = {"trials_per_observer": 20, "n_simulations": 12}


def test_a_plan_holds_what_it_promises():
    p = plan(2, 20, effect=0.6, content_sd=0.3, rng=np.random.default_rng(0), **SMALL)
    assert p.observers is not None
    assert p.trials == 20 * p.observers
    assert p.achieved >= 0.8
    assert p.curve["observers"].is_monotonic_increasing
    assert p.curve["trials"].eq(20 * p.curve["observers"]).all()
    again = plan(2, 20, effect=0.6, content_sd=0.3, rng=np.random.default_rng(0), **SMALL)
    assert again.observers == p.observers


def test_smaller_effects_and_narrower_intervals_cost_more():
    rng = np.random.default_rng(1)
    large, small = (plan(2, 20, effect=e, rng=rng, **SMALL).observers for e in (1.5, 0.6))
    assert large < small
    wide, narrow = (
        plan(2, 20, effect=0, goal="half_width", target=t, rng=rng, **SMALL).observers
        for t in (0.7, 0.4)
    )
    assert wide < narrow


def test_more_observers_do_not_replace_photographs():
    p = plan(
        2, 4, effect=0.3, content_sd=1.0, max_observers=40, rng=np.random.default_rng(2), **SMALL
    )
    assert p.observers is None
    assert any("more photographs" in text for text in p.warnings)


@pytest.mark.parametrize(
    "settings",
    [
        {"conditions": 1},
        {"target": 1.0},
        {"effect": 0.0},
        {"goal": "fame"},
        {"tie_share": 1.0},
        {"content_sd": -1.0},
        {"confidence": 2.0},
        {"effect": -1.0},
    ],
)
def test_impossible_settings(settings):
    options = {"conditions": 2, "contents": 5, "effect": 0.5, **SMALL, **settings}
    with pytest.raises(InputError):
        plan(**options)


def test_observers_are_tried_between_the_ends_asked_for():
    p = plan(
        2, 20, effect=0.1, min_observers=5, max_observers=9, rng=np.random.default_rng(3), **SMALL
    )
    assert p.curve["observers"].tolist() == [5, 9]
    with pytest.raises(InputError):
        plan(2, 20, effect=0.5, min_observers=9, max_observers=5, **SMALL)


def test_a_pilot_tells_what_the_plan_assumes(simulate):
    truth = np.array([0.8, 0.2, -0.4, -0.6])
    found = [
        read_pilot(
            simulate(truth, observers=40, contents=40, each=60, observer_sd=0.6, content_sd=sd,
                     nu=0.5, rng=np.random.default_rng(seed))
        )
        for seed in range(5) for sd in (0.0, 0.9)
    ]  # fmt: skip
    unit = np.log(3)
    for some, sd in ((found[::2], 0.0), (found[1::2], 0.9)):
        assert np.mean([p.observer_sd for p in some]) * unit == pytest.approx(0.6, abs=0.12)
        content = np.mean([p.content_sd**2 for p in some]) ** 0.5 * unit
        assert content == pytest.approx(sd, abs=0.2)
        assert np.mean([p.effect for p in some]) * unit == pytest.approx(0.6, abs=0.3)
    assert found[0].tie_share == pytest.approx(0.2, abs=0.05)
    alone = simulate(truth, observers=1, rng=np.random.default_rng(0), each=200)
    assert np.isnan(read_pilot(alone).observer_sd)
    with pytest.raises(InputError, match="does not tell"):
        read_pilot(alone.assign(left="m0", right="m1", choice="left"))
