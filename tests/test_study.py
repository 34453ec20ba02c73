from __future__ import annotations

import errno
import json
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sqlalchemy.exc import OperationalError

from percept import stimuli
from percept.cli import main
from percept.errors import InputError, Interrupted
from percept.inference.run import Run, open_run
from percept.protocol import load_protocol
from percept.store import Store, open_store
from percept.store.store import Answer, Mark, Session
from percept.study import (
    create_study,
    export_study,
    join,
    protocol_of,
    rate,
    session_length,
    simulate,
)
from tests.tiny_run import make_run, tiny_protocol

PAIRS = tiny_protocol(trials=8, practice=1, repeats=2)
MARKS = tiny_protocol("artifact", trials=6, practice=1, repeats=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "study.db", create=True) as store:
        yield store


# Creating --------------------------------------------------------------------------------------


def test_a_study_freezes_protocol_conditions_and_photographs(store, run, tmp_path) -> None:
    study = create_study(run, PAIRS, store, "one")
    assert protocol_of(study) == PAIRS
    assert (study.protocol, study.protocol_sha256) == (PAIRS.text, PAIRS.sha256)
    assert study.run_path == str(run.root)
    assert store.conditions(study)["condition"].tolist() == ["warm", "cold", "gray"]
    contents = store.contents(study)
    assert contents["content_id"].tolist() == [f"photo{n}" for n in range(4)]
    assert contents["era"].tolist() == ["1900s", "1930s"] * 2
    stimuli = store.stimuli(study)
    assert stimuli["role"].value_counts().to_dict() == {"test": 12, "original": 4}
    folder = tmp_path / "study-stimuli"
    assert {f"{sha}.png" for sha in stimuli["sha256"]} == {f.name for f in folder.iterdir()}
    assert session_length(store, study) == 11


def test_database_and_images_move_together(store, run, tmp_path) -> None:
    study = create_study(run, PAIRS, store, "one")
    session = store.session(join(store, study, "client-0000000001", consent_version="1").token)
    token = store.trials(session, 0, 1)[0].images["left"]
    store.close()
    (tmp_path / "elsewhere").mkdir()
    for name in ("study.db", "study-stimuli"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    with open_store(tmp_path / "elsewhere" / "study.db") as moved:
        assert moved.stimulus_file(token).is_file()


def test_a_name_is_used_once_unless_it_is_the_same_study(store, run) -> None:
    first = create_study(run, PAIRS, store, "one")
    with pytest.raises(InputError, match="exists"):
        create_study(run, PAIRS, store, "one")
    assert create_study(run, PAIRS, store, "one", exist_ok=True) == first
    with pytest.raises(InputError, match="another run or protocol"):
        create_study(run, MARKS, store, "one", exist_ok=True)
    create_study(run, PAIRS, store, "a-copy")
    assert [study.name for study in store.studies()] == ["one", "a-copy"]


@pytest.mark.parametrize("name", ["", "a b", "../x", "é", "x" * 101, "-rf"])
def test_names_that_make_no_link_are_refused(store, run, name: str) -> None:
    with pytest.raises(InputError, match="not a name for a study"):
        create_study(run, PAIRS, store, name)


def test_one_condition_makes_no_pairs_but_can_be_searched_for_artifacts(store, run) -> None:
    with pytest.raises(InputError, match="pairs need two conditions"):
        create_study(run, PAIRS, store, "one", conditions=["warm"])
    study = create_study(run, MARKS, store, "one", conditions=["warm"])
    assert store.conditions(study)["condition"].tolist() == ["warm"]


@pytest.mark.parametrize("step", ["rendering", "saving"])
def test_a_full_disk_is_exit_3_and_leaves_nothing(run, tmp_path, monkeypatch, capsys, step) -> None:
    def full(*_: object, **__: object) -> None:
        if step == "saving":
            raise OperationalError("INSERT", {}, Exception("database or disk is full"))
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "saving":
        monkeypatch.setattr(Store, "add_study", full)
    else:
        monkeypatch.setattr(stimuli, "write_bytes_atomic", full)
    argv = ["study", "create", str(run.root), "--protocol", "pairwise", "--name", "one"]
    assert main([*argv, "--db", str(tmp_path / "study.db")]) == 3
    assert "full" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_studies_made_at_once_on_one_new_database_keep_what_they_need(run, tmp_path) -> None:
    """One fails while the other renders: neither database nor images may go."""
    url = str(tmp_path / "study.db")

    def give_up(*_: object) -> None:
        raise KeyboardInterrupt

    first = open_store(url, create=True)

    def meanwhile(done: int, total: int) -> None:
        if done < total:
            return
        other = open_store(url, create=True)
        with pytest.raises(KeyboardInterrupt):
            create_study(run, MARKS, first, "fails", progress=give_up)
        first.discard()
        assert not Path(url).exists()  # it held no study yet
        other.discard()

    with open_store(url, create=True) as store:
        study = create_study(run, PAIRS, store, "stays", progress=meanwhile)
        assert len(store.stimuli(study)) == 16
    with open_store(url, create=True) as second:
        second._database = replace(second._database, created=True)
        with pytest.raises(KeyboardInterrupt):
            create_study(run, PAIRS, second, "fails-too", progress=give_up)
        second.discard()
    with open_store(url) as store:
        (study,) = store.studies()
        files = {file.name for file in store.stimuli_folder(study).iterdir()}
        assert files == {f"{sha256}.png" for sha256 in store.stimuli(study)["sha256"]}


def test_a_true_image_is_needed_where_it_is_shown(store, run) -> None:
    for name in ("rating-dcr", "real-or-fake"):
        with pytest.raises(InputError, match="needs the condition 'reference'"):
            create_study(run, tiny_protocol(name), store, "one")
    assert store.studies() == []


def test_commands_that_run_a_study(run, tmp_path, capsys) -> None:
    url = str(tmp_path / "study.db")
    with open_store(url, create=True) as store:
        study = create_study(run, PAIRS, store, "one")
    here = ["--db", url, "--study", "one"]

    def command(*argv: str, code: int = 0) -> str:
        assert main(["study", *argv]) == code
        told = capsys.readouterr()
        return told.err if code else told.out

    assert "is paused" in command("pause", *here)
    assert "is open" in command("open", *here)
    made = command("invite", *here, "--label", "lab", "--group", "expert", "--count", "2")
    codes = re.findall(r"^/\?study=one&invite=(\S+)  lab [12]$", made, flags=re.M)
    assert len(codes) == 2
    assert "no such group" in command("invite", *here, "--label", "x", "--group", "no", code=2)
    assert codes[0] in command("invite", *here, "--revoke", codes[0])
    listed = command("invite", *here)
    assert "revoked" in listed
    assert "0 of 1" in listed
    assert "not valid" not in command("invite", *here, "--revoke", codes[0])
    assert "no such invitation" in command("invite", *here, "--revoke", "guess", code=2)
    with open_store(url) as store:
        join(store, study, "client-0000000001", consent_version="1", invite=codes[1])
        (name,) = store.observers(study)["observer"]
    assert "still hold the answers" in command("withdraw", *here, "--observer", name)
    assert "withdrawn already" in command("withdraw", *here, "--observer", name, code=2)
    assert "display images" in command("backup", "--db", url, "--out", str(tmp_path / "b.db"))
    assert "there already" in command(
        "backup", "--db", url, "--out", str(tmp_path / "b.db"), code=2
    )
    assert "is closed" in command("close", *here)
    status = command("status", "--db", str(tmp_path / "b.db"))
    assert "1, of them 0 simulated, 1 withdrawn" in status


def test_a_disk_that_fills_while_simulating_is_exit_3_and_resumes(
    run, tmp_path, monkeypatch, capsys
) -> None:
    url = str(tmp_path / "study.db")
    with open_store(url, create=True) as store:
        create_study(run, PAIRS, store, "one")
    argv = ["study", "simulate", "--db", url, "--study", "one", "--observers", "3"]
    save = Store.rate

    def full(self: Store, of: Session, *rest: object, **options: object) -> bool:
        if of.id == 2:
            raise OperationalError("INSERT", {}, Exception("database or disk is full"))
        return save(self, of, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "rate", full)
        assert main(argv) == 3
    assert "full" in capsys.readouterr().err
    assert main(argv) == 0
    with open_store(url) as store:
        sessions = store.sessions(store.study("one"))
    assert len(sessions) == 3
    assert sessions["finished_at"].notna().all()


# Simulating ------------------------------------------------------------------------------------


def simulated(tmp_path: Path, run: Run, name: str, seed: int, protocol=PAIRS) -> pd.DataFrame:
    with open_store(tmp_path / f"{name}.db", create=True) as store:
        study = create_study(run, protocol, store, "study")
        assert simulate(store, study, 6, seed=seed) == 6
        return store.ratings(study)


@pytest.mark.parametrize("protocol", [PAIRS, MARKS], ids=["pairwise", "artifact"])
def test_the_same_seed_gives_the_same_answers(tmp_path, run, protocol) -> None:
    once, again, other = (
        simulated(tmp_path, run, name, seed, protocol)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    times = ["presented_at", "rated_at"]
    pd.testing.assert_frame_equal(once.drop(columns=times), again.drop(columns=times))
    assert not once.drop(columns=times).equals(other.drop(columns=times))


def test_simulated_observers_are_marked_and_finish(store, run) -> None:
    study = create_study(run, PAIRS, store, "study")
    simulate(store, study, 5, seed=1)
    frame = store.ratings(study)
    assert frame["simulated"].all()
    assert len(frame) == 5 * 11
    assert store.sessions(study)["completion"].notna().all()
    assert (frame["rated_at"] >= frame["presented_at"]).all()
    assert set(frame["group"]) == {"public", "expert"}
    # Again: those who answered are left alone, more can come.
    assert simulate(store, study, 5, seed=1) == 0
    assert simulate(store, study, 7, seed=1) == 2
    assert store.progress(study).simulated == 7


def test_simulated_preferences_are_their_own_and_consistent(store, run) -> None:
    """Grey is worst, and a repeat with swapped sides is mostly answered alike."""
    study = create_study(run, PAIRS, store, "study")
    simulate(store, study, 60, seed=3)
    frame = store.ratings(study).query("kind == 'test' and choice in ['left', 'right']")
    won = frame["left"].where(frame["choice"] == "left", frame["right"])
    lost = frame["right"].where(frame["choice"] == "left", frame["left"])
    against_grey = (won == "gray").sum(), (lost == "gray").sum()
    assert against_grey[0] < against_grey[1] / 1.5
    progress = store.progress(study)
    assert progress.repeats > 115  # some trials are skipped
    assert progress.repeats_alike > 60  # by chance alone about a third would be
    assert 0.4 < (frame["choice"] == "left").mean() < 0.6


def test_simulated_marks_agree_on_where(store, run) -> None:
    study = create_study(run, MARKS, store, "study")
    simulate(store, study, 20, seed=1)
    frame = store.ratings(study).query("kind == 'test'")
    assert frame["artifact"].isna().any()
    marked = frame.dropna(subset=["artifact"])
    assert set(marked["artifact"]) <= {one.name for one in MARKS.artifacts}
    assert ((marked["x"] >= 0) & (marked["x"] + marked["width"] <= 1 + 1e-9)).all()
    # Places are shared between observers: their spread inside a stimulus and kind is small.
    inside = marked.groupby(["content", "condition", "artifact"])["x"].std().dropna()
    assert np.median(inside) < marked["x"].std()


def test_no_simulation_among_real_people(store, run) -> None:
    study = create_study(run, PAIRS, store, "study")
    join(store, study, "client-0000000001", consent_version="1")
    with pytest.raises(InputError, match="real observers"):
        simulate(store, study, 1, seed=1)


# Exporting -------------------------------------------------------------------------------------


def read(file: Path) -> pd.DataFrame:
    if file.suffix == ".csv":
        return pd.read_csv(file)
    return pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_json(file)


@pytest.mark.parametrize("format", ["csv", "parquet", "json"])
@pytest.mark.parametrize("protocol", [PAIRS, MARKS], ids=["pairwise", "artifact"])
def test_an_export_reads_back_as_the_frames(store, run, tmp_path, format, protocol) -> None:
    study = create_study(run, protocol, store, "study")
    simulate(store, study, 3, seed=1)
    out = tmp_path / "out"
    files = export_study(store, study, out, format)
    assert {file.name for file in files} >= {
        f"ratings.{format}",
        f"observers.{format}",
        f"sessions.{format}",
        f"conditions.{format}",
        f"contents.{format}",
        "README.md",
        "protocol.toml",
        "study.json",
    }
    expected, got = store.ratings(study), read(out / f"ratings.{format}")
    assert list(got.columns) == list(expected.columns)
    for column in ("presented_at", "rated_at"):
        got[column] = pd.to_datetime(got[column], utc=True)
    pd.testing.assert_frame_equal(
        got.astype(object).where(got.notna(), None),
        expected.astype(object).where(expected.notna(), None),
        check_dtype=False,
    )
    assert len(read(out / f"contents.{format}")) == 4
    assert tomllib.loads((out / "protocol.toml").read_text()) == tomllib.loads(protocol.text)
    about = json.loads((out / "study.json").read_text())
    assert (about["simulated_observers"], about["method"]) == (3, protocol.method)
    readme = (out / "README.md").read_text()
    assert "simulated" in readme
    assert all(f"`{column}`" in readme for column in expected.columns)


def test_formulas_in_exported_text_are_only_text(store, run, tmp_path) -> None:
    study = create_study(run, MARKS, store, "study")
    session = store.session(join(store, study, "client-0000000001", consent_version="1").token)
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1"]
    formulas += ['fine, "quoted"\nand long']
    marks = tuple(Mark("other", 1, 0, 0, 1, 1, note=note) for note in formulas)
    trial = store.trials(session, 0, 1)[0]
    answer = Answer(
        "response-1", trial.token, "artifacts", "marks", 1.0, study.created_at, marks=marks
    )
    rate(store, session, protocol_of(study), answer)
    export_study(store, study, tmp_path / "out")
    notes = pd.read_csv(tmp_path / "out" / "notes.csv")["note"].tolist()
    assert notes == [f"'{text}" for text in formulas[:8]] + formulas[8:]
    export_study(store, study, tmp_path / "raw", "parquet")
    assert pd.read_parquet(tmp_path / "raw" / "notes.parquet")["note"].tolist() == formulas


def test_an_export_never_mixes_with_what_is_there(store, run, tmp_path) -> None:
    study = create_study(run, PAIRS, store, "study")
    out = tmp_path / "out"
    out.mkdir()
    export_study(store, study, out)  # empty: fine
    with pytest.raises(InputError, match="there already"):
        export_study(store, study, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        export_study(store, study, tmp_path / "file" / "below")
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_an_export_fills_an_empty_folder_in_place(store, run, tmp_path, monkeypatch) -> None:
    """It may be a mount, or the folder that the command was given in."""
    study = create_study(run, PAIRS, store, "study")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    files = export_study(store, study, Path())
    assert Path("ratings.csv") in files
    assert {file.name for file in (tmp_path / "here").iterdir()} == {file.name for file in files}


def test_a_full_disk_while_exporting_is_exit_3_and_leaves_nothing(
    store, run, tmp_path, monkeypatch
) -> None:
    study = create_study(run, PAIRS, store, "study")
    (tmp_path / "empty").mkdir()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("percept.study._write_table", full)
    for out in (tmp_path / "empty", tmp_path / "new"):
        with pytest.raises(Interrupted, match="full"):
            export_study(store, study, out)
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_columns_of_a_parquet_export_have_types_even_where_they_are_empty(
    store, run, tmp_path
) -> None:
    study = create_study(run, PAIRS, store, "study")
    export_study(store, study, tmp_path / "empty", "parquet")
    simulate(store, study, 2, seed=1)
    export_study(store, study, tmp_path / "full", "parquet")
    for file in (tmp_path / "full").glob("*.parquet"):
        schema = pq.read_schema(file)
        assert not [field.name for field in schema if pa.types.is_null(field.type)], file.name
        kinds = [pa.types.is_large_string, pa.types.is_string]  # both are text
        other = pq.read_schema(tmp_path / "empty" / file.name)
        for one, two in zip(schema, other, strict=True):
            texts = [any(is_(field.type) for is_ in kinds) for field in (one, two)]
            assert all(texts) or one.type == two.type, (file.name, one, two)


# The command line ------------------------------------------------------------------------------


def test_the_commands_from_creation_to_export(run, tmp_path, capsys) -> None:
    db = f"sqlite:///{tmp_path}/study.db"
    create = ["study", "create", str(run.root), "--protocol", "pairwise", "--db", db]
    assert main([*create, "--name", "one", "--condition", "warm", "cold"]) == 0
    out = capsys.readouterr().out
    assert "4 photographs, 2 conditions (warm, cold)" in out
    assert "(38 asked for; there are no more different ones)" in out
    assert main(["study", "simulate", "--db", db, "--study", "one", "--observers", "2"]) == 0
    assert "2 simulated observers joined one" in capsys.readouterr().out
    assert main(["study", "list", "--db", db]) == 0
    assert "2 (simulated)" in capsys.readouterr().out
    assert main(["study", "status", "--db", db]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 finished" in out
    assert re.search(r"repeats +\d of \d answered alike", out)
    assert "cold  warm" in out
    target = tmp_path / "export"
    assert main(["study", "export", "--db", db, "--study", "one", "--out", str(target)]) == 0
    assert str(target / "ratings.csv") in capsys.readouterr().out


PLAN = ["study", "plan", "--protocol", "pairwise", "--effect", "1.2", "--simulations", "8"]


def test_a_plan_answers_from_the_protocol_and_draws(tmp_path, capsys) -> None:
    file = tmp_path / "plan.svg"
    argv = [*PLAN, "--conditions", "2", "--contents", "12", "--out", str(file)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "2 conditions, 12 photographs, 12 trials each, 15% ties" in out  # 12 pairs, not 30
    count = re.search(r"^(\d+) observers \((\d+) trials\) reach a power of 80%$", out, re.M)
    assert count is not None
    assert int(count[2]) == 12 * int(count[1])
    drawing = ElementTree.fromstring(file.read_text())
    assert f"{count[1]} observers suffice" in drawing.attrib["aria-label"]
    assert main(argv) == 0
    assert capsys.readouterr().out == out
    wide = [*PLAN, "--half-width", "0.01", "--observers", "4", "8"]
    assert main(wide) == 0
    assert "not reached: ±0.01 JOD" in capsys.readouterr().out


def test_a_pilot_gives_what_is_not_given(run, tmp_path, capsys) -> None:
    db = f"sqlite:///{tmp_path}/pilot.db"
    create = ["study", "create", str(run.root), "--protocol", "pairwise", "--db", db]
    assert main([*create, "--name", "pilot"]) == 0
    assert main(["study", "simulate", "--db", db, "--study", "pilot", "--observers", "6"]) == 0
    capsys.readouterr()
    argv = [*PLAN[:4], "--simulations", "4", "--observers", "4", "4", "--pilot", db]
    assert main([*argv, "--study", "pilot", "--content-sd", "0.25"]) == 0
    out = capsys.readouterr().out
    said = re.search(r"pilot \((\d+) votes\): effect ([\d.]+) JOD", out)
    assert said is not None
    assert int(said[1]) > 50
    used = re.search(r"the best is ([\d.]+) JOD", out)
    assert used is not None
    assert float(used[1]) == pytest.approx(float(said[2]), abs=0.006)
    assert main(argv) == 2
    assert "--study" in capsys.readouterr().err
    assert main([*argv, "--study", "pilot", "--attribute", "charm"]) == 2
    assert "It asks realism" in capsys.readouterr().err
    assert main(PLAN[:4]) == 2
    assert "--effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--protocol", "artifact"], "only pairwise"),
        (["--out", "plan.png"], "SVG"),
        (["--out", "/dev/null/plan.svg"], "is a file, not a folder"),
        (["--observers", "8", "4"], "less than min_observers"),
        (["--seed", "-1"], "not be negative"),
        (["--effect", "0"], "No number of observers"),
        (["--ties", "1"], "tie_share"),
    ],
)
def test_a_plan_that_cannot_be_made_is_exit_2(tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert main([*PLAN, *options]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def bad_key(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "rule.toml"
    file.write_text(load_protocol("pairwise").text.replace("tie =", "tei ="))
    return {"protocol": str(file)}


BAD = {
    "unknown key": (bad_key, "key 'tei': unknown key"),
    "no protocol": (lambda _: {"protocol": "nothing"}, "cannot be read"),
    "no run": (lambda path: {"run": str(path)}, "not a run directory"),
    "no folder": (lambda path: {"db": f"{path}/no/a.db"}, "folder does not exist"),
    "a folder": (lambda path: {"db": str(path)}, "cannot be opened: Is a directory"),
    "no folder for images": (lambda _: {"db": "postgresql://x@localhost/y"}, "--stimuli"),
    "odd database": (lambda _: {"db": "oracle+x://a/b"}, "not supported"),
    "negative seed": (lambda _: {"seed": "-1"}, "not a seed"),
    "odd name": (lambda _: {"name": "a/b"}, "not a name"),
    "unknown condition": (lambda _: {"condition": "nobody"}, "'nobody'"),
    "stimuli is a file": (
        lambda path: {"stimuli": str(_touch(path / "a-file"))},
        "display images cannot be made",
    ),
}


def _touch(file: Path) -> Path:
    file.touch()
    return file


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_exit_2_and_leaves_nothing(run, tmp_path, capsys, change, words) -> None:
    options = {
        "run": str(run.root),
        "protocol": "pairwise",
        "db": str(tmp_path / "study.db"),
        "name": "one",
        **change(tmp_path),
    }
    before = set(tmp_path.rglob("*"))
    argv = ["study", "create", options.pop("run")]
    for key, value in options.items():
        argv += [f"--{key}", value]
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert set(tmp_path.rglob("*")) == before


def test_a_photograph_that_a_condition_was_trained_on_is_exit_2(tmp_path, capsys) -> None:
    make_run(tmp_path / "a")
    sha256 = open_run(tmp_path / "a" / "run").manifest["sha256"][1]
    run = make_run(tmp_path / "b", trained_on=[sha256])
    argv = ["study", "create", str(run.root), "--protocol", "pairwise"]
    assert main([*argv, "--db", str(tmp_path / "s.db"), "--name", "one"]) == 2
    assert "photo1 (in warm)" in capsys.readouterr().err
    assert not (tmp_path / "s.db").exists()
    assert not (tmp_path / "s-stimuli").exists()


def test_a_damaged_output_is_exit_2_and_keeps_an_older_database(tmp_path, capsys) -> None:
    run, db = make_run(tmp_path), str(tmp_path / "s.db")
    argv = ["study", "create", str(run.root), "--protocol", "pairwise", "--db", db, "--name"]
    assert main([*argv, "one"]) == 0
    files = set(tmp_path.rglob("*.png"))
    Image.new("RGB", (90, 60)).save(run.image("images/cold/photo3.png"))
    assert main([*argv, "two"]) == 2
    assert "changed after the run" in capsys.readouterr().err
    assert set(tmp_path.rglob("*.png")) == files
    with open_store(db) as store:
        assert [study.name for study in store.studies()] == ["one"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["list"], "there is no database"),
        (["status", "--study", "x"], "there is no database"),
        (["simulate", "--study", "x", "--observers", "3"], "there is no database"),
        (["simulate", "--study", "x", "--observers", "0"], "at least 1"),
        (["export", "--study", "x", "--out", "o"], "there is no database"),
    ],
)
def test_no_database_is_exit_2_everywhere(tmp_path, capsys, monkeypatch, argv, words) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", argv[0], "--db", "missing.db", *argv[1:]]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
