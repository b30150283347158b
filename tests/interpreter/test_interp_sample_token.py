"""The end of a token, interpreted: picking, the embedding lookup, and sampling against the CPU's sampler."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from some_formats import few

from kernel_templates import formats
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.launch import INTERPRETED, Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.sample_token import cuda
from kernel_templates.sample_token.sampling import exponential
from model.sampling import Picker, Sampler

VOCAB, HIDDEN, PROGRAM = 300, 96, 256
DRAWS = 250


def embedding_of(name: str, hidden: int, vocab: int) -> Embedding:
    weights = torch.randn(vocab, hidden, generator=torch.Generator().manual_seed(hidden))
    return Embedding(formats.get(name).quantize(weights), name, hidden)


def buffers_for(logits: torch.Tensor, hidden: int, partials: int = 7) -> dict:
    """A chain's buffers as the head leaves them: NaN first, then the largest, then the smallest id."""
    parts = [p for p in torch.arange(logits.numel()).tensor_split(partials) if len(p)]
    best = [int(p[np.argmax(logits[p].numpy())]) for p in parts]
    return {
        "x": Vector.allocate(hidden, "cpu"),
        "logits": logits.float(),
        "best_value": logits[best].float(),
        "best_id": torch.tensor(best, dtype=torch.int32),
        "position": torch.tensor([5], dtype=torch.int32),
        "token": torch.tensor([-1], dtype=torch.int32),
        "history": torch.full((8,), -1, dtype=torch.int32),
        "status": torch.zeros(1, dtype=torch.int32),
    }


def run(launches: list[Launch]) -> None:
    for launch in launches:
        launch.run(INTERPRETED)


def same_vector(got: Vector, values: torch.Tensor, norm: torch.Tensor | None, activation: str = "int16") -> None:
    """Values to the bit; planes to one step, since a scale may be rounded in two ways."""
    want = Vector.allocate(got.size, "cpu")
    want.fill(values, norm, activation)
    assert torch.equal(got.values, values)
    torch.testing.assert_close(got.squares, want.squares)
    if activation != "float":
        torch.testing.assert_close(got.scale, want.scale)
        steps = want.scale.repeat_interleave(8)
        assert ((got.quantized(activation) - want.quantized(activation)).abs() <= 1.01 * steps).all()


@pytest.mark.parametrize("activation", ["int16", "int8"])
@pytest.mark.parametrize("name", few())
def test_embedding_is_decoded_to_the_bit(name, activation):
    hidden = max(HIDDEN, 3 * formats.get(name).block)
    embedding, norm = embedding_of(name, hidden, 11), torch.rand(hidden) + 0.5
    buffers = buffers_for(torch.randn(11), hidden)
    for token in (0, 10, 4):
        buffers["token"].fill_(token)
        run(cuda.launches_embed(buffers, embedding, norm, activation))
        same_vector(buffers["x"], formats.get(name).dequantize(embedding.raw[token]), norm, activation)
    assert buffers["position"].item() == 5 and (buffers["history"] == -1).all()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "F16"])
def test_a_scaled_embedding_is_rounded_once_more(name):
    """As Gemma multiplies: in float32, by sqrt(hidden) rounded to float32; the planes hold the scaled row."""
    hidden, scale = 640, 640**0.5
    plain, norm = embedding_of(name, hidden, 3), torch.rand(640) + 0.5
    embedding = Embedding(plain.raw, name, hidden, scale)
    buffers = buffers_for(torch.tensor([0.0, 1.0, 0.5]), hidden, 2)
    for launches in (cuda.launches_greedy(buffers, embedding, norm), cuda.launches_embed(buffers, embedding, norm)):
        run(launches)
        same_vector(buffers["x"], formats.get(name).dequantize(plain.raw[1]) * scale, norm)


def test_embedding_in_several_tiles(monkeypatch):
    monkeypatch.setattr("kernel_templates.cuda.embedding.TILE", 64)
    embedding = embedding_of("Q4_1", 160, 3)
    buffers = buffers_for(torch.tensor([0.0, 1.0, 0.5]), 160, 2)
    run(cuda.launches_greedy(buffers, embedding))
    same_vector(buffers["x"], formats.get("Q4_1").dequantize(embedding.raw[1]), None)


def test_float_consumers_need_no_planes():
    embedding = embedding_of("F32", HIDDEN, 3)
    buffers = buffers_for(torch.tensor([0.0, 1.0, 0.5]), HIDDEN)
    run(cuda.launches_greedy(buffers, embedding, torch.ones(HIDDEN), "float"))
    assert torch.equal(buffers["x"].values, embedding.raw[1].view(torch.float32))
    assert (buffers["x"].high == -86).all()


@pytest.mark.parametrize("partials", [1, 7, 300])
def test_greedy_takes_the_largest_and_the_smallest_of_equals(partials, monkeypatch):
    monkeypatch.setattr(cuda, "CHUNK", 64)  # so that 300 take several rounds
    embedding = embedding_of("Q8_0", HIDDEN, VOCAB)
    logits = torch.randn(VOCAB)
    logits[[77, 201, 299]] = 9.0
    buffers = buffers_for(logits, HIDDEN, partials)
    order = torch.randperm(buffers["best_value"].numel())  # nothing relies on the order of programs
    buffers["best_value"], buffers["best_id"] = buffers["best_value"][order], buffers["best_id"][order]
    run(cuda.launches_greedy(buffers, embedding))
    assert buffers["token"].item() == 77
    assert buffers["position"].item() == 6
    assert buffers["history"].tolist() == [-1] * 6 + [77, -1]
    assert buffers["status"].item() == 0
    same_vector(buffers["x"], formats.get("Q8_0").dequantize(embedding.raw[77]), None)


def test_greedy_with_negative_logits_and_signed_zeros():
    embedding = embedding_of("Q8_0", HIDDEN, 6)
    for logits, token in (([-3.0, -1.0, -2.0], 1), ([-5.0, -0.0, 0.0], 1), ([float("-inf"), -1e38, -2.0], 2)):
        buffers = buffers_for(torch.tensor(logits), HIDDEN, 3)
        run(cuda.launches_greedy(buffers, embedding))
        assert (buffers["token"].item(), buffers["status"].item()) == (token, 0)


def test_history_is_a_ring():
    buffers = buffers_for(torch.tensor([0.0, 1.0]), HIDDEN)
    buffers["position"].fill_(7)
    run(cuda.launches_greedy(buffers, embedding_of("F16", HIDDEN, 2)))
    assert buffers["history"].tolist() == [1] + [-1] * 7


BAD = [
    pytest.param(lambda x: x.index_fill_(0, torch.tensor([33]), float("nan")), id="nan"),
    pytest.param(lambda x: x.index_fill_(0, torch.tensor([33]), -float("nan")), id="negative nan"),
    pytest.param(lambda x: x.fill_(float("-inf")), id="nothing finite"),
    pytest.param(lambda x: x.index_fill_(0, torch.tensor([33]), float("inf")), id="inf"),
]


@pytest.mark.parametrize("spoil", BAD)
def test_bad_logits_are_reported_and_stay_in_bounds(spoil):
    embedding = embedding_of("Q4_0", HIDDEN, VOCAB)
    buffers = buffers_for(spoil(torch.randn(VOCAB)), HIDDEN)
    run(cuda.launches_greedy(buffers, embedding))
    assert (buffers["status"].item(), buffers["token"].item(), buffers["position"].item()) == (1, 0, 6)


class Sampling:
    """A chain that samples from logits [VOCAB], two programs wide."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.buffers = buffers_for(logits, 32)
        self.scratch = cuda.Scratch.allocate(logits.numel(), "cpu")
        self.launches = cuda.launches_sampling(self.buffers, embedding_of("F32", 32, logits.numel()), self.scratch)

    def draw(self, position: int = 5) -> int:
        self.buffers["position"].fill_(position)
        run(self.launches)
        return int(self.buffers["token"].item())

    def kept(self) -> set[int]:
        """Ids on the better side of the border that the last draw used."""
        logits = self.buffers["logits"].numpy()
        d = np.float32(logits.max()) - logits
        keys = np.minimum((d + np.float32(0.03125)).view(np.int32) - 0x3D000000, (1 << 27) - 1)
        return set(np.flatnonzero(keys <= self.scratch.state[16].item()).tolist())


@pytest.fixture
def small_programs(monkeypatch):
    monkeypatch.setattr(cuda, "SIZE", PROGRAM)


def distributions() -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(7)
    normal = 3 * torch.randn(VOCAB, generator=made)
    holes = normal.clone()
    holes[::3] = float("-inf")
    one = torch.full((VOCAB,), -50.0)
    one[123] = 10.0
    peaked = 0.1 * torch.randn(VOCAB, generator=made)
    peaked[5], peaked[6] = 60.0, 20.0
    return {
        "normal": normal,
        "narrow": 1e-3 * torch.randn(VOCAB, generator=made),
        "wide": 300 * torch.randn(VOCAB, generator=made),
        "shifted": normal - 500,
        "holes": holes,
        "one hot": one,
        "peaked": peaked,
        "flat": torch.full((VOCAB,), 2.5),
        "ties": (2 * torch.randn(VOCAB, generator=made)).round(),
    }


CUTS = ((40, 1.0), (0, 0.9), (40, 0.9), (299, 0.95), (2, 1.0))
EDGES = ((0, 1.0), (299, 1.0), (300, 1.0), (1000, 1.0), (0, 0.05), (0, 0.999), (3, 0.99))


FEW = ("normal", "ties", "holes")


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in distributions()])
def test_kept_tokens_are_those_of_the_cpu_sampler(name, small_programs):
    """The same set, and of tokens equal to the last one kept all of them."""
    sampling = Sampling(distributions()[name])
    logits = sampling.buffers["logits"].numpy()
    for top_k, top_p in CUTS + (EDGES if name == "normal" else ()):
        sampling.scratch.set(0.8, top_k, top_p, seed=3)
        token = sampling.draw()
        settings = Sampler(0.8, top_k, float(np.float32(top_p)), 3)
        want = Picker(settings)._candidates(logits)
        if name in ("flat", "ties", "one hot"):
            if top_k and top_k < VOCAB:  # the CPU cuts ties by id before it looks at top-p; here they all count
                level = np.sort(logits)[-top_k]
                all_tied = np.where(logits >= level, logits, -np.inf)
                want = Picker(Sampler(0.8, 0, settings.top_p, 3))._candidates(all_tied)
                want = want[logits[want] >= level]
            want = np.flatnonzero(logits >= logits[want].min())
        # A token of -inf is never drawn, kept or not.
        kept = {i for i in sampling.kept() if np.isfinite(logits[i])}
        assert kept == {int(i) for i in want if np.isfinite(logits[i])}, (top_k, top_p)
        assert token in kept and sampling.buffers["status"].item() == 0


def test_bins_are_empty_between_tokens(small_programs):
    sampling = Sampling(distributions()["normal"])
    for top_k, top_p in ((40, 0.9), (0, 0.9), (40, 1.0), (0, 1.0)):
        sampling.scratch.set(1.0, top_k, top_p)
        sampling.draw()
        assert not sampling.scratch.counts[:2048].any() and not sampling.scratch.masses[:2048].any()


@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, 0), (0.0, 40), (0.7, 1), (1e-35, 0)])
def test_no_temperature_or_one_token_is_greedy(temperature, top_k, small_programs):
    sampling = Sampling(distributions()["ties"])
    sampling.scratch.set(temperature, top_k, 0.5)
    assert sampling.draw() == int(sampling.buffers["logits"].argmax())


@pytest.mark.parametrize("settings", [(1.0, 0, 1.0), (1.0, 40, 0.9), (0.0, 0, 1.0)])
@pytest.mark.parametrize("spoil", BAD)
def test_bad_logits_are_reported_when_sampling(spoil, settings, small_programs):
    sampling = Sampling(spoil(torch.randn(VOCAB)))
    sampling.scratch.set(*settings)
    assert sampling.draw() == 0
    assert sampling.buffers["status"].item() == 1


def test_seed_and_position_decide(small_programs):
    sampling = Sampling(distributions()["narrow"])
    streams = []
    for seed in (1, 1, 2, 1 + (1 << 32)):
        sampling.scratch.set(1.0, 0, 1.0, seed)
        streams.append([sampling.draw(position) for position in range(3)])
    assert streams[0] == streams[1]
    assert len({tuple(s) for s in streams}) == 3
    assert len(set(streams[0])) > 1


@triton.jit
def exponentials(out, SIZE: tl.constexpr):
    """One draw for each of SIZE tokens at position program_id."""
    token = tl.arange(0, SIZE)
    low, high = tl.full([], 12345, tl.int32), tl.full([], -7, tl.int32)
    tl.store(out + tl.program_id(0) * SIZE + token, exponential(token, tl.program_id(0), low, high))


def test_noise_is_exponential():
    """65536 draws: all positive and apart; Kolmogorov-Smirnov at one in 10000; neighbours do not correlate."""
    drawn = torch.full((4, 1 << 14), float("nan"))
    exponentials[(4,)](drawn, SIZE=1 << 14)
    x = np.sort(drawn.numpy().astype(np.float64).ravel())
    assert np.isfinite(x).all() and x[0] > 0
    steps = np.arange(len(x) + 1) / len(x)
    below = 1 - np.exp(-x)
    assert max(np.abs(below - steps[1:]).max(), np.abs(below - steps[:-1]).max()) * len(x) ** 0.5 < 2.23
    u = 1 - torch.exp(-drawn)
    for a, b in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02
    # As many of the smallest, which win, as there ought to be: 8 bins below 1/64, where the series counts.
    counts = np.histogram(x, bins=np.linspace(0, 1 / 64, 9))[0]
    assert np.abs(counts - len(x) / 512).max() < 5 * (len(x) / 512) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.7, 150, 0.9)])
def test_draws_follow_the_distribution(temperature, top_k, top_p, monkeypatch):
    """Chi-square; the limit is passed by chance once in 10000, and the seed is fixed."""
    monkeypatch.setattr(cuda, "SIZE", 512)  # one program, so that its best is the token
    logits = 2 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(logits)
    sampling.scratch.set(temperature, top_k, top_p, seed=11)
    drawn = [sampling.draw(0)]
    for position in range(1, DRAWS):  # the border stays: only the draw runs again
        sampling.buffers["position"].fill_(position)
        run(sampling.launches[-2:-1])
        drawn.append(int(sampling.scratch.best_id.item()))
    kept = sorted(sampling.kept())
    weights = np.exp(logits.numpy()[kept].astype(np.float64) / temperature)
    assert_chi_square(drawn, kept, weights)


def assert_chi_square(drawn: list[int], ids: list[int], weights: np.ndarray) -> None:
    """The likeliest id first, as many together as make 10 expected draws."""
    counts = np.bincount(drawn, minlength=VOCAB)
    assert counts[ids].sum() == len(drawn)
    expected = weights / weights.sum() * len(drawn)
    seen, hoped = [0.0], [0.0]
    for place in np.argsort(-expected):
        if hoped[-1] >= 10:
            seen.append(0.0)
            hoped.append(0.0)
        seen[-1] += counts[ids[place]]
        hoped[-1] += expected[place]
    chi, free = sum((a - b) ** 2 / b for a, b in zip(seen, hoped, strict=True)), len(seen) - 1
    assert free >= 10
    # Wilson-Hilferty: (chi / free)^(1/3) is close to normal.
    z = ((chi / free) ** (1 / 3) - (1 - 2 / (9 * free))) / (2 / (9 * free)) ** 0.5
    assert abs(z) < 3.72, (chi, free)
