"""Photographs of the training split, the random views that a step trains on, and their loader.

What a step sees is a pure function of seed, step and photographs: :class:`training.order.Order`
decides the photographs, the position in the stream each view.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from percept.color import srgb_to_lab
from percept.degrade import PROCESSES, age, content_rng
from percept.errors import InputError, InputErrors, PerceptError
from percept.files import PACKAGE, sha256_file
from percept.manifest import load_rgb, read_manifest
from training.config import Config, DataConfig
from training.order import Order

_FILES = ("path", "reference_path", "reference_clean_path")
_VIEW = 1  # a random stream of its own among those of one seed
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where loader processes hand tensors over)


#: Luminance, chroma, and what is wrong with them, if anything.
Batch = tuple[torch.Tensor, torch.Tensor, str]


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
    shape: tuple[int, int]
    """Height and width that the manifest gives."""
    stratum: tuple[str, ...] = ()
    """Its values in the columns ``data.strata``."""


def training_photographs(config: DataConfig) -> list[Photograph]:
    """Rows of the training split that have a reference, checked against their hashes.

    Raises
    ------
    InputError, InputErrors
        If the split has no such row, or files are missing or not what the manifest says.
    """
    return _photographs(config, config.split)


def validation_photographs(config: DataConfig) -> list[Photograph]:
    """Rows of the validation split, as :func:`training_photographs`; often there are none."""
    return _photographs(config, config.validation_split, required=False)


def _photographs(config: DataConfig, split: str, *, required: bool = True) -> list[Photograph]:
    manifest = read_manifest(Path(config.manifest or ""))
    unknown = [column for column in config.strata if column not in manifest.frame.columns]
    if unknown and config.sampler == "stratified":
        raise InputError(
            "the manifest has no such column",
            file=manifest.file,
            key="data.strata",
            value=unknown[0],
            remedy=f"Columns: {', '.join(manifest.frame.columns)}",
        )
    photographs: list[Photograph] = []
    problems: list[InputError] = []
    for number, row in enumerate(manifest.rows(), start=1):
        if row["split"] != split or row["reference_path"] is None:
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
                content_id=row["content_id"],
                path=files[0],
                reference=files[1],
                hashes=hashes,
                shape=(int(row["height"]), int(row["width"])),
                stratum=tuple(str(row[c]) for c in config.strata if c not in unknown),
            )
        )
    if problems:
        raise problems[0] if len(problems) == 1 else InputErrors(problems)
    if not photographs and required:
        known = ", ".join(map(repr, sorted(manifest.frame["split"].dropna().unique())))
        raise InputError(
            "no photograph of this split has a reference_path to learn colour from",
            file=manifest.file,
            key="data.split",
            value=split,
            remedy=f"Splits in the manifest: {known or 'none'}",
        )
    return photographs


def data_sha256(
    photographs: Sequence[Photograph], validation: Sequence[Photograph], config: Config
) -> dict[str, str]:
    """Hash what a manifest decides of a training, each under a name that says what it is.

    Returns
    -------
    dict of str to str
        ``data_sha256``: content ids and the hashes of all files, in order; ``validation_sha256``:
        the same of the validation. ``strata_sha256`` and ``buckets_sha256``, where the order of
        the photographs depends on them.
    """
    parts = {
        "data_sha256": [[p.content_id, *p.hashes] for p in photographs],
        "validation_sha256": [[p.content_id, *p.hashes] for p in validation],
    }
    if config.data.sampler == "stratified":
        parts["strata_sha256"] = [list(p.stratum) for p in photographs]
    if len(config.views) > 1:
        nearest = [nearest_shape(p.shape, config.views) for p in photographs]
        parts["buckets_sha256"] = [[str(index)] for index in nearest]
    return {
        name: hashlib.sha256(json.dumps(rows).encode()).hexdigest() for name, rows in parts.items()
    }


def load_lab(photograph: Photograph, config: DataConfig, *, seed: int = 0) -> torch.Tensor:
    """Luminance of the photograph, chroma of its reference, and aged luminance.

    Returns
    -------
    torch.Tensor
        float16 (3 + K, H, W): L* in 0…100, then a*, b*, then the luminance of K aged versions
        (``config.aged_copies``; none where ``config.ageing`` is 0); the larger of H and W is at
        most ``config.max_side``. Half precision keeps L* to 0.06.

    Raises
    ------
    InputError
        If a file cannot be decoded, or the two differ in size.
    """
    least = config.max_side if config.decode_downscale else None
    aged, reference = (load_rgb(f, at_least=least) for f in (photograph.path, photograph.reference))
    if aged.shape != reference.shape and least:  # one of them is no JPEG
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
    scale = min(1.0, config.max_side / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if scale < 1:
        # As inference does it, in L* and by this filter: another would leave more or less grain.
        values = functional.interpolate(values[None], size, mode="bilinear", antialias=True)[0]
    if config.ageing:
        small = np.asarray(Image.fromarray(reference).resize(size[::-1], Image.Resampling.BOX))
        copies = [
            _age(small, content_rng(seed, f"{photograph.content_id}/{number}"))
            for number in range(config.aged_copies)
        ]
        values = torch.cat([values, *copies])
    return values.half().contiguous()


def _age(rgb: NDArray[np.uint8], rng: np.random.Generator) -> torch.Tensor:
    """Luminance (1, H, W) of a photograph aged by a process that the generator picks."""
    photo = age(rgb, PROCESSES[int(rng.integers(len(PROCESSES)))], rng=rng).photo
    grey = srgb_to_lab(np.repeat(photo[..., None], 3, axis=-1), dtype=np.float32)
    return torch.from_numpy(grey[..., 0])[None]


def nearest_shape(shape: tuple[int, int], views: Sequence[tuple[int, int]]) -> int:
    """Index of the view whose proportions are nearest to a photograph's; the first of equals."""
    ratio = np.log(shape[0] / shape[1])
    return int(np.argmin([abs(np.log(height / width) - ratio) for height, width in views]))


class Views(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random views of photographs: item ``s`` is one process's share of step ``s``.

    Parameters
    ----------
    photographs : sequence of Photograph
    config : Config
        Which views, and how many.
    rank, world : int
        The process, and their number.

    Raises
    ------
    InputError
        If a photograph cannot be decoded (at once where ``config.data.cache`` is on).
    """

    def __init__(
        self, photographs: Sequence[Photograph], config: Config, *, rank: int = 0, world: int = 1
    ) -> None:
        self._photographs, self._config = photographs, config.data
        self._seed = config.seed
        self._batch = config.train.global_batch
        self.share = range(self._batch)
        if config.sharding.strategy != "pipeline":  # there every process computes on all views
            share = self._batch // world
            self.share = range(rank * share, (rank + 1) * share)
        names = sorted({photograph.stratum for photograph in photographs})
        nearest = [nearest_shape(photograph.shape, config.views) for photograph in photographs]
        used = sorted(set(nearest))
        self._shapes = [config.views[index] for index in used]
        self._order = Order(
            len(photographs),
            batch=self._batch,
            seed=config.seed,
            sampler=config.data.sampler,
            strata=[names.index(photograph.stratum) for photograph in photographs],
            buckets=[used.index(index) for index in nearest],
            world=world,
        )
        self._held: list[torch.Tensor] | None = None
        if config.data.cache:
            self._held = [load_lab(p, config.data, seed=config.seed) for p in photographs]

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One process's share of a step.

        Returns
        -------
        luminance : torch.Tensor
            float32 (N, 1, H, W), L*/100 in [0, 1].
        chroma : torch.Tensor
            float32 (N, 2, H, W), true a* and b*.
        """
        chosen = self._order.photographs(step)
        shape = self._shapes[self._order.bucket(step)]
        first = step * self._batch
        views = torch.stack([self._view(first + i, int(chosen[i]), shape) for i in self.share])
        return views[:, :1], views[:, 1:]

    def unknown(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """NaN in place of a process's share of a step."""
        shape = len(self.share), 3, *self._shapes[self._order.bucket(step)]
        views = torch.full(shape, math.nan)
        return views[:, :1], views[:, 1:]

    def center(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut the largest view from the middle of a photograph: (1, H, W) and (2, H, W)."""
        photograph = self.photograph(index)
        shape = self._shapes[0]
        height, width = photograph.shape[1:]
        scale = min(height / shape[0], width / shape[1])
        tall, wide = (max(1, round(n * scale)) for n in shape)
        top, left = (height - tall) // 2, (width - wide) // 2
        view = _resize(photograph[:3, top : top + tall, left : left + wide], shape)
        return view[:1] / 100.0, view[1:]

    def __len__(self) -> int:
        return len(self._photographs)

    def photograph(self, index: int) -> torch.Tensor:
        """Return a photograph as :func:`load_lab` gives it."""
        if self._held is not None:
            return self._held[index]
        return load_lab(self._photographs[index], self._config, seed=self._seed)

    def _view(self, position: int, index: int, shape: tuple[int, int]) -> torch.Tensor:
        """View (3, H, W) at a position of the stream: luminance in [0, 1], a*, b*."""
        rng = np.random.default_rng([self._seed, _VIEW, position])
        photograph = self.photograph(index)
        zoom = rng.uniform(self._config.min_scale, 1.0)
        height, width = photograph.shape[1:]
        # As large as the zoom asks for, or as the photograph allows, in the view's proportions.
        scale = min(1 / zoom, height / shape[0], width / shape[1])
        tall, wide = (max(1, round(n * scale)) for n in shape)
        top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        view = _resize(photograph[:, top : top + tall, left : left + wide], shape)
        if self._config.flip and rng.random() < 0.5:
            view = view.flip(-1)
        jitter = self._config.lightness_jitter
        gamma, contrast = np.exp(rng.uniform(-jitter, jitter, size=2))
        light = view[:1] / 100.0
        if self._config.ageing and rng.random() < self._config.ageing:
            light = view[3 + int(rng.integers(self._config.aged_copies))][None] / 100.0
        middle = light.mean()
        light = (middle + (light - middle) * float(contrast)).clamp(0.0, 1.0) ** float(gamma)
        return torch.cat([light, view[1:3]])


def _resize(window: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(
        window[None].float(), size=shape, mode="bilinear", antialias=True, align_corners=False
    )[0]


def load_batches(views: Views, config: DataConfig, steps: range) -> Iterator[Batch]:
    """Yield the items of ``views`` for ``steps``, made ahead by loader processes if any."""
    return iter(
        DataLoader(
            _Batches(views),
            batch_size=None,
            sampler=steps,
            num_workers=config.workers,
            prefetch_factor=config.prefetch if config.workers else None,
            pin_memory=config.pin_memory and torch.cuda.is_available(),
            # No random state is used; this keeps torch's from moving with the loader.
            generator=torch.Generator(),
        )
    )


class _Batches(Dataset[Batch]):
    """The items of views, each with what is wrong with it.

    A process that met a bad photograph alone would leave the others waiting for its gradient: it
    hands them NaN instead, and then all know.
    """

    def __init__(self, views: Views) -> None:
        self._views = views

    def __getitem__(self, step: int) -> Batch:
        try:
            return *self._views[step], ""
        except PerceptError as error:
            return *self._views.unknown(step), str(error)


def check_loader(config: Config, world: int, local: int) -> None:
    """Refuse loader processes that would die for want of shared memory or open files.

    Parameters
    ----------
    config : Config
    world, local : int
        Number of training processes, and of those on this machine.

    Raises
    ------
    InputError
        With what is needed and what there is.
    """
    data = config.data
    if not data.workers:
        return
    ready = data.workers * (data.prefetch + 1)
    # All processes of this machine share its memory; a step's views are three planes of float32.
    pixels = max(height * width for height, width in config.views)
    share = config.train.global_batch
    if config.sharding.strategy != "pipeline":  # there every process loads all views
        share //= world
    needed = local * ready * share * pixels * 3 * 4
    if _SHARED_MEMORY.is_dir():
        state = os.statvfs(_SHARED_MEMORY)
        free = state.f_bavail * state.f_frsize
        if needed > free:
            raise InputError(
                f"{data.workers} loader processes in each of {local} that keep {data.prefetch} "
                f"steps ready need {needed / 2**20:.0f} MiB of shared memory, and {_SHARED_MEMORY} "
                f"has {free / 2**20:.0f}",
                key="data.workers",
                value=data.workers,
                remedy="Lower data.workers, data.prefetch or train.global_batch, or enlarge it "
                "(docker run --shm-size=…)",
            )
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = 64 + 4 * ready  # two tensors an item, each open on both sides
    if limit != resource.RLIM_INFINITY and files > limit:
        raise InputError(
            f"{data.workers} loader processes need about {files} open files, and {limit} are "
            "allowed",
            key="data.workers",
            value=data.workers,
            remedy="Raise the limit (ulimit -n), or lower data.workers or data.prefetch",
        )


def chroma_histogram(chroma: torch.Tensor, bins: int = 16) -> torch.Tensor:
    """Histogram of a*, b* over ±110.

    Parameters
    ----------
    chroma : torch.Tensor
        (N, 2, H, W).
    bins : int
        Along each axis.

    Returns
    -------
    torch.Tensor
        float64 (bins²,) on the CPU, counts of pixels.
    """
    cells = ((chroma + 110) * (bins / 220)).long().clamp(0, bins - 1)
    flat = (cells[:, 0] * bins + cells[:, 1]).flatten()
    return torch.bincount(flat, minlength=bins * bins).double().cpu()


def jensen_shannon(counts: NDArray[np.float64]) -> float:
    """How unlike several histograms are: the entropy of their mean less their mean entropy.

    Lin 1991, doi:10.1109/18.61115, with equal weights and in bits, divided by log2 of the number
    of histograms: 0 where all are proportional, 1 where no two share a bin.

    Parameters
    ----------
    counts : array, shape (n, bins)
        Not normalised; n = 1 and empty rows give 0.
    """
    totals = counts.sum(axis=1, keepdims=True)
    if len(counts) < 2 or not totals.all():
        return 0.0
    shares = counts / totals

    def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.where(p > 0, p * np.log2(np.where(p > 0, p, 1.0)), 0.0).sum(axis=-1)

    apart = entropy(shares.mean(axis=0)) - entropy(shares).mean()
    return float(max(0.0, apart) / np.log2(len(counts)))
