"""What every sampler promises, over spaces of every kind."""

import random

import pytest
from sampler_names import QUICK_OR_SLOW

from autotune.samplers.study import Search
from kernel_templates.space import Config, Constraint, Parameter, Space

SMALL = Space(
    (
        Parameter("a", (1, 2, 4, 8), 2, "a power of two"),
        Parameter("b", ("x", "y"), "x", "a word"),
        Parameter("c", (0, 1, 2), 0, "a number"),
    ),
    (Constraint("sum", "too much", lambda p: p["a"] + p["c"] < 9),),
)
SPACES = {
    "small": SMALL,
    "one": Space((Parameter("a", (3,), 3, "no choice"),)),
    "types": Space(
        (
            Parameter("flag", (False, True), False, "a switch"),
            Parameter("share", (0.25, 0.5, 1.0), 0.5, "a share"),  # type: ignore[arg-type]
            Parameter("word", ("p", "q", "r"), "q", "a word"),
            Parameter("fixed", (7,), 7, "no choice"),
        )
    ),
    "line": Space((Parameter("a", tuple(range(12)), 5, "a number"),)),
}


def seconds(config: Config) -> float:
    """A made-up time; configurations that differ in some parameters alone take equally long."""
    return 1.0 + sum(len(str(value)) * at for at, value in enumerate(config.values(), 1)) / 8


def run(space: Space, sampler: str, time=seconds, seed: int = 1, most: int = 1000) -> list[Config]:
    search, asked = Search(space, sampler, seed), []
    while len(asked) < most and (config := search.ask()) is not None:
        asked.append(config)
        search.tell(config, time(config))
    return asked


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_every_valid_configuration_once_and_then_none(sampler: str, name: str) -> None:
    asked = run(SPACES[name], sampler)
    assert len(asked) == len(set(asked)) and set(asked) == set(SPACES[name].configs())
    assert asked[0] == SPACES[name].default


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_failures_alone_end_nothing(sampler: str) -> None:
    assert set(run(SMALL, sampler, lambda config: None)) == set(SMALL.configs())


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_a_seed_says_it_all(sampler: str) -> None:
    assert run(SMALL, sampler, seed=5) == run(SMALL, sampler, seed=5)


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_what_is_told_again_is_not_asked_again(sampler: str) -> None:
    search = Search(SMALL, sampler)
    for config in SMALL.configs()[:10]:
        search.replay(config, None if config["c"] == 1 else seconds(config))
    rest = []
    while (config := search.ask()) is not None:
        rest.append(config)
        search.tell(config, seconds(config))
    assert len(rest) == len(set(rest)) and set(rest) == set(SMALL.configs()[10:])


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_results_in_another_order_than_asked(sampler: str) -> None:
    search, waiting, asked, dice = Search(SMALL, sampler, seed=2), [], [], random.Random(2)
    while True:
        config = search.ask()
        if config is not None:
            waiting.append(config)
            asked.append(config)
        elif not waiting:
            break
        if config is None or len(waiting) == 4:
            search.tell(done := waiting.pop(dice.randrange(len(waiting))), seconds(done))
    assert len(asked) == len(set(asked)) == len(SMALL.configs())


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_a_space_too_large_to_list(sampler: str) -> None:
    parameters = tuple(Parameter(name, tuple(range(10)), 0, "one of many") for name in "abcdef")
    even = Constraint("even", "odd sums do not count", lambda p: (p["a"] + p["b"]) % 2 == 0)
    space = Space(parameters, (even,))
    asked = run(space, sampler, lambda c: 1.0 + sum(abs(value - 5) for value in c.values()), most=45)
    assert len(asked) == len(set(asked)) == 45 and all(space.broken(config) is None for config in asked)


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_a_large_grid_of_few_valid_ones_ends(sampler: str) -> None:
    """10^7 combinations, 10 of them valid."""
    parameters = tuple(Parameter(name, tuple(range(10)), 0, "one of many") for name in "abcdefg")
    equal = tuple(
        Constraint(f"{one} is {other}", "they are the same", lambda p, one=one, other=other: p[one] == p[other])
        for one, other in zip("abcdef", "bcdefg", strict=True)
    )
    space = Space(parameters, equal)
    assert set(run(space, sampler)) == set(space.configs()) and len(space.configs()) == 10
