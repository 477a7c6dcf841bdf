"""A converted model gives the logits of the model it came from."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import ARCHITECTURES, VOCAB, tiny_hf_model, tiny_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_hugging_face(architecture: str) -> None:
    ids = torch.randint(3, VOCAB, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tiny_hf_model(architecture)(ids).logits
        got = tiny_model(architecture)(ids)
    # Float32 sums in another order: a few units in the last place of the largest logit.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert expected.std() > 0.5
