"""Mixtures of experts of single layers on the CPU, for a model whose other parts run elsewhere: rows of the residual
stream come in, and go out with what the layer's feed-forward half adds to them."""

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kernel_templates import memory, random_inputs, registry
from kernel_templates.cpu import machine, proofs
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_choice import ThreadChoice
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.moe import cpu as moe_cpu
from kernel_templates.moe.problem import Moe
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model import layer_plan, mixtures, weights, widths
from model.config import ModelConfig
from model.cpu import kept_weights, mixture_rows
from model.cpu.mixture_rows import MixtureRows
from model.cpu.row_operations import RowOperations
from model.gguf_file import GGUFFile
from model.kernel_choices import Choice, choose
from model.layer_plan import LayerState, Step
from tuning_db import TuningDB

MOST = widths.MOST["cpu"]
"""Rows at once."""


class Experts:
    """`open` a layer, write rows of the residual stream to `x`, float32 [MOST, hidden], then `run`. kept: whether
    packed experts are kept on disk for the next start; x: memory for it, if it is not to be made.

    together_from: by problem, rows from which on each expert's matrices are multiplied with all its rows; fewer rows
    are computed one by one, as tokens are."""

    def __init__(
        self, file: GGUFFile, config: ModelConfig, db: TuningDB | None, threads: int | None, kept: bool = True,
        x: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self._file, self._config, self._db, self._kept = file, config, db, kept
        self._threads = ThreadChoice(threads or machine.thread_count())
        self._pool = ThreadPool(self._threads.most)
        self.problems: Mapping[int, Moe] = mixtures.of_layers(config, file)
        distinct = list(dict.fromkeys(self.problems.values()))
        self.choices = self._choose(distinct)
        self._kernels: dict[Problem, Kernel] = {}
        self._wide: dict[Problem, Config] = {}
        """Configurations of products over many rows."""
        self._operations = RowOperations(config.hidden, config.norm_eps, MOST, self._wide, x)
        self._rows = MixtureRows(self._operations, distinct)
        self.x, self._row = self._operations.x, random_inputs.buffer(config.hidden)
        self.together_from: dict[Moe, float] = dict.fromkeys(distinct, 2)
        used = config.most_experts_used
        scratch = max(moe_cpu.scratch_bytes(p, self.choices[p].config) for p in distinct)
        self._token = {
            "x": self._row, "eps": np.array([config.norm_eps], np.float32),
            "gated": random_inputs.buffer(max(p.gated for p in distinct)),
            "expert_ids": np.zeros(used, np.int32), "expert_weights": random_inputs.buffer(used),
            "scratch": memory.zeros((self._threads.most * scratch,), np.uint8),
        }  # fmt: skip
        self._layers: dict[int, LayerState] = {}
        self._graphs: dict[tuple[int, int], Graph] = {}

    def open(self, layer: int) -> None:
        """Pack a layer's experts, or map them from the disk."""
        if layer in self._layers:
            return
        plan, problem = layer_plan.layer(self._config, layer), self.problems[layer]
        step = mixtures.step(plan)
        vectors = {name: weights.vector(self._file, tensor) for name, tensor in step.vectors.items()}
        packed, config = self._packed(step, problem), self.choices[problem].config
        self._layers[layer] = LayerState(plan, {step.name: packed}, vectors)
        if problem not in self._kernels:
            self._kernels[problem] = moe_cpu.compile(problem, config, machine.features())
        buffers = step.link.bound({**self._token, **vectors})
        self._graphs[layer, 1] = Graph(
            self._pool, [moe_cpu.bind(problem, config, self._kernels[problem], packed, buffers)]
        )

    def drop(self, layer: int) -> None:
        """Forget a layer."""
        self._layers.pop(layer, None)
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] != layer}

    def run(self, layer: int, count: int = 1) -> None:
        """Add to the first `count` rows."""
        if count == 1 or count < self.together_from[self.problems[layer]]:
            for row in self.x[:count]:
                self._token_step(layer, row)
            return
        self._operations.count[0] = count
        size = widths.bucket(count)
        if (layer, size) not in self._graphs:
            self._graphs[layer, size] = self._bound(layer, size)
        self._graphs[layer, size].replay(self._threads.by_load())

    def _token_step(self, layer: int, row: np.ndarray) -> None:
        self._row[: len(row)] = row
        threads, start = self._threads.next(), time.perf_counter()
        self._graphs[layer, 1].replay(threads)
        self._threads.record(threads, time.perf_counter() - start)
        row[:] = self._row[: len(row)]

    def close(self) -> None:
        """End the threads."""
        self._pool.close()

    def _bound(self, index: int, size: int) -> Graph:
        layer, problem, operations = self._layers[index], self.problems[index], self._operations
        products, dense = list(mixture_rows.products(problem, layer, size)), layer.packed["moe"]
        every: list[tuple[Matmul | GroupedMatmul, Tiles]] = [
            *products,
            *((Matmul(p.rows, p.cols, p.format, size), p) for p in (dense[0], *dense[4:])),
        ]
        if self._db is not None:
            new = [p for p, _ in every if p not in self._wide]
            self._wide |= {p: choice.config for p, choice in self._choose(new).items()}
        operations.reserve(self._pool.threads, every)
        steps, own = self._rows.steps(problem, size, layer), layer.buffers
        scale = own["out_scale"] if problem.out_scale else None
        return Graph(self._pool, [*steps, operations.add(own.get("post_ffn_norm"), scale=scale)])

    def _choose(self, problems: Sequence[Problem]) -> dict[Problem, Choice]:
        features = machine.features()
        return choose(
            problems, machine.detect(), lambda p: registry.cpu_space(p, features), self._db, proofs.refusal
        )  # fmt: skip

    def _packed(self, step: Step, problem: Moe) -> tuple[Tiles, ...]:
        config, file = self.choices[problem].config, self._file

        def pack() -> Iterator[tuple[str, tuple[Tiles, ...]]]:
            yield step.name, moe_cpu.pack(problem, config, weights.matrices(file, step.weights))
            file.check_whole()

        found = kept_weights.keep(file, {step.name: (step, problem, config)}, pack()) if self._kept else None
        return dict(pack() if found is None else found)[step.name]
