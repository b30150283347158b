"""The tensors of a layer by its kind: their names in the file and their shapes, by what `Link` calls each in a layer.

Names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A new kind is one function here, in `MIXERS` or
`FEED_FORWARDS` as `kernel_templates.layer.chain` has its links.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    are. stored_rows: of the file's tensor where this is `shape[0]` rows of it, beginning with `first_row`; 0 where it
    is all of it."""

    name: str
    shape: tuple[int, ...]
    pairs: Turned | None = None
    first_row: int = 0
    stored_rows: int = 0

    @property
    def parts(self) -> tuple["Tensor", ...]:
        return (self,)

    @property
    def stored(self) -> "Tensor":
        """The tensor as the file has it."""
        return Tensor(self.name, (self.stored_rows, *self.shape[1:]), self.pairs) if self.stored_rows else self


@dataclass(frozen=True)
class Joined:
    """Vectors of the file that kernels read as one, after each other."""

    parts: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts),)


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
        return Tensor(f"{self.block}{name}.{kind}", shape, **rest)

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
    made["out"] = of.tensor("attn_output", hidden, s.q_rows)
    if traits.qk_norm:
        made["q_norm"] = of.tensor("attn_q_norm", s.head_dim, pairs=pairs)
        if s.cache_of is None:
            made["k_norm"] = of.tensor("attn_k_norm", s.head_dim, pairs=pairs)
    if traits.post_norm:
        made["post_attn_norm"] = of.tensor("post_attention_norm", hidden)
    return made


def _dense(of: _Layer) -> Tensors:
    hidden, ffn = of.config.hidden, of.sizes.ffn
    made: dict[str, Tensor | Joined] = {"ffn_norm": of.tensor("ffn_norm", hidden)}
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


MIXERS: Mapping[str, Callable[[_Layer], Tensors]] = {"attention": _attention}
FEED_FORWARDS: Mapping[str, Callable[[_Layer], Tensors]] = {"dense": _dense}
