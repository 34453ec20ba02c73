"""Statistics of panel data: arrays or tidy frames in, frozen results out.

The public names are loaded on first use; importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Estimate": "bootstrap",
    "cluster_mean": "bootstrap",
    "mean_difference": "bootstrap",
    "proportion_interval": "bootstrap",
    "agreement_weights": "agreement",
    "cohen_kappa": "agreement",
    "fleiss_kappa": "agreement",
    "gwet_ac": "agreement",
    "krippendorff_alpha": "agreement",
    "pairwise_alpha": "agreement",
    "pairwise_units": "agreement",
    "RatingUnits": "agreement",
    "rating_units": "agreement",
    "region_agreement": "regions",
    "region_map": "regions",
    "tag_agreement": "agreement",
    "PairedConsistency": "reliability",
    "Reliability": "reliability",
    "icc": "reliability",
    "kendall_w": "reliability",
    "paired_consistency": "reliability",
    "assess_reliability": "reliability",
    "repeat_consistency": "reliability",
    "PairCounts": "pairwise",
    "Scale": "pairwise",
    "TestedEstimate": "bootstrap",
    "adjust_p_values": "bootstrap",
    "ArmComparison": "pairwise",
    "ArmMeans": "arms",
    "arm_means": "arms",
    "CrowdScale": "pairwise",
    "GoodnessOfFit": "pairwise",
    "bradley_terry": "pairwise",
    "compare_arms": "pairwise",
    "crowd_bradley_terry": "pairwise",
    "goodness_of_fit": "pairwise",
    "scale_by": "pairwise",
    "tell_apart": "pairwise",
    "count_pairs": "pairwise",
    "preference_share": "pairwise",
    "thurstone_case_v": "pairwise",
    "ChoicePrediction": "correlation",
    "Correlation": "correlation",
    "correlate": "correlation",
    "correlate_many": "correlation",
    "predict_choices": "correlation",
    "stimulus_wins": "correlation",
    "TestResult": "metric_tests",
    "TwoAfcScore": "metric_tests",
    "better_worse_auc": "metric_tests",
    "compare_correlations": "metric_tests",
    "compare_strata": "metric_tests",
    "different_similar_auc": "metric_tests",
    "judged_pairs": "metric_tests",
    "two_afc_score": "metric_tests",
    "ArtifactRate": "rates",
    "FoolRate": "rates",
    "ReviewRate": "rates",
    "acceptance_sample": "rates",
    "artifact_rates": "rates",
    "defect_bound": "rates",
    "fool_rates": "rates",
    "review_rates": "rates",
    "Plan": "planning",
    "plan": "planning",
    "Pilot": "planning",
    "read_pilot": "planning",
    "MosResult": "opinion",
    "difference_ratings": "opinion",
    "mos": "opinion",
    "ScreeningRules": "screening",
    "screen_observers": "screening",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
