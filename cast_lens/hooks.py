"""How steering attaches to a ``HookedTransformer``: a hook for each intervention, a watch over every pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint, LensHandle
from transformer_lens.utilities import USE_DEFAULT_VALUE, get_attention_mask

from .engine.reference import edit_rows, hook_name, site_name
from .interventions import ForwardPass, Site, Steering
from .models.lens import HookedTransformer

_ABSENT = object()


class Edit:
    """One intervention at one of its layers as a hook, with what it takes to notice that it did not act."""

    def __init__(
        self,
        intervention: Steering,
        layer: int,
        watch: Watch,
        prompt_length: Int[Tensor, " length"] | None,
        site: Site | None = None,
    ) -> None:
        self.intervention = intervention
        self.layer = layer
        self.prompt_length = prompt_length
        self.site = site
        self.name = hook_name(layer) if site is None else site_name(layer, site)
        self._watch = watch
        self._handle: LensHandle | None = None
        self._passes = 0
        self._edited = False

    def attach(self) -> None:
        """Put the hook where the intervention belongs, after the hooks that are there."""
        # Permanent in TransformerLens' sense: reset_hooks() leaves it alone. It ends with the context.
        self._point.add_hook(self, is_permanent=True)
        self._handle = self._point.fwd_hooks[-1]

    def detach(self) -> None:
        """Take away this hook and no other."""
        if self._handle is not None:
            self._handle.hook.remove()
            self._point.fwd_hooks = [handle for handle in self._point.fwd_hooks if handle is not self._handle]

    @property
    def _point(self) -> HookPoint:
        point = self._watch.model.hook_dict[self.name]
        assert isinstance(point, HookPoint)
        return point

    def __call__(
        self, tensor: Float[Tensor, "batch position d_model"], *, hook: HookPoint
    ) -> Float[Tensor, "batch position d_model"]:
        """The residual with the chosen tokens edited: a new tensor."""
        running = self._watch.running
        if running is None:
            raise ValueError(f"{self.name} ran outside a forward pass; inside a steer context run the whole model")
        self._watch.fired.append(self)
        if self.intervention.samples not in (None, running.batch):
            raise ValueError(
                f"there are vectors for {self.intervention.samples} prompts, but the model was run on "
                f"{running.batch} rows; run all of these prompts as one batch, in their order"
            )
        chosen = running.chosen(self.intervention.position, self.prompt_length).to(tensor.device)
        if not bool(chosen.any()):
            return tensor
        self._edited = True
        steered = tensor.clone()
        owners = chosen.nonzero()[:, 0]
        steered[chosen] = edit_rows(self.intervention, self.layer, self.site, tensor[chosen], owners)
        return steered

    def check_pass(self, running: ForwardPass, fired: int) -> None:
        """Refuse a pass that ran this hook's layer without the hook, or ran the hook more than once."""
        self._passes += 1
        expected = int(self.layer in running.layers)
        if fired != expected:
            raise ValueError(
                f"the steering hook at {self.name} ran {fired} times in a forward pass, not {expected}; "
                "inside a steer context leave its hooks in place, and run no block or hook point by hand"
            )

    def check_acted(self) -> None:
        """Refuse a context in which the model ran but this intervention never edited a token."""
        if self._passes and not self._edited:
            raise ValueError(
                f"the model ran {self._passes} times, but the intervention at {self.name} (position "
                f"{self.intervention.position!r}) never edited a token: no pass went as far as its layer "
                "(stop_at_layer), began before it (start_at_layer), or held a token at its position"
            )


class Watch:
    """Replaces ``model.forward`` while a model is steered, and records the tokens of each pass.

    TransformerLens' ``generate`` and ``run_with_hooks`` call ``model.forward`` itself, so PyTorch's
    pre-hooks, which fire on ``model(...)``, would miss them. One watch serves all contexts that steer a model
    at the same time.
    """

    # Rooms that may not import this one know a steered model by it.
    steers = True

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model
        self.running: ForwardPass | None = None
        self.fired: list[Edit] = []
        self._forward = model.forward
        self._signature = inspect.signature(model.forward)
        self._edits: list[Edit] = []
        self._holders = 0
        self._decoding: _Decoding | None = None
        self._stand_ins: dict[str, Any] = {"forward": self}
        for name, wrap in (("generate", self._generating), ("generate_stream", self._streaming)):
            if hasattr(model, name):
                self._stand_ins[name] = wrap(getattr(model, name))
        self._before = {name: vars(model).get(name, _ABSENT) for name in self._stand_ins}

    @classmethod
    def of(cls, model: HookedTransformer) -> Watch:
        """The watch that the model has, or a new one."""
        current = vars(model).get("forward")
        return current if isinstance(current, cls) else cls(model)

    def hold(self, edits: Sequence[Edit]) -> None:
        """Begin to steer: the first holder puts the watch in place."""
        self._holders += 1
        if self._holders == 1:
            for name, stand_in in self._stand_ins.items():
                setattr(self.model, name, stand_in)
        for edit in edits:
            self._edits.append(edit)
            edit.attach()

    def release(self, edits: Sequence[Edit]) -> None:
        """End what ``hold`` began, whatever happened in between; the last holder takes the watch away."""
        for edit in edits:
            edit.detach()
        self._edits = [edit for edit in self._edits if edit not in edits]
        self._holders -= 1
        if self._holders:
            return
        for name, before in self._before.items():
            if before is _ABSENT:
                delattr(self.model, name)
            else:
                setattr(self.model, name, before)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward pass, watched."""
        call = self._signature.bind(*args, **kwargs)
        outer = self.running, self.fired
        self.running, self.fired = self._read(call.arguments), []
        try:
            output = self._forward(*call.args, **call.kwargs)
            for edit in self._edits:
                edit.check_pass(self.running, self.fired.count(edit))
            return output
        finally:
            self.running, self.fired = outer

    def _read(self, call: dict[str, Any]) -> ForwardPass:
        """What the pass runs over; text is replaced by its tokens, so that it is tokenised once."""
        start = call.get("start_at_layer")
        mask = call.get("attention_mask")
        cache = call.get("past_kv_cache")
        first = 0 if start is None else min(start, self.model.cfg.n_layers - 1)
        cached = 0 if cache is None else int(cache[first].past_keys.shape[1])
        if start is None:
            tokens = call["input"] = self._tokens(call)
            mask = self._padding(tokens, call) if mask is None else mask.to(tokens.device)
            if cache is not None and mask is not None:
                mask = torch.cat((cache.previous_attention_mask.to(mask.device), mask), dim=1)
        elif mask is None and call.get("tokens") is not None:
            mask = self._padding(call["tokens"], call)
        batch, width = call["input"].shape[:2]
        layers = range(self.model.cfg.n_layers)[start : call.get("stop_at_layer")]
        mask = None if mask is None else mask.bool()
        return ForwardPass(batch, width, cached, mask, self._prompt_width(cached, width), layers)

    def _tokens(self, call: dict[str, Any]) -> Int[Tensor, "batch position"]:
        tokens = call["input"]
        if isinstance(tokens, str | list):
            options = {name: call[name] for name in ("prepend_bos", "padding_side") if name in call}
            tokens = self.model.to_tokens(tokens, **options)
        return tokens[None] if tokens.ndim == 1 else tokens

    def _padding(
        self, tokens: Int[Tensor, "batch position"], call: dict[str, Any]
    ) -> Bool[Tensor, "batch position"] | None:
        """What TransformerLens takes for padding, also in passes where it need not mask it."""
        tokenizer: Any = self.model.tokenizer
        if tokenizer is None:
            return None
        bos, side = call.get("prepend_bos", USE_DEFAULT_VALUE), call.get("padding_side", USE_DEFAULT_VALUE)
        bos = self.model.cfg.default_prepend_bos if bos is USE_DEFAULT_VALUE else bos
        side = tokenizer.padding_side if side is USE_DEFAULT_VALUE else side
        real = get_attention_mask(tokenizer, tokens, bool(bos), side).bool()
        # A row of pad tokens alone is text (BOS as the pad token, say): some token of it must be the last.
        return real | ~real.any(dim=1, keepdim=True)

    def _prompt_width(self, cached: int, width: int) -> int | None:
        if self._decoding is None:
            return None
        if self._decoding.prompt_width is None:
            self._decoding.prompt_width = cached + width
        return self._decoding.prompt_width

    @contextmanager
    def _during(self, decoding: _Decoding) -> Iterator[None]:
        outer, self._decoding = self._decoding, decoding
        try:
            yield
        finally:
            self._decoding = outer

    def _generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self._during(_Decoding()):
                return generate(*args, **kwargs)

        return watched

    def _streaming(self, generate_stream: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(generate_stream)
        def watched(*args: Any, **kwargs: Any) -> Iterator[Any]:
            decoding, steps = _Decoding(), iter(generate_stream(*args, **kwargs))
            while True:
                # Only while a step is computed: between steps the caller may run the model for other ends.
                with self._during(decoding):
                    step = next(steps, _ABSENT)
                if step is _ABSENT:
                    return
                yield step

        return watched


class _Decoding:
    """A call of ``generate``: its first pass is the prompt."""

    prompt_width: int | None = None
