"""How gradients travel between the processes of DistributedDataParallel, and what that costs.

No ``from __future__ import annotations`` here: DDP compares a hook's annotations with the types.
"""

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from training.clock import Clock
from training.config import Config

# What PowerSGD remembers from step to step; error_dict differs from process to process.
_MEMORY = ("error_dict", "p_memory_dict", "q_memory_dict", "iter")


class Communication:
    """The communication hook of a model, and a meter on it.

    Set ``step`` before every backward pass; it is below zero for a pass that is no step.

    Parameters
    ----------
    config : Config
    clock : Clock
        Learns when the all-reduce of each bucket began and ended.

    Attributes
    ----------
    bytes : int
        What this process handed to all-reduce since it was last set to 0. A ring sends
        2 (N - 1)/N times that over each link.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self.step = -1
        self.bytes = 0
        self._config = config.communication
        self._clock = clock
        self._power = None
        if self._config.compression == "powersgd":
            self._power = PowerSGDState(
                None,
                matrix_approximation_rank=self._config.powersgd_rank,
                start_powerSGD_iter=2,
                min_compression_rate=1,
                orthogonalization_epsilon=1e-8,
                random_seed=config.seed,
            )
            self._power.iter = 2  # the uncompressed steps are counted here, not there

    def attach(self, model: DistributedDataParallel) -> None:
        """Route the gradients of ``model`` through this."""
        model.register_comm_hook(self, _exchange)

    @property
    def alone(self) -> bool:
        """Whether this step's gradients stay where they are (post-local SGD)."""
        return self._config.average_every > 1 and self.step >= self._config.average_start

    @property
    def is_local(self) -> bool:
        """Whether there is memory that differs between processes, and must be saved by each."""
        return self._power is not None

    def state_dict(self) -> dict[str, Any]:
        """Memory of this process, as tensors and numbers."""
        return {name: getattr(self._power, name) for name in _MEMORY} if self._power else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        for name, value in state.items():
            setattr(self._power, name, value)

    def exchange(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Average one bucket of gradients over the processes."""
        world: Any = dist.group.WORLD
        method = self._config.compression
        if self.step < self._config.compression_start:
            method = "none"
        buffer, began = bucket.buffer(), self._clock.mark()
        size = buffer.numel() * buffer.element_size()
        if self._power is not None and method == "powersgd":
            before = self._power.total_numel_after_compression
            averaged = powerSGD_hook(self._power, bucket)
            # Each bucket is three collectives, the later ones started by callbacks. Gloo pairs
            # them by order of starting, which two buckets in flight would leave to chance.
            averaged.wait()
            sent = self._power.total_numel_after_compression - before
            size = sent * buffer.element_size()
        elif method == "fp16":
            averaged, size = default_hooks.fp16_compress_hook(world, bucket), 2 * buffer.numel()
        elif method == "bf16":
            averaged, size = default_hooks.bf16_compress_hook(world, bucket), 2 * buffer.numel()
        else:
            averaged = default_hooks.allreduce_hook(world, bucket)
        self.bytes += size

        def done(future: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
            self._clock.note_exchange(began, self._clock.mark())
            return future.value()

        return averaged.then(done)


def _exchange(
    communication: Communication, bucket: GradBucket
) -> torch.futures.Future[torch.Tensor]:
    return communication.exchange(bucket)


class ShardExchange:
    """What FSDP gathers weights or scatters gradients by, metered.

    FSDP2 takes an object like this one in place of its own, which does the same.

    Parameters
    ----------
    kind : str
        ``all_gather`` or ``reduce_scatter``.
    clock : Clock
    handed : Counter
        Bytes that this process handed over, by kind.
    """

    def __init__(self, kind: str, clock: Clock, handed: Counter[str]) -> None:
        self._kind, self._clock, self._handed = kind, clock, handed
        # Names since torch 2.14, and before.
        names = {
            "all_gather": ("all_gather_single", "all_gather_into_tensor"),
            "reduce_scatter": ("reduce_scatter_single", "reduce_scatter_tensor"),
        }[kind]
        self._exchange: Any = next(getattr(dist, name) for name in names if hasattr(dist, name))

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Make room for what is received."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: Any,
        *args: Any,
        async_op: bool = False,
        **options: Any,
    ) -> Any:
        """Exchange; ``options`` are those of the collective."""
        if args:  # FSDP has given ``op`` by position, too
            options["op"] = args[0]
        began = self._clock.mark()
        work = self._exchange(
            output_tensor, input_tensor, group=group, async_op=async_op, **options
        )
        self._handed[self._kind] += input_tensor.numel() * input_tensor.element_size()
        if work is None:  # else it is not over yet, and how long it takes is not known here
            self._clock.note_exchange(began, self._clock.mark(), self._kind)
        return work


def average(tensors: list[torch.Tensor]) -> int:
    """Replace tensors by their mean over the processes; returns the bytes handed over."""
    world = dist.get_world_size()
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors]) / world
    dist.all_reduce(flat)
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, part in zip(tensors, flat.split(sizes), strict=True):
        tensor.detach().copy_(part.view_as(tensor))
    return flat.numel() * flat.element_size()
