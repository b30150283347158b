"""The configurations a template can be built in: typed parameters and named constraints, owned by no search."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

Value = int | str | bool


class Config(Mapping[str, Value]):
    """One choice for every parameter: immutable, hashable, equal whatever the order it was written in."""

    __slots__ = ("_items", "_values")

    def __init__(self, values: Mapping[str, Value]):
        self._values = dict(values)
        self._items = tuple(sorted(self._values.items()))

    def __getitem__(self, name: str) -> Any:  # a template knows the types of its own parameters
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Config):
            return self._items == other._items
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return f"Config({self.key})"

    @property
    def key(self) -> str:
        """Canonical JSON, names sorted."""
        return json.dumps(dict(self._items), separators=(",", ":"))


@dataclass(frozen=True)
class Parameter:
    """A name, the values to try in a meaningful order, the default, and one line on what it changes.

    kernel: the one of its operation that it shapes, "" where there is one kernel, or for a choice that belongs to none;
    part: in the space of several operations, the one that it belongs to. The name begins with them: "ffn_down_warps".
    formerly: what was built before the template had this choice, and what a configuration from then means; None where
    it always had it.
    """

    name: str
    values: tuple[Value, ...]
    default: Value
    meaning: str
    kernel: str = ""
    part: str = ""
    formerly: Value | None = None

    def offers(self, value: object) -> bool:
        """Whether it is one of the values, by type too: 32.0 is not 32, and 1 is not True."""
        return any(type(value) is type(mine) and value == mine for mine in self.values)

    @property
    def owner(self) -> str:
        """The kernel that it shapes among those of all parts, "ffn_down"; "" if it belongs to none."""
        return "_".join(word for word in (self.part, self.kernel) if word)

    @property
    def base_name(self) -> str:
        """The name that means the same wherever it occurs: "warps"."""
        return self.name.removeprefix(f"{self.owner}_") if self.owner else self.name

    @property
    def name_in_part(self) -> str:
        """What its part's own space calls it: "down_warps"."""
        return self.name.removeprefix(f"{self.part}_") if self.part else self.name

    def in_part(self, part: str) -> "Parameter":
        """This parameter of an operation's own space, in the space of several operations."""
        return replace(self, name=f"{part}_{self.name}", part=part)


@dataclass(frozen=True)
class Constraint:
    """A rule that a configuration keeps; `reason` is shown when it is broken."""

    name: str
    reason: str
    holds: Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Space:
    """Parameters and the constraints between them. The default must be valid: it is what an untuned machine runs."""

    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self):
        broken = self.broken(self.default)
        if broken is not None:
            raise ValueError(f"the default breaks {broken.name}: {broken.reason}")

    @property
    def default(self) -> Config:
        return Config({p.name: p.default for p in self.parameters})

    def broken(self, config: Mapping[str, Any]) -> Constraint | None:
        """The first rule that `config` breaks, a value no parameter offers included; None if it is valid."""
        for p in self.parameters:
            if not p.offers(config.get(p.name)):
                return Constraint(p.name, f"{p.name} must be one of {p.values}, not {config.get(p.name)!r}", bool)
        if set(config) != {p.name for p in self.parameters}:
            extra = sorted(set(config) - {p.name for p in self.parameters})
            return Constraint("unknown parameter", f"this template has no parameter {extra[0]!r}", bool)
        return next((c for c in self.constraints if not c.holds(config)), None)

    def completed(self, config: Mapping[str, Any]) -> Config:
        """The configuration with a value for every parameter that the template did not have when it was found."""
        return Config({p.name: p.formerly for p in self.parameters if p.formerly is not None} | dict(config))

    def fixed(self, values: Mapping[str, Value]) -> "Space":
        """The part of this space where these parameters have one value each; the default's others stay as they are.

        Raises ValueError for a parameter or a value that is not here, and when the default would be invalid.
        """
        known = {p.name: p for p in self.parameters}
        for name, value in values.items():
            if name not in known or not known[name].offers(value):
                raise ValueError(f"{name}={value} is no choice of this space")
        parameters = (
            replace(p, values=(values[p.name],), default=values[p.name]) if p.name in values else p
            for p in self.parameters
        )
        return Space(tuple(parameters), self.constraints)

    def configs(self) -> tuple[Config, ...]:
        """Every valid configuration, in the order of the parameters' values."""
        return tuple(self.each())

    def each(self) -> Iterator[Config]:
        """Every valid configuration, one at a time: what a constraint rules out is not gone through."""
        return self._completions({}, self.constraints, lambda values: values)

    def draw(self, random: Random) -> Config | None:
        """A valid configuration, each value of a parameter as likely as the next to be tried first; None if there is
        none. Configurations are not equally likely: those with few like them come up more often."""
        return next(self._completions({}, self.constraints, lambda values: random.sample(values, len(values))), None)

    def _completions(
        self, chosen: dict[str, Value], constraints: Sequence[Constraint], ordered: Callable[[tuple], Sequence]
    ) -> Iterator[Config]:
        """Valid configurations that begin with the chosen values. A constraint is asked as soon as what it reads is
        known, and not again."""
        undecided = []
        for constraint in constraints:
            try:
                if not constraint.holds(_Partial(chosen, len(self.parameters))):
                    return
            except _Undecided:
                undecided.append(constraint)
        if len(chosen) == len(self.parameters):
            yield Config(chosen)
            return
        parameter = self.parameters[len(chosen)]
        for value in ordered(parameter.values):
            yield from self._completions({**chosen, parameter.name: value}, undecided, ordered)


class _Undecided(Exception):
    """A constraint reads what is not chosen yet."""


class _Partial(Mapping[str, Any]):
    """Some of a configuration's values; reading the others raises."""

    def __init__(self, chosen: Mapping[str, Value], size: int):
        self._chosen, self._size = chosen, size

    def __getitem__(self, name: str) -> Any:
        if name not in self._chosen and len(self._chosen) < self._size:
            raise _Undecided
        return self._chosen[name]

    def __iter__(self) -> Iterator[str]:
        self._need_all()
        return iter(self._chosen)

    def __len__(self) -> int:
        self._need_all()
        return self._size

    def _need_all(self) -> None:
        if len(self._chosen) < self._size:
            raise _Undecided
