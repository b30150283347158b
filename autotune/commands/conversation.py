"""A conversation that always fits the context: its messages, their tokens, and which turns had to go.

Knows the chat template and the tokenizer through `Model`; knows nothing of terminals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autotune import UserError

if TYPE_CHECKING:
    from model.engine import Model

Message = dict[str, str]


def chat_tokens(model: "Model", messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> list[int]:
    """The prompt for `messages`, ready for an answer; variables: what the template reads besides.

    Raises ModelError when the template refuses them.
    """
    return encode_rendered(model, model.chat.render(messages, variables=variables))


def encode_rendered(model: "Model", rendered: str) -> list[int]:
    """Tokens of what the chat template made."""
    # Some templates write the BOS token themselves; the tokenizer must not put a second one before it.
    has_bos = bool(model.chat.bos_token) and rendered.startswith(model.chat.bos_token)
    return model.tokenizer.encode(rendered, add_bos=False if has_bos else None, parse_special=True)


@dataclass
class Conversation:
    """Messages with an optional system message ahead; `reserve` tokens of the context are kept for an answer;
    `variables`: what the template reads besides."""

    model: "Model"
    system: str | None
    reserve: int
    variables: Mapping[str, Any] = field(default_factory=dict)
    turns: list[Message] = field(default_factory=list)

    def ask(self, text: str) -> tuple[list[int], int]:
        """Add a question; return the prompt's tokens and how many old turns were dropped to make room for the answer.

        Raises UserError when the question does not fit even alone; it is forgotten then, and so it is after any error.
        """
        before = list(self.turns)
        self.turns.append({"role": "user", "content": text})
        try:
            return self._fitted()
        except BaseException:
            self.turns = before
            raise

    def answered(self, text: str) -> None:
        """Keep the answer; a question that got none is forgotten, since templates want the roles to alternate."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        else:
            self.turns.pop()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.turns.clear()

    def _fitted(self) -> tuple[list[int], int]:
        context, dropped = self.model.context, 0
        while True:
            tokens = chat_tokens(self.model, self._messages(), self.variables)
            alone = len(self.turns) == 1
            if len(tokens) + self.reserve <= context or (alone and len(tokens) < context):
                return tokens, dropped
            if alone:
                raise UserError(
                    f"the message takes {len(tokens)} tokens and the context holds {context}; "
                    "shorten it or raise --context"
                )
            del self.turns[:2]  # a question and its answer
            dropped += 1

    def _messages(self) -> list[Message]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return system + self.turns
