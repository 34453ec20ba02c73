from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, Any]]:
    """Published cases by the stem of their file."""
    return lambda stem: json.loads((DATA / f"{stem}.json").read_text())


@pytest.fixture(scope="session")
def simulate() -> Callable[..., pd.DataFrame]:
    """Votes of people with tastes of their own about photographs with quirks of their own."""

    def votes(
        scores: np.ndarray,
        *,
        observers: int = 20,
        contents: int = 20,
        each: int = 20,
        observer_sd: float = 0.0,
        content_sd: float = 0.0,
        nu: float = 0.0,
        side: float = 0.0,
        rng: np.random.Generator,
    ) -> pd.DataFrame:
        k, n = len(scores), observers * each
        observer = np.repeat(np.arange(observers), each)
        content = rng.integers(contents, size=n)
        left = rng.integers(k, size=n)
        right = (left + rng.integers(1, k, size=n)) % k
        taste = rng.normal(0, observer_sd, (observers, k))
        quirk = rng.normal(0, content_sd, (contents, k))
        total = scores + taste[observer] + quirk[content]
        d = total[np.arange(n), left] - total[np.arange(n), right] + side
        weights = np.stack([np.exp(d / 2), np.full(n, nu), np.exp(-d / 2)], axis=1)
        draw = rng.random(n) * weights.sum(axis=1)
        answer = (draw[:, None] > weights.cumsum(axis=1)).sum(axis=1)
        return pd.DataFrame(
            {
                "observer": [f"o{i}" for i in observer],
                "content": [f"c{i}" for i in content],
                "left": [f"m{i}" for i in left],
                "right": [f"m{i}" for i in right],
                "choice": np.array(["left", "tie", "right"])[answer],
            }
        )

    return votes
