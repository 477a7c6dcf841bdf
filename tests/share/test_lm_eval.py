"""lm-evaluation-harness runs steered models: unsteered numbers are its own, steered ones are those of ``score``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cast_lens as cl
from cast_lens.engine import TokenPrompt
from cast_lens.interventions import POSITIONS, Intervention
from cast_lens.share import export
from tests.models.files import write_folder
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("default")

PAIRS = [
    ("Review: a warm and funny film. Sentiment:", " positive"),
    ("Review: a warm and funny film. Sentiment:", " negative"),
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Paris is"),
    ("", "The opposite of hot"),
    ("Question: ", "two three"),
]


def _requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def _steering(position: Any = "last", strength: float = 2.0) -> Intervention:
    return Intervention(torch.randn(64, generator=torch.Generator().manual_seed(1)), 2, strength, position=position)


@pytest.fixture(scope="module")
def harness() -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=tiny_hf_model("llama"), tokenizer=tiny_tokenizer(), batch_size=2, device="cpu")


def _ours(path: Path | None = None, **how: Any) -> Any:
    from cast_lens.share.lm_eval import CastLensLM

    return CastLensLM(tiny_model("llama"), vector=str(path or ""), **how)


def test_unsteered_it_is_the_harness_own_model(harness: Any) -> None:
    theirs, ours = harness.loglikelihood(_requests(*PAIRS)), _ours().loglikelihood(_requests(*PAIRS))
    for (value, greedy), (own, own_greedy) in zip(theirs, ours, strict=True):
        assert own == pytest.approx(value, abs=1e-3)
        assert own_greedy == greedy
    texts = [("The capital of France is Paris. " * 3,), ("one two three",)]
    theirs, ours = harness.loglikelihood_rolling(_requests(*texts)), _ours().loglikelihood_rolling(_requests(*texts))
    for value, own in zip(theirs, ours, strict=True):
        assert own == pytest.approx(value, abs=1e-2)


def test_it_writes_what_the_harness_own_model_writes(harness: Any) -> None:
    asked = [(text, {"until": until, "max_gen_toks": 7}) for text, _ in PAIRS[:3] for until in (["\n"], ["e", "."])]
    assert _ours().generate_until(_requests(*asked)) == harness.generate_until(_requests(*asked))


def test_greedy_says_whether_all_of_an_answer_would_be_written() -> None:
    ours = _ours()
    [text] = ours.generate_until(_requests(("The capital of France is", {"until": [], "max_gen_toks": 4})))
    tokens = ours.tok_encode("The capital of France is")
    written = cl.engine.decoding.decode(
        ours.model, [TokenPrompt(tuple(tokens))], max_new_tokens=4, stop=lambda _: False
    )[0][0]
    assert text
    wrong = [*written[:3], (written[3] + 1) % 300]
    found = ours._loglikelihood_tokens(
        [(None, tokens, list(written)), (None, tokens, wrong), (None, tokens, [written[0]])]
    )
    assert [greedy for _, greedy in found] == [True, False, True]


@pytest.mark.parametrize("position", POSITIONS)
def test_steered_scores_are_those_of_score(position: Any, tmp_path: Path) -> None:
    path = export(_steering(position), tmp_path / "v.safetensors")
    ours = _ours(path)
    model = ours.model
    found = ours.loglikelihood(_requests(*PAIRS))
    for (context, answer), (value, _) in zip(PAIRS[:3], found, strict=False):
        tokens, own = ours._encode_pair(context, answer)
        [expected] = cl.score(model, TokenPrompt(tuple(tokens), (tuple(own),)), _steering(position)).answer_logprobs
        assert value == pytest.approx(float(expected[1, 0]), abs=1e-4)
        assert abs(value - float(expected[0, 0])) > 1e-3
    written = ours.generate_until(_requests((PAIRS[0][0], {"until": ["\n"], "max_gen_toks": 5})))
    assert written == cl.generate(model, [PAIRS[0][0]], interventions=_steering(position), max_new_tokens=5, stop="\n")


def test_their_steered_model_with_our_file_scores_as_ours(tmp_path: Path) -> None:
    from lm_eval.models.hf_steered import SteeredModel

    steering = _steering("all")
    path, file = export(steering, tmp_path / "v.safetensors"), export(steering, tmp_path / "v.pt")
    hf_model = tiny_hf_model("llama")
    theirs: Any = SteeredModel(hf_model, str(file), device="cpu", tokenizer=tiny_tokenizer(), batch_size=1)
    for (value, _), (own, _) in zip(
        theirs.loglikelihood(_requests(*PAIRS)), _ours(path).loglikelihood(_requests(*PAIRS)), strict=True
    ):
        assert own == pytest.approx(value, abs=1e-3)


def test_strength_0_is_the_unsteered_model(tmp_path: Path) -> None:
    path = export(_steering(strength=0.0), tmp_path / "v.safetensors")
    none, zero = _ours().loglikelihood(_requests(*PAIRS)), _ours(path).loglikelihood(_requests(*PAIRS))
    assert zero == none


def test_the_device_that_the_harness_asks_for_need_not_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cast_lens.share.lm_eval import CastLensLM

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_folder(tmp_path)
    assert str(CastLensLM.create_from_arg_string(f"pretrained={tmp_path}", {"device": "cuda:0"}).model.cfg.device) in (
        "cpu",
        "mps",
    )


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vector is empty"):
        _ours(layer=2)
    with pytest.raises(ValueError, match="ask for sampling"):
        _ours().generate_until(_requests(("a", {"do_sample": True, "temperature": 1.0})))
    torch.save({2: torch.ones(8)}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match="width 8"):
        _ours(tmp_path / "v.pt")


def test_the_harness_evaluates_a_task_of_a_local_folder(tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [
        '{"question": "The capital of France is", "choices": ["Paris", "Mars"], "gold": 0}',
        '{"question": "The opposite of hot is", "choices": ["yes", "cold"], "gold": 1}',
        '{"question": "Which planet is the largest?", "choices": ["Venus", "Jupiter"], "gold": 1}',
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(rows))
    (tmp_path / "tiny.yaml").write_text(
        f"""task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/test.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)

    def run(lm: Any) -> dict[str, Any]:
        found = lm_eval.simple_evaluate(lm, tasks=["tiny_choice"], task_manager=manager, bootstrap_iters=0)
        assert found is not None
        return {key: value for key, value in found["results"]["tiny_choice"].items() if "stderr" not in key}

    zero = export(_steering(strength=0.0), tmp_path / "zero.safetensors")
    assert run(_ours(zero)) == run(_ours())
