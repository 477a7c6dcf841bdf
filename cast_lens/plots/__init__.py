"""Figures: each function takes a tidy frame and returns a plotly ``Figure``. None of them shows or
writes anything.

- geometry: ``plot_parallelism``, ``plot_cosine_matrix``, ``plot_projection``, ``plot_entropy``,
  ``plot_cohesion``, ``plot_alignment``;
- steering: ``plot_sweep``, ``plot_transfer_matrix``, ``plot_gain``, ``plot_split``, ``plot_steerability``,
  ``plot_pareto``, ``plot_token_effects``, ``plot_placebos``;
- choosing: ``plot_rules``, ``plot_risk_coverage``, ``plot_headroom``;
- samples and training: ``plot_scaling``, ``plot_selection``, ``plot_loss``;
- adaptive task vectors: ``plot_atv_cosines``, ``plot_atv_norms``, ``plot_atv_against``,
  ``plot_atv_cloud``;
- ``write_figure``, ``write_figures`` put them on disk (html, csv, png); ``themed`` turns one dark or light;
  ``task_style`` says which colour, marker and dash a task has in all of them.
"""

from .clouds import (
    plot_alignment,
    plot_atv_against,
    plot_atv_cloud,
    plot_atv_cosines,
    plot_atv_norms,
    plot_cohesion,
    plot_entropy,
    plot_projection,
)
from .comparisons import plot_costs, plot_headroom, plot_methods, plot_placebos, plot_risk_coverage, plot_rules
from .dose import plot_loss, plot_pareto, plot_scaling, plot_selection, plot_steerability, plot_token_effects
from .files import write_figure, write_figures
from .parallel import plot_cosine_matrix, plot_parallelism
from .style import TaskStyle, task_style, themed
from .sweeps import plot_sweep
from .transfers import plot_gain, plot_split, plot_transfer_matrix

__all__ = [
    "TaskStyle",
    "plot_alignment",
    "plot_atv_against",
    "plot_atv_cloud",
    "plot_atv_cosines",
    "plot_atv_norms",
    "plot_cohesion",
    "plot_cosine_matrix",
    "plot_costs",
    "plot_entropy",
    "plot_gain",
    "plot_headroom",
    "plot_loss",
    "plot_methods",
    "plot_parallelism",
    "plot_pareto",
    "plot_placebos",
    "plot_projection",
    "plot_risk_coverage",
    "plot_rules",
    "plot_scaling",
    "plot_selection",
    "plot_split",
    "plot_steerability",
    "plot_sweep",
    "plot_token_effects",
    "plot_transfer_matrix",
    "task_style",
    "themed",
    "write_figure",
    "write_figures",
]
