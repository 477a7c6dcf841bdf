"""Methods that change the prompt: zero-shot, demonstrations of the target or of another task, several queries at once.

``PROMPT_METHODS`` gives all of them one signature, so that an experiment can loop over names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..tasks import (
    Example,
    Split,
    Task,
    cross_task_prompts,
    few_shot_prompts,
    prompts_showing,
    with_random_text,
    word_count,
    zero_shot_prompts,
)
from ..tasks.random_text import Length
from .batching import batched
from .conditions import AnyCondition, Condition
from .retrieval import Embed, most_similar

# Source examples that ``PROMPT_METHODS`` searches for the nearest: embedding a whole train split costs more than the
# queries themselves.
CANDIDATES = 200


def zero_shot(target: Task, examples: Sequence[Example]) -> Condition:
    """The query alone: what everything else is compared with."""
    return Condition("zero-shot", tuple(zero_shot_prompts(target, examples)))


def few_shot(target: Task, examples: Sequence[Example], *, shots: int, seed: int) -> Condition:
    """Labelled demonstrations of the target itself: what a well-resourced target would use.

    Raises:
        ValueError: see ``few_shot_prompts``.
    """
    prompts = few_shot_prompts(target, examples, shots=shots, seed=seed)
    return Condition("few-shot", tuple(prompts), seed=seed)


def cross_task_few_shot(
    source: Task, target: Task, examples: Sequence[Example], *, shots: int, seed: int
) -> Condition:
    """Labelled demonstrations of the source in front of the target's query (arXiv 2405.10548).

    The demonstrations are drawn at random, class-balanced, one set for all queries.

    Raises:
        ValueError: see ``cross_task_prompts``.
    """
    prompts = cross_task_prompts(source, target, examples, shots=shots, seed=seed)
    return Condition("cross-task few-shot", tuple(prompts), source=source.name, seed=seed)


def retrieved_few_shot(
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


def random_text_few_shot(
    source: Task,
    target: Task,
    examples: Sequence[Example],
    *,
    shots: int,
    seed: int,
    length: Length = word_count,
) -> Condition:
    """Placebo of prompting: the source's demonstrations replaced by random words of equal length.

    The definitions of source and target stay. With the target as its own source this is the placebo of ``few_shot``.

    Args:
        source, target, examples, shots, seed: as for ``cross_task_few_shot``.
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
    """A prompt method under the common signature; what a method has no use for it ignores.

    Attributes:
        name: in frames and figures, and in ``PROMPT_METHODS``.
        build: makes the condition.
        needs_source: whether the source matters; if not, one condition a target is enough.
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
        seed: int,
        embed: Embed | None = None,
        length: Length = word_count,
    ) -> AnyCondition:
        """The method on a target.

        Args:
            source: where demonstrations of another task come from.
            target, examples: what is asked.
            shots: demonstrations a prompt.
            seed: of their draw.
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
    return few_shot(ask.target, ask.examples, shots=ask.shots, seed=ask.seed)


def _cross_task(ask: _Ask) -> Condition:
    return cross_task_few_shot(ask.source, ask.target, ask.examples, shots=ask.shots, seed=ask.seed)


def _retrieved(ask: _Ask) -> Condition:
    assert ask.embed is not None
    return retrieved_few_shot(
        ask.source,
        ask.target,
        ask.examples,
        shots=ask.shots,
        embed=ask.embed,
        candidates=CANDIDATES,
        seed=ask.seed,
    )


def _random_text(ask: _Ask) -> Condition:
    return random_text_few_shot(
        ask.source, ask.target, ask.examples, shots=ask.shots, seed=ask.seed, length=ask.length
    )


_METHODS = (
    PromptMethod("zero-shot", lambda ask: zero_shot(ask.target, ask.examples), about="the query alone"),
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
