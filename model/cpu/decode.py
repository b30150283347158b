"""One token on the CPU: every kernel of every layer bound once into a graph that is replayed per token."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernel_templates import memory, random_inputs, registry
from kernel_templates.attention import cpu as attention_cpu
from kernel_templates.attention.problem import Attention
from kernel_templates.cpu import embedding, machine
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.graph import Step as GraphStep
from kernel_templates.cpu.thread_choice import ThreadChoice
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model import layer_plan, problems, weights
from model.config import ModelConfig
from model.cpu import kept_weights, text_state, weight_cache
from model.gguf_file import GGUFFile
from model.layer_plan import LayerPlan, LayerState, Step
from model.layer_tensors import Tensor
from model.runner import Progress

HEAD, INPUTS = "head", "layer_inputs"  # the steps that have no layer


@dataclass(frozen=True)
class Embedding:
    """A table of which a token reads one row, from the file's own mapping, times `scale`. out: the buffer's name."""

    out: str
    raw: np.ndarray
    format: str
    cols: int
    scale: float


class Decoder:
    """The decode step of one model with one configuration per problem. Owns the packed weights and what layers keep of
    one text."""

    def __init__(
        self, file: GGUFFile, config: ModelConfig, configs: Mapping[Problem, Config], context: int,
        threads: ThreadChoice,
        progress: Progress = lambda done, of: None,
    ):  # fmt: skip
        self.config, self.context, self.configs = config, context, configs
        self.plan = plan = layer_plan.plan(config)
        self.threads, self.pool = threads, ThreadPool(threads.most)
        self.rotations = {rope: weights.rope_rotation(file, rope, context) for rope in plan.ropes}
        self.embeddings = [Embedding("x", *_table(file, plan.embedding), plan.embedding_scale)]
        if plan.inputs:
            self.embeddings.append(Embedding("layer_inputs", *_table(file, plan.inputs.table), plan.inputs.scale))
        self.token, self.position = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self.taken_in = 0
        """Tokens of its own text that its layers have seen, or are about to."""
        self.buffers: dict[str, np.ndarray] = {
            name: random_inputs.buffer(size) for name, size in layer_plan.buffer_sizes(config).items()
        } | {
            "position": self.position,
            "eps": np.array([config.norm_eps], np.float32),
            "expert_ids": np.zeros(config.most_experts_used, np.int32),
            "expert_weights": random_inputs.buffer(config.most_experts_used),
            "scratch": memory.zeros((threads.most * self._scratch_bytes(file),), np.uint8),
            "partial": memory.empty((self._partial_size(file),), np.float32),
        }
        self._turned = {rope: random_inputs.buffer(rope.dim) for rope in plan.ropes}
        self.logits = self.buffers["logits"][: config.vocab]
        self.kernels: dict[Problem, Kernel] = {}
        self.layers: list[LayerState] = []
        self.needed = [problems.layer_problems(config, file, i) for i in range(config.layers)]
        self.weight_bytes = 0
        self._kept = self._keep(file, progress)

        self.input_norm, self.inputs_packed = np.zeros(0, np.float32), tuple[Tiles, ...]()
        self._first = self._first_steps(file)
        steps, states = list(self._first), text_state.allocate(config.sizes, context)
        for i, (layer, state) in enumerate(zip(plan.layers, states, strict=True)):
            steps += self._layer_steps(file, i, layer, self.needed[i], state)
            progress(i + 1, config.layers + 1)
        self.output_norm = weights.vector(file, plan.output_norm)
        norm = {"output_norm": self.output_norm}
        head_step, (self.head_packed,) = self._step(
            file, HEAD, plan.head, problems.head_problem(config, file), self.buffers | norm
        )
        progress(config.layers + 1, config.layers + 1)
        self.graph = Graph(self.pool, [*steps, head_step])
        self.mark = text_state.Mark([layer.buffers for layer in self.layers])
        self.head = Graph(self.pool, [head_step])

    def _scratch_bytes(self, file: GGUFFile) -> int:
        needed = problems.model_problems(self.config, file)
        return max(registry.cpu(p.op).scratch_bytes(p, self.configs[p]) for p in needed)

    def _partial_size(self, file: GGUFFile) -> int:
        needed = [p for p in problems.model_problems(self.config, file) if isinstance(p, Attention)]
        return max((attention_cpu.partial_size(p, self.configs[p], self.context) for p in needed), default=0)

    def kernel(self, problem: Problem) -> Kernel:
        """Of one of the model's problems, with its configuration."""
        if problem not in self.kernels:
            template = registry.cpu(problem.op)
            self.kernels[problem] = template.compile(problem, self.configs[problem], machine.features())
        return self.kernels[problem]

    def _first_steps(self, file: GGUFFile) -> list[GraphStep]:
        """What comes before the layers: the token's embedding, and what each layer gets of the token."""
        steps = []
        for table in self.embeddings:
            kernel = embedding.compile(table.format, table.cols, table.scale)
            steps.append(embedding.bind(kernel, table.raw, self.token, self.buffers[table.out]))
        problem = problems.inputs_problem(self.config, file)
        if self.plan.inputs is None or problem is None:
            return steps
        step = self.plan.inputs.step
        self.input_norm = weights.vector(file, step.vectors["input_norm"])
        made, self.inputs_packed = self._step(
            file, INPUTS, step, problem, {**self.buffers, "input_norm": self.input_norm}
        )
        return [*steps, made]

    def _keep(self, file: GGUFFile, progress: Progress) -> weight_cache.Packed | None:
        """All packed weights by their steps' names, from the disk, where they are put if they are not there; None if
        they cannot be kept."""
        of_steps: dict[str, tuple[Step, Problem]] = {
            f"{i}.{step.name}": (step, problem)
            for i, layer in enumerate(self.plan.layers)
            for step, problem in zip(layer.steps, problems.layer_problems(self.config, file, i).values(), strict=True)
        } | {HEAD: (self.plan.head, problems.head_problem(self.config, file))}
        inputs_problem = problems.inputs_problem(self.config, file)
        if self.plan.inputs and inputs_problem:
            of_steps[INPUTS] = self.plan.inputs.step, inputs_problem
        steps = {name: (step, problem, self.configs[problem]) for name, (step, problem) in of_steps.items()}

        def pack() -> Iterator[tuple[str, tuple[Tiles, ...]]]:
            for n, (name, (step, problem, _)) in enumerate(steps.items()):
                yield name, self._pack(file, step, problem)
                progress(n * self.config.layers // len(steps), self.config.layers + 1)
            file.check_whole()

        return kept_weights.keep(file, steps, pack())

    def _pack(self, file: GGUFFile, step: Step, problem: Problem) -> tuple[Tiles, ...]:
        matrices = weights.matrices(file, step.weights)
        return registry.cpu(problem.op).pack(problem, self.configs[problem], matrices)

    def _layer_steps(
        self, file: GGUFFile, index: int, plan: LayerPlan, needed: Mapping[str, Problem], state: text_state.State
    ) -> list[GraphStep]:
        own = {name: weights.vector(file, tensor) for name, tensor in plan.vectors.items()}
        own |= {**state, "rope": self._turned[plan.rope]}
        if size := plan.sizes.layer_input:
            own["input"] = self.buffers["layer_inputs"][index * size : (index + 1) * size]
        made, packed = [], {}
        for step in plan.steps:
            bound, packed[step.name] = self._step(
                file, f"{index}.{step.name}", step, needed[step.name], self.buffers | own
            )
            made.append(bound)
        self.layers.append(LayerState(plan, packed, own))
        return made

    def _step(
        self, file: GGUFFile, name: str, step: Step, problem: Problem, buffers: Mapping[str, np.ndarray]
    ) -> tuple[GraphStep, tuple[Tiles, ...]]:
        """One operation with its weights packed and its buffers bound."""
        packed = self._pack(file, step, problem) if self._kept is None else self._kept[name]
        self.weight_bytes += sum(tiles.nbytes for tiles in packed)
        return self._bind(step, problem, packed, buffers), packed

    def _bind(
        self, step: Step, problem: Problem, packed: Sequence[Tiles], buffers: Mapping[str, np.ndarray]
    ) -> GraphStep:
        template = registry.cpu(problem.op)
        return template.bind(problem, self.configs[problem], self.kernel(problem), packed, step.link.bound(buffers))

    def over(self, states: Sequence[Mapping[str, np.ndarray]]) -> Graph:
        """The graph of `step` over what each layer keeps of another text (`text_state`), of at most `context`
        positions; weights and all other buffers are shared."""
        head = self.graph.steps[-1]
        steps = [
            self._bind(step, needed[step.name], layer.packed[step.name], {**self.buffers, **layer.buffers, **state})
            for layer, needed, state in zip(self.layers, self.needed, states, strict=True)
            for step in layer.plan.steps
        ]
        return Graph(self.pool, [*self._first, *steps, head])

    def prepare(self, token: int, position: int) -> None:
        """Set what one token's graph reads: the token, its position, its rotation."""
        if position >= self.context:
            raise ValueError(f"position {position} is past the context of {self.context}")
        self.token[0], self.position[0] = token, position
        for rope, rotation in self.rotations.items():
            self._turned[rope][: rope.dim] = rotation.table(self.position)[0]

    def step(self, token: int, position: int, graph: Graph | None = None) -> np.ndarray:
        """Decode one token at `position`; float32 [vocab] logits, valid until the next step. graph: of `over`, for a
        text with a cache of its own."""
        self.prepare(token, position)
        if graph is None:
            self.takes_in(position, position + 1)
        threads, start = self.threads.next(), time.perf_counter()
        (graph or self.graph).replay(threads)
        self.threads.record(threads, time.perf_counter() - start)
        return self.logits

    def takes_in(self, first: int, end: int) -> None:
        """Its own text's layers are about to see the tokens at these positions; another text begins at 0."""
        if first == 0:
            self.mark.at = 0
        self.taken_in = end

    def predict(self, hidden: np.ndarray, position: int) -> np.ndarray:
        """Logits as of `step`, from what the last layer gave at `position`: float32 [hidden]."""
        self.buffers["x"][: self.config.hidden] = hidden
        self.head.replay(self.threads.current)
        return self.logits

    def close(self) -> None:
        self.pool.close()


def _table(file: GGUFFile, tensor: Tensor) -> tuple[np.ndarray, str, int]:
    return file.raw(tensor.name), file.tensors[tensor.name].format_name, tensor.shape[1]
