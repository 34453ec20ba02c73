from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

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
from training import data
from training.config import Config, DataConfig, Sampler, TrainConfig
from training.data import (
    Photograph,
    Views,
    check_loader,
    chroma_histogram,
    data_sha256,
    jensen_shannon,
    load_batches,
    load_lab,
    nearest_shape,
    training_photographs,
    validation_photographs,
)
from training.order import Order

SAMPLERS: list[Sampler] = ["shuffle", "repeated", "stratified", "contiguous"]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("count", [7, 60, 101])
def test_every_photograph_once_per_epoch_at_any_world(
    sampler: Sampler, world: int, count: int
) -> None:
    batch, epochs = 60, 3
    strata = [index % 3 for index in range(count)]
    order = Order(count, batch=batch, seed=5, sampler=sampler, strata=strata, world=world)
    steps = [order.photographs(step) for step in range(-(-epochs * count // batch))]
    shares = [
        [step[r * batch // world : (r + 1) * batch // world] for step in steps]
        for r in range(world)
    ]
    assert {sum(map(len, own)) for own in shares} == {len(steps) * batch // world}
    stream = np.concatenate(steps).tolist()
    for epoch in range(epochs):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert (stream[:count] == stream[count : 2 * count]) == (sampler == "repeated")
    if sampler != "contiguous":
        alone = Order(count, batch=batch, seed=5, sampler=sampler, strata=strata)
        np.testing.assert_array_equal(steps[0], alone.photographs(0))


def test_order_follows_the_seed() -> None:
    orders = [Order(50, batch=50, seed=seed).photographs(0).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_contiguous_processes_keep_to_their_stretch() -> None:
    order = Order(101, batch=12, seed=0, sampler="contiguous", world=3)
    seen = [
        {int(i) for step in range(40) for i in order.photographs(step)[4 * rank : 4 * rank + 4]}
        for rank in range(3)
    ]
    # Stretches of a third each, whose ends move by a batch's share at most.
    for rank, own in enumerate(seen):
        assert min(own) >= rank * 101 / 3 - 5
        assert max(own) <= (rank + 1) * 101 / 3 + 5


def test_stratified_steps_are_all_alike() -> None:
    strata = np.array([0] * 60 + [1] * 30 + [2] * 10)
    order = Order(100, batch=10, seed=3, sampler="stratified", strata=strata.tolist())
    shares = np.array(
        [np.bincount(strata[order.photographs(step)], minlength=3) for step in range(30)]
    )
    assert np.abs(shares - [6, 3, 1]).max() <= 1


def test_buckets_take_turns_and_each_has_its_epochs() -> None:
    buckets = [0] * 6 + [1] * 12 + [2] * 2
    order = Order(20, batch=4, seed=1, buckets=buckets)
    steps = range(50)
    turns = [order.bucket(step) for step in steps]
    np.testing.assert_allclose(np.bincount(turns), [15, 30, 5], atol=1)
    for bucket in range(3):
        members = [index for index, of in enumerate(buckets) if of == bucket]
        stream = [int(i) for s in steps if turns[s] == bucket for i in order.photographs(s)]
        whole = len(stream) // len(members) * len(members)
        epochs = np.reshape(stream[:whole], (-1, len(members)))
        assert all(sorted(epoch) == members for epoch in epochs.tolist())


@pytest.mark.parametrize("sizes", [(6, 12, 2), (3, 3, 1), (5, 1), (7, 11, 13, 4)])
def test_the_bucket_furthest_behind_its_share_is_next(sizes: tuple[int, ...]) -> None:
    buckets = [bucket for bucket, size in enumerate(sizes) for _ in range(size)]
    order = Order(len(buckets), batch=4, seed=1, buckets=buckets)
    turns: list[int] = []
    for _ in range(3 * len(buckets)):
        done = np.bincount(turns, minlength=len(sizes))
        due = np.array(sizes) / len(buckets) * (len(turns) + 1) - done
        turns.append(int(due.argmax()))
    assert [order.bucket(step) for step in range(len(turns))] == turns
    again = Order(len(buckets), batch=4, seed=1, buckets=buckets)  # begun in the middle
    middle = len(turns) // 2
    assert [again.bucket(step) for step in range(middle, len(turns))] == turns[middle:]
    np.testing.assert_array_equal(again.photographs(middle), order.photographs(middle))


CROP = 16


def views(tmp_path: Path, *, rank: int = 0, world: int = 1, **settings: object) -> Views:
    rng = np.random.default_rng(1)
    photographs = []
    for height, width in [(40, 30), (24, 50), (20, 20)]:
        file = tmp_path / f"{height}.png"
        colour = rng.integers(0, 256, size=(height // 4, width // 5, 3), dtype=np.uint8)
        Image.fromarray(colour).resize((width, height)).save(file)
        photographs.append(
            Photograph(
                content_id=file.stem, path=file, reference=file, hashes=(), shape=(height, width)
            )
        )
    config = Config(
        arm="x",
        seed=9,
        data=DataConfig(**settings),  # type: ignore[arg-type]
        train=TrainConfig(steps=9, global_batch=12, crop=CROP),
    )
    return Views(photographs, config, rank=rank, world=world)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_views_do_not_depend_on_the_world(tmp_path: Path, world: int) -> None:
    luminance, chroma = views(tmp_path)[4]
    shares = [views(tmp_path, rank=rank, world=world)[4] for rank in range(world)]
    assert torch.equal(luminance, torch.cat([light for light, _ in shares]))
    assert torch.equal(chroma, torch.cat([colour for _, colour in shares]))
    assert luminance.shape == (12, 1, CROP, CROP)
    assert chroma.shape == (12, 2, CROP, CROP)
    assert luminance.min() >= 0
    assert luminance.max() <= 1


def test_views_vary_and_jitter_leaves_colour_alone(tmp_path: Path) -> None:
    luminance, chroma = views(tmp_path)[0]
    assert len({light.numpy().tobytes() for light in luminance}) == len(luminance)
    plain, same = views(tmp_path, lightness_jitter=0.0)[0]
    assert torch.equal(chroma, same)
    assert not torch.equal(luminance, plain)


def test_views_of_a_step_have_one_shape_on_all_ranks(tmp_path: Path) -> None:
    buckets = [[24, 16], [16, 32], [16, 16]]
    ranks = [views(tmp_path, rank=rank, world=2, buckets=buckets) for rank in range(2)]
    shapes = [[tuple(own[step][0].shape[2:]) for own in ranks] for step in range(6)]
    assert all(first == second for first, second in shapes)
    assert {first for first, _ in shapes} == {(24, 16), (16, 32), (16, 16)}
    assert nearest_shape((30, 61), [(16, 16), (16, 32), (24, 16)]) == 1


def test_ageing_changes_light_and_leaves_colour_alone(tmp_path: Path) -> None:
    settings = {"lightness_jitter": 0.0, "flip": False, "min_scale": 1.0}
    clean, colour = views(tmp_path, **settings)[0]
    aged, same = views(tmp_path, ageing=1.0, aged_copies=3, **settings)[0]
    assert torch.equal(colour, same)
    changed = [(a - b).abs().mean() > 0.01 for a, b in zip(aged, clean, strict=True)]
    assert all(changed)
    again, _ = views(tmp_path, ageing=1.0, aged_copies=3, **settings)[0]
    assert torch.equal(aged, again)


FORKSERVER = """
import multiprocessing, sys, torch
from pathlib import Path
from tests.training.test_data import DataConfig, load_batches, views

if __name__ == "__main__":  # processes start as Python 3.14 starts them on Linux: with what is sent
    multiprocessing.set_start_method("forkserver")
    folder = Path(sys.argv[1])
    loaded = views(folder, workers=1)
    loaded[0]  # what it remembers is sent, too
    ((luminance, chroma, _),) = load_batches(loaded, DataConfig(workers=1), range(2, 3))
    assert torch.equal(luminance, views(folder)[2][0])
    assert torch.equal(chroma, views(folder)[2][1])
"""


def test_views_can_be_sent_to_a_loader_process(tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text(FORKSERVER)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "settings", [{"cache": False}, {"workers": 2}, {"workers": 1, "cache": False}]
)
def test_loader_processes_and_cache_change_nothing(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    loaded = views(tmp_path, **settings)
    config = DataConfig(**settings)  # type: ignore[arg-type]
    batches = list(load_batches(loaded, config, range(2, 5)))
    for step, (luminance, chroma, problem) in zip(range(2, 5), batches, strict=True):
        assert not problem
        expected = views(tmp_path)[step]
        assert torch.equal(luminance, expected[0])
        assert torch.equal(chroma, expected[1])


def test_too_little_shared_memory_is_said_before_a_loader_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        arm="x",
        data=DataConfig(workers=200, prefetch=60),
        train=TrainConfig(steps=1, global_batch=10**6, crop=256),
    )
    monkeypatch.setattr(data, "_SHARED_MEMORY", tmp_path)  # some folder, for systems without
    with pytest.raises(
        InputError, match=r"200 loader processes in each of 2 .* MiB of shared"
    ) as e:
        check_loader(config, 2, 2)
    assert e.value.key == "data.workers"
    small = TrainConfig(steps=1, global_batch=2, crop=16)
    check_loader(Config(arm="x", data=DataConfig(workers=1), train=small), 2, 2)
    check_loader(Config(arm="x", train=small), 2, 2)


def test_processes_on_other_machines_need_nothing_of_this_ones_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_SHARED_MEMORY", tmp_path)
    settings = DataConfig(workers=1, prefetch=1)  # two steps ready, of 16 views in all
    config = Config(arm="x", data=settings, train=TrainConfig(steps=1, global_batch=16, crop=64))
    room = 2 * 8 * 64 * 64 * 3 * 4
    monkeypatch.setattr(data.os, "statvfs", lambda _: SimpleNamespace(f_bavail=room, f_frsize=1))
    check_loader(config, 2, 1)
    with pytest.raises(InputError, match="1 loader processes in each of 2 "):
        check_loader(config, 2, 2)


def test_decoding_at_less_is_still_large_enough(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 640, dtype=np.uint8), (480, 1))
    Image.fromarray(np.stack([ramp, ramp.T[:480, :1].repeat(640, 1), ramp], -1)).save(
        tmp_path / "p.jpg", quality=95
    )
    file = tmp_path / "p.jpg"
    photograph = Photograph(content_id="p", path=file, reference=file, hashes=(), shape=(480, 640))
    full = load_lab(photograph, DataConfig(max_side=100))
    fast = load_lab(photograph, DataConfig(max_side=100, decode_downscale=True))
    assert full.shape == fast.shape == (3, 75, 100)
    assert (full - fast).abs().mean() < 1.0
    assert not torch.equal(full, fast)


def test_jensen_shannon_is_0_for_equal_and_1_for_disjoint_histograms() -> None:
    assert jensen_shannon(np.array([[1.0, 3.0], [2.0, 6.0]])) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(np.eye(3)) == pytest.approx(1)
    # By hand: mean (3/4, 1/4), entropy 0.8113 bits, less the mean of 0 and 1 bit.
    assert jensen_shannon(np.array([[2.0, 0.0], [5.0, 5.0]])) == pytest.approx(0.3113, abs=1e-4)
    assert jensen_shannon(np.ones((1, 4))) == 0.0
    assert jensen_shannon(np.array([[1.0, 0.0], [0.0, 0.0]])) == 0.0


def test_chroma_histogram_counts_every_pixel() -> None:
    chroma = torch.tensor([[-200.0, -110.0], [-1.0, 109.0]]).view(1, 2, 1, 2)
    counts = chroma_histogram(chroma, bins=4)
    assert counts.nonzero().flatten().tolist() == [1, 3]  # a* in the first row of bins
    assert counts.sum() == 2


def test_flip_mirrors_about_half_of_the_views(tmp_path: Path) -> None:
    settings = {"lightness_jitter": 0.0, "min_scale": 1.0}
    mirrored = Counter[bool]()
    with_flip, without = views(tmp_path, **settings), views(tmp_path, flip=False, **settings)
    for step in range(20):
        for a, b in zip(with_flip[step][0], without[step][0], strict=True):
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


def test_the_validation_split_may_be_empty(manifest: Path) -> None:
    config = DataConfig(manifest=str(manifest))
    assert validation_photographs(config) == []
    study = DataConfig(manifest=str(manifest), validation_split="study")
    assert [photograph.content_id for photograph in validation_photographs(study)] == ["s"]


def test_unknown_strata_are_named(manifest: Path) -> None:
    config = DataConfig(manifest=str(manifest), sampler="stratified", strata=["epoch"])
    with pytest.raises(InputError, match=r"no such column \(got 'epoch'\)\. Columns: content_id"):
        training_photographs(config)


def test_data_hash_follows_the_files(manifest: Path) -> None:
    config = Config(
        arm="x",
        data=DataConfig(manifest=str(manifest)),
        train=TrainConfig(steps=1, global_batch=1),
    )

    def found() -> dict[str, str]:
        return data_sha256(training_photographs(config.data), [], config)

    before = found()
    assert found() == before
    Image.new("RGB", (36, 30), "red").save(manifest.parent / "b-reference.png")
    assert found()["data_sha256"] != before["data_sha256"]
    assert found()["validation_sha256"] == before["validation_sha256"]


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
    lab = load_lab(photograph, DataConfig(max_side=20))
    assert lab.shape == (3, 10, 20)
    # sRGB 119 is L* 50.03; sRGB (200, 30, 30) is L* 42.9, a* 63.4, b* 45.4 (CIE, D65).
    expected = torch.tensor([50.03, 63.4, 45.4])[:, None, None].expand(3, 10, 20)
    torch.testing.assert_close(lab.float(), expected, atol=0.6, rtol=0)


def test_the_network_is_trained_on_the_luminance_that_inference_gives_it(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(0, 256, size=(45, 60, 3), dtype=np.uint8)
    Image.fromarray(grain).save(tmp_path / "a.png")
    file = tmp_path / "a.png"
    photograph = Photograph(content_id="a", path=file, reference=file, hashes=(), shape=(45, 60))
    lightness = load_lab(photograph, DataConfig(max_side=20))[0].float()
    source = Source(Condition("x", "x"), colorize=torch.nn.Identity(), max_side=20, divisor=1)
    given = 100 * fit(grain, source)[0, 0]
    torch.testing.assert_close(lightness, given, atol=0.04, rtol=0)  # half precision


def test_a_reference_of_another_size_is_refused(manifest: Path) -> None:
    Image.new("RGB", (10, 10)).save(manifest.parent / "a-reference.png")
    photographs = training_photographs(DataConfig(manifest=str(manifest)))
    with pytest.raises(InputError, match="10×10 pixels, the photograph 36×30"):
        load_lab(photographs[0], DataConfig(max_side=32))
