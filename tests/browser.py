"""Find, or install, the Chromium that the browser tests drive.

An installed Chromium or Chrome is used as it is; else the system's package manager is asked,
then Playwright. ``python tests/browser.py`` does so and says in one line what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_ASK = (
    "from playwright.sync_api import sync_playwright\n"
    "with sync_playwright() as p: print(p.chromium.executable_path)"
)
REMEDY = (
    "no Chromium found: install chromium or Google Chrome, or run "
    "'.venv/bin/playwright install --with-deps chromium', or set PERCEPT_CHROMIUM to its path"
)


def find() -> str | None:
    """Path of a Chromium that starts, or None."""
    wanted = os.environ.get("PERCEPT_CHROMIUM")
    candidates = [wanted] if wanted else [*filter(None, map(shutil.which, NAMES)), MAC]
    if not wanted and not any(filter(None, map(shutil.which, NAMES))):
        # In a process of its own: a thread has room for one synchronous Playwright.
        asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True)
        candidates.append(asked.stdout.strip())
    for path in candidates:
        if path and os.access(path, os.X_OK):
            probe = subprocess.run([path, "--version"], capture_output=True, text=True)
            if probe.returncode == 0:
                return path
    return None


def install() -> None:
    """Ask the system's package manager, then Playwright; the first that works wins."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    managers = {
        "apt-get": [["update", "-qq"], ["install", "-y", "-qq", "chromium"]],
        "dnf": [["install", "-y", "-q", "chromium"]],
        "pacman": [["-S", "--noconfirm", "--quiet", "chromium"]],
    }
    for manager, steps in managers.items():
        usable = shutil.which(manager) and (not sudo or shutil.which("sudo"))
        if usable and all(_succeeds([*sudo, manager, *step]) for step in steps) and find():
            return
    _succeeds([sys.executable, "-m", "playwright", "install", "chromium"])


def _succeeds(command: list[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, env=environment, stdin=subprocess.DEVNULL)
    return done.returncode == 0


if __name__ == "__main__":
    if not find():
        print("Installing Chromium for the browser tests …", flush=True)
        install()
    path = find()
    print(f"browser: {path}" if path else REMEDY)
    raise SystemExit(0 if path else 1)
