"""Products of prompts on the CPU: oneDNN gets operands that it has fast code for, and the results are right."""

import pytest
import torch

from model.cpu import prefill


@pytest.mark.parametrize("whole", ["rows", "columns", "none"])
def test_what_onednn_multiplies_is_dense(whole, monkeypatch) -> None:
    seen = []
    multiply = torch.ops.mkldnn._linear_pointwise

    def spy(x, weight, *rest):
        seen.append(x.is_contiguous() and (weight.is_contiguous() or weight.T.is_contiguous()))
        return multiply(x, weight, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", spy)
    wide = torch.randn(48, 96)
    matrix = {"rows": wide[:32], "columns": wide[:32].T.contiguous().T, "none": wide[:32, :70]}[whole]
    x = torch.randn(5, 64)[:, :32]
    found = prefill.product(x, matrix)
    assert torch.allclose(found, (x.double() @ matrix.double()).float(), atol=1e-4)
    assert seen == [True] or not torch.backends.mkldnn.is_available()
