"""How many tokens to propose: none, unless a pass over them is expected to be faster than single steps.

A pass over a token and k proposals keeps 1 + a1 + a1 a2 + ... tokens on average, where aj is how often the j-th is what
the model chooses if those before it were. How often that is depends above all on how many tokens before it match, so
it is counted by the length of the match, for every token that could have been proposed, proposed or not: a text that
is decoded step by step is watched too, at no cost.

What is expected may be wrong. So the time that passes took beyond what single steps would have taken is counted as
lost, and a pass that might lose more than a small share of the text's time is not made, whatever is expected of it.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from model.prompt_lookup import LONGEST

SIZES = (7, 3, 1)
"""Proposals of a pass: with the token before them 8, 4 or 2, for which GPUs have kernels and graphs. The largest
number first."""

MATCHES = (2, 3, 4, 6, 10)
"""Matches are counted apart from these lengths on."""

PRIOR = (0.3, 0.5, 0.65, 0.8, 0.92)
"""Share of proposals that are chosen, by MATCHES, until a text shows its own; as heavy as WEIGHT tokens of it."""

WEIGHT = 4.0
DECAY = 0.95
"""What a token weighs after the next one of its length of match: the last 20 count."""

GAIN = 1.05
"""Tokens a second, passes to single steps, from which on a pass is made."""

UNKNOWN = 1.1
"""What a pass that was never measured is taken to cost, over the best that it could."""

SHARE, FIRST_STEPS = 0.0125, 2.5
"""What may be lost: this share of the text's single steps, and so many steps more: a fortieth of 200 tokens. After two
passes in vain at a text's beginning enough is left for a third (docs/log.md, "A pass as its caller waits for it")."""

RETRY_TOKENS, RETRY_MATCH = 256, 8
"""Where passes do not pay, one is tried after so many tokens without any, and at a match so long: it may have been
measured while something else ran."""

STEPS_KEPT, PASSES_KEPT, STEPS_NEEDED = 32, 8, 4
"""Latest times of which medians are taken, and single steps after which theirs is taken, first and again."""

KEPT_LATELY, FEW_AHEAD = 32, 2
"""While a proposal was kept within the last so many tokens, fewer tokens are started ahead of the host: what is started
must be read before the next pass begins."""

_CLASS = tuple(bisect_right(MATCHES, length) - 1 for length in range(LONGEST + max(SIZES) + 1))


@dataclass(frozen=True)
class Observations:
    """What is known when a pass may begin.

    step_s: seconds of a single step, 0 if not known; pass_s: seconds of a pass by its proposals, as far as measured;
    chosen: share of proposals that the model chose, by MATCHES; lost_s: seconds lost so far; tokens: of the text so
    far; since_pass: those after the last pass.
    """

    step_s: float
    pass_s: Mapping[int, float]
    chosen: tuple[float, ...]
    lost_s: float = 0.0
    tokens: int = 0
    since_pass: int = 0


@dataclass(frozen=True)
class Speculated:
    """What became of a text's proposals. off: at its end no match, however long, was worth a pass."""

    proposed: int = 0
    kept: int = 0
    passes: int = 0
    off: bool = False


def decide(seen: Observations, match: int, most: int) -> int:
    """How many tokens to propose after a match of `match` tokens, one of SIZES and at most `most`; 0 for a single
    step."""
    sizes = [size for size in SIZES if size <= most]
    if not (seen.step_s and match and sizes):
        return 0
    rate, best = max([(expected_tokens(seen.chosen, match, size) / _steps(seen, size), size) for size in sizes])
    retried = seen.since_pass >= RETRY_TOKENS and match >= RETRY_MATCH
    return best if (rate >= GAIN or retried) and _may_lose(seen, best) else 0


def pays(seen: Observations) -> bool:
    """Whether there is any match after which a pass would be made, another try apart."""
    watched = Observations(seen.step_s, seen.pass_s, seen.chosen, seen.lost_s, seen.tokens)
    return not seen.step_s or decide(watched, LONGEST, max(SIZES)) > 0


def expected_tokens(chosen: tuple[float, ...], match: int, proposals: int) -> float:
    """Tokens that a pass keeps on average, the one that it always makes included."""
    total = reached = 1.0
    for length in range(match, match + proposals):
        reached *= chosen[_CLASS[length]]
        total += reached
    return total


def _steps(seen: Observations, size: int) -> float:
    """The time of a pass in single steps."""
    if size in seen.pass_s:
        return seen.pass_s[size] / seen.step_s
    smaller = [seconds for other, seconds in seen.pass_s.items() if other < size]
    if smaller:
        return UNKNOWN * max(smaller) / seen.step_s
    larger = [other for other in seen.pass_s if other > size]
    if not larger:
        return UNKNOWN
    nearest = min(larger)  # on the line from a single step to the nearest that is known
    return UNKNOWN * max(1 + (seen.pass_s[nearest] / seen.step_s - 1) * size / nearest, 1)


def _may_lose(seen: Observations, size: int) -> bool:
    """Whether a pass of which no proposal is kept would lose no more than may be lost."""
    lost = seen.lost_s / seen.step_s + _steps(seen, size) - 1
    return lost <= FIRST_STEPS + SHARE * seen.tokens


class Watcher:
    """Watches times and proposals. Times stay from text to text, what was proposed and lost does not.

    The first pass of each size counts neither as time nor as lost: a GPU loads its graph then.
    """

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=STEPS_KEPT)
        self._passes: dict[int, deque[float]] = {}
        self._step_s = 0.0  # medians of both
        self._pass_s: Mapping[int, float] = {}
        self._recorded = 0
        self.begin()

    def begin(self) -> None:
        """A new text."""
        self._hits = [share * WEIGHT for share in PRIOR]
        self._trials = [WEIGHT] * len(PRIOR)
        self._lost_s = 0.0
        self._tokens = self._since_pass = 0
        self._since_kept = KEPT_LATELY
        self._resumed = True
        self._proposed = self._kept = self._made = 0

    @property
    def ahead(self) -> int | None:
        """How many tokens to have started before they are read; None for as many as the device likes."""
        return FEW_AHEAD if self._since_kept < KEPT_LATELY else None

    def proposals(self, match: int, most: int) -> int:
        """As `decide`, from what was watched."""
        return decide(self.observations(), match, most) if match and most > 0 else 0

    def tested(self, match: int, chosen: bool) -> None:
        """After a match of this length, whether the model chose what would be or was proposed."""
        at = _CLASS[match]
        self._hits[at] = self._hits[at] * DECAY + chosen
        self._trials[at] = self._trials[at] * DECAY + 1

    def stepped(self, seconds: float) -> None:
        """A single step made a token. The first of a text waits for its prompt; the first after a pass, or after a stop
        for one, fills the device's queue: what it takes longer is lost."""
        if not self._resumed:
            self._steps.append(seconds)
            self._recorded += 1
            if self._recorded % STEPS_NEEDED == 0:
                self._step_s = _median(self._steps)
        elif self._tokens:
            self._lost_s += max(seconds - self._step_s, 0.0)
        self._resumed = False
        self._count(1)
        self._since_kept += 1

    def stopped(self) -> None:
        """Steps stopped for a pass, but the tokens that were on their way ended the match: there is none to make."""
        self._resumed = True

    def passed(self, proposed: int, kept: int, seconds: float) -> None:
        """A pass over so many proposals kept `kept` of them, and made one token more."""
        times = self._passes.get(proposed)
        if times is None:
            self._passes[proposed] = deque(maxlen=PASSES_KEPT)
        else:
            times.append(seconds)
            self._pass_s = {**self._pass_s, proposed: _median(times)}
            self._lost_s += seconds - self._step_s * (kept + 1)
        self._proposed, self._kept, self._made = self._proposed + proposed, self._kept + kept, self._made + 1
        self._count(kept + 1)
        self._since_pass = 0
        self._since_kept = 0 if kept else self._since_kept + 1
        self._resumed = True

    def observations(self) -> Observations:
        rates = tuple([hits / trials for hits, trials in zip(self._hits, self._trials, strict=True)])
        return Observations(self._step_s, self._pass_s, rates, self._lost_s, self._tokens, self._since_pass)

    def summary(self) -> Speculated:
        return Speculated(self._proposed, self._kept, self._made, bool(self._passes) and not pays(self.observations()))

    def _count(self, tokens: int) -> None:
        self._tokens += tokens
        self._since_pass += tokens


def _median(times: deque[float]) -> float:
    return sorted(times)[len(times) // 2]
