"""What a query costs under each method: tokens, operations, latency and memory, on the same queries.

Tokens and operations (``costs.forward_flops``) follow from prompts and answers and repeat exactly. Latency and memory
are measured: they change with the machine and with what else runs on it, stand in columns of their own, and are the
only numbers of an experiment that differ when it is run again.

The engine's route answers every query unsteered beside the steered answer, so ``cast, engine`` pays for both; the hook
route (``steering.generate``) pays for one and is the plain way to steer a model in use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...engine import TokenPrompt, tokenise
from ...engine.decoding import decode
from ...engine.greedy import stop_rule
from ...engine.layout import common_prefix
from ...engine.tokens import longest_prompt
from ...evaluation import answer_limit
from ...extraction import draw_samples
from ...interventions import Intervention
from ...methods import batched, cross_task_few_shot, few_shot, retrieved_few_shot
from ...methods.prompting import CANDIDATES, residual_layer
from ...steering import generate
from ...tasks import Prompt, few_shot_prompts, zero_shot_prompts
from ...tasks.templates import body
from ..bench import Bench
from ..cells import Cell
from ..costs import (
    answer_flops,
    counted,
    counted_flops,
    forward_flops,
    measured,
    peak_megabytes,
    seconds,
    sweep_flops,
)
from ..legacy import Experiment, Tasks, settings_first
from ..settings import ExperimentConfig
from .efficiency_reading import (
    BATCHED,
    CAST_ENGINE,
    CAST_HOOKS,
    RETRIEVED,
    ZERO_ENGINE,
    ZERO_HOOKS,
    draw,
    read,
)

if TYPE_CHECKING:
    import pandas as pd

# Tokens of a numbered line beside its answer, as ``methods.batched`` allows.
NUMBERING = 4

# Tokens [variant][prompt], as ``decode`` gives them.
Written = list[list[tuple[int, ...]]]


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One method on the queries of a target.

    Attributes:
        prompts: that the model reads.
        held: queries of each prompt.
        run: answers some of the prompts; the hook route gives no tokens.
        room: tokens that an answer may take.
        edit: of the steered methods.
        embedded: text that is embedded for each query, of the retrieving method.
    """

    prompts: tuple[Prompt, ...]
    held: tuple[int, ...]
    run: Callable[[Sequence[int]], Written | None]
    room: int
    edit: Intervention | None = None
    embedded: tuple[str, ...] = ()


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then one cell a target and method, all with the first source that is not the target."""
    cells = settings_first(config)
    for target in config.targets[: config.timed_targets]:
        source = next((name for name in config.sources if name != target), "")
        cells += [Cell("cost", target, source, method) for method in methods_of(config, source)]
    return cells


def methods_of(config: ExperimentConfig, source: str) -> list[str]:
    """What is compared; without a source only what needs none, and the hook route only without chat template."""
    shots = dict.fromkeys((1, config.shots))
    names = [ZERO_ENGINE, *(f"few-shot, k={k}" for k in shots), BATCHED]
    if source:
        names += [f"cross-task few-shot, k={config.shots}", RETRIEVED, CAST_ENGINE]
    if not config.chat:
        names += [ZERO_HOOKS, *([CAST_HOOKS] if source else [])]
    return names


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """One row a prompt, and one for all prompts at once; nothing when the prompts do not fit the context."""
    import pandas as pd

    model, config = bench.model, bench.config
    one = contender(bench, cell)
    if longest_prompt(model, one.prompts, chat=config.chat) + one.room > int(model.cfg.n_ctx):
        return pd.DataFrame()
    tokens = tokenise(model, one.prompts, chat=config.chat, room=one.room)
    lengths = [len(prompt.tokens) for prompt in tokens]
    shared = common_prefix([prompt.tokens[:-1] for prompt in tokens]) if len(tokens) > 1 else 0
    written, memory = _memory(bench, one, tokens)
    rows = []
    for index, length in enumerate(lengths):
        counts = [len(variant[index]) for variant in written]
        about = {"part": "query", "queries": one.held[index], "tokens": length, "written": counts[-1]}
        flops = _flops(bench, cell.variant, one, index, length, counts, 0)
        cached = _flops(bench, cell.variant, one, index, length, counts, shared)
        spent = seconds(lambda index=index: one.run([index]), model)  # type: ignore[misc]
        rows.append({**about, "flops": flops, "flops_cached": cached, "seconds": spent})
    together = seconds(lambda: one.run(range(len(lengths))), model)
    rows.append({"part": "batch", "queries": sum(one.held), "seconds": together, **memory})
    named = {"target": cell.target, "source": cell.source, "method": cell.variant}
    return pd.DataFrame(rows).assign(**named, once_flops=once_flops(bench, cell))


def _memory(bench: Bench, one: Contender, tokens: Sequence[TokenPrompt]) -> tuple[Written, dict[str, float]]:
    """What is written after each prompt, and the memory of all prompts at once; this warms up what is timed next."""
    # What the first call in a process keeps for all later ones is no cost of this method.
    one.run([0])
    found: list[Written | None] = []
    taken = peak_megabytes(lambda: found.append(one.run(range(len(tokens)))), bench.model)
    memory = {"megabytes": taken}
    if found[0] is not None:
        return found[0], memory
    edits, stop = [] if one.edit is None else [one.edit], stop_rule(bench.model, stop_at_newline=True)
    return decode(bench.model, tokens, edits, max_new_tokens=one.room, stop=stop), memory


def contender(bench: Bench, cell: Cell) -> Contender:
    """The method of a cell on the target's first test queries."""
    config, task = bench.config, bench.tasks[cell.target]
    assert isinstance(config, ExperimentConfig)
    queries = task.test[: config.queries]
    room = answer_limit(tokenise(bench.model, zero_shot_prompts(task, queries), chat=config.chat))
    if cell.variant == BATCHED:
        joint = batched(task, queries)
        size = joint.queries_per_prompt
        held = tuple(len(queries[start : start + size]) for start in range(0, len(queries), size))
        return _engine(bench, joint.prompts, held, size * (room + NUMBERING), newline=False)
    ones = (1,) * len(queries)
    if cell.variant == RETRIEVED:
        condition = retrieved_few_shot(
            bench.tasks[cell.source], task, queries, shots=config.retrieved, embed=bench.embed,
            candidates=CANDIDATES, seed=config.seed,
        )  # fmt: skip
        texts = tuple(body(task, example) for example in queries)
        return _engine(bench, condition.prompts, ones, room, embedded=texts)
    prompts = _prompts(bench, cell)
    edit = _edit(bench, cell.source) if cell.variant in (CAST_ENGINE, CAST_HOOKS) else None
    if cell.variant in (ZERO_HOOKS, CAST_HOOKS):
        return _hooks(bench, prompts, ones, room, edit)
    return _engine(bench, prompts, ones, room, edit=edit)


def _prompts(bench: Bench, cell: Cell) -> tuple[Prompt, ...]:
    config, task = bench.config, bench.tasks[cell.target]
    assert isinstance(config, ExperimentConfig)
    queries, name = task.test[: config.queries], cell.variant
    if name.startswith("few-shot"):
        return few_shot(task, queries, shots=int(name.rsplit("=", 1)[1]), seed=config.seed).prompts
    if name.startswith("cross-task"):
        source = bench.tasks[cell.source]
        return cross_task_few_shot(source, task, queries, shots=config.shots, seed=config.seed).prompts
    return tuple(zero_shot_prompts(task, queries))


def _edit(bench: Bench, source: str) -> Intervention:
    at = bench.setting(source)
    return bench.vector(source).intervention(
        at.layer, strength=at.strength, operator=at.operator, position=at.position
    )


def _engine(
    bench: Bench,
    prompts: tuple[Prompt, ...],
    held: tuple[int, ...],
    room: int,
    *,
    edit: Intervention | None = None,
    newline: bool = True,
    embedded: tuple[str, ...] = (),
) -> Contender:
    model, chat = bench.model, bench.config.chat
    stop = stop_rule(model, stop_at_newline=newline)
    edits = [] if edit is None else [edit]

    def run(chosen: Sequence[int]) -> Written:
        if embedded:
            bench.embed.anew([embedded[index] for index in chosen])
        tokens = tokenise(model, [prompts[index] for index in chosen], chat=chat, room=room)
        return decode(model, tokens, edits, max_new_tokens=room, stop=stop)

    return Contender(prompts, held, run, room, edit, embedded)


def _hooks(
    bench: Bench, prompts: tuple[Prompt, ...], held: tuple[int, ...], room: int, edit: Intervention | None
) -> Contender:
    edits = [] if edit is None else [edit]

    def run(chosen: Sequence[int]) -> None:
        texts = [prompts[index].text for index in chosen]
        generate(bench.model, texts, interventions=edits, max_new_tokens=room)

    return Contender(prompts, held, run, room, edit)


def _flops(
    bench: Bench, method: str, one: Contender, index: int, length: int, counts: list[int], shared: int
) -> int:
    """Operations of one prompt and its answers."""
    cfg = bench.model.cfg
    total = answer_flops(cfg, prompt=length, written=counts[-1], shared=shared)
    if method == CAST_ENGINE and one.edit is not None:
        # The unsteered answer runs beside it, from the edited layer on, and decodes on its own.
        above = int(cfg.n_layers) - 1 - one.edit.layer
        total += forward_flops(cfg, new=1, past=length - 1, layers=above)
        total += sum(forward_flops(cfg, new=1, past=length + step) for step in range(counts[0] - 1))
    if one.embedded:
        total += embedding_flops(bench, one.embedded[index])
    return total


def embedding_flops(bench: Bench, text: str) -> int:
    """Operations that embed a text: by formula for the model's own residual, as PyTorch counts them for an encoder."""
    config, cfg = bench.config, bench.model.cfg
    assert isinstance(config, ExperimentConfig)
    if config.encoder:
        return counted_flops(lambda: bench.embed.anew([text]))
    layer = residual_layer(bench.model)
    return forward_flops(cfg, new=_lengths(bench, [text])[0], layers=layer + 1, read=0)


def once_flops(bench: Bench, cell: Cell) -> int:
    """Operations before the first query: the vector and its setting, or the embedded source examples."""
    if cell.variant in (CAST_ENGINE, CAST_HOOKS):
        return _vector_flops(bench, cell.source)
    if cell.variant != RETRIEVED:
        return 0
    source = bench.tasks[cell.source]
    texts = [body(source, example) for example in source.train]
    typical = sorted(texts, key=len)[len(texts) // 2]
    return min(CANDIDATES, len(texts)) * embedding_flops(bench, typical)


def _vector_flops(bench: Bench, name: str) -> int:
    """Extraction and sweep, every prompt run in full; the finalists' whole answers are left out."""
    config, task, cfg = bench.config, bench.tasks[name], bench.model.cfg
    samples = draw_samples(task, bench.extraction())
    made = [
        *few_shot_prompts(task, samples, shots=config.shots, seed=config.seed),
        *zero_shot_prompts(task, samples),
    ]
    extraction = sum(forward_flops(cfg, new=length, read=0) for length in _lengths(bench, made))
    tokens = tokenise(
        bench.model, zero_shot_prompts(task, task.validation[: config.validation]), chat=config.chat
    )
    sizes = [(len(one.tokens), sum(len(answer) - 1 for answer in one.answers)) for one in tokens]
    layers = config.layers or tuple(range(int(cfg.n_layers)))
    return extraction + sweep_flops(cfg, prompts=sizes, layers=layers, strengths=len(config.strengths))


def _lengths(bench: Bench, texts: Sequence[Any]) -> list[int]:
    return [len(one.tokens) for one in tokenise(bench.model, texts, chat=bench.config.chat)]


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: tokens and operations a query, which repeat exactly. ``timings``: what was measured."""
    return {"result": counted(rows, baseline=ZERO_ENGINE), "timings": measured(rows)}


EXPERIMENT = Experiment(
    "efficiency",
    "What does a query cost under each method?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("result", "timings"),
)
