"""``percept palette``: the colours of reference photographs, as data."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the palettes of reference photographs, such as autochromes or prints of a "
        "decade, for the metric palette_distance: percept metrics RUN --palette FILE. A palette "
        "is the distribution of a* and b* over the photographs, each with the same weight."
    )
    parser.add_argument("manifest", metavar="MANIFEST", help="manifest of colour photographs")
    parser.add_argument(
        "--by",
        default="",
        metavar="COLUMNS",
        help="one palette for each combination of these columns, separated by commas, such as "
        "era,process; a photograph is measured with the palette that it agrees with in most of "
        "them (default: one palette for all)",
    )
    parser.add_argument("--out", "-o", required=True, type=Path, metavar="FILE", help="JSON file")


def run(args: argparse.Namespace) -> int:
    import sys

    import numpy as np

    from percept.color import srgb_to_lab
    from percept.errors import InputError
    from percept.files import check_place
    from percept.manifest import load_rgb, read_manifest
    from percept.metrics.palette import make_palette, write_palettes
    from percept.metrics.vintage import GREY

    check_place(args.out)
    manifest = read_manifest(args.manifest)
    by = [name.strip() for name in args.by.split(",") if name.strip()]
    for name in by:
        if name not in ("era", "process", "degradation", "source", "stratum"):
            raise InputError(
                "not a column that photographs are grouped by",
                key="--by",
                value=name,
                remedy="Use era, process, degradation, source or stratum",
            )
    groups: dict[tuple[str, ...], list[Path]] = {}
    for row in manifest.rows():
        key = tuple(row.get(name) for name in by)
        if all(isinstance(value, str) for value in key):
            groups.setdefault(key, []).append(manifest.resolve(row["path"]))  # type: ignore[arg-type]
    if not groups:
        raise InputError("no photograph has a value in these columns", key="--by", value=args.by)
    grey: list[Path] = []

    def colours(files: list[Path]) -> Iterator[Any]:
        for file in files:
            ab = srgb_to_lab(load_rgb(file))[..., 1:]
            if np.hypot(ab[..., 0], ab[..., 1]).mean() < GREY:
                grey.append(file)
            yield ab

    palettes = [
        make_palette(colours(files), dict(zip(by, key, strict=True)))
        for key, files in sorted(groups.items())
    ]
    total = sum(palette.photographs for palette in palettes)
    if len(grey) == total:
        raise InputError(
            f"none of {total} photographs has colour: palette_distance would praise grey results",
            file=args.manifest,
            remedy="Name a manifest whose column path has photographs in colour",
        )
    if grey:
        print(
            f"warning: {len(grey)} of {total} photographs are grey, and bring results that are "
            f"grey nearer to the palette: {', '.join(file.name for file in grey[:5])}"
            + (", …" if len(grey) > 5 else ""),
            file=sys.stderr,
        )
    write_palettes(args.out, palettes)
    for palette in palettes:
        what = ", ".join(palette.group.values()) or "all photographs"
        print(f"{what}: {palette.photographs} photographs, {len(palette.cells)} colours")
    print(args.out)
    return 0
