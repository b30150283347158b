"""The least that a layer moves and computes: the sum of its parts."""

from kernel_templates.attention.work import work as attention
from kernel_templates.ffn.work import work as ffn
from kernel_templates.layer.problem import Layer
from kernel_templates.matvec.work import work as matvec
from kernel_templates.norm_qkv_rope.work import work as norm_qkv_rope
from kernel_templates.operation import Work


def work(problem: Layer) -> Work:
    each = (
        norm_qkv_rope(problem.qkv_part),
        attention(problem.attention_part),
        matvec(problem.out_part),
        ffn(problem.ffn_part),
    )
    return Work(sum(w.bytes for w in each), sum(w.ops for w in each))
