"""Losses between predicted and true chroma."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.config import LossConfig


def chroma_loss(predicted: torch.Tensor, true: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """Smooth L1 on a*, b*, each pixel weighted by ``1 + chroma_weight · C*/50``.

    Most pixels of a photograph are nearly grey, so an unweighted loss is smallest for greyish
    averages; the weight is the plain form of the class rebalancing of Zhang et al. (2016). It
    depends on the pixel alone, never on the batch: the mean over equal shares of a batch is the
    mean over the batch.

    Parameters
    ----------
    predicted, true : torch.Tensor
        (N, 2, H, W), a* and b*.
    config : LossConfig
        ``beta`` and ``chroma_weight``.

    Returns
    -------
    torch.Tensor
        Scalar mean.
    """
    weight = 1.0 + config.chroma_weight / 50.0 * torch.linalg.vector_norm(true, dim=1, keepdim=True)
    error = functional.smooth_l1_loss(predicted, true, beta=config.beta, reduction="none")
    return (weight * error).mean()
