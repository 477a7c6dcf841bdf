"""Choices that hold when the model writes its answers in full.

A sweep sees whether an answer's own tokens are greedy, not where the answer ends: at a strength at which the model
writes ``tool tool tool`` every first token is right and every answer wrong. So what a rule chooses is written out, its
row of the table gets the outcomes of these answers, and the rule chooses again, until its choice is one that was
written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ..engine import Progress, TokenPrompt, answer, automatic, score, tokenise
from ..evaluation import answer_limit
from ..interventions import Operator, Position, Steering
from ..models.lens import HookedTransformer
from ..tasks import Prompt, is_match, may_be_valid
from ..vectors import SteeringVector
from .choosing import (
    CELL,
    LABELLED,
    STRENGTHS,
    UNLABELLED,
    Choice,
    candidate_layers,
    cell_outcomes,
    choose_from,
    standard_error,
    unlabelled,
)
from .conditions import Setting

if TYPE_CHECKING:
    import pandas as pd

# Candidates of a direction that are written out before it is left alone: each round is one pass for all directions.
ROUNDS = 4


def settled(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    directions: Mapping[str, SteeringVector],
    table: pd.DataFrame,
    choose: Callable[[pd.DataFrame, str], Choice],
    *,
    task: str,
    chat: bool = False,
    progress: Progress = automatic,
) -> tuple[dict[str, Choice], pd.DataFrame]:
    """Choose for each direction, and again wherever answers in full do not bear the choice out.

    Args:
        model: the model that the vectors were taken from.
        prompts: on which the rows of ``task`` were measured; gold answers are read where prompts have them.
        directions: vectors by name.
        table: rows of ``cell_outcomes`` with ``task``.
        choose: a rule on the table, for a direction by name.
        task: whose rows are measured anew.
        chat, progress: see ``cell_outcomes``.

    Returns:
        a choice for each direction, which was written out or stands aside, and the table with what was written.
    """
    table = table.copy()
    ready = tokenise(model, prompts, chat=chat)
    held: list[list[float]] = []
    written: set[tuple[str, Setting]] = set()

    def choose_all(rows: pd.DataFrame) -> dict[str, Choice]:
        return {name: choose(rows, name) for name in directions}

    def rows_of(name: str) -> pd.Series:
        return (table["task"] == task) & (table["direction"] == name)

    for _ in range(ROUNDS):
        choices = choose_all(table)
        wanted = {name: one.setting for name, one in choices.items() if one.setting is not None}
        todo = {name: at for name, at in wanted.items() if (name, at) not in written}
        if not todo:
            return choices, table
        if not held:
            held = [row[0].double().softmax(dim=0).tolist() for row in score(model, ready).answer_logprobs]
        edits = [at.edit(directions[name]) for name, at in todo.items()]
        texts = _written(model, prompts, ready, edits, progress=progress)
        measured = dict(zip(todo, _in_full(texts, prompts, held), strict=True))
        for name, at in todo.items():
            place = rows_of(name) & _among(table, {(name, at)}, name)
            table.loc[place, list(measured[name])] = list(measured[name].values())
        written |= set(todo.items())
    for name, one in choose_all(table).items():
        if one.setting is not None and (name, one.setting) not in written:
            table.loc[rows_of(name) & ~_among(table, written, name), _outcomes(table)] = np.nan
    return {
        name: _left_alone(one) if (name, one.setting) not in written else one for name, one in choose_all(table).items()
    }, table


def _among(table: pd.DataFrame, written: set[tuple[str, Setting]], name: str) -> pd.Series:
    """Rows of a direction that were written."""
    import pandas as pd

    cells = {(at.layer, at.strength, at.position) for direction, at in written if direction == name}
    return pd.Series([cell in cells for cell in table[list(CELL)].itertuples(index=False, name=None)], table.index)


def _outcomes(table: pd.DataFrame) -> list[str]:
    return [column for column in (*LABELLED, *UNLABELLED) if column in table]


def _left_alone(choice: Choice) -> Choice:
    if choice.setting is None:
        return choice
    reason = f"stands aside: none of the {ROUNDS} best candidates held when its answers were written in full"
    return Choice(None, choice.rule, choice.score, reason)


def _written(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    ready: Sequence[TokenPrompt],
    edits: Sequence[Steering],
    *,
    progress: Progress,
) -> list[list[str | None]]:
    """Answers by variant and prompt, each as far as it can still become an admissible one."""

    def is_open(index: int, text: str) -> bool:
        return may_be_valid(text, prompts[index])

    return answer(model, ready, edits, max_new_tokens=answer_limit(ready), is_open=is_open, progress=progress)


def _in_full(
    texts: Sequence[Sequence[str | None]], prompts: Sequence[Prompt], held: Sequence[Sequence[float]]
) -> Iterator[dict[str, float]]:
    """The columns of ``cell_outcomes`` that rest on what is written, from whole answers, for each variant."""
    right, belief, valid = (
        np.array([[read(one, i, prompts, held) for i, one in enumerate(row)] for row in texts])
        for read in (_right, _belief, _valid)
    )
    for row in range(1, len(texts)):
        gain, believed = right[row] - right[0], belief[row] - belief[0]
        lost = ((right[0] == 1) & (right[row] == 0)).sum() / max(1, (right[0] == 1).sum())
        yield {
            "gain": float(gain.mean()),
            "gain_se": _spread(gain),
            "right": float(right[0].mean()),
            "lost": float(lost) if np.isfinite(gain).all() else float("nan"),
            "believed": float(believed.mean()),
            "believed_se": _spread(believed),
            "valid": float(valid[row].mean()),
            "valid_before": float(valid[0].mean()),
        }


def _right(text: str | None, index: int, prompts: Sequence[Prompt], held: Sequence[Sequence[float]]) -> float:
    prompt = prompts[index]
    return float("nan") if text is None or not prompt.gold else float(is_match(text, prompt))


def _belief(text: str | None, index: int, prompts: Sequence[Prompt], held: Sequence[Sequence[float]]) -> float:
    """How probable the unsteered model held the answer that is written; 0 for one that is not admissible."""
    given = _given(text, prompts[index])
    if text is None or len(prompts[index].choices) < 2:
        return float("nan")
    return 0.0 if given is None else held[index][given]


def _valid(text: str | None, index: int, prompts: Sequence[Prompt], held: Sequence[Sequence[float]]) -> float:
    if text is None or len(prompts[index].choices) < 2:
        return float("nan")
    return float(_given(text, prompts[index]) is not None)


def _given(text: str | None, prompt: Prompt) -> int | None:
    """The admissible answer that a text gives."""
    choices = enumerate(prompt.choices)
    return next((i for i, one in choices if text is not None and is_match(text, replace(prompt, gold=one))), None)


def _spread(values: Float[np.ndarray, " sample"]) -> float:
    return float(standard_error(values[None])[0])


def choose_setting(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    vector: SteeringVector,
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    positions: Sequence[Position] = ("last",),
    operator: Operator = "add",
    labelled: bool = True,
    chat: bool = False,
    progress: Progress = automatic,
) -> Choice:
    """Where and how strongly a vector helps on these prompts, or that it does not.

    Args:
        model: the model that the vector was taken from.
        prompts: zero-shot prompts of one task; not those on which the choice is then praised.
        vector: what is added.
        layers: block indices; eight between a fifth and nine tenths of the depth when None.
        strengths, positions, operator, chat, progress: see ``cell_outcomes``.
        labelled: choose by the lower bound of the gain in right answers, which reads the prompts' gold answers; False
            to choose by the lower bound of the believed change, which reads none.

    Returns:
        a choice with ``layer, strength, position``, and ``steers`` False where no candidate is shown to help. What is
        chosen held when the answers were written in full.

    Raises:
        ValueError: see ``engine.sweep``; prompts without gold, or admissible, answers, on which nothing can be chosen.
    """
    n_layers = int(model.cfg.n_layers)
    given = tuple(prompts) if labelled else unlabelled(prompts)
    table = cell_outcomes(
        model,
        given,
        {"vector": vector},
        layers=layers or [one for one in candidate_layers(n_layers, 8) if one in vector.layers],
        strengths=strengths,
        operator=operator,
        positions=positions,
        chat=chat,
        progress=progress,
    ).assign(task="labelled" if labelled else "target")
    known = table["gain" if labelled else "believed"].notna()
    if not known.any():
        needed = "gold answers" if labelled else "admissible answers (choices or labels)"
        raise ValueError(f"the prompts have no {needed}, so no setting can be chosen on them")
    rule = "worst-lower" if labelled else "target-lower"

    def choose(rows: pd.DataFrame, name: str) -> Choice:
        return choose_from(rows, source="", target="target", n_layers=n_layers, rule=rule, operator=operator)

    task = "labelled" if labelled else "target"
    return settled(model, given, {"vector": vector}, table, choose, task=task, chat=chat, progress=progress)[0][
        "vector"
    ]
