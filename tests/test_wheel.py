"""The built wheel, installed elsewhere, works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel alone.

    The dependencies are borrowed from this environment by a ``.pth`` file. Such a file adds a
    directory without reading the ``.pth`` files inside, so an editable install stays invisible.
    """
    home = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", home, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = home.glob("percept-*.whl")
    venv = home / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def run(environment: Path, *command: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=environment.parent,
        env=clean,
        capture_output=True,
        text=True,
    )


def test_the_wheel_carries_the_bundle_and_no_tests(environment: Path) -> None:
    (wheel,) = environment.parent.glob("percept-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "percept/_bundle/app/server.py",
        "percept/_bundle/app/viewer/viewer.js",
        "percept/_bundle/training/train.py",
        "percept/_bundle/protocols/pairwise.toml",
        "percept/_bundle/data_manifests/demo.csv",
    ):
        assert wanted in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert not [name for name in names if "__pycache__" in name]


def test_the_package_comes_from_the_wheel(environment: Path) -> None:
    program = "import percept, percept.bundle as b; print(percept.__file__, b.root())"
    done = run(environment, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout
    assert done.stdout.split()[1].endswith("percept/_bundle")


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["train", "--help"]])
def test_help(environment: Path, arguments: list[str]) -> None:
    done = run(environment, "percept", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: percept")


def test_bundled_protocols_and_photographs_are_found(environment: Path) -> None:
    program = (
        "from percept.protocol import load_protocol\n"
        "from percept.manifest import read_manifest\n"
        "from percept import bundle\n"
        "print(load_protocol('pairwise').method, load_protocol('artifact').method)\n"
        "manifest = read_manifest(bundle.root() / 'data_manifests' / 'demo.csv')\n"
        "print(all(manifest.resolve(path).is_file() for path in manifest.frame['path']))\n"
    )
    done = run(environment, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["pairwise", "artifact", "True"]


def test_children_import_the_bundle_and_not_the_working_directory(environment: Path) -> None:
    decoy = environment.parent / "training"
    decoy.mkdir(exist_ok=True)
    (decoy / "__init__.py").write_text("raise RuntimeError('the wrong training')\n")
    program = (
        "import subprocess\n"
        "from percept import bundle\n"
        "code = 'import app, training; print(training.__file__)'\n"
        "environment = bundle.child_environment()\n"
        "subprocess.run([bundle.python(), '-c', code], env=environment, check=True)\n"
    )
    done = run(environment, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert "_bundle" in done.stdout
