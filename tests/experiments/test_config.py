"""Configurations: from arguments and TOML, refused when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cast_lens.experiments.config import CHOICES, RANGES, RunConfig, make_config, read_toml
from cast_lens.interventions import OPERATORS, POSITIONS


def test_values_are_taken_over_and_typed() -> None:
    config = make_config({"shots": 3, "strengths": [1, 2.5], "sources": "science", "layers": [4]})
    assert (config.shots, config.strengths, config.sources, config.layers) == (3, (1.0, 2.5), ("science",), (4,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shotz": 3}, r"run.toml: unknown key 'shotz'; did you mean 'shots'"),
        ({"shots": "three"}, r"shots='three' must be of type int, got str"),
        ({"shots": 0}, r"shots=0 must be at least 1"),
        ({"samples": 1}, r"samples=1 must be at least 2"),
        ({"sources": []}, r"sources=\[\] must hold at least one entry"),
        ({"targets": ["science", "science"]}, r"none twice"),
        ({"placebos": 0}, r"no effect is shown without its placebo"),
        ({"position": "first"}, r"position='first'"),
        ({"hub": 1}, r"hub=1 must be of type bool"),
        ({"seed": -1}, r"seed=-1 must be at least 0"),
        ({"seed": 2**40}, r"seed=1099511627776 must be at most 2,147,483,647"),
        ({"threads": 100_000_000}, r"threads=100000000 must be at most 1,024"),
        ({"bootstrap": 10**12}, r"bootstrap=1000000000000 must be at most 1,000,000"),
        ({"layers": [3, -1]}, r"layers=-1: layers, which are counted from 0, must be at least 0"),
        ({"layers": [10**11]}, r"layers=100000000000: .* must be at most 10,000"),
        ({"layers": [3, 3]}, r"layers=\[3, 3\] must hold none twice"),
        ({"strengths": [float("nan")]}, r"strengths: nan is not a finite number"),
        ({"dtype": "float23"}, r"dtype='float23' is unknown; did you mean 'float32'"),
        ({"device": "cuda:x"}, r"device='cuda:x' is unknown; did you mean 'cuda'"),
        ({"budget": 50}, r"budget=50 must be from 0 to samples=40"),
        ({"sources": ["science", "science.en"]}, r"none twice"),
        ({"fields": ["input"]}, r"fields: 'input' is not of the form name=column"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(values, origin="run.toml")


def test_a_task_has_one_name() -> None:
    config = make_config({"sources": ["review-sentiment.en", "math/add"], "targets": ["xnli/de"]})
    assert (config.sources, config.targets) == (("review-sentiment", "add"), ("xnli.de",))


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('shots = 2\nsources = ["science"]\n')
    assert make_config(read_toml(path)).shots == 2
    path.write_text("shots = = 2")
    with pytest.raises(ValueError, match="not valid TOML"):
        read_toml(path)
    with pytest.raises(ValueError, match=r"nowhere\.toml: No such file"):
        read_toml(tmp_path / "nowhere.toml")
    path.write_bytes(b"\xef\xbb\xbfshots = 2\n")
    assert read_toml(path) == {"shots": 2}
    path.write_bytes('shots = 2\nmodel = "Müller"\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"run\.toml, line 2: not in UTF-8"):
        read_toml(path)
    path.write_text(f"layers = {'[' * 100_000}")
    with pytest.raises(ValueError, match="not valid TOML"):
        read_toml(path)


def test_quick_is_smaller_in_everything_and_keeps_its_placebo() -> None:
    full, quick = RunConfig(), make_config(RunConfig.quick({}))
    for name in ("samples", "validation", "test", "bootstrap", "finalists", "shots"):
        assert getattr(quick, name) < getattr(full, name)
    for name in ("sources", "targets", "strengths"):
        assert set(getattr(quick, name)) < set(getattr(full, name))
    assert quick.placebos == 1


def test_quick_never_changes_what_was_given() -> None:
    given = {
        "shots": 500,
        "sources": ["a", "b", "c"],
        "samples": 400,
        "strengths": [1.0, 2.0, 3.0, 4.0],
        "placebos": 3,
        "bootstrap": 2000,
    }
    config = make_config({**RunConfig.quick(given), **given})
    for name, value in given.items():
        assert getattr(config, name) == (tuple(value) if isinstance(value, list) else value)
    # Samples that were not given follow a budget that was.
    assert make_config({**RunConfig.quick({"budget": 30}), "budget": 30}).samples == 30


def test_choices_are_those_of_the_library() -> None:
    assert CHOICES["operator"] == OPERATORS
    assert CHOICES["position"] == POSITIONS
    for name, (least, most) in RANGES.items():
        assert least <= getattr(RunConfig(), name) <= most
    for name, known in CHOICES.items():
        assert getattr(RunConfig(), name) in known
