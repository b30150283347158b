"""From tensors of the file to what kernels are given: matrices, norms, and RoPE in one convention.

GGUF stores llama's Q and K so that RoPE turns neighbouring rows; kernels turn the halves of a head. Reordering the rows
at load is lossless and changes no score, because q and k are reordered alike.
"""

from collections.abc import Callable, Mapping

import numpy as np

from kernel_templates import formats, random_inputs
from kernel_templates.formats.layout import Floats
from kernel_templates.lazy import torch
from kernel_templates.operation import Weight
from model.errors import ModelError
from model.gguf_file import GGUFFile
from model.layer_plan import Rope
from model.layer_tensors import Joined, Tensor, Turned
from model.rope import Rotation, rotation


def matrix(file: GGUFFile, tensor: Tensor) -> Weight:
    """A matrix, or several below each other, as kernels want it, copied out of the mapping: rows are in the file's own
    bytes."""
    info, rows = file.tensors[tensor.name], tensor.rows_each
    if tensor.stored_rows:
        begins = range(tensor.first_row, tensor.stored.rows, tensor.stored_rows)  # of each matrix
        parts = [file.copied(tensor.name, slice(begin, begin + rows)) for begin in begins]
        raw = parts[0] if len(parts) == 1 else np.concatenate(parts)
    else:
        raw = file.copied(tensor.name)
    if tensor.pairs:
        raw = raw[halves_order(len(raw), tensor.pairs)]
    return Weight(torch.from_numpy(raw), info.shape[-1], info.format_name)


def shape_of_matrix(file: GGUFFile, tensor: Tensor) -> Weight:
    """As `matrix`, with a shape and no values (torch's "meta" device)."""
    info = file.tensors[tensor.name]
    size = formats.get(info.format_name).row_bytes(info.shape[-1])
    raw = torch.empty((tensor.rows, size), dtype=torch.uint8, device="meta")
    return Weight(raw, info.shape[-1], info.format_name)


def matrices(
    file: GGUFFile, tensors: Mapping[str, Tensor],
    read: Callable[[GGUFFile, Tensor], Weight] = matrix,
) -> dict[str, Weight]:  # fmt: skip
    """Several of them, under the same names."""
    return {name: read(file, tensor) for name, tensor in tensors.items()}


def vector(file: GGUFFile, tensor: Tensor | Joined) -> np.ndarray:
    """A tensor that no product reads, as float32, or several after each other, padded like every kernel buffer."""
    out, first = random_inputs.buffer(tensor.elements), 0
    for part in tensor.parts:
        info, size = file.tensors[part.name], part.elements
        layout = formats.get(info.format_name).layout
        assert isinstance(layout, Floats), "the model's configuration refuses others"
        values = layout.numbers(file.copied(part.name))
        values = (values.T if part.transposed else values).reshape(-1)
        out[first : first + size] = values[halves_order(size, part.pairs)] if part.pairs else values * part.factor
        first += size
    return out


def halves_order(rows: int, heads: Turned) -> np.ndarray:
    """int64 [rows]: for each row in halves order, where the file has it. Rows past `rope_dim` of a head stay."""
    head = np.arange(heads.head_dim)
    pairs = np.arange(heads.rope_dim).reshape(-1, 2)  # the file turns (2i, 2i + 1)
    head[: heads.rope_dim] = pairs.T.reshape(-1)
    return (np.arange(0, rows, heads.head_dim)[:, None] + head).reshape(-1)


def rope_rotation(file: GGUFFile, rope: Rope, context: int) -> Rotation:
    """context: positions that there may be; of longrope's two factors those for long contexts are taken where it is
    longer than what the model was first trained for, as in llama.cpp. Raises ModelError for a factor that is not
    positive."""
    factors = None
    if rope.factors:
        short = rope.scaling is None or context <= rope.scaling.original
        chosen = rope.factors[-1 if short else 0]
        factors = vector(file, chosen)[: chosen.elements]
        if not (factors > 0).all():
            raise ModelError(
                f"tensor '{chosen.name}' divides frequencies by numbers that are not positive; the file is damaged"
            )
    return rotation(rope.base, rope.dim, rope.scaling, factors)
