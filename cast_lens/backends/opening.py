"""A backend by its name: checked before work starts, opened when it is first asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import torch

from ..interventions import Intervention, Operator, Position
from ..models.lens import HookedTransformer
from ..share.export import easysteer_spec
from .protocol import Backend, EngineBackend, HookBackend
from .served import EasySteerBackend, VllmLensBackend, easysteer_api, lens_check, vllm_lens_api

BackendName = Literal["engine", "hooks", "easysteer", "vllm-lens"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
_ALGORITHMS: Mapping[Operator, str] = {
    "add": "direct",
    "norm_preserving_add": "direct",
    "ablate": "erase",
    "replace": "replace",
}


def check_backend(
    name: str, *, operator: Operator = "add", position: Position = "last", strengths: Sequence[float] = ()
) -> None:
    """Refuse a backend that is not there, or cannot steer like that.

    Args:
        name: one of ``BACKENDS``.
        operator, position, strengths: what it will be asked for.

    Raises:
        ValueError: an unknown name, a package that is not installed, an intervention that it cannot express.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is unknown; choose from {', '.join(BACKENDS)}")
    for strength in strengths:
        asked = Intervention(torch.ones(2), 1, strength, operator, position)
        if name == "easysteer":
            easysteer_spec(asked)
        elif name == "vllm-lens":
            lens_check(asked)
    if name == "easysteer":
        easysteer_api()
    elif name == "vllm-lens":
        vllm_lens_api()


def open_backend(
    name: str,
    model: HookedTransformer,
    *,
    served: str = "",
    dtype: str = "float32",
    operator: Operator = "add",
    arguments: Mapping[str, Any] | None = None,
) -> Backend:
    """A backend that holds a model; opened once, and kept until another one is asked for.

    Args:
        name: one of ``BACKENDS``.
        model: the model in this process; serving engines take its context length.
        served: hub name or folder of the same model, for an engine that loads it itself.
        dtype: of a served model.
        operator: what will be asked for; EasySteer wants to know.
        arguments: for ``vllm.LLM``, such as ``tensor_parallel_size``.

    Raises:
        ValueError: as ``check_backend``.
    """
    check_backend(name)
    if name == "engine":
        return EngineBackend(model)
    if name == "hooks":
        return HookBackend(model)
    given = json.dumps({"model": served, "dtype": dtype, **(arguments or {})}, sort_keys=True)
    return _served(name, given, int(model.cfg.n_ctx), operator)


@lru_cache(maxsize=1)
def _served(name: str, given: str, context: int, operator: Operator) -> Backend:
    """A serving engine of its own; ``given`` are the arguments of ``vllm.LLM`` as JSON."""
    from vllm import LLM

    if name == "vllm-lens":
        return VllmLensBackend(LLM(**json.loads(given)), context=context)
    llm = LLM(**json.loads(given), enable_steer_vector=True, steer_algorithms=[_ALGORITHMS[operator]])
    return EasySteerBackend(llm, context=context)
