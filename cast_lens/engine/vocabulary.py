"""The vocabulary block by block: what is read from logits of many rows, without holding the logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .model import RowModel

# Rows and tokens whose logits are held at a time: 8 MB in float32, whatever the vocabulary. Fewer rows would read
# the unembedding more often; more tokens would not stay in the cache until they are summed.
UNEMBED_ROWS = 1024
BLOCK_TOKENS = {"cpu": 2048, "cuda": 32_768}
# Rows that are summed at a time, for the passes over them to stay in a core's cache; an accelerator takes them all.
SUM_ROWS = {"cpu": 64}

Keep = Callable[[int, int, Float[Tensor, "row token"]], None]


def read_out(
    kernel: RowModel, normed: Float[Tensor, "row d_model"], keep: Keep | None = None
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """Normaliser (log of the sum of exponentials of the logits) and most probable token of each row.

    The token of a row whose logits are NaN or infinite is -1, and so is its normaliser no finite number.

    Args:
        kernel: gives the unembedding.
        normed: residuals after the final norm.
        keep: called with first row, first token and the logits of each block, in float32.
    """
    normalisers, best = [], []
    for start in range(0, len(normed), UNEMBED_ROWS):
        rows = normed[start : start + UNEMBED_ROWS]
        sums, tops, tokens = [], [], []
        width = BLOCK_TOKENS.get(rows.device.type, BLOCK_TOKENS["cuda"])
        for first in range(0, int(kernel.d_vocab), width):
            logits = kernel.unembed(rows, slice(first, first + width)).float()
            if keep is not None:
                keep(start, first, logits)
            for part in logits.split(SUM_ROWS.get(rows.device.type, UNEMBED_ROWS)):
                top = part.max(dim=-1)
                sums.append(part.logsumexp(dim=-1))
                tops.append(top.values)
                tokens.append(top.indices + first)
        by_block = (-1, len(rows))
        highest = torch.cat(tops).view(by_block).argmax(dim=0)
        normalisers.append(torch.cat(sums).view(by_block).logsumexp(dim=0))
        best.append(torch.cat(tokens).view(by_block).gather(0, highest[None])[0])
    sums_of_all, tokens_of_all = torch.cat(normalisers), torch.cat(best)
    return sums_of_all, tokens_of_all.masked_fill(~sums_of_all.isfinite(), -1)


def greedy_tokens(logits: Float[Tensor, "*rows vocab"]) -> Int[Tensor, "*rows"]:
    """The most probable token of each row; -1 where logits are NaN or infinite, as ``read_out`` has it."""
    finite = logits.float().logsumexp(dim=-1).isfinite()
    return logits.argmax(dim=-1).masked_fill(~finite, -1)
