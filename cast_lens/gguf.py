"""Steering vectors as llama.cpp control vectors, and back.

**Layers.** ``direction.N`` holds what llama.cpp adds to the output of block ``N``, counted from 0, after
attention and MLP were added to the residual: our layer ``N``, ``blocks.N.hook_resid_post``. Read in
llama.cpp's sources: ``common_control_vector_load_one`` (common/common.cpp) puts ``direction.N`` at row ``N -
1`` of its buffer, ``llama_adapter_cvec::apply`` (src/llama-adapter.cpp) gives row ``il - 1`` to block ``il``,
and the graphs (for Llama, src/models/llama.cpp) call ``build_cvec(cur, il)`` on the finished output of block
``il``. There is no ``direction.0``: the loader refuses a file with one, so our layer 0 cannot be written.
Layers that a file leaves out are zero.

**What differs from steering here.** llama.cpp adds every direction of the file at once, at every token of
prompt and answer (our position ``all``), each multiplied by the scale on its command line. To steer at one
layer as ``steer`` does, export that layer alone.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from .vectors import Provenance, SteeringVector, atomic_write

if TYPE_CHECKING:
    from gguf import GGUFReader

ARCHITECTURE = "controlvector"
PROVENANCE_KEY = "cast_lens.provenance"


def export_gguf(
    vector: SteeringVector,
    path: str | os.PathLike[str],
    *,
    layers: Sequence[int] | None = None,
    model_hint: str | None = None,
) -> Path:
    """Write a control vector for ``llama-cli --control-vector-scaled PATH:STRENGTH``; whole or not at all.

    Args:
        vector: its provenance is stored with it, under a key of our own that llama.cpp passes over.
        path: of the file.
        layers: which of the vector's layers to write, all of them when None. llama.cpp steers at every one.
        model_hint: what to name the model in the file (llama.cpp does not check it); provenance's when None.

    Raises:
        ValueError: on layer 0, no layers, or a layer that the vector does not hold.
    """
    import gguf

    chosen = sorted(set(vector.layers if layers is None else layers))
    if not chosen or chosen[0] == 0:
        raise ValueError(
            f"layers={chosen} cannot be written: llama.cpp has no control vector for block 0, and needs one "
            f"layer at least; choose with layers=[...] from {', '.join(map(str, vector.layers))}"
        )
    rows = {layer: vector.at(layer).contiguous().numpy() for layer in chosen}
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(draft, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint or vector.provenance.model)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(rows))
        writer.add_string(PROVENANCE_KEY, json.dumps(asdict(vector.provenance)))
        for layer, row in rows.items():
            writer.add_tensor(f"direction.{layer}", row)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return atomic_write(Path(path), draft.read_bytes())


def import_gguf(path: str | os.PathLike[str]) -> SteeringVector:
    """Read a llama.cpp control vector: one written here, by llama.cpp, or by repeng.

    A file of other origin says nothing of the model's weights, so the vector's fingerprint is empty and it is
    up to the caller to use it on the model that it was made for.

    Raises:
        ValueError: when the file is no GGUF control vector, or llama.cpp would refuse it.
    """
    import gguf

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file; give the path of a GGUF control vector")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a readable GGUF file ({error}); was it written whole?") from error
    architecture = _text(reader, "general.architecture")
    if architecture != ARCHITECTURE:
        raise ValueError(
            f"{path} holds {architecture or 'something unnamed'}, not a {ARCHITECTURE}; is it a model?"
        )
    directions = dict(_direction(tensor, path) for tensor in reader.tensors)
    if not directions or len({len(row) for row in directions.values()}) > 1:
        raise ValueError(
            f"{path} must hold one or more tensors direction.N of one width, it holds {len(directions)}"
        )
    layers = tuple(sorted(directions))
    return SteeringVector(
        torch.stack([directions[layer] for layer in layers]), layers, _provenance(reader, path)
    )


def _direction(tensor: Any, path: Path) -> tuple[int, Float[Tensor, " d_model"]]:
    name = re.fullmatch(r"direction\.([1-9]\d*)", tensor.name)
    if name is None or tensor.tensor_type.name != "F32" or len(tensor.shape) != 1:
        raise ValueError(
            f"{path}: tensor {tensor.name!r} ({tensor.tensor_type.name}, shape "
            f"{list(map(int, tensor.shape))}) is no direction.N with N from 1, float32, of shape [d_model]"
        )
    return int(name[1]), torch.tensor(tensor.data)


def _provenance(reader: GGUFReader, path: Path) -> Provenance:
    stored = _text(reader, PROVENANCE_KEY)
    if stored:
        origin = json.loads(stored)
        return Provenance(**{**origin, "sample_ids": tuple(origin["sample_ids"])})
    model = _text(reader, f"{ARCHITECTURE}.model_hint")
    return Provenance(
        model=model, fingerprint="", task=path.stem, note="imported from a llama.cpp control vector"
    )


def _text(reader: GGUFReader, key: str) -> str:
    field = reader.get_field(key)
    return "" if field is None else str(field.contents())
