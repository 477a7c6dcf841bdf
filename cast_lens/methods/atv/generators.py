"""Generates the vectors of an adaptive task vector: a small model reads the query, and an expansion maps its state.

- ``Generator``: the interface of a small model; ``BlocksGenerator``, ``HuggingFaceGenerator``, ``ConstantGenerator``;
- ``Expansion``: a linear map, full or of low rank, from a small model's state to one vector per layer.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from ...engine import capture, tokenise
from ...models import EMBEDDED, fingerprint, load_model, model_name
from ...models.identity import check_layers
from ...models.lens import HookedTransformer
from ...models.load import one_at_a_time
from .config import SELF, Design, Pooling, Start

# How many texts a small model reads at once.
BATCH = 16
SAMPLED = 64  # entries of a tensor that its digest reads


class Generator(Protocol):
    """Anything that turns texts into states."""

    @property
    def width(self) -> int:
        """Width of a state."""
        ...

    @property
    def module(self) -> nn.Module | None:
        """The module that is trained too; None if it is frozen."""
        ...

    @property
    def name(self) -> str:
        """A readable name of the small model."""
        ...

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the small model; files refuse any other."""
        ...

    def states(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        """One state per text; differentiable in ``module``'s parameters."""
        ...


def pooled(
    hidden: Float[Tensor, "sample position d_small"], lengths: Int[Tensor, " sample"], pooling: Pooling
) -> Float[Tensor, "sample d_small"]:
    """The state of each text's last token, or the mean over its tokens; padding is on the right."""
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    real = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
    return (hidden * real[..., None]).sum(dim=1) / lengths[:, None]


class BlocksGenerator:
    """The first blocks of a ``HookedTransformer``, copied if they are trained."""

    def __init__(self, model: HookedTransformer, layer: int, *, pooling: Pooling, trained: bool) -> None:
        check_layers(model, (layer,))
        self.layer, self.pooling = layer, pooling
        self.width = int(model.cfg.d_model)
        self.name, self.fingerprint = model_name(model), fingerprint(model)
        self.model = _first_blocks(model, layer + 1) if trained else model
        self.module: nn.Module | None = self.model if trained else None

    def states(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        """Residual after block ``layer``, at the last token or averaged; float32 at least."""
        if self.module is None and self.pooling == "last":
            return capture(self.model, list(texts), layers=(self.layer,))[:, 0]
        with torch.set_grad_enabled(self.module is not None and torch.is_grad_enabled()):
            return torch.cat([self._run(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])

    def _run(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        rows = [prompt.tokens for prompt in tokenise(self.model, list(texts))]
        lengths = torch.tensor([len(row) for row in rows], device=self.model.cfg.device)
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.model.cfg.device)
        mask = (torch.arange(width, device=ids.device)[None] < lengths[:, None]).long()
        hidden = self.model(ids, attention_mask=mask, stop_at_layer=self.layer + 1)
        exact = torch.promote_types(hidden.dtype, torch.float32)
        return pooled(hidden.to(exact), lengths, self.pooling)


def _first_blocks(model: HookedTransformer, count: int) -> HookedTransformer:
    """A copy of the embedding and the first blocks; all other parts are left out."""
    left_out = [*list(model.blocks)[count:], model.unembed]
    copied = copy.deepcopy(model, {id(part): nn.Identity() for part in left_out})
    return copied.requires_grad_(True)


class HuggingFaceGenerator:
    """The last hidden state of a Hugging Face model, at the last token or averaged. It stays in ``eval()`` mode."""

    def __init__(self, source: str, *, pooling: Pooling, trained: bool) -> None:
        try:
            load = one_at_a_time(AutoModel.from_pretrained)
            self.model: Any = load(source, dtype=torch.float32).eval()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            first = str(error).strip().split("\n")[0]
            raise ValueError(
                f"source={source!r} is not a model that transformers can load as a generator ({first}); give a folder "
                "written by save_pretrained or a hub name, or choose generator='blocks', which needs no download"
            ) from error
        if getattr(self.model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"source={source!r} is an encoder-decoder; give a decoder or an encoder alone (BERT, GPT-2, …)"
            )
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token
        self.pooling = pooling
        self.width = int(self.model.config.hidden_size)
        self.name, self.fingerprint = source, digest(self.model)
        self.model.requires_grad_(trained)
        self.module: nn.Module | None = self.model if trained else None

    def states(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        """One state per text.

        Raises:
            ValueError: when a text is longer than the model's context.
        """
        with torch.set_grad_enabled(self.module is not None and torch.is_grad_enabled()):
            return torch.cat([self._run(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])

    def _run(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        read = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        width, limit = read["input_ids"].shape[1], getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and width > limit:
            longest = int(read["attention_mask"].sum(dim=1).argmax())
            raise ValueError(
                f"the text {texts[longest][:60]!r}… has {width} tokens, more than the {limit} that the generator "
                f"{self.name!r} reads; use another one or shorter examples"
            )
        inputs = {name: read[name] for name in ("input_ids", "attention_mask")}
        device = next(self.model.parameters()).device
        hidden = self.model(**{name: value.to(device) for name, value in inputs.items()}).last_hidden_state
        return pooled(hidden, inputs["attention_mask"].sum(dim=1).to(device), self.pooling)


class ConstantGenerator:
    """Reads nothing: states of width 0, so that only the expansion's bias is left, one vector for all queries."""

    width = 0
    module: nn.Module | None = None
    name = "constant"
    fingerprint = ""

    def states(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        """An empty state for each text."""
        return torch.zeros(len(texts), 0)


def build_generator(design: Design, model: HookedTransformer) -> Generator:
    """The small model of a design.

    Args:
        design: names the small model.
        model: the large model, which is also the small model for ``residual`` and for the source ``self``.

    Raises:
        ValueError: a model that cannot be loaded, or a layer that it does not have.
    """
    if design.generator == "constant":
        return ConstantGenerator()
    if design.generator == "huggingface":
        return HuggingFaceGenerator(design.source, pooling=design.pooling, trained=design.trained)
    if design.generator == "residual":
        return BlocksGenerator(model, design.layer, pooling="last", trained=False)
    return BlocksGenerator(
        _small_model(design.source, model), design.layer, pooling=design.pooling, trained=design.trained
    )


def _small_model(source: str, model: HookedTransformer) -> HookedTransformer:
    known = model_name(model)
    if source in (SELF, known) or (source == EMBEDDED and known.rstrip("/").endswith(EMBEDDED)):
        return model
    return load_model(source)


class Expansion(nn.Module):
    """``v = W (s - shift) / scale + b``, with ``W = U D`` for a rank.

    Args:
        d_small: width of a state; 0 leaves the bias alone.
        layers: number of vectors.
        d_model: width of a vector.
        rank: rank of ``W``; None for a full one.
        start: initialisation: ``zero``, or ``torch`` for PyTorch's default of a linear layer.
        seed: seed of the initialisation.
        shift, scale: subtracted from and divided into the states; None for 0 and 1.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        d_small: int,
        layers: int,
        d_model: int,
        *,
        rank: int | None = None,
        start: Start = "zero",
        seed: int = 0,
        shift: Float[Tensor, " d_small"] | None = None,
        scale: Float[Tensor, " d_small"] | None = None,
    ) -> None:
        super().__init__()
        self.shape = (layers, d_model)
        generator = torch.Generator().manual_seed(seed)
        wide = layers * d_model
        inner = d_small if rank is None else rank
        self.down = None if rank is None else nn.Parameter(_uniform((rank, d_small), d_small, generator))
        if start == "zero":
            self.up = nn.Parameter(torch.zeros(wide, inner))
            self.bias = nn.Parameter(torch.zeros(wide))
        else:
            self.up = nn.Parameter(_uniform((wide, inner), inner, generator))
            self.bias = nn.Parameter(_uniform((wide,), inner, generator))
        self.register_buffer("shift", torch.zeros(d_small) if shift is None else shift.clone())
        self.register_buffer("scale", torch.ones(d_small) if scale is None else scale.clone())

    def forward(self, states: Float[Tensor, "sample d_small"]) -> Float[Tensor, "sample layer d_model"]:
        """One vector per layer for each state."""
        inner = (states.to(self.bias) - self.shift) / self.scale
        if self.down is not None:
            inner = F.linear(inner, self.down)
        return F.linear(inner, self.up, self.bias).unflatten(-1, self.shape)

    @property
    def n_parameters(self) -> int:
        """Numbers that are learned."""
        return sum(parameter.numel() for parameter in self.parameters())


def standards(states: Float[Tensor, "sample d_small"]) -> tuple[Float[Tensor, " d_small"], Float[Tensor, " d_small"]]:
    """Mean and standard deviation of each coordinate; 1 where it does not vary."""
    exact = states.detach().double()
    mean = exact.mean(dim=0)
    deviation = (exact - mean).square().mean(dim=0).sqrt()
    # A smaller deviation is rounding, and dividing by it would amplify noise.
    varies = deviation > 1e-6 * mean.abs()
    return mean.to(states.dtype), torch.where(varies, deviation, 1.0).to(states.dtype)


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Torch's default for a linear layer: uniform within one over the root of the inputs."""
    bound = 1 / math.sqrt(max(1, fan_in))
    return (2 * torch.rand(shape, generator=generator) - 1) * bound


def digest(module: nn.Module) -> str:
    """Sixteen hex digits over names, shapes and evenly spaced entries of the parameters."""
    found = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        flat = parameter.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, min(SAMPLED, len(flat)), dtype=torch.float64).long()
        found.update(f"{name}{tuple(parameter.shape)}".encode())
        found.update(flat[places.to(flat.device)].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:16]
