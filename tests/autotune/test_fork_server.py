"""Workers forked by a process that has imported everything: they serve, die and are replaced as others do."""

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from waiting import eventually

from autotune.runner.fork_server import Child, ForkServer
from autotune.runner.process_group import GroupLeader
from autotune.runner.worker_pool import WorkerPool
from autotune.runner.worker_process import Worker, WorkerDied
from kernel_templates import registry
from kernel_templates.device import Device

KEY = "matvec:rows=64,cols=64,format=Q8_0,activation=int16"
CONFIG = dict(registry.cuda_space(registry.parse_problem(KEY), Device("cuda", "any", "9.0", 1, 1 << 30)).default)
REQUEST = ("compile", "sm90", KEY, CONFIG)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where all compile to, the first time alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture
def nursery(cache):
    with ForkServer() as opened:
        yield opened


def test_forked_workers_serve_and_their_deaths_are_told(nursery) -> None:
    one, other = (Worker(nursery=nursery) for _ in range(2))
    assert one.request(*REQUEST, timeout_s=60.0)[0] == other.request(*REQUEST, timeout_s=60.0)[0] == "compiled"
    first, second = (nursery.pid_of(worker._process) for worker in (one, other))
    assert len({first, second, os.getpid()}) == 3
    os.kill(first, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="signal 9"):
        one.request(*REQUEST, timeout_s=60.0)
    assert one.request(*REQUEST, timeout_s=60.0)[0] == "compiled"  # another one
    assert isinstance(one._process, Child) and nursery.pid_of(one._process) not in (first, second)
    one.stop(), other.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_without_the_nursery_workers_start_by_themselves(nursery) -> None:
    nursery._process.kill()
    nursery._process.wait()
    worker = Worker(nursery=nursery)
    assert worker.request(*REQUEST, timeout_s=60.0)[0] == "compiled" and isinstance(worker._process, GroupLeader)
    worker.stop()


def test_nothing_is_left_when_the_parent_is_killed() -> None:
    script = (
        "from autotune.runner.worker_pool import WorkerPool\nimport os, time\n"
        "with WorkerPool(1, True) as crew:\n"
        "    workers = [crew.measurer, *crew.compilers]\n"
        "    print(crew._nursery._process.pid, *(crew._nursery.pid_of(w._process) for w in workers), flush=True)\n"
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


def test_a_crew_uses_one(cache) -> None:
    with WorkerPool(2, apart=True) as crew:
        for number in range(3):
            crew.submit("p", number, REQUEST, 60.0)
        answers: dict = {}
        while len(answers) < 3:
            answers |= dict(crew.finished("p", 60.0))
        assert all(answer[0] == "compiled" for answer in answers.values())
        nursery = crew._nursery._process
    assert nursery.poll() is not None
