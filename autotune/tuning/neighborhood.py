"""The incumbent of a layer, what comparisons with it tell of the layer's kernels, and what may be tried next."""

import itertools
import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autotune.samplers.gp_search import GPSearch
from autotune.samplers.study import LISTED, neighbours
from kernel_templates.space import Config, Parameter, Space

DRAWS = 12  # of a kernel at a time
MIXTURES = 24  # of kernels taken together: nothing has to be compiled for them
GOOD_FEW = 5  # of a kernel in context, from which mixtures are drawn
MOST_TOGETHER = 64  # ways of setting a switch in all kernels
KEPT = 4  # the last incumbents, which meet again in the final comparison
CACHED_S = 0.1  # what took less to compile was in the cache


@dataclass(frozen=True)
class Move:
    """Other values of some parameters, whatever the rest of the layer is by then."""

    changes: Config


@dataclass(frozen=True)
class _Listed:
    """A kernel's valid blocks, the search over them, and which of them it has been told of."""

    blocks: list[Config]
    rows: dict[Config, int]
    search: GPSearch
    told: set[Config]


class Neighborhood:
    """kernels: those of the space, in its order; "" has the parameters that belong to none. A block is a kernel's part
    of a configuration."""

    def __init__(self, space: Space, parts: Mapping[str, Space], seed: int):
        """parts: of a layer's operations, each one's own space."""
        self.space, self._parts, self._seed, self._random = space, parts, seed, random.Random(seed)
        self._listed: dict[str, _Listed | None] = {}
        self._own: dict[str, list[Parameter]] = {}
        for p in space.parameters:
            self._own.setdefault(p.owner, []).append(p)
        self.kernels = tuple(self._own)
        self._owner = {p.name: p.owner for p in space.parameters}

    def kernels_of(self, parts: Collection[str]) -> list[str]:
        """The kernels of some of a layer's parts."""
        return [kernel for kernel, own in self._own.items() if own[0].part in parts]

    def touched(self, names: Iterable[str]) -> set[str]:
        """The kernels whose parameters have these names."""
        return {self._owner[name] for name in names}

    def block(self, kernel: str, config: Mapping) -> Config:
        """That kernel's part of a configuration."""
        return Config({p.name: config[p.name] for p in self._own[kernel]})

    def changed(self, one: Config, other: Config) -> list[str]:
        """The kernels in which two configurations differ."""
        return [k for k in self.kernels if any(one[p.name] != other[p.name] for p in self._own[k])]

    def steps(self, best: Config, kernels: Collection[str]) -> Iterator[Move]:
        """Single parameters, by one place in their lists."""
        for config in neighbours(self.space, best):
            name = next(name for name in config if config[name] != best[name])
            if self._owner[name] in kernels:
                yield Move(Config({name: config[name]}))

    def switches(self, kernels: Sequence[str]) -> list[Move]:
        """A parameter that is 0 or 1 and that several kernels have, set in all of them in every way: when the next
        kernel may start, say, is a matter between them all."""
        owners: dict[str, list[Parameter]] = {}
        for kernel in kernels:
            for p in self._own[kernel]:
                if p.values == (0, 1):
                    owners.setdefault(p.base_name, []).append(p)
        moves = []
        for shared in owners.values():
            if len(shared) > 1:
                ways = list(itertools.product(*(p.values for p in shared)))
                some = ways if len(ways) <= MOST_TOGETHER else self._random.sample(ways, MOST_TOGETHER)
                moves += [Move(Config({p.name: v for p, v in zip(shared, way, strict=True)})) for way in some]
        return moves

    def promising(self, best: Config, kernel: str, times: Mapping[Config, float], count: int) -> list[Move]:
        """What a model of the kernel's times in context expects most of. times: of its blocks, inf if it failed."""
        if kernel not in self._listed:
            self._listed[kernel] = self._list(kernel, best)
        listed = self._listed[kernel]
        if listed is None:
            return self.draws(best, kernel, count)
        for block, time in times.items():
            if block in listed.rows and block not in listed.told:
                listed.told.add(block)
                listed.search.tell(listed.rows[block], time if math.isfinite(time) else None)
        rows = [row for _ in range(count) if (row := listed.search.ask()) is not None]
        return [Move(listed.blocks[row]) for row in rows]

    def _list(self, kernel: str, best: Config) -> _Listed | None:
        """Every block that is valid in its part; None if they are too many, or belong to none."""
        own = self._own[kernel]
        part = own[0].part
        if not part or math.prod(len(p.values) for p in own) > LISTED:
            return None
        config = {**self._parts[part].default}
        config |= {p.name_in_part: best[p.name] for p in self.space.parameters if p.part == part}
        names, blocks = [p.name for p in own], []
        for values in itertools.product(*(p.values for p in own)):
            config |= {p.name_in_part: value for p, value in zip(own, values, strict=True)}
            if all(constraint.holds(config) for constraint in self._parts[part].constraints):
                blocks.append(Config(dict(zip(names, values, strict=True))))
        columns = [[block[name] for block in blocks] for name in names]
        rows = {block: row for row, block in enumerate(blocks)}
        return _Listed(blocks, rows, GPSearch(columns, self._seed, first=0), set()) if blocks else None

    def draws(self, best: Config, kernel: str, count: int) -> list[Move]:
        """Two to four parameters at once, mostly by a place or two in their lists. Few of them are valid; those are
        given."""
        own, found = self._own[kernel], []
        for _ in range(20 * count if len(own) > 1 else 0):
            changes = {
                p.name: self._moved(p, best)
                for p in self._random.sample(own, self._random.randint(2, min(4, len(own))))
            }
            if self.space.broken(Config({**best, **changes})) is None:
                found.append(Move(Config(changes)))
                if len(found) == count:
                    break
        return found

    def mixtures(self, times: Mapping[str, Mapping[Config, float]], kernels: Sequence[str]) -> list[Move]:
        """Two or three kernels, each as in one of its best: kernels overlap, so what two changes bring is not the sum
        of what each does. Those come first whose changes brought most alone. times: of each kernel's blocks that were
        tried in context, as shares of one time."""
        works = {k: [block for block, time in times[k].items() if math.isfinite(time)] for k in kernels}
        good = {k: sorted(works[k], key=times[k].__getitem__)[:GOOD_FEW] for k in kernels if works[k]}
        moves = []
        for _ in range(MIXTURES if len(good) > 1 else 0):
            chosen = self._random.sample(list(good), self._random.randint(2, min(3, len(good))))
            blocks = {k: self._random.choice(good[k]) for k in chosen}
            changes = Config({name: value for block in blocks.values() for name, value in block.items()})
            moves.append((math.prod(times[k][block] for k, block in blocks.items()), Move(changes)))
        return [move for _, move in sorted(moves, key=lambda pair: pair[0])]

    def _moved(self, p: Parameter, best: Config):
        if self._random.random() < 0.2:
            return self._random.choice(p.values)
        at = p.values.index(best[p.name]) + self._random.choice((-2, -1, -1, 1, 1, 2))
        return p.values[min(max(at, 0), len(p.values) - 1)]


class Incumbent:
    """The best configuration so far; a candidate replaces it after a paired comparison.

    times: of each kernel's blocks that were tried in context, what the layer took with it as a share of the first
    incumbent's time, infinite for a failure. A block is a kernel's part of a configuration.
    """

    def __init__(self, neighborhood: Neighborhood):
        self._neighborhood = neighborhood
        self.config: Config | None = None
        self.median_ns = math.inf
        self.last: list[Config] = []
        self.times: dict[str, dict[Config, float]] = {kernel: {} for kernel in neighborhood.kernels}
        self._errors: dict[str, dict[Config, float]] = {kernel: {} for kernel in neighborhood.kernels}
        self._level = 1.0  # the incumbent's time as a share of the first one's
        self._compiling: dict[str, tuple[float, int]] = {}  # seconds and configurations, by kernel

    def replace(self, config: Config, median_ns: float, ratio: float = 1.0) -> None:
        """ratio: of its time to the incumbent's until now."""
        self._level *= ratio
        self.config, self.median_ns = config, median_ns
        self.last = [*self.last, config][-KEPT:]
        for kernel, times in self.times.items():
            block = self._neighborhood.block(kernel, config)
            times[block] = min(times.get(block, math.inf), self._level)

    def verified(self, config: Config, error: float | None) -> None:
        """Note that a configuration's outputs were right."""
        for kernel, errors in self._errors.items():
            errors.setdefault(self._neighborhood.block(kernel, config), error or 0.0)

    def is_verified(self, config: Config) -> bool:
        """Whether each of its kernels was verified as part of some configuration."""
        return all(self._neighborhood.block(kernel, config) in errors for kernel, errors in self._errors.items())

    def error(self, config: Config) -> float:
        """The largest relative error that its kernels were verified with."""
        return max(errors.get(self._neighborhood.block(kernel, config), 0.0) for kernel, errors in self._errors.items())

    def compared(self, changed: Sequence[str], config: Config, ratio: float, compile_s: float | None) -> None:
        """Learn from a change of one kernel. ratio: to the incumbent's time, infinite for a failure."""
        if len(changed) != 1:
            return
        (kernel,) = changed
        self.times[kernel][self._neighborhood.block(kernel, config)] = ratio * self._level
        if compile_s is not None and compile_s > CACHED_S:
            seconds, count = self._compiling.get(kernel, (0.0, 0))
            self._compiling[kernel] = (seconds + compile_s, count + 1)

    @property
    def mean_compile_s(self) -> dict[str, float]:
        """By kernel, of those that had to be compiled."""
        return {kernel: seconds / count for kernel, (seconds, count) in self._compiling.items()}
