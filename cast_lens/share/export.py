"""A chosen intervention as a file that another engine steers with.

Formats, and what each can say of an intervention (position, operator, layers):

- ``safetensors``: everything; a JSON card beside it, for people and other programs. ``import_intervention`` reads it.
- ``gguf``: llama.cpp's control vector: adds at every token, from block 1 on. The strength is multiplied in, so
  ``--control-vector FILE`` steers as much as here.
- ``lm-eval``: lm-evaluation-harness' ``--model steered,steer_path=FILE`` (0.4.13): adds, or projects out, at every
  token. ``cast_lens.share.lm_eval`` is that harness with every position and operator.
- ``easysteer``: EasySteer's ``SteeringSpec`` as JSON (the API of its fork of vLLM 0.26), with the vectors in a GGUF
  file beside it.
- ``script``: Python for Hugging Face transformers that does without this package, with the vectors beside it.

What a format cannot say is refused before anything is written: a vector that steers elsewhere than it was measured is
another intervention.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float

from ..files import atomic_write, save_tensors, write_json
from ..gguf import export_gguf
from ..interventions import Intervention, PromptVectors, Steering
from ..vectors import UNKNOWN_MODEL, Provenance, SteeringVector

Format = Literal["safetensors", "gguf", "lm-eval", "easysteer", "script"]
FORMATS: tuple[Format, ...] = get_args(Format)
KIND = "Intervention"
_BY_SUFFIX: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    ".pt": "lm-eval",
    ".json": "easysteer",
    ".py": "script",
}
_SUFFIXES = {format: suffix for suffix, format in _BY_SUFFIX.items()}


def export(
    intervention: Steering,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    provenance: Provenance | None = None,
    blocks: str = "layers",
) -> Path:
    """Write an intervention for another engine, whole or not at all.

    Args:
        intervention: what ``vector.intervention(layer, strength=...)`` gives.
        path: path of the file.
        format: see ``cast_lens.share.export``; None to infer it from the ending of the path.
        provenance: provenance of the vector; it is stored where the format has room for it.
        blocks: ``lm-eval`` only: name of the list of blocks in the Hugging Face model without its head, ``h`` for
            GPT-2, ``decoder.layers`` for OPT.

    Returns:
        the path.

    Raises:
        ValueError: when the format is unknown, or cannot express the intervention.
    """
    path = Path(path)
    chosen = format or _BY_SUFFIX.get(path.suffix.lower())
    if chosen not in FORMATS:
        told = f"format={format!r}" if format else f"the ending {path.suffix!r} of {path.name}"
        endings = ", ".join(f"{name} ({suffix})" for name, suffix in _SUFFIXES.items())
        raise ValueError(f"{told} is not an export format; choose one of {endings}")
    if path.suffix.lower() != _SUFFIXES[chosen]:
        raise ValueError(
            f"path={path.name!r} must end in {_SUFFIXES[chosen]} for format {chosen!r}: its reader looks at the ending"
        )
    if not isinstance(intervention, Intervention | PromptVectors):
        raise ValueError(
            f"intervention is a {type(intervention).__name__}; export takes what vector.intervention(layer, "
            "strength=...) gives, because a vector alone does not say where and how strongly to steer"
        )
    if intervention.samples is not None:
        raise ValueError(
            f"intervention holds vectors for {intervention.samples} prompts of their own, and no format distinguishes "
            "prompts. Export one prompt's with intervention.of([number])"
        )
    origin = provenance or Provenance(model="", fingerprint=_mark(intervention), task=intervention.name)
    if chosen == "lm-eval":
        return _lm_eval(intervention, path, blocks)
    writers: dict[str, Callable[[Steering, Path, Provenance], Path]] = {
        "safetensors": _safetensors,
        "gguf": _gguf,
        "easysteer": _easysteer,
        "script": _script,
    }
    return writers[chosen](intervention, path, origin)


def refuse(intervention: Steering, format: str, can: str, *, unless: bool) -> None:
    """Refuse an intervention that a format or an engine cannot express.

    Args:
        intervention: what was to be expressed.
        format: name of the format or engine.
        can: what it can do.
        unless: whether it can express this one.

    Raises:
        ValueError: when it cannot.
    """
    if not unless:
        raise ValueError(
            f"{format} cannot express operator={intervention.operator!r}, position={intervention.position!r}, "
            f"strength={intervention.strength:g} at layers {list(intervention.layers)}: {can}. Choose such an "
            "intervention and measure it as such, or another format (safetensors and script express all)"
        )


def directions_of(intervention: Steering) -> dict[int, Float[torch.Tensor, " d_model"]]:
    """Direction [d_model] of each layer, float32 on the CPU, strength aside."""
    if isinstance(intervention, Intervention):
        rows = [intervention.direction]
    else:
        assert isinstance(intervention, PromptVectors)
        rows = list(intervention.directions[0])
    stored = [row.detach().to("cpu", torch.float32).contiguous() for row in rows]
    return dict(zip(intervention.layers, stored, strict=True))


def _mark(intervention: Steering) -> str:
    return "" if intervention.fingerprint == UNKNOWN_MODEL else intervention.fingerprint


def _about(intervention: Steering, origin: Provenance) -> dict[str, Any]:
    return {
        "layers": list(intervention.layers),
        "strength": intervention.strength,
        "operator": intervention.operator,
        "position": intervention.position,
        "name": intervention.name,
        "fingerprint": intervention.fingerprint,
        "provenance": asdict(origin),
    }


def _safetensors(intervention: Steering, path: Path, origin: Provenance) -> Path:
    about, rows = _about(intervention, origin), directions_of(intervention)
    card = {
        "format": "cast_lens intervention",
        "site": "residual stream at the output of a block, counted from 0 (blocks.N.hook_resid_post)",
        "d_model": intervention.width,
        **about,
    }
    write_json(path.with_suffix(".json"), card)
    return save_tensors(path, {f"layer.{layer}": row for layer, row in rows.items()}, kind=KIND, about=about)


def _vector(intervention: Steering, origin: Provenance, *, factor: float = 1.0) -> SteeringVector:
    rows = directions_of(intervention)
    return SteeringVector(torch.stack(list(rows.values())) * factor, tuple(rows), origin)


def _gguf(intervention: Steering, path: Path, origin: Provenance) -> Path:
    can = "llama.cpp adds control vectors at every token (operator 'add', position 'all') of blocks from 1 on"
    fits = intervention.operator == "add" and intervention.position == "all" and intervention.layer > 0
    refuse(intervention, "gguf", can, unless=fits)
    return export_gguf(_vector(intervention, origin, factor=intervention.strength), path)


def _lm_eval(intervention: Steering, path: Path, blocks: str) -> Path:
    adds = intervention.operator == "add"
    removes = intervention.operator == "ablate" and intervention.strength == 1
    can = (
        "lm-eval's 'steered' model edits every token (position 'all'): it adds (operator 'add'), or sets the component "
        "along the vector (operator 'ablate' at strength 1)"
    )
    refuse(intervention, "lm-eval", can, unless=(adds or removes) and intervention.position == "all")
    entries = {
        f"{blocks}.{layer}": {
            "steering_vector": row,
            "steering_coefficient": intervention.strength if adds else 0.0,
            "action": "add" if adds else "clamp",
            "bias": None,
            "head_index": None,
        }
        for layer, row in directions_of(intervention).items()
    }
    data = io.BytesIO()
    torch.save(entries, data)
    return atomic_write(path, data.getvalue())


def easysteer_spec(intervention: Steering) -> dict[str, Any]:
    """The fields of EasySteer's ``VectorSpec`` but for its vectors; ``apply`` holds those of its ``ApplySpec``.

    Raises:
        ValueError: for what EasySteer has no algorithm for.
    """
    algorithms = {"add": "direct", "norm_preserving_add": "direct", "ablate": "erase", "replace": "replace"}
    can = "EasySteer adds with any strength, and erases or replaces with strength 1"
    whole = intervention.strength == 1 or intervention.operator in ("add", "norm_preserving_add")
    refuse(intervention, "easysteer", can, unless=whole)
    where: dict[str, dict[str, Any]] = {
        "all": {"phases": ["prompt", "generation"]},
        "last": {"phases": ["prompt", "generation"], "prompt_positions": [-1], "generation_window": [0, None]},
        "prompt_last": {"phases": ["prompt"], "prompt_positions": [-1]},
    }
    return {
        "algorithm": algorithms[intervention.operator],
        "scale": intervention.strength,
        "layers": list(intervention.layers),
        "normalize": intervention.operator == "norm_preserving_add",
        "apply": where[intervention.position],
        "name": intervention.name,
    }


def _easysteer(intervention: Steering, path: Path, origin: Provenance) -> Path:
    spec = easysteer_spec(intervention)
    refuse(intervention, "easysteer", "its GGUF files have blocks from 1 on", unless=intervention.layer > 0)
    vectors = export_gguf(_vector(intervention, origin), path.with_suffix(".gguf"))
    whole = {"vectors": [{"source": vectors.name, **spec}], "conflict": "priority"}
    # Without a checksum: EasySteer refuses keys that it does not know.
    return atomic_write(path, json.dumps(whole, indent=1).encode())


_EDITS: Mapping[str, str] = {
    "add": "return h + STRENGTH * v",
    "norm_preserving_add": "return (h + STRENGTH * v) * h.norm(dim=-1, keepdim=True) / (h + STRENGTH * v).norm("
    "dim=-1, keepdim=True)",
    "ablate": "return h - STRENGTH * (h @ (v / v.norm())).unsqueeze(-1) * (v / v.norm())",
    "replace": "return (1 - STRENGTH) * h + STRENGTH * v",
}
_WHERE: Mapping[str, str] = {
    "last": "slice(-1, None)  # the last prompt token and every token that is decoded",
    "prompt_last": "slice(-1, None) if passes == 0 else slice(0, 0)  # the last prompt token alone",
    "all": "slice(None)  # every token",
}
_SCRIPT = '''"""Steers a Hugging Face model: {what}. One `generate` per `steer`, with its cache, padded on the left."""
import contextlib, sys, torch
from pathlib import Path
from safetensors.torch import load_file

STRENGTH, VECTORS = {strength!r}, load_file(Path(__file__).with_suffix(".safetensors"))

def edit(h, v):
    {edit}

@contextlib.contextmanager
def steer(model):
    n = model.config.get_text_config().num_hidden_layers
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n)
    def hooked(v):
        passes = 0
        def hook(block, inputs, output):
            nonlocal passes
            h = output[0] if isinstance(output, tuple) else output
            where, passes, new = {where}
            new[:, where] = edit(h[:, where].float(), v.to(h.device)).to(h.dtype)
            return (new, *output[1:]) if isinstance(output, tuple) else new
        return hook
    handles = [blocks[int(name.split(".")[1])].register_forward_hook(hooked(v)) for name, v in VECTORS.items()]
    try:
        yield model
    finally:
        [handle.remove() for handle in handles]

if __name__ == "__main__":
    from transformers import AutoModelForCausalLM, AutoTokenizer
    name, prompt = sys.argv[1:]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    tokens = tokenizer(prompt, return_tensors="pt")
    with steer(model):
        written = model.generate(**tokens, max_new_tokens=16, do_sample=False)
    print(tokenizer.decode(written[0, tokens.input_ids.shape[1] :], skip_special_tokens=True))
'''


def _script(intervention: Steering, path: Path, origin: Provenance) -> Path:
    from safetensors.torch import save

    rows = directions_of(intervention)
    label = " ".join(f"{intervention.name or origin.task or 'a vector'}".split()).replace("\\", "/").replace('"', "'")
    layers = ", ".join(map(str, intervention.layers))
    what = f"{label}, layer {layers}, {intervention.operator} at {intervention.position}"
    where, _, why = _WHERE[intervention.position].partition("  #")
    body = _SCRIPT.format(
        what=what,
        strength=intervention.strength,
        edit=_EDITS[intervention.operator],
        where=f"{where}, passes + 1, h.clone()  #{why}",
    )
    atomic_write(path.with_suffix(".safetensors"), save({f"layer.{layer}": row for layer, row in rows.items()}))
    return atomic_write(path, body.encode())
