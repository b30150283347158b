"""Reads a file of prompts, one JSON object a line, and refuses by its number a line that is not to be understood.

A line has "prompt", a text, or "messages", a conversation for the model's chat template; besides, if it likes: "id",
"system", "tokens" or "max_tokens", "temperature", "top_k", "top_p", "seed", and "metadata", anything that is copied to
the answer. A field of any other name is refused: a misspelt setting would pass unseen.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from autotune import UserError

MOST_BYTES = 8 << 20
"""Of a line: a full context of 131,072 tokens has about 0.5 MB."""
SAMPLING = ("temperature", "top_k", "top_p", "seed")
TOKENS = ("tokens", "max_tokens")
FIELDS = ("id", "prompt", "messages", "system", *TOKENS, *SAMPLING, "metadata")
ENDINGS = b" \t\r\n"


@dataclass(frozen=True)
class PromptLine:
    """A line of the file. index: among the prompts, from 0; line: its number, from 1; messages: the conversation, with
    the system message ahead, None where `prompt` is to be gone on with; tokens: None where the line does not say;
    sampling: fields of `model.sampling.Sampler`; digest: of all that the line says."""

    index: int
    line: int
    id: str | int | None
    prompt: str | None
    messages: tuple[Mapping[str, str], ...] | None
    tokens: int | None
    sampling: Mapping[str, Any]
    metadata: Any
    digest: str

    @property
    def name(self) -> str:
        return f"line {self.line}" if self.id is None else f"line {self.line} (id {json.dumps(self.id)[:60]})"

    @property
    def key(self) -> tuple[str, str | int]:
        """By what an answer is recognized as this prompt's."""
        return ("index", self.index) if self.id is None else ("id", self.id)


def read(file: IO[bytes], as_chat: bool) -> list[PromptLine]:
    """All prompts of a file; blank lines are skipped. as_chat: a "prompt" is a question for the chat template too.

    Raises UserError for the first line that is wrong, and for a file without any.
    """
    found: list[PromptLine] = []
    lines: dict[Any, int] = {}
    number = 0
    while raw := file.readline(MOST_BYTES + 1):
        number += 1
        if len(raw) > MOST_BYTES:
            _refuse(number, f"it is longer than {MOST_BYTES >> 20} MiB; shorten it")
        raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not raw.strip(ENDINGS):
            continue
        made = _line(raw, number, len(found), as_chat)
        if made.key in lines:
            _refuse(number, f"line {lines[made.key]} has the same id; give each prompt its own")
        lines[made.key] = number
        found.append(made)
    if not found:
        raise UserError('there is no prompt in the input; give one JSON object a line, such as {"prompt": "Hello"}')
    return found


def _refuse(number: int, why: str) -> NoReturn:
    raise UserError(f"line {number} of the input: {why}")


def _line(raw: bytes, number: int, index: int, as_chat: bool) -> PromptLine:
    from model.errors import ModelError
    from model.sampling import Sampler

    fields = _object(raw, number)
    for name in fields.keys() - set(FIELDS):
        known = ", ".join(FIELDS)
        _refuse(number, f"no field is called {json.dumps(name)[:60]}; there are {known}")
    given = {name: value for name, value in fields.items() if value is not None}
    identity = given.get("id")
    if identity is not None and type(identity) not in (str, int):
        _refuse(number, '"id" is no text and no whole number')
    names = [name for name in TOKENS if name in given]
    if len(names) > 1:
        _refuse(number, 'it has "tokens" and "max_tokens", which mean the same; leave one out')
    tokens = given[names[0]] if names else None
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        _refuse(number, f'"{names[0]}" is no whole number of 1 or more')
    sampling = {name: given[name] for name in SAMPLING if name in given}
    for name, value in sampling.items():
        if type(value) is not int and not (type(value) is float and name in ("temperature", "top_p")):
            _refuse(number, f'"{name}" is no {"number" if name in ("temperature", "top_p") else "whole number"}')
    try:
        Sampler(**sampling)
    except ModelError as error:
        _refuse(number, str(error))
    prompt, messages = _text(given, number, as_chat)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return PromptLine(index, number, identity, prompt, messages, tokens, sampling, given.get("metadata"), digest)


def _text(
    given: Mapping[str, Any], number: int, as_chat: bool
) -> tuple[str | None, tuple[Mapping[str, str], ...] | None]:
    """A text to go on with, or a conversation; the other is None."""
    if ("prompt" in given) == ("messages" in given):
        _refuse(number, 'give it a "prompt" or "messages"' + (", not both" if "prompt" in given else ""))
    prompt, messages, system = given.get("prompt"), given.get("messages"), given.get("system")
    if system is not None and type(system) is not str:
        _refuse(number, '"system" is no text')
    if prompt is not None:
        if type(prompt) is not str:
            _refuse(number, '"prompt" is no text')
        if not prompt:
            _refuse(number, 'its "prompt" is empty; give some text')
        if not as_chat:
            if system is not None:
                _refuse(number, '"system" is for "messages", or for a prompt with --chat')
            return prompt, None
        messages = [{"role": "user", "content": prompt}]
    if type(messages) is not list or not messages:
        _refuse(number, '"messages" is no list of messages')
    for message in messages:
        if type(message) is not dict or not all(type(message.get(name)) is str for name in ("role", "content")):
            _refuse(number, 'every message must be {"role": text, "content": text}')
    if system is not None:
        if messages[0]["role"] == "system":
            _refuse(number, 'it has "system" and a system message; leave one out')
        messages = [{"role": "system", "content": system}, *messages]
    return None, tuple(messages)


def _object(raw: bytes, number: int) -> dict[str, Any]:
    """The JSON object of a line. Raises UserError for anything else, and for what no JSON could be written of again."""
    try:
        found = json.loads(
            raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once
        )
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        _refuse(number, "it is not UTF-8; convert it first, for example with iconv")
    except UnicodeEncodeError:
        _refuse(number, "it holds half a character (a lone surrogate); write it in UTF-8")
    except json.JSONDecodeError as error:
        _refuse(number, f"it is no JSON ({error.msg}, column {error.colno})")
    except ValueError as error:
        _refuse(number, f"it is no JSON that can be used ({error})")
    except RecursionError:
        _refuse(number, "it nests too deeply")
    if type(found) is not dict:
        _refuse(number, 'it is no JSON object, such as {"prompt": "Hello"}')
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return made
