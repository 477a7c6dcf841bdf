"""Vectors that other tools wrote, read without executing anything that a file says.

The kind of a file is recognised by its first bytes, never from its name. Pickles, which can name any function to call,
are read by an unpickler that knows tensors and the class of steering-vectors and refuses everything else; nothing of a
file that was refused has run. Sizes that a file announces are compared with its own before memory is asked for.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..files import load_tensors
from ..gguf import MAGIC, import_gguf
from ..interventions import Intervention, PromptVectors
from ..vectors import DifferenceVectors, Provenance, SteeringVector
from .export import KIND

if TYPE_CHECKING:
    from ..models.lens import HookedTransformer

_FORMATS = (
    "GGUF control vectors (repeng, llama.cpp, EasySteer), safetensors, and torch.save or pickle files of tensors, of "
    "steering-vectors' SteeringVector or of lm-eval's steered model"
)
_SAFE = "convert it where it was made: safetensors.torch.save_file({'layer.12': vector}, path)"
_LAYER = re.compile(r"(?:.*\.)?(?:direction|layers?|blocks?|h)[._](\d+)|(\d+)", flags=re.ASCII)
_LEGACY = 0x1950A86A20F9469CFC6C  # what torch.save wrote first before it wrote zip files
_ERRORS = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, OverflowError,
    MemoryError, RecursionError, RuntimeError, TypeError, UnicodeDecodeError, ValueError, zipfile.BadZipFile, OSError,
)  # fmt: skip


def import_vector(
    path: str | os.PathLike[str], *, layers: Sequence[int] | None = None, model: HookedTransformer | None = None
) -> SteeringVector:
    """Read a steering vector that any tool wrote.

    Args:
        path: path of the file: of ``SteeringVector.save`` or ``export``, a GGUF control vector of repeng, llama.cpp or
            EasySteer, a safetensors file with one tensor per layer (``layer.12``), a pickle of steering-vectors, a
            ``.pt`` file of lm-eval's steered model (its coefficient is multiplied in) or of plain tensors.
        layers: which blocks the rows of a plain tensor [d_model] or [layer, d_model] belong to; such a file does not
            say it.
        model: the model that the vector belongs to: width and layers are compared, and its fingerprint is stored.
            Without it, a vector of another tool is used with a warning.

    Raises:
        ValueError: for a file that is damaged, of another kind, or that names code; with what to do.
    """
    path = Path(path)
    with _explained(path):
        found = _read(path, None if layers is None else tuple(int(layer) for layer in layers))
    if model is None:
        return found
    from ..models.identity import check_vector, fingerprint, model_name

    if not found.provenance.fingerprint:
        about = replace(found.provenance, model=model_name(model), fingerprint=fingerprint(model))
        found = SteeringVector(found.directions, found.layers, about)
    check_vector(model, found)
    return found


def import_intervention(path: str | os.PathLike[str]) -> Intervention | PromptVectors:
    """Read what ``export`` wrote as ``safetensors``: vector, layer, strength, operator and position.

    Raises:
        ValueError: when the file holds no intervention, or is damaged.
    """
    path = Path(path)
    tensors, about = load_tensors(path, kind=KIND)
    with _explained(path):
        layers = tuple(about["layers"])
        if set(tensors) != {f"layer.{layer}" for layer in layers}:
            raise ValueError(f"its card names layers {list(layers)}, it holds {sorted(tensors)[:4]}")
        rows = [tensors[f"layer.{layer}"] for layer in layers]
        strength, position, name, mark = (about[key] for key in ("strength", "position", "name", "fingerprint"))
        if not isinstance(name, str) or not isinstance(mark, str):
            raise ValueError(f"its card names the vector {name!r} and the model {mark!r}, which are no texts")
        if len(layers) == 1:
            return Intervention(rows[0], layers[0], strength, about["operator"], position, name, mark)
        return PromptVectors(torch.stack(rows)[None], layers, strength, position, name, mark)


def read_intervention(
    path: str | os.PathLike[str],
    *,
    layer: int | None = None,
    strength: float | None = None,
    operator: str | None = None,
    position: str | None = None,
    model: HookedTransformer | None = None,
) -> Intervention | PromptVectors:
    """An intervention from any file that ``import_vector`` reads.

    Args:
        path: path of a vector, or of an intervention that ``export`` wrote as safetensors.
        layer: block to steer; a vector of a single layer needs none.
        strength, operator, position: see ``Intervention``; what is None is as the file says, or as ``Intervention`` has
            it.
        model: see ``import_vector``.

    Raises:
        ValueError: as ``import_vector``; for a vector of several layers without ``layer``.
    """
    vector = import_vector(path, model=model)
    given = {"layer": layer, "strength": strength, "operator": operator, "position": position}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if _is_intervention(Path(path)):
        stored = import_intervention(path)
        if layer in (None, *stored.layers[:1]) and len(stored.layers) == 1:
            return replace(stored, **changes)
        if not changes:
            return stored
    if layer is None and len(vector.layers) > 1:
        raise ValueError(
            f"{os.fspath(path)} holds vectors for layers {', '.join(map(str, vector.layers))}; say which with layer=..."
        )
    changes["layer"] = int(vector.layers[0] if layer is None else layer)
    return vector.intervention(**changes)


def _is_intervention(path: Path) -> bool:
    try:
        load_tensors(path, kind=KIND)
    except ValueError:
        return False
    return True


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        why = " ".join(str(error).split())
        text = why if str(path) in why else f"{path} cannot be read as a steering vector: {why or type(error).__name__}"
        raise ValueError(text[:600]) from None


def _read(path: Path, layers: tuple[int, ...] | None) -> SteeringVector:
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the path of a vector")
    with path.open("rb") as file:
        begin = file.read(9)
    if begin.startswith(MAGIC):
        return import_gguf(path)
    # The length of a header may begin with the bytes of any other kind.
    if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= path.stat().st_size:
        return _safetensors(path, layers)
    if begin.startswith(b"PK"):
        return _vector_of(_torch_zip(path), path, layers)
    if begin[:1] == b"\x80":
        return _vector_of(_pickled(path), path, layers)
    raise ValueError(f"{path} begins with {begin!r}, which is not one of {_FORMATS}")


def _safetensors(path: Path, layers: tuple[int, ...] | None) -> SteeringVector:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            kind = about.get("kind") if isinstance(about, dict) else None
            if kind == "SteeringVector":
                return SteeringVector.load(path)
            if kind == "DifferenceVectors":
                return DifferenceVectors.load(path).mean()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}; fetch it again") from None
    if kind != KIND:
        return _vector_of(tensors, path, layers)
    tensors, about = load_tensors(path, kind=KIND)
    found = _vector_of(tensors, path, layers)
    return replace(found, provenance=Provenance.from_json(about["provenance"]))


class _SteeringVectorFile:
    """Replaces ``steering_vectors.SteeringVector``, so that its pickles can be read without that package."""

    layer_activations: Any = None
    layer_type: Any = "decoder_block"


_CLASS = "steering_vectors.steering_vector.SteeringVector"


def _torch_zip(path: Path) -> Any:
    """What ``torch.save`` wrote, by the loader of torch that makes nothing but tensors and plain containers."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError(f"{path} is a zip file that torch.save did not write: its entries are packed, or overlap")
    return _torch_load(path)


def _torch_load(path: Path) -> Any:
    known: list[Any] = [(_SteeringVectorFile, _CLASS)]
    try:
        with torch.serialization.safe_globals(known):
            return _tensors_of(path)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named:
            raise _names_code(path, named[1]) from None
        raise ValueError(f"{path} is not a whole torch.save file: {str(error).splitlines()[0]}") from None


def _names_code(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} asks to run {what}, which is not a tensor; nothing of it was run. If you trust its origin, {_SAFE}"
    )


def _pickled(path: Path) -> Any:
    data = path.read_bytes()
    found = _Tensors(io.BytesIO(data), path).load()
    # Files of torch before 1.6 are several pickles, the first of them a number.
    return _torch_load(path) if found == _LEGACY else found


class _Tensors(pickle.Unpickler):
    """An unpickler that knows tensors, ordered dictionaries and the class of steering-vectors, and nothing else."""

    def __init__(self, file: io.BytesIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The few names that such a file needs."""
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch.storage", "_load_from_bytes"): _storage_of,
            ("collections", "OrderedDict"): OrderedDict,
            tuple(_CLASS.rsplit(".", 1)): _SteeringVectorFile,
        }
        if (module, name) not in allowed:
            raise _names_code(self._path, f"{module}.{name}")
        return allowed[module, name]


def _storage_of(data: bytes) -> Any:
    # torch's own function of this name would unpickle the bytes with everything allowed.
    return _tensors_of(io.BytesIO(data))


def _tensors_of(file: Path | io.BytesIO) -> Any:
    with warnings.catch_warnings():
        # Of an unusual protocol, which is not surprising: what cannot be read is an error.
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _vector_of(found: Any, path: Path, layers: tuple[int, ...] | None) -> SteeringVector:
    """The vector in what a file held: rows by layer, checked."""
    if isinstance(found, _SteeringVectorFile):
        if found.layer_type != "decoder_block":
            raise ValueError(
                f"{path} holds vectors for {str(found.layer_type)[:40]!r}; here a vector is added to the output of a "
                "block ('decoder_block'). Train it there"
            )
        found = found.layer_activations
    note = "imported"
    if _is_lm_eval(found):
        found, note = _lm_eval(found, path), "imported from lm-eval; its coefficient is multiplied in"
    rows = _rows(found, path, layers)
    widths = {tuple(row.shape) for row in rows.values()}
    size = path.stat().st_size
    for row in rows.values():
        # A view of one number can pretend to be as long as it likes.
        if not row.is_floating_point() or row.ndim != 1 or row.numel() * row.element_size() > size:
            raise ValueError(f"{path} must hold floating-point vectors [d_model], got {row.dtype} {tuple(row.shape)}")
    if len(widths) != 1:
        raise ValueError(f"{path} must hold one or more vectors of one width, got shapes {sorted(widths)[:4]}")
    order = tuple(sorted(rows))
    stacked = torch.stack([rows[layer].detach().float() for layer in order])
    return SteeringVector(stacked, order, Provenance(model="", fingerprint="", task=path.stem, note=note))


def _rows(found: Any, path: Path, layers: tuple[int, ...] | None) -> dict[int, Tensor]:
    if isinstance(found, Mapping) and len(found) == 1 and isinstance(next(iter(found.values())), Mapping):
        found = next(iter(found.values()))
    if isinstance(found, Tensor) or (isinstance(found, Mapping) and len(found) == 1 and layers):
        tensor = found if isinstance(found, Tensor) else next(iter(found.values()))
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{path} holds a {type(tensor).__name__}, not a tensor")
        rows = [*tensor.unsqueeze(0)] if tensor.ndim == 1 else [*tensor] if tensor.ndim == 2 else []
        if not layers or len(layers) != len(rows):
            raise ValueError(
                f"{path} holds a tensor of shape {tuple(tensor.shape)} and does not say which blocks its {len(rows)} "
                f"rows belong to; give layers=[...], one for each row (got {layers})"
            )
        return dict(zip(layers, rows, strict=True))
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, which is not a vector; what can be read: {_FORMATS}")
    rows_by_layer: dict[int, Tensor] = {}
    for key, value in found.items():
        layer = _layer(key)
        if layer is None or not isinstance(value, Tensor) or layer in rows_by_layer:
            raise ValueError(
                f"{path} has an entry {str(key)[:60]!r} ({type(value).__name__}); expected one tensor per layer, named "
                "by the number of its block: 12, 'layer.12' or 'layers.12'"
            )
        rows_by_layer[layer] = value
    return rows_by_layer


def _layer(key: object) -> int | None:
    if isinstance(key, int) and not isinstance(key, bool):
        return key if key >= 0 else None
    named = _LAYER.fullmatch(key) if isinstance(key, str) and len(key) < 200 else None
    return int(named[1] or named[2]) if named else None


def _is_lm_eval(found: Any) -> bool:
    entries = list(found.values()) if isinstance(found, Mapping) else found if isinstance(found, list) else []
    return bool(entries) and all(isinstance(entry, Mapping) and "steering_vector" in entry for entry in entries)


def _lm_eval(found: Any, path: Path) -> dict[str, Tensor]:
    named = found.items() if isinstance(found, Mapping) else [(entry.get("hookpoint", ""), entry) for entry in found]
    rows = {}
    for hookpoint, entry in named:
        action, factor, vector = (
            entry.get("action", "add"),
            entry.get("steering_coefficient", 1.0),
            entry["steering_vector"],
        )
        if action != "add" or not isinstance(factor, int | float) or not isinstance(vector, Tensor):
            raise ValueError(
                f"{path}: entry {str(hookpoint)[:60]!r} has action {str(action)[:20]!r}; only 'add' is a vector. For "
                "'clamp' to 0, use vector.intervention(layer, operator='ablate', position='all')"
            )
        rows[str(hookpoint)] = factor * vector.flatten()
    return rows
