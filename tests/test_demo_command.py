"""`percept demo`: what a second call finds and what it finishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from percept import cli
from percept.store import open_store
from tests.tiny_run import make_run


def test_given_again_it_finishes_what_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs and run are there; of the commands in between, those of the study are real."""
    home = tmp_path / "demo"
    make_run(home)
    (home / "photos" / "manifest.csv").touch()
    called: list[str] = []
    main = cli.main

    def call(argv: list[str]) -> int:
        called.append(" ".join(argv[:2]))
        return main(argv) if argv[0] == "study" else 0

    monkeypatch.setattr(cli, "main", call)
    for observers in (2, 3, 3):  # the second goes on where the first was stopped
        called.clear()
        argv = ["demo", str(home), "--no-serve", "--observers", str(observers)]
        args = cli.build_parser(argv).parse_args(argv)
        assert args.run(args) == 0
    assert not {"study create", "study simulate"} & set(called)
    with open_store(home / "study.sqlite") as store:
        for name in ("pairwise", "artifact"):
            assert store.observers(store.study(name)).empty
            sessions = store.sessions(store.study(f"{name}-simulated"))
            assert len(sessions) == 3
            assert sessions["finished_at"].notna().all()
