"""A gated delta net between its projections on the GPU: one kernel for one token, two for few rows of each text, four
for many."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kernel_templates.attention.space import power_of_two
from kernel_templates.cuda.fragments import NATURAL
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.parameters import bits
from kernel_templates.cuda.traits import RUN
from kernel_templates.cuda.vector import Vector
from kernel_templates.gated_delta import cuda_chunks, cuda_rows, cuda_token
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.gated_delta.space import splits
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()
BLOCK = 8
"""Rows of a program that convolves: each reads the ones before it, which are in the first-level cache then."""
GROUP = 1024
"""Values of the heads that a program norms."""


@dataclass(frozen=True)
class FirstRows:
    """Where the first row of every text stands, in `positions` int32 [rows], of which each text has `tokens`."""

    positions: torch.Tensor
    tokens: int

    def fill_(self, position: int) -> None:
        """Move all texts there, as a tensor of one position would be filled."""
        row = torch.arange(len(self.positions), dtype=torch.int32, device=self.positions.device)
        self.positions.copy_(position + row % self.tokens)


def pack(problem: GatedDelta, config, weights, device: str) -> tuple[()]:
    """There are no weights."""
    return ()


def scratch_size(problem: GatedDelta, config: Mapping[str, Any]) -> int:
    """float32 elements that the kernels of several rows leave for each other: heads before their norm and, by chunks,
    what the convolution gives and what concerns a chunk's rows alone."""
    if problem.rows == 1:
        return 0
    return sum(_elements(problem, config).values())


def launches(
    problem: GatedDelta, config: Mapping[str, Any], packed, buffers: Mapping[str, Any], activation: str = "int16"
) -> list[Launch]:
    """Reads "projected" float32 [rows, projected_size], "conv" float32 [kernel, channels], "decay" and "dt_bias"
    float32 [heads], "norm" float32 [head_dim], "eps"; reads and writes "conv_state" float32 [texts, kernel, channels]
    and "state" float32 [texts, heads, head_dim of k, head_dim of v].

    One row: reads "position" int32 [1], of the only text; writes the Vector "out" in the consumer's `activation` ("":
    float values only). "delta_counters" int32 [>= heads], zeros, may be shared by the layers of a chain.

    Several: reads "positions" and "sequences" int32 [rows], -1 for rows that are not used, the last of a text; writes
    "out" float16 [rows, value_size], or in another order of columns, "out_order" of `cuda.fragments`, as wide as that
    wants. "delta_scratch" float32 [>= scratch_size] may be shared by all layers. Both are made here if there are none
    or too few.
    """
    shape = {
        "HEADS": problem.heads, "KEY_HEADS": problem.key_heads, "HEAD_DIM": problem.head_dim,
        "DIMS": power_of_two(problem.head_dim),
    }  # fmt: skip
    if problem.rows == 1:
        return [_token(problem, config, buffers, shape, activation)]
    return _rows(problem, config, buffers, shape)


def _token(problem: GatedDelta, config, buffers, shape: Mapping[str, int], activation: str) -> Launch:
    b, count = buffers, splits(problem, config)
    counters = b.get("delta_counters")
    if counters is None or counters.numel() < problem.heads:
        counters = torch.zeros(problem.heads, dtype=torch.int32, device=b["projected"].device)
    arguments = (
        b["projected"], b["conv_state"], b["state"], b["position"], b["conv"], b["decay"], b["dt_bias"], b["norm"],
        b["eps"], *b["out"].pointers, counters,
    )  # fmt: skip
    constants = {
        **shape, "KERNEL": problem.kernel, "COLUMNS": config["columns"], "SPLITS": count,
        "EARLY": bool(config["early"]), "ACT": bits(activation) if activation else 0,
    }  # fmt: skip
    return Launch("gated_delta", cuda_token.delta_token, (problem.heads, count), arguments, constants, config["warps"])


def _elements(problem: GatedDelta, config: Mapping[str, Any]) -> dict[str, int]:
    """float32 elements of each part of the scratch memory."""
    found = {"heads": problem.rows * problem.value_size}
    if config["algorithm"] == "chunked":
        chunk = config["chunk"]
        chunks = problem.heads * problem.sequences * -(-problem.tokens // chunk)
        found |= {"decays": chunks * chunk, "solved": chunks * chunk**2 // 2, "scores": chunks * chunk**2 // 2}
        found |= {"mixed": -(-problem.rows * problem.channels // 2)}
    return {name: -(-size // 4) * 4 for name, size in found.items()}  # whole words of 16 bytes


def _rows(problem: GatedDelta, config, buffers, shape: Mapping[str, int]) -> list[Launch]:
    b, count = buffers, splits(problem, config)
    scratch = b.get("delta_scratch")
    if scratch is None or scratch.numel() < scratch_size(problem, config):
        scratch = torch.full((scratch_size(problem, config),), float("nan"), device=b["projected"].device)
    sizes = _elements(problem, config)
    parts = dict(zip(sizes, scratch[: sum(sizes.values())].split(list(sizes.values())), strict=True))
    projected, conv_state, conv, eps = b["projected"], b["conv_state"], b["conv"], b["eps"]
    places, rates = (b["positions"], b["sequences"]), (b["decay"], b["dt_bias"])
    shape = {"TOKENS": problem.tokens, **shape}
    kernel, columns = {"KERNEL": problem.kernel}, {"COLUMNS": config["columns"]}
    by_head = (problem.heads, count, problem.sequences)

    def made(name: str, run: Any, grid: tuple[int, ...], arguments: tuple, own: Any, warps: int = 4) -> Launch:
        return Launch(name, run, grid, arguments, {**shape, **own}, warps)

    last = _finish(problem, buffers, shape, parts["heads"])
    if config["algorithm"] == "recurrent":
        arguments = (projected, *places, conv_state, b["state"], conv, *rates, eps, parts["heads"])
        few = made("gated_delta", cuda_rows.delta_few_rows, by_head, arguments, kernel | columns, config["warps"])
        return [few, last]
    mixed, solved, scores = (parts[name].view(torch.float16) for name in ("mixed", "solved", "scores"))
    levels = (config["chunk"] // cuda_chunks.BASE.value).bit_length() - 1
    chunk, between = {"CHUNK": config["chunk"]}, (mixed, parts["decays"], solved, scores)
    heads = 2 * problem.key_heads + problem.heads
    return [
        made(
            "delta_conv", cuda_rows.convolve_rows, (triton.cdiv(problem.rows, BLOCK), heads),
            (projected, *places, conv_state, conv, eps, mixed, problem.rows), kernel | {"BLOCK": BLOCK},
        ),
        made(
            "delta_meet", cuda_chunks.meet,
            (problem.heads, triton.cdiv(problem.tokens, config["chunk"]), problem.sequences),
            (projected, b["positions"], mixed, *rates, *between[1:]), chunk | {"LEVELS": levels}, config["meet_warps"],
        ),
        made(
            "gated_delta", cuda_chunks.scan, by_head, (*places, *between, b["state"], parts["heads"]),
            chunk | columns | {"STAGES": config["stages"]}, config["warps"],
        ),
        last,
    ]  # fmt: skip


def _finish(problem: GatedDelta, buffers, shape: Mapping[str, int], heads: torch.Tensor) -> Launch:
    b, out = buffers, buffers["out"]
    group = max(1, min(GROUP // shape["DIMS"], power_of_two(problem.heads)))
    grid = (problem.rows, triton.cdiv(problem.heads, group))
    constants = {
        **shape, "KERNEL": problem.kernel, "GROUP": group, "SHARE": power_of_two(-(-problem.channels // grid[1])),
        "WIDTH": out.shape[1], "ORDER": b.get("out_order", NATURAL),
    }  # fmt: skip
    arguments = (
        b["projected"], b["positions"], b["sequences"], b["conv_state"], heads, b["norm"], b["eps"], out
    )  # fmt: skip
    return Launch("delta_norm", cuda_rows.finish_rows, grid, arguments, constants)


def prepare(problem: GatedDelta, inputs: Inputs, device: str) -> dict[str, Any]:
    """The buffers of `launches`. Of several rows, "position" is where the first one of each text stands."""
    b = inputs.buffers

    def tensor(name: str, *shape: int) -> torch.Tensor:
        count = int(np.prod(shape))
        return torch.from_numpy(b[name].reshape(-1)[:count].copy()).view(shape).to(device)

    state = torch.from_numpy(b["state"]).transpose(2, 3).contiguous().to(device)
    made = {
        "projected": tensor("projected", problem.rows, problem.projected_size),
        "conv": tensor("conv", problem.kernel, problem.channels), "decay": tensor("decay", problem.heads),
        "dt_bias": tensor("dt_bias", problem.heads), "norm": tensor("norm", problem.head_dim),
        "eps": float(b["eps"][0]), "conv_state": torch.from_numpy(b["conv_state"].copy()).to(device), "state": state,
    }  # fmt: skip
    if problem.rows == 1:
        vector = Vector.allocate(-(-problem.value_size // RUN) * RUN, device)
        position = torch.from_numpy(b["position"].astype(np.int32)).to(device)
        return made | {"out": vector, "position": position}
    places = {name: torch.from_numpy(b[name].copy()).to(device) for name in ("positions", "sequences")}
    out = torch.full((problem.rows, problem.value_size), float("nan"), dtype=torch.float16, device=device)
    return made | places | {"out": out, "position": FirstRows(places["positions"], problem.tokens)}


def collect(problem: GatedDelta, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    out = buffers["out"]
    values = out.values[: problem.value_size] if problem.rows == 1 else out
    state = buffers["state"].transpose(2, 3).contiguous()
    return {
        "out": values.cpu().numpy().ravel(), "conv_state": buffers["conv_state"].cpu().numpy(),
        "state": state.cpu().numpy(),
    }  # fmt: skip
