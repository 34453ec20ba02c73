"""The training loop."""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import percept
from percept.distributed import barrier, is_main, rank, together, world_size
from percept.errors import InputError
from percept.files import write_json_atomic
from percept.inference.networks import build_network, save_checkpoint
from training import checkpoint
from training.communication import Communication
from training.config import Config
from training.data import Photograph, Views, data_sha256, load_lab
from training.losses import chroma_loss
from training.progress import Progress


def make_network(config: Config) -> nn.Module:
    """Network with initial weights that the seed decides.

    Raises
    ------
    InputError
        If the network cannot be built, or cannot take views of this size.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = build_network(config.network.name, config.network.arguments)
    divisor = int(getattr(network, "divisor", 1))
    if config.train.crop % divisor:
        raise InputError(
            f"the network takes views whose side is a multiple of {divisor}",
            key="train.crop",
            value=config.train.crop,
        )
    return network


def learning_rate(step: int, config: Config) -> float:
    """Learning rate of step 0, 1, …: linear warmup, then a cosine down to its final fraction."""
    peak, warmup = config.optimizer.learning_rate, config.schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, config.train.steps - warmup)
    final = config.schedule.final_fraction
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def settings_of(config: Config, photographs: Sequence[Photograph]) -> dict[str, Any]:
    """All that decides the result: two trainings with equal settings are the same training."""
    settings = config.as_dict()
    del settings["data"]["manifest"]  # where it lies does not matter, what it names does
    return {**settings, "data_sha256": data_sha256(photographs)}


class Trainer:
    """One training in one process of the world.

    Parameters
    ----------
    config : Config
        What to train.
    photographs : sequence of Photograph
        The training split.
    folder : Path
        Where everything goes; begun work of the same settings there is continued.
    device : torch.device
        Where this process computes.

    Raises
    ------
    InputError
        If the network or the photographs do not fit, or the state is of another world size and
        cannot be divided anew.
    """

    def __init__(
        self,
        config: Config,
        photographs: Sequence[Photograph],
        folder: Path,
        *,
        device: torch.device,
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.network = make_network(config).to(device)
        self.average = copy.deepcopy(self.network)
        self.views = Views(
            [load_lab(photograph, config.data.max_side) for photograph in photographs],
            config.data,
            crop=config.train.crop,
            global_batch=config.train.global_batch,
            seed=config.seed,
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.optimizer.learning_rate,
            eps=config.optimizer.epsilon,
            weight_decay=config.optimizer.weight_decay,
        )
        self.communication = Communication(config.distributed, seed=config.seed)
        self.settings = settings_of(config, photographs)
        self.hashes = sorted({value for photograph in photographs for value in photograph.hashes})
        self.step = checkpoint.saved_step(folder)
        self.loss_sum = 0.0  # since the last line of the log
        self.seconds = 0.0
        self._local: dict[str, Any] = {}
        if self.step:
            self._restore()

    def run(self) -> None:
        """Train to the last step, saving on the way.

        Raises
        ------
        InputError
            If the loss or its gradient is no longer finite; the last saved step is kept.
        """
        train = self.config.train
        if is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.trim_log(self.folder, self.step)
            self._describe("running", new_session=True)
        model = DistributedDataParallel(
            self.network, device_ids=[self.device] if self.device.type == "cuda" else None
        )
        self.communication.attach(model)
        self._settle(model)
        began, since = time.monotonic() - self.seconds, self.step
        marked = time.monotonic()
        with Progress(self.config.arm, done=self.step, total=train.steps) as progress:
            while self.step < train.steps:
                rate = learning_rate(self.step, self.config)
                loss, norm = self._backward(model)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    self._stop_diverged(loss, norm)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                self._update_average()
                self.step += 1
                self.loss_sum += loss
                last = self.step == train.steps
                if self.step % train.log_every == 0 or last:
                    now = time.monotonic()
                    line = {
                        "step": self.step,
                        "loss": self.loss_sum / ((self.step - 1) % train.log_every + 1),
                        "learning_rate": rate,
                        "gradient_norm": norm,
                        "samples_per_second": (self.step - since)
                        * train.global_batch
                        / (now - marked),
                    }
                    self.loss_sum, marked, since = 0.0, now, self.step
                    self._log(line, progress)
                progress.advance(self.step)
                if self.step % train.checkpoint_every == 0 or last:
                    self.seconds = time.monotonic() - began
                    self._save()
        if is_main():
            self._describe("complete")
        barrier()

    def _backward(self, model: nn.Module) -> tuple[float, float]:
        """Gradients of one step; the loss of the whole batch, and the gradient's norm."""
        config = self.config
        luminance, chroma = self.views.batch(self.step, rank=rank(), world=world_size())
        self.communication.step = self.step
        self.optimizer.zero_grad(set_to_none=True)
        loss = chroma_loss(model(luminance.to(self.device)), chroma.to(self.device), config.loss)
        loss.backward()
        limit = config.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        total = loss.detach().clone()
        dist.all_reduce(total)
        return total.item() / world_size(), norm.item()

    def _settle(self, model: nn.Module) -> None:
        """Let DDP arrange its buckets, which it does after the first backward pass.

        A pass that is no step does it before step one and after a resume alike, so that what
        compression remembers by bucket still fits, and a resumed run sums in the same order.
        """
        side = self.config.train.crop
        self.communication.step = -1
        model(torch.zeros(1, 1, side, side, device=self.device)).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)
        if self._local:
            self.communication.load_state_dict(self._local)

    @torch.no_grad()
    def _update_average(self) -> None:
        # Young averages forget faster, or the initial weights would stay in them for long.
        decay = min(self.config.train.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            mean.lerp_(value, 1 - decay)

    def _save(self) -> None:
        common = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "world": world_size(),
        }
        # Before the state: what is killed between the two does these steps again, and this too.
        if is_main():
            config = self.config
            save_checkpoint(
                self.folder,
                self.average if config.train.ema else self.network,
                {
                    "network": {"name": config.network.name, "arguments": config.network.arguments},
                    "input": {"max_side": config.data.max_side},
                    "arm": config.arm,
                    "seed": config.seed,
                    "step": self.step,
                    "steps": config.train.steps,
                    "training_sha256": self.hashes,
                    "code_version": percept.__version__,
                },
            )
        checkpoint.save_state(self.folder, self.step, common, self.communication.state_dict())

    def _restore(self) -> None:
        common, self._local = checkpoint.load_state(self.folder, self.step, self.device)
        if self.communication.is_local and common["world"] != world_size():
            raise InputError(
                f"was begun with {common['world']} processes, each of which remembers what "
                f"compression left out; {world_size()} cannot go on from there",
                file=self.folder,
                key="distributed.gradient_compression",
                value=self.config.distributed.gradient_compression,
                remedy=f"Use --nproc {common['world']}, or add --fresh to start over",
            )
        self.network.load_state_dict(common["network"])
        self.average.load_state_dict(common["average"])
        self.optimizer.load_state_dict(common["optimizer"])
        self.loss_sum, self.seconds = common["loss_sum"], common["seconds"]

    def _stop_diverged(self, loss: float, norm: float) -> None:
        kept = checkpoint.saved_step(self.folder)
        if is_main():
            self._describe("diverged")
        with together():
            raise InputError(
                f"training diverged at step {self.step + 1}: loss {loss}, gradient norm {norm}. "
                + (f"The checkpoint of step {kept} is kept" if kept else "Nothing was saved yet"),
                file=self.folder,
                key="optimizer.learning_rate",
                value=self.config.optimizer.learning_rate,
                remedy="Lower it, or raise schedule.warmup_steps, and start over with --fresh",
            )

    def _log(self, line: dict[str, Any], progress: Progress) -> None:
        if is_main():
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            progress.report(line)

    def _describe(self, state: str, *, new_session: bool = False) -> None:
        """Write ``run.json``."""
        before = checkpoint.read_run(self.folder) or {}
        sessions = before.get("sessions", [])
        if new_session:
            sessions.append(
                {
                    "from_step": self.step,
                    "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "command": sys.argv,
                    "world": world_size(),
                    "device": str(self.device),
                    "threads": torch.get_num_threads(),
                    "host": platform.node(),
                    "processor_count": os.cpu_count(),
                }
            )
        write_json_atomic(
            self.folder / "run.json",
            {
                "format": checkpoint.RUN_FORMAT,
                "state": state,
                "step": self.step,
                "samples_seen": self.step * self.config.train.global_batch,
                "seconds": round(self.seconds, 3),
                "parameters": sum(value.numel() for value in self.network.parameters()),
                "manifest": self.config.data.manifest,
                "settings": self.settings,
                "versions": {
                    "percept": percept.__version__,
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                },
                "sessions": sessions,
            },
        )
