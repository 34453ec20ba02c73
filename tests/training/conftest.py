from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.models.vgg import cfgs, make_layers

from percept.files import sha256_file
from percept.metrics.weights import BACKBONES, fetch

TINY = """
arm = "tiny"
seed = 3

[data]
max_side = 32

[network]
arguments = { width = 8, depth = 1 }

[schedule]
warmup_steps = 2

[train]
steps = 6
global_batch = 8
crop = 16
ema = 0.9
checkpoint_every = 2
log_every = 1
"""


def make_manifest(tmp_path: Path) -> Path:
    """Three training photographs with references, one for the study, one without reference."""
    rng = np.random.default_rng(0)
    rows = []
    for name, split in {"a": "train", "b": "train", "c": "train", "s": "study"}.items():
        small = rng.integers(0, 256, size=(5, 6, 3), dtype=np.uint8)
        colour = Image.fromarray(small).resize((36, 30))
        colour.save(tmp_path / f"{name}-reference.png")
        Image.fromarray(small[::-1]).save(tmp_path / f"{name}-clean.png")
        colour.convert("L").save(tmp_path / f"{name}.png")
        rows.append(
            {
                "content_id": name,
                "path": f"{name}.png",
                "sha256": hashlib.sha256((tmp_path / f"{name}.png").read_bytes()).hexdigest(),
                "width": 36,
                "height": 30,
                "reference_path": f"{name}-reference.png",
                "reference_clean_path": f"{name}-clean.png",
                "split": split,
            }
        )
    rows.append({**rows[0], "content_id": "grey", "reference_path": None})
    file = tmp_path / "manifest.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def make_config_file(tmp_path: Path, manifest: Path) -> Path:
    """A training of six small steps on ``manifest``."""
    file = tmp_path / "tiny.toml"
    file.write_text(TINY.replace("[data]\n", f'[data]\nmanifest = "{manifest.name}"\n'))
    return file


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """As :func:`make_manifest`."""
    return make_manifest(tmp_path)


@pytest.fixture
def config_file(tmp_path: Path, manifest: Path) -> Path:
    """As :func:`make_config_file`."""
    return make_config_file(tmp_path, manifest)


@pytest.fixture
def train() -> Iterator[Callable[..., int]]:
    """Run the worker in this process, as a world of one; returns its exit code."""
    from training.train import main

    threads = torch.get_num_threads()

    def run(config: Path, out: Path, *options: str) -> int:
        return main([str(config), "--out", str(out), "--device", "cpu", *options])

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def vgg16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """VGG16 weights made by chance, in a cache for this process and its children."""
    monkeypatch.setenv("PERCEPT_CACHE", str(tmp_path / "cache"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        layers = make_layers(cfgs["D"])
    state = {f"features.{name}": value for name, value in layers.state_dict().items()}
    file = tmp_path / "vgg16.pth"
    torch.save(state, file)
    fetch(dataclasses.replace(BACKBONES["vgg16"], url_sha256=sha256_file(file)), source=file)
    return state
