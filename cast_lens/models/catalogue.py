"""What ``load_model`` can load, for a reader."""

from __future__ import annotations

from dataclasses import dataclass

from .architectures import ARCHITECTURES
from .embedded import NAME


@dataclass(frozen=True, slots=True)
class LoadableModel:
    """One line of ``cast-lens models``.

    Attributes:
        name: what to give ``load_model``, or which models of an architecture are meant.
        architecture: the Hugging Face class.
        note: where it comes from.
    """

    name: str
    architecture: str
    note: str


def list_models() -> list[LoadableModel]:
    """The embedded model, then every architecture that loads from the hub, a folder or a GGUF file."""
    embedded = LoadableModel(
        NAME, "LlamaForCausalLM", "embedded: fetched from PyPI once (93 MB), 135 M parameters, Apache-2.0"
    )
    note = "hub name, local folder, GGUF file or loaded model"
    return [embedded, *(LoadableModel(entry.known_for, entry.name, note) for entry in ARCHITECTURES.values())]
