"""The figures of a run on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import plots
from ..experiments.protocol import ReportFigure
from ..plots.files import Png
from .record import read_run


def write_figures(run_dir: Path, *, png: Png = "auto") -> list[Path]:
    """Write every figure of a run to its ``figures/``: html, csv, and png where a browser is found.

    Args:
        run_dir: a run directory, finished or not.
        png: see ``plots.write_figure``.

    Returns:
        the files written.

    Raises:
        ValueError: when the directory holds no run that can be read.
    """
    return write_drawn(read_run(run_dir).figures, run_dir, png=png)


def write_drawn(shown: Sequence[ReportFigure], run_dir: Path, *, png: Png = "auto") -> list[Path]:
    """Write figures that were made already; see ``write_figures``."""
    return plots.write_figures(
        {one.name: (one.figure, one.frame) for one in shown}, run_dir / "figures", png=png
    )
