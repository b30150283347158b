"""NVTX ranges as a tree: ranges of one name inside the same others are one node, with the GPU time launched in it."""

from dataclasses import dataclass

import numpy as np

from tuning_db.trace_records import UNKNOWN, Trace


@dataclass
class RangeNode:
    """depth: 0 for an outermost range; count: ranges it stands for; wall_ns: the sum of their lengths, None where one
    is unknown; own: rows launched directly in them; launched: in them and in all ranges inside; gpu_ns: the sum of the
    lengths of those."""

    path: tuple[str, ...]
    depth: int
    count: int = 0
    wall_ns: int | None = 0
    own: int = 0
    launched: int = 0
    gpu_ns: int = 0

    @property
    def name(self) -> str:
        return self.path[-1]


def range_tree(trace: Trace) -> list[RangeNode]:
    """Depth first, of neighbours the one with most GPU time first."""
    size = len(trace.ranges)
    inside = trace.range != UNKNOWN
    launched = np.bincount(trace.range[inside], minlength=size) if size else np.empty(0, np.int64)
    time = np.zeros(size, np.int64)
    np.add.at(time, trace.range[inside], trace.duration_ns[inside])
    nodes: dict[tuple[str, ...], RangeNode] = {}
    of_range: list[RangeNode] = []
    for place, item in enumerate(trace.ranges):
        above = () if item.parent is None else of_range[item.parent].path
        label = f"{item.domain}: {item.name}" if item.domain else item.name
        path = (*above, label or "–")
        node = nodes.setdefault(path, RangeNode(path, len(above)))
        of_range.append(node)
        node.count += 1
        if item.start_ns is None or item.end_ns is None:
            node.wall_ns = None
        elif node.wall_ns is not None:
            node.wall_ns += item.end_ns - item.start_ns
        node.own += int(launched[place])
        node.launched += int(launched[place])
        node.gpu_ns += int(time[place])
    children: dict[tuple[str, ...], list[RangeNode]] = {}
    for node in sorted(nodes.values(), key=lambda node: -node.depth):  # from the innermost outwards
        if node.depth:
            outer = nodes[node.path[:-1]]
            outer.launched += node.launched
            outer.gpu_ns += node.gpu_ns
        children.setdefault(node.path[:-1], []).append(node)
    ordered: list[RangeNode] = []
    waiting = _by_time(children.get((), []))
    while waiting:
        node = waiting.pop()
        ordered.append(node)
        waiting += _by_time(children.get(node.path, []))
    return ordered


def _by_time(nodes: list[RangeNode]) -> list[RangeNode]:
    """The one with most time last."""
    return sorted(nodes, key=lambda node: (node.gpu_ns, node.wall_ns or 0, node.path))
