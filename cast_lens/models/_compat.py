"""The one place that constructs a ``HookedTransformer``, and that quietens what it says about itself."""

from __future__ import annotations

import warnings

from transformer_lens import HookedTransformer
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig


def unfilled_model(cfg: HookedTransformerConfig) -> HookedTransformer:
    """A model of the right shape whose parameters are still to be assigned.

    TransformerLens 3.9 warns at every construction that 4.0 drops this class. We pin ``<4``, because only
    this class can re-enter at a layer and reuse a KV cache; a user can do nothing about the warning, so it
    is silenced here and nowhere else.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="HookedTransformer is deprecated", category=DeprecationWarning
        )
        return HookedTransformer(cfg, tokenizer=None, move_to_device=False)
