"""Any Hugging Face causal or encoder model as the small model of an adaptive task vector."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .design import Pooling
from .generators import BATCH, pooled

SAMPLED = 64  # entries a tensor that its digest reads


class HuggingFaceGenerator:
    """The last hidden state of a Hugging Face model, at the last token or averaged. It stays in ``eval()`` mode."""

    def __init__(self, source: str, *, pooling: Pooling, trained: bool) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.model: Any = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            first = str(error).strip().split("\n")[0]
            raise ValueError(
                f"source={source!r} is no model that transformers can load as a generator ({first}); give a folder "
                "written by save_pretrained or a hub name, or choose generator='blocks', which needs no download"
            ) from error
        if getattr(self.model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"source={source!r} is an encoder-decoder; give a decoder or an encoder alone (BERT, GPT-2, …)"
            )
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token
        self.pooling = pooling
        self.width = int(self.model.config.hidden_size)
        self.name, self.fingerprint = source, digest(self.model)
        self.model.requires_grad_(trained)
        self.module: nn.Module | None = self.model if trained else None

    def states(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        """One state a text.

        Raises:
            ValueError: when a text is longer than the model's context.
        """
        with torch.set_grad_enabled(self.module is not None and torch.is_grad_enabled()):
            return torch.cat([self._run(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])

    def _run(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        read = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        width, limit = read["input_ids"].shape[1], getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and width > limit:
            longest = int(read["attention_mask"].sum(dim=1).argmax())
            raise ValueError(
                f"the text {texts[longest][:60]!r}… has {width} tokens, more than the {limit} that the generator "
                f"{self.name!r} reads; use another one or shorter examples"
            )
        inputs = {name: read[name] for name in ("input_ids", "attention_mask")}
        device = next(self.model.parameters()).device
        hidden = self.model(**{name: value.to(device) for name, value in inputs.items()}).last_hidden_state
        return pooled(hidden, inputs["attention_mask"].sum(dim=1).to(device), self.pooling)


def digest(module: nn.Module) -> str:
    """Sixteen hex digits over names, shapes and evenly spaced entries of the parameters."""
    found = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        flat = parameter.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, min(SAMPLED, len(flat)), dtype=torch.float64).long()
        found.update(f"{name}{tuple(parameter.shape)}".encode())
        found.update(
            flat[places.to(flat.device)].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()
        )
    return found.hexdigest()[:16]
