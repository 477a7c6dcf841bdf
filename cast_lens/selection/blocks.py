"""Work split over threads so that the numbers do not depend on how many there are.

A matrix product summed by two BLAS threads rounds otherwise than one summed by a single thread, and one unit
in the last place is enough to swap two neighbours. Products therefore run on one BLAS thread each, and Python
threads share out independent blocks of rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")

# 4 M float64 entries are 32 MB: small beside any space worth blocking, large enough to feed BLAS.
BLOCK_ENTRIES = 4_000_000


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread, so that ``map_blocks`` decides what runs in parallel."""
    with _controller().limit(limits=1, user_api="blas"):
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
