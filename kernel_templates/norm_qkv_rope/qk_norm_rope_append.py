"""QK-norm, RoPE and the append to the cache as a kernel of its own, for an attention without that prologue."""

from collections.abc import Mapping
from typing import Any

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.heads import finish_head, inverse_rms, load_head, rotation
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantized_cache import quantize
from kernel_templates.norm_qkv_rope.problem import NormQkvRope


@triton.jit
def finish(
    qkv, keys, values, position_at, rope, q_norm, k_norm, capacity, eps, key_scales, value_scales,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr,
    QK_NORM: tl.constexpr, V_NORM: tl.constexpr, DIMS: tl.constexpr, QUERY: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Program: one head of raw qkv, whose queries lie QUERY elements apart. Queries are finished in place; keys,
    finished, and values, over their RMS if V_NORM, go to `position` of the caches float16 [KV_HEADS, capacity,
    HEAD_DIM]; or int8, with float32 scales [KV_HEADS, capacity], which are None of float16."""
    if PDL:
        gdc_launch_dependents()
    head = tl.program_id(0)
    dim = tl.arange(0, DIMS)
    real = dim < HEAD_DIM
    is_query, is_value = head < HEADS, head >= HEADS + KV_HEADS
    position = tl.load(position_at)
    weight = q_norm if is_query else k_norm
    own, other = rotation(weight, rope + position * ROPE_DIM, dim, 1.0, HEAD_DIM, ROPE_DIM, QK_NORM)
    kv = tl.where(is_value, head - HEADS - KV_HEADS, tl.maximum(head - HEADS, 0)).to(tl.int64)
    row = (kv * capacity + position) * HEAD_DIM
    if PDL:
        gdc_wait()
    at = qkv + head * HEAD_DIM
    if QUERY != HEAD_DIM:
        at += tl.minimum(head, HEADS) * (QUERY - HEAD_DIM)
    x, partner = load_head(at, dim, real, ROPE_DIM)
    if is_value:
        if V_NORM:
            x *= inverse_rms(tl.sum(x * x, 0), eps, HEAD_DIM)
        if value_scales is None:
            tl.store(values + row + dim, x.to(tl.float16), mask=real)
        else:
            whole, scale = quantize(x, 0)
            tl.store(values + row + dim, whole, mask=real)
            tl.store(value_scales + kv * capacity + position + tl.zeros([1], tl.int32), scale)
    else:
        y = finish_head(x, partner, own, other, eps, 0, HEAD_DIM, QK_NORM)
        tl.debug_barrier()  # partners are read before they are overwritten
        tl.store(at + dim, y, mask=is_query & real)
        if key_scales is None:
            tl.store(keys + row + dim, y.to(tl.float16), mask=(head >= HEADS) & real)
        else:
            whole, scale = quantize(y, 0)
            tl.store(keys + row + dim, whole, mask=(head >= HEADS) & real)
            only = head >= HEADS + tl.zeros([1], tl.int32)
            tl.store(key_scales + kv * capacity + position + tl.zeros([1], tl.int32), scale, mask=only)


def finish_launch(problem: NormQkvRope, buffers: Mapping[str, Any]) -> Launch:
    """Reads "qkv" (raw, its bias in it), "position", "rope" float32 [capacity, rope_dim], "eps" (float) and, with
    QK-norm, "q_norm" and "k_norm" float32 [head_dim]; writes the queries of "qkv", and "keys" and "values" at the
    position; of a cache of 8 bits also "key_scales" and "value_scales" float32 [kv_heads, capacity]."""
    rope, keys = buffers["rope"], buffers["keys"]
    # Pointers that the kernel never follows still need a tensor.
    norms = (buffers["q_norm"], buffers["k_norm"] if problem.kv_heads else rope) if problem.qk_norm else (rope, rope)
    return Launch(
        "finish",
        finish,
        (problem.heads + 2 * problem.kv_heads,),
        (
            *(buffers["qkv"], keys, buffers["values"], buffers["position"], rope, *norms),
            *(keys.shape[1], buffers["eps"], buffers.get("key_scales"), buffers.get("value_scales")),
        ),
        {
            "HEADS": problem.heads,
            "KV_HEADS": problem.kv_heads,
            "HEAD_DIM": problem.head_dim,
            "ROPE_DIM": problem.rope_dim,
            "QK_NORM": bool(problem.qk_norm),
            "V_NORM": bool(problem.v_norm),
            "QUERY": problem.query_size,
            "DIMS": 1 << (problem.head_dim - 1).bit_length(),
        },
        warps=1,
    )
