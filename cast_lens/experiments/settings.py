"""What an experiment does: a run's configuration, and what single experiments vary."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .config import RunConfig

# Ways to choose samples that need nothing but the difference vectors.
SELECTIONS = (
    "cast",
    "influence",
    "diversity",
    "vote-k",
    "ideal",
    "facility-location",
    "farthest-point",
    "k-means",
    "parallel",
    "random",
)
# What ``quick`` compares where everything would be compared otherwise.
QUICK_METHODS = (
    "cast",
    "few-shot mean",
    "pca",
    "placebo: random direction",
    "placebo: shuffled labels",
)
QUICK_TRAINED = ("atv", "static atv")


@dataclass(frozen=True, slots=True)
class ExperimentConfig(RunConfig):
    """Everything that decides an experiment's numbers; see ``RunConfig`` for what it shares with a run.

    One configuration serves all experiments of a directory, so that they share vectors and settings.

    Attributes:
        methods: vector methods of ``cross-domain``, keys of ``methods.VECTOR_METHODS``; empty for all.
        prompting: prompting methods of ``cross-domain``, keys of ``methods.PROMPT_METHODS``; empty for all.
        draws: draws of samples, demonstrations and placebos in ``cross-domain``, each with vectors, layers and
            strengths of its own; the queries stay. From 2 on, intervals over draws stand beside those over queries.
        few_shots: numbers of in-task demonstrations, of ``cross-domain``, ``shots`` and ``scaling``; those that do
            not fit the context are left out and named.
        retrieved: demonstrations of retrieved prompting, one as in arXiv 2405.10548.
        budgets: numbers of chosen samples, of ``selection`` and ``scaling``; those that ``samples`` does not exceed are
            left out.
        selections: ways to choose them, keys of ``selection.METHODS``.
        repeats: seeds of everything that is drawn at random, in ``selection``, ``scaling`` and ``ablation``.
        languages: of ``cross-lingual``; empty for all languages that the source tasks have.
        texts: neutral texts on which side effects are measured.
        queries: queries that ``efficiency`` and ``atv`` time.
        timed_targets: targets whose queries ``efficiency`` times, the first ones.
        atv_examples: training examples a task, of ``atv``; the last number is compared, the others give its learning
            curve.
        atv_holdout_examples: the same where something is held out; fewer, as each hold-out trains every method anew.
        atv_epochs: of every method that ``atv`` trains, at most.
        atv_batch: prompts a step; fewer than ``methods.atv.Training`` takes, whose material is larger.
        atv_rank: of the adaptive task vector whose parameters the adapters are given too.
        atv_methods: what ``atv`` trains, keys of ``trained_methods.TRAINED``; empty for all that can be had.
        atv_holdouts: what ``atv`` holds out of training, ``task:NAME`` or ``family:NAME``; empty for every target
            and every family of several.
    """

    methods: tuple[str, ...] = ()
    prompting: tuple[str, ...] = ()
    draws: int = 1
    few_shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    retrieved: int = 1
    budgets: tuple[int, ...] = (4, 8, 16, 32, 64)
    selections: tuple[str, ...] = SELECTIONS
    repeats: int = 10
    languages: tuple[str, ...] = ()
    texts: int = 24
    queries: int = 16
    timed_targets: int = 2
    atv_examples: tuple[int, ...] = (8, 24, 90)
    atv_holdout_examples: int = 24
    atv_epochs: int = 15
    atv_batch: int = 8
    atv_rank: int = 16
    atv_methods: tuple[str, ...] = ()
    atv_holdouts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        for name in (
            "draws",
            "retrieved",
            "repeats",
            "texts",
            "queries",
            "timed_targets",
            "atv_holdout_examples",
            "atv_epochs",
            "atv_rank",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("few_shots", "budgets", "atv_examples"):
            given = getattr(self, name)
            if not given or min(given) < 1 or list(given) != sorted(set(given)):
                raise ValueError(f"{name}={list(given)} must be one or more increasing numbers from 1")

    def small(self) -> ExperimentConfig:
        """A small version of what single experiments vary."""
        return replace(
            self,
            methods=self.methods or QUICK_METHODS,
            prompting=self.prompting or ("cross-task few-shot", "batched"),
            few_shots=tuple(k for k in self.few_shots if k <= 4),
            budgets=tuple(n for n in self.budgets if n <= 8) or self.budgets[:1],
            selections=tuple(name for name in ("cast", "k-means", "random") if name in self.selections)
            or self.selections,
            repeats=min(self.repeats, 2),
            # German is in the suite that ships; of a folder's languages nothing is known here.
            languages=self.languages or (() if self.tasks or self.hub else ("de",)),
            texts=min(self.texts, 4),
            queries=min(self.queries, 2),
            timed_targets=1,
            atv_examples=self.atv_examples[:1],
            atv_holdout_examples=min(self.atv_holdout_examples, self.atv_examples[0]),
            atv_epochs=min(self.atv_epochs, 2),
            # Adapters train for minutes.
            atv_methods=self.atv_methods or QUICK_TRAINED,
            atv_holdouts=self.atv_holdouts or (f"task:{self.targets[0]}",),
        )
