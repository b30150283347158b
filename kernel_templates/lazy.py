"""Torch, imported when something of it is first used.

Importing it takes 1.3 s and 230 MB, and an engine that starts from packed weights needs none of it before a long
prompt. Modules that the engine imports write `from kernel_templates.lazy import Tensor, torch`; `Tensor` is for
annotations only.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            import torch

            return getattr(torch, name)

    torch, Tensor = _Torch(), Any

__all__ = ["Tensor", "torch"]
