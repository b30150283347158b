"""Machine code for chips that are not here; kernels that several tests look at are compiled once a process."""

from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernel_templates.cuda.crosscompile import Compiled
    from kernel_templates.cuda.launch import Launch

MOST = 64  # tests that share a kernel stand next to each other
_made: "OrderedDict[str, Compiled]" = OrderedDict()


def cross_compile(launch: "Launch", capability: int) -> "Compiled":
    """As `crosscompile.cross_compile`. Kernels are told apart as in the cache on disk."""
    import quick_compiler

    from kernel_templates.cuda import crosscompile, kernel_cache
    from kernel_templates.cuda.launch import capability_target

    key = kernel_cache.path(launch, capability_target(capability), capability).name
    if key not in _made:
        with pytest.MonkeyPatch.context() as patch:
            quick_compiler.install(patch)
            _made[key] = crosscompile.cross_compile(launch, capability)
    _made.move_to_end(key)
    if len(_made) > MOST:
        _made.popitem(last=False)
    return _made[key]
