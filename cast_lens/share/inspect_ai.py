"""Inspect with a steered model: the provider ``cast_lens``.

Installed with the extra ``inspect``, the package announces it itself::

    inspect eval arc.py --model cast_lens/Qwen/Qwen2.5-1.5B-Instruct \\
        -M vector=science.safetensors -M layer=14 -M strength=2

In Python, ``get_model("cast_lens/NAME", vector=..., layer=...)``. Conversations pass through the model's chat template;
a model without one reads the texts as they are. Decoding is greedy.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, ModelUsage, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo

from ..models import load_model
from .generation import greedy_texts, steering_of, tokens_of

# Of a task that does not say how long its answers may be.
MAX_TOKENS = 256


@modelapi(name="cast_lens")
class CastLensAPI(ModelAPI):
    """A model of ``load_model`` under one intervention, or none.

    Args:
        model_name: what ``load_model`` takes.
        base_url, api_key, config: arguments of Inspect; a local model needs none.
        vector: file of a vector or of an exported intervention; empty for the unsteered model.
        layer, strength, operator, position: parameters of the intervention; an exported one knows its own.
        device, dtype: see ``load_model``.
        loaded: a model that is loaded already.

    Raises:
        ValueError: for a vector that cannot be read, lacks the layer, or belongs to another model.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        vector: str = "",
        layer: int | None = None,
        strength: float | None = None,
        operator: str | None = None,
        position: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        loaded: Any = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self.model = load_model(model_name, device=device, dtype=dtype) if loaded is None else loaded
        how = {"layer": layer, "strength": strength, "operator": operator, "position": position}
        self.steering = steering_of(self.model, vector, **how)

    def max_connections(self) -> int:
        """One request at a time: a local model gains nothing by more."""
        return 1

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """The answer to a conversation."""
        if tools or (config.temperature or 0) > 0 or (config.num_choices or 1) > 1:
            raise ValueError(
                "cast_lens answers greedily, once and without tools; leave temperature, num_choices, tools"
            )
        tokens = tokens_of(self.model, self._prompt(input))
        longest = config.max_tokens or MAX_TOKENS
        until = config.stop_seqs or []
        [text] = greedy_texts(self.model, [tokens], self.steering, until=until, max_new_tokens=longest)
        count = len(tokens_of(self.model, text, special=False))
        output = ModelOutput.from_content(model=self.model_name, content=text)
        output.usage = ModelUsage(input_tokens=len(tokens), output_tokens=count, total_tokens=len(tokens) + count)
        return output

    def _prompt(self, messages: list[ChatMessage]) -> str:
        tokenizer: Any = self.model.tokenizer
        if tokenizer.chat_template is None:
            return "\n".join(message.text for message in messages)
        turns = [{"role": message.role, "content": message.text} for message in messages]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
