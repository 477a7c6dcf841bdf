"""From a run directory to figures and one page for a reader.

- ``write_report``: ``report.html``, self-contained, offline;
- ``write_figures``: ``figures/`` with html, csv and png of every figure;
- ``publish``: both.
"""

from .page import publish, write_figures, write_report

__all__ = ["publish", "write_figures", "write_report"]
