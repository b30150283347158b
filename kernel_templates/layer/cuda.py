"""A layer on the GPU: five kernels or so, each leaving its output as the next one wants it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kernel_templates import registry
from kernel_templates.attention import cache
from kernel_templates.attention.cuda import Finish, cached
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes
from kernel_templates.layer.chain import POST_NORMS
from kernel_templates.layer.problem import Layer, LinkedChain
from kernel_templates.layer.space import part
from kernel_templates.moe import cuda as moe
from kernel_templates.moe import rows
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()


def pack(problem: LinkedChain, config, weights, device: str) -> tuple[Planes, ...]:
    """The matrices of each part, in order."""
    packed: list[Planes] = []
    for link in problem.links:
        template: Any = registry.cuda(link.operation.name)
        own = link.own_weights(weights)
        packed += template.pack(problem.parts()[link.prefix], part(config, link.prefix), own, device)
    return tuple(packed)


def packed_by_part(problem: LinkedChain, packed: Sequence[Planes]) -> dict[str, tuple[Planes, ...]]:
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


def launches(problem: LinkedChain, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the Vector "x" (quantized times attn_norm), "attn_norm", "ffn_norm", "next_norm" (of what reads x after the
    layer), "eps", "position"; uses the Vectors "attended" and "gated"; adds to "x". With post norms also reads
    "post_attn_norm" and "post_ffn_norm", and uses the Vector "branch".

    With attention also reads, with QK-norm, "q_norm" and "k_norm", with biases "qkv_bias" and "out_bias", with sinks
    "sinks", "rope", "keys", "values", of a cache of 8 bits "key_scales" and "value_scales"; uses "qkv" and attention's
    scratch; appends to the cache. With a gated delta net: "conv", "decay", "dt_bias", "delta_norm", "conv_state",
    "state", as of its template; uses "projected" and the delta net's counters. With a mixture of experts also reads its
    biases, if it has any, and uses what `moe.rows.allocate` makes. With an input of its own also reads "input" and
    "post_input_norm", and uses the Vectors "raised" and "input_gated"; with a scale, "out_scale"."""
    by_part = launches_by_part(problem, config, packed, buffers)
    return [launch for made in by_part.values() for launch in made]


def launches_by_part(
    problem: LinkedChain, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]
) -> dict[str, list[Launch]]:
    """`launches` by the prefix of the part that they belong to, in order. Norms and RoPE of the heads belong to
    attention where `finishes_in_attention`."""
    made: dict[str, list[Launch]] = {}
    parts: dict[str, Any] = dict(problem.parts())
    planes = packed_by_part(problem, packed)
    between = {"delta": {"activation": parts["out"].activation}}
    if isinstance(problem, Layer):
        between = _attention(problem, config, buffers)
    for link in problem.links:
        template: Any = registry.cuda(link.operation.name)
        own = part(config, link.prefix)
        arguments = (parts[link.prefix], own, planes[link.prefix], link.bound(buffers))
        made[link.prefix] = template.launches(*arguments, **between.get(link.prefix, {}))
    return made


def _attention(problem: Layer, config: Mapping[str, Any], buffers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the parts of a layer with attention are told about each other."""
    inside = finishes_in_attention(config)
    finish = _finish(problem, buffers) if inside else None
    return {"qkv": {"finish": not inside}, "attention": {"finish": finish, "activation": problem.activation}}


def finishes_in_attention(config: Mapping[str, Any]) -> bool:
    """Whether attention norms and turns heads and appends to the cache, and "qkv" is left as projected."""
    return config["finish"] != "kernel"


def _finish(problem: Layer, buffers: Mapping[str, Any]) -> Finish:
    rope = buffers["rope"]
    norms = (buffers["q_norm"], buffers["k_norm"]) if problem.qk_norm else (rope, rope)  # which the kernel never reads
    return Finish(bool(problem.qk_norm), problem.rope_dim, *norms, rope, buffers["eps"], bool(problem.v_norm))


def prepare(problem: Layer, inputs: Inputs, device: str) -> dict[str, Any]:
    b, capacity = inputs.buffers, inputs.buffers["values"].shape[1]
    heads = {n: torch.from_numpy(b[n][: problem.head_dim].copy()).to(device) for n in ("q_norm", "k_norm")}
    position = int(b["position"][0])
    rope = torch.full((capacity, problem.rope_dim), float("nan"))
    for at in (position, problem.typical.context - 1):  # where it is proved, and where it is timed
        rope[at] = torch.from_numpy(b["rope"][: problem.rope_dim])
    kept = cached(*cache.read(b["keys"], b["values"], capacity), capacity, problem.cache, device)
    size = problem.q_rows + 2 * problem.kv_rows
    if problem.qkv_bias:
        heads["qkv_bias"] = torch.from_numpy(b["qkv_bias"][:size].copy()).to(device)
    if problem.out_bias:
        heads["out_bias"] = torch.from_numpy(b["out_bias"][: problem.hidden].copy()).to(device)
    if problem.sinks:
        heads["sinks"] = torch.from_numpy(b["sinks"][: problem.heads].copy()).to(device)
    return stream(problem, inputs, device, POST_NORMS if problem.post_norm else ()) | _own_input(problem, b, device) | {
        **heads, **kept, "rope": rope.to(device),
        "position": torch.tensor([position], dtype=torch.int32, device=device),
        "qkv": torch.full((size,), float("nan"), device=device),
        "attended": Vector.allocate(problem.attended, device),
    }  # fmt: skip


def _own_input(problem: Layer, b: Mapping[str, np.ndarray], device: str) -> dict[str, Any]:
    """What a layer with an input of its own, or a scale of its output, has besides."""
    sizes = {"out_scale": 1} if problem.out_scale else {}
    made: dict[str, Any] = {}
    if size := problem.layer_input:
        sizes |= {"post_input_norm": problem.hidden, "input": size}
        made = {name: Vector.allocate(size, device) for name in ("raised", "input_gated")}
    return made | {n: torch.from_numpy(b[n][:size].copy()).to(device) for n, size in sizes.items()}


def stream(problem: Any, inputs: Inputs, device: str, post_norms: Sequence[str] = ()) -> dict[str, Any]:
    """What layers of every kind have: the residual stream "x" and, for `collect`, "before", norms of `hidden` elements,
    "eps", and what the feed-forward half uses."""
    b = inputs.buffers
    names = ("attn_norm", "ffn_norm", "next_norm", *post_norms)
    norms = {n: torch.from_numpy(b[n][: problem.hidden].copy()).to(device) for n in names}
    values = torch.from_numpy(b["x"][: problem.hidden].copy()).to(device)
    x = Vector.allocate(problem.hidden, device)
    x.fill(values, norms["attn_norm"], problem.activation)
    return {
        "x": x, "before": values, **norms, "eps": float(b["eps"][0]), "branch": Vector.allocate(problem.hidden, device),
        **_feed_forward(problem, inputs, device),
    }  # fmt: skip


def _feed_forward(problem: Any, inputs: Inputs, device: str) -> dict[str, Any]:
    """What the feed-forward half has for itself."""
    mixture = problem.parts().get("moe")
    if mixture is None:
        return {"gated": Vector.allocate(problem.ffn, device)}
    own = moe.vectors(mixture, inputs.buffers, device) | rows.allocate([mixture], 1, device)
    return {"gated": Vector.allocate(mixture.gated, device), **own}


def collect(problem: LinkedChain, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    x = buffers["x"].values
    return {"x": x.cpu().numpy(), "delta": (x.double() - buffers["before"].double()).cpu().numpy()}
