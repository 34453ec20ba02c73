"""A person at a browser, for the tests and for the screenshots of the documentation.

``python -m tests.app.observer URL STUDY OUT.png [WIDTHxHEIGHT]`` joins a study of a running
``percept app`` and takes a picture of its rating page. It adds an observer to that study: use a
scratch copy of the database.
"""

from __future__ import annotations

import sys
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser import FLAGS, REMEDY, find

# Which condition an image shows, told from its pixels.
TINT = """image => {
  const canvas = new OffscreenCanvas(8, 8);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 8, 8);
  const { data } = context.getImageData(0, 0, 8, 8);
  let red = 0, blue = 0;
  for (let i = 0; i < data.length; i += 4) { red += data[i]; blue += data[i + 2]; }
  return red > 1.1 * blue ? "warm" : blue > 1.1 * red ? "cold" : "gray";
}"""


class Observer:
    """A person at a browser."""

    def __init__(self, page: Page, base: str, study: str) -> None:
        self.page, self.base, self.study = page, base, study
        self.viewer = page.locator(".viewer")
        self.trials: list[str] = []

    def join(self) -> None:
        """Through the pages, as people do."""
        page = self.page
        page.goto(f"{self.base}/?study={self.study}")
        begin = page.get_by_role("button", name="Begin")
        expect(begin).to_be_disabled()
        page.get_by_text("A member of the public").click()
        page.get_by_text("I have read this").click()
        begin.click()
        page.get_by_role("button", name="Start").click()

    def arrive(self) -> None:
        """Join over HTTP, and open the rating page."""
        page = self.page
        page.goto(f"{self.base}/viewer/viewer.css")  # any page of the same origin
        page.evaluate(
            """async ([study]) => {
              const client_id = crypto.randomUUID();
              const { consent } = await (await fetch(`/api/v1/studies/${study}`)).json();
              const body = JSON.stringify({ client_id, study, consent: consent.version });
              const joined = await fetch("/api/v1/sessions", { method: "POST", body });
              const { session } = await joined.json();
              localStorage.setItem(`percept/${study}/client`, JSON.stringify(client_id));
              localStorage.setItem(`percept/${study}/session`, JSON.stringify(session));
            }""",
            [self.study],
        )
        page.goto(f"{self.base}/rate?study={self.study}")

    def ready(self) -> str:
        """Wait for the next trial that takes an answer, through announcements and breaks."""
        last = self.trials[-1] if self.trials else ""
        waiting = self.page.locator(f".viewer[data-state=ready]:not([data-trial='{last}'])")
        card = self.page.locator(".viewer[data-state=card]")
        waiting.or_(card).wait_for()
        while card.count():
            title = card.locator("h2").inner_text()
            self.page.keyboard.press("Enter")
            gone = self.page.locator(".viewer:not([data-state=card])")
            gone.or_(card.filter(has_not_text=title)).wait_for()
            waiting.or_(card).wait_for()
        trial = self.viewer.get_attribute("data-trial")
        assert trial
        self.trials.append(trial)
        return trial

    def done(self) -> bool:
        """Whether the next thing is the last page, not another trial."""
        code = self.page.get_by_test_id("stCode")
        self.page.locator(".viewer:is([data-state=card], [data-state=ready])").or_(code).wait_for()
        return code.count() == 1

    def image(self, role: str) -> Any:
        return self.page.locator(f".current .frame[data-role={role}] img:not(.original)")

    def shown(self, role: str) -> str:
        return str(self.image(role).evaluate(TINT))

    def box(self, selector: str) -> dict[str, float]:
        box = self.page.locator(selector).bounding_box()
        assert box is not None, f"{selector} is not on the page"
        return dict(box)


def main(base: str, study: str, out: str, size: str = "1400x900") -> None:
    path = find()
    if path is None:
        raise SystemExit(REMEDY)
    width, height = map(int, size.split("x"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        observer = Observer(page, base.rstrip("/"), study)
        observer.arrive()
        observer.ready()
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
