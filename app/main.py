"""The Streamlit script: which pages there are."""

from __future__ import annotations

import streamlit as st

from app.shell import TITLE

st.set_page_config(page_title=TITLE, layout="wide", initial_sidebar_state="collapsed")
st.navigation(
    [
        st.Page("pages/join.py", title=TITLE, url_path="join", default=True),
        st.Page("pages/instructions.py", title=TITLE, url_path="instructions"),
        st.Page("pages/rate.py", title=TITLE, url_path="rate"),
        st.Page("pages/finish.py", title=TITLE, url_path="finish"),
        st.Page("pages/withdraw.py", title=TITLE, url_path="withdraw"),
        st.Page("pages/admin.py", title="Administration", url_path="admin"),
    ],
    position="hidden",
).run()
