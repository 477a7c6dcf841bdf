"""A Hugging Face model run in two parts: to the final residuals, and from chosen ones of them to logits.

Rows are padded on the right: under causal attention no token sees what stands behind it, so neither masks nor
positions are needed, and a row's numbers do not depend on its neighbours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

# Tokens of the check that both parts together are the model.
PROBE = 8


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

    def run(
        self, ids: Int[Tensor, "row position"], cache: Any = None
    ) -> Float[Tensor, "row position d_model"]:
        """Final residuals, normed, behind what the cache holds."""
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
