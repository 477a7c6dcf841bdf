"""`load_task` and `list_tasks`: one name, wherever the task comes from."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from .suite import load_starter, starter_names
from .templates import KNOWN
from .types import Task, TaskInfo, is_language


def load_task(name: str, *, tasks: str | Path | None = None, hub: bool = False, seed: int = 0) -> Task:
    """A task by name: from a folder of JSONL files, from the hub, or from the suite that ships.

    Args:
        name: ``review-sentiment``, or ``review-sentiment.de`` for another language; English may be written
            out. Folders may be written as paths, ``xnli/de`` and ``words/antonym``.
        tasks: a folder (or one JSONL file) that is searched before the suite that ships; see
            `cast_lens.tasks.folder`.
        hub: take the data set of this name from the Hugging Face hub; needs a network or its cache.
        seed: chooses the validation items where a folder has none, and the items of large hub data sets.

    Raises:
        ValueError: for an unknown name (with the nearest known ones) or a file that breaks the format.
        ConnectionError: when the hub cannot be reached.
    """
    if hub and tasks is not None:
        raise ValueError("hub=True and tasks=... exclude each other; give one of them")
    name = canonical(name)
    if hub:
        from .hub import load_hub

        return load_hub(name, seed=seed)
    if tasks is not None:
        from .folder import discover, load_folder

        found = discover(Path(tasks))
        if name in found:
            return load_folder(found[name], seed=seed)
        return _shipped(name, known=found)
    return _shipped(name)


def list_tasks(tasks: str | Path | None = None) -> list[TaskInfo]:
    """What `load_task` can load: the tasks of a folder, or without one those that ship.

    Raises:
        ValueError: for a file that breaks the format.
    """
    if tasks is None:
        return [TaskInfo.of(load_starter(name)) for name in starter_names()]
    from .folder import discover, load_folder

    return [TaskInfo.of(load_folder(files, seed=0)) for files in discover(Path(tasks)).values()]


def canonical(name: str) -> str:
    """The one name of a task: ``xnli.de`` for ``xnli/de``, ``antonym`` for ``words/antonym``, no ``.en``."""
    group, _, last = name.rpartition("/")
    if group and is_language(last):
        last = f"{group.rpartition('/')[2]}.{last}"
    return last.removesuffix(".en")


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
