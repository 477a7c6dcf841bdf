"""Write the pages of the experiments from a run directory: what each asks, its options, and what a run printed.

``cast-lens experiment all --quick --out runs/quick`` makes such a directory; this script reads it and runs no model. A
page keeps what was written by hand, between ``<!-- by hand -->`` and ``<!-- end -->``, and the output that it has where
the directory has none of that experiment, or has a small one where the page has that of a default run.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cast_lens.experiments.catalogue import EXPERIMENTS, find
from cast_lens.experiments.protocol import Experiment
from cast_lens.plots import write_figures
from cast_lens.report.record import Chapter, read_run
from cast_lens.report.tables import Table

FOLDER = Path(__file__).parent / "experiments"
_EMPTY = {"backend_arguments": "none"}
"""What an empty option means, where it is not everything."""
HAND = re.compile(r"^<!-- by hand -->.*?^<!-- end -->\n", re.DOTALL | re.MULTILINE)
OUTPUT = re.compile(r"^## What a (?:quick|default) run prints\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
ROWS, COLUMNS = 12, 9
"""Of a table on a page; the run directory has all of it."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/quick"), help="the run directory to read")
    parser.add_argument("--defaults", action="store_true", help="its experiments ran at their defaults, not --quick")
    options = parser.parse_args()
    out = options.out
    record = read_run(out) if out.exists() else None
    chapters = {chapter.name: chapter for chapter in record.chapters} if record else {}
    if not options.defaults:
        chapters = {name: chapter for name, chapter in chapters.items() if not has_defaults(name)}
    keep_pictures(chapters)
    for name in EXPERIMENTS:
        page = FOLDER / f"{name}.md"
        before = page.read_text(encoding="utf-8") if page.exists() else ""
        page.write_text(one_page(find(name), chapters.get(name), before, defaults=options.defaults), encoding="utf-8")
        print(page)
    (FOLDER / "index.md").write_text(overview(chapters), encoding="utf-8")


def has_defaults(name: str) -> bool:
    """Whether a page has the output of a default run, which a small one does not replace."""
    page = FOLDER / f"{name}.md"
    return page.exists() and "## What a default run prints" in page.read_text(encoding="utf-8")


def keep_pictures(chapters: dict[str, Chapter]) -> None:
    """The first figure of each experiment as PNG."""
    first = {one.name: (one.figure, one.frame) for chapter in chapters.values() for one in chapter.figures[:1]}
    (FOLDER / "pictures").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for path in write_figures(first, Path(folder)):
            if path.suffix == ".png":
                shutil.copy2(path, FOLDER / "pictures" / path.name)


def overview(chapters: dict[str, Chapter]) -> str:
    """The list of experiments with their questions."""
    rows = [f"| [`{name}`]({name}.md) | {question} |" for name, question in EXPERIMENTS.items()]
    return f"{ABOUT}\n| experiment | question |\n|---|---|\n" + "\n".join(rows) + "\n"


def one_page(kind: type[Experiment], chapter: Chapter | None, before: str, *, defaults: bool) -> str:
    """Question, options, and what came out of a run; ``before`` is the page as it was."""
    command = "run" if kind.name == "transfer" else f"experiment {kind.name}"
    # Output that the page keeps came from the command that it has.
    kept = re.search(r"^cast-lens (?:run|experiment).*$", before, flags=re.MULTILINE)
    if chapter is not None and chapter.headline:
        command += "" if defaults else " --quick"
    else:
        command = kept[0].removeprefix("cast-lens ") if kept else f"{command} --quick"
    lines = [f"# {kind.title}", "", f"**{EXPERIMENTS[kind.name]}**", "", f"```bash\ncast-lens {command}\n```", ""]
    lines += [_module_text(kind), "", "## What is compared", "", kind.compared, "", *HAND.findall(before)]
    options = _options(kind)
    if options:
        lines += ["## Its own options", "", "| option | default | |", "|---|---|---|", *options, ""]
    if chapter is None or not chapter.headline:
        lines += [line for part in OUTPUT.findall(before) for line in (part.rstrip("\n"), "")]
    else:
        size, text = ("default", DEFAULTS) if defaults else ("quick", SMALL)
        lines += [f"## What a {size} run prints", "", text, "", f"> {chapter.headline}", ""]
        for table in chapter.tables[:1]:
            lines += [*_markdown(table), ""]
        for figure in chapter.figures[:1]:
            lines += [f"![{figure.alt}](pictures/{figure.name}.png)", "", f"*{figure.caption} {figure.counted}*", ""]
    lines += ["## What it cannot show", "", kind.limits, ""]
    return "\n".join(lines)


def _module_text(kind: type[Experiment]) -> str:
    text = inspect.getdoc(inspect.getmodule(kind)) or ""
    return text.replace("``", "`")


def _options(kind: type[Experiment]) -> list[str]:
    told = _attributes(inspect.getdoc(kind) or "")
    rows = []
    for field in dataclasses.fields(kind):
        value: Any = field.default
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        rows.append(f"| `--{field.name.replace('_', '-')}` | {shown or _EMPTY.get(field.name, 'all')} | {told.get(field.name, '')} |")
    return rows


def _attributes(doc: str) -> dict[str, str]:
    """The lines under ``Attributes:`` by name."""
    _, _, block = doc.partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): ((?:.|\n {8})*)", block, flags=re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in found}


def _markdown(table: Table) -> list[str]:
    def cells(row: list[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row[:COLUMNS]) + " |"

    lines = [cells(list(table.columns)), "|" + "---|" * min(COLUMNS, len(table.columns))]
    lines += [cells(list(row)) for row in table.rows[:ROWS]]
    if len(table.rows) > ROWS:
        lines += ["", f"({len(table.rows) - ROWS} more rows in the report.)"]
    return lines


ABOUT = """# Experiments

Each experiment asks one question and gives tables with placebos and intervals, figures, and a one-sentence headline.

```bash
cast-lens experiment list                            # list them
cast-lens experiment selection --quick --out runs/try
cast-lens experiment status runs/try
cast-lens report runs/try                            # joins the experiments of a directory into one page
cast-lens experiment all --quick --out runs/all      # run all of them, small
```

`cast-lens run` is the experiment `transfer`. Each is also a function that takes its own options as
keyword arguments: `cast_lens.experiments.shots(RunConfig(...), few_shots=(1, 4)) -> DataFrame`.

A finished cell is a file. After an interruption the same command resumes and ends with the same tables, bit for bit.
`--workers N` uses N processes without changing any number; a cell that fails leaves its traceback, and the others
continue (`--retry-failed`). Experiments in one directory share vectors and settings. At their defaults all but `atv`
took about two hours on two cores with version 0.1 (`--workers 2 --threads 1`); `atv` takes about an hour, and three with LoRA and prefix-tuning
(extra `peft`).
"""
SMALL = (
    "This is the embedded 135M-parameter model with a handful of questions: it shows what the output looks like and is "
    "too small for conclusions. [Findings](../findings.md) reports longer runs."
)
DEFAULTS = (
    "This is the embedded 135M-parameter model on the suite that ships. What a larger model does is another question: see "
    "[Findings](../findings.md)."
)

if __name__ == "__main__":
    main()
