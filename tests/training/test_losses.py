from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from percept.color import srgb_to_lab
from percept.distributed import process_group
from percept.errors import InputError
from percept.inference.networks import annealed_mean, chroma_bins
from training.config import Config, LossConfig, NetworkConfig, TrainConfig
from training.losses import (
    Adversary,
    chroma_loss,
    chroma_prior,
    class_loss,
    class_weights,
    lab_to_srgb,
)
from training.trainer import make_network


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


def test_l1_is_weighted_alike() -> None:
    true = torch.tensor([30.0, 40.0]).view(1, 2, 1, 1)
    loss = chroma_loss(torch.zeros_like(true), true, LossConfig(chroma_weight=1.0), kind="l1")
    assert loss.item() == 70.0


def test_rare_colours_weigh_more_and_the_mean_weight_is_1() -> None:
    bins = chroma_bins()
    prior = np.exp(-np.square(bins).sum(axis=1) / 800)
    prior /= prior.sum()
    np.testing.assert_allclose(class_weights(prior, 0.0), 1.0)
    weights = class_weights(prior, 0.5)
    grey = int(np.argmin(np.square(bins).sum(axis=1)))
    assert weights.argmin() == grey
    assert weights.max() / weights[grey] > 2


def test_the_prior_counts_each_colour() -> None:
    photograph = torch.zeros(3, 16, 8)
    photograph[1, :, 4:] = 41.0  # a*: the nearest centre is 40
    prior = chroma_prior([photograph])
    bins = chroma_bins()
    assert prior.sum() == 8
    assert bins[prior.argsort()[-2:]].tolist() in ([[0, 0], [40, 0]], [[40, 0], [0, 0]])


def test_class_loss_is_least_where_the_logits_say_the_true_colour() -> None:
    centers = torch.from_numpy(chroma_bins())
    true = centers[[100]].view(1, 2, 1, 1).expand(1, 2, 8, 8)
    flat = torch.zeros(1, len(centers), 2, 2)
    right, wrong = flat.clone(), flat.clone()
    right[:, 100], wrong[:, 10] = 4.0, 4.0
    weights = torch.ones(len(centers))
    losses = [class_loss(logits, true, centers, weights) for logits in (right, flat, wrong)]
    assert losses[0] < losses[1] < losses[2]
    torch.testing.assert_close(losses[1], torch.tensor(float(np.log(len(centers)))))


def test_annealing_lies_between_the_mean_and_the_likeliest() -> None:
    centers = torch.tensor([[40.0, 0.0], [-40.0, 0.0]])
    logits = torch.tensor([0.7, 0.3]).log().view(1, 2, 1, 1)
    mean, annealed, mode = (
        annealed_mean(logits, centers, t)[0, 0, 0, 0].item() for t in (1.0, 0.38, 0.01)
    )
    assert mean == pytest.approx(16.0)
    assert mean < annealed < mode
    assert mode == pytest.approx(40.0)


def test_lab_to_srgb_is_the_inverse_that_inference_uses() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    lab = torch.from_numpy(srgb_to_lab(rgb)).permute(2, 0, 1)[None]
    back = lab_to_srgb(lab[:, :1] / 100, lab[:, 1:])[0].permute(1, 2, 0)
    np.testing.assert_allclose(255 * back, rgb, atol=0.01)


def test_lab_to_srgb_is_exact_in_lower_precision() -> None:
    light = torch.linspace(0.3, 0.7, 64).view(1, 1, 8, 8)
    chroma = torch.tensor([30.0, -20.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lab_to_srgb(light, chroma)
    assert torch.equal(found, lab_to_srgb(light, chroma))


def test_lab_to_srgb_has_gradients_everywhere() -> None:
    light = torch.tensor([0.0, 0.001, 0.5, 1.0]).view(1, 1, 2, 2)
    chroma = torch.zeros(1, 2, 2, 2, requires_grad=True)
    lab_to_srgb(light, chroma).sum().backward()
    assert chroma.grad is not None
    assert chroma.grad.isfinite().all()


def test_the_discriminator_learns_to_tell_grey_from_colour() -> None:
    config = Config(
        arm="x",
        loss=LossConfig(adversarial=1.0, discriminator_learning_rate=2e-3),
        train=TrainConfig(steps=1, global_batch=4),
    )
    light = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    true, grey = 50 * torch.ones(4, 2, 32, 32), torch.zeros(4, 2, 32, 32, requires_grad=True)
    with process_group("cpu"):
        adversary = Adversary(config, torch.device("cpu"))
        for _ in range(20):
            adversary.judge(light, grey, true)
            adversary.exchange()
            adversary.step()
        seen = [torch.cat([2 * light - 1, colour / 110], dim=1) for colour in (grey, true)]
        false, right = (adversary.network(view).mean().item() for view in seen)
        assert right - false > 0.5
        loss = adversary.judge(light, grey, true)
        own = [p.grad.clone() for p in adversary.network.parameters() if p.grad is not None]
        loss.backward()
    assert grey.grad is not None  # the network learns from the loss, the discriminator does not
    assert all(
        torch.equal(p.grad, before)
        for p, before in zip(adversary.network.parameters(), own, strict=True)
        if p.grad is not None
    )


@pytest.mark.parametrize(
    ("network", "weights", "says"),
    [
        ("unet", {"classification": 1.0}, "does not classify"),
        ("class-unet", {}, "nothing useful without the cross-entropy"),
    ],
)
def test_the_loss_fits_the_network(network: str, weights: dict[str, float], says: str) -> None:
    config = Config(
        arm="x",
        network=NetworkConfig(name=network, arguments={"width": 8}),
        loss=LossConfig(**weights),
        train=TrainConfig(steps=1, global_batch=1),
    )
    with pytest.raises(InputError, match=says):
        make_network(config)


def test_missing_lpips_weights_are_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERCEPT_CACHE", str(tmp_path))
    config = Config(
        arm="x", loss=LossConfig(perceptual=1.0), train=TrainConfig(steps=1, global_batch=1)
    )
    with pytest.raises(InputError, match="percept weights fetch"):
        make_network(config)
