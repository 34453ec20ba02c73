"""The admin page on studies of every method, without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import state
from percept.store import Store, open_store
from percept.study import create_study, simulate
from tests.tiny_run import make_run, tiny_protocol

TOKEN = "token-of-the-tests"
PAGE = Path(__file__).resolve().parents[2] / "app" / "pages" / "admin.py"
METHODS = {
    "pairs": ("pairwise", {"golds": 2, "identical": 2, "repeats": 2}),
    "grades": ("rating-acr", {"repeats": 1}),
    "glance": ("real-or-fake", {}),
    "review": ("review", {"repeats": 1}),
    "marks": ("artifact", {"repeats": 1}),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("admin")
    run = make_run(folder, conditions=("warm", "cold", "reference"))
    with open_store(folder / "study.db", create=True) as store:
        for name, (protocol, values) in METHODS.items():
            rule = tiny_protocol(protocol, trials=6, practice=0, **values)
            simulate(store, create_study(run, rule, store, name), 3, seed=1)
        rule = tiny_protocol(trials=6, practice=0, tables="\n[stopping]\nvotes = 2\n")
        create_study(run, rule, store, "early")
        yield store


@pytest.fixture
def page(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    monkeypatch.setenv("PERCEPT_DB", str(store.engine.url.database))
    monkeypatch.setenv("PERCEPT_ADMIN_TOKEN", TOKEN)
    state.store.cache_clear()
    page = AppTest.from_file(str(PAGE), default_timeout=60)
    page.query_params["token"] = TOKEN
    yield page
    state.store().close()
    state.store.cache_clear()


def shown(page: AppTest) -> str:
    assert not page.exception, page.exception
    parts = [*page.markdown, *page.title, *page.header, *page.subheader, *page.caption]
    tables = [table.value.to_csv() for table in page.dataframe]
    return "\n".join([*(part.value for part in parts), *tables])


@pytest.mark.parametrize("study", list(METHODS))
def test_results_of_every_method_come_after_closing_and_are_logged(
    page: AppTest, store: Store, study: str
) -> None:
    page.run()
    page.selectbox[0].set_value(study).run()
    assert "once the study is closed" in shown(page)
    assert not page.toggle
    store.set_state(study, "closed")
    page.run()
    assert "warm" not in {row for table in page.dataframe for row in table.value.iloc[:, 0]}
    page.toggle[0].set_value(True).run()
    results = page.dataframe[-1].value
    assert {"warm", "cold"} <= set(results["condition"])
    page.run()  # a redraw is no other look
    assert store.looks(store.study(study))["what"].tolist() == ["results"]


def test_a_stopping_rule_opens_the_results_before_closing(page: AppTest, store: Store) -> None:
    page.run()
    page.selectbox[0].set_value("early").run()
    assert "once every comparison has 2 votes" in shown(page)
    assert not page.toggle
    simulate(store, store.study("early"), 3, seed=1)
    page.run()
    page.toggle[0].set_value(True).run()
    assert "warm" in shown(page)
    assert store.looks(store.study("early"))["what"].tolist() == ["results, open"]


def test_invitations_are_made_shown_and_revoked(page: AppTest, store: Store) -> None:
    page.run()
    page.text_input[0].set_value("<b>The archive</b>")
    next(each for each in page.button if each.label == "Make an invitation").click().run()
    (code,) = store.invites(store.study("pairs"))["code"]
    assert f"&invite={code}" in shown(page)
    next(each for each in page.button if each.label == "Revoke it").click().run()
    assert store.invites(store.study("pairs"))["revoked_at"].notna().all()


def test_without_the_token_there_is_nothing(page: AppTest) -> None:
    for token in ("", "wrong", f"{TOKEN} "):
        page.query_params["token"] = token
        page.run()
        assert page.title[0].value == "This page needs its token"
        assert not page.dataframe
        assert not page.metric
