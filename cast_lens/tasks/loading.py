"""`load_task` and `list_tasks`: one name, wherever the task comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .formats import SUFFIXES, TaskFiles, discover, discover_one
from .records import Line, check_ids, lines_of, read_lines
from .sampling import class_of, input_key, make_splits
from .settings import Settings, check_wording, infer_kind, read_settings, settle, wording
from .starter import load_starter, starter_info, starter_names
from .templates import KNOWN
from .types import SPLITS, Example, Kind, Task, TaskInfo, Template, is_language

if TYPE_CHECKING:
    import pandas as pd


HARNESS = "lm-eval:"


def load_task(
    name: str,
    *,
    tasks: str | Path | None = None,
    hub: bool = False,
    seed: int = 0,
    fields: Mapping[str, str] | None = None,
) -> Task:
    """A task by name: from a folder of files, from the hub, or from the built-in suite.

    Args:
        name: ``review-sentiment``, or ``review-sentiment.de`` for another language; English may be written
            out. Folders may be written as paths, ``xnli/de`` and ``words/antonym``. ``lm-eval:arc_easy`` is a task by
            the definition of lm-evaluation-harness; see `cast_lens.tasks.harness`. The path of one task's file, such as
            ``reviews.jsonl`` or ``data/reviews.csv``, is that task.
        tasks: a folder (or one file) that is searched before the built-in suite; see `cast_lens.tasks.formats`. For
            ``lm-eval:`` the folder of its data, or of definitions of your own.
        hub: take the data set of this name from the Hugging Face hub; needs a network or its cache.
        seed: chooses the validation items where a folder has none, and the items of large hub data sets.
        fields: what the files of ``tasks`` call the fields of a record, e.g. ``{"input": "text", "answer": "label"}``;
            not needed for the usual names. See `cast_lens.tasks.records`.

    Raises:
        ValueError: for an unknown name (with the nearest known ones) or a file that breaks the format.
        ConnectionError: when the hub cannot be reached.

    >>> from cast_lens.tasks import load_task
    >>> load_task("review-sentiment.de").labels
    ('positiv', 'negativ')
    """
    if hub and tasks is not None:
        raise ValueError("hub=True and tasks=... exclude each other; give one of them")
    if name.startswith(HARNESS):
        from .harness import load_harness  # It needs an extra, and takes seconds.

        return load_harness(name, folder=None if tasks is None else Path(tasks), seed=seed)
    given, name = name, canonical(name)
    if hub:
        from .hub import load_hub  # It is only needed here, and needs the network.

        return load_hub(name, seed=seed)
    if tasks is None and Path(given).suffix in SUFFIXES:
        tasks, name = given, discover_one(Path(given))
    if tasks is not None:
        found = discover(Path(tasks))
        if name in found:
            return load_folder(found[name], seed=seed, fields=fields)
        return _shipped(name, known=found)
    return _shipped(name)


def list_tasks(tasks: str | Path | None = None, *, fields: Mapping[str, str] | None = None) -> list[TaskInfo]:
    """What `load_task` can load: the tasks of a folder, or without one the built-in ones.

    Raises:
        ValueError: for a file that breaks the format.

    >>> from cast_lens.tasks import list_tasks
    >>> list_tasks()[0].name
    'review-sentiment'
    """
    if tasks is None:
        return [starter_info(name) for name in starter_names()]
    found = discover(Path(tasks)).values()
    return [TaskInfo.of(load_folder(files, seed=0, fields=fields)) for files in found]


def canonical(name: str) -> str:
    """The one name of a task: ``xnli.de`` for ``xnli/de``, ``antonym`` for ``words/antonym``, no ``.en``."""
    if name.startswith(HARNESS):
        return name
    group, _, last = name.strip("/").rpartition("/")
    if group and is_language(last):
        last = f"{group.rpartition('/')[2]}.{last}"
    return last.removesuffix(".en")


def field_names(pairs: Iterable[str]) -> dict[str, str]:
    """What `load_task` takes as ``fields``, from ``name=column`` pairs.

    Raises:
        ValueError: a pair without ``=``, a name or a column; a name given twice.

    >>> field_names(["input=text", "answer=label"])
    {'input': 'text', 'answer': 'label'}
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, column = (part.strip() for part in pair.partition("="))
        if not name or not column or name in found:
            raise ValueError(
                f"fields: {pair!r} is not of the form name=column, with each name once; e.g. input=text,answer=label"
            )
        found[name] = column
    return found


def load_folder(task: TaskFiles, *, seed: int, fields: Mapping[str, str] | None = None) -> Task:
    """Load one task that `discover` found.

    Args:
        task: its files.
        seed: chooses the validation items where there is no validation file.
        fields: see `load_task`; what ``task.json`` says about fields comes second.

    Raises:
        ValueError: naming file, line and field for a bad record; or what is wrong with ``task.json``.
    """
    settings = read_settings(task.settings)
    named = {**(settings.fields or {}), **(fields or {})}
    lines = {split: read_lines(path, language=task.language, fields=named) for split, path in task.files.items()}
    return task_of(lines, name=task.name, language=task.language, origin=task.root, settings=settings, seed=seed)


def task_of(
    lines: Mapping[str, Sequence[Line]],
    *,
    name: str,
    language: str = "en",
    origin: str | Path,
    settings: Settings,
    seed: int = 0,
) -> Task:
    """A task of records.

    Args:
        lines: by split; under ``""`` those of one file, which may name their splits.
        name, language: name and language of the task.
        origin: the folder, where there is one, which may hold the paper's instructions.
        settings: what ``task.json`` says.
        seed: chooses validation and test items where records name no split.

    Raises:
        ValueError: see `load_folder`.
    """
    if "" in lines:
        lines = _by_split(lines[""])
    lines = _own_ids(lines)
    every = [line for part in lines.values() for line in part]
    check_ids(every)
    kind = infer_kind(every, settings)
    settings = replace(settings, kind=kind, labels=settle(every, kind, settings))
    files = {split: [_bare(line.example, kind) for line in part] for split, part in lines.items()}
    return assembled(files, settings, name=name, language=language, origin=origin, seed=seed)


def assembled(
    files: Mapping[str, Sequence[Example]],
    settings: Settings,
    *,
    name: str,
    language: str = "en",
    origin: str | Path,
    seed: int,
    worded: tuple[Template, str, str] | None = None,
) -> Task:
    """A task from checked examples, with its wording and its splits.

    Args:
        files: examples by split, see `make_splits`.
        settings: kind, labels, and what else was said about the task.
        name, language, origin, seed: see `task_of`.
        worded: template, instruction and family; None to take them from ``settings`` and the name, see `wording`, and
            to check that the template can be filled.

    Raises:
        ValueError: a template that some example could not fill; see `make_splits`.
    """
    kind, labels = settings.kind, settings.labels or ()
    assert kind is not None
    examples = [example for part in files.values() for example in part]
    if worded is None:
        root = origin if isinstance(origin, Path) else None
        worded = wording(name, kind, labels, settings, examples, root=root)
        check_wording(worded[0], examples, kind, where=settings.where or name)
    template, instruction, family = worded
    splits = make_splits(files, seed=seed, where=name, class_of=partial(class_of, kind))
    return Task(
        name=name,
        kind=kind,
        family=family,
        template=template,
        instruction=instruction,
        labels=labels,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        language=language,
        origin=str(origin),
        dropped=splits.dropped,
        answer_rule=settings.answer_rule or "task",
    )


def task_from_records(
    records: Iterable[Mapping[str, Any] | tuple[str, str]] | pd.DataFrame,
    *,
    name: str,
    instruction: str | None,
    template: str | None,
    labels: Sequence[str] | None,
    fields: Mapping[str, str] | None,
    language: str,
    seed: int,
) -> Task:
    """See `Task.from_records`."""
    rows = records.to_dict("records") if hasattr(records, "to_dict") else records
    placed = [(_as_record(row), f"record {number}") for number, row in enumerate(rows, start=1)]
    if len(placed) < len(SPLITS):
        raise ValueError(
            f"records holds {len(placed)}; give at least {len(SPLITS)}, one each for train, validation and test"
        )
    settings = Settings(
        instruction=instruction, template=template, labels=None if labels is None else tuple(labels), where=name
    )
    lines = lines_of(placed, stem=name, language=language, fields=fields)
    return task_of({"": lines}, name=name, language=language, origin="records", settings=settings, seed=seed)


def _as_record(row: Any) -> Any:
    """A pair as a record; the numbers of a frame as Python's own, its empty cells left out."""
    if isinstance(row, tuple | list) and len(row) == 2:
        row = dict(zip(("input", "answer"), row, strict=True))
    if not isinstance(row, Mapping):
        return row
    plain = {str(key): value.item() if hasattr(value, "item") else value for key, value in row.items()}
    return {key: value for key, value in plain.items() if value is not None and value == value}


def _by_split(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of one file by the split that they name; under ``""`` where none of them names one."""
    found: dict[str, list[Line]] = {}
    if all(line.split is None for line in lines):
        return {"": list(lines)}
    for line in lines:
        if line.split not in SPLITS:
            raise ValueError(
                f'{line.where}: field "split": expected one of {", ".join(SPLITS)}, got {line.split!r}'
                + ("; give every record a split, or none" if line.split is None else "")
            )
        found.setdefault(line.split, []).append(line)
    return found


def _own_ids(lines: Mapping[str, Sequence[Line]]) -> Mapping[str, Sequence[Line]]:
    """The same lines with ids of their own, where files count from the same number: ``train-0`` and ``test-0``."""
    inputs: dict[str, set[str]] = {}
    for part in lines.values():
        for line in part:
            inputs.setdefault(line.example.id, set()).add(input_key(line.example.input))
    repeated = len(inputs) < sum(map(len, lines.values()))
    # The same id with the same input is the same record twice, which is an error.
    once = sum(len(found) for found in inputs.values()) == sum(map(len, lines.values()))
    if not (repeated and once):
        return lines
    return {
        split: [replace(line, example=replace(line.example, id=f"{split}-{line.example.id}")) for line in part]
        for split, part in lines.items()
    }


def _bare(example: Example, kind: Kind) -> Example:
    """Label names are kept by the task; options by the example."""
    return example if kind == "multiple-choice" else replace(example, choices=())


def _shipped(name: str, known: Iterable[str] = ()) -> Task:
    if name in starter_names():
        return load_starter(name)
    raise unknown_task(name, (*known, *starter_names()))


def unknown_task(name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that nothing answers to, with the nearest names that exist."""
    names = list(dict.fromkeys(known))
    base = name.partition(".")[0]
    if base in KNOWN and base not in names:
        return ValueError(
            f"task {name!r} is a public data set that does not ship; give a folder that holds it "
            "as tasks=..., or fetch it with hub=True"
        )
    near = get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
    return ValueError(f"task {name!r} is unknown; {hint}")
