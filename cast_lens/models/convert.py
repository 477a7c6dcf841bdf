"""Hugging Face weights into a ``HookedTransformer``, unprocessed: a residual here is the residual there."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .config import config_from_huggingface
from .lens import HookedTransformer, HookedTransformerConfig
from .list import architecture_of


@torch.no_grad()
def convert(
    hf_model: PreTrainedModel, *, name: str, dtype: torch.dtype, device: torch.device, copy: bool
) -> HookedTransformer:
    """The same model as a ``HookedTransformer``, in ``eval()`` mode.

    Where TransformerLens keeps the numbers of Hugging Face in another order, its weights are views of theirs:
    that costs no memory, and its products (which put the order back) no copy per call. A tied embedding and
    unembedding share their storage, as they do there.

    Args:
        hf_model: source of the weights.
        name: recorded as ``cfg.model_name``.
        dtype: of the result.
        device: of the result.
        copy: own every weight, so that a later change of ``hf_model`` does not reach the result.

    Raises:
        ValueError: when the architecture or its config cannot be represented, or a weight is missing.
    """
    cfg = config_from_huggingface(hf_model.config)
    cfg.model_name, cfg.dtype, cfg.device = name, hf_model.dtype, str(hf_model.device)
    state = architecture_of(hf_model.config).weights(hf_model, cfg)
    cfg.dtype, cfg.device = dtype, str(device)
    model = unfilled_model(cfg)
    _fill(model, {key: weight.detach().to(device, dtype, copy=copy) for key, weight in state.items()})
    return model.to(device, print_details=False).eval()


def _fill(model: HookedTransformer, state: dict[str, Tensor]) -> None:
    known = set(model.state_dict())
    # Some converters spell out zero biases that the model has no place for.
    stray = [key for key in state.keys() - known if state[key].any()]
    given = {key: weight for key, weight in state.items() if key in known}
    missing, _ = model.load_state_dict(given, strict=False, assign=True)
    parameters = {key for key, _ in model.named_parameters()}
    absent = sorted(key for key in parameters.intersection(missing) if not _is_bias(key))
    if absent or stray:
        raise ValueError(
            f"the weights of {model.cfg.model_name!r} do not fit {model.cfg.original_architecture}: "
            f"missing {absent[:4]}, without a place {stray[:4]}; is this the config it was trained with?"
        )


def _is_bias(key: str) -> bool:
    """Whether a parameter may stay at the zeros it was made with: a bias that an architecture lacks."""
    return key.rsplit(".", 1)[-1].lstrip("_").startswith("b_")


def unfilled_model(cfg: HookedTransformerConfig) -> HookedTransformer:
    """A model of the right shape whose parameters are still to be assigned.

    TransformerLens 3.9 warns at every construction that 4.0 drops this class. We pin ``<4``, because only
    this class can re-enter at a layer and reuse a KV cache; a user can do nothing about the warning, so it
    is silenced here and nowhere else.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        return HookedTransformer(cfg, tokenizer=None, move_to_device=False)
