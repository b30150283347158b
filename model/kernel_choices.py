"""Which configuration each kernel problem runs with here, and why: the database's winner, or the default."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import DatabaseError, TuningDB, open_db
from tuning_db.records import Source


@dataclass(frozen=True)
class Choice:
    """Which configuration a problem runs with, and why."""

    config: Config
    source: Source
    detail: str


Refusal = Callable[[Problem, Config], str | None]
MOST_REFUSED = 3
"""Configurations of one problem that are refused before its default is used."""


def choose(
    problems: Sequence[Problem], device: Device, space: Callable[[Problem], Space], db: TuningDB | None,
    refusal: Refusal = lambda problem, config: None,
) -> dict[Problem, Choice]:  # fmt: skip
    """The configuration for each problem: the database's for this device if it is legal here and not refused, else the
    next best that it has, else the default. refusal: why a configuration must not be used, None if it may; one that is
    refused is marked in the database and not asked for again."""
    if db is None:
        return {p: Choice(space(p).default, Source.DEFAULT, "no database was asked") for p in problems}
    refused = db.refused(device)
    chosen: dict[Problem, Choice] = {}
    told: dict[Problem, list[str]] = {p: [] for p in problems}
    left = list(problems)
    while left:
        found = db.lookup_all(device, [(p.key, p.template_version) for p in left], refused)
        for problem in left:
            answer, default = found[problem.key], space(problem).default
            if answer.winner is None:
                chosen[problem] = Choice(default, Source.DEFAULT, "; ".join([answer.detail, *told[problem]]))
                continue
            stored = Config(answer.winner.config)  # by which the database knows it
            why = _why_not(problem, stored, space(problem), device, db, refusal)
            if why is None:
                config = space(problem).completed(stored)
                chosen[problem] = Choice(config, answer.source, "; ".join([answer.detail, *told[problem]]))
                continue
            refused.setdefault(problem.key, []).append(dict(stored))
            told[problem].append(f"{answer.source}: {answer.detail} {why}")
            if len(told[problem]) == MOST_REFUSED:
                chosen[problem] = Choice(default, Source.DEFAULT, "; ".join(told[problem]))
        left = [problem for problem in left if problem not in chosen]
    return {p: chosen[p] for p in problems}


def _why_not(
    problem: Problem, stored: Config, space: Space, device: Device, db: TuningDB, refusal: Refusal
) -> str | None:
    """Why a winner is not used: it is not legal here, as a borrowed one may be, or refused, which is marked."""
    config = space.completed(stored)
    broken = space.broken(config)
    if broken is not None:
        return f"is not legal here: {broken.reason}"
    why = None if config == space.default else refusal(problem, config)
    if why is None:
        return None
    _mark(db, device, problem, stored, why)
    return f"is refused: {why}"


def _mark(db: TuningDB, device: Device, problem: Problem, config: Config, why: str) -> None:
    """Also where `db` is open for reading. A file that cannot be written leaves it to the record of proofs."""
    with suppress(DatabaseError):
        if db.writable:
            db.mark_refused(device, problem.key, problem.template_version, config, why)
        elif db.path.exists():
            with open_db(db.path) as writable:
                writable.mark_refused(device, problem.key, problem.template_version, config, why)
