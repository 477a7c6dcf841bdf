"""Several queries in one prompt, all answers asked at once (OverPrompt, arXiv 2305.14973).

One instruction is read for several queries, which saves tokens. The prompt is ours; the paper's was written for a chat
service:

    Definition: …
    1. Sentence: first query
    2. Sentence: second query

    Answers 1 to 2, one per line:
    1.

What is read back is only the text: there is one continuation for several queries, so no probability belongs to one of
them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformer_lens import HookedTransformer

from ..engine import Progress, answer, quiet, tokenise
from ..evaluation import answer_limit
from ..tasks import Example, Prompt, Task, is_match, is_valid, zero_shot_prompts
from ..tasks.templates import body, definition

if TYPE_CHECKING:
    import pandas as pd

# Columns of ``evaluate`` that one continuation for several queries cannot fill.
UNKNOWN = ("gold_logprob", "choice_correct", "first_match", "first_valid", "gold_margin")
# What one prompt holds unless told otherwise; small models lose count beyond a few.
QUERIES_PER_PROMPT = 4
# Tokens of a line beside its answer: the number, its dot, the newline.
_NUMBERING = 4
# A number at the start of a line, as models write it: ``2. yes``, ``2) yes``, ``[2] yes``, ``2: yes``.
_NUMBERED = re.compile(r"\s*\[?(\d{1,4})[\].):]+(?:\s+|$)(.*)")


@dataclass(frozen=True, slots=True, eq=False)
class BatchedCondition:
    """A condition whose prompts hold several queries each.

    Attributes:
        method: name in frames and figures.
        queries: the zero-shot prompt of each target example: what the answers are judged by.
        prompts: the prompts that the model reads, in order, each with the next ``queries_per_prompt`` queries.
        queries_per_prompt: queries of every prompt; the last one may hold fewer.
        source: empty, as nothing comes from another task.
        seed: unused, as nothing is drawn.
    """

    method: str
    queries: tuple[Prompt, ...]
    prompts: tuple[Prompt, ...]
    queries_per_prompt: int
    source: str = ""
    seed: int = 0

    def outcomes(
        self, model: HookedTransformer, *, chat: bool = False, progress: Progress = quiet
    ) -> pd.DataFrame:
        """One row a query, with the columns of ``evaluate``.

        A line that is missing or not numbered is an empty answer, which is neither a match nor valid.
        ``choice_correct``, ``gold_logprob``, ``gold_margin`` and the ``first_`` columns are NaN.

        Raises:
            ValueError: a prompt that leaves no room for its answers in the context; see ``answer``.
        """
        tokens = tokenise(model, self.queries, chat=chat)
        written = answer(
            model,
            self.prompts,
            max_new_tokens=self.queries_per_prompt * (answer_limit(tokens) + _NUMBERING),
            stop_at_newline=False,
            chat=chat,
            progress=progress,
        )[0]
        size = self.queries_per_prompt
        texts = [
            line
            for start, text in zip(range(0, len(self.queries), size), written, strict=True)
            for line in parse_answers(text, len(self.queries[start : start + size]))
        ]
        return _frame(self.queries, texts)


def batched(
    target: Task, examples: Sequence[Example], *, queries_per_prompt: int = QUERIES_PER_PROMPT
) -> BatchedCondition:
    """Zero-shot queries, several to a prompt.

    Raises:
        ValueError: fewer than one query a prompt, or no examples.
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


def parse_answers(text: str, count: int) -> list[str]:
    """The answers in a numbered list, in order; empty where the list has none.

    Args:
        text: what the model wrote after ``1.``; a model that writes the ``1.`` itself is understood. The first
            line with a number counts, numbers beyond ``count`` and lines without one do not.
        count: answers asked for.
    """
    lines = text.lstrip().split("\n")
    if not _NUMBERED.match(lines[0]):
        lines[0] = f"1. {lines[0]}"
    found: dict[int, str] = {}
    for line in lines:
        if numbered := _NUMBERED.match(line):
            found.setdefault(int(numbered[1]), numbered[2].strip())
    return [found.get(number, "") for number in range(1, count + 1)]


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


def _frame(queries: Sequence[Prompt], texts: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    missing = float("nan")
    rows = [
        {
            "task": prompt.task,
            "sample": prompt.sample_id,
            "name": "unsteered",
            "layer": -1,
            "strength": 0.0,
            "operator": "none",
            "position": "none",
            **dict.fromkeys(UNKNOWN, missing),
            "text": prompt.query,
            "gold": prompt.gold,
            "answer": text,
            "exact_match": float(is_match(text, prompt)),
            "valid": float(is_valid(text, prompt)) if prompt.choices else missing,
        }
        for prompt, text in zip(queries, texts, strict=True)
    ]
    return pd.DataFrame(rows)
