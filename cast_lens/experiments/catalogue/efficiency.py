"""What a query costs under each method: tokens, operations, latency and memory, on the same queries.

Tokens and operations (``costs.forward_flops``) follow from prompts and answers and are exactly reproducible. Latency
and memory are measured: they depend on the machine and its load, have columns of their own, and are the only numbers of
an experiment that differ from run to run.

The engine answers every query both unsteered and steered, so the cost of ``cast, engine`` includes both. The hook route
(``steering.generate``) only computes the steered answer and is the plain way to use a steered model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ...engine import TokenPrompt, tokenise
from ...engine.decoding import decode
from ...engine.greedy import stop_rule
from ...engine.layout import common_prefix
from ...engine.tokens import longest_prompt
from ...evaluation import answer_limit
from ...extraction import draw_samples
from ...interventions import Steering
from ...methods import batched, cross_task_condition, few_shot_condition, retrieved_condition
from ...methods.prompting import CANDIDATES, residual_layer
from ...plots.comparisons import plot_costs
from ...steering import generate
from ...tasks import Example, Prompt, few_shot_prompts, zero_shot_prompts
from ...tasks.templates import body
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..costs import answer_flops, counted, counted_flops, forward_flops, measured, peak_megabytes, seconds, sweep_flops
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, at_least_one, settings_first
from ..workspace import Workspace, test_examples

# Tokens of a numbered line in addition to its answer, as in ``methods.batched``.
NUMBERING = 4
ZERO_ENGINE, ZERO_HOOKS = "zero-shot, engine", "zero-shot, hooks"
CAST_ENGINE, CAST_HOOKS = "cast, engine", "cast, hooks"
BATCHED, RETRIEVED = "batched", "retrieved few-shot"

# Tokens [variant][prompt], as ``decode`` gives them.
Written = list[list[tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Efficiency(Experiment):
    """What does a query cost under each method?

    Attributes:
        queries: how many test queries per target are timed.
        timed_targets: how many targets are timed, counted from the first.
        retrieved: how many demonstrations are retrieved per query; arXiv 2405.10548 uses one.
    """

    name = "efficiency"
    title = "Efficiency"
    compared = (
        "Every method answered the same test queries of each timed target greedily, with the same maximum length; "
        "demonstrations and vector come from one source. GFLOP are those of a query whose prompt runs from the "
        "start; `cached` reuses the keys and values of the beginning that all prompts of a method share."
    )
    limits = (
        "Operations are counted from the architecture and the prompts and are reproducible; they cover the matrix "
        "products, with a key-value cache. Latency was measured on one machine under its load at the time and will "
        "differ on the next run; memory may differ too, with the number of threads. The engine's steered answer "
        "comes with an unsteered one, and its cost includes both. Methods of equal cost do not answer equally well; "
        "cross-domain compares their answers. The cost of preparing a vector excludes the finalists' full answers "
        "and, for all methods, the choice of a prompt."
    )
    shown = ("result", "timings", "earned")

    queries: int = 16
    timed_targets: int = 2
    retrieved: int = 1

    def __post_init__(self) -> None:
        at_least_one(self, "queries", "timed_targets", "retrieved")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Two queries of one target."""
        return {"queries": 2, "timed_targets": 1}

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then one cell per target and method, all with the first source that is not the target."""
        cells = settings_first(config)
        for target in config.targets[: self.timed_targets]:
            source = next((name for name in config.sources if name != target), "")
            cells += [Cell("cost", target, source, method) for method in methods_of(config, source)]
        return cells

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """One row per prompt, and one for all prompts at once; no rows if the prompts do not fit the context."""
        model, config = workspace.model, workspace.config
        one = self.contender(workspace, cell)
        if longest_prompt(model, one.prompts, chat=config.chat) + one.room > int(model.cfg.n_ctx):
            return pd.DataFrame()
        return cost_rows(workspace, cell, one)

    def contender(self, workspace: Workspace, cell: Cell) -> Contender:
        """The method of a cell on some test queries of the target."""
        config, task = workspace.config, workspace.tasks[cell.target]
        # The first test examples, or further ones of the same sample.
        asked = replace(config, test=max(config.test, self.queries))
        queries = test_examples(asked, task)[: self.queries]
        room = answer_limit(tokenise(workspace.model, zero_shot_prompts(task, queries), chat=config.chat))
        if cell.variant == BATCHED:
            joint = batched(task, queries)
            size = joint.queries_per_prompt
            held = tuple(len(queries[start : start + size]) for start in range(0, len(queries), size))
            return on_engine(workspace, joint.prompts, held, size * (room + NUMBERING), newline=False)
        ones = (1,) * len(queries)
        if cell.variant == RETRIEVED:
            condition = retrieved_condition(
                workspace.tasks[cell.source], task, queries, shots=self.retrieved, embed=workspace.embed,
                candidates=CANDIDATES, seed=config.seed,
            )  # fmt: skip
            texts = tuple(body(task, example) for example in queries)
            return on_engine(workspace, condition.prompts, ones, room, embedded=texts)
        prompts = prompts_of(workspace, cell, queries)
        edit = intervention_of(workspace, cell.source) if cell.variant in (CAST_ENGINE, CAST_HOOKS) else None
        if cell.variant in (ZERO_HOOKS, CAST_HOOKS):
            return with_hooks(workspace, prompts, ones, room, edit)
        return on_engine(workspace, prompts, ones, room, edit=edit)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What queries cost.

        Returns:
            ``result``: tokens and operations per query, which are exactly reproducible; ``timings``: latency and
            memory; ``earned``: after how many queries a vector has cost less than demonstrations.
        """
        found = rows.get("cost", pd.DataFrame())
        if found.empty:
            return {name: pd.DataFrame(columns=["method"]) for name in ("result", "timings", "earned")}
        result = counted(found, baseline=ZERO_ENGINE)
        return {"result": result, "timings": measured(found), "earned": earned(result)}

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """Operations of a steered query and of demonstrations against zero-shot, and the one-time cost of a vector."""
        result = frames["result"].set_index("method")
        told = [
            f"a query under {name} takes {result.loc[name, 'flops_ratio']:.2f} times the operations of zero-shot"
            for name in (CAST_HOOKS, CAST_ENGINE, f"few-shot, k={config.shots}")
            if name in result.index
        ]
        for name in (CAST_HOOKS, CAST_ENGINE):
            if name in result.index:
                once = result.loc[name, "once_gflops"] / result.loc[name, "gflops"]
                told.append(f"making the vector and choosing its setting costs as much as {once:.0f} steered queries")
                break
        return Findings(sentences.headline(told))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Operations per query, by method."""
        result = frames["result"]
        if len(result):
            yield ReportFigure(
                "flops",
                "Operations per query",
                "Counted from the architecture for the same queries; the second bar of a method reuses the keys and "
                "values of the beginning that all its prompts share.",
                "Bars of the operations per query under each method.",
                plot_costs(result),
                result,
            )


EXPERIMENT = Efficiency


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One method on the queries of a target.

    Attributes:
        prompts: the prompts that the model reads.
        held: number of queries in each prompt.
        run: answers some of the prompts; the hook route returns no tokens.
        room: largest number of tokens of an answer.
        edit: intervention of a steered method.
        embedded: for the retrieving method, the text that is embedded for each query.
    """

    prompts: tuple[Prompt, ...]
    held: tuple[int, ...]
    run: Callable[[Sequence[int]], Written | None]
    room: int
    edit: Steering | None = None
    embedded: tuple[str, ...] = ()


def methods_of(config: RunConfig, source: str) -> list[str]:
    """The methods to compare; those with a source only if there is one, the hook route only without a chat template."""
    shots = dict.fromkeys((1, config.shots))
    names = [ZERO_ENGINE, *(f"few-shot, k={k}" for k in shots), BATCHED]
    if source:
        names += [f"cross-task few-shot, k={config.shots}", RETRIEVED, CAST_ENGINE]
    if not config.chat:
        names += [ZERO_HOOKS, *([CAST_HOOKS] if source else [])]
    return names


def cost_rows(workspace: Workspace, cell: Cell, one: Contender) -> pd.DataFrame:
    """One row per prompt, and one for all prompts at once."""
    model, config = workspace.model, workspace.config
    tokens = tokenise(model, one.prompts, chat=config.chat, room=one.room)
    lengths = [len(prompt.tokens) for prompt in tokens]
    shared = common_prefix([prompt.tokens[:-1] for prompt in tokens]) if len(tokens) > 1 else 0
    written, memory = memory_of(workspace, one, tokens)
    rows = []
    for index, length in enumerate(lengths):
        counts = [len(variant[index]) for variant in written]
        about = {"part": "query", "queries": one.held[index], "tokens": length, "written": counts[-1]}
        flops = prompt_flops(workspace, cell.variant, one, index, length, counts, 0)
        cached = prompt_flops(workspace, cell.variant, one, index, length, counts, shared)
        spent = seconds(lambda index=index: one.run([index]), model)  # type: ignore[misc]
        rows.append({**about, "flops": flops, "flops_cached": cached, "seconds": spent})
    together = seconds(lambda: one.run(range(len(lengths))), model)
    rows.append({"part": "batch", "queries": sum(one.held), "seconds": together, **memory})
    named = {"target": cell.target, "source": cell.source, "method": cell.variant}
    return pd.DataFrame(rows).assign(**named, once_flops=once_flops(workspace, cell))


def memory_of(workspace: Workspace, one: Contender, tokens: Sequence[TokenPrompt]) -> tuple[Written, dict[str, float]]:
    """The text written after each prompt, and the memory of all prompts at once; also a warm-up before timing."""
    # Memory that the first call in a process keeps for all later ones is not a cost of this method.
    one.run([0])
    found: list[Written | None] = []
    taken = peak_megabytes(lambda: found.append(one.run(range(len(tokens)))), workspace.model)
    memory = {"megabytes": taken}
    if found[0] is not None:
        return found[0], memory
    edits, stop = [] if one.edit is None else [one.edit], stop_rule(workspace.model, stop_at_newline=True)
    return decode(workspace.model, tokens, edits, max_new_tokens=one.room, stop=stop), memory


def prompts_of(workspace: Workspace, cell: Cell, queries: Sequence[Example]) -> tuple[Prompt, ...]:
    """The prompts of a method that reads one query per prompt."""
    config, task = workspace.config, workspace.tasks[cell.target]
    name = cell.variant
    if name.startswith("few-shot"):
        return few_shot_condition(task, queries, shots=int(name.rsplit("=", 1)[1]), seed=config.seed).prompts
    if name.startswith("cross-task"):
        source = workspace.tasks[cell.source]
        return cross_task_condition(source, task, queries, shots=config.shots, seed=config.seed).prompts
    return tuple(zero_shot_prompts(task, queries))


def intervention_of(workspace: Workspace, source: str) -> Steering:
    """The vector of a source at its own setting."""
    return workspace.setting(source).edit(workspace.vector(source))


def on_engine(
    workspace: Workspace,
    prompts: tuple[Prompt, ...],
    held: tuple[int, ...],
    room: int,
    *,
    edit: Steering | None = None,
    newline: bool = True,
    embedded: tuple[str, ...] = (),
) -> Contender:
    """A method that answers through the engine."""
    model, chat = workspace.model, workspace.config.chat
    stop = stop_rule(model, stop_at_newline=newline)
    edits = [] if edit is None else [edit]

    def run(chosen: Sequence[int]) -> Written:
        if embedded:
            workspace.embed.anew([embedded[index] for index in chosen])
        tokens = tokenise(model, [prompts[index] for index in chosen], chat=chat, room=room)
        return decode(model, tokens, edits, max_new_tokens=room, stop=stop)

    return Contender(prompts, held, run, room, edit, embedded)


def with_hooks(
    workspace: Workspace, prompts: tuple[Prompt, ...], held: tuple[int, ...], room: int, edit: Steering | None
) -> Contender:
    """A method that answers through hooks."""
    edits = [] if edit is None else [edit]

    def run(chosen: Sequence[int]) -> None:
        texts = [prompts[index].text for index in chosen]
        generate(workspace.model, texts, interventions=edits, max_new_tokens=room)

    return Contender(prompts, held, run, room, edit)


def prompt_flops(
    workspace: Workspace, method: str, one: Contender, index: int, length: int, counts: list[int], shared: int
) -> int:
    """Operations of one prompt and its answers."""
    cfg = workspace.model.cfg
    total = answer_flops(cfg, prompt=length, written=counts[-1], shared=shared)
    if method == CAST_ENGINE and one.edit is not None:
        # The unsteered answer also runs, from the edited layer on, and decodes separately.
        above = int(cfg.n_layers) - 1 - one.edit.layer
        total += forward_flops(cfg, new=1, past=length - 1, layers=above)
        total += sum(forward_flops(cfg, new=1, past=length + step) for step in range(counts[0] - 1))
    if one.embedded:
        total += embedding_flops(workspace, one.embedded[index])
    return total


def embedding_flops(workspace: Workspace, text: str) -> int:
    """Operations to embed a text: by formula for the model's own residual, counted by PyTorch for an encoder."""
    config, cfg = workspace.config, workspace.model.cfg
    if config.encoder:
        return counted_flops(lambda: workspace.embed.anew([text]))
    layer = residual_layer(workspace.model)
    return forward_flops(cfg, new=lengths_of(workspace, [text])[0], layers=layer + 1, read=0)


def once_flops(workspace: Workspace, cell: Cell) -> int:
    """Operations before the first query: the vector and its setting, or the embedded source examples."""
    if cell.variant in (CAST_ENGINE, CAST_HOOKS):
        return vector_flops(workspace, cell.source)
    if cell.variant != RETRIEVED:
        return 0
    source = workspace.tasks[cell.source]
    texts = [body(source, example) for example in source.train]
    typical = sorted(texts, key=len)[len(texts) // 2]
    return min(CANDIDATES, len(texts)) * embedding_flops(workspace, typical)


def vector_flops(workspace: Workspace, name: str) -> int:
    """Operations of extraction and sweep with every prompt run in full, without the finalists' full answers."""
    config, task, cfg = workspace.config, workspace.tasks[name], workspace.model.cfg
    samples = draw_samples(task, workspace.extraction())
    made = [*few_shot_prompts(task, samples, shots=config.shots, seed=config.seed), *zero_shot_prompts(task, samples)]
    extraction = sum(forward_flops(cfg, new=length, read=0) for length in lengths_of(workspace, made))
    tokens = tokenise(workspace.model, zero_shot_prompts(task, workspace.validation(name)), chat=config.chat)
    sizes = [(len(one.tokens), sum(len(answer) - 1 for answer in one.answers)) for one in tokens]
    layers = config.layers or tuple(range(int(cfg.n_layers)))
    return extraction + sweep_flops(cfg, prompts=sizes, layers=layers, strengths=len(config.strengths))


def lengths_of(workspace: Workspace, texts: Sequence[Any]) -> list[int]:
    """Number of tokens of each text."""
    return [len(one.tokens) for one in tokenise(workspace.model, texts, chat=workspace.config.chat)]


def earned(result: pd.DataFrame) -> pd.DataFrame:
    """The number of queries after which a vector has cost less than demonstrations of the target.

    Returns:
        ``method`` (few-shot), ``queries`` (every prompt run in full), ``queries_cached`` (common beginnings cached);
        NaN if a few-shot query does not cost more than a steered one.
    """
    known, rows = result.set_index("method"), []
    steered = [name for name in (CAST_HOOKS, CAST_ENGINE) if name in known.index][:1]
    for name in known.index if steered else ():
        if str(name).startswith("few-shot"):
            cast = known.loc[steered[0]]
            saved = [known.loc[name, column] - cast[column] for column in ("gflops", "cached_gflops")]
            rows.append((name, *(cast["once_gflops"] / one if one > 0 else np.nan for one in saved)))
    return pd.DataFrame(rows, columns=["method", "queries", "queries_cached"])
