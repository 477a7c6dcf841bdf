"""Language vectors: the mean difference of parallel texts (arXiv 2602.02326).

    v[l] = mean over parallel items of  h[l](text in the target's language) - h[l](text in the source's language)

at the last token of the bare texts, without instruction, cue or answer. It says which language a text is in and nothing
of the task: in ``cross-lingual`` it is what a task's vector that crosses languages has to beat.

What this does not show: translations differ in length and last word, and a difference of last tokens holds that too;
the paper takes 19 languages and thousands of sentences, a task of the suite has some dozens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..extraction import difference_vectors
from ..models.lens import HookedTransformer
from ..tasks import Split, Task
from ..vectors import SteeringVector


def language_vector(
    model: HookedTransformer,
    source: Task,
    target: Task,
    *,
    split: Split = "train",
    layers: Sequence[int] | None = None,
) -> SteeringVector:
    """From the language of one task to that of another, by their parallel items.

    Args:
        model: any ``HookedTransformer``.
        source, target: one task in two languages: parallel items have the same id.
        split: whose items are compared.
        layers: block indices (all when None).

    Raises:
        ValueError: tasks without a parallel item.

    >>> import cast_lens as cl
    >>> english, german = (cl.load_task(f"review-sentiment{end}") for end in ("", ".de"))
    >>> cl.methods.language_vector(model, english, german).norm()  # doctest: +SKIP
    """
    theirs = {example.id: example.input for example in target.split(split)}
    pairs = [(theirs[one.id], one.input) for one in source.split(split) if one.id in theirs]
    if not pairs:
        raise ValueError(
            f"{source.name!r} and {target.name!r} have no parallel item in their {split} splits; give one task in two "
            "languages, whose items keep their ids"
        )
    made = difference_vectors(model, pairs=pairs, layers=layers).mean()
    note = f"language vector: mean difference of {len(pairs)} parallel texts"
    about = replace(made.provenance, task=f"{source.language} to {target.language}", note=note)
    return SteeringVector(made.directions, made.layers, about)
