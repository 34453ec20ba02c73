"""Metrics and a calibrated metric on HECD: python benchmarks/hecd_metrics.py FOLDER --cache FILE.

FOLDER holds ``images/``, ``mean_zscores.csv``, ``ratings.csv``, ``recolour_details.csv`` and
``published_spearman.csv`` of the Human Evaluated Colourisation Dataset (Mullery & Whelan 2022,
arXiv 2204.05200), which has no licence and is not part of percept; any of its scenes will do.
Measuring takes seconds an image and is kept in ``--cache``. ``--test FOLDER`` adds scenes that the
model is never fitted on.

What is shown: the published per-scene values that are not defective, computed anew; every metric
against the people, over all recolourings and over the work of the six colorizers; and a model of
``percept calibrate``, always fitted without the scene that it is judged on, and without the
colorizers or the kinds of edits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.remove(str(Path(__file__).resolve().parent))  # statistics.py here hides the standard one

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch.nn.functional import avg_pool2d

from percept.calibrate import Model, count_votes, fit_counts, predict
from percept.manifest import load_rgb
from percept.metrics.color import Images, Picture
from percept.metrics.registry import METRICS
from percept.metrics.structure import SCALE_WEIGHTS
from percept.metrics.structure import _similarity as similarity

MAKERS = ("I_1", "L_1", "O_1", "P_1", "Z_1", "Z_2")
#: Near constant here: the colorizers keep the lightness.
LEFT_OUT = {"luminance_fidelity", "luminance_ssim", "grain_retention"}
DIRECTIONS = {m.name: m.higher_is_better for m in METRICS.values()}
IN_MODELS = [m.name for m in METRICS.values() if m.in_models]
DEEP = ("semantic_distance", "lost_contrast")
MEASURED = [m for m in METRICS.values() if not (m.needs or m.package or m.name in LEFT_OUT)]
FOLDS = 5


def measure(folder: Path, cache: Path | None) -> pd.DataFrame:
    """Return ``content, condition, metric, value`` of every recolouring; kept in a file."""
    if cache is not None and cache.exists():
        return pd.read_csv(cache, dtype={"content_id": str})
    rows = []
    for truth in sorted((folder / "images").glob("*_gt.jpg")):
        scene = truth.name[:6]
        reference = Picture(load_rgb(truth))
        for file in sorted((folder / "images").glob(f"{scene}*.jpg")):
            output = Picture(load_rgb(file))
            images = Images(output, source=reference, reference=reference)
            for metric in MEASURED:
                rows.append((scene, file.stem[6:], metric.name, metric.compute(images)))
        print(scene, file=sys.stderr, flush=True)
        table = pd.DataFrame(rows, columns=["content_id", "condition", "metric", "value"])
        if cache is not None:
            table.to_csv(cache.with_suffix(".part"), index=False)
    if cache is not None:
        cache.with_suffix(".part").rename(cache)
    return table


def people(folder: Path) -> pd.DataFrame:
    """Return ``content_id, condition, z, n`` of every recolouring: the score, and its ratings."""
    scores = pd.read_csv(folder / "mean_zscores.csv")
    votes = pd.read_csv(folder / "ratings.csv")
    files = pd.concat([votes["File1"], votes["File2"]]).str.strip()
    frame = pd.DataFrame({"file": scores["Recolour File"].str.strip(), "z": scores["Mean zScore"]})
    frame = frame.assign(
        content_id=frame["file"].str[:6],
        condition=frame["file"].str[6:].str.removesuffix(".jpg"),
        n=frame["file"].map(files.value_counts()).fillna(1),
    )
    return frame[frame["condition"] != "_gt"].drop(columns="file").reset_index(drop=True)


# -- the published values ------------------------------------------------------------------------


def show_published(folder: Path) -> None:
    """Spearman's coefficients of each scene, the original among its images, as the authors do."""
    try:
        import cv2
    except ImportError:
        print("the published values need OpenCV: pip install opencv-python-headless")
        return
    from skimage.metrics import structural_similarity

    published = pd.read_csv(folder / "published_spearman.csv").set_index("GT FileName")
    scores = pd.read_csv(folder / "mean_zscores.csv")
    ours: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "SSIM-r (a*b*)": lambda x, y: structural_similarity(x, y, channel_axis=-1, data_range=255),
        "MSE-r (a*b*)": lambda x, y: float(((x - y) ** 2).mean()),
        "RMSE-r (a*b*)": lambda x, y: float(np.sqrt(((x - y) ** 2).mean(axis=(0, 1))).mean()),
        "MS-SSIM-r (a*b*)": padded_ms_ssim,
    }

    def planes(name: str) -> np.ndarray:
        image = cv2.imread(str(folder / "images" / name.strip()))
        return cv2.cvtColor(image, cv2.COLOR_BGR2LAB)[..., 1:].astype(float)

    print("-- The published values that are not defective: ours, published, largest difference")
    found: dict[str, dict[str, float]] = {name: {} for name in ours}
    for truth, own in scores.groupby("Ground Truth File"):
        reference = planes(str(truth))
        outputs = [planes(str(file)) for file in own["Recolour File"]]
        for name, compute in ours.items():
            values = [compute(output, reference) for output in outputs]
            found[name][str(truth)] = spearmanr(values, own["Mean zScore"])[0]
    for name, by_scene in found.items():
        mine, theirs = pd.Series(by_scene), published[name].reindex(list(by_scene))
        gap = (mine - theirs).abs()
        print(f"{name:18} {mine.mean():.4f} {theirs.mean():.4f}  {gap.max():.3f} ({gap.idxmax()})")


def padded_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """MS-SSIM as the package pytorch-msssim has it: an odd side is halved with zeros around it.

    With that the authors' order comes out to 0.01; with ``percept.metrics.structure.ms_ssim``,
    which leaves out an odd last row, to 0.014.
    """
    values = []
    for plane in range(x.shape[-1]):
        a, b = (torch.from_numpy(np.ascontiguousarray(v[..., plane])) for v in (x, y))
        value = 1.0
        for scale, weight in enumerate(SCALE_WEIGHTS):
            whole, contrast = similarity(a, b, 255.0)
            last = scale == len(SCALE_WEIGHTS) - 1
            value *= max(whole if last else contrast, 0.0) ** weight
            padding = [side % 2 for side in a.shape]
            a, b = (avg_pool2d(v[None, None], 2, padding=padding)[0, 0] for v in (a, b))
        values.append(value)
    return float(np.mean(values))


# -- what the edits do to the metrics ------------------------------------------------------------

DOSES = {
    # Measured: by 0.8, 2.7, 5.6 and (D_4, beyond what chroma_lag looks for) 9.5 % of the diagonal.
    "deregistered, D_1 to D_3": ("_gt", "D_1", "D_2", "D_3"),
    "chroma spread × 0.25 to 4": ("C_1", "C_2", "_gt", "C_3", "C_4"),
    "mean chroma - 2 to + 2 sd": ("B_1", "B_2", "_gt", "B_3", "B_4"),
}


def show_doses(table: pd.DataFrame) -> None:
    """Show how no-reference metrics answer to the edits of rising strength, and to turned hues."""
    names = [m.name for m in MEASURED if m.kind == "no-reference"]
    print(
        "\n-- Edits: share of scenes in which a metric is ordered by dose (longest run of steps "
        "one way), median change from the original at the strongest dose"
    )
    print(f"{'':26} " + " ".join(f"{name:>18}" for name in names))
    values = table.pivot_table(index="content_id", columns=["metric", "condition"], values="value")
    for label, doses in DOSES.items():
        cells = []
        for name in names:
            own = values[name][list(doses)]
            steps = np.diff(own.to_numpy(), axis=1)
            ordered = max((steps > 0).all(axis=1).mean(), (steps < 0).all(axis=1).mean())
            change = (own[doses[-1]] - own["_gt"]).median()
            cells.append(f"{ordered:6.0%} {change:+10.3f}")
        print(f"{label:26} " + " ".join(f"{cell:>18}" for cell in cells))
    hues = [c for c in table["condition"].unique() if c.startswith("F_")]
    changes = [values[name][hues].sub(values[name]["_gt"], axis=0).abs() for name in names]
    told = [f"{np.nanmedian(change.to_numpy()):10.3f}" for change in changes]
    print(f"{'hue of a segment, |change|':26} " + " ".join(f"{cell:>18}" for cell in told))


# -- how well values follow people ---------------------------------------------------------------


def within(frame: pd.DataFrame, column: str) -> pd.Series:
    """Spearman's coefficient with z inside each scene."""
    return pd.Series(
        {
            scene: spearmanr(own[column], own["z"])[0]
            for scene, own in frame.groupby("content_id")
            if np.ptp(own[column]) > 0
        }
    )


def pairs_right(frame: pd.DataFrame, column: str) -> pd.Series:
    """Share of the pairs of a scene that are in the people's order; equal values count half."""
    shares = {}
    for scene, own in frame.groupby("content_id"):
        i, j = np.triu_indices(len(own), 1)
        z, v = own["z"].to_numpy(), own[column].to_numpy(float)
        shares[scene] = float((0.5 + 0.5 * np.sign((z[i] - z[j]) * (v[i] - v[j]))).mean())
    return pd.Series(shares)


def interval(by_scene: pd.Series) -> str:
    """Mean over scenes, and the 95 % interval of a bootstrap of scenes."""
    values = by_scene.dropna().to_numpy()
    draws = np.random.default_rng(0).choice(values, (4000, len(values))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{values.mean():6.3f} [{low:6.3f}, {high:6.3f}]"


def pooled(frame: pd.DataFrame, column: str) -> str:
    """Spearman's coefficient over all, and the 95 % interval of a bootstrap of scenes."""
    rng = np.random.default_rng(0)
    scenes = [own for _, own in frame.groupby("content_id")]
    draws = []
    for _ in range(500):
        drawn = pd.concat([scenes[i] for i in rng.integers(0, len(scenes), len(scenes))])
        draws.append(spearmanr(drawn[column], drawn["z"])[0])
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{spearmanr(frame[column], frame['z'])[0]:6.3f} [{low:6.3f}, {high:6.3f}]"


def show(label: str, everything: pd.DataFrame, real: pd.DataFrame, column: str) -> None:
    print(
        f"{label:26} {pooled(everything, column)}  {interval(within(everything, column))}   "
        f"{interval(within(real, column))}  {interval(pairs_right(real, column))}"
    )


# -- the model -----------------------------------------------------------------------------------


def fit(table: pd.DataFrame, rows: pd.DataFrame, prefer: Sequence[str] = IN_MODELS) -> Model:
    """Fit a model of the naturalness of a recolouring; the score is taken as log-odds."""
    counted = rows.rename(columns={"content_id": "content", "condition": "first"})
    counted = counted.assign(wins=counted["n"] / (1 + np.exp(-counted["z"])))
    return fit_counts(
        table,
        counted[["content", "first", "wins", "n"]],
        directions=DIRECTIONS,
        kind="review",
        prefer=prefer,
        check=False,
    )


def score(model: Model, table: pd.DataFrame) -> pd.Series:
    """Scores indexed by (content_id, condition)."""
    return predict(model, table).set_index(["content", "condition"])["score"]


def held_out(table: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """Predict every recolouring without its scene and its kind, and every pair of colorizers.

    Returns
    -------
    Series
        Scores by models that saw neither the scene nor a fifth of the conditions, which the
        recolouring is one of.
    DataFrame
        ``content_id, right, right_edits``: for each pair of colorizers, whether models that saw
        neither the scene nor the two, or none of the six, put them in the people's order.
    """
    conditions = sorted(rows["condition"].unique())
    shuffled = np.random.default_rng(0).permutation(conditions)
    group = {condition: i % FOLDS for i, condition in enumerate(shuffled)}
    groups = rows["condition"].map(group)
    scores, pairs = [], []
    for scene in sorted(rows["content_id"].unique()):
        own, rest = rows[rows["content_id"] == scene], rows["content_id"] != scene
        of_scene = table[table["content_id"] == scene]
        for k in range(FOLDS):
            found = score(fit(table, rows[rest & (groups != k)]), of_scene)
            scores.append(found[found.index.get_level_values(1).map(group) == k])
        z = own.set_index("condition")["z"]
        edits = score(fit(table, rows[rest & ~rows["condition"].isin(MAKERS)]), of_scene)[scene]
        for i, first in enumerate(MAKERS):
            for second in MAKERS[:i]:
                unseen = ~rows["condition"].isin((first, second))
                found = score(fit(table, rows[rest & unseen]), of_scene)[scene]
                order = z[first] - z[second]
                right = [order * (s[first] - s[second]) > 0 for s in (found, edits)]
                pairs.append((scene, *map(float, right)))
    return pd.concat(scores), pd.DataFrame(pairs, columns=["content_id", "right", "right_edits"])


def scene_out(
    table: pd.DataFrame, rows: pd.DataFrame, prefer: Sequence[str] = IN_MODELS
) -> pd.Series:
    """Scores by models that saw the kinds of edits and the colorizers on the other scenes."""
    scores = []
    for scene, of_scene in table.groupby("content_id"):
        scores.append(score(fit(table, rows[rows["content_id"] != scene], prefer), of_scene))
    return pd.concat(scores)


def pair_votes(folder: Path) -> pd.DataFrame:
    """Counted votes of recolourings against originals, as ``percept calibrate`` counts them."""
    votes = pd.read_csv(folder / "ratings.csv")
    first, second = votes["File1"].str.strip(), votes["File2"].str.strip()
    lead = np.sign(votes["Score1"] - votes["Score2"]).map({1.0: "left", 0.0: "tie", -1.0: "right"})
    frame = pd.DataFrame({"content": first.str[:6], "choice": lead, "observer": votes["ID"]})
    for side, files in (("left", first), ("right", second)):
        frame[side] = files.str[6:].str.removesuffix(".jpg")
    return count_votes(frame, "pairwise")[0]


def by_votes(
    table: pd.DataFrame, votes: pd.DataFrame, other: pd.DataFrame | None = None
) -> pd.Series:
    """Scores by models of the votes, as the command fits them: scene out, or ``other`` scenes'."""

    def fitted(rows: pd.DataFrame) -> Model:
        return fit_counts(
            table, rows, directions=DIRECTIONS, kind="pairwise", prefer=IN_MODELS, check=False
        )

    if other is not None:
        return score(fitted(votes), other)
    return pd.concat(
        score(fitted(votes[votes["content"] != scene]), own)
        for scene, own in table.groupby("content_id")
    )


def lookup(rows: pd.DataFrame) -> pd.DataFrame:
    """How a colorizer does on the other scenes: no metric, but what a model must not be."""
    real = rows[rows["condition"].isin(MAKERS)].copy()
    total = real.groupby("condition")["z"].transform("sum")
    count = real.groupby("condition")["z"].transform("size")
    return real.assign(lookup=(total - real["z"]) / (count - 1))


def show_against(
    rows: pd.DataFrame, right: pd.Series, scores: pd.Series, wide: pd.DataFrame, real: pd.DataFrame
) -> None:
    """Differences of the model, colorizers left out, with single metrics and the lookup."""
    keys = pd.MultiIndex.from_frame(rows[["content_id", "condition"]])
    everything = rows.assign(value=scores.reindex(keys).to_numpy())
    print(
        "\n-- The model less others, scene by scene: Spearman within a scene, pairs in order\n"
        f"{'lookup':26} {'':24} {interval(right - pairs_right(real, 'lookup'))}"
    )
    for name in ("semantic_distance", "lpips_vgg_deep", "lpips_alex", "ciede2000_p95", "ssim"):
        sign = 1.0 if DIRECTIONS[name] else -1.0
        own = rows.assign(value=sign * wide[name].reindex(keys).to_numpy())
        shares = pairs_right(own[own["condition"].isin(MAKERS)], "value")
        ranks = within(everything, "value") - within(own, "value")
        print(f"{name:26} {interval(ranks)}  {interval(right - shares)}")


def show_people(folder: Path) -> None:
    """How well half of the people tell what the other half say: 50 splits of the observers."""
    votes = pd.read_csv(folder / "ratings.csv")
    first, second = votes["File1"].str.strip(), votes["File2"].str.strip()
    original = first.str.contains("_gt")
    drop = np.where(original, votes["Score2"] - votes["Score1"], votes["Score1"] - votes["Score2"])
    frame = pd.DataFrame({"file": second.where(original, first), "drop": drop, "ID": votes["ID"]})
    frame["content_id"] = frame["file"].str[:6]
    frame["condition"] = frame["file"].str[6:].str.removesuffix(".jpg")
    observers, rng, found = frame["ID"].unique(), np.random.default_rng(0), []
    for _ in range(50):
        drawn = frame["ID"].isin(rng.permutation(observers)[: len(observers) // 2])
        halves = frame.assign(half=drawn).pivot_table(
            index=["content_id", "condition"], columns="half", values="drop"
        )
        halves = halves.dropna().set_axis(["value", "z"], axis=1).reset_index()
        real = halves[halves["condition"].isin(MAKERS)]
        found.append(
            (spearmanr(halves["value"], halves["z"])[0], within(halves, "value").mean(),
             within(real, "value").mean(), pairs_right(real, "value").mean())
        )  # fmt: skip
    labels = ("all: Spearman", "within scene", "colorizers: within scene", "pairs in order")
    told = ", ".join(
        f"{label} {value:.3f}" for label, value in zip(labels, np.mean(found, axis=0), strict=True)
    )
    print(f"\n-- Half of the people by the other half (half the votes on either side): {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, metavar="FILE", help="keeps what was measured")
    parser.add_argument("--test", type=Path, metavar="FOLDER", help="scenes for testing alone")
    parser.add_argument("--test-cache", type=Path, metavar="FILE")
    args = parser.parse_args()
    show_published(args.folder)
    table, rows = measure(args.folder, args.cache), people(args.folder)
    show_doses(table)
    print(
        f"\n-- {rows['content_id'].nunique()} scenes; 95 % intervals over scenes\n"
        f"{'':26} {'all recolourings: Spearman':>24}  {'within scene':>22}   "
        f"{'colorizers: within scene':>22}  {'pairs in order':>22}"
    )
    wide = table.pivot_table(index=["content_id", "condition"], columns="metric", values="value")
    for name in [metric.name for metric in MEASURED if metric.name in wide]:
        sign = 1.0 if METRICS[name].higher_is_better else -1.0
        report(rows, sign * wide[name], name)
    real = lookup(rows)
    print(f"{'lookup':26} {'':24}  {'':24}   {interval(within(real, 'lookup'))}  "
          f"{interval(pairs_right(real, 'lookup'))}")  # fmt: skip
    scores, pairs = held_out(table, rows)
    report(rows, scene_out(table, rows), "model, scene out")
    votes = pair_votes(args.folder)
    report(rows, by_votes(table, votes), "model of votes, scene out")
    report(rows, scores, "model, scene + fifth out")
    report(rows, scene_out(table, rows, DEEP), "the two deep ones, scene out")
    by_scene = pairs.groupby("content_id")
    for column, label in (("right", "scene and both out"), ("right_edits", "fitted on edits")):
        print(f"model, {label:66} {'':43} {interval(by_scene[column].mean())}")
    show_against(rows, by_scene["right"].mean(), scores, wide, real)
    show_people(args.folder)
    whole = fit(table, rows)
    print("\n-- Weights of the model on all scenes, log-odds per usual difference")
    for feature in sorted(whole.features, key=lambda one: -abs(one.weight))[:12]:
        print(f"{feature.metric:24} {feature.weight:+.3f} ± {feature.std_error:.3f}")
    if args.test is not None:
        other, unseen = measure(args.test, args.test_cache), people(args.test)
        print(f"\n-- {unseen['content_id'].nunique()} scenes that took no part")
        report(unseen, score(whole, other), "model, colorizers seen")
        report(unseen, by_votes(table, votes, other), "model of votes")
        report(unseen, score(fit(table, rows, DEEP), other), "the two deep ones")
        known = rows[~rows["condition"].isin(MAKERS)]
        report(unseen, score(fit(table, known), other), "model, fitted on edits")


def report(rows: pd.DataFrame, values: pd.Series, label: str) -> None:
    keys = pd.MultiIndex.from_frame(rows[["content_id", "condition"]])
    frame = rows.assign(value=values.reindex(keys).to_numpy())
    show(label, frame, frame[frame["condition"].isin(MAKERS)], "value")


if __name__ == "__main__":
    main()
