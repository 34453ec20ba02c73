"""Documentation cannot drift from the program."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from percept.cli import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parent.parent


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_reference_is_what_the_parsers_say() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert page == generator().render(), "run 'make docs' and commit docs/commands.md"
    assert "## `percept weights status`" in page  # a command without arguments is one too


def test_every_command_and_option_has_help() -> None:
    tool = generator()
    bare = [
        f"{parser.prog} {signature}"
        for parser in tool.parsers(build_parser())
        for signature, text in tool.options(parser)
        if len(text) < 8
    ]
    assert not bare, bare


def test_the_readme_lists_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = set(re.findall(r"^\| `percept ([a-z]+)", readme, flags=re.M))
    assert table == set(COMMANDS)


def test_every_command_line_in_the_documents_parses() -> None:
    """Each `percept …` line of a shell block is accepted by the real parser."""
    import shlex

    parser = build_parser()
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    pages += [ROOT / "protocols/README.md", ROOT / "training/README.md"]
    pages += [ROOT / "data_manifests/README.md"]
    checked = 0
    for page in pages:
        for block in re.findall(r"```(?:console|bash|sh)\n(.*?)```", page.read_text("utf-8"), re.S):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["percept"] and "--help" not in words:
                    parser.parse_args(words[1:])
                    checked += 1
    assert checked >= 5


def test_local_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
