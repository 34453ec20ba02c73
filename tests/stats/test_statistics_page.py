from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from percept import stats

ROOT = Path(__file__).resolve().parents[2]


def examples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_examples", ROOT / "docs" / "examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_its_code_prints() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert page == examples().render(page), "run 'make docs' and commit docs/statistics.md"
    assert page.count("```python") == page.count("```text") >= 12


def test_the_page_names_what_exists() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    table = [line.split("|")[2] for line in page.splitlines() if line.startswith("|")][2:]
    named = {name for cell in table for name in re.findall(r"`([a-z_0-9]+)`", cell)}
    assert len(named) > 25
    assert not [name for name in named if name not in dir(stats)]


def test_every_function_has_an_example_and_its_place_in_the_table() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    functions = [name for name in stats.__all__ if name.islower()]
    assert len(functions) > 40
    assert [name for name in functions if f"stats.{name}(" not in code] == []
    prepare = {"agreement_weights", "count_pairs", "pairwise_units", "rating_units", "judged_pairs",
               "stimulus_wins"}  # fmt: skip
    assert [name for name in functions if f"`{name}`" not in page and name not in prepare] == []
