from __future__ import annotations

import hashlib
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from percept import stimuli
from percept.color import lab_to_srgb_in_gamut, srgb_to_lab
from percept.errors import InputError
from percept.files import write_parquet_atomic
from percept.inference.run import open_run
from percept.manifest import load_rgb
from percept.stimuli import (
    VARIANTS,
    fit,
    gray,
    is_beyond_taste,
    render_stimuli,
    select_stimuli,
    spoil,
)
from tests.tiny_run import make_run


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def rewrite_outputs(root: Path, change) -> None:
    outputs = pd.read_parquet(root / "outputs.parquet")
    write_parquet_atomic(root / "outputs.parquet", change(outputs))


def test_images_carry_the_srgb_tag_and_nothing_else(tmp_path) -> None:
    run = make_run(tmp_path)
    selection = select_stimuli(run, max_side=1024)
    rendered = render_stimuli(selection, tmp_path / "out")
    assert len(rendered.rows) == 4 * (3 + 1)
    for row in rendered.rows:
        data = (tmp_path / "out" / f"{row['sha256']}.png").read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        parts = chunks(data)
        names = [name for name, _ in parts]
        assert list(dict.fromkeys(names)) == [b"IHDR", b"sRGB", b"IDAT", b"IEND"]
        assert dict(parts)[b"sRGB"] == b"\0"
        # 90 × 60, 8 bits, RGB, no interlacing: the same header for colour and grey.
        assert dict(parts)[b"IHDR"] == struct.pack(">IIBBBBB", 90, 60, 8, 2, 0, 0, 0)


def test_pixels_are_the_runs_own_where_nothing_is_scaled(tmp_path) -> None:
    run = make_run(tmp_path)
    rendered = render_stimuli(select_stimuli(run, max_side=1024), tmp_path / "out")
    row = next(r for r in rendered.rows if r["condition"] == "warm" and r["content"] == "photo1")
    made = np.asarray(Image.open(tmp_path / "out" / f"{row['sha256']}.png"))
    assert np.array_equal(made, np.asarray(Image.open(run.image("images/warm/photo1.png"))))


@pytest.mark.parametrize("max_side", [64, 45])
def test_all_images_of_a_photograph_have_one_size(tmp_path, max_side: int) -> None:
    run = make_run(tmp_path, contents=2)
    selection = select_stimuli(run, max_side=max_side)
    assert set(selection.contents["width"]) == {max_side}
    rendered = render_stimuli(selection, tmp_path / "out")
    sizes = {Image.open(tmp_path / "out" / f"{r['sha256']}.png").size for r in rendered.rows}
    assert sizes == {(max_side, round(max_side * 60 / 90))}


@pytest.mark.parametrize(
    ("size", "expected"),
    [((90, 60), (90, 60)), ((3000, 2000), (1000, 667)), ((1, 5000), (1, 1000))],
)
def test_fit_never_enlarges_and_never_vanishes(size, expected) -> None:
    assert fit(*size, 1000) == expected


def test_an_output_of_another_resolution_is_brought_to_the_photographs_size(tmp_path) -> None:
    run = make_run(tmp_path, contents=1)
    file = run.image("images/warm/photo0.png")
    Image.open(file).resize((45, 30)).save(file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    warm = lambda frame: frame["condition"] == "warm"  # noqa: E731
    rewrite_outputs(
        run.root,
        lambda frame: frame.assign(
            width=frame["width"].mask(warm(frame), 45),
            height=frame["height"].mask(warm(frame), 30),
            sha256=frame["sha256"].mask(warm(frame), sha256),
        ),
    )
    rendered = render_stimuli(select_stimuli(open_run(run.root), max_side=99), tmp_path / "out")
    sizes = {Image.open(tmp_path / "out" / f"{r['sha256']}.png").size for r in rendered.rows}
    assert sizes == {(90, 60)}


def test_grey_is_the_luminance_of_the_photograph() -> None:
    from skimage.color import lab2rgb, rgb2lab

    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    lab = rgb2lab(colours / 255)
    lab[..., 1:] = 0
    expected = lab2rgb(lab) * 255
    assert (
        np.abs(gray(colours) - expected).max() <= 0.55
    )  # half a level, and the rounding of the matrices
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=-1)
    assert np.array_equal(gray(ramp), ramp)


def test_a_photograph_without_all_conditions_is_left_out_with_its_reason(tmp_path) -> None:
    run = make_run(tmp_path, contents=3)
    bad = lambda f: (f["content_id"] == "photo1") & (f["condition"] == "cold")  # noqa: E731
    rewrite_outputs(run.root, lambda f: f.assign(status=f["status"].mask(bad(f), "error")))
    selection = select_stimuli(open_run(run.root), max_side=99)
    assert selection.left_out == {"photo1": "no output of cold"}
    assert list(selection.contents["content_id"]) == ["photo0", "photo2"]
    # The condition that failed is not in this comparison, so nothing is missing.
    without = select_stimuli(open_run(run.root), max_side=99, conditions=["warm", "gray"])
    assert without.left_out == {}


def test_another_shape_is_left_out(tmp_path) -> None:
    run = make_run(tmp_path, contents=2)
    bad = lambda f: (f["content_id"] == "photo0") & (f["condition"] == "warm")  # noqa: E731
    rewrite_outputs(run.root, lambda f: f.assign(width=f["width"].mask(bad(f), 60)))
    selection = select_stimuli(open_run(run.root), max_side=99)
    assert selection.left_out == {"photo0": "another aspect ratio in warm"}


def test_nothing_left_is_an_error_with_the_reasons(tmp_path) -> None:
    run = make_run(tmp_path, contents=1)
    (tmp_path / "photos" / "photo0.png").unlink()
    with pytest.raises(InputError, match="photo0: the photograph is not there"):
        select_stimuli(run, max_side=99)


@pytest.mark.parametrize("which", ["path", "reference_path", "reference_clean_path"])
def test_training_photographs_are_refused(tmp_path, which: str) -> None:
    """The aged photograph, its true colours and the clean original all give it away."""
    make_run(tmp_path / "a", contents=3)
    photo = tmp_path / "a" / "photos" / "photo2.png"
    colour = photo.with_name("colour.png")
    Image.new("RGB", (90, 60), "red").save(colour)
    seen = photo if which == "path" else colour
    sha256 = hashlib.sha256(seen.read_bytes()).hexdigest()
    run = make_run(tmp_path / "b", contents=3, trained_on=[sha256, "f" * 64])
    if which != "path":
        Image.new("RGB", (90, 60), "red").save(tmp_path / "b" / "photos" / "colour.png")
        manifest = run.manifest
        manifest[which] = [None, None, "colour.png"]
        write_parquet_atomic(run.root / "manifest.parquet", manifest)
        run = open_run(run.root)
    with pytest.raises(InputError, match=r"photo2 \(in warm\)") as caught:
        select_stimuli(run, max_side=99)
    assert "photo0" not in str(caught.value)
    # Without the guilty condition, or without the photograph, it is a fair comparison.
    select_stimuli(run, max_side=99, conditions=["cold", "gray"])
    select_stimuli(run, max_side=99, contents=["photo0", "photo1"])


@pytest.mark.parametrize("what", ["conditions", "contents"])
def test_unknown_names_are_told(tmp_path, what: str) -> None:
    run = make_run(tmp_path, contents=1)
    with pytest.raises(InputError, match="nobody"):
        select_stimuli(run, max_side=99, **{what: ["nobody"]})


@pytest.mark.parametrize("damage", ["changed", "unreadable", "gone"])
def test_a_damaged_image_stops_it_and_leaves_no_file(tmp_path, damage: str) -> None:
    run = make_run(tmp_path, contents=3)
    selection = select_stimuli(run, max_side=99)
    file = run.image("images/gray/photo2.png")
    if damage == "changed":
        Image.new("RGB", (90, 60)).save(file)
    elif damage == "gone":
        file.unlink()
    else:
        (tmp_path / "photos" / "photo2.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match="photo2"):
        render_stimuli(selection, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_who_stops_it_does_not_wait_for_the_rest(tmp_path, monkeypatch) -> None:
    selection = select_stimuli(make_run(tmp_path, contents=30), max_side=99)
    stopped, begun = threading.Event(), []

    def load(file: Path) -> np.ndarray:
        begun.append(file)
        if len(begun) > 1:
            stopped.wait()
        return load_rgb(file)

    def stop(*_: int) -> None:
        stopped.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(stimuli, "load_rgb", load)
    with pytest.raises(KeyboardInterrupt):
        render_stimuli(selection, tmp_path / "out", progress=stop)
    assert len(begun) < 60  # of 120
    assert not (tmp_path / "out").exists()


def test_images_of_other_studies_stay_when_one_fails(tmp_path) -> None:
    run = make_run(tmp_path, contents=3)
    first = render_stimuli(select_stimuli(run, max_side=99, contents=["photo0"]), tmp_path / "out")
    Image.new("RGB", (90, 60)).save(run.image("images/gray/photo2.png"))
    with pytest.raises(InputError):
        render_stimuli(select_stimuli(run, max_side=99), tmp_path / "out")
    assert set((tmp_path / "out").iterdir()) == set(first.created) - {tmp_path / "out"}


# Golds -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    from skimage import data

    names = (data.astronaut, data.chelsea, data.coffee)
    return [np.asarray(Image.fromarray(load()).resize((180, 120))) for load in names]


def colour_run(tmp_path: Path, photos: Sequence[np.ndarray], conditions: Sequence[str], n: int):
    """A run of photographs in true colours, paler from condition to condition, and gray."""
    run = make_run(tmp_path, contents=n, conditions=conditions, size=(180, 120))
    hashes = {}
    for index in range(n):
        lab = srgb_to_lab(photos[index % len(photos)])
        for k, condition in enumerate(conditions):
            strength = 0.0 if condition == "gray" else 1 - 0.1 * k
            file = run.image(f"images/{condition}/photo{index}.png")
            Image.fromarray(lab_to_srgb_in_gamut(lab * [1, strength, strength])).save(file)
            hashes[f"photo{index}", condition] = hashlib.sha256(file.read_bytes()).hexdigest()
    keys = lambda frame: zip(frame["content_id"], frame["condition"], strict=True)  # noqa: E731
    rewrite_outputs(run.root, lambda frame: frame.assign(sha256=[hashes[k] for k in keys(frame)]))
    return open_run(run.root)


@pytest.mark.parametrize("variant", VARIANTS)
def test_golds_change_the_colours_alone(photos, variant: str) -> None:
    for photo in photos:
        before, after = srgb_to_lab(photo), srgb_to_lab(spoil(photo, variant))
        assert np.abs(before[..., 0] - after[..., 0]).max() < 1.0  # the rounding to 8 bits
        assert after.shape == before.shape
        assert is_beyond_taste(photo, variant)


def test_memory_colours_move_where_they_never_are(photos) -> None:
    hue = lambda lab: np.rad2deg(np.arctan2(lab[..., 2], lab[..., 1])) % 360  # noqa: E731
    colours = np.array([[(224, 172, 140), (120, 170, 230), (90, 140, 60)]], dtype=np.uint8)
    skin, sky, foliage = hue(srgb_to_lab(spoil(colours, "hue")))[0]
    assert 270 < skin < 330  # violet
    assert 110 < sky < 170  # green
    assert foliage > 340 or foliage < 20  # pink
    strong = np.hypot(*np.moveaxis(srgb_to_lab(photos[0])[..., 1:], -1, 0)) > 15
    turn = (hue(srgb_to_lab(spoil(photos[0], "hue"))) - hue(srgb_to_lab(photos[0])))[strong] % 360
    assert np.median(turn) == pytest.approx(240, abs=2)


def test_chroma_is_displaced_by_several_percent() -> None:
    patch = np.full((60, 100, 3), 128, dtype=np.uint8)
    patch[20:30, 40:50] = (190, 110, 110)
    chroma = lambda rgb: np.hypot(*np.moveaxis(srgb_to_lab(rgb)[..., 1:], -1, 0)) > 10  # noqa: E731
    rows, columns = np.nonzero(chroma(spoil(patch, "shift")))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 33, 48, 57)


def test_weak_or_misplaced_colours_make_no_gold(photos) -> None:
    for photo in photos:
        pale = lab_to_srgb_in_gamut(srgb_to_lab(photo) * [1, 0.15, 0.15])
        assert not any(is_beyond_taste(pale, variant) for variant in VARIANTS)
        # Colours that nothing in the photograph asks for are not wronger anywhere else.
        lab = srgb_to_lab(photo)
        rng = np.random.default_rng(0)
        lab[..., 1:] = np.kron(rng.normal(0, 12, (6, 9, 2)), np.ones((20, 20, 1)))
        assert not is_beyond_taste(lab_to_srgb_in_gamut(lab), "shift")


def test_golds_are_rendered_like_all_the_others(tmp_path, photos) -> None:
    run = colour_run(tmp_path, photos, ["gray", "warm", "cold"], 6)
    rendered = render_stimuli(select_stimuli(run, max_side=99), tmp_path / "out", golds=6)
    golds = [row for row in rendered.rows if row["role"] == "gold"]
    assert len({row["content"] for row in golds}) == 6
    assert Counter(row["variant"] for row in golds) == {"hue": 3, "shift": 3}
    assert {row["condition"] for row in golds} == {"warm", "cold"}
    heads = {
        tuple((tag, body) for tag, body in chunks(data) if tag != b"IDAT")
        for row in rendered.rows
        for data in [(tmp_path / "out" / f"{row['sha256']}.png").read_bytes()]
    }
    assert len(heads) == 1
    test = next(
        row
        for row in rendered.rows
        if (row["content"], row["condition"], row["role"])
        == (golds[0]["content"], golds[0]["condition"], "test")
    )
    sound, spoilt = (
        np.asarray(Image.open(tmp_path / "out" / f"{row['sha256']}.png"))
        for row in (test, golds[0])
    )
    assert np.array_equal(spoil(sound, golds[0]["variant"]), spoilt)


def test_golds_come_from_true_colours_and_all_over(tmp_path, photos) -> None:
    run = colour_run(tmp_path, photos, ["warm", "reference"], 6)
    selection = select_stimuli(run, max_side=99)
    few = [r for r in render_stimuli(selection, tmp_path / "out", golds=2).rows
           if r["role"] == "gold"]  # fmt: skip
    assert [row["content"] for row in few] == ["photo0", "photo3"]
    many = [r for r in render_stimuli(selection, tmp_path / "out", golds=50).rows
            if r["role"] == "gold"]  # fmt: skip
    assert Counter(row["content"] for row in many) == {f"photo{k}": 2 for k in range(6)}
    assert {row["condition"] for row in many} == {"reference"}
    assert not any(r["role"] == "gold" for r in render_stimuli(selection, tmp_path / "out").rows)


def test_no_gold_of_grey_photographs(tmp_path) -> None:
    run = make_run(tmp_path, contents=2, conditions=["gray"])
    with pytest.raises(InputError, match="enough colour"):
        render_stimuli(select_stimuli(run, max_side=99), tmp_path / "out", golds=2)
    assert not (tmp_path / "out").exists()
