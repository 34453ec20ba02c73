"""The report as a whole: content, order, honesty, files, command line."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from percept import stats
from percept.cli import main
from percept.errors import InputError
from percept.files import write_parquet_atomic
from percept.inference.run import Run, open_run
from percept.protocol import parse_protocol
from percept.report import words
from percept.report.build import analyse, jsonable
from percept.report.data import StudyData, generator, read_study
from percept.report.figures import _matrix, draw
from percept.report.render import render_html, tables, write_report
from percept.store import open_store
from tests.report.conftest import N_BOOT, SEED, World, with_votes


def page(world: World) -> str:
    return (world.out / "report.html").read_text("utf-8")


def result(world: World) -> dict:
    return json.loads((world.out / "report.json").read_text("utf-8"))


def answer(data: StudyData) -> tuple[str, str]:
    found = analyse([data], n_boot=N_BOOT).answer[0]
    return found.lead.replace("\u00a0", " "), " ".join(found.details).replace("\u00a0", " ")


# --- content and order -----------------------------------------------------------------------


def test_sections_come_in_the_order_of_a_reader(world: World) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", page(world))
    assert titles == [
        "The answer",
        "Who answered",
        "Agreement and reliability",
        "Preference scale",
        "Artifacts",
        "Metrics against people",
        "Methods",
        "Provenance",
    ]
    keys = [key for key in result(world) if key not in ("examples", "partings", "settings")]
    assert keys[-11:] == [
        "answer", "people", "agreement", "comparison", "preference", "judged", "artifacts", "why",
        "metrics", "methods", "provenance",
    ]  # fmt: skip


def test_numbers_are_those_of_the_statistics(world: World) -> None:
    found = result(world)
    votes, marks = world.pairs.ratings, world.marks.ratings
    overall = found["preference"][0]
    scale = stats.bradley_terry(
        votes, n_boot=N_BOOT, rng=generator(SEED, "preference", "pairs", "realism", "", "")
    )
    assert overall["scale"] == json.loads(json.dumps(jsonable(scale)))
    pair = overall["pairs"][0]
    assert pair["share"] == jsonable(stats.preference_share(votes, "warm", "cold"))
    alpha = stats.pairwise_alpha(
        votes, n_boot=N_BOOT, rng=generator(SEED, "agreement", "pairs", "realism", "units")
    )
    assert found["agreement"][0]["between"] == jsonable(alpha)
    severe = stats.artifact_rates(marks, min_severity=3)
    assert sorted(rate["rate"]["value"] for rate in found["artifacts"][0]["severe"]) == sorted(
        rate.rate.value for rate in severe
    )
    metric = next(m for m in found["metrics"][0]["results"] if m["metric"] == "lpips_alex")
    values = world.run.metrics.query("metric == 'lpips_alex'")
    direct = stats.predict_choices(values, votes, higher_is_better=False, exclude=("gray",))
    assert metric["choices"] == jsonable(direct)
    wins = stats.stimulus_wins(votes, exclude=("gray",))
    photographs = wins.index.get_level_values("content")
    within = stats.correlate(
        values.set_index(["content_id", "condition"])["value"].reindex(wins.index),
        wins.to_numpy().T,
        within=photographs,
        cluster=photographs,
        fit=None,
        n_boot=N_BOOT,
        rng=generator(SEED, "metric", "pairs", "realism", "within"),
    )
    for name in ("value", "low", "high"):
        assert metric["within"]["srocc"][name] == pytest.approx(getattr(within.srocc, name))


def test_people_are_counted(world: World) -> None:
    people = result(world)["people"][0]
    judged = world.pairs.ratings.query("choice != 'skip'")
    kinds = judged.groupby("kind")["trial"].nunique()
    assert people["answers"] == kinds.to_dict()
    assert people["observers"] == people["joined"] == people["simulated"] == 8
    assert people["sessions"] == people["sessions_complete"] == 8
    test = world.pairs.ratings.query("kind == 'test' and choice != 'skip'")
    assert people["response_s"]["median"] == pytest.approx(test["response_time_ms"].median() / 1000)
    assert sum(people["response_counts"]) == len(test)


def test_flagged_observers_are_named_and_never_dropped_in_silence(world: World) -> None:
    who = world.pairs.ratings["observer"].iloc[0]
    hasty = world.pairs.ratings["observer"] == who
    ratings = world.pairs.ratings.copy()
    ratings.loc[hasty, "response_time_ms"] = 120.0
    report = analyse([replace(world.pairs, ratings=ratings)], n_boot=N_BOOT)
    assert "100% of answers under 500 ms" in report.people[0].flagged[who]
    everybody, sound = report.preference[:2]
    assert (everybody.part, sound.part) == ("", "without flagged observers")
    assert everybody.scale is not None
    assert world.report.preference[0].scale is not None
    assert everybody.scale.score == pytest.approx(world.report.preference[0].scale.score)
    assert sound.observers == everybody.observers - len(report.people[0].flagged)
    html = render_html(report, {})
    assert who in html
    assert "No observer was excluded." in html
    assert "No screening" not in html
    assert "also given without those flagged" in html


def test_groups_and_strata_have_scales_of_their_own(world: World) -> None:
    strata = ["city", "land"] * 3
    data = replace(world.pairs, contents=world.pairs.contents.assign(stratum=strata))
    parts = analyse([data], n_boot=N_BOOT).preference
    labels = [part.part for part in parts]
    assert [label for label in labels if "flagged" not in label] == [
        "", "group expert", "group public", "stratum city", "stratum land"
    ]  # fmt: skip
    assert sum(part.votes for part in parts if part.stratum) == parts[0].votes
    assert sum(part.votes for part in parts if part.group) == parts[0].votes
    city = data.contents.query("stratum == 'city'")["content_id"]
    own = stats.count_pairs(data.ratings[data.ratings["content"].isin(city)])
    assert parts[labels.index("stratum city")].votes == np.sum(own.wins) + np.sum(own.ties) / 2


def test_every_attribute_is_analysed_on_its_own(world: World) -> None:
    period = '[[attributes]]\nname = "period"\nquestion = "Which fits its time?"\n'
    protocol = parse_protocol(f"{world.pairs.protocol.text}\n{period}")
    turned = {"left": "right", "right": "left", "tie": "tie", "skip": "skip"}
    ratings = world.pairs.ratings
    other = ratings.assign(attribute="period", choice=ratings["choice"].map(turned))
    data = replace(world.pairs, protocol=protocol, ratings=pd.concat([ratings, other]))
    report = analyse([data], n_boot=N_BOOT)
    realism, period_ = (
        next(part for part in report.preference if part.attribute == name and not part.group)
        for name in ("realism", "period")
    )
    assert [found.question for found in report.answer][1] == "Which fits its time?"
    assert realism.scale is not None
    assert period_.scale is not None
    assert period_.scale.score == pytest.approx(-realism.scale.score, abs=1e-6)
    assert report.people[0].answers == world.report.people[0].answers  # trials, not ratings
    html = render_html(report, {})
    assert html.count('<p class="about">pairs · period</p>') >= 3


def test_sampling_weights_are_used_and_said(world: World) -> None:
    weights = [1.0, 1.0, 1.0, 1.0, 1.0, 9.0]
    data = replace(world.pairs, contents=world.pairs.contents.assign(weight=weights))
    weighted = analyse([data], n_boot=N_BOOT)
    plain = world.report.preference[0]
    assert weighted.preference[0].weighted
    assert not plain.weighted
    assert weighted.preference[0].pairs[0].share.value != plain.pairs[0].share.value
    assert weighted.preference[0].votes == plain.votes
    assert "weighted by the photographs’ sampling weights" in " ".join(weighted.methods)


def test_heat_maps_count_a_viewing_once(world: World) -> None:
    marks = world.marks.ratings.query("kind == 'test' and condition == 'cold'").head(1)
    marks = marks.assign(artifact="blotches", severity=2.0, x=0.5, y=0.0, width=0.5, height=0.5)
    twice = pd.concat([marks, marks])
    one = analyse([replace(world.marks, ratings=twice)], n_boot=N_BOOT).artifacts[0]
    grid = np.array(one.heat["cold"])
    half = (grid.shape[0] // 2, grid.shape[1] // 2)
    assert (grid[: half[0], half[1] :] == 1).all()
    assert grid.sum() == half[0] * half[1]
    assert one.by_severity == {"cold": (0, 0, 1, 0)}


def test_methods_name_rules_exclusions_seed_and_version(world: World) -> None:
    import percept

    text = " ".join(world.report.methods).replace("\u00a0", " ")
    for words_ in (
        world.pairs.protocol.sha256[:16],
        world.pairs.protocol.attributes[0].question,
        "“No difference” was an allowed answer",
        "practice trials",
        "No observer was excluded",
        "simulated",
        "sRGB",
        f"percept {percept.__version__}, seed {SEED}, {N_BOOT} resamples",
        "Krippendorff",
        "Davidson",
        "severity 3 or worse",
    ):
        assert words_ in text


def test_metrics_left_out_are_told_with_their_reason(world: World) -> None:
    assert "psnr_ab (no reference)" in page(world)
    assert result(world)["metrics"][0]["skipped"] == {"psnr_ab": "no reference"}


def test_metrics_on_fewer_photographs_are_told_and_do_not_set_the_ceiling(world: World) -> None:
    table = world.run.metrics  # lpips_alex comes first in it
    few = (table["metric"] == "lpips_alex") & (table["content_id"] > "photo2")
    report = analyse([replace(world.pairs, metrics=table[~few])], n_boot=N_BOOT)
    found = {one.metric: one.choices for one in report.metrics[0].results}
    assert found["lpips_alex"].n < found["psnr"].n
    assert report.metrics[0].ceiling == found["psnr"].human_accuracy
    html = render_html(report, {}).replace("\u00a0", " ")
    assert f"Used: {found['lpips_alex'].n} to {found['psnr'].n} decided votes" in html
    for choices in found.values():
        assert f'<td class="n">{choices.n}</td>' in html


def test_identical_pairs_on_which_nobody_saw_a_tie_are_told(world: World) -> None:
    ratings = world.pairs.ratings
    same = ratings["trial"].isin(ratings.query("kind == 'test'")["trial"].head(5))
    ratings = ratings.assign(
        kind=ratings["kind"].where(~same, "identical"),
        right=ratings["right"].where(~same, ratings["left"]),
        choice=ratings["choice"].where(~same, "left"),
    )
    found = analyse([replace(world.pairs, ratings=ratings)], n_boot=N_BOOT).agreement[0].identical
    assert found is not None
    assert found.value == 0
    assert found.n == 5
    none = analyse([replace(world.pairs, ratings=ratings[~same])], n_boot=N_BOOT)
    assert none.agreement[0].identical is None


def test_weighted_artifacts_are_said(world: World) -> None:
    contents = world.marks.contents.assign(weight=[1.0, 1.0, 1.0, 1.0, 1.0, 9.0])
    weighted = analyse([replace(world.marks, contents=contents)], n_boot=N_BOOT)
    assert "bounds and maps are weighted" in " ".join(weighted.methods)
    plain, own = world.report.artifacts[0].severe[0], weighted.artifacts[0].severe[0]
    assert own.upper_bound > plain.upper_bound  # six photographs that are worth fewer
    assert "bounds and maps" not in " ".join(world.report.methods)


# --- simulated observers ---------------------------------------------------------------------


def test_simulated_answers_are_marked_everywhere(world: World) -> None:
    html = page(world)
    assert html.index('class="banner"') < html.index("<h1>")
    svgs = re.findall(r"<svg.*?</svg>", html, re.S)
    files = sorted((world.out / "figures").glob("*.svg"))
    assert len(svgs) == len(files) > 8
    for svg in [*svgs, *(file.read_text("utf-8") for file in files)]:
        assert ">Simulated observers</text>" in svg
    for caption in re.findall(r'<figure class="triple">.*?</figure>', html, re.S):
        assert "Simulated observers" in caption
    for file in (world.out / "tables").glob("*.csv"):
        table = pd.read_csv(file)
        assert len(table), file
        assert (table["simulated"] == "all").all(), file
    assert result(world)["simulated"] == "all"


def test_people_are_not_called_simulated(world: World, tmp_path: Path) -> None:
    data = with_votes(world.pairs, {("warm", "cold"): (20, 2, 9), ("warm", "gray"): (25, 1, 5)})
    report = analyse([data], n_boot=N_BOOT)
    assert (report.simulated, report.banner, report.stamp) == ("none", "", "")
    files = write_report(report, tmp_path)
    for file in files:
        if file.name != "report.json":
            assert "imulated observers" not in file.read_text("utf-8"), file


def test_a_mixture_is_told(world: World) -> None:
    mixed = world.pairs.observers.assign(simulated=[True, *[False] * 7])
    report = analyse([replace(world.pairs, observers=mixed)], n_boot=N_BOOT)
    assert report.simulated == "some"
    assert "1 of 8 observers" in report.banner
    assert "Partly simulated observers" in render_html(report, {})


# --- the answer ------------------------------------------------------------------------------


def test_a_clear_winner_is_named_with_its_shares(world: World) -> None:
    lead, details = answer(
        with_votes(
            world.pairs,
            {
                ("warm", "cold"): (80, 0, 20),
                ("warm", "gray"): (90, 0, 10),
                ("cold", "gray"): (30, 0, 70),
            },
        )
    )
    assert re.fullmatch(
        r"Observers preferred \*\*warm\*\* to \*\*cold\*\* in 88 % \[\d+, \d+\] of choices, as the "
        r"scale of all votes estimates\.",
        lead,
    )
    assert "Over leaving the photograph grey, observers preferred **warm** in 82 %" in details
    assert "rather leave the photograph grey than see **cold**, preferred in 38 %" in details
    assert "300 comparisons by 7 observers of 5 photographs" in details


def test_told_apart_has_one_meaning(world: World) -> None:
    # Where the tests of one item find a difference and those of the other do not, there is none.
    wins = np.array([[0, 60, 65, 80], [40, 0, 52, 55], [35, 48, 0, 50], [20, 45, 50, 0]], float)
    for votes in (20, 28, 36):
        counts = stats.PairCounts(wins * votes / 100, items=("a", "b", "c", "d"))
        scale = stats.bradley_terry(counts, cluster=None)
        near = [words.unresolved(scale, item) for item in scale.items]
        for i, j in itertools.permutations(range(4), 2):
            assert (scale.items[j] in near[i]) == (scale.items[i] in near[j])
        part = replace(world.report.preference[0], scale=scale)
        (told,) = words.resolved([part])
        close = sum(map(len, near)) // 2
        assert f"tells {6 - close} of 6" in told.replace("\u00a0", " ")


def test_no_winner_is_claimed_without_a_difference(world: World) -> None:
    even = dict.fromkeys([("warm", "cold"), ("cold", "pale"), ("warm", "pale")], (20, 4, 19))
    lead, _ = answer(with_votes(world.pairs, even))
    assert lead.startswith("No winner: **warm** scored highest, but it cannot be told apart")
    assert "**cold**" in lead
    assert "**pale**" in lead


def test_a_shared_lead_is_told_as_such(world: World) -> None:
    votes = {
        ("warm", "cold"): (31, 0, 30),
        ("cold", "pale"): (90, 0, 8),
        ("warm", "pale"): (95, 0, 8),
    }
    lead, _ = answer(with_votes(world.pairs, votes))
    assert "preferred it to **pale** in 92 % [" in lead
    assert "cannot be told apart from **cold**" in lead


@pytest.mark.parametrize(
    ("votes", "lead", "warning"),
    [
        ({}, "There is no answer yet: nobody has voted.", "no votes yet"),
        (
            {("warm", "cold"): (0, 12, 0)},
            "No difference was seen: all 12 comparisons",
            "no decided votes",
        ),
        (
            {("warm", "cold"): (20, 2, 9), ("pale", "gray"): (20, 2, 9)},
            "The votes do not place all colorizers on one scale",
            "2 unconnected parts",
        ),
        (
            {("warm", "cold"): (20, 0, 0), ("cold", "pale"): (9, 0, 20)},
            "The votes do not place all colorizers on one scale",
            "never beaten",
        ),
        (
            {("warm", "gray"): (25, 1, 3)},
            "Over leaving the photograph grey, observers preferred **warm** in 89 %",
            "There are no votes on <b>cold</b> and <b>pale</b> yet.",
        ),
        ({("warm", "cold"): (1, 0, 0)}, "The votes do not place all", "single observer"),
    ],
    ids=["none", "ties", "disconnected", "unbeaten", "one-colorizer", "one-vote"],
)
def test_too_little_data_is_said_and_why(
    world: World,
    tmp_path: Path,
    votes: dict[tuple[str, str], tuple[int, int, int]],
    lead: str,
    warning: str,
) -> None:
    report = analyse([with_votes(world.pairs, votes)], n_boot=N_BOOT)
    files = write_report(report, tmp_path)
    html = files[0].read_text("utf-8").replace("\u00a0", " ")
    assert html.count("<h2>") == 7
    assert warning in html
    assert report.answer[0].lead.replace("\u00a0", " ").startswith(lead)
    assert "nan" not in re.sub(r"data:image[^\"]*", "", html).lower().split()


def test_an_artifact_study_without_answers(world: World, tmp_path: Path) -> None:
    empty = replace(
        world.marks, ratings=world.marks.ratings.iloc[:0], observers=world.marks.observers.iloc[:0]
    )
    report = analyse([empty], n_boot=N_BOOT)
    assert report.answer[0].lead.startswith("There is no answer yet")
    html = write_report(report, tmp_path)[0].read_text("utf-8")
    assert "There are no answers yet." in html


def test_nothing_marked_still_gives_an_upper_bound(world: World) -> None:
    clean = world.marks.ratings.assign(artifact=None, severity=np.nan)
    report = analyse([replace(world.marks, ratings=clean)], n_boot=N_BOOT)
    lead, details = report.answer[0].lead, report.answer[0].details
    assert "**warm** 100\u00a0%" in lead
    assert f"{100 * (1 - 0.05 ** (1 / 6)):.0f}\u00a0% for **warm**" in details[0]
    assert "gray" not in lead  # an anchor, no colorizer


def test_one_observer_speaks_for_nobody_else(world: World) -> None:
    one = world.pairs.ratings["observer"].iloc[0]
    ratings = world.pairs.ratings[world.pairs.ratings["observer"] == one]
    _, details = answer(replace(world.pairs, ratings=ratings))
    assert "1 observer " in details
    assert "one observer says nothing of others" in details


def test_a_missing_run_is_said(world: World) -> None:
    data = replace(world.pairs, run=None, run_problem="The run directory is not at hand.")
    report = analyse([data], n_boot=N_BOOT)
    assert report.metrics[0].problem == "The run directory is not at hand."
    assert "The run directory is not at hand." in render_html(report, {})


def test_unresolved_neighbours_follow_the_rank_ranges() -> None:
    even = stats.bradley_terry(stats.PairCounts(np.full((3, 3), 10.0), items="abc"), cluster=None)
    assert sorted(words.unresolved(even, "a")) == ["b", "c"]
    wins = np.array([[0, 52, 900], [48, 0, 880], [100, 120, 0]], float)
    scale = stats.bradley_terry(stats.PairCounts(wins, items="abc"), cluster=None)
    assert words.unresolved(scale, "a") == ["b"]
    assert words.unresolved(scale, "c") == []


# --- the files -------------------------------------------------------------------------------


def test_the_page_needs_no_network(world: World) -> None:
    html = page(world)
    assert not re.search(r"""(?:src|href|xlink:href)\s*=\s*["'](?!data:|#)""", html)
    assert not re.search(r"<script |<link|<iframe|@import|url\(|fetch|XMLHttp|import\(", html)
    assert len(html) < 5_000_000


def test_figures_are_well_formed_and_described(world: World) -> None:
    for file in (world.out / "figures").glob("*.svg"):
        root = ElementTree.fromstring(file.read_text("utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("role") == "img"
        assert len(root.get("aria-label") or "") > 20, file
        assert "nan" not in file.read_text("utf-8").split('href="data:')[0].lower(), file


@pytest.mark.parametrize(("columns", "shown"), [(2, 2), (8, 8), (16, 16), (60, 3)])
def test_numbers_fit_their_cells(columns: int, shown: int) -> None:
    heads = [f"paper_texture_{i} (12)" for i in range(columns)]
    rows = ["luminance_fidelity", "semantic_distance", "psnr"]
    text = [["−0.12"] * columns] * len(rows)
    figure = _matrix("x", "X", rows, heads, np.full((3, columns), 0.5), text, diverging=True)
    root = ElementTree.fromstring(figure.svg)
    cells = [part for part in root if part.tag.endswith("rect")][1:]
    numbers = [part for part in root if part.text == "−0.12"]
    assert len(cells) == len(numbers) == 3 * columns
    assert len({cell.get("x") for cell in cells}) == shown
    right = float((root.get("viewBox") or "").split()[2])
    for cell, number in zip(cells, numbers, strict=True):
        width = float(cell.get("width") or 0)
        assert 5 * 0.556 * float(number.get("font-size") or 0) <= width  # of Helvetica
        assert float(cell.get("x") or 0) + width <= right


def test_strata_in_any_script_have_figures_of_their_own(world: World, tmp_path: Path) -> None:
    contents = world.pairs.contents.assign(stratum=["写真", "絵葉書"] * 3)
    report = analyse([replace(world.pairs, contents=contents)], n_boot=N_BOOT)
    files = write_report(report, tmp_path)
    assert len(set(files)) == len(files)
    text = "".join(file.read_text("utf-8") for file in (tmp_path / "figures").glob("*.svg"))
    assert "stratum 写真" in text
    assert "stratum 絵葉書" in text


def test_csv_columns_are_a_contract(world: World) -> None:
    columns = {name: list(table) for name, table in tables(world.report).items()}
    assert columns["preference"] == [
        "study", "simulated", "attribute", "group", "stratum", "without_flagged", "condition",
        "jod", "jod_low", "jod_high", "score", "score_low", "score_high", "rank_low", "rank_high",
        "component", "estimable",
    ]  # fmt: skip
    assert columns["metrics"] == [
        "study", "simulated", "attribute", "metric", "higher_is_better", "statistic", "value",
        "low", "high", "n", "method",
    ]  # fmt: skip
    assert set(columns) == {
        "people", "agreement", "preference", "pairs", "artifacts", "metrics", "facets"
    }  # fmt: skip
    written = pd.read_csv(world.out / "tables" / "preference.csv")
    scale = world.report.preference[0].scale
    assert scale is not None
    assert written["jod"].head(4).to_numpy() == pytest.approx(scale.to_frame()["jod"])


def test_the_same_inputs_give_the_same_bytes(world: World, tmp_path: Path) -> None:
    write_report(analyse([world.pairs, world.marks], seed=SEED, n_boot=N_BOOT), tmp_path)
    first = sorted(file for file in world.out.rglob("*") if file.is_file())
    for file in first:
        assert file.read_bytes() == (tmp_path / file.relative_to(world.out)).read_bytes(), file
    other = analyse([world.pairs], seed=SEED + 1, n_boot=N_BOOT).preference[0].scale
    scale = world.report.preference[0].scale
    assert scale is not None
    assert other is not None
    assert other.score == pytest.approx(scale.score)
    assert other.low != pytest.approx(scale.low)


def test_text_of_others_is_escaped(world: World) -> None:
    notes = pd.DataFrame({"value": ["skip"], "reason": ["<script>alert(1)</script>"]})
    report = analyse([replace(world.pairs, notes=notes)], n_boot=N_BOOT)
    html = render_html(report, {})
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_examples_show_the_pictures_that_were_rated(world: World) -> None:
    examples = world.report.examples
    assert {example.kind for example in examples} == {"most agreed", "least agreed"}
    for example in examples:
        assert "gray" not in (example.first, example.second)
        assert all(file.is_file() for file in example.images.values())
        assert example.first_wins + example.second_wins + example.ties >= 3
    shown = len(examples) + len(world.report.partings)
    assert page(world).count("data:image/jpeg") == 3 * shown
    leads = [
        abs(e.first_wins - e.second_wins) / (e.first_wins + e.second_wins + e.ties)
        for e in examples
    ]
    assert min(leads[: len(leads) // 2]) >= max(leads[len(leads) // 2 :])


def test_tables_are_sorted_by_a_click(world: World, browser: Browser) -> None:
    tab = browser.new_page()
    tab.goto((world.out / "report.html").as_uri())
    table = tab.locator("#preference table").first

    def column(place: int) -> list[str]:
        return table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()

    assert world.report.preference[0].scale is not None
    ranked = list(world.report.preference[0].scale.to_frame()["item"])
    assert column(1) == ranked
    table.get_by_role("button", name="Condition").click()
    assert column(1) == sorted(ranked)
    table.get_by_role("button", name="JOD").click()
    assert column(1) == ranked
    table.get_by_role("button", name="JOD").click()
    assert column(1) == ranked[::-1]
    assert table.locator("th[aria-sort]").count() == 1
    tab.close()


def test_the_page_fits_its_window(world: World, browser: Browser) -> None:
    asked: list[str] = []
    for width in (1400, 390):
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((world.out / "report.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        tab.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


# --- command line ----------------------------------------------------------------------------


def test_command_writes_a_report(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = main(
        ["report", "--db", world.url, "--study", "pairs", "--study", "marks", "--out", str(out),
         "--n-boot", str(N_BOOT), "--seed", str(SEED)]
    )  # fmt: skip
    assert code == 0
    assert (out / "report.json").read_bytes() == (world.out / "report.json").read_bytes()
    printed = capsys.readouterr().out
    assert str(out / "report.html") in printed
    assert printed.startswith(world.report.banner)  # a log of CI says it, too
    assert "**" not in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--study": "nobody"}, "no such study"),
        ({"--db": "sqlite:////nowhere/at/all.db"}, "database"),
        ({"--run": "."}, "not a run directory"),
        ({"--n-boot": "1"}, "--n-boot"),
        ({"--seed": "-1"}, "--seed"),
        ({"--out": __file__}, "is a file"),
    ],
)
def test_bad_input_is_one_message_and_nothing_written(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    out = tmp_path / "out"
    options = {"--db": world.url, "--study": "pairs", "--out": str(out)} | change
    code = main(["report", *(word for option in options.items() for word in option)])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_the_run_of_something_else_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.tiny_run import make_run

    other = make_run(tmp_path, contents=1, conditions=("other",))
    code = main(
        ["report", "--db", world.url, "--study", "pairs", "--run", str(other.root),
         "--out", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 2
    assert "shares no photograph and condition" in capsys.readouterr().err


# --- metrics against people ------------------------------------------------------------------


def test_metrics_by_facts_of_the_photographs(world: World) -> None:
    (found,) = world.report.metrics
    assert {(facet.fact, facet.value) for facet in found.facets} == {
        ("era", "1900s"), ("era", "1930s")
    }  # fmt: skip
    own = world.pairs.contents.query("era == '1900s'")["content_id"]
    votes = world.pairs.ratings[world.pairs.ratings["content"].isin(own)]
    psnr = world.run.metrics.query("metric == 'psnr'")
    facet = found.facets[0]
    assert facet.photographs == 3
    shown = votes.query("kind == 'test' and choice != 'skip'")[["left", "right"]]
    assert facet.answers == (shown != "gray").all(axis=1).sum()
    assert "has the intervals" in (world.out / "report.html").read_text("utf-8")
    assert facet.found["psnr"] == stats.predict_choices(psnr, votes).accuracy
    aged = ["grain;dust", "grain", "dust", "grain;dust", None, "blur"]
    contents = world.pairs.contents.assign(era=None, degradation=aged)
    (found,) = analyse([replace(world.pairs, contents=contents)], n_boot=N_BOOT).metrics
    assert [(facet.value, facet.photographs) for facet in found.facets] == [
        ("dust", 3), ("grain", 3)
    ]  # fmt: skip


def test_pictures_on_which_metrics_and_people_part_ways(world: World) -> None:
    votes = {
        ("warm", "cold"): (30, 0, 5),
        ("warm", "pale"): (60, 0, 5),
        ("cold", "pale"): (60, 0, 5),
    }
    data = with_votes(world.pairs, votes)
    ratings = data.ratings.assign(content=data.ratings["content"].replace("photo0", "photo5"))
    table = world.run.metrics.copy()
    psnr = table["metric"] == "psnr"
    table.loc[psnr, "value"] = table["condition"].map({"warm": 2.0, "cold": 1.0}).fillna(0.0)
    wrong = (table["content_id"] == "photo5") & (table["condition"] == "warm")
    table.loc[psnr & wrong, "value"] = 0.5
    # The other one is the same but for rounding, and on most photographs for cold.
    rounding = {"warm": 1e-9, "cold": 0.0, "pale": 2e-9, "gray": 0.0}  # lpips: lower is better
    flat = table["condition"].map(rounding).where(table["content_id"] > "photo1", 0.0)
    table.loc[~psnr, "value"] = flat * np.where(table["condition"] == "pale", -1, 1)
    data = replace(data, ratings=ratings, metrics=table)
    report = analyse([data], n_boot=N_BOOT)
    assert {one.metric: one.verdict for one in report.metrics[0].results}["psnr"] == "better"
    (parting,) = report.partings
    assert (parting.content, parting.first, parting.second) == ("photo5", "warm", "cold")
    assert (parting.metrics, parting.of) == (("psnr",), 1)
    assert parting.people == "6 of 7 votes"
    assert all(file.is_file() for file in parting.images.values())
    assert analyse([replace(data, metrics=table[~psnr])], n_boot=N_BOOT).partings == ()


def test_pairs_with_an_anchor_alone_are_scored_against_it(world: World) -> None:
    votes = {
        ("warm", "gray"): (25, 0, 5),
        ("cold", "gray"): (9, 2, 19),
        ("pale", "gray"): (4, 0, 9),
    }
    data = with_votes(world.pairs, votes)
    rows = data.ratings
    report = analyse([data], n_boot=N_BOOT)
    (found,) = report.metrics
    assert found.scores == "share of comparisons won against the untouched photograph"
    assert not found.paired
    result = found.results[0]
    assert result.choices is None
    assert result.within.n == 3 * 5  # gray itself is left out
    html = render_html(report, draw(report))
    assert "Choices" not in html
    beside = "not scored; every vote used here sets an image beside the untouched photograph."
    assert beside in " ".join(report.methods)
    assert beside in html
    assert "left out here" not in " ".join(report.methods)
    # By parts of the photographs: trials are counted, and intervals speak of few photographs.
    assert [facet.answers for facet in found.facets] == [
        rows["content"].isin(own["content_id"]).sum() for _, own in data.contents.groupby("era")
    ]
    for facet in found.facets:
        own = facet.found[result.metric]
        assert own.low < own.value < own.high
    assert "On which photographs" in html
    assert "has the intervals" in html


def test_a_model_is_not_judged_on_what_it_was_fitted_on(world: World, tmp_path: Path) -> None:
    run = _copy_of(world.run, tmp_path)
    hashes = run.manifest.set_index("content_id")["sha256"]
    fitted = {"kind": "calibrated", "higher_is_better": True}
    for name, contents in (("calibrated-a", list(hashes.index)), ("calibrated-b", ["photo1"])):
        source = {"contents": {f"other name of {one}": hashes[one] for one in contents}}
        frame = run.metrics[run.metrics["metric"] == "psnr"].assign(metric=name)
        run.write_metrics(frame, {}, {name: fitted | {"fitted_on": source}})
    frame = run.metrics[run.metrics["metric"] == "psnr"].assign(metric="pale")
    run.write_metrics(frame, {}, {"pale": {"higher_is_better": False, "group": "traits"}})
    with open_store(world.url) as store:
        study = read_study(store, "pairs", open_run(run.root))
    (found,) = analyse([study], n_boot=N_BOOT).metrics
    votes = {result.metric: result.choices.n for result in found.results if result.choices}
    assert not {"calibrated-a", "pale"} & votes.keys()
    assert found.skipped["traits"].startswith("parts of models")
    own = study.ratings[study.ratings["kind"] == "test"]
    left_out = own[own["content"].eq("photo1") & own["choice"].isin(["left", "right"])]
    anchored = (left_out[["left", "right"]] == "gray").any(axis=1)
    assert 0 < votes["psnr"] - votes["calibrated-b"] == (~anchored).sum()
    assert found.skipped["calibrated-a"].startswith("not judged on the 6 photographs that it was")


def test_metrics_of_other_images_than_those_judged_are_left_out(
    world: World, tmp_path: Path
) -> None:
    """As after ``percept infer --fresh`` with another checkpoint of the same name."""
    run = _copy_of(world.run, tmp_path)
    outputs, all_of_them = run.outputs, run.outputs["sha256"].str[::-1]
    again = outputs["condition"] == "warm"
    changed = outputs.assign(sha256=all_of_them.where(again, outputs["sha256"]))
    write_parquet_atomic(run.root / "outputs.parquet", changed)
    with open_store(world.url) as store:
        study = read_study(store, "pairs", open_run(run.root))
        (found,) = analyse([study], n_boot=N_BOOT).metrics
        assert "no longer holds 6 of the 24 images that were judged (of warm)" in found.problem
        before = next(part for part in world.report.metrics if part.study == "pairs").results[0]
        (now,) = [one for one in found.results if one.metric == before.metric]
        assert now.choices is not None
        assert before.choices is not None
        assert now.choices.n_missing > 0 == before.choices.n_missing
        # Fewer images than were judged, and one that could not be made again.
        fewer = outputs[(outputs["condition"] != "pale") & (outputs["content_id"] != "photo1")]
        fewer = fewer.assign(sha256=fewer["sha256"].where(fewer.index != fewer.index[0]))
        write_parquet_atomic(run.root / "outputs.parquet", fewer)
        study = read_study(store, "pairs", open_run(run.root))
        assert study.run_problem == ""
        assert analyse([study], n_boot=N_BOOT).metrics[0].results
        gray = outputs["condition"] == "gray"
        changed = outputs.assign(sha256=all_of_them.where(~gray, outputs["sha256"]))
        write_parquet_atomic(run.root / "outputs.parquet", changed)
        with pytest.raises(InputError, match="other images than those that study 'pairs' shows"):
            read_study(store, "pairs", open_run(run.root))


def _copy_of(run: Run, folder: Path) -> Run:
    shutil.copytree(run.root, folder / "run")
    shutil.copytree(run.root.parent / "photos", folder / "photos")
    return open_run(folder / "run")


def test_artifacts_by_stratum(world: World) -> None:
    strata = ["city", "land"] * 3
    data = replace(world.marks, contents=world.marks.contents.assign(stratum=strata))
    report = analyse([data], n_boot=N_BOOT)
    (one,) = report.artifacts
    parts = {part.part: part for part in one.parts if part.stratum}
    assert set(parts) == {"stratum city", "stratum land"}
    assert sum(part.votes for part in parts.values()) == one.viewings
    city = data.contents.query("stratum == 'city'")["content_id"]
    rows = data.ratings[data.ratings["content"].isin(city)]
    own = {rate.condition: rate for rate in parts["stratum city"].severe}
    for rate in stats.artifact_rates(rows, min_severity=3):
        assert own[rate.condition] == rate
    assert "Stratum city" in " ".join(report.answer[0].details)
    table = tables(report)["artifacts"]
    assert table["stratum"].dropna().nunique() == 2
    assert "stratum land" in render_html(report, draw(report))


def test_arms_are_judged_against_their_seeds(world: World, tmp_path: Path) -> None:
    assert all(part.arms == () for part in world.report.preference)
    conditions = world.pairs.conditions.copy()
    arms = {"warm": "tinted", "cold": "tinted", "pale": "dull", "gray": "dull"}
    conditions["arm"] = conditions["condition"].map(arms)
    report = analyse([replace(world.pairs, conditions=conditions)], seed=SEED, n_boot=N_BOOT)
    whole, *parts = report.preference
    (found,) = whole.arms
    assert all(part.arms == () for part in parts)
    assert (found.first, found.second, found.seeds) == ("dull", "tinted", (2, 2))
    assert whole.scale is not None
    score = dict(zip(whole.scale.items, whole.scale.score, strict=True))
    expected = (score["pale"] + score["gray"] - score["warm"] - score["cold"]) / 2
    assert found.score.value == pytest.approx(expected)
    (alone,) = [one for one in whole.pairs if {one.first, one.second} == {"warm", "gray"}]
    assert found.score.high - found.score.low > alone.model.high - alone.model.low
    assert list(tables(report)["arms"]["p_value"]) == [found.score.p_value]
    write_report(report, tmp_path)
    title = "Arms, judged against their training seeds"
    assert title in (tmp_path / "report.html").read_text("utf-8")
    assert title not in (world.out / "report.html").read_text("utf-8")
    answer = report.answer[0]
    assert answer.lead == words.arms_told_apart([found])
    assert answer.details[0].startswith("Of the single checkpoints: ")
    unsure, sure = (
        replace(found, score=replace(found.score, value=-1.0, low=low, high=high, p_value=p))
        for low, high, p in ((-2.5, 0.5, 0.2), (-1.5, -0.5, 0.01))
    )
    assert words.arms_told_apart([unsure]).startswith("No arm can be told apart from another")
    assert words.arms_told_apart([sure, unsure]).replace("\N{NO-BREAK SPACE}", " ") == (
        "Beyond what training seeds explain, observers preferred **tinted** to **dull** in an "
        "estimated 73 % [62, 82] of comparisons; of 1 other pair of arms neither can be said to be "
        "preferred."
    )
    single = conditions.assign(arm=conditions["arm"].where(conditions["condition"] != "gray"))
    report = analyse([replace(world.pairs, conditions=single)], seed=SEED, n_boot=N_BOOT)
    write_report(report, tmp_path)
    assert "dull has a single seed" in (tmp_path / "report.html").read_text("utf-8")
    assert report.answer[0].lead == world.report.answer[0].lead
    assert "cannot be said: dull has a single seed" in " ".join(report.answer[0].details)
