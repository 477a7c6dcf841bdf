"""Builds prompts: zero-shot, few-shot and cross-task, as pure text.

A zero-shot prompt is the task's definition and the query. A few-shot prompt of the same query opens with the
same definition, shows demonstrations, and ends in exactly the same query text:

    Definition: …            Definition: …
    Review: query            Review: first demonstration
    Label:                   Label: positive

                             Review: query
                             Label:

A cross-task prompt (arXiv 2405.10548 section 3) shows demonstrations of a source task under the source's
definition, then the target's definition and query.

``with_random_text`` makes the placebo of demonstrations: random words of the task's own texts, as long as what they
replace. If a few-shot prompt does as well with random text in front of its query, the format, inputs and
answers of the demonstrations did not matter.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import Literal

from .sampling import Pool, shuffled_answers, stable_seed
from .templates import admissible, body, definition, gold, lettered
from .types import Example, Prompt, Split, Task

Demonstrations = Literal["fixed", "per-query"]


@dataclass(frozen=True, slots=True)
class _Sampling:
    """How the demonstrations of few-shot prompts are sampled; see `few_shot`."""

    shots: int
    seed: int
    way: Demonstrations
    pool: Split
    instruction: bool
    shuffle_labels: bool

    def shown(self, task: Task, queries: Iterable[Example]) -> Iterator[tuple[tuple[str, str], ...]]:
        """Demonstrations as text, for each query."""
        if self.way not in ("fixed", "per-query"):
            raise ValueError(f'demonstrations={self.way!r} is unknown; choose "fixed" or "per-query"')
        pool = Pool.of(task, self.pool)
        ranked = pool.ranked(self.seed, shots=self.shots)
        for query in queries:
            seed = self.seed
            if self.way == "per-query":
                seed = stable_seed(self.seed, query.id)
                ranked = pool.ranked(seed, shots=self.shots)
            yield self._as_text(task, ranked.sample((query,)), seed)

    def _as_text(self, task: Task, drawn: tuple[Example, ...], seed: int) -> tuple[tuple[str, str], ...]:
        if self.shuffle_labels:
            answers = shuffled_answers(task, drawn, seed=seed, pool=self.pool)
        else:
            answers = [gold(task, example) for example in drawn]
        return _pairs(task, drawn, answers, instruction=self.instruction)


def zero_shot(task: Task, example: Example | str, *, instruction: bool = True) -> Prompt:
    """The query alone.

    Args:
        task: gives the template and the admissible answers.
        example: the query; or any text to ask about, for which no answer is the right one.
        instruction: whether the task's definition opens the prompt.

    Raises:
        ValueError: a bare text for a task that needs more than a text, such as options.

    >>> from cast_lens.tasks import load_task, zero_shot
    >>> print(zero_shot(load_task("antonym"), "hot").text)
    Q: hot
    A:
    """
    (example,) = _queries(task, [example])
    return _prompt(task, example, opening=definition(task) if instruction else "")


def few_shot(
    task: Task,
    example: Example | str,
    *,
    shots: int,
    seed: int = 0,
    demonstrations: Demonstrations = "fixed",
    pool: Split = "train",
    instruction: bool = True,
    shuffle_labels: bool = False,
) -> Prompt:
    """The query after demonstrations of its own task.

    Args:
        task: gives template, demonstrations and admissible answers.
        example: the query; never among its own demonstrations, by id or by input.
        shots: demonstrations, at least one.
        seed: seed of the demonstrations and of their order.
        demonstrations: ``fixed``: the same ones in the same order for every query of (task, shots, seed),
            so that the engine can share their computation; where the query is itself among them, another one
            of its class takes its place. ``per-query``: drawn separately for each query.
        pool: the split that they are drawn from.
        instruction: whether the task's definition opens the prompt.
        shuffle_labels: placebo: the demonstrations' answers are permuted, and right as often as chance.

    Raises:
        ValueError: for shots below one or above what the pool holds, an unknown pool or way of sampling.
    """
    sampling = _Sampling(shots, seed, demonstrations, pool, instruction, shuffle_labels)
    return _in_task(task, _queries(task, [example]), sampling)[0]


def cross_task(
    source: Task,
    target: Task,
    example: Example | str,
    *,
    shots: int,
    seed: int = 0,
    demonstrations: Demonstrations = "fixed",
    pool: Split = "train",
    instruction: bool = True,
    shuffle_labels: bool = False,
) -> Prompt:
    """A target query after demonstrations of a source task (arXiv 2405.10548 section 3).

    Arguments and errors are those of `few_shot`, with the demonstrations drawn from ``source``. Each task's
    definition opens its own part.
    """
    sampling = _Sampling(shots, seed, demonstrations, pool, instruction, shuffle_labels)
    return _across(source, target, _queries(target, [example]), sampling)[0]


def zero_shot_prompts(task: Task, examples: Iterable[Example | str] | str, *, instruction: bool = True) -> list[Prompt]:
    """`zero_shot` of every example or text, in order; a single text is one query.

    >>> from cast_lens.tasks import load_task, zero_shot_prompts
    >>> [prompt.text for prompt in zero_shot_prompts(load_task("antonym"), ["hot", "big"])]
    ['Q: hot\\nA:', 'Q: big\\nA:']
    """
    return [zero_shot(task, example, instruction=instruction) for example in _queries(task, examples)]


def few_shot_prompts(
    task: Task,
    examples: Iterable[Example | str] | str,
    *,
    shots: int,
    seed: int = 0,
    demonstrations: Demonstrations = "fixed",
    pool: Split = "train",
    instruction: bool = True,
    shuffle_labels: bool = False,
) -> list[Prompt]:
    """`few_shot` of every example, in order.

    >>> from cast_lens.tasks import few_shot_prompts, load_task
    >>> prompts = few_shot_prompts(load_task("antonym"), ["hot", "big"], shots=3)
    >>> print(prompts[0].text.splitlines()[-2])
    Q: hot
    """
    sampling = _Sampling(shots, seed, demonstrations, pool, instruction, shuffle_labels)
    return _in_task(task, _queries(task, examples), sampling)


def cross_task_prompts(
    source: Task,
    target: Task,
    examples: Iterable[Example | str] | str,
    *,
    shots: int,
    seed: int = 0,
    demonstrations: Demonstrations = "fixed",
    pool: Split = "train",
    instruction: bool = True,
    shuffle_labels: bool = False,
) -> list[Prompt]:
    """`cross_task` of every example, in order."""
    sampling = _Sampling(shots, seed, demonstrations, pool, instruction, shuffle_labels)
    return _across(source, target, _queries(target, examples), sampling)


def prompts_showing(
    task: Task,
    examples: Sequence[Example],
    shown: Sequence[Sequence[Example]],
    *,
    source: Task | None = None,
    instruction: bool = True,
    shuffled: int | None = None,
) -> list[Prompt]:
    """Queries after demonstrations that you chose yourself, one list per query.

    Args:
        task: gives the queries.
        examples: the queries.
        shown: for each query its demonstrations, in the order in which they are shown.
        source: the task that the demonstrations come from; None for the queries' own.
        instruction: whether each task's definition opens its part.
        shuffled: placebo: seed with which the demonstrations' answers are shuffled, see ``shuffled_answers``; None
            to leave them as they are.

    Raises:
        ValueError: when a query has no demonstrations, or there are not as many lists as queries.
    """
    if len(shown) != len(examples) or not all(shown):
        raise ValueError(
            f"shown holds {len(shown)} lists of demonstrations for {len(examples)} queries; give each query one "
            "list of at least one example"
        )
    across = source is not None and source.name != task.name
    opening = definition(task) if across and instruction else ""
    home = task if source is None else source

    def answers(example: Example, own: Sequence[Example]) -> list[str]:
        if shuffled is None:
            return [gold(home, each) for each in own]
        return shuffled_answers(home, own, seed=stable_seed(shuffled, example.id), pool="train")

    return [
        _prompt(task, example, shown=_pairs(home, own, answers(example, own), instruction=instruction), opening=opening)
        for example, own in zip(examples, shown, strict=True)
    ]


def _queries(task: Task, given: Iterable[Example | str] | str) -> tuple[Example, ...]:
    """Examples as they are, texts as examples without an answer."""
    named = {name for _, name, _, _ in Formatter().parse(task.template.body) if name}
    found = []
    for number, one in enumerate([given] if isinstance(given, str) else given):
        if isinstance(one, str):
            if named - {"input"}:
                raise ValueError(
                    f"the text {one!r} cannot be a query of {task.name!r}, whose template shows "
                    f"{', '.join(sorted(named))}; give an Example"
                )
            one = Example(f"text-{number}", one, "", language=task.language)
        found.append(one)
    return tuple(found)


def _pairs(
    task: Task, drawn: Sequence[Example], answers: Sequence[str], *, instruction: bool
) -> tuple[tuple[str, str], ...]:
    """Demonstrations as text, the definition before the first."""
    bodies = [body(task, example) for example in drawn]
    if instruction:
        bodies[0] = definition(task) + bodies[0]
    return tuple(zip(bodies, answers, strict=True))


def _in_task(task: Task, examples: Sequence[Example], sampling: _Sampling) -> list[Prompt]:
    shown = sampling.shown(task, examples)
    return [_prompt(task, example, shown=own) for example, own in zip(examples, shown, strict=True)]


def _across(source: Task, target: Task, examples: Sequence[Example], sampling: _Sampling) -> list[Prompt]:
    opening = definition(target) if sampling.instruction else ""
    shown = sampling.shown(source, examples)
    return [_prompt(target, example, shown=own, opening=opening) for example, own in zip(examples, shown, strict=True)]


def _prompt(task: Task, example: Example, *, shown: tuple[tuple[str, str], ...] = (), opening: str = "") -> Prompt:
    # If the texts of options are the answers, they differ between examples, and so do their distinguishing words.
    own = task.kind == "multiple-choice" and not lettered(task)
    return Prompt(
        demonstrations=shown,
        query=opening + body(task, example),
        gold=gold(task, example) if example.answer else "",
        choices=admissible(task, example),
        task=task.name,
        sample_id=example.id,
        reading=None if own else task.reading,
    )


Length = Callable[[str], int]

# Words tried to fill the last gap exactly: most texts hold many words of each small length.
_TRIES = 64
# Longer runs without a blank are not words but sentences of a script that sets none.
_LONGEST_WORD = 20


def word_count(text: str) -> int:
    """Length of a text in words between blanks, for comparing lengths without a tokenizer."""
    return len(text.split())


def with_random_text(
    prompts: Sequence[Prompt], task: Task, *, seed: int = 0, length: Length = word_count, instruction: bool = True
) -> list[Prompt]:
    """The same prompts with each demonstration replaced by random words of equal length.

    Words are drawn with replacement from the train inputs of the demonstrations' task, so that frequent words stay
    frequent, and hold no admissible answer. Template, cue and answer are gone; the definition that opens the first
    demonstration stays. Prompts that show the same demonstrations show the same random text.

    Args:
        prompts: few-shot prompts of any kind.
        task: the task that their demonstrations come from.
        seed: seed of the words.
        length: what "equal" is measured in, e.g. ``extraction.token_length(model)``. A demonstration comes out
            shorter only where no word fits the last gap, and longer only where it is shorter than two words.
        instruction: whether the task's definition opens the first demonstration.

    Raises:
        ValueError: prompts without demonstrations; every word of the train inputs is an answer.
    """
    words, opening = neutral_words(task), definition(task) if instruction else ""
    known: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
    for prompt in prompts:
        shown = prompt.demonstrations
        if not shown:
            raise ValueError(
                f"the prompt of {prompt.task} {prompt.sample_id} shows no demonstrations to replace; "
                "give few-shot prompts"
            )
        if shown not in known:
            rng = random.Random(stable_seed(seed, "random text", *(text for pair in shown for text in pair)))
            known[shown] = tuple(_replaced(pair, opening, words, rng, length) for pair in shown)
    return [replace(prompt, demonstrations=known[prompt.demonstrations]) for prompt in prompts]


def neutral_words(task: Task) -> tuple[str, ...]:
    """Words of the train inputs, repeats kept, without punctuation, single letters of options or answers.

    Answers are the label words, and for free answers every gold answer of the train split.

    Raises:
        ValueError: when no word is left.
    """
    answers = task.labels or tuple(example.answer for example in task.train)
    taken = {word for answer in answers for word in _words(answer.casefold())}
    if task.kind == "multiple-choice":
        taken = set(string.ascii_lowercase)
    found = tuple(word for example in task.train for word in _words(example.input) if word.casefold() not in taken)
    if not found:
        raise ValueError(
            f"the train inputs of {task.name!r} hold no word that is not an answer, so random text cannot be made "
            "of them; leave this placebo out"
        )
    return found


def _words(text: str) -> Iterator[str]:
    for run in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text):
        yield from (run,) if len(run) <= _LONGEST_WORD else run


def _replaced(
    pair: tuple[str, str], opening: str, words: Sequence[str], rng: random.Random, length: Length
) -> tuple[str, str]:
    """Random text for one demonstration; its last word takes the place of the answer."""
    body, answer = pair
    kept = opening if opening and body.startswith(opening) else ""
    text = _random_text(words, length(f"{body.removeprefix(kept)} {answer}"), rng, length)
    first, _, last = text.rpartition(" ")
    return kept + first, last


def _random_text(words: Sequence[str], size: int, rng: random.Random, length: Length) -> str:
    text = f"{rng.choice(words)} {rng.choice(words)}"
    if length(text) > size:
        return min(_word_pairs(words, rng), key=lambda pair: abs(length(pair) - size))
    while True:
        longer = f"{text} {rng.choice(words)}"
        if length(longer) > size:
            break
        text = longer
    for _ in range(_TRIES):
        if length(text) == size:
            break
        longer = f"{text} {rng.choice(words)}"
        text = longer if length(longer) <= size else text
    return text


def _word_pairs(words: Sequence[str], rng: random.Random) -> Iterable[str]:
    return [f"{rng.choice(words)} {rng.choice(words)}" for _ in range(_TRIES)]
