"""Short names of kernels: as short as they stay different, and units as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.dashboard.human_units import human
from autotune.dashboard.kernel_names import short_names

ELEMENTWISE = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_{}<float>, std::array<char*, 3> >"
    "(int, at::native::CUDAFunctor_{}<float>, std::array<char*, 3>)"
)
TILES = "void cutlass::Kernel2<cutlass_80_tensorop_f16_s16816gemm_relu_f16_{}_32x5_tn_align8>(Params)"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["k01", "_product_kernel_0", "graph 12"], ["k01", "_product_kernel_0", "graph 12"]),
        (["void at::native::(anonymous namespace)::softmax_warp<float, 5>(float*, int)"], ["softmax_warp"]),
        (
            [ELEMENTWISE.format("add", "add"), ELEMENTWISE.format("mul", "mul")],
            ["vectorized_elementwise_kernel<…add…>", "vectorized_elementwise_kernel<…mul…>"],
        ),
        ([TILES.format("128x128"), TILES.format("256x128")], ["Kernel2<…128x128…>", "Kernel2<…256x128…>"]),
        (["saxpy(int, float*)", "saxpy(int, double*)"], ["saxpy(int, float*)", "saxpy(int, double*)"]),
        (["a::f<int>()", "b::f<int>()"], ["a::f", "b::f"]),
        (["int f(int)", "void f(int)"], ["int f(int)", "void f(int)"]),  # only the result type tells them apart
        (["", "<", "(", "f<", "[CUDA memset]"], ["", "<", "(", "f", "[CUDA memset]"]),
    ],
)
def test_what_names_share_is_left_out(names, expected):
    short = short_names(names)
    assert [short[name] for name in names] == expected


@given(st.lists(st.text(alphabet="ab:<>(), _4…", max_size=14), max_size=8))
def test_different_names_stay_different(names):
    short = short_names(names)
    assert short.keys() == set(names)
    assert len(set(short.values())) == len(short)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (4_790_000, "ns", "4.79 ms"), (6.99e9, "hz", "6.99 GHz"), (999.96, "ns", "1 µs"), (0.4, "ns", "0.4 ns"),
        (0, "byte", "0 B"), (3.35e12, "byte/s", "3.35 TB/s"), (12.5, "%", "12.5%"), (5, "block", "5 block"),
        (-2_000, "ns", "-2 µs"), (float("nan"), "ns", "nan ns"), (1.5, "", "1.5"),
    ],
)  # fmt: skip
def test_units_are_those_people_use(value, unit, expected):
    assert human(value, unit) == expected
