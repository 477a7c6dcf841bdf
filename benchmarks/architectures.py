"""Every causal architecture of transformers as a tiny random model: which route it takes, and that it equals hooks.

    python -m benchmarks.architectures [NAME ...]

Without names all of them run (about a quarter of an hour of processor time), and ``docs/architectures.md`` is written.
What was found is kept in ``runs/architectures.jsonl``, so that a run that was stopped goes on; remove the file to begin
anew. Exit status 1 when a route differs from hooks.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

from cast_lens.engine import unsupported
from cast_lens.models.decoder import HookedDecoder, check_causal
from tests.architectures import NAMES, small_model
from tests.engine.routes import compared

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "architectures.md"
KEPT = ROOT / "runs" / "architectures.jsonl"
# Largest difference over largest number: ten times what the worst of them shows.
LIMIT = 1e-4
HEAD = """# Architectures

This page lists which route each causal language model of transformers {version} takes. The table is made by
`python -m benchmarks.architectures`: for each architecture a tiny random model is built from a small config, and the
engine's scores (unsteered and steered at the last, the last prompt and all tokens), residuals and generated tokens are
compared with hooks on a padded batch. *Difference* is the largest difference relative to the largest number compared.

- **fast**: one pass over rows. A probe decides this from what the modules do with a few tokens, never from their names.
- **plain**: hooks, prompt by prompt, for the reason given. Equally exact, but slower.
- **refused**: there is no residual stream to steer, or the model is not a decoder.

{counts}

| `model_type` | class | route | difference | reason |
|---|---|---|---|---|
"""
TAIL = """

No tiny model could be built for these, because their configs fix large sizes or constrain how sizes combine:
{missing}. When such a model is loaded, it is probed like any other.

The tiny Llama 4 has rotary positions in every layer. The released ones also have layers without, which count their
rows for a temperature: those models take the plain route.
"""
UNSEEN = """
The run that made this table was stopped before it had looked at {names}.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What an architecture turned out to be; no ``route`` where no tiny model could be built."""

    name: str
    kind: str = ""
    route: str = ""
    difference: float = float("nan")
    reason: str = ""

    def row(self) -> str:
        """A row of the table."""
        shown = "" if self.route == "refused" else f"{self.difference:.0e}"
        return f"| `{self.name}` | {self.kind} | {self.route} | {shown} | {self.reason} |"


def look(name: str) -> Found:
    """Build one, find its route, compare it with hooks."""
    try:
        hf_model = small_model(name)
        with torch.no_grad():
            hf_model(torch.arange(3, 20)[None], use_cache=False)
    # Whatever transformers says to a config that it does not like.
    except Exception as error:
        return Found(name, reason=f"{type(error).__name__}: {error}")
    kind = type(hf_model).__name__
    try:
        model = HookedDecoder(hf_model)
        check_causal(model)
        reason = unsupported(model)
        worst = max(float((a.double() - b.double()).abs().max() / b.abs().max()) for _, a, b in compared(model))
    except ValueError as error:
        return Found(name, kind, "refused", reason=str(error).split(":")[0])
    except Exception as error:
        # One that transformers itself cannot run must not end the table.
        return Found(name, kind, "refused", reason=f"{type(error).__name__}: {str(error)[:100]}")
    return Found(name, kind, "plain" if reason else "fast", worst, reason or "")


def document(found: list[Found]) -> str:
    """The table as Markdown."""
    seen = [one for one in found if one.route]
    routes = ("fast", "plain", "refused")
    numbers = [f"{sum(one.route == route for one in seen)} {route}" for route in routes]
    counts = f"Of {len(seen)} architectures {', '.join(numbers[:-1])} and {numbers[-1]}."
    missing = ", ".join(f"`{one.name}`" for one in found if not one.route)
    unseen = ", ".join(f"`{name}`" for name in NAMES if name not in {one.name for one in found})
    rows = [one.row() for one in sorted(seen, key=lambda one: (routes.index(one.route), one.name))]
    return (
        HEAD.format(version=version("transformers"), counts=counts)
        + "\n".join(rows)
        + TAIL.format(missing=missing)
        + (UNSEEN.format(names=unseen) if unseen else "")
    )


def _kept() -> dict[str, Found]:
    """What an earlier run found, by name."""
    lines = KEPT.read_text(encoding="utf-8").splitlines() if KEPT.is_file() else []
    return {one.name: one for one in (Found(**json.loads(line)) for line in lines)}


def main(names: list[str]) -> int:
    """Look at some architectures, or at all, and say how many differ."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    known = {} if names else _kept()
    found: list[Found] = []
    for name in names or NAMES:
        found.append(known.get(name) or look(name))
        print(found[-1].row(), flush=True)
        if not names and name not in known:
            KEPT.parent.mkdir(exist_ok=True)
            with KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(found[-1])) + "\n")
    if not names:
        DOCUMENT.write_text(document(found), encoding="utf-8")
    wrong = [one for one in found if one.route in ("fast", "plain") and not one.difference < LIMIT]
    print(f"{len(wrong)} of {len(found)} differ from hooks" + "".join(f" {one.name}" for one in wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
