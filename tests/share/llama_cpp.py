"""llama.cpp through its C interface (llama-cpp-py-sync): greedy tokens under a control vector file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

_F32 = 0  # GGML_TYPE_F32


def control_vector(path: Path, width: int) -> np.ndarray:
    """What ``common_control_vector_load_one`` makes of a file: ``direction.N`` in row N - 1, the rest zero."""
    found = {int(tensor.name.split(".")[1]): tensor.data for tensor in gguf.GGUFReader(path).tensors}
    rows = np.zeros((max(found), width), dtype=np.float32)
    for layer, row in found.items():
        rows[layer - 1] += row
    return rows


class LlamaCpp:
    """A model file in llama.cpp, with keys and values in float32.

    Args:
        path: a GGUF model.
        context: tokens at most.
    """

    def __init__(self, path: Path, *, context: int = 256) -> None:
        from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

        # Another build of the library, where the one in the wheel needs a newer C library than the machine has.
        other = os.environ.get("LLAMA_CPP_LIB")
        self._ffi = get_ffi()
        self._lib = self._ffi.dlopen(other) if other else get_lib()
        self._quiet = self._ffi.callback("void(enum ggml_log_level, const char *, void *)", lambda *given: None)
        self._lib.llama_log_set(self._quiet, self._ffi.NULL)
        self._lib.llama_backend_init()
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), self._lib.llama_model_default_params())
        assert self._model != self._ffi.NULL, path
        self._how: Any = self._lib.llama_context_default_params()
        self._how.n_ctx = self._how.n_batch = self._how.n_ubatch = context
        self._how.n_threads = self._how.n_threads_batch = 1
        self._how.type_k = self._how.type_v = _F32
        self._how.flash_attn_type = 0  # attention as the reference computes it
        self.width = int(self._lib.llama_model_n_embd(self._model))
        self.layers = int(self._lib.llama_model_n_layer(self._model))
        self.vocab = int(self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model)))

    def close(self) -> None:
        """Free the model."""
        self._lib.llama_model_free(self._model)

    def greedy(self, tokens: Sequence[int], count: int, vector: Path | None = None) -> tuple[list[int], torch.Tensor]:
        """Greedy tokens after a prompt, and the logits [vocab] that the first of them was chosen by."""
        context = self._lib.llama_init_from_model(self._model, self._how)
        assert context != self._ffi.NULL
        try:
            if vector is not None:
                self._steer(context, control_vector(vector, self.width))
            written: list[int] = []
            given, first = list(tokens), torch.empty(0)
            for _ in range(count):
                logits = self._logits(context, given)
                first = first if len(first) else logits
                given = [int(logits.argmax())]
                written += given
            return written, first
        finally:
            self._lib.llama_free(context)

    def _steer(self, context: Any, rows: np.ndarray) -> None:
        # As common_init does with --control-vector: layers 1 to the last.
        data = self._ffi.new("float[]", rows.ravel().tolist())
        done = self._lib.llama_set_adapter_cvec(context, data, rows.size, self.width, 1, self.layers)
        assert done == 0

    def _logits(self, context: Any, tokens: Sequence[int]) -> torch.Tensor:
        held = self._ffi.new("llama_token[]", list(tokens))
        assert self._lib.llama_decode(context, self._lib.llama_batch_get_one(held, len(tokens))) == 0
        found = self._lib.llama_get_logits_ith(context, -1)
        return torch.frombuffer(bytearray(self._ffi.buffer(found, 4 * self.vocab)), dtype=torch.float32)
