"""Short names of kernels for people: what a set of names has in common is left out, as far as they stay different."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

_WORDS = re.compile(r"[^\W_]+|_|\s+|[^\w\s]")
_ANONYMOUS = re.compile(r"(\(anonymous namespace\)|<unnamed>|\(anonymous class\))::")
_OPEN, _CLOSE = "<([{", ">)]}"
MORE = "…"
LEAST = 12  # letters that have to be alike before they are left out: shorter ones help to read the rest


@dataclass(frozen=True)
class _Parts:
    """A demangled name. path: with its namespaces, without result type and arguments; template, parameters: what
    stands between the first < > and ( ) behind it."""

    path: str
    template: str
    parameters: str

    @property
    def base(self) -> str:
        return self.path.rpartition("::")[2]


def short_names(names: Iterable[str]) -> Mapping[str, str]:
    """By full name. Of a demangled C++ name the result type, the parameters and the namespaces are left out, and of its
    template arguments what all kernels of that name share; the full name where two would look alike."""
    wanted = sorted(set(names))
    parts = {name: _parts(name) for name in wanted}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in wanted:
        groups[parts[name].base].append(name)
    short: dict[str, str] = {}
    for members in groups.values():
        short |= _told_apart({name: parts[name] for name in members})
    taken = Counter(short.values())
    return {name: short[name] if taken[short[name]] == 1 and short[name] else name for name in wanted}


def path_of(name: str) -> str:
    """A kernel's name with its namespaces, without result type, template arguments and parameters."""
    return _parts(name).path or name


def _parts(name: str) -> _Parts:
    text = _ANONYMOUS.sub("", name)
    end = next((place for place, letter in enumerate(text) if letter in "<(" and place), len(text))
    head = text[:end].strip()
    template, parameters = "", ""
    if text[end : end + 1] == "<":
        close = _closing(text, end)
        template, end = text[end + 1 : close].strip(), close + 1
    begin = text.find("(", end)
    if begin >= 0:
        parameters = text[begin + 1 : _closing(text, begin)].strip()
    # A template's demangled name begins with its result type; others have none.
    path = head.rpartition(" ")[2] if template or parameters else head
    return _Parts(path, template, parameters)


def _closing(text: str, begin: int) -> int:
    """The place of the bracket that closes the one at `begin`; the end where none does."""
    depth = 0
    for place in range(begin, len(text)):
        depth += (text[place] in _OPEN) - (text[place] in _CLOSE)
        if depth == 0:
            return place
    return len(text)


def _told_apart(members: Mapping[str, _Parts]) -> dict[str, str]:
    """The short names of kernels of one base name: with the first kind of part in which all differ."""
    if len(members) == 1:
        return {name: found.base for name, found in members.items()}
    ways: tuple[tuple[Callable[[_Parts], str], str], ...] = (
        (lambda found: found.template, "<>"),
        (lambda found: found.parameters, "()"),
    )
    for way, brackets in ways:
        texts = [way(found) for found in members.values()]
        if len(set(texts)) == len(texts):
            differing = _without_shared(texts)
            return {
                name: f"{found.base}{brackets[0]}{text}{brackets[1]}" if text else found.base
                for (name, found), text in zip(members.items(), differing, strict=True)
            }
    if len({found.path for found in members.values()}) == len(members):
        return {name: found.path for name, found in members.items()}
    return {name: name for name in members}


def _without_shared(texts: Sequence[str]) -> list[str]:
    """Each text without the words that all have at both ends, if those are long."""
    words = [_WORDS.findall(text) for text in texts]
    front = _shared(words)
    back = _shared([found[front:][::-1] for found in words])
    short = []
    for found in words:
        before, after = "".join(found[:front]), "".join(found[len(found) - back :])
        middle = "".join(found[front : len(found) - back])
        before = MORE if len(before) >= LEAST else before
        after = MORE if len(after) >= LEAST else after
        short.append(f"{before}{middle}{after}".strip())
    return short


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """How many words at the beginning all rows have in common."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*rows, strict=False)))
