from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from percept.errors import InputError, InputErrors
from percept.files import sha256_file
from percept.inference.colorizer import Source
from percept.inference.plan import fit
from percept.inference.run import Condition
from training.config import DataConfig
from training.data import (
    Photograph,
    Views,
    batch_positions,
    data_sha256,
    load_lab,
    photograph_at,
    training_photographs,
)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("count", [7, 60, 100])
def test_every_photograph_once_per_epoch_at_any_world(world: int, count: int) -> None:
    batch, epochs = 60, 3
    steps = -(-epochs * count // batch)
    positions = [
        [
            position
            for step in range(steps)
            for position in batch_positions(step, global_batch=batch, rank=rank, world=world)
        ]
        for rank in range(world)
    ]
    assert {len(own) for own in positions} == {steps * batch // world}
    seen = sorted(position for own in positions for position in own)
    assert seen == list(range(steps * batch))
    stream = [photograph_at(position, count=count, seed=5) for position in seen]
    for epoch in range(epochs):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert stream[:count] != stream[count : 2 * count], "an epoch repeats the order"


def test_order_follows_the_seed() -> None:
    def order(seed: int) -> list[int]:
        return [photograph_at(position, count=50, seed=seed) for position in range(50)]

    assert order(1) == order(1) != order(2)


def views(**settings: float) -> Views:
    rng = np.random.default_rng(1)
    photographs = []
    for height, width in [(40, 30), (24, 50), (12, 12)]:
        lab = rng.uniform(-60, 60, size=(3, height, width))
        lab[0] = rng.uniform(0, 100, size=(height, width))
        photographs.append(torch.from_numpy(lab.astype(np.float16)))
    return Views(photographs, DataConfig(**settings), crop=16, global_batch=12, seed=9)  # type: ignore[arg-type]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_views_do_not_depend_on_the_world(world: int) -> None:
    luminance, chroma = views().batch(4, rank=0, world=1)
    shares = [views().batch(4, rank=rank, world=world) for rank in range(world)]
    assert torch.equal(luminance, torch.cat([light for light, _ in shares]))
    assert torch.equal(chroma, torch.cat([colour for _, colour in shares]))
    assert luminance.shape == (12, 1, 16, 16)
    assert chroma.shape == (12, 2, 16, 16)
    assert luminance.min() >= 0
    assert luminance.max() <= 1


def test_views_vary_and_jitter_leaves_colour_alone() -> None:
    luminance, chroma = views().batch(0, rank=0, world=1)
    assert len({light.numpy().tobytes() for light in luminance}) == len(luminance)
    plain, same = views(lightness_jitter=0.0).batch(0, rank=0, world=1)
    assert torch.equal(chroma, same)
    assert not torch.equal(luminance, plain)


def test_flip_mirrors_about_half_of_the_views() -> None:
    settings = {"lightness_jitter": 0.0, "min_scale": 1.0}
    mirrored = Counter[bool]()
    for step in range(20):
        with_flip, _ = views(**settings).batch(step, rank=0, world=1)
        without, _ = views(flip=False, **settings).batch(step, rank=0, world=1)
        for a, b in zip(with_flip, without, strict=True):
            # A flip changes the order of the sum behind the mean, hence the last bits.
            same = torch.allclose(a, b)
            assert same or torch.allclose(a, b.flip(-1))
            mirrored[not same] += 1
    assert 0.35 < mirrored[True] / mirrored.total() < 0.65


def test_only_rows_of_the_split_with_a_reference(manifest: Path) -> None:
    photographs = training_photographs(DataConfig(manifest=str(manifest)))
    assert [photograph.content_id for photograph in photographs] == ["a", "b", "c"]
    folder = manifest.parent
    assert photographs[0].hashes == tuple(
        sha256_file(folder / name) for name in ("a.png", "a-reference.png", "a-clean.png")
    )


def test_data_hash_follows_the_files(manifest: Path) -> None:
    config = DataConfig(manifest=str(manifest))
    before = data_sha256(training_photographs(config))
    assert data_sha256(training_photographs(config)) == before
    Image.new("RGB", (36, 30), "red").save(manifest.parent / "b-reference.png")
    assert data_sha256(training_photographs(config)) != before


def test_an_unknown_split_names_those_there_are(manifest: Path) -> None:
    with pytest.raises(InputError, match=r"got 'val'.*'study', 'train'"):
        training_photographs(DataConfig(manifest=str(manifest), split="val"))


def test_missing_and_changed_files_are_reported_together(manifest: Path) -> None:
    (manifest.parent / "a-reference.png").unlink()
    Image.new("L", (36, 30)).save(manifest.parent / "b.png")
    with pytest.raises(InputErrors) as caught:
        training_photographs(DataConfig(manifest=str(manifest)))
    assert [(error.row, error.column) for error in caught.value.errors] == [
        (1, "reference_path"),
        (2, "sha256"),
    ]


def test_lab_is_the_photographs_light_and_the_references_colour(tmp_path: Path) -> None:
    Image.new("L", (40, 20), 119).save(tmp_path / "p.png")
    Image.new("RGB", (40, 20), (200, 30, 30)).save(tmp_path / "r.png")
    rows = [
        {
            "content_id": "p",
            "path": "p.png",
            "sha256": sha256_file(tmp_path / "p.png"),
            "width": 40,
            "height": 20,
            "reference_path": "r.png",
            "split": "train",
        }
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    (photograph,) = training_photographs(DataConfig(manifest=str(tmp_path / "m.csv")))
    lab = load_lab(photograph, max_side=10)
    assert lab.shape == (3, 5, 10)
    # sRGB 119 is L* 50.03; sRGB (200, 30, 30) is L* 42.9, a* 63.4, b* 45.4 (CIE, D65).
    expected = torch.tensor([50.03, 63.4, 45.4])[:, None, None].expand(3, 5, 10)
    torch.testing.assert_close(lab.float(), expected, atol=0.6, rtol=0)


def test_the_network_is_trained_on_the_luminance_that_inference_gives_it(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(0, 256, size=(45, 60, 3), dtype=np.uint8)
    Image.fromarray(grain).save(tmp_path / "a.png")
    file = tmp_path / "a.png"
    photograph = Photograph(content_id="a", path=file, reference=file, hashes=())
    lightness = load_lab(photograph, max_side=20)[0].float()
    source = Source(Condition("x", "x"), colorize=torch.nn.Identity(), max_side=20, divisor=1)
    given = 100 * fit(grain, source)[0, 0]
    torch.testing.assert_close(lightness, given, atol=0.04, rtol=0)  # half precision


def test_a_reference_of_another_size_is_refused(manifest: Path) -> None:
    Image.new("RGB", (10, 10)).save(manifest.parent / "a-reference.png")
    photographs = training_photographs(DataConfig(manifest=str(manifest)))
    with pytest.raises(InputError, match="10×10 pixels, the photograph 36×30"):
        load_lab(photographs[0], max_side=32)
