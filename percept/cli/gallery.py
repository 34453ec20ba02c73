"""``percept gallery``: a contact sheet of a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write one self-contained HTML page of photographs × conditions with their metrics, "
        "sortable by metric. It is not blind and says so: it is for those who run a study, never "
        "for observers."
    )
    parser.add_argument("run_dir", metavar="RUN", help="run directory of percept infer")
    parser.add_argument(
        "--out", "-o", type=Path, metavar="FILE", help="HTML file (default: gallery.html in RUN)"
    )
    parser.add_argument(
        "--side",
        type=int,
        default=320,
        metavar="PIXELS",
        help="longer side of the pictures inside it (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=200,
        metavar="N",
        help="at most so many photographs, spread evenly (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from percept.files import check_place
    from percept.gallery import write_gallery
    from percept.inference.run import open_run

    opened = open_run(args.run_dir)
    file = args.out or opened.root / "gallery.html"
    check_place(file)
    shown = write_gallery(opened, file, side=args.side, limit=args.limit)
    left = len(opened.manifest) - shown
    print(f"{shown} photographs{f', {left} left out (--limit)' if left else ''}")
    print(file)
    return 0
