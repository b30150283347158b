"""The judge itself, judged: against loops over single numbers, and against what must hold for any transformer."""

from collections.abc import Callable
from dataclasses import replace
from math import cos, exp, log1p, pi, sin, sqrt, tanh
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from architecture_samples import TINY

from kernel_templates import formats
from model import reference
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import GGUFFile, open_gguf
from model.layer_sizes import LayerSizes
from model.reference import reference_logits

TOKENS = [7, 300, 7, 12, 450, 99, 13, 301, 5, 77, 12]


def loops(file: GGUFFile, tokens: list[int]) -> np.ndarray:
    """float64 [tokens, vocab]: one token after the other, one head after the other, one rotated pair at a time."""
    c = ModelConfig.from_gguf(file)

    traits = c.architecture

    def weight(name: str, kind: str = ".weight") -> np.ndarray:
        info = file.tensors[name + kind]
        values = formats.get(info.format_name).dequantize(torch.from_numpy(file.raw(name + kind).copy()))
        return values.numpy().astype(np.float64).reshape(info.shape)

    def norm(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return x / sqrt(sum(v * v for v in x) / len(x) + c.norm_eps) * w

    def capped(x: np.ndarray, cap: float) -> np.ndarray:
        return cap * np.tanh(x / cap) if cap else x

    def rope(x: np.ndarray, layer: int, position: int) -> np.ndarray:
        s = c.layer(layer)
        out, half = x.copy(), s.rope_dim // 2
        base = c.local_rope_base if c.local_rope_base and s.window else c.rope_base
        for i in range(half):
            angle = position * base ** (-2 * i / s.rope_dim)
            if c.rope_freqs:
                angle /= weight("rope_freqs")[i]
            a, b = (i, i + half) if c.architecture.rope == "halves" else (2 * i, 2 * i + 1)
            out[a], out[b] = x[a] * cos(angle) - x[b] * sin(angle), x[a] * sin(angle) + x[b] * cos(angle)
        return out

    def heads(x: np.ndarray, layer: int, side: str, position: int) -> list[np.ndarray]:
        s = c.layer(layer)
        if traits.fused:
            first, count = {"q": (0, s.heads), "k": (s.heads, s.kv_heads), "v": (s.heads + s.kv_heads, s.kv_heads)}[
                side
            ]
            rows = weight(f"blk.{layer}.attn_qkv")[first * s.head_dim : (first + count) * s.head_dim]
        else:
            rows = weight(f"blk.{layer}.attn_{side}")
        made = rows @ x + (weight(f"blk.{layer}.attn_{side}", ".bias") if traits.qkv_bias else 0)
        parts = list(made.reshape(-1, s.head_dim))
        if s.output_gate and side == "q":
            parts = parts[::2]
        if c.architecture.qk_norm and side in "qk":
            parts = [norm(part, weight(f"blk.{layer}.attn_{side}_norm")) for part in parts]
        return [rope(part, layer, position) for part in parts] if side in "qk" else parts

    def attention(x: np.ndarray, layer: int, position: int) -> np.ndarray:
        block, s = f"blk.{layer}.", c.layer(layer)
        cached[layer].append((heads(x, layer, "k", position), heads(x, layer, "v", position)))
        out = []
        for head, q in enumerate(heads(x, layer, "q", position)):
            kv = head * s.kv_heads // s.heads
            seen = cached[layer][-s.window :] if s.window else cached[layer]
            scale = s.scale or 1 / sqrt(s.head_dim)
            shares = [exp(capped(sum(q * keys[kv]) * scale, s.softcap)) for keys, _ in seen]
            pairs = zip(shares, seen, strict=True)
            lost = exp(weight(block + "attn_sinks")[head]) if traits.sinks else 0
            made = sum(share * values[kv] for share, (_, values) in pairs) / (sum(shares) + lost)
            if s.output_gate:
                first = (2 * head + 1) * s.head_dim
                made = made / (1 + np.exp(-weight(block + "attn_q")[first : first + s.head_dim] @ x))
            out.append(made)
        y = weight(block + "attn_output") @ np.concatenate(out)
        return y + (weight(block + "attn_output", ".bias") if traits.out_bias else 0)

    def network(x: np.ndarray, block: str, ending: str = "", expert: int | slice = slice(None)) -> np.ndarray:
        """Of a layer, or of one of its experts."""
        biased = f"{block}ffn_down{ending}.bias" in file.tensors
        names = ("gate", "up", "down")
        g, u, d = (weight(f"{block}ffn_{name}{ending}")[expert] for name in names)
        of = [weight(f"{block}ffn_{name}{ending}", ".bias")[expert] if biased else 0 for name in names]
        return d @ gated(g @ x + of[0], u @ x + of[1]) + of[2]

    def gated(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        if traits.gate_function == "swiglu_oai":
            gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
            return gate / (1 + np.exp(-1.702 * gate)) * (1 + up)
        if traits.gate_function == "gelu":
            return np.array([0.5 * g * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 * g**3))) for g in gate]) * up
        return gate / (1 + np.exp(-gate)) * up

    def feed_forward(x: np.ndarray, block: str, s: LayerSizes) -> np.ndarray:
        if traits.fused:
            up = weight(block + "ffn_up") @ x
            return weight(block + "ffn_down") @ gated(up[: s.ffn], up[s.ffn :])
        if (m := s.mixture) is None:
            return network(x, block)
        logits = weight(block + "ffn_gate_inp") @ x
        logits = list(logits + (weight(block + "ffn_gate_inp", ".bias") if m.bias else 0))
        chosen = sorted(range(m.experts), key=lambda e: (-logits[e], e))[: m.used]
        over = chosen if m.normalized or m.routing == "softmax_of_chosen" else range(m.experts)
        total = sum(exp(logits[e]) for e in over)
        made = sum((exp(logits[e]) / total * network(x, block, "_exps", e) for e in chosen), np.zeros(c.hidden))
        if m.shared_ffn:
            made += network(x, block, "_shexp") / (1 + exp(-weight(block + "ffn_gate_inp_shexp") @ x))
        return made

    def delta_net(x: np.ndarray, layer: int) -> np.ndarray:
        block, d = f"blk.{layer}.", c.layer(layer).delta
        assert d is not None
        cached[layer].append(weight(block + "attn_qkv") @ x)
        taps = weight(block + "ssm_conv1d")
        mixed = [
            sum(taps[i, -1 - t] * cached[layer][-1 - t][i] for t in range(min(d.kernel, len(cached[layer]))))
            for i in range(d.channels)
        ]
        mixed = [y / (1 + exp(-y)) for y in mixed]
        beta, alpha = (weight(block + name) @ x for name in ("ssm_beta", "ssm_alpha"))
        z = (weight(block + "attn_gate") @ x).reshape(d.heads, -1)
        out = []
        for head in range(d.heads):
            q, k, v = (
                np.array(mixed[first * d.head_dim : (first + 1) * d.head_dim])
                for first in (head % d.key_heads, d.key_heads + head % d.key_heads, 2 * d.key_heads + head)
            )
            q, k = (y / sqrt(sum(y * y) + c.norm_eps) for y in (q, k))
            step = log1p(exp(alpha[head] + weight(block + "ssm_dt", ".bias")[head]))
            state = states.get((layer, head), 0) * exp(weight(block + "ssm_a", "")[head] * step)
            state = state + np.outer(v - np.dot(state, k), k) / (1 + exp(-beta[head]))
            states[layer, head] = state
            made = norm(state @ q / sqrt(d.head_dim), weight(block + "ssm_norm"))
            out.append(made * z[head] / (1 + np.exp(-z[head])))
        return weight(block + "ssm_out") @ np.concatenate(out)

    cached: list[list] = [[] for _ in range(c.layers)]
    states: dict[tuple[int, int], Any] = {}
    rows = []
    for position, token in enumerate(tokens):
        x = weight("token_embd")[token] * (sqrt(c.hidden) if traits.scaled_embedding else 1)
        for layer in range(c.layers):
            block, s = f"blk.{layer}.", c.layer(layer)
            n = norm(x, weight(block + "attn_norm"))
            y = delta_net(n, layer) if s.delta else attention(n, layer, position)
            x = x + (norm(y, weight(block + "post_attention_norm")) if traits.post_norm else y)
            n = norm(x, weight(block + traits.ffn_norm))
            y = feed_forward(n, block, s)
            x = x + (norm(y, weight(block + "post_ffw_norm")) if traits.post_norm else y)
        logits = weight("token_embd" if c.tied else "output") @ norm(x, weight("output_norm"))
        rows.append(capped(logits, c.final_softcap))
    return np.array(rows)


@pytest.fixture
def unusual(make_model: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A llama with its own output matrix, rope factors and heads that turn only half of their elements."""
    tiny = make_model.SHAPES["tiny"]
    half = tuple(replace(sizes, rope_dim=sizes.head_dim // 2) for sizes in tiny.config.sizes)
    config = replace(tiny.config, tied=False, rope_freqs=True, sizes=half)
    monkeypatch.setitem(make_model.SHAPES, "unusual", replace(tiny, config=config))
    make_model.make_model("unusual", "Q8_0", tmp_path / "unusual.gguf")
    return tmp_path / "unusual.gguf"


def assert_equal_to_loops(path: Path) -> None:
    expected = loops(open_gguf(path), TOKENS)
    # float32 against float64: 1e-7 a step, times up to 96.5 through a K-norm and again in the softmax behind it.
    np.testing.assert_allclose(reference_logits(path, TOKENS).numpy(), expected, rtol=0, atol=1e-3)


# The loops know nothing of what Gemma 4 alone has; test_transformers.py holds the judge to transformers there.
@pytest.mark.parametrize("shape", [shape for shape in TINY if "gemma4" not in shape])
def test_equals_loops(made: Callable[[str, str], Path], shape: str) -> None:
    assert_equal_to_loops(made(shape, "Q4_0"))


def test_equals_loops_whatever_the_traits(made_up: Path) -> None:
    assert_equal_to_loops(made_up)


def test_equals_loops_on_unusual_sizes(unusual: Path) -> None:
    config = ModelConfig.from_gguf(open_gguf(unusual))
    assert config.rope_freqs and not config.tied and config.layer(0).rope_dim < config.layer(0).head_dim
    assert_equal_to_loops(unusual)


def test_the_future_changes_nothing(tiny_qwen3: Path) -> None:
    file = open_gguf(tiny_qwen3)
    changed = reference_logits(file, [*TOKENS[:-1], 1])
    assert torch.equal(changed[:-1].argmax(-1), reference_logits(file, TOKENS)[:-1].argmax(-1))
    torch.testing.assert_close(changed[:-1], reference_logits(file, TOKENS)[:-1], rtol=0, atol=1e-4)


def test_quarter_turn() -> None:
    x = torch.arange(1.0, 7.0).reshape(1, 1, 6)
    quarter = torch.polar(torch.ones(1, 2, dtype=torch.float64), torch.tensor([[pi / 2, 0.0]], dtype=torch.float64))
    neighbours, halves = (reference._rope(x, quarter, neox).flatten() for neox in (False, True))
    torch.testing.assert_close(neighbours, torch.tensor([-2.0, 1.0, 3.0, 4.0, 5.0, 6.0]))
    torch.testing.assert_close(halves, torch.tensor([-3.0, 2.0, 1.0, 4.0, 5.0, 6.0]))


def test_refusals(tiny_model: Path, tmp_path: Path) -> None:
    for tokens in ([], [-1], [512]):
        with pytest.raises(ValueError, match="from 0 to 511"):
            reference_logits(tiny_model, tokens)
    with pytest.raises(ModelError, match="no such file"):
        reference_logits(tmp_path / "none.gguf", [1])
