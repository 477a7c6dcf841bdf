"""Ray computes the same numbers on any number of workers, and goes on when a node is killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cast_lens.experiments import run_experiment
from cast_lens.experiments.executors import RayCluster
from tests.experiments.small import small_config
from tests.experiments.test_executors import RUN, contents

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_killed_node_costs_a_cell_and_no_number(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    config = small_config(folder, sources=("review-sentiment", "yes-no-facts"), targets=("yes-no-facts",), threads=1)
    run_experiment(RUN, config, tmp_path / "here")
    nodes = [cluster.add_node(num_cpus=cpus) for cpus in (1, 2)]
    said, killed = list[str](), threading.Event()

    def kill_one(line: str) -> None:
        said.append(line)
        if " of " in line and not killed.is_set():
            killed.set()
            cluster.remove_node(nodes[0], allow_graceful=False)

    out = tmp_path / "out"
    run_experiment(RUN, config, out, ray=RayCluster(workers=3), say=kill_one)
    assert killed.is_set()
    assert contents(out) == contents(tmp_path / "here")
    assert any("cells per minute" in line and line.endswith("left") for line in said)
    run_experiment(RUN, config, tmp_path / "one", ray=RayCluster(workers=1))
    assert contents(tmp_path / "one") == contents(tmp_path / "here")
