"""Prompts of a model with post norms, GELU and a scaled embedding, on both backends, against the judge.

Three tokens, of which attention has nothing to cut: what is seen here is the projections, the FFN and the embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from kernel_templates import float64, formats, registry
from kernel_templates.cpu import machine, rows
from kernel_templates.cpu.thread_choice import ThreadChoice
from kernel_templates.device import Device
from model import layer_plan, prefill, problems
from model.config import ModelConfig
from model.cpu.decode import Decoder
from model.cpu.forward import Forward
from model.cpu.prefill import CpuPrefill
from model.cuda.load import load
from model.cuda.prefill import CudaPrefill
from model.gguf_file import open_gguf
from model.prefill import Prefill
from model.reference import reference_logits

GEMMA = Path(__file__).resolve().parents[1] / "fixtures" / "models" / "gemma2.gguf"
TOKENS = [7, 90, 41]
GPU = Device("cuda", "H100", "9.0", 132, 80 << 30)
BOUNDS = {"cpu": 2e-3, "cuda": 5e-3}  # products of 16-bit whole numbers and of float16


@contextmanager
def opened(backend: str) -> Iterator[Prefill | CpuPrefill]:
    file = open_gguf(GEMMA)
    config = ModelConfig.from_gguf(file)
    if backend == "cuda":

        def default(problem):
            return registry.cuda_space(problem, GPU).default

        chosen, head = default(problems.layer_at(config, file, 0, 256)), default(problems.head_problem(config, file))
        model = load(file, config, 64, lambda i: chosen, head, torch.device("cpu"), lambda done, of: None)
        yield CudaPrefill(model, None)
        return
    needed = problems.model_problems(config, file)
    configs = {problem: registry.cpu_space(problem, machine.features()).default for problem in needed}
    decoder = Decoder(file, config, configs, 64, ThreadChoice(1))
    try:
        yield CpuPrefill(decoder, Forward(decoder))
    finally:
        decoder.close()


def distance(step: Prefill | CpuPrefill) -> float:
    """Of the logits, from the judge's."""
    file, c = open_gguf(GEMMA), step.config
    hidden, plan = torch.as_tensor(step.run(TOKENS, 0, every=True)).double(), layer_plan.plan(step.config)
    norm = torch.from_numpy(file.raw(plan.output_norm.name).view("<f4").copy()).double().flatten()
    output = formats.get(file.tensors[plan.output.name].format_name)
    matrix = output.dequantize(torch.from_numpy(file.raw(plan.output.name).copy())).double()
    logits = F.rms_norm(hidden, norm.shape, norm, c.norm_eps) @ matrix.T
    found = torch.from_numpy(float64.soft_cap(logits.numpy(), c.final_softcap))
    wanted = reference_logits(GEMMA, TOKENS).double()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("backend", list(BOUNDS))
def test_agrees_with_the_reference(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(backend) as step:
        assert step.config.architecture.post_norm and step.config.architecture.scaled_embedding
        off = distance(step)
        print(f"{backend}: {off:.2g}")
        assert off < BOUNDS[backend]
    gate = rows.compile_gate
    monkeypatch.setitem(prefill.GATES, "gelu", F.silu)  # what the bound can tell apart
    monkeypatch.setattr(rows, "compile_gate", lambda ffn, function: gate(ffn, "silu"))
    with opened(backend) as step:
        assert distance(step) > 2 * BOUNDS[backend]
