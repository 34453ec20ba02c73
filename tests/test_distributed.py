from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from percept import bundle, distributed
from percept.cli import build_parser
from percept.errors import InputError, Interrupted

WORKER = """
import json, sys, torch
from percept import distributed
from percept.errors import InputError

with distributed.process_group("cpu"):
    rank, world = distributed.rank(), distributed.world_size()
    counter = distributed.SharedCounter("work")
    drawn = []
    while (number := counter.next()) < 40:
        drawn.append(number)
    rows = torch.full((rank, 2), rank, dtype=torch.int64)  # rank 0 has none
    result = {
        "rank": rank,
        "main": distributed.is_main(),
        "drawn": drawn,
        "rows": distributed.all_gather_rows(rows).tolist(),
        "empty": list(distributed.all_gather_rows(torch.zeros(0, 3)).shape),
        "texts": distributed.all_gather_texts([f"rank {rank} – é"] * rank + [""] * (rank == 2)),
        "seen": distributed.SharedCounter("work").value(),
    }
    try:
        with distributed.together():
            if rank == 2:
                raise InputError("two is wrong", value=2)
    except InputError as error:
        result["error"] = str(error)
    except SystemExit as leaving:
        result["left"] = leaving.code
    distributed.barrier()
open(f"{sys.argv[1]}/{rank}.json", "w").write(json.dumps(result))
"""


def test_a_world_of_three_shares_rows_texts_counters_and_errors(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    assert distributed.launch([str(script), str(tmp_path)], 3) == 0
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]

    assert [result["rank"] for result in results] == [0, 1, 2]
    assert [result["main"] for result in results] == [True, False, False]
    assert sorted(n for result in results for n in result["drawn"]) == list(range(40))
    for result in results:
        assert result["rows"] == [[1, 1], [2, 2], [2, 2]]
        assert result["empty"] == [0, 3]
        assert result["texts"] == ["rank 1 – é", "rank 2 – é", "rank 2 – é", ""]
        assert result["seen"] >= 40
    assert results[0]["error"] == "two is wrong (got 2)"
    assert [result.get("left") for result in results] == [None, 2, 2]


def test_a_world_of_one_is_ordinary():
    with distributed.process_group("cpu"):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        rows = torch.arange(6.0).reshape(3, 2)
        assert torch.equal(distributed.all_gather_rows(rows), rows)
        assert distributed.all_gather_texts(["a", "", "ü"]) == ["a", "", "ü"]
        assert distributed.all_gather_texts([]) == []
        counter = distributed.SharedCounter("x")
        assert [counter.next(), counter.next(), counter.value()] == [0, 1, 2]
        with pytest.raises(InputError, match="alone"), distributed.together():
            raise InputError("alone")
    with distributed.process_group("cpu"):  # a new world starts from nothing
        assert distributed.SharedCounter("x").value() == 0
    with pytest.raises(RuntimeError, match="process_group"):
        distributed.SharedCounter("x")


def ends(*codes: int) -> list[str]:
    """Workers that end with these codes by themselves."""
    return ["-c", f"import os, sys; sys.exit({list(codes)}[int(os.environ['RANK'])])"]


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((1, 0), 1), ((0, 2), 2)])
def test_launch_returns_how_the_workers_ended(codes, expected):
    assert distributed.launch(ends(*codes), 2) == expected


WAIT = "import os, sys, time\nrank = os.environ['RANK']\n{}\ntime.sleep(600)"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("if rank == '1': os.kill(os.getpid(), 9)", "worker 1 was killed .SIGKILL."),
        ("if rank == '0': sys.exit(3)", "worker 0 stopped with exit code 3"),
        ("if rank == '1': raise ValueError", "worker 1 stopped with exit code 1"),
    ],
)
def test_launch_never_waits_for_the_others_of_a_dead_worker(act, message, monkeypatch):
    monkeypatch.setattr(distributed, "GRACE_SECONDS", 0.2)
    with pytest.raises(Interrupted, match=message):
        distributed.launch(["-c", WAIT.format(act)], 2)


def test_launch_wants_a_worker():
    with pytest.raises(InputError, match="at least 1"):
        distributed.launch(["-c", ""], 0)


LAUNCHER = """
import sys
from percept.distributed import launch
from percept.errors import Interrupted
try:
    launch([sys.argv[1], sys.argv[2]], 2)
except Interrupted as error:
    print(error)
    sys.exit(error.exit_code)
"""
SLEEPER = """
import os, sys, time
from percept import distributed
with distributed.process_group("cpu"):
    name = f"{sys.argv[1]}/{distributed.rank()}"
    open(name + ".tmp", "w").write(str(os.getpid()))
    os.rename(name + ".tmp", name + ".pid")
    time.sleep(600)
"""


def wait_for(condition, seconds: float = 60.0):
    """Wait until ``condition()`` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 3), (signal.SIGKILL, -9)])
def test_workers_end_with_their_launcher(sent, code, tmp_path):
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(script), str(tmp_path)],
        env=bundle.child_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    files = [tmp_path / "0.pid", tmp_path / "1.pid"]
    wait_for(lambda: all(file.exists() for file in files))
    pids = [int(file.read_text()) for file in files]
    launcher.send_signal(sent)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == code
    wait_for(lambda: all(is_gone(pid) for pid in pids))
    if sent == signal.SIGINT:
        assert "the same command resumes" in output


def test_a_second_sigterm_leaves_the_clean_up_alone():
    before, cleaned = signal.getsignal(signal.SIGTERM), []

    @distributed.ended_with_launcher()
    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)

    with pytest.raises(SystemExit) as left:
        work()
    assert left.value.code == Interrupted.exit_code
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) == before


def test_command_words_spell_a_command_out_again():
    argv = ["infer", "m.csv", "--condition", "a=gray", "b=folder:x y", "--out", "run", "--nproc"]
    argv += ["3", "--threads", "2", "--batch-megapixels", "0.5", "--fresh", "--condition", "c=gray"]
    args = build_parser(argv).parse_args(argv)
    words = distributed.command_words(args, positional=("manifest",))
    assert words[0] == "percept"
    again = build_parser(words[1:]).parse_args(words[1:])
    assert vars(again) | {"nproc": 3} == vars(args)
    assert "--nproc" not in words
    assert "--json" not in words


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node[03-05,9]", "node03"),
        ("a1,a2", "a1"),
        ("gpu-[2,4]", "gpu-2"),
        ("x[1-2]y", "x1y"),
    ],
)
def test_slurm_lists_of_nodes_are_understood(nodes, first):
    assert distributed._first_name(nodes) == first


def test_slurm_variables_are_understood(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert not distributed.in_world()  # a batch script, not a step
    assert distributed.rank() == 0
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "no-such-name.invalid")
    assert distributed.in_world()
    assert (distributed.rank(), distributed.world_size()) == (5, 8)
    assert not distributed.is_main()
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert distributed.local_size() == 8
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x3),1,1")
    assert distributed.local_size() == 2
    assert distributed._slurm_environment()["MASTER_ADDR"] == "localhost"  # there is but one node
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    with pytest.raises(InputError, match="Set MASTER_ADDR"):
        distributed._slurm_environment()
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.7")
    assert distributed._slurm_environment()["MASTER_ADDR"] == "10.0.0.7"


def test_devices_are_checked():
    assert distributed.pick_device("cpu") == torch.device("cpu")
    for name in ("warp", "meta"):
        with pytest.raises(InputError, match="unknown device"):
            distributed.pick_device(name)
    if not torch.cuda.is_available():
        assert distributed.pick_device("auto") == torch.device("cpu")
        with pytest.raises(InputError, match="no CUDA device"):
            distributed.pick_device("cuda:0")
