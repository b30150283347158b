"""`scripts/bench_matmul`: what it would measure on an H200, its run on this processor, and the table."""

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stand_in_products
from click.testing import CliRunner

from autotune.screening import chips
from autotune.tuning import precompile
from autotune.tuning.target import TuneTarget
from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.device import Device
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matvec.problem import Matvec
from tuning_db import open_db

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import bench_matmul  # noqa: E402
from bench_matmul import Found, Row, candidates, in_order, main, restricted, table_of  # noqa: E402
from readme_tables import measured, products  # noqa: E402

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 141 << 30, (("driver", "1"),))


@pytest.mark.parametrize("tokens", [2, 16, 64, 2048])
@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_a_search_within_one_algorithm(backend: str, tokens: int) -> None:
    problem = Matmul(512, 256, "Q4_K", tokens)
    whole = registry.cpu_space(problem, machine.features()) if backend == "cpu" else registry.cuda_space(problem, H200)
    names = next(p.values for p in whole.parameters if p.name == "algorithm")
    assert whole.default["algorithm"] in names
    for name in names:
        part = restricted(whole, str(name))
        assert part is not None and part.default["algorithm"] == name and whole.broken(part.default) is None
        if name == whole.default["algorithm"]:
            assert part.default == whole.default


def test_every_algorithm_beside_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "chip" / "matmul.json"
    words = ["Q4_0", "--device", "cpu", "--shape", "256x256", "--tokens", "1", "--tokens", "4"]
    tried = tmp_path / "tried.json"
    words += ["--candidates", "1", "--budget", "3000", "--tried", str(tried)]
    done = CliRunner().invoke(main, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text())
    found = {(row["tokens"], row["algorithm"]): row for row in document["results"]}
    space = registry.cpu_space(Matmul(256, 256, "Q4_0", 4), machine.features())
    names = next(p.values for p in space.parameters if p.name == "algorithm")
    library = document["library"]
    each = {(count, name) for name in (*names, library) for count in (1, 4)}
    assert set(found) == {(1, "matvec"), *each} and len(found) == len(document["results"])
    assert document["missing"] == 0 and not document["notes"], document["notes"]
    times = json.loads(tried.read_text())["tried"]
    assert len(times) == len(found) - 2 and all(config and us > 0 for _, config, us in times), "all but the library's"
    assert all(row["us"] > 0 and row["tflop_s"] > 0 and row["format"] == "Q4_0" for row in found.values())
    assert found[4, library]["config"] is None and found[4, names[0]]["config"]["algorithm"] == names[0]
    assert "--tokens=4" in document["command"] and str(tmp_path) not in json.dumps(document)
    monkeypatch.setattr(measured, "BENCHMARKS", tmp_path)
    assert "| 256x256 Q4_0 | " in products.gpu_matmul() and "Cut by" not in products.gpu_matmul()


def test_what_fails_on_a_gpu_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused by the compiler, is wrong or takes the measuring process along is a note; the others compete. A
    product of which nothing works is missing."""
    monkeypatch.setattr(bench_matmul.matmul_worker, "COMMAND", stand_in_products.COMMAND)
    monkeypatch.setattr(bench_matmul, "UNLIKELY", 8)
    chip = TuneTarget(
        "cuda:0", "sm90", H200, partial(registry.cuda_space, device=H200),
        lambda problem: registry.get(problem.op).work(problem), 2, True, program=stand_in_products.COMMAND,
        identity=f"stand-in of {os.getpid()}",
    )  # fmt: skip
    found = Found("")
    problems = [*in_order(["Q4_0"], [(24576, 4096)], [1, 64, 8]), Matvec(256, 256, stand_in_products.REFUSED)]
    for found in bench_matmul.measure(problems, chip, 8, 100.0, print):  # noqa: B007
        pass
    assert found.missing == 1 and found.library == "cuBLAS float16"
    by = {(row.tokens, row.algorithm): row for row in found.in_order}
    assert set(by) == {
        (1, "matvec"), (1, "thin"), (1, "wide"), (1, "library"), (1, found.library), (8, "thin"), (8, "wide"),
        (8, "library"), (8, found.library), (64, "wide"), (64, "library"), (64, found.library),
    }  # fmt: skip
    assert len(by) == len(found.rows) and by[8, found.library].ns == stand_in_products.LIBRARY_NS
    for (_, name), row in by.items():
        if name in ("thin", "wide"):
            assert row.config is not None and row.ns == stand_in_products.time_ns(row.config)
            assert (row.config["tiles"], row.config["warps"]) not in [(1, 4), (2, 4), (2, 8)]
    best = min(us for key, config, us in found.tried if key.endswith("tokens=8") and config["algorithm"] == "thin")
    assert by[8, "thin"].ns == 1e3 * best and len(found.tried) > len(by)
    notes = "\n".join(found.notes)
    assert all(word in notes for word in ("PTXASError: one tile", "relative error 0.5", "crashed", "nothing works"))


def test_no_time_is_no_result(tmp_path: Path) -> None:
    words = ["Q4_0", "--device", "cpu", "--shape", "256x256", "--budget", "0", "--out", str(tmp_path / "matmul.json")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1 and "nothing was measured" in done.output and not list(tmp_path.iterdir())


def test_what_would_be_measured_on_an_h200(tmp_path: Path) -> None:
    """Every algorithm of every product comes with a few valid configurations, one of each first."""
    chip = replace(
        precompile.target_of(chips.chip(90), 1), device=H200, space=partial(registry.cuda_space, device=H200)
    )
    with open_db(tmp_path / "empty.db") as db:
        for problem in in_order(["Q4_K"], [(4096, 12288), (24576, 4096)], bench_matmul.TOKENS):
            space, found = chip.space(problem), candidates(problem, chip, db, 5)
            names = bench_matmul.algorithms(space)
            assert {bench_matmul.algorithm_of(c) for c in found[: len(names)]} == set(names)
            assert all(space.broken(c) is None for c in found) and len(set(found)) == len(found)
            counts = Counter(map(bench_matmul.algorithm_of, found))
            assert counts.pop("library", 1) == 1
            for name, count in counts.items():
                assert count == (bench_matmul.UNLIKELY if bench_matmul.is_unlikely(problem, name) else 5)
            assert space.default in found[: len(names)]


def test_a_run_that_is_cut_has_seen_the_whole_range() -> None:
    found = in_order(["Q4_0"], [(256, 256)], [1, 2, 4, 8])
    assert [(p.op, getattr(p, "tokens", 1)) for p in found] == [
        ("matvec", 1), ("matmul", 1), ("matmul", 8), ("matmul", 2), ("matmul", 4)
    ]  # fmt: skip


def test_the_table_says_what_won_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(form: str, tokens: int, name: str, us: float) -> dict[str, Any]:
        return Row(form, "8x8", tokens, name, 1e3 * us, 1_000_000, 2_000_000).document()

    monkeypatch.setattr(measured, "BENCHMARKS", tmp_path)
    for form in ("Q4_0", "Q4_K"):  # two GPUs, a format each
        rows = [row(form, 8, "thin", 4.0), row(form, 8, "library", 9.0), row(form, 8, "cuBLAS", 5.0)]
        rows += [row(form, 512, "library", 12.0), row(form, 512, "cuBLAS", 8.0)]
        about = {"device": {"chip": "GPU 1"}, "date": "2026-11-30", "library": "cuBLAS", "candidates": 8}
        (tmp_path / "gpu").mkdir(exist_ok=True)
        document = {**about, "missing": 3, "results": rows}
        (tmp_path / "gpu" / f"matmul_{form}.json").write_text(json.dumps(document))
    later = [row("Q4_K", 512, "wide", 8.1), row("Q4_K", 512, "cuBLAS", 9.0)]  # of this product alone
    document = {**about, "date": "2026-12-01", "results": later}
    (tmp_path / "gpu" / "matmul_again.json").write_text(json.dumps(document))
    text = products.gpu_matmul()
    assert "| GPU 1 | 8 | 512 |" in text and "default configuration" not in text
    assert "| 8x8 Q4_0 | 4.0 thin 1.00× | 12.0 library **1.50×** |" in text
    assert "| 8x8 Q4_K | 4.0 thin 1.00× | 8.1 wide 1.00× |" in text
    assert "| 512 | library | 12.0 | 0.08 | 0 | 12.0 | 8.0 | 1.50× |" in text
    assert "Within 10% of the best: 3 of 4." in text and "6 products are missing" in text


def test_the_winner_and_how_it_stands_to_the_best() -> None:
    def row(tokens: int, name: str, us: float) -> Row:
        return Row("Q4_0", "8x8", tokens, name, 1e3 * us, 1_000_000, 2_000_000)

    rows = [row(16, "thin", 4.0), row(16, "library", 9.0), row(16, "cuBLAS", 5.0), row(2048, "library", 9.0)]
    table = table_of("Q4_0", "8x8", [*rows, row(2048, "cuBLAS", 6.0)], "cuBLAS")
    cells = [list(column.cells) for column in table.columns]
    assert [str(column.header) for column in table.columns] == [
        "tokens", "thin", "library", "cuBLAS", "won", "TB/s", "TFLOP/s", "over the best"
    ]  # fmt: skip
    assert cells[4] == ["thin", "library"] and cells[-1] == ["1.00×", "1.50×"] and cells[1] == ["4.00", "–"]
    assert rows[0].document()["tb_s"] == 0.25 and rows[0].document()["tflop_s"] == 0.5


@pytest.mark.parametrize(
    "words", [("Q9_9",), ("--shape", "4096"), ("--tokens", "0"), ("--device", "cuda:99"), ("--device", "tpu")]
)
def test_mistakes_are_one_line(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 2 and done.output.splitlines()[-1].startswith("Error: ")
    assert bench_matmul.TOKENS[0] == 1
