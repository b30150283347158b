"""`autotune export` and `autotune import` on the command line."""

import gzip
import json

from autotune.commands.export import export
from autotune.importers import registry
from tuning_db import open_db


def test_a_run_is_exported_and_imported_elsewhere(autotune, filled, tmp_path) -> None:
    out = tmp_path / "run.json.gz"
    assert autotune("export", "--run", 1, "--out", out, "--db", filled).stdout == ""
    document = json.loads(gzip.decompress(out.read_bytes()))
    assert document["metadata"]["run"]["problem"].startswith("matvec:") and len(document["results"]) == 1
    other = tmp_path / "other.db"
    told = json.loads(autotune("import", out, "--db", other, "--json").stdout)["imported"]
    assert [(one["format"], one["found"], one["failed"]) for one in told] == [("T4", 1, 0)]
    assert "run.json.gz: T4, 1 result, 0 failed; matvec:" in autotune("import", out, "--db", other).stdout
    with open_db(filled, readonly=True) as before, open_db(other, readonly=True) as after:
        assert after.trials(1) == before.trials(1)


def test_a_file_that_is_imported_twice_counts_once(autotune, filled, tmp_path) -> None:
    out, other = tmp_path / "run.json", tmp_path / "other.db"
    autotune("export", "--run", 1, "--out", out, "--db", filled)
    first, again = (autotune("import", out, "--db", other).stdout for _ in range(2))
    assert first == again
    with open_db(other, readonly=True) as db:
        assert len(db.runs()) == 1


def test_a_run_that_comes_back_adds_nothing(autotune, filled, tmp_path) -> None:
    out = tmp_path / "run.json"
    autotune("export", "--run", 1, "--out", out, "--db", filled)
    with open_db(filled, readonly=True) as db:
        before = db.exported()
    result = autotune("import", out, "--db", filled)
    assert "run 1" in result.stdout and "in the database already; nothing was added" in result.stderr
    with open_db(filled, readonly=True) as db:
        assert db.exported() == before


def test_the_space_of_a_run(autotune, filled) -> None:
    document = json.loads(autotune("export", "--format", "t1", "--db", filled).stdout)
    assert {p["Name"] for p in document["ConfigurationSpace"]["TuningParameters"]} >= {"lanes"}
    assert document["KernelSpecification"]["KernelFile"] == "kernel_templates/matvec/cpu.py"


def test_export_offers_every_exporter() -> None:
    (formats,) = (option.type.choices for option in export.params if option.name == "kind")
    assert set(formats) == set(registry.EXPORTERS)


def test_mistakes_are_one_line(complaint, filled, tmp_path) -> None:
    assert "no run 99" in complaint("export", "--run", 99, "--db", filled)
    assert "no run to export" in complaint("export")
    assert "cannot be written" in complaint("export", "--out", tmp_path / "no" / "x.json", "--db", filled)
    strange = tmp_path / "strange.json"
    strange.write_text('{"hello": 1}')
    assert "no kind that can be imported" in complaint("import", strange)
    strange.write_text('{"results": [')
    assert "is damaged" in complaint("import", strange)
