"""Which configuration each kernel problem runs with here, and why: the database's winner, or the default."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB
from tuning_db.records import Lookup, Source


@dataclass(frozen=True)
class Choice:
    """Which configuration a problem runs with, and why."""

    config: Config
    source: Source
    detail: str


Refusal = Callable[[Problem, Config], str | None]


def choose(
    problems: Sequence[Problem], device: Device, space: Callable[[Problem], Space], db: TuningDB | None,
    refusal: Refusal = lambda problem, config: None,
) -> dict[Problem, Choice]:  # fmt: skip
    """The configuration for each problem: the database's for this device if it is legal here and not refused, else the
    default. refusal: why a configuration must not be used, None if it may."""
    found: Mapping[str, Lookup] = {}
    if db is not None:
        found = db.lookup_all(device, [(p.key, p.template_version) for p in problems])
    return {p: _choice(p, space(p), found.get(p.key), refusal) for p in problems}


def _choice(problem: Problem, space: Space, answer: Lookup | None, refusal: Refusal) -> Choice:
    if answer is None or answer.winner is None:
        return Choice(space.default, Source.DEFAULT, answer.detail if answer else "no database was asked")
    broken = space.broken(answer.winner.config)
    if broken is not None:
        detail = f"{answer.source}: {answer.detail} is not legal here: {broken.reason}"
        return Choice(space.default, Source.DEFAULT, detail)
    config = Config(answer.winner.config)
    why = None if config == space.default else refusal(problem, config)
    if why is not None:
        return Choice(space.default, Source.DEFAULT, f"{answer.source}: {answer.detail} is refused: {why}")
    return Choice(config, answer.source, answer.detail)
