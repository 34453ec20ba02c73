from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from percept import degrade
from percept.degrade import (
    PROCESSES,
    age,
    content_rng,
    degrade_manifest,
    is_grey,
    reference_colors,
)
from percept.errors import InputError, InputErrors, Interrupted
from percept.manifest import Manifest, check_manifest, load_mask, load_rgb, scan_folder
from percept.types import DEGRADATIONS

LOCAL = {"scratches", "dust", "stains"}
PROCESS = {process.process: process for process in PROCESSES}


def packaged(path: str) -> np.ndarray:
    return load_rgb(Manifest(pd.DataFrame(), Path()).resolve(f"package:{path}"))


@pytest.fixture(scope="module")
def coffee() -> np.ndarray:
    return packaged("skimage/data/coffee.png")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four small photographs, one of them grey."""
    folder = tmp_path_factory.mktemp("clean")
    for name, path in {
        "cat": "skimage/data/chelsea.png",
        "cup": "skimage/data/coffee.png",
        "flower": "sklearn/datasets/images/flower.jpg",
        "man": "skimage/data/camera.png",
    }.items():
        image = Image.fromarray(packaged(path))
        image.thumbnail((160, 160))
        image.save(folder / f"{name}.png")
    manifest = scan_folder(folder).manifest
    manifest.frame["license"] = "CC0-1.0"
    manifest.frame["split"] = ["train", "study", "train", "study"]
    manifest.frame["inventory"] = ["7", "8", "9", "10"]
    return manifest.write(folder / "clean.csv")


def lightness(image: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2lab

    return rgb2lab(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))[..., 0]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- one photograph --------------------------------------------------------------------------


def test_the_processes_cover_the_vocabulary() -> None:
    used = {name for process in PROCESSES for name in process.strengths}
    assert used == set(DEGRADATIONS)
    assert len({process.era for process in PROCESSES}) == len(PROCESSES)
    for process in PROCESSES:
        assert process.degradation.split(";") == [d for d in DEGRADATIONS if d in process.strengths]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.process)
def test_the_mask_is_exactly_what_local_damage_changed(
    coffee: np.ndarray, process: degrade.Process
) -> None:
    aged = age(coffee, process, rng=np.random.default_rng(4))
    globally = {name: s for name, s in process.strengths.items() if name not in LOCAL}
    unharmed = age(
        coffee, dataclasses.replace(process, strengths=globally), rng=np.random.default_rng(4)
    )
    assert not unharmed.mask.any()
    assert np.array_equal(aged.mask, aged.photo != unharmed.photo)
    if LOCAL & set(process.strengths):
        assert 0.0002 < aged.mask.mean() < 0.6
    assert aged.photo.shape == coffee.shape[:2]
    assert aged.photo.dtype == np.uint8


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.process)
def test_the_reference_has_the_luminance_of_the_aged_photograph(
    coffee: np.ndarray, process: degrade.Process
) -> None:
    photo = age(coffee, process, rng=np.random.default_rng(5)).photo
    difference = np.abs(lightness(reference_colors(coffee, photo)) - lightness(photo))
    assert difference.max() < 0.3  # what rounding to 8 bits leaves
    assert difference.mean() < 0.1


def test_perfect_colour_scores_perfectly(coffee: np.ndarray) -> None:
    """The true chroma on the aged luminance, put together as the inference runner does it."""
    import torch
    from skimage.color import rgb2lab

    from percept.inference.color import luminance, to_srgb

    photo = age(coffee, PROCESS["picture postcard"], rng=np.random.default_rng(6)).photo
    chroma = torch.from_numpy(rgb2lab(coffee).astype(np.float32)[..., 1:].transpose(2, 0, 1).copy())
    perfect = to_srgb(luminance(np.repeat(photo[..., None], 3, axis=2)), chroma)
    error = perfect.astype(float) - reference_colors(coffee, photo)
    assert np.abs(error).max() <= 1
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 60


def test_ageing_depends_on_seed_and_content_id_alone(coffee: np.ndarray) -> None:
    process = PROCESS["nitrate film"]
    first, again, other_seed, other_id = (
        age(coffee, process, rng=content_rng(seed, content_id)).photo
        for seed, content_id in ((1, "cup"), (1, "cup"), (2, "cup"), (1, "cap"))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_id)


def test_each_layer_does_what_its_name_says() -> None:
    x = np.mgrid[:240, :320][1]
    ramp = np.repeat((x * 255 // 319).astype(np.uint8)[..., None], 3, axis=2)

    def layer(name: str, rgb: np.ndarray = ramp) -> np.ndarray:
        process = degrade.Process(era="", process="", strengths={name: 1.0})
        return age(rgb, process, rng=np.random.default_rng(1)).photo.astype(float)

    original = ramp[..., 0].astype(float)
    faded = layer("fading")
    assert faded.min() > 30
    assert faded.max() < 250
    assert np.corrcoef(faded.ravel(), original.ravel())[0, 1] > 0.97

    noise = layer("grain") - original
    middle, light = noise[:, 120:200].std(), noise[:, -40:].std()
    assert middle > 5
    assert middle > 1.3 * light  # strongest in the middle tones
    assert abs(noise[:, 40:-40].mean()) < 1

    texture = layer("paper_texture") - original
    assert 0.5 < texture.std() < 12

    stripes = np.repeat(((x // 2) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    assert layer("blur", stripes).std() < 0.5 * stripes.std()

    patches = np.zeros((60, 60, 3), np.uint8)
    patches[:20], patches[20:40], patches[40:] = [200, 0, 0], [0, 200, 0], [0, 0, 200]
    red, green, blue = layer("orthochromatic", patches)[[10, 30, 50], 30]
    assert red < 50 < blue  # red is black to it, and blue light
    assert green > red


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (700, 2), (16, 16)])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.process)
def test_every_shape_can_be_aged(shape: tuple[int, int], process: degrade.Process) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for seed in range(3):
        photo = age(rgb, process, rng=np.random.default_rng(seed)).photo
        assert photo.shape == shape
        assert reference_colors(rgb, photo).shape == rgb.shape


def test_damage_scales_with_the_picture(coffee: np.ndarray) -> None:
    """A scan of twice the size shows the same share of damage, not a quarter of it."""
    large = np.asarray(Image.fromarray(coffee).resize((1800, 1200)))
    medium = np.asarray(Image.fromarray(coffee).resize((900, 600)))
    share = {
        size: np.mean(
            [
                age(rgb, PROCESS["nitrate film"], rng=np.random.default_rng(seed)).mask.mean()
                for seed in range(3)
            ]
        )
        for size, rgb in (("medium", medium), ("large", large))
    }
    assert 0.4 < share["large"] / share["medium"] < 2.5


def test_what_counts_as_grey(coffee: np.ndarray) -> None:
    assert not is_grey(coffee)
    assert is_grey(packaged("skimage/data/camera.png"))
    assert is_grey(np.full((1, 1, 3), 90, np.uint8))


# --- a manifest ------------------------------------------------------------------------------


def test_degrade_manifest(clean: Manifest, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    out = tmp_path / "aged"
    aged = degrade_manifest(clean, out, seed=3, progress=lambda *counts: done.append(counts))
    frame = aged.frame
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert aged.file == out / "manifest.csv"
    assert check_manifest(aged) == []
    assert frame["content_id"].tolist() == clean.frame["content_id"].tolist()
    for column in ("license", "split", "inventory", "width", "height"):
        pd.testing.assert_series_equal(frame[column], clean.frame[column])
    assert frame["reference_path"].isna().tolist() == [False, False, False, True]  # man is grey
    for row in aged.rows():
        process = PROCESS[row["process"]]
        assert (row["era"], row["degradation"]) == (process.era, process.degradation)
        original = load_rgb(aged.resolve(row["reference_clean_path"]))
        expected = age(original, process, rng=_after_choice(3, row["content_id"]))
        with Image.open(aged.resolve(row["path"])) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), expected.photo)
        if row["mask_path"]:
            assert np.array_equal(load_mask(aged.resolve(row["mask_path"])), expected.mask)
        else:
            assert not expected.mask.any()
        if row["reference_path"]:
            assert np.array_equal(
                load_rgb(aged.resolve(row["reference_path"])),
                reference_colors(original, expected.photo),
            )


def _after_choice(seed: int, content_id: str) -> np.random.Generator:
    rng = content_rng(seed, content_id)
    rng.integers(len(PROCESSES))
    return rng


def test_the_order_and_number_of_rows_do_not_matter(clean: Manifest, tmp_path: Path) -> None:
    whole = degrade_manifest(clean, tmp_path / "whole", seed=1).frame.set_index("content_id")
    backwards = Manifest(clean.frame[::-1].reset_index(drop=True), clean.root)
    part = backwards.select([True, False, True, False])
    some = degrade_manifest(part, tmp_path / "some", seed=1).frame.set_index("content_id")
    assert len(some) == 2
    assert some["sha256"].to_dict() == whole.loc[some.index, "sha256"].to_dict()
    assert some["process"].to_dict() == whole.loc[some.index, "process"].to_dict()
    for name in some.index:
        for kind in ("reference", "masks"):
            one, other = (tmp_path / d / kind / f"{name}.png" for d in ("some", "whole"))
            assert one.exists() == other.exists()
            assert not one.exists() or one.read_bytes() == other.read_bytes()


def test_an_interrupted_call_is_resumed(
    clean: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_dir, out = tmp_path / "expected", tmp_path / "out"
    degrade_manifest(clean, expected_dir, seed=1)

    save, calls = degrade._save, []

    def disk_full(pixels: np.ndarray, file: Path) -> None:
        calls.append(file)
        if len(calls) == 5:
            raise OSError(28, os.strerror(28))
        save(pixels, file)

    monkeypatch.setattr(degrade, "_save", disk_full)
    with pytest.raises(Interrupted, match="No space left"):
        degrade_manifest(clean, out, seed=1)
    assert not (out / "manifest.csv").exists()
    finished = {path.name for path in (out / "images").iterdir()}
    assert 0 < len(finished) < 4

    calls.clear()
    monkeypatch.setattr(
        degrade, "_save", lambda pixels, file: (calls.append(file), save(pixels, file))
    )
    degrade_manifest(clean, out, seed=1)
    assert not finished & {path.name for path in calls}  # only what was missing
    assert files(out) == files(expected_dir)


def test_other_contents_of_the_directory_are_left_alone(clean: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        degrade_manifest(clean, out, seed=1)
    assert files(out) == {"thesis.txt": b"mine"}
    with pytest.raises(InputError, match="is a file"):
        degrade_manifest(clean, out / "thesis.txt", seed=1)

    done = tmp_path / "done"
    degrade_manifest(clean, done, seed=1)
    before = files(done)
    with pytest.raises(InputError, match="another seed"):
        degrade_manifest(clean, done, seed=2)
    with pytest.raises(InputError, match="other photographs"):
        degrade_manifest(clean.split("train"), done, seed=1)
    assert files(done) == before
    assert json.loads(before["degrade.json"])["seed"] == 1


def test_bad_input_writes_nothing(clean: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    frame = clean.frame.copy()
    frame.loc[1, "path"] = "absent.png"
    frame.loc[2, "sha256"] = "0" * 64
    with pytest.raises(InputErrors) as caught:
        degrade_manifest(Manifest(frame, clean.root), out, seed=1)
    assert [error.row for error in caught.value.errors] == [2, 3]
    with pytest.raises(InputError, match="negative"):
        degrade_manifest(clean, out, seed=-1)
    assert not out.exists()

    aged = degrade_manifest(clean, tmp_path / "aged", seed=1)
    with pytest.raises(InputError, match="only clean photographs"):
        degrade_manifest(aged, out, seed=1)
    assert not out.exists()
