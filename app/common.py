"""Pieces that several observers' pages share."""

from __future__ import annotations

import html
from typing import NoReturn

import streamlit as st

from app import state
from percept.errors import InputError
from percept.store import Study
from percept.study import protocol_of


def go(page: str, study: Study, **parameters: str) -> NoReturn:
    """Change to another page of the same study."""
    st.switch_page(f"pages/{page}.py", query_params={"study": study.name, **parameters})


def kicker(text: str) -> None:
    """Write a small line above a heading."""
    st.html(f'<p class="percept-kicker">{html.escape(text)}</p>')


def escape(text: str) -> str:
    """Make text safe inside of HTML."""
    return html.escape(text)


def code(label: str, text: str) -> None:
    """Show a code to copy."""
    st.html(f'<p class="percept-note">{html.escape(label)}</p>')
    with st.container(key="percept-code"):
        st.code(text, language=None)


def way_out(study: Study) -> None:
    """Offer, quietly, to withdraw."""
    with st.container(key="percept-way-out"):
        if st.button("Withdraw from this study", type="tertiary"):
            go("withdraw", study)


def wide() -> None:
    """Make the sheet of this page wide."""
    st.html('<span class="percept-wide"></span>')


def bare() -> None:
    """Hide the sheet: there is nothing to read on this page, or not yet."""
    st.html('<span class="percept-bare"></span>')


def current_study() -> Study:
    """Get the study that the address names, or let the visitor choose among the open ones.

    A study that simulated observers have answered is no place for people to be sent to.
    """
    name = st.query_params.get("study")
    if name:
        try:
            return state.store().study(name)
        except InputError:
            kicker("Not found")
            st.title("There is no study at this address")
            st.write("Please check the link that you were given.")
            st.stop()
    store = state.store()
    studies = [
        study
        for study in store.studies()
        if study.state == "open" and not store.observers(study)["simulated"].any()
    ]
    if len(studies) != 1:
        _choose(studies)
    return studies[0]


def _choose(studies: list[Study]) -> NoReturn:
    kicker("Photograph studies")
    if studies:
        st.title("Which study would you like to take part in?")
        for study in studies:
            if st.button(protocol_of(study).title, key=f"choose-{study.name}", width="stretch"):
                go("join", study)
    else:
        st.title("No study is open at the moment")
        st.write("Please use the link that you were given, or come back later.")
    st.stop()
