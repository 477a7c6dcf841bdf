"""Tiny models on disk, as both libraries load them, and adapters on them that are not trained yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformer_lens import HookedTransformer

from cast_lens.methods.adapters import Adapter, AdapterDesign
from cast_lens.methods.adapters.peft_model import wrap
from cast_lens.methods.atv import Training
from cast_lens.models import fingerprint, load_model, model_name
from cast_lens.models.huggingface import load_huggingface
from cast_lens.vectors import Provenance
from tests.models.files import write_folder


def pair(folder: Path, architecture: str = "llama") -> tuple[HookedTransformer, str]:
    """A hooked model and the folder that it comes from."""
    write_folder(folder, architecture)
    return load_model(folder), str(folder)


def untrained(
    model: HookedTransformer, source: str, design: AdapterDesign, *, opening: Sequence[int] = (5, 6, 7)
) -> Adapter:
    """As it is before the first step."""
    found = load_huggingface(source, like=model)
    wrapped = wrap(found, design, seed=0, opening=opening, room=int(model.cfg.n_ctx))
    about = Provenance(model_name(model), fingerprint(model), "task", "own", 0, {}, "")
    return Adapter(model, wrapped, design, Training(), 0, 0.0, 0.0, about)
