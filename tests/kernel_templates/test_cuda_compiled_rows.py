"""The kernels between products of many tokens compiled for chips that are not here: what the machine code does."""

import os
import re

import pytest
import torch
from compiled_once import cross_compile

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from kernel_templates import formats
from kernel_templates.cuda import pages
from kernel_templates.cuda.crosscompile import Compiled
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.rows import add_norm, append, embed, fetch, layer_inputs, soft_cap, take_row
from kernel_templates.cuda.rows.gate import gate
from kernel_templates.cuda.vector import Vector

ROWS = 4
HALF = torch.float16


def norm_launch(hidden: int, post: bool = False) -> Launch:
    x, weight = torch.zeros(ROWS, hidden), torch.zeros(hidden)
    branch = add_norm.Branch(torch.zeros(ROWS, hidden), 16.0, post_norm=weight if post else None)
    return add_norm.launch("norm", x, branch, add_norm.Norm(weight, torch.zeros(ROWS, hidden, dtype=HALF)), 1e-6)


def append_launch(heads: int, kv_heads: int, head_dim: int, rope_dim: int, layers: int = 2) -> Launch:
    total = (heads + 2 * kv_heads) * head_dim
    cache = torch.zeros(layers, 2, kv_heads, 256, head_dim, dtype=HALF)
    rows = {
        "qkv": torch.zeros(ROWS, total), "q": torch.zeros(ROWS, heads * head_dim, dtype=HALF),
        "positions": torch.zeros(ROWS, dtype=torch.int32), "sequences": torch.zeros(ROWS, dtype=torch.int32),
    }  # fmt: skip
    norm = torch.zeros(head_dim)
    how = append.Heads(heads, kv_heads, head_dim, torch.zeros(256, rope_dim), 1e-6, torch.zeros(total), (norm, norm))
    return append.launch(how, rows, pages.in_one_piece(tuple(cache))[-1])


def mix_launch(hidden: int, layers: int, size: int) -> Launch:
    rows = torch.zeros(ROWS, layers * size)
    return layer_inputs.mix(torch.zeros(ROWS, hidden), rows, torch.zeros(size), rows, 1e-6)


def input_gate_launch(hidden: int, layers: int, size: int) -> Launch:
    y, inputs = torch.zeros(ROWS, size), torch.zeros(ROWS, layers * size)
    out = torch.zeros(ROWS, size, dtype=HALF)
    return layer_inputs.gate(torch.zeros(ROWS, hidden), y, inputs, size, out, 1e-6)


def embed_launch(name: str) -> Launch:
    raw = torch.zeros(64, formats.get(name).row_bytes(4096), dtype=torch.uint8)
    return embed.launch(Embedding(raw, name, 4096, 2.0), torch.zeros(ROWS, dtype=torch.int32), torch.zeros(ROWS, 4096))


LAUNCHES = {
    "SmolLM2's norm": norm_launch(576),
    "Qwen3-8B's norm": norm_launch(4096),
    "a post norm": norm_launch(2560, post=True),
    "rows longer than registers": norm_launch(16384, post=True),
    "SmolLM2's heads": append_launch(9, 3, 64, 64),
    "Qwen3-8B's heads": append_launch(32, 8, 128, 128),
    "Phi's heads": append_launch(32, 32, 96, 96),
    "Gemma's heads": append_launch(8, 4, 256, 256),
    "silu": gate(torch.zeros(ROWS, 2 * 12288), torch.zeros(ROWS, 12288, dtype=HALF), "silu"),
    "silu of float16": gate(torch.zeros(ROWS, 2 * 12288, dtype=HALF), torch.zeros(ROWS, 12288, dtype=HALF), "silu"),
    "gelu": gate(torch.zeros(ROWS, 2 * 1536), torch.zeros(ROWS, 1536, dtype=HALF), "gelu"),
    "Gemma 4 E4B's inputs of layers": mix_launch(2560, 42, 256),
    "Gemma 4 E4B's gate of an input": input_gate_launch(2560, 42, 256),
    "a Q4_0 embedding": embed_launch("Q4_0"),
    "a Q6_K embedding": embed_launch("Q6_K"),
    "a cap": soft_cap.launch(torch.zeros(ROWS, 256000), 30.0),
    "words of the host": fetch.launch(torch.zeros(3, 8, dtype=torch.int32), torch.zeros(3, 8, dtype=torch.int32)),
    "a row for the head": take_row.launch(torch.zeros(4096), torch.zeros(4096), Vector.allocate(4096, "cpu"), "int16"),
}


def widths(code: Compiled, kind: str) -> set[int]:
    """Bits that global loads or stores ("ld", "st") move at once."""
    found = re.findall(rf"{kind}\.global(?:\.\w+)*?\.(?:v(\d)\.)?[bf](\d+)", code.ptx)
    return {int(count or 1) * int(bits) for count, bits in found}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", LAUNCHES)
def test_nothing_spills_and_numbers_move_in_wide_pieces(name: str, capability: int) -> None:
    code = cross_compile(LAUNCHES[name], capability)
    print(f"{name}, sm_{capability}: {code.registers} registers, {code.shared} bytes shared")
    assert code.spills == 0
    narrow = ("embedding", "row for", "words of")  # those decode groups of 8, an element a lane, or move a few words
    if not any(word in name for word in narrow):
        least = 32 if "gate of an input" in name else 64  # of its 256 elements a thread has two
        assert max(widths(code, "ld")) == 128 and max(widths(code, "st")) >= least


@pytest.mark.parametrize("name", LAUNCHES)
def test_chained_kernels_wait_before_they_read_or_write(name: str) -> None:
    """On Hopper a kernel lets the next one start, and waits for the one before it."""
    ptx = cross_compile(LAUNCHES[name], 90).ptx
    assert ptx.index("griddepcontrol.launch_dependents") < ptx.index("griddepcontrol.wait")
    assert "griddepcontrol" not in cross_compile(LAUNCHES[name], 80).ptx
    assert "st.global" not in ptx[: ptx.index("griddepcontrol.wait")]
