"""The rating page: the viewer covers the window; nothing of a vote passes through here."""

from __future__ import annotations

from app import browser, common

study = common.current_study()
common.bare()
if page := browser.act("rate", study.name).go:
    common.go(page, study)
