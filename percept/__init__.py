"""percept: human perceptual evaluation of photo colorization.

The public names below are loaded on first use; importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC: dict[str, str] = {}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'percept' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
