"""What every test shares: no network, one thread of tokenizers, and the embedded model loaded once."""

from __future__ import annotations

import os

# Before any import of transformers or tokenizers, which read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cast_lens.models.lens import HookedTransformer


# Tests of what a ``HookedTransformer`` has and a ``HookedDecoder`` lacks: a KV cache, streaming, blocks that can be run
# by themselves, re-entry at a layer. TransformerLens 4 has no ``HookedTransformer``.
_OF_HOOKED_TRANSFORMER = {
    "test_equality.py": ("test_all_but_two_architectures_take_the_fast_path",),
    "test_decoder.py": (
        "test_a_folder_of_an_unknown_architecture_loads",
        "test_a_known_architecture_can_be_run_by_its_own_modules",
    ),
    "test_hooks.py": (
        "test_nothing_is_left_after_an_exception_in_a_pass",
        "test_an_error_of_the_callers_own_is_not_covered_up",
        "test_tokens_behind_a_cache_that_may_be_prompt_or_answer",
        "test_passes_that_stop_below_the_layer",
        "test_a_pass_that_begins_above_the_layer",
        "test_a_prompt_that_ran_before_the_context",
        "test_one_pass_that_reaches_the_layer_is_enough",
        "test_a_block_by_itself",
    ),
    "test_steering.py": (
        "test_gradients_reach_the_direction",
        "test_every_call_is_steered_alike",
        "test_re_entry_at_a_layer",
        "test_a_compiled_model_is_steered_as_its_original",
    ),
    "test_steered_decoding.py": (
        "test_generate_equals_the_loop_with_plain_hooks",
        "test_on_every_architecture",
        "test_token_and_embedding_input",
        "test_generate_stream",
        "test_by_hand_with_a_cache",
        "test_prompts_behind_a_shared_prefix",
        "test_in_two_halves_with_a_cache",
        "test_answers_end_at_stop_and_at_end_of_text",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what shares a fixture of its module, and skip tests of a model class that is not installed."""
    for item in items:
        if _shares_a_fixture(item) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    if int(version("transformer-lens").split(".")[0]) < 4:
        return
    skip = pytest.mark.skip(reason="TransformerLens 4 has no HookedTransformer")
    for item in items:
        if item.name.split("[")[0] in _OF_HOOKED_TRANSFORMER.get(item.path.name, ()):
            item.add_marker(skip)


def _shares_a_fixture(item: pytest.Item) -> bool:
    """Whether a test uses a fixture of its module: several processes would each make it."""
    known = getattr(item, "_fixtureinfo", None)
    return known is not None and any(found[-1].scope == "module" for found in known.name2fixturedefs.values())


@pytest.fixture(scope="session")
def embedded() -> HookedTransformer:
    """The embedded model, float32 on the CPU; tests that use it carry ``@pytest.mark.model``."""
    from cast_lens.models import load_model

    return load_model()
