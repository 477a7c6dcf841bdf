"""One run directory to one page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..plots.writing import Png
from .exhibit import Exhibit
from .gallery import exhibits, write_exhibits
from .packing import figure_data, library
from .prose import QUESTION, as_toml, limits, method_sentences, provenance
from .record import RunRecord, read_run
from .sentences import left_out, parallelism_reading, placebo_summary, split_summary
from .tables import outcome_tables, setting_rows, split_rows

_log = logging.getLogger("cast_lens")

LARGEST = 5_000_000
"""Bytes of a page that still opens on a phone and goes through a mail server."""

SECTIONS = {
    "answer": "transfer",
    "outcomes": "transfer",
    "split": "split",
    "parallelism": "parallelism",
    "sweep": "sweep",
    "geometry": "cohesion",
}
"""The frame that a section cannot do without."""


def write_report(run_dir: Path) -> Path:
    """Write ``report.html``: one page that opens offline, from whatever frames the run has left.

    A section whose frame is missing says so. The page holds its figures as data; the script that draws them
    is inside. If it would be larger than 5 MB, figures are left out from the end and named.

    Args:
        run_dir: a run directory, finished or not.

    Returns:
        the path of the page.

    Raises:
        ValueError: when the directory holds no run.
    """
    record = read_run(run_dir)
    return _write_page(record, exhibits(record))


def publish(run_dir: Path, *, png: Png = "auto") -> Path:
    """``write_figures`` and ``write_report`` in one, each figure drawn once; the path of the page.

    Raises:
        ValueError: when the directory holds no run.
    """
    record = read_run(run_dir)
    shown = exhibits(record)
    write_exhibits(shown, run_dir, png=png)
    return _write_page(record, shown)


def _write_page(record: RunRecord, shown: list[Exhibit]) -> Path:
    omitted: list[str] = []
    page = render(record, shown, omitted)
    while len(page.encode()) > LARGEST and shown:
        omitted.append(shown.pop().title)
        page = render(record, shown, omitted)
    if omitted:
        _log.warning("report.html leaves out %s to stay below 5 MB; they are in figures/", ", ".join(omitted))
    return atomic_write(record.path / "report.html", page.encode())


def render(record: RunRecord, shown: list[Exhibit], omitted: list[str]) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder = Environment(
        loader=PackageLoader("cast_lens", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return folder.get_template("report.html.j2").render(
        **_words(record),
        **_tables(record),
        is_run=record.is_run,
        chapters=record.chapters,
        figures={
            section: [one for one in shown if one.section == section]
            for section in (*SECTIONS, *(chapter.name for chapter in record.chapters))
        },
        heights={one.name: int(one.figure.layout.height) for one in shown},
        omitted=omitted,
        figure_data=figure_data(shown),
        library=library() if shown else "",
    )


def _words(record: RunRecord) -> dict[str, Any]:
    split, pairs = record.frames.get("split"), record.frames.get("parallelism")
    model = str(record.config.get("model", "a language model"))
    lead, sure = ("", "") if split is None else split_summary(split)
    told = [] if split is None else [sure, placebo_summary(split)]
    return {
        "title": f"Cross-task activation steering: {model}",
        "question": QUESTION,
        "lead": lead,
        "summary": " ".join(part for part in (*told, left_out(record)) if part),
        "parallelism": "" if pairs is None else parallelism_reading(pairs),
        "method": method_sentences(record),
        "limits": limits(record),
        "provenance": provenance(record),
        "config": as_toml(record.config),
        "finished": record.seconds is not None or not record.is_run,
        "missing": _missing(record),
        "scope": f"{_few(record.sources, 'source')}, {_few(record.targets, 'target')}",
    }


def _few(names: list[str], kind: str) -> str:
    return f"{len(names)} {kind}{'' if len(names) == 1 else 's'}"


def _missing(record: RunRecord) -> Mapping[str, str]:
    """Sections that cannot be shown, with the frame that they lack."""
    return {section: frame for section, frame in SECTIONS.items() if frame not in record.frames}


def _tables(record: RunRecord) -> dict[str, Any]:
    transfer, split, sweep = (record.frames.get(name) for name in ("transfer", "split", "sweep"))
    return {
        "targets": [] if transfer is None else outcome_tables(transfer),
        "split_rows": [] if split is None else split_rows(split),
        "settings": [] if sweep is None else setting_rows(sweep),
    }
