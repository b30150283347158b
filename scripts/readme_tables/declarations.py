"""Tables of what is declared: architectures and formats of weights."""

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator

from readme_tables.measured import ROOT

from kernel_templates.formats import FORMATS
from model.architectures import ARCHITECTURES, Architecture

ORDINALS = {2: "second", 4: "fourth", 5: "fifth", 6: "sixth"}


def runs() -> str:
    """What can be opened, in a sentence."""
    names, last = [f"`{name}`" for name in ARCHITECTURES], list(FORMATS)[-1]
    text = (
        f"GGUF files, whole or in shards, of the architectures {', '.join(names[:-1])} and {names[-1]}; weights in "
        f"{', '.join(list(FORMATS)[:-1])} and {last}, mixed freely ([docs/models.md](docs/models.md))."
    )
    return "\n".join(textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False))


def architectures() -> str:
    """A row for each declaration in model/architectures."""
    lines = ["| `general.architecture` | models | traits beside RMS norms, RoPE and a gated network |", "|---|---|---|"]
    for name, architecture in ARCHITECTURES.items():
        path = ROOT / "model" / "architectures" / f"{name.replace('-', '_')}.py"
        models = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0].rstrip(".")
        lines.append(f"| `{name}` | {models} | {', '.join(_traits(architecture))} |")
    return "\n".join(lines)


def _traits(a: Architecture) -> Iterator[str]:
    named = {
        "norms of queries and keys": a.qk_norm,
        "biases of Q, K and V": a.qkv_bias and not a.out_bias,
        "biases of Q, K, V and attention's output": a.qkv_bias and a.out_bias,
        "sinks of attention": a.sinks,
        "Q, K, V and gate, up in one tensor each": a.fused,
        "GELU": a.gate_function == "gelu",
        "clamped SwiGLU": a.gate_function == "swiglu_oai",
        "YaRN between pairs": not a.whole_yarn,
        "norms of what a layer adds": a.post_norm,
        "scaled embedding": a.scaled_embedding,
        "soft caps": any(a.softcaps),
        "a window in every layer, where the file has one": a.window_period == 0,
        f"a window in all but every {ORDINALS.get(a.window_period or 0)} layer": bool(a.window_period),
        "a RoPE base of its own there": a.local_rope_base is not None,
        f"gated delta nets in all but every {ORDINALS.get(a.delta_period or 0)} layer": bool(a.delta_period),
        "a gate of attention's output": a.output_gate,
        "a mixture of experts in every layer": a.routing is not None and not a.routing.beside,
        "an expert that every token uses, with a gate": a.routing is not None and a.routing.shared,
        "in some models a mixture of experts beside the network of every layer": a.routing is not None
        and a.routing.beside,
        "norms of values": a.v_norm,
        "keys that are values": a.keys_as_values,
        "layers that share an earlier one's keys and values": a.shared_kv,
        "an input for each layer": a.layer_inputs,
        "a factor of what a layer gives": a.out_scale,
    }
    found = [text for text, present in named.items() if present]
    yield from found or ["none"]


def weight_formats() -> str:
    """A row for each declaration in kernel_templates/formats."""
    lines = ["| type | bits a weight | weights a block | weight |", "|---|---|---|---|"]
    for fmt in FORMATS.values():
        bits = 8 * fmt.block_bytes / fmt.block
        text = importlib.import_module(f"kernel_templates.formats.{fmt.name.lower()}").__doc__ or ""
        formula = re.search(r"^weight = (.*?)(?:\n\n|\Z)", text, re.M | re.S)
        shown = " ".join(formula[1].split()) if formula else "as it is"
        lines.append(f"| {fmt.name} | {bits:g} | {fmt.block if fmt.block > 1 else '–'} | {shown} |")
    return "\n".join(lines)
