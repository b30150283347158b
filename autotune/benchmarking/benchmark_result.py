"""The result of a model benchmark, the same for every backend; written as a JSON document and read back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from autotune.benchmarking.speedup import Speedup
from tuning_db import field_checks as f
from tuning_db.field_checks import Fields

SIDES = ("untuned", "tuned")
PREFILL = -1  # beside the depths of decoding
PROMPT, BATCH = "prompt", "batch"
What = int | tuple[str, int]
"""What was measured: decoding after a depth, PREFILL, a prompt of so many tokens, or so many texts decoded together."""


@dataclass(frozen=True)
class Decode:
    """Decoding after so many cached tokens. tok_s: median of the runs; bytes: that a token reads and writes at least;
    kernels: launched for a token, on a CPU the steps of its graph."""

    tok_s: float
    tok_s_range: tuple[float, float]
    bytes: int
    kernels: int

    @property
    def gb_s(self) -> float:
        return self.bytes * self.tok_s / 1e9


@dataclass(frozen=True)
class Rate:
    """Many tokens at once: tokens a second, of a prompt or of all texts together; the median of the runs and their
    range."""

    tok_s: float
    tok_s_range: tuple[float, float]


@dataclass(frozen=True)
class KernelTime:
    """A kernel's part of a token. us: all of its `count` launches, microseconds; bytes: that they read and write at
    least, None for next to none; rounds: `us` of each round, of which it is the median, in their order. The last row,
    TOKEN, is the whole token."""

    TOKEN = "token"

    kernel: str
    count: int
    us: float
    bytes: int | None
    rounds: tuple[float, ...] = ()

    @classmethod
    def of(cls, kernel: str, count: int, rounds: Sequence[float], nbytes: int | None) -> "KernelTime":
        return cls(kernel, count, median(rounds), nbytes, tuple(rounds))

    @property
    def us_each(self) -> float | None:
        return self.us / self.count if self.count else None

    @property
    def gb_s(self) -> float | None:
        return self.bytes / self.us / 1e3 if self.bytes and self.us else None


@dataclass(frozen=True)
class Side:
    """One of the two engines that are compared. decode: by depth, the cached tokens before; kernels: a token's;
    load_s: seconds that loading took; first_token_s: that and the first prompt, which is the prefill's; None if
    unknown. prompts: by tokens, beside the prefill's; batches: by texts that are decoded together."""

    prefill_tok_s: float
    decode: Mapping[int, Decode]
    kernels: tuple[KernelTime, ...]
    prefill_range: tuple[float, float] | None = None
    load_s: float | None = None
    first_token_s: float | None = None
    prompts: Mapping[int, Rate] = field(default_factory=dict)
    batches: Mapping[int, Rate] = field(default_factory=dict)

    @property
    def shallowest(self) -> Decode:
        return self.decode[min(self.decode)]

    def kernel(self, name: str) -> KernelTime | None:
        return next((row for row in self.kernels if row.kernel == name), None)


@dataclass(frozen=True)
class ModelBenchmark:
    """model: the file's name; read_gb_s: the best read bandwidth that was measured; sources: where the tuned engine's
    configurations come from, by problem; settings: how it was measured, "cache_bytes" being the device's last-level
    cache; speedups: of all that was measured; read_rounds: read bandwidth in the same rounds, GB/s, one of each turn of
    a side; empty if unknown."""

    model: str
    chip: str
    fingerprint: str
    read_gb_s: float
    untuned: Side
    tuned: Side
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    speedups: Mapping[What, Speedup] = field(default_factory=dict)
    read_rounds: tuple[float, ...] = ()

    def kernel_speedup(self, kernel: str) -> Speedup | None:
        """Of a kernel that both sides have and that was timed in rounds. Only a processor's alternate."""
        before, after = self.untuned.kernel(kernel), self.tuned.kernel(kernel)
        if before is None or after is None or not before.rounds or len(before.rounds) != len(after.rounds):
            return None
        if min(*before.rounds, *after.rounds) <= 0.0:
            return None
        untuned, tuned = ([1.0 / us for us in row.rounds] for row in (before, after))
        return Speedup.of(untuned, tuned, bool(self.settings.get("alternating")) and not self.captured_alone)

    @property
    def sides(self) -> Mapping[str, Side]:
        return {"untuned": self.untuned, "tuned": self.tuned}

    @property
    def captured_alone(self) -> bool:
        """Whether kernels were timed by themselves; if not, inside the token. Every GPU's are."""
        return bool(self.settings.get("captured_alone", True))

    def share(self, gb_s: float | None) -> float | None:
        """A rate as a share of the read bandwidth."""
        return None if gb_s is None else gb_s / self.read_gb_s

    def document(self) -> dict[str, Any]:
        """JSON-able; `parse` reads it."""
        return {
            "model": self.model,
            "device": {
                "chip": self.chip,
                "fingerprint": self.fingerprint,
                "read_gb_s": self.read_gb_s,
                "read_gb_s_rounds": list(self.read_rounds),
            },
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "sources": dict(self.sources),
            "speedups": {
                _name(what): {
                    "median": speedup.median,
                    "ratios": list(speedup.ratios),
                    "alternating": speedup.alternating,
                    "measurable": speedup.measurable,
                    "verdict": speedup.verdict,
                }
                for what, speedup in self.speedups.items()
            },
            **{name: self._side_document(side) for name, side in self.sides.items()},
            "operations": {
                name: [self._kernel_document(row) for row in side.kernels] for name, side in self.sides.items()
            },
        }

    def _side_document(self, side: Side) -> dict[str, Any]:
        decode = {
            str(depth): {
                "tok_s": row.tok_s, "tok_s_range": list(row.tok_s_range), "kernels_per_token": row.kernels,
                "bytes_per_token": row.bytes, "gb_s": row.gb_s, "share": self.share(row.gb_s),
            }
            for depth, row in side.decode.items()
        }  # fmt: skip
        spread = list(side.prefill_range) if side.prefill_range else None
        return {
            "load_s": side.load_s, "first_token_s": side.first_token_s,
            "prefill_tok_s": side.prefill_tok_s, "prefill_tok_s_range": spread, "decode": decode,
            "prompts": {str(tokens): _rate_document(rate) for tokens, rate in side.prompts.items()},
            "batches": {str(texts): _rate_document(rate) for texts, rate in side.batches.items()},
        }  # fmt: skip

    def _kernel_document(self, row: KernelTime) -> dict[str, Any]:
        return {
            "kernel": row.kernel, "count": row.count, "us": row.us, "us_each": row.us_each, "bytes": row.bytes,
            "gb_s": row.gb_s, "share": self.share(row.gb_s), "us_rounds": list(row.rounds),
        }  # fmt: skip


def _name(what: What) -> str:
    """As documents call it: "0" for a depth, "prefill", "prompt 16", "batch 8"."""
    if isinstance(what, tuple):
        return f"{what[0]} {what[1]}"
    return "prefill" if what == PREFILL else str(what)


def _rate_document(rate: Rate) -> dict[str, Any]:
    return {"tok_s": rate.tok_s, "tok_s_range": list(rate.tok_s_range)}


_RATE, _SIZE, _US = f.number(0, 1e12), f.number(0, 1e18), f.number(0, 1e15)
_SECONDS, _NAME = f.number(0, 1e9), f.text(1 << 12)


def parse(document: Any) -> ModelBenchmark:
    """A benchmark from its document, an older one's included. Raises ValueError for what is none."""
    made = Fields(document)
    device, operations = made.object("device"), made.object("operations")
    versions = made.take("versions", f.mapping_of(f.scalar), {})
    untuned, tuned = (_side(made.object(name), operations.objects(name)) for name in SIDES)
    return ModelBenchmark(
        made.take("model", _NAME), device.take("chip", _NAME), device.take("fingerprint", _NAME, ""),
        device.take("read_gb_s", f.number(1e-9, 1e9)), untuned, tuned,
        {name: str(version) for name, version in versions.items()},
        made.take("settings", f.mapping_of(f.document), {}),
        speedups={_what(name): _speedup(row) for name, row in made.object("speedups", {}).each().items()},
        read_rounds=tuple(device.take("read_gb_s_rounds", f.list_of(f.number(1e-9, 1e9)), [])),
    )  # fmt: skip


def _side(side: Fields, operations: list[Fields]) -> Side:
    decode = {_depth(depth): _decode(row) for depth, row in side.object("decode").each().items()}
    decode.pop(PREFILL, None)
    if not decode:
        raise ValueError(f"{side.where} has no decode rates")
    spread = side.take("prefill_tok_s_range", f.maybe(f.tuple_of(_RATE, _RATE)), None)
    load_s, first_token_s = (side.take(name, f.maybe(_SECONDS), None) for name in ("load_s", "first_token_s"))
    kernels = tuple(map(_kernel, operations))
    prompts, batches = ({_count(n): _rate(row) for n, row in side.object(name, {}).each().items()} for name in _WIDE)
    return Side(
        side.take("prefill_tok_s", _RATE), decode, kernels, spread and tuple(spread), load_s, first_token_s, prompts,
        batches,
    )  # fmt: skip


_WIDE = ("prompts", "batches")


def _rate(row: Fields) -> Rate:
    tok_s = row.take("tok_s", _RATE)
    low, high = row.take("tok_s_range", f.tuple_of(_RATE, _RATE), (tok_s, tok_s))
    return Rate(tok_s, (low, high))


def _count(name: str) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) < 10):
        raise ValueError(f"{f.shown(name)} is no number of tokens")
    return int(name)


def _what(name: str) -> What:
    kind, _, count = name.partition(" ")
    return (kind, _count(count)) if kind in (PROMPT, BATCH) else _depth(name)


def _depth(name: str) -> int:
    return PREFILL if name == "prefill" else _count(name)


def _speedup(row: Fields) -> Speedup:
    ratios = row.take("ratios", f.list_of(f.number(1e-9, 1e9)))
    if not ratios:
        raise ValueError(f"{row.where} has no rounds")
    return Speedup(tuple(ratios), row.take("alternating", f.flag))


def _decode(row: Fields) -> Decode:
    tok_s = row.take("tok_s", _RATE)
    low, high = row.take("tok_s_range", f.tuple_of(_RATE, _RATE), (tok_s, tok_s))
    size, kernels = row.take("bytes_per_token", _SIZE), row.take("kernels_per_token", _SIZE)
    return Decode(tok_s, (low, high), int(size), int(kernels))


def _kernel(row: Fields) -> KernelTime:
    count, size = row.take("count", _SIZE), row.take("bytes", f.maybe(_SIZE))
    rounds = tuple(row.take("us_rounds", f.list_of(_US), []))
    return KernelTime(
        row.take("kernel", _NAME), int(count), row.take("us", _US), None if size is None else int(size), rounds
    )
