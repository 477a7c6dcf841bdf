"""Which tokens of a forward pass an intervention edits, however the pass is padded, cached or cut up.

Tokens are counted row by row among the real ones, so that padding on either side and keys that are already
cached change nothing: the last prompt token is the same token in a batch, alone, decoded step by step or all
at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .interventions import Position


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """What one forward pass runs over.

    Attributes:
        batch: rows.
        width: columns of this pass, padding included.
        cached: columns before them whose keys and values are in a cache.
        mask: [batch, cached + width], True where a token is real; None when all are.
        prompt_width: columns of the prompt, padding included, where a decoding loop told; None otherwise.
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
        loop says where the prompt ends; a single token behind a cache is taken for a decoded one.

        Args:
            position: ``all`` is every token, padding included, which no real token attends to.
            prompt_length: real tokens of each row's prompt, one number a row or one for all.

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
        reached = rank == last if position == "prompt_last" else rank >= last
        return reached & mask[:, self.cached :]

    def _last_prompt_rank(
        self, mask: Bool[Tensor, "batch column"], prompt_length: Int[Tensor, " length"] | None
    ) -> Int[Tensor, " row"]:
        if prompt_length is not None:
            if len(prompt_length) not in (1, self.batch):
                raise ValueError(
                    f"prompt_length has {len(prompt_length)} entries, but the model was run on {self.batch} "
                    "rows; give one number, or one a row"
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
            "decoded tokens; say how long the prompt is with steer(..., prompt_length=...)"
        )


def prompt_lengths(length: int | Sequence[int] | Int[Tensor, " batch"]) -> Int[Tensor, " row"]:
    """``prompt_length`` as steering takes it, checked: real tokens of the prompt, for all rows or for each.

    Raises:
        ValueError: when a prompt would have no token.
    """
    lengths = torch.as_tensor(length).reshape(-1)
    if not len(lengths) or lengths.is_floating_point() or int(lengths.min()) < 1:
        raise ValueError(
            f"prompt_length={length!r} must be the number of real tokens in the prompt, 1 or more"
        )
    return lengths.long()
