"""What a Launch hands to Triton on each target, with a stand-in for the kernel."""

from typing import Any

import pytest

from kernel_templates.cuda.launch import HOPPER, INTERPRETED, OLDER, Launch, Target


class Kernel:
    """Notes how it is launched or compiled."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.calls.append((grid, arguments, options))

    def warmup(self, *arguments: Any, grid: tuple[int, ...], **options: Any) -> str:
        self.calls.append((grid, arguments, options))
        return "compiled"


@pytest.mark.parametrize(
    ("target", "pdl", "asm"), [(HOPPER, True, True), (OLDER, False, True), (INTERPRETED, False, False)]
)
def test_the_target_decides_about_pdl_and_assembly(target: Target, pdl: bool, asm: bool) -> None:
    kernel = Kernel()
    launch = Launch("qkv", kernel, (7, 2), ("x", 3, 0.5), {"EACH": 2}, warps=8)
    launch.run(target)
    assert launch.compile(target) == "compiled"
    options = {"EACH": 2, "PDL": pdl, "ASM": asm, "num_warps": 8}
    if pdl:
        options["launch_pdl"] = True  # older chips do not know the attribute
    assert kernel.calls == [((7, 2), ("x", 3, 0.5), options)] * 2


def test_constants_stay_as_they_were() -> None:
    constants = {"EACH": 2}
    Launch("out", Kernel(), (1,), (), constants).run(HOPPER)
    assert constants == {"EACH": 2}
