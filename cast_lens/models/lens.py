"""What TransformerLens calls a model: its own class in 3.9, and in 4.x, which has none, what it leaves to build on."""

from __future__ import annotations

try:
    from transformer_lens import HookedTransformer
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
except ImportError:  # removed in 4.0
    from transformer_lens import HookedRootModule
    from transformer_lens import TransformerBridgeConfig as HookedTransformerConfig

    class HookedTransformer(HookedRootModule):  # type: ignore[no-redef]
        """What a ``HookedDecoder`` is in TransformerLens 4.x; there is no other model of this class."""

        HAS_BLOCKS = False


def has_hooked_transformer() -> bool:
    """Whether the installed TransformerLens has blocks of its own, and converts weights to them."""
    return getattr(HookedTransformer, "HAS_BLOCKS", True)


__all__ = ["HookedTransformer", "HookedTransformerConfig", "has_hooked_transformer"]
