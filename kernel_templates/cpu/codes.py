"""What stands behind codes: entries of a codebook of 16, and scales that are exponents of two."""

from llvmlite import ir

from kernel_templates.cpu.dot import by_register

I8, I32 = ir.IntType(8), ir.IntType(32)


def emit_codebook(builder, words, entries: tuple[int, ...], vec: ir.VectorType, features: frozenset[str]):
    """Write at `builder`: words of four codes, 0..15 a byte, of LLVM type `vec`, -> of four entries, 0..255.

    A shuffle of bytes where the processor has one, else choices by the codes' bits.
    """
    shuffles = (("avx512bw", 512, "avx512.pshuf.b.512"), ("avx2", 256, "avx2.pshuf.b"), ("ssse3", 128, "ssse3.pshuf.b.128"))
    bytes_type = ir.VectorType(I8, 4 * vec.count)
    for feature, width, name in shuffles:
        if feature in features:
            table = builder.bitcast(ir.Constant(bytes_type, [*entries] * (vec.count // 4)), vec)
            return by_register(builder, f"llvm.x86.{name}", width, 8, (table, words), vec)
    codes, level = builder.bitcast(words, bytes_type), [_constant(bytes_type, entry) for entry in entries]
    for bit in range(4):
        odd = builder.icmp_unsigned("!=", builder.and_(codes, _constant(bytes_type, 1 << bit)), _constant(bytes_type, 0))
        level = [builder.select(odd, b, a) for a, b in zip(level[::2], level[1::2], strict=True)]
    return builder.bitcast(level[0], vec)


def emit_exponent(builder, e, vec: ir.VectorType):
    """Write at `builder`: bytes e -> float32 2^(e - 128), of LLVM type `vec`: E8M0 halved, subnormal for e < 2."""
    wide = ir.VectorType(I32, vec.count)
    e = builder.zext(e, wide)
    small = builder.shl(_constant(wide, 0x00200000), e)
    normal = builder.shl(builder.sub(e, _constant(wide, 1)), _constant(wide, 23))
    return builder.bitcast(builder.select(builder.icmp_unsigned("<", e, _constant(wide, 2)), small, normal), vec)


def _constant(llvm_vec, value):
    return ir.Constant(llvm_vec, [value] * llvm_vec.count)
