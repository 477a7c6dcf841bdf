"""Executors compute the cells of an experiment: in this process, in a pool, in shards on many machines, or with Ray.

For all of them a finished cell is a file, and its numbers do not depend on the executor. ``Here`` is the default.
``Pool`` runs processes that each load the model. ``Shard`` works with other shards on a shared folder: each cell is
claimed by a file before it is computed, and the claims of a lost machine pass to the others. ``OnRay`` needs no shared
folder; see ``ray_executor``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pandas as pd
import torch
from filelock import FileLock

from ..engine import Progress, quiet
from ..files import atomic_write
from ..models import load_model
from .catalogue import find
from .cells import Cell, Grid
from .config import RunConfig, config_of
from .protocol import Experiment, Tasks, prepare
from .store import RunDirectory
from .workspace import Load, Say, Workspace, model_facts

HEARTBEAT = 15.0
"""Seconds between two heartbeats of a claim."""
LOST = 150.0
"""Seconds without a heartbeat after which other shards may take over a claim."""
POLL = 2.0
"""Seconds between two checks of cells that other shards compute."""


class Executor(Protocol):
    """Computes cells; a context manager that releases its workers at the end."""

    def __enter__(self) -> Executor:
        """Start."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release workers and claims."""
        ...

    def ready(self) -> dict[str, Any]:
        """Load and check everything, before anything is written; what the model is."""
        ...

    def run(self, grid: Grid, cells: Sequence[Cell], clock: Clock) -> None:
        """Compute cells, which do not depend on each other; each is on disk when this returns, or its failure is."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """One of several shards that work on the same cells.

    Attributes:
        number: number of this shard, from 1.
        of: number of all shards.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse a share such as ``3/20``.

        Raises:
            ValueError: if the text is not of this form.
        """
        number, slash, of = text.partition("/")
        if slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
            return cls(int(number), int(of))
        raise ValueError(f"shard={text!r} must be written NUMBER/COUNT, with NUMBER from 1 to COUNT: 3/20")

    def order(self, cells: Sequence[Cell]) -> list[Cell]:
        """Its own cells first, then those of the shards after it."""
        own = [cell for place, cell in enumerate(cells) if place % self.of == self.number - 1]
        others = [(place - self.number + 1) % self.of for place in range(len(cells))]
        rest = sorted((place for place in range(len(cells)) if others[place]), key=lambda place: others[place])
        return own + [cells[place] for place in rest]


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A Ray cluster and the resources to use.

    Attributes:
        address: ``local`` to start one on this machine, ``auto`` for the one that runs here, or its address.
        workers: number of processes that load the model; 0 for as many as fit on the cluster.
        gpus_per_worker, cpus_per_worker: resources of each worker; at least one CPU.
    """

    address: str = "auto"
    workers: int = 0
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0


class Here:
    """Computes cells in this process; the model is loaded when the first cell needs it."""

    def __init__(
        self,
        experiment: Experiment,
        config: RunConfig,
        tasks: Tasks,
        directory: RunDirectory,
        load: Load = load_model,
        progress: Progress = quiet,
        say: Say = lambda text: None,
    ) -> None:
        self.experiment, self.config, self.tasks = experiment, config, tasks
        self.directory, self.load, self.progress, self.say = directory, load, progress, say
        self._workspace: Workspace | None = None

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def workspace(self) -> Workspace:
        """Model and tasks, after checking the prompts."""
        if self._workspace is None:
            self._workspace = Workspace.loaded(
                self.config, dict(self.tasks), self.directory, load=self.load, progress=self.progress, say=self.say
            )
        return self._workspace

    def make(self, cell: Cell) -> pd.DataFrame:
        """Rows of one cell."""
        workspace = self.workspace().drawn(cell.draw)
        if cell.kind == "setting" and cell.prepares:
            return prepare(workspace, cell)
        return self.experiment.compute(workspace, cell)

    def ready(self) -> dict[str, Any]:
        """Load and check everything, before anything is written; what the model is."""
        return model_facts(self.workspace())

    def run(self, grid: Grid, cells: Sequence[Cell], clock: Clock) -> None:
        """Compute cells one after the other."""
        for cell in cells:
            clock.tick(cell, grid.compute(cell, self.make))


class Pool:
    """Computes cells in separate processes, each with its own model."""

    def __init__(self, experiment: Experiment, config: RunConfig, out: Path, workers: int, say: Say) -> None:
        self.name, self.workers, self.say = experiment.name, workers, say
        start = partial(_start_worker, experiment.name, experiment.options(), config, out)
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, context, initializer=start)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def ready(self) -> dict[str, Any]:
        """Load and check everything in every worker, before anything is written; what the model is."""
        self.say(f"{self.name}: loading the model in {self.workers} processes")
        with self._alive():
            jobs = [self.pool.submit(_ready) for _ in range(self.workers)]
            facts = [job.result() for job in jobs]
        return facts[0]

    def run(self, grid: Grid, cells: Sequence[Cell], clock: Clock) -> None:
        """Compute cells, several at a time."""
        with self._alive():
            waiting = {self.pool.submit(_work, grid, cell): cell for cell in cells}
            for future in as_completed(waiting):
                clock.tick(waiting[future], future.result())

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{self.name}: a worker process died (out of memory?). Finished cells are kept: give the same command "
                "again, perhaps with fewer --workers"
            ) from error


_worker: Here | None = None


def _start_worker(name: str, options: dict[str, Any], config: RunConfig, out: Path) -> None:
    """In a worker: load what its cells need, and end when the parent does."""
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(config.threads)
    experiment = config_of(find(name), options)
    tasks = experiment.read_tasks(config)
    _worker = Here(experiment, config, tasks, RunDirectory(out))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # Without this, the worker of a killed parent would wait for cells forever.
        os._exit(1)


def _ready() -> dict[str, Any]:
    assert _worker is not None
    return _worker.ready()


def _work(grid: Grid, cell: Cell) -> str:
    assert _worker is not None
    return grid.compute(cell, _worker.make)


class Claims:
    """Claims of cells, as files in a folder that all shards share.

    A claim is made by creating its file, which only one process can do. While it is held, a thread touches the file;
    its age is measured by the folder's own clock, so that the clocks of the machines need not agree.
    """

    def __init__(self, folder: Path, *, heartbeat: float = HEARTBEAT, lost: float = LOST) -> None:
        self.folder, self.heartbeat, self.lost = folder, heartbeat, lost
        self.name = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._held: set[Path] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        for path in list(self._held):
            self._drop(path)

    def take(self, cell: Cell) -> bool:
        """Claim a cell; False when another process holds it."""
        path = self._file(cell)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(json.dumps({"by": self.name}))
        except FileExistsError:
            if not self._take_over(path):
                return False
        self._held.add(path)
        return True

    def release(self, cell: Cell) -> None:
        """Release a claim."""
        self._drop(self._file(cell))

    def _file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.json"

    def _take_over(self, path: Path) -> bool:
        # If two shards find a claim lost, only one may take it: the second would take the claim of the first.
        with FileLock(self.folder / ".takeover.lock"):
            if not self._is_lost(path):
                return False
            atomic_write(path, json.dumps({"by": self.name}).encode())
            return True

    def _is_lost(self, path: Path) -> bool:
        try:
            return now_in(self.folder) - path.stat().st_mtime > self.lost
        except FileNotFoundError:
            return False  # given back this moment; another look will find it free

    def _drop(self, path: Path) -> None:
        self._held.discard(path)
        with suppress(OSError, ValueError):
            if json.loads(path.read_text(encoding="utf-8"))["by"] == self.name:
                path.unlink()

    def _beat(self) -> None:
        while not self._over.wait(self.heartbeat):
            for path in list(self._held):
                with suppress(OSError):
                    os.utime(path)


def now_in(folder: Path) -> float:
    """The time by the clock of the folder's file system."""
    probe = folder / f".now-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def claimed(path: Path) -> bool:
    """Whether shards are working in a run directory."""
    files = [file for folder in path.glob("experiments/*/claims") for file in folder.glob("[!.]*.json")]
    return any(now_in(file.parent) - file.stat().st_mtime <= LOST for file in files)


class Shard(Here):
    """Computes cells that no other shard has claimed, in this process.

    It begins with its share and continues with any cells that are left, so that nothing waits for a shard that never
    started or has died.
    """

    def __init__(self, share: Share, claims: Claims, *given: Any, **how: Any) -> None:
        super().__init__(*given, **how)
        self.share, self.claims = share, claims

    def __enter__(self) -> Shard:
        self.claims.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.claims.__exit__()

    def run(self, grid: Grid, cells: Sequence[Cell], clock: Clock) -> None:
        """Compute free cells until all are done; wait for other shards' preparing cells, not for their last ones."""
        waiting = self.share.order(cells)
        before = {cell.key: _stamp(grid.failure(cell)) for cell in cells}
        while waiting:
            busy = [cell for cell in waiting if not self._settled(grid, cell, before[cell.key], clock)]
            if busy and not busy[0].prepares:
                return
            if len(busy) == len(waiting):
                time.sleep(POLL)
            waiting = busy

    def _settled(self, grid: Grid, cell: Cell, failed: float, clock: Clock) -> bool:
        """Whether a cell is done by any shard; it is computed if no other shard does."""

        def over() -> bool:
            return grid.file(cell).is_file() or _stamp(grid.failure(cell)) != failed

        if over():
            clock.elsewhere(cell)
            return True
        if not self.claims.take(cell):
            return False
        try:
            # Another shard may have finished it between the check and the claim.
            if over():
                clock.elsewhere(cell)
            else:
                clock.tick(cell, grid.compute(cell, self.make))
        finally:
            self.claims.release(cell)
        return True


def _stamp(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class Clock:
    """Reports progress and estimates the remaining time from finished cells of the same kind."""

    def __init__(
        self, cells: Sequence[Cell], name: str, say: Say, finished: Callable[[Cell], None] = lambda cell: None
    ) -> None:
        self.finished = finished
        self.name, self.say, self.total, self.done = name, say, len(cells), 0
        self.left = Counter(self._kind(cell) for cell in cells)
        self.made: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.before = self.start = time.time()

    @staticmethod
    def _kind(cell: Cell) -> str:
        return f"{cell.kind} {cell.prepares}"

    def elsewhere(self, cell: Cell) -> None:
        """One more cell was done by another process."""
        self.left[self._kind(cell)] -= 1
        self.total -= 1
        self.before = time.time()

    def tick(self, cell: Cell, error: str) -> None:
        """One more cell is done."""
        if not error:
            self.finished(cell)
        kind, now = self._kind(cell), time.time()
        self.seconds[kind] = self.seconds.get(kind, 0.0) + now - self.before
        self.before = now
        self.left[kind] -= 1
        self.made[kind] += 1
        self.done += 1
        usual = sum(self.seconds.values()) / max(1, self.done)
        rest = sum(
            count * (self.seconds[kind] / self.made[kind] if self.made[kind] else usual)
            for kind, count in self.left.items()
        )
        ending = f", about {rest:.0f} s left" if rest < 120 else f", about {rest / 60:.0f} min left"
        pace = 60 * self.done / max(time.time() - self.start, 1e-9)
        ending = f", {pace:.3g} cells per minute{ending}"
        what = f"failed: {error}" if error else "done"
        self.say(
            f"{self.name}: {self.done} of {self.total}, {cell.key.rsplit('-', 1)[0]} {what}"
            f"{ending if self.done < self.total else ''}"
        )
