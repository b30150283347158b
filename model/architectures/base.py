"""What one architecture is: the traits in which decoder-only transformers of GGUF files differ.

A trait is added here when something reads it: `layer_plan` for tensors and their order, `problems` for what kernels
must compute, `reference` for the judge. Sizes are no traits; they are each model's own (`config`).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """name: of "general.architecture", which also begins its metadata keys.

    rope: which elements of a head turn together, the "halves" (i, i + rope_dim / 2) or neighbouring "pairs"
    (2i, 2i + 1), as the file orders them; qk_norm: RMS norm of each query and key head before RoPE.
    """

    name: str
    rope: Literal["halves", "pairs"]
    qk_norm: bool = False
