"""Which rule chooses layer and strength, or to stand aside, so that steering helps and does not harm?

Every task is left out in turn: no rule reads its labels, but rules may read those of all other tasks. Each rule chooses
a setting for every source's vector and, through the same tables, for random directions of its norm; the choice is then
run on the target's test queries. A rule is judged by its mean gain, by the harm that it does to single pairs, and by
how much it keeps of the gain where steering at the source's own setting helps. ``oracle`` reads the target's labels and
is not a rule. All queries of a task are drawn with equal shares of its labels, also those on which it is a target.

The gate is a second question: can a predictor that reads no label of the target, learned on pairs of other tasks,
decide whether to steer a pair at the source's own setting at all?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ... import plots
from ...methods import RULES, VECTOR_METHODS, Choice, Condition, Setting, evaluate_conditions, find_rule
from .. import sentences
from ..cells import Cell
from ..choose_setting import CAST, OWN, RANDOM, candidate_table, choice_for, oracle_choice, plain_text_table
from ..config import RunConfig
from ..outcomes import BASELINE, contrast_table, pooled_table
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, settings_first
from ..transfer_matrix import cosine, different_steerable
from ..workspace import Workspace
from .predict_transfer import HeldOut, leave_one_task_out, left_out, next_token_distances, source_alone

ORACLE = "oracle"
METRIC = "exact_match"
METHODS = (CAST, RANDOM)
CHOICES = ("target", "source", "method", "number", "rule", "layer", "strength", "score", "reason")
PREDICTORS = (
    *("believed", "believed_lower", "valid_before", "entropy", "moved", "others_mean", "others_worst", "kl"),
    *("cohesion", "sources_cosine", "nearness"),
)
"""What is known of a pair at the source's own setting without a label of the target: the believed change and its
lower bound; the share of unsteered answers that are admissible, and the entropy of the unsteered model's distribution
over admissible answers, as a share of the largest possible; queries whose preferred answer moves; mean and least gain
on other labelled tasks; divergence on plain text; agreement of the source's samples; mean cosine of its vector with
those of other sources; and how near next tokens under the vector are to those behind the source's demonstrations."""
TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class Choosing(Experiment):
    """Which rule should choose?

    Attributes:
        rules: the rules to compare, keys of ``methods.RULES``; ``own`` is always included.
        nearness: let the gate also use how near the next tokens are to those of in-context learning; this takes 16
            prompts with demonstrations per pair.
    """

    name = "choosing"
    title = "Choosing where to steer, or not to"
    compared = (
        "Each rule's choice for every pair is run on the same test queries as zero-shot; where a rule stands aside, "
        "the outcome is the unsteered answer. Rules read labels of all tasks but the target. Random directions of "
        "the same norm go through the same rules, each with its own measurements. `oracle` chooses by the target's "
        "labels."
    )
    limits = (
        "Rules are compared on the tasks on which they are reported, so the best of them looks slightly better than "
        "it is. A pair counts as harmed when its own 95 % interval is below zero, uncorrected: of pairs without any "
        f"effect, up to 2.5 % would be. {sentences.LIMITS}"
    )
    shown = ("result", "gate", "pairs")

    rules: tuple[str, ...] = tuple(RULES)
    nearness: bool = False

    def __post_init__(self) -> None:
        for name in self.rules:
            find_rule(name)

    @property
    def compared_rules(self) -> tuple[str, ...]:
        """The rules, ``own`` first."""
        return tuple(dict.fromkeys((OWN, *self.rules)))

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings and candidates on every task first; then one cell per target.

        Raises:
            ValueError: fewer than three tasks, or no pair of different tasks that can be steered.
        """
        if len(tasks) < 3:
            raise ValueError(
                f"choosing leaves a target out and compares other tasks; sources and targets name {len(tasks)}, give "
                "three tasks or more"
            )
        names = different_steerable(config, tasks)
        cells = settings_first(config)
        cells += [Cell("candidates", target=name, prepares=True) for name in tasks]
        return [*cells, Cell("plain text", prepares=True), *(Cell("outcomes", name) for name in names)]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Rows of one cell: candidates of a task, or the outcomes of all choices on a target."""
        if cell.kind == "candidates":
            return candidate_table(workspace, cell.target, labelled=True, methods=METHODS)
        if cell.kind == "plain text":
            return plain_text_table(workspace, METHODS)
        return self._outcomes(workspace, cell.target)

    def _outcomes(self, workspace: Workspace, target: str) -> pd.DataFrame:
        """What every choice of every rule does to a target, and what was known of each pair before."""
        base, chosen = workspace.base(target), self._choices(workspace, target)
        conditions: dict[tuple[Any, ...], Condition] = {}
        for key, choice in chosen.items():
            place = (*key[:3], choice.setting)
            if choice.setting is not None and place not in conditions:
                conditions[place] = _steered(workspace, base, key, choice.setting)
        found = evaluate_conditions(
            workspace.model, [base, *conditions.values()], chat=workspace.config.chat, progress=workspace.progress
        ).drop(columns=["text", "gold", "answer"])
        n = len(base.prompts)
        parts = [found.iloc[index * n : (index + 1) * n] for index in range(1 + len(conditions))]
        zero, by_place = parts[0], dict(zip(conditions, parts[1:], strict=True))
        frames = [zero.assign(rule="", score=np.nan, **dict.fromkeys(PREDICTORS, np.nan))]
        for (method, source, number, rule), choice in chosen.items():
            part = zero if choice.setting is None else by_place[method, source, number, choice.setting]
            named = {"method": method, "source": source, "seed": number, "rule": rule, "score": choice.score}
            known = _known(workspace, source, target, method, number) if rule == OWN else {}
            if known and method == CAST:
                known |= self._of_vector(workspace, source, target)
            frames.append(part.assign(**named, **{name: known.get(name, np.nan) for name in PREDICTORS}))
        return pd.concat(frames, ignore_index=True)

    def _of_vector(self, workspace: Workspace, source: str, target: str) -> dict[str, float]:
        """Predictors that read the source's vector itself."""
        layer, vector = workspace.setting(source).layer, workspace.vector(source).at(workspace.setting(source).layer)
        others = [name for name in workspace.config.sources if name not in (source, target)]
        cosines = [cosine(vector.double(), workspace.vector(name).at(layer).double()) for name in others]
        near = -next_token_distances(workspace, target, [source])[source][1] if self.nearness else np.nan
        return {
            "cohesion": source_alone(workspace, source)["cohesion"],
            "sources_cosine": float(np.mean(cosines)) if cosines else np.nan,
            "nearness": near,
        }

    def _choices(self, workspace: Workspace, target: str) -> dict[tuple[str, str, int, str], Choice]:
        labelled, found = tuple(workspace.tasks), {}
        for source in workspace.config.sources:
            if source == target:
                continue
            for method, draws in ((CAST, 1), (RANDOM, workspace.config.placebos)):
                for number in range(draws):
                    which: dict[str, Any] = {"method": method, "number": number, "measured": METHODS}
                    for rule in self.compared_rules:
                        choice = choice_for(workspace, source, target, rule=rule, labelled=labelled, **which)
                        found[method, source, number, rule] = choice
                    found[method, source, number, ORACLE] = oracle_choice(workspace, source, target, **which)
        return found

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """How the rules do.

        Returns:
            ``result``: one row per rule and method, see ``judged``; ``pairs``: one row per pair, rule and metric;
            ``gate``: one row per predictor, see ``gates``; ``curve``: risk and coverage of each predictor.
        """
        outcomes = rows.get("outcomes", pd.DataFrame())
        keys = ("target", "method", "source", "rule")
        pairs = contrast_table(outcomes, keys=keys, tested=lambda name: name == CAST, **config.resampling)
        pairs = pairs[pairs["method"] != BASELINE].reset_index(drop=True)
        known = outcomes[outcomes["rule"] == OWN].drop_duplicates(list(keys)) if len(outcomes) else outcomes
        curve = curves(pairs, known)
        return {
            "result": judged(outcomes, pairs, **config.resampling),
            "pairs": pairs,
            "gate": gates(curve),
            "curve": curve,
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The rule with the least harm and the largest gain, compared with the source's own setting and random
        directions.
        """
        return Findings(headline(frames["result"]))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Gain of every rule, and risk against coverage."""
        result, curve = frames["result"], frames["curve"]
        if len(result):
            yield ReportFigure(
                "rules",
                "Gain and harm of each rule",
                "Each mark is a rule: the mean change in exact match over all pairs against the share of pairs that "
                "it harms (interval below zero). Up and to the left is better; grey marks are random directions "
                "under the same rule.",
                "Scatter plot of mean gain by share of harmed pairs, one mark per rule and kind of direction.",
                plots.plot_rules(result),
                result,
            )
        if len(curve):
            yield ReportFigure(
                "curve",
                "Risk and coverage",
                "Pairs are steered in the order of a predictor that reads no label of the target and was learned on "
                "pairs of other tasks. Further right, more pairs are steered; the line is the mean change over all "
                "pairs, where an unsteered pair counts 0.",
                "Lines of mean change by share of steered pairs, one per predictor.",
                plots.plot_risk_coverage(curve),
                curve,
            )


EXPERIMENT = Choosing


def _steered(workspace: Workspace, base: Condition, key: tuple[Any, ...], setting: Setting) -> Condition:
    method, source, number, _ = key
    vector = VECTOR_METHODS[method].fit(workspace.source(source, number=number))
    return VECTOR_METHODS[method].condition(vector, base.prompts, setting, source=source, seed=number)


def _known(workspace: Workspace, source: str, target: str, method: str, number: int) -> dict[str, float]:
    """The predictors of a pair at the candidate nearest to the source's own setting; no label of the target is read."""
    own, wanted = workspace.setting(source), {"method": method, "source": source, "number": number}

    def here(frame: pd.DataFrame) -> pd.Series:
        rows = frame[(frame[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        far = (rows["layer"] - own.layer).abs() + 100 * (rows["strength"] - own.strength).abs()
        return rows.loc[far.idxmin()]

    seen, plain = (
        here(candidate_table(workspace, target, labelled=True, methods=METHODS)),
        here(plain_text_table(workspace, METHODS)),
    )
    others = [
        here(candidate_table(workspace, name, labelled=True, methods=METHODS))["gain"]
        for name in workspace.tasks
        if name not in (source, target)
    ]
    return {
        **{name: float(seen.get(name, np.nan)) for name in ("believed", "valid_before", "entropy", "moved")},
        "believed_lower": float(seen["believed"] - 1.645 * seen["believed_se"]),
        "others_mean": float(np.mean(others)),
        "others_worst": float(np.min(others)),
        "kl": float(plain["kl"]),
    }


def judged(outcomes: pd.DataFrame, pairs: pd.DataFrame, *, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """One row per rule and method, in exact match.

    Args:
        outcomes: rows of all targets.
        pairs: what ``contrast_table`` says of each pair and rule.
        n_bootstrap, seed: see ``contrast_table``.

    Returns:
        ``rule, method, pairs, steered`` (of them), ``n``; ``gain, gain_low, gain_high`` (over queries); ``gain_tasks,
        gain_tasks_low, gain_tasks_high`` (over targets); ``choice_gain`` (label-restricted accuracy); ``harmed,
        helped`` (pairs whose interval is below, above zero), ``harmed_share``, ``worst`` (gain of the worst pair),
        ``kept`` (share of rule ``own``'s gain that is kept on the pairs where its interval is above zero; NaN without
        such pairs).
    """
    if outcomes.empty:
        return pd.DataFrame(columns=["rule", "method", "pairs", "steered", "n", "gain", "harmed_share"])
    pooled = pooled_table(
        outcomes, by=("rule", "method"), n_bootstrap=n_bootstrap, seed=seed, metrics=(METRIC, "choice_correct")
    )
    choice = pooled[pooled["metric"] == "choice_correct"].set_index(["rule", "method"])["gain"]
    exact = pairs[pairs["metric"] == METRIC]
    own = exact[exact["rule"] == OWN].set_index(["method", "target", "source"])
    rows = []
    for row in pooled[pooled["metric"] == METRIC].to_dict("records"):
        part = exact[(exact["rule"] == row["rule"]) & (exact["method"] == row["method"])]
        if part.empty:
            continue
        base = own.loc[row["method"]].reindex(pd.MultiIndex.from_frame(part[["target", "source"]]))
        gained = (base["gain_low"] > 0).to_numpy()
        kept = part["gain"].to_numpy()[gained].sum() / base["gain"].to_numpy()[gained].sum() if gained.any() else np.nan
        harmed = int((part["gain_high"] < 0).sum())
        rows.append(
            {
                **{name: row[name] for name in ("rule", "method", "pairs", "n", "gain", "gain_low", "gain_high")},
                "steered": int((part["layer"] >= 0).sum()),
                **{name: row[name] for name in ("gain_tasks", "gain_tasks_low", "gain_tasks_high")},
                "choice_gain": choice.get((row["rule"], row["method"]), np.nan),
                "harmed": harmed,
                "helped": int((part["gain_low"] > 0).sum()),
                "harmed_share": harmed / len(part),
                "worst": float(part["gain"].min()),
                "kept": kept,
            }
        )
    return pd.DataFrame(rows)


def curves(pairs: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Risk against coverage of each predictor, at the sources' own settings.

    Each pair is scored from pairs in which its target has no part (see ``leave_one_task_out``). ``together`` is a
    ridge regression on all predictors, calibrated in the same way (see ``ridge_left_out``): it steers where it expects
    a gain.

    Returns:
        one row per predictor and number of steered pairs: ``predictor, n`` (pairs), ``steered, coverage, gain`` (mean
        over all pairs), ``harm`` (share of the steered pairs that lose), ``gate`` (whether this is where the learned
        threshold cuts), ``gate_gain`` (mean gain under that threshold).
    """
    columns = ["predictor", "n", "steered", "coverage", "gain", "harm", "gate", "gate_gain"]
    exact = (
        pairs[(pairs["metric"] == METRIC) & (pairs["rule"] == OWN) & (pairs["method"] == CAST)] if len(pairs) else pairs
    )
    if exact.empty:
        return pd.DataFrame(columns=columns)
    merged = exact.merge(
        known.reindex(columns=["target", "source", "method", *PREDICTORS]), on=["target", "source", "method"]
    )
    rows = []
    for name in PREDICTORS:
        part = merged.dropna(subset=[name]).reset_index(drop=True)
        if len(part) < 4:
            continue
        found = leave_one_task_out(part, part[name].to_numpy(float))
        rows += _curve(name, part["gain"].to_numpy(float), found.scores, found.harmful)
    usable = merged.dropna(subset=["believed"]).reset_index(drop=True)
    if len(usable) >= 4:
        found = ridge_left_out(usable, usable[list(PREDICTORS)].to_numpy(float))
        rows += _curve(TOGETHER, usable["gain"].to_numpy(float), found.scores, found.harmful)
    return pd.DataFrame(rows, columns=columns)


def ridge_left_out(pairs: pd.DataFrame, values: Float[np.ndarray, "pair predictor"]) -> HeldOut:
    """Expected gain of each pair by ridge regression on the pairs in which its target is neither target nor source.

    Predictors are standardised on those pairs and unknown ones count as their mean; the penalty is the number of pairs,
    so that one predictor alone explains at most half of what least squares would.

    Args:
        pairs: ``target, source, gain``.
        values: the predictors of each pair; NaN where unknown.

    Returns:
        the expected gains as scores; harmful where no gain is expected.
    """
    gains, scores = pairs["gain"].to_numpy(float), np.zeros(len(pairs))
    for held, others in left_out(pairs):
        known = values[others]
        usable = np.isfinite(known).any(axis=0)
        centre, spread = np.nanmean(known[:, usable], axis=0), np.nanstd(known[:, usable], axis=0)
        # A predictor that does not vary among these pairs gets weight 0.
        scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0.0)
        rows, asked = (np.nan_to_num((one[:, usable] - centre) * scale) for one in (known, values[held]))
        mean = gains[others].mean()
        penalty = len(rows) * np.eye(rows.shape[1])
        weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ (gains[others] - mean))
        scores[held] = mean + asked @ weights
    return HeldOut(scores, scores <= 0)


def _curve(name: str, gains: np.ndarray, scores: np.ndarray, harmful: np.ndarray) -> list[dict[str, Any]]:
    order, n = np.argsort(-scores, kind="stable"), len(gains)
    sums, losses = np.cumsum(gains[order]), np.cumsum(gains[order] < 0)
    steered, gated = int((~harmful).sum()), float(np.where(harmful, 0.0, gains).mean())
    return [
        {
            "predictor": name,
            "n": n,
            "steered": count,
            "coverage": count / n,
            "gain": float(sums[count - 1]) / n if count else 0.0,
            "harm": float(losses[count - 1]) / count if count else 0.0,
            "gate": count == steered,
            "gate_gain": gated,
        }
        for count in range(n + 1)
    ]


def gates(curve: pd.DataFrame) -> pd.DataFrame:
    """One row per predictor: what a gate with it gains, beside steering always and the best that any cut would gain.

    Returns:
        ``predictor, n, steered, gain`` (mean over all pairs under the learned threshold), ``always`` (steering every
        pair), ``best_cut`` (mean gain at the best place of the curve, seen with the labels), ``harm`` (share of losing
        pairs among the steered ones where the threshold cuts).
    """
    rows = []
    for name, part in curve.groupby("predictor", sort=False):
        cut = part[part["gate"]].iloc[0]
        about = {"predictor": name, "n": int(cut["n"]), "steered": int(cut["steered"]), "gain": float(cut["gate_gain"])}
        ends = {"always": float(part["gain"].iloc[-1]), "best_cut": float(part["gain"].max())}
        rows.append({**about, **ends, "harm": float(cut["harm"])})
    return pd.DataFrame(rows, columns=["predictor", "n", "steered", "gain", "always", "best_cut", "harm"])


def headline(result: pd.DataFrame) -> str:
    """The rule with the largest gain among those that harm least, its placebo, and rule ``own``."""
    found = result[(result["method"] == CAST) & (result["rule"] != ORACLE)] if len(result) else result
    if found.empty:
        return sentences.NOTHING
    rules: Sequence[str] = [str(name) for name in found["rule"]]
    ranked = found.assign(harm=found["harmed_share"] > 0.05).sort_values(["harm", "gain"], ascending=[True, False])
    told = [_told(result, str(ranked["rule"].iloc[0]))]
    if OWN in rules and ranked["rule"].iloc[0] != OWN:
        told.append(_told(result, OWN))
    return "; ".join(told) + "."


def _told(result: pd.DataFrame, rule: str) -> str:
    rows = {row["method"]: row for row in result[result["rule"] == rule].to_dict("records")}
    row = rows[CAST]
    noise = f" (random directions {sentences.change(rows[RANDOM], 'gain')})" if RANDOM in rows else ""
    return (
        f"rule {rule} steers {row['steered']} of {row['pairs']} pairs and changes exact match by "
        f"{sentences.change(row, 'gain')}{noise}, harms {row['harmed']} pairs, worst {sentences.points(row['worst'])}"
    )
