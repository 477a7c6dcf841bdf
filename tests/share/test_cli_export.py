"""``cast-lens export`` writes files for other engines and says what is missing."""

from __future__ import annotations

from pathlib import Path

import torch
from typer.testing import CliRunner

from cast_lens.cli import app
from cast_lens.share import import_vector
from cast_lens.vectors import Provenance, SteeringVector


def test_export_writes_what_another_engine_reads(tmp_path: Path) -> None:
    vector = SteeringVector(torch.eye(8)[:2], (1, 3), Provenance("tiny", "ab", "antonym"))
    path, out = vector.save(tmp_path / "v.safetensors"), tmp_path / "v.gguf"
    how = ["export", str(path), "--layer", "3", "--strength", "2", "--position", "all", "--out", str(out)]
    done = CliRunner().invoke(app, how)
    assert done.exit_code == 0, done.output
    assert torch.equal(import_vector(out).at(3), 2 * torch.eye(8)[1])
    assert import_vector(out).provenance.task == "antonym"
    mistakes = ((how[:-2], "--out is missing"), (how[:2] + how[4:], "say which"), (how[:6] + how[8:], "cannot express"))
    for wrong, says in mistakes:
        done = CliRunner().invoke(app, wrong)
        assert done.exit_code == 2
        assert says in done.output
