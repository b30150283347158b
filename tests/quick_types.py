"""How Triton (3.6) makes the types and tensors of its language, without what it does anew for every operation; the
compiler's front end and the interpreter share them."""

import functools
import math
from typing import Any

import pytest
import triton.language as tl

core = tl.core


def install(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone."""
    patch.setattr(core.block_type, "__init__", _fill_block_type)
    patch.setattr(core.tensor, "__init__", _fill_tensor)


_checked = core.block_type.__init__
_block_types: dict[tuple, tuple[Any, int, str]] = {}


def _fill_block_type(self: Any, element_ty: Any, shape: Any) -> None:
    """Every operation makes several types; each is checked once."""
    key = element_ty.name, *(each.value if isinstance(each, core.constexpr) else each for each in shape)
    if key not in _block_types:
        _checked(self, element_ty, shape)
        _block_types[key] = self.shape, self.numel, self.name
    self.element_ty, (self.shape, self.numel, self.name) = element_ty, _block_types[key]


def _fill_tensor(self: Any, handle: Any, type: Any) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.numel, self.shape = _constants(*type.shape.values) if type.is_block() else _constants()


@functools.cache
def _constants(*dims: int) -> tuple[Any, Any]:
    """numel and shape of tensors, as Triton's constants."""
    return core.constexpr(math.prod(dims)), core.tuple([core.constexpr(each) for each in dims])
