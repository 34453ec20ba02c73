"""Writes a report: one HTML page that needs nothing else, JSON, CSV tables and SVG figures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from percept import stats
from percept.errors import Interrupted
from percept.files import write_bytes_atomic
from percept.report import figures, words
from percept.report.against import Metrics
from percept.report.build import People, Preference, Report, jsonable
from percept.report.judged import Judged
from percept.report.pictures import Example, Parting

#: Anchor and title of every section, and the methods that it needs; none: it is always there.
SECTIONS: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("answer", "The answer", frozenset()),
    ("comparison", "Against the baseline", frozenset()),
    ("people", "Who answered", frozenset()),
    ("agreement", "Agreement and reliability", frozenset()),
    ("preference", "Preference scale", frozenset({"pairwise"})),
    ("rating", "Ratings", frozenset({"rating"})),
    ("real_or_fake", "Real or fake", frozenset({"real_or_fake"})),
    ("review", "Review", frozenset({"review"})),
    ("artifacts", "Artifacts", frozenset({"pairwise", "artifact"})),
    (
        "metrics",
        "Metrics against people",
        frozenset({"pairwise", "rating", "real_or_fake", "review"}),
    ),
    ("methods", "Methods", frozenset()),
    ("provenance", "Provenance", frozenset()),
)
TEMPLATES = Path(__file__).parent / "templates"
EXAMPLE_SIDE = 420  # pixels, largest side of an embedded picture


def write_report(report: Report, out: str | Path) -> list[Path]:
    """Write ``report.html``, ``report.json``, ``tables/*`` and ``figures/*.svg`` into ``out``.

    Tables are CSV with full precision and, those of a paper, LaTeX with rounded numbers.

    Everything is made before the first file is written. Returns the files, the page first.

    Raises
    ------
    Interrupted
        A file could not be written; the same command writes them all again.
    """
    root = Path(out)
    drawn = figures.draw(report)
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    files = {
        "report.html": render_html(report, drawn),
        "report.json": text + "\n",
        **{
            f"tables/{name}.csv": frame.to_csv(index=False, lineterminator="\n")
            for name, frame in tables(report).items()
        },
        **{f"tables/{paper.name}.tex": latex(paper) for paper in paper_tables(report)},
        **{
            f"figures/{figure.name}.svg": figure.svg + "\n"
            for found in drawn.values()
            for figure in found
        },
    }
    try:
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(root / name, content.encode())
    except OSError as error:
        raise Interrupted(f"{root}: the report could not be written: {error.strerror}") from error
    return [root / name for name in files]


def render_html(report: Report, drawn: dict[str, tuple[figures.Figure, ...]]) -> str:
    """Render the page; it loads nothing from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "strong": _strong,
        "number": words.number,
        "interval": words.interval,
        "percent": words.percent,
        "doubts_of": _doubts,
        "metric_doubts": _metric_doubts,
        "two_lines": _two_lines,
        "components": lambda part: len(set(part.scale.component.tolist())),
        "verdicts": words.verdicts,
        "compared": words.compared,
        "left_out": words.left_out,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    names = dict.fromkeys(name for fact in report.studies for name in fact.conditions)
    anchors = {name: kind for fact in report.studies for name, kind in fact.anchors.items()}
    found: dict[str, tuple[figures.Figure, ...]] = {
        key: drawn.get(key, ()) for key in _figure_keys(report)
    }
    last = max((entry.last_answer for entry in report.people if entry.last_answer), default=None)
    methods = {fact.method for fact in report.studies}
    page = environment.get_template("report.html").render(
        report=report,
        figures=found,
        colors=figures.condition_colors(list(names), anchors),
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        js=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
        sections=[
            (anchor, title)
            for anchor, title, of in SECTIONS
            if (not of or of & methods)
            and (anchor != "comparison" or report.comparison)
            and (anchor != "artifacts" or report.artifacts or report.why)
        ],
        judged_table=judged_table,
        change=words.change,
        several=sum(len(fact.attributes) for fact in report.studies) > 1,
        ranks=words.ranks,
        people_rows=list(_people_rows(report)),
        screening=words.screening(report.people, methods),
        resolved=words.resolved(report.preference),
        examples=list(_pictured(report.examples)),
        partings=list(_pictured(report.partings)),
        facts={
            "observers": " + ".join(f"{entry.observers:,}" for entry in report.people),
            "who": "simulated observers" if report.simulated == "all" else "observers",
            "votes": f"{sum(entry.answers.get('test', 0) for entry in report.people):,}",
            "conditions": len(names),
            "photographs": max((fact.photographs for fact in report.studies), default=0),
            "last": last[:10] if last else None,
        },
    )
    return page + "\n"


def _figure_keys(report: Report) -> Iterator[str]:
    yield from ("people", "agreement", "comparison", "why")
    for fact in report.studies:
        for section in ("artifacts", "artifact-parts", "heat"):
            yield f"{section}/{fact.study}"
        for attribute in fact.attributes:
            for section in ("answer", "parts", "metrics", "facets", fact.method, "preference"):
                yield f"{section}/{fact.study}/{attribute}"


def _strong(text: str) -> Markup:
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text))))  # noqa: S704


def _doubts(result: Any) -> list[str]:
    """Every warning inside a result, once, in order; then its problem."""
    found: dict[str, None] = {}

    def visit(value: Any) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for text in getattr(value, "warnings", ()):
                found[words.sentence(text)] = None
            for entry in dataclasses.fields(value):
                visit(getattr(value, entry.name))
        elif isinstance(value, tuple | list):
            for entry in value:
                visit(entry)

    visit(result)
    return [*found, *filter(None, [getattr(result, "problem", "")])]


def _metric_doubts(metrics: Metrics) -> list[str]:
    """Warnings on metrics, each once, with the metrics that they concern."""
    found: dict[str, dict[str, None]] = {}
    for result in metrics.results:
        for part in (result.choices, result.within, result.overall):
            for text in part.warnings if part is not None else ():
                found.setdefault(text, {})[result.metric] = None
    return [f"{words.listing(names)}: {text}." for text, names in found.items()]


def _two_lines(text: str) -> Markup:
    """Break before the interval."""
    value, bracket, rest = text.partition("[")
    return escape(value) + (Markup("<small>[{}</small>").format(rest) if bracket else "")


def _people_rows(report: Report) -> Iterator[tuple[str, list[str]]]:
    people = report.people
    here = zip(people, report.studies, strict=True)

    def row(label: str, cells: list[Any]) -> tuple[str, list[str]]:
        return label, [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]

    yield row("Observers with counted answers", [entry.observers for entry in people])
    if report.simulated != "none":
        yield row("of those who joined, simulated", [entry.simulated for entry in people])
    groups = sorted({group for entry in people for group in entry.groups})
    for group in groups if len(groups) > 1 else ():
        yield row(f"in group {group}", [entry.groups.get(group, 0) for entry in people])
    if any(entry.withdrawn for entry in people):
        yield row("Withdrawn, answers erased", [entry.withdrawn for entry in people])
    if own := [entry.study for entry, fact in here if not fact.imported]:
        complete = [e.sessions_complete if e.study in own else "–" for e in people]
        left = [e.sessions - e.sessions_complete if e.study in own else "–" for e in people]
        yield row("Sessions, complete", complete)
        yield row("Sessions, incomplete", left)
    yield row("Test trials answered", [entry.answers.get("test", 0) for entry in people])
    kinds = ("practice", "repeat", "identical", "gold")
    for kind in kinds:
        if any(kind in entry.answers for entry in people):
            label = f"{kind.capitalize()} trials, not in the estimates"
            yield row(label, [entry.answers.get(kind, 0) for entry in people])
    yield row("Skipped answers", [entry.skipped for entry in people])
    if own:
        yield row("Answers given anew (undo)", [entry.revised for entry in people])
    if any(any(entry.response_counts) for entry in people):
        yield row("Response time, median (quartiles)", [_response_time(entry) for entry in people])
    if any(entry.left_share for entry in people):
        yield row(
            "Left image chosen, of decided pairs",
            [words.percent(entry.left_share) if entry.left_share else "–" for entry in people],
        )
    if own:
        yield row("Looks at results before closing", [entry.looks for entry in people])


def _response_time(entry: People) -> str:
    low, middle, high = (
        words.number(entry.response_s[name], 1)
        for name in ("lower_quartile", "median", "upper_quartile")
    )
    return f"{middle} s ({low}–{high})" if any(entry.response_counts) else "–"


def _pictured(
    examples: Sequence[Example | Parting],
) -> Iterator[tuple[Example | Parting, list[tuple[str, str]]]]:
    for example in examples:
        labels = {"original": "grey original", "first": example.first, "second": example.second}
        pictures = [
            (label, _picture(file, gray=role == "original"))
            for role, label in labels.items()
            if (file := example.images.get(role)) is not None and file.is_file()
        ]
        if len(pictures) >= 2:
            yield example, pictures


def _picture(file: Path, *, gray: bool) -> str:
    """Return a small copy of an image as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(file) as image:
        small = image.convert("L" if gray else "RGB")  # photographs of a run may have colour
        small.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE), Image.Resampling.LANCZOS)
        small.save(buffer, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


# --- tables ----------------------------------------------------------------------------------


def tables(report: Report) -> dict[str, pd.DataFrame]:
    """Return every table that has rows, with full precision.

    Column ``simulated`` marks the observers of each row.
    """
    simulated = {fact.study: fact.simulated for fact in report.studies}

    def table(columns: list[str], rows: Iterator[list[Any]]) -> pd.DataFrame:
        frame = pd.DataFrame(list(rows), columns=["study", *columns])
        frame.insert(1, "simulated", frame["study"].map(simulated))
        return frame

    ends = ["value", "low", "high", "n"]
    part = ["attribute", "group", "stratum", "without_flagged"]
    every = {
        "people": table(["quantity", "value"], _people_table(report)),
        "agreement": table(["attribute", "statistic", *ends, "method"], _agreement_table(report)),
        "preference": table(
            [
                *part, "condition", "jod", "jod_low", "jod_high", "score", "score_low",
                "score_high", "rank_low", "rank_high", "component", "estimable",
            ],
            _preference_table(report),
        ),
        "arms": table(
            [*part, "first", "second", "seeds_first", "seeds_second", *ends, "p_value"],
            _arms_table(report),
        ),
        "pairs": table(
            [
                *part, "first", "second", "first_wins", "ties", "second_wins", "share",
                "share_low", "share_high", "model", "model_low", "model_high",
            ],
            _pairs_table(report),
        ),
        "artifacts": table(
            [
                *part[1:], "condition", "artifact", "min_severity", "seen", "viewings",
                "photographs", "rate", "low", "high", "photographs_upper_bound",
            ],
            _artifacts_table(report),
        ),
        "conditions": table(
            [*part, "condition", "statistic", *ends, "method"], _conditions_table(report)
        ),
        "answers": table([*part, "condition", "answer", "n"], _answers_table(report)),
        "images": table(
            ["attribute", "content", "condition", "mos", "low", "high", "n"], _images_table(report)
        ),
        "why": table(["condition", "lost", "marked", "artifact", "images"], _why_table(report)),
        "comparison": table(
            ["attribute", "baseline", "measure", "condition", *ends, "verdict", "method"],
            _comparison_table(report),
        ),
        "metrics": table(
            ["attribute", "metric", "higher_is_better", "statistic", *ends, "method"],
            _metrics_table(report),
        ),
        "facets": table(
            [
                "attribute", "fact", "of", "photographs", "answers", "metric", "statistic", *ends,
                "method",
            ],
            _facets_table(report),
        ),
    }  # fmt: skip
    return {name: frame for name, frame in every.items() if len(frame)}


def judged_table(part: Judged) -> tuple[list[str], list[list[str]]]:
    """Table of one part of a rating, real-or-fake or review study: heads, and rows of text."""
    names = list(dict.fromkeys(name for r in part.results for name in r.estimates))
    heads = ["Condition", "Answers", *(words.STATISTICS[name] for name in names)]
    bounded = any(result.upper_bound is not None for result in part.results)
    heads += ["Bound, photographs"] * bounded
    rows = []
    for result in part.results:
        cells = [result.condition, f"{sum(result.answers.values()):,}"]
        for name in names:
            found = result.estimates.get(name)
            cells.append("–" if found is None else words.statistic(name, found))
        if bounded:
            cells.append(f"≤ {words.number(100 * (result.upper_bound or 0), 0)}{words.GAP}%")
        rows.append(cells)
    return heads, rows


# --- LaTeX -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table as it is printed; the first column is text, the others numbers."""

    name: str
    caption: str
    heads: list[str]
    rows: list[list[str]]


def paper_tables(report: Report) -> Iterator[PaperTable]:
    """Tables for a paper: agreement, scales, judgements, artifacts, metrics and changes."""
    stamp = f" {report.stamp}." if report.stamp else ""
    level = f"{100 * report.settings['confidence']:g}{words.GAP}%"

    def table(
        kind: str, of: str, caption: str, heads: list[str], rows: list[list[str]]
    ) -> PaperTable:
        name = figures.slug(kind, of)
        return PaperTable(name, f"{caption}, {of}; {level} intervals.{stamp}", heads, rows)

    rows = [
        [
            f"{entry.study}, {entry.attribute}",
            f"{entry.between.n:,}",
            *map(words.interval, (entry.between, entry.between_observers, entry.split_half)),
            words.percent(entry.repeated) if entry.repeated else "–",
        ]
        for entry in report.agreement
    ]
    heads = ["Question", "Units", "Alpha, new units", "Alpha, new observers"]
    heads += ["Reliability of means", "Same answer to a repeat"]
    if rows:
        of = " and ".join(fact.study for fact in report.studies)
        yield table("agreement", of, "Agreement and reliability", heads, rows)
    for one in report.comparison:
        rows = [[e.condition, words.change(one, e.change), e.verdict] for e in one.changes]
        of = f"{one.study} {one.attribute}"
        told = f"Change of {one.measure} against {one.baseline}"
        yield table("comparison", of, told, ["Condition", "Change", "Verdict"], rows)
    for part in report.preference:
        if part.part or part.scale is None:
            continue
        rows = [
            [
                row.item,
                f"{words.number(row.jod)} "
                f"[{words.number(row.jod_low)}, {words.number(row.jod_high)}]",
                words.ranks(row.rank_low, row.rank_high),
            ]
            for row in part.scale.to_frame().itertuples()
            if row.estimable
        ]
        of = f"{part.study} {part.attribute}"
        yield table("preference", of, "Preference scale", ["Condition", "JOD", "Ranks"], rows)
    for judged in report.judged:
        if not judged.part and judged.results:
            heads, rows = judged_table(judged)
            told = words.sentence(judged.measure.told)[:-1]
            yield table(judged.method, f"{judged.study} {judged.attribute}", told, heads, rows)
    for marks in report.artifacts:
        rows = [
            [
                rate.condition,
                str(rate.trials),
                words.percent(rate.rate),
                words.percent(severe.rate),
                f"≤ {words.number(100 * severe.upper_bound, 0)}{words.GAP}%",
            ]
            for rate, severe in zip(marks.any, marks.severe, strict=True)
        ]
        heads = ["Condition", "Viewings", "Any", marks.severity_label, "Bound, photographs"]
        if rows:
            yield table("artifacts", marks.study, "Viewings with artifacts", heads, rows)
    for metrics in report.metrics:
        rows = [
            [
                f"{result.metric} {'↑' if result.higher_is_better else '↓'}",
                *([words.percent(result.choices.accuracy)] if result.choices is not None else []),
                words.interval(result.within.srocc),
                words.interval(result.overall.srocc),
                words.interval(result.overall.plcc),
            ]
            for result in metrics.results
        ]
        heads = ["Metric", *["Choices predicted"] * metrics.paired, "SROCC within"]
        heads += ["SROCC overall", "PLCC overall"]
        if rows:
            of = f"{metrics.study} {metrics.attribute}"
            yield table("metrics", of, "Metrics against people", heads, rows)


_TEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    words.GAP: "~",
    "−": "$-$",
    "–": "--",
    "≤": r"$\le$",
    "∞": r"$\infty$",
    "′": "$'$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def latex(table: PaperTable) -> str:
    """Write a table for LaTeX with the package booktabs."""

    def tex(text: str) -> str:
        return "".join(_TEX.get(char, char) for char in text)

    lines = [
        r"\begin{table}",
        rf"\caption{{{tex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}",
        r"\toprule",
        " & ".join(map(tex, table.heads)) + r" \\",
        r"\midrule",
        *(" & ".join(map(tex, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _ends(estimate: stats.Estimate) -> list[Any]:
    return [estimate.value, estimate.low, estimate.high]


def _people_table(report: Report) -> Iterator[list[Any]]:
    for entry in report.people:
        for key, value in jsonable(entry).items():
            if isinstance(value, dict) and key in ("groups", "answers", "response_s"):
                for name, number in value.items():
                    yield [entry.study, f"{key}_{name}", number]
            elif isinstance(value, int):
                yield [entry.study, key, value]


def _agreement_table(report: Report) -> Iterator[list[Any]]:
    for entry in report.agreement:
        for name in ("between", "between_observers", "split_half", "repeated", "identical"):
            found: stats.Estimate | None = getattr(entry, name)
            if found is not None:
                statistic = "alpha" if name.startswith("between") else name
                yield [
                    entry.study, entry.attribute, statistic, *_ends(found), found.n, found.method
                ]  # fmt: skip


def _slices(report: Report) -> Iterator[tuple[Preference, list[Any]]]:
    for part in report.preference:
        yield part, [part.study, part.attribute, part.group, part.stratum, part.without_flagged]


def _preference_table(report: Report) -> Iterator[list[Any]]:
    for part, labels in _slices(report):
        if part.scale is not None:
            for row in part.scale.to_frame().itertuples():
                yield [
                    *labels, row.item, row.jod, row.jod_low, row.jod_high, row.score, row.low,
                    row.high, row.rank_low, row.rank_high, row.component, row.estimable,
                ]  # fmt: skip


def _arms_table(report: Report) -> Iterator[list[Any]]:
    for part, labels in _slices(report):
        for pair in part.arms:
            yield [
                *labels, pair.first, pair.second, *pair.seeds, *_ends(pair.score), pair.score.n,
                pair.score.p_value,
            ]  # fmt: skip


def _conditions_table(report: Report) -> Iterator[list[Any]]:
    for part in report.judged:
        labels = [part.study, part.attribute, part.group, part.stratum, part.without_flagged]
        for result in part.results:
            for name, found in result.estimates.items():
                yield [*labels, result.condition, name, *_ends(found), found.n, found.method]
            if result.upper_bound is not None:
                told = "one-sided bound on the share of photographs that anyone rejects"
                yield [
                    *labels, result.condition, "rejected_bound", None, None, result.upper_bound,
                    part.photographs, told,
                ]  # fmt: skip


def _answers_table(report: Report) -> Iterator[list[Any]]:
    for part in report.judged:
        labels = [part.study, part.attribute, part.group, part.stratum, part.without_flagged]
        for result in part.results:
            for answer, n in result.answers.items():
                yield [*labels, result.condition, answer, n]
            for reason, n in result.reasons.items():
                yield [*labels, result.condition, f"reason_{reason}", n]


def _images_table(report: Report) -> Iterator[list[Any]]:
    for part in report.judged:
        for image in part.images:
            yield [part.study, part.attribute, *vars(image).values()]


def _why_table(report: Report) -> Iterator[list[Any]]:
    for why in report.why:
        for condition, own in why.counts.items():
            for artifact, n in own.items():
                lost, marked = why.lost[condition], why.marked[condition]
                yield [why.study, condition, lost, marked, artifact, n]


def _comparison_table(report: Report) -> Iterator[list[Any]]:
    for one in report.comparison:
        for entry in one.changes:
            found = entry.change
            yield [
                one.study, one.attribute, one.baseline, one.measure, entry.condition,
                *_ends(found), found.n, entry.verdict, found.method,
            ]  # fmt: skip


def _pairs_table(report: Report) -> Iterator[list[Any]]:
    for part, labels in _slices(report):
        for pair in part.pairs:
            yield [
                *labels, pair.first, pair.second, pair.first_wins, pair.ties, pair.second_wins,
                *_ends(pair.share), *_ends(pair.model),
            ]  # fmt: skip


def _artifacts_table(report: Report) -> Iterator[list[Any]]:
    for one in report.artifacts:
        every: list[Any] = [None, None, False]
        found = [(every, None, one.any), (every, one.severity, one.severe)]
        found.append((every, None, one.by_artifact))
        for part in one.parts:
            labels = [part.group, part.stratum, part.without_flagged]
            found += [(labels, None, part.any), (labels, one.severity, part.severe)]
        for labels, least, rates in found:
            for rate in rates:
                yield [
                    one.study, *labels, rate.condition, rate.artifact or "any", least, rate.seen,
                    rate.trials, rate.contents, *_ends(rate.rate), rate.upper_bound,
                ]  # fmt: skip


def _facets_table(report: Report) -> Iterator[list[Any]]:
    for part in report.metrics:
        statistic = "choice_accuracy" if part.paired else "srocc_within"
        for facet in part.facets:
            for metric, found in facet.found.items():
                yield [
                    part.study, part.attribute, facet.fact, facet.value, facet.photographs,
                    facet.answers, metric, statistic, *_ends(found), found.n, found.method,
                ]  # fmt: skip


def _metrics_table(report: Report) -> Iterator[list[Any]]:
    for part in report.metrics:
        for result in part.results:
            choices = result.choices
            found = {
                **(
                    {
                        "choice_accuracy": choices.accuracy,
                        "choice_log_loss": choices.log_loss,
                        "human_accuracy": choices.human_accuracy,
                    }
                    if choices is not None
                    else {}
                ),
                **{
                    f"{name}_{where}": getattr(correlation, name)
                    for where, correlation in (
                        ("within", result.within),
                        ("overall", result.overall),
                    )
                    for name in ("srocc", "krocc", "plcc_raw", "plcc", "rmse")
                },
            }
            for statistic, estimate in found.items():
                yield [
                    part.study, part.attribute, result.metric, result.higher_is_better, statistic,
                    *_ends(estimate), estimate.n, estimate.method,
                ]  # fmt: skip
