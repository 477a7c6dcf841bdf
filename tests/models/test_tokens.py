"""The tokenizer on a model is the model's own: BOS exactly where it puts one, padding always there."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from cast_lens.engine import tokenise
from cast_lens.extraction import Extraction, difference_vectors
from cast_lens.models import load_model
from cast_lens.models.lens import HookedTransformer
from cast_lens.models.tokens import ChatTemplate, chat_arguments, end_of_turn, prepends_bos
from cast_lens.tasks import Prompt
from cast_lens.vectors import DifferenceVectors
from tests.small_tasks import word_task
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

TEXT = "Review: a warm and funny film."


@pytest.mark.parametrize("bos", [False, True])
def test_bos_is_what_the_tokenizer_itself_does(bos: bool) -> None:
    model = tiny_model("llama", bos=bos)
    own = tiny_tokenizer(bos=bos)(TEXT)["input_ids"]
    assert model.cfg.default_prepend_bos is bos
    assert model.cfg.tokenizer_prepends_bos is bos
    assert model.to_tokens(TEXT).tolist() == [own]
    assert own.count(0) == int(bos)  # <s> is token 0
    plain = tiny_tokenizer(bos=False)(TEXT)["input_ids"]
    assert model.to_tokens(TEXT, prepend_bos=True).tolist() == [[0, *plain]]
    assert model.to_tokens(TEXT, prepend_bos=False).tolist() == [plain]


def test_a_tokenizer_without_bos_token_prepends_none() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    assert not prepends_bos(tokenizer)
    model = load_model(tiny_hf_model("neox"), tokenizer=tokenizer)
    assert model.to_tokens(TEXT).tolist() == [tokenizer(TEXT)["input_ids"]]


def test_the_callers_tokenizer_is_not_changed_and_padding_is_there() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    model = load_model(tiny_hf_model("gpt2"), tokenizer=tokenizer)
    assert tokenizer.pad_token is None
    assert model.tokenizer is not None
    assert model.tokenizer.pad_token == "</s>"
    assert model.to_tokens(["one", TEXT]).shape[0] == 2


def test_a_padding_token_beyond_the_embedding_is_replaced() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.add_tokens([f"<more{index}>" for index in range(40)])
    tokenizer.pad_token = "<more39>"
    model = load_model(tiny_hf_model("gpt2"), tokenizer=tokenizer)
    assert model.tokenizer is not None
    assert model.tokenizer.pad_token == "</s>"


def test_a_tokenizer_that_ends_texts_is_refused() -> None:
    tokenizer: PreTrainedTokenizerFast = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    with pytest.raises(ValueError, match=r"ends a text with \['</s>'\].*add_eos_token=False"):
        load_model(tiny_hf_model("gpt2"), tokenizer=tokenizer)


def test_the_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="model has 100 embeddings; it is not the tokenizer of this model"):
        load_model(tiny_hf_model("neox", vocab_size=100), tokenizer=tiny_tokenizer())


def test_a_model_without_tokenizer_loads() -> None:
    model = load_model(tiny_hf_model("neox"))
    assert model.tokenizer is None


@pytest.mark.parametrize("prefix", ["<s> <en> $A", "<en> $A", "<en> <s> $A"])
def test_whatever_the_tokenizer_puts_in_front_stays(prefix: str) -> None:
    """BOS and a language, a language alone (as BERT's [CLS]), a language before BOS."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<en>"]})
    known = [(token, int(tokenizer.convert_tokens_to_ids(token))) for token in ("<s>", "<en>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=prefix, special_tokens=[pair for pair in known if pair[0] in prefix]
    )
    model = load_model(tiny_hf_model("llama", vocab_size=330), tokenizer=tokenizer)
    assert list(tokenise(model, [TEXT])[0].tokens) == model.to_tokens(TEXT)[0].tolist() == tokenizer(TEXT)["input_ids"]
    model.cfg.default_prepend_bos = not model.cfg.default_prepend_bos
    assert list(tokenise(model, [TEXT])[0].tokens) == model.to_tokens(TEXT)[0].tolist()


QUERY = Prompt((("Q: a\nA:", "hot"), ("Q: b\nA:", "no")), "Q: c\nA:", "hot", ("hot", "no"), "t", "1")
_TURNS = "{% for m in messages %}{% if m['role'] == 'user' %}USER{% else %}ASSISTANT{% endif %}{% endfor %}OPEN"


def _template(user: str, assistant: str, opened: str = "") -> str:
    found = _TURNS.replace("USER", user).replace("ASSISTANT", assistant)
    return found.replace("OPEN", "{% if add_generation_prompt %}" + opened + "{% endif %}")


LLAMA2 = _template("{{ bos_token }}[INST] {{ m['content'] }} [/INST]", " {{ m['content'] }} {{ eos_token }}")
CHATML = _template("<u>\n{{ m['content'] }}<pad>\n", "<a>\n{{ m['content'] }}<pad>\n", "<a>\n")
LINES = _template("User: {{ m['content'] }}\n", "\nBot:\n {{ m['content'] | trim }}{{ eos_token }}\n")
CHANNEL = _template("<u>{{ m['content'] }}<pad>", "<a><c>final<m>{{ m['content'] }}{{ eos_token }}", "<a>")
# An earlier turn is shown without its reasoning, which the generation prompt opens.
THINKING = _template(
    "<u>{{ m['content'] }}<pad>",
    "<a>\n{% if loop.last %}<think></think>{% endif %}{{ m['content'] }}<pad>",
    "<a>\n{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
)


def _chatty(template: str, **options: Any) -> HookedTransformer:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return load_model(tiny_hf_model("llama"), tokenizer=tokenizer, **options)


@pytest.mark.parametrize(
    ("template", "prompt_ends", "answer", "end"),
    [
        (LLAMA2, "[/INST]", " hot", "</s>"),
        (CHATML, "<a>\n", "hot", "<pad>"),
        (LINES, "User: Q: c\nA:\nBot:", "\n hot", "</s>"),
        (CHANNEL, "<a><c>final<m>", "hot", "</s>"),
        (THINKING, "<a>\n", "hot", "<pad>"),
    ],
)
def test_an_answer_follows_as_the_template_writes_it(template: str, prompt_ends: str, answer: str, end: str) -> None:
    """The scored answer is what stands behind the demonstrations' questions, token by token."""
    model = _chatty(template)
    assert model.tokenizer is not None
    found = tokenise(model, [QUERY], chat=True)[0]
    assert model.tokenizer.decode(list(found.tokens)).endswith(prompt_ends)
    assert model.tokenizer.decode(list(found.answers[0])) == answer
    shown = [*(message for turn in QUERY.demonstrations for message in turn), QUERY.query, "hot", "then?"]
    roles = ("user", "assistant") * 4
    whole = model.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in zip(roles, shown, strict=False)], tokenize=False
    )
    written = model.tokenizer.encode(whole, add_special_tokens=False)
    assert list(found.tokens + found.answers[0]) == written[: len(found.tokens + found.answers[0])]
    assert end_of_turn(model.tokenizer) == model.tokenizer.convert_tokens_to_ids(end)


def test_template_arguments_are_passed_and_kept_with_the_vector(tmp_path: Any) -> None:
    plain, brief = _chatty(THINKING), _chatty(THINKING, chat_arguments={"enable_thinking": False})
    endings = [
        model.tokenizer.decode(list(tokenise(model, [QUERY], chat=True)[0].tokens))[-20:]
        for model in (plain, brief)
        if model.tokenizer is not None
    ]
    assert not endings[0].endswith("<think></think>")
    assert endings[1].endswith("<think></think>")
    task = word_task()
    vectors = difference_vectors(brief, task, Extraction(samples=2, shots=1, chat=True))
    assert vectors.provenance.chat_arguments == {"enable_thinking": False}
    assert DifferenceVectors.load(vectors.save(tmp_path / "v.safetensors")).provenance == vectors.provenance
    assert difference_vectors(brief, task, Extraction(samples=2, shots=1)).provenance.chat_arguments == {}


def test_arguments_that_no_template_reads_are_refused() -> None:
    with pytest.raises(ValueError, match="'enable_thinkng', which the chat template of this model does not read"):
        _chatty(THINKING, chat_arguments={"enable_thinkng": False})
    with pytest.raises(ValueError, match="'messages', which"):
        _chatty(THINKING, chat_arguments={"messages": []})
    with pytest.raises(ValueError, match=r"chat_arguments\['enable_thinking'\]=.* must be a string, number"):
        _chatty(THINKING, chat_arguments={"enable_thinking": object()})
    with pytest.raises(ValueError, match="no chat template"):
        load_model(tiny_model("llama"), chat_arguments={"enable_thinking": False})


def test_a_template_that_reads_the_clock_is_told_one_date(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = (
        "  {%- set format = '%d %b' %}{% if strftime_now is defined %}Today: {{ strftime_now(format) }} "
        '{{ strftime_now("%Y") | int + 1 }}\n{% endif %}' + CHATML
    )
    model = _chatty(clock)
    text = ChatTemplate.of(model.tokenizer).prompt((), "q")  # type: ignore[arg-type]
    assert text == "Today: 26 Jul 2025\n<u>\nq<pad>\n<a>\n"
    assert chat_arguments(model) == {"today": "2024-07-26"}
    other = _chatty(clock, chat_arguments={"today": "2026-01-31"})
    assert "Today: 31 Jan 2027" in ChatTemplate.of(other.tokenizer).prompt((), "q")  # type: ignore[arg-type]
    assert chat_arguments(other) == {"today": "2026-01-31"}
    with pytest.raises(ValueError, match="today='soon' must be a date"):
        _chatty(clock, chat_arguments={"today": "soon"})
    with pytest.raises(ValueError, match="'today', which the chat template"):
        _chatty(CHATML, chat_arguments={"today": str(datetime.date(2024, 1, 1))})


@pytest.mark.parametrize("chat", [False, True])
def test_a_control_token_that_data_spells_is_text(chat: bool) -> None:
    model = _chatty(LLAMA2)
    tokenizer = model.tokenizer
    assert tokenizer is not None
    spelled = Prompt((("Q: </s> a\nA:", "<s>"),), "Q: <s>b</s>\nA:", "</s>", ("</s>", "no"), "t", "1")
    harmless = Prompt((("Q: a\nA:", "hot"),), "Q: b\nA:", "hot", ("hot", "no"), "t", "1")
    found, other = tokenise(model, [spelled, harmless], chat=chat)
    for control in (0, 1):
        assert found.tokens.count(control) == other.tokens.count(control)
        assert control not in found.answers[0]
    assert tokenizer.decode(list(found.answers[0])) == " </s>"
    if not chat:
        assert tokenizer.decode(list(found.tokens)) == spelled.text
    else:
        assert tokenizer.decode(list(found.tokens)).count("</s>") == 3
        assert "Q: <s>b</s>\nA: [/INST]" in tokenizer.decode(list(found.tokens))


def test_typed_control_tokens_are_text_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="prompt 0 spells the control token '</s>', which is read as text"):
        found = tokenise(tiny_model("llama"), ["a </s> b"])[0]
    assert 1 not in found.tokens
