"""Samplers for tests that every one of them has to pass; Optuna's gp takes seconds for a few proposals."""

import pytest

from autotune.samplers import SAMPLERS

QUICK_OR_SLOW = tuple(pytest.param(name, marks=pytest.mark.slow) if name == "gp" else name for name in SAMPLERS)
