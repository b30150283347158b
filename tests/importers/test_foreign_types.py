"""Every value of a valid T4 or Kernel Tuner file replaced by whatever JSON can say: read, or one line; never a bug."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importing import import_file
from json_values import VALUES, places, put
from test_tuner_formats import CACHE, FOREIGN, H100

from autotune import UserError
from autotune.importers import files, t4
from tuning_db import open_db
from tuning_db.records import Measurement, Outcome, Run, RunStatus, StoredRun, Trial


def ours() -> dict[str, Any]:
    """T4 as we write it."""
    measured = Measurement(9.0, 10.0, 12.0, 30, {"mhz": [1.0, 2.0]}, 3.0)
    made = [
        Trial({"a": 1, "b": "x"}, Outcome.OK, measured, 0.5, 1e-3, 1e-2),
        Trial({"a": 2, "b": "y"}, Outcome.WRONG, None, 0.5, float("inf"), 1e-2, "relative error inf"),
    ]
    run = Run("x:a=1", 1, "pool", 0, 3, 0, 0, {"commit": "abc"})
    day = "2026-01-01T00:00:00+00:00"
    return json.loads(json.dumps(t4.document(StoredRun(1, "u", H100, run, RunStatus.FINISHED, 2, day, day), made)))


KINDS = {"our T4": ours(), "another's T4": FOREIGN, "Kernel Tuner": json.loads(CACHE + "}}")}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database as it begins."""
    path = tmp_path_factory.mktemp("empty") / "t.db"
    open_db(path).close()
    return path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere(tmp_path: Path, empty: bytes, kind: str, data: st.DataObject) -> None:
    changed = put(KINDS[kind], data.draw(st.sampled_from(list(places(KINDS[kind])))), data.draw(VALUES))
    path, database = tmp_path / "f.json", tmp_path / "t.db"
    path.write_text(json.dumps(changed))
    database.write_bytes(empty)
    with open_db(database) as db, warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = import_file(path, db)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
            assert db.runs() == []
        else:
            assert found is None or len(db.trials(found.run)) == found.found


def test_each_value_of_another_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    with open_db(tmp_path / "t.db") as db:
        for kind, place, said in (
            ("our T4", ("metadata", "device", "units"), "metadata/device/units cannot be"),
            ("our T4", ("metadata", "run", "seed"), "metadata/run/seed cannot be"),
            ("another's T4", ("results", 1, "times"), "results/1/times cannot be"),
            ("another's T4", ("results", 1, "objectives"), "results/1/objectives cannot be"),
            ("Kernel Tuner", ("cache", "1,3", "compile_time"), "cache/1,3/compile_time cannot be"),
            ("Kernel Tuner", ("objective",), "objective cannot be"),
        ):
            path.write_text(json.dumps(put(KINDS[kind], place, [{}])))
            with pytest.raises(UserError, match=said):
                import_file(path, db)


def test_a_document_of_too_many_values_is_refused_before_it_is_parsed(tmp_path, monkeypatch) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"results": [[]] * 50}))
    monkeypatch.setattr(files, "LARGEST_COUNT", 100)
    monkeypatch.setattr(files.json, "loads", None)
    with open_db(tmp_path / "t.db") as db, pytest.raises(UserError, match="more than some 100 values"):
        import_file(path, db)
