"""Withdrawal: personal fields and answers are erased, whenever the observer wishes."""

from __future__ import annotations

import streamlit as st

from app import browser, common

study = common.current_study()
if st.session_state.get("withdrawing") == study.name:
    result = browser.act("withdraw", study.name)
    if result.withdrawn:
        del st.session_state.withdrawing
        st.session_state.withdrawn = study.name
        st.rerun()
    if result.refused:
        del st.session_state.withdrawing
        st.session_state.refused = result.refused["message"]
        st.rerun()
    common.bare()
elif st.session_state.get("withdrawn") == study.name:
    common.kicker("Withdrawn")
    st.title("Your answers are erased")
    st.write("Nothing that you told us is left in this study. You can close this window now.")
else:
    common.kicker("Withdrawal")
    st.title("Withdraw from this study?")
    st.markdown(
        "Your answers, and everything that was stored about you and your screen, will be erased "
        "from this study at once. It cannot be undone, and you cannot take part again with this "
        "session.\n\nWhat remains is a note that somebody withdrew. Backups are overwritten in "
        "time by the people who run this study; results that are already published stay."
    )
    if message := st.session_state.pop("refused", None):
        st.error(message)
    with st.container(key="percept-choice", horizontal=True):
        if st.button("Erase my answers"):
            st.session_state.withdrawing = study.name
            st.rerun()
        if st.button("Keep them", type="primary"):
            common.go("join", study)
