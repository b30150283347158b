"""The first kernel of a gated delta net: RMSNorm and the projections to q, k, v, z and the gates."""

from kernel_templates.norm_qkvz import reference, work
from kernel_templates.norm_qkvz.problem import NormQkvz
from kernel_templates.operation import Operation

OPERATION = Operation("norm_qkvz", NormQkvz, reference.inputs, reference.outputs, work.work, reference.tolerance)
