"""Model files with a mutation or a few, anywhere in what is not weights: read, or refused in one line.

A sample by default. With `-m slow` 10,000 in this process, and 300 through the command line in processes that may have
1 GB: generating two tokens, then a word from the chat template.
"""

import itertools
import os
import random
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.chat import ChatTemplate
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import open_gguf
from model.layer_plan import plan
from model.problems import head_problem, model_problems
from model.tokenizer import Tokenizer

WORDS = [0, 1, 2, 7, 8, 9, 31, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
SECONDS = 2.0


class Mutations:
    """Copies of one file's bytes, a different one each time for one seed. head: bytes before the weights."""

    def __init__(self, path: Path, seed: int):
        self.data, self.dice = path.read_bytes(), random.Random(seed)
        file = open_gguf(path)
        self.head = min(info.offset for info in file.tensors.values())
        # The texts of keys and of tensors, behind which their types, lengths, shapes and offsets stand.
        names = [*file.metadata, *file.tensors]
        self.places = [self.data.find(struct.pack("<Q", len(name)) + name.encode()) for name in names]
        self.ends = [at + 8 + len(name) for at, name in zip(self.places, names, strict=True)]
        self.kinds: list[Callable[[bytearray], None]] = [
            self.flip, self.word, self.field, self.length, self.swap, self.cut, self.double, self.noise,
            self.value, self.value, self.value, self.weights,
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
        at = self.dice.choice(self.places)
        if at + 8 <= len(out):
            out[at : at + 8] = struct.pack("<Q", self.dice.choice(WORDS))

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


def read(path: Path) -> None:
    """All that is made of a file before its weights are packed, and a look at every weight."""
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)
    model_problems(config, file), head_problem(config, file), plan(config)
    Tokenizer.from_metadata(file.metadata).encode("some text")
    ChatTemplate.from_metadata(file.metadata)
    for name in file.tensors:
        file.raw(name).sum()


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_in_this_process(count: int, tiny_model: Path, tiny_qwen3: Path, tmp_path: Path) -> None:
    path, wrong, right = tmp_path / "mutated.gguf", [], 0
    at_first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for original in (tiny_model, tiny_qwen3):
        for (what, data), _ in zip(Mutations(original, seed=15), range(count // 2), strict=False):
            path.write_bytes(data)
            begun = time.process_time()
            try:
                read(path)
                right += 1
            except ModelError as error:
                if "\n" in str(error) or not str(error).isprintable() or len(str(error)) > 1000:
                    wrong.append(f"{original.name} {what}: {error!r:.200}")
            except Exception as error:
                wrong.append(f"{original.name} {what}: {error!r:.200}")
            if time.process_time() - begun > SECONDS:
                wrong.append(f"{original.name} {what}: {time.process_time() - begun:.1f} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_first) << 10
    print(f"{count} files, {right} of them read, {grown / 1e6:.0f} MB")
    assert not wrong, "\n".join([f"{len(wrong)} of {count}:", *wrong[:30]])
    assert 0 < right < count and grown < 1 << 30


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.parametrize("count", [4, pytest.param(300, marks=pytest.mark.slow)])
def test_whole(count: int, tiny_model: Path, tmp_path: Path) -> None:
    path, wrong, worked = tmp_path / "mutated.gguf", [], 0
    environment = os.environ | {
        "AUTOTUNE_DB": str(tmp_path / "t.db"),
        "AUTOTUNE_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    files = itertools.chain([("as it was", tiny_model.read_bytes())], Mutations(tiny_model, seed=26))
    for number, (what, data) in zip(range(count), files, strict=False):
        path.write_bytes(data)
        words = [["generate", str(path), "-p", "hello", "-n", "2"], ["chat", str(path), "-n", "1"]][number % 4 == 3]
        done = subprocess.run(
            [sys.executable, "-m", "autotune", *words], input="hi\n", capture_output=True, text=True, env=environment,
            preexec_fn=limited, errors="replace",
        )  # fmt: skip
        worked += done.returncode == 0
        last = done.stderr.splitlines()[-1:] or [""]
        if done.returncode not in (0, 2) or "Traceback" in done.stderr or (
            done.returncode == 2 and not last[0].startswith("autotune: error: ")
        ):  # fmt: skip
            wrong.append(f"{what}: {words[0]} ended with {done.returncode}: {last[0][:300]}")
    print(f"{count} files, {worked} of them worked")
    assert worked
    assert not wrong, "\n".join([f"{len(wrong)} of {count}:", *wrong])
