"""The plain route: ``run_with_hooks``, one prompt at a time. Slow, short and obvious.

The fast path must give the same numbers, and models that it does not support run here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions import Site, Steering, SublayerEdit, edited_tokens
from ..models.lens import HookedTransformer
from .greedy import Stop, write_greedily
from .layout import TokenPrompt
from .model import own_precision
from .scores import greedy_tokens, written

Hook = tuple[str | Callable[..., Any], Callable[..., Any]]


def hook_name(layer: int) -> str:
    """The hook point at which a layer is read and steered."""
    return f"blocks.{layer}.hook_resid_post"


_SITES: dict[Site, str] = {"heads": "attn.hook_z", "attention": "hook_attn_out", "mlp": "hook_mlp_out"}


def site_name(layer: int, site: Site) -> str:
    """The hook point at which a site of a block is read and edited."""
    return f"blocks.{layer}.{_SITES[site]}"


def places(intervention: Steering) -> list[tuple[int, Site | None, str]]:
    """Layer, site (None for the residual stream after the block) and hook point of each edit."""
    if isinstance(intervention, SublayerEdit):
        return [(layer, site, site_name(layer, site)) for layer in intervention.layers for site in intervention.sites]
    return [(layer, None, hook_name(layer)) for layer in intervention.layers]


def edit_rows(
    intervention: Steering, layer: int, site: Site | None, rows: Float[Tensor, "row ..."], owners: Int[Tensor, " row"]
) -> Float[Tensor, "row ..."]:
    """The edited rows at one entry of ``places``."""
    if site is None:
        return intervention.edit(layer, rows, owners)
    assert isinstance(intervention, SublayerEdit)
    return intervention.edit_output(site, layer, rows)


def edit_hooks(intervention: Steering, prompt_length: int) -> list[Hook]:
    """An intervention as TransformerLens hooks for one unpadded sequence that begins with the prompt."""
    return [(name, _edit(intervention, layer, site, prompt_length)) for layer, site, name in places(intervention)]


def _edit(intervention: Steering, layer: int, site: Site | None, prompt_length: int) -> Callable[..., Tensor]:
    def edit(residual: Tensor, hook: Any) -> Tensor:
        at = torch.arange(residual.shape[1], device=residual.device)
        where = edited_tokens(intervention.position, at, prompt_length - 1)
        edited = residual.clone()
        rows = residual[0, where]
        owners = torch.zeros(len(rows), dtype=torch.long)
        edited[0, where] = edit_rows(intervention, layer, site, rows, owners)
        return edited

    return edit


@torch.no_grad()
def last_token(model: HookedTransformer, tokens: Sequence[int], names: Sequence[str]) -> Float[Tensor, "point ..."]:
    """Activations of the last token at some hook points, float32 on the CPU."""
    found: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        found[hook.name] = x[0, -1].float().cpu()

    with own_precision(model):
        model.run_with_hooks(**_input(model, tokens), fwd_hooks=[(name, keep) for name in names], return_type=None)
        return torch.stack([found[name] for name in names])


def residuals(model: HookedTransformer, tokens: Sequence[int]) -> Float[Tensor, "layer d_model"]:
    """Residuals after every block at the last token."""
    return last_token(model, tokens, [hook_name(layer) for layer in range(model.cfg.n_layers)])


def head_outputs(model: HookedTransformer, tokens: Sequence[int]) -> Float[Tensor, "layer head d_head"]:
    """Output of every head at the last token, before the output projection."""
    return last_token(model, tokens, [site_name(layer, "heads") for layer in range(model.cfg.n_layers)])


@torch.no_grad()
def logits(
    model: HookedTransformer, tokens: Sequence[int], *, prompt_length: int, intervention: Steering | None = None
) -> Float[Tensor, "position vocab"]:
    """Logits at every position of prompt + continuation, float32; unsteered if ``intervention`` is None."""
    hooks = [] if intervention is None else edit_hooks(intervention, prompt_length)
    with own_precision(model):
        out = model.run_with_hooks(**_input(model, tokens), fwd_hooks=hooks, return_type="logits")
        return out[0].float()


def refuse_steered(model: HookedTransformer) -> None:
    """Refuse a model inside ``steer``, whose hooks would mistake prompt and answer together for the prompt.

    Raises:
        ValueError: if the model is inside ``steer``; the message says what to do.
    """
    if getattr(vars(model).get("forward"), "steers", False):
        raise ValueError(
            "the model is inside steer(...), which cannot distinguish a prompt from the answer scored after it; "
            "leave the context and pass the same interventions to score, answer or evaluate"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """The scores of one prompt.

    Attributes:
        logprobs: summed log-probability of each admissible answer.
        logits: logits of the first answer token.
        hits: for each token of each answer (and its end), whether it is the greedy choice after the tokens before it;
            None if logits were NaN or infinite.
    """

    logprobs: Float[Tensor, " choice"]
    logits: Float[Tensor, " vocab"]
    hits: tuple[tuple[bool | None, ...], ...]

    def written(self, prompt: TokenPrompt) -> Float[Tensor, " choice"]:
        """Whether each answer is written up to its distinguishing token; see ``Scores``."""
        return written(prompt, self.hits)


def read(model: HookedTransformer, prompt: TokenPrompt, intervention: Steering | None = None) -> Read:
    """Score every admissible answer of one prompt, and check which of their tokens greedy decoding would write."""
    refuse_steered(model)
    after: dict[tuple[int, ...], Tensor] = {}

    def following(continuation: tuple[int, ...]) -> Float[Tensor, "position vocab"]:
        """Logits at the last prompt token and at each token of a continuation."""
        if continuation not in after:
            text, length = prompt.tokens + continuation, len(prompt.tokens)
            found = logits(model, text, prompt_length=length, intervention=intervention)
            after[continuation] = found[length - 1 :]
        return after[continuation]

    first = following(())[0]
    sums, hits = [], []
    for answer in prompt.answers:
        # What comes after the last token is asked only where the end counts.
        rows = following(answer if prompt.end else answer[:-1])
        wanted = [[token] for token in answer] + ([list(prompt.end)] if prompt.end else [])
        log_probs = rows.double().log_softmax(dim=-1)
        parts = [row[ids].logsumexp(dim=-1) for row, ids in zip(log_probs, wanted, strict=True)]
        sums.append(torch.stack(parts).sum().float())
        greedy = zip(greedy_tokens(rows).tolist(), wanted, strict=True)
        hits.append(tuple(None if token < 0 else token in ids for token, ids in greedy))
    found = torch.stack(sums) if sums else torch.empty(0, dtype=torch.float32)
    return Read(found, first, tuple(hits))


def score(
    model: HookedTransformer, prompt: TokenPrompt, intervention: Steering | None = None
) -> tuple[Float[Tensor, " choice"], Float[Tensor, " vocab"]]:
    """Summed log-probability of each admissible answer, and the logits of the first answer token."""
    found = read(model, prompt, intervention)
    return found.logprobs, found.logits


def answer(
    model: HookedTransformer,
    prompt: TokenPrompt,
    intervention: Steering | None = None,
    *,
    max_new_tokens: int,
    stop: Stop,
) -> tuple[int, ...]:
    """Greedy continuation; runs the whole text again for each token."""
    refuse_steered(model)
    text = list(prompt.tokens)

    def following() -> Int[Tensor, " row"]:
        out = logits(model, text, prompt_length=len(prompt.tokens), intervention=intervention)
        return greedy_tokens(out[-1:])

    def step(kept: list[int], tokens: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        text.append(int(tokens[0]))
        return following()

    return write_greedily(following(), step, max_new_tokens=max_new_tokens, stop=stop)[0]


def answer_loss(model: HookedTransformer, prompt: TokenPrompt, intervention: Steering) -> Float[Tensor, ""]:
    """Mean cross-entropy of the gold answer's tokens in nats, differentiable in the intervention's vectors."""
    refuse_steered(model)
    answer = prompt.answers[prompt.gold]
    ids = _input(model, prompt.tokens + answer)
    out = model.run_with_hooks(**ids, fwd_hooks=edit_hooks(intervention, len(prompt.tokens)), return_type="logits")
    rows = out[0, len(prompt.tokens) - 1 : -1]
    log_probs = rows.to(torch.promote_types(rows.dtype, torch.float32)).log_softmax(dim=-1)
    return -log_probs[range(len(answer)), list(answer)].mean()


def _input(model: HookedTransformer, tokens: Sequence[int]) -> dict[str, Any]:
    """Tokens with a mask: with a left-padding tokenizer, TransformerLens would treat a leading pad token as padding."""
    ids = torch.tensor([list(tokens)], device=model.cfg.device)
    return {"input": ids, "attention_mask": torch.ones_like(ids)}
