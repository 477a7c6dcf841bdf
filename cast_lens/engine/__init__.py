"""Runs the model; no other package does.

- ``capture``: residuals of every layer at the last prompt token; beginnings that prompts share run once;
- ``capture_to_disk``: the same in shards on disk, for results that do not fit into memory;
- ``capture_heads``, ``indirect_effects``, ``project_heads``: outputs of heads, and their effect on an answer;
- ``score``: log-probabilities of answers, unsteered and under many interventions, from one pass;
- ``sweep``: ``score`` over layers × strengths × directions;
- ``answer``: greedy answers under many interventions;
- ``score_and_answer``: both from one pass;
- ``answer_losses``, ``Prefixes``, ``frozen``: the loss of answers, differentiable in the steering vectors;
- ``tokenise``: prompts as the model reads them;
- ``reference``: the plain route through hooks, which all of these must equal and which runs other architectures;
- ``unsupported``: why a model would take the plain route.
"""

from .capture import CapturedResiduals, capture, capture_to_disk
from .decoding import answer, score_and_answer
from .gradients import Prefix, Prefixes, answer_losses, frozen
from .heads import capture_heads, indirect_effects, project_heads
from .layout import TokenPrompt
from .progress import Progress, automatic, bars, quiet
from .scores import Scores
from .scoring import score
from .support import unsupported
from .sweep import Sweep, sweep
from .tokens import tokenise

__all__ = [
    "CapturedResiduals",
    "Prefix",
    "Prefixes",
    "Progress",
    "Scores",
    "Sweep",
    "TokenPrompt",
    "answer",
    "answer_losses",
    "automatic",
    "bars",
    "capture",
    "capture_heads",
    "capture_to_disk",
    "frozen",
    "indirect_effects",
    "project_heads",
    "quiet",
    "score",
    "score_and_answer",
    "sweep",
    "tokenise",
    "unsupported",
]
