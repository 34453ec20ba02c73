"""What a model of a panel says of photographs that nobody rated.

Which of them to rate next, and which outputs a person need not look at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from percept import stats
from percept.calibrate import Model, design_of, predict
from percept.errors import InputError

#: Shares of the held-out reviews that the thresholds tried would pass.
_PASSED = (0.1, 0.2, 0.3, 0.4, 0.5)

FloatArray = npt.NDArray[np.float64]


def rate_next(
    model: Model, table: pd.DataFrame, n: int, *, rated: Iterable[str] = ()
) -> pd.DataFrame:
    """Choose the photographs whose votes would teach the model most.

    Greedily, each time the photograph whose pairs (or reviews) most reduce the entropy of the
    weights, given those chosen before: ``½ log det(1 + Σ Xᵀ W X)``, with Σ the covariance of the
    weights, X the rows that its votes would add and W the variance p(1 − p) of one vote on each
    (D-optimal design).

    Parameters
    ----------
    model, table
        As of :func:`percept.calibrate.predict`.
    n : int
        Photographs wanted.
    rated : iterable of str
        Photographs that are not to be chosen.

    Returns
    -------
    DataFrame
        ``content, gain, undecided``: nats won, and the mean predicted chance that a vote goes
        against the model's favourite; best first.
    """
    contents, design, eta = design_of(model, table)
    out = set(rated)
    names = [name for name in pd.unique(contents) if name not in out]
    p = 1 / (1 + np.exp(-eta))
    d = design.shape[1]
    information = np.zeros((len(names), d, d))
    undecided = np.zeros(len(names))
    for i, name in enumerate(names):
        own = contents == name
        x = design[own]
        information[i] = (x * (p[own] * (1 - p[own]))[:, None]).T @ x
        undecided[i] = float(np.minimum(p[own], 1 - p[own]).mean())
    covariance, chosen, gains = model.covariance, [], []
    left = np.ones(len(names), dtype=bool)
    for _ in range(min(n, len(names))):
        gain = 0.5 * np.linalg.slogdet(np.eye(d) + covariance @ information)[1]
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        left[best] = False
        chosen.append(best)
        gains.append(float(gain[best]))
        covariance = np.linalg.inv(np.linalg.inv(covariance) + information[best])
    return pd.DataFrame(
        {
            "content": [names[i] for i in chosen],
            "gain": gains,
            "undecided": undecided[chosen],
        }
    )


@dataclass(frozen=True)
class Threshold:
    """A score beyond which a person need not look, and what supports it.

    Attributes
    ----------
    score : float
        Log-odds of "accept"; infinite where no threshold keeps the rate.
    error_rate, bound : float
        Share of held-out reviews beyond it that say otherwise, and its upper bound (one-sided,
        for new photographs); where none keeps the rate, of the one that comes nearest.
    n : int
        Those reviews.
    """

    score: float
    error_rate: float
    bound: float
    n: int


@dataclass(frozen=True)
class Triage:
    """Outputs sorted into surely fine, surely bad, and those that a person has to see.

    Attributes
    ----------
    fine, bad : Threshold
        Above the one and below the other.
    table : DataFrame
        ``content, condition, verdict (fine | bad | ask), score, chance, outside``; ``chance`` is
        the calibrated chance of "accept".
    confidence : float
        Of the bounds.
    """

    fine: Threshold
    bad: Threshold
    table: pd.DataFrame
    confidence: float


def triage(
    model: Model, table: pd.DataFrame, *, error_rate: float = 0.05, confidence: float = 0.95
) -> Triage:
    """Sort outputs by a model of a review study.

    Five thresholds, which pass 10, 20 … 50 % of the held-out reviews, are tried on either side;
    the one that passes most is taken of those whose share of wrong reviews has its upper bound
    below ``error_rate``, each bound at a fifth of the error so that all five hold together. An
    output whose metrics lie outside what the model was fitted on is always left to a person.

    Raises
    ------
    InputError
        The model is of a pairwise study, which says what is better, not what is good enough.
    """
    if model.kind != "review":
        raise InputError(
            "triage needs a model of a review study: pairs tell what is better, not what is fine",
            value=model.name,
        )
    if not 0 < error_rate < 1:
        raise InputError("lies between 0 and 1", key="error_rate", value=error_rate)
    held = model.held_out.dropna(subset=["log_odds"])
    fine = _threshold(held, 1.0, error_rate, confidence)
    bad = _threshold(held, -1.0, error_rate, confidence)
    found = predict(model, table)
    score = found["score"].to_numpy()
    verdict = np.where(score >= fine.score, "fine", np.where(score <= bad.score, "bad", "ask"))
    verdict = np.where(found["outside"] != "", "ask", verdict)
    chance = 1 / (1 + np.exp(-model.shrink * score - model.shift))
    sorted_table = found.assign(verdict=verdict, chance=chance)
    columns = ["content", "condition", "verdict", "score", "chance", "outside"]
    return Triage(fine, bad, sorted_table[columns], confidence)


def _threshold(held: pd.DataFrame, way: float, limit: float, confidence: float) -> Threshold:
    """Lowest (way 1) or highest (way -1) score that keeps the share of errors below the limit."""
    order = held.assign(key=way * held["log_odds"]).sort_values("key", ascending=False)
    reviews = order["n"].cumsum().to_numpy()
    wrong = order["n"] - order["wins"] if way > 0 else order["wins"]
    share = (wrong / order["n"]).to_numpy(float)
    level = 1 - 2 * (1 - confidence) / len(_PASSED)  # two-sided, of one-sided bounds
    found = Threshold(way * np.inf, np.nan, np.inf, 0)
    for passed in _PASSED:
        n = int(np.searchsorted(reviews, passed * reviews[-1])) + 1
        rate = stats.cluster_mean(
            share[:n],
            order.iloc[:n],
            cluster=("content",),
            weights=order["n"].to_numpy(float)[:n],
            share=True,
            confidence=level,
        )
        if rate.high < limit:
            score = float(order["log_odds"].iloc[n - 1])
            found = Threshold(score, rate.value, rate.high, int(reviews[n - 1]))
        elif rate.high < found.bound and np.isinf(found.score):
            found = Threshold(way * np.inf, rate.value, rate.high, int(reviews[n - 1]))
    return found


def check_sample(
    sorted_out: Triage,
    error_rate: float = 0.05,
    *,
    rated: Iterable[str] = (),
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Draw the outputs whose review checks a triage: enough to show that its rate is kept.

    Parameters
    ----------
    sorted_out : Triage
    error_rate : float
        Share of wrong ones that must not be passed over.
    rated : iterable of str
        Photographs that the model was fitted on: they check nothing.
    rng : Generator
        Of the draw.

    Returns
    -------
    DataFrame
        ``content, condition, sorted``: a simple random sample of those sorted as ``fine`` and as
        ``bad``, of :func:`percept.stats.acceptance_sample` each, in random order.
    """
    table = sorted_out.table[~sorted_out.table["content"].isin(set(rated)).to_numpy(bool)]
    drawn = []
    for verdict in ("fine", "bad"):
        lot = table[(table["verdict"] == verdict).to_numpy(bool)]
        if len(lot):
            n = stats.acceptance_sample(error_rate, lot=len(lot), confidence=sorted_out.confidence)
            drawn.append(lot.sample(min(n, len(lot)), random_state=rng))
    chosen = pd.concat(drawn) if drawn else table.iloc[:0]
    columns = chosen[["content", "condition", "verdict"]].rename(columns={"verdict": "sorted"})
    return columns.sample(frac=1, random_state=rng).reset_index(drop=True)


@dataclass(frozen=True)
class Check:
    """What people said of a sample of the outputs sorted one way.

    Attributes
    ----------
    sorted : str
        ``fine`` or ``bad``.
    lot, n, wrong : int
        Outputs sorted so that nobody had rated, those of them that were reviewed, and those whose
        reviews mostly say otherwise.
    bound : float
        One-sided bound on the share of wrong ones in the lot.
    """

    sorted: str
    lot: int
    n: int
    wrong: int
    bound: float


def check(
    sorted_out: Triage, reviews: pd.DataFrame, *, rated: Iterable[str] = ()
) -> tuple[Check, ...]:
    """Hold a triage against reviews of a random sample of it.

    Parameters
    ----------
    sorted_out : Triage
    reviews : DataFrame
        ``content, condition, verdict (accept | fix | reject)``, one row a review, such as an
        export of a review study.
    rated : iterable of str
        As of :func:`check_sample`.

    Raises
    ------
    InputError
        A column is missing, a verdict is none, or no output that was passed is among them.
    """
    for column in ("content", "condition", "verdict"):
        if column not in reviews:
            raise InputError("the reviews lack a column", column=column)
    unknown = set(reviews["verdict"].dropna()) - {"accept", "fix", "reject"}
    if unknown:
        raise InputError("must be accept, fix or reject", column="verdict", value=min(unknown))
    given = reviews.dropna(subset=["verdict"])
    accepted = (given["verdict"] == "accept").astype(float)
    share = accepted.groupby([given["content"].astype(str), given["condition"]]).mean()
    table = sorted_out.table[~sorted_out.table["content"].isin(set(rated)).to_numpy(bool)]
    keys = pd.MultiIndex.from_frame(table[["content", "condition"]])
    said = share.reindex(keys).to_numpy(float)
    found = []
    for verdict in ("fine", "bad"):
        lot = (table["verdict"] == verdict).to_numpy(bool)
        own = said[lot & np.isfinite(said)]
        wrong = int(((own < 0.5) if verdict == "fine" else (own >= 0.5)).sum())
        if own.size:
            bound = stats.defect_bound(
                wrong, own.size, lot=int(lot.sum()), confidence=sorted_out.confidence
            )
            found.append(Check(verdict, int(lot.sum()), own.size, wrong, bound))
    if not found:
        raise InputError("none of the reviews is of an output that was passed")
    return tuple(found)
