"""What a search tries first: the neighbourhood of where it begins, without being trapped there."""

import pytest

from autotune.samplers.candidates import neighbours
from autotune.samplers.local_search import MOST, LocalSearch
from autotune.samplers.study import Search
from kernel_templates.space import Config, Parameter, Space

SIZES = (1, 2, 4, 8, 16, 32)


@pytest.fixture
def space() -> Space:
    """A plain of 216 configurations; the default is a corner."""
    return Space(tuple(Parameter(name, SIZES, 1, "") for name in ("warps", "tile", "stages")))


def at(warps: int, tile: int, stages: int) -> Config:
    return Config({"warps": warps, "tile": tile, "stages": stages})


def asked(search: Search, count: int, seconds) -> list[Config]:
    found = []
    for _ in range(count):
        config = search.ask()
        assert config is not None
        search.tell(config, seconds(config))
        found.append(config)
    return found


def test_the_default_and_its_neighbours_come_first(space) -> None:
    first, *steps = asked(Search(space), 4, lambda config: 1.0)
    assert first == space.default and set(steps) == set(neighbours(space, space.default))


def test_a_prior_winners_neighbours_take_turns_with_the_defaults(space) -> None:
    search, winner = Search(space), at(8, 8, 8)
    search.suggest([winner])
    found = asked(search, 14, lambda config: 1.0 if config == winner else 2.0)
    assert found[:2] == [space.default, winner]
    assert set(neighbours(space, winner)) <= set(found[2:]) and found[2] in set(neighbours(space, winner))
    assert set(neighbours(space, space.default)) <= set(found[2:]) and found[3] in set(neighbours(space, space.default))


def test_it_follows_what_gets_better_and_shares_with_the_model(space) -> None:
    """Downhill all the way from the default, a corner, to the other one, 15 steps away."""
    search, best = Search(space), at(32, 32, 32)
    found = asked(search, 60, lambda c: 1.0 / (c["warps"] * c["tile"] * c["stages"]))
    assert best in found
    steps = {n for config in found for n in neighbours(space, config)}
    assert any(config not in steps for config in found[1:]), "the model has looked elsewhere, too"


def test_a_bad_prior_winner_does_not_trap(space) -> None:
    """It claims a corner that is the worst but one of all; the best is in the opposite one."""
    search = Search(space, seed=3)
    search.suggest([at(1, 2, 1)])
    found = asked(search, 60, lambda c: 1.0 / (c["warps"] * c["tile"] * c["stages"]))
    assert at(32, 32, 32) in found


def test_of_many_neighbours_only_some(space) -> None:
    near, given = LocalSearch(Space(tuple(Parameter(f"p{i}", SIZES, 4, "") for i in range(20))), 0), []
    near.begin(Config({f"p{i}": 4 for i in range(20)}))
    while (config := near.next(lambda config: True)) is not None:
        given.append(config)
    assert len(given) == MOST == len(set(given))


def test_of_several_beginnings_the_fastest_counts(space) -> None:
    """Of three winners of elsewhere, the third is the fastest here."""
    search, others, fastest = Search(space), [at(2, 8, 2), at(8, 2, 2)], at(16, 16, 16)
    search.suggest([*others, fastest])
    found = asked(search, 14, lambda c: 1.0 if c == fastest else 2.0)
    assert set(neighbours(space, fastest)) <= set(found[4:])
    assert not set(neighbours(space, others[1])) & set(found[4:])


def test_failures_lead_nowhere(space) -> None:
    near = LocalSearch(space, 0)
    near.begin(space.default)
    near.told(at(32, 32, 32), None)
    steps = set(neighbours(space, space.default))
    assert {near.next(lambda config: True) for _ in steps} == steps


def test_a_recorded_space_has_no_default_to_begin_from(space) -> None:
    """Its rows are all alike: whoever replays it compares samplers, not what a template's author knew."""
    search, prior = Search(space, first=[at(8, 8, 8)], configs=space.configs()), at(8, 8, 8)
    first, second, third = asked(search, 3, lambda c: 1.0)
    assert first == prior and not {second, third} & set(neighbours(space, prior))


def test_when_no_step_is_left_the_model_chooses_two_steps_away(space) -> None:
    """Every single step from the best is slower: only two at once lead on, to the one best of all."""
    best = at(2, 2, 1)

    def seconds(config: Config) -> float:
        return 0.5 if config == best else 1.0 + sum(SIZES.index(value) for value in config.values())

    assert best in asked(Search(space), 20, seconds)
    near = LocalSearch(space, 0)
    near.begin(space.default)
    near.told(space.default, 1.0)
    done = set(neighbours(space, space.default))
    while near.next(lambda config: config not in done) is not None:
        pass
    assert best in near.region and at(4, 4, 4) not in near.region


def test_where_steps_are_few_the_model_still_has_two_turns_of_three(space) -> None:
    near = LocalSearch(space, 0)
    near.begin(space.default)
    near.told(space.default, 1.0)
    done = {space.default, *neighbours(space, space.default)}
    turns = []
    for _ in range(30):
        assert near.next(lambda config: config not in done) is None
        turns.append(bool(near.region))
    assert 9 <= sum(turns) <= 11
