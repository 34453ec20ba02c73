"""The server: Streamlit's pages, the HTTP interface and the viewer in one process.

``percept app`` starts it as ``python -m app.server`` with its settings in the environment:
``PERCEPT_DB``, ``PERCEPT_HOST``, ``PERCEPT_PORT`` and ``PERCEPT_ADMIN_TOKEN``; ``PERCEPT_FRAMES``
may name the sites that can show the pages in a frame. Another ASGI server can run
:func:`create_app` with the same variables.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from app import state
from app.api import api_routes
from app.shell import shell_routes

PAGES = ("", "join", "instructions", "rate", "finish", "withdraw", "admin")

SETTINGS: dict[str, Any] = {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.enableWebsocketCompression": False,
    "server.maxUploadSize": 1,
    "server.maxMessageSize": 8,
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


# What a page may do: load from this server alone, send to it alone. Streamlit builds parts of its
# pages from inline scripts and styles, and loads components from blobs.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws: wss:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors {frames}"
)


class Guard:
    """Tells browsers with every answer what to refuse, and lets no other site open a WebSocket.

    The API's own headers win. ``frames`` names the sites that may show the pages in a frame, as
    some crowd platforms do.
    """

    def __init__(self, app: ASGIApp, frames: str = "'none'") -> None:
        self.app = app
        self.headers = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": POLICY.format(frames=frames),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and the answer back with more headers."""
        if scope["type"] == "websocket":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            # Streamlit would look up the machine's public address before it refuses.
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                await WebSocketClose()(scope, receive, send)
                return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, answer)


def create_app() -> st.App:
    """Make the ASGI application on the database that ``PERCEPT_DB`` names."""
    routes = [*api_routes(state.store()), *shell_routes(PAGES)]
    frames = os.environ.get("PERCEPT_FRAMES", "'none'")
    guard = Middleware(Guard, frames=frames)
    return st.App(Path(__file__).with_name("main.py"), routes=routes, middleware=[guard])


if __name__ == "__main__":
    create_app().run(
        config={
            **SETTINGS,
            "server.address": os.environ["PERCEPT_HOST"],
            "server.port": int(os.environ["PERCEPT_PORT"]),
        }
    )
