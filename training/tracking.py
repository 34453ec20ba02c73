"""What a training tells while it runs: ``log.jsonl``, pictures, and TensorBoard if asked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from percept.color import lab_to_srgb_in_gamut
from percept.files import write_bytes_atomic


class Tracker:
    """Writes lines and pictures of one training; used by the main process alone.

    Parameters
    ----------
    folder : Path
        Of the training.
    tensorboard : bool
        Write event files to ``folder/tensorboard``, too.
    step : int
        Step that the training goes on from; later events are superseded.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, step: int) -> None:
        self._folder = folder
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def line(self, values: dict[str, Any]) -> None:
        """Add a line to the log."""
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
        if self._writer is not None:
            for name, value in _scalars(values):
                self._writer.add_scalar(name, value, values["step"])

    def validation(self, step: int, loss: float) -> None:
        """Add a validation loss to ``validation.jsonl``."""
        with (self._folder / "validation.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "loss": loss}) + "\n")
        if self._writer is not None:
            self._writer.add_scalar("validation_loss", loss, step)

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        """Keep a picture of what the network does by now."""
        target = self._folder / "samples" / f"step-{step:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="png", compress_level=1)
        write_bytes_atomic(target, buffer.getvalue())
        if self._writer is not None:
            self._writer.add_image("grey, coloured, true", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still buffered."""
        if self._writer is not None:
            self._writer.close()


def grid(luminance: Tensor, predicted: Tensor, true: Tensor) -> NDArray[np.uint8]:
    """Photographs as they are, coloured, and in their true colours: a column each.

    Parameters
    ----------
    luminance : Tensor
        (N, 1, H, W), L*/100.
    predicted, true : Tensor
        (N, 2, H, W), a*, b*.

    Returns
    -------
    array of uint8, shape (3 H, N W, 3)
    """
    rows = []
    for chroma in (torch.zeros_like(true), predicted, true):
        lab = torch.cat([100 * luminance, chroma], dim=1).permute(0, 2, 3, 1).double().cpu().numpy()
        rows.append(np.concatenate(list(lab_to_srgb_in_gamut(lab)), axis=1))
    return np.concatenate(rows, axis=0)


def _scalars(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{name}/")
        elif name != "step" and value is not None:
            found.append((prefix + name, value))
    return found
