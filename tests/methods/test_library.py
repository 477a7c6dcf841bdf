"""A library finds planted tasks, leaves strangers alone, and is the same after a round trip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cast_lens.engine import score
from cast_lens.methods import Setting, VectorLibrary
from cast_lens.models import fingerprint
from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import Prompt
from cast_lens.vectors import Provenance, SteeringVector
from tests.closeness import assert_close
from tests.methods.planted import noise
from tests.tiny import tiny_model

KINDS = ("alpha", "beta", "gamma")


@cache
def model_of(seed: int = 0) -> HookedTransformer:
    return tiny_model("llama", seed=seed)


def embed(texts: Sequence[str]) -> np.ndarray:
    """Planted: a text's first word says where it is; the rest is a little noise."""
    rows = []
    for text in texts:
        kind, number = text.split()
        place = np.zeros(6, dtype=np.float32)
        place[{"alpha": 0, "beta": 1, "gamma": 2, "stranger": 3}[kind]] = 5
        rows.append(place + 0.1 * np.random.default_rng(int(number)).normal(size=6))
    return np.stack(rows).astype(np.float32)


def asked(kind: str, count: int, *, start: int = 0) -> list[Prompt]:
    return [Prompt((), f"{kind} {start + i}", "yes", ("yes", "no"), kind, f"{kind}-{i}") for i in range(count)]


def built(**options: float) -> VectorLibrary:
    origin = Provenance("tiny", fingerprint(model_of()), "t")
    vectors = {
        kind: (SteeringVector(noise(3, 64, seed=i), (0, 1, 2), origin), Setting(i % 2 + 1, 2.0))
        for i, kind in enumerate(KINDS)
    }
    queries = {kind: asked(kind, 6) for kind in KINDS}
    return VectorLibrary.build(model_of(), vectors, queries, embed=embed, **options)  # type: ignore[arg-type]


def test_each_query_gets_its_own_task_and_strangers_get_nothing() -> None:
    library = built(recall=1.0)
    prompts = [*asked("beta", 2, start=50), *asked("stranger", 2), *asked("gamma", 1, start=50)]
    found = library.retrieve(model_of(), prompts, embed=embed)
    assert found.chosen == (("beta",), ("beta",), (), (), ("gamma",))
    assert found.left_alone == pytest.approx(0.4)
    assert found.layers == (0, 1, 2)
    assert_close(found.directions[0, 2], 2 * library.directions[1, 2])
    assert int(torch.count_nonzero(found.directions[0, [0, 1]])) == 0
    assert int(torch.count_nonzero(found.directions[2])) == 0
    assert found.to_frame()["left_alone"].tolist() == [False, False, True, True, False]


def test_the_threshold_lets_the_asked_share_through() -> None:
    half = built(recall=0.5)
    own = [
        half._own_similarities(i, torch.from_numpy(embed([p.query for p in asked(k, 6)]))) for i, k in enumerate(KINDS)
    ]
    passing = float((torch.cat(own) >= half.threshold).float().mean())
    assert passing == pytest.approx(0.5, abs=0.06)
    assert built(recall=1.0).threshold <= half.threshold


def test_published_averaging_takes_those_below_once_one_passes() -> None:
    library, prompts = built(recall=1.0), asked("alpha", 1, start=9)
    strict = library.retrieve(model_of(), prompts, embed=embed, k=3)
    loose = library.retrieve(model_of(), prompts, embed=embed, k=3, include_below=True)
    assert strict.chosen == (("alpha",),)
    assert set(loose.chosen[0]) == set(KINDS)
    # Layers 1, 2 and 1: the majority is 1, and each vector is taken there.
    assert_close(loose.directions[0, 1], 2 * library.directions[:, 1].mean(dim=0))
    always = library.retrieve(model_of(), asked("stranger", 1), embed=embed, threshold=-1)
    assert len(always.chosen[0]) == 1
    without = library.retrieve(model_of(), prompts, embed=embed, without=["alpha"])
    assert without.chosen[0] != ("alpha",)


def test_its_steering_is_that_of_the_vectors_and_its_placebo_is_retrieved_as_often() -> None:
    library, model = built(recall=1.0), model_of()
    prompts = [*asked("alpha", 2, start=70), *asked("stranger", 2)]
    found = library.retrieve(model, prompts, embed=embed)
    scores = score(model, prompts, [found.intervention()])
    for index, (names, logprobs) in enumerate(zip(found.chosen, scores.answer_logprobs, strict=True)):
        if not names:
            assert_close(logprobs[1], logprobs[0])
            continue
        entry = library.names.index(names[0])
        layer, strength = library.settings[entry]
        vector = SteeringVector(library.directions[entry], library.layers, library.provenances[entry])
        alone = score(
            model, prompts[index : index + 1], [vector.intervention(layer, strength=strength, position="prompt_last")]
        )
        assert_close(logprobs[1], alone.answer_logprobs[0][1])
    assert found.placebo(seed=3).left_alone == found.left_alone


def test_saved_loaded_and_refused(tmp_path: Path) -> None:
    library = built()
    again = VectorLibrary.load(library.save(tmp_path / "library.safetensors"))
    assert (again.names, again.layers, again.settings, again.threshold, again.provenances) == (
        library.names, library.layers, library.settings, library.threshold, library.provenances,
    )  # fmt: skip
    assert torch.equal(again.directions, library.directions)
    assert torch.equal(again.keys, library.keys)
    with pytest.raises(ValueError, match="fingerprint"):
        library.retrieve(model_of(1), asked("alpha", 1), embed=embed)
    with pytest.raises(ValueError, match="64 numbers"):
        library.retrieve(model_of(), asked("alpha", 1))
    with pytest.raises(ValueError, match="k=0"):
        library.retrieve(model_of(), asked("alpha", 1), k=0, embed=embed)
    with pytest.raises(ValueError, match="empty"):
        VectorLibrary.build(model_of(), {}, {})
    vector = SteeringVector(noise(3, 64, seed=1), (0, 1, 2), library.provenances[0])
    with pytest.raises(ValueError, match="two or more"):
        VectorLibrary.build(model_of(), {"alpha": (vector, 1, 1.0)}, {"alpha": asked("alpha", 1)}, embed=embed)
