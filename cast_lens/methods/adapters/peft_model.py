"""``peft`` around a Hugging Face model: what an adapter is, what it is built into, and how that runs.

- ``AdapterDesign``: kind, budget of parameters, learning rate;
- ``Backbone``: the model run in two parts, to the final residuals and from chosen ones of them to logits;
- ``Wrapped``, ``wrap``: the model with LoRA, or a prefix of virtual tokens, of about the size that is asked for.

Rows are padded on the right: under causal attention no token sees what comes after it, so neither masks nor
positions are needed, and a row's numbers do not depend on its neighbours.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...engine.layout import MIN_SHARED, common_prefix

AdapterKind = Literal["lora", "prefix"]
KINDS: tuple[AdapterKind, ...] = get_args(AdapterKind)
# LoRA: the rate that arXiv 2506.03426 settled on after a first one failed; over a handful of steps 0.001 falls faster.
# Prefix: of 0.003, 0.01 and 0.03 the one with the lowest validation loss (1.08, 0.69, 0.96) after two epochs of two
# tasks on the embedded model.
LEARNING_RATES: dict[AdapterKind, float] = {"lora": 4e-4, "prefix": 1e-2}
# Tokens of the check that both parts together are the model.
PROBE = 8
# peft multiplies by lora_alpha / rank; two is the usual choice.
SCALING = 2


@dataclass(frozen=True, slots=True)
class AdapterDesign:
    """A rival of an adaptive task vector at equal parameters.

    Attributes:
        kind: ``lora`` (arXiv 2106.09685), low-rank changes of every linear map but the output head; ``prefix``
            (arXiv 2101.00190), keys and values of virtual tokens before the prompt, in every layer, learned directly.
        parameters: to come near to: the rank, or the number of virtual tokens, is rounded, and at least 1.
        learning_rate: learning rate of Adam; the kind's own when None (``LEARNING_RATES``).

    Raises:
        ValueError: for an unknown kind, fewer than 1 parameter, or a learning rate that is not positive.
    """

    kind: AdapterKind
    parameters: int
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.parameters < 1:
            raise ValueError(f"parameters={self.parameters} must be 1 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and finite, or None")

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        return LEARNING_RATES[self.kind] if self.learning_rate is None else self.learning_rate

    def size(self, unit: int) -> int:
        """The rank or number of virtual tokens that comes nearest to the budget when one has ``unit`` parameters."""
        return max(1, round(self.parameters / unit))


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A causal language model of Hugging Face.

    Raises:
        ValueError: when its logits are more than its output head on its decoder's states.
    """

    model: PreTrainedModel

    def __post_init__(self) -> None:
        size = int(self.model.config.get_text_config().vocab_size)
        ids = torch.linspace(0, size - 1, PROBE, device=self.model.device).long()[None]
        with torch.no_grad():
            expected = self.model(ids, use_cache=False).logits
            found = self.logits(self.run(ids))
        # Both routes multiply the same matrices; anything left out (a scale, a cap) shows far above rounding.
        if not torch.allclose(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max())):
            raise ValueError(
                f"{type(self.model).__name__} computes its logits in a way that is not known here; adapters are "
                "trained for models whose logits are one matrix (and perhaps a soft cap) on the final residual"
            )

    def run(self, ids: Int[Tensor, "row position"], cache: Any = None) -> Float[Tensor, "row position d_model"]:
        """Final residuals, normed, after what the cache holds."""
        out = self.model.base_model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
        found: Tensor = out.last_hidden_state
        return found

    def go_on(
        self, ids: Int[Tensor, "row position"], cache: Any = None
    ) -> tuple[Float[Tensor, "row position d_model"], Any]:
        """The same, and a cache with these tokens: the one that was given, grown, or a new one."""
        out = self.model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
        return out.last_hidden_state, out.past_key_values

    def logits(self, residual: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row vocab"]:
        """Over the whole vocabulary."""
        head: Any = self.model.get_output_embeddings()
        found: Tensor = head(residual)
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return found if not cap else cap * torch.tanh(found / cap)


def selected(cache: Any, rows: Sequence[int], device: torch.device) -> Any:
    """A cache with these rows of another one, which stays as it is."""
    # Layers replace their tensors when they grow, so that those of the original can be shared.
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    made.batch_select_indices(torch.tensor(rows, device=device))
    return made


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "row position"]:
    """Token ids, filled on the right with whatever token."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def peft_library() -> Any:
    """The module ``peft``.

    Raises:
        ImportError: when it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            'LoRA and prefix-tuning need the package peft; install it with pip install "cast-lens[peft]"'
        ) from error
    return peft


@dataclass(frozen=True, slots=True, eq=False)
class Wrapped:
    """A model with an adapter that can be trained; the model's own parameters ask for no gradient.

    Attributes:
        backbone: runs the model, LoRA inside.
        peft_model: what ``peft`` made of it.
        virtual: number of virtual tokens; 0 for LoRA.
        setting: rank or number of virtual tokens, for people.
    """

    backbone: Backbone
    peft_model: Any
    virtual: int
    setting: str

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What is learned, by name."""
        named = self.peft_model.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    @property
    def n_parameters(self) -> int:
        """How many numbers that is."""
        return sum(parameter.numel() for parameter in self.trained.values())

    def prefix(self, rows: int) -> Any:
        """A cache that holds the virtual tokens for so many rows; None for LoRA."""
        return self.peft_model.get_prompt(rows) if self.virtual else None

    def opened(self, rows: Sequence[tuple[int, ...]]) -> tuple[int, Any]:
        """How many tokens all rows begin with, and a cache that holds those, run once, after the virtual ones.

        The last token of a row is always kept. Rows that share too little to be worth a pass share nothing.
        """
        shared = common_prefix([row[:-1] for row in rows]) if len(rows) > 1 else 0
        if shared < MIN_SHARED:
            return 0, self.prefix(len(rows))
        device = self.backbone.model.device
        _, cache = self.backbone.go_on(torch.tensor([rows[0][:shared]], device=device), self.prefix(1))
        return shared, selected(cache, [0] * len(rows), device)

    def state(self) -> dict[str, Tensor]:
        """A copy of what was learned."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state`` took."""
        for name, parameter in self.trained.items():
            parameter.copy_(state[name])


def wrap(model: PreTrainedModel, design: AdapterDesign, *, seed: int, opening: Sequence[int], room: int) -> Wrapped:
    """An adapter as it is before training: LoRA changes nothing yet, virtual tokens are those of a text.

    Args:
        model: it becomes part of the result; LoRA layers are inserted into it.
        design: kind and budget.
        seed: seed of LoRA's random factor.
        opening: tokens of a text whose keys and values the virtual tokens start from (arXiv 2101.00190, section 7.4:
            much better than random ones where examples are few); repeated when it is too short.
        room: most virtual tokens that leave space for every prompt.

    Raises:
        ValueError: more virtual tokens than there is room for; a model that cannot be run in parts.
        ImportError: without ``peft``.
    """
    peft = peft_library()
    backbone = Backbone(model.eval())
    if design.kind == "lora":
        rank = design.size(sum(sum(layer.weight.shape) for layer in linear_layers(model)))
        made = _made(peft, model, _lora(peft, model, rank), seed)
        return Wrapped(backbone, made, 0, f"rank {rank}")
    virtual = design.size(keys_and_values(backbone, opening[:1]).numel())
    if virtual > room:
        raise ValueError(
            f"parameters={design.parameters} are {virtual} virtual tokens, but only {room} fit before the longest "
            "prompt; ask for fewer, or for shorter prompts"
        )
    first = keys_and_values(backbone, tuple(islice(cycle(opening), virtual)))
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual)
    made = _made(peft, model, config, seed)
    made.prompt_encoder[made.active_adapter].load_prompt_embeddings(first)
    return Wrapped(backbone, made, virtual, f"{virtual} virtual token{'s' * (virtual > 1)}")


def linear_layers(model: PreTrainedModel) -> list[nn.Linear | Conv1D]:
    """What peft's ``all-linear`` means: every linear map but the output head."""
    head = model.get_output_embeddings()
    found = [module for module in model.modules() if isinstance(module, (nn.Linear, Conv1D))]
    return [module for module in found if module is not head]


def _lora(peft: Any, model: PreTrainedModel, rank: int) -> Any:
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=SCALING * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        # GPT-2 keeps its matrices the other way round.
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in linear_layers(model)),
    )


@torch.no_grad()
def keys_and_values(backbone: Backbone, tokens: Sequence[int]) -> Float[Tensor, "position kv"]:
    """Keys and values of a text in every layer, one row per token, in the order in which ``peft`` keeps a prefix."""
    cache = DynamicCache()
    backbone.run(torch.tensor([list(tokens)], device=backbone.model.device), cache)
    layers: Any = cache.layers
    parts = [
        rearrange(part[0], "head position d_head -> position (head d_head)")
        for layer in layers
        for part in (layer.keys, layer.values)
    ]
    return torch.cat(parts, dim=1)


def _made(peft: Any, model: PreTrainedModel, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks transformers for a property that has a new name; a user can do nothing about it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config).eval()
