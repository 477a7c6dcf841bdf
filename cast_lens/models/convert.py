"""Hugging Face weights into a ``HookedTransformer``, unprocessed: a residual here is the residual there."""

from __future__ import annotations

import torch
from transformer_lens import HookedTransformer
from transformers import PreTrainedModel

from ._compat import unfilled_model
from .architectures import architecture_of
from .config import config_from_huggingface


@torch.no_grad()
def convert(hf_model: PreTrainedModel, *, name: str, device: torch.device | str) -> HookedTransformer:
    """The same model as a ``HookedTransformer``, in ``eval()`` mode.

    The weights are views of the Hugging Face weights where TransformerLens keeps the same numbers, so converting
    costs little memory and its products need no copy per call.

    Raises:
        ValueError: when the architecture or something in its config cannot be represented, or weights are missing.
    """
    cfg = config_from_huggingface(hf_model.config)
    cfg.model_name, cfg.dtype, cfg.device = name, hf_model.dtype, str(hf_model.device)
    state = architecture_of(hf_model.config).weights(hf_model, cfg)
    model = unfilled_model(cfg)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    buffers = {key for key, _ in model.named_buffers()}
    absent = sorted(key for key in set(missing) - buffers if not key.rsplit(".", 1)[-1].startswith("b_"))
    if absent or unexpected:
        raise ValueError(
            f"the weights of {name!r} do not fit its architecture: missing {absent[:4]}, unexpected {unexpected[:4]}"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    cfg.device = str(device)
    model.to(device, print_details=False)
    return model.eval()
