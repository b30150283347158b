"""What the host wrote for a pass, brought into the device's memory by a kernel of the pass itself.

A copy that the host asks for is a call of the driver for each pass, and a copy in a graph goes through another engine
than kernels do. Some words that lie in pinned memory take a kernel one way over the bus and back.
"""

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def fetch_words(host, words, COUNT: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr):
    """words [COUNT] = host; one program. SIZE: the next power of two."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    i = tl.arange(0, SIZE)
    tl.store(words + i, tl.load(host + i, mask=i < COUNT, volatile=True), mask=i < COUNT)


def launch(host: torch.Tensor, words: torch.Tensor) -> Launch:
    """Reads host int32 [any shape], which may be pinned memory of the host; writes words, of the same shape."""
    assert host.shape == words.shape
    count = words.numel()
    constants = {"COUNT": count, "SIZE": triton.next_power_of_2(count)}
    return Launch("fetch", fetch_words, (1,), (host, words), constants, warps=1)
