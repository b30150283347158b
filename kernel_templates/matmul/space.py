"""How a product with many tokens can be built."""

from collections.abc import Mapping, Sequence
from typing import Any

from kernel_templates import formats
from kernel_templates.cuda.parameters import thin_tokens
from kernel_templates.device import Device
from kernel_templates.formats.layout import Blocks
from kernel_templates.matmul.problem import Matmul
from kernel_templates.space import Config, Constraint, Parameter, Space

WIDTHS = (16, 32, 64)
FEW, FEW_OF_SMALL_GROUPS = 32, 4
"""Tokens up to which decoding weights in registers is the default, and where groups of 16 weights have a scale."""
MOST_SUMS = 32
"""Registers of sums that a candidate may ask for: beyond what a processor has they are kept in memory."""


USUAL_GROUP = 32
"""Weights that share a scale in most formats, as many as activations do; of smaller groups more arithmetic is left."""
THIN_TOKENS = 32
"""Of the products that keep whole sums of few tokens in registers."""
LEAST_WIDE = 16
"""Tokens of the smallest tile of `wide`."""
SHARES = (1, 2, 3, 4, 6, 8)
MOST_WORDS = 200
"""Registers a thread that a candidate may need, as `_words` counts; there are 255."""
SMALL = 1 << 24
"""Weights of a matrix whose product with few tokens is bound by latency: all of them fit in registers."""
MOST_SHARES, SHARED_TOKENS = SHARES[-1], 2048
"""Programs that may share the columns of a block, and tokens times those programs: each leaves its sums in memory."""
BLOCKS = (16, 32, 64, 128, 256)
SHORT = 8
"""Groups of 128 columns of a row that a program of four warps asks for at once."""


def cuda(problem: Matmul, device: Device) -> Space:
    """Whole blocks of K in registers, or the library: which is faster depends on the tokens, the shape and the chip.

    Measured on an H200 (docs/log.md): few tokens are bound by reading W, which `thin` and `wide` read
    packed; from a few hundred tokens on the library's products win, although they read and write W expanded.
    """
    quantized, tokens = formats.get(problem.format).quantized, problem.tokens
    hopper = device.capability == "9.0"
    algorithms = ["library"]
    if quantized and tokens <= THIN_TOKENS:
        algorithms.append("thin")
    if quantized and hopper:
        algorithms.append("wide")
    default = _untuned(problem, algorithms, device)
    groups = -(-problem.cols // 128)
    blocks = tuple(b for b in BLOCKS if b <= max(LEAST_WIDE, 1 << (tokens - 1).bit_length()))
    return Space(
        (
            Parameter("algorithm", tuple(algorithms), default["algorithm"], "how it multiplies"),
            Parameter("tiles", (1, 2, 4), default["tiles"], "tiles of rows of a program, each below the other"),
            Parameter("warps", (1, 2, 4, 8, 16), default["warps"], "warps: side by side along columns, or down rows"),
            Parameter("ahead", (1, 2, 3, 4), default["ahead"], "steps whose weights are on their way at once"),
            Parameter(
                "ready", (0, 1), default["ready"],
                "whether all weights are decoded before the previous kernel is waited for: registers hold them so",
            ),
            Parameter("split", SHARES, default["split"], "programs that share the columns of a block"),
            Parameter("block", blocks, default["block"], "tokens of a program"),
            Parameter("stages", (2, 3, 4, 5), default["stages"], "steps whose activations are on their way at once"),
            Parameter(
                "parts", (1, 2), default["parts"],
                "products of a step of 128 columns: one goes on while the next step is decoded, of two the second",
                formerly=2,
            ),
        ),
        (
            Constraint(
                "the library decides", "the library has no parameters",
                lambda c: c["algorithm"] != "library" or all(c[name] == value for name, value in _FREE.items()),
            ),
            Constraint(
                "all tokens in one", "a thin program has all tokens, and no activations in shared memory",
                lambda c: c["algorithm"] != "thin" or all(c[n] == _FREE[n] for n in ("block", "stages", "parts")),
            ),
            Constraint(
                "a whole warp group", "wgmma takes 4 warps", lambda c: c["algorithm"] != "wide" or c["warps"] in (4, 8)
            ),
            Constraint(
                "all steps ahead", "only a thin program decodes early, and all that it has",
                lambda c: not c["ready"] or (c["algorithm"] == "thin" and _steps(problem, c) == c["ahead"]),
            ),
            Constraint(
                "sums in registers", "sums and weights on their way stay in registers, of which there are 65,536",
                lambda c: c["algorithm"] == "library" or _words(problem, c) <= min(MOST_WORDS, 2048 // c["warps"]),
            ),
            Constraint(
                "gate beside up", "with a gate every other tile belongs to the matrix below",
                lambda c: not problem.gate or c["algorithm"] == "library" or c["tiles"] % 2 == 0,
            ),
            Constraint(
                "columns for every share", f"there are {groups} groups of columns", lambda c: c["split"] <= groups
            ),
            Constraint(
                "shares in memory", f"at most {SHARED_TOKENS} tokens' sums of a row are left in memory",
                lambda c: c["split"] == 1 or c["split"] * max(LEAST_WIDE, tokens) <= SHARED_TOKENS,
            ),
        ),
    )  # fmt: skip


_FREE = {"tiles": 1, "warps": 4, "ahead": 1, "ready": 0, "split": 1, "block": LEAST_WIDE, "stages": 3, "parts": 2}
"""What parameters stand at where they say nothing."""


LIBRARY = Config(_FREE | {"algorithm": "library"})
"""Works for every format, and any columns."""


def _steps(problem: Matmul, config: Mapping[str, Any]) -> int:
    """Groups of 128 columns that a warp of a thin program takes one after the other."""
    groups = -(-problem.cols // 128)
    share = -(-groups // config["split"])
    return -(-share // config["warps"])


def _words(problem: Matmul, config: Mapping[str, Any]) -> int:
    """Registers a thread, about: sums, tokens, and weights on their way, 5 a row of 16 bytes of quants and their
    scale."""
    tiles, ahead = config["tiles"], config["ahead"]
    if config["algorithm"] == "wide":
        return 40 + tiles * (config["block"] // 2 + 10 * ahead)
    eights, loop = thin_tokens(problem.tokens) // 8, _steps(problem, config) > ahead
    x = 16 * eights * (2 if loop and eights == 1 else ahead if eights * ahead <= 4 else 1)
    weights = 32 * tiles * ahead if config["ready"] else 10 * tiles * (ahead + loop) + 16 * (1 + loop)
    return 4 * tiles * eights + x + weights


def _untuned(problem: Matmul, algorithms: Sequence[str], device: Device) -> dict[str, Any]:
    tokens, tiles = problem.tokens, 2 if problem.gate else 1
    groups = -(-problem.cols // 128)
    if "thin" in algorithms:
        for warps in (16, 8, 4):
            config: dict[str, Any] = _FREE | {"algorithm": "thin", "tiles": tiles, "warps": warps, "ready": 1}
            config["ahead"] = _steps(problem, config)
            # Latency is all: as many warps as have work, each with all its weights decoded, while the next kernel's
            # programs still find registers beside them.
            words, small = _words(problem, config), problem.rows * problem.cols <= SMALL
            beside = words <= MOST_WORDS and 32 * warps * words <= 48 << 10
            if small and beside and warps <= max(groups, 4) and config["ahead"] <= 4:
                return config
    if "thin" in algorithms and tokens <= 8:
        return _few_tokens(problem, device, groups)
    if "wide" in algorithms and tokens <= 128:
        block = min(max(LEAST_WIDE, 1 << (tokens - 1).bit_length()), 64)
        programs = -(-problem.rows // (64 * tiles)) * -(-tokens // block)
        # Two steps of weights on their way in each of two or three programs a multiprocessor; never one without any.
        shares = [s for s in SHARES if s == 1 or (s * programs <= 3 * device.units and 2 * s <= groups)]
        ahead = 2 if groups // shares[-1] > 1 else 1
        return _FREE | {
            "algorithm": "wide", "tiles": tiles, "block": block, "split": shares[-1], "ahead": ahead, "stages": 2
        }  # fmt: skip
    return _FREE | {"algorithm": "library"}


def _few_tokens(problem: Matmul, device: Device, groups: int) -> dict[str, Any]:
    """Of matrices too large to be in registers as a whole. Fastest of what was measured on an H200 at 2 to 8 tokens
    (docs/log.md): four tiles share a token's values where that leaves programs enough; of few columns all at once."""
    outputs, least = problem.outputs, 2 if problem.gate else 1
    small_groups = group_of(problem.format) < USUAL_GROUP
    enough = [t for t in (4, 2) if 16 * t // least * 2 * device.units <= outputs]
    tiles = enough[0] if enough and groups > SHORT else least
    # Of two steps with a scale for 16 weights each not all registers fit beside a gate.
    if small_groups and problem.gate:
        tiles = 2
    config = _FREE | {"algorithm": "thin", "tiles": tiles, "warps": 8 if tiles == 1 and groups > SHORT else 4}
    most = 1 if tiles == 4 or (small_groups and problem.gate) else 2
    return {**config, "ahead": min(most, _steps(problem, config))}


def group_of(format_name: str) -> int:
    """Weights that share a scale; of a format without subscales more than any has: its block is decoded as a whole."""
    layout = formats.get(format_name).layout
    return layout.group if isinstance(layout, Blocks) and layout.subscales is not None else 256


def cpu(problem: Matmul, features: frozenset[str]) -> Space:
    from kernel_templates.cpu import dot  # with Numba, which a GPU's engine does without
    from kernel_templates.cpu.micro import register_lanes

    quantized = formats.get(problem.format).quantized
    paths = dot.available(features) if quantized else ("generic",)
    whole = quantized and "vnni" in paths
    algorithms = ("integer", "float", "columns") if quantized else ("float",)
    lanes = register_lanes(paths[-1], features)
    few = quantized and problem.tokens <= (FEW_OF_SMALL_GROUPS if group_of(problem.format) < USUAL_GROUP else FEW)
    width, together = (2 * lanes, 6) if lanes > 8 else (16, 3)
    algorithm = "columns" if few else "integer" if whole else "float"
    if few:
        most = 8 if problem.tokens == 8 and group_of(problem.format) > USUAL_GROUP else 4
        together = problem.tokens if problem.tokens <= 2 else most
        width = max(16, lanes) if together > 4 else max(16, 2 * lanes if lanes > 8 else lanes)
    while problem.gate and width > WIDTHS[0] and problem.rows // 2 % width:
        width //= 2
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
