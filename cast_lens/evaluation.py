"""One row per example: what the model wrote, whether it is right, and whether it is admissible at all.

Exact match alone does not separate the *format* of an answer from the *choice* of it. Each row therefore holds three
outcomes: ``exact_match`` (the greedy answer is the gold one), ``valid`` (it is an admissible answer) and
``choice_correct`` (the admissible answer with the highest summed log-probability is the gold one).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import nan
from typing import Any

import pandas as pd

from .engine import Progress, Scores, TokenPrompt, automatic, score_and_answer, tokenise
from .engine.batching import DEFAULT_BUDGET_MB
from .engine.tokens import Prompts, as_prompts
from .interventions import Interventions, Steering
from .models.lens import HookedTransformer
from .tasks import Prompt, is_match, is_valid
from .tasks.sampling import warn_missing_classes

# Tokens that a model may write beyond the longest admissible answer: enough to see that it ended, or did not.
SLACK = 3
# Characters of a query and of an answer that a line about a change shows.
QUERY_SHOWN, ANSWER_SHOWN = 60, 30
OUTCOMES = ("exact_match", "valid", "choice_correct", "gold_logprob", "gold_margin", "first_match", "first_valid")


def evaluate(
    model: HookedTransformer,
    prompts: Prompt | Sequence[Prompt],
    interventions: Interventions = (),
    *,
    max_new_tokens: int | None = None,
    chat: bool = False,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = automatic,
) -> pd.DataFrame:
    """Greedy answers and answer probabilities, unsteered and under each intervention.

    Args:
        model: any ``HookedTransformer``.
        prompts: queries with gold answers.
        interventions: variants besides the unsteered model: one, several, or several by name (the column ``name``).
        max_new_tokens: longest answer; by default three tokens more than the longest admissible or gold answer.
        chat: use the model's chat template.
        memory_mb: working memory above the model, in MB.
        progress: wraps the batches.

    Returns:
        one row per variant and prompt: ``variant`` (0 unsteered), ``condition`` (``unsteered``, or the name that an
        intervention was given by, with layer and strength where several share it), ``name, layer, strength, operator,
        position, task, sample, text, gold, answer, exact_match, valid, choice_correct, gold_logprob, gold_margin,
        first_match, first_valid, overflowed``, and ``preferred`` (the most probable admissible answer; empty where
        there is none). Outcomes are 0 or 1; ``valid`` and ``choice_correct`` are NaN for free
        answers. Where logits were NaN or infinite (``overflowed``), every outcome is NaN and there is no answer.

    Raises:
        ValueError: see ``score`` and ``answer``; an admissible answer that holds a line end, where decoding stops.

    Warns:
        RuntimeWarning: logits were NaN or infinite, under which interventions.

    >>> edits = {"cast": vector.intervention(2), "weak": vector.intervention(2, strength=0.1)}
    >>> outcomes = evaluate(model, prompts, edits)
    >>> outcomes.groupby("condition", sort=False).size()
    condition
    unsteered    2
    cast         2
    weak         2
    dtype: int64
    """
    prompts = _queries(prompts)
    tokens = tokenise(model, prompts, chat=chat)
    scores, texts = score_and_answer(
        model,
        tokens,
        interventions,
        max_new_tokens=answer_limit(tokens) if max_new_tokens is None else max_new_tokens,
        memory_mb=memory_mb,
        progress=progress,
    )
    return outcome_frame(prompts, scores, texts)


def _queries(prompts: Prompts) -> list[Prompt]:
    """Prompts of a task, which know what is right.

    Raises:
        ValueError: no prompts, or one that is a plain text or tokens.
    """
    found = []
    for index, prompt in enumerate(as_prompts(prompts)):
        if not isinstance(prompt, Prompt):
            raise ValueError(
                f"prompt {index} is a {type(prompt).__name__}, which does not say what is right; give Prompt objects "
                "(zero_shot_prompts makes them), or call answer or generate"
            )
        found.append(prompt)
    return found


def answer_limit(prompts: Sequence[TokenPrompt]) -> int:
    """Tokens that an answer may take: three more than the longest admissible or gold answer of some prompts has."""
    return max((len(ids) for prompt in prompts for ids in prompt.answers), default=8) + SLACK


def outcome_frame(prompts: Sequence[Prompt], scores: Scores, texts: Sequence[Sequence[str | None]]) -> pd.DataFrame:
    """Scores and greedy answers as ``evaluate`` gives them, whatever ran the model.

    Args:
        prompts: queries with gold answers.
        scores: of these prompts, in their order.
        texts: greedy answers by variant and sample; None where there is none.

    Warns where some admissible answer is the gold answer of no prompt: accuracy then says nothing about it.
    """
    warn_missing_classes(prompts)
    frame = scores.to_frame()
    n_variants = len(scores.interventions) + 1
    rows = [(prompt, variant, texts[variant][i]) for i, prompt in enumerate(prompts) for variant in range(n_variants)]
    frame["sample"] = [prompt.sample_id for prompt, *_ in rows]
    frame.insert(0, "variant", [variant for _, variant, _ in rows])
    names = condition_names(scores.interventions)
    frame.insert(1, "condition", [names[variant] for _, variant, _ in rows])
    frame["task"] = [prompt.task for prompt, *_ in rows]
    frame["text"] = [prompt.query for prompt, *_ in rows]
    frame["gold"] = [prompt.gold for prompt, *_ in rows]
    frame["answer"] = [text for *_, text in rows]
    frame["overflowed"] |= frame["answer"].isna()
    frame["exact_match"] = [
        nan if text is None or not prompt.gold else float(is_match(text, prompt)) for prompt, _, text in rows
    ]
    frame["valid"] = [
        nan if text is None or not prompt.choices else float(is_valid(text, prompt)) for prompt, _, text in rows
    ]
    frame["preferred"] = [
        prompt.choices[int(choice)] if prompt.choices and not gone and choice == choice else ""
        for (prompt, *_), choice, gone in zip(rows, frame["choice"], frame["overflowed"], strict=True)
    ]
    frame.loc[frame["overflowed"], list(OUTCOMES)] = nan
    return frame.drop(columns="choice")


def condition_names(interventions: Sequence[Steering]) -> list[str]:
    """A name for each variant: ``unsteered``, then those of the interventions, made distinct where they share one."""
    names = [one.name or "steered" for one in interventions]
    longer = [
        f"{name}, layer {one.layer}, strength {one.strength:g}" if names.count(name) > 1 else name
        for name, one in zip(names, interventions, strict=True)
    ]
    return ["unsteered", *(f"{name} ({i})" if longer.count(name) > 1 else name for i, name in enumerate(longer, 1))]


def changed_answers(answers: pd.DataFrame, *, limit: int = 3) -> pd.DataFrame:
    """Which greedy answers each intervention changes, for the cells of ``plots.plot_sweep``.

    Args:
        answers: from ``evaluate``.
        limit: examples shown per variant; answers that turn right or wrong go before those that were and stay wrong.

    Returns:
        one row per intervention: ``variant, name, layer, strength, n``; ``n_changed`` (answers other than the
        unsteered one, blanks and line ends around them aside), ``n_mended`` and ``n_broken`` (of them, those that
        turned right, or wrong); ``changed``, text with one example per line, empty when none changed.

    Raises:
        ValueError: when a column or the unsteered variant is missing, a variant was run on other prompts than the
            unsteered one, or ``limit`` is below 1.
    """
    needed = ("variant", "name", "layer", "strength", "sample", "text", "gold", "answer", "exact_match")
    missing = [name for name in needed if name not in answers]
    if missing or limit < 1 or not (answers["variant"] == 0).any():
        raise ValueError(
            "answers must come from evaluate, the unsteered variant 0 included, and limit be 1 or more; "
            f"missing columns: {missing}, variants: {sorted(set(answers.get('variant', ())))[:5]}, limit={limit}"
        )
    numbered = _numbered(answers)
    plain = numbered[numbered["variant"] == 0]
    rows = []
    for variant, cell in numbered[numbered["variant"] != 0].groupby("variant", sort=True):
        if not cell.index.isin(plain.index).all():
            raise ValueError(
                f"variant {variant} has answers to prompts that variant 0, the unsteered model, was not run on; "
                "give the whole frame of one call of evaluate"
            )
        before = plain.loc[cell.index]
        turn = cell["exact_match"].to_numpy() - before["exact_match"].to_numpy()
        found = cell.assign(before=before["answer"].to_numpy(), turn=turn)
        found = found[found["answer"].str.strip() != found["before"].str.strip()].sort_values(
            "turn", key=lambda turns: -abs(turns), kind="stable"
        )
        told = [_told(row) for row in found.head(limit).to_dict("records")]
        mended, broken = int((found["turn"] > 0).sum()), int((found["turn"] < 0).sum())
        where = cell.iloc[0][["name", "layer", "strength"]]
        rows.append((variant, *where, len(cell), len(found), mended, broken, "\n".join(told)))
    columns = [*needed[:4], "n", "n_changed", "n_mended", "n_broken", "changed"]
    return pd.DataFrame(rows, columns=columns)


def _numbered(answers: pd.DataFrame) -> pd.DataFrame:
    """The same rows, indexed by what pairs variants: task, sample, text, and which of a sample's prompts it is.

    One sample may have several prompts (two few-shot prompts of one query, say), and two tasks may use one sample id.
    """
    keys = [name for name in ("task", "sample", "text") if name in answers]
    turn = answers.groupby(["variant", *keys], sort=False).cumcount().rename("turn_of_sample")
    index = pd.MultiIndex.from_frame(pd.concat([answers[keys], turn], axis=1))
    return answers.set_index(index)


def _told(row: Mapping[Hashable, Any]) -> str:
    """One changed answer in a line: the query's longest line (the first of several is the definition), both answers."""
    lines = str(row["text"]).strip().splitlines() or [""]
    query = _cut(max(lines[1:] or lines, key=len), QUERY_SHOWN)
    mark = {1.0: " (now right)", -1.0: " (now wrong)"}.get(row["turn"], "")
    before, after = (_cut(row[name], ANSWER_SHOWN) for name in ("before", "answer"))
    return f"{query} (gold: {row['gold']}): “{before}” → “{after}”{mark}"


def _cut(text: object, longest: int) -> str:
    plain = " ".join(str(text).split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"
