"""Tasks by the definitions of lm-evaluation-harness: ``load_task("lm-eval:arc_easy")``.

Prompt, answers and gold are what the harness makes of ``doc_to_text``, ``doc_to_choice``, ``doc_to_target``,
``description`` and ``gen_prefix``: a zero-shot prompt is its context character by character. What is ours is the rest:
demonstrations are one blank line apart and are sampled as for any other task, metrics are those of ``evaluate``, and
an answer ends at the first line end (the harness's filters and stopping texts are not read).

- ``multiple_choice`` becomes a classification where every document has the same choices, and otherwise multiple choice
  whose answers are the texts of the options;
- ``generate_until`` and ``loglikelihood`` become free answers; of several right ones the first counts.

Data come from a folder of your own, or from wherever the definition says. A definition may name Python functions beside
it, which the harness runs: take folders only from those whom you would take code from. Needs the extra ``lm-eval``.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from .loading import HARNESS as PREFIX
from .loading import assembled
from .sampling import stable_seed
from .settings import Settings
from .templates import FAMILIES
from .types import Example, Kind, Task, Template

MOST = 2000
"""Documents read of a split at most: a seeded sample of a larger one."""
_CHOICES, _FREE = "multiple_choice", ("generate_until", "loglikelihood")
_DATA = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".arrow", ".txt", ".gz", ".zst")
_YES_NO = ({"yes", "no"}, {"true", "false"})
_OPTIONS = 26
_TASK = re.compile(r"^[\"']?task[\"']?:[ \t]*[\"']?([\w.-]+)[\"']?[ \t]*(?:#.*)?$", flags=re.MULTILINE)
_GROUP = re.compile(r"^[\"']?(?:group|tag)[\"']?:((?:[ \t]+\S+[ \t]*$)|(?:\s*\n[ \t]*-[ \t]+\S+)+)", flags=re.MULTILINE)


def load_harness(name: str, *, folder: Path | None = None, seed: int = 0) -> Task:
    """A task by the harness's definition.

    Args:
        name: name of the task, with or without ``lm-eval:``.
        folder: where YAML definitions of your own are, the data of the task, or both. Data are looked for in
            ``folder/TASK``, in ``folder/DATASET`` (as the definition names it, with or without its owner) and in
            ``folder`` itself, as ``datasets.load_dataset`` takes a folder: one file per split, such as ``test.jsonl``.
        seed: seed of the sample of large splits, and of splits that the task lacks.

    Raises:
        ValueError: without lm-eval, or for a task that is unknown, a group, or not made of prompts and answers in text.
        ConnectionError: when the data are neither in the folder, nor cached, nor to be fetched.
    """
    name = name.removeprefix(PREFIX)
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'lm-evaluation-harness is not installed ({error}); pip install "cast-lens[lm-eval]", or leave {PREFIX} out'
        ) from None
    theirs = _built(name, folder)
    _check(theirs, name)
    instruction = _description(theirs)
    documents = _documents(theirs)
    read = {split: _sampled(name, split, rows, seed) for split, rows in documents.items()}
    made = {split: _examples(theirs, name, split, rows, instruction) for split, rows in read.items()}
    return _task(name, theirs, made, instruction, seed)


def _task(name: str, theirs: Any, files: Mapping[str, list[Example]], instruction: str, seed: int) -> Task:
    every = [example for part in files.values() for example in part]
    if not every:
        raise ValueError(f"{PREFIX}{name}: none of its documents can be used")
    kind, labels = _kind(theirs, every)
    if kind == "classification":
        files = {split: [replace(one, choices=()) for one in part] for split, part in files.items()}
    family = "yes-no" if {label.lower() for label in labels} in _YES_NO else FAMILIES[kind]
    full = f"{PREFIX}{name}"
    # The context already shows whatever is shown of the options, and their texts are the answers.
    template = Template(full, "{input}", definition="{instruction}", option="")
    return assembled(
        files,
        Settings(kind=kind, labels=labels),
        name=full,
        origin=_origin(theirs, name),
        seed=seed,
        worded=(template, instruction, family),
    )


def _kind(theirs: Any, every: Sequence[Example]) -> tuple[Kind, tuple[str, ...]]:
    if theirs.OUTPUT_TYPE != _CHOICES:
        return "free", ()
    shared = {example.choices for example in every}
    return ("classification", every[0].choices) if len(shared) == 1 else ("multiple-choice", ())


def _origin(theirs: Any, name: str) -> str:
    from importlib.metadata import version

    data = " ".join(str(one) for one in (theirs.DATASET_PATH, theirs.DATASET_NAME) if one)
    return f"lm-eval {version('lm_eval')}: {name} ({data or 'its own data'})"


def _index(folder: Path) -> Any:
    """The harness's index of the definitions in a folder."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=False)


@dataclass(frozen=True, slots=True)
class _Shipped:
    """What the harness ships: the folder of each task, and the names of groups and tags.

    Its own index reads 14,000 files as YAML, which takes many seconds; names are read as text here.
    """

    folders: Mapping[str, Path]
    groups: frozenset[str]


@lru_cache(maxsize=1)
def _shipped() -> _Shipped:
    import lm_eval.tasks

    folders, groups = dict[str, Path](), set[str]()
    for path in Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8", errors="replace")
        folders |= {name: path.parent for name in _TASK.findall(text)}
        groups |= {name for one in _GROUP.findall(text) for name in re.findall(r"[\w.-]*\w", one)}
    return _Shipped(folders, frozenset(groups))


def _built(name: str, folder: Path | None) -> Any:
    """The harness's own object of a task, with its data."""
    if folder is not None and not folder.is_dir():
        raise ValueError(f"tasks={str(folder)!r} is no folder; give the one that holds the data of {PREFIX}{name}")
    here = Path.cwd() if folder is None else folder.resolve()
    index = _index(here) if folder is not None and any(folder.rglob("*.yaml")) else None
    changes: dict[str, Any] = {}
    if index is None or name not in index.all_subtasks:
        known = _shipped()
        if name not in known.folders:
            raise _unknown(name, [*(index.all_subtasks if index else ()), *known.folders], known.groups)
        index = _index(known.folders[name])
        changes = {} if folder is None else _local_data(name, here, index)
    # A member of a group is how the harness takes changes to a definition.
    spec: Any = {"group": PREFIX, "task": [{"task": name, **changes}]} if changes else name
    try:
        return index.load(spec)["tasks"][name]
    except OSError as error:
        raise ConnectionError(
            f"{PREFIX}{name}: its data cannot be had ({_line(error)}); connect to a network (unset HF_HUB_OFFLINE), "
            "or give a folder that holds them as tasks=..., with one file per split, such as train.jsonl and test.jsonl"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{PREFIX}{name}: lm-eval cannot build it from its definition and data ({_line(error)})"
        ) from error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _unknown(name: str, known: Sequence[str], groups: Collection[str]) -> ValueError:
    if name in groups:
        return ValueError(f"{PREFIX}{name} is a group of tasks; choose one of them (`lm_eval ls tasks` lists all)")
    near = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(PREFIX + one for one in near)}?" if near else "`lm_eval ls tasks` lists them"
    return ValueError(f"task {PREFIX + name!r} is unknown; {hint}")


def _local_data(name: str, folder: Path, index: Any) -> dict[str, Any]:
    """What to change in a definition so that its data come from a folder; nothing where the folder has none."""
    entry = index.task_index[name]
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else {}
    path, part = str(config.get("dataset_path") or ""), str(config.get("dataset_name") or "")
    places = [folder / name, *(folder / one for one in (path, path.rpartition("/")[2]) if one)]
    # The folder itself may hold the data of another task; files that are named by split are this one's.
    for place in [*places, *([folder] if any(folder.glob("test*")) or any(folder.glob("val*")) else [])]:
        if part and _holds_data(place / part):
            return {"dataset_path": str(place / part), "dataset_name": None, "dataset_kwargs": None}
        if _holds_data(place):
            card = place / "README.md"
            listed = part and card.is_file() and f"config_name: {part}" in card.read_text(encoding="utf-8")
            return {"dataset_path": str(place), "dataset_name": part if listed else None, "dataset_kwargs": None}
    return {}


def _holds_data(folder: Path) -> bool:
    return folder.is_dir() and any(
        path.suffix in _DATA and path.is_file() for path in (*folder.iterdir(), *folder.glob("data/*"))
    )


def _check(theirs: Any, name: str) -> None:
    from lm_eval.api.task import ConfigurableTask

    if not isinstance(theirs, ConfigurableTask):
        raise ValueError(f"{PREFIX}{name} is a program ({type(theirs).__name__}); only definitions are read")
    if theirs.OUTPUT_TYPE not in (_CHOICES, *_FREE):
        raise ValueError(
            f"{PREFIX}{name} has output_type {theirs.OUTPUT_TYPE!r}; prompts with answers come from "
            f"{', '.join((_CHOICES, *_FREE))}"
        )
    if getattr(theirs, "MULTIMODAL", False):
        raise ValueError(f"{PREFIX}{name} shows pictures or plays sound; prompts here are text")
    if theirs.multiple_input:
        raise ValueError(
            f"{PREFIX}{name} has a context per choice and one continuation (doc_to_text is a number); here they have "
            "one context each"
        )


def _documents(theirs: Any) -> dict[str, Any]:
    """The harness's splits as ours: it evaluates on test, or on validation where there is no test."""
    found: dict[str, Any] = {}
    both = theirs.has_test_docs() and theirs.has_validation_docs()
    found["test"] = theirs.eval_docs
    if both:
        found["validation"] = theirs.validation_docs()
    if theirs.has_training_docs():
        found["train"] = theirs.training_docs()
    elif both:
        found["validation_pool"] = found.pop("validation")
    else:
        evaluated = theirs.config.test_split or theirs.config.validation_split
        shown = theirs.fewshot_cfg.split
        if shown is None or shown == evaluated:
            return {"": found["test"]}
        found["train"] = theirs.fewshot_docs()
    return found


def _sampled(name: str, split: str, rows: Any, seed: int) -> list[tuple[int, Any]]:
    numbers: Sequence[int] = range(len(rows))
    if len(numbers) > MOST:
        numbers = sorted(random.Random(stable_seed(seed, PREFIX, name, split)).sample(numbers, MOST))
    return [(number, rows[number]) for number in numbers]


def _description(theirs: Any) -> str:
    """What opens every prompt; empty where it is another one for each document, which then is part of the input."""
    text = str(theirs.config.description or "")
    return "" if "{{" in text or "{%" in text else text


def _examples(theirs: Any, name: str, split: str, rows: Sequence[tuple[int, Any]], opening: str) -> list[Example]:
    found, twins, several = [], 0, 0
    for number, row in rows:
        where = f"{PREFIX}{name}, {split or 'document'} {number}"
        context = theirs.fewshot_context(row, num_fewshot=0, gen_prefix=theirs.doc_to_prefix(row))
        if theirs.OUTPUT_TYPE == _CHOICES:
            context, choices, answer = _chosen(theirs, row, context, where)
            if len(set(choices)) < len(choices):
                twins += 1
                continue
        else:
            choices, target = (), theirs.doc_to_target(row)
            several += isinstance(target, list) and len(target) > 1
            answer = _one_line(target, where)
        found.append(Example(f"{split or 'all'}-{number}", context.removeprefix(opening), answer, choices))
    if twins:
        warnings.warn(
            f"{PREFIX}{name}: {twins} of {len(rows)} documents offer the same choice twice and are left out",
            stacklevel=5,
        )
    if several:
        warnings.warn(
            f"{PREFIX}{name}: {several} of {len(rows)} documents have several right answers, of which the first counts "
            "here",
            stacklevel=5,
        )
    return found


def _chosen(theirs: Any, row: Any, context: str, where: str) -> tuple[str, tuple[str, ...], str]:
    """Context, choices and the right one, so that context, blank and choice are the text that the harness scores."""
    choices, gold = list(theirs.doc_to_choice(row)), theirs.doc_to_target(row)
    if isinstance(gold, str) and gold in choices:
        gold = choices.index(gold)
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise ValueError(f"{where}: doc_to_target gives {str(gold)[:60]!r}, which is not one of {len(choices)} choices")
    if not 2 <= len(choices) <= _OPTIONS or any("\n" in choice.strip() for choice in choices):
        raise ValueError(f"{where}: there must be from 2 to {_OPTIONS} choices of one line each, got {choices[:3]}")
    bare = context.rstrip()
    for choice in choices:
        between = context[len(bare) :] + theirs.config.target_delimiter + choice[: len(choice) - len(choice.lstrip())]
        if between != " ":
            raise ValueError(
                f"{where}: {between!r} is between context and choice; answers here follow a prompt behind one blank"
            )
    texts = tuple(choice.lstrip() for choice in choices)
    return bare, texts, texts[gold]


def _one_line(target: Any, where: str) -> str:
    first = str(target[0] if isinstance(target, list) and target else target).strip()
    if not first or len(first.splitlines()) > 1:
        raise ValueError(
            f"{where}: the answer {first[:60]!r} is empty or has several lines; an answer here is read up to the first "
            "line end"
        )
    return first
