"""The kernel problems that a model is made of: what has to be tuned before it runs fast."""

from collections.abc import Mapping

from kernel_templates.attention.problem import Attention
from kernel_templates.ffn.problem import Ffn
from kernel_templates.head.problem import Head
from kernel_templates.matvec.problem import Matvec
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.problem import Problem
from model.config import ModelConfig
from model.gguf_file import GGUFFile

ACTIVATION = "int16"
"""How activations are quantized for integer weights. int8 is what llama.cpp does; int16 is a thousand times closer to
float32 in KL and costs arithmetic that waits for memory anyway (docs/log.md, benchmarks/accuracy_cpu.json)."""

TUNED_CONTEXT = 512
"""Cached positions that attention is tuned at."""


def layer_problems(config: ModelConfig, file: GGUFFile, layer: int) -> dict[str, Problem]:
    """Operation -> problem, in the order a layer runs them."""

    def fmt(name: str) -> str:
        return file.tensors[f"blk.{layer}.{name}.weight"].format_name

    c = config
    return {
        "norm_qkv_rope": NormQkvRope(
            c.hidden, c.heads, c.kv_heads, c.head_dim, c.rope_dim, int(c.qk_norm),
            fmt("attn_q"), fmt("attn_k"), fmt("attn_v"), ACTIVATION,
        ),
        "attention": Attention(c.heads, c.kv_heads, c.head_dim, TUNED_CONTEXT),
        "matvec": Matvec(c.hidden, c.heads * c.head_dim, fmt("attn_output"), ACTIVATION),
        "ffn": Ffn(c.hidden, c.ffn, fmt("ffn_gate"), fmt("ffn_up"), fmt("ffn_down"), ACTIVATION),
    }  # fmt: skip


def head_problem(config: ModelConfig, file: GGUFFile) -> Head:
    return Head(config.vocab, config.hidden, file.tensors[head_tensor(config)].format_name, ACTIVATION)


def head_tensor(config: ModelConfig) -> str:
    return "token_embd.weight" if config.tied else "output.weight"


def model_problems(config: ModelConfig, file: GGUFFile) -> Mapping[Problem, int]:
    """Every distinct problem and how often a token runs it."""
    counts: dict[Problem, int] = {}
    for layer in range(config.layers):
        for problem in layer_problems(config, file, layer).values():
            counts[problem] = counts.get(problem, 0) + 1
    head = head_problem(config, file)
    return {**counts, head: 1}
