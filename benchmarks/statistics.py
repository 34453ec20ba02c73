"""Statistics beside their peers: same data, same run, interleaved, ratios of CPU time.

    python benchmarks/statistics.py [CASE …] [--repeats N] [--json FILE]

Both sides start from what a user holds (a frame of labelled votes, an array or a long table of
ratings) and end at the same numbers, which are compared. One thread each. A peer that is not
installed is skipped, and the output says so: pip install evalica pingouin krippendorff choix.
"""

# ruff: noqa: E402  (threads and the path are set before anything is imported)
from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# This folder would hide the standard library's module of that name.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != HERE)]

for variable in ("OMP", "OPENBLAS", "MKL", "RAYON"):
    os.environ[f"{variable}_NUM_THREADS"] = "1"

import argparse
import importlib
import json
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from percept import stats


@dataclass(frozen=True)
class Comparison:
    """One task done by us and by a peer, ``make`` giving both as functions without arguments.

    ``target`` is the least ratio peer / ours that we want; ``share`` the part of the task that
    the peer does (its time is divided by it); ``error`` compares the two results.
    """

    name: str
    peer: str
    target: float
    make: Callable[[Any], tuple[Callable[[], Any], Callable[[], Any]]]
    error: Callable[[Any, Any], tuple[str, float]]
    share: float = 1.0


def votes(items: int, n: int, *, observers: int = 500, contents: int = 100) -> pd.DataFrame:
    """Labelled votes, every pair of items possible."""
    rng = np.random.default_rng(items)
    scores = rng.normal(0, 1, items)
    left = rng.integers(items, size=n)
    right = (left + rng.integers(1, items, size=n)) % items
    won = rng.random(n) < 1 / (1 + np.exp(scores[right] - scores[left]))
    return pd.DataFrame(
        {
            "observer": pd.Series([f"observer{i}" for i in rng.integers(observers, size=n)]),
            "content": pd.Series([f"photo{i}" for i in rng.integers(contents, size=n)]),
            "left": pd.Series([f"model{i:04d}" for i in left]),
            "right": pd.Series([f"model{i:04d}" for i in right]),
            "choice": pd.Series(np.where(won, "left", "right")),
        }
    )


def ordinal_ratings(observers: int, units: int) -> np.ndarray:
    rng = np.random.default_rng(observers)
    quality = rng.normal(0, 1, units)
    return np.clip(np.round(3 + quality + rng.normal(0, 1, (observers, units))), 1, 5)


def centred(log_strength: Any) -> np.ndarray:
    values = np.asarray(log_strength, dtype=float)
    return values - values.mean()


def win_matrix(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Count wins for peers that want a matrix, as fast as pandas and numpy can."""
    codes, labels = pd.factorize(pd.concat([frame["left"], frame["right"]]), sort=True)
    left, right = codes[: len(frame)], codes[len(frame) :]
    k = len(labels)
    won = (frame["choice"] == "left").to_numpy()
    winner, loser = np.where(won, left, right), np.where(won, right, left)
    return np.bincount(winner * k + loser, minlength=k * k).reshape(k, k), labels


# -- Bradley–Terry ------------------------------------------------------------------------------


def scale(frame: pd.DataFrame, *, intervals: bool = True) -> stats.Scale:
    """Scores; with intervals also their covariance, and ranks."""
    found = stats.bradley_terry(frame, cluster=None, intervals=intervals)
    if intervals:
        _ = found.rank_low  # computed when asked for
    return found


def against_evalica(items: int) -> Callable[[Any], Any]:
    def make(evalica: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
        frame = votes(items, 1_000_000)
        answers = {"left": evalica.Winner.X, "right": evalica.Winner.Y}

        def theirs() -> pd.Series:
            return evalica.bradley_terry(
                frame["left"], frame["right"], frame["choice"].map(answers)
            ).scores

        return lambda: scale(frame), theirs

    return make


def against_choix(items: int, *, intervals: bool = False) -> Callable[[Any], Any]:
    """choix has no label handling; what it is given here counts votes in three vector passes."""

    def make(choix: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
        frame = votes(items, 1_000_000)

        def theirs() -> np.ndarray:
            return choix.ilsr_pairwise_dense(win_matrix(frame)[0])

        return lambda: scale(frame, intervals=intervals), theirs

    return make


def optimum_error(ours: stats.Scale, theirs: Any) -> tuple[str, float]:
    """Our largest distance from the optimum, found independently; theirs in words."""
    from scipy import special

    items = len(ours.items)
    wins = win_matrix(votes(items, 1_000_000))[0].astype(float)
    best = np.array(ours.score)
    for _ in range(5):  # plain Newton, from our answer
        chance = special.expit(best[:, None] - best)
        both = (wins + wins.T) * chance * chance.T
        gradient = (wins * chance.T - wins.T * chance).sum(axis=1)
        best = best + np.linalg.solve(np.diag(both.sum(axis=1)) - both + 1 / items, gradient)
    peer = centred(np.log(theirs.reindex(ours.items)) if isinstance(theirs, pd.Series) else theirs)
    worst = float(np.abs(peer - centred(best)).max())
    return f"peer's error {worst:.1e}", float(np.abs(ours.score - centred(best)).max())


# -- 1000 resamples of observers ----------------------------------------------------------------


def resamples(linear_model: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    frame = votes(50, 100_000)

    def ours() -> np.ndarray:
        rng = np.random.default_rng(1)
        result = stats.bradley_terry(frame, cluster="observer", n_boot=1000, rng=rng)
        return np.sqrt(np.diagonal(result.covariance))

    def theirs() -> np.ndarray:
        """Count unique rows, draw multinomial weights, refit by logistic regression."""
        codes, labels = pd.factorize(pd.concat([frame["left"], frame["right"]]), sort=True)
        left, right = codes[: len(frame)], codes[len(frame) :]
        rows = np.stack([left, right, (frame["choice"] == "left").to_numpy()], axis=1)
        unique, counts = np.unique(rows, axis=0, return_counts=True)
        design = np.zeros((len(unique), len(labels)))
        design[np.arange(len(unique)), unique[:, 0]] = 1
        design[np.arange(len(unique)), unique[:, 1]] = -1
        rng = np.random.default_rng(1)
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
        fits = []
        for weights in drawn:
            model = linear_model.LogisticRegression(fit_intercept=False, C=1e10, tol=1e-6)
            used = weights > 0
            model.fit(design[used], unique[used, 2], sample_weight=weights[used])
            fits.append(centred(model.coef_[0]))
        return np.std(fits, axis=0, ddof=1)

    return ours, theirs


RESAMPLES = 50  # that the slow peers make; their time is scaled up


def mean_error(ours: np.ndarray, theirs: np.ndarray) -> tuple[str, float]:
    """Relative difference of the mean standard errors: both are random."""
    return "mean standard error, relative", float(abs(ours.mean() / theirs.mean() - 1))


# -- agreement ----------------------------------------------------------------------------------


def alpha_of_counts(krippendorff: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    ratings = ordinal_ratings(200, 100_000)

    def theirs() -> float:
        counts = np.stack([(ratings == value).sum(axis=0) for value in range(1, 6)], axis=1)
        return krippendorff.alpha(
            value_counts=counts, value_domain=list(range(1, 6)), level_of_measurement="ordinal"
        )

    return lambda: stats.krippendorff_alpha(ratings, "ordinal").value, theirs


def alpha_resamples(evalica: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    ratings = ordinal_ratings(20, 2_000)
    table = pd.DataFrame(ratings)

    def ours() -> np.ndarray:
        rng = np.random.default_rng(1)
        estimate = stats.krippendorff_alpha(ratings, "ordinal", n_boot=1000, rng=rng)
        return np.array([estimate.value])

    def theirs() -> np.ndarray:
        result = evalica.alpha_bootstrap(table, "ordinal", n_resamples=1000, random_state=1)
        return np.array([result.alpha])

    return ours, theirs


def difference(ours: Any, theirs: Any) -> tuple[str, float]:
    return "difference", float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


def icc_of_array(pingouin: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    ratings = ordinal_ratings(20, 20_000)

    def theirs() -> float:
        observer, unit = np.indices(ratings.shape)
        columns = {"observer": observer.ravel(), "unit": unit.ravel(), "score": ratings.ravel()}
        found = pingouin.intraclass_corr(
            pd.DataFrame(columns), targets="unit", raters="observer", ratings="score"
        )
        return float(found["ICC"].iloc[4])

    return lambda: stats.icc(ratings, "ICC2k").value, theirs


def icc_of_frame(shuffled: bool) -> Callable[[Any], Any]:
    def make(pingouin: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
        ratings = ordinal_ratings(20, 20_000)
        observer, unit = np.indices(ratings.shape)
        frame = pd.DataFrame(
            {
                "observer": pd.Series([f"observer{i}" for i in observer.ravel()]),
                "content": pd.Series([f"photo{i}" for i in unit.ravel()]),
                "condition": "model",
                "score": ratings.ravel(),
            }
        )
        if shuffled:
            frame = frame.sample(frac=1, random_state=1, ignore_index=True)

        def theirs() -> float:
            found = pingouin.intraclass_corr(
                frame, targets="content", raters="observer", ratings="score"
            )
            return float(found["ICC"].iloc[4])

        return lambda: stats.icc(stats.rating_units(frame).ratings, "ICC2k").value, theirs

    return make


COMPARISONS = {
    "bradley-terry-50": Comparison(
        "Bradley–Terry, 10⁶ votes, 50 items", "evalica", 2, against_evalica(50), optimum_error
    ),
    "bradley-terry-1000": Comparison(
        "Bradley–Terry, 10⁶ votes, 1000 items", "evalica", 2, against_evalica(1000), optimum_error
    ),
    **{
        f"bradley-terry-{items}-choix{'-intervals' * intervals}": Comparison(
            f"Bradley–Terry, 10⁶ votes, {items} items, "
            + ("ours with covariance, intervals, ranks" if intervals else "scores only, as it"),
            "choix", 0 if intervals else 1, against_choix(items, intervals=intervals),
            optimum_error,
        )
        for intervals in (False, True)
        for items in (50, 1000)
    },
    "resamples": Comparison(
        "1000 resamples of observers, 10⁵ votes, 50 items", "sklearn.linear_model", 5, resamples,
        mean_error, RESAMPLES / 1000,
    ),
    "alpha": Comparison(
        "ordinal alpha, 200 × 100,000", "krippendorff", 1 / 1.5, alpha_of_counts, difference
    ),
    "alpha-resamples": Comparison(
        "ordinal alpha, 1000 resamples of 20 × 2,000", "evalica", 10, alpha_resamples, difference
    ),
    "icc": Comparison(
        "ICC(2,k) of an array, 20 × 20,000", "pingouin", 20, icc_of_array, difference
    ),
    "icc-frame": Comparison(
        "ICC(2,k) of a labelled frame, 20 × 20,000", "pingouin", 20, icc_of_frame(False), difference
    ),
    "icc-shuffled": Comparison(
        "the same frame with its rows in any order", "pingouin", 0, icc_of_frame(True), difference
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    case: str
    peer: str
    ours_s: float
    peer_s: float
    ratio: float
    target: float
    check: str


def compare(task: Comparison, module: Any, repeats: int) -> Result:
    """Median of the ratios of interleaved pairs, after one pair that does not count."""
    ours, theirs = task.make(module)
    first, second = ours(), theirs()
    words, error = task.error(first, second)
    times = np.array([(clock(ours), clock(theirs) / task.share) for _ in range(repeats)])
    package = module.__name__.partition(".")[0]
    name = {"sklearn": "scikit-learn"}.get(package, package)
    return Result(
        task.name, f"{name} {version(name)}", *(float(t) for t in np.median(times, axis=0)),
        float(np.median(times[:, 1] / times[:, 0])), task.target, f"{words}: {error:.1e}",
    )  # fmt: skip


def clock(task: Callable[[], Any]) -> float:
    """CPU seconds: what one thread costs, whoever else uses the machine."""
    start = time.process_time()
    task()
    return time.process_time() - start


MEMORY = """
import resource, numpy as np
from percept import stats
rng = np.random.default_rng(1)
ratings = rng.normal(size=100_000) + rng.normal(size=(200, 100_000))
print(stats.krippendorff_alpha(ratings, "interval").value)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def memory() -> str:
    """Peak memory of a process that makes and analyses continuous data."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=ROOT
    )
    value, peak = map(float, done.stdout.split())
    return (
        f"continuous interval alpha, 200 × 100,000 (0.15 GiB of data): {value:.4f}, "
        f"peak {peak:.2f} GiB (wanted: under 0.93 GiB = 1 GB)"
    )


def results(names: list[str], repeats: int) -> Iterator[Result]:
    for name in names:
        task = COMPARISONS[name]
        try:
            module = importlib.import_module(task.peer)
        except ImportError as problem:
            print(f"{task.name}: skipped, {task.peer} is not installed ({problem})")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = compare(task, module, repeats)
        print(
            f"{result.case}: {result.ours_s:.3f} s, {result.peer} {result.peer_s:.3f} s; "
            f"ratio {result.ratio:.2f} (wanted: {result.target:.2g}); {result.check}",
            flush=True,
        )
        yield result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="*", help=f"of {', '.join(COMPARISONS)}, memory; all")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved pairs")
    parser.add_argument("--json", type=Path, help="write the results there")
    args = parser.parse_args()
    names = args.case or [*COMPARISONS, "memory"]
    unknown = set(names) - {*COMPARISONS, "memory"}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
          f"numpy {np.__version__}, pandas {pd.__version__}; CPU seconds, one thread")  # fmt: skip
    found = list(results([name for name in names if name != "memory"], args.repeats))
    if "memory" in names:
        print(memory())
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
