"""What is asked of a backend, and the evaluation that needs no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..interventions import Steering
from ..tasks import Prompt


class Backend(Protocol):
    """A model somewhere, which can be read and steered. Prompts are those of ``zero_shot_prompts`` and the like."""

    @property
    def name(self) -> str:
        """In the column ``backend`` of frames."""
        ...

    def capture(self, prompts: Sequence[Prompt], layers: Sequence[int]) -> Float[Tensor, "sample layer d_model"]:
        """Residuals at the output of blocks, at the last prompt token; float32 on the CPU."""
        ...

    def score(self, prompts: Sequence[Prompt], intervention: Steering | None = None) -> list[Float[Tensor, " choice"]]:
        """Log-probability of each admissible answer of each prompt."""
        ...

    def answer(
        self, prompts: Sequence[Prompt], intervention: Steering | None = None, *, max_new_tokens: int = 8
    ) -> list[str | None]:
        """Greedy answers up to the first line end; None where there is no most probable token."""
        ...


def evaluate_on(
    backend: Backend, prompts: Sequence[Prompt], interventions: Mapping[str, Steering] | None = None
) -> pd.DataFrame:
    """Which admissible answer is the most probable, unsteered and under each intervention.

    Args:
        backend: where the model runs.
        prompts: with a gold answer among their admissible ones.
        interventions: by the name of their condition; the placebo belongs among them.

    Returns:
        one row per condition and prompt: ``backend, condition, sample, choice`` (index of the most probable answer),
        ``choice_correct`` (1 or 0), ``gold_logprob``.

    Raises:
        ValueError: for a prompt whose gold answer is not admissible, or an intervention that the backend cannot do.
    """
    lacking = [prompt.sample_id for prompt in prompts if prompt.gold not in prompt.choices]
    if lacking or not prompts:
        raise ValueError(f"prompts must have their gold answer among their choices; these have not: {lacking[:4]}")
    rows = []
    for name, one in {"zero-shot": None, **(interventions or {})}.items():
        for prompt, logprobs in zip(prompts, backend.score(prompts, one), strict=True):
            gold, choice = prompt.choices.index(prompt.gold), int(logprobs.argmax())
            rows.append(
                {
                    "backend": backend.name,
                    "condition": name,
                    "sample": prompt.sample_id,
                    "choice": choice,
                    "choice_correct": int(choice == gold),
                    "gold_logprob": float(logprobs[gold]),
                }
            )
    return pd.DataFrame(rows)
