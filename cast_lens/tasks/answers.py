"""Reads what a model wrote: which answer it is, whether it is right, whether it is admissible.

The rule is that of arXiv 2405.10548 (its public code): the first line of what the model wrote, without a
repeated cue and without punctuation around it, cut at the first ``.``, ``,``, ``:`` or ``-``, lower-cased,
and compared whole.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

from .types import Prompt

CUES = ("Label:", "Answer:")
# The wide forms are what Chinese and Japanese text uses for the same marks.
_CUTS = ".,:-。，：、．"
_AROUND = string.punctuation + string.whitespace + "“”„«»‘’…–—¿¡" + _CUTS


def normalise_answer(text: str, *, cues: Sequence[str] = CUES) -> str:
    """The answer that a model's text amounts to.

    Args:
        text: what the model wrote after the prompt; blank lines before the answer are skipped.
        cues: answer cues that a model may repeat before it answers.

    Returns:
        the answer in lower case; empty where the text holds none.
    """
    line = _first_line(text, cues)
    return _bare(re.split(f"[{re.escape(_CUTS)}]", line, maxsplit=1)[0])


def is_match(answer_text: str, prompt: Prompt) -> bool:
    """Whether the model's text gives the prompt's gold answer.

    A gold answer that itself holds a cutting mark (``Port-au-Prince``) has to be given in full. For lettered
    options ``B``, ``B.``, ``(B)``, ``B) word`` and ``B: word`` all give B.
    """
    return _gives(answer_text, prompt.gold, prompt)


def is_valid(answer_text: str, prompt: Prompt) -> bool:
    """Whether the model's text is one of the admissible answers.

    For free answers every text that says something is admissible.
    """
    if not prompt.choices:
        return bool(normalise_answer(answer_text, cues=_cues(prompt)))
    return any(_gives(answer_text, choice, prompt) for choice in prompt.choices)


def _gives(answer_text: str, answer: str, prompt: Prompt) -> bool:
    line, wanted = _first_line(answer_text, _cues(prompt)), _bare(answer)
    marks = f"{_CUTS})" if _lettered(prompt) else _CUTS
    # A gold answer made of punctuation alone is compared as it stands.
    if not wanted:
        return answer_text.strip() == answer.strip()
    return re.match(rf"{re.escape(wanted)}\s*(?:$|[{re.escape(marks)}])", line) is not None


def _lettered(prompt: Prompt) -> bool:
    return prompt.choices[:2] == ("A", "B") and all(len(choice) == 1 for choice in prompt.choices)


def _cues(prompt: Prompt) -> tuple[str, ...]:
    """The cue that ends the query, so that a model which repeats it in its own language is understood."""
    return (*CUES, prompt.query.rsplit("\n", 1)[-1].strip())


def _first_line(text: str, cues: Sequence[str]) -> str:
    line = text.strip().split("\n", 1)[0].strip()
    for cue in cues:
        if cue and line.lower().startswith(cue.lower()):
            line = line[len(cue) :]
    return _bare(line)


def _bare(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip(_AROUND).lower()
