"""What a run does: one frozen object, from arguments or from a TOML file, unknown keys refused."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from ..interventions import Operator, Position

DEFAULT_SOURCES = ("review-sentiment", "headline-topic", "science", "present-past")
DEFAULT_TARGETS = (
    "finance-sentiment",
    "question-type",
    "geography",
    "everyday-sense",
    "yes-no-facts",
    "singular-plural",
)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides a run's numbers.

    Attributes:
        model: see ``load_model``.
        sources: tasks whose vectors are added.
        targets: tasks that are steered.
        tasks: folder of JSONL tasks; empty for the suite that ships.
        hub: take tasks from the Hugging Face hub.
        shots: demonstrations in few-shot prompts.
        samples: source samples averaged into a vector (also the samples of the geometry).
        select: how the samples to average are chosen, a method of ``selection.select``; ``all`` averages every one.
        budget: samples to choose; 0 for half of them. Without meaning for ``all``.
        validation: source validation examples that choose layer and strength.
        test: test examples a target.
        layers: layers of the sweep; empty for all of them.
        strengths: strengths of the sweep.
        operator: see ``Intervention``.
        position: see ``Intervention``.
        placebos: random directions beside each vector.
        finalists: sweep cells whose greedy answers are compared before one is chosen.
        bootstrap: replicates of every interval.
        encoder: sentence encoder by which texts are compared, in retrieval and in the embedding distance: a
            sentence-transformers name or folder, with the extra ``embed``. Empty: the model's own residual, which
            needs no second model.
        chat: use the model's chat template.
        chat_arguments: ``name=value`` pairs that the chat template is given, such as ``enable_thinking=false``.
        seed: of samples, demonstrations, placebos and replicates.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        threads: of PyTorch in each process; 0 for its own choice. Another number may change the last bits.
    """

    model: str = "smollm2-135m-instruct"
    sources: tuple[str, ...] = DEFAULT_SOURCES
    targets: tuple[str, ...] = DEFAULT_TARGETS
    tasks: str = ""
    hub: bool = False
    shots: int = 5
    samples: int = 40
    select: str = "all"
    budget: int = 0
    validation: int = 24
    test: int = 48
    layers: tuple[int, ...] = ()
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    operator: Operator = "add"
    position: Position = "last"
    placebos: int = 2
    finalists: int = 12
    bootstrap: int = 1000
    encoder: str = ""
    chat: bool = False
    chat_arguments: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 0

    def __post_init__(self) -> None:
        # Here, so that the command line can show its options without loading PyTorch.
        from ..interventions import OPERATORS, POSITIONS

        for name in ("shots", "samples", "validation", "test", "finalists", "bootstrap"):
            least = 2 if name in ("samples", "validation", "test") else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.threads < 0:
            raise ValueError(f"threads={self.threads} must be 0 (PyTorch's own choice) or more")
        if not 0 <= self.budget <= self.samples:
            raise ValueError(f"budget={self.budget} must be from 0 to samples={self.samples}")
        if self.placebos < 1:
            raise ValueError("placebos must be at least 1: no effect is shown without its placebo")
        for name in ("sources", "targets", "strengths"):
            given = getattr(self, name)
            if not given or len(set(given)) != len(given):
                raise ValueError(f"{name}={list(given)} must hold at least one entry and none twice")
        if self.operator not in OPERATORS or self.position not in POSITIONS:
            raise ValueError(
                f"operator={self.operator!r}, position={self.position!r}: choose from {', '.join(OPERATORS)} "
                f"and {', '.join(POSITIONS)}"
            )

    def quick(self) -> RunConfig:
        """A small version of all of it."""
        return replace(
            self,
            sources=self.sources[:2],
            targets=self.targets[:2],
            samples=min(self.samples, 10),
            budget=min(self.budget, 10),
            validation=min(self.validation, 6),
            test=min(self.test, 8),
            shots=min(self.shots, 4),
            strengths=tuple(self.strengths[1::2]) or self.strengths,
            placebos=1,
            finalists=min(self.finalists, 3),
            bootstrap=min(self.bootstrap, 300),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: lists in place of tuples."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


Config = TypeVar("Config")


def make_config(values: Mapping[str, Any], *, origin: str = "arguments") -> RunConfig:
    """The configuration of a run, from names and values; see ``config_of``."""
    return config_of(RunConfig, values, origin=origin)


def config_of(kind: type[Config], values: Mapping[str, Any], *, origin: str = "arguments") -> Config:
    """A configuration from names and values.

    Args:
        kind: a dataclass with defaults: ``RunConfig``, or an experiment, whose fields are its options.
        values: by name of the field.
        origin: named in errors.

    Raises:
        ValueError: for an unknown name (with the nearest known one) or a value of the wrong type.
    """
    known = {field.name: field for field in fields(cast(Any, kind))}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
            raise ValueError(f"{origin}: unknown key {name!r}{hint}")
    default = kind()
    return kind(
        **{name: _typed(name, value, getattr(default, name), origin) for name, value in values.items()}
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file.

    Raises:
        ValueError: when the file is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"--config {path}: {error.strerror or error}; give the path of a TOML file"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--config {path} is no valid TOML: {error}") from error


# Types of the entries of fields that are empty by default.
_EMPTY: dict[str, type] = {"layers": int}


def _typed(name: str, value: Any, default: Any, origin: str) -> Any:
    if isinstance(default, tuple):
        items = list(value) if isinstance(value, list | tuple) else [value]
        kind = type(default[0]) if default else _EMPTY.get(name, str)
        return tuple(_typed(name, item, kind(), origin) for item in items)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"{origin}: {name}={value!r} must be of type {type(default).__name__}, got {type(value).__name__}"
        )
    return value
