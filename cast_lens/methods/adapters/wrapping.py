"""``peft`` around a Hugging Face model: LoRA, or a prefix of virtual tokens, of about the size that is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...engine.layout import MIN_SHARED, common_prefix
from .backbone import Backbone, selected
from .design import AdapterDesign

# peft multiplies by lora_alpha / rank; two is the usual choice.
SCALING = 2


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
        """How many tokens all rows begin with, and a cache that holds those, run once, behind the virtual ones.

        The last token of a row always stays. Rows that share too little to be worth a pass share nothing.
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


def wrap(
    model: PreTrainedModel, design: AdapterDesign, *, seed: int, opening: Sequence[int], room: int
) -> Wrapped:
    """An adapter as it is before training: LoRA changes nothing yet, virtual tokens are those of a text.

    Args:
        model: it becomes part of the result; LoRA layers are put into it.
        design: kind and budget.
        seed: of LoRA's random factor.
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
    """What peft's ``all-linear`` stands for: every linear map but the output head."""
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
    """Of a text in every layer, one row a token, in the order in which ``peft`` keeps a prefix."""
    cache = DynamicCache()
    backbone.run(torch.tensor([list(tokens)], device=backbone.model.device), cache)
    layers: Any = cache.layers
    parts = [part[0].transpose(0, 1).flatten(1) for layer in layers for part in (layer.keys, layer.values)]
    return torch.cat(parts, dim=1)


def _made(peft: Any, model: PreTrainedModel, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks transformers for a property that has a new name; a user can do nothing about it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config).eval()
