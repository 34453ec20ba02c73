"""The rule of a study: a TOML file read into a frozen :class:`Protocol`.

Configuration is data. A file is validated once, here: an unknown key, a wrong type or a value
out of range is an :class:`~percept.errors.InputError` with file, key, value and remedy. The
text of the file is frozen into every study made with it. ``protocols/README.md`` explains
every key.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from percept import bundle
from percept.errors import InputError, InputErrors
from percept.types import Method

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")  # types of pydantic's findings
_MISSING = ("missing", "missing_argument")
_CONFIG = ConfigDict(extra="forbid")
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000, strip_whitespace=True)]
_Line = Annotated[str, StringConstraints(min_length=1, max_length=300, strip_whitespace=True)]
_Count = Annotated[int, Field(ge=0, le=1000)]
_Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,40}$")]


@dataclass(frozen=True, config=_CONFIG)
class Attribute:
    """One question that is asked about every trial."""

    name: _Name
    """Identifier, a column value in every export."""
    question: _Line
    """What the observer reads."""


@dataclass(frozen=True, config=_CONFIG)
class Artifact:
    """One entry of the taxonomy that marks are chosen from."""

    name: _Name
    """Identifier, a column value in every export."""
    label: _Line
    """What the observer reads on the button."""
    description: str = ""
    """One sentence of help."""


@dataclass(frozen=True, config=_CONFIG)
class Severity:
    """One level of how bad a marked artifact is."""

    value: Annotated[int, Field(ge=1, le=9)]
    """Number in every export; higher is worse."""
    label: _Line
    """What the observer reads."""


@dataclass(frozen=True, config=_CONFIG)
class Score:
    """One grade of a rating scale."""

    value: Annotated[int, Field(ge=1, le=9)]
    """Number in every export; higher is better."""
    label: _Line
    """What the observer reads."""


@dataclass(frozen=True, config=_CONFIG)
class Reason:
    """One reason why a reviewer asks for changes or rejects."""

    name: _Name
    """Identifier, a column value in every export."""
    label: _Line
    """What the observer reads."""
    description: str = ""
    """One sentence of help."""


@dataclass(frozen=True, config=_CONFIG)
class Question:
    """One question about the observer, asked before the session."""

    name: _Name
    """Identifier in the screening facts of every export."""
    text: _Line
    """What the observer reads."""
    answers: Annotated[tuple[_Line, ...], Field(min_length=2, max_length=30)]
    """What can be chosen."""
    optional: bool = True
    """Whether the observer may leave it out."""


@dataclass(frozen=True, config=_CONFIG)
class Display:
    """How stimuli are rendered and shown."""

    max_side: Annotated[int, Field(ge=64, le=8192)] = 1024
    """Largest side of the rendered images, pixels; photographs are never enlarged."""
    original: bool = True
    """Whether the grey original is on view beside what is judged."""
    fit: Literal["fit", "native"] = "fit"
    """Scaled to the window, or one image pixel on one screen pixel."""


@dataclass(frozen=True, config=_CONFIG)
class Consent:
    """What observers agree to before they start."""

    version: _Line
    """Stored with every observer; change it whenever the text changes."""
    text: _Text
    """The information and consent text, paragraphs separated by an empty line."""


@dataclass(frozen=True, config=_CONFIG)
class Completion:
    """What observers get when their last answer is saved."""

    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,12}$")] = "PERCEPT"
    """First part of the completion code; the rest is random for each session."""
    message: _Text = "Thank you. All your answers are saved."
    """Shown above the code."""
    screen_out_code: _Code = "SCREENED-OUT"
    """The code of everyone whom the checks turn away."""
    screen_out_message: _Text = "Thank you. This study needs another screen or other eyes."
    """Shown above that code."""


@dataclass(frozen=True, config=_CONFIG)
class Checks:
    """What is checked before a session, and what follows."""

    color_vision: bool = False
    """Whether colour-vision plates are shown; pass or fail is stored, not the answers."""
    display: bool = False
    """Whether the screen is checked: size, brightness steps, gamut, zoom."""
    on_fail: Literal["note", "screen_out"] = "note"
    """Note a failed check with the observer, or turn the observer away."""


@dataclass(frozen=True, config=_CONFIG)
class Stopping:
    """When results may be looked at before the study is closed; both must hold where given."""

    votes: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Judged test trials that every pair (or condition) has; 0: no rule."""
    half_width: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Half-width of the widest interval of the scale, JOD (``pairwise`` only); 0: no rule."""


@dataclass(frozen=True, config=_CONFIG)
class Protocol:
    """One rule: what is shown, what is asked, how often. Made by :func:`load_protocol`."""

    method: Method
    """How observers answer."""
    title: _Line
    """Name of the task, on the first page."""
    instructions: _Text
    """What to do, paragraphs separated by an empty line."""
    attributes: Annotated[tuple[Attribute, ...], Field(min_length=1, max_length=8)]
    """The questions; their order is drawn anew for every session."""
    consent: Consent
    """Information and consent."""
    trials: Annotated[int, Field(ge=1, le=1000)]
    """Test trials of a session (fewer where a study has fewer different ones)."""
    practice: _Count = 3
    """Announced warm-up trials at the start, kept out of every statistic."""
    repeats: _Count = 0
    """Trials shown a second time, pairs with their sides swapped, for consistency."""
    golds: _Count = 0
    """Trials whose answer is beyond taste, made from the study's own images."""
    identical: _Count = 0
    """Pairs of one image with itself (``pairwise`` only)."""
    practice_feedback: bool = False
    """Whether practice uses golds and tells the observer right from wrong."""
    selection: Literal["balanced", "adaptive"] = "balanced"
    """How pairs are chosen (``pairwise`` only)."""
    tie: bool = False
    """Whether "no difference" is an answer (``pairwise`` only)."""
    why: Literal["off", "optional", "required"] = "off"
    """Marks on the losing image after the first question (``pairwise`` only)."""
    scale: Literal["acr", "dcr"] = "acr"
    """Category rating alone, or of the degradation beside the true image (``rating`` only)."""
    asks: Literal["real", "fake"] = "fake"
    """Which side is asked for (``real_or_fake`` only)."""
    display_ms: Annotated[int, Field(ge=0, le=600_000)] = 1000
    """Images are hidden after this long, milliseconds; 0: never (``real_or_fake`` only)."""
    skip: tuple[_Line, ...] = ()
    """Reasons for which a trial may be skipped; none: no skipping."""
    undo: bool = True
    """Whether the last answered trial may be answered again."""
    isi_ms: Annotated[int, Field(ge=0, le=10_000)] = 250
    """Grey field between two trials, milliseconds."""
    min_view_ms: Annotated[int, Field(ge=0, le=60_000)] = 500
    """Answers are ignored before the images were on view this long, milliseconds."""
    break_every: _Count = 0
    """A break is offered after this many trials; 0: never."""
    session_minutes: Annotated[int, Field(ge=0, le=600)] = 0
    """After this long a sitting offers to stop, minutes; 0: never."""
    context: tuple[Literal["era", "process"], ...] = ()
    """Facts of the photograph that are shown, the same for both sides."""
    aids: tuple[Literal["zoom", "flicker", "slider", "original"], ...] = ("zoom",)
    """Viewing aids that observers may use."""
    groups: Annotated[tuple[_Name, ...], Field(min_length=1)] = ("public",)
    """Observer groups; the first is that of a link that names none."""
    invite_only: bool = False
    """Whether only people with an invitation can join."""
    display: Display = Display()
    """How stimuli are rendered and shown."""
    completion: Completion = Completion()
    """What observers get at the end."""
    checks: Checks = Checks()
    """What is checked before a session."""
    stopping: Stopping = Stopping()
    """When results may be looked at before the study is closed."""
    questions: Annotated[tuple[Question, ...], Field(max_length=20)] = ()
    """Questions about the observer."""
    artifacts: tuple[Artifact, ...] = ()
    """The taxonomy of marks (``artifact``, and ``pairwise`` and ``review`` with marks)."""
    severities: tuple[Severity, ...] = ()
    """The levels of severity of marks."""
    scores: tuple[Score, ...] = ()
    """The grades (``rating`` only); by default the five of the scale."""
    reasons: tuple[Reason, ...] = ()
    """The reasons for a verdict (``review`` only)."""
    text: str = field(default="", init=False, repr=False)
    """The TOML text this was read from."""

    def __post_init__(self) -> None:
        for key in ("attributes", "artifacts", "reasons", "questions"):
            _no_twins(key, [entry.name for entry in getattr(self, key)])
        _no_twins("severities", [level.value for level in self.severities])
        for key in ("groups", "context", "aids", "skip"):
            _no_twins(key, getattr(self, key))
        self._check_method()
        if self.method == "rating" and not self.scores:
            object.__setattr__(self, "scores", SCALES[self.scale])
        grades = [score.value for score in self.scores]
        if grades != list(range(1, len(grades) + 1)) or len(grades) == 1:
            raise InputError(
                "scores count from 1, without a gap, and are at least two",
                key="scores",
                value=grades,
                remedy="Number the [[scores]] 1, 2, 3 …, the best last",
            )
        if self.repeats > self.trials:
            raise InputError(
                "there cannot be more repeats than trials",
                key="repeats",
                value=self.repeats,
                remedy=f"Use at most trials = {self.trials}",
            )
        if "original" in self.aids and self.reference == "true":
            raise InputError(
                "the dcr scale shows the true image, not the grey original",
                key="aids",
                value="original",
                remedy="Remove 'original' from aids",
            )
        if self.stopping.half_width and self.method != "pairwise":
            raise InputError(
                "only pairwise results have a scale",
                key="stopping.half_width",
                value=self.stopping.half_width,
                remedy="Use stopping.votes",
            )

    def _check_method(self) -> None:
        """Hold the keys against ``RULES``."""
        rule = RULES[self.method]
        for key in sorted(set().union(*(one.keys for one in RULES.values())) - rule.keys):
            if getattr(self, key) != Protocol.__dataclass_fields__[key].default:
                owners = [name for name, one in RULES.items() if key in one.keys]
                raise InputError(
                    f"does not belong to the {self.method} method, but to {' and '.join(owners)}",
                    key=key,
                    remedy="Remove it",
                )
        needs = set(rule.needs)
        if self.why != "off" or self.artifacts or self.severities:
            needs |= {"artifacts", "severities"}
        for key in sorted(needs):
            if not getattr(self, key):
                raise InputError(
                    f"the {self.method} method needs {key}"
                    + (" for its marks" if key not in rule.needs else ""),
                    key=key,
                    remedy=f"Add [[{key}]] entries",
                )
        if self.method == "pairwise" and self.artifacts and self.why == "off":
            raise InputError(
                "pairs are marked only where the protocol asks why",
                key="artifacts",
                remedy='Set why = "optional", or remove [[artifacts]] and [[severities]]',
            )
        if len(self.attributes) > rule.questions:
            raise InputError(
                f"the {self.method} method asks one question",
                key="attributes",
                value=[attribute.name for attribute in self.attributes],
                remedy="Keep one [[attributes]] entry",
            )

    @property
    def sha256(self) -> str:
        """Hash of the content: comments, spacing and the order of keys do not count."""
        data = tomllib.loads(self.text)
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """Every possible answer to a question as (value, label), in the order of display."""
        answers = {
            "pairwise": (("left", "Left"), ("right", "Right")),
            "artifact": (("none", "No artifact seen"), ("marks", "Save these marks")),
            "rating": tuple((str(score.value), score.label) for score in self.scores),
            "real_or_fake": (("left", "Left"), ("right", "Right")),
            "review": (("accept", "Accept"), ("fix", "Fix"), ("reject", "Reject")),
        }[self.method]
        if self.tie:
            answers = (answers[0], ("tie", "No difference"), answers[1])
        return (*answers, ("skip", "Skip")) if self.skip else answers

    @property
    def reference(self) -> Literal["original", "true"] | None:
        """What is shown beside what is judged: the grey original, the true image, or nothing.

        The grey original may be there for the viewing aid alone; ``display.original`` says
        whether it is on view all the time.
        """
        if self.method == "rating" and self.scale == "dcr":
            return "true"
        return "original" if self.display.original or "original" in self.aids else None

    @property
    def needs_reference(self) -> bool:
        """Whether a study needs the true colour images, the condition ``reference``."""
        return self.method == "real_or_fake" or self.reference == "true"

    @property
    def hidden_after_ms(self) -> int:
        """Milliseconds after which the images are hidden; 0: they stay."""
        return self.display_ms if self.method == "real_or_fake" else 0

    @property
    def length(self) -> int:
        """Trials of a session, all kinds."""
        return self.practice + self.trials + self.golds + self.repeats + self.identical


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a method allows."""

    keys: frozenset[str]
    """Keys that belong to this method and not to all."""
    needs: tuple[str, ...] = ()
    """Those of them that must be there."""
    questions: int = 1
    """Most ``[[attributes]]``."""


_MARKS = ("artifacts", "severities")
_FEEDBACK = "practice_feedback"  # of a rating, no single grade is right
#: Every key that is not for all methods, by method.
RULES: dict[Method, Rule] = {
    "pairwise": Rule(
        frozenset({"tie", "identical", "selection", "why", _FEEDBACK, *_MARKS}), questions=8
    ),
    "artifact": Rule(frozenset({_FEEDBACK, *_MARKS}), needs=_MARKS),
    "rating": Rule(frozenset({"scale", "scores"}), questions=8),
    "real_or_fake": Rule(frozenset({"asks", "display_ms", _FEEDBACK})),
    "review": Rule(frozenset({"reasons", _FEEDBACK, *_MARKS}), needs=("reasons",)),
}
#: Grades of ITU-T P.910: absolute, and of the degradation.
SCALES: dict[str, tuple[Score, ...]] = {
    scale: tuple(Score(value, label) for value, label in enumerate(labels, start=1))
    for scale, labels in {
        "acr": ("Bad", "Poor", "Fair", "Good", "Excellent"),
        "dcr": (
            "Very annoying",
            "Annoying",
            "Slightly annoying",
            "Perceptible but not annoying",
            "Imperceptible",
        ),
    }.items()
}
#: The tables of a file, by key.
TABLES: dict[str, type] = {
    "attributes": Attribute,
    "artifacts": Artifact,
    "severities": Severity,
    "scores": Score,
    "reasons": Reason,
    "questions": Question,
    "display": Display,
    "consent": Consent,
    "completion": Completion,
    "checks": Checks,
    "stopping": Stopping,
}


def load_protocol(source: str | Path) -> Protocol:
    """Read a protocol.

    Parameters
    ----------
    source : str or Path
        A TOML file, or the name of a bundled protocol (``pairwise``, ``rating-acr`` …).

    Raises
    ------
    InputError, InputErrors
        The file does not exist, is no TOML, or holds a key or value that is not allowed.
    """
    path = Path(source)
    bundled = bundle.root() / "protocols" / f"{source}.toml"
    if not path.is_file() and path.name == str(source) and bundled.is_file():
        path = bundled
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        names = sorted(file.stem for file in bundled.parent.glob("*.toml"))
        raise InputError(
            "the protocol cannot be read",
            file=path,
            remedy=f"Give a TOML file or one of the bundled protocols: {', '.join(names)}",
        ) from error
    return parse_protocol(text, file=path)


def parse_protocol(text: str, *, file: str | Path | None = None) -> Protocol:
    """Read a protocol from its TOML text; ``file`` is named in errors."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", file=file) from error
    try:
        # JSON mode: strict types, yet arrays become tuples. TOML's dates become strings.
        protocol = TypeAdapter(Protocol).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        errors = [_explain(entry, file) for entry in _causes(error.errors())]
        raise (errors[0] if len(errors) == 1 else InputErrors(errors)) from None
    except InputError as error:
        raise InputError(
            error.message, file=file, key=error.key, value=error.value, remedy=error.remedy
        ) from None
    object.__setattr__(protocol, "text", text)
    return protocol


def _no_twins(key: str, values: Any) -> None:
    twins = sorted({value for value in values if list(values).count(value) > 1})
    if twins:
        raise InputError("named twice", key=key, value=twins[0], remedy="Keep one of them")


def _causes(found: list[Any]) -> list[Any]:
    """Drop findings that follow from others.

    A wrong key inside a table also makes the table wrong, and a misspelt one leaves the one
    that was meant missing.
    """

    def follows(entry: Any, other: Any) -> bool:
        loc, cause = entry["loc"], other["loc"]
        if len(cause) > len(loc):
            return bool(cause[: len(loc)] == loc)
        return (
            entry["type"] in _MISSING
            and other["type"] in _UNKNOWN
            and loc[:-1] == cause[:-1]
            and bool(difflib.get_close_matches(str(cause[-1]), [str(loc[-1])]))
        )

    return [entry for entry in found if not any(follows(entry, other) for other in found)]


def _explain(entry: Any, file: str | Path | None) -> InputError:
    """One finding of pydantic as an :class:`InputError`."""
    key = ".".join(str(part) for part in entry["loc"])
    if entry["type"] in _UNKNOWN:
        parts = [part for part in entry["loc"] if isinstance(part, str)]
        owner: Any = TABLES.get(parts[0], Protocol) if len(parts) > 1 else Protocol
        known = sorted(set(owner.__dataclass_fields__) - ({"text"} if owner is Protocol else set()))
        close = difflib.get_close_matches(parts[-1], known, n=1)
        return InputError(
            "unknown key",
            file=file,
            key=key,
            value=entry["input"],
            remedy=f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(known)}",
        )
    if entry["type"] in _MISSING:
        return InputError("a required key is missing", file=file, key=key, remedy="Add it")
    message = entry["msg"][0].lower() + entry["msg"][1:]
    return InputError(
        message,
        file=file,
        key=key,
        value=entry["input"],
        remedy="protocols/README.md explains every key",
    )
