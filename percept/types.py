"""Column names, literals and aliases that more than one stage uses."""

from __future__ import annotations

from typing import Final, Literal

Method = Literal["pairwise", "artifact", "rating", "real_or_fake", "review"]
METHODS: Final = ("pairwise", "artifact", "rating", "real_or_fake", "review")

Kind = Literal["test", "practice", "gold", "repeat", "identical"]
KINDS: Final = ("test", "practice", "gold", "repeat", "identical")

Choice = Literal["left", "right", "tie", "skip"]
CHOICES: Final = ("left", "right", "tie", "skip")

OutputStatus = Literal["ok", "error"]

MANIFEST_REQUIRED: Final = ("content_id", "path", "sha256", "width", "height")
MANIFEST_OPTIONAL: Final = (
    "reference_path",
    "reference_clean_path",
    "era",
    "process",
    "degradation",
    "mask_path",
    "license",
    "source",
    "split",
    "stratum",
    "weight",
)
DEGRADATIONS: Final = (
    "grain",
    "scratches",
    "dust",
    "fading",
    "stains",
    "paper_texture",
    "blur",
    "orthochromatic",
)

OUTPUT_COLUMNS: Final = (
    "content_id",
    "condition",
    "path",
    "sha256",
    "width",
    "height",
    "status",
    "error",
)
METRIC_COLUMNS: Final = ("content_id", "condition", "metric", "value")

# Columns of every tidy frame of ratings, then those that a method adds.
RATING_COLUMNS: Final = (
    "study",
    "method",
    "observer",
    "group",
    "session",
    "trial",
    "attribute",
    "content",
    "kind",
    "expected",
    "repeat_of",
    "response_id",
    "revision",
    "response_time_ms",
    "presented_at",
    "rated_at",
    "simulated",
)
METHOD_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "pairwise": ("left", "right", "choice"),
    "real_or_fake": ("left", "right", "choice"),
    "artifact": ("condition", "artifact", "severity", "x", "y", "width", "height", "shape"),
    "rating": ("condition", "score"),
    "review": ("condition", "verdict", "reason"),
}

MARK_COLUMNS: Final = (
    "response_id",
    "revision",
    "observer",
    "trial",
    "kind",
    "attribute",
    "content",
    "condition",
    "artifact",
    "severity",
    "x",
    "y",
    "width",
    "height",
    "shape",
    "mask",
    "note",
)

# A deliberately poor condition: the photograph left as it is; and the true colour image.
GRAY: Final = "gray"
REFERENCE: Final = "reference"
