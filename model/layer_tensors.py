"""The tensors of a layer by its kind: their names in the file and their shapes, by what `Link` calls each in a layer.

Names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A new kind is one function here, in `MIXERS` or
`FEED_FORWARDS` as `kernel_templates.layer.chain` has its links.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from model.layer_sizes import LayerSizes

if TYPE_CHECKING:
    from model.config import ModelConfig


@dataclass(frozen=True)
class Turned:
    """Heads of `head_dim` elements, of which the first `rope_dim` are ordered for RoPE over neighbouring pairs, where
    kernels want them ordered for RoPE over halves."""

    head_dim: int
    rope_dim: int


@dataclass(frozen=True)
class Tensor:
    """A tensor that the file must have. pairs: how the rows (of a vector: the elements) are to be reordered, if they
    are. transposed: kernels want a matrix column by column. stored_rows: of the file's matrix, or of each of its
    matrices, where this is some rows of it, beginning with `first_row`; 0 where it is all of it. factor: what kernels
    want a vector times."""

    name: str
    shape: tuple[int, ...]
    pairs: Turned | None = None
    first_row: int = 0
    transposed: bool = False
    stored_rows: int = 0
    factor: float = 1.0

    @property
    def parts(self) -> tuple["Tensor", ...]:
        return (self,)

    @property
    def rows(self) -> int:
        """Of all matrices where it is several, [matrices, rows, columns]."""
        return math.prod(self.shape[:-1])

    @property
    def rows_each(self) -> int:
        """Of one matrix; a vector that is one is its only row."""
        return math.prod(self.shape[-2:-1])

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored(self) -> "Tensor":
        """The tensor as the file has it."""
        return (
            replace(self, shape=(*self.shape[:-2], self.stored_rows, self.shape[-1]), stored_rows=0, first_row=0)
            if self.stored_rows
            else self
        )


@dataclass(frozen=True)
class Joined:
    """Vectors of the file that kernels read as one, after each other."""

    parts: tuple[Tensor, ...]

    @property
    def elements(self) -> int:
        return sum(part.elements for part in self.parts)


Tensors = Mapping[str, Tensor | Joined]
LAST = ("q_norm", "k_norm", "post_attn_norm", "post_ffn_norm", "out_scale")
"""What files list after all else of a layer."""


def layer_tensors(config: "ModelConfig", index: int) -> dict[str, Tensor | Joined]:
    """In the order that llama.cpp's converter writes them."""
    sizes = config.layer(index)
    own = _Layer(config, sizes, f"blk.{index}.")
    found = {**MIXERS[sizes.mixer](own), **FEED_FORWARDS[sizes.feed_forward](own), **_end(own)}
    return dict(sorted(found.items(), key=lambda item: item[0] in LAST))


@dataclass(frozen=True)
class _Layer:
    """What the kinds of a layer make tensors of."""

    config: "ModelConfig"
    sizes: LayerSizes
    block: str

    def tensor(self, name: str, *shape: int, kind: str = "weight", **rest: Any) -> Tensor:
        return Tensor(self.block + (f"{name}.{kind}" if kind else name), shape, **rest)

    def matrices(self, fused: str, **parts: tuple[str, int, Turned | None]) -> dict[str, Tensor]:
        """parts: what kernels call each -> its name in the file, its rows, their order."""
        hidden = self.config.hidden
        if not self.config.architecture.fused:
            return {own: self.tensor(name, rows, hidden, pairs=p) for own, (name, rows, p) in parts.items()}
        total, first = sum(rows for _, rows, _ in parts.values()), 0
        made = {}
        for own, (_, rows, p) in parts.items():
            made[own] = self.tensor(fused, rows, hidden, pairs=p, first_row=first, stored_rows=total)
            first += rows
        return made


def _attention(of: _Layer) -> Tensors:
    s, traits, hidden = of.sizes, of.config.architecture, of.config.hidden
    pairs = Turned(s.head_dim, s.rope_dim) if traits.rope == "pairs" else None
    qkv = {"q": ("attn_q", s.q_rows, pairs), "k": ("attn_k", s.kv_rows, pairs), "v": ("attn_v", s.kv_rows, None)}
    if s.keys_are_values:
        qkv["v"] = qkv["k"]
    if s.cache_of is not None:
        del qkv["k"], qkv["v"]
    made: dict[str, Tensor | Joined] = {"attn_norm": of.tensor("attn_norm", hidden)}
    made |= of.matrices("attn_qkv", **qkv)
    if traits.qkv_bias:
        biases = (of.tensor(name, rows, kind="bias", pairs=p) for name, rows, p in qkv.values())
        made["qkv_bias"] = Joined(tuple(biases))
    made["out"] = of.tensor("attn_output", hidden, s.attended)
    if traits.out_bias:
        made["out_bias"] = of.tensor("attn_output", hidden, kind="bias")
    if traits.sinks:
        made["sinks"] = of.tensor("attn_sinks", s.heads)
    if traits.qk_norm:
        made["q_norm"] = of.tensor("attn_q_norm", s.head_dim, pairs=pairs)
        if s.cache_of is None:
            made["k_norm"] = of.tensor("attn_k_norm", s.head_dim, pairs=pairs)
    if traits.post_norm:
        made["post_attn_norm"] = of.tensor("post_attention_norm", hidden)
    return made


def _gated_delta(of: _Layer) -> Tensors:
    delta, hidden = of.sizes.delta, of.config.hidden
    assert delta is not None
    return {
        "attn_norm": of.tensor("attn_norm", hidden),
        "qkv": of.tensor("attn_qkv", delta.channels, hidden),
        "z": of.tensor("attn_gate", delta.value_size, hidden),
        "beta": of.tensor("ssm_beta", delta.heads, hidden),
        "alpha": of.tensor("ssm_alpha", delta.heads, hidden),
        "conv": of.tensor("ssm_conv1d", delta.channels, delta.kernel, transposed=True),
        "decay": of.tensor("ssm_a", delta.heads, kind=""),
        "dt_bias": of.tensor("ssm_dt", delta.heads, kind="bias"),
        "delta_norm": of.tensor("ssm_norm", delta.head_dim),
        "out": of.tensor("ssm_out", hidden, delta.value_size),
    }


def _dense(of: _Layer) -> Tensors:
    hidden, ffn = of.config.hidden, of.sizes.ffn
    made: dict[str, Tensor | Joined] = {"ffn_norm": of.tensor(of.config.architecture.ffn_norm, hidden)}
    made |= of.matrices("ffn_up", gate=("ffn_gate", ffn, None), up=("ffn_up", ffn, None))
    made["down"] = of.tensor("ffn_down", hidden, ffn)
    if of.config.architecture.post_norm:
        made["post_ffn_norm"] = of.tensor("post_ffw_norm", hidden)
    return made


def _end(of: _Layer) -> Tensors:
    """What comes behind both halves."""
    hidden, size = of.config.hidden, of.sizes.layer_input
    made: dict[str, Tensor | Joined] = {}
    if size:
        made["input_gate"] = of.tensor("inp_gate", size, hidden)
        made["input_proj"] = of.tensor("proj", hidden, size)
        made["post_input_norm"] = of.tensor("post_norm", hidden)
    if of.sizes.out_scale:
        made["out_scale"] = of.tensor("layer_output_scale", 1)
    return made


def _mixture(of: _Layer) -> Tensors:
    hidden, ffn, m = of.config.hidden, of.sizes.ffn, of.sizes.mixture
    assert m is not None
    if m.beside:
        return _beside(of, m.experts, m.shared_ffn)
    made: dict[str, Tensor | Joined] = {
        "ffn_norm": of.tensor(of.config.architecture.ffn_norm, hidden),
        "router": of.tensor("ffn_gate_inp", m.experts, hidden),
        "gate": of.tensor("ffn_gate_exps", m.experts, ffn, hidden),
        "up": of.tensor("ffn_up_exps", m.experts, ffn, hidden),
        "down": of.tensor("ffn_down_exps", m.experts, hidden, ffn),
    }
    if m.shared_ffn:
        made["shared_gate"] = of.tensor("ffn_gate_shexp", m.shared_ffn, hidden)
        made["shared_up"] = of.tensor("ffn_up_shexp", m.shared_ffn, hidden)
        made["shared_down"] = of.tensor("ffn_down_shexp", hidden, m.shared_ffn)
    if m.shared_gated:
        made["shared_router"] = of.tensor("ffn_gate_inp_shexp", hidden)
    if m.bias:
        made["router_bias"] = of.tensor("ffn_gate_inp", m.experts, kind="bias")
        for own, rows in (("gate", ffn), ("up", ffn), ("down", hidden)):
            made[f"{own}_bias"] = of.tensor(f"ffn_{own}_exps", m.experts, rows, kind="bias")
    if of.config.architecture.post_norm:
        made["post_ffn_norm"] = of.tensor("post_ffw_norm", hidden)
    return made


def _beside(of: _Layer, experts: int, dense: int) -> Tensors:
    """Of a mixture beside a dense network, as Gemma 4 has it."""
    hidden, ffn = of.config.hidden, of.sizes.ffn
    return {
        "shared_norm": of.tensor("ffn_norm", hidden),
        "shared_gate": of.tensor("ffn_gate", dense, hidden),
        "shared_up": of.tensor("ffn_up", dense, hidden),
        "shared_down": of.tensor("ffn_down", hidden, dense),
        "shared_post_norm": of.tensor("post_ffw_norm_1", hidden),
        "router_norm": of.tensor("ffn_gate_inp", hidden, kind="scale", factor=hidden**-0.5),
        "router": of.tensor("ffn_gate_inp", experts, hidden),
        "ffn_norm": of.tensor("pre_ffw_norm_2", hidden),
        "gate": of.tensor("ffn_gate_up_exps", experts, ffn, hidden, stored_rows=2 * ffn),
        "up": of.tensor("ffn_gate_up_exps", experts, ffn, hidden, stored_rows=2 * ffn, first_row=ffn),
        "down": of.tensor("ffn_down_exps", experts, hidden, ffn),
        "expert_scale": of.tensor("ffn_down_exps", experts, kind="scale"),
        "experts_post_norm": of.tensor("post_ffw_norm_2", hidden),
        "post_ffn_norm": of.tensor("post_ffw_norm", hidden),
    }


MIXERS: Mapping[str, Callable[[_Layer], Tensors]] = {"attention": _attention, "gated_delta": _gated_delta}
FEED_FORWARDS: Mapping[str, Callable[[_Layer], Tensors]] = {"dense": _dense, "moe": _mixture}
