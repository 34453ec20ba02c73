"""A real Slurm: only where one is, and where PERCEPT_TEST_SLURM asks for it.

docs/multi-node.md says how to run one on a single machine.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from inference_samples import SIZES, contents, write_manifest

from percept import bundle
from percept.inference.run import open_run
from percept.inference.runner import infer

pytestmark = pytest.mark.skipif(
    "PERCEPT_TEST_SLURM" not in os.environ,
    reason="set PERCEPT_TEST_SLURM to the options of srun, such as '--nodes=2 --ntasks=2'",
)


def test_srun_gives_the_same_bytes(tmp_path, checkpoint):
    manifest = write_manifest(tmp_path / "photos", SIZES)
    conditions = [f"net={checkpoint}", "gray=gray"]
    infer(manifest, conditions, tmp_path / "alone", tile=32, overlap=8)
    options = os.environ["PERCEPT_TEST_SLURM"].split()
    words = ["infer", str(manifest), "--condition", *conditions, "--tile", "32", "--overlap", "8"]
    for shard in ("photos", "tiles"):
        out = tmp_path / f"run-{shard}"
        command = [sys.executable, "-m", "percept", *words, "--shard", shard, "--out", str(out)]
        done = subprocess.run(
            ["srun", *options, *command],
            env=bundle.child_environment({"OMP_NUM_THREADS": "1"}),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert open_run(out).info["world"] > 1
        assert contents(out) == contents(tmp_path / "alone")
