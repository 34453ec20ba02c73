from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_samples import photograph

from percept.color import LINEAR, lab_to_srgb_in_gamut, srgb_to_lab
from percept.metrics import fidelity
from percept.metrics.color import Images, Picture
from percept.metrics.registry import METRICS

TRUE = photograph(1, 48, 61)
LARGE = photograph(1, 176, 180)  # enough for five scales
OTHER = (TRUE * 0.8 + np.array([30, 5, 12])).astype(np.uint8)
FULL_REFERENCE = [
    m
    for m in METRICS.values()
    if m.kind == "full-reference" and not (m.weights or m.group or m.package)
]


class Shifted(Picture):
    """A picture whose a* and b* are moved by a constant, beyond what 8 bits can hold."""

    def __init__(self, image: np.ndarray, a: float, b: float) -> None:
        super().__init__(image)
        self.lab = Picture(image).lab + np.array([0.0, a, b])


def test_psnr_equals_scikit_image() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    expected = peak_signal_noise_ratio(TRUE / 255, OTHER / 255, data_range=1)
    assert fidelity.psnr(Images(OTHER, reference=TRUE)) == pytest.approx(expected, rel=1e-12)


def test_psnr_of_a_known_error() -> None:
    """An error of 255/10 everywhere is 20 dB; of 51 = 255/5, 20 log10(5) dB."""
    black = np.zeros((8, 8, 3), np.uint8)
    value = fidelity.psnr(Images(black + np.uint8(51), reference=black))
    assert value == pytest.approx(20 * math.log10(5), rel=1e-12)


def test_psnr_ab_of_a_known_shift() -> None:
    """A shift of a* alone by d has the mean squared error d²/2 over a* and b*."""
    value = fidelity.psnr_ab(Images(Shifted(TRUE, 10.2, 0.0), reference=TRUE))
    assert value == pytest.approx(20 * math.log10(255 / 10.2) + 10 * math.log10(2), rel=1e-9)
    both = fidelity.psnr_ab(Images(Shifted(TRUE, 6.0, -8.0), reference=TRUE))
    assert both == pytest.approx(20 * math.log10(255 / math.sqrt(50)), rel=1e-9)


def test_psnr_ab_does_not_see_luminance() -> None:
    """Unlike PSNR, it forgives a change of lightness alone."""
    grey = np.full((8, 8, 3), 90, np.uint8)
    lighter = np.full((8, 8, 3), 160, np.uint8)
    assert fidelity.psnr(Images(lighter, reference=grey)) < 12
    assert fidelity.psnr_ab(Images(lighter, reference=grey)) > 90


def test_ssim_equals_the_formula_of_the_paper() -> None:
    """Written out here from Wang et al. 2004, windows and all, with nothing of scikit-image."""
    x = np.arange(11) - 5
    weight = np.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(image, (11, 11))
        return np.einsum("yxij,ij->yx", windows, weight)

    values = []
    for channel in range(3):
        a, b = OTHER[..., channel] / 255, TRUE[..., channel] / 255
        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        luminance = (2 * ma * mb + 0.01**2) / (ma**2 + mb**2 + 0.01**2)
        values.append(luminance * (2 * cov + 0.03**2) / (va + vb + 0.03**2))
    value = fidelity.ssim(Images(OTHER, reference=TRUE))
    assert value == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize("shape", [(37, 52), (11, 11), (43, 11)])
def test_ssim_equals_scikit_image(shape: tuple[int, int]) -> None:
    """Also where a block of the band matrix is not full, and on a single window."""
    from skimage.metrics import structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    true, other = (image[: shape[0], : shape[1]] for image in (TRUE, OTHER))
    expected = structural_similarity(
        other / 255, true / 255, data_range=1.0, channel_axis=-1, **settings
    )
    assert fidelity.ssim(Images(other, reference=true)) == pytest.approx(expected, abs=1e-9)


def test_ms_ssim_equals_piq() -> None:
    """On sizes that halve evenly; how odd ones are halved is nowhere agreed upon."""
    import piq

    true = photograph(4, 192, 208)
    other = (true * 0.8 + np.random.default_rng(1).normal(20, 9, true.shape)).clip(0, 255)
    other = other.astype(np.uint8)
    pair = [torch.from_numpy(image / 255.0).permute(2, 0, 1)[None] for image in (other, true)]
    expected = piq.multi_scale_ssim(*pair, data_range=1.0).item()
    assert 0.5 < expected < 0.98
    assert fidelity.ms_ssim(Images(other, reference=true)) == pytest.approx(expected, abs=1e-6)

    planes = [Picture(image).lab[..., 1:] + 128 for image in (other, true)]
    pair = [torch.from_numpy(plane).permute(2, 0, 1)[None] for plane in planes]
    expected = piq.multi_scale_ssim(*pair, data_range=255.0).item()
    value = fidelity.ms_ssim_ab(Images(other, reference=true))
    assert value == pytest.approx(expected, abs=1e-6)
    assert fidelity.ms_ssim_ab(Images(true, reference=true)) == 1.0


def test_ciede2000_of_flat_patches() -> None:
    """Half of the image differs: the mean is half the difference, the 95th percentile all."""
    red, blue = np.uint8([180, 40, 40]), np.uint8([40, 40, 180])
    true = np.broadcast_to(red, (10, 10, 3)).copy()
    output = true.copy()
    output[:5] = blue
    from skimage.color import deltaE_ciede2000, rgb2lab

    difference = float(deltaE_ciede2000(rgb2lab(red), rgb2lab(blue)))
    images = Images(output, reference=true)
    assert fidelity.ciede2000(images) == pytest.approx(difference / 2, rel=1e-5)
    assert fidelity.ciede2000_p95(images) == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize("metric", FULL_REFERENCE, ids=lambda m: m.name)
def test_identity_is_best_and_worse_colour_is_worse(metric) -> None:
    true = LARGE if metric.min_side > 48 else TRUE
    near = (true * 0.97).astype(np.uint8)
    far = (true * 0.8 + np.array([30, 5, 12])).astype(np.uint8)
    best, good, bad = (
        metric.compute(Images(image, reference=true)) for image in (true.copy(), near, far)
    )
    inf = {"psnr": math.inf, "psnr_ab": math.inf}
    assert best == inf.get(metric.name, float("ssim" in metric.name))
    assert (best > good > bad) if metric.higher_is_better else (best < good < bad)
    low, high = metric.range
    assert all(low <= value <= high for value in (best, good, bad))


@pytest.mark.parametrize(
    ("metric", "net", "fixture"),
    [("lpips_alex", "alex", "random_backbone"), ("lpips_vgg", "vgg", "random_vgg")],
)
def test_lpips_equals_the_lpips_package(
    metric: str, net: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    """Same heads, same backbone, built in the package's own way."""
    import lpips

    backbone = request.getfixturevalue(fixture)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    for key, value in peer.net.named_parameters():
        value.data.copy_(backbone[f"features.{key.split('.', 1)[1]}"])
    before = torch.get_rng_state()
    compute = METRICS[metric].compute
    value = compute(Images(OTHER, reference=TRUE))
    expected = peer(lpips.im2tensor(OTHER), lpips.im2tensor(TRUE)).item()
    assert value == pytest.approx(expected, rel=1e-5)
    assert value > 1e-4
    assert torch.equal(before, torch.get_rng_state()), "the caller's random state is untouched"
    assert compute(Images(TRUE, reference=TRUE)) == 0.0


def test_semantic_distance_is_the_deepest_layer_of_vgg16(
    random_vgg: dict[str, torch.Tensor],
) -> None:
    """By torchvision's own network, on a picture that is small enough and one that is not."""
    from torchvision.models import vgg16

    network = vgg16(weights=None).features[:30].eval()
    network.load_state_dict(
        {k.removeprefix("features."): v for k, v in random_vgg.items()}, strict=False
    )
    mean, spread = (
        torch.tensor(values)[:, None, None]
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )

    def features(image: np.ndarray) -> torch.Tensor:
        x = torch.tensor(image).permute(2, 0, 1) / 255
        with torch.inference_mode():
            return torch.nn.functional.normalize(network(((x - mean) / spread)[None])[0], dim=0)

    true = photograph(1, 64, 140)
    other = np.rint(true * [0.7, 0.9, 0.8] + [50, 5, 12]).astype(np.uint8)
    lit = [fidelity.neutralised(Picture(true), share).srgb for share in (0.0, 0.5, 1.0)]
    squares = [((features(other) - features(image)) ** 2).sum(0) for image in lit]
    expected = float(torch.stack(squares).amin(0).mean())
    assert expected > 1e-4
    compute = METRICS["semantic_distance"].compute
    assert compute(Images(other, reference=true)) == pytest.approx(expected, rel=1e-3)
    large = [np.kron(image, np.ones((2, 2, 1), np.uint8)) for image in (other, true)]
    assert compute(Images(large[0], reference=large[1])) == pytest.approx(expected, rel=1e-3)


def test_semantic_distance_discounts_the_light_alone(random_vgg: dict[str, torch.Tensor]) -> None:
    """A cast taken out costs nothing; the same amount of colour put elsewhere does."""
    lab = srgb_to_lab(TRUE)
    cast = lab_to_srgb_in_gamut(lab + np.array([0, 4, 22]))
    compute = METRICS["semantic_distance"].compute
    neutral = fidelity.neutralised(Picture(cast), 1.0)
    before, after = (np.abs(LINEAR[image].mean((0, 1)) - LINEAR[image].mean()).max()
                     for image in (cast, neutral.srgb))  # fmt: skip
    assert after < before / 4, "near a grey mean"
    assert np.abs(neutral.lab[..., 0] - Picture(cast).lab[..., 0]).max() < 1, "at the same L*"
    assert compute(Images(cast, reference=cast)) == 0
    assert compute(Images(neutral, reference=cast)) == 0
    change = neutral.lab[..., 1:] - Picture(cast).lab[..., 1:]
    away = lab_to_srgb_in_gamut(srgb_to_lab(cast) - np.pad(change, ((0, 0), (0, 0), (1, 0))))
    assert compute(Images(away, reference=cast)) > 1e-4


def test_lost_contrast_is_of_the_first_four_blocks_of_vgg16(
    random_vgg: dict[str, torch.Tensor],
) -> None:
    """By torchvision's own network; a picture with more contrast than the true one lost none."""
    from torchvision.models import vgg16

    network = vgg16(weights=None).features.eval()
    network.load_state_dict(
        {k.removeprefix("features."): v for k, v in random_vgg.items()}, strict=False
    )
    mean, spread = (
        torch.tensor(values)[:, None, None]
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )

    def variances(image: np.ndarray) -> list[np.ndarray]:
        x = ((torch.tensor(image).permute(2, 0, 1) / 255 - mean) / spread)[None]
        found = []
        with torch.inference_mode():
            for i, layer in enumerate(network):
                x = layer(x)
                if i in (3, 8, 15, 22):  # relu1_2, relu2_2, relu3_3, relu4_3
                    found.append(x[0].flatten(1).double().numpy().var(axis=1, ddof=1))
        return found

    dull = np.rint(TRUE * 0.6 + 0.4 * TRUE.mean((0, 1))).astype(np.uint8)
    gains = [
        np.log((v + w.mean() / 1000) / (w + w.mean() / 1000)).mean()
        for v, w in zip(variances(dull), variances(TRUE), strict=True)
    ]
    assert np.mean(gains) < -0.3
    compute = METRICS["lost_contrast"].compute
    assert compute(Images(dull, reference=TRUE)) == pytest.approx(-np.mean(gains), rel=1e-3)
    assert compute(Images(TRUE, reference=TRUE)) == 0.0
    assert compute(Images(TRUE, reference=dull)) == 0.0


def test_lpips_with_the_real_weights() -> None:
    """Weights that reproduce published correlations on HECD gave these values."""
    from percept.metrics.weights import weights_info

    there = [name for name in ("alexnet", "vgg16") if weights_info(name) is not None]
    if not there:
        pytest.skip("no weights are in the cache: run `percept weights fetch`")
    import skimage

    from percept.manifest import load_rgb

    image = load_rgb(Path(skimage.__file__).parent / "data" / "astronaut.png")
    gray = np.repeat(image[..., 1:2], 3, axis=2)
    images = Images(gray, reference=image)
    if "alexnet" in there:
        assert fidelity.lpips_alex(images) == pytest.approx(0.18509, abs=2e-5)
    if "vgg16" in there:
        assert fidelity.lpips_vgg(images) == pytest.approx(0.19719, abs=2e-5)
