"""A residual model that is linear in the stream, with whole numbers for weights: steering it is exact.

Attention is zero and the MLP's activation is the identity, so block ``l`` maps each token's residual ``h`` to
``h + h W_in W_out`` and tokens never meet. Steering at layer ``l`` by ``v`` then adds exactly ``strength *
v`` there and ``strength * v`` times the Jacobian of the later blocks further up, in floating point too: every
number is a whole number far below 2**24.
"""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cast_lens.models.convert import unfilled_model
from cast_lens.models.lens import HookedTransformer, HookedTransformerConfig, has_hooked_transformer


def toy_model(*, n_layers: int = 4, d_model: int = 8, d_vocab: int = 16, seed: int = 0) -> HookedTransformer:
    """A linear residual model without tokenizer, in ``eval()`` mode; skips the test where there is no such model."""
    if not has_hooked_transformer():
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    cfg = HookedTransformerConfig(
        n_layers=n_layers,
        d_model=d_model,
        d_head=4,
        n_heads=2,
        d_mlp=4,
        n_ctx=32,
        d_vocab=d_vocab,
        act_fn="relu",
        normalization_type=None,
        positional_embedding_type="standard",
        init_weights=False,
        device="cpu",
    )
    model = unfilled_model(cfg)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for weight in (model.embed.W_E, model.pos_embed.W_pos, model.unembed.W_U):
            weight.copy_(torch.randint(-3, 4, weight.shape, generator=generator))
        for block in model.blocks:
            block.mlp.act_fn = nn.Identity()
            for weight in (block.mlp.W_in, block.mlp.W_out):
                weight.copy_(torch.randint(-1, 2, weight.shape, generator=generator))
    return model.eval()


def jacobian(model: HookedTransformer, start: int, stop: int) -> Float[Tensor, "d_model d_model"]:
    """``J`` with ``h_stop = h_start J``, from the output of block ``start`` to that of block ``stop``."""
    product = torch.eye(model.cfg.d_model)
    for block in list(model.blocks)[start + 1 : stop + 1]:
        product = product + product @ block.mlp.W_in @ block.mlp.W_out
    return product.detach()
