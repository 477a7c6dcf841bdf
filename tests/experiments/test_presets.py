"""Presets: named defaults that what is typed overrides, whole runs from the command line, and what reports say."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cast_lens.cli import _settings, app
from cast_lens.experiments.config import CHOICES, PRESETS
from cast_lens.files import read_frame, read_json
from cast_lens.stats import macro_f1
from tests.models.files import write_folder

SMALL = ["--quick", "--sources", "review-sentiment", "--targets", "finance-sentiment,present-past", "--shots", "2"]
SMALL += ["--samples", "4", "--test", "6", "--bootstrap", "50", "--placebos", "2"]


def test_every_preset_is_a_choice_and_its_values_fit() -> None:
    assert CHOICES["preset"] == ("", *PRESETS)
    for name in PRESETS:
        config, own = _settings(["transfer"], {"preset": name}, quick=False, origin="options")
        for key, value in PRESETS[name].values.items():
            assert (own[key] if key in own else getattr(config, key)) == value


def test_what_is_typed_wins_over_a_preset_and_a_preset_over_quick() -> None:
    typed = {"preset": "ictl-2025-02", "position": "last", "metric": "choice_correct"}
    config, own = _settings(["transfer"], typed, quick=True, origin="options")
    assert (config.position, own["metric"]) == ("last", "choice_correct")
    assert (config.strengths, config.rule, own["retrieval"]) == ((1.0,), "middle-layers", "top-k")
    assert config.test < 48


def test_a_preset_is_refused_where_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="which only the main job takes; use cast-lens run"):
        _settings(["shots"], {"preset": "ictl-2025-02"}, quick=False, origin="options")
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        _settings(["transfer"], {"preset": "papre"}, quick=False, origin="options")
    wrong = ["run", "--preset", "ictl-2025-02", "--rule", "both", *SMALL]
    assert "--retrieval none" in " ".join(CliRunner().invoke(app, wrong).output.split())


def ran(tmp_path: Path, *arguments: str) -> tuple[Path, str]:
    folder = tmp_path / "model"
    folder.mkdir()
    write_folder(folder)
    out = tmp_path / "run"
    done = CliRunner().invoke(app, ["run", *arguments, *SMALL, "--model", str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out, done.output


@pytest.mark.slow
def test_the_development_codes_recipe_runs_and_leads_with_macro_f1(tmp_path: Path) -> None:
    out, said = ran(tmp_path, "--preset", "ictl-2025-02", "--position", "last")
    assert read_json(out / "config.json")["preset"] == "ictl-2025-02"
    assert "macro-F1" in said.split("Report:")[0].splitlines()[-1].split(".")[0]
    frames = {file.stem: read_frame(file) for file in (out / "experiments" / "transfer").glob("*.parquet")}
    result, rows = frames["result"], read_frame(out / "experiments" / "transfer" / "rows" / "outcomes.parquet")
    assert result["metric"].iloc[0] == "macro_f1"
    assert frames["methods"]["metric"].iloc[0] == "macro_f1"
    # By hand, draws averaged; free answers have no classes.
    by_hand = result[result["metric"] == "macro_f1"].set_index(["target", "source", "method"])
    assert set(by_hand.index.get_level_values("target")) == {"finance-sentiment"}
    labelled = rows[rows["target"] == "finance-sentiment"]
    for key, part in labelled.groupby(["target", "source", "method"]):
        scores = [macro_f1(one["gold"].tolist(), one["preferred"].tolist()) for _, one in part.groupby("seed")]
        assert by_hand.loc[key, "value"] == pytest.approx(sum(scores) / len(scores))
    steered = rows[rows["method"] == "cast"]
    assert (steered["strength"] == 1.0).all()
    assert frames["choices"]["reason"].str.contains("together").all()
    page = (out / "report.html").read_text()
    assert "Typed in place of the preset&#39;s: position = last" in page
    assert "Ours in it" in page
    assert len(list((out / "vectors").glob("*top-k*"))) == 4


@pytest.mark.slow
def test_the_papers_recipe_steers_one_middle_layer(tmp_path: Path) -> None:
    out, said = ran(tmp_path, "--preset", "paper")
    assert "exact match" in said
    choices = read_frame(out / "experiments" / "transfer" / "choices.parquet")
    assert choices["layer"].nunique() == 1
    assert (choices["strength"] == 1.0).all()
    config = read_json(out / "config.json")
    assert (config["select"], config["rule"], config["position"]) == ("cast", "middle", "last")
