"""The GPU's engine without a GPU: tiny models through every kernel of the chain in Triton's interpreter.

Against the float32 reference, and against the CPU's engine for the tokens it chooses. Bounds are those of the CPU's
decode step, whose arithmetic this is: activations in 16 bits, K and V in float16.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from architecture_samples import TINY, by_norm

import model
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.device import Device
from kernel_templates.layer.problem import Layer
from model import problems
from model.config import ModelConfig
from model.cuda import decode
from model.cuda.execution import EagerExecutor
from model.cuda.opening import Opening
from model.engine import Model
from model.errors import ModelError
from model.gguf_file import open_gguf
from model.reference import reference_logits
from model.runner import Settings
from model.sampling import Sampler
from model.speculation_policy import Watcher
from model.tokenizer import Tokenizer

Made = Callable[[str, str], Path]
BOUNDS = by_norm(2e-3, 1e-2)
MODELS = [  # the last with a Q6_K head
    ("tiny", "Q4_0"),
    *(pytest.param("tiny", quant, marks=pytest.mark.slow) for quant in ("Q8_0", "BF16")),
    *(pytest.param(shape, "Q4_0", marks=pytest.mark.slow) for shape in TINY if shape != "tiny"),
]
GPU = Device("cuda", "interpreter", "9.0", 132, 80 << 30)


def interpreted(path: Path, context: int = 300) -> Model:
    """The engine as `load` makes it, with launches run one by one."""
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)
    runner = Opening(file, config, Settings(min(context, config.context)), GPU).proved(EagerExecutor(INTERPRETED))
    opened = Model(file, config, Tokenizer.from_metadata(file.metadata), runner)
    opened.tokenizer.end_tokens = frozenset()
    return opened


def tokens_of(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 512, count).tolist()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(("shape", "quant"), MODELS)
def test_logits_are_the_reference_s(made: Made, shape: str, quant: str) -> None:
    path, tokens = made(shape, quant), tokens_of(2)
    opened, wanted = interpreted(path), reference_logits(path, tokens).numpy()
    step, whole = opened.logits(tokens, stepwise=True), opened.logits(tokens)
    print(f"{shape} {quant}: step {distance(step, wanted):.2g}, prefill {distance(whole, wanted):.2g}")
    assert distance(step, wanted) < BOUNDS[shape]
    assert distance(whole, wanted) < BOUNDS[shape] * (4 if quant == "BF16" else 2)


@pytest.mark.slow
def test_a_made_up_architecture_decodes(made_up: Path) -> None:
    opened, tokens = interpreted(made_up), tokens_of(2)
    off = distance(opened.logits(tokens, stepwise=True), reference_logits(made_up, tokens).numpy())
    assert off < (1e-2 if opened.config.architecture.qk_norm else 2e-3)


@pytest.fixture(scope="module")
def opened(made: Made) -> Iterator[Model]:
    """One for several tests; it runs 2 tokens ahead, because a token takes a second here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "AHEAD", 2)
        yield interpreted(made("tiny", "Q4_0"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 9], ids=["steps", "prefill"])
def test_greedy_tokens_are_the_cpu_s(tiny_model: Path, opened: Model, count: int) -> None:
    prompt, tokens = tokens_of(count, seed=count), 4
    with closing(model.load(tiny_model)) as cpu:
        cpu.tokenizer.end_tokens = frozenset()
        wanted = list(cpu.generate_tokens(prompt, tokens, Sampler()))
    assert list(opened.generate_tokens(prompt, tokens, Sampler())) == wanted
    assert opened._cached == [*prompt, *wanted[:-1]]


@pytest.mark.slow
def test_the_cache_goes_on_after_an_interruption(opened: Model) -> None:
    prompt = tokens_of(5)
    opened.reset()
    whole = list(opened.generate_tokens(prompt, 4, Sampler()))
    opened.reset()
    stream = opened.generate_tokens(prompt, 4, Sampler())
    begun = [next(stream), next(stream)]
    stream.close()  # more tokens than were read have been computed
    assert begun == whole[:2] and opened._cached == [*prompt, begun[0]]
    assert list(opened.generate_tokens([*prompt, *whole[:3]], 1, Sampler())) == whole[3:]


@pytest.mark.slow
def test_states_go_back_to_the_end_of_the_prompt(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that were started ahead have changed what gated delta nets keep; only what follows the prompt is read
    again. A text that differs within the prompt begins anew."""
    monkeypatch.setattr(decode, "AHEAD", 2)
    opened, prompt = interpreted(made("tiny-qwen35", "Q4_0"), 64), tokens_of(9)
    stream = opened.generate_tokens(prompt, 4, Sampler())
    longer = [*prompt, next(stream), *tokens_of(2, seed=1)]
    stream.close()
    went_on = list(opened.generate_tokens(longer, 1, Sampler()))
    assert opened.timing.cached == len(prompt)
    other = [*prompt[:-1], *longer[-3:]]
    list(opened.generate_tokens(other, 1, Sampler()))
    assert opened.timing.cached == 0
    opened.reset()
    assert list(opened.generate_tokens(longer, 1, Sampler())) == went_on


@pytest.mark.slow
def test_end_tokens_end_the_stream(opened: Model) -> None:
    prompt = tokens_of(5)
    whole = list(opened.generate_tokens(prompt, 3, Sampler()))
    opened.tokenizer.end_tokens = frozenset({whole[1]})
    try:
        first = whole.index(whole[1])
        assert list(opened.generate_tokens(prompt, 3, Sampler())) == whole[: first + 1]
        assert list(opened.generate_tokens(prompt, 3, Sampler(), ignore_end=True)) == whole
    finally:
        opened.tokenizer.end_tokens = frozenset()


@pytest.mark.slow
def test_seeded_samples_repeat(opened: Model) -> None:
    prompt, hot = tokens_of(5), Sampler(temperature=1.5, top_k=40, top_p=0.95, seed=3)
    drawn = [list(opened.generate_tokens(prompt, 3, hot)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert list(opened.generate_tokens(prompt, 3, Sampler(1.5, 40, 0.95, seed=4))) != drawn[0]
    assert all(0 <= token < 512 for token in drawn[0])


@pytest.mark.slow
def test_each_context_has_its_own_kernels(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts of 2, 8 and 32 positions instead of 160 and up; and the end of the context is kept."""
    monkeypatch.setattr(problems, "FIRST_CONTEXT", 2)
    small, prompt = interpreted(made("tiny", "Q4_0"), 10), tokens_of(2)
    assert [p.context for p in small.choices if isinstance(p, Layer)] == [2, 8, 32]
    tokens = list(small.generate_tokens(prompt, 100, Sampler()))
    assert len(tokens) == 8
    wanted = reference_logits(small.file, [*prompt, *tokens[:-1]])[1:].numpy()
    chosen = wanted[np.arange(8), tokens]
    assert (wanted.max(1) - chosen < 0.02).all()  # each is the likeliest, or next to it within the chain's error


@pytest.mark.slow
def test_garbage_is_an_error(made: Made) -> None:
    broken = interpreted(made("tiny", "Q4_0"), 64)
    broken.runner.decoder.model.output_norm.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a finite number"):
        list(broken.generate_tokens(tokens_of(3), 3, Sampler()))


@pytest.mark.slow
def test_a_stream_reads_what_it_started_and_starts_no_more_than_it_may(opened: Model) -> None:
    prompt = tokens_of(5)
    opened.reset()
    whole = list(opened.generate_tokens(prompt, 3, Sampler()))
    asked: list[int] = []

    def more(started: int) -> bool:
        asked.append(started)
        return len(asked) < 3

    opened.runner.feed(prompt[-1:], len(prompt) - 1)
    made = list(opened.runner.stream(len(prompt), 5, Sampler(), more))
    assert made == whole  # the first is started unasked, then two more
    assert asked == [1, 1, 1, 0]  # what was started when the third was denied is read, and then it is asked once more


@pytest.mark.slow
def test_passes_and_steps_take_turns(opened: Model) -> None:
    """A text that repeats itself, with proposals wherever there are some."""

    class Eager(Watcher):
        def proposals(self, match: int, most: int) -> int:
            return next((size for size in (3, 1) if size <= most), 0) if match else 0

    prompt = [5, 6, 7, 8] * 2
    opened.reset()
    whole = list(opened.generate_tokens(prompt, 7, Sampler()))
    opened.reset()
    opened.watcher = Eager()
    assert list(opened.generate_tokens(prompt, 7, Sampler(), speculate="ngram")) == whole
    done = opened.timing.speculated
    assert done is not None and done.passes
    assert opened._cached == [*prompt, *whole][: len(opened._cached)]
