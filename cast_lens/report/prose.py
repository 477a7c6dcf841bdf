"""The fixed parts of the page: question, method in five sentences, limits, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .record import OWN, STEERED, RunRecord

QUESTION = (
    "A language model answers better after a few worked examples. The examples move its internal state: the "
    "difference between the states with and without them is a vector. Do the vectors of different tasks point the "
    "same way? And when the vector of one task, the source, is added to the model while it answers another task, the "
    "target, without any examples: does it answer better, and if so, does it choose better answers, or does it only "
    "learn what an answer looks like?"
)

TOUCHED = {
    "last": "at the last token of the prompt and at each token that the model then writes",
    "prompt_last": "at the last token of the prompt",
    "all": "at every token",
}
EDITS = {
    "add": "adds strength × vector to the residual stream",
    "norm_preserving_add": "adds strength × vector to the residual stream and restores its length",
    "ablate": "removes the vector's direction from the residual stream",
    "replace": "puts strength × vector in place of the residual stream",
}


def method_sentences(record: RunRecord) -> list[str]:
    """How the run works, in five sentences."""
    c: Mapping[str, Any] = {"operator": "add", "position": "last", **record.config}
    edit, touched = EDITS.get(c["operator"], c["operator"]), TOUCHED.get(c["position"], c["position"])
    return [
        f"The model reads each sample's query twice, alone (zero-shot) and after {c.get('shots', 'a few')} worked "
        "examples (few-shot); the residual stream at the last token, few-shot minus zero-shot, is the sample's "
        "difference vector, one at each layer.",
        f"The mean over {c.get('samples', 'the')} samples of a source task is that task's steering vector.",
        f"Steering {edit} after one layer, {touched}, while the model answers a target's query zero-shot; nothing is "
        "trained.",
        f"Layer and strength are chosen for each source on {c.get('validation', 'some')} examples of its own "
        "validation split: no label of a target is used to choose anything.",
        "All conditions answer the same test queries greedily and are compared with zero-shot query by query, and "
        "beside each vector stand placebos at the same layer, strength and length: random directions, and a vector "
        "from demonstrations whose answers were shuffled.",
    ]


def limits(record: RunRecord) -> list[str]:
    """What cannot be concluded from this run, with its sizes."""
    found = [_model_limit(record)]
    transfer = record.frames.get("transfer")
    if transfer is not None:
        n = sorted({int(value) for value in transfer["n"]})
        size = str(n[0]) if len(n) == 1 else f"{n[0]} to {n[-1]}"
        found.append(
            f"Each target has {size} test queries. With so few, an interval that covers zero does not show that there "
            "is no effect. Intervals (95 %) say how far another draw of queries could move a number; they do not "
            "cover another draw of samples, demonstrations or placebos: one seed was run."
        )
        steered = transfer[transfer["method"].isin([STEERED, OWN])]
        tests = int(transfer["n_tests"].max()) if "n_tests" in transfer else len(steered)
        found.append(
            f"{tests} steered cells were tested at once. Arrows in the table are corrected for that; intervals are "
            "not, and about one in twenty would exclude zero by chance alone."
        )
    return [
        *found,
        "Answers are decoded greedily, with one prompt template a task; sampling or another wording may behave "
        "differently.",
        "A high cosine between two tasks' vectors does not mean that one helps the other, and a gain does not show "
        "that knowledge was transferred: look at format and choice, and at what the placebos do.",
    ]


def _model_limit(record: RunRecord) -> str:
    name, size = record.config.get("model", "the model"), record.model.get("parameters")
    scale = f" ({size / 1e6:,.0f} million parameters)" if size else ""
    return f"One model was run, {name}{scale}. Nothing here says how a larger or another model behaves."


def provenance(record: RunRecord) -> list[tuple[str, str]]:
    """Where the numbers come from: name and value, in reading order."""
    model, config = record.model, record.config
    rows = [
        ("Model", str(config.get("model", ""))),
        ("Architecture", str(model.get("architecture", ""))),
        ("Weights fingerprint", str(model.get("fingerprint", ""))),
        ("Parameters", f"{model['parameters']:,}" if "parameters" in model else ""),
        ("Layers, width", f"{model.get('n_layers', '')}, {model.get('d_model', '')}".strip(", ")),
        (
            "Number format, device",
            f"{config.get('dtype', '')}, {model.get('device', config.get('device', ''))}".strip(", "),
        ),
        ("Seed", str(config.get("seed", ""))),
        ("Duration", _duration(record.seconds) if record.is_run else ""),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        (
            "Command",
            f"cast-lens {'run' if record.is_run else 'experiment NAME'} --config run.toml --out DIRECTORY",
        ),
    ]
    return [(name, value) for name, value in rows if value]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not finished"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def as_toml(config: Mapping[str, Any]) -> str:
    """The configuration as the TOML file that repeats the run. JSON's strings, numbers and lists are TOML's
    too.
    """
    return "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in config.items())
