"""Widths: how many tokens a model reads in one go, and the kernel problems that reading so many is made of.

"decode" is one token of one text, in `model.problems`. The others are passes over many rows, a row being one token of
one text: "prompt" is many tokens of one text, "batch" one token of each of several texts, "speculate" a few tokens of
one text and what is predicted after each. What a tuner searches is named here from a file's metadata; an engine makes
the same products of the matrices that it has packed, and a test holds the two together, so that what was tuned is what
is run.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from kernel_templates import registry
from kernel_templates.attention import cache
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.problem import Problem
from model import layer_plan
from model.config import ModelConfig
from model.gguf_file import GGUFFile
from model.layer_sizes import LayerSizes
from model.problems import contexts, head_problem, inputs_problem

WIDTHS = ("decode", "prompt", "batch", "speculate")
USUAL = ("decode", "prompt")
"""What is tuned unless a user says otherwise."""

LEAST, MOST = 2, {"cuda": 2048, "cpu": 512}
"""Rows of the smallest pass and of a backend's largest: a longer prompt is several of these."""

PROMPT_TOKENS = {"cuda": (16, 64, 256, 2048), "cpu": (16, 128, 512)}
"""Prompts that are tuned for. Every size of pass from 16 on is one of these, its half or its double, which is as far as
winners are borrowed."""
BATCH_TEXTS = (2, 4, 8, 16, 32)
BATCH_CONTEXTS = (640, 2560)
"""Of `contexts`: the ones that texts decoded together are tuned at."""
SPECULATED_TOKENS, SPECULATED_CONTEXT = (4, 8), 640
"""Proposals with the token before them, of the passes that pay most, and the context at which these are tuned."""


@dataclass(frozen=True)
class Product:
    """Matrices of a layer, or the head's, that are multiplied as one: one input, one format, one below the other.

    name: "qkv" or "qkvz", "out", "gate_up" (on a CPU "gate" and "up"), "down", those of a shared expert ("shared_down")
    or "head"; matrices: in the order of their rows, as the layer's plan calls them; gate: the function that joins the
    outputs of gate and up, "" where the product does not; of: a layer whose experts' matrices these are, `rows` of each
    expert.
    """

    name: str
    matrices: tuple[str, ...]
    rows: int
    cols: int
    format: str
    gate: str = ""
    of: LayerSizes | None = None

    def over(self, tokens: int) -> Matmul | GroupedMatmul:
        """The product of so many rows of a pass."""
        if self.of is None or (m := self.of.mixture) is None:
            return Matmul(self.rows, self.cols, self.format, tokens, gate=self.gate)
        return GroupedMatmul(
            self.rows, self.cols, self.format, m.experts, m.used, tokens, gate=self.gate,
            bias=int(m.bias and bool(self.gate)), x_of="pair" if self.name == "down" else "token",
        )  # fmt: skip


@dataclass(frozen=True)
class PassSize:
    """Of a pass: `tokens` neighbours of each of `sequences` texts. context: all positions lie below it; head: whether
    it ends with logits of every row."""

    sequences: int
    tokens: int
    context: int
    head: bool = False

    @property
    def rows(self) -> int:
        return self.sequences * self.tokens


def bucket(rows: int) -> int:
    """The rows of the pass that runs so many: the next power of two."""
    return max(1 << (rows - 1).bit_length(), LEAST)


def layer_products(config: ModelConfig, file: GGUFFile, layer: int, backend: str = "cuda") -> tuple[Product, ...]:
    """The products of one layer in their order. Neighbouring matrices with one input and one format are one. So are
    gate and up, gated in it, on a GPU; a processor has them apart, as its decode steps have packed them."""
    plan = layer_plan.layer(config, layer)
    formats = {name: file.tensors[tensor.name].format_name for name, tensor in plan.matrices.items()}
    gated = [("gate_up", ("gate", "up"))] if backend == "cuda" else [("gate", ("gate",)), ("up", ("up",))]
    found = []
    mixer = ("qkvz", ("qkv", "z", "beta", "alpha")) if plan.sizes.delta else ("qkv", ("q", "k", "v"))
    # A GPU has the router in float16.
    router = [("router", ("router", "shared_router"))] if plan.sizes.mixture and backend == "cpu" else []
    network = [*gated, ("down", ("down",))]
    network += [(f"shared_{name}", tuple(f"shared_{m}" for m in group)) for name, group in network]
    ends = [(name, (name,)) for name in ("input_gate", "input_proj")]
    for name, group in [mixer, ("out", ("out",)), *router, *network, *ends]:
        for form, members in groupby((m for m in group if m in formats), key=formats.__getitem__):
            joined = tuple(members)
            rows, cols = sum(plan.matrices[m].rows_each for m in joined), plan.matrices[joined[0]].shape[-1]
            gate = plan.sizes.gate_function if name.endswith("gate_up") and len(joined) == 2 else ""
            experts = plan.sizes if len(plan.matrices[joined[0]].shape) == 3 else None
            found.append(Product(name, joined, rows, cols, form, gate, experts))
    return tuple(found)


def head_product(config: ModelConfig, file: GGUFFile) -> Product:
    head = head_problem(config, file)
    return Product("head", ("w",), head.vocab, head.hidden, head.format)


def pass_attention(sizes: LayerSizes, size: PassSize, form: str = cache.F16) -> PagedAttention:
    """A layer's attention in a pass; form: of the KV cache. Contexts in which the window is full cost the same: they
    are one."""
    s = sizes
    context = min(size.context, contexts(s.window + 1)[-1]) if s.window else size.context
    return PagedAttention(
        size.sequences, size.tokens, s.heads, s.kv_heads, s.head_dim, context,
        window=s.window, softcap=s.softcap, scale=s.scale, sinks=s.sinks, cache=form,
    )  # fmt: skip


def pass_delta(delta: GatedDelta, size: PassSize) -> GatedDelta:
    """A layer's gated delta net in a pass; contexts cost the same."""
    return replace(delta, sequences=size.sequences, tokens=size.tokens)


def pass_problems(
    config: ModelConfig, file: GGUFFile, sizes: Iterable[PassSize], backend: str = "cuda", form: str = cache.F16
) -> dict[Problem, int]:
    """The distinct problems of passes and how often one pass runs each; those that the backend has a template for.
    backend: "cuda" or "cpu"; form: of the KV cache."""
    counts: dict[Problem, int] = {}
    # Most layers are alike, and there may be a hundred sizes: a start waits for this.
    layers = Counter((layer_products(config, file, i, backend), config.layer(i)) for i in range(config.layers))
    for size in sizes:
        own: dict[Problem, int] = {}
        for problem, times in _of_pass(config, file, layers, size, backend, form):
            own[problem] = own.get(problem, 0) + times
        # Passes that differ in their context alone have their products in common.
        counts |= own
    return {p: n for p, n in counts.items() if registry.has_template(p.op, backend)}


def _of_pass(
    config: ModelConfig, file: GGUFFile, layers: Mapping[tuple[tuple[Product, ...], LayerSizes], int], size: PassSize,
    backend: str, form: str,
) -> Iterator[tuple[Problem, int]]:  # fmt: skip
    """layers: those that differ, and how many there are of each."""
    for (products, sizes), times in layers.items():
        yield from ((product.over(size.rows), times) for product in products)
        if not sizes.delta:
            yield pass_attention(sizes, size, form), times
        elif backend == "cuda":  # a processor goes from row to row with a token's kernel
            yield pass_delta(sizes.delta, size), times
    if (inputs := inputs_problem(config, file)) is not None:
        yield Product("layer_inputs", ("w",), inputs.rows, inputs.hidden, inputs.format).over(size.rows), 1
    if size.head:
        yield head_product(config, file).over(size.rows), 1


def width_problems(
    config: ModelConfig,
    file: GGUFFile,
    capacity: int,
    widths: Iterable[str],
    backend: str = "cuda",
    form: str = cache.F16,
) -> Mapping[Problem, int]:
    """What tuning the passes of some widths means, and how often a pass runs each problem; "decode" has none. capacity:
    positions that a text may have."""
    sizes = [s for w in widths for s in tuned_sizes(w, capacity, backend)]
    return pass_problems(config, file, sizes, backend, form)


def tuned_sizes(width: str, capacity: int, backend: str = "cuda") -> list[PassSize]:
    """The passes that a width is tuned at: a prompt from an empty cache, the others after some of
    a text."""
    bounds = contexts(capacity)
    if width == "prompt":
        largest = bucket(min(capacity, MOST[backend]))
        fitting = [t for t in PROMPT_TOKENS[backend] if t <= largest]
        if largest > 2 * max(fitting, default=0):
            fitting.append(largest)
        return [PassSize(1, tokens, next(c for c in bounds if tokens <= c or c == bounds[-1])) for tokens in fitting]
    if width == "batch":
        at = [c for c in BATCH_CONTEXTS if c in bounds] or bounds[-1:]
        return [PassSize(texts, 1, context, head=True) for texts in BATCH_TEXTS for context in at]
    if width == "speculate":
        context = SPECULATED_CONTEXT if SPECULATED_CONTEXT in bounds else bounds[-1]
        return [PassSize(1, tokens, context, head=True) for tokens in SPECULATED_TOKENS]
    return []


def every_size(capacity: int, texts: int = BATCH_TEXTS[-1], backend: str = "cuda") -> list[PassSize]:
    """Every pass that an engine may run: tokens of one text, with a head as far as a pass verifies that many, and one
    token of each of up to `texts` texts."""
    powers = [LEAST << i for i in range((MOST[backend] // LEAST).bit_length())]
    most, bounds = bucket(min(capacity, MOST[backend])), contexts(capacity)
    one = [PassSize(1, t, c, t <= bucket(texts)) for t in powers if t <= most for c in bounds if t // 2 < c]
    return one + [PassSize(b, 1, c, head=True) for b in powers if b <= bucket(texts) for c in bounds]
