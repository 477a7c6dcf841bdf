"""The same vectors and the same sweep through steering-vectors, repeng and nnsight, as their documentation says.

Run by ``make bench-peers`` in a virtual environment of its own. Vectors: mean difference at the last token between two
lists of texts, at every layer, eight texts per batch. Sweep: 16 prompts of 30 tokens in one batch, 240 cells (30
layers × 8 strengths); peers run some of the cells and the rest is extrapolated. repeng steers every position, so it
is compared with position ``all``; it trains principal components, no mean difference, so it has no row for vectors.

Every package runs in a process of its own, on a model that it loads itself, after one call that is not counted. The
ratio is one of processor seconds, which other work on the machine changes less than it changes the clock's.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from common import begin, machine, parser, peak_memory, seconds, show, text_prompts
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from cast_lens.engine import capture, score
from cast_lens.interventions import Intervention
from cast_lens.models import load_model
from cast_lens.models.embedded import cache_folder
from cast_lens.tasks import few_shot_prompts, load_task, sample_examples, zero_shot_prompts

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
BATCH = 8
MEMORY_MB = 1024.0
Cell = tuple[int, float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What every package is given, and what cast_lens made of it."""

    pairs: list[tuple[str, str]]
    directions: Float[Tensor, "layer d_model"]
    tokens: Int[Tensor, "prompt position"]
    cells: list[Cell]
    logits: dict[str, Float[Tensor, "cell prompt vocab"]]
    cpu_s: dict[str, float]
    all_cells: int
    threads: int


def folder() -> str:
    return str(cache_folder() / "smollm2-135m-instruct")


def hugging_face() -> tuple[Any, Any]:
    """Model and tokenizer as everybody loads them."""
    model = AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder())


class SteeringVectorsPeer:
    """``train_steering_vector`` and ``SteeringVector.apply``."""

    name, position = "steering-vectors", "last"

    def __init__(self, directions: Float[Tensor, "layer d_model"]) -> None:
        from steering_vectors import SteeringVector

        self.model, self.tokenizer = hugging_face()
        self.steering = [SteeringVector({layer: row}, "decoder_block") for layer, row in enumerate(directions)]

    def vectors(self, pairs: list[tuple[str, str]]) -> Float[Tensor, "layer d_model"]:
        from steering_vectors import train_steering_vector

        found = train_steering_vector(self.model, self.tokenizer, pairs, read_token_index=-1, batch_size=BATCH)
        return torch.stack([found.layer_activations[layer] for layer in sorted(found.layer_activations)])

    def logits(self, tokens: Tensor, cell: Cell) -> Float[Tensor, "prompt vocab"]:
        layer, strength = cell
        steering = self.steering[layer]
        with steering.apply(self.model, multiplier=strength, min_token_index=tokens.shape[1] - 1):
            return self.model(tokens).logits[:, -1]


class NnsightPeer:
    """One trace per batch of texts, one trace per cell."""

    name, position = "nnsight", "last"

    def __init__(self, directions: Float[Tensor, "layer d_model"]) -> None:
        from nnsight import TransformersModel

        model, tokenizer = hugging_face()
        self.model, self.directions = TransformersModel(model, tokenizer=tokenizer), directions

    def last_states(self, texts: list[str]) -> Float[Tensor, "sample layer d_model"]:
        import nnsight

        with self.model.trace(texts):
            found = nnsight.save([])
            for layer in self.model.model.layers:
                found.append(layer.output[:, -1])
        return torch.stack(list(found), dim=1)

    def vectors(self, pairs: list[tuple[str, str]]) -> Float[Tensor, "layer d_model"]:
        found = []
        for start in range(0, len(pairs), BATCH):
            positive, negative = zip(*pairs[start : start + BATCH], strict=True)
            found.append(self.last_states(list(positive)) - self.last_states(list(negative)))
        return torch.cat(found).mean(dim=0)

    def logits(self, tokens: Tensor, cell: Cell) -> Float[Tensor, "prompt vocab"]:
        layer, strength = cell
        edit = strength * self.directions[layer]
        with self.model.trace(tokens):
            self.model.model.layers[layer].output[:, -1, :] += edit
            found = self.model.lm_head.output[:, -1].save()
        return found


class RepengPeer:
    """A ``ControlModel`` a layer, ``set_control`` a strength; all positions."""

    name, position = "repeng", "all"

    def __init__(self, directions: Float[Tensor, "layer d_model"]) -> None:
        # repeng 0.4 names np.float_ in its annotations, which numpy 2 dropped; it asks for numpy<2.
        if not hasattr(np, "float_"):
            setattr(np, "float_", np.float64)  # noqa: B010
        from repeng import ControlVector

        self.model = hugging_face()[0]
        self.control = ControlVector("llama", {layer: row.numpy() for layer, row in enumerate(directions)})

    def logits(self, tokens: Tensor, cell: Cell) -> Float[Tensor, "prompt vocab"]:
        from repeng import ControlModel

        layer, strength = cell
        wrapped = ControlModel(self.model, [layer])
        try:
            wrapped.set_control(self.control, strength)
            # It reads position_ids as [prompt, position]; transformers hands its layers [1, position] unless told.
            positions = torch.arange(tokens.shape[1]).expand_as(tokens)
            return wrapped(tokens, position_ids=positions).logits[:, -1]
        finally:
            wrapped.reset()
            wrapped.unwrap()


PEERS: tuple[Callable[..., Any], ...] = (SteeringVectorsPeer, NnsightPeer, RepengPeer)


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds, processor seconds, peak MB above the start."""

    s: float
    cpu_s: float
    peak_mb: float


def measured(job: Callable[[], Any]) -> tuple[Any, Cost]:
    """What a job gives and costs."""
    kept: list[Any] = []
    started = time.process_time()
    with peak_memory() as peak:
        taken = seconds(lambda: kept.append(job()))
    return kept[0], Cost(taken, time.process_time() - started, peak.above)


def ours(*, pairs: int, sampled: int, threads: int) -> tuple[list[Row], Work]:
    """Rows of cast_lens, and the work for the others."""
    model, task = load_model(), load_task("review-sentiment")
    queries = sample_examples(task, pairs)
    positive = [prompt.text for prompt in few_shot_prompts(task, queries, shots=2, seed=0)]
    negative = [prompt.text for prompt in zero_shot_prompts(task, queries)]

    def vectors(n: int) -> Float[Tensor, "layer d_model"]:
        return (capture(model, positive[:n]) - capture(model, negative[:n])).mean(dim=0)

    vectors(1)
    name = f"cast_lens {version('cast-lens')}"
    directions, cost = measured(partial(vectors, len(positive)))
    rows = [row(name, "vectors", cost, cost.cpu_s)]
    prompts = text_prompts(model.tokenizer, 16, 30)
    cells = [(layer, strength) for layer in range(model.cfg.n_layers) for strength in STRENGTHS]
    chosen = cells[:: max(1, len(cells) // sampled)]
    taken, logits = {"vectors": cost.cpu_s}, {}
    for position in ("last", "all"):
        grid, some = (
            [Intervention(directions[layer], layer, strength, position=position) for layer, strength in which]
            for which in (cells, chosen)
        )
        kept = score(model, prompts, some, keep_logits=True).logits
        assert kept is not None
        logits[position] = kept[1:]
        _, cost = measured(partial(score, model, prompts, grid, memory_mb=MEMORY_MB))
        taken[position] = cost.cpu_s
        rows.append(row(name, f"sweep, {position}", cost, cost.cpu_s))
    tokens = torch.tensor([prompt.tokens for prompt in prompts])
    couples = list(zip(positive, negative, strict=True))
    return rows, Work(couples, directions, tokens, chosen, logits, taken, len(cells), threads)


def row(package: str, job: str, cost: Cost, our_cpu_s: float, *, share: float = 1.0) -> Row:
    """One line of the table, extrapolated from the share of the job that was run."""
    return {
        "package": package,
        "job": job,
        "s": cost.s / share,
        "CPU s": cost.cpu_s / share,
        "times cast_lens's CPU s": cost.cpu_s / share / our_cpu_s,
        "peak MB above": round(cost.peak_mb),
    }


@torch.no_grad()
def peer_rows(kind: Callable[..., Any], work: Work) -> list[Row]:
    """Rows of one package; a missing or failing package is a row that says so."""
    torch.set_num_threads(work.threads)
    name = getattr(kind, "name", "?")
    rows: list[Row] = []
    try:
        peer = kind(work.directions)
        name = f"{name} {version(name)}"
        if hasattr(peer, "vectors"):
            peer.vectors(work.pairs[:1])
            found, cost = measured(lambda: peer.vectors(work.pairs))
            rows.append(row(name, "vectors", cost, work.cpu_s["vectors"]))
            rows[-1]["largest difference"] = float((found - work.directions).abs().max())
            rows[-1]["largest value"] = float(work.directions.abs().max())
        reference = work.logits[peer.position]
        peer.logits(work.tokens, work.cells[0])
        outs, cost = measured(lambda: [peer.logits(work.tokens, cell) for cell in work.cells])
        share = len(work.cells) / work.all_cells
        rows.append(row(name, f"sweep, {peer.position}", cost, work.cpu_s[peer.position], share=share))
        rows[-1]["largest difference"] = float((torch.stack(outs) - reference).abs().max())
        rows[-1]["largest value"] = float(reference.abs().max())
        rows[-1]["note"] = f"{len(work.cells)} of {work.all_cells} cells run"
    except ImportError as error:
        rows.append({"package": name, "note": f"not installed: {error}; use make bench-peers"})
    except Exception as error:
        rows.append({"package": name, "note": f"failed: {type(error).__name__}: {str(error)[:150]}"})
    return rows


def main() -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--sampled", type=int, default=6, help="cells that each peer runs")
    options.add_argument("--pairs", type=int, default=16)
    given = options.parse_args()
    begin(given)
    rows, work = ours(pairs=given.pairs, sampled=given.sampled, threads=torch.get_num_threads())
    spawn = multiprocessing.get_context("spawn")
    for kind in PEERS:
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            rows += process.submit(peer_rows, kind, work).result()
    if given.json:
        print(json.dumps({"benchmark": "peers", "machine": machine(), "rows": rows}, indent=1))
    else:
        show(rows, as_json=False, title="The same vectors and sweep through other packages")


if __name__ == "__main__":
    main()
