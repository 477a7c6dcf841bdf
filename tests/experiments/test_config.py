"""Configurations: from arguments and TOML, refused when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cast_lens.experiments.config import RunConfig, make_config, read_toml


def test_values_are_taken_over_and_typed() -> None:
    config = make_config({"shots": 3, "strengths": [1, 2.5], "sources": "science", "layers": [4]})
    assert (config.shots, config.strengths, config.sources, config.layers) == (
        3,
        (1.0, 2.5),
        ("science",),
        (4,),
    )


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
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(values, origin="run.toml")


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('shots = 2\nsources = ["science"]\n')
    assert make_config(read_toml(path)).shots == 2
    path.write_text("shots = = 2")
    with pytest.raises(ValueError, match="no valid TOML"):
        read_toml(path)
    with pytest.raises(ValueError, match=r"nowhere\.toml: No such file"):
        read_toml(tmp_path / "nowhere.toml")


def test_quick_is_smaller_in_everything_and_keeps_its_placebo() -> None:
    full, quick = RunConfig(), RunConfig().quick()
    for name in ("samples", "validation", "test", "bootstrap", "finalists"):
        assert getattr(quick, name) < getattr(full, name)
    assert len(quick.sources) < len(full.sources)
    assert quick.placebos == 1
