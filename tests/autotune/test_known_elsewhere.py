"""What a search begins with of what is known of other shapes: its order, and what a strange database cannot do."""

import pytest

from autotune.tuning.problem_tuner import known_elsewhere
from autotune.tuning.target import TuneTarget
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Work
from tuning_db import open_db, shipped
from tuning_db.records import Measurement, Outcome, Run, Trial, Winner

H100 = Device("cuda", "NVIDIA H100 80GB HBM3", "9.0", 132, 80 << 30)
HERE = Matvec(2560, 2560, "Q4_0", "int16")
WIDE = Matvec(4096, 4096, "Q4_0", "int16")


@pytest.fixture
def target() -> TuneTarget:
    """An H100 that is not there: nothing is built."""
    return TuneTarget(
        "cuda:0", "sm90", H100, lambda p: registry.cuda_space(p, H100), lambda p: Work(1, 1), 1, separate_measurer=True
    )


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "none")
    with open_db(tmp_path / "tuning.db") as opened:
        yield opened


def measured(ns: float) -> Measurement:
    return Measurement(ns, ns, ns, 7)


def winner(problem: str, config) -> Winner:
    return Winner(problem, HERE.template_version, dict(config), measured(1.0), 2.0, 1e-3, 1e-2)


def test_the_nearest_default_the_winner_and_what_else_was_fast(target, db) -> None:
    default = target.space(WIDE).default
    fast = [{**default, "each": each} for each in (2, 1, 8)]
    run = db.begin_run(H100, Run(WIDE.key, WIDE.template_version, "pool", 0, 9, 1, 1, {}))
    for ns, config in zip((3.0, 1.0, 2.0), fast, strict=True):
        db.record_trial(run, Trial(config, Outcome.OK, measured(ns)))
    db.set_winner(H100, winner(WIDE.key, fast[1]), run, None)
    found = list(dict.fromkeys(known_elsewhere(db, target, HERE)))
    assert found == [default, fast[1], fast[2], fast[0]] and default != target.space(HERE).default


def test_a_shape_that_no_template_takes_is_no_reason_to_stop(target, db) -> None:
    nonsense = WIDE.key.replace("4096", "0")
    with pytest.raises(ValueError, match="default"):
        target.space(registry.parse_problem(nonsense))
    config = target.space(HERE).default
    db.set_winner(H100, winner(nonsense, config), None, None)
    assert set(known_elsewhere(db, target, HERE)) == {config}


def test_nothing_is_known(target, db) -> None:
    assert known_elsewhere(db, target, HERE) == []
