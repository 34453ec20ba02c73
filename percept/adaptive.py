"""Which pair would tell most: a Gaussian posterior of Bradley–Terry scores. Pure functions.

The votes so far give every condition a score with an uncertainty (Laplace's approximation under
a normal prior). The *information gain* of a pair is how much its next vote is expected to narrow
them: little where the outcome is all but certain, and little where both scores are well known.
After each choice the posterior narrows as that vote is expected to narrow it, so that a session
of many pairs, and sessions at the same time, do not all ask the same.

Method: active sampling for pairwise comparisons as in Mikhailiuk et al. 2020 (ASAP, arXiv
2004.05691), with Bradley–Terry in place of Thurstone and a greedy batch in place of a spanning
tree. It is worth little: ``benchmarks/adaptive.py`` found that it needs 85 to 90 % of the votes
of balanced pairs with 20 conditions or more, and no fewer with 10 or less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Standard deviation of the scores (log-strengths) before any vote; 1.1 is one JOD.
PRIOR_SD = 1.5

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Posterior:
    """Scores of C conditions, as far as votes tell.

    Attributes
    ----------
    mean : array (C,)
        Log-strengths.
    covariance : array (C, C)
    """

    mean: FloatArray
    covariance: FloatArray

    def gain(self, pairs: NDArray[np.int64]) -> FloatArray:
        """Expect what one more vote on each pair (P, 2) would tell, in nats, shape (P,)."""
        chance = self._chances(pairs)
        gain = _entropy(chance @ _WEIGHTS) - _entropy(chance) @ _WEIGHTS
        return np.asarray(np.maximum(gain, 0.0))

    def after(self, pair: NDArray[np.int64], votes: float = 1.0) -> Posterior:
        """Narrow by what votes on a pair (2,) are expected to tell; the mean stays."""
        chance = self._chances(pair[None])[0]
        weight = votes * float((chance * (1 - chance)) @ _WEIGHTS)
        first, second = pair
        along = self.covariance[:, first] - self.covariance[:, second]
        shrink = weight / (1 + weight * (along[first] - along[second]))
        return Posterior(self.mean, self.covariance - shrink * np.outer(along, along))

    def _chances(self, pairs: NDArray[np.int64]) -> FloatArray:
        """Chance that the first is preferred, at each node of the difference, shape (P, 15)."""
        first, second = pairs.T
        variance = np.diagonal(self.covariance)
        spread = variance[first] + variance[second] - 2 * self.covariance[first, second]
        sd = np.sqrt(np.maximum(spread, 0.0))
        difference = (self.mean[first] - self.mean[second])[:, None] + sd[:, None] * _NODES
        return np.asarray(1 / (1 + np.exp(-difference)))


def posterior(wins: FloatArray, *, prior_sd: float = PRIOR_SD) -> Posterior:
    """Fit the scores to votes.

    Parameters
    ----------
    wins : array (C, C)
        ``wins[i, j]``: how often i was preferred to j; a tie is half a win each.
    prior_sd : float
        Standard deviation of the normal prior around 0.
    """
    total = wins + wins.T
    mean = np.zeros(len(wins))
    precision = np.eye(len(wins)) / prior_sd**2
    curvature = precision
    for _ in range(100):  # Newton's method on a strictly concave function
        chance = 1 / (1 + np.exp(mean[None, :] - mean[:, None]))
        slope = (wins - total * chance).sum(axis=1) - mean / prior_sd**2
        weight = total * chance * (1 - chance)
        curvature = precision + np.diag(weight.sum(axis=1)) - weight
        step = np.linalg.solve(curvature, slope)
        mean = mean + step / max(1.0, float(np.abs(step).max()))  # never far at once
        if np.abs(step).max() < 1e-9:
            break
    return Posterior(mean, np.asarray(np.linalg.inv(curvature)))


def _entropy(chance: FloatArray) -> FloatArray:
    """Entropy of a vote, in nats."""
    inside = np.clip(chance, 1e-15, 1 - 1e-15)
    return np.asarray(-inside * np.log(inside) - (1 - inside) * np.log1p(-inside))
