"""One small database with simulated answers, built once; and votes made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from percept.inference.run import Run
from percept.protocol import load_protocol
from percept.report.build import Report, analyse
from percept.report.data import StudyData, read_study
from percept.report.render import write_report
from percept.store import open_store
from percept.study import create_study, simulate
from tests.tiny_run import make_run, tiny_protocol

STUDIES = ("pairs", "marks")
N_BOOT = 40
SEED = 3


@dataclass(frozen=True)
class World:
    url: str
    run: Run
    pairs: StudyData
    marks: StudyData
    report: Report
    out: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("report")
    run = make_run(root, contents=6, conditions=("warm", "cold", "pale", "gray"))
    rng = np.random.default_rng(0)
    metrics = run.outputs[["content_id", "condition"]].merge(
        pd.DataFrame({"metric": ["psnr", "lpips_alex"]}), how="cross"
    )
    metrics["value"] = rng.normal(size=len(metrics))
    run.write_metrics(
        metrics,
        {"psnr_ab": "no reference"},
        {"psnr": {"higher_is_better": True}, "lpips_alex": {"higher_is_better": False}},
    )
    url = f"sqlite:///{root / 'study.db'}"
    with open_store(url, create=True) as store:
        for name, protocol in zip(STUDIES, ("pairwise", "artifact"), strict=True):
            study = create_study(run, load_protocol(protocol), store, name)
            simulate(store, study, 8, seed=2)
        pairs, marks = (read_study(store, name) for name in STUDIES)
    report = analyse([pairs, marks], seed=SEED, n_boot=N_BOOT)
    write_report(report, root / "out")
    return World(url, run, pairs, marks, report, root / "out")


@dataclass(frozen=True)
class Singles:
    url: str
    data: dict[str, StudyData]
    report: Report
    out: Path


@pytest.fixture(scope="session")
def singles(tmp_path_factory: pytest.TempPathFactory) -> Singles:
    """One small study of each method that judges one colouring at a time, in one report."""
    root = tmp_path_factory.mktemp("singles")
    run = make_run(root, contents=4, conditions=("warm", "cold", "reference"))
    url = f"sqlite:///{root / 'study.db'}"
    few = {"trials": 12, "practice": 0}
    protocols = {
        "grades": tiny_protocol("rating-acr", repeats=2, **few),
        "fooled": tiny_protocol("real-or-fake", **(few | {"trials": 8})),
        "queue": tiny_protocol("review", repeats=0, **few),
    }
    with open_store(url, create=True) as store:
        for name, protocol in protocols.items():
            simulate(store, create_study(run, protocol, store, name), 6, seed=2)
        data = {name: read_study(store, name) for name in protocols}
    report = analyse(list(data.values()), seed=SEED, n_boot=N_BOOT)
    write_report(report, root / "out")
    return Singles(url, data, report, root / "out")


def with_votes(data: StudyData, votes: Mapping[tuple[str, str], tuple[int, int, int]]) -> StudyData:
    """Replace the answers: ``{(a, b): (a won, ties, b won)}``, spread over people and photos."""
    rows = []
    for (first, second), counts in votes.items():
        choices = np.repeat(["left", "tie", "right"], counts)
        for index, choice in enumerate(choices):
            swap = index % 2 == 1
            rows.append(
                {
                    "observer": f"o{index % 7}",
                    "content": f"photo{index % 5}",
                    "left": second if swap else first,
                    "right": first if swap else second,
                    "choice": {"left": "right", "right": "left"}.get(choice, choice)
                    if swap
                    else choice,
                }
            )
    frame = pd.DataFrame(rows, columns=["observer", "content", "left", "right", "choice"])
    frame = frame.assign(
        study=data.name,
        method="pairwise",
        group="public",
        session=1,
        trial=range(len(frame)),
        attribute="realism",
        kind="test",
        expected=None,
        repeat_of=pd.array([pd.NA] * len(frame), dtype="Int64"),
        response_id=[f"r{i}" for i in range(len(frame))],
        revision=1,
        response_time_ms=1500.0,
        presented_at=pd.Timestamp("2026-01-01", tz="UTC"),
        rated_at=pd.Timestamp("2026-01-01", tz="UTC"),
        simulated=False,
    )
    people = pd.DataFrame({"observer": sorted(set(frame["observer"]))}).assign(
        group="public", simulated=False, withdrawn_at=pd.NaT
    )
    return replace(data, ratings=frame[list(data.ratings)], observers=people)
