"""Inspect runs a steered model as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import cast_lens as cl
from cast_lens.interventions import Intervention
from cast_lens.share import export
from tests.tiny import tiny_model

pytest.importorskip("inspect_ai", reason="the extra inspect is not installed")
pytestmark = pytest.mark.filterwarnings("default")

PROMPT = "Review: a warm and funny film. Sentiment:"


def _model(path: Path | None = None, **how: Any) -> Any:
    from inspect_ai.model import get_model

    import cast_lens.share.inspect_ai  # noqa: F401

    return get_model("cast_lens/tiny", loaded=tiny_model(), vector=str(path or ""), memoize=False, **how)


def test_an_evaluation_runs_steered(tmp_path: Path) -> None:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig
    from inspect_ai.scorer import match

    steering = Intervention(torch.randn(64, generator=torch.Generator().manual_seed(1)), 2, 2.0)
    path = export(steering, tmp_path / "v.safetensors")
    [expected] = cl.generate(tiny_model(), [PROMPT], interventions=steering, max_new_tokens=5, stop=None)
    [plain] = cl.generate(tiny_model(), [PROMPT], max_new_tokens=5, stop=None)
    assert expected != plain
    task = Task([Sample(PROMPT, target=expected)], scorer=match("exact"), config=GenerateConfig(max_tokens=5))
    for model, text in ((_model(path), expected), (_model(), plain), (_model(path, strength=0.0), plain)):
        [log] = eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none")
        assert log.status == "success"
        assert log.samples is not None
        assert log.samples[0].output.completion == text


def test_mistakes_are_named() -> None:
    from inspect_ai.model import GenerateConfig

    with pytest.raises(ValueError, match="vector is empty"):
        _model(layer=2)
    import asyncio

    with pytest.raises(ValueError, match="greedily"):
        asyncio.run(_model().api.generate([], [], "none", GenerateConfig(temperature=1.0)))
