"""Do 95 % intervals hold the truth 95 times of 100? python benchmarks/coverage.py [--runs N].

Every run draws a study from a population with known effects of observers, photographs and both,
and asks whether the interval of the mean vote holds the population's mean: over new observers
(these photographs stay), over new photographs, and over both. Beside each share stands its own
Monte-Carlo error (two standard errors); marked is what lies outside 93 to 97 % by more than it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# statistics.py here would hide the standard library's module of that name.
sys.path[:] = [str(HERE.parent), *(e for e in sys.path if Path(e or ".").resolve() != HERE)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from percept import stats  # noqa: E402

SIZES = ((6, 30), (12, 9), (12, 12), (30, 30), (60, 40))  # observers, photographs
EFFECTS = {  # standard deviations of observers and photographs; votes have 1
    "no effects": (0.0, 0.0),
    "observers": (0.5, 0.0),
    "photographs": (0.0, 0.5),
    "both": (0.5, 0.5),
    "large": (1.0, 1.0),
}
POPULATIONS = {  # clusters of the interval, and what is drawn anew
    "new observers": ("observer",),
    "new photographs": ("content",),
    "both": ("observer", "content"),
}


def covered(
    clusters: tuple[str, ...],
    size: tuple[int, int],
    effects: tuple[float, float],
    runs: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Share of intervals that hold the truth, and their mean half-width."""
    observers, photos = size
    observer, photo = (part.ravel() for part in np.indices(size))
    labels = pd.DataFrame({"observer": observer, "content": photo})
    taste, quirk = rng.normal(0, effects[0], observers), rng.normal(0, effects[1], photos)
    hits, half = 0, 0.0
    for _ in range(runs):
        if "observer" in clusters:
            taste = rng.normal(0, effects[0], observers)
        if "content" in clusters:
            quirk = rng.normal(0, effects[1], photos)
        votes = taste[observer] + quirk[photo] + rng.normal(size=observer.size)
        truth = (0.0 if "observer" in clusters else taste.mean()) + (
            0.0 if "content" in clusters else quirk.mean()
        )
        found = stats.cluster_mean(votes, labels, cluster=clusters)
        hits += found.low <= truth <= found.high
        half += (found.high - found.low) / 2
    return hits / runs, half / runs


def uneven(size: tuple[int, int], n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Observer and photograph of n answers, of which a few people and photographs have most."""
    each = []
    for count, tail in zip(size, (1.2, 2.0), strict=True):
        share = rng.pareto(tail, count) + 0.2
        each.append(np.r_[np.arange(count), rng.choice(count, n - count, p=share / share.sum())])
    return each[0], rng.permutation(each[1])


def uneven_covered(
    what: str, size: tuple[int, int], effect: float, runs: int, rng: np.random.Generator
) -> float:
    """Share of two-way intervals that hold 0 where answers are spread unevenly, or where two
    conditions were judged by different people about the same photographs.
    """
    hits = 0
    for _ in range(runs):
        observer, photo = uneven(size, 15 * sum(size), rng)
        part = rng.integers(2, size=observer.size)
        if what == "two studies":  # a seventh of the people judged the first condition
            observer, photo = (each.ravel() for each in np.indices(size))
            part = (observer >= max(size[0] // 7, 4)).astype(int)
        taste, quirk = rng.normal(0, effect, (size[0], 2)), rng.normal(0, effect, (size[1], 2))
        both = taste[observer] + quirk[photo]
        frame = pd.DataFrame({"observer": observer, "content": photo, "condition": part})
        if what == "scale":
            won = rng.random(part.size) < 1 / (1 + np.exp(both[:, 1] - both[:, 0]))
            votes = frame.assign(left=0, right=1, choice=np.where(won, "left", "right"))
            found = stats.bradley_terry(votes).difference(0, 1)
        else:
            frame["score"] = both[np.arange(part.size), part] + rng.normal(size=part.size)
            if what == "mean":
                found = stats.cluster_mean(frame["score"], frame[["observer", "content"]])
            else:
                found = stats.mean_difference(frame, 0, 1)
        hits += found.low <= 0 <= found.high
    return hits / runs


def scales_covered(
    clusters: tuple[str, ...], size: tuple[int, int], effect: float, runs: int,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """Share of Bradley–Terry intervals that hold 0: three conditions that nobody prefers at
    large; people (photographs) that are drawn anew have tastes (quirks) about them.
    """
    observers, photos = size
    observer = np.repeat(np.arange(observers), 30)
    hits = 0
    for _ in range(runs):
        photo = np.concatenate([rng.permutation(np.arange(30) % photos) for _ in range(observers)])
        left = rng.integers(3, size=observer.size)
        right = (left + rng.integers(1, 3, size=observer.size)) % 3
        total = np.zeros((observer.size, 3))
        if "observer" in clusters:
            total += rng.normal(0, effect, (observers, 3))[observer]
        if "content" in clusters:
            total += rng.normal(0, effect, (photos, 3))[photo]
        row = np.arange(observer.size)
        won = rng.random(observer.size) < 1 / (1 + np.exp(total[row, right] - total[row, left]))
        votes = pd.DataFrame(
            {"observer": observer, "content": photo, "left": left, "right": right,
             "choice": np.where(won, "left", "right")}
        )  # fmt: skip
        found = stats.bradley_terry(votes, cluster=clusters).difference(0, 1)
        hits += found.low <= 0 <= found.high
    return hits / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=4000, help="studies for each number")
    parser.add_argument("--scales", type=int, default=1000, help="studies for each scale; 0: none")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    error = 2 * np.sqrt(0.95 * 0.05 / args.runs)
    print(
        f"coverage in %, nominal 95, Monte-Carlo error ± {100 * error:.1f}; {args.runs} runs each"
    )
    for population, clusters in POPULATIONS.items():
        print(f"\n{population + ':':16}" + "".join(f"{f'{a} x {b}':>10}" for a, b in SIZES))
        for name, effects in EFFECTS.items():
            cells = []
            for size in SIZES:
                rng = np.random.default_rng([args.seed, *size, *map(ord, population + name)])
                share, _ = covered(clusters, size, effects, args.runs, rng)
                outside = share < 0.93 - error or share > 0.97 + error
                cells.append(f"{100 * share:9.1f}{'*' if outside else ' '}")
            print(f"  {name:14}" + "".join(cells), flush=True)
    print("\nuneven panels, both:   " + "".join(f"{f'{a} x {b}':>10}" for a, b in SIZES[2:]))
    error = 2 * np.sqrt(0.95 * 0.05 / max(args.scales, 1))
    for what in ("mean", "difference", "scale", "two studies") if args.scales else ():
        for effect in (0.0, 0.7):
            cells = []
            for size in SIZES[2:]:
                rng = np.random.default_rng([args.seed, *size, *map(ord, what)])
                share = uneven_covered(what, size, effect, args.scales, rng)
                outside = share < 0.93 - error or share > 0.97 + error
                cells.append(f"{100 * share:9.1f}{'*' if outside else ' '}")
            print(f"  {what:12} {effect:<6}" + "".join(cells), flush=True)
    if not args.scales:
        return
    error = 2 * np.sqrt(0.95 * 0.05 / args.scales)
    print(
        f"\nBradley–Terry differences, 30 votes each, ± {100 * error:.1f}; {args.scales} runs each"
    )
    for population, clusters in POPULATIONS.items():
        print(f"\n{population + ':':16}" + "".join(f"{f'{a} x {b}':>10}" for a, b in SIZES))
        for effect in (0.0, 0.7):
            cells = []
            for size in SIZES:
                rng = np.random.default_rng([args.seed, *size, *map(ord, population)])
                share = scales_covered(clusters, size, effect, args.scales, rng)
                outside = share < 0.93 - error or share > 0.97 + error
                cells.append(f"{100 * share:9.1f}{'*' if outside else ' '}")
            print(f"  effects {effect:<6}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
