"""What a Launch hands to Triton's interpreter, with a stand-in for the kernel; `test_cuda_driver` has the GPU's."""

from typing import Any

import pytest

from kernel_templates.cuda.launch import HOPPER, INTERPRETED, OLDER, Launch, Target, capability_target


class Kernel:
    """Notes how it is launched."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.calls.append((grid, arguments, options))


def test_the_interpreter_gets_no_pdl_and_no_assembly() -> None:
    kernel = Kernel()
    Launch("qkv", kernel, (7, 2), ("x", 3, 0.5), {"EACH": 2}, warps=8).run(INTERPRETED)
    assert kernel.calls == [((7, 2), ("x", 3, 0.5), {"EACH": 2, "PDL": False, "ASM": False, "num_warps": 8})]


def test_constants_stay_as_they_were() -> None:
    constants = {"EACH": 2}
    Launch("out", Kernel(), (1,), (), constants).run(INTERPRETED)
    assert constants == {"EACH": 2}


@pytest.mark.parametrize(("capability", "target"), [(70, OLDER), (89, OLDER), (90, HOPPER), (120, HOPPER)])
def test_the_capability_decides_about_pdl(capability: int, target: Target) -> None:
    assert capability_target(capability) == target
