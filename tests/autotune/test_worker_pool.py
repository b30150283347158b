"""The queue of the workers: ranks, owners that go on, jobs that hang, and workers that never start."""

import sys

import fake_gpu
import pytest
from fake_gpu import Part

from autotune.runner.worker_pool import NEXT, WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut

KEY = Part("out", 64).key


def job(rows: int) -> tuple:
    return ("compile", "sm90", KEY, {"rows": rows, "warps": 1, "ahead": 1})


@pytest.fixture
def slow(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_CACHE", str(tmp_path))
    monkeypatch.setenv("FAKE_COMPILE", "0.5")


def test_what_is_needed_now_comes_first_and_slow_jobs_leave_workers(slow) -> None:
    with WorkerPool(1, True, fake_gpu.PROGRAM) as crew:
        for number, (owner, rank) in enumerate((("later", NEXT), ("later", NEXT), ("now", 0))):
            crew.submit(owner, number, job(2**number), 5.0, rank)
        assert crew.busy("later") == 2 and crew.room(3) >= 2
        ((tag, reply),) = crew.finished("now", 60.0)
        assert tag == 2 and reply[0] == "compiled" and crew.outstanding("later") == 2 and not crew.busy("now")


def test_nobody_waits_for_an_owner_that_went_on(slow) -> None:
    with WorkerPool(2, True, fake_gpu.PROGRAM) as crew:
        for number in range(4):
            crew.submit("old", number, job(2**number), 5.0)
        assert crew.finished("old", 60.0)
        crew.withdraw("old")
        waits, turn = [], crew._turn
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crew, "_turn", lambda wait_s, *rest: (waits.append(wait_s), turn(wait_s, *rest)))
            assert crew.finished("old", 5.0) == [] and waits == [0.0]
        crew.submit("new", "tag", job(1), 5.0)  # somebody is or will be free
        assert [tag for tag, _ in crew.finished("new", 30.0)] == ["tag"]
        assert crew.outstanding("old") == 0


def test_a_job_that_hangs_is_given_up_and_its_worker_replaced(slow) -> None:
    with WorkerPool(1, True, fake_gpu.PROGRAM) as crew:
        crew.submit("p", "first", job(1), 5.0)  # the first one has time to import
        assert crew.finished("p", 60.0)[0][1][0] == "compiled"
        crew.submit("p", "hangs", job(2), 0.1)
        crew.submit("p", "compile", job(4), 20.0)
        answers: dict = {}
        while len(answers) < 2:
            answers |= dict(crew.finished("p", 60.0))
        assert isinstance(answers["hangs"], WorkerTimedOut) and answers["compile"][0] == "compiled"


def test_workers_that_do_not_start_are_an_answer() -> None:
    with WorkerPool(1, True, (sys.executable, "-c", "raise SystemExit(3)")) as crew:
        crew.submit("p", "tag", job(1), 5.0)
        ((tag, gone),) = crew.finished("p", 60.0)
        assert tag == "tag" and isinstance(gone, WorkerDied) and "(3)" in str(gone)
        with pytest.raises(WorkerDied):
            crew.ask("open", timeout_s=1.0)


def test_asking_hands_out_what_is_queued(slow) -> None:
    with WorkerPool(2, True, fake_gpu.PROGRAM) as crew:
        for number in range(4):
            crew.submit("p", number, job(2**number), 5.0)
        assert crew.ask("open", "cuda:0", KEY, 0, fake_gpu.DEVICE.units, None, timeout_s=60.0)[0] == "opened"
        folder = crew.folder
        assert folder.is_dir()
    assert not folder.exists()
