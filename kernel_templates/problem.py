"""What is to be computed: the base of every operation's Problem, hashable, with a key that never changes meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [rows, cols] that a call reads, stored in `format`; name: the operation's own for it."""

    name: str
    rows: int
    cols: int
    format: str


@dataclass(frozen=True)
class Problem:
    """Shapes and formats of one kernel call. Subclasses add int and str fields only; their order is the key's order.

    `key`: "op:field=value,..." identifies the problem in the tuning database. `threads` and chips are not part of it.
    A subclass is declared with its op and template_version, and with its matrices in the order they are packed: name ->
    the names of the fields or properties that are its rows, its columns and its format.
    """

    op: ClassVar[str]
    template_version: ClassVar[int]
    _matrices: ClassVar[Mapping[str, tuple[str, str, str]]]

    def __init_subclass__(
        cls,
        op: str = "",
        template_version: int = 1,
        matrices: Mapping[str, tuple[str, str, str]] = MappingProxyType({}),
    ) -> None:
        super().__init_subclass__()
        if op:  # else it is a base of other problems
            cls.op, cls.template_version, cls._matrices = op, template_version, matrices

    @property
    def key(self) -> str:
        return f"{self.op}:" + ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The weights of a call, in the order they are packed."""
        parts = ((name, [getattr(self, part) for part in of]) for name, of in self._matrices.items())
        return tuple(Matrix(name, rows, cols, form) for name, (rows, cols, form) in parts)

    @property
    def typical(self) -> Self:
        """The problem that a GPU times in its place: itself, but where positions of a context cost unlike much."""
        return self

    @property
    def typical_position(self) -> int | None:
        """Where in its context it is timed on a GPU; None if it has none."""
        return None

    @property
    def proved_positions(self) -> tuple[int, ...]:
        """Positions at which it is proved beside the one of its inputs; none if it has no position."""
        return ()

    @property
    def without_context(self) -> Self:
        """What it has in common with problems that differ from it in their context only."""
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """The problem whose key's part after the colon is `text`. ValueError says which field is missing or wrong."""
        given = dict(part.partition("=")[::2] for part in text.split(",") if part)
        values: dict[str, Any] = {}
        for f in fields(cls):
            if f.name not in given:
                names = ", ".join(g.name for g in fields(cls))
                raise ValueError(f"{cls.op}: {f.name} is missing; a problem names {names}")
            raw = given.pop(f.name)
            if f.type in (int, "int"):
                if not raw.isdigit():
                    raise ValueError(f"{cls.op}: {f.name}={raw!r} is not a whole number")
                values[f.name] = int(raw)
            else:
                values[f.name] = raw
        if given:
            raise ValueError(f"{cls.op}: unknown field {next(iter(given))!r}")
        return cls(**values)


@dataclass(frozen=True)
class Chain(Problem):
    """Several operations after each other as one problem, timed together: how their kernels get along."""

    def parts(self) -> dict[str, Problem]:
        """Prefix of a part's parameters -> its problem, in the order they run."""
        raise NotImplementedError
