"""Reads what a model wrote: which answer it is, whether it is right, whether it is admissible.

The reading is decided per task, from its gold answers and labels (`AnswerReading.of`). The first line of the text,
without a repeated cue, is compared with an answer up to the end of the line or to a mark that ends a clause. On the way

- case, punctuation at the ends (of every script) and full-width forms are ignored, each only where no two answers of
  the task differ by it alone, and where copying the input would not become an answer by it;
- numbers compare as numbers: ``1,000`` is ``1000``, ``0.5`` is ``1/2``, ``３`` is ``3``; ``-3``, ``3.5``, ``3 km`` and
  ``3%`` are not ``3``. Where two labels have one value (``1`` and ``1.0``) they are compared as text;
- of two answers that both fit, the longer one is meant: ``Washington, D.C.`` is not ``Washington``.

The rule of arXiv 2405.10548 (its public code), which lower-cases and cuts at the first ``.``, ``,``, ``:`` or ``-``
whatever the answers are, is kept under the name ``"2405.10548"``; see `Task.answer_rule`.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .types import Prompt

AnswerRule = Literal["task", "2405.10548"]
CUES = ("Label:", "Answer:")

# The share of examples whose answer is a copy of the input, but for what a reading ignores, above which that difference
# is what the task is about (capitalising words, say).
_COPIES = 0.2
# Marks that end a clause, and their forms in other scripts, which are written without a following blank.
_WIDE = {",": "，、،፣﹐︐︑､၊", ".": "。．｡।॥۔።﹒︒។။།։", ":": "：﹕׃፥", ";": "；؛﹔፤", "!": "！﹗՜", "?": "？؟﹖՞፧"}
_SAME = str.maketrans(
    {"‐": "-", "‑": "-", "−": "-", "﹣": "-", "’": "'", "‘": "'", "ʼ": "'", "٪": "%", "٫": ".", "٬": ","}
)
# Neither letters nor blanks: what is invisible but for the joiners that Indic and Persian spelling needs.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
# Symbols beside Unicode's punctuation that dress an answer, and punctuation that is part of one when it comes last.
_DRESS, _TAIL = "`|~<>=^", "%‰#&@/\\′″"
_VULGAR = "\u00bc-\u00be\u2150-\u215e"
_SIGNED = re.compile(rf"(?=[-.,])-?[$€£¥₹₩₽]?-?[.,]?[\d{_VULGAR}]")
_CLOSERS = "\"'”»«“„)\\]}*_`"
_BOUNDARY = re.compile(rf"[{_CLOSERS}]*(?:\s*$|…|—|\s?[.,:;!?]+[{_CLOSERS}]*(?:\s|$)|\s+[-–—]+\s)")
_AMOUNT = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<before>[^\w\s.,'+/-]?)\s*(?P<inner>[+-]?)"
    r"(?:(?P<whole>\d+)\s+(?=\d+\s*/))?"
    r"(?P<body>(?:\d[\d., '\u00a0\u202f]*)?\d|[.,]\d+)(?P<power>[eE][+-]?\d{1,3})?(?:\s*/\s*(?P<under>\d+))?"
    r"\s*(?P<unit>\D*)"
)


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """How the answers of one task are read; see the module.

    Attributes:
        rule: ``task``, or ``2405.10548`` for that paper's rule, which ignores all that follows.
        case: whether case counts.
        forms: whether full-width forms, digits of other scripts and typographic marks count.
        marks: whether punctuation at the ends counts: none of it, that in ``kept``, or all of it.
        kept: the marks that count.
        numbers: whether numbers compare as numbers.
        answers: the answers of the task, as text.
    """

    rule: AnswerRule = "task"
    case: bool = False
    forms: bool = False
    marks: Literal["none", "kept", "all"] = "none"
    kept: frozenset[str] = frozenset()
    numbers: bool = True
    answers: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        answers: Iterable[str],
        *,
        copies: Iterable[tuple[str, str]] = (),
        rule: AnswerRule = "task",
        labels: bool = False,
    ) -> AnswerReading:
        """The most lenient reading that distinguishes a task's answers.

        Args:
            answers: labels, or the gold answers of all examples.
            copies: inputs with their answers: where many answers are their inputs but for case, case counts.
            rule: see above.
            labels: whether all answers must be distinguishable, in which case two numbers of one value are text.

        Raises:
            ValueError: when ``labels`` differ in white space or encoding only, or in what the named rule ignores.

        >>> AnswerReading.of(["Engine"], copies=[("engine", "Engine")]).case
        True
        """
        given = tuple(dict.fromkeys(answers))
        distinct = tuple(dict.fromkeys(map(_plain, given)))
        near = [(one, other) for one, other in copies if abs(len(one) - len(other)) <= len(other) // 2 + 4]
        total = max(1, len(copies) if isinstance(copies, Sequence) else len(near))
        edges = frozenset(mark for answer in distinct for mark in _edges(answer))
        found = None
        for strict in sorted(product((0, 1, 2), (0, 1), (0, 1)), key=lambda level: (sum(level), level)):
            marks: Literal["none", "kept", "all"] = ("none", "kept", "all")[strict[0]]
            found = cls(rule, bool(strict[2]), bool(strict[1]), marks, edges, answers=distinct)
            if found.tells_apart(distinct) and found._copied(near) < _COPIES * total:
                break
        assert found is not None
        if labels:
            _refuse_alike(found, given)
        values = [value for answer in distinct if (value := found.value(answer)) is not None]
        alike = labels and len(set(values)) < len(values)
        return replace(found, numbers=not alike and found._equal(near) < _COPIES * total)

    def tells_apart(self, answers: Sequence[str]) -> bool:
        """Whether no two answers, and no answer and an empty text, read the same."""
        read = [self.normal(answer) for answer in answers]
        return all(read) and len(set(read)) == len(read)

    def normal(self, text: str) -> str:
        """A text as it is compared."""
        bare = self.bare(text)
        return bare if self.case else bare.casefold()

    def bare(self, text: str) -> str:
        """A text without what this reading ignores, case aside."""
        if not self.forms:
            text = _common_forms(text)
        text = _plain(text)
        if self.marks == "all":
            return text
        kept = self.kept if self.marks == "kept" else frozenset()
        return _without_dress(text, kept)

    def value(self, text: str) -> tuple[Fraction, str] | None:
        """Number and unit, where the text is one number; else None."""
        return _amount(_common_forms(text).strip())

    def gives(self, line: str, answer: str, *, lettered: bool = False) -> bool:
        """Whether a line gives an answer, even if something follows that is not part of it."""
        wanted = self.normal(answer)
        if self.numbers and (value := self.value(self.bare(answer))) is not None:
            told = self.value(_piece(self.bare(line)))
            if told is not None:
                return told == value
        text = self.normal(line)
        if not wanted or not text.startswith(wanted):
            return False
        rest = text[len(wanted) :]
        if self.marks == "all":
            return not rest
        return bool(_BOUNDARY.match(rest) or (lettered and rest.startswith(")")))

    def _copied(self, pairs: Iterable[tuple[str, str]]) -> int:
        """How many answers are a copy of their input, but for what is ignored."""
        return sum(self.normal(one) == self.normal(other) for one, other in pairs if _plain(one) != _plain(other))

    def _equal(self, pairs: Iterable[tuple[str, str]]) -> int:
        """How many answers are the number that the input is, written in another way."""
        return sum(
            self.value(other) is not None and self.value(one) == self.value(other)
            for one, other in pairs
            if self.normal(one) != self.normal(other)
        )


def is_match(answer_text: str, prompt: Prompt, *, rule: AnswerRule | None = None) -> bool:
    """Whether the model's text gives the prompt's gold answer.

    For lettered options ``B``, ``B.``, ``(B)``, ``B) word`` and ``B: word`` all give B.

    Args:
        answer_text: what the model wrote after the prompt.
        prompt: whose answer it is.
        rule: ``2405.10548`` to read as that paper does; by default as the prompt's task does.

    >>> from cast_lens.tasks import load_task, zero_shot
    >>> task = load_task("review-sentiment")
    >>> prompt = zero_shot(task, task.test[0])
    >>> prompt.gold, is_match(" Positive. The", prompt), is_match(" positively", prompt)
    ('positive', True, False)
    """
    reading = _reading(prompt)
    if (rule or reading.rule) != "task":
        return _paper_gives(answer_text, prompt.gold, prompt)
    line, lettered = _first_line(answer_text, _cues(prompt)), _lettered(prompt)
    if not reading.gives(line, prompt.gold, lettered=lettered):
        return False
    if not prompt.choices and not reading.case and _abbreviates(reading.bare(line), prompt.gold):
        return False
    return _longest(reading, line, prompt.choices or reading.answers, prompt.gold, lettered=lettered)


def is_valid(answer_text: str, prompt: Prompt) -> bool:
    """Whether the model's text is one of the admissible answers.

    For free answers every text that says something is admissible.
    """
    reading = _reading(prompt)
    if reading.rule != "task":
        if not prompt.choices:
            return bool(normalise_answer(answer_text, cues=_cues(prompt)))
        return any(_paper_gives(answer_text, choice, prompt) for choice in prompt.choices)
    line = _first_line(answer_text, _cues(prompt))
    if not prompt.choices:
        return bool(reading.bare(line))
    return any(reading.gives(line, choice, lettered=_lettered(prompt)) for choice in prompt.choices)


def may_be_valid(text: str, prompt: Prompt) -> bool:
    """Whether a text that is not finished may still give one of the admissible answers.

    False only where no continuation can: ``tool to`` gives neither ``positive`` nor ``negative``, ``posit`` may give
    one. Free answers, numbers and the rule of arXiv 2405.10548 are always left open.

    >>> from cast_lens.tasks import load_task, zero_shot
    >>> task = load_task("review-sentiment")
    >>> prompt = zero_shot(task, task.test[0])
    >>> may_be_valid(" The", prompt), may_be_valid(" pos", prompt)
    (False, True)
    """
    reading = _reading(prompt)
    if not prompt.choices or reading.rule != "task" or "\ufffd" in text:
        return True
    line, cues = _first_line(text, _cues(prompt)), _cues(prompt)
    if any(cue.lower().startswith(line.lower()) for cue in cues):
        return True
    # A letter may still get its accent, so letters and accents are compared apart.
    begun = unicodedata.normalize("NFD", reading.normal(line))
    for choice in prompt.choices:
        whole = unicodedata.normalize("NFD", reading.normal(choice))
        numeric = reading.numbers and reading.value(reading.bare(choice)) is not None
        if numeric or whole.startswith(begun) or begun.startswith(whole):
            return True
    return False


def normalise_answer(text: str, *, cues: Sequence[str] = CUES) -> str:
    """The answer that a text amounts to by the rule of arXiv 2405.10548, whatever the task.

    Args:
        text: what the model wrote after the prompt; blank lines before the answer are skipped.
        cues: answer cues that a model may repeat before it answers.

    Returns:
        the answer in lower case; empty where the text holds none.

    >>> normalise_answer(" Positive, I think.")
    'positive'
    """
    line = _paper_bare(_first_line(text, cues))
    return _paper_bare(re.split(f"[{re.escape(_CUTS)}]", line, maxsplit=1)[0])


def _reading(prompt: Prompt) -> AnswerReading:
    return prompt.reading or _alone(prompt.choices, prompt.gold)


@lru_cache(maxsize=4096)
def _alone(choices: tuple[str, ...], gold: str) -> AnswerReading:
    """The reading of a prompt that belongs to no task."""
    return AnswerReading.of((*choices, gold))


def _longest(reading: AnswerReading, line: str, answers: Sequence[str], gold: str, *, lettered: bool) -> bool:
    """Whether no other answer that the line gives is longer than the gold one."""
    own = len(reading.normal(gold))
    if len(reading.normal(line)) == own:
        return True
    return not any(
        len(reading.normal(answer)) > own and reading.gives(line, answer, lettered=lettered) for answer in answers
    )


def _abbreviates(line: str, gold: str) -> bool:
    """Whether a text in capitals is another word than a gold answer in small letters: ``US`` is not ``us``."""
    piece = _piece(line)
    return len(piece) > 1 and piece.isupper() and gold == gold.lower() and gold != gold.upper()


def _refuse_alike(reading: AnswerReading, labels: Sequence[str]) -> None:
    read: dict[str, str] = {}
    for label in labels:
        key = reading.normal(label) if reading.rule == "task" else _paper_bare(label)
        if key in read or not key:
            other = read.get(key, "")
            raise ValueError(
                f"the labels {other!r} and {label!r} read the same (rule {reading.rule!r}); write them so that they "
                "differ in more than white space or encoding"
                + ("" if reading.rule == "task" else ", or leave the rule out")
            )
        read[key] = label


def _plain(text: str) -> str:
    """One encoding of a text, with single blanks and nothing invisible."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def _common_forms(text: str) -> str:
    """Full-width and ligature forms, digits and marks of every script as ASCII writes them."""
    if text.isascii():
        return text
    for mark, others in _WIDE.items():
        # Between digits a mark belongs to the number; elsewhere a blank follows, as it does in other scripts.
        text = re.sub(rf"(?<=\d)[{others}](?=\d)", mark, text)
        text = re.sub(f"[{others}]", f"{mark} ", text)
    text = re.sub(r"^\s*–(?=\d)", "-", text).translate(_SAME)
    return "".join(map(_common_form, text))


@lru_cache(maxsize=4096)
def _common_form(character: str) -> str:
    if unicodedata.category(character) == "Nd":
        return str(unicodedata.digit(character))
    wide = "\uff00" <= character <= "\uffef" or "\ufb00" <= character <= "\ufb06" or character == "\u3000"
    return unicodedata.normalize("NFKC", character) if wide else character


def _dresses(mark: str) -> bool:
    return mark.isspace() or mark in _DRESS or unicodedata.category(mark).startswith("P")


def _edges(answer: str) -> Iterable[str]:
    """The marks at the ends of an answer that would be stripped."""
    bare = _without_dress(_common_forms(answer), frozenset())
    common = _plain(_common_forms(answer))
    start = common.find(bare) if bare else len(common)
    return {*common[:start], *common[start + len(bare) :]} - {" "}


def _without_dress(text: str, kept: frozenset[str]) -> str:
    """A text without the punctuation around it; a sign or point before a digit is part of a number."""
    start, stop = 0, len(text)
    while start < stop and _dresses(text[start]) and text[start] not in kept:
        if _SIGNED.match(text, start):
            break
        start += 1
    while stop > start and _dresses(text[stop - 1]) and text[stop - 1] not in kept:
        if text[stop - 1] in _TAIL:
            break
        stop -= 1
    return text[start:stop]


def _piece(line: str) -> str:
    """A line up to the first mark that ends a clause."""
    for place in range(1, len(line)):
        if not line[place].isalnum() and _BOUNDARY.match(line, place):
            return line[:place]
    return line


def _amount(text: str) -> tuple[Fraction, str] | None:
    spelt = re.sub(
        f"[{_VULGAR}]", lambda found: " " + unicodedata.normalize("NFKC", found[0]).replace("\u2044", "/"), text
    ).strip()
    found = _AMOUNT.fullmatch(spelt)
    if found is None or (found["sign"] and found["inner"]):
        return None
    number = _decimal(found["body"])
    if number is None or (found["under"] and not int(found["under"])):
        return None
    if found["under"]:
        number /= int(found["under"])
    if found["whole"]:
        number += int(found["whole"])
    if found["power"]:
        number *= Fraction(10) ** int(found["power"][1:])
    unit = " ".join(found["unit"].split())
    unit = "%" if unit.casefold() in ("percent", "per cent") else unit if len(unit) <= 3 else unit.casefold()
    return (-number if "-" in (found["sign"], found["inner"]) else number, found["before"] + unit)


def _decimal(body: str) -> Fraction | None:
    """A number with points, commas, apostrophes or blanks in it; None where they make no sense."""
    body = re.sub(r"[\u00a0\u202f]", " ", body)
    marks = [mark for mark in body if not mark.isdigit()]
    point = ""
    if marks:
        last = marks[-1]
        if last in ".," and marks.count(last) == 1:
            ambiguous = last == "," and len(set(marks)) == 1 and re.fullmatch(r"[1-9]\d{0,2},\d{3}", body)
            point = "" if ambiguous else last
    whole, _, part = body.rpartition(point) if point else (body, "", "")
    groups = {mark for mark in whole if not mark.isdigit()}
    if len(groups) > 1 or not (part.isdigit() or not part):
        return None
    if groups:
        mark = re.escape(groups.pop())
        if not re.fullmatch(rf"\d{{1,3}}(?:{mark}\d{{3}})+|\d{{1,2}}(?:{mark}\d{{2}})*{mark}\d{{3}}", whole):
            return None
    digits = re.sub(r"\D", "", whole)
    return Fraction(int(f"{digits}{part}" or "0"), 10 ** len(part))


def _lettered(prompt: Prompt) -> bool:
    return prompt.choices[:2] == ("A", "B") and all(len(choice) == 1 for choice in prompt.choices)


def _cues(prompt: Prompt) -> tuple[str, ...]:
    """The cue that ends the query, so that a model which repeats it in its own language is understood."""
    return (*CUES, prompt.query.rsplit("\n", 1)[-1].strip())


def _first_line(text: str, cues: Sequence[str]) -> str:
    lines = text.strip().splitlines()
    line = lines[0].strip() if lines else ""
    for cue in cues:
        if cue and line.lower().startswith(cue.lower()):
            line = line[len(cue) :].strip()
    return line


# The rule of arXiv 2405.10548. The wide forms are what Chinese and Japanese text uses for the same marks.
_CUTS = ".,:-。，：、．"
_AROUND = string.punctuation + string.whitespace + "“”„«»‘’…–—¿¡" + _CUTS


def _paper_gives(answer_text: str, answer: str, prompt: Prompt) -> bool:
    line, wanted = _paper_bare(_first_line(answer_text, _cues(prompt))), _paper_bare(answer)
    marks = f"{_CUTS})" if _lettered(prompt) else _CUTS
    # A gold answer made of punctuation alone is compared as it is.
    if not wanted:
        return answer_text.strip() == answer.strip()
    return re.match(rf"{re.escape(wanted)}\s*(?:$|[{re.escape(marks)}])", line) is not None


def _paper_bare(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip(_AROUND).lower()
