"""The rule of a study: a TOML file read into a frozen :class:`Protocol`.

Configuration is data. A file is validated once, here: an unknown key, a wrong type or a value
out of range is an :class:`~percept.errors.InputError` with file, key, value and remedy. The
text of the file is frozen into every study made with it. ``protocols/README.md`` explains
every key.
"""

from __future__ import annotations

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
from percept.types import METHODS, Method

#: Methods that this version can run; the others of ``METHODS`` are recognised and refused.
AVAILABLE: tuple[Method, ...] = ("pairwise", "artifact")

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")  # types of pydantic's findings
_MISSING = ("missing", "missing_argument")
_CONFIG = ConfigDict(extra="forbid")
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000, strip_whitespace=True)]
_Line = Annotated[str, StringConstraints(min_length=1, max_length=300, strip_whitespace=True)]
_Count = Annotated[int, Field(ge=0, le=1000)]


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
class Display:
    """How stimuli are rendered and shown."""

    max_side: Annotated[int, Field(ge=64, le=8192)] = 1024
    """Largest side of the rendered images, pixels; photographs are never enlarged."""
    original: bool = True
    """Whether the grey original is on view beside what is judged."""


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


@dataclass(frozen=True, config=_CONFIG)
class Protocol:
    """One rule: what is shown, what is asked, how often. Made by :func:`load_protocol`."""

    method: Method
    """How observers answer: ``pairwise`` or ``artifact``."""
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
    identical: _Count = 0
    """Pairs of one image with itself (``pairwise`` only)."""
    tie: bool = False
    """Whether "no difference" is an answer (``pairwise`` only)."""
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
    context: tuple[Literal["era", "process"], ...] = ()
    """Facts of the photograph that are shown, the same for both sides."""
    aids: tuple[Literal["zoom"], ...] = ("zoom",)
    """Viewing aids that observers may use."""
    groups: Annotated[tuple[_Name, ...], Field(min_length=1)] = ("public",)
    """Observer groups; the first is that of a link that names none."""
    display: Display = Display()
    """How stimuli are rendered and shown."""
    completion: Completion = Completion()
    """What observers get at the end."""
    artifacts: tuple[Artifact, ...] = ()
    """The taxonomy of marks (``artifact`` only)."""
    severities: tuple[Severity, ...] = ()
    """The levels of severity (``artifact`` only)."""
    text: str = field(default="", init=False, repr=False)
    """The TOML text this was read from."""

    def __post_init__(self) -> None:
        for key in ("attributes", "artifacts"):
            _no_twins(key, [entry.name for entry in getattr(self, key)])
        _no_twins("severities", [level.value for level in self.severities])
        for key in ("groups", "context", "aids", "skip"):
            _no_twins(key, getattr(self, key))
        if self.method == "pairwise":
            for key in ("artifacts", "severities"):
                if getattr(self, key):
                    raise InputError(
                        f"{key} belong to the artifact method", key=key, remedy=f"Remove [[{key}]]"
                    )
        elif self.method == "artifact":
            for key in ("artifacts", "severities"):
                if not getattr(self, key):
                    raise InputError(
                        f"the artifact method needs {key}", key=key, remedy=f"Add [[{key}]] entries"
                    )
            for key in ("tie", "identical"):
                if getattr(self, key):
                    raise InputError(
                        f"{key} belongs to the pairwise method",
                        key=key,
                        value=getattr(self, key),
                        remedy="Remove it",
                    )
            if len(self.attributes) > 1:
                raise InputError(
                    "the artifact method asks one question",
                    key="attributes",
                    value=[attribute.name for attribute in self.attributes],
                    remedy="Keep one [[attributes]] entry",
                )
        if self.repeats > self.trials:
            raise InputError(
                "there cannot be more repeats than trials",
                key="repeats",
                value=self.repeats,
                remedy=f"Use at most trials = {self.trials}",
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
        answers: tuple[tuple[str, str], ...]
        if self.method == "pairwise":
            answers = (("left", "Left"), ("right", "Right"))
            if self.tie:
                answers = (("left", "Left"), ("tie", "No difference"), ("right", "Right"))
        else:
            answers = (("none", "No artifact seen"), ("marks", "Save these marks"))
        return (*answers, ("skip", "Skip")) if self.skip else answers


def load_protocol(source: str | Path) -> Protocol:
    """Read a protocol.

    Parameters
    ----------
    source : str or Path
        A TOML file, or the name of a bundled protocol (``pairwise``, ``artifact``).

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
    method = data.get("method")
    if method in METHODS and method not in AVAILABLE:
        raise InputError(
            "this method is not available in this version",
            file=file,
            key="method",
            value=method,
            remedy=f"Use one of: {', '.join(AVAILABLE)}",
        )
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
        tables: dict[str, Any] = {
            "attributes": Attribute,
            "artifacts": Artifact,
            "severities": Severity,
            "display": Display,
            "consent": Consent,
            "completion": Completion,
        }
        owner = tables.get(parts[0], Protocol) if len(parts) > 1 else Protocol
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
