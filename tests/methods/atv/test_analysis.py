"""Frames on generated vectors, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cast_lens.methods.atv import Design, Training, train
from cast_lens.methods.atv.analysis import (
    Generated,
    generate_vectors,
    generated_against,
    generated_cloud,
    generated_cosines,
    generated_norms,
)
from cast_lens.vectors import Provenance, SteeringVector
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_model

# Two tasks of two samples at one layer: unit vectors along known axes, with a common part of 3 along the last axis.
POINTS = torch.tensor([[1.0, 0, 3], [1, 0, 3], [0, 1, 3], [0, 2, 3]])
KNOWN = Generated(POINTS[:, None], (4,), ("a", "a", "b", "b"), ("a0", "a1", "b0", "b1"))


def test_cosines_within_and_between_tasks() -> None:
    frame = generated_cosines(KNOWN).set_index(["task_a", "task_b"])
    assert frame["kind"].to_dict() == {("a", "a"): "within", ("a", "b"): "between", ("b", "b"): "within"}
    assert frame["n"].to_dict() == {("a", "a"): 1, ("a", "b"): 4, ("b", "b"): 1}
    assert frame.loc[("a", "a"), "cosine"] == pytest.approx(1)
    assert frame.loc[("b", "b"), "cosine"] == pytest.approx(11 / (10**0.5 * 13**0.5))
    between = (9 / 10 + 9 / (10**0.5 * 13**0.5)) / 2
    assert frame.loc[("a", "b"), "cosine"] == pytest.approx(between)
    # Without the common part the tasks lie opposite: their means are (0.5, -0.75) away from the centre, and back.
    assert frame.loc[("a", "b"), "centred_cosine"] < -0.5 < frame.loc[("a", "b"), "cosine"]


def test_norms() -> None:
    frame = generated_norms(KNOWN)
    assert frame["norm"].tolist() == pytest.approx([10**0.5, 10**0.5, 10**0.5, 13**0.5])
    assert frame["sample_id"].tolist() == ["a0", "a1", "b0", "b1"]


def constant(values: list[float], layer: int = 4) -> SteeringVector:
    return SteeringVector(torch.tensor([values], dtype=torch.float32), (layer,), Provenance("m", "f", "a"))


def test_parallelism_with_constant_vectors() -> None:
    frame = generated_against(KNOWN, {"a": constant([1, 0, 3]), "c": constant([0, 0, -1])})
    rows = frame.set_index(["task", "source"])
    assert rows.loc[("a", "a"), "cosine"] == pytest.approx(1)
    assert rows.loc[("b", "c"), "cosine"] == pytest.approx(-3 / (9 + 2.25) ** 0.5)
    assert rows.loc[("b", "c"), "sample_cosine"] == pytest.approx(-(3 / 10**0.5 + 3 / 13**0.5) / 2)
    assert rows["same"].to_dict()[("a", "a")]
    assert not rows["same"].to_dict()[("b", "a")]
    with pytest.raises(ValueError, match="none of the 1 constant vectors holds a layer"):
        generated_against(KNOWN, {"a": constant([1, 0, 3], layer=2)})


def long_cloud() -> Generated:
    """40 vectors that spread along one axis."""
    generator = np.random.default_rng(0)
    spread = torch.tensor(generator.normal(size=(40, 6)) * [9, 3, 0.1, 0.1, 0.1, 0.1], dtype=torch.float32)
    return Generated(spread[:, None], (0,), ("a",) * 20 + ("b",) * 20, tuple(map(str, range(40))))


def test_clouds() -> None:
    cloud = long_cloud()
    spread = cloud.directions[:, 0]
    frame = generated_cloud(cloud, 0)
    expected = spread - spread.mean(dim=0)
    assert abs(np.corrcoef(frame["x"], expected[:, 0])[0, 1]) > 0.99
    share = float(expected[:, 0].square().sum() / expected.square().sum())
    assert frame["explained_x"][0] == pytest.approx(share, abs=0.01)
    for bad, message in ((("pca", 3), "layer=3"), (("tsne", 0), "tsne")):
        with pytest.raises(ValueError, match=message):
            generated_cloud(cloud, bad[1], method=bad[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 16 vectors, got 4"):
        generated_cloud(KNOWN, 4, method="umap")


# Compiling UMAP takes a process half a minute: one compiles it for all.
@pytest.mark.slow
@pytest.mark.xdist_group("umap")
def test_neighbours_of_a_cloud() -> None:
    neighbours = generated_cloud(long_cloud(), 0, method="umap")
    assert neighbours[["x", "y"]].notna().all(axis=None)
    assert neighbours["explained_x"].isna().all()


def test_generated_vectors_are_what_the_engine_adds() -> None:
    model, tasks = tiny_model("llama"), [label_task("mood"), word_task("double")]
    design = Design(generator="residual", layer=1, layers=(1, 3), strength=0.5)
    atv = train(model, tasks, design=design, training=Training(epochs=1, batch=8))
    generated = generate_vectors(atv, tasks, split="test", examples=4)
    assert generated.names == ("mood", "double")
    assert generated.directions.shape == (8, 2, 64)
    from cast_lens.tasks import zero_shot

    one = atv.intervention([zero_shot(tasks[1], tasks[1].test[2])])
    place = generated.sample_ids.index(tasks[1].test[2].id)
    assert torch.allclose(generated.directions[place], one.directions[0] * one.strength, atol=1e-5)
