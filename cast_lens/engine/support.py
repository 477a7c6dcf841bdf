"""Which models the fast path reproduces. All others are recognised here and take the plain route.

The checks of a ``HookedTransformer`` are in ``hooked_support``. It is never imported under TransformerLens 4, which has
no such class.
"""

from __future__ import annotations

import weakref

from ..models.decoder import HookedDecoder
from ..models.lens import HookedTransformer
from .huggingface import HuggingFaceRows
from .huggingface_probe import UnfitError, probe
from .model import RowModel


def unsupported(model: object) -> str | None:
    """Why the fast path would not reproduce this model exactly; None when it would.

    The answer depends on the configuration, the classes of the model's modules, its device placement, and on
    hooks that are attached right now: the fast path fires no hooks.
    """
    if isinstance(model, HookedDecoder):
        # Checked first: a model cannot be probed while hooks are attached.
        tampered = _tampered(model)
        found = _probed(model) if tampered is None else tampered
        return found if isinstance(found, str) else None
    if not isinstance(model, HookedTransformer) or type(model).forward is not HookedTransformer.forward:
        return f"{type(model).__name__} is not a plain HookedTransformer"
    from .hooked_support import unknown_to_hooked

    return unknown_to_hooked(model) or _tampered(model)


def row_model(model: HookedTransformer) -> RowModel:
    """A model as functions of rows. Call it only for models that ``unsupported`` accepts."""
    if not isinstance(model, HookedDecoder):
        from .hooked import hooked_rows

        return hooked_rows(model)
    found = _probed(model)
    assert not isinstance(found, str)
    return found


_known: weakref.WeakKeyDictionary[HookedDecoder, HuggingFaceRows | str] = weakref.WeakKeyDictionary()


def _probed(model: HookedDecoder) -> HuggingFaceRows | str:
    """A decoder as functions of rows, or the reason why that is impossible; each model is probed once."""
    if model not in _known:
        try:
            _known[model] = probe(model)
        except UnfitError as reason:
            _known[model] = str(reason)
    return _known[model]


def _tampered(model: HookedTransformer) -> str | None:
    """Names hooks (of TransformerLens or PyTorch) and ``forward`` methods that were replaced on an instance."""
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"hooks are attached ({name or 'the model'})"
        # accelerate only moves a module's weights to the device where they are used, which changes no number.
        if "forward" in vars(module) and not hasattr(module, "_hf_hook"):
            return f"{name or 'the model'} has a forward of its own"
    return None
