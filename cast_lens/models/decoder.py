"""Any Hugging Face decoder under TransformerLens' names, run by its own modules: no weight is copied or converted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import get_attention_mask
from transformers import PreTrainedConfig, PreTrainedModel

from .lens import HookedTransformer, HookedTransformerConfig

# What transformers' models call the output projection of attention, and the MLP of a layer (or what gives its output).
_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo", "out_lin")
_MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "fc2")
# Context of a model whose config names none.
UNLIMITED = 2048


class HookedDecoder(HookedTransformer):
    """A ``PreTrainedModel`` that causes no second copy of its weights, with hooks on the residual stream.

    ``blocks.{l}.hook_resid_pre`` and ``blocks.{l}.hook_resid_post`` are what goes into and comes out of the model's own
    layer ``l``; where a layer's parts are found there are ``attn.hook_z`` (what heads write, read at the output
    projection), ``hook_attn_out`` (what that projection gives) and ``hook_mlp_out``. Beside them there are the parts of
    ``HookedTransformer`` that need no more than that: a call with tokens or text, ``run_with_hooks``,
    ``run_with_cache``, ``to_tokens``. There are no ``W_Q``, no attention patterns and no KV cache
    (``generate`` runs whole texts), and the model cannot be stopped or started at a layer.

    Attributes:
        hf_model: the model itself. Its attention is computed as ``eager`` defines it.
    """

    def __init__(self, hf_model: PreTrainedModel, *, name: str = "") -> None:
        """Adopt a model, in ``eval()`` mode.

        Raises:
            ValueError: an encoder-decoder, or a model whose layers cannot be found.
        """
        HookedRootModule.__init__(self)
        config = hf_model.config.get_text_config()
        if hf_model.config.is_encoder_decoder:
            raise ValueError(f"{type(hf_model).__name__} is an encoder with a decoder; give a decoder")
        self.hf_model = hf_model
        self.layers = decoder_layers(hf_model)
        self.cfg = _config(hf_model, config, len(self.layers), name)
        self.tokenizer = None
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            _HookedBlock(layer, self.cfg.d_model) for layer in self.layers
        )
        self.setup()
        self.eval()

    def to(self, *args: Any, **kwargs: Any) -> HookedDecoder:
        """As ``nn.Module.to``; ``cfg`` says where the model is and in which dtype."""
        kwargs.pop("print_details", None)
        nn.Module.to(self, *args, **kwargs)
        self.cfg.device, self.cfg.dtype = str(input_device(self.hf_model)), self.hf_model.dtype
        return self

    def forward(  # type: ignore[override]
        self,
        input: str | list[str] | Int[Tensor, "*batch position"],
        return_type: str | None = "logits",
        *,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Shaped[Tensor, "batch position"] | None = None,
        past_kv_cache: object = None,
    ) -> Float[Tensor, "batch position d_vocab"] | None:
        """Logits of whole sequences, padded on either side or not.

        Args:
            input: text or tokens.
            return_type: ``logits``, or None for nothing.
            prepend_bos, padding_side: for text; see ``to_tokens``.
            attention_mask: [batch, position], 1 for real tokens; without it pad tokens at the tokenizer's padding side
                are padding.
            past_kv_cache: must be None: TransformerLens' cache means nothing to these modules.

        Raises:
            ValueError: another ``return_type``; a cache; a batch padded on the left where the model finds no positions.
        """
        if past_kv_cache is not None:
            raise ValueError(f"{type(self).__name__} has no KV cache; run whole sequences (use_past_kv_cache=False)")
        if return_type not in ("logits", None):
            raise ValueError(f"return_type={return_type!r}: {type(self).__name__} gives 'logits' or None")
        tokens = input if isinstance(input, Tensor) else self.to_tokens(input, prepend_bos, padding_side)
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        if attention_mask is None and self.tokenizer is not None:
            attention_mask = self._real(tokens, padding_side)
        inputs: dict[str, Any] = {"input_ids": tokens.to(input_device(self.hf_model))}
        if attention_mask is not None and not bool(attention_mask.all()):
            inputs.update(self._padding(attention_mask.to(input_device(self.hf_model)).long()))
        with attention_as(self.hf_model, "eager"), self._hooked():
            logits: Tensor = self.hf_model(**inputs, use_cache=False).logits
        return logits if return_type == "logits" else None

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        embedding: Any = self.hf_model.get_input_embeddings()
        found: Tensor = embedding.weight
        return found

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding."""
        found: Tensor = self.hf_model.get_output_embeddings().weight
        return found.T

    @property
    def ln_final(self) -> nn.Module:  # type: ignore[override]
        """The norm in front of the unembedding: the last one outside the layers; the identity where there is none."""
        layers = decoder_layers(self.hf_model)
        beside = next(m for m in self.hf_model.modules() if any(child is layers for child in m.children()))
        norms = [child for child in beside.children() if "norm" in type(child).__name__.lower()]
        return norms[-1] if norms else nn.Identity()

    def to_tokens(
        self,
        input: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[Tensor, "batch position"]:
        """Tokens of text, padded to one length; by default with BOS where the tokenizer adds it.

        Args:
            input: one text or several.
            prepend_bos: with BOS or without.
            padding_side: padding side of texts that are shorter than the longest; the tokenizer's by default.
            move_to_device: to the model's.
            truncate: to the model's context.

        Raises:
            ValueError: without a tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("the model has no tokenizer: pass tokenizer= to load_model")
        tokenizer: Any = self.tokenizer
        texts = [input] if isinstance(input, str) else list(input)
        rows = [list(ids) for ids in tokenizer(texts)["input_ids"]]
        wanted = bool(self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos)
        bos, there = tokenizer.bos_token_id, bool(self.cfg.tokenizer_prepends_bos)
        if wanted != there and bos is not None:
            rows = [[bos, *ids] if wanted else ids[1:] for ids in rows]
        if truncate:
            rows = [ids[: self.cfg.n_ctx] for ids in rows]
        width, pad = max(map(len, rows)), tokenizer.pad_token_id
        left = (padding_side or tokenizer.padding_side) == "left"
        blanks = [[pad] * (width - len(ids)) for ids in rows]
        padded = [[*blank, *ids] if left else [*ids, *blank] for blank, ids in zip(blanks, rows, strict=True)]
        tokens = torch.tensor(padded, dtype=torch.long)
        return tokens.to(input_device(self.hf_model)) if move_to_device else tokens

    def to_string(self, tokens: Int[Tensor, "*batch position"] | list[int]) -> str | list[str]:  # type: ignore[override]
        """Text of tokens, special tokens included."""
        tokenizer: Any = self.tokenizer
        if isinstance(tokens, Tensor) and tokens.ndim == 2:
            found: list[str] = tokenizer.batch_decode(tokens)
            return found
        return str(tokenizer.decode(tokens))

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input: str | list[str] | Int[Tensor, "*batch position"],
        max_new_tokens: int = 10,
        *,
        do_sample: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
        stop_at_eos: bool = True,
        return_type: str = "input",
        prepend_bos: bool | None = None,
    ) -> str | list[str] | Int[Tensor, "batch position"]:
        """Texts and what the model generates after them. Each token runs the whole text: there is no KV cache.

        ``cast_lens.answer`` decodes many prompts under many interventions at once, with shared keys.

        Args:
            input: text or tokens; several texts are padded on the left.
            max_new_tokens: how many tokens to write.
            do_sample, temperature, seed: draw tokens instead of taking the most probable.
            stop_at_eos: a text that has reached the end-of-text token is continued with padding.
            return_type: ``input`` for what was given, else ``tokens`` or ``str``.
            prepend_bos: for text; see ``to_tokens``.
        """
        given = isinstance(input, Tensor)
        tokens = input if isinstance(input, Tensor) else self.to_tokens(input, prepend_bos, "left")
        tokens = (tokens[None] if tokens.ndim == 1 else tokens).to(input_device(self.hf_model))
        mask = torch.ones_like(tokens) if given or self.tokenizer is None else self._real(tokens, "left").long()
        end = None if self.tokenizer is None else self.tokenizer.eos_token_id
        generator = torch.Generator(device=tokens.device).manual_seed(seed)
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(max_new_tokens):
            logits = self.forward(tokens, attention_mask=mask)
            assert logits is not None
            last = logits[:, -1].float()
            weights = torch.softmax(last / temperature, dim=-1) if do_sample else last
            chosen = torch.multinomial(weights, 1, generator=generator) if do_sample else last.argmax(-1, keepdim=True)
            if stop_at_eos and end is not None:
                chosen = chosen.masked_fill(ended[:, None], end)
                ended |= chosen[:, 0] == end
            tokens, mask = torch.cat((tokens, chosen), dim=1), torch.cat((mask, torch.ones_like(chosen)), dim=1)
            if bool(ended.all()):
                break
        if return_type == "tokens" or (return_type == "input" and given):
            return tokens
        texts = [str(self.to_string(row[real.bool()])) for row, real in zip(tokens, mask, strict=True)]
        return texts[0] if isinstance(input, str) else texts

    def _real(
        self, tokens: Int[Tensor, "batch position"], padding_side: str | None = None
    ) -> Bool[Tensor, "batch position"]:
        """Which tokens are not padding; a row of pad tokens alone is text (BOS as the pad token, say)."""
        bos = bool(self.cfg.default_prepend_bos)
        tokenizer: Any = self.tokenizer
        real = get_attention_mask(tokenizer, tokens, bos, padding_side).bool()
        return real | ~real.any(dim=1, keepdim=True)

    def _padding(self, mask: Int[Tensor, "batch position"]) -> dict[str, Tensor]:
        """What the model is given about padding."""
        if not bool(mask[:, 0].all()) and not self.takes_left_padding:
            raise ValueError(
                f"{type(self.hf_model).__name__} gives other logits for a text that is padded on the left; run texts "
                "of one length together, or pad on the right"
            )
        return self._padding_of(mask)

    def _padding_of(self, mask: Int[Tensor, "batch position"]) -> dict[str, Tensor]:
        places = {"position_ids": (mask.cumsum(dim=-1) - 1).clamp(min=0)} if self.takes_positions else {}
        return {"attention_mask": mask, **places}

    @cached_property
    def takes_positions(self) -> bool:
        """Whether the model accepts positions that count from 0: some take none, some begin at another number."""
        if "position_ids" not in inspect.signature(self.hf_model.forward).parameters:
            return False
        tokens = torch.linspace(1, self.cfg.d_vocab - 1, 6, device=input_device(self.hf_model)).long()[None]
        positions = torch.arange(6, device=input_device(self.hf_model))[None]
        with attention_as(self.hf_model, "eager"), torch.no_grad():
            told = self.hf_model(input_ids=tokens, position_ids=positions, use_cache=False).logits
            alone = self.hf_model(input_ids=tokens, use_cache=False).logits
        return self._equal(told, alone)

    def _equal(self, one: Tensor, other: Tensor) -> bool:
        error = float((one - other).abs().max() / other.abs().max())
        return error < (1e-3 if self.cfg.dtype == torch.float32 else 0.05)

    @cached_property
    def takes_left_padding(self) -> bool:
        """Whether a text that is padded on the left gives the logits that it gives alone, found out by running one.

        A model that knows where a text begins may still let its convolutions or its state begin with the padding.
        """
        tokens = torch.linspace(1, self.cfg.d_vocab - 1, 9, device=input_device(self.hf_model)).long()[None]
        mask = torch.ones_like(tokens)
        mask[:, :3] = 0
        with attention_as(self.hf_model, "eager"), torch.no_grad():
            padded = self.hf_model(input_ids=tokens, **self._padding_of(mask), use_cache=False).logits
            alone = self.hf_model(input_ids=tokens[:, 3:], use_cache=False).logits
        return self._equal(padded[:, -1], alone[:, -1])

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Hook points on the layers for one pass; between passes the Hugging Face model is as it was."""
        handles: list[RemovableHandle] = []
        for layer, block in zip(self.layers, self.blocks, strict=True):
            assert isinstance(block, _HookedBlock)
            handles.append(layer.register_forward_pre_hook(block.before, with_kwargs=True))
            handles.append(layer.register_forward_hook(block.after))
            handles += block.inside(layer, int(self.cfg.n_heads))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _HookedBlock(nn.Module):
    """The hook points of one layer."""

    def __init__(self, layer: nn.Module, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.hook_resid_pre = HookPoint()
        self.hook_resid_post = HookPoint()
        if output_projection(layer) is not None:
            self.attn = _HookedHeads()
            self.hook_attn_out = HookPoint()
        if _mlp(layer) is not None:
            self.hook_mlp_out = HookPoint()

    def inside(self, layer: nn.Module, n_heads: int) -> list[RemovableHandle]:
        """Put the hook points of heads, attention and MLP on a layer."""
        projection, mlp, handles = output_projection(layer), _mlp(layer), []

        def heads(module: nn.Module, args: tuple[Any, ...]) -> Any:
            z = self.attn.hook_z(args[0].unflatten(-1, (n_heads, -1)))
            return (z.flatten(-2), *args[1:])

        def output(point: HookPoint) -> Callable[[nn.Module, Any, Any], Any]:
            def hand_on(module: nn.Module, args: Any, out: Any) -> Any:
                return (point(out[0]), *out[1:]) if isinstance(out, tuple) else point(out)

            return hand_on

        if projection is not None:
            handles.append(projection.register_forward_pre_hook(heads))
            handles.append(projection.register_forward_hook(output(self.hook_attn_out)))
        if mlp is not None:
            handles.append(mlp.register_forward_hook(output(self.hook_mlp_out)))
        return handles

    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (self.hook_resid_pre(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.hook_resid_pre(kwargs["hidden_states"])}

    def after(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        residual = output[0] if isinstance(output, tuple) else output
        if not isinstance(residual, Tensor) or residual.shape[2:] != (self.d_model,):
            shape = tuple(residual.shape) if isinstance(residual, Tensor) else type(residual).__name__
            raise ValueError(
                f"{type(layer).__name__} hands on residuals of shape {shape}, not [batch, position, "
                f"{self.d_model}]: there is no one residual stream to steer"
            )
        steered = self.hook_resid_post(residual)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered


class _HookedHeads(nn.Module):
    """Where heads are read and edited, under TransformerLens' name."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_z = HookPoint()


def output_projection(layer: nn.Module) -> nn.Module | None:
    """The projection from what the heads of a layer write to the residual stream; None where it is not found."""
    found = [
        module
        for name, parent in layer.named_modules()
        if "attention" in type(parent).__name__.lower()
        for child, module in parent.named_children()
        if child in _OUTPUT_PROJECTIONS
    ]
    return found[0] if len(found) == 1 else None


def _mlp(layer: nn.Module) -> nn.Module | None:
    """What a layer's MLP adds is given by this module; None where it is not found, or gives the residual with it."""
    found = [module for name, module in layer.named_children() if name in _MLPS]
    if len(found) != 1 or "residual" in inspect.signature(found[0].forward).parameters:
        return None
    return found[0]


@torch.no_grad()
def check_causal(model: HookedDecoder) -> None:
    """Refuse a model in which a token sees later ones, or whose layers do not hand on a residual stream.

    Raises:
        ValueError: with the way out.
    """
    tokens = torch.linspace(1, model.cfg.d_vocab - 1, 8).long()[None].repeat(2, 1)
    tokens[1, -1] = tokens[0, 0]
    found: Any = model.run_with_cache(
        tokens, attention_mask=torch.ones_like(tokens), names_filter=lambda name: "hook_resid" in name
    )
    logits, seen = found
    borders = [
        (seen[f"blocks.{layer}.hook_resid_post"], seen[f"blocks.{layer + 1}.hook_resid_pre"])
        for layer in range(int(model.cfg.n_layers) - 1)
    ]
    if borders and not any(after.shape == before.shape and torch.equal(after, before) for after, before in borders):
        raise ValueError(
            f"{type(model.hf_model).__name__} hands on no residual stream from one {type(model.layers[0]).__name__} to "
            "the next: these are parts of its layers, and there is nothing to steer between them"
        )
    assert logits is not None
    one, other = logits[:, :-1].float()
    allowed = 1e-4 if model.cfg.dtype == torch.float32 else 0.02
    if float((one - other).abs().max()) > allowed * float(one.abs().max()):
        raise ValueError(
            f"in {type(model.hf_model).__name__} tokens see later ones: it is not a causal decoder "
            "(a config with is_decoder=True may make it one)"
        )


@contextmanager
def attention_as(hf_model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Let a model compute its attention by another implementation of transformers' attention interface."""
    found = (getattr(module, "config", None) for module in hf_model.modules())
    configs = list({id(config): config for config in found if isinstance(config, PreTrainedConfig)}.values())
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = implementation
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


def input_device(hf_model: PreTrainedModel) -> torch.device:
    """Where a model takes its tokens: where its embedding is, or is brought from memory or disk to be used."""
    embedding = hf_model.get_input_embeddings()
    where = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    if where is None:
        return next(embedding.parameters()).device
    return torch.device(f"cuda:{where}" if isinstance(where, int) else where)


def decoder_layers(hf_model: PreTrainedModel) -> nn.ModuleList:
    """The list of a model's decoder layers.

    Raises:
        ValueError: when there is no list with as many modules as the config has layers.
    """
    config = hf_model.config.get_text_config()
    count = int(config.num_hidden_layers)
    lists = [m for m in hf_model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ValueError(
            f"{type(hf_model).__name__} has no list of {count} layers, as its config says: nothing to steer"
        )
    # Other lists of that length hold parts of layers or embeddings, and fewer parameters.
    return max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters()))


def _config(hf_model: PreTrainedModel, config: PreTrainedConfig, n_layers: int, name: str) -> HookedTransformerConfig:
    """The facts that this package reads, in TransformerLens' terms; nothing here computes with them."""
    heads = int(_field(config, "num_attention_heads") or 1)
    width = int(config.hidden_size)
    cfg = HookedTransformerConfig(
        n_layers=n_layers,
        d_model=width,
        n_ctx=int(_field(config, "max_position_embeddings") or UNLIMITED),
        d_head=int(_field(config, "head_dim") or max(1, width // heads)),
        n_heads=heads,
        n_key_value_heads=_field(config, "num_key_value_heads"),
        d_vocab=_vocabulary(hf_model.get_input_embeddings()),
        act_fn="gelu",
        normalization_type=None,
        dtype=hf_model.dtype,
        model_name=name or config._name_or_path or type(hf_model).__name__,
        original_architecture=type(hf_model).__name__,
    )
    # What the configs of TransformerLens 3.9 and 4 take under different rules.
    cfg.d_mlp = _largest(_field(config, "intermediate_size"), 4 * width)
    cfg.device = str(input_device(hf_model))
    cfg.default_prepend_bos = cfg.tokenizer_prepends_bos = False
    head = hf_model.get_output_embeddings()
    cfg.d_vocab_out = _vocabulary(head) if isinstance(head, nn.Linear) else cfg.d_vocab
    return cfg


def _vocabulary(part: Any) -> int:
    return int(part.weight.shape[0])


def _field(config: PreTrainedConfig, name: str) -> Any:
    """A field of a config; None where there is none, or where it differs by layer and refuses to be read as one."""
    try:
        return getattr(config, name, None)
    except (ValueError, RuntimeError, KeyError, TypeError):
        return None


def _largest(found: Any, default: int) -> int:
    """A width that some configs give for each layer."""
    if isinstance(found, (list, tuple)):
        return max(found)
    return int(found) if isinstance(found, int) else default
