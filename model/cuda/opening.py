"""From a GPU's number to a runner: what it is, which configurations it runs, the model packed for it.

The only file of this folder that imports without Triton: a machine that has none is told so in one line.
"""

from typing import TYPE_CHECKING

from kernel_templates import registry
from kernel_templates.cuda import machine
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import GGUFFile
from model.kernel_choices import choose
from model.problems import contexts, gpu_layers, head_problem, layer_at
from model.runner import Settings
from model.widths import every_size, pass_problems

if TYPE_CHECKING:
    from model.cuda.execution import Executor
    from model.cuda.runner import CudaRunner


def open_runner(file: GGUFFile, config: ModelConfig, settings: Settings) -> "CudaRunner":
    """Pack the model for GPU `settings.index` and capture its first token's graph."""
    try:
        device = machine.detect(settings.index)
    except machine.DeviceError as error:
        raise ModelError(str(error)) from None
    from model.cuda.execution import GraphExecutor, NvtxExecutor

    executor = (NvtxExecutor if settings.nvtx else GraphExecutor)(settings.index, machine.target(device))
    runner = build(file, config, settings, device, executor)
    runner.decoder.program(("layers", "head", "greedy"), 0)  # so that the first token does not wait for a compiler
    return runner


def build(
    file: GGUFFile, config: ModelConfig, settings: Settings, device: Device, executor: "Executor"
) -> "CudaRunner":
    """device: what configurations are chosen for; executor: what runs them."""
    import torch

    from kernel_templates.cuda import proofs
    from kernel_templates.cuda.pages import PAGE, in_one_piece
    from model.cuda.decode import Decoder
    from model.cuda.forward import Forward
    from model.cuda.load import load
    from model.cuda.pass_configs import PassConfigs
    from model.cuda.runner import CudaRunner

    head = head_problem(config, file)
    problems = [*gpu_layers(config, file, settings.context), head]

    def refusal(problem: Problem, config: Config) -> str | None:
        with executor.here():
            return proofs.refusal(problem, config, device, executor.target, executor.device)

    def space(problem: Problem) -> Space:
        return registry.cuda_space(problem, device)

    choices = choose(problems, device, space, settings.db, refusal)
    passes = {}
    if settings.db is not None:
        passes = choose(list(pass_problems(config, file, every_size(settings.context))), device, space, settings.db)

    def configs(layer: int, context: int) -> Config:
        return choices[layer_at(config, file, layer, context)].config

    first = contexts(settings.context)[0]  # whose configuration packs the weights: for layers all pack alike
    with executor.here():
        model = load(
            file, config, settings.context, lambda i: configs(i, first), choices[head].config,
            executor.device, settings.progress,
        )  # fmt: skip
        decoder = Decoder(model, configs, choices[head].config, executor)
        table = torch.empty((1, -(-model.capacity // PAGE)), dtype=torch.int64, device=executor.device)
        cache = in_one_piece(model.cache, table)
        forward = Forward(model, cache, PassConfigs(passes, space, refusal), executor)
        return CudaRunner(choices, decoder, forward)
