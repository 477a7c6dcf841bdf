"""The model in this process: through the one-pass engine, and through the plain hooks that it is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import answer, capture, reference, score, tokenise
from ..engine.tokens import PromptLike
from ..interventions import Steering
from ..models.identity import check_layers
from ..models.lens import HookedTransformer
from ..steering import generate


class EngineBackend:
    """The one-pass engine."""

    name = "engine"

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model

    def capture(self, prompts: Sequence[PromptLike], layers: Sequence[int]) -> Float[Tensor, "sample layer d_model"]:
        """See ``Backend``."""
        return capture(self.model, prompts, layers=layers)

    def score(
        self, prompts: Sequence[PromptLike], intervention: Steering | None = None
    ) -> list[Float[Tensor, " choice"]]:
        """See ``Backend``."""
        found = score(self.model, prompts, [intervention] if intervention else [])
        return [logprobs[-1] for logprobs in found.answer_logprobs]

    def answer(
        self, prompts: Sequence[PromptLike], intervention: Steering | None = None, *, max_new_tokens: int = 8
    ) -> list[str | None]:
        """See ``Backend``."""
        return answer(self.model, prompts, [intervention] if intervention else [], max_new_tokens=max_new_tokens)[-1]


class HookBackend:
    """One prompt at a time, through hooks."""

    name = "hooks"

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model

    def capture(self, prompts: Sequence[PromptLike], layers: Sequence[int]) -> Float[Tensor, "sample layer d_model"]:
        """See ``Backend``."""
        chosen = list(check_layers(self.model, layers))
        ready = tokenise(self.model, prompts)
        return torch.stack([reference.residuals(self.model, prompt.tokens)[chosen] for prompt in ready]).float().cpu()

    def score(
        self, prompts: Sequence[PromptLike], intervention: Steering | None = None
    ) -> list[Float[Tensor, " choice"]]:
        """See ``Backend``."""
        return [reference.score(self.model, prompt, intervention)[0] for prompt in tokenise(self.model, prompts)]

    def answer(
        self, prompts: Sequence[PromptLike], intervention: Steering | None = None, *, max_new_tokens: int = 8
    ) -> list[str | None]:
        """See ``Backend``."""
        given = [intervention] if intervention else []
        return [generate(self.model, [one], interventions=given, max_new_tokens=max_new_tokens)[0] for one in prompts]
