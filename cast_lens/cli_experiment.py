"""``cast-lens experiment``: list, status, all, and one command an experiment, with the options of its configuration."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from .experiments.catalogue import EXPERIMENTS
from .experiments.config import RunConfig
from .experiments.settings import ExperimentConfig

app = typer.Typer(
    no_args_is_help=True, help="The paper's experiments and their checks, with controls and intervals."
)
Explained = Callable[[Callable[[], None], "Path | None"], None]


@app.command("list")
def list_experiments() -> None:
    """List the experiments with their questions."""
    width = max(map(len, EXPERIMENTS))
    for name, question in EXPERIMENTS.items():
        typer.echo(f"{name:<{width}}  {question}")


@app.command()
def status(directory: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Show how far the experiments in a directory are, and what failed."""
    from .experiments.cells import Grid

    plans = sorted(directory.glob("experiments/*/plan.json"))
    if not plans:
        typer.echo(f"cast-lens: {directory} holds no experiment", err=True)
        raise typer.Exit(2)
    for plan in plans:
        grid = Grid.read(plan.parent)
        done, failed, total = len(grid.done()), grid.failed(), len(grid.cells)
        ended = "finished" if done == total and (plan.parent / "result.parquet").is_file() else "not finished"
        typer.echo(
            f"{plan.parent.name}: {done} of {total} cells, {len(failed)} failed, {ended}{_time(plan.parent)}"
        )
        for cell, error in failed:
            typer.echo(f"  {cell.key}: {error} (traceback: {grid.failure(cell)})")


def _time(path: Path) -> str:
    summary = path / "summary.json"
    if not summary.is_file():
        return ""
    seconds = float(json.loads(summary.read_text(encoding="utf-8"))["seconds"])
    return f", {seconds:.0f} s" if seconds < 120 else f", {seconds / 60:.0f} min"


def described() -> dict[str, str]:
    """What each field of the configuration is, from its docstring."""
    found: dict[str, str] = {}
    for kind in (RunConfig, ExperimentConfig):
        section = (inspect.getdoc(kind) or "").partition("Attributes:")[2]
        for entry in re.split(r"\n    (?=\w+:)", section):
            name, _, text = entry.strip().partition(":")
            found[name] = " ".join(text.replace("``", "").split())
    return found


def register(explained: Explained, parse: Callable[[str, Any], Any]) -> typer.Typer:
    """The commands, with the error reporting and the parsing of the command line that they are added to."""
    for name, question in EXPERIMENTS.items():
        app.command(name, help=question)(_command((name,), explained, parse))
    app.command("all", help="Run every experiment, one after the other, in one directory.")(
        _command(tuple(EXPERIMENTS), explained, parse)
    )
    return app


def _command(
    names: tuple[str, ...], explained: Explained, parse: Callable[[str, Any], Any]
) -> Callable[..., None]:
    """A command whose options are the fields of the configuration."""

    def command(**given: Any) -> None:
        own = {name: given.pop(name) for name in ("out", "config", "quick", "workers", "retry_failed")}

        def job() -> None:
            _run(names, {key: value for key, value in given.items() if value is not None}, parse, **own)

        explained(job, own["out"])

    parameters = [_option(field.name, field.default) for field in fields(ExperimentConfig)]
    parameters += [
        _parameter("out", Path, Path("runs/experiments"), "Run directory; the same command goes on with it."),
        _parameter("config", Path | None, None, "TOML file with any of these keys; options win."),
        _parameter("quick", bool, False, "A small version.", flags=("--quick",)),
        _parameter("workers", int, 1, "Processes; the numbers stay the same."),
        _parameter("retry_failed", bool, False, "Compute failed cells again.", flags=("--retry-failed",)),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _option(name: str, default: Any) -> inspect.Parameter:
    text = described()[name]
    if isinstance(default, bool):
        dashed = name.replace("_", "-")
        return _parameter(name, bool | None, None, text, flags=(f"--{dashed}/--no-{dashed}",))
    if isinstance(default, tuple):
        return _parameter(name, str | None, None, f"{text} Comma-separated.")
    return _parameter(name, type(default) | None, None, text)


def _parameter(
    name: str, kind: Any, default: Any, text: str, *, flags: tuple[str, ...] = ()
) -> inspect.Parameter:
    option = typer.Option(*flags, help=text)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _run(
    names: tuple[str, ...],
    options: dict[str, Any],
    parse: Callable[[str, Any], Any],
    *,
    out: Path,
    config: Path | None,
    quick: bool,
    workers: int,
    retry_failed: bool,
) -> None:
    from .experiments.config import config_of, read_toml
    from .report import publish

    values = read_toml(config) if config is not None else {}
    values |= {name: parse(name, value) for name, value in options.items()}
    core = {**RunConfig.quick(values), **values} if quick else values
    settings = config_of(ExperimentConfig, core, origin=str(config or "options"))
    if quick:
        settings = replace(settings.small(), **{name: getattr(settings, name) for name in values})
    able, refused = _planned(names, settings)
    for name, reason in refused.items():
        _say(f"{name}: left out: {reason}")
    broken = _row(able, settings, out, workers=workers, retry_failed=retry_failed)
    typer.echo(f"Report: {publish(out)}")
    if broken:
        typer.echo(f"cast-lens: without a result: {', '.join(broken)}", err=True)
        raise typer.Exit(1)


def _row(
    names: list[str], settings: ExperimentConfig, out: Path, *, workers: int, retry_failed: bool
) -> list[str]:
    """Run experiments one after the other; those without a result.

    One that fails does not take the others down; what stops one alone, or two alike, lies in what was given.
    """
    from .engine.progress import bars
    from .experiments.runner import run_experiment
    from .models import load_model

    # One process keeps the model from experiment to experiment; workers have their own.
    load = lru_cache(maxsize=1)(load_model) if workers == 1 else load_model
    run = partial(
        run_experiment, workers=workers, retry_failed=retry_failed, load=load, progress=bars, say=_say
    )
    broken: dict[str, str] = {}
    for name in names:
        try:
            run(_experiment(name, settings), _core(settings), out)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, ValueError) and (len(names) == 1 or str(error) in broken.values()):
                raise
            _say(f"cast-lens: {name}: {error}")
            broken[name] = str(error)
    return list(broken)


def _planned(names: tuple[str, ...], settings: ExperimentConfig) -> tuple[list[str], dict[str, str]]:
    """The experiments that can be asked of these tasks, and why the others cannot, before any work starts."""
    able, refused = [], {}
    for name in names:
        try:
            experiment = _experiment(name, settings)
            experiment.plan(_core(settings), experiment.read_tasks(_core(settings)))
        except ValueError as error:
            refused[name] = str(error)
            if len(refused) == len(names):
                raise
            continue
        able.append(name)
    return able, refused


def _experiment(name: str, settings: ExperimentConfig) -> Any:
    """The experiment with its own options."""
    from .experiments.catalogue import find

    kind = find(name)
    own = {field.name for field in fields(cast(Any, kind))} & {field.name for field in fields(settings)}
    return kind(**{key: getattr(settings, key) for key in own})


def _core(settings: ExperimentConfig) -> RunConfig:
    """What all experiments share."""
    return RunConfig(**{field.name: getattr(settings, field.name) for field in fields(RunConfig)})


def _say(text: str) -> None:
    typer.echo(text, err=True)
