"""Function vectors: the sum of the outputs of a few attention heads (Todd et al. 2024, arXiv 2310.15213).

Formula (section 2): with ``a[l, h]`` the mean output of head ``h`` of layer ``l`` at the last token of few-shot
prompts, ``W[l, h]`` its slice of the output projection and ``A`` the heads with the largest average indirect effect,

    v = sum over (l, h) in A of  W[l, h] a[l, h]

The causal indirect effect of a head is measured on few-shot prompts with shuffled labels: it is the probability of the
right answer's first token with the head's output at the last token replaced by its mean, minus the probability without
this patch. The vector is added to the residual stream after one layer, which is swept.

Defaults are the paper's: 10 demonstrations; 100 prompts for the means, of which only those that the model answers
correctly count; 25 shuffled prompts for the effects; 10 heads. The public code passes every head through the output
projection *with its bias*, so that on GPT-2 and Pythia the vector contains ``n_heads`` times that bias: ``bias=True``.
Prompts are the task's own instead of the paper's ``Q: …\\nA: …``. The paper's evaluation keeps only queries that are
answered correctly with 10 demonstrations, so published accuracies are conditional; ours keeps all queries.

All effects come from one pass over each prompt (``engine.indirect_effects``); the public code runs one pass per head.
What this does not show: a head with a large effect changes the answer in *these* prompts. ``universal_heads`` assumes
that the same heads matter for other tasks, which has to be tested on other tasks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import Progress, TokenPrompt, capture_heads, indirect_effects, project_heads, quiet, score, tokenise
from ..extraction import Extraction, provenance
from ..files import load_tensors, save_tensors
from ..models.lens import HookedTransformer
from ..tasks import Prompt, Task, few_shot_prompts
from ..tasks.sampling import Pool
from ..vectors import Provenance, SteeringVector
from .training import check_model
from .vectors import SourceTask

# As published: demonstrations in a prompt, prompts for the means, shuffled prompts for the effects, heads summed.
SHOTS, PROMPTS, TRIALS, HEADS = 10, 100, 25, 10
Head = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class HeadEffects:
    """Mean head outputs on a task, and how much each head alone restores the answer.

    Attributes:
        means: [layer, head, d_head], mean output at the last token of few-shot prompts.
        effects: [trial, layer, head], causal indirect effect on each shuffled-label prompt, a difference of
            probabilities.
        prompts: number of few-shot prompts behind the means (by default those answered correctly).
        provenance: model, task, template, seed and versions.
    """

    means: Float[Tensor, "layer head d_head"]
    effects: Float[Tensor, "trial layer head"]
    prompts: int
    provenance: Provenance

    def top(self, heads: int = HEADS) -> tuple[Head, ...]:
        """The (layer, head) pairs with the largest average effect, the largest first."""
        return top_heads(self.effects.mean(dim=0), heads)

    def to_frame(self) -> pd.DataFrame:
        """One row per head, largest effect first: ``task, layer, head, effect, standard_error, n``."""
        mean, trials = self.effects.mean(dim=0), len(self.effects)
        spread = self.effects.std(dim=0) / trials**0.5 if trials > 1 else torch.full_like(mean, torch.nan)
        rows = [
            (self.provenance.task, layer, head, float(mean[layer, head]), float(spread[layer, head]), trials)
            for layer, head in top_heads(mean, mean.numel())
        ]
        return pd.DataFrame(rows, columns=["task", "layer", "head", "effect", "standard_error", "n"])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file, provenance inside; whole or not at all."""
        about = {"provenance": asdict(self.provenance), "prompts": self.prompts}
        tensors = {"means": self.means, "effects": self.effects}
        return save_tensors(Path(path), tensors, kind="HeadEffects", about=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadEffects:
        """Read what ``save`` wrote.

        Raises:
            ValueError: when the file holds no head effects.
        """
        tensors, about = load_tensors(Path(path), kind="HeadEffects")
        origin = Provenance.from_json(about.get("provenance"))
        return cls(tensors["means"], tensors["effects"], int(about["prompts"]), origin)


def head_effects(
    model: HookedTransformer,
    task: Task,
    extraction: Extraction | None = None,
    *,
    prompts: int = PROMPTS,
    trials: int = TRIALS,
    correct_only: bool = True,
    progress: Progress = quiet,
) -> HeadEffects:
    """Mean outputs of all heads on a task, and the indirect effect of each.

    Args:
        model: any ``HookedTransformer`` whose heads can be found.
        task: the source.
        extraction: demonstrations per prompt, split, template switches and seed; 10 demonstrations by default.
        prompts: few-shot prompts whose head outputs are averaged.
        trials: number of prompts with shuffled labels on which effects are measured.
        correct_only: leave out prompts that the model answers wrongly; if it answers none correctly, all are used and
            the provenance says so.
        progress: wraps the batches.

    Raises:
        ValueError: fewer than one prompt or trial; a task with fewer examples than demonstrations and a query.

    >>> effects = head_effects(model, load_task("antonym"), prompts=20, trials=5)  # doctest: +SKIP
    >>> effects.top(3)  # doctest: +SKIP
    ((16, 2), (14, 7), (19, 0))
    """
    how = extraction or Extraction(shots=SHOTS)
    clean = icl_prompts(task, how, prompts)
    ready = tokenise(model, clean, chat=how.chat)
    note = f"function vector: {how.shots} demonstrations, {trials} shuffled trials"
    kept = _answered(model, ready, progress) if correct_only else list(range(len(ready)))
    if not kept:
        kept, note = list(range(len(ready))), f"{note}; no prompt was answered correctly, so all are averaged"
    outputs = capture_heads(model, [ready[index] for index in kept], progress=progress)
    means = outputs.double().mean(dim=0).float()
    shuffled = icl_prompts(task, replace(how, seed=how.seed + 1, shuffle_labels=True), trials)
    effects = indirect_effects(model, tokenise(model, shuffled, chat=how.chat), means, progress=progress)
    about = replace(provenance(model, task, how, (), note=note), sample_ids=tuple(clean[i].sample_id for i in kept))
    return HeadEffects(means, effects, len(kept), about)


def icl_prompts(task: Task, extraction: Extraction, count: int) -> list[Prompt]:
    """Few-shot prompts, each with its own demonstrations; in a small split, queries repeat with other demonstrations.

    Raises:
        ValueError: a count below 1; see ``few_shot``.
    """
    how = extraction
    if count < 1:
        raise ValueError(f"count={count} must be 1 or more prompts")
    pool = Pool.of(task, how.split).examples
    found: list[Prompt] = []
    while len(found) < count:
        seed = how.seed + 1000 * (len(found) // len(pool))
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist()
        found += few_shot_prompts(
            task,
            [pool[index] for index in order[: count - len(found)]],
            shots=how.shots,
            seed=seed,
            demonstrations="per-query",
            pool=how.split,
            instruction=how.instruction,
            shuffle_labels=how.shuffle_labels,
        )
    return found


def _answered(model: HookedTransformer, prompts: Sequence[TokenPrompt], progress: Progress) -> list[int]:
    """Prompts whose greedy first token is the gold answer's."""
    firsts = [prompt.first_answer for prompt in prompts]
    best = score(model, firsts, progress=progress).first_token[0].tolist()
    return [index for index, prompt in enumerate(firsts) if best[index] == prompt.answers[0][0]]


def top_heads(effects: Float[Tensor, "layer head"], heads: int) -> tuple[Head, ...]:
    """The (layer, head) pairs with the largest effects, the largest first.

    Raises:
        ValueError: fewer than one head, or more than there are.
    """
    if not 1 <= heads <= effects.numel():
        raise ValueError(f"heads={heads} must be from 1 to {effects.numel()}, the heads of the model")
    order = effects.flatten().argsort(descending=True, stable=True)[:heads].tolist()
    return tuple(divmod(index, effects.shape[1]) for index in order)


def universal_heads(effects: Sequence[HeadEffects], heads: int = HEADS) -> tuple[Head, ...]:
    """The heads with the largest effect averaged over tasks with equal weight (section 2.3).

    Raises:
        ValueError: no tasks, or tasks of different models.
    """
    if not effects or len({one.provenance.fingerprint for one in effects}) > 1:
        raise ValueError("effects must be of one model and at least one task; take them all from the same model")
    return top_heads(torch.stack([one.effects.mean(dim=0) for one in effects]).mean(dim=0), heads)


def vector_of_heads(
    model: HookedTransformer, effects: HeadEffects, heads: Sequence[Head], *, bias: bool = False
) -> SteeringVector:
    """The sum of the mean outputs of some heads: the same direction at every layer, to be added after one of them.

    Args:
        model: gives the output projections.
        effects: gives the mean outputs.
        heads: (layer, head) pairs.
        bias: add the projection's bias once per head, as the public code does.

    Raises:
        ValueError: effects of another model; a head that does not exist.
    """
    check_model(model, effects.provenance, what="set of head effects")
    n_layers, n_heads = effects.means.shape[:2]
    wrong = [head for head in heads if not (0 <= head[0] < n_layers and 0 <= head[1] < n_heads)]
    if wrong or not heads:
        raise ValueError(f"heads={list(heads)} must be pairs (layer, head) below ({n_layers}, {n_heads})")
    added = project_heads(model, effects.means, bias=bias).double()
    total = torch.stack([added[layer, head] for layer, head in heads]).sum(dim=0).float()
    note = f"{effects.provenance.note}; heads {' '.join(f'{layer}.{head}' for layer, head in heads)}"
    note += "; output bias added per head" if bias else ""
    return SteeringVector(total.repeat(n_layers, 1), tuple(range(n_layers)), replace(effects.provenance, note=note))


def function_vector(
    model: HookedTransformer,
    task: Task,
    extraction: Extraction | None = None,
    *,
    heads: int = HEADS,
    prompts: int = PROMPTS,
    trials: int = TRIALS,
    bias: bool = False,
    progress: Progress = quiet,
) -> SteeringVector:
    """The function vector of a task, from its own heads.

    Args:
        model, task, extraction, prompts, trials, progress: see ``head_effects``.
        heads: how many are summed.
        bias: see ``vector_of_heads``.

    >>> import cast_lens as cl
    >>> vector = cl.methods.function_vector(model, cl.load_task("antonym"))  # doctest: +SKIP
    >>> frame = cl.evaluate(model, prompts, vector.intervention(9))  # doctest: +SKIP
    """
    effects = head_effects(model, task, extraction, prompts=prompts, trials=trials, progress=progress)
    return vector_of_heads(model, effects, effects.top(min(heads, effects.effects[0].numel())), bias=bias)


def random_heads_vector(model: HookedTransformer, effects: HeadEffects, heads: int, *, seed: int = 0) -> SteeringVector:
    """The placebo: the same number of random heads, with the norm of the vector of the best heads.

    An effect that it shares with the function vector is not due to choosing heads by their effect.
    """
    count = effects.effects[0].numel()
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:heads].tolist()
    chosen = [divmod(index, effects.effects.shape[2]) for index in drawn]
    found = vector_of_heads(model, effects, chosen)
    like = vector_of_heads(model, effects, effects.top(heads))
    scale = like.directions.norm(dim=-1, keepdim=True) / found.directions.norm(dim=-1, keepdim=True)
    note = f"placebo: random heads, seed {seed}; {found.provenance.note}"
    return SteeringVector(found.directions * scale, found.layers, replace(found.provenance, note=note))


def fit_function_vector(source: SourceTask) -> SteeringVector:
    """The function vector for ``VECTOR_METHODS``, with the run's demonstrations, samples and seed."""
    how = source.extraction
    return function_vector(source.model, source.task, how, prompts=how.samples, trials=min(TRIALS, how.samples))
