"""The packed weights of steps: mapped from the disk, where they are packed to if they are not there."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kernel_templates import formats
from kernel_templates.cpu import parameters
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.cpu import weight_cache
from model.gguf_file import GGUFFile
from model.layer_plan import Step

Steps = Mapping[str, tuple[Step, Problem, Config]]
"""By a name that no other has."""


def keep(file: GGUFFile, steps: Steps, packed: Iterable[tuple[str, Sequence[Tiles]]]) -> weight_cache.Packed | None:
    """packed: by names of `steps`, made only where the disk has none; None if they cannot be kept."""
    about = [
        (name, problem.key, parameters.packing(config), sorted(step.weights.items()))
        for name, (step, problem, config) in steps.items()
    ]
    where = weight_cache.path((file.identity(), about))
    kept = weight_cache.read(where)
    if kept is None and weight_cache.write(where, sum(nbytes(file, step) for step, _, _ in steps.values()), packed):
        kept = weight_cache.read(where)
    if kept is None or not all(_fit(file, step, kept.get(name, ())) for name, (step, _, _) in steps.items()):
        return None
    return kept


def nbytes(file: GGUFFile, step: Step) -> int:
    """Bytes of a step's matrices in the file. Of a tensor that several of them are rows of, such as gate and up in one,
    each has its own."""
    tensors = step.weights.values()
    return sum(t.rows * formats.get(file.tensors[t.name].format_name).row_bytes(t.shape[-1]) for t in tensors)


def _fit(file: GGUFFile, step: Step, packed: Sequence[Tiles]) -> bool:
    """Whether packed matrices hold a step's rows, by width and format."""
    wanted: Counter[tuple[int, str]] = Counter()
    for tensor in step.weights.values():
        wanted[tensor.shape[-1], file.tensors[tensor.name].format_name] += tensor.rows
    found: Counter[tuple[int, str]] = Counter()
    for tiles in packed:
        found[tiles.cols, tiles.format] += tiles.rows
    return found == wanted
