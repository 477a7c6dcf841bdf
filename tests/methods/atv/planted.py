"""A toy in which the right vector is a known function of the query, and which the large model cannot see itself.

Tokens never meet in the toy, and every prompt ends in the same token, whose residual is zero: what the large model
answers without a vector does not depend on the query at all. Its unembedding is the identity on eight tokens, so the
vector at the last layer *is* the logits. Each query has one usual answer (9 of 16 times) and every other answer once:
the loss is lowest exactly where ``softmax(v) = p(answer | query)``, that is ``v = log p`` up to a constant.
"""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import Example, Task, Template
from tests.toy import toy_model

WORDS = 8
USUAL = 9
OF = USUAL + WORDS - 1
# Loss of the best vector per query, and of the best vector for all of them, in nats.
BEST = -(USUAL / OF) * math.log(USUAL / OF) - (WORDS - 1) / OF * math.log(1 / OF)
BEST_STATIC = math.log(WORDS)


def usual(query: int) -> int:
    """The answer that a query usually has: a permutation without fixed points."""
    return (3 * query + 1) % WORDS if WORDS % 3 else (query + 1) % WORDS


def planted_model() -> HookedTransformer:
    model = toy_model(n_layers=2, d_model=WORDS, d_vocab=2 * WORDS)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.W_out.zero_()
        for weight in (model.embed.W_E, model.pos_embed.W_pos, model.unembed.W_U):
            weight.zero_()
        model.embed.W_E[:WORDS] = 4 * torch.eye(WORDS)
        model.unembed.W_U[:, :WORDS] = torch.eye(WORDS)
        model.unembed.b_U[WORDS:] = -1e4
    names = [f"t{i}" for i in range(WORDS)] + ["ask"] + [f"unused{i}" for i in range(WORDS - 1)]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="ask"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="unused0", eos_token="unused1")
    model.cfg.default_prepend_bos = False
    return model


def planted_task() -> Task:
    examples = []
    for query in range(WORDS):
        answers = [usual(query)] * USUAL + [word for word in range(WORDS) if word != usual(query)]
        examples += [Example(f"{query}-{i}", f"t{query}", f"t{word}") for i, word in enumerate(answers)]
    template = Template("toy", "{input} ask", definition="")
    both = tuple(examples)
    return Task("planted", "free", "word", template, "", (), both, both, both)


def right_vectors() -> Tensor:
    """The best vector of each query [query, d_model], without the constant that softmax does not see."""
    best = torch.full((WORDS, WORDS), 1 / OF)
    best[range(WORDS), [usual(query) for query in range(WORDS)]] = USUAL / OF
    return centred(best.log())


def centred(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(dim=-1, keepdim=True)
