"""Edit photographs by rising doses and see what each no-reference metric says of it.

``python docs/dose_response.py`` writes the table and the figure of ``docs/metrics.md``; a test
holds the page, and what it claims, against the metrics. The photographs lie inside installed
packages (scikit-image, scikit-learn, matplotlib); they are aged first, with grain, scratches and
dust, and their true colours are what is edited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from percept.color import lab_to_srgb_in_gamut, srgb_to_lab
from percept.degrade import PROCESSES, age, content_rng, reference_colors
from percept.files import package_file
from percept.manifest import load_rgb
from percept.metrics.color import Array, Images, Picture
from percept.metrics.palette import make_palette
from percept.metrics.registry import METRICS

PAGE = Path(__file__).parent / "metrics.md"
FIGURE = Path(__file__).parent / "images" / "dose_response.svg"

PHOTOGRAPHS = (
    "package:skimage/data/astronaut.png",
    "package:skimage/data/coffee.png",
    "package:skimage/data/chelsea.png",
    "package:sklearn/datasets/images/china.jpg",
    "package:sklearn/datasets/images/flower.jpg",
)
_SIDE = 256  # pixels that are cut from the middle of each

Edit = Callable[[Array, float, Array, np.random.Generator], Array]
"""L*, a*, b* (H, W, 3), dose, mask of damage (H, W), random numbers → L*, a*, b*."""


def _size(lab: Array) -> float:
    return float(np.hypot(*lab.shape[:2]))


def _with_chroma(lab: Array, ab: Array) -> Array:
    return np.concatenate([lab[..., :1], ab], axis=-1)


def _pale(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    return _with_chroma(lab, lab[..., 1:] * (1 - dose))


def _hue(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    c, s = np.cos(np.radians(dose)), np.sin(np.radians(dose))
    return _with_chroma(lab, lab[..., 1:] @ np.array([[c, s], [-s, c]]))


def _shift(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    pixels = round(dose / 100 * _size(lab) / np.sqrt(2))
    padded = np.pad(lab[..., 1:], ((pixels, 0), (pixels, 0), (0, 0)), mode="edge")
    return _with_chroma(lab, padded[: lab.shape[0], : lab.shape[1]])


def _run_over(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    from scipy.ndimage import gaussian_filter

    sigma = dose / 100 * _size(lab)
    return _with_chroma(lab, gaussian_filter(lab[..., 1:], (sigma, sigma, 0)))


def _blotches(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    from scipy.ndimage import gaussian_filter

    sigma = _size(lab) / 70
    field = gaussian_filter(rng.normal(size=(*lab.shape[:2], 2)), (sigma, sigma, 0))
    return _with_chroma(lab, lab[..., 1:] + dose * field / field.std())


def _tone(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    bent = 100 * (lab[..., :1] / 100) ** (1 + dose)
    return np.concatenate([bent, lab[..., 1:]], axis=-1)


def _smooth(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    from scipy.ndimage import gaussian_filter

    return np.concatenate([gaussian_filter(lab[..., :1], (dose, dose, 0)), lab[..., 1:]], axis=-1)


def _tint(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    return _with_chroma(lab, lab[..., 1:] + dose * mask[..., None] * np.array([0.6, 0.8]))


def _tint_then_pale(lab: Array, dose: float, mask: Array, rng: np.random.Generator) -> Array:
    return _pale(_tint(lab, 20.0, mask, rng), dose, mask, rng)


EDITS: dict[str, tuple[str, Sequence[float], Edit]] = {
    "paler": ("chroma less by this share", (0.0, 0.2, 0.4, 0.6), _pale),
    "hue": ("hue turned by degrees", (0.0, 20.0, 40.0, 60.0), _hue),
    "shifted": ("colours shifted by % of the diagonal", (0.0, 0.5, 1.0, 2.0), _shift),
    "run over": ("colours blurred, σ in % of the diagonal", (0.0, 0.5, 1.0, 2.0), _run_over),
    "blotches": ("blotches of colour, a* and b*", (0.0, 3.0, 6.0, 12.0), _blotches),
    "tone": ("tones bent, exponent less 1", (0.0, 0.1, 0.2, 0.4), _tone),
    "smoothed": ("lightness blurred, σ in pixels", (0.0, 0.5, 1.0, 2.0), _smooth),
    "tinted damage": ("damage tinted, a* and b*", (0.0, 5.0, 10.0, 20.0), _tint),
    "tinted, paler": (
        "damage tinted by 20, then all paler",
        (0.0, 0.2, 0.4, 0.6),
        _tint_then_pale,
    ),
}

#: Metric: the edit that it claims to measure, and those that it answers to as well, rightly.
CLAIMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "colorfulness": ("paler", ("blotches", "tinted, paler")),
    "colorfulness_abs": ("paler", ("blotches", "tinted, paler")),
    "luminance_fidelity": ("tone", ("smoothed",)),
    "luminance_ssim": ("smoothed", ()),
    "grain_retention": ("smoothed", ()),
    "chroma_bleeding": ("shifted", ("run over", "blotches")),
    "chroma_lag": ("shifted", ()),
    "patchiness": ("blotches", ()),
    "artifact_chroma": ("tinted damage", ()),
    "palette_distance": ("hue", ("paler", "blotches", "tinted, paler")),
}


def measure() -> pd.DataFrame:
    """Measure every metric on every photograph under every dose: ``photograph, edit, dose, …``."""
    process = next(p for p in PROCESSES if p.process == "press print")
    bases = []
    for path in PHOTOGRAPHS:
        rgb = load_rgb(package_file(path))
        top, left = ((side - min(side, _SIDE)) // 2 for side in rgb.shape[:2])
        rgb = np.ascontiguousarray(rgb[top : top + _SIDE, left : left + _SIDE])
        aged = age(rgb, process, rng=content_rng(1, path))
        photo = np.repeat(aged.photo[..., None], 3, axis=2)
        bases.append((path, photo, srgb_to_lab(reference_colors(rgb, aged.photo)), aged.mask))
    rows = []
    for path, photo, lab, mask in bases:
        palette, source = make_palette([lab[..., 1:]], {}), Picture(photo)

        def values(edited: Array) -> dict[str, float]:
            output = lab_to_srgb_in_gamut(edited)
            images = Images(output, source=source, mask=mask, palette=palette)  # noqa: B023
            return {name: METRICS[name].compute(images) for name in CLAIMS}

        untouched = values(lab)
        for edit, (_, doses, change) in EDITS.items():
            for dose in doses:
                rng = np.random.default_rng(2)
                edited = change(lab, dose, mask, rng)
                found = untouched if np.array_equal(edited, lab) else values(edited)
                rows.append({"photograph": path, "edit": edit, "dose": dose, **found})
    return pd.DataFrame(rows)


def responses(measured: pd.DataFrame) -> pd.DataFrame:
    """Response to the strongest dose of each edit, in percent of that to the claimed one.

    Medians over photographs of |change|; rows are metrics, columns edits.
    """
    table = {}
    for metric, (claimed, _) in CLAIMS.items():
        wide = measured.pivot_table(index=["edit", "photograph"], columns="dose", values=metric)
        change = {}
        for edit, (_, doses, _) in EDITS.items():
            own = wide.loc[edit]
            change[edit] = float((own[doses[-1]] - own[0.0]).abs().median())
        table[metric] = {edit: 100 * value / change[claimed] for edit, value in change.items()}
    return pd.DataFrame(table).T[list(EDITS)]


def rising(measured: pd.DataFrame) -> pd.Series:
    """Share of photographs in which each metric moves one way from dose to dose of its edit."""
    shares = {}
    for metric, (claimed, _) in CLAIMS.items():
        own = measured[measured["edit"] == claimed]
        steps = own.pivot_table(index="photograph", columns="dose", values=metric).diff(axis=1)
        steps = steps.iloc[:, 1:].to_numpy()
        better = METRICS[metric].higher_is_better
        shares[metric] = float(((steps < 0) if better else (steps > 0)).all(axis=1).mean())
    return pd.Series(shares)


def render(measured: pd.DataFrame) -> str:
    """Return the page ``docs/metrics.md``: the list of metrics and the table of responses."""
    lines = [_HEADER]
    lines += ["| metric | | better | unit | what it says | needs |", "|---|---|---|---|---|---|"]
    for name, metric in METRICS.items():
        if metric.group:
            continue
        title = (metric.compute.__doc__ or "").split("\n")[0].rstrip(".")
        needs = [
            {"full-reference": "reference"}.get(metric.kind, ""),
            f"{metric.weights} weights" if metric.weights else "",
            metric.needs or "",
            f"`percept[{metric.package}]`" if metric.package else "",
            f"{metric.min_side} pixels" if metric.min_side > 1 else "",
        ]
        way = "higher" if metric.higher_is_better else "lower"
        kind = {"full-reference": "full", "no-reference": "none"}[metric.kind]
        told = ", ".join(filter(None, needs))
        lines.append(f"| `{name}` | {kind} | {way} | {metric.unit} | {title} | {told} |")
    own = [m for m in METRICS.values() if m.group == "traits"]
    lines.append(_TRAITS)
    lines += [f"- `{m.name}`: {(m.compute.__doc__ or '').split(chr(10))[0]}" for m in own]
    lines.append(_RESPONSES)
    lines.append("| edit | what it does | doses |\n|---|---|---|")
    for edit, (what, doses, _) in EDITS.items():
        told = ", ".join(f"{dose:g}" for dose in doses[1:])
        lines.append(f"| {edit} | {what} | {told} |")
    table, ordered = responses(measured), rising(measured)
    lines.append(f"\n| metric | ordered | {' | '.join(EDITS)} |")
    lines.append("|---|---|" + "---|" * len(EDITS))
    for metric, (claimed, also) in CLAIMS.items():
        cells = [f"{ordered[metric]:.0%}"]
        for edit in EDITS:
            text = f"{table.loc[metric, edit]:.0f}"
            cells.append(
                f"**{text}**" if edit == claimed else f"*{text}*" if edit in also else text
            )
        lines.append(f"| `{metric}` | {' | '.join(cells)} |")
    lines.append(_FOOTER)
    return "\n".join(lines)


def draw(measured: pd.DataFrame, file: Path) -> None:
    """Draw every metric against the dose of every edit: a row of curves for each metric."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "percept", "svg.fonttype": "none", "font.size": 8})
    figure, axes = plt.subplots(
        len(CLAIMS), len(EDITS), figsize=(10, 11), sharey="row", layout="constrained"
    )
    for row, (metric, (claimed, also)) in zip(axes, CLAIMS.items(), strict=True):
        for axis, (edit, (_, doses, _)) in zip(row, EDITS.items(), strict=True):
            own = measured[measured["edit"] == edit]
            wide = own.pivot_table(index="photograph", columns="dose", values=metric)
            color = "#0072b2" if edit == claimed else "#56b4e9" if edit in also else "#999999"
            axis.plot(range(len(doses)), wide.to_numpy().T, color=color, linewidth=0.9)
            axis.set_xticks(range(len(doses)), [f"{dose:g}" for dose in doses], fontsize=6)
            axis.tick_params(labelsize=6, length=2)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(metric, rotation=0, ha="right", va="center")
    for axis, edit in zip(axes[0], EDITS, strict=True):
        axis.set_title(edit, fontsize=8)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


_HEADER = """# Metrics

Generated by `make docs` from the registry and from measurements; do not edit.

`percept metrics RUN` computes all of these that an image can have and leaves out the others with
the reason. Each function's docstring in `percept/metrics` has formula, range, source and known
failure. "full" compares with the true colour image, "none" needs no reference.
"""

_TRAITS = """
## Traits

What a recolouring did to the true colours, one thing each, in pairs of too little and too much:
made for `percept calibrate` to weigh, computed by `percept metrics RUN --metric traits`. 0 for the
true colours.
"""

_RESPONSES = """
## What the no-reference metrics answer to

Photographs from scikit-image and scikit-learn were aged (grain, scratches, dust), given their true
colours, and these edited, one fault at a time:
"""

_FOOTER = f"""
Numbers are the change at the strongest dose, in percent of the change by the edit that the metric
claims to measure (bold); in italics, edits that it rightly answers to as well; medians over the
{len(PHOTOGRAPHS)} photographs. "Ordered": share of photographs in which the metric moves strictly
one way from dose to dose of its own edit. Both changes of lightness
are `luminance_fidelity`'s business, and blotches are colour. What is left above 20 is a fault: at
equal chroma the published axes of colorfulness count some hues for more than others, so that it
takes turned hues for less colour. `chroma_lag` looks no further than 5 % of the
diagonal each way: a larger shift is read as some smaller one. The last column begins with tinted
damage and makes all of the picture paler: `artifact_chroma` weighs the colour of damage against
that of the picture, so that a pale colorizer, or a grey one, does not pass for one that saw through
damage.

![Every metric against every edit; one curve a photograph](images/dose_response.svg)

For a fault of one photograph compare values within it: where true colours lie differs from
picture to picture far more than most edits move a metric.
"""


if __name__ == "__main__":
    found = measure()
    PAGE.write_text(render(found), encoding="utf-8")
    draw(found, FIGURE)
    print(f"wrote {PAGE} and {FIGURE}")
