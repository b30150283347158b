"""The kernel problems that a model is made of: what has to be tuned before it runs fast."""

from collections.abc import Mapping
from typing import Any

from kernel_templates.attention import cache
from kernel_templates.attention.problem import LONG
from kernel_templates.delta_layer.problem import DeltaLayer
from kernel_templates.head.problem import Head
from kernel_templates.layer.problem import Layer, LinkedChain
from kernel_templates.per_layer_inputs.problem import PerLayerInputs
from kernel_templates.problem import Problem
from model import layer_plan
from model.config import ModelConfig
from model.gguf_file import GGUFFile

ACTIVATION = "int16"
"""How activations are quantized for integer weights. int8 is what llama.cpp does; int16 is a thousand times closer to
float32 in KL and costs arithmetic that waits for memory anyway (docs/log.md, benchmarks/accuracy_cpu.json)."""

TUNED_CONTEXT = 512
"""Cached positions that attention is tuned at on the CPU, where one kernel serves any."""

FIRST_CONTEXT, CONTEXT_STEP, LONG_STEP = 160, 4, 2
"""A GPU spreads attention over more programs the longer the context is: contexts 160, 640, 2560, 5120, 10240, ... are
tuned each by itself, and a token runs the kernels of the first that lies above its position. The steps are smaller
where attention takes much of the token."""


def layer_problems(
    config: ModelConfig, file: GGUFFile, layer: int, context: int = TUNED_CONTEXT, form: str = cache.F16
) -> dict[str, Problem]:
    """The problem of each step of a layer by the step's name, in their order; `context` is what attention is tuned
    at."""
    return layer_at(config, file, layer, context, form).parts()


def head_problem(config: ModelConfig, file: GGUFFile) -> Head:
    output = layer_plan.plan(config).output
    form = file.tensors[output.name].format_name
    return Head(config.vocab, config.hidden, form, ACTIVATION, softcap=config.final_softcap)


def inputs_problem(config: ModelConfig, file: GGUFFile) -> PerLayerInputs | None:
    """Of what each layer gets of a token, where layers have inputs of their own."""
    if not config.layer_input:
        return None
    form = file.tensors[layer_plan.INPUT_PROJECTION].format_name
    return PerLayerInputs(config.hidden, config.layers, config.layer_input, form, ACTIVATION)


def _end_problems(config: ModelConfig, file: GGUFFile) -> dict[Problem, int]:
    """Those that no layer has."""
    found = (inputs_problem(config, file), head_problem(config, file))
    return {problem: 1 for problem in found if problem is not None}


def model_problems(config: ModelConfig, file: GGUFFile) -> Mapping[Problem, int]:
    """Every distinct problem on the CPU and how often a token runs it."""
    counts: dict[Problem, int] = {}
    for layer in range(config.layers):
        for problem in layer_problems(config, file, layer).values():
            counts[problem] = counts.get(problem, 0) + 1
    return counts | _end_problems(config, file)


def contexts(capacity: int) -> list[int]:
    """The contexts that a cache of `capacity` positions is tuned for; the last is the first that covers it."""
    bounds = [FIRST_CONTEXT]
    while bounds[-1] < capacity:
        bounds.append(bounds[-1] * (CONTEXT_STEP if bounds[-1] < LONG else LONG_STEP))
    return bounds


def gpu_problems(config: ModelConfig, file: GGUFFile, capacity: int, form: str = cache.F16) -> Mapping[Problem, int]:
    """Every distinct problem on a GPU, each alone, and how often a token runs it; attention once a context. form: of
    the KV cache."""
    counts: dict[Problem, int] = {}
    for layer in range(config.layers):
        # Only attention differs by context: a dictionary of one layer's problems counts the others once.
        every = {
            p: 1 for context in contexts(capacity) for p in layer_problems(config, file, layer, context, form).values()
        }
        for problem in every:
            counts[problem] = counts.get(problem, 0) + 1
    return counts | _end_problems(config, file)


def gpu_layers(config: ModelConfig, file: GGUFFile, capacity: int, form: str = cache.F16) -> list[LinkedChain]:
    """Every distinct whole layer, for all layers of the first context, then of the next."""
    found = (layer_at(config, file, i, context, form) for context in contexts(capacity) for i in range(config.layers))
    return list(dict.fromkeys(found))


def layer_at(config: ModelConfig, file: GGUFFile, layer: int, context: int, form: str = cache.F16) -> LinkedChain:
    """One layer as one problem; form: of the KV cache. Contexts in which its window is full cost the same and have the
    same kernels: they are one, the first of them."""
    a, plan = config.architecture, layer_plan.layer(config, layer)
    s = plan.sizes
    if s.window:
        context = min(context, contexts(s.window + 1)[-1])
    named: dict[str, Any] = {
        f"{name}_format": file.tensors[tensor.name].format_name
        for name, tensor in plan.matrices.items()
        if name != "shared_router"  # it lies below the router, in the same format
    }
    if (m := s.mixture) is not None:
        named |= {
            "experts": m.experts, "used": m.used, "routing": m.routing, "normalized": int(m.normalized),
            "routing_scale": m.scale, "expert_bias": int(m.bias), "shared_ffn": m.shared_ffn,
            "shared_gated": int(m.shared_gated), "beside": int(m.beside),
        }  # fmt: skip
    if s.delta:
        d, gates = s.delta, named.pop("beta_format")
        assert named.pop("alpha_format") == gates, "the model's configuration refuses others"
        shapes = (config.hidden, d.heads, d.key_heads, d.head_dim, d.kernel, s.ffn)
        return DeltaLayer(*shapes, gates_format=gates, activation=ACTIVATION, **named)
    shared = s.cache_of is not None
    if shared:
        named |= {"k_format": named["q_format"], "v_format": named["q_format"]}
    return Layer(
        config.hidden, s.heads, s.kv_heads, s.head_dim, s.rope_dim, int(a.qk_norm), s.ffn,
        activation=ACTIVATION, context=context, **named,
        qkv_bias=int(a.qkv_bias), post_norm=int(a.post_norm),
        window=s.window, softcap=s.softcap, scale=s.scale, sinks=s.sinks, out_bias=int(a.out_bias),
        gate_function=s.gate_function, output_gate=int(s.output_gate), v_norm=int(a.v_norm), shared_kv=int(shared),
        layer_input=s.layer_input, out_scale=int(s.out_scale), cache=form,
    )  # fmt: skip
