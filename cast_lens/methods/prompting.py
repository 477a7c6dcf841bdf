"""Methods that change the prompt: zero-shot, demonstrations of the target or of another task, several queries at once.

- ``zero_shot_condition``, ``few_shot_condition``, ``cross_task_condition``, ``random_text_condition``: drawn
  demonstrations, or none;
- ``retrieved_condition``: the source examples nearest to each query in some embedding (``residual_embedding``,
  ``sentence_embedding``);
- ``batched``: several queries in one prompt;
- ``PROMPT_METHODS`` gives all of them one signature, so that an experiment can loop over names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from ..engine import Progress, capture, quiet
from ..models.lens import HookedTransformer
from ..selection.spaces import ENCODER, Encoder, space_from_texts
from ..tasks import (
    Example,
    Prompt,
    Split,
    Task,
    cross_task_prompts,
    demonstrations,
    few_shot_prompts,
    input_key,
    prompts_showing,
    with_random_text,
    word_count,
    zero_shot_prompts,
)
from ..tasks.prompts import Length
from ..tasks.sampling import Pool
from ..tasks.templates import body, definition
from .conditions import AnyCondition, BatchedCondition, Condition

Embed = Callable[[Sequence[str]], Float[np.ndarray, "sample d_model"]]

# Source examples that ``PROMPT_METHODS`` searches for the nearest: embedding a whole train split costs more than the
# queries themselves.
CANDIDATES = 200
# What one prompt holds by default; small models lose count beyond a few.
QUERIES_PER_PROMPT = 4
# Calls whose result is remembered: a pool and the queries of a few dozen targets.
_REMEMBERED = 64
# Cosines are compared to so many decimals: what ties on paper ties here, whatever the last bits say.
_DECIMALS = 9


def zero_shot_condition(target: Task, examples: Sequence[Example]) -> Condition:
    """The query alone: what everything else is compared with."""
    return Condition("zero-shot", tuple(zero_shot_prompts(target, examples)))


def few_shot_condition(target: Task, examples: Sequence[Example], *, shots: int, seed: int = 0) -> Condition:
    """Labelled demonstrations of the target itself: what a well-resourced target would use.

    Raises:
        ValueError: see ``few_shot_prompts``.
    """
    prompts = few_shot_prompts(target, examples, shots=shots, seed=seed)
    return Condition("few-shot", tuple(prompts), seed=seed)


def cross_task_condition(
    source: Task, target: Task, examples: Sequence[Example], *, shots: int, seed: int = 0
) -> Condition:
    """Labelled demonstrations of the source in front of the target's query (arXiv 2405.10548).

    The demonstrations are drawn at random, class-balanced, one set for all queries.

    Raises:
        ValueError: see ``cross_task_prompts``.
    """
    prompts = cross_task_prompts(source, target, examples, shots=shots, seed=seed)
    return Condition("cross-task few-shot", tuple(prompts), source=source.name, seed=seed)


def retrieved_condition(
    source: Task,
    target: Task,
    examples: Sequence[Example],
    *,
    shots: int,
    embed: Embed,
    pool: Split = "train",
    candidates: int | None = None,
    seed: int = 0,
) -> Condition:
    """The source examples most like each query in front of it, nearest first (arXiv 2405.10548, section 4.3).

    Args:
        source, target, examples, shots, embed, pool, candidates, seed: see ``most_similar``.

    Raises:
        ValueError: see ``most_similar``.
    """
    shown = most_similar(
        source, target, examples, shots=shots, embed=embed, pool=pool, candidates=candidates, seed=seed
    )
    prompts = prompts_showing(target, examples, shown, source=source)
    return Condition("retrieved few-shot", tuple(prompts), source=source.name, seed=seed)


def random_text_condition(
    source: Task, target: Task, examples: Sequence[Example], *, shots: int, seed: int = 0, length: Length = word_count
) -> Condition:
    """Placebo of prompting: the source's demonstrations replaced by random words of equal length.

    The definitions of source and target stay. With the target as its own source this is the placebo of
    ``few_shot_condition``.

    Args:
        source, target, examples, shots, seed: as for ``cross_task_condition``.
        length: what "equal" is measured in: words, or ``extraction.token_length(model)``.

    Raises:
        ValueError: see ``cross_task_prompts`` and ``with_random_text``.
    """
    if source.name == target.name:
        prompts = few_shot_prompts(target, examples, shots=shots, seed=seed)
    else:
        prompts = cross_task_prompts(source, target, examples, shots=shots, seed=seed)
    replaced = with_random_text(prompts, source, seed=seed, length=length)
    return Condition("placebo: random-text few-shot", tuple(replaced), source=source.name, seed=seed)


def batched(
    target: Task, examples: Sequence[Example], *, queries_per_prompt: int = QUERIES_PER_PROMPT
) -> BatchedCondition:
    """Zero-shot queries, several per prompt (OverPrompt, arXiv 2305.14973).

    One instruction is read for several queries, which saves tokens. The wording is ours; the paper's was written for a
    chat service:

        Definition: …
        1. Sentence: first query
        2. Sentence: second query

        Answers 1 to 2, one per line:
        1.

    Only the text is read back: there is one continuation for several queries, so no probability belongs to any one of
    them.

    Raises:
        ValueError: fewer than one query per prompt, or no examples.
    """
    if queries_per_prompt < 1:
        raise ValueError(f"queries_per_prompt={queries_per_prompt} must be at least 1")
    if not examples:
        raise ValueError("examples is empty; give the target's test examples")
    prompts = [
        _joint_prompt(target, examples[start : start + queries_per_prompt])
        for start in range(0, len(examples), queries_per_prompt)
    ]
    queries = zero_shot_prompts(target, examples)
    return BatchedCondition("batched", tuple(queries), tuple(prompts), queries_per_prompt)


def _joint_prompt(task: Task, examples: Sequence[Example]) -> Prompt:
    """All queries under one definition, ending where the first answer begins."""
    items = [f"{number}. {_uncued(task, example)}" for number, example in enumerate(examples, start=1)]
    ask = f"Answers 1 to {len(items)}, one per line:\n1."
    text = definition(task) + "\n".join(items) + "\n\n" + ask
    names = [examples[0].id, examples[-1].id]
    return Prompt((), text, "", (), task.name, " to ".join(dict.fromkeys(names)))


def _uncued(task: Task, example: Example) -> str:
    """The query without its answer cue, where the cue is a line of its own."""
    text, last = body(task, example), task.template.body.rsplit("\n", 1)[-1]
    own_line = "{" not in last and "\n" in task.template.body
    return text.removesuffix(last).rstrip() if own_line else text


def sentence_embedding(encoder: str | Encoder = ENCODER) -> Remembered:
    """Sentence embeddings, by default of the encoder that arXiv 2405.10548 (section 4.3) uses.

    It needs the extra ``embed`` (sentence-transformers) and fetches the encoder when it is first used.

    Args:
        encoder: a sentence-transformers name or local folder, or an object with ``encode``.

    Raises:
        ValueError: for the first call, when the package is missing or the encoder cannot be loaded.
    """
    return Remembered(lambda texts: space_from_texts(texts, encoder=encoder))


def residual_embedding(
    model: HookedTransformer, *, layer: int | None = None, chat: bool = False, progress: Progress = quiet
) -> Remembered:
    """The model's own view of a text: the residual at its last token, by default after the middle block.

    It needs no second model and is therefore the default. It is not the paper's embedding: the last token of a
    formatted input is the answer cue, so texts are close when the model is about to answer alike, not only when they
    are about the same thing.

    Raises:
        ValueError: a layer out of range.
    """
    chosen = residual_layer(model) if layer is None else layer

    def embed(texts: Sequence[str]) -> Float[np.ndarray, "sample d_model"]:
        return capture(model, list(texts), layers=(chosen,), chat=chat, progress=progress)[:, 0].numpy()

    return Remembered(embed)


def residual_layer(model: HookedTransformer) -> int:
    """The block whose output ``residual_embedding`` takes by default: the middle one."""
    return int(model.cfg.n_layers) // 2


class Remembered:
    """An embedding that does not repeat a call.

    Whole calls are remembered, not single texts: what a text comes out as may depend, in its last bits, on the texts
    that run in the same batch.

    Attributes:
        anew: the embedding itself, which remembers nothing.
    """

    def __init__(self, embed: Embed) -> None:
        self.anew = embed
        self._once: Callable[[tuple[str, ...]], Float[np.ndarray, "sample d_model"]]
        self._once = lru_cache(maxsize=_REMEMBERED)(embed)

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "sample d_model"]:
        """One row per text."""
        return self._once(tuple(texts))


def most_similar(
    source: Task,
    target: Task,
    examples: Sequence[Example],
    *,
    shots: int,
    embed: Embed,
    pool: Split = "train",
    candidates: int | None = None,
    seed: int = 0,
) -> list[tuple[Example, ...]]:
    """For each query the nearest source examples, nearest first (arXiv 2405.10548, section 4.3).

    Similarity is the cosine between embeddings of the formatted inputs without definition. A source example that asks
    what the query asks is left out. Equal similarities keep the order of ids.

    Args:
        source: where demonstrations come from.
        target: the queries' task.
        examples: the queries.
        shots: demonstrations for each query.
        embed: texts to rows.
        pool: split of the source that is searched.
        candidates: search a class-balanced draw of so many examples instead of the whole split (the paper searches
            10 000); embedding them is the method's cost.
        seed: seed of that draw.

    Raises:
        ValueError: fewer candidates than shots; embeddings of a wrong shape, not finite, or zero.
    """
    offered, known, asked = compared_items(
        source, target, examples, embed=embed, pool=pool, candidates=candidates, seed=seed
    )
    if not 1 <= shots <= len(offered):
        raise ValueError(
            f"shots={shots} must be from 1 to {len(offered)}, the examples of {source.name!r} that are searched"
        )
    similarity = (asked @ known.T).round(_DECIMALS)
    order: Int[np.ndarray, "sample candidate"] = np.argsort(-similarity, axis=1, kind="stable")
    keys = [input_key(example.input) for example in offered]
    found = []
    for example, row in zip(examples, order, strict=True):
        own = input_key(example.input)
        shown = [offered[place] for place in row if keys[place] != own][:shots]
        if len(shown) < shots:
            raise ValueError(
                f"shots={shots} is more than the {len(shown)} examples of {source.name!r} that differ from the query "
                f"{example.id}; ask for fewer"
            )
        found.append(tuple(shown))
    return found


def compared_items(
    source: Task,
    target: Task,
    examples: Sequence[Example],
    *,
    embed: Embed,
    pool: Split,
    candidates: int | None,
    seed: int,
) -> tuple[list[Example], Float[np.ndarray, "candidate d_model"], Float[np.ndarray, "sample d_model"]]:
    """Source examples in the order of ids, and unit embeddings of them and of the queries; see ``most_similar``.

    Raises:
        ValueError: embeddings of a wrong shape, not finite, or zero.
    """
    offered = _offered(source, pool, candidates, seed)
    known = _unit(embed, [body(source, example) for example in offered], f"examples of {source.name!r}")
    asked = _unit(embed, [body(target, example) for example in examples], f"queries of {target.name!r}")
    if known.shape[1] != asked.shape[1]:
        raise ValueError(f"embed gave rows of width {known.shape[1]} and {asked.shape[1]}; one width is needed")
    return offered, known, asked


def _offered(source: Task, pool: Split, candidates: int | None, seed: int) -> list[Example]:
    """Examples to search, one per input, in the order of ids."""
    everything = list(Pool.of(source, pool).examples)
    if candidates is not None and candidates < len(everything):
        everything = list(demonstrations(source, shots=candidates, seed=seed, pool=pool))
    return sorted(everything, key=lambda example: example.id)


def _unit(embed: Embed, texts: list[str], what: str) -> Float[np.ndarray, "sample d_model"]:
    rows = np.asarray(embed(texts), dtype=np.float64)
    if rows.ndim != 2 or len(rows) != len(texts):
        raise ValueError(f"embed gave shape {rows.shape} for {len(texts)} {what}; expected one row per text")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(rows).all() and (lengths > 0).all()):
        raise ValueError(f"embed gave a zero row or one that is not finite for the {what}; no cosine is defined")
    return rows / lengths


@dataclass(frozen=True, slots=True, eq=False)
class _Ask:
    """All that prompt methods may be given."""

    source: Task
    target: Task
    examples: Sequence[Example]
    shots: int
    seed: int
    embed: Embed | None
    length: Length


@dataclass(frozen=True, slots=True)
class PromptMethod:
    """A prompt method under the common signature; a method ignores what it has no use for.

    Attributes:
        name: in frames and figures, and in ``PROMPT_METHODS``.
        build: makes the condition.
        needs_source: whether the source matters; if not, one condition per target is enough.
        needs_embedding: whether ``embed`` must be given.
        about: what it is, and its source.
    """

    name: str
    build: Callable[[_Ask], AnyCondition]
    needs_source: bool = False
    needs_embedding: bool = False
    about: str = ""

    def __call__(
        self,
        source: Task,
        target: Task,
        examples: Sequence[Example],
        *,
        shots: int,
        seed: int = 0,
        embed: Embed | None = None,
        length: Length = word_count,
    ) -> AnyCondition:
        """The method on a target.

        Args:
            source: where demonstrations of another task come from.
            target, examples: what is asked.
            shots: demonstrations per prompt.
            seed: seed of their draw.
            embed: embedding for retrieval, e.g. ``residual_embedding(model)``.
            length: what random text is measured in.

        Raises:
            ValueError: no embedding where one is needed; see the methods.
        """
        if self.needs_embedding and embed is None:
            raise ValueError(
                f"{self.name!r} compares texts and needs embed; give residual_embedding(model), or "
                "sentence_embedding() for the paper's encoder"
            )
        return self.build(_Ask(source, target, examples, shots, seed, embed, length))


def _few_shot(ask: _Ask) -> Condition:
    return few_shot_condition(ask.target, ask.examples, shots=ask.shots, seed=ask.seed)


def _cross_task(ask: _Ask) -> Condition:
    return cross_task_condition(ask.source, ask.target, ask.examples, shots=ask.shots, seed=ask.seed)


def _retrieved(ask: _Ask) -> Condition:
    assert ask.embed is not None
    return retrieved_condition(
        ask.source, ask.target, ask.examples, shots=ask.shots, embed=ask.embed, candidates=CANDIDATES, seed=ask.seed
    )


def _random_text(ask: _Ask) -> Condition:
    return random_text_condition(
        ask.source, ask.target, ask.examples, shots=ask.shots, seed=ask.seed, length=ask.length
    )


_METHODS = (
    PromptMethod("zero-shot", lambda ask: zero_shot_condition(ask.target, ask.examples), about="the query alone"),
    PromptMethod("few-shot", _few_shot, about="demonstrations of the target itself"),
    PromptMethod(
        "cross-task few-shot",
        _cross_task,
        needs_source=True,
        about="demonstrations of the source, drawn at random (arXiv 2405.10548)",
    ),
    PromptMethod(
        "retrieved few-shot",
        _retrieved,
        needs_source=True,
        needs_embedding=True,
        about="the source examples most like the query (arXiv 2405.10548, section 4.3)",
    ),
    PromptMethod(
        "batched",
        lambda ask: batched(ask.target, ask.examples),
        about="several queries in one prompt (arXiv 2305.14973)",
    ),
    PromptMethod(
        "placebo: random-text few-shot",
        _random_text,
        needs_source=True,
        about="random words as long as the source's demonstrations",
    ),
)
PROMPT_METHODS: dict[str, PromptMethod] = {method.name: method for method in _METHODS}
