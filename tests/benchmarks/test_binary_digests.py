"""`scripts/binary_digests` on kernels of this processor."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import binary_digests
from binary_digests import Item

from kernel_templates import registry


def digested(monkeypatch: pytest.MonkeyPatch, what: str) -> dict[str, str]:
    monkeypatch.setitem(os.environ, "AUTOTUNE_NO_KERNEL_CACHE", "")  # as a user has it; put back afterwards
    return binary_digests.digests(Item("haswell", what))


def test_a_kernel_that_is_in_the_cache_has_its_digest(monkeypatch) -> None:
    """Compiled here before, so that the cache could give it back."""
    binary_digests.embedding.compile("Q4_0", 64)
    first, second = (digested(monkeypatch, "embed Q4_0 64") for _ in range(2))
    assert first == second and list(first) == ["haswell | embed Q4_0 64 | default | 0"]
    assert all(len(text.split()[0]) == 32 and int(text.split("bytes=")[1]) > 0 for text in first.values())


def test_other_code_has_another_digest(monkeypatch) -> None:
    one, other = (digested(monkeypatch, f"embed Q4_0 {columns}") for columns in (64, 128))
    assert set(one.values()) != set(other.values())


@pytest.mark.parametrize("backend", ["cuda", "cpu"])
def test_every_operation_is_listed(backend: str) -> None:
    items = binary_digests.cuda_items() if backend == "cuda" else binary_digests.cpu_items("haswell")
    operations = {op for op in registry.OPERATIONS if registry.has_template(op, backend)}
    assert operations <= {item.what.partition(":")[0] for item in items}
