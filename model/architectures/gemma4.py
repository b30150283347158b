"""Gemma 4, its text: Gemma 3 with layers of two kinds of heads, normed values, and what small models have besides.

Local layers turn whole heads, global ones have larger heads of which a quarter turns: the file divides the frequencies
of the others by 1e30. A global layer may have no values of its own, its keys being them; the last layers of a model may
attend over the keys and values of an earlier layer of their kind, and have a wider feed-forward network. E2B and E4B
give each layer an input of its own for each token; 26B-A4B has a mixture of experts beside the dense network of every
layer, whose router reads the stream normed by itself. Norm weights are stored as they are, and scores are not divided.
Sources: transformers 5.24's models/gemma4; llama.cpp's src/models/gemma4.cpp for what files declare.
"""

from model.architectures.base import Architecture, Routing

ARCHITECTURE = Architecture(
    "gemma4", rope="halves", qk_norm=True, v_norm=True, gate_function="gelu", post_norm=True, scaled_embedding=True,
    window_period=6, local_rope_base=10000.0, attention_scale=1.0, keys_as_values=True, shared_kv=True,
    layer_inputs=True, out_scale=True, routing=Routing("softmax", normalized=True, beside=True),
)  # fmt: skip
