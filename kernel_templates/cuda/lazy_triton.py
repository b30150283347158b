"""Triton, whose kernels are read when they are first compiled or launched.

`triton.jit` looks up the source of a function, with Python's tokenizer in Python, when its module is imported: 0.6 ms
each, of which there are two hundred, while a model launches twenty. Kernels' modules write
`from kernel_templates.cuda.lazy_triton import triton`.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import triton
else:
    import triton as whole
    from triton.runtime.jit import JITFunction

    _reading = threading.Lock()

    class _Kernel(JITFunction):
        """A function that Triton has not looked at yet. It does when something is asked for that follows from it."""

        def __init__(self, function: Callable, options: Mapping[str, Any]) -> None:
            self.fn, self._options = function, options
            for name in ("__doc__", "__name__", "__qualname__", "__module__", "__globals__"):
                setattr(self, name, getattr(function, name))

        def __getattr__(self, name: str) -> Any:  # of what is not there
            if name.startswith("__"):
                raise AttributeError(name)
            with _reading:
                if "params" not in self.__dict__:
                    super().__init__(self.fn, **self._options)
            return object.__getattribute__(self, name)

    def _jit(function: Callable | None = None, **options: Any) -> Any:
        if whole.knobs.runtime.interpret:
            return whole.jit(function, **options)
        return partial(_Kernel, options=options) if function is None else _Kernel(function, options)

    triton = ModuleType(whole.__name__)  # a kernel may name no other kind of object
    vars(triton).update(jit=_jit, __getattr__=partial(getattr, whole))

__all__ = ["triton"]
