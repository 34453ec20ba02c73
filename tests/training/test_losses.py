from __future__ import annotations

import torch
from torch.nn import functional

from training.config import LossConfig
from training.losses import chroma_loss


def test_without_weight_it_is_smooth_l1() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, true = (40 * torch.randn(2, 4, 2, 8, 8, generator=generator)).unbind()
    loss = chroma_loss(predicted, true, LossConfig(chroma_weight=0.0, beta=5.0))
    torch.testing.assert_close(loss, functional.smooth_l1_loss(predicted, true, beta=5.0))


def test_a_saturated_pixel_weighs_by_its_chroma() -> None:
    true = torch.tensor([30.0, 40.0]).view(1, 2, 1, 1)  # chroma 50
    config = LossConfig(chroma_weight=1.0, beta=5.0)
    # errors 30 and 40, each less beta/2, mean 32.5, weight 2
    assert chroma_loss(torch.zeros_like(true), true, config).item() == 65.0
    assert chroma_loss(true, torch.zeros_like(true), config).item() == 32.5


def test_the_mean_of_equal_shares_is_the_mean_of_the_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    predicted, true = (40 * torch.randn(2, 8, 2, 4, 4, generator=generator)).unbind()
    whole = chroma_loss(predicted, true, LossConfig())
    shares = [
        chroma_loss(a, b, LossConfig())
        for a, b in zip(predicted.chunk(4), true.chunk(4), strict=True)
    ]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)
