"""Small runs made by hand, and weights made by chance: nothing here needs a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from metric_samples import CONDITIONS, SIZES, known_as, photograph
from PIL import Image

from percept.files import sha256_file, write_json_atomic, write_parquet_atomic
from percept.inference.run import Condition, Run, open_run, write_conditions
from percept.metrics.weights import BACKBONES, fetch
from percept.types import OUTPUT_COLUMNS


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[], Run]:
    """Make a run of four photographs × three conditions.

    ``portrait`` has no reference, ``sliver`` is 9 pixels high, and inference failed on
    ``vivid`` of ``mill``.
    """

    def make(name: str = "run") -> Run:
        root = tmp_path / name
        root.mkdir()
        photographs, outputs = [], []
        for seed, (content, (height, width)) in enumerate(SIZES.items()):
            colour = photograph(seed, height, width)
            gray = np.repeat(np.array(Image.fromarray(colour).convert("L"))[..., None], 3, axis=2)
            vivid = (colour * 1.4 - 40).clip(0, 255).astype(np.uint8)
            save(root / f"photos/{content}.png", gray)
            save(root / f"photos/{content}-true.png", colour)
            photographs.append(
                {
                    "content_id": content,
                    "path": f"photos/{content}.png",
                    "sha256": sha256_file(root / f"photos/{content}.png"),
                    "width": width,
                    "height": height,
                    "reference_path": (
                        None if content == "portrait" else f"photos/{content}-true.png"
                    ),
                }
            )
            for condition, image in zip(CONDITIONS, (gray, colour, vivid), strict=True):
                path = f"images/{condition}/{content}.png"
                save(root / path, image)
                row = (content, condition, path, sha256_file(root / path), width, height, "ok")
                if (content, condition) == ("mill", "vivid"):
                    (root / path).unlink()
                    row = (content, condition, None, None, None, None, "error")
                outputs.append((*row, "it went wrong" if row[-1] == "error" else None))
        table = pd.DataFrame(outputs, columns=list(OUTPUT_COLUMNS))
        table = table.astype({"width": "Int64", "height": "Int64"})
        write_parquet_atomic(root / "outputs.parquet", table)
        write_parquet_atomic(root / "timings.parquet", table[["content_id", "condition"]])
        write_parquet_atomic(root / "manifest.parquet", pd.DataFrame(photographs))
        write_conditions(root / "conditions.json", tuple(Condition(n, n) for n in CONDITIONS))
        info = {"format": 1, "manifest": {"folder": ".", "root": str(root)}}
        write_json_atomic(root / "run.json", info)
        return open_run(root)

    return make


def save(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for this process and its children."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PERCEPT_CACHE", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return folder


@pytest.fixture
def random_backbone(cache: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    """AlexNet weights made by chance, brought into the cache by hand; returned as they are."""
    return bring_backbone("alexnet", tmp_path)


def bring_backbone(name: str, folder: Path) -> dict[str, torch.Tensor]:
    import torchvision.models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        features = getattr(torchvision.models, name)(weights=None).features.state_dict()
    state = {f"features.{key}": value for key, value in features.items()}
    file = folder / f"{name}.pth"
    torch.save({**state, "classifier.1.bias": torch.zeros(3)}, file)
    fetch(known_as(BACKBONES[name], url_sha256=file), source=file)
    return state


@pytest.fixture
def random_vgg(cache: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    """As ``random_backbone``, of VGG-16."""
    return bring_backbone("vgg16", tmp_path)
