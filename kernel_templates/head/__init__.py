"""Final RMSNorm and the product with the vocabulary: logits = W (norm(x) * g)."""

from kernel_templates.head import reference, work
from kernel_templates.head.problem import Head
from kernel_templates.operation import Operation

OPERATION = Operation("head", Head, reference.inputs, reference.outputs, work.work, reference.tolerance)
