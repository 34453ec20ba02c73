"""Votes made elsewhere: a table of answers, and a small TOML mapping from its columns to ours.

``docs/import.md`` explains the mapping by examples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from percept.errors import InputError, InputErrors
from percept.protocol import parse_protocol
from percept.store.store import Store, Study, Vote
from percept.study import check_name
from percept.types import CHOICES, KINDS

#: Our columns by method: those that say what was shown and answered.
METHOD_KEYS: dict[str, tuple[str, ...]] = {
    "pairwise": ("left", "right", "choice"),
    "real_or_fake": ("left", "right", "choice"),
    "rating": ("condition", "score"),
    "review": ("condition", "verdict", "reason"),
}
_NEEDED = ("observer", "content")
_OPTIONAL = ("attribute", "group", "session", "trial", "kind", "response_time_ms", "presented_at")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Source:
    """Where a value of ours comes from: a column, two scores, or the mapping itself."""

    column: str | None = None
    """A column of the table."""
    pattern: str | None = None
    """Regular expression; its first group (or all of the match) is the value."""
    meaning: dict[str, str] = field(default_factory=dict)
    """What values mean; others stay as they are."""
    format: str | None = None
    """How a time is written, as for ``strptime``."""
    value: str | None = None
    """The same value for every row."""
    higher: tuple[str, str] | None = None
    """Two columns of scores: left where the first is higher, right, or tie."""


@dataclass(frozen=True)
class Mapping:
    """A mapping, read by :func:`load_mapping`."""

    method: str
    columns: dict[str, Source]
    title: str
    questions: dict[str, str]
    conditions: tuple[str, ...]
    """Rows that show another one are left out; empty: none are."""
    text: str


def load_mapping(file: Path) -> Mapping:
    """Read a mapping.

    Raises
    ------
    InputError, InputErrors
        It cannot be read, or holds a key or value that is not allowed; all of them are told.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the mapping cannot be read: {error}", file=file) from None
    errors: list[InputError] = []

    def wrong(message: str, key: str, value: object = None, remedy: str | None = None) -> None:
        errors.append(InputError(message, file=file, key=key, value=value, remedy=remedy))

    known = ("method", "title", "questions", "conditions", "columns")
    for key in data.keys() - set(known):
        wrong("unknown key", key, data[key], f"Known keys: {', '.join(known)}")
    method = data.get("method")
    if method not in METHOD_KEYS:
        wrong("votes of this method cannot be imported", "method", method,
              f"Use one of: {', '.join(METHOD_KEYS)}")  # fmt: skip
        raise _all(errors)
    title, questions, columns = (data.get(key, {}) for key in ("title", "questions", "columns"))
    if not isinstance(title or "", str):
        wrong("must be text", "title", title)
    if not isinstance(questions, dict) or not all(isinstance(q, str) for q in questions.values()):
        wrong("must be a table of texts", "questions", questions)
    conditions = data.get("conditions", [])
    if not isinstance(conditions, list) or not all(isinstance(one, str) for one in conditions):
        wrong("must be a list of texts", "conditions", conditions)
        conditions = []
    if not isinstance(columns, dict):
        wrong("must be a table", "columns", columns)
        raise _all(errors)
    keys = (*_NEEDED, *METHOD_KEYS[method], *_OPTIONAL)
    sources: dict[str, Source] = {}
    for key, entry in columns.items():
        if key not in keys:
            wrong("unknown key", f"columns.{key}", entry, f"Known keys: {', '.join(keys)}")
            continue
        try:
            sources[key] = _source(entry)
        except ValueError as error:
            wrong(str(error), f"columns.{key}", entry, "docs/import.md shows what is possible")
            continue
        if sources[key].higher and key != "choice":
            wrong("two scores make a choice, nothing else", f"columns.{key}", entry)
        if sources[key].format and key != "presented_at":
            wrong("only presented_at has a format", f"columns.{key}", entry)
    for key in (*_NEEDED, *METHOD_KEYS[method]):
        if key not in columns and key != "reason":
            wrong("a required key is missing", f"columns.{key}", remedy="Name its column")
    if errors:
        raise _all(errors)
    title = title or "Votes made elsewhere"
    return Mapping(method, sources, title, questions, tuple(conditions), text)


def import_votes(store: Store, name: str, votes: Path, mapping: Path) -> tuple[Study, int, int]:
    """Read votes and save them, all or none.

    Parameters
    ----------
    store : Store
    name : str
        The study. Without one of this name it is made, closed and without images; one that was
        made here takes votes on its own conditions and photographs.
    votes : Path
        CSV or Parquet, one answer a row.
    mapping : Path
        TOML.

    Returns
    -------
    tuple of Study, int and int
        The study; how many votes were new, none if this file was imported before; how many rows
        were left out because they show other conditions than the mapping names.

    Raises
    ------
    InputError, InputErrors
        The mapping, or rows of the table, are wrong; all of them are told with row, column and
        value. Nothing is written.
    """
    rule = load_mapping(mapping)
    columns, rows = _read(votes)
    missing = [
        InputError("the table has no such column", file=votes, column=column,
                   remedy=f"It has {', '.join(columns)}")
        for source in rule.columns.values()
        for column in (source.column, *(source.higher or ()))
        if column is not None and column not in columns
    ]  # fmt: skip
    if missing:
        raise _all(missing)
    if not rows:
        raise InputError("there are no votes", file=votes)
    check_name(name)
    study = next((one for one in store.studies() if one.name == name), None)
    check = _Checks(store, study, rule, mapping)
    fingerprint = hashlib.sha256(votes.read_bytes() + rule.text.encode()).hexdigest()
    found: list[Vote] = []
    errors: list[InputError] = []
    left_out = 0
    for number, row in enumerate(rows, start=1):
        try:
            found.append(_vote(rule, check, row, f"{name}/{fingerprint}/{number}"))
        except _LeftOut:
            left_out += 1
        except _Bad as bad:
            errors.append(
                InputError(bad.message, file=votes, row=number, column=bad.column, value=bad.value)
            )
    if errors:
        raise _all(errors)
    if not found:
        raise InputError("no row shows these conditions alone", file=mapping, key="conditions",
                         value=list(rule.conditions))  # fmt: skip
    seen = {condition for vote in found for condition in vote.shown.values()}
    absent = [condition for condition in rule.conditions if condition not in seen]
    if absent:
        raise InputError("no row that counts shows this condition", file=mapping, key="conditions",
                         value=absent[0], remedy="Correct its name, or leave it out")  # fmt: skip
    _check_trials(found, votes)
    with store.batch():
        if study is None:
            study = _new_study(store, name, rule, found, votes)
        return study, store.add_votes(study, found), left_out


def _all(errors: list[InputError]) -> InputError | InputErrors:
    return errors[0] if len(errors) == 1 else InputErrors(errors)


def _source(entry: Any) -> Source:
    if isinstance(entry, str):
        return Source(column=entry)
    if not isinstance(entry, dict):
        raise ValueError("must be the name of a column, or a table")
    fields = {one.name for one in dataclasses.fields(Source)}
    if unknown := sorted(entry.keys() - fields):
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(fields))}")
    if len(entry.keys() & {"column", "value", "higher"}) != 1:
        raise ValueError("needs one of column, value and higher")
    for key in ("column", "pattern", "format", "value"):
        if key in entry and not isinstance(entry[key], str):
            raise ValueError(f"{key} must be text")
    meaning = entry.get("meaning", {})
    if not isinstance(meaning, dict) or not all(isinstance(one, str) for one in meaning.values()):
        raise ValueError("meaning must be a table of texts")
    if "higher" in entry:
        pair = entry["higher"]
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(c) is str for c in pair)):
            raise ValueError("higher must name two columns")
        return Source(higher=(pair[0], pair[1]))
    try:
        re.compile(entry.get("pattern", ""))
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return Source(**entry)


def _read(file: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """Read the columns and the rows of a table, as text; what is empty is None."""
    try:
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
        else:
            table = pd.read_csv(file, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except (OSError, ValueError, UnicodeError) as error:
        raise InputError(f"the votes cannot be read: {error}", file=file) from None
    return list(map(str, table.columns)), [
        {str(key): None if pd.isna(one) else str(one).strip() or None for key, one in row.items()}
        for row in table.to_dict("records")
    ]


class _Bad(Exception):
    """A value of a row is wrong."""

    def __init__(self, message: str, column: str, value: object) -> None:
        self.message, self.column, self.value = message, column, value
        super().__init__(message)


class _LeftOut(Exception):
    """A row shows a condition that is not asked for."""


class _Checks:
    """What values may be, by key of ours."""

    def __init__(self, store: Store, study: Study | None, rule: Mapping, mapping: Path) -> None:
        self.allowed: dict[str, Callable[[str], bool]] = {
            "choice": lambda value: value in CHOICES,
            "kind": lambda value: value in KINDS,
            "verdict": lambda value: value in ("accept", "fix", "reject"),
            "score": _is_number,
            "response_time_ms": lambda value: _is_number(value) and float(value) >= 0,
            "attribute": lambda value: _NAME.fullmatch(value) is not None,
            "group": lambda value: _NAME.fullmatch(value) is not None,
            "reason": lambda value: all(map(_NAME.fullmatch, value.split(";"))),
        }
        self.told = {
            "choice": f"must be one of {', '.join(CHOICES)}",
            "kind": f"must be one of {', '.join(KINDS)}",
            "verdict": "must be accept, fix or reject",
            "score": "must be a number",
            "response_time_ms": "must be milliseconds",
            "attribute": "must be of a-z, 0-9 and _",
            "group": "must be of a-z, 0-9 and _",
            "reason": "must be names of a-z, 0-9 and _, joined by ;",
        }
        if study is None:
            return
        if study.method != rule.method:
            raise InputError(
                f"the study {study.name!r} is of another method, {study.method}",
                file=mapping, key="method", value=rule.method,
            )  # fmt: skip
        asked = [one.name for one in parse_protocol(study.protocol).attributes]
        self._limit("attribute", asked)
        if not study.imported:
            conditions = store.conditions(study)["condition"].tolist()
            for key in ("left", "right", "condition"):
                self._limit(key, conditions)
            self._limit("content", store.contents(study)["content_id"].tolist())

    def _limit(self, key: str, names: list[str]) -> None:
        known = frozenset(names)
        self.allowed[key] = known.__contains__
        self.told[key] = f"is not of the study, which has {', '.join(names[:20])}"


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _value(rule: Mapping, check: _Checks, row: dict[str, str | None], key: str) -> str | None:
    """Get a value of ours from a row; None where it is empty or not mapped."""
    source = rule.columns.get(key)
    if source is None:
        return None
    if source.higher is not None:
        scores = []
        for column in source.higher:
            score = row[column]
            if score is None or not _is_number(score):
                raise _Bad("must be a number", column, score)
            scores.append(float(score))
        return "tie" if scores[0] == scores[1] else "left" if scores[0] > scores[1] else "right"
    if source.value is not None:
        raw, column = source.value, key
    else:
        column = str(source.column)
        found = row[column]
        if found is None:
            return None
        raw = found
    value = raw
    if source.pattern is not None:
        match = re.search(source.pattern, value)
        if match is None:
            raise _Bad(f"does not match the pattern of {key}", column, raw)
        value = match[1] if match.re.groups else match[0]
        if not value:
            raise _Bad(f"the pattern of {key} finds nothing", column, raw)
    value = source.meaning.get(value, value)
    if key in ("left", "right", "condition") and rule.conditions and value not in rule.conditions:
        raise _LeftOut
    if key in check.allowed and not check.allowed[key](value):
        raise _Bad(f"{key} {check.told[key]}", column, raw)
    if len(value) > 200:
        raise _Bad("is longer than 200 characters", column, raw)
    return value


def _vote(rule: Mapping, check: _Checks, row: dict[str, str | None], identity: str) -> Vote:
    def need(key: str) -> str:
        value = _value(rule, check, row, key)
        if value is None:
            raise _Bad(f"{key} is empty", rule.columns[key].column or key, None)
        return value

    roles = ("left", "right") if "left" in METHOD_KEYS[rule.method] else ("condition",)
    shown = {"stimulus" if role == "condition" else role: need(role) for role in roles}
    observer, content = need("observer"), need("content")
    value = need(METHOD_KEYS[rule.method][len(roles)])
    reasons = _value(rule, check, row, "reason") if rule.method == "review" else None
    if (rule.method == "review") and (value == "accept") and reasons:
        raise _Bad("an accepted image has no reasons", str(rule.columns["reason"].column), reasons)
    milliseconds = _value(rule, check, row, "response_time_ms")
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return Vote(
        response_id=digest[:40],
        observer=observer,
        group=_value(rule, check, row, "group") or "public",
        session=_value(rule, check, row, "session") or observer,
        trial=_value(rule, check, row, "trial") or digest,
        kind=_value(rule, check, row, "kind") or "test",
        content=content,
        shown=shown,
        attribute=_value(rule, check, row, "attribute") or "preference",
        value=value if rule.method != "rating" else f"{float(value):g}",
        reasons=tuple(reasons.split(";")) if reasons else (),
        response_time_ms=None if milliseconds is None else float(milliseconds),
        presented_at=_time(rule, check, row),
    )


def _time(rule: Mapping, check: _Checks, row: dict[str, str | None]) -> datetime | None:
    text = _value(rule, check, row, "presented_at")
    if text is None:
        return None
    source = rule.columns["presented_at"]
    try:
        if source.format is not None:
            time = datetime.strptime(text, source.format)
        else:
            time = datetime.fromisoformat(text)
    except ValueError:
        column = source.column or "presented_at"
        raise _Bad(f"is no time ({source.format or 'ISO 8601'})", column, text) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _check_trials(votes: list[Vote], file: Path) -> None:
    """Hold rows of one trial against each other: one photograph, each question once."""
    first: dict[tuple[str, str, str], tuple[int, Vote]] = {}
    asked: set[tuple[str, str, str, str]] = set()
    errors = []
    for number, vote in enumerate(votes, start=1):
        key = vote.observer, vote.session, vote.trial
        row, same = first.setdefault(key, (number, vote))
        if (vote.content, vote.shown) != (same.content, same.shown):
            errors.append(InputError(f"shows something else than row {row} of the same trial",
                                     file=file, row=number, value=vote.trial))  # fmt: skip
        elif (*key, vote.attribute) in asked:
            errors.append(InputError(f"answers the same question as row {row} of the same trial",
                                     file=file, row=number, value=vote.trial))  # fmt: skip
        asked.add((*key, vote.attribute))
    if errors:
        raise _all(errors)


def _new_study(store: Store, name: str, rule: Mapping, votes: list[Vote], file: Path) -> Study:
    """Make a closed study without images, with a protocol that says what is known."""
    attributes = list(dict.fromkeys(vote.attribute for vote in votes))
    groups = list(dict.fromkeys(vote.group for vote in votes))
    reasons = sorted({reason for vote in votes for reason in vote.reasons}) or ["unknown"]
    sessions = pd.Series([(vote.observer, vote.session) for vote in votes]).value_counts()

    def text(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)  # strings and lists of them are TOML

    lines = [
        f"method = {text(rule.method)}",
        f"title = {text(rule.title)}",
        f"instructions = {text(f'Votes made elsewhere, imported from {file.name}.')}",
        f"trials = {min(int(sessions.max()), 1000)}",
        "practice = 0",
        f"groups = {text(groups)}",
    ]
    if rule.method == "pairwise" and any(vote.value == "tie" for vote in votes):
        lines.append("tie = true")
    if rule.method == "real_or_fake":
        lines.append('asks = "real"')  # as in our frames: what was taken for real
    for attribute in attributes:
        question = rule.questions.get(attribute, attribute.replace("_", " ").capitalize())
        lines += ["[[attributes]]", f"name = {text(attribute)}", f"question = {text(question)}"]
    if rule.method == "rating":
        grades = [float(vote.value) for vote in votes]
        if all(grade in range(1, 10) for grade in grades) and max(grades) > 1:
            for grade in range(1, int(max(grades)) + 1):  # what they were called is not known
                lines += ["[[scores]]", f"value = {grade}", f'label = "{grade}"']
    if rule.method == "review":
        for reason in reasons:
            lines += ["[[reasons]]", f"name = {text(reason)}", f"label = {text(reason)}"]
    lines += ["[display]", "original = false"]
    lines += ["[consent]", 'version = "elsewhere"', 'text = "Given elsewhere."']
    protocol = parse_protocol("\n".join(lines) + "\n", file=file)
    return store.add_study(
        name=name,
        method=rule.method,
        protocol=protocol.text,
        protocol_sha256=protocol.sha256,
        run_path="",
        seed=0,
        stimuli_path=None,
        info={"imported": {"file": file.name, "mapping": rule.text}, "left_out": {}},
        conditions=[],
        contents=[],
        stimuli=[],
        state="closed",
    )
