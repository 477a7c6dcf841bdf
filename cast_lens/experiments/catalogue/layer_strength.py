"""The whole layer × strength grid of every source on every target, and what strength costs on plain text.

A grid cell is judged by the first greedy token and by the label-restricted choice, which one pass gives for all cells;
whole answers are not written. The best cell of a target is chosen with the target's labels and is called ``oracle``
wherever it appears. Beside it stand the cell that the source's own validation split chose, and the gain that is left
when the best cell is chosen on one half of the examples and measured on the other.

Costs on plain text are taken at a part of the layers (``TEXT_LAYERS`` evenly spaced ones and the chosen one), and at
strengths beyond the swept ones (``BEYOND`` times the largest), where vectors break the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...effects import NEUTRAL_TEXTS, effect_table, text_effects
from ...engine import sweep
from ...stats import adjust_p_values, mean_interval
from ..bench import Bench
from ..cells import Cell
from ..grids import CHOSEN, HALVES, ORACLE, changes, optimum, packed, unpacked
from ..legacy import Experiment, Tasks, settings_first
from ..settings import ExperimentConfig
from ..transfer_matrix import RANDOM
from .layer_strength_reading import AIMS, KINDS, METRICS, VECTOR, draw, read

if TYPE_CHECKING:
    import pandas as pd

    from ...vectors import SteeringVector

TEXT_LAYERS = 8
BEYOND = (2.0, 4.0)


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then one grid a target, and the texts of each source."""
    grids = [Cell("grid", target) for target in config.targets]
    return [*settings_first(config), *grids, *(Cell("text", source=source) for source in config.sources)]


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Rows of a target's grids, or of a source's texts."""
    return text_rows(bench, cell.source) if cell.kind == "text" else grid_rows(bench, cell.target)


def both(bench: Bench, source: str) -> dict[str, SteeringVector]:
    """The vector of a source and its placebo."""
    return {VECTOR: bench.vector(source), RANDOM: bench.random_direction(source)}


def grid_rows(bench: Bench, target: str) -> pd.DataFrame:
    """One row a grid cell; outcomes of its examples as digits, in the examples' order."""
    import pandas as pd

    config = bench.config
    named = [(source, kind, v) for source in config.sources for kind, v in both(bench, source).items()]
    found = sweep(
        bench.model,
        bench.base(target).prompts,
        {str(index): vector for index, (_, _, vector) in enumerate(named)},
        layers=config.layers or None,
        strengths=config.strengths,
        operator=config.operator,
        position=config.position,
        chat=config.chat,
        progress=bench.progress,
    ).examples()
    settings = {source: bench.setting(source) for source in config.sources}
    rows = []
    for (name, layer, strength), part in found.groupby(["name", "layer", "strength"], sort=False):
        source, kind = named[int(name)][:2] if layer >= 0 else ("", "unsteered")
        setting = settings.get(source)
        row = {"part": "grid", "target": target, "source": source, "kind": kind, "layer": layer}
        row |= {"strength": strength, "n": len(part)}
        row |= {metric: packed(part[metric]) for metric in METRICS}
        row |= {name: part[name].astype(float).mean() for name in ("gold_logprob", "gold_margin")}
        row["chosen"] = bool(setting and (setting.layer, setting.strength) == (layer, strength))
        rows.append(row)
    return pd.DataFrame(rows)


def text_rows(bench: Bench, source: str) -> pd.DataFrame:
    """One row a text and cell; see ``effects.text_effects``."""
    config, setting = bench.config, bench.setting(source)
    assert isinstance(config, ExperimentConfig)
    made = both(bench, source)
    layers = text_layers(config.layers or made[VECTOR].layers, setting.layer)
    strengths = (*config.strengths, *(factor * max(config.strengths) for factor in BEYOND))
    cells = [(kind, layer, float(s)) for kind in KINDS for layer in layers for s in dict.fromkeys(strengths)]
    edits = [
        made[kind].intervention(layer, strength=s, operator=config.operator, position=config.position)
        for kind, layer, s in cells
    ]
    found = text_effects(bench.model, edits, NEUTRAL_TEXTS[: config.texts])
    kinds = ["unsteered", *(kind for kind, *_ in cells)]
    return found.drop(columns=["text", "name"]).assign(
        part="text",
        source=source,
        text=found["text"].map({text: index for index, text in enumerate(NEUTRAL_TEXTS)}),
        kind=[kinds[variant] for variant in found["variant"]],
        chosen=(found["layer"] == setting.layer) & (found["strength"] == setting.strength),
    )


def text_layers(layers: tuple[int, ...], chosen: int) -> list[int]:
    """A few evenly spaced layers, first and last among them, and the chosen one."""
    places = np.linspace(0, len(layers) - 1, min(TEXT_LAYERS, len(layers))).round().astype(int)
    return sorted({chosen, *(int(layers[place]) for place in places)})


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a grid cell. ``pairs``: its optimum. ``pooled``: over pairs. ``collapse``: plain text."""
    import pandas as pd

    grid, text = rows[rows["part"] == "grid"], rows[rows["part"] == "text"]
    pairs, examples = _pairs(grid, config) if len(grid) else (pd.DataFrame(), pd.DataFrame())
    return {
        "result": _cells(grid) if len(grid) else pd.DataFrame(),
        "pairs": pairs,
        "pooled": _pooled(examples, config) if len(examples) else pd.DataFrame(),
        "collapse": _collapse(text, config) if len(text) else pd.DataFrame(),
    }


def _cells(grid: pd.DataFrame) -> pd.DataFrame:
    """Means with Wilson intervals, and what changed against the unsteered model on the same examples."""
    import pandas as pd

    columns = ["target", "source", "kind", "layer", "strength", "n", "chosen", "gold_logprob", "gold_margin"]
    frames = []
    for _, part in grid.groupby("target", sort=False):
        frame = part[columns].reset_index(drop=True)
        frame["n"], frame["layer"] = frame["n"].astype(int), frame["layer"].astype(int)
        for metric in METRICS:
            if not (part[metric] == "").any():
                base = part.loc[part["kind"] == "unsteered", metric]
                frame = frame.assign(**changes(metric, unpacked(part[metric]), unpacked(base)[0]))
        frames.append(frame)
    joined = pd.concat(frames, ignore_index=True)
    best = [_is_oracle(part) for _, part in joined.groupby(["target", "source", "kind"], sort=False)]
    return joined.assign(oracle=pd.concat(best), chosen=joined["chosen"].astype(bool))


def _is_oracle(part: pd.DataFrame) -> pd.Series:
    """Marks the cell with the most right first tokens; the unsteered row is none."""
    import pandas as pd

    ranked = part.sort_values(["first_match", "gold_logprob"], ascending=False, kind="stable")
    return pd.Series((part.index == ranked.index[0]) & (part["kind"] != "unsteered"), index=part.index)


def _pairs(grid: pd.DataFrame, config: ExperimentConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a pair, kind and metric, and the gains of its examples."""
    import pandas as pd

    rows, examples = [], []
    for target, whole in grid.groupby("target", sort=False):
        zero = whole[whole["kind"] == "unsteered"]
        for (source, kind), cells in whole[whole["layer"] >= 0].groupby(["source", "kind"], sort=False):
            for metric in AIMS:
                if (cells[metric] == "").any():
                    continue
                base = unpacked(zero[metric])[0].astype(float)
                gains = unpacked(cells[metric]).astype(float) - base
                key = {"target": target, "source": source, "kind": kind, "metric": metric}
                row, kept = optimum(cells, gains, seed=config.seed)
                rows.append({**key, "own": source == target, "unsteered": base.mean(), **row})
                examples.append(pd.DataFrame(kept).assign(**key, own=source == target))
    frame = pd.DataFrame(rows)
    wanted = frame["p_value"].where((frame["kind"] == VECTOR) & ~frame["own"])
    adjusted = adjust_p_values(frame.assign(p=wanted), column="p")
    frame = frame.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"])
    return frame, pd.concat(examples, ignore_index=True)


def _pooled(examples: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """Mean gains over the pairs of different tasks; examples are redrawn with everything done to them."""
    import pandas as pd

    rows = []
    for (kind, metric), part in examples[~examples["own"]].groupby(["kind", "metric"], sort=False):
        units = part["target"] + "\n" + part["example"].astype(str)
        pairs = len(part[["target", "source"]].drop_duplicates())
        for at in (CHOSEN, ORACLE, HALVES):
            one = mean_interval(part[at], clusters=units, n_bootstrap=config.bootstrap, seed=config.seed)
            # The oracle's examples chose its cells: an interval over them would be too good.
            low, high = (np.nan, np.nan) if at == ORACLE else (one.low, one.high)
            row = {"kind": kind, "metric": metric, "at": at, "pairs": pairs, "n": len(part)}
            rows.append({**row, "gain": one.value, "gain_low": low, "gain_high": high})
    return pd.DataFrame(rows)


def _collapse(text: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """Perplexity over the unsteered one's, and KL, of each source's vector and placebo at each cell."""
    import pandas as pd

    frames = []
    for source, part in text.groupby("source", sort=False):
        found = effect_table(part.assign(name=part["kind"]), n_bootstrap=config.bootstrap, seed=config.seed)
        marks = part.groupby("variant")["chosen"].first().astype(bool)
        found = found.rename(columns={"name": "kind"}).drop(columns=["operator", "position"])
        found = found.assign(chosen=found["variant"].map(marks), source=source).drop(columns="variant")
        frames.append(found[found["kind"] != "unsteered"])
    joined = pd.concat(frames, ignore_index=True)
    return joined[["source", *joined.columns.drop("source")]].astype({"layer": int})


EXPERIMENT = Experiment(
    "layer-strength",
    "Where and how strongly does a vector work, and where does it break the model?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("pooled", "pairs"),
    heading="Layer and strength",
)
