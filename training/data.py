"""Photographs of the training split, and the random views that a step trains on.

What a step sees is a pure function of seed, step and photographs: the samples form one endless
stream, a fresh permutation of the photographs after another; step *s* takes the next
``global_batch`` of it, and each process an equal slice of those. So nothing is padded, repeated
or dropped, and the number of processes does not change what is seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from percept.color import srgb_to_lab
from percept.errors import InputError, InputErrors
from percept.files import PACKAGE, sha256_file
from percept.manifest import load_rgb, read_manifest
from training.config import DataConfig

_FILES = ("path", "reference_path", "reference_clean_path")
_ORDER, _VIEW = 0, 1  # independent random streams of one seed


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One manifest row that can be trained on."""

    content_id: str
    path: Path
    """The photograph as it is, whose luminance is the input."""
    reference: Path
    """The same photograph in its true colours."""
    hashes: tuple[str, ...]
    """sha256 of photograph, reference and, where there is one, clean original."""


def training_photographs(config: DataConfig) -> list[Photograph]:
    """Rows of the training split that have a reference, checked against their hashes.

    Raises
    ------
    InputError, InputErrors
        If the split has no such row, or files are missing or not what the manifest says.
    """
    manifest = read_manifest(Path(config.manifest or ""))
    photographs: list[Photograph] = []
    problems: list[InputError] = []
    for number, row in enumerate(manifest.rows(), start=1):
        if row["split"] != config.split or row["reference_path"] is None:
            continue
        columns = [column for column in _FILES if row[column] is not None]
        files = [manifest.resolve(row[column]) for column in columns]
        before = len(problems)
        problems += [
            InputError(
                "no such file", file=manifest.file, row=number, column=column, value=str(file)
            )
            for column, file in zip(columns, files, strict=True)
            if not file.is_file()
        ]
        if len(problems) > before:
            continue
        hashes = tuple(sha256_file(file) for file in files)
        if hashes[0] != row["sha256"] and not row["path"].startswith(PACKAGE):
            problems.append(
                InputError(
                    "the photograph is not the one that the manifest was written for",
                    file=manifest.file,
                    row=number,
                    column="sha256",
                    value=row["sha256"],
                    remedy="Write the manifest anew, or restore the file",
                )
            )
        photographs.append(
            Photograph(
                content_id=row["content_id"], path=files[0], reference=files[1], hashes=hashes
            )
        )
    if problems:
        raise problems[0] if len(problems) == 1 else InputErrors(problems)
    if not photographs:
        known = ", ".join(map(repr, sorted(manifest.frame["split"].dropna().unique())))
        raise InputError(
            "no photograph of this split has a reference_path to learn colour from",
            file=manifest.file,
            key="data.split",
            value=config.split,
            remedy=f"Splits in the manifest: {known or 'none'}",
        )
    return photographs


def data_sha256(photographs: Sequence[Photograph]) -> str:
    """Hash of what is trained on, in order: content ids and the hashes of all their files."""
    digest = hashlib.sha256()
    for photograph in photographs:
        digest.update("\t".join([photograph.content_id, *photograph.hashes, "\n"]).encode())
    return digest.hexdigest()


def load_lab(photograph: Photograph, max_side: int) -> torch.Tensor:
    """Luminance of the photograph and chroma of its reference.

    Returns
    -------
    torch.Tensor
        float16 (3, H, W): L* in 0…100, then a*, b*; the larger of H and W is at most
        ``max_side``. Half precision keeps L* to 0.06.

    Raises
    ------
    InputError
        If a file cannot be decoded, or the two differ in size.
    """
    aged, reference = load_rgb(photograph.path), load_rgb(photograph.reference)
    if aged.shape != reference.shape:
        raise InputError(
            f"the reference is {reference.shape[1]}×{reference.shape[0]} pixels, the photograph "
            f"{aged.shape[1]}×{aged.shape[0]}",
            file=photograph.reference,
            remedy="A reference has the size of its photograph",
        )
    lab = srgb_to_lab(reference, dtype=np.float32)
    lab[..., 0] = srgb_to_lab(aged, dtype=np.float32)[..., 0]
    values = torch.from_numpy(lab).permute(2, 0, 1)
    height, width = aged.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    if scale < 1:
        # As inference does it, in L* and by this filter: another would leave more or less grain.
        size = max(1, round(height * scale)), max(1, round(width * scale))
        values = functional.interpolate(values[None], size, mode="bilinear", antialias=True)[0]
    return values.half().contiguous()


def batch_positions(step: int, *, global_batch: int, rank: int, world: int) -> range:
    """Positions in the stream of samples that one process takes in one step.

    ``global_batch`` is a multiple of ``world``. Over all ranks and steps every position occurs
    exactly once.
    """
    share = global_batch // world
    first = step * global_batch + rank * share
    return range(first, first + share)


def photograph_at(position: int, *, count: int, seed: int) -> int:
    """Index of the photograph at a position of the stream: a permutation of ``count`` per epoch."""
    epoch, place = divmod(position, count)
    return int(_permutation(epoch, count, seed)[place])


@lru_cache(maxsize=16)
def _permutation(epoch: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)


class Views:
    """Random square views of photographs held in memory.

    Parameters
    ----------
    photographs : sequence of torch.Tensor
        As :func:`load_lab` returns them.
    config : DataConfig
        How views are varied.
    crop, global_batch : int
        Side of a view in pixels; views per step over all processes.
    seed : int
        With the position in the stream it decides each view.
    """

    def __init__(
        self,
        photographs: Sequence[torch.Tensor],
        config: DataConfig,
        *,
        crop: int,
        global_batch: int,
        seed: int,
    ) -> None:
        self._photographs = photographs
        self._config = config
        self._crop = crop
        self._global_batch = global_batch
        self._seed = seed

    def batch(self, step: int, *, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One process's share of a step.

        Returns
        -------
        luminance : torch.Tensor
            float32 (N, 1, crop, crop), L*/100 in [0, 1].
        chroma : torch.Tensor
            float32 (N, 2, crop, crop), true a* and b*.
        """
        positions = batch_positions(step, global_batch=self._global_batch, rank=rank, world=world)
        views = torch.stack([self._view(position) for position in positions])
        return views[:, :1], views[:, 1:]

    def _view(self, position: int) -> torch.Tensor:
        """View (3, crop, crop) at a position of the stream: luminance in [0, 1], a*, b*."""
        rng = np.random.default_rng([self._seed, _VIEW, position])
        photograph = self._photographs[
            photograph_at(position, count=len(self._photographs), seed=self._seed)
        ]
        height, width = photograph.shape[1:]
        zoom = rng.uniform(self._config.min_scale, 1.0)
        side = min(height, width, round(self._crop / zoom))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        window = photograph[:, top : top + side, left : left + side].float()
        view = functional.interpolate(
            window[None],
            size=(self._crop, self._crop),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )[0]
        if self._config.flip and rng.random() < 0.5:
            view = view.flip(-1)
        jitter = self._config.lightness_jitter
        gamma, contrast = np.exp(rng.uniform(-jitter, jitter, size=2))
        light = view[:1] / 100.0
        middle = light.mean()
        light = (middle + (light - middle) * float(contrast)).clamp(0.0, 1.0) ** float(gamma)
        return torch.cat([light, view[1:]])
