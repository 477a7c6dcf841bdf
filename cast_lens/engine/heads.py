"""Outputs of attention heads: captured at the last prompt token, patched one by one, projected to the residual stream.

Patching a head at the last prompt token changes no earlier token and nothing below its layer. The patched heads of a
layer are therefore variants that branch off from the unsteered tails before that layer, and measuring every head of a
model costs about as much as one more plain pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..models.decoder import HookedDecoder, output_projection
from ..models.identity import plain_model
from ..models.lens import HookedTransformer
from ..sublayers import HeadOutputs
from . import reference
from .batching import DEFAULT_BUDGET_MB, plan_batches, warn_beyond
from .capture import rows_within
from .forward import run_pass
from .layout import TokenPrompt, build_batch
from .model import own_precision
from .progress import Progress, quiet
from .scoring import score
from .support import row_model, unsupported
from .tokens import Prompts, tokenise


def capture_heads(
    model: HookedTransformer,
    prompts: Prompts,
    *,
    chat: bool = False,
    memory_mb: float = DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> Float[Tensor, "sample layer head d_head"]:
    """Output of every head at the last prompt token, before the output projection (``attn.hook_z``).

    Args:
        model, prompts, chat, memory_mb, progress: see ``capture``.

    Returns:
        float32 on the CPU. ``head`` counts query heads; ``d_head`` is the width of their values.

    Raises:
        ValueError: see ``tokenise``; if layers have different heads, or the heads cannot be found.
    """
    model = plain_model(model)
    check_heads(model)
    ready = tokenise(model, prompts, chat=chat)
    if unsupported(model) is not None:
        bar = progress(ready, "capture heads (plain route)", len(ready))
        return torch.stack([reference.head_outputs(model, prompt.tokens) for prompt in bar])
    found: list[Tensor] = [torch.empty(0)] * len(ready)
    warn_beyond(model, ready, memory_mb)
    with own_precision(model):
        batches = list(plan_batches(ready, max_rows=rows_within(model, memory_mb), answers=False))
        for members in progress(batches, "capture heads", len(batches)):
            rows = _capture_batch(model, [ready[index] for index in members])
            for index, row in zip(members, rows, strict=True):
                found[index] = row
    return torch.stack(found)


def _capture_batch(model: HookedTransformer, prompts: list[TokenPrompt]) -> Float[Tensor, "sample layer head d_head"]:
    kernel = row_model(model)
    batch = build_batch(prompts, answers=False, device=model.cfg.device or "cpu")
    layers: list[Tensor] = []

    def observe(layer: int, z: Tensor) -> None:
        layers.append(z.unflatten(-1, (kernel.attention[layer].n_heads, -1)).float().cpu())

    run_pass(kernel, batch, observe_heads=observe)
    return torch.stack(layers, dim=1)


def indirect_effects(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    values: Float[Tensor, "layer head d_head"],
    *,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> Float[Tensor, "sample layer head"]:
    """How much patching each single head raises the probability of the gold answer's first token.

    This is the causal indirect effect of arXiv 2310.15213 (section 2.3): the patched minus the unpatched probability,
    for all heads of the model from one pass over each prompt.

    Args:
        model: any ``HookedTransformer`` whose heads can be found.
        prompts: tokenised prompts with a gold answer.
        values: the output that a patched head gets at the last prompt token.
        memory_mb: working memory in MB, in addition to the model.
        progress: wraps the batches.

    Raises:
        ValueError: if a prompt has no gold answer, or the values do not fit the model.
    """
    nameless = [prompt.name or str(index) for index, prompt in enumerate(prompts) if prompt.gold < 0]
    if nameless:
        raise ValueError(f"prompt {nameless[0]} has no gold answer, whose probability an effect is about")
    firsts = [prompt.first_answer for prompt in prompts]
    n_layers, n_heads = values.shape[:2]
    only = torch.eye(n_heads, dtype=torch.bool)
    patches = [
        HeadOutputs((layer,), values[layer][None], only[head][None], int(model.cfg.d_model))
        for layer in range(n_layers)
        for head in range(n_heads)
    ]
    scores = score(model, firsts, patches, memory_mb=memory_mb, progress=progress)
    chances = torch.stack([logprobs[:, 0] for logprobs in scores.answer_logprobs]).double().exp()
    return (chances[:, 1:] - chances[:, :1]).float().unflatten(1, (n_layers, n_heads))


def project_heads(
    model: HookedTransformer, values: Float[Tensor, "layer head d_head"], *, bias: bool = False
) -> Float[Tensor, "layer head d_model"]:
    """What these head outputs add to the residual stream: each is multiplied by its slice of the output projection.

    Args:
        model: gives the projections.
        values: head outputs of every layer and head of the model.
        bias: add the projection's bias to every head, as the public code of arXiv 2310.15213 does.
    """
    rows = []
    for layer, heads in enumerate(values.double()):
        weight, offset = _projection(model, layer)
        rows.append(torch.einsum("hd,hdm->hm", heads, weight.unflatten(0, heads.shape)) + (offset if bias else 0.0))
    return torch.stack(rows).float()


def _projection(
    model: HookedTransformer, layer: int
) -> tuple[Float[Tensor, "heads_d_head d_model"], Float[Tensor, "*d_model"]]:
    """Weight and bias (zero if it has none) of a layer's output projection, in float64 on the CPU."""
    if not isinstance(model, HookedDecoder):
        attention: Any = model.blocks[layer].attn
        return attention.W_O.detach().flatten(0, 1).double().cpu(), attention.b_O.detach().double().cpu()
    module: Any = output_projection(model.layers[layer])
    if not isinstance(getattr(module, "weight", None), Tensor) or not module.weight.is_floating_point():
        raise ValueError(
            f"the output projection of layer {layer} ({type(module).__name__}) has no plain weight to read"
        )
    weight = module.weight.detach().double().cpu()
    offset = torch.zeros(()) if module.bias is None else module.bias.detach().double().cpu()
    return (weight.T if isinstance(module, nn.Linear) else weight), offset


def check_heads(model: HookedTransformer) -> None:
    """Refuse a model whose heads cannot be read.

    Raises:
        ValueError: if the heads cannot be found, or layers have different heads.
    """
    if not isinstance(model, HookedDecoder):
        return
    if any(output_projection(layer) is None for layer in model.layers):
        raise ValueError(
            f"the output projection of attention was not found in every layer of {type(model.hf_model).__name__}, so "
            "its heads cannot be read; use a method of the residual stream"
        )
    if unsupported(model) is None:
        shapes = {(spec.n_heads, spec.d_value) for spec in row_model(model).attention}
        if len(shapes) > 1:
            raise ValueError(
                f"layers have different heads ({sorted(shapes)}: heads, width), which methods of heads need"
            )
