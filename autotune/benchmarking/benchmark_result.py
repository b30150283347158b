"""The result of a model benchmark, the same for every backend; written as a JSON document and read back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.benchmarking.speedup import Speedup

SIDES = ("untuned", "tuned")
PREFILL = -1  # beside the depths of decoding


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
class KernelTime:
    """A kernel's part of a token. us: all of its `count` launches, microseconds; bytes: that they read and write at
    least, None for next to none. The last row, TOKEN, is the whole token."""

    TOKEN = "token"

    kernel: str
    count: int
    us: float
    bytes: int | None

    @property
    def us_each(self) -> float | None:
        return self.us / self.count if self.count else None

    @property
    def gb_s(self) -> float | None:
        return self.bytes / self.us / 1e3 if self.bytes and self.us else None


@dataclass(frozen=True)
class Side:
    """One of the two engines that are compared. decode: by depth, the cached tokens before; kernels: a token's."""

    prefill_tok_s: float
    decode: Mapping[int, Decode]
    kernels: tuple[KernelTime, ...]
    prefill_range: tuple[float, float] | None = None

    @property
    def shallowest(self) -> Decode:
        return self.decode[min(self.decode)]

    def kernel(self, name: str) -> KernelTime | None:
        return next((row for row in self.kernels if row.kernel == name), None)


@dataclass(frozen=True)
class ModelBenchmark:
    """model: the file's name; read_gb_s: the best read bandwidth that was measured; sources: where the tuned engine's
    configurations come from, by problem; settings: how it was measured, "cache_bytes" being the device's last-level
    cache; speedups: by depth, and PREFILL."""

    model: str
    chip: str
    fingerprint: str
    read_gb_s: float
    untuned: Side
    tuned: Side
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    speedups: Mapping[int, Speedup] = field(default_factory=dict)

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
            "device": {"chip": self.chip, "fingerprint": self.fingerprint, "read_gb_s": self.read_gb_s},
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "sources": dict(self.sources),
            "speedups": {
                "prefill" if depth == PREFILL else str(depth): {
                    "median": speedup.median,
                    "ratios": list(speedup.ratios),
                    "alternating": speedup.alternating,
                    "verdict": speedup.verdict,
                }
                for depth, speedup in self.speedups.items()
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
        return {"prefill_tok_s": side.prefill_tok_s, "prefill_tok_s_range": spread, "decode": decode}

    def _kernel_document(self, row: KernelTime) -> dict[str, Any]:
        return {
            "kernel": row.kernel, "count": row.count, "us": row.us, "us_each": row.us_each, "bytes": row.bytes,
            "gb_s": row.gb_s, "share": self.share(row.gb_s),
        }  # fmt: skip


def parse(document: Any) -> ModelBenchmark:
    """A benchmark from its document, an older one's included. Raises ValueError for what is none."""
    try:
        device, settings, versions = document["device"], document.get("settings", {}), document.get("versions", {})
        sides = {name: _side(document[name], document["operations"][name]) for name in SIDES}
        if not isinstance(settings, dict) or not isinstance(versions, dict):
            raise TypeError("settings and versions are objects")
        if not _number(device["read_gb_s"]):
            raise TypeError("the read bandwidth is 0")
        return ModelBenchmark(
            _text(document["model"]), _text(device["chip"]), str(device.get("fingerprint", "")),
            _number(device["read_gb_s"]), sides["untuned"], sides["tuned"],
            {str(name): str(version) for name, version in versions.items()}, settings,
            speedups={_depth(depth): _speedup(row) for depth, row in document.get("speedups", {}).items()},
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it has no {error}" if isinstance(error, KeyError) else str(error)) from None


def _side(side: Any, operations: Any) -> Side:
    decode = {int(depth): _decode(row) for depth, row in side["decode"].items()}
    if not decode:
        raise ValueError("it has no decode rates")
    low_high = side.get("prefill_tok_s_range")
    spread = None if low_high is None else (_number(low_high[0]), _number(low_high[1]))
    return Side(_number(side["prefill_tok_s"]), decode, tuple(_kernel(row) for row in operations), spread)


def _depth(name: str) -> int:
    return PREFILL if name == "prefill" else int(name)


def _speedup(row: Any) -> Speedup:
    ratios = tuple(_number(ratio) for ratio in row["ratios"])
    if not ratios:
        raise ValueError("a speed-up has no rounds")
    return Speedup(ratios, bool(row["alternating"]))


def _decode(row: Any) -> Decode:
    tok_s = _number(row["tok_s"])
    low, high = row.get("tok_s_range", (tok_s, tok_s))
    size, kernels = _number(row["bytes_per_token"]), _number(row["kernels_per_token"])
    return Decode(tok_s, (_number(low), _number(high)), int(size), int(kernels))


def _kernel(row: Any) -> KernelTime:
    size = None if row["bytes"] is None else int(_number(row["bytes"]))
    return KernelTime(_text(row["kernel"]), int(_number(row["count"])), _number(row["us"]), size)


def _number(value: Any) -> float:
    """Finite and not negative. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise TypeError(f"{value!r:.40} is no number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value
