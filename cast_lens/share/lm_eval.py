"""lm-evaluation-harness with a steered model: ``--model cast_lens``.

Importing this module registers the model; the harness finds no models of other packages by itself, so its command line
is started from here and takes everything that ``lm_eval`` takes::

    python -m cast_lens.share.lm_eval --model cast_lens --tasks arc_easy \\
        --model_args pretrained=Qwen/Qwen2.5-1.5B,vector=science.safetensors,layer=14,strength=2,position=last

In Python, ``import cast_lens.share.lm_eval`` and ``lm_eval.simple_evaluate(model="cast_lens", ...)``.

Contexts are what is steered: under ``last`` the last token of a context and every token of its continuation, as in
``cast_lens.score``. One pass runs the continuations of a context together; batches follow the memory, so
``--batch_size`` changes nothing. Needs the extra ``lm-eval``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from ..engine import TokenPrompt, score
from ..engine.decoding import decode
from ..models import load_model
from .generation import greedy_texts, steering_of, tokens_of

# Of lm_eval/models/huggingface.py, so that answers are cut where the harness cuts those of its own model.
MAX_GEN_TOKS = 256


@register_model("cast_lens")
class CastLensLM(TemplateLM):
    """A model of ``load_model`` under one intervention, or none.

    Args:
        pretrained: what ``load_model`` takes; a loaded model too.
        vector: file of a vector or of an exported intervention (see ``import_vector``); empty for the unsteered model.
        layer, strength, operator, position: parameters of the intervention; an exported intervention knows its own.
        device, dtype: see ``load_model``; without a GPU, ``cuda`` is the processor, as in the harness's own model.
        max_gen_toks: longest answer where the task does not say it.
        batch_size, max_batch_size: taken, because the harness gives them, and not used.

    Raises:
        ValueError: for a vector that cannot be read, lacks the layer, or belongs to another model.
    """

    def __init__(
        self,
        pretrained: Any,
        vector: str = "",
        layer: int | None = None,
        strength: float | None = None,
        operator: str | None = None,
        position: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        max_gen_toks: int = MAX_GEN_TOKS,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        named = isinstance(pretrained, str)
        self.model = load_model(pretrained, device=_device(device), dtype=dtype) if named else pretrained
        self.tokenizer: Any = self.model.tokenizer
        self.max_gen_toks = int(max_gen_toks)
        how = {"layer": layer, "strength": strength, "operator": operator, "position": position}
        self.steering = steering_of(self.model, vector, **how)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced with."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """Names the harness's cache of requests."""
        return str(self.model.cfg.model_name).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model's template renders it."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of a text, after what the tokenizer puts in front unless the text begins with it."""
        return tokens_of(self.model, string, special=add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        limit = int(self.model.cfg.n_ctx)
        pairs = [_fitting(context, answer, limit) for _, context, answer in requests]
        prompts = _together(pairs)
        found = score(self.model, prompts, self.steering)
        variant = len(self.steering)
        results: dict[_Pair, tuple[float, bool]] = {}
        for place, prompt in enumerate(prompts):
            first = int(found.first_token[variant, place])
            values = found.answer_logprobs[place][variant].tolist()
            for answer, value in zip(prompt.answers, values, strict=True):
                results[prompt.tokens, answer] = (value, answer[0] == first)
        self._confirm(results)
        given = [results[pair] for pair in pairs]
        for request, result in zip(requests, given, strict=True):
            if request[0] is not None:
                self.cache_hook.add_partial("loglikelihood", request[0], result)
        return given

    def _confirm(self, results: dict[_Pair, tuple[float, bool]]) -> None:
        """Whether greedy decoding writes all of an answer whose first token it writes."""
        open_ones = [pair for pair, (_, begins) in results.items() if begins and len(pair[1]) > 1]
        for length in {len(answer) for _, answer in open_ones}:
            same = [pair for pair in open_ones if len(pair[1]) == length]
            prompts = [TokenPrompt(context) for context, _ in same]
            decoded = decode(self.model, prompts, self.steering, max_new_tokens=length, stop=lambda tokens: False)[-1]
            for pair, tokens in zip(same, decoded, strict=True):
                results[pair] = (results[pair][0], tokens == pair[1])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, window by window; under ``last`` all but the first token is steered."""
        limit = int(self.model.cfg.n_ctx)
        windows: list[tuple[int, list[int], list[int]]] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            rolling = utils.get_rolling_token_windows(tokens, self.prefix_token_id, limit, 1)
            windows += [(number, *utils.make_disjoint_window(window)) for window in rolling]
        parts = self._loglikelihood_tokens([(None, context, answer) for _, context, answer in windows])
        totals = [0.0] * len(requests)
        for (number, _, _), (value, _) in zip(windows, parts, strict=True):
            totals[number] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to the first of a task's stopping texts."""
        asked: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for number, request in enumerate(requests):
            asked.setdefault(_settings(request.args[1], self.max_gen_toks), []).append(number)
        texts = [""] * len(requests)
        for (until, longest), numbers in asked.items():
            contexts = [self.tok_encode(requests[number].args[0]) for number in numbers]
            written = greedy_texts(self.model, contexts, self.steering, until=until, max_new_tokens=longest)
            for number, text in zip(numbers, written, strict=True):
                texts[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return texts


def _device(asked: str | None) -> str:
    """The device that was asked for; the harness asks for ``cuda:0`` of itself, also where there is none."""
    if asked is None or (asked.startswith("cuda") and not torch.cuda.is_available()):
        return "auto"
    return asked


_Pair = tuple[tuple[int, ...], tuple[int, ...]]


def _fitting(context: Sequence[int], answer: Sequence[int], limit: int) -> _Pair:
    """A context and its continuation, the context cut on the left where both do not fit."""
    if not answer or len(answer) > limit:
        raise ValueError(
            f"a continuation has {len(answer)} tokens; it must have from 1 to {limit}, the model's context"
        )
    kept = list(context)[-(limit + 1 - len(answer)) :]
    return tuple(kept), tuple(answer)


def _together(pairs: Sequence[_Pair]) -> list[TokenPrompt]:
    """One prompt per context with all its continuations; apart where one is the beginning of another."""
    answers: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for context, answer in pairs:
        answers.setdefault(context, {})[answer] = None
    prompts = []
    for context, own in answers.items():
        ordered = sorted(own)
        # The engine would score nested answers with their end, which the harness does not mean.
        nested = any(longer[: len(shorter)] == shorter for shorter, longer in pairwise(ordered))
        groups = [(answer,) for answer in own] if nested else [tuple(own)]
        prompts += [TokenPrompt(context, group) for group in groups]
    return prompts


def _settings(given: Mapping[str, Any], longest: int) -> tuple[tuple[str, ...], int]:
    """Stopping texts and the longest answer that a request asks for."""
    found = normalize_gen_kwargs(dict(given), longest)
    if found.get("do_sample") or (found.get("temperature") or 0) > 0:
        raise ValueError(
            f"generation_kwargs {dict(given)} ask for sampling; cast_lens decodes greedily: give do_sample=False"
        )
    until = found.get("until") or []
    return tuple([until] if isinstance(until, str) else until), int(found["max_gen_toks"])


def main() -> None:
    """The harness's own command line, with this model registered."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    # Run as a script, the module is called __main__; registering it once under its own name is enough.
    main()
