"""The same vectors and the same sweep through steering-vectors, repeng and nnsight, as their documentation says.

Run by ``make bench-peers`` in a virtual environment of its own. Vectors: mean difference at the last token between two
lists of texts, at every layer. Sweep: 16 prompts of 30 tokens, 240 cells (30 layers × 8 strengths); peers run some of
the cells and the rest is extrapolated. repeng steers every position, so it is compared with position ``all``; it trains
principal components, no mean difference, so it has no row for vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import begin, machine, parser, peak_memory, seconds, show, text_prompts
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from cast_lens.engine import TokenPrompt, capture, score
from cast_lens.interventions import Intervention
from cast_lens.models import load_model
from cast_lens.models.cache import cache_folder
from cast_lens.tasks import few_shot_prompts, load_task, zero_shot_prompts

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
Cell = tuple[int, float]


class SteeringVectorsPeer:
    """steering-vectors: ``train_steering_vector`` and ``SteeringVector.apply``."""

    name, position = "steering-vectors", "last"

    def __init__(self, folder: str, directions: Float[Tensor, "layer d_model"]) -> None:
        from steering_vectors import SteeringVector

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.make = lambda layer: SteeringVector({layer: directions[layer]}, "decoder_block")

    def vectors(self, pairs: list[tuple[str, str]]) -> Float[Tensor, "layer d_model"]:
        from steering_vectors import train_steering_vector

        found = train_steering_vector(self.model, self.tokenizer, pairs, read_token_index=-1)
        return torch.stack([found.layer_activations[layer] for layer in sorted(found.layer_activations)])

    @torch.no_grad()
    def logits(self, tokens: Tensor, cell: Cell) -> Float[Tensor, "prompt vocab"]:
        layer, strength = cell
        with self.make(layer).apply(self.model, multiplier=strength, min_token_index=tokens.shape[1] - 1):
            return self.model(tokens).logits[:, -1]


class NnsightPeer:
    """nnsight: a trace a cell."""

    name, position = "nnsight", "last"

    def __init__(self, folder: str, directions: Float[Tensor, "layer d_model"]) -> None:
        from nnsight import LanguageModel

        hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model = LanguageModel(hf, tokenizer=AutoTokenizer.from_pretrained(folder))
        self.directions = directions

    @torch.no_grad()
    def last_states(self, text: str) -> Float[Tensor, "layer d_model"]:
        found = []
        with self.model.trace(text):
            states = [].save()  # type: ignore[attr-defined]
            for layer in self.model.model.layers:
                states.append(layer.output[0, -1] if layer.output.ndim == 3 else layer.output[-1])
        found = list(states)
        return torch.stack(found)

    def vectors(self, pairs: list[tuple[str, str]]) -> Float[Tensor, "layer d_model"]:
        return torch.stack([self.last_states(a) - self.last_states(b) for a, b in pairs]).mean(dim=0)

    @torch.no_grad()
    def logits(self, tokens: Tensor, cell: Cell) -> Float[Tensor, "prompt vocab"]:
        layer, strength = cell
        edit = strength * self.directions[layer]
        with self.model.trace(tokens):
            self.model.model.layers[layer].output[:, -1, :] += edit
            found = self.model.lm_head.output[:, -1].save()
        return found


class RepengPeer:
    """repeng: a ``ControlModel`` a layer, ``set_control`` a strength; all positions."""

    name, position = "repeng", "all"

    def __init__(self, folder: str, directions: Float[Tensor, "layer d_model"]) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.directions = directions

    @torch.no_grad()
    def logits(self, tokens: Tensor, cell: Cell) -> Float[Tensor, "prompt vocab"]:
        # repeng 0.4 reads a name that numpy 2 dropped.
        if not hasattr(np, "float_"):
            setattr(np, "float_", np.float64)  # noqa: B010
        from repeng import ControlModel, ControlVector

        layer, strength = cell
        wrapped = ControlModel(self.model, [layer])
        try:
            wrapped.set_control(ControlVector("llama", {layer: self.directions[layer].numpy()}), strength)
            return wrapped(tokens).logits[:, -1]
        finally:
            wrapped.reset()
            wrapped.unwrap()


PEERS: tuple[Callable[..., Any], ...] = (SteeringVectorsPeer, NnsightPeer, RepengPeer)


def measured(job: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds and peak MB above the start."""
    kept: list[Any] = []
    with peak_memory() as peak:
        taken = seconds(lambda: kept.append(job()))
    return kept[0], taken, peak.above


def main() -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--sampled", type=int, default=6, help="cells that each peer runs")
    options.add_argument("--pairs", type=int, default=16)
    given = options.parse_args()
    begin(given)
    model = load_model()
    folder = str(cache_folder() / "smollm2-135m-instruct")
    task = load_task("review-sentiment")
    queries = task.test[: given.pairs]
    positive = [prompt.text for prompt in few_shot_prompts(task, queries, shots=2, seed=0)]
    negative = [prompt.text for prompt in zero_shot_prompts(task, queries)]
    ours, vector_s, vector_mb = measured(
        lambda: (capture(model, positive) - capture(model, negative)).mean(dim=0)
    )
    prompts: list[TokenPrompt] = text_prompts(model.tokenizer, 16, 30)
    tokens = torch.tensor([prompt.tokens for prompt in prompts])
    cells: list[Cell] = [(layer, strength) for layer in range(model.cfg.n_layers) for strength in STRENGTHS]
    rows = [
        {"package": "cast_lens", "job": "vectors", "s": vector_s, "peak MB": round(vector_mb)},
    ]
    chosen = cells[:: max(1, len(cells) // given.sampled)]
    reference = {}
    for position in ("last", "all"):
        grid = [Intervention(ours[layer], layer, strength, position=position) for layer, strength in cells]
        _, sweep_s, sweep_mb = measured(partial(score, model, prompts, grid, memory_mb=1024))
        rows.append(
            {"package": "cast_lens", "job": f"sweep, {position}", "s": sweep_s, "peak MB": round(sweep_mb)}
        )
        some = [Intervention(ours[layer], layer, strength, position=position) for layer, strength in chosen]
        reference[position] = score(model, prompts, some, keep_logits=True).logits
    for kind in PEERS:
        rows += peer_rows(
            kind, folder, ours, list(zip(positive, negative, strict=True)), tokens, cells, chosen, reference
        )
    if given.json:
        print(json.dumps({"benchmark": "peers", "machine": machine(), "rows": rows}, indent=1))
    else:
        show(rows, as_json=False, title="The same vectors and sweep through other packages")


def peer_rows(
    kind: Callable[..., Any],
    folder: str,
    directions: Tensor,
    pairs: list[tuple[str, str]],
    tokens: Tensor,
    cells: list[Cell],
    chosen: list[Cell],
    reference: dict[str, Any],
) -> list[dict[str, Any]]:
    """Rows of one package; a missing or failing package is a row that says so."""
    name = getattr(kind, "name", "?")
    rows = []
    try:
        peer = kind(folder, directions)
        if hasattr(peer, "vectors"):
            found, taken, peak = measured(lambda: peer.vectors(pairs))
            worst = float((found.float() - directions).abs().max())
            rows.append(
                {
                    "package": name,
                    "job": "vectors",
                    "s": taken,
                    "peak MB": round(peak),
                    "largest difference": worst,
                }
            )
        outs, taken, peak = measured(lambda: [peer.logits(tokens, cell) for cell in chosen])
        worst = max(
            float((out.float() - reference[peer.position][index + 1]).abs().max())
            for index, out in enumerate(outs)
        )
        rows.append(
            {
                "package": name,
                "job": f"sweep, {peer.position}",
                "s": taken / len(chosen) * len(cells),
                "peak MB": round(peak),
                "largest difference": worst,
                "note": f"{len(chosen)} of {len(cells)} cells run",
            }
        )
    except ImportError as error:
        rows.append({"package": name, "note": f"not installed: {error}; use make bench-peers"})
    except Exception as error:
        rows.append({"package": name, "note": f"failed: {type(error).__name__}: {str(error)[:150]}"})
    return rows


if __name__ == "__main__":
    main()
