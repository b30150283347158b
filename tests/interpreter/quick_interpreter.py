"""Triton's interpreter (3.6) without what it does for nothing, or anew for every operation: the same results, sooner.

It knows nothing of our kernels. docs/log.md has what each part brings.
"""

import functools
import inspect
from dataclasses import replace
from typing import Any

import pytest
import quick_types
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
    quick_types.install(patch)


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
