"""Registers that nothing writes, in machine code as cuobjdump prints it."""

import pytest

from kernel_templates.cuda.sass import unwritten

RIGHT = """
        /*03c0*/                   UMOV UR8, 0x400 ;                            /* 0x0000040000087882 */
        /*0740*/                   ULDC.64 UR4, c[0x0][0x228] ;                 /* 0x00008a0000047ab9 */
        /*0a00*/               @P0 R2UR P1, UR9, R4 ;                           /* 0x00000000040972ca */
        /*0a10*/                   UIADD3 UR6, UP1, UR9, 0x20, URZ ;            /* 0x0000002009067890 */
        /*0a20*/                   UIADD3.X UR7, UR5, -0x3ffffff0, URZ, UP1, !UPT ;
        /*0a30*/                   STS.128 [R3+UR8+0x4000], R12 ;
        /*0a40*/                   HGMMA.64x16x16.F32 R32, gdesc[UR4].tnspB, R32, gsb0 ;
        /*0a50*/                   HGMMA.64x16x16.F32 R24, R60, gdesc[UR4].tnspB, RZ, !UPT ;
        /*0a60*/                   UISETP.GT.AND UP1, UPT, UR6, URZ, !UP0 ;
"""


def test_all_are_written() -> None:
    assert unwritten(RIGHT) == {}


@pytest.mark.parametrize(
    ("written", "missing"),
    [
        ("R2UR P1, UR9, R4", {9: "UIADD3 UR6, UP1, UR9, 0x20, URZ"}),
        ("UMOV UR8, 0x400", {8: "STS.128 [R3+UR8+0x4000], R12"}),
        ("UIADD3 UR6, UP1, UR9, 0x20, URZ", {6: "HGMMA.64x16x16.F32 R32, gdesc[UR4].tnspB, R32, gsb0"}),
        (
            "ULDC.64 UR4, c[0x0][0x228]",
            {
                4: "HGMMA.64x16x16.F32 R32, gdesc[UR4].tnspB, R32, gsb0",
                5: "UIADD3.X UR7, UR5, -0x3ffffff0, URZ, UP1, !UPT",
            },
        ),
    ],
)
def test_one_is_not(written: str, missing: dict[int, str]) -> None:
    assert unwritten(RIGHT.replace(written, "NOP")) == missing


def test_a_left_operand_of_a_thread_s_own_has_no_descriptor() -> None:
    text = (
        "/*0010*/ UMOV UR6, 0x1 ; /*0020*/ UMOV UR7, 0x1 ; /*0030*/ HGMMA.64x16x16.F32 R24, {}gdesc[UR4].tnspB, R24 ;"
    )
    assert unwritten(text.format("R60, ")) == {}
    assert set(unwritten(text.format(""))) == {4, 5}
