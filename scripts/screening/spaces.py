"""The spaces that `bench_screen` measures exhaustively, and which part: what is fixed keeps the default's value."""

from dataclasses import dataclass, replace

from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Space

FFN = "ffn:hidden={0},ffn={1},gate_format=Q4_0,up_format=Q4_0,down_format=Q4_0,activation=int16"
MATVEC = "matvec:rows={0},cols={1},format=Q4_0,activation=int16"
ALONE = ("stream", "early", "source", "ready")  # what changes little for a kernel alone, and doubles its space each


@dataclass(frozen=True)
class Part:
    """key: of the problem; fixed: parameters that are not varied, or prefixes ending in `_`; relative: another shape,
    whose winner a warm start may begin from."""

    key: str
    fixed: tuple[str, ...]
    relative: str

    @property
    def problem(self) -> Problem:
        return registry.parse_problem(self.key)

    def space(self, device: Device) -> Space:
        whole = registry.cuda_space(self.problem, device)
        kept = {n: v for n, v in whole.default.items() if n in self.fixed or n.startswith(self.prefixes)}
        return whole.fixed(kept)

    @property
    def relative_problem(self) -> Problem:
        return registry.parse_problem(self.relative)

    def like(self, problem: Problem) -> "Part":
        """The same part of another problem's space."""
        return replace(self, key=problem.key)

    @property
    def prefixes(self) -> tuple[str, ...]:
        return tuple(name for name in self.fixed if name.endswith("_"))


PARTS = {
    "matvec-6144x4096-Q4_0": Part(MATVEC.format(6144, 4096), ALONE, MATVEC.format(4096, 12288)),
    "matvec-4096x1024-Q4_0": Part(MATVEC.format(4096, 1024), ALONE, MATVEC.format(2048, 2048)),
    "gate-up-3072x1024-Q4_0": Part(
        FFN.format(1024, 3072),
        ("down_", "gate_up_stream", "gate_up_early", "gate_up_source"),
        FFN.format(2048, 6144),
    ),
}

HELD_OUT = {
    "matvec-1024x3072-Q8_0": Part("matvec:rows=1024,cols=3072,format=Q8_0,activation=int16", ALONE, ""),
    "head-49152x576-Q8_0": Part("head:vocab=49152,hidden=576,format=Q8_0,activation=int16", ALONE, ""),
}
"""Looked at only after screening's rules were settled on PARTS: whether they hold where nobody looked."""
