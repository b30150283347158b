"""Launches of the end of a token on a GPU: greedy, sampled, or only the embedding of a token that is known.

`buffers`, tensors on the device by name: x (Vector [hidden]), logits float32 [vocab], best_value float32 [P] and
best_id int32 [P] (the head's partial argmax), position int32 [1], token int32 [1], history int32 [capacity],
status int32 [1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.sample_token import kernels, sampling

PICK_WARPS, SAMPLE_WARPS = 16, 8
CHUNK = 4096
"""Partial results read at once by the one program of `pick`: 8 a thread, in 16-byte loads."""
SIZE = 1024
"""Tokens a program of the sampler looks at."""
MOST_PARTIALS = 1 << 16
_ACTIVATION_BITS = {"int16": 16, "int8": 8, "float": 0}


@dataclass(frozen=True)
class Scratch:
    """What the sampler's kernels keep between them, and the settings they read. Allocate once; one chain at a time.

    temperature_top_p float32 [2]; top_k_seed int32 [3]: top_k, the seed's low and high 32 bits; counts int32 and masses
    int64: the bins of the stages, all zero between tokens; peak float32 [1]; state int64 [20], its item 16 the last
    border's key; best_value float32 and best_id int32 [programs]: the draw's partial argmax.
    """

    temperature_top_p: torch.Tensor
    top_k_seed: torch.Tensor
    counts: torch.Tensor
    masses: torch.Tensor
    peak: torch.Tensor
    state: torch.Tensor
    best_value: torch.Tensor
    best_id: torch.Tensor

    @classmethod
    def allocate(cls, vocab: int, device: str | torch.device) -> "Scratch":
        """Settings are greedy until `set`."""
        coarse, fine = sampling.COARSE.value, sampling.FINE.value
        programs = triton.cdiv(vocab, SIZE)
        return cls(
            torch.tensor([0.0, 1.0], device=device),
            torch.zeros(3, dtype=torch.int32, device=device),
            torch.zeros(coarse + 2 * fine, dtype=torch.int32, device=device),
            torch.zeros(coarse + 4 * fine, dtype=torch.int64, device=device),
            torch.full((1,), float("nan"), device=device),
            torch.zeros(5 * sampling.STATE.value, dtype=torch.int64, device=device),
            torch.full((programs,), float("nan"), device=device),
            torch.zeros(programs, dtype=torch.int32, device=device),
        )

    def set(self, temperature: float, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> None:
        """Settings of the next tokens, in the order of the stream: temperature 0 or top_k 1 is greedy; top_k 0 and
        top_p 1 keep every token; seed: its low 64 bits count."""
        self.temperature_top_p.copy_(torch.tensor([temperature, top_p], dtype=torch.float32))
        self.top_k_seed.copy_(top_k_and_seed(top_k, seed))


def top_k_and_seed(top_k: int, seed: int) -> torch.Tensor:
    """int32 [3]: top_k, and the low 64 bits of the seed, as kernels read them."""
    words = torch.tensor([min(top_k, 2**31 - 1), seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], dtype=torch.int64)
    return words.to(torch.int32)  # keeps the low 32 bits


def launches_greedy(
    buffers: Mapping[str, Any], embedding: Embedding, norm: torch.Tensor | None = None, activation: str = "int16"
) -> list[Launch]:
    """The most likely token. norm: float32 [hidden], the first layer's, or None; activation: what that layer reads,
    "int16", "int8" or "float"."""
    return [_pick(buffers, buffers["best_value"], buffers["best_id"], embedding, norm, activation)]


def launches_sampling(
    buffers: Mapping[str, Any],
    embedding: Embedding,
    scratch: Scratch,
    norm: torch.Tensor | None = None,
    activation: str = "int16",
) -> list[Launch]:
    """A token drawn by the settings in `scratch`, which may change between two runs of one captured graph."""
    logits = buffers["logits"]
    vocab = logits.numel()
    grid = (triton.cdiv(vocab, SIZE),)
    settings = (scratch.temperature_top_p, scratch.top_k_seed)
    bins = (scratch.counts, scratch.masses, scratch.peak)
    first = Launch(
        "sample",
        sampling.coarse,
        grid,
        (logits, buffers["best_value"], *settings, *bins, vocab),
        {**_partials(buffers["best_value"], CHUNK // 2), "SIZE": SIZE},
        SAMPLE_WARPS,
    )
    refine = [
        Launch(
            "sample",
            sampling.refine_count if stage < 4 else sampling.refine_mass,
            grid,
            (logits, *settings, *bins, scratch.state, vocab),
            {"STAGE": stage, "SIZE": SIZE},
            SAMPLE_WARPS,
        )
        for stage in (2, 3, 4, 5)
    ]
    drawn = (buffers["position"], scratch.best_value, scratch.best_id, vocab)
    draw = Launch(
        "sample",
        sampling.draw,
        grid,
        (logits, *settings, scratch.masses, scratch.peak, scratch.state, *drawn),
        {"SIZE": SIZE},
        SAMPLE_WARPS,
    )
    return [first, *refine, draw, _pick(buffers, scratch.best_value, scratch.best_id, embedding, norm, activation)]


def launches_embed(
    buffers: Mapping[str, Any], embedding: Embedding, norm: torch.Tensor | None = None, activation: str = "int16"
) -> list[Launch]:
    """The embedding of the token in buffers["token"]; picks nothing and leaves the position alone."""
    arguments = (embedding.raw, _norm(buffers, norm), buffers["token"], *buffers["x"].pointers)
    return [Launch("embed", kernels.embed, (1,), arguments, _constants(embedding, norm, activation), PICK_WARPS)]


def _pick(
    buffers: Mapping[str, Any],
    best_value: torch.Tensor,
    best_id: torch.Tensor,
    embedding: Embedding,
    norm: torch.Tensor | None,
    activation: str,
) -> Launch:
    history = buffers["history"]
    arguments = (
        best_value, best_id, embedding.raw, _norm(buffers, norm), buffers["token"], history, history.numel(),
        buffers["position"], buffers["status"], *buffers["x"].pointers,
    )  # fmt: skip
    constants = {**_partials(best_value, CHUNK), **_constants(embedding, norm, activation)}
    return Launch("pick", kernels.pick, (1,), arguments, constants, PICK_WARPS)


def _partials(best_value: torch.Tensor, chunk: int) -> dict[str, int]:
    count = best_value.numel()
    if count > MOST_PARTIALS:
        raise ValueError(f"the head leaves {count} partial results; at most {MOST_PARTIALS} can be picked from")
    return {"PARTIALS": count, "CHUNK": min(triton.next_power_of_2(count), chunk)}


def _constants(embedding: Embedding, norm: torch.Tensor | None, activation: str) -> dict[str, Any]:
    return {**embedding.constants, "ACT": _ACTIVATION_BITS[activation], "NORMED": norm is not None}


def _norm(buffers: Mapping[str, Any], norm: torch.Tensor | None) -> torch.Tensor:
    """Kernels take a pointer always; without a norm they never read it."""
    return buffers["x"].values if norm is None else norm
