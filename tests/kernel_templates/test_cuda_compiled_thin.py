"""Machine code of products over few tokens: what is left to do after the wait for the kernel before."""

import re

import pytest
import torch
from compiled_once import cross_compile

from kernel_templates.cuda import thin
from kernel_templates.cuda.weights import Planes

HOPPER = 90


@pytest.mark.parametrize(("gate", "tiles"), [("", 1), ("silu", 2)])
def test_only_loads_products_and_one_exchange_follow_the_wait(gate: str, tiles: int) -> None:
    tensors = (torch.empty(64, dtype=torch.int32), torch.empty(64, dtype=torch.float16))
    x, y = torch.empty(64, dtype=torch.float16), torch.empty(8, 2048, dtype=torch.float16 if gate else torch.float32)
    launch = thin.launch(
        Planes("Q4_0", 4096, 1024, tensors), x, y, torch.empty(1), torch.zeros(1, dtype=torch.int32),
        tokens=8, gate=gate, tiles=tiles, warps=8, ahead=1, ready=True,
    )  # fmt: skip
    compiled = cross_compile(launch, HOPPER)
    before, after = compiled.sass.split("ACQBULK")
    products = after.index("HMMA")
    assert compiled.spills == 0
    assert len(re.findall(r"\bLDG\.", before)) == 4 * tiles
    assert len(re.findall(r"\bLDG\.", after[:products])) == 4
    assert "LDG." not in after[products:]
    assert not re.search(r"\bH(MUL2|FMA2|ADD2)\b", after)
    assert len(re.findall(r"\bHMMA\.", after)) == 8 * tiles
    assert after.count("BAR.SYNC") == 1
