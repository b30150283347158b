"""What is to be computed: the base of every operation's Problem, hashable, with a key that never changes meaning."""

from dataclasses import dataclass, fields
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
    """

    op: ClassVar[str]
    template_version: ClassVar[int]

    def __init_subclass__(cls, op: str = "", template_version: int = 1) -> None:
        """op: the operation's name in keys; template_version: raised when a change makes old times meaningless. A base
        that several operations share names none."""
        if op:
            cls.op, cls.template_version = op, template_version

    @property
    def key(self) -> str:
        return f"{self.op}:" + ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The weights of a call, in the order they are packed; none unless the operation says so."""
        return ()

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
