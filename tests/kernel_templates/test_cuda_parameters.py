"""What can be chosen about a product kernel: defaults for every width, reasons for what cannot be, and constexprs."""

import pytest

from kernel_templates import formats
from kernel_templates.cuda import parameters
from kernel_templates.space import Config, Space

WIDTHS = (32, 64, 96, 160, 256, 288, 576, 768, 1024, 1536, 2048, 3072, 4096, 5120, 6144, 8192, 12288, 28672, 53248)
PAIRS = [(name, cols) for name in formats.FORMATS for cols in WIDTHS if cols % formats.get(name).block == 0]


def tiles(space: Space, name: str, cols: int) -> int:
    config = space.default
    return -(-parameters.units(cols, name) // config["units"]) * config["steps"]


@pytest.mark.parametrize("rows", [96, 1024, 12288, 151936])
@pytest.mark.parametrize("quantizes", [False, True])
@pytest.mark.parametrize(("name", "cols"), PAIRS)
def test_every_width_has_a_default(name: str, cols: int, quantizes: bool, rows: int) -> None:
    space = parameters.product_space([(name, cols)], quantizes, rows)  # a Space whose default breaks a rule is an error
    assert space.broken(space.default) is None
    assert tiles(space, name, cols) <= parameters.MOST_TILES
    made = parameters.constants(space.default, "", name, cols, rows, "int16")
    assert made["GROUPS"] * made["UNITS"] == 32 * space.default["warps"], "a group and a unit for every thread"
    assert made["CHUNKS"] * made["UNITS"] >= parameters.units(cols, name) > (made["CHUNKS"] - 1) * made["UNITS"]
    if quantizes:
        assert made["EACH"] * made["GROUPS"] % 8 == 0


@pytest.mark.parametrize(("name", "cols"), PAIRS)
def test_gate_and_up_side_by_side(name: str, cols: int) -> None:
    """Also in another format than each other."""
    for other, rows in ((name, 1024), ("F16", 12288), ("Q8_0", 53248)):
        matrices = [(name, cols), (other, cols)]
        space = Space(*parameters.parameters("gate_up_", matrices, True, together=2, rows=rows))
        assert space.broken(space.default) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"warps": 1, "units": 64}, "a group a program"),
        ({"units": 64, "warps": 2}, "busy lanes"),
        ({"units": 8, "steps": 8}, "few tiles"),
        ({"ahead": 8}, "ahead of what is there"),
        ({"units": 8, "steps": 2, "each": 8, "ahead": 4, "warps": 4}, "registers"),
        ({"each": 1, "units": 32, "warps": 1}, "whole groups"),
        ({"warps": 3}, "warps"),
        ({"rows": 4}, "unknown parameter"),
    ],
)
def test_rules_and_their_reasons(changes: dict, rule: str) -> None:
    space = parameters.product_space([("Q4_0", 1024 if "units" not in changes or changes["units"] < 64 else 576)], True)
    broken = space.broken({**space.default, **changes})
    assert broken is not None and broken.name == rule and len(broken.reason) > 20


def test_floats_have_nothing_to_quantize() -> None:
    names = {p.name for p in parameters.product_space([("BF16", 576)], True).parameters}
    assert "source" not in names and "source" in {
        p.name for p in parameters.product_space([("Q4_0", 576)], True).parameters
    }


def test_prefixes_are_kept_apart() -> None:
    config = Config({f"a_{n}": v for n, v in parameters.product_space([("Q4_0", 576)], True).default.items()})
    config = Config({**config, "b_warps": 99})
    made = parameters.constants(config, "a_", "Q4_0", 576, 576, "int8")
    assert made["ACT"] == 8 and made["COLS"] == 576 and made["SOURCE"] == "planes"


@pytest.mark.parametrize("rows", [1, 7, 8, 100, 576, 151936])
def test_programs_cover_the_rows(rows: int) -> None:
    space = parameters.product_space([("Q4_0", 576)], False)
    for changes in ({}, {"steps": 4}, {"each": 8}, {"warps": 1}):
        made = parameters.constants({**space.default, **changes}, "", "Q4_0", 576, rows, "int16")
        a_program = made["EACH"] * made["GROUPS"] * made["STEPS"]
        count = parameters.programs(made, rows)
        assert (count - 1) * a_program < rows <= count * a_program
        assert made["EVEN"] == (rows == count * a_program)
