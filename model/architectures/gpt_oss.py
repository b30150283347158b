"""gpt-oss (https://arxiv.org/abs/2508.10925): mixtures of experts in MXFP4, every other layer with a window, sinks.

All projections have biases, each head's softmax a learned score without a value, and gate and up are clamped. The first
layer is local, every layer turns by the file's base and YaRN. YaRN's ramp lies between pairs (`truncate` false in the
model's configuration, as in OpenAI's and transformers' code); files do not say so, and llama.cpp rounds it outwards.
Where a file names no window it is that of transformers' GptOssConfig.
"""

from model.architectures.base import Architecture, Routing

ARCHITECTURE = Architecture(
    "gpt-oss", rope="halves", qkv_bias=True, out_bias=True, sinks=True, gate_function="swiglu_oai",
    routing=Routing("softmax_of_chosen", normalized=False, bias=True), ffn_norm="post_attention_norm", whole_yarn=False,
    window_period=2, window=128,
)  # fmt: skip
