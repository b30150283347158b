"""`autotune db`: tables for people, documents for programs, and nothing written."""

import json

MATVEC = "matvec:rows=64,cols=64,format=Q4_0,activation=int16"


def test_info(autotune, filled, own_database) -> None:
    facts = json.loads(autotune("db", "info", "--db", filled, "--json").stdout)
    assert facts["path"] == str(filled) and facts["winners"] == 3 and facts["runs"] == 3 and facts["exists"]
    text = autotune("db", "info", "--db", filled).stdout
    assert f"path              {filled}\n" in text and "schema version" in text
    missing = autotune("db", "info")
    assert missing.exit_code == 0 and f"{own_database} (not there yet)" in missing.stdout
    assert not own_database.exists()


def test_list(autotune, filled) -> None:
    winners = json.loads(autotune("db", "list", "--db", filled, "--json").stdout)["winners"]
    assert [w["device"]["chip"] for w in winners] == ["Xeon", "Xeon", "Ryzen"] or len(winners) == 3
    assert all(w["gb_s"] == 20.0 and w["config"] == {"lanes": 64} and w["median_ns"] == 1000.0 for w in winners)
    text = autotune("db", "list", "--db", filled).stdout
    assert "3 winners" in text and MATVEC in text and "4.00×" in text and "20.0" in text and "lanes=64" in text


def test_list_of_an_empty_database(autotune) -> None:
    assert json.loads(autotune("db", "list", "--json").stdout) == {"winners": []}
    assert "0 winners" in autotune("db", "list").stdout


def test_runs(autotune, filled) -> None:
    runs = json.loads(autotune("db", "list", "--runs", "--db", filled, "--json").stdout)["runs"]
    assert [(r["id"], r["trials"], r["status"]) for r in runs] == [(n, 1, "finished") for n in (1, 2, 3)]
    assert "3 runs" in autotune("db", "list", "--runs", "--db", filled).stdout


def test_best(autotune, complaint, filled) -> None:
    for key in (MATVEC, "matvec:rows=64,cols=64"):
        found = json.loads(autotune("db", "best", key, "--db", filled, "--json").stdout)
        assert found["problem"] == MATVEC
        assert {w["device"]["chip"] for w in found["winners"]} == {"Xeon", "Ryzen"}
    assert "Ryzen" in autotune("db", "best", MATVEC, "--db", filled).stdout
    assert "2 problems begin with 'matvec'" in complaint("db", "best", "matvec", "--db", filled)
    assert "db list" in complaint("db", "best", "ffn", "--db", filled)


def test_path_is_the_file_that_is_used(autotune, own_database, tmp_path) -> None:
    assert autotune("db", "path").stdout == f"{own_database}\n"
    assert autotune("db", "path", "--db", tmp_path / "x.db").stdout == f"{tmp_path / 'x.db'}\n"
    assert not own_database.exists()
