"""Losses between predicted and true chroma, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from percept.color import DELTA, TO_RGB
from percept.distributed import world_size
from percept.errors import InputError
from percept.inference.networks import ClassUNet, Hypercolumn, chroma_bins
from training.config import Config, LossConfig

TERMS = ("smooth_l1", "l1", "classification", "perceptual", "adversarial")
_SIGMA = 5.0  # of the soft encoding and of the smoothed prior, as in Zhang et al.
_NEIGHBOURS = 5


class Objective:
    """The loss of a configuration: what it says of a batch, and what that weighs.

    Every term is a mean over pixels, or over patches, whose weight never depends on the batch:
    the mean over equal shares of a batch is the mean over the batch.

    Parameters
    ----------
    config : Config
    network : nn.Module
        What is trained.
    device : torch.device
    prior : array, shape (Q,), optional
        Count of each colour of :func:`percept.inference.networks.chroma_bins` in the training
        photographs; needed by the classification.

    Raises
    ------
    InputError
        If the network does not classify and the loss would, or the other way round, or LPIPS has
        no weights.
    """

    def __init__(
        self,
        config: Config,
        network: nn.Module,
        device: torch.device,
        prior: NDArray[np.float64] | None = None,
    ) -> None:
        check_objective(config, network)
        self._config = config.loss
        self.names = tuple(name for name in TERMS if getattr(config.loss, name))
        self._classifier = network if isinstance(network, ClassUNet | Hypercolumn) else None
        self._weights = torch.tensor([getattr(config.loss, name) for name in self.names])
        self._weights = self._weights.to(device)
        self._centers = torch.from_numpy(chroma_bins()).to(device)
        if config.loss.classification and prior is not None:
            rebalanced = class_weights(prior, config.loss.rebalancing)
            self._class_weights = torch.from_numpy(rebalanced).float().to(device)
        self._lpips = _lpips(device) if config.loss.perceptual else None
        self.adversary = Adversary(config, device) if config.loss.adversarial else None

    def __call__(self, network: Callable[..., Tensor], luminance: Tensor, chroma: Tensor) -> Tensor:
        """Run the network and return its terms, in the order of ``names``, shape (terms,).

        Parameters
        ----------
        network : nn.Module
            Or what calls it.
        luminance : Tensor
            (N, 1, H, W), L*/100.
        chroma : Tensor
            (N, 2, H, W), true a*, b*.
        """
        logits = None
        if self._classifier is not None:
            logits = network(luminance, logits=True)
            predicted = self._classifier.decode(logits, luminance)
        else:
            predicted = network(luminance).float()
        return torch.stack(
            [self._term(n, predicted, logits, luminance, chroma) for n in self.names]
        )

    def evaluate(self, network: Callable[..., Tensor], luminance: Tensor, chroma: Tensor) -> float:
        """Loss of a batch, without the adversary, which moves."""
        still = torch.tensor([name != "adversarial" for name in self.names])
        terms = self(network, luminance, chroma)
        return float((self._weights * terms)[still.to(terms.device)].sum())

    def total(self, terms: Tensor) -> Tensor:
        """Weighted sum of terms."""
        return (self._weights * terms).sum()

    def chroma_terms(self, predicted: Tensor, chroma: Tensor) -> Tensor:
        """Terms of a prediction, where all of them need nothing but chroma; shape (terms,)."""
        kinds = self.names
        return torch.stack([chroma_loss(predicted, chroma, self._config, kind=k) for k in kinds])

    def _term(
        self,
        name: str,
        predicted: Tensor,
        logits: Tensor | None,
        luminance: Tensor,
        chroma: Tensor,
    ) -> Tensor:
        if name in {"smooth_l1", "l1"}:
            return chroma_loss(predicted, chroma, self._config, kind=name)
        if name == "classification":
            assert logits is not None  # noqa: S101 (check_objective)
            return class_loss(logits, chroma, self._centers, self._class_weights)
        if self._lpips is not None and name == "perceptual":
            pair = [2 * lab_to_srgb(luminance, colour) - 1 for colour in (predicted, chroma)]
            distance: Tensor = self._lpips(*pair)
            return distance.mean()
        assert self.adversary is not None  # noqa: S101 (made where the weight is above 0)
        return self.adversary.judge(luminance, predicted, chroma)


def check_objective(config: Config, network: nn.Module) -> None:
    """Raise the InputError that :class:`Objective` would."""
    classifies = isinstance(network, ClassUNet | Hypercolumn)
    if config.loss.classification and not classifies:
        raise InputError(
            f"the network {config.network.name} does not classify colours",
            key="loss.classification",
            value=config.loss.classification,
            remedy='Use network.name = "class-unet" or "hypercolumn", or weight 0',
        )
    if classifies and not config.loss.classification:
        raise InputError(
            "a network that classifies colours learns nothing useful without the cross-entropy",
            key="loss.classification",
            value=config.loss.classification,
            remedy="Use weight 1, and 0 for loss.smooth_l1",
        )
    if config.loss.perceptual:
        from percept.metrics.weights import load_backbone

        load_backbone("alexnet")


def chroma_loss(
    predicted: Tensor, true: Tensor, config: LossConfig, *, kind: str = "smooth_l1"
) -> Tensor:
    """L1 or smooth L1 on a*, b*, each pixel weighted by ``1 + chroma_weight · C*/50``.

    Most pixels of a photograph are nearly grey, so an unweighted loss is smallest for greyish
    averages; the weight is the plain form of the class rebalancing of Zhang et al. (2016).

    Parameters
    ----------
    predicted, true : torch.Tensor
        (N, 2, H, W), a* and b*.
    config : LossConfig
        ``beta`` and ``chroma_weight``.
    kind : str
        ``smooth_l1`` or ``l1``.

    Returns
    -------
    torch.Tensor
        Scalar mean.
    """
    weight = 1.0 + config.chroma_weight / 50.0 * torch.linalg.vector_norm(true, dim=1, keepdim=True)
    if kind == "l1":
        error = (predicted - true).abs()
    else:
        error = functional.smooth_l1_loss(predicted, true, beta=config.beta, reduction="none")
    return (weight * error).mean()


def class_loss(logits: Tensor, chroma: Tensor, centers: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy to softly encoded colours, rare ones weighing more.

    Zhang, Isola and Efros 2016 (arXiv:1603.08511), eq. 2 to 4: the true colour is shared among
    its five nearest bins by a Gaussian of 5 units, and the weight is that of the nearest bin.

    Parameters
    ----------
    logits : Tensor
        (N, Q, H/4, W/4).
    chroma : Tensor
        (N, 2, H, W), true a*, b*.
    centers, weights : Tensor
        (Q, 2) and (Q,).
    """
    small = functional.avg_pool2d(chroma, 4).permute(0, 2, 3, 1).reshape(-1, 2)
    distance, nearest = torch.cdist(small, centers).topk(_NEIGHBOURS, largest=False)
    share = torch.softmax(-distance.square() / (2 * _SIGMA**2), dim=1)
    scores = torch.log_softmax(logits.float().permute(0, 2, 3, 1).flatten(0, 2), dim=1)
    loss = -(share * scores.gather(1, nearest)).sum(dim=1)
    return (weights[nearest[:, 0]] * loss).mean()


def class_weights(prior: NDArray[np.float64], rebalancing: float) -> NDArray[np.float64]:
    """Weight of each colour: the rarer, the more, with mean 1 under the prior.

    Zhang et al. 2016, eq. 4: the prior is smoothed by a Gaussian of 5 units over a*, b* and mixed
    with a uniform one; ``rebalancing`` is the share of the prior in that mixture.

    Parameters
    ----------
    prior : array, shape (Q,)
        Counts.
    rebalancing : float
        0 weighs all colours alike.
    """
    centers = chroma_bins().astype(np.float64)
    apart = np.square(centers[:, None] - centers[None]).sum(axis=-1)
    kernel = np.exp(-apart / (2 * _SIGMA**2))
    smooth = (kernel / kernel.sum(axis=1, keepdims=True)).T @ (prior / prior.sum())
    weights = 1 / (rebalancing * smooth + (1 - rebalancing) / len(prior))
    return np.asarray(weights / (smooth * weights).sum())


def chroma_prior(photographs: Iterable[Tensor]) -> NDArray[np.float64]:
    """Count the colours of photographs (each (3, H, W) or more: L*, a*, b*), shape (Q,)."""
    centers = torch.from_numpy(chroma_bins())
    counts = torch.zeros(len(centers), dtype=torch.float64)
    for photograph in photographs:
        small = functional.avg_pool2d(photograph[None, 1:3].float(), 4, ceil_mode=True)
        nearest = torch.cdist(small[0].flatten(1).T, centers).argmin(dim=1)
        counts += torch.bincount(nearest, minlength=len(centers))
    return counts.numpy()


def lab_to_srgb(luminance: Tensor, chroma: Tensor) -> Tensor:
    """SRGB of L*/100 (N, 1, H, W) and a*, b* (N, 2, H, W), clipped to [0, 1], differentiable."""
    middle = (100 * luminance + 16) / 116
    light = torch.cat([middle + chroma[:, :1] / 500, middle, middle - chroma[:, 1:] / 200], dim=1)
    xyz = torch.where(light > DELTA, light**3, 3 * DELTA**2 * (light - 4 / 29))
    to_rgb = torch.from_numpy(TO_RGB).to(xyz)
    with torch.autocast(xyz.device.type, enabled=False):  # bf16 would be levels off
        linear = torch.einsum("rc,nchw->nrhw", to_rgb, xyz).clamp(0, 1)
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curved)


class Adversary:
    """A discriminator that looks at patches, and its own training (Isola et al. 2017, PatchGAN).

    Least squares instead of cross-entropy (Mao et al. 2017). Its gradients are averaged over the
    processes at every step.

    Parameters
    ----------
    config : Config
    device : torch.device
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        widths = (3, 32, 64, 128)
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            for inputs, outputs in pairwise(widths):
                layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
                if inputs > 3:
                    layers.insert(-1, nn.GroupNorm(8, outputs))
            self.network = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1)).to(device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), config.loss.discriminator_learning_rate, betas=(0.5, 0.999)
        )
        self._passes = config.train.accumulation

    def judge(self, luminance: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """How far the prediction is from passing for true; gathers the discriminator's gradient."""
        if torch.is_grad_enabled():
            both = torch.cat(
                [_normalised(luminance, predicted.detach()), _normalised(luminance, true)]
            )
            false, right = self.network(both).chunk(2)
            loss = (false.square().mean() + (right - 1).square().mean()) / 2
            (loss / self._passes).backward()
        self.network.requires_grad_(False)
        passed: Tensor = self.network(_normalised(luminance, predicted))
        self.network.requires_grad_(True)
        return (passed - 1).square().mean()

    def exchange(self) -> int:
        """Average the discriminator's gradient over the processes; return the bytes handed over."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) / world_size()
        dist.all_reduce(flat)
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))
        return flat.numel() * flat.element_size()

    def step(self) -> None:
        """Update the discriminator, by the gradient that :meth:`exchange` left."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """Weights and optimizer."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def _normalised(luminance: Tensor, chroma: Tensor) -> Tensor:
    return torch.cat([2 * luminance - 1, chroma / 110], dim=1)


def _lpips(device: torch.device) -> nn.Module:
    from percept.metrics.fidelity import Lpips

    model: nn.Module = Lpips("alexnet").model
    return model.eval().requires_grad_(False).to(device)
