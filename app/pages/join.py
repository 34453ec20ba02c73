"""The first page: what the study is about, consent, group; or welcome back."""

from __future__ import annotations

import streamlit as st

from app import browser, common
from percept.protocol import Protocol
from percept.store import Study
from percept.study import protocol_of


def group_of(protocol: Protocol) -> str | None:
    """Get the observer's group: named by the link, the only one there is, or chosen here."""
    named = st.query_params.get("group")
    if named in protocol.groups:
        return named
    if len(protocol.groups) == 1:
        return protocol.groups[0]
    return st.radio(
        "Which of these are you?",
        protocol.groups,
        index=None,
        format_func=lambda group: LABELS.get(group, group.replace("_", " ").capitalize()),
    )


LABELS = {
    "public": "A member of the public",
    "expert": "I work with photographs (archive, restoration, conservation, imaging)",
}


def welcome_back(study: Study, protocol: Protocol, progress: str) -> None:
    """Let a returning observer go on."""
    common.kicker("Welcome back")
    st.title(protocol.title)
    st.write(progress)
    if st.button("Continue", type="primary"):
        common.go("rate", study)


def consent(study: Study, protocol: Protocol) -> None:
    """Inform, ask for consent, and begin a session in the browser."""
    common.kicker("A study of colourised photographs")
    st.title(protocol.title)
    st.markdown(protocol.consent.text)
    group = group_of(protocol)
    agreed = st.checkbox("I have read this and agree to take part.")
    if st.button("Begin", type="primary", disabled=not (agreed and group)):
        st.session_state.joining = {
            "consent": protocol.consent.version,
            "group": group,
        }
    if "joining" in st.session_state:
        result = browser.act("join", study.name, facts=st.session_state.joining)
        if result.refused:
            st.session_state.refused = result.refused
            del st.session_state.joining
            st.rerun()
        if result.go:
            del st.session_state.joining
            common.go(result.go, study)
    if message := st.session_state.pop("refused", None):
        st.error(message)


study = common.current_study()
protocol = protocol_of(study)
known = browser.act("probe", study.name).known
if known is None:
    common.bare()
elif known["joined"]:
    if known["finished"]:
        common.go("finish", study)
    if study.state == "closed":
        common.kicker("Thank you")
        st.title("This study has closed")
        st.write("What you answered before is saved.")
    elif known["answered"]:
        done = f"You have done {known['answered']} of {known['total']}; your answers are saved."
        welcome_back(study, protocol, done)
    else:
        welcome_back(study, protocol, "You have begun this study.")
elif study.state != "open":
    common.kicker("Thank you for your interest")
    st.title("This study takes no new observers at the moment")
else:
    consent(study, protocol)
