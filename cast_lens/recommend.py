"""Which vector helps a task without labels, at which layer and strength, or whether none does.

From labelled source tasks and the queries of a target: each source's mean difference vector, and a random direction of
its norm, is measured at every candidate on the target's queries, whose answers nobody knows, and on the queries of the
sources, whose answers are known. A rule of ``methods.choosing`` chooses. Its expectation is calibrated by treating each
source as the target, where the outcome is known.

What a recommendation does not show: that the model's answers are right. It expects a gain where steering turns answers
that are not admissible into the answers that the model itself prefers, and there a random direction may do as well; the
expected change of one is reported too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .engine import Progress, automatic
from .evaluation import evaluate
from .experiments.config import DEFAULT_SOURCES, STRENGTHS
from .extraction import Extraction, difference_vectors
from .files import write_json
from .interventions import Intervention
from .methods import Choice, Setting, candidate_layers, cell_outcomes, choose_from, settled, unlabelled
from .models.lens import HookedTransformer
from .placebos import placebo_seed, random_direction
from .stats import t_interval
from .tasks import Example, Prompt, Task, load_task, normalise_answer, sample_examples, zero_shot_prompts
from .tasks.types import Split
from .vectors import SteeringVector

if TYPE_CHECKING:
    import pandas as pd

# Layers at which candidates are looked for.
LAYERS = 4
RULE = "both"
SHOWN = 10
# Fewest shown answers that say something when all are the same.
SEVERAL = 5
# Fewest cases in which the rule steered a source, from which on its expectation is corrected by them.
ENOUGH = 4
VECTOR, RANDOM = "vector", "random direction"
FILES = ("vector.safetensors", "recommendation.json", "answers.csv")


@dataclass(frozen=True, slots=True, eq=False)
class Recommendation:
    """What to add for a task, or nothing, with the reason.

    Attributes:
        model: name of the model.
        target: name of the task.
        source: whose vector; empty where nothing is recommended.
        choice: layer, strength and position, or that the rule stands aside.
        vector: to be added; None where nothing is recommended.
        expected, low, high: expected change in right answers, with an interval; 0 where nothing is recommended, NaN
            bounds where too few cases are known.
        placebo: what the same rule expects of the best random direction; 0 where it stands aside for all of them.
        valid: share of unsteered answers that are admissible; NaN for free answers.
        cases: sources treated as targets that the rule steered, on which the interval rests.
        sources: one row per source and kind of direction: what was chosen and what is expected.
        answers: ``query, before, after`` of some queries.
    """

    model: str
    target: str
    source: str
    choice: Choice
    vector: SteeringVector | None
    expected: float
    low: float
    high: float
    placebo: float
    valid: float
    cases: int
    sources: pd.DataFrame
    answers: pd.DataFrame

    @property
    def steers(self) -> bool:
        """Whether anything is recommended."""
        return self.vector is not None

    def intervention(self) -> Intervention:
        """The recommended edit, for ``steer``, ``generate``, ``evaluate`` and ``export``.

        Raises:
            ValueError: when nothing is recommended.
        """
        if self.vector is None or self.choice.setting is None:
            raise ValueError(f"nothing is recommended for {self.target!r}: {self.choice.reason}")
        at = self.choice.setting
        return self.vector.intervention(at.layer, strength=at.strength, operator=at.operator, position=at.position)

    def save(self, folder: str | Path) -> Path:
        """Write ``recommendation.json``, ``answers.csv`` and, where there is one, ``vector.safetensors``."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        if self.vector is not None:
            self.vector.save(path / FILES[0])
        setting = None if self.choice.setting is None else asdict(self.choice.setting)
        about = {
            "model": self.model,
            "target": self.target,
            "source": self.source,
            "setting": setting,
            "rule": self.choice.rule,
            "reason": self.choice.reason,
            **{name: _number(getattr(self, name)) for name in ("expected", "low", "high", "placebo", "valid")},
            "cases": self.cases,
            "sources": json.loads(self.sources.to_json(orient="records")),
        }
        write_json(path / FILES[1], about)
        self.answers.to_csv(path / FILES[2], index=False)
        return path

    def __repr__(self) -> str:
        valid = "" if np.isnan(self.valid) else f" {100 * self.valid:.0f} % of the unsteered answers are admissible."
        if not self.steers:
            return f"{self.target}: add nothing. The rule {self.choice.reason}.{valid}"
        at = self.choice
        known = f" [{100 * self.low:+.0f}, {100 * self.high:+.0f}]" if np.isfinite(self.low) else " (no interval)"
        return (
            f"{self.target}: add the vector of {self.source} at layer {at.layer}, strength {at.strength:g}, position "
            f"{at.position}. Expected change in right answers {100 * self.expected:+.0f} points{known}, of a random "
            f"direction {100 * self.placebo:+.0f}.{valid}{self._uniform()}"
        )

    def _uniform(self) -> str:
        """A warning where all shown answers come out the same, of which queries without labels say nothing else."""
        given = {normalise_answer(answer) for answer in self.answers.get("after", ()) if answer}
        if len(given) != 1 or len(self.answers) < SEVERAL:
            return ""
        return (
            f" All {len(self.answers)} answers shown become {given.pop()!r}: the vector may have chosen one answer for "
            "every query, which the expected change does not see; label a few queries before you rely on it."
        )

    def _repr_html_(self) -> str:
        table = self.answers.to_html(index=False, border=0) if len(self.answers) else ""
        return f"<p>{escape(repr(self))}</p>{table}{self.sources.to_html(index=False, border=0)}"


def recommend(
    model: HookedTransformer,
    task: Task | str | Path | Sequence[Any],
    *,
    sources: Sequence[Task | str] = DEFAULT_SOURCES,
    labels: Sequence[str] | None = None,
    instruction: str | None = None,
    queries: int = 24,
    samples: int = 16,
    shots: int = 5,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    chat: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = automatic,
) -> Recommendation:
    """Recommend a source, layer, strength and position for a task without labels, or to add nothing.

    Args:
        model: from ``load_model``.
        task: a ``Task`` or the name of a built-in one, whose answers are not read; a file of records, a list of records
            or of texts, which need no answers.
        sources: labelled tasks, or names of built-in tasks, by default those of a run; the target is left out if it is
            among them.
        labels: admissible answers of the target, where its records have no ``choices``.
        instruction: what opens the target's prompts, where ``task`` is not a ``Task``.
        queries: queries of each task, at most, on which candidates are measured.
        samples: samples of a source, which make its vector.
        shots: demonstrations in the prompts that make it.
        layers: candidates; four between a fifth and nine tenths of the depth when None.
        strengths: candidates.
        chat: use the model's chat template.
        seed: seed of samples, queries and random directions.
        say: called with a line on what is being done.
        progress: wraps batches.

    Raises:
        ValueError: bad input, before the model runs.
    """
    target = target_task(task, labels=labels, instruction=instruction, seed=seed)
    known = _sources(sources, target)
    for name, value in (("queries", queries), ("samples", samples), ("shots", shots)):
        if value < 2:
            raise ValueError(f"{name}={value} must be at least 2")
    job = _Job(model, queries, samples, shots, chat, seed, layers, tuple(strengths), say, progress)
    return job.recommendation(target, known)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """How a recommendation is made; attributes as the arguments of ``recommend``."""

    model: HookedTransformer
    queries: int
    samples: int
    shots: int
    chat: bool
    seed: int
    layers: Sequence[int] | None
    strengths: tuple[float, ...]
    say: Callable[[str], None]
    progress: Progress

    def recommendation(self, target: Task, sources: Sequence[Task]) -> Recommendation:
        """Vectors, tables, choices, and the answers before and after."""
        import pandas as pd

        vectors = {}
        for source in sources:
            self.say(f"vector of {source.name}")
            vectors[source.name] = self._vector(source)
        directions = _directions(vectors, seed=self.seed)
        asked = unlabelled(zero_shot_prompts(target, _drawn(target, self.queries, seed=self.seed)))
        tables = []
        for name, prompts in ((target.name, asked), *((one.name, self._labelled(one)) for one in sources)):
            self.say(f"{len(prompts)} queries of {name} under {len(directions)} directions")
            tables.append(self._measured(prompts, directions).assign(task=name))
        table = pd.concat(tables, ignore_index=True)
        self.say("answers in full")

        def choose(rows: pd.DataFrame, name: str) -> Choice:
            kind, _, source = name.partition("|")
            return self._choice(rows, kind, source, target.name)

        found, table = settled(
            self.model, asked, directions, table, choose, task=target.name, chat=self.chat, progress=self.progress
        )
        named = {name: name.partition("|") for name in found}
        chosen = {(named[name][0], named[name][2]): choice for name, choice in found.items()}
        errors = self._errors(table, [one.name for one in sources])
        return self._assembled(target, asked, vectors, chosen, errors, table)

    def _vector(self, source: Task) -> SteeringVector:
        room = len(source.train) - self.shots
        how = Extraction(max(2, min(self.samples, room)), self.shots, chat=self.chat, seed=self.seed)
        return difference_vectors(self.model, source, how, progress=self.progress).mean()

    def _labelled(self, source: Task) -> list[Prompt]:
        pool = source.validation or source.test
        split: Split = "validation" if source.validation else "test"
        examples = sample_examples(source, min(self.queries, len(pool)), split=split, seed=self.seed)
        return zero_shot_prompts(source, examples)

    def _measured(self, prompts: Sequence[Prompt], directions: Mapping[str, SteeringVector]) -> pd.DataFrame:
        n_layers = int(self.model.cfg.n_layers)
        return cell_outcomes(
            self.model,
            prompts,
            directions,
            layers=self.layers or candidate_layers(n_layers, LAYERS),
            strengths=self.strengths,
            chat=self.chat,
            progress=self.progress,
        )

    def _choice(self, table: pd.DataFrame, kind: str, source: str, target: str) -> Choice:
        rows = table[table["direction"] == f"{kind}|{source}"]
        return choose_from(rows, source=source, target=target, n_layers=int(self.model.cfg.n_layers), rule=RULE)

    def _errors(self, table: pd.DataFrame, names: Sequence[str]) -> list[float]:
        """Outcome minus expectation, of every vector on every other source that the rule would steer."""
        found = []
        for source in names:
            for held in names:
                if held == source:
                    continue
                choice = self._choice(table, VECTOR, source, held)
                if choice.setting is not None:
                    row = _row(table, VECTOR, source, held, choice.setting)
                    found.append(float(row["gain"] - expected_change(row, choice)))
        return found

    def _assembled(
        self,
        target: Task,
        asked: Sequence[Prompt],
        vectors: Mapping[str, SteeringVector],
        chosen: Mapping[tuple[str, str], Choice],
        errors: Sequence[float],
        table: pd.DataFrame,
    ) -> Recommendation:
        import pandas as pd

        rows = []
        for (kind, source), choice in chosen.items():
            change = 0.0
            if choice.setting is not None:
                change = expected_change(_row(table, kind, source, target.name, choice.setting), choice)
            decision = "steers" if choice.steers else "stands aside"
            rows.append((source, kind, decision, choice.layer, choice.strength, change, choice.score, choice.reason))
        columns = ["source", "direction", "decision", "layer", "strength", "expected", "score", "reason"]
        summary = pd.DataFrame(rows, columns=columns)
        steered = {key: choice for key, choice in chosen.items() if choice.steers and key[0] == VECTOR}
        best = max(steered, key=lambda key: steered[key].score) if steered else None
        choice = steered[best] if best else _aside(chosen)
        source = best[1] if best else ""
        found = summary[(summary["source"] == source) & (summary["direction"] == VECTOR)]["expected"]
        expected, low, high = corrected(float(found.iloc[0]), errors) if best else (0.0, 0.0, 0.0)
        if best and not expected > 0:
            choice, source, best = gated(choice, expected, len(errors)), "", None
            expected, low, high = 0.0, 0.0, 0.0
        vector = vectors[source] if best else None
        noise = summary[summary["direction"] == RANDOM]["expected"]
        return Recommendation(
            model=str(self.model.cfg.model_name),
            target=target.name,
            source=source,
            choice=choice,
            vector=vector,
            expected=expected,
            low=low,
            high=high,
            placebo=float(max(noise.max(), 0.0)),
            valid=float(table[table["task"] == target.name]["valid_before"].iloc[0]),
            cases=len(errors),
            sources=summary,
            answers=self._answers(asked[:SHOWN], vector, choice.setting),
        )

    def _answers(
        self, prompts: Sequence[Prompt], vector: SteeringVector | None, setting: Setting | None
    ) -> pd.DataFrame:
        """Some answers without and with the edit."""
        import warnings

        edits = []
        if vector is not None and setting is not None:
            at = {"strength": setting.strength, "operator": setting.operator, "position": setting.position}
            edits = [vector.intervention(setting.layer, **at)]  # type: ignore[arg-type]
        with warnings.catch_warnings():
            # Nobody knows which answers are right here, so that none is missing.
            warnings.simplefilter("ignore", UserWarning)
            found = evaluate(self.model, prompts, edits, chat=self.chat, progress=self.progress)
        before, after = (found[found["variant"] == variant].reset_index(drop=True) for variant in (0, len(edits)))
        columns = {"query": before["text"], "before": before["answer"], "after": after["answer"]}
        return before.assign(**columns)[list(columns)]


def expected_change(row: pd.Series, choice: Choice) -> float:
    """The believed change at a candidate; for free answers, where nothing is believed, the rule's own score."""
    return float(row["believed"]) if np.isfinite(row["believed"]) else choice.score


def corrected(expected: float, errors: Sequence[float]) -> tuple[float, float, float]:
    """An expected change shifted by the mean error of known cases, with a prediction interval (Student, 95 %).

    Args:
        expected: before the correction.
        errors: outcome minus expectation in other cases; below ``ENOUGH`` of them nothing is corrected and the
            bounds are NaN.
    """
    n = len(errors)
    if n < ENOUGH:
        return expected, float("nan"), float("nan")
    found = t_interval(np.asarray(errors))
    # The interval of the mean, widened to that of one more case.
    half = (found.high - found.value) * np.sqrt(n + 1)
    middle = expected + found.value
    return middle, max(-1.0, middle - half), min(1.0, middle + half)


def gated(choice: Choice, expected: float, cases: int) -> Choice:
    """Standing aside where the rule would steer, because in known cases its expectation was not met."""
    reason = (
        f"stands aside: {choice.reason}, but in {cases} cases among the sources the outcome fell so far short that "
        f"{100 * expected:+.0f} points are expected"
    )
    return Choice(None, choice.rule, choice.score, reason)


def _aside(chosen: Mapping[tuple[str, str], Choice]) -> Choice:
    """The choice for the source that was closest to being used."""
    return max((choice for (kind, _), choice in chosen.items() if kind == VECTOR), key=lambda one: one.score)


def _directions(vectors: Mapping[str, SteeringVector], *, seed: int) -> dict[str, SteeringVector]:
    found = {f"{VECTOR}|{name}": vector for name, vector in vectors.items()}
    for name, vector in vectors.items():
        found[f"{RANDOM}|{name}"] = random_direction(vector, seed=placebo_seed(name, seed, 0))
    return found


def _row(table: pd.DataFrame, kind: str, source: str, task: str, setting: Setting) -> pd.Series:
    here = (table["direction"] == f"{kind}|{source}") & (table["task"] == task)
    here &= (table["layer"] == setting.layer) & (table["strength"] == setting.strength)
    return table[here & (table["position"] == setting.position)].iloc[0]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _drawn(task: Task, count: int, *, seed: int) -> list[Example]:
    """Queries of a task, drawn without their labels."""
    # In an order that is the queries' own: splits are stratified by answers.
    pool = sorted((*task.validation, *task.train, *task.test), key=lambda one: one.input)
    return [pool[index] for index in np.random.default_rng(seed).permutation(len(pool))[:count]]


def _sources(given: Sequence[Task | str], target: Task) -> list[Task]:
    found = [one if isinstance(one, Task) else load_task(one) for one in given]
    usable = [one for one in found if one.name != target.name]
    if not usable:
        raise ValueError(f"sources={[one.name for one in found]} holds no labelled task other than {target.name!r}")
    for one in usable:
        if len(one.train) < 4 or not (one.validation or one.test):
            raise ValueError(
                f"source {one.name!r} has {len(one.train)} training examples and {len(one.validation)} for validation; "
                "4 or more and a validation or test split are needed"
            )
    return usable


def target_task(
    given: Task | str | Path | Sequence[Any],
    *,
    labels: Sequence[str] | None = None,
    instruction: str | None = None,
    seed: int = 0,
) -> Task:
    """The task whose queries are asked; records without answers get admissible ones, which nothing reads.

    Args:
        given, labels, instruction, seed: see ``recommend``.

    Raises:
        ValueError: a file that cannot be read, or fewer than three queries.
    """
    if isinstance(given, Task):
        return given
    if isinstance(given, str | Path):
        path = Path(given)
        if not path.suffix:
            return load_task(str(given))
        if not path.is_file():
            raise ValueError(
                f"task={str(given)!r} is not a file; give a file of records, one query per line, or a task's name"
            )
        from .tasks.formats import read_records

        records, name = [record for record, _ in read_records(path)], path.stem
    else:
        records, name = list(given), "task"
    if len(records) < 3:
        raise ValueError(f"task holds {len(records)} queries; give three or more")
    filled = [_filled(record, index, labels) for index, record in enumerate(records)]
    return replace(
        Task.from_records(filled, name=name, instruction=instruction, labels=labels, seed=seed), origin="queries"
    )


def _filled(record: Any, index: int, labels: Sequence[str] | None) -> Any:
    """A record with an admissible answer in place of one that it lacks."""
    found = {"input": record} if isinstance(record, str) else record
    if not isinstance(found, Mapping):
        raise ValueError(f"query {index + 1}: expected a text or a record, got {type(record).__name__}")
    choices = found.get("choices") or found.get("options") or labels or ("unknown",)
    known = {"answer", "label", "output", "target", "gold"} & {name for name, value in found.items() if value}
    return found if known else {**found, "answer": list(choices)[index % len(choices)]}
