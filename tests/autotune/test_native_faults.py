"""Machine code that misbehaves in the real bench of the processor: hangs, segfaults, and writes beside its output."""

from dataclasses import replace

import native_faults
import pytest
from native_faults import FAULTS, SPACE, Native

from autotune.tuning import sequential, target
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates import registry
from tuning_db import open_db
from tuning_db.records import TrialKind


@pytest.mark.slow
def test_compiled_candidates_that_misbehave(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(registry.OPERATIONS, Native.op, native_faults.operation())
    where = replace(target.cpu(), space=lambda _: SPACE, program=native_faults.PROGRAM, measure_s=5.0)
    with open_db(tmp_path / "t.db") as db:
        (tuned,) = sequential.tune(
            {Native(1): 1}, db, TuneSettings(trials=20, budget_s=None, sampler="exhaustive"), target=where
        )
        trials = {
            t.config["fault"]: t for t in db.past_trials(where.device, Native(1).key, 1) if t.kind is TrialKind.SEARCH
        }
    assert {fault: str(t.outcome) for fault, t in trials.items()} == FAULTS, trials
    assert "outside of its buffers" in trials["bounds"].message and "signal 11" in trials["segfault"].message
    assert tuned.config == {"fault": "none"} and tuned.best_ns < tuned.default_ns
    assert "throttled" in trials["none"].measurement.state or "mhz" in trials["none"].measurement.state
