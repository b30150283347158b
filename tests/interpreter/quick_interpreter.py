"""Triton's interpreter (3.6) without what it does for nothing, or anew for every operation: the same results, sooner.

It knows nothing of our kernels. docs/log.md has what each part brings.
"""

import functools
import inspect
import math
from dataclasses import replace
from typing import Any

import pytest
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, InterpreterError

core = tl.core


def install(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone."""
    # Integer sums and products are computed once more in 64 bits, for an assertion that only debugging looks at.
    builder = interpreter.interpreter_builder
    patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=builder.options.debug))
    patch.setattr(interpreter, "_get_np_dtype", _numpy_type)
    patch.setattr(InterpretedFunction, "__call__", _call)
    patch.setattr(core.block_type, "__init__", _fill_block_type)
    patch.setattr(core.tensor, "__init__", _fill_tensor)


_as_triton_has_it = interpreter._get_np_dtype
_numpy_types: dict[str, Any] = {}


def _numpy_type(kind: Any) -> Any:
    """Triton makes its table anew whenever it looks something up."""
    kind = kind.scalar
    if kind.name not in _numpy_types:
        _numpy_types[kind.name] = _as_triton_has_it(kind)
    return _numpy_types[kind.name]


def _call(self: Any, *arguments: Any, **named: Any) -> Any:
    """A device function. Triton replaces the whole language at every call of one; here where it is not replaced yet."""
    if any(core.is_builtin(language.load) for language in _languages(self.fn)):
        interpreter._patch_lang(self.fn)
    function = self.rewrite()
    try:
        return function(*arguments, **named)
    except Exception as error:
        raise InterpreterError(repr(error)) from error


@functools.cache
def _languages(function: Any) -> list[Any]:
    return [each for each in function.__globals__.values() if inspect.ismodule(each) and each in (tl, core)]


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
