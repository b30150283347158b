"""Model files with a mutation or a few, anywhere in what is not weights: read, or refused in one line.

The files are tiny models of every architecture and every format, those under fixtures/models and one in shards. A
sample by default. With `-m slow` 10,000 in this process, and 300 through the command line: generating two tokens, or
answering in a chat.
"""

import itertools
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from forked import Forked

from kernel_templates.formats import FORMATS
from model import weights
from model.architectures import ARCHITECTURES
from model.chat import ChatTemplate
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import open_gguf
from model.layer_plan import plan
from model.problems import head_problem, model_problems
from model.sampling import FileSampling
from model.tokenizer import Tokenizer

MODELS = Path(__file__).resolve().parent.parent / "fixtures" / "models"
WORDS = [0, 1, 2, 7, 8, 9, 31, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
REALS = [0.0, -1.0, 1e-45, 1e-30, 0.5, 1.0, 2.0, 1e4, 1e30, 3e38, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "", "linear", "yarn", "longrope", "none", "dynamic", "gpt2", "llama", "bert", "qwen2", "tekken", "{% for %}",
    "{{ messages[0]['content'] * 9999999 }}", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}", "{{ bos_token.__class__.__mro__ }}", "{{ raise_exception('no\nway') }}", "\x1b[31m\n\u202e",
]  # fmt: skip
# Keys that decide how a model is computed, split, sampled and spoken to, many of them in few files.
OF_ARCHITECTURE = [
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_attn_factor", "rope.scale_linear",
    "rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "attention.sliding_window",
    "attention.sliding_window_pattern", "attention.scale", "attention.key_length", "attention.value_length",
    "attention.head_count_kv", "attention.head_count", "feed_forward_length", "context_length",
    "attn_logit_softcapping", "final_logit_softcapping", "attention.layer_norm_rms_epsilon", "expert_count",
    "vocab_size", "expert_used_count", "expert_feed_forward_length", "expert_gating_func", "full_attention_interval",
    "attention.recurrent_layers", "ssm.conv_kernel", "ssm.group_count", "ssm.inner_size", "ssm.state_size",
    "ssm.time_step_rank", "nextn_predict_layers", "attention.shared_kv_layers", "attention.key_length_swa",
    "embedding_length_per_layer_input",
]  # fmt: skip
OF_ALL = [
    "general.architecture", "general.name", "general.alignment", "general.sampling.temp", "general.sampling.top_k",
    "general.sampling.top_p", "general.sampling.min_p", "general.sampling.mirostat", "split.no", "split.count",
    "split.tensors.count", "tokenizer.chat_template", "tokenizer.ggml.model", "tokenizer.ggml.pre",
    "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_space_prefix", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id",
]  # fmt: skip
SECONDS = 2.0
CPU_SECONDS, BYTES = 60, 1 << 30  # of a whole command


class Mutations:
    """Copies of one file's bytes, a different one each time for one seed. head: bytes before the weights."""

    def __init__(self, path: Path, seed: int):
        self.data, self.dice = path.read_bytes(), random.Random(seed)
        file = open_gguf(path)
        (self.head,) = (shard.header for shard in file.shards if shard.path == path)
        self.architecture = file.metadata["general.architecture"]
        # The texts of keys and of tensors, behind which their types, lengths, shapes and offsets stand.
        found = {name: self.place(self.data, name) for name in (*file.metadata, *file.tensors)}
        self.places = {name: at for name, at in found.items() if at >= 0}  # others are in another shard
        self.ends = [at + 8 + len(name) for name, at in self.places.items()]
        self.numbers = {
            self.places[key] + 8 + len(key) + 16: value
            for key, value in file.metadata.items()
            if key in self.places and isinstance(value, np.ndarray) and value.dtype != bool and len(value)
        }
        """Where arrays of numbers begin."""
        self.kinds: list[Callable[[bytearray], None]] = [
            self.flip, self.word, self.field, self.length, self.swap, self.cut, self.double, self.noise, self.inside,
            self.value, self.value, self.value, self.weights, self.rename, self.array, self.key, self.key, self.key,
        ]  # fmt: skip

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        number = 0
        while True:
            out, names = bytearray(self.data), []
            for _ in range(self.dice.choice((1, 1, 1, 2, 4))):
                kind = self.dice.choice(self.kinds)
                kind(out)
                names.append(kind.__name__)
            yield f"{number}: {'+'.join(names)}", bytes(out)
            number += 1

    @staticmethod
    def place(data: bytes | bytearray, name: str) -> int:
        return data.find(struct.pack("<Q", len(name)) + name.encode())

    def at(self, out: bytearray, room: int = 8) -> int:
        return self.dice.randrange(max(1, min(self.head, len(out)) - room))

    def flip(self, out: bytearray) -> None:
        out[self.at(out, 1)] ^= 1 << self.dice.randrange(8)

    def word(self, out: bytearray) -> None:
        """Any integer in place of 1, 4 or 8 bytes."""
        self.put(out, self.at(out))

    def field(self, out: bytearray) -> None:
        """The type, count, shape or offset after a name."""
        self.put(out, self.dice.choice(self.ends) + 4 * self.dice.randrange(10))

    def value(self, out: bytearray) -> None:
        """Another number that could be meant, where a key's value or a tensor's first dimension begins."""
        at, number = self.dice.choice(self.ends) + 4, self.dice.choice((0, 1, 2, 3, 4, 8, 16, 32, 64, 96, 128, 512))
        if at + 4 <= len(out):
            out[at : at + 4] = struct.pack("<I", number)

    def weights(self, out: bytearray) -> None:
        """NaN and infinity among scales, and whatever else."""
        if len(out) > self.head + 16:
            at = self.dice.randrange(self.head, len(out) - 16)
            out[at : at + 16] = self.dice.choice((b"\xff" * 16, b"\x00\x7c" * 8, self.dice.randbytes(16)))

    def length(self, out: bytearray) -> None:
        """Of a name."""
        at = self.dice.choice([*self.places.values()])
        if at + 8 <= len(out):
            out[at : at + 8] = struct.pack("<Q", self.dice.choice(WORDS))

    def rename(self, out: bytearray) -> None:
        """What was called so is missing, and something that nobody knows is there."""
        at = self.dice.choice(self.ends) - 1
        if at < len(out):
            out[at] = ord("#")

    def inside(self, out: bytearray) -> None:
        """A byte of a key's value, of long and short ones alike."""
        at = self.dice.choice(self.ends) + self.dice.randrange(64)
        if at < len(out):
            out[at] = self.dice.randrange(256)

    def array(self, out: bytearray) -> None:
        """Some numbers of an array, or all: scores, types of tokens."""
        if not self.numbers:
            return
        start = self.dice.choice([*self.numbers])
        values = self.numbers[start].copy()
        first = self.dice.randrange(len(values))
        chosen = slice(first, self.dice.choice((first + 1, len(values)))) if self.dice.random() < 0.7 else slice(None)
        with np.errstate(all="ignore"):
            real = values.dtype.kind == "f"
            values[chosen] = self.dice.choice(REALS) if real else np.array(self.dice.choice(WORDS)).astype(values.dtype)
        out[start : start + values.nbytes] = values.tobytes()

    def key(self, out: bytearray) -> None:
        """A key of those that matter, with any value; one that is there gives way. Data stay where they were."""
        own = [f"{self.architecture}.{name}" for name in OF_ARCHITECTURE]
        name = self.dice.choice(own + OF_ALL)
        if (at := self.place(out, name)) >= 0:
            out[at + 7 + len(name)] = ord("#")
        added = _entry(name, self.dice.choice(("<Bf", "<Bd", "<BI", "<BI", "<Bi", "<B?", "text", "array")), self.dice)
        filler = _text(f"filler{self.dice.randrange(1 << 30)}") + struct.pack("<I", 8)
        size = len(added) + len(filler) + 8
        filler += _text(" " * (-size % 32))
        if len(out) >= 24:
            keys = struct.unpack_from("<Q", out, 16)[0] + 2
            out[16:24] = struct.pack("<Q", keys % 2**64)
            out[24:24] = added + filler

    def put(self, out: bytearray, at: int) -> None:
        size = self.dice.choice((1, 4, 4, 8))
        if at + size <= len(out):
            out[at : at + size] = struct.pack("<Q", self.dice.choice(WORDS))[:size]

    def swap(self, out: bytearray) -> None:
        """A stretch that stands elsewhere in the header."""
        here, there, size = self.at(out, 64), self.at(out, 64), self.dice.randrange(1, 64)
        out[here : here + size] = self.data[there : there + size]

    def cut(self, out: bytearray) -> None:
        del out[self.dice.randrange(len(out)) :]

    def double(self, out: bytearray) -> None:
        """Some bytes twice: all that follows moves."""
        at, size = self.at(out), self.dice.randrange(1, 64)
        out[at:at] = out[at : at + size]

    def noise(self, out: bytearray) -> None:
        at = self.at(out, 16)
        out[at : at + 16] = self.dice.randbytes(16)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _entry(name: str, kind: str, dice: random.Random) -> bytes:
    """A key with a random value, as in a file. kind: struct's code of the value, "text" or "array"."""
    types = {"f": 6, "d": 12, "I": 4, "i": 5, "?": 7}
    if kind == "text":
        return _text(name) + struct.pack("<I", 8) + _text(dice.choice(TEXTS))
    if kind == "array":
        items = [dice.choice((0, 1, 2, 4, 64)) for _ in range(dice.choice((0, 1, 2, 2, 7, 512)))]
        return _text(name) + struct.pack(f"<IIQ{len(items)}I", 9, 4, len(items), *items)
    code = kind[-1]
    value = dice.choice(REALS) if code in "fd" else dice.choice(WORDS) % 2**31 if code in "Ii" else dice.random() < 0.5
    return _text(name) + struct.pack(f"<I{code}", types[code], value)


@pytest.fixture(scope="module")
def originals(made: Callable[[str, str], Path], shards: list[Path]) -> list[Path]:
    """Formats and architectures, each at least once."""
    names = [f"tiny-{name}" for name in ARCHITECTURES]
    quants = [*FORMATS, "Q4_K_M", "Q5_K_M"]
    return [
        *sorted(MODELS.glob("*.gguf")),
        *(made(names[i % len(names)], quants[i % len(quants)]) for i in range(max(len(names), len(quants)))),
        *shards,
    ]


@dataclass
class Copies:
    """Mutated copies of each file in turn, under its own name and beside its other shards."""

    originals: list[Path]
    folder: Path
    seed: int

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        """What was done to which, and the copy, which is there until the next."""
        for index, original in enumerate(self.originals):
            (self.folder / str(index)).mkdir()
            for other in original.parent.glob("*-of-*.gguf") if "-of-" in original.name else ():
                shutil.copy(other, self.folder / str(index))
        made = [iter(Mutations(original, self.seed + i)) for i, original in enumerate(self.originals)]
        while True:
            for index, (original, mutations) in enumerate(zip(self.originals, made, strict=True)):
                what, data = next(mutations)
                path = self.folder / str(index) / original.name
                path.write_bytes(data)
                yield f"{original.name} {what}", path


def read(path: Path) -> None:
    """All that is made of a file before its weights are packed, and a look at every weight."""
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)
    model_problems(config, file), head_problem(config, file)
    for rope in plan(config).ropes:
        weights.rope_rotation(file, rope, config.context).table(np.array([0, 1, config.context - 1]))
    tokenizer = Tokenizer.from_metadata(file.metadata)
    ids = tokenizer.encode("some text  <s>é\n</s>", parse_special=True)
    assert all(0 <= token < config.vocab for token in ids)
    tokenizer.decode(range(tokenizer.vocab_size))
    ChatTemplate.from_metadata(file.metadata)
    FileSampling.from_metadata(file.metadata)
    for name in file.tensors:
        file.raw(name).sum()


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_in_this_process(count: int, originals: list[Path], tmp_path: Path) -> None:
    wrong, right, longest = [], 0, 0.0
    at_first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _, (what, path) in zip(range(count), Copies(originals, tmp_path, seed=15), strict=False):
        begun = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # it would be a line of its own
                read(path)
            right += 1
        except ModelError as error:
            if "\n" in str(error) or not str(error).isprintable() or len(str(error)) > 1000:
                wrong.append(f"{what}: {error!r:.200}")
        except Exception as error:
            wrong.append(f"{what}: {error!r:.200}")
        took = time.process_time() - begun
        longest = max(longest, took)
        if took > SECONDS:
            wrong.append(f"{what}: {took:.1f} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_first) << 10
    print(f"{count} files, {right} of them read, at most {longest:.2f} s of the processor, {grown / 1e6:.0f} MB more")
    assert not wrong, "\n".join([f"{len(wrong)} of {count}:", *wrong[:30]])
    assert 0 < right < count and grown < BYTES


@dataclass
class Ended:
    """A command that has ended. seconds: of the processor, bytes: of memory, what it started included."""

    what: str
    status: int
    errors: str
    seconds: float
    bytes: int


def whole_commands(say: Callable[[Ended], None], originals: list[Path], folder: Path, count: int) -> None:
    """Run the command line on a whole file, then on one copy after the other, each in a process that is forked with all
    imported."""
    import torch  # noqa: F401

    import model.cpu.prefill
    import model.cpu.runner  # noqa: F401
    from autotune import cli

    questions, answers, errors = (folder / name for name in ("questions", "answers", "errors"))
    questions.write_text("hi\n")
    copies = itertools.chain([("as it is", originals[0])], Copies(originals, folder, seed=26))
    for number, (what, path) in zip(range(count), copies, strict=False):
        words = [["generate", str(path), "-p", "hello", "-n", "2"], ["chat", str(path), "-n", "1"]][number % 4 == 3]
        if (child := os.fork()) == 0:
            os.dup2(os.open(questions, os.O_RDONLY), 0)
            for stream, file in ((1, answers), (2, errors)):
                os.dup2(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), stream)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            sys.argv[1:] = words
            cli.main()
        _, status, used = os.wait4(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        text = errors.read_text(errors="replace")
        say(Ended(f"{what}: {words[0]}", ended, text, used.ru_utime + used.ru_stime, used.ru_maxrss << 10))


@pytest.mark.parametrize("count", [4, pytest.param(300, marks=pytest.mark.slow)])
def test_whole(count: int, originals: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "t.db"))
    for name in ("AUTOTUNE_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    found: list[Ended] = Forked(whole_commands, originals, tmp_path, count).rest()
    wrong = [f"{ended.what} ended with {ended.status}: {ended.errors[-300:]}" for ended in found if not right(ended)]
    worked = sum(ended.status == 0 for ended in found)
    print(
        f"{len(found)} commands, {worked} of them worked, at most {max(e.seconds for e in found):.1f} s of the "
        f"processor, {max(e.bytes for e in found) / 1e6:.0f} MB"
    )
    assert len(found) == count and not wrong, "\n".join([f"{len(wrong)} of {len(found)}:", *wrong])
    assert found[0].status == 0


def right(ended: Ended) -> bool:
    """It worked, or said why not in its last line."""
    *before, last = ended.errors.splitlines() or [""]
    refused = [line for line in (*before, last) if line.startswith("autotune: error: ")]
    told = [last] if ended.status == 2 else []
    noise = any(word in ended.errors for word in ("Traceback", "Warning", "terminate called"))
    return ended.status in (0, 2) and refused == told and not noise and ended.bytes < BYTES


def test_what_is_not_right() -> None:
    fine = Ended("", 2, "a note\nautotune: error: no", 0.1, 1)
    assert right(fine) and right(Ended("", 0, "", 0.1, 1))
    for status, errors, size in (
        (1, "", 1), (2, "", 1), (2, "autotune: error: a\nautotune: error: b", 1), (0, "autotune: error: a", 1),
        (-signal.SIGSEGV, "", 1), (1, "Traceback (most recent call last):\nKeyError", 1), (0, "RuntimeWarning: x", 1),
        (2, fine.errors, BYTES),
    ):  # fmt: skip
        assert not right(Ended("", status, errors, 0.1, size)), errors
