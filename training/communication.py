"""How gradients travel between the processes: DDP communication hooks.

No ``from __future__ import annotations`` here: DDP compares a hook's annotations with the types.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from training.config import DistributedConfig

# What PowerSGD remembers from step to step; error_dict differs from process to process.
_MEMORY = ("error_dict", "p_memory_dict", "q_memory_dict", "iter")


class Communication:
    """Plain all-reduce for the first ``compression_start`` steps, then the compressed one.

    Set ``step`` before every backward pass; it is below zero for a pass that is no step.
    """

    def __init__(self, config: DistributedConfig, *, seed: int) -> None:
        self.step = -1
        self._config = config
        self._power = None
        if config.gradient_compression == "powersgd":
            self._power = PowerSGDState(
                None,
                matrix_approximation_rank=config.powersgd_rank,
                start_powerSGD_iter=2,
                min_compression_rate=1,
                orthogonalization_epsilon=1e-8,
                random_seed=seed,
            )
            self._power.iter = 2  # the uncompressed steps are counted here, not there

    def attach(self, model: DistributedDataParallel) -> None:
        """Route the gradients of ``model`` through this."""
        if self._config.gradient_compression != "none":
            model.register_comm_hook(self, _exchange)

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
        if self.step < self._config.compression_start:
            return default_hooks.allreduce_hook(world, bucket)
        if self._power is not None:
            averaged = powerSGD_hook(self._power, bucket)
            # Each bucket is three collectives, the later ones started by callbacks. Gloo pairs
            # them by order of starting, which two buckets in flight would leave to chance.
            averaged.wait()
            return averaged
        if self._config.gradient_compression == "fp16":
            return default_hooks.fp16_compress_hook(world, bucket)
        return default_hooks.bf16_compress_hook(world, bucket)


def _exchange(
    communication: Communication, bucket: GradBucket
) -> torch.futures.Future[torch.Tensor]:
    return communication.exchange(bucket)
