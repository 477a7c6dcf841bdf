"""What a selection is made with and what comes out: settings, chosen samples, the scores on the way, and a map of the
pool with the chosen samples in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num

from .graph import SEARCHES, WEIGHTS, GraphSummary, Search, Weights
from .spaces import as_rows

Influence = Literal["diffusion", "cascade"]
INFLUENCES: tuple[Influence, ...] = ("diffusion", "cascade")
Diversity = Literal["discount", "facility", "farthest"]
DIVERSITIES: tuple[Diversity, ...] = ("discount", "facility", "farthest")
Scaling = Literal["max", "minmax", "none"]
SCALINGS: tuple[Scaling, ...] = ("max", "minmax", "none")
Rescaling = Literal["step", "start"]
RESCALINGS: tuple[Rescaling, ...] = ("step", "start")
IdealStart = Literal["out-degree", "greedy"]
IDEAL_STARTS: tuple[IdealStart, ...] = ("out-degree", "greedy")

# Scores of all candidates at all steps are kept up to this many (128 MB per array), and the best 100 of each step
# above it.
KEPT_SCORES = 2**25
KEPT_CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class SelectionParameters:
    """Settings of all selection methods; each method reads its own.

    arXiv 2507.13236 names α and γ but publishes neither the equations nor the values, so the defaults of
    ``cast`` are ours ("cast-style"). Those of vote-k (arXiv 2209.01975) and IDEAL (arXiv 2310.10873) are the
    authors'.

    Attributes:
        k: neighbours per sample in the graph of ``cast``, ``influence``, ``diversity`` and ``ideal``.
        weights: edge weights that influence spreads along: ``cosine``, ``row`` (every sample then has the
            same diffusion influence) or ``in``; see ``SimilarityGraph.matrix``.
        influence: ``diffusion`` (decayed, over ``steps``) or ``cascade`` (expected spread of the independent
            cascade).
        steps: length T of the diffusion.
        decay: weight of each further step of the diffusion, above 0 and at most 1.
        diversity: ``discount`` of already covered neighbours, ``facility`` (graph-restricted facility
            location) or ``farthest`` (cosine distance to the nearest chosen sample).
        alpha: weight of influence against diversity: 1 is influence only, 0 diversity only.
        gamma: what a neighbour still counts after each chosen sample it points to, between 0 and 1 (1/ρ in
            vote-k).
        scaling: how influence and diversity are made comparable: divided by their largest value, stretched to
            0 ... 1, or left as they are.
        rescale: scale diversity again at each ``step`` (the trade-off stays α as coverage grows) or once at
            the ``start`` (diversity fades as coverage grows).
        cascades: simulated cascades of ``ideal`` and of ``influence="cascade"``; the paper has 10.
        ideal_start: ``out-degree``: IDEAL's published first pick, the first sample with the most neighbours;
            ``greedy``: the sample with the widest spread.
        vote_k: neighbours that each sample votes for; the published 150 of a pool of 3,000. None: 150, and at
            most a twentieth of a smaller pool, since votes for everybody are all tied.
        vote_rho: vote-k's discount base ρ.
        vote_share: share of the budget that two-phase vote-k chooses before it looks at confidence.
        search, recall: how neighbours are found; see ``similarity_graph``.
        threads: threads to use, None for all cores; no result depends on it.

    Raises:
        ValueError: when a value is out of its range.
    """

    k: int = 10
    weights: Weights = "cosine"
    influence: Influence = "diffusion"
    steps: int = 3
    decay: float = 0.5
    diversity: Diversity = "discount"
    alpha: float = 0.5
    gamma: float = 0.1
    scaling: Scaling = "max"
    rescale: Rescaling = "step"
    cascades: int = 10
    ideal_start: IdealStart = "out-degree"
    vote_k: int | None = None
    vote_rho: float = 10.0
    vote_share: float = 0.1
    search: Search = "auto"
    recall: float = 0.95
    threads: int | None = None

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "weights": WEIGHTS,
            "influence": INFLUENCES,
            "diversity": DIVERSITIES,
            "scaling": SCALINGS,
            "rescale": RESCALINGS,
            "ideal_start": IDEAL_STARTS,
            "search": SEARCHES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")
        for name in ("k", "steps", "cascades", "vote_k", "threads"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | np.integer) or value < 1):
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        ranges = {
            "decay": 0 < self.decay <= 1,
            "alpha": 0 <= self.alpha <= 1,
            "gamma": 0 < self.gamma < 1,
            "vote_share": 0 < self.vote_share <= 1,
            "recall": 0 < self.recall <= 1,
        }
        for name, inside in ranges.items():
            if not inside:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie between 0 and 1")
        if not 1 < self.vote_rho < float("inf"):
            raise ValueError(f"vote_rho={self.vote_rho!r} must be above 1: each chosen sample divides a vote by it")


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The scores that each choice was made from.

    Attributes:
        candidates: [step, candidate]: all samples, or the best 100 of the step where the pool is large.
        diversity: [step, candidate], float32: diversity of the candidate given what was chosen; NaN when the
            method has none.
        combined: [step, candidate], float32: the score that was maximised; NaN for a sample already chosen,
            and for one that a lazy search could rule out without scoring it.
    """

    candidates: Int[np.ndarray, "step candidate"]
    diversity: Float[np.ndarray, "step candidate"]
    combined: Float[np.ndarray, "step candidate"]

    def to_frame(self, *, best: int = 10) -> pd.DataFrame:
        """The best few candidates of each step: ``step, place, index, diversity, combined``."""
        rows: list[dict[str, Any]] = []
        for step, combined in enumerate(self.combined):
            order = np.argsort(-combined, kind="stable")[:best]
            for place, column in enumerate(order[np.isfinite(combined[order])]):
                rows.append(
                    {
                        "step": step,
                        "place": place,
                        "index": int(self.candidates[step, column]),
                        "diversity": float(self.diversity[step, column]),
                        "combined": float(combined[column]),
                    }
                )
        return pd.DataFrame(rows, columns=["step", "place", "index", "diversity", "combined"])


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The chosen samples, in the order of their choice, and why.

    Attributes:
        indices: [chosen], rows of the space, without repetition.
        scores: [chosen]: the maximised score at the time of choice; its meaning is the method's (see
            ``METHODS``).
        influence: [sample], unscaled influence of every sample; None for methods without it.
        diversity: [chosen], unscaled diversity at the time of choice; NaN for methods without it.
        trace: scores of the candidates at each step.
        graph: the graph behind the choice; None for methods without one.
        method: name, one of ``METHODS``.
        budget: samples asked for; all of them for ``all``.
        seed: as given.
        parameters: as given.
    """

    indices: Int[np.ndarray, " chosen"]
    scores: Float[np.ndarray, " chosen"]
    influence: Float[np.ndarray, " sample"] | None
    diversity: Float[np.ndarray, " chosen"]
    trace: Trace
    graph: GraphSummary | None
    method: str
    budget: int
    seed: int
    parameters: SelectionParameters

    def __post_init__(self) -> None:
        assert len(set(self.indices.tolist())) == len(self.indices) == self.budget, self.indices

    def __repr__(self) -> str:
        first = ", ".join(map(str, self.indices[:8])) + (", …" if len(self) > 8 else "")
        return f"Selection({self.method!r}, {len(self)} samples: {first})"

    def __len__(self) -> int:
        return len(self.indices)

    def to_frame(self) -> pd.DataFrame:
        """One row per chosen sample: ``method, seed, budget, rank, index, influence, diversity, score``."""
        influence = np.full(len(self), np.nan) if self.influence is None else self.influence[self.indices]
        return pd.DataFrame(
            {
                "method": self.method,
                "seed": self.seed,
                "budget": self.budget,
                "rank": np.arange(len(self)),
                "index": self.indices,
                "influence": influence,
                "diversity": self.diversity,
                "score": self.scores,
            }
        )


def selection_plane(
    selection: Selection, space: Num[Any, "sample d_space"], *, texts: Sequence[str] = ()
) -> pd.DataFrame:
    """The whole pool in the plane of its first two principal components, as ``plots.plot_selection`` takes it.

    Two axes show part of the space: samples close together here may be far apart in it.

    Args:
        selection: made from this space.
        space: [sample, d_space].
        texts: shown on hover, one per sample; none when empty.

    Returns:
        One row per sample: ``sample, x, y, influence`` (0 for methods without it), ``chosen, rank`` (place in the
        choice, from 0; -1 for the others), ``explained_x, explained_y`` (shares of variance), and ``text`` when given.

    Raises:
        ValueError: when the space does not have the selection's samples, or the texts are not one per sample.
    """
    rows = as_rows("space", space).astype(np.float64)
    influence = np.zeros(len(rows)) if selection.influence is None else selection.influence
    if len(influence) != len(rows) or int(selection.indices.max()) >= len(rows):
        raise ValueError(f"space has {len(rows)} samples, but the selection was made from another number of them")
    if len(texts) not in (0, len(rows)):
        raise ValueError(f"texts holds {len(texts)} entries; give one for each of the {len(rows)} samples")
    left, lengths, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    # A pool on one line, or of one sample, has no second axis.
    points = np.pad(left * lengths, ((0, 0), (0, 2)))[:, :2]
    shares = np.pad(lengths**2, (0, 2))[:2] / max(float((lengths**2).sum()), np.finfo(np.float64).tiny)
    rank = np.full(len(rows), -1)
    rank[selection.indices] = np.arange(len(selection))
    frame = pd.DataFrame(
        {
            "sample": np.arange(len(rows)),
            "x": points[:, 0],
            "y": points[:, 1],
            "influence": influence,
            "chosen": rank >= 0,
            "rank": rank,
            "explained_x": shares[0],
            "explained_y": shares[1],
        }
    )
    return frame.assign(text=list(texts)) if texts else frame
