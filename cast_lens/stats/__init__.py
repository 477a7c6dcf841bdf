"""Intervals, tests and measures of per-example outcomes. Functions take numbers and return numbers or tidy frames.

- intervals: ``mean_interval``, ``paired_difference`` (BCa bootstrap, by example or by cluster; score intervals for
  outcomes of 0 and 1), ``paired_proportions`` (Tango's score interval, exact for few examples),
  ``proportion_interval`` (Wilson), ``t_interval`` (Student, for a few units); each returns an ``Estimate``;
- tests: ``mcnemar_mid_p``, ``mcnemar_exact``, ``paired_permutation_test``, ``correlation_test``, ``cosine_test``,
  ``common_direction_test``, ``placebo_test`` (rank among placebos), ``stratified_placebo_test`` (the same over several
  sources), and ``adjust_p_values`` for a table of tests;
- planning: ``mcnemar_power``, ``minimal_detectable_effect``;
- transfer: ``gain_split`` (format against choice), ``relative_boost``, ``recovered_fraction``,
  ``negative_transfer_rate``;
- classes: ``macro_f1``, ``macro_f1_contrast`` (its change on the same examples, with interval and test);
- dose and response: ``steerability``, ``steerability_summary``;
- association: ``spearman``, ``auroc``, ``silhouette``.

Random generators are local and seeded by argument. Nothing here depends on models, tasks or vectors.
"""

from .association import auroc, correlation_test, silhouette, spearman
from .bootstrap import mean_interval, paired_difference
from .intervals import Estimate, difference_interval, paired_proportions, proportion_interval, t_interval
from .macro_f1 import F1Contrast, macro_f1, macro_f1_contrast
from .significance import (
    HypothesisTest,
    McNemar,
    adjust_p_values,
    common_direction_test,
    cosine_test,
    mcnemar_exact,
    mcnemar_mid_p,
    mcnemar_p_values,
    mcnemar_power,
    minimal_detectable_effect,
    paired_permutation_test,
    placebo_test,
    stratified_placebo_test,
)
from .transfer import (
    gain_split,
    negative_transfer_rate,
    recovered_fraction,
    relative_boost,
    steerability,
    steerability_summary,
)

__all__ = [
    "Estimate",
    "F1Contrast",
    "HypothesisTest",
    "McNemar",
    "adjust_p_values",
    "auroc",
    "common_direction_test",
    "correlation_test",
    "cosine_test",
    "difference_interval",
    "gain_split",
    "macro_f1",
    "macro_f1_contrast",
    "mcnemar_exact",
    "mcnemar_mid_p",
    "mcnemar_p_values",
    "mcnemar_power",
    "mean_interval",
    "minimal_detectable_effect",
    "negative_transfer_rate",
    "paired_difference",
    "paired_permutation_test",
    "paired_proportions",
    "placebo_test",
    "proportion_interval",
    "recovered_fraction",
    "relative_boost",
    "silhouette",
    "spearman",
    "steerability",
    "steerability_summary",
    "stratified_placebo_test",
    "t_interval",
]
