"""Frames for the figures that a default run does not make: small studies of one source's vector on one target.

Each takes seconds to a minute and shows what a figure looks like; the experiments answer the questions, at their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from cast_lens import (
    DifferenceVectors,
    Prompt,
    SteeringVector,
    Task,
    changed_answers,
    difference_vectors,
    evaluate,
    load_model,
    load_task,
    plots,
    random_direction,
    sample_examples,
    select,
    space_from_residuals,
    sweep,
    sweep_source,
    zero_shot_prompts,
)
from cast_lens.effects import effect_table, text_effects, token_effects
from cast_lens.experiments import RunConfig
from cast_lens.models.lens import HookedTransformer
from cast_lens.selection import selection_plane
from cast_lens.stats import (
    mean_interval,
    paired_difference,
    proportion_interval,
    steerability,
    steerability_summary,
)

Made = tuple[go.Figure, pd.DataFrame]
RANDOM = "placebo: random direction"
DRAWS = 3
"""Random subsets of each size in the scaling study."""
PLACEBOS = 99
"""Random directions beside one vector: p cannot fall below one in this many and one."""


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What the small studies share.

    Attributes:
        model: of the run.
        source: its vector is added.
        target: gets it.
        differences: of the source, as the run left them.
        layer, strength: as the run chose them on the source's validation split.
        n: prompts of each study.
    """

    model: HookedTransformer
    source: Task
    target: Task
    differences: DifferenceVectors
    layer: int
    strength: float
    n: int

    @property
    def vector(self) -> SteeringVector:
        """Mean over all samples of the source."""
        return self.differences.mean()

    @property
    def queries(self) -> list[Prompt]:
        """Zero-shot prompts of a seeded sample of the target's test split."""
        return zero_shot_prompts(self.target, sample_examples(self.target, self.n))

    @property
    def about(self) -> str:
        """Where the vector comes from and goes to, for titles."""
        return f"{self.source.name} on {self.target.name}, layer {self.layer}"


def studies(
    config: RunConfig, run_dir: Path, settings: dict[str, tuple[int, float]], *, n: int
) -> Iterator[tuple[str, Made]]:
    """Name, figure and frame of each study, one after the other."""
    source = config.sources[0]
    layer, strength = settings[source]
    study = Study(
        load_model(config.model, device=config.device, dtype=config.dtype), load_task(source),
        load_task(config.targets[0]), DifferenceVectors.load(run_dir / "vectors" / f"differences.{source}.safetensors"),
        layer, strength, n,
    )  # fmt: skip
    makers: dict[str, Callable[[Study], Made]] = {
        "front": front,
        "scaling": scaling,
        "selection": selection,
        "steerability": response,
        "pareto": pareto,
        "token_effects": tokens,
        "placebos": among_placebos,
        "sweep_answers": answers_by_cell,
    }
    for name, make in makers.items():
        figure, frame = make(study)
        yield name, (figure, frame)


def titled(figure: go.Figure, *more: str) -> go.Figure:
    """A figure with a second, smaller line below its title."""
    # Headings of panels stand between the second line and the axes.
    room = 100 if figure.layout.annotations else 80
    return figure.update_layout(
        title_subtitle={"text": "; ".join(more), "font": {"size": 13}}, margin={"t": room}
    )


def front(study: Study) -> Made:
    """The first figure of the README, from the lines of its example: one vector and one random direction."""
    vector = difference_vectors(study.model, study.source).mean()
    both = {"vector": vector, RANDOM: random_direction(vector)}
    frame = sweep_source(study.model, zero_shot_prompts(study.source, study.source.validation), both)
    return front_figure(frame, study.source.name)


def front_figure(cells: pd.DataFrame, source: str) -> Made:
    """The cells of ``sweep_source`` by share of right first tokens."""
    frame = cells.assign(source=source)
    return plots.plot_sweep(frame, source=source, metric="first_match"), frame


def scaling(study: Study) -> Made:
    """Exact match on the target by the number of source samples averaged, beside random directions as long."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size < len(study.differences)] + [
        len(study.differences)
    ]
    rng = np.random.default_rng(0)
    edits, what = [], []
    for size in sizes:
        for draw in range(DRAWS):
            chosen = rng.choice(len(study.differences), size, replace=False)
            vector = study.differences.mean(chosen.tolist())
            made = [("cast", vector), (RANDOM, random_direction(vector, seed=draw))]
            # There is one subset of all samples, but as many random directions as of any other.
            made = made[1:] if size == len(study.differences) and draw else made
            edits += [one.intervention(study.layer, strength=study.strength) for _, one in made]
            what += [(size, method) for method, _ in made]
    answers = evaluate(study.model, study.queries, edits)
    answers[["x", "method"]] = [(0, "zero-shot") if not v else what[v - 1] for v in answers["variant"]]
    rows: list[dict[str, Any]] = []
    for (size, method), cell in answers[answers["variant"] > 0].groupby(["x", "method"]):
        found = mean_interval(cell.groupby("sample")["exact_match"].mean())
        rows.append(
            {
                "x": size,
                "method": method,
                "y": found.value,
                "low": found.low,
                "high": found.high,
                "n": found.n,
            }
        )
    plain = answers.loc[answers["variant"] == 0, "exact_match"]
    base = proportion_interval(int(plain.sum()), len(plain))
    level = {"method": "zero-shot", "y": base.value, "low": base.low, "high": base.high, "n": base.n}
    frame = pd.DataFrame([*({"x": size, **level} for size in sizes), *rows])
    figure = plots.plot_scaling(frame, x_title="source samples averaged")
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[str(size) for size in sizes])
    note = f"{len(plain)} queries, up to {DRAWS} random subsets per size, 95 % intervals over queries"
    return titled(figure, study.about, note), frame


def selection(study: Study) -> Made:
    """The pool of the source, and which samples the graph method would average."""
    space = space_from_residuals(study.differences, study.layer)
    chosen = select(space, max(2, len(study.differences) // 5), method="cast", seed=0)
    texts = {example.id: f"{example.input} ({example.answer})" for example in study.source.train}
    frame = selection_plane(chosen, space, texts=[texts[name] for name in study.differences.sample_ids])
    note = f"{len(chosen)} of {len(frame)} samples of {study.source.name}, residuals of layer {study.layer}"
    return titled(plots.plot_selection(frame), note, "the larger, the more influential"), frame


def response(study: Study) -> Made:
    """How the margin of the gold answer follows the strength, query by query; a random direction for comparison."""
    strengths = [-1.5, -1.0, -0.5, 0.5, 1.0, 1.5]
    directions = {"cast": study.vector, RANDOM: random_direction(study.vector, seed=0)}
    found = sweep(
        study.model, study.queries, directions, layers=[study.layer], strengths=strengths
    ).examples()
    frames, notes = [], []
    for name in directions:
        rows = found[found["name"].isin([name, "unsteered"])]
        wide = rows.pivot(index="sample", columns="strength", values="gold_margin")
        slopes = steerability(wide.to_numpy(), wide.columns.to_numpy()).assign(sample=wide.index)
        share = steerability_summary(slopes).set_index("measure").loc["anti_steerable"]
        ends = f"[{100 * share['low']:.0f}, {100 * share['high']:.0f}]"
        notes.append(f"{name}: {100 * share['value']:.0f} % {ends} go against")
        long = wide.melt(ignore_index=False, var_name="strength", value_name="score").reset_index()
        frames.append(
            long.merge(slopes[["sample", "slope", "anti_steerable"]], on="sample").assign(method=name)
        )
    frame = pd.concat(frames, ignore_index=True)
    title = "log-probability of the gold answer,<br>minus that of the best other (nats)"
    figure = plots.plot_steerability(frame[frame["method"] == "cast"], y_title=title)
    return titled(figure, study.about, f"{len(study.queries)} queries", *notes), frame


def pareto(study: Study) -> Made:
    """Gain on the target against what the same edit costs on plain text, vector and random direction alike."""
    directions = {"cast": study.vector, RANDOM: random_direction(study.vector, seed=0)}
    cells = [
        (name, vector, strength)
        for name, vector in directions.items()
        for strength in (0.25, 0.5, 1.0, 1.5, 2.0)
    ]
    edits = [vector.intervention(study.layer, strength=strength) for _, vector, strength in cells]
    answers = evaluate(study.model, study.queries, edits)
    costs = effect_table(text_effects(study.model, edits)).set_index("variant")
    outcome = answers.pivot(index="sample", columns="variant", values="exact_match")
    rows = []
    for variant, (name, _, strength) in enumerate(cells, start=1):
        gain, cost = paired_difference(outcome[0], outcome[variant]), costs.loc[variant]
        rows.append(
            {
                "method": name, "label": f"{name}, strength {strength:g}", "strength": strength, "n": gain.n,
                "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "side_effect": cost["ratio"] - 1,
                "side_effect_low": cost["ratio_low"] - 1, "side_effect_high": cost["ratio_high"] - 1,
            }
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    figure = plots.plot_pareto(
        frame,
        x_title="rise of the perplexity of plain text, per cent",
        y_title="gain in exact match, percentage points",
    )
    return titled(figure, study.about, f"{len(outcome)} queries, one point per strength from 0.25 to 2"), frame


def tokens(study: Study) -> Made:
    """What the first token of the answer gains and loses, averaged over queries, beside random directions."""
    edit, *noise = (
        one.intervention(study.layer, strength=study.strength)
        for one in (study.vector, *(random_direction(study.vector, seed=seed) for seed in range(5)))
    )
    frame = token_effects(study.model, study.queries, edit, placebos=noise)
    moved = frame.filter(regex="delta|placebo").abs().sum().to_numpy() / 2
    note = f"strength {study.strength:g}, mean over {study.n} queries"
    told = f"in all {moved[0]:.0%} of the probability moves; random directions as long: {moved[1:].min():.0%} to "
    figure = titled(plots.plot_token_effects(frame), study.about, f"{note}<br>{told}{moved[1:].max():.0%}")
    return figure.update_layout(margin_t=100), frame.head(200)


def among_placebos(study: Study) -> Made:
    """The vector's score on the target's queries among those of random directions of its length."""
    noise = {f"random {seed}": random_direction(study.vector, seed=seed) for seed in range(PLACEBOS)}
    cells = sweep(
        study.model,
        study.queries,
        {"vector": study.vector, **noise},
        layers=[study.layer],
        strengths=[study.strength],
    ).to_frame()
    kinds = cells["kind"].where(~cells["kind"].str.startswith("random"), RANDOM)
    frame = cells.assign(method=kinds, value=cells["gold_logprob"])[["kind", "method", "value", "n"]]
    figure = plots.plot_placebos(frame, x_title="log-probability of the gold answer (nats)", share=False)
    told = figure.layout.title.subtitle.text
    note = f"{study.about}, strength {study.strength:g}, mean over {study.n} queries"
    return titled(figure, f"{note}<br>{told}").update_layout(margin_t=120), frame


def answers_by_cell(study: Study) -> Made:
    """Greedy answers in every cell of a coarse grid, with the ones that change."""
    layers, prompts = study.vector.layers[::3], study.queries[: study.n // 2]
    noise = random_direction(study.vector, seed=0)
    edits = [
        vector.intervention(layer, strength=strength)
        for vector in (study.vector, noise)
        for layer in layers
        for strength in (1.0, 2.0, 4.0)
    ]
    answers = evaluate(study.model, prompts, edits)
    half = len(edits) // 2
    answers["kind"] = [
        ("unsteered" if not v else "vector" if v <= half else RANDOM) for v in answers["variant"]
    ]
    keys = ["variant", "kind", "layer", "strength"]
    cells = answers.groupby(keys, sort=True)[["exact_match", "valid", "choice_correct"]].mean().reset_index()
    told = changed_answers(answers)[["variant", "n_changed", "n_mended", "n_broken", "changed"]]
    frame = cells.merge(told, on="variant", how="left").assign(source=study.about, n=len(prompts))
    ends = [proportion_interval(round(value * len(prompts)), len(prompts)) for value in frame["exact_match"]]
    frame["exact_match_low"], frame["exact_match_high"] = (
        [one.low for one in ends],
        [one.high for one in ends],
    )
    figure = plots.plot_sweep(frame, metric="exact_match").update_layout(
        title_text="Answers that steering changes"
    )
    figure.update_annotations(text="vector", selector=0).update_annotations(text=RANDOM, selector=1)
    return titled(
        figure, f"{study.source.name} on {study.target.name}", f"{len(prompts)} queries; point at a cell"
    ), frame
