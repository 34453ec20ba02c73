"""How one step is computed by several processes: data parallel, sharded, or as a pipeline.

Each strategy holds this process's part of the network and its optimizer, computes gradients of
the global batch, and can give up and take back its state. Where that state is the same, or can be
put together, on one process, it is saved whole, and another number of processes can go on from
there; where it belongs to a process, each saves its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from percept.distributed import is_main, rank, world_size
from percept.inference.networks import Block, DeepNet
from training.clock import Clock
from training.communication import Communication, ShardExchange, average
from training.config import Config, OptimizerConfig
from training.losses import Objective

State = dict[str, Any]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_parallel(
    config: Config, network: nn.Module, device: torch.device, objective: Objective, clock: Clock
) -> Parallel:
    """Set up the strategy of a configuration for a network with its initial weights."""
    if config.memory.activation_checkpointing:
        for module in network.modules():
            if isinstance(module, Block):
                module.checkpointing = True
    kind = {"fsdp": Sharded, "hybrid": Sharded, "pipeline": Pipeline}
    strategy: type[Parallel] = kind.get(config.sharding.strategy, Replicated)
    return strategy(config, network, device, objective, clock)


class Parallel:
    """What all strategies share: one step, from a batch to updated weights.

    Parameters
    ----------
    config : Config
    network : nn.Module
        On the CPU; taken over, and what this process has of it put on ``device``.
    device : torch.device
    objective : Objective
    clock : Clock
    """

    #: Whether every process saves a part of the state, so that their number cannot change.
    is_local = False
    #: Whether no process ever has the whole network on its device.
    is_divided = False
    #: Whether the state's tensors are copies that nothing else uses.
    copies_state = False

    def __init__(
        self,
        config: Config,
        network: nn.Module,
        device: torch.device,
        objective: Objective,
        clock: Clock,
    ) -> None:
        self.config, self.device, self.objective, self.clock = config, device, objective, clock
        self.network = network
        self.model: nn.Module = network
        #: Bytes that this process handed to other processes since this was last cleared, by the
        #: kind of exchange.
        self.bytes: Counter[str] = Counter()
        fp16 = config.memory.precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=fp16, init_scale=2.0**8)
        self._prepare()
        self.optimizer = self._make_optimizer()
        #: Running average of the weights, by name; empty where there is to be none.
        self.average = {
            name: value.detach().clone()
            for name, value in self._weights().items()
            if config.train.ema
        }

    # -- one step ---------------------------------------------------------------------------------

    def settle(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Do whatever is done once, at the first pass, before step one and a resume alike."""

    def step(self, luminance: Tensor, chroma: Tensor, *, number: int, rate: float) -> Step:
        """Compute the gradient of this process's share of a batch, and follow it.

        Weights are left alone where loss or gradient is not finite.
        """
        terms = self._gradient(luminance, chroma, number)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = self._clip(self.config.optimizer.clip_norm or math.inf)
        # All processes must judge alike, also where each has a gradient of its own.
        judged = torch.cat([terms, norm.to(terms)[None]])
        dist.all_reduce(judged)
        judged = judged / world_size()
        *means, mean_norm = judged.tolist()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # leaves the weights alone after an overflow
            self.scaler.update()
        elif all(map(math.isfinite, (*means, mean_norm))):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.clock.lap("optimizer")
        if self.objective.adversary is not None:
            began = self.clock.mark()
            self.bytes["all_reduce"] += self.objective.adversary.exchange()
            self.clock.note_exchange(began, self.clock.mark())
            self.clock.lap("all_reduce")
            self.objective.adversary.step()
        self._synchronise(number)
        self._update_average(number)
        self.clock.lap("optimizer")
        return Step(means, mean_norm)

    def _gradient(self, luminance: Tensor, chroma: Tensor, number: int) -> Tensor:
        passes = self.config.train.accumulation
        total = torch.zeros(len(self.objective.names), device=self.device)
        parts = zip(luminance.chunk(passes), chroma.chunk(passes), strict=True)
        for index, (light, colour) in enumerate(parts):
            # Around forward and backward: what DDP will do is decided in the forward pass.
            with self._quiet(index + 1 < passes):
                with self.autocast():
                    terms = self.objective(self.model, light, colour)
                self.clock.lap("forward")
                self.scaler.scale(self.objective.total(terms) / passes).backward()
                self.clock.lap("backward")
            total += terms.detach() / passes
        return total

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which forward passes run."""
        precision = self.config.memory.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[precision])

    @torch.no_grad()
    def _update_average(self, number: int) -> None:
        # Young averages forget faster, or the initial weights would stay in them for long.
        decay = min(self.config.train.ema, (1 + number) / (10 + number))
        if self.average:
            for name, value in self._weights().items():
                self.average[name].lerp_(value, 1 - decay)

    # -- what strategies differ in ----------------------------------------------------------------

    def _prepare(self) -> None:
        """Put the network, or a part of it, on the device, and set ``model``."""

    def _make_optimizer(self) -> torch.optim.Optimizer:
        kind, options = optimizer_of(self.config.optimizer)
        return kind(self._groups(), **options)

    def _groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.network, self.config.optimizer)

    def _quiet(self, quiet: bool) -> AbstractContextManager[Any]:
        """Context of a pass whose gradients stay here, if ``quiet``."""
        return nullcontext()

    def _clip(self, limit: float) -> Tensor:
        return nn.utils.clip_grad_norm_(self.network.parameters(), limit)

    def _synchronise(self, number: int) -> None:
        """Average weights, where gradients were not."""

    def _weights(self) -> dict[str, Tensor]:
        """Weights and buffers of this process, without those that training leaves alone."""
        frozen = {name for name, p in self.network.named_parameters() if not p.requires_grad}
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if name not in frozen}

    # -- state ------------------------------------------------------------------------------------

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield the whole network's weights for inference; all processes go through all of them."""
        return {**self.network.state_dict(), **self.average}.items()

    def state(self) -> tuple[State, State]:
        """Return what the main process saves, and what each process saves for itself.

        Other processes may get nothing instead of what the main process saves.
        """
        state = {
            "network": self._whole(self._weights()),
            "average": self._whole(self.average),
            "optimizer": self._optimizer_state(),
            "scaler": self.scaler.state_dict(),
        }
        if self.objective.adversary is not None:
            state["adversary"] = self.objective.adversary.state_dict()
        return (state, {}) if not self.is_local else ({}, {**state, **self._own_state()})

    def load(self, common: State, local: State) -> None:
        """Take back what :meth:`state` gave."""
        state = local if self.is_local else common
        self._put(self._weights(), state["network"])
        self._put(self.average, state["average"] or state["network"])
        self._load_optimizer(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.objective.adversary is not None:
            self.objective.adversary.load_state_dict(state["adversary"])
        self._load_own(local)

    def _own_state(self) -> State:
        return {}

    def _load_own(self, local: State) -> None:
        pass

    def _whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def _put(self, into: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        for name, tensor in into.items():
            tensor.detach().copy_(values[name])

    def _optimizer_state(self) -> State:
        return self.optimizer.state_dict()

    def _load_optimizer(self, state: State) -> None:
        self.optimizer.load_state_dict(state)


class Step:
    """Outcome of a step: mean terms of the loss over the whole batch, and the gradient's norm."""

    def __init__(self, terms: Sequence[float], norm: float) -> None:
        self.terms, self.norm = terms, norm


class Replicated(Parallel):
    """DistributedDataParallel: plain, with ZeRO's optimizer, or with post-local SGD."""

    def _prepare(self) -> None:
        config = self.config.communication
        self.network.to(self.device)
        self.is_local = self.config.local_sgd or config.compression == "powersgd"
        self._communication = Communication(self.config, self.clock)
        self._remembered: State = {}
        # Buffers are constants, and need not be sent at every step.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self.network, [name for name, _ in self.network.named_buffers()]
        )
        self._ddp = DistributedDataParallel(
            self.network,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            bucket_cap_mb=config.bucket_mb,
            gradient_as_bucket_view=config.gradient_as_bucket_view,
            static_graph=config.static_graph,
            find_unused_parameters=config.find_unused_parameters,
        )
        self._communication.attach(self._ddp)
        self.model = self._ddp
        if self.config.memory.compile:
            self._ddp.compile()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        if self.config.sharding.strategy != "zero":
            return super()._make_optimizer()
        from torch.distributed.optim import ZeroRedundancyOptimizer

        kind, options = optimizer_of(self.config.optimizer)
        zero = ZeroRedundancyOptimizer(self._groups(), optimizer_class=kind, **options)
        # It steps its own part by an optimizer within; then all processes broadcast theirs.
        own: torch.optim.Optimizer = zero.optim
        stepped: list[Any] = []

        def sent(*_: Any) -> None:
            self.clock.note_exchange(stepped.pop(), self.clock.mark(), "broadcast")
            parts = [p for group in own.param_groups for p in group["params"]]
            self.bytes["broadcast"] += sum(p.numel() * p.element_size() for p in parts)

        own.register_step_post_hook(lambda *_: stepped.append(self.clock.mark()))
        zero.register_step_post_hook(sent)
        return zero

    def settle(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Let DDP arrange its buckets, which it does after the first backward pass.

        So what compression remembers by bucket still fits, and a resumed run sums in the same
        order.
        """
        self._communication.step = -1
        for height, width in shapes:
            light = torch.zeros(1, 1, height, width, device=self.device)
            with self.autocast():
                terms = self.objective(
                    self.model, light, torch.zeros_like(light).repeat(1, 2, 1, 1)
                )
            (0 * self.objective.total(terms)).backward()
        self.optimizer.zero_grad(set_to_none=True)
        if self.objective.adversary is not None:
            self.objective.adversary.optimizer.zero_grad(set_to_none=True)
        self._communication.load_state_dict(self._remembered)
        self._communication.bytes = 0
        self.clock.take()

    def _gradient(self, luminance: Tensor, chroma: Tensor, number: int) -> Tensor:
        self._communication.step = number
        return super()._gradient(luminance, chroma, number)

    def _quiet(self, quiet: bool) -> AbstractContextManager[Any]:
        return self._ddp.no_sync() if quiet or self._communication.alone else nullcontext()

    def _synchronise(self, number: int) -> None:
        config = self.config.communication
        last = number + 1 == self.config.train.steps
        due = (number + 1 - config.average_start) % config.average_every == 0
        if self._communication.alone and (due or last):
            began = self.clock.mark()
            self._communication.bytes += average([*trained(self.network)])
            self.clock.note_exchange(began, self.clock.mark())
            self.clock.lap("all_reduce")
        self.bytes["all_reduce"] += self._communication.bytes
        self._communication.bytes = 0

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield weights for inference; of processes that step alone, the mean."""
        weights = dict(super().weights())
        if self.config.local_sgd:
            learnt = {
                name: weights[name].clone()
                for name, parameter in self.network.named_parameters()
                if parameter.requires_grad  # the mean of equal numbers need not be that number
            }
            average(list(learnt.values()))
            weights |= learnt
        return weights.items()

    def _own_state(self) -> State:
        return {"communication": self._communication.state_dict()}

    def _load_own(self, local: State) -> None:
        self._remembered = local.get("communication", {})

    def _optimizer_state(self) -> State:
        if self.config.sharding.strategy != "zero":
            return self.optimizer.state_dict()
        self.optimizer.consolidate_state_dict(to=0)  # type: ignore[attr-defined]
        return self.optimizer.state_dict() if is_main() else {}


class Sharded(Parallel):
    """FSDP2: weights, gradients and optimizer state in parts, gathered block by block.

    With ``hybrid`` the parts lie within groups of processes, and the groups are replicas. What is
    saved is put together tensor by tensor, in the memory of the main process.
    """

    is_divided = copies_state = True

    def _prepare(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        sharding, world = self.config.sharding, world_size()
        if sharding.strategy == "hybrid":
            mesh = init_device_mesh(
                self.device.type,
                (world // sharding.size, sharding.size),
                mesh_dim_names=("replica", "shard"),
            )
        else:
            mesh = init_device_mesh(self.device.type, (world,))
        # Each moves what it divides to the device, and the block is over before the next.
        for module in self.network.modules():
            if isinstance(module, Block):
                fully_shard(module, mesh=mesh)
        fully_shard(self.network, mesh=mesh)
        self._meter()
        if self.config.memory.compile:
            self.network.compile()

    def _meter(self) -> None:
        """Count what FSDP exchanges, where this version of torch lets it be seen."""
        from torch.distributed.fsdp import FSDPModule

        def reduced(gradient: Tensor) -> None:
            self.bytes["all_reduce"] += gradient.numel() * gradient.element_size()

        for module in self.network.modules():
            if isinstance(module, FSDPModule) and hasattr(module, "set_custom_all_gather"):
                for kind in ("all_gather", "reduce_scatter"):
                    exchange = ShardExchange(kind, self.clock, self.bytes)
                    getattr(module, f"set_custom_{kind}")(exchange)
                if self.config.sharding.strategy == "hybrid":
                    module.set_all_reduce_hook(reduced)

    def _quiet(self, quiet: bool) -> AbstractContextManager[Any]:
        self.network.set_requires_gradient_sync(not quiet)  # type: ignore[operator]
        return nullcontext()

    def _clip(self, limit: float) -> Tensor:
        norm = super()._clip(limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Put the whole network's weights for inference together, one by one."""
        for name, value in super().weights():
            yield name, _full(value)

    def _whole(self, tensors: Mapping[Any, Any]) -> dict[Any, Any]:
        whole = ((name, _full(value)) for name, value in tensors.items())
        return {name: value.to("cpu", copy=True) for name, value in whole if is_main()}

    def _put(self, into: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        for name, tensor in into.items():
            tensor.detach().copy_(_part(values[name], tensor))

    def _optimizer_state(self) -> State:
        state = self.optimizer.state_dict()
        return {
            **state,
            "state": {index: self._whole(own) for index, own in state["state"].items()},
        }

    def _load_optimizer(self, state: State) -> None:
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        parts = {
            index: {
                key: _part(value, order[index]) if key != "step" else value
                for key, value in own.items()
            }
            for index, own in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": parts})


class Pipeline(Parallel):
    """Each process computes some of the layers; parts of the batch follow one another (GPipe)."""

    is_local = is_divided = True

    def _prepare(self) -> None:
        from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

        assert isinstance(self.network, DeepNet)  # noqa: S101 (checked with the config)
        self._names = list(self.network.state_dict())
        self._shapes = {name: value.shape for name, value in self.network.state_dict().items()}
        self.network.cut(rank(), world_size())
        self.network.to(self.device)
        self._sent: list[int] = []
        self._terms: list[Tensor] = []
        stage = PipelineStage(_Stage(self.network, self._run), rank(), world_size(), self.device)
        self._schedule = ScheduleGPipe(
            stage, self.config.sharding.microbatches, loss_fn=self._judge
        )

    def _run(self, inputs: Tensor) -> Tensor:
        """Pass a part of the batch; note what that sends on and, as a gradient, back."""
        with self.autocast():
            output: Tensor = self.network(inputs)
        onward, back = output[:0], inputs if rank() > 0 else inputs[:0]
        if rank() < world_size() - 1:
            # Where a stage finds its output's type without computing, autocast has no part in it.
            onward = output = output.to(_DTYPES[self.config.memory.precision])
        self._sent.append(sum(t.numel() * t.element_size() for t in (onward, back)))
        return output

    def _judge(self, predicted: Tensor, chroma: Tensor) -> Tensor:
        terms = self.objective.chroma_terms(predicted.float(), chroma)
        self._terms.append(terms.detach())
        return self.objective.total(terms)

    def _gradient(self, luminance: Tensor, chroma: Tensor, number: int) -> Tensor:
        inputs = (luminance,) if rank() == 0 else ()
        if rank() == world_size() - 1:
            self._schedule.step(*inputs, target=chroma)
        else:
            self._schedule.step(*inputs)
        self.clock.lap("pipeline")
        # Before its first batch the stage tries its layers once, and sends nothing.
        parts = self.config.sharding.microbatches
        self.bytes["send"] += sum(self._sent[-parts:])
        # Only the last stage knows the loss; the mean over the processes is to be it.
        known = torch.zeros(len(self.objective.names), device=self.device)
        if self._terms:
            known = torch.stack(self._terms[-parts:]).mean(0) * world_size()
        self._sent.clear()
        self._terms.clear()
        return known

    def _clip(self, limit: float) -> Tensor:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        square = nn.utils.get_total_norm(gradients).square()
        dist.all_reduce(square)
        norm = square.sqrt()
        nn.utils.clip_grads_with_norm_(self.network.parameters(), limit, norm)
        return norm

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield weights for inference, each from the stage that has it."""
        own = dict(super().weights())
        for name in self._names:
            present = torch.tensor(rank() if name in own else -1, device=self.device)
            dist.all_reduce(present, dist.ReduceOp.MAX)
            value = (
                own[name] if name in own else torch.empty(self._shapes[name], device=self.device)
            )
            dist.broadcast(value, int(present))
            yield name, value


class _Stage(nn.Module):
    """What a pipeline takes for the module of a stage."""

    def __init__(self, layers: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self._run = layers, run  # it scales the gradients of these layers

    def forward(self, inputs: Tensor) -> Tensor:
        return self._run(inputs)


def optimizer_of(config: OptimizerConfig) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Class and options of the optimizer."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.name == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD, {**options, "momentum": config.momentum, "nesterov": nesterov}
    betas = (config.momentum, config.beta2)
    # Tensor by tensor it would cost each process the same again, however small its share is.
    return torch.optim.AdamW, {**options, "betas": betas, "eps": config.epsilon, "fused": True}


def trained(network: nn.Module) -> list[nn.Parameter]:
    """Parameters that are not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def parameter_groups(network: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """All parameters in one group, or vectors (biases, scales) in one without weight decay."""
    parameters = trained(network)
    if config.decay_all:
        return [{"params": parameters}]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _full(value: Tensor) -> Tensor:
    """Put a tensor together; where it was whole already, the result shares its memory."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part(value: Tensor, like: Tensor) -> Tensor:
    """Cut out of a whole tensor what this process holds of ``like``."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements)
