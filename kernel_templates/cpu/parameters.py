"""The parameters that every CPU template with a weight matrix has, and the rules between them."""

from kernel_templates import formats
from kernel_templates.cpu import dot
from kernel_templates.cpu.blocks import TileShape, step_size
from kernel_templates.random_inputs import MAX_LANES
from kernel_templates.space import Config, Constraint, Parameter

LANES = (16, 32, 64, MAX_LANES)
AHEAD = 4096


def tile_parameters(names: tuple[str, ...], features: frozenset[str], parts: tuple[str, ...] = ("",)):
    """Parameters of kernels whose weights have the formats `names`. `parts`: prefixes of matrices that have tiles of
    their own.

    The defaults are what an untuned machine gets: its widest integer instructions, and weights asked for 4 KB ahead
    (docs/log.md: 1.6 times the tokens of plain code without, on a Zen 5).
    """
    quantized = any(formats.get(name).quantized for name in names)
    paths = dot.available(features) if quantized else ("generic",)
    rows = tuple(
        Parameter(f"{p}lanes", LANES, 16, f"{p.rstrip('_') or 'matrix'} rows interleaved in a tile", p.rstrip("_"))
        for p in parts
    )
    return (
        *rows,
        Parameter("path", paths, paths[-1], "instructions of the integer dot product"),
        Parameter("streams", (1, 2, 3, 4, 6, 8), 1, "places of a tile that are read in turn"),
        Parameter("prefetch", (0, 2048, 4096, 8192, 16384, 32768), AHEAD, "bytes ahead that weights are asked for"),
    )


def streams_divide(*matrices: tuple[str, int]) -> Constraint:
    """`matrices`: (format, cols) of each; the loops have no remainder."""
    pieces = [cols // step_size(formats.get(name).layout) for name, cols in matrices]
    return Constraint(
        "streams divide the row",
        f"rows of {' and '.join(map(str, sorted(set(pieces))))} blocks must fall into `streams` equal parts",
        lambda c: all(n % c["streams"] == 0 for n in pieces),
    )


def packing(config: Config) -> dict[str, int]:
    """What of a configuration decides how its weights are packed: the rows in a tile of each matrix."""
    return {name: int(value) for name, value in config.items() if name.endswith("lanes")}


def shape(config: Config, format_name: str, cols: int, part: str = "") -> TileShape:
    """How `config` walks one matrix."""
    walk = (config[f"{part}lanes"], config["path"], config["streams"], config["prefetch"])
    return TileShape(formats.get(format_name).layout, cols, *walk)
