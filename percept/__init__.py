"""percept: human perceptual evaluation of photo colorization.

The public names below are loaded on first use; importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# name: the module that it lives in
_PUBLIC: dict[str, str] = {
    "InputError": "percept.errors",
    "Manifest": "percept.manifest",
    "PerceptError": "percept.errors",
    "Protocol": "percept.protocol",
    "Run": "percept.inference.run",
    "Store": "percept.store",
    "bradley_terry": "percept.stats",
    "build_report": "percept.report.build",
    "correlate": "percept.stats",
    "create_study": "percept.study",
    "degrade_manifest": "percept.degrade",
    "evaluate_run": "percept.metrics.evaluate",
    "export_study": "percept.study",
    "infer": "percept.inference.runner",
    "krippendorff_alpha": "percept.stats",
    "load_protocol": "percept.protocol",
    "mos": "percept.stats",
    "open_run": "percept.inference.run",
    "open_store": "percept.store",
    "pairwise_units": "percept.stats",
    "predict_choices": "percept.stats",
    "read_manifest": "percept.manifest",
    "screen_observers": "percept.stats",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'percept' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
