"""Training of an adapter on what an adaptive task vector is trained on: same items, batches, loss and early stop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ...engine import TokenPrompt
from ...models.lens import HookedTransformer
from ...models.load import load_huggingface
from ...tasks import Task
from ..training import (
    History,
    Training,
    TrainingData,
    TrainingItem,
    Watch,
    batches,
    gather,
    run_epochs,
    silent,
    trained_on,
)
from .adapter import Adapter
from .peft_model import AdapterDesign, Wrapped, padded, peft_library, wrap

# Tokens that run with gradients at a time: 1.5 MB each in the embedded model. A step adds up its parts' gradients.
TOKENS = 1024
# What a forward and backward pass costs on top of its tokens, in tokens: 0.4 s against 8 ms each in the embedded model
# on one core, for reading all the weights.
PASS = 50


def train_adapter(
    model: HookedTransformer,
    source: str | os.PathLike[str],
    tasks: Sequence[Task],
    *,
    design: AdapterDesign,
    training: Training,
    watch: Watch = silent,
) -> Adapter:
    """Train LoRA or a prefix on the Hugging Face model behind a ``HookedTransformer``, as a rival of ``atv.train``.

    Prompts, answers, order of the batches, loss, Adam, weight decay, early stop and the epoch that is kept are those of
    ``atv.train`` with the same ``training``; the learning rate is the design's. No dropout. ``memory_mb``,
    ``recompute`` and ``checkpoint_steps`` do not apply: a step runs in ``microbatches``, and nothing is
    written to disk.

    Args:
        model: it tokenises, and stays as it is.
        source: what ``load_model`` was given for it: the embedded model's name, a folder, a hub name or a .gguf file.
        tasks: their train splits are trained on, their validation splits decide when to stop.
        design: kind of adapter, and the number of parameters to come near to.
        training: how it is fitted.
        watch: called after every step.

    Raises:
        ValueError: before training, see ``gather``, ``load_huggingface`` and ``wrap``; during training, when a loss is
            not finite.
        ImportError: without ``peft``.
    """
    peft_library()
    material = gather(model, tasks, training)
    items = material.items
    room = int(model.cfg.n_ctx) - max(map(tokens_read, items))
    wrapped = wrap(
        load_huggingface(source, like=model),
        design,
        seed=training.seed,
        opening=_opening(material, training),
        room=room,
    )
    run = _Run(wrapped, material, design, training)
    begun = time.perf_counter()
    run.train(watch)
    seconds = time.perf_counter() - begun
    history = run.history
    about = trained_on(model, tasks, training, history, what=f"{design.kind}, {wrapped.setting}")
    return Adapter(model, wrapped, design, training, history.steps, seconds, history.lowest, about)


def _opening(material: TrainingData, training: Training) -> list[int]:
    """Training prompts and their answers, one after the other, in the first epoch's order."""
    order = next(batches(len(material.train), size=len(material.train), seed=training.seed, epoch=0))
    prompts = [material.train[place].prompt for place in order]
    return [token for prompt in prompts for token in (*prompt.tokens, *prompt.answers[prompt.gold])]


def answer_losses(wrapped: Wrapped, prompts: Sequence[TokenPrompt]) -> Float[Tensor, " sample"]:
    """Mean cross-entropy, in nats per token, of each prompt's gold answer, as ``engine.answer_losses`` defines it."""
    backbone = wrapped.backbone
    shared, cache = wrapped.opened([prompt.tokens for prompt in prompts])
    texts = [prompt.tokens + prompt.answers[prompt.gold][:-1] for prompt in prompts]
    ids = padded([text[shared:] for text in texts], backbone.model.device)
    residual = backbone.run(ids, cache)
    steps = [
        (row, len(prompt.tokens) - 1 - shared + place, token)
        for row, prompt in enumerate(prompts)
        for place, token in enumerate(prompt.answers[prompt.gold])
    ]
    rows, columns, targets = torch.tensor(steps, device=ids.device).unbind(dim=1)
    logits = backbone.logits(residual[rows, columns])
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    sums = losses.new_zeros(len(prompts)).index_add(0, rows, losses)
    return sums / rows.bincount(minlength=len(prompts))


@dataclass(slots=True, eq=False)
class _Run:
    """A training run; what is learned lives in ``wrapped``."""

    wrapped: Wrapped
    material: TrainingData
    design: AdapterDesign
    training: Training
    history: History = field(default_factory=History)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def train(self, watch: Watch) -> None:
        """Until the last epoch or the early stop; ends with the weights of the best epoch."""
        optimiser = torch.optim.Adam(
            self.wrapped.trained.values(), lr=self.design.rate, weight_decay=self.training.weight_decay
        )
        run_epochs(
            self.history,
            self.training,
            len(self.material.train),
            step=lambda places: self._step(optimiser, [self.material.train[place] for place in places]),
            validate=self._validation_loss,
            keep=lambda: self.kept.update(self.wrapped.state()),
            watch=watch,
        )
        self.wrapped.restore(self.kept)

    def _step(self, optimiser: torch.optim.Adam, items: Sequence[TrainingItem]) -> float:
        optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for part in microbatches(items):
            losses = self._losses(part)
            if not bool(torch.isfinite(losses).all()):
                named = ", ".join(f"{item.task} {item.sample} ({item.template})" for item in part)
                raise ValueError(
                    f"the loss of step {self.history.steps} is not finite, for one of {named}; lower "
                    "learning_rate, or leave mixed_precision off"
                )
            (losses.sum() / len(items)).backward()
            total += float(losses.detach().double().sum())
        optimiser.step()
        return total / len(items)

    def _losses(self, items: Sequence[TrainingItem]) -> Float[Tensor, " sample"]:
        with self.training.precision(self.wrapped.backbone.model.device):
            return answer_losses(self.wrapped, [item.prompt for item in items])

    @torch.no_grad()
    def _validation_loss(self) -> float:
        items = self.material.validation
        parts = microbatches_by_task(items)
        return sum(float(self._losses(part).double().sum()) for part in parts) / len(items)


def tokens_read(item: TrainingItem) -> int:
    """Tokens of prompt and answer that are read: all but the answer's last one, which is only predicted."""
    return len(item.prompt.tokens) + len(item.prompt.answers[item.prompt.gold]) - 1


def microbatches(items: Sequence[TrainingItem]) -> list[list[TrainingItem]]:
    """A batch in parts of similar length, at most ``TOKENS`` tokens each when padded to their longest.

    Of all ways to cut the batch, sorted by length, the one with the lowest cost: padded tokens, and ``PASS`` per part.
    """
    ordered = sorted(items, key=tokens_read)
    costs, begins = [0.0], [0]
    for end in range(1, len(ordered) + 1):
        longest = tokens_read(ordered[end - 1])
        room = max(1, TOKENS // longest)
        found = [(costs[b] + longest * (end - b) + PASS, b) for b in range(max(0, end - room), end)]
        cost, begin = min(found)
        costs.append(cost)
        begins.append(begin)
    cut: list[list[TrainingItem]] = []
    end = len(ordered)
    while end:
        cut.append(ordered[begins[end] : end])
        end = begins[end]
    return cut[::-1]


def microbatches_by_task(items: Sequence[TrainingItem]) -> Iterator[list[TrainingItem]]:
    """Parts that hold one task each, whose prompts begin alike."""
    for _, members in groupby(items, key=lambda item: (item.task, item.template)):
        yield from microbatches(list(members))
