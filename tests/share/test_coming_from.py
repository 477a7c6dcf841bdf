"""Every line of ours in docs/coming-from.md runs, in order, in one session."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cast_lens as cl
from tests.tiny import tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"


def test_our_side_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tiny_model()
    monkeypatch.setattr(cl, "load_model", lambda name: model)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    ours = [block for block in blocks if block.startswith("import cast_lens as cl")]
    assert len(ours) == 5
    assert len(blocks) == 9
    session: dict[str, Any] = {}
    for block in ours:
        exec(compile(block, str(PAGE), "exec"), session)
    assert {"happy.gguf", "happy.json"} <= {path.name for path in tmp_path.iterdir()}
