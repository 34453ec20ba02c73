from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from inference_samples import SIZES, contents, sha256, write_checkpoint, write_manifest
from PIL import Image

from percept import bundle, files
from percept.distributed import launch
from percept.errors import InputError, Interrupted
from percept.inference import color, directory, runner
from percept.inference.run import open_run
from percept.inference.runner import infer
from percept.manifest import load_rgb

BROKEN = ["p1", "p4", "p5", "p6"]


def break_photographs(folder: Path) -> None:
    """Damage a manifest's photographs: p1 changes, p4 is no image, p5 is gone, p6 has no truth."""
    with Image.open(folder / "p1.png") as image:
        image.rotate(180).save(folder / "p1.png")
    table = pd.read_csv(folder / "manifest.csv")
    (folder / "p4.png").write_bytes((folder / "p4.png").read_bytes()[:60])
    table.loc[table["content_id"] == "p4", "sha256"] = sha256(folder / "p4.png")
    (folder / "p5.png").unlink()
    table.loc[table["content_id"] == "p6", "reference_path"] = None
    table.to_csv(folder / "manifest.csv", index=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, checkpoint):
    """A run in one process, of photographs of which some are broken: its arguments, and itself."""
    home = tmp_path_factory.mktemp("undisturbed")
    manifest = write_manifest(home / "photos", SIZES)
    break_photographs(manifest.parent)
    results = home / "results"
    results.mkdir()
    for i in range(6):  # none for p6; p2's has another size
        shutil.copy(manifest.parent / f"true{i}.png", results / f"p{i}.png")
    shutil.copy(manifest.parent / "true1.png", results / "p2.png")
    conditions = [f"net={checkpoint}", "gray=gray", "reference=reference", f"made=folder:{results}"]
    out = home / "run"
    infer(manifest, conditions, out, batch_megapixels=0.003)
    words = [str(manifest), "--condition", *conditions, "--batch-megapixels", "0.003"]
    return words, out


# -- what comes out -----------------------------------------------------------------------------


def test_every_photograph_has_a_row_under_every_condition(undisturbed):
    run = open_run(undisturbed[1])
    rows = list(run.outputs[["content_id", "condition"]].itertuples(index=False, name=None))
    names = ["net", "gray", "reference", "made"]
    assert rows == [(f"p{i}", name) for i in range(len(SIZES)) for name in names]
    assert str(run.outputs["width"].dtype) == "Int64"
    for row in run.outputs.itertuples():
        if row.status == "ok":
            file = run.image(row.path)
            assert sha256(file) == row.sha256
            with Image.open(file) as image:
                assert (image.size, image.mode) == ((row.width, row.height), "RGB")
                assert image.size == SIZES[int(row.content_id[1:])]
                assert image.info == {}
        else:
            assert row.error
            assert pd.isna([row.path, row.sha256, row.width, row.height]).all()
    images = sorted(str(p.relative_to(run.root)) for p in run.root.glob("images/*/*"))
    assert images == sorted(run.outputs["path"].dropna())


def test_broken_items_say_why_and_cost_nothing_else(undisturbed):
    outputs = open_run(undisturbed[1]).outputs
    errors = outputs[outputs["status"] == "error"].set_index(["content_id", "condition"])["error"]
    expected = {
        (content, name)
        for content in ("p1", "p4", "p5")
        for name in ("net", "gray", "reference", "made")
    }
    assert set(errors.index) == expected | {("p6", "reference"), ("p6", "made"), ("p2", "made")}
    assert "SHA-256" in errors["p1", "net"]
    assert "p4.png: " in errors["p4", "gray"]
    assert errors["p5", "net"] == "p5.png: No such file or directory"
    assert "names no reference" in errors["p6", "reference"]
    assert "no file is named after" in errors["p6", "made"]
    assert errors["p2", "made"] == "p2.png: it is 64×48, the photograph is 40×30"


def test_run_json_says_what_made_it(undisturbed, checkpoint):
    run = open_run(undisturbed[1])
    info = run.info
    assert info["state"] == "complete"
    assert info["items"] == {"total": 28, "ok": 13, "failed": 15}
    assert info["settings"] == {
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "batch_megapixels": 0.003,
        "tile": None,
        "overlap": None,
        "compile": False,
        "format": "png",
        "png_level": 1,
    }
    assert info["manifest"]["sha256"] == sha256(run.root.parent / "photos" / "manifest.csv")
    assert info["conditions"]["net"] == sha256(checkpoint / "model.safetensors")
    assert run.conditions[0].training_sha256 == ("ab" * 32,)
    assert info["seeds"]["net"] == 0
    assert {"percept", "torch", "python"} <= set(info["versions"])
    assert [session["items"] for session in info["sessions"]] == [28]
    assert set(info["stage_seconds"]) == {"decode", "compute", "encode", "write"}
    assert (run.timings["rank"] == 0).all()
    assert (run.timings.loc[run.outputs["status"] == "ok", "encode_seconds"] > 0).all()


def test_the_photographs_luminance_is_kept(undisturbed):
    run = open_run(undisturbed[1])
    for content_id in ("p0", "p2", "p3", "p6"):
        photo = load_rgb(run.resolve(f"{content_id}.png"))
        before = color.luminance(photo)
        for condition in ("net", "gray"):
            image = load_rgb(run.root / "images" / condition / f"{content_id}.png")
            assert (color.luminance(image) - before).abs().max() < 1.0
            assert (image == image[..., :1]).all() == (condition == "gray")
    made = load_rgb(run.root / "images" / "made" / "p0.png")
    np.testing.assert_array_equal(made, load_rgb(run.resolve("true0.png")))


# -- any number of processes --------------------------------------------------------------------


def test_two_processes_give_the_same_bytes(undisturbed, percept, tmp_path):
    words, out = undisturbed
    code, _, err = percept("infer", *words, "--out", tmp_path / "run", "--nproc", 2)
    assert code == 1
    assert "15 of 28 items failed" in err
    assert contents(tmp_path / "run") == contents(out)
    assert open_run(tmp_path / "run").info["world"] == 2
    assert "--nproc" not in open_run(tmp_path / "run").info["command"]


def test_three_processes_under_torchrun_give_the_same_bytes(undisturbed, tmp_path):
    words, out = undisturbed
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command = [sys.executable, *start, "-m", "percept", "infer", *words, "--allow-failures"]
    subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        check=True,
        env=bundle.child_environment({"OMP_NUM_THREADS": "1"}),
        capture_output=True,
    )
    assert contents(tmp_path / "run") == contents(out)
    assert open_run(tmp_path / "run").info["world"] == 3


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def slurm_task(rank: int, world: int, port: str, *words: str) -> subprocess.Popen[str]:
    """Start a task as srun does, which watches over nobody."""
    step = {
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_STEP_NUM_TASKS": str(world),
        "SLURM_STEP_NODELIST": "localhost",
        "MASTER_PORT": port,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "percept", "infer", *words],
        env=bundle.child_environment(step),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_more_processes_than_items_under_slurm_give_the_same_bytes(tmp_path, checkpoint):
    manifest = write_manifest(tmp_path / "photos", SIZES[:1])
    words = [str(manifest), "--condition", f"net={checkpoint}", "gray=gray"]
    infer(manifest, words[2:], tmp_path / "alone")
    port = str(free_port())
    workers = [slurm_task(i, 3, port, *words, "--out", str(tmp_path / "run")) for i in range(3)]
    output = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], output
    assert "2 of 2 images" in output[0]
    assert output[1:] == ["", ""]
    assert contents(tmp_path / "run") == contents(tmp_path / "alone")


LEAVING = """
import os

def make(device):
    def colorize(luminance):
        if os.environ["SLURM_PROCID"] == "1":
            os.kill(os.getpid(), 9)
        return 20 * luminance.expand(-1, 2, -1, -1)
    return colorize
"""


def test_a_worker_that_nobody_watches_over_is_missed_at_the_end(tmp_path, monkeypatch):
    manifest = write_manifest(tmp_path / "photos", SIZES[:4])
    (tmp_path / "leaving_percept_plugin.py").write_text(LEAVING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = [str(manifest), "--condition", "x=plugin:leaving_percept_plugin:make"]
    port = str(free_port())
    workers = [slurm_task(rank, 2, port, *words, "--out", str(tmp_path / "run")) for rank in (0, 1)]
    output = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [3, -9], output
    assert "worker 0 lost another worker; the same command resumes" in output[0]


# -- stopped and started again ------------------------------------------------------------------

SLOW = """
import os, time
from pathlib import Path

here = Path(__file__).parent

def make(device):
    def colorize(luminance):
        with open(here / "calls.log", "a") as log:
            log.write(f"{luminance.sum():.6f}\\n")
        if (here / "block").exists() and len((here / "calls.log").read_text().split()) >= 5:
            name = here / f"{os.getpid()}.tmp"
            name.write_text(str(os.getpid()))
            name.rename(here / f"{os.getpid()}.blocked")
            time.sleep(600)
        return 20 * luminance.expand(-1, 2, -1, -1)
    return colorize
"""


def test_a_killed_worker_costs_only_what_was_in_flight(tmp_path, monkeypatch):
    manifest = write_manifest(tmp_path / "photos", [(20 + i, 16) for i in range(9)])
    (tmp_path / "slow_percept_plugin.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    conditions, out = ["slow=plugin:slow_percept_plugin:make"], tmp_path / "run"
    infer(manifest, conditions, tmp_path / "undisturbed")
    log = tmp_path / "calls.log"
    assert len(log.read_text().split()) == 9
    log.unlink()

    (tmp_path / "block").touch()
    command = [sys.executable, "-m", "percept", "infer", str(manifest), "--condition"]
    world = subprocess.Popen(
        [*command, *conditions, "--out", str(out), "--nproc", "2"],
        env=bundle.child_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (blocked := list(tmp_path.glob("*.blocked"))):
        assert time.monotonic() < deadline
        assert world.poll() is None
        time.sleep(0.02)
    os.kill(int(blocked[0].stem), signal.SIGKILL)
    _, err = world.communicate(timeout=60)
    assert world.returncode == 3
    assert "was killed (SIGKILL); the same command resumes" in err

    done = [line for f in out.glob("journal/*.jsonl") for line in f.read_text().splitlines()]
    computed = len(log.read_text().split())
    assert len(done) < 9
    assert computed - len(done) <= 2 * 4  # on either worker one computed, two written, one waiting
    (tmp_path / "block").unlink()
    summary = infer(manifest, conditions, out)  # in a world of another size
    assert (summary.items, summary.reused) == (9, len(done))
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert len(log.read_text().split()) - computed == 9 - len(done)
    assert [session["world"] for session in open_run(out).info["sessions"]] == [1]


def test_only_what_is_missing_or_torn_is_done_again(undisturbed, tmp_path):
    words, before = undisturbed
    out = tmp_path / "photos" / ".." / "run"
    shutil.copytree(before.parent / "photos", tmp_path / "photos")
    shutil.copytree(before, out)
    conditions = words[2:6]
    (out / "images" / "net" / "p0.png").unlink()
    image = out / "images" / "gray" / "p2.png"
    image.write_bytes(image.read_bytes()[:-9])
    (out / "images" / "gray" / ".p3.png.77.tmp").write_bytes(b"left over")
    journal = out / "journal" / "rank-0000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"p3"' not in line or b'"made"' not in line]
    assert len(kept) == len(lines) - 1
    journal.write_bytes(b"".join(kept) + b'{"content_id": "p3", "cond')
    other = out / "journal" / "rank-0009.jsonl"
    other.write_bytes(b'{"content_id": "p0"')

    summary = infer(tmp_path / "photos/manifest.csv", conditions, out, batch_megapixels=0.003)
    assert summary.reused == 13 - 3
    assert contents(out) == contents(before)
    assert all(json.loads(line) for line in journal.read_bytes().splitlines())


def test_mended_photographs_are_done_by_the_same_command(manifest, percept, tmp_path):
    words = ["infer", manifest, "--condition", "gray=gray", "--out", tmp_path / "run"]
    photo = manifest.parent / "p1.png"
    good = photo.read_bytes()
    photo.write_bytes(b"")
    assert percept(*words)[0] == 1
    photo.write_bytes(good)
    code, out, _ = percept(*words)
    assert code == 0
    assert "4 of 4 images, 3 of them from an earlier start" in out
    assert open_run(tmp_path / "run").outputs["error"].isna().all()


def test_a_full_disk_stops_the_run_and_the_same_call_resumes(undisturbed, tmp_path, monkeypatch):
    words, before = undisturbed
    conditions, out = words[2:6], tmp_path / "run"
    synced, real = [], os.fsync

    def fsync(file: int) -> None:
        synced.append(file)
        if len(synced) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Interrupted, match="No space left"):
        infer(words[0], conditions, out, batch_megapixels=0.003)
    assert not (out / "outputs.parquet").exists()
    assert not list(out.rglob("*.tmp"))
    with pytest.raises(InputError, match="not finished"):
        open_run(out)
    summary = infer(words[0], conditions, out, batch_megapixels=0.003)
    assert 0 < summary.reused < 13
    assert contents(out) == contents(before)


# -- what is refused, before anything is written ------------------------------------------------


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--condition", "a=nonsense"], "no such kind of condition"),
        (["--condition", "gray=gray", "a=folder:nowhere"], "folder cannot be read"),
        (["--condition", "a=plugin:nobody_has_this:make"], "ModuleNotFoundError"),
        (["--condition", "gray"], "a condition is NAME=SPEC"),
        (["--condition", "gray=gray", "--split", "night"], "no photograph belongs to this split"),
        (["--condition", "gray=gray", "--threads", "0"], "at least one thread"),
        (["--condition", "gray=gray", "--batch-megapixels", "-1"], "must be 0 or more"),
        (["--condition", "gray=gray", "--device", "warp"], "unknown device"),
        (["--condition", "gray=gray", "--shard", "tiles"], "Give --tile."),
        (["--condition", "gray=gray", "--nproc", "0"], "at least 1"),
    ],
)
def test_bad_settings_are_one_message_and_leave_nothing(
    words, problem, manifest, percept, tmp_path
):
    code, _, err = percept("infer", manifest, *words, "--out", tmp_path / "run")
    assert code == 2
    assert problem in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_bad_manifest_is_refused(manifest, percept, tmp_path):
    table = pd.read_csv(manifest)
    table.drop(columns="sha256").to_csv(manifest, index=False)
    code, _, err = percept("infer", manifest, "--condition", "g=gray", "--out", tmp_path / "run")
    assert code == 2
    assert "sha256" in err
    assert not (tmp_path / "run").exists()


def test_every_worker_of_a_world_refuses_but_one_speaks(manifest, percept, tmp_path):
    words = ["--condition", "a=nonsense", "--out", tmp_path / "run", "--nproc", 2]
    code, _, err = percept("infer", manifest, *words)
    assert code == 2
    assert err.count("no such kind of condition") == 1
    assert not (tmp_path / "run").exists()


AT_ODDS = """
import sys
from percept import distributed
from percept.errors import InputError
from percept.inference.runner import infer
try:
    infer(sys.argv[1], ["g=gray"], sys.argv[2], threads=1 + distributed.rank())
except InputError as error:
    sys.exit(5 if "do not see the same" in str(error) else 6)
except SystemExit:
    pass
"""


def test_workers_that_are_at_odds_do_not_start(manifest, tmp_path):
    (tmp_path / "at_odds.py").write_text(AT_ODDS)
    with pytest.raises(Interrupted, match="worker 0 stopped with exit code 5"):
        launch([str(tmp_path / "at_odds.py"), str(manifest), str(tmp_path / "run")], 2)
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_no_run_is_left_alone(manifest, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and no run"):
        infer(manifest, ["g=gray"], tmp_path, fresh=True)
    with pytest.raises(InputError, match="is not a directory"):
        infer(manifest, ["g=gray"], tmp_path / "notes.txt")
    with pytest.raises(InputError, match="cannot be written"):
        infer(manifest, ["g=gray"], tmp_path / "notes.txt" / "run")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    training = tmp_path / "training"
    training.mkdir()
    (training / "run.json").write_text('{"format": 1, "settings": {}}')
    for fresh in (False, True):
        with pytest.raises(InputError, match=r"not the run\.json of an inference run"):
            infer(manifest, ["g=gray"], training, fresh=fresh)
    assert [path.name for path in training.iterdir()] == ["run.json"]


def test_what_changed_since_the_start_is_named(manifest, tmp_path):
    out = tmp_path / "run"
    mine = write_checkpoint(tmp_path / "mine", weights=1)
    conditions = [f"net={mine}", "gray=gray"]
    infer(manifest, conditions, out)
    before = contents(out)

    with pytest.raises(InputError, match=r"--precision was fp32, is bf16.*--fresh"):
        infer(manifest, conditions, out, precision="bf16")
    with pytest.raises(InputError, match="--threads was 1, is 2; --split was None, is study"):
        infer(manifest, conditions, out, threads=2, split="study")
    with pytest.raises(InputError, match="condition 'gray' was gray, is absent"):
        infer(manifest, conditions[:1], out)
    write_checkpoint(mine, weights=2)
    with pytest.raises(InputError, match="condition 'net' was"):
        infer(manifest, conditions, out)
    write_checkpoint(mine, weights=1)
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(InputError, match="the manifest's sha256 was"):
        infer(manifest, conditions, out)
    assert contents(out) == before

    write_checkpoint(mine, weights=2)
    summary = infer(manifest, conditions, out, fresh=True)
    assert summary.reused == 0
    after = contents(out)
    assert after.keys() == before.keys()
    assert after["images/net/p0.png"] != before["images/net/p0.png"]
    assert after["images/gray/p0.png"] == before["images/gray/p0.png"]


def test_two_at_once_on_one_run_are_refused(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.2)
    out = tmp_path / "run"
    infer(manifest, ["g=gray"], out)
    with open(out / ".lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another percept infer"):
            infer(manifest, ["g=gray"], out)
    infer(manifest, ["g=gray"], out)


def test_a_run_that_appears_while_it_waits_is_looked_at(manifest, tmp_path, monkeypatch):
    out, other = tmp_path / "run", tmp_path / "other"
    infer(manifest, ["x=gray"], other)

    def locked(folder, command):
        shutil.copytree(other, folder, dirs_exist_ok=True)  # another command ends meanwhile
        return files.lock_folder(folder, command)

    monkeypatch.setattr(directory, "lock_folder", locked)
    with pytest.raises(InputError, match="made differently"):
        infer(manifest, ["x=reference"], out)
    assert contents(out) == contents(other)


# -- the rest of the command --------------------------------------------------------------------


def test_failures_decide_the_exit_code_unless_allowed(manifest, percept, tmp_path):
    (manifest.parent / "p2.png").write_bytes(b"no image")
    words = ["infer", manifest, "--condition", "gray=gray", "--out", tmp_path / "run", "--json"]
    code, out, err = percept(*words)
    assert code == 1
    assert "1 of 4 items failed:\n  p2 · gray: p2.png: its SHA-256" in err
    report = json.loads(out)
    assert (report["items"], report["ok"], report["world"]) == (4, 3, 1)
    assert [failure["content_id"] for failure in report["failed"]] == ["p2"]
    code, _, err = percept(*words, "--allow-failures")
    assert code == 0
    assert "p2 · gray" in err


def test_a_split_is_a_manifest_of_its_own(manifest, tmp_path):
    infer(manifest, ["gray=gray"], tmp_path / "run", split="study")
    run = open_run(tmp_path / "run")
    assert run.manifest["content_id"].tolist() == ["p0", "p2"]
    assert run.outputs["content_id"].tolist() == ["p0", "p2"]


def test_a_size_that_is_not_the_manifests_is_an_error(manifest, tmp_path):
    table = pd.read_csv(manifest)
    table.loc[0, "width"] = 41
    table.to_csv(manifest, index=False)
    summary = infer(manifest, ["gray=gray"], tmp_path / "run")
    assert [failure.error for failure in summary.failures] == [
        "p0.png: it is 40×30, the manifest says 41×30"
    ]


def test_another_version_of_a_packages_image_only_warns(percept, tmp_path):
    manifest = tmp_path / "m.csv"
    photo = "package:skimage/data/astronaut.png"
    manifest.write_text(f"content_id,path,sha256,width,height\na,{photo},{'0' * 64},512,512\n")
    code, _, err = percept("infer", manifest, "--condition", "g=gray", "--out", tmp_path / "run")
    assert code == 0
    assert "the installed package has another version of it" in err
    assert open_run(tmp_path / "run").info["warnings"] == [
        f"{photo}: the installed package has another version of it"
    ]


FAULTY = """
import torch
def make(result):
    return lambda device: lambda x: result(x)
nan = make(lambda x: torch.full_like(x, float("nan")).expand(-1, 2, -1, -1))
shape = make(lambda x: x)
kind = make(lambda x: None)
error = make(lambda x: x.nothing)
srgb = make(lambda x: torch.cat([x * 0 + 1, x * 0, x], 1))
wild = make(lambda x: (x + 1).expand(-1, 2, -1, -1) * 1000)
"""


def test_a_faulty_colorizer_costs_its_own_items(tmp_path, manifest, monkeypatch):
    (tmp_path / "faulty_percept_plugin.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    names = ["nan", "shape", "kind", "error", "srgb", "wild"]
    conditions = [f"{name}=plugin:faulty_percept_plugin:{name}" for name in names]
    summary = infer(manifest, conditions, tmp_path / "run", split="train")
    errors = {f.condition: f.error for f in summary.failures if f.content_id == "p1"}
    assert len(summary.failures) == 8
    assert errors == {
        "nan": "the colorizer failed: it returned values that are not finite",
        "shape": "the colorizer failed: it returned shape (1, 1, 48, 64), not (1, 2, 48, 64) "
        "or (1, 3, 48, 64)",
        "kind": "the colorizer failed: it returned a NoneType, not a tensor",
        "error": "the colorizer failed: AttributeError: 'Tensor' object has no attribute 'nothing'",
    }
    srgb = load_rgb(tmp_path / "run/images/srgb/p1.png")
    assert (srgb[..., 0] == 255).all()
    assert (srgb[..., 1] == 0).all()
    photo = color.luminance(load_rgb(manifest.parent / "p1.png"))
    wild = color.luminance(load_rgb(tmp_path / "run/images/wild/p1.png"))
    assert (wild - photo).abs().max() < 1.5  # brought into sRGB, at the photograph's luminance


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_close(precision, manifest, checkpoint, tmp_path):
    from skimage.color import deltaE_ciede2000, rgb2lab

    infer(manifest, [f"net={checkpoint}"], tmp_path / "full")
    infer(manifest, [f"net={checkpoint}"], tmp_path / "low", precision=precision)
    for i in range(4):
        labs = [
            rgb2lab(load_rgb(tmp_path / name / f"images/net/p{i}.png")) for name in ("full", "low")
        ]
        difference = deltaE_ciede2000(*labs)
        assert difference.mean() < 0.7
    assert contents(tmp_path / "low") != contents(tmp_path / "full")


def test_compiled_networks_are_close_and_a_setting_of_the_run(
    manifest, checkpoint, tmp_path, monkeypatch
):
    compile, asked = torch.nn.Module.compile, []

    def traced(self, **options):  # all of it but the generated code, which takes half a minute
        asked.append(options)
        compile(self, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    infer(manifest, [f"net={checkpoint}"], tmp_path / "plain")
    assert not asked
    infer(manifest, [f"net={checkpoint}", "gray=gray"], tmp_path / "run", compile=True)
    assert asked == [{"dynamic": False}]
    for i in range(4):
        plain, compiled = (
            load_rgb(tmp_path / name / f"images/net/p{i}.png").astype(int)
            for name in ("plain", "run")
        )
        assert np.abs(plain - compiled).max() <= 2
    with pytest.raises(InputError, match="--compile was True, is False"):
        infer(manifest, [f"net={checkpoint}", "gray=gray"], tmp_path / "run")


def test_threads_are_what_the_run_says(manifest, tmp_path):
    infer(manifest, ["gray=gray"], tmp_path / "run", threads=2)
    assert torch.get_num_threads() == 2
    infer(manifest, ["gray=gray"], tmp_path / "one")
    assert torch.get_num_threads() == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_plain_lines_elsewhere(monkeypatch):
    from percept.cli.infer import _Progress

    for stream, expected in [
        (Terminal(), ["4/4", "images/s, 1 failed", "\x1b["]),
        (io.StringIO(), ["percept infer: 4 of 4 images", ", 1 failed\n"]),
    ]:
        monkeypatch.setattr(sys, "stderr", stream)
        with _Progress() as progress:
            for done, failed in [(1, 0), (2, 1), (4, 1)]:
                progress(4, done, failed)
        for text in expected:
            assert text in stream.getvalue()
    assert stream.getvalue().count("\n") == 1  # not a line per image


# -- how it is done changes nothing of what comes out -------------------------------------------


def test_queues_and_threads_change_nothing(undisturbed, tmp_path):
    words, before = undisturbed
    infer(
        words[0],
        words[2:6],
        tmp_path / "run",
        batch_megapixels=0.003,
        queue_megapixels=1e-6,  # one batch at a time
        io_threads=3,
    )
    assert contents(tmp_path / "run") == contents(before)
    ranks = open_run(tmp_path / "run").info["sessions"][0]["ranks"]
    assert [set(times) for times in ranks] == [
        {"compute", "wait_decode", "wait_encode", "wait_world", "gather"}
    ]


def test_photographs_in_memory_are_bounded_by_the_queue(tmp_path, monkeypatch):
    manifest = write_manifest(tmp_path / "photos", [(50, 20)] * 12 + [(90, 80)])
    lock, held, most, ahead = threading.Lock(), [0], [0], threading.Event()
    patience = None
    decode, save = runner._Worker._decode, runner._Worker._save

    def counted_decode(self, row, items):
        photo = decode(self, row, items)
        with lock:
            held[0] += items[0].width * items[0].height
            most[0] = max(most[0], held[0])
        if most[0] > 90 * 80:
            ahead.set()
        return photo

    def counted_save(self, source, row, item, photo, output):
        assert patience is None or ahead.wait(patience)
        save(self, source, row, item, photo, output)
        with lock:
            held[0] -= item.width * item.height / 2  # under each of two conditions

    monkeypatch.setattr(runner._Worker, "_decode", counted_decode)
    monkeypatch.setattr(runner._Worker, "_save", counted_save)
    conditions = ["a=gray", "b=gray"]
    infer(manifest, conditions, tmp_path / "run", queue_megapixels=0.003, io_threads=4)
    assert most[0] == 90 * 80  # the large one alone; of the small ones, three
    assert held[0] == 0
    patience = 60  # nothing is written before more is held than the small queue allows
    infer(manifest, conditions, tmp_path / "two", queue_megapixels=1.0, io_threads=4)
    assert ahead.is_set()


GREEDY = """
import torch
seen = []
def make(device):
    def colorize(luminance):
        seen.append(len(luminance))
        if len(luminance) > 2:
            raise torch.OutOfMemoryError("too much")
        return 30 * luminance.expand(-1, 2, -1, -1)
    return colorize

def none(device):
    def colorize(luminance):
        raise torch.OutOfMemoryError("too much")
    return colorize
"""


def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path, monkeypatch):
    manifest = write_manifest(tmp_path / "photos", [(20, 16)] * 14)
    (tmp_path / "greedy_percept_plugin.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    conditions = ["greedy=plugin:greedy_percept_plugin:make"]
    summary = infer(manifest, conditions, tmp_path / "run", batch_megapixels=7 * 320 / 1e6)
    import greedy_percept_plugin

    # Seven, then four, then two at once; the second batch begins with what is known to fit.
    assert greedy_percept_plugin.seen == [7, 4, 2, 2, 2, 1, 2, 2, 2, 1]
    assert not summary.failures
    assert summary.warnings == (
        "condition 'greedy': the device's memory was too small for 4 of 20×16 at once; did 2",
    )
    infer(manifest, conditions, tmp_path / "single")
    one, halved = contents(tmp_path / "single"), contents(tmp_path / "run")
    assert one == halved

    nothing = ["none=plugin:greedy_percept_plugin:none"]
    failures = infer(manifest, nothing, tmp_path / "none", batch_megapixels=0.01).failures
    assert len(failures) == 14
    assert failures[0].error == (
        "the colorizer failed: OutOfMemoryError: too much; --tile needs less"
    )


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_other_formats_are_named_after_themselves(format, manifest, checkpoint, tmp_path):
    infer(manifest, [f"net={checkpoint}"], tmp_path / "png")
    infer(manifest, [f"net={checkpoint}"], tmp_path / "run", format=format)
    run = open_run(tmp_path / "run")
    suffix = {"jpeg": ".jpg", "webp": ".webp"}[format]
    assert run.outputs["path"].str.endswith(suffix).all()
    for path in run.outputs["path"]:
        image = load_rgb(run.image(path))
        before = load_rgb(tmp_path / "png" / Path(path).with_suffix(".png"))
        difference = np.abs(image.astype(int) - before)
        assert difference.max() == 0 if format == "webp" else difference.mean() < 4
    with pytest.raises(InputError, match=rf"--format was {format}, is png"):
        infer(manifest, [f"net={checkpoint}"], tmp_path / "run")


def test_tiles_give_the_same_bytes_however_processes_share_them(tmp_path, checkpoint, percept):
    manifest = write_manifest(tmp_path / "photos", [(200, 90), (64, 300), (30, 30), (150, 150)])
    (manifest.parent / "p3.png").write_bytes(b"no scan")
    words = [manifest, "--condition", f"net={checkpoint}", "gray=gray", "again=" + str(checkpoint)]
    words += ["--tile", 64, "--overlap", 16, "--batch-megapixels", 0.01, "--allow-failures"]
    code, _, err = percept("infer", *words, "--out", tmp_path / "one")
    assert code == 0, err
    for world, shard in [(1, "tiles"), (2, "photos"), (2, "tiles"), (3, "tiles")]:
        out = tmp_path / f"{shard}-{world}"
        code, _, err = percept("infer", *words, "--out", out, "--nproc", world, "--shard", shard)
        assert code == 0, err
        assert contents(out) == contents(tmp_path / "one")
        timings = open_run(out).timings
        assert (timings.loc[timings["content_id"] != "p3", "encode_seconds"] > 0).all()
    whole = tmp_path / "whole"
    conditions = [f"net={checkpoint}", "gray=gray", f"again={checkpoint}"]
    infer(manifest, conditions, whole, batch_megapixels=0.01)
    tiled, whole = contents(tmp_path / "one"), contents(whole)
    changed = {name for name in tiled if tiled[name] != whole[name]}
    cut = {f"images/{name}/p{i}.png" for name in ("net", "again") for i in (0, 1)}
    assert changed == {"outputs.parquet", *cut}


TILING = """
import os, torch

def make(device):
    calls = []
    def colorize(luminance):
        if luminance.shape[2:] == (64, 64):
            calls.append(None)
            if os.environ["RANK"] == "1" and len(calls) == 2:
                raise OSError("no more")
        return 20 * luminance.expand(-1, 2, -1, -1)
    colorize.max_side = 48
    return colorize

def greedy(device):
    def colorize(luminance):
        if len(luminance) > 1:
            raise torch.OutOfMemoryError("too much")
        return 20 * luminance.expand(-1, 2, -1, -1)
    colorize.max_side = 48
    return colorize

def fickle(device):
    def colorize(luminance):
        channels = 2 if luminance.shape[2:] == (64, 64) else 3
        return luminance.expand(-1, channels, -1, -1)
    colorize.max_side = 48
    return colorize
"""


def test_what_goes_wrong_in_another_process_is_the_photographs(
    tmp_path, monkeypatch, percept, checkpoint
):
    manifest = write_manifest(tmp_path / "photos", [(900, 200), (30, 30)])
    (tmp_path / "tiling_percept_plugin.py").write_text(TILING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = {"make": "make", "greedy": "greedy", "fickle": "fickle"}
    conditions = [f"{name}=plugin:tiling_percept_plugin:{name}" for name in names]
    words = [manifest, "--condition", *conditions, f"net={checkpoint}", "--out", tmp_path / "run"]
    words += ["--tile", 64, "--overlap", 16, "--batch-megapixels", 2 * 64 * 64 / 1e6]
    code, out, err = percept("infer", *words, "--nproc", 2, "--shard", "tiles", "--json")
    assert code == 1, err
    report = json.loads(out)
    assert {f["condition"]: f["error"] for f in report["failed"]} == {
        "make": "the colorizer failed: OSError: no more",
        "fickle": "the colorizer failed: it returned 3 channels for the whole and 2 for a tile",
    }
    assert report["warnings"] == [
        "condition 'greedy': the device's memory was too small for 2 of 64×64 at once; did 1"
    ]


def test_a_fault_in_a_tile_costs_the_photograph_alone(tmp_path, monkeypatch):
    manifest = write_manifest(tmp_path / "photos", [(200, 90), (30, 30)])
    (tmp_path / "tile_percept_plugin.py").write_text(
        "def make(device):\n"
        "    def colorize(luminance):\n"
        "        if luminance.shape[2:] == (64, 64): raise OSError('no more')\n"
        "        return luminance.expand(-1, 2, -1, -1)\n"
        "    return colorize\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    conditions = ["net=plugin:tile_percept_plugin:make"]
    summary = infer(manifest, conditions, tmp_path / "run", tile=64, overlap=16)
    assert [(f.content_id, f.error) for f in summary.failures] == [
        ("p0", "the colorizer failed: OSError: no more")
    ]
    assert [p.name for p in (tmp_path / "run/images/net").iterdir()] == ["p1.png"]
