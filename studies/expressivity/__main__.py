"""``python -m studies.expressivity``: run the study, or continue it, and write its tables and figures."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from cast_lens.files import atomic_write

from .figure import plot_students
from .study import FIXED, NAMES, Cell, compute, plan, pooled, ratios, unfinished

MATCHES = {"rank": "equal rank", "parameters": "equal parameters"}
LIMITS = (
    "A share is what a fit of this length found: an upper bound on what the form leaves at best. Each seed draws its "
    "own model, teacher and sequences, and seeds of one model size say nothing about larger or trained models. "
    "Teachers are random and all equally far away; what a real adapter learns may be easier or harder to copy."
)


def run(
    out: Annotated[Path, typer.Option(help="Directory; the same command continues it.")] = Path("runs/expressivity"),
    ranks: Annotated[str, typer.Option(help="Ranks of the teachers, comma-separated.")] = "1,2,4,8,16",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds, each with a model and teachers of its own.")] = 3,
    steps: Annotated[int, typer.Option(min=20, help="Steps of every fit.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the whole study.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 1,
) -> None:
    """Fit students to LoRA and prefix teachers on a small random transformer; about 26 processor minutes."""
    wanted = tuple(int(rank) for rank in ranks.split(","))
    cells = {cell: _path(out, cell, steps, seed) for cell in plan(wanted, seeds)}
    missing = [cell for cell, path in cells.items() if not path.is_file()]
    job = partial(_compute, out=out, steps=steps, seed=seed)
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done, _ in enumerate(as_completed(pool.submit(job, cell) for cell in missing), start=1):
            typer.echo(f"{done} of {len(missing)} cells", err=True)
    rows = pd.concat([pd.read_parquet(path) for path in cells.values()], ignore_index=True)
    typer.echo(write(rows, out))


def write(rows: pd.DataFrame, out: Path) -> str:
    """Tables (CSV) and figures (HTML, with their frames) of all rows, and ``summary.md``; its text."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {"rows": rows, "pooled": pooled(rows), "ratios": ratios(rows)}
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False)
    for match, words in MATCHES.items():
        shown = tables["pooled"][tables["pooled"]["match"].isin((match, FIXED))]
        shown = shown.assign(student=shown["student"].map(NAMES), teacher=shown["teacher"].map(NAMES))
        shown.to_csv(out / f"left-at-{words.replace(' ', '-')}.csv", index=False)
        plot_students(shown).write_html(out / f"left-at-{words.replace(' ', '-')}.html")
    text = summary(rows)
    (out / "summary.md").write_text(text, encoding="utf-8")
    return text


def summary(rows: pd.DataFrame) -> str:
    """Shares left at equal rank, ratios with their verdicts, how many fits were unfinished, and the limits."""
    share = pooled(rows)
    share = share[share["match"].isin(("rank", FIXED))]
    left = (100 * share.pivot(index=["teacher", "student"], columns="rank", values="left")).round(2)
    cells = rows.drop_duplicates(["teacher", "rank", "seed"])
    nearest, furthest = cells["baseline_kl"].min(), cells["baseline_kl"].max()
    falling, fits = unfinished(rows)
    return "\n\n".join(
        [
            f"{len(cells)} teachers, {nearest:.2f} to {furthest:.2f} nats per token from the unmodified model.",
            f"Share of that KL left at equal rank, in per cent, by rank of the teacher:\n\n{left.to_string()}",
            "KL as a multiple of what a student of the teacher's own kind leaves, with 95 % intervals over seeds:\n\n"
            + ratios(rows).round(3).to_string(index=False),
            f"In {falling} of {fits} fits the training KL was still falling at the end.",
            LIMITS,
        ]
    )


def _path(out: Path, cell: Cell, steps: int, seed: int) -> Path:
    name = f"seed{seed}-{cell.seed}-{cell.teacher}-rank{cell.rank}-steps{steps}"
    return out / "cells" / f"{name}.parquet"


def _compute(cell: Cell, *, out: Path, steps: int, seed: int) -> None:
    atomic_write(_path(out, cell, steps, seed), compute(cell, steps=steps, seed=seed).to_parquet())


if __name__ == "__main__":
    typer.run(run)
