"""The options of an adaptive task vector, and their values in the paper's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...interventions import POSITIONS, Position
from ...models import EMBEDDED
from ..training import GeneratorReads, Training

GeneratorKind = Literal["blocks", "residual", "huggingface", "constant"]
GENERATORS: tuple[GeneratorKind, ...] = ("blocks", "residual", "huggingface", "constant")
Pooling = Literal["last", "mean"]
Start = Literal["zero", "torch"]
# The steered model itself as the small one.
SELF = "self"


@dataclass(frozen=True, slots=True)
class Design:
    """How the vectors are generated and where they are added (arXiv 2506.03426; ``PAPER`` has its values).

    Attributes:
        generator: what reads the query: ``blocks``, the first blocks of the small model ``source``; ``residual``, the
            steered model's own zero-shot residual at ``layer``, without a second model; ``huggingface``, any causal or
            encoder model; ``constant``, nothing: one vector per layer is learned, the static counterpart of an adaptive
            task vector.
        source: the small model: for ``blocks`` the embedded model, ``self`` or a name that ``load_model`` takes; for
            ``huggingface`` a folder or a hub name.
        layer: the block whose output is read (``blocks`` and ``residual``); of a Hugging Face model it is always the
            last.
        pooling: which state is read: that of the ``last`` token, or the ``mean`` over all tokens.
        trained: whether the small model is trained too, as in the paper; a frozen one reads every text only once.
        standardise: whether states are centred and scaled by their mean and deviation over the training texts before
            the expansion. Residuals at one position share a large component, which the paper's code leaves in.
        rank: the rank of the expansion; a full linear map if not given.
        start: how the expansion is initialised: ``zero`` begins training at the unsteered model; ``torch`` uses
            PyTorch's default, as the paper's code does.
        layers: the blocks that get a vector; all if not given.
        strength: the factor that scales the vectors. It determines how far a step of Adam moves a residual, whatever
            the loss: the paper's 0.001 takes its 27,000 steps, 0.1 takes a few hundred.
        position: which tokens are steered: ``last``, as the paper describes, also steers each generated token, and few
            tokens per step need gradients; ``all`` is what its code does.
        reads: what the small model reads: ``prompt``, the text that the large model reads, or ``question``, the text in
            the form ``Q: … A:`` as in the training code of the paper.

    Raises:
        ValueError: for an unknown name, a negative layer, a rank below 1, or a non-finite strength.
    """

    generator: GeneratorKind = "blocks"
    source: str = EMBEDDED
    layer: int = 15
    pooling: Pooling = "last"
    trained: bool = False
    standardise: bool = True
    rank: int | None = None
    start: Start = "zero"
    layers: tuple[int, ...] | None = None
    strength: float = 0.1
    position: Position = "last"
    reads: GeneratorReads = "prompt"

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "generator": GENERATORS,
            "pooling": ("last", "mean"),
            "start": ("zero", "torch"),
            "position": POSITIONS,
            "reads": ("prompt", "question"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")
        if self.layer < 0 or (self.rank is not None and self.rank < 1):
            raise ValueError(f"layer={self.layer} must be 0 or more, and rank={self.rank} 1 or more or None")
        if not -float("inf") < self.strength < float("inf") or self.strength == 0:
            raise ValueError(f"strength={self.strength} must be finite and not 0, or nothing can be learned")
        if self.trained and self.generator in ("residual", "constant"):
            raise ValueError(
                f"generator={self.generator!r} has no parameters to train; leave trained off, or choose blocks"
            )
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))


PAPER = Design(
    generator="huggingface",
    source="gpt2",
    trained=True,
    standardise=False,
    start="torch",
    strength=0.001,
    position="all",
    reads="question",
)
"""The design in the released code of arXiv 2506.03426."""

PAPER_TRAINING = Training(ending="", batch=3, patience=15, seed=42)
"""Its training: one example in three templates per step, 15 epochs (we still keep the best epoch)."""
