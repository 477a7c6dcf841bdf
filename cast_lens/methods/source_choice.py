"""Predictors of which source helps a target, one function each; the experiment ``predict-transfer`` evaluates them.

- ``fisher_embedding`` (after the task embedding of arXiv 2005.00770): the diagonal of the empirical Fisher information
  of the steered model in the coordinates of the vector, ``F = mean over queries of (d loss / d v)^2``. Tasks are
  similar (by the cosine of their embeddings) if steering changes their losses along the same coordinates. The paper
  uses the parameters of a fine-tuned BERT; here nothing is fine-tuned. Labels are the gold answers, or the model's own
  answers (``labels="model"``), so that an unlabelled target can be embedded.
- ``h_score`` (Bao et al. 2019; the transferability behind arXiv 2502.11609): ``tr(cov(f)^-1 cov(E[f | y]))`` of
  features f with labels y, between 0 and the number of classes minus 1. With fewer samples than coordinates the
  covariance has no inverse, so it is shrunk towards a multiple of the identity by ``shrinkage`` (our addition).
- ``next_token_distance`` (arXiv 2605.20730): how far the next-token distribution under the vector is from that after
  demonstrations.
- parallelism: ``SteeringVector.cosine``, ``geometry.parallelism``.

What none of them shows: a correlation over all pairs may only reflect differences between tasks. In the 4,032 transfers
of arXiv 2604.02608 a strong pooled correlation was a Simpson artefact, and cosines added at most 0.011 of R² to the
identity of the task. Look at correlations *within* targets: ``within_targets`` computes them, with a test that
exchanges the sources of one target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..engine import TokenPrompt, answer_losses, frozen, score, tokenise
from ..interventions import PromptVectors, Steering
from ..models.lens import HookedTransformer
from ..tasks import Prompt
from ..vectors import SteeringVector

Labels = Literal["gold", "model"]
Divergence = Literal["jensen-shannon", "kl", "total variation"]
# Number of prompts whose gradients are computed together.
BATCH = 8


def fisher_embedding(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    vector: SteeringVector | None = None,
    *,
    layers: Sequence[int],
    strength: float = 1.0,
    labels: Labels = "gold",
    chat: bool = False,
) -> Float[Tensor, "layer d_model"]:
    """Mean squared gradient of the answers' loss in the coordinates of a vector at the last prompt token.

    Args:
        model: the frozen model.
        prompts: zero-shot queries of the task.
        vector: steers the model at which the gradient is taken; None for the unsteered model.
        layers: blocks after which the vector is added; each has its own gradients.
        strength: strength of the vector.
        labels: ``gold``, or ``model``: the admissible answer that the model itself finds most probable.
        chat: use the model's chat template.

    Raises:
        ValueError: no prompts; a prompt without a gold answer, or under ``model`` without admissible answers.
    """
    chosen = tuple(layers)
    ready = tokenise(model, prompts, chat=chat)
    if labels == "model":
        ready = [
            _own_answer(prompt, row) for prompt, row in zip(ready, score(model, ready).answer_logprobs, strict=True)
        ]
    start = torch.zeros(len(chosen), int(model.cfg.d_model))
    if vector is not None:
        start = strength * torch.stack([vector.at(layer) for layer in chosen])
    total = torch.zeros_like(start, dtype=torch.float64)
    for begin in range(0, len(ready), BATCH):
        part = ready[begin : begin + BATCH]
        directions = start.repeat(len(part), 1, 1).to(model.cfg.device or "cpu").requires_grad_(True)
        with frozen(model):
            losses = answer_losses(model, part, PromptVectors(directions, chosen, position="prompt_last"))
            (gradient,) = torch.autograd.grad(losses.sum(), directions)
        total += gradient.double().square().sum(dim=0).cpu()
    return (total / len(ready)).float()


def _own_answer(prompt: TokenPrompt, logprobs: Float[Tensor, "variant choice"]) -> TokenPrompt:
    if not prompt.answers:
        raise ValueError(f"{prompt.name or 'a prompt'} has no admissible answers; labels='model' chooses among them")
    return TokenPrompt(prompt.tokens, prompt.answers, int(logprobs[0].argmax()), prompt.name, prompt.end)


def embedding_similarity(left: Float[Tensor, "layer d_model"], right: Float[Tensor, "layer d_model"]) -> float:
    """Cosine of two task embeddings, over all layers together."""
    return float(torch.cosine_similarity(left.double().flatten(), right.double().flatten(), dim=0))


def h_score(
    features: Float[Tensor, "sample d_model"], labels: Int[Tensor, " sample"], *, shrinkage: float = 0.1
) -> float:
    """``tr(cov(f)^-1 cov(E[f | y]))``: how well features separate classes; higher is better.

    Args:
        features: features of the samples, such as residuals at one layer.
        labels: class of each sample.
        shrinkage: weight of the identity (times the mean variance) in the covariance; 0 needs more samples than
            coordinates.

    Raises:
        ValueError: fewer than two samples or classes; a shrinkage that is not a share.
    """
    classes = labels.unique()
    if len(features) < 2 or len(classes) < 2 or not 0 <= shrinkage <= 1:
        raise ValueError(
            f"{len(features)} samples of {len(classes)} classes: give two or more of each, and shrinkage={shrinkage} "
            "from 0 to 1"
        )
    rows = features.double() - features.double().mean(dim=0)
    means = torch.stack([rows[labels == label].mean(dim=0) for label in classes])
    between = means[torch.searchsorted(classes, labels)]
    covariance = rows.T @ rows / len(rows)
    scale = covariance.diagonal().mean()
    shrunk = (1 - shrinkage) * covariance + shrinkage * scale * torch.eye(rows.shape[1], dtype=torch.float64)
    inverse = torch.linalg.pinv(shrunk, hermitian=True)
    return float(torch.trace(inverse @ (between.T @ between) / len(rows)))


def next_token_distance(
    model: HookedTransformer,
    queries: Sequence[Prompt],
    shown: Sequence[Prompt],
    edits: Sequence[Steering],
    *,
    kind: Divergence = "jensen-shannon",
    chat: bool = False,
) -> Float[Tensor, "variant sample"]:
    """Distance of each variant's next-token distribution from that after demonstrations; variant 0 is unsteered.

    Args:
        model: any ``HookedTransformer``.
        queries: zero-shot prompts; their answers are not read.
        shown: the same queries after demonstrations.
        edits: variants in addition to the unsteered model.
        kind: ``jensen-shannon`` and ``kl`` (of in-context learning's against the steered one) in nats, ``total
            variation`` between 0 and 1.
        chat: use the model's chat template.

    Raises:
        ValueError: when there are not as many queries as prompts with demonstrations.
    """
    if len(queries) != len(shown):
        raise ValueError(f"queries={len(queries)} and shown={len(shown)} must be the same queries")
    plain = score(model, queries, list(edits), chat=chat, keep_logits=True).logits
    behind = score(model, shown, chat=chat, keep_logits=True).logits
    assert plain is not None
    assert behind is not None
    return divergence(behind, plain, kind)


def divergence(
    left: Float[Tensor, "*rows vocab"], right: Float[Tensor, "*rows vocab"], kind: Divergence
) -> Float[Tensor, "*rows"]:
    """Divergence of the distributions of two stacks of logits.

    Raises:
        ValueError: an unknown kind.
    """
    one, other = left.double().log_softmax(dim=-1), right.double().log_softmax(dim=-1)
    if kind == "kl":
        return (one.exp() * (one - other)).sum(dim=-1).clamp(min=0)
    if kind == "total variation":
        return 0.5 * (one.exp() - other.exp()).abs().sum(dim=-1)
    if kind != "jensen-shannon":
        raise ValueError(f"kind={kind!r} is unknown; choose jensen-shannon, kl or total variation")
    middle = torch.logaddexp(one, other) - float(np.log(2))
    halves = [(side.exp() * (side - middle)).sum(dim=-1) for side in (one, other)]
    return (0.5 * (halves[0] + halves[1])).clamp(min=0)


@dataclass(frozen=True, slots=True)
class Within:
    """A rank correlation within targets.

    Attributes:
        value: mean over targets of Spearman's coefficient over the target's sources.
        p: share of exchanges of sources within targets whose coefficient is at least as large in absolute value.
        targets: number of targets with three or more sources.
    """

    value: float
    p: float
    targets: int


def within_targets(
    pairs: pd.DataFrame, predictor: str, *, gain: str = "gain", n_permutations: int = 999, seed: int = 0
) -> Within:
    """Rank correlation of a predictor and the gain among the sources of each target, averaged over targets.

    Properties of a whole target (such as being easy) cannot produce this correlation, because only the order of sources
    within one target counts.

    Args:
        pairs: one row per pair with ``target``, the predictor and the gain.
        predictor: column of the predictor.
        gain: column of the gain.
        n_permutations: number of exchanges.
        seed: seed of the exchanges.
    """
    known = pairs.dropna(subset=[predictor, gain])
    groups = [part[[predictor, gain]].to_numpy(float) for _, part in known.groupby("target") if len(part) > 2]
    groups = [rows for rows in groups if all(len(np.unique(column)) > 1 for column in rows.T)]
    if not groups:
        return Within(float("nan"), float("nan"), 0)
    ranked = [np.stack([_standard_ranks(column) for column in rows.T]) for rows in groups]
    value = float(np.mean([np.mean(x * y) for x, y in ranked]))
    draw = np.random.default_rng(seed)
    exchanged = [draw.permuted(np.tile(x, (n_permutations, 1)), axis=1) @ y / len(y) for x, y in ranked]
    null = np.mean(exchanged, axis=0)
    reached = int((np.abs(null) >= abs(value) - 1e-12).sum())
    return Within(value, (1 + reached) / (1 + n_permutations), len(groups))


def _standard_ranks(values: Float[np.ndarray, " source"]) -> Float[np.ndarray, " source"]:
    """Ranks, ties averaged, with mean 0 and deviation 1: means of their products are Spearman's coefficients."""
    ranks = pd.Series(values).rank().to_numpy(float)
    return (ranks - ranks.mean()) / ranks.std()
