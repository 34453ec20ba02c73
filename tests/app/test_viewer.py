"""The viewer in real Chromium: five methods by keyboard, marks, viewing aids, touch, accidents."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from percept.store.masks import decode_mask
from tests.app.conftest import PATIENCE_MS, Arrive, Server, events_of, eventually, ratings_of
from tests.app.observer import Observer

CODE = re.compile(r"^[A-Z]+-[0-9A-F]{8}$")
MARK = ("a", "Shift+ArrowLeft", "Shift+ArrowUp", "ArrowRight", "1", "e")  # whole, smaller, moved
BACK_A_YEAR = """
  const Real = Date, back = 365 * 24 * 3600 * 1000;
  window.Date = class extends Real {
    constructor(...given) { super(...(given.length ? given : [Real.now() - back])); }
    static now() { return Real.now() - back; }
  };
"""
GEOMETRY = """() => {
  const frames = document.querySelector("#percept-viewer").shadowRoot
    .querySelectorAll(".current .frame:is([data-role=left], [data-role=right])");
  return [...frames].map((frame) => {
    const style = getComputedStyle(frame);
    const image = frame.querySelector("img");
    const { width, height, top } = frame.getBoundingClientRect();
    return JSON.stringify([width, height, top, image.style.transform, style.borderWidth,
      style.boxShadow, style.filter, getComputedStyle(image).imageRendering, frame.className]);
  });
}"""


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def why(page: Page) -> None:
    press(page, "ArrowLeft")
    page.wait_for_timeout(20)
    if page.locator(".current .panel").count():
        page.locator(".viewer[data-state=ready]").wait_for()
        press(page, *MARK, "Enter")


def review(page: Page) -> None:
    if "1 of" in page.locator(".count").inner_text():
        press(page, "1")
        return
    expect(page.locator(".current .answer[data-value=accept]")).to_be_enabled()
    press(page, "3", "Enter")  # without a reason nothing is saved
    press(page, "q", "w", "Enter")


METHODS: dict[str, Callable[[Page], None]] = {
    "why": why,
    "brush": lambda page: press(page, *MARK, "Enter"),
    "grades": lambda page: press(page, "4"),
    "impairment": lambda page: press(page, "2"),
    "guess": lambda page: press(page, "ArrowRight"),
    "verdict": review,
}


@pytest.mark.parametrize("study", METHODS)
def test_a_whole_session_by_keyboard_alone(arrive: Arrive, server: Server, study: str) -> None:
    observer = arrive(study)
    code = observer.page.get_by_test_id("stCode")
    for _ in range(12):
        if observer.done():
            break
        observer.ready()
        METHODS[study](observer.page)
        observer.page.locator(
            f".viewer:not([data-trial='{observer.trials[-1]}']), .viewer[data-state=card], "
            ".viewer[data-state=ready]:has(.current.pairwise)"
        ).or_(code).first.wait_for()
        if study == "why":
            observer.trials.clear()  # the second question is about the same pair
    expect(code).to_contain_text(CODE)
    ratings = ratings_of(server, study)
    assert len(ratings.drop_duplicates("response_id")) == (
        6 if study == "why" else 3 - (study == "brush")
    )
    if study == "grades":
        assert set(ratings["score"]) == {4}
    if study == "verdict":
        assert list(ratings["verdict"]) == ["accept", "reject", "reject"]
        assert set(ratings["reason"][1:]) == {"unnatural;artifacts"}
    if study in ("why", "brush"):
        marks = server.store.marks(study)
        assert len(marks) == len(ratings) / (2 if study == "why" else 1)
        assert marks[["x", "y", "width", "height"]].to_numpy() == pytest.approx(
            np.tile([0.02, 0, 0.98, 0.98], (len(marks), 1))
        )


def to_first_question(observer: Observer) -> None:
    """Answer until the question that is followed by "why"."""
    question = observer.page.locator(".question")
    while True:
        observer.trials.clear()
        observer.ready()
        if "real colour" in (asked := question.inner_text()):
            break
        observer.page.keyboard.press("ArrowDown")
        card = observer.page.locator(".viewer[data-state=card]")
        card.or_(question.filter(has_not_text=asked)).wait_for()


def test_why_keeps_the_vote_through_a_reload_and_takes_marks_on_the_loser(
    arrive: Arrive, server: Server
) -> None:
    observer = arrive("why")
    page = observer.page
    to_first_question(observer)
    left, right = observer.shown("left"), observer.shown("right")
    before = len(server.store.marks("why"))
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("Continue without marks")).to_be_visible()
    assert observer.shown("stimulus") == right
    page.reload()  # nothing was marked yet: the vote arrives all the same, and once
    page.locator(".viewer[data-state=ready], .viewer[data-state=card]").wait_for()

    def votes() -> Any:
        ratings = ratings_of(server, "why")
        return ratings[ratings["attribute"] == "realism"].reset_index(drop=True)

    eventually(page, lambda: len(votes()) == 1)
    assert votes().loc[0, ["left", "right", "choice"]].tolist() == [left, right, "left"]
    assert len(server.store.marks("why")) == before

    to_first_question(observer)
    loser = observer.shown("left")
    page.keyboard.press("ArrowRight")
    page.locator(".viewer[data-state=ready]:has(.current .panel)").wait_for()
    press(page, *MARK, "Enter")
    eventually(page, lambda: len(votes()) == 2)
    mark = server.store.marks("why").iloc[-1]
    assert mark["response_id"] == votes().loc[1, "response_id"]
    assert mark["condition"] == loser


def test_undo_of_why_keeps_the_vote_and_asks_again(arrive: Arrive, server: Server) -> None:
    observer = arrive("why")
    page = observer.page
    to_first_question(observer)
    page.keyboard.press("ArrowLeft")
    page.locator(".viewer[data-state=ready]:has(.current .panel)").wait_for()
    page.keyboard.press("u")
    page.locator(".viewer[data-state=ready]:has(.current.pairwise)").wait_for()
    page.keyboard.press("ArrowDown")

    def votes() -> list[str]:
        ratings = ratings_of(server, "why")
        return list(ratings.loc[ratings["attribute"] == "realism", "choice"])

    eventually(page, lambda: votes() == ["left", "tie"])


def test_a_brush_mask_arrives_as_it_was_painted(arrive: Arrive, server: Server) -> None:
    observer = arrive("brush")
    page = observer.page
    observer.ready()
    press(page, "b", "]")
    paint(observer, (0.2, 0.3), (0.5, 0.3), (0.5, 0.7))
    press(page, "-", "w")
    page.get_by_role("textbox", name="What is it?").fill("a halo =1+1")
    expect(page.get_by_role("button", name="Save")).to_be_enabled()
    page.keyboard.press("Enter")  # ends the words
    paint(observer, (0.5, 0.6), (0.8, 0.6))  # goes on with the same mark
    expect(page.locator("ol.marks li")).to_have_count(1)
    page.keyboard.press("Enter")
    eventually(page, lambda: len(ratings_of(server, "brush")) == 1)
    mark = server.store.marks("brush").iloc[-1]
    assert mark[["shape", "artifact", "note"]].tolist() == ["mask", "other", "a halo =1+1"]
    mask = decode_mask(mark["mask"])

    def painted(x: float, y: float) -> bool:
        row = int((y - mark["y"]) / mark["height"] * mask.shape[0])
        column = int((x - mark["x"]) / mark["width"] * mask.shape[1])
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
        return inside and bool(mask[row, column])

    assert all(painted(*point) for point in [(0.2, 0.3), (0.35, 0.3), (0.5, 0.5), (0.75, 0.6)])
    assert not any(painted(*point) for point in [(0.3, 0.5), (0.7, 0.3), (0.1, 0.3)])


def paint(observer: Observer, *points: tuple[float, float]) -> None:
    box = observer.box(".current .frame[data-role=stimulus]")
    mouse = observer.page.mouse
    for index, (x, y) in enumerate(points):
        mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=6)
        if index == 0:
            mouse.down()
    mouse.up()


def test_viewing_aids_keep_both_sides_equal_and_are_logged(arrive: Arrive, server: Server) -> None:
    observer = arrive("why")
    page = observer.page
    observer.ready()

    def equal() -> None:
        left, right = page.evaluate(GEOMETRY)
        assert left.replace(" behind", "") == right.replace(" behind", "")

    equal()
    page.keyboard.down("o")
    expect(page.locator(".current .frame.held .original")).to_have_count(2)
    assert (
        observer.page.locator(".current .frame.held[data-role=left] .original").evaluate(
            "image => getComputedStyle(image).visibility"
        )
        == "visible"
    )
    equal()
    page.keyboard.up("o")
    expect(page.locator(".current .frame.held")).to_have_count(0)
    press(page, "f")
    left, right = (observer.box(f".current .frame[data-role={role}]") for role in ("left", "right"))
    assert left == right  # one place for both
    for role in ("left", "right"):
        page.locator(f".current .frame[data-role={role}].behind").wait_for(state="attached")
    press(page, "d")
    equal()
    box = observer.box(".current .frame[data-role=left]")
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 40)
    line = observer.box(".current .split")
    assert line["x"] == pytest.approx(box["x"] + 0.25 * box["width"], abs=2)
    page.mouse.down()  # moves the line, and is no vote
    page.mouse.up()
    press(page, "z", "p")
    equal()
    # 480 pixels are 480 pixels of the screen, if the frame is smaller than that.
    frame, image = (
        observer.page.locator(f".current .frame[data-role=left]{part}").bounding_box()
        for part in ("", " img:not(.original)")
    )
    assert frame is not None
    assert image is not None
    assert image["width"] == pytest.approx(max(480, frame["width"]), abs=1)
    assert {"original", "flicker", "slider", "zoom"} <= events_of(server, observer)


def test_a_timed_pair_is_hidden_and_answered_later(arrive: Arrive, server: Server) -> None:
    observer = arrive("guess")
    page = observer.page
    observer.ready()
    page.locator(".current.over").wait_for()
    assert (
        observer.page.locator(".current .frame[data-role=left]").evaluate(
            "frame => getComputedStyle(frame).visibility"
        )
        == "hidden"
    )
    page.keyboard.press("ArrowLeft")
    eventually(page, lambda: len(ratings_of(server, "guess")) == 1)
    events_of(server, observer)
    events = server.store.events(server.study("guess"))
    data = events.loc[events["name"] == "hidden", "data"].iloc[-1]
    assert 100 <= data["ms"] < 400  # the frame closest to 120 ms, on a busy machine a later one


def test_a_double_tap_is_one_vote_even_without_a_minimum_viewing_time(
    arrive: Arrive, server: Server
) -> None:
    observer = arrive("grades")
    page = observer.page
    observer.ready()
    page.evaluate(
        """() => {
          const press = () => window.dispatchEvent(new KeyboardEvent("keydown", { key: "5" }));
          press(); press(); setTimeout(press, 5); setTimeout(press, 30);
        }"""
    )
    observer.ready()
    eventually(page, lambda: len(ratings_of(server, "grades")) == 1)
    assert events_of(server, observer) & {"key_between", "early_answer", "answer_between"}
    assert len(ratings_of(server, "grades")) == 1


def test_a_clock_that_is_wrong_by_a_year_changes_no_measured_time(
    context: BrowserContext, server: Server
) -> None:
    context.add_init_script(BACK_A_YEAR)
    observer = Observer(context.new_page(), server.base, "grades")
    observer.arrive()
    observer.ready()
    observer.page.keyboard.press("3")
    observer.ready()
    eventually(observer.page, lambda: len(ratings_of(server, "grades")) == 1)
    rating = ratings_of(server, "grades").iloc[0]
    assert 0 <= rating["response_time_ms"] < 60_000
    assert (rating["rated_at"] - rating["presented_at"]).days >= 364


def test_the_back_button_loses_nothing(context: BrowserContext, server: Server) -> None:
    observer = Observer(context.new_page(), server.base, "quick")
    page = observer.page
    observer.join()
    observer.ready()
    page.keyboard.press("ArrowLeft")
    observer.ready()
    page.go_back()
    page.get_by_role("button", name="Start").wait_for()
    expect(page.locator("#percept-viewer")).to_have_count(0)
    eventually(page, lambda: list(ratings_of(server, "quick")["choice"]) == ["left"])
    page.go_forward()
    second = observer.trials.pop()
    assert observer.ready() == second


def test_after_withdrawal_the_token_is_dead_and_the_answers_are_gone(
    arrive: Arrive, context: BrowserContext, server: Server
) -> None:
    observer = arrive("quick")
    page = observer.page
    observer.ready()
    page.keyboard.press("ArrowLeft")
    observer.ready()
    eventually(page, lambda: len(ratings_of(server, "quick")) == 1)
    before = len(server.store.ratings("quick"))
    other = context.new_page()
    other.goto(f"{server.base}/?study=quick")
    other.get_by_role("button", name="Withdraw").click()
    other.get_by_role("button", name="Erase my answers").click()
    expect(other.get_by_text("Your answers are erased")).to_be_visible()
    assert len(server.store.ratings("quick")) == before - 1
    page.keyboard.press("ArrowLeft")  # the first window finds its token dead
    expect(page.get_by_text("I have read this")).to_be_visible()


def test_touch_votes_zooms_and_offers_large_targets(browser: Any, server: Server) -> None:
    context = browser.new_context(viewport={"width": 768, "height": 1024}, has_touch=True)
    context.set_default_timeout(PATIENCE_MS)
    try:
        observer = Observer(context.new_page(), server.base, "quick")
        observer.arrive()
        page = observer.page
        observer.ready()
        box = observer.box(".current .frame[data-role=right]")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        touch = context.new_cdp_session(page)
        for spread in (20, 30, 45, 60, 80):
            points = [{"x": x - spread, "y": y, "id": 1}, {"x": x + spread, "y": y, "id": 2}]
            kind = "touchStart" if spread == 20 else "touchMove"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        transforms = {
            observer.image(role).evaluate("image => image.style.transform")
            for role in ("left", "right")
        }
        assert len(transforms) == 1
        assert "scale" in transforms.pop()
        assert observer.viewer.get_attribute("data-trial") == observer.trials[-1]  # no vote
        page.get_by_role("button", name="Zoom out").tap()
        for button in page.locator(".viewer button:visible").all():
            target = button.bounding_box()
            assert target is not None
            assert min(target["width"], target["height"]) >= 34
        page.touchscreen.tap(x, y)
        observer.ready()
        eventually(page, lambda: list(ratings_of(server, "quick")["choice"]) == ["right"])
    finally:
        context.close()


def test_checks_by_keyboard_turn_away_who_fails_and_keep_no_answers(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    page.goto(f"{server.base}/?study=checked&PROLIFIC_PID=pid-of-somebody&STUDY_ID=s&SESSION_ID=x")
    page.get_by_text("A member of the public").click()
    page.get_by_text("Every day").click()
    page.get_by_text("I have read this").click()
    begin = page.get_by_role("button", name="Begin")
    expect(begin).to_be_enabled()
    begin.press("Enter")
    for number in range(1, 8):
        plate = page.locator(f".percept-plate[alt^='Plate {number} of 7']")
        plate.wait_for()
        page.wait_for_timeout(400)  # a second press sooner belongs to no plate
        page.keyboard.press("n")
    for name, value in {
        "dark_steps": "5",
        "light_steps": "4",
        "night_mode": "off",
        "room": "even",
    }.items():
        page.locator(f"input[name={name}][value='{value}']").press("Space")
    go_on = page.get_by_role("button", name="Continue")
    expect(go_on).to_be_enabled()
    go_on.press("Enter")
    expect(page.get_by_test_id("stCode")).to_contain_text("SCREENED-OUT")
    observer = server.store.observers(server.study("checked")).iloc[-1]
    assert observer["screening"]["color_vision"] == {"passed": False}
    assert observer["screening"]["display"]["passed"] is True
    assert observer["screening"]["display"]["px_per_mm"] > 2
    assert observer["screening"]["questions"] == {"colour_work": "Every day"}
    assert "pid-of-somebody" not in str(observer.to_dict())
