from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from percept.errors import InputError
from percept.store import Store, open_store, schema
from percept.store.store import Answer, Conflict, Mark, NotFound, Session, Trial
from percept.study import (
    create_study,
    join,
    may_look,
    protocol_of,
    rate,
    seconds_left,
    window,
)
from percept.types import METHOD_COLUMNS, RATING_COLUMNS
from tests.tiny_run import tiny_protocol

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def begin(store: Store, study: str = "pairs", client: str = "client-0000000001") -> Session:
    joined = join(store, store.study(study), client, consent_version="1")
    return store.session(joined.token)


def answer(trial: Trial, n: int = 0, **changes: object) -> Answer:
    value = "left" if "left" in trial.images else "none"
    plain = Answer(
        response_id=f"response-{trial.token}-{n}"[:64],
        trial=trial.token,
        attribute="realism" if "left" in trial.images else "artifacts",
        value=value,
        response_time_ms=1234.5,
        presented_at=NOW,
    )
    return replace(plain, **changes)


def vote(store: Store, session: Session, given: Answer) -> bool:
    study = store.study_by_id(session.study_id)
    return rate(store, session, protocol_of(study), given)


def trials(store: Store, session: Session) -> list[Trial]:
    return store.trials(session, 0, 1000)


def cells_of(store: Store, token: str) -> set[tuple[str, frozenset[str | None]]]:
    """The photograph and the pair of each test trial of a session."""
    session = store.session(token)
    shown = store.shown(session)
    with store.engine.connect() as connection:
        query = sa.select(schema.trial.c.token).where(
            schema.trial.c.session_id == session.id, schema.trial.c.kind == "test"
        )
        tests = set(connection.scalars(query))
    return {
        (shown[t.images["left"]][0], frozenset(shown[t.images[s]][1] for s in ("left", "right")))
        for t in trials(store, session)
        if t.token in tests
    }


# Joining ---------------------------------------------------------------------------------------


def test_joining_again_finds_the_same_session(store) -> None:
    study = store.study("pairs")
    first = join(store, study, "client-0000000001", consent_version="1")
    again = join(store, study, "client-0000000001", consent_version="1")
    other = join(store, study, "client-0000000002", consent_version="1")
    assert (first.created, again.created, other.created) == (True, False, True)
    assert first.token == again.token != other.token
    assert len(store.sessions(study)) == 2


def test_one_client_joining_from_many_threads_gets_one_session(store) -> None:
    study = store.study("pairs")
    with ThreadPoolExecutor(8) as pool:
        joined = list(
            pool.map(
                lambda _: join(store, study, "client-0000000001", consent_version="1"), range(16)
            )
        )
    assert len({one.token for one in joined}) == 1
    assert sum(one.created for one in joined) == 1
    assert len(store.sessions(study)) == len(store.observers(study)) == 1


def test_many_clients_joining_at_once_share_the_work_evenly(store) -> None:
    study = store.study("pairs")
    with ThreadPoolExecutor(8) as pool:
        tokens = list(
            pool.map(
                lambda n: join(store, study, f"client-{n:010d}", consent_version="1").token,
                range(14),
            )
        )
    assert len(set(tokens)) == 14
    used = Counter(cell for token in tokens for cell in cells_of(store, token))
    assert len(used) == 12
    assert set(used.values()) == {7}  # 14 sessions of 6 tests over 12 cells


def test_a_client_id_is_not_stored_and_a_token_neither(store) -> None:
    study = store.study("pairs")
    client = "client-of-a-secret-person"
    token = join(store, study, client, consent_version="1", crowd={"worker": "A1B2C3"}).token
    with store.engine.connect() as connection:
        dump = " ".join(
            str(tuple(row))
            for table in schema.metadata.sorted_tables
            for row in connection.execute(sa.select(table))
        )
    assert hashlib.sha256(client.encode()).hexdigest() in dump
    for secret in (client, token, "A1B2C3"):
        assert secret not in dump


@pytest.mark.parametrize("state", ["paused", "closed"])
def test_nobody_new_joins_a_paused_or_closed_study(store, state: str) -> None:
    study = store.study("pairs")
    begin(store)
    store.set_state("pairs", state)
    with pytest.raises(Conflict) as caught:
        begin(store, client="client-0000000002")
    assert caught.value.code == state
    assert begin(store).study_state == state  # who was in stays in
    assert len(store.sessions(study)) == 1


def test_consent_to_another_text_does_not_count(store) -> None:
    with pytest.raises(Conflict) as caught:
        join(store, store.study("pairs"), "client-0000000001", consent_version="0")
    assert caught.value.code == "consent"
    with pytest.raises(InputError, match="no such group"):
        join(store, store.study("pairs"), "client-0000000001", consent_version="1", group="nobody")
    assert store.observers(store.study("pairs")).empty


def test_reservations_of_people_who_never_came_back_expire(store) -> None:
    """Twelve cells, six a session: a stale session's cells are used again, a fresh one's not."""
    study = store.study("pairs")

    stale = NOW - timedelta(hours=2)
    first = join(store, study, "client-0000000001", consent_version="1", now=NOW)
    second = join(store, study, "client-0000000002", consent_version="1", now=NOW)
    assert not cells_of(store, first.token) & cells_of(store, second.token)
    with store.engine.begin() as connection:
        connection.execute(sa.update(schema.session).values(started_at=stale))
    third = join(store, study, "client-0000000003", consent_version="1", now=NOW)
    fourth = join(store, study, "client-0000000004", consent_version="1", now=NOW)
    assert not cells_of(store, third.token) & cells_of(store, fourth.token)


# Answering -------------------------------------------------------------------------------------


def test_a_session_from_the_first_answer_to_the_code(store) -> None:
    session = begin(store)
    assert session.trials == 8
    everything = trials(store, session)
    assert [trial.practice for trial in everything] == [True] + [False] * 7
    for index, trial in enumerate(everything):
        assert store.answered_up_to(session) == index
        assert session.completion is None
        assert vote(store, session, answer(trial))
        session = replace(session, completion=None)
    (row,) = store.sessions(store.study("pairs")).to_dict("records")
    assert row["completion"].startswith("PAIR-")
    assert row["rated_trials"] == row["trials"] == 8


def test_a_resend_changes_nothing(store) -> None:
    session = begin(store, "marks")
    trial = trials(store, session)[0]
    mark = Mark("bleeding", 2, 0.1, 0.2, 0.3, 0.4, note="the sky")
    given = answer(trial, value="marks", marks=(mark, replace(mark, x=0.5)))
    assert vote(store, session, given) is True
    assert vote(store, session, given) is False
    assert vote(store, session, replace(given, presented_at=NOW, response_time_ms=1234.5)) is False
    assert len(store.ratings("marks")) == 2  # two marks of one answer
    assert len(set(store.ratings("marks")["response_id"])) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"value": "none", "marks": ()},
        {"marks": (Mark("blotches", 2, 0.1, 0.2, 0.3, 0.4),)},
        {"revision": 2},
    ],
)
def test_a_response_id_means_one_answer(store, change: dict[str, object]) -> None:
    session = begin(store, "marks")
    trial = trials(store, session)[0]
    given = answer(trial, value="marks", marks=(Mark("bleeding", 2, 0.1, 0.2, 0.3, 0.4),))
    vote(store, session, given)
    with pytest.raises(Conflict) as caught:
        vote(store, session, replace(given, **change))
    assert caught.value.code == "response_id"
    assert len(store.ratings("marks")) == 1


def test_a_response_id_of_someone_else_tells_nothing_and_saves_nothing(store) -> None:
    one, other = begin(store), begin(store, client="client-0000000002")
    vote(store, one, answer(trials(store, one)[0], response_id="the-same-id"))
    with pytest.raises(Conflict):
        vote(store, other, answer(trials(store, other)[0], response_id="the-same-id"))
    assert len(store.ratings("pairs")) == 1


def test_a_foreign_trial_is_not_found(store) -> None:
    one, other = begin(store), begin(store, client="client-0000000002")
    foreign = trials(store, other)[0]
    with pytest.raises(NotFound):
        vote(store, one, answer(foreign))
    with pytest.raises(NotFound):
        vote(store, one, answer(trials(store, one)[0], attribute="beauty"))
    assert store.ratings("pairs").empty


def test_revisions_supersede_and_nothing_is_overwritten(store) -> None:
    session = begin(store)
    first, second = trials(store, session)[:2]
    vote(store, session, answer(first))
    vote(store, session, answer(first, 1, value="right", revision=2))
    frame = store.ratings("pairs")
    assert frame["revision"].tolist() == [1, 2]
    assert frame["choice"].tolist() == ["left", "right"]
    given = trials(store, session)[0].answered["realism"]
    assert (given.revision, given.value) == (2, "right")

    for wrong in (2, 4):  # neither again nor ahead
        with pytest.raises(Conflict) as caught:
            vote(store, session, answer(first, 9, revision=wrong))
        assert caught.value.code == "revision"
    with pytest.raises(Conflict) as caught:
        vote(store, session, answer(second, 9, revision=2))  # there is no first yet
    assert caught.value.code == "revision"
    vote(store, session, answer(second))
    with pytest.raises(Conflict) as caught:
        vote(store, session, answer(first, 9, revision=3))  # no longer the last trial
    assert caught.value.code == "undo"
    assert len(store.ratings("pairs")) == 3


def test_the_last_answered_trial_is_the_one_answered_last(store) -> None:
    """Not the one furthest on: an answer that was refused is given after later ones."""
    session = begin(store)
    first, second = trials(store, session)[:2]
    vote(store, session, answer(second))
    vote(store, session, answer(first))
    assert vote(store, session, answer(first, 1, value="right", revision=2)) is True
    with pytest.raises(Conflict) as caught:
        vote(store, session, answer(second, 1, revision=2))
    assert caught.value.code == "undo"


def test_no_undo_where_the_protocol_has_none_and_after_the_end(store) -> None:
    session = begin(store)
    everything = trials(store, session)
    store.rate(session, answer(everything[0]))
    with pytest.raises(Conflict) as caught:
        store.rate(session, answer(everything[0], 1, revision=2), undo=False)
    assert caught.value.code == "undo"
    for trial in everything[1:]:
        vote(store, session, answer(trial))
    with pytest.raises(Conflict) as caught:
        vote(store, session, answer(everything[-1], 1, revision=2))
    assert caught.value.code == "undo"


def test_a_closed_study_takes_no_answers_but_still_acknowledges_saved_ones(store) -> None:
    session = begin(store)
    one, two = trials(store, session)[:2]
    vote(store, session, answer(one))
    store.set_state("pairs", "closed")
    assert vote(store, session, answer(one)) is False
    with pytest.raises(Conflict) as caught:
        vote(store, session, answer(two))
    assert caught.value.code == "closed"
    store.set_state("pairs", "open")
    assert store.study("pairs").closed_at is None
    assert vote(store, session, answer(two)) is True


@pytest.mark.parametrize(
    ("study", "change", "key"),
    [
        ("pairs", {"value": "both"}, "value"),
        ("pairs", {"value": "none"}, "value"),
        ("pairs", {"value": "skip"}, "reason"),
        ("pairs", {"value": "skip", "reason": "bored"}, "reason"),
        ("pairs", {"reason": "I cannot judge this one"}, "reason"),
        ("pairs", {"marks": (Mark("bleeding", 1, 0, 0, 1, 1),)}, "value"),
        ("marks", {"value": "marks"}, "marks"),
        ("marks", {"value": "none", "marks": (Mark("bleeding", 1, 0, 0, 1, 1),)}, "value"),
        ("marks", {"value": "marks", "marks": (Mark("ghost", 1, 0, 0, 1, 1),)}, "marks.0.artifact"),
        (
            "marks",
            {"value": "marks", "marks": (Mark("blotches", 7, 0, 0, 1, 1),)},
            "marks.0.severity",
        ),
    ],
)
def test_answers_that_the_protocol_does_not_know(store, study, change, key: str) -> None:
    session = begin(store, study)
    with pytest.raises(InputError) as caught:
        vote(store, session, answer(trials(store, session)[0], **change))
    assert caught.value.key == key
    assert store.ratings(study).empty


def test_windows_stop_at_breaks_and_repeat_themselves(store, run) -> None:
    protocol = tiny_protocol(trials=12, practice=1, repeats=0, break_every=5)
    create_study(run, protocol, store, "breaks", stimuli=run.root.parent / "stimuli")
    session = begin(store, "breaks")
    seen = {k: window(store, session, protocol, k) for k in (0, 3, 5, 10, 13)}
    assert {k: (w.state, [t.position for t in w.trials]) for k, w in seen.items()} == {
        0: ("open", [1, 2, 3, 4, 5]),
        3: ("open", [4, 5]),
        5: ("break", [6, 7, 8, 9, 10]),
        10: ("break", [11, 12, 13]),
        13: ("open", []),
    }
    assert window(store, session, protocol, 3) == seen[3]
    vote(store, session, answer(seen[0].trials[0]))
    assert window(store, session, protocol).trials[0].position == 2  # goes on where it was
    store.set_state("breaks", "closed")
    with pytest.raises(Conflict):
        window(store, begin(store, "breaks"), protocol)


def test_answers_from_many_threads_are_all_saved_once(store) -> None:
    sessions = [begin(store, client=f"client-{n:010d}") for n in range(6)]
    given = [(s, answer(t)) for s in sessions for t in trials(store, s)]
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda job: vote(store, *job), given * 3))
    assert sum(created) == len(given) == 48
    frame = store.ratings("pairs")
    assert len(frame) == 48
    assert frame["response_id"].is_unique
    assert set(store.sessions(store.study("pairs"))["completion"].str[:5]) == {"PAIR-"}


# Constraints -----------------------------------------------------------------------------------


def test_the_database_itself_refuses_what_must_not_be(store) -> None:
    session = begin(store, "marks")
    trial = trials(store, session)[0]
    vote(store, session, answer(trial, value="marks", marks=(Mark("blotches", 1, 0, 0, 1, 1),)))
    with store.engine.connect() as connection:
        saved = connection.execute(sa.select(schema.rating)).one()._asdict()
        marked = connection.execute(sa.select(schema.mark)).one()._asdict()
        shown = connection.execute(sa.select(schema.presentation)).first()._asdict()
    saved.pop("id"), marked.pop("id"), shown.pop("id")
    fresh = {"response_id": "another-one", "revision": 2}
    wrong = [
        (schema.rating, saved | {"revision": 2}),  # response_id again
        (schema.rating, saved | {"response_id": "another-one"}),  # revision again
        (schema.rating, saved | fresh | {"revision": 0}),
        (schema.rating, saved | fresh | {"response_time_ms": -1}),
        (schema.rating, saved | fresh | {"trial_id": 10_000}),  # no such trial
        (schema.mark, marked | {"rating_id": 10_000}),
        (schema.mark, marked | {"x": 0.5}),  # reaches outside
        (schema.mark, marked | {"width": 0.0}),
        (schema.mark, marked | {"shape": "star"}),
        (schema.presentation, shown | {"token": "new"}),  # the role is taken
    ]
    for table, row in wrong:
        with pytest.raises(IntegrityError), store.engine.begin() as connection:
            connection.execute(sa.insert(table).values(**row))
    with store.engine.begin() as connection:  # and the same row is fine where nothing is wrong
        connection.execute(sa.insert(schema.rating).values(**(saved | fresh)))


def test_times_need_a_zone_and_come_back_in_utc(store) -> None:
    session = begin(store)
    trial = trials(store, session)[0]
    with pytest.raises(sa.exc.StatementError, match="time zone"):
        vote(store, session, answer(trial, presented_at=NOW.replace(tzinfo=None)))
    eastern = NOW.astimezone(timezone(timedelta(hours=-5)))
    vote(store, session, answer(trial, presented_at=eastern))
    assert store.ratings("pairs")["presented_at"].iloc[0].isoformat() == NOW.isoformat()


# Frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["pairs", "marks"])
def test_frames_have_the_promised_columns_even_when_empty(store, study: str) -> None:
    expected = [*RATING_COLUMNS, *METHOD_COLUMNS[store.study(study).method]]
    assert list(store.ratings(study).columns) == expected
    assert store.ratings(study).empty
    progress = store.progress(store.study(study))
    assert (progress.observers, progress.ratings, progress.last_rating_at) == (0, 0, None)
    session = begin(store, study)
    vote(store, session, answer(trials(store, session)[0]))
    assert list(store.ratings(study).columns) == expected


def test_pair_ratings_tell_what_was_on_which_side(store) -> None:
    session = begin(store)
    shown = store.shown(session)
    for trial in trials(store, session):
        vote(store, session, answer(trial))
    frame = store.ratings("pairs")
    for trial, row in zip(trials(store, session), frame.to_dict("records"), strict=True):
        assert (row["content"], row["left"]) == shown[trial.images["left"]][:2]
        assert (row["content"], row["right"]) == shown[trial.images["right"]][:2]
    (repeat,) = frame[frame["kind"] == "repeat"].to_dict("records")
    (first,) = frame[frame["trial"] == repeat["repeat_of"]].to_dict("records")
    assert (first["left"], first["right"]) == (repeat["right"], repeat["left"])
    assert frame["kind"].tolist()[0] == "practice"
    assert not frame["simulated"].any()
    progress = store.progress(store.study("pairs"))
    assert (progress.finished, progress.rated_trials, progress.repeats) == (1, 8, 1)
    assert progress.repeats_alike == 0  # always left: never the same image again
    assert progress.by_unit["trials"].sum() == 6


def test_progress_counts_what_was_judged_and_skips_that_still_stand(store) -> None:
    session = begin(store)
    shown = trials(store, session)
    reason = "I cannot judge this one"
    for trial in shown[:-1]:
        vote(store, session, answer(trial, value="skip", reason=reason))
    vote(store, session, answer(shown[-2], 1, value="left", revision=2))
    vote(store, session, answer(shown[-1], value="skip", reason=reason))
    frame = store.ratings("pairs")
    judged = frame[(frame["choice"] == "left") & (frame["kind"] == "test")]
    progress = store.progress(store.study("pairs"))
    assert (progress.ratings, progress.skips, progress.rated_trials) == (9, 7, 8)
    assert progress.by_unit["trials"].sum() == len(judged)
    assert progress.repeats == 0  # skipped twice is not consistent


def test_columns_have_one_type_with_rows_and_without(store) -> None:
    def numbers(frame: pd.DataFrame) -> pd.Series:
        return frame.dtypes[[kind not in ("object", "str") for kind in frame.dtypes]]

    study = store.study("marks")
    tables = (store.ratings, store.observers, store.sessions, store.events, store.looks)
    empty = [numbers(table(study)) for table in tables]
    session = begin(store, "marks")
    vote(store, session, answer(trials(store, session)[0]))
    store.log(session, [("zoom", NOW, None, {"scale": 2})])
    store.look(study, "export")
    for before, table in zip(empty, tables, strict=True):
        pd.testing.assert_series_equal(before, numbers(table(study)))


def test_artifact_ratings_none_marks_and_skips(store) -> None:
    session = begin(store, "marks")
    one, two, three, four = trials(store, session)[:4]
    vote(store, session, answer(one))
    marks = (Mark("bleeding", 3, 0.1, 0.1, 0.2, 0.2), Mark("other", 1, 0, 0, 1, 1, note="odd"))
    vote(store, session, answer(two, value="marks", marks=marks))
    vote(store, session, answer(three, value="skip", reason="I cannot judge this one"))
    vote(store, session, answer(four))
    vote(
        store, session, answer(four, 1, value="skip", reason="I cannot judge this one", revision=2)
    )
    frame = store.ratings("marks")
    assert frame["artifact"].isna().tolist() == [True, False, False]
    assert frame["artifact"].tolist()[1:] == ["bleeding", "other"]
    assert frame["severity"].tolist()[1:] == [3, 1]
    assert frame["shape"].tolist()[1:] == ["rectangle", "rectangle"]
    notes = store.notes(store.study("marks"))
    assert notes["note"].dropna().tolist() == ["odd"]
    assert notes["reason"].dropna().tolist() == ["I cannot judge this one"] * 2
    assert store.progress(store.study("marks")).skips == 2


def test_events_are_logged_with_their_trial(store) -> None:
    session, other = begin(store), begin(store, client="client-0000000002")
    trial = trials(store, session)[0]
    store.log(session, [("focus_lost", NOW, None, None), ("zoom", NOW, trial.token, {"x": 2})])
    with pytest.raises(NotFound):
        store.log(other, [("zoom", NOW, None, None), ("zoom", NOW, trial.token, None)])
    events = store.events(store.study("pairs"))
    assert events["name"].tolist() == ["focus_lost", "zoom"]
    assert events["trial"].isna().tolist() == [True, False]
    assert events["data"].tolist()[1] == {"x": 2}


def test_looks_are_logged(store) -> None:
    study = store.study("pairs")
    store.look(study, "ranking")
    assert store.looks(study)["what"].tolist() == ["ranking"]


def test_a_batch_is_all_or_nothing(store) -> None:
    session = begin(store)
    one, two = trials(store, session)[:2]

    def fail() -> None:
        with store.batch():
            vote(store, session, answer(one))
            vote(store, session, answer(two, revision=5))

    with pytest.raises(Conflict):
        fail()
    assert store.ratings("pairs").empty
    with store.batch():
        vote(store, session, answer(one))
        assert len(store.ratings("pairs")) == 1
    assert len(store.ratings("pairs")) == 1


# Observers -------------------------------------------------------------------------------------


def test_a_session_that_goes_on_keeps_its_reservation(store) -> None:
    study = store.study("pairs")
    first = join(store, study, "client-0000000001", consent_version="1", now=NOW)
    session = store.session(first.token)
    later = NOW + timedelta(hours=2)
    given = answer(trials(store, session)[0])
    rate(store, session, protocol_of(study), given, now=later)
    second = join(store, study, "client-0000000002", consent_version="1", now=later)
    assert not cells_of(store, first.token) & cells_of(store, second.token)


def test_crowd_workers_and_invitations_on_every_database(store) -> None:
    study = store.study("pairs")
    code = store.add_invite(study, "two people", group="expert", max_uses=2).code

    def enter(n: int, **more: object) -> str:
        try:
            return str(join(store, study, f"client-{n:010d}", consent_version="1", **more).created)
        except Conflict as error:
            return error.code

    worker = {"platform": "prolific", "worker": "W1"}
    assert [enter(1, crowd=worker), enter(1, crowd=worker)] == ["True", "False"]
    assert [enter(2, crowd=worker), enter(3)] == ["crowd", "True"]
    with ThreadPoolExecutor(4) as pool:
        entered = list(pool.map(lambda n: enter(n, invite=code), range(4, 10)))
    assert sorted(entered) == ["True"] * 2 + ["invite"] * 4
    assert store.invite(study, code).uses == 2
    assert store.observers(study)["group"].value_counts()["expert"] == 2


def test_what_a_withdrawal_erases_is_in_no_table_and_no_file(store, filled: str) -> None:
    study = store.study("marks")
    session = begin(store, "marks")
    secret = "a-sentence-that-nobody-else-wrote"
    mark = Mark("other", 2, 0.1, 0.2, 0.3, 0.4, note=secret)
    trial = trials(store, session)[0]
    vote(store, session, answer(trial, value="marks", marks=(mark,)))
    store.log(session, [("zoom", NOW, None, {"note": secret})])
    stayed = begin(store, "marks", "client-0000000002")
    vote(store, stayed, answer(trials(store, stayed)[0]))
    name = store.observers(study)["observer"].iloc[0]
    store.withdraw(store.observer_id(study, name))
    with pytest.raises(InputError, match="has withdrawn already"):
        store.observer_id(study, name)
    with pytest.raises(InputError, match="no such observer"):
        store.observer_id(study, "o-nobody")
    assert len(store.ratings(study)) == 1  # the other's
    assert store.observers(study)["withdrawn_at"].notna().tolist() == [True, False]
    assert len(store.sessions(study)) == 2
    with pytest.raises(NotFound):
        vote(store, session, answer(trial, 7))  # it was on its way
    if filled.startswith("sqlite"):
        file = Path(filled.removeprefix("sqlite:///"))
        bytes_ = b"".join(one.read_bytes() for one in file.parent.glob(f"{file.name}*"))
        assert secret.encode() not in bytes_


def test_what_a_withdrawn_observer_had_reserved_is_free(store) -> None:
    study = store.study("pairs")
    first = join(store, study, "client-0000000001", consent_version="1", now=NOW)
    cells = cells_of(store, first.token)
    store.withdraw(store.session(first.token).observer_id)
    second = join(store, study, "client-0000000002", consent_version="1", now=NOW)
    third = join(store, study, "client-0000000003", consent_version="1", now=NOW)
    assert cells_of(store, second.token) | cells_of(store, third.token) >= cells


def test_a_sitting_ends_with_a_long_pause() -> None:
    protocol = tiny_protocol(session_minutes=20)
    minute = timedelta(minutes=1)

    class Answers:
        times: ClassVar = [NOW + k * minute for k in (1, 5, 12)]

        def rated_at(self, _: object) -> list[datetime]:
            return self.times

    session = Session(1, 1, 1, "open", ("realism",), None, None, 8, "public", NOW)

    def left(minutes: float) -> int | None:
        now = NOW + minutes * minute
        return seconds_left(Answers(), session, protocol, now=now)  # type: ignore[arg-type]

    assert [left(k) for k in (12, 15, 20, 30)] == [8 * 60, 5 * 60, 0, 0]
    assert left(43) == 20 * 60  # half an hour later: a new sitting
    assert seconds_left(Answers(), session, tiny_protocol()) is None  # type: ignore[arg-type]


def test_progress_is_what_counting_the_frames_gives(store, run) -> None:
    protocol = tiny_protocol(trials=8, practice=1, repeats=3, identical=2)
    study = create_study(run, protocol, store, "counted", stimuli=run.root.parent / "stimuli")
    rng = np.random.default_rng(5)
    reason = "I cannot judge this one"
    for n in range(4):
        session = begin(store, "counted", f"client-{n:010d}")
        for trial in trials(store, session)[: 14 - 2 * n]:
            again = trial.position < session.trials and rng.random() < 0.3
            for revision in range(1, 3 if again else 2):
                value = str(rng.choice(["left", "right", "tie", "skip"]))
                given = answer(trial, revision, value=value, revision=revision,
                               reason=reason if value == "skip" else None,
                               response_time_ms=float(rng.integers(300, 5000)))  # fmt: skip
                vote(store, session, given)
    frame, progress = store.ratings(study), store.progress(study)
    last = frame.sort_values("revision").drop_duplicates(["trial"], keep="last")
    judged = last[last["choice"] != "skip"].set_index("trial")
    assert progress.ratings == len(frame)
    assert progress.rated_trials == frame["trial"].nunique()
    assert progress.skips == (last["choice"] == "skip").sum()
    assert progress.median_response_time_ms == frame["response_time_ms"].median()
    assert progress.last_rating_at == frame["rated_at"].max()
    assert (progress.observers, progress.sessions, progress.active) == (4, 4, 3)
    assert progress.finished == 1
    mirror = {"left": "right", "right": "left", "tie": "tie"}
    again = judged[judged["kind"] == "repeat"]
    again = again[again["repeat_of"].isin(judged.index)]
    first = judged["choice"].loc[again["repeat_of"]].to_numpy()
    assert progress.repeats == len(again) > 0
    assert progress.repeats_alike == (again["choice"].map(mirror).to_numpy() == first).sum()
    tests = judged[judged["kind"] == "test"]
    pairs = Counter(tuple(sorted(pair)) for pair in zip(tests["left"], tests["right"], strict=True))
    assert {(one.left, one.right): one.trials for one in progress.by_unit.itertuples()} == pairs
    votes = store.votes(study, "realism")
    assert votes["count"].sum() == len(tests)
    counted = tests.groupby(["left", "right", "choice"]).size()
    assert votes.set_index(["left", "right", "choice"])["count"].to_dict() == counted.to_dict()


def test_a_gold_that_everyone_sound_misses_is_shown_no_more(store, run) -> None:
    protocol = tiny_protocol(trials=2, practice=0, repeats=0, golds=6)
    study = create_study(run, protocol, store, "golds", stimuli=run.root.parent / "stimuli")
    bad = int(store.stimuli(study).query("role == 'gold'")["id"].iloc[0])
    for n in range(12):
        session = begin(store, "golds", f"client-{n:010d}")
        with store.engine.connect() as connection:
            rows = connection.execute(
                sa.select(schema.trial.c.token, schema.trial.c.expected, schema.stimulus.c.id)
                .select_from(schema.trial.join(schema.presentation).join(schema.stimulus))
                .where(schema.trial.c.session_id == session.id, schema.stimulus.c.role == "gold")
            ).all()
        golds = {row.token: (row.expected, row.id) for row in rows}
        other = {"left": "right", "right": "left"}
        for trial in trials(store, session):
            expected, gold = golds.get(trial.token, ("left", None))
            value = other[expected] if gold == bad else expected
            vote(store, session, answer(trial, value=value))
    assert store.stimuli(study).query("retired")["id"].tolist() == [bad]
    told = store.progress(study).golds
    assert sum(n for (expected, given), n in told.items() if expected != given) >= 2
    begin(store, "golds", "client-of-a-late-one")
    last = store.gold_answers(study, "realism")
    assert bad in set(last["stimulus"])  # what was answered stays
    store.retire({bad: "for another reason"})
    with store.engine.connect() as connection:
        query = sa.select(schema.stimulus.c.retired_reason).where(schema.stimulus.c.id == bad)
        assert "who passed all their other golds" in connection.scalar(query)


def test_results_wait_for_the_end_or_for_the_rule(store, run) -> None:
    folder = run.root.parent / "stimuli"
    studies = {
        name: create_study(
            run, tiny_protocol(tables=f"[stopping]\n{rule}\n", trials=12, practice=0, repeats=0),
            store, name, stimuli=folder,
        )
        for name, rule in {"never": "", "votes": "votes = 8", "narrow": "half_width = 9.0"}.items()
    }  # fmt: skip
    for name, study in studies.items():
        assert not may_look(store, study)
        for n in range(2):
            session = begin(store, name, f"client-{n:010d}")
            for k, trial in enumerate(trials(store, session)):
                vote(store, session, answer(trial, value="left" if k % 2 else "right"))
            # One person's votes say nothing of other people, however many they are.
            assert n or not may_look(store, studies["narrow"])
    assert {name: may_look(store, study) for name, study in studies.items()} == {
        "never": False, "votes": True, "narrow": True,
    }  # fmt: skip
    assert may_look(store, store.set_state("never", "closed"))


# Backup ----------------------------------------------------------------------------------------


def test_a_backup_is_whole_while_people_vote(template, tmp_path) -> None:
    shutil.copy(template, tmp_path / "live.db")
    with open_store(tmp_path / "live.db") as store, ThreadPoolExecutor(2) as pool:
        session = begin(store)
        everything = trials(store, session)
        vote(store, session, answer(everything[0]))
        writing = [pool.submit(vote, store, session, answer(one)) for one in everything[1:]]
        store.backup(tmp_path / "copy.db")
        assert all(one.result() for one in writing)
        with pytest.raises(InputError, match="there already"):
            store.backup(tmp_path / "copy.db")
    assert sorted(file.name for file in tmp_path.iterdir() if "copy" in file.name) == ["copy.db"]
    with open_store(tmp_path / "copy.db") as copy:
        saved = copy.ratings("pairs")["response_id"].tolist()
        assert 1 <= len(saved) <= len(everything)
        given = copy.session(join(copy, copy.study("pairs"), "client-0000000001",
                                  consent_version="1").token)  # fmt: skip
        assert copy.answered_up_to(given) >= 1


def test_a_server_makes_its_own_backups(store, filled: str, tmp_path) -> None:
    if filled.startswith("postgresql"):
        with pytest.raises(InputError, match="pg_dump"):
            store.backup(tmp_path / "copy.db")
        assert not (tmp_path / "copy.db").exists()


# Durability ------------------------------------------------------------------------------------

WRITER = """
import json, sys
from datetime import UTC, datetime
from percept.store import open_store
from percept.store.store import Answer
url, token = sys.argv[1:]
store = open_store(url)
session = store.session(token)
for trial in store.trials(session, 0, 1000):
    given = Answer(f"killed-{trial.position:04d}", trial.token, "realism", "left", 1.0,
                   datetime.now(UTC))
    store.rate(session, given)
    print(given.response_id, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("after", [1, 3])
def test_what_was_acknowledged_survives_a_kill(store, filled: str, after: int) -> None:
    token = join(store, store.study("pairs"), "client-0000000001", consent_version="1").token
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, filled, token],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    acknowledged = []
    for _ in range(after):
        acknowledged.append(writer.stdout.readline().strip())
        if len(acknowledged) < after:
            writer.stdin.write("\n")
            writer.stdin.flush()
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    with open_store(filled) as reader:
        assert reader.ratings("pairs")["response_id"].tolist() == acknowledged
        session = reader.session(token)
        assert reader.answered_up_to(session) == after
        for trial in reader.trials(session, after, 1000):  # and the session can be finished
            vote(reader, session, answer(trial))
        assert reader.session(token).completion is not None


# Studies ---------------------------------------------------------------------------------------


def test_images_of_a_token_are_the_rendered_file(store, run) -> None:
    session = begin(store)
    token = trials(store, session)[0].images["left"]
    file = store.stimulus_file(token)
    assert file.parent == run.root.parent / "stimuli"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == file.stem
    with pytest.raises(NotFound):
        store.stimulus_file("../../etc/passwd")


def test_tokens_are_of_one_session_and_one_trial(store) -> None:
    sessions = [begin(store, client=f"client-{n:010d}") for n in range(3)]
    tokens = [
        token
        for session in sessions
        for trial in trials(store, session)
        for token in (trial.token, *trial.images.values())
    ]
    assert len(tokens) == len(set(tokens)) == 3 * 8 * 4
    assert all(len(token) >= 22 for token in tokens)  # 128 bits


def test_an_unknown_study_is_told_with_those_there_are(store) -> None:
    with pytest.raises(InputError, match="'pairs'"):
        store.study("missing")
    assert json.loads(json.dumps(store.study("pairs").info))["left_out"] == {}
    assert "secret" not in repr(store.study("pairs"))
