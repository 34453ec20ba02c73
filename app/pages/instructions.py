"""What to do, and with which keys."""

from __future__ import annotations

import html

import streamlit as st

from app import common
from percept.protocol import Protocol
from percept.study import protocol_of


def keys(protocol: Protocol) -> list[tuple[list[str], str]]:
    """List the key caps and what each does, for this protocol."""
    if protocol.method == "pairwise":
        rows = [(["←"], "the left one"), (["→"], "the right one")]
        if protocol.tie:
            rows.append((["↓"], "no difference"))
        rows.append((["Click"], "the photograph or the button does the same"))
    else:
        rows = [
            (["Drag"], "draw a box on the coloured photograph"),
            (["1", "2", "…"], "what is wrong"),
            (["Q", "W", "…"], "how bad it is"),
            (["A"], "mark the whole photograph"),
            (["N"], "nothing wrong seen"),
            (["⏎"], "save the marks"),
        ]
    if "zoom" in protocol.aids:
        move = "drag" if protocol.method == "pairwise" else "hold Space and drag"
        rows.append((["Wheel"], f"zoom, also with two fingers; {move} to move"))
        rows.append((["Z"], "zoom out again"))
    if protocol.undo:
        rows.append((["U"], "undo"))
    if protocol.skip:
        rows.append((["S"], "skip, with a reason"))
    return rows


study = common.current_study()
protocol = protocol_of(study)
common.wide()
common.kicker("What to do")
st.title(protocol.title)
reading, using = st.columns(2, gap="large")
reading.markdown(protocol.instructions)
using.html(
    '<table class="percept-keys">'
    + "".join(
        "<tr><td>"
        + "".join(f"<kbd>{html.escape(cap)}</kbd>" for cap in caps)
        + f"</td><td>{html.escape(text)}</td></tr>"
        for caps, text in keys(protocol)
    )
    + "</table>"
)
using.html(
    '<p class="percept-note">Make the window as large as you can, and avoid strong light on the '
    "screen. You can stop at any time and come back with this browser.</p>"
)
if st.button("Start with the practice" if protocol.practice else "Start", type="primary"):
    common.go("rate", study)
