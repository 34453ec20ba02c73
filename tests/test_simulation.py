from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from percept.cli import main
from percept.design import passes
from percept.errors import InputError
from percept.inference.run import Run
from percept.protocol import Protocol
from percept.simulation import TYPES, Observer, World, types_of
from percept.store import open_store
from percept.study import create_study, simulate
from tests.tiny_run import make_run, tiny_protocol

MIXED = {"careful": 0.7, "careless": 0.2, "side": 0.05, "colour_blind": 0.05}
BASE = {"trials": 8, "practice": 1, "repeats": 2, "golds": 2}
ARTIFACTS = """
[[artifacts]]
name = "bleeding"
label = "Bleeding"

[[artifacts]]
name = "other"
label = "Something else"

[[severities]]
value = 1
label = "Slight"

[[severities]]
value = 3
label = "Severe"
"""


def with_marks(why: str) -> Protocol:
    from percept.protocol import parse_protocol

    return parse_protocol(f'why = "{why}"\n{tiny_protocol(**BASE).text}\n{ARTIFACTS}')


PROTOCOLS = {
    "pairwise": tiny_protocol(**BASE, identical=1),
    "why": with_marks("required"),
    "artifact": tiny_protocol("artifact", **BASE),
    "acr": tiny_protocol("rating-acr", **BASE),
    "dcr": tiny_protocol("rating-dcr", **BASE),
    "real-or-fake": tiny_protocol("real-or-fake", **BASE),
    "review": tiny_protocol("review", **BASE, session_minutes=1),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    conditions = ("warm", "cold", "gray", "reference")
    return make_run(tmp_path_factory.mktemp("made"), conditions=conditions)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_observers_of_every_type_finish_every_method(tmp_path, run, name: str) -> None:
    """And the same seed gives the same answers."""
    frames = []
    for twin in ("a", "b"):
        with open_store(tmp_path / f"{twin}.db", create=True) as store:
            study = create_study(run, PROTOCOLS[name], store, "study")
            assert simulate(store, study, 8, seed=4, types=dict.fromkeys(TYPES, 0.25)) == 8
            observers, sessions = store.observers(study), store.sessions(study)
            frames.append(store.ratings(study).drop(columns=["presented_at", "rated_at"]))
    assert sessions["completion"].notna().all()
    assert observers["simulated"].all()
    assert frames[0]["simulated"].all()
    types = Counter(facts["simulated_type"] for facts in observers["screening"])
    assert types == dict.fromkeys(TYPES, 2)
    pd.testing.assert_frame_equal(*frames)
    # Practice is the only kind whose golds are announced; the others are there too.
    assert {"test", "gold", "repeat", "practice"} <= set(frames[0]["kind"])


def test_why_is_answered_with_marks_on_the_losing_image(tmp_path, run) -> None:
    with open_store(tmp_path / "one.db", create=True) as store:
        study = create_study(run, PROTOCOLS["why"], store, "study")
        simulate(store, study, 4, seed=1)
        marks, votes = store.marks(study), store.ratings(study)
    decided = votes[votes["choice"].isin(["left", "right"])]
    assert set(decided["response_id"]) == set(marks["response_id"])
    assert set(marks["artifact"]) <= {"bleeding", "other"}


def replies(protocol: Protocol, type_: str, images: list[dict], seed: int = 0) -> list[list]:
    """Answers of twelve observers of a type to the same trials."""
    world = World(protocol, ["gray", "a", "b", "reference"], ["p0", "p1", "p2"], seed)
    name = protocol.attributes[0].name
    people = [Observer(world, number, seed, type_) for number in range(12)]
    return [[person.answer(name, one) for one in images] for person in people]


def golds(protocol: Protocol) -> list[tuple[dict, str]]:
    """Every gold of three photographs as it is shown, with the right answer."""
    found = []
    for index in range(24):
        content, variant = f"p{index % 3}", ("hue", "shift")[index % 2]
        spoilt, sound = (content, "a", variant), (content, "a", "")
        if protocol.method == "real_or_fake":
            sound = (content, "reference", "")
        if protocol.method in ("pairwise", "real_or_fake"):
            right = index % 4 < 2
            sides = (spoilt, sound) if right else (sound, spoilt)
            asked = right != (protocol.method == "real_or_fake" and protocol.asks == "fake")
            found.append(
                (dict(zip(("left", "right"), sides, strict=True)), "right" if asked else "left")
            )
        else:
            expected = {"artifact": "marks", "rating": "1", "review": "reject"}[protocol.method]
            found.append(({"stimulus": spoilt}, expected))
    return found


@pytest.mark.parametrize("name", ["pairwise", "artifact", "acr", "real-or-fake", "review"])
def test_who_looks_passes_golds(name: str) -> None:
    """By how bad the images are: nobody tells an observer what is expected."""
    controls = golds(PROTOCOLS[name])
    share = {}
    for type_ in TYPES:
        given = replies(PROTOCOLS[name], type_, [images for images, _ in controls])
        right = [
            passes(expected, reply.value)
            for own in given
            for reply, (_, expected) in zip(own, controls, strict=True)
        ]
        share[type_] = np.mean([one for one in right if one is not None])
    assert share["careful"] > 0.88
    assert share["careless"] < share["careful"] - 0.1
    # One spoilt image is bad enough to be seen without much sight of colours.
    assert share["colour_blind"] < share["careful"] - (0.05 if name == "pairwise" else 0)


def test_types_differ_in_what_gives_them_away() -> None:
    pairs = [
        {"left": (f"p{k % 3}", "a", ""), "right": (f"p{k % 3}", "b", "")}
        if k % 2
        else {"left": (f"p{k % 3}", "b", ""), "right": (f"p{k % 3}", "a", "")}
        for k in range(60)
    ]
    given = {type_: replies(PROTOCOLS["pairwise"], type_, pairs) for type_ in TYPES}

    def one_sided(own) -> float:
        share = np.mean([reply.value == "left" for reply in own])
        return max(share, np.mean([reply.value == "right" for reply in own]))

    assert min(map(one_sided, given["side"])) > 0.7
    assert max(map(one_sided, given["careful"])) < 0.7
    seconds = {
        type_: np.median([reply.seconds for own in given[type_] for reply in own])
        for type_ in TYPES
    }
    assert seconds["careless"] < seconds["careful"] / 2
    # Each side is some leaner's favourite.
    assert {Counter(r.value for r in own).most_common(1)[0][0] for own in given["side"]} == {
        "left",
        "right",
    }


def test_shares_hold_for_any_number_of_observers() -> None:
    many = types_of(MIXED, 400, seed=3)
    for name, share in MIXED.items():
        assert many.count(name) == pytest.approx(400 * share, abs=2)
        assert many[:40].count(name) == pytest.approx(40 * share, abs=2)
    assert types_of(MIXED, 40, seed=3) == many[:40]  # more can come later
    # Groups take turns, and types are in step with neither.
    even = types_of({"careful": 0.5, "careless": 0.5}, 200, seed=0)[::2]
    assert 40 <= even.count("careful") <= 60
    assert types_of(None, 3, seed=0) == ["careful"] * 3


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"tired": 1.0}, "tired"),
        ({"careful": 0.5}, "add up to 1"),
        ({"careful": 1.5, "careless": -0.5}, "careful=1.5"),
    ],
)
def test_shares_that_are_none_are_told(shares: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        types_of(shares, 3, seed=0)


def test_types_by_the_command_line(tmp_path, run, capsys) -> None:
    db = str(tmp_path / "one.db")
    with open_store(db, create=True) as store:
        create_study(run, PROTOCOLS["pairwise"], store, "one")
    command = ["study", "simulate", "--db", db, "--study", "one", "--observers", "4"]
    assert main([*command, "--types", "careful=0.5, careless=0.5"]) == 0
    with open_store(db) as store:
        facts = store.observers(store.study("one"))["screening"]
    assert {one["simulated_type"] for one in facts} == {"careful", "careless"}
    assert main([*command, "--types", "careful"]) == 2
    assert "NAME=SHARE" in capsys.readouterr().err
