"""The same task as a plain Streamlit page, for comparison: what one would write in an hour.

``streamlit run benchmarks/plain_page.py`` with ``PLAIN_IMAGES``, a folder with one folder for each
condition, and ``PLAIN_DB``, an SQLite file. Left and right arrow vote, down is a tie.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from itertools import combinations
from pathlib import Path

import streamlit as st

IMAGES = Path(os.environ["PLAIN_IMAGES"])


@st.cache_resource
def database() -> tuple[sqlite3.Connection, threading.Lock]:
    connection = sqlite3.connect(os.environ["PLAIN_DB"], check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS vote (observer, photo, left, right, choice, seconds)"
    )
    return connection, threading.Lock()


@st.cache_data
def pairs() -> list[tuple[str, str, str]]:
    conditions = sorted(folder.name for folder in IMAGES.iterdir() if folder.name != "gray")
    photos = sorted(file.name for file in (IMAGES / "gray").iterdir())
    return [(photo, *two) for photo in photos for two in combinations(conditions, 2)]


def vote(choice: str) -> None:
    photo, left, right = st.session_state.order[st.session_state.position]
    connection, lock = database()
    with lock:
        connection.execute(
            "INSERT INTO vote VALUES (?, ?, ?, ?, ?, ?)",
            (st.session_state.observer, photo, left, right, choice,
             time.time() - st.session_state.shown),
        )  # fmt: skip
        connection.commit()
    st.session_state.position = (st.session_state.position + 1) % len(st.session_state.order)


st.set_page_config(page_title="Photographs", layout="wide")
if "order" not in st.session_state:
    st.session_state.observer = f"{random.getrandbits(64):x}"
    st.session_state.order = random.sample(pairs(), len(pairs()))
    st.session_state.position = 0
photo, left, right = st.session_state.order[st.session_state.position]
st.subheader("Which looks more like a real colour photograph?")
columns = st.columns(3)
for column, condition, label, key in zip(
    columns, (left, "gray", right), ("Left", "No difference", "Right"),
    ("Left", "Down", "Right"), strict=True,
):  # fmt: skip
    column.image(str(IMAGES / condition / photo))
    choice = {"Left": "left", "Right": "right", "Down": "tie"}[key]
    column.button(label, shortcut=key, on_click=vote, args=(choice,), width="stretch")
st.session_state.shown = time.time()
