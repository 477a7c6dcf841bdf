"""The only room that runs a model.

- ``capture``: residuals at the last prompt token, every layer, prompts that begin alike run once;
- ``score``: log-probabilities of answers, unsteered and under many interventions, from one pass;
- ``sweep``: ``score`` over layers × strengths × directions;
- ``answer``: greedy answers under many interventions;
- ``tokenise``: prompts as the model reads them;
- ``reference``: the plain hook route that all of these must equal, and that serves unknown architectures;
- ``unsupported``: why a model would take the plain route.
"""

from .capture import capture
from .decoding import answer
from .layout import TokenPrompt
from .progress import Progress, bars, quiet
from .scoring import Scores, score
from .support import unsupported
from .sweep import Sweep, sweep
from .tokens import tokenise

__all__ = [
    "Progress",
    "Scores",
    "Sweep",
    "TokenPrompt",
    "answer",
    "bars",
    "capture",
    "quiet",
    "score",
    "sweep",
    "tokenise",
    "unsupported",
]
