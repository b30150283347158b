"""`scripts/bench_matmul` on this processor and a small product, its searches within one algorithm, and the table."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.device import Device
from kernel_templates.matmul.problem import Matmul

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import bench_matmul  # noqa: E402
from bench_matmul import Row, main, restricted, table_of  # noqa: E402

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
    words = ["Q4_0", "--device", "cpu", "--shape", "256x256", "--tokens", "1", "--tokens", "4", "--search", "0"]
    done = CliRunner().invoke(main, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text())
    found = {(row["tokens"], row["algorithm"]): row for row in document["results"]}
    space = registry.cpu_space(Matmul(256, 256, "Q4_0", 4), machine.features())
    names = next(p.values for p in space.parameters if p.name == "algorithm")
    library = document["library"]
    assert set(found) == {(1, "matvec"), (1, library), (4, library), *((4, name) for name in names)}
    assert all(row["us"] > 0 and row["tflop_s"] > 0 and row["format"] == "Q4_0" for row in found.values())
    assert found[4, library]["config"] is None and found[4, names[0]]["config"]["algorithm"] == names[0]
    assert "--tokens=4" in document["command"] and str(tmp_path) not in json.dumps(document)
    import readme

    monkeypatch.setattr(readme, "BENCHMARKS", tmp_path)
    assert (
        "| 256x256 Q4_0 | " in readme.gpu_matmul() and f" matvec ({found[1, library]['us']:.1f})" in readme.gpu_matmul()
    )


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
