"""Placebos of experiments that steer with the contrastive mean alone."""

from __future__ import annotations

import zlib

from ..placebos import random_direction
from ..vectors import SteeringVector
from .bench import Bench

RANDOM = "placebo: random direction"


def random_placebo(bench: Bench, source: str, *, draw: int = 0) -> SteeringVector:
    """A random direction of the norm of a source's contrastive mean, another one for every source and draw.

    One seed for all sources would give one direction for all of them: a single draw that looks like several.
    """
    seed = zlib.crc32(f"{source} {bench.config.seed} {draw}".encode())
    return random_direction(bench.vector(source), seed=seed)
