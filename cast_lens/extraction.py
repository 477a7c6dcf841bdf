"""From a task to its difference vectors: few-shot minus zero-shot residuals of the same queries.

Step 2 of arXiv 2507.13236 (section 4.3). The paper leaves open how many demonstrations a prompt holds, how they are
drawn, whether a chat template is used and how many samples are averaged: our defaults, all of them options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from .engine import Progress, automatic, capture, quiet
from .engine.batching import DEFAULT_BUDGET_MB
from .models import fingerprint, model_name
from .models.identity import check_layers
from .models.lens import HookedTransformer
from .models.tokens import chat_arguments, text_ids
from .tasks import (
    Example,
    Prompt,
    Split,
    Task,
    demonstrations,
    few_shot_prompts,
    input_key,
    prompts_showing,
    sample_examples,
    zero_shot_prompts,
)
from .tasks.prompts import Demonstrations, with_random_text
from .vectors import DifferenceVectors, Provenance


@dataclass(frozen=True, slots=True)
class Extraction:
    """How difference vectors are taken.

    Attributes:
        samples: queries, drawn from ``split``, balanced over the classes where there are classes.
        shots: demonstrations in the few-shot prompt.
        split: where the queries come from; the demonstrations come from the same split.
        demonstrations: ``fixed`` (one set for all queries) or ``per-query``.
        instruction: whether the task's definition opens both prompts.
        chat: use the model's chat template.
        seed: seed of samples and demonstrations.
        shuffle_labels: placebo: demonstrations with answers that carry no information.
        random_text: placebo: random words, of equal length in tokens, in place of the demonstrations.

    Raises:
        ValueError: when both placebos are asked for.
    """

    samples: int = 40
    shots: int = 5
    split: Split = "train"
    demonstrations: Demonstrations = "fixed"
    instruction: bool = True
    chat: bool = False
    seed: int = 0
    shuffle_labels: bool = False
    random_text: bool = False

    def __post_init__(self) -> None:
        if self.shuffle_labels and self.random_text:
            raise ValueError(
                "shuffle_labels and random_text are two placebos: random text has no labels to shuffle; "
                "choose one of them"
            )


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    return {name: version(name) for name in ("cast-lens", "torch", "transformers", "transformer-lens", "numpy")}


def difference_vectors(
    model: HookedTransformer,
    task: Task | None = None,
    extraction: Extraction | None = None,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    examples: Sequence[Example] | None = None,
    layers: Sequence[int] | None = None,
    memory_mb: float = DEFAULT_BUDGET_MB,
    progress: Progress = automatic,
) -> DifferenceVectors:
    """Few-shot minus zero-shot residual of each sample, every layer, both sides kept; or that of pairs of texts.

    Args:
        model: any ``HookedTransformer``.
        task: gives prompts and, unless ``examples`` are given, the samples.
        extraction: how; see ``Extraction``.
        pairs: in place of a task, texts of your own as (positive, negative): the difference is the residual at the
            last token of the one minus that of the other. With ``extraction.chat`` each is a user's turn.
        examples: the queries, when you choose them yourself.
        layers: block indices (all when None).
        memory_mb: working memory above the model, in MB.
        progress: wraps the batches.

    Raises:
        ValueError: more samples than the split holds; neither or both of ``task`` and ``pairs``; see ``capture`` and
            ``few_shot``.

    >>> differences = difference_vectors(model, task, Extraction(samples=3, shots=2))
    >>> differences.few_shot.shape                              # [sample, layer, d_model]
    torch.Size([3, 4, 64])
    >>> vector = differences.mean()
    """
    how = extraction or Extraction()
    if (task is None) == (pairs is None) or (pairs is not None and examples is not None):
        raise ValueError("give a task (and examples of it, if you like), or pairs of texts, not both")
    if pairs is not None:
        return _pair_differences(model, pairs, how, layers=layers, memory_mb=memory_mb, progress=progress)
    assert task is not None
    queries = tuple(examples) if examples is not None else draw_samples(task, how)
    few = shown_prompts(model, task, queries, how)
    zero = zero_shot_prompts(task, queries, instruction=how.instruction)
    both = capture(model, [*few, *zero], layers=layers, chat=how.chat, memory_mb=memory_mb, progress=progress)
    about = provenance(model, task, how, queries, note=_placebo_note(how))
    n = len(queries)
    return DifferenceVectors(both[:n], both[n:], check_layers(model, layers), about.sample_ids, about)


def shown_differences(
    model: HookedTransformer,
    task: Task,
    examples: Sequence[Example],
    shown: Sequence[Sequence[Example]],
    extraction: Extraction,
    *,
    layers: Sequence[int] | None = None,
    note: str = "",
    memory_mb: float = DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> DifferenceVectors:
    """Few-shot minus zero-shot residual of each query after demonstrations that you chose yourself.

    Args:
        model: any ``HookedTransformer``.
        task: task of the queries and of the demonstrations.
        examples: the queries; one may come several times.
        shown: for each query its demonstrations, in the order in which they are shown.
        extraction: instruction, chat, seed, and whether the demonstrations' answers are shuffled; what it says of
            samples and their drawing is not used.
        layers, memory_mb, progress: see ``difference_vectors``.
        note: how the demonstrations were chosen, kept in the provenance.

    Raises:
        ValueError: see ``prompts_showing`` and ``capture``.
    """
    how, queries = extraction, tuple(examples)
    shuffled = how.seed if how.shuffle_labels else None
    few = prompts_showing(task, queries, shown, instruction=how.instruction, shuffled=shuffled)
    zero = zero_shot_prompts(task, queries, instruction=how.instruction)
    both = capture(model, [*few, *zero], layers=layers, chat=how.chat, memory_mb=memory_mb, progress=progress)
    about = provenance(model, task, how, queries, note="; ".join(filter(None, (note, _placebo_note(how)))))
    n = len(queries)
    return DifferenceVectors(both[:n], both[n:], check_layers(model, layers), about.sample_ids, about)


def _pair_differences(
    model: HookedTransformer,
    pairs: Sequence[tuple[str, str]],
    how: Extraction,
    *,
    layers: Sequence[int] | None,
    memory_mb: float,
    progress: Progress,
) -> DifferenceVectors:
    """Positive minus negative residual of each pair of texts."""
    whole = all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs)
    if isinstance(pairs, str) or not pairs or not whole or not all(isinstance(t, str) for pair in pairs for t in pair):
        raise ValueError(
            "pairs must be one or more pairs of texts, [(positive, negative), ...]; got "
            f"{type(pairs).__name__} beginning with {list(pairs)[:1]!r}"
        )
    texts = [*(positive for positive, _ in pairs), *(negative for _, negative in pairs)]
    both = capture(model, texts, layers=layers, chat=how.chat, memory_mb=memory_mb, progress=progress)
    ids = tuple(f"pair-{index}" for index in range(len(pairs)))
    about = Provenance(
        model=model_name(model),
        fingerprint=fingerprint(model),
        task="pairs",
        sample_ids=ids,
        chat=how.chat,
        versions=versions(),
        note="positive minus negative texts",
        chat_arguments=chat_arguments(model) if how.chat else {},
    )
    return DifferenceVectors(both[: len(pairs)], both[len(pairs) :], check_layers(model, layers), ids, about)


def shown_prompts(
    model: HookedTransformer, task: Task, queries: Sequence[Example], extraction: Extraction
) -> list[Prompt]:
    """The few-shot side: each query after what the extraction shows, labelled, shuffled or random.

    Raises:
        ValueError: see ``few_shot`` and ``with_random_text``.
    """
    how = extraction
    prompts = few_shot_prompts(
        task,
        queries,
        shots=how.shots,
        seed=how.seed,
        demonstrations=how.demonstrations,
        pool=how.split,
        instruction=how.instruction,
        shuffle_labels=how.shuffle_labels,
    )
    if not how.random_text:
        return prompts
    return with_random_text(prompts, task, seed=how.seed, length=token_length(model), instruction=how.instruction)


def token_length(model: HookedTransformer) -> Callable[[str], int]:
    """Length of a text in the model's tokens.

    Raises:
        ValueError: when the model has no tokenizer.
    """
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        raise ValueError("lengths in tokens need the model's tokenizer; load the model with load_model")

    def length(text: str) -> int:
        return len(text_ids(tokenizer, text))

    return length


def provenance(
    model: HookedTransformer, task: Task, extraction: Extraction, queries: Sequence[Example], *, note: str = ""
) -> Provenance:
    """The provenance of a vector that is computed from these queries."""
    return Provenance(
        model=model_name(model),
        fingerprint=fingerprint(model),
        task=task.name,
        template=task.template.name,
        shots=extraction.shots,
        seed=extraction.seed,
        sample_ids=tuple(query.id for query in queries),
        chat=extraction.chat,
        chat_arguments=chat_arguments(model) if extraction.chat else {},
        versions=versions(),
        note=note,
    )


def _placebo_note(extraction: Extraction) -> str:
    if extraction.random_text:
        return "random text in place of the demonstrations"
    return "demonstrations with shuffled labels" if extraction.shuffle_labels else ""


def draw_samples(task: Task, extraction: Extraction) -> tuple[Example, ...]:
    """The queries: a seeded sample of the split, balanced over the classes, none of them a demonstration.

    Raises:
        ValueError: when the split holds fewer examples than asked for.
    """
    shown = demonstrations(task, shots=extraction.shots, seed=extraction.seed, pool=extraction.split)
    free = len({input_key(example.input) for example in task.split(extraction.split)}) - len(shown)
    if not 1 <= extraction.samples <= free:
        raise ValueError(
            f"samples={extraction.samples} must be from 1 to {free}: the {extraction.split} split of {task.name!r} "
            f"holds {free + len(shown)} examples that differ, of which {len(shown)} are the demonstrations. Ask for "
            "fewer of both, or give it more examples. A vector of another task, such as a built-in one, needs none of "
            "its own"
        )
    # Another seed than the demonstrations', or the first samples would be the demonstrations' next of kin.
    return sample_examples(
        task, extraction.samples, split=extraction.split, seed=extraction.seed + 1, exclude=shown, distinct=True
    )
