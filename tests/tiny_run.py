"""A run directory made by hand: coloured gradients on real files, no model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from percept.files import write_json_atomic, write_parquet_atomic
from percept.inference.run import Condition, Run, open_run, write_conditions
from percept.protocol import Protocol, load_protocol, parse_protocol
from percept.types import MANIFEST_OPTIONAL

CONDITIONS = ("warm", "cold", "gray")
_TINT = {
    "warm": (1.0, 0.8, 0.6),
    "cold": (0.6, 0.8, 1.0),
    "gray": (1.0, 1.0, 1.0),
    "reference": (0.8, 1.0, 0.7),
}
_ERAS = ("1900s", "1930s")


def make_run(
    root: Path,
    *,
    contents: int = 4,
    conditions: Sequence[str] = CONDITIONS,
    size: tuple[int, int] = (90, 60),
    trained_on: Sequence[str] = (),
) -> Run:
    """Write ``root/photos`` and ``root/run``; ``trained_on`` hashes go into the first condition."""
    photos, run = root / "photos", root / "run"
    photos.mkdir(parents=True)
    run.mkdir()
    width, height = size
    manifest, outputs = [], []
    for index in range(contents):
        name = f"photo{index}"
        ramp = np.add.outer(np.arange(height) * 2, np.arange(width)) + 17 * index
        luminance = (ramp % 256).astype(np.uint8)
        file = photos / f"{name}.png"
        Image.fromarray(luminance).save(file)
        manifest.append(
            {
                "content_id": name,
                "path": file.name,
                "sha256": _sha256(file),
                "width": width,
                "height": height,
                **dict.fromkeys(MANIFEST_OPTIONAL),
                "era": _ERAS[index % 2],
                "process": "gelatin silver",
            }
        )
        for condition in conditions:
            tint = np.array(_TINT.get(condition, (0.9, 0.9, 0.5)))
            picture = (luminance[..., None] * tint).astype(np.uint8)
            path = Path("images") / condition / f"{name}.png"
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(run / path)
            outputs.append(
                {
                    "content_id": name,
                    "condition": condition,
                    "path": str(path),
                    "sha256": _sha256(run / path),
                    "width": width,
                    "height": height,
                    "status": "ok",
                    "error": None,
                }
            )
    write_parquet_atomic(run / "manifest.parquet", pd.DataFrame(manifest))
    write_parquet_atomic(run / "outputs.parquet", pd.DataFrame(outputs))
    write_parquet_atomic(run / "timings.parquet", pd.DataFrame({"content_id": []}))
    write_conditions(
        run / "conditions.json",
        tuple(
            Condition(name, f"spec-of-{name}", training_sha256=() if index else tuple(trained_on))
            for index, name in enumerate(conditions)
        ),
    )
    info = {"format": 1, "manifest": {"folder": "../photos", "root": str(photos), "sha256": ""}}
    write_json_atomic(run / "run.json", info)
    return open_run(run)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def tiny_protocol(name: str = "pairwise", tables: str = "", **values: object) -> Protocol:
    """A bundled protocol with more tables, some top-level keys changed, golds only if asked."""
    text = load_protocol(name).text + tables
    for key, value in {"golds": 0, **values}.items():
        line = f"{key} = {_toml(value)}"
        text, found = re.subn(rf"^{key} = .*$", line, text, count=1, flags=re.M)
        text = text if found else f"{line}\n{text}"
    return parse_protocol(text)


def _toml(value: object) -> str:
    return json.dumps(value)  # for the values used here, JSON is TOML
