"""Short names of problems: what tells them apart is in them, tokens and texts too."""

import pytest

from autotune.dashboard.problem_names import short_names

PAGED = "paged_attention:sequences={},tokens={},heads=16,kv_heads=8,head_dim=128,context=2560"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("matvec:rows=576,cols=1536,format=Q4_0,activation=int16", "matvec 576×1536 Q4_0"),
        ("matmul:rows=6144,cols=4096,format=Q4_K,tokens=16", "matmul 6144×4096 Q4_K 16 tokens"),
        (PAGED.format(1, 2048), "paged_attention 16/8×128 2048 tokens @2560"),
        (PAGED.format(32, 1), "paged_attention 16/8×128 32 texts @2560"),
    ],
)
def test_a_name(key: str, name: str) -> None:
    assert short_names([key]) == {key: name}


def test_products_of_unlike_widths_have_names_of_their_own() -> None:
    keys = [f"matmul:rows=6144,cols=4096,format=Q4_0,tokens={tokens}" for tokens in (16, 64, 256, 2048)]
    assert len(set(short_names(keys).values())) == 4
    gated = f"{keys[0]},gate=silu"
    names = short_names([keys[0], gated])
    assert names == {key: key for key in (keys[0], gated)}, "what no short name tells apart keeps its key"
