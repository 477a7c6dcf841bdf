"""What a source's vector, at the setting chosen for the source itself, does where it was not meant to act.

Other tasks: change of exact match, validity, label-restricted accuracy, and the share of answers that change at all.
Plain text: perplexity and KL divergence (``effects.text_effects``). Beside every vector stand random directions of its
norm, at its layer and strength.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...effects import NEUTRAL_TEXTS, effect_table, text_effects
from ...stats import mean_interval, proportion_interval
from ...tasks import normalise_answer
from .. import wording
from ..bench import Bench
from ..cells import Cell
from ..legacy import Drawing, Experiment, Frames, Reading, Tasks, settings_first
from ..outcomes import BASELINE, contrast_table, pooled_table
from ..settings import ExperimentConfig
from ..transfer_matrix import CAST, RANDOM, crossed_outcomes, steerable

if TYPE_CHECKING:
    import pandas as pd

OWN, ELSEWHERE = "own task", "another task"
PARETO = {"exact_match": "Exact match", "choice_correct": "Label-restricted accuracy"}


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then one cell a task that is steered, and one a source on plain text."""
    steered = [Cell("tasks", target) for target in steerable(config, tasks)]
    return [*settings_first(config), *steered, *(Cell("text", source=source) for source in config.sources)]


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Outcomes on a task, or on plain text."""
    if cell.kind == "tasks":
        return crossed_outcomes(bench, cell.target).assign(part="tasks")
    return text_rows(bench, cell.source)


def text_rows(bench: Bench, source: str) -> pd.DataFrame:
    """One row a text and direction."""
    config, at = bench.config, bench.setting(source)
    assert isinstance(config, ExperimentConfig)
    named = [(CAST, 0, bench.vector(source))]
    named += [(RANDOM, draw, bench.random_direction(source, number=draw)) for draw in range(config.placebos)]
    edits = [
        vector.intervention(at.layer, strength=at.strength, operator=at.operator, position=at.position)
        for *_, vector in named
    ]
    found = text_effects(bench.model, edits, NEUTRAL_TEXTS[: config.texts])
    what = [(BASELINE, 0), *((method, draw) for method, draw, _ in named)]
    return found.drop(columns="name").assign(
        part="text",
        source=source,
        text=found["text"].map({text: index for index, text in enumerate(NEUTRAL_TEXTS)}),
        method=[what[variant][0] for variant in found["variant"]],
        seed=[what[variant][1] for variant in found["variant"]],
    )


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair, method and metric. ``methods``: over pairs. ``pareto``: own gain against loss."""
    import pandas as pd

    answered, text = rows[rows["part"] == "tasks"], rows[rows["part"] == "text"]
    outcomes = answered.assign(own=answered["own"].astype(bool))
    away = outcomes[~outcomes["own"]]
    draws, seed = config.bootstrap, config.seed
    other = contrast_table(away, tested=lambda name: name == CAST, n_bootstrap=draws, seed=seed)
    found = [other.assign(scope=ELSEWHERE)]
    home = outcomes[outcomes["own"] | (outcomes["method"] == BASELINE)]
    if outcomes["own"].any():
        own = contrast_table(home, tested=lambda name: False, n_bootstrap=draws, seed=seed).assign(scope=OWN)
        found.append(own[own["method"] != BASELINE])
    changed = changed_answers(outcomes, config)
    methods = pooled_table(away, n_bootstrap=draws, seed=seed)
    return {
        "result": pd.concat(found, ignore_index=True).merge(
            changed.drop(columns="n"), on=["target", "method", "source"], how="left"
        ),
        "methods": methods,
        "changed": _pooled_changes(outcomes, config),
        "pareto": _pareto(away, home, config) if outcomes["own"].any() else pd.DataFrame(),
        "text": _text(text, config) if len(text) else pd.DataFrame(),
    }


def with_changes(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Steered rows with ``changed``: 1 where the answer, as it is judged, is not zero-shot's."""
    read = outcomes.assign(read=outcomes["answer"].map(normalise_answer))
    zero = read[read["method"] == BASELINE].set_index(["target", "sample"])["read"]
    steered = read[read["method"] != BASELINE]
    before = zero.loc[list(zip(steered["target"], steered["sample"], strict=True))].to_numpy()
    return steered.assign(changed=(steered["read"].to_numpy() != before).astype(float)).drop(columns="read")


def changed_answers(outcomes: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """Share of answers that change, a row a pair and method: Wilson, or BCa over several draws of a placebo."""
    import pandas as pd

    rows = []
    for key, part in with_changes(outcomes).groupby(["target", "method", "source"], sort=False):
        means = part.groupby("sample", sort=False)["changed"].mean()
        if part["sample"].duplicated().any():
            one = mean_interval(means, n_bootstrap=config.bootstrap, seed=config.seed)
        else:
            one = proportion_interval(int(means.sum()), len(means))
        rows.append((*key, len(means), one.value, one.low, one.high))
    columns = ["target", "method", "source", "n", "changed", "changed_low", "changed_high"]
    return pd.DataFrame(rows, columns=columns)


def _pooled_changes(outcomes: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    import pandas as pd

    rows = []
    steered = with_changes(outcomes)
    for method, part in steered[~steered["own"]].groupby("method", sort=False):
        units = part["target"] + "\n" + part["sample"]
        one = mean_interval(part["changed"], clusters=units, n_bootstrap=config.bootstrap, seed=config.seed)
        pairs = len(part[["target", "source"]].drop_duplicates())
        rows.append((method, pairs, one.n, one.value, one.low, one.high))
    columns = ["method", "pairs", "n", "changed", "changed_low", "changed_high"]
    return pd.DataFrame(rows, columns=columns)


def _pareto(away: pd.DataFrame, home: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """Each source's vector and placebo: what it gains on its own task, and what it loses on the others."""
    gain, loss = (
        pooled_table(rows, by=("method", "source"), n_bootstrap=config.bootstrap, seed=config.seed)
        for rows in (home, away)
    )
    gain = gain.assign(method=gain["method"].str.removesuffix(" (own vector)"))
    both = gain.merge(loss, on=["method", "source", "metric"], suffixes=("", "_away"))
    kept = ["method", "source", "metric", "n", "n_away", "pairs_away", "gain", "gain_low", "gain_high"]
    return both[kept].assign(
        side_effect=-both["gain_away"],
        side_effect_low=-both["gain_high_away"],
        side_effect_high=-both["gain_low_away"],
        label=both["source"] + ": " + both["method"],
    )


def _text(text: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    import pandas as pd

    frames = []
    for source, part in text.groupby("source", sort=False):
        found = effect_table(part.assign(name=part["method"]), n_bootstrap=config.bootstrap, seed=config.seed)
        seeds = part.groupby("variant")["seed"].first().astype(int)
        found = found.assign(source=source, draw=found["variant"].map(seeds)).rename(
            columns={"name": "method"}
        )
        frames.append(found[found["method"] != BASELINE])
    joined = pd.concat(frames, ignore_index=True).drop(columns=["variant", "operator", "position"])
    first = ["source", "method", "draw"]
    return joined[[*first, *joined.columns.drop(first)]].astype({"layer": int})


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    methods = frames["methods"]
    answer = [
        *(_elsewhere(methods, metric) for metric in ("choice_correct", "exact_match", "valid")),
        _placebos(methods),
        _changes(frames["changed"]),
        wording.significant(frames["result"].query("scope == @ELSEWHERE"), CAST, metric="choice_correct"),
        *_texts(frames["text"]),
    ]
    return Reading(
        tuple(part for part in answer if part),
        f"Each source's vector stood at the layer and strength that the source's own validation split chose, and was "
        f"tried on {config.test} test queries of every other task and on {min(config.texts, len(NEUTRAL_TEXTS))} plain "
        f"texts, against the unsteered model on the same; random directions of equal norm ({config.placebos} a source) "
        "stood at the same place.",
        "A cost in exact match can only show where zero-shot had right answers to lose; label-restricted accuracy has "
        "more room. Other tasks here are those of this suite, and plain text is a few short English sentences: no harm "
        "on them does not show that there is none elsewhere. " + wording.LIMITS,
    )


def _elsewhere(methods: pd.DataFrame, metric: str) -> str:
    found = wording.pooled(methods, CAST, metric=metric)
    return f"On tasks that the vector was not taken from, {found[0].lower()}{found[1:]}" if found else ""


def _placebos(methods: pd.DataFrame) -> str:
    row = wording.row_of(methods, RANDOM, "choice_correct")
    if row is None:
        return ""
    return (
        f"Random directions of equal norm change label-restricted accuracy there by {wording.points(row['gain'])} "
        f"points {wording.interval(row['gain_low'], row['gain_high'])}."
    )


def _changes(changed: pd.DataFrame) -> str:
    parts = [
        f"{100 * row.changed:.0f} % [{100 * row.changed_low:.0f}, {100 * row.changed_high:.0f}] under {row.method} "
        f"(n = {row.n})"
        for row in changed.itertuples()
    ]
    return (
        f"Answers on these tasks that, read as they are judged, are not zero-shot's any more: {'; '.join(parts)}."
        if parts
        else ""
    )


def _texts(text: pd.DataFrame) -> list[str]:
    sentences = []
    for source in dict.fromkeys(text.get("source", ())):
        part = text[text["source"] == source]
        own, noise = part[part["method"] == CAST].iloc[0], part[part["method"] == RANDOM]
        sentences.append(
            f"Plain text under {source} (layer {own['layer']}, strength {own['strength']:g}): perplexity × "
            f"{own['ratio']:.2f} [{own['ratio_low']:.2f}, {own['ratio_high']:.2f}], KL {own['kl']:.2f} nats, n = "
            f"{own['n']} texts; random directions × {noise['ratio'].mean():.2f}, KL {noise['kl'].mean():.2f} (mean of "
            f"{len(noise)})."
        )
    return sentences


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Gain against loss, and the matrix of what changes elsewhere."""
    from ... import plots

    pareto, result = frames["pareto"], frames["result"]
    found = []
    for metric, title in PARETO.items():
        rows = pareto[pareto["metric"] == metric] if len(pareto) else pareto
        if len(rows):
            found.append(
                Drawing(
                    f"pareto-{metric}",
                    f"{title}: gain on the own task against loss on the others",
                    "Each point is one source's vector, or its random direction, at the source's setting: up is gain "
                    "on its own test queries, right is loss on all other tasks. 95 % intervals over queries.",
                    f"Scatter of gain against loss elsewhere in {title.lower()}.",
                    plots.plot_pareto(rows),
                    rows,
                )
            )
    away = result[result["scope"] == ELSEWHERE]
    found.append(
        Drawing(
            "matrix",
            "What a vector does to tasks that it was not taken from",
            "Change against zero-shot in percentage points. Bold: the interval excludes zero.",
            "Heat maps of the change by target and source.",
            plots.plot_transfer_matrix(away, metrics=wording.metrics(away), method=CAST),
            away,
        )
    )
    return found


EXPERIMENT = Experiment(
    "side-effects",
    "What does a vector cost on other tasks and on plain text?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("methods", "changed", "text"),
)
