from __future__ import annotations

import dataclasses
import re

import pytest

from percept import bundle
from percept.errors import InputError, InputErrors
from percept.protocol import (
    Artifact,
    Attribute,
    Completion,
    Consent,
    Display,
    Protocol,
    Severity,
    load_protocol,
    parse_protocol,
)

PAIRWISE = load_protocol("pairwise").text
ARTIFACT = load_protocol("artifact").text
TABLES = {
    "": Protocol,
    "attributes": Attribute,
    "artifacts": Artifact,
    "severities": Severity,
    "display": Display,
    "consent": Consent,
    "completion": Completion,
}


@pytest.mark.parametrize("name", ["pairwise", "artifact"])
def test_bundled_protocols_are_found_by_name(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.method == name
    assert protocol == load_protocol(bundle.root() / "protocols" / f"{name}.toml")


def test_pairwise_answers_follow_tie_and_skip() -> None:
    values = [value for value, _ in load_protocol("pairwise").answers]
    assert values == ["left", "tie", "right", "skip"]
    plain = parse_protocol(re.sub(r"^(tie|skip) = .*\n", "", PAIRWISE, flags=re.M))
    assert [value for value, _ in plain.answers] == ["left", "right"]


BAD = {
    # edit: (text to replace, replacement, key, words of the message)
    "unknown key": ("tie = true", "tei = true", "tei", "Did you mean 'tie'?"),
    "unknown key in a table": ("max_side = 1024", "maxside = 1024", "display.maxside", "max_side"),
    "unknown key in a list": (
        'question = "Which',
        'qestion = "Which',
        "attributes.0.qestion",
        "question",
    ),
    "text as a number": ("trials = 30", 'trials = "30"', "trials", "integer"),
    "fraction as a count": ("trials = 30", "trials = 30.5", "trials", "30.5"),
    "number as a switch": ("tie = true", "tie = 1", "tie", "boolean"),
    "out of range": ("trials = 30", "trials = 0", "trials", "greater than or equal to 1"),
    "too small": ("max_side = 1024", "max_side = 8", "display.max_side", "64"),
    "unknown fact": ("context = []", 'context = ["weather"]', "context.0", "weather"),
    "unknown aid": ('aids = ["zoom"]', 'aids = ["x-ray"]', "aids.0", "x-ray"),
    "unknown method": ('method = "pairwise"', 'method = "duel"', "method", "duel"),
    "missing key": ('version = "1"\n', "", "consent.version", "missing"),
    "unsafe name": ('name = "realism"', 'name = "Real ism"', "attributes.0.name", "Real ism"),
    "more repeats than trials": ("repeats = 3", "repeats = 31", "repeats", "31"),
    "twice": (
        'groups = ["public", "expert"]',
        'groups = ["public", "public"]',
        "groups",
        "named twice",
    ),
    "our own field": ("tie = true", 'text = "x"', "text", "unknown key"),
    "another method's key": (
        "[consent]",
        '[[artifacts]]\nname = "a"\nlabel = "A"\n[consent]',
        "artifacts",
        "artifact method",
    ),
}


@pytest.mark.parametrize(("old", "new", "key", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_key_or_value_is_one_clear_error(old: str, new: str, key: str, words: str) -> None:
    assert old in PAIRWISE
    with pytest.raises(InputError) as caught:
        parse_protocol(PAIRWISE.replace(old, new, 1), file="my.toml")
    assert str(caught.value).startswith(f"my.toml, key {key!r}: ")
    assert words in str(caught.value)
    assert caught.value.remedy


def test_several_errors_are_told_together() -> None:
    text = PAIRWISE.replace("trials = 30", "trials = 0").replace("tie = true", "tei = true")
    with pytest.raises(InputErrors) as caught:
        parse_protocol(text, file="my.toml")
    assert {error.key for error in caught.value.errors} == {"trials", "tei"}


@pytest.mark.parametrize("method", ["rating", "real_or_fake", "review"])
def test_methods_of_other_versions_are_refused_by_name(method: str) -> None:
    with pytest.raises(InputError, match="not available") as caught:
        parse_protocol(PAIRWISE.replace('"pairwise"', f'"{method}"'))
    assert "pairwise, artifact" in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lambda text: "tie = true\n" + text, "tie"),
        (lambda text: "identical = 2\n" + text, "identical"),
        (lambda text: re.sub(r"\[\[severities\]\]\n.*\n.*\n", "", text), "severities"),
        (lambda text: text + '[[attributes]]\nname = "b"\nquestion = "B?"\n', "attributes"),
    ],
)
def test_what_the_artifact_method_cannot_have(edit, key: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_protocol(edit(ARTIFACT))
    assert caught.value.key == key


def test_the_hash_is_of_the_content_not_of_the_typing() -> None:
    protocol = parse_protocol(PAIRWISE)
    retyped = parse_protocol("# a comment\n" + PAIRWISE.replace("trials = 30", "trials   =   30"))
    assert retyped.sha256 == protocol.sha256
    assert parse_protocol(PAIRWISE.replace("trials = 30", "trials = 31")).sha256 != protocol.sha256


def test_a_date_without_quotes_is_text_like_any_other() -> None:
    quoted = parse_protocol(PAIRWISE.replace('version = "1"', 'version = "2026-11-21"'))
    bare = parse_protocol(PAIRWISE.replace('version = "1"', "version = 2026-11-21"))
    assert bare.consent.version == "2026-11-21"
    assert bare.sha256 == quoted.sha256


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path) -> None:
    (tmp_path / "p.toml").write_text(PAIRWISE, encoding="utf-8-sig")
    assert load_protocol(tmp_path / "p.toml").text == PAIRWISE


@pytest.mark.parametrize(
    "content", [b"method = ", b"\xff\xfe", None], ids=["broken", "not text", "missing"]
)
def test_an_unreadable_file_names_itself(tmp_path, content: bytes | None) -> None:
    file = tmp_path / "rule.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"rule\.toml"):
        load_protocol(file)


def test_every_key_is_documented() -> None:
    readme = (bundle.root() / "protocols" / "README.md").read_text(encoding="utf-8")
    tables = readme[readme.index("## Top level") :]
    documented = set(re.findall(r"^\| `([a-z_.]+)`", tables, flags=re.M))
    keys = {
        f"{table}.{field.name}" if table else field.name
        for table, owner in TABLES.items()
        for field in dataclasses.fields(owner)
        if field.init and field.name not in TABLES
    }
    assert documented == keys


def test_documented_defaults_are_the_defaults() -> None:
    readme = (bundle.root() / "protocols" / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| ([^|]+) \|", readme, flags=re.M))
    for table, owner in TABLES.items():
        for field in dataclasses.fields(owner):
            key = f"{table}.{field.name}" if table else field.name
            if key not in told:
                continue
            if field.default is dataclasses.MISSING:
                assert told[key] == "required", key
            else:
                default = field.default
                text = str(default).lower() if isinstance(default, bool) else str(default)
                text = f'["{default[0]}"]' if isinstance(default, tuple) and default else text
                text = "[]" if default == () else text
                text = {"": "empty"}.get(text, text)
                assert told[key].strip("`") == text, key
