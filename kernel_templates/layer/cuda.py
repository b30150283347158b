"""A layer on the GPU: five kernels, each leaving its output as the next one wants it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.attention import cache
from kernel_templates.attention import cuda as attention
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes
from kernel_templates.ffn import cuda as ffn
from kernel_templates.layer.problem import Layer
from kernel_templates.layer.space import part
from kernel_templates.matvec import cuda as matvec
from kernel_templates.norm_qkv_rope import cuda as norm_qkv_rope
from kernel_templates.norm_qkv_rope.qk_norm_rope_append import finish_launch
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()


def pack(problem: Layer, config, weights, device: str) -> tuple[Planes, ...]:
    """Q, K and V (neighbours of one format in one), out, gate, up, down."""
    return (
        *norm_qkv_rope.pack(problem.qkv_part, {}, weights, device),
        *matvec.pack(problem.out_part, {}, {"w": weights["out"]}, device),
        *ffn.pack(problem.ffn_part, {}, weights, device),
    )


def launches(problem: Layer, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the Vector "x" (quantized times attn_norm), "attn_norm", "ffn_norm", "next_norm" (of whoever reads x after
    the layer), "q_norm", "k_norm", "rope", "eps", "position", "keys", "values"; uses "qkv", the Vectors "attended" and
    "gated", and attention's scratch; adds to "x" and appends to the cache."""
    b, qkv = buffers, problem.qkv_part
    *first, out, gate, up, down = packed
    made = norm_qkv_rope.launches(qkv, part(config, "qkv"), first, {**b, "norm": b["attn_norm"]}, finish=False)
    finish = None
    if config["finish"] == "kernel":
        made.append(finish_launch(qkv, b))
    else:
        finish = attention.Finish(bool(qkv.qk_norm), qkv.rope_dim, b["q_norm"], b["k_norm"], b["rope"], b["eps"])
    made += attention.launches(problem.attention_part, part(config, "attention"), (), b, finish, problem.activation)
    between = {"x": b["attended"], "out": b["x"], "next_norm": b["ffn_norm"]}
    made += matvec.launches(problem.out_part, part(config, "out"), (out,), between)
    after = {name: b[name] for name in ("x", "gated", "eps", "next_norm")} | {"norm": b["ffn_norm"]}
    return made + ffn.launches(problem.ffn_part, part(config, "ffn"), (gate, up, down), after)


def prepare(problem: Layer, inputs: Inputs, device: str) -> dict[str, Any]:
    b, capacity = inputs.buffers, inputs.buffers["values"].shape[1]
    norms = {
        n: torch.from_numpy(b[n][: problem.hidden].copy()).to(device) for n in ("attn_norm", "ffn_norm", "next_norm")
    }
    heads = {n: torch.from_numpy(b[n][: problem.head_dim].copy()).to(device) for n in ("q_norm", "k_norm")}
    values = torch.from_numpy(b["x"][: problem.hidden].copy()).to(device)
    x = Vector.allocate(problem.hidden, device)
    x.fill(values, norms["attn_norm"], problem.activation)
    position = int(b["position"][0])
    rope = torch.full((capacity, problem.rope_dim), float("nan"))
    for at in (position, problem.typical.context - 1):  # where it is proved, and where it is timed
        rope[at] = torch.from_numpy(b["rope"][: problem.rope_dim])
    keys, cached = (t.to(device, torch.float16).contiguous() for t in cache.read(b["keys"], b["values"], capacity))
    size = (problem.heads + 2 * problem.kv_heads) * problem.head_dim
    return {
        "x": x, "before": values, **norms, **heads, "eps": float(b["eps"][0]), "rope": rope.to(device),
        "position": torch.tensor([position], dtype=torch.int32, device=device), "keys": keys, "values": cached,
        "qkv": torch.full((size,), float("nan"), device=device),
        "attended": Vector.allocate(problem.heads * problem.head_dim, device),
        "gated": Vector.allocate(problem.ffn, device),
    }  # fmt: skip


def collect(problem: Layer, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    x = buffers["x"].values
    return {"x": x.cpu().numpy(), "delta": (x.double() - buffers["before"].double()).cpu().numpy()}
