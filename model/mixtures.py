"""A model's mixtures of experts: which layers have one, and what of it may lie elsewhere than the rest of the layer."""

from collections.abc import Mapping

from kernel_templates.moe.problem import Moe
from model.config import ModelConfig
from model.gguf_file import GGUFFile
from model.layer_plan import LayerPlan, Step
from model.problems import layer_problems

NAME = "moe"
"""Of the step."""


def of_layers(config: ModelConfig, file: GGUFFile) -> Mapping[int, Moe]:
    """By layer, the problem of its mixture."""
    found = {i: layer_problems(config, file, i).get(NAME) for i in range(config.layers) if config.sizes[i].mixture}
    return {i: problem for i, problem in found.items() if isinstance(problem, Moe)}


def step(plan: LayerPlan) -> Step:
    """The mixture of a layer that has one."""
    return next(step for step in plan.steps if step.name == NAME)
