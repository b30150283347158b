"""Converts units of NVIDIA's profilers to base units, and parses numbers as their tables print them.

The tools scale what they print ("Mbyte", "usecond", "Ghz"), and versions spell units differently. Here every time is
in ns, every size in byte, every rate a second. Prefixes are decimal, as the tools use them.
"""

import functools

_PREFIXES = {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SCALED = ("byte", "hz", "Hz", "bit", "flop", "inst", "cycle", "sector", "warp", "thread", "block", "request")
_NANOSECONDS = {
    "ns": 1.0, "nsecond": 1.0, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6, "s": 1e9, "second": 1e9,
    "sec": 1e9, "nsec": 1.0, "usec": 1e3, "msec": 1e6,
}  # fmt: skip
# As Nsight Systems writes sizes.
_BYTES = {
    "B": 1.0, "bytes": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2.0**10, "MiB": 2.0**20,
    "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip


@functools.cache
def base(unit: str) -> tuple[str, float]:
    """The base unit, and by how much a value in `unit` is multiplied to be in it."""
    over, slash, under = unit.strip().partition("/")
    name, factor = _numerator(over)
    if not slash:
        return name, factor
    if under in _NANOSECONDS:
        seconds = _NANOSECONDS[under] / 1e9
        # A cycle a second is a hertz.
        return ("hz" if name == "cycle" else f"{name}/s"), factor / seconds
    # The tool puts a value's prefix at the bytes, also below the line: 1.39 %/Kbyte are 1390 %/byte.
    below, scale = _numerator(under)
    return f"{name}/{below}", factor * scale


def _numerator(text: str) -> tuple[str, float]:
    if text in _NANOSECONDS:
        return "ns", _NANOSECONDS[text]
    if text in _BYTES:
        return "byte", _BYTES[text]
    for name in _SCALED:
        prefix = text[: -len(name)]
        if text.endswith(name) and prefix in _PREFIXES:
            return name.lower(), _PREFIXES[prefix]
    return text, 1.0


def number(text: str) -> float | None:
    """A number as the tables print it, thousands in commas; None for what is no number, infinity and NaN included."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
