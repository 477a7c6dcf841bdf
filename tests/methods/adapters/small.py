"""Adapters that are not trained yet, and a task whose label follows from one phrase of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cast_lens.methods.adapters import Adapter, AdapterDesign
from cast_lens.methods.adapters.peft_model import wrap
from cast_lens.methods.atv import Training
from cast_lens.models import fingerprint, model_name
from cast_lens.models.lens import HookedTransformer
from cast_lens.models.load import load_huggingface
from cast_lens.tasks import Example, Task
from cast_lens.vectors import Provenance
from tests.small_tasks import label_task


def untrained(
    model: HookedTransformer, source: str, design: AdapterDesign, *, opening: Sequence[int] = (5, 6, 7)
) -> Adapter:
    """As it is before the first step."""
    found = load_huggingface(source, like=model)
    wrapped = wrap(found, design, seed=0, opening=opening, room=int(model.cfg.n_ctx))
    about = Provenance(model_name(model), fingerprint(model), "task", "own", 0, {}, "")
    return Adapter(model, wrapped, design, Training(), 0, 0.0, 0.0, about)


def weather() -> Task:
    """Planted: the label follows from one word of the input."""
    task = label_task("weather", train=16, validation=8, test=8)

    def told(example: Example) -> Example:
        word = {"good": "the largest planet", "bad": "a dull mess"}[example.answer]
        return replace(example, input=f"{word} {example.id[-2:]}")

    parts: dict[str, Any] = {name: tuple(map(told, getattr(task, name))) for name in ("train", "validation", "test")}
    return replace(task, **parts)
