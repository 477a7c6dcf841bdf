"""Control-vector files: what llama.cpp would read from ours, and what we read from others'."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from cast_lens.gguf import export_gguf, import_gguf
from cast_lens.vectors import UNKNOWN_MODEL, Provenance, SteeringVector

ORIGIN = Provenance(
    "tiny", "0123456789abcdef", "antonym", shots=5, sample_ids=("a", "b"), versions={"torch": "2"}, note="∆"
)


def _vector(layers: tuple[int, ...] = (1, 2, 5)) -> SteeringVector:
    noise = torch.randn(len(layers), 48, generator=torch.Generator().manual_seed(0))
    return SteeringVector(noise, layers, ORIGIN)


def _llama_cpp_buffer(path: Path) -> np.ndarray:
    """What common_control_vector_load_one makes of a file, row by row: ``direction.N`` in row N - 1."""
    reader = gguf.GGUFReader(path)
    directions = {int(tensor.name.split(".")[1]): tensor for tensor in reader.tensors}
    buffer = np.zeros((max(directions), 48), dtype=np.float32)
    for number, tensor in directions.items():
        assert number > 0
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert list(tensor.shape) == [48]
        buffer[number - 1] = tensor.data
    return buffer


def _write(path: Path, tensors: dict[str, np.ndarray], *, architecture: str = "controlvector", **text: str) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in text.items():
        writer.add_string(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_round_trip(tmp_path: Path) -> None:
    vector = _vector()
    back = import_gguf(export_gguf(vector, tmp_path / "deep" / "v.gguf"))
    assert torch.equal(back.directions, vector.directions)
    assert (back.layers, back.provenance) == (vector.layers, vector.provenance)
    assert os.listdir(tmp_path / "deep") == ["v.gguf"]


def test_a_view_is_written_as_it_reads(tmp_path: Path) -> None:
    vector = SteeringVector(torch.arange(12.0).reshape(6, 2).T, (1, 2), ORIGIN)
    assert torch.equal(import_gguf(export_gguf(vector, tmp_path / "v.gguf")).directions, vector.directions)


def test_block_n_gets_the_direction_of_layer_n(tmp_path: Path) -> None:
    vector = _vector()
    buffer = _llama_cpp_buffer(export_gguf(vector, tmp_path / "v.gguf"))
    # llama_adapter_cvec::apply gives row il - 1 to block il.
    for block in range(1, 6):
        expected = vector.at(block).numpy() if block in vector.layers else np.zeros(48)
        np.testing.assert_array_equal(buffer[block - 1], expected)


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(export_gguf(_vector(), tmp_path / "v.gguf", model_hint="llama"))
    said: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
    assert said["general.architecture"] == "controlvector"
    assert said["controlvector.model_hint"] == "llama"
    assert said["controlvector.layer_count"] == 3
    plain = gguf.GGUFReader(export_gguf(_vector(), tmp_path / "w.gguf"))
    hint = plain.get_field("controlvector.model_hint")
    assert hint is not None
    assert hint.contents() == "tiny"


def test_a_choice_of_layers(tmp_path: Path) -> None:
    vector = _vector((0, 1, 2))
    back = import_gguf(export_gguf(vector, tmp_path / "v.gguf", layers=[2]))
    assert back.layers == (2,)
    assert torch.equal(back.at(2), vector.at(2))


def test_a_file_of_another_tool(tmp_path: Path) -> None:
    rows = {f"direction.{layer}": np.full(4, layer, dtype=np.float32) for layer in (12, 3)}
    path = _write(tmp_path / "happy.gguf", rows, **{"controlvector.model_hint": "mistral"})
    vector = import_gguf(path)
    assert vector.layers == (3, 12)
    assert torch.equal(vector.at(12), torch.full((4,), 12.0))
    origin = vector.provenance
    assert (origin.model, origin.task, origin.fingerprint) == ("mistral", "happy", "")
    assert vector.intervention(3).fingerprint == UNKNOWN_MODEL


def test_layer_zero_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers=\[0, 1\] cannot be written.*no control vector for block 0"):
        export_gguf(_vector((0, 1)), tmp_path / "v.gguf")
    with pytest.raises(ValueError, match=r"layers=\[\] cannot be written"):
        export_gguf(_vector(), tmp_path / "v.gguf", layers=[])
    with pytest.raises(ValueError, match=r"layer=3 is not in this steering vector"):
        export_gguf(_vector(), tmp_path / "v.gguf", layers=[3])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"direction.0": np.ones(4, dtype=np.float32)}, r"tensor 'direction\.0' \(F32, shape \[4\]\) is no"),
        ({"blk.1.weight": np.ones(4, dtype=np.float32)}, r"tensor 'blk\.1\.weight'"),
        ({"direction.1": np.ones(4, dtype=np.float16)}, r"tensor 'direction\.1' \(F16"),
        ({"direction.1": np.ones((2, 4), dtype=np.float32)}, r"\(F32, shape \[4, 2\]\) is not a direction\.N"),
        (
            {"direction.1": np.ones(4, dtype=np.float32), "direction.2": np.ones(5, dtype=np.float32)},
            r"one or more tensors direction\.N of one width",
        ),
        ({"direction.1": np.full(4, np.nan, dtype=np.float32)}, r"NaN or infinite"),
    ],
)
def test_files_that_llama_cpp_would_refuse(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        import_gguf(_write(tmp_path / "v.gguf", tensors))


def test_files_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.gguf is not a file"):
        import_gguf(tmp_path / "none.gguf")
    model = _write(tmp_path / "m.gguf", {"token_embd.weight": np.ones(4, dtype=np.float32)}, architecture="llama")
    with pytest.raises(ValueError, match="holds llama, not a controlvector; is it a model"):
        import_gguf(model)
    empty = _write(tmp_path / "e.gguf", {})
    with pytest.raises(ValueError, match="it holds 0"):
        import_gguf(empty)


@pytest.mark.parametrize("keep", [0, 3, 20, 200, -4])
def test_half_a_file(tmp_path: Path, keep: int) -> None:
    path = export_gguf(_vector(), tmp_path / "v.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a readable GGUF file"):
        import_gguf(path)


def test_arithmetic_survives(tmp_path: Path) -> None:
    vector = 2.0 * _vector() - SteeringVector(torch.ones(3, 48), (1, 2, 5), replace(ORIGIN, task="plural"))
    back = import_gguf(export_gguf(vector, tmp_path / "v.gguf"))
    assert torch.equal(back.directions, vector.directions)
    assert back.provenance.task == "2 * (antonym) - plural"


def _mutations(whole: bytes, count: int, *, within: int) -> Iterator[bytes]:
    """A flipped bit, a byte of extremes, a cut, a run that was moved: seeded, in the first ``within`` bytes."""
    generator = random.Random(0)
    for _ in range(count):
        at, data = generator.randrange(4, within), bytearray(whole)
        match generator.randrange(4):
            case 0:
                data[at] ^= 1 << generator.randrange(8)
            case 1:
                data[at : at + 8] = generator.choice([b"\xff", b"\x00", b"\x7f"]) * generator.choice([1, 4, 8])
            case 2:
                del data[at : at + generator.randrange(1, 40)]
            case _:
                data[at:at] = data[at - generator.randrange(1, 5) :][: generator.randrange(1, 12)]
        yield bytes(data)


def test_damaged_files_give_a_vector_or_one_message(tmp_path: Path) -> None:
    path = export_gguf(_vector(), tmp_path / "v.gguf")
    whole = path.read_bytes()
    header = whole.index(b"direction.5") + 40
    messages = []
    for damaged in _mutations(whole, 400, within=header):
        path.write_bytes(damaged)
        try:
            found = import_gguf(path)
        except ValueError as error:
            messages.append(str(error))
        else:
            assert all(type(layer) is int for layer in found.layers)
            assert bool(torch.isfinite(found.directions).all())
    assert 200 < len(messages) < 400
    assert all(str(path) in message and len(message) < 600 for message in messages)


def _gguf_with(value: bytes, *, key: bytes = b"a") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    return head + struct.pack("<Q", len(key)) + key + value + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_gguf_with(struct.pack("<IIQ", 9, 0, 2**40)), "announces 1099511627776 entries of an array"),
        (_gguf_with(struct.pack("<IIQ", 9, 8, 2**63)), "entries of an array, more than"),
        (_gguf_with(struct.pack("<IIQ", 9, 9, 4) + struct.pack("<IQ", 9, 1) * 40), "deeper than 3 levels"),
        (_gguf_with(struct.pack("<IQ", 8, 2**62)), "characters, more than"),
        (_gguf_with(struct.pack("<I", 77)), "unknown type 77"),
        (_gguf_with(struct.pack("<II", 4, 3), key=b"general.alignment"), "alignment is 3, not a power"),
        (_gguf_with(struct.pack("<IB", 0, 0), key=b"\xff\xfe"), "utf-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**50, 0) + bytes(99), "announces 1125899906842624 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**50) + bytes(99), "announces 1125899906842624 metadata"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9"),
        (b"GGUF", "before something it announces"),
    ],
)
def test_lengths_are_compared_with_the_file_before_they_are_used(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"hostile.gguf is not a readable GGUF file.*{message}"):
        import_gguf(path)


def test_a_file_of_the_other_byte_order(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector", endianess=gguf.GGUFEndian.BIG)
    writer.add_array("some.words", ["a", "bc"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_tensor("direction.2", np.arange(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert torch.equal(import_gguf(tmp_path / "v.gguf").at(2), torch.arange(4.0))


@pytest.mark.parametrize(
    "stored",
    ["{", "[1]", "{}", '{"model": 3, "fingerprint": "", "task": ""}', '{"model": "", "fingerprint": "", "x": 1}'],
)
def test_a_damaged_provenance_is_refused(tmp_path: Path, stored: str) -> None:
    rows = {"direction.1": np.ones(4, dtype=np.float32)}
    path = _write(tmp_path / "v.gguf", rows, **{"cast_lens.provenance": stored})
    with pytest.raises(ValueError, match=r"v\.gguf holds no usable control vector"):
        import_gguf(path)
