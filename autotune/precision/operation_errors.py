"""Each operation's own error: its kernel on the reference's exact inputs, against the reference's output.

An error is ‖found − wanted‖ / ‖wanted‖ at one position; of what adds to the residual stream, of what it adds. The
cache is written with exact keys and values, which it rounds to float16: what that costs is part of attention, and of
the keys' and values' own errors.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from autotune.precision.kernels_alone import PARTS, KernelsAlone
from autotune.precision.precision_result import WHOLE_LAYER, OperationError
from autotune.precision.prompt_alone import PromptAlone
from model.config import ModelConfig
from model.layer_sizes import LayerSizes
from model.layer_tensors import Turned
from model.reference import LayerTrace
from model.weights import halves_order

QKV = "norm_qkv_rope"
NOT_ALONE = (
    "gated delta nets, attention with an output gate or over another layer's cache, mixtures of experts, "
    "inputs of layers"
)


def runs_alone(sizes: LayerSizes) -> bool:
    """Whether the operations of a layer are those that are run alone here: the four of attention over its own cache and
    of a dense network."""
    own_attention = sizes.mixer == "attention" and not sizes.output_gate and sizes.cache_of is None
    return own_attention and sizes.feed_forward == "dense" and not sizes.layer_input


class Errors:
    """Collects errors by operation and output, over positions."""

    def __init__(self, path: str, layer: int | None) -> None:
        self._path, self._layer = path, layer
        self._found: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)

    def add(self, operation: str, found: Tensor, wanted: Tensor, first: int, output: str = "") -> None:
        """Both [positions, ...], of positions first, first + 1, ..."""
        found, wanted = (part.flatten(1).double().cpu() for part in (found, wanted))
        sizes = wanted.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        ratios = (found - wanted).norm(dim=1) / sizes
        self._found[operation, output] += [(float(ratio), first + i) for i, ratio in enumerate(ratios)]

    def rows(self) -> Iterator[OperationError]:
        for (operation, output), found in self._found.items():
            errors = np.array([error for error, _ in found])
            worst = int(np.where(np.isnan(errors), np.inf, errors).argmax())
            yield OperationError(
                self._path, self._layer, operation, output, float(errors.mean()), float(errors[worst]), found[worst][1]
            )


def in_kernels_order(config: ModelConfig, layer: int, trace: LayerTrace) -> LayerTrace:
    """The trace with the elements of query and key heads as kernels have them, halves turned together."""
    if config.architecture.rope == "halves":
        return trace
    sizes = config.layer(layer)
    head = torch.from_numpy(halves_order(sizes.head_dim, Turned(sizes.head_dim, sizes.rope_dim)))
    q, k, v = trace.raw
    q, k = (rows.unflatten(-1, (-1, sizes.head_dim))[..., head].flatten(1) for rows in (q, k))
    return replace(trace, raw=(q, k, v), q=trace.q[..., head], k=trace.k[..., head])


def decode_errors(
    kernels: KernelsAlone, layer: int, t: LayerTrace, positions: Sequence[int]
) -> Iterator[OperationError]:
    """Of the kernels of one decode step at each of `positions`; t: in the kernels' order."""
    errors = Errors("decode", layer)
    with kernels.here():
        kernels.write_cache(layer, t.k, t.v)
        for p in positions:
            _decode_at(kernels, layer, t, p, errors)
    yield from errors.rows()


def _decode_at(kernels: KernelsAlone, layer: int, t: LayerTrace, p: int, errors: Errors) -> None:
    at, raw = slice(p, p + 1), kernels.raw(layer, p)

    def run(*parts: str, **inputs: Tensor) -> Mapping[str, Tensor]:
        """Leaves the cache exact again."""
        made = {name: value[None] for name, value in kernels.run(layer, parts, p, inputs).items()}
        keys, values = kernels.read_cache(layer, p, p + 1)
        kernels.write_cache(layer, t.k[at], t.v[at], p)
        return {**made, "keys": keys, "values": values}

    # Where attention finishes heads, keys and values are in the cache only after it.
    made = run(*(PARTS[:2] if raw else PARTS[:1]), x=t.before[p])
    wanted = t.raw[0][at] if raw else t.q[at].flatten(1)
    errors.add(QKV, made["qkv"][:, : wanted.shape[1]], wanted, p, "queries")
    errors.add(QKV, made["keys"], t.k[at], p, "keys")
    errors.add(QKV, made["values"], t.v[at], p, "values")
    queries = torch.cat([rows[p] for rows in t.raw]) if raw else t.q[p]
    errors.add("attention", run("attention", qkv=queries)["attended"], t.attended[at], p)
    made = run("out", x=t.before[p], attended=t.attended[p])
    _add_delta(errors, "matvec out", made["x"], t.before[at], t.middle[at], p)
    _add_delta(errors, "ffn", run("ffn", x=t.middle[p])["x"], t.middle[at], t.after[at], p)
    _add_delta(errors, WHOLE_LAYER, run(*PARTS, x=t.before[p])["x"], t.before[at], t.after[at], p)


def prompt_errors(kernels: KernelsAlone, prompt: PromptAlone, layer: int, t: LayerTrace) -> Iterator[OperationError]:
    """Of the operations of a prompt of all tokens, chunk by chunk; t: in the kernels' order."""
    errors, count = Errors("prompt", layer), len(t.before)
    with kernels.here():
        kernels.write_cache(layer, t.k, t.v)
        for first in range(0, count, prompt.most):
            at = slice(first, min(first + prompt.most, count))

            def run(parts: Sequence[str], at: slice = at, **inputs: Tensor) -> dict[str, Tensor]:
                """Leaves the cache exact again."""
                given = {name: value[at] for name, value in inputs.items()}
                made = prompt.run(layer, parts, at.start, at.stop - at.start, given)
                keys, values = kernels.read_cache(layer, at.start, at.stop)
                kernels.write_cache(layer, t.k[at], t.v[at], at.start)
                return {**made, "keys": keys, "values": values}

            made = run(PARTS[:1], x=t.before)
            for output, name, wanted in (("queries", "qkv", t.q), ("keys", "keys", t.k), ("values", "values", t.v)):
                errors.add(QKV, made[name], wanted[at], first, output)
            errors.add("attention", run(("attention",), qkv=t.q)["attended"], t.attended[at], first)
            made = run(("out",), x=t.before, attended=t.attended)
            _add_delta(errors, "matvec out", made["x"], t.before[at], t.middle[at], first)
            _add_delta(errors, "ffn", run(("ffn",), x=t.middle)["x"], t.middle[at], t.after[at], first)
            _add_delta(errors, WHOLE_LAYER, run(PARTS, x=t.before)["x"], t.before[at], t.after[at], first)
    yield from errors.rows()


def _add_delta(errors: Errors, operation: str, found: Tensor, before: Tensor, after: Tensor, first: int) -> None:
    """Of what is added to the residual stream."""
    errors.add(operation, found.cpu().double() - before.double(), after.double() - before.double(), first)
