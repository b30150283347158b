"""The queue of the workers: ranks, owners that go on, jobs that hang, and workers that never start."""

import sys

import fake_gpu
import pytest
from fake_gpu import Part

from autotune.runner.protocol import Compile, Compiled, Open, Opened
from autotune.runner.worker_pool import NEXT, WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from kernel_templates.space import Config

KEY = Part("out", 64).key
OPEN = Open("cuda:0", KEY, 0, fake_gpu.DEVICE.units)


def job(rows: int) -> Compile:
    return Compile("sm90", KEY, Config({"rows": rows, "warps": 1, "ahead": 1}))


@pytest.fixture
def slow(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_CACHE", str(tmp_path))
    monkeypatch.setenv("FAKE_COMPILE", "0.5")


def test_what_is_needed_now_comes_first_and_slow_jobs_leave_workers(slow) -> None:
    with WorkerPool(1, True, fake_gpu.PROGRAM) as pool:
        for number, (owner, rank) in enumerate((("later", NEXT), ("later", NEXT), ("now", 0))):
            pool.submit(owner, number, job(2**number), 5.0, rank)
        assert pool.busy("later") == 2 and pool.free_slots(3) >= 2
        ((tag, reply),) = pool.finished("now", 60.0)
        assert tag == 2 and isinstance(reply, Compiled) and pool.outstanding("later") == 2 and not pool.busy("now")


def test_nobody_waits_for_an_owner_that_went_on(slow) -> None:
    with WorkerPool(2, True, fake_gpu.PROGRAM) as pool:
        for number in range(4):
            pool.submit("old", number, job(2**number), 5.0)
        assert pool.finished("old", 60.0)
        pool.withdraw("old")
        waits, turn = [], pool._turn
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool, "_turn", lambda wait_s, *rest: (waits.append(wait_s), turn(wait_s, *rest)))
            assert pool.finished("old", 5.0) == [] and waits == [0.0]
        pool.submit("new", "tag", job(1), 5.0)  # a worker is or will be free
        assert [tag for tag, _ in pool.finished("new", 30.0)] == ["tag"]
        assert pool.outstanding("old") == 0


def test_what_is_being_done_without_a_reader_is_not_begun_again(slow, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FAKE_LOG", str(log := tmp_path / "log"))
    with WorkerPool(1, True, fake_gpu.PROGRAM) as pool:
        pool.submit("warming", "a tag", job(1), 5.0)
        while not pool._jobs:
            pool.wait(0.1)
        pool.withdraw("warming")
        pool.submit("p", "mine", job(1), 5.0)
        assert [tag for tag, _ in pool.finished("p", 60.0)] == ["mine"] and not pool.finished("warming", 0.0)
    assert len(log.read_text().splitlines()) == 1


def test_a_job_that_hangs_is_given_up_and_its_worker_replaced(slow) -> None:
    with WorkerPool(1, True, fake_gpu.PROGRAM) as pool:
        pool.submit("p", "first", job(1), 5.0)  # the first one has time to import
        assert isinstance(pool.finished("p", 60.0)[0][1], Compiled)
        pool.submit("p", "hangs", job(2), 0.1)
        pool.submit("p", "compile", job(4), 20.0)
        answers: dict = {}
        while len(answers) < 2:
            answers |= dict(pool.finished("p", 60.0))
        assert isinstance(answers["hangs"], WorkerTimedOut) and isinstance(answers["compile"], Compiled)


def test_workers_that_do_not_start_are_an_answer() -> None:
    with WorkerPool(1, True, (sys.executable, "-c", "raise SystemExit(3)")) as pool:
        pool.submit("p", "tag", job(1), 5.0)
        ((tag, gone),) = pool.finished("p", 60.0)
        assert tag == "tag" and isinstance(gone, WorkerDied) and "(3)" in str(gone)
        with pytest.raises(WorkerDied):
            pool.ask(OPEN, 1.0)


def test_asking_hands_out_what_is_queued(slow) -> None:
    with WorkerPool(2, True, fake_gpu.PROGRAM) as pool:
        for number in range(4):
            pool.submit("p", number, job(2**number), 5.0)
        assert isinstance(pool.ask(OPEN, 60.0), Opened)
        folder = pool.folder
        assert folder.is_dir()
    assert not folder.exists()
