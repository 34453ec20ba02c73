"""The last page: thanks, and the completion code once everything is saved."""

from __future__ import annotations

import streamlit as st

from app import browser, common

study = common.current_study()
result = browser.act("finish", study.name)
if result.go:
    common.go(result.go, study)
if result.completion is None:
    common.bare()
else:
    common.kicker("Finished")
    st.title("That was the last one")
    st.markdown(result.completion["message"])
    common.code("Your completion code:", result.completion["code"])
    st.write("You can close this window now.")
    common.way_out(study)
