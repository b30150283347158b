"""What a worker's process and pipe may do to its parent: nothing; and what is left when either is killed: nothing."""

import os
import pickle
import signal
import struct
import subprocess
import sys
from pathlib import Path

import faulty
import pytest
from faulty import SPACE, Faulty
from test_faults import gone, orphans

from autotune.runner.channel import MOST_BYTES, Channel, Garbled, Late
from autotune.runner.protocol import Measure, Open, Opened, Request, Started
from autotune.runner.worker_process import Worker, WorkerDied

OPEN = Open("cpu", Faulty(1).key, 0, 1)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    """By which `gone` tells this test's workers from those of tests beside it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def channel(*parts: bytes) -> Channel:
    made = Channel()
    for part in parts:
        made.theirs.sendall(part)
    return made


def test_an_answer_in_pieces_is_an_answer_when_it_is_whole() -> None:
    from multiprocessing.connection import Connection

    made = Channel()
    theirs = Connection(os.dup(made.theirs.fileno()))
    theirs.send(Started(1))
    assert made.poll() and made.receive(0.0) == Started(1) and not made.poll()
    message = struct.pack("!i", 30)
    made.theirs.sendall(message)
    assert not made.poll() and made.anything()
    with pytest.raises(Late):
        made.receive(0.05)
    made.send(Request(), 1.0)
    assert theirs.recv() == Request()
    made.theirs.close(), theirs.close()
    assert made.poll()
    with pytest.raises(EOFError):
        made.receive(1.0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello, world",
        b"\xff" * 8,
        struct.pack("!i", MOST_BYTES + 1),
        struct.pack("!i", 0),
        struct.pack("!i", 4) + b"abcd",
        struct.pack("!i", 2) + b"N.",
        struct.pack("!i", 2) + b").",
        struct.pack("!i", len(pickle.dumps(Request()))) + pickle.dumps(Request()),
    ],
)
def test_garbage_is_told_from_answers_at_once(garbage) -> None:
    made = channel(garbage)
    assert made.poll()
    with pytest.raises(Garbled):
        made.receive(300.0)  # not `Late`: it does not wait for more


def test_a_worker_that_hangs_in_a_candidate_dies_with_its_parent(tmp_path) -> None:
    """It reads no pipe any more, so only the kernel can tell it. What it forked goes as well."""
    hangs = next(c for c in SPACE.configs() if faulty.fault_of(c, 1) == "hang")
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport faulty, time\n"
        "from autotune.runner.protocol import Measure, Open\n"
        "from autotune.runner.worker_process import Worker\n"
        "from kernel_templates.space import Config\n"
        "worker = Worker(faulty.PROGRAM)\n"
        f"worker.ask({OPEN!r}, 60)\n"
        f"worker.send(Measure(Config({dict(hangs)!r}), 1))\n"
        "time.sleep(0.3); print('sent', flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "FAULTY_SEED": "1"}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout.readline() == "sent\n"
    assert orphans()
    parent.kill()
    parent.wait()
    assert gone()


def test_what_a_candidate_forked_goes_with_its_worker(monkeypatch) -> None:
    monkeypatch.setenv("FAULTY_SEED", "1")
    orphan = next(c for c in SPACE.configs() if faulty.fault_of(c, 1) == "orphan")
    worker = Worker(faulty.PROGRAM)
    worker.ask(OPEN, 60)
    with pytest.raises(WorkerDied, match=r"ended \(5\)"):
        worker.ask(Measure(orphan, 1), 1.0)
    assert gone()


def test_what_arrives_unasked_is_not_taken_for_an_answer(monkeypatch) -> None:
    worker = Worker(faulty.PROGRAM)
    assert isinstance(worker.ask(OPEN, 60), Opened)
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait(5.0)
    with pytest.raises(WorkerDied, match="signal 9") as death:
        worker.ask(OPEN, 60)
    assert death.value.killed
    assert isinstance(worker.ask(OPEN, 60), Opened) and worker.answered == 1
    worker.stop()
    assert gone()
