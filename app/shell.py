"""The HTML page that Streamlit's front end starts in, with our title, icon and styles.

Streamlit serves a white page titled "Streamlit" and styles it once its scripts have loaded.
These routes serve the same page for the paths of our pages, with styles that hold from the
first paint, and let the browser fetch the viewer's modules while Streamlit is still loading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

HERE = Path(__file__).resolve().parent
TITLE = "Photograph study"
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='3' fill='%23767676'/%3E"
    "%3Crect x='2.5' y='4' width='5' height='8' fill='%23f2f2f2'/%3E"
    "%3Crect x='8.5' y='4' width='5' height='8' fill='%23f2f2f2'/%3E%3C/svg%3E"
)
NO_SCRIPT = "<noscript><p>This study needs JavaScript.</p></noscript>"


def shell_html() -> str:
    """Streamlit's start page with our head.

    Raises
    ------
    RuntimeError
        If the installed Streamlit's page is not laid out as expected.
    """
    page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text("utf-8")
    for pattern, replacement in (
        (r"<title>.*?</title>", f"<title>{TITLE}</title>"),
        (r'<link rel="shortcut icon"[^>]*>', f'<link rel="icon" href="{ICON}" />'),
        (r"<noscript>.*?</noscript>", NO_SCRIPT),
        (r"</head>", f"<style>{(HERE / 'shell.css').read_text('utf-8')}</style></head>"),
    ):
        page, found = re.subn(pattern, lambda _: replacement, page, count=1, flags=re.DOTALL)  # noqa: B023
        if not found:
            raise RuntimeError(
                f"the start page of Streamlit {streamlit.__version__} has no {pattern}"
            )
    return page


class ViewerFiles(StaticFiles):
    """The viewer's scripts and styles: revalidated on each load, so that an update arrives."""

    def file_response(self, *args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: D102
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def shell_routes(paths: Iterable[str]) -> list[BaseRoute]:
    """Routes for the start page at each of ``paths`` and for ``/viewer/*``."""
    page = shell_html()
    headers = {"Cache-Control": "no-cache", "Referrer-Policy": "same-origin"}

    async def shell(request: Request) -> HTMLResponse:
        # A new response each time: compression rewrites the headers of the one it gets.
        return HTMLResponse(page, headers=headers)

    return [
        *(Route(f"/{path}", shell) for path in paths),
        Mount("/viewer", ViewerFiles(directory=HERE / "viewer")),
    ]
