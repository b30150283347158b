"""A winner out of a database computes right on this machine, or is not used."""

from dataclasses import replace

import pytest

from kernel_templates import registry
from kernel_templates.cpu import machine, proofs, tiles
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Config
from model.kernel_choices import MOST_REFUSED, choose
from tuning_db import open_db
from tuning_db.records import Measurement, Outcome, Run, RunStatus, Source, Winner

PROBLEM = Matvec(96, 96, "Q8_0")
WRONG = {"lanes": 64, "path": "generic", "prefetch": 0, "streams": 1}
RIGHT = {**WRONG, "lanes": 32}


@pytest.fixture(autouse=True)
def fault(monkeypatch, tmp_path) -> None:
    """A stand-in for a configuration that is miscompiled here: with 64 lanes the rows are packed in reverse."""
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    real = tiles.pack

    def pack(raw, cols, form, lanes):
        return real(raw.flip(0) if lanes == 64 else raw, cols, form, lanes)

    for module in (tiles, registry.cpu("matvec")):
        if hasattr(module, "pack") and module.pack is real:
            monkeypatch.setattr(module, "pack", pack)
    monkeypatch.setattr(tiles, "pack", pack)


def choice(db):
    features = machine.features()
    device = machine.detect()
    return choose([PROBLEM], device, lambda p: registry.cpu_space(p, features), db, proofs.refusal)[PROBLEM]


def put(db, config: dict, ns: float = 10.0) -> None:
    found = Winner(PROBLEM.key, 1, config, Measurement(ns, ns, ns, 9), 20.0, 1e-5, 1e-2, "the float64 reference")
    db.set_winner(machine.detect(), found, None, None)


def test_a_wrong_winner_is_refused_and_a_right_one_used(tmp_path, monkeypatch) -> None:
    with open_db(tmp_path / "t.db") as db:
        put(db, WRONG)
        refused = choice(db)
        assert refused.source is Source.DEFAULT and "is refused: it computes wrongly here" in refused.detail
        put(db, RIGHT)
        assert choice(db).source is Source.EXACT and choice(db).config == RIGHT


def test_a_proof_is_made_once(tmp_path, monkeypatch) -> None:
    assert proofs.refusal(PROBLEM, Config(RIGHT)) is None
    wrong = proofs.refusal(PROBLEM, Config(WRONG))
    monkeypatch.setattr(proofs, "_proved", None)
    assert proofs.refusal(PROBLEM, Config(RIGHT)) is None and proofs.refusal(PROBLEM, Config(WRONG)) == wrong


def test_what_is_refused_is_marked_and_the_next_source_is_asked(tmp_path) -> None:
    device, near = machine.detect(), Matvec(96, 192, "Q8_0")
    path = tmp_path / "t.db"
    with open_db(path) as db:
        found = Winner(near.key, 1, {**RIGHT, "prefetch": 2048}, Measurement(9.0, 9.0, 9.0, 9), 20.0, 1e-5, 1e-2)
        db.set_winner(device, found, None, None)
        put(db, RIGHT)  # an older one of this very problem
        put(db, WRONG)
        assert db.lookup(device, PROBLEM.key, 1).winner.config == WRONG
    with open_db(path, readonly=True) as db:
        chosen = choice(db)
        assert chosen.config == RIGHT and chosen.source is Source.EXACT and "is refused: it computes" in chosen.detail
        assert db.refused(device) == {PROBLEM.key: [WRONG]}  # though it was open for reading
        (trial,) = db.past_trials(device, PROBLEM.key, 1)
        assert trial.outcome is Outcome.WRONG and "computes wrongly here" in trial.message
    with open_db(path) as db:
        db.mark_refused(device, PROBLEM.key, 1, WRONG, "again")
        assert len(db.past_trials(device, PROBLEM.key, 1)) == 1
        db.mark_refused(device, PROBLEM.key, 1, RIGHT, "so that the nearest shape is left")
        assert choice(db).source is Source.NEAREST_SHAPE
        db.mark_refused(device, PROBLEM.key, 1, found.config, "so that nothing is")
        assert choice(db).source is Source.DEFAULT


def test_a_winner_from_before_a_parameter_gives_way_to_the_next_best(tmp_path) -> None:
    """What is proved has a value for the parameter, what the database holds has none."""
    space = registry.cpu_space(PROBLEM, machine.features())
    newer = (replace(p, formerly=0) if p.name == "prefetch" else p for p in space.parameters)
    space = replace(space, parameters=tuple(newer))
    wrong, right = ({name: v for name, v in each.items() if name != "prefetch"} for each in (WRONG, RIGHT))
    device, asked = machine.detect(), []

    def refusal(problem, config) -> str | None:
        asked.append(config)
        return "it computes wrongly here" if config == WRONG else None

    with open_db(tmp_path / "t.db") as db:
        put(db, right)
        put(db, wrong)
        for _ in range(2):
            chosen = choose([PROBLEM], device, lambda p: space, db, refusal)[PROBLEM]
            assert (chosen.config, chosen.source) == (RIGHT, Source.EXACT)
        assert asked == [WRONG, RIGHT, RIGHT] and db.refused(device) == {PROBLEM.key: [wrong]}


def test_what_is_marked_is_not_even_asked_for(tmp_path, monkeypatch) -> None:
    with open_db(tmp_path / "t.db") as db:
        put(db, WRONG)
        assert choice(db).source is Source.DEFAULT
        monkeypatch.setattr(proofs, "refusal", None)
        assert choice(db).source is Source.DEFAULT
        put(db, WRONG)  # a merge brings it again
        assert choice(db).source is Source.DEFAULT


def test_few_are_proved_before_the_default_is_used(tmp_path) -> None:
    features, proved = machine.features(), []
    with open_db(tmp_path / "t.db") as db:
        for prefetch in (2048, 4096, 8192, 16384, 32768):
            put(db, {**RIGHT, "prefetch": prefetch})

        def refuse(problem, config) -> str:
            proved.append(config)
            return "it computes wrongly here"

        space = registry.cpu_space(PROBLEM, features)
        chosen = choose([PROBLEM], machine.detect(), lambda p: space, db, refuse)[PROBLEM]
    assert chosen.source is Source.DEFAULT and len(proved) == len(set(proved)) == MOST_REFUSED
    assert chosen.detail.count("is refused") == MOST_REFUSED


def test_a_claim_does_not_replace_what_was_measured_here(tmp_path) -> None:
    device = machine.detect()
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    with open_db(ours) as db:
        run = db.begin_run(device, Run(PROBLEM.key, 1, "pool", 0, 9, 9, 9, {}))
        found = Winner(PROBLEM.key, 1, RIGHT, Measurement(9.0, 10.0, 11.0, 9), 20.0, 1e-5, 1e-4)
        db.set_winner(device, found, run, None)
        db.finish_run(run, RunStatus.FINISHED.value)
    with open_db(theirs) as db:
        put(db, WRONG, 1.0)
        records = db.exported()
    with open_db(ours) as db:
        db.add(records)
        assert db.lookup(device, PROBLEM.key, 1).winner.config == RIGHT
