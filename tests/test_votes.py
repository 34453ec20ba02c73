from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from percept import stats
from percept.cli import main
from percept.errors import InputError, InputErrors
from percept.store import open_store
from percept.store.store import Conflict
from percept.study import create_study, export_study, join, protocol_of, session_length
from percept.votes import import_votes, load_mapping
from tests.tiny_run import make_run, tiny_protocol

PAGE = (Path(__file__).parent.parent / "docs" / "import.md").read_text(encoding="utf-8")
PLAIN, HECD_PAIRS, HECD_RATINGS = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.S)
VOTES = """participant,photo,model_a,model_b,answer,when
ann,p1,warm,cold,1,01/05/2026 10:00
ann,p2,warm,cold,2,01/05/2026 10:01
bob,p1,cold,warm,0,
bob,p2,cold,gray,1,02/05/2026 10:01
"""
# Made up, in the layout of HECD.
HECD = """ID,SurNum,Date,File1,Score1,File2,Score2
7,0,18/10/2021 09:28,118020_gt.jpg,5,118020F_1.jpg,4
7,0,18/10/2021 09:28,022090AF_11.jpg,4,022090_gt.jpg,4
8,0,18/10/2021 09:30,118020F_1.jpg,3,118020_gt.jpg,5
"""


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "study.db", create=True) as store:
        yield store


def files(folder: Path, votes: str, mapping: str) -> tuple[Path, Path]:
    (folder / "votes.csv").write_text(votes, encoding="utf-8")
    (folder / "mapping.toml").write_text(mapping, encoding="utf-8")
    return folder / "votes.csv", folder / "mapping.toml"


def test_rows_on_other_conditions_are_left_out_and_counted(store, tmp_path) -> None:
    rule = PLAIN.replace("title = ", 'conditions = ["warm", "cold"]\ntitle = ', 1)
    study, new, left_out = import_votes(store, "two", *files(tmp_path, VOTES, rule))
    assert (new, left_out) == (3, 1)
    assert store.conditions(study)["condition"].tolist() == ["warm", "cold"]
    rule = PLAIN.replace("title = ", 'conditions = ["warm", "blue"]\ntitle = ', 1)
    with pytest.raises(InputError, match="no row shows these conditions"):
        import_votes(store, "none", *files(tmp_path, VOTES, rule))
    rule = PLAIN.replace("title = ", 'conditions = ["warm", "cold", "wram"]\ntitle = ', 1)
    with pytest.raises(InputError, match=r"shows this condition.*wram"):
        import_votes(store, "none", *files(tmp_path, VOTES, rule))
    rule = PLAIN.replace("title = ", 'conditions = "warm"\ntitle = ', 1)
    with pytest.raises(InputError, match="must be a list"):
        import_votes(store, "none", *files(tmp_path, VOTES, rule))


def test_many_rows_with_one_problem_are_told_briefly(store, tmp_path) -> None:
    rows = VOTES.splitlines()
    votes = "\n".join([rows[0], *("ann,p1,warm,cold,9," for _ in range(60))])
    with pytest.raises(InputErrors) as error:
        import_votes(store, "bad", *files(tmp_path, votes, PLAIN))
    assert len(error.value.errors) == 60
    assert len(str(error.value).splitlines()) == 21
    assert str(error.value).endswith("… and 40 more of these, in rows 21–60")


def test_the_documented_mapping_makes_a_study(store, tmp_path) -> None:
    study, new, _ = import_votes(store, "pilot", *files(tmp_path, VOTES, PLAIN))
    assert (study.state, study.method, study.imported, new) == ("closed", "pairwise", True, 4)
    frame = store.ratings(study)
    assert frame["choice"].tolist() == ["left", "right", "tie", "left"]
    assert frame["left"].tolist() == ["warm", "warm", "cold", "cold"]
    assert frame["content"].tolist() == ["p1", "p2", "p1", "p2"]
    assert frame["observer"].nunique() == 2
    assert not frame["observer"].str.contains("ann|bob").any()
    assert frame["response_time_ms"].isna().all()
    assert frame["presented_at"].iloc[0].isoformat() == "2026-05-01T10:00:00+00:00"
    protocol = protocol_of(study)
    assert protocol.attributes[0].question == "Which looks more real?"
    assert (protocol.tie, protocol.title) == (True, "Our pilot of May")
    assert session_length(store, study) >= 1
    progress = store.progress(study)
    assert (progress.observers, progress.ratings, progress.median_response_time_ms) == (2, 4, None)
    assert stats.bradley_terry(frame).n == 4
    assert {file.name for file in export_study(store, study, tmp_path / "out")} >= {"ratings.csv"}
    # The same again is nothing new, and nobody can answer here.
    assert import_votes(store, "pilot", tmp_path / "votes.csv", tmp_path / "mapping.toml")[1] == 0
    assert len(store.ratings(study)) == 4
    with pytest.raises(InputError, match="made elsewhere"):
        store.set_state("pilot", "open")
    with pytest.raises(Conflict):
        join(store, study, "client-0000000001", consent_version="elsewhere")


def test_hecds_layout_as_pairs_and_as_ratings(store, tmp_path) -> None:
    study, *_ = import_votes(store, "pairs", *files(tmp_path, HECD, HECD_PAIRS))
    frame = store.ratings(study)
    assert frame["content"].tolist() == ["118020", "022090", "118020"]
    assert frame["left"].tolist() == ["reference", "AF_11", "F_1"]
    assert frame["right"].tolist() == ["F_1", "reference", "reference"]
    assert frame["choice"].tolist() == ["left", "tie", "right"]
    import_votes(store, "scores", *files(tmp_path, HECD, HECD_RATINGS))
    second = HECD_RATINGS.replace("File1", "File2").replace("Score1", "Score2")
    study, new, _ = import_votes(store, "scores", *files(tmp_path, HECD, second))
    assert new == 3
    frame = store.ratings(study)
    assert frame["observer"].nunique() == 2
    means = frame.groupby("condition")["score"].mean().to_dict()
    assert means == {"AF_11": 4, "F_1": 3.5, "reference": 14 / 3}


def test_a_parquet_table_of_scores(store, tmp_path) -> None:
    table = pd.DataFrame(
        {"who": [1, 1, 2], "photo": ["a", "b", "a"], "model": "m", "score": [4.5, 73.25, None]}
    )
    table.dropna().to_parquet(tmp_path / "votes.parquet")
    mapping = 'method = "rating"\n[columns]\nobserver = "who"\ncontent = "photo"\n'
    mapping += 'condition = "model"\nscore = "score"\n'
    _, rule = files(tmp_path, "", mapping)
    study, new, _ = import_votes(store, "scores", tmp_path / "votes.parquet", rule)
    assert new == 2
    assert store.ratings(study)["score"].tolist() == [4.5, 73.25]
    table.to_parquet(tmp_path / "votes.parquet")
    with pytest.raises(InputError, match="row 3, column 'score': score is empty"):
        import_votes(store, "more", tmp_path / "votes.parquet", rule)


def test_reviews_with_reasons_and_questions_of_one_trial(store, tmp_path) -> None:
    votes = "who,photo,model,verdict,why\na,p,m,fix,people;history\nb,p,m,accept,\n"
    mapping = 'method = "review"\n[columns]\nobserver = "who"\ncontent = "photo"\n'
    mapping += 'condition = "model"\nverdict = "verdict"\nreason = "why"\n'
    study, *_ = import_votes(store, "reviews", *files(tmp_path, votes, mapping))
    (rate,) = stats.review_rates(store.ratings(study))
    assert rate.reasons == {"people": 1, "history": 1}
    assert (rate.accepted.value, rate.fixable.value) == (0.5, 0.5)

    votes = "who,t,ask,photo,a,b,won\nx,1,real,p,m,n,left\nx,1,period,p,m,n,right\n"
    mapping = 'method = "pairwise"\n[columns]\nobserver = "who"\ntrial = "t"\n'
    mapping += 'attribute = "ask"\ncontent = "photo"\nleft = "a"\nright = "b"\nchoice = "won"\n'
    study, *_ = import_votes(store, "both", *files(tmp_path, votes, mapping))
    frame = store.ratings(study)
    assert len(set(frame["trial"])) == 1
    assert frame["attribute"].tolist() == ["real", "period"]
    with pytest.raises(InputErrors) as caught:
        import_votes(store, "x", *files(tmp_path, votes + "x,1,real,p,m,n,tie\nx,1,c,q,m,n,tie\n",
                                        mapping))  # fmt: skip
    assert "answers the same question as row 1" in str(caught.value)
    assert "shows something else than row 1" in str(caught.value)


def test_all_bad_rows_are_told_and_nothing_is_written(tmp_path, capsys) -> None:
    votes = VOTES.replace("ann,p2", ",p2").replace("bob,p1,cold,warm,0", "bob,p1,cold,warm,9")
    votes = votes.replace("02/05/2026 10:01", "yesterday")
    votes_file, mapping = files(tmp_path, votes, PLAIN)
    argv = ["study", "import", "--db", str(tmp_path / "a.db"), "--study", "s"]
    assert main([*argv, "--votes", str(votes_file), "--mapping", str(mapping)]) == 2
    told = capsys.readouterr().err
    assert "row 2, column 'participant': observer is empty" in told
    assert "row 3, column 'answer': choice must be one of left, right, tie, skip (got '9')" in told
    assert "row 4, column 'when': is no time (%d/%m/%Y %H:%M) (got 'yesterday')" in told
    assert not list(tmp_path.glob("a.db*"))


def test_votes_on_a_study_of_ours_name_what_it_shows(store, tmp_path) -> None:
    run = make_run(tmp_path / "made")
    study = create_study(run, tiny_protocol(), store, "ours")
    votes = VOTES.replace("p1", "photo1").replace("p2", "photo2")
    with pytest.raises(InputErrors) as caught:
        import_votes(store, "ours", *files(tmp_path, VOTES + "eve,photo0,hot,cold,1,\n", PLAIN))
    assert "content is not of the study, which has photo0, photo1" in str(caught.value)
    assert "row 5, column 'model_a': left is not of the study, which has warm" in str(caught.value)
    assert store.ratings(study).empty
    _, new, _ = import_votes(store, "ours", *files(tmp_path, votes, PLAIN))
    assert new == len(store.ratings(study)) == 4
    assert len(store.conditions(study)) == 3
    assert len(store.stimuli(study)) == 16
    with pytest.raises(InputError, match="of another method, pairwise"):
        import_votes(store, "ours", *files(tmp_path, HECD, HECD_RATINGS))


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ('"pairwise"', '"artifact"', "method", "cannot be imported"),
        ("method =", "methd =", "methd", "unknown key"),
        ('left = "model_a"', "", "columns.left", "required key is missing"),
        ('left = "model_a"', 'lft = "model_a"', "columns.lft", "unknown key"),
        ('left = "model_a"', "left = 3", "columns.left", "name of a column"),
        ('left = "model_a"', 'left = { colum = "a" }', "columns.left", "'colum'"),
        ('left = "model_a"', "left = { }", "columns.left", "needs one of"),
        ('"model_a"', '{ column = "model_a", pattern = "(" }', "columns.left", "regular"),
        ('"model_a"', '{ higher = ["a", "b"] }', "columns.left", "make a choice"),
        ('"model_a"', '{ column = "a", format = "%d" }', "columns.left", "has a format"),
        ('"0" = "tie"', '"0" = 3', "columns.choice", "table of texts"),
        ("[questions]", "[question]", "question", "unknown key"),
    ],
)
def test_a_mapping_that_is_wrong_names_file_and_key(tmp_path, old, new, key, words) -> None:
    assert old in PLAIN
    _, mapping = files(tmp_path, "", PLAIN.replace(old, new, 1))
    with pytest.raises((InputError, InputErrors)) as caught:
        load_mapping(mapping)
    errors = getattr(caught.value, "errors", (caught.value,))
    assert any(error.key == key and words in str(error) for error in errors), caught.value
    assert all(error.file == mapping for error in errors)


def test_a_column_that_the_table_lacks_is_told_with_those_it_has(store, tmp_path) -> None:
    with pytest.raises(InputError, match="It has participant, photo, first") as caught:
        import_votes(store, "s", *files(tmp_path, VOTES.replace("model_a", "first"), PLAIN))
    assert caught.value.column == "model_a"
    assert store.studies() == []
