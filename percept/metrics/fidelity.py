"""Full-reference metrics: how far a colorized image is from the true colour image.

All compare with one particular truth. A photograph has many plausible colourings, so a good
colorization that chose another red coat scores badly here; on real colorizers these metrics
predict people's preferences poorly (Mullery and Whelan 2022).
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from percept.color import LINEAR, encode, lab_to_srgb_in_gamut, srgb_to_lab
from percept.metrics import structure
from percept.metrics.color import Images, Picture
from percept.metrics.weights import BACKBONES, load_backbone, weights_file


def psnr(images: Images) -> float:
    """Peak signal-to-noise ratio on sRGB.

    ``10 log10(1 / MSE)``, the mean squared error taken over all pixels and the three channels of
    sRGB in [0, 1]. In dB, higher is better; ``inf`` for identical images, stored as such.

    Source: Huynh-Thu and Ghanbari 2008, doi:10.1049/el:20080522; equals
    ``skimage.metrics.peak_signal_noise_ratio(data_range=1)``.
    Known failure: dominated by luminance error where the luminance differs, and blind to where
    in the image an error lies; safe desaturated colour beats vivid colour of another hue.
    """
    # In bytes, several times faster than in integers; the sum of whole numbers is exact.
    pair = images.output.srgb, images.reference.srgb
    error = (np.maximum(*pair) - np.minimum(*pair)).ravel().astype(float)
    return _psnr(float(error @ error) / error.size, 255.0)


def psnr_ab(images: Images) -> float:
    """Peak signal-to-noise ratio of chroma.

    ``10 log10(255² / MSE)``, the mean squared error taken over all pixels and over a* and b* of
    CIE L*a*b* together. In dB, higher is better; ``inf`` for equal chroma, stored as such.

    Source: common in colorization papers; ``data_range`` 255 follows the 8-bit a*, b* planes
    used there. Published code sometimes takes a* alone: such values do not compare.
    Known failure: as :func:`psnr`, luminance aside; grey is a hard baseline to beat.
    """
    error = images.output.lab[..., 1:] - images.reference.lab[..., 1:]
    return _psnr(float(np.mean(error * error)), 255.0)


def _psnr(mse: float, data_range: float) -> float:
    return math.inf if mse == 0.0 else 10.0 * math.log10(data_range**2 / mse)


def ssim(images: Images) -> float:
    """Structural similarity on sRGB.

    Wang et al. (2004): Gaussian window with σ = 1.5 on 11×11 pixels, K1 = 0.01, K2 = 0.03, biased
    covariances, each channel of sRGB in [0, 1] alone, averaged over channels and over pixels
    whose window lies inside the image. At most 1 (identical), higher is better; smaller than
    11×11 pixels is not computed.

    Source: Wang, Bovik, Sheikh and Simoncelli 2004, doi:10.1109/TIP.2003.819861; equals
    ``skimage.metrics.structural_similarity`` with those settings.
    Known failure: made for luminance structure; a colorizer that keeps the luminance scores high
    whatever its colours.
    """
    return structure.ssim(images.output.rgb, images.reference.rgb, 1.0)


def ms_ssim(images: Images) -> float:
    """Multi-scale structural similarity on sRGB.

    Contrast and structure at five scales and luminance at the coarsest, each a mean as in
    :func:`ssim`, to the powers 0.0448, 0.2856, 0.3001, 0.2363, 0.1333, multiplied in each channel
    of sRGB in [0, 1] and averaged over channels; a scale with a negative mean counts as 0. In
    [0, 1], 1 for identical images, higher is better; smaller than 176×176 pixels is not computed.

    Source: Wang, Simoncelli and Bovik 2003, doi:10.1109/ACSSC.2003.1292216.
    Known failure: as :func:`ssim`. Implementations differ in how they halve odd sizes.
    """
    return structure.ms_ssim(images.output.rgb, images.reference.rgb, 1.0)


def ms_ssim_ab(images: Images) -> float:
    """Multi-scale structural similarity of chroma.

    As :func:`ms_ssim`, on a* and b* of CIE L*a*b*, each moved by 128 into [0, 255] as in 8-bit
    L*a*b* files; data range 255. In [0, 1], higher is better.

    Source: among the metrics of Mullery and Whelan 2022, arXiv:2204.05200, who pad odd sides with
    zeros; on their images the rank correlation with people differs by up to 0.014 for that.
    Known failure: the offset makes its luminance term near 1 for all but strong shifts of
    colour: it sees where colours change, less which they are.
    """
    output, reference = (p.lab[..., 1:] + 128.0 for p in (images.output, images.reference))
    return structure.ms_ssim(output, reference, 255.0)


def ciede2000(images: Images) -> float:
    """Mean CIEDE2000 colour difference.

    Mean over pixels of ΔE00 (kL = kC = kH = 1). At least 0 (identical), lower is better; about 1
    is a just noticeable difference of flat patches.

    Source: Sharma, Wu and Dalal 2005, doi:10.1002/col.20070, by
    ``skimage.color.deltaE_ciede2000``.
    Known failure: per-pixel, made for flat patches, so fine texture weighs as much as a face;
    above some 5 units it is not uniform.
    """
    return float(np.mean(images.delta_e))


def ciede2000_p95(images: Images) -> float:
    """95th percentile of the CIEDE2000 colour difference.

    The value that 95 % of pixels stay below (linear interpolation). At least 0, lower is better.
    It sees a wrong region that the mean dilutes; a wrong region under 5 % of the image it
    misses altogether. Source as :func:`ciede2000`.
    """
    return float(np.percentile(images.delta_e, 95))


def lpips_alex(images: Images) -> float:
    """Learned perceptual image patch similarity, AlexNet, linear heads v0.1.

    Σ over five layers of the mean over positions of ``w · (f(output) − f(reference))²``, with
    activations f of unit length per position. Inputs are sRGB scaled to [-1, 1]. At least 0
    (identical), lower is better; about 0.7 and more for unrelated images.

    Source: Zhang, Isola, Efros, Shechtman and Wang 2018, arXiv:1801.03924; heads and network of
    the ``lpips`` package, backbone by ``percept weights fetch``.
    Known failure: trained on distortions such as blur and compression, not on changes of hue;
    its value depends on the image's resolution.
    """
    return _distance("alexnet", images)


def lpips_vgg(images: Images) -> float:
    """Learned perceptual image patch similarity, VGG-16, linear heads v0.1.

    As :func:`lpips_alex`, on the five blocks of VGG-16: some ten times the work. At least 0,
    lower is better. Values of the two networks do not compare: say which one.

    Source and known failure as :func:`lpips_alex`.
    """
    return _distance("vgg16", images)


def lpips_alex_deep(images: Images) -> float:
    """Worst parts by the deepest layer of LPIPS, AlexNet.

    95th percentile over positions of ``w · (f(output) − f(reference))²`` of the fifth layer
    alone, whose features are of objects rather than of texture. At least 0 (identical), lower is
    better.

    Source: the layers of Zhang et al. 2018, arXiv:1801.03924; the percentile by percept, chosen
    on nine scenes of HECD, where the one of VGG-16 follows people better than LPIPS as a whole.
    Known failure: as :func:`lpips_alex`; a few positions decide it in small images.
    """
    return float(np.percentile(_distances("alexnet", images)[-1], 95))


def lpips_vgg_deep(images: Images) -> float:
    """Worst parts by the deepest layer of LPIPS, VGG-16.

    As :func:`lpips_alex_deep`. At least 0 (identical), lower is better.

    Source and known failure as there.
    """
    return float(np.percentile(_distances("vgg16", images)[-1], 95))


def semantic_distance(images: Images) -> float:
    """How differently a network for objects sees the picture, whatever the colour of the light.

    Mean over positions of ``‖f(output) − f(reference)‖²``, with activations f of the fifth block
    of VGG-16, of unit length per position, on pictures averaged down by a whole factor to at most
    256 pixels. Each position takes the nearest of three references: the true image, and the same
    half way and all the way to a grey mean (von Kries gains in linear RGB, L* kept). In [0, 2],
    0 for identical images, lower is better.

    Source: percept, after the perceptual loss of Johnson et al. 2016, arXiv:1603.08155. People
    take a white-balanced photograph for as natural as the original, and a colorizer cannot know
    the light: on nine scenes of HECD, discounting it brings every layer tried of VGG-16 and
    AlexNet closer to people's answers.
    Known failure: blind to casts between the true colour of the light and none; sees objects, so
    little of fine colour bleeding; other true colours of an object (a red car for a blue one) are
    held against the picture.
    """
    import torch

    network = _lpips("vgg16", weights_file("vgg16"))
    output = network.unit(images.output.keep("vgg16 small", partial(_small_layers, network))[-1])
    references = images.reference.keep("vgg16 lights", partial(_in_other_lights, network))
    squares = [((output - reference) ** 2).sum(dim=1) for reference in references]
    return float(torch.stack(squares).amin(dim=0).mean())


def lost_contrast(images: Images) -> float:
    """How much of the contrast that a network for objects sees has been lost.

    ``max(0, −mean ln(v(output) / v(reference)))``, v the variance over positions of one channel of
    the activations of VGG-16, on pictures averaged down as in :func:`semantic_distance`; mean over
    the channels of each of its first four blocks, and over these. Both v are raised by a
    thousandth of the reference's mean over the block's channels. At least 0 (identical, or no
    contrast lost), lower is better; 0.7 is one half.

    Source: percept, after the statistics of channels in Ding et al. 2020, arXiv:2004.07728. People
    forgive colours that are others than the true ones sooner than colours that are duller: on nine
    scenes of HECD it follows people poorly by itself, but adds to :func:`semantic_distance`.
    Known failure: of one sign, so blind to gaudy colours, and to wrong ones that contrast as much
    as the true ones.
    """
    network = _lpips("vgg16", weights_file("vgg16"))
    pair = (
        picture.keep("vgg16 small", partial(_small_layers, network))[:4]
        for picture in (images.output, images.reference)
    )
    gains = []
    for output, reference in zip(*pair, strict=True):
        v, true = (layer.var(dim=(2, 3)) for layer in (output, reference))
        floor = 1e-3 * true.mean()
        gains.append(float(((v + floor) / (true + floor)).log().mean()))
    return max(0.0, -sum(gains) / len(gains))


def _small_layers(network: Lpips, picture: Picture) -> list[Any]:
    return network.layers(_small(picture))


def _in_other_lights(network: Lpips, picture: Picture) -> list[Any]:
    """Deepest features of a picture, as it is and with its light neutralised in two steps."""
    small = _small(picture)
    return [network(neutralised(small, share))[-1] for share in (0.0, 0.5, 1.0)]


def _small(picture: Picture) -> Picture:
    """Average a picture down by a whole factor to at most 256 pixels, but at least 31 each way."""
    height, width = picture.size
    factor = max(1, min(math.ceil(max(height, width) / 256), min(height, width) // 31))
    if factor == 1:
        return picture
    height, width = height // factor, width // factor
    cut = picture.srgb[: height * factor, : width * factor]
    means = cut.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    return Picture(np.rint(means).astype(np.uint8))


def neutralised(picture: Picture, share: float) -> Picture:
    """Take a share of the colour of the light out of a picture, by the grey-world assumption.

    Gains of linear R, G, B are ``(mean of the three means / own mean)^share``; L* is kept.
    """
    linear = LINEAR[picture.srgb]
    means = np.maximum(linear.mean(axis=(0, 1)), 1e-4)
    lit = np.rint(encode(linear * (means.mean() / means) ** share) * 255).astype(np.uint8)
    ab = srgb_to_lab(lit)[..., 1:]
    return Picture(lab_to_srgb_in_gamut(np.concatenate([picture.lab[..., :1], ab], axis=-1)))


def _distance(backbone: str, images: Images) -> float:
    return float(sum(layer.mean() for layer in _distances(backbone, images)))


def _distances(backbone: str, images: Images) -> list[Any]:
    """Distance maps (h, w), one for each layer."""
    network = _lpips(backbone, weights_file(backbone))
    pair = (images.output.keep(backbone, network), images.reference.keep(backbone, network))
    maps: list[Any] = images.keep(f"{backbone} distances", lambda _: network.distances(*pair))
    return maps


def cvvdp(images: Images) -> float:
    """ColorVideoVDP: visible difference on a display, in JOD.

    By the ``cvvdp`` package with its own parameters, on its model of a 4K screen seen at twice the
    height (``standard_4k``), so at 75 pixels a degree. 10 for identical images, higher is better;
    1 JOD less is preferred by 25 % only. Optional: ``pip install 'percept[cvvdp]'``.

    Source: Mantiuk, Hanji, Ashraf, Asano and Chapiro 2024, doi:10.1145/3658144.
    Known failure: whether a difference is seen, not whether it is liked; the result depends on
    the assumed display and distance.
    """
    import torch

    metric = _cvvdp()
    pair = (torch.from_numpy(picture.srgb) for picture in (images.output, images.reference))
    with torch.inference_mode():
        return float(metric.predict(*pair, dim_order="HWC")[0])


@lru_cache(maxsize=1)
def _cvvdp() -> Any:
    import torch

    package = import_module("pycvvdp")
    return package.cvvdp(display_name="standard_4k", device=torch.device("cpu"))


@lru_cache(maxsize=2)
def _lpips(backbone: str, file: Path) -> Lpips:
    """Build a network once for each file of weights."""
    return Lpips(backbone)


class Lpips:
    """LPIPS split in two, so that a reference's features serve all conditions.

    Parameters
    ----------
    backbone : str
        Name in :data:`percept.metrics.weights.BACKBONES`.

    Raises
    ------
    InputError
        The backbone's weights are not there: they are never replaced by random ones.
    """

    def __init__(self, backbone: str) -> None:
        import warnings

        import lpips
        import torch

        state = load_backbone(backbone)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by its old argument names
            self._model = lpips.LPIPS(
                net=BACKBONES[backbone].lpips_name, pnet_rand=True, verbose=False
            )
        # The package files torchvision's layer n under slice1 … slice5 and keeps its number.
        own = {f"features.{key.split('.', 1)[1]}": key for key in self._model.net.state_dict()}
        self._model.net.load_state_dict({own[key]: value for key, value in state.items()})

    @property
    def model(self) -> Any:
        """The ``lpips`` module, as a loss: (N, 3, H, W) in [-1, 1], twice, to (N, 1, 1, 1)."""
        return self._model

    def __call__(self, picture: Picture) -> list[Any]:
        """Features of a picture: one tensor (1, C, h, w) per layer, unit length per position."""
        return [self.unit(layer) for layer in self.layers(picture)]

    def layers(self, picture: Picture) -> list[Any]:
        """Activations of a picture as they are: one tensor (1, C, h, w) per layer."""
        import torch

        with torch.inference_mode():
            image = torch.tensor(picture.srgb).permute(2, 0, 1)[None].float() / 127.5 - 1.0
            return list(self._model.net(self._model.scaling_layer(image)))

    @staticmethod
    def unit(layer: Any) -> Any:
        """Scale activations (1, C, h, w) to unit length per position."""
        import lpips
        import torch

        with torch.inference_mode():
            return lpips.normalize_tensor(layer)

    def distances(self, first: list[Any], second: list[Any]) -> list[Any]:
        """Distance maps (h, w) between two pictures' features; LPIPS is the sum of their means."""
        import torch

        with torch.inference_mode():
            return [
                head((a - b) ** 2)[0, 0]
                for head, a, b in zip(self._model.lins, first, second, strict=True)
            ]
