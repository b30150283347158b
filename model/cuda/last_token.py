"""Logits after the last token of a text that another's decode step knows nothing of: its own head, through the same
weights."""

import torch
from torch import Tensor

from kernel_templates.cuda.rows import take_row
from kernel_templates.cuda.vector import Vector
from kernel_templates.head import cuda as head
from kernel_templates.space import Config
from model.cuda.execution import Executor
from model.cuda.load import Loaded
from model.layer_plan import HEAD
from model.problems import ACTIVATION


class LastToken:
    """The kernels of decode's head, over buffers of its own."""

    def __init__(self, model: Loaded, head_config: Config, executor: Executor) -> None:
        c, device = model.config, executor.device
        partials = head.partials(model.head, head_config)
        self._hidden = torch.zeros(c.hidden, device=device)
        self._logits = torch.full((c.vocab,), torch.nan, device=device)
        x = Vector.allocate(c.hidden, device)
        buffers = {
            "x": x,
            "output_norm": model.output_norm,
            "eps": c.norm_eps,
            "logits": self._logits,
            "best_value": torch.full((partials,), torch.nan, device=device),
            "best_id": torch.zeros(partials, dtype=torch.int32, device=device),
        }
        take = take_row.launch(self._hidden, model.output_norm, x, ACTIVATION)
        launches = head.launches(model.head, head_config, model.head_packed, HEAD.bound(buffers))
        self._program = executor.program([take, *launches], "head")

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [vocab], valid until the next call, from what the last layer gave: float32 [hidden]."""
        self._hidden.copy_(hidden)
        self._program()
        return self._logits
