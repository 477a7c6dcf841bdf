"""What scoring gives, and the same as a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions import Steering
from .layout import TokenPrompt

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What prompts × variants gave. Variant 0 is the unsteered model, then the interventions in their order.

    Attributes:
        answer_logprobs: for each prompt [variant, choice], natural log of the probability of the whole answer,
            summed over its tokens; an unnormalised logit when only labels were asked for.
        first_token: [variant, sample], the greedy first token (-1 when no full vocabulary was asked for).
        logits: [variant, sample, vocab] of the first answer token, float32, when asked for.
        interventions: what was done; variant ``i`` is ``interventions[i - 1]``.
        prompts: the tokenised prompts.
    """

    answer_logprobs: tuple[Float[Tensor, "variant _"], ...]
    first_token: Int[Tensor, "variant sample"]
    logits: Float[Tensor, "variant sample vocab"] | None
    interventions: tuple[Steering, ...]
    prompts: tuple[TokenPrompt, ...]

    def __repr__(self) -> str:
        names = list(dict.fromkeys(one.name or "unnamed" for one in self.interventions))
        shown = ", ".join(["unsteered", *names[:3], *(["…"] if len(names) > 3 else [])])
        kept = ", logits kept" if self.logits is not None else ""
        return f"Scores({len(self.prompts)} prompts × {len(self.interventions) + 1} variants: {shown}{kept})"

    def to_frame(self) -> pd.DataFrame:
        """One row a variant and sample.

        Columns: ``sample, name, layer, strength, operator, position`` (layer -1: unsteered; of several
        layers the first), ``gold_logprob``,
        ``choice`` (index of the most probable admissible answer), ``choice_correct``, ``first_match`` (greedy
        first token is the gold answer's), ``first_valid`` (it begins some admissible answer), ``gold_margin``
        (gold minus best other answer). NaN where there is no gold answer, no other answer, or (the two
        ``first_`` columns) no full vocabulary.
        """
        import pandas as pd

        columns: dict[str, list[object]] = {}
        for index, prompt in enumerate(self.prompts):
            for name, values in _outcomes(
                prompt, self.answer_logprobs[index], self.first_token[:, index]
            ).items():
                columns.setdefault(name, []).extend(values)
        what = [(-1, 0.0, "none", "none", "unsteered")]
        what += [(i.layer, i.strength, i.operator, i.position, i.name) for i in self.interventions]
        layers, strengths, operators, positions, names = (
            list(column) * len(self.prompts) for column in zip(*what, strict=True)
        )
        return pd.DataFrame(
            {
                "sample": [prompt.name for prompt in self.prompts for _ in what],
                "name": names,
                "layer": layers,
                "strength": strengths,
                "operator": operators,
                "position": positions,
                **columns,
            }
        )


def _outcomes(prompt: TokenPrompt, logprobs: Tensor, first: Tensor) -> dict[str, list[object]]:
    n = len(first)
    none: list[object] = [float("nan")] * n
    if not prompt.answers:
        names = ("gold_logprob", "choice", "choice_correct", "first_match", "first_valid", "gold_margin")
        return {name: list(none) for name in names}
    choice = logprobs.argmax(dim=1)
    opening = torch.tensor([answer[0] for answer in prompt.answers])
    has_gold, several = prompt.gold >= 0, len(prompt.answers) > 1
    gold = logprobs[:, prompt.gold] if has_gold else torch.full((n,), torch.nan)
    others = [index for index in range(len(prompt.answers)) if index != prompt.gold]
    margin = gold - logprobs[:, others].amax(dim=1) if has_gold and several else torch.full((n,), torch.nan)
    read = bool((first >= 0).all())
    return {
        "gold_logprob": gold.tolist(),
        "choice": choice.tolist(),
        "choice_correct": (choice == prompt.gold).tolist() if has_gold and several else list(none),
        "first_match": (first == opening[prompt.gold]).tolist() if has_gold and read else list(none),
        "first_valid": torch.isin(first, opening).tolist() if several and read else list(none),
        "gold_margin": margin.tolist(),
    }
