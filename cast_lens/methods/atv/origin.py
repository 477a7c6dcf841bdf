"""Where a trained object comes from: written when training ends, read from its file, held against the model at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformer_lens import HookedTransformer

from ...extraction import versions
from ...models import fingerprint, model_name
from ...tasks import Task
from ...vectors import Provenance
from .design import Training
from .history import History


def trained_on(
    model: HookedTransformer, tasks: Sequence[Task], training: Training, history: History, *, what: str
) -> Provenance:
    """The provenance of what was trained; ``what`` opens its note."""
    return Provenance(
        model=model_name(model),
        fingerprint=fingerprint(model),
        task=" + ".join(dict.fromkeys(task.name for task in tasks)),
        template=" + ".join(training.templates),
        seed=training.seed,
        versions=versions(),
        note=f"{what}, {history.steps} steps, validation loss {history.lowest:.4f}",
    )


def provenance_of(about: dict[str, Any]) -> Provenance:
    """The provenance in a file's JSON."""
    origin = about["provenance"]
    return Provenance(**{**origin, "sample_ids": tuple(origin["sample_ids"])})


def training_of(about: dict[str, Any]) -> Training:
    """The training in a file's JSON."""
    return Training(**{**about["training"], "templates": tuple(about["training"]["templates"])})


def check_model(model: HookedTransformer, provenance: Provenance, *, what: str) -> None:
    """Refuse any model but the one that something was trained for.

    Raises:
        ValueError: when it is another one; ``what`` names the trained object.
    """
    found = fingerprint(model)
    if found != provenance.fingerprint:
        raise ValueError(
            f"this {what} was trained for {provenance.model!r} (fingerprint {provenance.fingerprint!r}), but the model "
            f"{model_name(model)!r} has {found!r}; load that model, or train another {what} for this one"
        )
