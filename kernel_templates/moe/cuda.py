"""A mixture of experts on the GPU for one token: the router's logits, the choice, gate and up of the chosen experts in
one kernel, which gates and quantizes, then down of them with their weighted sum; a post norm is a kernel more, and so
is down of a network beside the mixture.

No number comes to the host: a token's launches are the same whichever experts it uses.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda import parameters, post_norm, product
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.traits import RUN
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes, split
from kernel_templates.cuda.weights import pack as pack_planes
from kernel_templates.moe import beside, choose, expert_products, rows
from kernel_templates.moe.problem import BESIDE, Moe
from kernel_templates.moe.reference import BIASES
from kernel_templates.moe.space import whole
from kernel_templates.operation import Inputs, Weight

PACK_DEPENDS = ()


def pack(problem: Moe, config, weights: Mapping[str, Weight], device: str) -> tuple[Planes, ...]:
    """The router, below it the shared expert's; gates and ups of all experts, in one piece if they have one format;
    their downs; the same of a shared expert."""
    routers = [weights[name] for name in ("router", "shared_router") if name in weights]
    packed = [pack_planes(routers, device), *_gate_up(weights["gate"], weights["up"], device)]
    packed.append(pack_planes([weights["down"]], device))
    if problem.shared_ffn:
        packed += _gate_up(weights["shared_gate"], weights["shared_up"], device)
        packed.append(pack_planes([weights["shared_down"]], device))
    return tuple(packed)


def _gate_up(gate: Weight, up: Weight, device: str) -> tuple[Planes, ...]:
    if gate.format == up.format:
        return split(pack_planes([gate, up], device), (gate.rows, up.rows))
    return pack_planes([gate], device), pack_planes([up], device)


def launches(problem: Moe, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the Vector "x" (quantized times norm), "norm", "eps" and, with biases, BIASES; writes "router_logits"
    float32 [experts and one of a gated shared expert], "expert_ids" int32 [used], "expert_weights" float32 [used and
    one of a shared expert] and the Vector "gated"; adds to "x", whose planes then hold x * next_norm. With a post norm
    also reads "post_norm", with a scale "out_scale", and uses the Vector "branch"; `beside` also BESIDE, and the Vector
    "shared_branch"."""
    config = whole(config)
    made = [_router(problem, config, packed[0], buffers)]
    if config["choose"] == "kernel":
        made.append(choose.launch(problem, *_choice(buffers), scales=_scales(problem, buffers)))
    made.append(_gated(problem, config, (*packed[1:3], *packed[4:6]), buffers))
    bits, scaled = parameters.bits(problem.activation), bool(problem.out_scale)
    if problem.beside:
        branches = buffers["branch"], buffers["shared_branch"]
        made += [_residual(problem, config, packed[3:4], buffers), _beside(problem, config, packed[6], buffers)]
        return [*made, beside.launch(*branches, buffers["x"], buffers, bits, scaled)]
    made.append(_residual(problem, config, (packed[3], *packed[6:]), buffers))
    if problem.post_norm:
        made.append(post_norm.launch(buffers["branch"], buffers["x"], buffers, bits, "down_norm", scaled))
    return made


def _choice(buffers: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits, the experts chosen by them, their weights."""
    return buffers["router_logits"], buffers["expert_ids"], buffers["expert_weights"]


def _scales(problem: Moe, buffers: Mapping[str, Any]) -> torch.Tensor | None:
    """What experts' weights are multiplied with."""
    return buffers["expert_scale"] if problem.beside else None


def _router(problem: Moe, config: Mapping[str, Any], planes: Planes, buffers: Mapping[str, Any]) -> Launch:
    constants = parameters.constants(config, "router_", planes.format, planes.cols, planes.rows, problem.activation)
    if problem.beside:  # the planes hold x times the experts' norm
        constants["SOURCE"] = "values"
    logits = buffers["router_logits"]
    bias = buffers["router_bias"] if problem.bias else None
    arguments = (
        *planes.pointers, *buffers["x"].pointers, buffers["router_norm" if problem.beside else "norm"], buffers["eps"],
        logits, logits, logits, planes.rows, bias,
    )  # fmt: skip
    grid = (parameters.programs(constants, planes.rows),)
    constants |= {"SOFT_CAP": 0.0, "BEST": False}
    return Launch("router", product.rows_product, grid, arguments, constants, config["router_warps"])


def _gated(problem: Moe, config: Mapping[str, Any], planes: tuple[Planes, ...], buffers: Mapping[str, Any]) -> Launch:
    """planes: gate and up, and those of a shared expert."""
    gate, up, shared_gate, shared_up = planes if problem.shared_ffn else planes * 2
    every = [
        parameters.constants(config, "gate_up_", p.format, problem.hidden, count, problem.activation)
        for p, count in ((gate, problem.ffn), (up, problem.ffn), (shared_gate, problem.shared_ffn))
    ]
    every.append({**every[2], "CHUNKS": -(-parameters.units(problem.hidden, shared_up.format) // every[2]["UNITS"])})
    chunks = [each["CHUNKS"] for each in every]
    constants, programs = every[0], parameters.programs(every[0], problem.ffn)
    del constants["EARLY"]
    most = config["gate_up_ahead"]
    constants |= {
        "ROWS": problem.ffn, "SHARED_ROWS": problem.shared_ffn, "USED": problem.used, "UP_TRAITS": up.traits,
        "SHARED_TRAITS": shared_gate.traits, "SHARED_UP_TRAITS": shared_up.traits, "UP_CHUNKS": chunks[1],
        "SHARED_CHUNKS": chunks[2], "SHARED_UP_CHUNKS": chunks[3],
        "AHEAD": min(most, sum(chunks[:2]) * constants["STEPS"]),
        "SHARED_AHEAD": min(most, sum(chunks[2:]) * constants["STEPS"]),
        "OUT_ACT": parameters.bits(problem.activation), "GATE": problem.gate_function,
        "SHARED_SOURCE": "values" if problem.beside else constants["SOURCE"], "HERE": config["choose"] == "readers",
    }  # fmt: skip
    constants |= {name: choose.constants(problem)[name] for name in ("EXPERTS", "LANES")}
    shared_programs = parameters.programs(every[2], problem.shared_ffn)
    constants["EVEN"] = every[0]["EVEN"] and programs >= shared_programs
    constants["SHARED_EVEN"] = every[2]["EVEN"] and shared_programs >= programs
    biases = (buffers["gate_bias"], buffers["up_bias"]) if problem.bias else (None, None)
    logits, ids, _ = _choice(buffers)
    arguments = (
        logits if constants["HERE"] else ids,
        *(pointer for p in (gate, up, shared_gate, shared_up) for pointer in p.pointers),
        *buffers["x"].pointers, buffers["norm"], buffers["eps"], *buffers["gated"].pointers[:4], *biases,
        buffers["shared_norm" if problem.beside else "norm"],
    )  # fmt: skip
    grid = (max(programs, shared_programs), problem.used + (problem.shared_ffn > 0))
    return Launch("gate_up", expert_products.chosen_gated, grid, arguments, constants, config["gate_up_warps"])


def _residual(
    problem: Moe, config: Mapping[str, Any], planes: tuple[Planes, ...], buffers: Mapping[str, Any]
) -> Launch:
    """planes: down, and that of a shared expert which is summed up with the others."""
    down, shared, cols = planes[0], planes[-1], problem.used * problem.ffn
    shared_ffn = problem.shared_ffn if len(planes) > 1 else 0
    constants = parameters.constants(config, "down_", down.format, cols, problem.hidden, problem.activation)
    normed, bits = bool(problem.post_norm), parameters.bits(problem.activation)
    shared_chunks = -(-parameters.units(shared_ffn, shared.format) // constants["UNITS"])
    both = constants["CHUNKS"] + shared_chunks
    constants |= {
        "ROWS": problem.hidden, "FFN": problem.ffn, "SHARED_FFN": shared_ffn,
        "SHARED_TRAITS": shared.traits, "SHARED_CHUNKS": shared_chunks,
        "AHEAD": min(config["down_ahead"], both * constants["STEPS"]), "OUT_ACT": 0 if normed else bits,
        "ADD": not normed, "HERE": config["choose"] == "readers",
        **choose.constants(problem),
    }  # fmt: skip
    written = buffers["branch"] if normed else buffers["x"]
    arguments = (
        *_choice(buffers), _scales(problem, buffers), *down.pointers, *shared.pointers,
        *buffers["gated"].pointers[:4], *written.pointers, buffers["next_norm"],
        buffers["down_bias"] if problem.bias else None,
    )  # fmt: skip
    grid = (parameters.programs(constants, problem.hidden),)
    return Launch("down", expert_products.chosen_residual, grid, arguments, constants, config["down_warps"])


def _beside(problem: Moe, config: Mapping[str, Any], planes: Planes, buffers: Mapping[str, Any]) -> Launch:
    """planes: down of the network beside the mixture."""
    constants = parameters.constants(config, "down_", planes.format, planes.cols, planes.rows, problem.activation)
    gated, written = buffers["gated"], buffers["shared_branch"]
    arguments = (
        *planes.pointers, *gated.pointers[:4], *written.pointers, buffers["next_norm"], planes.rows, None,
    )  # fmt: skip
    constants |= {"OUT_ACT": 0, "ADD": False, "FIRST": problem.used * problem.ffn // RUN}
    grid = (parameters.programs(constants, planes.rows),)
    return Launch("shared_down", product.residual_product, grid, arguments, constants, config["down_warps"])


def prepare(problem: Moe, inputs: Inputs, device: str) -> dict[str, Any]:
    b = inputs.buffers
    values, norm = (torch.from_numpy(b[name][: problem.hidden].copy()).to(device) for name in ("x", "norm"))
    x = Vector.allocate(problem.hidden, device)
    x.fill(values, norm, problem.activation)
    made: dict[str, Any] = vectors(problem, b, device) | {
        "x": x, "norm": norm, "eps": float(b["eps"][0]), "gated": Vector.allocate(problem.gated, device),
        "next_norm": torch.ones(problem.hidden, device=device), **rows.allocate([problem], 1, device),
    }  # fmt: skip
    return made | (post_norm.prepare(problem.hidden, inputs, device) if problem.post_norm else {})


def vectors(problem: Moe, buffers: Mapping[str, np.ndarray], device: str) -> dict[str, Any]:
    """Biases, and what there is beside a network, float32, as far as the problem has them; and the Vector
    "shared_branch"."""
    p, named, made = problem, dict[str, int](), dict[str, Any]()
    if p.bias:
        named = dict(zip(BIASES, (p.experts, p.all_ffn, p.all_ffn, p.all_hidden), strict=True))
    if p.beside:
        named = {name: p.experts if name == "expert_scale" else p.hidden for name in BESIDE}
        made["shared_branch"] = Vector.allocate(p.hidden, device)
    return made | {name: torch.from_numpy(buffers[name][:size].copy()).to(device) for name, size in named.items()}


def collect(problem: Moe, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    weights = buffers["expert_weights"][: problem.used]
    found = {"expert_ids": buffers["expert_ids"], "expert_weights": weights}
    found |= {name: buffers[name].values for name in ("gated", "x")}
    return {name: values.cpu().numpy() for name, values in found.items()}
