"""Reports on ratings, real or fake and reviews; the baseline; tables for LaTeX; why marks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from percept import stats
from percept.cli import main
from percept.errors import InputError
from percept.protocol import parse_protocol
from percept.report import words
from percept.report.build import analyse
from percept.report.data import StudyData, read_study
from percept.report.figures import draw
from percept.report.judged import MEASURES, compare, compare_all, difference, rating_frame, scored
from percept.report.render import PaperTable, latex, paper_tables, render_html, tables
from percept.store import open_store
from percept.votes import import_votes
from tests.report.conftest import N_BOOT, SEED, Singles, World, with_votes
from tests.tiny_run import make_run


def test_each_method_has_its_answer_its_section_and_its_figures(singles: Singles) -> None:
    html = (singles.out / "report.html").read_text("utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "The answer", "Who answered", "Agreement and reliability", "Ratings", "Real or fake",
        "Review", "Metrics against people", "Methods", "Provenance",
    ]  # fmt: skip
    leads = [found.lead for found in singles.report.answer]
    assert leads[0].startswith("Mean grades from 1 (Bad) to 5 (Excellent): **")
    assert leads[1].startswith("Taken for the true photograph: **")
    assert leads[2].startswith("Accepted as they are: **")
    assert "**reference**" not in leads[0] + leads[2]  # the true colours are no colorizer
    methods = " ".join(singles.report.methods)
    for told in ("ACR of ITU-T P.910", "for 1000\u00a0ms", "Verdicts were accept", "Bonferroni"):
        assert told in methods
    svgs = re.findall(r"<svg.*?</svg>", html, re.S)
    files = {file.stem for file in (singles.out / "figures").glob("*.svg")}
    assert len(svgs) == len(files)
    assert all(">Simulated observers</text>" in svg for svg in svgs)
    assert files >= {
        "grades-realism-mos", "grades-realism-dmos", "grades-realism-answers",
        "fooled-authenticity-fool-rate", "fooled-authenticity-d-prime",
        "queue-acceptability-accepted", "queue-acceptability-answers",
        "queue-acceptability-reasons",
    }  # fmt: skip
    assert "nan" not in html.lower().split()


def test_numbers_are_those_of_the_statistics(singles: Singles) -> None:
    grades, fooled, queue = (
        next(part for part in singles.report.judged if part.study == name and not part.part)
        for name in ("grades", "fooled", "queue")
    )
    rows = singles.data["grades"].ratings.query("kind == 'test'")
    warm = rows[rows["condition"] == "warm"]
    direct = stats.cluster_mean(warm["score"].astype(float), warm[["observer", "content"]])
    own = next(result for result in grades.results if result.condition == "warm")
    assert (own.estimates["mos"].value, own.estimates["mos"].low) == (direct.value, direct.low)
    assert sum(own.answers.values()) == len(warm)
    # Everybody graded every image: DMOS is the difference of means above the highest grade.
    true = rows[rows["condition"] == "reference"]["score"].astype(float).mean()
    if len(rows) == 6 * 12:
        assert own.estimates["dmos"].value == pytest.approx(direct.value - true + 5)
    assert len(grades.images) == 12
    for rate in stats.fool_rates(singles.data["fooled"].ratings):
        mine = next(result for result in fooled.results if result.condition == rate.condition)
        assert mine.estimates == {"fool_rate": rate.rate, "d_prime": rate.d_prime}
        assert mine.answers["real"] / sum(mine.answers.values()) == pytest.approx(rate.rate.value)
    for found in stats.review_rates(singles.data["queue"].ratings):
        mine = next(result for result in queue.results if result.condition == found.condition)
        assert mine.estimates["accepted"] == found.accepted
        assert mine.reasons == found.reasons
        assert mine.upper_bound is not None
        assert mine.upper_bound > found.rejected.value
    written = tables(singles.report)
    assert set(written) == {"people", "agreement", "conditions", "answers", "images"}
    assert set(written["conditions"]["statistic"]) == {
        "mos", "dmos", "fool_rate", "d_prime", "accepted", "fixable", "rejected", "rejected_bound",
    }  # fmt: skip


def test_a_difference_is_that_of_the_statistics(singles: Singles) -> None:
    study = singles.data["queue"]
    rows = scored(study, study.ratings)
    found = difference(rows, "warm", "cold", MEASURES["review"], None, 0.99)
    accepted = {rate.condition: rate.accepted.value for rate in stats.review_rates(study.ratings)}
    assert found.value == pytest.approx(accepted["warm"] - accepted["cold"])
    assert (found.confidence, found.low < found.value < found.high) == (0.99, True)


def test_one_answer_per_viewing_of_artifacts(world: World) -> None:
    rows = scored(world.marks, world.marks.ratings)
    assert len(rows) == world.report.artifacts[0].viewings
    free = rows.groupby("condition")["score"].mean()
    for rate in world.report.artifacts[0].severe:
        assert free[rate.condition] == pytest.approx(1 - rate.rate.value)


def test_intervals_of_single_images_stay_on_the_scale(singles: Singles) -> None:
    data = singles.data["grades"]
    ratings = data.ratings.query("kind == 'test'").sort_values(["content", "condition", "observer"])
    place = ratings.groupby(["content", "condition"]).cumcount()
    ratings = ratings.assign(score=np.where(place == 0, 1, 5))
    first = (ratings["content"] == "photo0") & (ratings["condition"] == "warm")
    report = analyse([replace(data, ratings=ratings.assign(score=ratings["score"].mask(first, 3)))],
                     n_boot=N_BOOT)  # fmt: skip
    images = {(one.content, one.condition): one for one in report.judged[0].images}
    alike = images.pop(("photo0", "warm"))
    assert (alike.mos, alike.n > 1, np.isnan([alike.low, alike.high]).all()) == (3, True, True)
    assert max(one.high for one in images.values()) == 5
    assert all(one.low < one.mos < one.high for one in images.values() if one.n > 1)


def test_a_long_list_is_cut_and_says_what_is_left_out(singles: Singles) -> None:
    part = next(part for part in singles.report.judged if part.study == "queue")
    fact = next(fact for fact in singles.report.studies if fact.study == "queue")
    given = replace(part.results[0], reasons={"unnatural": 3})
    many = [replace(given, condition=f"model{i}") for i in range(60)]
    details = words._reviewed(fact, part, many)
    assert sum("Most often held against" in text for text in details) == words.MOST_TOLD
    assert "52\u00a0others" in details[-1]
    assert "tables/answers.csv" in details[-1]


def test_methods_claim_only_what_the_method_does(singles: Singles, world: World) -> None:
    grades, fooled, queue = singles.report.methods[:3]
    pairs, marks = world.report.methods[:2]
    for text in (grades, queue, marks):
        assert "conditions and photographs stay balanced" in text
        assert "sides" not in text
        assert "after the image was on view" in text
    assert "conditions, sides and photographs stay balanced" in fooled
    assert "pairs, sides and photographs stay balanced" in pairs
    told = " ".join(singles.report.methods)
    assert "comparisons won" not in told
    assert "whether anything was marked" not in told
    told = next(text for text in world.report.methods if text.startswith("Preference was scaled"))
    assert f"95\u00a0% intervals for new observers and new photographs (bootstrap, {N_BOOT}" in told
    assert "two-way clustered variance" not in told


@pytest.mark.parametrize("method", ["rating", "real_or_fake", "review"])
def test_studies_without_answers(singles: Singles, method: str) -> None:
    data = next(data for data in singles.data.values() if data.protocol.method == method)
    none = replace(data, ratings=data.ratings.iloc[:0], observers=data.observers.iloc[:0])
    report = analyse([none], n_boot=N_BOOT)
    assert report.answer[0].lead.startswith("There is no answer yet")
    assert "There are no answers yet." in render_html(report, {})


# --- against a baseline ----------------------------------------------------------------------


def turned(data: StudyData, *, best: bool) -> StudyData:
    """Return the study with the best, or the worst, answer to every warm image."""
    ratings = data.ratings.copy()
    method = data.protocol.method
    if method == "real_or_fake":
        for side, other in (("left", "right"), ("right", "left")):
            ratings.loc[ratings[side] == "warm", "choice"] = side if best else other
    elif method == "rating":
        warm = ratings.index[ratings["condition"] == "warm"]
        ratings.loc[warm, "score"] = 5 if best else 1
        ratings.loc[warm[0], "score"] = 3  # grades that never vary have no interval
    else:
        verdict = "accept" if best else "reject"
        ratings.loc[ratings["condition"] == "warm", "verdict"] = verdict
    return replace(data, ratings=ratings)


def test_a_study_against_itself_has_no_regression_and_a_worse_one_has(
    singles: Singles, world: World
) -> None:
    marks = world.marks
    severe = marks.ratings["condition"] == "warm"
    spoilt = marks.ratings.assign(
        artifact=marks.ratings["artifact"].mask(severe, "blotches"),
        severity=marks.ratings["severity"].mask(severe, 3.0),
    )
    studies = [
        (data, replace(turned(data, best=False), name="after")) for data in singles.data.values()
    ]
    studies += [(marks, replace(marks, name="after", ratings=spoilt))]
    for before, after in studies:
        attribute = before.protocol.attributes[0].name
        same = compare(before, attribute, before, 0.95)
        assert same.worse == (), before.name
        assert all(entry.change.value == pytest.approx(0) for entry in same.changes)
        if before is not marks:  # so few like warm that fewer cannot be shown
            before = turned(before, best=True)
        found = compare(after, attribute, before, 0.95)
        assert found.worse == ("warm",), (before.name, found.changes)
        assert "warm" not in compare(before, attribute, after, 0.95).worse


def test_pairs_of_two_studies_are_compared_through_the_grey_photograph(world: World) -> None:
    votes = {("warm", "cold"): (30, 2, 20), ("warm", "gray"): (40, 1, 12),
             ("cold", "gray"): (35, 1, 15)}  # fmt: skip
    before = with_votes(world.pairs, votes)
    after = with_votes(
        world.pairs,
        votes | {("warm", "cold"): (8, 2, 42), ("warm", "gray"): (8, 1, 44)},
    )
    same = compare(before, "realism", before, 0.95)
    assert same.measure == "JOD"
    assert same.worse == ()
    assert [entry.verdict for entry in same.changes] == [
        "no change seen", "no change seen", "not estimable"
    ]  # fmt: skip
    # All changes that can be judged share the level.
    assert [entry.change.confidence for entry in same.changes[:2]] == pytest.approx([0.975] * 2)
    assert compare(replace(after, name="after"), "realism", before, 0.95).worse == ("warm",)
    bare = replace(before, conditions=before.conditions.query("condition != 'gray'"))
    with pytest.raises(InputError, match="the grey photograph"):
        compare(after, "realism", bare, 0.95)


def test_what_vanished_is_named_and_never_passes_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "mapping.toml").write_text(
        'method = "rating"\n[columns]\nobserver = "who"\ncontent = "photo"\ncondition = "model"\n'
        'score = "grade"\n'
    )
    levels = {"before": {"warm": 4, "cold": 3}, "after": {"warm": 4}, "worse": {"warm": 3}}
    url = f"sqlite:///{tmp_path / 'votes.db'}"
    with open_store(url, create=True) as store:
        for name, level in levels.items():
            rows = [
                {"who": who, "photo": photo, "model": model, "grade": mean - rng.integers(0, 2)}
                for who in range(6) for photo in range(5) for model, mean in level.items()
            ]  # fmt: skip
            ends = [{"who": who, "photo": 0, "model": "reference", "grade": 1 + 4 * (who % 2)}
                    for who in range(6)]  # fmt: skip  # one scale for all
            pd.DataFrame(rows + ends).to_csv(tmp_path / "votes.csv", index=False)
            import_votes(store, name, tmp_path / "votes.csv", tmp_path / "mapping.toml")

    def report(study: str, *options: str) -> tuple[int, str, Path]:
        out = tmp_path / f"{study}{len(options)}"
        code = main(["report", "--db", url, "--study", study, "--baseline", "before", "--out",
                     str(out), "--n-boot", "10", *options])  # fmt: skip
        printed = capsys.readouterr()
        return code, printed.out + printed.err, out

    code, told, out = report("after")
    assert (code, "missing from after: cold" in told) == (0, True)
    table = pd.read_csv(out / "tables" / "comparison.csv")
    assert dict(zip(table["condition"], table["verdict"], strict=True))["cold"] == "missing"
    assert "missing from after: <b>cold</b>" in (out / "report.html").read_text("utf-8")
    code, told, out = report("after", "--fail-on-regression")
    assert (code, ": missing)" in told, out.exists()) == (2, True, False)
    assert report("worse", "--fail-on-regression")[0] == 4


def test_a_question_that_vanished_is_missing(world: World) -> None:
    period = '[[attributes]]\nname = "period"\nquestion = "Which fits its time?"\n'
    both = parse_protocol(f"{world.pairs.protocol.text}\n{period}")
    before = replace(world.pairs, name="before", protocol=both)
    asked, gone = compare_all([(world.pairs, "realism")], before, 0.95)
    assert {entry.verdict for entry in asked.changes} == {"no change seen"}
    assert (gone.attribute, {entry.verdict for entry in gone.changes}) == ("period", {"missing"})
    assert [entry.condition for entry in gone.changes] == ["warm", "cold", "pale"]


def test_a_study_without_the_condition_to_compare_with_is_not_passed_over(
    singles: Singles, world: World
) -> None:
    parts = [(world.pairs, "realism"), (singles.data["grades"], "realism")]
    pairs, grades = compare_all(parts, "pale", 0.95)
    assert [entry.condition for entry in pairs.changes] == ["warm", "cold"]
    assert {entry.verdict for entry in grades.changes} == {"not estimable"}


def test_studies_that_cannot_be_compared_are_refused(singles: Singles) -> None:
    grades, fooled = singles.data["grades"], singles.data["fooled"]
    with pytest.raises(InputError, match="by the rating method"):
        compare(grades, "realism", fooled, 0.95)
    renamed = grades.conditions.assign(condition=["a", "b", "reference"])
    with pytest.raises(InputError, match="shares no condition"):
        compare(grades, "realism", replace(grades, conditions=renamed), 0.95)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--baseline", "grades", "--fail-on-regression"], 0, "Against study grades"),
        (["--baseline", "best", "--fail-on-regression"], 4, "worse than"),
        (["--baseline", "best"], 0, "worse: "),
        (["--baseline", "nobody"], 2, "no such study, and no such condition"),
        (["--fail-on-regression"], 2, "--baseline"),
    ],
)
def test_command_tells_a_regression_by_its_exit_code(
    singles: Singles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    told: str,
) -> None:
    best = next(iter(singles.report.judged[0].results)).condition
    options = [best if option == "best" else option for option in options]
    out = tmp_path / "out"
    assert main(["report", "--db", singles.url, "--study", "grades", "--out", str(out),
                 "--n-boot", "10", *options]) == code  # fmt: skip
    printed = capsys.readouterr()
    assert told in printed.out + printed.err
    assert out.exists() == (code != 2)
    if code == 4:
        assert "Against the baseline" in (out / "report.html").read_text("utf-8")


# --- other parts -----------------------------------------------------------------------------


def test_marks_on_losing_images_are_counts(world: World) -> None:
    assert world.report.why == ()
    marking = "\n".join(
        block for block in re.split(r"\n(?=\[)", world.marks.protocol.text)
        if block.startswith(("[[artifacts", "[[severities"))
    )  # fmt: skip
    protocol = parse_protocol(f'why = "optional"\n{world.pairs.protocol.text}\n{marking}\n')
    votes = world.pairs.ratings.query("kind == 'test' and choice == 'left'").head(2)
    marks = pd.DataFrame(
        {
            "response_id": votes["response_id"].to_numpy()[[0, 0, 1]],
            "trial": votes["trial"].to_numpy()[[0, 0, 1]],
            "condition": votes["right"].to_numpy()[[0, 0, 1]],
            "artifact": ["blotches", "blotches", "bleeding"],
        }
    )
    report = analyse([replace(world.pairs, protocol=protocol, marks=marks)], n_boot=N_BOOT)
    (why,) = report.why
    assert sum(n for own in why.counts.values() for n in own.values()) == 2
    assert sum(why.marked.values()) == 2
    decided = world.pairs.ratings.query("kind == 'test' and choice in ('left', 'right')")
    assert sum(why.lost.values()) == len(decided)
    assert "These are no rates" in render_html(report, {})


def test_tables_for_latex(singles: Singles, world: World) -> None:
    names = {file.stem for file in (singles.out / "tables").glob("*.tex")}
    assert names == {
        "agreement-grades-and-fooled-and-queue", "rating-grades-realism",
        "real-or-fake-fooled-authenticity", "review-queue-acceptability",
    }  # fmt: skip
    assert {file.stem for file in (world.out / "tables").glob("*.tex")} == {
        "agreement-pairs-and-marks", "preference-pairs-realism", "artifacts-marks",
        "metrics-pairs-realism",
    }  # fmt: skip
    compared = analyse([singles.data["grades"]], n_boot=N_BOOT, baseline="warm")
    made = {paper.name: paper for paper in paper_tables(compared)}
    (row,) = made["comparison-grades-realism"].rows
    (change,) = compared.comparison[0].changes
    assert row == ["cold", words.change(compared.comparison[0], change.change), change.verdict]
    assert latex(made["agreement-grades"]).count("grades, realism") == 1
    text = (singles.out / "tables" / "review-queue-acceptability.tex").read_text("utf-8")
    assert "Simulated observers" in text
    assert text.isascii()
    hard = latex(PaperTable("t", "a_b & 50\u00a0%", ["x", "y"], [["m_1", "−1 [≤ 2]"]]))
    assert r"\caption{a\_b \& 50~\%}" in hard
    assert "m\\_1 & $-$1 [$\\le$ 2] \\\\" in hard


def test_the_page_fits_a_phone(singles: Singles, browser: Browser) -> None:
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto((singles.out / "report.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.close()


def test_metrics_against_single_images(singles: Singles) -> None:
    data = singles.data["grades"]
    run = data.run
    assert run is not None
    table = run.outputs[["content_id", "condition"]].assign(metric="psnr")
    table["value"] = np.random.default_rng(0).normal(size=len(table))
    studies = [replace(one, metrics=table) for one in singles.data.values()]
    report = analyse(studies, seed=SEED, n_boot=N_BOOT)
    assert [found.scores for found in report.metrics] == [
        "mean grade", "share taken for the true photograph", "share accepted"
    ]  # fmt: skip
    grades = rating_frame(data.ratings).drop(columns="reference", level="condition")
    result = report.metrics[0].results[0]
    values = table.set_index(["content_id", "condition"])["value"].reindex(grades.columns)
    human = grades.mean()
    for found, fit in ((result.overall, "logistic4"), (result.within, None)):
        within = grades.columns.get_level_values("content") if fit is None else None
        own = stats.correlate(values.to_numpy(), human.to_numpy(), within=within, fit=fit)
        assert found.srocc.value == pytest.approx(own.srocc.value)
        assert found.plcc_raw.value == pytest.approx(own.plcc_raw.value)
        assert found.plcc.value == pytest.approx(own.plcc.value, nan_ok=True)
    assert [found.beside for found in report.metrics] == ["", "the true colours", ""]
    methods = " ".join(report.methods)
    assert "In fooled: The untouched photograph and the true colours are themselves not" in methods
    assert "every vote used here sets an image beside the true colours." in methods
    assert "left out here" not in methods
    html = render_html(report, draw(report))
    assert "Metrics against people" in html
    assert "coin" not in html
    assert "mean grade" in " ".join(report.methods)
    assert not any("choice" in name for name in tables(report)["metrics"]["statistic"])


def test_votes_made_elsewhere_claim_nothing_about_how_they_were_made(tmp_path: Path) -> None:
    run = make_run(tmp_path, contents=4, conditions=("warm", "cold", "reference"))
    rng = np.random.default_rng(0)
    votes = pd.DataFrame(
        [
            {"who": who, "photo": f"photo{photo}", "model": model, "grade": rng.integers(2, 8),
             "when": f"2021-05-0{1 + who}"}
            for who in range(6) for photo in range(4) for model in ("cold", "warm", "reference")
        ]
    )  # fmt: skip
    votes.to_csv(tmp_path / "votes.csv", index=False)
    (tmp_path / "mapping.toml").write_text(
        'method = "rating"\n[columns]\nobserver = "who"\ncontent = "photo"\ncondition = "model"\n'
        'score = "grade"\npresented_at = "when"\n'
    )
    with open_store(tmp_path / "votes.db", create=True) as store:
        import_votes(store, "theirs", tmp_path / "votes.csv", tmp_path / "mapping.toml")
        data = read_study(store, "theirs", run)
        assert data.conditions["condition"].tolist() == ["warm", "cold", "reference"]
        report = analyse([data], n_boot=N_BOOT)
    text = " ".join(report.methods)
    assert "made elsewhere" in text
    for claim in ("blind", "rendered once", "balanced over", "(ACR of", "Viewing aids"):
        assert claim not in text
    assert report.answer[0].lead.startswith("Mean grades from 1 to 7: ")
    assert report.people[0].last_answer == "2021-05-06T00:00:00+00:00"
    assert {role for role in data.images if role[1] is None} == {
        (f"photo{i}", None) for i in range(4)
    }
    assert all(file.is_file() for file in data.images.values())
    html = render_html(report, draw(report))
    assert "Sessions" not in html
    # Grades that are no small whole numbers have a scale of their own.
    votes.assign(grade=votes["grade"] * 7.5).to_csv(tmp_path / "fine.csv", index=False)
    with open_store(tmp_path / "votes.db") as store:
        import_votes(store, "fine", tmp_path / "fine.csv", tmp_path / "mapping.toml")
        fine = analyse([read_study(store, "fine", run)], n_boot=N_BOOT)
    assert "(lowest given) to 52.5 (highest given)" in fine.answer[0].lead
    assert fine.judged[0].results[0].estimates["mos"].value > 7


def graded(data: StudyData, grades: np.ndarray) -> StudyData:
    """Return the study with these grades in place of its own, as an import has them."""
    counted = data.ratings.query("kind == 'test'")
    rows = counted.assign(score=np.resize(grades, len(counted)))
    return replace(data, ratings=rows)


@pytest.mark.parametrize(
    ("grades", "answers"),
    [
        (np.linspace(34.5, 97, 48), 10),  # ranges
        (np.array([0.0, 1, 2, 3, 4, 5]), 6),  # one by one
        (np.array([7.5]), 1),
    ],
)
def test_every_grade_of_another_scale_is_counted(
    singles: Singles, grades: np.ndarray, answers: int
) -> None:
    report = analyse([graded(singles.data["grades"], grades)], n_boot=N_BOOT)
    for part in report.judged:
        assert part.scale.ends == (grades.min(), grades.max())
        assert len(part.scale.answers) == answers
        for result in part.results:
            assert sum(result.answers.values()) == part.main(result).n
    if answers == 10:
        names = list(report.judged[0].scale.answers)
        assert (names[0], names[-1]) == ("34.5 to 40.75", "90.75 to 97")
    draw(report)
    lead = report.answer[0].lead
    assert ("(all 7.5)" in lead) == (answers == 1)
    assert ("(highest given)" in lead) == (answers > 1)


def test_all_parts_of_a_study_have_one_scale(singles: Singles) -> None:
    data = singles.data["grades"]
    ratings = graded(data, np.linspace(0, 100.0001, 50)).ratings
    low = (ratings["observer"] == ratings["observer"].iloc[0]).to_numpy(bool)
    ratings = ratings.assign(
        group=np.where(low, "experts", "public"), score=ratings["score"].where(~low, 7.25)
    )
    parts = analyse([replace(data, ratings=ratings)], n_boot=N_BOOT).judged
    (experts,) = (part for part in parts if part.group == "experts")
    top = ratings["score"].astype(float).max()
    assert [part.scale.ends[1] for part in parts] == [top] * len(parts)
    # Grades that equal those of the true colours: as good as they, on the scale of everybody.
    assert {r.estimates["dmos"].value for r in experts.results if "dmos" in r.estimates} == {top}
