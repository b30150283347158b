"""A problem's key names it for good: stable, unique, and readable back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_templates import registry
from kernel_templates.attention.problem import Attention
from kernel_templates.ffn.problem import GATE_FUNCTIONS, Ffn
from kernel_templates.formats import FORMATS
from kernel_templates.head.problem import Head
from kernel_templates.matvec.problem import Matvec
from kernel_templates.norm_qkv_rope.problem import NormQkvRope

sizes = st.integers(1, 1 << 40)
names = st.sampled_from(sorted(FORMATS))
activations = st.sampled_from(["int8", "int16"])
problems = st.one_of(
    st.builds(Matvec, sizes, sizes, names, activations),
    st.builds(Head, sizes, sizes, names, activations),
    st.builds(Ffn, sizes, sizes, names, names, names, activations),
    st.builds(Matvec, sizes, sizes, names, activations, post_norm=st.integers(0, 1)),
    st.builds(Head, sizes, sizes, names, activations, softcap=st.floats(0, 1e6)),
    st.builds(
        Ffn,
        sizes,
        sizes,
        names,
        names,
        names,
        gate_function=st.sampled_from(GATE_FUNCTIONS),
        post_norm=st.integers(0, 1),
    ),
    st.builds(Attention, sizes, sizes, sizes, sizes),
    st.builds(NormQkvRope, sizes, sizes, sizes, sizes, sizes, st.integers(0, 1), names, names, names, activations),
)


@given(problems)
def test_a_key_reads_back_as_its_problem(problem):
    assert registry.parse_problem(problem.key) == problem


@given(problems, problems)
def test_different_problems_have_different_keys(one, other):
    assert (one.key == other.key) == (one == other)


def test_keys_stay_as_databases_hold_them():
    """A key that changes its spelling orphans every winner stored under the old one."""
    assert Matvec(576, 1536, "Q4_1").key == "matvec:rows=576,cols=1536,format=Q4_1,activation=int16"
    assert Head(49152, 576, "Q8_0", "int8").key == "head:vocab=49152,hidden=576,format=Q8_0,activation=int8"
    assert Attention(9, 3, 64, 512).key == "attention:heads=9,kv_heads=3,head_dim=64,context=512"
    assert Ffn(576, 1536, "Q4_1", "Q4_0", "Q8_0").key == (
        "ffn:hidden=576,ffn=1536,gate_format=Q4_1,up_format=Q4_0,down_format=Q8_0,activation=int16"
    )
    assert NormQkvRope(576, 9, 3, 64, 32, 1, "Q4_1", "Q4_0", "F16").key == (
        "norm_qkv_rope:hidden=576,heads=9,kv_heads=3,head_dim=64,rope_dim=32,qk_norm=1,"
        "q_format=Q4_1,k_format=Q4_0,v_format=F16,activation=int16"
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("matvec:rows=1,cols=32", "format is missing; a problem names rows, cols, format"),
        ("matvec:rows=-1,cols=32,format=F32,activation=int8", "rows='-1' is not a whole number"),
        ("matvec:rows=1.5,cols=32,format=F32,activation=int8", "rows='1.5' is not a whole number"),
        ("matvec:rows=1,cols=32,format=F32,activation=int8,depth=2", "unknown field 'depth'"),
        ("matvec:rows=1,cols=32,format=F32,activation=int8,post_norm=2", "post_norm='2' is not one of 0, 1"),
        (
            "ffn:hidden=32,ffn=32,gate_format=F32,up_format=F32,down_format=F32,activation=int8,gate_function=relu",
            "gate_function='relu' is not one of silu, gelu",
        ),
        ("head:vocab=8,hidden=32,format=F32,activation=int8,softcap=-1", "softcap='-1' is not a number of 0 or more"),
        ("head:vocab=8,hidden=32,format=F32,activation=int8,softcap=nan", "softcap='nan' is not a number of 0 or more"),
        ("matvec", "rows is missing"),
        ("conv:rows=1", "no operation is called 'conv'; there are norm_qkv_rope, attention"),
        ("", "no operation is called ''"),
    ],
)
def test_a_wrong_key_is_refused_by_name(key, message):
    with pytest.raises(ValueError, match=message):
        registry.parse_problem(key)


def test_parts_of_the_first_kernel_lie_in_the_order_of_the_output():
    matrices = NormQkvRope(576, 9, 3, 64, 64, 0, "Q4_1", "Q4_0", "Q8_0").matrices
    assert [(m.name, m.rows, m.format) for m in matrices] == [
        ("q", 576, "Q4_1"),
        ("k", 192, "Q4_0"),
        ("v", 192, "Q8_0"),
    ]
