"""`autotune db` explain, schema, export, import, merge, prune and vacuum, and what is shipped."""

import json
import sqlite3
from dataclasses import replace

import pytest

from autotune.runner import ceilings
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.space import Config, Parameter
from tuning_db import jsonl, open_db, shipped
from tuning_db.records import Measurement, Outcome, Run, Trial, TrialKind, Winner

KEY = "matvec:rows=64,cols=64,format=Q4_0,activation=int16"
ROOFS = ("read_gb_s", "copy_gb_s", "int8_gop_s", "f32_gflop_s")


@pytest.fixture
def tuned_here(tmp_path):
    """A database of this machine with a run of three trials and a rematch."""
    from kernel_templates.cpu import machine

    path, here = tmp_path / "here.db", machine.detect()
    with open_db(path) as db:
        run = db.begin_run(here, Run(KEY, registry.parse_problem(KEY).template_version, "pool", 7, 96, 20_000, 1))
        for lanes, ns in ((16, 3000.0), (32, 1100.0), (64, 1000.0)):
            measured = Measurement(ns * 0.9, ns, ns * 1.2, 30)
            db.record_trial(run, Trial({"lanes": lanes}, Outcome.OK, measured, 0.5, 1e-4, 1e-2))
        db.record_trial(run, Trial({"lanes": 8}, Outcome.WRONG, None, 0.5, 1.0, 1e-2, "wrong"))
        for lanes, ns in ((32, 1050.0), (64, 1000.0)):
            measured = Measurement(ns * 0.9, ns, ns * 1.2, 30)
            proved = (Outcome.OK, measured, None, 1e-4, 1e-2)
            trial = db.record_trial(run, Trial({"lanes": lanes}, *proved, kind=TrialKind.FINAL_COMPARISON))
        version = registry.parse_problem(KEY).template_version
        winner = Winner(KEY, version, {"lanes": 64}, measured, 4000.0, 1e-4, 1e-2, "a reference", {"numba": "0.61"})
        db.set_winner(here, winner, run, trial)
        db.finish_run(run, "finished")
    return path


def test_explain_says_why_and_what_was_second(autotune, tuned_here) -> None:
    text = autotune("db", "explain", KEY[:20], "--db", tuned_here).stdout
    for part in (
        "Tuned for this very device", "lanes=64", "1.00 µs (median of 30", "the default 4.00 µs: 4.00×",
        "Verified against a reference: relative error 1.00e-04, allowed 1.00e-02",
        "Second best, +5.0%: lanes=32, 1.05 µs in the same comparison",
        "sampler pool, seed 7, finished); 4 trials of 96 configurations, 1 failed", "numba 0.61",
    ):  # fmt: skip
        assert part in text, text
    document = json.loads(autotune("db", "explain", KEY, "--db", tuned_here, "--json").stdout)
    assert document["source"] == "exact" and document["second"]["config"] == {"lanes": 32}


def test_explain_says_what_was_proved_and_refused_here(autotune, tuned_here, monkeypatch, tmp_path) -> None:
    from kernel_templates import proof_record
    from kernel_templates.cpu import machine

    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    problem, here = registry.parse_problem(KEY), machine.detect()

    def said() -> tuple[str, dict]:
        words = ("db", "explain", KEY, "--db", tuned_here)
        return autotune(*words).stdout, json.loads(autotune(*words, "--json").stdout)

    text, document = said()
    assert "Not proved on this device yet" in text and document["proved"] is None and document["refused"] == []
    proof_record.remember(problem, Config({"lanes": 64}), here, None)
    text, document = said()
    assert f"Proved on this device on {document['proved'][:10]}." in text
    space = registry.cpu_space(problem, machine.features())
    newer = replace(space, parameters=(*space.parameters, Parameter("newer", (0, 1), 1, "", formerly=0)))
    with monkeypatch.context() as patch:
        patch.setattr(registry, "cpu_space", lambda *_: newer)
        assert said()[1]["proved"] is None, "nothing is proved with what is new"
        proof_record.remember(problem, Config({"lanes": 64, "newer": 0}), here, None)
        assert said()[1]["proved"] is not None
    with open_db(tuned_here) as db:
        db.mark_refused(here, KEY, problem.template_version, {"lanes": 64}, "it computes wrongly here")
    text, document = said()
    assert document["refused"] == [{"lanes": 64}] and document["config"] is None
    assert "Refused, for it computes wrongly here: lanes=64." in text


def test_explain_of_a_miss_names_what_differs(autotune, complaint, filled) -> None:
    text = autotune("db", "explain", KEY, "--db", filled).stdout
    assert "borrowed from another one: measured on another chip: chip " in text
    other = KEY.replace("Q4_0", "Q8_0")
    assert "nothing tuned for matvec on this chip" in autotune("db", "explain", other, "--db", filled).stdout
    assert "2 problems begin with 'matvec'" in complaint("db", "explain", "matvec", "--db", filled)
    assert "is no problem" in complaint("db", "explain", "sort:n=1", "--db", filled)


def test_schema(autotune, complaint) -> None:
    assert "replaced_at" in autotune("db", "schema", "winners").stdout
    assert "v_winners" in json.loads(autotune("db", "schema", "--json").stdout)
    assert "no table is called 'x'" in complaint("db", "schema", "x")


def test_export_and_import(autotune, complaint, filled, tmp_path) -> None:
    text, other = tmp_path / "all.jsonl", tmp_path / "other.db"
    autotune("db", "export", "--db", filled, "-o", text)
    assert "is there already" in complaint("db", "export", "--db", filled, "-o", text)
    assert "new 2 devices, 3 runs, 3 trials, 3 winners" in autotune("db", "import", text, "--db", other).stdout
    assert autotune("db", "export", "--db", other).stdout == text.read_text()
    again = json.loads(autotune("db", "import", text, "--db", other, "--json").stdout)
    assert again["files"][str(text)] == {
        "new": {"devices": 0, "runs": 0, "trials": 0, "winners": 0}, "conflicts": [], "left_out": [],
    }  # fmt: skip
    ryzen = autotune("db", "export", "--winners", "--chip", "ryzen", "--db", filled).stdout
    assert [json.loads(line).get("kind") for line in ryzen.splitlines()] == [None, "device", "winner"]
    piped = autotune("db", "import", "-", "--db", tmp_path / "third.db", input=ryzen)
    assert "-: new 1 device, 0 runs, 0 trials, 1 winner" in piped.stdout
    assert "no device has 'M4'" in complaint("db", "export", "--chip", "M4", "--db", filled)
    copy = tmp_path / "copy.db"
    autotune("db", "export", "--sqlite", "-o", copy, "--db", filled)
    assert sqlite3.connect(copy).execute("SELECT count(*) FROM v_winners").fetchone() == (3,)
    assert "--sqlite writes the whole database" in complaint("db", "export", "--sqlite", "--db", filled)


def test_what_makes_no_sense_is_left_out_of_an_import(complaint, filled, autotune, tmp_path) -> None:
    bad, other = tmp_path / "bad.jsonl", tmp_path / "other.db"
    text = autotune("db", "export", "--db", filled).stdout.splitlines()
    at = next(n for n, line in enumerate(text, 1) if '"kind":"winner"' in line)
    text[at - 1] = text[at - 1].replace('"error":0.0001', '"error":1')
    bad.write_text("\n".join(text))
    result = autotune("db", "import", bad, "--db", other)
    assert result.exit_code == 2 and "new 2 devices, 3 runs, 3 trials, 2 winners" in result.stdout
    assert result.stderr.count("\n") == 1
    assert f"left out 1 record that cannot be, the first: line {at}: a winner has to be correct" in result.stderr
    other.unlink()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "is not an export" in complaint("db", "import", tmp_path / "text", "--db", other)
    assert "neither a tuning database nor" in complaint("db", "merge", tmp_path / "bytes", "--db", other)
    assert "is not there" in complaint("db", "merge", tmp_path / "gone.db", "--db", other)


def test_a_merge_leaves_out_rows_that_make_no_sense(autotune, filled, tmp_path) -> None:
    ours, theirs = tmp_path / "ours.db", filled
    raw = sqlite3.connect(theirs, isolation_level=None)
    raw.execute("UPDATE winners SET config = '[]' WHERE id = 1")
    result = autotune("db", "merge", theirs, "--db", ours)
    assert result.exit_code == 2 and "new 2 devices, 3 runs, 3 trials, 2 winners" in result.stdout
    assert "left out 1 record that cannot be, the first: config of a winner cannot be" in result.stderr
    assert autotune("db", "list", "--db", ours).exit_code == 0


def test_a_senseless_row_hides_no_other_and_can_be_removed(autotune, filled) -> None:
    raw = sqlite3.connect(filled, isolation_level=None)
    raw.execute("UPDATE winners SET config = '{\"lanes\":[1]}' WHERE id = 1")
    raw.execute("UPDATE run_trials SET created_at = 'yesterday' WHERE id = 2")
    result = autotune("db", "list", "--db", filled)
    assert result.exit_code == 0 and "2 winners" in result.stdout
    assert result.stderr.count("\n") == 1 and "`autotune db repair` removes them" in result.stderr
    text = autotune("db", "repair", "--db", filled).stdout
    assert "winners 1 (" in text and "run_trials 2 (" in text and text.endswith("removed 2 rows that made no sense\n")
    assert autotune("db", "list", "--db", filled).stderr == ""
    assert autotune("db", "repair", "--db", filled).stdout == "removed 0 rows that made no sense\n"


def test_merge_shows_conflicts(autotune, tmp_path) -> None:
    chip, paths = Device("cpu", "Xeon", "avx2", 2, 8 << 30), [tmp_path / "a.db", tmp_path / "b.db"]
    for path, ns in zip(paths, (2000.0, 1000.0), strict=True):
        with open_db(path) as db:
            db.set_winner(chip, Winner(KEY, 1, {"lanes": 64}, Measurement(ns, ns, ns, 9), None, 0.0, 1.0), None, None)
    text = autotune("db", "merge", *paths, "--db", tmp_path / "ours.db").stdout
    assert f"{KEY} on Xeon: theirs is used, 1.00 µs; ours took 2.00 µs" in text
    assert "is used" not in autotune("db", "merge", *paths, "--db", tmp_path / "ours.db").stdout


def test_prune_and_vacuum(autotune, complaint, filled) -> None:
    assert autotune("db", "prune", "--dry-run", "--db", filled).stdout == "would delete 0 winners, 0 trials, 0 runs\n"
    assert json.loads(autotune("db", "prune", "--db", filled, "--json").stdout)["deleted"]["winners"] == 0
    assert "bytes →" in autotune("db", "vacuum", "--db", filled).stdout
    assert "there is no tuning database" in complaint("db", "vacuum")


REAL = sorted((shipped.Path(shipped.__file__).parent / "shipped").glob("*.jsonl"))


@pytest.mark.parametrize("path", REAL, ids=[path.stem for path in REAL])
def test_what_is_shipped_can_be_used(path, monkeypatch) -> None:
    """Every winner is of a problem that there is, valid in its space, and found by a model that asks for it."""
    monkeypatch.setattr(shipped, "FOLDER", path.parent)
    text = path.read_text().splitlines()
    facts = list(jsonl.read(text, path.name))
    assert list(jsonl.write(facts)) == text
    (first, *_) = [f for f in facts if f["kind"] == "device"]
    assert path.name == shipped.file_name(first["chip_key"])
    device = Device(
        first["backend"], first["chip"], first["capability"], first["units"], first["memory_bytes"], (("driver", "9"),)
    )
    usable = 0
    with open_db(readonly=True) as db:
        for fact in facts:
            if fact["kind"] == "winner":
                problem = registry.parse_problem(fact["problem"])
                if problem.template_version == fact["template_version"]:
                    found = db.lookup(device, problem.key, problem.template_version)
                    assert found.source.name == "SHIPPED" and "driver" in found.detail and found.winner is not None
                    space = registry.space(problem, device)
                    usable += space.broken(space.completed(found.winner.config)) is None
    assert usable >= 0.9 * sum(f["kind"] == "winner" for f in facts)


@pytest.mark.parametrize(
    "words",
    [
        ("dashboard", "-o"), ("export", "--out"), ("db", "plot", KEY, "-o"), ("db", "export", "-o"),
        ("db", "export", "--sqlite", "-o"),
    ],
)  # fmt: skip
def test_no_output_overwrites_a_database_or_a_model(complaint, tuned_here, tmp_path, tiny_model, words) -> None:
    link, other = tmp_path / "link.svg", tmp_path / "other.db"
    link.symlink_to(tuned_here)
    open_db(other).close()
    for target in (tuned_here, link, other, tiny_model):
        before = target.read_bytes()
        complaint(*words, target, "--db", tuned_here)
        assert target.read_bytes() == before


def test_names_reach_the_terminal_without_escapes(autotune, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ceilings, "_measure", lambda device, index: dict.fromkeys(ROOFS, 31.5))
    path, chip = tmp_path / "a.db", Device("cpu", "Xe\x1b[31mon\x9b2J\r\n\x07", "avx2", 2, 8 << 30)
    with open_db(path) as db:
        run = db.begin_run(chip, Run("op:\x1b]0;title\x07=1", 1, "po\x1b[2Jol", 7, 96, 20_000, 1))
        winner = Winner(
            "op:\x1b]0;title\x07=1", 1, {"a\x1b[1m": "\x1b[2J"}, Measurement(1.0, 1.0, 1.0, 9), None, 0.0, 1.0
        )
        db.set_winner(chip, winner, run, None)
    for words in (("db", "list"), ("db", "list", "--runs"), ("db", "best", "op"), ("devices",)):
        result = autotune(*words, "--db", path)
        assert result.exit_code == 0
        assert not set(result.stdout + result.stderr) & set("\x1b\x9b\r\x07"), words
