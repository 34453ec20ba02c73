"""Regions that observers drew become the masks of scans that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from percept.cli import main
from percept.errors import InputError
from percept.inference.run import open_run
from percept.manifest import load_mask
from percept.metrics.evaluate import MARKS, keep_marks
from percept.store import open_store
from percept.study import create_study, simulate
from tests.tiny_run import make_run, tiny_protocol


def test_regions_of_a_photograph_are_joined(tmp_path: Path) -> None:
    run = make_run(tmp_path, contents=2, size=(90, 60))
    marks = pd.DataFrame(
        [
            ("photo0", 0.1, 0.5, 0.2, 0.25),
            ("photo0", 0.9, 0.0, 0.1, 0.1),
            ("photo1", np.nan, np.nan, np.nan, np.nan),
            ("elsewhere", 0.0, 0.0, 1.0, 1.0),
        ],
        columns=["content", "x", "y", "width", "height"],
    )
    assert keep_marks(run, marks) == 1
    mask = load_mask(run.root / MARKS / "photo0.png")
    expected = np.zeros((60, 90), bool)
    expected[30:45, 9:27] = True
    expected[0:6, 81:90] = True
    np.testing.assert_array_equal(mask, expected)
    assert not (run.root / MARKS / "photo1.png").exists()
    drawn = pd.Series([np.array([[True, False], [False, True]]), None, None, None], dtype=object)
    keep_marks(run, marks.assign(cells=drawn))
    expected[30:38, 18:27] = expected[38:45, 9:18] = False
    mask = load_mask(run.root / MARKS / "photo0.png")
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(InputError, match="no region was drawn on a photograph of the run"):
        keep_marks(run, marks[2:])


def test_the_command_takes_them_from_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, contents=4)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with open_store(url, create=True) as store:
        study = create_study(run, tiny_protocol("artifact", trials=6), store, "marks")
        create_study(run, tiny_protocol(), store, "pairs")
        simulate(store, study, 6, seed=1)
        drawn = store.ratings(study)
    drawn = drawn[(drawn["kind"] == "test") & drawn["width"].notna()]
    assert len(drawn), "the simulated observers drew something"
    command = ["metrics", str(run.root), "--metric", "artifact_chroma"]
    assert main(command) == 0
    assert open_run(run.root).metrics.empty
    assert main([*command, "--marks", "marks", "--db", url]) == 0
    assert (
        f"masks of {drawn['content'].nunique()} photographs from marks" in capsys.readouterr().err
    )
    measured = open_run(run.root).metrics
    assert set(measured["metric"]) == {"artifact_chroma"}
    assert set(measured["content_id"]) <= set(drawn["content"])
    assert main([*command, "--marks", "pairs", "--db", url]) == 2
    assert "no region was drawn on a photograph of the run" in capsys.readouterr().err
    assert main([*command, "--marks", "marks"]) == 2
    assert "--marks STUDY and --db URL go together" in capsys.readouterr().err
