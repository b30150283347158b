"""What is to be computed: the base of every operation's Problem, hashable, with a key that never changes meaning."""

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self


def trait(default: int | str | float, known: tuple[int | str, ...] = ()) -> Any:
    """A field in which few models differ from the rest: a key names it only where it is not `default`, so that keys
    from before the field mean what they meant. known: the values there are, where they can be listed."""
    return field(default=default, kw_only=True, metadata={"trait": True, "known": known})


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [rows, cols] that a call reads, stored in `format`; name: the operation's own for it."""

    name: str
    rows: int
    cols: int
    format: str


@dataclass(frozen=True)
class Problem:
    """Shapes and formats of one kernel call. Subclasses add fields of int, str and float only; their order is the key's
    order, `trait` fields last.

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
        named = sorted(fields(self), key=_is_trait)  # stable: in their order, traits last
        shown = [f for f in named if not (_is_trait(f) and getattr(self, f.name) == f.default)]
        return f"{self.op}:" + ",".join(f"{f.name}={getattr(self, f.name)}" for f in shown)

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The weights of a call, in the order they are packed; one without rows is none."""
        parts = ((name, [getattr(self, part) for part in of]) for name, of in self._matrices.items())
        return tuple(Matrix(name, rows, cols, form) for name, (rows, cols, form) in parts if rows)

    def with_formats(self, name: Callable[[str], str]) -> Self:
        """Itself with `name` of each matrix's format in that one's place; a matrix that is not there has none."""
        given = {of: getattr(self, of) for _, _, of in self._matrices.values()}
        return replace(self, **{of: name(format) for of, format in given.items() if format})

    @property
    def typical(self) -> Self:
        """The problem that a GPU times in its place: itself, but where positions of a context cost unlike much."""
        return self

    @property
    def typical_position(self) -> int | None:
        """Where in its context it is timed on a GPU; None if it has none."""
        return None

    @property
    def typical_reach(self) -> int:
        """Cached positions that count there: all up to it, or a window of them; 0 without a position."""
        return 0 if self.typical_position is None else self.typical_position + 1

    @property
    def proved_positions(self) -> tuple[int, ...]:
        """Positions at which it is proved beside the one of its inputs; none if it has no position."""
        return ()

    @property
    def rows_at_once(self) -> int:
        """Tokens, of all texts together, that a call computes for: its sizes "tokens" and "sequences", else one."""
        found: int = getattr(self, "tokens", 1) * getattr(self, "sequences", 1)
        return found

    @property
    def without_context(self) -> Self:
        """What it has in common with problems that differ from it in their context only."""
        return self

    @classmethod
    def required(cls) -> list[str]:
        """The fields that every key names, in its order."""
        return [f.name for f in fields(cls) if not _is_trait(f)]

    @classmethod
    def traits(cls) -> dict[str, int | float | str]:
        """The other fields, and what a key means that does not name them."""
        found: dict[str, Any] = {f.name: f.default for f in fields(cls) if _is_trait(f)}
        return found

    @classmethod
    def parse(cls, text: str) -> Self:
        """The problem whose key's part after the colon is `text`. ValueError says which field is missing or wrong."""
        given = dict(part.partition("=")[::2] for part in text.split(",") if part)
        values: dict[str, Any] = {}
        for f in fields(cls):
            if f.name not in given:
                if _is_trait(f):
                    continue
                names = ", ".join(cls.required())
                raise ValueError(f"{cls.op}: {f.name} is missing; a problem names {names}")
            raw = given.pop(f.name)
            if f.type in (int, "int"):
                if not raw.isdigit():
                    raise ValueError(f"{cls.op}: {f.name}={raw!r} is not a whole number")
                values[f.name] = int(raw)
            elif f.type in (float, "float"):
                values[f.name] = _number(cls.op, f.name, raw)
            else:
                values[f.name] = raw
            if (known := f.metadata.get("known")) and values[f.name] not in known:
                raise ValueError(f"{cls.op}: {f.name}={raw[:40]!r} is not one of {', '.join(map(str, known))}")
        if given:
            raise ValueError(f"{cls.op}: unknown field {next(iter(given))!r}")
        return cls(**values)


def _is_trait(f: Field[Any]) -> bool:
    return bool(f.metadata.get("trait"))


def _number(op: str, name: str, raw: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{op}: {name}={raw!r} is not a number of 0 or more")
    return value


@dataclass(frozen=True)
class Chain(Problem):
    """Several operations after each other as one problem, timed together: how their kernels get along."""

    def parts(self) -> dict[str, Problem]:
        """Prefix of a part's parameters -> its problem, in the order they run."""
        raise NotImplementedError
