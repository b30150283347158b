"""History, room and the BOS token of a conversation, with a model that counts characters."""

from dataclasses import dataclass, field

import pytest

from autotune import UserError
from autotune.commands.conversation import Conversation, chat_tokens
from model.errors import ModelError


class FakeChat:
    bos_token = "^"

    def render(self, messages, variables=None) -> str:
        if any("bad" in m["content"] for m in messages):
            raise ModelError("the template refuses")
        return "^" + "".join((variables or {}).values()) + "".join(m["role"][0] + m["content"] for m in messages)


class FakeTokenizer:
    def encode(self, text, add_bos=None, parse_special=False) -> list[str]:
        assert parse_special
        return [*(["^"] if add_bos is None else []), *text]


@dataclass
class FakeModel:
    chat: FakeChat = field(default_factory=FakeChat)
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    context: int = 20


def talk(system: str | None = "S") -> Conversation:
    return Conversation(FakeModel(), system, reserve=5)  # type: ignore[arg-type]


def test_bos_is_never_doubled() -> None:
    assert "".join(chat_tokens(FakeModel(), [{"role": "user", "content": "x"}])) == "^ux"  # type: ignore[arg-type]


def test_variables_reach_the_template() -> None:
    c = Conversation(FakeModel(), None, reserve=5, variables={"mood": "!"})  # type: ignore[arg-type]
    assert "".join(c.ask("x")[0]) == "^!ux"


def test_oldest_turns_go_and_the_system_message_stays() -> None:
    c = talk()
    assert "".join(c.ask("one")[0]) == "^sSuone"
    c.answered("1234")
    tokens, dropped = c.ask("two")
    assert ("".join(tokens), dropped) == ("^sSutwo", 1)
    c.answered("")
    assert c.turns == []


def test_a_question_alone_may_use_the_room_of_the_answer() -> None:
    tokens, _ = talk().ask("x" * 14)
    assert len(tokens) == 18


def test_what_fails_is_forgotten() -> None:
    c = talk(None)
    c.ask("a")
    c.answered("b")
    kept = list(c.turns)
    with pytest.raises(UserError, match="takes 32 tokens and the context holds 20"):
        c.ask("x" * 30)
    assert c.turns == kept
    with pytest.raises(ModelError):
        c.ask("bad")
    assert c.turns == kept
    c.reset()
    assert c.turns == []
