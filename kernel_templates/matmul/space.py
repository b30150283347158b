"""How a product with many tokens can be built."""

from kernel_templates import formats
from kernel_templates.cpu import dot
from kernel_templates.cpu.micro import register_lanes
from kernel_templates.matmul.problem import Matmul
from kernel_templates.space import Constraint, Parameter, Space

WIDTHS = (16, 32, 64)
MOST_SUMS = 32
"""Registers of sums that a candidate may ask for: beyond what a processor has they are kept in memory."""


def cpu(problem: Matmul, features: frozenset[str]) -> Space:
    quantized = formats.get(problem.format).quantized
    paths = dot.available(features) if quantized else ("generic",)
    whole = quantized and "vnni" in paths
    algorithms = ("integer", "float") if quantized else ("float",)
    lanes = register_lanes(paths[-1], features)
    return Space(
        (
            Parameter("algorithm", algorithms, "integer" if whole else "float", "numbers that are multiplied"),
            Parameter("path", paths, paths[-1], "instructions of the integer products"),
            Parameter("width", WIDTHS, 2 * lanes if lanes > 8 else 16, "rows whose sums are in registers"),
            Parameter("together", (1, 2, 3, 4, 6, 8, 12), 6 if lanes > 8 else 3, "tokens whose sums are in registers"),
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
                lambda c: c["algorithm"] == "integer" or c["path"] == paths[-1],
            ),
            Constraint(
                "gated rows in panels", f"the gate's {problem.rows // 2} rows must fall into panels of `width`",
                lambda c: not problem.gate or problem.rows // 2 % c["width"] == 0,
            ),
        ),
    )  # fmt: skip
