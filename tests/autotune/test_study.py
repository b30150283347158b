"""What every sampler promises: valid configurations, none twice, the default first, an end."""

import pytest
from sampler_names import QUICK_OR_SLOW

from autotune.samplers.study import Search
from kernel_templates.space import Config, Constraint, Parameter, Space

SPACE = Space(
    (
        Parameter("a", (1, 2, 4, 8), 2, "a power of two"),
        Parameter("b", ("x", "y"), "x", "a word"),
        Parameter("c", (0, 1, 2), 0, "a number"),
    ),
    (Constraint("sum", "too much", lambda p: p["a"] + p["c"] < 9),),
)


def seconds(config: Config) -> float:
    return 1.0 + abs(config["a"] - 4) + (config["b"] == "x") + 0.1 * config["c"]


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_every_configuration_once_and_then_none(sampler: str) -> None:
    search = Search(SPACE, sampler, seed=3)
    asked = []
    while (config := search.ask()) is not None:
        asked.append(config)
        failed = config["c"] == 2 and config["b"] == "y"  # some candidates do not work
        search.tell(config, None if failed else seconds(config))
    assert asked[0] == SPACE.default
    assert set(asked) == set(SPACE.configs()) and len(asked) == len(SPACE.configs())


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_a_batch_may_be_asked_before_any_is_told(sampler: str) -> None:
    search = Search(SPACE, sampler)
    batch = [search.ask() for _ in range(6)]
    assert len(set(batch)) == 6 and all(SPACE.broken(c) is None for c in batch if c is not None)
    for config in batch:
        assert config is not None
        search.tell(config, seconds(config))
    assert search.ask() not in batch


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_what_an_earlier_run_tried_is_not_tried_again(sampler: str) -> None:
    earlier = SPACE.configs()[:10]
    search = Search(SPACE, sampler)
    for config in earlier:
        search.replay(config, seconds(config))
    rest = []
    while (config := search.ask()) is not None:
        rest.append(config)
        search.tell(config, seconds(config))
    assert set(rest) == set(SPACE.configs()) - set(earlier)


def test_hints_come_after_the_default_and_invalid_ones_never() -> None:
    hint, invalid = Config({"a": 4, "b": "y", "c": 1}), Config({"a": 8, "b": "y", "c": 2})
    search = Search(SPACE, "random", first=[invalid, hint])
    assert [search.ask(), search.ask()] == [SPACE.default, hint]


def test_the_same_seed_proposes_the_same() -> None:
    def run() -> list[Config | None]:
        search, asked = Search(SPACE, "tpe", seed=5), []
        for _ in range(12):
            asked.append(search.ask())
            search.tell(asked[-1], seconds(asked[-1]))
        return asked

    assert run() == run()


def test_an_unknown_sampler_is_named() -> None:
    with pytest.raises(ValueError, match="'magic'"):
        Search(SPACE, "magic")


PARAMETERS = tuple(Parameter(name, tuple(range(10)), 0, "one of many") for name in "abcdef")
LARGE = Space(PARAMETERS, (Constraint("even", "odd sums do not count", lambda p: (p["a"] + p["b"]) % 2 == 0),))


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_a_space_too_large_to_list(sampler: str) -> None:
    search = Search(LARGE, sampler, first=[Config({**LARGE.default, "f": 9})])
    assert search.size == 10**6
    asked = []
    for _ in range(60):
        config = search.ask()
        assert config is not None and LARGE.broken(config) is None
        asked.append(config)
        search.tell(config, 1.0 + sum(abs(value - 5) for value in config.values()))
    assert asked[:2] == [LARGE.default, {**LARGE.default, "f": 9}] and len(set(asked)) == 60


def test_a_large_space_is_searched_around_the_best() -> None:
    search, best = Search(LARGE, "pool", seed=1), 99.0
    for _ in range(100):
        config = search.ask()
        assert config is not None
        seconds = 1.0 + sum(abs(value - 5) for value in config.values())
        search.tell(config, seconds)
        best = min(best, seconds)
    assert best <= 3.0
