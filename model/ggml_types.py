"""Names of ggml's tensor types by their number in a GGUF file, those that no format here reads included; and the line
that refuses a file with such tensors."""

from collections.abc import Iterable

from kernel_templates.formats import FORMATS

# From the enum ggml_type of ggml.h; 4, 5, 31 to 33 and 36 to 38 were removed there.
NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}  # fmt: skip

MOST = 8  # types shown in one line


def name(number: int) -> str:
    """For an error message."""
    return NAMES.get(number, f"number {number} (unknown here)")


def refusal(numbers: Iterable[int]) -> str | None:
    """What is wrong with a file that has tensors of these types, and what to do, in one line; None if all are read.

    Quantizing again helps against a quantization, not against integers and numbers that are unknown.
    """
    missing = sorted(set(numbers) - {fmt.ggml_type for fmt in FORMATS.values()})
    if not missing:
        return None
    shown = [name(number) for number in missing[:MOST]] + [f"{len(missing) - MOST} more"] * (len(missing) > MOST)
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    begins = f"it has tensors of type {listed}, which {'is' if len(missing) == 1 else 'are'} not supported"
    if all(number in NAMES and not NAMES[number].startswith(("I8", "I16", "I32", "I64")) for number in missing):
        return f"{begins}; get or quantize the model as one of {', '.join(FORMATS)}"
    return f"{begins}; the file is damaged or made for another program"
