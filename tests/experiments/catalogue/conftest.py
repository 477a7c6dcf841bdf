"""What the tests of single experiments share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cast_lens.experiments.workspace import Workspace
from tests.experiments.small import small_config, workspace_of


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny model, written once."""
    folder = tmp_path_factory.mktemp("tiny")
    small_config(folder)
    return folder


@pytest.fixture(scope="module")
def workspace(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace of the experiment that a test module calls ``RUN``, on the small configuration."""
    config = small_config(tiny_folder)
    return workspace_of(request.module.RUN, config, tmp_path_factory.mktemp("out"))
