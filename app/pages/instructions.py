"""What to do, and with which keys."""

from __future__ import annotations

import html

import streamlit as st

from app import common
from percept.protocol import Protocol
from percept.study import protocol_of

Rows = list[tuple[list[str], str]]


def answers(protocol: Protocol) -> Rows:
    """List the keys that answer."""
    if protocol.method in ("pairwise", "real_or_fake"):
        rows = [(["←"], "the left one"), (["→"], "the right one")]
        if protocol.tie:
            rows.append((["↓"], "no difference"))
        rows.append((["Click"], "the photograph or the button does the same"))
        return rows
    if protocol.method == "rating":
        return [([str(score.value)], score.label) for score in protocol.scores]
    if protocol.method == "review":
        return [
            (["1", "2", "3"], "accept, fix, reject"),
            (["Q", "W", "…"], "reasons, for fix and reject"),
            (["⏎"], "save"),
        ]
    return [(["N"], "nothing wrong seen"), (["⏎"], "save the marks")]


def marks(protocol: Protocol) -> Rows:
    """List the keys that mark places."""
    rows = [(["Drag", "B"], "draw a box, or paint; box or brush")]
    if protocol.method != "review":
        rows += [(["1", "2", "…"], "what is wrong"), (["Q", "W", "…"], "how bad it is")]
    return [*rows, (["A"], "mark the whole photograph; arrows move it, Shift and arrows resize")]


def aids(protocol: Protocol) -> Rows:
    """List the keys that help to look closer, and those that take back."""
    move = "hold Space and drag" if protocol.artifacts else "drag"
    rows = {
        "zoom": (["Wheel", "P"], f"zoom, also with two fingers, or native pixels; {move} to move"),
        "flicker": (["F"], "both in one place, in turn"),
        "slider": (["D"], "both in one place, with a dividing line"),
        "original": (["O"], "hold to see the original in place"),
    }
    found = [row for aid, row in rows.items() if aid in protocol.aids]
    if found:
        found.append((["Z"], "back to the whole photographs"))
    if protocol.undo:
        found.append((["U"], "undo"))
    if protocol.skip:
        found.append((["S"], "skip, with a reason"))
    return found


def table(rows: Rows) -> str:
    """Write keys and what they do."""
    return (
        '<table class="percept-keys">'
        + "".join(
            "<tr><td>"
            + "".join(f"<kbd>{html.escape(cap)}</kbd>" for cap in caps)
            + f"</td><td>{html.escape(text)}</td></tr>"
            for caps, text in rows
        )
        + "</table>"
    )


study = common.current_study()
protocol = protocol_of(study)
common.wide()
common.kicker("What to do")
st.title(protocol.title)
reading, using = st.columns(2, gap="large")
reading.markdown(protocol.instructions)
rows = answers(protocol) + (marks(protocol) if protocol.artifacts else []) + aids(protocol)
using.html(table(rows))
using.html(
    '<p class="percept-note">Make the window as large as you can, and avoid strong light on the '
    "screen. You can stop at any time and come back with this browser.</p>"
)
if reading.button("Start with the practice" if protocol.practice else "Start", type="primary"):
    common.go("rate", study)
