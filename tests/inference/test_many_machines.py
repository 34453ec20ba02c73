"""Several nodes, workers that die under torchrun, and moments at which everything is killed."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from inference_samples import contents, write_manifest

from percept import bundle
from percept.inference.run import open_run
from percept.inference.runner import infer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SIZES = [(20 + 3 * i, 16 + i) for i in range(10)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, checkpoint):
    """The words of a command, and what it leaves behind when nothing happens to it."""
    home = tmp_path_factory.mktemp("machines")
    manifest = write_manifest(home / "photos", SIZES)
    words = [str(manifest), "--condition", f"net={checkpoint}", "gray=gray"]
    infer(manifest, words[2:], home / "run")
    return words, home / "run"


def two_nodes(*command: str, options: tuple[str, ...] = ()) -> list[str]:
    """Run a program under two torchrun agents with an address each; their output."""
    port = free_port()
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "7"]
    world = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *meeting, *options]
    agents = [
        subprocess.Popen(
            [*world, "--local-addr", address, *command],
            env=bundle.child_environment({"OMP_NUM_THREADS": "1"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for address in ("127.0.0.1", "127.0.0.2")
    ]
    with ThreadPoolExecutor() as pool:
        output = [out for out, _ in pool.map(lambda a: a.communicate(timeout=200), agents)]
    assert [agent.returncode for agent in agents] == [0, 0], output
    return output


def test_two_nodes_under_torchrun_give_the_same_bytes(undisturbed, tmp_path):
    words, before = undisturbed
    two_nodes("-m", "percept", "infer", *words, "--out", str(tmp_path / "run"))
    assert contents(tmp_path / "run") == contents(before)
    assert open_run(tmp_path / "run").info["world"] == 2


DYING = """
import os, signal, sys
from pathlib import Path
from percept.cli import main
from percept.inference.directory import Journal

append, died, victim = Journal.append, Path(sys.argv.pop(1)), sys.argv.pop(1)

def append_and_die(self, item):
    append(self, item)
    if len(self.stream_lines()) >= 3 and os.environ["RANK"] == victim and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)

Journal.append = append_and_die
Journal.stream_lines = lambda self: Path(self.stream.name).read_text().splitlines()
sys.exit(main())
"""


def test_torchrun_restarts_a_killed_worker_and_the_journal_resumes(undisturbed, tmp_path):
    words, before = undisturbed
    (tmp_path / "dying.py").write_text(DYING)
    world = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = ["infer", *words, "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(
        [*world, str(tmp_path / "dying.py"), str(tmp_path / "died"), "0", *command],
        env=bundle.child_environment({"OMP_NUM_THREADS": "1"}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert json.loads(done.stdout)["reused"] >= 3
    assert contents(tmp_path / "run") == contents(before)


@pytest.mark.parametrize("victim", [0, 1])
def test_two_nodes_go_on_after_a_worker_of_one_was_killed(victim, undisturbed, tmp_path):
    words, before = undisturbed
    (tmp_path / "dying.py").write_text(DYING)
    two_nodes(
        *[str(tmp_path / "dying.py"), str(tmp_path / "died"), str(victim)],
        *["infer", *words, "--out", str(tmp_path / "run")],
        options=("--max-restarts", "2", "--monitor-interval", "0.1"),
    )
    assert (tmp_path / "died").exists()
    assert contents(tmp_path / "run") == contents(before)
    (session,) = open_run(tmp_path / "run").info["sessions"]
    assert session["world"] == 2
    assert session["items"] <= 2 * len(SIZES) - 3


def journalled(out: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in out.glob("journal/*.jsonl"))


@pytest.mark.parametrize("shard", ["photos", "tiles"])
def test_killed_again_and_again_the_run_is_that_of_an_undisturbed_one(shard, undisturbed, tmp_path):
    words, before = undisturbed
    tiles = ["--tile", "32", "--overlap", "8", "--shard", "tiles"] if shard == "tiles" else []
    if tiles:
        infer(words[0], words[2:], before := tmp_path / "before", tile=32, overlap=8)
    out, rng = tmp_path / "run", random.Random(0)
    command = [sys.executable, "-m", "percept", "infer", *words, *tiles, "--out", str(out)]
    for moment in sorted(rng.sample(range(1, 18), 2)):  # items in the journal
        world = subprocess.Popen(
            [*command, "--nproc", "2"],
            env=bundle.child_environment({"OMP_NUM_THREADS": "1"}),
            stderr=subprocess.DEVNULL,
        )
        while world.poll() is None and journalled(out) < moment:
            time.sleep(0.001)
        world.kill()  # its workers see its end and die in the midst of their work
        world.wait()
    last = subprocess.run([*command, "--nproc", "2", "--json"], check=True, capture_output=True)
    assert json.loads(last.stdout)["items"] == 2 * len(SIZES)
    assert contents(out) == contents(before)
    assert not list(out.rglob("*.tmp"))
