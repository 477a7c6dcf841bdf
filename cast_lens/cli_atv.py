"""``cast-lens atv``: train, eval, show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from .methods.atv import Design, Training
    from .tasks import Task

app = typer.Typer(
    no_args_is_help=True,
    help="Adaptive task vectors: a small model reads the query and writes a vector for every layer.",
)
Explained = Callable[[Callable[[], None], "Path | None"], None]
Parse = Callable[[str, Any], Any]
_given: dict[str, Any] = {}

# Seen in training unless told otherwise: the English tasks that ship. `--hold-out` takes some of them away.
Tasks = Annotated[
    str | None, typer.Option(help="Tasks, comma-separated (default: the English ones that ship).")
]
Folder = Annotated[str | None, typer.Option(help="Folder of JSONL tasks (default: the suite that ships).")]
Model = Annotated[str | None, typer.Option(help="Embedded name, hub name, local folder or .gguf file.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]


@app.command()
def train(
    tasks: Tasks = None,
    hold_out: Annotated[str | None, typer.Option(help="Tasks to leave out, comma-separated.")] = None,
    folder: Folder = None,
    model: Model = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    paper: Annotated[
        bool, typer.Option("--paper", help="Start from the values of arXiv 2506.03426's code, not from ours.")
    ] = False,
    generator: Annotated[
        str | None, typer.Option(help="blocks, residual, huggingface or constant (one vector for all).")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The small model: embedded name, self, folder, hub name.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Block whose output the small model's state is.")] = None,
    pooling: Annotated[str | None, typer.Option(help="last or mean.")] = None,
    trained: Annotated[
        bool | None, typer.Option("--trained/--frozen", help="Whether the small model is trained along.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the expansion (default: full).")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers that get a vector: 8,12 or 10-20 (all).")] = None,
    strength: Annotated[float | None, typer.Option(help="Factor on the vectors.")] = None,
    position: Annotated[str | None, typer.Option(help="last, prompt_last or all.")] = None,
    reads: Annotated[str | None, typer.Option(help="prompt or question: what the small model reads.")] = None,
    examples: Annotated[int | None, typer.Option(help="Training examples a task at most.")] = None,
    validation: Annotated[int | None, typer.Option(help="Validation examples a task at most.")] = None,
    templates: Annotated[str | None, typer.Option(help="own, bare, plain: how examples are asked.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.")] = None,
    batch: Annotated[int | None, typer.Option(help="Prompts a step.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a lower validation loss.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of start, draw and order.")] = None,
    memory_mb: Annotated[float | None, typer.Option(help="For keys and values that are kept.")] = None,
    recompute: Annotated[
        bool | None, typer.Option("--recompute/--no-recompute", help="Gradient checkpointing.")
    ] = None,
    mixed_precision: Annotated[
        bool | None, typer.Option("--mixed-precision/--full-precision", help="bfloat16 where torch does so.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Run directory; the same command continues a run begun there.")
    ] = Path("runs/atv"),
) -> None:
    """Train an adaptive task vector against the frozen model; a killed run goes on where it was."""
    given = {name: value for name, value in locals().items() if value is not None}

    def job() -> None:
        from .engine import bars
        from .methods.atv import loss_bar
        from .methods.atv import train as train_atv
        from .models import load_model

        design, training = _switches(given, paper=paper)
        chosen = _tasks(tasks, folder, hold_out)
        loaded = load_model(*([model] if model else []), device=device, dtype=dtype)
        with loss_bar() as watch:
            made = train_atv(
                loaded, chosen, design=design, training=training, folder=out, watch=watch, progress=bars
            )
        typer.echo(f"{made.n_parameters} parameters trained, {made.provenance.note}")
        typer.echo(f"ATV: {out / 'atv.safetensors'}, loss curve: {out / 'loss.html'}")

    _given["explained"](job, out)


@app.command("eval")
def evaluate(
    path: Annotated[Path, typer.Argument(help="A run directory, or its atv.safetensors.")],
    tasks: Tasks = None,
    folder: Folder = None,
    model: Model = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    examples: Annotated[int, typer.Option(help="Examples a task at most.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the draw and the intervals.")] = 0,
) -> None:
    """Compare an adaptive task vector with the unsteered model, task by task, with paired intervals."""

    def job() -> None:
        from .engine import bars
        from .files import load_tensors
        from .methods.atv import ATV, evaluate_atv, gains
        from .models import load_model
        from .tasks import SPLITS

        if split not in SPLITS:
            raise ValueError(f"--split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
        file = _file(path)
        load_tensors(file, kind="ATV")  # a wrong path is told before a model is loaded
        chosen = _tasks(tasks, folder, None)
        loaded = load_model(*([model] if model else []), device=device, dtype=dtype)
        atv = ATV.load(file, loaded)
        frame = evaluate_atv(
            loaded,
            atv,
            chosen,
            split=split,
            examples=examples,
            seed=seed,
            progress=bars,
        )
        found = gains(frame, seed=seed)
        where = file.parent / f"eval_{split}"
        frame.to_csv(where.with_name(f"{where.name}_examples.csv"), index=False)
        found.to_csv(where.with_suffix(".csv"), index=False)
        _print_gains(found)
        typer.echo(f"Numbers: {where.with_suffix('.csv')}")

    _given["explained"](job, None)


@app.command()
def show(path: Annotated[Path, typer.Argument(help="A run directory, or its atv.safetensors.")]) -> None:
    """Say what an adaptive task vector is made of, how it was trained, and for which model."""

    def job() -> None:
        from .files import load_tensors

        about = load_tensors(_file(path), kind="ATV")[1]
        origin = about.pop("provenance")
        for title, part in (
            ("provenance", origin),
            ("design", about["design"]),
            ("training", about["training"]),
        ):
            typer.echo(title)
            for name, value in part.items():
                # An ending is a line break by default, which would be an empty line here.
                blank = isinstance(value, str) and value != value.strip()
                typer.echo(f"  {name}: {value!r}" if blank else f"  {name}: {value}")
        typer.echo(f"layers: {', '.join(map(str, about['layers']))}")
        typer.echo(f"small model: {about['generator']['name']} {about['generator']['fingerprint']}".rstrip())
        typer.echo(f"parameters trained: {about['n_parameters']}")

    _given["explained"](job, None)


def register(explained: Explained, parse: Parse) -> typer.Typer:
    """The commands, with the error reporting and the parsing of the command line that they are added to."""
    _given.update(explained=explained, parse=parse)
    return app


def _switches(given: dict[str, Any], *, paper: bool) -> tuple[Design, Training]:
    """Design and training, where options win over the defaults."""
    from dataclasses import fields

    from .methods.atv import PAPER, PAPER_TRAINING, Design, Training

    values = dict(given)
    if "layers" in values:
        values["layers"] = tuple(_given["parse"]("layers", values["layers"]))
    if "templates" in values:
        values["templates"] = tuple(_names(values["templates"]))
    own = {field.name for field in fields(Design)}
    rest = {field.name for field in fields(Training)}
    design = replace(
        PAPER if paper else Design(), **{name: value for name, value in values.items() if name in own}
    )
    training = replace(
        PAPER_TRAINING if paper else Training(),
        **{name: value for name, value in values.items() if name in rest},
    )
    return design, training


def _names(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _tasks(names: str | None, folder: str | None, hold_out: str | None) -> list[Task]:
    from .tasks import list_tasks, load_task

    chosen = _names(names) if names else [info.name for info in list_tasks(folder) if info.language == "en"]
    left_out = _names(hold_out or "")
    unknown = [name for name in left_out if name not in chosen]
    if unknown:
        raise ValueError(f"--hold-out {unknown[0]!r} is none of the tasks {', '.join(chosen)}")
    return [load_task(name, tasks=folder) for name in chosen if name not in left_out]


def _file(path: Path) -> Path:
    return path / "atv.safetensors" if path.is_dir() else path


def _print_gains(found: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Adaptive task vector against the unsteered model, percent")
    for column in ("task", "outcome", "n", "zero-shot", "atv", "difference"):
        table.add_column(column, no_wrap=column == "task")
    for row in found.to_dict("records"):
        name = str(row["task"]) + ("" if row["seen"] or str(row["task"]).startswith("all ") else " (unseen)")
        change = f"{100 * row['difference']:+.0f} [{100 * row['low']:+.0f}, {100 * row['high']:+.0f}]"
        shares = (f"{100 * row['zero_shot']:.0f}", f"{100 * row['atv']:.0f}")
        table.add_row(name, str(row["outcome"]), str(row["n"]), *shares, change)
    Console().print(table)
