"""What steering does to the model's distributions: on plain text it was not meant for, and token by token.

A vector strong enough to change an answer also changes everything else that the model would have written.
``text_effects`` measures that on neutral text, in one pass for all interventions: the second half of each text is
scored as if the model had decoded it, so under position ``last`` every one of its tokens is steered as generated
tokens are. ``token_effects`` says which next tokens gain and lose.

Low costs on plain text do not show that a vector is harmless elsewhere; high ones show what its gain costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .engine import score, tokenise
from .engine.layout import TokenPrompt
from .engine.tokens import Prompts
from .interventions import Interventions, Steering, as_interventions
from .models.lens import HookedTransformer
from .stats import mean_interval

if TYPE_CHECKING:
    import pandas as pd

KEPT_MB = 256.0
"""How many full-vocabulary logits exist at once."""

NEUTRAL_TEXTS = (
    "The path follows the river for a mile and then climbs through the pines to a small wooden hut.",
    "To make the dough, mix the flour with warm water and salt, and let it rest under a towel for an hour.",
    "My grandmother kept her letters in a tin box on the top shelf, tied together with a blue ribbon.",
    "The train leaves the station at seven in the morning and arrives at the coast a little before noon.",
    "Bees find their way back to the hive by the position of the sun, even when the sky is partly covered.",
    "Before you paint the wall, remove the old paint, fill the holes, and wait until the surface is dry.",
    "The library is open from Monday to Friday, and on the first Saturday of every month until two o'clock.",
    "In winter the lake freezes from the shore inwards, and the children bring their skates to school.",
    "The carpenter measured the board twice, drew a line with a pencil, and cut it with a fine saw.",
    "A new bridge was built across the valley in the year after the flood had carried the old one away.",
    "She opened the window, listened for a while to the rain, and then went back to her desk to write.",
    "The old clock in the hall runs a few minutes slow, so everybody in the house is always a bit late.",
    "Potatoes keep for months in a dark and cool cellar, as long as no frost gets in through the window.",
    "After lunch the ferry crosses to the island, where two buses wait on the quay for the passengers.",
    "He learned to swim in a quarry outside the village, long before there was a pool in the next town.",
    "The kettle has a dent on one side because it fell off the stove when we moved to the new kitchen.",
    "On clear nights you can see the lights of the harbour from the garden behind the school.",
    "The meeting was moved to Thursday, since the larger room had already been given to the choir.",
    "Sand from the dunes blows over the road in spring, and a plough has to push it back to the beach.",
    "My neighbour repairs bicycles in his garage and leaves them outside the door when they are ready.",
    "Wool shrinks in hot water, so wash the blanket by hand and dry it flat on a clean sheet.",
    "The tower was used as a lookout, later as a store for grain, and today it stands empty.",
    "A thin layer of snow covered the fields, and the tracks of a hare led across to the hedge.",
    "We took the wrong turning at the mill and reached the farm from the other side of the hill.",
)
"""Everyday sentences without labels, questions or opinions; written for this package."""


def text_effects(
    model: HookedTransformer,
    interventions: Interventions,
    texts: str | Sequence[str] = NEUTRAL_TEXTS,
    *,
    kept_mb: float = KEPT_MB,
) -> pd.DataFrame:
    """How well the model still predicts plain text under each intervention.

    Args:
        model: any ``HookedTransformer`` with a tokenizer.
        interventions: variants besides the unsteered model: one, several, or several by name (the column ``name``).
        texts: of 4 tokens or more; the first half of each is the prompt, the rest is scored.
        kept_mb: memory for full-vocabulary logits, in MB.

    Returns:
        One row per variant and text: ``variant`` (0 unsteered), ``name, layer, strength, operator, position, text,
        tokens`` (scored), ``nll`` (mean negative log-likelihood of a scored token, nats; its exponential is the
        perplexity), ``kl`` (of the first scored token's distribution, unsteered against steered, nats).

    Raises:
        ValueError: for a text of fewer than 4 tokens; see ``score``.
    """
    import pandas as pd

    interventions = as_interventions(interventions)
    texts = [texts] if isinstance(texts, str) else list(texts)
    halves = [_halved(prompt, text) for prompt, text in zip(tokenise(model, texts), texts, strict=True)]
    held = 4e-6 * (len(interventions) + 1) * int(model.cfg.d_vocab_out)
    size = max(1, int(kept_mb / held))
    frames = []
    for start in range(0, len(halves), size):
        part = halves[start : start + size]
        found = score(model, part, interventions, keep_logits=True)
        assert found.logits is not None
        frame = found.to_frame()
        lengths = np.repeat([len(prompt.answers[0]) for prompt in part], len(interventions) + 1)
        frame = frame.assign(tokens=lengths, nll=-frame["gold_logprob"] / lengths)
        frames.append(frame.assign(kl=divergence(found.logits).T.flatten().numpy()))
    joined = pd.concat(frames, ignore_index=True).rename(columns={"sample": "text"})
    joined.insert(0, "variant", np.tile(np.arange(len(interventions) + 1), len(halves)))
    what = ["variant", "name", "layer", "strength", "operator", "position"]
    return joined[[*what, "text", "tokens", "nll", "kl"]]


def effect_table(frame: pd.DataFrame, *, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """``text_effects`` over texts, one row per variant, each text counting the same.

    Columns: the variant's, ``n`` texts, ``perplexity``, ``ratio, ratio_low, ratio_high`` (perplexity over the
    unsteered one's, paired by text, BCa bootstrap), ``kl, kl_low, kl_high``.

    Raises:
        ValueError: when the frame lacks the unsteered variant 0.
    """
    import pandas as pd

    keys = ["variant", "name", "layer", "strength", "operator", "position"]
    before = frame[frame["variant"] == 0].set_index("text")["nll"]
    if before.empty:
        raise ValueError("frame lacks variant 0, the unsteered model; give the whole frame that text_effects returned")
    rows = []
    for key, part in frame.groupby(keys, sort=False):
        change = part["nll"].to_numpy() - before.loc[part["text"]].to_numpy()
        ratio, kl = (mean_interval(v, shares=False, n_bootstrap=n_bootstrap, seed=seed) for v in (change, part["kl"]))
        ends = np.exp([ratio.value, ratio.low, ratio.high])
        if part["variant"].iloc[0] == 0:
            # The unsteered model against itself is not an estimate.
            ends = np.ones(3)
        rows.append((*key, len(part), np.exp(part["nll"].mean()), *ends, kl.value, kl.low, kl.high))
    found = ["n", "perplexity", "ratio", "ratio_low", "ratio_high", "kl", "kl_low", "kl_high"]
    return pd.DataFrame(rows, columns=[*keys, *found])


def token_effects(
    model: HookedTransformer, prompts: Prompts, intervention: Steering, *, placebos: Interventions = ()
) -> pd.DataFrame:
    """What the next-token distribution gains and loses, averaged over prompts.

    Args:
        model: with a tokenizer.
        prompts: see ``score``.
        intervention: whose effect it is.
        placebos: the same edit without its content, such as random directions of its norm; run in the same pass.

    Returns:
        One row per token of the vocabulary, largest change first: ``token, before, after, delta`` (probabilities), and
        the change under each placebo as ``placebo 1, placebo 2, ...``, as ``plots.plot_token_effects`` takes it. Half
        the sum of a column's absolute changes is the probability that is moved in all.

    Raises:
        ValueError: see ``score``; or when the model has no tokenizer.
    """
    import pandas as pd

    if model.tokenizer is None:
        raise ValueError("token_effects names tokens and needs a tokenizer; load the model with load_model")
    logits = score(model, prompts, [intervention, *as_interventions(placebos)], keep_logits=True).logits
    assert logits is not None
    before, after, *controls = (one.softmax(dim=-1).double().mean(dim=0).cpu().numpy() for one in logits)
    order = np.argsort(-np.abs(after - before), kind="stable")
    tokens = [str(model.tokenizer.decode([int(index)])) for index in order]
    columns = {"before": before, "after": after, "delta": after - before}
    columns |= {f"placebo {number}": one - before for number, one in enumerate(controls, start=1)}
    return pd.DataFrame({"token": tokens, **{name: values[order] for name, values in columns.items()}})


def divergence(logits: Float[Tensor, "variant sample vocab"]) -> Float[Tensor, "variant sample"]:
    """KL divergence, in nats, of variant 0's distribution from each variant's; 0 for variant 0 itself."""
    base = logits[0].double().log_softmax(dim=-1)
    rows = [(base.exp() * (base - one.double().log_softmax(dim=-1))).sum(dim=-1) for one in logits]
    return torch.stack(rows).clamp(min=0)


def _halved(prompt: TokenPrompt, text: str) -> TokenPrompt:
    tokens = prompt.tokens
    if len(tokens) < 4:
        raise ValueError(f"text {text!r} has {len(tokens)} tokens; 4 or more are needed to predict its second half")
    middle = len(tokens) // 2
    return TokenPrompt(tokens[:middle], (tokens[middle:],), gold=0, name=text)
