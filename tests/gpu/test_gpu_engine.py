"""The engine on a GPU: logits against the float32 reference, text against the CPU's, its cache and its limits."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from architecture_samples import by_norm
from near_ties import settled

import model
from kernel_templates.formats import FORMATS
from model import problems
from model.config import ModelConfig
from model.cuda import load
from model.engine import Model
from model.errors import ModelError
from model.gguf_file import open_gguf
from model.reference import reference_logits
from model.sampling import Sampler
from model.speculation_policy import SIZES, Watcher

pytestmark = pytest.mark.gpu

Made = Callable[[str, str], Path]
STEP = by_norm(2e-3, 1e-2)
MODELS = [(shape, quant) for shape in STEP for quant in FORMATS]
ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / "autotune" / "precision" / "text.txt"
PROMPTS = (
    "The capital of France is", "Once upon a time there was", "def fibonacci(n):", "Water boils at",
    "The three largest rivers of the world are", "My favourite recipe for bread starts with", "In 1969 two men",
    "Dear Sir or Madam,", "The difference between a virus and a bacterium is", "List five birds that cannot fly:",
)  # fmt: skip


def tokens_of(count: int, vocab: int = 512, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def greedy(engine: Model, prompt: list[int], count: int) -> list[int]:
    return list(engine.generate_tokens(prompt, count, Sampler(), ignore_end=True))


def agreement(wanted: torch.Tensor, found: np.ndarray) -> tuple[float, float]:
    """Top-1 agreement and mean KL(wanted ‖ found) in nats."""
    p, q = wanted.double().log_softmax(-1), torch.from_numpy(found).double().log_softmax(-1)
    same = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    return same, (p.exp() * (p - q)).sum(-1).mean().item()


@pytest.fixture(scope="module")
def opened(made: Made) -> Iterator[Model]:
    with closing(model.load(made("tiny-qwen3", "Q4_0"), "cuda:0")) as engine:
        yield engine


@pytest.mark.parametrize(("shape", "quant"), MODELS)
def test_logits_are_the_reference_s(made: Made, shape: str, quant: str) -> None:
    path = made(shape, quant)
    tokens = settled(path, 41)
    wanted = reference_logits(path, tokens).numpy()
    with closing(model.load(path, "cuda:0")) as engine:
        step, whole = engine.logits(tokens, stepwise=True), engine.logits(tokens)
    print(f"{shape} {quant}: step {distance(step, wanted):.2g}, prefill {distance(whole, wanted):.2g}")
    assert distance(step, wanted) < STEP[shape]
    assert distance(whole, wanted) < STEP[shape] * (8 if quant == "BF16" else 4)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_greedy_tokens_are_the_stepwise_argmax(opened: Model, count: int) -> None:
    """Replays that run ahead give what single steps, read one by one, give."""
    prompt = tokens_of(count, seed=count)
    tokens = greedy(opened, prompt, 60)
    logits = opened.logits([*prompt, *tokens[:-1]], stepwise=True)[count - 1 :]
    # Prompts of 4 and more are read by the prefill, whose keys differ in the last bits of float16.
    ties = logits.max(1) - logits[np.arange(60), tokens]
    assert (ties <= (0 if count < 4 else 0.05)).all()


def test_contexts_change_over_without_a_seam(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path, prompt = made("tiny", "Q8_0"), tokens_of(5)
    with closing(model.load(path, "cuda:0")) as engine:
        wanted = greedy(engine, prompt, 200)
    monkeypatch.setattr(problems, "FIRST_CONTEXT", 16)
    with closing(model.load(path, "cuda:0")) as engine:
        assert len(engine.choices) == 4  # 16, 64, 256 and the head
        assert greedy(engine, prompt, 200) == wanted
        assert len(greedy(engine, prompt, 1000)) == engine.context - len(prompt)


def test_the_cache_survives_an_interruption(opened: Model) -> None:
    prompt = tokens_of(30)
    opened.reset()
    whole = greedy(opened, prompt, 40)
    opened.reset()
    stream = opened.generate_tokens(prompt, 40, Sampler(), ignore_end=True)
    begun = [next(stream) for _ in range(7)]
    stream.close()
    assert begun == whole[:7] and opened._cached == [*prompt, *begun[:-1]]
    other = tokens_of(30, seed=1)
    assert greedy(opened, other, 20) == greedy(opened, other, 20)  # over what ran ahead
    assert greedy(opened, [*prompt, *whole[:7]], 10) == whole[7:17]


def test_seeded_samples_repeat(opened: Model) -> None:
    prompt = tokens_of(10)

    def drawn(seed: int) -> list[int]:
        return list(opened.generate_tokens(prompt, 30, Sampler(1.2, 50, 0.9, seed), ignore_end=True))

    assert drawn(1) == drawn(1) != drawn(2)


def test_garbage_is_an_error(made: Made) -> None:
    with closing(model.load(made("tiny", "Q4_0"), "cuda:0")) as engine:
        engine.runner.decoder.model.output_norm.fill_(float("nan"))
        with pytest.raises(ModelError, match="not a finite number"):
            greedy(engine, tokens_of(5), 5)


def test_a_cache_that_does_not_fit_is_one_line(made: Made) -> None:
    config = ModelConfig.from_gguf(open_gguf(made("tiny", "Q4_0")))
    positions = torch.cuda.get_device_properties(0).total_memory // 64  # 64 bytes each, and four tensors of them
    with pytest.raises(ModelError, match=r"does not hold a KV cache of .*smaller --context") as caught:
        load._cache(config, positions, torch.device("cuda", 0))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_real_model_on_real_text(real_model: Path) -> None:
    with closing(model.load(real_model, "cuda:0")) as engine:
        tokens = engine.tokenizer.encode(TEXT.read_text())[:256]
        wanted = reference_logits(real_model, tokens)
        for stepwise in (True, False):
            top1, divergence = agreement(wanted, engine.logits(tokens, stepwise))
            print(f"stepwise={stepwise}: top-1 {top1:.3f}, KL {divergence:.2g} nats")
            assert top1 >= 0.97 and divergence <= 0.005


@pytest.mark.slow
def test_real_model_writes_the_cpu_s_text(real_model: Path) -> None:
    with closing(model.load(real_model)) as cpu, closing(model.load(real_model, "cuda:0")) as gpu:
        prompts = [cpu.tokenizer.encode(text) for text in PROMPTS]
        same = [greedy(cpu, prompt, 64) == greedy(gpu, prompt, 64) for prompt in prompts]
    print(f"the same text for {sum(same)} of {len(same)} prompts")
    assert sum(same) >= 8


@pytest.mark.slow
def test_qwen3_shape_with_large_k_norms(made: Made) -> None:
    path, tokens = made("qwen3-0.6b", "Q4_0"), tokens_of(48, 151936)
    wanted = reference_logits(path, tokens)
    with closing(model.load(path, "cuda:0", context=256)) as engine:
        for stepwise in (True, False):
            found = engine.logits(tokens, stepwise)
            top1, divergence = agreement(wanted, found)
            print(f"stepwise={stepwise}: {distance(found, wanted.numpy()):.2g}, top-1 {top1:.3f}, KL {divergence:.2g}")
            assert top1 >= 0.95 and divergence <= 0.005


class Eager(Watcher):
    """Proposes wherever there is a match, whatever it costs."""

    def proposals(self, match: int, most: int) -> int:
        return next((size for size in SIZES if size <= most), 0) if match else 0


@pytest.mark.parametrize("sampler", [Sampler(), *(Sampler(1.2, 4, 0.9, seed) for seed in range(4))])
def test_speculated_text_is_the_text(made: Made, sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """In F32, where a pass and a step differ too little to move a token of this model; both sampled by position."""
    prompt = [5, 6, 7, 8, 9] * 6
    with closing(model.load(made("tiny", "F32"), "cuda:0")) as engine:
        for watcher in (Eager(), Watcher()):
            monkeypatch.setattr(engine, "watcher", watcher)
            wanted = list(engine.generate_tokens(prompt, 120, sampler, ignore_end=True))
            for _ in range(3):  # the graphs of passes are captured in the first
                found = list(engine.generate_tokens(prompt, 120, sampler, ignore_end=True, speculate="ngram"))
                assert found == wanted
                assert engine._cached == [*prompt, *wanted][: len(engine._cached)]


def test_a_pass_chooses_what_steps_choose(made: Made) -> None:
    """`verify` of 2 to 8 tokens, greedy and sampled, at several positions."""
    with closing(model.load(made("tiny", "F32"), "cuda:0")) as engine:
        text = tokens_of(60, seed=3)
        for sampler in (Sampler(), Sampler(1.5, 8, 0.95, 7)):
            wanted = []
            for i, token in enumerate(text):
                engine.runner.feed([token], i)
                wanted += engine.runner.stream(i + 1, 1, sampler)
            for first, count in ((10, 2), (20, 4), (31, 8), (1, 3), (40, 5)):
                chosen = engine.runner.verify(text[first : first + count], first, sampler)
                assert chosen == wanted[first : first + count]


def test_a_reader_that_leaves_within_a_pass(made: Made) -> None:
    prompt = [5, 6, 7, 8, 9] * 6
    with closing(model.load(made("tiny", "F32"), "cuda:0")) as engine:
        engine.watcher = Eager()
        whole = greedy(engine, prompt, 60)
        for read in range(1, 50, 5):
            engine.reset()
            stream = engine.generate_tokens(prompt, 60, Sampler(), ignore_end=True, speculate="ngram")
            assert [next(stream) for _ in range(read)] == whole[:read]
            stream.close()
            assert engine._cached == [*prompt, *whole][: len(engine._cached)]
            assert greedy(engine, [*prompt, *whole[:20]], 20) == whole[20:40]
