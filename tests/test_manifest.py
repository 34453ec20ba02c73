from __future__ import annotations

import csv
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from percept import bundle
from percept.errors import InputError, InputErrors
from percept.files import atomic_file, sha256_file
from percept.manifest import (
    COLUMNS,
    MAX_ID_BYTES,
    MAX_PIXELS,
    Manifest,
    ManifestWarning,
    check_manifest,
    is_safe_id,
    load_mask,
    load_rgb,
    make_frame,
    read_manifest,
    sample_manifest,
    scan_folder,
)
from percept.types import MANIFEST_REQUIRED

HASH = "0" * 64


def picture(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    """A picture without symmetries: smooth, with a corner of its own colour."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // width, y * 255 // height, (x + y) * 2 % 256], -1).astype(np.uint8)
    rgb[: height // 3, : width // 4] = [200, 30 + seed, 30]
    return rgb


def save(file: Path, rgb: np.ndarray | None = None, **options: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture() if rgb is None else rgb).save(file, **options)
    return file


def table(file: Path, *rows: dict[str, object], header: tuple[str, ...] = COLUMNS) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, header, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return file


def row(content_id: str, **values: object) -> dict[str, object]:
    return {
        "content_id": content_id, "path": f"{content_id}.png", "sha256": HASH,
        "width": 30, "height": 20, **values,
    }  # fmt: skip


def photos(root: Path, n: int, **columns: list[object]) -> Manifest:
    """A manifest of n rows; no images behind it."""
    return Manifest(
        make_frame(
            row(f"p{i:03}", **{name: values[i] for name, values in columns.items()})
            for i in range(n)
        ),
        root,
    )


# --- reading and writing ---------------------------------------------------------------------


def test_reading_fills_in_every_column_and_type(tmp_path: Path) -> None:
    file = table(
        tmp_path / "m.csv",
        row("0001", era="", weight="2.5", split="study", inventory="007"),
        row("NA", era="1890s"),
        header=(*MANIFEST_REQUIRED, "era", "weight", "split", "inventory"),
    )
    manifest = read_manifest(file)
    frame = manifest.frame
    assert list(frame["content_id"]) == ["0001", "NA"]  # neither a number nor a missing value
    assert set(COLUMNS) < set(frame.columns)
    assert frame["era"].tolist() == [None, "1890s"]
    assert frame["mask_path"].tolist() == [None, None]
    assert frame["inventory"].tolist() == ["007", None]
    assert frame["width"].dtype == "Int64"
    assert frame["weight"].dtype == "Float64"
    assert frame["weight"].tolist() == [2.5, pd.NA]
    assert manifest.sha256 == sha256_file(file)
    assert manifest.root == tmp_path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_writing_and_reading_back_loses_nothing(tmp_path: Path, suffix: str) -> None:
    odd = 'a "b", ç/\n名 \\.png'
    manifest = photos(
        tmp_path / "photos",
        3,
        path=[odd, "package:skimage/data/coins.png", "/abs/x.png"],
        era=["1890s", None, 'ça, "là"\n'],
        weight=[1 / 3, None, 2.0],
        mask_path=[None, "../m/2.png", None],
        inventory=["007", None, "x"],
    )
    there = tmp_path / "tables" / f"m{suffix}"
    there.parent.mkdir()
    manifest.root.mkdir()
    back = manifest.write(there)
    assert back.frame["path"].tolist() == [
        f"../photos/{odd}", "package:skimage/data/coins.png", "/abs/x.png",
    ]  # fmt: skip
    assert back.frame["mask_path"].tolist() == [None, "../m/2.png", None]
    for column in ("content_id", "era", "weight", "inventory", "width", "license"):
        pd.testing.assert_series_equal(back.frame[column], manifest.frame[column])
    assert os.path.normpath(back.resolve(back.frame["path"][0])) == str(tmp_path / "photos" / odd)
    # and once more, from where it is now
    again = back.write(tmp_path / "photos" / f"m{suffix}")
    assert again.frame["path"].tolist() == manifest.frame["path"].tolist()


def test_paths_survive_a_symbolic_link_to_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "real" / "deep" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    written = scan_folder(tmp_path / "link").manifest.write(tmp_path / "m.csv")
    assert check_manifest(written) == []


def test_optional_columns_without_values_are_not_written(tmp_path: Path) -> None:
    photos(tmp_path, 2, era=["1890s", None]).write(tmp_path / "m.csv")
    header = (tmp_path / "m.csv").read_text().splitlines()[0]
    assert header == "content_id,path,sha256,width,height,era"


def test_byte_order_mark_and_spreadsheet_numbers_are_read(tmp_path: Path) -> None:
    file = table(tmp_path / "m.csv", row("a", width="30.0"))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_manifest(file).frame["width"].tolist() == [30]


def test_all_bad_cells_are_reported_at_once(tmp_path: Path) -> None:
    file = table(
        tmp_path / "m.csv",
        row("fine"),
        row("../escape", width="-3"),
        row("Fine", sha256="abc", height="tall"),
        row("x", path="", weight="nan"),
        row("y", width="9" * 19, height="9" * 5000),
    )
    with pytest.raises(InputErrors) as caught:
        read_manifest(file)
    found = [(error.row, error.column, error.value) for error in caught.value.errors]
    assert found == [
        (2, "width", "-3"), (2, "content_id", "../escape"),
        (3, "height", "tall"), (3, "content_id", "Fine"), (3, "sha256", "abc"),
        (4, "weight", "nan"), (4, "path", ""),
        (5, "width", "9" * 19), (5, "height", "9" * 5000),
    ]  # fmt: skip
    assert all(error.file == file for error in caught.value.errors)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks content_id"),
        (b"content_id,path,width,height\na,a.png,1,1\n", "lacks sha256"),
        (b"content_id,path,sha256,width,height,refrence_path\n", "Did you mean 'reference_path'"),
        (b"content_id,path,sha256,width,height,era,era\n", "twice"),
        (f"content_id,path,sha256,width,height\na,b,c.png,{HASH},1,1\n".encode(), "6 fields"),
        (b"content_id,path\n\xff\xfe,a\n", "not UTF-8"),
        (b'content_id,path,sha256,width,height\n"a,a.png\n', "not a CSV table"),
        (b"content_id,path,sha256,width,height\n", "no rows"),
    ],
)
def test_what_is_not_a_manifest_is_one_clear_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "m.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(file)
    assert caught.value.file == file


def test_a_missing_file_or_unknown_suffix_or_broken_parquet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    for name in ("absent.csv", "m.xlsx", "broken.parquet"):
        with pytest.raises(InputError, match=name):
            read_manifest(tmp_path / name)


@settings(max_examples=60)
@given(st.text(max_size=30))
def test_a_safe_id_names_a_file_in_its_own_folder(content_id: str) -> None:
    if is_safe_id(content_id):
        name = f"{content_id}.png"
        assert Path("folder", name).name == name
        assert not content_id.startswith((".", "-"))
        assert content_id.isprintable()
        assert len(content_id.encode()) <= MAX_ID_BYTES


@pytest.mark.parametrize(
    ("content_id", "safe"),
    [
        ("a", True), ("Foto_1890-a.b", True), ("大正三年", True), ("é", True),
        ("", False), (".", False), ("..", False), ("a/b", False), ("a b", False), ("a.", False),
        ("-rf", False), ("a\n", False), ("a\0", False), ("e\u0301", False), ("x" * 101, False),
        ("\ud800", False),
    ],
)  # fmt: skip
def test_which_ids_are_safe(content_id: str, safe: bool) -> None:
    assert is_safe_id(content_id) is safe


def test_package_paths(tmp_path: Path) -> None:
    manifest = Manifest(make_frame([]), tmp_path)
    assert manifest.resolve("package:skimage/data/coins.png").is_file()
    assert manifest.resolve("sub/a.png") == tmp_path / "sub" / "a.png"
    for bad in (
        "package:no_such_package/x.png", "package:skimage", "package:skimage/../../x.png",
        "package:/etc/passwd", "package:",
    ):  # fmt: skip
        with pytest.raises(InputError):
            manifest.resolve(bad)


def test_split(tmp_path: Path) -> None:
    manifest = photos(tmp_path, 3, split=["train", "study", "train"])
    assert manifest.split("train").frame["content_id"].tolist() == ["p000", "p002"]
    with pytest.raises(InputError, match="study, train"):
        manifest.split("test")


def test_atomic_file_leaves_the_old_one_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(TypeError), atomic_file(file) as stream:
        stream.writelines([b"half", "not bytes"])  # type: ignore[list-item]
    assert file.read_text() == "old"
    with atomic_file(file) as stream:
        stream.write(b"new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]
    with atomic_file(tmp_path / "new" / "folder" / "b.txt") as stream:
        stream.write(b"b")
    with pytest.raises(OSError) as caught, atomic_file(tmp_path / "new" / "folder"):  # noqa: PT011
        pass
    assert caught.value.filename == str(tmp_path / "new" / "folder")  # not the temporary name
    assert os.listdir(tmp_path / "new") == ["folder"]


# --- reading photographs ---------------------------------------------------------------------

TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_photographs_are_turned_upright(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"lossless": True} if name == "a.webp" else {}
    if name == "a.jpg":
        options = {"quality": 100, "subsampling": 0}
    file = save(tmp_path / name, exif=exif, **options)
    upright = TURNS[orientation](picture())
    loaded = load_rgb(file)
    assert loaded.shape == upright.shape
    tolerance = 6 if name == "a.jpg" else 0
    assert np.abs(loaded.astype(int) - upright).max() <= tolerance


def test_grey_photographs_are_turned_upright_too(tmp_path: Path) -> None:
    levels = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.tif"):
        file = save(tmp_path / name, levels, exif=exif)
        assert np.abs(load_rgb(file)[..., 0] - np.rot90(levels, -1) / 257).max() <= 0.5
    grey = picture()[..., 0]
    file = save(tmp_path / "grey.tif", grey, exif=exif)  # Pillow alone scrambles this one
    assert np.array_equal(load_rgb(file)[..., 0], np.rot90(grey, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_no_harm(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(load_rgb(file), picture())


YCBCR = pytest.param(
    "YCbCr",
    marks=pytest.mark.skipif(
        int(PIL.__version__.split(".")[0]) < 13, reason="older Pillow refuses such TIFFs"
    ),
)


@pytest.mark.parametrize("mode", ["1", "L", "P", "PA", "LA", "RGBA", "CMYK", YCBCR])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture()).convert("P" if mode == "PA" else mode)
    expected = np.asarray(image.convert("RGB")).astype(int)
    if mode == "PA":
        image = image.convert("PA")
    file = tmp_path / ("a.png" if mode in {"1", "L", "P", "LA", "RGBA"} else "a.tif")
    image.save(file)
    loaded = load_rgb(file)
    assert loaded.dtype == np.uint8
    assert loaded.shape == (20, 30, 3)
    assert np.abs(loaded.astype(int) - expected).max() <= 2


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.fromarray(picture()).convert("CMYK").save(file, quality=100)
    assert np.abs(load_rgb(file).astype(int) - picture()).max() < 8


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled(tmp_path: Path, name: str) -> None:
    levels = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    file = save(tmp_path / name, levels)
    assert np.abs(load_rgb(file)[..., 1] - levels / 257.0).max() <= 0.5


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_floating_point_is_scaled(tmp_path: Path, top: float) -> None:
    levels = np.linspace(-0.01 * top, 1.02 * top, 600, dtype=np.float32).reshape(20, 30)
    file = save(tmp_path / "a.tif", levels)
    expected = np.clip(levels / top, 0, 1) * 255
    assert np.abs(load_rgb(file)[..., 1] - expected).max() <= 0.51


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_floating_point_of_unknown_range_is_refused(tmp_path: Path, value: float) -> None:
    levels = np.zeros((4, 4), dtype=np.float32)
    levels[2, 2] = value
    with pytest.raises(InputError, match=r"finite|unknown range"):
        load_rgb(save(tmp_path / "a.tif", levels))


def test_integers_of_unknown_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="signed or 32-bit"):
        load_rgb(save(tmp_path / "a.tif", np.full((4, 4), 70000, dtype=np.int32)))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = [200, 100, 0, 255]
    rgba[0, 1] = [200, 100, 0, 0]
    rgba[1, 0] = [0, 0, 0, 128]
    loaded = load_rgb(save(tmp_path / "a.png", rgba))
    assert loaded[0, 0].tolist() == [200, 100, 0]
    assert loaded[0, 1].tolist() == [255, 255, 255]
    assert np.abs(loaded[1, 0].astype(int) - 127).max() <= 1
    # a palette with a transparent entry
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    assert load_rgb(tmp_path / "p.png").tolist() == [[[255, 255, 255], [200, 100, 0]]]


def swapped_profile() -> bytes:
    """An RGB profile called sRGB, whose red is sRGB's green and the other way round."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")


def test_colour_profiles_are_converted_to_srgb(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.jpg"):
        options = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
        file = save(tmp_path / name, icc_profile=swapped_profile(), **options)
        difference = np.abs(load_rgb(file).astype(int) - picture()[..., [1, 0, 2]])
        assert difference.mean() < 2
    rgba = np.dstack([picture(), np.full((20, 30), 255, np.uint8)])
    file = save(tmp_path / "alpha.png", rgba, icc_profile=swapped_profile())
    assert np.abs(load_rgb(file).astype(int) - picture()[..., [1, 0, 2]]).mean() < 2


def test_srgb_and_useless_profiles_change_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile at all", swapped_profile()[:200]):
        assert np.array_equal(load_rgb(save(tmp_path / "a.png", icc_profile=profile)), picture())


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 5, 3), level, np.uint8)) for level in (40, 200)]
    for name in ("a.gif", "a.tif", "a.webp", "a.png"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert (load_rgb(tmp_path / name) == 40).all()


def test_one_pixel(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", np.array([[[1, 2, 3]]], np.uint8))
    assert load_rgb(file).tolist() == [[[1, 2, 3]]]
    assert load_mask(file).shape == (1, 1)


def test_masks_are_boolean(tmp_path: Path) -> None:
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    assert load_mask(save(tmp_path / "m.png", levels)).tolist() == [[False, False, True, True]]
    assert load_mask(save(tmp_path / "n.png", levels > 0)).tolist() == [[False, True, True, True]]


def huge_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 60_000])
def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(huge_png(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(InputError, match="more than 400 megapixels"):
            load_rgb(file)


def test_a_scan_above_pillows_own_limit_is_decoded(tmp_path: Path) -> None:
    file = tmp_path / "scan.png"
    file.write_bytes(huge_png(19_000, 10_000))  # 190 megapixels; Pillow alone refuses 179
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="cannot be read"):  # its data are missing
            load_rgb(file)


def test_what_is_not_a_readable_photograph_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a photograph")
    (tmp_path / "empty.png").write_bytes(b"")
    save(tmp_path / "cut.jpg", quality=95)
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "eps.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("text.jpg", "empty.png", "cut.jpg", "pipe.png", "absent.png", "eps.eps", "."):
        with pytest.raises(InputError) as caught:
            load_rgb(tmp_path / name)
        assert caught.value.file == tmp_path / name


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["png", "jpeg", "tiff", "webp", "gif"]),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    keep=st.floats(0.1, 1),
)
def test_damaged_files_give_a_picture_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    flips: list[tuple[int, int]],
    keep: float,
) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, kind)
    data = bytearray(stream.getvalue()[: max(1, int(keep * stream.tell()))])
    for position, value in flips:
        data[position % len(data)] = value
    file = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = load_rgb(file)
        except InputError:
            return
    assert loaded.ndim == 3
    assert loaded.dtype == np.uint8


# --- scanning --------------------------------------------------------------------------------


def test_scan_takes_every_photograph_and_tells_what_it_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(folder / "b.png", picture(seed=1))
    save(folder / "a" / "b.jpg")
    save(folder / "a" / "B.png", picture(8, 9))
    save(folder / "no suffix.png", picture(5, 6)).rename(folder / "no suffix")
    save(folder / 'it\'s "ä"\n 大正.tif', picture(6, 5))
    save(folder / "copy.png", picture(seed=1))
    (folder / "broken.jpeg").write_bytes(b"\xff\xd8\xff")
    (folder / "raw.CR2").write_bytes(b"raw")
    (folder / "notes.txt").write_text("notes")
    save(folder / ".hidden.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    save(tmp_path / "elsewhere" / "linked.png", picture(7, 7))
    (folder / "z").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "pipe.png")

    scan = scan_folder(folder)
    frame = scan.manifest.frame
    assert frame[["content_id", "path"]].to_numpy().tolist() == [
        ["B", "a/B.png"],
        ["b-2", "a/b.jpg"],
        ["b-3", "b.png"],
        ["it_s_ä_大正", 'it\'s "ä"\n 大正.tif'],
        ["no_suffix", "no suffix"],
        ["linked", "z/linked.png"],
    ]
    left_out = {Path(str(error.file)).name: error.message for error in scan.left_out}
    assert set(left_out) == {"broken.jpeg", "raw.CR2", "copy.png", "dangling.png", "pipe.png"}
    assert left_out["copy.png"] == "the same bytes as 'b.png'"
    assert scan.ignored == 2  # notes.txt and .hidden.png
    written = scan.manifest.write(tmp_path / "m.csv")
    assert check_manifest(written) == []


def test_scan_finds_the_true_colours_by_name(tmp_path: Path) -> None:
    for name in ("grey/a/one.png", "grey/two.png", "true/a/one.jpg", "true/other.jpg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (len(name) * 9, 40, 90)).save(file)
    scan = scan_folder(tmp_path / "grey", references=tmp_path / "true")
    written = scan.manifest.write(tmp_path / "m.csv")
    found = {row["content_id"]: row["reference_path"] for row in written.rows()}
    assert found == {"one": "true/a/one.jpg", "two": None}
    assert check_manifest(written) == []
    with pytest.raises(InputError, match="no file is named like a photograph"):
        scan_folder(tmp_path / "grey" / "a", references=tmp_path / "true")
    (tmp_path / "true/a/one.png").write_bytes((tmp_path / "true/a/one.jpg").read_bytes())
    with pytest.raises(InputError, match="several files could be the true colours"):
        scan_folder(tmp_path / "grey", references=tmp_path / "true")
    with pytest.raises(InputError, match="not a directory"):
        scan_folder(tmp_path / "grey", references=tmp_path / "absent")


def test_scan_is_stable(tmp_path: Path) -> None:
    for number, name in enumerate(("x/a.png", "y/a.png", "a.png", "A.JPG")):
        save(tmp_path / name, picture(10 + number, 10))
    first, second = (scan_folder(tmp_path).manifest.frame for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_scan_reports_a_name_that_is_not_text(tmp_path: Path) -> None:
    save(tmp_path / "good.png")
    bad = os.fsencode(tmp_path) + b"/bad\xff.png"
    try:
        Path(os.fsdecode(bad)).write_bytes((tmp_path / "good.png").read_bytes() + b" ")
    except OSError:
        pytest.skip("this file system takes text names only")
    scan = scan_folder(tmp_path)
    assert [error.message for error in scan.left_out] == ["its name is not valid UTF-8"]


def test_scan_without_a_photograph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        scan_folder(tmp_path / "absent")
    with pytest.raises(InputError, match="no photograph"):
        scan_folder(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"x")
    with pytest.raises(InputErrors, match=r"no photograph[\s\S]*broken\.jpg"):
        scan_folder(tmp_path)


@settings(deadline=None, max_examples=60)
@given(stems=st.lists(st.text(min_size=1, max_size=120), min_size=1, max_size=8))
def test_ids_made_from_any_names_are_safe_and_distinct(stems: list[str]) -> None:
    from percept.manifest import _make_id

    taken: set[str] = set()
    made = [_make_id(stem, taken) for stem in stems]
    assert all(is_safe_id(content_id) for content_id in made)
    assert len({content_id.casefold() for content_id in made}) == len(stems)


# --- checking --------------------------------------------------------------------------------


def test_check_reports_all_bad_rows_at_once(tmp_path: Path) -> None:
    for number, name in enumerate("abcdef"):
        save(tmp_path / f"{name}.png", picture(20, 30, seed=number))
    manifest = scan_folder(tmp_path).manifest
    save(tmp_path / "small.png", picture(10, 10))
    (tmp_path / "b.png").write_bytes(b"gone bad")
    save(tmp_path / "c.png", picture(20, 30, seed=99))
    frame = manifest.frame
    frame.loc[3, "width"] = 31
    frame.loc[3, "mask_path"] = "small.png"
    frame.loc[4, "reference_path"] = "absent.png"
    frame.loc[4, "reference_clean_path"] = "small.png"  # may have another size
    frame.loc[5, ["path", "sha256"]] = frame.loc[0, ["path", "sha256"]].to_numpy()
    manifest = manifest.write(tmp_path / "m.csv")
    done: list[tuple[int, int]] = []
    errors = check_manifest(manifest, progress=lambda *counts: done.append(counts))
    assert [(error.row, error.column) for error in errors] == [
        (2, "path"), (3, "sha256"), (4, "width"), (4, "mask_path"), (5, "reference_path"),
        (6, "sha256"),
    ]  # fmt: skip
    assert all(error.file == tmp_path / "m.csv" and error.value for error in errors)
    assert done == [(number, 6) for number in range(1, 7)]


def test_package_images_and_unknown_degradations_only_warn(tmp_path: Path) -> None:
    path = "package:skimage/data/coins.png"
    manifest = Manifest(
        make_frame([row("coins", path=path, width=384, height=303, degradation="grain;tears")]),
        tmp_path,
    )
    with pytest.warns(ManifestWarning) as caught:
        assert check_manifest(manifest) == []
    assert sorted(str(warning.message).split(":")[0] for warning in caught) == [
        "row 1, column 'degradation'", "row 1, column 'sha256'",
    ]  # fmt: skip


# --- sampling --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_sampling_weights_stand_for_every_photograph(data: st.DataObject) -> None:
    eras = data.draw(
        st.lists(st.sampled_from(["1860s", "1890s", None, "1930s"]), min_size=1, max_size=40)
    )
    n = data.draw(st.integers(1, len(eras)))
    seed = data.draw(st.integers(0, 9))
    manifest = photos(Path(), len(eras), era=eras)
    sample = sample_manifest(manifest, n, ["era"], rng=np.random.default_rng(seed))
    frame = sample.frame
    assert len(frame) == n
    assert frame["content_id"].is_unique
    assert frame["weight"].sum() == pytest.approx(len(eras))
    n_strata = len(set(eras))
    if n >= n_strata:
        assert frame["stratum"].nunique() == n_strata
        for stratum, drawn in frame.groupby("stratum"):
            size = sum(f"era={era or '?'}" == stratum for era in eras)
            assert (drawn["weight"] == size / len(drawn)).all()
            assert len(drawn) <= size
    # the order of the rows does not matter
    mixed = manifest.frame.sample(frac=1, random_state=seed).reset_index(drop=True)
    again = sample_manifest(Manifest(mixed, Path()), n, ["era"], rng=np.random.default_rng(seed))
    assert set(again.frame["content_id"]) == set(frame["content_id"])


def test_sampling_is_proportional_with_one_at_least(tmp_path: Path) -> None:
    for sizes, shares in (((60, 37, 3), (6, 3, 1)), ((68, 16, 16), (6, 2, 2))):
        eras = np.repeat(["a", "b", "c"], sizes).tolist()
        manifest = photos(tmp_path, 100, era=eras)
        sample = sample_manifest(manifest, 10, ["era"], rng=np.random.default_rng(0))
        drawn = sample.frame["stratum"].value_counts()
        assert tuple(drawn[f"era={era}"] for era in "abc") == shares
    assert sample.frame["content_id"].is_monotonic_increasing  # in the manifest's order


def test_every_photograph_is_drawn_as_often_as_its_weight_says(tmp_path: Path) -> None:
    manifest = photos(tmp_path, 12, era=["a"] * 8 + ["b"] * 3 + ["c"])
    rng = np.random.default_rng(0)
    draws = 500
    total = pd.Series(0.0, index=manifest.frame["content_id"])
    for _ in range(draws):
        drawn = sample_manifest(manifest, 2, ["era"], rng=rng).frame  # two draws, three strata
        total[drawn["content_id"]] += drawn["weight"].to_numpy(dtype=float)
    # Horvitz–Thompson: each photograph counts once on average; standard error 0.12 at most
    assert (total / draws - 1).abs().max() < 0.4


def test_a_sample_of_a_sample_multiplies_weights(tmp_path: Path) -> None:
    manifest = photos(tmp_path, 40, weight=[3.0] * 40)
    sample = sample_manifest(manifest, 10, [], rng=np.random.default_rng(0))
    assert sample.frame["weight"].tolist() == [12.0] * 10
    assert set(sample.frame["stratum"]) == {"all"}


@pytest.mark.parametrize("n", [0, -1, 4])
def test_too_few_or_too_many_are_refused(tmp_path: Path, n: int) -> None:
    with pytest.raises(InputError, match="from 1 to 3"):
        sample_manifest(photos(tmp_path, 3), n, rng=np.random.default_rng(0))


def test_an_unknown_stratum_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="centurys"):
        sample_manifest(photos(tmp_path, 3), 2, ["centurys"], rng=np.random.default_rng(0))


# --- the demo manifest -----------------------------------------------------------------------


def test_the_demo_manifest_is_right_and_needs_no_download() -> None:
    manifest = read_manifest(bundle.root() / "data_manifests" / "demo.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ManifestWarning)  # a newer package, another file
        assert check_manifest(manifest) == []
    frame = manifest.frame
    assert frame["path"].str.startswith("package:").all()
    assert frame[["license", "source", "split"]].notna().all().all()
    assert (frame["split"] == "study").sum() >= 6
    assert (frame["split"] == "train").sum() >= 4
