"""A ``TransformerBridge`` of TransformerLens 3.9 or 4 as the Hugging Face model that it was made from.

A bridge keeps that model and replaces its layers, in place, by components of its own: they fire hooks, and they pass
over transformers' attention interface. Each holds the module that it replaced. Put together again, those modules are
the model as it was, with the bridge's own parameters: nothing is copied, and the bridge stays usable.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

_REPLACED = "_original_component"


def is_bridge(model: Any) -> bool:
    """Whether something is a ``TransformerBridge``; imports nothing."""
    loaded = sys.modules.get("transformer_lens.model_bridge")
    return loaded is not None and isinstance(model, loaded.TransformerBridge)


@torch.no_grad()
def bridged_model(bridge: Any) -> PreTrainedModel:
    """The Hugging Face model below a bridge, without the bridge's components, sharing its parameters.

    Raises:
        ValueError: a bridge that is not a wrapped ``PreTrainedModel``, whose weights were processed, or that has hooks.
    """
    if bridge._weights_processed:
        raise ValueError(
            "the bridge's weights are processed (enable_compatibility_mode folds and centres them), so its residual "
            "stream is not the model's; boot it without, or call enable_compatibility_mode(no_processing=True)"
        )
    below = getattr(bridge, "original_model", None)
    if not isinstance(below, PreTrainedModel):
        raise ValueError(f"the bridge wraps a {type(below).__name__}, not a Hugging Face decoder in this process")
    points = bridge.hook_dict.items()
    # The bridge itself has permanent ones.
    hooked = [name for name, point in points if any(not h.is_permanent for h in (*point.fwd_hooks, *point.bwd_hooks))]
    if hooked:
        raise ValueError(f"hooks are attached to the bridge ({hooked[0]}), and would be lost: bridge.reset_hooks()")
    found: PreTrainedModel = _restored(below, {})
    return found


def original_tokenizer(bridge: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer that a bridge was given, loaded again: a bridge makes one of its own that puts BOS before each
    text.

    Raises:
        ValueError: when it is no longer where it came from.
    """
    if bridge.tokenizer is None:
        return None
    where = bridge.tokenizer.name_or_path
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the bridge has changed its tokenizer (it puts BOS before each text), and the original cannot be read "
            f"from {where!r}; pass it as tokenizer="
        ) from error
    return found


def _restored(module: nn.Module, done: dict[int, nn.Module]) -> Any:
    """A module with the modules that its components replaced back in their places; its tensors are shared."""
    while _REPLACED in module._modules:
        replaced = module._modules[_REPLACED]
        assert replaced is not None
        module = replaced
    if id(module) in done:
        return done[id(module)]
    found = done[id(module)] = copy.copy(module)
    # ``copy.copy`` shares the dictionaries of parameters and hooks, too.
    for name, value in vars(module).items():
        if isinstance(value, dict) and name.startswith("_"):
            vars(found)[name] = copy.copy(value)
    for name, child in module._modules.items():
        found._modules[name] = None if child is None else _restored(child, done)
    return found
