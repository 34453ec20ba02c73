"""Conditions: what colours a photograph, or where its coloured picture already is."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor

from percept.errors import InputError, InputErrors
from percept.files import sha256_file
from percept.inference.networks import load_checkpoint, weights_file
from percept.inference.run import Condition
from percept.manifest import Manifest
from percept.types import GRAY, REFERENCE

ENTRY_POINTS = "percept.colorizers"
SPECS = (
    "a checkpoint folder or .safetensors file, an exported program (.pt2), folder:DIR, "
    "plugin:NAME, plugin:MODULE:CALLABLE (either with ?setting=value&…), gray or reference"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Colorizer(Protocol):
    """Anything that can be called with luminance and returns colour.

    A plugin is a callable that is given ``device`` and its spec's settings by keyword and returns
    one of these. These attributes of it are honoured where present: ``max_side`` (photographs are
    scaled down to this largest side before; default: full resolution), ``divisor`` (height and
    width are padded to a multiple; default 1), ``training_sha256`` (hashes of the photographs it
    was trained on).
    """

    def __call__(self, luminance: Tensor, /) -> Tensor:
        """Colour a batch.

        Parameters
        ----------
        luminance : Tensor of float32, shape (N, 1, H, W)
            L*/100 in [0, 1].

        Returns
        -------
        Tensor
            Chroma a*, b*, shape (N, 2, H, W), which the runner lays on the photograph's own
            luminance; or sRGB in [0, 1], shape (N, 3, H, W), which is taken as it is.
        """


class Fault(Exception):
    """A colorizer did not do what it should; it costs its items, not the run."""


@dataclass(frozen=True)
class Source:
    """One condition, ready to be run: it either colours, or finds pictures made elsewhere.

    Attributes
    ----------
    condition : Condition
    colorize : Colorizer or None
    find : callable or None
        From a manifest row to the file of the finished picture.
    max_side : int or None
        Largest side that ``colorize`` wants; None is full resolution.
    divisor : int
        Height and width that ``colorize`` takes are multiples of it.
    flat : bool
        Whether each pixel's colour depends on that pixel alone; it is coloured band by band.
    """

    condition: Condition
    colorize: Colorizer | None = None
    find: Callable[[Mapping[str, Any]], Path] | None = None
    max_side: int | None = None
    divisor: int = 1
    flat: bool = False

    @property
    def scale(self) -> tuple[int | None, int]:
        """What a photograph is fitted by; conditions of equal scale see the same luminance."""
        return self.max_side, self.divisor

    @property
    def identity(self) -> str:
        """What must be equal for results to be this condition's; of a plugin, its settings too."""
        spec, sha256 = self.condition.spec, self.condition.sha256
        if sha256 is None:
            return spec
        return f"{spec} {sha256}" if spec.startswith("plugin:") else sha256


def parse_conditions(words: Sequence[str]) -> list[tuple[str, str]]:
    """Split ``NAME=SPEC`` words, checking the names.

    Raises
    ------
    InputErrors
        With every word that has no ``=``, an unsafe name or a name that is taken.
    """
    errors, pairs, taken = [], [], set()
    for word in words:
        name, equals, spec = word.partition("=")
        if not equals or not spec:
            problem = "a condition is NAME=SPEC"
            errors.append(InputError(problem, value=word, remedy=f"SPEC is {SPECS}."))
        elif not _NAME.fullmatch(name):
            errors.append(
                InputError(
                    "a condition's name is 1 to 64 letters, digits, '.', '_' or '-', beginning "
                    "with a letter or digit",
                    value=name,
                )
            )
        elif name.casefold() in taken:
            errors.append(InputError("two conditions have this name", value=name))
        elif name in {GRAY, REFERENCE} and spec != name:
            errors.append(
                InputError(
                    f"the name {name!r} is kept for {name}={name}",
                    value=word,
                    remedy="Choose another name.",
                )
            )
        taken.add(name.casefold())
        pairs.append((name, spec))
    if not words:
        errors.append(InputError("no condition given", remedy=f"NAME=SPEC; SPEC is {SPECS}."))
    if errors:
        raise InputErrors(errors)
    return pairs


def load_colorizer(
    name: str, spec: str, *, device: torch.device, manifest: Manifest, compile: bool = False
) -> Source:
    """Load what a condition's spec names, onto ``device``; compile it if it is a checkpoint.

    Raises
    ------
    InputError
        If the spec is unknown, or what it names is missing or unusable.
    """
    if spec == GRAY:
        return Source(Condition(name, spec), colorize=_gray, flat=True)
    if spec == REFERENCE:
        return _reference(name, manifest)
    kind, colon, rest = spec.partition(":")
    if colon and kind == "folder":
        return _folder(name, spec, Path(rest), manifest)
    if colon and kind == "plugin":
        return _plugin(name, spec, rest, device)
    if spec.endswith(".pt2") and Path(spec).is_file():
        return _program(name, spec, device)
    if spec.endswith(".safetensors") or Path(spec).is_dir():
        return _checkpoint(name, spec, device, compile=compile)
    raise InputError(
        f"condition {name!r}: there is no such file and no such kind of condition",
        value=spec,
        remedy=f"Possible are {SPECS}.",
    )


def one_line(error: BaseException) -> str:
    """Describe an unexpected error in one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]


def _gray(luminance: Tensor) -> Tensor:
    return luminance.new_zeros((luminance.shape[0], 2, *luminance.shape[2:]))


def _reference(name: str, manifest: Manifest) -> Source:
    if manifest.frame["reference_path"].isna().all():
        raise InputError(
            f"condition {name!r}: no photograph has a reference",
            file=manifest.file,
            column="reference_path",
            remedy="Leave the condition out.",
        )

    def find(row: Mapping[str, Any]) -> Path:
        if pd.isna(row["reference_path"]):
            raise InputError("the manifest names no reference for it")
        return manifest.resolve(row["reference_path"])

    return Source(Condition(name, REFERENCE), find=find)


def _checkpoint(name: str, spec: str, device: torch.device, *, compile: bool) -> Source:
    network, config = load_checkpoint(spec)
    condition = Condition(
        name,
        spec,
        arm=config.get("arm"),
        seed=config.get("seed"),
        sha256=sha256_file(weights_file(spec)),
        training_sha256=tuple(config.get("training_sha256") or ()),
    )
    network = network.to(device)
    if compile:
        # A program for each shape: one for all would depend on the shapes that came first, and
        # those differ from world to world.
        torch._dynamo.config.recompile_limit = 1 << 20
        torch._dynamo.config.accumulated_recompile_limit = 1 << 20
        network.compile(dynamic=False)
    return Source(
        condition,
        colorize=network,
        max_side=config["input"]["max_side"],
        divisor=int(getattr(network, "divisor", 1)),
    )


def _program(name: str, spec: str, device: torch.device) -> Source:
    # The program's own archive may carry a config.json, as extra file, with the same "input" (and
    # a divisor), arm, seed and training_sha256 as a checkpoint's.
    extra = {"config.json": ""}
    try:
        program = torch.export.load(spec, extra_files=extra)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        module = program.module()
        config = json.loads(extra["config.json"] or "{}")
    except Exception as error:
        raise InputError(
            f"condition {name!r}: cannot be loaded as an exported program: {one_line(error)}",
            file=spec,
            remedy="Make it with torch.export.save, with dynamic height and width.",
        ) from None
    scale = config.get("input") or {}
    return Source(
        Condition(
            name,
            spec,
            arm=config.get("arm"),
            seed=config.get("seed"),
            sha256=sha256_file(spec),
            training_sha256=tuple(config.get("training_sha256") or ()),
        ),
        colorize=module,
        max_side=scale.get("max_side"),
        divisor=int(scale.get("divisor", 1)),
    )


def _plugin(name: str, spec: str, target: str, device: torch.device) -> Source:
    target, mark, words = target.partition("?")
    settings = _settings(name, words) if mark else {}
    module_name, colon, attribute = target.partition(":")
    remedy = f"plugin:MODULE:CALLABLE, or an entry point of the group {ENTRY_POINTS}"
    factory: Any
    try:
        if colon:
            if os.getcwd() not in sys.path:  # a plugin may lie where the user is; last, so that
                sys.path.append(os.getcwd())  # it hides nothing
            factory = importlib.import_module(module_name)
            for part in attribute.split("."):
                factory = getattr(factory, part)
        else:
            found = list(entry_points(group=ENTRY_POINTS, name=target))
            if not found:
                known = sorted({point.name for point in entry_points(group=ENTRY_POINTS)})
                raise InputError(
                    f"condition {name!r}: no installed package offers this colorizer",
                    value=target,
                    remedy=f"Installed: {', '.join(known) or 'none'}. Else give {remedy}.",
                )
            factory = found[0].load()
        colorizer = factory(device=device, **settings)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"condition {name!r}: the plugin cannot be loaded: {one_line(error)}",
            value=spec,
            remedy=f"Give {remedy}; it is called with device=… and its settings, and returns the "
            "colorizer.",
        ) from error
    if not callable(colorizer):
        raise InputError(
            f"condition {name!r}: the plugin returned a {type(colorizer).__name__}, which cannot "
            "be called",
            value=spec,
        )
    file = getattr(sys.modules.get(getattr(factory, "__module__", "")), "__file__", None)
    return Source(
        Condition(
            name,
            spec,
            sha256=sha256_file(file) if file else None,
            training_sha256=tuple(getattr(colorizer, "training_sha256", ())),
        ),
        colorize=colorizer,
        max_side=getattr(colorizer, "max_side", None),
        divisor=int(getattr(colorizer, "divisor", 1)),
    )


def _settings(name: str, words: str) -> dict[str, Any]:
    """Read ``width=32&mode=warm``: JSON where a value is that, else text."""
    settings: dict[str, Any] = {}
    for word in words.split("&"):
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier() or key in {"device", *settings}:
            raise InputError(
                f"condition {name!r}: settings are setting=value&setting=value, each once, and "
                "none is called device",
                value=word,
            )
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def _folder(name: str, spec: str, folder: Path, manifest: Manifest) -> Source:
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise InputError(
            f"condition {name!r}: the folder cannot be read: {error.strerror}", file=folder
        ) from None
    by_stem: dict[str, list[Path]] = {}
    for entry in entries:
        if not entry.name.startswith("."):
            by_stem.setdefault(entry.stem, []).append(entry)
    stems = {
        row["content_id"]: PurePosixPath(str(row["path"]).replace("\\", "/")).stem
        for row in manifest.rows()
    }
    uses = Counter(stems.values())

    def candidates(content_id: str) -> list[Path]:
        if content_id in by_stem:
            return by_stem[content_id]
        stem = stems[content_id]
        # A file's name counts only where it cannot mean another photograph.
        return by_stem.get(stem, []) if uses[stem] == 1 and stem not in stems else []

    def find(row: Mapping[str, Any]) -> Path:
        files = candidates(row["content_id"])
        if len(files) != 1:
            names = ", ".join(file.name for file in files)
            raise InputError(
                f"{folder}: several files could be this photograph: {names}"
                if files
                else f"{folder}: no file is named after this photograph"
            )
        return files[0]

    listing = hashlib.sha256()
    matched = 0
    for content_id in stems:
        for file in candidates(content_id):
            matched += 1
            listing.update(f"{content_id}/{file.name}/{file.stat().st_size}\n".encode())
    if not matched:
        raise InputError(
            f"condition {name!r}: no file is named after a photograph of the manifest",
            file=folder,
            remedy="Name the results by content_id or like the photographs' own files.",
        )
    return Source(Condition(name, spec, sha256=listing.hexdigest()), find=find)
