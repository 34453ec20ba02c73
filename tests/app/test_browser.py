"""Real Chromium in front of a real server: sessions from joining to the completion code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, WebSocket, expect

from tests.app.conftest import (
    OPEN,
    SIZES,
    TOKEN,
    Arrive,
    Server,
    events_of,
    eventually,
    ratings_of,
)
from tests.app.observer import Observer

KEYS = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "tie"}
DOM = "document.querySelector('#percept-viewer').shadowRoot.innerHTML + document.body.outerHTML"
NEXT_FRAME = "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
# Presses a key at every change of the viewer's state but the one that invites an answer.
HASTE = """viewer => {
  new MutationObserver(() => {
    if (viewer.dataset.state === "ready") return;
    window.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  }).observe(viewer, { attributeFilter: ["data-state"] });
}"""


@dataclass
class Tape:
    """Everything that a page received."""

    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)

    def record(self, page: Page) -> None:
        def response(answer: Any) -> None:
            self.headers.append(f"{answer.url} {answer.headers}")
            if answer.ok and "/static/" not in answer.url:  # Streamlit's own files
                self.bodies.append((answer.url, answer.body()))

        def socket(opened: WebSocket) -> None:
            opened.on("framereceived", lambda frame: self.bodies.append((opened.url, data(frame))))

        def data(frame: str | bytes) -> bytes:
            return frame.encode() if isinstance(frame, str) else frame

        page.on("response", response)
        page.on("websocket", socket)


def test_a_pairwise_session_from_joining_to_the_completion_code(
    context: BrowserContext, server: Server
) -> None:
    tape = Tape()
    page = context.new_page()
    tape.record(page)
    observer = Observer(page, server.base, "pairs")
    observer.join()
    pressed = []
    while not observer.done():
        observer.ready()
        left, right = (
            observer.box(f".current .frame[data-role={role}]") for role in ("left", "right")
        )
        assert left | {"x": 0} == right | {"x": 0}
        shown = observer.shown("left"), observer.shown("right")
        key = list(KEYS)[len(pressed) % 3]
        pressed.append((*shown, KEYS[key]))
        tape.bodies.append(("the page itself", page.evaluate(DOM).encode()))
        page.keyboard.press(key)
    code = page.get_by_test_id("stCode")
    expect(code).to_contain_text(re.compile("^PAIR-[0-9A-F]{8}$"))

    ratings = ratings_of(server, "pairs")
    assert list(ratings[["left", "right", "choice"]].itertuples(index=False, name=None)) == pressed
    assert len(ratings) == 8
    assert list(ratings["kind"]).count("practice") == 2
    assert (ratings["response_time_ms"] >= 200).all()
    sessions = server.store.sessions(server.study("pairs"))
    assert sessions.iloc[-1]["completion"] == code.inner_text()
    screening = server.store.observers(server.study("pairs")).iloc[-1]["screening"]
    assert screening["window"] == [1400, 900]
    assert screening["color_gamut"] in {"srgb", "p3", "rec2020"}
    assert_blind(tape, server.base)


def assert_blind(tape: Tape, base: str) -> None:
    """Nothing that was received names a condition, a photograph, or what a trial is for."""
    secret = re.compile(rb"\b(warm|cold|photo\d|spec-of-\w+|repeat_of|identical)\b", re.IGNORECASE)
    assert any("/api/v1/trials" in url for url, _ in tape.bodies)
    assert any(url.startswith("ws") for url, _ in tape.bodies)
    for url, body in tape.bodies:
        found = secret.search(body)
        assert found is None, f"{url} tells {found}"
        assert not secret.search(url.encode())
    for line in tape.headers:
        assert not secret.search(line.encode())
        assert line.startswith((base, "data:", "blob:")), f"asked another server: {line}"


def test_an_artifact_session_from_joining_to_the_completion_code(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    observer = Observer(page, server.base, "marks")
    observer.join()

    observer.ready()  # drawn first, then named
    drawn = [draw(observer, 0.2, 0.3, 0.5, 0.45)]
    page.keyboard.press("1")
    page.keyboard.press("e")
    page.keyboard.press("Enter")

    observer.ready()  # named first, then drawn twice, the second while zoomed; one removed
    page.get_by_role("button", name="Blotches").click()
    page.get_by_role("button", name="Slight").click()
    drawn.append(draw(observer, 0.05, 0.1, 0.25, 0.9))
    draw(observer, 0.6, 0.6, 0.7, 0.7)
    page.keyboard.press("u")
    frame = observer.box(".current .frame[data-role=stimulus]")
    page.mouse.move(frame["x"] + 0.8 * frame["width"], frame["y"] + 0.5 * frame["height"])
    page.mouse.wheel(0, -300)
    expect(page.get_by_role("button", name="Zoom out")).to_be_visible()
    drawn.append(draw(observer, 0.7, 0.45, 0.85, 0.6))
    expect(page.locator("ol.marks li")).to_have_count(2)
    page.get_by_role("button", name="Blotches", exact=True).click()
    page.keyboard.press("Enter")  # saves; it does not press the button that was clicked

    observer.ready()  # nothing seen
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.get_by_role("button", name="None seen").click()

    observer.ready()  # skipped
    page.keyboard.press("s")
    page.get_by_role("button", name="I cannot judge this one").click()
    assert observer.done()
    expect(page.get_by_test_id("stCode")).to_contain_text(re.compile("^MARK-[0-9A-F]{8}$"))

    ratings = ratings_of(server, "marks")
    assert list(ratings["artifact"].astype(object).where(ratings["artifact"].notna(), None)) == [
        "bleeding",
        "blotches",
        "blotches",
        None,
    ]
    assert list(ratings["severity"][:3]) == [3, 1, 1]
    for row, (x, y, right, bottom) in zip(ratings[:3].itertuples(), drawn, strict=True):
        assert (row.x, row.y) == pytest.approx((x, y), abs=0.005)
        assert (row.x + row.width, row.y + row.height) == pytest.approx((right, bottom), abs=0.005)
    notes = server.store.notes(server.study("marks"))
    assert "I cannot judge this one" in set(notes["reason"])


def draw(observer: Observer, x: float, y: float, right: float, bottom: float) -> tuple[float, ...]:
    """Draw a rectangle given in fractions of the photograph, wherever it is on the screen."""
    image = observer.image("stimulus").bounding_box()
    assert image is not None
    mouse = observer.page.mouse
    mouse.move(image["x"] + x * image["width"], image["y"] + y * image["height"])
    mouse.down()
    mouse.move(image["x"] + right * image["width"], image["y"] + bottom * image["height"], steps=4)
    mouse.up()
    return x, y, right, bottom


def test_a_reload_in_the_middle_resumes_at_the_same_trial(arrive: Arrive, server: Server) -> None:
    observer = arrive("quick")
    observer.ready()
    observer.page.keyboard.press("ArrowLeft")
    second = observer.ready()
    observer.page.reload()
    observer.trials.pop()
    assert observer.ready() == second
    observer.page.keyboard.press("ArrowRight")
    observer.ready()
    eventually(
        observer.page, lambda: list(ratings_of(server, "quick")["choice"]) == ["left", "right"]
    )
    # The first page knows who comes back.
    observer.page.goto(f"{observer.base}/?study=quick")
    expect(observer.page.get_by_text("You have done 2 of 6")).to_be_visible()
    observer.page.get_by_role("button", name="Continue").click()
    observer.page.locator(".viewer[data-state=ready]").wait_for()


def test_a_key_press_never_votes_on_a_pair_that_was_not_seen(
    arrive: Arrive, server: Server
) -> None:
    observer = arrive("quick")
    page = observer.page
    observer.ready()
    observer.viewer.evaluate(HASTE)  # presses ← whenever no answer is due
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        observer.ready()
    page.keyboard.down("ArrowRight")
    for _ in range(5):
        page.keyboard.down("ArrowRight")  # the key repeats itself
    page.keyboard.up("ArrowRight")
    observer.ready()
    eventually(page, lambda: len(ratings_of(server, "quick")) == 4)
    assert set(ratings_of(server, "quick")["choice"]) == {"right"}
    assert {"key_between", "early_answer", "key_repeat"} <= events_of(server, observer)


def test_votes_made_without_a_connection_arrive_later(arrive: Arrive, server: Server) -> None:
    observer = arrive("quick")
    page = observer.page
    observer.ready()

    def refuse(route: Route) -> None:
        route.abort("connectionfailed")

    page.route("**/api/v1/ratings", refuse)
    for key in ("ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
        observer.ready()
    expect(page.get_by_text("2 answers kept here")).to_be_visible()
    before = server.store.progress(server.study("quick")).ratings
    page.reload()  # the answers outlive the page, and are not asked for again
    third = observer.trials.pop()
    assert observer.ready() == third
    page.keyboard.press("ArrowRight")
    observer.ready()
    page.unroute("**/api/v1/ratings")
    page.evaluate("dispatchEvent(new Event('online'))")
    study = server.study("quick")
    eventually(page, lambda: server.store.progress(study).ratings == before + 3)
    assert list(ratings_of(server, "quick")["choice"]) == ["left", "tie", "right"]
    expect(page.get_by_text("kept here")).to_have_count(0)


def test_a_vote_that_arrives_while_trials_are_fetched_is_not_asked_for_again(
    arrive: Arrive, server: Server
) -> None:
    observer = arrive("quick")
    page = observer.page
    observer.ready()
    fetched = False

    def rating(route: Route) -> None:
        if fetched:
            route.continue_()
        else:
            route.abort("connectionfailed")

    def trials(route: Route) -> None:
        nonlocal fetched
        before = route.fetch()  # the server does not know the vote yet
        fetched = True
        kept = "localStorage.getItem('percept/quick/outbox')"
        eventually(page, lambda: page.evaluate(kept) == "[]")
        route.fulfill(response=before)

    page.route("**/api/v1/ratings", rating)
    page.keyboard.press("ArrowLeft")
    second = observer.ready()
    page.route("**/api/v1/trials*", trials)
    page.reload()
    observer.trials.pop()
    assert observer.ready() == second
    assert list(ratings_of(server, "quick")["choice"]) == ["left"]


def test_undo_asks_again_and_keeps_both_answers(arrive: Arrive, server: Server) -> None:
    observer = arrive("quick")
    page = observer.page
    first = observer.ready()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    page.keyboard.press("ArrowLeft")
    second = observer.ready()
    page.keyboard.press("u")
    assert observer.ready() == first
    page.keyboard.press("ArrowRight")
    assert observer.ready() == second
    page.keyboard.press("ArrowDown")
    observer.ready()
    eventually(page, lambda: len(ratings_of(server, "quick")) == 3)
    ratings = ratings_of(server, "quick")
    assert list(ratings["choice"]) == ["left", "right", "tie"]
    assert list(ratings["revision"]) == [1, 2, 1]


def test_a_second_window_takes_over(
    arrive: Arrive, context: BrowserContext, server: Server
) -> None:
    first = arrive("quick")
    trial = first.ready()
    second = Observer(context.new_page(), first.base, "quick")
    second.page.goto(f"{first.base}/rate?study=quick")
    assert second.ready() == trial
    expect(first.page.get_by_text("open in another window")).to_be_visible()
    first.page.keyboard.press("ArrowLeft")  # answers nothing here
    second.page.keyboard.press("ArrowRight")
    second.ready()
    eventually(second.page, lambda: list(ratings_of(server, "quick")["choice"]) == ["right"])


def test_zoom_is_shared_and_a_click_then_does_not_vote(arrive: Arrive, server: Server) -> None:
    observer = arrive("quick")
    page = observer.page
    trial = observer.ready()
    frame = observer.box(".current .frame[data-role=right]")
    x, y = frame["x"] + 0.25 * frame["width"], frame["y"] + 0.75 * frame["height"]
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    transforms = {
        observer.image(role).evaluate("image => image.style.transform")
        for role in ("left", "right", "reference")
    }
    assert len(transforms) == 1
    assert "scale" in transforms.pop()
    page.mouse.down()
    page.mouse.move(x + 60, y - 20, steps=4)
    page.mouse.up()
    page.mouse.click(x, y)
    assert observer.viewer.get_attribute("data-trial") == trial
    page.keyboard.press("z")
    assert observer.image("left").evaluate("image => image.style.transform") == ""
    page.mouse.click(x, y)
    observer.ready()
    eventually(page, lambda: list(ratings_of(server, "quick")["choice"]) == ["right"])


@pytest.mark.parametrize("study", ["quick", "marks"])
def test_everything_is_in_the_window_and_large(arrive: Arrive, study: str) -> None:
    observer = arrive(study)
    page = observer.page
    observer.ready()
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        # The layout follows the window in the next frame.
        page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        assert page.evaluate(
            "[document.documentElement.scrollHeight, document.documentElement.scrollWidth]"
        ) == [height, width]
        roles = ["left", "right"] if study == "quick" else ["stimulus"]
        boxes = {
            role: observer.box(f".current .frame[data-role={role}]")
            for role in [*roles, "reference"]
        }
        parts = [*boxes.values(), observer.box(".question")]
        parts += [
            dict(box)
            for each in page.locator(".current .answer").all()
            if (box := each.bounding_box())
        ]
        for part in parts:
            assert part["x"] >= 0
            assert part["y"] >= 0
            assert part["x"] + part["width"] <= width
            assert part["y"] + part["height"] <= height
        sizes = {(box["width"], box["height"]) for role, box in boxes.items() if role in roles}
        assert len(sizes) == 1, "the two photographs differ in size"
        area = sum(box["width"] * box["height"] for role, box in boxes.items() if role in roles)
        assert area / (width * height) > 0.38, f"photographs are small at {width}×{height}"
        assert boxes["reference"]["width"] >= 0.25 * next(iter(sizes))[0]


def test_simulated_observers_are_named_and_their_study_offered_to_nobody(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    page.goto(server.base)
    choices = page.get_by_test_id("stMain").get_by_role("button")
    expect(choices).to_have_count(OPEN)
    choices.filter(has_text="What gives the colouring away?").first.click()
    expect(page.get_by_text("I have read this")).to_be_visible()
    assert page.url == f"{server.base}/?study=marks"
    page.goto(f"{server.base}/admin?token={TOKEN}")
    page.get_by_role("combobox").click()
    page.get_by_role("option", name="copy").click()
    expect(page.get_by_text("2 of 2 observers are simulated")).to_be_visible()


def test_closing_a_study_is_said_and_takes_no_further_answer(
    arrive: Arrive, server: Server
) -> None:
    observer = arrive("quick")
    page = observer.page
    observer.ready()
    page.keyboard.press("ArrowLeft")
    observer.ready()
    eventually(page, lambda: len(ratings_of(server, "quick")) == 1)
    server.store.set_state("quick", "closed")
    try:
        page.keyboard.press("ArrowRight")
        expect(page.get_by_text("This study has closed")).to_be_visible()
        page.goto(f"{server.base}/?study=quick")
        expect(page.get_by_text("This study has closed")).to_be_visible()
        assert list(ratings_of(server, "quick")["choice"]) == ["left"]
    finally:
        server.store.set_state("quick", "open")


def test_the_admin_page_needs_its_token(context: BrowserContext, server: Server) -> None:
    page = context.new_page()
    for address in ("/admin", "/admin?token=wrong"):
        page.goto(server.base + address)
        expect(page.get_by_text("This page needs its token")).to_be_visible()
        assert "quick" not in page.content()
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Sessions complete")).to_be_visible()


def test_the_admin_shows_progress_but_results_only_after_closing(
    context: BrowserContext, server: Server, arrive: Arrive
) -> None:
    observer = arrive("marks")
    observer.ready()
    observer.page.keyboard.press("n")
    observer.ready()
    observer.page.close()

    page = context.new_page()
    link = re.search(r"admin +(http\S+)", server.output)
    assert link
    page.goto(link[1])
    expect(page.get_by_text("Sessions complete")).to_be_visible()
    assert TOKEN not in page.url
    page.get_by_role("combobox").click()
    page.get_by_role("option", name="marks").click()
    expect(page.get_by_text("Trials for each condition")).to_be_visible()
    expect(page.get_by_text("Repeats answered alike")).to_be_visible()
    page.locator("[data-test-script-state=notRunning]").wait_for()
    with page.expect_download() as download:
        page.get_by_test_id("stDownloadButton").get_by_role("button").click()
    assert download.value.suggested_filename == "marks-csv.zip"
    expect(page.get_by_text("Show the results")).to_have_count(0)
    page.get_by_role("button", name="Close the study").click()
    page.get_by_text("Show the results").click()
    expect(page.get_by_text("Looks so far: 2")).to_be_visible()
    looks = server.store.looks(server.study("marks"))
    assert list(looks["what"]) == ["export", "results"]
    page.get_by_role("button", name="Reopen the study").click()
    expect(page.get_by_text("Open: observers can join")).to_be_visible()
