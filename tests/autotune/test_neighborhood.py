"""What the search of a layer tries: valid, one kernel or several, and better than chance."""

import random

import pytest

from autotune.tuning.neighborhood import Neighborhood
from kernel_templates.space import Config, Constraint, Parameter, Space

SIZES = (1, 2, 4, 8, 16)


def part(*kernels: str) -> Space:
    """Of each kernel: rows and warps whose product is bounded, and a switch."""
    parameters, constraints = [], []
    for k in kernels:
        dot = f"{k}_" if k else ""
        own = [(name, SIZES) for name in ("rows", "warps", "each")] + [("early", (0, 1))]
        parameters += [Parameter(f"{dot}{name}", values, 1, "one", kernel=k) for name, values in own]
        constraints.append(Constraint("room", "too much", lambda c, d=dot: c[f"{d}rows"] * c[f"{d}warps"] <= 64))
    return Space(tuple(parameters), tuple(constraints))


PARTS = {"out": part(""), "ffn": part("up", "down")}


def layer() -> Space:
    parameters = [Parameter("finish", ("here", "there"), "here", "of none")]
    constraints = []
    for prefix, space in PARTS.items():
        parameters += [p.in_part(prefix) for p in space.parameters]
        for c in space.constraints:
            constraints.append(
                Constraint(
                    f"{prefix}: {c.name}", c.reason,
                    lambda x, c=c, n=prefix: c.holds({k.removeprefix(f"{n}_"): v for k, v in x.items()}),
                )
            )  # fmt: skip
    return Space(tuple(parameters), tuple(constraints))


@pytest.fixture
def moves() -> Neighborhood:
    return Neighborhood(layer(), PARTS, seed=1)


def after(best: Config, move) -> Config:
    return Config({**best, **move.changes})


def test_kernels_are_told_by_their_parameters(moves) -> None:
    assert moves.kernels == ("", "out", "ffn_up", "ffn_down")
    best = moves.space.default
    assert moves.changed(best, Config({**best, "ffn_up_rows": 2, "finish": "there"})) == ["", "ffn_up"]
    assert set(moves.block("out", best)) == {"out_rows", "out_warps", "out_each", "out_early"}


def test_steps_stay_in_the_kernels_named(moves) -> None:
    steps = list(moves.steps(moves.space.default, ["ffn_down"]))
    assert len(steps) == 4 and all(moves.touched(step.changes) == {"ffn_down"} for step in steps)


def test_a_switch_is_set_in_all_kernels_in_every_way(moves) -> None:
    ways = {tuple(sorted(move.changes.items())) for move in moves.switches(["out", "ffn_up", "ffn_down"])}
    assert len(ways) == 8 and all(len(way) == 3 and all(n.endswith("early") for n, _ in way) for way in ways)
    assert moves.switches(["out"]) == []


@pytest.mark.parametrize("kernel", ["out", "ffn_up", "ffn_down"])
def test_draws_and_proposals_are_valid_and_of_one_kernel(moves, kernel) -> None:
    best = moves.space.default
    found = [*moves.draws(best, kernel, 12), *moves.promising(best, kernel, {}, 12)]
    assert len(found) == 24
    for move in found:
        assert moves.space.broken(after(best, move)) is None and moves.changed(after(best, move), best) in (
            [kernel],
            [],
        )


def test_what_belongs_to_no_kernel_is_drawn(moves) -> None:
    assert moves.promising(moves.space.default, "", {}, 5) == []  # one parameter: its steps are all there is


def test_a_model_finds_the_end_of_a_narrow_valley(moves) -> None:
    """Which no single step from the default goes down."""

    def time(block: Config) -> float:
        rows, warps, each = (SIZES.index(block[f"ffn_down_{n}"]) for n in ("rows", "warps", "each"))
        return 1.0 + abs(rows + warps - 5) * 0.3 + abs(rows - each) * 0.2 + (block["ffn_down_early"] == rows % 2) * 0.1

    best = moves.space.default
    times = {moves.block("ffn_down", best): time(moves.block("ffn_down", best))}
    for _ in range(6):
        for move in moves.promising(best, "ffn_down", times, 6):
            block = moves.block("ffn_down", after(best, move))
            times[block] = time(block)
    assert min(times.values()) < 1.15  # 37 of 220


def test_mixtures_take_each_kernel_from_its_best(moves) -> None:
    rng = random.Random(0)
    times = {}
    for kernel in moves.kernels:
        blocks = [
            moves.block(kernel, after(moves.space.default, m)) for m in moves.draws(moves.space.default, kernel, 9)
        ]
        times[kernel] = {block: rng.random() + 1.0 for block in blocks} | (
            {} if kernel != "out" else {moves.block("out", moves.space.default): float("inf")}
        )
    mixed = moves.mixtures(times, ["out", "ffn_up", "ffn_down"])
    assert mixed
    for move in mixed:
        config = after(moves.space.default, move)
        changed = moves.changed(config, moves.space.default)
        assert moves.space.broken(config) is None and 1 <= len(changed) <= 3
        for kernel in changed:
            good = sorted(times[kernel], key=times[kernel].__getitem__)[:5]
            assert moves.block(kernel, config) in good
