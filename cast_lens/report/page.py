"""Turns a run directory into one page, and writes its figures.

In the page figures are data: plain JSON, rounded, without what all of them share; plotly.js is compressed.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from .. import plots
from ..experiments.outcomes import MID_P, THESE_TASKS
from ..experiments.protocol import ReportFigure
from ..files import atomic_write
from ..methods import FIXED, RULES
from ..plots.files import Png
from ..plots.style import Theme, template
from .record import RunRecord, read_run
from .tables import Table

DIGITS = 4
"""Significant digits of numbers in figures: finer than a pixel."""
THEMES: tuple[Theme, ...] = ("light", "dark")


def figure_data(shown: Sequence[ReportFigure]) -> str:
    """All figures as JSON: two templates, and of each figure its traces and its layout without title and
    template.

    Safe inside a ``script`` element: no ``<`` is left.
    """
    figures = {}
    for one in shown:
        whole = plain(one.figure.to_plotly_json())
        layout = {name: value for name, value in whole["layout"].items() if name not in ("template", "title")}
        figures[one.name] = {"data": whole["data"], "layout": layout}
    templates = {theme: plain(template(theme).to_plotly_json()) for theme in THEMES}
    return as_script({"templates": templates, "figures": figures})


def as_script(value: Any) -> str:
    """Plain data as JSON that is safe inside a ``script`` element: no ``<`` is left."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plain(value: Any) -> Any:
    """Plotly's JSON as plain lists and numbers, rounded; not-a-number becomes null."""
    if isinstance(value, dict):
        if set(value) >= {"dtype", "bdata"}:
            return plain(_unpacked(value))
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return _rounded(value)
    return value


def _rounded(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _unpacked(value: dict[str, Any]) -> np.ndarray:
    """The array that plotly packed into base64."""
    array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]).newbyteorder("<"))
    shape = value.get("shape")
    return array.reshape([int(size) for size in str(shape).split(",")]) if shape else array


@functools.cache
def library() -> str:
    """plotly.js, compressed and in base64: 2 MB instead of 5. Every browser since 2023 can unpack it."""
    return base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)).decode()


_log = logging.getLogger("cast_lens")

LARGEST = 5_000_000
"""Bytes of a page that still opens on a phone and goes through a mail server."""
QUESTION = (
    "A language model answers better after a few worked examples. The examples move its internal state: the "
    "difference between the states with and without them is a vector. Do the vectors of different tasks point the "
    "same way? And when the vector of one task, the source, is added to the model while it answers another task, the "
    "target, without any examples: does it answer better, and if so, does it choose better answers, or does it only "
    "learn what an answer looks like?"
)
TOUCHED = {
    "last": "at the last token of the prompt and at each token that the model then writes",
    "prompt_last": "at the last token of the prompt",
    "all": "at every token",
}
EDITS = {
    "add": "adds strength × vector to the residual stream",
    "norm_preserving_add": "adds strength × vector to the residual stream and restores its length",
    "ablate": "removes the vector's direction from the residual stream",
    "replace": "puts strength × vector in place of the residual stream",
}
READING = (
    "Exact match: the answer is right. Label validity: it is an admissible answer, right or wrong. Label-restricted "
    "accuracy: among the admissible answers the right one is the most probable; format plays no part in it.",
    "Brackets are 95 % intervals. The column verdict calls a change a gain or a loss where its p-value, corrected "
    "after Holm for all tests of the table, is below 0.05; not shown is not the same as no effect.",
    THESE_TASKS,
    MID_P,
    "Answers are decoded greedily, with one prompt template per task; sampling or another wording may behave "
    "differently.",
)


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
    return plots.write_figures({one.name: (one.figure, one.frame) for one in shown}, run_dir / "figures", png=png)


def write_report(run_dir: Path) -> Path:
    """Write ``report.html``: one page that opens offline, from whatever the run has finished.

    A chapter without a result, or one that cannot be read, says so without affecting the others. The page holds its
    figures as data; the script that draws them is inside. If it would be larger than 5 MB, figures are left out from
    the end and named.

    Args:
        run_dir: a run directory, finished or not.

    Returns:
        the path of the page.

    Raises:
        ValueError: when the directory holds no run, or one of an earlier version.
    """
    record = read_run(run_dir)
    return _write_page(record, record.figures)


def publish(run_dir: Path, *, png: Png = "auto") -> Path:
    """``write_figures`` and ``write_report`` in one, each figure made once; the path of the page.

    Raises:
        ValueError: as ``write_report``.
    """
    record = read_run(run_dir)
    write_drawn(record.figures, run_dir, png=png)
    return _write_page(record, record.figures)


def _write_page(record: RunRecord, shown: list[ReportFigure]) -> Path:
    omitted: list[str] = []
    page = render(record, shown, omitted)
    while len(page.encode()) > LARGEST and shown:
        omitted.append(shown.pop().title)
        page = render(record, shown, omitted)
    if omitted:
        _log.warning("report.html leaves out %s to stay below 5 MB; they are in figures/", ", ".join(omitted))
    return atomic_write(record.path / "report.html", page.encode())


def marked(text: str) -> Markup:
    """Text for the page, with what stands between backticks as code."""
    return Markup(re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text))))


def render(record: RunRecord, shown: list[ReportFigure], omitted: list[str]) -> str:
    """The page as text."""
    folder = Environment(
        loader=PackageLoader("cast_lens", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    folder.filters["marked"] = marked
    sources, targets = (list(record.config.get(name, ())) for name in ("sources", "targets"))
    return folder.get_template("report.html.j2").render(
        title=f"Cross-task activation steering: {record.config.get('model', 'a language model')}",
        scope=f"{_count(sources, 'source')}, {_count(targets, 'target')}",
        question=QUESTION,
        chapters=record.chapters,
        shown={one.name for one in shown},
        heights={one.name: int(one.figure.layout.height) for one in shown},
        labels=_labels(record),
        method=method_sentences(record.config),
        reading=READING,
        model_limit=_model_limit(record),
        provenance=provenance(record),
        config=as_toml(record.config),
        omitted=omitted,
        figure_data=figure_data(shown),
        library=library() if shown else "",
    )


def _count(names: list[str], kind: str) -> str:
    return f"{len(names)} {kind}{'' if len(names) == 1 else 's'}"


def _labels(record: RunRecord) -> Table | None:
    """The labels of all chapters, each task and use once."""
    tables = [chapter.labels for chapter in record.chapters if chapter.labels is not None]
    rows = {tuple(row): row for one in tables for row in one.rows}
    return Table("labels", tables[0].columns, list(rows.values())) if tables else None


def _chosen_how(config: Mapping[str, Any]) -> str:
    """How layer and strength were chosen, in a sentence or two."""
    count, rule = config.get("validation", "some"), config.get("rule", "own")
    if rule in FIXED:
        return f"Rule `{rule}` fixes where and how strongly ({RULES[rule].about}): no query is looked at to choose it."
    if rule == "own":
        return (
            f"Layer and strength are chosen for each source on {count} examples of its own validation split: no label "
            "of a target is used to choose anything."
        )
    return (
        f"Rule `{rule}` chooses layer and strength for each pair, or stands aside, on up to {count} queries per task "
        "that are not test queries: no label of a target is used to choose anything, and placebos go through the same "
        "rule."
    )


def method_sentences(config: Mapping[str, Any]) -> list[str]:
    """How a run works, in five sentences."""
    operator, position = config.get("operator", "add"), config.get("position", "last")
    places = "several layers" if config.get("rule") == "middle-layers" else "one layer"
    return [
        f"The model reads each sample's query twice, alone (zero-shot) and after {config.get('shots', 'a few')} worked "
        "examples (few-shot); the residual stream at the last token, few-shot minus zero-shot, is the sample's "
        "difference vector, one at each layer.",
        f"The mean over {config.get('samples', 'the')} samples of a source task is that task's steering vector.",
        f"Steering {EDITS.get(operator, operator)} after {places}, {TOUCHED.get(position, position)}, while the "
        "model answers a target's query zero-shot; nothing is trained.",
        _chosen_how(config),
        "All conditions answer the same test queries greedily and are compared with zero-shot query by query, and "
        "each vector is compared with placebos of the same length: random directions, and a "
        "vector from demonstrations whose answers were shuffled.",
    ]


def _model_limit(record: RunRecord) -> str:
    name, size = record.config.get("model", "the model"), record.model.get("parameters")
    scale = f" ({size / 1e6:,.0f} million parameters)" if size else ""
    return f"One model was run, {name}{scale}. Nothing here says how a larger or another model behaves."


def provenance(record: RunRecord) -> list[tuple[str, str]]:
    """Where the numbers come from: name and value, in reading order."""
    model, config = record.model, record.config
    commands = [
        f"cast-lens {'run' if chapter.name == 'transfer' else f'experiment {chapter.name}'} --config run.toml "
        f"--out {record.path.name}"
        for chapter in record.chapters
    ]
    device = model.get("device", config.get("device", ""))
    rows = [
        ("Preset", str(config.get("preset", ""))),
        ("Model", str(config.get("model", ""))),
        ("Architecture", str(model.get("architecture", ""))),
        ("Weights fingerprint", str(model.get("fingerprint", ""))),
        ("Parameters", f"{model['parameters']:,}" if "parameters" in model else ""),
        ("Layers, width", f"{model.get('n_layers', '')}, {model.get('d_model', '')}".strip(", ")),
        ("Number format, device", f"{model.get('dtype') or config.get('dtype', '')}, {device}".strip(", ")),
        ("Seed", str(config.get("seed", ""))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("Commands", "; ".join(commands)),
    ]
    return [(name, value) for name, value in rows if value]


def as_toml(config: Mapping[str, Any]) -> str:
    """The configuration as the TOML file that repeats the run.

    JSON's strings, numbers and lists are TOML's, too.
    """
    return "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in config.items())
