"""Source tasks × target tasks: the conditions under which every source's vector meets a target, and their outcomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata
from torch import Tensor

from ..extraction import draw_samples
from ..methods import STEERING_METHODS, VECTOR_METHODS, Condition, steered
from ..methods.field import CONTROLS
from ..stats import HypothesisTest, silhouette, spearman
from ..tasks import Task
from ..tasks.templates import body
from .config import RunConfig
from .outcomes import BASELINE, over_queries
from .protocol import different_pairs
from .workspace import Workspace

RANDOM = "placebo: random direction"
CAST = "cast"


def steerable(config: RunConfig, tasks: Mapping[str, Task]) -> list[str]:
    """Targets, and sources that have a test split to be steered on."""
    names = dict.fromkeys((*config.targets, *config.sources))
    return [name for name in names if tasks[name].test]


def different_steerable(config: RunConfig, tasks: Mapping[str, Task]) -> list[str]:
    """What ``steerable`` gives, where a source meets another task.

    Raises:
        ValueError: when no pair of different tasks can be steered.
    """
    names = steerable(config, tasks)
    different_pairs(config, names)
    return names


def crossed_outcomes(workspace: Workspace, target: str) -> pd.DataFrame:
    """Zero-shot, and each source's contrastive mean and random directions at the source's own setting.

    Returns:
        rows of ``evaluate_conditions``, and ``own`` (source and target are one task). A source's vector on itself is
        no transfer and is called ``cast (own vector)``.
    """
    return workspace.directory.frame(f"crossed/{target}", lambda: _outcomes(workspace, target))


def _outcomes(workspace: Workspace, target: str) -> pd.DataFrame:
    config, base = workspace.config, workspace.base(target)
    conditions: list[Condition] = [base]
    for source in config.sources:
        setting, vector = workspace.setting(source), workspace.vector(source)
        conditions.append(VECTOR_METHODS[CAST].condition(vector, base.prompts, setting, source=source))
        for draw in range(config.placebos):
            noise = workspace.random_direction(source, number=draw)
            conditions.append(steered(noise, base.prompts, setting, source=source, method=RANDOM, seed=draw))
    found = workspace.outcomes(conditions)
    return found.assign(own=found["source"] == target)


def changes_of(outcomes: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """Change of an outcome against zero-shot, one row per example and source; draws of a placebo averaged."""
    zero = outcomes[outcomes["method"] == BASELINE].drop_duplicates(["target", "sample"])
    known = zero.dropna(subset=[metric]).set_index(["target", "sample"])[metric]
    rows = outcomes[outcomes["method"] == method].dropna(subset=[metric])
    means = rows.groupby(["target", "source", "sample"], sort=False)[metric].mean().reset_index()
    asked = pd.MultiIndex.from_arrays([means["target"], means["sample"]])
    before = known.reindex(asked).to_numpy(float)
    return means.assign(change=means[metric].to_numpy(float) - before).dropna(subset=["change"])


def vector_conditions(workspace: Workspace, base: Condition, methods: Sequence[str]) -> list[Condition]:
    """Every source's vectors and placebos on the prompts of a target.

    Args:
        workspace: gives vectors and settings.
        base: zero-shot on the target.
        methods: keys of ``VECTOR_METHODS``; placebos are applied at the setting of ``cast``. Only the random direction
            has a distribution worth several draws.
    """
    config, conditions = workspace.config, []
    for source in config.sources:
        for name in methods:
            method = VECTOR_METHODS[name]
            setting = workspace.setting(source, CAST if method.placebo else name)
            for number in range(config.placebos if name == RANDOM else 1):
                vector = method.fit(workspace.source(source, number=number))
                conditions.append(method.condition(vector, base.prompts, setting, source=source, seed=number))
    return conditions


def is_finding(method: str) -> bool:
    """Methods whose gains a reader may take for findings: vectors that are not placebos."""
    name = method.removesuffix(" (own vector)")
    return name in STEERING_METHODS and name not in CONTROLS and not name.startswith("placebo")


def with_families(result: pd.DataFrame, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """A table of pairs with ``target_family`` and ``source_family``."""
    families = {name: task.family for name, task in tasks.items()}
    return result.assign(
        target_family=[families.get(name, "") for name in result["target"]],
        source_family=[families.get(name, "") for name in result["source"]],
    )


Distance = Callable[[Workspace, str, str], float]


def family_distance(workspace: Workspace, source: str, target: str) -> float:
    """0 for one template family, 1 for two."""
    return float(workspace.tasks[source].family != workspace.tasks[target].family)


def label_distance(workspace: Workspace, source: str, target: str) -> float:
    """1 minus the Jaccard overlap of the admissible answers; 0 for two free tasks, 1 for a free and a labelled one."""
    left, right = (answers_of(workspace.tasks[name]) for name in (source, target))
    if not left and not right:
        return 0.0
    return 1.0 - len(left & right) / len(left | right)


def answers_of(task: Task) -> frozenset[str]:
    """The admissible answers in lower case: label words, or letters of options; empty for free answers."""
    if task.kind == "multiple-choice":
        most = max((len(example.choices) for example in task.train), default=0)
        return frozenset(chr(ord("a") + index) for index in range(most))
    return frozenset(label.lower() for label in task.labels)


def embedding_distance(workspace: Workspace, source: str, target: str) -> float:
    """1 minus the cosine between the tasks' mean embeddings, see ``Workspace.embed``; no label is read."""
    left, right = (mean_embedding(workspace, name) for name in (source, target))
    return 1.0 - float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def mean_embedding(workspace: Workspace, name: str) -> Float[np.ndarray, " d_model"]:
    """Mean embedding of the formatted inputs of the task's sample queries, without its definition."""
    task = workspace.tasks[name]
    texts = [body(task, example) for example in draw_samples(task, workspace.extraction())]
    rows: Float[np.ndarray, " d_model"] = np.asarray(workspace.embed(texts), dtype=np.float64).mean(axis=0)
    return rows


def parallelism_distance(workspace: Workspace, source: str, target: str) -> float:
    """1 minus the cosine between the mean differences at the source's chosen layer; reads target demonstrations."""
    layer = workspace.setting(source).layer
    left, right = (workspace.differences(name).at(layer).double().mean(dim=0) for name in (source, target))
    return 1.0 - cosine(left, right)


def cosine(left: Float[Tensor, " d_model"], right: Float[Tensor, " d_model"]) -> float:
    """Cosine of two directions, 0 where one of them is zero."""
    lengths = left.norm() * right.norm()
    return float(left @ right / lengths) if bool(lengths > 0) else 0.0


def residual_cosine(workspace: Workspace, source: str, target: str) -> float:
    """Cosine between the mean zero-shot residuals at the source's chosen layer, no demonstration and no label read."""
    layer = workspace.setting(source).layer
    sides = [workspace.differences(name) for name in (source, target)]
    rows = [side.zero_shot[:, side.layers.index(layer)].double() for side in sides]
    return cosine(*(torch.mean(row, dim=0) for row in rows))


DISTANCES: dict[str, Distance] = {
    "template family": family_distance,
    "label space": label_distance,
    "embedding": embedding_distance,
    "parallelism": parallelism_distance,
}
"""By name in frames."""


Matrix = Float[np.ndarray, "target source"]
# Fewer items have no clusters to speak of.
LEAST = 4
Statistic = Callable[[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]], float]


def as_matrix(frame: pd.DataFrame, column: str) -> Matrix:
    """One value per pair as [target, source], NaN where a pair is missing; in order of first appearance."""
    targets, sources = (list(dict.fromkeys(frame[name])) for name in ("target", "source"))
    found = np.full((len(targets), len(sources)), np.nan)
    for target, source, value in zip(frame["target"], frame["source"], frame[column], strict=True):
        found[targets.index(target), sources.index(source)] = value
    return found


def mean_gap(x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"]) -> float:
    """Mean of ``y`` where ``x`` is 1, less its mean where ``x`` is 0; NaN where one side is empty."""
    inside = x > 0.5
    if inside.all() or not inside.any():
        return float("nan")
    return float(y[inside].mean() - y[~inside].mean())


def matrix_test(
    x: Matrix, y: Matrix, statistic: Statistic = spearman, *, n_permutations: int = 999, seed: int = 0
) -> HypothesisTest:
    """Do two matrices over the same tasks go together? Targets and sources of ``x`` are renamed at random.

    The null: which target and which source a row and a column of ``x`` belong to has nothing to do with ``y``. Whole
    rows and whole columns change places, so that a target which gains from everything counts as one target, not as
    many cells (the double permutation of Mantel's test). Two-sided.

    Args:
        x, y: NaN where a pair is missing; cells missing in one are left out.
        statistic: statistic of the cells that both have.
        n_permutations: number of random renamings; with few tasks all of them are enumerated instead.
        seed: seed of the renamings.

    Returns:
        the statistic, NaN with p = 1 where it is not defined; ``n`` is the number of cells.
    """
    observed = _of(x, y, statistic)
    cells = int((np.isfinite(x) & np.isfinite(y)).sum())
    if math.isnan(observed):
        return HypothesisTest(observed, 1.0, cells)
    if statistic is spearman and bool(np.isfinite(x + y).all()):
        # Renaming moves whole ranks: they are the same in every arrangement.
        x, y, statistic = _ranks(x), _ranks(y), _correlation
    total = math.factorial(x.shape[0]) * math.factorial(x.shape[1])
    exact = total <= n_permutations
    rows_columns = (len(x), x.shape[1])
    names = _every(*rows_columns) if exact else _drawn(*rows_columns, n_permutations, seed)
    found = np.array([_of(x[np.ix_(rows, columns)], y, statistic) for rows, columns in names])
    # A renaming that leaves nothing to compare does not count as more extreme.
    hits = int((np.abs(found) >= abs(observed) - 1e-12).sum())
    p = hits / total if exact else (1 + hits) / (1 + n_permutations)
    return HypothesisTest(observed, p, cells)


def _of(x: Matrix, y: Matrix, statistic: Statistic) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    return statistic(x[both], y[both])


def _ranks(matrix: Matrix) -> Matrix:
    ranks: Matrix = rankdata(matrix).reshape(matrix.shape)
    return ranks - ranks.mean()


def _correlation(x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"]) -> float:
    """Of two centred columns."""
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _every(rows: int, columns: int) -> Iterator[tuple[Int[np.ndarray, " target"], Int[np.ndarray, " source"]]]:
    for left in itertools.permutations(range(rows)):
        for right in itertools.permutations(range(columns)):
            yield np.array(left), np.array(right)


def _drawn(
    rows: int, columns: int, count: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " target"], Int[np.ndarray, " source"]]]:
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield generator.permutation(rows), generator.permutation(columns)


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """Clusters of the rows of a matrix.

    Attributes:
        labels: cluster of each row, from 0.
        order: rows as the leaves of the tree.
        silhouette: mean over rows; higher means better separated.
        null: the same, best over cuts, in each matrix of the null.
        p: share of the null at least as high, the observed matrix counted.
    """

    labels: Int[np.ndarray, " row"]
    order: Int[np.ndarray, " row"]
    silhouette: float
    null: Float[np.ndarray, " permutation"]
    p: float


def clusters(matrix: Float[np.ndarray, "row column"], *, n_permutations: int = 199, seed: int = 0) -> Clustering | None:
    """Cluster rows by average linkage, cut where the silhouette is best, and ask whether chance does as well.

    Rows are compared over the columns that both have (root mean square difference). The null: within each column, the
    values that are there change rows at random, so that columns keep their levels and rows lose what they share. The
    cut is chosen again in every matrix of the null.

    Args:
        matrix: NaN where a cell is missing.
        n_permutations: matrices of the null.
        seed: seed of the null.

    Returns:
        None for fewer than four rows, rows without a common column, or rows that do not differ.
    """
    distances = row_distances(matrix)
    if len(matrix) < LEAST or not np.isfinite(distances).all() or not distances.any():
        return None
    labels, order, best = best_cut(distances)
    generator, null = np.random.default_rng(seed), []
    for _ in range(n_permutations):
        drawn = matrix.copy()
        for column in drawn.T:
            known = np.flatnonzero(np.isfinite(column))
            column[known] = generator.permutation(column[known])
        null.append(best_cut(row_distances(drawn))[2])
    values = np.array(null)
    p = (1 + int((values >= best - 1e-12).sum())) / (1 + n_permutations)
    return Clustering(labels, order, best, values, p)


def row_distances(matrix: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row row"]:
    """Root mean square difference of every two rows over their common columns; NaN without any."""
    known = np.isfinite(matrix)
    filled = np.where(known, matrix, 0.0)
    common = known[:, None] & known[None]
    squares = np.square(filled[:, None] - filled[None]) * common
    count = common.sum(axis=2)
    return np.sqrt(squares.sum(axis=2) / np.where(count > 0, count, np.nan))


def best_cut(distances: Float[np.ndarray, "row row"]) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"], float]:
    """Labels at the cut of the tree with the best silhouette, order of the leaves, and that silhouette."""
    tree = linkage(squareform(distances, checks=False), method="average")
    cuts = [fcluster(tree, count, criterion="maxclust") - 1 for count in range(2, len(distances))]
    scores = [silhouette(distances, labels) for labels in cuts]
    best = int(np.argmax(scores))
    return cuts[best].astype(np.int64), leaves_list(tree).astype(np.int64), scores[best]


def hubs(
    changes: pd.DataFrame, *, n_bootstrap: int, seed: int, keys: tuple[str, str] = ("source", "target")
) -> pd.DataFrame:
    """Mean effect of each task as a source and as a target.

    Args:
        changes: ``target, source, sample, change``, one row per example.
        n_bootstrap, seed: replicates and seed of the intervals; an example is redrawn with all that was done to it.
        keys: the two roles.

    Returns:
        ``role, task, pairs, n, gain, gain_low, gain_high``, and ``gain_least, gain_most`` over its pairs.
    """
    rows = []
    for role in keys:
        for task, part in changes.groupby(role, sort=False):
            found = over_queries(part, "change", n_bootstrap=n_bootstrap, seed=seed)
            pairs = part.groupby(["target", "source"])["change"].mean()
            rows.append({"role": role, "task": task, **found, "gain_least": pairs.min(), "gain_most": pairs.max()})
    ends = ["gain", "gain_low", "gain_high", "gain_least", "gain_most"]
    return pd.DataFrame(rows, columns=["role", "task", "pairs", "n", *ends])
