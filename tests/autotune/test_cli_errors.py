"""Bad input through the command line: one line on stderr, exit code 2, no traceback, nothing lost."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import model.gguf_file
from autotune.commands import devices
from kernel_templates.cuda.machine import DeviceError
from tuning_db import open_db

READERS = [("generate", "-p", "hello", "-n", "1"), ("chat",), ("tune",), ("bench",)]


def with_model(words: tuple[str, ...], path: object) -> list[object]:
    return [words[0], path, *words[1:]]


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
@pytest.mark.parametrize("kind", ["missing", "empty", "directory", "text"])
def test_not_a_model(complaint, tmp_path, words, kind) -> None:
    path = tmp_path / "model.gguf"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "hello " * 99)
    said = complaint(*with_model(words, path))
    expected = {"missing": "no such file", "empty": "empty", "directory": "directory", "text": "not a GGUF file"}
    assert expected[kind] in said and str(path) in said


def test_truncated_anywhere(complaint, tmp_path, tiny_model) -> None:
    whole, path = tiny_model.read_bytes(), tmp_path / "cut.gguf"
    for part in range(20):
        path.write_bytes(whole[: len(whole) * part // 20 + part])
        assert "cut.gguf" in complaint("tune", path)


def test_flipped_header_bits_never_give_a_traceback(autotune, tmp_path, tiny_model, monkeypatch) -> None:
    from autotune.tuning import sequential

    monkeypatch.setattr(sequential, "tune", lambda *_, **__: [])
    whole, path = tiny_model.read_bytes(), tmp_path / "flipped.gguf"
    refused = 0
    for bit in range(0, 24 * 8, 3):  # magic, version and both counts, every third bit
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        result = autotune("tune", path)
        assert result.exit_code in (0, 2) and "Traceback" not in result.stderr
        if result.exit_code == 2:
            refused += 1
            assert result.stderr.count("\n") == 1, result.stderr
    assert refused > 50


def test_unsupported_architecture_is_named(complaint, tmp_path, tiny_model) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(tiny_model.read_bytes().replace(b"llama", b"mamba"))
    assert "architecture 'mamba' is not supported" in complaint("generate", path, "-p", "hello")


def test_prompt_longer_than_the_context(complaint, tiny_model) -> None:
    said = complaint("generate", tiny_model, "-p", "far too long a text " * 9, "--context", "8")
    assert "the context holds 8" in said and "--context" in said
    assert "the context holds 8" in complaint("chat", tiny_model, "--context", "8", input="far too long a text\n")


def test_empty_prompt(complaint, tiny_model) -> None:
    assert "prompt is empty" in complaint("generate", tiny_model, "-p", "")
    assert "not UTF-8" in complaint("generate", tiny_model, "-p", "-", input=b"\xff\xfe")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frob"], "No such command 'frob'"),
        (["db", "frob"], "No such command 'frob'"),
        (["devices", "--frob"], "No such option"),
        (["generate"], "Missing"),
        (["generate", "m.gguf"], "'--prompt'"),
        (["generate", "m.gguf", "-p", "x", "-n", "0"], "0 is not in the range"),
        (["generate", "m.gguf", "-p", "x", "-n", "some"], "not a valid integer"),
        (["generate", "m.gguf", "-p", "x", "--temperature", "-1"], "temperature is -1"),
        (["generate", "m.gguf", "-p", "x", "--temperature", "nan"], "temperature is nan"),
        (["generate", "m.gguf", "-p", "x", "--top-k", "-1"], "top-k is -1"),
        (["generate", "m.gguf", "-p", "x", "--top-p", "2"], "top-p is 2"),
        (["generate", "m.gguf", "-p", "x", "--seed", "-2"], "seed is -2"),
        (["generate", "m.gguf", "-p", "x", "--device", "tpu"], "'tpu' is no device"),
        (["generate", "m.gguf", "-p", "x", "--device", "cuda:0"], "device cuda:0 cannot be used"),
        (["tune", "m.gguf", "--device", "cuda"], "device cuda:0 cannot be used"),
        (["tune", "m.gguf", "--trials", "0"], "0 is not in the range"),
        (["tune", "m.gguf", "--budget", "-3"], "-3"),
        (["tune", "m.gguf", "--sampler", "magic"], "'magic' is not one of"),
        (["tune", "m.gguf", "--op", "conv"], "no operation is called 'conv'; there are"),
        (["bench", "m.gguf", "--device", "cuda:7"], "device cuda:7 cannot be used"),
        (["db", "best", "nothing"], "no winner of a problem that begins with 'nothing'"),
        (["db", "info", "--db", "/nowhere/x.db"], "there is no tuning database"),
        (["generate", "m.gguf", "-p", "x", "--db", "/nowhere/x.db"], "there is no tuning database"),
    ],
)
def test_wrong_words(complaint, words, said) -> None:
    assert said in complaint(*words)


def test_wrong_number_of_threads(complaint, monkeypatch) -> None:
    monkeypatch.setenv("AUTOTUNE_THREADS", "many")
    assert "AUTOTUNE_THREADS is 'many'" in complaint("devices")


COMMANDS = [
    ("db", "info"),
    ("db", "list"),
    ("db", "best", "x"),
    ("devices",),
    ("tune", "MODEL"),
    ("generate", "MODEL", "-p", "x"),
    ("chat", "MODEL"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("named", [True, False])
def test_corrupt_database_is_left_as_it_is(complaint, own_database, tiny_model, words, named) -> None:
    content = b"SQLite format 3\0" + random.Random(1).randbytes(9000)
    own_database.write_bytes(content)
    option = ["--db", own_database] if named else []
    said = complaint(*(tiny_model if word == "MODEL" else word for word in words), *option)
    assert "damaged" in said and "left untouched" in said and str(own_database) in said
    assert own_database.read_bytes() == content and [p.name for p in own_database.parent.iterdir()] == ["default.db"]


def test_a_bug_keeps_its_traceback_and_debug_shows_that_of_an_error(autotune, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AUTOTUNE_DEBUG", "1")
    with pytest.raises(model.ModelError):
        autotune("tune", tmp_path / "missing.gguf")
    monkeypatch.delenv("AUTOTUNE_DEBUG")
    monkeypatch.setattr(model.gguf_file, "open_gguf", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        autotune("tune", tmp_path / "missing.gguf")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 2, "autotune: error: not enough memory"),
        (PermissionError(13, "Permission denied", "/x"), 2, "autotune: error: Permission denied: /x"),
        (KeyboardInterrupt(), 130, "autotune: interrupted"),
        (BrokenPipeError(), 141, ""),
        (DeviceError("the GPU is on fire, or use --device cpu"), 2, "autotune: error: the GPU is on fire"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried 9 GiB"), 2, "autotune: error: not enough GPU memory"),
        (RuntimeError("CUDA driver version is insufficient"), 2, "autotune: error: the NVIDIA driver"),
    ],
)
def test_what_may_happen_anywhere(autotune, monkeypatch, error, code, said) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(devices.options, "detect", fail)
    result = autotune("devices")
    assert result.exit_code == code and result.stdout == ""
    assert result.stderr.startswith(said) and result.stderr.count("\n") == bool(said)


def run(*words: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autotune", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_as_a_real_process(tmp_path: Path) -> None:
    done = run("tune", tmp_path / "missing\nmodel.gguf")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert "no such file" in done.stderr
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "autotune", "db", "info"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.decode() == "autotune: error: No space left on device\n"


def test_reader_goes_away() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "autotune", "db", "info"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


# Closed streams, readers that have gone and full disks, with the exit status of a command that works: its own, 141
# where nobody reads what it prints, or 2 where that cannot be written.
STREAMS = {
    "<&-": None, ">&-": None, "2>&-": None, "<&- >&- 2>&-": None, "| true": 141, "2>&1 >/dev/null | true": None,
    ">/dev/full": 2, "2>/dev/full": None,
}  # fmt: skip
PRINTING = {
    ("db", "info"): 0, ("nothing",): 2, ("--help",): 0,
    **{
        words: pytest.param(words, code, marks=pytest.mark.slow)
        for words, code in (
            (("db", "list"), 0), (("db", "path"), 0), (("db", "schema"), 0), (("db", "export"), 0),
            (("db", "explain", "matvec"), 2), (("ops",), 0), (("space", "matvec"), 0), (("devices",), 0),
            (("tune", "MODEL", "--trials", "1", "--op", "matvec"), 0), (("generate", "MODEL", "-p", "a", "-n", "2"), 0),
            (("chat", "MODEL", "-n", "2"), 0), (("bench", "MODEL", "--runs", "1", "--tokens", "2"), 0),
            (("import", "MODEL"), 2), (("export",), 2),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize(("words", "code"), [c if not isinstance(c, int) else (w, c) for w, c in PRINTING.items()])
def test_standard_streams_that_cannot_be_used(tmp_path, own_database, tiny_model, words, code, streams) -> None:
    line = shlex.join([sys.executable, "-m", "autotune", *(str(tiny_model) if w == "MODEL" else w for w in words)])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} {streams}"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    gone = STREAMS[streams] if code == 0 and done.returncode else None
    assert done.returncode == (gone or code), done.stderr
    assert "Traceback" not in done.stderr + done.stdout and "Exception" not in done.stderr
    if own_database.exists():  # nothing that was printed went into it
        with open_db(own_database, readonly=True) as db:
            assert db.info()["runs"] == (words[0] == "tune")


def test_interrupt_of_a_process(tiny_model: Path) -> None:
    """Ctrl-C while chat waits for a line."""
    command = [sys.executable, "-m", "autotune", "chat", str(tiny_model), "-n", "2"]
    pipe = subprocess.PIPE
    # Where the tests run in the background, SIGINT comes ignored; a terminal's child has it.
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdin and process.stdout
    process.stdin.write("hello\n")
    process.stdin.flush()
    process.stdout.readline()  # the answer
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and said.splitlines()[-1] == "autotune: interrupted"
    assert "Traceback" not in said


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
def test_more_threads_than_processors(complaint, tiny_model, monkeypatch, words) -> None:
    monkeypatch.setenv("AUTOTUNE_THREADS", "999")
    assert "AUTOTUNE_THREADS is 999: this machine has" in complaint(*with_model(words, tiny_model))
    monkeypatch.delenv("AUTOTUNE_THREADS")
    assert "give at most as many" in complaint(*with_model(words, tiny_model), "--threads", "999")
    assert "AUTOTUNE_THREADS" not in os.environ
