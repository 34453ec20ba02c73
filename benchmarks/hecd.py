"""The whole analysis of HECD's ratings by the public API: python benchmarks/hecd.py FOLDER.

FOLDER holds ``ratings.csv`` and ``recolour_details.csv`` of the Human Evaluated Colourisation
Dataset (Mullery & Whelan 2022, arXiv 2204.05200), which has no licence and is not part of percept.
Every trial shows an original and a recolouring of it, one after the other, both rated 1 to 5 for
naturalness; the recolourings are synthetic edits and the work of six colorizers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.remove(str(Path(__file__).resolve().parent))  # statistics.py here hides the standard one

import numpy as np
import pandas as pd

from percept import stats

BOTH_WAYS = ("observer", "content")


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair votes (left is shown first) and single ratings, as tidy frames."""
    raw = pd.read_csv(folder / "ratings.csv")
    details = pd.read_csv(folder / "recolour_details.csv")
    maker = details["Global details"].str.extract(r"^Colourised by (\w+)")[0].str.strip()
    maker.index = pd.Index(details["File Name"].str.strip())

    def condition(file: pd.Series) -> pd.Series:
        made = file.map(maker).fillna("edit")
        return made.mask(file.str.contains("_gt"), "original")

    first, second = raw["File1"].str.strip(), raw["File2"].str.strip()
    common = {
        "observer": raw["ID"].astype(str),
        "content": first.str[:6],
        "trial": np.arange(len(raw)),
        "kind": np.where(first == second, "identical", "test"),
    }
    higher = np.sign(raw["Score1"] - raw["Score2"]).map({1: "left", -1: "right", 0: "tie"})
    votes = pd.DataFrame(
        {**common, "left": condition(first), "right": condition(second), "choice": higher,
         "difference": np.where(condition(first) == "original", 1, -1)
         * (raw["Score2"] - raw["Score1"])}
    )  # fmt: skip
    ratings = pd.concat(
        pd.DataFrame({**common, "file": file, "condition": file, "maker": condition(file),
                      "score": score.astype(float)})
        for file, score in ((first, raw["Score1"]), (second, raw["Score2"]))
    )  # fmt: skip
    return votes, ratings


def show(label: str, estimate: stats.Estimate, digits: int = 3) -> None:
    value, low, high = (f"{v:.{digits}f}" for v in (estimate.value, *estimate.interval))
    print(f"{label:44} {value:>7} [{low}, {high}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    votes, ratings = read(parser.parse_args().folder)
    tests = votes[votes["kind"] == "test"]
    makers = sorted(set(tests["left"]) - {"original", "edit"})
    equal = (tests["choice"] == "tie").mean()
    print(f"{len(votes)} trials, {votes['observer'].nunique()} observers, "
          f"{votes['content'].nunique()} photographs, {equal:.1%} equal scores")  # fmt: skip

    print("\n-- The first position: share of decided pairs that prefer what came first")
    decided = tests[tests["choice"] != "tie"]
    share = (decided["choice"] == "left").to_numpy(float)
    for cluster in (BOTH_WAYS, ("observer",)):
        found = stats.cluster_mean(share, decided, cluster=cluster, share=True)
        show(f"for {found.method.partition('interval for ')[2]}", found)
    effect = stats.bradley_terry(tests, side_effect=True)
    print(f"{'log-odds beside the scale':44} {effect.side_effect:7.3f} "
          f"[{effect.side_effect_low:.3f}, {effect.side_effect_high:.3f}]")  # fmt: skip

    print("\n-- Preference over the original (equal scores count half), new people and photographs")
    for name in ("edit", *makers):
        show(name, stats.preference_share(tests, name, "original"))

    print("\n-- The six colorizers and the original: Bradley–Terry, JOD, ranks that are possible")
    shown = [*makers, "original"]
    own = tests[tests["left"].isin(shown) & tests["right"].isin(shown)]
    for label, cluster in (("new people and photographs", BOTH_WAYS),
                           ("these photographs only", ("observer",))):  # fmt: skip
        scale = stats.bradley_terry(own, side_effect=True, cluster=cluster)
        print(f"{label} ({scale.n:.0f} votes):")
        for row in scale.to_frame().itertuples():
            print(f"  {row.item:12} {row.jod:6.2f} [{row.jod_low:5.2f}, {row.jod_high:5.2f}]  "
                  f"rank {row.rank_low} to {row.rank_high}")  # fmt: skip
        table, _ = stats.tell_apart(scale)
        apart = table[(table["p_adjusted"] < 0.05) & (table["a"] != "original")]
        pairs = [f"{a} > {b}" for a, b in zip(apart["a"], apart["b"], strict=True)]
        print(f"  told apart (Holm): {', '.join(pairs) or 'none'}")

    print("\n-- Agreement, and reliability of the means")
    units = stats.rating_units(ratings)
    file = recoloured(ratings, tests)
    rng = np.random.default_rng(1)
    show("ordinal alpha of the scores (units)",
         stats.krippendorff_alpha(units.ratings, n_boot=500, rng=rng))  # fmt: skip
    show("alpha of the votes, free of orientation (units)",
         stats.pairwise_alpha(tests.assign(content=file), n_boot=500, rng=rng))  # fmt: skip
    drops = tests.assign(condition=file, score=tests["difference"])
    for label, rows in (("all recolourings", drops),
                        ("the six colorizers", drops[drops["left"].isin(makers)
                                                     | drops["right"].isin(makers)])):  # fmt: skip
        array = stats.rating_units(rows).ratings
        found = stats.assess_reliability(array if array.ndim == 2 else array[:, :, 0], rng=rng)
        print(f"{label}, score less that of its original ({found.per_unit:.1f} ratings each):")
        show("  interval alpha (observers)", found.alpha)
        show("  split half, stepped up", found.split_half)

    print("\n-- Who paid attention")
    people = stats.screen_observers(votes)
    out = people[people["verdict"] == "exclude"]
    print(f"{len(out)} of {len(people)} excluded, {int(people['dissent'].sum())} dissent, which "
          "excludes nobody; there are no golds, repeats or times")  # fmt: skip
    for reason in out["reason"].head(5):
        print(f"  for example: {reason}")
    kept = stats.bradley_terry(own[~own["observer"].isin(out["observer"])], side_effect=True)
    shift = np.abs(kept.jod - stats.bradley_terry(own, side_effect=True).jod).max()
    print(f"without the excluded no condition moves by more than {shift:.2f} JOD")


def recoloured(ratings: pd.DataFrame, tests: pd.DataFrame) -> pd.Series:
    """File of the recolouring in each trial."""
    shown = ratings[(ratings["maker"] != "original").to_numpy()].set_index("trial")["file"]
    return shown.loc[tests["trial"]].set_axis(tests.index)


if __name__ == "__main__":
    main()
