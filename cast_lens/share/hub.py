"""Steering vectors on the Hugging Face Hub: safetensors, provenance as JSON, and a model card.

The card says what a reader needs to judge a vector: which model and weights, layer, position, strength, where the data
came from, and what was measured against which placebo. What is not given is named as missing, not left out.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..interventions import Steering
from ..vectors import SteeringVector

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FILE = "vector.safetensors"
PROVENANCE = "provenance.json"
_PLACEBO = ("placebo", "random", "shuffled")


def push_to_hub(
    vector: SteeringVector,
    repo_id: str,
    *,
    intervention: Steering | None = None,
    measured: pd.DataFrame | None = None,
    data: str = "",
    license: str = "",
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Publish a vector with its card, in one commit.

    Args:
        vector: to publish.
        repo_id: ``name/repo``; made when it does not exist.
        intervention: the chosen one, which gives layer, strength, operator and position.
        measured: a table of what it does, one row per condition, placebos among them; printed in the card.
        data: where the task's examples come from, and their licence.
        license: license of the vector, as the Hub names licences (``mit``).
        private: whether others may not see it.
        revision, token, endpoint: see ``huggingface_hub.HfApi``; None for its own settings.

    Returns:
        the address of the commit.

    Raises:
        ValueError: for an invalid name, a repository that cannot be written, or a Hub that is not reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = {
        FILE: vector.to_bytes(),
        PROVENANCE: json.dumps({"layers": vector.layers, **asdict(vector.provenance)}, indent=1).encode(),
        "README.md": model_card(
            vector, repo_id, intervention=intervention, measured=measured, data=data, license=license
        ).encode(),
    }
    api = HfApi(endpoint=endpoint, token=token)

    def send(api: HfApi) -> str:
        api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        told = f"Steering vector of {vector.provenance.task}"
        return str(api.create_commit(repo_id, operations, commit_message=told, revision=revision).commit_url)

    return str(_reached(repo_id, lambda: send(api)))


def from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    filename: str = FILE,
    token: str | None = None,
    endpoint: str | None = None,
) -> SteeringVector:
    """Fetch a vector that ``push_to_hub`` published, or any file that ``import_vector`` reads.

    Args:
        repo_id: ``name/repo``.
        revision: branch, tag or commit; a commit always gives the same vector.
        filename: within the repository.
        token, endpoint: see ``huggingface_hub.hf_hub_download``.

    Raises:
        ValueError: for a repository or file that does not exist or cannot be reached, or holds no vector.
    """
    from huggingface_hub import hf_hub_download

    from .imports import import_vector

    def fetch() -> str:
        return hf_hub_download(repo_id, filename, revision=revision, token=token, endpoint=endpoint)

    return import_vector(_reached(repo_id, fetch))


def _reached(repo_id: str, call: Any) -> str:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return str(call())
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        line = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{repo_id!r} on the Hub: {line}. Check name, revision, connection, and that `hf auth login` was run"
        ) from None


def model_card(
    vector: SteeringVector,
    repo_id: str,
    *,
    intervention: Steering | None = None,
    measured: pd.DataFrame | None = None,
    data: str = "",
    license: str = "",
) -> str:
    """The card of a vector, in Markdown with the Hub's header; see ``push_to_hub``."""
    about = vector.provenance
    header = ["---", "library_name: cast_lens", "tags: [steering-vector, activation-steering]"]
    header += (
        [f"base_model: {json.dumps(about.model)}"] if about.model.count("/") == 1 and about.model[0] != "/" else []
    )
    header += [f"license: {license}"] if license else []
    samples = f"{len(about.sample_ids)} examples, {about.shots} demonstrations each" if about.sample_ids else ""
    facts = {
        "Task": about.task,
        "Model": about.model or "not known",
        "Fingerprint of its weights": f"`{about.fingerprint}`" if about.fingerprint else "not known",
        "Site": "residual stream at the output of a block, counted from 0",
        "Layers": ", ".join(map(str, vector.layers)),
        "Width": str(vector.directions.shape[1]),
        "Taken from": "; ".join(filter(None, (samples, f"seed {about.seed}", about.note))),
        "Data and their licence": data or "not given",
        "Versions": ", ".join(f"{name} {version}" for name, version in about.versions.items()) or "not given",
    }
    return "\n".join(
        [
            *header,
            "---",
            "",
            f"# Steering vector: {about.task}",
            "",
            *(f"- **{name}:** {text}" for name, text in facts.items()),
            "",
            "## How to steer",
            "",
            *_use(vector, repo_id, intervention),
            "",
            "## What was measured",
            "",
            *_measured(measured),
            "",
        ]
    )


def _use(vector: SteeringVector, repo_id: str, intervention: Steering | None) -> list[str]:
    if intervention is None:
        told = ["No layer or strength was chosen; choose them on data of the source task.", ""]
        call = f"vector.intervention(layer={vector.layers[len(vector.layers) // 2]}, strength=1.0)"
    else:
        one = intervention
        layers = f"layer={one.layer}" if len(one.layers) == 1 else f"layers={list(one.layers)}"
        told = [
            f"Chosen: {one.operator} at layers {list(one.layers)}, strength {one.strength:g}, at {one.position}.",
            "",
        ]
        operator = f", operator={one.operator!r}" if one.operator != "add" else ""
        call = f"vector.intervention({layers}, strength={one.strength:g}{operator}, position={one.position!r})"
    code = [
        "```python",
        "import cast_lens as cl",
        "",
        f"model = cl.load_model({vector.provenance.model!r})",
        f"vector = cl.SteeringVector.from_hub({repo_id!r})",
        f"with cl.steer(model, {call}):",
        "    ...",
        "```",
    ]
    return told + code


def _measured(measured: pd.DataFrame | None) -> list[str]:
    if measured is None or measured.empty:
        return ["Nothing was measured. Before you rely on it, compare it with a random direction of the same norm."]
    columns = [str(column) for column in measured.columns]
    rows = [[_cell(value) for value in row] for row in measured.itertuples(index=False)]
    table = [columns, ["---"] * len(columns), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    words = " ".join(cell for row in rows for cell in row).lower()
    if not any(word in words for word in _PLACEBO):
        lines += ["", "No placebo was measured: part of this may be what any direction does."]
    return lines


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
