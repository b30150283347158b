"""The mixture of experts in Triton's interpreter against the float64 reference: formats, traits, odd sizes."""

import pytest
from test_interp_operations import drawn, relative_error, space, tolerance

KEY = "moe:hidden={0},ffn={1},experts={2},used={3},router_format={4},gate_format={5},up_format={6},down_format={7},"


def key(*fields, activation: str = "int16", **traits) -> str:
    return KEY.format(*fields) + f"activation={activation}" + "".join(f",{k}={v}" for k, v in traits.items())


SHARED = {"shared_ffn": 64, "shared_gate_format": "Q8_0", "shared_up_format": "Q8_0", "shared_down_format": "Q8_0"}


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4", "F16", "BF16", "Q3_K"])
def test_every_kind_of_format(name):
    size = 256 if name.endswith("_K") else 64
    asked = key(size, size, 4, 2, "F32", name, name, name, normalized=1)
    assert relative_error(asked, space(asked).default) <= (1e-4 if name != "Q3_K" else tolerance(asked))


@pytest.mark.parametrize("asked", [
    key(96, 32, 5, 3, "F32", "Q4_0", "Q8_0", "Q4_1"),
    key(96, 32, 5, 1, "F16", "Q8_0", "Q8_0", "F16", gate_function="gelu"),
    key(64, 96, 6, 4, "F32", "MXFP4", "MXFP4", "MXFP4", gate_function="swiglu_oai", routing="softmax_of_chosen", bias=1),
    key(160, 32, 8, 2, "BF16", "Q8_0", "Q8_0", "Q8_0", routing="sigmoid", normalized=1, scale=2.5, post_norm=1),
    key(64, 32, 8, 2, "F32", "Q8_0", "Q8_0", "Q8_0", **SHARED),
    key(64, 96, 8, 3, "F32", "Q4_0", "Q4_0", "Q4_0", **SHARED, shared_gated=1),
    key(64, 32, 4, 4, "F32", "Q8_0", "Q8_0", "Q8_0", activation="int8"),
])  # fmt: skip
def test_traits_and_odd_sizes(asked):
    assert relative_error(asked, space(asked).default) <= tolerance(asked)
