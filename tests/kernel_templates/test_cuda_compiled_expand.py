"""The expanding kernel as machine code: wide stores, nothing exchanged or spilled, on every generation."""

import numpy as np
import pytest
import torch
from compiled_once import cross_compile
from some_formats import two

pytest.importorskip("triton")

from kernel_templates import formats, random_inputs
from kernel_templates.cuda import expand, weights


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_stores_are_wide_and_nothing_spills(name: str, capability: int = 90) -> None:
    planes = weights.pack([random_inputs.weight(64, 2048, name, np.random.default_rng(0))], "cpu")
    made = cross_compile(expand.launch(planes, torch.empty(64 * 2048, dtype=torch.float16)), capability)
    assert made.spills == 0
    # A warp's lanes have neighbouring words and neighbouring 16 bytes of what they become: nothing changes hands.
    assert "st.global.v4.b32" in made.ptx
    assert "st.shared" not in made.ptx and "shfl" not in made.ptx


@pytest.mark.parametrize("capability", [75, 80, 100])
@pytest.mark.parametrize("name", two())
def test_the_other_generations(name: str, capability: int) -> None:
    test_stores_are_wide_and_nothing_spills(name, capability)
