"""What several test files make their images and weights of."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from percept.metrics.weights import Backbone

# Of each photograph, height and width in pixels.
SIZES = {"harbour": (40, 52), "mill": (64, 33), "portrait": (36, 36), "sliver": (9, 60)}
CONDITIONS = ("gray", "reference", "vivid")


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth colours with some texture: uint8, shape (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(0, 2, (3, 3))]
    image = 128 + 70 * np.stack(waves, axis=-1) + rng.normal(0, 6, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def known_as(backbone: Backbone, **files: Path | bytes) -> Backbone:
    """Return the backbone with the hashes of these files in place of its own."""
    hashes = {
        field: hashlib.sha256(data if isinstance(data, bytes) else data.read_bytes()).hexdigest()
        for field, data in files.items()
    }
    return dataclasses.replace(backbone, **hashes)
