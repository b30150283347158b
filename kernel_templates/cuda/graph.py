"""Launches captured once as a CUDA graph and replayed: one call of the driver for a whole token."""

from collections.abc import Sequence

import torch

from kernel_templates.cuda.launch import Launch, Target


class Graph:
    """Kernels in order, with the PDL edges that `target` allows. Capturing runs none of them."""

    def __init__(
        self, launches: Sequence[Launch], target: Target, device: torch.device | str,
        stream: torch.cuda.Stream | None = None,
    ):  # fmt: skip
        """stream: which one captures; one for many graphs, where a library has memory for each stream it ever saw."""
        self.launches = tuple(launches)  # the graph holds addresses: their tensors must live as long
        with torch.cuda.device(device):
            stream = torch.cuda.Stream() if stream is None else stream
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for launch in self.launches:
                    launch.load(target)  # a module that is loaded during a capture breaks it
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream):
                for launch in self.launches:
                    launch.run(target)

    def replay(self) -> None:
        """Start the kernels on the current stream; returns at once."""
        self._graph.replay()
