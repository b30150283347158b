"""Proves configurations on a GPU before their first use, and remembers what came of it (`kernel_templates.cpu.proofs`
does so on a processor)."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

from kernel_templates import proof, proof_record, registry
from kernel_templates.cuda.launch import Target
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from kernel_templates.verify import WrongResult, verify

SEED = 0


def refusal(problem: Problem, config: Config, device: Device, target: Target, place: torch.device) -> str | None:
    """Why a configuration must not be used on `device`, in one line; None for one that is proved. place: where tensors
    are made, the CPU for Triton's interpreter.

    Raises what compiling and launching raise."""
    known = proof_record.known(problem, config, device)
    if known is not None:
        return known.wrong
    wrong = _proved(problem, config, target, place)
    proof_record.remember(problem, config, device, wrong)
    return wrong


def draw(problems: Sequence[Problem]) -> None:
    """Begin to compute what problems are proved on, in threads: it takes half a second each, on the processor alone."""
    if problems:
        with_threads = ThreadPoolExecutor(len(problems))
        _drawn.update((problem, with_threads.submit(proof.of, problem, SEED)) for problem in problems)
        with_threads.shutdown(wait=False)


_drawn: dict[Problem, Future[proof.Proof]] = {}


def _proved(problem: Problem, config: Config, target: Target, place: torch.device) -> str | None:
    template, found = registry.cuda(problem.op), _proof(problem)
    tolerance = registry.get(problem.op).tolerance(problem)
    packed = template.pack(problem, config, found.inputs.weights, str(place))
    try:
        cases: list[tuple[int | None, Mapping[str, np.ndarray]]] = [(None, found.expected), *found.elsewhere]
        for position, expected in cases:
            buffers = template.prepare(problem, found.inputs, str(place))
            if position is not None:
                buffers["position"].fill_(position)
            for launch in template.launches(problem, config, packed, buffers):
                launch.run(target)
            if place.type == "cuda":
                torch.cuda.synchronize(place)
            verify(template.collect(problem, buffers), expected, tolerance)
    except WrongResult as wrong:
        return f"it computes wrongly here: {wrong}"
    return None


@lru_cache(maxsize=1)
def _proof(problem: Problem) -> proof.Proof:
    """The last one is kept: when a configuration is refused, the next one is proved on the same inputs."""
    drawn = _drawn.pop(problem, None)
    return proof.of(problem, SEED) if drawn is None else drawn.result()
