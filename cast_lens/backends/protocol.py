"""The interface of a backend, the two backends in this process, opening one by name, and evaluating on one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import Progress, Scores, answer, capture, quiet, reference, score, tokenise
from ..engine.tokens import PromptLike
from ..evaluation import answer_limit, outcome_frame
from ..interventions import Intervention, Operator, Position, Steering
from ..models.identity import check_layers
from ..models.lens import HookedTransformer
from ..share.export import easysteer_spec
from ..steering import generate
from ..tasks import Prompt
from .served import EasySteerBackend, VllmLensBackend, easysteer_api, lens_check, vllm_lens_api

BackendName = Literal["engine", "hooks", "easysteer", "vllm-lens"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
_ALGORITHMS: Mapping[Operator, str] = {
    "add": "direct",
    "norm_preserving_add": "direct",
    "ablate": "erase",
    "replace": "replace",
}


class Backend(Protocol):
    """A model somewhere, which can be read and steered. Prompts are those of ``zero_shot_prompts``, or ``tokenise``."""

    @property
    def name(self) -> str:
        """In the column ``backend`` of frames."""
        ...

    def capture(self, prompts: Sequence[PromptLike], layers: Sequence[int]) -> Float[Tensor, "sample layer d_model"]:
        """Residuals at the output of blocks, at the last prompt token; float32 on the CPU."""
        ...

    def score(
        self, prompts: Sequence[PromptLike], intervention: Steering | None = None
    ) -> list[Float[Tensor, " choice"]]:
        """Log-probability of each admissible answer of each prompt."""
        ...

    def answer(
        self, prompts: Sequence[PromptLike], intervention: Steering | None = None, *, max_new_tokens: int = 8
    ) -> list[str | None]:
        """Greedy answers up to the first line end; None if logits are NaN or infinite."""
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


@dataclass(frozen=True, slots=True, eq=False)
class EvaluatedOn:
    """``evaluate`` with the model on a backend: the same frame, one request per prompt and variant.

    ``first_match`` and ``first_valid`` are NaN: a backend gives no logits of the first token.

    Attributes:
        backend: where the model runs.
    """

    backend: Backend

    def __call__(
        self,
        model: HookedTransformer,
        prompts: Sequence[Prompt],
        interventions: Sequence[Steering] = (),
        *,
        chat: bool = False,
        progress: Progress = quiet,
    ) -> pd.DataFrame:
        """See ``evaluate``.

        Args:
            model: the same model in this process; it makes the tokens.
            prompts, interventions, chat, progress: see ``evaluate``.

        Raises:
            ValueError: what the backend cannot do.
        """
        tokens = tokenise(model, prompts, chat=chat)
        longest, variants = answer_limit(tokens), [None, *interventions]
        told: list[list[Float[Tensor, " choice"]]] = []
        texts: list[list[str | None]] = []
        for one in progress(variants, f"on {self.backend.name}", len(variants)):
            told.append(self.backend.score(tokens, one))
            texts.append(self.backend.answer(tokens, one, max_new_tokens=longest))
        scores = Scores(
            tuple(torch.stack([logprobs.float().cpu() for logprobs in rows]) for rows in zip(*told, strict=True)),
            torch.full((len(variants), len(tokens)), -1),
            None,
            tuple(interventions),
            tuple(tokens),
        )
        return outcome_frame(prompts, scores, texts)


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


def check_backend(
    name: str, *, operator: Operator = "add", position: Position = "last", strengths: Sequence[float] = ()
) -> None:
    """Refuse a backend that is not there, or cannot steer like that.

    Args:
        name: one of ``BACKENDS``.
        operator, position, strengths: what it will be asked for.

    Raises:
        ValueError: an unknown name, a package that is not installed, an intervention that it cannot express.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is unknown; choose from {', '.join(BACKENDS)}")
    for strength in strengths:
        asked = Intervention(torch.ones(2), 1, strength, operator, position)
        if name == "easysteer":
            easysteer_spec(asked)
        elif name == "vllm-lens":
            lens_check(asked)
    if name == "easysteer":
        easysteer_api()
    elif name == "vllm-lens":
        vllm_lens_api()


def open_backend(
    name: str,
    model: HookedTransformer,
    *,
    served: str = "",
    dtype: str = "float32",
    operator: Operator = "add",
    arguments: Mapping[str, Any] | None = None,
) -> Backend:
    """A backend that holds a model; opened once, and kept until another one is asked for.

    Args:
        name: one of ``BACKENDS``.
        model: the model in this process; serving engines take its context length.
        served: hub name or folder of the same model, for an engine that loads it itself.
        dtype: dtype of a served model.
        operator: what will be asked for; EasySteer wants to know.
        arguments: for ``vllm.LLM``, such as ``tensor_parallel_size``.

    Raises:
        ValueError: as ``check_backend``.
    """
    check_backend(name)
    if name == "engine":
        return EngineBackend(model)
    if name == "hooks":
        return HookBackend(model)
    given = json.dumps({"model": served, "dtype": dtype, **(arguments or {})}, sort_keys=True)
    return _served(name, given, int(model.cfg.n_ctx), operator)


@lru_cache(maxsize=1)
def _served(name: str, given: str, context: int, operator: Operator) -> Backend:
    """A serving engine of its own; ``given`` are the arguments of ``vllm.LLM`` as JSON."""
    from vllm import LLM

    if name == "vllm-lens":
        return VllmLensBackend(LLM(**json.loads(given)), context=context)
    llm = LLM(**json.loads(given), enable_steer_vector=True, steer_algorithms=[_ALGORITHMS[operator]])
    return EasySteerBackend(llm, context=context)
