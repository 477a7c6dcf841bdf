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
import math
import mmap
import os
import re
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from jaxtyping import Float
from torch import Tensor

from .vectors import Provenance, SteeringVector, atomic_write

ARCHITECTURE = "controlvector"
PROVENANCE_KEY = "cast_lens.provenance"
MAGIC = b"GGUF"
# Value types of the format (ggml/docs/gguf.md), those of one number by their struct code.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEEPEST, _MOST_AXES = 3, 4  # llama.cpp's tensors have four axes at most


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
        path: path of the file.
        layers: which of the vector's layers to write, all of them when None. llama.cpp steers at every one.
        model_hint: what to name the model in the file (llama.cpp does not check it); provenance's when None.

    Raises:
        ValueError: for layer 0, no layers, or a layer that the vector does not hold.
    """
    chosen = sorted(set(vector.layers if layers is None else layers))
    if not chosen or chosen[0] == 0:
        raise ValueError(
            f"layers={chosen} cannot be written: llama.cpp has no control vector for block 0, and needs one "
            f"layer at least; choose with layers=[...] from {', '.join(map(str, vector.layers))}"
        )
    rows = {layer: vector.at(layer).contiguous().numpy() for layer in chosen}
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "vector.gguf"
        writer = GGUFWriter(draft, ARCHITECTURE)
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
    used with a warning.

    Raises:
        ValueError: when the file is not a GGUF control vector, or llama.cpp would refuse it.
    """
    path = Path(path)
    file = read_gguf_file(path)
    architecture = file.text("general.architecture")
    if architecture != ARCHITECTURE:
        raise ValueError(f"{path} holds {architecture or 'something unnamed'}, not a {ARCHITECTURE}; is it a model?")
    directions = dict(_direction(tensor, file) for tensor in file.tensors)
    if not directions or len({len(row) for row in directions.values()}) > 1:
        raise ValueError(f"{path} must hold one or more tensors direction.N of one width, it holds {len(directions)}")
    layers = tuple(sorted(directions))
    try:
        return SteeringVector(torch.stack([directions[layer] for layer in layers]), layers, _provenance(file))
    except ValueError as error:
        raise ValueError(f"{path} holds no usable control vector: {error}") from error


def _direction(tensor: GGUFTensor, file: GGUFFile) -> tuple[int, Float[Tensor, " d_model"]]:
    name = re.fullmatch(r"direction\.([1-9]\d*)", tensor.name, flags=re.ASCII)
    if name is None or tensor.kind != "F32" or len(tensor.shape) != 1 or not tensor.size:
        raise ValueError(
            f"{file.path}: tensor {tensor.name!r} ({tensor.kind}, shape {list(tensor.shape)}) is not a direction.N "
            "with N from 1, float32, of shape [d_model]"
        )
    row = np.fromfile(file.path, dtype=f"{file.order}f4", count=tensor.shape[0], offset=tensor.start)
    return int(name[1]), torch.from_numpy(row.astype(np.float32))


def _provenance(file: GGUFFile) -> Provenance:
    stored = file.text(PROVENANCE_KEY)
    if stored:
        return Provenance.from_json(json.loads(stored))
    model = file.text(f"{ARCHITECTURE}.model_hint")
    return Provenance(model=model, fingerprint="", task=file.path.stem, note="imported from a llama.cpp control vector")


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """Where a tensor is in a GGUF file.

    Attributes:
        name: as the file has it.
        kind: name of the block format (``F32``, ``Q4_1``).
        shape: as the file has it, the axis that runs fastest first.
        start, size: bytes from the beginning of the file.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def entries(self) -> int:
        """Numbers that it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The header of a GGUF file, every length in it checked against the file's size.

    Attributes:
        path: path of the file.
        order: ``<`` or ``>``, the byte order.
        metadata: single values and texts by key; of an array, its length.
        tensors: in the file's order; their bytes are there.
    """

    path: Path
    order: str
    metadata: dict[str, int | float | bool | str]
    tensors: tuple[GGUFTensor, ...]

    def text(self, key: str) -> str:
        """A value as text, empty when there is none."""
        return str(self.metadata.get(key, ""))


def read_gguf_file(path: str | os.PathLike[str]) -> GGUFFile:
    """Read the header of a GGUF file, of a model or a control vector, and believe nothing that it says of itself.

    No length, count or offset is used before it was compared with what is left of the file, so a damaged or hostile
    file costs no more than its own size.

    Raises:
        ValueError: when there is no such file, or it is not a whole, well-formed GGUF file of version 2 or 3.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the path of a GGUF file")
    try:
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
            if begin != MAGIC:
                raise ValueError(f"it begins with {begin!r}, not {MAGIC!r}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                return _Header(whole).read(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a readable GGUF file: {error}. Was it written whole? Download it again if in doubt"
        ) from error


class _Header:
    """A walk through the bytes of a header that never steps beyond the end of the file."""

    def __init__(self, whole: mmap.mmap) -> None:
        self._whole = whole
        self._at = len(MAGIC)
        version = struct.unpack("<I", self._take(4))[0]
        # A file of the other byte order has its version in the upper half.
        self.order = "<" if version & 0xFFFF else ">"
        version = struct.unpack(f"{self.order}I", whole[4:8])[0]
        if version not in (2, 3):
            raise ValueError(f"it has version {version}, and versions 2 and 3 can be read")

    def read(self, path: Path) -> GGUFFile:
        """Everything in front of the tensors' bytes."""
        tensors = self._count("tensors", each=24)
        metadata: dict[str, int | float | bool | str] = {}
        for _ in range(self._count("metadata entries", each=13)):
            key = self._text()
            if key in metadata:
                raise ValueError(f"it has two values for {key!r}")
            metadata[key] = self._value(self._number("I"))
        drafts = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment!r}, not a power of two")
        begin = self._at + -self._at % alignment
        placed = tuple(replace(draft, start=begin + draft.start) for draft in drafts)
        for tensor in placed:
            if tensor.start + tensor.size > len(self._whole):
                raise ValueError(f"tensor {tensor.name!r} ends beyond the end of the file")
        if len({tensor.name for tensor in placed}) < len(placed):
            raise ValueError("it has two tensors of one name")
        return GGUFFile(path, self.order, metadata, placed)

    def _take(self, size: int) -> bytes:
        if size > len(self._whole) - self._at:
            raise ValueError(f"it ends {size - (len(self._whole) - self._at)} bytes before something it announces")
        self._at += size
        return self._whole[self._at - size : self._at]

    def _number(self, kind: str) -> Any:
        return struct.unpack(f"{self.order}{kind}", self._take(struct.calcsize(f"={kind}")))[0]

    def _count(self, what: str, *, each: int) -> int:
        count = int(self._number("Q"))
        if count * each > len(self._whole) - self._at:
            raise ValueError(f"it announces {count} {what}, more than {len(self._whole)} bytes can hold")
        return count

    def _text(self) -> str:
        return self._take(self._count("characters", each=1)).decode("utf-8")

    def _value(self, kind: int, depth: int = 0) -> int | float | bool | str:
        """One value; of an array, the length."""
        if kind in _NUMBERS:
            number: int | float | bool = self._number(_NUMBERS[kind])
            return number
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY or depth > _DEEPEST:
            raise ValueError(f"it has a value of unknown type {kind}, or an array deeper than {_DEEPEST} levels")
        inner = self._number("I")
        each = struct.calcsize(f"={_NUMBERS[inner]}") if inner in _NUMBERS else 8
        count = self._count("entries of an array", each=each)
        if inner in _NUMBERS:
            self._at += count * each
        elif inner == _STRING:
            for _ in range(count):
                length = self._count("characters", each=1)
                self._at += length
        else:
            for _ in range(count):
                self._value(inner, depth + 1)
        return count

    def _tensor(self) -> GGUFTensor:
        """Name, shape, format and place; ``start`` counts from the first tensor's bytes."""
        name = self._text()
        axes = self._number("I")
        if axes > _MOST_AXES:
            raise ValueError(f"tensor {name!r} has {axes} axes, more than {_MOST_AXES}")
        shape = tuple(self._number("Q") for _ in range(axes))
        kind, start = self._number("I"), self._number("Q")
        formats = {int(known): known for known in GGMLQuantizationType}
        if kind not in formats:
            raise ValueError(f"tensor {name!r} has the unknown format {kind}")
        entries_per_block, bytes_per_block = GGML_QUANT_SIZES[formats[kind]]
        blocks, rest = divmod(math.prod(shape), entries_per_block)
        if rest:
            raise ValueError(f"tensor {name!r} of shape {list(shape)} is not made of whole {formats[kind].name} blocks")
        return GGUFTensor(name, formats[kind].name, shape, start, blocks * bytes_per_block)
