"""The space in which samples are compared: residuals, difference vectors, sentence embeddings, or any array.

Similarity is the cosine after subtracting the mean of all samples, as in vote-k (arXiv 2209.01975) and IDEAL
(arXiv 2310.10873). Without centring, residuals share one large component that hides how they differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import ThreadpoolController

from ..vectors import DifferenceVectors

Of = Literal["zero_shot", "difference", "few_shot"]
OF: tuple[Of, ...] = ("zero_shot", "difference", "few_shot")
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"

Item = TypeVar("Item")
Result = TypeVar("Result")

# 4 M float64 entries are 32 MB: small beside any space worth blocking, large enough to feed BLAS.
BLOCK_ENTRIES = 4_000_000
# A centred row this much shorter than the longest raw row is rounding, not a direction.
AT_THE_MEAN = 1e-9


@runtime_checkable
class Encoder(Protocol):
    """What ``space_from_texts`` needs of a sentence encoder; a ``SentenceTransformer`` has it."""

    def encode(self, sentences: list[str], **options: Any) -> Any:
        """One embedding per sentence."""
        ...


def space_from_residuals(
    vectors: DifferenceVectors, layer: int, *, of: Of = "zero_shot"
) -> Float[np.ndarray, "sample d_model"]:
    """The model's own view of its samples at one layer: no second model is needed.

    Args:
        vectors: captured residuals of the source samples.
        layer: block index, one that ``vectors`` holds.
        of: ``zero_shot`` residuals (the default), ``few_shot`` residuals, or their ``difference``.

    Returns:
        [sample, d_model], float32, not yet centred.

    Raises:
        ValueError: when the layer is not held or ``of`` is unknown.
    """
    if of not in OF:
        raise ValueError(f"of={of!r} is unknown; choose one of {', '.join(OF)}")
    difference = vectors.at(layer)
    if of == "difference":
        return difference.float().numpy()
    side = vectors.zero_shot if of == "zero_shot" else vectors.few_shot
    return side[:, vectors.layers.index(layer)].float().contiguous().numpy()


def space_from_texts(
    texts: Sequence[str], *, encoder: str | Encoder = ENCODER, batch_size: int = 64
) -> Float[np.ndarray, "sample d_model"]:
    """Sentence embeddings of the samples, as vote-k and IDEAL use them.

    Args:
        texts: one text per sample, e.g. the zero-shot prompt or the bare input.
        encoder: a sentence-transformers name or local folder, or an object with ``encode``.
        batch_size: texts encoded at once.

    Returns:
        [sample, d_model], float32, not yet centred.

    Raises:
        ValueError: for no texts, a blank text (named by row), a missing ``sentence-transformers`` package, or
            an encoder that cannot be loaded or does not return one row per text.
    """
    if isinstance(texts, str) or not texts:
        raise ValueError("texts must be a non-empty sequence of strings, one per sample")
    blank = np.array([not text.strip() for text in texts])
    if blank.any():
        raise ValueError(f"texts: {name_rows(blank)} blank; an empty text has no embedding, drop it")
    model = _load_encoder(encoder) if isinstance(encoder, str) else encoder
    rows = model.encode(list(texts), batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False)
    space = np.asarray(rows, dtype=np.float32)
    if space.ndim != 2 or len(space) != len(texts):
        raise ValueError(f"encoder returned shape {space.shape} for {len(texts)} texts; expected one row per text")
    return space


@lru_cache(maxsize=2)
def _load_encoder(name: str) -> Encoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"encoder={name!r} needs the package sentence-transformers: pip install 'cast-lens[embed]', "
            "or use space_from_residuals, which needs no second model"
        ) from error
    try:
        return SentenceTransformer(name)
    except (OSError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"encoder={name!r} cannot be loaded ({first}); give the name or the local folder of a "
            "sentence-transformers model"
        ) from error


def name_rows(mask: Bool[np.ndarray, " sample"], *, shown: int = 8) -> str:
    """The rows of a mask in words: ``rows 3, 17 (and 5 more) are``."""
    rows = np.flatnonzero(mask)
    more = f" (and {len(rows) - shown} more)" if len(rows) > shown else ""
    listed = ", ".join(str(row) for row in rows[:shown])
    return f"row {listed} is" if len(rows) == 1 else f"rows {listed}{more} are"


def as_rows(name: str, values: Any) -> Float[np.ndarray, "sample d"]:
    """An array or tensor as a checked [n, d] float32 or float64 array.

    Raises:
        ValueError: when it is not two-dimensional, empty, not numeric, or holds NaN or infinity (named by
            row).
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    rows = np.asarray(values)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"{name} must be a non-empty [sample, d_model] array, got shape {rows.shape}")
    if rows.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got dtype {rows.dtype}")
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32 if rows.dtype == np.float16 else np.float64)
    finite = np.concatenate([np.isfinite(rows[block]).all(axis=1) for block in row_blocks(*rows.shape)])
    if not finite.all():
        raise ValueError(f"{name}: {name_rows(~finite)} NaN or infinite; drop them or check the run that made them")
    return rows


def unit_rows(
    space: Float[np.ndarray, "sample d_model"], dtype: type[np.floating[Any]]
) -> tuple[Float[np.ndarray, "sample d_model"], Bool[np.ndarray, " sample"]]:
    """Mean-centred rows of length 1, and which rows have a direction at all.

    A row at the mean has none: it becomes zeros, similar to nothing.

    Args:
        space: checked rows, as ``as_rows`` returns them.
        dtype: dtype of the result; the arithmetic is float64.

    Raises:
        ValueError: when a row is a zero vector (named), or all of two or more rows are identical.
    """
    blocks = row_blocks(*space.shape)
    scale = max(float(np.abs(space[block]).max()) for block in blocks) or 1.0
    raw = np.concatenate([np.linalg.norm(space[block] / scale, axis=1) for block in blocks])
    if not raw.all():
        raise ValueError(f"space: {name_rows(raw == 0)} zero; a zero vector has no direction, drop it from the pool")
    mean = space.mean(axis=0, dtype=np.float64) / scale
    units = np.empty(space.shape, dtype=dtype)
    located = np.empty(len(space), dtype=bool)
    for block in blocks:
        centred = space[block].astype(np.float64) / scale - mean
        norm = np.linalg.norm(centred, axis=1, keepdims=True)
        located[block] = norm[:, 0] > AT_THE_MEAN * raw.max()
        units[block] = np.where(located[block, None], centred / np.where(norm > 0, norm, 1.0), 0.0)
    if len(space) > 1 and not located.any():
        raise ValueError(
            f"space: all {len(space)} rows are identical, so the samples cannot be distinguished; "
            "use method='random' or another layer, or look at what made the rows"
        )
    return units, located


def count_duplicates(space: Float[np.ndarray, "sample d_model"]) -> int:
    """How many rows repeat an earlier row exactly."""
    return len(space) - len({hash(row.tobytes()) for row in space})


@contextmanager
def single_threaded() -> Iterator[None]:
    """Hold BLAS and OpenMP to one thread, so that ``map_blocks`` decides what runs in parallel.

    A matrix product summed by two threads rounds otherwise than one summed by a single thread, and one unit in the last
    place is enough to swap two neighbours. Python threads therefore share out independent blocks of rows.
    """
    with _controller().limit(limits=1):
        yield


@cache
def _controller() -> ThreadpoolController:
    # Looking for the loaded libraries takes milliseconds, and numpy's are loaded by now.
    return ThreadpoolController()


def row_blocks(rows: int, width: int, *, entries: int = BLOCK_ENTRIES) -> list[slice]:
    """Slices of ``range(rows)``, each with at most ``entries`` cells when a row is ``width`` wide."""
    step = max(1, entries // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def available_threads(threads: int | None) -> int:
    """``threads``, or the number of cores that this process may use."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_blocks(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int | None = None
) -> list[Result]:
    """``[function(item) for item in items]``, in order, over threads."""
    work = list(items)
    count = min(available_threads(threads), len(work))
    if count <= 1:
        return [function(item) for item in work]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, work))
