"""Small serving engines on a tiny Hugging Face model that keep what EasySteer and vllm-lens document.

Both run requests one token after the other and know, for each position, which vectors edit it there. Keys of prompts
are kept from request to request as vLLM keeps them: a prompt that begins as an earlier one with the same salt finds the
earlier edits in its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from tests.tiny import tiny_hf_model, tiny_tokenizer

Edits = Callable[[int, int, torch.Tensor], torch.Tensor]
"""Layer, position and residual [d_model] to the edited residual."""


def _same(layer: int, position: int, residual: torch.Tensor) -> torch.Tensor:
    return residual


@dataclass
class SamplingParams:
    """As vLLM's."""

    temperature: float = 1.0
    max_tokens: int = 16
    prompt_logprobs: int | None = None
    extra_args: dict[str, Any] = field(default_factory=dict)


class Engine:
    """Runs tokens through a tiny model with edits by position, and keeps the keys of prompts."""

    def __init__(self) -> None:
        self.model, self.tokenizer = tiny_hf_model("llama"), tiny_tokenizer()
        # vLLM also ends a text at the tokens of the generation config.
        listed = self.model.generation_config.eos_token_id
        self._ends = {self.tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}
        self._kept: dict[tuple[str, tuple[int, ...]], Edits] = {}

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    @torch.no_grad()
    def forward(self, tokens: Sequence[int], edits: Edits) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [position, vocab] and residuals [layer, position, d_model]."""
        found: list[torch.Tensor] = []

        def hook(layer: int) -> Any:
            def edit(block: Any, given: Any, output: Any) -> Any:
                whole = output[0] if isinstance(output, tuple) else output
                new = torch.stack([edits(layer, place, row) for place, row in enumerate(whole[0])])[None]
                found.append(new[0])
                return (new, *output[1:]) if isinstance(output, tuple) else new

            return edit

        handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(self.model.model.layers)]
        try:
            logits = self.model(torch.tensor([list(tokens)])).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        return logits, torch.stack(found)

    def request(self, tokens: list[int], params: SamplingParams, edits: Edits, salt: str) -> Any:
        """What vLLM returns for one prompt."""
        assert params.temperature == 0
        size, key = len(tokens), (salt, tuple(tokens[:-1]))
        # Prompt log-probabilities need every logit, for which vLLM reads no kept keys.
        earlier = edits if params.prompt_logprobs is not None else self._kept.setdefault(key, edits)

        def kept(layer: int, position: int, residual: torch.Tensor) -> torch.Tensor:
            return (earlier if position < size - 1 else edits)(layer, position, residual)

        written = list(tokens)
        for _ in range(params.max_tokens):
            logits, residuals = self.forward(written, kept)
            if len(written) == size:
                prompt = logits.log_softmax(-1)
            written.append(int(logits[-1].argmax()))
            if written[-1] in self._ends:
                break
        told = [None] + [
            {token: SimpleNamespace(logprob=float(prompt[place, token]))} for place, token in enumerate(tokens[1:])
        ]
        return SimpleNamespace(
            prompt_token_ids=tokens,
            prompt_logprobs=told if params.prompt_logprobs is not None else None,
            outputs=[SimpleNamespace(token_ids=written[size:])],
            activations={"residual_stream": residuals},
        )


@dataclass
class SelectSpec:
    """Which rows: the include selectors of a phase unite; none of them means the whole phase."""

    phases: list[str]
    prompt_positions: list[int] | None = None
    generation_window: tuple[int, int | None] | list[Any] | None = None

    def __post_init__(self) -> None:
        assert self.phases
        assert set(self.phases) <= {"prompt", "generation"}
        assert self.prompt_positions is None or "prompt" in self.phases
        assert self.generation_window is None or "generation" in self.phases

    def selects(self, position: int, size: int) -> bool:
        bare = self.prompt_positions is None and self.generation_window is None
        if position < size:
            places = [min(p, size - 1) if p >= 0 else size + p for p in self.prompt_positions or ()]
            return "prompt" in self.phases and (bare or position in places)
        if self.generation_window is None:
            return "generation" in self.phases and bare
        start, stop = self.generation_window
        return "generation" in self.phases and start <= position - size < (10**9 if stop is None else stop)


class ApplySpec(SelectSpec):
    """Where a vector applies."""


@dataclass
class DirectionVector:
    layers: dict[int, Any]

    def __post_init__(self) -> None:
        assert all(row.ndim == 1 and str(row.dtype) == "float32" for row in self.layers.values())


@dataclass
class VectorSpec:
    data: DirectionVector
    apply: ApplySpec
    algorithm: str = "direct"
    scale: float = 1.0
    layers: list[int] | None = None
    normalize: bool = False
    name: str | None = None

    def edit(self, residual: torch.Tensor, layer: int) -> torch.Tensor:
        v = torch.from_numpy(self.data.layers[layer])
        if self.algorithm == "direct":
            new = residual + self.scale * v
        elif self.algorithm == "erase":
            new = residual - (residual @ v) / (v @ v) * v
        else:
            assert self.algorithm == "replace"
            new = self.scale * v
        return new * residual.norm() / new.norm() if self.normalize else new


@dataclass
class SteeringSpec:
    vectors: list[VectorSpec]
    conflict: str = "priority"


class EasySteerLLM(Engine):
    """``vllm.LLM`` of EasySteer: ``steering`` is False, a spec, or one per prompt; keys are kept by spec."""

    def generate(self, prompts: list[dict[str, Any]], params: SamplingParams, *, steering: Any = None) -> list[Any]:
        specs = steering if isinstance(steering, list) else [steering] * len(prompts)
        assert len(specs) == len(prompts)
        return [
            self._one(prompt["prompt_token_ids"], params, spec) for prompt, spec in zip(prompts, specs, strict=True)
        ]

    def _one(self, tokens: list[int], params: SamplingParams, spec: Any) -> Any:
        if not spec:
            return self.request(tokens, params, _same, "none")
        [vector] = spec.vectors

        def edits(layer: int, position: int, residual: torch.Tensor) -> torch.Tensor:
            wanted = layer in (vector.layers or vector.data.layers) and vector.apply.selects(position, len(tokens))
            return vector.edit(residual, layer) if wanted else residual

        rows = {layer: row.tobytes() for layer, row in vector.data.layers.items()}
        return self.request(tokens, params, edits, repr((rows, vector.scale, vector.algorithm, vector.apply)))


def capture(llm: Engine, *, prompts: list[Any], max_tokens: int, layers: list[int], select: SelectSpec) -> Any:
    """``easysteer.hidden_states.capture``."""
    assert max_tokens == 1
    rows = [llm.forward(prompt["prompt_token_ids"], _same)[1] for prompt in prompts]
    kept = [[place for place in range(stack.shape[1]) if select.selects(place, stack.shape[1])] for stack in rows]
    return SimpleNamespace(token=lambda sample, layer, at: rows[sample][layer, kept[sample][at]])


@dataclass
class LensVector:
    """``vllm_lens.SteeringVector``."""

    activations: torch.Tensor
    layer_indices: list[int]
    scale: float = 1.0
    norm_match: bool = False
    position_indices: list[int] | None = None

    def __post_init__(self) -> None:
        assert self.activations.ndim in (2, 3)
        assert self.activations.shape[0] == len(self.layer_indices)
        assert (self.activations.ndim == 3) == (self.position_indices is not None)


class VllmLensLLM(Engine):
    """``vllm.LLM`` with vllm-lens: vectors in the extra arguments of a request; keys are kept by salt alone."""

    def generate(self, prompts: list[dict[str, Any]], params: Any) -> list[Any]:
        each = params if isinstance(params, list) else [params] * len(prompts)
        return [self._one(prompt, one) for prompt, one in zip(prompts, each, strict=True)]

    def _one(self, prompt: dict[str, Any], params: SamplingParams) -> Any:
        vectors: list[LensVector] = params.extra_args.get("apply_steering_vectors", [])

        def edits(layer: int, position: int, residual: torch.Tensor) -> torch.Tensor:
            for vector in vectors:
                if layer not in vector.layer_indices:
                    continue
                rows = vector.activations[vector.layer_indices.index(layer)]
                if vector.position_indices is not None:
                    if position not in vector.position_indices:
                        continue
                    rows = rows[vector.position_indices.index(position)]
                new = residual + vector.scale * rows
                residual = new * residual.norm() / new.norm() if vector.norm_match else new
            return residual

        found = self.request(prompt["prompt_token_ids"], params, edits, prompt.get("cache_salt", ""))
        wanted = params.extra_args.get("output_residual_stream")
        found.activations = {"residual_stream": found.activations["residual_stream"][wanted]} if wanted else None
        return found


EASYSTEER = SimpleNamespace(
    SamplingParams=SamplingParams,
    SelectSpec=SelectSpec,
    ApplySpec=ApplySpec,
    DirectionVector=DirectionVector,
    VectorSpec=VectorSpec,
    SteeringSpec=SteeringSpec,
    capture=capture,
)
VLLM_LENS = SimpleNamespace(SamplingParams=SamplingParams, SteeringVector=LensVector)
