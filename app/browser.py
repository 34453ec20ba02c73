"""The part of a Streamlit page that runs in the browser.

The browser holds the observer's session, not Streamlit: votes, resume and the completion code
go over HTTP, and nothing of them needs a script rerun or an open websocket. A page mounts this
component with an action; ``viewer/pages.js`` carries it out and reports back by triggers.

The rating page is this component too: it hangs a viewer over the whole window, on the body of
the document, where Streamlit's redraws, its dimming during reruns and its message after a lost
connection do not reach it.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

_BOOTSTRAP = """
export default async function (component) {
  const module = await import(new URL("viewer/pages.js", document.baseURI).href);
  return module.act(component);
}
"""

VALUES = ("known", "display", "completion", "withdrawn", "go", "refused")
_component = st.components.v2.component("percept", js=_BOOTSTRAP)


def act(action: str, study: str, **data: Any) -> Any:
    """Let the browser do something, once for each new ``action`` and ``data``.

    Returns
    -------
    The component's result: ``known`` (state) after ``probe``; ``display`` (state), what a screen
    told; ``completion`` (state) after ``finish``; ``withdrawn`` (state); ``go`` (trigger), the
    page to go to; ``refused`` (trigger), ``{"code", "message", "completion"?}``.
    """
    noted: dict[str, Any] = {f"on_{name}_change": _noted for name in VALUES}
    request = {"action": action, "study": study, **data}
    return _component(key=f"browser-{action}", data=request, **noted)


def _noted() -> None:
    """Declare a value; the script reads it from the result."""
