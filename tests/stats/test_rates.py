from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from percept.errors import InputError
from percept.stats import artifact_rates


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
