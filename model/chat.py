"""Turn a conversation into the text a model was trained on, with the chat template from its own file.

A template is a program from an untrusted file, so it runs in Jinja's immutable sandbox, and that inside a process of
its own with a limit on memory, processor time and output (`chat_process`): the sandbox denies Python's internals, but a
loop or a doubled string can only be stopped from outside. A render costs about 0.15 s for it.

A file without a template but with the two tokens around a turn that ChatML or Gemma has gets that template, and `note`
says so.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import ModelError, quoted
from model.gguf_metadata import Metadata

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% set start = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set start.system = start.system + message['content'].strip() + '\n\n' %}"
    "{% else %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ start.system + message['content'].strip() + '<end_of_turn>\n' }}{% set start.system = '' %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma 1 to 3: no turn of the system, so its text opens the user's (https://ai.google.dev/gemma/docs/core/prompt-structure)."""

KNOWN = (
    ("ChatML", ("<|im_start|>", "<|im_end|>"), CHATML),
    ("Gemma's", ("<start_of_turn>", "<end_of_turn>"), GEMMA),
)
"""Whose template, the tokens by which a file without one shows that it may be used, the template."""

MAX_TEMPLATE = 1 << 20  # characters; the longest published templates have about 20 thousand
MAX_SECONDS = 10.0
GIVEN = ("messages", "add_generation_prompt", "bos_token", "eos_token")
"""Variables of a template that are always set here."""
WORKER = Path(__file__).with_name("chat_process.py")


@dataclass(frozen=True)
class ChatTemplate:
    """A template with the tokens it may mention. `note` is a sentence for the user when it is not the file's own."""

    source: str = field(repr=False)
    bos_token: str = ""
    eos_token: str = ""
    note: str | None = None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "ChatTemplate":
        """Raises ModelError when the file has no template nor the tokens of a known one, or it is not text."""
        keys = Metadata(metadata, "tokenizer.")
        vocabulary = keys.texts("ggml.tokens") or []
        source, note = keys.text("chat_template"), None
        if source is None:
            present = set(vocabulary)
            name, source = next(((name, text) for name, turn, text in KNOWN if present.issuperset(turn)), ("", None))
            if source is None:
                raise ModelError(
                    "the model file has no chat template, so it is no chat model; use generate without --chat"
                )
            note = f"the model file has no chat template; using {name}, whose tokens it has"
        if len(source) > MAX_TEMPLATE:
            raise ModelError(f"the chat template is not a text of at most {MAX_TEMPLATE} characters; use another file")
        bos, eos = (_token(keys, vocabulary, key) for key in ("ggml.bos_token_id", "ggml.eos_token_id"))
        return cls(source, bos, eos, note)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, each {"role": str, "content": str}; tokenize it with parse_special=True.

        `variables`: what else the template reads, e.g. {"enable_thinking": False}; `tools` and `documents` are None
        unless they are among them.
        Raises ModelError for malformed messages, or a template that fails, refuses the messages or exceeds its limits.
        """
        (made,) = self.render_each([messages], add_generation_prompt, variables)
        if isinstance(made, ModelError):
            raise made
        return made

    def render_each(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[str | ModelError]:
        """As `render` for each of some conversations, in one process as far as its limits let it: what `render` would
        raise stands in a prompt's place."""
        values = {"tools": None, "documents": None} | dict(variables or {})
        values |= {"bos_token": self.bos_token, "eos_token": self.eos_token}
        values["add_generation_prompt"] = bool(add_generation_prompt)
        sound = [_are_messages(messages) for messages in conversations]
        each = [
            values | {"messages": [dict(m) for m in messages]}
            for messages, fit in zip(conversations, sound, strict=True)
            if fit
        ]
        answers = iter(_answers(self.source, each))
        wrong = 'every message must be {"role": text, "content": text}; fix the conversation'
        return [next(answers) if fit else ModelError(wrong) for fit in sound]


def _are_messages(messages: Sequence[Any]) -> bool:
    return all(isinstance(m, Mapping) and all(type(m.get(k)) is str for k in ("role", "content")) for m in messages)


def _answers(source: str, each: Sequence[Mapping[str, Any]]) -> list[str | ModelError]:
    if not each:
        return []
    try:
        return list(_run(source, each))
    except ModelError as error:
        # One that fails or exceeds a limit, which is for all of a process, must not cost the others their prompts.
        return [error] if len(each) == 1 else [answer for one in each for answer in _answers(source, [one])]


def _run(source: str, each: Sequence[Mapping[str, Any]]) -> list[str]:
    """Raises ModelError if the process or one of the conversations fails."""
    try:
        request = json.dumps({"template": source, "values": each})
    except (TypeError, RecursionError) as error:
        raise ModelError(f"the conversation holds something that is not plain data ({quoted(error)})") from None
    command = [sys.executable, "-I", str(WORKER)]
    try:
        done = subprocess.run(command, input=request.encode(), capture_output=True, timeout=MAX_SECONDS, env={})
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"the chat template did not finish in {MAX_SECONDS:.0f} s; the model file is not to be trusted"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot start a process for the chat template ({quoted(error)})") from None
    try:
        answers = json.loads(done.stdout)
    except ValueError:
        # Killed by its limits (processor time, memory) before it could answer.
        raise ModelError(
            "the chat template exceeded its limits of time or memory; the model file is not to be trusted"
        ) from None
    for answer in answers:
        if "error" in answer:
            raise ModelError(f"the chat template failed: {quoted(answer['error'], 300)[1:-1]}")
    return [answer["text"] for answer in answers]


def _token(keys: Metadata, vocabulary: list[str], key: str) -> str:
    index = keys.token(key, len(vocabulary))
    return "" if index is None else vocabulary[index]
