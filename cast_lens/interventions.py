"""Edits of a residual: frozen, pure callables, the same for the engine, for hooks and for placebos.

An ``Intervention`` says *where* (layer, position) and *what* (operator, direction, strength). It never
changes its argument in place and returns the argument's dtype and device. Layer ``l`` means
``blocks.{l}.hook_resid_post``. ``PromptVectors`` add to each prompt a vector of its own, at several layers.

Which token is edited is decided here alone (``edited_tokens``), for forward passes, decoding, gradients and hooks.
``ForwardPass`` counts tokens row by row among the real ones, so that padding on either side and keys that are already
cached change nothing: the last prompt token is the same token in a batch, alone, decoded step by step or all at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Position = Literal["last", "prompt_last", "all"]
POSITIONS: tuple[Position, ...] = ("last", "prompt_last", "all")
Operator = Literal["add", "norm_preserving_add", "ablate", "replace"]
OPERATORS: tuple[Operator, ...] = ("add", "norm_preserving_add", "ablate", "replace")
# What of a block a ``SublayerEdit`` edits: what the heads write before the output projection, what attention and
# what the MLP add to the residual stream.
Site = Literal["heads", "attention", "mlp"]


class Steering(Protocol):
    """The interface of everything that edits the residual stream."""

    @property
    def layer(self) -> int:
        """The first block whose output is edited."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """All of them, increasing."""
        ...

    @property
    def width(self) -> int:
        """``d_model`` of the residual stream that it was made for."""
        ...

    @property
    def strength(self) -> float:
        """Factor on what is added."""
        ...

    @property
    def operator(self) -> Operator:
        """What is done; see ``Intervention``."""
        ...

    @property
    def position(self) -> Position:
        """Which tokens are edited; see ``Intervention``."""
        ...

    @property
    def name(self) -> str:
        """Label in frames and figures."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the model that it was made for; empty when it is not known."""
        ...

    @property
    def largest(self) -> float:
        """Largest absolute entry of its vectors, strength aside."""
        ...

    @property
    def samples(self) -> int | None:
        """Prompts that it is made for; None when it is the same for every prompt."""
        ...

    def of(self, samples: Sequence[int]) -> Steering:
        """The same for some of the prompts, in this order."""
        ...

    def edit(
        self, layer: int, residual: Float[Tensor, "row d_model"], owners: Int[Tensor, " row"]
    ) -> Float[Tensor, "row d_model"]:
        """The edited rows at one of its layers; ``owners`` is the prompt that each row belongs to."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Intervention:
    """One edit of the residual stream at the output of one block.

    Operators, for residual ``h``, direction ``v`` and strength ``s``:

    - ``add``: ``h + s v`` (arXiv 2507.13236, step 3);
    - ``norm_preserving_add``: ``(h + s v) * |h| / |h + s v|``;
    - ``ablate``: ``h - s (h·u) u`` with ``u = v / |v|``: strength 1 projects the direction out;
    - ``replace``: ``(1 - s) h + s v``: strength 1 overwrites (task vectors, arXiv 2310.15916).

    Strength 0 is the identity for every operator, bit for bit.

    Attributes:
        direction: [d_model], finite; a non-zero one for ``ablate``.
        layer: block index, 0-based.
        strength: finite factor.
        operator: see above.
        position: ``last`` (the last prompt token and every generated token), ``prompt_last`` (the last prompt
            token only), ``all`` (every token).
        name: label in frames and figures.
        fingerprint: of the model that the direction was taken from, so that another one can refuse it; empty
            when it is not known.

    Raises:
        ValueError: for a direction that is not one finite floating-point vector, a negative layer, a
            non-finite strength, an unknown operator or position, or a zero direction to ablate.
    """

    direction: Float[Tensor, " d_model"]
    layer: int
    strength: float = 1.0
    operator: Operator = "add"
    position: Position = "last"
    name: str = ""
    fingerprint: str = ""

    def __repr__(self) -> str:
        name = f"{self.name!r}, " if self.name else ""
        return (
            f"Intervention({name}layer {self.layer}, strength {self.strength:g}, {self.operator} at {self.position}, "
            f"{self.direction.shape[-1]} wide)"
        )

    def __post_init__(self) -> None:
        self._check_direction()
        # A layer or strength read from a frame or an array comes as a NumPy scalar.
        object.__setattr__(self, "layer", index(self.layer))
        object.__setattr__(self, "strength", float(self.strength))
        if self.layer < 0:
            raise ValueError(f"layer={self.layer} is negative; layers count from 0, the output of the first block")
        if not -float("inf") < self.strength < float("inf"):
            raise ValueError(f"strength={self.strength} must be a finite number")
        if self.operator not in OPERATORS:
            raise ValueError(f"operator={self.operator!r} is unknown; choose one of {', '.join(OPERATORS)}")
        if self.position not in POSITIONS:
            raise ValueError(f"position={self.position!r} is unknown; choose one of {', '.join(POSITIONS)}")
        if self.operator == "ablate" and not bool(self.direction.any()):
            raise ValueError("a zero direction cannot be ablated: it has no direction to project out")

    def _check_direction(self) -> None:
        shape = tuple(self.direction.shape)
        if self.direction.ndim != 1 or not self.direction.is_floating_point():
            raise ValueError(
                f"direction must be one floating-point vector [d_model], got {self.direction.dtype} of shape {shape}"
            )
        if not bool(torch.isfinite(self.direction).all()):
            raise ValueError(
                f"direction of shape {shape} has NaN or infinite entries; check the run that made it (half precision?)"
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """The one layer."""
        return (self.layer,)

    @property
    def width(self) -> int:
        """``d_model``."""
        return len(self.direction)

    @property
    def largest(self) -> float:
        """Largest absolute entry of the direction."""
        return float(self.direction.detach().abs().max())

    @property
    def samples(self) -> None:
        """It is the same for every prompt."""
        return None

    def of(self, samples: Sequence[int]) -> Intervention:
        """Itself."""
        return self

    def edit(
        self, layer: int, residual: Float[Tensor, "row d_model"], owners: Int[Tensor, " row"]
    ) -> Float[Tensor, "row d_model"]:
        """The edited rows, whichever prompts they belong to."""
        return self(residual)

    def __call__(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The edited residual, a new tensor; positions are chosen by the caller.

        Norms and dot products are taken in float32 at least, whatever the residual's dtype.
        """
        if self.strength == 0:
            return residual.clone()
        exact = torch.promote_types(residual.dtype, torch.float32)
        direction = self.direction.to(device=residual.device, dtype=exact)
        if self.operator == "add":
            return residual + (self.strength * direction).to(residual.dtype)
        return self._edited(residual.to(exact), direction).to(residual.dtype)

    def _edited(
        self, residual: Float[Tensor, "*rows d_model"], direction: Float[Tensor, " d_model"]
    ) -> Float[Tensor, "*rows d_model"]:
        if self.operator == "norm_preserving_add":
            moved = residual + self.strength * direction
            length = moved.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(moved.dtype).tiny)
            return moved / length * residual.norm(dim=-1, keepdim=True)
        if self.operator == "ablate":
            # Scaled first: the squares of a direction as small as 1e-25 are zero in float32.
            unit = direction / direction.abs().max()
            unit = unit / unit.norm()
            return residual - self.strength * (residual @ unit).unsqueeze(-1) * unit
        return (1 - self.strength) * residual + self.strength * direction


@dataclass(frozen=True, slots=True, eq=False)
class PromptVectors:
    """Vectors that differ from prompt to prompt, added at several layers at once (arXiv 2506.03426).

    Wherever interventions go (``score``, ``answer``, ``evaluate``, ``steer``) these do too, with prompts in the
    same order. Strength 0 is the identity, bit for bit.

    Attributes:
        directions: [sample, layer, d_model], finite; a single sample serves every prompt.
        layers: block index of each entry of the layer axis, increasing.
        strength: finite factor.
        position: see ``Intervention``.
        name, fingerprint: see ``Intervention``.

    Raises:
        ValueError: for directions that are not finite floating-point numbers [sample, layer, d_model], layers that
            do not fit them, a non-finite strength or an unknown position.
    """

    directions: Float[Tensor, "sample layer d_model"]
    layers: tuple[int, ...]
    strength: float = 1.0
    position: Position = "last"
    name: str = ""
    fingerprint: str = ""

    def __repr__(self) -> str:
        prompts, layers, width = self.directions.shape
        name = f"{self.name!r}, " if self.name else ""
        return (
            f"PromptVectors({name}{prompts} prompts × {layers} layers × {width}, strength {self.strength:g}, "
            f"{self.position})"
        )

    def __post_init__(self) -> None:
        shape = tuple(self.directions.shape)
        object.__setattr__(self, "layers", tuple(index(layer) for layer in self.layers))
        object.__setattr__(self, "strength", float(self.strength))
        if len(shape) != 3 or not shape[0] or not self.directions.is_floating_point():
            raise ValueError(
                "directions must be floating-point vectors [sample, layer, d_model] of at least one sample, "
                f"got {self.directions.dtype} of shape {shape}"
            )
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be one or more increasing block indices from 0, got {self.layers}")
        if len(self.layers) != shape[1]:
            raise ValueError(f"directions of shape {shape} do not fit {len(self.layers)} layers")
        if not bool(torch.isfinite(self.directions).all()):
            raise ValueError(f"directions of shape {shape} have NaN or infinite entries; check the run that made them")
        if not -float("inf") < self.strength < float("inf"):
            raise ValueError(f"strength={self.strength} must be a finite number")
        if self.position not in POSITIONS:
            raise ValueError(f"position={self.position!r} is unknown; choose one of {', '.join(POSITIONS)}")

    @property
    def layer(self) -> int:
        """The first layer."""
        return self.layers[0]

    @property
    def width(self) -> int:
        """``d_model``."""
        return int(self.directions.shape[2])

    @property
    def operator(self) -> Operator:
        """Vectors are added."""
        return "add"

    @property
    def largest(self) -> float:
        """Largest absolute entry of all vectors."""
        return float(self.directions.detach().abs().max())

    @property
    def samples(self) -> int | None:
        """Prompts that there are vectors for; None when one set of vectors serves every prompt."""
        return len(self.directions) if len(self.directions) > 1 else None

    def of(self, samples: Sequence[int]) -> PromptVectors:
        """The vectors of some of the prompts, in this order."""
        if self.samples is None:
            return self
        return replace(self, directions=self.directions[list(samples)])

    def edit(
        self, layer: int, residual: Float[Tensor, "row d_model"], owners: Int[Tensor, " row"]
    ) -> Float[Tensor, "row d_model"]:
        """``h + strength * v`` with the vector of each row's prompt; a new tensor."""
        if self.strength == 0:
            return residual.clone()
        exact = torch.promote_types(residual.dtype, torch.float32)
        own = self.directions[:, self.layers.index(layer)].to(device=residual.device, dtype=exact)
        return residual + (self.strength * (own if len(own) == 1 else own[owners])).to(residual.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class SublayerEdit(ABC):
    """An edit inside blocks: of what heads, attention or MLP write, before it reaches the residual stream.

    Wherever interventions go these go too. The kinds are in ``cast_lens.sublayers``. Strength 0 is the identity.

    Attributes:
        layers: blocks that are edited, increasing.
        strength: 0 leaves outputs as they are, 1 is the whole edit unless the kind says otherwise.
        position, name, fingerprint: see ``Intervention``.

    Raises:
        ValueError: layers that are not increasing block indices, a non-finite strength, an unknown position.
    """

    layers: tuple[int, ...]
    strength: float = field(default=1.0, kw_only=True)
    position: Position = field(default="prompt_last", kw_only=True)
    name: str = field(default="", kw_only=True)
    fingerprint: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(index(layer) for layer in self.layers))
        object.__setattr__(self, "strength", float(self.strength))
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be one or more increasing block indices from 0, got {self.layers}")
        if not -float("inf") < self.strength < float("inf"):
            raise ValueError(f"strength={self.strength} must be a finite number")
        if self.position not in POSITIONS:
            raise ValueError(f"position={self.position!r} is unknown; choose one of {', '.join(POSITIONS)}")

    @property
    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """What of a block it edits."""

    @property
    @abstractmethod
    def width(self) -> int:
        """``d_model`` of the model that it was made for."""

    @property
    @abstractmethod
    def largest(self) -> float:
        """Largest absolute entry of its tensors."""

    @abstractmethod
    def edit_output(self, site: Site, layer: int, rows: Float[Tensor, "row ..."]) -> Float[Tensor, "row ..."]:
        """The edited rows, a new tensor: [row, head, d_head] at ``heads``, otherwise [row, d_model]."""

    @property
    def layer(self) -> int:
        """The first block that is edited."""
        return self.layers[0]

    @property
    def operator(self) -> Operator:
        """What frames call it: outputs are replaced, wholly or in part."""
        return "replace"

    @property
    def samples(self) -> None:
        """It is the same for every prompt."""
        return None

    @property
    def in_one_pass(self) -> bool:
        """Whether its prompts' earlier tokens stay as they are, so that variants share one pass of the engine."""
        return self.sites == ("heads",) and self.position == "prompt_last"

    def of(self, samples: Sequence[int]) -> SublayerEdit:
        """Itself."""
        return self

    def edit(
        self, layer: int, residual: Float[Tensor, "row d_model"], owners: Int[Tensor, " row"]
    ) -> Float[Tensor, "row d_model"]:
        """The residual as it is: it was edited inside the block."""
        return residual


Interventions = Steering | Sequence[Steering] | Mapping[str, Steering]
"""One intervention, several, or a mapping of names to interventions; frames then show the names."""


def as_interventions(given: Interventions) -> list[Steering]:
    """A list of interventions in their order, each with the name that it was given by.

    Raises:
        ValueError: something that is not an intervention, by its name or index.
    """
    named: list[tuple[object, Steering]]
    if isinstance(given, Mapping):
        named = list(given.items())
    else:
        named = list(enumerate(given if isinstance(given, Sequence) else [given]))
    found: list[Steering] = []
    for name, item in named:
        if not isinstance(item, Intervention | PromptVectors | SublayerEdit):
            raise ValueError(
                f"intervention {name} is a {type(item).__name__}; steering takes interventions: "
                "vector.intervention(layer, strength=...) makes one from a steering vector"
            )
        found.append(replace(item, name=name) if isinstance(name, str) else item)
    return found


def edited_tokens(
    position: Position, place: Int[Tensor, "*tokens"], last: int | Int[Tensor, "*#tokens"]
) -> Bool[Tensor, "*tokens"]:
    """True at the tokens that an intervention at ``position`` edits: the one rule.

    Args:
        position: see ``Intervention``.
        place: index of each token in its text, prompt and answer together, counted among real tokens.
        last: index of the last prompt token.
    """
    if position == "all":
        return torch.ones_like(place, dtype=torch.bool)
    return place == last if position == "prompt_last" else place >= last


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """What one forward pass runs over.

    Attributes:
        batch: rows.
        width: columns of this pass, padding included.
        cached: columns before them whose keys and values are in a cache.
        mask: [batch, cached + width], True where a token is real; None when all are.
        prompt_width: columns of the prompt, padding included, if a decoding loop knows it; None otherwise.
        layers: blocks that the pass runs.
    """

    batch: int
    width: int
    cached: int
    mask: Bool[Tensor, "batch column"] | None
    prompt_width: int | None
    layers: range

    def __post_init__(self) -> None:
        expected = (self.batch, self.cached + self.width)
        if self.mask is not None and tuple(self.mask.shape) != expected:
            raise ValueError(
                f"attention_mask has shape {tuple(self.mask.shape)}, but this pass has {self.batch} rows of "
                f"{self.cached} cached and {self.width} new tokens: steering needs one of shape {expected}"
            )

    def chosen(
        self, position: Position, prompt_length: Int[Tensor, " length"] | None = None
    ) -> Bool[Tensor, "batch width"]:
        """True at the tokens of this pass that an intervention at ``position`` edits.

        A pass that starts at the first token is taken for a prompt, unless ``prompt_length`` or the decoding
        loop says where the prompt ends; a single token after a cache is taken for a generated one.

        Args:
            position: ``all`` is every token, padding included, which no real token attends to.
            prompt_length: real tokens of each row's prompt, one number per row or one for all.

        Raises:
            ValueError: when several tokens follow a cache and nothing says which of them belong to the
                prompt, or when ``prompt_length`` has another number of rows.
        """
        if position == "all":
            return torch.ones(self.batch, self.width, dtype=torch.bool)
        mask = self.mask
        if mask is None:
            mask = torch.ones(self.batch, self.cached + self.width, dtype=torch.bool)
        rank = (mask.cumsum(dim=1) - 1)[:, self.cached :]
        last = self._last_prompt_rank(mask, prompt_length)[:, None]
        return edited_tokens(position, rank, last) & mask[:, self.cached :]

    def _last_prompt_rank(
        self, mask: Bool[Tensor, "batch column"], prompt_length: Int[Tensor, " length"] | None
    ) -> Int[Tensor, " row"]:
        if prompt_length is not None:
            if len(prompt_length) not in (1, self.batch):
                raise ValueError(
                    f"prompt_length has {len(prompt_length)} entries, but the model was run on {self.batch} "
                    "rows; give one number, or one per row"
                )
            return prompt_length.to(mask.device) - 1
        if self.prompt_width is not None:
            return mask[:, : self.prompt_width].sum(dim=1) - 1
        if self.cached == 0:
            return mask.sum(dim=1) - 1
        if self.width == 1:
            return torch.full((1,), -1, device=mask.device)
        raise ValueError(
            f"{self.width} tokens follow {self.cached} cached ones: they may be the rest of a prompt or "
            "generated tokens; say how long the prompt is with steer(..., prompt_length=...)"
        )


def prompt_lengths(length: int | Sequence[int] | Int[Tensor, " batch"]) -> Int[Tensor, " row"]:
    """``prompt_length`` as steering takes it, checked: real tokens of the prompt, for all rows or for each.

    Raises:
        ValueError: when a prompt would have no token.
    """
    lengths = torch.as_tensor(length).reshape(-1)
    if not len(lengths) or lengths.is_floating_point() or int(lengths.min()) < 1:
        raise ValueError(f"prompt_length={length!r} must be the number of real tokens in the prompt, 1 or more")
    return lengths.long()
