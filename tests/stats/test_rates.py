from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from percept.errors import InputError
from percept.stats import (
    acceptance_sample,
    artifact_rates,
    defect_bound,
    fool_rates,
    proportion_interval,
    review_rates,
)


@pytest.fixture
def frame():
    return pd.DataFrame(
        [
            # Two marks in one trial are one trial.
            ("a", 1, "o1", "c1", "bleeding", 3),
            ("a", 1, "o1", "c1", "halo", 1),
            ("a", 2, "o2", "c1", None, np.nan),
            ("a", 3, "o1", "c2", "halo", 1),
            ("a", 4, "o2", "c2", None, np.nan),
            ("b", 5, "o1", "c1", None, np.nan),
            ("b", 6, "o2", "c2", None, np.nan),
        ],
        columns=["condition", "trial", "observer", "content", "artifact", "severity"],
    ).assign(kind="test", revision=0)


def test_rates_count_trials(frame):
    a, b = artifact_rates(frame)
    assert (a.condition, a.seen, a.trials, a.contents) == ("a", 2, 4, 2)
    assert a.rate.value == 0.5
    assert (b.seen, b.rate.value, b.rate.low) == (0, 0, 0)
    assert b.upper_bound == pytest.approx(1 - 0.05 ** (1 / 2))
    assert "new observers and new photographs" in a.rate.method


def test_rates_by_artifact_and_severity(frame):
    rates = {
        (r.condition, r.artifact): r.rate.value for r in artifact_rates(frame, by_artifact=True)
    }
    assert rates == {
        ("a", None): 0.5, ("a", "bleeding"): 0.25, ("a", "halo"): 0.5,
        ("b", None): 0, ("b", "bleeding"): 0, ("b", "halo"): 0,
    }  # fmt: skip
    severe = artifact_rates(frame, min_severity=2)[0]
    assert severe.rate.value == 0.25
    assert "severity 2" in severe.rate.method


def test_the_last_revision_and_test_trials_count(frame):
    undone = frame[frame["trial"] == 3].assign(artifact=None, severity=np.nan, revision=1)
    practice = frame[frame["trial"] == 1].assign(trial=9, kind="practice")
    a = artifact_rates(pd.concat([frame, undone, practice]))[0]
    assert (a.seen, a.trials) == (1, 4)


def test_sampling_weights(frame):
    a = artifact_rates(frame, weights=pd.Series({"c1": 3.0, "c2": 1.0}))[0]
    assert a.rate.value == 0.5
    only_c1 = frame.assign(artifact=frame["artifact"].where(frame["content"] == "c1"))
    weighted = artifact_rates(only_c1, weights=pd.Series({"c1": 3.0, "c2": 1.0}))[0]
    assert weighted.rate.value == pytest.approx(3 / 8)


def test_bad_input(frame):
    with pytest.raises(InputError, match="severity"):
        artifact_rates(frame.drop(columns="severity"), min_severity=2)
    with pytest.raises(InputError, match="artifact"):
        artifact_rates(frame.drop(columns="artifact"))
    assert artifact_rates(frame.iloc[:0]) == ()


def test_fool_rates():
    rng = np.random.default_rng(0)
    n = 400
    true_left = rng.random(n) < 0.5
    fooled = rng.random(n) < np.where(np.arange(n) % 2, 0.1, 0.4)
    condition = np.where(np.arange(n) % 2, "poor", "good")
    frame = pd.DataFrame(
        {
            "observer": rng.integers(20, size=n),
            "content": rng.integers(15, size=n),
            "left": np.where(true_left, "reference", condition),
            "right": np.where(true_left, condition, "reference"),
            "choice": np.where(true_left != fooled, "left", "right"),
        }
    )
    good, poor = fool_rates(frame)
    assert good.condition == "good"
    assert good.rate.value == pytest.approx(fooled[condition == "good"].mean())
    assert good.rate.low < 0.4 < good.rate.high
    assert poor.d_prime.value > good.d_prime.value > 0
    assert poor.d_prime.low < poor.d_prime.value < poor.d_prime.high
    coin = fool_rates(frame.assign(choice=rng.choice(["left", "right"], n)))[0]
    assert coin.d_prime.low < 0 < coin.d_prime.high
    with pytest.raises(InputError, match="true image"):
        fool_rates(frame.assign(left="good", right="poor"))
    assert fool_rates(frame.iloc[:0]) == ()


def test_review_rates():
    frame = pd.DataFrame(
        {
            "trial": range(6),
            "observer": list("ababab"),
            "content": [1, 1, 2, 2, 3, 3],
            "condition": "m",
            "verdict": ["accept", "accept", "fix", "accept", "reject", "reject"],
            "reason": [None, None, "bleeding", None, "bleeding", "hue"],
        }
    )
    (rate,) = review_rates(frame)
    assert rate.accepted.value == 0.5
    assert rate.fixable.value == pytest.approx(1 / 6)
    assert rate.rejected.value == pytest.approx(1 / 3)
    assert rate.reasons == {"bleeding": 2, "hue": 1}
    weighted = review_rates(frame, weights=pd.Series({1: 8.0, 2: 1.0, 3: 1.0}))[0]
    assert weighted.accepted.value == pytest.approx(8.5 / 10)
    with pytest.raises(InputError, match="verdict"):
        review_rates(frame.assign(verdict="maybe"))


def test_acceptance_sampling():
    assert acceptance_sample(0.05) == 59  # the classical sample without a failure
    assert acceptance_sample(0.05, allowed=1) == 93
    assert acceptance_sample(0.1, confidence=0.9) == 22
    n = acceptance_sample(0.05, lot=200)
    assert n < 59
    assert defect_bound(0, n, lot=200) < 0.05 <= defect_bound(0, n - 1, lot=200)
    assert defect_bound(0, 59) < 0.05 <= defect_bound(0, 58)
    assert defect_bound(3, 100) == pytest.approx(
        proportion_interval(3, 100, "clopper-pearson", confidence=0.9)[1]
    )
    assert defect_bound(2, 100, lot=10**5) == pytest.approx(defect_bound(2, 100), abs=1e-3)
    assert defect_bound(2, 50, lot=50) == 2 / 50
    for bad in (
        lambda: acceptance_sample(0),
        lambda: acceptance_sample(0.1, allowed=-1),
        lambda: defect_bound(3, 2),
        lambda: defect_bound(0, 5, lot=4),
    ):
        with pytest.raises(InputError):
            bad()
