"""Every source × every target × every method: the paper's main table, with its placebos.

Vector methods each have layer and strength chosen on the source's own validation split; placebos stand at those of
``cast``. All conditions of a target answer the same test queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...extraction import token_length
from ...methods import PROMPT_METHODS, VECTOR_METHODS, AnyCondition, Condition, evaluate_conditions, few_shot
from .. import wording
from ..bench import Bench, fits, test_examples
from ..cells import Cell
from ..contrasts import contrast_table, draws_table, pooled_table, split_rows
from ..protocol import Drawing, Experiment, Frames, Reading, Tasks, settings_first
from ..settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

# Prompting methods that read the queries and nothing else.
NEVER_DRAWN = ("batched",)


def vector_methods(config: ExperimentConfig) -> list[str]:
    """The methods that are compared; the unselected mean is dropped where nothing is selected."""
    names = list(config.methods or VECTOR_METHODS)
    unknown = [name for name in names if name not in VECTOR_METHODS]
    if unknown:
        raise ValueError(f"methods={unknown} are unknown; choose from {', '.join(VECTOR_METHODS)}")
    same = config.select == "all" and not config.methods
    return [name for name in names if not (same and name == "cast: all samples")]


def prompt_methods(config: ExperimentConfig) -> list[str]:
    """The prompting methods beside in-task demonstrations."""
    names = list(
        config.prompting or (name for name in PROMPT_METHODS if name not in ("zero-shot", "few-shot"))
    )
    unknown = [name for name in names if name not in PROMPT_METHODS]
    if unknown:
        raise ValueError(f"prompting={unknown} are unknown; choose from {', '.join(PROMPT_METHODS)}")
    return names


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then a draw and target the steered block, few-shot prompts, and one cell a prompting method."""
    chosen = [name for name in vector_methods(config) if not VECTOR_METHODS[name].placebo]
    cells = settings_first(config, list(dict.fromkeys(("cast", *chosen))), draws=config.draws)
    for draw in range(config.draws):
        for target in config.targets:
            cells.append(Cell("steered", target, draw=draw))
            cells += [Cell("few-shot", target, number=k, draw=draw) for k in config.few_shots]
            for method in prompt_methods(config):
                if draw and method in NEVER_DRAWN:
                    continue
                sources = config.sources if PROMPT_METHODS[method].needs_source else ("",)
                cells += [
                    Cell("prompting", target, source, method, draw=draw)
                    for source in sources
                    if source != target
                ]
    return cells


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Outcomes of one cell, one row an example and condition."""
    import pandas as pd

    conditions: list[AnyCondition]
    if cell.kind == "steered":
        base, *steered = steered_conditions(bench, cell.target)
        # Zero-shot is the same in every draw.
        conditions = [*steered] if cell.draw else [base, *steered]
    elif cell.kind == "few-shot":
        conditions = [*few_shot_conditions(bench, cell.target, cell.number)]
    else:
        conditions = [prompting_condition(bench, cell)]
    if not conditions:
        return pd.DataFrame()
    found = evaluate_conditions(bench.model, conditions, chat=bench.config.chat, progress=bench.progress)
    return found.drop(columns=["text"]).assign(draw=cell.draw)


def steered_conditions(bench: Bench, target: str) -> list[Condition]:
    """Zero-shot, and every source's vectors and placebos on the same prompts."""
    config, base = bench.config, bench.base(target)
    assert isinstance(config, ExperimentConfig)
    conditions = [base]
    for source in config.sources:
        for name in vector_methods(config):
            method = VECTOR_METHODS[name]
            setting = bench.setting(source, "cast" if method.placebo else name)
            # Only the random direction has a distribution worth several draws.
            draws = config.placebos if name == "placebo: random direction" else 1
            for seed in range(config.seed, config.seed + draws):
                vector = method.fit(bench.source(source, seed=seed))
                conditions.append(method.condition(vector, base.prompts, setting, source=source, seed=seed))
    return conditions


def few_shot_conditions(bench: Bench, target: str, shots: int) -> list[Condition]:
    """In-task demonstrations, when there are so many and they fit the context; otherwise nothing."""
    config, task = bench.config, bench.tasks[target]
    if shots > len(task.train):
        return []
    made = few_shot(task, test_examples(config, task), shots=shots, seed=config.seed)
    named = Condition(f"few-shot, k={shots}", made.prompts, seed=made.seed)
    return [named] if fits(bench, named.prompts) else []


def prompting_condition(bench: Bench, cell: Cell) -> AnyCondition:
    """One prompting method with one source."""
    config, target = bench.config, bench.tasks[cell.target]
    assert isinstance(config, ExperimentConfig)
    shots = config.retrieved if cell.variant.startswith("retrieved") else config.shots
    return PROMPT_METHODS[cell.variant](
        bench.tasks.get(cell.source, target),
        target,
        test_examples(config, target),
        shots=shots,
        seed=config.seed,
        embed=bench.embed,
        length=token_length(bench.model),
    )


def is_finding(method: str) -> bool:
    """Methods whose gains a reader may take for findings: vectors that are no placebos."""
    return method.removesuffix(" (own vector)") in VECTOR_METHODS and not method.startswith("placebo")


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair, method and metric. ``methods``: over all pairs. ``split``: format and choice.

    ``draws``: over all pairs, with intervals over draws. With several draws the first two are of their average, the
    third is of the first.
    """
    families = {name: task.family for name, task in tasks.items()}
    result = contrast_table(rows, tested=is_finding, n_bootstrap=config.bootstrap, seed=config.seed)
    split = split_rows(
        rows[rows["draw"] == 0],
        wanted=lambda name: is_finding(name) or name.startswith("placebo"),
        n_bootstrap=config.bootstrap,
        seed=config.seed,
    )
    return {
        "result": result.assign(
            target_family=result["target"].map(families),
            source_family=[families.get(name, "") for name in result["source"]],
        ),
        "methods": pooled_table(rows, n_bootstrap=config.bootstrap, seed=config.seed),
        "split": split,
        **({"draws": draws_table(rows)} if config.draws > 1 else {}),
    }


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    methods, split = frames["methods"], frames["split"]
    answer = [
        wording.pooled(methods, "cast"),
        wording.pooled(methods, "cast", metric="choice_correct"),
        wording.split(split, "cast"),
        wording.against_placebos(methods, "cast"),
        wording.best_prompting(methods),
        wording.significant(frames["result"], "cast"),
    ]
    if "draws" in frames:
        placebos = [name for name in vector_methods(config) if VECTOR_METHODS[name].placebo]
        answer += [wording.over_draws(frames["draws"], name) for name in ("cast", *placebos)]
    answer.append(left_out(methods, config))
    return Reading(
        tuple(part for part in answer if part),
        f"Every condition answered the same {config.test} test queries of each target as zero-shot did. Layer and "
        "strength of every vector method were chosen on the source's own validation split; placebos stand at those of "
        "the contrastive mean, with its norm.",
        (wording.LIMITS if config.draws == 1 else wording.DRAWN_LIMITS)
        + " "
        + wording.detectable(methods, "cast"),
    )


def left_out(methods: pd.DataFrame, config: ExperimentConfig) -> str:
    """Numbers of demonstrations that did not fit, named."""
    seen = set(methods["method"])
    missing = [str(k) for k in config.few_shots if f"few-shot, k={k}" not in seen]
    if not missing:
        return ""
    return f"Not run: {', '.join(missing)} in-task demonstrations, more than the context or the train split holds."


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """The matrix, the forest of all conditions, the split."""
    from ... import plots

    result, split = frames["result"], frames["split"]
    found = [
        Drawing(
            "matrix",
            "What one task's vector does to another task",
            "Change against zero-shot in percentage points, for the contrastive mean. Bold: the interval excludes "
            "zero.",
            "Heat maps of gain by target and source for exact match, validity and label-restricted accuracy.",
            plots.plot_transfer_matrix(result, metrics=wording.metrics(result), method="cast"),
            result,
        ),
        Drawing(
            "methods",
            "All methods, over all pairs",
            "Mean gain over zero-shot over all pairs of different tasks, with 95 % intervals over examples. Grey: "
            "placebos.",
            "Forest plot of the mean gain of each method in exact match and label-restricted accuracy.",
            plots.plot_methods(frames["methods"]),
            frames["methods"],
        ),
    ]
    if "draws" in frames:
        found.append(
            Drawing(
                "draws",
                "All methods, over draws of samples and demonstrations",
                "Mean gain over zero-shot over all pairs, averaged over draws; 95 % intervals (Student's) over draws, "
                "each with samples, demonstrations, layer and strength of its own. Grey: placebos.",
                "Forest plot of the mean gain of each method, intervals over draws.",
                plots.plot_methods(frames["draws"]),
                frames["draws"],
            )
        )
    if len(split):
        found.append(
            Drawing(
                "split",
                "Format and choice",
                "Gain in exact match of the contrastive mean, made of format (more admissible answers) and choice.",
                "Stacked bars of the format and the choice part of each gain.",
                plots.plot_split(split, method="cast"),
                split,
            )
        )
    return found


EXPERIMENT = Experiment(
    "cross-domain",
    "Which method helps which target, from which source, and is it format or choice?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("methods", "draws"),
    heading="Cross-domain transfer",
)
