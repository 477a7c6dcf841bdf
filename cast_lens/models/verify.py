"""Every load is checked: the converted model must give the logits of the Hugging Face model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .lens import HookedTransformer

PROBE = (
    "Question: which planet is the largest? Answer: Jupiter. In 1492 they sailed the ocean; "
    "2 + 2 = 4, and the quick brown fox jumps over the lazy dog.\n\nReview: a warm film. Sentiment:"
)
PROBE_IDS = 48  # tokens of the probe for a model that comes without a tokenizer

# float32: largest difference over largest |logit|. The embedded model shows 2e-6 and the worst random mixture
# of experts 4e-5, from summing in another order; a norm's epsilon ten times too small already shows 6e-4.
EXACT = {torch.float32: 2e-4}
# Half precision: rounding grows from layer to layer and flips the experts of single tokens, so the largest
# difference says little. Median over positions of |difference| / |logits|: random models reach 0.10 in
# bfloat16 and 0.008 in float16. This catches a grossly wrong conversion only: load in float32 once to be
# sure.
ROUNDED = {torch.float16: 0.03, torch.bfloat16: 0.15}


def probe_ids(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Int[Tensor, "1 position"]:
    """What both models read: the probe text, or ids spread over the vocabulary without a tokenizer.

    Raises:
        ValueError: when the tokenizer gives ids that the model has no embedding for.
    """
    size = int(hf_model.config.get_text_config().vocab_size)
    if tokenizer is None:
        return torch.linspace(0, size - 1, PROBE_IDS).long().unsqueeze(0)
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    if int(ids.max()) >= size:
        raise ValueError(
            f"tokenizer gives token {int(ids.max())}, but the model has {size} embeddings; "
            "it is not the tokenizer of this model"
        )
    return ids


@torch.no_grad()
def verify_logits(model: HookedTransformer, hf_model: PreTrainedModel, ids: Int[Tensor, "1 position"]) -> None:
    """Refuse a model whose logits are not those of the Hugging Face model.

    Raises:
        ValueError: when they differ beyond what rounding in the coarser of the two dtypes explains.
    """
    with _as_defined(hf_model):
        expected = hf_model(ids.to(hf_model.device), use_cache=False).logits.float().cpu()
    got = model(ids.to(model.cfg.device)).float().cpu()
    coarse = max((hf_model.dtype, model.cfg.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    exact = coarse in EXACT
    error = _worst(expected, got) if exact else _typical(expected, got)
    limit = EXACT[coarse] if exact else ROUNDED[coarse]
    if not error <= limit:  # NaN must fail too
        raise ValueError(
            f"logits of {model.cfg.model_name!r} differ from Hugging Face's by {error:.1e} of their size, "
            f"where rounding explains {limit:.0e}: {model.cfg.original_architecture} with this config is not "
            "represented faithfully, and vectors from it would be wrong"
        )


@contextmanager
def _as_defined(hf_model: PreTrainedModel) -> Iterator[None]:
    """Without dropout, and with the attention that defines the model (fused kernels have no soft caps)."""
    training, attention = hf_model.training, hf_model.config._attn_implementation
    hf_model.eval()
    if attention != "eager":
        hf_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        hf_model.train(training)
        if attention != "eager":
            hf_model.set_attn_implementation(attention)


def _worst(expected: Float[Tensor, "1 position vocab"], got: Float[Tensor, "1 position vocab"]) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def _typical(expected: Float[Tensor, "1 position vocab"], got: Float[Tensor, "1 position vocab"]) -> float:
    spread = (expected - expected.mean(dim=-1, keepdim=True)).norm(dim=-1)
    return float(((got - expected).norm(dim=-1) / spread).median())
