"""A Gaussian process over a fixed set of points, of which more and more are known.

Matern kernel of order 5/2 with a length for each feature (Rasmussen and Williams 2006, eq. 4.17 and 5.8); lengths and
noise maximize the likelihood times weak priors, the scale is integrated out.
"""

import math

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

LENGTH, LENGTH_SPREAD = math.log(0.7), 1.0  # prior of a length's logarithm
NOISE, NOISE_SPREAD = math.log(1e-2), 1.5  # of the noise, a share of the variance
LENGTH_BOUNDS, NOISE_BOUNDS = (-3.0, 3.0), (-9.0, 0.0)  # of the logarithms
STEPS, LOOKS = 15, 20  # of L-BFGS, and how often it may look
JITTER = 1e-6


class GaussianProcess:
    """points: float64 [N, D]. `fit` learns lengths from some of them, `know` adds one, `predict` speaks of all."""

    def __init__(self, points: np.ndarray, like: "GaussianProcess | None" = None):
        """like: one over other points of the same features, whose lengths are a good beginning."""
        self._points = np.ascontiguousarray(points, np.float64)
        self._single = self._points.astype(np.float32)
        self._log_lengths = np.full(self._points.shape[1], math.log(0.5))
        self._log_noise = math.log(1e-3)
        if like is not None:
            self._log_lengths, self._log_noise = like._log_lengths, like._log_noise
        self._known: list[int] = []

    def fit(self, known: list[int], y: np.ndarray) -> None:
        """Lengths and noise from the values y, of mean 0 and variance 1, at the known points."""
        x = self._points[known]
        squares = np.square(x[:, None, :] - x[None, :, :]).reshape(-1, x.shape[1])
        begin = np.append(self._log_lengths, self._log_noise)
        bounds = [LENGTH_BOUNDS] * (len(begin) - 1) + [NOISE_BOUNDS]
        options = {"maxiter": STEPS, "maxfun": LOOKS}
        try:
            found = minimize(loss, begin, (squares, y), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
        except LinAlgError:
            return  # the lengths that were good so far stay
        if np.isfinite(found).all():
            self._log_lengths, self._log_noise = found[:-1], float(found[-1])
        self._known = []

    def know(self, known: list[int]) -> None:
        """These points are known from now on; those of the last call are a beginning of them."""
        if not self._known:
            x = self._points[known]
            self._factor = cholesky(self._kernel(x, x) + self._nugget() * np.eye(len(known)), lower=True)
            between = self._kernel(self._single[known], self._single)
            self._half = solve_triangular(self._factor.astype(np.float32), between, lower=True)
            self._explained = np.square(self._half).sum(0)
        for at in known[len(self._known) :] if self._known else ():
            self._add(at)
        self._known = list(known)

    def predict(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [N] at every point, y being the values of those known."""
        white = solve_triangular(self._factor, y, lower=True)
        scale = np.float32(max(np.square(white).mean(), 1e-9))
        mean = white.astype(np.float32) @ self._half
        return mean, np.sqrt(np.maximum(1.0 - self._explained, np.float32(1e-9)) * scale)

    def _add(self, at: int) -> None:
        """One row more of the Cholesky factor and of its inverse times the kernel."""
        n = len(self._factor)
        row = self._half[:, at].astype(np.float64)
        rest = math.sqrt(max(1.0 + self._nugget() - float(row @ row), JITTER))
        grown = np.zeros((n + 1, n + 1))
        grown[:n, :n], grown[n, :n], grown[n, n] = self._factor, row, rest
        between = self._kernel(self._single[at : at + 1], self._single)[0]
        new = (between - self._half[:, at] @ self._half) / np.float32(rest)
        self._factor, self._half = grown, np.concatenate([self._half, new[None]])
        self._explained = self._explained + np.square(new)
        self._known.append(at)

    def _nugget(self) -> float:
        return math.exp(self._log_noise) + JITTER

    def _kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        lengths = np.exp(self._log_lengths).astype(a.dtype)
        a, b = a / lengths, b / lengths
        squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * (a @ b.T)
        return _matern(np.maximum(squared, 0.0))[0]


def loss(p: np.ndarray, squares: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The negative logarithm of the likelihood times priors, apart from a constant, and its gradient [D + 1].

    p: logarithms of D lengths, and of the noise; squares [n * n, D]: squared differences of the points' features; y
    [n]. With K the kernel, a = K^-1 y and the scale integrated out, the derivative by K is
    (K^-1 - n a a^T / (y^T a)) / 2 (after Rasmussen and Williams 2006, eq. 5.9). Raises LinAlgError.
    """
    n, weights = len(y), np.exp(-2.0 * p[:-1])
    kernel, slope = _matern(squares @ weights)
    factor = cholesky(kernel.reshape(n, n) + (math.exp(p[-1]) + JITTER) * np.eye(n), lower=True)
    inverse = cho_solve((factor, True), np.eye(n))
    solved = inverse @ y
    fit = float(y @ solved)
    value = 0.5 * n * math.log(max(fit, 1e-12)) + float(np.log(np.diagonal(factor)).sum())
    by_kernel = 0.5 * (inverse - (n / fit if fit > 1e-12 else 0.0) * np.outer(solved, solved))
    away = np.append((p[:-1] - LENGTH) / LENGTH_SPREAD, (p[-1] - NOISE) / NOISE_SPREAD)
    by_length = -2.0 * weights * ((by_kernel.ravel() * slope) @ squares) + away[:-1] / LENGTH_SPREAD
    by_noise = math.exp(p[-1]) * float(np.trace(by_kernel)) + away[-1] / NOISE_SPREAD
    return value + 0.5 * float(away @ away), np.append(by_length, by_noise)


def _matern(squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kernel at squared distances, measured in lengths, and its derivative by them."""
    r = np.sqrt(5.0 * squared + 1e-12)
    decay = np.exp(-r)
    return (1.0 + r + r * r / 3.0) * decay, (-5.0 / 6.0) * (1.0 + r) * decay
