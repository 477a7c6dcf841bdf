"""A trained adapter, ready for use: it answers prompts, and is evaluated as everything else is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from ...engine import Progress, TokenPrompt, quiet, tokenise
from ...engine.greedy import check_length, stop_rule, texts_of
from ...evaluation import answer_limit, outcome_frame
from ...files import load_tensors, save_tensors
from ...models.lens import HookedTransformer
from ...models.load import load_huggingface
from ...tasks import Prompt
from ...vectors import Provenance, model_label
from ..training import Training, check_model, provenance_of, training_of
from .peft_model import AdapterDesign, Wrapped, wrap
from .scoring import AdapterOutput, score_and_decode

KIND = "Adapter"


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """LoRA or a prefix on the Hugging Face model behind a ``HookedTransformer``.

    Attributes:
        model: the ``HookedTransformer``, which tokenises; it stays unadapted.
        wrapped: the Hugging Face model with the adapter.
        design: what was asked for.
        training: how it was trained.
        steps: that were trained, those after the kept epoch included.
        seconds: that training took, validations included, loading not.
        validation: lowest validation loss, that of the kept epoch; nats per token.
        provenance: the model, the tasks and templates, the seed.
    """

    model: HookedTransformer
    wrapped: Wrapped
    design: AdapterDesign
    training: Training
    steps: int
    seconds: float
    validation: float
    provenance: Provenance

    def __repr__(self) -> str:
        return (
            f"Adapter({self.design.kind}, {self.setting}, {self.n_parameters} parameters, "
            f"{self.provenance.task!r}, {model_label(self.provenance)})"
        )

    @property
    def n_parameters(self) -> int:
        """Numbers that were learned."""
        return self.wrapped.n_parameters

    @property
    def setting(self) -> str:
        """What the budget came to: ``rank 5`` or ``26 virtual tokens``."""
        return self.wrapped.setting

    def answer(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None, progress: Progress = quiet
    ) -> list[str | None]:
        """What the adapted model writes greedily, by the rule of ``cast_lens.engine.answer``.

        Args:
            prompts: any number.
            max_new_tokens: see ``evaluate``.
            progress: wraps the passes.

        Raises:
            ValueError: see ``tokenise``.
        """
        return self._texts(self._read(prompts, max_new_tokens, progress, scored=False)[1])

    def evaluate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None, progress: Progress = quiet
    ) -> pd.DataFrame:
        """Greedy answers and answer probabilities, as ``cast_lens.evaluation.evaluate`` gives them.

        Args:
            prompts: queries with gold answers.
            max_new_tokens: longest answer; by default three tokens more than the longest admissible or gold answer.
            progress: wraps the passes.

        Returns:
            the columns of ``evaluate``, one row per prompt; ``variant`` is 0 and ``name`` the kind of adapter.

        Raises:
            ValueError: see ``tokenise``.
        """
        tokens, found = self._read(prompts, max_new_tokens, progress, scored=True)
        frame = outcome_frame(prompts, found.scores(tokens), [self._texts(found)])
        return frame.assign(name=self.design.kind)

    def _read(
        self, prompts: Sequence[Prompt], max_new_tokens: int | None, progress: Progress, *, scored: bool
    ) -> tuple[list[TokenPrompt], AdapterOutput]:
        tokens = tokenise(self.model, prompts)
        limit = answer_limit(tokens) if max_new_tokens is None else max_new_tokens
        check_length(limit)
        # Virtual tokens take up context, too.
        tokenise(self.model, tokens, room=limit + self.wrapped.virtual)
        stop = stop_rule(self.model, stop_at_newline=True)
        found = score_and_decode(
            self.wrapped, tokens, max_new_tokens=limit, stop=stop, progress=progress, scored=scored
        )
        return tokens, found

    def _texts(self, found: AdapterOutput) -> list[str | None]:
        return texts_of(stop_rule(self.model, stop_at_newline=True), [list(found.written)])[0]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what was learned to one safetensors file, design, training and provenance inside."""
        about = {
            "design": asdict(self.design),
            "training": asdict(self.training),
            "run": {"steps": self.steps, "seconds": self.seconds, "validation": self.validation},
            "provenance": asdict(self.provenance),
        }
        return save_tensors(Path(path), self.wrapped.state(), kind=KIND, about=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: HookedTransformer, source: str | os.PathLike[str]) -> Adapter:
        """Read what ``save`` wrote.

        Args:
            path: of the file.
            model: the one that the adapter was trained for.
            source: where that model comes from; see ``train_adapter``.

        Raises:
            ValueError: another model, or no saved adapter.
            ImportError: without ``peft``.
        """
        tensors, about = load_tensors(Path(path), kind=KIND)
        provenance = provenance_of(about)
        check_model(model, provenance, what="adapter")
        design = AdapterDesign(**about["design"])
        room = int(model.cfg.n_ctx)
        wrapped = wrap(load_huggingface(source, like=model), design, seed=0, opening=(0,), room=room)
        wrapped.restore(tensors)
        return cls(model, wrapped, design, training_of(about), **about["run"], provenance=provenance)
