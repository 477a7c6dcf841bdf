"""What TransformerLens calls a model: its own class in 3.9, and in 4.x, which has none, what it leaves to build on."""

from __future__ import annotations

from typing import Any

try:
    from transformer_lens import HookedTransformer
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
except ImportError:  # removed in 4.0
    from transformer_lens import ActivationCache, HookedRootModule
    from transformer_lens import TransformerBridgeConfig as HookedTransformerConfig  # type: ignore[assignment]

    class HookedTransformer(HookedRootModule):  # type: ignore[no-redef]
        """What a ``HookedDecoder`` is in TransformerLens 4.x; there is no other model of this class."""

        HAS_BLOCKS = False

        def run_with_cache(self, *args: Any, return_cache_object: bool = True, **kwargs: Any) -> Any:
            """As TransformerLens 3.9 has it: an ``ActivationCache``, or a dictionary when that is asked for."""
            output, cache = super().run_with_cache(*args, **kwargs)
            removed = bool(kwargs.get("remove_batch_dim", False))
            return output, ActivationCache(cache, self, has_batch_dim=not removed) if return_cache_object else cache


def has_hooked_transformer() -> bool:
    """Whether the installed TransformerLens has blocks of its own, and converts weights to them."""
    return getattr(HookedTransformer, "HAS_BLOCKS", True)


__all__ = ["HookedTransformer", "HookedTransformerConfig", "has_hooked_transformer"]
