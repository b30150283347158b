"""The frame of an .ncu-rep file: what is whole, what is left of a cut one, what is none."""

import random
from itertools import pairwise

import pytest

from autotune.importers import ncu_rep_framing
from autotune.importers.ncu_rep_framing import Damaged


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def sized(message):
    return len(message).to_bytes(4, "little") + message


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(sources=(), results=(), ranges=(), extra=b""):
    payload = b"".join(sized(entry) for entry in (*sources, *results, *ranges))
    counts = field(1, len(sources)) + field(2, len(results)) + field(5, len(payload)) + field(7, len(ranges))
    return sized(counts + extra) + payload


HEAD = ncu_rep_framing.MAGIC + sized(field(1, 3))
DRIVER = field(8, field(1, b"CUDA Version") + field(2, b"13.0"))
TOOL = field(8, field(1, b"Nsight Compute Target") + field(2, b"2023.1.0.0 (build 7) (public-release)"))
SESSION = field(3, field(2, 1_700_000_000) + DRIVER + TOOL) + field(4, field(1, b"gpu__time_duration.sum"))
FILE = (
    HEAD
    + block(sources=[b"s" * 50], extra=SESSION)
    + block(results=[b"r" * 200, b"q" * 300])
    + block(results=[b"p" * 30], ranges=[b"o" * 10])
)


def test_a_whole_file():
    found = ncu_rep_framing.blocks(FILE)
    assert [(b.sources, b.results) for b in found] == [(1, 0), (0, 2), (0, 2)]
    assert found[-1].end == len(FILE)
    assert all(one.end < other.start for one, other in pairwise(found))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"NV", "does not begin"),
        (b"PK\3\4" + FILE[4:], "does not begin"),
        (ncu_rep_framing.MAGIC, "middle of a header"),
        (HEAD, "has no kernels"),
        (HEAD + block(sources=[b"s"]), "has no kernels"),
        (HEAD + sized(b"\x0f"), "makes no sense"),
        (HEAD + sized(b"\x08"), "makes no sense"),
        (HEAD + sized(field(5, 1 << 40)), "too large"),
    ],
)
def test_none_and_damaged(data, what):
    with pytest.raises(Damaged, match=what) as caught:
        ncu_rep_framing.blocks(data)
    assert caught.value.results == 0


def test_every_cut_counts_what_is_whole_before_it():
    """4 results; those whose last byte is there count."""
    ends = [
        FILE.index(b"r" * 200) + 200, FILE.index(b"q" * 300) + 300, FILE.index(b"p" * 30) + 30, len(FILE),
    ]  # fmt: skip
    boundaries = {b.end for b in ncu_rep_framing.blocks(FILE)}
    for size in range(len(FILE)):
        whole = sum(1 for end in ends if end <= size)
        if size in boundaries and whole:  # between two blocks nothing in the frame is amiss
            assert sum(b.results for b in ncu_rep_framing.blocks(FILE[:size])) == whole
            continue
        with pytest.raises(Damaged) as caught:
            ncu_rep_framing.blocks(FILE[:size])
        assert caught.value.results == whole


def test_who_wrote_it_and_when():
    assert ncu_rep_framing.about(ncu_rep_framing.blocks(FILE)) == ("2023.1.0.0", 1_700_000_000)


def test_the_driver_is_not_the_tool():
    """A report that does not name the tool has it in the path of the command that recorded it, or nowhere."""
    command = field(11, field(1, b"/opt/nvidia/nsight-compute/2022.4.1/ncu") + field(2, b"--set"))
    for session, version in ((DRIVER, ""), (DRIVER + command, "2022.4.1"), (command, "2022.4.1")):
        assert ncu_rep_framing.about([ncu_rep_framing.Block(0, 0, 0, 1, session)]) == (version, None)


def test_a_source_without_its_results_is_a_cut():
    with pytest.raises(Damaged, match="before the results of its last kernel") as caught:
        ncu_rep_framing.blocks(FILE + block(sources=[b"s"]))
    assert (caught.value.results, caught.value.declared) == (4, 5)


@pytest.mark.parametrize("kind", [2, 7, 8, 9])
def test_results_of_every_kind_count(kind):
    payload = sized(b"r")
    data = HEAD + sized(field(kind, 1) + field(5, len(payload))) + payload
    assert ncu_rep_framing.blocks(data)[0].results == 1


def test_flipped_bits_never_escape():
    draw = random.Random(0)
    for _ in range(3000):
        data = bytearray(FILE)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        try:
            ncu_rep_framing.blocks(bytes(data))
        except Damaged as error:
            assert 0 <= error.results <= 4
