"""What a worker for a GPU imports sooner or later, imported at once, as far as it leaves the GPU alone."""

import gc
from contextlib import suppress

from kernel_templates.cuda import lean_torch


def all_modules() -> None:
    """Torch comes without its shapes' functions, a third of its import: no kernel's launches ask for them
    (`meta_problem` brings them where one does)."""
    lean_torch.begin()
    from autotune.runner import compile_worker, cuda_worker  # noqa: F401
    from kernel_templates import registry

    with suppress(Exception):
        for op in registry.OPERATIONS:
            registry.cuda(op)
    gc.collect()
    gc.freeze()  # collectors need not look at all that again, nor those of forked workers copy its pages by doing so


def everything() -> None:
    """The modules, and what compiling a small kernel imports and initializes besides."""
    all_modules()
    from kernel_templates.cuda import crosscompile

    with suppress(Exception):
        crosscompile.warm_up()
    gc.freeze()
