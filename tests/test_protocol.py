from __future__ import annotations

import dataclasses
import re

import pytest

from percept import bundle
from percept.errors import InputError, InputErrors
from percept.protocol import RULES, SCALES, TABLES, Protocol, load_protocol, parse_protocol
from percept.types import METHODS

PAIRWISE = load_protocol("pairwise").text
ARTIFACT = load_protocol("artifact").text
ALL_TABLES = {"": Protocol, **TABLES}
BUNDLED = {
    "pairwise": "pairwise",
    "artifact": "artifact",
    "rating-acr": "rating",
    "rating-dcr": "rating",
    "real-or-fake": "real_or_fake",
    "review": "review",
}


@pytest.mark.parametrize(("name", "method"), BUNDLED.items())
def test_bundled_protocols_are_found_by_name(name: str, method: str) -> None:
    protocol = load_protocol(name)
    assert protocol.method == method
    assert protocol == load_protocol(bundle.root() / "protocols" / f"{name}.toml")


def test_every_bundled_protocol_is_tested_and_every_method_has_one() -> None:
    assert {file.stem for file in (bundle.root() / "protocols").glob("*.toml")} == set(BUNDLED)
    assert set(BUNDLED.values()) == set(METHODS) == set(RULES)


@pytest.mark.parametrize(
    ("name", "answers", "reference"),
    [
        ("pairwise", ["left", "tie", "right", "skip"], "original"),
        ("artifact", ["none", "marks", "skip"], "original"),
        ("rating-acr", ["1", "2", "3", "4", "5", "skip"], "original"),
        ("rating-dcr", ["1", "2", "3", "4", "5", "skip"], "true"),
        ("real-or-fake", ["left", "right", "skip"], None),
        ("review", ["accept", "fix", "reject", "skip"], "original"),
    ],
)
def test_what_each_method_asks_and_shows(name: str, answers: list[str], reference) -> None:
    protocol = load_protocol(name)
    assert [value for value, _ in protocol.answers] == answers
    assert protocol.reference == reference
    assert protocol.needs_reference == (name in ("rating-dcr", "real-or-fake"))
    assert protocol.hidden_after_ms == (1000 if name == "real-or-fake" else 0)


@pytest.mark.parametrize("scale", SCALES)
def test_a_rating_without_scores_has_those_of_its_scale(scale: str) -> None:
    bundled = load_protocol(f"rating-{scale}")
    text = re.sub(r"\[\[scores\]\]\n.*\n.*\n", "", bundled.text)
    assert "scores" not in text
    assert parse_protocol(text).scores == bundled.scores == SCALES[scale]


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
        '[[reasons]]\nname = "a"\nlabel = "A"\n[consent]',
        "reasons",
        "review",
    ),
    "marks that are never asked for": (
        "[consent]",
        '[[artifacts]]\nname = "a"\nlabel = "A"\n[[severities]]\nvalue = 1\nlabel = "S"\n[consent]',
        "artifacts",
        'why = "optional"',
    ),
    "why without a taxonomy": ("tie = true", 'why = "optional"', "artifacts", "for its marks"),
    "a question without answers": (
        "[consent]",
        '[[questions]]\nname = "age"\ntext = "?"\nanswers = ["1"]\n[consent]',
        "questions.0.answers",
        "at least 2",
    ),
    "a mark of another table": (
        "[consent]",
        "[checks]\ncolour = true\n[consent]",
        "checks.colour",
        "color_vision",
    ),
    "one of two": ("tie = true", 'selection = "clever"', "selection", "clever"),
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


ONE_MORE = '[[attributes]]\nname = "b"\nquestion = "B?"\n'


@pytest.mark.parametrize(
    ("name", "edit", "key"),
    [
        ("artifact", lambda text: "tie = true\n" + text, "tie"),
        ("artifact", lambda text: "identical = 2\n" + text, "identical"),
        ("artifact", lambda text: re.sub(r"\[\[severities\]\]\n.*\n.*\n", "", text), "severities"),
        ("artifact", lambda text: text + ONE_MORE, "attributes"),
        ("real-or-fake", lambda text: text + ONE_MORE, "attributes"),
        ("real-or-fake", lambda text: "tie = true\n" + text, "tie"),
        ("real-or-fake", lambda text: 'scale = "dcr"\n' + text, "scale"),
        ("review", lambda text: text + ONE_MORE, "attributes"),
        ("rating-acr", lambda text: "practice_feedback = true\n" + text, "practice_feedback"),
        ("review", lambda text: re.sub(r"\[\[reasons\]\]\n.*\n.*\n.*\n", "", text), "reasons"),
        ("review", lambda text: re.sub(r"\[\[severities\]\]\n.*\n.*\n", "", text), "severities"),
        ("review", lambda text: text + "[stopping]\nhalf_width = 0.2\n", "stopping.half_width"),
        ("rating-acr", lambda text: "display_ms = 500\n" + text, "display_ms"),
        ("rating-acr", lambda text: 'asks = "real"\n' + text, "asks"),
        ("rating-acr", lambda text: text.replace("value = 5", "value = 6"), "scores"),
        ("rating-dcr", lambda text: text.replace('"flicker"', '"original"'), "aids"),
    ],
)
def test_what_a_method_cannot_have(name: str, edit, key: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_protocol(edit(load_protocol(name).text), file="my.toml")
    assert (caught.value.key, caught.value.file) == (key, "my.toml")
    assert caught.value.remedy


def test_pairs_with_reasons_have_marks() -> None:
    marks = ARTIFACT[ARTIFACT.index("[[artifacts]]") : ARTIFACT.index("[display]")]
    protocol = parse_protocol('why = "required"\n' + PAIRWISE + marks + ONE_MORE)
    assert len(protocol.artifacts) == 11
    assert len(protocol.attributes) == 2


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
        for table, owner in ALL_TABLES.items()
        for field in dataclasses.fields(owner)
        if field.init and (table or field.name not in TABLES)
    }
    assert documented == keys


def test_documented_defaults_are_the_defaults() -> None:
    readme = (bundle.root() / "protocols" / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| ([^|]+) \|", readme, flags=re.M))
    for table, owner in ALL_TABLES.items():
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
