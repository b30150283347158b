"""What can be chosen about a product kernel (`product`), as parameters of an operation's space; no Triton needed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kernel_templates import formats
from kernel_templates.cuda.traits import of_format
from kernel_templates.space import Constraint, Parameter, Space

ROW_WORDS = {2: 80, 4: 112, 8: 80}  # of all rows of a thread, untuned, by how many they are
AHEAD_WORDS = 60  # of the tiles that a thread has asked for, untuned: more take registers of another program
MANY_WORDS = 96  # of one tile of each matrix, eight rows a thread
BUSY = 128  # programs that keep a large GPU's multiprocessors busy
AHEAD = (1, 2, 3, 4, 6, 8)  # tiles
MANY_ROWS = 64 * BUSY  # eight a program, so many programs that one begins wherever another ends
HIDDEN_WEIGHTS = 1 << 24  # of smaller matrices, most programs stand waiting for the previous kernel with their weights
KEPT = (4, 2)  # chunks of the vector that a thread keeps; of a large matrix they would take the place of programs
CACHED_WEIGHTS = 1 << 24  # larger matrices are gone from the second-level cache before the next token
MOST_TILES = 64  # a row's loop is unrolled: what a row needs at least in the largest models
UNROLLED = 12  # tiles beyond this must be because the row is long: compiling takes a second for every ten
MOST_WORDS = 128  # of 32 bits a thread may hold for tiles in flight; it has 255 registers


def thin_tokens(tokens: int) -> int:
    """What a program of `thin` takes tokens for: a power of two, at least the 8 that a tensor core takes."""
    return max(8, 1 << (tokens - 1).bit_length())


def units(cols: int, name: str) -> int:
    """16-byte units of quants in a row."""
    return cols // of_format(name).unit


def parameters(
    prefix: str,
    matrices: Sequence[tuple[str, int]],
    quantizes: bool,
    together: int = 1,
    rows: int = 1024,
    hidden: bool = True,
) -> tuple[tuple[Parameter, ...], tuple[Constraint, ...]]:
    """For a kernel that multiplies `matrices` (format, columns), `together` of them side by side; one that `quantizes`
    its output needs whole groups of 8 rows. rows: of each matrix; hidden: False if no weight is known before the
    wait."""
    most = max(units(cols, name) for name, cols in matrices)
    fewest = min(units(cols, name) for name, cols in matrices)
    default_units = 32
    while default_units > 8 and default_units >= 2 * fewest:
        default_units //= 2
    first = of_format(matrices[0][0])  # Q has most of the rows that it shares with K and V
    codebook = first.codebook is not None and len({name for name, _ in matrices}) == 1
    weights = rows * max(cols for _, cols in matrices)
    shown = weights >= HIDDEN_WEIGHTS or not hidden
    # Reading a run of the vector takes as long as four rows of its quants. Rows of large matrices share it: eight a
    # thread where they are many and a tile of 128 units is a row; where rows are long four, in wider tiles, of which
    # two must fit. (Of codebooks and floats, which were not measured, what was best before vectors had lines.)
    unit = min(of_format(name).unit for name, _ in matrices)
    quants = unit >= 16 and not codebook
    many = quants and unit == 32 and rows >= MANY_ROWS and most == fewest == 128
    many = many and 8 * together * first.tile_words <= MANY_WORDS
    shared = many or (quants and weights >= HIDDEN_WEIGHTS and 2 * 4 * first.tile_words <= AHEAD_WORDS)
    few, widest = (8, 64) if shared else (max(8, unit // 2), 128)  # tiles of a row, until a tile has so many units
    if many:
        default_units = most
    while default_units < 256 and (
        -(-most // default_units) > (few if default_units < widest else MOST_TILES // together)
    ):
        default_units *= 2
    # Untuned, as an H200 likes it: as many rows a program as leave a program for every multiprocessor, up to 8 of
    # them a thread unless a row's tiles are many words. Three tiles in flight; of a large matrix with few tiles a row
    # two (of two matrices two each), which leaves registers for another program, unless a codebook keeps it computing.
    # Where a multiprocessor has one program, which stands waiting, all of its tiles, if they are few words.
    warps = max(4, default_units // 32) if shared else min(max(4, default_units // 8), 16)
    groups = 32 * warps // default_units
    default_each = max(1, 8 // groups) if quantizes else 1
    words = together * -(-most // default_units) * first.tile_words
    while default_each < 8 and (
        many or (2 * default_each * groups * BUSY <= rows and 2 * default_each * words <= ROW_WORDS[2 * default_each])
    ):
        default_each *= 2
    default_ready, default_stream = int(weights < HIDDEN_WEIGHTS), int(weights >= CACHED_WEIGHTS)
    tiles_a_row = -(-fewest // default_units)
    two = shown and (together > 1 or (tiles_a_row <= 4 and not codebook))
    two = two or (default_ready == 1 and warps == 16)  # whose threads have 128 registers, also for unpacked tiles
    default_ahead = together if many else min(2 * together if two else 3, together * tiles_a_row)
    held = AHEAD_WORDS // (default_each * first.tile_words)  # tiles
    alone = quants and not shown and rows <= BUSY * default_each * groups
    if shared and default_units > 32 and not many:
        default_ahead = min(default_ahead, held)
    elif alone and together * tiles_a_row in AHEAD and together * tiles_a_row <= held:
        default_ahead = together * tiles_a_row

    def get(c: Mapping[str, Any], name: str) -> int:
        return c[prefix + name]

    def tiles(c: Mapping[str, Any], count: int) -> int:
        return get(c, "steps") * -(-count // get(c, "units"))

    def together_rows(c: Mapping[str, Any]) -> int:
        return get(c, "each") * 32 * get(c, "warps") // get(c, "units")

    parameters: tuple[Parameter, ...] = (
        Parameter(prefix + "warps", (1, 2, 4, 8, 16), warps, "warps of a program"),
        Parameter(
            prefix + "units", (8, 16, 32, 64, 128, 256), default_units,
            "16-byte units of a row that a tile holds: 32 keep a row in one warp, more split it over several",
        ),
        Parameter(
            prefix + "each", (1, 2, 4, 8), default_each,
            "rows a thread holds: few are soon done, many share the vector's loads",
        ),
        Parameter(prefix + "steps", (1, 2, 4, 8), 1, "groups of rows that a program takes one after the other"),
        Parameter(
            prefix + "ahead", AHEAD, default_ahead,
            "tiles asked for before the previous kernel is waited for",
        ),
        Parameter(prefix + "stream", (0, 1), default_stream, "whether weights may leave the cache first"),
        Parameter(
            prefix + "early", (0, 1), 1,
            "whether the next kernel may start at once, its weights loaded long before, or when this one has read its "
            "vector",
        ),
        Parameter(
            prefix + "ready", (0, 1), default_ready,
            "whether the tiles ahead are unpacked before the previous kernel is waited for: less to do afterwards, but "
            "a program that need not wait waits for its weights before it asks for the vector",
        ),
    )  # fmt: skip
    if any(formats.get(name).quantized for name, _ in matrices):
        meaning = "quantized vector of the producer, or its values, quantized by each consumer"
        parameters += (Parameter(prefix + "source", ("planes", "values"), "planes", meaning),)
    constraints: tuple[Constraint, ...] = (
        Constraint(
            "a group a program", "a tile holds 32 units for each warp: fewer warps leave it no row",
            lambda c: get(c, "units") <= 32 * get(c, "warps"),
        ),
        Constraint(
            "busy lanes", "most of a tile wider than the row would multiply zeros",
            lambda c: get(c, "units") <= 8 or get(c, "units") < 2 * fewest,
        ),
        Constraint(
            "few tiles", f"tiles are unrolled: {UNROLLED} a program, up to {MOST_TILES} in a long row",
            lambda c: together * tiles(c, most) <= (
                max(UNROLLED, together * -(-most // default_units)) if get(c, "steps") == 1 else UNROLLED
            ),
        ),
        Constraint(
            "ahead of what is there", "no more tiles than a program has can be in flight",
            lambda c: get(c, "ahead") <= together * tiles(c, fewest),
        ),
        Constraint(
            "registers", f"tiles in flight, {MOST_WORDS} words a thread at most, stay in registers",
            lambda c: get(c, "each") * 4 * (get(c, "ahead") + (tiles(c, most) > get(c, "ahead"))) <= MOST_WORDS,
        ),
    )  # fmt: skip
    constraints += (
        Constraint(
            "quantized once", "each of a large matrix's many programs would quantize the whole vector again",
            lambda c: c.get(prefix + "source", "planes") == "planes" or weights < HIDDEN_WEIGHTS,
        ),
    )  # fmt: skip
    if quantizes:
        reason = "the output is quantized by groups of 8 rows, which a program must have whole"
        constraints += (Constraint("whole groups", reason, lambda c: together_rows(c) % 8 == 0),)
    return tuple(replace(p, kernel=prefix.rstrip("_")) for p in parameters), constraints


def product_space(matrices: Sequence[tuple[str, int]], quantizes: bool, rows: int = 1024) -> Space:
    return Space(*parameters("", matrices, quantizes, rows=rows))


def constants(
    config: Mapping[str, Any], prefix: str, name: str, cols: int, rows: int, activation: str
) -> dict[str, Any]:
    """The kernels' constexprs from a configuration."""
    c = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
    groups = max(1, 32 * c["warps"] // c["units"])
    chunks = -(-units(cols, name) // c["units"])
    return {
        "TRAITS": of_format(name), "ACT": bits(activation), "COLS": cols, "SOURCE": c.get("source", "planes"),
        "EACH": c["each"], "GROUPS": groups, "UNITS": c["units"], "CHUNKS": chunks, "STEPS": c["steps"],
        "KEPT": KEPT[rows * cols >= HIDDEN_WEIGHTS], "AHEAD": min(c["ahead"], chunks * c["steps"]),
        "EVEN": rows % (c["each"] * groups * c["steps"]) == 0,
        "STREAM": bool(c["stream"]), "EARLY": bool(c["early"]), "READY": bool(c["ready"]),
    }  # fmt: skip


def programs(constants: Mapping[str, Any], rows: int) -> int:
    """How many programs a product over `rows` rows has."""
    return -(-rows // (constants["EACH"] * constants["GROUPS"] * constants["STEPS"]))


def bits(activation: str) -> int:
    """16 or 8."""
    return {"int16": 16, "int8": 8}[activation]
