"""What every test shares: no network, one thread of tokenizers, and the embedded model loaded once."""

from __future__ import annotations

import os

# Before any import of transformers or tokenizers, which read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cast_lens.models.lens import HookedTransformer


@pytest.fixture(scope="session")
def embedded() -> HookedTransformer:
    """The embedded model, float32 on the CPU; tests that use it carry ``@pytest.mark.model``."""
    from cast_lens.models import load_model

    return load_model()
