"""`percept app`: what it prints, how it ends, and what it refuses."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from percept.cli import main
from percept.store import open_store
from tests.app.conftest import TOKEN, Server, free_port, start


def percept_app(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "percept", "app", *arguments], capture_output=True, text=True
    )


def test_links_of_every_study_and_of_the_admin_are_printed(server: Server) -> None:
    for study in ("pairs", "quick", "marks"):
        assert f"{server.base}/?study={study}" in server.output
    assert f"{server.base}/?study=copy" not in server.output  # it is no study for people
    assert "simulated  copy" in server.output
    assert f"{server.base}/admin?token={TOKEN}" in server.output


def test_ctrl_c_ends_it_with_its_server(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path / 'study.db'}"
    open_store(db, create=True).close()
    port = free_port()
    process, output = start(db, port)
    assert "no study yet" in output
    assert httpx.get(f"http://localhost:{port}/healthz").json() == {"status": "ok"}
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_database_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "no.db"
    done = percept_app("--db", f"sqlite:///{missing}")
    assert done.returncode == 2
    assert "there is no database" in done.stderr
    assert not missing.exists()


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    db = tmp_path / "study.db"
    open_store(db, create=True).close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = percept_app("--db", str(db), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_what_is_no_port_is_refused(tmp_path: Path, port: str, capsys) -> None:
    """Port 0 would be another one each time, and no link could be printed."""
    open_store(tmp_path / "study.db", create=True).close()
    assert main(["app", "--db", str(tmp_path / "study.db"), "--port", port]) == 2
    assert "not a port" in capsys.readouterr().err


def test_an_admin_token_that_can_be_guessed_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    open_store(tmp_path / "study.db", create=True).close()
    monkeypatch.setenv("PERCEPT_ADMIN_TOKEN", "secret")
    assert main(["app", "--db", str(tmp_path / "study.db")]) == 2
    message = capsys.readouterr().err
    assert "PERCEPT_ADMIN_TOKEN" in message
    assert "secret" not in message


def test_no_page_and_no_path_of_the_api_is_answered_by_streamlit_itself(server: Server) -> None:
    for path in ("/", "/join", "/instructions", "/rate", "/finish", "/admin"):
        page = httpx.get(server.base + path)
        assert page.status_code == 200
        assert "<title>Streamlit" not in page.text
        assert "--field: #767676" in page.text
    for path in ("/api", "/api/", "/api/v1/nothing", "/api/v1/trials/"):
        unknown = httpx.get(server.base + path)
        assert unknown.status_code == 404
        assert unknown.json()["error"]["code"] == "not_found"
