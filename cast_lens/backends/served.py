"""Models on serving engines: EasySteer and vllm-lens, both on vLLM.

Written from their documentation and tested against fakes that behave as documented; docs/serving.md says which
versions, and that neither ran on hardware here.

An answer is scored as part of a request: prompt and answer are its tokens, and the log-probabilities of the answer's
tokens are read off. An intervention at ``last`` then edits the last prompt token and the answer's tokens, which are
prompt tokens to the engine, so positions are given as numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import TokenPrompt, tokenise
from ..engine.greedy import StopRule
from ..engine.tokens import PromptLike, end_tokens
from ..interventions import Steering
from ..share.export import directions_of, easysteer_spec, refuse


class _Served:
    """What both engines share: tokens in, tokens and log-probabilities out."""

    name = ""

    def __init__(self, llm: Any, api: Any, context: int) -> None:
        self.llm, self.api = llm, api
        tokenizer = llm.get_tokenizer()
        own = list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]
        size = len(tokenizer)
        cfg = SimpleNamespace(n_ctx=context, d_vocab=size, d_vocab_out=size, default_prepend_bos=own)
        # As much of a model as tokenising asks for.
        self._reader: Any = SimpleNamespace(tokenizer=tokenizer, cfg=cfg, generation_config=None)

    def score(
        self, prompts: Sequence[PromptLike], intervention: Steering | None = None
    ) -> list[Float[Tensor, " choice"]]:
        """See ``Backend``."""
        ready = tokenise(self._reader, prompts)
        if any(prompt.end for prompt in ready):
            raise ValueError(f"{self.name} cannot score prompts one of whose answers is the beginning of another")
        asked = [(prompt.tokens, answer) for prompt in ready for answer in prompt.answers]
        outputs = self._ask(
            [prompt + answer for prompt, answer in asked],
            [len(prompt) for prompt, _ in asked],
            intervention,
            {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0},
        )
        values = []
        for (prompt, answer), output in zip(asked, outputs, strict=True):
            told = output.prompt_logprobs[len(prompt) : len(prompt) + len(answer)]
            values.append(sum(one[token].logprob for one, token in zip(told, answer, strict=True)))
        counts = [len(prompt.answers) for prompt in ready]
        return list(torch.tensor(values, dtype=torch.float32).split(counts))

    def answer(
        self, prompts: Sequence[PromptLike], intervention: Steering | None = None, *, max_new_tokens: int = 8
    ) -> list[str | None]:
        """See ``Backend``."""
        ready = tokenise(self._reader, prompts, room=max_new_tokens)
        rule = StopRule(self._reader.tokenizer, end_tokens(self._reader), "\n")
        tokens = [prompt.tokens for prompt in ready]
        how = {"temperature": 0.0, "max_tokens": max_new_tokens}
        outputs = self._ask(tokens, [len(one) for one in tokens], intervention, how)
        return [rule.text(list(output.outputs[0].token_ids)) for output in outputs]

    def _ask(
        self,
        tokens: Sequence[tuple[int, ...]],
        lengths: Sequence[int],
        intervention: Steering | None,
        how: dict[str, Any],
    ) -> list[Any]:
        """Send one request per row of tokens; ``lengths`` says how many of them belong to the prompt."""
        raise NotImplementedError


class EasySteerBackend(_Served):
    """EasySteer's fork of vLLM 0.26: a ``SteeringSpec`` per request.

    Args:
        llm: ``vllm.LLM(model=..., enable_steer_vector=True, steer_algorithms=[...])``.
        api: where ``SamplingParams``, the spec classes and ``capture`` are; None to import them.
        context: longest prompt with its answer, in tokens.
    """

    name = "easysteer"

    def __init__(self, llm: Any, *, api: Any = None, context: int = 4096) -> None:
        super().__init__(llm, api or easysteer_api(), context)

    def capture(self, prompts: Sequence[PromptLike], layers: Sequence[int]) -> Float[Tensor, "sample layer d_model"]:
        """See ``Backend``."""
        given = [{"prompt_token_ids": list(prompt.tokens)} for prompt in tokenise(self._reader, prompts)]
        last = self.api.SelectSpec(phases=["prompt"], prompt_positions=[-1])
        found = self.api.capture(self.llm, prompts=given, max_tokens=1, layers=list(layers), select=last)
        rows = [torch.stack([found.token(index, layer, -1) for layer in layers]) for index in range(len(given))]
        return torch.stack(rows).float().cpu()

    def _ask(
        self,
        tokens: Sequence[tuple[int, ...]],
        lengths: Sequence[int],
        intervention: Steering | None,
        how: dict[str, Any],
    ) -> list[Any]:
        given = [{"prompt_token_ids": list(row)} for row in tokens]
        specs: Any = False
        if intervention is not None:
            specs = [self._spec(intervention, len(row), length) for row, length in zip(tokens, lengths, strict=True)]
        return list(self.llm.generate(given, self.api.SamplingParams(**how), steering=specs))

    def _spec(self, intervention: Steering, size: int, length: int) -> Any:
        fields = easysteer_spec(intervention)
        apply = dict(fields.pop("apply"))
        if intervention.position == "last":
            apply |= {"prompt_positions": list(range(length - 1, size))}
        elif intervention.position == "prompt_last":
            apply |= {"prompt_positions": [length - 1]}
        rows = {layer: row.numpy() for layer, row in directions_of(intervention).items()}
        vector = self.api.VectorSpec(data=self.api.DirectionVector(rows), apply=self.api.ApplySpec(**apply), **fields)
        return self.api.SteeringSpec(vectors=[vector])


class VllmLensBackend(_Served):
    """vllm-lens 1.3 on stock vLLM: vectors in ``SamplingParams(extra_args=...)``, one set per request.

    It adds vectors, and can keep the norm; what replaces or projects out is refused. Keys of a prompt that vLLM keeps
    (``enable_prefix_caching``) would hold what an earlier intervention made of it, so each has its own ``cache_salt``.

    Args:
        llm: ``vllm.LLM(model=...)`` with vllm-lens installed.
        api: where ``SamplingParams`` and ``SteeringVector`` are; None to import them.
        context: longest prompt with its answer, in tokens.
    """

    name = "vllm-lens"

    def __init__(self, llm: Any, *, api: Any = None, context: int = 4096) -> None:
        super().__init__(llm, api or vllm_lens_api(), context)

    def capture(self, prompts: Sequence[PromptLike], layers: Sequence[int]) -> Float[Tensor, "sample layer d_model"]:
        """See ``Backend``."""
        ready: list[TokenPrompt] = tokenise(self._reader, prompts)
        given = [
            {"prompt_token_ids": list(prompt.tokens), "cache_salt": f"capture {i}"} for i, prompt in enumerate(ready)
        ]
        how = {"temperature": 0.0, "max_tokens": 1, "extra_args": {"output_residual_stream": list(layers)}}
        outputs = self.llm.generate(given, self.api.SamplingParams(**how))
        stacks = [output.activations["residual_stream"] for output in outputs]
        return (
            torch.stack([stack[:, len(prompt.tokens) - 1] for stack, prompt in zip(stacks, ready, strict=True)])
            .float()
            .cpu()
        )

    def _ask(
        self,
        tokens: Sequence[tuple[int, ...]],
        lengths: Sequence[int],
        intervention: Steering | None,
        how: dict[str, Any],
    ) -> list[Any]:
        salt = "unsteered" if intervention is None else _digest(intervention)
        given = [{"prompt_token_ids": list(row), "cache_salt": salt} for row in tokens]
        params = []
        for row, length in zip(tokens, lengths, strict=True):
            more: dict[str, Any] = {}
            if intervention is not None:
                end = len(row) + how["max_tokens"]
                vector = self._vector(intervention, length, end)
                more = {"extra_args": {"apply_steering_vectors": [vector]}}
            params.append(self.api.SamplingParams(**how, **more))
        return list(self.llm.generate(given, params))

    def _vector(self, intervention: Steering, length: int, end: int) -> Any:
        lens_check(intervention)
        rows = directions_of(intervention)
        stack = torch.stack(list(rows.values()))
        where: list[int] | None = None
        if intervention.position != "all":
            where = [length - 1] if intervention.position == "prompt_last" else list(range(length - 1, end))
            stack = stack[:, None].expand(-1, len(where), -1).contiguous()
        return self.api.SteeringVector(
            activations=stack,
            layer_indices=list(rows),
            scale=intervention.strength,
            norm_match=intervention.operator == "norm_preserving_add",
            position_indices=where,
        )


def lens_check(intervention: Steering) -> None:
    """Refuse what vllm-lens cannot do.

    Raises:
        ValueError: for an operator that does not add.
    """
    adds = intervention.operator in ("add", "norm_preserving_add")
    refuse(intervention, VllmLensBackend.name, "it adds vectors, with the norm kept or not", unless=adds)


def _digest(intervention: Steering) -> str:
    facts = f"{intervention.operator} {intervention.position} {intervention.strength!r} {intervention.layers}"
    digest = hashlib.sha256(facts.encode())
    for row in directions_of(intervention).values():
        digest.update(row.numpy().tobytes())
    return digest.hexdigest()


def easysteer_api() -> Any:
    """What ``EasySteerBackend`` asks for.

    Raises:
        ValueError: when EasySteer is not installed.
    """
    try:
        from easysteer.hidden_states import capture
        from vllm import SamplingParams
        from vllm.steer_vectors import ApplySpec, DirectionVector, SelectSpec, SteeringSpec, VectorSpec
    except ImportError as error:
        raise ValueError(
            f"EasySteer is not installed ({error}); install it as docs/serving.md says, or choose backend engine"
        ) from None
    names = {"ApplySpec": ApplySpec, "DirectionVector": DirectionVector, "SelectSpec": SelectSpec}
    specs = {"SteeringSpec": SteeringSpec, "VectorSpec": VectorSpec}
    return SimpleNamespace(capture=capture, SamplingParams=SamplingParams, **names, **specs)


def vllm_lens_api() -> Any:
    """What ``VllmLensBackend`` asks for.

    Raises:
        ValueError: when vllm-lens is not installed.
    """
    try:
        from vllm import SamplingParams
        from vllm_lens import SteeringVector
    except ImportError as error:
        raise ValueError(
            f"vllm-lens is not installed ({error}); install it as docs/serving.md says, or choose backend engine"
        ) from None
    return SimpleNamespace(SamplingParams=SamplingParams, SteeringVector=SteeringVector)
