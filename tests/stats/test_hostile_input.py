"""Whatever comes in: a result that says what is wrong with it, or one clear error."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept import stats
from percept.errors import InputError


def votes(n: int = 60, **columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    left = rng.integers(3, size=n)
    right = (left + rng.integers(1, 3, size=n)) % 3
    frame = pd.DataFrame(
        {
            "observer": [f"o{i}" for i in rng.integers(5, size=n)],
            "content": [f"c{i}" for i in rng.integers(6, size=n)],
            "left": [f"m{i}" for i in left],
            "right": [f"m{i}" for i in right],
            "choice": rng.choice(["left", "right", "tie"], n),
        }
    )
    return frame.assign(**columns)


FRAMES = {
    "empty": lambda: votes().iloc[:0],
    "one row": lambda: votes().iloc[:1],
    "one observer": lambda: votes(observer="o"),
    "one photograph": lambda: votes(content="c"),
    "all ties": lambda: votes(choice="tie"),
    "all skipped": lambda: votes(choice="skip"),
    "always left": lambda: votes(choice="left"),
    "unknown answer": lambda: votes(choice="perhaps"),
    "no answer": lambda: votes(choice=None),
    "no side": lambda: votes(left=None),
    "no observer": lambda: votes(observer=None),
    "half without observer": lambda: votes(observer=["a", None] * 30),
    "the same on both sides": lambda: votes(left="m0", right="m0"),
    "a column less": lambda: votes().drop(columns="right"),
    "negative counts": lambda: votes(count=-1.0),
    "infinite counts": lambda: votes(count=np.inf),
    "mixed attributes": lambda: votes(attribute=["realism", "period"] * 30),
    "integers": lambda: votes(observer=np.arange(60) % 5, content=np.arange(60) % 7),
    "no test trials": lambda: votes(kind="practice"),
    "words as counts": lambda: votes(count="many"),
    "missing counts": lambda: votes(count=pd.array([1, None] * 30, dtype="Int64")),
    "a column twice": lambda: pd.concat([votes(), votes()[["left"]]], axis=1),
    "numbers as answers": lambda: votes(choice=1),
    "kinds missing": lambda: votes(kind=pd.array(["test", None] * 30, dtype="string")),
    "categories": lambda: votes().astype("category"),
    "arrow": lambda: votes(count=2).convert_dtypes(dtype_backend="pyarrow"),
    "times": lambda: votes(content=pd.Timestamp("2026-01-01", tz="Europe/Berlin")),
    "long labels": lambda: votes(observer=["a" * 50_000, "b" * 50_000] * 30),
    "strange index": lambda: votes().set_index(pd.Index([0] * 60)),
}
METRIC = pd.Series(
    np.arange(18.0), index=pd.MultiIndex.from_product([[f"c{i}" for i in range(6)],
                                                       ["m0", "m1", "m2"]])
)  # fmt: skip
OF_FRAMES: dict[str, Callable[[pd.DataFrame], object]] = {
    "bradley_terry": stats.bradley_terry,
    "with side": lambda f: stats.bradley_terry(f, side_effect=True, ties="rao-kupper"),
    "resampled": lambda f: stats.bradley_terry(f, n_boot=5, rng=np.random.default_rng(0)),
    "penalised": lambda f: stats.bradley_terry(f, penalty=0.1),
    "thurstone": stats.thurstone_case_v,
    "apart": lambda f: stats.tell_apart(stats.bradley_terry(f)),
    "fit": lambda f: stats.goodness_of_fit(f, stats.bradley_terry(f)),
    "arms": lambda f: stats.compare_arms(f, {"m0": "a", "m1": "a", "m2": "b"}),
    "crowd": stats.crowd_bradley_terry,
    "counts": stats.count_pairs,
    "share": lambda f: stats.preference_share(f, "m0", "m1"),
    "alpha": lambda f: stats.pairwise_alpha(f, n_boot=5, rng=np.random.default_rng(0)),
    "alpha of observers": lambda f: stats.pairwise_alpha(f, resample="observers"),
    "wins": stats.stimulus_wins,
    "reliability": lambda f: stats.assess_reliability(
        stats.stimulus_wins(f).to_numpy(float).T, n_boot=4, n_splits=4, rng=np.random.default_rng(0)
    ),
    "choices": lambda f: stats.predict_choices(METRIC, f),
    "pairs": lambda f: stats.judged_pairs(METRIC, f),
    "screening": stats.screen_observers,
    "fooled": lambda f: stats.fool_rates(f, true="m0"),
}


@pytest.mark.parametrize("name", OF_FRAMES)
def test_frames_of_votes(name: str) -> None:
    fails = {}
    for kind, make in FRAMES.items():
        frame = make()
        before = frame.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                OF_FRAMES[name](frame)
            except InputError:
                pass
            except Exception as problem:
                fails[kind] = repr(problem)
        pd.testing.assert_frame_equal(frame, before)
    assert not fails


ARRAYS = {
    "nothing": np.zeros((0, 0)),
    "no units": np.zeros((4, 0)),
    "no observers": np.zeros((0, 4)),
    "one observer": np.arange(6.0)[None],
    "one unit": np.arange(6.0)[:, None],
    "constant": np.full((4, 6), 3.0),
    "missing": np.full((4, 6), np.nan),
    "one rating": np.where(np.eye(4, 6) * np.arange(4)[:, None] == 1, 1.0, np.nan),
    "an observer who never varies": np.vstack([np.full(6, 2.0), np.arange(6.0), np.arange(6.0)]),
    "infinite": np.array([[1.0, np.inf], [2.0, 1.0]]),
    "flat list": np.arange(6.0),
    "words": np.array([["a", "b"], ["c", "d"]]),
    "four dimensions": np.zeros((2, 2, 2, 2)),
    "huge": np.array([[1e300, 1e-300, 1.0], [1e299, 2e-300, 2.0]]),
    "repetitions": np.arange(24.0).reshape(3, 4, 2),
}
OF_ARRAYS: dict[str, Callable[[np.ndarray], object]] = {
    **{
        f"alpha {level}": lambda x, level=level: stats.krippendorff_alpha(
            x, level, n_boot=3, rng=np.random.default_rng(0)
        )
        for level in ("nominal", "ordinal", "interval", "ratio")
    },
    "alpha of observers": lambda x: stats.krippendorff_alpha(x, resample="observers"),
    "gwet": lambda x: stats.gwet_ac(x, "quadratic"),
    "icc": lambda x: [stats.icc(x, form) for form in ("ICC1", "ICC2", "ICC3k")],
    "kendall": stats.kendall_w,
    **{
        f"mos {method}": lambda x, method=method: stats.mos(x, method)
        for method in ("mean", "bt500", "bt500_bias_removed", "p910", "zscore")
    },
    "reliability": lambda x: stats.assess_reliability(
        x, n_boot=3, n_splits=3, rng=np.random.default_rng(0)
    ),
    "fleiss": stats.fleiss_kappa,
    "consistency": stats.paired_consistency,
    "counted": lambda x: stats.bradley_terry(stats.PairCounts(x)),
    "correlations": lambda x: stats.correlate_many(
        {"a": np.arange(x.shape[-1] if x.ndim else 0.0), "b": np.ones(x.shape[-1])}, x, n_boot=3
    ),
    "correlation": lambda x: stats.correlate(
        np.arange(x.shape[-1] if x.ndim else 0.0), x, n_boot=3, rng=np.random.default_rng(0)
    ),
}


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_arrays(name: str) -> None:
    fails = {}
    for kind, array in ARRAYS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                OF_ARRAYS[name](array)
            except InputError:
                pass
            except Exception as problem:
                fails[kind] = repr(problem)
    assert not fails


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_choices_do_not_depend_on_names_sides_or_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = votes()
    frame["choice"] = rng.choice(["left", "right", "tie"], len(frame))
    metric = pd.Series(rng.normal(size=18), index=METRIC.index)
    found = stats.predict_choices(metric, frame)
    flip = {"left": "right", "right": "left", "tie": "tie"}
    swap = rng.random(len(frame)) < 0.5
    other = frame.copy()
    other.loc[swap, ["left", "right"]] = frame.loc[swap, ["right", "left"]].to_numpy()
    other.loc[swap, "choice"] = frame.loc[swap, "choice"].map(flip)
    names = {"m0": "z", "m1": "y", "m2": "x"}
    other = other.assign(left=other["left"].map(names), right=other["right"].map(names))
    other = other.sample(frac=1, random_state=1)
    renamed = metric.rename(index=names)
    again = stats.predict_choices(renamed, other)
    for name in ("accuracy", "log_loss", "human_accuracy", "human_agreement"):
        one, two = getattr(found, name), getattr(again, name)
        np.testing.assert_allclose(
            (one.value, *one.interval), (two.value, *two.interval), atol=1e-9, err_msg=name
        )
    rising = stats.predict_choices(np.exp(metric), frame)
    assert rising.accuracy.value == pytest.approx(found.accuracy.value)
    falling = stats.predict_choices(-metric, frame, higher_is_better=False)
    assert falling.log_loss.value == pytest.approx(found.log_loss.value)
    twice = stats.predict_choices(metric, pd.concat([frame, frame]), cluster=None)
    assert twice.accuracy.value == pytest.approx(found.accuracy.value)
