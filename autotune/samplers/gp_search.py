"""The sampler of our own: Bayesian optimization over the list of valid configurations.

Times are modelled by their logarithm, the slower half of them flattened, since only the fast ones have to be told
apart. What failed counts as the slowest. The next one is where the improvement expected over the best (Jones, Schonlau
and Welch 1998) is largest; configurations asked for and not told yet are taken to come out as predicted.
"""

import math
from collections.abc import Sequence

import numpy as np

from autotune.samplers.features import encode
from autotune.samplers.single_thread import single_thread
from kernel_templates.space import Value

FIRST = 5  # configurations, far from each other, before there is a model
REFIT = 1.25  # times as many results until lengths are learnt again
FLAT = 0.3  # of the slope above the median
MOST = 20_000  # points that a model speaks of; of larger pools those near the best, and some of the others


class GPSearch:
    """Configurations by their numbers 0..N-1. ask, tell and skip in any order; none is ever asked twice."""

    def __init__(self, columns: Sequence[Sequence[Value]], seed: int = 0, first: int = FIRST):
        """columns: of each parameter its N values; first: how many to ask for before there is a model."""
        self._points = encode(columns)
        self._random = np.random.default_rng(seed)
        self._left = np.ones(len(self._points), bool)
        self._seen: list[int] = []  # rows that were asked, skipped or told, in that order
        self._results: dict[int, float] = {}  # logarithms of seconds, infinite for failures
        self._expected: dict[int, float] = {}  # of rows asked for by the model
        self._spread = self._spread_out(first)
        self._refit_at = 0
        self._among: list[int] = []

    @single_thread()
    def ask(self, among: Sequence[int] = ()) -> int | None:
        """The next configuration; None once there is none left. among: if the model knows enough, one of these, as
        long as there are any left."""
        if not self._left.any():
            return None
        self._among = [row for row in among if self._left[row]]
        row = None if self._among else next((row for row in self._spread if self._left[row]), None)
        if row is None and sum(math.isfinite(result) for result in self._results.values()) >= 2:
            row = self._most_promising()
        if row is None:
            row = int(self._random.choice(np.flatnonzero(self._left)))
        self.skip(row)
        return row

    def skip(self, row: int) -> None:
        """This one is asked for by somebody else."""
        if self._left[row]:
            self._left[row] = False
            self._seen.append(row)

    def tell(self, row: int, seconds: float | None) -> None:
        """None: it failed."""
        self.skip(row)
        self._results[row] = math.inf if seconds is None else math.log(seconds)

    def _spread_out(self, count: int) -> list[int]:
        """Points, each as far from those before it as can be."""
        some = self._random.choice(len(self._points), min(len(self._points), 2000), replace=False)
        chosen: list[int] = []
        distance = np.zeros(len(some))
        for _ in range(min(count, len(some))):
            chosen.append(int(some[np.argmax(distance)]))
            away = np.square(self._points[some] - self._points[chosen[-1]]).sum(1)
            distance = away if len(chosen) == 1 else np.minimum(distance, away)
        return chosen

    def _most_promising(self) -> int:
        from scipy.special import ndtr  # with the model: half a second, while compilers make the first candidates

        if len(self._results) >= self._refit_at:
            self._model()
        rows = [row for row in self._seen if self._place[row] >= 0 and (row in self._results or row in self._expected)]
        y, center, spread = self._targets(rows)
        self._process.know([int(self._place[row]) for row in rows])
        mean, deviation = self._process.predict(y)
        best = min(value for row, value in zip(rows, y, strict=True) if row in self._results)
        z = (best - mean) / deviation
        density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        gain = deviation * (z * ndtr(z) + density)
        gain[~self._left[self._active]] = -1.0
        places = [self._place[row] for row in self._among if self._place[row] >= 0]
        if places:
            inside = np.zeros(len(gain), bool)
            inside[places] = True
            gain[~inside] = -1.0
        at = int(np.argmax(gain))
        row = int(self._active[at])
        self._expected[row] = float(mean[at]) * spread + center
        return row

    def _model(self) -> None:
        """Learn lengths anew, and which points to speak of."""
        from autotune.samplers.gaussian_process import GaussianProcess

        rows = [row for row in self._seen if row in self._results]
        self._active = np.arange(len(self._points))
        if len(self._points) > MOST:
            fast = min(rows, key=self._results.__getitem__)
            near = np.argsort(np.square(self._points - self._points[fast]).sum(1))[: MOST // 2]
            others = self._random.choice(len(self._points), MOST // 2, replace=False)
            self._active = np.unique(np.concatenate([near, others, rows, list(self._expected)])).astype(int)
        self._place = np.full(len(self._points), -1)
        self._place[self._active] = np.arange(len(self._active))
        lengths = getattr(self, "_process", None)
        self._process = GaussianProcess(self._points[self._active], like=lengths)
        self._process.fit([int(self._place[row]) for row in rows], self._targets(rows)[0])
        self._refit_at = max(len(rows) + 1, int(len(rows) * REFIT))

    def _targets(self, rows: Sequence[int]) -> tuple[np.ndarray, float, float]:
        """What the model learns for these rows: values of mean 0 and variance 1, that mean and the deviation."""
        logs = np.array([self._results.get(row, self._expected.get(row, math.nan)) for row in rows])
        worst = max(result for result in self._results.values() if math.isfinite(result))
        told = np.array([result if math.isfinite(result) else worst for result in self._results.values()])
        middle = float(np.median(told))

        def flattened(x: np.ndarray) -> np.ndarray:
            return np.where(x > middle, middle + FLAT * (x - middle), x)

        told = flattened(told)
        center, spread = float(told.mean()), float(told.std()) + 1e-9
        expected = np.array([row not in self._results for row in rows], bool)
        values = np.where(np.isfinite(logs), logs, worst)
        return (np.where(expected, values, flattened(values)) - center) / spread, center, spread
