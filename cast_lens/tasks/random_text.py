"""The placebo of a demonstration: random words of the task's own texts, as long as what they replace.

What a few-shot prompt does as well with random text in place of its demonstrations, the demonstrations' format,
inputs and answers did not do: any text in front of the query does it.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from .sampling import stable_seed
from .templates import definition
from .types import Prompt, Task

Length = Callable[[str], int]

# Words tried to fill the last gap exactly: most texts hold many words of each small length.
_TRIES = 64
# Longer runs without a blank are not words but sentences of a script that sets none.
_LONGEST_WORD = 20


def word_count(text: str) -> int:
    """Length of a text in words between blanks; what lengths are compared in when no tokenizer is at hand."""
    return len(text.split())


def with_random_text(
    prompts: Sequence[Prompt],
    task: Task,
    *,
    seed: int,
    length: Length = word_count,
    instruction: bool = True,
) -> list[Prompt]:
    """The same prompts with each demonstration replaced by random words of equal length.

    Words are drawn with replacement from the train inputs of the demonstrations' task, so that frequent words stay
    frequent, and hold no admissible answer. Template, cue and answer are gone; the definition that opens the first
    demonstration stays. Prompts that show the same demonstrations show the same random text.

    Args:
        prompts: few-shot prompts of any kind.
        task: the task that their demonstrations come from.
        seed: of the words.
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
        return min(_pairs(words, rng), key=lambda pair: abs(length(pair) - size))
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


def _pairs(words: Sequence[str], rng: random.Random) -> Iterable[str]:
    return [f"{rng.choice(words)} {rng.choice(words)}" for _ in range(_TRIES)]
