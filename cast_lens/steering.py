"""Steering by hooks: ``with steer(model, vector.intervention(20, strength=3)): model.generate(...)``.

Inside the context every way to run the model is steered alike: a call, ``run_with_hooks``,
``run_with_cache``, ``generate`` and ``generate_stream``, with or without a KV cache, padded on either side or
not, on text or on tokens. Layer ``l`` is the output of block ``l``, ``blocks.{l}.hook_resid_post``; which
tokens are edited is said by ``Intervention.position`` and decided in ``cast_lens.interventions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from .engine.greedy import StopRule, check_length, texts_of, write_greedily
from .engine.reference import places
from .engine.scores import greedy_tokens
from .engine.tokens import Prompts, tokenise
from .hooks import Edit, Watch
from .interventions import Interventions, Steering, as_interventions, prompt_lengths
from .models import HookedDecoder
from .models.identity import check_interventions, plain_model
from .models.lens import HookedTransformer

Model = TypeVar("Model", bound=nn.Module)
Pick = Callable[[Float[Tensor, "row vocab"]], Int[Tensor, " row"]]
"""From logits to the next token of each row."""


@contextmanager
def steer(
    model: Model,
    *interventions: Interventions,
    prompt_length: int | Sequence[int] | Int[Tensor, " batch"] | None = None,
) -> Iterator[Model]:
    """Steer a model for as long as the context lasts; its hooks are gone afterwards, also after an exception.

    Interventions compose in the order given, and after those of an outer ``steer``. Hooks of other origin
    stay as they are, and ``model.reset_hooks()`` inside the context does not end the steering.

    A forward pass that starts at the first token is a prompt: ``last`` and ``prompt_last`` edit each row's
    last real token. A single token after a KV cache is a generated one. ``model.generate`` knows its prompt.
    For anything else (decoding by hand without a cache, prompts after a cached prefix, scoring prompt and
    answer in one pass) give ``prompt_length``. Padding is what ``attention_mask`` says, else what
    TransformerLens takes for it: leading pad tokens or trailing ones, by the tokenizer's ``padding_side``. A
    pass that starts inside the model (``start_at_layer``) sees no tokens: give it an ``attention_mask`` (or
    ``tokens``) when it is padded.

    Args:
        model: a ``HookedTransformer`` in ``eval()`` mode. What ``torch.compile`` made of one runs uncompiled inside the
            context: compiled code passes over hooks that were added later.
        interventions: what to do, and where, all together; see ``SteeringVector.intervention``. ``PromptVectors``
            steer each row of a batch with the vectors of its prompt. A list of them, or a mapping of names to them,
            may replace several.
        prompt_length: real tokens of the prompt, BOS included: one number, or one per row.

    Yields:
        The same model.

    Raises:
        ValueError: before anything runs, when an intervention does not fit the model (layer, width, a vector
            of another model) or the model is in train mode; during a forward pass, when a hook did not run
            exactly once or it cannot be known which tokens to edit; at the end, when the model was run but an
            intervention never edited a token (``stop_at_layer`` below its layer, a prompt that was run before
            the context).

    >>> with steer(model, vector.intervention(2, strength=0.0)):
    ...     steered = model("The sky is")
    >>> bool((steered == model("The sky is")).all())            # strength 0 changes nothing
    True
    """
    whole = plain_model(model)
    items = [item for given in interventions for item in as_interventions(given)]
    _check(whole, items)
    lengths = None if prompt_length is None else prompt_lengths(prompt_length)
    watch = Watch.of(whole)
    edits = [Edit(item, layer, watch, lengths, site) for item in items for layer, site, _ in places(item)]
    compiled = vars(model).get("forward") if whole is not model else None
    try:
        watch.hold(edits)
        if compiled is not None:
            model.forward = whole.__call__
        yield model
        for edit in edits:
            edit.check_acted()
    finally:
        if compiled is not None:
            model.forward = compiled
        watch.release(edits)


@torch.no_grad()
def generate(
    model: HookedTransformer,
    prompts: Prompts,
    *,
    interventions: Interventions = (),
    max_new_tokens: int = 16,
    stop: str | None = "\n",
    chat: bool = False,
    temperature: float = 0.0,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
    use_cache: bool = True,
) -> list[str]:
    """What the model writes after each prompt, steered or not: the plain route, through hooks.

    An answer ends where it ends for ``engine.answer``: see ``engine.greedy.StopRule``.

    Args:
        model: in ``eval()`` mode, with a tokenizer.
        prompts: one or several, see ``engine.tokenise``; they run as one batch, padded on the left.
        interventions: one, several, or several by name: all together, in order.
        max_new_tokens: tokens to write at most, 1 or more.
        stop: text at which an answer ends, not part of it, wherever it follows something that is not blank; None
            to end at end-of-text and end-of-turn tokens only.
        chat: put each prompt through the model's chat template.
        temperature: 0 for the most probable token; above it, tokens are drawn from the softmax of logits / temperature.
        seed: seed of the draws, by a generator of its own; the same call writes the same text.
        on_text: called with each new piece of text as it is written (``print`` it, or collect it); one prompt only.
        use_cache: keep keys and values; without, every step runs the whole text again, with the same result.
            A ``HookedDecoder`` keeps none.

    Returns:
        The new text only, one string per prompt, special tokens left out; empty, with a warning, where logits were
        NaN or infinite.

    Raises:
        ValueError: no or empty prompts, prompts longer than the context, an empty ``stop``, ``max_new_tokens`` below
            1, a negative temperature, ``on_text`` with several prompts; see also ``steer``.

    >>> answers = generate(model, ["The sky is", "Grass is"], interventions=vector.intervention(2), max_new_tokens=3)
    >>> len(answers)
    2
    """
    check_length(max_new_tokens)
    rule = StopRule.of(model, stop)
    pick = _picker(temperature, seed)
    rows = [prompt.tokens for prompt in tokenise(model, prompts, chat=chat, room=max_new_tokens)]
    if on_text is not None and len(rows) != 1:
        raise ValueError(f"on_text follows one prompt, got {len(rows)}; call generate once for each")
    ends = rule if on_text is None else _Told(rule, on_text)
    decoding = _Decoding.of(model, rows, pick, use_cache=use_cache)
    with steer(model, interventions, prompt_length=[len(row) for row in rows]):
        written = write_greedily(decoding.following(0), decoding.step, max_new_tokens=max_new_tokens, stop=ends)
    texts = [text or "" for text in texts_of(rule, [written])[0]]
    if isinstance(ends, _Told):
        ends.tell(texts[0])
    return texts


@dataclass(slots=True, eq=False)
class _Decoding:
    """A batch of texts that grows by one token per row and step."""

    model: HookedTransformer
    pick: Pick
    tokens: Int[Tensor, "batch position"]
    mask: Int[Tensor, "batch position"]
    cache: Any
    alive: list[int]

    @classmethod
    def of(cls, model: HookedTransformer, rows: Sequence[Sequence[int]], pick: Pick, *, use_cache: bool) -> _Decoding:
        """The prompts, with an empty cache where the model keeps one."""
        tokens, mask = _pad_left(rows, device=torch.device(model.cfg.device or "cpu"))
        keeps = use_cache and not isinstance(model, HookedDecoder)
        init = TransformerLensKeyValueCache.init_cache
        cache = init(model.cfg, model.cfg.device, len(rows)) if keeps else None
        return cls(model, pick, tokens, mask, cache, list(range(len(rows))))

    def following(self, seen: int) -> Int[Tensor, " row"]:
        """The next tokens of the rows that continue, from a pass over the tokens that the cache has not seen."""
        logits = self.model(self.tokens[:, seen:], attention_mask=self.mask[:, seen:], past_kv_cache=self.cache)
        return self.pick(logits[self.alive, -1])

    def step(self, kept: list[int], chosen: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Write the chosen tokens; see ``engine.greedy.Step``."""
        self.alive = [self.alive[place] for place in kept]
        seen = self.tokens.shape[1] if self.cache is not None else 0
        # Rows that have ended run on, since the batch's prompts belong together; what they read does not matter.
        column = torch.zeros_like(self.tokens[:, :1])
        column[self.alive, 0] = chosen
        self.tokens = torch.cat((self.tokens, column), dim=1)
        self.mask = torch.cat((self.mask, torch.ones_like(column)), dim=1)
        return self.following(seen)


def _picker(temperature: float, seed: int) -> Pick:
    """The next token of each row from its logits; -1 where they are not finite."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} must be 0 (the most probable token) or a positive number")
    if temperature == 0:
        return greedy_tokens
    generator = torch.Generator().manual_seed(seed)

    def pick(logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
        readable = logits.isfinite().all(dim=-1)
        scaled = torch.where(readable[:, None], logits, torch.zeros_like(logits)).double().cpu() / temperature
        drawn = torch.multinomial(scaled.softmax(dim=-1), 1, generator=generator)[:, 0].to(logits.device)
        return drawn.masked_fill(~readable, -1)

    return pick


@dataclass(slots=True, eq=False)
class _Told:
    """A stop rule that passes on the text written so far, each piece once."""

    rule: StopRule
    on_text: Callable[[str], None]
    told: int = 0

    def __call__(self, written: Sequence[int]) -> bool:
        self.tell(self.rule.text(written) or "", last=False)
        return self.rule(written)

    def tell(self, text: str, *, last: bool = True) -> None:
        """Pass on what is new; half a character, and blanks that may turn out to be the end, wait."""
        ready = text if last else text.rstrip("\ufffd\n")
        if len(ready) > self.told:
            self.on_text(ready[self.told :])
            self.told = len(ready)


def _pad_left(
    rows: Sequence[Sequence[int]], *, device: torch.device
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Tokens and attention mask; the padding's token is not read by anything, so any will do."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return tokens, mask


def _check(model: HookedTransformer, interventions: Sequence[Steering]) -> None:
    if model.training:
        raise ValueError("model is in train mode, which steering does not expect; call model.eval() first")
    check_interventions(model, interventions)
