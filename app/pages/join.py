"""The first page: information and consent, questions, checks of eyes and screen; or welcome back.

Nothing is stored before consent, and nothing of a check but its result. A session begins with the
last step, by one request of the browser.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from app import browser, checks, common
from percept.protocol import Protocol
from percept.store import Study
from percept.study import protocol_of

GROUPS = {
    "public": "A member of the public",
    "expert": "I work with photographs (archive, restoration, conservation, imaging)",
}
# What crowd platforms add to the link: name of theirs, name of ours.
CROWDS = {
    "prolific": {"PROLIFIC_PID": "worker", "STUDY_ID": "study", "SESSION_ID": "session"},
    "mturk": {"workerId": "worker", "assignmentId": "assignment", "hitId": "hit"},
}
PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"  # MTurk shows the page to people who may accept the task
HASTE_S = 0.35  # a second press this soon after the last plate belongs to no plate


def crowd_of(parameters: Mapping[str, str]) -> dict[str, str] | None:
    """Get what a crowd platform's link tells; it is stored as keyed hashes."""
    for platform, names in CROWDS.items():
        found = {
            ours: parameters[theirs] for theirs, ours in names.items() if parameters.get(theirs)
        }
        if "worker" in found:
            return {"platform": platform, **found}
    return None


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
        format_func=lambda group: GROUPS.get(group, group.replace("_", " ").capitalize()),
    )


def ask(protocol: Protocol) -> tuple[dict[str, str], bool]:
    """Ask the protocol's questions; the answers, and whether those that are needed are there."""
    answers, complete = {}, True
    for question in protocol.questions:
        text = f"{question.text} (optional)" if question.optional else question.text
        answer = st.radio(
            text, question.answers, index=None, key=f"question-{question.name}", horizontal=True
        )
        if answer is not None:
            answers[question.name] = answer
        complete &= question.optional or answer is not None
    return answers, complete


def welcome_back(study: Study, protocol: Protocol, progress: str) -> None:
    """Let a returning observer go on."""
    common.kicker("Welcome back")
    st.title(protocol.title)
    st.write(progress)
    if st.button("Continue", type="primary"):
        common.go("rate", study)
    common.way_out(study)


def consent(protocol: Protocol) -> None:
    """Inform, ask for consent and for what the protocol wants to know."""
    common.kicker("A study of colourised photographs")
    st.title(protocol.title)
    st.markdown(protocol.consent.text)
    st.html(
        f'<p class="percept-note">Version {common.escape(protocol.consent.version)} of this text. '
        "You can withdraw later: your answers are then erased.</p>"
    )
    group = group_of(protocol)
    answers, complete = ask(protocol)
    if st.query_params.get("assignmentId") == PREVIEW:
        st.info("This is a preview. Accept the task to take part.")
        return
    agreed = st.checkbox("I have read this and agree to take part.")
    if st.button("Begin", type="primary", disabled=not (agreed and group and complete)):
        screening = {"questions": answers} if answers else {}
        st.session_state.facts = {
            "consent": protocol.consent.version,
            "group": group,
            "invite": st.query_params.get("invite"),
            "crowd": crowd_of(st.query_params.to_dict()),
            "screening": screening,
        }
        st.rerun()
    if message := st.session_state.pop("refused", None):
        st.error(message)


def color_vision(facts: dict[str, Any]) -> None:
    """Show the plates one after the other; keep pass or fail."""
    state = st.session_state
    if "plates" not in state:
        state.plates = checks.choose_plates(rng=np.random.default_rng(secrets.randbits(128)))
        state.seen = []
        state.plate_at = 0.0
    if len(state.seen) == len(state.plates):
        facts["screening"]["color_vision"] = {"passed": checks.passed(state.plates, state.seen)}
        del state.plates, state.seen, state.plate_at
        st.rerun()
    index = len(state.seen)
    common.kicker("Before you start: your eyes")
    st.title("Which digit do you see?")
    picture = base64.b64encode(_plate(state.plates[index])).decode()
    st.html(
        f'<img class="percept-plate" src="data:image/png;base64,{picture}" '
        f'alt="Plate {index + 1} of {len(state.plates)}, made of coloured dots" '
        f'width="{checks.SIZE}" height="{checks.SIZE}">'
    )
    with st.container(key="percept-digits", horizontal=True, horizontal_alignment="center"):
        for digit in (*range(1, 10), 0):
            st.button(
                str(digit),
                key=f"plate-{index}-{digit}",
                shortcut=str(digit),
                on_click=_answer,
                args=(index, digit),
            )
    with st.container(horizontal=True, horizontal_alignment="center"):
        st.button(
            "I see no digit",
            key=f"plate-{index}-none",
            shortcut="n",
            on_click=_answer,
            args=(index, None),
        )
    st.html(
        f'<p class="percept-note percept-centre">Plate {index + 1} of {len(state.plates)}. Go by '
        "your first impression. We keep only whether the test as a whole went well.</p>"
    )


def _plate(plate: checks.Plate) -> bytes:
    if st.session_state.get("drawn", (None,))[0] != plate:
        st.session_state.drawn = (plate, plate.png())
    return st.session_state.drawn[1]


def _answer(index: int, digit: int | None) -> None:
    state = st.session_state
    now = time.monotonic()
    if index == len(state.get("seen", ())) and now - state.plate_at > HASTE_S:
        state.seen.append(digit)
        state.plate_at = now


def display(study: Study, facts: dict[str, Any]) -> None:
    """Ask the screen, and its owner, what it shows."""
    common.kicker("Before you start: your screen")
    st.title("A quick look at your screen")
    told = browser.act("display", study.name).display
    if told:
        facts["screening"]["display"] = {**told, "passed": checks.display_passed(told)}
        st.rerun()


def begin(study: Study, facts: dict[str, Any]) -> None:
    """Start the session."""
    result = browser.act("join", study.name, facts=facts)
    if result.refused:
        del st.session_state.facts
        if result.refused.get("completion"):
            st.session_state.turned_away = result.refused["completion"]
        else:
            message = result.refused["message"]
            st.session_state.refused = message[:1].upper() + message[1:].rstrip(".") + "."
        st.rerun()
    if result.go:
        del st.session_state.facts
        common.go(result.go, study)
    common.bare()


def turned_away(completion: Mapping[str, str]) -> None:
    """Thank somebody whom a check has ruled out."""
    common.kicker("Thank you")
    st.title("This study is not for your eyes or screen")
    st.markdown(completion["message"])
    common.code("Your code:", completion["code"])


study = common.current_study()
protocol = protocol_of(study)
state = st.session_state
facts = state.get("facts")
known = browser.act("probe", study.name).known
if "turned_away" in state:
    turned_away(state.turned_away)
elif known is None:
    common.bare()
elif known["joined"] and not facts:
    if known["finished"]:
        common.go("finish", study)
    if study.state == "closed":
        common.kicker("Thank you")
        st.title("This study has closed")
        st.write("What you answered before is saved.")
        common.way_out(study)
    elif known["answered"]:
        done = f"You have done {known['answered']} of {known['total']}; your answers are saved."
        welcome_back(study, protocol, done)
    else:
        welcome_back(study, protocol, "You have begun this study.")
elif study.state != "open":
    common.kicker("Thank you for your interest")
    st.title("This study takes no new observers at the moment")
elif not facts:
    consent(protocol)
elif protocol.checks.color_vision and "color_vision" not in facts["screening"]:
    color_vision(facts)
elif protocol.checks.display and "display" not in facts["screening"]:
    display(study, facts)
else:
    begin(study, facts)
