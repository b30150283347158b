"""Decoding attention on the GPU: on tensor cores `cuda_dot`, or of 8 bits `cuda_bytes`; by threads `cuda_short` if
programs can hold their shares, else `cuda_kernel`.

Alone it is the `Attention` problem. In a layer, with a `Finish`, it starts from raw projections: QK-norm, RoPE and the
append to the cache are its prologue.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kernel_templates.attention import cache, cuda_bytes, cuda_dot, cuda_kernel, cuda_short
from kernel_templates.attention.problem import Attention
from kernel_templates.attention.space import REGISTERS, TENSOR_CORES, held, one_pass, power_of_two
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.traits import RUN
from kernel_templates.cuda.vector import Vector
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()

_BITS = {"int16": 16, "int8": 8, "": 0}


@dataclass(frozen=True)
class Finish:
    """How raw queries and keys become final. q_norm, k_norm: float32 [head_dim], read if qk_norm; rope: float32
    [capacity, rope_dim], cosines then sines; eps: of the norms; v_norm: values are divided by their RMS."""

    qk_norm: bool
    rope_dim: int
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    rope: torch.Tensor
    eps: float
    v_norm: bool = False


def pack(problem: Attention, config, weights, device: str) -> tuple[()]:
    """There are no weights."""
    return ()


def scratch_size(problem: Attention, config: Mapping[str, Any]) -> int:
    """float32 elements that splits leave for each other: outputs, and logarithms of sums."""
    splits = config["splits"]
    return problem.heads * splits * (problem.head_dim + 1) if splits > 1 else 0


def launches(
    problem: Attention,
    config: Mapping[str, Any],
    packed,
    buffers: Mapping[str, Any],
    finish: Finish | None = None,
    activation: str = "int16",
) -> list[Launch]:
    """Reads buffers "q" (with `finish`, the raw projections q, k and v behind each other; gates among the queries of a
    problem that has them), "position", "keys",
    "values", of a cache of 8 bits "key_scales" and "value_scales" float32 [kv_heads, capacity], and, of a problem with
    them, "sinks" float32 [heads]; writes the Vector "out" in the consumer's `activation` ("": float values only) and,
    with `finish`, the caches at the position. Raises ValueError for a `finish` with a cache of 8 bits.

    "attention_scratch" float32 [>= scratch_size] and "attention_counters" int32 [>= heads], zeros, may be shared by the
    layers of a chain; they are made here if there are none or too few.
    """
    q, out, keys = buffers["q"], buffers["out"], buffers["keys"]
    scales: tuple[Any, ...] = (None, None)
    if problem.cache == cache.Q8_0:
        scales = (buffers["key_scales"], buffers["value_scales"])
    if finish is not None and problem.cache != cache.F16:
        raise ValueError(f"heads of {problem.key} want a kernel of their own")
    partial, counters = _scratch(problem, config, buffers, q.device)
    warps, splits, together = config["warps"], config["splits"], config["heads"]
    # Pointers that a kernel without prologue never follows still need a tensor.
    norms = (finish.rope, finish.q_norm, finish.k_norm) if finish else (q, q, q)
    shape = {"HEADS": problem.heads, "HEAD_DIM": problem.head_dim, "DIMS": power_of_two(problem.head_dim)}
    shape |= {"WARPS": warps, "TILE": config["tile"], "SPLITS": splits, "ACT": _BITS[activation]}
    shape["WINDOW"] = problem.window
    written, sinks = out.pointers[:4], buffers["sinks"] if problem.sinks else None
    gates = q[problem.head_dim :] if problem.output_gate else None
    constants = shape | {
        "KV_HEADS": problem.kv_heads,
        "ROPE_DIM": finish.rope_dim if finish else 0,
        "QK_NORM": bool(finish and finish.qk_norm),
        "V_NORM": bool(finish and finish.v_norm),
        "FINISH": finish is not None,
        "TOGETHER": together,
        "EARLY": bool(config["early"]),
        "G": power_of_two(together),
        "LAST_COMBINES": config["combine"] == "last",
        "SCALE": problem.score_scale,
        "SOFTCAP": problem.softcap,
    }
    kernel = cuda_kernel.attend
    if config["algorithm"] == TENSOR_CORES:
        kernel, scales = cuda_dot.attend_dot, ()  # it reads float16 alone
        constants |= {"STAGES": config["stages"], "PREFETCH": bool(config["prefetch"])}
    elif config["algorithm"] == REGISTERS:
        kernel = cuda_bytes.attend_bytes
        constants |= {"AT_ONCE": bool(config["at_once"]), "PREFETCH": bool(config["prefetch"])}
    elif one_pass(problem, config):
        kernel = cuda_short.attend_short
        constants["READY"] = _ready(problem, config)
    else:
        constants["PREFETCH"] = bool(config["prefetch"])
    attend = Launch(
        "attention",
        kernel,
        (problem.heads // together, splits),
        (
            *(q, keys, buffers["values"], buffers["position"], *norms, *written, partial, counters, sinks, gates),
            *(keys.shape[1], finish.eps if finish else 0.0, *scales),
        ),
        constants,
        warps,
    )
    if splits == 1 or config["combine"] == "last":
        return [attend]
    # Of 256 elements 4 warps would have but two lanes for the splits: of 128 splits more than registers hold.
    joining = max(warps, 8) if shape["DIMS"] > 128 else warps
    join = Launch(
        "attention_combine",
        cuda_kernel.combine,
        (problem.heads,),
        (buffers["position"], partial, *written, sinks, gates),
        shape | {"WARPS": joining},
        joining,
    )
    return [attend, join]


def _ready(problem: Attention, config: Mapping[str, Any]) -> int:
    """How much of the cache is held as float32 instead of float16: what 255 registers hold, some 90 and 24 a
    further head being taken."""
    free = 160 - 24 * (power_of_two(config["heads"]) - 1)
    return next((ready for ready in (2, 1) if held(problem, config) * (2 + ready) // 2 <= free), 0)


def prepare(problem: Attention, inputs: Inputs, device: str) -> dict[str, Any]:
    """The buffers of `launches`; cache positions after the current one are NaN: nothing may read them."""
    b, count = inputs.buffers, int(inputs.buffers["position"][0]) + 1
    size = problem.heads * problem.head_dim
    k, v = cache.read(b["keys"], b["values"], count)
    caches = cached(k, v, b["values"].shape[1], problem.cache, device)
    sinks = {"sinks": torch.from_numpy(b["sinks"][: problem.heads].copy()).to(device)} if problem.sinks else {}
    return (
        sinks
        | caches
        | {
            "q": torch.from_numpy(b["q"][: problem.heads * problem.query_size].copy()).to(device),
            "position": torch.tensor([count - 1], dtype=torch.int32, device=device),
            "out": Vector.allocate(-(-size // RUN) * RUN, device),
        }
    )


def cached(k: torch.Tensor, v: torch.Tensor, capacity: int, form: str, device: str) -> dict[str, torch.Tensor]:
    """Buffers of a cache with keys and values float32 [kv_heads, positions, head_dim] in it; what is behind them is
    NaN, in a cache of 8 bits its scale."""
    kv_heads, count, head_dim = k.shape
    made = {}
    for name, x in (("key", k), ("value", v)):
        if form == cache.F16:
            whole = torch.full((kv_heads, capacity, head_dim), float("nan"), dtype=torch.float16)
            whole[:, :count] = x.to(torch.float16)
        else:
            whole = torch.full((kv_heads, capacity, head_dim), cache.LARGEST, dtype=torch.int8)
            scales = torch.full((kv_heads, capacity), float("nan"))
            whole[:, :count], scales[:, :count] = cache.quantized(x)
            made[f"{name}_scales"] = scales.to(device)
        made[f"{name}s"] = whole.to(device)
    return made


def collect(problem: Attention, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"out": buffers["out"].values[: problem.heads * problem.head_dim].cpu().numpy()}


def _scratch(problem: Attention, config, buffers, device) -> tuple[torch.Tensor, torch.Tensor]:
    partial, counters = buffers.get("attention_scratch"), buffers.get("attention_counters")
    size = scratch_size(problem, config)
    if partial is None or partial.numel() < size:
        partial = torch.full((max(size, 1),), float("nan"), device=device)
    if counters is None or counters.numel() < problem.heads:
        counters = torch.zeros(problem.heads, dtype=torch.int32, device=device)
    return partial, counters
