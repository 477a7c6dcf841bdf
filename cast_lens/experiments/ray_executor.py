"""Cells on a Ray cluster: one actor per worker holds the model, this process hands out cells and alone writes.

No common folder is needed. Each worker has a folder of its own for vectors and settings; what a cell adds to it comes
back with the cell's rows, is written here, and reaches the other workers through Ray's object store before they compute
a cell. A worker that dies costs its cell, which another one computes; a new worker takes its place where there is room.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError, WorkerCrashedError

from ..files import atomic_write
from .catalogue import find
from .cells import Cell, Grid, Made, attempt
from .config import RunConfig, config_of
from .executors import Clock, Here, RayCluster
from .protocol import Experiment, Tasks
from .store import RunDirectory
from .workspace import Say

ATTEMPTS = 3
"""How many workers may die of one cell before it counts as failed."""
_SHARED = ("vectors", "frames", "draws")
_LOST = (RayActorError, WorkerCrashedError)


def files_in(folder: Path) -> dict[str, Path]:
    """What cells share with later cells: vectors and settings, by their names from the folder on."""
    found = [path for name in _SHARED for path in (folder / name).rglob("[!.]*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in found}


class Worker:
    """What runs in an actor: the model, and a folder of its own."""

    def __init__(self, name: str, options: dict[str, Any], config: RunConfig, tasks: Tasks) -> None:
        torch.set_num_threads(config.threads)
        self.folder = tempfile.TemporaryDirectory(prefix="cast_lens-")
        self.path = Path(self.folder.name)
        self.here = Here(config_of(find(name), options), config, tasks, RunDirectory(self.path))

    def ready(self) -> dict[str, Any]:
        """Load the model and check everything; what the model is."""
        return self.here.ready()

    def compute(self, cell: Cell, files: dict[str, Any]) -> tuple[Made, dict[str, bytes]]:
        """What became of a cell, and the files that it added.

        Args:
            cell: to compute.
            files: references to the contents of shared files, by name; those that are not here yet are fetched.
        """
        known = files_in(self.path)
        for name, reference in files.items():
            if name not in known:
                atomic_write(self.path / name, ray.get(reference))
        before = set(files_in(self.path))
        made = attempt(cell, self.here.make)
        return made, {name: path.read_bytes() for name, path in files_in(self.path).items() if name not in before}


@dataclass(eq=False)
class _Job:
    worker: Any
    cell: Cell


class OnRay:
    """Cells on the workers of a Ray cluster."""

    def __init__(
        self,
        cluster: RayCluster,
        experiment: Experiment,
        config: RunConfig,
        tasks: Tasks,
        directory: RunDirectory,
        say: Say,
    ) -> None:
        if cluster.cpus_per_worker < 1 or cluster.gpus_per_worker < 0 or cluster.workers < 0:
            raise ValueError(f"{cluster}: a worker takes 1 CPU or more, and no negative number of anything")
        self.cluster, self.directory, self.say, self.name = cluster, directory, say, experiment.name
        self._given = (experiment.name, experiment.options(), config, dict(tasks))
        self._own = False
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._jobs: dict[Any, _Job] = {}
        self._files: dict[str, Any] = {}
        self._deaths = 0

    def __enter__(self) -> OnRay:
        if not ray.is_initialized():
            address = self.cluster.address
            more = {"num_cpus": os.cpu_count()} if address == "local" else {}
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=False if more else None, **more)
            except (ConnectionError, ValueError, RayError) as error:
                line = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"ray={address!r} cannot be reached ({line}); start one, or give --ray local"
                ) from None
            self._own = True
        return self

    def __exit__(self, *error: object) -> None:
        """Let the workers go, and the cluster if it was started or joined here."""
        with suppress(RayError):
            for worker in [*self._starting.values(), *self._idle, *(job.worker for job in self._jobs.values())]:
                ray.kill(worker)
        if self._own:
            ray.shutdown()

    def ready(self) -> dict[str, Any]:
        """Start the workers; what the model is, once the first of them has it."""
        count = self.cluster.workers or self._room()
        self.say(f"{self.name}: loading the model in {count} workers on Ray")
        for _ in range(count):
            self._start()
        while True:
            facts = [self._started(reference) for reference in self._over()]
            found = next((one for one in facts if one), None)
            if found:
                return found
            self._check_alive()

    def _room(self) -> int:
        have, cluster = ray.cluster_resources(), self.cluster
        room = have.get("CPU", 0) / cluster.cpus_per_worker
        if cluster.gpus_per_worker:
            room = min(room, have.get("GPU", 0) / cluster.gpus_per_worker)
        if room < 1:
            raise ValueError(
                f"the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs, too few for a worker "
                f"with {cluster.cpus_per_worker:g} and {cluster.gpus_per_worker:g}"
            )
        return int(room)

    def _start(self) -> None:
        kind: Any = ray.remote(Worker)
        worker = kind.options(
            num_cpus=self.cluster.cpus_per_worker, num_gpus=self.cluster.gpus_per_worker, max_restarts=0
        ).remote(*self._given)
        self._starting[worker.ready.remote()] = worker

    def _over(self) -> list[Any]:
        """References that are done, after a look of some seconds."""
        pending = [*self._starting, *self._jobs]
        return list(ray.wait(pending, num_returns=1, timeout=10.0)[0]) if pending else []

    def _started(self, reference: Any) -> dict[str, Any] | None:
        """A worker has its model, or is lost; what is wrong in the input is raised."""
        worker = self._starting.pop(reference)
        try:
            facts: dict[str, Any] = ray.get(reference)
        except _LOST:
            self._replace()
            return None
        except RayTaskError as error:
            raise _original(error) from None
        self._idle.append(worker)
        return facts

    def _replace(self) -> None:
        """A new worker for one that died; if the cluster has no room for it, the others continue without it."""
        self._deaths += 1
        # As many as there are workers die with a node; many more die of something that a new one dies of as well.
        if self._deaths <= ATTEMPTS * max(1, self.cluster.workers or len(self._idle) + len(self._jobs) + 1):
            self._start()

    def _check_alive(self) -> None:
        if not self._starting and not self._idle and not self._jobs:
            raise RuntimeError(
                f"{self.name}: all workers on Ray died (out of memory?). Finished cells are kept: give the same "
                "command again, perhaps with more for each worker"
            )

    def run(self, grid: Grid, cells: Sequence[Cell], clock: Clock) -> None:
        """Compute cells, each on the first worker that is free; those of a lost worker again."""
        waiting, tries = deque(cells), Counter[str]()
        for name, path in files_in(self.directory.path).items():
            if name not in self._files:
                self._files[name] = ray.put(path.read_bytes())
        try:
            while waiting or self._jobs:
                while waiting and self._idle:
                    job = _Job(self._idle.pop(), waiting.popleft())
                    self._jobs[job.worker.compute.remote(job.cell, self._files)] = job
                self._check_alive()
                for reference in self._over():
                    if reference in self._starting:
                        self._started(reference)
                    else:
                        self._done(reference, grid, waiting, tries, clock)
        except (RayTaskError, ConnectionError) as error:
            raise _original(error) from None
        except RayError as error:
            raise RuntimeError(
                f"{self.name}: Ray was lost ({type(error).__name__}). Finished cells are kept: the same command resumes"
            ) from error

    def _done(self, reference: Any, grid: Grid, waiting: deque[Cell], tries: Counter[str], clock: Clock) -> None:
        job = self._jobs.pop(reference)
        try:
            made, files = ray.get(reference)
        except _LOST:
            tries[job.cell.key] += 1
            self._replace()
            if tries[job.cell.key] < ATTEMPTS:
                self.say(f"{self.name}: a worker died; {job.cell.key.rsplit('-', 1)[0]} is tried again")
                waiting.appendleft(job.cell)
                return
            made, files = Made(None, f"{ATTEMPTS} workers died of this cell", traceback.format_exc()), {}
        else:
            self._idle.append(job.worker)
        for name, data in files.items():
            if name not in self._files:
                atomic_write(self.directory.path / name, data)
                self._files[name] = ray.put(data)
        grid.keep(job.cell, made)
        clock.tick(job.cell, made.error)


def _original(error: BaseException) -> BaseException:
    """The error that a worker raised, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
