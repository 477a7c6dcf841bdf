"""Names, folders and GGUF files: what loads, and what is said when it does not."""

from __future__ import annotations

import errno
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

from cast_lens import hub
from cast_lens.experiments.workspace import number_format
from cast_lens.models import load_model, model_name, sources
from cast_lens.models.identity import quantisation
from tests.closeness import assert_close
from tests.models.files import write_folder, write_gguf
from tests.tiny import VOCAB, tiny_tokenizer

IDS = torch.arange(3, 40).unsqueeze(0)


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gemma2", "neox"])
def test_a_local_folder(tmp_path: Path, architecture: str) -> None:
    source = write_folder(tmp_path, architecture)
    model = load_model(tmp_path)
    with torch.no_grad():
        assert_close(model(IDS), source(IDS).logits)
    assert model_name(model) == str(tmp_path)
    assert model.to_tokens("warm film").tolist() == [tiny_tokenizer()("warm film")["input_ids"]]
    assert not model.training


def test_a_folder_in_bfloat16(tmp_path: Path) -> None:
    write_folder(tmp_path)
    model = load_model(str(tmp_path), dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_given_tokenizer_takes_the_place_of_the_models_own(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert load_model(tmp_path, tokenizer=tiny_tokenizer(bos=True)).cfg.default_prepend_bos
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    assert load_model(tmp_path, tokenizer=tiny_tokenizer()).tokenizer is not None
    with pytest.raises(ValueError, match=r"cannot read tokenizer \(or pass tokenizer=\) of"):
        load_model(tmp_path)


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_a_gguf_file(tmp_path: Path, pre: str) -> None:
    path = tmp_path / "tiny.gguf"
    source = write_gguf(path, pre=pre)
    model = load_model(path)
    with torch.no_grad():
        assert_close(model(IDS), source(IDS).logits)
    assert model.tokenizer is not None
    # With every digit apart, the two line breaks before one meet in the pre-tokenizer; GPT-2 parts them.
    splits = [piece for piece, _ in model.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n1")]
    assert splits == (["a", "ĊĊ", "1"] if pre == "smollm" else ["a", "Ċ", "Ċ", "1"])


def test_a_quantised_gguf_file_says_what_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The numbers are those of its blocks, the report names their formats, and a saved copy remembers it."""
    write_gguf(tmp_path / "plain.gguf")
    assert number_format(load_model(tmp_path / "plain.gguf")) == "float32"
    source = write_gguf(tmp_path / "tiny.gguf", packed=GGMLQuantizationType.Q4_1)
    model = load_model(tmp_path / "tiny.gguf")
    assert "it/s" not in capfd.readouterr().err, "a bar that nobody asked for"
    assert quantisation(model) is None
    assert number_format(model) == "float32, weights dequantised from GGUF Q4_1, Q8_0"
    with torch.no_grad():
        assert_close(model(IDS), source(IDS).logits)
    own = load_model(tmp_path / "tiny.gguf", implementation="transformers")
    own.hf_model.save_pretrained(tmp_path / "saved")  # type: ignore[operator, union-attr]
    tiny_tokenizer().save_pretrained(tmp_path / "saved")
    assert number_format(load_model(tmp_path / "saved")) == number_format(own) == number_format(model)


def _message(name: str | Path, **options: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the tests below read the whole message
        load_model(name, **options)
    return str(caught.value)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    assert "does not exist; give a hub name, a folder" in _message(tmp_path / "absent")
    assert "does not exist; give a hub name, a folder" in _message("./absent")
    assert "does not exist" in _message("a/b/c")
    assert "does not exist; give the path of a GGUF file" in _message("absent.gguf")
    assert "has no config.json" in _message(tmp_path)
    (tmp_path / "model.bin").touch()
    assert "is neither a folder nor a .gguf file" in _message(tmp_path / "model.bin")


def test_a_hub_name_without_network() -> None:
    message = _message("owner/no-such-model")
    assert "cannot read config of 'owner/no-such-model'" in message
    assert "it is not in the cache, and HF_HUB_OFFLINE is set" in message
    assert "check the spelling (owner/name), the network" in message


def test_a_hub_that_cannot_be_reached_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "create_connection", refuse)
    message = _message("owner/no-such-model")
    host = hub.constants.ENDPOINT.removeprefix("https://")
    assert f"it is not in the cache, and {host} cannot be reached (Name or service not known)" in message
    assert asked == [(host, 443)]
    assert not any(capfd.readouterr())


def test_a_revision_is_for_the_hub(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert "revision='v1' applies to models on the hub" in _message(tmp_path, revision="v1")
    assert "applies to models on the hub" in _message("smollm2-135m-instruct", revision="v1")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "cannot read weights of" in _message(tmp_path)


def test_a_truncated_weight_file(tmp_path: Path) -> None:
    write_folder(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    message = _message(tmp_path)
    assert "cannot read weights of" in message
    assert "is the folder complete?" in message


def test_weights_that_lack_a_layer_are_not_made_up(tmp_path: Path) -> None:
    write_folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lacks weights of its architecture (model.layers.2.mlp.up_proj.weight" in _message(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "requires optimum"),
        ({"auto_map": {"AutoConfig": "code.Config"}, "model_type": "own"}, "trust_remote_code"),
    ],
    ids=["encoder-decoder", "quantised", "own code"],
)
def test_a_config_is_refused_before_weights_are_read(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    (tmp_path / "model.safetensors").unlink()
    assert message in _message(tmp_path)


def test_broken_gguf_files(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    path.write_bytes(b"<html>not found</html>")
    assert "is not a readable GGUF file: it begins with b'<htm'" in _message(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "Download it again if in doubt" in _message(path)
    path.write_bytes(whole[:40])
    assert "is not a readable GGUF file" in _message(path)
    path.write_bytes(whole)
    load_model(path)


_U32 = 4  # GGUF's type of an unsigned 32-bit number


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", 2**30, "announce 1073741824 layers, but it holds tensors of 4"),
        ("llama.block_count", 3, "announce 3 layers, but it holds tensors of 4"),
        ("llama.embedding_length", 2**31, "cannot be read as a GGUF model"),
        ("llama.feed_forward_length", 2**30, r"describe a model of \d+ weights, but its tensors hold"),
        ("llama.attention.head_count", 0, "cannot be read as a GGUF model"),
        ("llama.attention.head_count_kv", 2**20, "cannot be read as a GGUF model"),
        ("llama.vocab_size", 2**31, r"describe a model of \d+ weights, but its tensors hold"),
    ],
)
def test_metadata_that_do_not_fit_the_tensors(tmp_path: Path, key: str, value: int, message: str) -> None:
    """One changed number, refused within a second or two and without the memory that it asks for."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = bytearray(path.read_bytes())
    at = whole.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
    assert struct.unpack("<I", whole[at : at + 4]) == (_U32,)
    whole[at + 4 : at + 8] = struct.pack("<I", value)
    path.write_bytes(whole)
    assert re.search(message, _message(path))


@pytest.mark.parametrize("name", ["blk.2.attn_q.weight", "general.architecture", "tokenizer.ggml.tokens"])
def test_a_name_with_a_flipped_bit(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(name.encode(), name[:-1].encode() + bytes([ord(name[-1]) ^ 2])))
    assert "cannot be read as a GGUF model" in _message(path)


def test_a_full_disk_while_downloading(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources.AutoConfig, "from_pretrained", full)
    assert "no space left on the disk for owner/name; free some, or set HF_HOME" in _message("owner/name")


def test_vocabulary_of_the_tiny_tokenizer_fits_the_tiny_models() -> None:
    assert len(tiny_tokenizer()) <= VOCAB
