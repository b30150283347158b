"""Tiny models of scripts/make_model.py, one for each architecture there is, and architectures that only tests have."""

from model.architectures import ARCHITECTURES
from model.architectures.base import Architecture

TINY = (
    {"tiny": ARCHITECTURES["llama"]}
    | {f"tiny-{name}": architecture for name, architecture in ARCHITECTURES.items() if name != "llama"}
    | {"tiny-gemma4-mixture": ARCHITECTURES["gemma4"]}
)
"""Shape -> architecture. llama's has 64 columns and heads of 16, the others have 256 and heads of 32."""

MADE_UP = (
    Architecture("halves-alone", rope="halves"),
    Architecture("pairs-normed", rope="pairs", qk_norm=True),
    Architecture(
        "sinks",
        rope="halves",
        qkv_bias=True,
        out_bias=True,
        sinks=True,
        window_period=2,
        ffn_norm="post_attention_norm",
    ),
)
"""Traits in combinations that no file of `model.architectures` declares."""


def by_norm(plain: float, normed: float) -> dict[str, float]:
    """A bound for each shape: `normed` where K-norm weights of up to 96.5 stand in front of the softmax."""
    return {shape: normed if architecture.qk_norm else plain for shape, architecture in TINY.items()}
