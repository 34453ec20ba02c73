"""Process groups, gathers and a shared work counter; one process is an ordinary case.

The same code runs plain, under :func:`launch` (what ``--nproc`` does), under ``torchrun`` and
under ``srun``. Torch is imported by what uses it, so that a command that only launches workers
starts them at once.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from percept import bundle
from percept.errors import InputError, Interrupted, ItemsFailed, PerceptError

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store  # type: ignore[attr-defined]

# Deaths are noticed by whoever started the workers; a long item must not look like one.
TIMEOUT = timedelta(hours=24)
# How long workers may take to find each other; they are started together.
MEETING = timedelta(minutes=15)
# How long the others may take to end by themselves after one worker ended with an error.
GRACE_SECONDS = 10.0

_RENDEZVOUS = "PERCEPT_RENDEZVOUS"
_store: Store | None = None
_agreed = False  # whether all workers are leaving because of the same error


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- starting workers ---------------------------------------------------------------------------


def in_world() -> bool:
    """Whether this process is already one of a group of workers."""
    return "RANK" in os.environ or _in_slurm_step()


def leave(code: int) -> NoReturn:
    """End this worker at once, with an exit code, when everything is saved and said.

    Python's own way out now and then meets a thread of Gloo's that is still winding down, and C++
    then aborts a process whose work was done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(arguments: Sequence[str], nproc: int, *, threads: int = 1) -> int:
    """Run ``python *arguments`` in ``nproc`` worker processes and wait for them.

    The workers find each other through a file in a private temporary folder, so that any number
    of launches can share a machine. They die with this process, however it ends.

    Parameters
    ----------
    arguments : sequence of str
        What follows the interpreter, such as ``["-m", "percept", "infer", …]``.
    nproc : int
        Number of workers.
    threads : int
        Compute threads of each (``OMP_NUM_THREADS``).

    Returns
    -------
    int
        Exit code: 0 if every worker ended with 0, else that of the first that did not.

    Raises
    ------
    Interrupted
        If a worker was killed, crashed or left the others waiting, or at Ctrl-C.
    """
    if nproc < 1:
        raise InputError("the number of processes must be at least 1", key="nproc", value=nproc)
    with tempfile.TemporaryDirectory(prefix="percept-world-") as folder:
        workers: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(nproc):
                environment = bundle.child_environment(
                    {
                        _RENDEZVOUS: str(Path(folder) / "store"),
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "WORLD_SIZE": str(nproc),
                        "LOCAL_WORLD_SIZE": str(nproc),
                        "OMP_NUM_THREADS": str(threads),
                    }
                )
                # A session of its own: Ctrl-C reaches this process alone, which then ends them.
                # The pipe on stdin tells a worker that this process is gone.
                workers.append(
                    subprocess.Popen(
                        [bundle.python(), *arguments],
                        env=environment,
                        stdin=subprocess.PIPE,
                        start_new_session=True,
                    )
                )
            return _wait(workers)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the same command resumes") from None
        finally:
            _end(workers)


@contextmanager
def ended_with_launcher() -> Iterator[None]:
    """Let a worker that launches workers itself end them, too, when it is to end.

    That is on SIGTERM, or when whoever launched it is gone, however it went: this process then
    leaves as if by :class:`SystemExit`, with the exit code of what can be resumed.
    """

    def end(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not stop the clean-up
        raise SystemExit(Interrupted.exit_code)

    before = signal.signal(signal.SIGTERM, end)
    if _RENDEZVOUS in os.environ:
        _when_launcher_is_gone(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def relaunch(args: argparse.Namespace, nproc: int, *, positional: Sequence[str] = ()) -> int:
    """Run the same percept command in ``nproc`` workers; see :func:`launch`.

    Parameters
    ----------
    args, positional
        As for :func:`command_words`.
    nproc : int
        Number of workers.
    """
    words = ["-m", *command_words(args, positional=positional)]
    return launch(words, nproc, threads=getattr(args, "threads", None) or 1)


def command_words(args: argparse.Namespace, *, positional: Sequence[str] = ()) -> list[str]:
    """Spell a parsed percept command out again, without ``--nproc``.

    Parameters
    ----------
    args : argparse.Namespace
        The parsed command; its options are spelled like their names.
    positional : sequence of str
        The names in ``args`` that are positional arguments, in their order.
    """
    words = ["percept", args.command, *(str(getattr(args, name)) for name in positional)]
    for name, value in vars(args).items():
        if name in {"command", "run", "nproc", *positional} or value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if isinstance(value, list | tuple):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return words


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    first_error: int | None = None
    deadline = float("inf")
    while True:
        codes = [worker.poll() for worker in workers]
        for rank, code in enumerate(codes):
            if code is None or code == 0:
                continue
            if code < 0:
                with suppress(ValueError):
                    name = signal.Signals(-code).name
                raise Interrupted(f"worker {rank} was killed ({name}); the same command resumes")
            if code not in {1, 2, 4} or time.monotonic() > deadline:
                raise Interrupted(
                    f"worker {rank} stopped with exit code {code}; the same command resumes"
                )
            if first_error is None:
                first_error, deadline = code, time.monotonic() + GRACE_SECONDS
        if None not in codes:
            return first_error or 0
        time.sleep(0.05)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        if worker.stdin is not None:
            worker.stdin.close()


# -- being a worker -----------------------------------------------------------------------------


def pick_device(name: str = "auto") -> torch.device:
    """Choose the device: ``auto`` is this worker's CUDA device if there is one, else the CPU.

    Raises
    ------
    InputError
        If ``name`` is unknown or asks for an accelerator that is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise InputError(
            "unknown device", key="device", value=name, remedy="Use auto, cpu, cuda or cuda:N."
        )
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(
                "no CUDA device is available", key="device", value=name, remedy="Use --device cpu."
            )
        if device.index is None:
            local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
            device = torch.device("cuda", local % torch.cuda.device_count())
    return device


@contextmanager
def process_group(device: torch.device | str = "cpu") -> Iterator[None]:
    """Join the world that the environment names, or make a world of one.

    Tensors on the CPU travel by gloo, tensors on CUDA devices by NCCL.

    Parameters
    ----------
    device : torch.device or str
        The device that this worker computes on.
    """
    global _store, _agreed
    import torch
    import torch.distributed as dist

    device = torch.device(device)
    store: Any
    if _RENDEZVOUS in os.environ:
        _when_launcher_is_gone(lambda: os._exit(Interrupted.exit_code))
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = dist.FileStore(os.environ[_RENDEZVOUS], world)  # type: ignore[attr-defined]
    elif in_world():
        if "RANK" not in os.environ:
            os.environ.update(_slurm_environment())
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        try:
            meeting = dist.rendezvous("env://", timeout=MEETING)  # type: ignore[attr-defined]
            store, rank, world = next(iter(meeting))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise Interrupted(
                f"worker {os.environ['RANK']} did not meet the others at {where}: {reason}; "
                "MASTER_ADDR and MASTER_PORT choose another place"
            ) from error
        if "TORCHELASTIC_RUN_ID" in os.environ:
            store = _of_this_attempt(store, rank, world)
    else:
        store, rank, world = dist.HashStore(), 0, 1  # type: ignore[attr-defined]
    store.set_timeout(TIMEOUT)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    _store = dist.PrefixStore("percept", store)  # type: ignore[attr-defined]
    finished = _agreed = False
    try:
        yield
        finished = True
    finally:
        # NCCL may wait here for workers that an error of this one alone has left in a collective.
        # They, or whoever started them, notice its end. Gloo must be left, or Python's end aborts.
        if finished or _agreed or backend == "gloo":
            dist.destroy_process_group()
            _store = None


def _of_this_attempt(store: Any, rank: int, world: int) -> Any:
    """Return the part of torchrun's store that nobody used before.

    After a restart that store (torch 2.14 at least) still holds the counters and the addresses of
    the dead, and agents on several nodes count restarts differently. So worker 0 makes up a name,
    the others answer to it, and only the answers of those that live now are confirmed.
    """
    import torch.distributed as dist

    me = secrets.token_hex(8)

    def read(key: str) -> str:
        return str(store.get(key).decode())

    if rank == 0:
        store.set("percept/attempt", me)
        answers = [read(f"percept/{me}/{other}") for other in range(1, world)]
        store.set(f"percept/{me}/confirmed", " ".join(answers))
        return dist.PrefixStore(f"percept/{me}", store)  # type: ignore[attr-defined]
    while True:
        attempt = read("percept/attempt")
        store.set(f"percept/{attempt}/{rank}", me)
        confirmed = f"percept/{attempt}/confirmed"
        while read("percept/attempt") == attempt:
            if not store.check([confirmed]):
                time.sleep(0.02)
            elif me in read(confirmed).split():
                return dist.PrefixStore(f"percept/{attempt}", store)  # type: ignore[attr-defined]
            else:  # a dead attempt's, which this one follows
                time.sleep(0.02)


def rank() -> int:
    """Return the number of this worker in its world, from 0."""
    torch_distributed = sys.modules.get("torch.distributed")
    if torch_distributed is not None and torch_distributed.is_initialized():
        return int(torch_distributed.get_rank())
    return int(os.environ.get("RANK", os.environ["SLURM_PROCID"] if _in_slurm_step() else "0"))


def world_size() -> int:
    """Return the number of workers in the world."""
    torch_distributed = sys.modules.get("torch.distributed")
    if torch_distributed is not None and torch_distributed.is_initialized():
        return int(torch_distributed.get_world_size())
    steps = os.environ["SLURM_STEP_NUM_TASKS"] if _in_slurm_step() else "1"
    return int(os.environ.get("WORLD_SIZE", steps))


def local_size() -> int:
    """Return the number of workers on this machine; where Slurm's differ, on the fullest one."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "") if _in_slurm_step() else ""
    counts = re.findall(r"(\d+)(?:\(x\d+\))?", nodes)  # 4(x2),1
    return max(map(int, counts), default=world_size())


def is_main() -> bool:
    """Whether this worker prints and writes for all."""
    return rank() == 0


def barrier() -> None:
    """Wait until every worker is here."""
    import torch

    all_gather_rows(torch.zeros(1, 1))


def all_gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate every worker's rows, in order of rank, on every worker.

    Sizes are exchanged first, then equal, padded blocks, which are trimmed: collectives on
    blocks of unequal size fail or hang (pytorch#156627, nccl#1417). Nothing is pickled.

    Parameters
    ----------
    rows : torch.Tensor
        Shape (n_local, …); n_local may be 0 and may differ between workers, the other
        dimensions and the dtype may not.

    Returns
    -------
    torch.Tensor
        Shape (n_total, …), on the device of ``rows``.
    """
    import torch
    import torch.distributed as dist

    counts = _counts(rows)
    block = _padded(rows, max(counts))
    if block.numel() == 0:
        return block
    blocks = [torch.empty_like(block) for _ in counts]
    with meeting():
        dist.all_gather(blocks, block)
    return torch.cat([part[:n] for part, n in zip(blocks, counts, strict=True)])


def gather_rows(rows: torch.Tensor, to: int) -> torch.Tensor:
    """Concatenate every worker's rows, in order of rank, on worker ``to``; the others get none.

    As :func:`all_gather_rows`, but for tensors on the CPU alone.
    """
    import torch
    import torch.distributed as dist

    counts = _counts(rows)
    block = _padded(rows, max(counts))
    here = rank() == to
    if block.numel() == 0:
        return block
    blocks = [torch.empty_like(block) for _ in counts] if here else None
    with meeting():
        dist.gather(block, blocks, dst=to)
    if blocks is None:
        return rows[:0]
    return torch.cat([part[:n] for part, n in zip(blocks, counts, strict=True)])


def broadcast(block: torch.Tensor, source: int) -> torch.Tensor:
    """Fill ``block``, whose shape and dtype every worker knows, with worker ``source``'s."""
    import torch.distributed as dist

    with meeting():
        dist.broadcast(block, source)
    return block


def _counts(rows: torch.Tensor) -> list[int]:
    import torch
    import torch.distributed as dist

    size = torch.tensor([rows.shape[0]], dtype=torch.int64, device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    with meeting():
        dist.all_gather(sizes, size)
    return [int(n.item()) for n in sizes]


def _padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    if len(rows) == count:
        return rows.contiguous()
    block = rows.new_zeros((count, *rows.shape[1:]))
    block[: len(rows)] = rows
    return block


@contextmanager
def meeting() -> Iterator[None]:
    """Say that another worker is gone where a collective fails because of it."""
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not (isinstance(error, DistError) or "gloo" in str(error)):
            raise
        raise Interrupted(
            f"worker {rank()} lost another worker; the same command resumes"
        ) from error


def all_gather_texts(texts: Sequence[str]) -> list[str]:
    """Concatenate every worker's texts, in order of rank, as tensors of UTF-8 bytes."""
    import numpy as np
    import torch

    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    lengths = all_gather_rows(torch.tensor([len(part) for part in encoded], dtype=torch.int64))
    flat = torch.from_numpy(np.frombuffer(b"".join(encoded), dtype=np.uint8).copy())
    data = all_gather_rows(flat).numpy().tobytes()
    texts, start = [], 0
    for length in lengths.tolist():
        texts.append(data[start : start + length].decode("utf-8", "surrogatepass"))
        start += length
    return texts


@contextmanager
def together() -> Iterator[None]:
    """Run a block on every worker; if it fails on any, all of them stop in the same way.

    The main worker raises the first failing worker's :class:`~percept.errors.PerceptError`;
    the others leave quietly with its exit code.
    """
    global _agreed
    error: PerceptError | None = None
    try:
        yield
    except PerceptError as caught:
        error = caught
    messages = all_gather_texts([f"{error.exit_code}\n{error}" if error is not None else ""])
    first = next((message for message in messages if message), None)
    if first is None:
        return
    _agreed = True
    code, text = first.split("\n", 1)
    if not is_main():
        raise SystemExit(int(code))
    if error is not None and messages[0]:
        raise error
    kinds: dict[int, type[PerceptError]] = {1: ItemsFailed, 2: InputError, 3: Interrupted}
    raise kinds.get(int(code), PerceptError)(text)


class SharedCounter:
    """A counter that all workers of the world share, kept in the process group's store.

    Parameters
    ----------
    name : str
        Counters of the same name are the same counter.
    """

    def __init__(self, name: str) -> None:
        if _store is None:
            raise RuntimeError("a SharedCounter needs a process_group()")
        self._store, self._key = _store, f"counter/{name}"

    def next(self) -> int:
        """Draw the next number, from 0; no two draws in the world are equal."""
        return self.add(1) - 1

    def add(self, amount: int) -> int:
        """Add and return the new value."""
        return int(self._store.add(self._key, amount))

    def value(self) -> int:
        """Return the present value."""
        return self.add(0)


def _when_launcher_is_gone(act: Callable[[], object]) -> None:
    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1):  # not sys.stdin: its lock would be held when Python ends
                pass
        act()

    threading.Thread(target=watch, name="percept-launcher-watch", daemon=True).start()


def _in_slurm_step() -> bool:
    # A batch script has SLURM_PROCID too; only srun sets the step's number of tasks there.
    return "SLURM_PROCID" in os.environ and "SLURM_STEP_NUM_TASKS" in os.environ


def _slurm_environment() -> dict[str, str]:
    job = int(os.environ.get("SLURM_JOB_ID", "0")) + int(os.environ.get("SLURM_STEP_ID", "0"))
    return {
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or _first_slurm_node(),
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(20000 + job % 20000)),
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
    }


def _first_slurm_node() -> str:
    if os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "localhost"
    nodes = os.environ.get("SLURM_STEP_NODELIST", "localhost")
    host = _first_name(nodes)
    try:
        socket.getaddrinfo(host, None)
    except OSError:  # Slurm's names are its own; torch would try this one until it times out
        raise InputError(
            "Slurm's name of the first node leads to no address",
            key="SLURM_STEP_NODELIST",
            value=nodes,
            remedy="Set MASTER_ADDR to an address of that node.",
        ) from None
    return host


def _first_name(nodes: str) -> str:
    """``n03`` of ``n[03-05,9]``."""
    first = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in first.groups()) if first else nodes
