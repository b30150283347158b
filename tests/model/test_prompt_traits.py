"""Prompts of a model with post norms, GELU and a scaled embedding, on the processor, against the judge.

Three tokens, of which attention has nothing to cut: what is seen here is the projections, the FFN and the embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kernel_templates import float64, formats, registry
from kernel_templates.cpu import machine, rows
from kernel_templates.cpu.thread_choice import ThreadChoice
from model import layer_plan, problems
from model.config import ModelConfig
from model.cpu.decode import Decoder
from model.cpu.forward import Forward
from model.cpu.prefill import CpuPrefill
from model.gguf_file import open_gguf
from model.reference import reference_logits

GEMMA = Path(__file__).resolve().parents[1] / "fixtures" / "models" / "gemma2.gguf"
TOKENS = [7, 90, 41]
BOUND = 2e-3  # products of 16-bit whole numbers


@contextmanager
def opened() -> Iterator[CpuPrefill]:
    file = open_gguf(GEMMA)
    config = ModelConfig.from_gguf(file)
    needed = problems.model_problems(config, file)
    configs = {problem: registry.cpu_space(problem, machine.features()).default for problem in needed}
    decoder = Decoder(file, config, configs, 64, ThreadChoice(1))
    try:
        yield CpuPrefill(decoder, Forward(decoder))
    finally:
        decoder.close()


def distance(step: CpuPrefill) -> float:
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


def test_agrees_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as step:
        assert step.config.architecture.post_norm and step.config.architecture.scaled_embedding
        off = distance(step)
        print(f"{off:.2g}")
        assert off < BOUND
    gate = rows.compile_gate
    # What the bound can tell apart.
    monkeypatch.setattr(rows, "compile_gate", lambda ffn, function: gate(ffn, "silu"))
    with opened() as step:
        assert distance(step) > 2 * BOUND
