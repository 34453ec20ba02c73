"""The server: Streamlit's pages, the HTTP interface and the viewer in one process.

``percept app`` starts it as ``python -m app.server`` with its settings in the environment:
``PERCEPT_DB``, ``PERCEPT_HOST``, ``PERCEPT_PORT`` and ``PERCEPT_ADMIN_TOKEN``. Another ASGI server
can run :func:`create_app` with the same variables.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import streamlit as st

from app import state
from app.api import api_routes
from app.shell import shell_routes

PAGES = ("", "join", "instructions", "rate", "finish", "withdraw", "admin")

SETTINGS: dict[str, Any] = {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.enableWebsocketCompression": False,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "logger.level": "warning",
    "theme.base": "light",
    "theme.primaryColor": "#2c4356",
    "theme.backgroundColor": "#f2f2f2",
    "theme.secondaryBackgroundColor": "#e6e6e6",
    "theme.textColor": "#1e1e1e",
    "theme.borderColor": "#bdbdbd",
    "theme.font": "sans-serif",
    "theme.headingFont": "serif",
    "theme.headingFontSizes": ["2.1rem", "1.35rem", "1.1rem"],
    "theme.headingFontWeights": [500, 500, 600],
    "theme.metricValueFontSize": "1.5rem",
    "theme.baseRadius": "4px",
    "theme.linkColor": "#2c4356",
    "theme.codeTextColor": "#1e1e1e",
}


def create_app() -> st.App:
    """Make the ASGI application on the database that ``PERCEPT_DB`` names."""
    routes = [*api_routes(state.store()), *shell_routes(PAGES)]
    return st.App(Path(__file__).with_name("main.py"), routes=routes)


if __name__ == "__main__":
    create_app().run(
        config={
            **SETTINGS,
            "server.address": os.environ["PERCEPT_HOST"],
            "server.port": int(os.environ["PERCEPT_PORT"]),
        }
    )
