"""Files that are whole or absent: safetensors with what they hold written inside."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = "cast_lens/1"


def atomic_write(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all: to a temporary name beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        # Opened plainly: a file of ``tempfile`` could be read by its owner alone, and so could the result.
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save_tensors(path: Path, tensors: dict[str, Tensor], *, kind: str, about: dict[str, Any]) -> Path:
    """Write tensors and what is to be known about them to one safetensors file.

    Args:
        path: of the file; folders are made as needed.
        tensors: by name.
        kind: what the file holds, asked for again by ``load_tensors``.
        about: anything that JSON can hold.
    """
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory, and the two sides of a difference often do.
    whole = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    metadata = {"format": FORMAT, "about": json.dumps({"kind": kind, **about})}
    return atomic_write(path, save(whole, metadata=metadata))


def load_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote: the tensors, and what is known about them.

    Raises:
        ValueError: when there is no such file, or it is damaged, of another tool, kind or format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path} is no file; give the path of a file written by {kind}.save")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); was it written whole?"
        ) from error
    about = json.loads(metadata.get("about", "{}"))
    if about.get("kind") != kind:
        raise ValueError(f"{path} holds {about.get('kind') or 'no cast_lens object'}, not a {kind}")
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}, this version reads {FORMAT!r}; "
            "read it with the version of cast_lens that wrote it"
        )
    return tensors, about
