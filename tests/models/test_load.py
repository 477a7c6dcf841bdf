"""``load_model`` itself: what it takes, what it refuses, and that it keeps quiet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, initialization

from cast_lens.models import list_models, load_model, sources
from cast_lens.models.list import ARCHITECTURES as LOADABLE
from tests.models.files import write_folder
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer


def test_a_hooked_transformer_comes_back_as_it_is() -> None:
    model = tiny_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.train()
    assert load_model(model) is model
    assert not model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not model.cfg.default_prepend_bos
    load_model(model, tokenizer=tiny_tokenizer(bos=True))
    assert model.cfg.default_prepend_bos


@pytest.mark.parametrize("dtype", ["float64", "half", torch.int8, torch.float64])
def test_unknown_dtypes(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"dtype=.* is not one of float32, bfloat16, float16"):
        load_model(tiny_hf_model("llama"), dtype=dtype)


def test_devices() -> None:
    with pytest.raises(ValueError, match="device='abacus' is unknown; give cpu, cuda"):
        load_model(tiny_hf_model("llama"), device="abacus")
    with pytest.raises(ValueError, match=r"device='xpu' is not available; this machine has .*cpu"):
        load_model(tiny_hf_model("llama"), device="xpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    model = load_model(tiny_hf_model("llama"), device="auto")
    assert {parameter.device.type for parameter in model.parameters()} == {best}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    model = load_model(tiny_hf_model("gemma2"), device="cuda", tokenizer=tiny_tokenizer())
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    assert str(model.cfg.device).startswith("cuda")
    assert model("one two").device.type == "cuda"


def test_anything_else_is_refused() -> None:
    # A TypeError where pytest runs with the run-time type checker, which speaks first.
    with pytest.raises((ValueError, TypeError), match=r"a HookedTransformer, got int; a PeftModel|parameter"):
        load_model(7)  # type: ignore[arg-type]


def test_loading_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Warnings are errors here (pyproject), so this covers TransformerLens' deprecation as well."""
    load_model(tiny_hf_model("llama"), tokenizer=tiny_tokenizer())
    assert capfd.readouterr() == ("", "")


def test_the_list_begins_with_the_embedded_model_and_has_every_architecture() -> None:
    first, *others = list_models()
    assert (first.name, first.architecture) == ("smollm2-135m-instruct", "LlamaForCausalLM")
    assert [entry.architecture for entry in others] == list(LOADABLE)
    assert all(entry.name and entry.note for entry in list_models())


def test_threads_that_load_at_once_leave_weights_tied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers switches tying off for the process while it builds a model: the first to begin must end last."""
    ties = PreTrainedModel.tie_weights
    write_folder(tmp_path, "llama-tied")
    original, inside = initialization.no_tie_weights, threading.Barrier(2)
    ended = [threading.Event(), threading.Event()]
    places = iter((0, 1))

    @contextmanager
    def meeting() -> Iterator[None]:
        with original():
            place = next(places)
            with suppress(threading.BrokenBarrierError):
                inside.wait(0.5)
            yield
            if place == 1:
                ended[0].wait(5)
        ended[place].set()

    monkeypatch.setattr(initialization, "no_tie_weights", meeting)
    try:
        with ThreadPoolExecutor(2) as pool:
            models = list(pool.map(load_model, [tmp_path, tmp_path]))
        assert PreTrainedModel.tie_weights is ties
    finally:
        PreTrainedModel.tie_weights = ties  # type: ignore[method-assign]
    assert all(event.is_set() for event in ended)
    assert torch.equal(models[0].W_U, models[0].W_E.T)
    assert torch.equal(models[0].W_U, models[1].W_U)


def test_a_large_model_keeps_its_dtype_where_the_device_computes_well_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    half = tiny_hf_model("llama", dtype=torch.bfloat16)
    monkeypatch.setattr(sources, "FLOAT32_UP_TO", 10)
    for well, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(sources, "computes_well", lambda dtype, kind, well=well: well)
        assert sources.automatic_dtype(half, torch.device("cpu")) == expected
    monkeypatch.setattr(sources, "FLOAT32_UP_TO", 10**9)
    assert sources.automatic_dtype(half, torch.device("cuda")) == torch.float32


@pytest.mark.parametrize("faster", [True, False])
def test_a_processor_is_timed_in_half_precision(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sources.computes_well.cache_clear()
    taken = {torch.float32: 1.0, torch.bfloat16: 0.5 if faster else 50.0}
    monkeypatch.setattr(sources, "_product_seconds", taken.__getitem__)
    assert sources.computes_well(torch.bfloat16, "cpu") is faster
    assert sources.computes_well(torch.float32, "cpu")
    assert sources.computes_well(torch.bfloat16, "cuda")
    sources.computes_well.cache_clear()
