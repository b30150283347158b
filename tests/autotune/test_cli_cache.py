"""`autotune cache`: what is kept to start faster, and removing it."""

import json


def test_it_says_what_there_is_and_removes_it(autotune, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "one.packed").write_bytes(bytes(2_000_000))
    (tmp_path / "bytecode").mkdir()
    shown = autotune("cache").stdout
    assert str(tmp_path) in shown and "2.0" in shown
    document = json.loads(autotune("cache", "--clear", "--json").stdout)
    assert document["path"] == str(tmp_path) and document["cleared"]
    assert [(row["folder"], row["files"], row["bytes"]) for row in document["folders"]] == [
        ("kernels", 0, 0), ("cubins", 0, 0), ("starts", 0, 0), ("proofs", 0, 0), ("weights", 1, 2_000_000)
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["bytecode"], "what else lies there is left alone"
    assert json.loads(autotune("cache", "--json").stdout)["folders"][-1]["files"] == 0
