"""The commands about single vectors: ``recommend``, ``export`` and ``atv``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .cli_options import ModelCommand, check_model, command, declared
from .cli_output import print_table, say, silent
from .experiments.config import DEFAULT_SOURCES

if TYPE_CHECKING:
    import pandas as pd

    from .methods.atv import Design, Training
    from .recommend import Recommendation
    from .tasks import Task


@dataclass(frozen=True, slots=True)
class AtvCommand:
    """Options that ``atv train`` and ``atv eval`` share.

    Attributes:
        tasks: which tasks to use (default: all English tasks of the built-in suite).
        folder: a folder of task files to use instead of the built-in suite.
    """

    tasks: tuple[str, ...] = ()
    folder: str = ""


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


@dataclass(frozen=True, slots=True)
class Verb:
    """A command of this file.

    Attributes:
        run: called with the values that were given, by name.
        help: what it does.
        options: file and name of the classes whose fields are its options.
        argument: help of its positional argument; empty for none.
        example: printed under its help.
    """

    run: Callable[[dict[str, Any]], None]
    help: str
    options: tuple[tuple[str, str], ...] = ()
    argument: str = ""
    example: str = ""

    def add(self, to: typer.Typer, name: str) -> None:
        """Add it to an application under a name."""
        options = [
            one
            for file, owner in self.options
            for one in declared(file, owner, "Command" if file.startswith("cli") else owner)
        ]
        to.command(name, help=self.help, epilog=self.example or None)(command(self.run, options, self.argument))


def _recommend(given: dict[str, Any]) -> None:
    """Recommend a vector for unlabelled queries, or recommend not to steer."""
    how, where = _taken(RecommendCommand, given), _taken(ModelCommand, given)
    if not how.task:
        raise ValueError("--task is missing; give a file of queries, one per line, or the name of a task")
    check_model(where.model)
    from .tasks import load_task
    from .tasks.formats import SUFFIXES

    named = [load_task(name, tasks=how.folder or None) for name in how.sources]
    if how.task.startswith((".", "/")) or Path(how.task).suffix in (*SUFFIXES, ".txt"):
        if not Path(how.task).is_file():
            raise ValueError(f"--task {how.task} is not a file; give a file of queries, one per line, or a task's name")
        asked: Any = Path(how.task)
    else:
        asked = load_task(how.task, tasks=how.folder or None)
    from .engine.progress import bars, quiet
    from .models import load_model
    from .recommend import recommend, target_task

    # What is wrong with the queries is said before the model loads.
    task = target_task(asked, labels=how.labels or None, instruction=how.instruction or None, seed=how.seed)
    tell = silent if how.quiet else say
    tell(f"Loading {where.model}")
    found = recommend(
        load_model(where.model, device=where.device, dtype=where.dtype),
        task,
        sources=named or DEFAULT_SOURCES,
        queries=how.queries,
        samples=how.samples,
        chat=how.chat,
        seed=how.seed,
        say=tell,
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
    print_table(("source", "direction", "decision", "layer", "strength", "expected"), rows)
    for number, row in enumerate(found.answers.to_dict("records"), start=1):
        query = str(row["query"]).strip().splitlines()
        shown = max(query[1:] or query or [""], key=len)[:60]
        typer.echo(f"{number}. {shown}: {str(row['before']).strip()!r} → {str(row['after']).strip()!r}")
    typer.echo(repr(found))


def _train(given: dict[str, Any]) -> None:
    how, where = _taken(AtvTrainCommand, given), _taken(ModelCommand, given)
    check_model(where.model)
    chosen = _chosen_tasks(_taken(AtvCommand, given), how.hold_out)
    from .engine import bars
    from .methods.atv import loss_bar
    from .methods.atv import train as train_atv
    from .models import load_model

    design, training = _recipe(given, paper=how.paper)
    loaded = load_model(where.model, device=where.device, dtype=where.dtype)
    out = Path(how.out)
    with loss_bar() as watch:
        made = train_atv(loaded, chosen, design=design, training=training, folder=out, watch=watch, progress=bars)
    typer.echo(f"{made.n_parameters} parameters trained, {made.provenance.note}")
    typer.echo(f"ATV: {out / 'atv.safetensors'}, loss curve: {out / 'loss.html'}")


def _evaluate(given: dict[str, Any]) -> None:
    from .tasks import SPLITS

    how, where = _taken(AtvEvalCommand, given), _taken(ModelCommand, given)
    check_model(where.model)
    if how.split not in SPLITS:
        raise ValueError(f"--split {how.split!r} is unknown; choose one of {', '.join(SPLITS)}")
    from .engine import bars
    from .files import load_tensors
    from .methods.atv import ATV, evaluate_atv, gains
    from .models import load_model

    file = _atv_file(given["path"])
    load_tensors(file, kind="ATV")  # a wrong path is reported before a model is loaded
    chosen = _chosen_tasks(_taken(AtvCommand, given))
    loaded = load_model(where.model, device=where.device, dtype=where.dtype)
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


def _chosen_tasks(which: AtvCommand, hold_out: Sequence[str] = ()) -> list[Task]:
    from .tasks import list_tasks, load_task

    folder = which.folder or None
    chosen = list(which.tasks) or [info.name for info in list_tasks(folder) if info.language == "en"]
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
    print_table(("task", "outcome", "n", "zero-shot", "atv", "difference"), rows)


HERE = "cli_vectors.py"
MODEL = ("cli_options.py", "ModelCommand")
ATV_PLACE = "A run directory, or the file atv.safetensors in it."
RECOMMEND = Verb(
    _recommend,
    "Recommend a vector, layer and strength for a task without labels, or recommend not to steer.",
    ((HERE, "RecommendCommand"), MODEL),
    example="Example:  cast-lens recommend --task queries.txt --labels yes,no",
)
EXPORT = Verb(
    _export,
    "Write a vector for llama.cpp, lm-eval, EasySteer or plain transformers.",
    ((HERE, "ExportCommand"),),
    "The vector to export: a file that this package or another tool wrote.",
    "Example:  cast-lens export vector.safetensors --out cast.gguf --layer 18 --strength 1.5",
)
ATV = {
    "train": Verb(
        _train,
        "Train an adaptive task vector on the frozen model; the same command resumes an interrupted run.",
        (
            *((HERE, "AtvCommand"), MODEL, ("methods/atv/config.py", "Design"), ("methods/training.py", "Training")),
            (HERE, "AtvTrainCommand"),
        ),
    ),
    "eval": Verb(
        _evaluate,
        "Compare an adaptive task vector with the unsteered model, one task at a time.",
        ((HERE, "AtvCommand"), MODEL, (HERE, "AtvEvalCommand")),
        ATV_PLACE,
    ),
    "show": Verb(
        _show,
        "Show what an adaptive task vector consists of, how it was trained, and for which model.",
        argument=ATV_PLACE,
    ),
}
"""The commands of ``cast-lens atv`` by name."""
