"""What an adaptive task vector is made of: every switch of the recipe, and the values of the paper's code."""

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
    """What writes the vectors, and where they go (arXiv 2506.03426; ``PAPER`` has its values).

    Attributes:
        generator: ``blocks``, the first blocks of the small model ``source``; ``residual``, the steered model's own
            zero-shot residual at ``layer``, no second model at all; ``huggingface``, any causal or encoder model;
            ``constant``, nothing is read: one learned vector per layer, the static counterpart of an ATV.
        source: the small model: for ``blocks`` the embedded model, ``self`` or a name that ``load_model`` takes; for
            ``huggingface`` a folder or hub name.
        layer: the block whose output is read (``blocks``, ``residual``); a Hugging Face model's last one is.
        pooling: state at the ``last`` token, or the ``mean`` over all.
        trained: whether the small model is trained along. The paper trains it; frozen, every text is read once.
        standardise: whether states are centred and scaled by their mean and deviation over the training texts, before
            the expansion. Residuals at one position have a large part in common, which the paper's code leaves in.
        rank: of the expansion; None for one full linear map.
        start: expansion that gives ``zero`` vectors at first, so that training begins at the unsteered model, or
            ``torch``'s default initialisation, as the paper's code.
        layers: blocks that get a vector; all when None.
        strength: factor on the vectors. It scales how far a step of Adam moves a residual, whatever the loss: the
            paper's 0.001 takes its 27,000 steps, 0.1 takes some hundreds.
        position: ``last`` as the paper says, also the tokens decoded after it: a step then runs few tokens with
            gradients. ``all`` as its code does.
        reads: ``prompt``, the small model reads what the large one does; ``question``, it reads ``Q: … A:`` as in the
            code's training.

    Raises:
        ValueError: on an unknown name, a negative layer, a rank below 1, or a non-finite strength.
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
"""As the released code of arXiv 2506.03426 does it."""

PAPER_TRAINING = Training(ending="", batch=3, patience=15, seed=42)
"""The same for training: one example in three templates per step, 15 epochs (ours still keeps the best one)."""
