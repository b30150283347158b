"""A Gaussian process over a fixed set of points, of which more and more are known.

Matern kernel of order 5/2 with a length for each feature (Rasmussen and Williams 2006, eq. 4.17 and 5.8); lengths and
noise maximize the likelihood times weak priors, the scale is integrated out.
"""

import math

import numpy as np
import torch
from scipy.optimize import minimize  # torch's own optimizers import 800 modules with their first step

LENGTH, LENGTH_SPREAD = math.log(0.7), 1.0  # prior of a length's logarithm
NOISE, NOISE_SPREAD = math.log(1e-2), 1.5  # of the noise, a share of the variance
LENGTH_BOUNDS, NOISE_BOUNDS = (-3.0, 3.0), (-9.0, 0.0)  # of the logarithms
STEPS, LOOKS = 15, 20  # of L-BFGS, and how often it may look
JITTER = 1e-6


class GaussianProcess:
    """points: float64 [N, D]. `fit` learns lengths from some of them, `know` adds one, `predict` speaks of all."""

    def __init__(self, points: np.ndarray, like: "GaussianProcess | None" = None):
        """like: one over other points of the same features, whose lengths are a good beginning."""
        self._points = torch.from_numpy(np.ascontiguousarray(points)).double()
        self._single = self._points.float()
        size = self._points.shape[1]
        self._log_lengths = torch.full((size,), math.log(0.5), dtype=torch.float64)
        self._log_noise = torch.tensor(math.log(1e-3), dtype=torch.float64)
        if like is not None:
            self._log_lengths, self._log_noise = like._log_lengths, like._log_noise
        self._known: list[int] = []

    def fit(self, known: list[int], y: np.ndarray) -> None:
        """Lengths and noise from the values y, of mean 0 and variance 1, at the known points."""
        x, target = self._points[known], torch.from_numpy(y).double()
        squares = (x[:, None, :] - x[None, :, :]).square()

        def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
            p = torch.from_numpy(values).requires_grad_()
            kernel = _matern((squares / (2 * p[:-1]).exp()).sum(2))
            kernel = kernel + (p[-1].exp() + JITTER) * torch.eye(len(known), dtype=torch.float64)
            factor = torch.linalg.cholesky(kernel)
            solved = torch.cholesky_solve(target[:, None], factor)[:, 0]
            value = 0.5 * len(known) * (target @ solved).clamp_min(1e-12).log() + factor.diagonal().log().sum()
            value = value + 0.5 * ((p[:-1] - LENGTH) / LENGTH_SPREAD).square().sum()
            value = value + 0.5 * ((p[-1] - NOISE) / NOISE_SPREAD).square()
            value.backward()  # type: ignore[no-untyped-call]
            assert p.grad is not None
            return float(value.detach()), p.grad.numpy()

        begin = np.append(self._log_lengths.numpy(), float(self._log_noise))
        bounds = [LENGTH_BOUNDS] * (len(begin) - 1) + [NOISE_BOUNDS]
        options = {"maxiter": STEPS, "maxfun": LOOKS}
        try:
            found = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
        except torch.linalg.LinAlgError:
            return  # the lengths that were good so far stay
        if np.isfinite(found).all():
            self._log_lengths, self._log_noise = torch.from_numpy(found[:-1]), torch.tensor(found[-1])
        self._known = []

    def know(self, known: list[int]) -> None:
        """These points are known from now on; those of the last call are a beginning of them."""
        if not self._known:
            x = self._points[known]
            self._factor = torch.linalg.cholesky(self._kernel(x, x) + self._nugget() * torch.eye(len(known)))
            between = self._kernel(self._single[known], self._single)
            self._half = torch.linalg.solve_triangular(self._factor.float(), between, upper=False)
            self._explained = self._half.square().sum(0)
        for at in known[len(self._known) :] if self._known else ():
            self._add(at)
        self._known = list(known)

    def predict(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [N] at every point, y being the values of those known."""
        target = torch.from_numpy(y).double()
        white = torch.linalg.solve_triangular(self._factor, target[:, None], upper=False)[:, 0]
        scale = float(white.square().mean().clamp_min(1e-9))
        mean = self._half.T @ white.float()
        return mean.numpy(), ((1.0 - self._explained).clamp_min(1e-9) * scale).sqrt().numpy()

    def _add(self, at: int) -> None:
        """One row more of the Cholesky factor and of its inverse times the kernel."""
        n = len(self._factor)
        row = self._half[:, at].double()
        rest = math.sqrt(max(1.0 + self._nugget() - float(row @ row), JITTER))
        grown = torch.zeros(n + 1, n + 1, dtype=torch.float64)
        grown[:n, :n], grown[n, :n], grown[n, n] = self._factor, row, rest
        between = self._kernel(self._single[at : at + 1], self._single)[0]
        new = (between - self._half.T @ row.float()) / rest
        self._factor, self._half = grown, torch.cat([self._half, new[None]])
        self._explained = self._explained + new.square()
        self._known.append(at)

    def _nugget(self) -> float:
        return float(self._log_noise.exp()) + JITTER

    def _kernel(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        lengths = self._log_lengths.exp().to(a.dtype)
        return _matern(torch.cdist(a / lengths, b / lengths, compute_mode="use_mm_for_euclid_dist").square())


def _matern(squared: torch.Tensor) -> torch.Tensor:
    r = (5.0 * squared + 1e-12).sqrt()
    return (1.0 + r + r * r / 3.0) * torch.exp(-r)
