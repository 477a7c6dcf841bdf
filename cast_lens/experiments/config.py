"""The configuration of a run: one frozen object, from arguments or a TOML file; unknown keys are refused."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
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
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
"""The strengths that a run and ``recommend`` choose from: few, for each is a candidate for every source, placebo and
task. ``engine.sweep.DEFAULT_STRENGTHS`` is finer, because one task's grid costs a single pass."""
MOST_LAYERS = 10_000
RANGES: Mapping[str, tuple[int, int]] = {
    "shots": (1, 1000),
    "samples": (2, 1_000_000),
    "budget": (0, 1_000_000),
    "validation": (2, 1_000_000),
    "test": (2, 1_000_000),
    "placebos": (1, 1000),
    "finalists": (1, 100_000),
    "bootstrap": (1, 1_000_000),
    # Seeds of draws and placebos are counted upwards from it, and scikit-learn takes 32 bits.
    "seed": (0, 2**31 - 1),
    "threads": (0, 1024),
}
"""Smallest and largest value of a key."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "operator": ("add", "norm_preserving_add", "ablate", "replace"),
    "position": ("last", "prompt_last", "all"),
    "rule": (
        "own",
        "mean",
        "mean-guarded",
        "mean-lower",
        "worst",
        "worst-lower",
        "middle",
        "weak-middle",
        "middle-layers",
        "target",
        "target-lower",
        "target-guarded",
        "both",
    ),
    "device": ("cpu", "cuda", "mps", "auto", "spread"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "preset": ("", "paper", "ictl-2025-02"),
}
"""The possible values of a key. They are listed here so that a wrong value is refused before PyTorch is loaded."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A recipe: defaults for options that are not given.

    Attributes:
        about: what it follows, with its source, in one sentence.
        values: options of a run and of the main experiment.
        ours: choices that the source does not specify, or makes differently.
    """

    about: str
    values: Mapping[str, Any]
    ours: tuple[str, ...]


PRESETS: Mapping[str, Preset] = {
    "paper": Preset(
        "the method as arXiv 2507.13236 describes it: the mean few-shot minus zero-shot residual of an influential and "
        "diverse subset of the source's samples, added after one middle layer to the last token of a zero-shot prompt",
        {
            "select": "cast",
            "rule": "middle",
            "strengths": (1.0,),
            "operator": "add",
            "position": "last",
            "metric": "exact_match",
        },
        (
            "strength 1 and the layer at 0.55 of the depth (the paper says: middle to late, best 16 to 20 of 32; its "
            "strength is not known)",
            "samples, subset size, demonstrations per prompt and the equations of the selection",
            "the edited token and the text of prompts",
            "accuracy as exact match of the decoded answer, beside label-restricted accuracy",
            "the model and, unless they are named, the tasks (the paper: Llama-3.1-8B-Instruct)",
            "both placebos, intervals and tests",
        ),
    ),
    "ictl-2025-02": Preset(
        "the development code of CAST as of February 2025 (github lzhjoy/ICTL, read for facts): for each of 200 "
        "unlabelled queries of the target, one source item and k demonstrations of it are retrieved; the mean few-shot "
        "minus zero-shot residual is added at the middle layers together, to all tokens, at strength 1, and answers "
        "are the arg-max over the labels",
        {
            "retrieval": "top-k",
            "rule": "middle-layers",
            "strengths": (1.0,),
            "operator": "add",
            "position": "all",
            "metric": "macro_f1",
            "seed": 42,
            "dtype": "float32",
        },
        (
            "that anything is injected: the function that does it is empty there, its settings are an intention",
            "top-k of the three ways to retrieve (random, top-k, dpp); the kernel of dpp; the order of demonstrations",
            "the model's own residual as embedding unless --encoder names one (there: BAAI/bge-base-en-v1.5)",
            "five demonstrations (there: 1 to 5)",
            "the target's queries are those that are not test queries; fewer than 200 where there are fewer",
            "the arg-max is over whole answers, which for answers of one token is over their first tokens",
            "the text of prompts: a blank before answers and a blank line between demonstrations; instructions",
            "the model and, unless they are named, the tasks (there: Llama-3.1-8B, eight sources, five targets)",
            "both placebos, intervals and tests",
        ),
    ),
}
"""Recipes by name."""
QUICK: Mapping[str, Any] = {
    "sources": DEFAULT_SOURCES[:2],
    "targets": DEFAULT_TARGETS[:2],
    "shots": 4,
    "samples": 10,
    "validation": 6,
    "test": 8,
    "strengths": (1.0, 2.0, 4.0),
    "placebos": 1,
    "finalists": 3,
    "bootstrap": 300,
}
"""A small version: a run in less than a minute."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that determines the numbers of a run.

    Attributes:
        preset: a recipe that replaces the defaults of some options, such as those of a paper; options that you give
            take precedence. See ``PRESETS``.
        model: the model to steer: ``smollm2-135m-instruct`` (embedded), a name on the Hugging Face hub, a local folder
            or a .gguf file.
        sources: the tasks from which vectors are taken.
        targets: the tasks that are steered.
        tasks: a folder of task files to use instead of the built-in suite.
        hub: load the tasks from the Hugging Face hub.
        fields: the names of the fields in the task files, as ``name=column`` pairs such as ``input=text,answer=label``;
            not needed for the usual names.
        shots: how many demonstrations a few-shot prompt has.
        samples: how many samples of each source are drawn; they are averaged into its vector and used for the geometry.
        select: how to choose the samples that are averaged, by a method of ``selection.select``; ``all`` averages every
            sample.
        budget: how many samples to choose; 0 for half of them. Ignored if ``select`` is ``all``.
        validation: how many validation examples of a source are used to choose layer and strength, at most; the
            settings for a target are chosen on 24 queries of each task.
        test: how many test examples of each target are used, at most.
        layers: the layers to sweep, such as 8,12-16; all layers if empty.
        strengths: the strengths to sweep.
        rule: the rule that chooses layer and strength for each pair of tasks, or decides not to steer; see
            ``methods.RULES``.
        operator: how a vector enters the residual stream: it is added, added with the norm kept, projected out, or put
            in its place.
        position: which tokens are steered: the last prompt token and each generated token (``last``), the last prompt
            token alone (``prompt_last``), or every token (``all``).
        placebos: how many random directions are compared with each vector.
        finalists: how many of the best sweep cells are compared by their full answers before one is chosen.
        bootstrap: how many bootstrap replicates each interval uses.
        encoder: the sentence encoder that measures the similarity of texts, for retrieved demonstrations and for the
            embedding distance: a sentence-transformers name or folder (needs the extra ``embed``). If empty, the
            model's own residual stream is used.
        chat: format prompts with the model's chat template.
        chat_arguments: arguments of the chat template, as ``name=value`` pairs such as ``enable_thinking=false``.
        seed: the seed of samples, demonstrations, placebos and bootstrap replicates.
        device: where the model runs: ``cpu``, ``cuda``, ``mps``, ``auto`` for the fastest one available, or ``spread``
            to place its layers on all of them.
        dtype: the precision of the weights; ``auto`` is float32 up to a billion parameters, and above that the
            checkpoint's own if the device computes in it no slower than in float32.
        threads: how many threads PyTorch uses in each process; 0 lets PyTorch decide. A different number can change the
            last bits of a result.
    """

    preset: str = ""
    model: str = "smollm2-135m-instruct"
    sources: tuple[str, ...] = DEFAULT_SOURCES
    targets: tuple[str, ...] = DEFAULT_TARGETS
    tasks: str = ""
    hub: bool = False
    fields: tuple[str, ...] = ()
    shots: int = 5
    samples: int = 40
    select: str = "all"
    budget: int = 0
    validation: int = 48
    test: int = 48
    layers: tuple[int, ...] = ()
    strengths: tuple[float, ...] = STRENGTHS
    rule: str = "both"
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
    dtype: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        # Here, because the command line shows its options without them.
        from ..tasks.loading import canonical, field_names

        # One name per task: ``review-sentiment.en`` is ``review-sentiment``.
        for name in ("sources", "targets"):
            object.__setattr__(self, name, tuple(canonical(task) for task in getattr(self, name)))
        field_names(self.fields)
        for name, (least, most) in RANGES.items():
            _in_range(name, getattr(self, name), least, most)
        for name, known in CHOICES.items():
            given = getattr(self, name)
            if given not in known and not (name == "device" and re.fullmatch(r"cuda:\d{1,3}", given)):
                raise unknown_value(name, given, known)
        if self.budget > self.samples:
            raise ValueError(f"budget={self.budget} must be from 0 to samples={self.samples}")
        for name in ("sources", "targets", "strengths"):
            given = getattr(self, name)
            if not given or len(set(given)) != len(given):
                raise ValueError(f"{name}={list(given)} must hold at least one entry and none twice")
        for layer in self.layers:
            _in_range("layers", layer, 0, MOST_LAYERS, what="layers, which are counted from 0,")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers={list(self.layers)} must hold none twice")
        for strength in self.strengths:
            if not math.isfinite(strength):
                raise ValueError(f"strengths: {strength} is not a finite number")

    @property
    def resampling(self) -> dict[str, Any]:
        """``n_bootstrap`` and ``seed``, for every function that gives an interval."""
        return {"n_bootstrap": self.bootstrap, "seed": self.seed}

    @classmethod
    def quick(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a small version for the keys that were not given."""
        small = {name: value for name, value in QUICK.items() if name not in given}
        budget = given.get("budget", 0)
        if "samples" in small and isinstance(budget, int):
            small["samples"] = max(small["samples"], budget)
        return small

    def to_dict(self) -> dict[str, Any]:
        """For JSON: lists in place of tuples."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


Config = TypeVar("Config")


def preset_values(name: str, known: Collection[str]) -> dict[str, Any]:
    """The values that a preset sets in place of defaults; nothing for the empty name.

    Args:
        name: key of ``PRESETS``.
        known: keys that the run and its experiments take.

    Raises:
        ValueError: an unknown preset, or one that needs an option which these experiments do not take.
    """
    if not name:
        return {}
    if name not in PRESETS:
        raise unknown_value("preset", name, PRESETS)
    values = PRESETS[name].values
    lacking = [key for key in values if key not in known and key != "metric"]
    if lacking:
        raise ValueError(f"preset={name!r} sets {', '.join(lacking)}, which only the main job takes; use cast-lens run")
    return {key: value for key, value in values.items() if key in known}


def preset_sentences(name: str, given: Mapping[str, Any]) -> list[str]:
    """What a report says about a preset: what it follows, which of its values were changed, and which are ours.

    Args:
        name: key of ``PRESETS``, or empty.
        given: all options of the run and of its main job.
    """
    if not name:
        return []
    preset, told = PRESETS[name], []
    changed = [
        f"{key} = {given[key]}"
        for key, value in preset.values.items()
        if key in given and given[key] != (list(value) if isinstance(given[key], list) else value)
    ]
    told.append(f"The options are those of preset {name}: {preset.about}.")
    if changed:
        told.append(f"Typed in place of the preset's: {', '.join(changed)}.")
    return [*told, f"Ours in it, because the source does not say or does otherwise: {'; '.join(preset.ours)}."]


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
    known = {field.name for field in fields(cast(Any, kind))}
    for name in values:
        if name not in known:
            raise unknown_key(name, known, origin)
    default = kind()
    return kind(**{name: _typed(name, value, getattr(default, name), origin) for name, value in values.items()})


def unknown_value(name: str, given: str, known: Collection[str]) -> ValueError:
    """The error for an unknown value of a key, with the nearest known one."""
    near = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"{name}={given!r} is unknown; {hint}choose from {', '.join(filter(None, known))}")


def unknown_key(name: str, known: Collection[str], origin: str) -> ValueError:
    """The error for an unknown key, with the nearest known one."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
    return ValueError(f"{origin}: unknown key {name!r}{hint}")


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file.

    Raises:
        ValueError: when the file is missing, no TOML, or not in UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror or error}; give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"--config {path}, line {line}: not in UTF-8; save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--config {path} is not valid TOML: {error}") from error
    except RecursionError:
        raise ValueError(f"--config {path} is not valid TOML for a run: brackets are nested too deeply") from None


def _in_range(name: str, value: int, least: int, most: int, *, what: str = "") -> None:
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most:,}"
        why = ": no effect is shown without its placebo" if name == "placebos" else ""
        raise ValueError(f"{name}={value}: {what} must be {bound}" if what else f"{name}={value} must be {bound}{why}")


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
