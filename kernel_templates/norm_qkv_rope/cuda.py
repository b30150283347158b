"""A layer's first kernel on the GPU: Q, K and V as one product of rows, whose last ones may be in another format; norms
and RoPE of the heads follow in a kernel of their own, or in the attention's prologue."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.attention import cache
from kernel_templates.cuda import stacked
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.norm_qkv_rope.qk_norm_rope_append import finish_launch
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()


def pack(problem: NormQkvRope, config, weights, device: str) -> tuple[Planes, ...]:
    """Neighbouring matrices of one format in one, whatever the configuration."""
    return stacked.pack(problem, weights, device)


def launches(
    problem: NormQkvRope, config: Mapping[str, Any], packed, buffers: Mapping[str, Any], finish: bool = True
) -> list[Launch]:
    """Reads the Vector "x" (quantized times norm), "norm", "eps" and, with `qkv_bias`, "bias"; writes "qkv". finish:
    then what `finish_launch` says, else the rows stay raw projections. The bias is in these: neither kernel that
    follows knows of it."""
    bias = buffers["bias"] if problem.qkv_bias else None
    made = stacked.launches("qkv", config, packed, buffers, buffers["qkv"], bias, problem.activation)
    return [*made, finish_launch(problem, buffers)] if finish else made


def prepare(problem: NormQkvRope, inputs: Inputs, device: str) -> dict[str, Any]:
    b, count = inputs.buffers, int(inputs.buffers["position"][0])
    x, norm = (torch.from_numpy(b[name][: problem.hidden].copy()).to(device) for name in ("x", "norm"))
    vector = Vector.allocate(problem.hidden, device)
    vector.fill(x, norm, problem.activation)
    capacity = b["values"].shape[1]
    rope = torch.full((capacity, problem.rope_dim), float("nan"))
    rope[count] = torch.from_numpy(b["rope"][: problem.rope_dim])
    keys, values = (t.to(device, torch.float16).contiguous() for t in cache.read(b["keys"], b["values"], capacity))
    size = problem.q_rows + 2 * problem.kv_rows
    vectors = {n: torch.from_numpy(b[n][: problem.head_dim].copy()).to(device) for n in ("q_norm", "k_norm")}
    if problem.qkv_bias:
        vectors["bias"] = torch.from_numpy(b["bias"][:size].copy()).to(device)
    return {
        "x": vector, "norm": norm, "eps": float(b["eps"][0]), "rope": rope.to(device), "keys": keys, "values": values,
        "position": torch.tensor([count], dtype=torch.int32, device=device), **vectors,
        "qkv": torch.full((size,), float("nan"), device=device),
    }  # fmt: skip


def collect(problem: NormQkvRope, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    keys, values = (buffers[name].cpu() for name in ("keys", "values"))
    ours = cache.allocate(problem.kv_heads, problem.head_dim, keys.shape[1])
    cache.write(*ours, keys.transpose(0, 1), values.transpose(0, 1), 0)
    return {"qkv": buffers["qkv"][: problem.q_rows].cpu().numpy(), "keys": ours[0], "values": ours[1]}
