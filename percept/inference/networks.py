"""Networks from luminance to chroma, and the checkpoints that hold them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percept.errors import InputError
from percept.files import read_json, write_bytes_atomic, write_json_atomic

CHECKPOINT_FORMAT = 1
WEIGHTS = "model.safetensors"
_METADATA_KEY = "percept"
_GROUPS = 8


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
        if width < _GROUPS or width % _GROUPS:
            raise InputError("width must be a multiple of 8", key="network.width", value=width)
        if not 1 <= depth <= 6:
            raise InputError("depth must be from 1 to 6", key="network.depth", value=depth)
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
        x = self.stem(2 * luminance - 1)
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(nn.functional.avg_pool2d(x, 2))
        for block in reversed(self.up):
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([skips.pop(), x], dim=1))
        chroma: Tensor = 110 * torch.tanh(self.head(x))
        return chroma


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.SiLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.SiLU(inplace=True),
    )


NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet}


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
    try:
        return NETWORKS[name](**(arguments or {}))
    except TypeError as error:
        raise InputError(
            f"bad network arguments: {error}", key="network.arguments", value=arguments
        ) from None


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
