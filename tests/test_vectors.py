"""Vectors keep what they were given: arithmetic, means, files, and what they refuse."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cast_lens.engine import score
from cast_lens.files import load_tensors, save_tensors
from cast_lens.models import fingerprint
from cast_lens.steering import steer
from cast_lens.vectors import DifferenceVectors, Provenance, SteeringVector, atomic_write
from tests.tiny import tiny_model

ORIGIN = Provenance(
    model="tiny",
    fingerprint="0123456789abcdef",
    task="antonym",
    template="word",
    shots=5,
    seed=7,
    sample_ids=("a-1", "a-2"),
    chat=True,
    versions={"torch": "2.13.0"},
    note="Überprüft: ∆ “mean”",
)


def _whole(*shape: int, seed: int = 0) -> Tensor:
    """Whole numbers, so that sums and differences are exact."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).float()


def _vector(*, seed: int = 0, layers: tuple[int, ...] = (1, 4, 5), **origin: Any) -> SteeringVector:
    return SteeringVector(_whole(len(layers), 6, seed=seed), layers, replace(ORIGIN, **origin))


def _differences(*, samples: int = 4) -> DifferenceVectors:
    shape = (samples, 3, 6)
    ids = tuple(f"s{index}" for index in range(samples))
    return DifferenceVectors(_whole(*shape), _whole(*shape, seed=1), (1, 4, 5), ids, ORIGIN)


class TestSteeringVector:
    def test_at_is_the_row_of_the_layer(self) -> None:
        vector = _vector()
        assert torch.equal(vector.at(4), vector.directions[1])

    def test_arithmetic_is_that_of_the_directions(self) -> None:
        a, b = _vector(), _vector(seed=1, task="plural")
        assert torch.equal((a + b).directions, a.directions + b.directions)
        assert torch.equal((a - b).directions, a.directions - b.directions)
        assert torch.equal((2 * a).directions, 2 * a.directions)
        assert torch.equal((a * 2).directions, 2 * a.directions)
        assert torch.equal((-a).directions, -a.directions)
        assert torch.equal(((a + b) - b).directions, a.directions)
        assert (a + b).layers == a.layers

    def test_scaling_by_an_array_scalar_gives_a_vector(self) -> None:
        factors: tuple[Any, ...] = (np.float64(2), np.float32(2))
        for factor in factors:
            for scaled in (factor * _vector(), _vector() * factor):
                assert isinstance(scaled, SteeringVector)
                assert scaled.directions.dtype == torch.float32
                assert torch.equal(scaled.directions, 2 * _vector().directions)

    def test_provenance_tells_the_arithmetic(self) -> None:
        a, b = _vector(), _vector(seed=1, task="plural")
        assert (a + b).provenance.task == "antonym + plural"
        assert (a - b).provenance.task == "antonym - plural"
        assert (0.5 * a).provenance.task == "0.5 * (antonym)"
        assert (-(a + b)).provenance.task == "-1 * (antonym + plural)"
        assert (a - (a + b)).provenance.task == "antonym - (antonym + plural)"
        assert (a - (a - b)).provenance.task == "antonym - (antonym - plural)"
        assert (a - 2 * (a - b)).provenance.task == "antonym - 2 * (antonym - plural)"
        assert ((a - b) - a).provenance.task == "antonym - plural - antonym"
        assert (a + (a - b)).provenance.task == "antonym + antonym - plural"
        assert (a + b).provenance.sample_ids == ()
        assert (2 * a).provenance.sample_ids == ORIGIN.sample_ids
        assert (a + b).provenance.fingerprint == ORIGIN.fingerprint

    def test_intervention_carries_what_identifies_it(self) -> None:
        edit = _vector().intervention(4, strength=2.5, operator="replace", position="all")
        assert torch.equal(edit.direction, _vector().at(4))
        assert (edit.layer, edit.strength, edit.operator, edit.position) == (4, 2.5, "replace", "all")
        assert (edit.name, edit.fingerprint) == ("antonym", ORIGIN.fingerprint)

    def test_vectors_of_other_models_or_layers_do_not_combine(self) -> None:
        with pytest.raises(ValueError, match=r"different models \(tiny, other\)"):
            _vector() + _vector(model="other", fingerprint="ffff")
        with pytest.raises(ValueError, match=r"cover different layers or widths.*\(1, 4, 5\).*\(1, 4, 6\)"):
            _vector() - _vector(layers=(1, 4, 6))

    @pytest.mark.parametrize("layer", [-1, 0, 2, 6])
    def test_a_layer_it_does_not_hold(self, layer: int) -> None:
        with pytest.raises(ValueError, match=rf"layer={layer} is not in this steering vector.*1, 4, 5"):
            _vector().at(layer)


class TestDifferenceVectors:
    def test_values_are_few_minus_zero(self) -> None:
        differences = _differences()
        assert torch.equal(differences.values, differences.few_shot - differences.zero_shot)
        assert torch.equal(differences.at(5), differences.values[:, 2])
        assert (len(differences), differences.task) == (4, "antonym")

    def test_mean_of_all_and_of_a_choice(self) -> None:
        differences = _differences()
        every = differences.mean()
        assert torch.equal(every.directions, differences.values.sum(dim=0) / 4)
        assert every.provenance.sample_ids == ("s0", "s1", "s2", "s3")
        chosen = differences.mean([3, 1], note="two")
        assert torch.equal(chosen.directions, (differences.values[3] + differences.values[1]) / 2)
        assert (chosen.provenance.sample_ids, chosen.provenance.note) == (("s3", "s1"), "two")
        assert chosen.layers == differences.layers

    def test_mean_takes_indices_from_an_array(self) -> None:
        assert torch.equal(
            _differences().mean(np.array([0, 2])).directions,  # type: ignore[arg-type]
            _differences().mean([0, 2]).directions,
        )

    def test_mean_does_not_lose_small_differences_among_many(self) -> None:
        samples = 20_000
        few = torch.full((samples, 1, 1), 0.1)
        big = DifferenceVectors(
            few, torch.zeros_like(few), (0,), tuple(map(str, range(samples))), replace(ORIGIN, sample_ids=())
        )
        assert big.mean().directions.item() == few[0].item()

    @pytest.mark.parametrize("indices", [[], [4], [-1, 0]])
    def test_mean_refuses_a_choice_that_is_none(self, indices: list[int]) -> None:
        with pytest.raises(ValueError, match=r"indices must be a non-empty choice from 0 \.\.\. 3"):
            _differences().mean(indices)

    def test_frame_has_one_row_a_sample_and_layer(self) -> None:
        differences = _differences()
        frame = differences.to_frame()
        names = ["task", "sample_id", "layer", "norm", "zero_shot_norm", "few_shot_norm"]
        assert list(frame.columns) == names
        assert len(frame) == 12
        row = frame[(frame["sample_id"] == "s2") & (frame["layer"] == 4)].iloc[0]
        assert row["norm"] == pytest.approx(float(differences.values[2, 1].norm()))
        assert row["zero_shot_norm"] == pytest.approx(float(differences.zero_shot[2, 1].norm()))
        assert row["few_shot_norm"] == pytest.approx(float(differences.few_shot[2, 1].norm()))


class TestRefusals:
    @pytest.mark.parametrize(
        ("directions", "layers", "message"),
        [
            (torch.zeros(2, 6), (0, 1, 2), r"directions \[layer, d_model\] has shape \(2, 6\).*3 layers"),
            (torch.zeros(6), (0,), r"directions \[layer, d_model\] has shape \(6,\)"),
            (torch.zeros(2, 6), (1, 0), r"increasing block indices from 0, got \(1, 0\)"),
            (torch.zeros(2, 6), (1, 1), r"increasing block indices from 0, got \(1, 1\)"),
            (torch.zeros(2, 6), (-1, 0), r"increasing block indices from 0, got \(-1, 0\)"),
            (torch.zeros(0, 6), (), r"one or more increasing block indices"),
            (torch.full((1, 6), torch.nan), (0,), r"directions holds NaN or infinite"),
            (torch.full((1, 6), torch.inf), (0,), r"directions holds NaN or infinite"),
            (torch.zeros(1, 6, dtype=torch.bfloat16), (0,), r"must be float32 on the CPU, got torch\.bfloat16"),
            (torch.zeros(1, 6, device="meta"), (0,), r"must be float32 on the CPU, got torch\.float32 on meta"),
        ],
    )
    def test_steering_vector(self, directions: Tensor, layers: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SteeringVector(directions, layers, ORIGIN)

    @pytest.mark.parametrize(
        ("few", "zero", "ids", "message"),
        [
            ((2, 1, 6), (3, 1, 6), 2, r"few_shot \(2, 1, 6\), zero_shot \(3, 1, 6\) and 2 sample_ids"),
            ((2, 1, 6), (2, 1, 5), 2, r"must agree on \[sample, layer, d_model\]"),
            ((2, 1, 6), (2, 1, 6), 3, r"and 3 sample_ids must agree"),
            ((2, 2, 6), (2, 1, 6), 2, r"few_shot \[sample, layer, d_model\] has shape \(2, 2, 6\)"),
            ((2, 1, 6), (2, 6), 2, r"zero_shot \[sample, layer, d_model\] has shape \(2, 6\)"),
        ],
    )
    def test_difference_vectors(self, few: tuple[int, ...], zero: tuple[int, ...], ids: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DifferenceVectors(torch.zeros(few), torch.zeros(zero), (0,), ("s",) * ids, ORIGIN)


class TestFiles:
    def test_steering_vector_round_trip(self, tmp_path: Path) -> None:
        vector = _vector()
        path = vector.save(tmp_path / "deep" / "er" / "vector.safetensors")
        back = SteeringVector.load(path)
        assert torch.equal(back.directions, vector.directions)
        assert back.directions.dtype == torch.float32
        assert (back.layers, back.provenance) == (vector.layers, vector.provenance)

    def test_difference_vectors_round_trip(self, tmp_path: Path) -> None:
        differences = _differences()
        back = DifferenceVectors.load(differences.save(tmp_path / "d.safetensors"))
        assert torch.equal(back.few_shot, differences.few_shot)
        assert torch.equal(back.zero_shot, differences.zero_shot)
        assert (back.layers, back.sample_ids) == (differences.layers, differences.sample_ids)
        assert back.provenance == differences.provenance

    def test_two_sides_that_share_memory_are_saved(self, tmp_path: Path) -> None:
        both = _whole(2, 4, 3, 6)
        differences = DifferenceVectors(both[0], both[1], (1, 4, 5), ("a", "b", "c", "d"), ORIGIN)
        same = DifferenceVectors(both[0], both[0], (1, 4, 5), ("a", "b", "c", "d"), ORIGIN)
        for index, wanted in enumerate((differences, same)):
            back = DifferenceVectors.load(wanted.save(tmp_path / f"{index}.safetensors"))
            assert torch.equal(back.few_shot, wanted.few_shot)
            assert torch.equal(back.zero_shot, wanted.zero_shot)

    def test_views_and_array_layers_are_saved(self, tmp_path: Path) -> None:
        layers: Any = tuple(np.array([1, 4, 5]))
        vector = SteeringVector(_whole(6, 3).T, layers, ORIGIN)
        back = SteeringVector.load(vector.save(tmp_path / "v.safetensors"))
        assert torch.equal(back.directions, vector.directions)
        assert back.layers == (1, 4, 5)

    def test_saving_again_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "v.safetensors"
        _vector().save(path)
        old = SteeringVector.load(path)
        _vector(seed=1).save(path)
        assert torch.equal(SteeringVector.load(path).directions, _vector(seed=1).directions)
        assert torch.equal(old.directions, _vector().directions)
        assert os.listdir(tmp_path) == ["v.safetensors"]

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"none\.safetensors is not a file; .*SteeringVector\.save"):
            SteeringVector.load(tmp_path / "none.safetensors")

    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    def test_half_a_file(self, tmp_path: Path, keep: int) -> None:
        path = _vector().save(tmp_path / "v.safetensors")
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            SteeringVector.load(path)

    def test_one_kind_is_not_the_other(self, tmp_path: Path) -> None:
        path = _vector().save(tmp_path / "v.safetensors")
        with pytest.raises(ValueError, match="holds SteeringVector, not a DifferenceVectors"):
            DifferenceVectors.load(path)

    def test_a_file_of_another_tool(self, tmp_path: Path) -> None:
        save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match="holds no cast_lens object, not a SteeringVector"):
            SteeringVector.load(tmp_path / "w.safetensors")

    def test_another_format(self, tmp_path: Path) -> None:
        about = json.dumps({"kind": "SteeringVector", "layers": [0], "provenance": {}})
        metadata = {"format": "cast_lens/2", "about": about}
        save_file({"directions": torch.ones(1, 2)}, tmp_path / "v.safetensors", metadata)
        with pytest.raises(ValueError, match=r"format 'cast_lens/2', this version reads 'cast_lens/1'"):
            SteeringVector.load(tmp_path / "v.safetensors")


class TestAtomicWrite:
    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
    def test_interrupted_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        path = atomic_write(tmp_path / "data", b"old")

        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(type(error)):
            atomic_write(path, b"new")
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["data"]

    def test_interrupted_while_writing(self, tmp_path: Path) -> None:
        path = atomic_write(tmp_path / "data", b"old")
        with pytest.raises(TypeError):
            atomic_write(path, "text is not bytes")  # type: ignore[arg-type]
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["data"]

    @pytest.mark.skipif(os.name == "nt", reason="no umask")
    def test_others_may_read_what_the_umask_lets_them(self, tmp_path: Path) -> None:
        before = os.umask(0o022)
        try:
            path = atomic_write(tmp_path / "data", b"shared")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


class TestChoice:
    """A mask selects, integers select, anything else is refused."""

    MASK = (False, False, True, True)

    @pytest.mark.parametrize(
        "mask", [list(MASK), MASK, np.array(MASK), torch.tensor(MASK), [np.bool_(entry) for entry in MASK]]
    )
    def test_a_mask_selects(self, mask: Any) -> None:
        found = _differences()
        chosen = found.mean(mask)
        assert torch.equal(chosen.directions, found.values[2:].mean(dim=0))
        assert chosen.provenance.sample_ids == ("s2", "s3")

    @pytest.mark.parametrize("rows", [[3, 0], (3, 0), np.array([3, 0], dtype=np.uint8), torch.tensor([3, 0])])
    def test_integers_select_in_their_order(self, rows: Any) -> None:
        found = _differences()
        assert found.mean(rows).provenance.sample_ids == ("s3", "s0")
        assert torch.equal(found.mean(rows).directions, found.values[[3, 0]].mean(dim=0))

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (
                [0.5, 1.5],
                r"a non-empty choice from 0 \.\.\. 3, as integers, or a boolean mask of 4 entries, got float64",
            ),
            (np.array([0.0, 1.0]), "float64"),
            (torch.tensor([0.0, 1.0]), "float32"),
            (["s1"], "indices must be"),
            ("01", "indices must be"),
            ([True, 2], "indices must be"),
            ([[0, 1]], r"shape \(1, 2\)"),
            (1, r"shape \(\)"),
            ([], r"shape \(0,\)"),
            ([True, False], "a boolean mask with 2 entries, 1 of them True, but there are 4 rows"),
            ([False] * 4, "choose at least one"),
            ([0, 4], r"from 0 \.\.\. 3.*\[0, 4\]"),
            ([-1], r"\[-1\]"),
        ],
    )
    def test_anything_else_is_refused(self, wrong: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _differences().mean(wrong)

    def test_a_layer_is_an_integer(self) -> None:
        for found in (_differences(), _vector()):
            with pytest.raises(ValueError, match="layer=True is not in"):
                found.at(True)
            with pytest.raises(ValueError, match="is not in"):
                found.at(1.5)  # type: ignore[arg-type]

    @pytest.mark.parametrize("layers", [(0.5, 1.5, 2.5), (True, 4, 5), ("1", "2", "3"), (1, 1, 2), ()])
    def test_layers_of_a_vector_are_increasing_integers(self, layers: Any) -> None:
        with pytest.raises(ValueError, match="layers"):
            _vector(layers=layers)


@pytest.mark.parametrize(
    "about",
    [
        {"layers": [0.5, 1.5, 2.5]},
        {"layers": [1, True, 5]},
        {"layers": None},
        {"provenance": None},
        {"provenance": {"model": "m"}},
        {"provenance": {"model": "m", "fingerprint": "", "task": 7}},
        {"provenance": {"model": "m", "fingerprint": "", "task": "t", "sample_ids": "ab"}},
    ],
)
def test_a_file_with_damaged_metadata_is_refused(tmp_path: Path, about: dict[str, Any]) -> None:
    path = _vector().save(tmp_path / "v.safetensors")
    tensors, stored = load_tensors(path, kind="SteeringVector")
    save_tensors(path, tensors, kind="SteeringVector", about={**stored, **about})
    with pytest.raises(ValueError, match=r"v\.safetensors"):
        SteeringVector.load(path)
    save_tensors(path, {}, kind="SteeringVector", about=stored)
    with pytest.raises(ValueError, match="lacks the tensor 'directions'"):
        SteeringVector.load(path)


class TestAsOneTypesIt:
    def test_a_tensor_becomes_a_vector_of_a_model(self) -> None:
        model = tiny_model("llama")
        given = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        vector = SteeringVector.from_tensor(given, model=model, layer=2, task="mine")
        assert torch.equal(vector.at(2), given.float())
        assert (vector.provenance.fingerprint, vector.provenance.task) == (fingerprint(model), "mine")
        score(model, ["The"], [vector.intervention(2)])
        with pytest.raises(ValueError, match="holds layer 4"):
            SteeringVector.from_tensor(given, model=model, layer=4)
        with pytest.raises(ValueError, match="has width 3"):
            SteeringVector.from_tensor(torch.ones(3), model=model, layer=0)
        with pytest.raises(ValueError, match="one floating-point vector"):
            SteeringVector.from_tensor(torch.ones(2, 64), model=model, layer=0)
        unknown = SteeringVector.from_tensor(given, layer=2)
        with pytest.warns(UserWarning, match="does not say which weights"):
            score(model, ["The"], [unknown.intervention(2)])

    def test_norm_and_cosine_by_layer(self) -> None:
        vector = SteeringVector(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), (1, 4), ORIGIN)
        other = SteeringVector(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), (4, 6), ORIGIN)
        assert vector.norm() == {1: 5.0, 4: 1.0}
        assert vector.cosine(other) == {4: 0.0}
        assert vector.cosine(-1 * vector) == {1: pytest.approx(-1), 4: pytest.approx(-1)}
        with pytest.raises(ValueError, match="no layer in common"):
            other.cosine(SteeringVector(torch.ones(1, 2), (1,), ORIGIN))
        with pytest.raises(ValueError, match="different models"):
            vector.cosine(SteeringVector(torch.ones(1, 2), (1,), replace(ORIGIN, fingerprint="f" * 16)))

    @pytest.mark.parametrize("architecture", ["llama", "gpt2"])
    def test_top_tokens_are_those_that_the_direction_raises(self, architecture: str) -> None:
        """At the last layer a long direction is all that the final norm sees: the model writes the first of them."""
        model = tiny_model(architecture)
        noise = torch.randn(64, generator=torch.Generator().manual_seed(1))
        vector = SteeringVector.from_tensor(noise, model=model, layer=3)
        found = vector.top_tokens(model, 3, k=3)
        assert len(found) == 3
        if architecture == "llama":  # no bias behind the norm
            logits = score(model, ["The"], [vector.intervention(3, strength=1e6)], keep_logits=True).logits
            assert logits is not None
            assert [model.tokenizer.decode([int(t)]) for t in logits[1, 0].topk(3).indices] == found  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="layer=2 is not in"):
            vector.top_tokens(model, 2)

    def test_several_layers_in_one_intervention(self) -> None:
        model = tiny_model("llama")
        vector = SteeringVector(_noise(4, 64), (0, 1, 2, 3), replace(ORIGIN, fingerprint=fingerprint(model)))
        prompts = ["The capital of France is", "one two"]
        together = vector.intervention(layers=[1, 3], strength=0.5)
        got = score(model, prompts, [together], keep_logits=True).logits
        assert got is not None
        for row, prompt in enumerate(prompts):
            single = [vector.intervention(layer, strength=0.5) for layer in (1, 3)]
            with steer(model, *single):
                expected = model(prompt)[0, -1]
            with steer(model, together):
                torch.testing.assert_close(model(prompt)[0, -1], expected)
            torch.testing.assert_close(got[1, row], expected, rtol=1e-4, atol=1e-4)
        for wrong in ({"layers": []}, {"layers": [9]}, {"layer": 1, "layers": [1]}, {}):
            with pytest.raises(ValueError, match="layer"):
                vector.intervention(**wrong)  # type: ignore[call-overload]


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
