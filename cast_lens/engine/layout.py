"""Lays out the rows of a batch: shared beginnings of prompts once, and one tail per prompt that can be steered.

A batch of prompts becomes a *trunk* and *tails*.

- The trunk contains every prompt except its last token, as a trie: tokens that prompts share at their beginning (the
  demonstrations) are stored once. Nothing is padded.
- The tail of a prompt begins with its last token. Each admissible answer of several tokens adds all but its last token,
  as a chain after the last prompt token, so that its log-probability comes from the same pass.
- Steered variants copy the tails only, because nothing before the last prompt token can change. At position ``all``
  earlier tokens do change, so there the whole prompt is the tail and the trunk is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

# Sharing a shorter beginning costs more bookkeeping than it saves arithmetic.
MIN_SHARED = 8
# Represents "any token that ends the answer" among the scored tokens.
END = -1


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A tokenised prompt and its admissible answers.

    Attributes:
        tokens: tokens of the prompt, including BOS if the model expects it.
        answers: tokens of each admissible answer as it follows the prompt; may be empty.
        gold: index of the right answer in ``answers``; -1 if it has none.
        name: the name in error messages.
        end: tokens that end an answer. If given, the score of an answer includes the log-probability that one of them
            follows.
    """

    tokens: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...] = ()
    gold: int = -1
    name: str = ""
    end: tuple[int, ...] = ()

    @property
    def first_answer(self) -> TokenPrompt:
        """The prompt with the first token of its gold answer as its only answer."""
        return TokenPrompt(self.tokens, ((self.answers[self.gold][0],),), 0, self.name)

    @property
    def scored(self) -> tuple[tuple[int, ...], ...]:
        """The scored tokens of each answer, followed by ``END`` if its end is scored."""
        return tuple((*answer, END) for answer in self.answers) if self.end else self.answers


@dataclass(slots=True)
class Node:
    """A run of trunk tokens: rows ``start:stop``, which follow the rows of ``parents``."""

    start: int
    stop: int
    depth: int
    parents: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Trunk:
    """The trie of prompt beginnings as flat rows."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    paths: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The rows of one prompt that are copied for each variant.

    Attributes:
        tokens, positions: token and position of each row.
        mask: [row, row], True where a row attends to another row of the tail (itself included).
        last: row of the last prompt token.
        scored: for each answer, pairs of a row and the token (or ``END``) that it predicts.
        path: trunk rows that every row of the tail attends to, as (start, stop) runs.
        prompt: index of the prompt in the batch.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    mask: Bool[Tensor, "row row"]
    last: int
    scored: tuple[tuple[tuple[int, int], ...], ...]
    path: tuple[tuple[int, int], ...]
    prompt: int

    @property
    def prefix_length(self) -> int:
        """How many trunk tokens precede the tail."""
        return sum(stop - start for start, stop in self.path)


def common_prefix(rows: Sequence[tuple[int, ...]], *, start: int = 0) -> int:
    """How many tokens all rows begin with; the first ``start`` are known to be equal."""
    first, last = min(rows), max(rows)
    count = start
    while count < min(len(first), len(last)) and first[count] == last[count]:
        count += 1
    return count


def build_trunk(heads: Sequence[tuple[int, ...]], *, min_shared: int = MIN_SHARED) -> Trunk:
    """The trie of prompts without their last token; ``paths[i]`` are the rows of ``heads[i]``, in order."""
    trunk = Trunk()
    order = sorted(range(len(heads)), key=lambda index: heads[index])
    _grow(trunk, heads, order, 0, (), 0, min_shared)
    return trunk


def _grow(
    trunk: Trunk,
    heads: Sequence[tuple[int, ...]],
    order: list[int],
    depth: int,
    parents: tuple[tuple[int, int], ...],
    probe: int,
    min_shared: int,
) -> None:
    """Add the rest of the sorted prompts ``order``, whose first ``depth`` tokens are already in ``parents``.

    ``probe >= depth`` tokens are known to be equal, although the part beyond ``depth`` was too short to share.
    """
    first, last = heads[order[0]], heads[order[-1]]
    common = common_prefix((first, last), start=probe)
    same = common == len(first) == len(last)
    if same or common - depth >= min_shared:
        parents = _add(trunk, first, depth, common, parents)
        depth = common
    if same:
        trunk.paths.update(dict.fromkeys(order, parents))
        return
    for group in _by_token(heads, order, common):
        if len(heads[group[0]]) == common:
            path = _add(trunk, heads[group[0]], depth, common, parents)
            trunk.paths.update(dict.fromkeys(group, path))
        else:
            _grow(trunk, heads, group, depth, parents, common, min_shared)


def _add(
    trunk: Trunk, tokens: tuple[int, ...], depth: int, stop: int, parents: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    if stop == depth:
        return parents
    start = len(trunk.tokens)
    trunk.tokens.extend(tokens[depth:stop])
    trunk.positions.extend(range(depth, stop))
    trunk.nodes.append(Node(start, start + stop - depth, depth, parents))
    return (*parents, (start, start + stop - depth))


def _by_token(heads: Sequence[tuple[int, ...]], order: list[int], at: int) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index in order:
        groups.setdefault(heads[index][at] if at < len(heads[index]) else -1, []).append(index)
    return list(groups.values())


def build_tail(
    prompt: TokenPrompt, index: int, path: tuple[tuple[int, int], ...], *, whole: bool, answers: bool
) -> Tail:
    """The tail of one prompt: the entire prompt if ``whole``, followed by the chains of its answers if ``answers``."""
    begin = 0 if whole else len(prompt.tokens) - 1
    tokens = list(prompt.tokens[begin:])
    positions = list(range(begin, len(prompt.tokens)))
    last = len(tokens) - 1
    parents = list(range(-1, last))
    scored = []
    for answer in prompt.scored if answers else ():
        row, pairs = last, []
        for step, token in enumerate(answer):
            pairs.append((row, token))
            if step + 1 < len(answer):
                parents.append(row)
                tokens.append(token)
                positions.append(len(prompt.tokens) + step)
                row = len(tokens) - 1
        scored.append(tuple(pairs))
    mask = torch.eye(len(tokens), dtype=torch.bool)
    for row, parent in enumerate(parents):
        if parent >= 0:
            mask[row] |= mask[parent]
    return Tail(tuple(tokens), tuple(positions), mask, last, tuple(scored), path, index)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Trunk and tails of some prompts as tensors: first the rows of the trunk, then one tail after the other."""

    trunk: Trunk
    tails: tuple[Tail, ...]
    offsets: tuple[int, ...]
    tokens: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]
    longest: int

    @property
    def n_trunk(self) -> int:
        """How many rows the trunk has."""
        return len(self.trunk.tokens)

    @property
    def n_tail(self) -> int:
        """How many rows all tails have together, per variant."""
        return self.offsets[-1]


def build_batch(
    prompts: Sequence[TokenPrompt], *, whole: bool = False, answers: bool = True, device: str | torch.device = "cpu"
) -> Batch:
    """Lay out some prompts; see the module docstring."""
    trunk = Trunk() if whole else build_trunk([prompt.tokens[:-1] for prompt in prompts])
    tails = tuple(
        build_tail(prompt, index, trunk.paths.get(index, ()), whole=whole, answers=answers)
        for index, prompt in enumerate(prompts)
    )
    offsets = [0]
    for tail in tails:
        offsets.append(offsets[-1] + len(tail.tokens))
    tokens = [*trunk.tokens, *(token for tail in tails for token in tail.tokens)]
    positions = [*trunk.positions, *(position for tail in tails for position in tail.positions)]
    return Batch(
        trunk,
        tails,
        tuple(offsets),
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
        max(positions) + 1,
    )
