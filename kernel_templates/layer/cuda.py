"""A layer on the GPU: five kernels, with post norms seven, with an input of its own eleven, each leaving its output as
the next one wants it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kernel_templates import registry
from kernel_templates.attention import cache
from kernel_templates.attention.cuda import Finish
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes
from kernel_templates.layer.chain import POST_NORMS
from kernel_templates.layer.problem import Layer
from kernel_templates.layer.space import part
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()


def pack(problem: Layer, config, weights, device: str) -> tuple[Planes, ...]:
    """Q, K and V (neighbours of one format in one), out, gate, up, down."""
    packed: list[Planes] = []
    for link in problem.links:
        template: Any = registry.cuda(link.operation.name)
        own = {name: weights[ours] for name, ours in link.weights.items() if ours in weights}
        packed += template.pack(problem.parts()[link.prefix], part(config, link.prefix), own, device)
    return tuple(packed)


def packed_by_part(problem: Layer, packed: Sequence[Planes]) -> dict[str, tuple[Planes, ...]]:
    """What `pack` gave, by the prefix of the part that reads it."""
    rest, found = iter(packed), {}
    for prefix, own in problem.parts().items():
        found[prefix] = tuple(_of_rows(rest, sum(m.rows for m in own.matrices)))
    return found


def _of_rows(planes: Iterator[Planes], rows: int) -> Iterator[Planes]:
    """The next ones, until they have so many rows."""
    while rows > 0:
        yield (following := next(planes))
        rows -= following.rows


def launches(problem: Layer, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the Vector "x" (quantized times attn_norm), "attn_norm", "ffn_norm", "next_norm" (of what reads x after
    the layer), with QK-norm "q_norm" and "k_norm", with a bias "qkv_bias", "rope", "eps", "position", "keys", "values";
    uses "qkv", the Vectors "attended" and "gated", and attention's scratch; adds to "x" and appends to the cache. With
    post norms also reads "post_attn_norm" and "post_ffn_norm", and uses the Vector "branch"; with an input of its own
    "input" and "post_input_norm", and the Vectors "raised" and "input_gated"; with a scale "out_scale"."""
    by_part = launches_by_part(problem, config, packed, buffers)
    return [launch for made in by_part.values() for launch in made]


def launches_by_part(
    problem: Layer, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]
) -> dict[str, list[Launch]]:
    """`launches` by the prefix of the part that they belong to, in order. Norms and RoPE of the heads belong to
    attention where `finishes_in_attention`."""
    finish: dict[str, dict[str, Any]] = {
        "qkv": {"finish": not finishes_in_attention(config)},
        "attention": {
            "finish": _finish(problem, buffers) if finishes_in_attention(config) else None,
            "activation": problem.activation,
        },
    }
    made: dict[str, list[Launch]] = {}
    parts, planes = problem.parts(), packed_by_part(problem, packed)
    for link in problem.links:
        template: Any = registry.cuda(link.operation.name)
        own = part(config, link.prefix)
        arguments = (parts[link.prefix], own, planes[link.prefix], link.bound(buffers))
        made[link.prefix] = template.launches(*arguments, **finish.get(link.prefix, {}))
    return made


def finishes_in_attention(config: Mapping[str, Any]) -> bool:
    """Whether attention norms and turns heads and appends to the cache, and "qkv" is left as projected."""
    return config["finish"] != "kernel"


def _finish(problem: Layer, buffers: Mapping[str, Any]) -> Finish:
    rope = buffers["rope"]
    norms = (buffers["q_norm"], buffers["k_norm"]) if problem.qk_norm else (rope, rope)  # which the kernel never reads
    return Finish(bool(problem.qk_norm), problem.rope_dim, *norms, rope, buffers["eps"], bool(problem.v_norm))


def prepare(problem: Layer, inputs: Inputs, device: str) -> dict[str, Any]:
    b, capacity = inputs.buffers, inputs.buffers["values"].shape[1]
    named = ("attn_norm", "ffn_norm", "next_norm", *(POST_NORMS if problem.post_norm else ()))
    sizes = dict.fromkeys(named, problem.hidden)
    if problem.layer_input:
        sizes |= {"post_input_norm": problem.hidden, "input": problem.layer_input}
    if problem.out_scale:
        sizes["out_scale"] = 1
    norms = {n: torch.from_numpy(b[n][:size].copy()).to(device) for n, size in sizes.items()}
    heads = {n: torch.from_numpy(b[n][: problem.head_dim].copy()).to(device) for n in ("q_norm", "k_norm")}
    values = torch.from_numpy(b["x"][: problem.hidden].copy()).to(device)
    x = Vector.allocate(problem.hidden, device)
    x.fill(values, norms["attn_norm"], problem.activation)
    position = int(b["position"][0])
    rope = torch.full((capacity, problem.rope_dim), float("nan"))
    for at in (position, problem.typical.context - 1):  # where it is proved, and where it is timed
        rope[at] = torch.from_numpy(b["rope"][: problem.rope_dim])
    keys, cached = (t.to(device, torch.float16).contiguous() for t in cache.read(b["keys"], b["values"], capacity))
    size = problem.q_rows + 2 * problem.kv_rows
    if problem.qkv_bias:
        heads["qkv_bias"] = torch.from_numpy(b["qkv_bias"][:size].copy()).to(device)
    vectors = {"attended": problem.q_rows, "gated": problem.ffn, "branch": problem.hidden}
    if problem.layer_input:
        vectors |= {"raised": problem.layer_input, "input_gated": problem.layer_input}
    return {
        "x": x, "before": values, **norms, **heads, "eps": float(b["eps"][0]), "rope": rope.to(device),
        "position": torch.tensor([position], dtype=torch.int32, device=device), "keys": keys, "values": cached,
        "qkv": torch.full((size,), float("nan"), device=device),
        **{name: Vector.allocate(size, device) for name, size in vectors.items()},
    }  # fmt: skip


def collect(problem: Layer, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    x = buffers["x"].values
    return {"x": x.cpu().numpy(), "delta": (x.double() - buffers["before"].double()).cpu().numpy()}
