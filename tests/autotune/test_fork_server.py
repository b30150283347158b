"""Workers forked by a process that has imported everything: they serve, die and are replaced as others do."""

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from waiting import LONGEST_S, eventually

from autotune.runner import fork_server as servers
from autotune.runner import worker_pool, worker_process
from autotune.runner.fork_server import ForkedWorker, ForkServer
from autotune.runner.process_group import GroupLeader
from autotune.runner.protocol import Compile, Compiled, Failed
from autotune.runner.worker_pool import WorkerPool
from autotune.runner.worker_process import Worker, WorkerDied
from kernel_templates import registry
from kernel_templates.device import Device

KEY = "matvec:rows=64,cols=64,format=Q8_0,activation=int16"
CONFIG = registry.cuda_space(registry.parse_problem(KEY), Device("cuda", "any", "9.0", 1, 1 << 30)).default
REQUEST = Compile("sm90", KEY, CONFIG)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where all compile to, the first time alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fork_server(cache):
    with ForkServer() as opened:
        yield opened


def test_forked_workers_serve_and_their_deaths_are_told(fork_server) -> None:
    one, other = (Worker(fork_server=fork_server) for _ in range(2))
    assert all(isinstance(worker.ask(REQUEST, LONGEST_S), Compiled) for worker in (one, other))
    first, second = (fork_server.pid_of(worker._process) for worker in (one, other))
    assert len({first, second, os.getpid()}) == 3
    os.kill(first, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="signal 9"):
        one.ask(REQUEST, LONGEST_S)
    assert isinstance(one.ask(REQUEST, LONGEST_S), Compiled)  # another one
    assert isinstance(one._process, ForkedWorker) and fork_server.pid_of(one._process) not in (first, second)
    one.stop(), other.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_the_next_pool_has_the_server_that_was_begun(monkeypatch) -> None:
    started: list[ForkServer] = []
    monkeypatch.setattr(ForkServer, "start", lambda self: started.append(self) or self)
    servers.begin(), servers.begin()
    pools = [WorkerPool(1, True) for _ in range(2)]
    assert len(started) == 1 and pools[0]._fork_server is started[0] is not pools[1]._fork_server


def test_the_next_pool_has_the_measurer_that_was_begun(monkeypatch) -> None:
    monkeypatch.setattr(worker_pool, "PROGRAM", ECHO)
    monkeypatch.setattr(worker_process, "MEASURER", ECHO)
    monkeypatch.setattr(ForkServer, "start", lambda self: self)
    worker_process.begin_measurer("cuda:1"), worker_process.begin_measurer("cuda:1")
    (begun,) = worker_process._begun
    pools = [WorkerPool(1, True, ECHO, target="cuda:1") for _ in range(2)]
    assert pools[0].measurer is begun and pools[1].measurer is not begun
    assert (
        begun.ask(REQUEST, LONGEST_S) == Failed("cuda:1: Compile")
        and begun.fork_server is pools[0]._fork_server is not None
    )
    begun.stop()
    worker_process.begin_measurer("cuda:1")
    (begun,) = worker_process._begun
    assert WorkerPool(1, True, ECHO, target="cuda:0").measurer is not begun and begun._process is None


ECHO = (
    sys.executable, "-c", """
import sys
from multiprocessing.connection import Connection
from autotune.runner.protocol import Failed, Started
pipe = Connection(int(sys.argv[1]))
pipe.send(Started(1))
while True:
    pipe.send(Failed(f"{sys.argv[2]}: {type(pipe.recv()).__name__}"))
""",
)  # fmt: skip


def test_messages_bring_no_library_of_databases() -> None:
    code = "import sys, autotune.runner.worker_pool; print('sqlite_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("module", ["commands.tune", "runner.worker_process", "runner.measurer"])
def test_what_begins_the_measurer_and_its_gpu_imports_no_numbers(module: str) -> None:
    """Numpy and torch take longer than all else of it: the process begins, and in it the GPU's context, before them."""
    code = f"import sys, autotune.{module}; print(sorted({{'numpy', 'torch', 'filelock'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_without_the_server_workers_start_by_themselves(fork_server) -> None:
    fork_server._process.kill()
    fork_server._process.wait()
    worker = Worker(fork_server=fork_server)
    assert isinstance(worker.ask(REQUEST, LONGEST_S), Compiled) and isinstance(worker._process, GroupLeader)
    worker.stop()


def test_nothing_is_left_when_the_parent_is_killed() -> None:
    script = (
        "from autotune.runner.worker_pool import WorkerPool\nimport os, time\n"
        "with WorkerPool(1, True) as pool:\n"
        "    workers = [pool.measurer, *pool.compilers]\n"
        "    server = pool._fork_server\n"
        "    print(server._process.pid, *(server.pid_of(w._process) for w in workers), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    assert len(pids) == 3 and eventually(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_pool_uses_one(cache) -> None:
    with WorkerPool(2, separate_measurer=True) as pool:
        for number in range(3):
            pool.submit("p", number, REQUEST, LONGEST_S)
        answers: dict = {}
        while len(answers) < 3:
            answers |= dict(pool.finished("p", LONGEST_S))
        assert all(isinstance(answer, Compiled) for answer in answers.values())
        server = pool._fork_server._process
    assert server.poll() is not None
