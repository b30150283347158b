"""The parameters that every CPU template with a weight matrix has, and the rules between them."""

from kernel_templates.cpu import dot
from kernel_templates.cpu.blocks import FLOATS, TileShape
from kernel_templates.space import Config, Constraint, Parameter

LANES = (16, 32, 64, 128)
MAX_LANES = LANES[-1]


def tile_parameters(formats: tuple[str, ...], features: frozenset[str], parts: tuple[str, ...] = ("",)):
    """Parameters of kernels whose weights have these formats. `parts`: prefixes of matrices that choose for themselves.

    The defaults run on any processor: they say what an untuned machine gets, not what this one is good at.
    """
    paths = ("generic",) if set(formats) <= set(FLOATS) else dot.available(features)
    unrolls = (1, 2, 4) if set(formats) & {"Q4_0", "Q4_1", "Q8_0"} else (1,)
    rows = tuple(
        Parameter(f"{p}lanes", LANES, 32, f"{p.rstrip('_') or 'matrix'} rows interleaved in a tile") for p in parts
    )
    return (
        *rows,
        Parameter("path", paths, "generic", "instructions of the integer dot product"),
        Parameter("unroll", unrolls, 1, "blocks an iteration of the innermost loop takes"),
        Parameter("prefetch", (0, 512, 2048, 8192), 0, "bytes ahead that weights are asked for; 0: left to the hardware"),
    )


def unroll_divides(*cols: int) -> Constraint:
    """The loops have no remainder iteration."""
    return Constraint(
        "unroll divides the blocks",
        f"a row of {' or '.join(map(str, cols))} elements must be whole iterations of `unroll` blocks of 32",
        lambda c: all(n // 32 % c["unroll"] == 0 for n in cols),
    )


def shape(config: Config, format_name: str, cols: int, part: str = "") -> TileShape:
    """How `config` walks one matrix."""
    return TileShape(format_name, cols, config[f"{part}lanes"], config["path"], config["unroll"], config["prefetch"])
