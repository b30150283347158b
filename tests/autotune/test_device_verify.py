"""Outputs compared on a device, here torch's CPU: the same verdict, of the same numbers, as on the host."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.runner import device_verify
from autotune.runner.device_verify import DeviceVerifier
from kernel_templates import verify
from kernel_templates.verify import WrongResult

SIZE = 5000


def outputs(seed: int, spread: float, spike: float, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(SIZE) * (rng.random(SIZE) < 0.9)
    got = truth + spread * rng.standard_normal(SIZE)
    got[rng.integers(SIZE)] += spike
    return got.astype(dtype), truth


@settings(max_examples=60)
@given(
    st.integers(0, 1000), st.sampled_from([0.0, 1e-4, 3e-3, 1.0]), st.sampled_from([0.0, 0.03, 1.0, np.nan, np.inf]),
    st.sampled_from([np.float32, np.float16, np.float64]),
)  # fmt: skip
def test_both_ways_judge_alike(seed: int, spread: float, spike: float, dtype: type) -> None:
    got, truth = outputs(seed, spread, spike, dtype)
    here = verify.deviation(got, truth)
    there = device_verify.deviation(torch.from_numpy(got).double(), torch.from_numpy(truth), dtype == np.float16)
    assert there.half == here.half and there.error == pytest.approx(here.error, rel=1e-9)
    assert there.peak == pytest.approx(here.peak, rel=1e-9, nan_ok=True)


def test_large_outputs_go_to_the_device_and_padding_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_verify, "LARGE", 1000)
    monkeypatch.setattr(verify, "deviation", lambda *_: pytest.fail("on the host"))
    got, truth = outputs(1, 1e-4, 0.0, np.float32)
    verifier = DeviceVerifier("cpu")
    padded = np.concatenate([got, np.full(100, np.nan, np.float32)])
    first = verifier.verify({"y": padded}, {"y": truth, "z": truth}, 1e-3)
    assert 0 < first == verifier.verify({"y": got}, {"y": truth}, 1e-3) < 1e-3
    with pytest.raises(WrongResult, match=r"relative error .* is above the tolerance 1e-06"):
        verifier.verify({"y": got}, {"y": truth}, 1e-6)
    wrong = got.copy()
    wrong[7] += 0.1
    with pytest.raises(WrongResult, match="a value of y"):
        verifier.verify({"y": wrong}, {"y": truth}, 3e-3)
    verifier.forget()
    with pytest.raises(ValueError, match="nothing to compare"):
        verifier.verify({"x": got}, {"y": truth}, 1e-3)


def test_too_few_values_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_verify, "LARGE", 10)
    got, truth = outputs(2, 0.0, 0.0, np.float32)
    with pytest.raises(WrongResult):
        DeviceVerifier("cpu").verify({"y": got[:-1]}, {"y": truth}, 1e-3)


def test_of_a_reference_of_zeros_only_zeros_are_right():
    """The number of the first expert, where a token uses one."""
    assert verify.deviation(np.zeros(3, np.int32), np.zeros(3)).error == 0
    assert verify.deviation(np.array([0, 0, 1]), np.zeros(3)).error == np.inf
    assert verify.deviation(np.array([0, np.nan, 0]), np.zeros(3)).error == np.inf
