"""Networks from luminance to chroma, and the checkpoints that hold them."""

from __future__ import annotations

import inspect
import json
import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from numpy.typing import NDArray
from torch import Tensor, nn

from percept.color import srgb_to_lab
from percept.errors import InputError
from percept.files import read_json, write_bytes_atomic, write_json_atomic

CHECKPOINT_FORMAT = 1
WEIGHTS = "model.safetensors"
_METADATA_KEY = "percept"
_GROUPS = 8
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}


class Block(nn.Sequential):
    """Layers that are run, checkpointed and sharded as one."""

    #: Keep no activations of these layers for the backward pass, but compute them again.
    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers."""
        if self.checkpointing and torch.is_grad_enabled():
            # The reentrant kind marks parameters ready twice under DDP.
            again: Tensor = torch.utils.checkpoint.checkpoint(
                super().forward, x, use_reentrant=False
            )
            return again
        result: Tensor = super().forward(x)
        return result


class UNet(nn.Module):
    """A small U-Net from luminance to chroma.

    Normalisation is by GroupNorm, which does not mix the photographs of a batch.

    Parameters
    ----------
    width : int
        Channels at full resolution, a multiple of 8; they double with each level.
    depth : int
        Number of halvings; ``divisor`` is ``2 ** depth``.

    Notes
    -----
    The default has 1.9 million parameters.
    """

    def __init__(self, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        _check_width(width)
        if not 1 <= depth <= 6:
            raise _out_of_range("depth", "from 1 to 6", depth)
        self.divisor = 2**depth
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = _block(1, width)
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise(channels))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in pairwise(channels))
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, luminance: Tensor) -> Tensor:
        """Predict chroma.

        Parameters
        ----------
        luminance : Tensor
            L*/100 in [0, 1], shape (N, 1, H, W), H and W multiples of ``divisor``.

        Returns
        -------
        Tensor
            a* and b*, shape (N, 2, H, W), within ±110.
        """
        chroma: Tensor = 110 * torch.tanh(self.head(self._features(luminance)))
        return chroma

    def _features(self, luminance: Tensor) -> Tensor:
        """Features at the resolution of the last block of ``up``."""
        x = self.stem(2 * luminance - 1)
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(nn.functional.avg_pool2d(x, 2))
        for block in reversed(self.up):
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([skips.pop(), x], dim=1))
        features: Tensor = x
        return features


class GatedUNet(UNet):
    """A U-Net that first cleans those photographs that look degraded, and only those.

    A photograph whose noise level is above ``threshold`` passes a branch that other photographs
    never meet. A batch without such a photograph leaves the branch without gradients, which DDP
    takes for a mistake unless it is told (``find_unused_parameters``).

    Parameters
    ----------
    width, depth : int
        As for :class:`UNet`.
    threshold : float
        Noise level, in units of L*/100, above which a photograph is degraded; see
        :func:`noise_level`. Fine texture counts as noise.
    """

    conditional = True

    def __init__(self, width: int = 32, depth: int = 3, threshold: float = 0.02) -> None:
        super().__init__(width, depth)
        self.threshold = threshold
        self.clean = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, luminance: Tensor) -> Tensor:
        """Predict chroma; see :meth:`UNet.forward`."""
        degraded = noise_level(luminance) > self.threshold
        if degraded.any():
            some = luminance[degraded]
            luminance = luminance.index_put((degraded,), some + self.clean(some).to(some.dtype))
        return super().forward(luminance)


class ClassUNet(UNet):
    """A U-Net that predicts, at a quarter of the resolution, how likely each colour is.

    Chroma is the mean of the colours under the annealed distribution, between their mean, which
    is grey where several are likely, and the likeliest, which is vivid but jumps (Zhang, Isola
    and Efros 2016, arXiv:1603.08511, eq. 5).

    Parameters
    ----------
    width, depth : int
        As for :class:`UNet`; ``depth`` is at least 3.
    temperature : float
        Of the annealing, in (0, 1]; 1 is the mean.
    """

    centers: Tensor

    def __init__(self, width: int = 32, depth: int = 4, temperature: float = 0.38) -> None:
        super().__init__(width, depth)
        if depth < 3:
            raise _out_of_range("depth", "from 3 to 6", depth)
        _check_temperature(temperature)
        self.temperature = temperature
        self.up = self.up[2:]
        centers = torch.from_numpy(chroma_bins())
        self.register_buffer("centers", centers)
        self.head = nn.Conv2d(width * 4, len(centers), 1)

    def forward(self, luminance: Tensor, *, logits: bool = False) -> Tensor:
        """Predict chroma; see :meth:`UNet.forward`.

        With ``logits``, the result is the logarithm, but for a constant, of the probability of
        each of the Q colours of :func:`chroma_bins`: shape (N, Q, H/4, W/4).
        """
        scores: Tensor = self.head(self._features(luminance))
        return scores if logits else self.decode(scores, luminance)

    def decode(self, logits: Tensor, luminance: Tensor) -> Tensor:
        """Chroma (N, 2, H, W) that the logits (N, Q, H/4, W/4) of a luminance mean."""
        return annealed_mean(logits, self.centers, self.temperature)


class Hypercolumn(nn.Module):
    """A head that reads colours from what VGG16 sees in the grey photograph.

    The features of five depths, from edges to parts of things, are laid over each other at a
    quarter of the resolution (Larsson, Maire and Shakhnarovich 2016, arXiv:1603.06668). Each is
    scaled to unit mean square at every position. VGG16 is frozen; ``percept train`` puts its
    ImageNet weights in. The head classifies as :class:`ClassUNet`, and a guided filter lets the
    colours follow the edges of the luminance.

    Parameters
    ----------
    width : int
        Channels that each depth is projected to, a multiple of 8.
    temperature : float
        Of the annealing, in (0, 1]; 1 is the mean.
    radius : int
        Of the guided filter, in pixels of the quarter resolution; 0 is off.

    Notes
    -----
    The head has no dropout: chance must not depend on how a batch is divided among processes.
    """

    divisor = 16
    centers: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int = 32, temperature: float = 0.38, radius: int = 4) -> None:
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__()
        _check_width(width)
        _check_temperature(temperature)
        if not 0 <= radius <= 64:
            raise _out_of_range("radius", "from 0 to 64", radius)
        self.temperature, self.radius = temperature, radius
        # Named and numbered as torchvision does; without the last pooling.
        self.features = make_layers(cfgs["D"])[:-1].requires_grad_(False)
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels in (64, 128, 256, 512, 512)
        )
        centers = torch.from_numpy(chroma_bins())
        self.head = nn.Sequential(
            _block(5 * width, 2 * width), nn.Conv2d(2 * width, len(centers), 1)
        )
        self.register_buffer("centers", centers)
        # Of ImageNet's red, green and blue.
        for name, values in _IMAGENET.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, luminance: Tensor, *, logits: bool = False) -> Tensor:
        """Predict chroma; see :meth:`ClassUNet.forward`."""
        x, seen = (luminance - self.mean) / self.deviation, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                seen.append(x)
            x = layer(x)
        size = [side // 4 for side in luminance.shape[2:]]
        columns = [
            project(_column(features, size))
            for project, features in zip(self.projections, [*seen, x], strict=True)
        ]
        scores: Tensor = self.head(torch.cat(columns, dim=1))
        return scores if logits else self.decode(scores, luminance)

    def decode(self, logits: Tensor, luminance: Tensor) -> Tensor:
        """Chroma; see :meth:`ClassUNet.decode`."""
        if not self.radius:
            return annealed_mean(logits, self.centers, self.temperature)
        return guided_filter(
            mean_colour(logits, self.centers, self.temperature), luminance, self.radius
        ).clamp(-110, 110)


class DeepNet(nn.Module):
    """A deep residual network at a quarter of the resolution: one plain sequence of layers.

    Nothing skips from its beginning to its end, so that it can be cut anywhere into the stages of
    a pipeline.

    Parameters
    ----------
    width : int
        Channels, a multiple of 8.
    blocks : int
        Residual blocks.
    """

    layers: nn.Sequential

    def __init__(self, width: int = 64, blocks: int = 12) -> None:
        super().__init__()
        _check_width(width)
        if not 1 <= blocks <= 512:
            raise _out_of_range("blocks", "from 1 to 512", blocks)
        self.divisor = 4
        self.layers = nn.Sequential(
            nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(16, width, 3, padding=1)),
            *(_Residual(width, dilation=2 ** (index % 4)) for index in range(blocks)),
            nn.Sequential(nn.Conv2d(width, 32, 3, padding=1), nn.PixelShuffle(4), _Chroma()),
        )

    def forward(self, luminance: Tensor) -> Tensor:
        """Predict chroma; see :meth:`UNet.forward`."""
        chroma: Tensor = self.layers(luminance)
        return chroma

    def cut(self, stage: int, stages: int) -> None:
        """Keep the layers of one stage; the others become identities, and names stay the same."""
        count = len(self.layers)
        for index in range(count):
            if not stage * count // stages <= index < (stage + 1) * count // stages:
                self.layers[index] = nn.Identity()


class _Residual(Block):
    def __init__(self, width: int, *, dilation: int) -> None:
        super().__init__(
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class _Chroma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 110 * torch.tanh(x)


def annealed_mean(logits: Tensor, centers: Tensor, temperature: float) -> Tensor:
    """Mean colour under the annealed distribution, at full resolution.

    Parameters
    ----------
    logits : Tensor
        (N, Q, H/4, W/4).
    centers : Tensor
        (Q, 2), a* and b*.
    temperature : float

    Returns
    -------
    Tensor
        (N, 2, H, W).
    """
    chroma = mean_colour(logits, centers, temperature)
    return nn.functional.interpolate(chroma, scale_factor=4.0, mode="bilinear", align_corners=False)


def mean_colour(logits: Tensor, centers: Tensor, temperature: float) -> Tensor:
    """Mean colour (N, 2, h, w), float32 in any precision; see :func:`annealed_mean`."""
    share = torch.softmax(logits.float() / temperature, dim=1)
    # Under autocast the sum of hundreds of colours would be of numbers with three digits.
    with torch.autocast(logits.device.type, enabled=False):
        return torch.einsum("nqhw,qc->nchw", share, centers)


def guided_filter(chroma: Tensor, luminance: Tensor, radius: int, epsilon: float = 1e-3) -> Tensor:
    """Bring chroma to the luminance's resolution, and its edges to the luminance's edges.

    Within each window, chroma becomes a linear function of luminance (fast guided filter: He and
    Sun 2015, arXiv:1505.00996).

    Parameters
    ----------
    chroma : Tensor
        (N, 2, h, w).
    luminance : Tensor
        (N, 1, H, W), L*/100; H and W are multiples of h and w.
    radius : int
        Of the window, in pixels of ``chroma``.
    epsilon : float
        Variance of luminance, in units of (L*/100)², below which a window counts as flat.

    Returns
    -------
    Tensor
        (N, 2, H, W), float32.
    """

    def mean(values: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(
            values, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False
        )

    chroma, luminance = chroma.float(), luminance.float()  # variances are small differences
    guide = nn.functional.interpolate(luminance, chroma.shape[2:], mode="area")
    light, colour = mean(guide), mean(chroma)
    slope = (mean(guide * chroma) - light * colour) / (mean(guide**2) - light**2 + epsilon)
    line = mean(torch.cat([slope, colour - slope * light], dim=1))
    size = luminance.shape[2:]
    slope, offset = nn.functional.interpolate(line, size, mode="bilinear").chunk(2, dim=1)
    return slope * luminance + offset


def noise_level(luminance: Tensor) -> Tensor:
    """Estimate the white noise that would explain the finest detail of each photograph.

    Immerkær 1996, doi:10.1006/cviu.1996.0060: the mean size of the response to a mask that is
    blind to planes and edges.

    Parameters
    ----------
    luminance : Tensor
        Shape (N, 1, H, W), any unit.

    Returns
    -------
    Tensor
        Standard deviations, shape (N,), in that unit.
    """
    mask = luminance.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    response = nn.functional.conv2d(luminance, mask[None, None])
    return response.abs().mean(dim=(1, 2, 3)) * (math.pi / 2) ** 0.5 / 6


@cache
def chroma_bins() -> NDArray[np.float32]:
    """Centres of the cells of the a*, b* plane, 10 units wide, that sRGB reaches.

    Returns
    -------
    array of float32, shape (Q, 2)
        In order of a*, then b*.
    """
    levels = np.append(np.arange(0, 256, 4, dtype=np.uint8), np.uint8(255))
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    cells = np.unique(np.rint(srgb_to_lab(cube)[:, 1:] / 10).astype(np.int64), axis=0)
    return (10 * cells).astype(np.float32)


def _check_width(width: int) -> None:
    if width < _GROUPS or width % _GROUPS:
        raise _out_of_range("width", "a positive multiple of 8", width)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature <= 1:
        raise _out_of_range("temperature", "above 0, and 1 at most", temperature)


def _out_of_range(argument: str, limits: str, value: float) -> InputError:
    key = f"network.arguments.{argument}"
    return InputError(f"{argument} must be {limits}", key=key, value=value)


def _column(features: Tensor, size: list[int]) -> Tensor:
    """Features (N, C, h, w) of unit mean square at each position, at another size."""
    unit = features.shape[1] ** 0.5 * nn.functional.normalize(features, dim=1)
    mode = "area" if features.shape[2] >= size[0] else "bilinear"
    return nn.functional.interpolate(unit, size, mode=mode)


def _block(inputs: int, outputs: int) -> Block:
    return Block(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.SiLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.SiLU(inplace=True),
    )


NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "gated-unet": GatedUNet,
    "class-unet": ClassUNet,
    "hypercolumn": Hypercolumn,
    "deep": DeepNet,
}


def build_network(name: str, arguments: dict[str, Any] | None = None) -> nn.Module:
    """Build a network by name, with random weights from torch's generator.

    Raises
    ------
    InputError
        If the name or an argument is unknown, or an argument has a bad value.
    """
    if name not in NETWORKS:
        raise InputError(
            "unknown network",
            key="network.name",
            value=name,
            remedy=f"Known networks: {', '.join(sorted(NETWORKS))}.",
        )
    arguments = arguments or {}
    known = inspect.signature(NETWORKS[name]).parameters
    for key, value in arguments.items():
        problem = remedy = None
        if key not in known:
            problem = f"the network {name} has no such argument"
            remedy = f"Its arguments: {', '.join(known)}"
        elif not _is_number(value, whole=isinstance(known[key].default, int)):
            kind = "whole" if isinstance(known[key].default, int) else "finite"
            problem = f"must be a {kind} number"
            remedy = f"Leave it out for its default, {known[key].default}"
        if problem is not None:
            key = f"network.arguments.{key}"
            raise InputError(problem, key=key, value=value, remedy=remedy)
    return NETWORKS[name](**arguments)


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if whole else math.isfinite(value)


def save_checkpoint(folder: str | Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json``, each whole or not at all.

    Parameters
    ----------
    folder : str or Path
        Made if needed.
    network : nn.Module
        Its ``state_dict`` is saved as contiguous CPU tensors.
    config : dict
        ``network`` (``name`` and ``arguments``) and ``input`` (``max_side``: the largest side
        that photographs are scaled down to) are required; ``arm``, ``seed``,
        ``training_sha256``, ``code_version`` and anything else that JSON can hold may follow.
        The weights' header repeats it, so that the file alone is a checkpoint.
    """
    from safetensors.torch import save

    config = {"format": CHECKPOINT_FORMAT, **config}
    _check_config(config, Path(folder))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    header = {_METADATA_KEY: json.dumps(config, sort_keys=True, allow_nan=False)}
    write_bytes_atomic(folder / WEIGHTS, save(state, metadata=header))
    write_json_atomic(folder / "config.json", config)


def load_checkpoint(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a checkpoint: its folder, or a ``.safetensors`` file.

    Returns
    -------
    network : nn.Module
        On the CPU, in evaluation mode.
    config : dict
        From the weights' header, else from the ``config.json`` beside them.

    Raises
    ------
    InputError
        If it is missing, damaged, of an unknown format, or its weights do not fit its network.
    """
    from safetensors import SafetensorError, safe_open

    file = weights_file(path)
    try:
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot be read as safetensors: {error}", file=file) from None
    if _METADATA_KEY in metadata:
        config = json.loads(metadata[_METADATA_KEY])
    elif (file.parent / "config.json").is_file():
        config = read_json(file.parent / "config.json")
    else:
        raise InputError(
            "has neither a percept header nor a config.json beside it",
            file=file,
            remedy="Give a checkpoint made by percept train, or wrap the model as plugin:NAME.",
        )
    _check_config(config, file)
    network = build_network(config["network"]["name"], config["network"].get("arguments"))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the weights do not fit the network: {error}", file=file) from None
    return network.eval(), config


def weights_file(path: str | Path) -> Path:
    """Find the weights of a checkpoint given by its folder or by the file itself.

    Raises
    ------
    InputError
        If there are none.
    """
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            "there is no checkpoint",
            file=file,
            remedy="Results made elsewhere, a folder of pictures, are folder:DIR.",
        )
    return file


def _check_config(config: dict[str, Any], file: Path) -> None:
    if config.get("format") != CHECKPOINT_FORMAT:
        raise InputError(
            "unknown checkpoint format",
            file=file,
            key="format",
            value=config.get("format"),
            remedy=f"This version reads format {CHECKPOINT_FORMAT}.",
        )
    network, scale = config.get("network"), config.get("input")
    if not isinstance(network, dict) or not isinstance(network.get("name"), str):
        raise InputError("the checkpoint does not name its network", file=file, key="network.name")
    side = scale.get("max_side") if isinstance(scale, dict) else None
    if not isinstance(side, int) or side < 1:
        raise InputError(
            "the checkpoint does not give its input size",
            file=file,
            key="input.max_side",
            value=side,
        )
