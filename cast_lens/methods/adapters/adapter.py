"""Training an adapter, and the trained one: it answers prompts and is evaluated like any other method."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ...engine import Progress, Scores, TokenPrompt, quiet, tokenise
from ...engine.greedy import Stop, check_length, stop_rule, texts_of, write_greedily
from ...engine.layout import END
from ...engine.scores import greedy_tokens
from ...engine.scores import written as written_answers
from ...evaluation import answer_limit, outcome_frame
from ...files import load_tensors, save_tensors
from ...models.lens import HookedTransformer
from ...models.load import load_huggingface
from ...tasks import Prompt, Task
from ...vectors import Provenance, model_label
from ..training import (
    History,
    Training,
    TrainingData,
    TrainingItem,
    Watch,
    batches,
    check_model,
    gather,
    provenance_of,
    run_epochs,
    silent,
    trained_on,
    training_of,
)
from .peft_model import AdapterDesign, Wrapped, padded, peft_library, selected, wrap

# Number of tokens per pass: enough to keep a processor busy.
TOKENS = 2048
# Number of tokens whose keys and values the answers of a pass may copy: 46 kB each in the embedded model.
COPIED = 4096


@dataclass(frozen=True, slots=True, eq=False)
class AdapterOutput:
    """The outputs of an adapted model for each prompt.

    Attributes:
        logprobs: log-probability of each admissible answer; empty if answers were not scored.
        matched: whether greedy decoding writes each answer up to its distinguishing token; see ``Scores.written``.
        first: greedy first tokens.
        written: greedy continuations; each ends with the token that stopped it.
    """

    logprobs: tuple[Float[Tensor, " choice"], ...]
    matched: tuple[Float[Tensor, " choice"], ...]
    first: Int[Tensor, " sample"]
    written: tuple[tuple[int, ...], ...]

    def scores(self, prompts: Sequence[TokenPrompt]) -> Scores:
        """The outputs as ``Scores`` with one variant."""
        logprobs, matched = (tuple(row[None] for row in rows) for rows in (self.logprobs, self.matched))
        return Scores(logprobs, self.first[None], None, (), tuple(prompts), matched)


@torch.no_grad()
def score_and_decode(
    wrapped: Wrapped,
    prompts: Sequence[TokenPrompt],
    *,
    max_new_tokens: int,
    stop: Stop,
    progress: Progress,
    scored: bool = True,
) -> AdapterOutput:
    """Score and decode.

    Args:
        wrapped: model and adapter.
        prompts: each with its admissible answers.
        max_new_tokens, stop: options of decoding.
        progress: wraps the passes.
        scored: whether answers are scored, too.
    """
    logprobs: list[Tensor] = [torch.empty(0, dtype=torch.float32)] * len(prompts)
    matched = list(logprobs)
    first = torch.full((len(prompts),), -1)
    written: list[tuple[int, ...]] = [()] * len(prompts)
    passes = same_lengths(prompts)
    for members in progress(passes, "adapter", len(passes)):
        own = [prompts[index] for index in members]
        logits, cache = _prompts(wrapped, [prompt.tokens for prompt in own])
        tokens = greedy_tokens(logits)
        first[members] = tokens.cpu()
        if scored:
            found = _answers(wrapped, own, logits, cache)
            for index, row in zip(members, found, strict=True):
                logprobs[index], matched[index] = row
        for index, text in zip(members, _write(wrapped, cache, tokens, max_new_tokens, stop), strict=True):
            written[index] = text
    return AdapterOutput(tuple(logprobs), tuple(matched), first, tuple(written))


def same_lengths(prompts: Sequence[TokenPrompt]) -> list[list[int]]:
    """Indices of prompts that run together: of the same length, sorted so that equal beginnings are adjacent."""
    found: list[list[int]] = []
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index].tokens), prompts[index].tokens))
    for index in order:
        length = len(prompts[index].tokens)
        if not found or len(prompts[found[-1][0]].tokens) != length or (len(found[-1]) + 1) * length > TOKENS:
            found.append([])
        found[-1].append(index)
    return found


def _prompts(wrapped: Wrapped, rows: list[tuple[int, ...]]) -> tuple[Float[Tensor, "row vocab"], Any]:
    """Logits after prompts of one length, and their keys and values."""
    backbone, device = wrapped.backbone, wrapped.backbone.model.device
    shared, cache = wrapped.opened(rows)
    residual, cache = backbone.go_on(torch.tensor([row[shared:] for row in rows], device=device), cache)
    return backbone.logits(residual[:, -1]).float(), cache


def _answers(
    wrapped: Wrapped, prompts: list[TokenPrompt], behind: Float[Tensor, "row vocab"], cache: Any
) -> list[tuple[Float[Tensor, " choice"], Float[Tensor, " choice"]]]:
    """Summed log-probability of each prompt's answers, and whether they are written greedily.

    The logits of first tokens are known; later tokens, and the ends of answers if they are scored, run after copied
    keys.
    """
    log_probs, greedy = torch.log_softmax(behind, dim=-1), greedy_tokens(behind).tolist()
    sums = [log_probs[row, [a[0] for a in p.answers]].cpu() for row, p in enumerate(prompts)]
    hits = [[[_hit(greedy[row], (a[0],))] for a in p.answers] for row, p in enumerate(prompts)]
    longer = [
        (row, number, answer)
        for row, prompt in enumerate(prompts)
        for number, answer in enumerate(prompt.scored)
        if len(answer) > 1
    ]
    device = behind.device
    size = max(1, COPIED // (len(prompts[0].tokens) + wrapped.virtual))
    for start in range(0, len(longer), size):
        part = longer[start : start + size]
        ids = padded([answer[:-1] for *_, answer in part], device)
        residual, _ = wrapped.backbone.go_on(ids, selected(cache, [row for row, *_ in part], device))
        for (row, number, answer), states in zip(part, residual, strict=True):
            logits = wrapped.backbone.logits(states[: len(answer) - 1]).float()
            wanted = [prompts[row].end if token == END else (token,) for token in answer[1:]]
            steps = torch.log_softmax(logits, dim=-1)
            sums[row][number] += sum(
                step[list(tokens)].logsumexp(dim=-1).cpu() for step, tokens in zip(steps, wanted, strict=True)
            )
            hits[row][number] += map(_hit, greedy_tokens(logits).tolist(), wanted)
    return [(own, written_answers(p, hit)) for p, own, hit in zip(prompts, sums, hits, strict=True)]


def _hit(token: int, wanted: tuple[int, ...]) -> bool | None:
    return None if token < 0 else token in wanted


def _write(
    wrapped: Wrapped, cache: Any, tokens: Int[Tensor, " row"], max_new_tokens: int, stop: Stop
) -> list[tuple[int, ...]]:
    """Greedy continuations after the first tokens; the cache is overwritten."""
    rows = len(tokens)

    def step(kept: list[int], tokens: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        nonlocal cache, rows
        if len(kept) < rows:
            cache, rows = selected(cache, kept, tokens.device), len(kept)
        residual, cache = wrapped.backbone.go_on(tokens[:, None], cache)
        return greedy_tokens(wrapped.backbone.logits(residual[:, -1]))

    return write_greedily(tokens, step, max_new_tokens=max_new_tokens, stop=stop)


KIND = "Adapter"


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """LoRA or a prefix on the Hugging Face model behind a ``HookedTransformer``.

    Attributes:
        model: the ``HookedTransformer``, which is used for tokenising and stays unadapted.
        wrapped: the Hugging Face model with the adapter.
        design: kind of adapter and its number of parameters.
        training: how it was trained.
        steps: number of training steps, including those after the kept epoch.
        seconds: duration of the training with its validations, without loading.
        validation: validation loss of the kept epoch, the lowest, in nats per token.
        provenance: the model, the tasks and templates, the seed.
    """

    model: HookedTransformer
    wrapped: Wrapped
    design: AdapterDesign
    training: Training
    steps: int
    seconds: float
    validation: float
    provenance: Provenance

    def __repr__(self) -> str:
        return (
            f"Adapter({self.design.kind}, {self.setting}, {self.n_parameters} parameters, "
            f"{self.provenance.task!r}, {model_label(self.provenance)})"
        )

    @property
    def n_parameters(self) -> int:
        """Numbers that were learned."""
        return self.wrapped.n_parameters

    @property
    def setting(self) -> str:
        """The size of the adapter: ``rank 5`` or ``26 virtual tokens``."""
        return self.wrapped.setting

    def answer(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None, progress: Progress = quiet
    ) -> list[str | None]:
        """Greedy answers of the adapted model, by the rule of ``cast_lens.engine.answer``.

        Args:
            prompts: any number.
            max_new_tokens: see ``evaluate``.
            progress: wraps the passes.

        Raises:
            ValueError: see ``tokenise``.
        """
        return self._texts(self._read(prompts, max_new_tokens, progress, scored=False)[1])

    def evaluate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None, progress: Progress = quiet
    ) -> pd.DataFrame:
        """Greedy answers and answer probabilities, as ``cast_lens.evaluation.evaluate`` gives them.

        Args:
            prompts: queries with gold answers.
            max_new_tokens: longest answer; by default three tokens more than the longest admissible or gold answer.
            progress: wraps the passes.

        Returns:
            the columns of ``evaluate``, one row per prompt; ``variant`` is 0 and ``name`` the kind of adapter.

        Raises:
            ValueError: see ``tokenise``.
        """
        tokens, found = self._read(prompts, max_new_tokens, progress, scored=True)
        frame = outcome_frame(prompts, found.scores(tokens), [self._texts(found)])
        return frame.assign(name=self.design.kind)

    def _read(
        self, prompts: Sequence[Prompt], max_new_tokens: int | None, progress: Progress, *, scored: bool
    ) -> tuple[list[TokenPrompt], AdapterOutput]:
        tokens = tokenise(self.model, prompts)
        limit = answer_limit(tokens) if max_new_tokens is None else max_new_tokens
        check_length(limit)
        # Virtual tokens also use up context.
        tokenise(self.model, tokens, room=limit + self.wrapped.virtual)
        stop = stop_rule(self.model, stop_at_newline=True)
        found = score_and_decode(
            self.wrapped, tokens, max_new_tokens=limit, stop=stop, progress=progress, scored=scored
        )
        return tokens, found

    def _texts(self, found: AdapterOutput) -> list[str | None]:
        return texts_of(stop_rule(self.model, stop_at_newline=True), [list(found.written)])[0]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what was learned to one safetensors file, design, training and provenance inside."""
        about = {
            "design": asdict(self.design),
            "training": asdict(self.training),
            "run": {"steps": self.steps, "seconds": self.seconds, "validation": self.validation},
            "provenance": asdict(self.provenance),
        }
        return save_tensors(Path(path), self.wrapped.state(), kind=KIND, about=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: HookedTransformer, source: str | os.PathLike[str]) -> Adapter:
        """Read what ``save`` wrote.

        Args:
            path: path of the file.
            model: the model that the adapter was trained for.
            source: where that model comes from; see ``train_adapter``.

        Raises:
            ValueError: another model, or no saved adapter.
            ImportError: without ``peft``.
        """
        tensors, about = load_tensors(Path(path), kind=KIND)
        provenance = provenance_of(about)
        check_model(model, provenance, what="adapter")
        design = AdapterDesign(**about["design"])
        room = int(model.cfg.n_ctx)
        wrapped = wrap(load_huggingface(source, like=model), design, seed=0, opening=(0,), room=room)
        wrapped.restore(tensors)
        return cls(model, wrapped, design, training_of(about), **about["run"], provenance=provenance)


# Number of tokens that run with gradients at once: 1.5 MB each in the embedded model. A step sums the gradients of its
# parts.
PART_TOKENS = 1024
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
    """Train LoRA or a prefix on the Hugging Face model behind a ``HookedTransformer``, to compare with ``atv.train``.

    Prompts, answers, order of the batches, loss, Adam, weight decay, early stopping and the kept epoch are those of
    ``atv.train`` with the same ``training``; the learning rate is the design's. There is no dropout. ``memory_mb``,
    ``recompute`` and ``checkpoint_steps`` do not apply, because a step runs in ``microbatches`` and nothing is written
    to disk.

    Args:
        model: used for tokenising; it is not changed.
        source: the argument of ``load_model``: the embedded model's name, a folder, a hub name or a .gguf file.
        tasks: train splits are used for training and validation splits for early stopping.
        design: kind of adapter, and the number of parameters to approximate.
        training: options of the training.
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
    """A training run; the learned parameters are in ``wrapped``."""

    wrapped: Wrapped
    material: TrainingData
    design: AdapterDesign
    training: Training
    history: History = field(default_factory=History)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def train(self, watch: Watch) -> None:
        """Train until the last epoch or early stopping, and end with the weights of the best epoch."""
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
    """How many tokens of prompt and answer are read: all except the answer's last, which is only predicted."""
    return len(item.prompt.tokens) + len(item.prompt.answers[item.prompt.gold]) - 1


def microbatches(items: Sequence[TrainingItem]) -> list[list[TrainingItem]]:
    """A batch in parts of similar length, at most ``PART_TOKENS`` tokens each when padded to their longest.

    Of all ways to cut the batch, sorted by length, the one with the lowest cost: padded tokens, and ``PASS`` per part.
    """
    ordered = sorted(items, key=tokens_read)
    costs, begins = [0.0], [0]
    for end in range(1, len(ordered) + 1):
        longest = tokens_read(ordered[end - 1])
        room = max(1, PART_TOKENS // longest)
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
