"""Files of other tools become vectors; files that want more than that become one clear error."""

from __future__ import annotations

import io
import json
import pickle
import random
import sys
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cast_lens as cl
from cast_lens.interventions import Intervention
from cast_lens.share import export, import_intervention, import_vector, read_intervention
from cast_lens.vectors import Provenance
from tests.tiny import tiny_model

ROWS = {4: torch.arange(8.0), 2: torch.ones(8)}


@pytest.fixture
def steering_vectors() -> Iterator[type]:
    """The class of steering-vectors as that package defines it, importable while a file is written."""

    @dataclass
    class SteeringVector:
        layer_activations: dict[int, torch.Tensor]
        layer_type: str = "decoder_block"

    package, module = types.ModuleType("steering_vectors"), types.ModuleType("steering_vectors.steering_vector")
    SteeringVector.__module__, SteeringVector.__qualname__ = "steering_vectors.steering_vector", "SteeringVector"
    module.SteeringVector = SteeringVector  # type: ignore[attr-defined]
    package.steering_vector = module  # type: ignore[attr-defined]
    names = {"steering_vectors": package, "steering_vectors.steering_vector": module}
    sys.modules.update(names)
    yield SteeringVector
    for name in names:
        sys.modules.pop(name, None)


def _forget() -> None:
    for name in ("steering_vectors", "steering_vectors.steering_vector"):
        sys.modules.pop(name, None)


def _same(vector: cl.SteeringVector) -> None:
    assert vector.layers == (2, 4)
    assert torch.equal(vector.at(2), torch.ones(8))
    assert torch.equal(vector.at(4), torch.arange(8.0))
    assert vector.provenance.fingerprint == ""


@pytest.mark.parametrize("how", ["pickle", "torch", "legacy"])
def test_steering_vectors_are_read_without_their_package(how: str, steering_vectors: type, tmp_path: Path) -> None:
    given = steering_vectors(ROWS)
    path = tmp_path / "v.pkl"
    if how == "pickle":
        path.write_bytes(pickle.dumps(given))
    else:
        torch.save(given, path, _use_new_zipfile_serialization=how == "torch")
    _forget()
    _same(import_vector(path))


def test_steering_vectors_of_another_site_are_refused(steering_vectors: type, tmp_path: Path) -> None:
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(steering_vectors(ROWS, "mlp")))
    _forget()
    with pytest.raises(ValueError, match=r"'mlp'.*decoder_block"):
        import_vector(tmp_path / "v.pkl")


@pytest.mark.parametrize("key", ["{}", "layer.{}", "model.layers.{}", "direction.{}", "h.{}", "blocks_{}"])
def test_plain_tensors_by_layer(key: str, tmp_path: Path) -> None:
    rows = {key.format(layer): row for layer, row in ROWS.items()}
    torch.save(rows, tmp_path / "v.pt")
    _same(import_vector(tmp_path / "v.pt"))
    save_file(rows, tmp_path / "v.safetensors")
    _same(import_vector(tmp_path / "v.safetensors"))
    torch.save(ROWS, tmp_path / "w.pt")
    _same(import_vector(tmp_path / "w.pt"))


def test_a_bare_tensor_needs_its_layers(tmp_path: Path) -> None:
    torch.save(torch.stack([ROWS[2], ROWS[4]]), tmp_path / "v.pt")
    _same(import_vector(tmp_path / "v.pt", layers=[2, 4]))
    with pytest.raises(ValueError, match=r"does not say which blocks its 2 rows belong to; give layers"):
        import_vector(tmp_path / "v.pt")
    torch.save(ROWS[4].half(), tmp_path / "w.pt")
    assert torch.equal(import_vector(tmp_path / "w.pt", layers=[7]).at(7), torch.arange(8.0))


def test_lm_eval_files(tmp_path: Path) -> None:
    steering = Intervention(torch.arange(8.0), 3, 1.5, position="all")
    vector = import_vector(export(steering, tmp_path / "v.pt"))
    assert torch.equal(vector.at(3), 1.5 * torch.arange(8.0))
    entry = {"hookpoint": "layers.3", "steering_vector": torch.ones(8), "steering_coefficient": 2.0, "action": "add"}
    torch.save([{**entry, "bias": None}], tmp_path / "list.pt")
    assert torch.equal(import_vector(tmp_path / "list.pt").at(3), 2 * torch.ones(8))
    torch.save([{**entry, "action": "clamp"}], tmp_path / "clamp.pt")
    with pytest.raises(ValueError, match=r"'clamp'.*ablate"):
        import_vector(tmp_path / "clamp.pt")


def test_our_own_files_and_control_vectors(tmp_path: Path) -> None:
    about = Provenance("tiny", "ab", "antonym")
    vector = cl.SteeringVector(torch.ones(2, 8), (1, 2), about)
    for path in (vector.save(tmp_path / "v.safetensors"), cl.export_gguf(vector, tmp_path / "v.gguf")):
        found = import_vector(path)
        assert torch.equal(found.directions, vector.directions)
        assert found.provenance == about


def test_the_model_is_compared_and_noted(tmp_path: Path) -> None:
    model = tiny_model()
    torch.save({1: torch.ones(64)}, tmp_path / "v.pt")
    assert import_vector(tmp_path / "v.pt", model=model).provenance.fingerprint == cl.models.fingerprint(model)
    torch.save({1: torch.ones(8)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="width 8"):
        import_vector(tmp_path / "w.pt", model=model)


class _Attack:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def _hostile(path: Path, target: Path) -> Iterator[Path]:
    attack = _Attack(target)
    for number, given in enumerate([attack, {2: torch.ones(8), 4: attack}, [attack]]):
        plain = path / f"{number}.pkl"
        plain.write_bytes(pickle.dumps(given))
        yield plain
        for new in (True, False):
            saved = path / f"{number}-{new}.pt"
            torch.save(given, saved, _use_new_zipfile_serialization=new)
            yield saved
    # torch's own loader of storages, given a pickle that runs something.
    inner = pickle.dumps(attack)
    nested = path / "nested.pkl"
    nested.write_bytes(
        b"\x80\x02ctorch.storage\n_load_from_bytes\nB" + len(inner).to_bytes(4, "little") + inner + b"\x85R."
    )
    yield nested
    for line in (b"cposix\nsystem\n", b"cbuiltins\neval\n", b"ctorch.hub\nload\n", b"ctorch\nload\n"):
        named = path / f"{line[1:6].decode().strip()}.pkl"
        named.write_bytes(b"\x80\x02" + line + b"X\x01\x00\x00\x00x\x85R.")
        yield named


def test_nothing_of_a_hostile_file_runs(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    files = list(_hostile(tmp_path, target))
    assert len(files) == 14
    for path in files:
        with pytest.raises(ValueError, match=path.name):
            import_vector(path)
        assert not target.exists(), path.name


def test_a_file_that_names_code_says_so(tmp_path: Path) -> None:
    (tmp_path / "v.pkl").write_bytes(b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00x\x85R.")
    with pytest.raises(ValueError, match=r"asks to run posix\.system.*nothing of it was run.*save_file"):
        import_vector(tmp_path / "v.pkl")


def _error_of(path: Path) -> str:
    """What reading a file says; empty when it is a vector."""
    try:
        assert import_vector(path).directions.shape[1] >= 1
    except ValueError as error:
        return str(error)
    return ""


def test_cut_and_flipped_files_are_one_error(tmp_path: Path, steering_vectors: type) -> None:
    torch.save(ROWS, tmp_path / "a.pt")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(steering_vectors(ROWS)))
    save_file({"layer.2": torch.ones(8)}, tmp_path / "c.safetensors")
    cl.export_gguf(cl.SteeringVector(torch.ones(1, 8), (1,), Provenance("", "", "x")), tmp_path / "d.gguf")
    _forget()
    generator, refused = random.Random(0), 0
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        for trial in range(40):
            cut = bytearray(data[: generator.randrange(len(data))] if trial % 2 else data)
            if not trial % 2:
                cut[generator.randrange(len(cut))] ^= 1 << generator.randrange(8)
            path.write_bytes(cut)
            error = _error_of(path)
            refused += bool(error)
            assert not error or path.name in error
            assert len(error) < 1000
        path.write_bytes(data)
    assert refused > 80


_CARD: dict[str, Any] = {
    "kind": "SteeringVector",
    "layers": [1, 2],
    "provenance": {"model": "tiny", "fingerprint": "ab", "task": "antonym"},
}
_CHOSEN: dict[str, Any] = {
    **_CARD,
    "kind": "Intervention",
    "strength": 2.0,
    "operator": "add",
    "position": "all",
    "name": "a",
    "fingerprint": "ab",
}


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [[1], 2]},
        {"layers": "12"},
        {"layers": [2, 1]},
        {"layers": [1, 1]},
        {"layers": [-1, 2]},
        {"layers": [1]},
        {"layers": [1.0, 2.0]},
        {"layers": None},
        {"provenance": None},
        {"provenance": {"model": ["tiny"], "fingerprint": "ab", "task": "antonym"}},
        {"provenance": {"model": "tiny"}},
        {"kind": ["SteeringVector"]},
        {"kind": "Something"},
    ],
)
def test_a_card_that_is_wrong_is_one_error(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    rows = {"directions": torch.ones(2, 8), "layer.1": torch.ones(8), "layer.2": torch.ones(8)}
    for card, tensors in ((_CARD, ["directions"]), (_CHOSEN, ["layer.1", "layer.2"])):
        about = json.dumps({**card, **change})
        save_file({name: rows[name] for name in tensors}, path, metadata={"format": "cast_lens/1", "about": about})
        if card is _CHOSEN and "kind" in change:
            continue  # plain tensors by layer, whatever the card says
        with pytest.raises(ValueError, match=r"v\.safetensors|layers"):
            read_intervention(path, layer=1, strength=1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"strength": "much"},
        {"strength": None},
        {"operator": "explode"},
        {"position": 3},
        {"name": ["a"]},
        {"fingerprint": {}},
    ],
)
def test_an_intervention_whose_card_is_wrong_is_one_error(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    about = json.dumps({**_CHOSEN, "layers": [1], **change})
    save_file({"layer.1": torch.ones(8)}, path, metadata={"format": "cast_lens/1", "about": about})
    with pytest.raises(ValueError, match=r"v\.safetensors"):
        import_intervention(path)


def test_a_small_file_that_pretends_to_be_large_is_refused(tmp_path: Path) -> None:
    torch.save({2: torch.ones(1).expand(10**12)}, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match="must hold floating-point vectors"):
        import_vector(tmp_path / "wide.pt")
    data = io.BytesIO()
    torch.save(ROWS, data)
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"torch\.save did not write"):
        import_vector(tmp_path / "packed.pt")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "one width"),
        ({2: torch.ones(8), 3: torch.ones(9)}, "one width"),
        ({2: torch.ones(8).int()}, "floating-point"),
        ({2: torch.tensor([1.0, float("nan")])}, "NaN"),
        ({"norm": torch.ones(8), "bias": torch.ones(8)}, "'norm'"),
        ({-1: torch.ones(8), 2: torch.ones(8)}, "'-1'"),
        ({"a": 1, "b": 2}, "expected one tensor per layer"),
        ("text", "holds a str"),
    ],
)
def test_wrong_contents(given: Any, says: str, tmp_path: Path) -> None:
    torch.save(given, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=says):
        import_vector(tmp_path / "v.pt")


def test_no_vector_at_all(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("hello, this is text")
    with pytest.raises(ValueError, match="which is not one of GGUF"):
        import_vector(tmp_path / "v.txt")
    with pytest.raises(ValueError, match="is not a file"):
        import_vector(tmp_path / "absent")
