"""How far logits are from the float32 reference's: top-1 agreement and KL divergence, in bounded memory.

KL(reference ‖ found) is in nats, over float64 log-softmaxes, a position at a time. `scripts/accuracy` and
`autotune precision` both measure with this.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from autotune.precision.precision_result import Divergence
from model.gguf_file import GGUFFile
from model.reference import reference_head

BLOCK_BYTES = 64 << 20  # of the reference's logits that are in memory at once


def reference_rows(file: GGUFFile, hidden: Tensor) -> Iterator[Tensor]:
    """The reference's logits, float32 [vocab], of each of `hidden` [tokens, hidden]; a block of positions at a time,
    because 256 positions of a vocabulary of 262,144 are 268 MB."""
    vocab = file.tensors["token_embd.weight"].shape[0]
    for block in hidden.split(max(1, BLOCK_BYTES // (4 * vocab))):
        yield from reference_head(file, block)


def divergence(wanted: Iterable[Tensor], found: Iterable[np.ndarray]) -> Divergence:
    """Of logits [vocab] each, position by position. Raises ValueError where one side ends early."""
    same, kl = [], []
    for p, row in zip(wanted, found, strict=True):
        q = torch.from_numpy(np.array(row, np.float32))
        log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
        kl.append(float((log_p.exp() * (log_p - log_q)).sum()))
        same.append(int(p.argmax()) == int(q.argmax()))
    return Divergence(len(kl), sum(same) / len(kl), sum(kl) / len(kl), float(np.quantile(kl, 0.99)), max(kl))
