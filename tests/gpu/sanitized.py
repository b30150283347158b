"""Runs every operation once in its default configuration: what the compute sanitizer watches.

python sanitized.py [OP ...]; without names, all operations and the end of a token. Exits with 1 for a wrong result.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kernel_templates import formats, registry
from kernel_templates.cuda import machine
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.vector import Vector
from kernel_templates.sample_token import cuda as pick

KEYS = {
    "matvec": "matvec:rows=96,cols=576,format=Q4_0,activation=int16",
    "ffn": "ffn:hidden=96,ffn=160,gate_format=Q4_1,up_format=Q8_0,down_format=Q4_0,activation=int16",
    "head": "head:vocab=301,hidden=256,format=Q6_K,activation=int16",
    "norm_qkv_rope": "norm_qkv_rope:hidden=96,heads=4,kv_heads=2,head_dim=80,rope_dim=40,qk_norm=1,q_format=Q4_0,"
    "k_format=Q4_0,v_format=F16,activation=int16",
    "attention": "attention:heads=8,kv_heads=4,head_dim=64,context=1100",
    "layer": "layer:hidden=128,heads=4,kv_heads=2,head_dim=32,rope_dim=32,qk_norm=1,ffn=160,q_format=Q8_0,"
    "k_format=Q8_0,v_format=Q8_0,out_format=BF16,gate_format=Q4_0,up_format=Q4_0,down_format=Q8_0,activation=int16,context=70",
}


def operation(key: str) -> float:
    """Its largest relative error, over its tolerance."""
    problem, device = registry.parse_problem(key), machine.detect(0)
    known, template = registry.get(problem.op), registry.cuda(problem.op)
    config, inputs = registry.cuda_space(problem, device).default, known.inputs(problem, 1)
    buffers = template.prepare(problem, inputs, "cuda:0")
    packed = template.pack(problem, config, inputs.weights, "cuda:0")
    for launch in template.launches(problem, config, packed, buffers):
        launch.run(machine.target(device))
    torch.cuda.synchronize()
    found, worst = template.collect(problem, buffers), 0.0
    for name, wanted in known.reference(problem, inputs).items():
        truth = torch.as_tensor(wanted).double().reshape(-1)
        got = torch.as_tensor(found[name]).double().reshape(-1)[: truth.numel()]
        worst = max(worst, float((got - truth).norm() / truth.norm()))
    return worst / known.tolerance(problem)


def end_of_a_token() -> None:
    """Greedy and sampled, with an embedding lookup each."""
    vocab, hidden, device = 3000, 256, "cuda:0"
    table = formats.get("Q6_K").quantize(torch.randn(vocab, hidden)).to(device)
    whole = [torch.zeros(size, dtype=torch.int32, device=device) for size in (1, 1, 64, 1)]
    logits = torch.randn(vocab, device=device)
    buffers = dict(zip(("position", "token", "history", "status"), whole, strict=True)) | {
        "x": Vector.allocate(hidden, device),
        "logits": logits,
        "best_value": logits.view(30, 100).max(1).values.contiguous(),
        "best_id": (logits.view(30, 100).argmax(1) + torch.arange(30, device=device) * 100).int(),
    }
    embedding, scratch = Embedding(table, "Q6_K", hidden), pick.Scratch.allocate(vocab, device)
    scratch.set(0.8, 40, 0.9, seed=1)
    launches = pick.launches_greedy(buffers, embedding) + pick.launches_sampling(buffers, embedding, scratch)
    for launch in launches:
        launch.run(machine.target(machine.detect(0)))
    torch.cuda.synchronize()
    assert buffers["history"][1].item() == logits.argmax().item() and not buffers["status"].item()


def main(names: list[str]) -> int:
    wrong = 0
    for name in names or [*KEYS, "pick"]:
        share = operation(KEYS[name]) if name in KEYS else end_of_a_token()
        print(f"{name}: {'done' if share is None else f'{share:.2f} of the tolerance'}", flush=True)
        wrong += share is not None and not share <= 1.0
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
