"""Registers that nothing has written yet, in machine code as cuobjdump prints it."""

import pytest

from kernel_templates.cuda.sass import unwritten

RIGHT = """
        /*0010*/                   S2R R18, SR_TID.X ;                          /* 0x0000000000127919 */
        /*03c0*/                   UMOV UR8, 0x400 ;                            /* 0x0000040000087882 */
        /*0740*/                   ULDC.64 UR4, c[0x0][0x228] ;                 /* 0x00008a0000047ab9 */
        /*09f0*/                   IADD3 R4, P1, R18, 0x20, RZ ;
        /*0a00*/               @P0 R2UR P1, UR9, R4 ;                           /* 0x00000000040972ca */
        /*0a10*/                   UIADD3 UR6, UP1, UR9, 0x20, URZ ;            /* 0x0000002009067890 */
        /*0a20*/                   UIADD3.X UR7, UR5, -0x3ffffff0, URZ, UP1, !UPT ;
        /*0a30*/                   STS.128 [R3+UR8+0x4000], R12 ;
        /*0a40*/                   HGMMA.64x16x16.F32 R32, gdesc[UR4].tnspB, R32, gsb0 ;
        /*0a50*/                   HGMMA.64x16x16.F32 R24, R60, gdesc[UR4].tnspB, RZ, !UPT ;
        /*0a60*/                   UISETP.GT.AND UP1, UPT, UR6, URZ, !UP0 ;
        /*0a70*/                   IADD3 R18, R18, 0x20, RZ ;
        /*0a80*/               @P1 BRA 0x9f0 ;
        /*0a90*/                   EXIT ;
"""
PRODUCT = "HGMMA.64x16x16.F32 R32, gdesc[UR4].tnspB, R32, gsb0"


def test_all_are_written() -> None:
    assert unwritten(RIGHT) == {}


@pytest.mark.parametrize(
    ("written", "missing"),
    [
        ("S2R R18, SR_TID.X", {"UR6"}),  # written later, from itself
        ("IADD3 R4, P1, R18, 0x20, RZ", {"UR6"}),
        ("@P0 R2UR P1, UR9, R4", {"UR6"}),
        ("UIADD3 UR6, UP1, UR9, 0x20, URZ", {"UR6"}),
        ("ULDC.64 UR4, c[0x0][0x228]", {"UR4", "UR5", "UR7"}),
    ],
)
def test_one_is_not(written: str, missing: set[str]) -> None:
    assert unwritten(RIGHT.replace(written, "NOP")) == dict.fromkeys(missing, PRODUCT)


def test_an_address_is_not() -> None:
    assert unwritten(RIGHT.replace("UMOV UR8, 0x400", "NOP")) == {"UR8": "STS.128 [R3+UR8+0x4000], R12"}


def test_one_is_written_on_another_path() -> None:
    """Of a jump over it, nobody knows whether it is ever taken."""
    jump = RIGHT.replace("/*0010*/", "/*0000*/ @P0 BRA 0x3c0 ; /*0010*/")
    assert unwritten(jump) == {}
    assert set(unwritten(jump.replace("@P0 ", ""))) == {"UR6"}


def test_a_left_operand_of_a_thread_s_own_has_no_descriptor() -> None:
    text = (
        "/*0010*/ UMOV UR6, 0x1 ; /*0020*/ UMOV UR7, 0x1 ; /*0030*/ HGMMA.64x16x16.F32 R24, {}gdesc[UR4].tnspB, R24 ;"
    )
    assert unwritten(text.format("R60, ")) == {}
    assert set(unwritten(text.format(""))) == {"UR4", "UR5"}
