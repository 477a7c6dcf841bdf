"""One row an example: what the model wrote, whether it counts, whether it was an admissible answer at all.

Exact match alone cannot tell the *format* of an answer from the *choice* of it. Each row therefore holds three
outcomes: ``exact_match`` (the greedy answer is the gold one), ``valid`` (it is some admissible answer) and
``choice_correct`` (the admissible answer with the highest summed log-probability is the gold one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformer_lens import HookedTransformer

from .engine import Progress, answer, quiet, score, tokenise
from .engine.batching import DEFAULT_BUDGET_MB
from .interventions import Steering
from .tasks import Prompt, is_match, is_valid

if TYPE_CHECKING:
    import pandas as pd

# Tokens that a model may write beyond the longest admissible answer: enough to see that it ended, or did not.
SLACK = 3


def evaluate(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    interventions: Sequence[Steering] = (),
    *,
    max_new_tokens: int | None = None,
    chat: bool = False,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Greedy answers and answer probabilities, unsteered and under each intervention.

    Args:
        model: any ``HookedTransformer``.
        prompts: queries with gold answers.
        interventions: variants beside the unsteered model.
        max_new_tokens: longest answer; by default three tokens more than the longest admissible or gold answer.
        chat: use the model's chat template.
        memory_mb: working memory above the model, in MB.
        progress: wraps the batches.

    Returns:
        one row a variant and prompt: ``variant`` (0 unsteered), ``name, layer, strength, operator, position, task,
        sample, text, gold, answer, exact_match, valid, choice_correct, gold_logprob, gold_margin, first_match,
        first_valid``. Outcomes are 0 or 1; ``valid`` and ``choice_correct`` are NaN for free answers.

    Raises:
        ValueError: see ``score`` and ``answer``.
    """
    tokens = tokenise(model, prompts, chat=chat)
    scores = score(model, tokens, interventions, memory_mb=memory_mb, progress=progress)
    longest = max((len(ids) for prompt in tokens for ids in prompt.answers), default=8)
    texts = answer(
        model,
        tokens,
        interventions,
        max_new_tokens=max_new_tokens or longest + SLACK,
        memory_mb=memory_mb,
        progress=progress,
    )
    frame = scores.to_frame()
    n_variants = len(interventions) + 1
    rows = [
        (prompt, variant, texts[variant][i])
        for i, prompt in enumerate(prompts)
        for variant in range(n_variants)
    ]
    frame["sample"] = [prompt.sample_id for prompt, *_ in rows]
    frame.insert(0, "variant", [variant for _, variant, _ in rows])
    frame["task"] = [prompt.task for prompt, *_ in rows]
    frame["text"] = [prompt.query for prompt, *_ in rows]
    frame["gold"] = [prompt.gold for prompt, *_ in rows]
    frame["answer"] = [text for *_, text in rows]
    frame["exact_match"] = [float(is_match(text, prompt)) for prompt, _, text in rows]
    frame["valid"] = [
        float(is_valid(text, prompt)) if prompt.choices else float("nan") for prompt, _, text in rows
    ]
    for name in ("choice_correct", "first_match", "first_valid"):
        frame[name] = frame[name].astype(float)
    return frame.drop(columns="choice")
