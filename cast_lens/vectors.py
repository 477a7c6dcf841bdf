"""The values that everything else uses: difference vectors, steering vectors, and their provenance."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .files import atomic_write, load_tensors, save_tensors
from .interventions import Intervention, Operator, Position, PromptVectors, Steering

if TYPE_CHECKING:
    from .models.lens import HookedTransformer

__all__ = ["Choice", "DifferenceVectors", "Provenance", "SteeringVector", "atomic_write", "chosen_rows"]

# Fingerprint of an intervention whose vector does not say which model it was taken from.
UNKNOWN_MODEL = "unknown"

# Row numbers, or a boolean mask over all rows.
Choice = (
    Sequence[int]
    | Sequence[bool]
    | Int[Tensor, " chosen"]
    | Bool[Tensor, " row"]
    | Int[np.ndarray, " chosen"]
    | Bool[np.ndarray, " row"]
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a vector came from; it is stored with it and travels through arithmetic.

    Attributes:
        model: name as given to ``load_model``.
        fingerprint: hash of the model's shape and weights (see ``cast_lens.models.fingerprint``); empty when it
            is not known, as for an imported vector, which is then used with a warning.
        task: task (or expression over tasks) that the vector was taken from.
        template: name of the prompt template.
        shots: demonstrations in the few-shot prompt.
        seed: seed of the demonstrations and the sample choice.
        sample_ids: ids of the examples averaged, in order.
        chat: whether prompts went through the chat template.
        versions: versions of cast_lens, torch, transformers, transformer-lens.
        note: free text: the method, the selection, the arithmetic.
        chat_arguments: further arguments of the chat template, including the date.
    """

    model: str
    fingerprint: str
    task: str
    template: str = ""
    shots: int = 0
    seed: int = 0
    sample_ids: tuple[str, ...] = ()
    chat: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""
    chat_arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, origin: Any) -> Provenance:
        """What ``asdict`` and JSON made of a provenance.

        Raises:
            ValueError: when it has other fields, or values of other types.
        """
        kinds = {field.name: type(getattr(_BLANK, field.name)) for field in fields(cls)}
        given = origin if isinstance(origin, dict) else {}
        ids = given.get("sample_ids", [])
        found = {**given, "sample_ids": tuple(ids) if isinstance(ids, list) else ids}
        wrong = [name for name, value in found.items() if type(value) is not kinds.get(name)]
        missing = [name for name in ("model", "fingerprint", "task") if name not in found]
        if wrong or missing or not all(isinstance(name, str) for name in found["sample_ids"]):
            raise ValueError(
                f"the stored provenance is damaged or of another version: it lacks {missing}, and of its fields "
                f"{wrong[:4]} are unknown or hold the wrong kind of value"
            )
        return cls(**found)


_BLANK = Provenance("", "", "")


def model_label(provenance: Provenance) -> str:
    """A model's name without the folders before it, for people."""
    return provenance.model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or "model not known"


@dataclass(frozen=True, slots=True, eq=False)
class SteeringVector:
    """One direction per layer, ready to be added to the residual stream.

    Attributes:
        directions: [layer, d_model], float32 on the CPU.
        layers: block index of each row, 0-based (``hook_resid_post``), increasing.
        provenance: where it came from.

    >>> vector = SteeringVector.from_tensor(torch.tensor([3.0, 4.0]), layer=7, task="mine")
    >>> (2 * vector).norm()
    {7: 10.0}
    >>> vector.intervention(7, strength=0.5).strength
    0.5
    """

    directions: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        _check_stack("directions", self.directions, self.layers, "[layer, d_model]")

    def __repr__(self) -> str:
        sizes = f"{len(self.layers)} layers × {self.directions.shape[1]}"
        return f"SteeringVector({self.provenance.task!r}, {sizes}, {model_label(self.provenance)})"

    def _repr_html_(self) -> str:
        from .plots.files import bars_preview

        norms = self.directions.norm(dim=-1).tolist()
        return bars_preview(norms, self.layers, title=escape(repr(self)), column="norm")

    def at(self, layer: int) -> Float[Tensor, " d_model"]:
        """The direction at one layer.

        Raises:
            ValueError: when the vector does not hold that layer.
        """
        return self.directions[_row(self.layers, layer, "steering vector")]

    @classmethod
    def from_tensor(
        cls,
        tensor: Float[Tensor, " d_model"],
        *,
        model: HookedTransformer | None = None,
        layer: int,
        task: str = "tensor",
        note: str = "",
    ) -> SteeringVector:
        """A direction from elsewhere, at one layer.

        Args:
            tensor: the direction, of any floating-point dtype, on any device.
            model: the model that it belongs to, so that another one is refused; without it, the vector is used with a
                warning.
            layer: block index.
            task: how frames and figures name it.
            note: stored in the provenance.

        Raises:
            ValueError: when the tensor is not a finite vector of the model's width, or the layer does not exist.

        >>> SteeringVector.from_tensor(torch.tensor([3.0, 4.0]), layer=7, task="mine").norm()
        {7: 5.0}
        """
        from .models.identity import check_vector, fingerprint, model_name

        if tensor.ndim != 1 or not tensor.is_floating_point():
            raise ValueError(
                f"tensor must be one floating-point vector [d_model], got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        about = Provenance(model="", fingerprint="", task=task, note=note)
        if model is not None:
            about = replace(about, model=model_name(model), fingerprint=fingerprint(model))
        vector = cls(tensor.detach().float().cpu()[None], (layer,), about)
        if model is not None:
            check_vector(model, vector)
        return vector

    @overload
    def intervention(
        self, layer: int, *, strength: float = ..., operator: Operator = ..., position: Position = ...
    ) -> Intervention: ...

    @overload
    def intervention(
        self, *, layers: Sequence[int], strength: float = ..., position: Position = ...
    ) -> PromptVectors: ...

    def intervention(
        self,
        layer: int | None = None,
        *,
        layers: Sequence[int] | None = None,
        strength: float = 1.0,
        operator: Operator = "add",
        position: Position = "last",
    ) -> Intervention | PromptVectors:
        """This vector as an edit of the residual stream.

        Args:
            layer: block whose output is edited.
            layers: several blocks, each with its own direction, added in one pass; in place of ``layer``.
            strength: factor, at each layer.
            operator: see ``Intervention``; several layers are added to.
            position: see ``Intervention``.

        Raises:
            ValueError: when the vector does not hold a layer, or neither or both of ``layer`` and ``layers`` are given.
        """
        about = self.provenance
        mark = about.fingerprint or UNKNOWN_MODEL
        if (layer is None) == (layers is None) or (layers is not None and operator != "add"):
            raise ValueError(
                f"give layer or layers, and operator='add' with layers; got layer={layer}, layers={layers}, "
                f"operator={operator!r}"
            )
        if layer is not None:
            return Intervention(self.at(layer), layer, strength, operator, position, name=about.task, fingerprint=mark)
        chosen = tuple(layers or ())
        if not chosen:
            raise ValueError("layers is empty; give one block index or more")
        directions = torch.stack([self.at(each) for each in chosen])[None]
        return PromptVectors(directions, chosen, strength, position, about.task, mark)

    def norm(self) -> dict[int, float]:
        """Norm of the direction at each layer."""
        return {layer: float(row.norm()) for layer, row in zip(self.layers, self.directions.double(), strict=True)}

    def cosine(self, other: SteeringVector) -> dict[int, float]:
        """Cosine with another vector at each layer that both hold; NaN where one of them is zero.

        Raises:
            ValueError: when they have no layer in common, other widths, or come from different models.
        """
        common = [layer for layer in self.layers if layer in other.layers]
        ours, theirs = self.provenance, other.provenance
        if not common or self.directions.shape[1] != other.directions.shape[1]:
            raise ValueError(
                f"vectors of {ours.task!r} and {theirs.task!r} have no layer in common or other widths: "
                f"{self.directions.shape[1]} at {self.layers} and {other.directions.shape[1]} at {other.layers}"
            )
        if ours.fingerprint and theirs.fingerprint and ours.fingerprint != theirs.fingerprint:
            raise ValueError(
                f"vectors come from different models ({ours.model}, {theirs.model}), whose directions have nothing in "
                "common; extract both from one model"
            )
        left, right = (torch.stack([vector.at(layer) for layer in common]).double() for vector in (self, other))
        cosines = (left * right).sum(dim=1) / (left.norm(dim=1) * right.norm(dim=1))
        return dict(zip(common, cosines.tolist(), strict=True))

    def top_tokens(self, model: HookedTransformer, layer: int, *, k: int = 10) -> list[str]:
        """Tokens whose logits the direction raises most where it reaches the unembedding: the logit lens of a vector.

        The direction is scaled by the final norm's weights and read by the unembedding; what later blocks make of it
        is left out, so that early layers say little.

        Args:
            model: the model that the vector belongs to, with a tokenizer.
            layer: block index.
            k: tokens, the strongest first.

        Raises:
            ValueError: for a vector of another model, a layer that it does not hold, or ``k`` below 1.
        """
        from .models.identity import check_vector

        check_vector(model, self)
        if k < 1 or model.tokenizer is None:
            raise ValueError(f"k={k} must be 1 or more, and the model must have a tokenizer")
        unembedding = model.W_U.detach().float()
        direction = self.at(layer).to(unembedding.device, model.W_U.dtype)[None, None]
        with torch.no_grad():
            normed = model.ln_final(direction) - model.ln_final(torch.zeros_like(direction))
        logits = normed[0, 0].float() @ unembedding
        return [str(model.tokenizer.decode([int(token)])) for token in logits.topk(k).indices]

    def __add__(self, other: SteeringVector) -> SteeringVector:
        return _combine(self, other, 1.0, "+")

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return _combine(self, other, -1.0, "-")

    def __mul__(self, factor: float) -> SteeringVector:
        provenance = replace(self.provenance, task=f"{factor:g} * ({self.provenance.task})")
        return SteeringVector(self.directions * factor, self.layers, provenance)

    __rmul__ = __mul__

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file, provenance inside; whole or not at all."""
        about = _about(self.provenance, self.layers)
        return save_tensors(Path(path), {"directions": self.directions}, kind="SteeringVector", about=about)

    def to_bytes(self) -> bytes:
        """What ``save`` writes."""
        with tempfile.TemporaryDirectory() as folder:
            return self.save(Path(folder) / "vector.safetensors").read_bytes()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        intervention: Steering | None = None,
        measured: pd.DataFrame | None = None,
        data: str = "",
        license: str = "",
        private: bool = False,
    ) -> str:
        """Publish on the Hugging Face Hub, with provenance and a model card; see ``cast_lens.share.hub.push_to_hub``.

        Returns:
            the address of the commit.
        """
        from .share.hub import push_to_hub

        return push_to_hub(
            self, repo_id, intervention=intervention, measured=measured, data=data, license=license, private=private
        )

    @classmethod
    def from_hub(cls, repo_id: str, *, revision: str | None = None) -> SteeringVector:
        """Fetch from the Hugging Face Hub; see ``cast_lens.share.hub.from_hub``.

        Raises:
            ValueError: for a repository that does not exist or cannot be reached, or holds no vector.
        """
        from .share.hub import from_hub

        return from_hub(repo_id, revision=revision)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SteeringVector:
        """Read what ``save`` wrote.

        Raises:
            ValueError: when the file is not a saved steering vector.
        """
        tensors, about = load_tensors(Path(path), kind="SteeringVector")
        return cls(_stored(tensors, "directions", path), *_origin(about, path))


@dataclass(frozen=True, slots=True, eq=False)
class DifferenceVectors:
    """Few-shot minus zero-shot residual of each sample, with both sides kept.

    The difference at the last prompt token is what arXiv 2507.13236 (section 4.3) averages into a steering
    vector.

    Attributes:
        few_shot: [sample, layer, d_model], float32 on the CPU: residual at the last token of the few-shot
            prompt.
        zero_shot: the same for the zero-shot prompt of the same query.
        layers: block index of each entry of the layer axis, increasing.
        sample_ids: the example behind each row.
        provenance: where they came from.
    """

    few_shot: Float[Tensor, "sample layer d_model"]
    zero_shot: Float[Tensor, "sample layer d_model"]
    layers: tuple[int, ...]
    sample_ids: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        _check_stack("few_shot", self.few_shot, self.layers, "[sample, layer, d_model]")
        _check_stack("zero_shot", self.zero_shot, self.layers, "[sample, layer, d_model]")
        if self.few_shot.shape != self.zero_shot.shape or len(self.sample_ids) != self.few_shot.shape[0]:
            raise ValueError(
                f"few_shot {tuple(self.few_shot.shape)}, zero_shot {tuple(self.zero_shot.shape)} and "
                f"{len(self.sample_ids)} sample_ids must agree on [sample, layer, d_model]"
            )

    def __repr__(self) -> str:
        samples, layers, width = self.few_shot.shape
        return (
            f"DifferenceVectors({self.task!r}, {samples} samples × {layers} layers × {width}, "
            f"{model_label(self.provenance)})"
        )

    @property
    def task(self) -> str:
        """Name of the task that the samples come from."""
        return self.provenance.task

    @property
    def values(self) -> Float[Tensor, "sample layer d_model"]:
        """The differences, few-shot minus zero-shot."""
        return self.few_shot - self.zero_shot

    def at(self, layer: int) -> Float[Tensor, "sample d_model"]:
        """The differences at one layer.

        Raises:
            ValueError: when these vectors do not hold that layer.
        """
        row = _row(self.layers, layer, "difference vectors")
        return self.few_shot[:, row] - self.zero_shot[:, row]

    def __len__(self) -> int:
        return self.few_shot.shape[0]

    def mean(self, indices: Choice | None = None, *, note: str = "") -> SteeringVector:
        """The steering vector: mean over the chosen samples.

        Args:
            indices: row numbers, or a boolean mask with one entry per sample; None for all samples.
            note: stored in the provenance.

        Raises:
            ValueError: when no sample is chosen, an index is out of range, a mask has another length, or
                ``indices`` holds anything but integers or booleans.
        """
        chosen = list(range(len(self))) if indices is None else chosen_rows(indices, len(self))
        mean = self.values[chosen].double().mean(dim=0).float()
        ids = tuple(self.sample_ids[index] for index in chosen)
        return SteeringVector(mean, self.layers, replace(self.provenance, sample_ids=ids, note=note))

    def to_frame(self) -> pd.DataFrame:
        """One row per sample and layer: ``task, sample_id, layer, norm, zero_shot_norm, few_shot_norm``."""
        norms = {
            "norm": self.values.norm(dim=-1),
            "zero_shot_norm": self.zero_shot.norm(dim=-1),
            "few_shot_norm": self.few_shot.norm(dim=-1),
        }
        rows = [
            {"task": self.task, "sample_id": sample, "layer": layer}
            for sample in self.sample_ids
            for layer in self.layers
        ]
        return pd.DataFrame(rows).assign(**{name: value.flatten().numpy() for name, value in norms.items()})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file, provenance inside; whole or not at all."""
        tensors = {"few_shot": self.few_shot, "zero_shot": self.zero_shot}
        about = {**_about(self.provenance, self.layers), "sample_ids": self.sample_ids}
        return save_tensors(Path(path), tensors, kind="DifferenceVectors", about=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DifferenceVectors:
        """Read what ``save`` wrote.

        Raises:
            ValueError: when the file holds no saved difference vectors.
        """
        tensors, about = load_tensors(Path(path), kind="DifferenceVectors")
        layers, provenance = _origin(about, path)
        few_shot, zero_shot = (_stored(tensors, name, path) for name in ("few_shot", "zero_shot"))
        return cls(few_shot, zero_shot, layers, tuple(map(str, about.get("sample_ids", ()))), provenance)


def chosen_rows(indices: Choice, count: int) -> list[int]:
    """Row numbers of a choice among ``count`` rows.

    Args:
        indices: row numbers from 0, in any order, or a boolean mask with one entry per row.
        count: rows to choose from.

    Raises:
        ValueError: for an empty choice, rows that do not exist, a mask of another length, or entries that are
            neither integers nor booleans.
    """
    given = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    if given.dtype.kind == "b" and given.ndim == 1 and len(given):
        if len(given) != count or not given.any():
            raise ValueError(
                f"indices is a boolean mask with {len(given)} entries, {int(given.sum())} of them True, but there "
                f"are {count} rows; give one entry per row and choose at least one"
            )
        return [int(row) for row in np.flatnonzero(given)]
    numbers = given.ndim == 1 and given.dtype.kind in "iu" and not _mixed(indices)
    if not numbers or given.min() < 0 or given.max() >= count:
        raise ValueError(
            f"indices must be a non-empty choice from 0 ... {count - 1}, as integers, or a boolean mask of {count} "
            f"entries, got {given.dtype} of shape {given.shape}: {given.ravel()[:8].tolist()}"
        )
    return [int(row) for row in given]


def _mixed(indices: Choice) -> bool:
    """Whether a list holds both booleans and numbers, which NumPy reads as numbers."""
    kinds = {isinstance(item, bool | np.bool_) for item in indices} if isinstance(indices, list | tuple) else ()
    return len(kinds) > 1


def _check_stack(name: str, stack: Tensor, layers: tuple[int, ...], axes: str) -> None:
    if stack.ndim != axes.count(",") + 1 or stack.shape[-2] != len(layers):
        raise ValueError(f"{name} {axes} has shape {tuple(stack.shape)}, which does not fit {len(layers)} layers")
    whole = all(isinstance(layer, int | np.integer) and not isinstance(layer, bool) for layer in layers)
    if not whole or not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise ValueError(f"layers must be one or more increasing block indices from 0, got {layers}")
    if stack.dtype != torch.float32 or stack.device.type != "cpu":
        raise ValueError(f"{name} must be float32 on the CPU, got {stack.dtype} on {stack.device}; use .float().cpu()")
    if not bool(torch.isfinite(stack).all()):
        raise ValueError(f"{name} holds NaN or infinite entries; the run that made it went wrong (half precision?)")


def _row(layers: tuple[int, ...], layer: int, what: str) -> int:
    if isinstance(layer, bool | np.bool_) or layer not in layers:
        raise ValueError(f"layer={layer} is not in this {what}; it holds layers {', '.join(map(str, layers))}")
    return layers.index(layer)


def _combine(left: SteeringVector, right: SteeringVector, sign: float, symbol: str) -> SteeringVector:
    if left.layers != right.layers or left.directions.shape != right.directions.shape:
        raise ValueError(
            f"vectors of {left.provenance.task!r} and {right.provenance.task!r} cover different layers or "
            f"widths: {tuple(left.directions.shape)} at {left.layers} and "
            f"{tuple(right.directions.shape)} at {right.layers}"
        )
    if left.provenance.fingerprint != right.provenance.fingerprint:
        raise ValueError(
            f"vectors come from different models ({left.provenance.model}, {right.provenance.model}) "
            "and cannot be combined; extract both from one model"
        )
    subtracted = right.provenance.task
    if symbol == "-" and _is_sum(subtracted):
        subtracted = f"({subtracted})"
    task = f"{left.provenance.task} {symbol} {subtracted}"
    return SteeringVector(
        left.directions + sign * right.directions, left.layers, replace(left.provenance, task=task, sample_ids=())
    )


def _is_sum(expression: str) -> bool:
    """Whether an expression over tasks has a sum or difference outside brackets."""
    depth, found = 0, False
    for before, character, after in zip(expression, expression[1:], expression[2:], strict=False):
        depth += (before == "(") - (before == ")")
        found = found or (depth == 0 and character in "+-" and before == after == " ")
    return found


def _about(provenance: Provenance, layers: tuple[int, ...]) -> dict[str, Any]:
    return {"layers": [int(layer) for layer in layers], "provenance": asdict(provenance)}


def _stored(tensors: dict[str, Tensor], name: str, path: str | os.PathLike[str]) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{os.fspath(path)} lacks the tensor {name!r}; is it damaged?")
    return tensors[name]


def _origin(about: dict[str, Any], path: str | os.PathLike[str]) -> tuple[tuple[int, ...], Provenance]:
    layers = about.get("layers")
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise ValueError(f"{os.fspath(path)} names the layers {layers!r}, not block indices; is it damaged?")
    try:
        return tuple(layers), Provenance.from_json(about.get("provenance"))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
