"""From a GPU's number to a runner: what it is, which configurations it runs, the model packed for it.

The only file of this folder that imports without Triton: a machine that has none is told so in one line.
"""

import functools
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_templates import proof_record, registry
from kernel_templates.attention.cache import F16
from kernel_templates.cuda import machine
from kernel_templates.device import Device
from kernel_templates.layer.problem import Layer
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import GGUFFile
from model.kernel_choices import Choice, Refusal, choose
from model.problems import contexts, gpu_layers, head_problem, inputs_problem, layer_at
from model.runner import Progress, Settings
from model.widths import every_size, pass_problems
from tuning_db.records import Source

if TYPE_CHECKING:
    from model.cuda.execution import Executor
    from model.cuda.runner import CudaRunner


PRODUCTS = ("qkv_", "out_", "ffn_", "moe_", "input_")
"""Prefixes of a layer's parameters that do not depend on its cache."""


def open_runner(file: GGUFFile, config: ModelConfig, settings: Settings) -> "CudaRunner":
    """Pack the model for GPU `settings.index` and capture its first token's graph."""
    try:
        device = machine.detect(settings.index)
    except machine.DeviceError as error:
        raise ModelError(f"device cuda:{settings.index} cannot be used: {error}") from None
    from model.cuda import first_text
    from model.cuda.execution import GraphExecutor, NvtxExecutor

    opening = Opening(file, config, settings, device)
    target = machine.target(device)
    first_text.compile_ahead(opening.kernels_follow_from, target, settings.prompt, opening.probable)
    runner = opening.proved((NvtxExecutor if settings.nvtx else GraphExecutor)(settings.index, target))
    runner.decoder.program(first_text.FIRST_TOKEN, 0)  # so that the first token does not wait for a capture
    return runner


class Opening:
    """A model about to be opened. device: what configurations are chosen for."""

    def __init__(self, file: GGUFFile, config: ModelConfig, settings: Settings, device: Device) -> None:
        self._file, self._config, self._settings, self._device = file, config, settings, device
        self._first, *_ = contexts(settings.context)
        layers = gpu_layers(config, file, settings.context, settings.cache)
        first = {layer_at(config, file, i, self._first, settings.cache) for i in range(config.layers)}
        self._head = head_problem(config, file)
        self._inputs = inputs_problem(config, file)
        ends = [problem for problem in (self._inputs, self._head) if problem is not None]
        self._at_once: list[Problem] = [*(problem for problem in layers if problem in first), *ends]
        self._longer = self._choose([problem for problem in layers if problem not in first], self._refused_before)
        self._passes: Mapping[Problem, Choice] = {}
        if settings.db is not None:
            sizes = every_size(settings.context)
            self._passes = self._choose(
                list(pass_problems(config, file, sizes, form=settings.cache)), self._refused_before
            )
        self._probable = self._choose(self._at_once, self._refused_before)

    def proved(self, executor: "Executor") -> "CudaRunner":
        """The model on a GPU; executor: what runs there."""
        from kernel_templates.cuda import proofs

        def refusal(problem: Problem, config: Config) -> str | None:
            with executor.here():
                return proofs.refusal(problem, config, self._device, executor.target, executor.device)

        proofs.draw([problem for problem, choice in self._probable.items() if self._is_unproved(problem, choice)])
        choices = self._choose(self._at_once, refusal)
        return self._runner(executor, choices, refusal, self._settings.progress)

    def probable(self, executor: "Executor") -> "CudaRunner":
        """The same where nothing can run, with the configurations that proofs are likely to leave."""
        return self._runner(executor, self._probable, lambda problem, config: None, lambda done, of: None)

    @property
    def kernels_follow_from(self) -> tuple:
        """What decides which kernels a model runs, besides this program's code."""
        chosen = {**self._probable, **self._longer, **self._passes}
        tensors = sorted((t.name, t.shape, t.format_name) for t in self._file.tensors.values())
        configs = [(problem.key, sorted(choice.config.items())) for problem, choice in chosen.items()]
        return self._config, tensors, configs, self._settings.context, self._settings.cache, self._device.chip_key

    def _runner(
        self, executor: "Executor", choices: Mapping[Problem, Choice], refusal: Refusal, progress: Progress
    ) -> "CudaRunner":
        import torch

        from model.cuda.decode import Decoder
        from model.cuda.forward import Forward
        from model.cuda.lazy_configs import LazyConfigs
        from model.cuda.load import load
        from model.cuda.place_experts import place
        from model.cuda.runner import CudaRunner

        longer = LazyConfigs(self._longer, self._space, refusal)
        passes = LazyConfigs(self._passes, self._space, refusal)

        def configs(layer: int, context: int) -> Config:
            problem = layer_at(self._config, self._file, layer, context, self._settings.cache)
            return choices[problem].config if problem in choices else longer(problem)

        head_config, capacity, device = choices[self._head].config, self._settings.context, executor.device
        inputs_config = choices[self._inputs].config if self._inputs is not None else None
        with executor.here():
            at_first = lambda layer: configs(layer, self._first)  # noqa: E731 - packs the weights; layers all pack alike
            ends = (head_config, inputs_config)
            loaded = functools.partial(
                load, self._file, self._config, capacity, at_first, *ends, memory=self._settings.gpu_memory,
                form=self._settings.cache,
            )  # fmt: skip
            if device.type == "meta":
                placed = None
            else:
                shapes = lambda: loaded(torch.device("meta"), lambda done, of: None)  # noqa: E731
                placed = place(self._file, self._config, self._settings, at_first, shapes, executor)
            model = loaded(device, progress, None if placed is None else placed.keep)
            decoder = Decoder(model, configs, *ends, executor)
            forward = Forward(model, model.pages, passes, executor)
            by_host = {} if placed is None else placed.host.experts.choices
            return CudaRunner(ChainMap(dict(choices), longer.choices, by_host), decoder, forward, placed)

    def _space(self, problem: Problem) -> Space:
        return registry.cuda_space(problem, self._device)

    def _choose(self, problems: list[Problem], refusal: Refusal) -> dict[Problem, Choice]:
        chosen = choose(problems, self._device, self._space, self._settings.db, refusal)
        usual = {p: replace(p, cache=F16) for p in problems if isinstance(p, Layer) and p.cache != F16}
        usual = {p: other for p, other in usual.items() if chosen[p].source is Source.DEFAULT}
        if not usual:
            return chosen
        of_usual = choose(list(usual.values()), self._device, self._space, self._settings.db)
        joined = {problem: self._beside_attention(problem, of_usual[other]) for problem, other in usual.items()}
        changed = {p: c for p, c in joined.items() if c.config != chosen[p].config}
        return chosen | {problem: c for problem, c in changed.items() if refusal(problem, c.config) is None}

    def _beside_attention(self, problem: Layer, usual: Choice) -> Choice:
        """What is known for a layer with a float16 cache, for one whose attention alone is another."""
        own, default = self._space(problem), self._space(problem).default
        others = {name: value for name, value in usual.config.items() if name.startswith(PRODUCTS)}
        config = own.completed({**default, **others})
        detail = f"{usual.detail}; its attention: no winner with a cache in {problem.cache}"
        return Choice(default if own.broken(config) else config, usual.source, detail)

    def _is_unproved(self, problem: Problem, choice: Choice) -> bool:
        default = choice.config == self._space(problem).default
        return not default and proof_record.known(problem, choice.config, self._device) is None

    def _refused_before(self, problem: Problem, config: Config) -> str | None:
        """As far as that is known without a proof."""
        known = proof_record.known(problem, config, self._device)
        return None if known is None else known.wrong
