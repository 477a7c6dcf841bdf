"""The command line: thin. Heavy imports happen inside commands, so that ``--help`` answers at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import cli_atv, cli_experiment

app = typer.Typer(
    name="cast-lens",
    help="Cross-task Activation Steering Transfer: difference vectors, parallelism, steering, with controls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def about() -> None:
    """Cross-task Activation Steering Transfer: difference vectors, parallelism, steering, with controls."""


@app.command()
def run(
    model: Annotated[
        str | None, typer.Option(help="Embedded name, hub name, local folder or .gguf file.")
    ] = None,
    sources: Annotated[
        str | None, typer.Option(help="Tasks whose vectors are added, comma-separated.")
    ] = None,
    targets: Annotated[str | None, typer.Option(help="Tasks that are steered, comma-separated.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Folder of JSONL tasks (default: the suite that ships).")
    ] = None,
    hub: Annotated[
        bool | None, typer.Option("--hub/--no-hub", help="Take tasks from the Hugging Face hub.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Demonstrations in few-shot prompts.")] = None,
    samples: Annotated[int | None, typer.Option(help="Source samples averaged into a vector.")] = None,
    select: Annotated[
        str | None, typer.Option(help="How to choose the samples: all, cast, random, ...")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Samples to choose (default: half of them).")] = None,
    validation: Annotated[
        int | None, typer.Option(help="Source examples that choose layer and strength.")
    ] = None,
    test: Annotated[int | None, typer.Option(help="Test examples a target.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers of the sweep: 8,12,16 or 10-20 (default: all).")
    ] = None,
    strengths: Annotated[str | None, typer.Option(help="Strengths of the sweep, comma-separated.")] = None,
    operator: Annotated[str | None, typer.Option(help="add, norm_preserving_add, ablate or replace.")] = None,
    position: Annotated[str | None, typer.Option(help="last, prompt_last or all.")] = None,
    placebos: Annotated[int | None, typer.Option(help="Random directions beside each vector.")] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Use the model's chat template.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of samples, demonstrations, placebos, intervals.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps or auto.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    out: Annotated[
        Path, typer.Option(help="Run directory; the same command continues a run begun there.")
    ] = Path("runs/latest"),
    config: Annotated[
        Path | None, typer.Option(help="TOML file with any of these keys; options win.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version of all of it, under a minute.")
    ] = False,
) -> None:
    """The main job: capture, parallelism, sweep, transfer matrix with placebos, report."""
    given = {name: value for name, value in locals().items() if name not in ("out", "config", "quick")}

    def job() -> None:
        from .experiments.config import RunConfig, make_config, read_toml

        values = read_toml(config) if config is not None else {}
        make_config(values, origin=str(config))
        options = {name: _parse(name, value) for name, value in given.items() if value is not None}
        values |= options
        values = {**RunConfig.quick(values), **values} if quick else values
        _run(make_config(values, origin=str(config or "options")), out, umap=not quick)

    _explained(job, out)


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write figures and report.html of a run directory anew, from the frames that are there."""

    def job() -> None:
        from .report import publish

        typer.echo(f"Report: {publish(directory)}")

    _explained(job, directory)


@app.command()
def models() -> None:
    """List the models and architectures that load."""

    def job() -> None:
        from .models import list_models

        rows = [(item.name, item.architecture, item.note) for item in list_models()]
        _table("Models", ("name", "architecture", "note"), rows)

    _explained(job)


@app.command()
def tasks(
    tasks: Annotated[
        str | None, typer.Option(help="Folder of JSONL tasks (default: the suite that ships).")
    ] = None,
) -> None:
    """List the tasks that there are."""

    def job() -> None:
        from .tasks import list_tasks

        rows = [
            (
                info.name,
                info.kind,
                info.family,
                info.language,
                "/".join(map(str, info.sizes)),
                ", ".join(info.labels),
            )
            for info in list_tasks(tasks)
        ]
        _table("Tasks", ("name", "kind", "family", "language", "train/validation/test", "labels"), rows)

    _explained(job)


def main() -> None:
    """Entry point of ``cast-lens``."""
    app()


def _run(settings: Any, out: Path, *, umap: bool) -> None:
    from .engine.progress import bars
    from .experiments.catalogue.transfer import Transfer
    from .experiments.runner import run_experiment
    from .report import publish

    def say(text: str) -> None:
        typer.echo(text, err=True)

    run_experiment(Transfer(umap=umap), settings, out, progress=bars, say=say)
    typer.echo(f"Report: {publish(out)}")


def _explained(job: Callable[[], None], out: Path | None = None) -> None:
    """Run a command; the caller's mistakes end in one clear line, an interruption says how to go on."""
    try:
        job()
    except ValueError as error:
        typer.echo(f"cast-lens: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        where = f" Finished work is in {out}; the same command continues it." if out is not None else ""
        typer.echo(f"cast-lens: interrupted.{where}", err=True)
        raise typer.Exit(130) from None


def _parse(name: str, value: Any) -> Any:
    lists = (
        "sources",
        "targets",
        "methods",
        "prompting",
        "selections",
        "languages",
        "atv_methods",
        "atv_holdouts",
    )
    if name in lists:
        return [item.strip() for item in value.split(",") if item.strip()]
    if name == "strengths":
        return [_number(name, item, float) for item in value.split(",") if item.strip()]
    if name in ("few_shots", "budgets", "atv_examples"):
        return [_number(name, item, int) for item in value.split(",") if item.strip()]
    if name == "layers":
        found: list[int] = []
        for item in value.split(","):
            first, dash, last = item.strip().partition("-")
            start = _number(name, first, int)
            found += range(start, _number(name, last, int) + 1) if dash else [start]
        return found
    return value


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"--{name}: {text!r} is no number") from None


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    # A name is there to be typed: it is never cut, however narrow the terminal.
    widest = max((len(row[0]) for row in rows), default=0)
    for column in columns:
        first = column == columns[0]
        table.add_column(column, no_wrap=first, min_width=widest if first else None, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


app.add_typer(cli_experiment.register(_explained, _parse), name="experiment")
app.add_typer(cli_atv.register(_explained, _parse), name="atv")
