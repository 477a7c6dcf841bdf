"""Where and how strongly to steer, or whether to: one function chooses, by one of several rules.

Candidates are layers × strengths × positions, and *not to steer*. ``cell_outcomes`` measures what directions do at
every candidate to the queries of one task, in one pass. ``choose_from`` reads such tables of several tasks and applies
a rule of ``RULES``; ``choose_setting`` does both for one vector and one task. Rules read the labels of source tasks. Of
a target they read no label, at most what can be seen on its unlabelled queries:

- whether an answer is admissible at all, and
- the *believed* change: how probable the unsteered model itself held the answers that are written under steering,
  minus the same for its own answers, where an answer that is not admissible counts 0. It is positive where
  steering mends the format and keeps the label that the model preferred anyway, and negative where valid answers turn
  into answers that the model held less probable. Where all answers are valid it cannot be positive: there is no format
  to mend, and the rule stands aside.

What the believed change does not show: that the model is right in what it believes, or that steering corrects it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import Progress, Scores, automatic, sweep
from ..interventions import Operator, Position
from ..models.lens import HookedTransformer
from ..tasks import Prompt
from ..vectors import SteeringVector
from .conditions import Setting

if TYPE_CHECKING:
    import pandas as pd

CELL = ("layer", "strength", "position")
LABELLED = ("gain", "gain_se", "right", "lost", "choice_gain", "gold_logprob")
"""Columns of ``cell_outcomes`` that rest on gold answers; of a target no rule reads them."""
UNLABELLED = ("believed", "believed_se", "valid", "valid_before", "moved", "entropy")
"""Columns that need queries and admissible answers only."""
STRENGTHS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
# One-sided 95 %: a lower bound is meant.
Z = 1.645
# The paper's middle layers are 16 to 20 of 32 (arXiv 2507.13236).
MIDDLE = 0.55
# The middle layers of the development code of CAST: 10 to 20 of 32 together (github lzhjoy/ICTL).
MIDDLE_LAYERS = (10 / 32, 20 / 32)
FIXED: Mapping[str, float] = {"middle": 1.0, "weak-middle": 0.5, "middle-layers": 1.0}
"""Rules that look at no query, with the strength that they prefer."""
# Share of the answers that were right which a guarded cell may turn wrong on any other labelled task.
MOST_LOST = 0.1
# Divergence on plain text, in nats, that a guarded cell may cost.
MOST_KL = 0.5


def cell_outcomes(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    directions: Mapping[str, SteeringVector],
    *,
    layers: Sequence[int] | None,
    strengths: Sequence[float],
    operator: Operator = "add",
    positions: Sequence[Position] = ("last",),
    chat: bool = False,
    progress: Progress = automatic,
) -> pd.DataFrame:
    """What every direction does at every candidate to the queries of one task.

    Args:
        model: the model that the vectors were taken from.
        prompts: zero-shot prompts of one task; without gold answers the columns ``LABELLED`` are NaN.
        directions: vectors and their placebos by name.
        layers, strengths, operator, chat, progress: see ``engine.sweep``.
        positions: tokens that are steered; each is a further set of candidates.

    Returns:
        one row per direction and candidate: ``direction, layer, strength, position, n``; ``gain`` (answers that
        greedy decoding gets right, minus the unsteered share) with its standard error ``gain_se``, ``right`` (unsteered
        share), ``lost`` (share of the answers that were right and no longer are), ``choice_gain`` (the same change
        when only admissible answers are compared), ``gold_logprob`` (mean, of the gold answer among the admissible
        ones; NaN for free answers); ``believed`` (see above) with
        ``believed_se``, ``valid, valid_before`` (shares), ``moved`` (share of queries whose most probable
        admissible answer is another one), ``entropy`` (of the unsteered model's distribution over the admissible
        answers, as a share of the largest possible; mean). Free answers have no admissible set: there these are NaN. A
        candidate whose logits overflow on any query is NaN throughout.

    Raises:
        ValueError: see ``engine.sweep``.
    """
    import pandas as pd

    frames = []
    for position in positions:
        found = sweep(
            model,
            prompts,
            directions,
            layers=layers,
            strengths=strengths,
            operator=operator,
            position=position,
            chat=chat,
            # Answers are compared with each other alone.
            normalised=False,
            progress=progress,
        ).scores
        frames.append(_cells(found))
    return pd.concat(frames, ignore_index=True)


MEASURED = ("match", "chosen", "logprob", "valid", "belief", "moved", "entropy")
"""What is read of one query under every variant."""


def _cells(scores: Scores) -> pd.DataFrame:
    import pandas as pd

    measured: dict[str, list[np.ndarray]] = {name: [] for name in MEASURED}
    for index in range(len(scores.prompts)):
        for name, values in _read(scores, index).items():
            measured[name].append(values)
    arrays = {name: np.stack(columns, axis=1) for name, columns in measured.items()}
    overflowed = scores.overflowed.any(dim=1).numpy()[1:]
    match, chosen, valid, belief = (arrays[name] for name in ("match", "chosen", "valid", "belief"))
    change, believed = match[1:] - match[:1], belief[1:] - belief[:1]
    was_right = (match[:1] == 1).sum(axis=1)
    n = match.shape[1]
    found = {
        "gain": change.mean(axis=1),
        "gain_se": standard_error(change),
        "right": np.full(len(change), match[0].mean()),
        "lost": ((match[:1] == 1) & (match[1:] == 0)).sum(axis=1) / np.maximum(was_right, 1),
        "choice_gain": (chosen[1:] - chosen[:1]).mean(axis=1),
        "gold_logprob": arrays["logprob"][1:].mean(axis=1),
        "believed": believed.mean(axis=1),
        "believed_se": standard_error(believed),
        "valid": valid[1:].mean(axis=1),
        "valid_before": np.full(len(change), valid[0].mean()),
        "moved": arrays["moved"][1:].mean(axis=1),
        "entropy": np.full(len(change), arrays["entropy"][0].mean()),
    }
    found["lost"] = np.where(np.isnan(found["gain"]), np.nan, found["lost"])
    what = [(one.name, one.layer, float(one.strength), one.position) for one in scores.interventions]
    frame = pd.DataFrame(what, columns=["direction", *CELL]).assign(n=n, **found)
    frame.loc[overflowed, list(found)] = np.nan
    return frame


def _read(scores: Scores, index: int) -> dict[str, Float[np.ndarray, " variant"]]:
    """One query under every variant: right, preferred, admissible, how probable the unsteered model held the answer."""
    prompt, logprobs = scores.prompts[index], scores.answer_logprobs[index].double()
    written = scores.written[index].double()
    unknown = torch.full((len(logprobs),), torch.nan, dtype=torch.float64)
    found = dict.fromkeys(MEASURED, unknown)
    several = logprobs.shape[1] > 1
    choice = logprobs.argmax(dim=1) if several else unknown
    if prompt.gold >= 0:
        found["match"] = written[:, prompt.gold]
    if several and prompt.gold >= 0:
        found["chosen"] = (choice == prompt.gold).double()
        found["logprob"] = logprobs.log_softmax(dim=1)[:, prompt.gold]
    if several:
        held = logprobs[0].softmax(dim=0)
        known = written.nan_to_num(nan=0.0)
        found |= {"valid": known.amax(dim=1), "belief": known @ held, "moved": (choice != choice[0]).double()}
        spread = -torch.special.xlogy(held, held).sum() / np.log(len(held))
        found["entropy"] = spread.expand(len(logprobs))
    return {name: _array(values) for name, values in found.items()}


def _array(values: Float[Tensor, " variant"]) -> Float[np.ndarray, " variant"]:
    return values.cpu().numpy()


def standard_error(values: Float[np.ndarray, "cell sample"]) -> Float[np.ndarray, " cell"]:
    """Of the mean over samples; never below that of one changed answer, as few changes say little."""
    n = values.shape[1]
    spread = values.std(axis=1, ddof=1) if n > 1 else np.full(len(values), np.nan)
    return np.maximum(spread, np.sqrt(1 / n)) / np.sqrt(n)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a rule may read of one direction: each array has one entry, or row, per candidate.

    Attributes:
        cells: ``layer, strength, position`` of the candidates, and ``kl`` where it was measured.
        n_layers: of the model.
        own: gain on the source itself; NaN where it was not measured.
        others: gains on other labelled tasks, [candidate, task].
        others_se: their standard errors.
        others_lost: share of right answers lost there, [candidate, task].
        believed, believed_se: believed change on the target's unlabelled queries; NaN for free answers.
    """

    cells: pd.DataFrame
    n_layers: int
    own: Float[np.ndarray, " cell"]
    others: Float[np.ndarray, "cell task"]
    others_se: Float[np.ndarray, "cell task"]
    others_lost: Float[np.ndarray, "cell task"]
    believed: Float[np.ndarray, " cell"]
    believed_se: Float[np.ndarray, " cell"]

    def mean(self) -> Float[np.ndarray, " cell"]:
        """Mean gain over the other labelled tasks; 0 where there are none."""
        return self.others.mean(axis=1) if self.others.shape[1] else np.zeros(len(self.others))

    def mean_lower(self) -> Float[np.ndarray, " cell"]:
        """Its lower bound, over their queries."""
        spread = np.sqrt((self.others_se**2).sum(axis=1)) / max(1, self.others.shape[1])
        return self.mean() - Z * spread

    def worst(self) -> Float[np.ndarray, " cell"]:
        """Gain on the other labelled task that gains least."""
        return self.others.min(axis=1, initial=np.inf)

    def worst_lower(self) -> Float[np.ndarray, " cell"]:
        """Lower bound of the gain on the other labelled task where that is lowest."""
        return (self.others - Z * self.others_se).min(axis=1, initial=np.inf)

    def believed_lower(self) -> Float[np.ndarray, " cell"]:
        """Lower bound of the believed change."""
        return self.believed - Z * self.believed_se

    def near(self, depth: float, strength: float) -> Float[np.ndarray, " cell"]:
        """1 for the candidates nearest to a depth and a strength, 0 elsewhere."""
        layers, strengths = self.cells["layer"].to_numpy(float), self.cells["strength"].to_numpy(float)
        far = np.abs(layers - depth * (self.n_layers - 1)) + self.n_layers * np.abs(strengths - strength)
        return (far == far.min()).astype(float)


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to choose.

    Attributes:
        score: what it maximises over the candidates.
        about: what that is, for reports.
        aside: whether not to steer is a candidate, of score 0.
        others: whether labels of other tasks are ``needed``, ``used`` where there are such tasks, or ``unread``.
        guarded: whether candidates with side effects are left out (``MOST_LOST``, ``MOST_KL``).
    """

    score: Callable[[Evidence], Float[np.ndarray, " cell"]]
    about: str
    aside: bool = True
    others: Literal["needed", "used", "unread"] = "needed"
    guarded: bool = False


def _both(evidence: Evidence) -> Float[np.ndarray, " cell"]:
    """The believed change where the target shows one and other tasks do not lose; else what others show."""
    elsewhere = evidence.mean_lower() if evidence.others.shape[1] else np.full(len(evidence.cells), np.nan)
    shown = np.where(np.isnan(evidence.believed), elsewhere, evidence.believed_lower())
    return np.where(evidence.mean() >= 0, shown, np.minimum(shown, evidence.mean()))


RULES: Mapping[str, Rule] = {
    "own": Rule(lambda one: one.own, "the gain on the source itself", aside=False, others="unread"),
    "mean": Rule(Evidence.mean, "the mean gain on the other labelled tasks"),
    "mean-guarded": Rule(
        Evidence.mean, "the mean gain on the other labelled tasks, side effects bounded", guarded=True
    ),
    "mean-lower": Rule(Evidence.mean_lower, "the lower bound of the mean gain on the other labelled tasks"),
    "worst": Rule(Evidence.worst, "the least gain on any other labelled task"),
    "worst-lower": Rule(Evidence.worst_lower, "the lower bound of the least gain on any other labelled task"),
    "middle": Rule(lambda one: one.near(MIDDLE, 1.0), "the middle layer at strength 1", aside=False, others="unread"),
    "weak-middle": Rule(
        lambda one: one.near(MIDDLE, 0.5), "the middle layer at strength 0.5", aside=False, others="unread"
    ),
    "middle-layers": Rule(
        lambda one: one.near(MIDDLE, 1.0), "the middle layers together at strength 1", aside=False, others="unread"
    ),
    "target": Rule(lambda one: one.believed, "the believed change on the target's unlabelled queries", others="used"),
    "target-lower": Rule(
        Evidence.believed_lower,
        "the lower bound of the believed change on the target's unlabelled queries",
        others="used",
    ),
    "target-guarded": Rule(
        Evidence.believed_lower,
        "the lower bound of the believed change on the target's unlabelled queries, side effects bounded",
        others="used",
        guarded=True,
    ),
    "both": Rule(
        _both,
        "the lower bound of the believed change on the target's unlabelled queries, where other labelled tasks do not "
        "lose on average",
        others="used",
    ),
}
"""Rules by name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting, or none, and why.

    Attributes:
        setting: layer, strength, operator and position; None where the rule stands aside.
        rule: key of ``RULES``.
        score: what the rule gave its best candidate.
        reason: one sentence.
    """

    setting: Setting | None
    rule: str
    score: float
    reason: str

    @property
    def steers(self) -> bool:
        """Whether anything is added."""
        return self.setting is not None

    @property
    def layer(self) -> int:
        """Of the setting; -1 where the rule stands aside."""
        return -1 if self.setting is None else self.setting.layer

    @property
    def strength(self) -> float:
        """Of the setting; 0 where the rule stands aside."""
        return 0.0 if self.setting is None else self.setting.strength

    @property
    def position(self) -> Position:
        """Of the setting; ``last`` where the rule stands aside."""
        return "last" if self.setting is None else self.setting.position


def choose_from(
    table: pd.DataFrame, *, source: str, target: str, n_layers: int, rule: str, operator: Operator = "add"
) -> Choice:
    """Choose layer, strength and position of one direction for one target, or to stand aside.

    Args:
        table: rows of ``cell_outcomes`` of that direction on several tasks, with a column ``task``, and ``kl`` (on
            plain text, nats) where side effects are bounded. The labels of the target are not read.
        source: task of the direction.
        target: task to be steered.
        n_layers: of the model.
        rule: key of ``RULES``.
        operator: how the direction enters, for the setting.

    Raises:
        ValueError: an unknown rule; a rule that needs other labelled tasks, or the target's queries, where the table
            has none; no candidate with finite logits.
    """
    if rule == "middle-layers":
        strengths, position = sorted(set(table["strength"])), table["position"].iloc[0]
        return fixed_choice(rule, n_layers=n_layers, strengths=strengths, operator=operator, position=position)
    evidence = _evidence(table, source=source, target=target, n_layers=n_layers)
    return _choose(evidence, find_rule(rule), rule, operator)


def fixed_choice(
    rule: str,
    *,
    n_layers: int,
    layers: Sequence[int] = (),
    strengths: Sequence[float] = STRENGTHS,
    operator: Operator = "add",
    position: Position = "last",
) -> Choice:
    """The setting of a rule that looks at no query: the middle of the model.

    Args:
        rule: key of ``FIXED``.
        n_layers: of the model.
        layers: block indices that may be taken; all when empty. Of rule ``middle-layers``: those that are taken.
        strengths: that may be taken: the one nearest to the rule's own is.
        operator, position: how the vector enters.

    Raises:
        ValueError: a rule that is not fixed, or several layers under another operator than ``add``.
    """
    if rule not in FIXED:
        raise ValueError(f"rule={rule!r} is not fixed; choose from {', '.join(FIXED)}")
    strength = min(strengths, key=lambda one: (abs(one - FIXED[rule]), one))
    if rule == "middle-layers":
        first, last = (round(share * n_layers) for share in MIDDLE_LAYERS)
        together = tuple(sorted(layers)) or tuple(range(first, min(last, n_layers - 1) + 1))
        setting = Setting(together[0], strength, operator, position, together)
        where = f"layers {', '.join(map(str, together))} together"
    else:
        depth = MIDDLE * (n_layers - 1)
        setting = Setting(
            min(layers or range(n_layers), key=lambda one: abs(one - depth)), strength, operator, position
        )
        where = f"layer {setting.layer}"
    return Choice(setting, rule, float("nan"), f"{where}, strength {strength:g}: fixed by rule {rule}")


def find_rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        ValueError: for an unknown one, naming those that there are.
    """
    if name not in RULES:
        raise ValueError(f"rule={name!r} is unknown; choose from {', '.join(RULES)}")
    return RULES[name]


def _choose(evidence: Evidence, rule: Rule, name: str, operator: Operator) -> Choice:
    if rule.others == "needed" and not evidence.others.shape[1]:
        raise ValueError(
            f"rule={name!r} compares labelled tasks other than source and target, and there is none; give a further "
            "source, or rule 'own' or 'target'"
        )
    scores = np.asarray(rule.score(evidence), dtype=float)
    if rule.guarded:
        scores = np.where(_harmless(evidence), scores, np.nan)
    cells = evidence.cells.assign(score=scores).dropna(subset=["score"])
    if cells.empty:
        if not rule.aside:
            raise ValueError("no candidate has finite logits on every query; give smaller strengths, or dtype float32")
        return Choice(None, name, 0.0, f"stands aside: no candidate can be judged by {rule.about}")
    best = cells.sort_values(["score", "strength"], ascending=[False, True], kind="stable").iloc[0]
    score = float(best["score"])
    if rule.aside and not score > 0:
        return Choice(None, name, score, f"stands aside: {rule.about} is above zero at no candidate")
    setting = Setting(int(best["layer"]), float(best["strength"]), operator, best["position"])
    found = f"layer {setting.layer}, strength {setting.strength:g}: best by {rule.about}"
    return Choice(setting, name, score, found)


def _harmless(evidence: Evidence) -> np.ndarray:
    lost = evidence.others_lost.max(axis=1, initial=0.0) <= MOST_LOST
    kl = evidence.cells["kl"].to_numpy(float) <= MOST_KL if "kl" in evidence.cells else True
    return lost & kl


def _evidence(table: pd.DataFrame, *, source: str, target: str, n_layers: int) -> Evidence:
    """The parts of a table that rules may read; here the target's labels are left behind."""
    import pandas as pd

    cells = table[list(CELL)].drop_duplicates().reset_index(drop=True)
    index = pd.MultiIndex.from_frame(cells)
    if "kl" in table:
        cells = cells.assign(kl=_column(table.drop_duplicates(list(CELL)), "kl", index))
    parts = {str(task): part for task, part in table.groupby("task", sort=False)}
    others = [part for task, part in parts.items() if task not in (source, target) and part["gain"].notna().any()]
    none = np.full(len(cells), np.nan)

    def stacked(name: str) -> Float[np.ndarray, "cell task"]:
        columns = [_column(part, name, index) for part in others]
        return np.stack(columns, axis=1) if columns else np.empty((len(cells), 0))

    seen = parts[target].drop(columns=list(LABELLED)) if target in parts else None
    own = parts.get(source) if source != target else None
    return Evidence(
        cells,
        n_layers,
        none if own is None else _column(own, "gain", index),
        stacked("gain"),
        stacked("gain_se"),
        stacked("lost"),
        none if seen is None else _column(seen, "believed", index),
        none if seen is None else _column(seen, "believed_se", index),
    )


def _column(part: pd.DataFrame, name: str, index: Any) -> Float[np.ndarray, " cell"]:
    return part.set_index(list(CELL))[name].reindex(index).to_numpy(float)


def unlabelled(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The same prompts without their gold answers: what a rule may know of a target."""
    return tuple(replace(prompt, gold="") for prompt in prompts)


def candidate_layers(n_layers: int, count: int, *, first: float = 0.2) -> tuple[int, ...]:
    """Evenly spaced layers up to nine tenths of the depth.

    Args:
        n_layers: of the model.
        count: how many, at most.
        first: the depth of the first, as a share.
    """
    low, high = first * (n_layers - 1), 0.9 * (n_layers - 1)
    places = np.linspace(low, high, min(count, n_layers)) if count > 1 else np.array([MIDDLE * (n_layers - 1)])
    return tuple(sorted({round(place) for place in places}))
