"""The example of docs/plugins.md does what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np

from percept.manifest import load_rgb

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"


def test_the_example_runs_as_printed(manifest, percept, tmp_path, monkeypatch):
    text = PAGE.read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (command,) = re.findall(r"```sh\n(.*?)```", text, re.S)
    (tmp_path / "warmth.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    exit_code, _, err = percept(*words)
    assert exit_code == 0, err
    photo, brown, blue = (
        load_rgb(tmp_path / path).astype(int)
        for path in ("photos/p1.png", "run/images/brown/p1.png", "run/images/blue/p1.png")
    )
    assert photo.shape == brown.shape
    assert np.mean(brown[..., 0] - brown[..., 2]) > 10
    assert np.mean(blue[..., 2] - blue[..., 0]) > 5
