from __future__ import annotations

import json

import pytest
import torch

from percept.errors import InputError, InputErrors
from percept.inference.colorizer import load_colorizer, parse_conditions
from percept.inference.networks import load_checkpoint
from percept.manifest import read_manifest

CPU = torch.device("cpu")


def load(spec, manifest, name="x"):
    return load_colorizer(name, str(spec), device=CPU, manifest=read_manifest(manifest))


def row(manifest, content_id):
    return next(r for r in read_manifest(manifest).rows() if r["content_id"] == content_id)


def test_conditions_are_name_and_spec():
    words = ["a=gray", "b.2=folder:x=y", "reference=reference"]
    assert parse_conditions(words) == [
        ("a", "gray"),
        ("b.2", "folder:x=y"),
        ("reference", "reference"),
    ]


def test_all_bad_conditions_are_told_at_once():
    words = ["ok=gray", "nospec", "=gray", "../up=gray", "OK=gray", "gray=ckpt", "x="]
    with pytest.raises(InputErrors) as caught:
        parse_conditions(words)
    assert [error.value for error in caught.value.errors] == [
        "nospec",
        "",
        "../up",
        "OK",
        "gray=ckpt",
        "x=",
    ]


def test_a_checkpoint_brings_its_facts(checkpoint, manifest):
    folder, file = load(checkpoint, manifest), load(checkpoint / "model.safetensors", manifest)
    for source in (folder, file):
        assert (source.max_side, source.divisor) == (32, 4)
        assert (source.condition.arm, source.condition.seed) == ("baseline", 0)
        assert source.condition.training_sha256 == ("ab" * 32,)
    assert folder.condition.sha256 == file.condition.sha256


def test_gray_has_no_chroma(manifest):
    source = load("gray", manifest)
    assert torch.equal(source.colorize(torch.rand(2, 1, 3, 4)), torch.zeros(2, 2, 3, 4))
    assert source.condition.sha256 is None


def test_reference_is_the_file_that_the_manifest_names(manifest):
    source = load("reference", manifest)
    assert source.find(row(manifest, "p1")).name == "true1.png"
    with pytest.raises(InputError, match="names no reference"):
        source.find({"reference_path": None})


def test_an_exported_program_computes_what_was_exported(checkpoint, manifest, tmp_path):
    network, _ = load_checkpoint(checkpoint)
    n, h, w = (torch.export.Dim.AUTO for _ in range(3))
    program = torch.export.export(
        network, (torch.rand(2, 1, 16, 24),), dynamic_shapes=({0: n, 2: h, 3: w},)
    )
    file = tmp_path / "net.pt2"
    config = {"input": {"max_side": 32, "divisor": 4}, "arm": "exported"}
    torch.export.save(program, file, extra_files={"config.json": json.dumps(config)})
    source = load(file, manifest)
    assert (source.max_side, source.divisor, source.condition.arm) == (32, 4, "exported")
    luminance = torch.rand(1, 1, 32, 12)
    with torch.inference_mode():
        torch.testing.assert_close(source.colorize(luminance), network(luminance))
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be loaded as an exported program"):
        load(file, manifest)


PLUGIN = """
import torch

class Sepia:
    max_side, divisor, training_sha256 = 8, 2, ["00" * 32]
    def __call__(self, luminance):
        return torch.stack([luminance[:, 0] * 5, luminance[:, 0] * 20], 1)

def sepia(device):
    return Sepia()

def tint(device, a, b=0, name=""):
    return lambda luminance: torch.stack([luminance[:, 0] * a, luminance[:, 0] * b], 1)

def broken(device):
    raise OSError("no weights")

number = lambda device: 3
plain = lambda device: lambda luminance: luminance.expand(-1, 2, -1, -1)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "a_percept_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugin")
def test_a_plugin_is_made_for_the_device_and_may_have_wishes(manifest):
    source = load("plugin:a_percept_plugin:sepia", manifest)
    assert (source.max_side, source.divisor) == (8, 2)
    assert source.condition.training_sha256 == ("00" * 32,)
    assert len(source.condition.sha256) == 64
    assert source.colorize(torch.ones(1, 1, 2, 2)).flatten().tolist() == [5] * 4 + [20] * 4
    plain = load("plugin:a_percept_plugin:plain", manifest)
    assert (plain.max_side, plain.divisor) == (None, 1)


@pytest.mark.usefixtures("plugin")
def test_a_plugin_is_given_its_settings(manifest):
    source = load("plugin:a_percept_plugin:tint?a=7&b=-2.5&name=a b", manifest)
    assert source.colorize(torch.ones(1, 1, 1, 2)).flatten().tolist() == [7, 7, -2.5, -2.5]
    other = load("plugin:a_percept_plugin:tint?a=8", manifest)
    assert source.condition.sha256 == other.condition.sha256
    assert source.identity != other.identity
    for words in ("a", "a=1&a=2", "device=1", "=1", ""):
        with pytest.raises(InputError, match="settings are"):
            load(f"plugin:a_percept_plugin:tint?{words}", manifest)
    with pytest.raises(InputError, match="unexpected keyword argument 'c'"):
        load("plugin:a_percept_plugin:tint?a=1&c=2", manifest)


def test_a_plugin_may_be_an_entry_point(manifest, tmp_path, monkeypatch):
    (tmp_path / "b_percept_plugin.py").write_text(PLUGIN)
    facts = tmp_path / "b_percept_plugin-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: b-percept-plugin\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[percept.colorizers]\nsepia = b_percept_plugin:sepia")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("plugin:sepia", manifest).max_side == 8
    with pytest.raises(InputError, match="Installed: sepia"):
        load("plugin:blue", manifest)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("a_percept_plugin:broken", "OSError: no weights"),
        ("a_percept_plugin:missing", "AttributeError"),
        ("nobody_has_this:make", "ModuleNotFoundError"),
        ("a_percept_plugin:number", "returned a int, which cannot be called"),
    ],
)
def test_a_bad_plugin_is_one_clear_error(target, problem, manifest):
    with pytest.raises(InputError, match=problem):
        load(f"plugin:{target}", manifest)


@pytest.mark.parametrize("spec", ["grey", "nowhere/at/all", "nothing.pt2", "folder", "http://x"])
def test_an_unknown_spec_lists_what_is_possible(spec, manifest):
    with pytest.raises(InputError, match=r"folder:DIR, plugin:NAME.*gray or reference"):
        load(spec, manifest)


def test_missing_files_are_named(manifest, tmp_path):
    with pytest.raises(InputError, match=r"nothing.safetensors: there is no checkpoint"):
        load("nothing.safetensors", manifest)
    with pytest.raises(InputError, match="the folder cannot be read"):
        load(f"folder:{tmp_path}/nothing", manifest)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file is named after a photograph"):
        load(f"folder:{tmp_path}/empty", manifest)


def test_results_are_matched_by_id_then_by_an_unmistakable_file_name(tmp_path):
    rows = ["a,x/a.png", "b,y/scan 1.png", "c,y/twice.png", "d,z/twice.png", "e,z/a.png"]
    manifest = tmp_path / "m.csv"
    lines = [f"{entry},{i:064x},4,4" for i, entry in enumerate(rows)]
    manifest.write_text("content_id,path,sha256,width,height\n" + "\n".join(lines) + "\n")
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("a.jpg", "scan 1.png", "twice.png", "d.png", "d.jpg", "z.png", ".e.png"):
        (folder / name).write_bytes(name.encode())
    source = load(f"folder:{folder}", manifest)
    assert source.find(row(manifest, "a")).name == "a.jpg"
    assert source.find(row(manifest, "b")).name == "scan 1.png"
    with pytest.raises(InputError, match="no file is named after this photograph"):
        source.find(row(manifest, "c"))  # twice.png could be d's
    with pytest.raises(InputError, match=r"several files .*: d.jpg, d.png"):
        source.find(row(manifest, "d"))
    with pytest.raises(InputError, match="no file"):
        source.find(row(manifest, "e"))  # its file's stem is another's id

    before = source.condition.sha256
    (folder / "a.jpg").write_bytes(b"longer than before")
    assert load(f"folder:{folder}", manifest).condition.sha256 != before
