"""The one-pass sweep on transformers' own modules: against ``HookedTransformer``, and with a large vocabulary.

    python -m benchmarks.huggingface [--rounds 3] [--lengths 30 150]

Pairs of processor times within one process, the two in turns, so that other work on the machine weighs on both: the
embedded model by both implementations (30 layers × 8 strengths × 16 prompts), whose scores are compared; then a
random model of 18 layers, 640 wide, with 262,144 tokens and with 32,768; then the memory that adopting a model takes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from cast_lens.engine import TokenPrompt, score
from cast_lens.interventions import Intervention
from cast_lens.models import load_model
from cast_lens.models.lens import HookedTransformer

from .common import peak_memory

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
VOCABULARIES = (32_768, 262_144)


def cells(model: HookedTransformer) -> list[Intervention]:
    """A random direction at every layer, in eight strengths."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(model.cfg.n_layers, model.cfg.d_model, generator=generator)
    return [Intervention(directions[layer], layer, s) for layer in range(model.cfg.n_layers) for s in STRENGTHS]


def random_prompts(count: int, length: int, vocabulary: int) -> list[TokenPrompt]:
    """Prompts that share nothing, with two answers of one token."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, vocabulary, (count, length), generator=generator).tolist()
    return [TokenPrompt(tuple(row), ((11,), (12,)), 0) for row in tokens]


def in_turns(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median processor seconds of both, and the median of the ratios of neighbours, one over the other."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        pair = []
        for job in (one, other):
            start = time.process_time()
            job()
            pair.append(time.process_time() - start)
        times.append((pair[0], pair[1]))
    return median(a for a, _ in times), median(b for _, b in times), median(a / b for a, b in times)


def implementations(lengths: list[int], count: int, rounds: int) -> None:
    """Transformers' modules over ``HookedTransformer``'s weights."""
    own, hooked = load_model(implementation="transformers"), load_model()
    items = cells(hooked)
    for length in lengths:
        prompts = random_prompts(count, length, 49_000)
        got, expected = score(own, prompts, items[::40]), score(hooked, prompts, items[::40])
        error = max(
            float((a - b).abs().max()) for a, b in zip(got.answer_logprobs, expected.answer_logprobs, strict=True)
        )
        a, b, ratio = in_turns(
            lambda p=prompts: score(own, p, items), lambda p=prompts: score(hooked, p, items), rounds
        )  # type: ignore[misc]
        print(
            f"{length} tokens, {len(items)} cells x {count} prompts: transformers {a:.2f} s, HookedTransformer "
            f"{b:.2f} s, ratio {ratio:.2f}; largest difference of log-probabilities {error:.1e}",
            flush=True,
        )


def wide(vocabulary: int) -> PreTrainedModel:
    """A random model of the shape of Gemma 3 270M."""
    config = transformers.Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        tie_word_embeddings=True,
    )
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return made


def adopting() -> None:
    """Resident memory while a loaded model is adopted and probed."""
    hf_model = wide(VOCABULARIES[1])
    size = sum(parameter.numel() * parameter.element_size() for parameter in hf_model.parameters()) / 2**20
    with peak_memory() as peak:
        model = load_model(hf_model, implementation="transformers")
        score(model, random_prompts(1, 60, VOCABULARIES[0]))
    print(f"adopting a model of {size:.0f} MB and one pass: {peak.above:.0f} MB above it", flush=True)


def vocabularies(count: int, rounds: int) -> None:
    """A large vocabulary over a usual one."""
    models = [load_model(wide(size), implementation="transformers") for size in VOCABULARIES]
    items, prompts = cells(models[0]), random_prompts(count, 60, VOCABULARIES[0])
    large, usual, ratio = in_turns(
        lambda: score(models[1], prompts, items), lambda: score(models[0], prompts, items), rounds
    )
    print(
        f"{len(items)} cells x {count} prompts of 60 tokens: {VOCABULARIES[1]} tokens {large:.2f} s, {VOCABULARIES[0]} "
        f"tokens {usual:.2f} s, ratio {ratio:.2f}",
        flush=True,
    )


def main() -> None:
    """All of them, or some."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--lengths", type=int, nargs="*", default=[30, 150])
    options.add_argument("--prompts", type=int, default=16)
    options.add_argument("--only", nargs="*", default=["implementations", "vocabularies", "adopting"])
    given = options.parse_args()
    torch.set_num_threads(1)
    if "adopting" in given.only:
        adopting()
    if "vocabularies" in given.only:
        vocabularies(given.prompts // 2, given.rounds)
    if "implementations" in given.only:
        implementations(given.lengths, given.prompts, given.rounds)


if __name__ == "__main__":
    main()
