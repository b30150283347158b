"""GPU time by CUDA events, and kernels captured as a graph: how everything here times a GPU.

Two events around several repeats in one stream: an event resolves half a microsecond, and a kernel of a layer takes
one or two. One repeat goes before the first event, so that the GPU is busy until the others are queued: starting work
from Python takes longer than the work. A graph replays many kernels with one such start.
"""

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


def mean_ns(work: Callable[[], object], repeats: int, prepare: Callable[[], object] = lambda: None) -> float:
    """Nanoseconds of GPU time that `work` takes, the mean of `repeats` in the current stream. prepare: called between
    the untimed first one and the others. Raises what `work` and CUDA raise."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    work()
    prepare()
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e6 / repeats


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def capture(work: Callable[[], object]) -> Any:
    """What `work` launches on the current device, as a torch.cuda.CUDAGraph; the tensors it uses must outlive that.

    It runs once before: Triton loads code that a capture must not see, and cuBLAS makes its workspace. That belongs to
    a stream, so all captures of a device have one: a stream each would keep tens of megabytes each. Raises what `work`
    and CUDA raise."""
    stream = _capture_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph: it hands all cached memory back first, which the next candidate would ask for again.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        except BaseException:
            with contextlib.suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph
