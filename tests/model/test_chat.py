"""What templates may do, what hostile ones may not, and how long they may try."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from model import chat
from model.chat import ChatTemplate
from model.errors import ModelError
from model.gguf_file import open_gguf

HELLO = [{"role": "user", "content": "Hi <b>\n"}]
SET_AND_DOUBLE = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"


def test_real_template(real_model: Path) -> None:
    template = ChatTemplate.from_metadata(open_gguf(real_model).metadata)
    assert template.note is None
    assert template.render([{"role": "system", "content": "S"}, *HELLO]) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi <b>\n<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.render(HELLO, add_generation_prompt=False).endswith("<|im_end|>\n")
    assert template.render(HELLO).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


def test_synthetic_template(tiny_model: Path) -> None:
    template = ChatTemplate.from_metadata(open_gguf(tiny_model).metadata)
    assert template.render(HELLO) == "<|im_start|>user\nHi <b>\n<|im_end|>\n<|im_start|>assistant\n"


def test_file_without_template() -> None:
    tokens = {"tokenizer.ggml.tokens": ["<|im_start|>", "<|im_end|>"], "tokenizer.ggml.eos_token_id": 1}
    template = ChatTemplate.from_metadata(tokens)
    assert template.note and "ChatML" in template.note
    assert template.render(HELLO) == "<|im_start|>user\nHi <b>\n<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ModelError, match="no chat template"):
        ChatTemplate.from_metadata({"tokenizer.ggml.tokens": ["a"]})
    with pytest.raises(ModelError, match="not a text"):
        ChatTemplate.from_metadata({"tokenizer.chat_template": ["a"]})
    with pytest.raises(ModelError, match="not a text"):
        ChatTemplate.from_metadata({"tokenizer.chat_template": "a" * (2 << 20)})


def test_gemma_s_turns_in_a_file_without_template() -> None:
    tokens = ["<bos>", "<start_of_turn>", "<end_of_turn>"]
    template = ChatTemplate.from_metadata({"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.bos_token_id": 0})
    assert template.note and "Gemma's" in template.note
    said = [{"role": "system", "content": " S\n"}, *HELLO, {"role": "assistant", "content": "Ho"}, *HELLO]
    assert template.render(said) == (
        "<bos><start_of_turn>user\nS\n\nHi <b><end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n"
        "<start_of_turn>user\nHi <b><end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),  # trim_blocks and lstrip_blocks
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hi <b>\\n"}'),
        ("{{ bos_token }}|{{ eos_token }}|{{ thinking }}", "B|E|False"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}", "2"),
    ],
)
def test_what_templates_rely_on(source: str, expected: str) -> None:
    assert ChatTemplate(source, "B", "E").render(HELLO, variables={"thinking": False}) == expected


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ self.__init__.__globals__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "failed"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ 'a' * 10**10 }}", "memory"),
        ("{{ '%9999999999d' % 1 }}", "memory"),
        (SET_AND_DOUBLE, "memory"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "limits"),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "longer than"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nests too deeply"),
        ("{{ " + "(" * 20000, "nests too deeply"),
        ("{% if %}", "Expected"),
        ("{{ raise_exception('roles must\nalternate') }}", "roles must\\nalternate"),
        ("{{ missing.attribute }}", "undefined"),
    ],
)
def test_hostile_or_broken_template_is_one_line(monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    monkeypatch.setattr(chat, "MAX_SECONDS", 200.0)  # its own limits end it, however busy the machine is
    with pytest.raises(ModelError) as caught:
        ChatTemplate(source).render(HELLO)
    assert said in str(caught.value) and str(caught.value).isprintable()


def test_the_output_s_limit_is_what_a_tokenizer_can_take() -> None:
    from model import chat_process

    most = chat_process.MAX_OUTPUT
    assert len(ChatTemplate(f"{{{{ 'a' * {most} }}}}").render(HELLO)) == most
    with pytest.raises(ModelError, match=f"longer than {most}"):
        ChatTemplate(f"{{{{ 'a' * {most + 1} }}}}").render(HELLO)
    assert most <= 1 << 21  # of which `tokenizers` makes 0.4 GB


def test_a_template_that_only_waits_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def run(*_: Any, timeout: float, **__: Any) -> None:
        waits.append(timeout)
        raise subprocess.TimeoutExpired("chat_process", timeout)

    monkeypatch.setattr(chat.subprocess, "run", run)
    with pytest.raises(ModelError, match="did not finish in 10 s"):
        ChatTemplate("x").render(HELLO)
    assert waits == [chat.MAX_SECONDS]


@pytest.mark.parametrize("source", ["{{ raise_exception.__globals__ }}", "{{ '{0.__class__}'.format(1) }}"])
def test_python_internals_are_undefined(source: str) -> None:
    assert ChatTemplate(source).render(HELLO) == ""


@pytest.mark.parametrize("messages", [[{"role": "user"}], [{"role": 1, "content": "a"}], ["hi"], [{"content": "a"}]])
def test_malformed_messages(messages: Any) -> None:
    with pytest.raises(ModelError, match="every message"):
        ChatTemplate("x").render(messages)
    with pytest.raises(ModelError, match="plain data"):
        ChatTemplate("x").render(HELLO, variables={"tools": object()})


def test_each_of_some_conversations_is_rendered_as_it_is_alone() -> None:
    """What is refused, what is no conversation and what takes too long costs the others nothing."""
    source = (
        "{% if messages[0].content == 'no' %}{{ raise_exception('refused') }}{% endif %}"
        "{% if messages[0].content == 'long' %}{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}"
        "{% endfor %}{% endif %}{{ messages[0].content }}{{ x }}"
    )
    words = ["a", "no", "b", "c"]
    talks: list[Any] = [[{"role": "user", "content": word}] for word in words]
    template = ChatTemplate(source)
    made = template.render_each([*talks, [{"role": "user"}]], variables={"x": 1})
    assert [made[0], made[2], made[3]] == ["a1", "b1", "c1"]
    assert "refused" in str(made[1]) and "every message must be" in str(made[4])
    assert template.render_each([]) == []
    slow = template.render_each([talks[0], [{"role": "user", "content": "long"}]], variables={"x": 1})
    assert slow[0] == "a1" and isinstance(slow[1], ModelError)


def test_conversations_without_an_error_take_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: (started.append(1), run(*words, **more))[1])
    talks = [[{"role": "user", "content": str(i)}] for i in range(40)]
    assert ChatTemplate("{{ messages[0].content }}").render_each(talks) == [str(i) for i in range(40)]
    assert len(started) == 1
