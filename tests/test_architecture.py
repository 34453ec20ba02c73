"""Who may import whom, and what must not be imported early."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EVERYONE = {
    "errors",
    "types",
    "bundle",
    "files",
    "",
}  # "" is percept itself: lazy names, the version

# unit: the units of ours that it may import. A unit is a module or package of percept,
# or one of the sibling trees; "*" means all.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "bundle": set(),
    "files": set(),
    "color": set(),
    "manifest": set(),
    "protocol": set(),
    "stats": set(),
    "inference.run": set(),
    "distributed": set(),
    "stimuli": {"manifest", "inference.run", "protocol", "color"},
    "adaptive": set(),
    "design": {"protocol", "stimuli", "adaptive"},
    "degrade": {"manifest", "color"},
    "inference": {"manifest", "distributed", "inference.run", "color"},
    "metrics": {"manifest", "inference.run", "distributed", "color"},
    "store": set(),
    "simulation": {"protocol", "store"},
    "study": {"protocol", "stimuli", "design", "store", "stats", "inference.run", "simulation"},
    "votes": {"protocol", "store", "study"},
    "calibrate": {"inference.run", "store", "stats"},
    "stretch": {"calibrate", "stats"},
    "gallery": {"inference.run", "manifest"},
    "report": {"store", "stats", "protocol", "inference.run"},
    "app": {"protocol", "stimuli", "design", "store", "study", "stats"},
    "training": {
        "manifest",
        "degrade",
        "distributed",
        "inference",
        "inference.run",
        "metrics",
        "color",
    },
    "cli": {"*"},
    "__main__": {"cli"},
    "": set(),
}
# What a unit may import from outside, where that is restricted (standard library always).
THIRD_PARTY: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "bundle": set(),
    "files": {"pandas"},
    "color": {"numpy"},
    "adaptive": {"numpy"},
    "stats": {"numpy", "scipy", "pandas"},
    "inference.run": {"pandas", "pyarrow"},
}
TORCH_ALLOWED = {"inference", "metrics", "training", "distributed"}


def unit_of(name: str) -> str:
    """The unit that a dotted module name of ours belongs to."""
    parts = name.split(".")
    if parts[0] in {"app", "training"}:
        return parts[0]
    if parts[1:3] == ["inference", "run"]:
        return "inference.run"
    return parts[1] if len(parts) > 1 and parts[1] != "__version__" else ""


def modules() -> list[tuple[str, Path]]:
    found = []
    for tree in ("percept", "app", "training"):
        for path in sorted((ROOT / tree).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append((name.removesuffix(".__init__"), path))
    return found


def imports(name: str, path: Path) -> set[str]:
    """Absolute dotted names that a module imports anywhere, function bodies included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import; write it absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


MODULES = modules()


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_follow_the_architecture(name: str, path: Path) -> None:
    unit = unit_of(name)
    assert unit in ALLOWED, f"{name}: unit {unit!r} is not in the architecture"
    allowed = ALLOWED[unit] | EVERYONE | {unit}
    for imported in imports(name, path):
        top = imported.split(".")[0]
        if top in {"percept", "app", "training"}:
            other = unit_of(imported)
            # `from percept import manifest` names the unit in its second part.
            assert "*" in allowed or other in allowed, f"{name} may not import {imported}"
            if name.startswith("percept"):
                assert top == "percept", f"{name} may not import {imported}"
        elif unit in THIRD_PARTY and top not in sys.stdlib_module_names:
            assert top in THIRD_PARTY[unit], f"{name} may not import {top}"
        if top in {"torch", "torchvision", "lpips"}:
            assert unit in TORCH_ALLOWED, f"{name} may not import torch"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"pillow": "PIL", "scikit-image": "skimage", "scikit-learn": "sklearn"}
NEVER_IMPORTED = {
    "pyarrow": "pandas reads and writes Parquet with it",
    "scikit-learn": "carries photographs of the demo",
}


def test_what_is_imported_is_a_dependency_and_the_other_way_round() -> None:
    listed = {re.split(r"[^\w-]", entry)[0].lower() for entry in PROJECT["dependencies"]}
    ours = {"percept", "app", "training", *sys.stdlib_module_names}
    used = {found.split(".")[0] for name, path in MODULES for found in imports(name, path)} - ours
    needed = {IMPORTED_AS.get(name, name) for name in listed - NEVER_IMPORTED.keys()}
    assert used == needed
    assert NEVER_IMPORTED.keys() <= listed


def test_statistics_in_the_app_stay_on_the_admin_page() -> None:
    users = {
        name
        for name, path in MODULES
        if unit_of(name) == "app"
        and any(imported.startswith("percept.stats") for imported in imports(name, path))
    }
    assert all("admin" in name for name in users), users


HEAVY = ("torch", "streamlit", "matplotlib", "scipy.stats", "skimage", "pandas", "sqlalchemy")


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["infer", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from percept.cli import main\n"
        f"sys.argv = ['percept', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage: percept" in done.stdout


def test_packages_import_nothing_heavy() -> None:
    packages = [name for name, path in MODULES if path.name == "__init__.py"]
    program = (
        "import importlib, sys\n"
        f"for name in {packages!r}: importlib.import_module(name)\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_public_name_loads() -> None:
    import percept

    for name in percept.__all__:
        assert getattr(percept, name) is not None
    assert set(percept.__all__) <= set(dir(percept))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = percept.nonsense
