"""Bytes that ggml's `ggml_quantize_chunk` (libggml 0.25.3, x86-64) made of fixed weights, so that Q6_K's search and the
zeros that only C treats in its way are judged on every machine."""

import numpy as np
import pytest
import torch

from kernel_templates import formats


def ramp(n: int, shrink: float = 1.0) -> np.ndarray:
    """float32 [1, n] of exact fractions; every run of 16 has another size, so that sub-blocks differ."""
    i = np.arange(n, dtype=np.int64)
    fraction = ((i * i * 7 + i * 13) % 251 - 125) / 64
    return (fraction * np.exp2(-(i // 16 % 5)) * shrink).astype(np.float32)[None]


def patchy() -> np.ndarray:
    """Sub-blocks that are zero, negligible, constant, tied, of one sign and of one value, in one super-block."""
    x = ramp(256)[0].copy()
    x[:16], x[16:32], x[32:48] = 0, 1e-16, -0.75
    x[48:64] = np.where(np.arange(16) % 3, 0.5, -0.5)
    x[64:80] = np.abs(x[64:80])
    x[80:96] = 0
    x[90] = 3.0
    x[96:112] *= np.float32(1e-4)  # its subscale rounds to 0
    return x[None]


def zeros(first: float, then: float) -> np.ndarray:
    return np.array([[first] + [then] * 31], dtype=np.float32)


GOLDEN = [
    (
        "Q6_K",
        ramp(256),
        "30c5aebafa6e241f3daf341d1969ec9390a220be75b8f7622d1144b05c0125860e55502fc0264f3ced50a8a3710479927f10"
        "add6fbad5ab4baac6ae92f22e6710452b348112d6df1b872b022a8918ded61181230a238112d6df1b8a3c234d9b2f2125e86"
        "5a6bbb451a3f8d2a0127098840173a8a05dec3f4620cf20555e0a9ad208030add25391d6d812253f061de4806008b81f8f3e"
        "adec2a65a3adf6c099a2cebf28e9a7602e29330a117883e70a6ed343f061129f5d1a141fe9300b227599803de00ff885401f"
        "f0f87b40e1f0f980c08f",
    ),
    (
        "Q6_K",
        ramp(256, shrink=-(2.0**-17)),
        "30c5aebafa6e241f3daf341d1969ec9390a220be75b8f7622d1144b05c0125860e55502fc0164f3cfd5098a3710479927f10"
        "add6fbac5ab4baac6ae92f22e6710452b248122d6ef0b972b021a8918dfd510811309239001e6df2b8b2c234e9a2e2127e66"
        "4a6bcb653a5fad3a0117099840173a8905dfc3f4610cf20555e0a8ae208030add25391d6d812253f061de4806008b81f8f3e"
        "adec2a65a3adf6c099a2cebf28e9a7602e29330a117883e70a6ed343f061129f5d1a141fe9300b227599803de00ff885401f"
        "f0f87b40e1f0f9800000",
    ),
    (
        "Q6_K",
        ramp(256, shrink=2.0**-10),
        "31d69eaafa7d241e4dae340c2969eda491b321bd84a7e7632d1144a15c1226861e46612eb127402cec61a8b282136a837020"
        "ade5eabc49a3c9bc6ad81f13e6721441a448112e6de1a782b123b7909cec60270331a247112d7ef1a894d134c9b2f1116d76"
        "5b6cbb542b4f9e3a0217099731282b8a16cec204721be21664e1a9ad208030add25395d6d812253f061de4806408b81f8f3e"
        "adec2a65a3adf6c099a2cebf28e9a7602e29330a117883e70a6ed343f061129f5d5a141fe9300b227599803de00ff885401f"
        "f0f87b40e1f0f9800880",
    ),
    (
        "Q6_K",
        ramp(256, shrink=2.0**-80),
        "00" * 210,
    ),
    (
        "Q6_K",
        ramp(256, shrink=2.0**21),
        "30d5aebafa7d241f3daf341d1969ec9390a220be75b8f7622d1144b05c0126860e55502fc0264f3ced60a8a3710479937f00"
        "bdd6fbac5ac4baac6ae92f22f6710463b148122c7ef0b972bf30a9928efe500822409238011d6df1b8c3b234f9a2f2125e86"
        "5a6abc45293f9c2b0027098840173a8a06dec3f4620cf20555e0a9ad208030add25391d6d812253f061de4806008b81f8f3e"
        "adec2a65a3adf6c099a2cebf28e9a7602e29330a107883e70a6ed343f061129f5d1a141fe9300b227599803de00ff886401e"
        "f1f87740e2f1f980cce3",
    ),
    (
        "Q6_K",
        patchy(),
        "d0c05050f06010003090d0f0005020800000000000000000000000000000000000505020c0104030f05090a070007090711f"
        "afd1ffaf51bfbfa16fef212fef710452b248122d6ef0b972b021a9918ded510911309239001e6df2b8b2c234e9a2d2128e66"
        "4a7bdb754a6fbd3a0107199740173a8905dfc3f4610cf20555e0a8ae10800090d05090d0d01010000010d080602cac20ac2c"
        "a0ec2c608cace0ecaca0cebf28e9a7602e29330a117883e70a6ed343f061129f5d1a141fe9300b22759900002016fb8000ec"
        "0a05b0d7140a05530012",
    ),
    (
        "Q6_K",
        np.zeros((1, 256), np.float32),
        "00" * 210,
    ),
    (
        "Q4_0",
        ramp(32),
        "d033c0c1c3476a7f95cc63ac65af7ac69371",
    ),
    (
        "Q4_1",
        ramp(32),
        "0034d0bfc0b1c3465a7f95bb63ab55af6ab69371",
    ),
    (
        "Q8_0",
        ramp(32),
        "e0238195b8e92875d13bb43acf7224e4b28e3c383cc7d9f21239e81dda1de93a14f4",
    ),
    (
        "Q4_0",
        zeros(-0.0, -0.0),
        "008088888888888888888888888888888888",
    ),
    (
        "Q4_1",
        zeros(-0.0, 0.0),
        "0000008000000000000000000000000000000000",
    ),
    (
        "Q4_1",
        zeros(0.0, -0.0),
        "00" * 20,
    ),
    (
        "Q8_0",
        zeros(-0.0, 0.0),
        "00" * 34,
    ),
]


@pytest.mark.parametrize("name, weights, expected", GOLDEN, ids=[f"{case[0]}-{i}" for i, case in enumerate(GOLDEN)])
def test_quantize_gives_ggmls_bytes(name, weights, expected):
    assert formats.get(name).quantize(torch.from_numpy(weights)).numpy().tobytes().hex() == expected
