"""Small photographs, their manifest, and a checkpoint of random weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from percept.inference.networks import build_network, save_checkpoint

SIZES = [(40, 30), (64, 48), (40, 30), (30, 40), (17, 1), (40, 30), (96, 41)]


def make_photo(file: Path, width: int, height: int, seed: int) -> None:
    """Write a smooth colour picture with some grain."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.integers(-12, 13, (height, width, 1))
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(file)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_manifest(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """Make photographs p0, p1, … and their manifest in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (width, height) in enumerate(sizes):
        photo, reference = folder / f"p{i}.png", folder / f"true{i}.png"
        make_photo(photo, width, height, seed=i)
        make_photo(reference, width, height, seed=100 + i)
        rows.append(
            {
                "content_id": f"p{i}",
                "path": photo.name,
                "sha256": sha256(photo),
                "width": width,
                "height": height,
                "reference_path": reference.name,
                "split": "study" if i % 2 == 0 else "train",
            }
        )
    file = folder / "manifest.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def write_checkpoint(folder: Path, weights: int = 0, **config: object) -> Path:
    torch.manual_seed(weights)
    arguments = {"width": 8, "depth": 2}
    save_checkpoint(
        folder,
        build_network("unet", arguments),
        {"network": {"name": "unet", "arguments": arguments}, "input": {"max_side": 32}, **config},
    )
    return folder


def contents(run: Path) -> dict[str, bytes]:
    """Outputs and images of a run: what must not depend on how it was run."""
    files = [run / "outputs.parquet", *sorted((run / "images").rglob("*"))]
    return {str(f.relative_to(run)): f.read_bytes() for f in files if f.is_file()}
