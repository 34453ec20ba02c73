"""A contact sheet of a run: photographs × conditions with their metrics, as one HTML file.

It names the conditions: it is for those who run a study, never for those who judge.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from percept.errors import InputError
from percept.files import write_bytes_atomic
from percept.inference.run import Run
from percept.manifest import load_rgb

_INFINITE = {True: "Infinity", False: "-Infinity"}  # as JavaScript reads them; JSON has none
TEMPLATE = Path(__file__).with_name("gallery.html")


def write_gallery(
    run: Run,
    file: str | Path,
    *,
    side: int = 320,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the contact sheet of a run.

    Parameters
    ----------
    run : Run
        An opened run, with or without metrics.
    file : str or Path
        HTML file; everything is inside it.
    side : int
        Longer side of the embedded pictures in pixels.
    limit : int, optional
        At most so many photographs, evenly spread over the manifest. The page says so.
    progress : callable, optional
        Called with the number of photographs done and their total.

    Returns
    -------
    int
        Photographs shown.

    Raises
    ------
    InputError
        A picture of the run is gone or cannot be read.
    """
    import jinja2

    if side < 16 or (limit is not None and limit < 1):
        raise InputError("side is at least 16 pixels, limit at least 1", value=(side, limit))
    rows = run.manifest.to_dict("records")
    total = len(rows)
    if limit is not None and limit < total:
        rows = [rows[i * total // limit] for i in range(limit)]
    outputs = run.outputs.set_index(["content_id", "condition"])
    metrics, known = run.metrics, run.info.get("metrics", {})
    there = metrics["metric"].unique()
    order = [name for name in known if name in there]
    order += [name for name in there if name not in known]
    metrics = metrics.sort_values("metric", key=lambda own: own.map(order.index), kind="stable")
    values = {
        key: dict(zip(own["metric"], own["value"], strict=True))
        for key, own in metrics.groupby(["content_id", "condition"], sort=False)
    }
    photographs = []
    for i, row in enumerate(rows):
        photographs.append(_photograph(run, row, outputs, values, side))
        if progress:
            progress(i + 1, len(rows))
    names = [{"name": n, "up": known.get(n, {}).get("higher_is_better")} for n in order]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        run=run.root.resolve().name,
        conditions=[condition.name for condition in run.conditions],
        metrics=names,
        photographs=photographs,
        total=total,
        side=side,
    )
    write_bytes_atomic(file, page.encode())
    return len(photographs)


def _photograph(
    run: Run,
    row: Mapping[Any, Any],
    outputs: pd.DataFrame,
    values: Mapping[Any, Mapping[str, float]],
    side: int,
) -> dict[str, Any]:
    content = row["content_id"]
    cells = []
    for condition in run.conditions:
        key = (content, condition.name)
        output: Any = outputs.loc[key] if key in outputs.index else {"status": "", "error": None}
        made = output["status"] == "ok"
        told = values.get(key, {})
        cells.append(
            {
                "condition": condition.name,
                "image": _embed(run.image(output["path"]), side) if made else None,
                "error": output["error"],
                "values": {
                    name: value if math.isfinite(value) else _INFINITE[value > 0]
                    for name, value in told.items()
                },
                "told": {name: _number(value) for name, value in told.items()},
            }
        )
    facts = [row.get(name) for name in ("era", "process", "degradation")]
    return {
        "content": content,
        "facts": ", ".join(fact.replace(";", ", ") for fact in facts if isinstance(fact, str)),
        "image": _embed(run.resolve(row["path"]), side),
        "cells": cells,
    }


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "∞" if value > 0 else "−∞"


def _embed(file: Path, side: int) -> str:
    """Return a picture as a data URI: reduced, JPEG without chroma subsampling."""
    image = Image.fromarray(load_rgb(file))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
