"""Rows of an exhaustive measurement: appended to a file as they are made, so that an interrupted one goes on."""

import json
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from autotune.screening.binary import Binary
from kernel_templates.space import Config


@dataclass(frozen=True)
class Row:
    """One configuration: what became of it, its time and what was compiled. Times in nanoseconds.

    rematch_ns: the median among the fastest, timed in turn; kernels: Binaries without their text.
    """

    config: Mapping[str, Any]
    outcome: str
    q10_ns: float | None = None
    median_ns: float | None = None
    q90_ns: float | None = None
    samples: int | None = None
    error: float | None = None
    compile_s: float | None = None
    message: str | None = None
    kernels: tuple[Mapping[str, Any], ...] = ()
    rematch_ns: float | None = None

    @property
    def ns(self) -> float | None:
        """The best that is known of its time."""
        return self.rematch_ns or self.median_ns


class Recording:
    """Rows of one space in NAME.jsonl; in NAME.N.xz, for the Nth time it was opened, the new kernels' machine code."""

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._name = folder / f"{name}.jsonl", name
        self.rows: dict[Config, Row] = {}
        for line in self._whole().splitlines():
            self._take(json.loads(line))
        self._known = {kernel["digest"] for row in self.rows.values() for kernel in row.kernels}

    def _whole(self) -> str:
        """The file without the line that a killed run did not finish."""
        text = self.path.read_text() if self.path.exists() else ""
        return text[: text.rfind("\n") + 1]

    def __enter__(self) -> Self:
        self.path.write_text(self._whole())
        self._file = self.path.open("a")
        number = len(list(self.path.parent.glob(f"{self._name}.*.xz")))
        self._code = lzma.open(self.path.with_name(f"{self._name}.{number}.xz"), "wb", preset=1)
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._code.close()

    def add(self, row: Row, binaries: tuple[Binary, ...] = ()) -> None:
        for binary in binaries:
            if binary.digest not in self._known:
                self._known.add(binary.digest)
                self._code.write(f"{binary.digest} {len(binary.text)}\n".encode() + binary.text)
        self._write({"row": asdict(replace(row, kernels=tuple(describe(b) for b in binaries)))})

    def rematched(self, config: Config, nanoseconds: float) -> None:
        self._write({"rematch": dict(config), "ns": nanoseconds})

    def _write(self, entry: dict[str, Any]) -> None:
        self._take(entry)
        self._file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        self._file.flush()

    def _take(self, entry: dict[str, Any]) -> None:
        if "row" in entry:
            row = Row(**{**entry["row"], "kernels": tuple(entry["row"]["kernels"])})
            self.rows[Config(row.config)] = row
        else:
            config = Config(entry["rematch"])
            self.rows[config] = replace(self.rows[config], rematch_ns=entry["ns"])


def describe(binary: Binary) -> dict[str, Any]:
    """A Binary without its machine code."""
    about = {name: value for name, value in asdict(binary).items() if name != "text"}
    return {**about, "scalars": list(binary.scalars), "code_bytes": len(binary.text), "digest": binary.digest}


def texts(path: Path) -> Iterator[tuple[str, bytes]]:
    """(digest, machine code) of one of the .xz files, up to where a killed run left it."""
    data = bytearray()
    try:
        with lzma.open(path) as file:
            while piece := file.read(1 << 20):
                data += piece
    except EOFError:
        pass
    at = 0
    while (end := data.find(b"\n", at)) > 0:
        digest, size = bytes(data[at:end]).split()
        at = end + 1 + int(size)
        yield digest.decode(), bytes(data[end + 1 : at])
