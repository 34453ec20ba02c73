"""The training loop."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import percept
from percept.distributed import (
    all_gather_rows,
    all_gather_texts,
    barrier,
    is_main,
    meeting,
    rank,
    together,
    world_size,
)
from percept.errors import InputError
from percept.files import write_json_atomic
from percept.inference.networks import DeepNet, Hypercolumn, build_network, save_checkpoint
from percept.metrics.weights import load_backbone
from training import checkpoint
from training.clock import Clock
from training.config import Config
from training.data import (
    Photograph,
    Views,
    chroma_histogram,
    data_sha256,
    jensen_shannon,
    load_batches,
)
from training.losses import Objective, check_objective, chroma_prior
from training.parallel import State, Step, make_parallel
from training.progress import Progress
from training.tracking import Tracker, grid

_VALIDATION_PHOTOS = 64  # that the main process evaluates while the others wait
# The loss that divergence is judged by is smoothed over so many steps, and so many views: a
# training may begin with a few bad steps, and a photograph may be all colour or none.
_SMOOTHED_STEPS, _SMOOTHED_VIEWS = 10, 160
_FIRST_VIEWS = 8  # before which its lowest value says nothing
_SMALLEST_SCALE = 2.0**-8  # of fp16's loss: overflow even there is divergence


def make_network(config: Config, *, world: int = 1) -> nn.Module:
    """Network with initial weights that the seed decides, and pretrained ones where it has such.

    Raises
    ------
    InputError
        If the network cannot be built, cannot take views of this size, does not go with the
        loss or the way it is to be trained, or starts from weights that are not there.
    """
    with torch.random.fork_rng(devices=[]):  # of the CPU, where it is made
        torch.manual_seed(config.seed)
        try:
            network = build_network(config.network.name, config.network.arguments)
        except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
            raise InputError(
                f"the network is too large: {str(error).partition(chr(10))[0]}",
                key="network.arguments",
                value=config.network.arguments,
            ) from None
    if isinstance(network, Hypercolumn):
        features = load_backbone("vgg16").items()
        network.features.load_state_dict({k.removeprefix("features."): v for k, v in features})
    divisor = int(getattr(network, "divisor", 1))
    for view in config.views:
        for side in (side for side in view if side % divisor):
            raise InputError(
                f"the network takes views whose sides are multiples of {divisor}",
                key="data.buckets" if config.data.buckets else "train.crop",
                value=list(view) if config.data.buckets else config.train.crop,
                remedy=f"For example {side - side % divisor or divisor} instead of {side}",
            )
    replicated = config.sharding.strategy in {"none", "zero"}
    if getattr(network, "conditional", False) and replicated:
        if not config.communication.find_unused_parameters:
            raise InputError(
                f"some photographs do not pass every part of the network {config.network.name}, "
                "whose gradients DDP would wait for",
                key="communication.find_unused_parameters",
                value=False,
                remedy="Set it to true",
            )
    elif getattr(network, "conditional", False) and world > 1:
        raise InputError(
            f"processes that take different ways through the network {config.network.name} would "
            f"wait for each other under {config.sharding.strategy}",
            key="sharding.strategy",
            value=config.sharding.strategy,
            remedy="Use none or zero",
        )
    layers = len(network.layers) if isinstance(network, DeepNet) else world
    if config.sharding.strategy == "pipeline" and world > layers:
        raise InputError(
            f"{layers} layers cannot be divided into {world} stages",
            key="network.arguments",
            value=config.network.arguments,
            remedy="Raise blocks, or lower --nproc",
        )
    check_objective(config, network)
    return network


def learning_rate(step: int, config: Config) -> float:
    """Learning rate of step 0, 1, …: linear warmup, then a cosine down to its final fraction."""
    peak, warmup = config.optimizer.learning_rate, config.schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, config.train.steps - warmup)
    final = config.schedule.final_fraction
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def settings_of(
    config: Config, photographs: Sequence[Photograph], validation: Sequence[Photograph]
) -> dict[str, Any]:
    """All that decides the result: two trainings with equal settings are the same training."""
    settings = config.as_dict()
    del settings["data"]["manifest"]  # where it lies does not matter, what it names does
    return {**settings, **data_sha256(photographs, validation, config)}


class Trainer:
    """One training in one process of the world.

    Parameters
    ----------
    config : Config
        What to train.
    photographs, validation : sequence of Photograph
        The training and the validation split; the latter may be empty.
    folder : Path
        Where everything goes; begun work of the same settings there is continued.
    device : torch.device
        Where this process computes.
    fresh : bool
        Whether begun work goes instead, once the network and the photographs are known to fit.

    Raises
    ------
    InputError
        If the network or the photographs do not fit, or the state is of another world size and
        it or the photographs cannot be divided anew.
    """

    def __init__(
        self,
        config: Config,
        photographs: Sequence[Photograph],
        validation: Sequence[Photograph],
        folder: Path,
        *,
        device: torch.device,
        fresh: bool = False,
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        with together():  # what one process cannot read stops all, before they need each other
            network = make_network(config, world=world_size())
            self.parameters = sum(value.numel() for value in network.parameters())
            self.views = Views(photographs, config, rank=rank(), world=world_size())
            #: Evaluates and exports, in the main process.
            self.exported = make_network(config, world=world_size()).eval() if is_main() else None
            self.fixed, self.validates = self._fixed_views(validation)
            prior = None
            if config.loss.classification:
                every = range(len(photographs))
                prior = chroma_prior(self.views.photograph(index) for index in every)
            self.objective = Objective(config, network, device, prior)
        with together():
            if fresh and is_main():
                checkpoint.clear(folder)
        self.clock = Clock(device)
        self.parallel = make_parallel(config, network, device, self.objective, self.clock)
        if self.exported is not None and not self.parallel.is_divided:
            self.exported.to(device)
        self.settings = settings_of(config, photographs, validation)
        seen = [*photographs, *validation]
        self.hashes = sorted({sha for photograph in seen for sha in photograph.hashes})
        self.saver = checkpoint.Saver(folder)
        saved = [str(checkpoint.saved_step(folder))] if is_main() else []
        self.step = int(all_gather_texts(saved)[0])
        self.seconds = 0.0
        #: Whether the last step may be the first of a divergence, so that no state is saved.
        self.doubtful = False
        #: Colours that this process has trained on since the last line of the log.
        self.colours = torch.zeros(256, dtype=torch.float64)
        # ``terms`` since the last line of the log, too; the others since the beginning.
        self.sums: dict[str, Any] = {
            "terms": [0.0] * len(self.objective.names),
            "smooth": 0.0,
            "lowest": None,
            "start": None,
            "best": None,
        }
        if self.step:
            self._restore()

    def run(self) -> None:
        """Train to the last step, saving on the way.

        Raises
        ------
        InputError
            If the loss or its gradient is no longer finite, or the smoothed loss rises above both
            ``train.divergence`` times its lowest value and half of what it was at the start; the
            last saved step is kept.
        """
        tracker = None
        if is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.trim_logs(self.folder, self.step)
            self._describe("running", new_session=True)
            tracker = Tracker(
                self.folder, tensorboard=self.config.train.tensorboard, step=self.step
            )
        try:
            with meeting():
                self._train(tracker)
        except BaseException:
            with suppress(Exception):
                self.saver.wait()  # what is being written becomes whole
            raise
        self.saver.wait()
        barrier()
        if tracker is not None:
            tracker.close()
            self._describe("complete")
        barrier()

    def _train(self, tracker: Tracker | None) -> None:
        train = self.config.train
        batches = load_batches(self.views, self.config.data, range(self.step, train.steps))
        self.parallel.settle(self.config.views)
        began, since = time.monotonic() - self.seconds, self.step
        marked = time.monotonic()
        self.clock.lap("")
        due = False
        with Progress(self.config.arm, done=self.step, total=train.steps) as progress:
            while self.step < train.steps:
                *views, problem = next(batches)
                luminance, chroma = (part.to(self.device, non_blocking=True) for part in views)
                self.clock.lap("data")
                rate = learning_rate(self.step, self.config)
                outcome = self.parallel.step(luminance, chroma, number=self.step, rate=rate)
                if not all(map(math.isfinite, outcome.terms)):
                    with together():  # because a process had no photograph?
                        if problem:
                            raise InputError(problem)
                self.colours += chroma_histogram(chroma)
                self._judge(outcome)
                self.step += 1
                last = self.step == train.steps
                if self.step % train.log_every == 0 or last:
                    now = time.monotonic()
                    steps = self.step - since
                    line = self._line(rate, outcome, steps, now - marked)
                    marked, since = now, self.step
                    if tracker is not None:
                        tracker.line(line)
                        progress.report(line)
                progress.advance(self.step)
                due |= self.step % train.checkpoint_every == 0
                if (due and not self.doubtful) or last:
                    due = False
                    self.seconds = time.monotonic() - began
                    self._save(tracker)
                    self.clock.lap("")

    def _judge(self, outcome: Step) -> None:
        """Add up what a step says, or stop the training if it says that it has failed."""
        loss = float(self.objective.total(torch.tensor(outcome.terms, device=self.device)))
        scaler = self.parallel.scaler
        overflow = scaler.is_enabled() and scaler.get_scale() >= _SMALLEST_SCALE
        if not (math.isfinite(loss) and (math.isfinite(outcome.norm) or overflow)):
            self._stop_diverged(f"loss {loss}, gradient norm {outcome.norm}")
        sums = self.sums
        sums["terms"] = [a + b for a, b in zip(sums["terms"], outcome.terms, strict=True)]
        batch, number = self.config.train.global_batch, self.step + 1
        share = min(1 / _SMOOTHED_STEPS, batch / _SMOOTHED_VIEWS)
        share = max(share, 1 / number)  # at first, a plain mean
        sums["smooth"] += share * (loss - sums["smooth"])
        if number * batch < _FIRST_VIEWS:
            return
        sums["start"] = sums["start"] or sums["smooth"]
        sums["lowest"] = min(sums["smooth"], sums["lowest"] or math.inf)
        factor = self.config.train.divergence
        # What has come far down may rise again; only at half of the start is that a failure.
        limit = max(factor * sums["lowest"], sums["start"] / 2) if factor else math.inf
        self.doubtful = loss > limit
        if number >= _SMOOTHED_STEPS and sums["smooth"] > limit:
            self._stop_diverged(
                f"loss {sums['smooth']:.4g}, having been {sums['lowest']:.4g} "
                f"({sums['start']:.4g} at the start)"
            )

    def _line(self, rate: float, outcome: Step, steps: int, seconds: float) -> dict[str, Any]:
        """One line of the log, and a new beginning for the next."""
        every = self.config.train.log_every
        terms = [value / ((self.step - 1) % every + 1) for value in self.sums["terms"]]
        counts = all_gather_rows(self.colours[None]).numpy()
        if self.config.sharding.strategy == "pipeline":
            counts = counts[:1]
        laps, handed = self.clock.take(), dict(self.parallel.bytes)
        line: dict[str, Any] = {
            "step": self.step,
            "loss": float(self.objective.total(torch.tensor(terms, device=self.device))),
            "learning_rate": rate,
            "gradient_norm": outcome.norm if math.isfinite(outcome.norm) else None,
            "samples_per_second": steps * self.config.train.global_batch / seconds,
            "rank_divergence": round(jensen_shannon(counts), 6),
            "all_reduce_bytes": round(handed.pop("all_reduce", 0) / steps),
            "other_bytes": {kind: round(value / steps) for kind, value in sorted(handed.items())},
            "step_seconds": {name: round(value / steps, 6) for name, value in laps.items()},
        }
        if len(terms) > 1:
            line["losses"] = dict(zip(self.objective.names, terms, strict=True))
        if self.parallel.scaler.is_enabled():
            line["loss_scale"] = self.parallel.scaler.get_scale()
        self.sums["terms"] = [0.0] * len(terms)
        self.colours.zero_()
        self.parallel.bytes.clear()
        return line

    def _save(self, tracker: Tracker | None) -> None:
        self.saver.wait()
        exported = self.exported
        into = exported.state_dict() if exported is not None else None
        for name, value in self.parallel.weights():
            if into is not None:
                into[name].copy_(value)
        best = False
        if exported is not None and tracker is not None:
            best = self._evaluate(exported, tracker)
        common, local = self.parallel.state()
        common |= {"trainer": dict(self.sums), "seconds": self.seconds, "world": world_size()}
        config = self.config
        card = {
            "network": {"name": config.network.name, "arguments": config.network.arguments},
            "input": {"max_side": config.data.max_side},
            "arm": config.arm,
            "seed": config.seed,
            "step": self.step,
            "steps": config.train.steps,
            "training_sha256": self.hashes,
            "code_version": percept.__version__,
        }

        def export() -> None:
            assert exported is not None  # noqa: S101 (the main process calls this)
            # Before the state: what is killed between the two does these steps again, and this.
            for folder in [self.folder, self.folder / "best"][: 1 + best]:
                save_checkpoint(folder, exported, card)

        own = self.parallel.copies_state
        self.saver.start(self.step, common, local, before=export, own=own)

    @torch.no_grad()
    def _evaluate(self, exported: nn.Module, tracker: Tracker) -> bool:
        """Colour the fixed views; whether they came out better than ever before."""
        luminance, chroma = (part.to(self.device) for part in self.fixed)
        home = "cpu" if self.parallel.is_divided else self.device

        def network(light: Tensor, **options: Any) -> Tensor:
            output: Tensor = exported(light.to(home), **options)
            return output.to(self.device)

        shown = self.config.train.samples
        if shown:
            predicted = network(luminance[:shown]).float()
            tracker.picture(self.step, grid(luminance[:shown], predicted, chroma[:shown]))
        if not self.validates:
            return False
        losses = [
            self.objective.evaluate(network, light[None], colour[None])
            for light, colour in zip(luminance, chroma, strict=True)
        ]
        loss = sum(losses) / len(losses)
        tracker.validation(self.step, loss)
        best = self.sums["best"] is None or loss < self.sums["best"]
        if best:
            self.sums["best"] = loss
        return best

    def _fixed_views(self, validation: Sequence[Photograph]) -> tuple[tuple[Tensor, Tensor], bool]:
        """Cut the views that every saved state colours: of the validation, else the training."""
        views, count = self.views, min(len(self.views), self.config.train.samples)
        if validation:
            views = Views(validation[:_VALIDATION_PHOTOS], self.config)
            count = len(views)
        if not is_main() or not count:
            return (torch.empty(0), torch.empty(0)), False
        pairs = [views.center(index) for index in range(count)]
        light, colour = (torch.stack(part) for part in zip(*pairs, strict=True))
        return (light, colour), bool(validation)

    def _read_state(self) -> tuple[State, State]:
        common, local = checkpoint.load_state(self.folder, self.step, self.device)
        holds = None
        if self.parallel.is_local:
            holds = "holds a part of the state"
        elif self.config.data.sampler == "contiguous":
            holds = "keeps to its own stretch of the photographs"
        if holds is not None and common["world"] != world_size():
            raise InputError(
                f"was begun with {common['world']} processes, each of which {holds}; "
                f"{world_size()} cannot go on from there",
                file=self.folder,
                key="--nproc",
                value=world_size(),
                remedy=f"Use --nproc {common['world']}, or add --fresh to start over",
            )
        if self.parallel.is_local and not local:
            raise LookupError(f"the part of process {rank()} is missing")
        return common, local

    def _restore(self) -> None:
        with together(), checkpoint.readable(self.folder, self.step):
            common, local = self._read_state()
        self.parallel.load(common, local)
        self.sums, self.seconds = common["trainer"], common["seconds"]
        if self.config.sharding.strategy in {"none", "zero"} and not self.config.local_sgd:
            digest = hashlib.sha256()
            for value in self.parallel.network.state_dict().values():
                digest.update(value.cpu().contiguous().view(torch.uint8).numpy())
            with together():
                if len(set(all_gather_texts([digest.hexdigest()]))) > 1:
                    raise InputError(
                        f"the processes have read different weights of step {self.step}",
                        file=self.folder,
                        key="--out",
                        remedy="Put it on a disk that all nodes share, or add --fresh",
                    )

    def _stop_diverged(self, what: str) -> None:
        self.saver.wait()
        barrier()
        kept = checkpoint.saved_step(self.folder)
        if is_main():
            self._describe("diverged")
        with together():
            raise InputError(
                f"training diverged at step {self.step + 1}: {what}. "
                + (f"The checkpoint of step {kept} is kept" if kept else "Nothing was saved yet"),
                file=self.folder,
                remedy=f"Lower optimizer.learning_rate, {self.config.optimizer.learning_rate}, or "
                "raise schedule.warmup_steps, and start over with --fresh",
            )

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
                "parameters": self.parameters,
                "batch": {
                    "global": self.config.train.global_batch,
                    "world": world_size(),
                    "micro": len(self.views.share) // self.config.train.accumulation,
                    "accumulation": self.config.train.accumulation,
                },
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
