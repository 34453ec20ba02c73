"""Finds the sibling directories ``app``, ``training``, ``protocols`` and ``data_manifests``.

A wheel carries them under ``percept/_bundle``; a checkout or an editable install has them
beside the package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def root() -> Path:
    """Directory that holds ``app``, ``training``, ``protocols`` and ``data_manifests``."""
    package = Path(__file__).resolve().parent
    bundled = package / "_bundle"
    return bundled if bundled.is_dir() else package.parent


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for a child process that imports ``app`` or ``training``.

    ``PYTHONPATH`` names the bundle (and the place percept itself was imported from), and
    ``PYTHONSAFEPATH`` keeps a folder of the same name in the working directory from being
    imported instead.
    """
    package_home = str(Path(__file__).resolve().parent.parent)
    paths = dict.fromkeys([str(root()), package_home])
    inherited = os.environ.get("PYTHONPATH")
    if inherited:
        paths.update(dict.fromkeys(inherited.split(os.pathsep)))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        **(extra or {}),
    }


def python() -> str:
    """Return the interpreter that child processes are started with: this one."""
    return sys.executable
