"""Write ``docs/commands.md`` from the parsers; a test holds the file against them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from percept.cli import build_parser

FILE = Path(__file__).parent / "commands.md"
HEADER = """# Commands

Generated from the command line's own parsers by `make docs`; do not edit.

Exit codes: 0 done · 1 done, but some items failed, and they are listed · 2 bad input or settings,
nothing written · 3 stopped midway, the same command resumes · 4 regression found.
"""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser and all below it, in order."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield (signature, help) of each argument of one parser, ``--help`` left out."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else None
        if metavar is None and action.choices:
            metavar = "{" + ",".join(map(str, action.choices)) + "}"
        metavar = metavar or action.dest.upper()
        if not action.option_strings:
            signature = metavar
        elif action.nargs == 0:
            signature = ", ".join(action.option_strings)
        else:
            signature = ", ".join(action.option_strings) + " " + metavar
        if action.nargs in ("+", "*"):
            signature += " …"
        text = " ".join((action.help or "").split())
        for field in ("default", "prog", "const"):
            value = parser.prog if field == "prog" else getattr(action, field, None)
            text = text.replace(f"%({field})s", str(value))
        text = text.replace("%%", "%")
        yield signature, text + (" (required)" if action.required and action.option_strings else "")


def render() -> str:
    """Return the whole page."""
    parts = [HEADER]
    for parser in parsers(build_parser()):
        if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
            continue
        parts.append(f"## `{parser.prog}`\n\n{parser.description or ''}\n")
        rows = [f"| `{signature}` | {text} |" for signature, text in options(parser)]
        if rows:
            parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
    print(f"wrote {FILE}")
