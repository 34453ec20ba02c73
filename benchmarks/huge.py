"""Ten million rows: CPU time and memory of every statistic of frames or arrays of any length.

    python benchmarks/huge.py [NAME …] [--rows N] [--memory GIB]

Each runs in a process of its own, with a limit of memory; what it takes beside its input is shown.
What fails to answer, or answers with an error that is not an ``InputError``, is marked.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# statistics.py here would hide the standard library's module of that name.
sys.path[:] = [str(HERE.parent), *(e for e in sys.path if Path(e or ".").resolve() != HERE)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from percept import stats  # noqa: E402
from percept.errors import InputError  # noqa: E402

OBSERVERS, CONTENTS, CONDITIONS = 2_000, 1_000, 8


def labels(prefix: str, codes: np.ndarray, n: int) -> pd.Series:
    """Text labels of codes below n."""
    return text([f"{prefix}{i}" for i in range(n)], codes)


def text(values: list[str], codes: np.ndarray) -> pd.Series:
    return pd.Series(pd.array(values, dtype="str").take(codes))


def who_and_what(n: int, rng: np.random.Generator) -> dict[str, pd.Series]:
    return {
        "observer": labels("o", rng.integers(OBSERVERS, size=n), OBSERVERS),
        "content": labels("p", rng.integers(CONTENTS, size=n), CONTENTS),
    }


def votes(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    left = rng.integers(CONDITIONS, size=n)
    right = (left + rng.integers(1, CONDITIONS, size=n)) % CONDITIONS
    draw = rng.random(n)
    answer = np.where(draw < 0.1, 1, np.where(draw < 0.6 + 0.02 * (left - right), 0, 2))
    return pd.DataFrame(
        {
            **who_and_what(n, rng),
            "left": labels("m", left, CONDITIONS),
            "right": labels("m", right, CONDITIONS),
            "choice": text(["left", "tie", "right"], answer),
        }
    )


def study(n: int) -> pd.DataFrame:
    """Votes with the columns that screening looks at; a twentieth repeat others, sides swapped."""
    frame = votes(n)
    again = np.arange(n) % 20 == 19
    place = np.arange(n) - 7 * again
    swapped = frame.take(place).set_axis(frame.index)
    return swapped.assign(
        left=swapped["left"].where(~again, swapped["right"]),
        right=swapped["right"].where(~again, swapped["left"]),
        choice=frame["choice"],
        trial=np.arange(n),
        kind=text(["test", "repeat"], again.astype(np.int64)),
        repeat_of=np.where(again, place, np.nan),
        response_time_ms=np.random.default_rng(2).gamma(2, 1000, n),
    )


def singles(n: int) -> pd.DataFrame:
    """Answers on single stimuli: a grade, a verdict and marks, by the column that is looked at."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            **who_and_what(n, rng),
            "condition": labels("m", rng.integers(CONDITIONS, size=n), CONDITIONS),
            "trial": np.arange(n),
            "score": rng.integers(1, 6, n).astype(float),
            "verdict": text(["accept", "fix", "reject"], rng.integers(3, size=n)),
            "severity": rng.integers(1, 4, n).astype(float),
        }
    )
    frame["artifact"] = labels("a", rng.integers(4, size=n), 4).where(rng.random(n) < 0.3)
    for side in ("x", "y", "width", "height"):
        frame[side] = np.where(frame["artifact"].notna(), rng.random(n) / 2, np.nan)
    return frame


def fakes(n: int) -> pd.DataFrame:
    frame = votes(n)
    frame.loc[np.arange(n) % 2 == 0, "left"] = "reference"
    frame.loc[np.arange(n) % 2 == 1, "right"] = "reference"
    return frame


def metric() -> pd.Series:
    index = pd.MultiIndex.from_product(
        [[f"p{i}" for i in range(CONTENTS)], [f"m{i}" for i in range(CONDITIONS)]]
    )
    return pd.Series(np.random.default_rng(4).normal(size=len(index)), index=index)


def grades(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(1, 6, (10, n // 10)).astype(float)


def pairs(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    x = rng.normal(size=n)
    return x, x + rng.normal(size=n), rng.integers(CONTENTS, size=n)


RNG = np.random.default_rng(7)
Task = tuple[Callable[[int], Any], Callable[[Any], Any]]
TASKS: dict[str, Task] = {
    "bradley_terry": (votes, stats.bradley_terry),
    "bradley_terry, side, resampled": (
        votes, lambda f: stats.bradley_terry(f, side_effect=True, n_boot=100, rng=RNG)),
    "thurstone_case_v": (votes, stats.thurstone_case_v),
    "scale_by": (votes, lambda f: stats.scale_by(f, "left", cluster="observer")),
    "goodness_of_fit": (votes, lambda f: stats.goodness_of_fit(f, stats.thurstone_case_v(f))),
    "compare_arms": (
        votes, lambda f: stats.compare_arms(f, {f"m{i}": i // 2 for i in range(CONDITIONS)})),
    "crowd_bradley_terry": (votes, stats.crowd_bradley_terry),
    "count_pairs": (votes, stats.count_pairs),
    "preference_share": (votes, lambda f: stats.preference_share(f, "m0", "m1")),
    "read_pilot": (votes, stats.read_pilot),
    "pairwise_alpha": (votes, stats.pairwise_alpha),
    "pairwise_alpha, observers": (
        votes, lambda f: stats.pairwise_alpha(f, resample="observers")),
    "stimulus_wins": (votes, lambda f: stats.stimulus_wins(f, exclude=())),
    "predict_choices": (votes, lambda f: stats.predict_choices(metric(), f)),
    "judged_pairs": (votes, lambda f: stats.judged_pairs(metric(), f)),
    "screen_observers, pairs": (study, stats.screen_observers),
    "repeat_consistency": (study, stats.repeat_consistency),
    "fool_rates": (fakes, stats.fool_rates),
    "screen_observers, ratings": (
        singles, lambda f: stats.screen_observers(f.drop(columns=["verdict", "artifact"]))),
    "screen_observers, reviews": (
        singles, lambda f: stats.screen_observers(f.drop(columns=["score", "artifact"]))),
    "artifact_rates": (singles, lambda f: stats.artifact_rates(f, by_artifact=True)),
    "review_rates": (singles, stats.review_rates),
    "tag_agreement": (singles, stats.tag_agreement),
    "region_agreement": (singles, stats.region_agreement),
    "region_map": (singles, lambda f: stats.region_map(f, f)),
    "rating_units": (singles, stats.rating_units),
    "cluster_mean": (
        singles, lambda f: stats.cluster_mean(f["score"], f, cluster=("observer", "content"))),
    **{f"krippendorff_alpha, {level}": (
        grades, lambda x, level=level: stats.krippendorff_alpha(x, level, n_boot=20, rng=RNG))
        for level in ("nominal", "ordinal", "interval", "ratio")},
    "krippendorff_alpha, continuous": (
        lambda n: RNG.normal(size=(10, n // 10)),
        lambda x: stats.krippendorff_alpha(x, "interval", resample="observers")),
    "krippendorff_alpha, continuous ordinal": (
        lambda n: RNG.normal(size=(10, n // 10)), lambda x: stats.krippendorff_alpha(x, "ordinal")),
    "gwet_ac": (grades, lambda x: stats.gwet_ac(x, "quadratic")),
    "fleiss_kappa": (lambda n: RNG.integers(0, 5, (n, 3)), stats.fleiss_kappa),
    "cohen_kappa": (
        lambda n: RNG.integers(1, 6, (2, n)), lambda x: stats.cohen_kappa(*x, "linear")),
    "icc": (grades, stats.icc),
    "kendall_w": (grades, stats.kendall_w),
    "assess_reliability": (grades, lambda x: stats.assess_reliability(x, n_boot=20, rng=RNG)),
    **{f"mos, {name}": (grades, lambda x, name=name: stats.mos(x, name))
       for name in ("mean", "bt500", "p910", "zscore")},
    "difference_ratings": (
        grades, lambda x: stats.difference_ratings(x, np.zeros(x.shape[1], dtype=np.int64))),
    "correlate": (pairs, lambda x: stats.correlate(x[0], x[1])),
    "correlate, clusters": (
        pairs, lambda x: stats.correlate(*x[:2], cluster=x[2], within=x[2], n_boot=20, rng=RNG)),
    "correlate, ratings": (
        pairs, lambda x: stats.correlate(
            x[0][: len(x[0]) // 10], x[1].reshape(10, -1), cluster=x[2][: len(x[0]) // 10],
            n_boot=20, rng=RNG)),
    "compare_strata": (pairs, lambda x: stats.compare_strata(x[0], x[1], x[2] % 4)),
    "different_similar_auc": (
        pairs, lambda x: stats.different_similar_auc(x[0], x[1] > 0, cluster=x[2])),
    "better_worse_auc": (pairs, lambda x: stats.better_worse_auc(x[0], x[1] > 0)),
    "two_afc_score": (
        pairs, lambda x: stats.two_afc_score(x[0], x[1], (x[2] % 5) / 4, cluster=x[2])),
    "adjust_p_values": (lambda n: RNG.random(n), stats.adjust_p_values),
}  # fmt: skip


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(name: str, rows: int, memory: float) -> None:
    """Run one task here, and print what it took."""
    make, task = TASKS[name]
    data = make(rows)
    before = peak()
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 2**30), resource.RLIM_INFINITY))
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = task(data)
            text = str(getattr(found, "warnings", ""))[:80]
        except InputError as problem:
            text = f"InputError: {problem}"[:100]
        except BaseException as problem:  # anything else is what this is here to find
            text = f"FAILED: {type(problem).__name__}: {problem}"[:200]
    seconds = time.process_time() - start
    print(f"{name:38} {seconds:7.1f} s  {peak():5.2f} GiB, {before:.2f} to make its input  {text}",
          flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="*", help="of a statistic; all")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--memory", type=float, default=8.0, help="limit in GiB")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each")
    args = parser.parse_args()
    unknown = set(args.name) - set(TASKS)
    if unknown:
        parser.error(f"no such statistic: {', '.join(sorted(unknown))}")
    if len(args.name) == 1:
        run(args.name[0], args.rows, args.memory)
        return
    options = ["--rows", str(args.rows), "--memory", str(args.memory)]
    for name in args.name or TASKS:
        try:
            subprocess.run(
                [sys.executable, __file__, name, *options], timeout=args.timeout, check=True
            )
        except subprocess.TimeoutExpired:
            print(f"{name:38} FAILED: no answer in {args.timeout:.0f} s", flush=True)
        except subprocess.CalledProcessError as problem:
            print(f"{name:38} FAILED: ended with {problem.returncode}", flush=True)


if __name__ == "__main__":
    main()
