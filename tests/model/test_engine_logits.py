"""The engine against the judge: every format, both ways through the weights, and what the cache may not change.

The step rounds activations to 16 bits and stores K and V in float16: it was measured 0.0005 of the logits' norm off the
reference, 0.002 where a K-norm weight of 96.5 stands in front of the softmax. Prefill multiplies in bfloat16 where the
processor can (8 bits of mantissa, some twenty roundings a layer): 0.01 and 0.016. The bounds leave other processors'
summation orders a factor of three or more; a wrong format, row order or position gives more than 0.5.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from architecture_samples import TINY, by_norm
from some_formats import ALL_TRAITS

import model
from kernel_templates.formats import FORMATS
from model import engine
from model.gguf_file import open_gguf
from model.reference import reference_logits
from model.sampling import Sampler

NEAR = by_norm(2e-3, 1e-2)
MODELS = [("tiny", name) for name in ALL_TRAITS if FORMATS[name].block <= 32]
# Every format on the plainest architecture, every architecture in one format; in floats those whose kernels read them
# in ways of their own: layers of two kinds, a mixture with a shared expert, a gated delta net.
IN_FLOATS = ("tiny-gemma4", "tiny-qwen35moe")
MODELS += [(shape, "Q4_0") for shape in TINY if shape != "tiny"]
MODELS += [pytest.param(shape, "F32", marks=[] if shape in IN_FLOATS else [pytest.mark.slow]) for shape in [*TINY][1:]]
TEXT = Path(__file__).resolve().parents[2] / "autotune" / "precision" / "text.txt"


@contextmanager
def loaded(path: Path, **settings) -> Iterator[engine.Model]:
    opened = model.load(path, **settings)
    try:
        yield opened
    finally:
        opened.close()


def tokens_of(vocab: int, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """‖found - wanted‖ / ‖wanted‖."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def greedy(opened: engine.Model, prompt: list[int], count: int) -> list[int]:
    return list(opened.generate_tokens(prompt, count, Sampler()))


@pytest.mark.parametrize(("shape", "quant"), MODELS)
def test_both_paths_agree_with_the_reference(
    made: Callable[[str, str], Path], shape: str, quant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(shape, quant)
    with loaded(path) as opened:
        tokens = tokens_of(opened.config.vocab, 41)
        wanted = reference_logits(path, tokens).numpy()
        step = opened.logits(tokens, stepwise=True)
        whole = opened.logits(tokens)
        monkeypatch.setattr(opened.runner.forward, "most", 16)  # 41 tokens are two whole chunks and a part
        chunks = opened.logits(tokens)
    print(f"{shape} {quant}: step {distance(step, wanted):.2g}, prefill {distance(whole, wanted):.2g}")
    assert distance(step, wanted) < NEAR[shape]
    assert distance(whole, wanted) < NEAR[shape]
    assert distance(chunks, wanted) < NEAR[shape]


def test_k_norm_reaches_its_peak(tiny_qwen3: Path) -> None:
    """What the bounds of tiny-qwen3 stand for: the file really has the weight that once made gibberish elsewhere."""
    assert open_gguf(tiny_qwen3).raw("blk.0.attn_k_norm.weight").view(np.float32).max() == np.float32(96.5)


def test_decode_goes_on_after_prefill(tiny_qwen3: Path) -> None:
    with loaded(tiny_qwen3) as opened:
        tokens = tokens_of(opened.config.vocab, 30)
        wanted = reference_logits(tiny_qwen3, tokens).numpy()
        opened.logits(tokens[:20])
        rest = np.stack([opened.runner.decoder.step(token, 20 + i).copy() for i, token in enumerate(tokens[20:])])
    assert distance(rest, wanted[20:]) < NEAR["tiny-qwen3"]


def test_the_cache_changes_no_text(tiny_model: Path) -> None:
    with loaded(tiny_model) as opened, loaded(tiny_model) as fresh:
        prompt = tokens_of(opened.config.vocab, 24)
        first = greedy(opened, prompt, 12)
        assert greedy(opened, prompt, 12) == first  # all but the last token is kept
        longer = [*prompt, *first, *tokens_of(opened.config.vocab, 9, seed=1)]
        assert greedy(opened, longer, 12) == greedy(fresh, longer, 12)  # the conversation went on
        other = [*prompt[:10], *tokens_of(opened.config.vocab, 9, seed=2)]
        fresh.reset()
        assert greedy(opened, other, 12) == greedy(fresh, other, 12)  # it took another turn after ten tokens
        opened.reset()
        assert greedy(opened, prompt, 12) == first


def test_context_is_never_overrun(tiny_model: Path) -> None:
    with loaded(tiny_model, context=32) as opened:
        opened.tokenizer.end_tokens = frozenset()
        tokens = tokens_of(opened.config.vocab, 32)
        for call in (opened.logits, lambda t: greedy(opened, t, 1)):
            with pytest.raises(model.ModelError, match="32 tokens and the context holds 32; shorten it"):
                call(tokens)
            with pytest.raises(model.ModelError, match="empty"):
                call([])
            with pytest.raises(model.ModelError, match="outside the vocabulary"):
                call([opened.config.vocab])
        assert len(greedy(opened, tokens[:28], 100)) == 4  # stops where the cache is full
        assert len(greedy(opened, tokens[:31], 100)) == 1


@pytest.mark.slow
def test_real_model_on_real_text(real_model: Path) -> None:
    with loaded(real_model) as opened:
        tokens = opened.tokenizer.encode(TEXT.read_text())[:256]
        wanted = reference_logits(real_model, tokens).double().log_softmax(-1)
        for stepwise in (True, False):
            found = torch.from_numpy(opened.logits(tokens, stepwise)).double().log_softmax(-1)
            divergence = (wanted.exp() * (wanted - found)).sum(-1).mean().item()
            agreement = (wanted.argmax(-1) == found.argmax(-1)).double().mean().item()
            print(f"stepwise={stepwise}: top-1 {agreement:.3f}, KL {divergence:.2g} nats")
            assert len(tokens) == 256 and agreement >= 0.97 and divergence <= 0.005
