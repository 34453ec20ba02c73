"""The contact sheet, as a browser shows it."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser

from percept.cli import main
from percept.gallery import write_gallery
from percept.inference.run import Run, open_run
from tests.tiny_run import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four photographs × three conditions; ``sharp`` is better high, ``error`` low."""
    made = make_run(tmp_path_factory.mktemp("gallery"))
    value = {
        "warm": (1.0, 5.0, 2.0, 4.0),
        "cold": (3.0, 3.0, 3.0, 3.0),
        "gray": (2.0, 9.0, 0.0, 1.0),
    }
    rows = [
        (f"photo{i}", condition, metric, number if metric == "sharp" else -number)
        for condition, numbers in value.items()
        for i, number in enumerate(numbers)
        for metric in ("sharp", "error")
        if (metric, i) != ("error", 3)
    ]
    frame = pd.DataFrame(rows, columns=["content_id", "condition", "metric", "value"])
    frame.loc[0, "value"] = math.inf
    frame.loc[frame["metric"].eq("error") & frame["value"].eq(0), "value"] = -math.inf
    info = {"sharp": {"higher_is_better": True}, "error": {"higher_is_better": False}}
    made.write_metrics(frame, {}, info)
    return open_run(made.root)


def test_it_sorts_marks_the_best_and_says_that_it_is_not_blind(
    run: Run, tmp_path: Path, browser: Browser
) -> None:
    file = tmp_path / "sheet.html"
    assert write_gallery(run, file, side=64) == 4
    assert "http" not in file.read_text(encoding="utf-8").replace("http-equiv", "")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(file.as_uri())
    assert page.get_by_text("Not blind").is_visible()

    def order() -> list[str]:
        return [text.split()[0] for text in page.locator("h2").all_inner_texts()]

    def best() -> list[str]:
        return (
            page.locator("article")
            .first.locator(".best")
            .evaluate_all("cells => cells.map(cell => cell.dataset.condition)")
        )

    page.select_option("#metric", "sharp")
    assert order() == ["photo0", "photo1", "photo2", "photo3"]
    assert best() == ["warm"]
    assert page.locator("article").first.locator(".value").first.inner_text().startswith("∞")
    page.select_option("#order", "gray")
    assert order() == ["photo2", "photo3", "photo0", "photo1"]
    page.select_option("#metric", "error")
    page.select_option("#order", "spread")
    assert order()[-1] == "photo3"
    assert "1 of 4 photographs have no error" in page.locator("#note").inner_text()
    page.locator("article").first.locator("img").first.click()
    assert page.locator("dialog").is_visible()
    page.locator("dialog img").click()
    assert not page.locator("dialog").is_visible()
    wide = "document.documentElement.scrollWidth <= window.innerWidth"
    assert page.evaluate(wide), "nothing sticks out on a phone"
    assert not errors
    page.close()


def test_metrics_are_in_the_run_s_order_and_pictures_open_by_keyboard(
    run: Run, tmp_path: Path, browser: Browser
) -> None:
    file = tmp_path / "sheet.html"
    write_gallery(run, file, side=64)
    page = browser.new_page()
    page.goto(file.as_uri())
    options = page.locator("#metric option")
    assert options.all_inner_texts() == ["sharp ↑", "error ↓"], "as in run.json, not by name"
    assert page.input_value("#metric") == "sharp"
    page.select_option("#metric", "error")
    third = page.locator("article", has_text="photo2")
    assert third.locator("[data-condition=gray] .value").inner_text().startswith("−∞")
    cells = third.locator("[data-condition=gray] td").all_text_contents()
    assert cells == ["sharp", "0", "error", "−∞"]

    page.locator("#order").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    opener = page.evaluate("document.activeElement.querySelector('img').alt")
    for key in ("Enter", "Space"):
        page.keyboard.press(key)
        assert page.get_by_role("dialog", name=opener).is_visible()
        assert page.evaluate("document.activeElement.textContent") == "Close"
        page.keyboard.press("Escape")
        assert not page.locator("dialog").is_visible()
        assert page.evaluate("document.activeElement.querySelector('img').alt") == opener
    page.close()


def test_the_command_limits_and_says_so(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gallery", str(run.root), "--limit", "2", "-o", str(tmp_path / "s.html")]) == 0
    assert "2 photographs, 2 left out (--limit)" in capsys.readouterr().out
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert "2 of 4" in page
    assert "photo0" in page
    assert "photo3" not in page
    assert main(["gallery", str(run.root), "--side", "2"]) == 2
