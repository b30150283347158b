"""`autotune ops` and `autotune space`: what can be tuned, and the configurations that a search chooses from."""

from typing import TYPE_CHECKING, Any

import click

from autotune import UserError
from autotune.commands import options, output

if TYPE_CHECKING:
    from kernel_templates.space import Space

CUDA_CHIP = 90  # the compute capability that a GPU's space is shown for
# What an operation's space is shown for when its name alone is given: the shapes of SmolLM2-135M, as if it had experts
# and gated delta nets.
EXAMPLE = {
    "rows": 576, "cols": 576, "hidden": 576, "heads": 9, "kv_heads": 3, "head_dim": 64, "rope_dim": 64, "qk_norm": 0,
    "ffn": 1536, "vocab": 49152, "context": 640, "activation": "int16", "sequences": 1,
    "tokens": 64, "experts": 32, "used": 4, "router_format": "F32", "key_heads": 3, "kernel": 4,
    "size": 256, "layers": 30,
}  # fmt: skip
LISTED = 200_000  # valid configurations are counted up to so many before constraints


@click.command()
@options.json_option
def ops(as_json: bool) -> None:
    """List the operations, what each computes and the fields of its problems.

    \b
    Example:
      autotune ops
    """
    from kernel_templates import registry

    rows: list[dict[str, Any]] = [
        {
            "op": name,
            "computes": " ".join((operation.problem.__doc__ or "").split()),
            "fields": operation.problem.required(),
            "traits": operation.problem.traits(),
        }
        for name, operation in registry.OPERATIONS.items()
    ]
    if as_json:
        output.print_json({"operations": rows})
        return
    for row in rows:
        output.line(f"{row['op']}: {row['computes']}")
        output.line(f"  problem: {row['op']}:{','.join(f'{field}=…' for field in row['fields'])}")
        if row["traits"]:
            usual = ", ".join(f"{name}={value}" for name, value in row["traits"].items())
            output.line(f"  named behind them where they differ: {usual}")


@click.command()
@click.argument("problem", metavar="OP|PROBLEM")
@click.option("--gpu", is_flag=True, help="The space of the GPU's template, for a chip of sm_90.  [default: the CPU's]")
@options.json_option
def space(problem: str, gpu: bool, as_json: bool) -> None:
    """Show a problem's parameters, its constraints and how large the space is.

    PROBLEM is a key as `autotune db list` prints it; `autotune ops` lists the fields. An operation's name alone stands
    for it with the shapes of SmolLM2-135M in Q4_0.

    \b
    Example:
      autotune space matvec
      autotune space matvec:rows=576,cols=576,format=Q4_1,activation=int16
    """
    from autotune.screening import chips
    from kernel_templates import given_problem, registry
    from kernel_templates.cpu import machine

    try:
        named = problem if ":" in problem else example(problem)
        asked = given_problem.parse(named)
        if gpu:
            found = registry.cuda_space(asked, chips.chip(CUDA_CHIP).device)
        else:
            found = registry.space(asked, machine.detect())
    except NotImplementedError as error:
        raise UserError(f"{error}; --gpu shows that of a GPU") from None
    except ValueError as error:
        raise UserError(f"{error}; autotune ops lists the fields of each operation") from None
    document = _document(asked.key, found)
    if as_json:
        output.print_json(document)
        return
    output.print_table(
        asked.key,
        ("parameter", "values", "default", "meaning"),
        [(p["name"], " ".join(map(str, p["values"])), str(p["default"]), p["meaning"]) for p in document["parameters"]],
    )
    output.print_table("Constraints", ("name", "reason"), [(c["name"], c["reason"]) for c in document["constraints"]])
    valid = "too many to count" if document["valid"] is None else f"{document['valid']:,}"
    output.line(f"{document['size']:,} configurations, valid: {valid}")


def example(op: str) -> str:
    """The key of a problem of an operation; ValueError for one that there is not."""
    from kernel_templates import registry

    names = registry.get(op).problem.required()
    return f"{op}:" + ",".join(f"{name}={EXAMPLE.get(name, 'Q4_0')}" for name in names)


def _document(key: str, found: "Space") -> dict[str, Any]:
    import math

    size = math.prod(len(p.values) for p in found.parameters)
    return {
        "problem": key,
        "parameters": [
            {"name": p.name, "values": list(p.values), "default": p.default, "meaning": p.meaning}
            for p in found.parameters
        ],
        "constraints": [{"name": c.name, "reason": c.reason} for c in found.constraints],
        "size": size,
        "valid": sum(1 for _ in found.each()) if size <= LISTED else None,
    }
