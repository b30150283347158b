"""One token on the CPU: every kernel of every layer bound once into a graph that is replayed per token."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from kernel_templates import formats, memory, random_inputs, registry
from kernel_templates.attention import cache
from kernel_templates.cpu import embedding, machine
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Graph, Step
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model import problems, weights
from model.config import ModelConfig
from model.gguf_file import GGUFFile


@dataclass
class LayerState:
    """What one layer keeps: packed matrices by operation, norms, and its part of the KV cache."""

    packed: dict[str, tuple[Tiles, ...]]
    attn_norm: np.ndarray
    ffn_norm: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    q_norm: np.ndarray
    k_norm: np.ndarray


class Decoder:
    """The decode step of one model with one configuration per problem. Owns the packed weights and the KV cache."""

    def __init__(
        self, file: GGUFFile, config: ModelConfig, configs: Mapping[Problem, Config], context: int, threads: int,
        on_layer=lambda done, of: None,
    ):  # fmt: skip
        self.config, self.context, self.configs = config, context, configs
        self.team = ThreadPool(threads)
        self.frequencies = weights.rope_frequencies(file, config)
        self._embedding = file.raw("token_embd.weight")  # one row a token: read from the file's own mapping
        self._embedding_format = formats.get(file.tensors["token_embd.weight"].format_name)
        self.token, self.position = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self.rope = random_inputs.buffer(config.rope_dim)
        self.x = random_inputs.buffer(config.hidden)
        self.qkv = random_inputs.buffer((config.heads + 2 * config.kv_heads) * config.head_dim)
        self.attended = random_inputs.buffer(config.heads * config.head_dim)
        self.gated = random_inputs.buffer(config.ffn)
        self.logits = random_inputs.buffer(config.vocab)
        self.eps = np.array([config.norm_eps], np.float32)
        self.kernels: dict[Problem, Kernel] = {}
        self.layers: list[LayerState] = []
        self._scratch = memory.zeros((threads * self._scratch_bytes(file),), np.uint8)

        steps = [self._embed_step()]
        for layer in range(config.layers):
            steps += self._layer_steps(file, layer)
            on_layer(layer + 1, config.layers + 1)
        head_step = self._head_step(file)
        on_layer(config.layers + 1, config.layers + 1)
        self.graph = Graph(self.team, [*steps, head_step])
        self.head = Graph(self.team, [head_step])

    def _embed_step(self) -> Step:
        kernel = embedding.compile(self._embedding_format.name, self.config.hidden)
        return embedding.bind(kernel, self._embedding, self.token, self.x)

    def _scratch_bytes(self, file: GGUFFile) -> int:
        needed = problems.model_problems(self.config, file)
        return max(registry.cpu(p.op).scratch_bytes(p, self.configs[p]) for p in needed)

    def _kernel(self, problem: Problem) -> Kernel:
        if problem not in self.kernels:
            template = registry.cpu(problem.op)
            self.kernels[problem] = template.compile(problem, self.configs[problem], machine.features())
        return self.kernels[problem]

    def _layer_steps(self, file: GGUFFile, layer: int) -> list:
        config, block = self.config, f"blk.{layer}."
        keys, values = cache.allocate(config.kv_heads, config.head_dim, self.context)
        none = random_inputs.buffer(config.head_dim)
        state = LayerState(
            packed={},
            attn_norm=weights.vector(file, block + "attn_norm.weight"),
            ffn_norm=weights.vector(file, block + "ffn_norm.weight"),
            keys=keys,
            values=values,
            q_norm=weights.vector(file, block + "attn_q_norm.weight") if config.qk_norm else none,
            k_norm=weights.vector(file, block + "attn_k_norm.weight") if config.qk_norm else none,
        )
        self.layers.append(state)
        shared: dict[str, np.ndarray]
        shared = {"position": self.position, "eps": self.eps, "scratch": self._scratch, "keys": keys, "values": values}
        buffers: dict[str, dict[str, np.ndarray]] = {
            "norm_qkv_rope": {
                "x": self.x, "norm": state.attn_norm, "q_norm": state.q_norm, "k_norm": state.k_norm,
                "rope": self.rope, "qkv": self.qkv,
            },
            "attention": {"q": self.qkv, "out": self.attended},
            "matvec": {"x": self.attended, "out": self.x},
            "ffn": {"x": self.x, "norm": state.ffn_norm, "gated": self.gated},
        }  # fmt: skip
        steps = []
        for op, problem in problems.layer_problems(config, file, layer).items():
            template, chosen = registry.cpu(op), self.configs[problem]
            state.packed[op] = template.pack(problem, chosen, weights.layer_matrices(file, config, layer, op))
            bound = shared | buffers[op]
            steps.append(template.bind(problem, chosen, self._kernel(problem), state.packed[op], bound))
        return steps

    def _head_step(self, file: GGUFFile):
        problem = problems.head_problem(self.config, file)
        template, chosen = registry.cpu("head"), self.configs[problem]
        packed = template.pack(problem, chosen, {"w": weights.matrix(file, problems.head_tensor(self.config))})
        self.output_norm = weights.vector(file, "output_norm.weight")
        bound = {
            "x": self.x, "norm": self.output_norm, "eps": self.eps, "logits": self.logits, "scratch": self._scratch,
        }  # fmt: skip
        return template.bind(problem, chosen, self._kernel(problem), packed, bound)

    def embed(self, tokens: list[int]) -> torch.Tensor:
        """float32 [len(tokens), hidden]: rows of the embedding."""
        return self._embedding_format.dequantize(torch.from_numpy(self._embedding[tokens]))

    def prepare(self, token: int, position: int) -> None:
        """Set what one token's graph reads: the token, its position, its rotation."""
        if position >= self.context:
            raise ValueError(f"position {position} is past the context of {self.context}")
        self.token[0], self.position[0] = token, position
        angles = position * self.frequencies
        half = len(angles)
        self.rope[:half], self.rope[half : 2 * half] = np.cos(angles), np.sin(angles)

    def step(self, token: int, position: int) -> np.ndarray:
        """Decode one token at `position`; float32 [vocab] logits, valid until the next step."""
        self.prepare(token, position)
        self.graph.replay()
        return self.logits[: self.config.vocab]

    def close(self) -> None:
        self.team.close()
