"""One worker of ``percept train``; also for ``torchrun -m training.train`` and ``srun``.

``--check`` looks at everything that can be wrong before a training, and trains nothing.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from percept import distributed
from percept.errors import InputError, Interrupted, PerceptError
from percept.files import lock_folder
from training.config import find_config, load_config

if TYPE_CHECKING:
    import torch


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the worker's arguments; ``percept train`` documents them."""
    parser = argparse.ArgumentParser(prog="training.train", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--manifest")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--check", type=int, metavar="NPROC")
    return parser.parse_args(argv)


def check(args: argparse.Namespace, world: int) -> None:
    """Raise the first error that ``world`` workers would meet at their start."""
    from percept.distributed import pick_device
    from training.checkpoint import check_folder
    from training.data import check_loader, training_photographs, validation_photographs
    from training.trainer import make_network, settings_of

    config = load_config(args.config, overrides=args.overrides, manifest=args.manifest, world=world)
    with _of_file(args.config):
        make_network(config, world=world)
    pick_device(args.device)
    photographs = training_photographs(config.data)
    validation = validation_photographs(config.data)
    check_loader(config, world, world)  # percept train starts them all on this machine
    check_folder(args.out, settings_of(config, photographs, validation), fresh=args.fresh)


@contextmanager
def _of_file(config: str) -> Iterator[None]:
    """Name the file of a config in what is wrong with its network."""
    try:
        yield
    except InputError as error:
        if error.file is not None:
            raise
        raise InputError(
            error.message,
            file=find_config(config),
            key=error.key,
            value=error.value,
            remedy=error.remedy,
        ) from None


def work(args: argparse.Namespace) -> None:
    """Train, as one process of the world."""
    from percept.distributed import pick_device, process_group

    device = pick_device(args.device)
    with process_group(device):
        train(args, device)


def train(args: argparse.Namespace, device: torch.device) -> None:
    """Train in the process group that is there."""
    import torch

    from percept.distributed import all_gather_texts, is_main, local_size, together, world_size
    from percept.inference.heap import keep_memory
    from training import checkpoint
    from training.data import check_loader, training_photographs, validation_photographs
    from training.trainer import Trainer, make_network, settings_of

    with together():
        config = load_config(
            args.config, overrides=args.overrides, manifest=args.manifest, world=world_size()
        )
        # What FSDP gathers for a moment is to be gone after it.
        if device.type == "cpu" and config.sharding.strategy not in {"fsdp", "hybrid"}:
            keep_memory()
        torch.set_num_threads(config.train.threads)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        photographs = training_photographs(config.data)
        validation = validation_photographs(config.data)
        with _of_file(args.config):
            make_network(config, world=world_size())
        check_loader(config, world_size(), local_size())
        settings = settings_of(config, photographs, validation)
        checkpoint.check_folder(args.out, settings, fresh=args.fresh)
    with ExitStack() as held:
        with together():
            if is_main():
                args.out.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock_folder(args.out, "percept train"))
                # Another training may have ended here meanwhile.
                checkpoint.check_folder(args.out, settings, fresh=args.fresh)
        with together():
            checkpoint.check_shared(args.out)
        with together():
            run = (None if args.fresh else checkpoint.read_run(args.out)) or {}
        # Where they stand is for one process to say: a network's disk may show others the past.
        (state,) = all_gather_texts([run.get("state", "")] if is_main() else [])
        if state == "complete":
            if is_main():
                print(f"{config.arm}: already trained, {run['step']} steps, in {args.out}")
            return
        trainer = Trainer(
            config, photographs, validation, args.out, device=device, fresh=args.fresh
        )
        if is_main():
            steps, batch = config.train.steps, config.train.global_batch
            print(
                f"{config.arm}: {len(photographs)} photographs, {steps} steps of {batch} views, "
                f"{world_size()} × {device.type}"
                + (f", resuming after step {trainer.step}" if trainer.step else ""),
                flush=True,
            )
        trainer.run()
    if is_main():
        print(f"{config.arm}: trained in {trainer.seconds:.0f} s, checkpoint {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker; returns its exit code."""
    args = parse(argv)
    try:
        if args.check is not None:
            check(args, args.check)
        else:
            work(args)
    except PerceptError as error:
        print(f"percept train: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as left:  # the main process says why; see distributed.leave for the rest
        return int(left.code or 0)
    except OSError as error:  # a full disk, or a folder that may not be written
        where = error.filename or args.out
        print(
            f"percept train: {where}: {error.strerror or error}; the same command resumes",
            file=sys.stderr,
        )
        return Interrupted.exit_code
    except Exception:  # a bug: exit code 1 would say that only some items failed
        traceback.print_exc()
        return 70
    return 0


if __name__ == "__main__":
    distributed.leave(main())
