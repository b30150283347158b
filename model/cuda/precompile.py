"""Compiles the kernels of a model's first texts into the cache, for a GPU that need not be here."""

from pathlib import Path

from kernel_templates.cuda import ahead, kernel_cache
from kernel_templates.cuda.launch import Launch, capability_target
from kernel_templates.device import Device
from model.config import ModelConfig
from model.cuda import first_text
from model.cuda.opening import Opening
from model.gguf_file import GGUFFile
from model.runner import Settings

PROMPTS = (0, 16, 64, 256, 2048)
"""Tokens of a first text, one for each kernel that prompts differ in."""


def compile_first_texts(file: GGUFFile, config: ModelConfig, settings: Settings, device: Device, processes: int) -> int:
    """How many kernels a text needs, all of which are in the cache then. device: of the chip, as a space asks for it;
    processes: that compile side by side. Raises what Triton's compiler raises."""
    capability = int(device.capability.replace(".", ""))
    target = capability_target(capability)
    opening = Opening(file, config, settings, device)
    launches: dict[Path, Launch] = {}
    for prompt in PROMPTS:
        if prompt < settings.context:
            found = first_text.launches(target, prompt, opening.probable)
            launches |= {kernel_cache.path(launch, target, capability): launch for launch in found}
    ahead.start(launches.values(), target, capability, processes)
    for kept, launch in launches.items():
        ahead.get(launch, target, capability, kept)
    return len(launches)
