"""How a product with many tokens can be built."""

from kernel_templates import formats
from kernel_templates.cpu import dot
from kernel_templates.cpu.activations import BLOCK
from kernel_templates.cpu.micro import register_lanes
from kernel_templates.formats.layout import Blocks
from kernel_templates.matmul.problem import Matmul
from kernel_templates.space import Constraint, Parameter, Space

WIDTHS = (16, 32, 64)
FEW, FEW_OF_SMALL_GROUPS = 32, 4
"""Tokens up to which decoding weights in registers is the default, and where groups of 16 weights have a scale."""
MOST_SUMS = 32
"""Registers of sums that a candidate may ask for: beyond what a processor has they are kept in memory."""


def group_of(format_name: str) -> int:
    """Weights that share a scale; of a format without subscales more than any has: its block is decoded as a whole."""
    layout = formats.get(format_name).layout
    return layout.group if isinstance(layout, Blocks) and layout.subscales is not None else 256


def cpu(problem: Matmul, features: frozenset[str]) -> Space:
    quantized = formats.get(problem.format).quantized
    paths = dot.available(features) if quantized else ("generic",)
    whole = quantized and "vnni" in paths
    algorithms = ("integer", "float", "columns") if quantized else ("float",)
    lanes = register_lanes(paths[-1], features)
    few = quantized and problem.tokens <= (FEW_OF_SMALL_GROUPS if group_of(problem.format) < BLOCK else FEW)
    width, together = (2 * lanes, 6) if lanes > 8 else (16, 3)
    algorithm = "columns" if few else "integer" if whole else "float"
    if few:
        together = 2 if problem.tokens <= 2 else 8 if problem.tokens == 8 and group_of(problem.format) > BLOCK else 4
        width = max(16, lanes)
    return Space(
        (
            Parameter("algorithm", algorithms, algorithm, "how weights are decoded and multiplied"),
            Parameter("path", paths, paths[-1], "instructions of the integer products"),
            Parameter("width", WIDTHS, width, "rows whose sums are in registers"),
            Parameter("together", (1, 2, 3, 4, 6, 8, 12), together, "tokens whose sums are in registers"),
            Parameter("depth", (256, 512, 1024, 2048), 512, "columns that are decoded at a time"),
        ),
        (
            Constraint(
                "sums in registers",
                f"width * together / {lanes} sums must be at most {MOST_SUMS}",
                lambda c: c["width"] * c["together"] <= MOST_SUMS * lanes,
            ),
            Constraint(
                "one path of floats", "`path` says nothing about float products",
                lambda c: c["algorithm"] != "float" or c["path"] == paths[-1],
            ),
            Constraint(
                "gated rows in panels", f"the gate's {problem.rows // 2} rows must fall into panels of `width`",
                lambda c: not problem.gate or problem.rows // 2 % c["width"] == 0,
            ),
        ),
    )  # fmt: skip
