"""Model files for tests: a folder as ``save_pretrained`` writes it, and a GGUF file of a tiny Llama."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, dequantize, quantize
from transformers import PreTrainedModel

from tests.tiny import tiny_hf_model, tiny_tokenizer

BLOCK = 32  # entries of a quantised block


def write_folder(folder: Path, architecture: str = "llama", *, seed: int = 0) -> PreTrainedModel:
    """Write a tiny model with its tokenizer, and give the model back."""
    model = tiny_hf_model(architecture, seed=seed)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


def write_gguf(
    path: Path, *, pre: str = "smollm", seed: int = 0, packed: GGMLQuantizationType | None = None
) -> PreTrainedModel:
    """Write a tiny Llama with the tiny tokenizer as llama.cpp's converter does, and give the model back.

    With ``packed``, matrices are written in blocks of that format, the embedding in Q8_0, and the model that is given
    back has the numbers that can be read from them. Rows that do not divide into blocks stay plain.
    """
    model = tiny_hf_model("llama-tied", seed=seed)
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, pre, config.vocab_size)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":  # tied, so left out
            rotated = "q_proj" in name or "k_proj" in name
            kind = _format(name, weight, packed)
            rows = weight if kind is None else _pack(weight, kind)
            rows = _interleaved(rows, config.num_attention_heads) if rotated else rows
            writer.add_tensor(_llama_cpp_name(name), rows.contiguous().numpy(), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _format(name: str, weight: torch.Tensor, packed: GGMLQuantizationType | None) -> GGMLQuantizationType | None:
    """In which blocks a weight is written, None for plain numbers."""
    if packed is None or weight.ndim < 2 or weight.shape[1] % BLOCK:
        return None
    return GGMLQuantizationType.Q8_0 if "embed" in name else packed


def _pack(weight: torch.Tensor, kind: GGMLQuantizationType) -> torch.Tensor:
    """The rows of a weight as bytes of blocks; the weight gets the numbers that they hold."""
    blocks = quantize(weight.numpy(), kind)
    weight.copy_(torch.from_numpy(dequantize(blocks, kind)))
    return torch.from_numpy(blocks)


def _add_tokenizer(writer: GGUFWriter, pre: str, size: int) -> None:
    described = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(described["vocab"], key=described["vocab"].__getitem__)
    tokens += [f"<unused{index}>" for index in range(size - len(tokens))]
    kinds = [TokenType.CONTROL if token in {"<s>", "</s>", "<pad>"} else TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp rotates neighbouring dimensions, so its converter interleaves the halves of every head."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _llama_cpp_name(name: str) -> str:
    renamed = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for theirs, ours in renamed.items():
        name = name.replace(theirs, ours)
    return name
