"""A GPU's winners are proved before their first use: here in Triton's interpreter, on problems that models ask for."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kernel_templates import proof_record, registry
from kernel_templates.cuda import proofs
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.device import Device
from kernel_templates.head import cuda as head_kernels
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.config import ModelConfig
from model.cuda.execution import EagerExecutor
from model.cuda.opening import Opening
from model.gguf_file import open_gguf
from model.problems import gpu_layers, head_problem
from model.runner import Settings
from tuning_db import open_db
from tuning_db.records import Measurement, Source, Winner

GPU = Device("cuda", "interpreter", "9.0", 132, 80 << 30)
HERE = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def reversed_rows(monkeypatch) -> None:
    """A stand-in for a head that is miscompiled: its matrix's rows lie in reverse."""
    real = head_kernels.pack

    def pack(problem, config, weights, device):
        w = weights["w"]
        return real(problem, config, {"w": type(w)(w.raw.flip(0), w.cols, w.format)}, device)

    monkeypatch.setattr(head_kernels, "pack", pack)


def problems(path: Path) -> list[Problem]:
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)
    return [*gpu_layers(config, file, 100), head_problem(config, file)]


def default(problem: Problem) -> Config:
    return registry.cuda_space(problem, GPU).default


def test_what_computes_right_is_used_and_proved_once(tiny_model: Path, monkeypatch) -> None:
    asked = problems(tiny_model)
    for problem in asked:
        assert proof_record.known(problem, default(problem), GPU) is None
        assert proofs.refusal(problem, default(problem), GPU, INTERPRETED, HERE) is None
    assert {p.op for p in asked} == {"layer", "head"}
    monkeypatch.setattr(proofs, "_proved", None)
    for problem in asked:
        assert proofs.refusal(problem, default(problem), GPU, INTERPRETED, HERE) is None


def test_what_computes_wrongly_is_refused(tiny_model: Path, reversed_rows) -> None:
    head = problems(tiny_model)[-1]
    assert "it computes wrongly here" in proofs.refusal(head, default(head), GPU, INTERPRETED, HERE)
    assert "it computes wrongly here" in proof_record.known(head, default(head), GPU).wrong
    other = Device("cuda", "interpreter", "9.0", 132, 80 << 30, (("driver", "2"),))
    assert proof_record.known(head, default(head), other) is None  # with other software it is proved again


def test_an_engine_leaves_a_wrong_winner_out(made: Callable[[str, str], Path], reversed_rows, tmp_path: Path) -> None:
    path = made("tiny", "Q4_0")
    file = open_gguf(path)
    head, space = problems(path)[-1], registry.cuda_space(problems(path)[-1], GPU)
    wrong = next(config for config in space.configs() if config != space.default)
    with open_db(tmp_path / "t.db") as db:
        times = Measurement(9.0, 9.0, 9.0, 9)
        db.set_winner(GPU, Winner(head.key, head.template_version, dict(wrong), times, 20.0, 1e-5, 1e-2), None, None)
        runner = Opening(file, ModelConfig.from_gguf(file), Settings(100, db), GPU).proved(EagerExecutor(INTERPRETED))
        assert runner.choices[head].source is Source.DEFAULT and "is refused" in runner.choices[head].detail
        assert db.refused(GPU) == {head.key: [dict(wrong)]}
