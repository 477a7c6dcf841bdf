"""Which source examples to show for a query: those whose inputs lie nearest to it in some embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from transformer_lens import HookedTransformer

from ..engine import Progress, capture, quiet
from ..selection.spaces import ENCODER, Encoder, space_from_texts
from ..tasks import Example, Split, Task, demonstrations, input_key
from ..tasks.drawing import Pool
from ..tasks.templates import body

Embed = Callable[[Sequence[str]], Float[np.ndarray, "sample d_model"]]

# Calls whose result is remembered: a pool and the queries of a few dozen targets.
_REMEMBERED = 64
# Cosines are compared to so many decimals: what ties on paper ties here, whatever the last bits say.
_DECIMALS = 9


def sentence_embedding(encoder: str | Encoder = ENCODER) -> Remembered:
    """Sentence embeddings, by default of the encoder that arXiv 2405.10548 (section 4.3) uses.

    It needs the extra ``embed`` (sentence-transformers) and fetches the encoder when it is first used.

    Args:
        encoder: a sentence-transformers name or local folder, or an object with ``encode``.

    Raises:
        ValueError: on the first call, when the package is missing or the encoder cannot be loaded.
    """
    return Remembered(lambda texts: space_from_texts(texts, encoder=encoder))


def residual_embedding(
    model: HookedTransformer, *, layer: int | None = None, chat: bool = False, progress: Progress = quiet
) -> Remembered:
    """The model's own view of a text: the residual at its last token, by default after the middle block.

    It needs no second model and is therefore the default. It is not the paper's embedding: the last token of a
    formatted input is the answer cue, so texts lie near each other when the model is about to answer alike, not only
    when they speak of the same.

    Raises:
        ValueError: a layer out of range.
    """
    chosen = residual_layer(model) if layer is None else layer

    def embed(texts: Sequence[str]) -> Float[np.ndarray, "sample d_model"]:
        return capture(model, list(texts), layers=(chosen,), chat=chat, progress=progress)[:, 0].numpy()

    return Remembered(embed)


def residual_layer(model: HookedTransformer) -> int:
    """The block whose output ``residual_embedding`` takes unless told otherwise: the middle one."""
    return int(model.cfg.n_layers) // 2


class Remembered:
    """An embedding that does not repeat a call.

    Whole calls are remembered, not single texts: what a text comes out as may depend, in its last bits, on the texts
    that run beside it.

    Attributes:
        anew: the embedding itself, which remembers nothing.
    """

    def __init__(self, embed: Embed) -> None:
        self.anew = embed
        self._once: Callable[[tuple[str, ...]], Float[np.ndarray, "sample d_model"]]
        self._once = lru_cache(maxsize=_REMEMBERED)(embed)

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "sample d_model"]:
        """One row a text."""
        """One row a text."""
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
        seed: of that draw.

    Raises:
        ValueError: fewer candidates than shots; embeddings of a wrong shape, not finite, or zero.
    """
    offered = _offered(source, pool, candidates, seed)
    if not 1 <= shots <= len(offered):
        raise ValueError(
            f"shots={shots} must be from 1 to {len(offered)}, the examples of {source.name!r} that are searched"
        )
    known = _unit(embed, [body(source, example) for example in offered], f"examples of {source.name!r}")
    asked = _unit(embed, [body(target, example) for example in examples], f"queries of {target.name!r}")
    if known.shape[1] != asked.shape[1]:
        raise ValueError(
            f"embed gave rows of width {known.shape[1]} and {asked.shape[1]}; one width is needed"
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


def _offered(source: Task, pool: Split, candidates: int | None, seed: int) -> list[Example]:
    """Examples to search, one an input, in the order of ids."""
    everything = [example for members in Pool.of(source, pool).classes for example in members]
    if candidates is not None and candidates < len(everything):
        everything = list(demonstrations(source, shots=candidates, seed=seed, pool=pool))
    return sorted(everything, key=lambda example: example.id)


def _unit(embed: Embed, texts: list[str], what: str) -> Float[np.ndarray, "sample d_model"]:
    rows = np.asarray(embed(texts), dtype=np.float64)
    if rows.ndim != 2 or len(rows) != len(texts):
        raise ValueError(f"embed gave shape {rows.shape} for {len(texts)} {what}; expected one row a text")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(rows).all() and (lengths > 0).all()):
        raise ValueError(
            f"embed gave a zero row or one that is not finite for the {what}; no cosine is defined"
        )
    return rows / lengths
