"""A sampler run on a space that was measured before: no GPU, and every sampler sees the same times."""

import csv
import gzip
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from autotune import UserError
from autotune.samplers.study import Search
from kernel_templates.space import Config, Constraint, Parameter, Space, Value

TIME = "time_ms"
LARGEST = 1 << 27  # bytes of text; a space of a million configurations has less


@dataclass(frozen=True)
class Recorded:
    """configs: the valid ones, in the file's order; seconds: of each, None where it failed."""

    name: str
    configs: tuple[Config, ...]
    seconds: tuple[float | None, ...]

    @property
    def space(self) -> Space:
        """Its parameters with the values that occur, in order; what was not recorded is not valid."""
        known = frozenset(self.configs)
        parameters = tuple(
            Parameter(name, _in_order({config[name] for config in self.configs}), self.configs[0][name], "recorded")
            for name in self.configs[0]
        )
        return Space(
            parameters,
            (Constraint("recorded", "only what was measured can be replayed", lambda c: Config(c) in known),),
        )


@dataclass(frozen=True)
class Replayed:
    """rows: numbers of the configurations in the order they were evaluated; seconds: the sampler took in all."""

    seed: int
    rows: tuple[int, ...]
    seconds: float


def read(path: Path) -> Recorded:
    """A recorded space: CSV, perhaps gzipped, a line per configuration, the parameters and then "time_ms", which is
    empty where it failed. Raises UserError."""
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(LARGEST + 1)
        text = data.decode() if len(data) <= LARGEST else None
    except (EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path} is no CSV file, or a damaged one") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if text is None:
        raise UserError(f"{path} has more than {LARGEST:,} bytes of text; give a part of the space")
    lines = list(csv.reader(text.splitlines()))
    if not lines or len(lines[0]) < 2 or lines[0][-1] != TIME or len(set(lines[0])) < len(lines[0]):
        raise UserError(f"{path} has no header of different parameters and, last, {TIME}; see autotune replay --help")
    configs, seconds = [], []
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(lines[0]):
            raise UserError(f"{path}, line {number}: {len(line)} columns instead of {len(lines[0])}")
        configs.append(Config({name: _value(word) for name, word in zip(lines[0][:-1], line, strict=False)}))
        seconds.append(_seconds(line[-1], f"{path}, line {number}"))
    if len(set(configs)) < len(configs):
        raise UserError(f"{path} has the same configuration twice")
    if not any(second is not None for second in seconds):
        raise UserError(f"{path} has no configuration that worked")
    return Recorded(path.name, tuple(configs), tuple(seconds))


def replay(recorded: Recorded, sampler: str, trials: int, seed: int) -> Replayed:
    """Up to `trials` evaluations; fewer if the space has fewer configurations."""
    row_of = {config: row for row, config in enumerate(recorded.configs)}
    rows: list[int] = []
    begun = time.perf_counter()
    search = Search(recorded.space, sampler, seed, configs=recorded.configs)
    while len(rows) < trials and (config := search.ask()) is not None:
        rows.append(row_of[config])
        search.tell(config, recorded.seconds[rows[-1]])
    return Replayed(seed, tuple(rows), time.perf_counter() - begun)


def _value(word: str) -> Value:
    for kind in (int, float):
        try:
            return kind(word)  # type: ignore[return-value]
        except ValueError:
            continue
    return word


def _seconds(word: str, where: str) -> float | None:
    if not word:
        return None
    try:
        seconds = float(word) * 1e-3
    except ValueError:
        seconds = -1.0
    if not 0.0 < seconds < float("inf"):
        raise UserError(f"{where}: {word[:20]!r} is no time in milliseconds")
    return seconds


def _in_order(values: set) -> tuple[Value, ...]:
    return tuple(sorted(values, key=lambda value: (isinstance(value, str), value)))
