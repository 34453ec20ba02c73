"""Files as archives have them: each is colorized correctly, or is one error row with a reason."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms

from percept.errors import InputError
from percept.inference.run import open_run
from percept.inference.runner import infer
from percept.manifest import load_rgb, read_manifest, scan_folder

WIDTH, HEIGHT = 24, 16
GREY = np.linspace(20, 235, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8)
RGB = np.stack([GREY, GREY // 2 + 60, 255 - GREY], axis=-1)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    return saved(Image.fromarray(RGB).transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def alpha() -> bytes:
    opacity = np.full((HEIGHT, WIDTH), 255, np.uint8)
    opacity[:8] = 0
    return saved(Image.fromarray(np.dstack([RGB, opacity])), "PNG")


def animated() -> bytes:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def tagged() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return saved(Image.fromarray(RGB), "PNG", icc_profile=profile)


HALF_WHITE = RGB.copy()
HALF_WHITE[:8] = 255
grey3 = np.repeat(GREY[..., None], 3, axis=2)

# name: suffix, bytes, the picture that it is (None: it cannot be read) and how far off it may be
GOOD: dict[str, tuple[str, Callable[[], bytes], np.ndarray, float]] = {
    "cmyk": (".tif", lambda: saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"), RGB, 2),
    "16-bit": (
        ".png",
        lambda: saved(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
        grey3,
        0,
    ),
    "float": (
        ".tif",
        lambda: saved(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
        grey3,
        0,
    ),
    "palette": (".png", lambda: saved(Image.fromarray(GREY).convert("P"), "PNG"), grey3, 0),
    "alpha": (".png", alpha, HALF_WHITE, 0),
    "rotated": (".png", rotated, RGB, 0),
    "animated": (".gif", animated, grey3, 0),
    "tagged": (".png", tagged, RGB, 1),
    "one-pixel": (".png", lambda: saved(Image.fromarray(RGB[:1, :1]), "PNG"), RGB[:1, :1], 0),
    "tall": (
        ".png",
        lambda: saved(Image.fromarray(np.full((20000, 1), 90, np.uint8)), "PNG"),
        np.full((20000, 1, 3), 90, np.uint8),
        0,
    ),
    "flat": (
        ".png",
        lambda: saved(Image.fromarray(np.full((1, 20000), 90, np.uint8)), "PNG"),
        np.full((1, 20000, 3), 90, np.uint8),
        0,
    ),
    "a b 'c' \"d\"\n,é日本": (".png", lambda: saved(Image.fromarray(RGB), "PNG"), RGB, 0),
}
BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "truncated": (".png", lambda: saved(Image.fromarray(RGB), "PNG")[:-40], "cannot be"),
    "empty": (".jpg", lambda: b"", "not an image"),
    "text": (".jpg", lambda: b"Dear archive, the scan will follow.", "not an image"),
    "bomb": (".png", bomb, "more than 400 megapixels"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint):
    home = tmp_path_factory.mktemp("archive")
    rows = []
    for number, (name, (suffix, make, *rest)) in enumerate({**GOOD, **BAD}.items()):
        file = home / f"{name}{suffix}"
        file.write_bytes(make())
        height, width = rest[0].shape[:2] if name in GOOD else (HEIGHT, WIDTH)
        rows.append((f"c{number}", file.name, hashlib.sha256(file.read_bytes()).hexdigest(), width))
        rows[-1] = (*rows[-1], height)
    (home / "loop.png").symlink_to("loop.png")
    rows.append(("loop", "loop.png", "0" * 64, 5, 5))
    columns = ["content_id", "path", "sha256", "width", "height"]
    pd.DataFrame(rows, columns=columns).to_csv(home / "manifest.csv", index=False)
    out = home / "run"
    infer(home / "manifest.csv", [f"net={checkpoint}", "gray=gray"], out, tile=64, overlap=16)
    return open_run(out)


def result(run, name: str, condition: str) -> pd.Series:
    outputs = run.outputs[run.outputs["condition"] == condition].reset_index(drop=True)
    return outputs.iloc[[*GOOD, *BAD].index(name)]


@pytest.mark.parametrize("name", GOOD)
def test_odd_files_are_colorized_as_what_they_are(run, name):
    _, _, expected, tolerance = GOOD[name]
    path = run.resolve(run.manifest["path"].iloc[[*GOOD, *BAD].index(name)])
    photo = load_rgb(path)
    assert np.abs(photo.astype(int) - expected).max() <= tolerance
    for condition in ("net", "gray"):
        row = result(run, name, condition)
        assert row["status"] == "ok", row["error"]
        with Image.open(run.image(row["path"])) as image:
            assert image.size == (expected.shape[1], expected.shape[0])
            picture = np.asarray(image).astype(int)
        if condition == "gray" and (expected == expected[..., :1]).all():
            np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_one_row_with_a_reason(run, name):
    for condition in ("net", "gray"):
        row = result(run, name, condition)
        assert row["status"] == "error"
        assert BAD[name][2] in row["error"]
        assert "\n" not in row["error"]
        assert str(run.root.parent) not in row["error"]


def test_a_link_to_itself_is_one_row_with_a_reason(run):
    rows = run.outputs[run.outputs["content_id"] == "loop"]
    assert (rows["status"] == "error").all()
    assert rows["error"].str.contains("symbolic links").all()
    assert len(run.outputs) == 2 * (len(GOOD) + len(BAD) + 1)


def test_a_scan_lists_what_can_be_read_and_names_the_rest(run, tmp_path):
    home = run.root.parent
    (home / "circle").symlink_to(home)  # a folder inside itself
    scan = scan_folder(home)
    scan.manifest.write(tmp_path / "m.csv")
    listed = {Path(path).name for path in read_manifest(tmp_path / "m.csv").frame["path"]}
    assert {f"{name}{GOOD[name][0]}" for name in GOOD} <= listed
    assert not {f"{name}{BAD[name][0]}" for name in BAD} & listed
    with pytest.raises(InputError):
        load_rgb(home / "loop.png")
