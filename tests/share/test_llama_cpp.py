"""llama.cpp with an exported control vector writes what position ``all`` writes here, token for token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import cast_lens as cl
from cast_lens.engine import TokenPrompt
from cast_lens.engine.decoding import decode
from cast_lens.models import load_model
from cast_lens.share import export
from cast_lens.vectors import Provenance
from tests.models.files import write_gguf
from tests.share.llama_cpp import LlamaCpp

pytest.importorskip("llama_cpp_py_sync", reason="llama.cpp's bindings (llama-cpp-py-sync) are not installed")

PROMPTS = ["Review: a warm and funny film. Sentiment:", "The capital of France is", "two three four"]
TOKENS = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, LlamaCpp]]:
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    write_gguf(path)
    try:
        theirs = LlamaCpp(path)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"llama.cpp's library cannot be loaded here: {error}")
    yield load_model(path), theirs
    theirs.close()


def _vector(layers: tuple[int, ...]) -> cl.SteeringVector:
    noise = torch.randn(len(layers), 64, generator=torch.Generator().manual_seed(4))
    return cl.SteeringVector(noise, layers, Provenance("", "", "noise"))


def _logits(model: Any, tokens: tuple[int, ...], steering: Any = ()) -> torch.Tensor:
    with torch.no_grad(), cl.steer(model, steering):
        return model(torch.tensor([tokens]))[0, -1].cpu()


@pytest.mark.filterwarnings("ignore:.*fingerprint")
@pytest.mark.parametrize("layers", [(1,), (2,), (3,), (1, 3)])
def test_it_steers_where_steering_here_does(layers: tuple[int, ...], models: Any, tmp_path: Path) -> None:
    model, theirs = models
    vector = _vector(layers)
    how = {"layer": layers[0]} if len(layers) == 1 else {"layers": layers}
    steering = vector.intervention(**how, strength=1.5, position="all")
    file = export(steering, tmp_path / "v.gguf")
    changed = 0
    for text in PROMPTS:
        tokens = tuple(model.to_tokens(text, prepend_bos=False)[0].tolist())
        plain, steered = decode(
            model, [TokenPrompt(tokens)], [steering], max_new_tokens=TOKENS, stop=lambda written: False
        )
        assert theirs.greedy(tokens, TOKENS)[0] == list(plain[0])
        written, logits = theirs.greedy(tokens, TOKENS, file)
        assert written == list(steered[0])
        ours, base = _logits(model, tokens, steering), _logits(model, tokens)
        # llama.cpp's kernels round more than PyTorch's: up to 0.013 here, where steering moves logits much further.
        torch.testing.assert_close(logits, ours, atol=0.03, rtol=0)
        assert (ours - base).abs().max() > 10 * 0.03
        changed += steered[0] != plain[0]
    assert changed
