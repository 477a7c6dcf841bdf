"""Methods that change the residual stream: the source's mean difference vector, and its placebos.

Each placebo is steered at the same layer and strength as the vector that it stands beside, with the same norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..interventions import Operator, Position
from ..placebos import random_direction
from ..tasks import Prompt
from ..vectors import SteeringVector
from .conditions import Condition


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how strongly to steer; chosen on the source's own validation split, never with target labels.

    Attributes:
        layer: block index.
        strength: factor on the vector.
        operator: see ``Intervention``.
        position: see ``Intervention``.
    """

    layer: int
    strength: float
    operator: Operator = "add"
    position: Position = "last"


def steered(
    vector: SteeringVector,
    prompts: tuple[Prompt, ...],
    setting: Setting,
    *,
    source: str,
    method: str = "steered",
    seed: int = 0,
) -> Condition:
    """Zero-shot prompts with the source's vector in the residual stream (arXiv 2507.13236, step 3)."""
    edit = vector.intervention(
        setting.layer, strength=setting.strength, operator=setting.operator, position=setting.position
    )
    return Condition(method, prompts, source=source, intervention=edit, seed=seed)


def placebo_random(
    vector: SteeringVector, prompts: tuple[Prompt, ...], setting: Setting, *, source: str, seed: int
) -> Condition:
    """A random direction of the vector's norm."""
    noise = random_direction(vector, seed=seed)
    return steered(noise, prompts, setting, source=source, method="placebo: random direction", seed=seed)


def placebo_shuffled(
    shuffled: SteeringVector,
    vector: SteeringVector,
    prompts: tuple[Prompt, ...],
    setting: Setting,
    *,
    source: str,
    seed: int = 0,
) -> Condition:
    """The mean difference vector of demonstrations with shuffled answers, scaled to the vector's norm.

    What it does as well as the vector, the right answers in the demonstrations did not do.

    Raises:
        ValueError: when the shuffled vector is zero at the setting's layer.
    """
    own, other = vector.at(setting.layer).norm(), shuffled.at(setting.layer).norm()
    if not bool(other > 0):
        raise ValueError(f"the shuffled-label vector of {source!r} is zero at layer {setting.layer}")
    scaled = shuffled * float(torch.div(own, other))
    return steered(scaled, prompts, setting, source=source, method="placebo: shuffled labels", seed=seed)
