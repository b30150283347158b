"""One test for each source of a configuration, the order among them, and how near "nearest" is."""

import dataclasses
import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_templates.device import Device
from tuning_db import DatabaseError, jsonl, keys, open_db, shipped
from tuning_db.lookup import nearest_shape
from tuning_db.records import Outcome, Source, Trial, TrialKind

OTHER_SHAPE = "matvec:rows=1536,cols=576,format=Q4_1,residual=1"
FAR_SHAPE = "matvec:rows=49152,cols=576,format=Q4_1,residual=1"
GPUS = (("L40", "8.9", 132), ("PCIe", "9.0", 114), ("H200", "9.0", 132), ("T4", "7.5", 40))
OTHER_FORMAT = "matvec:rows=576,cols=576,format=Q8_0,residual=1"


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "tuning.db") as opened:
        yield opened


def test_exact_beats_everything(db, samples):
    here = samples.device()
    db.set_winner(here, samples.winner(tile=1), None, None)
    db.set_winner(samples.device(numba="0.62"), samples.winner(tile=2, median_ns=1.0), None, None)
    db.set_winner(here, samples.winner(OTHER_SHAPE, tile=3), None, None)
    found = db.lookup(here, samples.key, 1)
    assert found.source is Source.EXACT and found.winner == samples.winner(tile=1)


def test_same_chip_takes_the_newest_and_names_the_difference(db, samples):
    db.set_winner(samples.device(numba="0.59", memory_bytes=4 << 30), samples.winner(tile=1), None, None)
    db.set_winner(samples.device(numba="0.60"), samples.winner(tile=2), None, None)
    db.set_winner(samples.device(), samples.winner(OTHER_SHAPE, tile=3), None, None)
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.SAME_CHIP and found.winner.config == {"tile": 2}
    assert "numba 0.60 → 0.61" in found.detail and "memory" not in found.detail


def test_nearest_shape_on_this_chip(db, samples):
    for tile, key in enumerate((FAR_SHAPE, OTHER_SHAPE, OTHER_FORMAT)):
        db.set_winner(samples.device(), samples.winner(key, tile=tile), None, None)
    db.set_winner(samples.device("H100"), samples.winner(tile=9), None, None)
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.NEAREST_SHAPE and found.winner.problem == OTHER_SHAPE
    assert "rows 1536 → 576" in found.detail and "1.41 doublings" in found.detail


def test_another_chip_answers_last_and_never_silently(db, samples):
    db.set_winner(samples.device("EPYC"), samples.winner(), None, None)
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.NEAREST_CHIP and not found.measured_here
    assert found.detail.startswith("measured on another chip: chip EPYC → Xeon; no run")
    db.set_winner(samples.device(), samples.winner(FAR_SHAPE, tile=7), None, None)
    assert db.lookup(samples.device(), samples.key, 1).source is Source.NEAREST_SHAPE


def test_a_gpu_of_another_capability_is_never_an_answer(db, samples):
    chips = {name: Device("cuda", name, sm, units, 80 << 30) for name, sm, units in GPUS}
    for tile, name in enumerate(("L40", "PCIe")):
        db.set_winner(chips[name], samples.winner(tile=tile), None, None)
    found = db.lookup(chips["H200"], samples.key, 1)
    assert found.source is Source.NEAREST_CHIP and found.winner.config == {"tile": 1}
    nothing = db.lookup(chips["T4"], samples.key, 1)
    assert nothing.source is Source.DEFAULT and nothing.winner is None
    assert nothing.detail.startswith("tuned only on another chip: chip ") and "capability" in nothing.detail


def test_leaders_are_of_the_nearest_problem_with_trials_the_fastest_first(db, samples):
    def tried(device, problem, *times):
        run = db.begin_run(device, samples.run(problem))
        for tile, ns in enumerate(times, 1):
            db.record_trial(run, samples.trial(tile, ns))
        return run

    def leaders(most):
        return [found["tile"] for found in db.leaders(samples.device(), samples.key, 1, most)]

    assert leaders(5) == []
    tried(samples.device(), samples.key, 1.0)  # this very problem: it is resumed, and is no hint
    tried(samples.device(), FAR_SHAPE, 1.0, 2.0)
    tried(samples.device(), OTHER_FORMAT, 1.0)
    db.record_trial(db.begin_run(samples.device(), samples.run(samples.key, 2)), samples.trial(9))  # another template
    assert leaders(5) == [1, 2]
    tried(samples.device("EPYC"), OTHER_SHAPE, 3.0)
    near = tried(samples.device(), OTHER_SHAPE, 30.0, 10.0, 20.0, 40.0)
    db.record_trial(near, Trial({"tile": 8}, Outcome.WRONG))
    assert leaders(3) == [2, 3, 1] and leaders(1) == [2]
    db.record_trial(near, dataclasses.replace(samples.trial(2, 25.0), kind=TrialKind.FINAL_COMPARISON))  # it was luck
    assert leaders(2) == [3, 2]


@pytest.fixture
def ships(tmp_path, monkeypatch, samples):
    """ships(*winners, device): files of shipped winners."""

    def ship(device, *winners):
        with open_db(tmp_path / "ship.db") as other:
            for winner in winners:
                other.set_winner(device, winner, None, None)
            text = "\n".join(jsonl.write(other.exported(winners_only=True)))
        shipped.FOLDER.mkdir(exist_ok=True)
        (shipped.FOLDER / shipped.file_name(device.chip_key)).write_text(text)

    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    return ship


def test_shipped_winners_lie_beneath_the_users_own(db, samples, ships):
    here, other = samples.device(), samples.device(numba="0.59")
    ships(other, samples.winner(tile=8), samples.winner(FAR_SHAPE, tile=9))
    found = db.lookup(here, samples.key, 1)
    assert found.source is Source.SHIPPED and found.winner.config == {"tile": 8}
    assert "numba 0.59 → 0.61" in found.detail
    assert db.lookup(here, samples.key, 2).source is Source.DEFAULT
    near = db.lookup(here, OTHER_SHAPE, 1)  # between both, and 1.41 doublings from one
    assert near.source is Source.NEAREST_SHAPE and near.detail.startswith("shipped with autotune: matvec:rows=576")
    db.set_winner(samples.device(numba="0.60"), samples.winner(tile=1), None, None)
    assert db.lookup(here, samples.key, 1).source is Source.SAME_CHIP
    assert db.lookup(samples.device("EPYC"), FAR_SHAPE, 1).source is Source.NEAREST_CHIP
    assert [w.winner.problem for w in db.winners()] == [samples.key]  # nothing shipped gets into the file


def test_a_damaged_shipped_file_is_one_line(db, samples, ships):
    ships(samples.device(), samples.winner())
    (file,) = shipped.FOLDER.iterdir()
    file.write_text(file.read_text().replace('"error":0.001', '"error":0.1'))
    with pytest.raises(DatabaseError, match="line 3: a winner has to be correct"):
        db.lookup(samples.device(), samples.key, 1)


def test_an_answer_changes_when_somebody_else_writes_a_winner(db, samples):
    with open_db(db.path, readonly=True) as reader:
        assert reader.lookup(samples.device(), samples.key, 1).source is Source.DEFAULT
        for tile in (1, 2):
            db.set_winner(samples.device(), samples.winner(tile=tile), None, None)
            for asked in (reader, db):
                assert asked.lookup(samples.device(), samples.key, 1).winner.config == {"tile": tile}


WANTED = [(f"{op}:rows={rows},cols=577,format=Q4_1", 1) for op in ("matvec", "ffn", "head") for rows in (576, 700)]
WANTED += [(f"{op}:rows=640,cols=576,format=Q4_1", 1) for op in ("matvec", "ffn", "head")] + [("sort:rows=1", 1)]


@pytest.fixture(scope="module")
def large(tmp_path_factory, samples):
    """A file of two thousand winners; WANTED are a model's problems: of the nearest shape, exact, unknown."""
    path = tmp_path_factory.mktemp("large") / "large.db"
    with open_db(path) as opened:
        opened._connection.execute("PRAGMA synchronous = OFF")
        for number in range(2000):
            op, size = ("matvec", "ffn", "head", "attention")[number % 4], 64 * (1 + number // 4)
            opened.set_winner(samples.device(), samples.winner(f"{op}:rows={size},cols=576,format=Q4_1"), None, None)
    return path


@dataclasses.dataclass
class Asked:
    """What SQLite was asked: statements, and steps of its virtual machine."""

    statements: list[str] = dataclasses.field(default_factory=list)
    steps: int = 0

    def step(self) -> None:
        self.steps += 1


@pytest.fixture
def asked(monkeypatch):
    """Counts for the connections that are opened from now on."""
    found, connect = Asked(), sqlite3.connect

    def counted(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_trace_callback(found.statements.append)
        connection.set_progress_handler(found.step, 1)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counted)
    return found


def test_lookups_among_two_thousand_winners_ask_little(large, asked, samples):
    """Cold, each winner of the three families is read once; warm, SQLite only says that nothing has changed."""
    with open_db(large, readonly=True) as reader:
        asked.statements.clear()
        asked.steps = 0
        found = reader.lookup_all(samples.device(), WANTED)
        assert [found[problem].source for problem, _ in WANTED] == (
            [Source.NEAREST_SHAPE] * 6 + [Source.EXACT] * 3 + [Source.DEFAULT]
        )
        assert sum(statement.startswith("SELECT") for statement in asked.statements) <= 2 * len(WANTED)
        assert 3 * 500 < asked.steps < 40 * 3 * 500
        asked.statements.clear()
        for problem in WANTED:
            assert reader.lookup(samples.device(), *problem) == found[problem[0]]
        assert asked.statements == ["PRAGMA data_version"] * len(WANTED)


def test_many_exact_answers_are_one_query(large, asked, samples):
    keys_of = [(f"matvec:rows={64 * i},cols=576,format=Q4_1", 1) for i in range(1, 41)]
    counts = []
    for wanted in (keys_of[:1], keys_of):
        with open_db(large, readonly=True) as reader:
            asked.statements.clear()
            assert {a.source for a in reader.lookup_all(samples.device(), wanted).values()} == {Source.EXACT}
            counts.append(sum(statement.startswith("SELECT") for statement in asked.statements))
    assert counts == [2, 2]  # and one for the generation of winners


@pytest.mark.timing
def test_lookups_among_two_thousand_winners_are_fast(large, samples):
    """A model's problems cold, and one warm lookup."""
    cold, warm = [], []
    for _ in range(7):
        with open_db(large, readonly=True) as reader:
            keys.parse.cache_clear()
            start = time.perf_counter()
            reader.lookup_all(samples.device(), WANTED)
            cold.append(time.perf_counter() - start)
            for _ in range(50):
                start = time.perf_counter()
                reader.lookup(samples.device(), *WANTED[0])
                warm.append(time.perf_counter() - start)
    print(f"a model {min(cold) * 1e3:.2f} ms, one warm {sorted(warm)[len(warm) // 2] * 1e6:.1f} µs")
    assert min(cold) < 5e-3 and min(warm) < 20e-6


def test_another_template_version_is_never_an_answer(db, samples):
    db.set_winner(samples.device(), samples.winner(), None, None)
    found = db.lookup(samples.device(), samples.key, 2)
    assert found.source is Source.DEFAULT
    assert found.detail == "tuned for template version 1, this is version 2"


def test_another_format_is_never_an_answer(db, samples):
    db.set_winner(samples.device(), samples.winner(OTHER_FORMAT), None, None)
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.DEFAULT
    assert found.detail == f"nearest on this chip is {OTHER_FORMAT}: format Q8_0 → Q4_1"


def test_nothing_known_says_so(db, samples):
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.DEFAULT and found.detail == "nothing tuned for matvec on this chip"


def test_only_the_current_winner_answers(db, samples):
    for tile in (1, 2):
        db.set_winner(samples.device(), samples.winner(tile=tile), None, None)
    assert db.lookup(samples.device(), samples.key, 1).winner.config == {"tile": 2}


def test_many_problems_at_once_answer_like_one_by_one(db, samples):
    for rows in (64, 576, 4096):
        key = f"matvec:rows={rows},cols=576,format=Q4_1,residual=1"
        db.set_winner(samples.device(numba=str(rows)), samples.winner(key, tile=rows), None, None)
    wanted = [(samples.key, 1), (OTHER_SHAPE, 1), (OTHER_FORMAT, 1), ("ffn:hidden=576", 3)]
    together = db.lookup_all(samples.device(), wanted)
    assert together == {key: db.lookup(samples.device(), key, version) for key, version in wanted}
    assert db.lookup_all(samples.device(), []) == {}


sizes = st.integers(0, 200_000)
shapes = st.builds("matvec:rows={},cols={},format={}".format, sizes, sizes, st.sampled_from(["Q4_0", "Q8_0"]))


@given(shapes, shapes)
def test_distance_is_symmetric_and_zero_only_for_the_same_problem(one, other):
    there, back = keys.distance(keys.parse(one), keys.parse(other)), keys.distance(keys.parse(other), keys.parse(one))
    assert (there is None) == (one.split("format")[1] != other.split("format")[1])
    if there is not None:
        assert there == pytest.approx(back) and (there == 0) == (one == other)


@given(st.lists(shapes, min_size=1, max_size=6, unique=True), shapes)
def test_nearest_is_the_minimum_over_all_comparable_shapes(samples, tuned, wanted):
    table = [
        {"problem": key, "template_version": 1, "fingerprint": "f", "id": number, "run_id": 1, "created_at": "2026"}
        for number, key in enumerate(tuned)
    ]
    found = nearest_shape(samples.device(), wanted, 1, table)
    away = {key: keys.distance(keys.parse(wanted), keys.parse(key)) for key in tuned}
    comparable = {key: value for key, value in away.items() if value is not None}
    if not comparable:
        assert found is None
    else:
        assert found.source is Source.NEAREST_SHAPE
        assert comparable[found.row["problem"]] == min(comparable.values())


key_like_text = st.text("ab01:=,٣²-", max_size=20)


@given(key_like_text, key_like_text)
def test_any_text_is_a_key(one, other):
    first, second = keys.parse(one), keys.parse(other)
    assert keys.distance(first, first) == 0
    assert keys.differences(first, first) == ""
    keys.distance(first, second)
    keys.differences(first, second)
