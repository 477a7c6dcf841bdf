"""Planted outcomes through the real chooser: a source that transfers, one that harms, a target that nothing helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cast_lens.engine import TokenPrompt, score, tokenise
from cast_lens.evaluation import evaluate
from cast_lens.extraction import Extraction, difference_vectors
from cast_lens.methods import RULES, Choice, Setting, cell_outcomes, choose_from, choose_setting, settled, unlabelled
from cast_lens.methods.choosing import CELL, LABELLED
from cast_lens.tasks import load_task, zero_shot_prompts
from tests.tiny import tiny_model

LAYERS, STRENGTHS = (2, 5, 8), (0.1, 1.0, 4.0)


def table(task: str, gain: dict[float, float], believed: dict[float, float], *, valid: float = 1.0) -> pd.DataFrame:
    """Outcomes of one direction on one task that depend on the strength alone, and a little on the layer."""
    rows = [
        {
            "task": task,
            "layer": layer,
            "strength": strength,
            "position": "last",
            "n": 100,
            "gain": gain[strength] - 0.001 * abs(layer - 5),
            "gain_se": 0.02,
            "right": 0.5,
            "lost": 0.5 * (gain[strength] < -0.1),
            "choice_gain": 0.0,
            "gold_logprob": -1.0,
            "believed": believed[strength] - 0.001 * abs(layer - 5),
            "believed_se": 0.02,
            "valid": 1.0,
            "valid_before": valid,
            "moved": 0.0,
        }
        for layer in LAYERS
        for strength in STRENGTHS
    ]
    return pd.DataFrame(rows)


HELPS = {0.1: 0.02, 1.0: 0.3, 4.0: -0.2}
HARMS = {0.1: -0.02, 1.0: -0.3, 4.0: -0.6}
OTHERS = ("first", "second")


def planted(source: str, on_others: dict[float, float], on_target: dict[float, float]) -> pd.DataFrame:
    own = {0.1: 0.0, 1.0: 0.1, 4.0: 0.5}
    parts = [table(source, own, own), *(table(name, on_others, on_others) for name in OTHERS)]
    return pd.concat([*parts, table("target", on_target, on_target)], ignore_index=True)


def chosen(frame: pd.DataFrame, rule: str) -> tuple[int, float] | None:
    found = choose_from(frame, source="source", target="target", n_layers=10, rule=rule)
    assert found.steers == (found.setting is not None)
    return (found.layer, found.strength) if found.steers else None


CAREFUL = [name for name, rule in RULES.items() if rule.aside]


@pytest.mark.parametrize("rule", CAREFUL)
def test_a_source_that_transfers_is_used_where_it_transfers(rule: str) -> None:
    assert chosen(planted("source", HELPS, HELPS), rule) == (5, 1.0)


@pytest.mark.parametrize("rule", CAREFUL)
def test_a_source_that_harms_is_left_alone_however_well_it_does_at_home(rule: str) -> None:
    assert chosen(planted("source", HARMS, HARMS), rule) is None
    assert chosen(planted("source", HARMS, HARMS), "own") == (5, 4.0)


@pytest.mark.parametrize("rule", [name for name in CAREFUL if name.startswith(("target", "both"))])
def test_on_a_target_on_which_nothing_helps_a_rule_that_looks_at_it_stands_aside(rule: str) -> None:
    assert chosen(planted("source", HELPS, HARMS), rule) is None
    # Nothing can be mended where all answers are admissible: no believed change is above zero.
    assert chosen(planted("source", HELPS, dict.fromkeys(STRENGTHS, 0.0)), rule) is None


@pytest.mark.parametrize("rule", ["both", "target-lower", "target-guarded"])
def test_of_a_helpful_and_a_harmful_source_and_a_target_that_needs_none_all_three_are_found(rule: str) -> None:
    assert chosen(planted("helpful", HELPS, HELPS), rule) is not None
    assert chosen(planted("harmful", HARMS, HARMS), rule) is None
    assert chosen(planted("helpful", HELPS, dict.fromkeys(STRENGTHS, -0.05)), rule) is None


@pytest.mark.parametrize("strengths", [(1.0,), (1.0, 4.0)])
def test_a_target_with_valid_confident_right_answers_is_left_alone(strengths: tuple[float, ...]) -> None:
    """A capable model: each unsteered answer is admissible, and the one that the model itself prefers."""
    model, task = tiny_model("llama"), load_task("review-sentiment")
    vector = difference_vectors(model, task, Extraction(4, 2, seed=0)).mean()
    prompts = zero_shot_prompts(task, task.validation[:8])
    ready = tokenise(model, prompts)
    written = score(model, ready).first_token[0].tolist()
    capable = [
        TokenPrompt(one.tokens, ((token,), ((token + 1) % 100 + 5,)), name=one.name)
        for one, token in zip(ready, written, strict=True)
    ]
    table = cell_outcomes(model, capable, {"v": vector}, layers=(1, 2), strengths=strengths)  # type: ignore[arg-type]
    assert (table["valid_before"] == 1).all()
    assert (table["believed"] <= 1e-9).all()
    elsewhere = planted("source", HELPS, HELPS).query("task != 'target'")
    elsewhere = pd.concat([elsewhere.assign(layer=layer) for layer in (1, 2)]).drop_duplicates(["task", *CELL])
    both = pd.concat([elsewhere, table.assign(task="target")], ignore_index=True)
    for rule in ("both", "target", "target-lower", "target-guarded"):
        found = choose_from(both, source="source", target="target", n_layers=4, rule=rule)
        assert not found.steers, found.reason


def test_both_stands_aside_where_other_tasks_lose() -> None:
    assert chosen(planted("source", HARMS, HELPS), "both") is None
    assert chosen(planted("source", HARMS, HELPS), "target-lower") == (5, 1.0)


def test_without_other_tasks_both_looks_at_the_target_alone() -> None:
    frame = planted("source", HELPS, HELPS)
    alone = frame[frame["task"].isin(["source", "target"])]
    assert chosen(alone, "both") == (5, 1.0)
    with pytest.raises(ValueError, match="there is none; give a further source"):
        chosen(alone, "mean")


@pytest.mark.parametrize("rule", list(RULES))
def test_no_rule_reads_a_label_of_the_target(rule: str) -> None:
    frame = planted("source", HELPS, HELPS)
    other = frame.copy()
    rows = other["task"] == "target"
    other.loc[rows, list(LABELLED)] = np.random.default_rng(0).normal(size=(int(rows.sum()), len(LABELLED)))
    assert chosen(frame, rule) == chosen(other, rule)


def test_side_effects_bound_guarded_rules() -> None:
    frame = planted("source", HELPS, HELPS)
    costly = frame.assign(kl=np.where(frame["strength"] == 1.0, 2.0, 0.1))
    assert chosen(costly, "mean") == (5, 1.0)
    assert chosen(costly, "mean-guarded") == (5, 0.1)


def test_a_candidate_without_outcomes_is_never_chosen() -> None:
    frame = planted("source", HELPS, HELPS)
    frame.loc[frame["strength"] == 1.0, ["gain", "believed", "lost"]] = np.nan
    assert chosen(frame, "mean") == (5, 0.1)


def test_an_unknown_rule_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="rule='best' is unknown; choose from own, mean"):
        chosen(planted("source", HELPS, HELPS), "best")


def test_outcomes_are_those_of_a_sweep_and_need_no_labels_for_what_is_believed() -> None:
    model, task = tiny_model("llama"), load_task("review-sentiment")
    vector = difference_vectors(model, task, Extraction(4, 2, seed=0)).mean()
    prompts = zero_shot_prompts(task, task.validation[:6])
    options = {"layers": (1, 2), "strengths": (1.0, 3.0)}
    told = cell_outcomes(model, prompts, {"v": vector}, **options)  # type: ignore[arg-type]
    blind = cell_outcomes(model, unlabelled(prompts), {"v": vector}, **options)  # type: ignore[arg-type]
    assert blind[list(LABELLED)].isna().all().all()
    same = ["believed", "believed_se", "valid", "valid_before", "moved", "entropy"]
    pd.testing.assert_frame_equal(told[same], blind[same])
    swapped = [replace(prompt, gold=next(one for one in prompt.choices if one != prompt.gold)) for prompt in prompts]
    other = cell_outcomes(model, swapped, {"v": vector}, **options)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(told[same], other[same])
    with pytest.raises(ValueError, match="no gold answers"):
        choose_setting(model, unlabelled(prompts), vector, layers=(1, 2), strengths=(1.0,))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("labelled", [True, False])
def test_a_candidate_whose_answers_do_not_end_is_never_chosen(labelled: bool) -> None:
    """Planted: a vector that makes every next token one word, on queries whose answer is that word."""
    model, task = tiny_model("llama"), load_task("yes-no-facts")
    known = [text[1:] for text in model.tokenizer.get_vocab() if text.startswith("Ġ")]  # type: ignore[union-attr]
    word = max((text for text in known if text.isalpha()), key=lambda text: (len(text), text))
    queries = zero_shot_prompts(task, task.validation[:8])
    asked = [replace(prompt, gold=word, choices=(word, "zebra"), reading=None) for prompt in queries]
    (token,) = tokenise(model, asked[:1])[0].answers[0]
    vector = difference_vectors(model, task, Extraction(4, 2, seed=0)).mean()
    towards = model.W_U.detach()[:, token].float().cpu()
    vector = replace(
        vector, directions=torch.zeros_like(vector.directions).index_fill(0, torch.tensor([3]), 1.0) * towards
    )
    options = {"layers": (3,), "strengths": (100.0,)}
    swept = cell_outcomes(model, asked, {"v": vector}, **options).iloc[0]  # type: ignore[arg-type]
    written = evaluate(model, asked, [vector.intervention(3, strength=100.0)])
    steered = written[written["variant"] == 1]
    assert set(steered["answer"].str.split().str[0]) == {word}
    assert not steered["exact_match"].any()
    # By first tokens it is as good as can be.
    name = "gain" if labelled else "believed"
    assert swept[name] - 1.645 * swept[f"{name}_se"] > 0
    found = choose_setting(model, asked, vector, labelled=labelled, **options)  # type: ignore[arg-type]
    assert not found.steers


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_written_takes_the_place_of_what_was_swept() -> None:
    model, task = tiny_model("llama"), load_task("review-sentiment")
    vector = difference_vectors(model, task, Extraction(4, 2, seed=0)).mean()
    prompts = zero_shot_prompts(task, task.validation[:5])
    table = cell_outcomes(model, prompts, {"v": vector}, layers=(1, 2), strengths=(1.0,)).assign(task="t")
    # A rule that takes every row in turn until one was written.
    asked: list[float] = []

    def choose(rows: pd.DataFrame, name: str) -> Choice:
        asked.append(float(rows["gain"].iloc[0]))
        return Choice(Setting(1, 1.0), "mean", 1.0, "always")

    found, changed = settled(model, prompts, {"v": vector}, table.assign(gain=0.7), choose, task="t")
    written = evaluate(model, prompts, [vector.intervention(1, strength=1.0)])
    means = written.groupby("variant")[["exact_match", "valid"]].mean()
    assert found["v"].steers
    assert asked == [0.7, pytest.approx(means["exact_match"][1] - means["exact_match"][0])]
    row = changed[changed["layer"] == 1].iloc[0]
    assert row["valid"] == pytest.approx(means["valid"][1])
    assert row["valid_before"] == pytest.approx(means["valid"][0])
    assert changed[changed["layer"] == 2]["gain"].iloc[0] == 0.7
    layers = iter((1, 2, 1, 2, 1, 2))

    def restless(rows: pd.DataFrame, name: str) -> Choice:
        at = next(layers)
        return Choice(Setting(at, float(len(asked)) if at < 0 else 1.0), "mean", 1.0, "another")

    assert settled(model, prompts, {"v": vector}, table, restless, task="t")[0]["v"].setting == Setting(1, 1.0)
