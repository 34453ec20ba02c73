"""Run the examples of a page and write what they print under them: python docs/examples.py.

A ``python`` block is run, all blocks of a page in one namespace, and the ``text`` block that
follows it is replaced by its output. A test holds the pages against their own code.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

PAGES = (Path(__file__).parent / "statistics.md",)
_BLOCK = re.compile(r"```python\n(.*?)```\n(\n```text\n)(.*?)```\n", re.DOTALL)


def render(page: str) -> str:
    """Return the page with the outputs that its code has now."""
    space: dict[str, Any] = {"__name__": "example"}

    def run(found: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(found[1], space)  # noqa: S102  (the page's own code)
        return f"```python\n{found[1]}```\n{found[2]}{printed.getvalue()}```\n"

    return _BLOCK.sub(run, page)


if __name__ == "__main__":
    for file in PAGES:
        file.write_text(render(file.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {file}")
