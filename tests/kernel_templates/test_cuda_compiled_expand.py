"""The expanding kernel as machine code: wide loads and stores, nothing spilled, on every generation."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from kernel_templates import formats, random_inputs
from kernel_templates.cuda import expand, traits, weights
from kernel_templates.cuda.crosscompile import cross_compile


@pytest.mark.parametrize("name", [name for name in formats.FORMATS if traits.of_format(name).kind != "f32"])
@pytest.mark.parametrize("capability", [75, 80, 90, 100])
def test_loads_are_wide_and_nothing_spills(name: str, capability: int) -> None:
    planes = weights.pack([random_inputs.weight(64, 2048, name, np.random.default_rng(0))], "cpu")
    made = cross_compile(expand.launch(planes, torch.empty(64 * 2048, dtype=torch.float16)), capability)
    assert made.spills == 0
    # Four words of quants; where they have 2 bits and no nibbles, a run is one load of 8 bytes.
    nibbles = bool(traits.of_format(name).kind) or traits.of_format(name).bits >= 4
    assert ("ld.global.v4.b32" if nibbles else "ld.global.b64") in made.ptx
    assert "st.global.v2.b32" in made.ptx or "st.global.v4.b32" in made.ptx  # a thread's neighbours are a warp's line
