"""What passes and longer contexts run with: the database's winners, borrowed ones too, each proved before its use."""

from pathlib import Path

import pytest

from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from model.cuda.lazy_configs import LazyConfigs
from model.kernel_choices import choose
from tuning_db import open_db
from tuning_db.records import Measurement, Source, Winner

CHIP = Device("cuda", "Fake 100", "9.0", 132, 80 << 30, (("driver", "1"),))
SHORT, NEXT, LONG = (PagedAttention(1, tokens, 4, 2, 64, 640) for tokens in (16, 32, 256))


def space(problem: Problem) -> Space:
    return registry.cuda_space(problem, CHIP)


@pytest.fixture
def other() -> Config:
    return next(config for config in space(SHORT).each() if config != space(SHORT).default)


def test_a_winner_is_proved_once_and_only_when_it_is_used(tmp_path: Path, other: Config) -> None:
    asked: list[tuple[Problem, Config]] = []

    def refusal(problem: Problem, config: Config) -> str | None:
        asked.append((problem, config))
        return "it computes wrongly here" if problem == NEXT else None

    with open_db(tmp_path / "t.db") as db:
        measured = Measurement(1.0, 1.0, 1.0, 9)
        db.set_winner(CHIP, Winner(SHORT.key, 1, dict(other), measured, None, 0.0, 1.0), None, None)
        choices = choose([SHORT, NEXT, LONG], CHIP, space, db)
    configs = LazyConfigs(choices, space, refusal)
    assert not asked
    assert configs(SHORT) == configs(SHORT) == other and asked == [(SHORT, other)]
    assert configs(NEXT) == space(NEXT).default and asked[1:] == [(NEXT, other)], "borrowed, and refused"
    assert configs.choices[NEXT].source is Source.DEFAULT and "is refused: it computes" in configs.choices[NEXT].detail
    assert configs(LONG) == space(LONG).default and len(asked) == 2, "nothing tuned is near"


def test_a_problem_that_nothing_was_looked_up_for_runs_its_default() -> None:
    def refusal(problem: Problem, config: Config) -> str | None:
        raise AssertionError("a default is not proved")

    assert LazyConfigs({}, space, refusal)(LONG) == space(LONG).default
