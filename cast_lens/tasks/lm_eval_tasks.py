"""Tasks as lm-evaluation-harness defines them: ``load_task("lm-eval:arc_easy")``.

What is taken is the data: the text that is asked, its options and the right answer, per split. How it is asked is this
package's: options of a multiple-choice item get letters, and the answer cue is the template's. ``--model cast_lens``
(see ``cast_lens.share.lm_eval``) evaluates with the harness's own prompts and metrics. Needs the extra ``lm-eval``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .loading import task_from_records
from .types import Task

PREFIX = "lm-eval:"
# Cues at the ends of the harness's texts, which the template gives again.
_CUES = ("Answer:", "answer:", "A:")
_HEADS = ("Question:", "question:", "Q:")


def load_lm_eval(name: str, *, folder: Path | None = None, seed: int = 0) -> Task:
    """A task of the harness, or of a folder of its definitions (``*.yaml``).

    Args:
        name: as the harness has it, ``arc_easy``.
        folder: searched besides the harness's own definitions. Data sets that a definition takes from files need no
            network.
        seed: chooses validation and test where the definition lacks them.

    Raises:
        ValueError: for an unknown name, a group of tasks, or a kind of task other than ``multiple_choice`` and
            ``generate_until``; when lm-eval is not installed.
        ConnectionError: when its data cannot be fetched.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise ValueError(f'{PREFIX}{name} needs lm-evaluation-harness: pip install "cast-lens[lm-eval]"') from None
    manager = TaskManager(include_path=None if folder is None else str(folder))
    if name not in manager.all_subtasks:
        raise ValueError(f"{PREFIX}{name} is no single task of lm-eval; `lm_eval ls subtasks` lists them")
    try:
        found = manager.load_task_or_group(name)[name]
    except (ConnectionError, OSError) as error:
        raise ConnectionError(f"the data of {PREFIX}{name} cannot be fetched: {error}") from error
    if found.OUTPUT_TYPE not in ("multiple_choice", "generate_until"):
        raise ValueError(
            f"{PREFIX}{name} is a task of kind {found.OUTPUT_TYPE!r}; multiple_choice and generate_until can be read"
        )
    return task_from_records(list(_records(found)), name=f"{PREFIX}{name}", seed=seed)


def _records(task: Any) -> Iterator[Mapping[str, Any]]:
    splits = {
        "train": task.training_docs() if task.has_training_docs() else (),
        "validation": task.validation_docs() if task.has_validation_docs() else (),
        "test": task.test_docs() if task.has_test_docs() else (),
    }
    named = sum(bool(docs) for docs in splits.values()) == len(splits)
    for split, docs in splits.items():
        for doc in docs or ():
            record = _record(task, doc)
            yield {**record, "split": split} if named else record


def _record(task: Any, doc: Any) -> dict[str, Any]:
    asked = _bare(str(task.doc_to_text(doc)))
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "generate_until":
        return {"input": asked, "answer": str(target[0] if isinstance(target, list) else target).strip()}
    choices = [str(choice).strip() for choice in task.doc_to_choice(doc)]
    right = choices[target] if isinstance(target, int) else str(target).strip()
    return {"input": asked, "choices": choices, "answer": right}


def _bare(text: str) -> str:
    """The text without the cues that the template gives again."""
    text = text.strip()
    for cue in _CUES:
        text = text.removesuffix(cue).rstrip()
    for head in _HEADS:
        text = text.removeprefix(head).lstrip()
    return text
