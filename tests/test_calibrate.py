"""Panels made of known weights: the model finds them again, and its promises hold."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from percept.calibrate import (
    _another_panel,
    _majority,
    _mean_rank,
    _single_votes,
    add_to_run,
    calibrate,
    doubts,
    fit_model,
    predict,
    read_model,
    write_model,
)
from percept.cli import main
from percept.errors import InputError
from percept.files import write_parquet_atomic
from percept.inference.run import open_run
from percept.metrics.registry import METRICS
from percept.stats import acceptance_sample
from percept.store import open_store
from percept.stretch import check, check_sample, rate_next, triage
from percept.study import create_study, simulate
from tests.tiny_run import make_run, tiny_protocol

DIRECTIONS = {"good": True, "bad": False, "idle": True, "odd": True}
CONDITIONS = ("a", "b", "c", "d", "e")


def world(
    rng: np.random.Generator,
    contents: int,
    *,
    conditions: tuple[str, ...] = CONDITIONS,
    prefix: str = "p",
    unseen: float = 0.3,
    level: float = 2.0,
) -> tuple[pd.DataFrame, pd.Series]:
    """Metrics and true scores: 1.5 good − bad, what no metric sees, and nothing of ``idle``.

    ``level`` moves the metrics of a whole photograph, which says nothing of its conditions.
    """
    index = pd.MultiIndex.from_product([[f"{prefix}{i}" for i in range(contents)], conditions])
    n = len(index)
    shift = level * np.repeat(rng.normal(size=contents), len(conditions))
    good, bad = rng.normal(size=(2, n))
    score = 1.5 * good - bad + unseen * rng.normal(size=n)
    table = pd.DataFrame(
        {"good": good + shift, "bad": 20 + 5 * (bad - shift), "idle": rng.normal(size=n)}, index
    )
    long = table.rename_axis(["content_id", "condition"]).reset_index()
    long = long.melt(["content_id", "condition"], var_name="metric")
    return long, pd.Series(score, index)


def pair_votes(rng: np.random.Generator, score: pd.Series, people: int = 6) -> pd.DataFrame:
    rows = []
    for content, own in score.groupby(level=0):
        names = list(own.index.get_level_values(1))
        for i, left in enumerate(names):
            for right in names[:i]:
                p = 1 / (1 + math.exp(score[content, right] - score[content, left]))
                for person in range(people):
                    choice = "left" if rng.random() < p else "right"
                    rows.append((content, left, right, choice, f"o{person}"))
    return pd.DataFrame(rows, columns=["content", "left", "right", "choice", "observer"])


def reviews(rng: np.random.Generator, score: pd.Series, people: int = 3) -> pd.DataFrame:
    rows = [
        (
            content,
            condition,
            "accept" if rng.random() < 1 / (1 + math.exp(-s)) else "reject",
            f"o{k}",
        )
        for (content, condition), s in score.items()
        for k in range(people)
    ]
    return pd.DataFrame(rows, columns=["content", "condition", "verdict", "observer"])


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(1)
    table, score = world(rng, 24)
    return fit_model(table, pair_votes(rng, score), directions=DIRECTIONS)


def test_the_weights_of_a_made_panel_are_found(fitted) -> None:
    weight = {feature.metric: feature.weight / feature.scale for feature in fitted.features}
    assert weight["good"] == pytest.approx(1.5, rel=0.25)
    assert weight["bad"] / (2 * math.sqrt(20)) == pytest.approx(-1 / 5, rel=0.25), "slope of √bad"
    idle = next(feature for feature in fitted.features if feature.metric == "idle")
    assert abs(idle.weight) < 3 * idle.std_error
    assert fitted.shrink > 0.7
    assert fitted.fitted_on["photographs"] == 24


def test_held_out_it_beats_each_metric_and_other_people_are_above(fitted) -> None:
    worth = {row["predictor"]: row for row in fitted.validation}
    assert worth.keys() == {"model", "good", "bad", "idle", "lookup", "other people"}
    assert worth["good"]["accuracy"] < worth["model"]["accuracy"]
    assert worth["bad"]["accuracy"] < worth["model"]["accuracy"]
    assert worth["idle"]["low"] < 0.5 < worth["idle"]["high"]
    assert worth["model"]["accuracy"] > worth["lookup"]["accuracy"]
    assert worth["other people"]["accuracy"] > 0.7
    assert worth["model"]["low"] < worth["model"]["accuracy"] < worth["model"]["high"]
    assert worth["model"]["votes"] == 24 * 10 * 6
    rank = {name: row["rank"] for name, row in worth.items()}
    assert max(rank["good"], rank["bad"]) < min(rank["model"], rank["other people"])
    assert max(rank.values()) < 1
    assert abs(rank["idle"]) < 0.2
    assert worth["model"]["rank_low"] < rank["model"] < worth["model"]["rank_high"]


def test_no_weight_goes_against_its_metric() -> None:
    """Told the wrong way round, a metric has no weight; one of unknown direction is free."""
    rng = np.random.default_rng(2)
    table, score = world(rng, 24)
    twin = table[table["metric"] == "good"].assign(metric="twin")
    twin["value"] += rng.normal(size=len(twin)) * 0.3
    table = pd.concat([table, twin])
    votes = pair_votes(rng, score)
    wrong = {"good": False, "bad": True}
    weight = {f.metric: f.weight for f in fit_model(table, votes, directions=wrong).features}
    assert weight["good"] == weight["bad"] == 0
    assert weight["twin"] > 0


def test_metrics_made_for_models_are_used_alone_and_compared_with_the_others() -> None:
    rng = np.random.default_rng(2)
    table, score = world(rng, 12)
    votes = pair_votes(rng, score)
    model = fit_model(table, votes, directions=DIRECTIONS, prefer=["good", "absent"])
    assert [feature.metric for feature in model.features] == ["good"]
    assert {"good", "bad", "idle"} < {row["predictor"] for row in model.validation}
    model = fit_model(table, votes, directions=DIRECTIONS, metrics=["bad"], prefer=["good"])
    assert [feature.metric for feature in model.features] == ["bad"]
    assert not any("lack" in warning for warning in model.warnings)
    table = table.drop(table.index[(table["metric"] == "good").to_numpy()][:2])
    model = fit_model(table, votes, directions=DIRECTIONS, prefer=["good", "bad"])
    assert [feature.metric for feature in model.features] == ["bad", "idle"]
    assert model.warnings[0].startswith("2 of 60 judged stimuli lack good, which models are made")
    assert model.warnings[0].endswith("fitted to what all have, bad, idle")


def against_reference(
    rng: np.random.Generator, contents: int, *, prefix: str = "p"
) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame]:
    """Make a world, and votes that all show the reference."""
    table, score = world(rng, contents, conditions=("reference", *CONDITIONS), prefix=prefix)
    return table, score, _with_reference(pair_votes(rng, score))


def _with_reference(votes: pd.DataFrame) -> pd.DataFrame:
    return votes[(votes[["left", "right"]] == "reference").any(axis=1)]


def test_votes_that_all_show_the_reference_are_predicted_without_the_other_condition() -> None:
    """The reference, in every vote, cannot be left out; a code of conditions must not help."""
    rng = np.random.default_rng(3)
    table, score, votes = against_reference(rng, 20)
    model = fit_model(table, votes, directions=DIRECTIONS)
    worth = {row["predictor"]: row for row in model.validation}
    assert model.held_out["log_odds"].notna().all()
    assert worth["model"]["accuracy"] > 0.65
    assert worth["model"]["rank"] > 0.5
    code = {"a": 3.0, "b": 0.0, "c": 4.0, "d": 1.0, "e": 2.0, "reference": 2.5}
    quality = dict(zip(CONDITIONS, (-2.0, -1.0, 0.0, 1.0, 2.0), strict=True)) | {"reference": 0.0}
    score[:] = [quality[condition] for _, condition in score.index]
    odd = table[table["metric"] == "idle"].assign(metric="odd")
    odd["value"] = odd["condition"].map(code) + rng.normal(size=len(odd)) * 0.01
    votes = _with_reference(pair_votes(rng, score))
    model = fit_model(pd.concat([table, odd]), votes, directions={})
    worth = {row["predictor"]: row["accuracy"] for row in model.validation}
    assert worth["lookup"] > 0.7
    assert worth["model"] < 0.6


def test_other_people_are_no_better_where_only_the_reference_differs() -> None:
    """All prefer the reference, and nobody has a taste among the rest: no rank to agree on."""
    rng = np.random.default_rng(12)
    table, score = world(rng, 30, conditions=("reference", *CONDITIONS))
    score[:] = [2.0 if condition == "reference" else 0.0 for _, condition in score.index]
    votes = _with_reference(pair_votes(rng, score))
    best = (table["metric"] == "good") & (table["condition"] == "reference")
    table.loc[best, "value"] = math.inf  # as PSNR is
    model = fit_model(table, votes, directions=DIRECTIONS)
    worth = {row["predictor"]: row for row in model.validation}
    assert worth["other people"]["rank_low"] < 0 < worth["other people"]["rank_high"]
    assert worth["other people"]["accuracy"] == pytest.approx(_others_by_hand(votes), abs=1e-4)
    assert worth["good"]["accuracy"] == pytest.approx(1 / (1 + math.exp(-2)), abs=0.05)
    assert worth["the constant alone"]["accuracy"] == worth["good"]["accuracy"]
    assert any("no better than its constant alone" in doubt for doubt in model.warnings)
    assert worth["good"]["rank_low"] < 0 < worth["good"]["rank_high"]


def _others_by_hand(votes: pd.DataFrame) -> float:
    right = []
    for own in votes.itertuples():
        same = votes[(votes["content"] == own.content) & (votes["left"] == own.left)]
        others = same[(same["right"] == own.right) & (same["observer"] != own.observer)]
        lead = (others["choice"] == own.choice).mean() - 0.5
        right.append(0.5 + 0.5 * np.sign(lead))
    return float(np.mean(right))


def test_other_people_and_ties_and_reviews() -> None:
    votes = pd.DataFrame(
        [("p0", "a", "b", choice, who) for who, choice in enumerate(("left", "left", "tie"))],
        columns=["content", "left", "right", "choice", "observer"],
    )
    # The first is told "left" by left and tie: right. So the second. The tie: half right.
    assert _majority(_single_votes(votes, "pairwise")[0]).value == pytest.approx(2.5 / 3)
    said = pd.DataFrame(
        [("p0", "a", v, who) for who, v in enumerate(("accept", "accept", "reject", "accept"))],
        columns=["content", "condition", "verdict", "observer"],
    )
    assert _majority(_single_votes(said, "review")[0]).value == pytest.approx(3 / 4)
    alone = votes.iloc[:1]
    assert math.isnan(_majority(_single_votes(alone, "pairwise")[0]).value)


def test_a_rank_of_other_people_stays_a_correlation() -> None:
    """Two observers of opposite tastes: -1, which is not stepped up beyond."""
    rng = np.random.default_rng(13)
    _, score = world(rng, 8, conditions=("a", "b", "c"))
    one = pair_votes(rng, 20 * score, people=1)
    other = one.assign(observer="o1", choice=one["choice"].map({"left": "right", "right": "left"}))
    found = _another_panel(_single_votes(pd.concat([one, other]), "pairwise")[0])
    assert found is not None
    assert found.low == found.value == pytest.approx(-1)
    rank = _mean_rank(pd.Series([0.9, -1.0, -1.0], index=["p0", "p1", "p2"]))
    assert rank.low == -1 < rank.value < rank.high <= 1


def test_no_vote_is_predicted_by_a_model_that_saw_its_photograph_or_conditions() -> None:
    """Random metrics, and scores that belong to conditions: the lookup knows, the model cannot."""
    rng = np.random.default_rng(3)
    table, score = world(rng, 20)
    quality = dict(zip(CONDITIONS, (-2.0, -1.0, 0.0, 1.0, 2.0), strict=True))
    score[:] = [quality[condition] for _, condition in score.index]
    # A metric that is the condition's own number tells them apart, and says nothing of quality.
    code = {"a": 3.0, "b": 0.0, "c": 4.0, "d": 1.0, "e": 2.0}
    odd = table[table["metric"] == "idle"].assign(metric="odd")
    odd["value"] = odd["condition"].map(code) + rng.normal(size=len(odd)) * 0.01
    model = fit_model(pd.concat([table, odd]), pair_votes(rng, score), directions=DIRECTIONS)
    worth = {row["predictor"]: row["accuracy"] for row in model.validation}
    assert worth["lookup"] > 0.8
    assert worth["model"] < 0.6


def test_with_three_conditions_none_can_be_left_out_and_it_says_so() -> None:
    rng = np.random.default_rng(4)
    table, score = world(rng, 8, conditions=("a", "b", "c"))
    model = fit_model(table, pair_votes(rng, score), directions=DIRECTIONS)
    assert "only 3 conditions" in model.warnings[0]
    assert "only 8 photographs" in model.warnings[1]
    assert model.held_out["log_odds"].notna().all()


def test_a_model_survives_its_file(fitted, tmp_path: Path) -> None:
    write_model(tmp_path / "m.json", fitted)
    again = read_model(tmp_path / "m.json")
    table, _ = world(np.random.default_rng(5), 3)
    pd.testing.assert_frame_equal(predict(again, table), predict(fitted, table))
    pd.testing.assert_frame_equal(again.held_out, fitted.held_out)
    assert again.features == fitted.features
    (tmp_path / "no.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"no\.json: not a model of percept calibrate"):
        read_model(tmp_path / "no.json")


def test_a_photograph_unlike_those_of_the_fit_is_named(fitted) -> None:
    table, _ = world(np.random.default_rng(5), 2)
    far = (table["content_id"] == "p1") & (table["metric"] == "bad") & (table["condition"] == "c")
    table.loc[far, "value"] = 500.0
    found = predict(fitted, table).set_index(["content", "condition"])
    assert found.loc[("p1", "c"), "outside"] == "bad"
    assert (found.drop(("p1", "c"))["outside"] == "").all()
    missing = table[~far]
    assert ("p1", "c") not in predict(fitted, missing).set_index(["content", "condition"]).index


def test_scores_against_a_common_reference_compare_across_photographs(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    table, _, votes = against_reference(rng, 20)
    model = fit_model(table, votes, directions=DIRECTIONS)
    assert model.against == "reference"
    new, truth, _ = against_reference(rng, 40, prefix="new")
    found = predict(model, new).set_index(["content", "condition"])
    assert (found["relative_to"] == "reference").all()
    found = found["score"]
    assert (found.xs("reference", level=1) == 0).all()
    mean, mean_true = (own.groupby(level=0).mean() for own in (found, truth))
    true = mean_true - truth.xs("reference", level=1)
    assert mean.corr(true) > 0.8  # how far whole photographs lie from their references
    lost = (new["condition"] == "reference") & (new["content_id"] != "new7")
    found = predict(model, new[~lost])
    assert (found["relative_to"] == "reference").equals(found["content"] == "new7")
    means = found.groupby("content")["score"].mean().drop("new7")
    np.testing.assert_allclose(means, 0, atol=1e-12)
    told = "\n".join(doubts(model, found))
    assert "without an image of reference: new0, new1, new10, new11, new12 and 34 more" in told
    # Only scores that are relative to the same become a metric.
    run = make_run(tmp_path, contents=4, conditions=("reference", *CONDITIONS), size=(12, 9))
    names = {f"new{i}": f"photo{i - 6}" for i in range(6, 10)}
    part = new[~lost & new["content_id"].isin(names)]
    run.write_metrics(part.assign(content_id=part["content_id"].map(names)))
    add_to_run(model, run, "")
    own = open_run(run.root).metrics.query("metric == 'calibrated'")
    assert set(own["content_id"]) == {"photo1"}
    skipped = open_run(run.root).info["metrics_skipped"]
    assert skipped == {"calibrated": "no image of reference: 3 photographs"}
    # A reference that has the same metrics everywhere, but for rounding, needs no image: as by
    # full-reference ones.
    for frame in (table, new):
        true = frame["condition"] == "reference"
        frame.loc[true, "value"] = 0.5 + 1e-13 * rng.random(true.sum())
    model = fit_model(table, votes, directions=DIRECTIONS)
    whole, part = (predict(model, frame) for frame in (new, new[~lost]))
    whole = whole[whole["condition"].ne("reference") | whole["content"].eq("new7")]
    pd.testing.assert_frame_equal(part, whole.reset_index(drop=True), atol=1e-9)
    assert not any("without an image" in doubt for doubt in doubts(model, part))


def test_the_lead_of_a_common_reference_is_not_read_into_the_metrics() -> None:
    """All prefer the reference by far, and metrics set it apart by far: that is not their worth."""
    rng = np.random.default_rng(15)
    table, score = world(rng, 40, conditions=("reference", *CONDITIONS), level=0.0)
    true = table["condition"] == "reference"
    for name, value in (("bad", 0.0), ("good", 4.0), ("idle", 8.0)):
        table.loc[true & (table["metric"] == name), "value"] = value
    score[score.index.get_level_values(1) == "reference"] = 2.5
    votes = _with_reference(pair_votes(rng, score))
    model = fit_model(table, votes, directions=DIRECTIONS)
    weight = {feature.metric: feature.weight / feature.scale for feature in model.features}
    assert weight["good"] == pytest.approx(1.5, rel=0.3)
    assert abs(weight["idle"]) < 0.15
    found = predict(model, table).set_index(["content", "condition"])
    assert (found.xs("reference", level=1)[["score", "std_error"]] == [0.0, model.unexplained]).all(
        axis=None
    )
    others = found["score"].drop("reference", level=1)
    share = 1 / (1 + np.exp(-others))
    preferred = 1 / (1 + np.exp(2.5 - score.reindex(others.index)))
    assert share.mean() == pytest.approx(preferred.mean(), abs=0.05)


def test_of_two_conditions_neither_is_the_origin() -> None:
    rng = np.random.default_rng(14)
    table, score = world(rng, 12, conditions=("a", "b"))
    model = fit_model(table, pair_votes(rng, score), directions=DIRECTIONS)
    assert model.against is None
    found = predict(model, table)
    np.testing.assert_allclose(found.groupby("content")["score"].mean(), 0, atol=1e-12)


def test_predicted_uncertainty_covers_new_photographs() -> None:
    """Standardised errors of score differences on 200 new photographs have about unit spread."""
    rng = np.random.default_rng(6)
    table, score = world(rng, 60, unseen=1.0)
    model = fit_model(table, pair_votes(rng, score), directions=DIRECTIONS)
    new, truth = world(rng, 200, prefix="new", unseen=1.0)
    found = predict(model, new).set_index(["content", "condition"])
    truth = truth - truth.groupby(level=0).transform("mean")
    error = (found["score"] - truth.reindex(found.index)) / found["std_error"]
    assert 0.7 < error.std() < 1.4


def test_photographs_to_rate_next_teach_the_model_most(fitted) -> None:
    """Identical conditions teach nothing; known photographs are not chosen again."""
    table, _ = world(np.random.default_rng(7), 6, prefix="new")
    same = table["content_id"] == "new2"
    table.loc[same, "value"] = table[same].groupby("metric")["value"].transform("first")
    chosen = rate_next(fitted, table, 5, rated=["new4"])
    assert set(chosen["content"]) == {"new0", "new1", "new2", "new3", "new5"}
    assert chosen["content"].iloc[-1] == "new2"
    assert chosen["gain"].iloc[-1] == pytest.approx(0, abs=1e-9)
    assert chosen["gain"].is_monotonic_decreasing


def test_the_error_rates_of_triage_hold_on_new_photographs() -> None:
    """Checked by sampling: eight panels, each tried on 300 new photographs."""
    broken, sorted_out = 0, 0
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        table, score = world(rng, 120, unseen=0.5, level=0.0)
        model = fit_model(table, reviews(rng, 2 * score), directions=DIRECTIONS, kind="review")
        new, truth = world(rng, 300, prefix="new", unseen=0.5, level=0.0)
        chance = 1 / (1 + np.exp(-2 * truth))
        result = triage(model, new, error_rate=0.1)
        verdict = result.table.set_index(["content", "condition"])["verdict"]
        for name, wrong in (("fine", 1 - chance), ("bad", chance)):
            own = verdict[verdict == name].index
            broken += len(own) > 0 and wrong.loc[own].mean() > 0.1
            sorted_out += len(own)
        for threshold in (result.fine, result.bad):
            assert threshold.error_rate < threshold.bound
            assert np.isfinite(threshold.score) == (threshold.bound < 0.1)
    assert broken <= 2, "at most one in twenty, of sixteen bounds"
    assert sorted_out > 0.2 * 8 * 300 * 5, "and it saves work"


def test_a_triage_is_checked_by_a_sample_of_what_it_passed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(11)
    table, score = world(rng, 120, unseen=0.2, level=0.0)
    model = fit_model(table, reviews(rng, 2 * score), directions=DIRECTIONS, kind="review")
    run = make_run(tmp_path / "made", contents=60, conditions=CONDITIONS, size=(12, 9))
    new, truth = world(rng, 60, prefix="photo", unseen=0.2, level=0.0)
    run.write_metrics(new)
    rated = set(table["content_id"])
    result = triage(model, new, error_rate=0.15)
    sample = check_sample(result, 0.15, rated=rated, rng=rng)
    counts, lots = sample["sorted"].value_counts(), result.table["verdict"].value_counts()
    for name in ("fine", "bad"):
        assert counts[name] == acceptance_sample(0.15, lot=int(lots[name]))
    assert not sample.duplicated(["content", "condition"]).any()
    keys = pd.MultiIndex.from_frame(sample[["content", "condition"]])
    right = sample.assign(verdict=np.where(sample["sorted"] == "fine", "accept", "reject"))
    for one in check(result, right, rated=rated):
        assert (one.lot, one.n, one.wrong) == (lots[one.sorted], counts[one.sorted], 0)
        assert one.bound < 0.15
    said = sample.assign(verdict=np.where(truth.reindex(keys).to_numpy() > 0, "accept", "fix"))
    everything = truth.reindex(pd.MultiIndex.from_frame(result.table[["content", "condition"]]))
    for one in check(result, said, rated=rated):
        lot = (result.table["verdict"] == one.sorted).to_numpy()
        good = everything.to_numpy()[lot] > 0
        assert ((~good if one.sorted == "fine" else good).mean()) <= one.bound
    assert check_sample(result, rated=new["content_id"], rng=rng).empty
    with pytest.raises(InputError, match="none of the reviews"):
        check(result, said.assign(content="other"), rated=rated)
    with pytest.raises(InputError, match="must be accept, fix or reject"):
        check(result, said.assign(verdict="yes"), rated=rated)

    write_model(tmp_path / "m.json", model)
    command = ["predict", str(run.root), "--model", str(tmp_path / "m.json"), "--error-rate"]
    command += ["0.15", "--out", str(tmp_path)]
    assert main(command) == 0
    assert f"the {len(sample)} images of check.csv" in capsys.readouterr().out
    drawn = pd.read_csv(tmp_path / "check.csv")
    drawn.assign(verdict="accept").to_csv(tmp_path / "said.csv", index=False)
    assert main([*command, "--checked", str(tmp_path / "said.csv")]) == 0
    out = capsys.readouterr().out
    assert f"checked: 0 of {counts['fine']} surely fine images are not, so at most" in out
    assert f"checked: {counts['bad']} of {counts['bad']} surely bad images are not" in out
    assert main([*command, "--checked", str(tmp_path / "absent.csv")]) == 2


def test_the_chance_of_a_triage_is_the_share_that_people_accept() -> None:
    """Most is accepted, by people whom no metric follows well: pulled to that, not to a half."""
    rng = np.random.default_rng(16)
    table, score = world(rng, 6, unseen=3.0, level=0.0)
    said = reviews(rng, score + 2.5, people=2)
    model = fit_model(table, said, directions={}, kind="review")
    assert 0.2 < model.shrink < 0.6
    chance = triage(model, table).table["chance"]
    accepted = (said["verdict"] == "accept").mean()
    assert accepted > 0.7
    assert chance.mean() == pytest.approx(accepted, abs=0.02)


def test_triage_is_of_reviews_and_leaves_strangers_to_people(fitted) -> None:
    rng = np.random.default_rng(8)
    table, score = world(rng, 60, level=0.0)
    with pytest.raises(InputError, match="needs a model of a review study"):
        triage(fitted, table)
    model = fit_model(table, reviews(rng, 2 * score), directions=DIRECTIONS, kind="review")
    table.loc[table["metric"] == "good", "value"] += 100
    assert set(triage(model, table, error_rate=0.1).table["verdict"]) == {"ask"}


@pytest.mark.parametrize("method", ["pairwise", "review"])
def test_the_commands_from_votes_to_predictions(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A simulated study; its model is a metric of a run, and predicts."""
    run = make_run(tmp_path / "made", contents=6, conditions=("warm", "cold", "green", "gray"))
    assert main(["metrics", str(run.root), "--metric", "colorfulness", "luminance_fidelity"]) == 0
    url, model = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "model.json"
    protocol = tiny_protocol(method, trials=9)
    with open_store(url, create=True) as store:
        study = create_study(run, protocol, store, "panel")
        simulate(store, study, 8, seed=1)
    capsys.readouterr()
    fit = ["calibrate", "--run", str(run.root), "--db", url, "--study", "panel"]
    assert main([*fit, "--attribute", "beauty", "--out", str(model)]) == 2
    attribute = protocol.attributes[0].name
    assert f"There are answers to {attribute}" in capsys.readouterr().err
    fit += ["--attribute", attribute, "--out", str(model)]
    assert main(fit) == 0
    told = capsys.readouterr()
    assert "rank correlation in a photograph" in told.out
    assert "lookup" in told.out
    assert "8 of the observers are simulated" in told.err

    assert main(["metrics", str(run.root), "--metric", f"calibrated:{model}"]) == 0
    assert "calibrated-panel ↑" in capsys.readouterr().out
    opened = open_run(run.root)
    assert opened.info["metrics"]["calibrated-panel"]["fitted_on"]["study"] == "panel"
    assert (opened.metrics["metric"] == "calibrated-panel").sum() == 24

    out = tmp_path / "told"
    assert main(["predict", str(run.root), "--model", str(model), "--out", str(out)]) == 0
    expected = {"predicted.csv", "next.csv"} | (
        {"triage.csv", "check.csv"} if method == "review" else set()
    )
    assert {file.name for file in out.iterdir()} == expected
    assert "6 photographs, 0 of them unrated" in capsys.readouterr().out
    assert pd.read_csv(out / "predicted.csv")["simulated"].all()
    manifest = run.manifest
    other = manifest["sha256"].where(manifest["content_id"] != "photo2", "0" * 64)
    write_parquet_atomic(run.root / "manifest.parquet", manifest.assign(sha256=other))
    assert main(["predict", str(run.root), "--model", str(model), "--out", str(out)]) == 0
    assert "6 photographs, 1 of them unrated" in capsys.readouterr().out, "of the same name"
    assert main([*fit, "--metric", "psnr"]) == 2
    assert "no such metric (got 'psnr')" in capsys.readouterr().err
    assert main([*fit, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["validation"][0]["predictor"] == "model"


def test_the_command_sorts_outputs_by_a_model_of_reviews(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(9)
    run = make_run(tmp_path / "made", contents=120, conditions=CONDITIONS, size=(12, 9))
    table, score = world(rng, 120, prefix="photo", level=0.0)
    run.write_metrics(table)
    model = fit_model(table, reviews(rng, 2 * score), directions=DIRECTIONS, kind="review")
    write_model(tmp_path / "m.json", model)
    command = [
        "predict",
        str(run.root),
        "--model",
        str(tmp_path / "m.json"),
        "--out",
        str(tmp_path),
    ]
    assert main([*command, "--error-rate", "0.1"]) == 0
    out = capsys.readouterr().out
    sorted_out = pd.read_csv(tmp_path / "triage.csv", keep_default_na=False)
    counts = sorted_out["verdict"].value_counts()
    assert f"surely fine: {counts['fine']} images" in out
    assert f"ask a person: {counts['ask']} images" in out
    assert main([*command, "--error-rate", "0"]) == 2
    assert main([*command, "--error-rate", "0.000001"]) == 0
    assert "surely bad: 0 images; no threshold keeps the error rate" in capsys.readouterr().out


def test_the_command_says_what_models_are_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "made", contents=4, conditions=("warm", "cold", "green", "teal"))
    references = "../run/images/warm/" + run.manifest["content_id"] + ".png"
    manifest = run.manifest.assign(reference_path=references)
    write_parquet_atomic(run.root / "manifest.parquet", manifest)
    url, model = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "model.json"
    with open_store(url, create=True) as store:
        study = create_study(run, tiny_protocol("pairwise", trials=9), store, "panel")
        simulate(store, study, 4, seed=1)
    fit = ["calibrate", "--run", str(run.root), "--db", url, "--study", "panel"]
    fit += ["--attribute", "realism", "--out", str(model)]

    assert main(["metrics", str(run.root), "--metric", "ciede2000", "colorfulness"]) == 0
    with open_store(url) as store:
        found = calibrate(open_run(run.root), store, "panel", attribute="realism")
    assert {feature.metric for feature in found.features} == {"ciede2000", "colorfulness"}
    assert any("percept metrics RUN --metric traits" in doubt for doubt in found.warnings)
    before = open_run(run.root).metrics
    assert main(fit) == 0
    told = capsys.readouterr().err
    assert "measured 24 traits into" in told
    assert "percept metrics" not in told
    traits = {metric.name for metric in METRICS.values() if metric.group == "traits"}
    assert {feature.metric for feature in read_model(model).features} <= traits
    assert main(fit) == 0
    assert "measured" not in capsys.readouterr().err
    with pytest.raises(InputError, match=r"run lacks metrics that the model weighs .*calibrated:"):
        predict(read_model(model), before)
