"""Roofs are the best that was seen; one that cannot be is measured again and marked."""

import pytest

from autotune.runner import bandwidth, ceilings
from kernel_templates.device import Device
from tuning_db import open_db

DEVICE = Device("cpu", "Some Processor", "avx2", 2, 16 << 30)
GOOD = {"read_gb_s": 40.0, "copy_gb_s": 30.0}
SPOILED = {"read_gb_s": 39.0, "copy_gb_s": 35.0, "busy": 0.35}


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "t.db", readonly=False) as database:
        yield database


@pytest.fixture
def measured(monkeypatch):
    """measured(*answers): what the next measurements give; the list shrinks."""
    answers: list[dict[str, float]] = []
    monkeypatch.setattr(bandwidth, "ceilings", lambda units: answers.pop(0))
    return answers


def known(db, force=False) -> dict[str, float]:
    found = ceilings.known_or_measured(db, DEVICE, force)
    assert found.pop("measured_at") > 0
    return found


def test_a_spoiled_roof_is_measured_again_and_improved(db, measured):
    measured += [SPOILED, GOOD]
    assert known(db) == SPOILED
    assert known(db) == {"read_gb_s": 40.0, "copy_gb_s": 35.0} and not measured
    assert known(db) == {"read_gb_s": 40.0, "copy_gb_s": 35.0}  # settled


def test_a_lower_measurement_replaces_nothing(db, measured):
    measured += [GOOD, {"read_gb_s": 13.8, "copy_gb_s": 31.0, "busy": 0.4}]
    assert known(db) == GOOD
    assert known(db, force=True) == {"read_gb_s": 40.0, "copy_gb_s": 31.0}


class Team:
    """Answers for a pool of two threads."""

    threads = 2

    def __init__(self, threads):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("spoiled", [0, 1, 3])
def test_more_threads_that_read_less_are_measured_again(monkeypatch, spoiled):
    answers = [SPOILED] * spoiled + [GOOD] * 3
    monkeypatch.setattr(bandwidth, "ThreadPool", Team)
    monkeypatch.setattr(bandwidth, "_roofs", lambda *_: answers.pop(0))
    found = bandwidth.ceilings(2)
    assert ("busy" in found) == (spoiled == 3) and found["read_gb_s"] >= 39.0
    assert len(answers) == (3 + spoiled) - min(spoiled + 1, 3)


@pytest.mark.parametrize(("two", "busy"), [(0.013, True), (0.0055, False)])
def test_the_best_number_of_threads_counts(monkeypatch, two, busy):
    """One thread reads in 0.01 s; two that need longer show that somebody else has a core."""
    monkeypatch.setattr(bandwidth.ReadProbe, "seconds", lambda probe, threads=None: 0.01 if threads == 1 else two)
    found = bandwidth.ceilings(2, nbytes=1 << 20, repeats=2)
    assert ("busy" in found) == busy
    assert found["read_gb_s"] == pytest.approx((1 << 20) / min(two, 0.01) / 1e9)
