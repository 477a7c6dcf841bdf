"""A training step of an adaptive task vector against a forward-backward of the large model on the same tokens.

Both see the same prompts with their answers. The forward-backward is Hugging Face's model with frozen parameters, where
gradients flow back to the embeddings only (less than training it takes), and once with gradients of all parameters.
A step is everything that training does: vectors, loss, gradients, Adam. ``last`` has the prompts' keys and values at
hand, as training has from the first epoch on; what making them costs stands in a row of its own.

With ``--steps N`` a run of ``train`` with its defaults on every English task that ships is measured instead, in a
fresh process that ends after N steps: highest resident memory of all of it. Reading all prompts once, which is most of
a short run, is where keys and values pile up, so a few steps suffice.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import begin, parser, peak_memory, show
from transformers import AutoModelForCausalLM

from cast_lens.engine import Prefixes, frozen, quiet
from cast_lens.interventions import Position
from cast_lens.methods.atv import Design, Step, Training, TrainingItem, build_generator, gather, train
from cast_lens.methods.atv.training import TrainingJob
from cast_lens.models import load_model
from cast_lens.models.embedded import cache_folder
from cast_lens.tasks import list_tasks, load_task

TASKS = ("review-sentiment", "headline-topic", "science", "present-past")


def cpu_seconds(jobs: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, float]:
    """Median processor seconds of each job, in turns: a busy machine stretches them far less than the clock's."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.process_time()
            job()
            taken[name].append(time.process_time() - started)
    return {name: sorted(times)[len(times) // 2] for name, times in taken.items()}


def forward_backward(hf: Any, items: list[TrainingItem], *, parameters: bool) -> None:
    """Cross-entropy of the answers through Hugging Face's model."""
    rows = [item.prompt.tokens + item.prompt.answers[0] for item in items]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    labels = torch.full_like(ids, -100)
    for index, item in enumerate(items):
        start = len(item.prompt.tokens)
        labels[index, start : len(rows[index])] = torch.tensor(item.prompt.answers[0])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    hf.requires_grad_(parameters)
    embedded = hf.get_input_embeddings()(ids).detach().requires_grad_()
    logits = hf(inputs_embeds=embedded, attention_mask=mask, use_cache=False).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100).backward()
    hf.zero_grad(set_to_none=True)


class Enough(Exception):
    """Raised to end a training run that was only begun to be measured."""


def measured_training(steps: int) -> dict[str, Any]:
    """A default training run in this process, ended after some steps: memory and processor seconds."""

    def watch(step: Step) -> None:
        if step.number >= steps:
            raise Enough

    model = load_model()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tasks = [load_task(info.name) for info in list_tasks() if info.language == "en"]
    started = time.process_time()
    with suppress(Enough):
        train(model, tasks, watch=watch)
    return {
        "tasks": len(tasks),
        "steps": steps,
        "CPU s": time.process_time() - started,
        "GB, model loaded": before / 2**20,
        "GB, peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def in_fresh_process(steps: int, threads: int) -> dict[str, Any]:
    """``measured_training`` where nothing else has run."""
    command = [sys.executable, __file__, "--steps", str(steps), "--threads", str(threads), "--here"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=0, help="measure the memory of a training run instead")
    options.add_argument("--here", action="store_true", help="in this process, as one JSON object")
    given = options.parse_args()
    begin(given)
    if given.steps and given.here:
        print(json.dumps(measured_training(given.steps)))
    elif given.steps:
        show([in_fresh_process(given.steps, given.threads)], as_json=given.json, title="A default training run")
    else:
        steps_against_passes(given)


def steps_against_passes(given: argparse.Namespace) -> None:
    """Cost of a step in each form, beside a forward-backward."""
    model = load_model()
    hf = AutoModelForCausalLM.from_pretrained(cache_folder() / "smollm2-135m-instruct", dtype=torch.float32).eval()
    training = Training(examples=given.batch, validation=1, templates=("own",), batch=given.batch)
    material = gather(model, [load_task(name) for name in TASKS], training)
    batch = list(range(0, len(material.train), len(TASKS)))[: given.batch]
    items = [material.train[index] for index in batch]
    jobs: dict[str, Callable[[], Any]] = {
        "forward-backward, frozen": partial(forward_backward, hf, items, parameters=False),
        "forward-backward, all parameters": partial(forward_backward, hf, items, parameters=True),
    }
    ways: list[tuple[Position, bool]] = [("last", False), ("all", False), ("all", True)]
    for position, recompute in ways:
        design = Design(generator="residual", position=position)
        own = Training(batch=given.batch, recompute=recompute)
        job = TrainingJob.of(model, material, design, own, build_generator(design, model), tuple(range(30)), quiet)
        name = f"step, {position}" + (", recompute" if recompute else "")
        jobs[name] = partial(job._step, job.start(), batch, None)
    prompts = [item.prompt for item in items]
    jobs["keys and values, once"] = partial(Prefixes.of, model, prompts, memory_mb=1e4)
    with frozen(model):
        taken = cpu_seconds(jobs, rounds=given.rounds)
        rows = []
        for name, run in jobs.items():
            with peak_memory() as peak:
                run()
            ratio = taken[name] / taken["forward-backward, frozen"]
            rows.append({"route": name, "CPU s": taken[name], "times forward-backward": ratio, "MB": round(peak.above)})
    tokens = sum(len(item.prompt.tokens) + len(item.prompt.answers[0]) for item in items)
    show(rows, as_json=given.json, title=f"A step on {len(items)} prompts, {tokens} tokens")


if __name__ == "__main__":
    main()
