"""Writes a report: one HTML page that needs nothing else, JSON, CSV tables and SVG figures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from percept import stats
from percept.errors import Interrupted
from percept.files import write_bytes_atomic
from percept.report import figures, words
from percept.report.build import Example, Metrics, People, Preference, Report, jsonable

SECTIONS = (
    ("answer", "The answer"),
    ("people", "Who answered"),
    ("agreement", "Agreement and reliability"),
    ("preference", "Preference scale"),
    ("artifacts", "Artifacts"),
    ("metrics", "Metrics against people"),
    ("methods", "Methods"),
    ("provenance", "Provenance"),
)
TEMPLATES = Path(__file__).parent / "templates"
EXAMPLE_SIDE = 420  # pixels, largest side of an embedded picture


def write_report(report: Report, out: str | Path) -> list[Path]:
    """Write ``report.html``, ``report.json``, ``tables/*.csv`` and ``figures/*.svg`` into ``out``.

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
        "left_out": words.left_out,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    names = dict.fromkeys(name for fact in report.studies for name in fact.conditions)
    anchors = {name: kind for fact in report.studies for name, kind in fact.anchors.items()}
    found: dict[str, tuple[figures.Figure, ...]] = {
        key: drawn.get(key, ()) for key in _figure_keys(report)
    }
    last = max((entry.last_answer for entry in report.people if entry.last_answer), default=None)
    page = environment.get_template("report.html").render(
        report=report,
        figures=found,
        colors=figures.condition_colors(list(names), anchors),
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        sections=SECTIONS,
        several=sum(len(fact.attributes) for fact in report.studies) > 1,
        ranks=words.ranks,
        people_rows=list(_people_rows(report)),
        screening=words.screening(report.people),
        resolved=words.resolved(report.preference),
        examples=list(_examples(report.examples)),
        facts={
            "observers": " + ".join(str(entry.observers) for entry in report.people),
            "who": "simulated observers" if report.simulated == "all" else "observers",
            "votes": f"{sum(entry.answers.get('test', 0) for entry in report.people):,}",
            "conditions": len(names),
            "photographs": max((fact.photographs for fact in report.studies), default=0),
            "last": last[:10] if last else None,
        },
    )
    return page + "\n"


def _figure_keys(report: Report) -> Iterator[str]:
    yield "people"
    for fact in report.studies:
        yield from (f"artifacts/{fact.study}", f"heat/{fact.study}")
        for attribute in fact.attributes:
            for section in ("answer", "preference", "parts", "metrics"):
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
            for text in part.warnings:
                found.setdefault(text, {})[result.metric] = None
    return [f"{words.listing(names)}: {text}." for text, names in found.items()]


def _two_lines(text: str) -> Markup:
    """Break before the interval."""
    value, bracket, rest = text.partition("[")
    return escape(value) + (Markup("<small>[{}</small>").format(rest) if bracket else "")


def _people_rows(report: Report) -> Iterator[tuple[str, list[str]]]:
    people = report.people

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
    yield row("Sessions, complete", [entry.sessions_complete for entry in people])
    yield row(
        "Sessions, incomplete", [entry.sessions - entry.sessions_complete for entry in people]
    )
    yield row("Test trials answered", [entry.answers.get("test", 0) for entry in people])
    kinds = ("practice", "repeat", "identical", "gold")
    for kind in kinds:
        if any(kind in entry.answers for entry in people):
            label = f"{kind.capitalize()} trials, not in the estimates"
            yield row(label, [entry.answers.get(kind, 0) for entry in people])
    yield row("Skipped answers", [entry.skipped for entry in people])
    yield row("Answers given anew (undo)", [entry.revised for entry in people])
    yield row("Response time, median (quartiles)", [_response_time(entry) for entry in people])
    if any(entry.left_share for entry in people):
        yield row(
            "Left image chosen, of decided pairs",
            [words.percent(entry.left_share) if entry.left_share else "–" for entry in people],
        )
    yield row("Looks at results before closing", [entry.looks for entry in people])


def _response_time(entry: People) -> str:
    low, middle, high = (
        words.number(entry.response_s[name], 1)
        for name in ("lower_quartile", "median", "upper_quartile")
    )
    return f"{middle} s ({low}–{high})" if any(entry.response_counts) else "–"


def _examples(examples: tuple[Example, ...]) -> Iterator[tuple[Example, list[tuple[str, str]]]]:
    for example in examples:
        labels = {"original": "grey original", "first": example.first, "second": example.second}
        files = {label: example.images.get(role) for role, label in labels.items()}
        pictures = [
            (label, _picture(file))
            for label, file in files.items()
            if file is not None and file.is_file()
        ]
        if len(pictures) >= 2:
            yield example, pictures


def _picture(file: Path) -> str:
    """Return a small copy of an image as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(file) as image:
        small = image.convert("RGB")
        small.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE), Image.Resampling.LANCZOS)
        small.save(buffer, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


# --- tables ----------------------------------------------------------------------------------


def tables(report: Report) -> dict[str, pd.DataFrame]:
    """Return every table with full precision; column ``simulated`` marks each row's observers."""
    simulated = {fact.study: fact.simulated for fact in report.studies}

    def table(columns: list[str], rows: Iterator[list[Any]]) -> pd.DataFrame:
        frame = pd.DataFrame(list(rows), columns=["study", *columns])
        frame.insert(1, "simulated", frame["study"].map(simulated))
        return frame

    ends = ["value", "low", "high", "n"]
    part = ["attribute", "group", "stratum", "without_flagged"]
    return {
        "people": table(["quantity", "value"], _people_table(report)),
        "agreement": table(["attribute", "statistic", *ends, "method"], _agreement_table(report)),
        "preference": table(
            [
                *part, "condition", "jod", "jod_low", "jod_high", "score", "score_low",
                "score_high", "rank_low", "rank_high", "component", "estimable",
            ],
            _preference_table(report),
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
                "condition", "artifact", "min_severity", "seen", "viewings", "photographs",
                "rate", "low", "high", "photographs_upper_bound",
            ],
            _artifacts_table(report),
        ),
        "metrics": table(
            ["attribute", "metric", "higher_is_better", "statistic", *ends, "method"],
            _metrics_table(report),
        ),
    }  # fmt: skip


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


def _pairs_table(report: Report) -> Iterator[list[Any]]:
    for part, labels in _slices(report):
        for pair in part.pairs:
            yield [
                *labels, pair.first, pair.second, pair.first_wins, pair.ties, pair.second_wins,
                *_ends(pair.share), *_ends(pair.model),
            ]  # fmt: skip


def _artifacts_table(report: Report) -> Iterator[list[Any]]:
    for one in report.artifacts:
        for least, rates in (
            (None, one.any),
            (one.severity, one.severe),
            (None, one.by_artifact),
        ):
            for rate in rates:
                yield [
                    one.study, rate.condition, rate.artifact or "any", least, rate.seen,
                    rate.trials, rate.contents, *_ends(rate.rate), rate.upper_bound,
                ]  # fmt: skip


def _metrics_table(report: Report) -> Iterator[list[Any]]:
    for part in report.metrics:
        for result in part.results:
            found = {
                "choice_accuracy": result.choices.accuracy,
                "choice_log_loss": result.choices.log_loss,
                "human_accuracy": result.choices.human_accuracy,
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
