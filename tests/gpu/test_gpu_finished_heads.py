"""Attention that finishes heads itself on a GPU, against a kernel for them and attention behind it."""

import pytest
import torch

from kernel_templates.cuda import machine, pages
from kernel_templates.cuda.graph import Graph
from kernel_templates.cuda.rows import append
from kernel_templates.paged_attention import cuda, space
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.space import Config

pytestmark = pytest.mark.gpu

TEXTS_PAGES = 12


@pytest.mark.parametrize("combine", ["last", "kernel"])
@pytest.mark.parametrize("problem", [
    PagedAttention(1, 4, 16, 8, 128, 700), PagedAttention(1, 8, 16, 8, 128, 700), PagedAttention(8, 1, 32, 8, 128, 700),
    PagedAttention(32, 1, 16, 8, 128, 300), PagedAttention(3, 5, 9, 3, 64, 700),
    PagedAttention(3, 4, 8, 4, 256, 700, window=99),
], ids=lambda p: p.key)  # fmt: skip
def test_the_same_as_two_kernels(problem: PagedAttention, combine: str) -> None:
    """One graph at many positions; unused rows, and 200 replays that must agree to the bit: whoever ends last joins."""
    device, p, half = machine.detect(), problem, torch.float16
    default = space.cuda(p, device).default
    config = Config({**default, "combine": combine if default["splits"] > 1 else "last"})
    if not cuda.finishes(p, config):
        pytest.skip("too many heads for a program's registers on this chip")
    made = torch.Generator("cuda").manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=made, device="cuda")

    total = p.heads + 2 * p.kv_heads
    memory = numbers(p.sequences * TEXTS_PAGES, 1, 2, p.kv_heads, pages.PAGE, p.head_dim).to(half)
    table = torch.randperm(len(memory), generator=made, device="cuda").view(p.sequences, -1) * memory[0].numel()
    strides = memory.stride()[2:4]
    how = append.Heads(
        p.heads, p.kv_heads, p.head_dim, numbers(TEXTS_PAGES * pages.PAGE, p.head_dim), 1e-6,
        numbers(total * p.head_dim), (numbers(p.head_dim), numbers(p.head_dim)),
    )  # fmt: skip
    texts = torch.arange(p.sequences, dtype=torch.int32, device="cuda").repeat_interleave(p.tokens)
    rows = {"positions": torch.full_like(texts, -1), "sequences": texts, "qkv": numbers(p.rows, total * p.head_dim)}
    sides = []
    for finish in (how, None):
        own = {
            **rows, "q": torch.zeros(p.rows, p.heads, p.head_dim, dtype=half, device="cuda"), "finish": finish,
            "paged": pages.PagedCache(memory.clone(), table, 0, *strides),
            "out": torch.full((p.rows, p.heads * p.head_dim), torch.nan, dtype=half, device="cuda"),
            "attention_counters": torch.zeros(4096, dtype=torch.int32, device="cuda"),
        }  # fmt: skip
        first = [] if finish else [append.launch(how, own, own["paged"])]
        graph = Graph([*first, *cuda.launches(p, config, (), own)], machine.target(device), "cuda:0")
        sides.append((graph, own))
    for place in (p.tokens - 1, 62, 63, 64, 130, 500, 699):
        ends = torch.clamp(place - 7 * torch.arange(p.sequences, device="cuda"), min=p.tokens - 1)
        at = (ends[:, None] - torch.arange(p.tokens - 1, -1, -1, device="cuda")).int()
        at[-1, (p.tokens + 1) // 2 :] = -1
        rows["positions"].copy_(at.ravel())
        for graph, own in sides:
            graph.replay()
            torch.cuda.synchronize()
            assert not own["attention_counters"].any()
        (graph, one), (_, two) = sides
        used = rows["positions"] >= 0
        assert one["out"].isfinite().all()
        found, wanted = one["out"][used].float(), two["out"][used].float()
        assert (found - wanted).norm() < 1e-3 * wanted.norm()
        memories = one["paged"].cache.float(), two["paged"].cache.float()
        assert (memories[0] - memories[1]).abs().max() <= 2**-9 * memories[1].abs().max()
        before = one["out"].clone()
        for _ in range(200):
            graph.replay()
        assert torch.equal(one["out"], before)
